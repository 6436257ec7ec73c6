//! Room on the disk, asked for before it is needed.

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Bytes that files leave free, or a hundredth of the disk if that is less.
const MARGIN: u64 = 64 << 20;

/// Whether there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Enough,
    /// There is not.
    Missing {
        /// Bytes still to be stored.
        needs: u64,
        /// Bytes that there is room for.
        has: u64,
    },
}

impl Room {
    /// Whether `has` bytes are enough for `needs`.
    #[must_use]
    pub const fn between(needs: u64, has: u64) -> Self {
        if needs <= has { Self::Enough } else { Self::Missing { needs, has } }
    }
}

/// Reserves room for all of a file of `size` bytes, what it already holds included.
///
/// Its length stays as it is (`FALLOC_FL_KEEP_SIZE`): so the length still tells how much was written,
/// and what lists more than that is seen to be wrong. Where the file system reserves nothing, the space
/// that is free now is all that can be said.
///
/// # Errors
/// The operating system's; a full disk is none.
pub(super) fn reserve(file: &File, size: u64) -> io::Result<Room> {
    let meta = file.metadata()?;
    // The unit of `blocks` is 512 bytes, whatever the file system's own.
    let needs = size.saturating_sub(meta.blocks().saturating_mul(512));
    // Asked first: a reservation that fails midway would have taken all that was left from everybody.
    let room = Room::between(needs, free(file)?);
    if size == 0 || room != Room::Enough {
        return Ok(room);
    }
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
            Ok(()) => return Ok(room),
            Err(Errno::INTR) => {}
            Err(error) => return refused(file, meta.len(), needs, error),
        }
    }
}

/// What a refused reservation means for a file of this length.
fn refused(file: &File, length: u64, needs: u64, error: Errno) -> io::Result<Room> {
    match error {
        // The file system has no reservations, and there was space just now.
        Errno::OPNOTSUPP | Errno::NOSYS => Ok(Room::Enough),
        Errno::NOSPC | Errno::DQUOT => {
            // Somebody was faster, or has a quota: gives back what lies past the end.
            file.set_len(length)?;
            // A quota, unlike the disk, may show more free space than there is for this user.
            Ok(Room::Missing { needs, has: free(file)?.min(needs.saturating_sub(1)) })
        }
        error => Err(error.into()),
    }
}

/// Bytes that are free on the file's disk for files that others send.
fn free(file: &File) -> io::Result<u64> {
    let disk = rustix::fs::fstatvfs(file)?;
    // Some network file systems do not tell.
    let told = disk.f_blocks > 0;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Ok(if told { usable(bytes(disk.f_bavail), bytes(disk.f_blocks)) } else { u64::MAX })
}

/// What files may take of so many free bytes of a disk: chats and keys have to be stored too, whatever
/// somebody sends.
fn usable(free: u64, disk: u64) -> u64 {
    free.saturating_sub(MARGIN.min(disk / 100))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;

    #[test]
    fn reserves_and_keeps_the_length() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"held").unwrap();
        assert_eq!(reserve(&file, 1 << 20).unwrap(), Room::Enough);
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), 4);
        assert!(meta.blocks() * 512 >= 1 << 20, "the disk has set it aside");
        assert_eq!(reserve(&file, 1 << 20).unwrap(), Room::Enough, "again");
        assert_eq!(reserve(&file, 0).unwrap(), Room::Enough);
    }

    #[test]
    fn files_leave_something_free() {
        assert_eq!(usable(10 << 30, 100 << 30), (10 << 30) - MARGIN);
        assert_eq!(usable(MARGIN, 100 << 30), 0);
        assert_eq!(usable(1000, 100 << 30), 0);
        assert_eq!(usable(1 << 20, 10 << 20), (1 << 20) - (10 << 20) / 100, "a small one");
    }

    #[test]
    fn more_than_any_disk_has() {
        let file = tempfile::tempfile().unwrap();
        let Room::Missing { needs, has } = reserve(&file, 1 << 52).unwrap() else {
            unreachable!("no disk has 4 PiB free")
        };
        assert!(needs == 1 << 52 && has < needs, "{needs} {has}");
        assert_eq!(file.metadata().unwrap().blocks(), 0, "nothing is taken for it");
    }

    #[test]
    fn a_file_system_without_reservations() {
        // One that every Linux has.
        let file = OpenOptions::new().write(true).open("/proc/self/comm").unwrap();
        assert_eq!(
            rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 9),
            Err(Errno::OPNOTSUPP)
        );
        assert_eq!(reserve(&file, 9).unwrap(), Room::Enough);
    }

    #[test]
    fn a_reservation_that_came_too_late_is_given_back() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"held").unwrap();
        assert_eq!(reserve(&file, 1 << 20).unwrap(), Room::Enough);
        for error in [Errno::NOSPC, Errno::DQUOT] {
            let room = refused(&file, 4, 9000, error).unwrap();
            assert_eq!(room, Room::Missing { needs: 9000, has: 8999 });
        }
        let meta = file.metadata().unwrap();
        assert!(meta.len() == 4 && meta.blocks() * 512 < 1 << 20);
        assert!(refused(&file, 4, 9000, Errno::IO).is_err());
    }
}
