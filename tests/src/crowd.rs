//! A crowd of real clients that chat through a real server, and what was said and shown.
//!
//! Each client is one long-lived `clawchat chat` that both writes and shows. Whatever it prints is
//! read, also what it printed in the moment before it was killed.

use crate::net::Rng;
use crate::process::{Member, PATIENCE, Process, Sandbox, Server, program, run};
use core::fmt;
use core::time::Duration;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// How often the crowd is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// A client that comes back may meet a server that is away just then.
const START: &str = "180s";

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Lobby,
    Seat(usize),
}

/// What is known of a message's way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Typed, and perhaps taken by the client.
    Open,
    /// Its sender was told `stored`.
    Stored,
    /// Its sender was killed before it was told.
    Unsure,
}

#[derive(Debug)]
struct Sent {
    from: usize,
    to: To,
    fate: Fate,
}

/// What one process of a client showed, in order.
type Life = Vec<usize>;

#[derive(Debug)]
struct Seat {
    member: Member,
    process: Option<Process>,
    /// When a killed one is started again.
    again: Option<Instant>,
    /// Typed, not yet said to be on its way.
    typed: VecDeque<usize>,
    /// On its way under the id that `chat` shows, not yet said to be stored.
    on_the_way: Vec<(String, usize)>,
    /// What was on its way when the process was killed.
    left_behind: Vec<(String, usize)>,
    lives: Vec<Life>,
    /// Key rotations and lost connections of the present life.
    rotations: u64,
    disconnects: u64,
}

/// How it went, in figures.
#[derive(Debug)]
pub struct Report {
    clients: usize,
    rotations: usize,
    sent: usize,
    stored: usize,
    shown: usize,
    client_kills: usize,
    server_kills: usize,
    shown_again: usize,
    took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} clients, {} port rotations, {} messages sent, {} stored, shown {} times, {} again; \
             {} kills of clients, {} of the server; {:.1} s",
            self.clients,
            self.rotations,
            self.sent,
            self.stored,
            self.shown,
            self.shown_again,
            self.client_kills,
            self.server_kills,
            self.took.as_secs_f64()
        )
    }
}

/// A server, its clients, and all that was said.
#[derive(Debug)]
pub struct Crowd<'a> {
    sandbox: &'a Sandbox,
    rng: Rng,
    server: Server,
    seats: Vec<Seat>,
    sent: Vec<Sent>,
    /// All port numbers that the server was at, one after another.
    ports: Vec<u16>,
    started: Instant,
    client_kills: usize,
    server_kills: usize,
}

impl<'a> Crowd<'a> {
    /// A server whose keys and port rotate each `seconds`, and this many clients, all connected.
    #[must_use]
    pub fn new(sandbox: &'a Sandbox, rng: Rng, clients: usize, seconds: u64) -> Self {
        // The binaries are there before the clock starts.
        let _built = program("clawchat-server");
        let started = Instant::now();
        let every = format!("{seconds}s");
        let server = sandbox.serve_with(&["--port", "auto", "--rotate-every", &every]);
        let ports = vec![server.port];
        let (sent, client_kills, server_kills) = (Vec::new(), 0, 0);
        let names = (0..clients).map(|n| sandbox.issue(&format!("c{n:02}")));
        let seats = names.map(|member| Seat::new(sandbox, member)).collect();
        let mut crowd =
            Self { sandbox, rng, server, seats, sent, ports, started, client_kills, server_kills };
        for seat in crowd.seats.iter_mut().filter_map(|seat| seat.process.as_mut()) {
            seat.complains("connected to");
        }
        // From here on rotations count.
        crowd.look();
        crowd.ports.drain(..crowd.ports.len() - 1);
        crowd
    }

    /// How often the server has moved to another port since all were connected.
    #[must_use]
    pub fn rotations(&self) -> usize {
        self.ports.len() - 1
    }

    /// How often the server was killed.
    #[must_use]
    pub const fn server_kills(&self) -> usize {
        self.server_kills
    }

