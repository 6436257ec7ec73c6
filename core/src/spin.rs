//! Whether a driver that waits for an answer spins or sleeps.
//!
//! To fall asleep and to be woken takes some 10 µs, most of a round trip over the loopback. So a driver
//! whose last answers came that soon looks for the next one for a moment before it sleeps, as a mutex does
//! (adaptive spinning). Whatever comes counts as an answer, whoever sent it: so it takes several in a row,
//! and one that stays away ends it. Over a network they do not come that soon, unless so many peers talk at
//! once that nobody would sleep anyway; and bulk does not wait for answers.

use core::time::Duration;

/// The longest that it spins, and the most that an answer may take for the next one to be worth it.
pub const SPIN: Duration = Duration::from_micros(50);
/// Who sends or receives more than so many bytes between two waits does bulk.
const LITTLE: usize = 2048;
/// Answers in a row that must have come soon: to spin in vain costs no more than they did together.
const IN_A_ROW: u8 = 8;

/// Remembers how soon answers come.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdaptiveSpin {
    /// Answers in a row that came soon.
    near: u8,
}

impl AdaptiveSpin {
    /// Whether to spin, for at most [`SPIN`], when `sent` bytes have been sent since the last wait and there
    /// is nothing else to do.
    #[must_use]
    pub const fn is_worth_it(&self, sent: usize) -> bool {
        self.near >= IN_A_ROW && sent > 0 && sent <= LITTLE
    }

    /// `sent` bytes had been sent since the wait before, and after a wait of `gap`, asleep or not,
    /// `received` bytes came; none when it was in vain.
    pub fn learn(&mut self, sent: usize, gap: Duration, received: usize) {
        let answer = sent > 0 && received > 0 && sent.saturating_add(received) <= LITTLE;
        self.near = if answer && gap <= SPIN { self.near.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(12);

    #[test]
    fn spins_once_answers_come_soon() {
        let mut spin = AdaptiveSpin::default();
        for _ in 0..IN_A_ROW {
            assert!(!spin.is_worth_it(100));
            spin.learn(100, SOON, 100);
        }
        assert!(spin.is_worth_it(100));
        assert!(!spin.is_worth_it(0), "nothing was sent that could be answered");
        assert!(!spin.is_worth_it(LITTLE + 1));
        (0..300).for_each(|_| spin.learn(100, SOON, 100));
        assert!(spin.is_worth_it(100));
    }

    #[test]
    fn one_that_is_no_near_answer_ends_it() {
        let goes_on = |sent, gap, received| {
            let mut spin = AdaptiveSpin { near: IN_A_ROW };
            spin.learn(sent, gap, received);
            spin.is_worth_it(100)
        };
        assert!(goes_on(100, SPIN, 100));
        assert!(!goes_on(100, SPIN + Duration::from_micros(1), 100), "a network");
        assert!(!goes_on(0, SOON, 100), "a stranger, who was told nothing");
        assert!(!goes_on(100, SOON, 0), "in vain");
        assert!(!goes_on(1400, SOON, 1400), "bulk");
        assert!(!goes_on(usize::MAX, SOON, 1));
    }

    /// Pairs that come close together, with pauses between them, are no answers.
    #[test]
    fn pairs_do_not_make_it_spin() {
        let mut spin = AdaptiveSpin::default();
        for _ in 0..100 {
            spin.learn(64, Duration::from_millis(1), 64);
            spin.learn(64, SOON, 64);
            assert!(!spin.is_worth_it(64));
        }
    }
}
