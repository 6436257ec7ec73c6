//! The real binaries over real UDP on loopback.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::crypto::envelope;
use clawchat_core::limits::{DATAGRAM_MAX, KeyLimits, SESSIONS};
use clawchat_core::ops::Outcome;
use clawchat_core::random::Seed;
use clawchat_core::secret::Secret;
use clawchat_core::server::{Action, PortChoice, SecurityFileDraft, Server as Machine};
use clawchat_core::time::{Instant as Mono, Now, UnixMs};
use clawchat_core::transport::path::Path as UdpPath;
use clawchat_core::wire::secfile::SecurityFile;
use clawchat_tests::net::Rng;
use clawchat_tests::process::{Finished, Member, PATIENCE, Process, Sandbox, free_port, run};
use clawchat_tests::vectors;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How long a client looks for a server that will not answer.
const SILENCE: [&str; 2] = ["--timeout", "2s"];

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970")
}

/// Chance for a test; `CLAWCHAT_E2E_SEED` gives the same again.
fn chance() -> Rng {
    let given = std::env::var("CLAWCHAT_E2E_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(unix_now().subsec_nanos()));
    eprintln!("CLAWCHAT_E2E_SEED={seed}");
    Rng::new(seed)
}

fn pause(rng: &mut Rng, millis: core::ops::RangeInclusive<u64>) {
    std::thread::sleep(Duration::from_millis(rng.range(millis)));
}

/// Listens for what waits for a member, up to a last message that `from` sends now.
fn mail(sandbox: &Sandbox, member: &Member, from: &Member) -> Vec<String> {
    let mut listener = sandbox.listen(member);
    sandbox.send(from, &format!("@{}", member.name), "the last one");
    listener.chat("the last one");
    let mut texts = listener.texts();
    listener.signal(Signal::TERM);
    drop(listener.end().expect(0));
    texts.pop();
    texts
}

/// Connects, says who is there, leaves.
fn who(sandbox: &Sandbox, member: &Member, words: &[&str]) -> Finished {
    let words: Vec<_> = ["who"].iter().chain(words).copied().collect();
    run(sandbox.client_of(member, &words))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries.map(|entry| entry.expect("the folder can be read").path()).collect()
}

/// The file that the server made in place of a wiped one.
fn replacement(sandbox: &Sandbox, member: &Member) -> Member {
    let new: Vec<_> = files(&sandbox.state().join("security"))
        .into_iter()
        .map(|path| member.with(&path))
        .filter(|member| who(sandbox, member, &[]).code == Some(0))
        .collect();
    let [new] = new.as_slice() else { panic!("not one replacement that works: {new:?}") };
    new.clone()
}

#[test]
fn demo_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let done = Process::start(sandbox.client(&["demo"])).end_within(PATIENCE * 3).expect(0);
    let steps = done.out.lines().filter(|line| line.trim_start().starts_with(char::is_numeric));
    assert!(steps.count() >= 10, "{}", done.out);
    for word in ["read:", "rotated", "COMPROMISED", "silence", "replacement"] {
        assert!(done.out.contains(word), "`{word}` is missing in {}", done.out);
    }
    assert!(files(&sandbox.path("tmp")).is_empty(), "the demo left a folder");
    assert!(files(&sandbox.path("home")).is_empty(), "the demo left files");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let mut demo = Process::start(sandbox.client(&["demo", "--json"]));
    demo.event("step");
    demo.signal(Signal::INT);
    drop(demo.end().expect(130));
    assert!(files(&sandbox.path("tmp")).is_empty(), "the demo left a folder");
}

#[test]
fn messages_of_all_shapes_arrive() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let mut listener = sandbox.listen(&bob);
    server.process.find("bob", PATIENCE, |e| e["event"] == "connected" && e["member"] == "bob");
    let stored = run(sandbox.client_of(&ann, &["send", "--json", "--to", "@bob", "Hello bob"]));
    let stored = stored.expect(0).json();
    assert_eq!((&stored["event"], &stored["to"]), (&"stored".into(), &"@bob".into()));
    let heard = listener.chat("Hello bob");
    assert_eq!((&heard["from"], &heard["to"]), (&"ann".into(), &"@bob".into()));
    assert_eq!(heard["id"], stored["id"]);
    let sent_at = heard["sent_at"].as_u64().unwrap();
    assert!(u128::from(sent_at).abs_diff(unix_now().as_millis()) < 60_000, "{heard}");
    let long: String = (0..60 * 1024).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    for text in ["one\ntwo\n\n  three\t\"four\" \\", "\u{1f980} grüße \u{202e}abc", &long] {
        let send = sandbox.client_of(&ann, &["send", "--to", "@bob", "-"]);
        let input = format!("{text}\n");
        drop(Process::start_with(send, input.as_bytes()).end().expect(0));
        listener.chat(text);
    }
    let send = sandbox.client_of(&ann, &["send", "--to", "@bob", "-"]);
    drop(Process::start_with(send, "x".repeat(70_000).as_bytes()).end().expect(2));
    let send = sandbox.client_of(&ann, &["send", "--to", "@bob", "-"]);
    drop(Process::start_with(send, b"not UTF-8: \xff").end().expect(2));
    let told = server.process.find("bob's chat", PATIENCE, |e| e["event"] == "chat");
    assert_eq!(told.get("text"), None, "the server tells what is not for it: {told}");
    sandbox.send(&ann, "@server", "How are you?");
    let told = server.process.find("chat", PATIENCE, |e| e["to"] == "@server");
    assert_eq!((&told["from"], &told["text"]), (&"ann".into(), &"How are you?".into()));
}

