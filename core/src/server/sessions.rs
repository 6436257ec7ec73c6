//! The sessions of a server, found by id, address and file without a look at the others.

use super::Entry;
use crate::id::{FileId, SessionId};
use crate::time::Now;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::net::SocketAddr;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Where a session is kept are the low bits of its id, how many began before it the others: that memory
/// would last for more places, or that a server lives to count further, is not to be thought of.
const SLOT_BITS: u32 = 24;

impl SessionId {
    /// Its place.
    pub(super) const fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }
}

#[derive(Debug)]
struct Slot {
    id: SessionId,
    /// Boxed: places are few where sessions were many.
    entry: Option<Box<Entry>>,
}

/// All sessions. Ids are in the order in which they began, and never come again.
#[derive(Debug)]
pub(super) struct Sessions {
    slots: Vec<Slot>,
    free: Vec<usize>,
    begun: u64,
    by_file: BTreeSet<(FileId, SessionId)>,
    /// Established sessions by the hash of the address of their path. Whoever has a file can claim any
    /// address as his first, so that one may have several.
    by_address: HashTable<(u64, SessionId)>,
    hasher: FixedState,
    established: usize,
}

impl Sessions {
    /// None. `seed` keeps others from knowing which addresses meet in the table.
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            begun: 0,
            by_file: BTreeSet::new(),
            by_address: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            established: 0,
        }
    }

    pub(super) fn insert(&mut self, entry: Entry) -> SessionId {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        let id = SessionId((self.begun << SLOT_BITS) | slot as u64);
        self.begun += 1;
        self.by_file.insert((entry.secret.file, id));
        let place = Slot { id, entry: Some(Box::new(entry)) };
        match self.slots.get_mut(slot) {
            Some(free) => *free = place,
            None => self.slots.push(place),
        }
        id
    }

    pub(super) fn remove(&mut self, id: SessionId) {
        let Some(entry) = self.slot(id).and_then(|slot| slot.entry.take()) else { return };
        self.free.push(id.slot());
        self.by_file.remove(&(entry.secret.file, id));
        self.leave_address(id, entry.session.path().remote);
        self.established -= usize::from(entry.established.is_some());
    }

    fn slot(&mut self, id: SessionId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot()).filter(|slot| slot.id == id)
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Entry> {
        self.slots.get(id.slot()).filter(|slot| slot.id == id)?.entry.as_deref()
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Entry> {
        self.slot(id)?.entry.as_deref_mut()
    }

    pub(super) const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Entry)> {
        self.slots.iter().filter_map(|slot| Some((slot.id, slot.entry.as_deref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (SessionId, &mut Entry)> {
        self.slots.iter_mut().filter_map(|slot| Some((slot.id, slot.entry.as_deref_mut()?)))
    }

    /// Those of a file with its renewals, the oldest first.
    pub(super) fn of_file(&self, file: FileId) -> impl Iterator<Item = (SessionId, &Entry)> {
        let all = (file, SessionId(0))..=(file, SessionId(u64::MAX));
        self.by_file.range(all).filter_map(|(_, id)| Some((*id, self.get(*id)?)))
    }

    /// Established sessions whose path has this address.
    pub(super) fn at(&self, address: SocketAddr) -> impl Iterator<Item = (SessionId, &Entry)> {
        let same = self.by_address.iter_hash(self.hasher.hash_one(address));
        let all = same.filter_map(|(_, id)| Some((*id, self.get(*id)?)));
        all.filter(move |(_, entry)| entry.session.path().remote == address)
    }

    /// How many are established.
    pub(super) const fn established(&self) -> usize {
        self.established
    }

    /// A session is established, and found by the address of its path.
    pub(super) fn establish(&mut self, now: Now, id: SessionId) {
        let Some(entry) = self.get_mut(id) else { return };
        let fresh = entry.established.replace(now).is_none();
        let address = entry.session.path().remote;
        self.established += usize::from(fresh);
        self.enter_address(id, address);
    }

    /// A session is no longer established; since when it was.
    pub(super) fn end(&mut self, id: SessionId) -> Option<Now> {
        let since = self.get_mut(id)?.established.take();
        self.established -= usize::from(since.is_some());
        since
    }

    /// An established session is at another address.
    pub(super) fn moved(&mut self, id: SessionId, from: SocketAddr, to: SocketAddr) {
        self.leave_address(id, from);
        self.enter_address(id, to);
    }

    fn enter_address(&mut self, id: SessionId, address: SocketAddr) {
        let own = (self.hasher.hash_one(address), id);
        let present = self.by_address.find(own.0, |other| *other == own).is_some();
        if !present {
            self.by_address.insert_unique(own.0, own, |(hash, _)| *hash);
        }
    }

    fn leave_address(&mut self, id: SessionId, address: SocketAddr) {
        let own = (self.hasher.hash_one(address), id);
        if let Ok(found) = self.by_address.find_entry(own.0, |other| *other == own) {
            let _left = found.remove();
        }
    }
}
