//! What hosts hold of files: transfers, which end with the process, and what is on the disk.

use super::oracle::Files;
use super::{fill, seed};
use crate::net::Rng;
use crate::oracle::Verdict;
use clawchat_core::id::{ChatId, TransferId};
use clawchat_core::ops::{Chunk, Want};
use clawchat_core::ranges::RangeSet;
use clawchat_core::wire::message::FileOffer;
use std::collections::{BTreeMap, BTreeSet};

/// How a file is known over sessions and restarts (PROTOCOL 5.6).
pub(crate) type Key = (String, ChatId, u64);

/// The key of an offer.
pub(crate) fn key(offer: &FileOffer) -> Key {
    (offer.from.clone(), offer.id, offer.size)
}

/// How hosts fail their users. Chances are per mille.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileFaults {
    /// Something is done seconds late: an answer, a hash.
    pub slow: u64,
    /// Something is not done before the faults end.
    pub never: u64,
    /// A file is not wanted, or there is no room for it.
    pub refuse: u64,
    /// A file that is sent can't be read.
    pub read: u64,
    /// A file that arrives can't be written.
    pub write: u64,
    /// An offer is taken with a limit, which is raised later.
    pub hold: u64,
}

/// How many bytes there are in ranges.
pub(crate) fn bytes(ranges: &RangeSet) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Ranges are made durable with this chance per chunk, per mille.
const FLUSH: u64 = 100;

/// A file that arrives.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) offer: FileOffer,
    pub(crate) limit: u64,
    pub(crate) have: RangeSet,
    /// Bytes of it are not what a member who keeps the rules sends.
    pub(crate) wrong: bool,
}

impl Arriving {
    pub(crate) fn is_whole(&self) -> bool {
        self.have.contains_range(0..self.offer.size)
    }
}

/// Ranges of files that are not whole, as far as they are durable.
#[derive(Debug, Default)]
pub(crate) struct Held(BTreeMap<Key, RangeSet>);

impl Held {
    pub(crate) fn of(&self, key: &Key) -> RangeSet {
        self.0.get(key).cloned().unwrap_or_default()
    }

    pub(crate) fn put(&mut self, key: Key, have: RangeSet) {
        self.0.insert(key, have);
    }

    /// How many bytes of a file.
    pub(crate) fn bytes(&self, key: &Key) -> u64 {
        self.0.get(key).map_or(0, bytes)
    }

    pub(crate) fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

/// A file that a member sends.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    pub(crate) to: String,
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// What a member has on its disk, whichever of its processes runs.
#[derive(Debug, Default)]
pub(crate) struct MemberDisk {
    /// What it sends, until the server has it.
    pub(crate) sending: BTreeMap<ChatId, Sending>,
    pub(crate) held: Held,
    pub(crate) finished: BTreeSet<Key>,
    pub(crate) refused: BTreeSet<Key>,
}

/// The transfers of one process.
#[derive(Debug, Default)]
pub(crate) struct Hosted {
    pub(crate) arriving: BTreeMap<TransferId, Arriving>,
    /// What goes out, and of what size.
    pub(crate) outgoing: BTreeMap<TransferId, Key>,
    /// Of those, what the disk no longer gives: they are about to be cancelled.
    pub(crate) unreadable: BTreeSet<TransferId>,
}

/// What came of a wish to read.
#[derive(Debug)]
pub(crate) enum Reading {
    Bytes(Vec<u8>),
    /// The host does not know the transfer yet.
    NotYet,
    /// The disk failed.
    Failed(TransferId),
}

impl Hosted {
    /// Whether there is something to read for a transfer.
    pub(crate) fn can_read(&self, transfer: TransferId) -> bool {
        self.outgoing.contains_key(&transfer) && !self.unreadable.contains(&transfer)
    }

    /// Takes bytes that arrived. Whether ranges are to be made durable.
    pub(crate) fn write(
        &mut self,
        oracle: &mut Files,
        held: &mut Held,
        rng: &mut Rng,
        chunk: &Chunk<'_>,
    ) -> Verdict {
        let Chunk { transfer, offset, bytes } = *chunk;
        let arriving = self.arriving.get_mut(&transfer);
        let Some(Arriving { offer, limit, have, wrong }) = arriving else {
            return Err(format!("oracle 13: bytes of transfer {transfer}, which nobody took"));
        };
        let right = oracle.arrived(offer, *limit, offset, bytes)?;
        *wrong |= !right;
        have.insert(offset..offset + bytes.len() as u64);
        if rng.chance(FLUSH) {
            held.put(key(offer), have.clone());
        }
        Ok(())
    }

    /// Reads what a machine wants to send.
    pub(crate) fn read(&self, want: &Want, rng: &mut Rng, fails: u64) -> Result<Reading, String> {
        let Some((_, id, size)) = self.outgoing.get(&want.transfer) else {
            return Ok(Reading::NotYet);
        };
        if self.unreadable.contains(&want.transfer) {
            return Ok(Reading::NotYet);
        }
        let end = want.offset + want.len as u64;
        if end > *size || want.len == 0 {
            return Err(format!("oracle 13: {want:?} of file {id} of {size} bytes"));
        }
        if rng.chance(fails) {
            return Ok(Reading::Failed(want.transfer));
        }
        let mut bytes = vec![0; want.len];
        fill(seed(*id, *size), want.offset, &mut bytes);
        Ok(Reading::Bytes(bytes))
    }
}

/// All disks, as far as files go.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    pub(crate) faults: FileFaults,
    pub(crate) server: Held,
    pub(crate) members: BTreeMap<String, MemberDisk>,
    /// Members whose session was told that a file of theirs could not be written or read: they are
    /// offered it again in the next one.
    pub(crate) disappointed: BTreeSet<String>,
    pub(crate) serial: u64,
}
