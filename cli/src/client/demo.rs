//! `demo`: a real server and real clients on loopback, in a folder that is gone afterwards.

use super::args::Common;
use crate::failure::{Exit, Failure, Outcome};
use crate::text::{answer, one_line};
use clawchat_core::wire::json::Object;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// No step takes longer on any machine that can run it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folder and the processes, which go whatever happens.
#[derive(Debug)]
struct Stage {
    folder: tempfile::TempDir,
    program: PathBuf,
    children: Arc<Mutex<Vec<Child>>>,
    /// A signal came: the thread that took it clears everything away and ends the process.
    interrupted: Arc<AtomicBool>,
    json: bool,
    step: u32,
}

impl Drop for Stage {
    fn drop(&mut self) {
        end_all(&self.children);
    }
}

fn end_all(children: &Mutex<Vec<Child>>) {
    let mut children = match children.lock() {
        Ok(children) => children,
        Err(poisoned) => poisoned.into_inner(),
    };
    for child in children.iter_mut() {
        // One that has ended already can't be killed.
        let _ended = child.kill().and_then(|()| child.wait());
    }
}

/// A process whose stdout is lines of JSON.
#[derive(Debug)]
struct Player {
    id: u32,
    events: Receiver<Object>,
    _stdin: Option<ChildStdin>,
}

impl Player {
    /// The next event of this name; those before it are passed over.
    fn wait(&self, name: &str) -> Outcome<Object> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if event.text("event") == Ok(name) => return Ok(event),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(failed(&format!("no `{name}` came in {} s", PATIENCE.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(&format!("a process ended before `{name}`")));
                }
            }
        }
    }
}

/// A child's number and its ends of the pipes.
struct Spawned {
    id: u32,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

/// All that a process says, until it has ended.
fn read(from: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What it said before the pipe broke is all there is.
    let _read = from.map(|mut from| from.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn failed(what: &str) -> Box<Failure> {
    Failure::new(Exit::Failed, format!("the demo failed: {what}"))
}

impl Stage {
    fn set(json: bool) -> Outcome<Self> {
        let folder = tempfile::Builder::new().prefix("clawchat-demo-").tempdir();
        let folder = folder.map_err(|error| failed(&format!("no temporary folder: {error}")))?;
        let program = std::env::current_exe().map_err(|error| failed(&error.to_string()))?;
        let children = Arc::new(Mutex::new(Vec::new()));
        let interrupted = Arc::default();
        let stage = Self { folder, program, children, interrupted, json, step: 0 };
        stage.clear_on_signal()?;
        Ok(stage)
    }

    /// Ctrl-C leaves nothing behind either.
    fn clear_on_signal(&self) -> Outcome<()> {
        let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]);
        let mut signals = signals.map_err(|error| failed(&error.to_string()))?;
        let (children, folder) = (self.children.clone(), self.folder.path().to_owned());
        let interrupted = self.interrupted.clone();
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                interrupted.store(true, Ordering::SeqCst);
                end_all(&children);
                let _gone = std::fs::remove_dir_all(folder);
                std::process::exit(Exit::Interrupted as i32);
            }
        });
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("CLAWCHAT_BOOTSTRAP_KEY");
        // What a client keeps for its user goes with the folder.
        let home = self.path("home");
        command.env("HOME", &home).env("XDG_STATE_HOME", &home);
        command
    }

    /// Starts a command that a signal ends, too. Once one came, nothing more is started.
    fn spawn(&self, mut command: Command) -> Outcome<Spawned> {
        let mut children = self.children.lock().map_err(|_| failed("a thread panicked"))?;
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(failed("it was interrupted"));
        }
        let child = command.spawn();
        let mut child = child.map_err(|error| failed(&format!("cannot start: {error}")))?;
        let (id, stdin) = (child.id(), child.stdin.take());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        children.push(child);
        Ok(Spawned { id, stdin, stdout, stderr })
    }

    /// Waits until a process has ended that is about to.
    fn reap(&self, id: u32) -> Outcome<ExitStatus> {
        let mut children = self.children.lock().map_err(|_| failed("a thread panicked"))?;
        let at = children.iter().position(|child| child.id() == id);
        let mut child = children.remove(at.ok_or_else(|| failed("a process got lost"))?);
        drop(children);
        child.wait().map_err(|error| failed(&error.to_string()))
    }

    /// Runs a command to its end: its exit code, stdout and stderr.
    fn run(&self, words: &[&str]) -> Outcome<(i32, String, String)> {
        let Spawned { id, stdout, stderr, .. } = self.spawn(self.command(words))?;
        let errors = std::thread::spawn(move || read(stderr));
        let out = read(stdout);
        let error = errors.join().map_err(|_| failed("a thread panicked"))?;
        Ok((self.reap(id)?.code().unwrap_or(-1), out, error))
    }

    /// The same, and it must succeed.
    fn must(&self, words: &[&str]) -> Outcome<String> {
        match self.run(words)? {
            (0, out, _) => Ok(out),
            (code, _, error) => {
                Err(failed(&format!("`{}` ended with {code}", words.join(" ")))
                    .fact(one_line(&error)))
            }
        }
    }

    /// Starts a process that prints events.
    fn start(&self, words: &[&str]) -> Outcome<Player> {
        let mut command = self.command(words);
        command.stderr(Stdio::null());
        let Spawned { id, stdin: _stdin, stdout, .. } = self.spawn(command)?;
        let (sender, events) = channel();
        if let Some(out) = stdout {
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    let event = Object::parse(line.as_bytes());
                    if event.is_ok_and(|event| sender.send(event).is_err()) {
                        return;
                    }
                }
            });
        }
        Ok(Player { id, events, _stdin })
    }

    /// Ends a process as a user would, and waits for it.
    fn stop(&self, player: &Player) -> Outcome<()> {
        let pid = i32::try_from(player.id).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| failed("a process without a number"))?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|error| failed(&error.to_string()))?;
        let status = self.reap(player.id)?;
        if status.success() {
            Ok(())
        } else {
            Err(failed(&format!("a process ended with {status}")))
        }
    }

    fn say(&mut self, text: &str) {
        self.step += 1;
        if self.json {
            let step = crate::text::event("step").with("step", u64::from(self.step));
            crate::text::print(&step.with("text", text));
        } else {
            answer(&format!("{:>2}. {text}", self.step));
            let _shown = std::io::stdout().flush();
        }
    }
}

