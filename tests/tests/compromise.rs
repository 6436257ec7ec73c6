//! COMPROMISED (PROTOCOL 7), in a simulated world.
#![expect(clippy::unwrap_used, reason = "a test ends by panicking")]

use clawchat_core::client::Event;
use clawchat_core::error::CloseReason;
use clawchat_core::id::FileId;
use clawchat_core::limits::REPLY_COPIES;
use clawchat_core::server;
use clawchat_core::time::Duration;
use clawchat_core::wire::header::PacketType;
use clawchat_tests::disk::DiskFaults;
use clawchat_tests::net::{Link, Way};
use clawchat_tests::oracle::Who;
use clawchat_tests::world::{Process, Setup, World};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(180);

struct Scene {
    world: World,
    ann: Process,
    bob: Process,
    file: FileId,
}

fn scene(seed: u64) -> Scene {
    let mut world = World::new(Setup::new(seed));
    let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
    world.run(Duration::from_secs(1));
    world.tap = Some(Vec::new());
    let file = world.client(ann).file.expect("ann has a file");
    Scene { world, ann, bob, file }
}

impl Scene {
    fn client_declares(&mut self) {
        self.world.with_client(self.ann, |client, now| client.declare_compromised(now));
    }

    fn server_declares(&mut self) {
        let told = self.world.with_server(|s, now| s.declare_compromised(now, "ann", "stolen"));
        assert_eq!(told, Some(true));
    }

    /// What the client told of it: whether the server raised it, and whether both know.
    fn told(&self) -> Option<(bool, bool)> {
        self.world.client(self.ann).events.iter().find_map(|event| match event {
            Event::Compromised { by_server, acknowledged } => Some((*by_server, *acknowledged)),
            _ => None,
        })
    }

    /// What the server told of it: who raised it, and whether the new file is there.
    fn told_at_server(&self) -> Vec<(String, bool)> {
        let of = |event: &server::Event| match event {
            server::Event::Compromised { by, new_file_ready, .. } => {
                Some((by.clone(), *new_file_ready))
            }
            _ => None,
        };
        self.world.server.events.iter().filter_map(of).collect()
    }

    fn signalled(&self) -> Option<bool> {
        self.world.server.events.iter().find_map(|event| match event {
            server::Event::Signalled { acknowledged, .. } => Some(*acknowledged),
            _ => None,
        })
    }

    fn all(&self, from: Who, wanted: PacketType) -> Vec<Vec<u8>> {
        let tapped = self.world.tapped(from, wanted);
        tapped.iter().map(|emission| emission.datagram.clone()).collect()
    }

    /// The old file meets silence, nothing recorded opens, and everybody else goes on.
    fn over(&mut self) {
        let (world, file) = (&mut self.world, self.file);
        world.calm();
        let replies = world.tap.take().unwrap_or_default();
        world.run(Duration::from_secs(15));
        // What was lost of bob's is no copy, and still opens.
        let ann = Who::Client(self.ann);
        for emission in replies.into_iter().filter(|emission| emission.from == ann) {
            assert!(world.attack(emission.datagram).is_empty());
        }
        assert!(world.disk.retired_at(file).is_some());
        let thief = world.start(file);
        world.say(self.bob, "@server", "still here").unwrap();
        world.expect("silence", LONG, |world| world.client(thief).closed.is_some());
        assert_eq!(world.client(thief).closed, Some(CloseReason::Unreachable));
        assert!(world.client(self.bob).connected);
        let ends = |event: &&Event| matches!(event, Event::Disconnected { .. });
        assert_eq!(world.client(self.bob).events.iter().filter(ends).count(), 0);
        world.settle(SOON);
    }

    fn new_file_connects(&mut self) {
        let new = self.world.disk.newest("ann").expect("there is a new file");
        assert_ne!(new, self.file);
        let again = self.world.start(new);
        self.world.expect("connected", SOON, |world| world.client(again).connected);
        self.world.say(self.bob, "@ann", "welcome back").unwrap();
        self.world.settle(SOON);
    }
}

