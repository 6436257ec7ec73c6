//! Whether a driver that waits for an answer spins or sleeps.
//!
//! To fall asleep and to be woken takes some 10 µs, most of a round trip over the loopback. So a driver
//! whose last answer came that soon looks for the next one for a moment before it sleeps, as a mutex does
//! (adaptive spinning). Where an answer takes longer, which is over any network, it never spins, nor does
//! it for a stranger, who gets no answer, or for bulk, which waits for room and not for an answer.

use core::time::Duration;

/// The longest that it spins, and the most that an answer may take for the next one to be worth it.
pub const SPIN: Duration = Duration::from_micros(50);
/// Who sends or receives more than so many bytes between two waits does bulk.
const LITTLE: usize = 2048;

/// Remembers how soon answers come.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdaptiveSpin {
    /// The last answer came soon.
    near: bool,
}

impl AdaptiveSpin {
    /// Whether to spin, for at most [`SPIN`], when `sent` bytes have been sent since the last wait and there
    /// is nothing else to do.
    #[must_use]
    pub const fn is_worth_it(&self, sent: usize) -> bool {
        self.near && sent > 0 && sent <= LITTLE
    }

    /// `sent` bytes had been sent since the wait before, and after a wait of `gap`, asleep or not,
    /// `received` bytes came; none when it was in vain.
    pub fn learn(&mut self, sent: usize, gap: Duration, received: usize) {
        let answer = sent > 0 && received > 0 && sent.saturating_add(received) <= LITTLE;
        self.near = answer && gap <= SPIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(12);

    #[test]
    fn spins_once_an_answer_came_soon() {
        let mut spin = AdaptiveSpin::default();
        assert!(!spin.is_worth_it(100));
        spin.learn(100, SOON, 100);
        assert!(spin.is_worth_it(100));
        assert!(!spin.is_worth_it(0), "nothing was sent that could be answered");
        assert!(!spin.is_worth_it(LITTLE + 1));
    }

    #[test]
    fn no_spinning_over_networks_for_strangers_or_for_bulk() {
        let soon = |sent, gap, received| {
            let mut spin = AdaptiveSpin { near: true };
            spin.learn(sent, gap, received);
            spin.is_worth_it(100)
        };
        assert!(soon(100, SPIN, 100));
        assert!(!soon(100, SPIN + Duration::from_micros(1), 100), "a network");
        assert!(!soon(0, SOON, 100), "a stranger, who was told nothing");
        assert!(!soon(100, SOON, 0), "in vain");
        assert!(!soon(1400, SOON, 1400), "bulk");
        assert!(!soon(usize::MAX, SOON, 1));
    }
}
