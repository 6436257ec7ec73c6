//! A file being received (PROTOCOL 5.6): partial until it is whole, kept over restarts.
//!
//! Beside the partial file lies a sidecar that says which of its ranges are on the disk. It is written
//! only once they are, so that a power cut at any moment loses bytes but never lies about them.

use super::place::{self, invalid, set_mode};
use super::receipt::{self, Receipt};
use super::room::{self, Room};
use super::window::Window;
use super::{folder_of, have, parts};
use crate::process::left_by_umask;
use clawchat_core::ranges::RangeSet;
use clawchat_core::wire::message::is_file_name;
use core::ops::Range;
use rustix::fs::{Mode, OFlags};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use super::parts::{Key, kept, make_private, sweep};

/// Pieces of so many bytes are written as they come: joining them would cost more than it saves.
const DIRECT: usize = 32 * 1024;

/// A file being received. Dropped, it loses what no [`Checkpoint`] has saved, and nothing else.
#[derive(Debug)]
pub struct Incoming {
    key: Key,
    paths: Paths,
    file: File,
    held: RangeSet,
    /// All that was taken.
    written: RangeSet,
    /// What of that can be read from the file.
    stored: RangeSet,
    window: Window,
    /// Checkpoints so far.
    checkpoints: u64,
    shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
struct Paths {
    part: PathBuf,
    have: PathBuf,
}

/// What a file and its checkpoints, which another thread saves, know of each other.
#[derive(Debug, Default)]
struct Shared {
    /// Whether a flush has failed. Held while flushing.
    failed: Mutex<bool>,
    /// Number of the newest checkpoint in the sidecar. Held while writing that.
    saved: Mutex<u64>,
}

/// All threads that hold these leave them in order, also one that panics.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Has `sync` flush the file. Once one has failed, the kernel may have dropped any of the bytes that
    /// were written, and the next would succeed without them: so that is final.
    fn flush(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut failed = locked(&self.failed);
        if *failed {
            return Err(io::Error::other("the disk has failed to store this file before"));
        }
        sync().inspect_err(|_| *failed = true)
    }

    /// No checkpoint is saved from here on, also none that is on its way.
    fn close(&self) {
        *locked(&self.saved) = u64::MAX;
    }
}

impl Incoming {
    /// Opens the partial file of this key in the folder `parts`, or makes it, and the folder.
    ///
    /// # Errors
    /// `WouldBlock` while it is open elsewhere, a [`Checkpoint`] of it included; `InvalidInput` for a key
    /// that no member can make; the operating system's.
    pub fn open(parts: &Path, key: &Key) -> io::Result<Self> {
        let (part, have) = key.paths(parts)?;
        DirBuilder::new().recursive(true).mode(0o700).create(parts)?;
        let file = parts::lock(&part, true)?;
        receipt::forget(parts, key)?;
        // A crash may have left it as it was to be in its place.
        set_mode(&file, 0o600)?;
        let length = file.metadata()?.len();
        if length > key.size {
            file.set_len(key.size)?;
        }
        let mut held = have::load(&have, key.size);
        held.remove(length..u64::MAX);
        Ok(Self {
            key: key.clone(),
            paths: Paths { part, have },
            file,
            written: held.clone(),
            stored: held.clone(),
            held,
            window: Window::default(),
            checkpoints: 0,
            shared: Arc::default(),
        })
    }

    /// Which file this is.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// What was on the disk for sure when it was opened: `have` of a `file_accept`.
    #[must_use]
    pub const fn held(&self) -> &RangeSet {
        &self.held
    }

    /// What has been taken, what was held included. Some of it may still wait in memory.
    #[must_use]
    pub const fn written(&self) -> &RangeSet {
        &self.written
    }

