//! How drivers take a machine's outputs: at once and in full, or late, in part and in any order.

use crate::net::Rng;
use clawchat_core::client::{self, Client};
use clawchat_core::id::OpId;
use clawchat_core::ops::Outcome;
use clawchat_core::server::{self, Server};
use clawchat_core::time::{Instant, Now};
use clawchat_core::transport::path::{Path, Transmit};
use core::fmt::Debug;

/// The contract that server and client share.
pub trait Machine {
    /// Effects it wants performed.
    type Action: Debug;
    /// What it tells the application.
    type Event: Debug;

    /// Input: a datagram.
    fn datagram(&mut self, now: Now, path: Path, datagram: &mut [u8]);
    /// Input: a deadline.
    fn timeout(&mut self, now: Now);
    /// Input: an action was completed.
    fn completion(&mut self, now: Now, op: OpId, outcome: Outcome);
    /// Output: a datagram.
    fn transmit(&mut self, now: Now, out: &mut [u8]) -> Option<Transmit>;
    /// Output: an action.
    fn action(&mut self) -> Option<(OpId, Self::Action)>;
    /// Output: an event.
    fn event(&mut self) -> Option<Self::Event>;
    /// Output: the next deadline.
    fn deadline(&self) -> Option<Instant>;
}

macro_rules! machine {
    ($machine:ty, $module:ident) => {
        impl Machine for $machine {
            type Action = $module::Action;
            type Event = $module::Event;

            fn datagram(&mut self, now: Now, path: Path, datagram: &mut [u8]) {
                self.handle_datagram(now, path, datagram);
            }

            fn timeout(&mut self, now: Now) {
                self.handle_timeout(now);
            }

            fn completion(&mut self, now: Now, op: OpId, outcome: Outcome) {
                self.handle_completion(now, op, outcome);
            }

            fn transmit(&mut self, now: Now, out: &mut [u8]) -> Option<Transmit> {
                self.poll_transmit(now, out)
            }

            fn action(&mut self) -> Option<(OpId, Self::Action)> {
                self.poll_action()
            }

            fn event(&mut self) -> Option<Self::Event> {
                self.poll_event()
            }

            fn deadline(&self) -> Option<Instant> {
                self.poll_timeout().map(|deadline| deadline.at)
            }
        }
    };
}

machine!(Server, server);
machine!(Client, client);

/// One output of a machine.
#[derive(Debug)]
pub enum Output<M: Machine> {
    /// A datagram to send.
    Datagram(Path, Vec<u8>),
    /// An action to perform.
    Action(OpId, M::Action),
    /// An event for the application.
    Event(M::Event),
}

/// Most outputs of one drain; a machine that has more never ends.
pub const FLOOD: usize = 20_000;

#[derive(Clone, Copy)]
enum Kind {
    Event,
    Action,
    Datagram,
}

fn take<M: Machine>(
    machine: &mut M,
    now: Now,
    kind: Kind,
    most: usize,
    out: &mut [u8],
    outputs: &mut Vec<Output<M>>,
) -> bool {
    for _ in 0..most {
        match kind {
            Kind::Event => match machine.event() {
                Some(event) => outputs.push(Output::Event(event)),
                None => return false,
            },
            Kind::Action => match machine.action() {
                Some((op, action)) => outputs.push(Output::Action(op, action)),
                None => return false,
            },
            Kind::Datagram => match machine.transmit(now, out) {
                Some(Transmit { path, len, segment }) => {
                    let parts = out[..len].chunks(segment.max(1));
                    outputs.extend(parts.map(|part| Output::Datagram(path, part.to_vec())));
                }
                None => return false,
            },
        }
    }
    true
}

/// Takes everything, events first.
pub fn drain_all<M: Machine>(machine: &mut M, now: Now, out: &mut [u8]) -> Vec<Output<M>> {
    let mut outputs = Vec::new();
    for kind in [Kind::Event, Kind::Action, Kind::Datagram] {
        take(machine, now, kind, FLOOD, out, &mut outputs);
    }
    outputs
}

/// Takes some of it in random order; true when there may be more.
pub fn drain_some<M: Machine>(
    machine: &mut M,
    now: Now,
    rng: &mut Rng,
    out: &mut [u8],
) -> (Vec<Output<M>>, bool) {
    let mut kinds = [Kind::Event, Kind::Action, Kind::Datagram];
    rng.shuffle(&mut kinds);
    let (mut outputs, mut more) = (Vec::new(), false);
    for kind in kinds {
        let most = usize::from(!rng.chance(200)) * (1 + rng.index(6));
        more |= most == 0 || take(machine, now, kind, most, out, &mut outputs);
    }
    (outputs, more)
}
