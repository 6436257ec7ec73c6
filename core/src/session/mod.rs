//! Floor 4: what the messages of one peer mean.

mod batch;
mod compromise;
mod endings;
mod moves;
mod phase;
mod ping;
mod rotation;
mod transfer;

use crate::budget::Budget;
use crate::crypto::aead::CipherProvider;
use crate::crypto::derive::{ConnectionId, Direction};
use crate::error::{CloseReason, DropReason, SendError, Violation};
use crate::id::Epoch;
use crate::limits::MESSAGE_MAX;
use crate::queue::Queue;
use crate::random::Random;
use crate::spare::Spare;
use crate::time::{Duration, Instant, Now};
use crate::transport::channel::Token;
use crate::transport::epochs::{Epochs, Found, Opened};
use crate::transport::path::Path;
use crate::transport::rest::{Kept, View};
use crate::transport::{Timer, Transport};
use crate::wire::header::{Header, PacketType};
use crate::wire::json::Object;
use crate::wire::message::{Message, Presence, Side, Status};
use alloc::boxed::Box;
use phase::Phase;
use rotation::Rotation;
use transfer::Transfers;

pub(crate) use batch::Batch;
pub(crate) use compromise::datagram_hash;
pub(crate) use transfer::{ChunkAt, FileEvent, Number};

/// What a session tells the role above it. Drained within the input that caused it.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// The peer is in epoch 1.
    Established,
    /// A message of the channel that is the role's to act on.
    Message(Message),
    /// The message pushed with this token was wholly acknowledged.
    Acked(Token),
    /// A rotation is complete.
    KeysRotated(Epoch),
    /// The session is on another path now.
    Moved { from: Path, to: Path },
    /// The peer raised COMPROMISED: `acknowledge` is called once the role has done its part.
    Compromised,
    /// Our own signal is through with: acknowledged, or given up. All keys are gone.
    Wiped { acknowledged: bool },
    /// Something about a file (PROTOCOL 5.6).
    File(Number, FileEvent),
    /// All keys are gone.
    Closed(CloseReason),
}

/// What every input of a session needs from its machine.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) random: &'a mut Random,
}

/// How a session is made: its epoch-1 keys and what it must know.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) side: Side,
    pub(crate) connection_id: ConnectionId,
    pub(crate) path: Path,
    pub(crate) epochs: Epochs,
    pub(crate) response_timeout: Duration,
    pub(crate) rotation_interval: Duration,
    pub(crate) provider: &'static dyn CipherProvider,
}

/// One peer, from the keys of epoch 1 to their end.
#[derive(Debug)]
pub(crate) struct Session {
    side: Side,
    connection_id: ConnectionId,
    path: Path,
    response_timeout: Duration,
    rotation_interval: Duration,
    provider: &'static dyn CipherProvider,
    phase: Phase,
    /// What goes with a phase that rotates keys: every way out of it forgets the key pair offered.
    rotation: Rotation,
    /// Server: rotations that the client may offer unasked; all of them while it is not there.
    offers: Option<Box<Budget>>,
    transfers: Spare<Transfers>,
    events: Queue<SessionEvent>,
    /// Bytes sealed and opened when last looked at.
    traffic: (u64, u64),
}

impl Session {
    pub(crate) fn new(now: Instant, setup: Setup) -> Self {
        let Setup { side, connection_id, path, epochs, .. } = setup;
        // Many addresses may stand in front of a client, but a client knows its server's.
        let transport = Transport::new(now, epochs, path, side == Side::Server);
        Self {
            side,
            connection_id,
            path,
            response_timeout: setup.response_timeout,
            rotation_interval: setup.rotation_interval,
            provider: setup.provider,
            phase: Phase::HalfOpen(Box::new(transport)),
            rotation: Rotation::default(),
            offers: None,
            transfers: Spare::default(),
            events: Queue::new(),
            traffic: (0, 0),
        }
    }

