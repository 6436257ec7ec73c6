//! Datagrams that are handed over together are taken as if they came one after another (PROTOCOL 3),
//! whatever is among them.

use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::id::{ChatId, PortId, TransferId};
use clawchat_core::limits::DATAGRAM_MAX;
use clawchat_core::ops::{Chunk, Deadline, Outcome};
use clawchat_core::ranges::RangeSet;
use clawchat_core::server::StoredFile;
use clawchat_core::time::Duration;
use clawchat_core::transport::path::Path;
use clawchat_core::wire::message::{FileOffer, Recipient};
use clawchat_core::{client, server};
use clawchat_tests::bench::Rig;
use clawchat_tests::net::Rng;
use core::net::SocketAddr;

const STEP: Duration = Duration::from_millis(3);
/// Bytes of a datagram.
const LARGEST: usize = 1472;
const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 40_000);
const SERVER: ([u8; 4], u16) = ([192, 0, 2, 1], 50_000);

/// Who takes a file in batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    Server,
    Client,
}

/// What one of two equal machines makes of what it gets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Made {
    chunks: Vec<(TransferId, u64, Vec<u8>)>,
    events: Vec<String>,
    sent: Vec<(Path, Vec<u8>)>,
    drops: Vec<u64>,
    deadline: Option<clawchat_core::time::Instant>,
}

impl Made {
    fn chunk(&mut self, chunk: &Chunk<'_>) {
        self.chunks.push((chunk.transfer, chunk.offset, chunk.bytes.to_vec()));
    }
}

impl Taker {
    /// Where what is for it comes from.
    fn path(self) -> Path {
        let remote: SocketAddr = if self == Self::Server { CLIENT } else { SERVER }.into();
        Path::new(PortId(0), remote)
    }

    fn one_by_one(self, rig: &mut Rig, datagrams: &[u8], stride: usize, made: &mut Made) {
        for datagram in datagrams.to_vec().chunks_mut(stride) {
            let (now, path) = (rig.now, self.path());
            let chunk = match self {
                Self::Server => rig.server.handle_datagram(now, path, datagram),
                Self::Client => rig.clients[0].handle_datagram(now, path, datagram),
            };
            chunk.iter().for_each(|chunk| made.chunk(chunk));
        }
    }

    fn together(self, rig: &mut Rig, datagrams: &[u8], stride: usize, made: &mut Made) {
        let (now, path, mut datagrams) = (rig.now, self.path(), datagrams.to_vec());
        let store = |chunk: &Chunk<'_>| {
            made.chunk(chunk);
            true
        };
        match self {
            Self::Server => rig.server.handle_batch(now, path, &mut datagrams, stride, store),
            Self::Client => rig.clients[0].handle_batch(now, path, &mut datagrams, stride, store),
        }
    }

    /// All that it has to say.
    fn drain(self, rig: &mut Rig, made: &mut Made) {
        let (now, mut out) = (rig.now, vec![0; DATAGRAM_MAX]);
        match self {
            Self::Server => {
                let server = &mut rig.server;
                while let Some((op, _)) = server.poll_action() {
                    server.handle_completion(now, op, Outcome::Done);
                }
                while let Some(event) = server.poll_event() {
                    if let server::Event::FileOffered { transfer, offer, .. } = &event {
                        let taken =
                            server.accept_file(now, *transfer, &RangeSet::new(), offer.size);
                        taken.expect("it was just offered");
                    }
                    made.events.push(format!("{event:?}"));
                }
                while let Some(sent) = server.poll_transmit(now, &mut out) {
                    made.sent.push((sent.path, out[..sent.len].to_vec()));
                }
                made.drops = server.drops().map(|(_, count)| count).collect();
                made.deadline = server.poll_timeout().map(|deadline| deadline.at);
            }
            Self::Client => {
                let client = &mut rig.clients[0];
                while let Some((op, _)) = client.poll_action() {
                    client.handle_completion(now, op, Outcome::Done);
                }
                while let Some(event) = client.poll_event() {
                    if let client::Event::FileOffered { transfer, offer } = &event {
                        let taken =
                            client.accept_file(now, *transfer, &RangeSet::new(), offer.size);
                        taken.expect("it was just offered");
                    }
                    made.events.push(format!("{event:?}"));
                }
                while let Some(sent) = client.poll_transmit(now, &mut out) {
                    made.sent.push((sent.path, out[..sent.len].to_vec()));
                }
                made.drops = client.drops().map(|(_, count)| count).collect();
                made.deadline = client.poll_timeout().map(|deadline| deadline.at);
            }
        }
    }

    /// It looks at its clock.
    fn turn(self, rig: &mut Rig) {
        let now = rig.now;
        let due = |deadline: Option<Deadline>| deadline.is_some_and(|due| due.at <= now.mono);
        match self {
            Self::Server if due(rig.server.poll_timeout()) => rig.server.handle_timeout(now),
            Self::Client if due(rig.clients[0].poll_timeout()) => {
                rig.clients[0].handle_timeout(now);
            }
            Self::Server | Self::Client => {}
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Server => Self::Client,
            Self::Client => Self::Server,
        }
    }
}

struct Scene {
    seed: u64,
    rng: Rng,
    taker: Taker,
    /// The sender is that of the first; both takers are as equal as can be.
    rigs: [Rig; 2],
    /// Datagrams of one size that will arrive together.
    held: Vec<u8>,
    stride: usize,
    old: Vec<u8>,
    chunks: usize,
    /// Batches of more than a few.
    large: usize,
}

