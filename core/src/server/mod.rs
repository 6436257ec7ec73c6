//! Floor 5: the server, as a state machine. See the [crate's contract](crate).

mod admission;
mod api;
mod audit;
mod commands;
mod compromise;
mod credentials;
mod files;
mod handshake;
mod hub;
mod monitor;
mod moves;
mod ports;
mod relay;
mod renewal;
mod router;
mod schedule;
mod sessions;
mod watch;

use crate::crypto::aead::CipherProvider;
use crate::error::{CloseReason, DropReason};
use crate::id::{Epoch, FileId, OpId, PortId, SessionId};
use crate::limits::{HALF_OPEN, KeyLimits};
use crate::ops::{Deadline, Ops, Outcome};
use crate::queue::Queue;
use crate::random::{Random, Seed};
use crate::session::{Batch, Context, Session, SessionEvent};
use crate::time::{Duration, Instant, Now};
use crate::transport::Timer;
use crate::transport::path::{Path, Transmit};
use crate::wire::message::Message;
use crate::wire::secfile::SERVER_NAME_MAX;
use admission::Trials;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
pub use api::{Action, Event, Member, ServerConfig};
pub use audit::{Alert, Audit, Resource};
pub use credentials::{Credential, CredentialStatus, SecurityFileDraft};
use credentials::{Credentials, SecretId};
use files::Files;
pub use files::StoredFile;
use hub::Hub;
pub use hub::StoredChat;
use monitor::Monitor;
use ports::Ports;
pub use ports::{PortChoice, Timing};
use schedule::Schedule;
use sessions::Sessions;

pub use commands::{IssueError, MemberStatus, RENEWAL_VALID_FOR, SessionStatus, VALID_FOR};

/// Hello replies that wait to be sent; a driver that drains late loses the oldest, and the client
/// asks again.
const REPLIES: usize = 256;
/// Old hellos and secrets are forgotten this often.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// What waits for an action.
#[derive(Debug)]
enum Waits {
    Bind(PortId),
    Renew(SecretId),
    /// `again`: it had failed before.
    Keep {
        file: FileId,
        again: bool,
    },
    Issue(Credential),
    Retire(compromise::Replacement),
    RetireAgain(Vec<FileId>),
    Replace(Credential, compromise::Replacement),
    Store(StoredChat),
    Nothing,
}

/// A name that fits an answer whatever is in it.
fn tame(name: &str) -> String {
    let mut short = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if short.len() + c.len_utf8() > SERVER_NAME_MAX {
            break;
        }
        short.push(c);
    }
    short
}

/// What a session waits for to be told of the port.
#[derive(Debug)]
struct Announce {
    /// Once its keys are of this epoch.
    epoch: Epoch,
    /// Its renewed credential goes with it.
    with_file: bool,
}

/// A session and whose it is.
#[derive(Debug)]
struct Entry {
    session: Session,
    /// The secret that it began with.
    secret: SecretId,
    /// Shared by all sessions of the member.
    member: Arc<str>,
    hello_at: Instant,
    /// Receipts, presence and refusals that wait for a place in its channel.
    owed: Queue<Message>,
    /// Of those sent, what nobody asks for again.
    handed: relay::Handed,
    /// It is to hear of the port.
    announce: Option<Announce>,
    /// How far the retirement of its file is, once COMPROMISED was raised.
    retirement: Option<compromise::Retirement>,
    /// When it was established; `None` before that.
    established: Option<Now>,
    /// Bytes of it that the monitor knows of.
    counted: u64,
    /// Its channel was full when it was last given what waits for it.
    held: bool,
}

impl Entry {
    /// When it goes if it is not established by then.
    fn half_open_until(&self) -> Option<Instant> {
        self.session.is_half_open().then(|| self.hello_at + HALF_OPEN)
    }

    /// Whether a datagram may have changed no more than what the session has to send, and when.
    fn is_quiet(&self) -> bool {
        let quiet = self.session.is_open() && !self.session.has_events();
        quiet && !(self.held && self.session.has_room())
    }

    /// When it is to be looked at; while it is half-open, nothing else counts.
    fn deadline(&self) -> Option<(Timer, Instant)> {
        let half_open = self.half_open_until().map(|at| (Timer::Forget, at));
        half_open.or_else(|| self.session.deadline())
    }
}

/// The server. Every method is an input (`handle_*`), a command, an output (`poll_*`) or a getter.
#[derive(Debug)]
pub struct Server {
    server_id: String,
    server_name: String,
    public: String,
    max_sessions: usize,
    timing: Timing,
    key_limits: KeyLimits,
    renewal_valid_for: u64,
    provider: &'static dyn CipherProvider,
    random: Random,
    ports: Ports,
    credentials: Credentials,
    /// Wiped files that the disk may still have: they are retired again until it has not.
    unretired: BTreeMap<FileId, compromise::Unretired>,
    /// Files whose secrets are not as durable as they should be: kept again each minute.
    unkept: BTreeSet<FileId>,
    trials: Trials,
    hub: Hub,
    files: Files,
    sessions: Sessions,
    schedule: Schedule,
    ops: Ops<Action, Waits>,
    batch: Batch,
    events: VecDeque<Event>,
    replies: VecDeque<(Path, Vec<u8>)>,
    drops: [u64; DropReason::ALL.len()],
    monitor: Monitor,
    forget_at: Instant,
    closing: bool,
}

