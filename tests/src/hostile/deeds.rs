//! The abuses of the hostile member, one by one.

use super::line::rotation;
use super::{Abuse, Hostile};
use crate::net::Rng;
use crate::scenario::frames;
use clawchat_core::limits::{CHANNEL_MESSAGES, MESSAGE_MAX, MESSAGE_PIECES};
use clawchat_core::wire::header::PacketType;
use serde_json::{Value, json};

/// Length of a message that is held open: with as many as the window takes, they fill it.
const HELD: u64 = 16_384;

fn chat_id(rng: &mut Rng) -> String {
    format!("{:016x}{:016x}", rng.u64(), rng.u64())
}

/// A fragment of spaces.
fn piece(id: u64, total: u64, offset: u64, length: u64) -> Value {
    json!({"message": {"id": id, "total": total, "offset": offset, "length": length}})
}

impl Hostile {
    /// Commits an abuse by an established session.
    pub(super) fn commit(&mut self, index: usize, abuse: Abuse) {
        match abuse {
            Abuse::Fragments => self.fragments(index),
            Abuse::Pieces => self.pieces(index),
            Abuse::Window => self.open_window(index),
            Abuse::Debts => self.run_up_debts(index),
            Abuse::FalseAcks => self.false_ack(index),
            Abuse::WideAcks => self.wide_ack(index),
            Abuse::Jumps => self.jump(index),
            Abuse::Pings => {
                let count = self.rng.range(1..=self.measure.flood);
                self.ping(index, count);
            }
            Abuse::Challenges => self.challenge(index),
            Abuse::Hopping => self.ping(index, 3),
            Abuse::Rotations => self.rotate(index),
            Abuse::Switches => self.switch(index),
            Abuse::Chats => self.chats(index),
            Abuse::Receipts => self.receipts(index),
            Abuse::Presence => self.presence(index),
            Abuse::Files
            | Abuse::Offers
            | Abuse::FilePieces
            | Abuse::Chunks
            | Abuse::FileTurns
            | Abuse::FileTakes
            | Abuse::WholeFiles => self.abuse_files(index, abuse),
            Abuse::Stored => self.false_stored(index),
            Abuse::OldSecrets => self.lines[index].is_over = true,
            Abuse::BadSignals => self.signal(index, false),
            Abuse::Garbage => self.garbage(index),
            Abuse::Bombs => self.bomb(index),
            Abuse::Leaving => self.leave(index),
            Abuse::Compromised => {
                if self.rng.chance(20) {
                    self.signal(index, true);
                }
            }
            // Not by a session.
            Abuse::Hellos | Abuse::HalfOpen | Abuse::Sessions => {}
        }
    }

    /// The lowest id of its channel that is not used up.
    fn lowest(&self, index: usize) -> u64 {
        self.lines[index].link.next_message
    }

    fn fragments(&mut self, index: usize) {
        let first = self.lowest(index);
        for _ in 0..self.rng.range(1..=20) {
            let id = first + self.rng.below(CHANNEL_MESSAGES);
            let offset = 1 + self.rng.below(HELD - 2);
            let length = 1 + self.rng.below((HELD - offset).min(1_000));
            self.send(index, PacketType::Chat, &[piece(id, HELD, offset, length)]);
        }
    }

    fn pieces(&mut self, index: usize) {
        let first = self.lowest(index);
        for _ in 0..self.rng.range(1..=8) {
            let id = first + self.rng.below(CHANNEL_MESSAGES);
            let count = MESSAGE_PIECES as u64 + u64::from(self.rng.chance(20));
            let list: Vec<_> = (0..count).map(|n| piece(id, HELD, 1 + n * 2, 1)).collect();
            for part in list.chunks(64) {
                self.send(index, PacketType::Chat, part);
            }
        }
    }

    fn open_window(&mut self, index: usize) {
        let first = self.lowest(index);
        for id in first..first + CHANNEL_MESSAGES {
            self.send(index, PacketType::Chat, &[piece(id, HELD, HELD - 1, 1)]);
        }
        if self.rng.chance(20) {
            let beyond = piece(first + CHANNEL_MESSAGES, 1, 0, 1);
            self.send(index, PacketType::Chat, &[beyond]);
        }
    }

