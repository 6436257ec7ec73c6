//! Key rotation (PROTOCOL 5.1): SPEC 5.4's four steps at either side.

use super::{Context, Session};
use crate::budget::Budget;
use crate::crypto::agree::PrivateKey;
use crate::crypto::derive::epoch_next;
use crate::error::{SendError, Violation};
use crate::id::Epoch;
use crate::limits::{OFFERS_BURST, OFFERS_PER_SECOND, ROTATION_MAX, TRIGGER_PATIENCE};
use crate::secret::Secret;
use crate::spare::{Spare, Unused};
use crate::time::{Instant, Now};
use crate::transport::epochs::{EpochState, Epochs};
use crate::wire::message::{Message, RotationReason, Side};
use alloc::boxed::Box;

/// Which rotations there were, and what is under way.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// Server: epochs that the client has said `switch` for.
    switched: u64,
    under_way: Spare<UnderWay>,
}

/// What is under way.
#[derive(Debug, Default)]
struct UnderWay {
    /// Client: the key pair it offered.
    offered: Option<(Epoch, PrivateKey)>,
    /// Server: the client's public key, which is answered only then.
    waiting: Option<(Epoch, [u8; 32], Instant)>,
    /// Server: the epoch it asked for.
    triggered: Option<Epoch>,
    /// Asked for while another was under way, which does not count for it.
    again: Option<RotationReason>,
    /// Since when one is due, asked for or under way.
    since: Option<Instant>,
}

impl UnderWay {
    const NOTHING: Self =
        Self { offered: None, waiting: None, triggered: None, again: None, since: None };
}

impl Unused for UnderWay {
    const UNUSED: &'static Self = &Self::NOTHING;

    fn is_unused(&self) -> bool {
        let Self { offered, waiting, triggered, again, since } = self;
        offered.is_none()
            && waiting.is_none()
            && triggered.is_none()
            && again.is_none()
            && since.is_none()
    }
}

impl Rotation {
    /// Server: whether the client's first `switch` has come.
    pub(super) const fn has_switched(&self) -> bool {
        self.switched > 0
    }

    /// A packet of `epoch` opened.
    pub(super) fn complete(&mut self, epoch: Epoch) {
        let under_way = &mut *self.under_way;
        under_way.triggered = under_way.triggered.filter(|asked| *asked > epoch);
        under_way.since = None;
        self.under_way.rest();
    }
}

impl Session {
    fn offers(&mut self, now: Instant) -> &mut Budget {
        let full = || Box::new(Budget::new(now, OFFERS_PER_SECOND, OFFERS_BURST));
        self.offers.get_or_insert_with(full)
    }

    /// Whether a rotation is under way.
    fn is_rotating(&self) -> bool {
        let settled = |epochs: &Epochs| epochs.is_confirmed() && !epochs.has_next();
        !self.phase.epochs().is_some_and(settled)
            || self.rotation.under_way.offered.is_some()
            || self.rotation.under_way.waiting.is_some()
            || self.rotation.under_way.triggered.is_some()
    }

    /// Server: has a rotation whose completion is the opening of the epoch that is returned. One that
    /// is under way counts, but not where the keys that began it are no longer to be trusted.
    pub(crate) fn require_rotation(
        &mut self,
        cx: &mut Context<'_>,
        reason: RotationReason,
    ) -> Option<Epoch> {
        let transport = self.phase.open()?;
        let next = transport.epochs().current().next();
        match self.rotate(cx, reason) {
            Ok(()) => Some(next),
            Err(SendError::Busy) if reason == RotationReason::Emergency => {
                self.rotation.under_way.again = Some(reason);
                Some(next.next())
            }
            // It comes after the one that another asked for.
            Err(SendError::Busy) if self.rotation.under_way.again.is_some() => Some(next.next()),
            Err(SendError::Busy) => Some(next),
            Err(_) => None,
        }
    }

