//! File transfers with one peer (PROTOCOL 5.6): who offers, takes, ends and cancels what. Their bytes
//! pass through; only ranges are kept.

use super::{Phase, Session, SessionEvent};
use crate::error::{SendError, Violation};
use crate::limits::{FILE_PIECES, FILE_RANGES, OFFERS_UNANSWERED};
use crate::ranges::RangeSet;
use crate::spare::Unused;
use crate::time::{Instant, Now};
use crate::transport::path::Transmit;
use crate::wire::message::{FileError, FileMessage, FileOffer, FileSide, Message};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

/// Names a transfer within a session: each sending side counts its own (PROTOCOL 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number {
    /// Whether this side offered it.
    pub(crate) ours: bool,
    pub(crate) count: u64,
}

/// What a role is told of its transfers.
#[derive(Debug)]
pub(crate) enum FileEvent {
    /// The peer offers a file.
    Offered(FileOffer),
    /// The peer takes ours, and holds so many bytes of it.
    Accepted { held: u64 },
    /// All of the peer's has arrived: to be checked against this.
    Complete { sha256: [u8; 32] },
    /// The peer has checked ours; final.
    Done(Result<(), FileError>),
    /// The peer cancelled it.
    Cancelled(String),
}

/// Where a CHUNK's bytes are in its datagram, and where they go.
#[derive(Debug)]
pub(crate) struct ChunkAt {
    pub(crate) count: u64,
    pub(crate) offset: u64,
    pub(crate) at: Range<usize>,
}

/// A file that we offered.
#[derive(Debug)]
enum Outgoing {
    Offered {
        size: u64,
    },
    /// The outbox has its ranges.
    Sending {
        digest: Option<[u8; 32]>,
        ended: bool,
    },
}

/// A file that the peer offered.
#[derive(Debug)]
struct Incoming {
    size: u64,
    /// It was taken, up to this.
    limit: Option<u64>,
    held: RangeSet,
    sha256: Option<[u8; 32]>,
    /// The role was told that it is complete.
    told: bool,
}

impl Incoming {
    fn is_complete(&self) -> bool {
        self.sha256.is_some() && self.held.contains_range(0..self.size)
    }
}

/// The transfers of a session that are not over.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    offered: u64,
    outgoing: BTreeMap<u64, Outgoing>,
    offered_to_us: u64,
    incoming: BTreeMap<u64, Incoming>,
    /// A `file_end` found no place in the channel.
    end_waits: bool,
}

impl Unused for Transfers {
    const UNUSED: &'static Self = &Self {
        offered: 0,
        outgoing: BTreeMap::new(),
        offered_to_us: 0,
        incoming: BTreeMap::new(),
        end_waits: false,
    };

    fn is_unused(&self) -> bool {
        self.offered == 0 && self.offered_to_us == 0 && !self.end_waits
    }

    fn release(&mut self) {
        // An empty map keeps what it had.
        if self.outgoing.is_empty() {
            self.outgoing = BTreeMap::new();
        }
        if self.incoming.is_empty() {
            self.incoming = BTreeMap::new();
        }
    }
}

impl Transfers {
    fn unanswered(&self) -> usize {
        let waits = |outgoing: &&Outgoing| matches!(outgoing, Outgoing::Offered { .. });
        self.outgoing.values().filter(waits).count()
    }

    fn unanswered_by_us(&self) -> usize {
        self.incoming.values().filter(|incoming| incoming.limit.is_none()).count()
    }

    /// A CHUNK came: its file, if it brought anything. One of a transfer that is over, or one that was
    /// there already, does not.
    fn take_chunk(
        &mut self,
        count: u64,
        offset: u64,
        len: usize,
    ) -> Result<Option<&mut Incoming>, Violation> {
        if count >= self.offered_to_us {
            return Err(Violation::UnknownTransfer);
        }
        let Some(incoming) = self.incoming.get_mut(&count) else { return Ok(None) };
        let limit = incoming.limit.ok_or(Violation::UnknownTransfer)?;
        let end = offset + len as u64;
        if end > incoming.size.min(limit) {
            return Err(Violation::ChunkPastLimit);
        }
        Ok(incoming.held.insert(offset..end).then_some(incoming))
    }