fn check(holds: bool, what: &str) -> Outcome<()> {
    if holds { Ok(()) } else { Err(failed(what)) }
}

/// Arguments as text: the demo's own paths are.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// `demo`
pub(super) fn demo(common: &Common) -> Outcome<()> {
    let mut stage = Stage::set(common.json)?;
    let played = play(&mut stage);
    // What fails because its processes were ended is no failure of the demo.
    while stage.interrupted.load(Ordering::SeqCst) {
        std::thread::park();
    }
    played
}

fn play(stage: &mut Stage) -> Outcome<()> {
    let state = text(&stage.path("server"));
    let server = stage.start(&[
        "server",
        "run",
        "--state",
        &state,
        "--bind",
        "127.0.0.1",
        "--public",
        "127.0.0.1",
        "--name",
        "Demo",
        "--port",
        "auto",
        "--json",
    ])?;
    let listening = server.wait("listening")?;
    let port = listening.uint("port").unwrap_or(0);
    stage.say(&format!(
        "A server process listens on UDP 127.0.0.1:{port}. Strangers get no answer from it."
    ));
    let files = issue(stage, &state)?;
    chat(stage, &files, &server)?;
    file(stage, &files)?;
    rotate(stage, &files, &state)?;
    compromise(stage, &files, &state, &server)?;
    stage.stop(&server)?;
    stage.say("The server said goodbye to everybody and stopped; nothing is left behind.");
    Ok(())
}

/// What each member carries.
struct Files {
    ann: [String; 4],
    bob: [String; 4],
}

