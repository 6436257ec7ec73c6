//! Floor 5: the server, as a state machine. See the [crate's contract](crate).

mod admission;
mod audit;
mod commands;
mod compromise;
mod credentials;
mod handshake;
mod hub;
mod ports;
mod relay;
mod router;
mod schedule;

use crate::crypto::aead::CipherProvider;
use crate::error::{CloseReason, DropReason};
use crate::id::{ChatId, Epoch, FileId, OpId, PortId, SessionId};
use crate::limits::HALF_OPEN;
use crate::ops::{Deadline, Ops, Outcome};
use crate::random::{Random, Seed};
use crate::session::{Context, Session, SessionEvent};
use crate::time::{Duration, Instant, Now};
use crate::transport::Timer;
use crate::transport::path::{Path, Transmit};
use crate::wire::message::{Chat, Message};
use crate::wire::secfile::SERVER_NAME_MAX;
use admission::Trials;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
pub use audit::{Alert, Audit, Resource};
use core::net::SocketAddr;
use credentials::Credentials;
pub use credentials::{Credential, CredentialStatus, SecurityFileDraft};
use hub::Hub;
pub use hub::StoredChat;
pub use ports::{PortChoice, Timing};
use ports::{PortPhase, Ports};
use schedule::Schedule;

pub use commands::{IssueError, MemberStatus, RENEWAL_VALID_FOR, SessionStatus, VALID_FOR};

/// Hello replies that wait to be sent; a driver that drains late loses the oldest, and the client
/// asks again.
const REPLIES: usize = 256;
/// Old hellos and secrets are forgotten this often.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// A member and the rooms it is in beside the lobby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its rooms.
    pub rooms: Vec<String>,
}

/// What a server starts from: its configuration, and what it had made durable.
#[derive(Debug)]
pub struct ServerConfig {
    /// The server's id, as its security files name it.
    pub server_id: String,
    /// The server's name, for people.
    pub server_name: String,
    /// Address or host name that clients find it under.
    pub public: String,
    /// How its port is chosen.
    pub port: PortChoice,
    /// How often keys and port rotate (SPEC 7.1).
    pub timing: Timing,
    /// How long a renewed security file is valid, seconds: the longest sleep without carrying a file
    /// by hand (PROTOCOL 5.2).
    pub renewal_valid_for: u64,
    /// Everybody who may connect.
    pub members: Vec<Member>,
    /// Secrets of the files it issued.
    pub credentials: Vec<Credential>,
    /// Chat not yet delivered, oldest first; with no recipient left only its id counts.
    pub chats: Vec<StoredChat>,
    /// Most established sessions (SPEC 11.2).
    pub max_sessions: usize,
    /// Makes packet ciphers.
    pub provider: &'static dyn CipherProvider,
}

/// An effect that the driver or its host performs, and answers with one completion.
///
/// Those about one file are performed in the order in which they were given, and one that is
/// answered as failed was not done, and will not be.
#[derive(Debug)]
pub enum Action {
    /// Listen on UDP port `number`, and name the binding `port`.
    BindPort {
        /// Its name from now on.
        port: PortId,
        /// The port number.
        number: u16,
    },
    /// Close a binding: nothing is sent to it or read from it any more.
    ClosePort {
        /// Its name.
        port: PortId,
    },
    /// Make durable that these, and no others, are the secrets of a file: of what is no longer among
    /// them nothing is kept. An empty list forgets the file.
    KeepCredentials {
        /// Which file.
        file: FileId,
        /// Its secrets, oldest first.
        credentials: Vec<Credential>,
    },
    /// Keep the credential, then seal the file and write it.
    IssueSecurityFile {
        /// What to keep and to seal.
        draft: Box<SecurityFileDraft>,
    },
    /// Make durable that these files are no longer accepted, wiping all that is kept of them.
    RetireFiles {
        /// Which.
        files: Vec<FileId>,
    },
    /// Make a chat durable.
    StoreChat {
        /// The chat and who it is for.
        stored: Box<StoredChat>,
    },
    /// Note, in its own time, that a member has a chat.
    ChatDelivered {
        /// Author of the chat.
        from: String,
        /// Its id.
        id: ChatId,
        /// Who has it.
        by: String,
    },
}

