//! Carries out what the hub decides: roster, presence, chat and receipts to the sessions they go to
//! (PROTOCOL 5.4, 5.5).

use super::hub::{Delivered, Verdict, receipt};
use super::{Action, Audit, Entry, Event, Server, StoredChat, Waits};
use crate::id::{ChatId, SessionId};
use crate::limits::{MESSAGE_MAX, OWED};
use crate::time::Now;
use crate::wire::message::{
    Chat, ErrorCode, ErrorMessage, Message, Presence, ReceiptState, SERVER_MEMBER, Status,
};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

/// Tokens from here on are of receipts, those below of mail.
const HANDED: u64 = 1 << 63;

/// Receipts, and word of chats that were dropped, which a session was sent and has not acknowledged:
/// their author has `stored`, and never asks again. No more than a channel holds.
#[derive(Debug, Default)]
pub(super) struct Handed {
    next: u64,
    unacknowledged: BTreeMap<u64, Message>,
}

impl Handed {
    /// A token to know by when a message is acknowledged, if it is to be kept until then.
    fn token(&mut self, message: &Message) -> Option<u64> {
        if !is_told_once(message) {
            return None;
        }
        let token = HANDED + self.next;
        self.next += 1;
        self.unacknowledged.insert(token, message.clone());
        Some(token)
    }
}

/// Whether nobody asks for a message again when it is lost.
const fn is_told_once(message: &Message) -> bool {
    matches!(
        message,
        Message::Receipt { .. }
            | Message::Error(ErrorMessage { code: ErrorCode::NoRecipient, id: Some(_), .. })
    )
}

impl Entry {
    /// What it was to be told once and may not have heard, in order.
    pub(super) fn unheard(&mut self) -> Vec<Message> {
        let sent = core::mem::take(&mut self.handed.unacknowledged).into_values();
        let owed = core::mem::take(&mut self.owed).into_iter().filter(is_told_once);
        sent.chain(owed).collect()
    }
}

/// Why a chat made way for others.
const TOO_MANY: &str = "too many newer messages wait for";

impl Server {
    /// A session was established: its roster first, then everybody learns of it.
    pub(super) fn welcome(&mut self, now: Now, id: SessionId, member: &str) {
        let before = self.hub.presence(member).map(|presence| presence.status);
        let mut roster = self.hub.join(member, id, now.wall);
        // Whoever is away can be left out of a roster that no message could hold.
        while let Message::Roster { members, .. } = &mut roster
            && members.len() > 1
            && roster_size(members) > MESSAGE_MAX / 2
        {
            let away = members.iter().rposition(|m| m.status == Status::Offline);
            members.remove(away.unwrap_or(members.len() - 1));
        }
        self.owe(now, id, roster);
        if let Some(presence) = self.hub.presence(member).filter(|p| Some(p.status) != before) {
            self.broadcast(now, member, &presence);
        }
        while let Some(receipt) = self.hub.next_receipt(member) {
            self.owe(now, id, receipt);
        }
        self.offer_files(id);
    }

    /// A member's presence to every session of every other member. Of one member only the newest
    /// waits: a slow session is never cut off for what others do.
    pub(super) fn broadcast(&mut self, now: Now, of: &str, presence: &Presence) {
        for id in self.hub.sessions_but(of) {
            if let Some(entry) = self.sessions.get_mut(id) {
                entry.owed.retain(|message| {
                    !matches!(message, Message::Presence(old) if old.member == presence.member)
                });
            }
            self.owe(now, id, Message::Presence(presence.clone()));
        }
    }

    /// Passes on what a member said of itself, later if it says much.
    fn tell_presence(&mut self, now: Now, member: &str) {
        if self.hub.may_tell(member, now.mono)
            && let Some(presence) = self.hub.presence(member)
        {
            self.broadcast(now, member, &presence);
        }
    }

    /// Passes on what had to wait.
    pub(super) fn tell_late(&mut self, now: Now) {
        for member in self.hub.late(now.mono) {
            self.tell_presence(now, &member);
        }
    }

    /// Queues a message for a session, behind what it is owed already.
    fn owe(&mut self, now: Now, id: SessionId, message: Message) {
        if let Some(entry) = self.sessions.get_mut(id) {
            if entry.owed.len() >= OWED {
                entry.owed.pop_front();
            }
            entry.owed.push_back(message);
            self.pump(now, id);
        }
    }

    /// A receipt to its author, now or when he is back.
    pub(super) fn send_receipt(&mut self, now: Now, author: &str, message: Message) {
        let sessions = self.hub.sessions_of(author);
        if sessions.is_empty() {
            self.hub.keep_receipt(author, message);
            return;
        }
        for id in sessions {
            self.owe(now, id, message.clone());
        }
    }

    pub(super) fn take_message(&mut self, now: Now, id: SessionId, message: Message) {
        let Some(entry) = self.sessions.get(id) else { return };
        if entry.established.is_none() {
            return;
        }
        let member = entry.member.clone();
        match message {
            Message::Chat(chat) => self.take_chat(now, id, &member, chat),
            Message::Presence(presence) if presence.status != Status::Offline => {
                let changed = self.hub.set_status(&member, id, presence.status, now.wall);
                if changed.is_some() {
                    self.tell_presence(now, &member);
                }
            }
            Message::Receipt { id: chat, .. } => {
                if let Some(author) = self.hub.read(&member, chat) {
                    let told = receipt(chat, ReceiptState::Read, &member, now.wall);
                    self.send_receipt(now, &author, told);
                }
            }
            Message::CredentialStored { timestamp } => self.credential_stored(now, id, timestamp),
            // Errors of a client that are not fatal tell nothing to act on.
            _ => {}
        }
    }

