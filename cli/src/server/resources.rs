//! What the server's process uses (SPEC 11.4): memory and processor time, which the machine can't see.
//! Looked at once a minute; from nine tenths of a limit on a person is told, once, and again only after
//! it was below three quarters, as with all that is watched.

use super::run::Command;
use super::tell::{Told, used_up};
use clawchat_mio::Remote;
use core::time::Duration;
use std::time::Instant;

/// Memory that a server needs at most, bytes: what the service's unit allows.
const MEMORY: u64 = 512 << 20;
/// One core, percent: the loop that all sessions share has no more.
const CPU: u64 = 100;
const MINUTE: Duration = Duration::from_secs(60);

/// What the process uses at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes in memory.
    pub(super) memory: u64,
    /// Processor time since it started, milliseconds.
    pub(super) cpu_ms: u64,
    /// When.
    at: Instant,
}

impl Usage {
    /// What is used now; `None` where the system does not say.
    pub(super) fn now() -> Option<Self> {
        let memory = resident(&std::fs::read_to_string("/proc/self/status").ok()?)?;
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let (secs, nanos) = (u64::try_from(cpu.tv_sec).ok()?, u64::try_from(cpu.tv_nsec).ok()?);
        Some(Self { memory, cpu_ms: secs * 1000 + nanos / 1_000_000, at: Instant::now() })
    }
}

/// Bytes in memory, from the text of `/proc/PID/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Looks each minute, as long as the process lives.
pub(super) fn watch(remote: Remote<Command>) {
    std::thread::spawn(move || {
        while let Some(usage) = Usage::now() {
            remote.command(Command::Sampled(usage));
            std::thread::sleep(MINUTE);
        }
    });
}

/// Something that can be used up, and whether that was told.
#[derive(Debug, Default)]
struct Gauge {
    short: bool,
}

impl Gauge {
    /// True when it is news that so much is used.
    fn is_news(&mut self, used: u64, limit: u64) -> bool {
        if used * 4 < limit * 3 {
            self.short = false;
        }
        let news = used * 10 >= limit * 9 && !self.short;
        self.short |= news;
        news
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Resources {
    last: Option<Usage>,
    memory: Gauge,
    cpu: Gauge,
}

impl Resources {
    /// A minute is over: what should be told of it.
    pub(super) fn minute(&mut self, usage: &Usage) -> Vec<Told> {
        let mut told = Vec::new();
        if self.memory.is_news(usage.memory, MEMORY) {
            told.push(used_up("memory", usage.memory, MEMORY));
        }
        let Some(last) = self.last.replace(*usage) else { return told };
        let wall = usage.at.saturating_duration_since(last.at).as_millis();
        let wall = u64::try_from(wall).unwrap_or(u64::MAX).max(1);
        let percent = usage.cpu_ms.saturating_sub(last.cpu_ms).saturating_mul(100) / wall;
        if self.cpu.is_news(percent, CPU) {
            told.push(used_up("cpu", percent, CPU));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::now().unwrap();
        assert!(usage.memory > 100_000 && usage.memory < 1 << 40, "{usage:?}");
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[test]
    fn shortage_is_told_once() {
        let start = Instant::now();
        let mut resources = Resources::default();
        let mut minute = |number: u32, memory, cpu_ms| {
            let usage = Usage { memory, cpu_ms, at: start + MINUTE * number };
            let told = resources.minute(&usage);
            told.iter().map(|told| told.object().text("what").unwrap().to_owned()).collect()
        };
        let none: [String; 0] = [];
        let told: Vec<String> = minute(0, 1 << 20, 1_000_000);
        assert_eq!(told, none, "what was used before counts for no minute");
        let told: Vec<String> = minute(1, 470 << 20, 1_053_000);
        assert_eq!(told, ["memory"]);
        let told: Vec<String> = minute(2, 500 << 20, 1_107_000);
        assert_eq!(told, ["cpu"]);
        let told: Vec<String> = minute(3, 390 << 20, 1_161_000);
        assert_eq!(told, none);
        let told: Vec<String> = minute(4, 300 << 20, 1_161_000);
        assert_eq!(told, none);
        let told: Vec<String> = minute(5, 470 << 20, 1_221_000);
        assert_eq!(told, ["memory", "cpu"]);
    }
}
