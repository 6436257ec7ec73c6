//! A hostile server: it has the client's security file, answers hellos as it should, and then does
//! whatever chance picks.

use super::line::rotation;
use super::text;
use crate::net::Rng;
use crate::scenario::frames;
use crate::scenario::link::{Birth, Link, Opened, Packet};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::crypto::agree::PrivateKey;
use clawchat_core::crypto::derive::{Direction, hello_id};
use clawchat_core::crypto::identity::Identity;
use clawchat_core::limits::{CHANNEL_MESSAGES, DATAGRAM_BASE, MESSAGE_PIECES};
use clawchat_core::secret::Secret;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::header::{Header, PacketType};
use clawchat_core::wire::secfile::SecurityFile;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// One kind of torment of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Torment {
    /// The whole window of messages open, each in as many pieces as are allowed.
    Unfinished,
    /// Nothing is ever acknowledged, and answers are asked for.
    Silence,
    /// Chats without end, no two the same.
    Chats,
    /// Receipts for whatever.
    Receipts,
    /// Presence of whomever.
    Presence,
    /// Rosters as long as a message can be.
    Rosters,
    /// Ports and renewed security files.
    Ports,
    /// Triggers as fast as they come.
    Triggers,
    /// Errors, fatal ones too.
    Errors,
    /// Pings and CHALLENGEs.
    Pings,
    /// Files offered, and sent in as many pieces as can be.
    Files,
}

impl Torment {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Unfinished,
        Self::Silence,
        Self::Chats,
        Self::Receipts,
        Self::Presence,
        Self::Rosters,
        Self::Ports,
        Self::Triggers,
        Self::Errors,
        Self::Pings,
        Self::Files,
    ];
}

/// The server.
#[derive(Debug)]
pub struct HostileServer {
    rng: Rng,
    /// The client's security file as JSON, and the secrets that it was given.
    file: Value,
    secrets: VecDeque<Secret<32>>,
    torments: Vec<Torment>,
    link: Option<Link>,
    established: bool,
    /// Holds messages open in this session, and so can send none.
    hoards: bool,
    transfers: u64,
    /// Transfers that the client took, and the pieces that were sent of each.
    taken: Vec<(u64, u64)>,
    /// Offers that the client answered.
    answered: u64,
    now: UnixMs,
    out: VecDeque<Vec<u8>>,
    sessions: u64,
}

fn name(rng: &mut Rng) -> String {
    format!("{:064x}", rng.u64())
}

fn id(rng: &mut Rng) -> String {
    format!("{:016x}{:016x}", rng.u64(), rng.u64())
}

impl HostileServer {
    /// A server that knows a client's file, and these torments.
    ///
    /// # Panics
    /// When the file's own JSON can't be read.
    #[must_use]
    pub fn new(seed: u64, file: &SecurityFile, torments: &[Torment]) -> Self {
        let json = serde_json::from_slice(&file.to_object().encode());
        Self {
            rng: Rng::new(seed),
            file: json.expect("a file is JSON"),
            secrets: [file.shared_secret.duplicate()].into(),
            torments: torments.to_vec(),
            link: None,
            established: false,
            hoards: false,
            transfers: 0,
            taken: Vec::new(),
            answered: 0,
            now: UnixMs(0),
            out: VecDeque::new(),
            sessions: 0,
        }
    }

