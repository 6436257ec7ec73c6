//! What must work on a network without faults, after any storm: rotations, moves, long sleeps, and
//! COMPROMISED, each watched by the oracle that it is for.

use crate::net::{Link, Way};
use crate::oracle::Who;
use crate::storm::{Chaos, MEMBERS};
use crate::world::{Process, World};
use clawchat_core::client::{self, Client};
use clawchat_core::limits::IDLE_TIMEOUT;
use clawchat_core::server::{Server, SessionStatus};
use clawchat_core::time::Duration;

/// A client that wakes up has found its server by then: silence is noticed, a pause made, a hello sent
/// to all ports.
const FOUND: Duration = Duration::from_secs(120);
/// How late a driver's turn may be in the simulation, for each of the few turns of an exchange.
const LATE: Duration = Duration::from_millis(400);

impl Chaos {
    /// Rotations, and one of the others.
    pub(crate) fn rehearse(&mut self) {
        // A client that a crash of the server left behind notices it when nothing comes for a minute.
        self.world.run(IDLE_TIMEOUT + Duration::from_secs(60));
        self.settle();
        self.rehearse_rotations();
        match self.rng.below(6) {
            0 => self.rehearse_rebinding(),
            1 => self.rehearse_forwarder(),
            2 => self.rehearse_sleep(),
            3 => self.rehearse_transfer(),
            4 => self.rehearse_resumption(),
            _ => self.rehearse_compromise(),
        }
    }

    fn everybody(&self) -> Vec<Process> {
        MEMBERS.iter().filter_map(|name| self.world.living(name)).collect()
    }

    /// Everybody can rotate keys while chat flows, and no session ends by it.
    fn rehearse_rotations(&mut self) {
        let processes = self.everybody();
        let rotations = rotations(&self.world, &processes);
        let ends = ends(&self.world, &processes);
        for turn in 0..if self.brief { 2 } else { 6 } {
            for process in &processes {
                let _ = self.world.say(*process, "#lobby", "rehearsal");
                self.world.rotate_by_client(*process);
            }
            if turn % 2 == 0 {
                self.world.rotate_by_server(None);
            }
            self.world.run(Duration::from_millis(self.rng.range(1..=300)));
        }
        self.world.run(Duration::from_secs(5));
        let rotated = self::rotations(&self.world, &processes);
        if rotated.iter().zip(&rotations).any(|(after, before)| after <= before) {
            self.world.fail(&format!(
                "oracle 4: keys were not rotated: {processes:?} {rotations:?} {rotated:?}"
            ));
        }
        self.world.run(Duration::from_secs(61));
        if self::ends(&self.world, &processes) != ends {
            self.world.fail("oracle 2: a session ended without a cause");
        }
    }

    /// A client whose translator forgets it is followed within a round trip and a probe timeout.
    fn rehearse_rebinding(&mut self) {
        let Some(process) = self.rng.pick(&self.everybody()).copied() else { return };
        let Some(before) = session(&self.world, process) else { return };
        let ends = ends(&self.world, &[process]);
        let path = |world: &World| world.client_machine(process).and_then(Client::path);
        let begin = path(&self.world);
        // A server whose clock was set may have closed the port that its client still takes for the right
        // one: the client finds out by that it is silent.
        let open = self.world.server_machine().map(Server::open_ports);
        if !begin.zip(open).is_some_and(|(path, open)| open.contains(&path.remote.port())) {
            return;
        }
        self.world.rebind(process);
        let _ = self.world.say(process, "#lobby", "from elsewhere");
        let moved = |world: &World| {
            let now = session(world, process);
            // A client that looks for its server elsewhere meanwhile is followed there, in its time.
            path(world) != begin
                || now.is_some_and(|now| Some(now.remote) == world.client(process).address)
        };
        // Half a round trip until its first packet is there.
        let rtt = before.rtt.unwrap_or(before.pto);
        let limit = rtt + rtt / 2 + before.pto + LATE;
        if !self.world.run_until(limit, moved) {
            self.world.fail(&format!("oracle 11: a rebinding was not followed in {limit:?}"));
        }
        self.world.run(Duration::from_secs(2));
        if self::ends(&self.world, &[process]) != ends {
            self.world.fail("oracle 11: a rebinding ended a session");
        }
    }

