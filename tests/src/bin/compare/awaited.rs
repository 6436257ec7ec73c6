//! What of our side waits for file transfer. Each of these says so instead of measuring; once the
//! machines send files, each gets a role of its own, and nothing else has to change.
//!
//! What they have to return is what the peer's side of the same experiment in `rows.rs` returns.

use crate::child::Measured;

/// What is missing.
const FILES: &str = "the core sends no files yet";

/// How a file goes through both drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bulk {
    /// As the drivers do it by themselves.
    Offload,
    /// One datagram a call, both ways: neither GSO nor GRO.
    Plain,
}

/// So many MiB from client to server in datagrams of at most `size` bytes: `seconds`, `bytes`, `cpu`,
/// `server_cpu`. On loopback the size has to be held down: left alone, the search for it ends at 65,504
/// bytes, and no other protocol here goes beyond an Ethernet's.
pub(crate) fn ours_bulk(_: Bulk, _: u64, _size: usize) -> Measured {
    Err(FILES.to_owned())
}

/// The same between two machines in one thread: `rate`, bytes a second. `clawchat_tests::bench::Rig`
/// has the machines.
pub(crate) fn ours_core(_: u64) -> Measured {
    Err(FILES.to_owned())
}

/// A chunk packet built, sealed, opened and accounted for at both sides: nanoseconds by datagram size,
/// of the sizes in `memory::SIZES`.
pub(crate) fn ours_packet(_: u32) -> Measured {
    Err(FILES.to_owned())
}

/// A file of so many MiB from disk to disk, verified: `rate`, bytes a second.
pub(crate) fn ours_file(_: u64) -> Measured {
    Err(FILES.to_owned())
}

/// The same while keys and port rotate each second: `stall`, the longest pause between two chunks that
/// arrive, seconds; an error if a byte is lost.
pub(crate) fn ours_rotations(_: u64) -> Measured {
    Err(FILES.to_owned())
}
