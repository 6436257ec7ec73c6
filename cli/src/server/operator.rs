//! What the operator sends: files and folders, by a command or through the outbox. Copied into the spool on a
//! thread of its own, so that a large one keeps nobody else's files waiting.

use super::files::News;
use super::run::Command;
use super::spooler::meta;
use crate::disk;
use crate::disk::folder::{Manifest, walk};
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
    outbox: PathBuf,
    errands: mpsc::Receiver<Errand>,
    remote: Remote<Command>,
) {
    std::thread::spawn(move || {
        // Copies that were cut: nobody goes on with them.
        spool.discard_parts(SERVER_MEMBER);
        while let Ok(errand) = errands.recv() {
            match errand {
                Errand::Queue(what) => {
                    let queued = queue(&spool, &what).map_err(|error| {
                        format!("cannot send {}: {}", what.path.display(), disk::plain(&error))
                    });
                    let news = News::Queued(what.path, queued, what.reply);
                    let _gone = remote.command(Command::File(news));
                }
                Errand::Scan => {
                    for (to, path) in scan(&outbox) {
                        let _gone = remote.command(Command::File(News::Found(to, path)));
                    }
                }
            }
        }
    });
}

/// Copies what the operator sends into the spool: all of it, or nothing.
fn queue(spool: &Spool, what: &Queue) -> io::Result<Queued> {
    let mut copier = Copier { spool, what, files: Vec::new(), sources: Vec::new() };
    let folder = std::fs::symlink_metadata(&what.path)?.is_dir();
    let left_out = if folder {
        copier.folder()
    } else {
        copier.id(&what.path).and_then(|id| copier.file(&what.path, id, None)).map(|()| Vec::new())
    };
    let files = copier.files;
    match left_out {
        Ok(left_out) => {
            if what.consume {
                take_away(&what.path, &copier.sources);
            }
            Ok(Queued { files, folder, left_out })
        }
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
    files: Vec<StoredFile>,
    /// Where they are.
    sources: Vec<PathBuf>,
}

/// Removes what was sent, and folders in which nothing is any more: what came meanwhile is sent next. What
/// can't be removed is sent again, which is better than lost.
fn take_away(path: &Path, sources: &[PathBuf]) {
    for source in sources {
        let _left = std::fs::remove_file(source);
    }
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

impl Copier<'_> {
    /// A folder: its list, and then its files. What of it is left out.
    fn folder(&mut self) -> io::Result<Vec<String>> {
        let walked = walk(&self.what.path)?;
        let left_out: Vec<String> = walked.skipped.iter().map(ToString::to_string).collect();
        if let (true, Some(first)) = (self.what.consume, left_out.first()) {
            // It would be gone with the folder.
            return Err(refused(&format!("it has something that is not sent: {first}")));
        }
        let sizes = walked.files.iter().map(|file| file.size);
        self.has_room(sizes.fold(0, u64::saturating_add))?;
        let ids = walked.files.iter().map(|file| self.id(&file.source));
        let ids = ids.collect::<io::Result<Vec<_>>>()?;
        let mut ids = ids.into_iter();
        let manifest = Manifest::of(&walked, || ids.next().unwrap_or_default());
        let list = manifest.encode();
        let name = format!("{}{LIST}", walked.name);
        let id = self.id(&self.what.path)?;
        let id = digest_id(&[&id, &list]);
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
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.filter(|name| is_file_name(name));
        let name = name.ok_or_else(|| refused("receivers take no file of this name"))?.to_owned();
        let source = Source::open(path)?;
        if size.is_some_and(|size| size != source.size()) {
            let what = format!("{} was changed since it was looked at", path.display());
            return Err(refused(&what));
        }
        self.add(name, source.size(), id, |incoming| copy(&source, incoming))?;
        self.sources.push(path.to_owned());
        Ok(())
    }

    /// The id of a file's offer. What is taken from the outbox has the same after a crash, so that what is
    /// in the spool already is not sent twice.
    fn id(&self, path: &Path) -> io::Result<[u8; 16]> {
        if !self.what.consume {
            return fresh_id();
        }
        let meta = std::fs::symlink_metadata(path)?;
        let of_file = [meta.dev(), meta.ino(), meta.size()].map(u64::to_be_bytes);
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        let times = times.map(i64::to_be_bytes);
        let to = self.what.to.to_string();
        let path = path.as_os_str().as_bytes();
        // A path holds no zero.
        Ok(digest_id(&[
            to.as_bytes(),
            &[0],
            path,
            &[0],
            of_file.as_flattened(),
            times.as_flattened(),
        ]))
    }

    fn has_room(&self, size: u64) -> io::Result<()> {
        match self.spool.room_for(size) {
            Room::Enough => Ok(()),
            Room::Missing { needs, has } => {
                Err(refused(&format!("the quota has {has} bytes left of {needs}")))
            }
        }
    }

    fn add(
        &mut self,
        name: String,
        size: u64,
        id: [u8; 16],
        fill: impl FnOnce(&mut Incoming) -> io::Result<[u8; 32]>,
    ) -> io::Result<()> {
        if self.spool.get(SERVER_MEMBER, &id).is_some_and(|there| there.size == size) {
            // Copied before a crash.
            return Ok(());
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
        Ok(())
    }
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

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path()).collect()
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

    fn send(spool: &Spool, path: &Path, consume: bool) -> Result<Queued, String> {
        let members = vec!["bob".to_owned()];
        let to = Recipient::Member("bob".to_owned());
        let what = Queue { to, members, path: path.to_owned(), consume, reply: None };
        queue(spool, &what).map_err(|error| error.to_string())
    }

    #[test]
    fn a_folder_is_its_list_and_then_its_files() {
        let temp = tempfile::tempdir().unwrap();
        let (spool, path) = (spool(temp.path()), photos(temp.path()));
        symlink("a.jpg", path.join("link")).unwrap();
        let Queued { files, folder, left_out } = send(&spool, &path, false).unwrap();
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
        let (spool, path) = (spool(temp.path()), photos(temp.path()));
        // Their bytes fit; with the least that each file takes they do not, which shows after some are copied.
        std::fs::write(path.join("z.bin"), vec![0; QUOTA as usize - 9000]).unwrap();
        let error = send(&spool, &path, true).unwrap_err();
        assert!(error.contains("quota"), "{error}");
        assert!(spool.list().is_empty() && spool.used() == 0);
        assert!(path.join("z.bin").exists(), "what was not sent stays");
        std::fs::remove_file(path.join("z.bin")).unwrap();
        assert!(send(&spool, &path, true).unwrap().left_out.is_empty());
        assert!(!path.exists() && spool.list().len() == 3);
    }

    #[test]
    fn what_was_copied_before_a_crash_is_not_sent_twice() {
        let temp = tempfile::tempdir().unwrap();
        let (spool, path) = (spool(temp.path()), photos(temp.path()));
        let members = vec!["bob".to_owned()];
        let to = Recipient::Member("bob".to_owned());
        let what = Queue { to, members, path: path.clone(), consume: true, reply: None };
        let mut copier =
            Copier { spool: &spool, what: &what, files: Vec::new(), sources: Vec::new() };
        copier.folder().unwrap();
        // Killed before it is taken away, with one that was not copied.
        let last = copier.files.pop().unwrap();
        spool.remove("server", &last.offer.id.0).unwrap();
        let again = queue(&spool, &what).unwrap();
        assert_eq!(
            again.files.iter().map(|file| file.offer.id).collect::<Vec<_>>(),
            [last.offer.id]
        );
        assert!(!path.exists() && spool.list().len() == 3);
        // Another of the same name is another.
        let path = photos(temp.path());
        assert_eq!(send(&spool, &path, true).unwrap().files.len(), 3);
        // And what is sent by a command is sent as often as it is.
        let path = photos(temp.path());
        for _ in 0..2 {
            assert_eq!(send(&spool, &path, false).unwrap().files.len(), 3);
        }
    }

    #[test]
    fn what_came_meanwhile_stays() {
        let temp = tempfile::tempdir().unwrap();
        let path = photos(temp.path());
        let sent = [path.join("a.jpg")];
        take_away(&path, &sent);
        assert!(!sent[0].exists() && !path.join("2026/empty").exists());
        assert!(path.join("2026/b.jpg").exists(), "nobody has sent it");
        take_away(&path, &[path.join("2026/b.jpg")]);
        assert!(!path.exists());
    }

    #[test]
    fn what_would_be_lost_with_its_folder_keeps_it() {
        let temp = tempfile::tempdir().unwrap();
        let (spool, path) = (spool(temp.path()), photos(temp.path()));
        symlink("a.jpg", path.join("link")).unwrap();
        assert!(send(&spool, &path, true).unwrap_err().contains("link"));
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
