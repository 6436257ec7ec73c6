//! Congestion control, replaceable (PROTOCOL 4.2).

use crate::limits::DATAGRAM_BASE;
use crate::time::Instant;
use core::fmt::Debug;

/// Initial window: 10 datagrams.
pub(crate) const INITIAL_WINDOW: u64 = 10 * DATAGRAM_BASE as u64;
/// Smallest window: 2 datagrams (RFC 9002 §7.2).
const MINIMUM_WINDOW: u64 = 2 * DATAGRAM_BASE as u64;

/// A congestion controller: how many bytes may be in flight.
pub(crate) trait Controller: Debug + Send + Sync {
    /// The window, bytes.
    fn window(&self) -> u64;
    /// `bytes` of a packet sent at `sent` were acknowledged while the window was in use.
    fn acked(&mut self, bytes: u64, sent: Instant);
    /// A packet sent at `sent` was lost.
    fn lost(&mut self, now: Instant, sent: Instant);
    /// All packets over a persistent congestion period were lost (RFC 9002 §7.6).
    fn collapsed(&mut self);
}

/// NewReno (RFC 9002 §7).
#[derive(Debug)]
pub(crate) struct NewReno {
    window: u64,
    threshold: u64,
    recovery_start: Option<Instant>,
}

impl Default for NewReno {
    fn default() -> Self {
        Self { window: INITIAL_WINDOW, threshold: u64::MAX, recovery_start: None }
    }
}

impl NewReno {
    fn in_recovery(&self, sent: Instant) -> bool {
        self.recovery_start.is_some_and(|start| sent <= start)
    }
}

impl Controller for NewReno {
    fn window(&self) -> u64 {
        self.window
    }

    fn acked(&mut self, bytes: u64, sent: Instant) {
        if self.in_recovery(sent) {
            return;
        }
        self.window += if self.window < self.threshold {
            bytes
        } else {
            DATAGRAM_BASE as u64 * bytes / self.window
        };
    }

    fn lost(&mut self, now: Instant, sent: Instant) {
        if self.in_recovery(sent) {
            return;
        }
        self.recovery_start = Some(now);
        self.threshold = (self.window / 2).max(MINIMUM_WINDOW);
        self.window = self.threshold;
    }

    fn collapsed(&mut self) {
        self.window = MINIMUM_WINDOW;
        self.recovery_start = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_reno() {
        let at = Instant::from_micros;
        let mut reno = NewReno::default();
        reno.acked(1200, at(1));
        assert_eq!(reno.window(), INITIAL_WINDOW + 1200);
        reno.lost(at(10), at(5));
        assert_eq!(reno.window(), (INITIAL_WINDOW + 1200) / 2);
        reno.lost(at(11), at(6));
        reno.acked(1200, at(7));
        assert_eq!(reno.window(), (INITIAL_WINDOW + 1200) / 2, "once a round trip");
        reno.acked(1200, at(12));
        assert!(reno.window() < (INITIAL_WINDOW + 1200) / 2 + 1200, "avoidance");
        reno.collapsed();
        assert_eq!(reno.window(), MINIMUM_WINDOW);
    }
}
