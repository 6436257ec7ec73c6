//! A client whose server is hostile.

use crate::{Meter, judge, longer};
use clawchat_core::client::{Client, ClientConfig, Event};
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::id::{OpId, PortId, TransferId};
use clawchat_core::limits::{
    CHANNEL_BACKLOG, CHANNEL_BYTES, CHANNEL_MESSAGES, CHATS_SEEN, CHATS_UNRECEIPTED, FILE_PIECES,
    FILES_TAKEN, KeyLimits, MESSAGE_PIECES, OFFERS_UNANSWERED, SECURITY_FILE_MAX,
};
use clawchat_core::ops::Outcome;
use clawchat_core::random::Seed;
use clawchat_core::ranges::RangeSet;
use clawchat_core::secret::Secret;
use clawchat_core::time::{Instant, Now, UnixMs};
use clawchat_core::transport::path::Path;
use clawchat_core::wire::secfile::SecurityFile;
use clawchat_tests::disk::duplicate;
use clawchat_tests::hostile::{HostileServer, Torment};
use core::net::SocketAddr;

const BEGIN: u64 = 1_772_000_000_000;
const STEP: u64 = 50_000;
const SERVER: ([u8; 4], u16) = ([192, 0, 2, 1], 50_000);

fn at(micros: u64) -> Now {
    Now { mono: Instant::from_micros(1 + micros), wall: UnixMs(BEGIN + micros / 1000) }
}

fn file() -> SecurityFile {
    let made = BEGIN / 1000;
    SecurityFile {
        server_id: "cc-simulated".to_string(),
        server_name: "Simulated".to_string(),
        server_public_ip: "192.0.2.1".to_string(),
        server_udp_port: SERVER.1,
        shared_secret: Secret::take(&mut [3; 32]),
        bootstrap_key_id: "bootstrap-ann".to_string(),
        timestamp: made,
        valid_from: made,
        valid_until: made + 30 * 86_400,
        next_rotation: made + 3600,
        grace_period: 300,
        stun_servers: Vec::new(),
        hole_punch_timeout: 60,
        port_schedule: None,
        response_timeout: 10,
    }
}

struct Bench {
    now: u64,
    meter: Meter,
    client: Client,
    out: Vec<u8>,
    server: HostileServer,
    done: Vec<OpId>,
    /// Files that the host has taken, which is not the machine's memory.
    taken: Vec<TransferId>,
    /// Chats that it has shown, and remembers.
    shown: usize,
}

impl Bench {
    fn new(torments: &[Torment]) -> Self {
        let (mut meter, mut client) = (Meter::default(), None);
        let server = HostileServer::new(5, &file(), torments);
        let own = duplicate(&file());
        let before = own.to_object().encode().len();
        meter.count(|| {
            let config = ClientConfig {
                file: own,
                addresses: vec![SERVER.0.into()],
                port: None,
                reconnect: true,
                key_limits: KeyLimits::default(),
                provider: &RustCrypto,
            };
            client = Some(Client::new(config, &Seed::new(&mut [4; 32]), at(0)));
        });
        // The file it begins with was made before.
        meter.held += i64::try_from(before).unwrap_or(0);
        let client = client.expect("it was just made");
        Self {
            now: 0,
            meter,
            client,
            out: vec![0; 65_536],
            server,
            done: Vec::new(),
            taken: Vec::with_capacity(FILES_TAKEN),
            shown: 0,
        }
    }

    fn step(&mut self) {
        let now = at(self.now);
        let Self { meter, client, .. } = self;
        if client.poll_timeout().is_some_and(|deadline| deadline.at <= now.mono) {
            meter.count(|| client.handle_timeout(now));
        }
        for op in core::mem::take(&mut self.done) {
            meter.count(|| client.handle_completion(now, op, Outcome::Done));
        }
        if self.now % 1_000_000 < STEP {
            self.server.act(now.wall);
            meter.count(|| client.send_chat(now, "#lobby", "a chat as long as chats are").is_ok());
        }
        let path = Path::new(PortId(0), SERVER.into());
        while let Some(mut datagram) = self.server.poll() {
            self.meter.count(|| self.client.handle_datagram(now, path, &mut datagram));
            self.drain();
        }
        self.drain();
    }

