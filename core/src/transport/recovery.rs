//! RTT, loss detection and probe timeouts (RFC 9002 with its constants, PROTOCOL 4.2), over the one
//! sequence-number space of a direction.

mod allowance;
mod rest;

pub(crate) use rest::Resting;

use super::ack::MAX_ACK_DELAY;
use super::congestion::Controller;
use super::cubic::Cubic;
use super::mtu::Mtu;
use super::pacing::Pacer;
use crate::error::Violation;
use crate::limits::DATAGRAM_BASE;
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
/// Room for so many datagrams in a window is no sign that there was nothing to fill it with.
const FULL: u64 = 3;
/// Room for so many packets in flight is cheaper to make anew than to hold while a session is idle.
const SMALL: usize = 16;
/// What files leave free of the window.
const MESSAGE_ROOM: u64 = 2 * DATAGRAM_BASE as u64;

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

    /// The least RTT of the path, once there was a sample.
    pub(crate) const fn min(&self) -> Option<Duration> {
        self.min
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
    /// What of a file it carried: transfer and bytes.
    pub(crate) chunk: Option<(u64, Range<u64>)>,
    /// Largest number that an ACK in it covered.
    pub(crate) acked: Option<u64>,
}

/// What became of packets in flight.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) acked: Vec<Sent>,
    pub(crate) lost: Vec<Sent>,
}

/// A place in the row of what is in flight.
#[derive(Debug)]
struct Entry {
    seq: u64,
    at: Instant,
    /// Probes the datagram size: its loss says nothing of congestion (RFC 9000 §14.4).
    size_probe: bool,
    /// `None` once it was acknowledged: it goes when it is first in the row, so that none has to
    /// be taken out of the middle.
    packet: Option<Sent>,
}

/// What is in flight, when to worry about it, and how much more may go: RTT, congestion window,
/// pace and datagram size of the path.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) rtt: Rtt,
    controller: Box<dyn Controller>,
    pacer: Pacer,
    mtu: Mtu,
    /// When the pacer lets out what it held back.
    held: Option<Instant>,
    /// In order of numbers and of times. The first one is not acknowledged. Below `largest_acked`
    /// there are at most a few: the others are settled.
    in_flight: VecDeque<Entry>,
    /// Bytes of what counts for congestion: packets of this path that are no size probes.
    bytes_in_flight: u64,
    /// Most bytes in flight in this round trip and in the one before.
    peak: [u64; 2],
    /// Ends the round trip when it is acknowledged.
    round_end: u64,
    last_sent: u64,
    largest_acked: u64,
    /// First number of this path.
    path_start: u64,
    /// When there first was an RTT sample; nothing before counts as persistent congestion.
    first_sample: Option<Instant>,
    /// When the first of the packets was sent that were all lost since.
    lost_since: Option<Instant>,
    /// When the earliest packet is lost by time.
    loss_time: Option<Instant>,
    last_eliciting: Instant,
    pto_count: u32,
    /// Probes that may go out beside the window.
    pub(crate) probes: u32,
}

impl Default for Recovery {
    fn default() -> Self {
        Self::new(Box::new(Cubic::new(DATAGRAM_BASE as u64)))
    }
}

impl Recovery {
    fn new(controller: Box<dyn Controller>) -> Self {
        Self {
            rtt: Rtt::default(),
            controller,
            pacer: Pacer::default(),
            mtu: Mtu::default(),
            held: None,
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            peak: [0; 2],
            round_end: 0,
            last_sent: 0,
            largest_acked: 0,
            path_start: 0,
            first_sample: None,
            lost_since: None,
            loss_time: None,
            last_eliciting: Instant::ZERO,
            pto_count: 0,
            probes: 0,
        }
    }

    /// Whether the window lets another `bytes` out.
    pub(crate) fn may_send(&self, bytes: u64) -> bool {
        self.probes > 0 || self.bytes_in_flight + bytes <= self.controller.window()
    }

    /// An ack-eliciting packet was sealed.
    pub(crate) fn sent(&mut self, packet: Sent) {
        self.bytes_in_flight += packet.size;
        self.peak[0] = self.peak[0].max(self.bytes_in_flight);
        self.pacer.spend(packet.size);
        self.probes = self.probes.saturating_sub(1);
        self.push(packet, false);
    }

