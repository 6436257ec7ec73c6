//! The sidecar of a partial file: which of its ranges are on the disk for sure.
//!
//! A text, that a person may look at: a line for the kind and the size, one for each range, and the
//! SHA-256 of all before it. What does not fit to the last byte holds nothing: to receive a range again
//! is cheap, to believe in one that is not there spoils the file.

use clawchat_core::ranges::RangeSet;
use clawchat_core::wire::message::hex;
use core::fmt::Write;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What the first line begins with.
const KIND: &str = "clawchat-have-1";
/// What the last line begins with.
const SUM: &str = "sha256 ";
/// Longest sidecar, bytes: room for more ranges than a transfer may have (PROTOCOL 5.6).
const LIMIT: u64 = 4 << 20;

/// Writes it whole or not at all, and durable.
pub(super) fn save(path: &Path, size: u64, ranges: &RangeSet) -> io::Result<()> {
    super::write_atomic(path, encode(size, ranges).as_bytes(), true).map(drop)
}

/// What the sidecar of a file of this size says; nothing if there is none, or it is damaged.
pub(super) fn load(path: &Path, size: u64) -> RangeSet {
    read(path).ok().and_then(|text| parse(&text, size)).unwrap_or_default()
}

fn read(path: &Path) -> io::Result<String> {
    // Not blocked by a pipe that stands in for it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut text = String::new();
    file.take(LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

fn encode(size: u64, ranges: &RangeSet) -> String {
    let mut text = format!("{KIND} {size}\n");
    for range in ranges.iter() {
        // Writing to a String can't fail.
        let _ok = writeln!(text, "{} {}", range.start, range.end);
    }
    let sum = Sha256::digest(&text);
    let _ok = writeln!(text, "{SUM}{}", hex(&sum));
    text
}

fn parse(text: &str, size: u64) -> Option<RangeSet> {
    let body = text.rfind(SUM).map(|at| &text[..at])?;
    let mut lines = body.lines();
    if lines.next()? != format!("{KIND} {size}") {
        return None;
    }
    let mut ranges = RangeSet::new();
    for line in lines {
        let (start, end) = line.split_once(' ')?;
        let (start, end) = (start.parse().ok()?, end.parse().ok()?);
        if end > size || !ranges.insert(start..end) {
            return None;
        }
    }
    // There is one text for these ranges, and it has to be this one, with its sum.
    (encode(size, &ranges) == text).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn set(starts: &[(u32, u8)]) -> (u64, RangeSet) {
        let mut ranges = RangeSet::new();
        for (start, length) in starts {
            ranges.insert(u64::from(*start)..u64::from(*start) + u64::from(*length));
        }
        (ranges.iter().last().map_or(0, |last| last.end), ranges)
    }

    quickcheck! {
        fn round_trip(starts: Vec<(u32, u8)>, more: u8) -> bool {
            let (end, ranges) = set(&starts);
            let size = end + u64::from(more);
            parse(&encode(size, &ranges), size) == Some(ranges)
        }

        fn any_other_byte_spoils_it(starts: Vec<(u32, u8)>, at: usize, with: u8) -> bool {
            let (size, ranges) = set(&starts);
            let text = encode(size, &ranges);
            let mut bytes = text.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = with;
            let spoilt = String::from_utf8_lossy(&bytes);
            spoilt == text || parse(&spoilt, size).is_none()
        }

        fn a_part_of_it_is_nothing(starts: Vec<(u32, u8)>, length: usize) -> bool {
            let (size, ranges) = set(&starts);
            let text = encode(size, &ranges);
            parse(&text[..length % text.len()], size).is_none()
        }

        fn arbitrary_text_never_panics(text: String, size: u64) -> bool {
            parse(&text, size).is_none() && parse(&format!("{KIND} {size}\n{text}{SUM}"), size).is_none()
        }
    }

    #[test]
    fn of_another_size_or_past_the_end() {
        let (_, ranges) = set(&[(0, 10), (20, 5)]);
        let text = encode(25, &ranges);
        assert_eq!(&text[..text.rfind(SUM).unwrap()], "clawchat-have-1 25\n0 10\n20 25\n");
        assert_eq!(parse(&text, 26), None);
        assert_eq!(parse(&encode(24, &ranges), 24), None);
    }

    #[test]
    fn saved_and_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.have");
        assert!(load(&path, 25).is_empty());
        let (_, ranges) = set(&[(0, 10), (20, 5)]);
        save(&path, 25, &ranges).unwrap();
        assert_eq!(load(&path, 25), ranges);
        std::fs::write(&path, [0xff; 10]).unwrap();
        assert!(load(&path, 25).is_empty());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(load(&path, 25).is_empty());
    }
}
