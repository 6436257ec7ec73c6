//! What must hold of every history. The oracles see what machines emit and tell, never inside them.

use crate::net::is_attacker;
use crate::transcript::digest;
use crate::world::Process;
use clawchat_core::error::{CloseReason, Violation};
use clawchat_core::id::{ChatId, Epoch};
use clawchat_core::limits::{DATAGRAM_BASE, DATAGRAM_MIN};
use clawchat_core::wire::header::PacketType;
use clawchat_core::wire::message::{Chat, ErrorCode, ReceiptState};
use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Who emitted or told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The server, whichever run of it.
    Server,
    /// One run of a client.
    Client(Process),
}

/// Nothing, or a complaint.
pub type Verdict = Result<(), String>;

pub(crate) fn ensure(holds: bool, complaint: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(complaint()) }
}

/// The packet type that a datagram claims.
#[must_use]
pub fn kind(datagram: &[u8]) -> Option<PacketType> {
    PacketType::from_u8(*datagram.get(25)?)
}

/// Whether a datagram has the form of a hello.
#[must_use]
pub fn is_hello(datagram: &[u8]) -> bool {
    datagram.len() == DATAGRAM_BASE && kind(datagram) == Some(PacketType::KeyRotation)
}

fn hash(datagram: &[u8]) -> u64 {
    digest(1, datagram)
}

#[derive(Debug)]
struct Sent {
    writer: Process,
    order: u64,
    to: Vec<String>,
    text: String,
    refused: bool,
    /// The disk refused it once: when its author could not be told, it comes again, and late.
    late: bool,
}

/// Chat: shown once, in order, unaltered, and not lost.
#[derive(Debug, Default)]
pub struct Chats {
    sent: BTreeMap<(String, ChatId), Sent>,
    shown: BTreeSet<(Process, String, ChatId)>,
    reached: BTreeSet<(String, String, ChatId)>,
    newest: BTreeMap<(Process, Process), u64>,
    by_server: BTreeSet<(String, ChatId)>,
    /// A hostile member: what comes in its own name may be anything.
    hostile: Option<String>,
}

impl Chats {
    /// Asks nothing of the chats that come in this member's own name.
    pub fn exempt(&mut self, member: &str) {
        self.hostile = Some(member.to_string());
    }

    fn is_exempt(&self, member: &str) -> bool {
        self.hostile.as_deref() == Some(member)
    }

    /// A client took a chat from its application, for these members.
    pub fn sent(&mut self, writer: Process, from: &str, id: ChatId, to: Vec<String>, text: &str) {
        let order = self.sent.len() as u64;
        let sent = Sent { writer, order, to, text: text.to_string(), refused: false, late: false };
        self.sent.insert((from.to_string(), id), sent);
    }

    fn check(&self, chat: &Chat) -> Result<&Sent, String> {
        let key = (chat.from.clone(), chat.id);
        let sent =
            self.sent.get(&key).ok_or_else(|| format!("oracle 2: chat {chat:?} was never sent"))?;
        ensure(sent.text == chat.text, || format!("oracle 2: chat {} was altered", chat.id))?;
        Ok(sent)
    }

    /// A client showed a chat.
    ///
    /// # Errors
    /// A complaint; so for all the functions of the oracles.
    pub fn shown(&mut self, reader: Process, member: &str, chat: &Chat) -> Verdict {
        if self.is_exempt(&chat.from) {
            return Ok(());
        }
        let sent = self.check(chat)?;
        let (writer, order, late) = (sent.writer, sent.order, sent.late);
        let meant = sent.to.iter().any(|name| name == member);
        ensure(meant, || format!("oracle 2: chat {} was shown to {member}", chat.id))?;
        let once = self.shown.insert((reader, chat.from.clone(), chat.id));
        ensure(once, || format!("oracle 2: chat {} was shown twice to {member}", chat.id))?;
        let again = !self.reached.insert((member.to_string(), chat.from.clone(), chat.id));
        // What a crash made the server forget to have delivered comes again, to whichever device is
        // there: the one that showed it passes over it.
        if late || again {
            return Ok(());
        }
        let newest = self.newest.insert((reader, writer), order);
        ensure(newest.is_none_or(|newest| newest < order), || {
            format!(
                "oracle 2: chat {} of {} was shown to {member} after a later one",
                chat.id, chat.from
            )
        })
    }

