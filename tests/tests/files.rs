//! Files with the real binaries, from disk to disk (PROTOCOL 5.6).

use clawchat_tests::net::Rng;
use clawchat_tests::process::{Member, PATIENCE, Process, Sandbox, Server, free_port};
use core::time::Duration;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of `size` bytes that no two seeds share.
fn make(path: &Path, seed: u64, size: usize) {
    std::fs::write(path, Rng::new(seed).bytes(size)).expect("it can be written");
}

fn same(one: &Path, other: &Path) {
    let read =
        |path: &Path| std::fs::read(path).unwrap_or_else(|_| panic!("no {}", path.display()));
    assert!(read(one) == read(other), "{}", other.display());
}

/// Names of what is in a folder, partial files left out.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != ".clawchat-parts")
        .collect();
    names.sort();
    names
}

struct Scene {
    sandbox: Sandbox,
    server: Server,
    ann: Member,
    bob: Member,
    port: String,
    quota: &'static str,
}

impl Scene {
    fn new() -> Self {
        Self::with_quota("1GiB")
    }

    fn with_quota(quota: &'static str) -> Self {
        let (sandbox, port) = (Sandbox::new(), free_port().to_string());
        let server = sandbox.serve_with(&["--port", &port, "--file-quota", quota]);
        let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
        Self { sandbox, server, ann, bob, port, quota }
    }

    fn send(&self, to: &str, paths: &[&Path]) -> Command {
        let mut command = self.sandbox.client_of(&self.ann, &["send-file", "--to", to]);
        command.args(paths);
        command
    }

    fn get(&self, into: &Path, words: &[&str]) -> Command {
        let mut command = self.sandbox.client_of(&self.bob, &["get"]);
        command.args(words).arg("-o").arg(into);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.path(name)
    }

    /// Starts the server again.
    fn serve_again(&mut self) {
        let words = ["--port", &self.port, "--file-quota", self.quota];
        self.server = self.sandbox.serve_with(&words);
    }
}

#[test]
fn files_of_all_sizes_go_by_way_of_the_server() {
    let scene = Scene::new();
    let sizes = [0, 1, 1199, 65_536, 3_000_001];
    let paths: Vec<_> = sizes.iter().map(|size| scene.path(&format!("file-{size}"))).collect();
    for (path, size) in paths.iter().zip(sizes) {
        make(path, size as u64, size);
    }
    let paths: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
    let sent = Process::start(scene.send("@bob", &paths)).end().expect(0);
    for path in &paths {
        let line = sent.err.lines().find(|line| line.starts_with(name(path))).expect("it is named");
        assert!(line.contains("sha256 ") && line.contains("verified"), "{line}");
    }
    let listed = Process::start(scene.sandbox.client_of(&scene.bob, &["ls", "--json"]));
    assert!(listed.end().expect(0).out.contains("file-3000001"));
    let into = scene.path("got");
    // One by its name, then all others.
    drop(Process::start(scene.get(&into, &["file-1199"])).end().expect(0));
    assert_eq!(names(&into), ["file-1199"]);
    drop(Process::start(scene.get(&into, &["--all"])).end().expect(0));
    for path in &paths {
        same(path, &into.join(name(path)));
    }
    assert_eq!(names(&into).len(), sizes.len());
    let spool = scene.sandbox.state().join("spool");
    assert_eq!(names(&spool), ["parts"], "what everybody has is kept no longer");
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("it has one")
}