    /// Which of two transfers with the same number a cancellation is about. The message need not say
    /// it: then it is the one that there is; with both, an offer of ours that waits for its answer,
    /// else the peer's own.
    fn cancelled(&self, count: u64, side: Option<FileSide>) -> Option<Number> {
        let ours = self.outgoing.get(&count);
        let theirs = self.incoming.contains_key(&count);
        let ours = match side {
            Some(side) => side == FileSide::Receiver,
            None => !theirs || matches!(ours, Some(Outgoing::Offered { .. })),
        };
        let live = if ours { self.outgoing.contains_key(&count) } else { theirs };
        live.then_some(Number { ours, count })
    }
}

impl Session {
    /// Whether another file may be offered: at most 16 wait for their answer.
    pub(crate) fn may_offer(&self) -> bool {
        self.is_open() && self.transfers.unanswered() < OFFERS_UNANSWERED
    }

    /// Offers a file.
    pub(crate) fn offer_file(&mut self, offer: &FileOffer) -> Result<u64, SendError> {
        if !self.may_offer() {
            return Err(SendError::Busy);
        }
        let count = self.transfers.offered;
        let what = FileMessage::Offer(offer.clone());
        self.send(&Message::File { transfer: count, what }, None)?;
        self.transfers.offered += 1;
        self.transfers.outgoing.insert(count, Outgoing::Offered { size: offer.size });
        Ok(count)
    }

    /// Takes a file that the peer offered: what of it is here already, and up to where it may come.
    /// Of what is here only as much is said as one message can hold.
    pub(crate) fn accept_file(
        &mut self,
        count: u64,
        have: &RangeSet,
        limit: u64,
    ) -> Result<(), SendError> {
        let incoming = self.transfers.incoming.get(&count).ok_or(SendError::Closed)?;
        if incoming.limit.is_some() {
            return Err(SendError::Busy);
        }
        let mut told = RangeSet::new();
        let within = |range: &Range<u64>| range.start..range.end.min(incoming.size);
        let ranges = have.iter().map(within).filter(|range| !range.is_empty()).take(FILE_RANGES);
        ranges.for_each(|range| {
            told.insert(range);
        });
        let ranges = told.iter().cloned().collect::<Vec<_>>();
        let what = FileMessage::Accept { have: ranges, limit };
        self.send(&Message::File { transfer: count, what }, None)?;
        if let Some(incoming) = self.transfers.incoming.get_mut(&count) {
            (incoming.held, incoming.limit) = (told, Some(limit));
        }
        Ok(())
    }

    /// More of a file may come.
    pub(crate) fn raise_limit(&mut self, count: u64, limit: u64) -> Result<(), SendError> {
        let incoming = self.transfers.incoming.get(&count).ok_or(SendError::Closed)?;
        let old = incoming.limit.ok_or(SendError::Closed)?;
        if limit > old {
            let what = FileMessage::More { limit };
            // What could not be said can be said later.
            self.send(&Message::File { transfer: count, what }, None)?;
            if let Some(incoming) = self.transfers.incoming.get_mut(&count) {
                incoming.limit = Some(limit);
            }
        }
        Ok(())
    }

    /// The SHA-256 of a file of ours is known: it is said once every byte was sent once.
    pub(crate) fn digest_file(&mut self, count: u64, sha256: [u8; 32]) {
        if let Some(Outgoing::Sending { digest, .. }) = self.transfers.outgoing.get_mut(&count) {
            *digest = Some(sha256);
        }
        self.end_file(count);
    }

    /// Says `file_end` when it is time.
    fn end_file(&mut self, count: u64) {
        let sent = self.phase.awake().is_some_and(|transport| transport.outbox.is_sent(count));
        if !sent {
            return;
        }
        if let Some(Outgoing::Sending { digest: Some(sha256), ended: false }) =
            self.transfers.outgoing.get(&count)
        {
            let what = FileMessage::End { sha256: *sha256 };
            let said = self.send(&Message::File { transfer: count, what }, None).is_ok();
            self.transfers.end_waits |= !said;
            if let Some(Outgoing::Sending { ended, .. }) = self.transfers.outgoing.get_mut(&count) {
                *ended = said;
            }
        }
    }

