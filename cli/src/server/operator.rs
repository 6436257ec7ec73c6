//! What the operator sends: files and folders, by a command or through the outbox. Copied into the spool on a
//! thread of its own, so that a large one keeps nobody else's files waiting.

mod plan;

use super::files::News;
use super::outbox::{Copying, Taking, entries};
use super::run::Command;
use crate::disk;
use crate::disk::spool::Spool;
use clawchat_core::id::ChatId;
use clawchat_core::server::StoredFile;
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{Recipient, SERVER_MEMBER};
use clawchat_mio::Remote;
use core::time::Duration;
use plan::{Copier, Plan, fresh_id, has_room};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Instant;

/// What lies in the outbox untouched for so long is whole.
const SETTLED: Duration = Duration::from_secs(2);
/// What fails is tried again after so many times what the attempt took: where it fails late, as on a broken disk,
/// its copies are not to be all that the server does.
const AGAIN: u32 = 10;
/// After so long at the latest.
const AGAIN_MAX: Duration = Duration::from_secs(3600);

/// Work for the thread.
#[derive(Debug)]
pub(super) enum Errand {
    /// Puts a file or folder into the spool.
    Queue(Queue),
    /// Looks into the outbox, and for these.
    Scan(Vec<PathBuf>),
}

/// A file or folder of the operator.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) to: Recipient,
    pub(super) members: Vec<String>,
    pub(super) path: PathBuf,
    /// It is taken from where it is: the outbox.
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
/// done away with at the next start. `taking` is what earlier processes left to be removed from the outbox.
pub(super) fn start(
    spool: Arc<Spool>,
    folder: &Path,
    taking: Vec<Taking>,
    errands: mpsc::Receiver<Errand>,
    remote: Remote<Command>,
) {
    let mut sender = Sender::new(spool, folder, taking);
    std::thread::spawn(move || {
        // Copies that were cut: nobody goes on with them.
        sender.spool.discard_parts(SERVER_MEMBER);
        let tell = |news| {
            let _gone = remote.command(Command::File(news));
        };
        while let Ok(errand) = errands.recv() {
            match errand {
                Errand::Queue(what) => {
                    let queued = match sender.queue(&what) {
                        Err(error) if what.consume && error.kind() == io::ErrorKind::WouldBlock => {
                            None
                        }
                        queued => Some(queued.map_err(|error| unsent(&what.path, &error))),
                    };
                    tell(News::Queued(what.path, queued, what.reply));
                }
                Errand::Scan(said) => {
                    for (path, why) in sender.go_on() {
                        tell(News::Stuck(path, why));
                    }
                    for found in sender.scan() {
                        tell(found);
                    }
                    let is_gone = |path: &PathBuf| std::fs::symlink_metadata(path).is_err();
                    tell(News::Scanned(said.into_iter().filter(is_gone).collect()));
                }
            }
        }
    });
}

fn unsent(path: &Path, error: &io::Error) -> String {
    format!("cannot send {}: {}", path.display(), disk::plain(error))
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
    /// What is not sent, of which copies are still to be removed.
    undoing: Vec<(PathBuf, Copying)>,
    /// What failed, and when it is tried again.
    again: BTreeMap<PathBuf, Instant>,
    /// The time, `unix_s`, before which what has settled was last changed.
    settled_before: fn() -> i64,
}

impl Sender {
    /// Of the state folder `folder`.
    fn new(spool: Arc<Spool>, folder: &Path, taking: Vec<Taking>) -> Self {
        let (outbox, sending) = (folder.join("outbox"), folder.join("sending"));
        let (undoing, again) = (Vec::new(), BTreeMap::new());
        Self { spool, outbox, sending, taking, undoing, again, settled_before }
    }

    /// Copies what the operator sends into the spool: all of it, or nothing; and takes it from the outbox.
    ///
    /// # Errors
    /// `WouldBlock` when somebody is still writing in it.
    fn queue(&mut self, what: &Queue) -> io::Result<Queued> {
        let started = Instant::now();
        let queued = self.copy(what);
        if what.consume && queued.is_err() {
            self.again.insert(what.path.clone(), Instant::now() + pause_after(started.elapsed()));
        }
        queued
    }

