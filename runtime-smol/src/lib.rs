//! Drives a ClawChat [`Client`] with smol: one task owns the machine and its sockets, and a
//! [`Handle`] reaches it from anywhere.
//!
//! ```text
//!   Handle ──commands──►┌───────────────────────────────┐
//!                       │ task: race(sockets, deadline, │──► UDP
//!   Handle ◄──events────│       commands, completions)  │◄── UDP
//!                       └───────────────┬───────────────┘
//!                              actions  ▼  completions
//!                              Host, on the blocking pool
//! ```
//!
//! The server counts a chat as delivered once we acknowledge it. So nothing is sent while a chat is
//! with the application, which is until it asks for the next event: what it has not dealt with when it
//! is killed, it gets again. An application that does not ask for a minute has lost its session.
//!
//! Dropping the handle does not end the session: say [`Handle::leave`] and wait for
//! [`Event::Closed`], or drop the task.
#![forbid(unsafe_code)]

pub mod clock;
pub mod entropy;
mod host;
mod jobs;
mod socket;
mod task;

pub use host::Host;

use clawchat_core::client::{Client, ClientConfig, Event};
use clawchat_core::error::SendError;
use clawchat_core::id::{ChatId, Epoch, TransferId};
use clawchat_core::ranges::RangeSet;
use clawchat_core::time::Duration;
use clawchat_core::wire::message::{FileError, Status};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use smol::channel::{Receiver, Sender, bounded, unbounded};
use std::io;
use std::sync::Arc;

/// How a session is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The sealing epoch, if there is an established session.
    pub epoch: Option<Epoch>,
    /// The smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Where the server is, while there is a session.
    pub server: Option<SocketAddr>,
    /// Chats that the server has not stored yet.
    pub unreceipted: usize,
}

/// How the task uses the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Many datagrams go by one call where the system can cut them out of one buffer (GSO). Without, each
    /// has its own: for network cards that do it wrong, and to measure what it is worth.
    pub offload: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { offload: true }
    }
}

/// What a handle asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Send {
        to: String,
        text: String,
        reply: Sender<Result<ChatId, SendError>>,
    },
    Status(Status, Sender<Result<(), SendError>>),
    RotateKeys(Sender<Result<(), SendError>>),
    Ping(Sender<Result<(), SendError>>),
    State(Sender<SessionState>),
    OfferFile {
        id: ChatId,
        to: String,
        name: String,
        size: u64,
        reply: Sender<Result<TransferId, SendError>>,
    },
    FileDigest(TransferId, [u8; 32]),
    AcceptFile {
        transfer: TransferId,
        have: RangeSet,
        limit: u64,
        reply: Sender<Result<(), SendError>>,
    },
    RaiseLimit(TransferId, u64),
    FileChecked(TransferId, Result<(), FileError>),
    CancelFile(TransferId, String),
    Progress(TransferId, Sender<Option<(u64, u64)>>),
    Connect,
    Compromised,
    GiveUpSignalling,
    Leave,
    /// The application has dealt with so many chats.
    DealtWith(usize),
}

/// Reaches the task that owns the machine. Cheap to clone; events go to whoever takes them first.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: Sender<Command>,
    events: Receiver<Event>,
    /// Chats that the application has and is not known to have dealt with.
    with_application: Arc<AtomicUsize>,
}

