//! A server, an honest member who is there, one who is not, and a hostile one.

use crate::{Meter, judge, longer};
use clawchat_core::client::{self, Client, ClientConfig};
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::id::{OpId, PortId, SessionId, TransferId};
use clawchat_core::limits::{
    CHANNEL_BACKLOG, CHANNEL_BYTES, CHANNEL_MESSAGES, CHATS_BURST, CHATS_PENDING, CHATS_REMEMBERED,
    FILE_PIECES, FILE_RANGES, FILES_REMEMBERED, FILES_TAKEN, HELLO_BURST, HELLOS_REMEMBERED,
    KeyLimits, MAILBOX_BYTES, MAILBOX_MESSAGES, MESSAGE_MAX, MESSAGE_PIECES, OWED, SECRETS_RETIRED,
    SESSIONS, TRIAL_ADDRESSES,
};
use clawchat_core::ops::Outcome;
use clawchat_core::random::Seed;
use clawchat_core::ranges::RangeSet;
use clawchat_core::server::{
    Action, Event, Member, PortChoice, RENEWAL_VALID_FOR, Server, ServerConfig, Timing,
};
use clawchat_core::time::{Instant, Now, UnixMs};
use clawchat_core::transport::path::Path;
use clawchat_core::wire::message::FileError;
use clawchat_core::wire::secfile::SecurityFile;
use clawchat_tests::disk::duplicate;
use clawchat_tests::hostile::{Abuse, Hostile};
use core::net::SocketAddr;
use std::collections::VecDeque;

const BEGIN: u64 = 1_772_000_000_000;
/// A step of virtual time, microseconds.
const STEP: u64 = 50_000;
/// Where the server is.
const SERVER: ([u8; 4], u16) = ([192, 0, 2, 1], 50_000);
const BOB: ([u8; 4], u16) = ([198, 51, 100, 2], 40_000);

fn at(micros: u64) -> Now {
    Now { mono: Instant::from_micros(1 + micros), wall: UnixMs(BEGIN + micros / 1000) }
}

/// How a run goes, in virtual time.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Seconds until it is warm.
    warm: u64,
    /// Seconds of each half after that.
    half: u64,
    /// Microseconds between two deeds.
    pause: u64,
    /// Microseconds until an action is completed.
    disk: u64,
}

struct Bench {
    now: u64,
    meter: Meter,
    server: Server,
    out: Vec<u8>,
    /// Files that the host has taken, which is not the machine's memory.
    taken: Vec<(SessionId, TransferId)>,
    /// Stands for what files hold.
    content: Vec<u8>,
    plan: Plan,
    /// Actions that are performed, and when that is known.
    doing: VecDeque<(u64, OpId)>,
    /// Files that were issued since the last look.
    issued: Vec<(String, SecurityFile)>,
    eve: Hostile,
    bob: Option<Client>,
    bob_saw: u64,
    complaint: Option<String>,
}

impl Bench {
    fn new(plan: Plan, abuses: &[Abuse]) -> Self {
        let mut meter = Meter::default();
        let mut server = None;
        meter.count(|| {
            let member = |name: &str| Member { name: name.to_string(), rooms: Vec::new() };
            let config = ServerConfig {
                server_id: "cc-simulated".to_string(),
                server_name: "Simulated".to_string(),
                public: "192.0.2.1".to_string(),
                port: PortChoice::Fixed(SERVER.1),
                timing: Timing::every(3600),
                renewal_valid_for: RENEWAL_VALID_FOR,
                members: ["ann", "bob", "eve"].map(member).into(),
                credentials: Vec::new(),
                chats: Vec::new(),
                files: Vec::new(),
                max_sessions: SESSIONS,
                key_limits: KeyLimits::default(),
                provider: &RustCrypto,
            };
            server = Some(Server::new(config, &Seed::new(&mut [7; 32]), at(0)));
        });
        let targets = ["@ann", "@bob", "@eve", "#lobby", "@server"];
        let mut bench = Self {
            now: 0,
            meter,
            server: server.expect("it was just made"),
            out: vec![0; 65_536],
            taken: Vec::with_capacity(TAKEN),
            content: vec![0; 65_536],
            plan,
            doing: VecDeque::new(),
            issued: Vec::new(),
            eve: Hostile::new(1, "eve", abuses, &targets),
            bob: None,
            bob_saw: 0,
            complaint: None,
        };
        bench.run(2);
        for member in ["bob", "eve"] {
            let issued = bench
                .meter
                .count(|| bench.server.issue(at(bench.now), member, &[], 30 * 86_400).is_ok());
            assert!(issued, "the port is bound");
            bench.run(2);
        }
        bench
    }

