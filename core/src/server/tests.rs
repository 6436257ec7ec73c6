//! A server and its clients in one thread, on a network that a test may cut, with a disk that fails
//! as a test says.

use super::*;
use crate::client::{self, Client, ClientConfig};
use crate::crypto::aead::RustCrypto;
use crate::limits::{DATAGRAM_MAX, OP_TIMEOUT};
use crate::time::UnixMs;
use crate::wire::message::Recipient;
use crate::wire::secfile::SecurityFile;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use core::net::IpAddr;
use core::net::SocketAddr;

const IP: [u8; 4] = [192, 0, 2, 1];

type Disk = Box<dyn FnMut(&Action) -> Option<Outcome>>;

struct Scene {
    now: Now,
    server: Server,
    clients: Vec<(SocketAddr, Client)>,
    /// What the disk says of an action; `None` leaves it unanswered.
    disk: Disk,
    /// Port numbers that are bound.
    bound: BTreeMap<u16, PortId>,
    /// Actions that were never answered.
    unanswered: Vec<(OpId, Action)>,
    files: Vec<SecurityFile>,
    events: Vec<Event>,
    heard: Vec<(usize, client::Event)>,
    retired: Vec<Vec<FileId>>,
    kept: usize,
    /// Author and recipient of what was noted as delivered.
    delivered: Vec<(String, String)>,
    closed: Vec<PortId>,
    /// Ports that renewed files name, as clients stored them.
    stored: Vec<(usize, u16)>,
    /// A client that claims another address as soon as it is answered.
    forged: Option<(usize, SocketAddr)>,
    /// Clients whose datagrams are lost, both ways.
    cut: Vec<usize>,
    out: Vec<u8>,
}

pub(super) fn config(port: PortChoice) -> ServerConfig {
    let member = |name: &str| Member { name: name.to_string(), rooms: vec![] };
    ServerConfig {
        server_id: "cc-1".to_string(),
        server_name: "Example".to_string(),
        public: "192.0.2.1".to_string(),
        port,
        timing: Timing::default(),
        renewal_valid_for: RENEWAL_VALID_FOR,
        members: ["ann", "bob", "cid"].map(member).into(),
        credentials: vec![],
        chats: vec![],
        files: vec![],
        max_sessions: 100,
        key_limits: KeyLimits::default(),
        provider: &RustCrypto,
    }
}

/// `secs` after a whole hour.
pub(super) fn start(secs: u64) -> Now {
    let mono = Instant::ZERO + Duration::from_secs(secs);
    Now { mono, wall: UnixMs((1_699_999_200 + secs) * 1000) }
}

impl Scene {
    fn new(port: PortChoice, secs: u64) -> Self {
        Self::with(config(port), secs)
    }

    fn with(config: ServerConfig, secs: u64) -> Self {
        let now = start(secs);
        let mut scene = Self {
            now,
            server: Server::new(config, &Seed::new(&mut [1; 32]), now),
            clients: vec![],
            disk: Box::new(|_| Some(Outcome::Done)),
            bound: BTreeMap::new(),
            unanswered: vec![],
            files: vec![],
            events: vec![],
            heard: vec![],
            retired: vec![],
            kept: 0,
            delivered: vec![],
            closed: vec![],
            stored: vec![],
            forged: None,
            cut: vec![],
            out: vec![0; DATAGRAM_MAX],
        };
        scene.turn();
        scene
    }

    /// A member with a file of its own connects.
    fn join(&mut self, member: &str) -> usize {
        self.server.issue(self.now, member, &[], 86_400).unwrap();
        self.turn();
        let file = self.files.pop().unwrap();
        let index = u8::try_from(self.clients.len()).unwrap();
        let from = SocketAddr::from(([198, 51, 100, index], 40_000));
        let config = ClientConfig {
            file,
            addresses: vec![IpAddr::from(IP)],
            port: None,
            reconnect: true,
            key_limits: KeyLimits::default(),
            provider: &RustCrypto,
        };
        let seed = Seed::new(&mut [100 + index; 32]);
        self.clients.push((from, Client::new(config, &seed, self.now)));
        self.run(200);
        self.clients.len() - 1
    }

