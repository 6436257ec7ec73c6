//! The machine under test and all that is around it: clocks, peers, and what it put out.

use super::frames;
use super::link::{Birth, Link, Opened, Packet};
use super::machine::Machine;
use super::pattern::Names;
use super::words::{kind_text, outcome};
use crate::net::Rng;
use crate::vectors::{Fields, Outcome};
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::crypto::agree::PrivateKey;
use clawchat_core::crypto::derive::{ConnectionId, Direction, hello_id};
use clawchat_core::crypto::identity::Identity;
use clawchat_core::id::{OpId, PortId};
use clawchat_core::limits::{DATAGRAM_BASE, DATAGRAM_MAX};
use clawchat_core::secret::Secret;
use clawchat_core::server::StoredFile;
use clawchat_core::time::{Duration, Now, UnixMs};
use clawchat_core::transport::path::Path;
use clawchat_core::wire::header::{Header, PacketType};
use core::net::SocketAddr;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Outputs that one step may cause.
const OUTPUTS: usize = 200_000;

/// What a peer knows of a security file.
#[derive(Clone, Debug)]
pub(super) struct FileData {
    /// Its secret.
    pub(super) secret: [u8; 32],
    /// Whose it is.
    pub(super) member: String,
    /// The server it is for.
    pub(super) server_id: String,
    /// Its `timestamp`.
    pub(super) timestamp: u64,
}

impl FileData {
    /// The secret as the core takes it.
    #[must_use]
    pub(super) fn shared_secret(&self) -> Secret<32> {
        Secret::take(&mut { self.secret })
    }
}

/// A scripted peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Name of its security file.
    pub(super) file: String,
    /// Where it sends from.
    pub(super) address: SocketAddr,
    /// The machine's binding that it sends to.
    pub(super) port: u32,
    /// Its attempts to connect, oldest first.
    pub(super) links: Vec<Link>,
}

impl Peer {
    /// A peer that has sent nothing.
    #[must_use]
    pub(super) const fn new(file: String, address: SocketAddr) -> Self {
        Self { file, address, port: 0, links: Vec::new() }
    }

    /// Its way to the machine.
    #[must_use]
    pub(super) const fn path(&self) -> Path {
        Path::new(PortId(self.port), self.address)
    }
}

/// A datagram, an action or an event that the machine put out.
#[derive(Debug)]
pub(super) struct Output {
    /// What it is, as patterns see it.
    pub(super) value: Value,
    /// A datagram's bytes.
    pub(super) bytes: Vec<u8>,
}

/// What peers do by themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// Acknowledge what arrives, at once.
    pub(super) acks: bool,
    /// Take the next step of a key rotation.
    pub(super) rotates: bool,
    /// Store a renewed security file, and say so.
    pub(super) stores: bool,
    /// Bare acknowledgements of the machine must be expected.
    pub(super) sees_acks: bool,
}

/// The machine under test and all that is around it.
#[derive(Debug)]
pub(super) struct World {
    /// The machine.
    pub(super) machine: Machine,
    /// Both clocks.
    pub(super) now: Now,
    begin: Now,
    /// Peers by name.
    pub(super) peers: BTreeMap<String, Peer>,
    /// Security files by name.
    pub(super) files: BTreeMap<String, FileData>,
    /// Datagrams by label.
    pub(super) labels: BTreeMap<String, Vec<u8>>,
    /// Values by name.
    pub(super) names: Names,
    /// What the machine put out in this step.
    pub(super) outputs: Vec<Output>,
    /// Actions that wait for their completion.
    pub(super) waiting: Vec<(OpId, String)>,
    completes: BTreeMap<String, String>,
    /// What peers do by themselves.
    pub(super) habits: Habits,
    /// Files that the machine asked to be checked, by their transfers.
    pub(super) complete_files: BTreeMap<u64, StoredFile>,
    /// The host reads what is wanted of files.
    reads: bool,
    /// Chance for the peers.
    pub(super) rng: Rng,
    /// The highest message id that the machine has used, plus one.
    pub(super) most_messages: u64,
}

