//! The real binaries, each test in a folder of its own: started, listened to line by line, stopped.
//!
//! A wait is for an event and has a deadline; when it comes, the panic shows all that the process
//! said. Whatever becomes of a test, its processes end with it.

use core::fmt;
use core::sync::atomic::{AtomicU16, Ordering};
use core::time::Duration;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;
use tempfile::TempDir;

/// No wait takes longer on any machine that can run the tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A binary of the workspace. They are built once a test process, with the tests' own profile.
///
/// # Panics
/// When they can't be built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build).join(name)
}

/// Builds the binaries; the folder that they are in.
fn build() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its program");
    // TARGET/PROFILE/deps/e2e-HASH
    let folder = own.ancestors().nth(2).expect("cargo runs tests from a folder of a target folder");
    let target = folder.parent().expect("a profile's folder is in a target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "clawchat-cli", "--bins", "--target-dir"]);
    command.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => {}
        Some("release") => drop(command.arg("--release")),
        Some(profile) => drop(command.args(["--profile", profile])),
    }
    let status = command.status().expect("cargo can be started");
    assert!(status.success(), "the binaries could not be built");
    folder.to_owned()
}

/// A port that nobody uses now. It lies below those that the system gives away by itself, so that no
/// socket of another test gets it in the meantime.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 150).unwrap_or(0) * 100;
    (0..100)
        .map(|_| 10_000 + own + NEXT.fetch_add(1, Ordering::Relaxed) % 100)
        .find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok())
        .expect("one of a hundred ports is free")
}

/// A folder with a home, a place for temporary files and a state folder, and the commands in it.
#[derive(Debug)]
pub struct Sandbox {
    folder: TempDir,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// An empty one.
    ///
    /// # Panics
    /// When it can't be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("clawchat-test-").tempdir();
        let sandbox = Self { folder: folder.expect("a temporary folder can be made") };
        for name in ["home", "tmp"] {
            std::fs::create_dir(sandbox.path(name)).expect("a folder can be made in it");
        }
        sandbox
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The state folder of its server.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A command that sees nothing of the machine's own ClawChat.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let ours = name.to_string_lossy();
            if ours.starts_with("CLAWCHAT_") || ours.starts_with("XDG_") {
                command.env_remove(&name);
            }
        }
        command.env_remove("CREDENTIALS_DIRECTORY");
        command.env("HOME", self.path("home")).env("TMPDIR", self.path("tmp"));
        for (name, folder) in [
            ("XDG_CONFIG_HOME", "home/config"),
            ("XDG_DATA_HOME", "home/data"),
            ("XDG_STATE_HOME", "home/state"),
            ("XDG_RUNTIME_DIR", "home/run"),
        ] {
            command.env(name, self.path(folder));
        }
        command.current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `clawchat WORDS`
    #[must_use]
    pub fn client(&self, words: &[&str]) -> Command {
        let mut command = self.command(program("clawchat"));
        command.args(words);
        command
    }

    /// `clawchat WORDS` as a member.
    #[must_use]
    pub fn client_of(&self, member: &Member, words: &[&str]) -> Command {
        let mut command = self.client(words);
        command.arg("--sec").arg(&member.sec).arg("--key-file").arg(&member.key);
        command
    }

    /// `clawchat-server WORDS` on the state folder.
    #[must_use]
    pub fn server(&self, words: &[&str]) -> Command {
        let mut command = self.command(program("clawchat-server"));
        command.args(words).arg("--state").arg(self.state());
        command
    }

    /// `clawchat-server run WORDS` on loopback.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Command {
        let mut command = self.server(&["run", "--bind", "127.0.0.1", "--public", "127.0.0.1"]);
        command.args(words).arg("--json");
        command
    }

    /// A server, ready, at a port of its schedule.
    #[must_use]
    pub fn serve(&self) -> Server {
        self.serve_with(&["--port", "auto"])
    }

    /// A server with these options, ready.
    #[must_use]
    pub fn serve_with(&self, words: &[&str]) -> Server {
        Server::ready(Process::start(self.run(words)))
    }

    /// Makes a state folder with no server running.
    pub fn init(&self) {
        let init = self.server(&["init", "--public", "127.0.0.1", "--port", "auto"]);
        drop(Process::start(init).end().expect(0));
    }

    /// Issues a file to a member.
    #[must_use]
    pub fn issue(&self, name: &str) -> Member {
        self.issue_with(name, name, &[])
    }

    /// Issues a file to a member under another file name, with more options.
    #[must_use]
    pub fn issue_with(&self, name: &str, file: &str, words: &[&str]) -> Member {
        let member = Member {
            name: name.to_owned(),
            sec: self.path(&format!("{file}.sec")),
            key: self.path(&format!("{file}.key")),
        };
        let mut command = self.server(&["issue", name]);
        command.args(words).arg("-o").arg(&member.sec).arg("--key-out").arg(&member.key);
        drop(Process::start(command).end().expect(0));
        member
    }

    /// Listens as a member, connected.
    #[must_use]
    pub fn listen(&self, member: &Member) -> Process {
        let mut process = Process::start(self.client_of(member, &["listen", "--json"]));
        process.event("connected");
        process
    }

    /// Sends, stored.
    pub fn send(&self, member: &Member, to: &str, text: &str) {
        let mut command = self.client_of(member, &["send", "--to", to]);
        drop(
            Process::start({
                command.arg(text);
                command
            })
            .end()
            .expect(0),
        );
    }
}