#[test]
fn a_folder_arrives_as_it_is() {
    let scene = Scene::new();
    let folder = scene.path("photos");
    for sub in ["2025/summer", "2026", "empty/within"] {
        std::fs::create_dir_all(folder.join(sub)).unwrap();
    }
    for (index, file) in ["a.jpg", "2025/summer/b.jpg", "2025/a.jpg", "2026/c"].iter().enumerate() {
        make(&folder.join(file), index as u64, 5000 * index);
    }
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).unwrap();
    let sent = Process::start(scene.send("@bob", &[&folder])).end().expect(0);
    assert!(sent.err.lines().any(|line| line.contains("link") && line.contains("left out")));
    let into = scene.path("got");
    drop(Process::start(scene.get(&into, &["photos"])).end().expect(0));
    for file in ["a.jpg", "2025/summer/b.jpg", "2025/a.jpg", "2026/c"] {
        same(&folder.join(file), &into.join("photos").join(file));
    }
    assert!(into.join("photos/empty/within").is_dir());
    assert_eq!(names(&into), ["photos"]);
    assert_eq!(names(&into.join("photos")), ["2025", "2026", "a.jpg", "empty"]);
    assert!(!into.join(".clawchat-parts").exists(), "nothing is left of it");
    // Once more: nothing is written over.
    drop(Process::start(scene.send("@bob", &[&folder])).end().expect(0));
    drop(Process::start(scene.get(&into, &["--all"])).end().expect(0));
    assert_eq!(names(&into), ["photos", "photos (2)"]);
    same(&folder.join("2025/a.jpg"), &into.join("photos (2)/2025/a.jpg"));
}

#[test]
fn a_folder_is_refused_with_all_that_is_in_it() {
    let scene = Scene::new();
    let (folder, into) = (scene.path("photos"), scene.path("got"));
    std::fs::create_dir_all(folder.join("2026")).unwrap();
    (0..20).for_each(|index| make(&folder.join(format!("2026/{index}.jpg")), index, 100));
    drop(Process::start(scene.send("@bob", &[&folder])).end().expect(0));
    let words = ["get", "photos", "--refuse"];
    let refused = Process::start(scene.sandbox.client_of(&scene.bob, &words)).end().expect(0);
    assert!(refused.err.contains("photos/") && refused.err.contains("19.jpg"), "{}", refused.err);
    let listed = Process::start(scene.sandbox.client_of(&scene.bob, &["ls", "--json"])).end();
    assert_eq!(listed.expect(0).json()["files"], serde_json::json!([]));
    drop(Process::start(scene.get(&into, &["--all"])).end().expect(0));
    assert!(!into.exists() || names(&into).is_empty());
}

/// The server's own inbox is no worse than a member's folder, whatever interrupts it.
#[test]
fn a_folder_for_the_server_arrives_as_it_is() {
    let mut scene = Scene::new();
    let folder = scene.path("photos");
    std::fs::create_dir_all(folder.join("empty/within")).unwrap();
    let files = [("2025/a.jpg", 0), ("a.jpg", 5000), ("large.bin", 200 << 20)];
    for (file, size) in files {
        std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        std::fs::File::create(folder.join(file)).unwrap().set_len(size).unwrap();
    }
    make(&folder.join("a.jpg"), 3, 5000);
    let inbox = scene.sandbox.state().join("inbox");
    let mut sending = Process::start(scene.send("@server", &[&folder]));
    wait_until("the first comes", || inbox.join("photos/a.jpg").exists());
    scene.server.process.kill();
    sending.kill();
    assert!(!inbox.join("photos/large.bin").exists(), "it was killed in between");
    scene.serve_again();
    let again = Process::start(scene.send("@server", &[&folder]));
    drop(again.end_within(PATIENCE * 10).expect(0));
    for (file, _) in files {
        same_large(&folder.join(file), &inbox.join("photos").join(file));
    }
    assert!(inbox.join("photos/empty/within").is_dir());
    assert_eq!(names(&inbox), ["photos"]);
    assert!(!inbox.join(".clawchat-parts").exists(), "nothing is left of it");
    std::fs::remove_file(folder.join("large.bin")).unwrap();
    drop(Process::start(scene.send("@server", &[&folder])).end().expect(0));
    assert_eq!(names(&inbox), ["photos", "photos (2)"]);
    assert_eq!(names(&inbox.join("photos (2)")), ["2025", "a.jpg", "empty"]);
}

