//! How sessions end and begin again (PROTOCOL 5.3, 5.5, 6), in a simulated world.

use clawchat_core::client::{Client, Event};
use clawchat_core::error::CloseReason;
use clawchat_core::limits::IDLE_TIMEOUT;
use clawchat_core::server::{self, Server};
use clawchat_core::time::Duration;
use clawchat_core::wire::header::PacketType;
use clawchat_core::wire::message::ErrorCode;
use clawchat_tests::nat::Kind;
use clawchat_tests::net::{Link, Way};
use clawchat_tests::oracle::Who;
use clawchat_tests::world::{Clock, Process, Setup, World};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(180);

fn world(seed: u64) -> World {
    World::new(Setup::new(seed))
}

fn disconnections(world: &World, process: Process) -> Vec<(CloseReason, Duration)> {
    let of = |event: &Event| match event {
        Event::Disconnected { reason, retry_in } => Some((reason.clone(), *retry_in)),
        _ => None,
    };
    world.client(process).events.iter().filter_map(of).collect()
}

fn ends_at_server(world: &World) -> Vec<CloseReason> {
    let of = |event: &server::Event| match event {
        server::Event::Disconnected { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    world.server.events.iter().filter_map(of).collect()
}

#[test]
fn a_session_lasts_while_nothing_is_said() {
    let mut world = world(1);
    let ann = world.join("ann");
    world.tap = Some(Vec::new());
    world.run(Duration::from_secs(3000));
    assert!(world.client(ann).connected && disconnections(&world, ann).is_empty());
    let datagrams = world.tap.iter().flatten().count();
    assert!(datagrams < 3000 / 20 * 4 + 10, "{datagrams} datagrams of keepalive");
}

#[test]
fn a_partition_of_a_minute_ends_it_and_it_comes_back() {
    let mut world = world(2);
    let ann = world.join("ann");
    world.run(SOON);
    world.net.set_both(ann, Link::DOWN);
    world.run(IDLE_TIMEOUT - Duration::from_secs(25));
    assert!(world.client(ann).connected);
    world.run(Duration::from_secs(27));
    assert_eq!(disconnections(&world, ann)[0].0, CloseReason::Idle);
    assert_eq!(ends_at_server(&world), [CloseReason::Idle]);
    assert!(world.server_machine().unwrap().sessions().is_empty());
    world.run(LONG);
    world.calm();
    world.expect("connected", LONG, |world| world.client(ann).connected);
}

#[test]
fn a_short_partition_ends_nothing() {
    let mut world = world(3);
    let ann = world.join("ann");
    world.net.set_both(ann, Link::DOWN);
    world.say(ann, "@server", "patience").unwrap();
    world.run(Duration::from_secs(35));
    world.calm();
    world.expect("stored", SOON, |world| world.disk.stored() == 1);
    assert!(disconnections(&world, ann).is_empty());
}

#[test]
fn one_way_is_not_enough() {
    for way in [Way::Up, Way::Down] {
        let mut world = world(4);
        let ann = world.join("ann");
        world.net.set(ann, way, Link::DOWN);
        world.expect("dead", LONG, |world| !world.client(ann).connected);
        world.calm();
        world.expect("connected", LONG, |world| world.client(ann).connected);
    }
}

#[test]
fn a_shutdown_is_told_and_the_client_waits() {
    let mut world = world(5);
    let processes = ["ann", "bob"].map(|member| world.join(member));
    world.with_server(|server, now| server.shut_down(now));
    let told = |world: &World| processes.iter().all(|p| !world.client(*p).connected);
    world.expect("told", SOON, told);
    let drained = |world: &World| world.server_machine().is_some_and(|s| s.is_drained());
    world.expect("drained", SOON, drained);
    let (reason, retry_in) = disconnections(&world, processes[0]).remove(0);
    let CloseReason::Refused { code: ErrorCode::Shutdown, .. } = reason else {
        world.fail(&format!("ended with {reason:?}"))
    };
    assert_eq!(retry_in, Duration::from_secs(1));
    world.crash_server();
    world.run(LONG);
    world.start_server();
    let back = |world: &World| processes.iter().all(|p| world.client(*p).connected);
    world.expect("back", LONG, back);
}

#[test]
fn a_fatal_error_is_said_three_times() {
    let mut world = world(6);
    let ann = world.join("ann");
    world.tap = Some(Vec::new());
    world.net.set(ann, Way::Down, Link::DOWN);
    world.with_server(|server, now| server.shut_down(now));
    world.run(SOON);
    let errors = world.tapped(Who::Server, PacketType::Error);
    assert_eq!(errors.len(), 3);
    assert!(errors.iter().all(|error| error.datagram == errors[0].datagram));
}

#[test]
fn no_new_sessions_while_shutting_down() {
    let mut world = world(7);
    let file = world.issue("ann");
    world.with_server(|server, now| server.shut_down(now));
    let ann = world.start(file);
    world.run(SOON);
    assert!(!world.client(ann).connected);
    assert!(world.server_machine().unwrap().sessions().is_empty());
}

#[test]
fn a_crash_of_the_server_is_survived() {
    for seed in 0..10 {
        let mut world = world(seed);
        let processes = ["ann", "bob", "cid"].map(|member| world.join(member));
        world.crash_server();
        world.run(Duration::from_secs(seed * 7));
        world.start_server();
        let back = |world: &World| {
            let sessions = world.server_machine().map_or(0, |server| server.sessions().len());
            sessions == 3 && processes.iter().all(|p| world.client(*p).connected)
        };
        world.expect("back", LONG, back);
    }
}

#[test]
fn pauses_grow_to_half_a_minute() {
    let mut world = world(8);
    let ann = world.join("ann");
    world.crash_server();
    world.run(Duration::from_secs(1000));
    let pauses: Vec<_> =
        disconnections(&world, ann).iter().map(|(_, pause)| pause.as_secs()).collect();
    assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 30, 30]);
    world.start_server();
    world.expect("connected", LONG, |world| world.client(ann).connected);
}