#[test]
fn raised_by_the_client() {
    let mut scene = scene(1);
    scene.client_declares();
    let wiped =
        |world: &World| world.client(Process(0)).events.contains(&Event::Wiped { ok: true });
    scene.world.expect("wiped", SOON, wiped);
    assert_eq!(scene.told(), Some((false, true)));
    assert_eq!(scene.told_at_server(), [("ann".to_string(), true)]);
    assert!(scene.world.client_machine(scene.ann).unwrap().is_over());
    scene.over();
    scene.new_file_connects();
}

#[test]
fn raised_by_the_server() {
    let mut scene = scene(2);
    scene.server_declares();
    scene.world.run(Duration::from_secs(1));
    assert_eq!(scene.told(), Some((true, true)));
    assert_eq!(scene.signalled(), Some(true));
    assert_eq!(scene.told_at_server(), [("server".to_string(), true)]);
    scene.over();
    scene.new_file_connects();
}

#[test]
fn raised_before_there_is_a_session() {
    let mut scene = scene(3);
    scene.world.crash_client(scene.ann);
    scene.ann = scene.world.start(scene.file);
    scene.client_declares();
    scene.world.run(SOON);
    assert_eq!(scene.told(), Some((false, true)));
    scene.over();
}

#[test]
fn raised_for_one_who_is_away() {
    let mut scene = scene(4);
    scene.world.crash_client(scene.ann);
    scene.world.run(LONG);
    scene.server_declares();
    scene.world.run(SOON);
    assert_eq!(scene.told_at_server(), [("server".to_string(), true)]);
    scene.over();
    scene.new_file_connects();
}

#[test]
fn raised_where_no_server_is() {
    let mut scene = scene(5);
    scene.world.crash_server();
    scene.client_declares();
    scene.world.run(Duration::from_secs(11));
    assert_eq!(scene.told(), Some((false, false)));
    assert!(scene.world.client(scene.ann).file_gone);
    let signals = scene.all(Who::Client(scene.ann), PacketType::Compromised);
    assert_eq!(signals.len(), 20, "every half second for ten");
    assert!(signals.iter().all(|signal| *signal == signals[0]));
    scene.world.run(LONG);
    assert_eq!(scene.all(Who::Client(scene.ann), PacketType::Compromised).len(), 20);
}

#[test]
fn lost_acks_come_again() {
    let mut scene = scene(6);
    scene.world.net.set(scene.ann, Way::Down, Link::DOWN);
    scene.client_declares();
    scene.world.run(Duration::from_secs(4));
    assert_eq!(scene.told(), None);
    assert_eq!(scene.told_at_server(), [("ann".to_string(), true)]);
    scene.world.net.set(scene.ann, Way::Down, Link::CLEAN);
    scene.world.run(Duration::from_secs(1));
    assert_eq!(scene.told(), Some((false, true)));
    let acks = scene.all(Who::Server, PacketType::CompromisedAck);
    assert!(acks.len() >= 8 && acks.iter().all(|ack| *ack == acks[0]));
    scene.over();
}

#[test]
fn acks_that_never_come_are_not_waited_for() {
    let mut scene = scene(7);
    scene.world.net.set(scene.ann, Way::Down, Link::DOWN);
    scene.client_declares();
    scene.world.run(Duration::from_millis(10_100));
    assert_eq!(scene.told(), Some((false, false)));
    scene.over();
}

#[test]
fn the_server_does_not_wait_for_ever_either() {
    for way in [Way::Up, Way::Down] {
        let mut scene = scene(8);
        scene.world.net.set(scene.ann, way, Link::DOWN);
        scene.server_declares();
        scene.world.run(Duration::from_millis(10_100));
        assert_eq!(scene.signalled(), Some(false));
        assert_eq!(scene.told(), (way == Way::Up).then_some((true, true)));
        let signals = scene.all(Who::Server, PacketType::Compromised);
        assert_eq!(signals.len(), 20);
        assert!(signals.iter().all(|signal| *signal == signals[0]));
        let acks = scene.all(Who::Client(scene.ann), PacketType::CompromisedAck);
        assert!(acks.iter().all(|ack| *ack == acks[0]));
        scene.over();
    }
}

