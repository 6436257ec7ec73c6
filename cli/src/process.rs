//! What both binaries do to their own process.

use core::time::Duration;
use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// No core dump ever holds a key: none is written, and no other process of this user may look in.
pub fn forbid_core_dumps() {
    // Where the system refuses, it is no worse than before.
    let _refused = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _refused = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Files that this process makes are for its user alone, whatever the umask was.
pub fn private_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// CPU time that this process has used (SPEC 11.4).
#[must_use]
pub fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let [secs, nanos] = [spent.tv_sec, spent.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    Duration::from_secs(secs) + Duration::from_nanos(nanos)
}

/// Memory of this process that is resident, KiB (SPEC 11.4); `None` where the system does not tell.
#[must_use]
pub fn memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    resident.split_whitespace().next()?.parse().ok()
}
