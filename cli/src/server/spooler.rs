//! The thread that does for files what takes long: makes them durable, and passes what has gone to all.

use super::files::{Kept, News};
use super::outbox::{Taking, recover};
use super::run::Command;
use crate::disk::folders::Folders;
use crate::disk::incoming::{Checkpoint, Incoming};
use crate::disk::recent::Recent;
use crate::disk::spool::{Meta, Spool};
use crate::disk::{self, receipt};
use crate::failure::{Exit, Failure, Outcome};
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
use std::path::Path;
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

/// What the server keeps for members.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) spool: Spool,
    /// What was sent from the outbox, and is to be removed from it.
    pub(super) taking: Vec<Taking>,
}

/// Opens the folders of files in the state folder.
///
/// # Errors
/// 73, 78.
pub(super) fn open(folder: &Path, quota: Option<u64>) -> Outcome<Opened> {
    for part in ["inbox", "outbox", "sending", "spool", "spool/parts"] {
        disk::make_private_folder(&folder.join(part))?;
    }
    let path = folder.join("spool");
    let parts = path.join("parts");
    disk::incoming::make_private(&parts).map_err(|error| disk::cannot_write(&parts, &error))?;
    let (outbox, sending) = (folder.join("outbox"), folder.join("sending"));
    disk::wipe_temporary(&sending).map_err(|error| disk::cannot_write(&sending, &error))?;
    for kept in [&path, &parts, &sending] {
        let entries = std::fs::read_dir(kept).map_err(|error| disk::cannot_write(kept, &error))?;
        for entry in entries.filter_map(Result::ok) {
            disk::check_private(&entry.path())?;
        }
    }
    let failed = |error: io::Error| disk::cannot_write(&path, &error);
    let spool = Spool::open(&path, quota.unwrap_or(QUOTA)).map_err(failed)?;
    let taking = recover(&sending, &outbox, &spool).map_err(|error| {
        Failure::new(Exit::CannotWrite, format!("cannot go on sending: {}", disk::plain(&error)))
    })?;
    Ok(Opened { spool, taking })
}

/// The inbox, and the files that the spool keeps and those that the inbox got, as the machine takes them.
pub(super) fn stored(spool: &Spool, folder: &Path) -> (Inbox, Vec<StoredFile>) {
    let file = |meta: Meta| {
        let to = Recipient::parse(&meta.to)?;
        let (id, name, size, from) = (ChatId(meta.id), meta.name, meta.size, meta.from);
        let offer = FileOffer { id, name, size, to, from };
        let (sha256, to) = (meta.sha256, meta.recipients);
        Some(StoredFile { offer, sha256, to, stored_at: UnixMs(meta.stored_at) })
    };
    let (inbox, received) = Inbox::open(folder, spool.parts());
    (inbox, received.into_iter().chain(spool.list()).filter_map(file).collect())
}

