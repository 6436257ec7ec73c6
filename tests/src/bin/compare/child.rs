//! Processes of one's own: each side of a measurement runs in one, on a core of its own, and says
//! what it used.

use core::fmt::Display;
use core::str::FromStr;
use core::time::Duration;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};

/// Figures by name.
pub(crate) type Sample = BTreeMap<String, f64>;
/// What one side came to, or why it can't be measured.
pub(crate) type Measured = Result<Sample, String>;

/// A child ends by itself after this long, whatever became of its parent.
const LIFETIME: Duration = Duration::from_secs(300);

/// Which core a process runs on: the two sides never share one, if there are two.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Core {
    Client,
    Server,
    /// It starts others that choose for themselves.
    Any,
}

impl Core {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Any => "any",
        }
    }
}

/// Stays on one core, by the name that [`Core::name`] gives it. Best effort: with one core there is
/// no choice.
pub(crate) fn pin(name: &str) {
    if name == Core::Any.name() {
        return;
    }
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let core = if name == "server" { cores.next_back() } else { cores.next() };
    if let Some(core) = core {
        let mut only = CpuSet::new();
        only.set(core);
        let _refused = sched_setaffinity(None, &only);
    }
}

/// Prepares a process for its role: as many sockets as may be, and an end in any case.
pub(crate) fn prepare() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _refused = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    std::thread::spawn(|| {
        std::thread::sleep(LIFETIME);
        std::process::exit(3);
    });
}

/// Processor time of this process so far, user and system, seconds.
pub(crate) fn cpu() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

/// Processor time of this thread so far, seconds.
pub(crate) fn thread_cpu() -> f64 {
    seconds(ClockId::ThreadCPUTime)
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Resident memory of this process, bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) * 1024.0
}

/// Writes a line to whoever started this process.
pub(crate) fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    // Without a reader there is nobody to measure for.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(3);
    }
}

/// Tells figures.
pub(crate) fn tell_sample(figures: &[(&str, f64)]) {
    let words: Vec<_> = figures.iter().map(|(name, value)| format!("{name}={value}")).collect();
    tell(&words.join(" "));
}

/// Waits for a line from whoever started this process; false when there will be none.
pub(crate) fn heard() -> bool {
    std::io::stdin().lock().read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0)
}

/// Answers each line on stdin with what the process has used so far; ends with stdin.
pub(crate) fn answer_for_usage() {
    std::thread::spawn(|| {
        while heard() {
            tell_sample(&[("cpu", cpu()), ("rss", resident())]);
        }
        std::process::exit(0);
    });
}

/// A word of the command line.
pub(crate) fn word<T: FromStr>(words: &[String], index: usize) -> Result<T, String> {
    let word = words.get(index).ok_or_else(|| format!("word {index} is missing"))?;
    word.parse().map_err(|_| format!("{word} is no number"))
}

/// Shows an error as text.
pub(crate) fn text(error: impl Display) -> String {
    error.to_string()
}

/// A process that plays a role.
pub(crate) struct Child {
    process: Process,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    role: String,
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Child {
    /// Starts this program again in a role.
    pub(crate) fn start(core: Core, role: &str, words: &[String]) -> Result<Self, String> {
        let command = Command::new(std::env::current_exe().map_err(text)?);
        Self::start_by(command, core, role, words)
    }

    /// The same in a network of its own that only has a loopback, with the MTU of an Ethernet once
    /// [`ethernet`] has set it up.
    pub(crate) fn start_apart(role: &str, words: &[String]) -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--"]).arg(std::env::current_exe().map_err(text)?);
        Self::start_by(command, Core::Any, role, words)
    }

    fn start_by(
        mut command: Command,
        core: Core,
        role: &str,
        words: &[String],
    ) -> Result<Self, String> {
        command.args(["--role", core.name(), role]).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(text)?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().ok_or("its stdout is not piped")?;
        Ok(Self { process, stdin, stdout: BufReader::new(stdout), role: role.to_owned() })
    }

