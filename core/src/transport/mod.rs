//! Floor 3: one peer's packets. Reliability knows nothing of what messages mean; it opens and seals,
//! acknowledges, repairs, and keeps time.

pub(crate) mod ack;
pub(crate) mod channel;
pub(crate) mod congestion;
mod cubic;
pub(crate) mod epochs;
mod mtu;
mod outbox;
mod pacing;
pub mod path;
mod ping;
pub(crate) mod recovery;
pub(crate) mod rest;

mod builder;

use crate::error::{CloseReason, DropReason, Violation};
use crate::limits::{DATAGRAM_BASE, HEADER_LEN, IDLE_TIMEOUT, KEEPALIVE, TAG_LEN};
use crate::random::Stream;
use crate::time::{Duration, Instant, Now};
use crate::wire::cursor::Writer;
use crate::wire::frame::{Ack, Frame, Frames, lone_chunk, write_signal};
use crate::wire::header::{Header, PacketType};
use ack::Acks;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use channel::{May, RecvChannel, SendChannel, Token};
use core::ops::Range;
use epochs::{Epochs, Found, Opened};
use outbox::Outbox;
use path::{Pace, Path, Paths};
use ping::Asked;
use recovery::{Recovery, Settled};
use zeroize::Zeroizing;

/// Responses that wait to be sent; a driver that drains late loses the older ones, and the peer asks
/// again.
const RESPONSES: usize = 4;

/// Longest time that an answer by a path is waited for.
const PATH_PTO_MAX: Duration = Duration::from_secs(4);
/// After so much silence, and a PTO at least, a packet is a sign of life.
const SILENCE: Duration = Duration::from_secs(1);

/// What a packet brought besides acknowledgements.
#[derive(Debug, Default)]
pub(crate) struct Inbox<'d> {
    /// SIGNAL frames, not yet read.
    pub(crate) signals: Vec<&'d [u8]>,
    /// The CHUNK that it ended with: transfer, offset and length.
    pub(crate) chunk: Option<(u64, u64, usize)>,
}

/// Which deadline comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// An acknowledgement must go out.
    Ack,
    /// A packet is lost, or a probe is due.
    LossDetection,
    /// Nothing was sent for 20 s.
    Keepalive,
    /// Nothing was received for 60 s.
    Idle,
    /// Keys of the previous epoch go.
    PreviousEpoch,
    /// A key rotation is due, overdue, or the keys are worn out.
    KeyRotation,
    /// A path is challenged, or its silence judged.
    PathValidation,
    /// The port is to be prepared, announced, opened or closed.
    PortRotation,
    /// A secret is to be retired.
    Retirement,
    /// The hello or a signal is repeated, or its answer is given up.
    Repeat,
    /// Something remembered for a time is forgotten.
    Forget,
    /// An action was never completed.
    Completion,
    /// A client tries to connect again.
    Reconnect,
    /// Something that was held back for its rate may go.
    Pacing,
}

/// The first of several deadlines, and of those that come at once the one named first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Earliest(pub(crate) Option<(Timer, Instant)>);

impl Earliest {
    /// With another one, if there is one.
    pub(crate) fn or(self, timer: Timer, at: Option<Instant>) -> Self {
        match (self.0, at) {
            (Some((_, first)), Some(at)) if first <= at => self,
            (_, Some(at)) => Self(Some((timer, at))),
            (_, None) => self,
        }
    }
}

/// One peer's packets.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) epochs: Epochs,
    acks: Acks,
    pub(crate) recovery: Recovery,
    pub(crate) paths: Paths,
    /// The path of the last [`Self::take_move`].
    known_home: Path,
    pub(crate) sending: SendChannel,
    receiving: RecvChannel,
    /// Files that we send.
    pub(crate) outbox: Outbox,
    /// RESPONSE frames, and the path each must leave by.
    responses: VecDeque<(Path, [u8; 8])>,
    /// Tokens of messages that the peer acknowledged.
    pub(crate) delivered: Vec<Token>,
    /// What became of packets: empty but for its room between two inputs.
    settled: Settled,
    /// A ping is to go out.
    ping_due: bool,
    /// The ping that the user asked for.
    asked: Asked,
    /// When a datagram last left by the session's path.
    last_sent: Instant,
    last_received: Instant,
    /// Bytes of datagrams, sealed and opened, over all epochs.
    sent_bytes: u64,
    received_bytes: u64,
}

