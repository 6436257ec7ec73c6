//! What the binary supplies.

use clawchat_core::client::Action;
use clawchat_core::ops::Outcome;

/// Performs what is neither socket nor clock.
pub trait Host: Send + Sync + 'static {
    /// Performs an action, each after the one before it. Runs on the blocking pool.
    fn perform(&self, action: &Action) -> Outcome;
}