    /// Says what of that found no place in the channel before.
    pub(super) fn end_files(&mut self) {
        if self.transfers.end_waits && self.is_open() && self.has_room() {
            self.transfers.end_waits = false;
            for count in self.transfers.outgoing.keys().copied().collect::<Vec<_>>() {
                self.end_file(count);
            }
        }
    }

    /// The peer's file was checked: final.
    pub(crate) fn checked_file(&mut self, now: Now, count: u64, result: Result<(), FileError>) {
        if self.transfers.incoming.remove(&count).is_some() {
            let what = FileMessage::Done { ok: result.is_ok(), error: result.err() };
            self.owe(now, &Message::File { transfer: count, what }, None);
        }
    }

    /// Ends a transfer, whoever offered it.
    pub(crate) fn cancel_file(&mut self, now: Now, number: Number, reason: &str) {
        let Number { ours, count } = number;
        let live = if ours {
            self.transfers.outgoing.remove(&count).is_some()
        } else {
            self.transfers.incoming.remove(&count).is_some()
        };
        if !live {
            return;
        }
        if let Some(transport) = self.phase.transport_mut(self.kept()).filter(|_| ours) {
            transport.outbox.stop(count);
        }
        let side = if ours { FileSide::Sender } else { FileSide::Receiver };
        let what = FileMessage::Cancel { reason: reason.to_string(), side: Some(side) };
        self.owe(now, &Message::File { transfer: count, what }, None);
    }

    /// Bytes of a file of ours that the peer has, of how many.
    pub(crate) fn file_progress(&self, count: u64) -> Option<(u64, u64)> {
        self.phase.awake()?.outbox.progress(count)
    }

    /// What of our files may go now: transfer, offset and length.
    pub(crate) fn file_want(&mut self, now: Instant) -> Option<(u64, u64, usize)> {
        match &mut self.phase {
            Phase::Open(transport) if transport.end(now).is_none() => transport.file_want(now),
            _ => None,
        }
    }

    /// Seals bytes that were asked for.
    pub(crate) fn send_chunk(
        &mut self,
        now: Now,
        (count, offset): (u64, u64),
        bytes: &[u8],
        out: &mut [u8],
    ) -> Option<Transmit> {
        let Phase::Open(transport) = &mut self.phase else { return None };
        if transport.end(now.mono).is_some() {
            return None;
        }
        let (path, len, segment) = transport.send_chunk(now, count, offset, bytes, out)?;
        self.traffic = transport.traffic();
        self.end_file(count);
        Some(Transmit { path, len, segment })
    }

    /// A CHUNK came; where its bytes go, unless nobody waits for them.
    pub(super) fn take_chunk(
        &mut self,
        now: Now,
        (count, offset, len): (u64, u64, usize),
        end: usize,
    ) -> Result<Option<ChunkAt>, Violation> {
        let Some(incoming) = self.transfers.take_chunk(count, offset, len)? else {
            return Ok(None);
        };
        if incoming.held.len() > FILE_PIECES {
            let number = Number { ours: false, count };
            let reason = "it comes in too many pieces";
            self.cancel_file(now, number, reason);
            self.tell_file(number, FileEvent::Cancelled(reason.to_string()));
            return Ok(None);
        }
        if incoming.sha256.is_some() {
            self.complete_file(count);
        }
        Ok(Some(ChunkAt { count, offset, at: end - len..end }))
    }

    fn complete_file(&mut self, count: u64) {
        let Some(incoming) = self.transfers.incoming.get_mut(&count) else { return };
        if let Some(sha256) = incoming.sha256
            && incoming.is_complete()
            && !incoming.told
        {
            incoming.told = true;
            self.tell_file(Number { ours: false, count }, FileEvent::Complete { sha256 });
        }
    }

    fn tell_file(&mut self, number: Number, event: FileEvent) {
        self.events.push_back(SessionEvent::File(number, event));
    }

