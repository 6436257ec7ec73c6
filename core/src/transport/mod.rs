//! Floor 3: one peer's packets. Reliability knows nothing of what messages mean; it opens and seals,
//! acknowledges, repairs, and keeps time.

pub(crate) mod ack;
pub(crate) mod channel;
pub(crate) mod congestion;
pub(crate) mod epochs;
pub mod path;
pub(crate) mod recovery;

mod builder;

use crate::error::{DropReason, Violation};
use crate::limits::{DATAGRAM_BASE, HEADER_LEN, IDLE_TIMEOUT, KEEPALIVE, TAG_LEN};
use crate::time::{Instant, Now};
use crate::wire::cursor::Writer;
use crate::wire::frame::{Ack, Frame, Frames, write_signal};
use crate::wire::header::{Header, PacketType};
use ack::Acks;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use channel::{RecvChannel, SendChannel, Token};
use epochs::{Epochs, Opened, Slot};
use path::Path;
use recovery::{Recovery, Settled};

/// Responses that wait to be sent; a driver that drains late loses the older ones, and the peer asks
/// again.
const RESPONSES: usize = 4;

/// What a packet brought besides acknowledgements.
#[derive(Debug, Default)]
pub(crate) struct Inbox<'d> {
    /// SIGNAL frames, not yet read.
    pub(crate) signals: Vec<&'d [u8]>,
    /// It held a CHUNK of this transfer.
    pub(crate) chunk: Option<u64>,
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
    /// The hello or a signal is repeated, or its answer is given up.
    Repeat,
    /// Something remembered for a time is forgotten.
    Forget,
    /// An action was never completed.
    Completion,
    /// A client tries to connect again.
    Reconnect,
}

/// One peer's packets.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) epochs: Epochs,
    acks: Acks,
    pub(crate) recovery: Recovery,
    pub(crate) sending: SendChannel,
    receiving: RecvChannel,
    /// RESPONSE frames, and the path each must leave by.
    responses: VecDeque<(Path, [u8; 8])>,
    /// Tokens of messages that the peer acknowledged.
    pub(crate) delivered: Vec<Token>,
    /// A ping is to go out.
    ping_due: bool,
    last_sent: Instant,
    last_received: Instant,
}

impl Transport {
    pub(crate) fn new(now: Instant, epochs: Epochs) -> Self {
        Self {
            epochs,
            acks: Acks::default(),
            recovery: Recovery::default(),
            sending: SendChannel::default(),
            receiving: RecvChannel::default(),
            responses: VecDeque::new(),
            delivered: Vec::new(),
            ping_due: false,
            last_sent: now,
            last_received: now,
        }
    }

    /// Opens a packet that [`Epochs::recognise`] knows.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        header: &Header,
        found: (Slot, u64),
        datagram: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let opened = self.epochs.open(now, self.recovery.rtt.pto(), header, found, datagram)?;
        self.last_received = now;
        Ok(opened)
    }

    /// Takes the frames of a packet that opened, all or, when one is bad, none.
    pub(crate) fn process<'d>(
        &mut self,
        now: Instant,
        path: Path,
        kind: PacketType,
        seq: u64,
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
                Frame::Padding | Frame::Response(_) => {}
                Frame::Ack(ack) => self.acknowledged(now, &ack)?,
                Frame::Message(fragment) => self.receiving.fragment(kind, &fragment)?,
                Frame::Challenge(data) => challenge = Some(data),
                Frame::Signal(json) => inbox.signals.push(json),
                Frame::Chunk { transfer, .. } => inbox.chunk = Some(transfer),
            }
        }
        if let Some(data) = challenge {
            if self.responses.len() >= RESPONSES {
                self.responses.pop_front();
            }
            self.responses.push_back((path, data));
        }
        let eliciting = kind != PacketType::Pong;
        self.acks.opened(now, seq, eliciting, kind == PacketType::Ping);
        Ok(inbox)
    }

    fn acknowledged(&mut self, now: Instant, ack: &Ack<'_>) -> Result<(), Violation> {
        let settled = self.recovery.on_ack(now, ack, self.epochs.next_seq())?;
        self.settle(settled);
        Ok(())
    }

    fn settle(&mut self, settled: Settled) {
        for sent in settled.acked {
            for (id, range) in sent.fragments {
                self.sending.acked(id, range, &mut self.delivered);
            }
            if let Some(largest) = sent.acked {
                self.acks.acknowledged(largest);
            }
        }
        for sent in settled.lost {
            for (id, range) in sent.fragments {
                self.sending.lost(id, range);
            }
        }
    }

    /// The next whole message, in order.
    pub(crate) fn pop_message(&mut self) -> Option<(PacketType, Vec<u8>)> {
        self.receiving.pop()
    }

    /// Whether the peer was silent for so long that the session is dead (PROTOCOL 6).
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        now.since(self.last_received) >= IDLE_TIMEOUT
    }

    pub(crate) fn on_timeout(&mut self, now: Instant) {
        self.epochs.on_timeout(now);
        let settled = self.recovery.on_timeout(now);
        self.settle(settled);
        if self.recovery.probes > 0 && self.sending.next(None).is_none() {
            // A probe repeats what is in flight, if that can be, else it is a ping.
            let again = self.recovery.oldest_fragments().next().cloned();
            if let Some((id, range)) = again {
                self.sending.lost(id, range);
            }
            self.ping_due |= self.sending.next(None).is_none();
        }
        if now.since(self.last_sent) >= KEEPALIVE {
            self.ping_due = true;
        }
    }

    pub(crate) fn deadlines(&self) -> impl Iterator<Item = (Timer, Instant)> {
        let keepalive = (!self.ping_due).then(|| self.last_sent + KEEPALIVE);
        [
            (Timer::Ack, self.acks.due()),
            (Timer::LossDetection, self.recovery.deadline()),
            (Timer::Keepalive, keepalive),
            (Timer::Idle, Some(self.last_received + IDLE_TIMEOUT)),
            (Timer::PreviousEpoch, self.epochs.deadline()),
        ]
        .into_iter()
        .filter_map(|(timer, at)| Some((timer, at?)))
    }

    /// Writes the next datagram that is due, `home` being the session's path.
    pub(crate) fn poll_transmit(
        &mut self,
        now: Now,
        home: Path,
        out: &mut [u8],
    ) -> Option<(Path, usize)> {
        builder::build(self, now, home, out)
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
    let seq = epochs.take_seq();
    let len = epochs.send_of(epoch)?.packet.seal(seq, now.wall, kind, &mut out, len);
    out.truncate(len);
    Some(out)
}