    /// Whoever only forwards copies, however fast, never becomes the path.
    fn rehearse_forwarder(&mut self) {
        let Some(process) = self.rng.pick(&self.everybody()).copied() else { return };
        let _ = self.world.say(process, "#lobby", "here I am");
        let path = |world: &World| world.client_machine(process).and_then(Client::path);
        let before = path(&self.world);
        self.world.run(Duration::from_secs(2));
        let begin = path(&self.world);
        // Who is on the way to another path, or was a moment ago, answers at none yet that its server
        // knows, and a late driver after the PTO.
        let known = session(&self.world, process).map(|session| session.remote);
        let moves = begin != before || known != self.world.client(process).address;
        if moves || self.world.is_lazy(process) {
            return;
        }
        self.forward(process);
        for _ in 0..self.rng.range(3..=20) {
            let _ = self.world.say(process, "#lobby", "overheard");
            let until = self.world.now() + self.rng.range(1_000..=600_000);
            while self.world.step(until) {
                let forwarder = self.world.forwarders.get(&process).copied();
                let captured = session(&self.world, process).map(|s| s.remote) == forwarder;
                if captured && path(&self.world) == begin {
                    self.world.fail("oracle 11: a forwarder of copies captured a path");
                }
            }
        }
        self.forward(process);
        self.world.run(Duration::from_secs(2));
    }

    /// However long a client sleeps, and whatever the server does meanwhile: it finds the server.
    fn rehearse_sleep(&mut self) {
        let Some(process) = self.rng.pick(&self.everybody()).copied() else { return };
        let interval = self.world.setup.interval;
        let slots = if self.brief || interval > 600 { 2 } else { 20 };
        // Who waits for a disk that never answers begins no session before it gives that up.
        if self.world.now() < self.world.client(process).lost_until {
            return;
        }
        let secs = self.rng.range(0..=slots * interval);
        let file = self.world.client(process).file.and_then(|file| self.world.stored_file(file));
        if file.is_none_or(|file| file.valid_until < self.world.server_secs() + secs + 600) {
            return;
        }
        self.world.sleep(process, Duration::from_secs(secs));
        let skew = self.world.setup.skew;
        let ahead = self.rng.range(0..=2 * skew).cast_signed() - skew.cast_signed();
        self.world.set_clock(process, ahead);
        if self.rng.chance(300) {
            self.world.crash_server();
            self.world.start_server();
        }
        self.world.run(Duration::from_secs(secs));
        let there = |world: &World| {
            session(world, process).is_some_and(|_| world.client(process).connected)
        };
        self.world.run(IDLE_TIMEOUT);
        if !self.world.run_until(FOUND, there) {
            self.world.fail(&format!("oracle 9: {process:?} slept {secs} s and finds no server"));
        }
        self.settle();
    }

    /// Two members, one of whom sends the other a file.
    fn sender_and_receiver(&mut self) -> Option<(Process, Process, String)> {
        let mut everybody = self.everybody();
        self.rng.shuffle(&mut everybody);
        let [from, to, ..] = everybody[..] else { return None };
        Some((from, to, format!("@{}", self.world.client(to).member)))
    }

    /// A file goes while keys and port rotate and paths change, and no session ends by it.
    fn rehearse_transfer(&mut self) {
        let Some((from, to, name)) = self.sender_and_receiver() else { return };
        let ends = ends(&self.world, &[from, to]);
        // So slow that the port rotates meanwhile.
        let slow = self.world.setup.scheduled && self.world.setup.interval == 60;
        if slow {
            let link = Link { rate: 20_000, queue: 60_000, mtu: 1_500, ..Link::CLEAN };
            self.world.net.set_both(from, link);
        }
        let size = self.rng.range(200_000..=if slow { 1_200_000 } else { 2_500_000 });
        let Ok(id) = self.world.send_file(from, &name, size) else { return };
        for _ in 0..self.rng.range(2..=8) {
            let who = if self.rng.chance(500) { from } else { to };
            match self.rng.below(4) {
                0 => self.world.rotate_by_client(who),
                1 => self.world.rotate_by_server(None),
                // What waits at a slow link comes from the old address for seconds: the port may close
                // before the server has followed.
                2 if !slow => self.world.rebind(who),
                _ => {
                    let _ = self.world.say(who, "#lobby", "meanwhile");
                }
            }
            self.world.run(Duration::from_millis(self.rng.range(1..=150)));
        }
        let sender = self.world.client(from).member.clone();
        let receiver = self.world.client(to).member.clone();
        let there = |world: &World| world.oracles.files.is_finished(&receiver, &sender, id);
        if !self.world.run_until(Duration::from_secs(200), there) {
            self.world.fail(&format!("oracle 13: a file of {size} bytes does not arrive"));
        }
        self.world.net.set_all(Link::CLEAN);
        self.world.run(Duration::from_secs(2));
        if self::ends(&self.world, &[from, to]) != ends {
            self.world.fail("oracle 13: a session ended while a file went");
        }
    }