    /// Reads what everybody said, and starts whom it is time to start again.
    pub fn look(&mut self) {
        std::thread::sleep(LOOK);
        for line in self.server.process.news() {
            let event: Value = serde_json::from_str(&line).expect("the server says JSON");
            if event["event"] == "port_rotated" {
                let to = event["to"].as_u64().and_then(|port| u16::try_from(port).ok());
                self.ports.push(to.expect("a port has 16 bits"));
            }
        }
        for at in 0..self.seats.len() {
            self.listen_to(at);
            let seat = &mut self.seats[at];
            if seat.again.is_some_and(|at| at <= Instant::now()) {
                seat.start(self.sandbox);
            }
        }
    }

    fn listen_to(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let Some(process) = &mut seat.process else { return };
        let news = process.news();
        assert!(!process.has_ended(), "a client ended by itself: {process}");
        news.iter().for_each(|line| self.heard(at, line));
    }

    /// A client printed a line.
    fn heard(&mut self, at: usize, line: &str) {
        let seat = &mut self.seats[at];
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["…", id, "to", _] => {
                let sent = seat.typed.pop_front().expect("it was typed");
                seat.on_the_way.push(((*id).to_owned(), sent));
            }
            [">", id, "stored"] => {
                let own = |(own, _): &(String, usize)| own == id;
                if let Some(of) = seat.on_the_way.iter().position(own) {
                    let (_, sent) = seat.on_the_way.remove(of);
                    self.sent[sent].fate = Fate::Stored;
                } else if let Some((_, sent)) = seat.left_behind.iter().find(|left| own(left)) {
                    // The server kept the receipt for whom was killed before it came.
                    self.sent[*sent].fate = Fate::Stored;
                } else {
                    let first = seat.lives.len() == 1 && seat.disconnects == 0;
                    assert!(!first, "{line}, which {} never sent", seat.member.name);
                }
            }
            [_, from, "→", to, text] => {
                let sent = text.strip_prefix('m').and_then(|number| number.parse().ok());
                let sent: usize = sent.unwrap_or_else(|| panic!("nobody said `{line}`"));
                let said = &self.sent[sent];
                let to_name = match said.to {
                    To::Lobby => "#lobby:".to_owned(),
                    To::Seat(to) => format!("@{}:", self.seats[to].member.name),
                };
                let author = &self.seats[said.from].member.name;
                assert_eq!((from, to), (&author.as_str(), &to_name.as_str()), "{line}");
                self.seats[at].lives.last_mut().expect("it lives").push(sent);
            }
            ["keys", "rotated,", ..] => seat.rotations += 1,
            ["disconnected", ..] => seat.disconnects += 1,
            ["!", ..] => panic!("{} was refused: {line}", seat.member.name),
            _ => {}
        }
    }

    /// Somebody who is there says something to somebody.
    pub fn say_something(&mut self) {
        let from = self.rng.index(self.seats.len());
        let to = match self.rng.index(4) {
            0 => To::Lobby,
            _ => To::Seat((from + 1 + self.rng.index(self.seats.len() - 1)) % self.seats.len()),
        };
        let name = match to {
            To::Lobby => "#lobby".to_owned(),
            To::Seat(to) => format!("@{}", self.seats[to].member.name),
        };
        let seat = &mut self.seats[from];
        let Some(process) = &mut seat.process else { return };
        process.type_line(&format!("/to {name}\nm{}", self.sent.len()));
        seat.typed.push_back(self.sent.len());
        self.sent.push(Sent { from, to, fate: Fate::Open });
    }

    /// Kills a client in the middle of whatever it does. It comes back within a second.
    pub fn kill_a_client(&mut self) {
        let at = self.rng.index(self.seats.len());
        let again = Instant::now() + Duration::from_millis(self.rng.range(0..=800));
        let seat = &mut self.seats[at];
        let Some(mut process) = seat.process.take() else { return };
        seat.again = Some(again);
        process.kill();
        process.rest().iter().for_each(|line| self.heard(at, line));
        self.give_up(at);
        self.client_kills += 1;
    }

    /// Of what a dead process had not said to be stored nobody knows what became of it.
    fn give_up(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let on_the_way = seat.on_the_way.iter().map(|(_, sent)| *sent);
        for sent in on_the_way.chain(seat.typed.drain(..)) {
            self.sent[sent].fate = Fate::Unsure;
        }
        seat.left_behind.append(&mut seat.on_the_way);
    }

    /// Kills the server in the middle of whatever it does, and starts it again within a second.
    pub fn kill_the_server(&mut self) {
        self.look();
        self.server.process.kill();
        self.server.process.rest();
        let until = Instant::now() + Duration::from_millis(self.rng.range(0..=800));
        while Instant::now() < until {
            self.look();
        }
        self.server = self.sandbox.serve_with(&[]);
        if self.ports.last() != Some(&self.server.port) {
            self.ports.push(self.server.port);
        }
        self.server_kills += 1;
    }

    /// Waits until everybody is here, all is stored, and whoever should see a message has seen it.
    ///
    /// # Panics
    /// When that does not come in time.
    pub fn settle(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        while let Some(open) = self.open() {
            assert!(Instant::now() < deadline, "{open}\nin {self}");
            self.look();
        }
    }

    /// Something that is not settled yet.
    fn open(&self) -> Option<String> {
        for seat in &self.seats {
            let name = &seat.member.name;
            if seat.process.is_none() {
                return Some(format!("{name} is away"));
            }
            if let Some(sent) =
                seat.typed.front().or_else(|| seat.on_the_way.first().map(|(_, sent)| sent))
            {
                return Some(format!("m{sent} of {name} is not stored"));
            }
        }
        self.missing().map(|(at, sent)| {
            format!("{} did not see m{sent} of which was told: stored", self.seats[at].member.name)
        })
    }

    /// A message whose sender was told `stored`, and a client that should have shown it, and has not.
    fn missing(&self) -> Option<(usize, usize)> {
        self.seats.iter().enumerate().find_map(|(at, seat)| {
            let mut shown = vec![false; self.sent.len()];
            seat.lives.iter().flatten().for_each(|sent| shown[*sent] = true);
            let mut all = self.sent.iter().enumerate();
            let missing = all.find(|(number, sent)| {
                let meant = match sent.to {
                    To::Lobby => sent.from != at,
                    To::Seat(to) => to == at,
                };
                meant && sent.fate == Fate::Stored && !shown[*number]
            })?;
            Some((at, missing.0))
        })
    }

    /// Checks that nothing was shown twice: never by one process, and by the next one only what stood
    /// last on the screen when the one before it was killed, for it may have died between showing that
    /// and noting that it had. How often the latter happened.
    ///
    /// # Panics
    /// When something was shown twice, to the wrong client, or before what its sender had said earlier.
    #[must_use]
    pub fn check_once(&self) -> usize {
        let mut again = 0;
        for (at, seat) in self.seats.iter().enumerate() {
            let name = &seat.member.name;
            let mut lasts: BTreeMap<usize, bool> = BTreeMap::new();
            for life in &seat.lives {
                let mut newest: BTreeMap<usize, usize> = BTreeMap::new();
                for (number, sent) in life.iter().enumerate() {
                    let said = &self.sent[*sent];
                    let meant = said.to == To::Seat(at) || said.to == To::Lobby;
                    assert!(meant && said.from != at, "{name} saw m{sent}, not meant for it");
                    let before = newest.insert(said.from, *sent);
                    let in_order = before.is_none_or(|before| before < *sent);
                    assert!(in_order, "{name} saw m{sent} twice or after a later one: {life:?}");
                    let last = number + 1 == life.len();
                    if let Some(was_last) = lasts.insert(*sent, last) {
                        assert!(was_last, "{name} saw m{sent} in two lives: {:?}", seat.lives);
                        again += 1;
                    }
                }
            }
        }
        again
    }

    /// Checks that no client lost its connection, and that each had new keys at each rotation, but for
    /// one that was announced before it came.
    ///
    /// # Panics
    /// When one did, or had not.
    pub fn check_undisturbed(&self) {
        for seat in &self.seats {
            assert_eq!(seat.disconnects, 0, "{} lost its connection: {self}", seat.member.name);
            let rotations = self.rotations() as u64;
            assert!(seat.rotations + 1 >= rotations, "{} has old keys: {self}", seat.member.name);
        }
    }

    /// Checks that the server closes the ports that it has left: beside the present one only the one
    /// before it or the next is open.
    ///
    /// # Panics
    /// When more stay open.
    pub fn check_ports(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(open) = udp_sockets(self.server.process.id()).filter(|open| *open > 2) {
            assert!(Instant::now() < deadline, "{open} ports are open: {self}");
        }
    }

    /// All leave, and the server is stopped: each ends well, and nothing is left to deliver.
    ///
    /// # Panics
    /// When one does not, or something is.
    #[must_use]
    pub fn end(mut self) -> Report {
        self.wait_until_nothing_waits();
        for at in 0..self.seats.len() {
            let mut process = self.seats[at].process.take().expect("it is here");
            process.type_line("/quit");
            process.rest().iter().for_each(|line| self.heard(at, line));
            drop(process.end().expect(0));
        }
        let shown_again = self.check_once();
        self.server.process.signal(Signal::TERM);
        let (clients, rotations) = (self.seats.len(), self.rotations());
        drop(self.server.process.end().expect(0));
        Report {
            clients,
            rotations,
            sent: self.sent.len(),
            stored: self.sent.iter().filter(|sent| sent.fate == Fate::Stored).count(),
            shown: self.seats.iter().flat_map(|seat| &seat.lives).map(Vec::len).sum(),
            client_kills: self.client_kills,
            server_kills: self.server_kills,
            shown_again,
            took: self.started.elapsed(),
        }
    }
}

