//! Who is in which room, who is online, and what becomes of chat (PROTOCOL 5.4, 5.5): pure policy,
//! no session is touched here.

use crate::budget::Budget;
use crate::id::{ChatId, SessionId};
use crate::limits::{
    CHATS_BURST, CHATS_PENDING, CHATS_PER_SECOND, CHATS_REMEMBERED, MAILBOX_AGE, MAILBOX_BYTES,
    MAILBOX_MESSAGES, MESSAGE_MAX, PRESENCE_BURST, PRESENCE_PER_SECOND, SCAN_WINDOW,
};
use crate::time::{Duration, Instant, Now, UnixMs};
use crate::wire::message::{
    Chat, LOBBY, Message, Presence, ReceiptState, Recipient, SERVER_MEMBER, Status,
};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// A chat and the members it is still to be delivered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChat {
    /// The chat.
    pub chat: Chat,
    /// Members that have not acknowledged it.
    pub to: Vec<String>,
    /// When the server took it, by its wall clock: it is kept for 7 days (PROTOCOL 5.4).
    pub stored_at: UnixMs,
}

/// A chat in a mailbox; its number orders the mailbox.
#[derive(Debug)]
struct Mail {
    number: u64,
    body: u64,
    /// It goes then, delivered or not.
    until: Instant,
}

#[derive(Debug)]
struct Member {
    name: Arc<str>,
    rooms: BTreeSet<String>,
    since: UnixMs,
    /// Established sessions, each with its own status and the number of the next mail to send it.
    sessions: BTreeMap<SessionId, (Status, u64)>,
    mailbox: VecDeque<Mail>,
    /// Bytes of the chats in it.
    mailbox_bytes: usize,
    /// Chats of this member that were stored, oldest first.
    known: VecDeque<ChatId>,
    pending: BTreeSet<ChatId>,
    /// Chats it has, newest last, and their authors: each may be said to be read once.
    unread: VecDeque<(ChatId, String)>,
    /// Receipts for chats of this member that came while it was away.
    receipts: VecDeque<Message>,
    chats: Budget,
    presence: Budget,
    /// It was said to send too much, and not again before this.
    limited_until: Instant,
}

impl Member {
    fn new(now: Now, name: &str) -> Self {
        Self {
            name: name.into(),
            rooms: BTreeSet::new(),
            since: now.wall,
            sessions: BTreeMap::new(),
            mailbox: VecDeque::new(),
            mailbox_bytes: 0,
            known: VecDeque::new(),
            pending: BTreeSet::new(),
            unread: VecDeque::new(),
            receipts: VecDeque::new(),
            chats: Budget::new(now.mono, CHATS_PER_SECOND, CHATS_BURST),
            presence: Budget::new(now.mono, PRESENCE_PER_SECOND, PRESENCE_BURST),
            limited_until: now.mono,
        }
    }

    /// The best status of its sessions.
    fn status(&self) -> Status {
        self.sessions.values().map(|(status, _)| *status).min().unwrap_or(Status::Offline)
    }
}

/// What becomes of a chat that a member sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// To be made durable for these members first.
    Store(StoredChat),
    /// Stored already: `stored` again.
    Known,
    /// On its way to the disk: its receipt comes.
    Pending,
    /// `no_recipient`.
    NoRecipient,
    /// Too much waits.
    Full,
    /// Too many a second; `audit` when that was not said lately.
    RateLimited { audit: bool },
    /// With its author's name it is longer than a message can be.
    TooLong,
}

/// A mail that is no longer kept for a member.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) id: ChatId,
    pub(super) from: String,
    pub(super) by: String,
}

/// A chat that waits in mailboxes: kept once, however many they are.
#[derive(Debug)]
struct Body {
    chat: Chat,
    mailboxes: usize,
}

/// About how long a chat is, bytes.
fn size(chat: &Chat) -> usize {
    chat.text.len() + chat.from.len() + size_of::<Mail>()
}

/// Members, rooms and mailboxes.
#[derive(Debug, Default)]
pub(super) struct Hub {
    members: BTreeMap<String, Member>,
    bodies: BTreeMap<u64, Body>,
    next_body: u64,
    next_mail: u64,
    /// Members whose presence is passed on later, and when.
    late: BTreeMap<String, Instant>,
}

