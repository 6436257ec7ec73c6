//! RTT, loss detection and probe timeouts (RFC 9002 with its constants, PROTOCOL 4.2), over the one
//! sequence-number space of a direction.

use super::ack::MAX_ACK_DELAY;
use super::congestion::{Controller, NewReno};
use crate::error::Violation;
use crate::limits::ACK_RANGES;
use crate::ranges::RangeSet;
use crate::time::{Duration, Instant};
use crate::wire::frame::Ack;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

const PACKET_THRESHOLD: u64 = 3;
const GRANULARITY: Duration = Duration::from_millis(1);
const INITIAL_RTT: Duration = Duration::from_millis(333);
/// PTOs of silence that make congestion persistent (RFC 9002 §7.6.1).
const PERSISTENT_THRESHOLD: u32 = 3;
/// Back-off stops doubling here; the idle timeout ends it all.
const BACKOFF_MAX: u32 = 6;

/// RTT estimate (RFC 9002 §5).
#[derive(Debug)]
pub(crate) struct Rtt {
    latest: Duration,
    smoothed: Duration,
    variation: Duration,
    min: Option<Duration>,
}

impl Default for Rtt {
    fn default() -> Self {
        Self { latest: INITIAL_RTT, smoothed: INITIAL_RTT, variation: INITIAL_RTT / 2, min: None }
    }
}

impl Rtt {
    fn sample(&mut self, latest: Duration, ack_delay: Duration) {
        self.latest = latest;
        let Some(min) = self.min else {
            (self.min, self.smoothed, self.variation) = (Some(latest), latest, latest / 2);
            return;
        };
        let min = min.min(latest);
        self.min = Some(min);
        let delay = ack_delay.min(MAX_ACK_DELAY);
        let adjusted = if latest >= min + delay { latest - delay } else { latest };
        self.variation = (self.variation * 3 + self.smoothed.abs_diff(adjusted)) / 4;
        self.smoothed = (self.smoothed * 7 + adjusted) / 8;
    }

    /// The probe timeout without back-off.
    pub(crate) fn pto(&self) -> Duration {
        self.smoothed + (self.variation * 4).max(GRANULARITY) + MAX_ACK_DELAY
    }

    /// The smoothed RTT, once there was a sample.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.min.map(|_| self.smoothed)
    }

    fn loss_delay(&self) -> Duration {
        (self.latest.max(self.smoothed) * 9 / 8).max(GRANULARITY)
    }
}

/// An ack-eliciting packet in flight.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) seq: u64,
    pub(crate) at: Instant,
    pub(crate) size: u64,
    /// Fragments of messages it carried: message id and bytes.
    pub(crate) fragments: Vec<(u64, Range<u64>)>,
    /// Largest number that an ACK in it covered.
    pub(crate) acked: Option<u64>,
}

/// What became of packets in flight.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) acked: Vec<Sent>,
    pub(crate) lost: Vec<Sent>,
}

/// What is in flight, and when to worry about it.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) rtt: Rtt,
    controller: Box<dyn Controller>,
    in_flight: VecDeque<Sent>,
    bytes_in_flight: u64,
    largest_acked: u64,
    /// Numbers acknowledged lately: what lies between two of them was not lost throughout.
    acked: RangeSet,
    /// When there first was an RTT sample; nothing before counts as persistent congestion.
    first_sample: Option<Instant>,
    /// When the earliest packet is lost by time.
    loss_time: Option<Instant>,
    last_eliciting: Instant,
    pto_count: u32,
    /// Probes that may go out beside the window.
    pub(crate) probes: u32,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            rtt: Rtt::default(),
            controller: Box::new(NewReno::default()),
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            largest_acked: 0,
            acked: RangeSet::new(),
            first_sample: None,
            loss_time: None,
            last_eliciting: Instant::ZERO,
            pto_count: 0,
            probes: 0,
        }
    }
}

impl Recovery {
    /// Whether the window lets another `bytes` out.
    pub(crate) fn may_send(&self, bytes: u64) -> bool {
        self.probes > 0 || self.bytes_in_flight + bytes <= self.controller.window()
    }

