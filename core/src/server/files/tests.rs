use super::super::tests::{config, start};
use super::super::{PortChoice, ServerConfig};
use super::*;
use crate::client::{self, Client, ClientConfig};
use crate::crypto::aead::RustCrypto;
use crate::id::PortId;
use crate::limits::{DATAGRAM_MAX, FILES_TAKEN, KeyLimits, OFFERS_UNANSWERED};
use crate::ops::{Chunk, Outcome};
use crate::random::Seed;
use crate::time::Duration;
use crate::transport::path::Path;
use crate::wire::message::{Recipient, Status};
use crate::wire::secfile::SecurityFile;
use alloc::vec;
use core::net::SocketAddr;
use sha2::{Digest, Sha256};

const HERE: ([u8; 4], u16) = ([192, 0, 2, 1], 50_000);

fn sha256(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

fn content(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + at / 251) as u8 ^ seed).collect()
}

/// A file that arrives.
#[derive(Debug)]
struct Arriving {
    offer: FileOffer,
    content: Vec<u8>,
    have: RangeSet,
}

impl Arriving {
    fn new(offer: &FileOffer) -> Self {
        let content = vec![0; usize::try_from(offer.size).unwrap()];
        Self { offer: offer.clone(), content, have: RangeSet::new() }
    }

    fn write(&mut self, chunk: &Chunk<'_>) {
        let at = usize::try_from(chunk.offset).unwrap();
        self.content[at..at + chunk.bytes.len()].copy_from_slice(chunk.bytes);
        self.have.insert(chunk.offset..chunk.offset + chunk.bytes.len() as u64);
    }

    fn check(&self, digest: &[u8; 32]) -> Result<(), FileError> {
        if sha256(&self.content) == *digest { Ok(()) } else { Err(FileError::Hash) }
    }
}

/// A client and what its host has.
#[derive(Debug)]
struct Party {
    client: Client,
    address: SocketAddr,
    /// What it sends.
    sources: BTreeMap<TransferId, Vec<u8>>,
    arriving: BTreeMap<TransferId, Arriving>,
    /// What was left of transfers that were interrupted.
    left: BTreeMap<ChatId, Arriving>,
    got: Vec<(FileOffer, Vec<u8>)>,
    ended: Vec<(TransferId, Result<(), FileFailure>)>,
    accepts: bool,
    /// It hashes what it sends.
    hashes: bool,
    /// The SHA-256 that it tells is not that of the file.
    lies: bool,
    online: bool,
    limit: u64,
}