#[test]
fn signals_may_cross() {
    for seed in 0..20 {
        let mut scene = scene(seed);
        scene.client_declares();
        scene.world.run(Duration::from_millis(seed));
        scene.server_declares();
        scene.world.run(Duration::from_secs(12));
        let (_, acknowledged) = scene.told().unwrap();
        assert!(acknowledged);
        scene.over();
        scene.new_file_connects();
    }
}

#[test]
fn under_loss() {
    for seed in 0..40 {
        let mut scene = scene(seed);
        scene.world.net.set_all(Link::lossy(300));
        if seed % 2 == 0 {
            scene.client_declares()
        } else {
            scene.server_declares()
        }
        scene.world.run(Duration::from_secs(15));
        assert!(scene.told().is_some());
        scene.over();
        scene.new_file_connects();
    }
}

#[test]
fn in_the_middle_of_a_rotation() {
    for seed in 0..40 {
        let mut scene = scene(seed);
        let _ = scene.world.with_client(scene.ann, |client, now| client.rotate_keys(now));
        if seed % 3 == 0 {
            scene.world.with_server(|server, now| server.rotate_keys(now, None));
        }
        scene.world.run(Duration::from_millis(seed));
        if seed % 2 == 0 {
            scene.client_declares()
        } else {
            scene.server_declares()
        }
        scene.world.run(Duration::from_secs(15));
        assert!(scene.told().is_some_and(|(_, acknowledged)| acknowledged), "seed {seed}");
        scene.over();
    }
}

#[test]
fn a_copy_of_the_signal_draws_the_same_ack_for_ten_seconds() {
    let mut scene = scene(9);
    scene.client_declares();
    scene.world.run(Duration::from_secs(1));
    let signal = scene.all(Who::Client(scene.ann), PacketType::Compromised).remove(0);
    let ack = scene.all(Who::Server, PacketType::CompromisedAck).remove(0);
    assert!(ack.len() <= signal.len());
    assert_eq!(scene.world.attack(signal.clone()), core::slice::from_ref(&ack));
    let mut damaged = signal.clone();
    damaged[60] ^= 1;
    assert!(scene.world.attack(damaged).is_empty());
    scene.world.run(Duration::from_millis(8_900));
    assert_eq!(scene.world.attack(signal.clone()), [ack]);
    scene.world.run(Duration::from_millis(200));
    assert!(scene.world.attack(signal).is_empty());
    scene.over();
}

/// Else a copy from a forged address would draw more than it cost.
#[test]
fn an_ack_is_never_longer_than_the_signal() {
    for reason in ["", "?", "stolen laptop", "user_initiated"] {
        let mut scene = scene(17);
        scene.world.with_server(|s, now| s.declare_compromised(now, "ann", reason));
        scene.world.run(Duration::from_secs(1));
        let signal = scene.all(Who::Server, PacketType::Compromised).remove(0);
        let ack = scene.all(Who::Client(scene.ann), PacketType::CompromisedAck).remove(0);
        assert!(ack.len() <= signal.len(), "{reason:?}: {} to {}", ack.len(), signal.len());
    }
}

#[test]
fn copies_of_a_signal_are_not_answered_without_end() {
    let mut scene = scene(10);
    scene.client_declares();
    scene.world.run(Duration::from_secs(1));
    let signal = scene.all(Who::Client(scene.ann), PacketType::Compromised).remove(0);
    let answered = (0..200).filter(|_| !scene.world.attack(signal.clone()).is_empty()).count();
    assert_eq!(answered, REPLY_COPIES as usize);
}

#[test]
fn no_ack_when_the_retirement_can_not_be_kept() {
    let mut scene = scene(11);
    scene.world.disk.faults = DiskFaults { retire: 1000, ..DiskFaults::default() };
    scene.client_declares();
    scene.world.run(Duration::from_secs(11));
    assert_eq!(scene.told(), Some((false, false)));
    assert_eq!(scene.told_at_server(), [("ann".to_string(), false)]);
    assert!(scene.all(Who::Server, PacketType::CompromisedAck).is_empty());
}

/// Both raise it, and the disk fails: what the server has not done it does not confirm.
#[test]
fn no_ack_when_signals_cross_and_the_retirement_can_not_be_kept() {
    let mut scene = scene(12);
    scene.world.disk.faults = DiskFaults { retire: 1000, ..DiskFaults::default() };
    scene.client_declares();
    scene.server_declares();
    scene.world.run(Duration::from_secs(15));
    assert!(scene.all(Who::Server, PacketType::CompromisedAck).is_empty());
}

