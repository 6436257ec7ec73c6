//! The state folder as others may find it or leave it: rights, damage, crashes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::crypto::envelope;
use clawchat_core::secret::Secret;
use clawchat_tests::process::{Finished, PATIENCE, Process, Sandbox, run};
use core::time::Duration;
use rustix::process::Signal;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Everything below a folder, and the folder.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    let mut at = 0;
    while at < found.len() {
        if found[at].is_dir() {
            let entries = std::fs::read_dir(&found[at]).expect("a folder can be listed");
            found.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
        }
        at += 1;
    }
    found
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    let rights = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, rights).expect("rights can be set");
}

/// The command after `try:` of a failure.
fn advice(failed: &Finished) -> String {
    failed.json()["try"].as_str().expect("it says what to do").to_owned()
}

#[test]
fn private_whatever_the_umask() {
    let sandbox = Sandbox::new();
    let wide = |command: Command| {
        let mut shell = sandbox.command("sh");
        shell.args(["-c", r#"umask 000; exec "$0" "$@""#]);
        shell.arg(command.get_program()).args(command.get_args());
        shell
    };
    let mut server = Process::start(wide(sandbox.run(&["--port", "auto"])));
    server.event("listening");
    let (sec, key) = (sandbox.path("a.sec"), sandbox.path("a.key"));
    let mut issue = sandbox.server(&["issue", "ann"]);
    issue.arg("-o").arg(&sec).arg("--key-out").arg(&key);
    drop(run(wide(issue)).expect(0));
    drop(run(wide(sandbox.server(&["issue", "ann"]))).expect(0));
    assert_eq!((mode(&sec), mode(&key)), (0o600, 0o600));
    let all = tree(&sandbox.state());
    assert!(all.len() > 10, "{all:?}");
    for path in all {
        let right = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), right, "{}", path.display());
        let owner = std::fs::symlink_metadata(&path).expect("it is there").uid();
        assert_eq!(owner, rustix::process::geteuid().as_raw(), "{}", path.display());
    }
}

/// PROTOCOL 8: `server_public_ip` may be a host name.
#[test]
fn a_server_may_have_a_host_name() {
    let sandbox = Sandbox::new();
    let words = ["run", "--bind", "127.0.0.1", "--public", "localhost", "--port", "auto", "--json"];
    let mut server = Process::start(sandbox.server(&words));
    server.event("listening");
    let ann = sandbox.issue("ann");
    let key = std::fs::read_to_string(&ann.key).expect("it was written");
    let mut key: [u8; 32] =
        STANDARD.decode(key.trim()).ok().and_then(|key| key.try_into().ok()).expect("32 bytes");
    let key = Secret::take(&mut key);
    let sec = std::fs::read(&ann.sec).expect("it was written");
    let file = envelope::open(&RustCrypto, &sec, &key).expect("the key opens it");
    assert_eq!(file.server_public_ip, "localhost");
    drop(run(sandbox.client_of(&ann, &["who"])).expect(0));
}

/// SPEC 11.4: CPU, memory and connections.
#[test]
fn resources_are_told() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let ann = sandbox.issue("ann");
    let _listener = sandbox.listen(&ann);
    let status = run(sandbox.server(&["status", "--json"])).expect(0).json();
    let number = |key: &str| status[key].as_u64().expect("a number");
    assert!(number("cpu_ms") < 60_000, "{status}");
    assert!((500_000..10_000_000_000).contains(&number("memory")), "{status}");
    assert_eq!(number("clients_limit"), 100);
    assert_eq!(status["clients"].as_array().map(Vec::len), Some(1));
    let status = run(sandbox.server(&["status"])).expect(0);
    assert!(status.out.contains("CPU time ") && status.out.contains(" KiB"), "{}", status.out);
    server.stop();
}

#[test]
fn what_is_open_to_others_is_refused_and_mended() {
    let sandbox = Sandbox::new();
    sandbox.serve().stop();
    drop(sandbox.issue("ann"));
    for path in tree(&sandbox.state()).into_iter() {
        let wide = if path.is_dir() { 0o755 } else { 0o644 };
        set_mode(&path, wide);
        let refused = run(sandbox.run(&[])).expect(78);
        refused.complains(&path.display().to_string());
        let mend = advice(&refused);
        assert!(mend.starts_with("chmod "), "{mend}");
        let mended = Command::new("sh").args(["-c", &mend]).status().expect("sh is there");
        assert!(mended.success());
        sandbox.serve().stop();
    }
}

