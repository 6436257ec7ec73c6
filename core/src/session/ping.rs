//! Pings that the user asks for.

use super::Session;
use super::phase::Phase;
use crate::error::SendError;
use crate::time::Duration;

impl Session {
    /// Sends a ping; [`Self::take_pong`] tells once its ACK has come.
    pub(crate) fn ping(&mut self) -> Result<(), SendError> {
        self.phase.wake(self.kept());
        let Phase::Open(transport) = &mut self.phase else { return Err(SendError::Closed) };
        transport.ping();
        Ok(())
    }

    /// How long the last ping took, once.
    pub(crate) fn take_pong(&mut self) -> Option<Duration> {
        self.phase.awake_mut()?.take_pong()
    }
}
