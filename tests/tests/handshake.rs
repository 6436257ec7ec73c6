//! Connecting (PROTOCOL 5.1), in a simulated world.

use clawchat_core::client::Event;
use clawchat_core::error::CloseReason;
use clawchat_core::limits::{HALF_OPEN, HELLO_BURST, REPLY_COPIES};
use clawchat_core::time::Duration;
use clawchat_core::wire::header::PacketType;
use clawchat_core::wire::message::ErrorCode;
use clawchat_tests::net::{Link, Way};
use clawchat_tests::oracle::{Who, is_hello, kind};
use clawchat_tests::world::{Clock, Process, Setup, World};

const SOON: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_secs(90);

fn world(seed: u64) -> World {
    let mut world = World::new(Setup::new(seed));
    world.tap = Some(Vec::new());
    world
}

/// The hello of a process, as it was emitted.
fn hello(world: &World, process: Process) -> Vec<u8> {
    let emitted = world.tapped(Who::Client(process), PacketType::KeyRotation);
    let hello = emitted.iter().find(|emission| is_hello(&emission.datagram));
    hello.expect("it sent a hello").datagram.clone()
}

fn clock(ahead: i64) -> Clock {
    Clock { ahead: ahead * 1000, ..Clock::default() }
}

fn closed(world: &World, process: Process) -> &CloseReason {
    world.client(process).closed.as_ref().expect("it is closed")
}

fn refusal(world: &World, process: Process) -> ErrorCode {
    match closed(world, process) {
        CloseReason::Refused { code, .. } => *code,
        other => world.fail(&format!("closed with {other:?}")),
    }
}

/// Starts a client that the server hears, but that never hears the server.
fn deaf(world: &mut World, member: &str) -> Process {
    let file = world.disk.newest(member).expect("the member has a file");
    let process = world.start(file);
    world.net.set(process, Way::Down, Link::DOWN);
    process
}

/// Starts a client that nobody hears, and gives its hello.
fn unheard(world: &mut World, member: &str) -> Vec<u8> {
    let file = world.disk.newest(member).expect("the member has a file");
    let process = world.start(file);
    world.net.set_both(process, Link::DOWN);
    world.run(Duration::from_millis(10));
    let hello = hello(world, process);
    world.crash_client(process);
    hello
}

#[test]
fn connects_and_learns_who_it_is() {
    let mut world = world(1);
    let ann = world.join("ann");
    let Some(Event::Connected { info, epoch, skew_ms }) = world.client(ann).events.first() else {
        world.fail("no session")
    };
    assert_eq!((info.member.as_str(), epoch.0, *skew_ms), ("ann", 1, skew_ms.abs().min(50)));
    let Some(Event::Roster { members, rooms }) = world.client(ann).events.get(1) else {
        world.fail("the roster comes first")
    };
    assert_eq!((members.len(), rooms.join(" ")), (3, "lobby ops".to_string()));
    assert_eq!(world.server_machine().unwrap().sessions().len(), 1);
}

#[test]
fn connects_under_loss() {
    for seed in 0..40 {
        let mut world = world(seed);
        let file = world.issue("ann");
        world.net.set_all(Link::lossy(300));
        let ann = world.start(file);
        world.expect("connected", SOON, |world| world.client(ann).connected);
    }
}

#[test]
fn a_hello_is_repeated_byte_for_byte() {
    let mut world = world(2);
    let file = world.issue("ann");
    world.net.set_all(Link::DOWN);
    let ann = world.start(file);
    world.expect("it gives up", LATER, |world| world.client(ann).closed.is_some());
    assert_eq!(closed(&world, ann), &CloseReason::Unreachable);
    let hellos = world.tapped(Who::Client(ann), PacketType::KeyRotation);
    assert!(hellos.iter().all(|e| e.datagram == hellos[0].datagram && is_hello(&e.datagram)));
    let after = |index: usize| (hellos[index].at - hellos[0].at) / 1000;
    assert_eq!([after(1), after(2), after(3), after(4)], [250, 750, 1750, 3750]);
    assert!(hellos.len() > 25);
}

