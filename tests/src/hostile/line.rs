//! Sessions of the hostile member: the handshake as it should be, and what it answers.

use super::files::Transfers;
use super::{Abuse, Hostile, PATIENCE, text};
use crate::scenario::frames;
use crate::scenario::link::{Birth, Link, Opened, Packet};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::crypto::agree::PrivateKey;
use clawchat_core::crypto::derive::Direction;
use clawchat_core::limits::{DATAGRAM_BASE, OVERHEAD};
use clawchat_core::secret::Secret;
use clawchat_core::wire::header::PacketType;
use clawchat_core::wire::secfile::SecurityFile;
use core::net::SocketAddr;
use serde_json::{Value, json};

/// What it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acks {
    /// Nothing, ever.
    Never,
    /// Now and then.
    Some,
    /// Everything.
    Always,
}

/// An attempt to connect, and the session that comes of it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) link: Link,
    pub(super) hello: Vec<u8>,
    pub(super) copy_at: u64,
    pub(super) from: SocketAddr,
    pub(super) established: bool,
    /// It is never to be established.
    pub(super) idle: bool,
    pub(super) is_over: bool,
    pub(super) ends_at: u64,
    pub(super) last_sent: u64,
    pub(super) acks: Acks,
    pub(super) styles: Vec<Abuse>,
    /// It has offered a key that is not answered.
    pub(super) offered: bool,
    /// Chats that came by it.
    pub(super) heard: Vec<String>,
    pub(super) transfers: Transfers,
}

/// A message of key rotation.
pub(super) fn rotation(step: &str, epoch: u64, public: Option<&[u8; 32]>) -> Value {
    let mut message =
        json!({"type": "key_rotation", "version": "2.0", "step": step, "epoch": epoch});
    if let Some(public) = public {
        message["public_key"] = json!(STANDARD.encode(public));
    }
    message
}

fn public_key(message: &Value) -> Option<[u8; 32]> {
    STANDARD.decode(text(message, "public_key")).ok()?.try_into().ok()
}

impl Hostile {
    pub(super) fn private_key(&mut self) -> PrivateKey {
        PrivateKey::new(&RustCrypto, Secret::take(&mut self.rng.seed()))
    }

    /// The hello of a new attempt, and its link.
    fn hello(&mut self) -> Option<(Link, Vec<u8>)> {
        // An old secret now and then: the server must be ready for a client that lost the new one.
        let newest = self.secrets.len().checked_sub(1)?;
        let old = self.rng.chance(if self.unanswered > 0 { 500 } else { 100 });
        let index = if old { self.rng.index(newest + 1) } else { newest };
        let index = if self.stubborn { 0 } else { index };
        let secret = self.secrets[index].duplicate();
        let (timestamp, nonce) = (self.now, self.rng.u64());
        let private = self.private_key();
        let public = private.public();
        let birth = Birth { secret: &secret, timestamp, nonce };
        let mut link = Link::new(Direction::C2s, &birth, private);
        let mut offer = rotation("offer", 1, Some(&public));
        offer["server_id"] = json!(self.server_id);
        let mut plaintext = frames::plaintext(&[json!({"signal": offer})]).ok()?;
        plaintext.resize(DATAGRAM_BASE - OVERHEAD, 0);
        let kind = PacketType::KeyRotation;
        let packet =
            Packet { epoch: 0, seq: nonce, iv_seq: None, kind, timestamp, plaintext: &plaintext };
        let hello = link.seal_hello(&secret, &packet).ok()?;
        Some((link, hello))
    }

    /// Begins an attempt.
    pub(super) fn connect(&mut self) {
        let Some((link, hello)) = self.hello() else { return };
        let (from, (acks, styles)) = (self.address(), self.habits());
        let now = self.now.0;
        self.out.push_back((from, hello.clone()));
        self.lines.push(Line {
            link,
            hello,
            copy_at: now + 250,
            from,
            established: false,
            idle: false,
            is_over: false,
            ends_at: now + self.rng.range(PATIENCE),
            last_sent: now,
            acks,
            styles,
            offered: false,
            heard: Vec::new(),
            transfers: Transfers::default(),
        });
    }

    /// Begins an attempt whose answer it will never follow.
    pub(super) fn half_open(&mut self) {
        let before = self.lines.len();
        self.connect();
        if let Some(line) = self.lines.get_mut(before) {
            line.idle = true;
        }
    }

    /// More hellos than the budget of a file allows, from many addresses.
    pub(super) fn flood_hellos(&mut self) {
        for _ in 0..self.rng.range(1..=120) {
            let Some((_, mut hello)) = self.hello() else { return };
            let from = self.address();
            if self.rng.chance(100) {
                crate::net::flip(&mut self.rng, &mut hello);
            }
            for _ in 0..self.rng.range(1..=2) {
                self.out.push_back((from, hello.clone()));
            }
        }
    }

    /// Seals frames in the present epoch and sends them.
    pub(super) fn send(&mut self, index: usize, kind: PacketType, list: &[Value]) {
        let Ok(plaintext) = frames::plaintext(list) else { return };
        self.send_plaintext(index, kind, &plaintext);
    }

    pub(super) fn send_plaintext(&mut self, index: usize, kind: PacketType, plaintext: &[u8]) {
        let hop = self.lines[index].styles.contains(&Abuse::Hopping);
        let fresh = self.address();
        let (timestamp, line) = (self.now, &mut self.lines[index]);
        if hop {
            line.from = fresh;
        }
        let (epoch, seq) = (line.link.current, line.link.next_seq);
        line.link.next_seq += 1;
        line.last_sent = timestamp.0;
        let packet = Packet { epoch, seq, iv_seq: None, kind, timestamp, plaintext };
        if let Ok(datagram) = line.link.seal(&packet) {
            self.out.push_back((line.from, datagram));
        }
    }