#[test]
fn an_ack_even_when_the_new_file_can_not_be_written() {
    let mut scene = scene(13);
    scene.world.disk.faults = DiskFaults { issue: 1000, ..DiskFaults::default() };
    scene.client_declares();
    scene.world.run(Duration::from_secs(1));
    assert_eq!(scene.told(), Some((false, true)));
    assert_eq!(scene.told_at_server(), [("ann".to_string(), false)]);
    assert_eq!(scene.world.disk.newest("ann"), None);
    scene.over();
}

#[test]
fn a_slow_disk_delays_the_ack_and_nothing_else() {
    let mut scene = scene(14);
    scene.world.disk.faults = DiskFaults { slow: 1000, ..DiskFaults::default() };
    scene.client_declares();
    scene.world.run(Duration::from_secs(11));
    assert!(scene.told().is_some());
    scene.over();
}

#[test]
fn a_wipe_that_fails_is_told() {
    let mut scene = scene(15);
    scene.world.wipe_fails = 1000;
    scene.client_declares();
    scene.world.run(Duration::from_secs(1));
    let events = &scene.world.client(scene.ann).events;
    assert!(events.contains(&Event::Wiped { ok: false }));
    scene.over();
}

#[test]
fn what_was_written_meanwhile_waits_for_the_new_file() {
    let mut scene = scene(16);
    scene.client_declares();
    for number in 0..20 {
        scene.world.say(scene.bob, "@ann", &number.to_string()).unwrap();
        scene.world.run(Duration::from_millis(10));
    }
    let old = scene.file;
    let new = |world: &World| world.disk.newest("ann").is_some_and(|file| file != old);
    scene.world.expect("a new file", SOON, new);
    let file = scene.world.disk.newest("ann").unwrap();
    let again = scene.world.start(file);
    scene.world.settle(SOON);
    assert!(!scene.world.texts(again).is_empty());
}

#[test]
fn a_retired_file_stays_retired_when_the_server_restarts() {
    for seed in 0..10 {
        let mut scene = scene(seed);
        scene.client_declares();
        let old = scene.file;
        let retired = |world: &World| world.disk.retired_at(old).is_some();
        scene.world.expect("retired", SOON, retired);
        scene.world.run(Duration::from_micros(seed * 700));
        scene.world.crash_server();
        scene.world.start_server();
        scene.world.run(SOON);
        let thief = scene.world.start(scene.file);
        let closed = |world: &World| world.client(thief).closed.is_some();
        scene.world.expect("silence", LONG, closed);
        assert_eq!(scene.world.client(thief).closed, Some(CloseReason::Unreachable));
        if scene.world.disk.newest("ann").is_none() {
            scene.world.issue("ann");
        }
        scene.new_file_connects();
    }
}

#[test]
fn a_signal_finds_a_server_that_moved_unnoticed() {
    let mut world = World::new(Setup { scheduled: true, interval: 60, ..Setup::new(31) });
    let ann = world.join("ann");
    let port = |world: &World| world.server_machine().and_then(server::Server::port);
    let rotated = |from| move |world: &World| port(world) != from;
    let first = port(&world);
    world.expect("the port rotates", LONG, rotated(first));
    world.run(Duration::from_secs(42));
    world.say(ann, "@server", "still here").unwrap();
    world.run(Duration::from_secs(1));
    // She does not hear of the next port, nor of its opening.
    world.net.set(ann, Way::Down, Link::DOWN);
    let second = port(&world);
    world.expect("the port rotates", LONG, rotated(second));
    world.run(Duration::from_secs(21));
    assert!(world.client(ann).connected && world.server_machine().unwrap().open_ports().len() == 1);
    world.net.set_all(Link::CLEAN);
    let file = world.client(ann).file.unwrap();
    world.declare(ann);
    world.expect("both know", SOON, |world| world.disk.retired_at(file).is_some());
    let known = |event: &Event| matches!(event, Event::Compromised { acknowledged: true, .. });
    world.expect("acknowledged", SOON, |world| world.client(ann).events.iter().any(known));
}