/// What happened, for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server listens on this port.
    Listening {
        /// The port number.
        port: u16,
    },
    /// The server has moved to another port (PROTOCOL 5.2).
    PortRotated {
        /// The port it was on.
        from: u16,
        /// The port it is on.
        to: u16,
    },
    /// No port could be bound: the server stays where it is, if it is anywhere, and tries again in a
    /// minute.
    NoPort,
    /// For the audit log.
    Audit(Audit),
    /// For a person.
    Alert(Alert),
    /// A member's session is established.
    Connected {
        /// Which session.
        session: SessionId,
        /// Whose.
        member: String,
        /// From where.
        remote: SocketAddr,
    },
    /// An established session has ended.
    Disconnected {
        /// Which session.
        session: SessionId,
        /// Whose.
        member: String,
        /// From where.
        remote: SocketAddr,
        /// How long it lasted.
        lasted: Duration,
        /// Bytes of datagrams sealed.
        sent: u64,
        /// Bytes of datagrams opened.
        received: u64,
        /// Why.
        reason: CloseReason,
    },
    /// A chat is durable, and on its way.
    Chat(Chat),
    /// COMPROMISED was raised for a member.
    Compromised {
        /// Whose keys.
        member: String,
        /// Who raised it: the member, or `server`.
        by: String,
        /// Whether the retirement is durable and the replacement file written.
        new_file_ready: bool,
    },
    /// Our signal to a session is through with.
    Signalled {
        /// Which session.
        session: SessionId,
        /// Whose.
        member: String,
        /// Whether the client acknowledged it.
        acknowledged: bool,
    },
    /// A session is in a new epoch.
    KeysRotated {
        /// Which session.
        session: SessionId,
        /// Whose.
        member: String,
        /// Its epoch.
        epoch: Epoch,
    },
}

/// What waits for an action.
#[derive(Debug)]
enum Waits {
    Bind,
    Issue(Credential),
    Retire(compromise::Replacement),
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

/// A session and whose it is.
#[derive(Debug)]
struct Entry {
    session: Session,
    file: FileId,
    member: String,
    hello_at: Instant,
    /// Receipts, presence and refusals that wait for a place in its channel.
    owed: VecDeque<Message>,
    /// How far the retirement of its file is, once COMPROMISED was raised.
    retirement: Option<compromise::Retirement>,
    /// When it was established; `None` before that.
    established: Option<Now>,
}

impl Entry {
    /// When it goes if it is not established by then.
    fn half_open_until(&self) -> Option<Instant> {
        self.session.is_half_open().then(|| self.hello_at + HALF_OPEN)
    }

    /// When it is to be looked at; while it is half-open, nothing else counts.
    fn deadline(&self) -> Option<Instant> {
        self.half_open_until().or_else(|| self.session.deadline().map(|(_, at)| at))
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
    renewal_valid_for: u64,
    provider: &'static dyn CipherProvider,
    random: Random,
    ports: Ports,
    credentials: Credentials,
    trials: Trials,
    hub: Hub,
    sessions: BTreeMap<SessionId, Entry>,
    by_address: BTreeMap<SocketAddr, SessionId>,
    next_session: u64,
    schedule: Schedule,
    ops: Ops<Action, Waits>,
    events: VecDeque<Event>,
    replies: VecDeque<(Path, Vec<u8>)>,
    drops: [u64; DropReason::ALL.len()],
    forget_at: Instant,
    closing: bool,
}

impl Server {
    /// A server that starts to bind its port.
    #[must_use]
    pub fn new(config: ServerConfig, seed: &Seed, now: Now) -> Self {
        let mut hub = Hub::default();
        for member in &config.members {
            hub.set_member(&member.name, &member.rooms, now.wall);
        }
        config.chats.into_iter().for_each(|stored| hub.restore(stored));
        let mut credentials = Credentials::default();
        for credential in config.credentials {
            credentials.accept(now.mono, credential);
        }
        let mut server = Self {
            server_id: tame(&config.server_id),
            server_name: tame(&config.server_name),
            public: config.public,
            max_sessions: config.max_sessions,
            timing: config.timing,
            renewal_valid_for: config.renewal_valid_for,
            provider: config.provider,
            random: Random::new(seed),
            ports: Ports::new(config.port, now.wall),
            credentials,
            trials: Trials::new(now.mono),
            hub,
            sessions: BTreeMap::new(),
            by_address: BTreeMap::new(),
            next_session: 0,
            schedule: Schedule::default(),
            ops: Ops::default(),
            events: VecDeque::new(),
            replies: VecDeque::new(),
            drops: [0; DropReason::ALL.len()],
            forget_at: now.mono + FORGET_EVERY,
            closing: false,
        };
        server.bind(now);
        server
    }

