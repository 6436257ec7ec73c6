//! What both binaries do to their own process.

use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};

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