/// What a member carries.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its security file.
    pub sec: PathBuf,
    /// Its bootstrap key, in base64.
    pub key: PathBuf,
}

impl Member {
    /// The same key with another security file.
    #[must_use]
    pub fn with(&self, sec: &Path) -> Self {
        Self { sec: sec.to_owned(), ..self.clone() }
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub process: Process,
    /// Its UDP port.
    pub port: u16,
}

impl Server {
    /// Waits until it listens, which is the first that it says.
    ///
    /// # Panics
    /// When it says something else, or nothing.
    #[must_use]
    pub fn ready(mut process: Process) -> Self {
        let first = process.find("any event", PATIENCE, |_| true);
        assert_eq!(first["event"], "listening", "{process}");
        let port = first["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Self { port: port.expect("a port has 16 bits"), process }
    }

    /// Ends it with SIGTERM; it must do so well.
    pub fn stop(self) {
        self.process.signal(Signal::TERM);
        drop(self.process.end().expect(0));
    }
}

enum Line {
    Out(String),
    Err(String),
    End,
}

/// A process and all that it said so far.
pub struct Process {
    words: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    open: u32,
    out: Vec<String>,
    err: Vec<String>,
    /// Lines of stdout and stderr that no wait has to look at again.
    seen: (usize, usize),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.words)?;
        for line in &self.out {
            write!(f, "\n  out: {}", line.chars().take(300).collect::<String>())?;
        }
        for line in &self.err {
            write!(f, "\n  err: {line}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// Starts a command.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
        let words = words.join(OsStr::new(" ")).to_string_lossy().into_owned();
        let words = words.chars().take(500).collect();
        let mut child = command.spawn().expect("the program can be started");
        let (sender, lines) = channel();
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        read(out, sender.clone(), Line::Out);
        read(err, sender, Line::Err);
        let stdin = child.stdin.take();
        let (out, err) = (Vec::new(), Vec::new());
        Self { words, child, stdin, lines, open: 2, out, err, seen: (0, 0) }
    }

    /// Starts a command with this on its stdin.
    #[must_use]
    pub fn start_with(mut command: Command, input: &[u8]) -> Self {
        command.stdin(Stdio::piped());
        let mut process = Self::start(command);
        let input = input.to_vec();
        if let Some(mut stdin) = process.stdin.take() {
            // A pipe may be shorter than the input. A process that does not read it is no failure.
            std::thread::spawn(move || drop(stdin.write_all(&input)));
        }
        process
    }

    /// Starts a command whose stdin stays open for [`Self::type_line`].
    #[must_use]
    pub fn start_typing(mut command: Command) -> Self {
        command.stdin(Stdio::piped());
        Self::start(command)
    }

    /// Types a line.
    ///
    /// # Panics
    /// When it was not started for that, or has ended.
    pub fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it was started for typing");
        writeln!(stdin, "{line}").expect("it reads its stdin");
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Takes what it says next; false when it is silent until `deadline` or has ended.
    fn pump(&mut self, deadline: Instant) -> bool {
        if self.open == 0 {
            return false;
        }
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Line::Out(line)) => self.out.push(line),
            Ok(Line::Err(line)) => self.err.push(line),
            Ok(Line::End) => self.open -= 1,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    /// The next line of JSON that fits; those before it are passed over.
    ///
    /// # Panics
    /// When none comes in time.
    #[track_caller]
    pub fn find(&mut self, what: &str, within: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + within;
        loop {
            while let Some(line) = self.out.get(self.seen.0) {
                self.seen.0 += 1;
                if let Ok(value) = serde_json::from_str(line)
                    && fits(&value)
                {
                    return value;
                }
            }
            assert!(self.pump(deadline), "{what} did not come from {self}");
        }
    }

    /// The next event of this name; those before it are passed over.
    #[track_caller]
    pub fn event(&mut self, name: &str) -> Value {
        self.find(name, PATIENCE, |event| event["event"] == name)
    }

    /// The next chat with this text.
    #[track_caller]
    pub fn chat(&mut self, text: &str) -> Value {
        let shown: String = text.chars().take(40).collect();
        self.find(&shown, PATIENCE, |event| event["event"] == "chat" && event["text"] == text)
    }

    /// The next line of stdout with these words.
    ///
    /// # Panics
    /// When none comes in time.
    #[track_caller]
    pub fn says(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(line) = self.out.get(self.seen.0) {
                self.seen.0 += 1;
                if line.contains(part) {
                    return line.clone();
                }
            }
            assert!(self.pump(deadline), "`{part}` did not come from {self}");
        }
    }

