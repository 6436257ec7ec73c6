//! What a crash must not cut in two while the operator's files go into the spool: a journal for each command
//! and each file or folder of the outbox (`sending/ID.json`).
//!
//! It says first what is being copied: a start that finds that removes the copies again, so that all of it is
//! sent or nothing. Then, in one step, what has been sent and is to be removed from the outbox: that goes on
//! until it is done, and nothing of it is sent a second time meanwhile.

use crate::disk::inside::Inside;
use crate::disk::spool::{Spool, parse_sha256};
use crate::disk::{plain, read_private, sync_folder, write_private};
use crate::failure::Outcome;
use clawchat_core::id::ChatId;
use clawchat_core::wire::json::{Json, Object};
use clawchat_core::wire::message::{SERVER_MEMBER, hex};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// Of journals.
const SCHEMA: u64 = 1;

/// A journal of what is being copied.
#[derive(Debug)]
pub(super) struct Copying {
    path: PathBuf,
    ids: Vec<[u8; 16]>,
    /// It was to say that they are sent, and may say so.
    unsure: bool,
}

impl Copying {
    /// Files with these ids are about to be copied into the spool.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn begin(sending: &Path, name: ChatId, ids: Vec<[u8; 16]>) -> io::Result<Self> {
        let path = sending.join(format!("{name}.json"));
        let copying = Self { path, ids, unsure: false };
        copying.write().inspect_err(|_| {
            // It may be there all the same; nothing has been copied yet.
            let _left = std::fs::remove_file(&copying.path);
        })?;
        Ok(copying)
    }

    fn write(&self) -> io::Result<()> {
        let ids: Vec<Json> = self.ids.iter().map(|id| Json::from(hex(id))).collect();
        write(&self.path, &Object::new().with("schema", SCHEMA).with("copying", ids))
    }

    /// All of them are there, and stay.
    ///
    /// # Errors
    /// The operating system's; then they are not sent.
    pub(super) fn keep(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        // A failure is told once, whatever it was of: the second may succeed.
        let folder = self.path.parent().unwrap_or(&self.path);
        let _flushed = sync_folder(folder).or_else(|_| sync_folder(folder));
        Ok(())
    }

    /// All of them are there, and stay; what they were copied from is to be removed.
    ///
    /// # Errors
    /// The operating system's; then they are not sent.
    pub(super) fn take(&mut self, outbox: &Path, taken: Taken) -> io::Result<Taking> {
        let taking = Taking { path: self.path.clone(), folder: outbox.join(&taken.to), taken };
        let object = taking.taken.encode().ok_or(io::ErrorKind::InvalidInput)?;
        self.unsure = true;
        write(&self.path, &object)?;
        Ok(taking)
    }

    /// None of them stays.
    ///
    /// # Errors
    /// The operating system's: it is to be tried again, and what they are copies of may not be sent meanwhile.
    /// A process that starts finds either that they are sent, or that they are not.
    pub(super) fn undo(&self, spool: &Spool) -> io::Result<()> {
        if self.unsure {
            // Before the first copy goes: a start that read that they are sent would remove the originals.
            self.write()?;
        }
        spool.remove_all(SERVER_MEMBER, &self.ids)?;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// What has been sent of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// To whom: the name of the folder in the outbox. All paths are from that on.
    pub(super) to: String,
    /// Which folder that was ([`Inside::number`]).
    pub(super) number: u64,
    /// The file or folder.
    pub(super) entry: PathBuf,
    /// Its files.
    pub(super) files: Vec<Sent>,
    /// The folder and those in it, each after those in it.
    pub(super) folders: Vec<PathBuf>,
}

/// A file that has been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) path: PathBuf,
    /// [`crate::disk::source::Stamp::content`]. Where that is another, the SHA-256 decides: some file systems
    /// number their files anew each time.
    pub(super) content: String,
    /// Its size, bytes.
    pub(super) size: u64,
    pub(super) sha256: [u8; 32],
}