    fn run(&mut self, secs: u64) {
        let until = self.now + secs * 1_000_000;
        while self.now < until {
            self.now += STEP;
            self.step();
        }
    }

    fn step(&mut self) {
        let now = at(self.now);
        if self.server.poll_timeout().is_some_and(|deadline| deadline.at <= now.mono) {
            let Self { meter, server, .. } = self;
            meter.count(|| server.handle_timeout(now));
        }
        let mut later = VecDeque::new();
        for (at, op) in core::mem::take(&mut self.doing) {
            if at > self.now {
                later.push_back((at, op));
                continue;
            }
            let Self { meter, server, .. } = self;
            meter.count(|| server.handle_completion(now, op, Outcome::Done));
        }
        self.doing.extend(later);
        self.hand_out();
        self.bob_turns();
        if self.now % self.plan.pause < STEP {
            self.eve.act(now.wall);
        }
        while let Some((from, datagram)) = self.eve.poll() {
            self.deliver(from, datagram);
        }
        self.drain();
        if let Some(complaint) = self.eve.complaint() {
            self.complain(complaint);
        }
    }

    fn complain(&mut self, complaint: String) {
        self.complaint.get_or_insert(complaint);
    }

    fn hand_out(&mut self) {
        for (member, file) in core::mem::take(&mut self.issued) {
            if member == "eve" {
                self.eve.take_file(&file);
            } else {
                let config = ClientConfig {
                    file,
                    addresses: vec![SERVER.0.into()],
                    port: None,
                    reconnect: true,
                    key_limits: KeyLimits::default(),
                    provider: &RustCrypto,
                };
                self.bob = Some(Client::new(config, &Seed::new(&mut [9; 32]), at(self.now)));
            }
        }
        if self.eve.needs_file() && self.bob.is_some() && self.now % 10_000_000 < STEP {
            let (now, Self { meter, server, .. }) = (at(self.now), self);
            let _perhaps = meter.count(|| server.issue(now, "eve", &[], 30 * 86_400).is_ok());
        }
    }

    fn deliver(&mut self, from: SocketAddr, mut datagram: Vec<u8>) {
        let (now, path) = (at(self.now), Path::new(PortId(0), from));
        let Self { meter, server, .. } = self;
        meter.count(|| server.handle_datagram(now, path, &mut datagram));
        self.drain();
    }

    /// Takes all that the server puts out.
    fn drain(&mut self) {
        let now = at(self.now);
        let Self { meter, server, taken, .. } = self;
        let mut ended = false;
        while meter.count(|| {
            let Some(event) = server.poll_event() else { return false };
            if let Event::Disconnected { member, .. } = &event {
                ended |= member == "bob";
            }
            host_files(server, now, taken, event);
            true
        }) {}
        if ended {
            self.complain("the session of an honest member ended".to_string());
        }
        loop {
            let mut action = None;
            self.meter.count(|| action = self.server.poll_action());
            let Some((op, action)) = action else { break };
            let late = matches!(action, Action::StoreChat { .. } | Action::KeepCredentials { .. });
            self.doing.push_back((self.now + if late { self.plan.disk } else { 0 }, op));
            if let Action::IssueSecurityFile { draft } = &action {
                let member = draft.credential.member.clone();
                self.issued.push((member, duplicate(&draft.content)));
            }
            self.meter.count(|| drop(action));
        }
        loop {
            let Self { meter, server, out, content, .. } = self;
            let sent = meter.count(|| {
                server.poll_transmit(now, out).or_else(|| {
                    let want = server.file_want(now)?;
                    server.send_chunk(now, &want, &content[..want.len], out)
                })
            });
            let Some(sent) = sent else { break };
            let to = sent.path.remote;
            for part in self.out[..sent.len].chunks(sent.segment.max(1)) {
                if to == SocketAddr::from(BOB) {
                    let path = Path::new(PortId(0), SERVER.into());
                    if let Some(bob) = &mut self.bob {
                        bob.handle_datagram(now, path, &mut part.to_vec());
                    }
                } else {
                    self.eve.handle(now.wall, to, part);
                }
            }
        }
    }

