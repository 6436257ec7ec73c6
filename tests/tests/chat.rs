//! Chat, rooms and receipts (PROTOCOL 5.4, 5.5), in a simulated world.

use clawchat_core::client::Event;
use clawchat_core::error::SendError;
use clawchat_core::id::ChatId;
use clawchat_core::limits::{CHATS_UNRECEIPTED, MAILBOX_MESSAGES, MESSAGE_MAX};
use clawchat_core::server;
use clawchat_core::time::Duration;
use clawchat_core::wire::message::{ErrorCode, ReceiptState, Status};
use clawchat_tests::disk::DiskFaults;
use clawchat_tests::net::{Link, Way};
use clawchat_tests::oracle::Who;
use clawchat_tests::world::{Process, Setup, World};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(180);

fn world(seed: u64) -> World {
    World::new(Setup::new(seed))
}

fn refused(world: &World, process: Process, chat: ChatId) -> Option<ErrorCode> {
    world.client(process).events.iter().find_map(|event| match event {
        Event::Refused(error) if error.id == Some(chat) => Some(error.code),
        _ => None,
    })
}

#[test]
fn receipts_say_what_became_of_it() {
    let mut world = world(1);
    let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
    let chat = world.say(ann, "@bob", "hello").unwrap();
    world.expect("receipts", SOON, |world| world.receipts(ann, chat).len() == 2);
    let (stored, delivered) = (ReceiptState::Stored, ReceiptState::Delivered);
    let expected = [(stored, "server".to_string()), (delivered, "bob".to_string())];
    assert_eq!(world.receipts(ann, chat), expected);
    assert_eq!(world.texts(bob), ["hello"]);
    assert_eq!(world.client_machine(ann).unwrap().unreceipted(), 0);
}

#[test]
fn rooms_reach_those_in_them() {
    let mut world = world(2);
    let [ann, bob, cid] = ["ann", "bob", "cid"].map(|member| world.join(member));
    world.say(ann, "#lobby", "to all").unwrap();
    world.say(ann, "#ops", "to ops").unwrap();
    world.settle(SOON);
    assert_eq!(world.texts(bob), ["to all"]);
    assert_eq!(world.texts(cid), ["to all", "to ops"]);
    assert!(world.texts(ann).is_empty(), "not to its author");
}

#[test]
fn the_server_is_a_member() {
    let mut world = world(3);
    let ann = world.join("ann");
    let chat = world.say(ann, "@server", "help").unwrap();
    world.expect("receipts", SOON, |world| world.receipts(ann, chat).len() == 2);
    let delivered = (ReceiptState::Delivered, "server".to_string());
    assert_eq!(world.receipts(ann, chat)[1], delivered);
    let told = |event: &server::Event| matches!(event, server::Event::Chat(c) if c.text == "help");
    assert_eq!(world.server.events.iter().filter(|event| told(event)).count(), 1);
}

#[test]
fn nobody_there_is_an_error_and_not_an_end() {
    let mut world = world(4);
    let [_, bob] = ["ann", "bob"].map(|member| world.join(member));
    for to in ["@eve", "#ops", "#none"] {
        let chat = world.say(bob, to, "hello?").unwrap();
        world.expect("an error", SOON, |world| refused(world, bob, chat).is_some());
        assert_eq!(refused(&world, bob, chat), Some(ErrorCode::NoRecipient));
    }
    assert!(world.client(bob).connected);
    assert_eq!(world.client_machine(bob).unwrap().unreceipted(), 0);
    assert_eq!(world.disk.stored(), 0);
}

#[test]
fn what_can_not_be_sent_is_refused_at_once() {
    let mut world = world(5);
    let ann = world.join("ann");
    assert_eq!(world.say(ann, "bob", "hi"), Err(SendError::Recipient));
    assert_eq!(world.say(ann, "@bob", ""), Err(SendError::Size));
    assert_eq!(world.say(ann, "@bob", &"x".repeat(MESSAGE_MAX)), Err(SendError::Size));
    assert_eq!(world.oracles.chats.count(), 0);
}

#[test]
fn an_absent_member_gets_it_later_in_order() {
    let mut world = world(6);
    let ann = world.join("ann");
    let texts: Vec<_> = (0..200).map(|number| format!("number {number}")).collect();
    for text in &texts {
        world.say(ann, "@bob", text).unwrap();
    }
    world.expect("stored", SOON, |world| world.disk.stored() == 200);
    let bob = world.join("bob");
    world.settle(SOON);
    assert_eq!(world.texts(bob), texts);
}