#[test]
fn a_goodbye_ends_it_at_both_sides() {
    let mut world = world(9);
    let ann = world.join("ann");
    world.say(ann, "@server", "last words").unwrap();
    world.with_client(ann, |client, now| client.leave(now));
    world.expect("closed", SOON, |world| world.client(ann).closed.is_some());
    assert_eq!(world.client(ann).closed, Some(CloseReason::Goodbye));
    world
        .expect("at the server too", SOON, |world| ends_at_server(world) == [CloseReason::Goodbye]);
    assert_eq!(world.disk.stored(), 1);
    world.run(LONG);
    assert!(!world.client(ann).connected, "it stays away");
    world.with_client(ann, |client, now| client.connect(now));
    world.expect("asked back", SOON, |world| world.client(ann).connected);
}

#[test]
fn a_goodbye_does_not_wait_for_ever() {
    let mut world = world(10);
    let ann = world.join("ann");
    world.net.set_both(ann, Link::DOWN);
    world.with_client(ann, |client, now| client.leave(now));
    world.expect("closed", Duration::from_secs(5), |world| world.client(ann).closed.is_some());
    world.expect("at the server", LONG, |world| ends_at_server(world) == [CloseReason::Idle]);
}

#[test]
fn a_goodbye_before_there_is_a_session() {
    let mut world = world(11);
    let file = world.issue("ann");
    world.net.set_all(Link::DOWN);
    let ann = world.start(file);
    world.run(Duration::from_secs(3));
    world.with_client(ann, |client, now| client.leave(now));
    world.run(Duration::from_secs(1));
    assert_eq!(world.client(ann).closed, Some(CloseReason::Goodbye));
    assert!(world.client_machine(ann).unwrap().is_over());
}

#[test]
fn a_client_that_crashed_takes_its_place_again() {
    let mut world = world(12);
    let first = world.join("ann");
    let file = world.client(first).file.unwrap();
    world.crash_client(first);
    let second = world.start(file);
    world.expect("at once", Duration::from_secs(2), |world| world.client(second).connected);
    let [CloseReason::Ended(ErrorCode::Superseded)] = ends_at_server(&world)[..] else {
        world.fail("the old session is not superseded")
    };
    assert_eq!(world.server_machine().unwrap().sessions().len(), 1);
}

#[test]
fn a_client_told_not_to_reconnect_does_not() {
    let mut world = world(13);
    let file = world.issue("ann");
    let content = world.disk.content(file).unwrap();
    let ann = world.start_with("ann", Some(file), content, Clock::default(), false);
    world.expect("connected", SOON, |world| world.client(ann).connected);
    world.net.set_both(ann, Link::DOWN);
    world.expect("closed", LONG, |world| world.client(ann).closed.is_some());
    assert_eq!(world.client(ann).closed, Some(CloseReason::Idle));
}

#[test]
fn old_datagrams_open_nothing_in_a_new_session() {
    let mut world = world(14);
    let ann = world.join("ann");
    world.tap = Some(Vec::new());
    for number in 0..20 {
        world.say(ann, "#lobby", &number.to_string()).unwrap();
        world.run(Duration::from_millis(100));
    }
    world.net.set_both(ann, Link::DOWN);
    world.expect("dead", LONG, |world| !world.client(ann).connected);
    world.calm();
    world.expect("connected", LONG, |world| world.client(ann).connected);
    // What is under way is no copy yet.
    world.run(Duration::from_secs(1));
    let old: Vec<_> = world.tap.take().unwrap_or_default();
    for emission in old.into_iter().filter(|emission| emission.from != Who::Server) {
        assert!(world.attack(emission.datagram).is_empty());
    }
}

#[test]
fn a_client_behind_a_symmetric_translator_is_followed_to_the_next_port() {
    for seed in 0..30 {
        let mut world = World::new(Setup { scheduled: true, interval: 60, ..Setup::new(seed) });
        let ann = world.join("ann");
        world.set_nat(ann, Kind::Symmetric);
        // The server's question at the old path may overtake its answer at the new one.
        world.net.set(ann, Way::Down, Link { jitter: 30_000, ..Link::CLEAN });
        world.say(ann, "@server", "I am here").unwrap();
        world.run(Duration::from_secs(1));
        let port = |world: &World| world.server_machine().and_then(Server::port);
        let first = port(&world);
        world.expect("it rotates", Duration::from_secs(70), |world| port(world) != first);
        // Her address is another one at another port: long before the old port closes.
        let followed = |world: &World| {
            let sessions = world.server_machine().map(Server::sessions).unwrap_or_default();
            let remote = sessions.first().map(|session| session.remote);
            world.client_machine(ann).and_then(Client::path).map(|path| path.remote.port())
                == port(world)
                && remote == world.client(ann).address
        };
        world.expect("followed", Duration::from_secs(2), followed);
    }
}
