//! What the operator sends: files and folders, by a command or through the outbox. Copied into the spool on a
//! thread of its own, so that a large one keeps nobody else's files waiting.

use super::files::News;
use super::leaving::{self, Leaving, Sent, entries};
use super::run::Command;
use super::spooler::meta;
use crate::disk;
use crate::disk::folder::{Manifest, Walked, walk};
use crate::disk::folders::LIST;
use crate::disk::incoming::{Incoming, Key};
use crate::disk::room::Room;
use crate::disk::source::Source;
use crate::disk::spool::Spool;
use clawchat_core::id::ChatId;
use clawchat_core::server::StoredFile;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{FileOffer, Recipient, SERVER_MEMBER, is_file_name};
use clawchat_mio::Remote;
use core::time::Duration;
use sha2::{Digest as _, Sha256};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

/// Bytes copied at a time.
const COPY: usize = 1 << 20;
/// What lies in the outbox untouched for so long is whole.
const SETTLED: Duration = Duration::from_secs(2);

/// Work for the thread.
#[derive(Debug)]
pub(super) enum Errand {
    /// Puts a file or folder into the spool.
    Queue(Queue),
    /// Looks into the outbox.
    Scan,
}

/// A file or folder of the operator.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) to: Recipient,
    pub(super) members: Vec<String>,
    pub(super) path: PathBuf,
    /// It is taken from where it is.
    pub(super) consume: bool,
    /// Who asked for it.
    pub(super) reply: Option<mpsc::Sender<Object>>,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Queued {
    /// A file, or the list of a folder and then its files.
    pub(super) files: Vec<StoredFile>,
    /// Whether it is a folder.
    pub(super) folder: bool,
    /// What of a folder is not sent, and why.
    pub(super) left_out: Vec<String>,
}

/// The thread ends when nobody can give it errands any more, or with the process: what it was copying then is
/// done away with at the next start.
pub(super) fn start(
    spool: Arc<Spool>,
    folder: PathBuf,
    errands: mpsc::Receiver<Errand>,
    remote: Remote<Command>,
) {
    std::thread::spawn(move || {
        let (outbox, leaving) = (folder.join("outbox"), folder.join("leaving"));
        // Copies that were cut: nobody goes on with them.
        spool.discard_parts(SERVER_MEMBER);
        leaving::sweep(&leaving);
        while let Ok(errand) = errands.recv() {
            match errand {
                Errand::Queue(what) => {
                    let queued = if what.consume {
                        queue_and_take(&spool, &what, &outbox, &leaving)
                    } else {
                        queue(&spool, &what, &what.path, None).map(|(queued, _)| queued)
                    };
                    let queued = queued.map_err(|error| {
                        format!("cannot send {}: {}", what.path.display(), disk::plain(&error))
                    });
                    let news = News::Queued(what.path, queued, what.reply);
                    let _gone = remote.command(Command::File(news));
                }
                Errand::Scan => {
                    for (to, path) in leaving::taken(&leaving).into_iter().chain(scan(&outbox)) {
                        let _gone = remote.command(Command::File(News::Found(to, path)));
                    }
                }
            }
        }
    });
}

/// Sends what is in the outbox, and takes it from there; or leaves it there.
fn queue_and_take(
    spool: &Spool,
    what: &Queue,
    outbox: &Path,
    leaving: &Path,
) -> io::Result<Queued> {
    let before = Leaving::at(leaving, &what.path);
    let fresh = before.is_none();
    let taken = match before {
        Some(taken) => taken,
        None => {
            // What can't be sent stays where the operator has put it.
            Copier::new(spool, what, &what.path, None).check()?;
            Leaving::take(leaving, fresh_id()?, &what.to, &what.path)?
        }
    };
    let queued = queue(spool, what, taken.path(), Some(taken.id()));
    match queued {
        Ok((queued, sent)) => {
            taken.done(outbox, &what.to, &sent);
            Ok(queued)
        }
        Err(error) => {
            // Of one that was taken before a crash, some may have been sent: it stays, and is tried again.
            if fresh {
                taken.back(outbox, &what.to);
            }
            Err(error)
        }
    }
}