    /// The datagram that it sends next.
    pub fn poll(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// How often a client had a session with it.
    #[must_use]
    pub const fn sessions(&self) -> u64 {
        self.sessions
    }

    fn private_key(&mut self) -> PrivateKey {
        PrivateKey::new(&RustCrypto, Secret::take(&mut self.rng.seed()))
    }

    /// A datagram of the client arrives.
    pub fn handle(&mut self, now: UnixMs, datagram: &[u8]) {
        self.now = now;
        if self.take_hello(datagram).is_some() {
            return;
        }
        let Some(link) = &mut self.link else { return };
        if let Ok(Some(opened)) = link.open(datagram) {
            link.trim();
            self.react(&opened);
        }
    }

    fn take_hello(&mut self, datagram: &[u8]) -> Option<()> {
        let header = Header::decode(datagram).filter(|_| datagram.len() == DATAGRAM_BASE)?;
        let fits = |secret: &Secret<32>| {
            let nonce = Identity::new(&hello_id(secret)).seq(&header.message_id)?;
            Some((secret.duplicate(), nonce))
        };
        let (secret, nonce) = self.secrets.iter().find_map(fits)?;
        let birth = Birth { secret: &secret, timestamp: header.timestamp, nonce };
        let private = self.private_key();
        let public = private.public();
        let mut link = Link::new(Direction::S2c, &birth, private);
        let opened = link.open_hello(nonce, datagram).ok()?;
        let (offer, _) = opened.signal?;
        let theirs = STANDARD.decode(text(&offer, "public_key")).ok()?.try_into().ok()?;
        link.agree(1, &theirs).ok()?;
        let mut answer = rotation("answer", 1, Some(&public));
        answer["session"] = json!({
            "now": self.now.0, "member": "ann", "server_id": self.file["server_id"],
            "server_name": "Simulated", "observed": "198.51.100.1:40000", "keepalive": 20,
            "idle_timeout": 60, "next_rotation": self.now.secs() + 3600,
            "rotation_interval": 3600, "grace_period": 300,
        });
        let plaintext = frames::plaintext(&[json!({ "signal": answer })]).ok()?;
        let (seq, timestamp, kind) = (self.rng.u64(), self.now, PacketType::KeyRotation);
        let packet = Packet { epoch: 0, seq, iv_seq: None, kind, timestamp, plaintext: &plaintext };
        self.out.push_back(link.seal(&packet).ok()?);
        (self.link, self.established, self.transfers) = (Some(link), false, 0);
        (self.taken, self.answered) = (Vec::new(), 0);
        let others = self.torments.iter().any(|torment| *torment != Torment::Unfinished);
        let hoards = self.torments.contains(&Torment::Unfinished);
        self.hoards = hoards && (!others || self.rng.chance(300));
        Some(())
    }

    fn react(&mut self, opened: &Opened) {
        if opened.epoch == 0 {
            return;
        }
        if !self.established {
            (self.established, self.sessions) = (true, self.sessions + 1);
        }
        let Some(link) = &mut self.link else { return };
        link.current = link.current.max(opened.epoch);
        if opened.signal.is_some() {
            self.link = None;
            return;
        }
        let silent = self.torments.contains(&Torment::Silence);
        if !silent && opened.kind != PacketType::Pong {
            let ack = self.link.as_ref().and_then(Link::ack);
            ack.into_iter().for_each(|ack| self.send(PacketType::Pong, &[ack]));
        }
        for message in &opened.messages {
            if text(message, "step") == "offer" {
                self.answer(message);
            } else if text(message, "type") == "file_accept" {
                self.answered += 1;
                self.taken.extend(message["transfer"].as_u64().map(|transfer| (transfer, 0)));
            } else if text(message, "type") == "file_cancel" {
                self.taken.retain(|(transfer, _)| message["transfer"] != *transfer);
            } else if text(message, "type") == "chat" && !silent {
                let id = &message["id"];
                let stored = json!({"type": "receipt", "id": id, "state": "stored", "by": "server", "at": 1});
                self.say(PacketType::Chat, &stored);
            }
        }
    }

    fn answer(&mut self, offer: &Value) {
        let private = self.private_key();
        let Some(link) = &mut self.link else { return };
        let theirs = STANDARD.decode(text(offer, "public_key")).ok();
        let Some(theirs) = theirs.and_then(|bytes| bytes.try_into().ok()) else { return };
        let (epoch, public) = (link.newest() + 1, link.hold(private));
        if link.agree(epoch, &theirs).is_ok() {
            self.say(PacketType::KeyRotation, &rotation("answer", epoch, Some(&public)));
        }
    }

    fn send(&mut self, kind: PacketType, list: &[Value]) {
        let timestamp = self.now;
        let (Some(link), Ok(plaintext)) = (&mut self.link, frames::plaintext(list)) else { return };
        let (epoch, seq) = (link.current.max(1), link.next_seq);
        link.next_seq += 1;
        let packet = Packet { epoch, seq, iv_seq: None, kind, timestamp, plaintext: &plaintext };
        self.out.extend(link.seal(&packet));
    }

    fn say(&mut self, kind: PacketType, message: &Value) {
        let Some(link) = self.link.as_mut().filter(|_| !self.hoards) else { return };
        let id = link.next_message;
        link.next_message += 1;
        self.send(kind, &[json!({"message": {"id": id, "json": message}})]);
    }

    /// Does something.
    pub fn act(&mut self, now: UnixMs) {
        self.now = now;
        if !self.established || self.link.is_none() {
            return;
        }
        let torments = self.torments.clone();
        match self.rng.pick(&torments) {
            _ if self.hoards => self.hoard(),
            // Each has a name that is refused.
            Some(Torment::Silence) => {
                let count = self.rng.range(1..=30);
                (0..count).for_each(|_| self.offer_file("../a.bin"));
            }
            Some(Torment::Files) => self.send_pieces(),
            Some(Torment::Chats) => self.flood(60, PacketType::Chat, |rng| {
                json!({
                    "type": "chat", "id": id(rng), "from": name(rng), "to": "#lobby",
                    "text": "x", "sent_at": 1,
                })
            }),
            Some(Torment::Receipts) => self.flood(60, PacketType::Chat, |rng| {
                json!({
                    "type": "receipt", "id": id(rng), "state": "delivered", "by": name(rng), "at": 1,
                })
            }),
            Some(Torment::Presence) => self.flood(60, PacketType::Presence, |rng| {
                json!({"type": "presence", "member": name(rng), "status": "online", "since": 1})
            }),
            Some(Torment::Rosters) => self.flood(4, PacketType::Presence, |rng| {
                let one = |_| json!({"member": name(rng), "status": "online", "since": 1});
                let members: Vec<_> = (0..450).map(one).collect();
                json!({"type": "roster", "members": members, "rooms": ["lobby"]})
            }),
            Some(Torment::Ports) => self.announce(),
            Some(Torment::Triggers) => self.trigger(),
            Some(Torment::Errors) => self.flood(20, PacketType::Error, |rng| {
                json!({
                    "type": "error", "code": "rate_limited", "message": "slower", "fatal": false,
                    "id": id(rng),
                })
            }),
            Some(Torment::Pings) => self.ping(),
            Some(Torment::Unfinished) | None => {}
        }
    }

    fn flood(&mut self, most: u64, kind: PacketType, make: impl Fn(&mut Rng) -> Value) {
        for _ in 0..self.rng.range(1..=most) {
            let message = make(&mut self.rng);
            self.say(kind, &message);
        }
    }

    fn hoard(&mut self) {
        let first = self.link.as_ref().map_or(0, |link| link.next_message);
        for _ in 0..4 {
            let id = first + self.rng.below(CHANNEL_MESSAGES);
            let piece = |n| {
                let offset = 1 + n * 2;
                json!({"message": {"id": id, "total": 16_384, "offset": offset, "length": 1}})
            };
            let list: Vec<_> = (0..MESSAGE_PIECES as u64).map(piece).collect();
            for part in list.chunks(64) {
                self.send(PacketType::Chat, part);
            }
        }
    }

    fn offer_file(&mut self, name: &str) {
        let offer = json!({
            "type": "file_offer", "transfer": self.transfers, "id": id(&mut self.rng),
            "name": name, "size": 1_u64 << 40, "to": "@ann", "from": "bob",
        });
        self.transfers += 1;
        self.say(PacketType::File, &offer);
    }

    /// Every other byte of files that the client took.
    fn send_pieces(&mut self) {
        if self.transfers < self.answered + 8 {
            self.offer_file("a.bin");
        }
        let Some(index) = self.taken.len().checked_sub(1).map(|last| self.rng.index(last + 1))
        else {
            return;
        };
        for _ in 0..500 {
            let (transfer, pieces) = self.taken[index];
            self.taken[index].1 += 1;
            let chunk = json!({
                "chunk": {"transfer": transfer, "offset": pieces * 2, "length": 1},
            });
            self.send(PacketType::File, &[chunk]);
        }
    }

    fn announce(&mut self) {
        let secs = self.now.secs();
        let mut told = json!({
            "type": "port_rotation", "version": "2.0", "new_port": self.rng.range(49_152..=65_535),
            "opens_at": secs + self.rng.below(100), "closes_old_at": secs + 400,
            "next_rotation": secs + 3600,
        });
        if self.rng.chance(300) {
            let mut bytes = self.rng.seed();
            let mut file = self.file.clone();
            file["shared_secret"] = json!(STANDARD.encode(bytes));
            file["timestamp"] = json!(secs);
            told["security_file"] = file;
            self.secrets.push_back(Secret::take(&mut bytes));
            if self.secrets.len() > 8 {
                self.secrets.pop_front();
            }
        }
        self.say(PacketType::PortRotation, &told);
    }

    fn trigger(&mut self) {
        for _ in 0..self.rng.range(1..=10) {
            let epoch = self.link.as_ref().map_or(1, Link::newest) + 1;
            let mut trigger = rotation("trigger", epoch, None);
            trigger["reason"] = json!("operator");
            self.say(PacketType::KeyRotation, &trigger);
        }
    }

    fn ping(&mut self) {
        for _ in 0..self.rng.range(1..=60) {
            let data = format!("{:016x}", self.rng.u64());
            self.send(PacketType::Ping, &[json!({ "challenge": data })]);
        }
    }
}
