//! Files at the server (PROTOCOL 5.6): it is one end of every transfer, keeps what members send, and
//! offers it on to those it is for, also after a restart.

mod room;
mod sending;

use super::{Action, Event, Server, Waits};
use crate::error::SendError;
use crate::id::{ChatId, SessionId, TransferId};
use crate::limits::{FILES_KEPT, FILES_REMEMBERED};
use crate::ops::FileFailure;
use crate::ranges::RangeSet;
use crate::session::{FileEvent, Number, Session};
use crate::time::{Now, UnixMs};
use crate::wire::message::{FileError, FileOffer, SERVER_MEMBER, is_file_name};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A file that the server keeps for members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// What it is, and who sends it.
    pub offer: FileOffer,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// Members that have not got it.
    pub to: Vec<String>,
    /// When it was whole, by the server's wall clock: it is kept for 7 days.
    pub stored_at: UnixMs,
}

/// Who sent a file, and its id.
type Key = (String, ChatId);

/// Whether a file that a member offers is here already.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    No,
    /// More of its kind are taken than may be at a time.
    Waits,
    Taken,
}

/// What a transfer is about.
#[derive(Debug)]
enum What {
    /// A member sends it, for these.
    In { offer: FileOffer, to: Vec<String>, known: Known },
    /// It is sent to a member: its number among those kept.
    Out { file: u64, taken: bool },
}

#[derive(Debug)]
struct Transfer {
    session: SessionId,
    number: Number,
    what: What,
}

/// Files that are kept, and those on their way.
#[derive(Debug, Default)]
pub(super) struct Files {
    next_transfer: u64,
    transfers: BTreeMap<TransferId, Transfer>,
    numbers: BTreeMap<(SessionId, Number), TransferId>,
    /// The one that bytes came for last: they come in batches.
    last: Option<(SessionId, u64, TransferId)>,
    next_file: u64,
    /// In the order in which they came.
    kept: BTreeMap<u64, StoredFile>,
    /// All that are kept, and those passed on lately: their size and SHA-256.
    known: BTreeMap<Key, (u64, [u8; 32])>,
    passed_on: VecDeque<Key>,
    /// What waits for whom.
    waiting: BTreeMap<String, BTreeSet<u64>>,
    /// What a session was offered, whatever became of it.
    offered: BTreeMap<SessionId, BTreeSet<u64>>,
}

impl Files {
    pub(super) fn of(&self, session: SessionId, number: Number) -> Option<TransferId> {
        self.numbers.get(&(session, number)).copied()
    }

    /// The transfer that bytes are for.
    pub(super) fn of_chunk(&mut self, session: SessionId, count: u64) -> Option<TransferId> {
        if let Some((same, number, transfer)) = self.last
            && (same, number) == (session, count)
        {
            return Some(transfer);
        }
        let transfer = self.of(session, Number { ours: false, count })?;
        self.last = Some((session, count, transfer));
        Some(transfer)
    }

    fn begin(&mut self, session: SessionId, number: Number, what: What) -> TransferId {
        let transfer = TransferId(self.next_transfer);
        self.next_transfer += 1;
        self.numbers.insert((session, number), transfer);
        self.transfers.insert(transfer, Transfer { session, number, what });
        transfer
    }

    fn end(&mut self, transfer: TransferId) -> Option<Transfer> {
        let ended = self.transfers.remove(&transfer)?;
        self.last.take_if(|(.., last)| *last == transfer);
        self.numbers.remove(&(ended.session, ended.number));
        Some(ended)
    }

    /// The session is gone: its transfers that the host knows of.
    fn session_ended(&mut self, session: SessionId) -> Vec<TransferId> {
        self.offered.remove(&session);
        let edges =
            [false, true].map(|ours| Number { ours, count: if ours { u64::MAX } else { 0 } });
        let range = (session, edges[0])..=(session, edges[1]);
        let gone: Vec<_> = self.numbers.range(range).map(|(_, transfer)| *transfer).collect();
        let told = |transfer: &TransferId| match self.end(*transfer)?.what {
            What::Out { taken: false, .. } => None,
            What::In { .. } | What::Out { .. } => Some(*transfer),
        };
        gone.iter().filter_map(told).collect()
    }

