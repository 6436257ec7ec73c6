//! One connection as the scripted peer sees it: keys of each epoch, numbers, and what arrived.

use super::frames;
use crate::vectors::Outcome;
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::crypto::agree::PrivateKey;
use clawchat_core::crypto::derive::{
    ConnectionId, Direction, EpochKeys, direction_key, epoch_next, epoch_zero, hello_id,
};
use clawchat_core::crypto::identity::Identity;
use clawchat_core::crypto::packet::PacketKeys;
use clawchat_core::crypto::sign;
use clawchat_core::id::Epoch;
use clawchat_core::limits::{HEADER_LEN, OVERHEAD};
use clawchat_core::secret::Secret;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::frame::{Frame, Frames};
use clawchat_core::wire::header::{Header, PacketType};
use clawchat_core::wire::json::Object;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The keys of an epoch, ready for use in both directions.
#[derive(Debug)]
pub(crate) struct EpochPair {
    keys: EpochKeys,
    own: PacketKeys,
    theirs: PacketKeys,
}

/// What to seal.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    /// Epoch whose keys seal.
    pub(crate) epoch: u64,
    /// Its number.
    pub(crate) seq: u64,
    /// Number that its IV is made for, where that is another.
    pub(crate) iv_seq: Option<u64>,
    /// Header type.
    pub(crate) kind: PacketType,
    /// Header timestamp.
    pub(crate) timestamp: UnixMs,
    /// Its plaintext.
    pub(crate) plaintext: &'a [u8],
}

/// A datagram of the machine that opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// In which epoch.
    pub(crate) epoch: u64,
    /// Its number.
    pub(crate) seq: u64,
    /// Its type.
    pub(crate) kind: PacketType,
    /// Its frames.
    pub(crate) frames: Vec<Value>,
    /// Messages that are whole by it, in order.
    pub(crate) messages: Vec<Value>,
    /// Its signal, and whether the signature in it is right.
    pub(crate) signal: Option<(Value, bool)>,
}

/// One attempt to connect, and the session that comes of it.
#[derive(Debug)]
pub(crate) struct Link {
    own: Direction,
    /// Its name.
    pub(crate) id: ConnectionId,
    epochs: BTreeMap<u64, EpochPair>,
    /// The epoch that the peer seals in.
    pub(crate) current: u64,
    /// The next number.
    pub(crate) next_seq: u64,
    /// The next message id.
    pub(crate) next_message: u64,
    private: Option<PrivateKey>,
    /// Public key of the machine's last offer.
    pub(crate) offered: Option<[u8; 32]>,
    /// Numbers that arrived, and the end of each datagram: only the very same may come again.
    received: BTreeMap<u64, Vec<u8>>,
    partial: BTreeMap<u64, (Vec<u8>, BTreeSet<u64>)>,
    next_in: u64,
}

/// The timestamp, nonce and shared secret that an attempt begins with.
#[derive(Debug)]
pub(crate) struct Birth<'a> {
    /// Secret of the security file.
    pub(crate) secret: &'a Secret<32>,
    /// Timestamp of the hello.
    pub(crate) timestamp: UnixMs,
    /// Its nonce.
    pub(crate) nonce: u64,
}

impl Link {
    /// An attempt in which the peer seals in direction `own`.
    #[must_use]
    pub(crate) fn new(own: Direction, birth: &Birth<'_>, private: PrivateKey) -> Self {
        let id = ConnectionId::new(birth.timestamp, birth.nonce);
        let keys = epoch_zero(birth.secret, &id, birth.timestamp);
        let mut link = Self {
            own,
            id,
            epochs: BTreeMap::new(),
            current: 0,
            next_seq: 1,
            next_message: 0,
            private: Some(private),
            offered: None,
            received: BTreeMap::new(),
            partial: BTreeMap::new(),
            next_in: 0,
        };
        link.add(0, keys);
        link
    }

    fn add(&mut self, epoch: u64, keys: EpochKeys) {
        let own = PacketKeys::new(&keys, self.own, &RustCrypto);
        let theirs = PacketKeys::new(&keys, self.own.reverse(), &RustCrypto);
        self.epochs.insert(epoch, EpochPair { keys, own, theirs });
    }

    /// Holds another private key, and gives the public one.
    pub(crate) fn hold(&mut self, private: PrivateKey) -> [u8; 32] {
        let public = private.public();
        self.private = Some(private);
        public
    }

