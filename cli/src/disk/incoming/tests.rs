use super::*;
use crate::disk::window::WINDOW;
use quickcheck::quickcheck;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tempfile::TempDir;

const SIZE: u64 = 600_000;

fn key(size: u64) -> Key {
    Key { from: "ann".into(), id: [7; 16], size }
}

/// Any byte of the file that is sent.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8 ^ at as u8
}

fn bytes(range: Range<u64>) -> Vec<u8> {
    range.map(byte).collect()
}

struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn parts(&self) -> PathBuf {
        self.folder.path().join("parts")
    }

    fn open(&self, size: u64) -> Incoming {
        Incoming::open(&self.parts(), &key(size)).unwrap()
    }

    fn whole(&self, size: u64) -> Incoming {
        let mut file = self.open(size);
        file.write(0, &bytes(0..size)).unwrap();
        file
    }

    fn have(&self, size: u64) -> PathBuf {
        key(size).paths(&self.parts()).unwrap().1
    }

    fn part(&self, size: u64) -> PathBuf {
        key(size).paths(&self.parts()).unwrap().0
    }
}

fn set(range: Range<u64>) -> RangeSet {
    let mut set = RangeSet::new();
    set.insert(range);
    set
}

quickcheck! {
    /// Pieces in any order, overlapping, of any size, with crashes between, make the file.
    fn any_pieces_make_the_file(pieces: Vec<(u32, u16, u8)>) -> bool {
        let world = World::new();
        let (mut file, mut taken, mut saved) = (world.open(SIZE), RangeSet::new(), RangeSet::new());
        // Each checkpoint takes the disk its time.
        for (start, length, then) in pieces.into_iter().take(12) {
            let start = u64::from(start) % SIZE;
            let range = start..SIZE.min(start + u64::from(length));
            file.write(start, &bytes(range.clone())).unwrap();
            taken.insert(range);
            assert_eq!(file.written(), &taken);
            let readable = file.contiguous();
            let mut beginning = vec![0; readable as usize];
            file.reader().unwrap().read_exact_at(&mut beginning, 0).unwrap();
            assert!(taken.contains_range(0..readable) && beginning == bytes(0..readable));
            if then % 4 == 0 {
                file.checkpoint().unwrap().save().unwrap();
                saved = taken.clone();
            }
            if then % 16 == 1 {
                drop(file);
                file = world.open(SIZE);
                assert_eq!(file.held(), &saved);
                taken = saved.clone();
            }
        }
        let mut gaps = set(0..SIZE);
        for range in taken.iter() {
            gaps.remove(range.clone());
        }
        while let Some(gap) = gaps.take_first(1200) {
            file.write(gap.start, &bytes(gap)).unwrap();
        }
        assert!(file.is_whole() && file.contiguous() == SIZE, "the last piece writes the rest");
        let placed = file.place(world.folder.path(), "a.bin", b"").unwrap().0;
        fs::read(placed).unwrap() == bytes(0..SIZE)
    }
}

#[test]
fn what_was_not_saved_is_not_held() {
    let world = World::new();
    let mut file = world.open(SIZE);
    assert!(file.held().is_empty());
    file.write(0, &bytes(0..50_000)).unwrap();
    file.flush().unwrap();
    drop(file);
    let mut file = world.open(SIZE);
    assert!(file.held().is_empty() && file.written().is_empty());
    file.write(100_000, &bytes(100_000..101_000)).unwrap();
    let checkpoint = file.checkpoint().unwrap();
    file.write(0, &bytes(0..1000)).unwrap();
    assert_eq!(checkpoint.ranges(), &set(100_000..101_000));
    checkpoint.save().unwrap();
    drop(file);
    let file = world.open(SIZE);
    assert_eq!(file.held(), &set(100_000..101_000));
    assert_eq!((file.written(), file.contiguous()), (file.held(), 0));
    let mut there = vec![0; 1000];
    file.reader().unwrap().read_exact_at(&mut there, 100_000).unwrap();
    assert_eq!(there, bytes(100_000..101_000));
}

#[test]
fn a_sidecar_that_lies_is_not_believed() {
    let world = World::new();
    let mut file = world.open(SIZE);
    file.write(0, &bytes(0..200_000)).unwrap();
    file.checkpoint().unwrap().save().unwrap();
    drop(file);
    let (part, have) = (world.part(SIZE), world.have(SIZE));
    let options = || File::options().write(true).open(&part).unwrap();
    options().set_len(150_000).unwrap();
    assert_eq!(world.open(SIZE).held(), &set(0..150_000), "the file was cut");
    let good = fs::read(&have).unwrap();
    fs::write(&have, &good[..good.len() - 1]).unwrap();
    assert!(world.open(SIZE).held().is_empty(), "the sidecar was cut");
    fs::write(&have, &good).unwrap();
    fs::remove_file(&part).unwrap();
    assert!(world.open(SIZE).held().is_empty(), "there is no file");
    options().set_len(SIZE + 1).unwrap();
    assert!(world.open(SIZE).held().contains(0), "as long as it should be, or longer");
    assert_eq!(fs::metadata(&part).unwrap().len(), SIZE);
}

