//! Everything at once: a random world with all faults and random deeds, then quiet, in which everything
//! must settle.

use crate::disk::DiskFaults;
use crate::eve::EVE;
use crate::files::FileFaults;
use crate::net::{Link, Rng, Way, flip};
use crate::oracle::Who;
use crate::world::{ClientNode, Clock, Process, SERVER_IP, SERVER_IP6, Setup, World};
use clawchat_core::crypto::aead::{AwsLc, RustCrypto};
use clawchat_core::id::FileId;
use clawchat_core::limits::KeyLimits;
use clawchat_core::time::Duration;
use clawchat_core::wire::message::Status;
use clawchat_core::{client, server};
use core::net::SocketAddr;
use std::collections::BTreeMap;

/// Limits that the chat of a few minutes reaches.
const LOW_LIMITS: KeyLimits = KeyLimits { due: 60_000, stop: 120_000, end: 600_000 };
/// Who is there.
pub(crate) const MEMBERS: [&str; 4] = ["ann", "bob", "cid", "dan"];
/// Recipients, some of whom are nobody.
pub const TO: [&str; 9] =
    ["@ann", "@bob", "@cid", "@dan", "#lobby", "#ops", "#deep", "@server", "@nobody"];
/// Worlds of which the storm is short, per mille: it takes many of them to see what depends on two or
/// three events in the right order, and long ones for what depends on the clock.
const BRIEF: u64 = 850;
/// A world has this long to settle.
const QUIET: Duration = Duration::from_secs(1500);
/// A session that is alive is heard at least so often: keepalive, and what may be lost of it.
const HEARS: Duration = Duration::from_secs(30);

/// A world and what is done in it.
pub(crate) struct Chaos {
    pub(crate) world: World,
    pub(crate) rng: Rng,
    /// Hours that the storm lasts beyond its minutes, most of them idle.
    hours: u64,
    /// The storm is short, and what comes after it too.
    pub(crate) brief: bool,
    /// When a server that shuts down is dropped.
    stop_at: Option<u64>,
}

/// What a world came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of its whole history.
    pub hash: u64,
    /// Different datagrams.
    pub datagrams: usize,
    /// Chats that were sent.
    pub chats: usize,
    /// Times that a chat was shown.
    pub shown: usize,
    /// Files that were sent.
    pub files: usize,
    /// Times that a file was whole at a member.
    pub arrived: usize,
    /// Bytes of files that arrived somewhere.
    pub file_bytes: u64,
    /// Virtual seconds.
    pub virtual_secs: u64,
    /// Rotations of keys, at the server.
    pub keys: usize,
    /// Rotations of the port.
    pub ports: usize,
    /// Moves to another path.
    pub moves: usize,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

/// Whether one of the members of a seed's world is hostile.
const fn has_eve(seed: u64) -> bool {
    Rng::new(seed.rotate_left(16) ^ 0xe7e).chance(300)
}

fn setup(seed: u64, lines: usize) -> Setup {
    let mut rng = Rng::new(!seed);
    let pick = |rng: &mut Rng, choices: [u64; 4]| choices[rng.index(4)];
    Setup {
        members: [
            ("ann", vec!["ops", "deep"]),
            ("bob", vec![]),
            ("cid", vec!["ops"]),
            ("dan", vec!["deep"]),
        ]
        .into_iter()
        .chain(has_eve(seed).then_some((EVE, vec![])))
        .collect(),
        scheduled: rng.chance(600),
        nat: rng.chance(600),
        dual: rng.chance(400),
        key_limits: if rng.chance(300) { LOW_LIMITS } else { KeyLimits::default() },
        interval: [3600, 3600, 600, 60][rng.index(4)],
        lazy: pick(&mut rng, [0, 0, 300, 1000]),
        skew: pick(&mut rng, [0, 1_000, 100_000, 295_000]),
        rerun: format!(
            "cargo run --release -p clawchat-tests --bin world -- --seeds 1 --from {seed} --verbose"
        ),
        // That of the binaries is the quicker one; what it says is bit for bit the same.
        provider: if seed.is_multiple_of(8) { &RustCrypto } else { &AwsLc },
        lines,
        ..Setup::new(seed)
    }
}