/// Copies what the operator sends into the spool: all of it, or nothing.
fn queue(
    spool: &Spool,
    what: &Queue,
    path: &Path,
    id: Option<&[u8; 16]>,
) -> io::Result<(Queued, Vec<Sent>)> {
    let mut copier = Copier::new(spool, what, path, id);
    let folder = std::fs::symlink_metadata(path)?.is_dir();
    let left_out = if folder {
        copier.folder()
    } else {
        copier.id(path).and_then(|id| copier.file(path, id, None)).map(|()| Vec::new())
    };
    let (files, sent) = (copier.files, copier.sent);
    match left_out {
        Ok(left_out) => Ok((Queued { files, folder, left_out }, sent)),
        Err(error) => {
            for StoredFile { offer, .. } in files {
                // What can't be removed is found at the next start, and sent.
                let _left = spool.remove(&offer.from, &offer.id.0);
            }
            Err(error)
        }
    }
}

struct Copier<'a> {
    spool: &'a Spool,
    what: &'a Queue,
    /// Where it is.
    path: &'a Path,
    /// What the ids of its files are made of, if they must be the same after a crash.
    id: Option<&'a [u8; 16]>,
    files: Vec<StoredFile>,
    sent: Vec<Sent>,
}

impl<'a> Copier<'a> {
    const fn new(
        spool: &'a Spool,
        what: &'a Queue,
        path: &'a Path,
        id: Option<&'a [u8; 16]>,
    ) -> Self {
        Self { spool, what, path, id, files: Vec::new(), sent: Vec::new() }
    }

    /// Whether it can be sent, by all that can be told without reading it.
    fn check(&self) -> io::Result<()> {
        if std::fs::symlink_metadata(self.path)?.is_dir() {
            return self.walk().map(drop);
        }
        name_of(self.path)?;
        self.has_room(Source::open(self.path)?.size())
    }

    /// All that is in the folder, with the ids of its files, if there is room for it.
    fn walk(&self) -> io::Result<(Walked, Vec<[u8; 16]>)> {
        let walked = walk(self.path)?;
        if let (true, Some(first)) = (self.what.consume, walked.skipped.first()) {
            // It would be gone with the folder.
            return Err(refused(&format!("it has something that is not sent: {first}")));
        }
        let ids = walked.files.iter().map(|file| self.id(&file.source));
        let ids = ids.collect::<io::Result<Vec<_>>>()?;
        let files = walked.files.iter().zip(&ids);
        let new = files.filter(|(file, id)| !self.is_copied(id, file.size));
        self.has_room(new.map(|(file, _)| file.size).fold(0, u64::saturating_add))?;
        Ok((walked, ids))
    }

    /// Whether a process before this one has copied a file.
    fn is_copied(&self, id: &[u8; 16], size: u64) -> bool {
        self.spool.get(SERVER_MEMBER, id).is_some_and(|there| there.size == size)
    }

    /// A folder: its list, and then its files. What of it is left out.
    fn folder(&mut self) -> io::Result<Vec<String>> {
        let (walked, ids) = self.walk()?;
        let left_out: Vec<String> = walked.skipped.iter().map(ToString::to_string).collect();
        let mut ids = ids.into_iter();
        let manifest = Manifest::of(&walked, || ids.next().unwrap_or_default());
        let list = manifest.encode();
        let name = format!("{}{LIST}", walked.name);
        let id = digest_id(&[&self.id(self.path)?, &list]);
        self.add(name, list.len() as u64, id, |incoming| {
            incoming.write(0, &list)?;
            Ok(Sha256::digest(&list).into())
        })?;
        for (file, found) in manifest.files.iter().zip(&walked.files) {
            self.file(&found.source, file.id, Some(file.size))?;
        }
        Ok(left_out)
    }

    /// A file, which a list may say the size of.
    fn file(&mut self, path: &Path, id: [u8; 16], size: Option<u64>) -> io::Result<()> {
        let name = name_of(path)?;
        let source = Source::open(path)?;
        if size.is_some_and(|size| size != source.size()) {
            let what = format!("{} was changed since it was looked at", path.display());
            return Err(refused(&what));
        }
        let copied = self.add(name, source.size(), id, |incoming| copy(&source, incoming))?;
        let stamp = copied.then(|| source.stamp());
        self.sent.push(Sent { path: path.to_owned(), stamp });
        Ok(())
    }

    /// The id of a file's offer. What is taken from the outbox has the same after a crash, so that what is
    /// in the spool already is not sent twice.
    fn id(&self, path: &Path) -> io::Result<[u8; 16]> {
        match self.id {
            Some(id) => {
                let inside = path.strip_prefix(self.path).unwrap_or(path);
                Ok(digest_id(&[id, inside.as_os_str().as_bytes()]))
            }
            None => fresh_id(),
        }
    }