#[test]
fn who_listens_takes_them_and_overwrites_nothing() {
    let scene = Scene::new();
    let (path, into) = (scene.path("report.pdf"), scene.path("in"));
    make(&path, 1, 200_000);
    let words = ["listen", "--json", "--accept", into.to_str().unwrap()];
    let mut bob = Process::start(scene.sandbox.client_of(&scene.bob, &words));
    bob.event("connected");
    for expected in ["report.pdf", "report (2).pdf"] {
        drop(Process::start(scene.send("#lobby", &[&path])).end().expect(0));
        let done = bob.event("done");
        assert_eq!(done["path"], into.join(expected).to_str().unwrap(), "{bob}");
        assert!(done["verified"].as_bool().unwrap());
        same(&path, &into.join(expected));
    }
    // To the server itself, and from it.
    drop(Process::start(scene.send("@server", &[&path])).end().expect(0));
    same(&path, &scene.sandbox.state().join("inbox/report.pdf"));
    let path = path.to_str().unwrap();
    let queued = scene.sandbox.server(&["send-file", "bob", path]);
    drop(Process::start(queued).end().expect(0));
    assert_eq!(bob.event("done")["from"], "server");
    let outbox = scene.sandbox.state().join("outbox/@bob");
    std::fs::create_dir_all(&outbox).unwrap();
    std::fs::write(outbox.join("note.txt"), "hello").unwrap();
    assert_eq!(bob.event("done")["name"], "note.txt");
    assert_eq!(std::fs::read_to_string(into.join("note.txt")).unwrap(), "hello");
    wait_until("it is taken from the outbox", || names(&outbox).is_empty());
    // Folders too, by a command and through the outbox.
    let folder = scene.path("photos");
    std::fs::create_dir_all(folder.join("2026/empty")).unwrap();
    make(&folder.join("2026/a.jpg"), 5, 70_000);
    make(&folder.join("b.jpg"), 6, 10);
    let queued = scene.sandbox.server(&["send-file", "bob", folder.to_str().unwrap()]);
    let said = Process::start(queued).end().expect(0);
    assert!(said.out.contains("2 files"), "{}", said.out);
    for name in ["photos", "photos (2)"] {
        wait_until("the folder comes", || into.join(name).join("b.jpg").exists());
        wait_until("all of it", || into.join(name).join("2026/a.jpg").exists());
        same(&folder.join("2026/a.jpg"), &into.join(name).join("2026/a.jpg"));
        assert!(into.join(name).join("2026/empty").is_dir());
        if name == "photos" {
            std::fs::create_dir_all(outbox.join("photos/2026/empty")).unwrap();
            for file in ["2026/a.jpg", "b.jpg"] {
                std::fs::copy(folder.join(file), outbox.join("photos").join(file)).unwrap();
            }
        }
    }
    wait_until("it is taken from the outbox", || names(&outbox).is_empty());
    bob.signal(Signal::INT);
    drop(bob.end().expect(0));
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn many_small_files_go_at_once() {
    let scene = Scene::new();
    let paths: Vec<_> = (0..100).map(|index| scene.path(&format!("{index}.txt"))).collect();
    for (index, path) in paths.iter().enumerate() {
        make(path, index as u64, 100 * index);
    }
    let named: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
    drop(Process::start(scene.send("@bob", &named)).end().expect(0));
    let into = scene.path("got");
    drop(Process::start(scene.get(&into, &["--all"])).end().expect(0));
    for path in &paths {
        same(path, &into.join(name(path)));
    }
}

/// Waits until something of the transfer is durable in a folder of partial files.
fn wait_for_part(folder: &Path) {
    let is_part = |name: &String| name.ends_with(".part");
    wait_until("something comes", || names(folder).iter().any(is_part));
}

/// Sends a file while both sides and the server are killed at random moments, in so many rounds each
/// at most so many milliseconds apart.
fn kill_in_between(size: u64, rounds: u64, apart: u64) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut scene = Scene::with_quota("20GiB");
    let (path, into) = (scene.path("big.bin"), scene.path("got"));
    make_large(&path, seed, size);
    let parts = scene.sandbox.state().join("spool/parts");
    for round in 0..rounds {
        let mut sending = Process::start(scene.send("@bob", &[&path]));
        if round == 0 {
            wait_for_part(&parts);
        }
        std::thread::sleep(Duration::from_millis(rng.range(0..=apart)));
        if round % 2 == 0 {
            sending.kill();
        } else {
            scene.server.process.kill();
            scene.serve_again();
            std::thread::sleep(Duration::from_millis(rng.range(0..=apart)));
            sending.kill();
        }
    }
    let done = Process::start(scene.send("@bob", &[&path])).end_within(PATIENCE * 10).expect(0);
    eprintln!("{}", done.err);
    for round in 0..rounds {
        let mut taking = Process::start(scene.get(&into, &["--all"]));
        std::thread::sleep(Duration::from_millis(rng.range(0..=apart)));
        if round % 2 == 1 {
            scene.server.process.kill();
            scene.serve_again();
            std::thread::sleep(Duration::from_millis(rng.range(0..=apart)));
        }
        taking.kill();
    }
    let done = Process::start(scene.get(&into, &["--all"])).end_within(PATIENCE * 10).expect(0);
    eprintln!("{}", done.err);
    // A round may have sent it whole before it was killed: then the next sent another.
    let got = names(&into);
    assert!(!got.is_empty());
    for name in &got {
        same_large(&path, &into.join(name));
    }
    assert_eq!(names(&scene.sandbox.state().join("spool")), ["parts"]);
}

