use super::*;
use crate::disk::incoming::sweep;
use core::time::Duration;
use quickcheck::{TestResult, quickcheck};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const QUOTA: u64 = 100_000;

struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state/spool")
    }

    fn open(&self) -> Spool {
        Spool::open(&self.path(), QUOTA).unwrap()
    }

    /// Names in the folder, but for that of the parts.
    fn names(&self) -> Vec<String> {
        let mut names = names(&self.path()).unwrap();
        names.retain(|name| name != "parts");
        names.sort();
        names
    }
}

fn meta(from: &str, id: u8, size: u64) -> Meta {
    Meta {
        id: [id; 16],
        from: from.into(),
        name: "report.pdf".into(),
        size,
        sha256: [9; 32],
        to: "#lobby".into(),
        recipients: vec!["bob".into(), "..".into()],
        stored_at: 1_700_000_000_000 - u64::from(id),
    }
}

fn incoming(spool: &Spool, meta: &Meta) -> Incoming {
    let mut incoming = Incoming::open(spool.parts(), &meta.key()).unwrap();
    incoming.write(0, &vec![meta.id[0]; meta.size as usize]).unwrap();
    incoming
}

fn add(spool: &Spool, meta: &Meta) {
    spool.add(meta, incoming(spool, meta)).unwrap();
}