    /// Begins what is due and ends what is overdue (PROTOCOL 5.1).
    pub(super) fn keep_keys_fresh(&mut self, cx: &mut Context<'_>) {
        let Some(transport) = self.phase.open() else { return };
        let (now, epochs) = (cx.now.mono, transport.epochs());
        let by_age = epochs.since() + self.rotation_interval;
        let by_data = epochs.is_due();
        if by_age <= now || by_data {
            self.rotation.under_way.since.get_or_insert_with(|| by_age.min(now));
        }
        if self.rotation.under_way.since.is_some_and(|since| now.since(since) >= ROTATION_MAX) {
            self.violate(cx.now, Violation::RotationOverdue);
            return;
        }
        let due = |(_, _, at): &mut (Epoch, [u8; 32], Instant)| *at <= now;
        if self.rotation.under_way.waiting.is_some()
            && let Some((epoch, client_public, _)) = self.rotation.under_way.waiting.take_if(due)
        {
            self.offers(now).take(now);
            if let Err(violation) = self.answer(cx, epoch, &client_public) {
                self.violate(cx.now, violation);
                return;
            }
        }
        if self.is_rotating() {
            return;
        }
        let reason = if by_data { RotationReason::Data } else { RotationReason::Interval };
        let due = match self.side {
            Side::Server => self.rotation.under_way.since,
            Side::Client => self.rotation.under_way.since.map(|since| since + TRIGGER_PATIENCE),
        };
        if let Some(reason) = self.rotation.under_way.again {
            self.rotation.under_way.again = None;
            let _begun = self.rotate(cx, reason);
        } else if due.is_some_and(|due| due <= now) {
            let _begun = self.rotate(cx, reason);
        }
    }

    /// When [`Self::keep_keys_fresh`] has something to do.
    pub(super) fn rotation_deadline(&self) -> Option<Instant> {
        let transport = self.phase.open()?;
        if let Some((_, _, at)) = self.rotation.under_way.waiting {
            return Some(at);
        }
        let due = transport.epochs().since() + self.rotation_interval;
        let Some(since) = self.rotation.under_way.since else { return Some(due) };
        if self.side == Side::Client && !self.is_rotating() {
            return Some(since + TRIGGER_PATIENCE);
        }
        Some(since + ROTATION_MAX)
    }

    /// Server: asks for a rotation. Client: offers one unasked.
    pub(crate) fn rotate(
        &mut self,
        cx: &mut Context<'_>,
        reason: RotationReason,
    ) -> Result<(), SendError> {
        let Some(transport) = self.phase.open() else { return Err(SendError::Closed) };
        let epoch = transport.epochs().current().next();
        if self.is_rotating() {
            return Err(SendError::Busy);
        }
        self.rotation.under_way.since.get_or_insert(cx.now.mono);
        match self.side {
            Side::Server => {
                self.send(&Message::Trigger { epoch, reason }, None)?;
                self.rotation.under_way.triggered = Some(epoch);
                Ok(())
            }
            Side::Client => self.offer(cx, epoch),
        }
    }

    fn offer(&mut self, cx: &mut Context<'_>, epoch: Epoch) -> Result<(), SendError> {
        self.rotation.under_way.since.get_or_insert(cx.now.mono);
        let private = PrivateKey::new(self.provider, cx.random.private.secret());
        let public_key = private.public();
        self.send(&Message::Offer { epoch, public_key, server_id: None }, None)?;
        self.rotation.under_way.offered = Some((epoch, private));
        Ok(())
    }