impl Scene {
    fn new(taker: Taker, seed: u64) -> Self {
        let mut rigs = [Rig::new(2, &RustCrypto), Rig::new(2, &RustCrypto)];
        let (now, id, name, size) = (rigs[0].now, ChatId([1; 16]), "f".to_owned(), 1 << 40);
        match taker {
            Taker::Server => {
                let client = &mut rigs[0].clients[0];
                let transfer = client.offer_file(now, id, "@server", &name, size);
                let transfer = transfer.expect("it has a session");
                client.file_digest(now, transfer, [7; 32]);
            }
            Taker::Client => {
                let to = vec![rigs[0].server.sessions()[0].member.clone()];
                let (recipient, from) = (Recipient::Member(to[0].clone()), "server".to_owned());
                let offer = FileOffer { id, name, size, to: recipient, from };
                let (sha256, stored_at) = ([7; 32], now.wall);
                rigs[0].server.keep_file(StoredFile { offer, sha256, to, stored_at });
            }
        }
        let (rng, held, old) = (Rng::new(seed), vec![], vec![]);
        Self { seed, rng, taker, rigs, held, stride: 1, old, chunks: 0, large: 0 }
    }

    /// Both takers get the same, one of them together.
    fn deliver(&mut self, datagrams: &[u8], stride: usize) {
        let taker = self.taker;
        let [one, other] = &mut self.rigs;
        let (mut single, mut batch) = (Made::default(), Made::default());
        taker.one_by_one(one, datagrams, stride, &mut single);
        taker.together(other, datagrams, stride, &mut batch);
        taker.drain(one, &mut single);
        taker.drain(other, &mut batch);
        assert_eq!(single, batch, "{taker:?}, seed {}", self.seed);
        self.large += usize::from(datagrams.len() > 8 * stride);
        self.chunks += single.chunks.len();
        for (_, reply) in single.sent {
            // What is for the other client is nothing to this one.
            let len = reply.len();
            taker.other().one_by_one(one, &reply, len, &mut Made::default());
        }
    }

    fn flush(&mut self) {
        let (mut held, stride) = (core::mem::take(&mut self.held), self.stride);
        if self.rng.chance(400) && held.len().is_multiple_of(stride) {
            let mut all: Vec<_> = held.chunks(stride).collect();
            self.rng.shuffle(&mut all);
            held = all.concat();
        }
        for _ in 0..self.rng.range(0..=2) {
            let at = self.rng.index(held.len().max(1));
            if let Some(byte) = held.get_mut(at).filter(|_| self.rng.chance(60)) {
                *byte ^= 1 << self.rng.index(8);
            }
        }
        if self.rng.chance(100) {
            self.old = held.clone();
        }
        self.deliver(&held, stride);
    }

    /// Datagrams of `stride` bytes, but for the last, wait for others of that size.
    fn hold(&mut self, datagrams: &[u8], stride: usize) {
        if self.stride != stride || !self.held.len().is_multiple_of(stride) {
            self.flush();
            self.stride = stride;
        }
        self.held.extend(datagrams);
        if self.rng.chance(500) {
            self.flush();
        }
    }

    fn step(&mut self) {
        for rig in &mut self.rigs {
            rig.now.mono = rig.now.mono + STEP;
        }
        self.sender_acts();
        if self.rng.chance(30) {
            let (old, stride) = (core::mem::take(&mut self.old), self.stride);
            self.deliver(&old, stride);
        }
        self.rigs.iter_mut().for_each(|rig| self.taker.turn(rig));
        self.deliver(&[], 1);
    }

    fn sender_acts(&mut self) {
        let (now, choice) = (self.rigs[0].now, self.rng.index(20));
        let sender = self.taker.other();
        let Rig { clients, server, .. } = &mut self.rigs[0];
        match (sender, choice) {
            (Taker::Client, 0) => drop(clients[0].rotate_keys(now)),
            (Taker::Client, 1) => drop(clients[0].ping()),
            (Taker::Client, 2) => drop(clients[0].send_chat(now, "@server", "hello")),
            (Taker::Server, 0) => drop(server.rotate_keys(now, None)),
            _ => {}
        }
        sender.turn(&mut self.rigs[0]);
        let mut said = Made::default();
        sender.drain(&mut self.rigs[0], &mut said);
        // Larger ones are lost, so that many make a batch.
        for (_, datagram) in said.sent.into_iter().filter(|(_, bytes)| bytes.len() <= LARGEST) {
            self.hold(&datagram, datagram.len());
        }
        let mut out = vec![0; DATAGRAM_MAX];
        for _ in 0..self.rng.range(0..=3) {
            let Rig { clients, server, .. } = &mut self.rigs[0];
            let want = match sender {
                Taker::Client => clients[0].file_want(now),
                Taker::Server => server.file_want(now),
            };
            let Some(want) = want else { break };
            let bytes = vec![5; want.len];
            let sent = match sender {
                Taker::Client => clients[0].send_chunk(now, &want, &bytes, &mut out),
                Taker::Server => server.send_chunk(now, &want, &bytes, &mut out),
            };
            let sent = sent.expect("it is wanted");
            if sent.segment <= LARGEST {
                self.hold(&out[..sent.len], sent.segment);
            }
        }
    }
}

fn try_out(taker: Taker) {
    for seed in 0..40 {
        let mut scene = Scene::new(taker, seed);
        (0..1000).for_each(|_| scene.step());
        let epoch = scene.rigs[0].clients[0].epoch().expect("it has a session");
        let (chunks, large) = (scene.chunks, scene.large);
        assert!(
            chunks > 500 && large > 10 && epoch.0 > 5,
            "seed {seed}: {chunks}, {large}, {epoch:?}"
        );
    }
}

#[test]
fn together_is_as_one_after_another_at_the_server() {
    try_out(Taker::Server);
}

#[test]
fn together_is_as_one_after_another_at_the_client() {
    try_out(Taker::Client);
}