#[test]
fn each_copy_of_a_hello_draws_the_same_answer() {
    let mut world = world(3);
    world.issue("ann");
    let ann = deaf(&mut world, "ann");
    world.run(Duration::from_secs(10));
    let copies = world.tapped(Who::Client(ann), PacketType::KeyRotation).len();
    let answers = world.tapped(Who::Server, PacketType::KeyRotation);
    assert_eq!(answers.len(), copies);
    assert!(answers.iter().all(|answer| answer.datagram == answers[0].datagram));
}

#[test]
fn sixty_four_copies_and_no_more() {
    let mut world = world(4);
    world.issue("ann");
    let hello = unheard(&mut world, "ann");
    let first = world.attack(hello.clone());
    assert_eq!(first.len(), 1);
    for _ in 0..REPLY_COPIES {
        assert_eq!(world.attack(hello.clone()), first);
    }
    assert!(world.attack(hello).is_empty());
}

#[test]
fn a_replayed_hello_of_a_session_meets_silence() {
    let mut world = world(5);
    let ann = world.join("ann");
    let hello = hello(&world, ann);
    assert!(world.attack(hello).is_empty());
}

#[test]
fn a_half_open_session_says_nothing_unasked_and_ends() {
    let mut world = world(6);
    world.issue("ann");
    let hello = unheard(&mut world, "ann");
    assert_eq!(world.attack(hello.clone()).len(), 1);
    world.run(HALF_OPEN - Duration::from_secs(1));
    assert_eq!(world.attack(hello.clone()).len(), 1);
    world.run(Duration::from_secs(2));
    assert!(world.attack(hello).is_empty());
}

/// A forged packet may carry a true message id, and must not wake a half-open session either.
#[test]
fn a_damaged_switch_leaves_a_half_open_session_asleep() {
    let mut world = world(20);
    let file = world.issue("ann");
    let ann = world.start(file);
    world.run(Duration::from_millis(5));
    world.net.set(ann, Way::Up, Link::DOWN);
    let switched = |world: &World| {
        world
            .tapped(Who::Client(ann), PacketType::KeyRotation)
            .iter()
            .any(|e| !is_hello(&e.datagram))
    };
    world.expect("it has switched", SOON, switched);
    let hello = hello(&world, ann);
    let emitted = world.tapped(Who::Client(ann), PacketType::KeyRotation);
    let switch = emitted.iter().find(|emission| !is_hello(&emission.datagram)).unwrap();
    let mut damaged = switch.datagram.clone();
    damaged[40] ^= 1;
    world.crash_client(ann);
    assert!(world.attack(damaged).is_empty());
    assert_eq!(world.attack(hello).len(), 1, "still half-open");
    let before = world.tapped(Who::Server, PacketType::Ping).len();
    world.run(HALF_OPEN);
    assert_eq!(world.tapped(Who::Server, PacketType::Ping).len(), before);
}

#[test]
fn a_fifth_half_open_session_replaces_the_oldest() {
    let mut world = world(7);
    world.issue("ann");
    let hellos: Vec<_> = (0..5).map(|_| unheard(&mut world, "ann")).collect();
    for hello in &hellos[..4] {
        assert_eq!(world.attack(hello.clone()).len(), 1);
    }
    assert_eq!(world.attack(hellos[0].clone()).len(), 1, "four fit");
    assert_eq!(world.attack(hellos[4].clone()).len(), 1);
    assert!(world.attack(hellos[0].clone()).is_empty());
    for hello in &hellos[1..] {
        assert_eq!(world.attack(hello.clone()).len(), 1);
    }
}

