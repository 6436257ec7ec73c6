//! Giving a file its final name without ever taking one from another.

use super::{sync_folder, temporary_prefix};
use clawchat_core::wire::message::{FILE_NAME_MAX, is_file_name};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Names that are tried before giving up.
const TRIES: u32 = 10_000;

/// Renames a file; where the new name is taken, by anything, it fails and nothing happens.
///
/// # Errors
/// `AlreadyExists`, and the operating system's.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let here = rustix::fs::CWD;
    match rustix::fs::renameat_with(here, from, here, to, RenameFlags::NOREPLACE) {
        // The file system, or the kernel, can't do that.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_new(from, to),
        done => Ok(done?),
    }
}

/// The same by a second name, which never replaces either. A crash may leave both names.
fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)?;
    std::fs::remove_file(from)
}

/// Renames `from`, which nobody writes any more, to the first of `name`, `name (2)`, … that is free in
/// `folder`, with the number before the last extension; over to another disk if need be. Durable.
///
/// # Errors
/// `InvalidInput` for a name that [`is_file_name`] refuses, and the operating system's.
pub(super) fn place(from: &Path, folder: &Path, name: &str) -> io::Result<PathBuf> {
    let placed = match first_free(folder, name, numbered_file, |to| rename_new(from, to)) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(from, folder, name)?,
        placed => placed?,
    };
    flush(folder);
    Ok(placed)
}

/// Copies to a temporary file there, which then gets its name.
fn copy(from: &Path, folder: &Path, name: &str) -> io::Result<PathBuf> {
    let mut source = File::open(from)?;
    let mode = source.metadata()?.permissions().mode();
    let mut copy = tempfile::Builder::new()
        .prefix(&temporary_prefix(Path::new(name)))
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    io::copy(&mut source, copy.as_file_mut())?;
    set_mode(copy.as_file(), mode)?;
    copy.as_file().sync_all()?;
    let copy = copy.into_temp_path();
    let placed = first_free(folder, name, numbered_file, |to| rename_new(&copy, to))?;
    // Its name is gone already.
    drop(copy.keep());
    // The file is where it was wanted; one that stays behind is only too many, and is swept.
    let _left = std::fs::remove_file(from);
    Ok(placed)
}