impl Chaos {
    fn new(seed: u64, hours: u64, lines: usize) -> Self {
        let rng = Rng::new(seed.rotate_left(32) ^ 0x5eed);
        let mut setup = setup(seed, lines);
        // Clients with a clock far off find the server only within the grace of a slot's edge.
        setup.skew = setup.skew.min(setup.interval * 1000 / 6);
        let world = World::new(setup);
        let mut chaos = Self { world, rng, hours, brief: false, stop_at: None };
        chaos.brief = hours == 0 && chaos.rng.chance(BRIEF);
        for member in MEMBERS {
            let file = chaos.world.issue(member);
            if chaos.rng.chance(800) {
                chaos.world.start(file);
            }
        }
        if has_eve(seed) {
            chaos.world.fault("hostile member");
            chaos.world.let_in(&TO);
        }
        chaos
    }

    /// A process that runs, whatever its state.
    fn anyone(&mut self) -> Option<Process> {
        let processes: Vec<_> = self
            .world
            .processes()
            .filter(|(_, node)| node.runs())
            .map(|(process, _)| process)
            .collect();
        self.rng.pick(&processes).copied()
    }

    fn member(&mut self) -> &'static str {
        MEMBERS[self.rng.index(MEMBERS.len())]
    }

    fn somebody(&mut self) -> Option<Process> {
        let member = self.member();
        let awake = |process: &Process| !self.world.client(*process).sleeps(self.world.now());
        self.world.living(member).filter(awake)
    }

    fn count(&self, wanted: impl Fn(&server::Event) -> bool) -> usize {
        self.world.server.events.iter().filter(|event| wanted(event)).count()
    }

    /// Suspends somebody, sets a clock, or makes a translator forget.
    fn disturb(&mut self) {
        let Some(process) = self.somebody() else { return };
        match self.rng.below(5) {
            4 => self.forward(process),
            0 => {
                let time = self.rng.range(1..=200);
                let time = if self.rng.chance(200) { time * 60 } else { time };
                self.world.sleep(process, Duration::from_secs(time));
            }
            1 => {
                let ms = self.rng.range(0..=400_000).cast_signed() - 200_000;
                let whose = self.rng.chance(500).then_some(process);
                self.world.step_clock(whose, ms);
            }
            _ => self.world.rebind(process),
        }
    }

    /// An attacker begins, or ends, to send on copies of what a client sends.
    pub(crate) fn forward(&mut self, process: Process) {
        self.world.fault("forwarder");
        if self.world.forwarders.remove(&process).is_none() {
            let forwarder = self.world.net.forwarder();
            self.world.forwarders.insert(process, forwarder);
        }
    }

    fn say(&mut self) {
        let Some(process) = self.somebody() else { return };
        let to = TO[self.rng.index(TO.len())];
        let len = match self.rng.below(100) {
            0 => self.rng.range(5_000..=65_000),
            1..20 => self.rng.range(1_000..=5_000),
            _ => self.rng.range(1..=300),
        };
        let letters = self.rng.bytes(usize::try_from(len).unwrap_or(1));
        let text: String = letters.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
        // `WindowFull` and `Closed` are fair answers.
        let _ = self.world.say(process, to, &text);
    }

    /// A size that somebody's file may have.
    fn file_size(&mut self) -> u64 {
        match self.rng.below(100) {
            0..10 => 0,
            10..20 => self.rng.range(1..=20),
            20..65 => self.rng.range(1..=4_000),
            65..92 => self.rng.range(1..=60_000),
            92..98 => self.rng.range(1..=300_000),
            _ => self.rng.range(1..=3_000_000),
        }
    }

    /// Somebody sends a file, or ends one that is on its way.
    fn transfer(&mut self) {
        let Some(process) = self.somebody() else { return };
        match self.rng.below(20) {
            0 => self.world.cancel_any(Who::Server),
            1 | 2 => self.world.cancel_any(Who::Client(process)),
            _ => {
                let (to, size) = (TO[self.rng.index(TO.len())], self.file_size());
                // All but the end of a huge one is there.
                let huge = self.rng.chance(30);
                let all = (self.rng.range(size.max(1) + (1 << 40)..=(1 << 53) - 1), size);
                let _ = if huge {
                    self.world.send_end_of_file(process, to, all)
                } else {
                    self.world.send_file(process, to, size)
                };
            }
        }
    }

    fn rotate(&mut self) {
        if self.rng.chance(500) {
            let member = self.member();
            let member = self.rng.chance(500).then_some(member);
            self.world.rotate_by_server(member);
        } else if let Some(process) = self.somebody() {
            self.world.rotate_by_client(process);
        }
    }

    fn strain_link(&mut self) {
        let Some(process) = self.anyone() else { return };
        let links = [Link::DOWN, Link::CLEAN, Link::random(&mut self.rng)];
        let link = links[self.rng.index(3)];
        self.world.fault("bad link");
        match self.rng.below(4) {
            0 => self.world.net.set(process, Way::Up, link),
            1 => self.world.net.set(process, Way::Down, link),
            _ => self.world.net.set_both(process, link),
        }
        self.world.net.compare(process, self.world.now());
    }

    fn strain_disk(&mut self) {
        self.world.fault("bad disk");
        let rng = &mut self.rng;
        self.world.disk.faults = DiskFaults {
            store: rng.below(100),
            issue: rng.below(300),
            retire: rng.below(300),
            slow: rng.below(200),
            hang: rng.below(30),
            lost: rng.below(200),
        };
        self.world.wipe_fails = rng.below(500);
        let faulty = rng.chance(500);
        let mut chance = |most| if faulty { rng.below(most) } else { 0 };
        self.world.files.faults = FileFaults {
            slow: chance(400),
            never: chance(150),
            refuse: chance(60),
            read: chance(20),
            write: chance(100),
            hold: chance(600),
        };
    }

    fn stop_server(&mut self) {
        if !self.world.server_is_up() {
            self.world.server.ports_taken = u32::try_from(self.rng.below(3)).unwrap_or(0);
            self.world.start_server();
        } else if self.rng.chance(600) {
            self.world.fault("server crash");
            self.world.crash_server();
        } else if self.stop_at.is_none() {
            self.world.with_server(|server, now| server.shut_down(now));
            self.stop_at = Some(self.world.now() + self.rng.range(100_000..=8_000_000));
        }
    }

    fn compromise(&mut self) {
        self.world.fault("COMPROMISED");
        let member = self.member();
        let who = self.rng.below(4);
        if who != 0
            && let Some(process) = self.world.living(member)
        {
            self.world.declare(process);
        }
        if who < 2 {
            self.world.with_server(|s, now| s.declare_compromised(now, member, "chaos reigns"));
        }
    }

    fn steal(&mut self) {
        let retired: Vec<FileId> = self
            .world
            .disk
            .issued()
            .iter()
            .map(|issued| issued.file)
            .filter(|file| self.world.disk.retired_at(*file).is_some())
            .collect();
        if let Some(file) = self.rng.pick(&retired).copied()
            && let Some(content) = self.world.disk.content(file)
        {
            self.world.start_with("thief", Some(file), content, Clock::default(), true);
        }
    }

    fn forgery(&mut self) -> Vec<u8> {
        let heard = self.world.net.recall(&mut self.rng).map(|heard| heard.datagram.clone());
        let Some(mut datagram) = heard else { return self.rng.bytes(64) };
        match self.rng.below(5) {
            0 => {
                let len = self.rng.index(1_500);
                datagram = self.rng.bytes(len);
                datagram.resize(len.next_multiple_of(16), 0);
                datagram.get_mut(..1).into_iter().for_each(|byte| byte[0] = 0x20);
            }
            1 => datagram.truncate(self.rng.index(datagram.len() + 1)),
            2 => datagram.truncate(self.rng.index(datagram.len() / 16 + 1) * 16),
            3 => flip(&mut self.rng, &mut datagram),
            _ => {}
        }
        datagram
    }

    fn attack(&mut self) {
        for _ in 0..self.rng.range(1..=10) {
            self.world.fault("forgery or replay");
            let datagram = self.forgery();
            if self.rng.chance(700) {
                self.world.attack(datagram);
            } else if let Some(process) = self.anyone() {
                let from_server = self.rng.chance(500);
                self.world.attack_client(process, from_server, datagram);
            }
        }
    }

    fn act(&mut self) {
        match self.rng.below(100) {
            0..36 => self.say(),
            36..45 => self.transfer(),
            45..48 => (0..self.rng.range(2..=30)).for_each(|_| self.say()),
            48..56 => self.rotate(),
            56..58 => self.stop_server(),
            58..60 => {
                if let Some(process) = self.anyone() {
                    self.world.fault("client crash");
                    self.world.crash_client(process);
                }
            }
            60..67 => self.strain_link(),
            67..69 => {
                if let Some(process) = self.somebody() {
                    self.world.with_client(process, |client, now| client.leave(now));
                }
            }
            69..71 => {
                if let Some(process) = self.somebody() {
                    let status = if self.rng.chance(500) { Status::Away } else { Status::Online };
                    let _ = self
                        .world
                        .with_client(process, |client, now| client.set_status(now, status));
                }
            }
            71..73 => self.compromise(),
            73..75 => self.steal(),
            75..78 => self.strain_disk(),
            78..82 => self.disturb(),
            _ => self.attack(),
        }
    }

    /// What operators and users do: start what is down, and hand out files where there are none.
    pub(crate) fn tend(&mut self, hurry: bool) {
        if self.stop_at.is_some_and(|at| at <= self.world.now()) {
            self.stop_at = None;
            if self.world.server_is_up() {
                self.world.crash_server();
            }
        }
        if self.world.server_machine().is_some_and(|server| server.port().is_none()) {
            self.world.crash_server();
        }
        if !self.world.server_is_up() && (hurry || self.rng.chance(100)) {
            self.stop_at = None;
            self.world.start_server();
        }
        for member in MEMBERS {
            self.replace_refused(member);
            if self.world.living(member).is_none() && (hurry || self.rng.chance(100)) {
                self.revive(member);
            }
        }
    }

    /// A user whose file meets silence takes another.
    fn replace_refused(&mut self, member: &str) {
        let Some(process) = self.world.living(member) else { return };
        let (node, secs) = (self.world.client(process), self.world.server_secs());
        let refused = |file| self.world.server_machine().is_some_and(|s| !s.accepts(file, secs));
        if !node.connected && node.file.is_some_and(refused) && self.rng.chance(100) {
            self.world.crash_client(process);
        }
    }

    fn revive(&mut self, member: &str) {
        let closed = |(_, node): &(Process, &ClientNode)| {
            node.member == member && node.runs() && node.closed.is_some() && !node.wiped
        };
        let closed: Vec<_> = self.world.processes().filter(closed).map(|(p, _)| p).collect();
        let secs = self.world.server_secs();
        let accepted = |file: FileId| {
            self.world.server_machine().is_none_or(|server| server.accepts(file, secs))
        };
        let file = self.world.file_of(member).filter(|file| accepted(*file));
        if let Some(process) = closed.last().copied()
            && self.world.client(process).file == file
            && file.is_some()
            && self.rng.chance(500)
        {
            self.world.connect(process);
            return;
        }
        for process in closed {
            self.world.crash_client(process);
        }
        match file {
            Some(file) => {
                self.world.start(file);
            }
            None => {
                self.world.with_server(|server, now| server.issue(now, member, &[], 1_000_000));
            }
        }
    }

    fn storm(&mut self) {
        self.strain_disk();
        self.world.net.set_all(Link::random(&mut self.rng));
        let longest = if self.brief { 30_000_000 } else { 160_000_000 };
        let until = self.world.now() + self.rng.range(longest / 4..=longest);
        self.act_until(until);
        for _ in 0..self.hours {
            self.world.run(Duration::from_secs(self.rng.range(1_800..=3_500)));
            let until = self.world.now() + self.rng.range(1_000_000..=20_000_000);
            self.act_until(until);
        }
        if self.hours == 0 && !self.brief && self.rng.chance(150) {
            // An idle hour or two: keys and port rotate by themselves.
            self.world.run(Duration::from_secs(self.rng.range(1_000..=8_000)));
            self.tend(false);
            self.act();
        }
    }

    fn act_until(&mut self, until: u64) {
        while self.world.now() < until {
            let pause = match self.rng.below(20) {
                0 => self.rng.range(1_000_000..=15_000_000),
                1..8 => 0,
                _ => self.rng.range(0..=1_500_000),
            };
            self.world.run(Duration::from_micros(pause));
            self.act();
            self.tend(false);
        }
    }

    /// No faults any more: everybody comes back, and everything arrives.
    fn quiet(&mut self) {
        self.world.calm();
        self.world.stop_eve();
        // Signals that are out come to their end.
        self.world.run(Duration::from_secs(15));
        self.world.reconnect_disappointed();
        self.settle();
        self.replay_everything();
        self.rehearse();
        if self.brief {
            self.settle();
            return;
        }
        self.world.run(Duration::from_secs(70));
        if let Err(why) = self.is_settled() {
            self.world.fail(&format!("it does not last: {why}"));
        }
    }

    /// Everybody is tended to until all is well.
    pub(crate) fn settle(&mut self) {
        let begin = self.world.now();
        loop {
            self.tend(true);
            self.world.run(Duration::from_secs(2));
            let Err(why) = self.is_settled().and_then(|()| self.everybody_hears()) else { break };
            if Duration::from_micros(self.world.now() - begin) > QUIET {
                self.world.fail(&why);
            }
        }
    }

    /// The attacker sends again all that he ever heard, to the server and to all clients.
    fn replay_everything(&mut self) {
        let processes: Vec<_> = MEMBERS.iter().filter_map(|name| self.world.living(name)).collect();
        let to_server = |to: SocketAddr| to.ip() == SERVER_IP || to.ip() == SERVER_IP6;
        for heard in self.world.net.heard().cloned().collect::<Vec<_>>() {
            if to_server(heard.to) {
                self.world.attack(heard.datagram);
            } else if let Some(process) = self.rng.pick(&processes) {
                self.world.attack_client(*process, true, heard.datagram);
            }
        }
    }

    /// Whether nobody takes a session for alive that is not: it finds out when it was silent for a minute.
    fn everybody_hears(&self) -> Result<(), String> {
        for process in MEMBERS.iter().filter_map(|name| self.world.living(name)) {
            let silent = self.world.now() - self.world.client(process).heard;
            if Duration::from_micros(silent) > HEARS {
                return Err(format!("oracle 9: {process:?} has heard nothing for {silent} µs"));
            }
        }
        Ok(())
    }

    pub(crate) fn is_settled(&self) -> Result<(), String> {
        for member in MEMBERS {
            let process = self.world.living(member).ok_or_else(|| format!("{member} is dead"))?;
            let unreceipted =
                self.world.client_machine(process).map_or(0, client::Client::unreceipted);
            let node = self.world.client(process);
            let known = self.world.server_machine().is_some_and(|server| {
                server.sessions().iter().any(|session| node.nat.owns(session.remote))
            });
            if !node.connected {
                return Err(format!("oracle 9: {process:?} of {member} finds no server"));
            }
            if !known || unreceipted > 0 {
                return Err(format!("{process:?} of {member}: {unreceipted} without receipt"));
            }
        }
        self.world.chats_complete()?;
        self.world.files_complete()
    }
}