#[test]
fn a_file_has_a_budget_for_hellos() {
    let mut world = world(8);
    world.issue("ann");
    world.issue("bob");
    let burst = HELLO_BURST as usize;
    let hellos: Vec<_> = (0..burst + 2).map(|_| unheard(&mut world, "ann")).collect();
    let other = unheard(&mut world, "bob");
    for hello in &hellos[..burst] {
        assert_eq!(world.attack(hello.clone()).len(), 1);
    }
    assert!(world.attack(hellos[burst].clone()).is_empty(), "over budget");
    assert_eq!(world.attack(other).len(), 1, "another file has its own");
    world.run(Duration::from_secs(1));
    assert_eq!(world.attack(hellos[burst].clone()).len(), 1, "a copy is charged anew");
    assert!(world.attack(hellos[burst + 1].clone()).is_empty());
}

#[test]
fn a_wrong_clock_is_told_so() {
    for ahead in [-400, 400] {
        let mut world = world(9);
        let file = world.issue("ann");
        let content = world.disk.content(file).unwrap();
        let ann = world.start_with("ann", Some(file), content, clock(ahead), true);
        world.expect("refused", SOON, |world| world.client(ann).closed.is_some());
        assert_eq!(refusal(&world, ann), ErrorCode::ClockSkew);
        let CloseReason::Refused { now: Some(now), .. } = closed(&world, ann) else {
            world.fail("the server's clock is missing")
        };
        assert!(now.secs().abs_diff(world.server_secs()) <= 1);
    }
}

#[test]
fn a_clock_that_is_hours_off_meets_silence() {
    for ahead in [-4000, 4000] {
        let mut world = world(10);
        let file = world.issue("ann");
        let content = world.disk.content(file).unwrap();
        let ann = world.start_with("ann", Some(file), content, clock(ahead), true);
        world.expect("it gives up", LATER, |world| world.client(ann).closed.is_some());
        assert_eq!(closed(&world, ann), &CloseReason::Unreachable);
        assert!(world.tapped(Who::Server, PacketType::Error).is_empty());
    }
}

#[test]
fn a_clock_within_five_minutes_connects() {
    let mut world = world(11);
    let file = world.issue("ann");
    let content = world.disk.content(file).unwrap();
    let ann = world.start_with("ann", Some(file), content, clock(-290), true);
    world.expect("connected", SOON, |world| world.client(ann).connected);
    let Some(Event::Connected { skew_ms, .. }) = world.client(ann).events.first() else {
        world.fail("no session")
    };
    assert!((-290_100..=-289_900).contains(skew_ms), "{skew_ms}");
}

#[test]
fn an_expired_file_is_refused() {
    let mut world = world(12);
    let file = world.issue_for("ann", 10);
    world.run(Duration::from_secs(295));
    let in_time = world.start(file);
    world.expect("in grace", SOON, |world| world.client(in_time).connected);
    world.run(Duration::from_secs(30));
    assert!(world.client(in_time).connected, "expiry stops hellos, not sessions");
    // What was carried, not what was stored in its place since.
    let content = world.disk.content(file).unwrap();
    let late = world.start_with("ann", Some(file), content, Clock::default(), true);
    world.expect("refused", SOON, |world| world.client(late).closed.is_some());
    assert_eq!(refusal(&world, late), ErrorCode::Expired);
    assert!(world.client(in_time).connected);
}

#[test]
fn a_full_server_refuses_all_but_who_is_there() {
    let mut world = World::new(Setup { max_sessions: 1, ..Setup::new(13) });
    let first = world.join("ann");
    let file = world.issue("bob");
    let bob = world.start(file);
    world.expect("refused", SOON, |world| world.client(bob).closed.is_some());
    assert_eq!(refusal(&world, bob), ErrorCode::ServerFull);
    let file = world.client(first).file.unwrap();
    let second = world.start(file);
    world.expect("connected", SOON, |world| world.client(second).connected);
    world.expect("superseded", SOON, |world| world.client(first).closed.is_some());
    assert_eq!(refusal(&world, first), ErrorCode::Superseded);
    world.run(LATER);
    assert!(!world.client(first).connected, "it does not reconnect by itself");
    assert!(world.client(second).connected);
}