    fn file_of(&self, member: &str) -> FileId {
        self.server.credentials.of_member(member)[0]
    }

    fn session_of(&self, member: &str) -> SessionId {
        let own = |(id, entry): (SessionId, &Entry)| (*entry.member == *member).then_some(id);
        self.server.sessions.iter().filter_map(own).max().unwrap()
    }

    fn perform(&mut self, op: OpId, action: Action) {
        let Some(outcome) = (self.disk)(&action) else {
            self.unanswered.push((op, action));
            return;
        };
        match action {
            Action::BindPort { port, number } if outcome == Outcome::Done => {
                self.bound.insert(number, port);
            }
            Action::ClosePort { port } => {
                self.bound.retain(|_, open| *open != port);
                self.closed.push(port);
            }
            Action::IssueSecurityFile { draft } if outcome == Outcome::Done => {
                let content = SecurityFile::from_object(&draft.content.to_object());
                self.files.push(content.unwrap());
            }
            Action::RetireFiles { files } => self.retired.push(files),
            Action::KeepCredentials { .. } => self.kept += 1,
            Action::ChatDelivered { from, by, .. } => self.delivered.push((from, by)),
            _ => {}
        }
        self.server.handle_completion(self.now, op, outcome);
    }

    /// Everything that can happen without time passing.
    fn turn(&mut self) {
        let mut quiet = false;
        while !quiet {
            quiet = true;
            while let Some((op, action)) = self.server.poll_action() {
                self.perform(op, action);
                quiet = false;
            }
            while let Some(event) = self.server.poll_event() {
                self.events.push(event);
            }
            while let Some(sent) = self.server.poll_transmit(self.now, &mut self.out) {
                quiet = false;
                let port = self.bound.iter().find(|(_, port)| **port == sent.path.port);
                let from = SocketAddr::from((IP, *port.unwrap().0));
                let to = self.clients.iter().position(|(at, _)| *at == sent.path.remote);
                if let Some(to) = to.filter(|to| !self.cut.contains(to)) {
                    let path = Path::new(PortId(0), from);
                    self.clients[to].1.handle_datagram(self.now, path, &mut self.out[..sent.len]);
                }
            }
            for index in 0..self.clients.len() {
                quiet &= !self.turn_client(index);
            }
        }
    }

    fn turn_client(&mut self, index: usize) -> bool {
        let mut busy = false;
        let (from, client) = &mut self.clients[index];
        while let Some((op, action)) = client.poll_action() {
            if let client::Action::StoreSecurityFile { renewal } = action {
                self.stored.push((index, renewal.content.server_udp_port));
            }
            client.handle_completion(self.now, op, Outcome::Done);
            busy = true;
        }
        while let Some(event) = client.poll_event() {
            self.heard.push((index, event));
        }
        while let Some(sent) = client.poll_transmit(self.now, &mut self.out) {
            busy = true;
            let port = self.bound.get(&sent.path.remote.port());
            if let Some(port) = port.filter(|_| !self.cut.contains(&index)) {
                let forged = self.forged.filter(|(by, _)| *by == index && client.path().is_some());
                let path = Path::new(*port, forged.map_or(*from, |(_, address)| address));
                self.server.handle_datagram(self.now, path, &mut self.out[..sent.len]);
            }
        }
        busy
    }

    /// Time passes, in steps of at most `step` milliseconds.
    fn pass(&mut self, ms: u64, step: u64) {
        let until = self.now.mono + Duration::from_millis(ms);
        while self.now.mono < until {
            let left = until.since(self.now.mono).as_millis();
            let step = step.min(u64::try_from(left).unwrap());
            self.now.mono = self.now.mono + Duration::from_millis(step);
            self.now.wall.0 += step;
            self.server.handle_timeout(self.now);
            for (_, client) in &mut self.clients {
                client.handle_timeout(self.now);
            }
            self.turn();
        }
    }

    fn run(&mut self, ms: u64) {
        self.pass(ms, 10);
    }

