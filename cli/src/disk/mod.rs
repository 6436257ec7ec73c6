//! All of `std::fs` in the project: private files, written atomically, wiped for real.

pub mod digest;
pub mod folder;
pub mod folders;
mod have;
pub mod incoming;
pub mod inside;
mod manifest;
mod parts;
pub mod place;
pub mod receipt;
pub mod recent;
pub mod room;
pub mod source;
pub mod spool;
mod window;
pub mod wipe;

use crate::failure::{Exit, Failure, Outcome};
use rustix::fs::{Mode, OFlags};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Makes a folder, and what is missing above it, for its user alone.
///
/// # Errors
/// 73, or 78 when a folder that is there is open to others.
pub fn make_private_folder(path: &Path) -> Outcome<()> {
    if !path.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
            Failure::new(Exit::CannotWrite, format!("cannot make {}: {error}", path.display()))
        })?;
    }
    check_private(path)
}

/// Refuses what others may read or write, or what belongs to another user.
///
/// # Errors
/// 78, with the command that mends it; 66 when it is not there.
pub fn check_private(path: &Path) -> Outcome<()> {
    let meta = std::fs::symlink_metadata(path).map_err(|error| cannot_read(path, &error))?;
    let shown = path.display();
    if meta.file_type().is_symlink() {
        let what = format!("{shown} is a symbolic link");
        return Err(Failure::new(Exit::Config, what).advice("name the folder or file itself"));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let right = if meta.is_dir() { "700" } else { "600" };
        return Err(Failure::new(Exit::Config, format!("{shown} is open to others (0{mode:o})"))
            .advice(format!("chmod {right} {shown}")));
    }
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() != user && user != 0 {
        let what = format!("{shown} belongs to another user (uid {})", meta.uid());
        return Err(Failure::new(Exit::Config, what).advice("run as its owner"));
    }
    Ok(())
}

/// Reads a private file of ours: refused when it is more open than 0600.
///
/// # Errors
/// 66, 78.
pub fn read_private(path: &Path) -> Outcome<Zeroizing<Vec<u8>>> {
    check_private(path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty());
    let mut file = File::from(file.map_err(|error| cannot_read(path, &error.into()))?);
    let mut bytes = Zeroizing::new(Vec::new());
    let size = file.metadata().map_or(0, |meta| meta.len());
    // Room at once, so that growing leaves no copies behind.
    bytes.reserve(usize::try_from(size).unwrap_or(0) + 1);
    file.read_to_end(&mut bytes).map_err(|error| cannot_read(path, &error))?;
    Ok(bytes)
}

/// Reads a file that a person names, `-` being stdin, up to `limit` bytes and one more.
///
/// # Errors
/// 66.
pub fn read_input(path: &Path, limit: usize) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::with_capacity(limit + 1);
    let limit = limit as u64 + 1;
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| cannot_read(path, &error))?;
    Ok(bytes)
}

fn cannot_read(path: &Path, error: &io::Error) -> Box<Failure> {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NotPermitted,
        _ => Exit::NoSuchFile,
    };
    Failure::new(exit, format!("cannot read {}: {}", path.display(), plain(error)))
}

/// An error without the number that the operating system gives it.
#[must_use]
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// A failure to write.
#[must_use]
pub fn cannot_write(path: &Path, error: &io::Error) -> Box<Failure> {
    Failure::new(Exit::CannotWrite, format!("cannot write {}: {}", path.display(), plain(error)))
}

/// Writes a 0600 file whole or not at all: a temporary file beside it, flushed, renamed, the folder
/// flushed. With `replace` an older one makes way, else it is kept and this fails.
///
/// A failure means that it was not written: where flushing the folder fails, what is there counts.
///
/// # Errors
/// 73.
pub fn write_private(path: &Path, bytes: &[u8], replace: bool) -> Outcome<()> {
    open_written(path, bytes, replace).map(drop)
}

/// The same; the file, to append to.
///
/// # Errors
/// 73.
pub fn open_written(path: &Path, bytes: &[u8], replace: bool) -> Outcome<File> {
    write_atomic(path, bytes, replace).map_err(|error| {
        let failure = cannot_write(path, &error);
        match error.kind() {
            io::ErrorKind::AlreadyExists => failure.advice("name another file, or remove it"),
            _ => failure.advice("make room on that disk, or look whether it can be written to"),
        }
    })
}