    /// Whether every byte has been taken.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.written.contains_range(0..self.key.size)
    }

    /// Length of the beginning without a hole that can be read from the file: how far a digest may go.
    /// With the last byte that was missing it is all of the file.
    #[must_use]
    pub fn contiguous(&self) -> u64 {
        self.stored.iter().next().filter(|first| first.start == 0).map_or(0, |first| first.end)
    }

    /// Another handle to read from, for a digest. It does not lock the file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn reader(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.paths.part, flags, Mode::empty())?.into())
    }

    /// Reserves room for all that is missing, so that no later write meets a full disk.
    ///
    /// The length stays that of what was written: what a sidecar claims past it is not believed. Where a
    /// file system has no reservations, it compares with what is free now. May be called again.
    ///
    /// # Errors
    /// The operating system's; a full disk is none.
    pub fn reserve(&self) -> io::Result<Room> {
        room::reserve(&self.file, self.key.size)
    }

    /// Takes a piece. Small ones are joined in memory, up to 256 KiB, until [`Self::flush`].
    ///
    /// # Errors
    /// `InvalidInput` past the end; `StorageFull` and others of the operating system's, also for pieces
    /// taken before. What [`Self::written`] holds is not lost: it is written once the disk lets it.
    /// What it does not hold of this piece has to come again.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.key.size);
        let Some(end) = end else {
            return Err(invalid(format!("a piece at {offset} past {} bytes", self.key.size)));
        };
        if bytes.len() >= DIRECT {
            self.write_now(offset..end, bytes)?;
        } else {
            self.join(offset, bytes)?;
        }
        if self.window.is_full() || self.is_whole() {
            self.flush()?;
        }
        Ok(())
    }

    fn write_now(&mut self, range: Range<u64>, bytes: &[u8]) -> io::Result<()> {
        if self.window.overlaps(range.clone()) {
            // It came first, and must not be written last.
            self.flush()?;
        }
        self.file.write_all_at(bytes, range.start)?;
        self.written.insert(range.clone());
        self.stored.insert(range);
        Ok(())
    }

    fn join(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.window.take(offset, bytes, self.key.size);
            if taken == 0 {
                self.flush()?;
                continue;
            }
            let end = offset + taken as u64;
            self.written.insert(offset..end);
            (offset, bytes) = (end, &bytes[taken..]);
        }
        Ok(())
    }

    /// Writes what waits in memory. It is on the disk only after a [`Checkpoint`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&mut self) -> io::Result<()> {
        let stored = &mut self.stored;
        self.window.write_to(&self.file, |range| {
            stored.insert(range);
        })
    }

    /// What has been taken so far, to be made durable by another thread.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn checkpoint(&mut self) -> io::Result<Checkpoint> {
        self.flush()?;
        // A transfer that rests keeps no memory.
        self.window = Window::default();
        self.checkpoints += 1;
        Ok(Checkpoint {
            file: self.file.try_clone()?,
            have: self.paths.have.clone(),
            size: self.key.size,
            ranges: self.stored.clone(),
            number: self.checkpoints,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Gives the whole file its final name in `folder`: `name`, or `name (2)` and so on where that is
    /// taken, with the number before the last extension. It has then the permissions that the user's
    /// umask leaves of 0644, and is durable.
    ///
    /// From another disk it is copied: that can fail for want of room there. A file that could not be
    /// placed can be opened again, and is whole.
    ///
    /// Until the receipt is told that `note` is noted, [`receipt::of_placed`] gives it to the next process.
    ///
    /// # Errors
    /// `InvalidInput` when it is not whole, or for a name that PROTOCOL 5.6 refuses; the operating
    /// system's.
    pub fn place(
        mut self,
        folder: &Path,
        name: &str,
        note: &[u8],
    ) -> io::Result<(PathBuf, Receipt)> {
        if !is_file_name(name) {
            return Err(invalid(format!("{name:?} can't be the name of a received file")));
        }
        self.settle(left_by_umask(0o644))?;
        let receipt = receipt::write(&folder_of(&self.paths.part), &self.key, note);
        let placed =
            receipt.and_then(|receipt| match place::place(&self.paths.part, folder, name) {
                Ok(path) => Ok((path, receipt)),
                Err(error) => {
                    receipt.void();
                    Err(error)
                }
            });
        self.handed_over(placed)
    }

    /// Gives the whole file this path on the same disk, 0600, and then has `after` do what belongs to
    /// it; when that fails, it is partial again. What makes `path` durable is up to `after`.
    ///
    /// # Errors
    /// As [`Self::place`], `AlreadyExists`, and those of `after`.
    pub fn move_to(
        mut self,
        path: &Path,
        after: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.settle(0o600)?;
        let mut moved = place::rename_new(&self.paths.part, path);
        if moved.is_ok() {
            moved = after().inspect_err(|_| {
                // Should that fail too, it is an orphan.
                let _back = place::rename_new(path, &self.paths.part);
            });
        }
        self.handed_over(moved)
    }

    /// Makes the whole file durable, as it is to be.
    fn settle(&mut self, mode: u32) -> io::Result<()> {
        if !self.is_whole() {
            return Err(invalid(format!("{} is not whole", self.paths.part.display())));
        }
        self.flush()?;
        set_mode(&self.file, mode)?;
        self.shared.flush(|| self.file.sync_all())
    }

    /// Ends the partial file, or saves that it is whole.
    fn handed_over<T>(mut self, done: io::Result<T>) -> io::Result<T> {
        if done.is_ok() {
            self.shared.close();
            // One that stays is of no file, and is swept.
            let _left = parts::remove(&self.paths.have);
        } else {
            // Else what came since the last checkpoint would come again.
            let _saved = self.checkpoint().and_then(Checkpoint::save);
        }
        done
    }

    /// Removes the partial file and its sidecar.
    ///
    /// # Errors
    /// The operating system's.
    pub fn discard(self) -> io::Result<()> {
        self.shared.close();
        let part = parts::remove(&self.paths.part);
        let have = parts::remove(&self.paths.have);
        part.and(have)
    }
}

/// What a file held at some moment; to be made durable by any thread.
#[derive(Debug)]
pub struct Checkpoint {
    file: File,
    have: PathBuf,
    size: u64,
    ranges: RangeSet,
    number: u64,
    shared: Arc<Shared>,
}

impl Checkpoint {
    /// The ranges that are durable once it is saved.
    #[must_use]
    pub const fn ranges(&self) -> &RangeSet {
        &self.ranges
    }

    /// Flushes the file, and then writes the sidecar. One that is older than what the sidecar says, or
    /// whose file has been placed or discarded, leaves that alone.
    ///
    /// # Errors
    /// The operating system's. Once a flush has failed, all later ones of this file do: it is to be
    /// dropped and opened again, and holds what the last good checkpoint said.
    pub fn save(self) -> io::Result<()> {
        // The bytes before what is said of them.
        self.shared.flush(|| self.file.sync_data())?;
        let mut saved = locked(&self.shared.saved);
        if self.number > *saved {
            have::save(&self.have, self.size, &self.ranges)?;
            *saved = self.number;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