    /// An ack-eliciting packet was sealed.
    pub(crate) fn sent(&mut self, packet: Sent) {
        self.last_eliciting = packet.at;
        self.bytes_in_flight += packet.size;
        self.probes = self.probes.saturating_sub(1);
        self.in_flight.push_back(packet);
    }

    /// Fragments of the oldest packets in flight, to send again in a probe.
    pub(crate) fn oldest_fragments(&self) -> impl Iterator<Item = &(u64, Range<u64>)> {
        self.in_flight.iter().flat_map(|sent| &sent.fragments).take(1)
    }

    /// Takes an ACK; `next` is the first number not yet used. Walks what is in flight, never the
    /// numbers that a peer names.
    pub(crate) fn on_ack(
        &mut self,
        now: Instant,
        ack: &Ack<'_>,
        next: u64,
    ) -> Result<Settled, Violation> {
        if ack.largest >= next || ack.smallest() == 0 {
            return Err(Violation::AckUnsent);
        }
        let mut settled = Settled::default();
        let limited = self.bytes_in_flight * 2 >= self.controller.window();
        let mut ranges = ack.ranges();
        let mut range = ranges.next();
        // From the newest down, as the ranges are.
        let mut index = self.in_flight.len();
        while index > 0 {
            index -= 1;
            let seq = self.in_flight[index].seq;
            while range.as_ref().is_some_and(|r| seq < *r.start()) {
                range = ranges.next();
            }
            let Some(r) = &range else { break };
            if r.contains(&seq) {
                settled.acked.extend(self.in_flight.remove(index));
            }
        }
        self.largest_acked = self.largest_acked.max(ack.largest);
        if let Some(newest) = settled.acked.first() {
            if newest.seq == ack.largest {
                let delay = Duration::from_micros(ack.delay_us);
                self.rtt.sample(now.since(newest.at), delay);
                self.first_sample.get_or_insert(now);
            }
            self.pto_count = 0;
            self.probes = 0;
        }
        for sent in &settled.acked {
            self.acked.insert(sent.seq..sent.seq + 1);
            self.bytes_in_flight -= sent.size;
            if limited {
                self.controller.acked(sent.size, sent.at);
            }
        }
        self.acked.keep_last(ACK_RANGES);
        self.detect_lost(now, &mut settled);
        Ok(settled)
    }

    fn detect_lost(&mut self, now: Instant, settled: &mut Settled) {
        self.loss_time = None;
        let delay = self.rtt.loss_delay();
        let mut index = 0;
        while let Some(sent) = self.in_flight.get(index) {
            if sent.seq >= self.largest_acked {
                break;
            }
            let by_number = self.largest_acked - sent.seq >= PACKET_THRESHOLD;
            if !by_number && sent.at + delay > now {
                let at = sent.at + delay;
                self.loss_time = Some(self.loss_time.map_or(at, |old| old.min(at)));
                index += 1;
                continue;
            }
            let Some(sent) = self.in_flight.remove(index) else { break };
            self.bytes_in_flight -= sent.size;
            self.controller.lost(now, sent.at);
            settled.lost.push(sent);
        }
        if self.is_persistent(&settled.lost) {
            self.controller.collapsed();
        }
    }

    /// RFC 9002 §7.6.2.
    fn is_persistent(&self, lost: &[Sent]) -> bool {
        let Some(sample) = self.first_sample else { return false };
        let mut lost = lost.iter().filter(|sent| sent.at > sample);
        let Some(first) = lost.next() else { return false };
        let last = lost.next_back().unwrap_or(first);
        let acked_between =
            self.acked.iter().any(|range| range.start < last.seq && range.end > first.seq);
        !acked_between && last.at.since(first.at) > self.rtt.pto() * PERSISTENT_THRESHOLD
    }

