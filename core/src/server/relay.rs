//! Carries out what the hub decides: roster, presence, chat and receipts to the sessions they go to
//! (PROTOCOL 5.4, 5.5).

use super::hub::{Verdict, receipt};
use super::{Action, Event, Server, StoredChat, Waits};
use crate::id::{ChatId, SessionId};
use crate::time::Now;
use crate::wire::message::{
    Chat, ErrorCode, ErrorMessage, Message, ReceiptState, SERVER_MEMBER, Status,
};
use alloc::boxed::Box;
use alloc::string::ToString;

impl Server {
    /// A session was established: its roster first, then everybody learns of it.
    pub(super) fn welcome(&mut self, now: Now, id: SessionId, member: &str) {
        let was_online = !self.hub.sessions_of(member).is_empty();
        let roster = self.hub.join(member, id, now.wall);
        self.owe(now, id, &roster);
        if !was_online && let Some(presence) = self.hub.presence(member) {
            self.broadcast(now, member, &Message::Presence(presence));
        }
        self.pump(now, id);
    }

    /// A message to every session of every other member.
    pub(super) fn broadcast(&mut self, now: Now, but: &str, message: &Message) {
        for id in self.hub.sessions_but(but) {
            self.owe(now, id, message);
        }
    }

    fn owe(&mut self, now: Now, id: SessionId, message: &Message) {
        self.with_session(now, id, |session, cx| session.owe(cx.now, message, None));
    }

    /// A receipt to its author, now or when he is back.
    fn send_receipt(&mut self, now: Now, author: &str, message: Message) {
        let sessions = self.hub.sessions_of(author);
        if sessions.is_empty() {
            self.hub.keep_receipt(author, message);
            return;
        }
        for id in sessions {
            self.owe(now, id, &message);
        }
    }

    pub(super) fn take_message(&mut self, now: Now, id: SessionId, message: Message) {
        let Some(entry) = self.sessions.get(&id) else { return };
        if entry.established.is_none() {
            return;
        }
        let member = entry.member.clone();
        match message {
            Message::Chat(chat) => self.take_chat(now, id, &member, chat),
            Message::Presence(presence) if presence.status != Status::Offline => {
                let changed = self.hub.set_status(&member, id, presence.status, now.wall);
                if let Some(presence) = changed {
                    self.broadcast(now, &member, &Message::Presence(presence));
                }
            }
            // Credentials are not renewed, and `read` receipts not passed on; errors of a client that
            // are not fatal tell nothing to act on.
            _ => {}
        }
    }

    fn take_chat(&mut self, now: Now, id: SessionId, member: &str, chat: Chat) {
        let chat_id = chat.id;
        match self.hub.submit(member, chat) {
            Verdict::Store(stored) => {
                let action = Action::StoreChat { stored: Box::new(stored.clone()) };
                if self.ops.start(now.mono, action, Waits::Store(stored.clone())).is_none() {
                    self.hub.failed(&stored.chat);
                    self.refuse_chat(now, id, chat_id, ErrorCode::RateLimited, "the disk is busy");
                }
            }
            Verdict::Known => {
                let again = receipt(chat_id, ReceiptState::Stored, SERVER_MEMBER, now.wall);
                self.owe(now, id, &again);
            }
            Verdict::Pending => {}
            Verdict::NoRecipient => {
                let text = "no such member, or a room that you are not in";
                self.refuse_chat(now, id, chat_id, ErrorCode::NoRecipient, text);
            }
            Verdict::Full => {
                let text = "too many messages wait";
                self.refuse_chat(now, id, chat_id, ErrorCode::RateLimited, text);
            }
        }
    }

    fn refuse_chat(
        &mut self,
        now: Now,
        id: SessionId,
        chat: ChatId,
        code: ErrorCode,
        message: &str,
    ) {
        let (message, fatal) = (message.to_string(), false);
        let error = ErrorMessage { code, message, fatal, id: Some(chat), now: None };
        self.owe(now, id, &Message::Error(error));
    }

    /// A chat is durable, or could not be made so.
    pub(super) fn chat_stored(&mut self, now: Now, stored: &StoredChat, done: bool) {
        let (author, id) = (stored.chat.from.clone(), stored.chat.id);
        if !done {
            self.hub.failed(&stored.chat);
            for session in self.hub.sessions_of(&author) {
                let text = "the server could not store it";
                self.refuse_chat(now, session, id, ErrorCode::Internal, text);
            }
            return;
        }
        self.hub.stored(stored);
        let told = receipt(id, ReceiptState::Stored, SERVER_MEMBER, now.wall);
        self.send_receipt(now, &author, told);
        self.events.push_back(Event::Chat(stored.chat.clone()));
        for member in &stored.to {
            if member == SERVER_MEMBER {
                self.delivered(now, &author, id, SERVER_MEMBER);
            }
            for session in self.hub.sessions_of(member) {
                self.pump(now, session);
            }
        }
    }

    /// A session acknowledged every byte of a mail.
    pub(super) fn mail_acked(&mut self, now: Now, id: SessionId, number: u64) {
        let Some(entry) = self.sessions.get(&id) else { return };
        let member = entry.member.clone();
        if let Some(delivered) = self.hub.mail_acked(&member, number) {
            self.delivered(now, &delivered.from, delivered.id, &delivered.by);
        }
    }

    fn delivered(&mut self, now: Now, author: &str, id: ChatId, by: &str) {
        let action = Action::ChatDelivered { from: author.to_string(), id, by: by.to_string() };
        self.ops.start(now.mono, action, Waits::Nothing);
        let told = receipt(id, ReceiptState::Delivered, by, now.wall);
        self.send_receipt(now, author, told);
    }

    /// Sends a session what waits for its member, while its channel has room.
    pub(super) fn pump(&mut self, now: Now, id: SessionId) {
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        if entry.established.is_none() {
            return;
        }
        let mut touched = false;
        while entry.session.has_room() {
            if let Some(message) = self.hub.next_receipt(&entry.member) {
                entry.session.owe(now, &message, None);
            } else if let Some((number, chat)) = self.hub.next_mail(&entry.member, id) {
                let message = Message::Chat(chat.clone());
                if entry.session.send(&message, Some(number)).is_err() {
                    break;
                }
                self.hub.mail_sent(&entry.member, id, number);
            } else {
                break;
            }
            touched = true;
        }
        if touched {
            let deadline = entry.session.deadline().map(|(_, at)| at);
            self.schedule.touch(id, deadline);
        }
    }
}