impl Transport {
    /// Of a session that begins at `home`; `doubts` as for [`Paths::new`].
    pub(crate) fn new(now: Instant, epochs: Epochs, home: Path, doubts: bool) -> Self {
        Self {
            epochs,
            paths: Paths::new(home, doubts),
            known_home: home,
            acks: Acks::default(),
            recovery: Recovery::default(),
            sending: SendChannel::default(),
            receiving: RecvChannel::default(),
            outbox: Outbox::default(),
            responses: VecDeque::new(),
            delivered: Vec::new(),
            settled: Settled::default(),
            ping_due: false,
            asked: Asked::default(),
            last_sent: now,
            last_received: now,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }

    /// Opens a packet that [`Epochs::recognise`] knows.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        header: &Header,
        found: Found,
        datagram: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let pto = || self.recovery.rtt.pto();
        let opened = self.epochs.open(now, pto, header, found, datagram)?;
        self.received(now, datagram.len());
        Ok(opened)
    }

    /// A packet of `len` bytes opened.
    pub(crate) fn received(&mut self, now: Instant, len: usize) {
        let silence = now.since(self.last_received);
        if silence >= SILENCE && silence >= self.recovery.rtt.pto() {
            // Whoever is heard again may hear again: what was lost meanwhile need not wait any longer.
            self.recovery.forget_backoff();
        }
        self.last_received = now;
        self.received_bytes += len as u64;
    }

    /// Takes note of the path that a packet which opened came by.
    pub(crate) fn arrived(
        &mut self,
        now: Instant,
        path: Path,
        seq: u64,
        len: usize,
        random: &mut Stream,
    ) {
        let pace = || pace(&self.recovery, now);
        self.paths.opened(pace, path, seq, len, random);
    }

    fn pace(&self, now: Instant) -> Pace {
        pace(&self.recovery, now)
    }

    /// The move since the last call, if there was one: from where, and where to.
    pub(crate) fn take_move(&mut self) -> Option<(Path, Path)> {
        let (from, to) = (self.known_home, self.paths.home());
        if from == to {
            return None;
        }
        self.known_home = to;
        self.acks.moved();
        // The silence was that of the path which is left.
        self.recovery.forget_backoff();
        if from.remote.ip() == to.remote.ip() {
            self.recovery.reset_size();
        } else {
            self.recovery.reset_path();
        }
        Some((from, to))
    }

    /// Bytes of datagrams sealed and opened, over all epochs.
    pub(crate) const fn traffic(&self) -> (u64, u64) {
        (self.sent_bytes, self.received_bytes)
    }

    /// Takes a packet that opened, completes no rotation and holds nothing but bytes of a file: of which
    /// transfer, from where on, and how many. Else `None`, and nothing is changed.
    pub(crate) fn take_lone_chunk(
        &mut self,
        now: Instant,
        kind: PacketType,
        opened: &Opened,
        plaintext: &[u8],
    ) -> Option<(u64, u64, usize)> {
        if kind != PacketType::File || opened.completes {
            return None;
        }
        let (transfer, offset, bytes) = lone_chunk(plaintext)?;
        self.acks.opened(now, opened.seq, plaintext.len(), true, false);
        Some((transfer, offset, bytes.len()))
    }