/// A file of `size` bytes, written in pieces.
fn make_large(path: &Path, seed: u64, size: u64) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("it can be made");
    let (mut rng, mut left) = (Rng::new(seed), size);
    while left > 0 {
        let piece = left.min(1 << 20);
        let bytes = rng.bytes(usize::try_from(piece).expect("it is small"));
        file.write_all(&bytes).expect("it can be written");
        left -= piece;
    }
}

fn same_large(one: &Path, other: &Path) {
    use std::io::Read;
    let mut files = [one, other].map(|path| std::fs::File::open(path).expect("it is there"));
    let mut pieces = [vec![0; 1 << 20], vec![0; 1 << 20]];
    loop {
        let mut lens = [0; 2];
        for ((file, piece), len) in files.iter_mut().zip(&mut pieces).zip(&mut lens) {
            while *len < piece.len() {
                match file.read(&mut piece[*len..]).expect("it can be read") {
                    0 => break,
                    more => *len += more,
                }
            }
        }
        assert!(lens[0] == lens[1] && pieces[0][..lens[0]] == pieces[1][..lens[1]]);
        if lens[0] == 0 {
            return;
        }
    }
}

#[test]
fn killed_at_any_moment_it_arrives_whole() {
    kill_in_between(60_000_000, 6, 150);
}

/// By hand, on a disk with 20 GiB to spare: `cargo test --release -p clawchat-tests --test files --
/// --ignored`.
#[test]
#[ignore = "it needs 20 GiB of disk"]
fn five_gib_survive_kills() {
    kill_in_between(5 << 30, 10, 3000);
}

