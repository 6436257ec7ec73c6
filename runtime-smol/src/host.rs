//! What the binary supplies.

use clawchat_core::client::Action;
use clawchat_core::id::{ChatId, TransferId};
use clawchat_core::ops::{Chunk, Outcome, Want};

/// Performs what is neither socket nor clock.
pub trait Host: Send + Sync + 'static {
    /// Performs an action, each after the one before it. Runs on the blocking pool.
    fn perform(&self, action: &Action) -> Outcome;

    /// A file that was offered under this id is this transfer; before any of its bytes are asked for.
    fn offered(&self, transfer: TransferId, id: ChatId);

    /// Bytes of a file arrived: to be written at once, or kept until [`Self::flush`]. Runs in the task,
    /// as do the next two: what takes long is for other threads. False when they can't be written: the
    /// transfer ends, and its sender may offer the file again.
    fn store(&self, chunk: &Chunk<'_>) -> bool;

    /// Nothing more arrives in this turn: what was kept back is written before anything is
    /// acknowledged. Transfers that failed by that.
    fn flush(&self) -> Vec<TransferId>;

    /// Bytes of a file are to be sent: fills `bytes`. An error cancels the transfer.
    ///
    /// # Errors
    /// What the peer is told.
    fn load(&self, want: &Want, bytes: &mut [u8]) -> Result<(), &'static str>;
}
