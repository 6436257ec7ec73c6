//! How much may leave now: window, pacer, and the size of datagrams.

use super::{MESSAGE_ROOM, Recovery, Sent};
use crate::limits::{BATCH_BYTES, BATCH_MAX};
use crate::time::Instant;
use crate::transport::pacing::Flow;

impl Recovery {
    /// Size of a full datagram, bytes.
    pub(crate) const fn datagram_size(&self) -> usize {
        self.mtu.size()
    }

    /// Whether window and pacer let a packet of `bytes` out now. If only the pacer does not,
    /// [`Self::pacing_deadline`] tells when it does. PTO probes go in any case.
    pub(crate) fn may_send_paced(&mut self, now: Instant, bytes: u64) -> bool {
        self.held = None;
        if self.probes > 0 || !self.may_send(bytes) {
            return self.probes > 0;
        }
        let flow = self.flow(bytes);
        if self.pacer.allowed(now, &flow) >= bytes {
            return true;
        }
        self.held = self.pacer.next(&flow);
        false
    }

    /// How many full datagrams of files may go out now, at most one batch. Some of the window is left
    /// to messages, so that they need not wait for a round trip. If only the pacer holds them back,
    /// [`Self::pacing_deadline`] tells until when.
    pub(crate) fn batch(&mut self, now: Instant) -> usize {
        let size = self.mtu.size() as u64;
        let window = self.controller.window();
        // The smallest window has room for a file too.
        let taken = self.bytes_in_flight + MESSAGE_ROOM.min(window / 2);
        let room = window.saturating_sub(taken) / size;
        if room == 0 {
            return 0;
        }
        self.held = None;
        let flow = self.flow(size);
        let paced = self.pacer.allowed(now, &flow) / size;
        if paced == 0 {
            self.held = self.pacer.next(&flow);
        }
        let most = (BATCH_BYTES as u64 / size).clamp(1, BATCH_MAX as u64);
        usize::try_from(room.min(paced).min(most)).unwrap_or(0)
    }

    fn flow(&self, bytes: u64) -> Flow {
        Flow {
            window: self.controller.window(),
            smoothed: self.rtt.smoothed(),
            slow_start: self.controller.in_slow_start(),
            datagram: bytes.max(self.mtu.size() as u64),
        }
    }

    /// When to ask [`Self::may_send_paced`] again.
    pub(crate) const fn pacing_deadline(&self) -> Option<Instant> {
        self.held
    }

    /// Size of the padded ping that is due to probe the datagram size. None while the path is in
    /// doubt.
    pub(crate) fn size_probe(&self) -> Option<usize> {
        self.mtu.probe().filter(|_| self.pto_count == 0 && self.probes == 0)
    }

    /// The size probe that was due was sealed. It is outside congestion control and pacing.
    pub(crate) fn sent_size_probe(&mut self, packet: Sent) {
        self.mtu.probe_sent(packet.seq);
        self.push(packet, true);
    }

    /// The congestion window, bytes.
    #[cfg(test)]
    pub(crate) fn window(&self) -> u64 {
        self.controller.window()
    }

    /// Bytes in flight that count against the window.
    #[cfg(test)]
    pub(crate) const fn bytes_in_flight(&self) -> u64 {
        self.bytes_in_flight
    }

    /// Probe timeouts since the last acknowledgement.
    pub(crate) const fn pto_count(&self) -> u32 {
        self.pto_count
    }
}
