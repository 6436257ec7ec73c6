//! A hostile member: valid security file, proper handshake, and then whatever abuse chance picks.
//!
//! It knows nothing of the world that it is played in: time and datagrams go in, datagrams and the
//! addresses they come from go out. What it is told is checked only as far as its keys reach.

mod deeds;
mod files;
mod line;
mod server;

pub use server::{HostileServer, Torment};

use crate::net::Rng;
use clawchat_core::secret::Secret;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::secfile::SecurityFile;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::ops::RangeInclusive;
use line::{Acks, Line};
use serde_json::Value;
use std::collections::VecDeque;

/// One kind of abuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Abuse {
    /// Parts of messages that never become whole, some of them overlapping.
    Fragments,
    /// As many disjoint pieces of messages as are allowed.
    Pieces,
    /// The whole message window open, 64 ids and 1 MiB, and none completed.
    Window,
    /// Whatever makes the server owe something, and nothing of it is acknowledged.
    Debts,
    /// ACKs of numbers that were never sent.
    FalseAcks,
    /// ACKs of 64 ranges.
    WideAcks,
    /// Sequence numbers that jump by millions.
    Jumps,
    /// Pings as fast as they come.
    Pings,
    /// CHALLENGEs as fast as they come.
    Challenges,
    /// Each packet comes from another address.
    Hopping,
    /// Rotations as fast as allowed, out of turn, or never finished.
    Rotations,
    /// Switches out of turn.
    Switches,
    /// Floods of chat to whomever, under others' names too.
    Chats,
    /// Receipts for chats that never came, or twice.
    Receipts,
    /// Floods of presence.
    Presence,
    /// File offers, chunks of no transfer.
    Files,
    /// Files offered without end, 17 at once, and under names that no file may have.
    Offers,
    /// Files in as many pieces as can be, begun and left.
    FilePieces,
    /// Bytes of files past their limit or size, over others, and of what is over.
    Chunks,
    /// Messages about files out of turn.
    FileTurns,
    /// Files of others taken in small steps, and left.
    FileTakes,
    /// Small files as they should be, as fast as can be.
    WholeFiles,
    /// `credential_stored` with wrong timestamps.
    Stored,
    /// New sessions with the same old secret, whose renewals are never confirmed.
    OldSecrets,
    /// COMPROMISED with a bad signature.
    BadSignals,
    /// Malformed JSON, frames and types.
    Garbage,
    /// JSON that is small as text and large as objects.
    Bombs,
    /// More hellos than a file's budget.
    Hellos,
    /// Sessions that are never established.
    HalfOpen,
    /// Several sessions of one file.
    Sessions,
    /// Sessions that are left as soon as they are there.
    Leaving,
    /// A good COMPROMISED, once in a while.
    Compromised,
}

impl Abuse {
    /// All of them.
    pub const ALL: [Self; 32] = [
        Self::Fragments,
        Self::Pieces,
        Self::Window,
        Self::Debts,
        Self::FalseAcks,
        Self::WideAcks,
        Self::Jumps,
        Self::Pings,
        Self::Challenges,
        Self::Hopping,
        Self::Rotations,
        Self::Switches,
        Self::Chats,
        Self::Receipts,
        Self::Presence,
        Self::Files,
        Self::Offers,
        Self::FilePieces,
        Self::Chunks,
        Self::FileTurns,
        Self::FileTakes,
        Self::WholeFiles,
        Self::Stored,
        Self::OldSecrets,
        Self::BadSignals,
        Self::Garbage,
        Self::Bombs,
        Self::Hellos,
        Self::HalfOpen,
        Self::Sessions,
        Self::Leaving,
        Self::Compromised,
    ];
}

/// Most messages of one flood, and the longest chat; how many chats in all.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Messages of one flood.
    pub flood: u64,
    /// Longest text of a chat, bytes.
    pub text: u64,
    /// Chats that it may still send.
    pub chats: u64,
}