impl Handle {
    /// Starts to connect. The future is the task: run it, detached or not, on any executor.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn connect(
        config: ClientConfig,
        host: Arc<dyn Host>,
        options: Options,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send)> {
        let seed = entropy::seed()?;
        let families = config.addresses.clone();
        let client = Client::new(config, &seed, clock::now());
        let (commands, inbox) = unbounded();
        let (outbox, events) = unbounded();
        let task = task::Task::new(client, families, host, inbox, outbox, options);
        let with_application = Arc::default();
        Ok((Self { commands, events, with_application }, task.run()))
    }

    async fn ask<T>(&self, make: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = bounded(1);
        self.commands.send(make(reply)).await.ok()?;
        answer.recv().await.ok()
    }

    /// Sends a chat, now or once there is a session. Its id names it in receipts.
    ///
    /// # Errors
    /// See [`Client::send_chat`].
    pub async fn send_chat(&self, to: &str, text: &str) -> Result<ChatId, SendError> {
        let (to, text) = (to.to_owned(), text.to_owned());
        let sent = self.ask(|reply| Command::Send { to, text, reply }).await;
        sent.unwrap_or(Err(SendError::Closed))
    }

    /// Says how the user is.
    ///
    /// # Errors
    /// See [`Client::set_status`].
    pub async fn set_status(&self, status: Status) -> Result<(), SendError> {
        let set = self.ask(|reply| Command::Status(status, reply)).await;
        set.unwrap_or(Err(SendError::Closed))
    }

    /// Offers a key rotation.
    ///
    /// # Errors
    /// See [`Client::rotate_keys`].
    pub async fn rotate_keys(&self) -> Result<(), SendError> {
        self.ask(Command::RotateKeys).await.unwrap_or(Err(SendError::Closed))
    }

    /// Offers a file; [`Host::load`] is asked for its bytes once the server takes it.
    ///
    /// # Errors
    /// See [`Client::offer_file`].
    pub async fn offer_file(
        &self,
        id: ChatId,
        to: &str,
        name: &str,
        size: u64,
    ) -> Result<TransferId, SendError> {
        let (to, name) = (to.to_owned(), name.to_owned());
        let offered = self.ask(|reply| Command::OfferFile { id, to, name, size, reply }).await;
        offered.unwrap_or(Err(SendError::Closed))
    }

    /// Tells the SHA-256 of a file that was offered.
    pub fn file_digest(&self, transfer: TransferId, sha256: [u8; 32]) {
        self.tell(Command::FileDigest(transfer, sha256));
    }

    /// Takes a file that was offered to us: what of it is here, and up to where it may come, bytes.
    /// [`Host::store`] gets its bytes.
    ///
    /// # Errors
    /// See [`Client::accept_file`].
    pub async fn accept_file(
        &self,
        transfer: TransferId,
        have: RangeSet,
        limit: u64,
    ) -> Result<(), SendError> {
        let taken = self.ask(|reply| Command::AcceptFile { transfer, have, limit, reply }).await;
        taken.unwrap_or(Err(SendError::Closed))
    }

    /// Lets more of a file come, up to `limit` bytes.
    pub fn raise_file_limit(&self, transfer: TransferId, limit: u64) {
        self.tell(Command::RaiseLimit(transfer, limit));
    }

    /// Answers [`Event::FileComplete`].
    pub fn file_checked(&self, transfer: TransferId, result: Result<(), FileError>) {
        self.tell(Command::FileChecked(transfer, result));
    }

    /// Ends a transfer, whoever offered it.
    pub fn cancel_file(&self, transfer: TransferId, reason: &str) {
        self.tell(Command::CancelFile(transfer, reason.to_owned()));
    }

    /// How many bytes of a file of ours the server has, of how many; while it takes it.
    pub async fn file_progress(&self, transfer: TransferId) -> Option<(u64, u64)> {
        self.ask(|reply| Command::Progress(transfer, reply)).await.flatten()
    }

    /// Sends a ping; [`Event::Pong`] tells when it was answered.
    ///
    /// # Errors
    /// See [`Client::ping`].
    pub async fn ping(&self) -> Result<(), SendError> {
        self.ask(Command::Ping).await.unwrap_or(Err(SendError::Closed))
    }

    /// How the session is doing; `None` when the task has ended.
    pub async fn state(&self) -> Option<SessionState> {
        self.ask(Command::State).await
    }

    /// Connects again after [`Event::Closed`].
    pub fn reconnect(&self) {
        self.tell(Command::Connect);
    }

    /// Raises COMPROMISED; [`Event::Compromised`] and [`Event::Wiped`] tell how it went.
    pub fn declare_compromised(&self) {
        self.tell(Command::Compromised);
    }

    /// Wipes now, whatever became of the signal.
    pub fn give_up_signalling(&self) {
        self.tell(Command::GiveUpSignalling);
    }

    /// Says goodbye; [`Event::Closed`] comes once that is through.
    pub fn leave(&self) {
        self.tell(Command::Leave);
    }

    fn tell(&self, command: Command) {
        // Fails only when the task has ended, which `next_event` tells.
        let _gone = self.commands.try_send(command);
    }

    /// The next event; `None` once the task has ended. To ask is to say that those before it are dealt
    /// with: chat among them is then acknowledged.
    pub async fn next_event(&self) -> Option<Event> {
        let chats = self.with_application.swap(0, Ordering::Relaxed);
        if chats > 0 {
            self.tell(Command::DealtWith(chats));
        }
        let event = self.events.recv().await.ok()?;
        if matches!(event, Event::Chat(_)) {
            self.with_application.fetch_add(1, Ordering::Relaxed);
        }
        Some(event)
    }
}