impl Crowd<'_> {
    /// Nothing is left that the server would deliver to a client again.
    fn wait_until_nothing_waits(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let members = run(self.sandbox.server(&["members", "--json"])).expect(0).json();
            let members = members["members"].as_array().expect("a list of members");
            let ours = |member: &&Value| member["name"] != "owner" && member["waiting"] != 0;
            let Some(waiting) = members.iter().find(ours) else { return };
            assert!(Instant::now() < deadline, "{waiting} in {self}");
        }
    }
}

impl fmt::Display for Crowd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.server.process.tail())?;
        for seat in &self.seats {
            let (typed, on_the_way) = (&seat.typed, &seat.on_the_way);
            write!(f, "\n{}: typed {typed:?}, on the way {on_the_way:?}", seat.member.name)?;
            if let Some(process) = &seat.process {
                write!(f, "\n{}", process.tail())?;
            }
        }
        Ok(())
    }
}

/// How many UDP sockets a process has; `None` where the kernel does not tell.
fn udp_sockets(pid: u32) -> Option<usize> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let names = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let own: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let all = std::fs::read_to_string("/proc/net/udp").ok()?;
    let inodes = all.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9));
    Some(inodes.filter(|inode| own.contains(&format!("socket:[{inode}]"))).count())
}

impl Seat {
    fn new(sandbox: &Sandbox, member: Member) -> Self {
        let mut seat = Self {
            member,
            process: None,
            again: None,
            typed: VecDeque::new(),
            on_the_way: Vec::new(),
            left_behind: Vec::new(),
            lives: Vec::new(),
            rotations: 0,
            disconnects: 0,
        };
        seat.start(sandbox);
        seat
    }

    fn start(&mut self, sandbox: &Sandbox) {
        let chat = sandbox.client_of(&self.member, &["chat", "--timeout", START]);
        self.process = Some(Process::start_typing(chat));
        self.again = None;
        (self.rotations, self.disconnects) = (0, 0);
        self.lives.push(Life::new());
    }
}