fn write_atomic(path: &Path, bytes: &[u8], replace: bool) -> io::Result<File> {
    let folder = folder_of(path);
    let mut file = tempfile::Builder::new()
        .prefix(&temporary_prefix(path))
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(&folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    // Before it has its name: nothing is to fail between that and the flush of the folder.
    rustix::fs::fcntl_setfl(file.as_file(), OFlags::APPEND)?;
    let file = if replace { file.persist(path)? } else { file.persist_noclobber(path)? };
    match sync_folder(&folder) {
        // A flush that fails is told once, whatever it was of: the second may succeed. If not, the
        // rename took place all the same, and saying that it failed would be wrong.
        Err(error) if sync_folder(&folder).is_err() && !holds(path, bytes) => Err(error),
        Ok(()) | Err(_) => Ok(file),
    }
}

fn holds(path: &Path, bytes: &[u8]) -> bool {
    #[cfg(test)]
    if faults::strike().is_err() {
        return false;
    }
    std::fs::read(path).map(Zeroizing::new).is_ok_and(|there| **there == *bytes)
}

/// How names of temporary files begin. A crash leaves them, with secrets in them.
const TEMPORARY: &str = ".tmp-";

/// How the name of a temporary file begins that is to become this one.
fn temporary_prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A name has 255 bytes at most.
    let name: String = name.chars().take(50).collect();
    format!("{TEMPORARY}{name}-")
}

/// Wipes all temporary files that crashes left in a folder in which nobody else writes now.
///
/// # Errors
/// The first of the operating system's; the others are wiped all the same.
pub fn wipe_temporary(folder: &Path) -> io::Result<()> {
    wipe_beginning_with(folder, TEMPORARY)
}

/// Wipes the temporary files that were to become this one.
///
/// # Errors
/// The first of the operating system's; the others are wiped all the same.
pub fn wipe_temporary_of(path: &Path) -> io::Result<()> {
    wipe_beginning_with(&folder_of(path), &temporary_prefix(path))
}

fn wipe_beginning_with(folder: &Path, prefix: &str) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut done = Ok(());
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) && !entry.path().is_dir() {
            let wiped = wipe::wipe(&entry.path());
            done = done.and(wiped);
        }
    }
    done
}

/// Renames a file within its folder; false when it is not there. Durable once the folder is flushed.
///
/// # Errors
/// The operating system's.
pub fn rename(from: &Path, to: &Path) -> io::Result<bool> {
    match std::fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The folder that a path is in.
#[must_use]
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes durable what was made, renamed or removed in a folder.
///
/// # Errors
/// The operating system's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::strike()?;
    File::open(folder)?.sync_all()
}

/// Flushes that fail, in the test that asked for it.
#[cfg(test)]
pub(crate) mod faults {
    use core::cell::Cell;
    use std::io;

    thread_local! {
        /// How many go well first, and how many fail then.
        static FAIL: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    }

    /// The next `count` flushes fail.
    pub(crate) fn fail_syncs(count: u32) {
        fail_later(0, count);
    }

    /// After `well` more flushes, and looks at what was written, `count` fail.
    pub(crate) fn fail_later(well: u32, count: u32) {
        FAIL.set((well, count));
    }

    pub(crate) fn strike() -> io::Result<()> {
        match FAIL.get() {
            (_, 0) => Ok(()),
            (0, left) => {
                FAIL.set((0, left - 1));
                Err(io::Error::other("the disk is broken"))
            }
            (well, left) => {
                FAIL.set((well - 1, left));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_its_name_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for fails in [1, 2] {
            faults::fail_syncs(fails);
            write_private(&path, &[fails as u8], true).unwrap();
            assert_eq!(**read_private(&path).unwrap(), [fails as u8]);
        }
        let missing = folder.path().join("none").join("a");
        assert_eq!(write_private(&missing, b"x", true).unwrap_err().exit, Exit::CannotWrite);
        let mut file = open_written(&path, b"one", true).unwrap();
        file.write_all(b"two").unwrap();
        file.set_len(4).unwrap();
        file.write_all(b"three").unwrap();
        assert_eq!(**read_private(&path).unwrap(), *b"onetthree", "it appends");
    }

    #[test]
    fn only_what_a_crash_left_is_wiped() {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        let kept = [name("a.sec"), name("tmp-a"), name(".tmp")];
        let left = [name(".tmp-a.sec-1x"), name(".tmp-b-2y")];
        kept.iter().chain(&left).for_each(|path| std::fs::write(path, "x").unwrap());
        wipe_temporary_of(&name("a.sec")).unwrap();
        assert!(!left[0].exists() && left[1].exists());
        wipe_temporary(folder.path()).unwrap();
        assert!(!left[1].exists() && kept.iter().all(|path| path.exists()));
        let long = name(&"\u{10ffff}".repeat(60));
        assert!(temporary_prefix(&long).len() < 240);
    }

    #[test]
    fn private_whole_and_never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_private(&path, b"one", false).unwrap();
        assert_eq!(write_private(&path, b"two", false).unwrap_err().exit, Exit::CannotWrite);
        assert_eq!(**read_private(&path).unwrap(), *b"one");
        write_private(&path, b"two", true).unwrap();
        assert_eq!(**read_private(&path).unwrap(), *b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let failure = read_private(&path).unwrap_err();
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.to_string().contains("chmod 600"), "{failure}");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read_private(&path).unwrap_err().exit, Exit::NoSuchFile);
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert_eq!(read_private(&path).unwrap_err().exit, Exit::Config);
    }
}