    /// Takes the frames of a packet that opened, all or, when one is bad, none.
    pub(crate) fn process<'d>(
        &mut self,
        now: Instant,
        path: Path,
        kind: PacketType,
        (seq, completes): (u64, bool),
        plaintext: &'d [u8],
    ) -> Result<Inbox<'d>, Violation> {
        for frame in Frames::new(plaintext) {
            if !frame.map_err(Violation::Frames)?.allowed_in(kind) {
                return Err(Violation::FrameInType);
            }
        }
        let mut inbox = Inbox::default();
        let mut challenge = None;
        for frame in Frames::new(plaintext).flatten() {
            match frame {
                Frame::Padding => {}
                Frame::Response(data) => {
                    // What follows from it is seen by `take_move`.
                    let _moved = self.paths.answered(self.pace(now), path, &data);
                }
                Frame::Ack(ack) => self.acknowledged(now, &ack)?,
                Frame::Message(fragment) => self.receiving.fragment(kind, &fragment)?,
                Frame::Challenge(data) => challenge = Some(data),
                Frame::Signal(json) => inbox.signals.push(json),
                Frame::Chunk { transfer, offset, bytes } => {
                    inbox.chunk = Some((transfer, offset, bytes.len()));
                }
            }
        }
        if let Some(data) = challenge.filter(|_| !self.paths.is_left(path)) {
            if self.responses.len() >= RESPONSES {
                self.responses.pop_front();
            }
            self.responses.push_back((path, data));
        }
        let eliciting = kind != PacketType::Pong;
        // The peer of a rotation waits to know that it is complete.
        let at_once = kind == PacketType::Ping || completes;
        self.acks.opened(now, seq, plaintext.len(), eliciting, at_once);
        Ok(inbox)
    }

    fn acknowledged(&mut self, now: Instant, ack: &Ack<'_>) -> Result<(), Violation> {
        let next = self.epochs.next_seq();
        let taken = self.recovery.on_ack(now, ack, next, &mut self.settled);
        self.settle(now);
        taken
    }

    /// Takes what became of packets in flight.
    fn settle(&mut self, now: Instant) {
        let Settled { acked, lost } = &mut self.settled;
        self.ping_due |= self.asked.settle(now, acked, lost);
        // Chunks of one batch lie side by side: one range for all of them.
        let mut run = None;
        for sent in acked.drain(..) {
            for (id, range) in sent.fragments {
                self.sending.acked(id, range, &mut self.delivered);
            }
            if let Some(largest) = sent.acked {
                self.acks.acknowledged(largest);
            }
            if let Some(chunk) = sent.chunk
                && let Some((transfer, range)) = joined(&mut run, chunk)
            {
                self.outbox.acked(transfer, range);
            }
        }
        if let Some((transfer, range)) = run {
            self.outbox.acked(transfer, range);
        }
        for sent in lost.drain(..) {
            for (id, range) in sent.fragments {
                self.sending.lost(id, range);
            }
            if let Some((transfer, range)) = sent.chunk {
                self.outbox.lost(transfer, range);
            }
        }
    }

    /// What of our files may go now: which transfer, from where, and how many bytes at most.
    pub(crate) fn file_want(&mut self, now: Instant) -> Option<(u64, u64, usize)> {
        if self.epochs.is_stopped() {
            return None;
        }
        let (transfer, range) = self.outbox.next()?;
        let count = self.recovery.batch(now);
        let len = builder::batch_room(self.recovery.datagram_size(), count, transfer, &range);
        (len > 0).then_some((transfer, range.start, len))
    }

    /// Seals bytes of a file, in a batch of equal datagrams: its path, length and segment length.
    pub(crate) fn send_chunk(
        &mut self,
        now: Now,
        transfer: u64,
        offset: u64,
        bytes: &[u8],
        out: &mut [u8],
    ) -> Option<(Path, usize, usize)> {
        let range = offset..offset + bytes.len() as u64;
        if bytes.is_empty() || self.epochs.is_stopped() || !self.outbox.wants(transfer, &range) {
            return None;
        }
        let segment = self.recovery.datagram_size();
        let len = builder::chunks(self, now, transfer, offset, bytes, out);
        Some((self.paths.home(), len, segment))
    }

    /// The next whole message, in order.
    pub(crate) fn pop_message(&mut self) -> Option<(PacketType, Zeroizing<Vec<u8>>)> {
        self.receiving.pop()
    }

    /// Why the session ends now, if it does: silence (PROTOCOL 6) or worn keys (PROTOCOL 5.1).
    pub(crate) fn end(&self, now: Instant) -> Option<CloseReason> {
        ended(now, self.last_received, &self.epochs)
    }

    /// What of the channel the sealing epoch still carries.
    fn may(&self) -> May {
        if self.epochs.is_stopped() { May::Repair } else { May::Begin }
    }

    /// True when it has gone to rest by that.
    pub(crate) fn on_timeout(&mut self, now: Instant, random: &mut Stream) -> bool {
        self.epochs.on_timeout(now);
        let pace = self.pace(now);
        let _moved = self.paths.on_timeout(pace, random);
        let probing = self.recovery.on_timeout(now, &mut self.settled);
        self.settle(now);
        if probing && !self.sending.has_next(self.may()) {
            // A probe repeats what is in flight, if that can be, else it is a ping.
            let again = self.recovery.oldest_fragments().next().cloned();
            if let Some((id, range)) = again {
                self.sending.lost(id, range);
            }
            self.ping_due |= !self.sending.has_next(self.may());
        }
        self.ping_due |= self.paths.is_confirmation_due(now);
        if now.since(self.last_sent) >= KEEPALIVE {
            self.ping_due = true;
        }
        let rests = self.rests_at().is_some_and(|at| at <= now);
        if rests {
            self.rest();
        }
        rests
    }

    /// The earlier of `first` and what comes first here.
    pub(crate) fn earliest(&self, first: Earliest) -> Earliest {
        let keepalive = (!self.ping_due).then(|| self.last_sent + KEEPALIVE);
        first
            .or(Timer::Ack, self.acks.due())
            .or(Timer::LossDetection, self.recovery.deadline())
            .or(Timer::Pacing, self.recovery.pacing_deadline())
            .or(Timer::Keepalive, keepalive)
            .or(Timer::Idle, Some(self.last_received + IDLE_TIMEOUT))
            .or(Timer::PreviousEpoch, self.epochs.deadline())
            .or(Timer::KeyRotation, Some(self.epochs.worn_at()))
            .or(Timer::PathValidation, self.paths.deadline())
            .or(Timer::Forget, self.rests_at())
    }

    /// Writes the next datagram that is due.
    pub(crate) fn poll_transmit(&mut self, now: Now, out: &mut [u8]) -> Option<(Path, usize)> {
        builder::build(self, now, out)
    }

    /// Seals what is owed as an acknowledgement, at once: the last packet of a session.
    pub(crate) fn last_ack(&mut self, now: Now, out: &mut [u8]) -> Option<usize> {
        builder::bare_ack(self, now, out)
    }

    /// Seals a packet of one SIGNAL in the current epoch (PROTOCOL 5.3, 7).
    pub(crate) fn seal_signal(&mut self, now: Now, kind: PacketType, json: &[u8]) -> Vec<u8> {
        seal_signal(&mut self.epochs, now, kind, json).unwrap_or_default()
    }
}