impl Server {
    /// A server that starts to bind its port.
    #[must_use]
    pub fn new(config: ServerConfig, seed: &Seed, now: Now) -> Self {
        let mut hub = Hub::default();
        for member in &config.members {
            hub.set_member(&member.name, &member.rooms, now);
        }
        let (chats, files) = (config.chats, config.files);
        let mut credentials = Credentials::default();
        for credential in config.credentials {
            credentials.accept(now, credential);
        }
        let mut random = Random::new(seed);
        let sessions = Sessions::new(random.public.u64());
        let ports = Ports::new(config.port, config.timing, now, &mut random.public);
        let mut server = Self {
            server_id: tame(&config.server_id),
            server_name: tame(&config.server_name),
            public: config.public,
            max_sessions: config.max_sessions,
            timing: config.timing,
            key_limits: config.key_limits,
            renewal_valid_for: config.renewal_valid_for,
            provider: config.provider,
            random,
            ports,
            credentials,
            unretired: BTreeMap::new(),
            unkept: BTreeSet::new(),
            trials: Trials::new(now.mono),
            hub,
            files: Files::default(),
            sessions,
            schedule: Schedule::default(),
            ops: Ops::default(),
            batch: Batch::default(),
            events: VecDeque::new(),
            replies: VecDeque::new(),
            drops: [0; DropReason::ALL.len()],
            monitor: Monitor::new(now),
            forget_at: now.mono + FORGET_EVERY,
            closing: false,
        };
        server.bind(now);
        chats.into_iter().for_each(|stored| server.restore(now, stored));
        for stored in files {
            server.keep_file(stored);
        }
        server
    }

    /// Input: an action was completed. A stray or second completion is ignored.
    pub fn handle_completion(&mut self, now: Now, op: OpId, outcome: Outcome) {
        let done = outcome == Outcome::Done;
        match self.ops.finish(op) {
            Some(Waits::Bind(port)) => self.bound(now, port, done),
            Some(Waits::Renew(secret)) => self.renewed(now, secret, done),
            Some(Waits::Keep { file, again }) => self.kept(file, again, done),
            Some(Waits::Issue(credential)) if done => {
                self.credentials.accept(now, credential);
            }
            Some(Waits::Retire(replacement)) => self.retired(now, replacement, done),
            Some(Waits::RetireAgain(files)) => self.note_retired(&files, done),
            Some(Waits::Replace(credential, replacement)) => {
                if done {
                    self.credentials.accept(now, credential);
                }
                self.replaced(now, replacement, done);
            }
            Some(Waits::Store(stored)) => self.chat_stored(now, &stored, done),
            Some(Waits::Issue(_) | Waits::Nothing) | None => {}
        }
    }

    /// Nobody said how an action ended.
    fn give_up(&mut self, now: Now, op: OpId) {
        if let Some(Waits::Bind(port)) = self.ops.waits(op) {
            // It may be bound after all, and nobody would ever close it.
            let port = *port;
            self.close(now, port);
        }
        self.handle_completion(now, op, Outcome::Failed);
    }