    /// The server told its application of a chat.
    ///
    /// # Errors
    /// A complaint.
    pub fn told_at_server(&mut self, chat: &Chat) -> Verdict {
        if self.is_exempt(&chat.from) {
            return Ok(());
        }
        self.check(chat)?;
        let once = self.by_server.insert((chat.from.clone(), chat.id));
        ensure(once, || format!("oracle 2: chat {} was told twice at the server", chat.id))
    }

    /// Another run of the server: what it can't know to be told it tells again.
    pub fn server_began(&mut self) {
        self.by_server.clear();
    }

    /// A chat was refused with an error.
    pub fn refused(&mut self, from: &str, id: ChatId) {
        if let Some(sent) = self.sent.get_mut(&(from.to_string(), id)) {
            sent.refused = true;
        }
    }

    /// The disk could not store a chat.
    pub fn not_stored(&mut self, from: &str, id: ChatId) {
        if let Some(sent) = self.sent.get_mut(&(from.to_string(), id)) {
            sent.late = true;
        }
    }

    /// A client was told a receipt for its chat.
    ///
    /// # Errors
    /// A complaint.
    pub fn receipt(
        &self,
        author: &str,
        id: ChatId,
        state: ReceiptState,
        by: &str,
        durable: bool,
    ) -> Verdict {
        let known = self.sent.contains_key(&(author.to_string(), id));
        ensure(known, || format!("oracle 2: receipt for chat {id} that {author} never sent"))?;
        ensure(durable, || {
            format!("oracle 2: receipt {state:?} for chat {id} that is not durable")
        })?;
        let reached = by == "server"
            || self.is_exempt(by)
            || self.reached.contains(&(by.into(), author.into(), id));
        ensure(state != ReceiptState::Delivered || reached, || {
            format!("oracle 2: chat {id} of {author} counts as delivered to {by}, who never saw it")
        })
    }

    /// Every chat taken by a client that lives was shown to every member that lives.
    ///
    /// # Errors
    /// A complaint.
    pub fn complete(&self, writers: &BTreeSet<Process>, readers: &BTreeSet<String>) -> Verdict {
        for ((from, id), sent) in &self.sent {
            if sent.refused || !writers.contains(&sent.writer) {
                continue;
            }
            for name in sent.to.iter().filter(|name| readers.contains(*name)) {
                let reached = self.reached.contains(&(name.clone(), from.clone(), *id));
                ensure(reached, || format!("oracle 2: chat {id} of {from} never reached {name}"))?;
            }
        }
        Ok(())
    }

    /// Chats taken from applications.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sent.len()
    }

    /// Times a chat was shown to a client.
    #[must_use]
    pub fn count_shown(&self) -> usize {
        self.shown.len()
    }
}

/// What goes over the wire: no IV twice, silence towards strangers and after a wipe.
#[derive(Debug, Default)]
pub struct Wire {
    by_iv: HashMap<[u8; 12], u64>,
    /// By message id, which is the encrypted sequence number.
    by_id: HashMap<[u8; 16], u64>,
    /// Replies that the present run of the server gave to hellos.
    replies: BTreeMap<u64, u64>,
    /// Acks of signals.
    acks: BTreeMap<u64, u64>,
    /// May get the ack of the signal that came from there.
    signallers: BTreeSet<SocketAddr>,
    wiped: BTreeMap<Process, Last>,
    silenced: BTreeMap<SocketAddr, Last>,
    /// May get one reply now.
    open: Option<SocketAddr>,
}

/// The only datagrams that one who was wiped may still emit: copies of one ack and one signal.
#[derive(Debug, Default)]
struct Last {
    signal: Option<u64>,
    ack: Option<u64>,
}

impl Last {
    fn allows(&mut self, datagram: &[u8], signals: bool) -> Verdict {
        let hash = hash(datagram);
        let known = match kind(datagram) {
            Some(PacketType::CompromisedAck) => self.ack.get_or_insert(hash),
            Some(PacketType::Compromised) if signals => self.signal.get_or_insert(hash),
            other => return Err(format!("oracle 8: a packet of type {other:?} after the wipe")),
        };
        ensure(*known == hash, || "oracle 8: another signal or ack after the wipe".to_string())
    }
}