    fn audits(&self) -> Vec<&Audit> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Audit(audit) => Some(audit),
                _ => None,
            })
            .collect()
    }

    /// Whether the replacement was said to be ready, for each COMPROMISED so far.
    fn compromised(&self) -> Vec<bool> {
        let ready = |event: &Event| match event {
            Event::Compromised { new_file_ready, .. } => Some(*new_file_ready),
            _ => None,
        };
        self.events.iter().filter_map(ready).collect()
    }
}

const FIXED: PortChoice = PortChoice::Fixed(50_000);

#[test]
fn a_retirement_that_failed_is_tried_until_it_is_done() {
    let mut scene = Scene::new(FIXED, 0);
    scene.join("ann");
    let file = scene.file_of("ann");
    scene.disk = Box::new(|action| {
        let failed = matches!(action, Action::RetireFiles { .. });
        Some(if failed { Outcome::Failed } else { Outcome::Done })
    });
    scene.server.declare_compromised(scene.now, "ann", "stolen");
    scene.run(100);
    assert_eq!((scene.compromised(), scene.retired.len()), (vec![false], 1));
    let told = Audit::NotRetired { file, member: "ann".to_string() };
    assert!(scene.audits().contains(&&told));
    // A second signal finds the file again, and does not claim what is not so.
    scene.server.declare_compromised(scene.now, "ann", "stolen");
    scene.run(100);
    assert_eq!(scene.compromised(), [false, false]);
    assert_eq!(scene.retired[1], [file]);
    scene.pass(61_000, 500);
    assert_eq!(scene.retired.len(), 3, "each minute");
    scene.disk = Box::new(|_| Some(Outcome::Done));
    scene.pass(60_000, 500);
    assert_eq!(scene.retired[3], [file]);
    assert!(scene.server.unretired.is_empty());
    scene.pass(180_000, 500);
    assert_eq!(scene.retired.len(), 4);
}

#[test]
fn a_retirement_that_nobody_answers_counts_for_a_second_signal() {
    let mut scene = Scene::new(FIXED, 0);
    scene.join("ann");
    let file = scene.file_of("ann");
    scene.disk =
        Box::new(|action| (!matches!(action, Action::RetireFiles { .. })).then_some(Outcome::Done));
    scene.server.declare_compromised(scene.now, "ann", "stolen");
    scene.run(100);
    scene.server.declare_compromised(scene.now, "ann", "stolen");
    scene.run(100);
    let asked = scene
        .unanswered
        .iter()
        .filter(|(_, action)| matches!(action, Action::RetireFiles { files } if *files == [file]));
    assert_eq!(asked.count(), 2);
    scene.disk = Box::new(|_| Some(Outcome::Done));
    scene.pass(u64::try_from(OP_TIMEOUT.as_millis()).unwrap() + 61_000, 1000);
    assert!(scene.retired.contains(&vec![file]) && scene.server.unretired.is_empty());
}

#[test]
fn signals_that_cross_are_both_through_with() {
    let mut scene = Scene::new(FIXED, 0);
    let ann = scene.join("ann");
    scene.server.declare_compromised(scene.now, "ann", "stolen");
    let now = scene.now;
    scene.clients[ann].1.declare_compromised(now);
    scene.run(1000);
    let through = scene
        .events
        .iter()
        .filter(|event| matches!(event, Event::Signalled { acknowledged: true, .. }));
    assert_eq!(through.count(), 1);
}

#[test]
fn secrets_that_could_not_be_kept_are_kept_later() {
    let mut scene = Scene::new(FIXED, 0);
    scene.join("ann");
    let file = scene.file_of("ann");
    scene.disk = Box::new(|action| {
        let failed = matches!(action, Action::KeepCredentials { .. });
        Some(if failed { Outcome::Failed } else { Outcome::Done })
    });
    let now = scene.now;
    scene.server.keep(now, file);
    scene.pass(181_000, 500);
    let told = Audit::NotKept { file, member: "ann".to_string() };
    assert_eq!(scene.audits().iter().filter(|audit| ***audit == told).count(), 1, "once");
    assert!(scene.server.unkept.contains(&file));
    scene.disk = Box::new(|_| Some(Outcome::Done));
    let before = scene.kept;
    scene.pass(60_000, 500);
    assert_eq!(scene.kept, before + 1);
    assert!(scene.server.unkept.is_empty());
}