    fn take_chat(&mut self, now: Now, id: SessionId, member: &str, chat: Chat) {
        let chat_id = chat.id;
        match self.hub.submit(member, chat, now) {
            Verdict::Store(stored) => {
                let action = Action::StoreChat { stored: Box::new(stored.clone()) };
                let waits = Waits::Store(stored.clone());
                if self.ops.start_common(now.mono, action, waits).is_err() {
                    self.hub.failed(&stored.chat);
                    self.refuse_chat(now, id, chat_id, ErrorCode::RateLimited, "the disk is busy");
                }
            }
            Verdict::Known => {
                let again = receipt(chat_id, ReceiptState::Stored, SERVER_MEMBER, now.wall);
                self.owe(now, id, again);
            }
            Verdict::Pending => {}
            Verdict::NoRecipient => {
                let text = "no such member, or a room that you are not in";
                self.refuse_chat(now, id, chat_id, ErrorCode::NoRecipient, text);
            }
            Verdict::TooLong => {
                let text = "too long to be relayed";
                self.refuse_chat(now, id, chat_id, ErrorCode::Internal, text);
            }
            Verdict::RateLimited { audit } => {
                if audit {
                    let limited = Audit::RateLimited { member: member.to_string() };
                    self.events.push_back(Event::Audit(limited));
                }
                let text = "more than 20 messages a second";
                self.refuse_chat(now, id, chat_id, ErrorCode::RateLimited, text);
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
        self.owe(now, id, Message::Error(error));
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
        for gone in self.hub.stored(stored, now) {
            self.chat_dropped(now, &gone, TOO_MANY);
        }
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

    /// Puts back a chat that was stored before a restart. What is for the server itself may not have
    /// been told: it is told now, once in each run.
    pub(super) fn restore(&mut self, now: Now, stored: StoredChat) {
        for gone in self.hub.restore(&stored, now) {
            self.chat_dropped(now, &gone, TOO_MANY);
        }
        if stored.to.iter().any(|name| name == SERVER_MEMBER) {
            let (author, id) = (stored.chat.from.clone(), stored.chat.id);
            self.events.push_back(Event::Chat(stored.chat));
            self.delivered(now, &author, id, SERVER_MEMBER);
        }
    }

    /// Drops the chat that nobody came for in time (PROTOCOL 5.4).
    pub(super) fn expire_chat(&mut self, now: Now) {
        for gone in self.hub.expire(now.mono) {
            self.chat_dropped(now, &gone, "for 7 days nobody came as");
        }
    }

    /// A chat is no longer kept for a member that did not get it: its author is told.
    fn chat_dropped(&mut self, now: Now, gone: &Delivered, why: &str) {
        let Delivered { id, from, by } = gone;
        self.note_delivered(now, from, *id, by);
        let message = format!("not delivered: {why} @{by}");
        let code = ErrorCode::NoRecipient;
        let error = ErrorMessage { code, message, fatal: false, id: Some(*id), now: None };
        self.send_receipt(now, from, Message::Error(error));
        let (from, to) = (from.clone(), by.clone());
        self.events.push_back(Event::Audit(Audit::ChatDropped { from, id: *id, to }));
    }

    /// A session acknowledged every byte of a mail.
    pub(super) fn mail_acked(&mut self, now: Now, id: SessionId, number: u64) {
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let member = entry.member.clone();
        if number >= HANDED {
            let unacknowledged = &mut entry.handed.unacknowledged;
            unacknowledged.remove(&number);
            if unacknowledged.is_empty() {
                *unacknowledged = BTreeMap::new();
            }
            return;
        }
        if let Some(delivered) = self.hub.mail_acked(&member, number) {
            self.delivered(now, &delivered.from, delivered.id, &delivered.by);
        }
    }

    fn delivered(&mut self, now: Now, author: &str, id: ChatId, by: &str) {
        self.note_delivered(now, author, id, by);
        let told = receipt(id, ReceiptState::Delivered, by, now.wall);
        self.send_receipt(now, author, told);
    }

    /// Makes durable, in its own time, that a chat is no longer kept for a member.
    fn note_delivered(&mut self, now: Now, author: &str, id: ChatId, by: &str) {
        let action = Action::ChatDelivered { from: author.to_string(), id, by: by.to_string() };
        // If this is lost, the member is sent the chat again, and shows it once.
        let _started = self.ops.start_common(now.mono, action, Waits::Nothing);
    }

    /// Sends a session what waits for its member, while its channel has room.
    pub(super) fn pump(&mut self, now: Now, id: SessionId) {
        let Some(entry) = self.sessions.get_mut(id) else { return };
        if entry.established.is_none() {
            return;
        }
        let mut touched = false;
        while entry.session.has_room() {
            if let Some(message) = entry.owed.pop_front() {
                let token = entry.handed.token(&message);
                entry.session.owe(now, &message, token);
            } else if let Some((number, chat)) = self.hub.next_mail(&entry.member, id) {
                let message = Message::Chat(chat.clone());
                // What can't be sent must not stand in the way of the rest.
                let _too_long = entry.session.send(&message, Some(number));
                self.hub.mail_sent(&entry.member, id, number);
            } else {
                break;
            }
            touched = true;
        }
        entry.held = !entry.session.has_room();
        if entry.owed.is_empty() {
            // Most sessions are owed nothing most of the time.
            entry.owed.rest();
        }
        if touched {
            self.schedule.touch(id);
        }
    }
}

/// About how long a roster is as JSON, bytes.
fn roster_size(members: &[Presence]) -> usize {
    members.iter().map(|presence| presence.member.len() + 64).sum()
}
