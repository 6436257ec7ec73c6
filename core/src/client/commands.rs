//! What a user asks of a client, and what may be asked about it.

use super::{Client, State};
use crate::crypto::derive::ConnectionId;
use crate::error::{CloseReason, DropReason, SendError};
use crate::id::{ChatId, Epoch};
use crate::session::Context;
use crate::time::{Duration, Now};
use crate::transport::path::Path;
use crate::wire::message::{Message, Presence, RotationReason, Status};
use alloc::string::String;

impl Client {
    /// Command: sends a chat, now or once there is a session; it is repeated over sessions until the
    /// server has stored it (PROTOCOL 5.4). Its id names it in receipts.
    ///
    /// # Errors
    /// [`SendError::Recipient`], [`SendError::Size`], [`SendError::WindowFull`], and
    /// [`SendError::Closed`] when there will be no session.
    pub fn send_chat(&mut self, now: Now, to: &str, text: &str) -> Result<ChatId, SendError> {
        if matches!(self.state, State::Wiped(_) | State::Closed) {
            return Err(SendError::Closed);
        }
        let id = ChatId(self.random.public.array());
        self.chats.submit(id, to, text, now.wall)?;
        self.drain(now);
        Ok(id)
    }

    /// Command: says how the user is, `Online` or `Away`.
    ///
    /// # Errors
    /// [`SendError::Closed`], [`SendError::WindowFull`].
    pub fn set_status(&mut self, now: Now, status: Status) -> Result<(), SendError> {
        let State::InSession(session, _) = &mut self.state else { return Err(SendError::Closed) };
        let presence = Presence { member: String::new(), status, since: now.wall };
        session.send(&Message::Presence(presence), None)
    }

    /// Command: sends a ping (PROTOCOL 6), which is repeated if it gets lost;
    /// [`Event::Pong`](super::Event::Pong) tells when it was answered. One that is under way serves as
    /// well.
    ///
    /// # Errors
    /// [`SendError::Closed`].
    pub fn ping(&mut self) -> Result<(), SendError> {
        let State::InSession(session, _) = &mut self.state else { return Err(SendError::Closed) };
        session.ping()
    }

    /// Command: offers a key rotation unasked (PROTOCOL 5.1).
    ///
    /// # Errors
    /// [`SendError::Closed`], [`SendError::Busy`].
    pub fn rotate_keys(&mut self, now: Now) -> Result<(), SendError> {
        let State::InSession(session, _) = &mut self.state else { return Err(SendError::Closed) };
        let mut cx = Context { now, random: &mut self.random };
        session.rotate(&mut cx, RotationReason::Operator)
    }

    /// Command: raises COMPROMISED (PROTOCOL 7), at once or as soon as there is a session. The file
    /// is wiped whether or not the server acknowledges, and also when it can't be reached.
    pub fn declare_compromised(&mut self, now: Now) {
        if self.declared || matches!(self.state, State::Wiped(_)) {
            return;
        }
        self.declared = true;
        match &mut self.state {
            // Also while a goodbye waits for its ack: the server must learn of it.
            State::InSession(session, _) if !session.is_half_open() => {
                if session.declare_compromised(now, "user_initiated") {
                    self.signal_elsewhere(now);
                } else {
                    self.wipe(now, false, false, None);
                }
            }
            State::Waiting(_) => self.search(now),
            State::Closed => self.wipe(now, false, false, None),
            State::InSession(..) | State::Binding | State::Searching(_) | State::Wiped(_) => {}
        }
    }

    /// Command: wipes the security file now, whatever became of the signal.
    pub fn give_up_signalling(&mut self, now: Now) {
        if self.declared && !matches!(self.state, State::Wiped(_)) {
            self.wipe(now, false, false, None);
        }
    }

    /// Command: says goodbye (PROTOCOL 5.5). [`Event::Closed`](super::Event::Closed) comes once it is acknowledged or given
    /// up.
    pub fn leave(&mut self, now: Now) {
        match &mut self.state {
            State::InSession(session, _) => {
                self.leaving = true;
                session.leave(now);
                self.drain(now);
            }
            State::Binding | State::Searching(_) | State::Waiting(_) => {
                self.finish(now, CloseReason::Goodbye);
            }
            State::Wiped(_) | State::Closed => {}
        }
    }

    /// Getter: whether nothing more will be sent or answered.
    #[must_use]
    pub fn is_over(&self) -> bool {
        if self.last_words.is_some() {
            return false;
        }
        match &self.state {
            State::Closed | State::Wiped(None) => true,
            State::Wiped(Some(session)) => session.is_over(),
            State::InSession(session, _) => session.is_over(),
            State::Binding | State::Searching(_) | State::Waiting(_) => false,
        }
    }

    /// Getter: whether COMPROMISED was raised, by either side: nothing is sealed any more but a signal
    /// and an ack of one.
    #[must_use]
    pub const fn is_compromised(&self) -> bool {
        self.declared || matches!(self.state, State::Wiped(_))
    }

    /// Getter: the sealing epoch of the session, if there is one.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match &self.state {
            State::InSession(session, _) if session.is_open() => session.epoch(),
            _ => None,
        }
    }

    /// Getter: the connection id of the session, if there is one (PROTOCOL 2.4).
    #[must_use]
    pub fn connection_id(&self) -> Option<ConnectionId> {
        match &self.state {
            State::InSession(session, _) => Some(session.connection_id()),
            _ => None,
        }
    }

    /// Getter: how many epochs the session has keys of: at most three (PROTOCOL 5.1).
    #[must_use]
    pub fn epochs_held(&self) -> usize {
        match &self.state {
            State::InSession(session, _) => session.epochs_held(),
            _ => 0,
        }
    }

    /// Getter: the smoothed round-trip time, once measured.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        match &self.state {
            State::InSession(session, _) => session.rtt(),
            _ => None,
        }
    }

    /// Getter: where the server is, while there is a session.
    #[must_use]
    pub fn path(&self) -> Option<Path> {
        match &self.state {
            State::InSession(session, _) => Some(session.path()),
            _ => None,
        }
    }

    /// Getter: chats without the receipt `stored`.
    #[must_use]
    pub fn unreceipted(&self) -> usize {
        self.chats.unreceipted()
    }

    /// Getter: datagrams dropped in silence, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.drops)
    }
}