    /// Keeps a file for whom it is for. False when it is known.
    fn keep(&mut self, stored: StoredFile) -> bool {
        let key = (stored.offer.from.clone(), stored.offer.id);
        if self.known.contains_key(&key) {
            return false;
        }
        self.known.insert(key.clone(), (stored.offer.size, stored.sha256));
        if stored.to.is_empty() {
            self.remember(key);
            return true;
        }
        for member in &stored.to {
            self.waiting.entry(member.clone()).or_default().insert(self.next_file);
        }
        self.kept.insert(self.next_file, stored);
        self.next_file += 1;
        true
    }

    /// It has gone to all; for a while it is still known.
    fn remember(&mut self, key: Key) {
        self.passed_on.push_back(key);
        if self.passed_on.len() > FILES_REMEMBERED
            && let Some(oldest) = self.passed_on.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// A member has it, or wants it no more; its sender and id, if it waited for that member.
    fn passed(&mut self, file: u64, member: &str) -> Option<Key> {
        let waiting = self.waiting.get_mut(member)?;
        if !waiting.remove(&file) {
            return None;
        }
        if waiting.is_empty() {
            self.waiting.remove(member);
        }
        let stored = self.kept.get_mut(&file)?;
        stored.to.retain(|name| name != member);
        let key = (stored.offer.from.clone(), stored.offer.id);
        if stored.to.is_empty() {
            self.kept.remove(&file);
            self.remember(key.clone());
        }
        Some(key)
    }

    /// The next file to offer in a session of a member.
    fn next_for(&self, session: SessionId, member: &str) -> Option<(u64, &StoredFile)> {
        let offered = self.offered.get(&session);
        let waiting = self.waiting.get(member)?;
        let file = waiting.iter().find(|file| offered.is_none_or(|set| !set.contains(file)))?;
        Some((*file, self.kept.get(file)?))
    }
}

impl Server {
    /// Something about a file, from a session.
    pub(super) fn on_file_event(
        &mut self,
        now: Now,
        id: SessionId,
        number: Number,
        event: FileEvent,
    ) {
        if let FileEvent::Offered(offer) = event {
            self.take_offer(now, id, number, offer);
            return;
        }
        let Some(transfer) = self.files.of(id, number) else { return };
        match event {
            FileEvent::Offered(_) => {}
            FileEvent::Accepted { held } => self.file_taken(now, id, transfer, held),
            FileEvent::Complete { sha256 } => self.file_complete(now, id, transfer, sha256),
            FileEvent::Done(result) => {
                let result = result.map_err(FileFailure::Checked);
                self.file_through(now, transfer, result);
            }
            FileEvent::Cancelled(reason) => {
                self.file_through(now, transfer, Err(FileFailure::Cancelled(reason)));
            }
        }
        self.take_known(id);
        self.offer_files(id);
    }

    /// A member offers a file.
    fn take_offer(&mut self, now: Now, id: SessionId, number: Number, mut offer: FileOffer) {
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let member = entry.member.to_string();
        offer.from.clone_from(&member);
        let mut to = self.hub.recipients(&member, &offer.to);
        if let Some(to) = &mut to {
            // Nobody comes for what is the server's own.
            to.retain(|name| name != SERVER_MEMBER);
        }
        let refused = match &to {
            _ if !is_file_name(&offer.name) => Some("not a name that a file may have"),
            None => Some("no such member, or a room that you are not in"),
            Some(_) => None,
        };
        if let Some(reason) = refused {
            entry.session.cancel_file(now, number, reason);
            return;
        }
        let known = self.files.known.get(&(member, offer.id)).copied();
        if known.is_some_and(|(size, _)| size != offer.size) {
            entry.session.cancel_file(now, number, "this id was another file's");
            return;
        }
        let to = to.unwrap_or_default();
        if known.is_some() {
            self.files.begin(id, number, What::In { offer, to, known: Known::Waits });
            self.take_known(id);
        } else {
            let what = What::In { offer: offer.clone(), to, known: Known::No };
            let transfer = self.files.begin(id, number, what);
            self.events.push_back(Event::FileOffered { transfer, session: id, offer });
        }
    }