impl Hub {
    /// Adds a member, or sets its rooms; every member is in the lobby.
    pub(super) fn set_member(&mut self, name: &str, rooms: &[String], now: Now) {
        let member = self.members.entry(name.to_string()).or_insert_with(|| Member::new(now, name));
        member.rooms = rooms.iter().cloned().chain([LOBBY.to_string()]).collect();
    }

    /// A name to keep: a member's own, however many keep it.
    pub(super) fn name(&self, name: &str) -> Arc<str> {
        self.members.get(name).map_or_else(|| name.into(), |member| member.name.clone())
    }

    pub(super) fn has_member(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Puts back what was stored before a restart; of chats that are delivered only the id counts.
    /// What had to make way.
    pub(super) fn restore(&mut self, stored: &StoredChat, now: Now) -> Vec<Delivered> {
        self.remember(&stored.chat.from, stored.chat.id);
        self.post(stored, now)
    }

    fn remember(&mut self, from: &str, id: ChatId) {
        if let Some(member) = self.members.get_mut(from) {
            if member.known.len() >= CHATS_REMEMBERED {
                member.known.pop_front();
            }
            member.known.push_back(id);
        }
    }

    /// Puts a chat into the mailboxes it is for; in a full one the oldest make way, and are returned.
    fn post(&mut self, stored: &StoredChat, now: Now) -> Vec<Delivered> {
        let age = Duration::from_millis(now.wall.0.saturating_sub(stored.stored_at.0));
        let until = now.mono + MAILBOX_AGE.saturating_sub(age);
        let body = self.next_body;
        self.next_body += 1;
        let mut posted = Vec::new();
        for name in &stored.to {
            let Some(member) = self.members.get_mut(name) else { continue };
            member.mailbox.push_back(Mail { number: self.next_mail, body, until });
            member.mailbox_bytes += size(&stored.chat);
            self.next_mail += 1;
            posted.push(name);
        }
        if !posted.is_empty() {
            let mailboxes = posted.len();
            self.bodies.insert(body, Body { chat: stored.chat.clone(), mailboxes });
        }
        posted.into_iter().flat_map(|name| self.make_room(name)).collect()
    }

    /// Takes the oldest out of a mailbox that is too full.
    fn make_room(&mut self, name: &str) -> Vec<Delivered> {
        let mut gone = Vec::new();
        while let Some(member) = self.members.get(name)
            && (member.mailbox.len() > MAILBOX_MESSAGES || member.mailbox_bytes > MAILBOX_BYTES)
        {
            let Some(taken) = self.take_mail(name, 0) else { break };
            gone.push(taken);
        }
        gone
    }

    /// Takes a mail out of a mailbox, by its place there; the last to go takes the chat with it.
    fn take_mail(&mut self, name: &str, at: usize) -> Option<Delivered> {
        let member = self.members.get_mut(name)?;
        let mail = member.mailbox.remove(at)?;
        let body = self.bodies.get_mut(&mail.body)?;
        member.mailbox_bytes -= size(&body.chat);
        body.mailboxes -= 1;
        let (id, from, by) = (body.chat.id, body.chat.from.clone(), name.to_string());
        if body.mailboxes == 0 {
            self.bodies.remove(&mail.body);
        }
        Some(Delivered { id, from, by })
    }

    /// Takes out what was kept for too long; of each chat, who did not get it.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Delivered> {
        let mut gone = Vec::new();
        let names: Vec<_> = self.members.keys().cloned().collect();
        for name in names {
            while self
                .members
                .get(&name)
                .and_then(|member| member.mailbox.front())
                .is_some_and(|mail| mail.until <= now)
            {
                gone.extend(self.take_mail(&name, 0));
            }
        }
        gone
    }