/// Killed just when another has got its name, which is when nobody knows that yet.
#[test]
fn killed_between_files_each_comes_once() {
    let mut scene = Scene::new();
    let folder = scene.path("notes");
    std::fs::create_dir(&folder).unwrap();
    let paths: Vec<_> = (0..60).map(|index| folder.join(format!("{index:02}.txt"))).collect();
    for (index, path) in paths.iter().enumerate() {
        make(path, index as u64, 100 * index);
    }
    let named: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
    let expected = names(&folder);
    drop(Process::start(scene.send("@bob", &named)).end().expect(0));
    let into = scene.path("got");
    let another = |place: &Path| {
        let before = names(place).len();
        let end = expected.len();
        wait_until("another comes", || names(place).len() > before || before >= end);
    };
    for _ in 0..8 {
        let mut taking = Process::start(scene.get(&into, &["--all"]));
        another(&into);
        taking.kill();
    }
    drop(Process::start(scene.get(&into, &["--all"])).end().expect(0));
    assert_eq!(names(&into), expected);
    // The server itself; a large file keeps the folder from being whole before.
    std::fs::File::create(folder.join("large.bin")).unwrap().set_len(200 << 20).unwrap();
    let inbox = scene.sandbox.state().join("inbox");
    for round in 0..12 {
        let mut sending = Process::start(scene.send("@server", &[&folder]));
        another(&inbox.join("notes"));
        // Whoever is alive goes on with what it has just been given.
        if round % 2 == 0 {
            scene.server.process.kill();
        }
        sending.kill();
        if round % 2 == 0 {
            scene.serve_again();
        }
    }
    let sending = Process::start(scene.send("@server", &[&folder]));
    drop(sending.end_within(PATIENCE * 10).expect(0));
    assert_eq!(names(&inbox), ["notes"]);
    assert_eq!(names(&inbox.join("notes")), names(&folder));
    for path in &paths {
        same(path, &into.join(name(path)));
        same(path, &inbox.join("notes").join(name(path)));
    }
}

#[test]
fn an_interrupted_sender_says_how_to_go_on() {
    let scene = Scene::new();
    let path = scene.path("big.bin");
    make(&path, 3, 1000);
    // Larger than the quota lets in: nothing is there to go on with.
    let sparse = scene.path("sparse.bin");
    let file = std::fs::File::create(&sparse).unwrap();
    file.set_len(4 << 30).unwrap();
    let refused = Process::start(scene.send("@bob", &[&sparse])).end();
    let refused = refused.expect(1);
    assert!(refused.err.lines().any(|line| line.contains("quota")), "{refused:?}");
    file.set_len(900 << 20).unwrap();
    let sending = Process::start(scene.send("@bob", &[&sparse]));
    wait_for_part(&scene.sandbox.state().join("spool/parts"));
    sending.signal(Signal::INT);
    let paused = sending.end().expect(83);
    assert!(paused.err.lines().any(|line| line.contains("clawchat send-file")), "{paused:?}");
    let parts = scene.sandbox.state().join("spool/parts");
    assert!(!names(&parts).is_empty());
    let mut cancel = scene.send("@bob", &[&sparse]);
    cancel.arg("--cancel");
    drop(Process::start(cancel).end().expect(0));
    wait_until("what was there of it goes", || names(&parts).is_empty());
    drop(Process::start(scene.send("@bob", &[&path])).end().expect(0));
}

#[test]
fn a_source_that_changes_begins_anew_and_says_so() {
    let scene = Scene::new();
    let path = scene.path("notes.txt");
    let large = || {
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(900 << 20).unwrap();
    };
    let parts = scene.sandbox.state().join("spool/parts");
    let inbox = scene.sandbox.state().join("inbox");
    // Between two runs of the command.
    large();
    let sending = Process::start(scene.send("@server", &[&path]));
    wait_for_part(&parts);
    sending.signal(Signal::INT);
    drop(sending.end().expect(83));
    std::fs::write(&path, "second").unwrap();
    let again = Process::start(scene.send("@server", &[&path])).end().expect(0);
    assert!(again.err.lines().any(|line| line.contains("starts anew")), "{again:?}");
    assert_eq!(std::fs::read_to_string(inbox.join("notes.txt")).unwrap(), "second");
    // While it is sent.
    std::fs::remove_file(&path).unwrap();
    large();
    let before = names(&parts).len();
    let sending = Process::start(scene.send("@server", &[&path]));
    wait_until("something comes", || names(&parts).len() > before);
    std::fs::write(&path, "third").unwrap();
    let done = sending.end().expect(0);
    assert!(done.err.lines().any(|line| line.contains("starts anew")), "{done:?}");
    assert_eq!(std::fs::read_to_string(inbox.join("notes (2).txt")).unwrap(), "third");
    assert_eq!(names(&inbox), ["notes (2).txt", "notes.txt"]);
}