    /// A server and the port that it says it listens on.
    pub(crate) fn serve(role: &str, words: &[String]) -> Result<(Self, String), String> {
        let mut server = Self::start(Core::Server, role, words)?;
        let port = server.line()?;
        Ok((server, port))
    }

    /// The next line that it says.
    pub(crate) fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(0) | Err(_) => Err(format!("{} ended before its time", self.role)),
            Ok(_) => Ok(line.trim().to_owned()),
        }
    }

    /// The next figures that it tells.
    pub(crate) fn sample(&mut self) -> Measured {
        let line = self.line()?;
        let figure = |word: &str| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let sample: Option<_> = line.split(' ').map(figure).collect();
        sample.ok_or_else(|| format!("{} says: {line}", self.role))
    }

    /// Lets it go on.
    pub(crate) fn go(&mut self) -> Result<(), String> {
        let stdin = self.stdin.as_mut().ok_or("its stdin is closed")?;
        writeln!(stdin).and_then(|()| stdin.flush()).map_err(text)
    }

    /// What a server has used so far.
    pub(crate) fn usage(&mut self) -> Measured {
        self.go()?;
        self.sample()
    }
}

/// Gives the loopback of this process's own network the MTU of an Ethernet.
pub(crate) fn ethernet() -> Result<(), String> {
    let words = ["link", "set", "lo", "mtu", "1500", "up"];
    let status = Command::new("ip").args(words).status().map_err(text)?;
    if status.success() { Ok(()) } else { Err("the loopback can't be set up".to_owned()) }
}

/// Runs a client against a server, and adds what the server used meanwhile.
pub(crate) fn pair(server: (&str, &[String]), client: (&str, &[String])) -> Measured {
    let (mut server, port) = Child::serve(server.0, server.1)?;
    let before = server.usage()?;
    let mut words = vec![port];
    words.extend_from_slice(client.1);
    let mut sample = Child::start(Core::Client, client.0, &words)?.sample()?;
    let after = server.usage()?;
    sample.insert("server_cpu".to_owned(), after["cpu"] - before["cpu"]);
    sample.insert("server_rss".to_owned(), after["rss"]);
    Ok(sample)
}

/// Bytes that the server keeps for each of `sessions` that do nothing: what it grows by from the
/// first to the last.
pub(crate) fn idle(
    server: (&str, &[String]),
    client: (&str, &[String]),
    sessions: u32,
) -> Measured {
    let (mut server, port) = Child::serve(server.0, server.1)?;
    let mut words = vec![port, sessions.to_string()];
    words.extend_from_slice(client.1);
    let mut client = Child::start(Core::Client, client.0, &words)?;
    let first = client.line()?;
    let before = server.usage()?;
    client.go()?;
    let last = client.line()?;
    let after = server.usage()?;
    if (first.as_str(), last.as_str()) != ("one", "all") {
        return Err(format!("the client says: {first}, {last}"));
    }
    let each = (after["rss"] - before["rss"]) / f64::from(sessions - 1);
    Ok(Sample::from([("bytes".to_owned(), each), ("process".to_owned(), after["rss"])]))
}

/// Tells how many a second there were, what each cost the processor, and how long they took.
pub(crate) fn tell_rate(count: f64, took: Duration, used: f64, times: Vec<f64>) {
    let (p50, p99, worst) = percentiles(times);
    tell_sample(&[
        ("per_second", count / took.as_secs_f64()),
        ("cpu", used / count),
        ("p50", p50),
        ("p99", p99),
        ("worst", worst),
    ]);
}

/// The middle, and the last of all but a hundredth, of a row of times.
pub(crate) fn percentiles(mut times: Vec<f64>) -> (f64, f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(f64::NAN);
    (at(50), at(99), times.last().copied().unwrap_or(f64::NAN))
}