    /// A session of a member is established. Its roster.
    pub(super) fn join(&mut self, name: &str, session: SessionId, now: UnixMs) -> Message {
        if let Some(member) = self.members.get_mut(name) {
            if member.sessions.is_empty() {
                member.since = now;
            }
            member.sessions.insert(session, (Status::Online, 0));
        }
        let rooms = self.members.get(name).map(|member| member.rooms.iter().cloned().collect());
        let members = self.members.iter().map(|(name, member)| Presence {
            member: name.clone(),
            status: member.status(),
            since: member.since,
        });
        Message::Roster { members: members.collect(), rooms: rooms.unwrap_or_default() }
    }

    /// A session of a member has ended. The member's presence, if that changed.
    pub(super) fn leave(
        &mut self,
        name: &str,
        session: SessionId,
        now: UnixMs,
    ) -> Option<Presence> {
        let member = self.members.get_mut(name)?;
        let before = member.status();
        member.sessions.remove(&session)?;
        Self::changed(name, member, before, now)
    }

    /// A member says how it is. Its presence, if that changed.
    pub(super) fn set_status(
        &mut self,
        name: &str,
        session: SessionId,
        status: Status,
        now: UnixMs,
    ) -> Option<Presence> {
        let member = self.members.get_mut(name)?;
        let before = member.status();
        member.sessions.get_mut(&session)?.0 = status;
        Self::changed(name, member, before, now)
    }

    fn changed(name: &str, member: &mut Member, before: Status, now: UnixMs) -> Option<Presence> {
        let status = member.status();
        if status == before {
            return None;
        }
        member.since = now;
        Some(Presence { member: name.to_string(), status, since: now })
    }

    /// Whether a member's presence may be passed on now. If not, [`Self::late`] has it later.
    pub(super) fn may_tell(&mut self, name: &str, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(name) else { return false };
        if member.presence.take(now) {
            self.late.remove(name);
            return true;
        }
        let at = member.presence.next(now);
        self.late.entry(name.to_string()).or_insert(at);
        false
    }

    /// When presence that waits may be passed on.
    pub(super) fn late_at(&self) -> Option<Instant> {
        self.late.values().min().copied()
    }

    /// Members whose presence waited long enough.
    pub(super) fn late(&mut self, now: Instant) -> Vec<String> {
        self.late.extract_if(.., |_, at| *at <= now).map(|(name, _)| name).collect()
    }

    /// The presence of a member now.
    pub(super) fn presence(&self, name: &str) -> Option<Presence> {
        let member = self.members.get(name)?;
        let (status, since) = (member.status(), member.since);
        Some(Presence { member: name.to_string(), status, since })
    }

    /// Sessions of a member.
    pub(super) fn sessions_of(&self, name: &str) -> Vec<SessionId> {
        self.members.get(name).map_or_else(Vec::new, |m| m.sessions.keys().copied().collect())
    }

    /// Sessions of everybody else.
    pub(super) fn sessions_but(&self, name: &str) -> Vec<SessionId> {
        let others = self.members.iter().filter(|(other, _)| *other != name);
        others.flat_map(|(_, member)| member.sessions.keys().copied()).collect()
    }

    /// Whom something of a member is for; `None` for nobody that it may write to.
    pub(super) fn recipients(&self, from: &str, to: &Recipient) -> Option<Vec<String>> {
        match to {
            Recipient::Member(name) if name == SERVER_MEMBER => Some(vec![name.clone()]),
            Recipient::Member(name) => self.members.contains_key(name).then(|| vec![name.clone()]),
            Recipient::Room(room) => {
                let others = self
                    .members
                    .iter()
                    .filter(|(name, other)| *name != from && other.rooms.contains(room));
                // The server is in all of them.
                let own = from == SERVER_MEMBER || self.members.get(from)?.rooms.contains(room);
                own.then(|| others.map(|(name, _)| name.clone()).collect())
            }
        }
    }