/// Why a session ends that last opened a packet then.
fn ended(now: Instant, last_received: Instant, epochs: &Epochs) -> Option<CloseReason> {
    if now.since(last_received) >= IDLE_TIMEOUT {
        Some(CloseReason::Idle)
    } else {
        epochs.is_worn(now).then_some(CloseReason::KeysWorn)
    }
}

/// By what a path is judged. The estimate may say a minute, of a peer that slept and acknowledged on
/// waking what it was sent before: that says nothing of a path.
fn pace(recovery: &Recovery, now: Instant) -> Pace {
    // An honest answer takes no less than the least RTT.
    let most = recovery.rtt.min().map_or(PATH_PTO_MAX, |least| PATH_PTO_MAX.max(least * 2));
    let pto = recovery.rtt.pto().min(most);
    Pace { now, pto, rtt: recovery.rtt.smoothed().map_or(pto, |rtt| rtt.min(most)) }
}

/// Adds a chunk to those before it if it touches them; if not, they are over.
fn joined(
    run: &mut Option<(u64, Range<u64>)>,
    (transfer, range): (u64, Range<u64>),
) -> Option<(u64, Range<u64>)> {
    match run {
        Some((same, before)) if *same == transfer && range.end == before.start => {
            before.start = range.start;
            None
        }
        Some((same, before)) if *same == transfer && before.end == range.start => {
            before.end = range.end;
            None
        }
        _ => run.replace((transfer, range)),
    }
}

/// Seals a packet of one SIGNAL in the current epoch; `None` for one that fits no datagram.
pub(crate) fn seal_signal(
    epochs: &mut Epochs,
    now: Now,
    kind: PacketType,
    json: &[u8],
) -> Option<Vec<u8>> {
    let epoch = epochs.current();
    seal_signal_in(epochs, epoch, now, kind, json)
}

/// The same in an epoch that the peer may still be in.
pub(crate) fn seal_signal_in(
    epochs: &mut Epochs,
    epoch: crate::id::Epoch,
    now: Now,
    kind: PacketType,
    json: &[u8],
) -> Option<Vec<u8>> {
    let mut out = vec![0; DATAGRAM_BASE];
    let mut writer = Writer::new(&mut out[HEADER_LEN..DATAGRAM_BASE - TAG_LEN]);
    if !write_signal(&mut writer, json) {
        return None;
    }
    let len = writer.len();
    let (_, len) = epochs.seal(epoch, now.wall, kind, &mut out, len)?;
    out.truncate(len);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_slept_does_not_slow_the_judgement_of_paths() {
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let mut recovery = Recovery::default();
        for (seq, ms, rtt) in [(1, 0, 20), (2, 1000, 20), (3, 2000, 39_000)] {
            let (size, fragments) = (64, Vec::new());
            let (chunk, acked) = (None, None);
            recovery.sent(recovery::Sent { seq, at: at(ms), size, fragments, chunk, acked });
            let mut out = [0; 64];
            let mut writer = Writer::new(&mut out);
            assert!(crate::wire::frame::write_ack(&mut writer, 0, [seq..=seq].into_iter()));
            let len = writer.len();
            let Some(Ok(Frame::Ack(ack))) = Frames::new(&out[..len]).next() else { panic!() };
            recovery.on_ack(at(ms + rtt), &ack, seq + 1, &mut Settled::default()).unwrap();
        }
        assert!(recovery.rtt.pto() > Duration::from_secs(10), "{:?}", recovery.rtt.pto());
        let pace = pace(&recovery, at(50_000));
        assert!(pace.pto == PATH_PTO_MAX && pace.rtt == PATH_PTO_MAX, "{pace:?}");
    }
}
