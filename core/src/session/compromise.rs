//! COMPROMISED (PROTOCOL 7, SPEC 8) at either side of one session.

use super::{Context, Phase, Rotation, Session, SessionEvent};
use crate::crypto::sign;
use crate::error::{DropReason, Malformed, Violation};
use crate::id::Epoch;
use crate::limits::{REPLY_COPIES, SIGNAL_INTERVAL};
use crate::secret::Secret;
use crate::time::{Duration, Instant, Now};
use crate::transport::epochs::{Epochs, Found};
use crate::transport::path::Path;
use crate::transport::seal_signal_in;
use crate::wire::frame::{Frame, Frames};
use crate::wire::header::{Header, PacketType};
use crate::wire::json::Object;
use crate::wire::message::VERSION;
use crate::wire::secfile::SIGNAL;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use sha2::{Digest, Sha256};

/// Most characters of a `reason` that we send.
const REASON_MAX: usize = 100;

/// From this repetition on a signal also goes where the peer may have moved to.
const ELSEWHERE_FROM: u32 = 2;

/// Our signal is out.
#[derive(Debug)]
pub(super) struct Signalling {
    pub(super) epochs: Epochs,
    /// The epoch that sealed it, and that its ack counts in.
    epoch: Epoch,
    peer_mac: Secret<32>,
    datagram: Vec<u8>,
    /// Where else the peer may be, if it does not answer.
    elsewhere: Vec<Path>,
    repetitions: u32,
    targets: VecDeque<Path>,
    next: Instant,
    pub(super) until: Instant,
}

impl Signalling {
    pub(super) fn deadline(&self) -> Instant {
        self.next.min(self.until)
    }

    pub(super) fn poll(
        &mut self,
        now: Instant,
        home: Path,
        out: &mut [u8],
    ) -> Option<(Path, usize)> {
        if self.until <= now {
            return None;
        }
        if self.next <= now {
            self.next = now + SIGNAL_INTERVAL;
            self.targets = VecDeque::from([home]);
            if self.repetitions >= ELSEWHERE_FROM {
                self.targets.extend(self.elsewhere.iter().copied().filter(|path| *path != home));
            }
            self.repetitions += 1;
        }
        let path = self.targets.pop_front()?;
        let len = self.datagram.len();
        out.get_mut(..len)?.copy_from_slice(&self.datagram);
        Some((path, len))
    }
}

/// The peer's signal is in.
#[derive(Debug)]
pub(super) struct Replacing {
    epochs: Epochs,
    epoch: Epoch,
    signal_hash: [u8; 32],
    path: Path,
}

/// The peer's signal is acknowledged.
#[derive(Debug)]
pub(super) struct Echo {
    ack: Vec<u8>,
    signal_hash: [u8; 32],
    pub(super) until: Instant,
    left: u32,
    to: Option<Path>,
}

impl Echo {
    pub(super) fn poll(&mut self, out: &mut [u8]) -> Option<(Path, usize)> {
        let path = self.to.take()?;
        let len = self.ack.len();
        out.get_mut(..len)?.copy_from_slice(&self.ack);
        Some((path, len))
    }
}

impl Session {
    /// Raises COMPROMISED: from here on nothing is sealed but the one signal (PROTOCOL 7).
    ///
    /// False when there are no established keys to sign with; they are wiped then.
    pub(crate) fn declare_compromised(&mut self, now: Now, reason: &str) -> bool {
        self.phase.wake(self.kept());
        let phase = core::mem::replace(&mut self.phase, Phase::Over);
        let (Phase::Open(transport) | Phase::Leaving(transport, _)) = phase else {
            if let keep @ (Phase::Signalling(_) | Phase::Replacing(_) | Phase::Echo(_)) = phase {
                self.phase = keep;
            }
            return false;
        };
        self.rotation = Rotation::default();
        let mut epochs = transport.epochs;
        epochs.forget_next();
        let epoch = epochs.current();
        // Nothing that grows when it is escaped: the signal must fit one datagram.
        let plain = reason.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\'));
        let reason: String = plain.take(REASON_MAX).collect();
        let object = Object::new()
            .with("type", "compromised")
            .with("version", VERSION)
            .with("signal", SIGNAL)
            .with("timestamp", now.wall.secs())
            .with("connection_id", self.connection_id.to_string())
            .with("reason", reason);
        let Some(datagram) = signed(&mut epochs, epoch, now, PacketType::Compromised, object)
        else {
            self.signal_done(false);
            return false;
        };
        let peer_mac = epochs.send().peer_mac.duplicate();
        let until = now.mono + self.response_timeout;
        let next = now.mono;
        let (elsewhere, repetitions, targets) = (Vec::new(), 0, VecDeque::new());
        let signal = Signalling {
            epochs,
            epoch,
            peer_mac,
            datagram,
            elsewhere,
            repetitions,
            targets,
            next,
            until,
        };
        self.phase = Phase::Signalling(Box::new(signal));
        true
    }