#[test]
fn private_and_for_one_at_a_time() {
    let world = World::new();
    let mut file = world.open(SIZE);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&world.parts()), mode(&world.part(SIZE))), (0o700, 0o600));
    let again = || Incoming::open(&world.parts(), &key(SIZE)).unwrap_err().kind();
    assert_eq!(again(), io::ErrorKind::WouldBlock);
    let other = world.open(SIZE + 1);
    let checkpoint = file.checkpoint().unwrap();
    drop((file, other));
    assert_eq!(again(), io::ErrorKind::WouldBlock, "what is to be saved may still come");
    checkpoint.save().unwrap();
    assert_eq!(mode(&world.have(SIZE)), 0o600);
    let reader = world.open(SIZE).reader().unwrap();
    drop(world.open(SIZE));
    drop(reader);
    let stranger = Key { from: "../ann".into(), ..key(1) };
    let error = Incoming::open(&world.parts(), &stranger).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn small_pieces_wait_for_each_other() {
    let world = World::new();
    let mut file = world.open(2 * WINDOW + 10);
    let length = || fs::metadata(world.part(2 * WINDOW + 10)).unwrap().len();
    for at in (0..WINDOW / 1024).rev().map(|piece| piece * 1024) {
        assert_eq!(length(), 0);
        file.write(at, &bytes(at..at + 1024)).unwrap();
    }
    assert_eq!((length(), file.contiguous()), (WINDOW, WINDOW), "all at once");
    file.write(WINDOW, b"x").unwrap();
    assert_eq!((length(), file.contiguous()), (WINDOW, WINDOW));
    assert!(file.written().contains(WINDOW), "taken, but not yet to be read");
    let big = bytes(WINDOW + 1..WINDOW + 1 + DIRECT as u64);
    file.write(WINDOW + 1, &big).unwrap();
    assert_eq!(length(), WINDOW + 1 + DIRECT as u64, "a big one does not wait");
    assert_eq!(file.contiguous(), WINDOW, "nor for the small one before it");
    file.write(WINDOW, &big).unwrap();
    file.flush().unwrap();
    let mut first = [0];
    file.reader().unwrap().read_exact_at(&mut first, WINDOW).unwrap();
    assert_eq!(first[0], big[0], "the last one wins");
}