    /// The direction that this side seals.
    const fn direction(&self) -> Direction {
        match self.side {
            Side::Client => Direction::C2s,
            Side::Server => Direction::S2c,
        }
    }

    const fn peer(&self) -> Side {
        match self.side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    /// What a transport at rest is woken with.
    const fn kept(&self) -> Kept {
        Kept { home: self.path, traffic: self.traffic }
    }

    pub(crate) const fn path(&self) -> Path {
        self.path
    }

    pub(crate) const fn is_half_open(&self) -> bool {
        matches!(self.phase, Phase::HalfOpen(_))
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_) | Phase::Resting(_))
    }

    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// The sealing epoch, while there are keys.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.phase.epochs().map(Epochs::current)
    }

    /// How many epochs there are keys of.
    pub(crate) fn epochs_held(&self) -> usize {
        self.phase.epochs().map_or(0, Epochs::held)
    }

    pub(crate) const fn connection_id(&self) -> ConnectionId {
        self.connection_id
    }

    /// The smoothed round-trip time, once measured.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.phase.transport()?.smoothed()
    }

    /// The probe timeout, without back-off; zero once there are no keys.
    pub(crate) fn pto(&self) -> Duration {
        self.phase.transport().map_or(Duration::ZERO, View::pto)
    }

    /// Bytes of datagrams sealed and opened.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        self.phase.transport().and_then(View::traffic).unwrap_or(self.traffic)
    }

    /// Whether [`Self::poll_event`] has something.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// Whose keys a datagram was made with, if this session's (opening step 2).
    pub(crate) fn recognise(&self, header: &Header) -> Option<Found> {
        self.phase.epochs()?.recognise(header)
    }

    /// Takes a datagram that [`Self::recognise`] knows.
    pub(crate) fn handle_datagram(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        header: &Header,
        found: Found,
        datagram: &mut [u8],
    ) -> Result<Option<ChunkAt>, DropReason> {
        let Some(transport) = self.phase.transport() else {
            return self.handle_while_ending(cx, path, header, found, datagram).map(|()| None);
        };
        if let Some(reason) = transport.end(cx.now.mono) {
            self.close(reason);
            return Err(DropReason::Ending);
        }
        let opened = self.open_packet(cx.now.mono, header, found, datagram)?;
        if opened.completes {
            self.advance(path, opened.epoch);
        }
        let (now, len) = (cx.now.mono, datagram.len());
        if let Some(transport) = self.phase.awake_mut() {
            transport.arrived(now, path, opened.seq, len, &mut cx.random.public);
            self.traffic = transport.traffic();
            let plaintext = &datagram[opened.plaintext.clone()];
            if let Some(chunk) = transport.take_lone_chunk(now, header.kind, &opened, plaintext) {
                return Ok(self.take_lone_chunk(cx, chunk, opened.plaintext.end));
            }
        }
        let chunk = self.take_frames(cx, path, header.kind, &opened, datagram);
        if let Err(violation) = &chunk {
            self.violate(cx.now, *violation);
        }
        self.end_files();
        self.left();
        self.keep_keys_fresh(cx);
        self.note_move();
        Ok(chunk.unwrap_or(None))
    }

    /// Opens a packet that [`Self::recognise`] knows. One that does not open wakes nobody.
    fn open_packet(
        &mut self,
        now: Instant,
        header: &Header,
        found: Found,
        datagram: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let Phase::Resting(resting) = &mut self.phase else {
            let transport = self.phase.awake_mut().ok_or(DropReason::NoKey)?;
            return transport.open(now, header, found, datagram);
        };
        let pto = View::Resting(resting).pto();
        let opened = resting.epochs.open(now, || pto, header, found, datagram)?;
        if let Some(transport) = self.phase.transport_mut(self.kept()) {
            transport.received(now, datagram.len());
        }
        Ok(opened)
    }

    /// Bytes of a file that came alone: of all that may follow from a datagram, only their count matters.
    fn take_lone_chunk(
        &mut self,
        cx: &mut Context<'_>,
        chunk: (u64, u64, usize),
        end: usize,
    ) -> Option<ChunkAt> {
        let taken = self.take_chunk(cx.now, chunk, end);
        if let Err(violation) = &taken {
            self.violate(cx.now, *violation);
        }
        if self.phase.epochs().is_some_and(Epochs::is_due) {
            self.keep_keys_fresh(cx);
        }
        taken.unwrap_or(None)
    }

    /// A packet of a new epoch opened: the session is established, or a rotation complete.
    fn advance(&mut self, path: Path, epoch: Epoch) {
        self.phase.establish();
        self.rotation.complete(epoch);
        if epoch == Epoch(1) {
            // A server's path is that of the packet which establishes the session; a client has taken
            // the one that the answer came by, and any other is to be proven.
            if self.side == Side::Server {
                self.rehome(path);
            }
            self.events.push_back(SessionEvent::Established);
        } else {
            self.events.push_back(SessionEvent::KeysRotated(epoch));
        }
    }

    fn take_frames(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        kind: PacketType,
        opened: &Opened,
        datagram: &[u8],
    ) -> Result<Option<ChunkAt>, Violation> {
        let Some(transport) = self.phase.awake_mut() else { return Ok(None) };
        let (epoch, number) = (opened.epoch, (opened.seq, opened.completes));
        let plaintext = &datagram[opened.plaintext.clone()];
        let inbox = transport.process(cx.now.mono, path, kind, number, plaintext)?;
        self.events.extend(transport.delivered.drain(..).map(SessionEvent::Acked));
        for json in inbox.signals {
            let object = Object::parse(json).map_err(Violation::Frames)?;
            self.take_signal(cx, path, kind, epoch, &object)?;
        }
        while let Some((kind, bytes)) = self.phase.awake_mut().and_then(Transport::pop_message) {
            if let Some(message) = Message::read(&bytes, kind, self.peer())? {
                self.take_message(cx, message)?;
            }
        }
        let Some(chunk) = inbox.chunk else { return Ok(None) };
        self.take_chunk(cx.now, chunk, opened.plaintext.end)
    }

    fn take_signal(
        &mut self,
        cx: &Context<'_>,
        path: Path,
        kind: PacketType,
        epoch: Epoch,
        object: &Object,
    ) -> Result<(), Violation> {
        match object.text("type").map_err(Violation::Message)? {
            "compromised" => self.take_compromised(cx, path, kind, epoch, object),
            // Nobody asked for it.
            "compromised_ack" => Err(Violation::BadSignal),
            _ => match Message::from_object(object, kind, self.peer())? {
                // A fatal error is a SIGNAL, and the only message that is one (PROTOCOL 5.3).
                Some(Message::Error(error)) if error.fatal => {
                    self.take_fatal(error);
                    Ok(())
                }
                Some(_) => Err(Violation::FrameInType),
                None => Ok(()),
            },
        }
    }

    fn take_message(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Violation> {
        if self.side == Side::Server && !self.rotation.has_switched() {
            // Message 0 of a client's channel is its switch (PROTOCOL 5.1).
            return match message {
                Message::Switch { epoch } => self.take_switch(epoch),
                _ => Err(Violation::RotationStep),
            };
        }
        match message {
            Message::Trigger { epoch, .. } => self.take_trigger(cx, epoch),
            Message::Offer { epoch, public_key, .. } => self.take_offer(cx, epoch, &public_key),
            Message::Answer { epoch, public_key, .. } => {
                self.take_answer(cx.now, epoch, &public_key)
            }
            Message::Switch { epoch } => self.take_switch(epoch),
            Message::Error(error) if error.fatal => Err(Violation::FrameInType),
            Message::Presence(Presence { status: Status::Offline, .. })
                if self.side == Side::Server =>
            {
                self.take_goodbye(cx.now);
                Ok(())
            }
            Message::File { transfer, what } => self.take_file(cx.now, transfer, what),
            Message::PortRotation(announced) => self.take_announcement(announced),
            other @ (Message::CredentialStored { .. }
            | Message::Error(_)
            | Message::Chat(_)
            | Message::Receipt { .. }
            | Message::Presence(_)
            | Message::Roster { .. }) => {
                self.events.push_back(SessionEvent::Message(other));
                Ok(())
            }
        }
    }

    /// Queues a message.
    pub(crate) fn send(
        &mut self,
        message: &Message,
        token: Option<Token>,
    ) -> Result<(), SendError> {
        let bytes = message.encode();
        if bytes.len() > MESSAGE_MAX {
            return Err(SendError::Size);
        }
        let Some(transport) = self.phase.transport_mut(self.kept()) else {
            return Err(SendError::Closed);
        };
        if transport.sending.push(message.packet_type(), bytes, token) {
            Ok(())
        } else {
            Err(SendError::WindowFull)
        }
    }

    /// Queues an answer that we owe; a peer that lets too many pile up is cut off.
    pub(crate) fn owe(&mut self, now: Now, message: &Message, token: Option<Token>) {
        if self.send(message, token) == Err(SendError::WindowFull) {
            self.violate(now, Violation::Backlog);
        }
    }

    /// Whether a message would go out without waiting for others.
    pub(crate) fn has_room(&self) -> bool {
        self.phase.transport().is_some_and(View::has_room)
    }

    /// A deadline may have come.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        if let Some(reason) = self.phase.transport().and_then(|transport| transport.end(now.mono)) {
            self.close(reason);
            return;
        }
        if let Phase::Resting(resting) = &mut self.phase
            && !resting.on_timeout(now.mono)
        {
            self.keep_keys_fresh(cx);
            return;
        }
        if let Some(transport) = self.phase.transport_mut(self.kept()) {
            let rests = transport.on_timeout(now.mono, &mut cx.random.public);
            self.note_move();
            self.keep_keys_fresh(cx);
            if rests {
                self.events.rest();
                self.offers.take_if(|offers| offers.is_full(now.mono));
                self.transfers.rest();
                self.phase.rest();
            }
        }
        match &mut self.phase {
            Phase::Leaving(_, until) if *until <= now.mono => self.close(CloseReason::Goodbye),
            Phase::Signalling(signal) if signal.until <= now.mono => self.signal_done(false),
            Phase::Signalling(signal) => signal.epochs.on_timeout(now.mono),
            Phase::Echo(echo) if echo.until <= now.mono => self.phase = Phase::Over,
            _ => {}
        }
    }

    pub(crate) fn deadline(&self) -> Option<(Timer, Instant)> {
        self.phase.earliest().or(Timer::KeyRotation, self.rotation_deadline()).0
    }

    /// Writes the next datagram that is due.
    pub(crate) fn poll_transmit(&mut self, now: Now, out: &mut [u8]) -> Option<(Path, usize)> {
        let home = self.path;
        if self.phase.transport().is_some_and(|transport| transport.end(now.mono).is_some()) {
            // The deadline for it has come.
            return None;
        }
        match &mut self.phase {
            // A server seals in an epoch once it has opened a packet of it.
            Phase::HalfOpen(_) if self.side == Side::Server => None,
            Phase::HalfOpen(transport) | Phase::Open(transport) | Phase::Leaving(transport, _) => {
                let sent = transport.poll_transmit(now, out);
                self.traffic = transport.traffic();
                sent
            }
            Phase::Signalling(signal) => signal.poll(now.mono, home, out),
            Phase::Echo(echo) => echo.poll(out),
            Phase::Parting(parting) => {
                let len = parting.poll(now.mono, out);
                if parting.left == 0 {
                    self.phase = Phase::Over;
                }
                len.map(|len| (home, len))
            }
            Phase::Resting(_) | Phase::Replacing(_) | Phase::Over => None,
        }
    }
}