#[test]
fn order_holds_under_loss_and_reordering() {
    for seed in 0..20 {
        let mut world = world(seed);
        let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
        world.net.set_all(Link::lossy(200));
        let texts: Vec<_> = (0..60).map(|n| format!("{n} {}", "x".repeat(n * 37))).collect();
        for text in &texts {
            world.say(ann, "@bob", text).unwrap();
            world.run(Duration::from_millis(30));
        }
        world.settle(LONG);
        assert_eq!(world.texts(bob), texts);
    }
}

#[test]
fn large_messages_arrive_whole() {
    for seed in 0..5 {
        let mut world = world(seed);
        let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
        world.net.set_all(Link::lossy(100));
        let text = "€".repeat((MESSAGE_MAX - 300) / 3);
        world.say(ann, "@bob", &text).unwrap();
        world.settle(LONG);
        assert_eq!(world.texts(bob), [text]);
    }
}

#[test]
fn repeated_after_a_reconnect_and_shown_once() {
    let mut world = world(7);
    let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
    // The server stores and delivers, but its receipts get lost.
    world.net.set(ann, Way::Down, Link::DOWN);
    let chat = world.say(ann, "@bob", "once").unwrap();
    world.expect("shown", SOON, |world| world.texts(bob) == ["once"]);
    world.expect("dead", LONG, |world| !world.client(ann).connected);
    world.net.set_all(Link::CLEAN);
    world.expect("stored", LONG, |world| !world.receipts(ann, chat).is_empty());
    world.run(SOON);
    assert_eq!(world.texts(bob), ["once"]);
    assert_eq!(world.disk.stored(), 1);
}

/// A later message may be acknowledged while an earlier one is still missing. When the session
/// then ends, both have to come again.
#[test]
fn nothing_acknowledged_out_of_order_is_lost() {
    for seed in 0..60 {
        let mut world = world(seed);
        let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
        world.net.set(bob, Way::Down, Link { loss: 500, ..Link::lossy(0) });
        for number in 0..20 {
            world.say(ann, "@bob", &format!("{number} {}", "x".repeat(900))).unwrap();
        }
        world.run(Duration::from_millis(40 + seed * 20));
        world.net.set(bob, Way::Down, Link::DOWN);
        world.expect("dead", LONG, |world| !world.client(bob).connected);
        world.net.set_all(Link::CLEAN);
        world.settle(LONG);
    }
}

#[test]
fn stored_means_durable_when_the_server_crashes() {
    for seed in 0..30 {
        let mut world = world(seed);
        let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
        world.disk.faults = DiskFaults { slow: 300, ..DiskFaults::default() };
        let texts: Vec<_> = (0..20).map(|number| number.to_string()).collect();
        for text in &texts {
            world.say(ann, "@bob", text).unwrap();
        }
        world.run(Duration::from_millis(seed * 40));
        world.crash_server();
        world.run(Duration::from_secs(1));
        world.start_server();
        world.settle(LONG);
        assert_eq!(world.texts(bob), texts);
        let all = |world: &World| world.client_machine(ann).unwrap().unreceipted() == 0;
        world.expect("all receipts", LONG, all);
        assert_eq!(world.disk.stored(), 20);
    }
}

#[test]
fn stored_but_not_delivered_survives_a_crash() {
    let mut world = world(8);
    let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
    world.net.set_both(bob, Link::DOWN);
    let chat = world.say(ann, "@bob", "kept").unwrap();
    world.expect("stored", SOON, |world| !world.receipts(ann, chat).is_empty());
    world.crash_server();
    world.crash_client(ann);
    world.start_server();
    world.net.set_all(Link::CLEAN);
    world.expect("shown", LONG, |world| world.texts(bob) == ["kept"]);
}

#[test]
fn what_the_disk_refuses_is_an_error() {
    let mut world = world(9);
    let [ann, bob] = ["ann", "bob"].map(|member| world.join(member));
    world.disk.faults = DiskFaults { store: 1000, ..DiskFaults::default() };
    let chat = world.say(ann, "@bob", "lost").unwrap();
    world.expect("an error", SOON, |world| refused(world, ann, chat).is_some());
    assert_eq!(refused(&world, ann, chat), Some(ErrorCode::Internal));
    world.calm();
    world.say(ann, "@bob", "kept").unwrap();
    world.settle(SOON);
    assert_eq!(world.texts(bob), ["kept"]);
}

