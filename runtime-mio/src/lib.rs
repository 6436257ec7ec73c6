//! Drives a ClawChat [`Server`] with mio: one thread, one loop, no lock.
//!
//! One turn of the loop:
//!
//! ```text
//!   wait for sockets, inputs or the deadline
//!     │
//!     ▼
//!   receive batches ──► handle_batch ──► Host::store   (bounded, so that nobody starves the rest)
//!   take inputs ──────► handle_completion, Host::command
//!     │
//!     ▼
//!   drain: poll_action ──► bind here, or Host::start
//!          poll_event ───► Host::event
//!          poll_transmit ► send, until the socket would block
//!          file_want ────► Host::load ► send_chunk ► send, the same
//!     │
//!     ▼
//!   deadline come ────► handle_timeout, and drain again
//! ```
//!
//! The driver knows sockets and the clock; the [`Host`] knows disk and people; the machine between
//! them knows neither.
#![forbid(unsafe_code)]

pub mod clock;
pub mod entropy;
mod host;
mod ports;
mod rx;
mod turn;
mod tx;

pub use host::{Flow, Host, Remote};

use clawchat_core::server::Server;
use clawchat_core::spin::AdaptiveSpin;
use core::net::IpAddr;
use host::Input;
use mio::{Poll, Token, Waker};
use ports::Ports;
use rx::Receiver;
use std::io;
use std::sync::{Arc, mpsc};
use tx::Sender;

const WAKER: Token = Token(usize::MAX);

/// A server and the sockets it runs on.
#[derive(Debug)]
pub struct Driver<H: Host> {
    server: Server,
    poll: Poll,
    ports: Ports,
    receiver: Receiver,
    sender: Sender,
    inputs: mpsc::Receiver<Input<H::Command>>,
    remote: Remote<H::Command>,
    /// There may be more of a file to send at once.
    more: bool,
    spin: AdaptiveSpin,
}

impl<H: Host> Driver<H> {
    /// A driver that binds each port of `server` at all of the addresses `bind`.
    ///
    /// # Errors
    /// The operating system refuses an event queue.
    pub fn new(server: Server, bind: Vec<IpAddr>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (commands, inputs) = mpsc::channel();
        let remote = Remote::new(commands, waker);
        let (receiver, ports) = (Receiver::new(), Ports::new(bind));
        let (sender, more, spin) = (Sender::new(), false, AdaptiveSpin::default());
        Ok(Self { server, poll, ports, receiver, sender, inputs, remote, more, spin })
    }

    /// Sends each datagram by a call of its own, also where the system could cut many out of one buffer
    /// (GSO): for network cards that do it wrong, and to measure what it is worth.
    #[must_use]
    pub fn without_offload(mut self) -> Self {
        self.sender.offload = false;
        self
    }

    /// Reaches the loop from other threads.
    #[must_use]
    pub fn remote(&self) -> Remote<H::Command> {
        self.remote.clone()
    }

    /// Runs until the host says [`Flow::Stop`], or a shutdown of the server has said all it had to.
    ///
    /// # Errors
    /// The operating system's event queue fails.
    pub fn run(mut self, host: &mut H) -> io::Result<()> {
        let mut events = mio::Events::with_capacity(64);
        while self.turn(&mut events, host)? == Flow::Continue {}
        Ok(())
    }
}
