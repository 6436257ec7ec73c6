//! Wiping (PROTOCOL 7): overwrite, flush, unlink, flush the folder.

use super::{drafts, folder_of, sync_folder};
use std::fs::OpenOptions;
use std::io::{self, Seek, Write};
use std::path::Path;

/// Wipes a file, and what crashes left of writing it. One that is not there is wiped already; a
/// symbolic link is unlinked, not followed.
///
/// A file system that writes elsewhere (snapshots, journals, flash) may still hold old blocks.
///
/// # Errors
/// The operating system's; the file is unlinked even when it can't be overwritten.
pub fn wipe(path: &Path) -> io::Result<()> {
    // All of them, also when one fails.
    let drafts = drafts(path).iter().map(|draft| wipe_one(draft)).fold(Ok(()), Result::and);
    wipe_one(path).and(drafts)
}

fn wipe_one(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let overwritten = if meta.is_file() { overwrite(path, meta.len()) } else { Ok(()) };
    std::fs::remove_file(path)?;
    sync_folder(&folder_of(path))?;
    overwritten
}

fn overwrite(path: &Path, size: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let zeros = [0; 4096];
    let mut left = size;
    file.rewind()?;
    while left > 0 {
        let count = left.min(zeros.len() as u64);
        file.write_all(&zeros[..usize::try_from(count).unwrap_or(zeros.len())])?;
        left -= count;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overwrites_what_another_name_still_shows() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, [7; 5000]).unwrap();
        std::fs::hard_link(&path, &other).unwrap();
        let (draft, others) = (folder.path().join(".a.tmp-x1"), folder.path().join(".ab.tmp-x1"));
        std::fs::write(&draft, "x").unwrap();
        std::fs::write(&others, "x").unwrap();
        wipe(&path).unwrap();
        assert!(!path.exists() && !draft.exists() && others.exists());
        assert_eq!(std::fs::read(&other).unwrap(), [0; 5000]);
        wipe(&path).unwrap();
    }
}
