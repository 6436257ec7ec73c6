//! What lies in a folder that others may write to: reached from the folder on, step by step, through no link.
//! A path would be looked up anew each time, and whoever can exchange a folder in it by a link would choose
//! which file is read or removed.

use super::folder_of;
use super::source::{Source, Stamp};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A folder, by handle. All paths are from it on; what is in none of its folders, as `..`, is refused.
#[derive(Debug)]
pub struct Inside {
    folder: OwnedFd,
    number: u64,
}

impl Inside {
    /// Opens a folder; links that lead to it are followed, but not one that another user may have made.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let above = rustix::fs::openat(CWD, folder_of(folder), FOLDER, Mode::empty())?;
        let is_ours = rustix::fs::fstat(&above)?.st_uid == rustix::process::geteuid().as_raw();
        let flags = if is_ours { FOLDER } else { FOLDER | OFlags::NOFOLLOW };
        let name = folder.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = rustix::fs::openat(&above, name, flags, Mode::empty())?;
        let number = rustix::fs::fstat(&folder)?.st_ino;
        Ok(Self { folder, number })
    }

    /// What tells this folder from another that is found by its path later, as where a disk is not mounted.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Opens a file as [`Source::open`] does.
    ///
    /// # Errors
    /// The same.
    pub fn source(&self, path: &Path) -> io::Result<Source> {
        let (folder, name) = self.find(path)?;
        Source::open_in(&folder, name, path)
    }

    /// As [`Stamp::at`].
    ///
    /// # Errors
    /// The same.
    pub fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        let (folder, name) = self.find(path)?;
        Ok(Stamp::of_stat(&rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// Removes a file; a link, not what it leads to.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.unlink(path, AtFlags::empty())
    }

    /// Removes a folder that is empty.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.unlink(path, AtFlags::REMOVEDIR)
    }

    /// Makes durable what was removed in a folder, or in this one when `path` is empty.
    ///
    /// # Errors
    /// The operating system's, but for file systems that flush no folders.
    pub fn sync(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        super::faults::strike()?;
        match rustix::fs::fsync(self.folder(path)?) {
            Err(Errno::INVAL) => Ok(()),
            flushed => Ok(flushed?),
        }
    }

    fn unlink(&self, path: &Path, flags: AtFlags) -> io::Result<()> {
        let (folder, name) = self.find(path)?;
        Ok(rustix::fs::unlinkat(folder, name, flags)?)
    }

    fn find<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.folder(path.parent().unwrap_or_else(|| Path::new("")))?, name))
    }

    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        path.components().try_fold(self.folder.try_clone()?, |folder, part| match part {
            Component::Normal(name) => {
                Ok(rustix::fs::openat(&folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_is_followed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |path: &str| temp.path().join(path);
        for folder in ["box/photos/2026/empty", "state/empty"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("box/photos/2026/a.jpg"), "a").unwrap();
        fs::write(at("state/a.jpg"), "secret").unwrap();
        symlink("box", at("link")).unwrap();
        let inside = Inside::open(&at("link")).unwrap();
        assert_eq!(inside.number(), Inside::open(&at("box")).unwrap().number());
        let (file, empty) = (Path::new("photos/2026/a.jpg"), Path::new("photos/2026/empty"));
        assert_eq!(inside.source(file).unwrap().size(), 1);
        let there = Stamp::at(&at("box/photos/2026/a.jpg")).unwrap();
        assert_eq!(inside.stamp(file).unwrap(), there);
        // The folder becomes a link to one with a file of the same name.
        fs::rename(at("box/photos/2026"), at("box/photos/2027")).unwrap();
        symlink(at("state"), at("box/photos/2026")).unwrap();
        inside.source(file).unwrap_err();
        inside.stamp(file).unwrap_err();
        inside.remove_file(file).unwrap_err();
        inside.remove_folder(empty).unwrap_err();
        inside.sync(Path::new("photos/2026")).unwrap_err();
        assert!(at("state/a.jpg").exists() && at("state/empty").exists());
        fs::remove_file(at("box/photos/2026")).unwrap();
        fs::rename(at("box/photos/2027"), at("box/photos/2026")).unwrap();
        for beyond in ["../state/a.jpg", "photos/../../state/a.jpg", "/etc/passwd", ""] {
            inside.source(Path::new(beyond)).unwrap_err();
        }
        inside.remove_file(file).unwrap();
        inside.remove_folder(empty).unwrap();
        for folder in ["photos/2026", ""] {
            inside.sync(Path::new(folder)).unwrap();
        }
        assert!(!at("box/photos/2026/a.jpg").exists() && !at("box/photos/2026/empty").exists());
        assert!(inside.remove_folder(Path::new("photos")).is_err(), "it is not empty");
    }

    #[test]
    fn a_link_of_another_user_leads_nowhere() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let outbox = temp.path().join("outbox");
        fs::create_dir(&outbox).unwrap();
        symlink(temp.path(), outbox.join("@me")).unwrap();
        Inside::open(&outbox.join("@me")).unwrap();
        std::os::unix::fs::chown(&outbox, Some(1234), None).unwrap();
        Inside::open(&outbox.join("@me")).unwrap_err();
        fs::remove_file(outbox.join("@me")).unwrap();
        fs::create_dir(outbox.join("@me")).unwrap();
        Inside::open(&outbox.join("@me")).unwrap();
    }

    #[test]
    fn a_link_in_place_of_a_file() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("file"), "x").unwrap();
        symlink("file", temp.path().join("link")).unwrap();
        let inside = Inside::open(temp.path()).unwrap();
        let link = Path::new("link");
        assert!(inside.source(link).unwrap_err().to_string().ends_with("is a symbolic link"));
        assert_ne!(inside.stamp(link).unwrap(), inside.stamp(Path::new("file")).unwrap());
        inside.remove_file(link).unwrap();
        assert!(temp.path().join("file").exists());
        fs::create_dir(temp.path().join("folder")).unwrap();
        symlink("folder", temp.path().join("other")).unwrap();
        inside.remove_folder(Path::new("other")).unwrap_err();
        inside.sync(Path::new("other")).unwrap_err();
    }
}