impl Taken {
    /// `None` for what is no text, and would not have been sent.
    fn encode(&self) -> Option<Object> {
        let text = |path: &PathBuf| path.to_str().map(ToOwned::to_owned);
        let file = |file: &Sent| {
            let object = Object::new()
                .with("path", text(&file.path)?)
                .with("content", file.content.as_str())
                .with("size", file.size)
                .with("sha256", hex(&file.sha256));
            Some(Json::from(object))
        };
        let folder = |path| text(path).map(Json::from);
        let files = self.files.iter().map(file).collect::<Option<Vec<_>>>()?;
        let folders = self.folders.iter().map(folder).collect::<Option<Vec<_>>>()?;
        Some(
            Object::new()
                .with("schema", SCHEMA)
                .with("to", self.to.as_str())
                .with("number", self.number.to_string())
                .with("entry", text(&self.entry)?)
                .with("files", files)
                .with("folders", folders),
        )
    }

    fn parse(object: &Object) -> Option<Self> {
        let path = |object: &Object, key| object.text(key).ok().map(PathBuf::from);
        let file = |item: &Json| match item {
            Json::Object(file) => Some(Sent {
                path: path(file, "path")?,
                content: file.text("content").ok()?.to_owned(),
                size: file.uint("size").ok()?,
                sha256: parse_sha256(file.text("sha256").ok()?)?,
            }),
            _ => None,
        };
        let folder = |item: &Json| match item {
            Json::Text(path) => Some(PathBuf::from(path)),
            _ => None,
        };
        Some(Self {
            to: object.text("to").ok()?.to_owned(),
            number: object.text("number").ok()?.parse().ok()?,
            entry: path(object, "entry")?,
            files: object.list("files").ok()?.iter().map(file).collect::<Option<_>>()?,
            folders: object.list("folders").ok()?.iter().map(folder).collect::<Option<_>>()?,
        })
    }
}

/// What has been sent, and is being removed from the outbox.
#[derive(Debug)]
pub(super) struct Taking {
    path: PathBuf,
    /// Of the outbox, that it is in.
    folder: PathBuf,
    taken: Taken,
}

impl Taking {
    /// What it is of: that is not to be sent until this is done.
    pub(super) fn entry(&self) -> PathBuf {
        self.folder.join(&self.taken.entry)
    }

    /// Removes what was sent, and of its folders those in which nothing is any more. What was changed or came
    /// meanwhile stays, to be sent next.
    ///
    /// # Errors
    /// What can't be removed first, and why: it is to be tried again.
    pub(super) fn go_on(&self, spool: &Spool) -> Result<(), String> {
        let Taken { number, files, folders, .. } = &self.taken;
        if matches!(self.path.try_exists(), Ok(false)) {
            // Somebody who was told how has decided that it is done.
            return Ok(());
        }
        let inside = match Inside::open(&self.folder) {
            Ok(inside) if inside.number() == *number => inside,
            // Of a disk that is not mounted nothing has been removed.
            Ok(_) => return Err(self.away("is another folder now")),
            Err(error) => return Err(self.away(&format!("can't be opened: {}", plain(&error)))),
        };
        // What is removed now must not turn out to be unsent after a power failure.
        let sending = self.path.parent().unwrap_or(&self.path);
        spool.sync().and_then(|()| sync_folder(sending)).map_err(|error| {
            let (entry, error) = (self.entry(), plain(&error));
            format!("{} is sent, but stays: the server's disk fails: {error}", entry.display())
        })?;
        let mut first = Ok(());
        for sent in files {
            let removed = remove_sent(&inside, sent)
                .map_err(|error| self.stuck(&self.folder.join(&sent.path), &error));
            first = first.and(removed);
        }
        first?;
        for path in folders {
            remove_empty(&inside, path)
                .map_err(|error| self.stuck(&self.folder.join(path), &error))?;
        }
        // Before it is forgotten: the outbox may be on another disk than this journal.
        let parents =
            files.iter().map(|sent| &sent.path).chain(folders).filter_map(|path| path.parent());
        for folder in parents.collect::<BTreeSet<_>>() {
            sync(&inside, folder).map_err(|error| self.stuck(&self.folder.join(folder), &error))?;
        }
        std::fs::remove_file(&self.path)
            .or_else(unless_gone)
            .map_err(|error| self.stuck(&self.path, &error))
    }