#[test]
fn rooms_have_their_members_only() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let room: &[_] = &["--room", "ops"];
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue_with("bob", "bob", room));
    let eve = sandbox.issue_with("eve", "eve", room);
    let (mut at_ann, mut at_eve) = (sandbox.listen(&ann), sandbox.listen(&eve));
    sandbox.send(&bob, "#ops", "among us");
    assert_eq!(at_eve.chat("among us")["to"], "#ops");
    sandbox.send(&bob, "#lobby", "to all");
    assert_eq!(at_ann.chat("to all")["to"], "#lobby");
    at_eve.chat("to all");
    assert_eq!(at_ann.texts(), ["to all"]);
    let ann_too = sandbox.issue_with("ann", "ann-too", &[]);
    for to in ["#ops", "#nowhere", "@nobody"] {
        let refused = run(sandbox.client_of(&ann_too, &["send", "--json", "--to", to, "hi"]));
        assert_eq!(refused.expect(1).json()["error"], "failed");
    }
    let roster = who(&sandbox, &ann_too, &["--json"]).expect(0).json();
    assert_eq!(roster["rooms"], serde_json::json!(["lobby"]));
}

#[test]
fn receipts_tell_of_delivery() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let chat = sandbox.client_of(&ann, &["chat", "--to", "@bob"]);
    let mut chat = Process::start_typing(chat);
    chat.complains("connected to");
    chat.type_line("are you there?");
    chat.says("> ");
    let mut listener = sandbox.listen(&bob);
    listener.chat("are you there?");
    chat.says("delivered by bob");
    sandbox.send(&sandbox.issue_with("eve", "eve", &[]), "@ann", "hello\x1b[2J ann");
    assert!(chat.says("hello").contains("hello\u{fffd}[2J ann"));
    chat.type_line("/who");
    chat.says("eve");
    chat.type_line("/status");
    chat.says("key epoch 1");
    chat.type_line("/rotate");
    chat.says("epoch 2");
    chat.type_line("/quit");
    drop(chat.end().expect(0));
}

#[test]
fn nothing_hostile_reaches_a_terminal() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.server(&["run", "--bind", "127.0.0.1", "--public", "127.0.0.1"]);
    run.args(["--port", "auto"]);
    let mut server = Process::start(run);
    server.complains("listening on UDP port");
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let mut listener = Process::start(sandbox.client_of(&bob, &["listen"]));
    listener.complains("connected");
    let hostile = "a\x1b[2Jb\x07c\rd\u{9b}31me\u{202e}f\u{2066}g\u{7f}h\x08i\nsecond\x1b]0;t\x07";
    for to in ["@bob", "@server"] {
        let send = sandbox.client_of(&ann, &["send", "--to", to, "-"]);
        drop(Process::start_with(send, hostile.as_bytes()).end().expect(0));
    }
    listener.says("second");
    server.complains("chat from ann to @server");
    let harmful = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    listener.signal(Signal::INT);
    let heard = listener.end().expect(0);
    assert!(!heard.out.contains(harmful) && !heard.err.contains(harmful), "{heard:?}");
    assert!(heard.out.contains("ann → @bob: a\u{fffd}[2Jb"), "{}", heard.out);
    assert!(heard.out.lines().all(|line| !line.starts_with("second")), "a line of its own");
    server.signal(Signal::INT);
    let talk = server.end().expect(0);
    assert!(!talk.err.contains(harmful), "{}", talk.err);
}

#[test]
fn offline_mail_survives_a_killed_server() {
    let mut rng = chance();
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let sent: Vec<_> = (0..10).map(|n| format!("message {n}")).collect();
    for text in &sent {
        let words = ["send", "--json", "--to", "@bob", text];
        let mut send = Process::start(sandbox.client_of(&ann, &words));
        send.event("stored");
        pause(&mut rng, 0..=20);
        server.process.kill();
        drop(send.end().expect(0));
        server = sandbox.serve();
    }
    assert_eq!(mail(&sandbox, &bob, &ann), sent);
    assert_eq!(mail(&sandbox, &bob, &ann), [""; 0], "delivered twice");
    server.process.kill();
    let _server = sandbox.serve();
    assert_eq!(mail(&sandbox, &bob, &ann), [""; 0], "delivered again after a restart");
}

#[test]
fn what_nobody_reads_is_not_delivered() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let mut listen = sandbox.client_of(&bob, &["listen"]);
    listen.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut listen = listen.spawn().unwrap();
    sandbox.send(&ann, "@bob", "read");
    let mut first = String::new();
    let mut output = BufReader::new(listen.stdout.take().unwrap());
    output.read_line(&mut first).unwrap();
    assert!(first.contains("read"), "{first}");
    // As `head -1` does.
    drop(output);
    sandbox.send(&ann, "@bob", "not read");
    let ended = listen.wait().unwrap();
    assert_eq!(ended.code(), Some(73));
    assert_eq!(mail(&sandbox, &bob, &ann), ["not read"]);
}

/// Sends 30 messages, each once; those that were stored for sure, and the others.
fn send_thirty(sandbox: &Sandbox, member: &Member) -> (Vec<String>, Vec<String>) {
    let texts = (0..30).map(|n| format!("{} {n}", member.name));
    texts.partition(|text| {
        let words = ["send", "--timeout", "2s", "--to", "@bob", text];
        run(sandbox.client_of(member, &words)).code == Some(0)
    })
}

