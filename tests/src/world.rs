//! A world of one server, its clients, the network between them and an attacker, over virtual time.
//!
//! Nothing in it is real: no clock, socket, thread or randomness of the operating system. One seed
//! decides everything, so that a run can be repeated bit for bit. After every step the oracles are
//! asked; the first complaint ends the run with the seed and the last lines of its transcript.

use crate::disk::{Disk, duplicate};
use crate::eve::{EVE, Eve, Post};
use crate::files::{Deed, Files, Hosted, Stores};
use crate::lazy::{FLOOD, Machine, Output, drain_all, drain_some};
use crate::nat::{Kind, Nat};
use crate::net::{Link, Net, Rng, Way};
use crate::oracle::{Chats, Epochs, Verdict, Who, Wire, honest_end, is_hello, kind, may_connect};
use crate::sessions::Sessions;
use crate::transcript::{Transcript, digest};
use clawchat_core::client::{self, Client, ClientConfig};
use clawchat_core::crypto::aead::{CipherProvider, RustCrypto};
use clawchat_core::error::{CloseReason, ErrorCode, SendError};
use clawchat_core::id::{ChatId, Epoch, FileId, OpId, PortId};
use clawchat_core::limits::{DATAGRAM_MAX, KeyLimits, ROTATION_MAX, SESSIONS};
use clawchat_core::ops::{Outcome, Want};
use clawchat_core::random::Seed;
use clawchat_core::secret::Secret;
use clawchat_core::server::{
    self, Member, PortChoice, RENEWAL_VALID_FOR, Server, ServerConfig, Timing,
};
use clawchat_core::time::{Duration, Instant, Now, UnixMs};
use clawchat_core::transport::path::Path;
use clawchat_core::wire::header::PacketType;
use clawchat_core::wire::message::{LOBBY, ReceiptState, Recipient, SERVER_MEMBER};
use clawchat_core::wire::secfile::{PortSchedule, SecurityFile};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};

/// Where the server is.
pub const SERVER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Where it is for those who have IPv6.
pub const SERVER_IP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// Its port, unless its ports are scheduled.
pub const SERVER_PORT: u16 = 54_321;
/// The wall clock of a machine without skew when the world begins.
const BEGIN: u64 = 1_772_000_000_000;
/// A machine whose deadline never moves on spins.
const SPINS: u32 = 200;

/// Writes a line of the transcript, if there is one: most worlds are played for their verdict alone.
macro_rules! line {
    ($world:expr, $($text:tt)*) => {
        if $world.transcript.is_kept() {
            let text = format!($($text)*);
            $world.line(text);
        }
    };
}

/// One run of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process(pub usize);

/// The clocks of one machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Where its monotonic clock stood when the world began, microseconds.
    pub origin: u64,
    /// How far its wall clock is ahead, milliseconds.
    pub ahead: i64,
    /// How fast its wall clock is, parts per million too much.
    pub drift: i64,
}

impl Clock {
    pub(crate) fn at(&self, world: u64) -> Now {
        let ms = i64::try_from(world / 1000).unwrap_or(i64::MAX);
        let shift = self.ahead + ms * self.drift / 1_000_000;
        let wall = UnixMs((BEGIN + world / 1000).saturating_add_signed(shift));
        Now { mono: Instant::from_micros(self.origin + world), wall }
    }
}

/// How a world begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The one source of chance.
    pub seed: u64,
    /// Members and the rooms they are in beside the lobby.
    pub members: Vec<(&'static str, Vec<&'static str>)>,
    /// Most established sessions.
    pub max_sessions: usize,
    /// Ports by the keyed schedule.
    pub scheduled: bool,
    /// Whether drivers may be late: chance per mille, for each machine.
    pub lazy: u64,
    /// Most that a wall clock is ahead or behind, milliseconds.
    pub skew: u64,
    /// Seconds between two rotations of keys and port.
    pub interval: u64,
    /// The ciphers of both sides.
    pub provider: &'static dyn CipherProvider,
    /// What one epoch's keys may carry.
    pub key_limits: KeyLimits,
    /// Whether clients are behind address translators.
    pub nat: bool,
    /// Whether clients know the server by IPv6 too.
    pub dual: bool,
    /// How to run this again.
    pub rerun: String,
    /// Lines of the transcript that the report of a failure shows.
    pub lines: usize,
}

impl Setup {
    /// Two members, ann and bob, and room `ops` of ann and cid, who is there too.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            members: vec![("ann", vec!["ops"]), ("bob", vec![]), ("cid", vec!["ops"])],
            max_sessions: SESSIONS,
            scheduled: false,
            lazy: 0,
            skew: 0,
            interval: 3600,
            provider: &RustCrypto,
            key_limits: KeyLimits::default(),
            nat: false,
            dual: false,
            rerun: "cargo test -p clawchat-tests".to_string(),
            lines: 100,
        }
    }
}

/// A machine and its driver.
#[derive(Debug)]
pub(crate) struct Host<M> {
    pub(crate) machine: M,
    pub(crate) clock: Clock,
    /// The driver's own chance, when it is late.
    pub(crate) lazy: Option<Rng>,
    /// Bytes that it asked for, and has not handed over.
    pub(crate) want: Option<Want>,
    /// When the timer is set to, world time.
    armed: Option<u64>,
    /// When it will drain outputs.
    draining: Option<u64>,
    /// Timers in a row without time passing.
    spins: (u64, u32),
}

impl<M: Machine> Host<M> {
    const fn new(machine: M, clock: Clock, lazy: Option<Rng>) -> Self {
        Self { machine, clock, lazy, want: None, armed: None, draining: None, spins: (0, 0) }
    }

    fn spun(&mut self, now: u64) -> bool {
        self.spins = if self.spins.0 == now { (now, self.spins.1 + 1) } else { (now, 0) };
        self.spins.1 > SPINS
    }

    /// When to set the timer to, if it has to be set.
    fn arm(&mut self, now: u64) -> Option<u64> {
        let at = self.machine.deadline()?.as_micros().saturating_sub(self.clock.origin).max(now);
        (self.armed.replace(at) != Some(at)).then_some(at)
    }
}

/// The server's machine and what its host holds.
#[derive(Debug, Default)]
pub struct ServerNode {
    pub(crate) host: Option<Host<Server>>,
    /// Its transfers.
    pub(crate) files: Hosted,
    /// How often it was started.
    pub run: u32,
    ports: BTreeMap<u16, PortId>,
    clock: Clock,
    /// What it told, all runs together.
    pub events: Vec<server::Event>,
    /// Next bindings that find their port taken.
    pub ports_taken: u32,
}

/// A client's process: its machine, if it lives, and what its host holds.
#[derive(Debug)]
pub struct ClientNode {
    pub(crate) host: Option<Host<Client>>,
    /// Its transfers.
    pub(crate) files: Hosted,
    /// Whose file it has.
    pub member: String,
    /// Which file it has, if an issued one.
    pub file: Option<FileId>,
    /// Its outside address, once bound; the last of them.
    pub address: Option<SocketAddr>,
    /// What translates its addresses.
    pub nat: Nat,
    /// It is suspended until then, world time.
    pub asleep_until: u64,
    /// `timestamp` of the security file that it began with.
    began_with: u64,
    /// When its disk is idle again, world time.
    disk_busy: u64,
    /// Until when it waits for a completion that never comes, world time.
    pub lost_until: u64,
    /// What it told.
    pub events: Vec<client::Event>,
    /// When it was started, world time.
    pub started: u64,
    /// When a datagram of its server last reached it, world time.
    pub heard: u64,
    /// Whether it has a session.
    pub connected: bool,
    /// Why it closed, if it did.
    pub closed: Option<CloseReason>,
    /// Whether COMPROMISED wiped it.
    pub wiped: bool,
    /// Whether its security file is gone from its disk.
    pub file_gone: bool,
    sessions: u64,
}

