//! Files at the client (PROTOCOL 5.6). What is offered here stays offered over sessions until the server
//! has it; what is offered to us ends with its session, and the server offers it again.

use super::{Client, Event, State};
use crate::error::SendError;
use crate::id::{ChatId, TransferId};
use crate::limits::FILES_OFFERED;
use crate::ops::{FileFailure, Want};
use crate::ranges::RangeSet;
use crate::session::{FileEvent, Number, Session};
use crate::time::Now;
use crate::transport::path::Transmit;
use crate::wire::message::{FileError, FileOffer, Recipient, is_file_name};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};

/// A file of ours.
#[derive(Debug)]
struct Outgoing {
    offer: FileOffer,
    /// Its number in the present session, once it was offered there.
    count: Option<u64>,
    digest: Option<[u8; 32]>,
}

/// Transfers that are not over.
#[derive(Debug, Default)]
pub(super) struct Files {
    next: u64,
    outgoing: BTreeMap<TransferId, Outgoing>,
    incoming: BTreeMap<TransferId, u64>,
    /// Those of the present session.
    numbers: BTreeMap<Number, TransferId>,
    /// Files of ours that were not offered in it.
    waiting: VecDeque<TransferId>,
}

impl Files {
    fn fresh(&mut self) -> TransferId {
        let id = TransferId(self.next);
        self.next += 1;
        id
    }

    pub(super) fn of(&self, number: Number) -> Option<TransferId> {
        self.numbers.get(&number).copied()
    }

    /// What a transfer is called in the present session.
    fn number(&self, transfer: TransferId) -> Option<Number> {
        if let Some(count) = self.incoming.get(&transfer) {
            return Some(Number { ours: false, count: *count });
        }
        let count = self.outgoing.get(&transfer)?.count?;
        Some(Number { ours: true, count })
    }

    fn forget(&mut self, transfer: TransferId) {
        if let Some(number) = self.number(transfer) {
            self.numbers.remove(&number);
        }
        self.incoming.remove(&transfer);
        self.outgoing.remove(&transfer);
        self.waiting.retain(|other| *other != transfer);
    }

    /// Offers what was not offered in this session.
    pub(super) fn pump(&mut self, session: &mut Session) {
        while let Some(transfer) = self.waiting.front().copied()
            && session.may_offer()
            && session.has_room()
        {
            let Some(outgoing) = self.outgoing.get_mut(&transfer) else {
                self.waiting.pop_front();
                continue;
            };
            let Ok(count) = session.offer_file(&outgoing.offer) else { return };
            outgoing.count = Some(count);
            self.numbers.insert(Number { ours: true, count }, transfer);
            self.waiting.pop_front();
        }
    }

    /// What the application is told of what the session says.
    pub(super) fn take(
        &mut self,
        now: Now,
        session: &mut Session,
        number: Number,
        event: FileEvent,
    ) -> Option<Event> {
        if let FileEvent::Offered(offer) = event {
            if !is_file_name(&offer.name) {
                // Whatever its server lets through: no host ever sees such a name.
                session.cancel_file(now, number, "not a name that a file may have");
                return None;
            }
            let transfer = self.fresh();
            self.incoming.insert(transfer, number.count);
            self.numbers.insert(number, transfer);
            return Some(Event::FileOffered { transfer, offer });
        }
        let transfer = self.of(number)?;
        let result = match event {
            FileEvent::Offered(_) => return None,
            FileEvent::Accepted { held } => {
                let digest = self.outgoing.get(&transfer).and_then(|outgoing| outgoing.digest);
                if let Some(digest) = digest {
                    session.digest_file(number.count, digest);
                }
                return Some(Event::FileAccepted { transfer, held });
            }
            FileEvent::Complete { sha256 } => {
                return Some(Event::FileComplete { transfer, sha256 });
            }
            FileEvent::Done(result) => result.map_err(FileFailure::Checked),
            FileEvent::Cancelled(reason) => Err(FileFailure::Cancelled(reason)),
        };
        self.forget(transfer);
        Some(Event::FileEnded { transfer, result })
    }

    /// The session is over: what was ours is offered again in the next one.
    pub(super) fn session_ended(&mut self) -> impl Iterator<Item = Event> + use<> {
        self.numbers.clear();
        let waiting = self.outgoing.iter_mut().map(|(transfer, outgoing)| {
            outgoing.count = None;
            *transfer
        });
        self.waiting = waiting.collect();
        let result = Err(FileFailure::Interrupted);
        core::mem::take(&mut self.incoming)
            .into_keys()
            .map(move |transfer| Event::FileEnded { transfer, result: result.clone() })
    }
}