/// The longest test stands first: the listener notices a killed server after 60 s of silence.
#[test]
fn a_busy_server_killed_at_any_moment_loses_nothing_that_was_stored() {
    let mut rng = chance();
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve();
    let bob = sandbox.issue("bob");
    let senders = ["ann", "eve", "joe"].map(|name| sandbox.issue(name));
    let mut listener = sandbox.listen(&bob);
    let (mut stored, mut unsure) = (Vec::new(), Vec::new());
    let running = AtomicUsize::new(senders.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = senders
            .iter()
            .map(|member| {
                scope.spawn(|| {
                    let sent = send_thirty(&sandbox, member);
                    running.fetch_sub(1, Ordering::SeqCst);
                    sent
                })
            })
            .collect();
        while running.load(Ordering::SeqCst) > 0 {
            pause(&mut rng, 300..=1500);
            server.process.kill();
            pause(&mut rng, 0..=50);
            server = sandbox.serve();
        }
        for thread in threads {
            let (sure, not) = thread.join().unwrap();
            stored.push(sure);
            unsure.extend(not);
        }
    });
    let end = sandbox.issue("zoe");
    sandbox.send(&end, "@bob", "the end");
    listener.find("the end", PATIENCE * 4, |event| event["text"] == "the end");
    let heard = listener.texts();
    let times = |text: &String| heard.iter().filter(|other| *other == text).count();
    for own in &stored {
        assert!(own.len() >= 10, "hardly anything came through: {own:?}, unsure {unsure:?}");
        for text in own {
            assert_eq!(times(text), 1, "{text}");
        }
        let in_order: Vec<_> = heard.iter().filter(|text| own.contains(text)).collect();
        assert_eq!(in_order, own.iter().collect::<Vec<_>>());
    }
    assert!(unsure.iter().all(|text| times(text) <= 1), "shown twice");
}

#[test]
fn what_a_killed_client_had_not_shown_it_gets_again() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    // Nobody reads what it prints: the pipe takes one of these and then no more.
    let mut stuck = sandbox.client_of(&bob, &["listen", "--json"]).spawn().unwrap();
    server.process.find("bob", PATIENCE, |e| e["event"] == "connected" && e["member"] == "bob");
    let sent: Vec<_> = (0..5).map(|n| format!("{n}{}", "x".repeat(50_000))).collect();
    for text in &sent {
        let send = sandbox.client_of(&ann, &["send", "--to", "@bob", "-"]);
        drop(Process::start_with(send, text.as_bytes()).end().expect(0));
    }
    let waiting = || {
        let members = run(sandbox.server(&["members", "--json"])).expect(0).json();
        let members = members["members"].as_array().unwrap();
        members.iter().find(|m| m["name"] == "bob").unwrap()["waiting"].as_u64().unwrap()
    };
    let deadline = Instant::now() + PATIENCE;
    while waiting() == 5 {
        assert!(Instant::now() < deadline, "what is shown is acknowledged");
    }
    // Time enough to acknowledge the others too, if it did that before it has shown them.
    drop(who(&sandbox, &ann, &[]).expect(0));
    stuck.kill().unwrap();
    let printed = stuck.wait_with_output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let events = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut shown: Vec<_> = events
        .filter(|event| event["event"] == "chat")
        .map(|event| event["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(shown.len(), 1);
    shown.extend(mail(&sandbox, &bob, &ann));
    assert!(shown == sent, "{:?}", shown.iter().map(|text| &text[..1]).collect::<Vec<_>>());
}

#[test]
fn the_next_process_shows_nothing_again() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    sandbox.send(&ann, "@bob", "once");
    let journal = sandbox.state().join("chat.journal");
    let before = fs::read(&journal).unwrap();
    let mut listener = sandbox.listen(&bob);
    listener.chat("once");
    // The next is shown once the one before it is noted.
    sandbox.send(&ann, "@bob", "after it");
    listener.chat("after it");
    listener.kill();
    server.process.kill();
    // The server was killed before it knew that it was delivered.
    fs::write(&journal, before).unwrap();
    let _server = sandbox.serve();
    assert_eq!(mail(&sandbox, &bob, &ann), [""; 0], "shown twice");
}

#[test]
fn a_killed_server_comes_back_at_its_port() {
    let sandbox = Sandbox::new();
    let slot = || unix_now().as_secs() / 3600;
    let mut server = sandbox.serve();
    let began = slot();
    for _ in 0..3 {
        let port = server.port;
        server.process.kill();
        server = sandbox.serve();
        assert!(server.port == port || slot() != began, "{} after {port}", server.port);
    }
}

#[test]
fn who_and_status_and_members() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    sandbox.send(&ann, "@bob", "for later");
    let member = |answer: &Value, key: &str, name: &str| -> Value {
        let all = answer["members"].as_array().expect("a list of members");
        all.iter().find(|member| member[key] == name).expect("the member is listed").clone()
    };
    let members = run(sandbox.server(&["members", "--json"])).expect(0).json();
    assert_eq!(members["schema"], 1);
    assert_eq!(member(&members, "name", "bob")["waiting"], 1);
    assert_eq!(member(&members, "name", "bob")["status"], "offline");
    let mut listener = sandbox.listen(&bob);
    listener.chat("for later");
    let roster = who(&sandbox, &ann, &["--json"]).expect(0).json();
    assert_eq!(member(&roster, "member", "bob")["status"], "online");
    assert!(who(&sandbox, &ann, &[]).expect(0).out.contains("rooms: lobby"));
    let seen = |e: &Value| e["event"] == "presence" && e["member"] == "ann";
    listener.find("ann's coming", PATIENCE, |e| seen(e) && e["status"] == "online");
    listener.find("ann's going", PATIENCE, |e| seen(e) && e["status"] == "offline");
    let status = run(sandbox.client_of(&ann, &["status", "--json"])).expect(0).json();
    assert_eq!((&status["member"], &status["epoch"]), (&"ann".into(), &1.into()));
    assert_eq!(status["server"], format!("127.0.0.1:{}", server.port));
    drop(run(sandbox.client_of(&ann, &["status"])).expect(0));
    let status = run(sandbox.server(&["status", "--json"])).expect(0).json();
    assert_eq!(status["port"], server.port);
    assert_eq!(status["clients"][0]["member"], "bob");
    assert!(run(sandbox.server(&["status"])).expect(0).out.contains("bob"));
    let members = run(sandbox.server(&["members"])).expect(0);
    assert!(members.out.contains("owner") && members.out.contains("ann"), "{}", members.out);
    server.stop();
    drop(run(sandbox.server(&["status"])).expect(69));
    let members = run(sandbox.server(&["members", "--json"])).expect(0).json();
    assert_eq!(member(&members, "name", "bob")["waiting"], 0);
}

