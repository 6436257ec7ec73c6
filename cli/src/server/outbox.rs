//! What a crash must not cut in two while the operator's files go into the spool: a journal for each command
//! and each file or folder of the outbox (`sending/ID.json`).
//!
//! It says first what is being copied: a start that finds that removes the copies again, so that all of it is
//! sent or nothing. Then, in one step, what has been sent and is to be removed from the outbox: that goes on
//! until it is done, and nothing of it is sent a second time meanwhile.

use crate::disk::source::Stamp;
use crate::disk::spool::Spool;
use crate::disk::{plain, read_private, sync_folder, write_private};
use crate::failure::Outcome;
use clawchat_core::id::ChatId;
use clawchat_core::wire::json::{Json, Object};
use clawchat_core::wire::message::{SERVER_MEMBER, hex};
use std::io;
use std::path::{Path, PathBuf};

/// A journal of what is being copied.
#[derive(Debug)]
pub(super) struct Copying {
    path: PathBuf,
}

impl Copying {
    /// Files with these ids are about to be copied into the spool.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn begin(sending: &Path, name: ChatId, ids: &[[u8; 16]]) -> io::Result<Self> {
        let path = sending.join(format!("{name}.json"));
        let ids: Vec<Json> = ids.iter().map(|id| Json::from(hex(id))).collect();
        write(&path, &Object::new().with("schema", 1).with("copying", ids))?;
        Ok(Self { path })
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

    /// All of them are there, and stay; `files` of the outbox's `entry` are to be removed.
    ///
    /// # Errors
    /// The operating system's; then they are not sent.
    pub(super) fn take(
        &self,
        outbox: &Path,
        entry: &Path,
        files: Vec<(PathBuf, String)>,
    ) -> io::Result<Taking> {
        let taking = Taking { path: self.path.clone(), entry: entry.to_owned(), files };
        write(&self.path, &taking.encode(outbox).ok_or(io::ErrorKind::InvalidInput)?)?;
        Ok(taking)
    }

    /// None of them stays.
    pub(super) fn undo(&self, spool: &Spool, ids: &[[u8; 16]]) {
        let removed = ids.iter().all(|id| spool.remove(SERVER_MEMBER, id).is_ok());
        // Else the next start does it.
        if removed {
            let _left = std::fs::remove_file(&self.path);
        }
    }
}

/// What has been sent, and is being removed from the outbox.
#[derive(Debug)]
pub(super) struct Taking {
    path: PathBuf,
    /// The file or folder of the outbox.
    entry: PathBuf,
    /// Its files, with what they contained ([`Stamp::content`]).
    files: Vec<(PathBuf, String)>,
}

impl Taking {
    /// What it is of: that is not to be sent until this is done.
    pub(super) fn entry(&self) -> &Path {
        &self.entry
    }

    /// Removes what was sent, and folders in which nothing is any more. What was changed or came meanwhile
    /// stays, to be sent next.
    ///
    /// # Errors
    /// What can't be removed first, and why: it is to be tried again.
    pub(super) fn go_on(&self) -> Result<(), String> {
        let mut first = Ok(());
        for (path, content) in &self.files {
            let removed = remove_sent(path, content);
            first = first.and(removed);
        }
        first.and_then(|()| remove_empty(&self.entry)).and_then(|()| remove(&self.path))
    }

    /// Paths from the outbox on: it may be found elsewhere by the next process. `None` for what is no text,
    /// and would not have been sent.
    fn encode(&self, outbox: &Path) -> Option<Object> {
        let inside = |path: &Path| Some(path.strip_prefix(outbox).ok()?.to_str()?.to_owned());
        let file = |(path, content): &(PathBuf, String)| {
            let object = Object::new().with("path", inside(path)?);
            Some(Json::from(object.with("content", content.as_str())))
        };
        let files = self.files.iter().map(file).collect::<Option<Vec<_>>>()?;
        Some(
            Object::new()
                .with("schema", 1)
                .with("entry", inside(&self.entry)?)
                .with("files", files),
        )
    }

