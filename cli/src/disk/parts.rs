//! The folder of partial files: their names, their locks, and what is left of them.

use super::TEMPORARY;
use super::place::{invalid, set_mode};
use clawchat_core::id::ChatId;
use clawchat_core::wire::message::{hex, is_name};
use core::time::Duration;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Names a partial file (PROTOCOL 5.6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The member that sends it.
    pub from: String,
    /// The id of its offer.
    pub id: [u8; 16],
    /// Its size when whole, bytes.
    pub size: u64,
}

/// How the name of a partial file ends.
const PART: &str = ".part";
/// How the name of its sidecar ends.
const HAVE: &str = ".have";
/// How the name of its receipt ends.
const RECEIPT: &str = ".receipt";

impl Key {
    /// Paths of the partial file and of its sidecar.
    ///
    /// The name of a member may consist of dots, but not a name that goes on after it.
    pub(super) fn paths(&self, parts: &Path) -> io::Result<(PathBuf, PathBuf)> {
        Ok((self.path(parts, PART)?, self.path(parts, HAVE)?))
    }

    /// Path of its receipt.
    pub(super) fn receipt(&self, parts: &Path) -> io::Result<PathBuf> {
        self.path(parts, RECEIPT)
    }

    fn path(&self, parts: &Path, end: &str) -> io::Result<PathBuf> {
        if !is_name(&self.from) || i64::try_from(self.size).is_err() {
            return Err(invalid(format!("no file of {} bytes from {:?}", self.size, self.from)));
        }
        Ok(parts.join(format!("{}-{}-{}{end}", self.from, hex(&self.id), self.size)))
    }

    /// Reads the name of a partial file, or of a sidecar.
    fn parse(name: &str, end: &str) -> Option<Self> {
        let mut words = name.strip_suffix(end)?.rsplitn(3, '-');
        let (size, id, from) = (words.next()?, words.next()?, words.next()?);
        let key = Self { from: from.into(), id: ChatId::parse(id)?.0, size: size.parse().ok()? };
        // Only what would be written like that, so that each key has one file.
        (is_name(from) && key.size.to_string() == size).then_some(key)
    }
}

/// Opens a partial file for this program alone, and makes it where `make` says so.
///
/// # Errors
/// `WouldBlock` when another program, or another part of this one, has it.
pub(super) fn lock(part: &Path, make: bool) -> io::Result<File> {
    let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    flags.set(OFlags::CREATE, make);
    let taken = || {
        let what = format!("{} is being received already", part.display());
        io::Error::new(io::ErrorKind::WouldBlock, what)
    };
    // Between opening and locking it may be placed or swept, whereupon the lock is of no use.
    for _ in 0..10 {
        let file = File::from(rustix::fs::open(part, flags, Mode::RUSR | Mode::WUSR)?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(taken()),
            done => done?,
        }
        let (ours, named) = (file.metadata()?, std::fs::symlink_metadata(part));
        if !ours.is_file() {
            return Err(invalid(format!("{} is no regular file", part.display())));
        }
        if !named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
            continue;
        }
        if ours.nlink() == 1 {
            return Ok(file);
        }
        // It has another name: its final one, which it got by a link just before a crash. Nothing is to be
        // written into it any more.
        remove(part)?;
    }
    Err(taken())
}

/// The partial files in a folder, locked or not, in no order; none when there is no such folder.
///
/// # Errors
/// The operating system's.
pub fn kept(parts: &Path) -> io::Result<Vec<Key>> {
    Ok(names(parts)?.iter().filter_map(|name| Key::parse(name, PART)).collect())
}

/// Takes from all others the right to partial files that a crash left with the permissions that they were
/// about to have in their places.
///
/// # Errors
/// The operating system's.
pub fn make_private(parts: &Path) -> io::Result<()> {
    for key in kept(parts)? {
        match lock(&key.paths(parts)?.0, false) {
            // Whoever has it sees to it.
            Err(error) if is_any(&error, &[io::ErrorKind::WouldBlock, io::ErrorKind::NotFound]) => {
            }
            file => set_mode(&file?, 0o600)?,
        }
    }
    Ok(())
}

/// The receipts in a folder, in no order.
pub(super) fn receipts(parts: &Path) -> io::Result<Vec<Key>> {
    Ok(names(parts)?.iter().filter_map(|name| Key::parse(name, RECEIPT)).collect())
}

/// Removes partial files, with their sidecars, that nobody has touched for `older_than` and that are
/// not being received, and what a crash left of sidecars for as long; how many partial files.
///
/// # Errors
/// The first of the operating system's; the others are removed all the same.
pub fn sweep(parts: &Path, older_than: Duration) -> io::Result<usize> {
    let (mut swept, mut first) = (0, Ok(()));
    for name in names(parts)? {
        match sweep_one(parts, &name, older_than) {
            Ok(part) => swept += usize::from(part),
            Err(error) => first = first.and(Err(error)),
        }
    }
    first.map(|()| swept)
}