#[test]
fn keys_rotate_on_command() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    drop(run(sandbox.server(&["rotate-keys"])).expect(69));
    let mut server = sandbox.serve();
    let (mut at_ann, mut at_bob) = (sandbox.listen(&ann), sandbox.listen(&bob));
    let asked = run(sandbox.server(&["rotate-keys", "bob", "--json"])).expect(0).json();
    assert_eq!(asked["asked"], 1);
    assert_eq!(at_bob.event("key_rotated")["epoch"], 2);
    let told = server.process.event("key_rotated");
    assert_eq!((&told["member"], &told["epoch"]), (&"bob".into(), &2.into()));
    let asked = run(sandbox.server(&["rotate-keys", "--json"])).expect(0).json();
    assert_eq!(asked["asked"], 2);
    assert_eq!(at_bob.event("key_rotated")["epoch"], 3);
    assert_eq!(at_ann.event("key_rotated")["epoch"], 2);
    let unknown = run(sandbox.server(&["rotate-keys", "nobody", "--json"])).expect(66);
    assert_eq!(unknown.json()["error"], "no_such_file");
    sandbox.send(&sandbox.issue("eve"), "#lobby", "still here?");
    at_ann.chat("still here?");
    at_bob.chat("still here?");
}

#[test]
fn a_client_raises_compromised() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let mut at_ann = sandbox.listen(&ann);
    let stolen = bob.with(&sandbox.path("stolen.sec"));
    fs::copy(&bob.sec, &stolen.sec).unwrap();
    let raise = ["compromised", "--yes-wipe-all-keys", "--json"];
    let done = run(sandbox.client_of(&bob, &raise)).expect(0).json();
    assert_eq!((&done["acknowledged"], &done["wiped"]), (&true.into(), &true.into()));
    let told = server.process.event("compromised");
    assert_eq!((&told["member"], &told["by"]), (&"bob".into(), &"bob".into()));
    assert!(!bob.sec.exists(), "the security file is still there");
    assert!(bob.key.exists(), "the bootstrap key is the person's");
    drop(who(&sandbox, &stolen, &SILENCE).expect(69));
    drop(who(&sandbox, &bob, &[]).expect(66));
    let new = replacement(&sandbox, &bob);
    sandbox.send(&new, "#lobby", "back again");
    assert_eq!(at_ann.chat("back again")["from"], "bob");
    server.stop();
    let _server = sandbox.serve();
    drop(who(&sandbox, &stolen, &SILENCE).expect(69));
    drop(who(&sandbox, &new, &[]).expect(0));
}

