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
const ACK_EVERY_AT_RATE: u16 = 10;
/// Bytes after which one goes out at a high rate: where packets are large, ACKs cost little.
const ACK_BYTES: usize = 16 * 1024;
/// Packets in a row, without a gap in their numbers, that make a high rate: by then the first windows of a
/// slow start, which need every ACK, are through.
const RATE_AFTER: u32 = 128;
/// Packets further apart are not of one row, and none but the first waits longer for its ACK.
const RATE_PAUSE: Duration = Duration::from_millis(1);
/// How often [`RATE_AFTER`] doubles at most: then no row is long enough.
const DOUBT_MAX: u8 = 20;
/// Packets at a high rate that take back one doubling.
const TRUST_AFTER: u32 = 1024;

/// The received sequence numbers of one direction.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    received: RangeSet,
    largest: u64,
    largest_at: Instant,
    /// Ack-eliciting packets since the last ACK went out.
    owed: u16,
    /// Times that a high rate ended in waiting: for more from its sender, whose window may be too small for
    /// sparse ACKs. Each doubles how long the next row must be.
    doubt: u8,
    /// Ack-eliciting packets in a row so far.
    row: u32,
    /// When an ACK must go out.
    due: Option<Instant>,
}

impl Acks {
    /// A packet of so many bytes opened. `eliciting`: its sender waits for an ACK; `at_once`: without delay.
    pub(crate) fn opened(
        &mut self,
        now: Instant,
        seq: u64,
        len: usize,
        eliciting: bool,
        at_once: bool,
    ) {
        let in_order = seq == self.largest + 1;
        if !in_order || now.since(self.largest_at) >= RATE_PAUSE {
            self.row = 0;
        }
        self.received.insert(seq..seq + 1);
        self.received.keep_last(ACK_RANGES);
        if seq > self.largest {
            (self.largest, self.largest_at) = (seq, now);
        }
        if eliciting {
            self.owed = self.owed.saturating_add(1);
            self.note_row();
            if self.due.is_some_and(|due| due <= now) {
                return;
            }
            let delay = match self.owed {
                _ if at_once || !in_order => Duration::ZERO,
                ..ACK_EVERY => MAX_ACK_DELAY,
                owed if self.is_enough(owed, len) => Duration::ZERO,
                _ => RATE_PAUSE,
            };
            let due = now + delay;
            self.due = Some(self.due.map_or(due, |old| old.min(due)));
        }
    }

    /// Another packet in a row.
    fn note_row(&mut self) {
        self.row = self.row.saturating_add(1);
        if self.doubt > 0 && self.row >= self.row_needed() + TRUST_AFTER {
            self.doubt -= 1;
            self.row = self.row_needed();
        }
    }

    const fn row_needed(&self) -> u32 {
        RATE_AFTER << self.doubt
    }

    const fn is_at_rate(&self) -> bool {
        self.row >= self.row_needed()
    }

    /// Whether an ACK goes out for so many packets, two at least, of so many bytes.
    const fn is_enough(&self, owed: u16, len: usize) -> bool {
        !self.is_at_rate()
            || owed >= ACK_EVERY_AT_RATE
            || len.saturating_mul(owed as usize) >= ACK_BYTES
    }