    fn copy(&mut self, what: &Queue) -> io::Result<Queued> {
        let before = self.settled_before;
        let settled = || match what.consume && !is_settled(&what.path, before())? {
            true => Err(io::Error::from(io::ErrorKind::WouldBlock)),
            false => Ok(()),
        };
        // Others may have been copied since it was found.
        settled()?;
        let plan = Plan::of(what)?;
        has_room(&self.spool, plan.sizes())?;
        let mut copier = Copier::new(&self.spool, what)?;
        let mut copying = Copying::begin(&self.sending, ChatId(fresh_id()?), plan.ids())?;
        let done = copier.all(&plan).and_then(|()| settled()).and_then(|()| {
            if !what.consume {
                return copying.keep().map(|()| None);
            }
            let taken = copier.taken(&plan).ok_or(io::ErrorKind::InvalidInput)?;
            copying.take(&self.outbox, taken).map(Some)
        });
        match done {
            Ok(taking) => {
                let files = copier.files;
                // At once; what can't be removed is tried again at the next look.
                self.taking.extend(taking.filter(|taking| taking.go_on(&self.spool).is_err()));
                Ok(Queued { files, folder: plan.list.is_some(), left_out: plan.left_out })
            }
            Err(error) => {
                if copying.undo(&self.spool).is_err() {
                    self.undoing.push((what.path.clone(), copying));
                }
                self.spool.discard_parts(SERVER_MEMBER);
                Err(error)
            }
        }
    }

    /// Goes on with what could not be ended; what that still is of, and why.
    fn go_on(&mut self) -> Vec<(PathBuf, String)> {
        let mut stuck = Vec::new();
        let mut still = |path: &Path, why| {
            stuck.push((path.to_owned(), why));
            true
        };
        self.taking.retain(|taking| {
            taking.go_on(&self.spool).is_err_and(|why| still(&taking.entry(), why))
        });
        self.undoing.retain(|(path, copying)| {
            copying.undo(&self.spool).is_err_and(|error| still(path, unsent(path, &error)))
        });
        stuck
    }

    /// The files and folders in the outbox that nobody has touched for a moment: `outbox/@member/NAME` and
    /// `outbox/#room/NAME`.
    fn scan(&mut self) -> Vec<News> {
        let (now, before) = (Instant::now(), (self.settled_before)());
        self.again.retain(|_, at| *at > now);
        let is_busy = |path: &PathBuf| {
            self.again.contains_key(path)
                || self.taking.iter().any(|taking| taking.entry() == *path)
                || self.undoing.iter().any(|(other, _)| other == path)
        };
        let stuck = |path: PathBuf, error: &io::Error| {
            let why = unsent(&path, error);
            News::Stuck(path, why)
        };
        let folders = match entries(&self.outbox) {
            Ok(folders) => folders,
            Err(error) => return vec![stuck(self.outbox.clone(), &error)],
        };
        let mut found = Vec::new();
        for folder in folders {
            let name = folder.file_name().and_then(|name| name.to_str());
            let Some(to) = name.and_then(Recipient::parse) else {
                let why = format!("{} is for nobody: folders are @NAME or #ROOM", folder.display());
                found.push(News::Stuck(folder, why));
                continue;
            };
            let paths = match entries(&folder) {
                Ok(paths) => paths,
                Err(error) => {
                    found.push(stuck(folder, &error));
                    continue;
                }
            };
            for path in paths.into_iter().filter(|path| !is_busy(path)) {
                match is_sendable(&path).and_then(|()| is_settled(&path, before)) {
                    Ok(true) => found.push(News::Found(to.clone(), path)),
                    Ok(false) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => found.push(stuck(path, &error)),
                }
            }
        }
        found
    }
}

/// How long after an attempt that took so long and failed there is another one.
fn pause_after(attempt: Duration) -> Duration {
    attempt.saturating_mul(AGAIN).min(AGAIN_MAX)
}