    /// A chat of `from` arrived; `chat.from` is set here, whatever the client wrote.
    pub(super) fn submit(&mut self, from: &str, mut chat: Chat, now: Now) -> Verdict {
        let Some(member) = self.members.get_mut(from) else { return Verdict::NoRecipient };
        if !member.chats.take(now.mono) {
            let audit = member.limited_until <= now.mono;
            if audit {
                member.limited_until = now.mono + SCAN_WINDOW;
            }
            return Verdict::RateLimited { audit };
        }
        let Some(member) = self.members.get(from) else { return Verdict::NoRecipient };
        if member.known.contains(&chat.id) {
            return Verdict::Known;
        }
        if member.pending.contains(&chat.id) {
            return Verdict::Pending;
        }
        let Some(to) = self.recipients(from, &chat.to) else { return Verdict::NoRecipient };
        if member.pending.len() >= CHATS_PENDING {
            return Verdict::Full;
        }
        chat.from = from.to_string();
        // `from` may have made it longer than a message can be.
        if Message::Chat(chat.clone()).encode().len() > MESSAGE_MAX {
            return Verdict::TooLong;
        }
        if let Some(member) = self.members.get_mut(from) {
            member.pending.insert(chat.id);
        }
        Verdict::Store(StoredChat { chat, to, stored_at: now.wall })
    }

    /// A chat is durable: into the mailboxes with it. What had to make way there.
    pub(super) fn stored(&mut self, stored: &StoredChat, now: Now) -> Vec<Delivered> {
        self.failed(&stored.chat);
        self.remember(&stored.chat.from, stored.chat.id);
        self.post(stored, now)
    }

    /// A chat could not be made durable: it was never there.
    pub(super) fn failed(&mut self, chat: &Chat) {
        if let Some(member) = self.members.get_mut(&chat.from) {
            member.pending.remove(&chat.id);
        }
    }

    /// The next mail to send to a session, and its number.
    pub(super) fn next_mail(&self, name: &str, session: SessionId) -> Option<(u64, &Chat)> {
        let member = self.members.get(name)?;
        let (_, next) = member.sessions.get(&session)?;
        let at = member.mailbox.partition_point(|mail| mail.number < *next);
        let mail = member.mailbox.get(at)?;
        Some((mail.number, &self.bodies.get(&mail.body)?.chat))
    }

    /// Mail up to this number was sent to a session.
    pub(super) fn mail_sent(&mut self, name: &str, session: SessionId, number: u64) {
        if let Some(member) = self.members.get_mut(name)
            && let Some((_, next)) = member.sessions.get_mut(&session)
        {
            *next = number + 1;
        }
    }

    /// A session acknowledged a mail; `None` when another session of the member already had.
    pub(super) fn mail_acked(&mut self, name: &str, number: u64) -> Option<Delivered> {
        let member = self.members.get(name)?;
        let at = member.mailbox.binary_search_by_key(&number, |mail| mail.number).ok()?;
        let mail = self.take_mail(name, at)?;
        let member = self.members.get_mut(name)?;
        if member.unread.len() >= CHATS_REMEMBERED {
            member.unread.pop_front();
        }
        member.unread.push_back((mail.id, mail.from.clone()));
        Some(mail)
    }

    /// A member says that it has read a chat: the author, if it has that chat and had not said so.
    pub(super) fn read(&mut self, name: &str, id: ChatId) -> Option<String> {
        let member = self.members.get_mut(name)?;
        let at = member.unread.iter().rposition(|(known, _)| *known == id)?;
        member.unread.remove(at).map(|(_, author)| author)
    }

    /// Keeps a receipt for an author who is away.
    pub(super) fn keep_receipt(&mut self, author: &str, receipt: Message) {
        if let Some(member) = self.members.get_mut(author) {
            if member.receipts.len() >= CHATS_REMEMBERED {
                member.receipts.pop_front();
            }
            member.receipts.push_back(receipt);
        }
    }

    /// A receipt kept for a member who is here.
    pub(super) fn next_receipt(&mut self, name: &str) -> Option<Message> {
        self.members.get_mut(name)?.receipts.pop_front()
    }

    /// Chat waiting for a member.
    pub(super) fn waiting(&self, name: &str) -> usize {
        self.members.get(name).map_or(0, |member| member.mailbox.len())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }
}