#[test]
fn a_client_wipes_without_its_server_too() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let ann = sandbox.issue("ann");
    let raise = ["compromised", "--yes-wipe-all-keys", "--timeout", "1s", "--json"];
    let done = run(sandbox.client_of(&ann, &raise)).expect(69);
    assert!(done.out.contains(r#""acknowledged":false"#), "{}", done.out);
    done.complains("tell the operator");
    assert!(!ann.sec.exists() && ann.key.exists());
}

#[test]
fn an_operator_raises_compromised_on_a_listener() {
    let sandbox = Sandbox::new();
    let mut server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let (mut at_ann, mut at_bob) = (sandbox.listen(&ann), sandbox.listen(&bob));
    let stolen = bob.with(&sandbox.path("stolen.sec"));
    fs::copy(&bob.sec, &stolen.sec).unwrap();
    drop(run(sandbox.server(&["compromised", "bob"])).expect(2));
    let raise = ["compromised", "bob", "--yes-wipe-all-keys", "--json"];
    let done = run(sandbox.server(&raise)).expect(0).json();
    assert_eq!((&done["told"], &done["acknowledged"]), (&1.into(), &1.into()));
    assert_eq!(done["new_file_ready"], true);
    assert_eq!(server.process.event("compromised")["by"], "server");
    assert_eq!(at_bob.event("compromised")["by"], "server");
    let wiped = at_bob.end().expect(84);
    assert!(wiped.out.contains(r#""event":"wiped","ok":true"#), "{}", wiped.out);
    wiped.complains("COMPROMISED");
    assert!(!bob.sec.exists() && bob.key.exists());
    drop(who(&sandbox, &stolen, &SILENCE).expect(69));
    sandbox.send(&replacement(&sandbox, &bob), "#lobby", "back again");
    at_ann.chat("back again");
    let raise = ["compromised", "nobody", "--yes-wipe-all-keys"];
    drop(run(sandbox.server(&raise)).expect(66));
}

/// The program must not end before the file is gone.
#[test]
fn an_operator_raises_compromised_on_a_chat() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let ann = sandbox.issue("ann");
    let mut chat = Process::start_typing(sandbox.client_of(&ann, &["chat"]));
    chat.complains("connected");
    let raise = ["compromised", "ann", "--yes-wipe-all-keys", "--json"];
    assert_eq!(run(sandbox.server(&raise)).expect(0).json()["acknowledged"], 1);
    drop(chat.end().expect(84));
    assert!(!ann.sec.exists() && ann.key.exists());
}

#[test]
fn an_operator_raises_compromised_on_the_absent() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    sandbox.send(&ann, "@bob", "kept for the new file");
    let raise = |name| run(sandbox.server(&["compromised", name, "--yes-wipe-all-keys", "--json"]));
    let done = raise("bob").expect(0).json();
    assert_eq!((&done["told"], &done["new_file_ready"]), (&0.into(), &true.into()));
    drop(who(&sandbox, &bob, &SILENCE).expect(69));
    let new = replacement(&sandbox, &bob);
    server.stop();
    let done = raise("bob").expect(0).json();
    assert_eq!((&done["told"], &done["new_file_ready"]), (&0.into(), &true.into()));
    assert!(!new.sec.exists(), "a file that waits to be carried is wiped too");
    drop(raise("nobody").expect(66));
    let _server = sandbox.serve();
    drop(who(&sandbox, &bob, &SILENCE).expect(69));
    drop(who(&sandbox, &ann, &[]).expect(0));
    let newest = replacement(&sandbox, &bob);
    assert_eq!(mail(&sandbox, &newest, &ann), ["kept for the new file"]);
}

#[test]
fn a_newer_session_of_the_same_file_takes_over() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let ann = sandbox.issue("ann");
    let older = sandbox.listen(&ann);
    drop(who(&sandbox, &ann, &[]).expect(0));
    let older = older.end().expect(75);
    older.complains("took over");
    assert!(older.out.contains(r#""event":"closed","reason":"superseded""#), "{}", older.out);
}

#[test]
fn a_full_server_says_so() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve_with(&["--port", "auto", "--max-sessions", "1"]);
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let listener = sandbox.listen(&ann);
    let full = who(&sandbox, &bob, &["--json"]).expect(75);
    assert_eq!(full.json()["error"], "try_later");
    drop(run(sandbox.client_of(&bob, &["listen"])).expect(75));
    listener.signal(Signal::TERM);
    drop(listener.end().expect(0));
    drop(who(&sandbox, &bob, &[]).expect(0));
}

/// Changes a security file's ciphertext by one bit.
fn flipped(sec: &[u8]) -> Vec<u8> {
    let mut envelope: Value = serde_json::from_slice(sec).expect("a security file is JSON");
    let text = envelope["ciphertext"].as_str().expect("it has a ciphertext");
    let mut bytes = STANDARD.decode(text).expect("in base64");
    bytes[100] ^= 1;
    envelope["ciphertext"] = STANDARD.encode(bytes).into();
    serde_json::to_vec(&envelope).expect("JSON can be written")
}

#[test]
fn damaged_files_and_wrong_keys_are_told_apart() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let sec = fs::read(&ann.sec).unwrap();
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0".to_vec();
    let damaged = ann.with(&sandbox.path("damaged.sec"));
    let cases = [
        ("was changed", flipped(&sec)),
        ("is damaged", sec[..sec.len() / 2].to_vec()),
        ("is not a ClawChat security file", Vec::new()),
        ("is not a ClawChat security file", png),
        ("is not a ClawChat security file", vec![b'A'; 70_000]),
        ("is not a ClawChat security file", [&sec[..], &[b' '; 70_000]].concat()),
        ("", b"{}".to_vec()),
    ];
    for (what, bytes) in cases {
        fs::write(&damaged.sec, bytes).unwrap();
        let refused = who(&sandbox, &damaged, &["--json"]).expect(65);
        assert_eq!(refused.json()["error"], "sec_damaged");
        refused.complains(what);
    }
    let wrong = who(&sandbox, &bob.with(&ann.sec), &["--json"]).expect(77);
    assert_eq!(wrong.json()["error"], "not_permitted");
    wrong.complains("intact");
    fs::write(&damaged.key, "no key at all").unwrap();
    drop(who(&sandbox, &ann, &[]).expect(77));
    let missing = sandbox.path("missing");
    drop(who(&sandbox, &bob.with(&missing), &[]).expect(66));
    let keyless = Member { key: missing, ..bob };
    drop(who(&sandbox, &keyless, &[]).expect(66));
    drop(run(sandbox.client(&["who"])).expect(66));
}

/// A security file with all that a client wants, valid from now.
fn security_file(port: u16) -> SecurityFile {
    let now = unix_now().as_secs();
    SecurityFile {
        server_id: "cc-test".into(),
        server_name: "Test".into(),
        server_public_ip: "127.0.0.1".into(),
        server_udp_port: port,
        shared_secret: Secret::take(&mut [3; 32]),
        bootstrap_key_id: "bootstrap-ann".into(),
        timestamp: now,
        valid_from: now,
        valid_until: now + 3600,
        next_rotation: now + 3600,
        grace_period: 300,
        stun_servers: Vec::new(),
        hole_punch_timeout: 60,
        port_schedule: None,
        response_timeout: 10,
    }
}

/// Writes what a member carries.
fn carry(sandbox: &Sandbox, sec: &[u8], key: &str) -> Member {
    let (path, key_file) = (sandbox.path("carried.sec"), sandbox.path("carried.key"));
    fs::write(&path, sec).expect("a file can be written");
    fs::write(&key_file, key).expect("a file can be written");
    Member { name: "ann".into(), sec: path, key: key_file }
}