#[test]
fn the_last_place_goes_to_who_is_established_first() {
    let mut world = World::new(Setup { max_sessions: 1, ..Setup::new(14) });
    let files = ["ann", "bob"].map(|member| world.issue(member));
    let racers = files.map(|file| world.start(file));
    let settled = |world: &World| {
        let ended = |process: &Process| world.client(*process).closed.is_some();
        let connected = |process: &Process| world.client(*process).connected;
        racers.iter().any(ended) && racers.iter().any(connected)
    };
    world.expect("a winner and a loser", SOON, settled);
    world.run(SOON);
    let (winner, loser) = match racers {
        [first, second] if world.client(first).connected => (first, second),
        [first, second] => (second, first),
    };
    assert_eq!(refusal(&world, loser), ErrorCode::ServerFull);
    world.with_client(winner, |client, now| client.leave(now));
    world.run(SOON);
    world.connect(loser);
    world.expect("the free place", SOON, |world| world.client(loser).connected);
}

#[test]
fn a_file_of_another_server_meets_silence() {
    let mut world = world(15);
    let file = world.issue("ann");
    let mut content = world.disk.content(file).unwrap();
    content.server_id = "cc-another".to_string();
    let ann = world.start_with("ann", Some(file), content, Clock::default(), true);
    world.expect("it gives up", LATER, |world| world.client(ann).closed.is_some());
    assert_eq!(closed(&world, ann), &CloseReason::Unreachable);
    let replies = |e: &&clawchat_tests::world::Emission| e.from == Who::Server;
    assert_eq!(world.tap.iter().flatten().filter(replies).count(), 0);
}

#[test]
fn a_secret_that_was_never_issued_meets_silence() {
    let mut world = world(16);
    let file = world.issue("ann");
    let mut content = world.disk.content(file).unwrap();
    content.shared_secret = clawchat_core::secret::Secret::take(&mut [9; 32]);
    let ann = world.start_with("ann", Some(file), content, Clock::default(), true);
    world.expect("it gives up", LATER, |world| world.client(ann).closed.is_some());
    assert_eq!(closed(&world, ann), &CloseReason::Unreachable);
}

#[test]
fn damaged_and_shortened_hellos_meet_silence() {
    let mut world = world(17);
    world.issue("ann");
    let hello = unheard(&mut world, "ann");
    for bit in 0..hello.len() * 8 {
        let mut damaged = hello.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(world.attack(damaged).is_empty());
    }
    for len in (0..hello.len()).step_by(16) {
        assert!(world.attack(hello[..len].to_vec()).is_empty());
    }
    assert_eq!(world.attack(hello).len(), 1, "the budget is whole");
}

#[test]
fn the_reply_to_a_refused_hello_is_repeated_for_a_minute() {
    let mut world = World::new(Setup { max_sessions: 0, ..Setup::new(18) });
    world.tap = Some(Vec::new());
    world.issue("ann");
    let hello = unheard(&mut world, "ann");
    let first = world.attack(hello.clone());
    assert_eq!(kind(&first[0]), Some(PacketType::Error));
    world.run(Duration::from_secs(59));
    assert_eq!(world.attack(hello.clone()), first);
    world.run(Duration::from_secs(2));
    assert!(world.attack(hello).is_empty());
}

#[test]
fn scheduled_ports_are_found() {
    for taken in [0, 2, 5] {
        let mut world = World::new(Setup { scheduled: true, ..Setup::new(19) });
        let file = world.issue("ann");
        world.crash_server();
        world.server.ports_taken = taken;
        world.start_server();
        let ann = world.start(file);
        world.expect("connected", SOON, |world| world.client(ann).connected);
    }
}