    /// Whether there are keys of an epoch.
    #[must_use]
    pub(crate) fn has(&self, epoch: u64) -> bool {
        self.epochs.contains_key(&epoch)
    }

    /// The newest epoch that there are keys of.
    #[must_use]
    pub(crate) fn newest(&self) -> u64 {
        self.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// Derives the keys of an epoch from the private key held and the machine's public key.
    ///
    /// # Errors
    /// When no private key is held, or the agreement gives zero.
    pub(crate) fn agree(&mut self, epoch: u64, theirs: &[u8; 32]) -> Outcome {
        let private = self.private.take().ok_or("the peer holds no private key")?;
        let own = private.public();
        let agreed = private.agree(theirs).ok_or("the agreement gives zero")?;
        let before = self.epochs.get(&(epoch - 1)).ok_or("the epoch before is not known")?;
        let seed = before.keys.next_key_seed.duplicate();
        let (client, server) = match self.own {
            Direction::C2s => (&own, theirs),
            Direction::S2c => (theirs, &own),
        };
        let keys = epoch_next(seed, agreed, &self.id, Epoch(epoch), client, server);
        self.add(epoch, keys);
        Ok(())
    }

    /// Seals a packet.
    ///
    /// # Errors
    /// When there are no keys of its epoch.
    pub(crate) fn seal(&mut self, packet: &Packet<'_>) -> Outcome<Vec<u8>> {
        let pair =
            self.epochs.get_mut(&packet.epoch).ok_or("the peer has no keys of that epoch")?;
        let (length, iv_seq) = (packet.plaintext.len(), packet.iv_seq.unwrap_or(packet.seq));
        let mut out = vec![0; OVERHEAD + length + 16];
        out[HEADER_LEN..HEADER_LEN + length].copy_from_slice(packet.plaintext);
        let key = direction_key(&pair.keys.iv_key, self.own);
        let id = Identity::new(&key).message_id(packet.seq);
        let end = pair.own.seal_as(id, iv_seq, packet.timestamp, packet.kind, &mut out, length);
        out.truncate(end);
        Ok(out)
    }

    /// Seals a hello, whose message id is made with the file's key.
    ///
    /// # Errors
    /// See [`Self::seal`].
    pub(crate) fn seal_hello(
        &mut self,
        secret: &Secret<32>,
        packet: &Packet<'_>,
    ) -> Outcome<Vec<u8>> {
        let mut out = self.seal(packet)?;
        let pair = self.epochs.get_mut(&0).ok_or("there is no epoch 0")?;
        let id = Identity::new(&hello_id(secret)).message_id(packet.seq);
        let length = packet.plaintext.len();
        out.resize(OVERHEAD + length + 16, 0);
        out[HEADER_LEN..HEADER_LEN + length].copy_from_slice(packet.plaintext);
        let iv_seq = packet.iv_seq.unwrap_or(packet.seq);
        let end = pair.own.seal_as(id, iv_seq, packet.timestamp, packet.kind, &mut out, length);
        out.truncate(end);
        Ok(out)
    }

    /// Adds a signature of `epoch` in a direction to a signal.
    ///
    /// # Errors
    /// When there are no keys of that epoch, or it can't be signed.
    pub(crate) fn sign(&self, epoch: u64, own: bool, signal: &Value) -> Outcome<Value> {
        let pair = self.epochs.get(&epoch).ok_or("the peer has no keys of that epoch")?;
        let direction = if own { self.own } else { self.own.reverse() };
        let mac = direction_key(&pair.keys.mac_key, direction);
        let text = serde_json::to_vec(signal).map_err(|error| error.to_string())?;
        let object = Object::parse(&text).map_err(|error| error.to_string())?;
        let signature = sign::signature(&mac, &object).ok_or("it can't be signed")?;
        let mut signed = signal.clone();
        signed["signature"] = json!(signature);
        Ok(signed)
    }

    /// Opens a datagram of the machine; `None` when it is not of this link.
    ///
    /// # Errors
    /// When it is, and breaks a rule that the peer holds it to.
    pub(crate) fn open(&mut self, datagram: &[u8]) -> Outcome<Option<Opened>> {
        let Some(header) = Header::decode(datagram) else { return Ok(None) };
        let found = self.epochs.iter_mut().rev().find_map(|(epoch, pair)| {
            let seq = pair.theirs.seq(&header)?;
            Some((*epoch, pair, seq))
        });
        let Some((epoch, pair, seq)) = found else { return Ok(None) };
        if !pair.theirs.iv_fits(&header, seq) {
            return Err("the machine sent a packet whose IV does not fit".to_owned());
        }
        let mut bytes = datagram.to_vec();
        let range = pair.theirs.open(&header, &mut bytes).map_err(|_| "GCM does not open it")?;
        let plaintext = bytes[range].to_vec();
        let end = datagram[datagram.len() - 32..].to_vec();
        if epoch > 0
            && let Some(before) = self.received.insert(seq, end.clone())
            && before != end
        {
            return Err(format!("the machine used number {seq} twice"));
        }
        let frames = frames::read(&plaintext)?;
        let messages = self.take_messages(epoch, &plaintext)?;
        let signal = frames.iter().find_map(|frame| frame.get("signal")).cloned();
        let signal = signal.map(|signal| {
            let right = self.signature_fits(epoch, &signal);
            (signal, right)
        });
        Ok(Some(Opened { epoch, seq, kind: header.kind, frames, messages, signal }))
    }

    /// Opens a hello of this attempt, whose message id is made with the file's key.
    ///
    /// # Errors
    /// When it does not open, or is malformed.
    pub(crate) fn open_hello(&mut self, nonce: u64, datagram: &[u8]) -> Outcome<Opened> {
        let header = Header::decode(datagram).ok_or("a hello without a header")?;
        let pair = self.epochs.get_mut(&0).ok_or("there is no epoch 0")?;
        if !pair.theirs.iv_fits(&header, nonce) {
            return Err("the machine sent a hello whose IV does not fit".to_owned());
        }
        let mut bytes = datagram.to_vec();
        let range = pair.theirs.open(&header, &mut bytes).map_err(|_| "GCM opens no hello")?;
        let frames = frames::read(&bytes[range])?;
        let signal = frames.iter().find_map(|frame| frame.get("signal")).cloned();
        let (messages, signal) = (Vec::new(), signal.map(|signal| (signal, false)));
        Ok(Opened { epoch: 0, seq: nonce, kind: header.kind, frames, messages, signal })
    }

    fn signature_fits(&self, epoch: u64, signal: &Value) -> bool {
        let Some(pair) = self.epochs.get(&epoch) else { return false };
        let mac = direction_key(&pair.keys.mac_key, self.own.reverse());
        let object = serde_json::to_vec(signal).ok().and_then(|text| Object::parse(&text).ok());
        object.is_some_and(|object| sign::verify(&mac, &object))
    }

    fn take_messages(&mut self, epoch: u64, plaintext: &[u8]) -> Outcome<Vec<Value>> {
        let mut whole = Vec::new();
        if epoch == 0 {
            return Ok(whole);
        }
        for frame in Frames::new(plaintext).flatten() {
            let Frame::Message(part) = frame else { continue };
            if part.id < self.next_in {
                continue;
            }
            let total = usize::try_from(part.total).map_err(|error| error.to_string())?;
            let fresh = || (vec![0; total], BTreeSet::new());
            let (bytes, have) = self.partial.entry(part.id).or_insert_with(fresh);
            let start = usize::try_from(part.offset).map_err(|error| error.to_string())?;
            bytes[start..start + part.bytes.len()].copy_from_slice(part.bytes);
            have.extend(part.offset..part.offset + part.bytes.len() as u64);
        }
        while let Some((bytes, have)) = self.partial.get(&self.next_in) {
            if have.len() < bytes.len() {
                break;
            }
            whole.push(serde_json::from_slice(bytes).map_err(|error| error.to_string())?);
            self.partial.remove(&self.next_in);
            self.next_in += 1;
        }
        Ok(whole)
    }

    /// Forgets old epochs, and all but the newest numbers that arrived.
    pub(crate) fn trim(&mut self) {
        while self.received.len() > 512 {
            self.received.pop_first();
        }
        while self.epochs.len() > 4 {
            self.epochs.pop_first();
        }
    }

    /// An ACK of all that arrived, as a frame; `None` when nothing did.
    #[must_use]
    pub(crate) fn ack(&self) -> Option<Value> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for seq in self.received.keys().rev() {
            let full = ranges.len() == 64;
            match ranges.last_mut() {
                Some((first, _)) if *first == seq + 1 => *first = *seq,
                _ if full => break,
                _ => ranges.push((*seq, *seq)),
            }
        }
        let list: Vec<Value> =
            ranges.into_iter().map(|(first, last)| json!([first, last])).collect();
        (!list.is_empty()).then(|| json!({"ack": {"ranges": list}}))
    }
}