    /// Client: where the server may be if it does not answer our signal: whoever moved while this side
    /// did not notice must learn of it all the same.
    pub(crate) fn signal_elsewhere(&mut self, paths: Vec<Path>) {
        if let Phase::Signalling(signal) = &mut self.phase {
            signal.elsewhere = paths;
        }
    }

    /// A signal of the peer while the session is open.
    pub(super) fn take_compromised(
        &mut self,
        cx: &Context<'_>,
        path: Path,
        kind: PacketType,
        epoch: Epoch,
        object: &Object,
    ) -> Result<(), Violation> {
        let Some(transport) = self.phase.transport() else { return Ok(()) };
        if kind != PacketType::Compromised {
            return Err(Violation::MessageSide);
        }
        // Under the previous epoch it counts only until the newer one is opened.
        let Some(keys) = transport.epochs().send_of(epoch) else { return Ok(()) };
        check_signal(object, &keys.peer_mac, &self.connection_id.to_string())?;
        self.phase.wake(self.kept());
        let phase = core::mem::replace(&mut self.phase, Phase::Over);
        if let Phase::HalfOpen(transport) | Phase::Open(transport) | Phase::Leaving(transport, _) =
            phase
        {
            self.replace(cx.now, transport.epochs, epoch, path);
        }
        Ok(())
    }

    fn replace(&mut self, _now: Now, mut epochs: Epochs, epoch: Epoch, path: Path) {
        self.rotation = Rotation::default();
        epochs.forget_next();
        // The hash is set by `note_signal`, which sees the datagram.
        let replacing = Replacing { epochs, epoch, signal_hash: [0; 32], path };
        self.phase = Phase::Replacing(Box::new(replacing));
        self.events.clear();
        self.events.push_back(SessionEvent::Compromised);
    }

    /// Remembers the datagram that brought a signal, as it was on the wire, to know its copies.
    pub(crate) fn note_signal(&mut self, hash: [u8; 32]) {
        if let Phase::Replacing(replacing) = &mut self.phase
            && replacing.signal_hash == [0; 32]
        {
            replacing.signal_hash = hash;
        }
    }