#[test]
fn links_are_not_followed() {
    let sandbox = Sandbox::new();
    sandbox.serve().stop();
    let (here, away) = (sandbox.state().join("server.json"), sandbox.path("elsewhere"));
    std::fs::rename(&here, &away).expect("it can be moved");
    symlink(&away, &here).expect("a link can be made");
    run(sandbox.run(&[])).expect(78).complains("symbolic link");
}

#[test]
fn no_folder_is_no_server() {
    let sandbox = Sandbox::new();
    for words in [&["issue", "ann"][..], &["members"], &["compromised", "a", "--yes-wipe-all-keys"]]
    {
        run(sandbox.server(words)).expect(78).complains("clawchat-server init");
    }
    for words in [&["status"][..], &["rotate-keys"]] {
        drop(run(sandbox.server(words)).expect(69));
    }
    assert!(!sandbox.state().exists(), "asking makes nothing");
}

#[test]
fn files_issued_with_and_without_a_server_connect() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let before = sandbox.issue("ann");
    let server = sandbox.serve();
    let during = sandbox.issue_with("ann", "second", &[]);
    let same = std::fs::read(&before.key).expect("it was written");
    assert_eq!(same, std::fs::read(&during.key).expect("it was written"), "a member has one key");
    assert_ne!(
        std::fs::read(&before.sec).expect("it was written"),
        std::fs::read(&during.sec).expect("it was written")
    );
    for member in [&before, &during] {
        drop(run(sandbox.client_of(member, &["who"])).expect(0));
    }
    server.stop();
}

#[test]
fn bad_names_make_nothing() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let first = sandbox.issue("ann");
    let server = sandbox.serve();
    drop(run(sandbox.client_of(&first, &["who"])).expect(0));
    // The server may still be writing what that session changed.
    let settled = || {
        let mut found = tree(&sandbox.state());
        found.retain(|path| !path.display().to_string().contains("/.tmp-"));
        found.sort();
        found
    };
    let before = settled();
    for name in ["server", "A", "", &"x".repeat(65), "../x", "a/b", "ä"] {
        drop(run(sandbox.server(&["issue", name])).expect(2));
    }
    assert_eq!(settled(), before);
    server.stop();
}

#[test]
fn the_admin_socket_goes_with_its_server() {
    let sandbox = Sandbox::new();
    let socket = sandbox.state().join("admin.sock");
    sandbox.serve().stop();
    assert!(!socket.exists());
    let mut server = sandbox.serve();
    server.process.signal(Signal::KILL);
    server.process.kill();
    let meta = std::fs::symlink_metadata(&socket).expect("a killed server leaves it");
    assert!(meta.file_type().is_socket() && meta.mode() & 0o777 == 0o600);
    drop(run(sandbox.server(&["status"])).expect(69));
    drop(sandbox.issue("ann"));
    let server = sandbox.serve();
    drop(run(sandbox.server(&["status"])).expect(0));
    server.stop();
}

#[test]
fn a_very_long_path_works() {
    let sandbox = Sandbox::new();
    let state = sandbox.path(&"d".repeat(120)).join("e".repeat(120));
    let server = |words: &[&str]| {
        let mut command = sandbox.command(clawchat_tests::process::program("clawchat-server"));
        command.args(words).arg("--state").arg(&state);
        command
    };
    let words = ["run", "--bind", "127.0.0.1", "--public", "127.0.0.1", "--json"];
    let mut running = Process::start(server(&words));
    running.event("listening");
    drop(run(server(&["status"])).expect(0));
    running.signal(Signal::TERM);
    drop(running.end().expect(0));
}

#[test]
fn what_can_not_be_written_costs_nothing() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let output = sandbox.path("missing").join("a.sec").display().to_string();
    drop(run(sandbox.server(&["issue", "ann", "-o", &output])).expect(73));
    let members = run(sandbox.server(&["members", "--json"])).expect(0).json();
    assert_eq!(members["members"].as_array().map(Vec::len), Some(0));
}