    /// Packets come by another path, whose rate is not known.
    pub(crate) const fn moved(&mut self) {
        (self.row, self.doubt) = (0, 0);
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
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;
    use core::ops::Range;

    #[test]
    fn when_to_acknowledge() {
        let at = Instant::from_micros;
        let mut acks = Acks::default();
        acks.opened(at(0), 1, 1200, false, false);
        assert_eq!(acks.due(), None);
        acks.opened(at(10), 2, 1200, true, false);
        assert_eq!(acks.due(), Some(at(25_010)));
        acks.opened(at(20), 3, 1200, true, false);
        assert_eq!(acks.due(), Some(at(20)));
        assert_eq!(acks.write(at(30), &mut Writer::new(&mut [0; 64])), Some(3));
        assert_eq!(acks.due(), None);
        acks.opened(at(40), 5, 1200, true, false);
        assert_eq!(acks.due(), Some(at(40)), "out of order");
        assert_eq!(acks.write(at(40), &mut Writer::new(&mut [0; 2])), None, "no room");
        assert_eq!(acks.due(), Some(at(40)));
    }

    /// Numbers of packets of so many bytes, so many microseconds apart, after which an ACK was due at once.
    fn said(acks: &mut Acks, numbers: Range<u64>, apart: u64, len: usize) -> Vec<u64> {
        let mut out = [0; 64];
        let due = |seq: &u64| {
            let now = Instant::from_micros(seq * apart);
            acks.opened(now, *seq, len, true, false);
            let due = acks.due().is_some_and(|due| due <= now);
            due && acks.write(now, &mut Writer::new(&mut out)).is_some()
        };
        numbers.filter(due).collect()
    }

    #[test]
    fn at_a_high_rate_they_are_sparser() {
        let mut acks = Acks::default();
        let first = said(&mut acks, 1..128, 10, 1434);
        assert!(first.into_iter().eq((2..128).step_by(2)), "a slow start has every one");
        let next = said(&mut acks, 128..190, 10, 1434);
        assert_eq!(next, [136, 146, 156, 166, 176, 186]);
        assert_eq!(acks.due(), Some(Instant::from_micros(1880) + RATE_PAUSE));
        // One is missing: at once, and each second one from then on.
        assert_eq!(said(&mut acks, 191..200, 10, 1434), [191, 193, 195, 197, 199]);
        // Large ones are acknowledged one by two.
        assert_eq!(said(&mut acks, 200..500, 10, 9000).len(), 150);
    }

    #[test]
    fn slow_ones_are_no_high_rate() {
        let mut acks = Acks::default();
        let said = said(&mut acks, 1..400, 1000, 1200);
        assert!(said.into_iter().eq((2..400).step_by(2)));
    }

    #[test]
    fn a_row_is_of_packets_that_ask_for_an_ack() {
        let mut acks = Acks::default();
        for seq in 1..1000 {
            acks.opened(Instant::from_micros(seq * 10), seq, 64, false, false);
        }
        assert_eq!(said(&mut acks, 1000..1007, 10, 1200), [1001, 1003, 1005]);
    }

    #[test]
    fn another_path_begins_anew() {
        let mut acks = Acks::default();
        said(&mut acks, 1..500, 10, 1200);
        assert!(acks.is_at_rate());
        acks.moved();
        assert!(!acks.is_at_rate());
    }

    #[test]
    fn the_second_of_a_row_that_ends_waits_a_millisecond() {
        let mut acks = Acks::default();
        said(&mut acks, 1..138, 10, 1200);
        assert_eq!(acks.due(), Some(Instant::from_micros(1370) + MAX_ACK_DELAY), "one alone");
        let now = Instant::from_micros(1380);
        acks.opened(now, 138, 1200, true, false);
        assert_eq!(acks.due(), Some(now + RATE_PAUSE));
        acks.opened(now, 139, 1200, true, true);
        assert_eq!(acks.due(), Some(now), "a ping is answered at once");
    }

    /// How long a sender takes that may have so many packets under way, which need a microsecond each, while
    /// an ACK needs 50.
    fn takes(window: u64, acks: &mut Acks) -> Duration {
        let micros = Duration::from_micros;
        let (mut now, mut out) = (Instant::ZERO + RATE_PAUSE, [0; 64]);
        let (mut sent, mut acked, mut back) = (0, 0, VecDeque::new());
        let began = now;
        while acked < 100_000 {
            if sent < acked + window {
                (now, sent) = (now + micros(1), sent + 1);
                acks.opened(now, sent, 1200, true, false);
            } else {
                let arrives = back.front().map(|(at, _)| *at);
                now = arrives.into_iter().chain(acks.due()).min().unwrap().max(now);
            }
            while let Some((at, seq)) = back.front().copied().filter(|(at, _)| *at <= now) {
                let _: Instant = at;
                acked = seq;
                back.pop_front();
            }
            if acks.due().is_some_and(|due| due <= now)
                && acks.write(now, &mut Writer::new(&mut out)).is_some()
            {
                back.push_back((now + micros(50), sent));
            }
        }
        now.since(began)
    }

    /// Over no distance, where an ACK that waits for ten packets costs most. What can send fewer than ten is
    /// found out; what can't send twice as many waits for a part of each round, until its window has grown.
    #[test]
    fn small_windows_are_not_kept_waiting() {
        for window in (2..24).chain([31, 32, 33, 63, 64, 1000]) {
            let mut dense = Acks { doubt: DOUBT_MAX, ..Acks::default() };
            let (dense, sparse) = (takes(window, &mut dense), takes(window, &mut Acks::default()));
            let percent = sparse.as_micros() * 100 / dense.as_micros();
            let most = match window {
                ..10 | 60.. => 102,
                10..20 => 180,
                _ => 125,
            };
            assert!(percent <= most, "a window of {window}: {percent} % of {dense:?}");
        }
    }

    #[test]
    fn a_pause_now_and_then_is_forgiven() {
        let mut acks = Acks::default();
        let mut out = [0; 64];
        for row in 0..20 {
            let start = 1_000_000 * row;
            for seq in 1..=5008 {
                let now = Instant::from_micros(start + seq);
                acks.opened(now, 5008 * row + seq, 1200, true, false);
                if acks.due().is_some_and(|due| due <= now) {
                    acks.write(now, &mut Writer::new(&mut out));
                }
            }
            assert!(acks.is_at_rate() && acks.doubt == 0, "{} after row {row}", acks.doubt);
            let late = acks.due().unwrap();
            acks.write(late, &mut Writer::new(&mut out));
            assert_eq!(acks.doubt, 1);
        }
    }
}
