//! Retiring security files. To rename its credential, and to flush the folder, retires a file: one step
//! that a crash can't cut in two. All that is wiped after that may be wiped at the next start as well.

use super::{
    Store, files_ending, is_carried_and_accepted, json_files, read_credentials, read_object,
    waiting_sec,
};
use crate::disk::{self, wipe::wipe};
use crate::failure::{Failure, Outcome};
use crate::text::complain;
use clawchat_core::id::FileId;
use std::io;
use std::path::{Path, PathBuf};

impl Store {
    /// Wipes all secrets of these files, and the security files that still wait here. Either all are
    /// retired, durably, or none is.
    ///
    /// # Errors
    /// 73.
    pub fn retire(&self, files: &[FileId]) -> Outcome<()> {
        let mut renamed = Vec::new();
        let done = self.rename_all(files, &mut renamed);
        if let Err(failure) = done {
            // What is answered as failed was not done.
            for (kept, gone) in &renamed {
                let _stays = disk::rename(gone, kept);
            }
            // Those that were never renamed count too.
            let all_gone = files.iter().all(|file| !self.credential_path(*file).exists());
            if !all_gone || self.flush_credentials().is_err() {
                return Err(failure);
            }
            // They are gone and don't come back. Wiped they are once that is sure, at the next start.
            complain(&failure.to_string());
            return Ok(());
        }
        for (_, gone) in &renamed {
            complain_of(self.wipe_retired(gone));
        }
        Ok(())
    }

    fn rename_all(&self, files: &[FileId], renamed: &mut Vec<(PathBuf, PathBuf)>) -> Outcome<()> {
        for file in files {
            let kept = self.credential_path(*file);
            let gone = kept.with_extension("gone");
            match disk::rename(&kept, &gone) {
                Ok(true) => renamed.push((kept, gone)),
                Ok(false) => {}
                Err(error) => return Err(disk::cannot_write(&kept, &error)),
            }
        }
        if renamed.is_empty() { Ok(()) } else { self.flush_credentials() }
    }

    fn flush_credentials(&self) -> Outcome<()> {
        let folder = self.folder.join("credentials");
        let flushed = disk::sync_folder(&folder).or_else(|_| disk::sync_folder(&folder));
        flushed.map_err(|error| disk::cannot_write(&folder, &error))
    }

    /// The security file first: only the credential knows its name.
    fn wipe_retired(&self, gone: &Path) -> Outcome<()> {
        // What can't be read was being wiped already, its security file before it.
        if let Some(name) = waiting_sec(gone) {
            self.wipe_sec(&name)?;
        }
        wipe(gone).map_err(|error| disk::cannot_write(gone, &error))
    }

    /// Finishes what a crash, or a disk that failed, left half done. None of it counts for anything any
    /// more, so what can't be finished keeps no server from starting.
    pub(super) fn finish(&self) {
        let credentials = self.folder.join("credentials");
        let gone = files_ending(&credentials, "gone").unwrap_or_default();
        if !gone.is_empty() {
            // Before that is durable a power failure could bring them back, wiped and unreadable.
            match self.flush_credentials() {
                Ok(()) => {
                    gone.iter().for_each(|gone| complain_of(self.wipe_retired(gone)));
                }
                Err(failure) => complain_of(Err(failure)),
            }
        }
        for part in ["", "members", "credentials", "security"] {
            let folder = self.folder.join(part);
            let wiped = disk::wipe_temporary(&folder);
            let told = |error: io::Error| disk::cannot_write(&folder, &error);
            complain_of(wiped.map_err(told));
        }
        for path in json_files(&credentials).unwrap_or_default() {
            self.finish_carried(&path);
        }
    }

    /// A security file whose secret is no longer accepted does not wait here any more.
    fn finish_carried(&self, path: &Path) {
        // What is damaged is told by who needs it.
        let Ok(credentials) = read_object(path, read_credentials) else { return };
        if credentials.iter().any(is_carried_and_accepted) {
            return;
        }
        if let Some(name) = waiting_sec(path) {
            complain_of(self.wipe_sec(&name));
        }
    }
}

/// Tells what could not be finished.
pub(super) fn complain_of(unfinished: Outcome<()>) {
    let told = |failure: Box<Failure>| {
        failure.fact("Nothing depends on it; it is tried again at the next start.")
    };
    if let Err(failure) = unfinished.map_err(told) {
        complain(&failure.to_string());
    }
}