#[test]
fn damage_names_its_file() {
    let sandbox = Sandbox::new();
    sandbox.init();
    drop(sandbox.issue("ann"));
    for folder in ["members", "credentials", "."] {
        let folder = sandbox.state().join(folder);
        let damaged =
            tree(&folder).into_iter().find(|path| path.extension().is_some_and(|e| e == "json"));
        let damaged = damaged.expect("there is one");
        let whole = std::fs::read(&damaged).expect("it can be read");
        for broken in [&b""[..], b"{", b"{}", b"\xff\xfe", &whole[..whole.len() / 2]] {
            std::fs::write(&damaged, broken).expect("it can be written");
            let name = damaged.file_name().expect("it has a name").to_string_lossy().into_owned();
            run(sandbox.run(&[])).expect(78).complains(&name);
        }
        std::fs::write(&damaged, &whole).expect("it can be written");
    }
    sandbox.serve().stop();
}

#[test]
fn a_journal_cut_by_a_crash_is_read() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    sandbox.send(&ann, "@bob", "one");
    sandbox.send(&ann, "@bob", "two");
    server.stop();
    let journal = sandbox.state().join("chat.journal");
    let mut bytes = std::fs::read(&journal).expect("it can be read");
    bytes.extend(b"{\"from\":\"ann\",\"id\":\"00");
    std::fs::write(&journal, bytes).expect("it can be written");
    let server = sandbox.serve();
    let mut listener = sandbox.listen(&bob);
    listener.chat("one");
    listener.chat("two");
    drop(listener);
    server.stop();
}

#[test]
fn what_a_crash_left_half_done_is_finished() {
    let sandbox = Sandbox::new();
    sandbox.init();
    drop(run(sandbox.server(&["issue", "ann"])).expect(0));
    let bob = sandbox.issue("bob");
    let credentials = sandbox.state().join("credentials");
    let of_ann = tree(&credentials).into_iter().find(|path| {
        path.is_file() && std::fs::read_to_string(path).is_ok_and(|text| text.contains(r#""ann""#))
    });
    let of_ann = of_ann.expect("it was issued");
    // Killed between the rename that retires a file and the wiping.
    std::fs::rename(&of_ann, of_ann.with_extension("gone")).expect("it can be renamed");
    std::fs::write(credentials.join("7.gone"), [0; 300]).expect("it can be written");
    let left = ["", "members", "credentials", "security"]
        .map(|part| sandbox.state().join(part).join(".tmp-1.json-a1B2c3"));
    for path in &left {
        std::fs::write(path, "a secret").expect("it can be written");
        set_mode(path, 0o600);
    }
    let server = sandbox.serve();
    let secs = std::fs::read_dir(sandbox.state().join("security")).expect("it is there").count();
    assert_eq!(secs, 0, "the file that waited to be carried is worthless");
    let gone = |path: &Path| path.extension().is_some_and(|extension| extension == "gone");
    assert!(!tree(&sandbox.state()).iter().any(|path| gone(path) || left.contains(path)));
    drop(run(sandbox.client_of(&bob, &["who"])).expect(0));
    server.stop();
}

#[test]
fn a_client_starts_from_its_file_whatever_a_crash_left_beside_it() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let carried = std::fs::read(&ann.sec).expect("it can be read");
    // Killed while it wrote the renewed file: the carried one is whole.
    let left = sandbox.path(".tmp-ann.sec-a1B2c3");
    std::fs::write(&left, &carried[..carried.len() / 2]).expect("it can be written");
    drop(run(sandbox.client_of(&ann, &["send", "--to", "@bob", "hi"])).expect(0));
    drop(run(sandbox.client_of(&ann, &["who"])).expect(0));
    // COMPROMISED wipes that too, and what a link leads to.
    let link = sandbox.path("link.sec");
    symlink(&ann.sec, &link).expect("a link can be made");
    let words = ["compromised", "--yes-wipe-all-keys", "--json"];
    let done = run(sandbox.client_of(&ann.with(&link), &words)).expect(0).json();
    assert_eq!(done["wiped"], true);
    for path in [&ann.sec, &link, &left] {
        assert!(std::fs::symlink_metadata(path).is_err(), "{} is left", path.display());
    }
    drop(run(sandbox.client_of(&bob, &["who"])).expect(0));
    server.stop();
}

#[test]
fn no_file_names_a_port_that_is_not_drawn_yet() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve_with(&["--port", "random"]);
    let ann = sandbox.issue("ann");
    drop(run(sandbox.server(&["issue", "ann"])).expect(0));
    server.stop();
    let raise = sandbox.server(&["compromised", "ann", "--yes-wipe-all-keys", "--json"]);
    let raised = run(raise).expect(69);
    raised.complains("clawchat-server issue ann");
    let done: serde_json::Value =
        raised.out.lines().next().and_then(|line| serde_json::from_str(line).ok()).expect("JSON");
    assert_eq!((&done["retired"], &done["new_file_ready"]), (&true.into(), &false.into()));
    let secs = std::fs::read_dir(sandbox.state().join("security")).expect("it is there").count();
    assert_eq!(secs, 1, "that of the first run is left");
    run(sandbox.server(&["issue", "ann"])).expect(69).complains("clawchat-server run");
    let server = sandbox.serve_with(&["--port", "random"]);
    let port = server.port.to_string();
    let who = |member| sandbox.client_of(member, &["who", "--timeout", "2s", "--port", &port]);
    drop(run(who(&ann)).expect(69));
    let new = sandbox.issue_with("ann", "new", &[]);
    drop(run(sandbox.client_of(&new, &["who"])).expect(0));
    server.stop();
}