#[test]
fn secrets_of_a_file_that_is_to_be_retired_are_not_kept_again() {
    let mut scene = Scene::new(FIXED, 0);
    scene.join("ann");
    let file = scene.file_of("ann");
    scene.disk = Box::new(|action| {
        let failed = matches!(action, Action::KeepCredentials { .. } | Action::RetireFiles { .. });
        Some(if failed { Outcome::Failed } else { Outcome::Done })
    });
    let now = scene.now;
    scene.server.keep(now, file);
    scene.server.declare_compromised(now, "ann", "stolen");
    scene.run(100);
    assert!(scene.server.unkept.is_empty() && scene.server.unretired.contains_key(&file));
    let before = scene.kept;
    scene.pass(121_000, 500);
    assert_eq!(scene.kept, before);
}

#[test]
fn a_newcomer_keeps_the_port_that_it_was_told_of() {
    let mut scene = Scene::new(PortChoice::Random, 3000);
    scene.pass(490_000, 500);
    let old = scene.server.port().unwrap();
    scene.disk = Box::new(|action| {
        (!matches!(action, Action::KeepCredentials { .. })).then_some(Outcome::Done)
    });
    let ann = scene.join("ann");
    scene.run(1000);
    let (op, _) = scene.unanswered.pop().unwrap();
    scene.server.handle_completion(scene.now, op, Outcome::Done);
    scene.pass(150_000, 100);
    assert_ne!(scene.server.port(), Some(old));
    let at = scene.clients[ann].1.path().unwrap().remote.port();
    assert_eq!(Some(at), scene.server.port());
    assert_eq!(scene.stored, [(ann, at)]);
}

#[test]
fn an_emergency_renews_files_that_name_a_random_port() {
    let mut scene = Scene::new(PortChoice::Random, 0);
    let (_, bob) = (scene.join("ann"), scene.join("bob"));
    // Until the secret that was carried is retired, the file has as many as it may have.
    scene.pass(310_000, 500);
    scene.stored.clear();
    let old = scene.server.port().unwrap();
    scene.server.declare_compromised(scene.now, "ann", "stolen");
    scene.run(2000);
    let port = scene.server.port().unwrap();
    assert_ne!(port, old);
    assert_eq!(scene.stored, [(bob, port)]);
}

#[test]
fn an_open_port_waits_for_keys_with_the_file_that_is_durable() {
    let mut scene = Scene::new(FIXED, 0);
    scene.join("ann");
    let (id, file) = (scene.session_of("ann"), scene.file_of("ann"));
    scene.pass(310_000, 500);
    let wait = |scene: &mut Scene| {
        let epoch = Epoch(99);
        let entry = scene.server.sessions.get_mut(id).unwrap();
        entry.announce = Some(Announce { epoch, with_file: true });
        scene.server.turn_ports(scene.now);
        scene
            .server
            .sessions
            .get(id)
            .unwrap()
            .announce
            .as_ref()
            .is_some_and(|announce| announce.with_file)
    };
    scene.disk = Box::new(|_| None);
    assert!(scene.server.renew(scene.now, file));
    scene.turn();
    assert!(!wait(&mut scene), "nobody waits for a disk");
    let (op, _) = scene.unanswered.pop().unwrap();
    scene.cut.push(0);
    scene.server.handle_completion(scene.now, op, Outcome::Done);
    assert!(wait(&mut scene));
}

#[test]
fn too_many_secrets_to_renew_one() {
    let mut scene = Scene::new(FIXED, 0);
    for _ in 1..crate::limits::SECRETS {
        scene.server.issue(scene.now, "bob", &[], 86_400).unwrap();
        scene.turn();
    }
    scene.join("ann");
    let file = scene.file_of("ann");
    let told = Audit::NotRenewed { file, member: "ann".to_string() };
    assert!(scene.audits().contains(&&told));
}

