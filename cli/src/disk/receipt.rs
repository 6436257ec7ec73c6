//! Receipts: what has to be noted of a file that gets its final name. Written before the name is given,
//! and removed once it is noted elsewhere, so that a crash in between makes nobody take the file twice.
//!
//! It lies beside the partial file. While that is there too, the file has not got its name, and the
//! receipt says nothing; without it, the file has got its name. None is flushed: a power failure may cost
//! one, and then the file comes a second time.

use super::incoming::Key;
use super::parts;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest receipt, bytes.
const LIMIT: u64 = 64 * 1024;

/// One whose file has its name.
#[derive(Debug)]
#[must_use = "the file is taken a second time unless it is noted"]
pub struct Receipt {
    path: PathBuf,
}

impl Receipt {
    /// What it says is noted elsewhere.
    pub fn noted(self) {
        // One that stays is read again, for nothing.
        let _left = parts::remove(&self.path);
    }

    /// Its file did not get its name.
    pub(super) fn void(self) {
        // One that stays says nothing beside the partial file, and goes with it.
        let _left = parts::remove(&self.path);
    }
}

/// Writes the receipt of a file that is about to get its name.
pub(super) fn write(parts: &Path, key: &Key, note: &[u8]) -> io::Result<Receipt> {
    let path = key.receipt(parts)?;
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
    let receipt = Receipt { path };
    if let Err(error) = file.write_all(note) {
        receipt.void();
        return Err(error);
    }
    Ok(receipt)
}

/// Removes one that says nothing, since its file is still partial.
pub(super) fn forget(parts: &Path, key: &Key) -> io::Result<()> {
    parts::remove(&key.receipt(parts)?)
}

/// The receipts of files that have their names, with what is to be noted of them.
#[must_use]
pub fn of_placed(parts: &Path) -> Vec<(Key, Vec<u8>, Receipt)> {
    let keys = parts::receipts(parts).unwrap_or_default().into_iter();
    let placed = keys.filter(|key| key.paths(parts).is_ok_and(|(part, _)| is_placed(&part)));
    placed
        .filter_map(|key| {
            let path = key.receipt(parts).ok()?;
            let note = read(&path).ok()?;
            Some((key, note, Receipt { path }))
        })
        .collect()
}

/// Whether a partial file is none any more.
fn is_placed(part: &Path) -> bool {
    match std::fs::symlink_metadata(part) {
        // Its final name is a second one of it, where a file system can't rename without replacing.
        Ok(meta) if meta.nlink() > 1 => parts::remove(part).is_ok(),
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Not blocked by a pipe that stands in for it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut note = Vec::new();
    File::from(rustix::fs::open(path, flags, Mode::empty())?).take(LIMIT).read_to_end(&mut note)?;
    Ok(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_files_that_are_placed_only() {
        let folder = tempfile::tempdir().unwrap();
        let parts = folder.path();
        assert!(of_placed(&parts.join("none")).is_empty());
        let key = |id| Key { from: "ann".into(), id: [id; 16], size: 7 };
        let (partial, placed) = (key(1), key(2));
        std::fs::write(partial.paths(parts).unwrap().0, "x").unwrap();
        drop(write(parts, &partial, b"partial").unwrap());
        drop(write(parts, &placed, b"a longer note").unwrap());
        drop(write(parts, &placed, b"placed").unwrap());
        let [(found, note, receipt)] = <[_; 1]>::try_from(of_placed(parts)).unwrap();
        assert_eq!((found, note.as_slice()), (placed, &b"placed"[..]));
        receipt.noted();
        assert!(of_placed(parts).is_empty());
        // By a second name, the first of which a crash has left.
        let part = partial.paths(parts).unwrap().0;
        let name = parts.join("a.txt");
        std::fs::hard_link(&part, &name).unwrap();
        drop(parts::lock(&part, true).unwrap());
        assert_eq!(std::fs::read(&name).unwrap(), b"x");
        assert!(std::fs::read(&part).unwrap().is_empty(), "another");
        std::fs::remove_file(&part).unwrap();
        std::fs::hard_link(&name, &part).unwrap();
        assert_eq!(of_placed(parts).len(), 1);
        assert!(!part.exists() && name.exists());
        std::fs::write(&part, "x").unwrap();
        forget(parts, &partial).unwrap();
        std::fs::remove_file(partial.paths(parts).unwrap().0).unwrap();
        assert!(of_placed(parts).is_empty());
    }
}
