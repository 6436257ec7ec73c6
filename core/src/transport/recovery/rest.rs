//! What of it outlives silence.

use super::{Controller, Mtu, Recovery, Rtt};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;

/// Recovery while nothing is in flight.
#[derive(Debug)]
pub(crate) struct Resting {
    /// Of [`Rtt`], microseconds: none is over the 60 s after which a session is dead, by far.
    latest: u32,
    smoothed: u32,
    variation: u32,
    min: Option<u32>,
    /// What has learned nothing is made anew.
    learned: Option<Box<(Box<dyn Controller>, Mtu)>>,
    last_sent: u64,
    largest_acked: u64,
    path_start: u64,
    first_sample: Option<Instant>,
    last_eliciting: Instant,
}

fn short(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn long(micros: u32) -> Duration {
    Duration::from_micros(micros.into())
}

impl Resting {
    fn rtt(&self) -> Rtt {
        Rtt {
            latest: long(self.latest),
            smoothed: long(self.smoothed),
            variation: long(self.variation),
            min: self.min.map(long),
        }
    }

    /// See [`Rtt::pto`].
    pub(crate) fn pto(&self) -> Duration {
        self.rtt().pto()
    }

    /// See [`Rtt::smoothed`].
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.rtt().smoothed()
    }
}

impl Recovery {
    /// As if the size of datagrams had been found.
    #[cfg(test)]
    pub(crate) fn find_size(&mut self) {
        self.mtu = Mtu::found();
        self.follow_size();
    }

    /// Whether nothing is in flight, lost or owed.
    pub(crate) fn may_rest(&self) -> bool {
        self.is_idle() && self.bytes_in_flight == 0 && self.pto_count == 0 && self.probes == 0
    }

    /// What is left of it then.
    pub(crate) fn into_resting(self) -> Resting {
        let fresh = self.mtu.is_fresh() && self.controller.is_fresh();
        Resting {
            latest: short(self.rtt.latest),
            smoothed: short(self.rtt.smoothed),
            variation: short(self.rtt.variation),
            min: self.rtt.min.map(short),
            learned: (!fresh).then(|| Box::new((self.controller, self.mtu))),
            last_sent: self.last_sent,
            largest_acked: self.largest_acked,
            path_start: self.path_start,
            first_sample: self.first_sample,
            last_eliciting: self.last_eliciting,
        }
    }

    /// All of it again.
    pub(crate) fn wake(resting: Resting) -> Self {
        let rtt = resting.rtt();
        let fresh = Self::default();
        let (controller, mtu) =
            resting.learned.map_or((fresh.controller, fresh.mtu), |learned| *learned);
        Self {
            rtt,
            mtu,
            last_sent: resting.last_sent,
            round_end: resting.last_sent,
            largest_acked: resting.largest_acked,
            path_start: resting.path_start,
            first_sample: resting.first_sample,
            last_eliciting: resting.last_eliciting,
            ..Self::new(controller)
        }
    }
}