/// A datagram and the address that it comes from.
pub type Sending = (SocketAddr, Vec<u8>);

/// The member.
#[derive(Debug)]
pub struct Hostile {
    rng: Rng,
    member: String,
    server_id: String,
    /// Secrets of its file, newest last.
    secrets: Vec<Secret<32>>,
    abuses: Vec<Abuse>,
    /// It uses the first secret of its file as long as it can.
    stubborn: bool,
    /// Whom it writes to.
    targets: Vec<String>,
    measure: Measure,
    lines: Vec<Line>,
    now: UnixMs,
    out: VecDeque<Sending>,
    /// Attempts in a row that nobody answered.
    unanswered: u32,
    /// How often it had a session.
    sessions: u64,
    complaint: Option<String>,
}

/// An attempt that is not answered by then, and a session that hears nothing for so long, is given
/// up, milliseconds.
const PATIENCE: RangeInclusive<u64> = 3_000..=15_000;
/// Attempts without an answer after which it wants another file.
const REFUSED: u32 = 8;
/// Attempts and sessions at a time.
const LINES: usize = 6;

impl Hostile {
    /// A member with a file, who knows these abuses and these recipients, as a chat names them.
    #[must_use]
    pub fn new(seed: u64, member: &str, abuses: &[Abuse], targets: &[&str]) -> Self {
        Self {
            rng: Rng::new(seed),
            member: member.to_string(),
            server_id: String::new(),
            secrets: Vec::new(),
            abuses: abuses.to_vec(),
            stubborn: false,
            targets: targets.iter().map(|name| (*name).to_string()).collect(),
            measure: Measure { flood: 60, text: 65_000, chats: u64::MAX },
            lines: Vec::new(),
            now: UnixMs(0),
            out: VecDeque::new(),
            unanswered: 0,
            sessions: 0,
            complaint: None,
        }
    }

    /// Keeps within a measure.
    #[must_use]
    pub const fn within(mut self, measure: Measure) -> Self {
        self.measure = measure;
        self
    }

    /// Is given a security file, in place of all before.
    pub fn take_file(&mut self, file: &SecurityFile) {
        self.server_id.clone_from(&file.server_id);
        self.secrets = vec![file.shared_secret.duplicate()];
        self.lines.clear();
        self.unanswered = 0;
        let only = self.abuses.len() < 4;
        self.stubborn = self.knows(Abuse::OldSecrets) && (only || self.rng.chance(500));
    }

    /// Whether its file seems to be refused for good.
    #[must_use]
    pub const fn needs_file(&self) -> bool {
        self.secrets.is_empty() || self.unanswered >= REFUSED
    }