/// A mailbox keeps the newest: who is away for long misses the oldest.
#[test]
fn in_a_full_mailbox_the_oldest_makes_way() {
    let mut world = world(10);
    let ann = world.join("ann");
    for number in 0..MAILBOX_MESSAGES + 3 {
        world.say(ann, "@bob", &number.to_string()).unwrap();
        world.run(Duration::from_millis(5));
    }
    let done = |world: &World| world.client_machine(ann).unwrap().unreceipted() == 0;
    world.expect("settled", LONG, done);
    assert_eq!(world.disk.stored(), MAILBOX_MESSAGES + 3);
    for crash in [false, true] {
        if crash {
            world.crash_server();
            world.start_server();
        }
        let waiting = world.server_machine().unwrap().members();
        let bob = waiting.iter().find(|member| member.name == "bob").unwrap();
        assert_eq!(bob.waiting, MAILBOX_MESSAGES);
    }
    let bob = world.join("bob");
    world.run(SOON);
    let expected: Vec<_> = (3..MAILBOX_MESSAGES + 3).map(|number| number.to_string()).collect();
    assert_eq!(world.texts(bob), expected);
}

#[test]
fn a_full_window_opens_again() {
    let mut world = world(11);
    let ann = world.join("ann");
    world.net.set_both(ann, Link::DOWN);
    for number in 0..CHATS_UNRECEIPTED {
        world.say(ann, "#lobby", &number.to_string()).unwrap();
    }
    assert_eq!(world.say(ann, "#lobby", "more"), Err(SendError::WindowFull));
    world.calm();
    let writable = |world: &World| world.client(ann).events.contains(&Event::Writable);
    world.expect("writable", LONG, writable);
    world.say(ann, "#lobby", "more").unwrap();
}

#[test]
fn everybody_learns_who_is_there() {
    let mut world = world(12);
    let ann = world.join("ann");
    let bob = world.join("bob");
    let last = |world: &World| {
        world.client(ann).events.iter().rev().find_map(|event| match event {
            Event::Presence(presence) if presence.member == "bob" => Some(presence.status),
            _ => None,
        })
    };
    world.expect("online", SOON, |world| last(world) == Some(Status::Online));
    world.with_client(bob, |client, now| client.set_status(now, Status::Away)).unwrap().unwrap();
    world.expect("away", SOON, |world| last(world) == Some(Status::Away));
    world.with_client(bob, |client, now| client.leave(now));
    world.expect("offline", SOON, |world| last(world) == Some(Status::Offline));
}

/// How long chats of a member take until it is told that they are stored, in milliseconds: the 99th of a
/// hundred.
fn stored_within(world: &mut World, process: Process) -> f64 {
    let mut times: Vec<u64> = (0..100)
        .map(|_| {
            let begun = world.now();
            let chat = world.say(process, "@server", "quick?").expect("it has a session");
            world.expect("a receipt", SOON, |world| !world.receipts(process, chat).is_empty());
            let took = world.now() - begun;
            world.run(Duration::from_millis(50));
            took
        })
        .collect();
    times.sort_unstable();
    times[98] as f64 / 1000.0
}

/// Bytes of a file that is still on its way when the measurement ends.
const FILE: u64 = 1 << 31;

/// A hundred megabits a second and 20 ms, and a router that holds a round trip's worth: what is sent at
/// full speed waits there, and whatever is sent beside it too, but for no longer than that.
#[test]
fn chat_stays_quick_beside_files() {
    let mut world = world(20);
    let ann = world.join("ann");
    let link = Link { rate: 12_500_000, queue: 125_000, mtu: 1_500, jitter: 0, ..Link::CLEAN };
    world.net.set_both(ann, link);
    let idle = stored_within(&mut world, ann);
    let files: Vec<_> = (0..3).map(|_| world.send_file(ann, "@server", FILE).unwrap()).collect();
    world.run(Duration::from_secs(3));
    let before: Vec<_> =
        files.iter().map(|id| world.file_bytes(Who::Server, "ann", *id, FILE)).collect();
    let begun = world.now();
    let beside = stored_within(&mut world, ann);
    let seconds = (world.now() - begun) as f64 / 1e6;
    let after: Vec<_> =
        files.iter().map(|id| world.file_bytes(Who::Server, "ann", *id, FILE)).collect();
    let moved: Vec<_> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    let rate = moved.iter().sum::<u64>() as f64 / seconds;
    eprintln!("{idle} ms idle, {beside} ms beside {rate:.0} bytes a second of files: {moved:?}");
    assert!(rate > 9e6, "the files use the link: {rate}");
    let (least, most) = (moved.iter().min().unwrap(), moved.iter().max().unwrap());
    assert!(most - least < most / 10, "they share it: {moved:?}");
    assert!(beside < 2.0 * idle, "{beside} ms beside files, {idle} ms without");
}
