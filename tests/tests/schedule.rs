//! The real binaries while their keys and their port rotate, and while they are killed.
//!
//! `CLAWCHAT_ROTATIONS=30` runs the long form, `CLAWCHAT_E2E_SEED` gives the same chances again.
//!
//! What holds, and is checked here, whenever processes are killed:
//!
//! - A message whose sender was told `stored` is shown to everybody it is for. A client acknowledges
//!   a message only once it has shown it, so that the server keeps it until then.
//! - One process shows a message once.
//! - The next process of the same client shows nothing again but, perhaps, the one message that its
//!   predecessor showed last: it may have been killed between showing it and noting that it had.
//! - What one member says is shown in the order in which it was said.

use clawchat_tests::crowd::Crowd;
use clawchat_tests::net::Rng;
use clawchat_tests::process::{PATIENCE, Sandbox};
use core::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Members that chat.
const CLIENTS: usize = 20;

/// The rotations to go through, and the seconds between two: short forms are for each day.
fn scale(short: (usize, u64)) -> (usize, u64) {
    let given = std::env::var("CLAWCHAT_ROTATIONS").ok();
    given.map_or(short, |given| (given.parse().expect("CLAWCHAT_ROTATIONS is a number"), 10))
}

fn chance() -> Rng {
    let given = std::env::var("CLAWCHAT_E2E_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let seed = given.unwrap_or_else(|| u64::from(now.subsec_nanos()));
    eprintln!("CLAWCHAT_E2E_SEED={seed}");
    Rng::new(seed)
}

/// When the next of several things that happen by chance is due.
struct Due(Instant);

impl Due {
    /// Whether it is time; the next one is then due after `millis`.
    fn is_now(&mut self, rng: &mut Rng, millis: core::ops::RangeInclusive<u64>) -> bool {
        let due = self.0 <= Instant::now();
        if due {
            self.0 = Instant::now() + Duration::from_millis(rng.range(millis));
        }
        due
    }
}

#[test]
fn nobody_loses_a_word_while_keys_and_port_rotate() {
    let (rotations, seconds) = scale((4, 10));
    let mut rng = chance();
    let sandbox = Sandbox::new();
    let mut crowd = Crowd::new(&sandbox, Rng::new(rng.u64()), CLIENTS, seconds);
    let mut word = Due(Instant::now());
    let deadline =
        Instant::now() + Duration::from_secs(seconds) * (rotations as u32 + 3) + PATIENCE;
    while crowd.rotations() < rotations {
        assert!(Instant::now() < deadline, "the port does not rotate: {crowd}");
        crowd.look();
        if word.is_now(&mut rng, 0..=160) {
            crowd.say_something();
        }
    }
    crowd.settle(PATIENCE);
    crowd.check_undisturbed();
    crowd.check_ports();
    let report = crowd.end();
    eprintln!("undisturbed: {report}");
}

#[test]
fn nothing_stored_is_lost_when_server_and_clients_are_killed() {
    let (rotations, seconds) = scale((3, 6));
    let mut rng = chance();
    let sandbox = Sandbox::new();
    let mut crowd = Crowd::new(&sandbox, Rng::new(rng.u64()), CLIENTS, seconds);
    let (mut word, mut death) = (Due(Instant::now()), Due(Instant::now()));
    let deadline =
        Instant::now() + Duration::from_secs(seconds) * (rotations as u32 + 3) + PATIENCE;
    // A client notices after 60 s that its server was killed. The short form does not wait twice, and
    // the long one leaves time to say something in between.
    let mut server_death = Due(Instant::now() + Duration::from_millis(rng.range(500..=4000)));
    let long = rotations > 3;
    let (last, pause) = if long { (rotations - 1, 15_000..=45_000) } else { (1, 2000..=9000) };
    while crowd.rotations() < rotations || crowd.server_kills() == 0 {
        assert!(Instant::now() < deadline, "the port does not rotate: {crowd}");
        crowd.look();
        if word.is_now(&mut rng, 0..=160) {
            crowd.say_something();
        }
        if death.is_now(&mut rng, 0..=1500) {
            crowd.kill_a_client();
        }
        let may_die = crowd.rotations() <= last || crowd.server_kills() == 0;
        if may_die && server_death.is_now(&mut rng, pause.clone()) {
            crowd.kill_the_server();
        }
    }
    crowd.settle(PATIENCE * 5);
    let report = crowd.end();
    eprintln!("killed: {report}");
}