#[test]
fn all_that_should_be_looked_up_later_is_shown() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve();
    let ann = sandbox.issue("ann");
    let old = sandbox.path("old.sec");
    std::fs::copy(&ann.sec, &old).expect("it can be copied");
    let listener = sandbox.listen(&ann);
    let answered = server.process.event("hello_answered");
    assert_eq!(answered["member"], "ann");
    assert!(answered["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")));
    assert!(answered["ts"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert!(server.process.event("connected")["session"].is_u64());
    assert!(server.process.event("renewed")["valid_until"].is_u64());
    drop(run(sandbox.server(&["rotate-keys", "ann"])).expect(0));
    assert!(server.process.event("key_rotated")["session"].is_u64());
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read(&ann.sec).expect("it is there") == std::fs::read(&old).expect("it too") {
        assert!(Instant::now() < deadline, "the renewed file is not stored: {listener}");
        std::thread::sleep(Duration::from_millis(20));
    }
    listener.signal(Signal::TERM);
    drop(listener.end().expect(0));
    let ended = server.process.event("disconnected");
    assert!(ended["sent"].as_u64() > Some(0) && ended["received"].as_u64() > Some(0), "{ended}");
    drop(run(sandbox.client_of(&ann, &["who"])).expect(0));
    assert_eq!(server.process.event("secret_retired")["member"], "ann");
    drop(run(sandbox.client_of(&ann.with(&old), &["who"])).expect(80));
    let refused = server.process.event("hello_refused");
    assert_eq!(refused["code"], "expired");
    assert_eq!(refused["retired_credential"], true);
    let status = run(sandbox.server(&["status", "--json"])).expect(0).json();
    assert!(status["memory"].as_u64() > Some(0) && status["cpu_ms"].is_u64(), "{status}");
    server.stop();
}

#[test]
fn a_server_killed_while_it_retires_starts_again() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let bob = sandbox.issue("bob");
    for round in 0..12 {
        drop(run(sandbox.server(&["issue", "ann"])).expect(0));
        let mut server = sandbox.serve();
        let words = ["compromised", "ann", "--yes-wipe-all-keys", "--json"];
        let raising = Process::start(sandbox.server(&words));
        // Somewhere between before it hears of it and after all is done.
        std::thread::sleep(Duration::from_millis(round * 3));
        server.process.kill();
        drop(raising);
    }
    let server = sandbox.serve();
    let odd = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(".tmp-") || name.ends_with(".gone")
    };
    let left: Vec<_> = tree(&sandbox.state()).into_iter().filter(odd).collect();
    assert!(left.is_empty(), "{left:?}");
    drop(run(sandbox.client_of(&bob, &["who"])).expect(0));
    server.stop();
}
