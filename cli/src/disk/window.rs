//! Joins small pieces of a file: a system call for each packet would cost more than the packet.

use clawchat_core::ranges::RangeSet;
use core::ops::Range;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a window.
pub(super) const WINDOW: u64 = 256 * 1024;

/// One stretch of a file, kept in memory with holes wherever nothing came yet.
///
/// It begins at a multiple of its size, so that pieces that come in any order within it, as they do from
/// a network, end up in one write.
#[derive(Debug, Default)]
pub(super) struct Window {
    base: u64,
    bytes: Vec<u8>,
    filled: RangeSet,
}

impl Window {
    /// Takes the beginning of a piece for a file of `size` bytes that begins in the window; how much.
    ///
    /// An empty window goes to where the piece is and takes something, another one may take nothing.
    pub(super) fn take(&mut self, offset: u64, piece: &[u8], size: u64) -> usize {
        if self.filled.is_empty() {
            self.base = offset - offset % WINDOW;
            // Only the window at the end of a file is shorter.
            let length = WINDOW.min(size.saturating_sub(self.base));
            self.bytes.resize(usize::try_from(length).unwrap_or(0), 0);
        }
        let room = self.slice(&(offset..self.end())).unwrap_or_default();
        let taken = piece.len().min(room.len());
        room[..taken].copy_from_slice(&piece[..taken]);
        self.filled.insert(offset..offset + taken as u64);
        taken
    }

    /// Writes what it holds; what could not be written stays. `done` hears of each range.
    pub(super) fn write_to(
        &mut self,
        file: &File,
        mut done: impl FnMut(Range<u64>),
    ) -> io::Result<()> {
        while let Some(range) = self.filled.take_first(WINDOW) {
            let bytes = self.slice(&range).unwrap_or_default();
            if let Err(error) = file.write_all_at(bytes, range.start) {
                self.filled.insert(range);
                return Err(error);
            }
            done(range);
        }
        Ok(())
    }

    /// Whether it holds any byte of a range.
    pub(super) fn overlaps(&self, range: Range<u64>) -> bool {
        self.filled.overlapping(range).next().is_some()
    }

    /// Whether there is no hole left.
    pub(super) fn is_full(&self) -> bool {
        self.filled.contains_range(self.base..self.end())
    }

    const fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    fn slice(&mut self, range: &Range<u64>) -> Option<&mut [u8]> {
        let place = |at: u64| usize::try_from(at.checked_sub(self.base)?).ok();
        let (start, end) = (place(range.start)?, place(range.end)?);
        self.bytes.get_mut(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_become_one_write() {
        let file = tempfile::tempfile().unwrap();
        let (mut window, mut writes) = (Window::default(), RangeSet::new());
        let base = 5 * WINDOW;
        for at in [base + 100, base, base + 200] {
            assert_eq!(window.take(at, &[7; 100], base + 300), 100);
        }
        assert!(window.is_full() && window.overlaps(base..base + 1));
        let mut count = 0;
        window
            .write_to(&file, |range| {
                count += 1;
                writes.insert(range);
            })
            .unwrap();
        assert!(count == 1 && writes.contains_range(base..base + 300));
        assert!(!window.overlaps(0..u64::MAX) && !window.is_full());
        let mut bytes = [0; 300];
        file.read_exact_at(&mut bytes, base).unwrap();
        assert_eq!(bytes, [7; 300]);
    }

    #[test]
    fn takes_what_fits_and_goes_on_when_empty() {
        let (mut window, size) = (Window::default(), 3 * WINDOW);
        assert_eq!(window.take(WINDOW - 10, &[1; 100], size), 10);
        assert_eq!(window.take(WINDOW, &[2; 90], size), 0, "another stretch");
        assert_eq!(window.take(3 * WINDOW, &[2; 90], size), 0);
        let file = tempfile::tempfile().unwrap();
        window.write_to(&file, drop).unwrap();
        assert_eq!(window.take(WINDOW, &[2; 90], size), 90);
        assert_eq!(window.take(WINDOW - 1, &[2; 1], size), 0, "before it");
    }

    #[test]
    fn what_a_full_disk_refuses_stays() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut window = Window::default();
        assert_eq!(window.take(0, b"piece", 100), 5);
        let error = window.write_to(&full, |_| unreachable!()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let file = tempfile::tempfile().unwrap();
        window.write_to(&file, drop).unwrap();
        let mut bytes = [0; 5];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"piece");
    }
}
