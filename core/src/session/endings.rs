//! How a session ends: with a fatal error, a goodbye, or without a word (PROTOCOL 5.3, 5.5).

use super::phase::{Parting, Phase};
use super::rotation::Rotation;
use super::{Session, SessionEvent};
use crate::error::{CloseReason, Violation};
use crate::limits::{DATAGRAM_MAX, FATAL_COPIES};
use crate::time::{Duration, Now};
use crate::wire::header::PacketType;
use crate::wire::message::{ErrorCode, ErrorMessage, Message, Presence, Status};
use alloc::string::ToString;
use alloc::vec;

impl Session {
    /// The peer ended the session: keys go at once, and nothing is answered.
    pub(super) fn take_fatal(&mut self, error: ErrorMessage) {
        let ErrorMessage { code, message, now, .. } = error;
        self.close(CloseReason::Refused { code, message, now });
    }

    /// The client's goodbye: its ack is our last packet (PROTOCOL 5.5).
    pub(super) fn take_goodbye(&mut self, now: Now) {
        let Some(transport) = self.phase.transport_mut(self.kept()) else { return };
        let mut out = vec![0; DATAGRAM_MAX];
        let len = transport.last_ack(now, &mut out).unwrap_or(0);
        out.truncate(len);
        let interval = Duration::ZERO;
        self.phase = Phase::parting(Parting { datagram: out, left: 1, at: now.mono, interval });
        self.rotation = Rotation::default();
        self.events.push_back(SessionEvent::Closed(CloseReason::Goodbye));
    }

    pub(super) fn violate(&mut self, now: Now, violation: Violation) {
        self.fatal(
            now,
            ErrorCode::Protocol,
            &violation.to_string(),
            CloseReason::Violated(violation),
        );
    }

    /// Ends the session with a fatal error (PROTOCOL 5.3).
    pub(crate) fn end(&mut self, now: Now, code: ErrorCode, message: &str) {
        self.fatal(now, code, message, CloseReason::Ended(code));
    }

    pub(super) fn fatal(&mut self, now: Now, code: ErrorCode, message: &str, reason: CloseReason) {
        let Some(transport) = self.phase.transport_mut(self.kept()) else { return };
        let error = Message::Error(ErrorMessage {
            code,
            message: message.to_string(),
            fatal: true,
            id: None,
            now: None,
        });
        let interval = transport.recovery.rtt.pto();
        let datagram = transport.seal_signal(now, PacketType::Error, &error.encode());
        let parting = Parting { datagram, left: FATAL_COPIES, at: now.mono, interval };
        self.phase = Phase::parting(parting);
        self.rotation = Rotation::default();
        self.events.push_back(SessionEvent::Closed(reason));
    }

    /// Says goodbye (PROTOCOL 5.5): what was sent before it is repaired until the ack, at most 3 PTO.
    pub(crate) fn leave(&mut self, now: Now) {
        if matches!(self.phase, Phase::Leaving(..)) {
            return;
        }
        let goodbye =
            Presence { member: Default::default(), status: Status::Offline, since: now.wall };
        let sent = self.send(&Message::Presence(goodbye), None);
        self.phase.wake(self.kept());
        match (core::mem::replace(&mut self.phase, Phase::Over), sent) {
            (Phase::Open(transport) | Phase::HalfOpen(transport), Ok(())) => {
                let until = now.mono + transport.recovery.rtt.pto() * 3;
                self.phase = Phase::Leaving(transport, until);
            }
            (ending @ (Phase::Signalling(_) | Phase::Replacing(_) | Phase::Echo(_)), _) => {
                self.phase = ending;
            }
            _ => self.events.push_back(SessionEvent::Closed(CloseReason::Goodbye)),
        }
    }

    /// Wipes all keys without a word.
    pub(crate) fn discard(&mut self) {
        self.phase = Phase::Over;
        self.rotation = Rotation::default();
        self.events.clear();
    }

    /// Wipes all keys, and says why.
    pub(super) fn close(&mut self, reason: CloseReason) {
        self.phase = Phase::Over;
        self.rotation = Rotation::default();
        self.events.push_back(SessionEvent::Closed(reason));
    }

    /// The goodbye, and all before it, is acknowledged.
    pub(super) fn left(&mut self) {
        if matches!(&self.phase, Phase::Leaving(transport, _) if transport.sending.is_idle()) {
            self.close(CloseReason::Goodbye);
        }
    }
}