    fn bind(&mut self, now: Now) {
        match self.ports.phase {
            PortPhase::Binding { port, number, .. } => {
                let action = Action::BindPort { port, number };
                if self.ops.start(now.mono, action, Waits::Bind).is_err() {
                    self.events.push_back(Event::NoPort);
                }
            }
            PortPhase::Failed => self.events.push_back(Event::NoPort),
            PortPhase::Open { .. } => {}
        }
    }

    /// Input: an action was completed. A stray or second completion is ignored.
    pub fn handle_completion(&mut self, now: Now, op: OpId, outcome: Outcome) {
        let done = outcome == Outcome::Done;
        match self.ops.finish(op) {
            Some(Waits::Bind) => {
                if done {
                    self.ports.bound();
                    let listening = self.ports.number().map(|port| Event::Listening { port });
                    self.events.extend(listening);
                } else {
                    self.ports.unavailable();
                    self.bind(now);
                }
            }
            Some(Waits::Issue(credential)) if done => {
                self.credentials.accept(now.mono, credential);
            }
            Some(Waits::Retire(replacement)) => self.retired(now, replacement, done),
            Some(Waits::Replace(credential, replacement)) => {
                if done {
                    self.credentials.accept(now.mono, credential);
                }
                self.replaced(now, replacement, done);
            }
            Some(Waits::Store(stored)) => self.chat_stored(now, &stored, done),
            Some(Waits::Issue(_) | Waits::Nothing) | None => {}
        }
    }

    /// Input: a deadline may have come.
    pub fn handle_timeout(&mut self, now: Now) {
        // Once each: what is due until it is polled would else be due for ever.
        for id in self.schedule.due(now.mono) {
            self.with_session(now, id, |session, cx| session.handle_timeout(cx));
        }
        while let Some(op) = self.ops.expired(now.mono) {
            self.handle_completion(now, op, Outcome::Failed);
        }
        if self.forget_at <= now.mono {
            self.forget_at = now.mono + FORGET_EVERY;
            let gone = self.credentials.forget(now.mono, now.wall);
            if !gone.is_empty() {
                gone.iter().for_each(|file| self.credentials.wipe(*file));
                // They have expired: if this is lost, it is done after the next start.
                let action = Action::RetireFiles { files: gone };
                let _started = self.ops.start(now.mono, action, Waits::Nothing);
            }
        }
    }

    /// Does something to a session, then all that follows from it: its events are drained here,
    /// inside the input that caused them.
    fn with_session<T>(
        &mut self,
        now: Now,
        id: SessionId,
        work: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let entry = self.sessions.get_mut(&id)?;
        let mut cx = Context { now, random: &mut self.random };
        let result = work(&mut entry.session, &mut cx);
        self.drain(now, id);
        Some(result)
    }

    fn drain(&mut self, now: Now, id: SessionId) {
        while let Some(event) = self.sessions.get_mut(&id).and_then(|e| e.session.poll_event()) {
            self.on_session_event(now, id, event);
        }
        self.pump(now, id);
        let Some(entry) = self.sessions.get(&id) else { return };
        if entry.session.is_over() {
            self.remove(id);
            return;
        }
        if entry.half_open_until().is_some_and(|at| at <= now.mono) {
            self.remove(id);
            return;
        }
        let deadline = entry.deadline();
        self.schedule.touch(id, deadline);
    }

