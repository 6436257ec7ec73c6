//! Files in a world (PROTOCOL 5.6): what they hold, what hosts do with them, and what must hold of them.
//!
//! A file's bytes follow from its id and size, so that one of any size costs no memory: hosts keep
//! ranges, and compare each byte as it comes.

mod deeds;
mod host;
mod oracle;

pub(crate) use deeds::{Deed, Reader};
pub use host::FileFaults;
pub(crate) use host::{Hosted, Reading, Stores};
pub use oracle::Files;

use clawchat_core::id::ChatId;

const fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a file's bytes follow from.
#[must_use]
pub fn seed(id: ChatId, size: u64) -> u64 {
    let (low, high) = id.0.split_at(8);
    let number = |part: &[u8]| part.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    mix(number(low) ^ mix(number(high) ^ mix(size)))
}

/// Eight bytes of a file.
const fn word(seed: u64, index: u64) -> [u8; 8] {
    mix(seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
}

/// The bytes of a file from `offset` on.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let inside = usize::try_from(offset % 8).unwrap_or(0);
    let (first, rest) = out.split_at_mut(out.len().min((8 - inside) % 8));
    first.copy_from_slice(&word(seed, offset / 8)[inside..][..first.len()]);
    let mut whole = rest.chunks_exact_mut(8);
    let mut next = offset.div_ceil(8);
    for part in &mut whole {
        part.copy_from_slice(&word(seed, next));
        next += 1;
    }
    let last = whole.into_remainder();
    last.copy_from_slice(&word(seed, next)[..last.len()]);
}

/// Whether these are a file's bytes from `offset` on.
#[must_use]
pub fn fits(seed: u64, offset: u64, bytes: &[u8]) -> bool {
    let mut right = [0; 1024];
    let mut at = offset;
    bytes.chunks(right.len()).all(|part| {
        let right = &mut right[..part.len()];
        fill(seed, at, right);
        at += part.len() as u64;
        right == part
    })
}

/// Stands for the SHA-256 of a file.
#[must_use]
pub fn sha256(id: ChatId, size: u64) -> [u8; 32] {
    let mut digest = [0; 32];
    fill(!seed(id, size), 0, &mut digest);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_however_it_is_read() {
        let seed = seed(ChatId([3; 16]), 1000);
        let mut whole = [0; 1000];
        fill(seed, 0, &mut whole);
        for (start, end) in [(0, 1), (7, 9), (8, 16), (13, 990), (999, 1000), (5, 5)] {
            let mut part = vec![0; end - start];
            fill(seed, start as u64, &mut part);
            assert_eq!(part, whole[start..end]);
            assert!(fits(seed, start as u64, &part));
        }
        assert!(!fits(seed, 1, &whole[..100]) && !fits(seed + 1, 0, &whole[..100]));
        assert_ne!(sha256(ChatId([3; 16]), 1000), sha256(ChatId([3; 16]), 1001));
    }
}