    fn push(&mut self, packet: Sent, size_probe: bool) {
        let (seq, at) = (packet.seq, packet.at);
        self.last_eliciting = at;
        self.last_sent = seq;
        self.in_flight.push_back(Entry { seq, at, size_probe, packet: Some(packet) });
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Gives the room for what is in flight back, if nothing is.
    pub(crate) fn release(&mut self) {
        if self.is_idle() {
            self.in_flight = VecDeque::new();
        }
    }

    /// Fragments of the oldest packets in flight, to send again in a probe.
    pub(crate) fn oldest_fragments(&self) -> impl Iterator<Item = &(u64, Range<u64>)> {
        self.packets().flat_map(|sent| &sent.fragments).take(1)
    }

    fn packets(&self) -> impl Iterator<Item = &Sent> {
        self.in_flight.iter().filter_map(|entry| entry.packet.as_ref())
    }

    /// Whether what happens to the packet says something about congestion.
    const fn counts(&self, entry: &Entry) -> bool {
        !entry.size_probe && entry.seq >= self.path_start
    }

    /// Takes an ACK; `next` is the first number not yet used. Walks what is in flight, never the
    /// numbers that a peer names.
    pub(crate) fn on_ack(
        &mut self,
        now: Instant,
        ack: &Ack<'_>,
        next: u64,
        settled: &mut Settled,
    ) -> Result<(), Violation> {
        if ack.largest >= next || ack.smallest() == 0 {
            return Err(Violation::AckUnsent);
        }
        let limited = self.is_limited();
        // Packets of one batch were sent at one time: the controller hears of them together.
        let mut batch = (Instant::ZERO, 0);
        let mut ranges = ack.ranges();
        let mut range = ranges.next();
        // From the newest down, as the ranges are.
        let mut index = self.in_flight.partition_point(|entry| entry.seq <= ack.largest);
        while index > 0 {
            index -= 1;
            let seq = self.in_flight[index].seq;
            while range.as_ref().is_some_and(|r| seq < *r.start()) {
                range = ranges.next();
            }
            let Some(r) = &range else { break };
            if !r.contains(&seq) {
                continue;
            }
            let Some(sent) = self.in_flight[index].packet.take() else { continue };
            if settled.acked.is_empty() {
                self.newest_acked(now, &sent, ack);
            }
            let bytes = self.acked(now, index, &sent);
            if batch.0 != sent.at {
                self.credit(now, batch, limited);
                batch = (sent.at, 0);
            }
            batch.1 += bytes;
            settled.acked.push(sent);
        }
        self.credit(now, batch, limited);
        self.largest_acked = self.largest_acked.max(ack.largest);
        if self.largest_acked >= self.round_end {
            self.peak = [self.bytes_in_flight, self.peak[0]];
            self.round_end = self.last_sent;
        }
        self.detect_lost(now, settled);
        Ok(())
    }

    /// The newest packet that an ACK newly acknowledges.
    fn newest_acked(&mut self, now: Instant, sent: &Sent, ack: &Ack<'_>) {
        (self.pto_count, self.probes) = (0, 0);
        // RFC 9002 §5.1; what went by another path says nothing of this one.
        if sent.seq == ack.largest && sent.seq >= self.path_start {
            let latest = now.since(sent.at);
            self.rtt.sample(latest, Duration::from_micros(ack.delay_us));
            self.first_sample.get_or_insert(now);
            self.controller.sampled(latest);
        }
    }

    /// A packet was acknowledged; how many bytes of it the controller is to hear of.
    fn acked(&mut self, now: Instant, index: usize, sent: &Sent) -> u64 {
        let entry = &self.in_flight[index];
        if entry.size_probe {
            self.mtu.on_probe_acked(now, sent.seq);
            self.follow_size();
            return 0;
        }
        if !self.counts(entry) {
            return 0;
        }
        self.bytes_in_flight -= sent.size;
        self.mtu.on_acked(now, usize::try_from(sent.size).unwrap_or(usize::MAX));
        sent.size
    }

    /// So many bytes that were sent at one time were acknowledged.
    fn credit(&mut self, now: Instant, (sent, bytes): (Instant, u64), limited: bool) {
        if bytes > 0 {
            self.controller.acked(now, sent, bytes, self.rtt.smoothed, limited);
        }
    }

    /// Whether the window and not the lack of data limits what is in flight (RFC 9002 §7.8). One
    /// round trip is looked at as a whole: a burst of ACKs empties the window before more is sent.
    fn is_limited(&self) -> bool {
        let (window, peak) = (self.controller.window(), self.peak[0].max(self.peak[1]));
        let room = FULL * self.mtu.size() as u64;
        peak + room >= window || (self.controller.in_slow_start() && peak * 2 >= window)
    }

    /// RFC 9002 §6.1. Neither numbers nor times fall along the row, so the first packet that is not
    /// lost ends the walk.
    fn detect_lost(&mut self, now: Instant, settled: &mut Settled) {
        self.loss_time = None;
        let delay = self.rtt.loss_delay();
        let mut persistent = false;
        while let Some(entry) = self.in_flight.front() {
            if entry.packet.is_some() {
                if entry.seq >= self.largest_acked {
                    break;
                }
                let by_number = self.largest_acked - entry.seq >= PACKET_THRESHOLD;
                if !by_number && entry.at + delay > now {
                    self.loss_time = Some(entry.at + delay);
                    break;
                }
            }
            let Some(entry) = self.in_flight.pop_front() else { break };
            let counts = self.counts(&entry);
            let Some(sent) = entry.packet else {
                self.lost_since = None;
                continue;
            };
            if entry.size_probe {
                self.mtu.on_probe_lost(now, sent.seq);
            } else if counts {
                persistent |= self.lost(now, &sent);
            }
            settled.lost.push(sent);
        }
        if self.in_flight.capacity() <= SMALL {
            self.release();
        }
        if persistent {
            self.controller.collapsed();
            // RFC 9002 §5.2: the path may be another one.
            self.rtt.min = self.rtt.min.map(|_| self.rtt.latest);
        }
    }

    /// A packet that counts was lost; whether congestion is persistent (RFC 9002 §7.6.2).
    fn lost(&mut self, now: Instant, sent: &Sent) -> bool {
        self.bytes_in_flight -= sent.size;
        self.controller.lost(now, sent.at);
        self.peak = [self.bytes_in_flight, 0];
        self.mtu.on_lost(now, usize::try_from(sent.size).unwrap_or(usize::MAX));
        self.follow_size();
        if self.first_sample.is_none_or(|first| sent.at <= first) {
            return false;
        }
        let since = *self.lost_since.get_or_insert(sent.at);
        sent.at.since(since) > self.rtt.pto() * PERSISTENT_THRESHOLD
    }

    /// The next deadline: loss by time, else a probe.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.loss_time.or_else(|| {
            let backoff = 1 << self.pto_count.min(BACKOFF_MAX);
            (!self.in_flight.is_empty()).then(|| self.last_eliciting + self.rtt.pto() * backoff)
        })
    }

    /// A deadline may have come: packets are lost by time, or (true) probes are to be sent.
    pub(crate) fn on_timeout(&mut self, now: Instant, settled: &mut Settled) -> bool {
        // Whoever has something to send asks again; nobody is woken twice for nothing.
        self.held = self.held.filter(|at| *at > now);
        if self.deadline().is_none_or(|at| at > now) {
            return false;
        }
        let probing = self.loss_time.is_none();
        if probing {
            self.pto_count += 1;
            self.probes = 2;
            // Else the deadline would stand in the past until the probe is polled.
            self.last_eliciting = now;
            let large = self.in_flight.iter().any(|entry| {
                let size = entry.packet.as_ref().map_or(0, |sent| sent.size);
                self.counts(entry) && size > DATAGRAM_BASE as u64
            });
            self.mtu.on_probe_timeout(now, self.pto_count, large);
            self.follow_size();
        } else {
            self.detect_lost(now, settled);
        }
        probing
    }

    /// The path is another one: RTT, congestion state and datagram size start anew (PROTOCOL 6).
    /// What is in flight is still repaired, but says nothing of this path.
    pub(crate) fn reset_path(&mut self) {
        self.rtt = Rtt::default();
        // The size first: the initial window counts in datagrams.
        self.reset_size();
        self.controller.reset();
        self.pacer = Pacer::default();
        self.held = None;
        self.path_start = self.last_sent + 1;
        (self.bytes_in_flight, self.peak) = (0, [0; 2]);
        (self.first_sample, self.lost_since) = (None, None);
        self.pto_count = 0;
        // The loss delay is another one too; the next ACK sets it, else the probe timeout repairs.
        self.loss_time = None;
    }

    /// Probes begin anew, at the pace of the first.
    pub(crate) const fn forget_backoff(&mut self) {
        self.pto_count = 0;
    }

    /// A move to another port of the same address: only the datagram size starts anew (PROTOCOL 4.3).
    pub(crate) fn reset_size(&mut self) {
        self.mtu = Mtu::default();
        self.follow_size();
    }

    fn follow_size(&mut self) {
        self.controller.set_datagram_size(self.mtu.size() as u64);
    }
}

#[cfg(test)]
mod tests;