#[test]
fn who_asks_for_keys_after_an_emergency_waits_for_those_of_the_emergency() {
    use crate::wire::message::RotationReason::{Emergency, Interval, Operator};
    let mut scene = Scene::new(FIXED, 0);
    scene.join("ann");
    let (id, now) = (scene.session_of("ann"), scene.now);
    let ask = |scene: &mut Scene, reason| {
        let asked =
            scene.server.with_session(now, id, |session, cx| session.require_rotation(cx, reason));
        asked.flatten().unwrap()
    };
    assert_eq!(ask(&mut scene, Operator), Epoch(2));
    assert_eq!(ask(&mut scene, Interval), Epoch(2));
    assert_eq!(ask(&mut scene, Emergency), Epoch(3));
    assert_eq!(ask(&mut scene, Interval), Epoch(3));
    scene.run(1000);
    assert_eq!(scene.server.sessions.get(id).unwrap().session.epoch(), Some(Epoch(3)));
}

fn stored(id: u8, to: &str) -> StoredChat {
    use crate::id::ChatId;
    use crate::wire::message::{Chat, Recipient};
    let chat = Chat {
        id: ChatId([id; 16]),
        from: "ann".to_string(),
        to: Recipient::Member(to.to_string()),
        text: "x".repeat(60_000),
        sent_at: UnixMs(0),
    };
    StoredChat { chat, to: vec![to.to_string()], stored_at: start(0).wall }
}

#[test]
fn chat_for_the_server_is_told_after_a_crash() {
    let chats = vec![stored(1, "server"), stored(2, "bob")];
    let mut scene = Scene::with(ServerConfig { chats, ..config(FIXED) }, 0);
    let told: Vec<_> = scene
        .events
        .iter()
        .filter_map(|event| if let Event::Chat(chat) = event { Some(chat.id) } else { None })
        .collect();
    assert_eq!(told, [stored(1, "server").chat.id]);
    let noted = |done: &&(String, String)| done.1 == "server";
    assert_eq!(scene.delivered.iter().filter(noted).count(), 1);
    let ann = scene.join("ann");
    assert!(scene.heard.iter().any(|(index, event)| {
        *index == ann && matches!(event, client::Event::Receipt { by, .. } if by == "server")
    }));
}

#[test]
fn chat_that_makes_way_at_a_restart_is_told() {
    let chats = (0..200).map(|id| stored(id, "bob")).collect();
    let scene = Scene::with(ServerConfig { chats, ..config(FIXED) }, 0);
    let dropped = |audit: &&&Audit| matches!(audit, Audit::ChatDropped { .. });
    let count = scene.audits().iter().filter(dropped).count();
    assert_eq!((count + scene.server.hub.waiting("bob"), scene.delivered.len()), (200, count));
    assert!(count > 50);
}

#[test]
fn a_place_is_used_again_under_another_id() {
    let mut scene = Scene::new(FIXED, 0);
    let ann = scene.join("ann");
    let (first, address) = (scene.session_of("ann"), scene.clients[ann].0);
    scene.clients[ann].1.leave(scene.now);
    scene.run(200);
    assert_eq!(scene.server.sessions.len(), 0);
    scene.join("bob");
    let second = scene.session_of("bob");
    assert_eq!(second.slot(), first.slot());
    assert!(second > first && scene.server.sessions.get(first).is_none());
    assert_eq!(scene.server.sessions.at(address).count(), 0);
    assert_eq!(scene.server.sessions.established(), 1);
    let files = ["ann", "bob"].map(|member| scene.file_of(member));
    let of_file = files.map(|file| scene.server.sessions.of_file(file).count());
    assert_eq!(of_file, [0, 1]);
}

