//! What the binary supplies, and how it is reached.

use clawchat_core::id::OpId;
use clawchat_core::ops::{Chunk, Outcome, Want};
use clawchat_core::server::{Action, Event, Server};
use clawchat_core::time::Now;
use mio::Waker;
use std::fmt;
use std::sync::{Arc, mpsc};

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It ends after this turn.
    Stop,
}

/// Everything that is neither socket nor clock. No method may block.
pub trait Host {
    /// What other threads ask of the loop.
    type Command: Send + 'static;

    /// Starts an action; its completion comes by [`Remote::complete`].
    fn start(&mut self, op: OpId, action: Action);

    /// The machine has taken the completion of an action.
    fn completed(&mut self, server: &mut Server, now: Now, op: OpId, outcome: Outcome);

    /// The machine has something to tell.
    fn event(&mut self, server: &mut Server, now: Now, event: Event);

    /// Bytes of a file arrived: to be written at once, or kept until [`Self::flush`]. False when they
    /// can't be: the transfer ends, and its sender may offer the file again.
    fn store(&mut self, chunk: &Chunk<'_>) -> bool;

    /// Nothing more arrives in this turn: what was kept back is written before anything is
    /// acknowledged.
    fn flush(&mut self, server: &mut Server, now: Now);

    /// Bytes of a file are to be sent: fills `bytes`. An error, which says why, cancels the transfer.
    ///
    /// # Errors
    /// What the peer is told.
    fn load(&mut self, want: &Want, bytes: &mut [u8]) -> Result<(), &'static str>;

    /// A command arrived.
    fn command(&mut self, server: &mut Server, now: Now, command: Self::Command) -> Flow;
}

pub(crate) enum Input<C> {
    Completion(OpId, Outcome),
    Command(C),
}

/// Reaches a driver's loop from other threads.
pub struct Remote<C> {
    sender: mpsc::Sender<Input<C>>,
    waker: Arc<Waker>,
}

impl<C> Clone for Remote<C> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waker: self.waker.clone() }
    }
}

impl<C> fmt::Debug for Remote<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
    }
}

impl<C> Remote<C> {
    pub(crate) const fn new(sender: mpsc::Sender<Input<C>>, waker: Arc<Waker>) -> Self {
        Self { sender, waker }
    }

    /// An action is done, or failed. False when the loop is gone.
    pub fn complete(&self, op: OpId, outcome: Outcome) -> bool {
        self.send(Input::Completion(op, outcome))
    }

    /// Hands over a command. False when the loop is gone.
    pub fn command(&self, command: C) -> bool {
        self.send(Input::Command(command))
    }

    fn send(&self, input: Input<C>) -> bool {
        self.sender.send(input).is_ok() && self.waker.wake().is_ok()
    }
}