impl Wire {
    /// A machine emitted a datagram.
    ///
    /// # Errors
    /// A complaint.
    pub fn emitted(&mut self, from: Who, to: SocketAddr, datagram: &[u8]) -> Verdict {
        let sized = datagram.len() >= DATAGRAM_MIN && datagram.len().is_multiple_of(16);
        ensure(sized, || format!("oracle 1: a datagram of {} bytes", datagram.len()))?;
        let iv = *datagram[26..].first_chunk().ok_or("no IV")?;
        let hash = hash(datagram);
        let copy = self.by_iv.get(&iv) == Some(&hash);
        let before = *self.by_iv.entry(iv).or_insert(hash);
        ensure(before == hash, || format!("oracle 1: two datagrams with the IV {iv:02x?}"))?;
        let id = *datagram[1..].first_chunk().ok_or("no message id")?;
        let before = *self.by_id.entry(id).or_insert(hash);
        ensure(before == hash, || "oracle 1: two datagrams with one number".to_string())?;
        if is_attacker(to) {
            let ack =
                self.signallers.contains(&to) && kind(datagram) == Some(PacketType::CompromisedAck);
            let asked = self.open == Some(to) || ack;
            ensure(asked, || format!("oracle 6: a datagram to a stranger, {to}"))?;
        }
        let last = match from {
            Who::Client(process) => self.wiped.get_mut(&process).map(|last| (last, false)),
            // The last word to an older session of the file may still be repeated.
            Who::Server if copy && kind(datagram) == Some(PacketType::Error) => None,
            Who::Server => self.silenced.get_mut(&to).map(|last| (last, true)),
        };
        last.map_or(Ok(()), |(last, signals)| last.allows(datagram, signals))
    }

    /// Whether a machine emitted exactly this datagram.
    #[must_use]
    pub fn is_genuine(&self, datagram: &[u8]) -> bool {
        let iv = datagram.get(26..).and_then(<[u8]>::first_chunk);
        iv.and_then(|iv| self.by_iv.get(iv)) == Some(&hash(datagram))
    }

    /// A datagram is about to be handed to a machine, whose reply is watched.
    pub fn watch(&mut self, from: SocketAddr) {
        self.open = Some(from);
    }

    /// The server was handed a datagram that opens nothing new, and replied so.
    ///
    /// # Errors
    /// A complaint.
    pub fn replied(&mut self, to: SocketAddr, datagram: &[u8], replies: &[Vec<u8>]) -> Verdict {
        self.open = None;
        let genuine = self.is_genuine(datagram);
        let signal = genuine && kind(datagram) == Some(PacketType::Compromised);
        if signal {
            self.signallers.insert(to);
        }
        let Some(reply) = replies.first() else { return Ok(()) };
        ensure(replies.len() == 1, || {
            format!("oracle 6: {} replies to one datagram", replies.len())
        })?;
        ensure(reply.len() <= datagram.len(), || {
            format!("oracle 6: a reply of {} bytes to {} bytes", reply.len(), datagram.len())
        })?;
        let (memory, fits) = match kind(reply) {
            Some(PacketType::KeyRotation | PacketType::Error) if genuine && is_hello(datagram) => {
                (&mut self.replies, true)
            }
            Some(PacketType::CompromisedAck) => (&mut self.acks, signal),
            _ => (&mut self.acks, false),
        };
        ensure(fits, || match kind(reply) {
            // It did open, but not for the first time.
            Some(PacketType::Pong) if genuine => "oracle 12: a copy is acknowledged".to_string(),
            reply => format!("oracle 6: a reply of type {reply:?} to what did not open"),
        })?;
        let known = *memory.entry(hash(datagram)).or_insert_with(|| hash(reply));
        ensure(known == hash(reply), || "oracle 12: a copy drew another reply".to_string())
    }

    /// The server forgot all hellos, or its clock was set back: hellos that it forgot for their age may
    /// be young again.
    pub fn server_restarted(&mut self) {
        self.replies.clear();
    }

    /// A client told of its wipe.
    pub fn wiped(&mut self, process: Process) {
        self.wiped.entry(process).or_default();
    }

