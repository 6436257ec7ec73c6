//! What both binaries do with files (PROTOCOL 5.6): one that arrives, beside its digest.

use crate::disk::digest::Digest;
use crate::disk::incoming::{Checkpoint, Incoming, Key};
use crate::disk::room::Room;
use clawchat_core::ops::Chunk;
use clawchat_core::ranges::RangeSet;
use clawchat_core::wire::message::FileOffer;
use core::time::Duration;
use std::io;
use std::path::Path;
use std::time::Instant;

/// What arrives is made durable each time so many bytes came.
const SAVE_BYTES: u64 = 64 << 20;
/// The same for what arrives slowly.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// The SHA-256 of a file, once it is known.
pub type Hashed = io::Result<[u8; 32]>;

/// Which partial file an offer is about.
#[must_use]
pub fn key_of(offer: &FileOffer) -> Key {
    Key { from: offer.from.clone(), id: offer.id.0, size: offer.size }
}

/// A file that arrives: its bytes go to the disk, and on another thread into its digest.
#[derive(Debug)]
pub struct Arriving {
    /// What it is.
    pub offer: FileOffer,
    /// The SHA-256 that its sender told, once all has arrived.
    pub expected: Option<[u8; 32]>,
    /// The SHA-256 that it has, once that is computed.
    pub found: Option<[u8; 32]>,
    incoming: Incoming,
    digest: Digest,
    unsaved: u64,
    saved_at: Instant,
    touched: bool,
    /// There is no room for all of it: nothing may come yet.
    pub waits_for_room: bool,
}

impl Arriving {
    /// Opens what is there of a file, in the folder `parts`. `hashed` gets its digest once it is whole.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(
        parts: &Path,
        offer: &FileOffer,
        hashed: impl FnOnce(Hashed) + Send + 'static,
    ) -> io::Result<Self> {
        let incoming = Incoming::open(parts, &key_of(offer))?;
        let digest = Digest::start(incoming.reader()?, offer.size, hashed)?;
        digest.available(incoming.contiguous());
        Ok(Self {
            offer: offer.clone(),
            expected: None,
            found: None,
            incoming,
            digest,
            unsaved: 0,
            saved_at: Instant::now(),
            touched: false,
            waits_for_room: false,
        })
    }

    /// What of it is here.
    #[must_use]
    pub const fn have(&self) -> &RangeSet {
        self.incoming.written()
    }

    /// Bytes of it that are here.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.have().iter().map(|range| range.end - range.start).sum()
    }

    /// Reserves room for the rest.
    ///
    /// # Errors
    /// The disk's.
    pub fn reserve(&mut self) -> io::Result<Room> {
        let room = self.incoming.reserve()?;
        self.waits_for_room = room != Room::Enough;
        Ok(room)
    }

    /// Writes bytes that came.
    ///
    /// # Errors
    /// The disk's.
    pub fn store(&mut self, chunk: &Chunk<'_>) -> io::Result<()> {
        self.touched = true;
        self.unsaved += chunk.bytes.len() as u64;
        self.incoming.write(chunk.offset, chunk.bytes)
    }

    /// Nothing more came for now: what waited in memory goes to the disk and the digest. What is to be
    /// made durable by another thread, if it is time for that.
    ///
    /// # Errors
    /// The disk's.
    pub fn flush(&mut self) -> io::Result<Option<Checkpoint>> {
        if !core::mem::take(&mut self.touched) {
            return Ok(None);
        }
        self.incoming.flush()?;
        self.digest.available(self.incoming.contiguous());
        let due = self.unsaved >= SAVE_BYTES
            || (self.unsaved > 0 && self.saved_at.elapsed() >= SAVE_EVERY);
        if due { self.checkpoint().map(Some) } else { Ok(None) }
    }

    /// What is here, to be made durable.
    ///
    /// # Errors
    /// The disk's.
    pub fn checkpoint(&mut self) -> io::Result<Checkpoint> {
        (self.unsaved, self.saved_at) = (0, Instant::now());
        self.incoming.checkpoint()
    }

    /// Whether it is what its sender said, once both digests are known.
    #[must_use]
    pub fn verdict(&self) -> Option<bool> {
        Some(self.expected? == self.found?)
    }

    /// The partial file, to be placed or removed.
    #[must_use]
    pub fn into_incoming(self) -> Incoming {
        self.incoming
    }
}