    fn bob_turns(&mut self) {
        let now = at(self.now);
        let Some(mut bob) = self.bob.take() else { return };
        if bob.poll_timeout().is_some_and(|deadline| deadline.at <= now.mono) {
            bob.handle_timeout(now);
        }
        while let Some(event) = bob.poll_event() {
            match event {
                client::Event::Chat(_) => self.bob_saw += 1,
                client::Event::FileOffered { transfer, offer } => {
                    let _gone = bob.accept_file(now, transfer, &RangeSet::new(), offer.size);
                }
                client::Event::FileComplete { transfer, .. } => {
                    bob.file_checked(now, transfer, Ok(()));
                }
                client::Event::Closed(reason) => {
                    self.complain(format!("bob is cut off: {reason:?}"));
                }
                _ => {}
            }
        }
        while let Some((op, _)) = bob.poll_action() {
            bob.handle_completion(now, op, Outcome::Done);
        }
        if self.now % 30_000_000 < STEP {
            let _full = bob.send_chat(now, "@ann", "are you there?");
        }
        let mut sendings = Vec::new();
        while let Some(sent) = bob.poll_transmit(now, &mut self.out) {
            let parts = self.out[..sent.len].chunks(sent.segment.max(1));
            sendings.extend(parts.map(<[u8]>::to_vec));
        }
        self.bob = Some(bob);
        sendings.into_iter().for_each(|datagram| self.deliver(BOB.into(), datagram));
    }

    /// The most that is held in a time.
    fn most(&mut self, secs: u64) -> i64 {
        let mut most = 0;
        for _ in 0..secs {
            self.run(1);
            most = most.max(self.meter.held);
        }
        most
    }
}

/// Files that the host takes in all.
const TAKEN: usize = 4096;
/// Files that it has room for.
const QUOTA: usize = 500;

/// What a host does with files: it takes so many at a time, and keeps no more than its quota.
fn host_files(
    server: &mut Server,
    now: Now,
    taken: &mut Vec<(SessionId, TransferId)>,
    event: Event,
) {
    match event {
        Event::FileOffered { transfer, session, offer } => {
            let of_session = taken.iter().filter(|(of, _)| *of == session).count();
            if of_session < FILES_TAKEN && taken.len() < TAKEN {
                let _gone = server.accept_file(now, transfer, &RangeSet::new(), offer.size);
                taken.push((session, transfer));
            } else {
                server.cancel_file(now, transfer, "too many at a time");
            }
        }
        Event::FileComplete { transfer, file } => {
            let room = server.kept_files().count() < QUOTA;
            taken.retain(|(_, of)| *of != transfer);
            server.file_checked(now, transfer, if room { Ok(file) } else { Err(FileError::Disk) });
        }
        Event::FileEnded { transfer, .. } => taken.retain(|(_, of)| *of != transfer),
        _ => {}
    }
}

const MEMBERS: usize = 3;
/// Messages of the window.
const WINDOW: usize = 64;
const _: () = assert!(WINDOW as u64 == CHANNEL_MESSAGES);