    /// Input: a deadline may have come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.watch_clock(now);
        self.set_deadlines();
        // Once each: what is due until it is polled would else be due for ever.
        for id in self.schedule.due(now.mono) {
            self.with_session(now, id, |session, cx| session.handle_timeout(cx));
        }
        while let Some(op) = self.ops.expired(now.mono) {
            self.give_up(now, op);
        }
        if self.forget_at <= now.mono {
            self.forget_at = now.mono + FORGET_EVERY;
            for file in self.credentials.forget(now) {
                self.keep(now, file);
            }
            self.retire_again(now);
            self.keep_again(now);
            self.expire_chat(now);
            self.expire_files(now);
            self.watch_minute();
        }
        if self.ports.deadline().is_some_and(|at| at <= now.mono) {
            self.turn_ports(now);
        }
        if self.credentials.deadline().is_some_and(|at| at <= now.mono) {
            self.retire_due(now);
        }
        self.tell_late(now);
    }

    /// Does something to a session, then all that follows from it: its events are drained here,
    /// inside the input that caused them.
    fn with_session<T>(
        &mut self,
        now: Now,
        id: SessionId,
        work: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let entry = self.sessions.get_mut(id)?;
        let mut cx = Context { now, random: &mut self.random };
        let result = work(&mut entry.session, &mut cx);
        self.drain(now, id);
        Some(result)
    }

    fn drain(&mut self, now: Now, id: SessionId) {
        while let Some(event) = self.sessions.get_mut(id).and_then(|e| e.session.poll_event()) {
            self.on_session_event(now, id, event);
        }
        self.pump(now, id);
        let Some(entry) = self.sessions.get(id) else { return };
        if entry.session.is_over() {
            self.remove(id);
            return;
        }
        if entry.half_open_until().is_some_and(|at| at <= now.mono) {
            self.remove(id);
            return;
        }
        self.schedule.touch(id);
    }

    /// Sets the deadlines of what was touched since the last time.
    fn set_deadlines(&mut self) {
        while let Some(id) = self.schedule.next_stale() {
            let deadline = self.sessions.get(id).and_then(|entry| entry.deadline());
            self.schedule.set_deadline(id, deadline);
        }
    }

    fn remove(&mut self, id: SessionId) {
        self.schedule.forget(id);
        self.files_gone(id);
        self.sessions.remove(id);
    }

    fn on_session_event(&mut self, now: Now, id: SessionId, event: SessionEvent) {
        match event {
            SessionEvent::Established => self.established(now, id),
            SessionEvent::Message(message) => self.take_message(now, id, message),
            SessionEvent::Acked(number) => self.mail_acked(now, id, number),
            SessionEvent::KeysRotated(epoch) => self.keys_rotated(now, id, epoch),
            SessionEvent::Moved { from, to } => self.moved(id, from, to),
            SessionEvent::Compromised => self.compromised_by_member(now, id),
            SessionEvent::Wiped { acknowledged } => self.signalled(now, id, acknowledged),
            SessionEvent::File(number, event) => self.on_file_event(now, id, number, event),
            SessionEvent::Closed(reason) => self.gone(now, id, reason),
        }
    }

    /// A session is on another path: datagrams from there are its first.
    fn moved(&mut self, id: SessionId, from: Path, to: Path) {
        self.sessions.moved(id, from.remote, to.remote);
        if let Some(entry) = self.sessions.get(id).filter(|_| from.remote != to.remote) {
            let (member, from, to) = (entry.member.to_string(), from.remote, to.remote);
            self.events.push_back(Event::Audit(Audit::PathMoved { session: id, member, from, to }));
        }
    }

    /// An established session is no more: its member may be offline by that.
    fn gone(&mut self, now: Now, id: SessionId, reason: CloseReason) {
        self.count_traffic(id);
        self.files_gone(id);
        let Some(since) = self.sessions.end(id) else { return };
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let (member, remote) = (entry.member.clone(), entry.session.path().remote);
        let lasted = now.mono.since(since.mono);
        let (sent, received) = entry.session.traffic();
        let unheard = entry.unheard();
        if let Some(presence) = self.hub.leave(&member, id, now.wall) {
            self.broadcast(now, &member, &presence);
        }
        // Another session of the member got them as well.
        let others = !self.hub.sessions_of(&member).is_empty();
        for message in unheard.into_iter().filter(|_| !others) {
            self.send_receipt(now, &member, message);
        }
        let (session, member) = (id, member.to_string());
        let ended = Event::Disconnected { session, member, remote, lasted, sent, received, reason };
        self.events.push_back(ended);
    }

    /// Output: writes the next datagram to send into `out`, which holds at least
    /// [`DATAGRAM_MAX`](crate::limits::DATAGRAM_MAX) bytes.
    pub fn poll_transmit(&mut self, now: Now, out: &mut [u8]) -> Option<Transmit> {
        while let Some((path, reply)) = self.replies.pop_front() {
            if !self.ports.reads(path.port) {
                continue;
            }
            out.get_mut(..reply.len())?.copy_from_slice(&reply);
            return Some(Transmit::one(path, reply.len()));
        }
        while let Some(id) = self.schedule.next_ready() {
            let sent = self.sessions.get_mut(id).and_then(|e| e.session.poll_transmit(now, out));
            if let Some((path, len)) = sent {
                // What would have left by a port that closed meanwhile is lost.
                if self.ports.reads(path.port) {
                    return Some(Transmit::one(path, len));
                }
                continue;
            }
            self.schedule.idle(id);
            let Some(entry) = self.sessions.get(id) else { continue };
            if entry.session.is_over() {
                self.remove(id);
            }
        }
        None
    }

    /// Output: the next action to perform.
    pub fn poll_action(&mut self) -> Option<(OpId, Action)> {
        self.ops.poll()
    }

    /// Output: the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Output: when to call [`Self::handle_timeout`].
    pub fn poll_timeout(&mut self) -> Option<Deadline> {
        self.set_deadlines();
        let session = self.schedule.next_deadline().map(|(deadline, _)| deadline);
        let op = self.ops.deadline().map(|at| Deadline { at, timer: Timer::Completion });
        let forget = Some(Deadline { at: self.forget_at, timer: Timer::Forget });
        let named = |timer| move |at| Deadline { at, timer };
        let ports = self.ports.deadline().map(named(Timer::PortRotation));
        let secrets = self.credentials.deadline().map(named(Timer::Retirement));
        let presence = self.hub.late_at().map(named(Timer::Pacing));
        [session, op, forget, ports, secrets, presence]
            .into_iter()
            .flatten()
            .min_by_key(|deadline| deadline.at)
    }

    /// Getter: datagrams dropped in silence, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.drops)
    }
}

#[cfg(test)]
mod tests;