    fn has_room(&self, size: u64) -> io::Result<()> {
        match self.spool.room_for(size) {
            Room::Enough => Ok(()),
            Room::Missing { needs, has } => {
                Err(refused(&format!("the quota has {has} bytes left of {needs}")))
            }
        }
    }

    /// Whether it was copied: one that a process before this one has copied is not again.
    fn add(
        &mut self,
        name: String,
        size: u64,
        id: [u8; 16],
        fill: impl FnOnce(&mut Incoming) -> io::Result<[u8; 32]>,
    ) -> io::Result<bool> {
        if self.is_copied(&id, size) {
            return Ok(false);
        }
        self.has_room(size)?;
        let from = SERVER_MEMBER.to_owned();
        let key = Key { from: from.clone(), id, size };
        let mut incoming = Incoming::open(self.spool.parts(), &key)?;
        if let Room::Missing { needs, has } = incoming.reserve()? {
            incoming.discard()?;
            return Err(refused(&format!("the disk has {has} bytes left of {needs}")));
        }
        let sha256 = match fill(&mut incoming) {
            Ok(sha256) => sha256,
            Err(error) => {
                incoming.discard()?;
                return Err(error);
            }
        };
        // The list of a folder is older than its files: it goes first.
        let after = self.files.last().map_or(0, |last| last.stored_at.0 + 1);
        let stored_at = UnixMs(clawchat_mio::clock::now().wall.0.max(after));
        let offer = FileOffer { id: ChatId(id), name, size, to: self.what.to.clone(), from };
        let file = StoredFile { offer, sha256, to: self.what.members.clone(), stored_at };
        self.spool.add(&meta(&file), incoming)?;
        self.files.push(file);
        Ok(true)
    }
}

fn name_of(path: &Path) -> io::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| is_file_name(name));
    Ok(name.ok_or_else(|| refused("receivers take no file of this name"))?.to_owned())
}

fn digest_id(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    id
}

fn fresh_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(id)
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn copy(source: &Source, into: &mut Incoming) -> io::Result<[u8; 32]> {
    let (mut hash, mut at, mut buffer) = (Sha256::new(), 0, vec![0; COPY]);
    while at < source.size() {
        let length = usize::try_from(source.size() - at).unwrap_or(COPY).min(COPY);
        source.read_at(at, &mut buffer[..length])?;
        hash.update(&buffer[..length]);
        into.write(at, &buffer[..length])?;
        at += length as u64;
    }
    source.check().map_err(|changed| refused(&changed.to_string()))?;
    Ok(hash.finalize().into())
}

/// The files and folders in the outbox that nobody has touched for a moment: `outbox/@member/NAME` and
/// `outbox/#room/NAME`.
fn scan(outbox: &Path) -> Vec<(Recipient, PathBuf)> {
    let now = clawchat_mio::clock::now().wall.secs();
    let before = i64::try_from(now.saturating_sub(SETTLED.as_secs())).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    for folder in entries(outbox) {
        let name = folder.file_name().and_then(|name| name.to_str());
        if let Some(to) = name.and_then(Recipient::parse) {
            let ready = |path: &PathBuf| is_sendable(path) && is_settled(path, before);
            found.extend(entries(&folder).into_iter().filter(ready).map(|path| (to.clone(), path)));
        }
    }
    found
}

fn is_sendable(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() || meta.is_dir())
}