    /// A member takes a file that is kept for it.
    fn file_taken(&mut self, now: Now, id: SessionId, transfer: TransferId, held: u64) {
        let Some(Transfer { number, what: What::Out { file, taken }, .. }) =
            self.files.transfers.get_mut(&transfer)
        else {
            return;
        };
        *taken = true;
        let (number, file) = (*number, *file);
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let Some(stored) = self.files.kept.get(&file) else {
            // Another session of the member got it meanwhile.
            entry.session.cancel_file(now, number, "it is no longer here");
            self.files.end(transfer);
            return;
        };
        entry.session.digest_file(number.count, stored.sha256);
        let (offer, to) = (stored.offer.clone(), entry.member.to_string());
        self.events.push_back(Event::FileSending { transfer, offer, to, held });
    }

    /// All of a member's file has arrived.
    fn file_complete(&mut self, now: Now, id: SessionId, transfer: TransferId, sha256: [u8; 32]) {
        let Some(Transfer { number, what: What::In { offer, to, known }, .. }) =
            self.files.transfers.get(&transfer)
        else {
            return;
        };
        let hosted = *known == Known::No;
        let key = (offer.from.clone(), offer.id);
        if let Some((_, known)) = self.files.known.get(&key) {
            let result = if *known == sha256 { Ok(()) } else { Err(FileError::Hash) };
            let count = number.count;
            self.files.end(transfer);
            if let Some(entry) = self.sessions.get_mut(id) {
                entry.session.checked_file(now, count, result);
            }
            if hosted {
                // Another transfer brought it meanwhile: the host has no use for this one.
                let result = result.map_err(FileFailure::Checked);
                self.events.push_back(Event::FileEnded { transfer, result });
            }
            return;
        }
        let (offer, to, stored_at) = (offer.clone(), to.clone(), now.wall);
        let file = StoredFile { offer, sha256, to, stored_at };
        self.events.push_back(Event::FileComplete { transfer, file });
    }

    /// The peer of a transfer has ended it.
    fn file_through(&mut self, now: Now, transfer: TransferId, result: Result<(), FileFailure>) {
        let Some(ended) = self.files.end(transfer) else { return };
        if let What::Out { file, .. } = ended.what
            && matches!(result, Ok(()) | Err(FileFailure::Cancelled(_)))
            && let Some(entry) = self.sessions.get(ended.session)
        {
            let member = entry.member.clone();
            self.file_passed(now, file, &member);
        }
        if !matches!(ended.what, What::Out { taken: false, .. }) {
            self.events.push_back(Event::FileEnded { transfer, result });
        }
    }

    /// A file no longer waits for a member: its other sessions need not take it.
    fn file_passed(&mut self, now: Now, file: u64, member: &str) {
        let Some((from, id)) = self.files.passed(file, member) else { return };
        self.note_file(now, from, id, member);
        for session in self.hub.sessions_of(member) {
            // It never comes again, however long the session lasts.
            if let Some(offered) = self.files.offered.get_mut(&session) {
                offered.remove(&file);
            }
        }
        let same = |(transfer, other): (&TransferId, &Transfer)| match other.what {
            What::Out { file: of, taken: false } if of == file => Some(*transfer),
            What::In { .. } | What::Out { .. } => None,
        };
        let others: Vec<_> = self.files.transfers.iter().filter_map(same).collect();
        for transfer in others {
            let session = self.files.transfers.get(&transfer).map(|other| other.session);
            let own = session.and_then(|session| self.sessions.get(session));
            if own.is_some_and(|entry| *entry.member == *member) {
                self.cancel_file(now, transfer, "another device of yours got it");
            }
        }
    }

    /// Makes durable, in its own time, that a file is no longer kept for a member. If that is lost the
    /// member is offered it again.
    fn note_file(&mut self, now: Now, from: String, id: ChatId, by: &str) {
        let action = Action::FileDelivered { from, id, by: by.to_string() };
        let _started = self.ops.start_common(now.mono, action, Waits::Nothing);
    }

    /// Offers a session what waits for its member, as far as it may be offered at a time.
    pub(super) fn offer_files(&mut self, id: SessionId) {
        let Some(entry) = self.sessions.get_mut(id) else { return };
        if entry.established.is_none() {
            return;
        }
        let mut touched = false;
        while entry.session.may_offer()
            && self.files.has_room(id)
            && let Some((file, stored)) = self.files.next_for(id, &entry.member)
            && let Ok(count) = entry.session.offer_file(&stored.offer)
        {
            self.files.offered.entry(id).or_default().insert(file);
            let what = What::Out { file, taken: false };
            self.files.begin(id, Number { ours: true, count }, what);
            touched = true;
        }
        if touched {
            self.schedule.touch(id);
        }
    }

