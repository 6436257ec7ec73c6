//! Key rotation (PROTOCOL 5.1), in a simulated world.

use clawchat_core::client::Event;
use clawchat_core::error::SendError;
use clawchat_core::id::Epoch;
use clawchat_core::server;
use clawchat_core::time::Duration;
use clawchat_core::wire::header::PacketType;
use clawchat_tests::net::{Link, Way};
use clawchat_tests::oracle::Who;
use clawchat_tests::world::{Process, Setup, World};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(180);

fn world(seed: u64) -> World {
    World::new(Setup::new(seed))
}

fn epochs(world: &World, process: Process) -> (Option<Epoch>, Option<Epoch>) {
    let member = &world.client(process).member;
    let sessions = world.server_machine().map_or_else(Vec::new, |server| server.sessions());
    let at_server = sessions.iter().find(|session| session.member == *member);
    let at_client = world.client_machine(process).and_then(|client| client.epoch());
    (at_client, at_server.map(|session| session.epoch))
}

fn both_in(world: &World, process: Process, epoch: u64) -> bool {
    epochs(world, process) == (Some(Epoch(epoch)), Some(Epoch(epoch)))
}

fn ask_client(world: &mut World, process: Process) -> Result<(), SendError> {
    let asked = world.with_client(process, |client, now| client.rotate_keys(now));
    asked.expect("the client lives")
}

fn ask_server(world: &mut World) -> usize {
    let asked = world.with_server(|server, now| server.rotate_keys(now, None));
    asked.expect("the server is up")
}

fn rotations(world: &World, process: Process) -> usize {
    let rotated = |event: &&Event| matches!(event, Event::KeysRotated { .. });
    world.client(process).events.iter().filter(rotated).count()
}

#[test]
fn a_client_offers() {
    let mut world = world(1);
    let ann = world.join("ann");
    assert!(both_in(&world, ann, 1));
    ask_client(&mut world, ann).unwrap();
    world.expect("epoch 2", SOON, |world| both_in(world, ann, 2));
    world.expect("told", SOON, |world| rotations(world, ann) == 1);
    let told =
        |event: &server::Event| matches!(event, server::Event::KeysRotated { epoch: Epoch(2), .. });
    assert_eq!(world.server.events.iter().filter(|event| told(event)).count(), 1);
}

#[test]
fn the_server_triggers() {
    let mut world = world(2);
    let processes = ["ann", "bob", "cid"].map(|member| world.join(member));
    assert_eq!(ask_server(&mut world), 3);
    for process in processes {
        world.expect("epoch 2", SOON, |world| both_in(world, process, 2));
    }
    world.with_server(|server, now| server.rotate_keys(now, Some("bob"))).unwrap();
    world.expect("epoch 3", SOON, |world| both_in(world, processes[1], 3));
    assert!(both_in(&world, processes[0], 2) && both_in(&world, processes[2], 2));
}

#[test]
fn one_at_a_time() {
    let mut world = world(3);
    let ann = world.join("ann");
    ask_client(&mut world, ann).unwrap();
    assert_eq!(ask_client(&mut world, ann), Err(SendError::Busy));
    world.expect("epoch 2", SOON, |world| both_in(world, ann, 2));
    world.expect("finished", SOON, |world| rotations(world, ann) == 1);
    ask_client(&mut world, ann).unwrap();
    world.expect("epoch 3", SOON, |world| both_in(world, ann, 3));
    world.crash_client(ann);
    assert_eq!(ask_server(&mut world), 1, "the server does not know yet");
}

#[test]
fn trigger_and_offer_may_cross() {
    for seed in 0..20 {
        let mut world = world(seed);
        let ann = world.join("ann");
        if seed % 2 == 1 {
            world.net.set_all(Link::lossy(200));
        }
        ask_client(&mut world, ann).unwrap();
        world.run(Duration::from_millis(seed));
        assert_eq!(ask_server(&mut world), 1);
        world.expect("epoch 2", LONG, |world| epochs(world, ann).1 >= Some(Epoch(2)));
        world.calm();
        world.run(SOON);
        let (at_client, at_server) = epochs(&world, ann);
        assert_eq!(at_client, at_server);
        assert!(at_client <= Some(Epoch(3)) && world.client(ann).connected);
    }
}

#[test]
fn many_rotations_with_chat_flowing() {
    for seed in 0..15 {
        let mut world = world(seed);
        let processes = ["ann", "bob"].map(|member| world.join(member));
        let [ann, bob] = processes;
        world.net.set_all(Link { duplicate: 100, ..Link::lossy(200) });
        let mut texts = Vec::new();
        for turn in 0..150 {
            if turn % 3 == 0 {
                ask_server(&mut world);
            } else {
                let _ = ask_client(&mut world, processes[turn % 2]);
            }
            let text = format!("{turn} {}", "x".repeat(turn * 13));
            world.say(ann, "@bob", &text).unwrap();
            texts.push(text);
            world.run(Duration::from_millis(200));
        }
        world.settle(LONG);
        assert_eq!(world.texts(bob), texts);
        assert!(processes.iter().all(|process| rotations(&world, *process) >= 10));
        world.calm();
        world.run(SOON);
        for process in processes {
            let (at_client, at_server) = epochs(&world, process);
            assert_eq!(at_client, at_server);
        }
    }
}