    /// The server told that a member's keys are gone: nothing goes there any more.
    pub fn silenced(&mut self, address: SocketAddr) {
        self.silenced.entry(address).or_default();
    }

    /// The server could not make that durable, and was started anew.
    pub fn unsilenced(&mut self, address: SocketAddr) {
        self.silenced.remove(&address);
    }

    /// Different datagrams that were emitted.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_iv.len()
    }
}

/// Epochs begin with 1 and grow by one.
#[derive(Debug, Default)]
pub struct Epochs(BTreeMap<(Who, u64), Epoch>);

impl Epochs {
    /// A session is established.
    ///
    /// # Errors
    /// A complaint.
    pub fn connected(&mut self, who: Who, session: u64, epoch: Epoch) -> Verdict {
        self.0.insert((who, session), epoch);
        ensure(epoch == Epoch(1), || format!("oracle 3: {who:?} begins in epoch {epoch}"))
    }

    /// A session is in another epoch.
    ///
    /// # Errors
    /// A complaint.
    pub fn rotated(&mut self, who: Who, session: u64, epoch: Epoch) -> Verdict {
        let before = self.0.insert((who, session), epoch);
        ensure(before.map(Epoch::next) == Some(epoch), || {
            format!("oracle 3: {who:?} goes from epoch {before:?} to {epoch}")
        })
    }
}

/// Machines that keep the rules never accuse each other, and never give up on themselves; but a
/// rotation cannot be completed while the two directions are `apart`.
///
/// # Errors
/// A complaint.
pub fn honest_end(who: Who, reason: &CloseReason, apart: bool) -> Verdict {
    let fair = match reason {
        CloseReason::Violated(Violation::RotationOverdue) => apart,
        CloseReason::Violated(_) => false,
        // So the peer of one whose rotation is overdue is told.
        CloseReason::Refused { code: ErrorCode::Protocol, .. }
        | CloseReason::Ended(ErrorCode::Protocol) => apart,
        CloseReason::Refused { code, .. } | CloseReason::Ended(code) => {
            *code != ErrorCode::Internal
        }
        CloseReason::Goodbye | CloseReason::Idle | CloseReason::Unreachable => true,
        CloseReason::Wiped | CloseReason::KeysWorn => true,
    };
    ensure(fair, || format!("oracle 2: {who:?} ended with {reason:?}"))
}