/// Refuses what is neither a file nor a folder.
fn is_sendable(path: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    if meta.is_file() || meta.is_dir() {
        return Ok(());
    }
    let what = if meta.is_symlink() { "it is a symbolic link" } else { "it is no regular file" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// The time, `unix_s`, before which what nobody touches any more was last changed.
fn settled_before() -> i64 {
    let now = clawchat_mio::clock::now().wall.secs();
    i64::try_from(now.saturating_sub(SETTLED.as_secs())).unwrap_or(i64::MAX)
}

/// Whether a file, or all that is in a folder, was last changed before a time, `unix_s`. By the change of its
/// inode: copies may keep the times of what they are copies of.
///
/// # Errors
/// What can't be looked at, but for what is gone.
fn is_settled(path: &Path, before: i64) -> io::Result<bool> {
    let mut ahead = vec![path.to_owned()];
    while let Some(path) = ahead.pop() {
        let meta = match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            meta => meta?,
        };
        if meta.ctime() >= before {
            return Ok(false);
        }
        if meta.is_dir() {
            ahead.extend(entries(&path)?);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::outbox::recover;
    use super::*;
    use crate::disk::faults::{fail_later, fail_syncs};
    use crate::disk::folder::Manifest;
    use crate::disk::incoming::{Incoming, Key};
    use std::fs;
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
                fs::create_dir_all(temp.path().join(folder)).unwrap();
            }
            let spool = Arc::new(Spool::open(&temp.path().join("spool"), QUOTA).unwrap());
            let mut sender = Sender::new(spool, temp.path(), Vec::new());
            sender.settled_before = || i64::MAX;
            Self { temp, sender }
        }

        fn path(&self, inside: &str) -> PathBuf {
            self.temp.path().join(inside)
        }

        /// A folder with two files and an empty folder.
        fn photos(&self, inside: &str) -> PathBuf {
            let photos = self.path(inside).join("photos");
            fs::create_dir_all(photos.join("2026/empty")).unwrap();
            fs::write(photos.join("a.jpg"), [1; 300]).unwrap();
            fs::write(photos.join("2026/b.jpg"), [2; 20]).unwrap();
            photos
        }

        fn send(&mut self, path: &Path, consume: bool) -> Result<Queued, String> {
            self.sender.queue(&what(path, consume)).map_err(|error| error.to_string())
        }

        /// Copies all of it, and is killed: before or after that is said.
        fn copy_and_die(&self, path: &Path, said: bool) {
            let queue = what(path, true);
            let plan = Plan::of(&queue).unwrap();
            let mut copying =
                Copying::begin(&self.path("sending"), ChatId([7; 16]), plan.ids()).unwrap();
            let mut copier = Copier::new(&self.sender.spool, &queue).unwrap();
            copier.all(&plan).unwrap();
            if said {
                copying.take(&self.path("outbox"), copier.taken(&plan).unwrap()).unwrap();
            }
        }

        fn kept(&self) -> usize {
            self.sender.spool.list().len()
        }

        /// Killed, and started again.
        fn restart(&mut self) {
            let spool = Spool::open(&self.path("spool"), QUOTA).unwrap();
            let taking = recover(&self.path("sending"), &self.path("outbox"), &spool).unwrap();
            self.sender = Sender::new(Arc::new(spool), self.temp.path(), taking);
            self.sender.settled_before = || i64::MAX;
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
        // Their bytes fit; with the least that each file takes they do not.
        fs::write(path.join("z.bin"), vec![0; QUOTA as usize - 9000]).unwrap();
        let error = world.send(&path, true).unwrap_err();
        assert!(error.contains("quota"), "{error}");
        assert!(world.kept() == 0 && world.sender.spool.used() == 0);
        assert!(path.join("z.bin").exists(), "what was not sent stays");
        assert!(entries(&world.path("sending")).unwrap().is_empty());
        fs::remove_file(path.join("z.bin")).unwrap();
        assert!(world.send(&path, true).unwrap().left_out.is_empty());
        assert!(!path.exists() && world.kept() == 3);
        let single = path.with_file_name("a.txt");
        fs::write(&single, "text").unwrap();
        assert_eq!(world.send(&single, true).unwrap().files.len(), 1);
        assert!(!single.exists() && entries(&world.path("sending")).unwrap().is_empty());
        world.restart();
        assert_eq!(world.kept(), 4);
    }

    /// All of it is sent and gone from the outbox, or nothing of it and all of it there.
    fn is_sent(world: &World, path: &Path) -> bool {
        let there = |inside| path.join(inside).exists();
        let there = ["a.jpg", "2026/b.jpg", "2026/empty"].map(there);
        match world.kept() {
            3 => assert_eq!((there, path.exists()), ([false; 3], false)),
            0 => assert_eq!((there, world.sender.spool.used()), ([true; 3], 0)),
            some => panic!("{some} are kept"),
        }
        assert!(entries(&world.path("sending")).unwrap().is_empty());
        world.kept() > 0
    }

    #[test]
    fn a_disk_that_fails_anywhere_sends_all_or_nothing() {
        let mut ends = [0; 2];
        for count in [1, 2, 3, 4, 6, 9, 1000] {
            for well in 0..10 {
                for is_killed in [false, true] {
                    let mut world = World::new();
                    let path = world.photos("outbox/@bob");
                    fail_later(well, count);
                    let told = world.send(&path, true).is_ok();
                    fail_syncs(0);
                    if is_killed {
                        world.restart();
                    }
                    assert_eq!(world.sender.go_on(), []);
                    let sent = is_sent(&world, &path);
                    // One that was not sure is sent by a start that finds that it was.
                    assert!(told == sent || (is_killed && sent), "{count} after {well}");
                    ends[usize::from(sent)] += 1;
                }
            }
        }
        assert!(ends[0] > 20 && ends[1] > 20, "{ends:?}");
    }

    #[test]
    fn what_is_not_yet_undone_is_not_sent() {
        let mut world = World::new();
        let path = world.photos("outbox/@bob");
        let found = |world: &mut World| {
            world.sender.again.clear();
            world.sender.scan().len()
        };
        assert_eq!(found(&mut world), 1);
        // All are stored; that they are sent can't be said, nor can they be removed.
        fail_later(4, 1000);
        world.send(&path, true).unwrap_err();
        assert_eq!((world.sender.go_on().len(), found(&mut world)), (1, 0));
        fail_syncs(0);
        assert_eq!(world.sender.go_on(), []);
        assert_eq!(found(&mut world), 1);
    }

    #[test]
    fn what_fails_waits_before_it_is_tried_again() {
        let mut world = World::new();
        let path = world.photos("outbox/@bob");
        fail_syncs(1000);
        world.send(&path, true).unwrap_err();
        fail_syncs(0);
        assert!(world.sender.again.contains_key(&path));
        let pauses = [0, 1, 3600, u64::MAX].map(|secs| pause_after(Duration::from_secs(secs)));
        assert_eq!(pauses.map(|pause| pause.as_secs()), [0, 10, 3600, 3600]);
        world.sender.again.insert(path.clone(), Instant::now() + AGAIN_MAX);
        assert!(world.sender.scan().is_empty());
        world.sender.again.insert(path, Instant::now());
        assert_eq!(world.sender.scan().len(), 1);
    }

    #[test]
    fn killed_while_it_is_copied_nothing_is_sent_of_it() {
        let mut world = World::new();
        let path = world.photos("outbox/@bob");
        let sending = world.path("sending");
        world.copy_and_die(&path, false);
        assert_eq!(world.kept(), 3);
        world.restart();
        assert!(world.kept() == 0 && entries(&sending).unwrap().is_empty());
        // It is in the outbox as before, and goes as a whole.
        assert_eq!(world.send(&path, true).unwrap().files.len(), 3);
        assert!(!path.exists() && world.kept() == 3);
    }

    #[test]
    fn what_is_sent_and_can_not_be_removed_is_not_sent_again() {
        let mut world = World::new();
        let path = world.photos("outbox/@bob");
        world.copy_and_die(&path, true);
        // Root may remove whatever only permissions protect: a loop of links can't be looked into by anybody.
        let inside = path.join("2026");
        fs::rename(&inside, world.path("2026")).unwrap();
        symlink(&inside, &inside).unwrap();
        world.restart();
        assert_eq!(world.kept(), 3, "it stays sent");
        for _ in 0..2 {
            let stuck = world.sender.go_on();
            assert_eq!(stuck.len(), 1);
            assert!(stuck[0].0 == path && world.sender.scan().is_empty());
        }
        fs::remove_file(&inside).unwrap();
        fs::rename(world.path("2026"), &inside).unwrap();
        assert!(world.sender.go_on().is_empty());
        assert!(
            !path.exists()
                && world.kept() == 3
                && entries(&world.path("sending")).unwrap().is_empty()
        );
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
        let mut world = World::new();
        let path = world.photos("outbox/@bob");
        symlink("photos", world.path("outbox/@bob/link")).unwrap();
        let changed = fs::symlink_metadata(path.join("2026/b.jpg")).unwrap().ctime();
        assert!(!is_settled(&path, changed).unwrap());
        assert!(is_settled(&path, changed + 1).unwrap());
        assert!(!is_settled(&path.join("gone"), changed).unwrap());
        world.sender.settled_before = || 0;
        // Too young; of what never goes the reason is told.
        let [News::Stuck(link, why)] = &world.sender.scan()[..] else { panic!("one never goes") };
        assert!(link.ends_with("link") && why.ends_with("it is a symbolic link"), "{why}");
        fs::create_dir(world.path("outbox/bob")).unwrap();
        fs::write(world.path("outbox/@eve"), "no folder").unwrap();
        let told = world.sender.scan();
        let told = told.iter().filter(|news| matches!(news, News::Stuck(..)));
        assert_eq!(told.count(), 3);
        // Nor is it sent if somebody goes on writing after it was found.
        let error = world.sender.queue(&what(&path, true)).unwrap_err();
        assert_eq!((error.kind(), world.kept()), (io::ErrorKind::WouldBlock, 0));
        assert!(is_sendable(&path).is_ok());
    }
}