/// The values of the clocks: `s`, `ms`, and `t`, milliseconds since the start.
#[must_use]
pub(super) fn clock_names(begin: Now, now: Now) -> Names {
    let t = u64::try_from(now.mono.since(begin.mono).as_millis()).unwrap_or(u64::MAX);
    let list = [("s", now.wall.secs()), ("ms", now.wall.0), ("t", t)];
    list.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

impl World {
    /// A world around a machine.
    #[must_use]
    pub(super) fn new(machine: Machine, now: Now, rng: Rng) -> Self {
        let habits = Habits { acks: true, rotates: false, stores: false, sees_acks: false };
        Self {
            machine,
            now,
            begin: now,
            peers: BTreeMap::new(),
            files: BTreeMap::new(),
            labels: BTreeMap::new(),
            names: Names::new(),
            outputs: Vec::new(),
            waiting: Vec::new(),
            completes: BTreeMap::new(),
            habits,
            complete_files: BTreeMap::new(),
            reads: true,
            rng,
            most_messages: 0,
        }
    }

    /// Whether the machine is a server.
    #[must_use]
    pub(super) const fn is_server(&self) -> bool {
        matches!(self.machine, Machine::Server(_))
    }

    /// Changes habits and the outcomes of actions.
    ///
    /// # Errors
    /// For what is neither.
    pub(super) fn set(&mut self, what: &Value) -> Outcome {
        Fields::of(what.clone())?.all(|what| {
            if what.has("peer") {
                what.within("peer", |flags| {
                    let mut flag = |key: &str, old: &mut bool| {
                        if let Some(Value::Bool(new)) = flags.maybe(key) {
                            *old = new;
                        }
                    };
                    flag("acks", &mut self.habits.acks);
                    flag("rotates", &mut self.habits.rotates);
                    flag("stores", &mut self.habits.stores);
                    flag("sees_acks", &mut self.habits.sees_acks);
                    Ok(())
                })?;
            }
            if let Some(Value::Bool(reads)) = what.maybe("reads") {
                self.reads = reads;
            }
            let completes = what.maybe("complete").unwrap_or_else(|| json!({}));
            for (name, word) in completes.as_object().ok_or("complete: no object")? {
                let word = word.as_str().ok_or("complete: no text")?;
                outcome(word)?;
                self.completes.insert(name.clone(), word.to_owned());
            }
            Ok(())
        })
    }

    /// Makes the clocks' values those of now.
    pub(super) fn tell_time(&mut self) {
        self.names.extend(clock_names(self.begin, self.now));
    }

    /// Moves the wall clock alone.
    pub(super) const fn step_wall(&mut self, negative: bool, by: Duration) {
        let ms = by.as_millis() as u64;
        let wall = self.now.wall.0;
        self.now.wall = UnixMs(if negative { wall.saturating_sub(ms) } else { wall + ms });
    }

    /// Moves both clocks to where the machine wants to be called, or to `end`; true at the end.
    ///
    /// # Errors
    /// See [`Self::settle`].
    pub(super) fn tick(&mut self, end: clawchat_core::time::Instant) -> Outcome<bool> {
        let due = self.machine.poll_timeout().map(|deadline| deadline.at).filter(|at| *at <= end);
        let at = due.unwrap_or(end).max(self.now.mono);
        // Whole milliseconds of the wall clock pass with those of the other.
        let ms = |at: clawchat_core::time::Instant| at.as_micros() / 1000;
        self.now.wall.0 += ms(at) - ms(self.now.mono);
        self.now.mono = at;
        self.machine.handle_timeout(self.now);
        self.settle()?;
        Ok(due.is_none())
    }

    /// Gives a datagram to the machine, and takes what follows.
    ///
    /// # Errors
    /// See [`Self::settle`].
    pub(super) fn deliver(&mut self, path: Path, datagram: &[u8]) -> Outcome {
        let chunk = self.machine.handle_datagram(self.now, path, &mut datagram.to_vec());
        if let Some(chunk) = chunk {
            self.outputs.push(Output { value: self.timed(chunk), bytes: Vec::new() });
        }
        self.settle()
    }

    /// Hands the machine so many of the bytes of a file that it wants, at most; what it wanted.
    ///
    /// # Errors
    /// See [`Self::settle`].
    pub(super) fn read_file(&mut self, most: usize) -> Outcome<Value> {
        let Some(want) = self.machine.file_want(self.now) else { return Ok(Value::Null) };
        let mut buffer = vec![0; DATAGRAM_MAX];
        let (now, len) = (self.now, want.len.min(most));
        let sent = self.machine.send_chunk(now, &want, len, &mut buffer);
        let Some(sent) = sent else { return Ok(json!("no longer wanted")) };
        for datagram in buffer[..sent.len].chunks(sent.segment.max(1)) {
            self.receive(sent.path, datagram.to_vec())?;
        }
        Ok(json!({"transfer": want.transfer.0, "offset": want.offset, "length": want.len}))
    }

    /// Takes all outputs of the machine; peers answer as is their habit.
    ///
    /// # Errors
    /// When the machine breaks a rule that every peer holds it to, or does not stop.
    pub(super) fn settle(&mut self) -> Outcome {
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let before = self.outputs.len();
            if before > OUTPUTS {
                return Err("the machine does not stop putting things out".to_owned());
            }
            let mut idle = true;
            while let Some((op, value)) = self.machine.poll_action() {
                idle = false;
                self.act(op, value);
            }
            while let Some((event, file)) = self.machine.poll_event() {
                idle = false;
                if let (Some(file), Some(transfer)) = (file, event["transfer"].as_u64()) {
                    self.complete_files.insert(transfer, file);
                }
                self.outputs.push(Output { value: self.timed(event), bytes: Vec::new() });
            }
            if let Some(sent) = self.machine.poll_transmit(self.now, &mut buffer) {
                idle = false;
                let datagrams = buffer[..sent.len].chunks(sent.segment.max(1));
                for datagram in datagrams.map(<[u8]>::to_vec).collect::<Vec<_>>() {
                    self.receive(sent.path, datagram)?;
                }
            }
            if idle && self.reads {
                idle = self.read_file(usize::MAX)?.is_null();
            }
            if idle {
                return Ok(());
            }
        }
    }

    fn timed(&self, mut value: Value) -> Value {
        value["at"] = clock_names(self.begin, self.now)["t"].clone();
        value
    }

    fn act(&mut self, op: OpId, value: Value) {
        let name = value["action"].as_str().unwrap_or_default().to_owned();
        if let Some(content) = value.get("content") {
            let member = value["credential"]["member"].as_str().unwrap_or("ann").to_owned();
            if let Ok(data) = super::start::file_data(content, &member) {
                self.files.insert("new".to_owned(), data);
            }
        }
        let word = self.completes.get(&name).map_or("done", String::as_str);
        match outcome(word) {
            Ok(Some(outcome)) => self.machine.handle_completion(self.now, op, outcome),
            Ok(None) | Err(_) => self.waiting.push((op, name)),
        }
        self.outputs.push(Output { value: self.timed(value), bytes: Vec::new() });
    }

    /// A private key for a peer.
    pub(super) fn private_key(&mut self) -> PrivateKey {
        PrivateKey::new(&RustCrypto, Secret::take(&mut self.rng.seed()))
    }

    /// Opens a datagram of the machine with the keys of its peers, and lets that peer react.
    fn receive(&mut self, path: Path, bytes: Vec<u8>) -> Outcome {
        let mut value = json!({
            "address": path.remote.to_string(), "port": path.port.0, "length": bytes.len(),
            "type": kind_text(bytes.get(25).copied().unwrap_or(0)),
        });
        let found = self.open(path, &bytes)?;
        if let Some((name, attempt, opened)) = &found {
            let ack = opened.frames.iter().find(|frame| frame.get("ack").is_some());
            let padded = opened.frames.iter().any(|frame| frame.get("padding").is_some());
            let rest: Vec<_> = opened
                .frames
                .iter()
                .filter(|frame| frame.get("ack").is_none() && frame.get("padding").is_none())
                .collect();
            let ids = opened.frames.iter().filter_map(|frame| frame["message"]["id"].as_u64());
            self.most_messages = ids.map(|id| id + 1).fold(self.most_messages, u64::max);
            value["to"] = json!(name);
            value["attempt"] = json!(attempt);
            value["epoch"] = json!(opened.epoch);
            value["seq"] = json!(opened.seq);
            value["ack"] = ack.map_or(Value::Null, |ack| ack["ack"].clone());
            value["padding"] = json!(padded);
            value["frames"] = json!(rest);
            value["messages"] = json!(opened.messages);
            if let Some((signal, signed)) = &opened.signal {
                value["signal"] = signal.clone();
                value["signed"] = json!(signed);
            }
        }
        let at = u64::from_be_bytes(bytes[17..25].try_into().unwrap_or_default());
        value["timestamp"] = json!(at);
        self.outputs.push(Output { value: self.timed(value), bytes });
        match found {
            Some((name, attempt, opened)) => self.react(&name, attempt, &opened),
            None => Ok(()),
        }
    }

    fn open(&mut self, path: Path, bytes: &[u8]) -> Outcome<Option<(String, usize, Opened)>> {
        if !self.is_server()
            && let Some(found) = self.open_hello(bytes)?
        {
            return Ok(Some(found));
        }
        let mut order: Vec<String> = self.peers.keys().cloned().collect();
        order.sort_by_key(|name| self.peers[name].address != path.remote);
        for name in order {
            let Some(peer) = self.peers.get_mut(&name) else { continue };
            for (attempt, link) in peer.links.iter_mut().enumerate().rev() {
                let opened = link.open(bytes).map_err(|why| format!("{name}: {why}"))?;
                if let Some(opened) = opened {
                    return Ok(Some((name, attempt, opened)));
                }
            }
        }
        Ok(None)
    }

    /// A client's hello makes a link at the peer, which is the server.
    fn open_hello(&mut self, bytes: &[u8]) -> Outcome<Option<(String, usize, Opened)>> {
        let header = Header::decode(bytes).ok_or("a datagram that has no header")?;
        if header.kind != PacketType::KeyRotation || bytes.len() != DATAGRAM_BASE {
            return Ok(None);
        }
        let private = self.private_key();
        let Some((name, peer)) = self.peers.iter_mut().next() else { return Ok(None) };
        let file = self.files.get(&peer.file).ok_or("the peer has no file")?;
        let secret = file.shared_secret();
        let identity = Identity::new(&hello_id(&secret));
        let Some(nonce) = identity.seq(&header.message_id) else { return Ok(None) };
        let id = ConnectionId::new(header.timestamp, nonce);
        let known = peer.links.iter().position(|link| link.id == id);
        let attempt = known.unwrap_or(peer.links.len());
        if known.is_none() {
            let birth = Birth { secret: &secret, timestamp: header.timestamp, nonce };
            peer.links.push(Link::new(Direction::S2c, &birth, private));
        }
        let opened = peer.links[attempt].open_hello(nonce, bytes)?;
        Ok(Some((name.clone(), attempt, opened)))
    }

    /// Seals frames as the next packet of a peer's link.
    ///
    /// # Errors
    /// For an unknown peer, or bad frames.
    pub(super) fn seal_next(
        &mut self,
        peer: &str,
        attempt: usize,
        kind: PacketType,
        list: &[Value],
    ) -> Outcome<Vec<u8>> {
        let plaintext = frames::plaintext(list)?;
        let timestamp = self.now.wall;
        let peer = self.peers.get_mut(peer).ok_or("no such peer")?;
        let link = peer.links.get_mut(attempt).ok_or("the peer has not tried to connect")?;
        let (epoch, seq) = (link.current, link.next_seq);
        link.next_seq += 1;
        let packet = Packet { epoch, seq, iv_seq: None, kind, timestamp, plaintext: &plaintext };
        link.seal(&packet)
    }
}