/// A server, its clients, and a network that loses.
struct Scene {
    now: Now,
    server: Server,
    parties: Vec<Party>,
    issued: Vec<SecurityFile>,
    arriving: BTreeMap<TransferId, Arriving>,
    left: BTreeMap<Key, Arriving>,
    spool: BTreeMap<Key, (StoredFile, Vec<u8>)>,
    sending: BTreeMap<TransferId, Key>,
    delivered: Vec<(ChatId, String)>,
    ended: Vec<Result<(), FileFailure>>,
    /// Datagrams that are lost, one in so many; 0 for none.
    lossy: u64,
    sent: u64,
    out: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        Self::with(config(PortChoice::Fixed(HERE.1)))
    }

    fn with(config: ServerConfig) -> Self {
        let now = start(0);
        let mut scene = Self {
            now,
            server: Server::new(config, &Seed::new(&mut [1; 32]), now),
            parties: vec![],
            issued: vec![],
            arriving: BTreeMap::new(),
            left: BTreeMap::new(),
            spool: BTreeMap::new(),
            sending: BTreeMap::new(),
            delivered: vec![],
            ended: vec![],
            lossy: 0,
            sent: 0,
            out: vec![0; DATAGRAM_MAX],
        };
        scene.turn();
        scene
    }

    fn join(&mut self, member: &str) -> usize {
        self.server.issue(self.now, member, &[], 86_400).unwrap();
        self.turn();
        let file = self.issued.pop().unwrap();
        let index = u8::try_from(self.parties.len()).unwrap();
        let config = ClientConfig {
            file,
            addresses: vec![HERE.0.into()],
            port: None,
            reconnect: true,
            key_limits: KeyLimits::default(),
            provider: &RustCrypto,
        };
        self.parties.push(Party {
            client: Client::new(config, &Seed::new(&mut [100 + index; 32]), self.now),
            address: SocketAddr::from(([198, 51, 100, index], 40_000)),
            sources: BTreeMap::new(),
            arriving: BTreeMap::new(),
            left: BTreeMap::new(),
            got: vec![],
            ended: vec![],
            accepts: true,
            hashes: true,
            lies: false,
            online: true,
            limit: u64::MAX >> 8,
        });
        self.run(300);
        self.parties.len() - 1
    }

    fn lost(&mut self) -> bool {
        self.sent += 1;
        self.lossy != 0 && self.sent.is_multiple_of(self.lossy)
    }

    fn server_event(&mut self, event: Event) {
        match event {
            Event::FileOffered { transfer, offer, .. } => {
                let key = (offer.from.clone(), offer.id);
                let arriving = self.left.remove(&key).unwrap_or_else(|| Arriving::new(&offer));
                let have = arriving.have.clone();
                self.arriving.insert(transfer, arriving);
                self.server.accept_file(self.now, transfer, &have, offer.size).unwrap();
            }
            Event::FileComplete { transfer, file } => {
                let arriving = self.arriving.remove(&transfer).unwrap();
                let result = arriving.check(&file.sha256).map(|()| file.clone());
                if result.is_ok() {
                    let key = (file.offer.from.clone(), file.offer.id);
                    self.spool.insert(key, (file, arriving.content));
                }
                self.server.file_checked(self.now, transfer, result);
            }
            Event::FileSending { transfer, offer, .. } => {
                self.sending.insert(transfer, (offer.from, offer.id));
            }
            Event::FileEnded { transfer, result } => {
                self.sending.remove(&transfer);
                if let Some(arriving) = self.arriving.remove(&transfer) {
                    let key = (arriving.offer.from.clone(), arriving.offer.id);
                    self.left.insert(key, arriving);
                }
                self.ended.push(result);
            }
            _ => {}
        }
    }

    fn turn_server(&mut self) -> bool {
        let mut busy = false;
        while let Some((op, action)) = self.server.poll_action() {
            busy = true;
            match action {
                Action::IssueSecurityFile { draft } => {
                    let content = SecurityFile::from_object(&draft.content.to_object());
                    self.issued.push(content.unwrap());
                }
                Action::FileDelivered { id, by, .. } => self.delivered.push((id, by)),
                _ => {}
            }
            self.server.handle_completion(self.now, op, Outcome::Done);
        }
        while let Some(event) = self.server.poll_event() {
            busy = true;
            self.server_event(event);
        }
        loop {
            let mut sent = self.server.poll_transmit(self.now, &mut self.out);
            if sent.is_none()
                && let Some(want) = self.server.file_want(self.now)
            {
                assert_eq!(self.server.file_want(self.now), Some(want), "asked twice");
                let (_, content) = &self.spool[&self.sending[&want.transfer]];
                let at = usize::try_from(want.offset).unwrap();
                let bytes = &content[at..at + want.len];
                sent = self.server.send_chunk(self.now, &want, bytes, &mut self.out);
                assert!(sent.is_some(), "it was wanted");
            }
            let Some(sent) = sent else { break };
            busy = true;
            let all = self.out[..sent.len].to_vec();
            for datagram in all.chunks(sent.segment) {
                let to = self.parties.iter().position(|party| party.address == sent.path.remote);
                let lost = self.lost();
                if let Some(party) = to.map(|to| &mut self.parties[to])
                    && party.online
                    && !lost
                {
                    party.receive(self.now, datagram);
                }
            }
        }
        busy
    }

    fn turn(&mut self) {
        loop {
            let mut busy = self.turn_server();
            for index in 0..self.parties.len() {
                let sent = self.parties[index].turn(self.now, &mut self.out);
                busy |= !sent.is_empty();
                let (from, online) = (self.parties[index].address, self.parties[index].online);
                for mut datagram in sent {
                    if online && !self.lost() {
                        let path = Path::new(PortId(0), from);
                        let chunk = self.server.handle_datagram(self.now, path, &mut datagram);
                        if let Some(chunk) = chunk {
                            self.arriving.get_mut(&chunk.transfer).unwrap().write(&chunk);
                        }
                    }
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 5 {
            self.now.mono = self.now.mono + Duration::from_millis(5);
            self.now.wall.0 += 5;
            self.server.handle_timeout(self.now);
            for party in &mut self.parties {
                party.client.handle_timeout(self.now);
            }
            self.turn();
        }
    }

    fn offer(&mut self, party: usize, id: u8, to: &str, content: Vec<u8>) -> TransferId {
        let (now, party) = (self.now, &mut self.parties[party]);
        let (id, size) = (ChatId([id; 16]), content.len() as u64);
        let transfer = party.client.offer_file(now, id, to, "a file.bin", size).unwrap();
        party.sources.insert(transfer, content);
        transfer
    }
}

impl Party {
    fn receive(&mut self, now: Now, datagram: &[u8]) {
        let (path, mut datagram) =
            (Path::new(PortId(0), SocketAddr::from(HERE)), datagram.to_vec());
        if let Some(chunk) = self.client.handle_datagram(now, path, &mut datagram) {
            self.arriving.get_mut(&chunk.transfer).unwrap().write(&chunk);
        }
    }

    fn event(&mut self, now: Now, event: client::Event) {
        match event {
            client::Event::FileOffered { transfer, offer } if self.accepts => {
                let left = self.left.remove(&offer.id);
                let arriving = left.unwrap_or_else(|| Arriving::new(&offer));
                let have = arriving.have.clone();
                self.arriving.insert(transfer, arriving);
                self.client.accept_file(now, transfer, &have, self.limit).unwrap();
            }
            client::Event::FileAccepted { transfer, .. } if self.hashes => {
                let digest = if self.lies { [7; 32] } else { sha256(&self.sources[&transfer]) };
                self.client.file_digest(now, transfer, digest);
            }
            client::Event::FileComplete { transfer, sha256 } => {
                let arriving = self.arriving.remove(&transfer).unwrap();
                let result = arriving.check(&sha256);
                if result.is_ok() {
                    self.got.push((arriving.offer, arriving.content));
                }
                self.client.file_checked(now, transfer, result);
            }
            client::Event::FileEnded { transfer, result } => {
                if let Some(arriving) = self.arriving.remove(&transfer) {
                    self.left.insert(arriving.offer.id, arriving);
                }
                self.ended.push((transfer, result));
            }
            _ => {}
        }
    }

    fn turn(&mut self, now: Now, out: &mut [u8]) -> Vec<Vec<u8>> {
        while let Some((op, _)) = self.client.poll_action() {
            self.client.handle_completion(now, op, Outcome::Done);
        }
        while let Some(event) = self.client.poll_event() {
            self.event(now, event);
        }
        let mut all = vec![];
        loop {
            let mut sent = self.client.poll_transmit(now, out);
            if sent.is_none()
                && let Some(want) = self.client.file_want(now)
            {
                let at = usize::try_from(want.offset).unwrap();
                let bytes = &self.sources[&want.transfer][at..at + want.len];
                sent = self.client.send_chunk(now, &want, bytes, out);
                assert!(sent.is_some(), "it was wanted");
            }
            let Some(sent) = sent else { return all };
            all.extend(out[..sent.len].chunks(sent.segment).map(<[u8]>::to_vec));
        }
    }
}

#[test]
fn a_file_goes_from_member_to_member() {
    for lossy in [0, 7] {
        let mut scene = Scene::new();
        let (ann, bob) = (scene.join("ann"), scene.join("bob"));
        scene.lossy = lossy;
        let file = content(3_000_000, 1);
        let transfer = scene.offer(ann, 1, "@bob", file.clone());
        scene.run(if lossy == 0 { 3_000 } else { 20_000 });
        assert_eq!(scene.parties[ann].ended, [(transfer, Ok(()))]);
        let [(offer, got)] = &scene.parties[bob].got[..] else { panic!("{lossy}") };
        assert_eq!((offer.from.as_str(), offer.size), ("ann", 3_000_000));
        assert!(*got == file);
        assert_eq!(scene.delivered, [(ChatId([1; 16]), "bob".to_string())]);
        assert_eq!(scene.server.kept_files().count(), 0);
        assert!(scene.ended.iter().all(Result::is_ok));
    }
}

#[test]
fn an_empty_file_and_a_room() {
    let mut scene = Scene::new();
    let (ann, bob, cid) = (scene.join("ann"), scene.join("bob"), scene.join("cid"));
    scene.offer(ann, 1, "#lobby", vec![]);
    scene.offer(ann, 2, "#lobby", content(10, 2));
    scene.run(1000);
    for party in [bob, cid] {
        let sizes: Vec<_> = scene.parties[party].got.iter().map(|(o, _)| o.size).collect();
        assert_eq!(sizes, [0, 10]);
    }
    assert!(scene.parties[ann].got.is_empty(), "not to its sender");
    assert_eq!(scene.delivered.len(), 4);
}

#[test]
fn a_file_for_the_server_waits_for_nobody() {
    let mut scene = Scene::new();
    let ann = scene.join("ann");
    let transfer = scene.offer(ann, 1, "@server", content(10, 1));
    scene.run(1000);
    assert_eq!(scene.parties[ann].ended, [(transfer, Ok(()))]);
    assert_eq!(scene.spool.len(), 1);
    assert_eq!(scene.server.kept_files().count(), 0);
}

/// A file that its sender was told to be stored is kept, however many there are.
#[test]
fn too_many_are_not_taken_rather_than_lost() {
    let to = vec!["bob".to_string()];
    let stored = |number: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let (from, name) = ("ann".to_string(), "note".to_string());
        let offer =
            FileOffer { id: ChatId(id), name, size: 1, to: Recipient::Member(to[0].clone()), from };
        StoredFile { offer, sha256: [0; 32], to: to.clone(), stored_at: UnixMs(1) }
    };
    let mut config = config(PortChoice::Fixed(HERE.1));
    config.files = (1..FILES_KEPT).map(stored).collect();
    let mut scene = Scene::with(config);
    assert!(scene.server.may_take_file(), "one more");
    assert!(scene.server.keep_file(stored(0)));
    assert!(!scene.server.may_take_file());
    assert!(scene.server.keep_file(stored(FILES_KEPT)), "what is durable is not lost");
    assert!(!scene.server.keep_file(stored(0)), "once");
    assert_eq!(scene.server.kept_files().count(), FILES_KEPT + 1);
}

#[test]
fn who_is_away_is_offered_it_later_and_once() {
    let mut scene = Scene::new();
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.parties[bob].online = false;
    scene.offer(ann, 1, "@bob", content(100_000, 1));
    scene.run(70_000);
    assert_eq!(scene.server.kept_files().count(), 1);
    scene.parties[bob].online = true;
    scene.run(60_000);
    assert_eq!(scene.parties[bob].got.len(), 1);
    // The author lost the answer, and offers it again.
    scene.offer(ann, 1, "@bob", content(100_000, 1));
    scene.run(1000);
    assert_eq!(scene.parties[ann].ended.len(), 2);
    assert_eq!(scene.parties[bob].got.len(), 1);
    // The same id for another file is refused.
    scene.offer(ann, 1, "@bob", content(100_001, 1));
    scene.run(1000);
    assert!(matches!(&scene.parties[ann].ended[2].1, Err(FileFailure::Cancelled(_))));
}

#[test]
fn a_broken_session_costs_no_byte_twice() {
    let mut scene = Scene::new();
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    let file = content(4_000_000, 3);
    scene.parties[bob].limit = 1_000_000;
    let transfer = scene.offer(ann, 1, "@bob", file.clone());
    scene.run(3000);
    assert_eq!(scene.parties[ann].ended, [(transfer, Ok(()))]);
    assert!(scene.parties[bob].got.is_empty(), "held by its limit");
    let raised = *scene.parties[bob].arriving.keys().next().unwrap();
    let now = scene.now;
    scene.parties[bob].client.raise_file_limit(now, raised, 1_500_000).unwrap();
    scene.run(1000);
    scene.parties[bob].online = false;
    scene.run(100_000);
    assert_eq!(scene.parties[bob].left.len(), 1);
    scene.parties[bob].online = true;
    scene.parties[bob].limit = u64::MAX >> 8;
    let before =
        scene.server.sessions.iter().map(|(_, entry)| entry.session.traffic().0).sum::<u64>();
    scene.run(60_000);
    let [(_, got)] = &scene.parties[bob].got[..] else { panic!("it came") };
    assert!(*got == file);
    let after =
        scene.server.sessions.iter().map(|(_, entry)| entry.session.traffic().0).sum::<u64>();
    assert!((2_500_000..3_000_000).contains(&(after - before)), "{before} {after}");
}

#[test]
fn transfers_at_once_and_more_than_may_wait() {
    let mut scene = Scene::new();
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.parties[bob].accepts = false;
    for id in 0..40 {
        scene.offer(ann, id, "@bob", content(20_000 + usize::from(id), id));
    }
    scene.run(5000);
    assert_eq!(scene.parties[ann].ended.len(), 40);
    assert_eq!(scene.server.kept_files().count(), 40);
    // Unanswered ones are offered again in the next session.
    scene.parties[bob].accepts = true;
    scene.parties[bob].online = false;
    scene.run(70_000);
    scene.parties[bob].online = true;
    scene.run(60_000);
    assert_eq!(scene.parties[bob].got.len(), 40);
    let ids: BTreeSet<_> = scene.parties[bob].got.iter().map(|(offer, _)| offer.id).collect();
    assert_eq!(ids.len(), 40);
    assert!(scene.parties[bob].got.iter().all(|(o, got)| *got == content(got.len(), o.id.0[0])));
}

/// Whoever offers one file twice at once costs the host nothing that stays.
#[test]
fn a_file_that_another_transfer_brought_ends_at_the_host_too() {
    let mut scene = Scene::new();
    let ann = scene.join("ann");
    scene.join("bob");
    scene.parties[ann].hashes = false;
    let offers = [(); 2].map(|()| scene.offer(ann, 1, "@bob", content(10, 1)));
    scene.run(1000);
    assert_eq!(scene.arriving.len(), 2);
    for transfer in offers {
        let now = scene.now;
        scene.parties[ann].client.file_digest(now, transfer, sha256(&content(10, 1)));
        scene.run(1000);
        assert!(scene.parties[ann].ended.contains(&(transfer, Ok(()))));
    }
    assert!(scene.arriving.is_empty() && scene.server.files.transfers.is_empty());
    assert_eq!(scene.parties[1].got.len(), 1);
}

#[test]
fn what_is_known_is_taken_a_few_at_a_time() {
    let mut scene = Scene::new();
    let ann = scene.join("ann");
    scene.join("bob");
    scene.offer(ann, 1, "@bob", content(10, 1));
    scene.run(1000);
    scene.parties[ann].hashes = false;
    let again: Vec<_> = (0..60).map(|_| scene.offer(ann, 1, "@bob", content(10, 1))).collect();
    scene.run(1000);
    assert_eq!(scene.server.files.transfers.len(), FILES_TAKEN + OFFERS_UNANSWERED);
    scene.parties[ann].hashes = true;
    let now = scene.now;
    for transfer in again {
        scene.parties[ann].client.file_digest(now, transfer, sha256(&content(10, 1)));
    }
    scene.run(2000);
    let ended = &scene.parties[ann].ended;
    assert_eq!(ended.iter().filter(|(_, result)| result.is_ok()).count(), 61);
    assert!(scene.server.files.transfers.is_empty());
    assert_eq!(scene.parties[1].got.len(), 1);
}

#[test]
fn who_takes_files_and_leaves_them_is_offered_no_more() {
    let mut scene = Scene::new();
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.parties[bob].limit = 0;
    for id in 0..50 {
        scene.offer(ann, id, "@bob", content(1000 + usize::from(id), id));
    }
    scene.run(5000);
    assert_eq!(scene.sending.len(), FILES_TAKEN + OFFERS_UNANSWERED);
    scene.parties[bob].limit = 5000;
    let (now, taken) = (scene.now, scene.parties[bob].arriving.keys().copied());
    for transfer in taken.collect::<Vec<_>>() {
        scene.parties[bob].client.raise_file_limit(now, transfer, 5000).unwrap();
    }
    scene.run(5000);
    assert_eq!(scene.parties[bob].got.len(), 50);
    assert!(scene.server.files.offered.values().all(BTreeSet::is_empty));
}

#[test]
fn either_side_cancels() {
    let mut scene = Scene::new();
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.parties[bob].limit = 10_000;
    scene.offer(ann, 1, "@bob", content(50_000, 1));
    scene.run(1000);
    let (now, taken) = (scene.now, *scene.parties[bob].arriving.keys().next().unwrap());
    scene.parties[bob].client.cancel_file(now, taken, "not wanted");
    scene.run(100);
    assert_eq!(scene.server.kept_files().count(), 0, "a refused file is not offered again");
    assert_eq!(scene.ended.last(), Some(&Err(FileFailure::Cancelled("not wanted".into()))));
    let transfer = scene.offer(ann, 2, "@bob", content(90_000_000, 1));
    scene.run(20);
    let now = scene.now;
    scene.parties[ann].client.cancel_file(now, transfer, "changed my mind");
    scene.run(500);
    assert_eq!(scene.ended.last(), Some(&Err(FileFailure::Cancelled("changed my mind".into()))));
    assert_eq!(scene.server.sessions.len(), 2, "late bytes are ignored");
    for to in ["@nobody", "#elsewhere"] {
        let transfer = scene.offer(ann, 3, to, vec![1]);
        scene.run(100);
        let ended = scene.parties[ann].ended.last().unwrap();
        assert!(matches!(ended, (of, Err(FileFailure::Cancelled(_))) if *of == transfer));
    }
}

#[test]
fn nothing_leaves_by_a_port_that_has_closed() {
    let mut scene = Scene::new();
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.parties[bob].limit = 100_000;
    scene.offer(ann, 1, "@bob", content(300_000, 1));
    scene.run(1000);
    let (now, taken) = (scene.now, *scene.parties[bob].arriving.keys().next().unwrap());
    scene.parties[bob].client.raise_file_limit(now, taken, 300_000).unwrap();
    let more = scene.parties[bob].turn(now, &mut scene.out);
    for mut datagram in more {
        let path = Path::new(PortId(0), scene.parties[bob].address);
        assert_eq!(scene.server.handle_datagram(now, path, &mut datagram), None);
    }
    let want = scene.server.file_want(now).unwrap();
    let timing = super::super::Timing::default();
    let random = &mut scene.server.random.public;
    let none = super::super::Ports::new(PortChoice::Fixed(1), timing, now, random);
    let ports = core::mem::replace(&mut scene.server.ports, none);
    let bytes = vec![0; want.len];
    assert_eq!(scene.server.send_chunk(now, &want, &bytes, &mut scene.out), None);
    assert_eq!(scene.server.file_want(now), None);
    scene.server.ports = ports;
    scene.run(5000);
    assert_eq!(scene.parties[bob].got.len(), 1);
}

#[test]
fn a_limit_that_was_not_told_is_not_raised() {
    let mut scene = Scene::new();
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.parties[bob].limit = 0;
    scene.offer(ann, 1, "@bob", content(3000, 1));
    scene.run(1000);
    let (now, taken) = (scene.now, *scene.parties[bob].arriving.keys().next().unwrap());
    let bob = &mut scene.parties[bob].client;
    let full = (1..3000).find(|limit| bob.raise_file_limit(now, taken, *limit).is_err()).unwrap();
    assert_eq!(bob.raise_file_limit(now, taken, full), Err(SendError::WindowFull));
    scene.run(1000);
    assert_eq!(scene.parties[1].client.raise_file_limit(scene.now, taken, full), Ok(()));
}

#[test]
fn the_end_of_a_file_is_said_once_the_channel_has_room() {
    let mut scene = Scene::new();
    let (_ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.parties[bob].hashes = false;
    let (bytes, digest) = (content(3000, 1), sha256(&content(3000, 1)));
    scene.offer(bob, 1, "@ann", bytes);
    scene.run(1000);
    let (now, transfer) = (scene.now, *scene.parties[bob].sources.keys().next().unwrap());
    let client = &mut scene.parties[bob].client;
    let full = (0..3000).find(|_| client.set_status(now, Status::Away).is_err());
    assert!(full.is_some(), "the channel is full");
    client.file_digest(now, transfer, digest);
    scene.run(3000);
    assert_eq!(scene.parties[0].got.len(), 1, "it has come");
    assert_eq!(scene.parties[bob].ended, [(transfer, Ok(()))]);
}

#[test]
fn a_client_refuses_a_bad_name_whoever_lets_it_through() {
    let mut scene = Scene::new();
    let bob = scene.join("bob");
    let to = Recipient::Member("bob".to_string());
    let (name, from) = ("../a file.bin".to_string(), "ann".to_string());
    let offer = FileOffer { id: ChatId([1; 16]), name, size: 5, to, from };
    let (to, stored_at) = (vec!["bob".to_string()], scene.now.wall);
    scene.server.keep_file(StoredFile { offer, sha256: [0; 32], to, stored_at });
    scene.run(1000);
    assert!(scene.parties[bob].arriving.is_empty());
    assert_eq!(scene.server.kept_files().count(), 0);
}

#[test]
fn a_wrong_digest_is_told() {
    let mut scene = Scene::new();
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.parties[ann].lies = true;
    let transfer = scene.offer(ann, 1, "@bob", content(5000, 1));
    scene.run(500);
    let result = Err(FileFailure::Checked(FileError::Hash));
    assert_eq!(scene.parties[ann].ended, [(transfer, result)]);
    assert!(scene.parties[bob].got.is_empty());
}

#[test]
fn keys_rotate_while_a_file_goes() {
    let mut config = config(PortChoice::Fixed(HERE.1));
    config.key_limits = KeyLimits { due: 1_000_000, stop: 1_500_000, end: 4_000_000 };
    let mut scene = Scene::with(config);
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.lossy = 50;
    let file = content(12_000_000, 9);
    scene.offer(ann, 1, "@bob", file.clone());
    scene.run(30_000);
    let [(_, got)] = &scene.parties[bob].got[..] else { panic!("it came") };
    assert!(*got == file);
    let epochs: Vec<_> = scene.server.sessions.iter().map(|(_, e)| e.session.epoch()).collect();
    assert!(epochs.iter().all(|epoch| epoch.is_some_and(|epoch| epoch.0 > 8)), "{epochs:?}");
}
