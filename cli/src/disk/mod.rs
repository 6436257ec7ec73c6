//! All of `std::fs` in the project: private files, written atomically, wiped for real.

pub mod wipe;

use crate::failure::{Exit, Failure, Outcome};
use rustix::fs::{Mode, OFlags};
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What the names of drafts have after the file's own.
const DRAFT: &[u8] = b".tmp-";

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
/// # Errors
/// 73.
pub fn write_private(path: &Path, bytes: &[u8], replace: bool) -> Outcome<()> {
    write_atomic(path, bytes, replace).map_err(|error| {
        let failure = cannot_write(path, &error);
        match error.kind() {
            io::ErrorKind::AlreadyExists => failure.advice("name another file, or remove it"),
            _ => failure,
        }
    })
}

fn write_atomic(path: &Path, bytes: &[u8], replace: bool) -> io::Result<()> {
    let folder = folder_of(path);
    let mut file = tempfile::Builder::new()
        .prefix(&draft_prefix(path))
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(&folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    if replace {
        file.persist(path)?;
    } else {
        file.persist_noclobber(path)?;
    }
    sync_folder(&folder)
}

/// How the names of a file's drafts begin: what a crash leaves of them can be found by the file's name.
fn draft_prefix(path: &Path) -> OsString {
    let name = path.file_name().unwrap_or_default().as_bytes();
    // Room for the rest within the 255 bytes of a name.
    let name = &name[..name.len().min(200)];
    OsString::from_vec([b".", name, DRAFT].concat())
}

/// What crashes left of writing a file.
fn drafts(path: &Path) -> Vec<PathBuf> {
    let prefix = draft_prefix(path);
    drafts_in(&folder_of(path), |name| name.as_bytes().starts_with(prefix.as_bytes()))
}

fn drafts_in(folder: &Path, fits: impl Fn(&OsStr) -> bool) -> Vec<PathBuf> {
    // A folder that can't be listed has nothing to find.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| fits(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// Wipes what crashes left of writing files in a folder, in which nobody is writing now.
///
/// # Errors
/// 73.
pub fn wipe_drafts(folder: &Path) -> Outcome<()> {
    let is_draft = |name: &OsStr| {
        let name = name.as_bytes();
        name.starts_with(b".") && name.windows(DRAFT.len()).any(|part| part == DRAFT)
    };
    for draft in drafts_in(folder, is_draft) {
        wipe::wipe(&draft).map_err(|error| cannot_write(&draft, &error))?;
    }
    Ok(())
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
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

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
