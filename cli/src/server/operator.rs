//! What the operator sends: files and folders, by a command or through the outbox. Copied into the spool on a
//! thread of its own, so that a large one keeps nobody else's files waiting.

use super::files::News;
use super::outbox::{self, Copying, Taking, entries};
use super::run::Command;
use super::spooler::meta;
use crate::disk;
use crate::disk::folder::{Manifest, WalkedFile, walk};
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
    folder: &Path,
    errands: mpsc::Receiver<Errand>,
    remote: Remote<Command>,
) {
    let mut sender = Sender::new(spool, folder);
    std::thread::spawn(move || {
        // Copies that were cut: nobody goes on with them.
        sender.spool.discard_parts(SERVER_MEMBER);
        while let Ok(errand) = errands.recv() {
            match errand {
                Errand::Queue(what) => {
                    let queued = sender.queue(&what).map_err(|error| {
                        format!("cannot send {}: {}", what.path.display(), disk::plain(&error))
                    });
                    let news = News::Queued(what.path, queued, what.reply);
                    let _gone = remote.command(Command::File(news));
                }
                Errand::Scan => {
                    for (path, why) in sender.go_on_taking() {
                        let _gone = remote.command(Command::File(News::Stuck(path, why)));
                    }
                    for (to, path) in sender.scan() {
                        let _gone = remote.command(Command::File(News::Found(to, path)));
                    }
                }
            }
        }
    });
}

/// Sends what the operator sends.
#[derive(Debug)]
struct Sender {
    spool: Arc<Spool>,
    outbox: PathBuf,
    /// Where journals lie.
    sending: PathBuf,
    /// What is sent, and not wholly removed from the outbox.
    taking: Vec<Taking>,
}

impl Sender {
    /// Of the state folder `folder`.
    fn new(spool: Arc<Spool>, folder: &Path) -> Self {
        let (outbox, sending) = (folder.join("outbox"), folder.join("sending"));
        let taking = outbox::begun(&sending, &outbox);
        Self { spool, outbox, sending, taking }
    }

    /// Copies what the operator sends into the spool: all of it, or nothing; and takes it from the outbox.
    fn queue(&mut self, what: &Queue) -> io::Result<Queued> {
        let plan = Plan::of(what)?;
        self.has_room(plan.size())?;
        let ids = plan.ids();
        let copying = Copying::begin(&self.sending, ChatId(fresh_id()?), &ids)?;
        let mut copier = Copier { spool: &self.spool, what, files: Vec::new(), copied: Vec::new() };
        let done = copier.all(&plan).and_then(|()| {
            if what.consume {
                let copied = core::mem::take(&mut copier.copied);
                copying.take(&self.outbox, &what.path, copied).map(Some)
            } else {
                copying.keep().map(|()| None)
            }
        });
        match done {
            Ok(taking) => {
                // At once; what can't be removed is tried again at the next look.
                self.taking.extend(taking.filter(|taking| taking.go_on().is_err()));
                let folder = plan.list.is_some();
                Ok(Queued { files: copier.files, folder, left_out: plan.left_out })
            }
            Err(error) => {
                copying.undo(&self.spool, &ids);
                self.spool.discard_parts(SERVER_MEMBER);
                Err(error)
            }
        }
    }

    fn has_room(&self, size: u64) -> io::Result<()> {
        has_room(&self.spool, size)
    }

    /// Goes on removing what was sent; what can't be removed, and why.
    fn go_on_taking(&mut self) -> Vec<(PathBuf, String)> {
        let mut stuck = Vec::new();
        self.taking.retain(|taking| match taking.go_on() {
            Ok(()) => false,
            Err(why) => {
                stuck.push((taking.entry().to_owned(), why));
                true
            }
        });
        stuck
    }

