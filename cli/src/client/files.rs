//! The files that a client sends and takes, as its host sees them: read and written here, within the
//! task that owns the session.

use crate::disk;
use crate::disk::source::Source;
use crate::files::Arriving;
use clawchat_core::id::{ChatId, TransferId};
use clawchat_core::ops::{Chunk, Want};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How often it is looked whether a file that is sent was changed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A file that is sent.
#[derive(Debug)]
struct Giving {
    source: Arc<Source>,
    looked_at: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    /// Offered, and without a transfer yet.
    offered: BTreeMap<ChatId, Arc<Source>>,
    giving: BTreeMap<TransferId, Giving>,
    arriving: BTreeMap<TransferId, Arriving>,
    /// Those that got bytes in this turn.
    touched: BTreeSet<TransferId>,
    /// Transfers that failed here, and why.
    failed: Vec<(TransferId, String)>,
}

/// Files on their way.
#[derive(Debug, Default)]
pub(super) struct ClientFiles(Mutex<Inner>);

impl ClientFiles {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever held it has left it in order.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is about to be offered.
    pub(super) fn offer(&self, id: ChatId, source: Arc<Source>) {
        self.lock().offered.insert(id, source);
    }

    /// The offer is a transfer now.
    pub(super) fn offered(&self, transfer: TransferId, id: ChatId) {
        let mut inner = self.lock();
        if let Some(source) = inner.offered.remove(&id) {
            inner.giving.insert(transfer, Giving { source, looked_at: Instant::now() });
        }
    }

    /// A transfer of ours is over.
    pub(super) fn given(&self, transfer: TransferId) {
        self.lock().giving.remove(&transfer);
    }

    /// Transfers that failed here since the last call, and why.
    pub(super) fn failed(&self) -> Vec<(TransferId, String)> {
        core::mem::take(&mut self.lock().failed)
    }

    /// A file is about to be taken.
    pub(super) fn take(&self, transfer: TransferId, arriving: Arriving) {
        self.lock().arriving.insert(transfer, arriving);
    }

    /// A transfer to us is over: what is here of it.
    pub(super) fn taken(&self, transfer: TransferId) -> Option<Arriving> {
        self.lock().arriving.remove(&transfer)
    }

    /// Does something with a file that arrives.
    pub(super) fn with<T>(
        &self,
        transfer: TransferId,
        work: impl FnOnce(&mut Arriving) -> T,
    ) -> Option<T> {
        self.lock().arriving.get_mut(&transfer).map(work)
    }

    /// Does something with each of them.
    pub(super) fn each(&self, mut work: impl FnMut(TransferId, &mut Arriving)) {
        for (transfer, arriving) in &mut self.lock().arriving {
            work(*transfer, arriving);
        }
    }

    /// Makes durable what is here of all files that arrive.
    pub(super) fn save_all(&self) {
        self.each(|_, arriving| {
            // What can't be saved comes again.
            let _lost = arriving.checkpoint().and_then(disk::incoming::Checkpoint::save);
        });
    }

    /// Writes bytes that came; false, and the transfer is over, when that fails.
    pub(super) fn store(&self, chunk: &Chunk<'_>) -> bool {
        let mut inner = self.lock();
        let Some(arriving) = inner.arriving.get_mut(&chunk.transfer) else { return false };
        let stored = arriving.store(chunk);
        inner.touched.insert(chunk.transfer);
        if let Err(error) = &stored {
            inner.failed.push((chunk.transfer, disk::plain(error)));
        }
        stored.is_ok()
    }

    pub(super) fn flush(&self) -> Vec<TransferId> {
        let mut inner = self.lock();
        let mut failed = Vec::new();
        for transfer in core::mem::take(&mut inner.touched) {
            let flushed = inner.arriving.get_mut(&transfer).map(Arriving::flush);
            match flushed {
                // What could not be saved comes again.
                Some(Ok(Some(checkpoint))) => smol::unblock(|| drop(checkpoint.save())).detach(),
                Some(Ok(None)) | None => {}
                Some(Err(error)) => {
                    inner.failed.push((transfer, disk::plain(&error)));
                    failed.push(transfer);
                }
            }
        }
        failed
    }

    pub(super) fn load(&self, want: &Want, bytes: &mut [u8]) -> Result<(), &'static str> {
        let mut inner = self.lock();
        let Some(giving) = inner.giving.get_mut(&want.transfer) else {
            return Err("it is no longer here");
        };
        let mut read = giving.source.read_at(want.offset, bytes).map_err(|e| disk::plain(&e));
        if giving.looked_at.elapsed() >= LOOK_EVERY {
            giving.looked_at = Instant::now();
            let check = |()| giving.source.check().map_err(|changed| changed.to_string());
            read = read.and_then(check);
        }
        read.map_err(|why| {
            inner.giving.remove(&want.transfer);
            inner.failed.push((want.transfer, why));
            "the file was changed while it was sent"
        })
    }
}