    /// Client: the server asks. An epoch already offered or reached is no news.
    pub(super) fn take_trigger(
        &mut self,
        cx: &mut Context<'_>,
        epoch: Epoch,
    ) -> Result<(), Violation> {
        let Some(transport) = self.phase.transport() else { return Ok(()) };
        let current = transport.epochs().current();
        if epoch <= current
            || self.rotation.under_way.offered.as_ref().is_some_and(|offered| offered.0 >= epoch)
        {
            return Ok(());
        }
        if epoch != current.next() || !transport.epochs().is_confirmed() {
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
        let Some(transport) = self.phase.transport() else { return Ok(()) };
        let epochs = transport.epochs();
        let again = epochs.has_next() || self.rotation.under_way.waiting.is_some();
        if epoch != epochs.current().next() || again {
            return Err(Violation::RotationStep);
        }
        self.rotation.under_way.since.get_or_insert(cx.now.mono);
        // One that nobody asked for costs two multiplications of ours for each of the client's.
        let asked = self.rotation.under_way.triggered == Some(epoch);
        if !asked && !self.offers(cx.now.mono).take(cx.now.mono) {
            let at = self.offers(cx.now.mono).next(cx.now.mono);
            self.rotation.under_way.waiting = Some((epoch, *client_public, at));
            return Ok(());
        }
        self.answer(cx, epoch, client_public)
    }

    fn answer(
        &mut self,
        cx: &mut Context<'_>,
        epoch: Epoch,
        client_public: &[u8; 32],
    ) -> Result<(), Violation> {
        let private = PrivateKey::new(self.provider, cx.random.private.secret());
        let public_key = private.public();
        let agreed = private.agree(client_public).ok_or(Violation::ZeroSharedSecret)?;
        let next = self.next_epoch(cx.now.mono, epoch, agreed, client_public, &public_key)?;
        self.send(&Message::Answer { epoch, public_key, session: None }, None)
            .map_err(|_| Violation::Backlog)?;
        if let Some(transport) = self.phase.transport_mut(self.kept()) {
            transport.epochs.prepare(next);
        }
        Ok(())
    }

    /// Client: the server's key; from here on it seals in the next epoch.
    pub(super) fn take_answer(
        &mut self,
        now: Now,
        epoch: Epoch,
        server_public: &[u8; 32],
    ) -> Result<(), Violation> {
        let Some((offered, private)) = self.rotation.under_way.offered.take() else {
            return Err(Violation::RotationStep);
        };
        if offered != epoch {
            return Err(Violation::RotationStep);
        }
        let client_public = private.public();
        let agreed = private.agree(server_public).ok_or(Violation::ZeroSharedSecret)?;
        let next = self.next_epoch(now.mono, epoch, agreed, &client_public, server_public)?;
        if let Some(transport) = self.phase.transport_mut(self.kept()) {
            transport.epochs.switch(next);
        }
        self.send(&Message::Switch { epoch }, None).map_err(|_| Violation::Backlog)
    }

    fn next_epoch(
        &mut self,
        now: Instant,
        epoch: Epoch,
        agreed: Secret<32>,
        client_public: &[u8; 32],
        server_public: &[u8; 32],
    ) -> Result<EpochState, Violation> {
        let (own, provider) = (self.direction(), self.provider);
        let transport = self.phase.transport_mut(self.kept()).ok_or(Violation::RotationStep)?;
        let seed = transport.epochs.take_seed().ok_or(Violation::RotationStep)?;
        let id = &self.connection_id;
        let keys = epoch_next(seed, agreed, id, epoch, client_public, server_public);
        Ok(EpochState::new(now, epoch, keys, own, provider))
    }

    /// Server: each epoch is switched to once, in order, and after it was reached.
    pub(super) fn take_switch(&mut self, epoch: Epoch) -> Result<(), Violation> {
        let Some(transport) = self.phase.transport() else { return Ok(()) };
        self.rotation.switched += 1;
        if epoch.0 != self.rotation.switched || epoch > transport.epochs().current() {
            return Err(Violation::RotationStep);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::RustCrypto;
    use crate::crypto::derive::{ConnectionId, Direction, epoch_zero};
    use crate::error::CloseReason;
    use crate::id::PortId;
    use crate::limits::KeyLimits;
    use crate::session::Setup;
    use crate::time::{Duration, UnixMs};
    use crate::transport::path::Path;
    use crate::wire::message::ErrorCode;

    const NOW: Now = Now { mono: Instant::ZERO, wall: UnixMs(1_700_000_000_000) };

    /// A client's session that has offered a key pair.
    fn offering() -> Session {
        let connection_id = ConnectionId::new(NOW.wall, 7);
        let keys = epoch_zero(&Secret::take(&mut [1; 32]), &connection_id, NOW.wall);
        let epoch = EpochState::new(NOW.mono, Epoch(1), keys, Direction::C2s, &RustCrypto);
        let mut session = Session::new(
            NOW.mono,
            Setup {
                side: Side::Client,
                connection_id,
                path: Path::new(PortId(0), ([192, 0, 2, 1], 50_000).into()),
                epochs: Epochs::new(epoch, KeyLimits::default()),
                response_timeout: Duration::from_secs(10),
                rotation_interval: Duration::from_secs(3600),
                provider: &RustCrypto,
            },
        );
        session.phase.establish();
        session.rotation.under_way.offered =
            Some((Epoch(2), PrivateKey::new(&RustCrypto, Secret::take(&mut [2; 32]))));
        session
    }

    #[test]
    fn no_end_keeps_the_key_pair_that_was_offered() {
        let ends: [fn(&mut Session); 4] = [
            |session| session.end(NOW, ErrorCode::Shutdown, ""),
            |session| session.close(CloseReason::Goodbye),
            |session| assert!(session.declare_compromised(NOW, "stolen")),
            Session::discard,
        ];
        for end in ends {
            let mut session = offering();
            end(&mut session);
            assert!(session.rotation.under_way.offered.is_none());
        }
    }
}