    /// The next line of stderr with these words.
    ///
    /// # Panics
    /// When none comes in time.
    #[track_caller]
    pub fn complains(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(line) = self.err.get(self.seen.1) {
                self.seen.1 += 1;
                if line.contains(part) {
                    return line.clone();
                }
            }
            assert!(self.pump(deadline), "`{part}` did not come from {self}");
        }
    }

    /// The lines of stdout that no wait has looked at yet, without waiting for more.
    #[must_use]
    pub fn news(&mut self) -> Vec<String> {
        while self.pump(Instant::now()) {}
        let news = self.out[self.seen.0..].to_vec();
        self.seen.0 = self.out.len();
        news
    }

    /// The same once it has said its last, which it is about to do by itself, or was killed.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        while self.pump(deadline) {}
        assert!(self.has_ended(), "did not end in time: {self}");
        self.news()
    }

    /// Whether it has said its last.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.open == 0
    }

    /// What it said last.
    #[must_use]
    pub fn tail(&self) -> String {
        let last = |lines: &[String]| lines[lines.len().saturating_sub(20)..].join("\n  ");
        format!("{}\n  {}\n  {}", self.words, last(&self.out), last(&self.err))
    }

    /// All texts of chat so far, in order.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let events = self.out.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["event"] == "chat")
            .filter_map(|event| event["text"].as_str().map(ToOwned::to_owned))
            .collect()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a process has a number above 0");
        kill_process(pid, signal).expect("a process that was not waited for takes signals");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        // One that has ended already can't be killed.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }

    /// Waits until it ends by itself.
    #[must_use]
    #[track_caller]
    pub fn end(self) -> Finished {
        self.end_within(PATIENCE)
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    #[track_caller]
    pub fn end_within(mut self, within: Duration) -> Finished {
        self.stdin = None;
        let deadline = Instant::now() + within;
        while self.pump(deadline) {}
        assert_eq!(self.open, 0, "did not end in time: {self}");
        let status = self.child.wait().expect("a child can be waited for");
        Finished {
            words: self.to_string(),
            code: status.code(),
            out: self.out.join("\n"),
            err: self.err.join("\n"),
        }
    }
}

fn read(from: impl Read + Send + 'static, to: Sender<Line>, line: fn(String) -> Line) {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        loop {
            let mut bytes = Vec::new();
            match from.read_until(b'\n', &mut bytes) {
                Ok(1..) => {
                    let text = String::from_utf8_lossy(&bytes);
                    let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
                    if to.send(line(text)).is_err() {
                        return;
                    }
                }
                Ok(0) | Err(_) => break,
            }
        }
        // The test may be over.
        let _gone = to.send(Line::End);
    });
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    words: String,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
}

impl Finished {
    /// Checks the exit code.
    ///
    /// # Panics
    /// When it is another.
    #[must_use]
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code of {}", self.words);
        self
    }

    /// Checks that stderr has these words.
    ///
    /// # Panics
    /// When it has not.
    #[track_caller]
    pub fn complains(&self, part: &str) {
        assert!(self.err.contains(part), "`{part}` is missing in {}", self.words);
    }

    /// Its stdout, one JSON document.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.out) {
            Ok(value) => value,
            Err(error) => panic!("not one JSON document ({error}): {}", self.words),
        }
    }
}

/// Runs a command to its end.
#[must_use]
#[track_caller]
pub fn run(command: Command) -> Finished {
    Process::start(command).end()
}
