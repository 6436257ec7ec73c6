//! The thread that does for files what takes long: makes them durable, and passes what has gone to all.

use super::files::News;
use super::run::Command;
use crate::disk;
use crate::disk::folders::Folders;
use crate::disk::incoming::{Checkpoint, Incoming};
use crate::disk::recent::Recent;
use crate::disk::spool::{Meta, Spool};
use crate::failure::Outcome;
use crate::text::complain;
use clawchat_core::id::{ChatId, OpId, TransferId};
use clawchat_core::limits::{FILE_AGE, FILES_REMEMBERED};
use clawchat_core::ops;
use clawchat_core::server::StoredFile;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::message::{FileOffer, Recipient, SERVER_MEMBER};
use clawchat_mio::Remote;
use core::time::Duration;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

/// Bytes of files that are kept for members, unless the operator says otherwise.
const QUOTA: u64 = 10 << 30;
/// How often it is looked for parts that nobody goes on with.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Work for the thread.
#[derive(Debug)]
pub(super) enum Job {
    Save(Checkpoint),
    Keep(TransferId, Box<Incoming>, StoredFile),
    Discard(Box<Incoming>),
    /// A member has a file, or wants it no more.
    Delivered(OpId, FileName, String),
    Stop,
}

/// Sender and id of a file.
type FileName = (String, ChatId);

/// A stored file as the spool keeps it.
pub(super) fn meta(file: &StoredFile) -> Meta {
    Meta {
        id: file.offer.id.0,
        from: file.offer.from.clone(),
        name: file.offer.name.clone(),
        size: file.offer.size,
        sha256: file.sha256,
        to: file.offer.to.to_string(),
        recipients: file.to.clone(),
        stored_at: file.stored_at.0,
    }
}

/// Opens the folders of files in the state folder.
///
/// # Errors
/// 73, 78.
pub(super) fn open(folder: &Path, quota: Option<u64>) -> Outcome<Spool> {
    for part in ["inbox", "outbox", "spool", "spool/parts"] {
        disk::make_private_folder(&folder.join(part))?;
    }
    let path = folder.join("spool");
    for kept in [&path, &path.join("parts")] {
        let entries = std::fs::read_dir(kept).map_err(|error| disk::cannot_write(kept, &error))?;
        for entry in entries.filter_map(Result::ok) {
            disk::check_private(&entry.path())?;
        }
    }
    let opened = Spool::open(&path, quota.unwrap_or(QUOTA));
    opened.map_err(|error| disk::cannot_write(&path, &error))
}

/// Which files the inbox got: one that is offered again, since its sender did not learn of it before a
/// crash, is not taken twice.
fn received(folder: &Path) -> (Recent, Vec<Meta>) {
    let is_file = |line: &str| Meta::parse(line.as_bytes()).is_some();
    let path = folder.join("spool").join("received");
    let (list, lines) = Recent::open(path, FILES_REMEMBERED, is_file);
    (list, lines.iter().filter_map(|line| Meta::parse(line.as_bytes())).collect())
}

/// The files that the spool keeps, and those that the inbox got, as the machine takes them.
pub(super) fn stored(spool: &Spool, folder: &Path) -> Vec<StoredFile> {
    let file = |meta: Meta| {
        let to = Recipient::parse(&meta.to)?;
        let (id, name, size, from) = (ChatId(meta.id), meta.name, meta.size, meta.from);
        let offer = FileOffer { id, name, size, to, from };
        let (sha256, to) = (meta.sha256, meta.recipients);
        Some(StoredFile { offer, sha256, to, stored_at: UnixMs(meta.stored_at) })
    };
    let (_, received) = received(folder);
    received.into_iter().chain(spool.list()).filter_map(file).collect()
}

/// The thread for what takes long.
pub(super) fn start(
    spool: Arc<Spool>,
    folder: PathBuf,
    work: mpsc::Receiver<Job>,
    remote: Remote<Command>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let _left = disk::incoming::sweep(spool.parts(), FILE_AGE);
        let mut swept = Instant::now();
        let inbox = Folders::open(&folder.join("inbox"));
        let (received, _) = received(&folder);
        let mut inbox = Inbox { folders: inbox, received };
        while let Ok(job) = work.recv() {
            // Parts that nobody goes on with would count against the quota for ever.
            if swept.elapsed() >= SWEEP_EVERY {
                swept = Instant::now();
                let _left = disk::incoming::sweep(spool.parts(), FILE_AGE);
            }
            match job {
                // What could not be saved comes again after a restart.
                Job::Save(checkpoint) => drop(checkpoint.save()),
                Job::Discard(incoming) => drop(incoming.discard()),
                Job::Keep(transfer, incoming, file) => {
                    let kept = keep(&spool, &mut inbox, *incoming, file);
                    let _gone = remote.command(Command::File(News::Kept(transfer, kept)));
                }
                Job::Delivered(op, (from, id), by) => {
                    let done = delivered(&spool, &from, id, &by).is_ok();
                    let outcome = if done { ops::Outcome::Done } else { ops::Outcome::Failed };
                    let _gone = remote.complete(op, outcome);
                }
                Job::Stop => return,
            }
        }
    })
}

/// The server's own files.
struct Inbox {
    folders: Folders,
    received: Recent,
}

/// Makes a whole file durable: in the inbox if it is the server's, else in the spool.
fn keep(
    spool: &Spool,
    inbox: &mut Inbox,
    incoming: Incoming,
    mut file: StoredFile,
) -> Result<(StoredFile, Option<PathBuf>), String> {
    let failed = |error: io::Error| {
        format!("a file from {} could not be stored: {}", file.offer.from, disk::plain(&error))
    };
    let to_us = |to: &Recipient| matches!(to, Recipient::Member(name) if name == SERVER_MEMBER);
    if to_us(&file.offer.to) {
        let folder = inbox.folders.folder_for(&file.offer).map_err(failed)?;
        let path = incoming.place(&folder, &file.offer.name).map_err(failed)?;
        file.to.clear();
        let root = inbox.folders.placed(&file.offer, &path).unwrap_or_else(|failure| {
            complain(&failure.to_string());
            None
        });
        // Last: a list that is known has its folder.
        inbox.received.note(&String::from_utf8_lossy(&meta(&file).encode()));
        inbox.folders.tidy();
        return Ok((file, Some(root.unwrap_or(path))));
    }
    if file.to.is_empty() {
        incoming.discard().map_err(failed)?;
    } else {
        spool.add(&meta(&file), incoming).map_err(failed)?;
    }
    Ok((file, None))
}

/// Notes that a member has a file; when it waits for nobody any more, it goes.
fn delivered(spool: &Spool, from: &str, id: ChatId, by: &str) -> io::Result<()> {
    let known = spool.list().into_iter().find(|meta| meta.from == from && meta.id == id.0);
    let Some(mut meta) = known else { return Ok(()) };
    meta.recipients.retain(|name| name != by);
    if meta.recipients.is_empty() {
        spool.remove(from, &id.0)
    } else {
        spool.set_recipients(from, &id.0, &meta.recipients)
    }
}
