//! Which files lie in the server's inbox, or did: one that is offered again, since its sender did not
//! learn of it before a crash, is not taken twice.

use super::spool::Meta;
use super::{read_private, write_private};
use clawchat_core::limits::FILES_REMEMBERED;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A list of files, a line for each, the newest last. It is not flushed: a power failure may cost the
/// last ones, which are then taken twice.
#[derive(Debug)]
pub struct Received {
    path: PathBuf,
    lines: usize,
}

/// The newest lines that can be read, and how many there are in all. What can't be is taken again.
fn read(path: &Path) -> (Vec<Meta>, usize, bool) {
    let bytes = read_private(path).map_or_else(|_| Vec::new(), |bytes| bytes.to_vec());
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let count = lines.clone().count();
    let mut newest: Vec<_> = lines.rev().filter_map(Meta::parse).take(FILES_REMEMBERED).collect();
    newest.reverse();
    let whole = bytes.last().is_none_or(|last| *last == b'\n');
    (newest, count, whole)
}

impl Received {
    /// The list at `path`, and what it says.
    #[must_use]
    pub fn open(path: PathBuf) -> (Self, Vec<Meta>) {
        let (newest, lines, whole) = read(&path);
        let mut received = Self { path, lines };
        if !whole {
            // The next line must not be glued to what is left of this one.
            received.rewrite();
        }
        (received, newest)
    }

    /// A file lies in the inbox.
    pub fn note(&mut self, meta: &Meta) {
        if self.lines >= 2 * FILES_REMEMBERED {
            self.rewrite();
        }
        // A full disk costs a file taken twice, none that is lost.
        if append(&self.path, &meta.encode()).is_ok() {
            self.lines += 1;
        }
    }

    fn rewrite(&mut self) {
        let (newest, ..) = read(&self.path);
        let mut lines = Vec::new();
        for meta in &newest {
            lines.extend(meta.encode());
            lines.push(b'\n');
        }
        if write_private(&self.path, &lines, true).is_ok() {
            self.lines = newest.len();
        }
    }
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&[line, b"\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(number: usize) -> Meta {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        Meta {
            id,
            from: "ann".into(),
            name: "a\u{e9}".into(),
            size: 7,
            sha256: [3; 32],
            to: "@server".into(),
            recipients: vec![],
            stored_at: 9,
        }
    }

    #[test]
    fn known_to_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("received");
        let (mut received, none) = Received::open(path.clone());
        assert!(none.is_empty());
        received.note(&meta(1));
        received.note(&meta(2));
        assert_eq!(Received::open(path.clone()).1, [meta(1), meta(2)]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let (mut received, left) = Received::open(path.clone());
        assert_eq!(left, [meta(1)], "a line that was cut");
        received.note(&meta(3));
        assert_eq!(Received::open(path).1, [meta(1), meta(3)]);
    }

    #[test]
    fn is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("received");
        let (mut received, _) = Received::open(path.clone());
        for number in 0..=2 * FILES_REMEMBERED {
            received.note(&meta(number));
        }
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert_eq!(lines, FILES_REMEMBERED + 1);
        let newest = Received::open(path).1;
        assert_eq!(newest.len(), FILES_REMEMBERED);
        assert_eq!(newest.last(), Some(&meta(2 * FILES_REMEMBERED)));
    }
}