/// A file connects only while it is not retired.
///
/// # Errors
/// A complaint.
pub fn may_connect(started: u64, retired: Option<u64>) -> Verdict {
    ensure(retired.is_none_or(|retired| started <= retired), || {
        "oracle 8: a retired security file connected".to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawchat_core::time::UnixMs;
    use clawchat_core::wire::message::Recipient;

    const ID: ChatId = ChatId([1; 16]);

    fn chat(id: u8, text: &str) -> Chat {
        Chat {
            id: ChatId([id; 16]),
            from: "ann".to_string(),
            to: Recipient::Member("bob".to_string()),
            text: text.to_string(),
            sent_at: UnixMs(0),
        }
    }

    fn sent(ids: &[u8]) -> Chats {
        let mut chats = Chats::default();
        for id in ids {
            let to = vec!["bob".to_string()];
            chats.sent(Process(0), "ann", ChatId([*id; 16]), to, "hi");
        }
        chats
    }

    #[track_caller]
    fn complains(verdict: Verdict, of: &str) {
        let complaint = verdict.unwrap_err();
        assert!(complaint.contains(of), "{complaint}");
    }

    #[test]
    fn a_hostile_member_speaks_for_himself_alone() {
        let mut chats = sent(&[1]);
        chats.exempt("eve");
        let own = |id| Chat { from: "eve".to_string(), ..chat(id, "whatever") };
        assert_eq!(chats.shown(Process(1), "bob", &own(1)), Ok(()));
        assert_eq!(chats.shown(Process(1), "bob", &own(1)), Ok(()), "as often as it likes");
        assert_eq!(chats.told_at_server(&own(2)), Ok(()));
        complains(chats.shown(Process(1), "bob", &chat(2, "hi")), "never sent");
        complains(chats.told_at_server(&chat(1, "forged")), "altered");
    }

    #[test]
    fn chat_shown_twice_altered_or_invented() {
        let mut chats = sent(&[1]);
        complains(chats.shown(Process(1), "bob", &chat(2, "hi")), "never sent");
        complains(chats.shown(Process(1), "bob", &chat(1, "ho")), "altered");
        complains(chats.shown(Process(1), "eve", &chat(1, "hi")), "shown to eve");
        assert_eq!(chats.shown(Process(1), "bob", &chat(1, "hi")), Ok(()));
        complains(chats.shown(Process(1), "bob", &chat(1, "hi")), "twice");
        assert_eq!(chats.shown(Process(2), "bob", &chat(1, "hi")), Ok(()), "another run");
        assert_eq!(chats.told_at_server(&chat(1, "hi")), Ok(()));
        complains(chats.told_at_server(&chat(1, "hi")), "twice");
    }

    #[test]
    fn chat_out_of_order() {
        let mut chats = sent(&[1, 2]);
        assert_eq!(chats.shown(Process(1), "bob", &chat(2, "hi")), Ok(()));
        complains(chats.shown(Process(1), "bob", &chat(1, "hi")), "after a later one");
        let mut chats = sent(&[1, 2]);
        chats.not_stored("ann", ID);
        assert_eq!(chats.shown(Process(1), "bob", &chat(2, "hi")), Ok(()));
        assert_eq!(chats.shown(Process(1), "bob", &chat(1, "hi")), Ok(()));
    }

    #[test]
    fn chat_lost() {
        let mut chats = sent(&[1]);
        let (writers, readers) = ([Process(0)].into(), ["bob".to_string()].into());
        complains(chats.complete(&writers, &readers), "never reached bob");
        assert_eq!(chats.complete(&BTreeSet::new(), &readers), Ok(()), "its writer is dead");
        assert_eq!(chats.complete(&writers, &BTreeSet::new()), Ok(()), "its reader is dead");
        chats.refused("ann", ID);
        assert_eq!(chats.complete(&writers, &readers), Ok(()));
    }

    #[test]
    fn receipts_for_nothing() {
        let mut chats = sent(&[1]);
        let (stored, delivered) = (ReceiptState::Stored, ReceiptState::Delivered);
        complains(chats.receipt("ann", ChatId([2; 16]), stored, "server", true), "never sent");
        complains(chats.receipt("ann", ID, stored, "server", false), "not durable");
        complains(chats.receipt("ann", ID, delivered, "bob", true), "never saw it");
        assert_eq!(chats.receipt("ann", ID, stored, "server", true), Ok(()));
        assert_eq!(chats.shown(Process(1), "bob", &chat(1, "hi")), Ok(()));
        assert_eq!(chats.receipt("ann", ID, delivered, "bob", true), Ok(()));
    }

    fn datagram(kind: PacketType, iv: u8, len: usize) -> Vec<u8> {
        let mut datagram = vec![0x20; len];
        datagram[25] = kind as u8;
        datagram[1..17].fill(iv);
        datagram[26..38].fill(iv);
        datagram
    }

    fn friend() -> SocketAddr {
        ([192, 0, 2, 7], 9).into()
    }

    fn stranger() -> SocketAddr {
        ([10, 0, 0, 1], 9).into()
    }

    #[test]
    fn an_iv_used_twice() {
        let mut wire = Wire::default();
        let first = datagram(PacketType::Chat, 1, 64);
        assert_eq!(wire.emitted(Who::Server, friend(), &first), Ok(()));
        assert_eq!(wire.emitted(Who::Server, friend(), &first), Ok(()), "the same datagram");
        let second = datagram(PacketType::Chat, 1, 80);
        complains(wire.emitted(Who::Client(Process(0)), friend(), &second), "IV");
        let mut third = datagram(PacketType::Chat, 1, 80);
        third[26..38].fill(2);
        complains(wire.emitted(Who::Server, friend(), &third), "one number");
        complains(wire.emitted(Who::Server, friend(), &[0; 65]), "65 bytes");
    }

    #[test]
    fn a_word_to_a_stranger() {
        let mut wire = Wire::default();
        let pong = datagram(PacketType::Pong, 1, 64);
        complains(wire.emitted(Who::Server, stranger(), &pong), "stranger");
        let replies = [pong];
        let forged = datagram(PacketType::Ping, 2, 64);
        complains(wire.replied(stranger(), &forged, &replies), "did not open");
        let hello = datagram(PacketType::KeyRotation, 3, DATAGRAM_BASE);
        let answer = [datagram(PacketType::KeyRotation, 4, 464)];
        complains(wire.replied(stranger(), &hello, &answer), "did not open");
        assert_eq!(wire.emitted(Who::Client(Process(0)), friend(), &hello), Ok(()));
        assert_eq!(wire.replied(stranger(), &hello, &answer), Ok(()), "a genuine hello");
        assert_eq!(wire.replied(stranger(), &hello, &answer), Ok(()), "and again");
        let other = [datagram(PacketType::KeyRotation, 5, 464)];
        complains(wire.replied(stranger(), &hello, &other), "another reply");
        let twice = [answer[0].clone(), answer[0].clone()];
        complains(wire.replied(stranger(), &hello, &twice), "2 replies");
    }

    #[test]
    fn a_reply_larger_than_its_cause() {
        let mut wire = Wire::default();
        let signal = datagram(PacketType::Compromised, 1, 256);
        assert_eq!(wire.emitted(Who::Client(Process(0)), friend(), &signal), Ok(()));
        let ack = [datagram(PacketType::CompromisedAck, 2, 272)];
        complains(wire.replied(stranger(), &signal, &ack), "272 bytes to 256");
        let ack = [datagram(PacketType::CompromisedAck, 3, 256)];
        assert_eq!(wire.replied(stranger(), &signal, &ack), Ok(()));
        let ack = [datagram(PacketType::CompromisedAck, 4, 256)];
        complains(wire.replied(stranger(), &signal, &ack), "another reply");
    }

    #[test]
    fn a_word_after_the_wipe() {
        let mut wire = Wire::default();
        let (ann, mut iv) = (Who::Client(Process(0)), 0);
        let mut emit = |wire: &mut Wire, who, kind| {
            iv += 1;
            wire.emitted(who, friend(), &datagram(kind, iv, 64))
        };
        assert_eq!(emit(&mut wire, ann, PacketType::Chat), Ok(()));
        wire.wiped(Process(0));
        complains(emit(&mut wire, ann, PacketType::Chat), "after the wipe");
        complains(emit(&mut wire, ann, PacketType::Compromised), "after the wipe");
        assert_eq!(emit(&mut wire, ann, PacketType::CompromisedAck), Ok(()));
        complains(emit(&mut wire, ann, PacketType::CompromisedAck), "another signal or ack");
        wire.silenced(friend());
        complains(emit(&mut wire, Who::Server, PacketType::Presence), "after the wipe");
        assert_eq!(emit(&mut wire, Who::Server, PacketType::Compromised), Ok(()));
        complains(emit(&mut wire, Who::Server, PacketType::Compromised), "another signal or ack");
    }

    #[test]
    fn epochs_that_leap() {
        let mut epochs = Epochs::default();
        complains(epochs.connected(Who::Server, 1, Epoch(2)), "begins in epoch 2");
        assert_eq!(epochs.connected(Who::Server, 1, Epoch(1)), Ok(()));
        assert_eq!(epochs.rotated(Who::Server, 1, Epoch(2)), Ok(()));
        complains(epochs.rotated(Who::Server, 1, Epoch(2)), "to 2");
        complains(epochs.rotated(Who::Server, 1, Epoch(4)), "to 4");
        complains(epochs.rotated(Who::Server, 2, Epoch(2)), "to 2");
    }

    #[test]
    fn retired_files_and_false_accusations() {
        assert_eq!(may_connect(5, None), Ok(()));
        assert_eq!(may_connect(5, Some(9)), Ok(()));
        complains(may_connect(10, Some(9)), "retired");
        assert_eq!(honest_end(Who::Server, &CloseReason::Idle, false), Ok(()));
        let violated = CloseReason::Violated(Violation::RotationStep);
        complains(honest_end(Who::Server, &violated, true), "RotationStep");
        let internal = CloseReason::Ended(ErrorCode::Internal);
        complains(honest_end(Who::Server, &internal, true), "Internal");
        let overdue = CloseReason::Violated(Violation::RotationOverdue);
        complains(honest_end(Who::Server, &overdue, false), "RotationOverdue");
        assert_eq!(honest_end(Who::Server, &overdue, true), Ok(()));
    }
}