impl Client {
    fn open_session(&mut self) -> Result<&mut Session, SendError> {
        match &mut self.state {
            State::InSession(session, _) if session.is_open() => Ok(session),
            _ => Err(SendError::Closed),
        }
    }

    /// Command: offers a file, now and in each session until the server has it. `id` stays the same over
    /// restarts, so that what has arrived counts.
    ///
    /// # Errors
    /// [`SendError::Recipient`], [`SendError::Name`], [`SendError::Size`] above 2^53-1 bytes,
    /// [`SendError::WindowFull`], and [`SendError::Closed`] when there will be no session.
    pub fn offer_file(
        &mut self,
        now: Now,
        id: ChatId,
        to: &str,
        name: &str,
        size: u64,
    ) -> Result<TransferId, SendError> {
        if matches!(self.state, State::Wiped(_) | State::Closed) {
            return Err(SendError::Closed);
        }
        let to = Recipient::parse(to).ok_or(SendError::Recipient)?;
        if !is_file_name(name) {
            return Err(SendError::Name);
        }
        if size >= 1 << 53 {
            return Err(SendError::Size);
        }
        if self.files.outgoing.len() >= FILES_OFFERED {
            return Err(SendError::WindowFull);
        }
        let transfer = self.files.fresh();
        let offer = FileOffer { id, name: name.to_string(), size, to, from: String::new() };
        self.files.outgoing.insert(transfer, Outgoing { offer, count: None, digest: None });
        self.files.waiting.push_back(transfer);
        self.drain(now);
        Ok(transfer)
    }

    /// Command: tells the SHA-256 of a file that we offered; the transfer can't end before. It is kept
    /// over sessions.
    pub fn file_digest(&mut self, now: Now, transfer: TransferId, sha256: [u8; 32]) {
        let Some(outgoing) = self.files.outgoing.get_mut(&transfer) else { return };
        outgoing.digest = Some(sha256);
        let count = outgoing.count;
        if let (Some(count), Ok(session)) = (count, self.open_session()) {
            session.digest_file(count, sha256);
            self.drain(now);
        }
    }

    /// Command: takes a file that was offered to us: what of it is here, and up to where it may come,
    /// bytes.
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
        let count = *self.files.incoming.get(&transfer).ok_or(SendError::Closed)?;
        let taken = self.open_session()?.accept_file(count, have, limit);
        self.drain(now);
        taken
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
        let count = *self.files.incoming.get(&transfer).ok_or(SendError::Closed)?;
        let raised = self.open_session()?.raise_limit(count, limit);
        self.drain(now);
        raised
    }

    /// Command: answers [`Event::FileComplete`]: whether the file is right, and durable under its name.
    pub fn file_checked(&mut self, now: Now, transfer: TransferId, result: Result<(), FileError>) {
        let Some(count) = self.files.incoming.get(&transfer).copied() else { return };
        self.files.forget(transfer);
        if let Ok(session) = self.open_session() {
            session.checked_file(now, count, result);
            self.drain(now);
        }
    }

    /// Command: ends a transfer for good, whoever offered it.
    pub fn cancel_file(&mut self, now: Now, transfer: TransferId, reason: &str) {
        let number = self.files.number(transfer);
        self.files.forget(transfer);
        if let (Some(number), Ok(session)) = (number, self.open_session()) {
            session.cancel_file(now, number, reason);
            self.drain(now);
        }
    }

    /// Getter: how many bytes of a file of ours the server has, of how many; while it takes it.
    #[must_use]
    pub fn file_progress(&self, transfer: TransferId) -> Option<(u64, u64)> {
        let count = self.files.outgoing.get(&transfer)?.count?;
        match &self.state {
            State::InSession(session, _) => session.file_progress(count),
            _ => None,
        }
    }

    /// Output: bytes of a file to read and to hand to [`Self::send_chunk`]. Ask when there is nothing
    /// to transmit; asking twice gives the same answer.
    pub fn file_want(&mut self, now: Now) -> Option<Want> {
        let (count, offset, len) = self.open_session().ok()?.file_want(now.mono)?;
        let transfer = self.files.of(Number { ours: true, count })?;
        Some(Want { transfer, offset, len })
    }

    /// Output: seals bytes that [`Self::file_want`] asked for into `out`, as a batch of datagrams.
    /// `None` when they are no longer wanted.
    pub fn send_chunk(
        &mut self,
        now: Now,
        want: &Want,
        bytes: &[u8],
        out: &mut [u8],
    ) -> Option<Transmit> {
        let Some(Number { ours: true, count }) = self.files.number(want.transfer) else {
            return None;
        };
        let bytes = &bytes[..bytes.len().min(want.len)];
        self.open_session().ok()?.send_chunk(now, (count, want.offset), bytes, out)
    }
}