#[test]
fn a_file_that_changes_within_a_folder_fails_with_advice() {
    let scene = Scene::new();
    let folder = scene.path("notes");
    std::fs::create_dir(&folder).unwrap();
    let (small, large) = (folder.join("small.txt"), folder.join("large.bin"));
    make(&small, 4, 100);
    std::fs::File::create(&large).unwrap().set_len(900 << 20).unwrap();
    let parts = scene.sandbox.state().join("spool/parts");
    let sending = Process::start(scene.send("@server", &[&folder]));
    wait_for_part(&parts);
    std::fs::write(&large, "something else").unwrap();
    let failed = sending.end().expect(1);
    let said = |word: &str| failed.err.lines().any(|line| line.contains(word));
    assert!(said("large.bin") && said("send it again"), "{failed:?}");
    // As it is now, it goes.
    drop(Process::start(scene.send("@server", &[&folder])).end().expect(0));
    let inbox = scene.sandbox.state().join("inbox");
    wait_until("it is there", || names(&inbox).iter().any(|name| name.starts_with("notes")));
}

#[test]
fn a_program_hears_of_all_that_happens() {
    let scene = Scene::new();
    let path = scene.path("a.bin");
    make(&path, 1, 3_000_000);
    let mut send = scene.send("@bob", &[&path]);
    let mut sending = Process::start({
        send.arg("--json");
        send
    });
    let start = sending.event("start");
    assert_eq!((start["name"].as_str(), start["size"].as_u64()), (Some("a.bin"), Some(3_000_000)));
    assert_eq!(sending.event("progress")["transfer"], start["transfer"]);
    let sent = sending.event("done");
    drop(sending.end().expect(0));
    let mut get = scene.get(&scene.path("got"), &["--all"]);
    let mut getting = Process::start({
        get.arg("--json");
        get
    });
    assert_eq!(getting.event("start")["from"], "ann");
    let got = getting.event("done");
    assert_eq!((&got["sha256"], &got["verified"]), (&sent["sha256"], &sent["verified"]));
    assert_eq!(got["sha256"].as_str().map(str::len), Some(64));
    drop(getting.end().expect(0));
}

/// The client's folder is a disk of 1 MB that only it sees, until it is made larger.
/// Whether this machine gives a namespace to mount a small disk in.
fn small_disks() -> bool {
    let can = Command::new("unshare").args(["-rm", "true"]).status();
    let can = can.is_ok_and(|status| status.success());
    if !can {
        eprintln!("not tried: this machine gives no namespace to mount a small disk in");
    }
    can
}

/// A command for which `folder` is a disk of 1 MB.
fn on_a_small_disk(scene: &Scene, folder: &Path, command: &Command) -> Command {
    let mut within = scene.sandbox.command("unshare");
    let mount = r#"mount -t tmpfs -o size=1m,mode=700 tmpfs "$0" && exec "$@""#;
    within.args(["-rm", "sh", "-c", mount]).arg(folder);
    within.arg(command.get_program()).args(command.get_args());
    within
}

/// Gives the small disk of a process 9 MB.
fn grow_disk(process: u32, folder: &Path) {
    let id = process.to_string();
    let grow = ["-t", &id, "-U", "-m", "--preserve-credentials", "mount", "-o", "remount,size=9m"];
    let status = Command::new("nsenter").args(grow).arg(folder).status();
    assert!(status.is_ok_and(|status| status.success()));
}

