//! A file being sent: read by range, as often as ranges are lost, and watched for changes.

use super::place::invalid;
use core::fmt;
use rustix::fs::{Advice, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// A file being sent. What is read must be what its digest was made of, so it may not change meanwhile.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    opened: Stamp,
}

/// What changes with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of what lies at a path, and not of what a link there leads to.
    ///
    /// # Errors
    /// The operating system's.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&std::fs::symlink_metadata(path)?))
    }

    /// The same, told in another way.
    pub(super) fn of_stat(stat: &Stat) -> Self {
        // What it is of differs from one system to the other.
        let nanoseconds = |n| i64::try_from(n).unwrap_or_default();
        Self {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    /// Its size, bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What is the same as long as it is this file with this content, to be written down: other permissions
    /// or names change nothing.
    #[must_use]
    pub fn content(&self) -> String {
        let (seconds, nanoseconds) = self.modified;
        format!("{}-{}-{seconds}.{nanoseconds}", self.inode, self.size)
    }

    fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// How a file differs from what it was when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Its size.
    Size {
        /// When opened, bytes.
        was: u64,
        /// Now.
        is: u64,
    },
    /// It was written, or given other permissions or names; which of them can't be told.
    Time,
    /// Nothing can be said of it any more.
    Unknown(io::ErrorKind),
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { was, is } => write!(f, "it had {was} bytes and has {is} now"),
            Self::Time => f.write_str("it was changed while it was being sent"),
            Self::Unknown(kind) => write!(f, "it can't be looked at any more: {kind}"),
        }
    }
}

impl core::error::Error for Changed {}

impl Source {
    /// Opens a regular file. A symbolic link is refused: whoever can make one here would choose what is
    /// sent. So is what would block or never end: pipes, sockets, devices.
    ///
    /// # Errors
    /// `InvalidInput` for what is no regular file; the operating system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_in(rustix::fs::CWD, path.as_os_str(), path)
    }

    /// The same, of a name in a folder; `path` is what it is called.
    pub(super) fn open_in(folder: impl AsFd, name: &OsStr, path: &Path) -> io::Result<Self> {
        let is = |what: &str| invalid(format!("{} is {what}", path.display()));
        let flags = OFlags::RDONLY
            | OFlags::NOFOLLOW
            // A pipe without a writer is opened at once, and then refused.
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(is("a symbolic link")),
            Err(Errno::NXIO) => return Err(is("no regular file")),
            opened => File::from(opened?),
        };
        let meta = file.metadata()?;
        if let Some(what) = unfit(&meta) {
            return Err(is(what));
        }
        // Read ahead further; where that is refused, it is only slower.
        let _refused = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self { file, path: path.to_owned(), opened: Stamp::of(&meta) })
    }

    /// What it was when it was opened.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.opened
    }

    /// Its size when it was opened, bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.opened.size
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle to the very same file, for a digest.
    ///
    /// # Errors
    /// The operating system's.
    pub fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Fills the buffer with what is at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before; the operating system's.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let what = format!("{} became shorter", self.path.display());
                io::Error::new(io::ErrorKind::UnexpectedEof, what)
            }
            _ => error,
        })
    }

    /// Reads all of it in pieces, each given with its offset; its SHA-256.
    ///
    /// # Errors
    /// What [`Self::read_at`] or `take` returns.
    pub fn read_all(
        &self,
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<[u8; 32]> {
        let (mut hash, mut at, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
        while at < self.size() {
            let length = usize::try_from(self.size() - at).unwrap_or(PIECE).min(PIECE);
            self.read_at(at, &mut buffer[..length])?;
            hash.update(&buffer[..length]);
            take(at, &buffer[..length])?;
            at += length as u64;
        }
        Ok(hash.finalize().into())
    }

    /// Whether it still is what it was when it was opened: its size, and the times of its last change.
    ///
    /// # Errors
    /// What has changed.
    pub fn check(&self) -> Result<(), Changed> {
        let meta = self.file.metadata().map_err(|error| Changed::Unknown(error.kind()))?;
        let (was, is) = (self.opened, Stamp::of(&meta));
        if was == is {
            return Ok(());
        }
        Err(if was.size == is.size {
            Changed::Time
        } else {
            Changed::Size { was: was.size, is: is.size }
        })
    }
}

/// Why something can't be sent as a file.
pub(super) fn unfit(meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    if kind.is_file() {
        return None;
    }
    Some(match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "no regular file",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::FileType;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn reads_any_range_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "0123456789").unwrap();
        let source = Source::open(&path).unwrap();
        assert_eq!((source.size(), source.path()), (10, &*path));
        let mut buffer = [0; 4];
        for at in [6, 0, 3] {
            source.read_at(at, &mut buffer).unwrap();
            assert_eq!(buffer[0], b'0' + at as u8);
        }
        let error = source.read_at(7, &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().ends_with("a became shorter"), "{error}");
        source.read_at(10, &mut []).unwrap();
        assert!(source.read_at(u64::MAX, &mut buffer).is_err());
        fs::remove_file(&path).unwrap();
        source.reader().unwrap().read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"0123", "gone by name, and still there");
    }

    #[test]
    fn sees_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let open = || {
            fs::write(&path, "0123456789").unwrap();
            // Clocks of file systems tick slowly.
            File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            let source = Source::open(&path).unwrap();
            source.check().unwrap();
            source
        };
        let source = open();
        fs::write(&path, "01234").unwrap();
        let changed = source.check().unwrap_err();
        assert_eq!(changed, Changed::Size { was: 10, is: 5 });
        assert_eq!(changed.to_string(), "it had 10 bytes and has 5 now");
        let source = open();
        fs::write(&path, "9876543210").unwrap();
        assert_eq!(source.check(), Err(Changed::Time));
        let source = open();
        while source.check().is_ok() {
            // Seen once the clock of the file system has gone on.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert_eq!(source.check(), Err(Changed::Time));
        let source = open();
        fs::rename(&path, folder.path().join("b")).unwrap();
        fs::write(&path, "another").unwrap();
        assert_ne!(source.check(), Err(Changed::Size { was: 10, is: 7 }), "it is by handle");
    }

    #[test]
    fn regular_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        fs::write(name("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", name("link")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, name("pipe"), FileType::Fifo, mode, 0).unwrap();
        let _listener = UnixListener::bind(name("socket")).unwrap();
        fs::create_dir(name("folder")).unwrap();
        for (path, what) in [
            (name("link"), "a symbolic link"),
            (name("pipe"), "a pipe"),
            (name("socket"), "no regular file"),
            (name("folder"), "a folder"),
            ("/dev/null".into(), "a device"),
        ] {
            let error = Source::open(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().ends_with(&format!(" is {what}")), "{error}");
        }
        let missing = Source::open(&name("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert_eq!(Source::open(&name("file")).unwrap().size(), 1);
    }
}