fn carry_sealed(sandbox: &Sandbox, content: &SecurityFile) -> Member {
    let sec = envelope::seal(content, &Secret::take(&mut [7; 32]), [1; 32], [2; 12]);
    carry(sandbox, &sec, &STANDARD.encode([7; 32]))
}

#[test]
fn files_have_their_time() {
    let sandbox = Sandbox::new();
    let path = vectors::own_folder().join("security_file.json");
    let known: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let cases = known["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let sec = serde_json::to_vec(&case["file"]).unwrap();
        let old = carry(&sandbox, &sec, case["bootstrap_key"].as_str().unwrap());
        let refused = who(&sandbox, &old, &["--json"]).expect(80);
        assert_eq!(refused.json()["error"], "sec_expired");
        refused.complains("clock says");
    }
    let now = unix_now().as_secs();
    let early = |wait| SecurityFile { valid_from: now + wait, ..security_file(free_port()) };
    let refused = who(&sandbox, &carry_sealed(&sandbox, &early(1200)), &["--json"]).expect(81);
    assert_eq!(refused.json()["error"], "clock_skew");
    refused.complains("is not valid for another");
    // Five minutes are forgiven: it is only that nobody is there.
    drop(who(&sandbox, &carry_sealed(&sandbox, &early(250)), &SILENCE).expect(69));
    let late = |ago| SecurityFile { valid_until: now - ago, ..security_file(free_port()) };
    drop(who(&sandbox, &carry_sealed(&sandbox, &late(330)), &[]).expect(80));
    drop(who(&sandbox, &carry_sealed(&sandbox, &late(200)), &SILENCE).expect(69));
}

/// The server's machine in this process, with a clock of its own.
struct SkewedServer {
    member: Member,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for SkewedServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Completes what the machine asks for; the file that it issued.
fn complete(
    machine: &mut Machine,
    now: Now,
    path: &mut Option<UdpPath>,
) -> Option<SecurityFileDraft> {
    let mut issued = None;
    while let Some((op, action)) = machine.poll_action() {
        match action {
            Action::BindPort { port, .. } => {
                *path = Some(UdpPath::new(port, ([127, 0, 0, 1], 1).into()));
            }
            Action::IssueSecurityFile { draft } => issued = Some(*draft),
            _ => {}
        }
        machine.handle_completion(now, op, Outcome::Done);
    }
    while machine.poll_event().is_some() {}
    issued
}

/// Serves one member with a wall clock that is `ahead_ms` off; the member's file has the right time.
fn serve_skewed(sandbox: &Sandbox, ahead_ms: i64) -> SkewedServer {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
    let number = socket.local_addr().expect("it is bound").port();
    let started = Instant::now();
    let now = move |ahead: i64| {
        let micros = u64::try_from(started.elapsed().as_micros()).expect("no test takes so long");
        let wall = u64::try_from(unix_now().as_millis()).expect("it is not so late");
        let wall = UnixMs(wall.saturating_add_signed(ahead));
        Now { mono: Mono::from_micros(micros), wall }
    };
    let config = clawchat_core::server::ServerConfig {
        server_id: "cc-skewed".into(),
        server_name: "Skewed".into(),
        public: "127.0.0.1".into(),
        port: PortChoice::Fixed(number),
        timing: clawchat_core::server::Timing::default(),
        renewal_valid_for: clawchat_core::server::RENEWAL_VALID_FOR,
        members: Vec::new(),
        credentials: Vec::new(),
        chats: Vec::new(),
        files: Vec::new(),
        max_sessions: SESSIONS,
        key_limits: KeyLimits::default(),
        provider: &RustCrypto,
    };
    let mut machine = Machine::new(config, &Seed::new(&mut [9; 32]), now(0));
    let mut path = None;
    machine.issue(now(0), "ann", &[], 3600).expect("a name");
    let draft = complete(&mut machine, now(0), &mut path).expect("a file was issued");
    let member = carry_sealed(sandbox, &draft.content);
    let path = path.expect("a port was bound");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a socket has timeouts");
    let thread = std::thread::spawn(move || {
        let mut buffer = vec![0; DATAGRAM_MAX];
        while !stopped.load(Ordering::SeqCst) {
            if let Ok((len, remote)) = socket.recv_from(&mut buffer) {
                let path = UdpPath { remote, ..path };
                machine.handle_datagram(now(ahead_ms), path, &mut buffer[..len]);
            }
            let due = machine.poll_timeout().is_some_and(|due| due.at <= now(0).mono);
            if due {
                machine.handle_timeout(now(ahead_ms));
            }
            complete(&mut machine, now(ahead_ms), &mut None);
            while let Some(sent) = machine.poll_transmit(now(ahead_ms), &mut buffer) {
                // What can't be sent is lost, as on any network.
                drop(socket.send_to(&buffer[..sent.len], sent.path.remote));
            }
        }
    });
    SkewedServer { member, stop, thread: Some(thread) }
}

#[test]
fn clocks_that_differ_are_told() {
    for (ahead_ms, side) in [(600_500, "behind"), (-600_500, "ahead of")] {
        let sandbox = Sandbox::new();
        let server = serve_skewed(&sandbox, ahead_ms);
        let refused = who(&sandbox, &server.member, &["--json"]).expect(81);
        assert_eq!(refused.json()["error"], "clock_skew");
        refused.complains(&format!("10 min {side} the server's"));
        refused.complains("timedatectl");
    }
    for (ahead_ms, warning) in [(0, false), (120_500, true), (-120_500, true)] {
        let sandbox = Sandbox::new();
        let server = serve_skewed(&sandbox, ahead_ms);
        let there = who(&sandbox, &server.member, &[]).expect(0);
        assert_eq!(there.err.contains("warning: this computer's clock is 2 min"), warning);
    }
}

#[test]
fn an_absent_server_is_unreachable() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let ann = sandbox.issue("ann");
    for words in [&["who"][..], &["status"], &["listen"], &["chat"], &["send", "hi"]] {
        let started = Instant::now();
        let words: Vec<_> = words.iter().chain(&["--json", "--timeout", "1s"]).copied().collect();
        let alone = run(sandbox.client_of(&ann, &words)).expect(69);
        assert_eq!(alone.json()["error"], "unreachable");
        alone.complains("127.0.0.1");
        assert!((1..10).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    }
}

#[test]
fn usage_errors_are_2() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let ann = sandbox.issue("ann");
    for words in [
        &["who", "--no-such-flag"][..],
        &["no-such-command"],
        &[],
        &["send"],
        &["send", "--to", "bob", "hi"],
        &["send", "--to", "@BOB", "hi"],
        &["send", "--to", "#", "hi"],
        &["chat", "--to", "@"],
        &["send", "hi", "--timeout", "never"],
        &["send", "hi", "--timeout", "5y"],
        &["who", "--port", "0"],
        &["who", "--port", "70000"],
        &["compromised"],
        &["compromised", "--no-input"],
        &["who", "--key-stdin"],
    ] {
        drop(run(sandbox.client_of(&ann, words)).expect(2));
    }
    let sec = ann.sec.to_str().unwrap();
    run(sandbox.client(&["who", "--sec", sec])).expect(2).complains("--key-file");
    run(sandbox.client(&["who", "--sec", sec, "--no-input"])).expect(2).complains("--key-file");
    drop(run(sandbox.client(&["who", "--profile", "../x"])).expect(2));
    for words in [
        &["run", "--port", "0"][..],
        &["run", "--port", "70000"],
        &["run", "--bind", "nowhere"],
        &["run", "--max-sessions", "0"],
        &["issue"],
        &["issue", "bob", "--valid-for", "soon"],
        &["issue", "bob", "--room", "#ops"],
        &["compromised", "ann"],
        &["no-such-command"],
    ] {
        drop(run(sandbox.server(words)).expect(2));
    }
    assert!(ann.sec.exists());
    let long = "x".repeat(200);
    drop(run(sandbox.server(&["init", "--name", &long])).expect(2));
}