/// A receipt as the server sends it.
pub(super) fn receipt(id: ChatId, state: ReceiptState, by: &str, at: UnixMs) -> Message {
    Message::Receipt { id, state, by: by.to_string(), at }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        let mono = Instant::ZERO + Duration::from_secs(secs);
        Now { mono, wall: UnixMs(secs * 1000) }
    }

    fn hub() -> Hub {
        let mut hub = Hub::default();
        hub.set_member("ann", &["ops".to_string()], at(0));
        hub.set_member("bob", &[], at(0));
        hub
    }

    fn chat(id: u8, to: &str) -> Chat {
        Chat {
            id: ChatId([id; 16]),
            from: "mallory".to_string(),
            to: Recipient::parse(to).unwrap(),
            text: "hi".to_string(),
            sent_at: UnixMs(0),
        }
    }

    fn store(hub: &mut Hub, from: &str, chat: Chat) -> StoredChat {
        match hub.submit(from, chat, at(0)) {
            Verdict::Store(stored) => stored,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn recipients() {
        let mut hub = hub();
        let to = |hub: &mut Hub, id, name: &str| match hub.submit("ann", chat(id, name), at(0)) {
            Verdict::Store(stored) => Some(stored.to),
            _ => None,
        };
        assert_eq!(to(&mut hub, 1, "@bob"), Some(vec!["bob".to_string()]));
        assert_eq!(to(&mut hub, 2, "#lobby"), Some(vec!["bob".to_string()]));
        assert_eq!(to(&mut hub, 3, "#ops"), Some(vec![]));
        assert_eq!(to(&mut hub, 4, "@server"), Some(vec!["server".to_string()]));
        assert_eq!(hub.submit("ann", chat(5, "@eve"), at(0)), Verdict::NoRecipient);
        assert_eq!(hub.submit("bob", chat(5, "#ops"), at(0)), Verdict::NoRecipient);
    }

    #[test]
    fn each_chat_once() {
        let mut hub = hub();
        let stored = store(&mut hub, "ann", chat(1, "@bob"));
        assert_eq!(stored.chat.from, "ann", "the server writes it");
        assert_eq!(hub.submit("ann", chat(1, "@bob"), at(0)), Verdict::Pending);
        hub.stored(&stored, at(0));
        assert_eq!(hub.submit("ann", chat(1, "@bob"), at(0)), Verdict::Known);
        assert!(
            matches!(hub.submit("bob", chat(1, "@ann"), at(0)), Verdict::Store(_)),
            "another's id"
        );
        let failed = store(&mut hub, "ann", chat(2, "@bob"));
        hub.failed(&failed.chat);
        store(&mut hub, "ann", chat(2, "@bob"));
    }

    #[test]
    fn mailbox_survives_sessions_and_is_bounded() {
        let mut hub = hub();
        for id in 0..4 {
            let stored = store(&mut hub, "ann", chat(id, "@bob"));
            assert!(hub.stored(&stored, at(0)).is_empty());
        }
        let (first, second) = (SessionId(1), SessionId(2));
        hub.join("bob", first, UnixMs(1));
        let (number, _) = hub.next_mail("bob", first).unwrap();
        hub.mail_sent("bob", first, number);
        assert_eq!(hub.next_mail("bob", first).unwrap().1.id, ChatId([1; 16]));
        hub.leave("bob", first, UnixMs(2));
        hub.join("bob", second, UnixMs(3));
        assert_eq!(hub.next_mail("bob", second).unwrap().1.id, ChatId([0; 16]), "not acknowledged");
        assert_eq!(hub.mail_acked("bob", number).unwrap().by, "bob");
        assert!(hub.mail_acked("bob", number).is_none());
        assert_eq!(hub.read("bob", ChatId([0; 16])), Some("ann".to_string()));
        assert_eq!(hub.read("bob", ChatId([0; 16])), None, "once");
        assert_eq!(hub.read("bob", ChatId([1; 16])), None, "not delivered");
        assert_eq!(hub.waiting("bob"), 3);
        for id in 0..=255 {
            for round in 0..4 {
                let mut chat = chat(id, "@bob");
                chat.id.0[0] = 100 + round;
                let now = at(u64::from(id));
                if let Verdict::Store(stored) = hub.submit("ann", chat, now) {
                    hub.stored(&stored, now);
                }
            }
        }
        assert_eq!(hub.waiting("bob"), MAILBOX_MESSAGES);
        let stored = StoredChat { stored_at: at(500).wall, ..stored_by_ann(77) };
        assert_eq!(hub.stored(&stored, at(500)).len(), 1, "the oldest makes way");
        let mut long = chat(78, "@bob");
        long.text = "x".repeat(MESSAGE_MAX - 50);
        assert!(matches!(hub.submit("ann", long, at(600)), Verdict::TooLong));
        let week = 7 * 86_400;
        assert!(hub.expire(at(week - 1).mono).is_empty());
        let gone = hub.expire(at(week + 300).mono);
        assert!(gone.len() > 900 && gone.iter().all(|gone| gone.by == "bob"));
        assert_eq!(hub.waiting("bob"), 1, "it is not a week old");
    }

    fn stored_by_ann(id: u8) -> StoredChat {
        let chat = Chat { from: "ann".to_string(), ..chat(id, "@bob") };
        StoredChat { chat, to: vec!["bob".to_string()], stored_at: UnixMs(0) }
    }

    #[test]
    fn a_mailbox_has_a_size() {
        let mut hub = hub();
        hub.set_member("cid", &[], at(0));
        let mut gone = Vec::new();
        for id in 0..=255 {
            let mut stored = stored_by_ann(id);
            stored.to.push("cid".to_string());
            stored.chat.text = "x".repeat(MESSAGE_MAX - 1000);
            gone.extend(hub.stored(&stored, at(0)));
        }
        let member = &hub.members["bob"];
        assert!(member.mailbox_bytes <= MAILBOX_BYTES && member.mailbox.len() > 120);
        assert_eq!(hub.bodies.len(), member.mailbox.len(), "each once, for two members");
        assert_eq!(gone.len(), 2 * (256 - hub.bodies.len()), "its author is told");
        assert_eq!((gone[0].id, gone[0].from.as_str()), (ChatId([0; 16]), "ann"));
        hub.expire(at(8 * 86_400).mono);
        assert!(hub.bodies.is_empty());
        assert_eq!(hub.members["cid"].mailbox_bytes, 0);
    }

    #[test]
    fn a_restart_does_not_make_chat_younger() {
        let mut hub = hub();
        hub.restore(&stored_by_ann(1), Now { mono: Instant::ZERO, wall: at(86_400).wall });
        assert!(hub.expire(at(6 * 86_400 - 1).mono).is_empty());
        assert_eq!(hub.expire(at(6 * 86_400).mono).len(), 1);
    }

    #[test]
    fn twenty_a_second() {
        let mut hub = hub();
        for id in 0..100 {
            assert!(matches!(hub.submit("ann", chat(id, "@bob"), at(0)), Verdict::Store(_)));
        }
        let limited = |audit| Verdict::RateLimited { audit };
        assert_eq!(hub.submit("ann", chat(100, "@bob"), at(0)), limited(true));
        assert_eq!(hub.submit("ann", chat(100, "@bob"), at(0)), limited(false), "told once");
        assert!(matches!(hub.submit("bob", chat(1, "@ann"), at(0)), Verdict::Store(_)));
        for id in 100..120 {
            assert!(matches!(hub.submit("ann", chat(id, "@bob"), at(1)), Verdict::Store(_)));
        }
        assert_eq!(hub.submit("ann", chat(120, "@bob"), at(1)), limited(false));
    }

    #[test]
    fn presence_is_the_best_of_all_sessions() {
        let mut hub = hub();
        let Message::Roster { members, rooms } = hub.join("ann", SessionId(1), UnixMs(5)) else {
            panic!()
        };
        assert_eq!(rooms, ["lobby", "ops"]);
        assert_eq!(members[0].status, Status::Online);
        assert_eq!(members[1].status, Status::Offline);
        hub.join("ann", SessionId(2), UnixMs(6));
        assert_eq!(hub.set_status("ann", SessionId(1), Status::Away, UnixMs(7)), None);
        let away = hub.leave("ann", SessionId(2), UnixMs(8)).unwrap();
        assert_eq!((away.status, away.since), (Status::Away, UnixMs(8)));
        assert_eq!(hub.leave("ann", SessionId(1), UnixMs(9)).unwrap().status, Status::Offline);
        assert_eq!(hub.leave("ann", SessionId(1), UnixMs(9)), None);
    }
}
