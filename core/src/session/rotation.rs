//! Key rotation (PROTOCOL 5.1): SPEC 5.4's four steps at either side.

use super::{Context, Phase, Session};
use crate::crypto::agree::PrivateKey;
use crate::crypto::derive::epoch_next;
use crate::error::{SendError, Violation};
use crate::id::Epoch;
use crate::secret::Secret;
use crate::transport::epochs::EpochState;
use crate::wire::message::{Message, RotationReason, Side};

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// Client: the key pair it offered.
    offered: Option<(Epoch, PrivateKey)>,
    /// Server: the epoch it asked for.
    triggered: Option<Epoch>,
    /// Server: epochs that the client has said `switch` for.
    switched: u64,
}

impl Rotation {
    /// Server: whether the client's first `switch` has come.
    pub(super) const fn has_switched(&self) -> bool {
        self.switched > 0
    }

    /// A packet of `epoch` opened.
    pub(super) fn complete(&mut self, epoch: Epoch) {
        self.triggered = self.triggered.filter(|asked| *asked > epoch);
    }
}

impl Session {
    /// Server: asks for a rotation. Client: offers one unasked.
    pub(crate) fn rotate(
        &mut self,
        cx: &mut Context<'_>,
        reason: RotationReason,
    ) -> Result<(), SendError> {
        let Phase::Open(transport) = &self.phase else { return Err(SendError::Closed) };
        let epochs = &transport.epochs;
        let busy = !epochs.is_confirmed()
            || epochs.has_next()
            || self.rotation.offered.is_some()
            || self.rotation.triggered.is_some();
        if busy {
            return Err(SendError::Busy);
        }
        let epoch = epochs.current().next();
        match self.side {
            Side::Server => {
                self.send(&Message::Trigger { epoch, reason }, None)?;
                self.rotation.triggered = Some(epoch);
                Ok(())
            }
            Side::Client => self.offer(cx, epoch),
        }
    }

    fn offer(&mut self, cx: &mut Context<'_>, epoch: Epoch) -> Result<(), SendError> {
        let private = PrivateKey::new(cx.random.private.secret());
        let public_key = private.public();
        self.send(&Message::Offer { epoch, public_key, server_id: None }, None)?;
        self.rotation.offered = Some((epoch, private));
        Ok(())
    }

    /// Client: the server asks. An epoch already offered or reached is no news.
    pub(super) fn take_trigger(
        &mut self,
        cx: &mut Context<'_>,
        epoch: Epoch,
    ) -> Result<(), Violation> {
        let Some(transport) = self.phase.transport() else { return Ok(()) };
        let current = transport.epochs.current();
        if epoch <= current || self.rotation.offered.as_ref().is_some_and(|(on, _)| *on >= epoch) {
            return Ok(());
        }
        if epoch != current.next() || !transport.epochs.is_confirmed() {
            return Err(Violation::RotationStep);
        }
        self.offer(cx, epoch).map_err(|_| Violation::Backlog)
    }

    /// Server: the client offers its key; ours goes back, and the next epoch opens.
    pub(super) fn take_offer(
        &mut self,
        cx: &mut Context<'_>,
        epoch: Epoch,
        client_public: &[u8; 32],
    ) -> Result<(), Violation> {
        let private = PrivateKey::new(cx.random.private.secret());
        let public_key = private.public();
        let Some(transport) = self.phase.transport_mut() else { return Ok(()) };
        if epoch != transport.epochs.current().next() || transport.epochs.has_next() {
            return Err(Violation::RotationStep);
        }
        let agreed = private.agree(client_public).ok_or(Violation::ZeroSharedSecret)?;
        let next = self.next_epoch(epoch, agreed, client_public, &public_key)?;
        self.send(&Message::Answer { epoch, public_key, session: None }, None)
            .map_err(|_| Violation::Backlog)?;
        if let Some(transport) = self.phase.transport_mut() {
            transport.epochs.prepare(next);
        }
        Ok(())
    }

    /// Client: the server's key; from here on it seals in the next epoch.
    pub(super) fn take_answer(
        &mut self,
        epoch: Epoch,
        server_public: &[u8; 32],
    ) -> Result<(), Violation> {
        let Some((offered, private)) = self.rotation.offered.take() else {
            return Err(Violation::RotationStep);
        };
        if offered != epoch {
            return Err(Violation::RotationStep);
        }
        let client_public = private.public();
        let agreed = private.agree(server_public).ok_or(Violation::ZeroSharedSecret)?;
        let next = self.next_epoch(epoch, agreed, &client_public, server_public)?;
        if let Some(transport) = self.phase.transport_mut() {
            transport.epochs.switch(next);
        }
        self.send(&Message::Switch { epoch }, None).map_err(|_| Violation::Backlog)
    }

    fn next_epoch(
        &mut self,
        epoch: Epoch,
        agreed: Secret<32>,
        client_public: &[u8; 32],
        server_public: &[u8; 32],
    ) -> Result<EpochState, Violation> {
        let (own, provider) = (self.direction(), self.provider);
        let transport = self.phase.transport_mut().ok_or(Violation::RotationStep)?;
        let seed = transport.epochs.take_seed().ok_or(Violation::RotationStep)?;
        let id = &self.connection_id;
        let keys = epoch_next(seed, agreed, id, epoch, client_public, server_public);
        Ok(EpochState::new(epoch, keys, own, provider))
    }

    /// Server: each epoch is switched to once, in order, and after it was reached.
    pub(super) fn take_switch(&mut self, epoch: Epoch) -> Result<(), Violation> {
        let Some(transport) = self.phase.transport() else { return Ok(()) };
        self.rotation.switched += 1;
        if epoch.0 != self.rotation.switched || epoch > transport.epochs.current() {
            return Err(Violation::RotationStep);
        }
        Ok(())
    }
}
