//! Plays many simulated worlds, on all cores: `world --seeds N [--from S] [--hours H] [--verbose]
//! [--until-violation]`.
//!
//! Prints one line of summary; at a violation also the seed and the end of its transcript, and exits
//! with 1. `--hours` lets each storm last so many hours more, `--verbose` keeps the whole transcript.

use clawchat_tests::storm::{Outcome, play};
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;

/// Seeds that one process plays.
const CHUNK: u64 = 100;

#[derive(Clone, Copy, Debug, Default)]
struct Options {
    seeds: u64,
    from: u64,
    hours: u64,
    verbose: bool,
    /// Stop at the first violation.
    until_violation: bool,
    /// It is one of many processes.
    worker: bool,
    /// It plays what was violated once more, to show the end of its transcript.
    again: bool,
}

impl Options {
    /// Lines of the transcript to keep.
    const fn lines(self) -> usize {
        match (self.verbose, self.again) {
            (true, _) => 1_000_000,
            (false, true) => 100,
            (false, false) => 0,
        }
    }
}

fn options() -> Option<Options> {
    let mut options = Options { seeds: 100, from: 1, ..Options::default() };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let field = match name.as_str() {
            "--seeds" => &mut options.seeds,
            "--from" => &mut options.from,
            "--hours" => &mut options.hours,
            "--verbose" | "--until-violation" | "--worker" | "--again" => {
                let flag = match name.as_str() {
                    "--worker" => &mut options.worker,
                    "--again" => &mut options.again,
                    "--verbose" => &mut options.verbose,
                    _ => &mut options.until_violation,
                };
                *flag = true;
                continue;
            }
            _ => return None,
        };
        *field = arguments.next()?.parse().ok()?;
    }
    Some(options)
}

/// What all worlds came to.
#[derive(Debug, Default)]
struct Totals {
    worlds: u64,
    sums: [u64; 10],
    faults: BTreeMap<String, u64>,
    violations: Vec<u64>,
}

impl Totals {
    /// Adds what a worker reports of a seed.
    fn add(&mut self, line: &str) {
        self.worlds += 1;
        let mut words = line.split(' ').skip(1);
        for sum in &mut self.sums {
            *sum += words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        for (kind, count) in words.filter_map(|word| word.split_once('=')) {
            let count = count.parse::<u64>().unwrap_or(0);
            *self.faults.entry(kind.replace('_', " ")).or_default() += count;
        }
    }

    fn line(&self) -> String {
        let [secs, datagrams, chats, shown, files, arrived, bytes, keys, ports, moves] = self.sums;
        let faults = self.faults.iter().map(|(kind, count)| format!("{count} {kind}"));
        let faults: Vec<_> = faults.collect();
        format!(
            "{} seeds, {} simulated hours, {datagrams} packets, {chats} chats shown {shown} times, \
             {files} files whole {arrived} times and {} MB of them, {keys} key and {ports} port rotations, {moves} path moves; faults: {}; {} violations",
            self.worlds,
            secs / 3600,
            bytes / 1_000_000,
            faults.join(", "),
            self.violations.len()
        )
    }
}

/// Plays seeds one after another and reports each with a line. A violation ends the process.
fn play_all(options: Options) -> ExitCode {
    let mut out = std::io::stdout().lock();
    for seed in options.from..options.from.saturating_add(options.seeds) {
        let outcome = play(seed, options.hours, options.lines());
        let Outcome { datagrams, chats, shown, files, arrived, file_bytes, .. } = outcome;
        let Outcome { virtual_secs, keys, ports, moves, .. } = outcome;
        let mut line = format!(
            "{seed} {virtual_secs} {datagrams} {chats} {shown} {files} {arrived} {file_bytes} \
             {keys} {ports} {moves}"
        );
        for (kind, count) in outcome.faults {
            line.push_str(&format!(" {}={count}", kind.replace(' ', "_")));
        }
        line.push('\n');
        if out.write_all(line.as_bytes()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Has a process of its own play seeds, so that one that panics takes nothing with it. How many it
/// came through.
fn play_apart(options: Options, totals: &Mutex<Totals>) -> u64 {
    let mut child = worker(options).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let child = child.as_mut().expect("another process can be started");
    let lines = std::io::BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut done = 0;
    for line in lines.map_while(Result::ok) {
        done += 1;
        totals.lock().expect("nobody panics with it").add(&line);
    }
    let ended_well = child.wait().is_ok_and(|status| status.success());
    if ended_well && done == options.seeds {
        return done;
    }
    let from = options.from + done;
    totals.lock().expect("nobody panics with it").violations.push(from);
    // The same again, with a transcript.
    let shown = worker(Options { from, seeds: 1, again: true, ..options }).status();
    debug_assert!(shown.is_ok_and(|status| !status.success()), "a seed always ends alike");
    done + 1
}

/// A process of its own for some seeds.
fn worker(options: Options) -> Command {
    let number = |value: u64| value.to_string();
    let (seeds, from, hours) = (number(options.seeds), number(options.from), number(options.hours));
    let program = std::env::current_exe().expect("it runs");
    let mut command = Command::new(program);
    command.args(["--worker", "--seeds", &seeds, "--from", &from, "--hours", &hours]);
    command.args(options.verbose.then_some("--verbose"));
    command.args(options.again.then_some("--again"));
    command
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        let usage =
            "usage: world --seeds N [--from S] [--hours H] [--verbose] [--until-violation]\n";
        let _gone = std::io::stderr().write_all(usage.as_bytes());
        return ExitCode::from(2);
    };
    if options.worker {
        return play_all(options);
    }
    let next = AtomicU64::new(options.from);
    let end = options.from.saturating_add(options.seeds);
    let totals = Mutex::new(Totals::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let mut from = next.fetch_add(CHUNK, Ordering::Relaxed);
                    let until = end.min(from.saturating_add(CHUNK));
                    let enough = || {
                        let totals = totals.lock().expect("nobody panics with it");
                        options.until_violation && !totals.violations.is_empty()
                    };
                    if from >= end || enough() {
                        break;
                    }
                    while from < until && !enough() {
                        from +=
                            play_apart(Options { from, seeds: until - from, ..options }, &totals);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().expect("nobody panics with it");
    let mut text = totals.line();
    if !totals.violations.is_empty() {
        let mut seeds = totals.violations.clone();
        seeds.sort_unstable();
        text.push_str(&format!("; seeds {seeds:?}"));
    }
    text.push('\n');
    let _gone = std::io::stdout().write_all(text.as_bytes());
    if totals.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