    /// The files and folders in the outbox that nobody has touched for a moment: `outbox/@member/NAME` and
    /// `outbox/#room/NAME`.
    fn scan(&self) -> Vec<(Recipient, PathBuf)> {
        let now = clawchat_mio::clock::now().wall.secs();
        let before = i64::try_from(now.saturating_sub(SETTLED.as_secs())).unwrap_or(i64::MAX);
        let is_sent = |path: &PathBuf| self.taking.iter().any(|taking| taking.entry() == path);
        let mut found = Vec::new();
        for folder in entries(&self.outbox) {
            let name = folder.file_name().and_then(|name| name.to_str());
            if let Some(to) = name.and_then(Recipient::parse) {
                let paths = entries(&folder).into_iter().filter(|path| !is_sent(path));
                let ready = |path: &PathBuf| is_sendable(path) && is_settled(path, before);
                found.extend(paths.filter(ready).map(|path| (to.clone(), path)));
            }
        }
        found
    }
}

fn has_room(spool: &Spool, size: u64) -> io::Result<()> {
    match spool.room_for(size) {
        Room::Enough => Ok(()),
        Room::Missing { needs, has } => {
            Err(refused(&format!("the quota has {has} bytes left of {needs}")))
        }
    }
}

/// What is to be copied.
#[derive(Debug)]
struct Plan {
    /// The list of a folder: its name, its content, and the id of its offer.
    list: Option<(String, Vec<u8>, [u8; 16])>,
    files: Vec<Planned>,
    /// What of a folder is not sent, and why.
    left_out: Vec<String>,
}

#[derive(Debug)]
struct Planned {
    path: PathBuf,
    id: [u8; 16],
    size: u64,
}

impl Plan {
    fn of(what: &Queue) -> io::Result<Self> {
        if std::fs::symlink_metadata(&what.path)?.is_dir() {
            return Self::of_folder(what);
        }
        name_of(&what.path)?;
        let (path, id) = (what.path.clone(), fresh_id()?);
        let size = Source::open(&path)?.size();
        Ok(Self { list: None, files: vec![Planned { path, id, size }], left_out: Vec::new() })
    }

    fn of_folder(what: &Queue) -> io::Result<Self> {
        let walked = walk(&what.path)?;
        let left_out: Vec<String> = walked.skipped.iter().map(ToString::to_string).collect();
        if let (true, Some(first)) = (what.consume, left_out.first()) {
            // It would stay behind for ever.
            return Err(refused(&format!("it has something that is not sent: {first}")));
        }
        let ids = walked.files.iter().map(|_| fresh_id()).collect::<io::Result<Vec<_>>>()?;
        let mut next = ids.iter().copied();
        let list = Manifest::of(&walked, || next.next().unwrap_or_default()).encode();
        let list = Some((format!("{}{LIST}", walked.name), list, fresh_id()?));
        let planned = |(file, id): (WalkedFile, _)| {
            let WalkedFile { source, size, .. } = file;
            Planned { path: source, id, size }
        };
        Ok(Self { list, files: walked.files.into_iter().zip(ids).map(planned).collect(), left_out })
    }

    /// Bytes of all that is in it.
    fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }

    fn ids(&self) -> Vec<[u8; 16]> {
        let list = self.list.iter().map(|(_, _, id)| *id);
        list.chain(self.files.iter().map(|file| file.id)).collect()
    }
}

struct Copier<'a> {
    spool: &'a Spool,
    what: &'a Queue,
    /// What is in the spool.
    files: Vec<StoredFile>,
    /// Where it was, and its content.
    copied: Vec<(PathBuf, String)>,
}