#[test]
fn kept_over_restarts() {
    let world = World::new();
    let spool = world.open();
    let metas = [meta("ann", 1, 5000), meta("bob", 1, 0), meta("ann", 2, 40_000)];
    metas.iter().for_each(|meta| add(&spool, meta));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&world.path()), mode(spool.parts())), (0o700, 0o700));
    for name in world.names() {
        assert_eq!(mode(&world.path().join(name)), 0o600);
    }
    let stored = [&metas[2], &metas[0], &metas[1]].map(Clone::clone);
    assert_eq!(spool.list(), stored);
    drop(spool);
    let spool = world.open();
    assert_eq!(spool.list(), stored);
    assert!(spool.ignored().is_empty() && kept(spool.parts()).unwrap().is_empty());
    let source = spool.open_data("ann", &[2; 16]).unwrap();
    let mut bytes = vec![0; 40_000];
    source.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, vec![2; 40_000]);
    assert_eq!(spool.open_data("ann", &[3; 16]).unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::write(world.path().join(format!("{}-ann.data", "01".repeat(16))), "x").unwrap();
    assert_eq!(spool.open_data("ann", &[1; 16]).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn recipients_and_removal() {
    let world = World::new();
    let spool = world.open();
    add(&spool, &meta("ann", 1, 10));
    let reading = spool.open_data("ann", &[1; 16]).unwrap();
    spool.set_recipients("ann", &[1; 16], &["cy".into()]).unwrap();
    let nobody = spool.set_recipients("ann", &[2; 16], &[]).unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
    let bad = spool.set_recipients("ann", &[1; 16], &["C y".into()]).unwrap_err();
    assert_eq!(bad.kind(), io::ErrorKind::InvalidInput);
    for spool in [&spool, &world.open()] {
        assert_eq!(spool.get("ann", &[1; 16]).unwrap().recipients, ["cy"]);
    }
    spool.remove("ann", &[1; 16]).unwrap();
    spool.remove("ann", &[1; 16]).unwrap();
    assert!(spool.list().is_empty() && world.names().is_empty());
    reading.read_at(0, &mut [0; 10]).unwrap();
    assert!(world.open().list().is_empty());
}

#[test]
fn names_that_are_dots() {
    let world = World::new();
    let spool = world.open();
    for (at, from) in ["..", ".", "-", "a-b", ".tmp-a", "x.data", "x.json"].iter().enumerate() {
        add(&spool, &meta(from, at as u8, 10));
    }
    assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(world.path()).unwrap().count(), 15);
    assert_eq!(world.open().list(), spool.list());
    for meta in spool.list() {
        spool.open_data(&meta.from, &meta.id).unwrap();
        spool.remove(&meta.from, &meta.id).unwrap();
    }
    assert!(world.names().is_empty());
}

#[test]
fn what_a_crash_left_goes() {
    let world = World::new();
    let spool = world.open();
    let whole = meta("ann", 1, 10);
    add(&spool, &whole);
    // Between the data and what is known of it.
    let data = spool.path("ann", &[2; 16], DATA);
    incoming(&spool, &meta("ann", 2, 10)).move_to(&data, || Ok(())).unwrap();
    // Its data gone.
    add(&spool, &meta("ann", 3, 10));
    fs::remove_file(spool.path("ann", &[3; 16], DATA)).unwrap();
    fs::write(world.path().join(".tmp-x"), "x").unwrap();
    let partial = incoming(&spool, &meta(".tmp-a", 4, 10));
    drop((partial, spool));
    fs::write(world.path().join("README"), "theirs").unwrap();
    let spool = world.open();
    assert_eq!(spool.list(), [whole]);
    assert_eq!(world.names().len(), 3, "{:?}", world.names());
    assert_eq!(kept(spool.parts()).unwrap().len(), 1);
}

#[test]
fn what_is_not_understood_stays() {
    let world = World::new();
    let spool = world.open();
    for id in 1..=3 {
        add(&spool, &meta("ann", id, 5000));
    }
    let about = |id: u8| spool.path("ann", &[id; 16], META);
    let later = fs::read_to_string(about(1)).unwrap().replace("\"schema\":1", "\"schema\":2");
    fs::write(about(1), later).unwrap();
    fs::copy(about(3), about(2)).unwrap();
    let again = world.open();
    assert_eq!(again.list(), [meta("ann", 3, 5000)]);
    let mut ignored = again.ignored().to_vec();
    ignored.sort();
    assert_eq!(ignored, [about(1), about(2)]);
    assert_eq!((again.used(), world.names().len()), (15_000, 6));
}

#[test]
fn what_could_not_be_stored_is_partial_again() {
    let world = World::new();
    let spool = world.open();
    let meta = meta("ann", 1, 10);
    let about = spool.path("ann", &[1; 16], META);
    fs::create_dir(&about).unwrap();
    spool.add(&meta, incoming(&spool, &meta)).unwrap_err();
    assert!(spool.list().is_empty() && !spool.path("ann", &[1; 16], DATA).exists());
    fs::remove_dir(&about).unwrap();
    let again = Incoming::open(spool.parts(), &meta.key()).unwrap();
    assert!(again.is_whole());
    spool.add(&meta, again).unwrap();
    let twice = spool.add(&meta, incoming(&spool, &meta)).unwrap_err();
    assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(spool.list().len(), 1);
    let other = Meta { size: 11, ..meta.clone() };
    let hole = Incoming::open(spool.parts(), &other.key()).unwrap();
    assert_eq!(spool.add(&other, hole).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let another = spool.add(&meta, incoming(&spool, &other)).unwrap_err();
    assert_eq!(another.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn quota() {
    let world = World::new();
    let spool = world.open();
    assert_eq!((spool.used(), spool.room_for([QUOTA])), (0, Room::Enough));
    assert_eq!(spool.room_for([QUOTA + 1]), Room::Missing { needs: QUOTA + 1, has: QUOTA });
    add(&spool, &meta("ann", 1, 50_000));
    let partial = meta("bob", 2, 30_000).key();
    drop(Incoming::open(spool.parts(), &partial).unwrap());
    assert_eq!(spool.used(), 80_000, "all that it will have");
    assert_eq!(spool.room_for([30_000]), Room::Missing { needs: 30_000, has: 20_000 });
    assert_eq!(spool.room_for_part(&partial), Room::Enough, "it is the one that is there");
    let larger = Key { size: 50_001, ..partial };
    assert_eq!(spool.room_for_part(&larger), Room::Missing { needs: 50_001, has: 20_000 });
    add(&spool, &meta("ann", 3, 0));
    assert_eq!(spool.used(), 84_096, "an empty one takes a place");
    spool.remove("ann", &[1; 16]).unwrap();
    sweep(spool.parts(), Duration::ZERO).unwrap();
    assert_eq!(spool.used(), 4096);
    fs::remove_dir_all(spool.parts()).unwrap();
    fs::write(spool.parts(), "no folder").unwrap();
    assert_eq!(spool.used(), QUOTA, "when in doubt it is full");
    assert_ne!(spool.room_for([1]), Room::Enough);
}

#[test]
fn from_many_threads() {
    let world = World::new();
    let spool = world.open();
    std::thread::scope(|scope| {
        for id in 0..4 {
            let spool = &spool;
            scope.spawn(move || {
                let meta = meta("ann", id, 10);
                add(spool, &meta);
                spool.set_recipients("ann", &meta.id, &["cy".into()]).unwrap();
                if id % 2 == 0 {
                    spool.remove("ann", &meta.id).unwrap();
                }
            });
        }
    });
    let ids = |spool: &Spool| spool.list().iter().map(|meta| meta.id[0]).collect::<Vec<_>>();
    assert_eq!((ids(&spool), ids(&world.open())), (vec![3, 1], vec![3, 1]));
}

quickcheck! {
    fn round_trip(name: String, from: u8, size: u64, stored_at: u64, sum: u128) -> TestResult {
        if !is_file_name(&name) {
            return TestResult::discard();
        }
        let mut sha256 = [0; 32];
        sha256[8..24].copy_from_slice(&sum.to_be_bytes());
        let (from, size, stored_at) = (".".repeat(1 + usize::from(from % 64)), size >> 11, stored_at >> 11);
        let meta = Meta { name, from, sha256, stored_at, ..meta("ann", 1, size) };
        TestResult::from_bool(Meta::parse(&meta.encode()) == Some(meta))
    }

    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, sum: String) -> bool {
        let text = String::from_utf8(meta("ann", 1, 10).encode()).unwrap();
        let odd = text.replace(&"09".repeat(32), &sum);
        Meta::parse(&bytes).is_none() && Meta::parse(odd.as_bytes()).is_none()
    }
}

#[test]
fn malformed() {
    let good = String::from_utf8(meta("ann", 1, 10).encode()).unwrap();
    assert_eq!(Meta::parse(good.as_bytes()), Some(meta("ann", 1, 10)));
    for (from, to) in [
        ("\"from\":\"ann\"", "\"from\":\"../ann\""),
        ("report.pdf", "../report.pdf"),
        ("#lobby", "lobby"),
        ("[\"bob\"", "[7"),
        ("0909", "09"),
        ("0909", "xx09"),
        ("\"size\":10", "\"size\":\"10\""),
        ("\"schema\":1,", ""),
        ("}", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(bad != good && Meta::parse(bad.as_bytes()).is_none(), "{bad}");
    }
}
