//! Floor 5: the client, as a state machine. See the [crate's contract](crate).

mod api;
mod chat;
mod commands;
mod files;
mod moves;
mod router;
mod search;

use crate::crypto::aead::CipherProvider;
use crate::error::{CloseReason, DropReason};
use crate::id::{Epoch, OpId};
use crate::ops::{Deadline, Ops, Outcome};
use crate::random::{Random, Seed};
use crate::session::{Batch, Context, Session, SessionEvent};
use crate::time::{Duration, Instant, Now};
use crate::transport::Timer;
use crate::transport::path::{Path, Transmit};
use crate::wire::message::{ErrorCode, ErrorMessage, Message, SessionInfo};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
pub use api::{Action, ClientConfig, Event, Renewal};
use chat::Chats;
use core::net::IpAddr;
use files::Files;
use moves::{NextPort, Renewing, ServerClock};
use search::{Answered, Found, PORT, Search};

/// First pause before a client connects anew; doubles up to [`RECONNECT_MAX`].
const RECONNECT_MIN: Duration = Duration::from_secs(1);
/// Longest pause.
const RECONNECT_MAX: Duration = Duration::from_secs(30);

/// What waits for an action.
#[derive(Clone, Copy, Debug)]
enum Waits {
    Bind,
    Store,
    Wipe,
    Nothing,
}

#[derive(Debug)]
enum State {
    /// Waits for its binding.
    Binding,
    /// Sends hellos.
    Searching(Box<Search>),
    /// Has a session, and what the server said of it.
    InSession(Box<Session>, Box<SessionInfo>),
    /// Waits to connect anew.
    Waiting(Instant),
    /// COMPROMISED: acknowledges copies of the server's signal, if it was that.
    Wiped(Option<Box<Session>>),
    /// For good.
    Closed,
}

/// The client. Every method is an input (`handle_*`), a command, an output (`poll_*`) or a getter.
#[derive(Debug)]
pub struct Client {
    config: Option<ClientConfig>,
    /// The server's addresses: what comes from another is dropped (PROTOCOL 6).
    addresses: Vec<IpAddr>,
    provider: &'static dyn CipherProvider,
    random: Random,
    state: State,
    chats: Chats,
    files: Files,
    /// A session without keys that repeats its fatal error.
    last_words: Option<Box<Session>>,
    /// Of the session under way, while it is half-open.
    answered: Option<Answered>,
    was_connected: bool,
    reconnect_in: Duration,
    /// The user raised COMPROMISED.
    declared: bool,
    /// The user said goodbye: whatever ends the session, it is the last one.
    leaving: bool,
    skew_ms: i64,
    server_clock: Option<ServerClock>,
    next_port: Option<NextPort>,
    renewing: Renewing,
    ops: Ops<Action, Waits>,
    batch: Batch,
    events: VecDeque<Event>,
    drops: [u64; DropReason::ALL.len()],
}

impl Client {
    /// A client that starts to connect.
    #[must_use]
    pub fn new(config: ClientConfig, seed: &Seed, now: Now) -> Self {
        let mut client = Self {
            provider: config.provider,
            addresses: config.addresses.clone(),
            config: Some(config),
            random: Random::new(seed),
            state: State::Binding,
            chats: Chats::new(now.mono),
            files: Files::default(),
            last_words: None,
            answered: None,
            was_connected: false,
            reconnect_in: RECONNECT_MIN,
            declared: false,
            leaving: false,
            skew_ms: 0,
            server_clock: None,
            next_port: None,
            renewing: Renewing::Idle,
            ops: Ops::default(),
            batch: Batch::default(),
            events: VecDeque::new(),
            drops: [0; DropReason::ALL.len()],
        };
        client.start(now, Action::BindPort { port: PORT }, Waits::Bind);
        client
    }

    fn start(&mut self, now: Now, action: Action, waits: Waits) {
        // A client has at most a few actions under way.
        let _started = self.ops.start(now.mono, action, waits);
    }

    /// Input: an action was completed. A stray or second completion is ignored.
    pub fn handle_completion(&mut self, now: Now, op: OpId, outcome: Outcome) {
        self.complete(now, op, Some(outcome));
    }

    /// An action was completed, or (`None`) is given up, and may have been done.
    fn complete(&mut self, now: Now, op: OpId, outcome: Option<Outcome>) {
        let ok = outcome == Some(Outcome::Done);
        match self.ops.finish(op) {
            Some(Waits::Bind) => match self.state {
                State::Binding if ok => self.search(now),
                State::Binding => self.finish(now, CloseReason::Ended(ErrorCode::Internal)),
                _ => {}
            },
            Some(Waits::Store) => self.stored(now, outcome.map(|_| ok)),
            Some(Waits::Wipe) => self.events.push_back(Event::Wiped { ok }),
            Some(Waits::Nothing) | None => {}
        }
    }