/// The thread for what takes long.
pub(super) fn start(
    spool: Arc<Spool>,
    mut inbox: Inbox,
    work: mpsc::Receiver<Job>,
    remote: Remote<Command>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let _left = disk::incoming::sweep(spool.parts(), FILE_AGE);
        let mut swept = Instant::now();
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
                    let key = incoming.key().clone();
                    let kept = keep(&spool, &mut inbox, *incoming, file);
                    let _gone = remote.command(Command::File(News::Kept(transfer, key, kept)));
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
#[derive(Debug)]
pub(super) struct Inbox {
    folders: Folders,
    /// Which files it got: one that is offered again, since its sender did not learn of it before a crash,
    /// is not taken twice.
    received: Recent,
}

impl Inbox {
    /// The inbox in a state folder, and what it got. What was placed by a process that was killed before it
    /// noted that is noted now.
    fn open(folder: &Path, parts: &Path) -> (Self, Vec<Meta>) {
        let folders = Folders::open(&folder.join("inbox"));
        let read = |line: &str| Meta::parse(line.as_bytes());
        let path = folder.join("spool").join("received");
        let (mut received, lines) =
            Recent::open(path, FILES_REMEMBERED, |line| Meta::parse(line.as_bytes()).is_some());
        let mut files: Vec<_> = lines.iter().filter_map(|line| read(line)).collect();
        for (key, note, receipt) in receipt::of_placed(parts) {
            if let Some(line) = folders.placed_before(&(key.from, ChatId(key.id)), &note)
                && let Some(file) = read(&line)
            {
                files.push(file);
                if !received.note(&line) {
                    continue;
                }
            }
            receipt.noted();
        }
        (Self { folders, received }, files)
    }
}

/// Makes a whole file durable: in the inbox if it is the server's, else in the spool.
fn keep(
    spool: &Spool,
    inbox: &mut Inbox,
    incoming: Incoming,
    mut file: StoredFile,
) -> Result<Kept, String> {
    let failed = |error: io::Error| {
        format!("a file from {} could not be stored: {}", file.offer.from, disk::plain(&error))
    };
    let to_us = |to: &Recipient| matches!(to, Recipient::Member(name) if name == SERVER_MEMBER);
    if to_us(&file.offer.to) {
        let folder = inbox.folders.folder_for(&file.offer, &incoming).map_err(failed)?;
        let mut noted = meta(&file);
        noted.recipients.clear();
        let noted = String::from_utf8_lossy(&noted.encode()).into_owned();
        let note = inbox.folders.receipt(&folder, &noted);
        let placed = incoming.place(&folder, &file.offer.name, &note);
        let (path, receipt) = placed.map_err(failed)?;
        file.to.clear();
        let root = inbox.folders.placed(&file.offer, &path).unwrap_or_else(|failure| {
            complain(&failure.to_string());
            None
        });
        // After that: a list that is known has its folder.
        if inbox.received.note(&noted) {
            receipt.noted();
            inbox.folders.settle();
        }
        return Ok(Box::new((file, Some(root.unwrap_or(path)))));
    }
    if file.to.is_empty() {
        incoming.discard().map_err(failed)?;
    } else {
        spool.add(&meta(&file), incoming).map_err(failed)?;
    }
    Ok(Box::new((file, None)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::folder::{Manifest, ManifestFile};
    use crate::disk::incoming::Key;
    use crate::failure::Exit;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            let world = Self(tempfile::tempdir().unwrap());
            open(world.0.path(), None).unwrap();
            world
        }

        fn parts(&self) -> PathBuf {
            self.0.path().join("spool/parts")
        }

        fn inbox(&self) -> (Inbox, Vec<Meta>) {
            Inbox::open(self.0.path(), &self.parts())
        }

        fn file(id: u8, name: &str, bytes: &[u8]) -> StoredFile {
            let to = Recipient::Member(SERVER_MEMBER.into());
            let (id, size) = (ChatId([id; 16]), bytes.len() as u64);
            let offer = FileOffer { id, name: name.into(), size, to, from: "ann".into() };
            StoredFile { offer, sha256: [0; 32], to: Vec::new(), stored_at: UnixMs(7) }
        }

        fn incoming(&self, file: &StoredFile, bytes: &[u8]) -> Incoming {
            let (from, id, size) = (file.offer.from.clone(), file.offer.id.0, file.offer.size);
            let mut incoming = Incoming::open(&self.parts(), &Key { from, id, size }).unwrap();
            incoming.write(0, bytes).unwrap();
            incoming
        }

        fn keep(&self, inbox: &mut Inbox, file: &StoredFile, bytes: &[u8]) {
            let spool = Spool::open(&self.0.path().join("spool"), QUOTA).unwrap();
            keep(&spool, inbox, self.incoming(file, bytes), file.clone()).unwrap();
        }

        /// Killed as soon as it lies under its name.
        fn place_and_die(&self, inbox: &Inbox, file: &StoredFile, bytes: &[u8]) -> PathBuf {
            let incoming = self.incoming(file, bytes);
            let folder = inbox.folders.folder_for(&file.offer, &incoming).unwrap();
            let line = String::from_utf8(meta(file).encode()).unwrap();
            let note = inbox.folders.receipt(&folder, &line);
            incoming.place(&folder, &file.offer.name, &note).unwrap().0
        }

        fn entries(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.0.path().join("inbox")).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn what_only_is_named_like_a_list_is_a_file() {
        let world = World::new();
        let (mut inbox, _) = world.inbox();
        world.keep(&mut inbox, &World::file(1, "notes.clawchat-folder", b"text"), b"text");
        assert_eq!(world.entries(), ["notes.clawchat-folder"]);
        let other = World::file(2, "other.clawchat-folder", b"text");
        world.place_and_die(&inbox, &other, b"text");
        assert_eq!(ids(&world.inbox().1), [1, 2], "also when it is killed");
    }

    #[test]
    fn a_crash_while_a_folder_is_made_leaves_no_second_one() {
        let world = World::new();
        let (inbox, _) = world.inbox();
        let file = |path: &str, id| ManifestFile { path: path.into(), id: [id; 16], size: 1 };
        let manifest = Manifest {
            name: "photos".into(),
            folders: vec!["empty".into()],
            files: vec![file("a.txt", 2), file("b/c.txt", 3)],
        };
        let list = manifest.encode();
        let file = World::file(1, "photos.clawchat-folder", &list);
        let path = world.place_and_die(&inbox, &file, &list);
        // As it is after the first folder.
        let root = world.0.path().join("inbox/photos");
        std::fs::create_dir(&root).unwrap();
        let place = format!(
            r#"{{"from":"ann","id":"{}","root":"{}","made":false}}"#,
            file.offer.id,
            root.display()
        );
        disk::write_private(&path.with_extension("place"), place.as_bytes(), false).unwrap();
        drop(inbox);
        let (mut inbox, known) = world.inbox();
        assert_eq!(ids(&known), [1]);
        assert!(root.join("b").is_dir() && root.join("empty").is_dir());
        world.keep(&mut inbox, &World::file(3, "c.txt", b"c"), b"c");
        assert!(root.join("b/c.txt").exists());
        // Of which nothing has come for a month.
        let places = path.with_extension("place");
        let file = std::fs::File::options().write(true).open(&places).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(40 * 86_400)).unwrap();
        drop(world.inbox());
        assert!(!places.exists() && !path.exists());
        assert_eq!(world.entries(), [".clawchat-parts", "photos"]);
    }

    #[test]
    fn a_crash_before_a_file_has_its_name_leaves_nothing_open() {
        let world = World::new();
        let file = World::file(1, "a.txt", b"text");
        drop(world.incoming(&file, b"text"));
        let part = std::fs::read_dir(world.parts()).unwrap().next().unwrap().unwrap().path();
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&part, mode(0o644)).unwrap();
        open(world.0.path(), None).unwrap();
        assert_eq!(part.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // What lies there otherwise is the operator's to judge.
        let other = world.parts().join("other");
        std::fs::write(&other, "x").unwrap();
        std::fs::set_permissions(&other, mode(0o644)).unwrap();
        assert_eq!(open(world.0.path(), None).unwrap_err().exit, Exit::Config);
    }

    fn ids(files: &[Meta]) -> Vec<u8> {
        files.iter().map(|file| file.id[0]).collect()
    }

    #[test]
    fn a_file_placed_before_a_crash_is_known_after_it() {
        let world = World::new();
        let (inbox, none) = world.inbox();
        assert!(none.is_empty());
        let file = World::file(1, "a.txt", b"text");
        let placed = world.place_and_die(&inbox, &file, b"text");
        assert_eq!(std::fs::read(placed).unwrap(), b"text");
        assert_eq!(ids(&world.inbox().1), [1]);
        assert_eq!(ids(&world.inbox().1), [1], "noted once and for all");
        assert_eq!(std::fs::read_dir(world.parts()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_goes_on_wherever_it_was_interrupted() {
        let world = World::new();
        let (mut inbox, _) = world.inbox();
        let files = [("a.txt", 2, &b"one"[..]), ("b/c.txt", 3, b"three")];
        let manifest = Manifest {
            name: "photos".into(),
            folders: Vec::new(),
            files: files
                .map(|(path, id, bytes)| ManifestFile {
                    path: path.into(),
                    id: [id; 16],
                    size: bytes.len() as u64,
                })
                .to_vec(),
        };
        let list = manifest.encode();
        let list_file = World::file(1, "photos.clawchat-folder", &list);
        // Before its folder is made: it comes again.
        world.place_and_die(&inbox, &list_file, &list);
        let known;
        (inbox, known) = world.inbox();
        assert!(known.is_empty());
        let parts = world.0.path().join("inbox/.clawchat-parts");
        let orphan = parts.join("photos.clawchat-folder");
        let file = std::fs::File::options().write(true).open(&orphan).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200)).unwrap();
        drop(world.inbox());
        assert!(!orphan.exists());
        // Before it is noted: it is known, and if it came again, it would make no other.
        let path = world.place_and_die(&inbox, &list_file, &list);
        inbox.folders.placed(&list_file.offer, &path).unwrap();
        drop(inbox);
        let (mut inbox, known) = world.inbox();
        assert_eq!(ids(&known), [1]);
        world.keep(&mut inbox, &list_file, &list);
        assert_eq!(world.entries(), [".clawchat-parts", "photos"]);
        // A file of it, before it is noted.
        let first = World::file(2, "a.txt", files[0].2);
        world.place_and_die(&inbox, &first, files[0].2);
        drop(inbox);
        let (mut inbox, known) = world.inbox();
        assert!(ids(&known).ends_with(&[2]), "else it would come once more, beside its folder");
        // The last one.
        world.keep(&mut inbox, &World::file(3, "c.txt", files[1].2), files[1].2);
        let root = world.0.path().join("inbox/photos");
        for (path, _, bytes) in files {
            assert_eq!(std::fs::read(root.join(path)).unwrap(), bytes);
        }
        assert_eq!(world.entries(), ["photos"]);
    }
}
