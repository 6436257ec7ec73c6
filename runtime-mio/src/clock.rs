//! The only reading of clocks in this crate.

use clawchat_core::time::{Instant, Now, UnixMs};
use core::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

/// Both clocks, now. The monotonic one counts sleep (PROTOCOL 1).
#[must_use]
pub fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let wall = UnixMs(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
    let mono = u64::try_from(monotonic().as_micros()).unwrap_or(u64::MAX);
    Now { mono: Instant::from_micros(mono), wall }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(secs, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn monotonic() -> Duration {
    use std::sync::OnceLock;
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    ORIGIN.get_or_init(std::time::Instant::now).elapsed()
}