/// A datagram as it was emitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emission {
    /// When, world time.
    pub at: u64,
    /// By whom.
    pub from: Who,
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes.
    pub datagram: Vec<u8>,
}

#[derive(Debug)]
pub(crate) enum Happening {
    Arrive { to: SocketAddr, from: SocketAddr, datagram: Vec<u8> },
    Timer(Who),
    Drain(Who),
    Perform { run: u32, action: server::Action },
    Complete { who: Who, run: u32, op: OpId, outcome: Outcome },
    Bound { run: u32, op: OpId, port: PortId, number: u16 },
    ClientBound { process: Process, op: OpId },
    Eve(Post),
    File { who: Who, run: u32, deed: Deed },
    ClientWiped { process: Process, op: OpId, ok: bool },
    ClientStored { process: Process, op: OpId, content: Box<SecurityFile>, told: bool },
}

/// What is asked after every step.
#[derive(Debug, Default)]
pub struct Oracles {
    /// Chat.
    pub chats: Chats,
    /// Files.
    pub files: Files,
    /// The wire.
    pub wire: Wire,
    /// Epochs.
    pub epochs: Epochs,
    /// Sessions.
    pub sessions: Sessions,
    complaint: Option<String>,
    /// Receipts that are judged once all readers have told what they saw.
    receipts: Vec<(String, ChatId, ReceiptState, String)>,
}

impl Oracles {
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        if let Err(complaint) = verdict {
            self.complaint.get_or_insert(complaint);
        }
    }
}

/// The world.
#[derive(Debug)]
pub struct World {
    pub(crate) setup: Setup,
    now: u64,
    /// Chance, for whoever plays in this world.
    pub rng: Rng,
    serial: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    /// The network.
    pub net: Net,
    /// The server's disk.
    pub disk: Disk,
    /// Files on all disks.
    pub(crate) files: Stores,
    /// The server.
    pub server: ServerNode,
    pub(crate) clients: Vec<ClientNode>,
    addresses: BTreeMap<SocketAddr, Process>,
    /// A hostile member, if there is one.
    pub(crate) eve: Option<Eve>,
    /// What must hold.
    pub oracles: Oracles,
    /// What happened.
    pub transcript: Transcript,
    /// Bytes of datagrams of files that were emitted.
    pub file_traffic: u64,
    /// Datagrams emitted from here on are kept, when it is there.
    pub tap: Option<Vec<Emission>>,
    /// Chance that wiping a security file fails, per mille.
    pub wipe_fails: u64,
    /// The security files on clients' disks.
    stored: BTreeMap<FileId, SecurityFile>,
    /// Files that a client was started with.
    begun: BTreeSet<FileId>,
    /// Files whose user raised COMPROMISED: whatever becomes of them is fine.
    given_up: BTreeSet<FileId>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Datagrams handed to the server, to whichever run of it.
    taken: BTreeSet<u64>,
    /// Datagrams handed to clients that had a session, by process.
    taken_by_clients: BTreeSet<u64>,
    /// The same, by whichever process.
    taken_by_any: BTreeSet<u64>,
    /// Attackers who send on a copy of all that a client sends, faster than the network, and bring it
    /// what comes back.
    pub(crate) forwarders: BTreeMap<Process, SocketAddr>,
    pub(crate) out: Vec<u8>,
}

