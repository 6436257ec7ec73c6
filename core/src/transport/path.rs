//! Where a packet came from or goes to (PROTOCOL 6).

use crate::id::PortId;
use core::net::{IpAddr, SocketAddr};

/// A path: a local binding and the peer's address (PROTOCOL 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// The local binding.
    pub port: PortId,
    /// The peer's address.
    pub remote: SocketAddr,
    /// The local address that the peer sends to, where the binding has several: answers leave from it.
    pub local: Option<IpAddr>,
}

impl Path {
    /// A path of a binding with one address, or none that matters.
    #[must_use]
    pub const fn new(port: PortId, remote: SocketAddr) -> Self {
        Self { port, remote, local: None }
    }
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