    pub(super) fn take_file(
        &mut self,
        now: Now,
        count: u64,
        what: FileMessage,
    ) -> Result<(), Violation> {
        match what {
            FileMessage::Offer(offer) => self.take_offered(count, offer),
            FileMessage::Accept { have, limit } => self.take_accept(count, have, limit),
            FileMessage::More { limit } => {
                if count >= self.transfers.offered {
                    return Err(Violation::TransferStep);
                }
                if let Some(transport) = self.phase.transport_mut(self.kept()) {
                    transport.outbox.raise(count, limit);
                }
                Ok(())
            }
            FileMessage::End { sha256 } => self.take_end(now, count, sha256),
            FileMessage::Done { ok, error } => self.take_done(count, ok, error),
            FileMessage::Cancel { reason, side } => {
                let known = self.transfers.offered.max(self.transfers.offered_to_us);
                if count >= known {
                    return Err(Violation::TransferStep);
                }
                if let Some(number) = self.transfers.cancelled(count, side) {
                    if number.ours {
                        self.forget_outgoing(count);
                    } else {
                        self.transfers.incoming.remove(&count);
                    }
                    self.tell_file(number, FileEvent::Cancelled(reason));
                }
                Ok(())
            }
        }
    }

    fn take_offered(&mut self, count: u64, offer: FileOffer) -> Result<(), Violation> {
        if count != self.transfers.offered_to_us {
            return Err(Violation::TransferStep);
        }
        if self.transfers.unanswered_by_us() >= OFFERS_UNANSWERED {
            return Err(Violation::TooManyOffers);
        }
        self.transfers.offered_to_us += 1;
        let incoming = Incoming {
            size: offer.size,
            limit: None,
            held: RangeSet::new(),
            sha256: None,
            told: false,
        };
        self.transfers.incoming.insert(count, incoming);
        self.tell_file(Number { ours: false, count }, FileEvent::Offered(offer));
        Ok(())
    }

    fn take_accept(
        &mut self,
        count: u64,
        have: Vec<Range<u64>>,
        limit: u64,
    ) -> Result<(), Violation> {
        let size = match self.transfers.outgoing.get(&count) {
            Some(Outgoing::Offered { size }) => *size,
            Some(Outgoing::Sending { .. }) => return Err(Violation::TransferStep),
            // It crossed our cancellation.
            None if count < self.transfers.offered => return Ok(()),
            None => return Err(Violation::TransferStep),
        };
        let mut held = RangeSet::new();
        for range in have {
            if range.end > size {
                return Err(Violation::TransferStep);
            }
            held.insert(range);
        }
        let bytes = held.iter().map(|range| range.end - range.start).sum();
        if let Some(transport) = self.phase.transport_mut(self.kept()) {
            transport.outbox.start(count, size, held, limit);
        }
        let sending = Outgoing::Sending { digest: None, ended: false };
        self.transfers.outgoing.insert(count, sending);
        self.tell_file(Number { ours: true, count }, FileEvent::Accepted { held: bytes });
        Ok(())
    }

    fn take_end(&mut self, now: Now, count: u64, sha256: [u8; 32]) -> Result<(), Violation> {
        if count >= self.transfers.offered_to_us {
            return Err(Violation::TransferStep);
        }
        let Some(incoming) = self.transfers.incoming.get_mut(&count) else {
            // It is over for us, and the peer does not know: said again.
            let (reason, side) = ("it was cancelled".to_string(), Some(FileSide::Receiver));
            let what = FileMessage::Cancel { reason, side };
            self.owe(now, &Message::File { transfer: count, what }, None);
            return Ok(());
        };
        if incoming.limit.is_none() || incoming.sha256.is_some() {
            return Err(Violation::TransferStep);
        }
        incoming.sha256 = Some(sha256);
        self.complete_file(count);
        Ok(())
    }

    fn take_done(
        &mut self,
        count: u64,
        ok: bool,
        error: Option<FileError>,
    ) -> Result<(), Violation> {
        match self.transfers.outgoing.get(&count) {
            Some(Outgoing::Sending { ended, .. }) if *ended || !ok => {}
            Some(_) => return Err(Violation::TransferStep),
            None if count < self.transfers.offered => return Ok(()),
            None => return Err(Violation::TransferStep),
        }
        self.forget_outgoing(count);
        let result = if ok { Ok(()) } else { Err(error.unwrap_or(FileError::Disk)) };
        self.tell_file(Number { ours: true, count }, FileEvent::Done(result));
        Ok(())
    }

    fn forget_outgoing(&mut self, count: u64) {
        self.transfers.outgoing.remove(&count);
        if let Some(transport) = self.phase.transport_mut(self.kept()) {
            transport.outbox.stop(count);
        }
    }
}