#[test]
fn a_full_disk_of_the_server_pauses_and_goes_on_once_there_is_room() {
    if !small_disks() {
        return;
    }
    let mut scene = Scene::new();
    let path = scene.path("a.bin");
    make(&path, 1, 3_000_000);
    let parts = scene.sandbox.state().join("spool/parts");
    let run = scene.sandbox.run(&["--port", &scene.port]);
    scene.server.process.kill();
    scene.server = Server::ready(Process::start(on_a_small_disk(&scene, &parts, &run)));
    let sending = Process::start(scene.send("@server", &[&path]));
    let paused = scene.server.process.complains("paused: disk full");
    assert!(paused.contains("needs 3.0 MB, has 1.0 MB"), "{paused}");
    grow_disk(scene.server.process.id(), &parts);
    let done = sending.end().expect(0);
    assert!(done.err.lines().any(|line| line.contains("verified")), "{done:?}");
    same(&path, &scene.sandbox.state().join("inbox/a.bin"));
}

#[test]
fn a_full_disk_pauses_and_goes_on_once_there_is_room() {
    if !small_disks() {
        return;
    }
    let scene = Scene::new();
    let (path, into) = (scene.path("a.bin"), scene.path("small"));
    make(&path, 1, 3_000_000);
    drop(Process::start(scene.send("@bob", &[&path])).end().expect(0));
    std::fs::create_dir(&into).unwrap();
    let get = scene.get(&into, &["--all"]);
    let mut getting = Process::start(on_a_small_disk(&scene, &into, &get));
    let paused = getting.complains("paused: disk full");
    assert!(paused.contains("needs 3.0 MB, has 1.0 MB"), "{paused}");
    grow_disk(getting.id(), &into);
    let done = getting.end().expect(0);
    assert!(done.err.lines().any(|line| line.contains("verified")), "{done:?}");
    // A program hears of it too.
    drop(Process::start(scene.send("@bob", &[&path])).end().expect(0));
    let get = scene.get(&into, &["--all", "--json"]);
    let mut getting = Process::start(on_a_small_disk(&scene, &into, &get));
    let paused = getting.event("paused");
    assert_eq!((&paused["why"], &paused["needs"]), (&"disk_full".into(), &3_000_000.into()));
    assert!(paused["has"].as_u64().unwrap() < 3_000_000);
    grow_disk(getting.id(), &into);
    assert_eq!(getting.event("done")["verified"], true);
    drop(getting.end().expect(0));
}

#[test]
fn what_goes_wrong_is_said() {
    let scene = Scene::new();
    let path = scene.path("a.txt");
    std::fs::write(&path, "a").unwrap();
    let send = |to: &str, path: &Path| Process::start(scene.send(to, &[path])).end();
    drop(send("@nobody", &path).expect(1));
    drop(send("nobody", &path).expect(2));
    drop(send("@bob", &scene.path("missing")).expect(66));
    let bad = scene.path("con.txt");
    std::fs::write(&bad, "x").unwrap();
    let refused = send("@bob", &bad).expect(2);
    assert!(refused.err.lines().any(|line| line.contains("name")), "{refused:?}");
    let fifo = scene.path("fifo");
    let status = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(status.success());
    drop(send("@bob", &fifo).expect(66));
    let into = scene.path("got");
    let missing = Process::start(scene.get(&into, &["nothing"])).end().expect(66);
    assert!(missing.err.lines().any(|line| line.contains("clawchat ls")), "{missing:?}");
    drop(Process::start(scene.get(&into, &["--all"])).end().expect(0));
    std::fs::write(scene.path("file"), "x").unwrap();
    drop(send("@bob", &path).expect(0));
    drop(Process::start(scene.get(&scene.path("file"), &["--all"])).end().expect(73));
    // It waits all the same, until it is refused.
    let mut refuse = scene.sandbox.client_of(&scene.bob, &["get", "--refuse"]);
    drop(send("@bob", &scene.path("file")).expect(0));
    refuse.arg("file");
    drop(Process::start(refuse).end().expect(0));
    drop(Process::start(scene.get(&into, &["--all"])).end().expect(0));
    same(&path, &into.join("a.txt"));
    assert_eq!(names(&into), ["a.txt"]);
}