    fn remove(&mut self, id: SessionId) {
        self.schedule.forget(id);
        if let Some(entry) = self.sessions.remove(&id) {
            let remote = entry.session.path().remote;
            if self.by_address.get(&remote) == Some(&id) {
                self.by_address.remove(&remote);
            }
        }
    }

    fn on_session_event(&mut self, now: Now, id: SessionId, event: SessionEvent) {
        match event {
            SessionEvent::Established => self.established(now, id),
            SessionEvent::Message(message) => self.take_message(now, id, message),
            SessionEvent::Acked(number) => self.mail_acked(now, id, number),
            SessionEvent::KeysRotated(epoch) => {
                if let Some(entry) = self.sessions.get(&id) {
                    let (session, member) = (id, entry.member.clone());
                    self.events.push_back(Event::KeysRotated { session, member, epoch });
                }
            }
            SessionEvent::Moved { from, to } => self.moved(id, from, to),
            SessionEvent::Compromised => self.compromised_by_member(now, id),
            SessionEvent::Wiped { acknowledged } => self.signalled(now, id, acknowledged),
            SessionEvent::Closed(reason) => self.gone(now, id, reason),
        }
    }

    /// A session is on another path: datagrams from there are its first.
    fn moved(&mut self, id: SessionId, from: Path, to: Path) {
        if self.by_address.get(&from.remote) == Some(&id) {
            self.by_address.remove(&from.remote);
        }
        self.by_address.insert(to.remote, id);
        if let Some(entry) = self.sessions.get(&id).filter(|_| from.remote != to.remote) {
            let (member, from, to) = (entry.member.clone(), from.remote, to.remote);
            self.events.push_back(Event::Audit(Audit::PathMoved { session: id, member, from, to }));
        }
    }

    /// An established session is no more: its member may be offline by that.
    fn gone(&mut self, now: Now, id: SessionId, reason: CloseReason) {
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        let Some(since) = entry.established.take() else { return };
        let (member, remote) = (entry.member.clone(), entry.session.path().remote);
        let lasted = now.mono.since(since.mono);
        let (sent, received) = (0, 0);
        if let Some(presence) = self.hub.leave(&member, id, now.wall) {
            self.broadcast(now, &member, &presence);
        }
        let session = id;
        let ended = Event::Disconnected { session, member, remote, lasted, sent, received, reason };
        self.events.push_back(ended);
    }

    /// Output: writes the next datagram to send into `out`, which holds at least
    /// [`DATAGRAM_MAX`](crate::limits::DATAGRAM_MAX) bytes.
    pub fn poll_transmit(&mut self, now: Now, out: &mut [u8]) -> Option<Transmit> {
        if let Some((path, reply)) = self.replies.pop_front() {
            out.get_mut(..reply.len())?.copy_from_slice(&reply);
            return Some(Transmit::one(path, reply.len()));
        }
        while let Some(id) = self.schedule.next_ready() {
            let sent = self.sessions.get_mut(&id).and_then(|e| e.session.poll_transmit(now, out));
            if let Some((path, len)) = sent {
                return Some(Transmit::one(path, len));
            }
            self.schedule.idle(id);
            let Some(entry) = self.sessions.get(&id) else { continue };
            if entry.session.is_over() {
                self.remove(id);
            } else {
                // Sending moves deadlines too.
                self.schedule.set_deadline(id, entry.deadline());
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
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let session = self.schedule.next_deadline().map(|(at, id)| {
            let timer = self.sessions.get(&id).and_then(|entry| entry.session.deadline());
            Deadline { at, timer: timer.map_or(Timer::Forget, |(timer, _)| timer) }
        });
        let op = self.ops.deadline().map(|at| Deadline { at, timer: Timer::Completion });
        let forget = Some(Deadline { at: self.forget_at, timer: Timer::Forget });
        [session, op, forget].into_iter().flatten().min_by_key(|deadline| deadline.at)
    }

    /// Getter: datagrams dropped in silence, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.drops)
    }

    fn dropped(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }
}