    fn away(&self, why: &str) -> String {
        format!(
            "{} is sent, but {} {why}: it is removed from there once that is as it was; to send what is there now, \
             remove {}",
            self.entry().display(),
            self.folder.display(),
            self.path.display()
        )
    }

    fn stuck(&self, path: &Path, error: &io::Error) -> String {
        format!(
            "{} is sent, but {} can't be removed: {}; nothing more is sent of it until it is gone",
            self.entry().display(),
            path.display(),
            plain(error)
        )
    }
}

/// Removes what processes before this one have copied, and did not come to an end with. Returns what they have
/// sent, and not wholly removed from the outbox.
///
/// # Errors
/// The operating system's, and for journals that say nothing: none of the copies may be offered.
pub(super) fn recover(sending: &Path, outbox: &Path, spool: &Spool) -> io::Result<Vec<Taking>> {
    let mut sent = Vec::new();
    for path in entries(sending)? {
        if path.extension().is_none_or(|end| end != "json") {
            continue;
        }
        match parse(&path, outbox)? {
            Journal::Copying(copying) => copying.undo(spool)?,
            Journal::Taking(taking) => sent.push(taking),
        }
    }
    Ok(sent)
}

enum Journal {
    Copying(Copying),
    Taking(Taking),
}

fn parse(path: &Path, outbox: &Path) -> io::Result<Journal> {
    let read = |bytes: &[u8]| {
        let object = Object::parse(bytes).ok()?;
        if object.uint("schema").ok()? != SCHEMA {
            return None;
        }
        let id = |item: &Json| match item {
            Json::Text(id) => ChatId::parse(id).map(|id| id.0),
            _ => None,
        };
        let path = path.to_owned();
        if let Some(taken) = Taken::parse(&object) {
            return Some(Journal::Taking(Taking { path, folder: outbox.join(&taken.to), taken }));
        }
        let ids = object.list("copying").ok()?.iter().map(id).collect::<Option<_>>()?;
        Some(Journal::Copying(Copying { path, ids, unsure: false }))
    };
    read(&as_io(read_private(path))?).ok_or_else(|| {
        io::Error::other(format!(
            "{} is damaged, or of a later version: use that, or move the file away; then what was being sent \
             when the server stopped may be sent a second time",
            path.display()
        ))
    })
}

fn write(path: &Path, object: &Object) -> io::Result<()> {
    as_io(write_private(path, &object.encode(), true))
}

fn as_io<T>(outcome: Outcome<T>) -> io::Result<T> {
    outcome.map_err(|failure| io::Error::other(failure.what))
}

/// What is in a folder.
///
/// # Errors
/// The operating system's.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Removes a file unless it is another by now.
fn remove_sent(inside: &Inside, sent: &Sent) -> io::Result<()> {
    let is_same = match inside.stamp(&sent.path) {
        Ok(now) if now.content() == sent.content => true,
        Ok(now) if now.size() != sent.size => false,
        Ok(_) => match inside.source(&sent.path) {
            Ok(source) => source.read_all(|_, _| Ok(()))? == sent.sha256,
            // A link, or what else is no file.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => false,
            Err(error) => return unless_gone(error),
        },
        Err(error) => return unless_gone(error),
    };
    if is_same { inside.remove_file(&sent.path).or_else(unless_gone) } else { Ok(()) }
}

/// Removes a folder if nothing is in it.
fn remove_empty(inside: &Inside, path: &Path) -> io::Result<()> {
    inside.remove_folder(path).or_else(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => Ok(()),
        _ => unless_gone(error),
    })
}

