//! Where a session is between its first key and its last.

use super::compromise::{Echo, Replacing, Signalling};
use crate::time::{Duration, Instant};
use crate::transport::epochs::Epochs;
use crate::transport::rest::{Kept, Resting, View};
use crate::transport::{Earliest, Timer, Transport};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Each phase holds what it needs and no more: leaving one drops, and so wipes, its keys.
#[derive(Debug)]
pub(super) enum Phase {
    /// There are keys of epoch 1, but no packet of it has opened.
    HalfOpen(Box<Transport>),
    /// Established.
    Open(Box<Transport>),
    /// Established, and nothing is under way.
    Resting(Box<Resting>),
    /// We said goodbye and wait for the ack.
    Leaving(Box<Transport>, Instant),
    /// We raised COMPROMISED.
    Signalling(Box<Signalling>),
    /// The peer did, and the role above has not finished its part.
    Replacing(Box<Replacing>),
    /// Acknowledged: the ack is repeated for copies of the signal. No keys.
    Echo(Box<Echo>),
    /// A last datagram is repeated. No keys.
    Parting(Box<Parting>),
    /// Nothing is left.
    Over,
}

impl Phase {
    /// What there is to know of the transport, while there is one.
    pub(super) fn transport(&self) -> Option<View<'_>> {
        match self {
            Self::HalfOpen(transport) | Self::Open(transport) | Self::Leaving(transport, _) => {
                Some(View::Awake(transport))
            }
            Self::Resting(resting) => Some(View::Resting(resting)),
            Self::Signalling(_)
            | Self::Replacing(_)
            | Self::Echo(_)
            | Self::Parting(_)
            | Self::Over => None,
        }
    }

    /// The same of an established one.
    pub(super) fn open(&self) -> Option<View<'_>> {
        self.transport().filter(|_| matches!(self, Self::Open(_) | Self::Resting(_)))
    }

    /// The transport, if it is awake: one at rest has nothing to ask for.
    pub(super) fn awake(&self) -> Option<&Transport> {
        match self.transport()? {
            View::Awake(transport) => Some(transport),
            View::Resting(_) => None,
        }
    }

    /// The same, to change it.
    pub(super) const fn awake_mut(&mut self) -> Option<&mut Transport> {
        match self {
            Self::HalfOpen(transport) | Self::Open(transport) | Self::Leaving(transport, _) => {
                Some(transport)
            }
            Self::Resting(_)
            | Self::Signalling(_)
            | Self::Replacing(_)
            | Self::Echo(_)
            | Self::Parting(_)
            | Self::Over => None,
        }
    }

    /// The transport, woken if it rests.
    pub(super) fn transport_mut(&mut self, kept: Kept) -> Option<&mut Transport> {
        self.wake(kept);
        self.awake_mut()
    }

    pub(super) fn parting(parting: Parting) -> Self {
        Self::Parting(Box::new(parting))
    }

    pub(super) fn wake(&mut self, kept: Kept) {
        if matches!(self, Self::Resting(_)) {
            *self = match core::mem::replace(self, Self::Over) {
                Self::Resting(resting) => Self::Open(Box::new(resting.wake(kept))),
                other => other,
            };
        }
    }

    /// Goes to rest if nothing is under way.
    pub(super) fn rest(&mut self) {
        *self = match core::mem::replace(self, Self::Over) {
            Self::Open(transport) => match transport.into_resting() {
                Ok(resting) => Self::Resting(Box::new(resting)),
                Err(transport) => Self::Open(transport),
            },
            other => other,
        };
    }

    /// The keys, while they open packets.
    pub(super) fn epochs(&self) -> Option<&Epochs> {
        match self {
            Self::Signalling(signal) => Some(&signal.epochs),
            other => other.transport().map(View::epochs),
        }
    }

    /// The first packet of epoch 1 opened.
    pub(super) fn establish(&mut self) {
        *self = match core::mem::replace(self, Self::Over) {
            Self::HalfOpen(transport) => Self::Open(transport),
            other => other,
        };
    }

    pub(super) fn earliest(&self) -> Earliest {
        let own = Earliest(match self {
            Self::Leaving(_, until) => Some((Timer::Repeat, *until)),
            Self::Signalling(signal) => Some((Timer::Repeat, signal.deadline())),
            Self::Echo(echo) => Some((Timer::Forget, echo.until)),
            Self::Parting(parting) => Some((Timer::Repeat, parting.at)),
            Self::HalfOpen(_)
            | Self::Open(_)
            | Self::Resting(_)
            | Self::Replacing(_)
            | Self::Over => None,
        });
        match self.transport() {
            Some(transport) => transport.earliest(own),
            None => own,
        }
    }
}

/// One last datagram, repeated.
#[derive(Debug)]
pub(super) struct Parting {
    pub(super) datagram: Vec<u8>,
    pub(super) left: u32,
    pub(super) at: Instant,
    pub(super) interval: Duration,
}

impl Parting {
    pub(super) fn poll(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if self.datagram.is_empty() {
            self.left = 0;
        }
        if self.left == 0 || self.at > now {
            return None;
        }
        self.left -= 1;
        self.at = now + self.interval;
        let len = self.datagram.len();
        out.get_mut(..len)?.copy_from_slice(&self.datagram);
        Some(len)
    }
}