#[test]
fn an_address_that_another_claims_still_counts() {
    let mut scene = Scene::new(FIXED, 0);
    let ann = scene.join("ann");
    let address = scene.clients[ann].0;
    scene.forged = Some((1, address));
    scene.join("bob");
    assert_eq!(
        scene.server.sessions.get(scene.session_of("bob")).unwrap().session.path().remote,
        address
    );
    // What strangers do from an address of that network does not touch its sessions.
    for _ in 0..2000 {
        scene.server.trials.charge(scene.now.mono, address.ip());
    }
    scene.clients[ann].1.send_chat(scene.now, "@server", "hello").unwrap();
    scene.run(50);
    assert!(scene.events.iter().any(|event| matches!(event, Event::Chat(_))));
    scene.cut.push(1);
    scene.pass(70_000, 500);
    let there: Vec<_> = scene.server.sessions.at(address).map(|(id, _)| id).collect();
    assert_eq!(there, [scene.session_of("ann")]);
}

#[test]
fn a_flood_of_hellos_with_a_file_is_told() {
    let mut scene = Scene::new(FIXED, 0);
    scene.server.issue(scene.now, "ann", &[], 86_400).unwrap();
    scene.turn();
    let object = scene.files.pop().unwrap().to_object();
    for number in 0..=61 {
        let config = ClientConfig {
            file: SecurityFile::from_object(&object).unwrap(),
            addresses: vec![IpAddr::from(IP)],
            port: None,
            reconnect: false,
            key_limits: KeyLimits::default(),
            provider: &RustCrypto,
        };
        let mut client = Client::new(config, &Seed::new(&mut [number; 32]), scene.now);
        while let Some((op, _)) = client.poll_action() {
            client.handle_completion(scene.now, op, Outcome::Done);
        }
        client.handle_timeout(scene.now);
        let sent = client.poll_transmit(scene.now, &mut scene.out).unwrap();
        let path = Path::new(scene.bound[&50_000], ([203, 0, 113, 9], 999).into());
        scene.server.handle_datagram(scene.now, path, &mut scene.out[..sent.len]);
    }
    scene.turn();
    let flood = Event::Alert(Alert::AuthFlood { address: Some([203, 0, 113, 9].into()) });
    assert_eq!(scene.events.iter().filter(|event| **event == flood).count(), 1);
}

#[test]
fn a_bind_that_nobody_answers_is_closed() {
    let mut scene = Scene::new(PortChoice::Random, 3400);
    scene.disk =
        Box::new(|action| (!matches!(action, Action::BindPort { .. })).then_some(Outcome::Done));
    scene.pass(100_000, 500);
    let [(_, Action::BindPort { port, .. })] = scene.unanswered[..] else { panic!() };
    assert!(scene.closed.is_empty());
    scene.pass(600_000, 500);
    assert_eq!(scene.closed, [port]);
}

#[test]
fn a_member_who_says_much_of_itself_is_heard_now_and_then() {
    use crate::wire::message::Status::{Away, Online};
    let mut scene = Scene::new(FIXED, 0);
    let (ann, bob) = (scene.join("ann"), scene.join("bob"));
    scene.heard.clear();
    for number in 0..101 {
        let status = if number % 2 == 0 { Away } else { Online };
        scene.clients[ann].1.set_status(scene.now, status).unwrap();
        scene.run(10);
    }
    let heard = |scene: &Scene| {
        let status = |(index, event): &(usize, client::Event)| match event {
            client::Event::Presence(presence) if *index == bob => Some(presence.status),
            _ => None,
        };
        scene.heard.iter().filter_map(status).collect::<Vec<_>>()
    };
    assert!((10..=12).contains(&heard(&scene).len()), "{:?}", heard(&scene));
    scene.run(2000);
    assert!(heard(&scene).len() <= 13);
    assert_eq!(heard(&scene).last(), Some(&Away), "the newest is never lost");
}

#[test]
fn what_is_told_once_outlives_a_session() {
    let mut scene = Scene::new(FIXED, 0);
    let ann = scene.join("ann");
    let id = scene.clients[ann].1.send_chat(scene.now, "@bob", "hello").unwrap();
    scene.run(100);
    scene.cut.push(ann);
    scene.join("bob");
    let receipts = |scene: &Scene| {
        let delivered = |event: &&(usize, client::Event)| matches!(&event.1, client::Event::Receipt { id: of, by, .. } if *of == id && by == "bob");
        scene.heard.iter().filter(delivered).count()
    };
    // It was sent, and the session that it was sent to is dead.
    assert_eq!(scene.server.sessions.get(scene.session_of("ann")).unwrap().owed.len(), 0);
    scene.pass(65_000, 100);
    assert_eq!(receipts(&scene), 0);
    scene.cut.clear();
    scene.pass(60_000, 100);
    assert_eq!(receipts(&scene), 1);
    let entry = scene.server.sessions.get(scene.session_of("ann")).unwrap();
    assert!(format!("{:?}", entry.handed).contains("unacknowledged: {}"));
}

