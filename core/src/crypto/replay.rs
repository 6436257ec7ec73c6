//! The replay window (PROTOCOL 3, opening step 4), after RFC 6479: a ring of words in which moving
//! forward clears whole words only.

use crate::limits::{REPLAY_WINDOW, SEQ_END};
use alloc::boxed::Box;

// One word more than the window, so that the word being entered can be cleared.
const WORDS: usize = REPLAY_WINDOW as usize / 64 + 1;

/// Which of the newest sequence numbers were seen.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    /// Highest number seen; 0 is before the first.
    highest: u64,
    /// `None` while there is no gap: all up to the highest were seen.
    seen: Option<Box<[u64; WORDS]>>,
}

impl ReplayWindow {
    /// Whether `seq` is of 1..2^62-1, not seen before and not older than the window.
    #[must_use]
    pub fn may_open(&self, seq: u64) -> bool {
        if !(1..SEQ_END).contains(&seq) {
            return false;
        }
        seq > self.highest
            || (self.highest - seq < REPLAY_WINDOW
                && self
                    .seen
                    .as_ref()
                    .is_some_and(|seen| seen[Self::word(seq)] >> (seq % 64) & 1 == 0))
    }

    /// Remembers `seq`, whose packet has opened. Never before that.
    pub fn opened(&mut self, seq: u64) {
        let (old, new) = (self.highest / 64, seq / 64);
        let seen = match &mut self.seen {
            None if seq == self.highest + 1 => {
                self.highest = seq;
                return;
            }
            Some(seen) => seen,
            // From the first gap on each number counts. Those above the highest are not looked at.
            none => none.insert(Box::new([u64::MAX; WORDS])),
        };
        if seq == self.highest + 1 && new == old {
            // In order, and within a word: what lies above the highest goes but for this one.
            let word = &mut seen[Self::word(seq)];
            *word = *word & (u64::MAX >> (63 - self.highest % 64)) | 1 << (seq % 64);
            self.highest = seq;
            return;
        }
        if self.highest < seq {
            // Of the word that the highest is in, what lies above it.
            seen[Self::word(self.highest)] &= u64::MAX >> (63 - self.highest % 64);
        }
        for word in (old + 1..=new).rev().take(WORDS) {
            seen[Self::word(word * 64)] = 0;
        }
        self.highest = self.highest.max(seq);
        seen[Self::word(seq)] |= 1 << (seq % 64);
    }

    /// Gives its room back if there is no gap (any more).
    pub fn rest(&mut self) {
        let Some(seen) = &self.seen else { return };
        let oldest = (self.highest + 1).saturating_sub(REPLAY_WINDOW).max(1);
        let is_seen = |seq: u64| seen[Self::word(seq)] >> (seq % 64) & 1 == 1;
        if (oldest..=self.highest).all(is_seen) {
            self.seen = None;
        }
    }

    /// The highest number opened; 0 when none was.
    #[cfg(test)]
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    fn word(seq: u64) -> usize {
        (seq / 64) as usize % WORDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;
    use quickcheck::quickcheck;

    quickcheck! {
        /// Against a model that remembers everything.
        fn once_and_not_too_old(steps: Vec<(u16, u8)>) -> bool {
            let (mut window, mut seen) = (ReplayWindow::default(), BTreeSet::new());
            steps.into_iter().all(|(step, how)| {
                let top = window.highest();
                let seq = match how % 4 {
                    0 => top + u64::from(step % 7),
                    1 => top + u64::from(step),
                    2 => top.saturating_sub(u64::from(step % 2500)),
                    _ => u64::from(step),
                };
                let fresh = seq > 0 && !seen.contains(&seq);
                let recent = seq > top || top - seq < REPLAY_WINDOW;
                let may = window.may_open(seq);
                if may {
                    window.opened(seq);
                    seen.insert(seq);
                }
                if how % 8 < 2 {
                    window.rest();
                }
                may == (fresh && recent) && !window.may_open(seq)
            })
        }
    }

    #[test]
    fn without_gaps_there_is_nothing_to_keep() {
        let mut window = ReplayWindow::default();
        for seq in [1, 2, 3, 5, 6] {
            window.opened(seq);
        }
        window.rest();
        assert!(window.may_open(4) && !window.may_open(3) && window.may_open(7));
        assert!(window.seen.is_some(), "4 is missing");
        window.opened(4);
        window.rest();
        assert!(window.seen.is_none() && !window.may_open(4) && !window.may_open(6));
        window.opened(100);
        assert!(window.may_open(7) && window.may_open(99) && !window.may_open(6));
        (7..100).chain(101..5000).for_each(|seq| window.opened(seq));
        window.rest();
        assert!(window.seen.is_none() && !window.may_open(4999) && window.may_open(5000));
    }

    #[test]
    fn edges() {
        let mut window = ReplayWindow::default();
        assert!(!window.may_open(0) && window.may_open(1) && !window.may_open(SEQ_END));
        window.opened(SEQ_END - 1);
        assert!(!window.may_open(SEQ_END - 1));
        assert!(window.may_open(SEQ_END - REPLAY_WINDOW));
        assert!(!window.may_open(SEQ_END - 1 - REPLAY_WINDOW));
    }
}