impl Copier<'_> {
    /// The list of a folder, and then its files.
    fn all(&mut self, plan: &Plan) -> io::Result<()> {
        if let Some((name, list, id)) = &plan.list {
            self.add(name.clone(), list.len() as u64, *id, |incoming| {
                incoming.write(0, list)?;
                Ok(Sha256::digest(list).into())
            })?;
        }
        plan.files.iter().try_for_each(|file| self.file(file))
    }

    fn file(&mut self, planned: &Planned) -> io::Result<()> {
        let Planned { path, id, size } = planned;
        let (name, source) = (name_of(path)?, Source::open(path)?);
        if *size != source.size() {
            let what = format!("{} was changed since it was looked at", path.display());
            return Err(refused(&what));
        }
        self.add(name, *size, *id, |incoming| copy(&source, incoming))?;
        self.copied.push((path.clone(), source.stamp().content()));
        Ok(())
    }

    fn add(
        &mut self,
        name: String,
        size: u64,
        id: [u8; 16],
        fill: impl FnOnce(&mut Incoming) -> io::Result<[u8; 32]>,
    ) -> io::Result<()> {
        has_room(self.spool, size)?;
        let from = SERVER_MEMBER.to_owned();
        let key = Key { from: from.clone(), id, size };
        // One that can't be filled is done away with by whoever asked for all of them.
        let mut incoming = Incoming::open(self.spool.parts(), &key)?;
        if let Room::Missing { needs, has } = incoming.reserve()? {
            return Err(refused(&format!("the disk has {has} bytes left of {needs}")));
        }
        let sha256 = fill(&mut incoming)?;
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

fn name_of(path: &Path) -> io::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| is_file_name(name));
    Ok(name.ok_or_else(|| refused("receivers take no file of this name"))?.to_owned())
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

    struct World {
        temp: tempfile::TempDir,
        sender: Sender,
    }

    impl World {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            for folder in ["outbox/@bob", "sending"] {
                std::fs::create_dir_all(temp.path().join(folder)).unwrap();
            }
            let spool = Arc::new(Spool::open(&temp.path().join("spool"), QUOTA).unwrap());
            let sender = Sender::new(spool, temp.path());
            Self { temp, sender }
        }

        fn path(&self, inside: &str) -> PathBuf {
            self.temp.path().join(inside)
        }

        /// A folder with two files and an empty folder.
        fn photos(&self, inside: &str) -> PathBuf {
            let photos = self.path(inside).join("photos");
            std::fs::create_dir_all(photos.join("2026/empty")).unwrap();
            std::fs::write(photos.join("a.jpg"), [1; 300]).unwrap();
            std::fs::write(photos.join("2026/b.jpg"), [2; 20]).unwrap();
            photos
        }

        fn send(&mut self, path: &Path, consume: bool) -> Result<Queued, String> {
            self.sender.queue(&what(path, consume)).map_err(|error| error.to_string())
        }

        fn kept(&self) -> usize {
            self.sender.spool.list().len()
        }

        /// Killed, and started again.
        fn restart(&mut self) {
            let spool = Spool::open(&self.path("spool"), QUOTA).unwrap();
            outbox::undo(&self.path("sending"), &spool).unwrap();
            self.sender = Sender::new(Arc::new(spool), self.temp.path());
        }
    }

    fn what(path: &Path, consume: bool) -> Queue {
        let members = vec!["bob".to_owned()];
        let to = Recipient::Member("bob".to_owned());
        Queue { to, members, path: path.to_owned(), consume, reply: None }
    }

    #[test]
    fn a_folder_is_its_list_and_then_its_files() {
        let mut world = World::new();
        let path = world.photos("");
        symlink("a.jpg", path.join("link")).unwrap();
        let Queued { files, folder, left_out } = world.send(&path, false).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.offer.name.as_str()).collect();
        assert!(folder && names[0] == "photos.clawchat-folder");
        assert_eq!(names[1..].iter().collect::<std::collections::BTreeSet<_>>().len(), 2);
        assert!(files.is_sorted_by(|a, b| a.stored_at < b.stored_at), "the list goes first");
        assert!(left_out.len() == 1 && left_out[0].contains("link"), "{left_out:?}");
        let list = world.sender.spool.open_data("server", &files[0].offer.id.0).unwrap();
        let mut bytes = vec![0; list.size() as usize];
        list.read_at(0, &mut bytes).unwrap();
        let list = Manifest::parse(&bytes).unwrap();
        assert_eq!(list.folders, ["2026/empty"]);
        let told: Vec<_> = list.files.iter().map(|file| (file.id, file.size)).collect();
        let sent: Vec<_> =
            files[1..].iter().map(|file| (file.offer.id.0, file.offer.size)).collect();
        assert_eq!(told, sent);
        assert!(path.is_dir() && world.kept() == 3);
    }

    #[test]
    fn all_or_nothing() {
        let mut world = World::new();
        let path = world.photos("outbox/@bob");
        // Their bytes fit; with the least that each file takes they do not, which shows after some are copied.
        std::fs::write(path.join("z.bin"), vec![0; QUOTA as usize - 9000]).unwrap();
        let error = world.send(&path, true).unwrap_err();
        assert!(error.contains("quota"), "{error}");
        assert!(world.kept() == 0 && world.sender.spool.used() == 0);
        assert!(path.join("z.bin").exists(), "what was not sent stays");
        assert!(entries(&world.path("sending")).is_empty());
        std::fs::remove_file(path.join("z.bin")).unwrap();
        assert!(world.send(&path, true).unwrap().left_out.is_empty());
        assert!(!path.exists() && world.kept() == 3);
        let single = path.with_file_name("a.txt");
        std::fs::write(&single, "text").unwrap();
        assert_eq!(world.send(&single, true).unwrap().files.len(), 1);
        assert!(!single.exists() && entries(&world.path("sending")).is_empty());
        world.restart();
        assert_eq!(world.kept(), 4);
    }

    #[test]
    fn killed_while_it_is_copied_nothing_is_sent_of_it() {
        let mut world = World::new();
        let path = world.photos("outbox/@bob");
        let queue = what(&path, true);
        let plan = Plan::of(&queue).unwrap();
        let sending = world.path("sending");
        drop(Copying::begin(&sending, ChatId([7; 16]), &plan.ids()).unwrap());
        let spool = Arc::clone(&world.sender.spool);
        let mut copier =
            Copier { spool: &spool, what: &queue, files: Vec::new(), copied: Vec::new() };
        copier.all(&plan).unwrap();
        assert_eq!(world.kept(), 3);
        world.restart();
        assert!(world.kept() == 0 && entries(&sending).is_empty());
        // It is in the outbox as before, and goes as a whole.
        assert_eq!(world.send(&path, true).unwrap().files.len(), 3);
        assert!(!path.exists() && world.kept() == 3);
    }

    #[test]
    fn what_is_sent_and_can_not_be_removed_is_not_sent_again() {
        let mut world = World::new();
        let path = world.photos("outbox/@bob");
        let queue = what(&path, true);
        let plan = Plan::of(&queue).unwrap();
        let copying = Copying::begin(&world.path("sending"), ChatId([7; 16]), &plan.ids()).unwrap();
        let spool = Arc::clone(&world.sender.spool);
        let mut copier =
            Copier { spool: &spool, what: &queue, files: Vec::new(), copied: Vec::new() };
        copier.all(&plan).unwrap();
        drop(copying.take(&world.path("outbox"), &path, copier.copied).unwrap());
        // Root may remove whatever only permissions protect: a loop of links can't be looked into by anybody.
        let inside = path.join("2026");
        std::fs::rename(&inside, world.path("2026")).unwrap();
        symlink(&inside, &inside).unwrap();
        world.restart();
        assert_eq!(world.kept(), 3, "it stays sent");
        for _ in 0..2 {
            let stuck = world.sender.go_on_taking();
            assert_eq!(stuck.len(), 1);
            assert!(stuck[0].0 == path && world.sender.scan().is_empty());
        }
        std::fs::remove_file(&inside).unwrap();
        std::fs::rename(world.path("2026"), &inside).unwrap();
        assert!(world.sender.go_on_taking().is_empty());
        assert!(!path.exists() && world.kept() == 3 && entries(&world.path("sending")).is_empty());
    }

    #[test]
    fn what_would_stay_behind_keeps_its_folder() {
        let mut world = World::new();
        let path = world.photos("outbox/@bob");
        symlink("a.jpg", path.join("link")).unwrap();
        assert!(world.send(&path, true).unwrap_err().contains("link"));
        assert!(path.join("a.jpg").exists() && world.kept() == 0);
    }

    #[test]
    fn copies_that_were_cut_are_forgotten() {
        let world = World::new();
        let spool = &world.sender.spool;
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
        let world = World::new();
        let path = world.photos("outbox/@bob");
        symlink("photos", world.path("outbox/@bob/link")).unwrap();
        let changed = std::fs::symlink_metadata(path.join("2026/b.jpg")).unwrap().ctime();
        assert!(!is_settled(&path, changed - 1));
        assert!(is_settled(&path, changed + 10));
        assert!(world.sender.scan().is_empty(), "too young");
        assert!(is_sendable(&path) && !is_sendable(&world.path("outbox/@bob/link")));
    }
}