/// Sets permissions where the file system has any.
pub(super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    match file.set_permissions(Permissions::from_mode(mode & 0o777)) {
        // The file is ours, so it is the file system that refuses: FAT, for one.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}

/// Has `make` make the first of `name`, `name (2)`, … in `folder` for which it does not say
/// `AlreadyExists`, and gives its path.
pub(super) fn first_free(
    folder: &Path,
    name: &str,
    numbered: fn(&str, u32) -> String,
    mut make: impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    if !is_file_name(name) {
        return Err(invalid(format!("{name:?} can't be the name of a received file")));
    }
    for number in 1..=TRIES {
        let path = folder.join(numbered(name, number));
        match make(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => return done.map(|()| path),
        }
    }
    let what = format!("{} has {TRIES} files named like {name:?}", folder.display());
    Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
}

/// `name`, or with a number over 1 `stem (number).extension`.
#[must_use]
pub fn numbered_file(name: &str, number: u32) -> String {
    let extension = name.rfind('.').filter(|dot| *dot > 0).map_or("", |dot| &name[dot..]);
    // One that leaves no room for the stem is none that anybody would miss at the end.
    let extension = if extension.len() <= FILE_NAME_MAX / 2 { extension } else { "" };
    numbered(&name[..name.len() - extension.len()], number, extension)
}

/// `name`, or with a number over 1 `name (number)`: a folder has no extension.
#[must_use]
pub fn numbered_folder(name: &str, number: u32) -> String {
    numbered(name, number, "")
}

fn numbered(stem: &str, number: u32, extension: &str) -> String {
    if number < 2 {
        return format!("{stem}{extension}");
    }
    let end = format!(" ({number}){extension}");
    let room = FILE_NAME_MAX.saturating_sub(end.len());
    format!("{}{end}", &stem[..stem.floor_char_boundary(room)])
}

/// Flushes a folder in which something has got its name. Should that fail, then what is there counts: to
/// call it a failure would be wrong.
fn flush(folder: &Path) {
    // A failure is told once, whatever it was of: the second may succeed.
    let _flushed = sync_folder(folder).or_else(|_| sync_folder(folder));
}

/// A caller's mistake, or a name that can't be.
pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faults;
    use quickcheck::{TestResult, quickcheck};
    use std::fs;

    quickcheck! {
        /// Numbers make other names, each of which a file may have, with the extension that it had.
        fn numbered_names_are_names(name: String, repeat: u8, number: u32) -> TestResult {
            let name = name.repeat(1 + usize::from(repeat));
            if !is_file_name(&name) {
                return TestResult::discard();
            }
            let (number, file) = (number.max(2), numbered_file);
            let good = [file(&name, number), numbered_folder(&name, number)].iter().all(|other| {
                is_file_name(other) && *other != name
            });
            TestResult::from_bool(good && file(&name, 1) == name && file(&name, number) != file(&name, number - 1))
        }
    }

    #[test]
    fn the_number_stands_before_the_extension() {
        for (name, second) in [
            ("a", "a (2)"),
            ("a.txt", "a (2).txt"),
            ("archive.tar.gz", "archive.tar (2).gz"),
            (".bashrc", ".bashrc (2)"),
            (".a.b", ".a (2).b"),
            ("a (2).txt", "a (2) (2).txt"),
        ] {
            assert_eq!(numbered_file(name, 2), second);
        }
        assert_eq!(numbered_folder("v1.2", 3), "v1.2 (3)");
        let long = format!("{}.txt", "é".repeat(125));
        let second = numbered_file(&long, 2);
        assert_eq!(second, format!("{}{} (2).txt", "é".repeat(123), ""));
        assert_eq!(second.len(), 254, "no half of a character fills the last byte");
        let odd = format!("a.{}", "x".repeat(253));
        assert_eq!(numbered_file(&odd, 2), format!("a.{} (2)", "x".repeat(249)));
    }

    #[test]
    fn never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        fs::write(name("b"), "theirs").unwrap();
        fs::create_dir(name("c")).unwrap();
        std::os::unix::fs::symlink("nowhere", name("d")).unwrap();
        for rename in [rename_new, link_new] {
            fs::write(name("a"), "ours").unwrap();
            for taken in ["b", "c", "d"] {
                let error = rename(&name("a"), &name(taken)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{taken}");
            }
            rename(&name("a"), &name("e")).unwrap();
            assert!(!name("a").exists());
            assert_eq!(fs::read(name("e")).unwrap(), b"ours");
            fs::remove_file(name("e")).unwrap();
        }
        assert_eq!(fs::read(name("b")).unwrap(), b"theirs");
    }

    #[test]
    fn the_first_that_is_free() {
        let folder = tempfile::tempdir().unwrap();
        for expected in ["a.txt", "a (2).txt", "a (3).txt"] {
            let from = folder.path().join("part");
            fs::write(&from, expected).unwrap();
            let placed = place(&from, folder.path(), "a.txt").unwrap();
            assert_eq!(placed, folder.path().join(expected));
            assert_eq!(fs::read_to_string(placed).unwrap(), expected);
        }
        let from = folder.path().join("part");
        fs::write(&from, "x").unwrap();
        for bad in ["../a", "", "nul", "a/b"] {
            let error = place(&from, folder.path(), bad).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        assert!(from.exists());
        assert!(place(&from, &folder.path().join("none"), "a").is_err() && from.exists());
    }

    #[test]
    fn over_to_another_disk() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = here.path().join("part");
        fs::write(there.path().join("a.txt"), "theirs").unwrap();
        fs::write(&from, "ours").unwrap();
        fs::set_permissions(&from, Permissions::from_mode(0o640)).unwrap();
        let placed = copy(&from, there.path(), "a.txt").unwrap();
        assert_eq!(placed, there.path().join("a (2).txt"));
        assert_eq!(fs::read(&placed).unwrap(), b"ours");
        assert_eq!(fs::metadata(&placed).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!from.exists());
        assert_eq!(fs::read_dir(there.path()).unwrap().count(), 2, "no temporary file stays");
    }

    #[test]
    fn what_got_its_name_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("part");
        fs::write(&from, "x").unwrap();
        faults::fail_syncs(2);
        assert!(place(&from, folder.path(), "a").unwrap().exists());
    }

    #[test]
    fn gives_up_some_day() {
        let folder = tempfile::tempdir().unwrap();
        let taken = |_: &Path| Err(io::ErrorKind::AlreadyExists.into());
        let error = first_free(folder.path(), "a", numbered_file, taken).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
