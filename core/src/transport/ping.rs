//! A ping that the user asked for, and how long its ACK took (PROTOCOL 4.2, 6).

use super::Transport;
use super::recovery::Sent;
use crate::time::{Duration, Instant};

/// What became of the last ping that was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    #[default]
    Nothing,
    /// It is to go out.
    Due,
    /// It went out as this packet.
    Sent(u64),
    /// Its ACK has come.
    Answered(Duration),
}

impl Asked {
    /// A ping goes out as packet `seq`.
    pub(super) fn sent(&mut self, seq: u64) {
        if *self == Self::Due {
            *self = Self::Sent(seq);
        }
    }

    /// Whether it was lost, and has to go out again.
    pub(super) fn settle(&mut self, now: Instant, acked: &[Sent], lost: &[Sent]) -> bool {
        let Self::Sent(seq) = *self else { return false };
        if let Some(sent) = acked.iter().find(|sent| sent.seq == seq) {
            *self = Self::Answered(now.since(sent.at));
        } else if lost.iter().any(|sent| sent.seq == seq) {
            *self = Self::Due;
        }
        *self == Self::Due
    }
}

impl Transport {
    /// Sends a ping, and takes the time until its ACK. One that is under way serves as well.
    pub(crate) fn ping(&mut self) {
        if !matches!(self.asked, Asked::Due | Asked::Sent(_)) {
            self.asked = Asked::Due;
            self.ping_due = true;
        }
    }

    /// How long the ping took, once.
    pub(crate) fn take_pong(&mut self) -> Option<Duration> {
        let Asked::Answered(rtt) = self.asked else { return None };
        self.asked = Asked::Nothing;
        Some(rtt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn packet(seq: u64, at: u64) -> Sent {
        let at = Instant::from_micros(at);
        Sent { seq, at, size: 64, fragments: Vec::new(), chunk: None, acked: None }
    }

    #[test]
    fn a_lost_ping_goes_out_again() {
        let now = Instant::from_micros(500);
        let mut asked = Asked::Nothing;
        asked.sent(1);
        assert_eq!(asked, Asked::Nothing, "nobody asked for this one");
        asked = Asked::Due;
        asked.sent(2);
        assert!(!asked.settle(now, &[packet(1, 0)], &[packet(3, 0)]) && asked == Asked::Sent(2));
        assert!(asked.settle(now, &[], &[packet(2, 100)]));
        asked.sent(4);
        assert!(!asked.settle(now, &[packet(4, 200)], &[]));
        assert_eq!(asked, Asked::Answered(Duration::from_micros(300)));
    }
}