/// What the server may hold, from its limits.
fn bound(plan: Plan) -> usize {
    // A member who is away: its mail, and of each mail what goes with the text.
    let mailbox = MAILBOX_BYTES + MAILBOX_MESSAGES * 512;
    // What is remembered of its chats: ids that were stored, mail that it may say it has read, receipts
    // that wait for it; in rings that double.
    let remembered = 2 * CHATS_REMEMBERED * (16 + 104 + 320) + CHATS_PENDING * 64;
    // A session receives a window of messages and 16 bytes for each piece, in vectors that double.
    let incoming = CHANNEL_BYTES + WINDOW * MESSAGE_PIECES * 16 * 2;
    // It owes a window of messages, and while that has room half as many of the longest; beside them
    // answers, all of them short, in the channel and before it.
    let outgoing = CHANNEL_BYTES + WINDOW / 2 * MESSAGE_MAX + (CHANNEL_BACKLOG + OWED) * 512;
    // Of files that it takes there are ranges, in vectors that double, and of each that it sends what was
    // named and what is left of it; the rest of what is in flight is small.
    let files = FILES_TAKEN * (FILE_PIECES * 16 * 2 + FILE_RANGES * 16 * 8);
    let outgoing = outgoing + files;
    // Two are established, and one of them may have just made way for another.
    let sessions = 3 * (incoming + outgoing + 64 * 1024);
    // Chats on their way to the disk: a burst of the longest; all that may wait when it hangs.
    let storing = if plan.disk < 1_000_000 { CHATS_BURST as usize } else { CHATS_PENDING };
    let storing = storing * (MESSAGE_MAX + 512);
    // Two files remember their hellos, and the replies to those of the last two minutes; and one more
    // for each COMPROMISED, of which nothing is kept.
    let hellos = 2 * (HELLOS_REMEMBERED * 192 + (HELLO_BURST as usize + 120) * 1_216);
    // Secrets known to be refused, with the key that their hellos are known by.
    let secrets = SECRETS_RETIRED * 1_024;
    let addresses = TRIAL_ADDRESSES * 128;
    // Files that are kept, or are known to have been passed on.
    let kept = (QUOTA + FILES_REMEMBERED) * 1_024;
    let rest = storing + hellos + secrets + addresses + kept + FIXED;
    MEMBERS * (mailbox + remembered) + sessions + rest
}

/// Replies that wait, what the monitor counts, the configuration.
const FIXED: usize = 1 << 20;

fn play(name: &str, plan: Plan, abuses: &[Abuse]) -> Result<(), String> {
    let mut bench = Bench::new(plan, abuses);
    let most = [plan.warm, plan.half, plan.half].map(|secs| bench.most(secs * longer()));
    let (sessions, saw) = (bench.eve.sessions(), bench.bob_saw);
    let more = format!("{sessions} hostile sessions, {saw} chats shown to an honest member");
    judge(name, &bench.meter, most, bound(plan), 0, &more)?;
    bench.complaint.map_or(Ok(()), Err)
}

/// One kind of abuse. What is remembered of hellos fills in 65 minutes.
pub(crate) fn alone(abuse: Abuse) -> Result<(), String> {
    // Chat fills its memories sooner, and costs more.
    let (warm, half) = if abuse == Abuse::Chats { (500, 250) } else { (4_300, 700) };
    let plan = Plan { warm, half, pause: 1_000_000, disk: 5_000 };
    play(&format!("{abuse:?}"), plan, &[abuse])
}

/// All of them.
pub(crate) fn together() -> Result<(), String> {
    let plan = Plan { warm: 4_300, half: 1_500, pause: 1_000_000, disk: 5_000 };
    play("all together", plan, &Abuse::ALL)
}

/// Chat and sessions while it takes ten minutes until anything is durable. Old secrets have a case of
/// their own: they fill their memory for longer than this lasts.
pub(crate) fn hanging() -> Result<(), String> {
    let plan = Plan { warm: 2_500, half: 600, pause: 1_000_000, disk: 590_000_000 };
    play("a disk that hangs", plan, &[Abuse::Chats, Abuse::Leaving])
}
