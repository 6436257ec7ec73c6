//! What was received, and when to say so (PROTOCOL 4.2).

use crate::limits::ACK_RANGES;
use crate::ranges::RangeSet;
use crate::time::{Duration, Instant};
use crate::wire::cursor::Writer;
use crate::wire::frame::write_ack;

/// Longest that an acknowledgement is held back (RFC 9000 `max_ack_delay`).
pub(crate) const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
/// Ack-eliciting packets after which one goes out.
const ACK_EVERY: u32 = 2;

/// The received sequence numbers of one direction.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    received: RangeSet,
    largest: u64,
    largest_at: Instant,
    /// Ack-eliciting packets since the last ACK went out.
    owed: u32,
    /// When an ACK must go out.
    due: Option<Instant>,
}

impl Acks {
    /// A packet opened. `eliciting`: its sender waits for an ACK; `at_once`: without delay.
    pub(crate) fn opened(&mut self, now: Instant, seq: u64, eliciting: bool, at_once: bool) {
        let in_order = seq == self.largest + 1;
        self.received.insert(seq..seq + 1);
        self.received.keep_last(ACK_RANGES);
        if seq > self.largest {
            (self.largest, self.largest_at) = (seq, now);
        }
        if eliciting {
            self.owed += 1;
            let late = at_once || !in_order || self.owed >= ACK_EVERY;
            let due = if late { now } else { now + MAX_ACK_DELAY };
            self.due = Some(self.due.map_or(due, |old| old.min(due)));
        }
    }

    /// Forgets what the peer knows to be acknowledged, up to `largest`.
    pub(crate) fn acknowledged(&mut self, largest: u64) {
        self.received.remove(0..largest.min(self.largest));
    }

    /// Gives back room that is not needed now.
    pub(crate) fn rest(&mut self) {
        self.received.shrink();
    }

    /// When an ACK must go out.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes an ACK if one is owed; the largest number it covers.
    pub(crate) fn write(&mut self, now: Instant, out: &mut Writer<'_>) -> Option<u64> {
        self.due?;
        let delay = u64::try_from(now.since(self.largest_at).as_micros()).unwrap_or(u64::MAX >> 2);
        let ranges = self.received.iter().rev().map(|range| range.start..=range.end - 1);
        if !write_ack(out, delay, ranges) {
            return None;
        }
        (self.owed, self.due) = (0, None);
        Some(self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_acknowledge() {
        let at = Instant::from_micros;
        let mut acks = Acks::default();
        acks.opened(at(0), 1, false, false);
        assert_eq!(acks.due(), None);
        acks.opened(at(10), 2, true, false);
        assert_eq!(acks.due(), Some(at(25_010)));
        acks.opened(at(20), 3, true, false);
        assert_eq!(acks.due(), Some(at(20)));
        assert_eq!(acks.write(at(30), &mut Writer::new(&mut [0; 64])), Some(3));
        assert_eq!(acks.due(), None);
        acks.opened(at(40), 5, true, false);
        assert_eq!(acks.due(), Some(at(40)), "out of order");
        assert_eq!(acks.write(at(40), &mut Writer::new(&mut [0; 2])), None, "no room");
        assert_eq!(acks.due(), Some(at(40)));
    }
}
