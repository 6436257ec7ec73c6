//! Chat at the client: what has no receipt is repeated, and each chat is shown once (PROTOCOL 5.4).

use super::Event;
use crate::budget::Budget;
use crate::error::SendError;
use crate::id::ChatId;
use crate::limits::{
    CHATS_BURST_OWN, CHATS_PER_SECOND, CHATS_SEEN, CHATS_UNRECEIPTED, MESSAGE_MAX,
    RATE_LIMITED_PAUSE,
};
use crate::session::Session;
use crate::time::{Instant, UnixMs};
use crate::wire::message::{Chat, ErrorCode, ErrorMessage, Message, ReceiptState, Recipient};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::string::{String, ToString};

/// Chats of ours that are not stored, and chats of others that were shown.
#[derive(Debug)]
pub(super) struct Chats {
    unreceipted: VecDeque<Chat>,
    /// How many of them, from the front, were sent in this session.
    sent: usize,
    seen: BTreeSet<(String, ChatId)>,
    seen_order: VecDeque<(String, ChatId)>,
    /// `WindowFull` was answered since the last `Writable`.
    was_full: bool,
    /// Keeps within what the server takes of a member (PROTOCOL 11).
    budget: Budget,
    /// Nothing is sent before, since something was too much.
    paused_until: Instant,
    /// When what waits for its turn may go.
    pub(super) wake_at: Option<Instant>,
}

impl Chats {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            unreceipted: VecDeque::new(),
            sent: 0,
            seen: BTreeSet::new(),
            seen_order: VecDeque::new(),
            was_full: false,
            budget: Budget::new(now, CHATS_PER_SECOND, CHATS_BURST_OWN),
            paused_until: now,
            wake_at: None,
        }
    }

    pub(super) fn submit(
        &mut self,
        id: ChatId,
        to: &str,
        text: &str,
        sent_at: UnixMs,
    ) -> Result<(), SendError> {
        let to = Recipient::parse(to).ok_or(SendError::Recipient)?;
        let text = text.to_string();
        let chat = Chat { id, from: String::new(), to, text, sent_at };
        // The server adds `from`, at most 64 bytes and its key.
        if chat.text.is_empty() || Message::Chat(chat.clone()).encode().len() + 80 > MESSAGE_MAX {
            return Err(SendError::Size);
        }
        if self.unreceipted.len() >= CHATS_UNRECEIPTED {
            self.was_full = true;
            return Err(SendError::WindowFull);
        }
        self.unreceipted.push_back(chat);
        Ok(())
    }

    pub(super) const fn session_began(&mut self) {
        self.sent = 0;
    }

    pub(super) const fn session_ended(&mut self) {
        self.sent = 0;
    }

    /// Sends what was not sent in this session; true when [`Event::Writable`] is due.
    pub(super) fn pump(&mut self, now: Instant, session: &mut Session) -> bool {
        self.wake_at = None;
        while let Some(chat) = self.unreceipted.get(self.sent).filter(|_| session.has_room()) {
            if self.paused_until > now || !self.budget.has_one(now) {
                self.wake_at = Some(self.paused_until.max(self.budget.next(now)));
                break;
            }
            if session.send(&Message::Chat(chat.clone()), None).is_err() {
                break;
            }
            self.budget.take(now);
            self.sent += 1;
        }
        let writable = self.was_full && self.unreceipted.len() < CHATS_UNRECEIPTED / 2;
        self.was_full &= !writable;
        writable
    }

    /// Takes a message of the server; what of it the application is told.
    pub(super) fn take(&mut self, now: Instant, message: Message) -> Option<Event> {
        match message {
            Message::Chat(chat) => self.see(&chat).then_some(Event::Chat(chat)),
            Message::Receipt { id, state, by, at } => {
                if state == ReceiptState::Stored {
                    self.settle(id);
                }
                Some(Event::Receipt { id, state, by, at })
            }
            Message::Presence(presence) => Some(Event::Presence(presence)),
            Message::Roster { members, rooms } => Some(Event::Roster { members, rooms }),
            // It was too much, or too fast: it goes again, and all after it.
            Message::Error(ErrorMessage { code: ErrorCode::RateLimited, id: Some(id), .. })
                if self.unreceipted.iter().any(|chat| chat.id == id) =>
            {
                let at = self.unreceipted.iter().position(|chat| chat.id == id);
                self.sent = at.map_or(self.sent, |at| at.min(self.sent));
                self.paused_until = now + RATE_LIMITED_PAUSE;
                None
            }
            Message::Error(error) => {
                if let Some(id) = error.id {
                    self.settle(id);
                }
                Some(Event::Refused(error))
            }
            _ => None,
        }
    }

    fn settle(&mut self, id: ChatId) {
        if let Some(at) = self.unreceipted.iter().position(|chat| chat.id == id) {
            self.unreceipted.remove(at);
            self.sent -= usize::from(at < self.sent);
        }
    }

    /// Whether a chat is new.
    fn see(&mut self, chat: &Chat) -> bool {
        let key = (chat.from.clone(), chat.id);
        if !self.seen.insert(key.clone()) {
            return false;
        }
        self.seen_order.push_back(key);
        if self.seen_order.len() > CHATS_SEEN
            && let Some(old) = self.seen_order.pop_front()
        {
            self.seen.remove(&old);
        }
        true
    }

    pub(super) fn unreceipted(&self) -> usize {
        self.unreceipted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_recipients() {
        let mut chats = Chats::new(Instant::ZERO);
        let mut submit = |to: &str, text: &str| chats.submit(ChatId([0; 16]), to, text, UnixMs(0));
        assert_eq!(submit("ann", "hi"), Err(SendError::Recipient));
        assert_eq!(submit("@ann", ""), Err(SendError::Size));
        assert_eq!(submit("@ann", &"x".repeat(MESSAGE_MAX)), Err(SendError::Size));
        assert_eq!(submit("@ann", &"x".repeat(MESSAGE_MAX - 300)), Ok(()));
        for _ in 1..CHATS_UNRECEIPTED {
            assert_eq!(submit("#lobby", "hi"), Ok(()));
        }
        assert_eq!(submit("#lobby", "hi"), Err(SendError::WindowFull));
    }

    #[test]
    fn shown_once() {
        let mut chats = Chats::new(Instant::ZERO);
        let chat = |from: &str, id| {
            Message::Chat(Chat {
                id: ChatId([id; 16]),
                from: from.to_string(),
                to: Recipient::Room("lobby".to_string()),
                text: "hi".to_string(),
                sent_at: UnixMs(0),
            })
        };
        assert!(chats.take(Instant::ZERO, chat("ann", 1)).is_some());
        assert!(chats.take(Instant::ZERO, chat("ann", 1)).is_none());
        assert!(chats.take(Instant::ZERO, chat("bob", 1)).is_some());
    }
}