    /// Whether an address is one of its own.
    #[must_use]
    pub fn owns(address: SocketAddr) -> bool {
        matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[..2] == [100, 64])
    }

    /// How often it had a session.
    #[must_use]
    pub const fn sessions(&self) -> u64 {
        self.sessions
    }

    /// What the server did to it that a server never does, if it did.
    pub const fn complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// What it sends next.
    pub fn poll(&mut self) -> Option<Sending> {
        self.out.pop_front()
    }

    fn address(&mut self) -> SocketAddr {
        let [a, b] = [self.rng.below(8), self.rng.range(1..=250)];
        let byte = |value: u64| u8::try_from(value).unwrap_or(1);
        let port = u16::try_from(self.rng.range(1_024..=60_000)).unwrap_or(1_024);
        (Ipv4Addr::new(100, 64, byte(a), byte(b)), port).into()
    }

    fn knows(&self, abuse: Abuse) -> bool {
        self.abuses.contains(&abuse)
    }

    /// Does something. Between two calls time should pass.
    pub fn act(&mut self, now: UnixMs) {
        self.now = now;
        self.give_up();
        let live = self.lines.iter().any(|line| !line.idle);
        if !self.secrets.is_empty() && !live && self.lines.len() < LINES {
            self.connect();
        }
        for index in 0..self.lines.len() {
            let line = &mut self.lines[index];
            if line.link.current == 0 && line.link.newest() == 0 && line.copy_at <= now.0 {
                line.copy_at = now.0 + self.rng.range(250..=2_000);
                let copy = (line.from, line.hello.clone());
                self.out.push_back(copy);
            }
        }
        let open: Vec<_> = (0..self.lines.len()).filter(|i| self.lines[*i].established).collect();
        if let Some(index) = self.rng.pick(&open).copied() {
            let styles = self.lines[index].styles.clone();
            if let Some(abuse) = self.rng.pick(&styles).copied() {
                self.commit(index, abuse);
            }
        }
        self.keep_alive();
        if self.knows(Abuse::Hellos) && self.rng.chance(30) {
            self.flood_hellos();
        }
        if self.knows(Abuse::HalfOpen) && self.rng.chance(100) {
            (0..self.rng.range(1..=6)).for_each(|_| self.half_open());
        }
        if self.knows(Abuse::Sessions) && self.rng.chance(50) {
            self.connect();
        }
    }

    /// A session without a word of its own would end by itself.
    fn keep_alive(&mut self) {
        for index in 0..self.lines.len() {
            let line = &self.lines[index];
            if line.established && self.now.0.saturating_sub(line.last_sent) > 15_000 {
                self.ping(index, 1);
            }
        }
    }

    fn give_up(&mut self) {
        let (now, before) = (self.now.0, self.lines.len());
        let unanswered = |line: &Line| !line.idle && line.link.newest() == 0;
        let late: u32 = self
            .lines
            .iter()
            .filter(|line| line.ends_at <= now)
            .map(|line| u32::from(unanswered(line)))
            .sum();
        self.unanswered += late;
        self.lines.retain(|line| line.ends_at > now && !line.is_over);
        debug_assert!(self.lines.len() <= before);
    }

    /// A datagram arrives at one of its addresses.
    pub fn handle(&mut self, now: UnixMs, to: SocketAddr, datagram: &[u8]) {
        self.now = now;
        for index in 0..self.lines.len() {
            match self.lines[index].link.open(datagram) {
                Ok(None) => {}
                Ok(Some(opened)) => {
                    self.react(index, to, &opened);
                    return;
                }
                Err(why) => {
                    self.complaint.get_or_insert(why);
                    return;
                }
            }
        }
    }

    /// The habits of a new session.
    fn habits(&mut self) -> (Acks, Vec<Abuse>) {
        let hoards = [Abuse::Fragments, Abuse::Pieces, Abuse::Window];
        let (hoards, others): (Vec<_>, Vec<_>) =
            self.abuses.iter().partition(|abuse| hoards.contains(abuse));
        // Who holds messages open can't send any: the ids would be the same.
        let hoards = others.is_empty() || (!hoards.is_empty() && self.rng.chance(300));
        let mut styles: Vec<_> = self
            .abuses
            .iter()
            .filter(|abuse| !others.contains(abuse) || !hoards || abuse.is_wordless())
            .filter(|abuse| others.contains(abuse) || hoards)
            .copied()
            .collect();
        self.rng.shuffle(&mut styles);
        styles.truncate(1 + self.rng.index(6));
        let acks = match self.rng.below(4) {
            _ if styles.contains(&Abuse::Debts) => Acks::Never,
            0 => Acks::Never,
            1 => Acks::Some,
            _ => Acks::Always,
        };
        (acks, styles)
    }
}

impl Abuse {
    /// Whether it needs no message of the channel.
    const fn is_wordless(self) -> bool {
        matches!(
            self,
            Self::Jumps | Self::Pings | Self::Challenges | Self::Hopping | Self::WideAcks
        )
    }
}

/// A text field of a message.
fn text<'a>(message: &'a Value, key: &str) -> &'a str {
    message[key].as_str().unwrap_or_default()
}