    /// Command: connects again after [`Event::Closed`], with the same file.
    pub fn connect(&mut self, now: Now) {
        if matches!(self.state, State::Closed | State::Waiting(_)) {
            self.leaving = false;
            self.search(now);
        }
    }

    fn search(&mut self, now: Now) {
        // With which secret to begin is known once it is known what the disk holds; a user who raised
        // COMPROMISED does not wait for that.
        if !matches!(self.renewing, Renewing::Idle) && !self.declared {
            self.state = State::Waiting(now.mono + RECONNECT_MIN);
        } else if let Some(config) = &self.config {
            let search = Search::new(now, &config.file, &mut self.random, self.provider);
            self.state = State::Searching(Box::new(search));
        }
    }

    /// Ends for good; a user who raised COMPROMISED gets the wipe in any case.
    fn finish(&mut self, now: Now, reason: CloseReason) {
        if self.declared {
            self.wipe(now, false, false, None);
            return;
        }
        self.state = State::Closed;
        self.events.push_back(Event::Closed(reason));
    }

    /// The first reply that opens ends the search.
    fn found(&mut self, now: Now, path: Path, reply: Message) {
        let (State::Searching(search), Some(config)) =
            (core::mem::replace(&mut self.state, State::Closed), &self.config)
        else {
            return;
        };
        self.answered = Some(search.answered(now.mono));
        match search.finish(now, path, config, reply) {
            Found::Session(session, info) => {
                let wide = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
                self.skew_ms = wide(now.wall.0).saturating_sub(wide(info.now.0));
                self.server_clock = Some(ServerClock { told_at: now.mono, told: info.now });
                self.next_port = None;
                self.state = State::InSession(session, Box::new(info));
            }
            Found::Refused(ErrorMessage { code, message, now: server, .. }) => {
                self.ended(now, CloseReason::Refused { code, message, now: server });
            }
            Found::Bad(violation) => self.ended(now, CloseReason::Violated(violation)),
        }
    }

    /// A session or a search has ended: for good, or until the next attempt.
    fn ended(&mut self, now: Now, reason: CloseReason) {
        self.chats.session_ended();
        self.events.extend(self.files.session_ended());
        let again = match &reason {
            CloseReason::Idle
            | CloseReason::Unreachable
            | CloseReason::KeysWorn
            | CloseReason::Violated(_) => true,
            CloseReason::Refused { code, .. } => {
                !matches!(code, ErrorCode::Superseded | ErrorCode::Expired | ErrorCode::ClockSkew)
            }
            CloseReason::Goodbye | CloseReason::Ended(_) | CloseReason::Wiped => false,
        };
        let wanted = self.config.as_ref().is_some_and(|config| config.reconnect);
        if !self.declared && !self.leaving && again && wanted && self.was_connected {
            let retry_in = self.reconnect_in;
            self.reconnect_in = (retry_in * 2).min(RECONNECT_MAX);
            self.state = State::Waiting(now.mono + retry_in);
            self.events.push_back(Event::Disconnected { reason, retry_in });
        } else {
            self.finish(now, reason);
        }
    }

    /// All that follows from what was done to the session.
    fn drain(&mut self, now: Now) {
        while let State::InSession(session, info) = &mut self.state {
            let Some(event) = session.poll_event() else { break };
            match event {
                // The server's first packet may be its refusal: that was no connection.
                SessionEvent::Established if !session.is_open() => {}
                SessionEvent::Established => {
                    self.was_connected = true;
                    self.reconnect_in = RECONNECT_MIN;
                    let (info, skew_ms) = ((**info).clone(), self.skew_ms);
                    self.events.push_back(Event::Connected { info, epoch: Epoch(1), skew_ms });
                    self.chats.session_began();
                    if self.declared && session.declare_compromised(now, "user_initiated") {
                        self.signal_elsewhere(now);
                    }
                }
                SessionEvent::Message(Message::PortRotation(announced)) => {
                    self.announced(now, announced);
                }
                SessionEvent::File(number, event) => {
                    self.events.extend(self.files.take(now, session, number, event));
                }
                SessionEvent::Message(message) => {
                    self.events.extend(self.chats.take(now.mono, message));
                }
                SessionEvent::Acked(_) => {}
                SessionEvent::KeysRotated(epoch) => {
                    self.events.push_back(Event::KeysRotated { epoch });
                }
                SessionEvent::Moved { to, .. } => {
                    self.events.push_back(Event::Moved { remote: to.remote });
                }
                SessionEvent::Compromised => self.compromised(now),
                SessionEvent::Wiped { acknowledged } => self.wipe(now, false, acknowledged, None),
                SessionEvent::Closed(reason) => self.session_closed(now, reason),
            }
        }
        if let State::InSession(session, _) = &mut self.state
            && let Some(rtt) = session.take_pong()
        {
            self.events.push_back(Event::Pong { rtt });
        }
        if let State::InSession(session, _) = &mut self.state
            && session.is_open()
        {
            self.files.pump(session);
            if self.chats.pump(now.mono, session) {
                self.events.push_back(Event::Writable);
            }
        }
    }

