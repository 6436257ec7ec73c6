//! How drivers take a machine's outputs: at once and in full, or late, in part and in any order.

use crate::files::{Reader, Reading};
use crate::net::Rng;
use clawchat_core::client::{self, Client};
use clawchat_core::id::{OpId, TransferId};
use clawchat_core::limits::DATAGRAM_MAX;
use clawchat_core::ops::{Chunk, Outcome, Want};
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
    fn datagram<'d>(&mut self, now: Now, path: Path, datagram: &'d mut [u8]) -> Option<Chunk<'d>>;
    /// Input: a deadline.
    fn timeout(&mut self, now: Now);
    /// Input: an action was completed.
    fn completion(&mut self, now: Now, op: OpId, outcome: Outcome);
    /// Output: a datagram.
    fn transmit(&mut self, now: Now, out: &mut [u8]) -> Option<Transmit>;
    /// Output: bytes of a file that are wanted.
    fn want(&mut self, now: Now) -> Option<Want>;
    /// Output: those bytes, sealed.
    fn chunk(&mut self, now: Now, want: &Want, bytes: &[u8], out: &mut [u8]) -> Option<Transmit>;
    /// Output: an action.
    fn action(&mut self) -> Option<(OpId, Self::Action)>;
    /// Output: an event.
    fn event(&mut self) -> Option<Self::Event>;
    /// Output: the next deadline.
    fn deadline(&mut self) -> Option<Instant>;
}

macro_rules! machine {
    ($machine:ty, $module:ident) => {
        impl Machine for $machine {
            type Action = $module::Action;
            type Event = $module::Event;

            fn datagram<'d>(
                &mut self,
                now: Now,
                path: Path,
                datagram: &'d mut [u8],
            ) -> Option<Chunk<'d>> {
                self.handle_datagram(now, path, datagram)
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

            fn want(&mut self, now: Now) -> Option<Want> {
                self.file_want(now)
            }

            fn chunk(
                &mut self,
                now: Now,
                want: &Want,
                bytes: &[u8],
                out: &mut [u8],
            ) -> Option<Transmit> {
                self.send_chunk(now, want, bytes, out)
            }

            fn action(&mut self) -> Option<(OpId, Self::Action)> {
                self.poll_action()
            }

            fn event(&mut self) -> Option<Self::Event> {
                self.poll_event()
            }

            fn deadline(&mut self) -> Option<Instant> {
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

/// What came of machines' wishes to send bytes of files.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Datagrams to send.
    pub(crate) datagrams: Vec<(Path, Vec<u8>)>,
    /// There may be more.
    pub(crate) more: bool,
    /// This one could not be read.
    pub(crate) failed: Option<TransferId>,
    /// The machine broke its contract.
    pub(crate) complaint: Option<String>,
}

impl Taken {
    /// Serves a wish with as many bytes as there are; whether it was still one.
    fn serve<M: Machine>(
        &mut self,
        machine: &mut M,
        now: Now,
        want: &Want,
        bytes: &[u8],
        out: &mut [u8],
    ) -> bool {
        let Some(Transmit { path, len, segment }) = machine.chunk(now, want, bytes, out) else {
            return false;
        };
        if len == 0 {
            self.complaint = Some(format!("oracle 13: nothing was sealed for {want:?}"));
        }
        let parts = out[..len].chunks(segment.max(1));
        self.datagrams.extend(parts.map(|part| (path, part.to_vec())));
        true
    }

    fn ask<M: Machine>(&mut self, machine: &mut M, now: Now) -> Option<Want> {
        let want = machine.want(now);
        if machine.want(now) != want {
            self.complaint = Some(format!("oracle 13: asked twice: {want:?}"));
        }
        want
    }

    /// The bytes of a wish, if there are any now.
    fn read(&mut self, want: &Want, read: Reader<'_>) -> Option<Vec<u8>> {
        match read(want) {
            Ok(Reading::Bytes(bytes)) => return Some(bytes),
            Ok(Reading::NotYet) => {}
            Ok(Reading::Failed(transfer)) => self.failed = Some(transfer),
            Err(complaint) => self.complaint = Some(complaint),
        }
        None
    }
}

/// Sends all bytes of files that are wanted.
pub(crate) fn chunks<M: Machine>(
    machine: &mut M,
    now: Now,
    read: Reader<'_>,
    out: &mut [u8],
) -> Taken {
    let mut taken = Taken::default();
    while taken.datagrams.len() < FLOOD
        && let Some(want) = taken.ask(machine, now)
        && let Some(bytes) = taken.read(&want, read)
    {
        if !taken.serve(machine, now, &want, &bytes, &mut out[..DATAGRAM_MAX]) {
            taken.complaint = Some(format!("oracle 13: {want:?} is no longer wanted"));
        }
        if taken.complaint.is_some() {
            break;
        }
    }
    taken
}

/// Sends some of them: what was wanted before something else happened, or fewer bytes than wanted.
pub(crate) fn some_chunks<M: Machine>(
    machine: &mut M,
    now: Now,
    rng: &mut Rng,
    stale: &mut Option<Want>,
    read: Reader<'_>,
    out: &mut [u8],
) -> Taken {
    let mut taken = Taken::default();
    for turn in 0..1 + rng.index(3) {
        let before = stale.take().filter(|_| turn == 0);
        let is_stale = before.is_some();
        let Some(want) = before.or_else(|| taken.ask(machine, now)) else { return taken };
        taken.more = true;
        if !is_stale && rng.chance(200) {
            *stale = Some(want);
            return taken;
        }
        let Some(mut bytes) = taken.read(&want, read) else { return taken };
        if rng.chance(200) {
            bytes.truncate(1 + rng.index(bytes.len()));
        }
        let room = DATAGRAM_MAX + rng.index(out.len() - DATAGRAM_MAX + 1);
        let served = taken.serve(machine, now, &want, &bytes, &mut out[..room]);
        if !served && !is_stale {
            taken.complaint = Some(format!("oracle 13: {want:?} is no longer wanted"));
        }
    }
    taken
}
