//! Everything at once: random worlds with all faults and random deeds, then quiet, in which
//! everything must settle. `CLAWCHAT_SEEDS` tells how many worlds, `CLAWCHAT_SEED` which single one.

use clawchat_core::time::Duration;
use clawchat_core::wire::message::Status;
use clawchat_tests::storm::{TO, play};
use clawchat_tests::world::{Process, Setup, World};
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use quickcheck::quickcheck;
use std::io::Write as _;
use std::panic::catch_unwind;

/// Worlds by default.
const SEEDS: u64 = 200;
/// Threads that share them.
const THREADS: usize = 2;
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn storms_and_quiet() {
    let only = number("CLAWCHAT_SEED");
    let first = only.or_else(|| number("CLAWCHAT_FIRST")).unwrap_or(1);
    let last = only.unwrap_or_else(|| first + number("CLAWCHAT_SEEDS").unwrap_or(SEEDS) - 1);
    let next = AtomicU64::new(first);
    let totals: [AtomicUsize; 4] = Default::default();
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        break;
                    }
                    let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| {
                        play(seed, 0, if only.is_some() { 1_000_000 } else { 100 })
                    })) else {
                        failed.lock().expect("no panic holds it").push(seed);
                        continue;
                    };
                    let secs = usize::try_from(outcome.virtual_secs).unwrap_or(0);
                    let counts = [outcome.datagrams, outcome.chats, outcome.shown, secs];
                    for (total, count) in totals.iter().zip(counts) {
                        total.fetch_add(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let [datagrams, chats, shown, secs] = totals.map(AtomicUsize::into_inner);
    let seeds = last + 1 - first;
    let text = format!(
        "chaos: {seeds} seeds, {datagrams} datagrams, {chats} chats, shown {shown} times, {} virtual minutes\n",
        secs / 60
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
    let mut failed = failed.into_inner().expect("no panic holds it");
    failed.sort_unstable();
    assert!(failed.is_empty(), "seeds that failed: {failed:?}; run one with CLAWCHAT_SEED=…");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..6 {
        let first = play(seed, 0, 100);
        let second = std::thread::spawn(move || play(seed, 0, 100)).join().unwrap();
        assert_eq!(first, second);
        assert_ne!(first.hash, play(seed + 1000, 0, 100).hash);
    }
}

quickcheck! {
    /// Whatever bytes arrive and whatever is commanded, in any order: nothing panics, and every
    /// oracle is content.
    fn arbitrary_bytes_and_commands(script: Vec<(u8, u8)>, bytes: Vec<u8>) -> bool {
        let mut world = World::new(Setup { lazy: 200, ..Setup::new(bytes.len() as u64) });
        let ann = world.join("ann");
        let bob = world.join("bob");
        for (index, (what, with)) in script.into_iter().enumerate() {
            let process = if with % 2 == 0 { ann } else { bob };
            let from = bytes.len() * usize::from(with) / 256;
            let mut datagram = bytes[from..].to_vec();
            command(&mut world, process, what, with, index, &mut datagram);
            world.run(Duration::from_millis(u64::from(with) * 3));
        }
        world.run(Duration::from_secs(5));
        true
    }
}

fn command(world: &mut World, p: Process, what: u8, with: u8, index: usize, bytes: &mut Vec<u8>) {
    match what % 16 {
        0 => drop(world.attack(core::mem::take(bytes))),
        1 => {
            bytes.resize((bytes.len() + 64).next_multiple_of(16), 0);
            (bytes[0], bytes[17], bytes[25]) = (0x20, 0, 1 + with % 10);
            world.attack(core::mem::take(bytes));
        }
        2 => world.attack_client(p, with.is_multiple_of(3), core::mem::take(bytes)),
        3 | 4 => drop(world.say(p, TO[usize::from(with) % TO.len()], &format!("{index} {what}"))),
        5 => drop(world.with_client(p, |client, now| client.rotate_keys(now))),
        6 => drop(world.with_server(|server, now| server.rotate_keys(now, None))),
        7 => drop(world.with_client(p, |client, now| client.set_status(now, Status::Away))),
        8 => drop(world.with_client(p, |client, now| client.leave(now))),
        9 => world.connect(p),
        10 => drop(world.with_client(p, |client, now| client.declare_compromised(now))),
        11 => drop(world.with_client(p, |client, now| client.give_up_signalling(now))),
        12 => drop(world.with_server(|s, now| s.declare_compromised(now, "ann", ""))),
        13 => drop(world.with_server(|s, now| s.issue(now, "bob", &[], u64::from(with)))),
        14 => drop(world.with_server(|server, now| server.shut_down(now))),
        _ => {
            world.crash_server();
            world.start_server();
        }
    }
}
