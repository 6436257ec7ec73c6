//! A list that outlives the process and stays short: a line for each entry, the newest last.

use super::{folder_of, make_private_folder, read_private, write_private};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Such a list on the disk. It is not flushed: a power failure may cost the last lines, and so may a full
/// disk.
#[derive(Debug)]
pub struct Recent {
    path: PathBuf,
    /// So many are kept when it is written anew.
    most: usize,
    lines: usize,
    is_good: fn(&str) -> bool,
}

impl Recent {
    /// The list at `path`, and its newest lines, `most` of those that `is_good`: none where it can't be
    /// read.
    #[must_use]
    pub fn open(path: PathBuf, most: usize, is_good: fn(&str) -> bool) -> (Self, Vec<String>) {
        let mut recent = Self { path, most, lines: 0, is_good };
        let (newest, whole) = recent.read().unwrap_or((Vec::new(), true));
        if !whole {
            // The next line must not be glued to what is left of this one.
            recent.rewrite();
        }
        (recent, newest)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest good lines, and whether the last one was written to its end.
    fn read(&mut self) -> Option<(Vec<String>, bool)> {
        let bytes = read_private(&self.path).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        self.lines = text.lines().count();
        let good = text.lines().rev().filter(|line| (self.is_good)(line)).take(self.most);
        let mut newest: Vec<_> = good.map(ToOwned::to_owned).collect();
        newest.reverse();
        Some((newest, text.is_empty() || text.ends_with('\n')))
    }

    /// Adds a line; whether the disk has taken it.
    pub fn note(&mut self, line: &str) -> bool {
        if self.lines >= 2 * self.most {
            self.rewrite();
        }
        let added = append(&self.path, line).is_ok();
        self.lines += usize::from(added);
        added
    }

    fn rewrite(&mut self) {
        // What can't be read now may be there all the same.
        let Some((newest, _)) = self.read() else { return };
        let text: String = newest.iter().map(|line| format!("{line}\n")).collect();
        if write_private(&self.path, text.as_bytes(), true).is_ok() {
            self.lines = newest.len();
        }
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    make_private_folder(&folder_of(path)).map_err(|e| io::Error::other(e.to_string()))?;
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).open(path)?;
    let before = file.metadata()?.len();
    file.write_all(format!("{line}\n").as_bytes()).inspect_err(|_| {
        // The next line must not be glued to a part of this one.
        let _left = file.set_len(before);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 50;

    fn open(path: &Path) -> (Recent, Vec<String>) {
        Recent::open(path.to_owned(), MOST, |line| line.len() == 4)
    }

    #[test]
    fn known_to_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("list");
        let (mut recent, none) = open(&path);
        assert!(none.is_empty());
        recent.note("0001");
        recent.note("0002");
        assert_eq!(open(&path).1, ["0001", "0002"]);
        std::fs::write(&path, "0001\n00").unwrap();
        let (mut recent, left) = open(&path);
        assert_eq!(left, ["0001"], "a line that was cut");
        recent.note("0003");
        assert_eq!(open(&path).1, ["0001", "0003"], "not glued to the line that was cut");
    }

    #[test]
    fn what_cannot_be_read_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("list");
        let (mut recent, _) = open(&path);
        (0..2 * MOST).for_each(|number| assert!(recent.note(&format!("{number:04}"))));
        // Reading fails there, and writing does not.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        recent.note("9999");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("list");
        let (mut recent, _) = open(&path);
        (0..=2 * MOST).for_each(|number| assert!(recent.note(&format!("{number:04}"))));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), MOST + 1);
        let newest = open(&path).1;
        assert_eq!((newest.len(), newest.last().unwrap().as_str()), (MOST, "0100"));
    }
}