    fn parse(path: &Path, outbox: &Path, object: &Object) -> Option<Self> {
        let file = |item: &Json| match item {
            Json::Object(file) => {
                Some((outbox.join(file.text("path").ok()?), file.text("content").ok()?.to_owned()))
            }
            _ => None,
        };
        Some(Self {
            path: path.to_owned(),
            entry: outbox.join(object.text("entry").ok()?),
            files: object.list("files").ok()?.iter().map(file).collect::<Option<_>>()?,
        })
    }
}

/// Removes what processes before this one have copied, and did not come to an end with.
///
/// # Errors
/// The operating system's: nothing of it may be offered.
pub(super) fn undo(sending: &Path, spool: &Spool) -> io::Result<()> {
    for (path, object) in journals(sending)? {
        let Ok(ids) = object.list("copying") else { continue };
        for id in ids {
            if let Json::Text(id) = id
                && let Some(id) = ChatId::parse(id)
            {
                spool.remove(SERVER_MEMBER, &id.0)?;
            }
        }
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

/// What processes before this one have sent, and not wholly removed from the outbox.
pub(super) fn begun(sending: &Path, outbox: &Path) -> Vec<Taking> {
    let journals = journals(sending).unwrap_or_default();
    journals.iter().filter_map(|(path, object)| Taking::parse(path, outbox, object)).collect()
}

/// All journals that can be read. What a crash left of one that was being written is none.
fn journals(sending: &Path) -> io::Result<Vec<(PathBuf, Object)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(sending)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "json") {
            let bytes = read(&path)?;
            let damaged = |_| io::Error::other(format!("{} is damaged", path.display()));
            let object = Object::parse(&bytes).map_err(damaged)?;
            found.push((path, object));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    as_io(read_private(path)).map(|bytes| bytes.to_vec())
}

fn write(path: &Path, object: &Object) -> io::Result<()> {
    as_io(write_private(path, &object.encode(), true))
}

fn as_io<T>(outcome: Outcome<T>) -> io::Result<T> {
    outcome.map_err(|failure| io::Error::other(failure.what))
}

/// What is in a folder.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path()).collect()
}

fn stuck(path: &Path, error: &io::Error) -> String {
    format!(
        "{} is sent, but can't be removed: {}; nothing more is sent of it until it is gone",
        path.display(),
        plain(error)
    )
}