    /// Each of these is answered; more than the backlog ends the session.
    fn run_up_debts(&mut self, index: usize) {
        for _ in 0..self.rng.range(1..=self.measure.flood) {
            if self.rng.chance(500) {
                let size = self.rng.below(1 << 50);
                self.offer_file(index, "a.bin", size);
            } else {
                let id = chat_id(&mut self.rng);
                self.chat(index, &id, "@nobody", 1);
            }
        }
    }

    fn false_ack(&mut self, index: usize) {
        let number = 1_000_000 + self.rng.below(1 << 40);
        let ack = json!({"ack": {"ranges": [[number, number]]}});
        self.send(index, PacketType::Pong, &[ack]);
    }

    /// Every other number of what came.
    fn wide_ack(&mut self, index: usize) {
        let Some(ack) = self.lines[index].link.ack() else { return };
        let largest = ack["ack"]["ranges"][0][1].as_u64().unwrap_or(0);
        let numbers = (0..64).map_while(|n| largest.checked_sub(2 * n)).filter(|n| *n > 0);
        let ranges: Vec<_> = numbers.map(|number| json!([number, number])).collect();
        let ack = json!({"ack": {"ranges": ranges}});
        for _ in 0..self.rng.range(1..=20) {
            self.send(index, PacketType::Pong, core::slice::from_ref(&ack));
        }
    }

    fn jump(&mut self, index: usize) {
        let jump = if self.rng.chance(20) { 1 << 50 } else { self.rng.below(5_000_000) };
        let link = &mut self.lines[index].link;
        // The numbers end somewhere, and with them the session.
        link.next_seq = (link.next_seq + jump).min((1 << 62) - 10);
        self.ping(index, 2);
    }

    pub(super) fn ping(&mut self, index: usize, count: u64) {
        for _ in 0..count {
            let most = if self.rng.chance(50) { 60_000 } else { 60 };
            let padding = 1 + self.rng.below(most);
            self.send(index, PacketType::Ping, &[json!({ "padding": padding })]);
        }
    }

    fn challenge(&mut self, index: usize) {
        for _ in 0..self.rng.range(1..=self.measure.flood) {
            let data = format!("{:016x}", self.rng.u64());
            let list = vec![json!({ "challenge": data }); 1 + self.rng.index(3)];
            self.send(index, PacketType::Ping, &list);
        }
    }

    fn rotate(&mut self, index: usize) {
        if self.rng.chance(950) {
            self.offer(index);
            return;
        }
        let public = self.private_key().public();
        let epoch = self.lines[index].link.newest() + self.rng.below(4);
        let public = if self.rng.chance(200) { [0; 32] } else { public };
        self.say(index, PacketType::KeyRotation, &rotation("offer", epoch, Some(&public)));
    }

    fn switch(&mut self, index: usize) {
        if self.rng.chance(200) {
            let epoch = self.lines[index].link.newest() + self.rng.below(3);
            self.say(index, PacketType::KeyRotation, &rotation("switch", epoch, None));
        } else {
            self.offer(index);
        }
    }

    fn chat(&mut self, index: usize, id: &str, to: &str, length: u64) {
        if self.measure.chats == 0 {
            return;
        }
        self.measure.chats -= 1;
        let length = usize::try_from(length).unwrap_or(1);
        let names: Vec<_> = self.targets.iter().filter_map(|name| name.strip_prefix('@')).collect();
        let from = self.rng.pick(&names).map_or(self.member.as_str(), |name| *name);
        let chat = json!({
            "type": "chat", "id": id, "from": from, "to": to, "text": "x".repeat(length),
            "sent_at": self.now.0,
        });
        self.say(index, PacketType::Chat, &chat);
    }

    fn chats(&mut self, index: usize) {
        let mut id = chat_id(&mut self.rng);
        for _ in 0..self.rng.range(1..=self.measure.flood) {
            if self.rng.chance(900) {
                id = chat_id(&mut self.rng);
            }
            let to = self.rng.pick(&self.targets).cloned();
            let to = to.filter(|_| self.rng.chance(950)).unwrap_or_else(|| "@nobody".to_string());
            let long = self.rng.chance(300);
            let most = if long { self.measure.text } else { self.measure.text.min(200) };
            let length = self.rng.range(1..=most);
            self.chat(index, &id, &to, length);
        }
    }