/// Plays the world of a seed: storm, then quiet. Of its transcript so many lines are kept; with none it
/// is faster, and has no hash.
///
/// # Panics
/// With the seed and the last lines of the transcript when an oracle complains.
#[must_use]
pub fn play(seed: u64, hours: u64, lines: usize) -> Outcome {
    let mut chaos = Chaos::new(seed, hours, lines);
    chaos.storm();
    chaos.quiet();
    let hostile = chaos.world.hostile_sessions();
    chaos.world.faults.insert("hostile session", hostile);
    let oracles = &chaos.world.oracles;
    Outcome {
        hash: chaos.world.transcript.hash(),
        datagrams: oracles.wire.count(),
        chats: oracles.chats.count(),
        shown: oracles.chats.count_shown(),
        files: oracles.files.count(),
        arrived: oracles.files.count_finished(),
        file_bytes: oracles.files.bytes(),
        virtual_secs: chaos.world.now() / 1_000_000,
        keys: chaos.count(|event| matches!(event, server::Event::KeysRotated { .. })),
        ports: chaos.count(|event| matches!(event, server::Event::PortRotated { .. })),
        moves: chaos
            .count(|event| matches!(event, server::Event::Audit(server::Audit::PathMoved { .. }))),
        faults: chaos.world.faults.clone(),
    }
}