    fn drain(&mut self) {
        let now = at(self.now);
        let Self { meter, client, taken, shown, .. } = self;
        let mut closed = false;
        while meter.count(|| {
            let Some(event) = client.poll_event() else { return false };
            match event {
                Event::Closed(_) => closed = true,
                Event::FileOffered { transfer, offer } if taken.len() < FILES_TAKEN => {
                    let _gone = client.accept_file(now, transfer, &RangeSet::new(), offer.size);
                    taken.push(transfer);
                }
                Event::FileComplete { transfer, .. } => {
                    taken.retain(|of| *of != transfer);
                    client.file_checked(now, transfer, Ok(()));
                }
                Event::Chat(_) => *shown += 1,
                Event::FileEnded { transfer, .. } => taken.retain(|of| *of != transfer),
                _ => {}
            }
            true
        }) {}
        if closed {
            meter.count(|| client.connect(now));
        }
        loop {
            let mut action = None;
            self.meter.count(|| action = self.client.poll_action());
            let Some((op, action)) = action else { break };
            self.done.push(op);
            self.meter.count(|| drop(action));
        }
        loop {
            let Self { meter, client, out, .. } = self;
            let Some(sent) = meter.count(|| client.poll_transmit(now, out)) else { break };
            for part in self.out[..sent.len].chunks(sent.segment.max(1)) {
                if sent.path.remote == SocketAddr::from(SERVER) {
                    self.server.handle(now.wall, part);
                }
            }
        }
    }

    fn most(&mut self, secs: u64) -> i64 {
        let (mut most, until) = (0, self.now + secs * 1_000_000);
        while self.now < until {
            self.now += STEP;
            self.step();
            most = most.max(self.meter.held);
        }
        most
    }
}

/// What a client may hold, from its limits.
fn bound() -> usize {
    // What it receives: whole messages, and a range of 16 bytes for each piece, in vectors that double.
    let incoming = CHANNEL_BYTES + WINDOW * MESSAGE_PIECES * 16 * 2;
    // What it owes: short answers and chats in its channel, each with its bookkeeping.
    let owed = (CHANNEL_BACKLOG + WINDOW) * 512;
    // Its application's chats, here of 27 bytes.
    let unreceipted = CHATS_UNRECEIPTED * 256;
    // Who wrote what it has shown.
    let seen = CHATS_SEEN * SEEN;
    // Renewed files: one in use, one being stored, one behind it, and one on its way to be.
    let files = 4 * SECURITY_FILE_MAX;
    // Files that are offered, and ranges of those that it takes, in vectors that double.
    let taken = FILES_TAKEN * FILE_PIECES * 16 * 2 + (FILES_TAKEN + OFFERS_UNANSWERED) * 512;
    incoming + owed + unreceipted + seen + files + taken + FIXED
}

/// What the memory of one chat that was shown takes: a set, whose nodes are at least half full, and its order,
/// in a vector that doubles.
const SEEN: usize = 2 * 64 + 3 * 40 + 2 * 40;
/// Messages of the window.
const WINDOW: usize = 64;
const _: () = assert!(WINDOW as u64 == CHANNEL_MESSAGES);
/// Keys, paths, controllers and what is in flight.
const FIXED: usize = 512 * 1024;

fn play(name: &str, torments: &[Torment]) -> Result<(), String> {
    let mut bench = Bench::new(torments);
    let warm = bench.most(700 * longer());
    let before = bench.shown;
    let [first, second] = [600; 2].map(|secs| bench.most(secs * longer()));
    // That memory fills slowly where the server does much else; a vector may double late.
    let fills = (bench.shown - before).min(CHATS_SEEN) * SEEN;
    let more = format!("{} sessions, {} chats shown", bench.server.sessions(), bench.shown);
    judge(name, &bench.meter, [warm, first, second], bound(), fills, &more)
}

/// One torment.
pub(crate) fn alone(torment: Torment) -> Result<(), String> {
    play(&format!("client, {torment:?}"), &[torment])
}

/// All of them.
pub(crate) fn together() -> Result<(), String> {
    play("client, all together", &Torment::ALL)
}
