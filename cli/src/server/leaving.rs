//! What the operator put into the outbox, on its way into the spool: taken out of the outbox first, in one
//! step, so that nobody changes it meanwhile and a crash neither loses it nor sends it twice.
//!
//! ```text
//! leaving/ID/to          whom it is for: @member or #room
//! leaving/ID/what/NAME   the file or folder
//! leaving/ID.done        all of it is in the spool, and it is being removed
//! ```

use crate::disk::place::{first_free, numbered_file, numbered_folder, rename_new};
use crate::disk::source::Stamp;
use crate::disk::{self, folder_of, make_private_folder, read_private, write_private};
use clawchat_core::id::ChatId;
use clawchat_core::wire::message::{Recipient, hex};
use std::io;
use std::path::{Path, PathBuf};

/// How the name of one ends that is in the spool.
const DONE: &str = ".done";

/// A file or folder that was taken from the outbox.
#[derive(Debug)]
pub(super) struct Leaving {
    /// `leaving/ID`.
    folder: PathBuf,
    /// Where the file or folder is now.
    path: PathBuf,
    id: [u8; 16],
}

impl Leaving {
    /// Takes a file or folder out of the outbox.
    ///
    /// # Errors
    /// The operating system's; then it is where it was.
    pub(super) fn take(
        leaving: &Path,
        id: [u8; 16],
        to: &Recipient,
        path: &Path,
    ) -> io::Result<Self> {
        let folder = leaving.join(hex(&id));
        let what = folder.join("what");
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let there = what.join(name);
        let failed = |failure: Box<crate::failure::Failure>| io::Error::other(failure.what);
        let taken = make_private_folder(&what)
            .and_then(|()| write_private(&folder.join("to"), to.to_string().as_bytes(), true))
            .map_err(failed)
            .and_then(|()| rename_new(path, &there));
        if let Err(error) = taken {
            let _left = std::fs::remove_dir_all(&folder);
            return Err(error);
        }
        for changed in [&what, &folder_of(path)] {
            let _flushed = disk::sync_folder(changed);
        }
        Ok(Self { folder, path: there, id })
    }

    /// One that a process before this one took, by its path; `None` for what is still in the outbox.
    pub(super) fn at(leaving: &Path, path: &Path) -> Option<Self> {
        let inside = path.strip_prefix(leaving).ok()?;
        let name = inside.iter().next()?;
        let id = ChatId::parse(name.to_str()?)?.0;
        Some(Self { folder: leaving.join(name), path: path.to_owned(), id })
    }

    /// Where it is now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What ids of its files are made of: the same after a crash.
    pub(super) const fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// All of it is in the spool: it is removed. What somebody has written into it all the same, through a
    /// folder or file that he had open, goes back into the outbox.
    pub(super) fn done(self, outbox: &Path, to: &Recipient, sent: &[Sent]) {
        let done = self.folder.with_extension(DONE.trim_start_matches('.'));
        // What can't be renamed is tried again, and all of it is found in the spool.
        if std::fs::rename(&self.folder, &done).is_err() {
            return;
        }
        let moved = |path: &Path| path.strip_prefix(&self.folder).map(|inside| done.join(inside));
        for Sent { path, stamp } in sent {
            let Ok(path) = moved(path) else { continue };
            if stamp.is_none_or(|stamp| Stamp::at(&path).is_ok_and(|now| now == stamp)) {
                let _left = std::fs::remove_file(path);
            }
        }
        if let Ok(path) = moved(&self.path) {
            remove_empty(&path);
            if std::fs::symlink_metadata(&path).is_ok() && give_back(outbox, to, &path).is_err() {
                return;
            }
        }
        let _left = std::fs::remove_dir_all(&done);
    }

    /// It can't be sent now: it goes back into the outbox.
    pub(super) fn back(self, outbox: &Path, to: &Recipient) {
        // Where that fails, it is tried from here again.
        if give_back(outbox, to, &self.path).is_ok() {
            let _left = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A file that is in the spool.
#[derive(Debug)]
pub(super) struct Sent {
    /// Where it lies.
    pub(super) path: PathBuf,
    /// What it was when it was copied; unknown where a process before this one copied it.
    pub(super) stamp: Option<Stamp>,
}

/// Puts something back into the outbox, beside what has come there meanwhile.
fn give_back(outbox: &Path, to: &Recipient, path: &Path) -> io::Result<()> {
    let folder = outbox.join(to.to_string());
    std::fs::create_dir_all(&folder)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("unnamed");
    let is_folder = std::fs::symlink_metadata(path)?.is_dir();
    let numbered = if is_folder { numbered_folder } else { numbered_file };
    first_free(&folder, name, numbered, |free| rename_new(path, free)).map(drop)
}

/// Removes a folder and those in it as far as nothing else is in them.
fn remove_empty(path: &Path) {
    let (mut ahead, mut folders) = (vec![path.to_owned()], Vec::new());
    while let Some(folder) = ahead.pop() {
        if std::fs::symlink_metadata(&folder).is_ok_and(|meta| meta.is_dir()) {
            ahead.extend(entries(&folder));
            folders.push(folder);
        }
    }
    // Those within others first.
    for folder in folders.iter().rev() {
        let _not_empty = std::fs::remove_dir(folder);
    }
}

/// What is in a folder.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path()).collect()
}

/// Removes what a process before this one had done with.
pub(super) fn sweep(leaving: &Path) {
    for path in entries(leaving) {
        // One without a recipient was never taken.
        if path.extension().is_some_and(|end| end == &DONE[1..]) || recipient(&path).is_none() {
            let _left = std::fs::remove_dir_all(path);
        }
    }
}

/// What was taken and is not yet in the spool, and whom it is for.
pub(super) fn taken(leaving: &Path) -> Vec<(Recipient, PathBuf)> {
    let folders = entries(leaving).into_iter();
    let one = |folder: PathBuf| {
        let to = recipient(&folder)?;
        entries(&folder.join("what")).pop().map(|path| (to, path))
    };
    folders.filter_map(one).collect()
}

fn recipient(folder: &Path) -> Option<Recipient> {
    let to = read_private(&folder.join("to")).ok()?;
    Recipient::parse(core::str::from_utf8(&to).ok()?)
}