/// Flushes a folder; one that is gone is flushed with the one that it was in.
fn sync(inside: &Inside, folder: &Path) -> io::Result<()> {
    inside.sync(folder).or_else(|_| inside.sync(folder)).or_else(unless_gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faults::fail_later;
    use std::fs;

    struct World {
        temp: tempfile::TempDir,
        spool: Spool,
    }

    impl World {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let spool = Spool::open(&temp.path().join("spool"), 1 << 20).unwrap();
            let world = Self { temp, spool };
            for folder in ["outbox/@bob/photos/2026/empty", "sending"] {
                fs::create_dir_all(world.path(folder)).unwrap();
            }
            fs::write(world.photos("a.jpg"), "a").unwrap();
            fs::write(world.photos("2026/b.jpg"), "b").unwrap();
            world
        }

        fn path(&self, inside: &str) -> PathBuf {
            self.temp.path().join(inside)
        }

        fn photos(&self, inside: &str) -> PathBuf {
            self.path("outbox/@bob/photos").join(inside)
        }

        /// Both files are sent.
        fn taking(&self) -> Taking {
            let inside = Inside::open(&self.path("outbox/@bob")).unwrap();
            let files = ["photos/a.jpg", "photos/2026/b.jpg"].map(|path| {
                let source = inside.source(Path::new(path)).unwrap();
                let sha256 = source.read_all(|_, _| Ok(())).unwrap();
                let (content, size) = (source.stamp().content(), source.size());
                Sent { path: path.into(), content, size, sha256 }
            });
            let taken = Taken {
                to: "@bob".into(),
                number: inside.number(),
                entry: "photos".into(),
                files: files.to_vec(),
                folders: ["photos/2026/empty", "photos/2026", "photos"].map(PathBuf::from).into(),
            };
            let sending = self.path("sending");
            let mut copying = Copying::begin(&sending, ChatId([7; 16]), vec![[8; 16]]).unwrap();
            copying.take(&self.path("outbox"), taken).unwrap()
        }

        fn begun(&self) -> Vec<Taking> {
            recover(&self.path("sending"), &self.path("outbox"), &self.spool).unwrap()
        }
    }

    #[test]
    fn what_was_sent_goes_wherever_it_was_interrupted() {
        let world = World::new();
        let taken = world.taking().taken;
        // Killed before the first, and again after it.
        fs::remove_file(world.photos("a.jpg")).unwrap();
        let [taking] = <[_; 1]>::try_from(world.begun()).unwrap();
        assert_eq!((taking.entry(), &taking.taken), (world.path("outbox/@bob/photos"), &taken));
        taking.go_on(&world.spool).unwrap();
        assert!(!world.photos("").exists());
        assert!(world.begun().is_empty() && entries(&world.path("sending")).unwrap().is_empty());
        taking.go_on(&world.spool).unwrap();
    }

    #[test]
    fn what_was_changed_or_came_meanwhile_stays() {
        use std::os::unix::fs::PermissionsExt;
        let world = World::new();
        let taking = world.taking();
        let (old, new) = (world.photos("a.jpg"), world.path("new"));
        // As long and as old as the other.
        fs::write(&new, "A").unwrap();
        let times = fs::metadata(&old).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&new).unwrap().set_modified(times).unwrap();
        fs::rename(&new, &old).unwrap();
        fs::write(world.photos("new.jpg"), "new").unwrap();
        fs::create_dir(world.photos("2027")).unwrap();
        // Permissions are no content.
        let sent = world.photos("2026/b.jpg");
        fs::set_permissions(&sent, fs::Permissions::from_mode(0o600)).unwrap();
        taking.go_on(&world.spool).unwrap();
        assert_eq!(fs::read_to_string(old).unwrap(), "A");
        assert!(world.photos("new.jpg").exists() && world.photos("2027").exists());
        assert!(!sent.exists() && !world.photos("2026").exists() && world.begun().is_empty());
    }

    #[test]
    fn what_can_not_be_removed_is_not_forgotten() {
        let world = World::new();
        let taking = world.taking();
        // A folder that nobody can list: root may remove whatever only permissions protect.
        let inside = world.photos("2026");
        fs::rename(&inside, world.path("2026")).unwrap();
        std::os::unix::fs::symlink(world.path("2026"), &inside).unwrap();
        let why = taking.go_on(&world.spool).unwrap_err();
        assert!(why.contains("is sent, but"), "{why}");
        assert!(world.path("2026/b.jpg").exists(), "no link is followed");
        assert_eq!(world.begun().len(), 1, "and so it is not sent again");
        fs::remove_file(&inside).unwrap();
        fs::rename(world.path("2026"), &inside).unwrap();
        world.begun()[0].go_on(&world.spool).unwrap();
        assert!(world.begun().is_empty() && !world.photos("").exists());
    }

    #[test]
    fn what_is_the_same_under_another_number_goes_all_the_same() {
        let world = World::new();
        let taking = world.taking();
        for (path, content) in [("a.jpg", "a"), ("2026/b.jpg", "b")] {
            fs::write(world.photos("new"), content).unwrap();
            fs::rename(world.photos("new"), world.photos(path)).unwrap();
        }
        taking.go_on(&world.spool).unwrap();
        assert!(!world.photos("").exists());
    }

    #[test]
    fn nothing_is_removed_before_it_is_durable_that_it_is_sent() {
        let world = World::new();
        let taking = world.taking();
        for flushes in 0..2 {
            fail_later(flushes, 1);
            let why = taking.go_on(&world.spool).unwrap_err();
            assert!(why.contains("is sent, but stays"), "{why}");
            assert!(world.photos("a.jpg").exists() && world.photos("2026/b.jpg").exists());
        }
        taking.go_on(&world.spool).unwrap();
        assert!(!world.photos("").exists());
    }

    #[test]
    fn a_disk_that_is_not_there_keeps_what_was_sent_in_mind() {
        let world = World::new();
        let (taking, bob) = (world.taking(), world.path("outbox/@bob"));
        fs::rename(&bob, world.path("unmounted")).unwrap();
        let why = taking.go_on(&world.spool).unwrap_err();
        assert!(why.contains("can't be opened"), "{why}");
        // As the place of a mount is, without it.
        fs::create_dir(&bob).unwrap();
        let why = taking.go_on(&world.spool).unwrap_err();
        assert!(why.contains("another folder"), "{why}");
        fs::remove_dir(&bob).unwrap();
        fs::rename(world.path("unmounted"), &bob).unwrap();
        taking.go_on(&world.spool).unwrap();
        assert!(!world.photos("").exists() && world.begun().is_empty());
        // One that does not come back.
        fs::create_dir_all(world.photos("2026/empty")).unwrap();
        fs::write(world.photos("a.jpg"), "a").unwrap();
        fs::write(world.photos("2026/b.jpg"), "b").unwrap();
        let taking = world.taking();
        fs::rename(&bob, world.path("lost")).unwrap();
        fs::create_dir(&bob).unwrap();
        taking.go_on(&world.spool).unwrap_err();
        fs::remove_file(&taking.path).unwrap();
        taking.go_on(&world.spool).unwrap();
    }

    #[test]
    fn a_journal_that_says_nothing_is_said() {
        let world = World::new();
        drop(world.taking());
        assert_eq!(world.begun().len(), 1, "nothing of it is undone");
        let path = world.path("sending/x.json");
        for text in [
            "{",
            "{}",
            r#"{"schema":1}"#,
            r#"{"schema":2,"copying":[]}"#,
            r#"{"schema":1,"copying":["12"]}"#,
            r#"{"schema":1,"copying":[12]}"#,
            r#"{"schema":1,"to":"@bob","number":"x","entry":"a","files":[],"folders":[]}"#,
            r#"{"schema":1,"to":"@bob","number":"1","entry":"a","files":[{}],"folders":[]}"#,
        ] {
            write_private(&path, text.as_bytes(), true).unwrap();
            let error =
                recover(&world.path("sending"), &world.path("outbox"), &world.spool).unwrap_err();
            assert!(error.to_string().contains("x.json is damaged"), "{text}: {error}");
        }
        fs::remove_file(path).unwrap();
        assert_eq!(world.begun().len(), 1);
    }
}
