//! Memory stays bounded under a hostile peer: live heap bytes are counted, not guessed.
//!
//! All that a machine allocates is freed by it or by its driver within what is counted here, so that
//! the sum over all calls is what it holds. The peer's own memory is not among it.
//! `CLAWCHAT_LONGER` multiplies the virtual time.

mod client;
mod server;

use clawchat_core::limits::MESSAGE_MAX;
use clawchat_tests::hostile::{Abuse, Torment};
use libtest_mimic::{Arguments, Trial};
use peak_alloc::PeakAlloc;
use std::io::Write as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOC: PeakAlloc = PeakAlloc;

/// What a machine holds, and the most that it held at any moment, bytes.
#[derive(Debug, Default)]
struct Meter {
    held: i64,
    /// Within calls too.
    peak: i64,
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Meter {
    /// Counts what is allocated and freed by a call. What it returns owns no memory.
    fn count<T>(&mut self, work: impl FnOnce() -> T) -> T {
        ALLOC.reset_peak_usage();
        let before = signed(ALLOC.current_usage());
        let result = work();
        let most = signed(ALLOC.peak_usage()) - before;
        self.peak = self.peak.max(self.held + most);
        self.held += signed(ALLOC.current_usage()) - before;
        result
    }
}

/// What a message may take while it is read: an object in seven bytes of text makes a node of a tree.
const READING: usize = 128 * MESSAGE_MAX;
/// What still comes and goes once all memories are full.
const WAVES: i64 = 128 * 1024;

/// Holds what was measured against a bound, and the second half of the time against the first, but for
/// what memories that are not full yet have taken meanwhile.
fn judge(
    name: &str,
    meter: &Meter,
    [warm, first, second]: [i64; 3],
    bound: usize,
    fills: usize,
    more: &str,
) -> Result<(), String> {
    let line = format!(
        "{name}: {warm} bytes until warm, then {first}, then {second}; {} at a moment; bound {bound}; \
         {more}\n",
        meter.peak
    );
    let _gone = std::io::stderr().write_all(line.as_bytes());
    let bound = signed(bound);
    if warm.max(first).max(second) > bound {
        return Err(format!("oracle 10: more than {bound} bytes are held: {line}"));
    }
    if meter.peak > bound + signed(READING) {
        return Err(format!("oracle 10: more than {bound} bytes and a message being read: {line}"));
    }
    if second > first + first / 10 + WAVES + signed(fills) {
        return Err(format!("oracle 10: it grows: {line}"));
    }
    Ok(())
}

/// Virtual time is multiplied by this.
fn longer() -> u64 {
    let number = std::env::var("CLAWCHAT_LONGER").ok().and_then(|text| text.parse().ok());
    number.unwrap_or(1)
}

fn main() -> ExitCode {
    // The allocator counts the whole process: one at a time.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let mut trials = Vec::new();
    for abuse in Abuse::ALL {
        trials.push(Trial::test(format!("server/{abuse:?}"), move || Ok(server::alone(abuse)?)));
    }
    trials.push(Trial::test("server/all together", || Ok(server::together()?)));
    trials.push(Trial::test("server/a disk that hangs", || Ok(server::hanging()?)));
    for torment in Torment::ALL {
        let play = move || Ok(client::alone(torment)?);
        trials.push(Trial::test(format!("client/{torment:?}"), play));
    }
    trials.push(Trial::test("client/all together", || Ok(client::together()?)));
    libtest_mimic::run(&arguments, trials).exit_code()
}