    /// The role has done its part: seals the ack, wipes all keys, and keeps the ack for copies.
    pub(crate) fn acknowledge(&mut self, now: Now, new_file_ready: bool) {
        self.phase = match core::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Replacing(replacing) => {
                let Replacing { mut epochs, epoch, signal_hash, path } = *replacing;
                let object = Object::new()
                    .with("type", "compromised_ack")
                    .with("version", VERSION)
                    .with("timestamp", now.wall.secs())
                    .with("connection_id", self.connection_id.to_string())
                    .with("action", "keys_deleted")
                    .with("new_file_ready", new_file_ready);
                match signed(&mut epochs, epoch, now, PacketType::CompromisedAck, object) {
                    Some(ack) => Phase::Echo(Box::new(Echo {
                        ack,
                        signal_hash,
                        until: now.mono + self.response_timeout,
                        left: REPLY_COPIES,
                        to: Some(path),
                    })),
                    None => Phase::Over,
                }
            }
            other => other,
        };
    }

    /// Answers a copy of the acknowledged signal with the same bytes.
    pub(crate) fn is_copy_of_signal(&mut self, path: Path, hash: &[u8; 32]) -> bool {
        let Phase::Echo(echo) = &mut self.phase else { return false };
        let copy = echo.signal_hash == *hash;
        if copy && echo.left > 0 {
            echo.left -= 1;
            echo.to = Some(path);
        }
        copy
    }

    /// Whether the peer's signal waits for its ack.
    pub(crate) const fn is_replacing(&self) -> bool {
        matches!(self.phase, Phase::Replacing(_))
    }

    /// Whether copies of a signal may still come for it.
    pub(crate) const fn echoes(&self) -> bool {
        matches!(self.phase, Phase::Echo(_))
    }

    /// While our own signal is out, only its ack and the peer's own signal count.
    pub(super) fn handle_while_ending(
        &mut self,
        cx: &Context<'_>,
        path: Path,
        header: &Header,
        found: Found,
        datagram: &mut [u8],
    ) -> Result<(), DropReason> {
        let Phase::Signalling(signal) = &mut self.phase else { return Err(DropReason::Ending) };
        let pto = Duration::ZERO;
        let opened = signal.epochs.open(cx.now.mono, || pto, header, found, datagram)?;
        let plaintext = &datagram[opened.plaintext];
        let object = Frames::new(plaintext).find_map(|frame| match frame {
            Ok(Frame::Signal(json)) => Object::parse(json).ok(),
            _ => None,
        });
        let Some(object) = object else { return Err(DropReason::Ending) };
        let id = self.connection_id.to_string();
        match header.kind {
            PacketType::CompromisedAck
                if opened.epoch == signal.epoch
                    && check_ack(&object, &signal.peer_mac, &id).is_ok() =>
            {
                self.signal_done(true);
            }
            PacketType::Compromised => {
                let keys = signal.epochs.send_of(opened.epoch);
                if keys.is_some_and(|keys| check_signal(&object, &keys.peer_mac, &id).is_ok())
                    && let Phase::Signalling(signal) =
                        core::mem::replace(&mut self.phase, Phase::Over)
                {
                    // Crossing signals: it counts as the ack, and is acknowledged itself.
                    self.replace(cx.now, signal.epochs, opened.epoch, path);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Our signal was acknowledged, or the time for it is over: wipes in either case.
    pub(super) fn signal_done(&mut self, acknowledged: bool) {
        self.phase = Phase::Over;
        self.events.push_back(SessionEvent::Wiped { acknowledged });
    }
}

/// SHA-256 of a datagram, by which copies are known.
pub(crate) fn datagram_hash(datagram: &[u8]) -> [u8; 32] {
    Sha256::digest(datagram).into()
}

/// Signs an object in `epoch` and seals it there.
fn signed(
    epochs: &mut Epochs,
    epoch: Epoch,
    now: Now,
    kind: PacketType,
    object: Object,
) -> Option<Vec<u8>> {
    let signature = sign::signature(&epochs.send_of(epoch)?.own_mac, &object)?;
    let json = object.with("signature", signature).encode();
    seal_signal_in(epochs, epoch, now, kind, &json)
}

fn check_signal(object: &Object, mac: &Secret<32>, connection_id: &str) -> Result<(), Violation> {
    let fields = || -> Result<(), Malformed> {
        object.expect("type", "compromised")?;
        object.expect("version", VERSION)?;
        object.expect("signal", SIGNAL)?;
        object.uint("timestamp")?;
        object.text("reason")?;
        object.expect("connection_id", connection_id)
    };
    check(fields(), object, mac)
}

fn check_ack(object: &Object, mac: &Secret<32>, connection_id: &str) -> Result<(), Violation> {
    let fields = || -> Result<(), Malformed> {
        object.expect("type", "compromised_ack")?;
        object.expect("version", VERSION)?;
        object.expect("action", "keys_deleted")?;
        object.uint("timestamp")?;
        object.bool("new_file_ready")?;
        object.expect("connection_id", connection_id)
    };
    check(fields(), object, mac)
}

fn check(
    fields: Result<(), Malformed>,
    object: &Object,
    mac: &Secret<32>,
) -> Result<(), Violation> {
    if fields.is_ok() && sign::verify(mac, object) { Ok(()) } else { Err(Violation::BadSignal) }
}