impl Files {
    fn with<'a>(own: &'a [String; 4], words: &[&'a str]) -> Vec<&'a str> {
        words.iter().copied().chain(own.iter().map(String::as_str)).collect()
    }
}

fn issue(stage: &mut Stage, state: &str) -> Outcome<Files> {
    let one = |name: &str| -> Outcome<[String; 4]> {
        let (sec, key) = (stage.path(&format!("{name}.sec")), stage.path(&format!("{name}.key")));
        let (sec, key) = (text(&sec), text(&key));
        stage.must(&["server", "issue", name, "--state", state, "-o", &sec, "--key-out", &key])?;
        Ok(["--sec".to_owned(), sec, "--key-file".to_owned(), key])
    };
    let files = Files { ann: one("ann")?, bob: one("bob")? };
    stage.say("It issued an encrypted security file for each of ann and bob, who carry them home.");
    Ok(files)
}

fn chat(stage: &mut Stage, files: &Files, server: &Player) -> Outcome<()> {
    let bob = stage.start(&Files::with(&files.bob, &["listen", "--json"]))?;
    bob.wait("connected")?;
    stage.say("bob's client opened his file, found the server over UDP and listens.");
    let hello = "Hello bob, nobody else can read this.";
    stage.must(&Files::with(&files.ann, &["send", "--to", "@bob", hello]))?;
    let heard = bob.wait("chat")?;
    check(
        heard.text("text") == Ok(hello) && heard.text("from") == Ok("ann"),
        "bob heard something else",
    )?;
    stage.say(&format!("ann wrote to bob, and bob read: \"{hello}\""));
    stage.must(&Files::with(&files.ann, &["send", "--to", "@server", "How are you?"]))?;
    let asked = loop {
        let chat = server.wait("chat")?;
        if chat.text("to") == Ok("@server") {
            break chat;
        }
    };
    check(asked.text("text") == Ok("How are you?"), "the server heard something else")?;
    stage.say("ann wrote to the server itself, where an agent would read it.");
    stage.stop(&bob)?;
    stage.must(&Files::with(&files.ann, &["send", "--to", "#lobby", "Read this later."]))?;
    let bob = stage.start(&Files::with(&files.bob, &["listen", "--json"]))?;
    let later = bob.wait("chat")?;
    check(later.text("text") == Ok("Read this later."), "bob's mail is lost")?;
    stage.stop(&bob)?;
    stage.say("bob was away when ann wrote to #lobby; the server kept it until he came back.");
    Ok(())
}

fn file(stage: &mut Stage, files: &Files) -> Outcome<()> {
    let (source, into) = (stage.path("photo.raw"), stage.path("got"));
    let content: Vec<u8> = (0_u32..1 << 20).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&source, &content).map_err(|error| failed(&error.to_string()))?;
    let (path, folder) = (text(&source), text(&into));
    stage.must(&Files::with(&files.ann, &["send-file", "--to", "@bob", &path]))?;
    stage.must(&Files::with(&files.bob, &["get", "photo.raw", "-o", &folder]))?;
    let got = std::fs::read(into.join("photo.raw"));
    check(got.is_ok_and(|got| got == content), "the file is another")?;
    stage.say("ann sent bob a file of 4 MB while he was away; he fetched it, whole and verified.");
    Ok(())
}

fn rotate(stage: &mut Stage, files: &Files, state: &str) -> Outcome<()> {
    let bob = stage.start(&Files::with(&files.bob, &["listen", "--json"]))?;
    bob.wait("connected")?;
    stage.must(&["server", "rotate-keys", "bob", "--state", state])?;
    let rotated = bob.wait("key_rotated")?;
    let epoch = rotated.uint("epoch").unwrap_or(0);
    check(epoch == 2, "the keys did not rotate")?;
    stage.must(&Files::with(&files.ann, &["send", "--to", "@bob", "Still here?"]))?;
    bob.wait("chat")?;
    stage.stop(&bob)?;
    stage.say("The keys of bob's session rotated to epoch 2 while he was chatting; the old ones are gone.");
    Ok(())
}

fn compromise(stage: &mut Stage, files: &Files, state: &str, server: &Player) -> Outcome<()> {
    let copy = stage.path("stolen.sec");
    std::fs::copy(&files.bob[1], &copy).map_err(|error| failed(&error.to_string()))?;
    stage.must(&Files::with(&files.bob, &["compromised", "--yes-wipe-all-keys"]))?;
    server.wait("compromised")?;
    check(!Path::new(&files.bob[1]).exists(), "bob's file is still there")?;
    stage.say(
        "bob raised COMPROMISED: his keys and his file are destroyed, here and at the server.",
    );
    let stolen = ["--sec".to_owned(), text(&copy), files.bob[2].clone(), files.bob[3].clone()];
    let (code, _, _) = stage.run(&Files::with(&stolen, &["who", "--timeout", "3s"]))?;
    check(code == Exit::Unreachable as i32, "a stolen file still works")?;
    stage.say("A thief's copy of his old file meets silence.");
    let folder = Path::new(state).join("security");
    let newest = std::fs::read_dir(&folder)
        .map_err(|error| failed(&error.to_string()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| {
            let new = ["--sec".to_owned(), text(path), files.bob[2].clone(), files.bob[3].clone()];
            matches!(stage.run(&Files::with(&new, &["who"])), Ok((0, ..)))
        });
    check(newest.is_some(), "there is no replacement file that works")?;
    stage.say("The server made a replacement file; carried to bob, it connects him again.");
    stage.must(&Files::with(&files.ann, &["send", "--to", "#lobby", "I never noticed."]))?;
    stage.say("ann chatted on all the while.");
    Ok(())
}
