//! Congestion control, replaceable (PROTOCOL 4.2).

use crate::time::{Duration, Instant};
use core::fmt::Debug;

/// Initial window, datagrams (RFC 9002 §7.2).
pub(super) const INITIAL_DATAGRAMS: u64 = 10;
/// Smallest window, datagrams (RFC 9002 §7.2).
pub(super) const MINIMUM_DATAGRAMS: u64 = 2;
/// No window grows beyond this: far above any path, and low enough that no product overflows.
pub(super) const WINDOW_MAX: u64 = 1 << 40;

/// A congestion controller: how many bytes may be in flight.
pub(crate) trait Controller: Debug + Send + Sync {
    /// The window, bytes.
    fn window(&self) -> u64;
    /// Whether the window is still below the first guess of what the path carries.
    fn in_slow_start(&self) -> bool;
    /// An RTT sample, before the packets of its ACK are told.
    fn sampled(&mut self, _rtt: Duration) {}
    /// A packet of `bytes` was acknowledged. `limited`: the window was in use, so that the packet
    /// says something about it.
    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, smoothed: Duration, limited: bool);
    /// A packet was lost.
    fn lost(&mut self, now: Instant, sent: Instant);
    /// Persistent congestion: all packets over a long period were lost (RFC 9002 §7.6). Told after
    /// the losses themselves.
    fn collapsed(&mut self);
    /// Datagrams are of another size from now on.
    fn set_datagram_size(&mut self, size: u64);
    /// Another path, of which nothing is known.
    fn reset(&mut self);
    /// Whether it knows nothing of the path that matters after a silence.
    fn is_fresh(&self) -> bool;
}

/// Whole units out of `credit / unit`; the rest stays, so that small steps add up.
pub(super) fn take(credit: &mut u128, unit: u64) -> u64 {
    let unit = u128::from(unit.max(1));
    let whole = *credit / unit;
    *credit %= unit;
    u64::try_from(whole).unwrap_or(u64::MAX)
}

/// NewReno (RFC 9002 §7), the simplest controller, to test the others and their user against.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct NewReno {
    datagram: u64,
    window: u64,
    threshold: u64,
    credit: u128,
    recovery_start: Option<Instant>,
}

#[cfg(test)]
impl NewReno {
    pub(crate) fn new(datagram: u64) -> Self {
        let window = INITIAL_DATAGRAMS * datagram;
        Self { datagram, window, threshold: u64::MAX, credit: 0, recovery_start: None }
    }

    fn minimum(&self) -> u64 {
        MINIMUM_DATAGRAMS * self.datagram
    }

    fn in_recovery(&self, sent: Instant) -> bool {
        self.recovery_start.is_some_and(|start| sent <= start)
    }
}

#[cfg(test)]
impl Controller for NewReno {
    fn window(&self) -> u64 {
        self.window
    }

    fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    fn acked(&mut self, _: Instant, sent: Instant, bytes: u64, _: Duration, limited: bool) {
        if !limited || self.in_recovery(sent) {
            return;
        }
        let growth = if self.in_slow_start() {
            bytes
        } else {
            self.credit += u128::from(self.datagram) * u128::from(bytes);
            take(&mut self.credit, self.window)
        };
        self.window = (self.window + growth).min(WINDOW_MAX);
    }

    fn lost(&mut self, now: Instant, sent: Instant) {
        if !self.in_recovery(sent) {
            self.recovery_start = Some(now);
            self.threshold = (self.window / 2).max(self.minimum());
            self.window = self.threshold;
        }
    }

    fn collapsed(&mut self) {
        self.window = self.minimum();
        self.recovery_start = None;
    }

    fn set_datagram_size(&mut self, size: u64) {
        self.datagram = size;
        self.window = self.window.max(self.minimum());
    }

    fn reset(&mut self) {
        *self = Self::new(self.datagram);
    }

    fn is_fresh(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_reno() {
        let at = Instant::from_micros;
        let rtt = Duration::from_micros(1);
        let mut reno = NewReno::new(1200);
        reno.acked(at(2), at(1), 1200, rtt, false);
        assert_eq!(reno.window(), 12_000, "RFC 9002 §7.8: not in use, not validated");
        reno.acked(at(2), at(1), 1200, rtt, true);
        assert_eq!(reno.window(), 13_200);
        reno.lost(at(10), at(5));
        assert_eq!(reno.window(), 6600);
        reno.lost(at(11), at(6));
        reno.acked(at(11), at(7), 1200, rtt, true);
        assert_eq!(reno.window(), 6600, "RFC 9002 §7.3.2: once a round trip");
        for _ in 0..6 {
            reno.acked(at(13), at(12), 1200, rtt, true);
        }
        let grown = reno.window() - 6600;
        assert!((1100..=1400).contains(&grown), "§7.3.3: a datagram each window, not {grown}");
        reno.collapsed();
        assert_eq!(reno.window(), 2400);
    }
}