    /// The session has no keys left, but may have a last word to say.
    fn session_closed(&mut self, now: Now, reason: CloseReason) {
        if let State::InSession(session, _) = core::mem::replace(&mut self.state, State::Closed) {
            self.last_words = Some(session).filter(|session| !session.is_over());
            self.ended(now, reason);
        }
    }

    /// The server raised COMPROMISED, or its signal crossed ours: acknowledged, then wiped.
    fn compromised(&mut self, now: Now) {
        if let State::InSession(mut session, _) = core::mem::replace(&mut self.state, State::Closed)
        {
            session.acknowledge(now, false);
            let by_server = !self.declared;
            self.wipe(now, by_server, true, Some(session));
        }
    }

    /// Keys in memory first, then the file (SPEC 8.5); what is left can only repeat its ack.
    fn wipe(&mut self, now: Now, by_server: bool, acknowledged: bool, echo: Option<Box<Session>>) {
        self.state = State::Wiped(echo);
        self.config = None;
        self.renewing = Renewing::Idle;
        self.chats = Chats::new(now.mono);
        self.files = Files::default();
        self.events.push_back(Event::Compromised { by_server, acknowledged });
        self.start(now, Action::WipeSecurityFiles, Waits::Wipe);
        if matches!(self.state, State::Wiped(None)) {
            self.close_port(now);
        }
    }

    /// Nothing is sent or read any more (SPEC 8.5).
    fn close_port(&mut self, now: Now) {
        self.start(now, Action::ClosePort { port: PORT }, Waits::Nothing);
    }

    /// Input: a deadline may have come.
    pub fn handle_timeout(&mut self, now: Now) {
        match &mut self.state {
            State::Searching(search) if search.until <= now.mono => {
                self.ended(now, CloseReason::Unreachable);
            }
            State::InSession(session, _) => {
                session.handle_timeout(&mut Context { now, random: &mut self.random });
                self.drain(now);
                self.follow_port(now);
                self.search_on(now);
            }
            State::Waiting(at) if *at <= now.mono => self.search(now),
            State::Wiped(Some(session)) => {
                session.handle_timeout(&mut Context { now, random: &mut self.random });
                if session.is_over() {
                    self.state = State::Wiped(None);
                    self.close_port(now);
                }
            }
            State::Searching(_)
            | State::Waiting(_)
            | State::Binding
            | State::Wiped(None)
            | State::Closed => {}
        }
        self.store_again(now);
        while let Some(op) = self.ops.expired(now.mono) {
            self.complete(now, op, None);
        }
    }

    /// Output: writes the next datagram to send into `out`, which holds at least
    /// [`DATAGRAM_MAX`](crate::limits::DATAGRAM_MAX) bytes.
    pub fn poll_transmit(&mut self, now: Now, out: &mut [u8]) -> Option<Transmit> {
        if let Some(session) = &mut self.last_words {
            if let Some((path, len)) = session.poll_transmit(now, out) {
                return Some(Transmit::one(path, len));
            }
            if session.is_over() {
                self.last_words = None;
            }
        }
        match &mut self.state {
            State::Searching(search) => {
                let config = self.config.as_ref()?;
                let targets = |copy| {
                    let ports = search::ports(&config.file, now.wall.secs(), copy, config.port);
                    search::targets(&config.addresses, &ports)
                };
                let (remote, len) = search.poll(now, targets, out)?;
                Some(Transmit::one(Path::new(PORT, remote), len))
            }
            State::InSession(session, _) | State::Wiped(Some(session)) => {
                let (path, len) = session.poll_transmit(now, out)?;
                Some(Transmit::one(path, len))
            }
            State::Binding | State::Waiting(_) | State::Wiped(None) | State::Closed => None,
        }
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
        let own = match &self.state {
            State::Searching(search) => Some((Timer::Repeat, search.deadline())),
            State::InSession(session, _) | State::Wiped(Some(session)) => session.deadline(),
            State::Waiting(at) => Some((Timer::Reconnect, *at)),
            State::Binding | State::Wiped(None) | State::Closed => None,
        };
        let op = self.ops.deadline().map(|at| (Timer::Completion, at));
        let port = self.next_port.and_then(|next| Some((Timer::PortRotation, next.ask_at()?)));
        let chat = self.chats.wake_at.map(|at| (Timer::Pacing, at));
        let in_session = matches!(&self.state, State::InSession(session, _) if session.is_open());
        let [port, chat] = [port, chat].map(|timer| timer.filter(|_| in_session));
        let search = self.search_on_at().map(|at| (Timer::Repeat, at));
        let store = self.store_again_at().map(|at| (Timer::Completion, at));
        let last_words = self.last_words.as_ref().and_then(|session| session.deadline());
        let next = [own, op, port, chat, search, store, last_words]
            .into_iter()
            .flatten()
            .min_by_key(|(_, at)| *at)?;
        Some(Deadline { timer: next.0, at: next.1 })
    }
}