    /// The next message of the channel, as JSON.
    pub(super) fn say(&mut self, index: usize, kind: PacketType, message: &Value) {
        let link = &mut self.lines[index].link;
        let id = link.next_message;
        link.next_message += 1;
        self.send(index, kind, &[json!({"message": {"id": id, "json": message}})]);
    }

    /// Takes what matters for the keys, and answers as is its habit.
    pub(super) fn react(&mut self, index: usize, to: SocketAddr, opened: &Opened) {
        if opened.epoch == 0 {
            self.answered(index, opened);
            return;
        }
        let lasts = self.rng.range(5_000..=900_000);
        let line = &mut self.lines[index];
        line.link.trim();
        if opened.signal.is_some() {
            // A fatal error, or COMPROMISED: the session is no more.
            line.is_over = true;
            return;
        }
        line.ends_at = line.ends_at.max(self.now.0 + lasts.min(60_000));
        self.respond(index, to, opened);
        for message in &opened.messages {
            self.take(index, message);
        }
        let acks = match self.lines[index].acks {
            Acks::Never => false,
            Acks::Some => self.rng.chance(200),
            Acks::Always => true,
        };
        if acks && opened.kind != PacketType::Pong {
            let ack = self.lines[index].link.ack();
            ack.into_iter().for_each(|ack| self.send(index, PacketType::Pong, &[ack]));
        }
    }

    fn answered(&mut self, index: usize, opened: &Opened) {
        let Some((signal, _)) = &opened.signal else { return };
        let line = &mut self.lines[index];
        let (Some(public), false) = (public_key(signal), line.link.has(1)) else {
            // An error; an answer can come again.
            line.is_over |= signal["type"] == "error";
            self.unanswered += u32::from(signal["code"] == "expired");
            return;
        };
        if line.idle || line.link.agree(1, &public).is_err() {
            return;
        }
        line.link.current = 1;
        line.established = true;
        line.ends_at = self.now.0 + self.rng.range(60_000..=900_000);
        (self.unanswered, self.sessions) = (0, self.sessions + 1);
        self.say(index, PacketType::KeyRotation, &rotation("switch", 1, None));
    }

    /// A CHALLENGE may be answered, from where it went or from elsewhere.
    fn respond(&mut self, index: usize, to: SocketAddr, opened: &Opened) {
        let challenge = opened.frames.iter().find_map(|frame| frame.get("challenge"));
        let Some(challenge) = challenge.cloned() else { return };
        if self.rng.chance(500) {
            return;
        }
        let elsewhere = self.address();
        let line = &mut self.lines[index];
        let before = line.from;
        line.from = if self.rng.chance(800) { to } else { elsewhere };
        self.send(index, PacketType::Pong, &[json!({ "response": challenge })]);
        if self.rng.chance(300) {
            self.lines[index].from = before;
        }
    }

    fn take(&mut self, index: usize, message: &Value) {
        match (text(message, "type"), text(message, "step")) {
            ("key_rotation", "answer") => self.take_answer(index, message),
            ("key_rotation", "trigger") => {
                let rotates = !self.lines[index].styles.contains(&Abuse::Rotations);
                if rotates || self.rng.chance(300) {
                    self.offer(index);
                }
            }
            (kind, _) if kind.starts_with("file_") => self.lines[index].transfers.hear(message),
            ("chat", _) => {
                let line = &mut self.lines[index];
                if line.heard.len() < 200 {
                    line.heard.push(text(message, "id").to_string());
                }
            }
            ("port_rotation", _) => {
                let content = message.get("security_file").map(Value::to_string);
                let file = content.and_then(|text| SecurityFile::parse(text.as_bytes()).ok());
                if let Some(file) = file {
                    self.renewed(index, &file);
                }
            }
            _ => {}
        }
    }

    fn take_answer(&mut self, index: usize, message: &Value) {
        let line = &mut self.lines[index];
        let epoch = message["epoch"].as_u64().unwrap_or(0);
        line.offered = false;
        let agreed = public_key(message).is_some_and(|key| line.link.agree(epoch, &key).is_ok());
        if !agreed {
            return;
        }
        let lazy = self.lines[index].styles.contains(&Abuse::Switches) && self.rng.chance(500);
        let line = &mut self.lines[index];
        line.link.current = epoch;
        if !lazy {
            self.say(index, PacketType::KeyRotation, &rotation("switch", epoch, None));
        }
        if self.lines[index].styles.contains(&Abuse::Rotations) && self.rng.chance(500) {
            self.offer(index);
        }
    }

    /// Offers the next key, unless one is on its way.
    pub(super) fn offer(&mut self, index: usize) {
        if self.lines[index].offered {
            return;
        }
        let private = self.private_key();
        let line = &mut self.lines[index];
        line.offered = true;
        let (epoch, public) = (line.link.newest() + 1, line.link.hold(private));
        self.say(index, PacketType::KeyRotation, &rotation("offer", epoch, Some(&public)));
    }

    fn renewed(&mut self, index: usize, file: &SecurityFile) {
        if self.secrets.iter().any(|known| known.same(&file.shared_secret)) {
            return;
        }
        self.secrets.push(file.shared_secret.duplicate());
        if self.secrets.len() > 4 {
            self.secrets.remove(1);
        }
        let honest = !self.knows(Abuse::Stored) || self.rng.chance(500);
        if honest && !self.stubborn && self.rng.chance(800) {
            self.stored(index, file.timestamp);
        }
    }

    pub(super) fn stored(&mut self, index: usize, timestamp: u64) {
        let stored = json!({"type": "credential_stored", "version": "2.0", "timestamp": timestamp});
        self.say(index, PacketType::PortRotation, &stored);
    }
}
