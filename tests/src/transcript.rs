//! What happened in a world: a hash over all of it, and the last lines as text.

use core::fmt::Write as _;
use std::collections::VecDeque;

/// Hashes everything that happens; two runs of one seed must agree bit for bit.
#[derive(Clone, Debug)]
pub struct Transcript {
    hash: u64,
    lines: VecDeque<String>,
    kept: usize,
}

impl Transcript {
    /// An empty one, which keeps so many lines for the report of a failure.
    #[must_use]
    pub const fn new(kept: usize) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new(), kept }
    }

    /// Whether lines are written at all.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.kept > 0
    }

    /// Something happened at `at` microseconds.
    pub fn line(&mut self, at: u64, text: String) {
        self.bytes(&at.to_be_bytes());
        self.bytes(text.as_bytes());
        if self.lines.len() >= self.kept {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>11.6}  {text}", at as f64 / 1e6));
    }

    /// Bytes that belong to it.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if self.kept == 0 {
            return;
        }
        self.hash = digest(self.hash, bytes);
    }

    /// The hash over all so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// A 64-bit digest of bytes, good enough to tell honest histories apart.
#[must_use]
pub fn digest(start: u64, bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| {
        let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(start, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(mix(hash, u64::from_le_bytes(last)), bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_every_line_counts() {
        let hash = |lines: &[(u64, &str)]| {
            let mut transcript = Transcript::new(10);
            lines.iter().for_each(|(at, text)| transcript.line(*at, (*text).to_string()));
            transcript.hash()
        };
        let base = hash(&[(1, "one"), (2, "two")]);
        assert_eq!(base, hash(&[(1, "one"), (2, "two")]));
        for other in [
            hash(&[(1, "one")]),
            hash(&[(2, "two"), (1, "one")]),
            hash(&[(1, "one"), (3, "two")]),
            hash(&[(1, "one"), (2, "twp")]),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(digest(0, &[0; 8]), digest(0, &[0; 9]));
    }
}