#[test]
fn errors_are_documents_too() {
    let sandbox = Sandbox::new();
    sandbox.init();
    let ann = sandbox.issue("ann");
    let check = |command, code: i32, name: &str| {
        let failed = run(command).expect(code);
        let error = failed.json();
        assert_eq!((&error["error"], &error["code"]), (&name.into(), &code.into()));
        let message = error["message"].as_str().expect("a message");
        failed.complains(&format!("error[{name}]: {message}"));
        assert_eq!(error["schema"], 1);
    };
    check(sandbox.client(&["who", "--json", "--sec", "missing.sec"]), 66, "no_such_file");
    check(sandbox.client_of(&ann, &["--json", "send", "--to", "bob", "hi"]), 2, "usage");
    check(sandbox.client_of(&ann, &["compromised", "--json"]), 2, "usage");
    check(sandbox.server(&["--json", "status"]), 69, "unreachable");
    check(sandbox.server(&["--json", "issue", "../x"]), 2, "usage");
    check(
        sandbox.server(&["--json", "compromised", "x", "--yes-wipe-all-keys"]),
        66,
        "no_such_file",
    );
    let issued = run(sandbox.server(&["issue", "bob", "--json", "-o", "bob.sec"])).expect(0).json();
    assert_eq!((&issued["event"], &issued["path"]), (&"issued".into(), &"bob.sec".into()));
    assert!(sandbox.path("bob.sec").exists());
}

#[test]
fn files_are_carried_as_text_too() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let ann = sandbox.issue("ann");
    let sec = fs::read(&ann.sec).unwrap();
    let text = STANDARD.encode(&sec);
    let lines: Vec<_> = text.as_bytes().chunks(60).collect();
    let text = [b"\r\n  ", &lines.join(&b"\r\n"[..])[..], b"\n\n"].concat();
    let carried = ann.with(&sandbox.path("carried.txt"));
    fs::write(&carried.sec, &text).unwrap();
    drop(who(&sandbox, &carried, &[]).expect(0));
    for bytes in [&sec, &text] {
        let from_stdin = sandbox.client_of(&ann.with(Path::new("-")), &["who"]);
        drop(Process::start_with(from_stdin, bytes).end().expect(0));
    }
    let sec = ann.sec.to_str().unwrap();
    let key = fs::read(&ann.key).unwrap();
    let typed = sandbox.client(&["who", "--key-stdin", "--sec", sec]);
    drop(Process::start_with(typed, &key).end().expect(0));
    let issued = run(sandbox.server(&["issue", "ann", "-o", "-"])).expect(0);
    let printed = ann.with(&sandbox.path("printed.sec"));
    fs::write(&printed.sec, &issued.out).unwrap();
    drop(who(&sandbox, &printed, &[]).expect(0));
    let shown = run(sandbox.server(&["issue", "ann", "-o", "x.sec", "--key-out", "-"])).expect(0);
    assert_eq!(shown.out.as_bytes(), key.trim_ascii());
}