    fn receipts(&mut self, index: usize) {
        let by = self.rng.pick(&self.targets).map_or("eve", |name| &name[1..]).to_string();
        for _ in 0..self.rng.range(1..=self.measure.flood) {
            let known = self.rng.pick(&self.lines[index].heard).cloned();
            let id = known.filter(|_| self.rng.chance(500));
            let id = id.unwrap_or_else(|| chat_id(&mut self.rng));
            let state = if self.rng.chance(2) { "delivered" } else { "read" };
            let receipt = json!({"type": "receipt", "id": id, "state": state, "by": by, "at": 1});
            self.say(index, PacketType::Chat, &receipt);
        }
    }

    fn presence(&mut self, index: usize) {
        let who = self.rng.pick(&self.targets).map_or("eve", |name| &name[1..]).to_string();
        for turn in 0..self.rng.range(1..=self.measure.flood) {
            let status = if turn % 2 == 0 { "away" } else { "online" };
            let presence = json!({"type": "presence", "member": who, "status": status, "since": 1});
            self.say(index, PacketType::Presence, &presence);
        }
    }

    fn leave(&mut self, index: usize) {
        if self.rng.chance(200) {
            let presence = json!({"type": "presence", "status": "offline"});
            self.say(index, PacketType::Presence, &presence);
            self.lines[index].is_over = true;
        }
    }

    fn false_stored(&mut self, index: usize) {
        for _ in 0..self.rng.range(1..=20) {
            let timestamp = self.now.0 / 1000 + self.rng.below(200);
            self.stored(index, timestamp.saturating_sub(100));
        }
        if self.rng.chance(300) {
            self.lines[index].is_over = true;
        }
    }

    /// COMPROMISED, with a good signature or a bad one.
    fn signal(&mut self, index: usize, good: bool) {
        let link = &self.lines[index].link;
        let signal = json!({
            "type": "compromised", "version": "2.0", "signal": "CLAWCHAT_COMPROMISED_V2",
            "timestamp": self.now.0 / 1000, "connection_id": link.id.to_string(),
            "reason": "user_initiated",
        });
        let Ok(mut signed) = link.sign(link.current, good, &signal) else { return };
        if !good && self.rng.chance(300) {
            signed["signature"] = json!("00".repeat(32));
        }
        self.send(index, PacketType::Compromised, &[json!({ "signal": signed })]);
    }

    fn garbage(&mut self, index: usize) {
        if self.rng.chance(700) {
            // What no key opens.
            let len = self.rng.range(64..=1_500) / 16 * 16;
            let mut noise = self.rng.bytes(usize::try_from(len).unwrap_or(64));
            (noise[0], noise[17], noise[25]) = (0x20, 0, 1 + noise[25] % 10);
            let from = self.address();
            self.out.push_back((from, noise));
            return;
        }
        let id = self.lowest(index);
        let (kind, frame) = match self.rng.below(7) {
            0 => (PacketType::Chat, json!({"message": {"id": id, "text": "{\"type\":"}})),
            1 => (PacketType::Chat, json!({"message": {"id": id, "text": "[1]"}})),
            2 => (PacketType::Chat, json!({"message": {"id": id, "json": {"type": "chat"}}})),
            3 => (PacketType::Presence, json!({"raw": "ff00"})),
            4 => (PacketType::Ping, piece(id, 10, 0, 1)),
            5 => (PacketType::File, json!({"message": {"id": id, "json": {"type": "roster"}}})),
            _ => (PacketType::Error, json!({"signal": {"type": "error", "code": "nonsense"}})),
        };
        self.send(index, kind, &[frame]);
    }

    /// Many small values in one object: the text is short, what it is read into is not.
    fn bomb(&mut self, index: usize) {
        let fill = match self.rng.below(4) {
            0 => "[],".repeat(MESSAGE_MAX / 3),
            1 => "0,".repeat(MESSAGE_MAX / 2),
            2 => "[".repeat(MESSAGE_MAX),
            _ => (0..6_000).map(|n| format!("{{\"{n:x}\":0}},")).collect(),
        };
        let room = 60_000.min(fill.len());
        let fill = &fill[..room];
        let cut = fill.rfind(',').unwrap_or(room);
        let known = if self.rng.chance(500) { "nothing" } else { "presence" };
        let text =
            format!("{{\"type\":\"{known}\",\"status\":\"online\",\"x\":[{}]}}", &fill[..cut]);
        let id = self.lowest(index);
        self.lines[index].link.next_message += 1;
        let frame = json!({"message": {"id": id, "text": text}});
        if let Ok(plaintext) = frames::plaintext(&[frame]) {
            self.send_plaintext(index, PacketType::Presence, &plaintext);
        }
    }
}