    /// What has arrived of a file does not come again after a crash of either side.
    fn rehearse_resumption(&mut self) {
        let Some((from, to, name)) = self.sender_and_receiver() else { return };
        for (process, way) in [(from, Way::Up), (from, Way::Down), (to, Way::Up), (to, Way::Down)] {
            self.world.net.set(process, way, Link { jitter: 0, ..Link::CLEAN });
        }
        let (sender, receiver) =
            (self.world.client(from).member.clone(), self.world.client(to).member.clone());
        let size = self.rng.range(300_000..=2_500_000);
        let Ok(id) = self.world.send_file(from, &name, size) else { return };
        let whose = if self.rng.chance(500) { Who::Server } else { Who::Client(to) };
        let part = size / 10 * self.rng.range(1..=8);
        let began = |world: &World| world.file_bytes(whose, &sender, id, size) >= part;
        self.world.expect("a part of a file", Duration::from_secs(60), began);
        let crashed: &[Process] = match self.rng.below(3) {
            0 => &[from],
            1 => &[to],
            _ => {
                self.world.crash_server();
                &[from, to]
            }
        };
        let lazy = self.world.setup.lazy > 0;
        crashed.iter().for_each(|process| self.world.crash_client(*process));
        let held = |world: &World, who| world.file_bytes(who, &sender, id, size);
        let held = held(&self.world, Who::Server) + held(&self.world, Who::Client(to));
        let missing = 2 * size - held;
        self.tend(true);
        for name in [&sender, &receiver] {
            // A file that expired meanwhile is replaced first.
            if self.world.living(name).is_none() {
                self.world.run(Duration::from_secs(1));
                self.tend(true);
            }
        }
        let back = |world: &World| {
            let back = |name: &str| {
                let process = world.living(name)?;
                session(world, process).filter(|_| world.client(process).connected)
            };
            back(&sender).is_some() && back(&receiver).is_some()
        };
        let before = self.world.file_traffic;
        if !crashed.contains(&from) || !crashed.contains(&to) {
            // What is still sent to who is no longer there does not count.
            self.world.expect("a new session", Duration::from_secs(120), back);
        }
        let before = if crashed == [to] { self.world.file_traffic } else { before };
        let there = |world: &World| world.oracles.files.is_finished(&receiver, &sender, id);
        if !self.world.run_until(Duration::from_secs(200), there) {
            self.world.fail(&format!("oracle 13: a file of {size} bytes does not arrive"));
        }
        self.world.run(Duration::from_secs(2));
        let sent = self.world.file_traffic - before;
        // A driver that is late delays acknowledgements, and what they are for goes again.
        let most = if lazy { missing * 2 } else { missing + missing / 4 } + 50_000;
        if sent > most {
            self.world.fail(&format!(
                "oracle 13: {sent} bytes of a file of {size}, of which {missing} were missing"
            ));
        }
        self.world.net.set_all(Link::CLEAN);
        self.settle();
    }

    /// COMPROMISED wipes both sides of a member, and nobody else's session ends.
    fn rehearse_compromise(&mut self) {
        let member = MEMBERS[self.rng.index(MEMBERS.len())];
        let Some(process) = self.world.living(member) else { return };
        let Some(file) = self.world.client(process).file else { return };
        let others: Vec<_> = self.everybody().into_iter().filter(|p| *p != process).collect();
        let ends = ends(&self.world, &others);
        if self.rng.chance(500) {
            self.world.declare(process);
        } else {
            self.world.with_server(|s, now| s.declare_compromised(now, member, "a rehearsal"));
        }
        self.world.run(Duration::from_secs(15));
        let node = self.world.client(process);
        if !node.wiped || !node.file_gone || node.connected {
            self.world.fail(&format!("oracle 8: {process:?} of {member} is not wiped"));
        }
        if self.world.disk.retired_at(file).is_none() {
            self.world.fail(&format!("oracle 8: file {file} of {member} is not retired"));
        }
        // The old port closes, and whoever had not moved would notice.
        self.world.run(Duration::from_secs(60) + IDLE_TIMEOUT + Duration::from_secs(5));
        if self::ends(&self.world, &others) != ends {
            self.world.fail("oracle 8: another member's session ended by COMPROMISED");
        }
        self.settle();
    }
}

/// What the server says of a client's session.
fn session(world: &World, process: Process) -> Option<SessionStatus> {
    let connection = world.client_machine(process)?.connection_id()?;
    let sessions = world.server_machine()?.sessions();
    sessions.into_iter().find(|session| session.connection_id == connection)
}

fn count(
    world: &World,
    processes: &[Process],
    wanted: impl Fn(&client::Event) -> bool,
) -> Vec<usize> {
    let events = processes.iter().map(|process| &world.client(*process).events);
    events.map(|events| events.iter().filter(|event| wanted(event)).count()).collect()
}

/// How often each rotated its keys.
fn rotations(world: &World, processes: &[Process]) -> Vec<usize> {
    count(world, processes, |event| matches!(event, client::Event::KeysRotated { .. }))
}

/// How often the session of each ended.
fn ends(world: &World, processes: &[Process]) -> Vec<usize> {
    let ended = |event: &client::Event| {
        matches!(event, client::Event::Disconnected { .. } | client::Event::Closed(_))
    };
    count(world, processes, ended)
}
