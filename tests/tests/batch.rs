//! Datagrams that are handed over together are taken as if they came one after another (PROTOCOL 3),
//! whatever is among them.

use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::id::{ChatId, PortId, TransferId};
use clawchat_core::limits::DATAGRAM_MAX;
use clawchat_core::ops::Outcome;
use clawchat_core::ranges::RangeSet;
use clawchat_core::server::{Event, Server};
use clawchat_core::time::{Duration, Now};
use clawchat_core::transport::path::Path;
use clawchat_tests::bench::{Datagram, Rig};
use clawchat_tests::net::Rng;
use core::net::SocketAddr;

const STEP: Duration = Duration::from_millis(3);
/// Bytes of a datagram.
const LARGEST: usize = 1472;

/// What one of two equal servers makes of what it gets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Made {
    chunks: Vec<(TransferId, u64, Vec<u8>)>,
    events: Vec<String>,
    sent: Vec<(Path, Vec<u8>)>,
    drops: Vec<u64>,
    deadline: Option<clawchat_core::time::Instant>,
}

/// All that a server has to say.
fn drain(server: &mut Server, now: Now, made: &mut Made) {
    while let Some((op, _)) = server.poll_action() {
        server.handle_completion(now, op, Outcome::Done);
    }
    while let Some(event) = server.poll_event() {
        if let Event::FileOffered { transfer, offer, .. } = &event {
            let taken = server.accept_file(now, *transfer, &RangeSet::new(), offer.size);
            taken.expect("it was just offered");
        }
        made.events.push(format!("{event:?}"));
    }
    let mut out = vec![0; DATAGRAM_MAX];
    while let Some(sent) = server.poll_transmit(now, &mut out) {
        made.sent.push((sent.path, out[..sent.len].to_vec()));
    }
    made.drops = server.drops().map(|(_, count)| count).collect();
    made.deadline = server.poll_timeout().map(|deadline| deadline.at);
}

struct Scene {
    seed: u64,
    rng: Rng,
    /// The client's side is that of the first; both servers are as equal as can be.
    rigs: [Rig; 2],
    path: Path,
    /// Datagrams of one size that will arrive together.
    held: Vec<u8>,
    stride: usize,
    old: Vec<u8>,
    chunks: usize,
    /// Batches of more than a few.
    large: usize,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut rigs = [Rig::new(2, &RustCrypto), Rig::new(2, &RustCrypto)];
        let now = rigs[0].now;
        let client = &mut rigs[0].clients[0];
        let transfer = client.offer_file(now, ChatId([1; 16]), "@server", "f", 1 << 40);
        let transfer = transfer.expect("it has a session");
        client.file_digest(now, transfer, [7; 32]);
        let address: SocketAddr = ([10, 0, 0, 1], 40_000).into();
        let path = Path::new(PortId(0), address);
        let (held, old) = (vec![], vec![]);
        Self { seed, rng: Rng::new(seed), rigs, path, held, stride: 1, old, chunks: 0, large: 0 }
    }

    /// Both servers get the same, one of them together.
    fn deliver(&mut self, datagrams: &[u8], stride: usize) {
        let (now, path) = (self.rigs[0].now, self.path);
        let [one, other] = &mut self.rigs;
        let (mut single, mut batch) = (Made::default(), Made::default());
        for datagram in datagrams.to_vec().chunks_mut(stride) {
            if let Some(chunk) = one.server.handle_datagram(now, path, datagram) {
                single.chunks.push((chunk.transfer, chunk.offset, chunk.bytes.to_vec()));
            }
        }
        other.server.handle_batch(now, path, &mut datagrams.to_vec(), stride, |chunk| {
            batch.chunks.push((chunk.transfer, chunk.offset, chunk.bytes.to_vec()));
            true
        });
        drain(&mut one.server, now, &mut single);
        drain(&mut other.server, now, &mut batch);
        assert_eq!(single, batch, "seed {}", self.seed);
        self.large += usize::from(datagrams.len() > 8 * stride);
        self.chunks += single.chunks.len();
        for (_, mut reply) in single.sent {
            let server = Path::new(PortId(0), ([192, 0, 2, 1], 50_000).into());
            // What is for the other client is nothing to this one.
            self.rigs[0].clients[0].handle_datagram(now, server, &mut reply);
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
        let now = self.rigs[0].now;
        let client = &mut self.rigs[0].clients[0];
        match self.rng.index(20) {
            0 => drop(client.rotate_keys(now)),
            1 => drop(client.ping()),
            2 => drop(client.send_chat(now, "@server", "hello")),
            _ => {}
        }
        if client.poll_timeout().is_some_and(|deadline| deadline.at <= now.mono) {
            client.handle_timeout(now);
        }
        // Larger ones are lost, so that many make a batch.
        let fits = |datagram: &Datagram| datagram.bytes.len() <= LARGEST;
        for datagram in self.rigs[0].from_client(0).into_iter().filter(fits) {
            self.hold(&datagram.bytes, datagram.bytes.len());
        }
        let mut out = vec![0; DATAGRAM_MAX];
        for _ in 0..self.rng.range(0..=3) {
            let client = &mut self.rigs[0].clients[0];
            let Some(want) = client.file_want(now) else { break };
            let sent = client.send_chunk(now, &want, &vec![5; want.len], &mut out);
            let sent = sent.expect("it is wanted");
            if sent.segment <= LARGEST {
                self.hold(&out[..sent.len], sent.segment);
            }
        }
        if self.rng.chance(30) {
            let (old, stride) = (core::mem::take(&mut self.old), self.stride);
            self.deliver(&old, stride);
        }
        for rig in &mut self.rigs {
            if rig.server.poll_timeout().is_some_and(|deadline| deadline.at <= now.mono) {
                rig.server.handle_timeout(now);
            }
        }
        self.deliver(&[], 1);
    }
}

#[test]
fn together_is_as_one_after_another() {
    for seed in 0..40 {
        let mut scene = Scene::new(seed);
        (0..1000).for_each(|_| scene.step());
        let epoch = scene.rigs[0].clients[0].epoch().unwrap();
        let (chunks, large) = (scene.chunks, scene.large);
        assert!(
            chunks > 500 && large > 10 && epoch.0 > 5,
            "seed {seed}: {chunks}, {large}, {epoch:?}"
        );
    }
}