#[test]
fn heavy_reordering() {
    for seed in 0..15 {
        let mut world = world(seed);
        let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
        world.net.set_all(Link { jitter: 800_000, ..Link::CLEAN });
        let mut texts = Vec::new();
        for turn in 0..100 {
            let _ = ask_client(&mut world, bob);
            ask_server(&mut world);
            texts.push(turn.to_string());
            world.say(ann, "@bob", &texts[turn]).unwrap();
            world.run(Duration::from_millis(150));
        }
        world.settle(LONG);
        assert_eq!(world.texts(bob), texts);
        assert!(rotations(&world, bob) >= 3);
    }
}

/// Datagrams that the server dropped in silence.
fn dropped(world: &World) -> u64 {
    world.server_machine().map_or(0, |server| server.drops().map(|(_, count)| count).sum())
}

/// A late packet of the epoch before still opens, for a while.
#[test]
fn late_packets_of_the_epoch_before() {
    for late in [false, true] {
        let mut world = world(4);
        let ann = world.join("ann");
        world.tap = Some(Vec::new());
        world.net.set(ann, Way::Up, Link::DOWN);
        world.say(ann, "@server", "from epoch 1").unwrap();
        world.net.set(ann, Way::Up, Link::CLEAN);
        let chat = world.tapped(Who::Client(ann), PacketType::Chat)[0].datagram.clone();
        ask_client(&mut world, ann).unwrap();
        world.expect("epoch 2", SOON, |world| both_in(world, ann, 2));
        world.run(if late { Duration::from_secs(6) } else { Duration::ZERO });
        let (before, address) = (dropped(&world), world.client(ann).address.unwrap());
        world.deliver(address, chat.clone());
        assert_eq!(dropped(&world) - before, u64::from(late));
        world.deliver(address, chat);
        assert_eq!(dropped(&world) - before, 1 + u64::from(late), "once");
    }
}

#[test]
fn a_rotation_survives_a_partition() {
    for seed in 0..10 {
        let mut world = world(seed);
        let ann = world.join("ann");
        ask_server(&mut world);
        world.run(Duration::from_millis(5 + 10 * seed));
        world.net.set_both(ann, Link::DOWN);
        world.run(Duration::from_secs(20));
        world.calm();
        world.expect("finished", LONG, |world| rotations(world, ann) == 1);
        assert!(both_in(&world, ann, 2));
        ask_client(&mut world, ann).unwrap();
        world.expect("epoch 3", LONG, |world| both_in(world, ann, 3));
    }
}

#[test]
fn a_session_that_dies_in_a_rotation_begins_anew() {
    for seed in 0..10 {
        let mut world = world(seed);
        let ann = world.join("ann");
        ask_server(&mut world);
        ask_client(&mut world, ann).unwrap_or(());
        world.run(Duration::from_millis(seed * 8));
        world.net.set_both(ann, Link::DOWN);
        world.expect("dead", LONG, |world| !world.client(ann).connected);
        world.calm();
        world.expect("epoch 1 again", LONG, |world| both_in(world, ann, 1));
    }
}

#[test]
fn rotations_many_times_a_second_stall_nothing() {
    let mut world = World::new(Setup::new(23));
    let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
    world.run(Duration::from_secs(1));
    let rotations = |world: &World, process: Process| {
        let rotated = |event: &&Event| matches!(event, Event::KeysRotated { .. });
        world.client(process).events.iter().filter(rotated).count()
    };
    let before = [ann, bob].map(|process| rotations(&world, process));
    // As much chat as a member may send, for 10 s; each has to be there soon, or the keys held it up.
    let text = "x".repeat(60_000);
    for number in 0..200 {
        let text = format!("{number} {text}");
        world.say(ann, "@bob", &text).unwrap();
        let until = world.now() + 50_000;
        while world.now() < until {
            [ann, bob].into_iter().for_each(|process| world.rotate_by_client(process));
            world.run(Duration::from_millis(5));
        }
        let there = |world: &World| world.texts(bob).len() == number + 1;
        world.expect("the chat is there", Duration::from_millis(250), there);
    }
    for (process, before) in [ann, bob].into_iter().zip(before) {
        let rotated = rotations(&world, process) - before;
        assert!(rotated >= 100, "{rotated} rotations in 10 s");
    }
}