#[test]
fn past_the_end() {
    let world = World::new();
    let mut file = world.open(10);
    for (offset, length) in [(10, 1), (0, 11), (u64::MAX, 1), (5, 40_000), (11, 0)] {
        let error = file.write(offset, &vec![0; length]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    assert!(file.written().is_empty());
    file.write(10, &[]).unwrap();
}

#[test]
fn room_for_the_rest() {
    let world = World::new();
    let mut file = world.open(SIZE);
    file.write(0, b"x").unwrap();
    assert_eq!(file.reserve().unwrap(), Room::Enough);
    let meta = fs::metadata(world.part(SIZE)).unwrap();
    assert!(meta.len() <= 1 && meta.blocks() * 512 >= SIZE);
    let huge = Key { from: "ann".into(), id: [8; 16], size: 1 << 52 };
    let huge = Incoming::open(&world.parts(), &huge).unwrap();
    assert!(matches!(huge.reserve().unwrap(), Room::Missing { needs, .. } if needs == 1 << 52));
    let none = world.open(0);
    assert_eq!(none.reserve().unwrap(), Room::Enough);
}

/// A file on which the system says ENOSPC to every write and EINVAL to every flush.
fn full() -> File {
    File::options().read(true).write(true).open("/dev/full").unwrap()
}

#[test]
fn a_full_disk_loses_nothing_that_was_taken() {
    let world = World::new();
    let mut file = world.open(SIZE);
    let real = core::mem::replace(&mut file.file, full());
    file.write(0, &bytes(0..1000)).unwrap();
    let kinds = [
        file.flush().unwrap_err().kind(),
        file.write(WINDOW, b"x").unwrap_err().kind(),
        file.write(0, &bytes(0..DIRECT as u64)).unwrap_err().kind(),
        file.checkpoint().unwrap_err().kind(),
    ];
    assert_eq!(kinds, [io::ErrorKind::StorageFull; 4]);
    assert_eq!((file.written(), file.contiguous()), (&set(0..1000), 0));
    file.file = real;
    file.write(WINDOW, b"x").unwrap();
    assert_eq!(file.contiguous(), 1000);
    let mut there = vec![0; 1000];
    file.reader().unwrap().read_exact_at(&mut there, 0).unwrap();
    assert_eq!(there, bytes(0..1000));
}

#[test]
fn a_flush_that_failed_is_final() {
    let world = World::new();
    let mut file = world.open(SIZE);
    file.write(0, &bytes(0..1000)).unwrap();
    file.checkpoint().unwrap().save().unwrap();
    file.write(1000, &bytes(1000..SIZE)).unwrap();
    let (before, mut broken) = (file.checkpoint().unwrap(), file.checkpoint().unwrap());
    broken.file = full();
    broken.save().unwrap_err();
    before.save().unwrap_err();
    file.checkpoint().unwrap().save().unwrap_err();
    file.place(world.folder.path(), "a", b"").unwrap_err();
    assert!(!world.folder.path().join("a").exists());
    assert_eq!(world.open(SIZE).held(), &set(0..1000), "what the last good one said");
}

#[test]
fn an_older_checkpoint_takes_nothing_back() {
    let world = World::new();
    let mut file = world.open(SIZE);
    file.write(0, b"x").unwrap();
    let older = file.checkpoint().unwrap();
    file.write(1, b"x").unwrap();
    file.checkpoint().unwrap().save().unwrap();
    older.save().unwrap();
    assert_eq!(have::load(&world.have(SIZE), SIZE), set(0..2));
    let late = file.checkpoint().unwrap();
    file.discard().unwrap();
    assert!(!world.part(SIZE).exists() && !world.have(SIZE).exists());
    late.save().unwrap();
    assert!(!world.have(SIZE).exists(), "it is of no file");
    let mut file = world.whole(10);
    let late = file.checkpoint().unwrap();
    let (placed, receipt) = file.place(world.folder.path(), "a", b"").unwrap();
    receipt.noted();
    late.save().unwrap();
    assert!(placed.exists() && !world.have(10).exists() && !world.part(10).exists());
}

#[test]
fn placed_beside_what_is_there() {
    let world = World::new();
    let folder = world.folder.path();
    fs::write(folder.join("a.txt"), "theirs").unwrap();
    let mut file = world.whole(10);
    file.checkpoint().unwrap().save().unwrap();
    let (placed, receipt) = file.place(folder, "a.txt", b"from ann").unwrap();
    assert_eq!(placed, folder.join("a (2).txt"));
    assert_eq!(fs::read(&placed).unwrap(), bytes(0..10));
    assert_eq!(fs::read(folder.join("a.txt")).unwrap(), b"theirs");
    assert_eq!(fs::metadata(&placed).unwrap().mode() & 0o777, left_by_umask(0o644));
    // A process that is killed here leaves it to the next.
    drop(receipt);
    let [(placed, note, receipt)] = <[_; 1]>::try_from(receipt::of_placed(&world.parts())).unwrap();
    assert_eq!((placed, note.as_slice()), (key(10), &b"from ann"[..]));
    receipt.noted();
    assert_eq!(fs::read_dir(world.parts()).unwrap().count(), 0, "no sidecar stays");
    let (empty, receipt) = world.open(0).place(folder, "empty", b"").unwrap();
    receipt.noted();
    assert_eq!(fs::metadata(empty).unwrap().len(), 0);
}

#[test]
fn what_could_not_be_placed_is_whole_and_waits() {
    let world = World::new();
    let folder = world.folder.path();
    let error = world.open(SIZE).place(folder, "a", b"").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "not whole");
    for name in ["../a", "nul", ""] {
        let error = world.open(0).place(folder, name, b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    let error = world.whole(SIZE).place(&folder.join("none"), "a", b"").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(receipt::of_placed(&world.parts()).is_empty());
    // Killed before it has its name: the receipt says nothing, and never will.
    drop(receipt::write(&world.parts(), &key(SIZE), b"from ann").unwrap());
    assert!(receipt::of_placed(&world.parts()).is_empty());
    let file = world.open(SIZE);
    assert_eq!(file.held(), &set(0..SIZE));
    let moved = folder.join("moved");
    let error = file.move_to(&moved, || Err(io::Error::other("no room for the rest"))).unwrap_err();
    assert_eq!(error.to_string(), "no room for the rest");
    assert!(!moved.exists());
    world.open(SIZE).move_to(&moved, || Ok(())).unwrap();
    assert_eq!(fs::read(&moved).unwrap(), bytes(0..SIZE));
    assert_eq!(fs::read_dir(world.parts()).unwrap().count(), 1, "but the empty one's");
}

#[test]
fn over_to_another_disk() {
    // A file system of its own wherever there is one; the copy itself has a test that needs none.
    let Ok(there) = tempfile::tempdir_in("/dev/shm") else { return };
    let world = World::new();
    fs::write(there.path().join("a"), "theirs").unwrap();
    let (placed, receipt) = world.whole(SIZE).place(there.path(), "a", b"").unwrap();
    receipt.noted();
    assert_eq!(placed, there.path().join("a (2)"));
    assert_eq!(fs::read(&placed).unwrap(), bytes(0..SIZE));
    assert_eq!(fs::read_dir(world.parts()).unwrap().count(), 0);
}