#[test]
fn keys_come_from_many_places() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let shown = run(sandbox.server(&["issue", "ann", "-o", "ann.sec"])).expect(0);
    let start = shown.err.split("shown once").nth(1).unwrap();
    let (words, rest) = start.split_once("or as base64:").unwrap();
    let words: Vec<_> =
        words.lines().skip(1).flat_map(str::split_whitespace).skip(1).step_by(2).collect();
    assert_eq!(words.len(), 24, "{}", shown.err);
    let key = rest.split_whitespace().next().unwrap();
    let ann =
        Member { name: "ann".into(), sec: sandbox.path("ann.sec"), key: sandbox.path("ann.words") };
    fs::write(&ann.key, words.join("\n")).unwrap();
    drop(who(&sandbox, &ann, &[]).expect(0));
    let sec = ["who", "--sec", "ann.sec"];
    let mut by_env = sandbox.client(&sec);
    by_env.env("CLAWCHAT_BOOTSTRAP_KEY", key);
    run(by_env).expect(0).complains("CLAWCHAT_BOOTSTRAP_KEY");
    let mut by_env = sandbox.client(&sec);
    by_env.env("CLAWCHAT_BOOTSTRAP_KEY_FILE", &ann.key);
    drop(run(by_env).expect(0));
    let mut by_service = sandbox.client(&sec);
    fs::write(sandbox.path("bootstrap.key"), key).unwrap();
    by_service.env("CREDENTIALS_DIRECTORY", sandbox.path("."));
    drop(run(by_service).expect(0));
    fs::write(&ann.key, words.join(" ").replace(words[13], "ocian")).unwrap();
    who(&sandbox, &ann, &[]).expect(77).complains("ocian");
    let again = run(sandbox.server(&["issue", "ann", "-o", "again.sec"])).expect(0);
    assert!(!again.err.contains(words[0]) || !again.err.contains(key), "shown twice");
}

#[test]
fn a_profile_needs_no_files_any_more() {
    let sandbox = Sandbox::new();
    let _server = sandbox.serve();
    let ann = sandbox.issue("ann");
    let mut open = sandbox.client(&["open"]);
    open.arg(&ann.sec).arg("--key-file").arg(&ann.key);
    drop(run(open).expect(0));
    fs::remove_file(&ann.sec).unwrap();
    fs::remove_file(&ann.key).unwrap();
    drop(run(sandbox.client(&["send", "hello"])).expect(0));
    drop(run(sandbox.client(&["who", "--profile", "other"])).expect(66));
    drop(run(sandbox.client(&["compromised", "--yes-wipe-all-keys"])).expect(0));
    drop(run(sandbox.client(&["who"])).expect(66));
}

#[test]
fn a_stopping_server_says_goodbye() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let (ann, bob) = (sandbox.issue("ann"), sandbox.issue("bob"));
    let mut listener = sandbox.listen(&ann);
    server.stop();
    assert_eq!(listener.event("disconnected")["reason"], "shutdown");
    let server = sandbox.serve();
    listener.event("connected");
    sandbox.send(&bob, "@ann", "welcome back");
    listener.chat("welcome back");
    listener.signal(Signal::INT);
    drop(listener.end().expect(0));
    let listener = sandbox.listen(&ann);
    listener.signal(Signal::TERM);
    drop(listener.end().expect(0));
    server.process.signal(Signal::INT);
    let ended = server.process.end().expect(0);
    let reasons: Vec<_> = ended
        .out
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["event"] == "disconnected")
        .map(|event| event["reason"].clone())
        .collect();
    assert_eq!(reasons, ["goodbye"; 3]);
}

#[test]
fn one_server_a_folder_and_a_port() {
    let sandbox = Sandbox::new();
    let port = free_port();
    let fixed = port.to_string();
    let server = sandbox.serve_with(&["--port", &fixed]);
    assert_eq!(server.port, port);
    let second = run(sandbox.run(&["--port", "auto"])).expect(78);
    assert_eq!(second.json()["error"], "config");
    second.complains("another server");
    let other = Sandbox::new();
    let taken = run(other.run(&["--port", &fixed])).expect(78);
    taken.complains("--port");
    assert_eq!(taken.json()["error"], "config");
    let ann = sandbox.issue("ann");
    drop(who(&sandbox, &ann, &[]).expect(0));
    drop(who(&sandbox, &ann, &["--port", &fixed]).expect(0));
    drop(who(&sandbox, &ann, &["--port", &free_port().to_string(), "--timeout", "1s"]).expect(69));
    server.stop();
    // The setting is kept.
    assert_eq!(sandbox.serve_with(&[]).port, port);
}

#[test]
fn strangers_get_no_answer() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let ann = sandbox.issue("ann");
    let stranger = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut rng = chance();
    let dropped = || -> u64 {
        let status = run(sandbox.server(&["status", "--json"])).expect(0).json();
        status["dropped"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
    };
    // Few at a time: a full socket buffer would drop the rest before the server sees them.
    for round in 1..=10 {
        for _ in 0..20 {
            let len = 1 + rng.index(1500);
            stranger.send_to(&rng.bytes(len), ("127.0.0.1", server.port)).unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while dropped() < round * 20 {
            assert!(Instant::now() < deadline, "some were not looked at");
        }
    }
    drop(who(&sandbox, &ann, &[]).expect(0));
    assert!(stranger.recv_from(&mut [0; 2000]).is_err(), "a stranger got an answer");
}

#[test]
fn keys_stay_out_of_proc_and_of_core_dumps() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve();
    let ann = sandbox.issue("ann");
    let listener = sandbox.listen(&ann);
    let key = fs::read_to_string(&ann.key).unwrap();
    for pid in [server.process.id(), listener.id()] {
        for name in ["cmdline", "environ"] {
            match fs::read(format!("/proc/{pid}/{name}")) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    assert!(!text.contains(key.trim()), "the key is in {name}");
                }
                // The kernel hides it from everybody but root: better still.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
            }
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let values: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
        assert_eq!(values, ["0", "0"], "{core}");
    }
}