    /// The session is gone, and its transfers with it.
    pub(super) fn files_gone(&mut self, id: SessionId) {
        for transfer in self.files.session_ended(id) {
            let result = Err(FileFailure::Interrupted);
            self.events.push_back(Event::FileEnded { transfer, result });
        }
    }

    /// What a command does to a transfer, with all that follows from it.
    fn with_file<T>(
        &mut self,
        now: Now,
        transfer: TransferId,
        work: impl FnOnce(&mut Session, Number) -> T,
    ) -> Option<T> {
        let Transfer { session, number, .. } = self.files.transfers.get(&transfer)?;
        let number = *number;
        self.with_session(now, *session, |session, _| work(session, number))
    }
}

impl Server {
    /// Command: takes a file that a member offers: what of it is here, and up to where it may come,
    /// bytes. For members only while [`Self::may_take_file`].
    ///
    /// # Errors
    /// [`SendError::Closed`] when the offer is gone, [`SendError::Busy`] when it was taken already,
    /// [`SendError::WindowFull`].
    pub fn accept_file(
        &mut self,
        now: Now,
        transfer: TransferId,
        have: &RangeSet,
        limit: u64,
    ) -> Result<(), SendError> {
        let work =
            |session: &mut Session, number: Number| session.accept_file(number.count, have, limit);
        self.with_file(now, transfer, work).unwrap_or(Err(SendError::Closed))
    }

    /// Command: lets more of a file come, up to `limit` bytes.
    ///
    /// # Errors
    /// [`SendError::Closed`], [`SendError::WindowFull`].
    pub fn raise_file_limit(
        &mut self,
        now: Now,
        transfer: TransferId,
        limit: u64,
    ) -> Result<(), SendError> {
        let work = |session: &mut Session, number: Number| session.raise_limit(number.count, limit);
        self.with_file(now, transfer, work).unwrap_or(Err(SendError::Closed))
    }

    /// Command: answers [`Event::FileComplete`]: whether the file is right, and durable. It is then
    /// offered on. Also when the session is gone meanwhile: its sender learns it in the next one.
    pub fn file_checked(
        &mut self,
        now: Now,
        transfer: TransferId,
        result: Result<StoredFile, FileError>,
    ) {
        let told = result.as_ref().map(|_| ()).map_err(|error| *error);
        if let Some(Transfer { session, number, .. }) = self.files.end(transfer) {
            self.with_session(now, session, |session, _| {
                session.checked_file(now, number.count, told);
            });
        }
        if let Ok(stored) = result {
            self.keep_file(stored);
        }
    }

    /// Getter: whether another file may be taken for members, beside those that are kept or on their way:
    /// at most 65,536. What is durable is kept in any case.
    #[must_use]
    pub fn may_take_file(&self) -> bool {
        self.files.kept.len() + self.files.transfers.len() < FILES_KEPT
    }

    /// Command: keeps a file for members, which is durable already, and offers it to them. False when it
    /// is known.
    pub fn keep_file(&mut self, stored: StoredFile) -> bool {
        let to = stored.to.clone();
        let kept = self.files.keep(stored);
        for member in to.iter().filter(|_| kept) {
            for session in self.hub.sessions_of(member) {
                self.offer_files(session);
            }
        }
        kept
    }

    /// Command: ends a transfer. What is kept for a member waits for its next session.
    pub fn cancel_file(&mut self, now: Now, transfer: TransferId, reason: &str) {
        if let Some(Transfer { session, number, .. }) = self.files.end(transfer) {
            self.with_session(now, session, |session, _| {
                session.cancel_file(now, number, reason);
            });
            self.offer_files(session);
        }
    }

    /// Getter: the files that are kept, oldest first.
    pub fn kept_files(&self) -> impl Iterator<Item = &StoredFile> {
        self.files.kept.values()
    }

    /// Getter: how many bytes of a file the member that it goes to has, of how many.
    #[must_use]
    pub fn file_progress(&self, transfer: TransferId) -> Option<(u64, u64)> {
        let Transfer { session, number, .. } = self.files.transfers.get(&transfer)?;
        self.sessions.get(*session)?.session.file_progress(number.count)
    }
}

#[cfg(test)]
mod tests;
