//! Which port the server listens on (PROTOCOL 5.2, SPEC 7.3).

use crate::id::PortId;
use crate::limits::{ANNOUNCE, GRACE_PERIOD, PORT_ATTEMPTS, ROTATION_INTERVAL};
use crate::time::UnixMs;
use crate::wire::secfile::PortSchedule;

/// How often keys and port rotate, seconds (SPEC 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one rotation to the next.
    pub interval: u64,
    /// How long the old port stays open; at most a third of the interval.
    pub grace: u64,
    /// How long before a rotation it is prepared and announced; at most a quarter of the interval.
    pub announce: u64,
}

impl Timing {
    /// Rotations each `interval` seconds, at least 1: what SPEC 7.1 says for an hour, and in
    /// proportion for intervals too short for that.
    #[must_use]
    pub fn every(interval: u64) -> Self {
        let interval = interval.max(1);
        let (grace, announce) = (GRACE_PERIOD.min(interval / 3), ANNOUNCE.min(interval / 4));
        Self { interval, grace, announce }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::every(ROTATION_INTERVAL)
    }
}

/// How the port is chosen.
#[derive(Debug)]
pub enum PortChoice {
    /// Always this one.
    Fixed(u16),
    /// Any free one of 49152..65535, another at each rotation (SPEC 7.3).
    Random,
    /// By the keyed schedule, which goes into the security files.
    Scheduled(PortSchedule),
}

/// Where the server is with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortPhase {
    /// A bind is under way.
    Binding { port: PortId, number: u16, slot: u64, attempt: u32 },
    /// Bound.
    Open { port: PortId, number: u16 },
    /// No attempt succeeded.
    Failed,
}

/// The port of a server.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) choice: PortChoice,
    pub(super) phase: PortPhase,
    next_id: u32,
}

impl Ports {
    pub(super) fn new(choice: PortChoice, wall: UnixMs) -> Self {
        let slot = match &choice {
            PortChoice::Fixed(_) | PortChoice::Random => 0,
            PortChoice::Scheduled(schedule) => schedule.slot(wall.secs()),
        };
        let mut ports = Self { choice, phase: PortPhase::Failed, next_id: 0 };
        ports.try_attempt(slot, 0);
        ports
    }

    fn try_attempt(&mut self, slot: u64, attempt: u32) {
        let number = match &self.choice {
            PortChoice::Fixed(number) if attempt == 0 => *number,
            PortChoice::Scheduled(schedule) if attempt < PORT_ATTEMPTS => {
                schedule.port(slot, attempt)
            }
            PortChoice::Fixed(_) | PortChoice::Random | PortChoice::Scheduled(_) => {
                self.phase = PortPhase::Failed;
                return;
            }
        };
        let port = PortId(self.next_id);
        self.next_id += 1;
        self.phase = PortPhase::Binding { port, number, slot, attempt };
    }

    /// The bind under way succeeded.
    pub(super) const fn bound(&mut self) {
        if let PortPhase::Binding { port, number, .. } = self.phase {
            self.phase = PortPhase::Open { port, number };
        }
    }

    /// The bind under way failed: the next attempt of the slot, if there is one.
    pub(super) fn unavailable(&mut self) {
        if let PortPhase::Binding { slot, attempt, .. } = self.phase {
            self.try_attempt(slot, attempt + 1);
        }
    }

    /// The port as clients are told it: the bound one, else the one tried.
    pub(super) fn number(&self) -> Option<u16> {
        match self.phase {
            PortPhase::Binding { number, .. } | PortPhase::Open { number, .. } => Some(number),
            PortPhase::Failed => None,
        }
    }

    pub(super) const fn schedule(&self) -> Option<&PortSchedule> {
        match &self.choice {
            PortChoice::Fixed(_) | PortChoice::Random => None,
            PortChoice::Scheduled(schedule) => Some(schedule),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn ten_attempts_of_the_slot() {
        let seed = || Secret::take(&mut [9; 32]);
        let schedule = || PortSchedule { seed: seed(), origin: 0, interval: 3600 };
        let mut ports = Ports::new(PortChoice::Scheduled(schedule()), UnixMs(7_200_000));
        for number in schedule().ports(2) {
            assert_eq!(ports.number(), Some(number));
            ports.unavailable();
        }
        assert_eq!(ports.phase, PortPhase::Failed);
        let mut fixed = Ports::new(PortChoice::Fixed(5), UnixMs(0));
        fixed.unavailable();
        assert_eq!(fixed.phase, PortPhase::Failed);
    }
}