/// Whether a file, or all that is in a folder, was last changed before a time, `unix_s`. By the change of its
/// inode: copies may keep the times of what they are copies of.
fn is_settled(path: &Path, before: i64) -> bool {
    let mut ahead = vec![path.to_owned()];
    while let Some(path) = ahead.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { return false };
        if meta.ctime() > before {
            return false;
        }
        if meta.is_dir() {
            ahead.extend(entries(&path));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const QUOTA: u64 = 100_000;

    fn spool(folder: &Path) -> Spool {
        Spool::open(&folder.join("spool"), QUOTA).unwrap()
    }

    /// A folder with two files and an empty folder.
    fn photos(folder: &Path) -> PathBuf {
        let photos = folder.join("photos");
        std::fs::create_dir_all(photos.join("2026/empty")).unwrap();
        std::fs::write(photos.join("a.jpg"), [1; 300]).unwrap();
        std::fs::write(photos.join("2026/b.jpg"), [2; 20]).unwrap();
        photos
    }

    fn what(path: &Path, consume: bool) -> Queue {
        let members = vec!["bob".to_owned()];
        let to = Recipient::Member("bob".to_owned());
        Queue { to, members, path: path.to_owned(), consume, reply: None }
    }

    fn send(spool: &Spool, path: &Path) -> Result<Queued, String> {
        let queued = queue(spool, &what(path, false), path, None);
        queued.map(|(queued, _)| queued).map_err(|error| error.to_string())
    }

    /// The outbox, and where what is taken from it goes.
    fn places(temp: &Path) -> (PathBuf, PathBuf) {
        let places = (temp.join("outbox"), temp.join("leaving"));
        std::fs::create_dir_all(places.0.join("@bob")).unwrap();
        std::fs::create_dir_all(&places.1).unwrap();
        places
    }

    fn take(temp: &Path, spool: &Spool, path: &Path) -> Result<Queued, String> {
        let (outbox, leaving) = places(temp);
        let queued = queue_and_take(spool, &what(path, true), &outbox, &leaving);
        queued.map_err(|error| error.to_string())
    }

    #[test]
    fn a_folder_is_its_list_and_then_its_files() {
        let temp = tempfile::tempdir().unwrap();
        let (spool, path) = (spool(temp.path()), photos(temp.path()));
        symlink("a.jpg", path.join("link")).unwrap();
        let Queued { files, folder, left_out } = send(&spool, &path).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.offer.name.as_str()).collect();
        assert!(folder && names[0] == "photos.clawchat-folder");
        assert_eq!(names[1..].iter().collect::<std::collections::BTreeSet<_>>().len(), 2);
        assert!(files.is_sorted_by(|a, b| a.stored_at < b.stored_at), "the list goes first");
        assert!(left_out.len() == 1 && left_out[0].contains("link"), "{left_out:?}");
        let list = spool.open_data("server", &files[0].offer.id.0).unwrap();
        let mut bytes = vec![0; list.size() as usize];
        list.read_at(0, &mut bytes).unwrap();
        let list = Manifest::parse(&bytes).unwrap();
        assert_eq!(list.folders, ["2026/empty"]);
        let told: Vec<_> = list.files.iter().map(|file| (file.id, file.size)).collect();
        let sent: Vec<_> =
            files[1..].iter().map(|file| (file.offer.id.0, file.offer.size)).collect();
        assert_eq!(told, sent);
        assert!(path.is_dir() && spool.list().len() == 3);
    }

    #[test]
    fn all_or_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let spool = spool(temp.path());
        let path = photos(&places(temp.path()).0.join("@bob"));
        // Their bytes fit; with the least that each file takes they do not, which shows after some are copied.
        std::fs::write(path.join("z.bin"), vec![0; QUOTA as usize - 9000]).unwrap();
        let error = take(temp.path(), &spool, &path).unwrap_err();
        assert!(error.contains("quota"), "{error}");
        assert!(spool.list().is_empty() && spool.used() == 0);
        assert!(path.join("z.bin").exists(), "what was not sent stays");
        assert!(entries(&temp.path().join("leaving")).is_empty());
        std::fs::remove_file(path.join("z.bin")).unwrap();
        assert!(take(temp.path(), &spool, &path).unwrap().left_out.is_empty());
        assert!(!path.exists() && spool.list().len() == 3);
        let single = path.with_file_name("a.txt");
        std::fs::write(&single, "text").unwrap();
        assert_eq!(take(temp.path(), &spool, &single).unwrap().files.len(), 1);
        assert!(!single.exists() && entries(&temp.path().join("leaving")).is_empty());
    }

    #[test]
    fn what_was_copied_before_a_crash_is_not_sent_twice() {
        let temp = tempfile::tempdir().unwrap();
        let spool = spool(temp.path());
        let (outbox, leaving) = places(temp.path());
        let path = photos(&outbox.join("@bob"));
        // Killed when all but one are copied; the operator goes on meanwhile.
        let queue = what(&path, true);
        let taken = Leaving::take(&leaving, [7; 16], &queue.to, &path).unwrap();
        let mut copier = Copier::new(&spool, &queue, taken.path(), Some(taken.id()));
        copier.folder().unwrap();
        let last = copier.files.pop().unwrap();
        spool.remove("server", &last.offer.id.0).unwrap();
        photos(&outbox.join("@bob"));
        leaving::sweep(&leaving);
        let [(to, found)] = <[_; 1]>::try_from(leaving::taken(&leaving)).unwrap();
        assert_eq!((&to, found.as_path()), (&queue.to, taken.path()));
        let again = take(temp.path(), &spool, &found).unwrap();
        let ids =
            |queued: &Queued| queued.files.iter().map(|file| file.offer.id).collect::<Vec<_>>();
        assert_eq!(ids(&again), [last.offer.id]);
        assert!(entries(&leaving).is_empty() && spool.list().len() == 3);
        // Another of the same name is another.
        assert_eq!(take(temp.path(), &spool, &path).unwrap().files.len(), 3);
        // And what is sent by a command is sent as often as it is.
        let path = photos(temp.path());
        for _ in 0..2 {
            assert_eq!(send(&spool, &path).unwrap().files.len(), 3);
        }
    }

    #[test]
    fn killed_before_or_after_it_is_taken() {
        let temp = tempfile::tempdir().unwrap();
        let (_, leaving) = places(temp.path());
        // Before: it is still in the outbox.
        std::fs::create_dir_all(leaving.join("0".repeat(32)).join("what")).unwrap();
        // After: it is in the spool.
        std::fs::create_dir_all(leaving.join(format!("{}.done/what", "1".repeat(32)))).unwrap();
        assert!(leaving::taken(&leaving).is_empty());
        leaving::sweep(&leaving);
        assert!(entries(&leaving).is_empty());
    }

    #[test]
    fn what_was_changed_meanwhile_goes_back() {
        let temp = tempfile::tempdir().unwrap();
        let (outbox, leaving) = places(temp.path());
        let path = photos(&outbox.join("@bob"));
        let queue = what(&path, true);
        let taken = Leaving::take(&leaving, [7; 16], &queue.to, &path).unwrap();
        let (one, other) = (taken.path().join("a.jpg"), taken.path().join("2026/b.jpg"));
        let sent = [&one, &other].map(|path| Sent {
            path: path.clone(),
            stamp: Some(Source::open(path).unwrap().stamp()),
        });
        // Through handles that were opened before.
        std::fs::write(&one, "a later version").unwrap();
        std::fs::write(taken.path().join("new.jpg"), "new").unwrap();
        taken.done(&outbox, &queue.to, &sent);
        assert!(entries(&leaving).is_empty());
        assert_eq!(std::fs::read_to_string(path.join("a.jpg")).unwrap(), "a later version");
        assert!(path.join("new.jpg").exists() && !path.join("2026").exists());
    }

    #[test]
    fn what_would_be_lost_with_its_folder_keeps_it() {
        let temp = tempfile::tempdir().unwrap();
        let spool = spool(temp.path());
        let path = photos(&places(temp.path()).0.join("@bob"));
        symlink("a.jpg", path.join("link")).unwrap();
        assert!(take(temp.path(), &spool, &path).unwrap_err().contains("link"));
        assert!(path.join("link").is_symlink() && spool.list().is_empty());
    }

    #[test]
    fn copies_that_were_cut_are_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let spool = spool(temp.path());
        for from in ["server", "bob"] {
            let key = Key { from: from.to_owned(), id: [7; 16], size: 5000 };
            let mut incoming = Incoming::open(spool.parts(), &key).unwrap();
            incoming.write(0, &[1; 100]).unwrap();
            incoming.flush().unwrap();
        }
        assert_eq!(spool.used(), 10_000);
        spool.discard_parts(SERVER_MEMBER);
        assert_eq!(spool.used(), 5000, "a member may go on with it");
    }

    #[test]
    fn the_outbox_waits_until_nobody_touches_it() {
        let temp = tempfile::tempdir().unwrap();
        let outbox = temp.path().join("@bob");
        let path = photos(&outbox);
        symlink("photos", outbox.join("link")).unwrap();
        let changed = std::fs::symlink_metadata(path.join("2026/b.jpg")).unwrap().ctime();
        assert!(!is_settled(&path, changed - 1));
        assert!(is_settled(&path, changed + 10));
        assert!(scan(temp.path()).is_empty(), "too young");
        assert!(is_sendable(&path) && !is_sendable(&outbox.join("link")));
    }
}