    /// The next deadline: loss by time, else a probe.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.loss_time.or_else(|| {
            let backoff = 1 << self.pto_count.min(BACKOFF_MAX);
            (!self.in_flight.is_empty()).then(|| self.last_eliciting + self.rtt.pto() * backoff)
        })
    }

    /// The deadline has come: packets lost by time, or probes to send.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> Settled {
        let mut settled = Settled::default();
        if self.deadline().is_none_or(|at| at > now) {
            return settled;
        }
        if self.loss_time.is_some() {
            self.detect_lost(now, &mut settled);
        } else {
            self.pto_count += 1;
            self.probes = 2;
            // Else the deadline would stand in the past until the probe is polled.
            self.last_eliciting = now;
        }
        settled
    }

    /// The path is another one: RTT and congestion state start anew (PROTOCOL 6).
    pub(crate) fn reset_path(&mut self) {
        self.rtt = Rtt::default();
        self.controller = Box::new(NewReno::default());
        self.first_sample = None;
        self.pto_count = 0;
    }

    /// Probe timeouts since the last acknowledgement.
    pub(crate) const fn pto_count(&self) -> u32 {
        self.pto_count
    }

    #[cfg(test)]
    pub(crate) fn bytes_in_flight(&self) -> u64 {
        self.bytes_in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::cursor::Writer;
    use crate::wire::frame::{Frame, Frames, write_ack};
    use core::ops::RangeInclusive;

    fn sent(seq: u64, ms: u64) -> Sent {
        let at = Instant::from_micros(ms * 1000);
        Sent { seq, at, size: 1200, fragments: Vec::new(), acked: None }
    }

    fn ack(
        recovery: &mut Recovery,
        ms: u64,
        ranges: &[RangeInclusive<u64>],
        next: u64,
    ) -> Result<(Vec<u64>, Vec<u64>), Violation> {
        let mut out = [0; 100];
        let mut writer = Writer::new(&mut out);
        assert!(write_ack(&mut writer, 0, ranges.iter().cloned()));
        let len = writer.len();
        let Some(Ok(Frame::Ack(ack))) = Frames::new(&out[..len]).next() else { panic!() };
        let settled = recovery.on_ack(Instant::from_micros(ms * 1000), &ack, next)?;
        let seqs = |list: &[Sent]| list.iter().map(|sent| sent.seq).collect();
        Ok((seqs(&settled.acked), seqs(&settled.lost)))
    }

    #[test]
    fn loss_by_number_and_by_time() {
        let mut recovery = Recovery::default();
        (1..=6).for_each(|seq| recovery.sent(sent(seq, seq)));
        assert_eq!(ack(&mut recovery, 50, &[5..=5, 1..=1], 7), Ok(([5, 1].into(), [2].into())));
        assert_eq!(recovery.rtt.smoothed(), Some(Duration::from_millis(45)));
        // 3 and 4 are lost 9/8 of the RTT after they were sent.
        assert_eq!(recovery.deadline(), Some(Instant::from_micros(3000 + 45_000 * 9 / 8)));
        let lost = recovery.on_timeout(Instant::from_micros(60_000)).lost;
        assert_eq!(lost.iter().map(|sent| sent.seq).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(recovery.bytes_in_flight(), 1200);
    }

    #[test]
    fn probes_back_off() {
        let mut recovery = Recovery::default();
        assert_eq!(recovery.deadline(), None);
        recovery.sent(sent(1, 0));
        let first = recovery.deadline().unwrap();
        assert_eq!(first, Instant::ZERO + recovery.rtt.pto());
        assert!(recovery.on_timeout(first).lost.is_empty());
        assert_eq!(recovery.probes, 2);
        assert_eq!(recovery.deadline().unwrap().since(first), recovery.rtt.pto() * 2);
        assert_eq!(ack(&mut recovery, 2000, &[1..=1], 2), Ok(([1].into(), [].into())));
        assert_eq!((recovery.deadline(), recovery.probes), (None, 0));
    }

    #[test]
    fn never_sent() {
        let mut recovery = Recovery::default();
        recovery.sent(sent(1, 0));
        assert_eq!(ack(&mut recovery, 1, &[1..=2], 2), Err(Violation::AckUnsent));
        assert_eq!(ack(&mut recovery, 1, &[0..=1], 2), Err(Violation::AckUnsent));
        assert_eq!(ack(&mut recovery, 1, &[1..=1], 2), Ok(([1].into(), [].into())));
        // A repeated ACK is fine.
        assert_eq!(ack(&mut recovery, 1, &[1..=1], 2), Ok(([].into(), [].into())));
    }
}
