//! What was received, and when to say so (PROTOCOL 4.2).

use crate::limits::ACK_RANGES;
use crate::ranges::RangeSet;
use crate::time::{Duration, Instant};
use crate::wire::cursor::Writer;
use crate::wire::frame::write_ack;

/// Longest that an acknowledgement is held back (RFC 9000 `max_ack_delay`).
pub(crate) const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
/// Ack-eliciting packets after which one goes out.
const ACK_EVERY: u16 = 2;
/// The same at a high rate, which PROTOCOL 4.2 lets be sparser: an ACK costs both sides a datagram.
const ACK_EVERY_AT_RATE: u16 = 32;
/// Packets in a row, without a gap in their numbers, that make a high rate: by then the first windows of a
/// slow start, which need every ACK, are through.
const RATE_AFTER: u32 = 128;
/// How often that doubles at most.
const DOUBT_MAX: u8 = 5;
/// Packets further apart are not of one row, and no second packet waits longer for its ACK: with the
/// granularity of RFC 9002's timers, its sender can't tell the difference.
const RATE_PAUSE: Duration = Duration::from_millis(1);

/// The received sequence numbers of one direction.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    received: RangeSet,
    largest: u64,
    largest_at: Instant,
    /// Ack-eliciting packets since the last ACK went out.
    owed: u16,
    /// Rows at a high rate that ended in waiting for an ACK: their sender's window may be smaller than what
    /// we wait for. Each doubles how long the next row must be.
    doubt: u8,
    /// Packets in a row at a high rate so far.
    row: u32,
    /// When an ACK must go out.
    due: Option<Instant>,
}

impl Acks {
    /// A packet opened. `eliciting`: its sender waits for an ACK; `at_once`: without delay.
    pub(crate) fn opened(&mut self, now: Instant, seq: u64, eliciting: bool, at_once: bool) {
        let in_order = seq == self.largest + 1;
        let goes_on = in_order && now.since(self.largest_at) < RATE_PAUSE;
        self.row = if goes_on { self.row.saturating_add(1) } else { 0 };
        self.received.insert(seq..seq + 1);
        self.received.keep_last(ACK_RANGES);
        if seq > self.largest {
            (self.largest, self.largest_at) = (seq, now);
        }
        if eliciting {
            self.owed = self.owed.saturating_add(1);
            let every = if self.is_at_rate() { ACK_EVERY_AT_RATE } else { ACK_EVERY };
            let delay = match self.owed {
                _ if at_once || !in_order => Duration::ZERO,
                owed if owed >= every => Duration::ZERO,
                owed if owed >= ACK_EVERY => RATE_PAUSE,
                _ => MAX_ACK_DELAY,
            };
            let due = now + delay;
            self.due = Some(self.due.map_or(due, |old| old.min(due)));
        }
    }

    const fn is_at_rate(&self) -> bool {
        self.row >= RATE_AFTER << self.doubt
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
        let due = self.due?;
        let delay = u64::try_from(now.since(self.largest_at).as_micros()).unwrap_or(u64::MAX >> 2);
        let ranges = self.received.iter().rev().map(|range| range.start..=range.end - 1);
        if !write_ack(out, delay, ranges) {
            return None;
        }
        // Time has run out, not a packet come.
        if due <= now && due > self.largest_at && self.owed >= ACK_EVERY && self.is_at_rate() {
            (self.row, self.doubt) = (0, DOUBT_MAX.min(self.doubt + 1));
        }
        (self.owed, self.due) = (0, None);
        Some(self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

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

    /// Numbers of packets after which an ACK was due at once, of packets so many microseconds apart.
    fn acknowledged(acks: &mut Acks, numbers: core::ops::Range<u64>, apart: u64) -> Vec<u64> {
        let mut out = [0; 64];
        let due = |seq: &u64| {
            let now = Instant::from_micros(seq * apart);
            acks.opened(now, *seq, true, false);
            let due = acks.due().is_some_and(|due| due <= now);
            due && acks.write(now, &mut Writer::new(&mut out)).is_some()
        };
        numbers.filter(due).collect()
    }

    #[test]
    fn at_a_high_rate_they_are_sparser() {
        let mut acks = Acks::default();
        let said = acknowledged(&mut acks, 1..300, 10);
        assert_eq!(said[..3], [2, 4, 6], "a slow start has every one");
        assert_eq!(
            said.iter().copied().filter(|seq| *seq > 140).collect::<Vec<_>>(),
            [158, 190, 222, 254, 286]
        );
        assert_eq!(acks.due(), Some(Instant::from_micros(2880) + RATE_PAUSE));
        // One is missing: at once, and each second one from then on.
        let said = acknowledged(&mut acks, 301..310, 10);
        assert_eq!(said, [301, 303, 305, 307, 309]);
    }

    /// A sender whose window is smaller than what a high rate waits for: it hardly waits.
    #[test]
    fn a_small_window_is_not_kept_waiting() {
        const WINDOW: u64 = 10;
        const RTT: u64 = 50;
        let (mut acks, mut out) = (Acks::default(), [0; 64]);
        let (mut now, mut acked, mut sent) = (Instant::ZERO + RATE_PAUSE, 0, 0);
        let (began, packets) = (now, 100_000);
        while sent < packets {
            if sent < acked + WINDOW {
                sent += 1;
                acks.opened(now, sent, true, false);
            } else {
                now = acks.due().unwrap().max(now);
            }
            if acks.due().unwrap() <= now && acks.write(now, &mut Writer::new(&mut out)).is_some() {
                acked = sent;
                now = now + Duration::from_micros(RTT);
            }
        }
        let dense = Duration::from_micros(packets / u64::from(ACK_EVERY) * RTT);
        assert!(now.since(began) < dense * 21 / 20, "{:?} of {dense:?}", now.since(began));
    }

    #[test]
    fn slow_ones_are_no_high_rate() {
        let mut acks = Acks::default();
        let said = acknowledged(&mut acks, 1..400, 1000);
        assert!(said.iter().copied().eq((2..400).step_by(2)), "{said:?}");
    }

    #[test]
    fn the_second_of_a_row_that_ends_waits_a_millisecond() {
        let mut acks = Acks::default();
        acknowledged(&mut acks, 1..288, 10);
        assert_eq!(acks.due(), Some(Instant::from_micros(2870) + MAX_ACK_DELAY), "one alone");
        let now = Instant::from_micros(2880);
        acks.opened(now, 288, true, false);
        assert_eq!(acks.due(), Some(now + RATE_PAUSE));
        acks.opened(now, 289, true, true);
        assert_eq!(acks.due(), Some(now), "a ping is answered at once");
    }
}
