//! Where a packet came from or goes to (PROTOCOL 6).

use crate::id::PortId;
use core::net::SocketAddr;

/// A path: a local binding and the peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// The local binding.
    pub port: PortId,
    /// The peer's address.
    pub remote: SocketAddr,
}

/// A datagram that was written into the caller's buffer.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where it goes.
    pub path: Path,
    /// Bytes written, from the start of the buffer.
    pub len: usize,
    /// Length of each datagram among them but the last, which may be shorter.
    pub segment: usize,
}

impl Transmit {
    /// A single datagram.
    pub(crate) const fn one(path: Path, len: usize) -> Self {
        Self { path, len, segment: len }
    }
}
