//! Chat at the client: what has no receipt is repeated, and each chat is shown once (PROTOCOL 5.4).

use super::Event;
use crate::error::SendError;
use crate::id::ChatId;
use crate::limits::{CHATS_SEEN, CHATS_UNRECEIPTED, MESSAGE_MAX};
use crate::session::Session;
use crate::time::UnixMs;
use crate::wire::message::{Chat, Message, ReceiptState, Recipient};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::string::{String, ToString};

/// Chats of ours that are not stored, and chats of others that were shown.
#[derive(Debug, Default)]
pub(super) struct Chats {
    unreceipted: VecDeque<Chat>,
    /// How many of them, from the front, were sent in this session.
    sent: usize,
    seen: BTreeSet<(String, ChatId)>,
    seen_order: VecDeque<(String, ChatId)>,
    /// `WindowFull` was answered since the last `Writable`.
    was_full: bool,
}

impl Chats {
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
    pub(super) fn pump(&mut self, session: &mut Session) -> bool {
        while let Some(chat) = self.unreceipted.get(self.sent) {
            if !session.has_room() || session.send(&Message::Chat(chat.clone()), None).is_err() {
                break;
            }
            self.sent += 1;
        }
        let writable = self.was_full && self.unreceipted.len() < CHATS_UNRECEIPTED / 2;
        self.was_full &= !writable;
        writable
    }

    /// Takes a message of the server; what of it the application is told.
    pub(super) fn take(&mut self, message: Message) -> Option<Event> {
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
            Message::Error(error) => {
                if let Some(id) = error.id {
                    self.settle(id);
                }
                Some(Event::Refused(error))
            }
            // A port rotation stays unconfirmed: this client does not move.
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
        let mut chats = Chats::default();
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
        let mut chats = Chats::default();
        let chat = |from: &str, id| {
            Message::Chat(Chat {
                id: ChatId([id; 16]),
                from: from.to_string(),
                to: Recipient::Room("lobby".to_string()),
                text: "hi".to_string(),
                sent_at: UnixMs(0),
            })
        };
        assert!(chats.take(chat("ann", 1)).is_some());
        assert!(chats.take(chat("ann", 1)).is_none());
        assert!(chats.take(chat("bob", 1)).is_some());
    }
}