impl World {
    /// A world whose server is about to bind its port.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let drift = rng.range(0..=200).cast_signed() - 100;
        let clock = Clock { origin: rng.below(1 << 40), ahead: 0, drift };
        let transcript = Transcript::new(setup.lines);
        let mut world = Self {
            setup,
            now: 0,
            rng,
            serial: 0,
            queue: BTreeMap::new(),
            net: Net::default(),
            disk: Disk::default(),
            files: Stores::default(),
            server: ServerNode { clock, ..ServerNode::default() },
            clients: Vec::new(),
            addresses: BTreeMap::new(),
            eve: None,
            oracles: Oracles::default(),
            transcript,
            file_traffic: 0,
            tap: None,
            wipe_fails: 0,
            stored: BTreeMap::new(),
            begun: BTreeSet::new(),
            given_up: BTreeSet::new(),
            faults: BTreeMap::new(),
            taken: BTreeSet::new(),
            taken_by_clients: BTreeSet::new(),
            taken_by_any: BTreeSet::new(),
            forwarders: BTreeMap::new(),
            // A longer one is permission to batch.
            out: vec![0; 2 * DATAGRAM_MAX],
        };
        world.start_server();
        world
    }

    /// World time, microseconds.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Whether a client's directions had no IP family in common for most of the time that a rotation has.
    fn was_apart(&self, process: Process) -> bool {
        self.net.apart(process).is_some_and(|since| self.now - since > micros(ROTATION_MAX) / 2)
    }

    fn line(&mut self, text: String) {
        self.transcript.line(self.now, text);
    }

    /// A fault of a kind was injected.
    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn busy_until(&self, process: Process) -> u64 {
        self.clients[process.0].disk_busy
    }

    pub(crate) fn set_busy(&mut self, process: Process, until: u64) {
        self.clients[process.0].disk_busy = until;
    }

    pub(crate) fn lose_until(&mut self, process: Process, until: u64) {
        self.clients[process.0].lost_until = until;
    }

    pub(crate) fn stored_file(&self, file: FileId) -> Option<&SecurityFile> {
        self.stored.get(&file)
    }

    pub(crate) fn stored_files(&self) -> impl Iterator<Item = (&FileId, &SecurityFile)> {
        self.stored.iter()
    }

    pub(crate) fn put_file(&mut self, file: FileId, content: SecurityFile) {
        self.stored.insert(file, content);
    }

    /// The newest file that a member can start with: on its disk, or never carried yet, and not given
    /// up.
    #[must_use]
    pub fn file_of(&self, member: &str) -> Option<FileId> {
        let of = |issued: &&crate::disk::Issued| {
            let stored = self.stored.get(&issued.file);
            let good =
                |file: &SecurityFile| self.server_secs() <= file.valid_until + file.grace_period;
            issued.member == member
                && stored.map_or_else(|| !self.begun.contains(&issued.file), good)
                && !self.is_given_up(issued.file)
        };
        self.disk.issued().iter().rev().find(of).map(|issued| issued.file)
    }

    /// A user raises COMPROMISED.
    pub fn declare(&mut self, process: Process) {
        self.given_up.extend(self.clients[process.0].file);
        self.with_client(process, |client, now| client.declare_compromised(now));
    }

    /// Whether the user of a file has given it up.
    #[must_use]
    pub fn is_given_up(&self, file: FileId) -> bool {
        self.given_up.contains(&file) || self.disk.retired_at(file).is_some()
    }

    /// Suspends a client for a time: it hears nothing, and its timers stand still.
    pub fn sleep(&mut self, process: Process, time: Duration) {
        self.fault("sleep");
        self.clients[process.0].asleep_until = self.now + micros(time);
        line!(self, "{process:?} sleeps for {time:?}");
    }

    /// Sets the wall clock of the server, or of a client.
    pub fn step_clock(&mut self, process: Option<Process>, ms: i64) {
        self.fault("clock step");
        line!(self, "the clock of {process:?} is set by {ms} ms");
        match process {
            None => {
                if ms < 0 {
                    self.oracles.wire.server_restarted();
                }
                self.server.clock.ahead += ms;
                self.server.host.iter_mut().for_each(|host| host.clock.ahead += ms);
            }
            Some(Process(index)) => {
                self.clients[index].host.iter_mut().for_each(|host| host.clock.ahead += ms);
            }
        }
    }

    /// Sets a client's wall clock to so much ahead, milliseconds.
    pub fn set_clock(&mut self, process: Process, ahead: i64) {
        self.fault("clock step");
        line!(self, "the clock of {process:?} is set to {ahead} ms");
        let host = self.clients[process.0].host.as_mut();
        host.into_iter().for_each(|host| host.clock.ahead = ahead);
    }

    /// Puts a client behind a translator of this kind.
    pub fn set_nat(&mut self, process: Process, kind: Kind) {
        self.clients[process.0].nat = Nat::new(process, kind, 120_000_000);
    }

    /// A client's translator forgets all mappings.
    pub fn rebind(&mut self, process: Process) {
        self.fault("rebinding");
        line!(self, "{process:?} is rebound");
        self.clients[process.0].nat.rebind();
    }

    pub(crate) fn push(&mut self, at: u64, happening: Happening) {
        self.serial += 1;
        self.queue.insert((at, self.serial), happening);
    }

    /// Takes the deeds of hosts out of the queue that are due at `at` or later, of those `of` names.
    pub(crate) fn take_deeds_after(
        &mut self,
        at: u64,
        of: impl Fn(Who) -> bool,
    ) -> Vec<(Who, u32, Deed)> {
        let is_deed = |_: &_, happening: &mut Happening| match happening {
            Happening::File { who, .. } => of(*who),
            _ => false,
        };
        let taken = self.queue.extract_if((at, 0).., is_deed);
        let deed = |(_, happening)| match happening {
            Happening::File { who, run, deed } => Some((who, run, deed)),
            _ => None,
        };
        taken.filter_map(deed).collect()
    }

    /// Ends the run with a complaint.
    ///
    /// # Panics
    /// Always.
    #[track_caller]
    pub fn fail(&self, complaint: &str) -> ! {
        let (seed, rerun, tail) = (self.setup.seed, &self.setup.rerun, self.transcript.tail());
        panic!("{tail}\nseed {seed} at {} µs: {complaint}\nrun again: {rerun}\n", self.now);
    }

    fn check(&mut self) {
        while let Some((author, id, state, by)) = self.oracles.receipts.pop() {
            for index in 0..self.clients.len() {
                if self.clients[index].member == by {
                    self.hear_out(Process(index));
                }
            }
            let durable = self.disk.has_chat(&author, id);
            let verdict = self.oracles.chats.receipt(&author, id, state, &by, durable);
            self.oracles.judge(verdict);
        }
        self.look();
        if let Some(complaint) = self.oracles.complaint.clone() {
            self.fail(&complaint);
        }
    }

    /// Makes the next thing happen, unless it is after `until`; false when there is none.
    pub fn step(&mut self, until: u64) -> bool {
        let Some(((at, _), _)) = self.queue.first_key_value() else { return false };
        if *at > until {
            return false;
        }
        let Some(((at, _), happening)) = self.queue.pop_first() else { return false };
        self.now = at;
        self.happen(happening);
        self.check();
        true
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + micros(time);
        while self.step(until) {}
        self.now = until;
    }

    /// Lets time pass until something holds; false when it does not within `limit`.
    pub fn run_until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + micros(limit);
        loop {
            if holds(self) {
                return true;
            }
            if !self.step(until) {
                self.now = until;
                return holds(self);
            }
        }
    }

    /// The same, and fails when it does not hold in time.
    #[track_caller]
    pub fn expect(&mut self, what: &str, limit: Duration, holds: impl Fn(&Self) -> bool) {
        if !self.run_until(limit, holds) {
            self.fail(&format!("expected within {limit:?}: {what}"));
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { to, from, datagram } => self.arrive(to, from, datagram),
            Happening::File { who, run, deed } => {
                line!(self, "{who:?} does {deed:?}");
                self.do_deed(who, run, deed);
            }
            Happening::Eve(post) => {
                let verdict = self.eve_happens(post);
                self.oracles.judge(verdict);
            }
            Happening::Timer(Who::Server) => self.server_timer(),
            Happening::Timer(Who::Client(process)) => self.client_timer(process),
            Happening::Drain(who) => self.drain_late(who),
            Happening::Perform { run, action } => {
                if run == self.server.run {
                    line!(self, "disk {}", brief(&action));
                    self.disk.perform(self.now, action);
                    self.check_stored();
                }
            }
            Happening::Complete { who, run, op, outcome } => {
                if run == self.server.run || who != Who::Server {
                    line!(self, "{who:?} op {op} {outcome:?}");
                    self.complete(who, op, outcome);
                }
            }
            Happening::Bound { run, op, port, number } => {
                if run == self.server.run {
                    self.server.ports.insert(number, port);
                    self.complete(Who::Server, op, Outcome::Done);
                }
            }
            Happening::ClientBound { process, op } => {
                let node = &mut self.clients[process.0];
                if node.host.is_some() {
                    self.addresses.extend(node.address.map(|address| (address, process)));
                    self.complete(Who::Client(process), op, Outcome::Done);
                }
            }
            Happening::ClientStored { process, op, content, told } => {
                self.client_stored(process, op, *content, told);
            }
            Happening::ClientWiped { process, op, ok } => {
                self.clients[process.0].file_gone |= ok;
                if let Some(file) = self.clients[process.0].file.filter(|_| ok) {
                    self.stored.remove(&file);
                }
                let outcome = if ok { Outcome::Done } else { Outcome::Failed };
                self.complete(Who::Client(process), op, outcome);
            }
        }
    }

    pub(crate) fn complete(&mut self, who: Who, op: OpId, outcome: Outcome) {
        match who {
            Who::Server => {
                self.with_server(|server, now| server.handle_completion(now, op, outcome));
            }
            Who::Client(process) => {
                self.with_client(process, |client, now| {
                    client.handle_completion(now, op, outcome);
                });
            }
        }
    }

    fn server_timer(&mut self) {
        let (world, Some(host)) = (self.now, &mut self.server.host) else { return };
        if host.armed != Some(world) {
            return;
        }
        host.armed = None;
        if host.spun(world) {
            self.fail("the server's deadline never moves on");
        }
        self.with_server(|server, now| server.handle_timeout(now));
    }

    fn client_timer(&mut self, process: Process) {
        let (world, Some(host)) = (self.now, &mut self.clients[process.0].host) else { return };
        if host.armed != Some(world) {
            return;
        }
        host.armed = None;
        let until = self.clients[process.0].asleep_until;
        if until > world {
            if let Some(host) = &mut self.clients[process.0].host {
                host.armed = Some(until);
            }
            self.push(until, Happening::Timer(Who::Client(process)));
            return;
        }
        let Some(host) = &mut self.clients[process.0].host else { return };
        if host.spun(world) {
            self.fail("a client's deadline never moves on");
        }
        self.with_client(process, |client, now| client.handle_timeout(now));
    }

    // Machines and their outputs.

    /// Does something to the server, then what follows; `None` while it is down.
    pub fn with_server<T>(&mut self, work: impl FnOnce(&mut Server, Now) -> T) -> Option<T> {
        let host = self.server.host.as_mut()?;
        let result = work(&mut host.machine, host.clock.at(self.now));
        self.turn(Who::Server);
        Some(result)
    }

    /// Does something to a client, then what follows; `None` when it is dead.
    pub fn with_client<T>(
        &mut self,
        process: Process,
        work: impl FnOnce(&mut Client, Now) -> T,
    ) -> Option<T> {
        let host = self.clients.get_mut(process.0)?.host.as_mut()?;
        let result = work(&mut host.machine, host.clock.at(self.now));
        self.turn(Who::Client(process));
        Some(result)
    }

    /// The server's machine, while it is up.
    #[must_use]
    pub fn server_machine(&self) -> Option<&Server> {
        self.server.host.as_ref().map(|host| &host.machine)
    }

    /// A client's machine, while it lives.
    #[must_use]
    pub fn client_machine(&self, process: Process) -> Option<&Client> {
        self.clients[process.0].host.as_ref().map(|host| &host.machine)
    }

    fn turn(&mut self, who: Who) {
        let world = self.now;
        let late = match who {
            Who::Server => {
                self.server.host.as_mut().map(|host| (&mut host.lazy, &mut host.draining))
            }
            Who::Client(Process(index)) => {
                self.clients[index].host.as_mut().map(|host| (&mut host.lazy, &mut host.draining))
            }
        };
        match late {
            None => {}
            Some((None, _)) => self.drain(who),
            Some((Some(_), Some(_))) => {}
            Some((Some(rng), draining)) => {
                let at = world + rng.range(0..=25_000);
                *draining = Some(at);
                self.push(at, Happening::Drain(who));
            }
        }
    }

    /// Takes all outputs of a machine.
    fn drain(&mut self, who: Who) {
        loop {
            match who {
                Who::Server => {
                    let Some(host) = &mut self.server.host else { return };
                    let now = host.clock.at(self.now);
                    let outputs = drain_all(&mut host.machine, now, &mut self.out);
                    self.server_outputs(outputs);
                }
                Who::Client(process) => {
                    let Some(host) = &mut self.clients[process.0].host else { return };
                    let now = host.clock.at(self.now);
                    let outputs = drain_all(&mut host.machine, now, &mut self.out);
                    self.client_outputs(process, outputs);
                }
            }
            // What they bring may be followed by a message.
            if !self.send_files(who) {
                break;
            }
        }
        self.arm(who);
    }

    /// Takes some outputs of a machine whose driver is late.
    fn drain_late(&mut self, who: Who) {
        let world = self.now;
        let more = match who {
            Who::Server => {
                let Some(host) = &mut self.server.host else { return };
                if host.draining != Some(world) {
                    return;
                }
                host.draining = None;
                let (now, Some(rng)) = (host.clock.at(world), &mut host.lazy) else { return };
                untimely(&mut host.machine, now, rng);
                let (outputs, more) = drain_some(&mut host.machine, now, rng, &mut self.out);
                self.server_outputs(outputs);
                more
            }
            Who::Client(process) => {
                let Some(host) = &mut self.clients[process.0].host else { return };
                if host.draining != Some(world) {
                    return;
                }
                host.draining = None;
                let (now, Some(rng)) = (host.clock.at(world), &mut host.lazy) else { return };
                untimely(&mut host.machine, now, rng);
                let (outputs, more) = drain_some(&mut host.machine, now, rng, &mut self.out);
                self.client_outputs(process, outputs);
                more
            }
        };
        let more = self.send_some_files(who) | more;
        if more { self.turn(who) } else { self.arm(who) }
    }

    fn arm(&mut self, who: Who) {
        let world = self.now;
        let at = match who {
            Who::Server => self.server.host.as_mut().and_then(|host| host.arm(world)),
            Who::Client(Process(index)) => {
                self.clients[index].host.as_mut().and_then(|host| host.arm(world))
            }
        };
        if let Some(at) = at {
            self.push(at, Happening::Timer(who));
        }
    }

    fn server_outputs(&mut self, outputs: Vec<Output<Server>>) {
        if outputs.len() >= FLOOD {
            self.fail("the server's outputs never end");
        }
        for output in outputs {
            match output {
                Output::Datagram(path, datagram) => self.server_sends(path, datagram),
                Output::Action(op, action) => self.server_acts(op, action),
                Output::Event(event) => self.server_tells(event),
            }
        }
    }

    fn client_outputs(&mut self, process: Process, outputs: Vec<Output<Client>>) {
        if outputs.len() >= FLOOD {
            self.fail("a client's outputs never end");
        }
        for output in outputs {
            match output {
                Output::Datagram(path, datagram) => self.client_sends(process, path, datagram),
                Output::Action(op, action) => self.client_acts(process, op, &action),
                Output::Event(event) => self.client_tells(process, event),
            }
        }
    }

    /// Takes the events of a client, and no other outputs.
    fn hear_out(&mut self, process: Process) {
        while let Some(event) =
            self.clients[process.0].host.as_mut().and_then(|host| host.machine.poll_event())
        {
            self.client_tells(process, event);
        }
    }

    // Datagrams.

    fn emitted(&mut self, from: Who, to: SocketAddr, datagram: &[u8]) {
        line!(self, "{from:?} -> {to} {} {:?}", datagram.len(), kind(datagram));
        self.transcript.bytes(datagram);
        let verdict = self.oracles.wire.emitted(from, to, datagram);
        self.oracles.judge(verdict);
        self.account(from, to, datagram.len());
        if kind(datagram) == Some(PacketType::File) {
            self.file_traffic += datagram.len() as u64;
        }
        if let Some(tap) = &mut self.tap {
            tap.push(Emission { at: self.now, from, to, datagram: datagram.to_vec() });
        }
    }

    pub(crate) fn server_sends(&mut self, path: Path, datagram: Vec<u8>) {
        let to = path.remote;
        self.emitted(Who::Server, to, &datagram);
        let bound = self.server.ports.iter().find(|(_, port)| **port == path.port);
        let Some(number) = bound.map(|(number, _)| *number) else {
            self.fail("the server sends by a port that is not bound");
        };
        if self.goes_to_eve(to, &datagram) {
            return;
        }
        let ip = if to.is_ipv6() { SERVER_IP6 } else { SERVER_IP };
        let from: SocketAddr = (ip, number).into();
        self.judge_unproven(to, datagram.len());
        if let Some((process, own)) = self.forwarded(to) {
            // As if it came from where the client sends to.
            let ip = if own.is_ipv6() { SERVER_IP6 } else { SERVER_IP };
            let from: SocketAddr = (ip, from.port()).into();
            self.carry(process, Way::Down, from, own, &datagram);
            return;
        }
        let Some(process) = self.addresses.get(&to).copied() else { return };
        let file = self.clients[process.0].file;
        let kept = file.is_some_and(|file| self.disk.retired_at(file).is_some());
        if kind(&datagram) == Some(PacketType::CompromisedAck) && !kept {
            self.oracles
                .judge(Err("oracle 8: an ack before the retirement is durable".to_string()));
        }
        self.carry(process, Way::Down, from, to, &datagram);
    }

    pub(crate) fn client_sends(&mut self, process: Process, path: Path, datagram: Vec<u8>) {
        self.emitted(Who::Client(process), path.remote, &datagram);
        if self.clients[process.0].address.is_none() {
            self.fail("a client sends without a binding");
        }
        let from = self.clients[process.0].nat.outbound(self.now, path.remote);
        self.clients[process.0].address = Some(from);
        self.addresses.insert(from, process);
        if let Some(forwarder) = self.forwarders.get(&process).copied() {
            // It is closer to the server than the client.
            let (at, to) = (self.now + self.net.link(process, Way::Up).delay / 2, path.remote);
            let datagram = datagram.clone();
            self.push(at, Happening::Arrive { to, from: forwarder, datagram });
        }
        self.carry(process, Way::Up, from, path.remote, &datagram);
    }

    fn carry(
        &mut self,
        process: Process,
        way: Way,
        from: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
    ) {
        let link: Link = self.net.link(process, way);
        if link.lacks(to) {
            return;
        }
        for (after, datagram) in link.carry(&mut self.rng, datagram) {
            let len = datagram.len();
            let Some(turn) = self.net.enqueue(process, way, self.now, len) else { continue };
            self.push(self.now + turn + after, Happening::Arrive { to, from, datagram });
        }
    }

    fn arrive(&mut self, to: SocketAddr, from: SocketAddr, datagram: Vec<u8>) {
        if to.ip() == SERVER_IP || to.ip() == SERVER_IP6 {
            self.arrive_at_server(to.port(), from, datagram);
        } else if let Some(process) = self.addresses.get(&to).copied() {
            let (now, node) = (self.now, &mut self.clients[process.0]);
            if node.asleep_until > now || !node.nat.inbound(now, to, from) {
                return;
            }
            if self.clients[process.0].host.is_some() {
                self.net.hear(to, &datagram);
            }
            self.arrive_at_client(process, from, datagram);
        }
    }

    fn arrive_at_client(&mut self, process: Process, remote: SocketAddr, mut datagram: Vec<u8>) {
        if !self.oracles.wire.is_genuine(&datagram) {
            self.silent_client(process, remote, datagram);
            return;
        }
        // What its session has had is not to have any effect again.
        let in_session = self.client_machine(process).is_some_and(|c| c.connection_id().is_some());
        if in_session {
            self.taken_by_any.insert(digest(2, &datagram));
        }
        let digest = digest(3 + process.0 as u64, &datagram);
        if in_session && !self.taken_by_clients.insert(digest) {
            self.silent_client(process, remote, datagram);
            return;
        }
        self.account(Who::Client(process), remote, datagram.len());
        self.clients[process.0].heard = self.now;
        let path = Path::new(PortId(0), remote);
        let Some(host) = &mut self.clients[process.0].host else { return };
        let now = host.clock.at(self.now);
        if let Some(chunk) = host.machine.handle_datagram(now, path, &mut datagram) {
            self.write_chunk(Who::Client(process), &chunk);
        }
        self.turn(Who::Client(process));
    }

    /// The server is handed a datagram; bytes of a file that it brings are written first of all.
    pub(crate) fn server_takes(&mut self, path: Path, mut datagram: Vec<u8>) {
        let Some(host) = &mut self.server.host else { return };
        let now = host.clock.at(self.now);
        if let Some(chunk) = host.machine.handle_datagram(now, path, &mut datagram) {
            self.write_chunk(Who::Server, &chunk);
        }
        self.turn(Who::Server);
    }

    /// Whatever is due or waits at a machine is done.
    fn catch_up(&mut self, who: Who) {
        self.drain(who);
        // What is sent may make something else due.
        while self.time_out(who) {
            self.drain(who);
        }
    }

    /// Tells a machine the time if something is due; whether it was.
    fn time_out(&mut self, who: Who) -> bool {
        let world = self.now;
        let due = |at: Option<Instant>, now: Now| at.is_some_and(|at| at <= now.mono);
        match who {
            Who::Server => {
                let Some(host) = &mut self.server.host else { return false };
                let now = host.clock.at(world);
                let due = due(host.machine.deadline(), now);
                if due {
                    host.machine.handle_timeout(now);
                }
                due
            }
            Who::Client(process) => {
                let Some(host) = &mut self.clients[process.0].host else { return false };
                let now = host.clock.at(world);
                let due = due(host.machine.deadline(), now);
                if due {
                    host.machine.handle_timeout(now);
                }
                due
            }
        }
    }

    /// A client gets a damaged, forged or replayed datagram: nothing follows, but that a copy of an
    /// acknowledged signal draws its ack.
    fn silent_client(&mut self, process: Process, remote: SocketAddr, mut datagram: Vec<u8>) {
        let who = Who::Client(process);
        self.catch_up(who);
        let Some(host) = &mut self.clients[process.0].host else { return };
        let now = host.clock.at(self.now);
        let before = host.machine.deadline();
        let path = Path::new(PortId(0), remote);
        let copy = datagram.clone();
        let chunk = host.machine.handle_datagram(now, path, &mut datagram).is_some();
        let outputs = drain_all(&mut host.machine, now, &mut self.out);
        if chunk || !self.wants_nothing(who) {
            self.fail(&format!("oracle 12: a copy or forgery brings {who:?} bytes or a wish"));
        }
        let moved = self.clients[process.0].host.as_mut().and_then(|host| host.machine.deadline())
            != before;
        let mut replies = Vec::new();
        for output in &outputs {
            match output {
                Output::Datagram(to, reply) if *to == path => replies.push(reply.clone()),
                _ => self
                    .fail(&format!("oracle 12: {who:?} reacts to a copy or forgery: {output:?}")),
            }
        }
        if moved {
            self.fail(&format!("oracle 12: the deadline of {who:?} moves by a copy or forgery"));
        }
        self.oracles.wire.watch(remote);
        self.client_outputs(process, outputs);
        let verdict = self.oracles.wire.replied(remote, &copy, &replies);
        self.oracles.judge(verdict);
        self.arm(who);
    }

    fn arrive_at_server(&mut self, number: u16, from: SocketAddr, datagram: Vec<u8>) {
        let Some(port) = self.server.ports.get(&number).copied() else { return };
        let path = Path::new(port, from);
        let genuine = self.oracles.wire.is_genuine(&datagram);
        self.oracles.sessions.received(from, datagram.len());
        let machine = self.server_machine();
        if machine.is_some_and(|server| !server.open_ports().contains(&number)) {
            // It is drained unread: to send it again later is no replay.
            self.server_takes(path, datagram);
            return;
        }
        let fresh = genuine && self.taken.insert(digest(2, &datagram));
        if self.server.host.is_some() {
            self.net.hear((SERVER_IP, number).into(), &datagram);
        }
        if fresh && !is_hello(&datagram) {
            self.account(Who::Server, from, datagram.len());
            self.server_takes(path, datagram);
        } else {
            self.watched_server(path, datagram);
        }
    }

    /// The server gets a hello, a copy or a forgery: nothing follows but the one reply.
    fn watched_server(&mut self, path: Path, datagram: Vec<u8>) -> Vec<Vec<u8>> {
        self.catch_up(Who::Server);
        let Some(host) = &mut self.server.host else { return Vec::new() };
        let now = host.clock.at(self.now);
        let before = host.machine.deadline();
        let mut copy = datagram.clone();
        let chunk = host.machine.handle_datagram(now, path, &mut copy).is_some();
        let outputs = drain_all(&mut host.machine, now, &mut self.out);
        if chunk || !self.wants_nothing(Who::Server) {
            self.fail("oracle 12: a copy or forgery brings the server bytes or a wish");
        }
        let moved = self.server.host.as_mut().and_then(|host| host.machine.deadline()) != before;
        let mut replies = Vec::new();
        for output in &outputs {
            match output {
                Output::Datagram(to, reply) if *to == path => replies.push(reply.clone()),
                Output::Event(server::Event::Audit(_) | server::Event::Alert(_)) => {}
                _ => self.fail(&format!(
                    "oracle 12: the server reacts to a copy or forgery: {output:?}"
                )),
            }
        }
        if moved && replies.is_empty() {
            self.fail("oracle 12: the server's deadline moves by a copy or forgery");
        }
        self.oracles.wire.watch(path.remote);
        self.server_outputs(outputs);
        let verdict = self.oracles.wire.replied(path.remote, &datagram, &replies);
        self.oracles.judge(verdict);
        self.arm(Who::Server);
        replies
    }

    /// The attacker sends a datagram to the server from an address of his own; what it replies.
    pub fn attack(&mut self, datagram: Vec<u8>) -> Vec<Vec<u8>> {
        let remote = self.net.attacker();
        let present = self.server_machine().and_then(Server::port);
        let port = present.and_then(|number| self.server.ports.get(&number).copied());
        let Some(port) = port else { return Vec::new() };
        let taken = self.taken.contains(&digest(2, &datagram));
        if self.oracles.wire.is_genuine(&datagram) && !is_hello(&datagram) && !taken {
            // It never arrived: that is no replay but a late delivery from elsewhere.
            return Vec::new();
        }
        self.oracles.sessions.received(remote, datagram.len());
        let replies = self.watched_server(Path::new(port, remote), datagram);
        self.check();
        replies
    }

    /// The attacker sends a datagram to a client, as if it came from the server or from himself.
    pub fn attack_client(&mut self, process: Process, from_server: bool, datagram: Vec<u8>) {
        let server = (SERVER_IP, self.port().unwrap_or(SERVER_PORT)).into();
        let remote = if from_server { server } else { self.net.attacker() };
        let known = self.taken_by_clients.contains(&digest(3 + process.0 as u64, &datagram))
            || self.taken_by_any.contains(&digest(2, &datagram));
        if from_server && self.oracles.wire.is_genuine(&datagram) && !known {
            // It never arrived: that is no replay but a late delivery.
            return;
        }
        self.silent_client(process, remote, datagram);
        self.check();
    }

    /// A datagram arrives at the server from an address that may be anyone's.
    pub fn deliver(&mut self, from: SocketAddr, datagram: Vec<u8>) {
        if let Some(number) = self.port() {
            self.arrive_at_server(number, from, datagram);
        }
        self.check();
    }

    /// A port that the server has bound, as it names it.
    pub(crate) fn any_port(&self) -> Option<PortId> {
        self.server.ports.values().next().copied()
    }

    /// What the server's wall clock shows.
    pub(crate) fn server_wall(&self) -> UnixMs {
        self.server.clock.at(self.now).wall
    }

    /// The number of the port that the server has bound.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.server.ports.keys().next().copied()
    }

    // The server's host.

    /// Starts the server from what is durable.
    pub fn start_server(&mut self) {
        let members = self.setup.members.iter().map(|(name, rooms)| Member {
            name: (*name).to_string(),
            rooms: rooms.iter().map(|room| (*room).to_string()).collect(),
        });
        let schedule = || PortSchedule {
            seed: Secret::take(&mut [5; 32]),
            origin: BEGIN / 1000 - 1000,
            interval: self.setup.interval,
        };
        let port = if self.setup.scheduled {
            PortChoice::Scheduled(schedule())
        } else {
            PortChoice::Fixed(SERVER_PORT)
        };
        let all_files = self.rng.chance(500);
        let config = ServerConfig {
            server_id: "cc-simulated".to_string(),
            server_name: "Simulated".to_string(),
            public: SERVER_IP.to_string(),
            port,
            timing: Timing::every(self.setup.interval),
            renewal_valid_for: RENEWAL_VALID_FOR,
            members: members.collect(),
            credentials: self.disk.credentials(),
            chats: self.disk.chats(),
            files: self.disk.files(all_files),
            max_sessions: self.setup.max_sessions,
            key_limits: self.setup.key_limits,
            provider: self.setup.provider,
        };
        let seed = Seed::new(&mut self.rng.seed());
        self.server.clock.origin = self.rng.below(1 << 40);
        let clock = self.server.clock;
        let machine = Server::new(config, &seed, clock.at(self.now));
        let lazy = self.laziness();
        self.server.run += 1;
        self.server.host = Some(Host::new(machine, clock, lazy));
        self.oracles.chats.server_began();
        self.oracles.files.server_began();
        line!(self, "server run {}", self.server.run);
        self.turn(Who::Server);
    }

    fn laziness(&mut self) -> Option<Rng> {
        let lazy = self.rng.chance(self.setup.lazy);
        lazy.then(|| Rng::new(self.rng.u64()))
    }

    /// Drops the server. Of the chat being written some may be durable.
    pub fn crash_server(&mut self) {
        self.line("server crashes".to_string());
        let run = self.server.run;
        let writing = |(key, happening): (&(u64, u64), &Happening)| match happening {
            Happening::Perform { run: of, action: server::Action::StoreChat { .. } } => {
                (*of == run).then_some(*key)
            }
            _ => None,
        };
        let writing: Vec<_> = self.queue.iter().filter_map(writing).collect();
        let landed = self.rng.index(writing.len() + 1);
        for key in writing.into_iter().take(landed) {
            if let Some(Happening::Perform { action, .. }) = self.queue.remove(&key) {
                self.disk.perform(self.now, action);
            }
        }
        (self.server.host, self.server.files) = (None, Hosted::default());
        self.server.ports.clear();
        self.server.run += 1;
        self.disk.server_crashed();
        self.oracles.wire.server_restarted();
        self.oracles.sessions.server_restarted();
        // What was not retired durably counts again.
        for node in &self.clients {
            let retired = node.file.is_some_and(|file| self.disk.retired_at(file).is_some());
            if !retired {
                let own = self.addresses.keys().filter(|address| node.nat.owns(**address));
                own.for_each(|address| self.oracles.wire.unsilenced(*address));
            }
        }
    }

    /// Whether the server is up.
    #[must_use]
    pub const fn server_is_up(&self) -> bool {
        self.server.host.is_some()
    }

    /// The server's wall clock, `unix_s`.
    #[must_use]
    pub fn server_secs(&self) -> u64 {
        self.server.clock.at(self.now).wall.secs()
    }

    fn server_acts(&mut self, op: OpId, action: server::Action) {
        let (run, who) = (self.server.run, Who::Server);
        line!(self, "server asks {op} {}", brief(&action));
        if let server::Action::BindPort { port, number } = action {
            let at = self.now + self.rng.range(20..=2_000);
            if self.server.ports_taken > 0 {
                self.server.ports_taken -= 1;
                let outcome = Outcome::PortInUse;
                self.push(at, Happening::Complete { who, run, op, outcome });
            } else {
                self.push(at, Happening::Bound { run, op, port, number });
            }
            return;
        }
        if let server::Action::ClosePort { port } = action {
            self.server.ports.retain(|_, open| *open != port);
            let (at, outcome) = (self.now + self.rng.range(20..=2_000), Outcome::Done);
            self.push(at, Happening::Complete { who, run, op, outcome });
            return;
        }
        if let server::Action::FileDelivered { from, id, by } = &action {
            let verdict = self.oracles.files.passed_on(from, *id, by);
            self.oracles.judge(verdict);
        }
        let plan = self.disk.plan(&mut self.rng, self.now, &action);
        if plan.outcome == Outcome::Done {
            self.push(plan.performed, Happening::Perform { run, action });
        } else if let server::Action::StoreChat { stored } = action {
            self.oracles.chats.not_stored(&stored.chat.from, stored.chat.id);
        }
        let outcome = plan.outcome;
        self.push(plan.completed, Happening::Complete { who, run, op, outcome });
    }

    fn server_tells(&mut self, event: server::Event) {
        line!(self, "server tells {event:?}");
        match &event {
            server::Event::Connected { session, remote, .. } => {
                self.oracles.sessions.established(*remote);
                let verdict =
                    self.oracles.epochs.connected(Who::Server, self.session(session.0), Epoch(1));
                self.oracles.judge(verdict);
            }
            server::Event::KeysRotated { session, epoch, .. } => {
                let verdict =
                    self.oracles.epochs.rotated(Who::Server, self.session(session.0), *epoch);
                self.oracles.judge(verdict);
            }
            server::Event::Disconnected { member, reason, .. } => {
                // A hostile member's session may end as a violation.
                if self.eve.is_none() || member != EVE {
                    let apart = self
                        .processes()
                        .any(|(process, node)| node.member == *member && self.was_apart(process));
                    self.oracles.judge(honest_end(Who::Server, reason, apart));
                }
            }
            server::Event::Chat(chat) => {
                let verdict = self.oracles.chats.told_at_server(chat);
                self.oracles.judge(verdict);
                let durable = self.disk.has_chat(&chat.from, chat.id);
                if !durable {
                    self.oracles.judge(Err(format!(
                        "oracle 2: chat {} is told before it is safe",
                        chat.id
                    )));
                }
            }
            server::Event::Compromised { member, .. } => self.silence(&member.clone()),
            server::Event::Listening { .. }
            | server::Event::PortRotated { .. }
            | server::Event::NoPort
            | server::Event::Audit(_)
            | server::Event::Alert(_)
            | server::Event::Signalled { .. } => {}
            server::Event::FileOffered { .. }
            | server::Event::FileComplete { .. }
            | server::Event::FileSending { .. }
            | server::Event::FileEnded { .. } => {
                let verdict = self.server_tells_of_file(&event);
                self.oracles.judge(verdict);
            }
        }
        self.server.events.push(event);
    }

    /// A number for a session of this run of the server.
    const fn session(&self, id: u64) -> u64 {
        (self.server.run as u64) << 32 | id
    }

    /// Nothing goes any more to the processes of a member whose files are refused.
    fn silence(&mut self, member: &str) {
        let Some(host) = &self.server.host else { return };
        let secs = host.clock.at(self.now).wall.secs();
        for node in self.clients.iter().filter(|node| node.member == member) {
            let refused = node.file.is_some_and(|file| !host.machine.accepts(file, secs));
            if refused {
                let own = self.addresses.keys().filter(|address| node.nat.owns(**address));
                own.for_each(|address| self.oracles.wire.silenced(*address));
            }
        }
    }

    // Clients' hosts.

    /// Issues a file to a member and waits until it is written.
    ///
    /// # Panics
    /// When the server is down or refuses.
    #[track_caller]
    pub fn issue(&mut self, member: &str) -> FileId {
        self.issue_for(member, 1_000_000)
    }

    /// The same, valid for so many seconds.
    ///
    /// # Panics
    /// When the server is down or refuses.
    #[track_caller]
    pub fn issue_for(&mut self, member: &str, secs: u64) -> FileId {
        let bound = |world: &Self| !world.server.ports.is_empty();
        self.expect("the port is bound", Duration::from_secs(60), bound);
        let before = self.disk.issued().len();
        let issued = self.with_server(|server, now| server.issue(now, member, &[], secs));
        if !matches!(issued, Some(Ok(_))) {
            self.fail(&format!("no file was issued: {issued:?}"));
        }
        let there = |world: &Self| world.disk.issued().len() > before;
        self.expect("the file is written", Duration::from_secs(60), there);
        self.run(Duration::from_secs(5));
        self.disk.issued()[before].file
    }

    /// Starts a client with a file that was issued.
    ///
    /// # Panics
    /// When it was not.
    pub fn start(&mut self, file: FileId) -> Process {
        let issued = self.disk.issued().iter().rev().find(|issued| issued.file == file);
        let issued = issued.expect("the file was issued");
        let (member, content) = (issued.member.clone(), duplicate(&issued.content));
        // What was stored since is what the disk holds.
        let stored = self.stored.entry(file).or_insert(content);
        let content = duplicate(stored);
        self.begun.insert(file);
        let skew = self.setup.skew;
        let ahead = self.rng.range(0..=2 * skew).cast_signed() - skew.cast_signed();
        let drift = self.rng.range(0..=200).cast_signed() - 100;
        let clock = Clock { origin: self.rng.below(1 << 40), ahead, drift };
        self.start_with(&member, Some(file), content, clock, true)
    }

    /// Starts a client with any file and clock.
    pub fn start_with(
        &mut self,
        member: &str,
        file: Option<FileId>,
        content: SecurityFile,
        clock: Clock,
        reconnect: bool,
    ) -> Process {
        let process = Process(self.clients.len());
        let began_with = content.timestamp;
        let kind = if self.setup.nat { Nat::random_kind(&mut self.rng) } else { Kind::Open };
        let timeout = self.rng.range(30_000_000..=120_000_000);
        let config = ClientConfig {
            file: content,
            addresses: if self.setup.dual { vec![SERVER_IP, SERVER_IP6] } else { vec![SERVER_IP] },
            port: None,
            reconnect,
            key_limits: self.setup.key_limits,
            provider: self.setup.provider,
        };
        let seed = Seed::new(&mut self.rng.seed());
        let machine = Client::new(config, &seed, clock.at(self.now));
        let lazy = self.laziness();
        self.clients.push(ClientNode {
            host: Some(Host::new(machine, clock, lazy)),
            files: Hosted::default(),
            member: member.to_string(),
            file,
            address: None,
            nat: Nat::new(process, kind, timeout),
            asleep_until: 0,
            began_with,
            disk_busy: 0,
            lost_until: 0,
            events: Vec::new(),
            started: self.now,
            heard: self.now,
            connected: false,
            closed: None,
            wiped: false,
            file_gone: false,
            sessions: 0,
        });
        line!(self, "{process:?} of {member} starts");
        self.turn(Who::Client(process));
        self.offer_all(process);
        process
    }

    /// A user connects again after the client closed.
    pub fn connect(&mut self, process: Process) {
        if self.clients[process.0].runs() && !self.clients[process.0].wiped {
            self.clients[process.0].closed = None;
            self.with_client(process, |client, now| client.connect(now));
        }
        self.check();
    }

    /// Issues a file to a member, starts a client with it and waits until it is connected.
    #[track_caller]
    pub fn join(&mut self, member: &str) -> Process {
        let file = self.issue(member);
        let process = self.start(file);
        self.expect("connected", Duration::from_secs(60), |w| w.client(process).connected);
        process
    }

    /// Drops a client; its host has told its application everything first.
    pub fn crash_client(&mut self, process: Process) {
        self.hear_out(process);
        line!(self, "{process:?} crashes");
        let node = &mut self.clients[process.0];
        (node.host, node.connected) = (None, false);
        node.files = Hosted::default();
        self.check();
    }

    /// Whether the driver of a client is late.
    #[must_use]
    pub fn is_lazy(&self, process: Process) -> bool {
        self.clients[process.0].host.as_ref().is_some_and(|host| host.lazy.is_some())
    }

    /// A client's process.
    #[must_use]
    pub fn client(&self, process: Process) -> &ClientNode {
        &self.clients[process.0]
    }

    pub(crate) fn client_mut(&mut self, process: Process) -> &mut ClientNode {
        &mut self.clients[process.0]
    }

    /// All clients' processes, dead ones too.
    pub fn processes(&self) -> impl Iterator<Item = (Process, &ClientNode)> {
        self.clients.iter().enumerate().map(|(index, node)| (Process(index), node))
    }

    /// The process of a member that lives and is neither wiped nor closed for good.
    #[must_use]
    pub fn living(&self, member: &str) -> Option<Process> {
        let lives = |(_, node): &(Process, &ClientNode)| node.member == member && node.lives();
        self.processes().filter(lives).map(|(process, _)| process).last()
    }

    fn client_acts(&mut self, process: Process, op: OpId, action: &client::Action) {
        line!(self, "{process:?} asks {op} {}", brief_client(action));
        let at = self.now + self.rng.range(20..=2_000);
        match action {
            client::Action::BindPort { .. } => {
                let [high, low] = u16::try_from(process.0).unwrap_or(0).to_be_bytes();
                let ip = IpAddr::V4(Ipv4Addr::new(198, 51, high, low));
                self.clients[process.0].address = Some((ip, 50_000).into());
                self.push(at, Happening::ClientBound { process, op });
            }
            client::Action::ClosePort { .. } => {
                let (who, run, outcome) = (Who::Client(process), 0, Outcome::Done);
                self.push(at, Happening::Complete { who, run, op, outcome });
            }
            client::Action::StoreSecurityFile { renewal } => {
                self.client_stores(process, op, duplicate(&renewal.content));
            }
            client::Action::WipeSecurityFiles => {
                let ok = !self.rng.chance(self.wipe_fails);
                // After what was to be stored before it.
                let at = at.max(self.clients[process.0].disk_busy);
                self.push(at, Happening::ClientWiped { process, op, ok });
            }
        }
    }

    fn client_tells(&mut self, process: Process, event: client::Event) {
        line!(self, "{process:?} tells {event:?}");
        let verdict = self.judge_client(process, &event);
        self.oracles.judge(verdict);
        let verdict = self.client_tells_of_file(process, &event);
        self.oracles.judge(verdict);
        let node = &mut self.clients[process.0];
        match &event {
            client::Event::Connected { .. } => (node.connected, node.closed) = (true, None),
            client::Event::Disconnected { .. } => node.connected = false,
            client::Event::Closed(reason) => {
                (node.connected, node.closed) = (false, Some(reason.clone()));
            }
            client::Event::Compromised { .. } => (node.connected, node.wiped) = (false, true),
            _ => {}
        }
        node.events.push(event);
    }

    fn judge_client(&mut self, process: Process, event: &client::Event) -> Verdict {
        let apart = self.was_apart(process);
        let node = &mut self.clients[process.0];
        let who = Who::Client(process);
        match event {
            client::Event::Connected { epoch, .. } => {
                node.sessions += 1;
                let retired = node.file.and_then(|file| self.disk.retired_at(file));
                may_connect(node.started, retired)?;
                self.oracles.epochs.connected(who, node.sessions, *epoch)
            }
            client::Event::KeysRotated { epoch } => {
                self.oracles.epochs.rotated(who, node.sessions, *epoch)
            }
            client::Event::Disconnected { reason, .. } | client::Event::Closed(reason) => {
                let (first, file, began) = (node.sessions == 0, node.file, node.began_with);
                honest_end(who, reason, apart)?;
                let expired =
                    matches!(reason, CloseReason::Refused { code: ErrorCode::Expired, .. });
                if expired
                    && first
                    && let Some(file) = file
                {
                    self.may_refuse(file, began)
                } else {
                    Ok(())
                }
            }
            client::Event::Chat(chat) => self.oracles.chats.shown(process, &node.member, chat),
            client::Event::Receipt { id, state, by, .. } => {
                let receipt = (node.member.clone(), *id, *state, by.clone());
                self.oracles.receipts.push(receipt);
                Ok(())
            }
            client::Event::Refused(error) => {
                if let Some(id) = error.id {
                    self.oracles.chats.refused(&node.member, id);
                }
                Ok(())
            }
            client::Event::Compromised { .. } => {
                self.oracles.wire.wiped(process);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    // Chat.

    /// Members that a chat is for.
    #[must_use]
    pub fn recipients(&self, from: &str, to: &str) -> Vec<String> {
        let members = &self.setup.members;
        let in_room = |rooms: &[&str], room: &str| room == LOBBY || rooms.contains(&room);
        match Recipient::parse(to) {
            Some(Recipient::Member(name)) => {
                let known = members.iter().any(|(member, _)| *member == name);
                if known || name == SERVER_MEMBER { vec![name] } else { Vec::new() }
            }
            Some(Recipient::Room(room)) => {
                let own = members.iter().find(|(member, _)| *member == from);
                if !own.is_some_and(|(_, rooms)| in_room(rooms, &room)) {
                    return Vec::new();
                }
                let others = members
                    .iter()
                    .filter(|(member, rooms)| *member != from && in_room(rooms, &room));
                others.map(|(member, _)| (*member).to_string()).collect()
            }
            None => Vec::new(),
        }
    }

    /// A client's user writes a chat.
    ///
    /// # Errors
    /// What the client says.
    pub fn say(&mut self, process: Process, to: &str, text: &str) -> Result<ChatId, SendError> {
        let from = self.clients[process.0].member.clone();
        let recipients = self.recipients(&from, to);
        let said = self.with_client(process, |client, now| client.send_chat(now, to, text));
        let id = said.unwrap_or(Err(SendError::Closed))?;
        line!(self, "{process:?} says {id} to {to}");
        self.oracles.chats.sent(process, &from, id, recipients, text);
        self.check();
        Ok(id)
    }

    // The end.

    /// Turns all faults off. Drivers stay as they are.
    pub fn calm(&mut self) {
        self.net.set_all(Link::CLEAN);
        self.disk.faults = crate::disk::DiskFaults::default();
        self.server.ports_taken = 0;
        self.files.faults = crate::files::FileFaults::default();
        self.wipe_fails = 0;
        self.forwarders.clear();
        self.oracles.wire.server_restarted();
        self.server.clock.ahead = 0;
        if let Some(host) = &mut self.server.host {
            host.clock.ahead = 0;
        }
        // They wake in a moment, and what is due is done before anything else.
        let (now, mut sleepers) = (self.now + 1, Vec::new());
        for (index, node) in self.clients.iter_mut().enumerate() {
            if core::mem::replace(&mut node.asleep_until, now) > now
                && let Some(host) = &mut node.host
            {
                host.armed = Some(now);
                sleepers.push(Who::Client(Process(index)));
            }
        }
        for who in &sleepers {
            self.push(now, Happening::Timer(*who));
        }
        self.wake_hosts(&sleepers);
        let skew = self.setup.skew.cast_signed();
        for host in self.clients.iter_mut().filter_map(|node| node.host.as_mut()) {
            host.clock.ahead = host.clock.ahead.clamp(-skew, skew);
        }
    }

    /// Whether every chat that must arrive has.
    ///
    /// # Errors
    /// A complaint about one that has not.
    pub fn chats_complete(&self) -> Verdict {
        let alive = |node: &ClientNode| node.host.is_some() && !node.wiped && node.closed.is_none();
        let living = || self.processes().filter(|(_, node)| alive(node));
        let writers = living().map(|(process, _)| process).collect();
        let readers = living().map(|(_, node)| node.member.clone()).collect();
        self.oracles.chats.complete(&writers, &readers)
    }

    /// The last check: everything that must arrive does so within `limit`.
    #[track_caller]
    pub fn settle(&mut self, limit: Duration) {
        self.run_until(limit, |world| world.chats_complete().is_ok());
        if let Err(complaint) = self.chats_complete() {
            self.fail(&complaint);
        }
    }

    /// Receipts of a chat that a client was told, in order.
    #[must_use]
    pub fn receipts(&self, process: Process, chat: ChatId) -> Vec<(ReceiptState, String)> {
        let of = |event: &client::Event| match event {
            client::Event::Receipt { id, state, by, .. } if *id == chat => {
                Some((*state, by.clone()))
            }
            _ => None,
        };
        self.clients[process.0].events.iter().filter_map(of).collect()
    }

    /// Texts that a client showed, in order.
    #[must_use]
    pub fn texts(&self, process: Process) -> Vec<&str> {
        self.clients[process.0]
            .events
            .iter()
            .filter_map(|event| match event {
                client::Event::Chat(chat) => Some(chat.text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Datagrams of a type that someone emitted since the tap was opened.
    #[must_use]
    pub fn tapped(&self, from: Who, wanted: PacketType) -> Vec<&Emission> {
        let tap = self.tap.iter().flatten();
        tap.filter(|e| e.from == from && kind(&e.datagram) == Some(wanted)).collect()
    }
}

impl ClientNode {
    /// Whether it runs, and is neither wiped nor closed for good.
    #[must_use]
    pub const fn lives(&self) -> bool {
        self.host.is_some() && !self.wiped && self.closed.is_none()
    }

    /// Whether it is suspended at that time.
    #[must_use]
    pub const fn sleeps(&self, now: u64) -> bool {
        self.asleep_until > now
    }

    /// Whether its machine is there.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.host.is_some()
    }
}

/// A late driver also calls when no deadline has come, which must not matter.
fn untimely<M: Machine>(machine: &mut M, now: Now, rng: &mut Rng) {
    if rng.chance(100) {
        machine.timeout(now);
    }
}

/// The same for a client's.
fn brief_client(action: &client::Action) -> String {
    match action {
        client::Action::StoreSecurityFile { renewal } => {
            format!("StoreSecurityFile {}", renewal.content.timestamp)
        }
        other => format!("{other:?}"),
    }
}

/// An action as the transcript shows it.
fn brief(action: &server::Action) -> String {
    match action {
        server::Action::IssueSecurityFile { draft } => {
            format!("IssueSecurityFile {} to {}", draft.credential.file, draft.credential.member)
        }
        server::Action::StoreChat { stored } => {
            let chat = &stored.chat;
            format!("StoreChat {} of {} for {:?}", chat.id, chat.from, stored.to)
        }
        other => format!("{other:?}"),
    }
}

/// A duration in microseconds.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