/// Removes one that is old; true for a partial file.
fn sweep_one(parts: &Path, name: &str, older_than: Duration) -> io::Result<bool> {
    if let Some(key) = Key::parse(name, PART) {
        let (part, have) = key.paths(parts)?;
        if !is_old(&part, older_than) || have.exists() && !is_old(&have, older_than) {
            return Ok(false);
        }
        let _locked = match lock(&part, false) {
            Err(error) if is_any(&error, &[io::ErrorKind::WouldBlock, io::ErrorKind::NotFound]) => {
                return Ok(false);
            }
            locked => locked?,
        };
        // First: without the partial file it would say that the file has its name.
        remove(&key.receipt(parts)?)?;
        remove(&part)?;
        return remove(&have).map(|()| true);
    }
    let of_none = Key::parse(name, HAVE)
        .or_else(|| Key::parse(name, RECEIPT))
        .is_some_and(|key| key.paths(parts).is_ok_and(|(part, _)| !part.exists()));
    let path = parts.join(name);
    if (of_none || name.starts_with(TEMPORARY)) && is_old(&path, older_than) {
        remove(&path)?;
    }
    Ok(false)
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_any(error: &io::Error, kinds: &[io::ErrorKind]) -> bool {
    kinds.contains(&error.kind())
}

/// Names that are text; no name of ours is none.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let name = |entry: io::Result<std::fs::DirEntry>| match entry {
        Ok(entry) => entry.file_name().into_string().ok().map(Ok),
        Err(error) => Some(Err(error)),
    };
    entries.filter_map(name).collect()
}

/// Whether a file was last written so long ago. One from the future was written just now.
pub(super) fn is_old(path: &Path, older_than: Duration) -> bool {
    age(path).is_some_and(|age| age >= older_than)
}

/// For how long nobody has written a file.
pub(super) fn age(path: &Path) -> Option<Duration> {
    let modified = std::fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::{TestResult, quickcheck};
    use std::fs;

    const HOUR: Duration = Duration::from_secs(3600);

    fn key(from: &str, size: u64) -> Key {
        Key { from: from.into(), id: [0xab; 16], size }
    }

    fn age(path: &Path, by: Duration) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }

    quickcheck! {
        fn a_name_for_each_key(from: String, id: u128, size: u64) -> TestResult {
            let key = Key { from, id: id.to_be_bytes(), size };
            let Ok((part, have)) = key.paths(Path::new("parts")) else {
                return TestResult::discard();
            };
            let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
            let inside = |path: &Path| path.parent() == Some(Path::new("parts"));
            TestResult::from_bool(
                inside(&part)
                    && inside(&have)
                    && Key::parse(&name(&part), PART).as_ref() == Some(&key)
                    && Key::parse(&name(&have), HAVE) == Some(key),
            )
        }
    }

    #[test]
    fn names() {
        let parts = Path::new("parts");
        for from in ["..", ".", "a-b", "-", ".tmp-a", "a.part"] {
            let key = key(from, 7);
            let part = key.paths(parts).unwrap().0;
            assert_eq!(part.parent(), Some(parts), "{from}");
            let name = part.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(name, format!("{from}-{}-7.part", "ab".repeat(16)));
            assert_eq!(Key::parse(&name, PART), Some(key));
        }
        for from in ["", "../x", "Ann", "a/b", &"a".repeat(65)] {
            assert!(key(from, 7).paths(parts).is_err(), "{from}");
        }
        assert!(key("ann", 1 << 63).paths(parts).is_err());
        let id = "ab".repeat(16);
        for bad in
            [format!("a-{id}-07"), format!("a-{id}-"), format!("a-{id}-+7"), format!("-{id}-7")]
        {
            assert_eq!(Key::parse(&format!("{bad}{PART}"), PART), None, "{bad}");
        }
    }

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("part");
        assert_eq!(lock(&part, false).unwrap_err().kind(), io::ErrorKind::NotFound);
        let first = lock(&part, true).unwrap();
        assert_eq!(first.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(lock(&part, true).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        fs::rename(&part, folder.path().join("placed")).unwrap();
        let second = lock(&part, true).unwrap();
        drop((first, second));
        fs::remove_file(&part).unwrap();
        std::os::unix::fs::symlink("placed", &part).unwrap();
        assert!(lock(&part, true).is_err(), "a link is not followed");
    }

    #[test]
    fn sweeps_what_is_old_and_free() {
        let folder = tempfile::tempdir().unwrap();
        let parts = folder.path();
        assert_eq!(sweep(&parts.join("none"), HOUR).unwrap(), 0);
        let paths: Vec<_> = (0..5).map(|size| key("ann", size).paths(parts).unwrap()).collect();
        for (part, have) in &paths {
            [part, have].into_iter().for_each(|path| fs::write(path, "x").unwrap());
            [part, have].into_iter().for_each(|path| age(path, 2 * HOUR));
        }
        let [old, young, locked, saved, gone] = &paths[..] else { unreachable!() };
        age(&young.0, HOUR / 2);
        age(&saved.1, HOUR / 2);
        fs::remove_file(&gone.0).unwrap();
        // Of a member with such a name, and of a crash.
        let strange = key(".tmp-a", 1).paths(parts).unwrap();
        let (theirs, temporary) = (parts.join("photo.jpg"), parts.join(".tmp-ann-x1y2"));
        for path in [&theirs, &temporary, &strange.0] {
            fs::write(path, "x").unwrap();
        }
        [&theirs, &temporary].into_iter().for_each(|path| age(path, 2 * HOUR));
        let _lock = lock(&locked.0, false).unwrap();
        assert_eq!(sweep(parts, HOUR).unwrap(), 1);
        assert!(!old.0.exists() && !old.1.exists() && !gone.1.exists() && !temporary.exists());
        for (part, have) in [young, locked, saved] {
            assert!(part.exists() && have.exists());
        }
        assert!(theirs.exists() && strange.0.exists());
        assert_eq!(kept(parts).unwrap().len(), 4);
        assert_eq!(sweep(parts, Duration::ZERO).unwrap(), 3, "all but the locked one");
        assert_eq!(kept(parts).unwrap(), [key("ann", 2)]);
        assert!(theirs.exists());
    }
}
