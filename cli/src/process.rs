//! What both binaries do to their own process.

use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
use std::sync::OnceLock;

/// The umask that this process was started with.
static USERS_UMASK: OnceLock<u32> = OnceLock::new();

/// No core dump ever holds a key: none is written, and no other process of this user may look in.
pub fn forbid_core_dumps() {
    // Where the system refuses, it is no worse than before.
    let _refused = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _refused = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Files that this process makes are for its user alone, whatever the umask was.
pub fn private_umask() {
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // The first one is the user's.
    USERS_UMASK.get_or_init(|| before.as_raw_mode());
}

/// Those of the permissions in `mode` that the user's umask leaves to what they get from others; before
/// [`private_umask`], none but the owner's.
///
/// The umask in force can't be had otherwise: it is our own since then, and to ask for it is to set it.
#[must_use]
pub fn left_by_umask(mode: u32) -> u32 {
    mode & 0o777 & !USERS_UMASK.get().copied().unwrap_or(0o077)
}