fn remove(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(stuck(path, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a file unless it is another by now.
fn remove_sent(path: &Path, content: &str) -> Result<(), String> {
    match Stamp::at(path) {
        Ok(now) if now.content() == content => remove(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(stuck(path, &error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Removes a folder and those in it if nothing else is in them. What is no folder, or not there, stays so.
///
/// # Errors
/// The first that is empty and can't be removed.
fn remove_empty(path: &Path) -> Result<(), String> {
    let (mut ahead, mut folders) = (vec![path.to_owned()], Vec::new());
    while let Some(folder) = ahead.pop() {
        if std::fs::symlink_metadata(&folder).is_ok_and(|meta| meta.is_dir()) {
            ahead.extend(entries(&folder));
            folders.push(folder);
        }
    }
    // Those within others first.
    for folder in folders.into_iter().rev() {
        match std::fs::remove_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                return Err(stuck(&folder, &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct World {
        temp: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let world = Self { temp: tempfile::tempdir().unwrap() };
            for folder in ["outbox/@bob/photos/2026/empty", "sending"] {
                fs::create_dir_all(world.path(folder)).unwrap();
            }
            fs::write(world.path("outbox/@bob/photos/a.jpg"), "a").unwrap();
            fs::write(world.path("outbox/@bob/photos/2026/b.jpg"), "b").unwrap();
            world
        }

        fn path(&self, inside: &str) -> PathBuf {
            self.temp.path().join(inside)
        }

        /// Both files are sent.
        fn taking(&self) -> Taking {
            let copying = Copying::begin(&self.path("sending"), ChatId([7; 16]), &[]).unwrap();
            let entry = self.path("outbox/@bob/photos");
            let files = ["a.jpg", "2026/b.jpg"].map(|path| entry.join(path)).map(|path| {
                let content = Stamp::at(&path).unwrap().content();
                (path, content)
            });
            copying.take(&self.path("outbox"), &entry, files.to_vec()).unwrap()
        }

        fn begun(&self) -> Vec<Taking> {
            begun(&self.path("sending"), &self.path("outbox"))
        }
    }

    #[test]
    fn what_was_sent_goes_wherever_it_was_interrupted() {
        let world = World::new();
        drop(world.taking());
        // Killed before the first, and again after it.
        fs::remove_file(world.path("outbox/@bob/photos/a.jpg")).unwrap();
        let [taking] = <[_; 1]>::try_from(world.begun()).unwrap();
        assert_eq!(taking.entry(), world.path("outbox/@bob/photos"));
        taking.go_on().unwrap();
        assert!(!world.path("outbox/@bob/photos").exists());
        assert!(world.begun().is_empty() && entries(&world.path("sending")).is_empty());
        taking.go_on().unwrap();
    }

    #[test]
    fn what_was_changed_or_came_meanwhile_stays() {
        use std::os::unix::fs::PermissionsExt;
        let world = World::new();
        let taking = world.taking();
        let (old, new) = (world.path("outbox/@bob/photos/a.jpg"), world.path("new"));
        // As long and as old as the other.
        fs::write(&new, "A").unwrap();
        let times = fs::metadata(&old).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&new).unwrap().set_modified(times).unwrap();
        fs::rename(&new, &old).unwrap();
        fs::write(world.path("outbox/@bob/photos/new.jpg"), "new").unwrap();
        // Permissions are no content.
        let sent = world.path("outbox/@bob/photos/2026/b.jpg");
        fs::set_permissions(&sent, fs::Permissions::from_mode(0o600)).unwrap();
        taking.go_on().unwrap();
        assert_eq!(fs::read_to_string(old).unwrap(), "A");
        assert!(world.path("outbox/@bob/photos/new.jpg").exists() && !sent.exists());
        assert!(!world.path("outbox/@bob/photos/2026").exists() && world.begun().is_empty());
    }

    #[test]
    fn what_can_not_be_removed_is_not_forgotten() {
        let world = World::new();
        let taking = world.taking();
        // A folder that nobody can list: root may remove whatever only permissions protect.
        let there = world.path("outbox/@bob/photos/2026/b.jpg");
        let inside = world.path("outbox/@bob/photos/2026");
        fs::rename(&there, world.path("b.jpg")).unwrap();
        fs::remove_dir_all(&inside).unwrap();
        std::os::unix::fs::symlink(&inside, &inside).unwrap();
        let why = taking.go_on().unwrap_err();
        assert!(why.contains("is sent, but can't be removed"), "{why}");
        assert_eq!(world.begun().len(), 1, "and so it is not sent again");
        fs::remove_file(&inside).unwrap();
        fs::create_dir(&inside).unwrap();
        fs::rename(world.path("b.jpg"), there).unwrap();
        world.begun()[0].go_on().unwrap();
        assert!(world.begun().is_empty() && !world.path("outbox/@bob/photos").exists());
    }

    #[test]
    fn a_journal_that_can_not_be_read_is_said() {
        let world = World::new();
        let spool = Spool::open(&world.path("spool"), 1 << 20).unwrap();
        drop(world.taking());
        undo(&world.path("sending"), &spool).unwrap();
        assert_eq!(world.begun().len(), 1, "nothing of it is undone");
        fs::write(world.path("sending/x.json"), "{").unwrap();
        undo(&world.path("sending"), &spool).unwrap_err();
    }
}