#[test]
fn a_hundred_files_are_remembered_for_a_week() {
    let mut all = Credentials::default();
    let secret = |number: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        crate::secret::Secret::take(&mut bytes)
    };
    let hours = 169;
    let now = start(hours * 3600);
    for number in 0..100 * hours {
        let since = start(number / 100 * 3600).wall.secs();
        all.accept(
            now,
            Credential {
                file: FileId(number % 100),
                member: "ann".to_string(),
                secret: secret(number),
                timestamp: since,
                carried: false,
                status: CredentialStatus::Retired { since },
                valid_until: since,
                grace_period: 0,
                response_timeout: 10,
            },
        );
    }
    all.forget(Now { wall: UnixMs(start((hours - 1) * 3600).wall.0), ..now });
    assert_eq!((all.durable(FileId(7)).len() as u64, all.accepted()), (hours, 0));
}

#[test]
fn rotations_that_nobody_asked_for_wait() {
    let mut scene = Scene::new(FIXED, 0);
    let ann = scene.join("ann");
    for _ in 0..500 {
        let (_, client) = &mut scene.clients[ann];
        let _busy = client.rotate_keys(scene.now);
        scene.run(10);
    }
    let epoch = scene.clients[ann].1.epoch().unwrap();
    assert!((Epoch(400)..=Epoch(455)).contains(&epoch), "{epoch:?}: 200, and 50 a second");
    let own = scene.server.sessions().remove(0);
    assert!(own.epoch >= epoch && scene.server.rotate_keys(scene.now, None) == 1);
    scene.run(2000);
    assert!(!scene.events.iter().any(|event| matches!(event, Event::Disconnected { .. })));
    assert!(scene.clients[ann].1.epoch().unwrap() > epoch);
}

#[test]
fn a_ping_is_answered_even_if_it_gets_lost() {
    let mut scene = Scene::new(FIXED, 0);
    let ann = scene.join("ann");
    let pongs = |scene: &Scene| {
        let pong = |(_, event): &(usize, client::Event)| match event {
            client::Event::Pong { rtt } => Some(*rtt),
            _ => None,
        };
        scene.heard.iter().filter_map(pong).collect::<Vec<_>>()
    };
    assert_eq!(pongs(&scene), [], "a ping of the keepalive is nobody's");
    scene.clients[ann].1.ping().unwrap();
    scene.clients[ann].1.ping().unwrap();
    scene.turn();
    assert_eq!(pongs(&scene), [Duration::ZERO], "one answer, at once");
    scene.cut.push(ann);
    scene.clients[ann].1.ping().unwrap();
    scene.run(500);
    assert_eq!(pongs(&scene).len(), 1);
    scene.cut.clear();
    scene.run(2000);
    assert_eq!(pongs(&scene).len(), 2);
    scene.clients[ann].1.leave(scene.now);
    assert_eq!(scene.clients[ann].1.ping(), Err(crate::error::SendError::Closed));
}

#[test]
fn the_server_sends_nothing_to_itself() {
    let mut config = config(FIXED);
    config.members[0].rooms = vec!["ops".to_string()];
    let scene = Scene::with(config, 0);
    let to = |name: &str| scene.server.recipients(&Recipient::parse(name).unwrap());
    assert_eq!(to("@bob"), Some(vec!["bob".to_string()]));
    assert_eq!(to("#ops"), Some(vec!["ann".to_string()]));
    for nobody in ["@server", "@eve", "#empty"] {
        assert_eq!(to(nobody), None, "{nobody}");
    }
}
