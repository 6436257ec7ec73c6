//! Sending: what the socket does not take stays here, and nothing more is polled until it does.

use crate::ports::Ports;
use clawchat_core::limits::DATAGRAM_MAX;
use clawchat_core::server::Server;
use clawchat_core::time::Now;
use clawchat_core::transport::path::Transmit;
use quinn_udp::UdpSockRef;
use std::fmt;
use std::io;

/// The send arena and what waits in it.
pub(crate) struct Sender {
    arena: Vec<u8>,
    waiting: Option<Transmit>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self { arena: vec![0; DATAGRAM_MAX], waiting: None }
    }

    /// Whether the socket would block.
    pub(crate) const fn is_blocked(&self) -> bool {
        self.waiting.is_some()
    }

    /// Sends all that the server has, until a socket would block.
    pub(crate) fn flush(&mut self, ports: &Ports, server: &mut Server, now: Now) {
        loop {
            let next = self.waiting.take();
            let next = next.or_else(|| server.poll_transmit(now, &mut self.arena));
            let Some(transmit) = next else { return };
            if !self.send(ports, &transmit) {
                self.waiting = Some(transmit);
                return;
            }
        }
    }

    /// False when the socket would block. Any other error is packet loss, which the machine survives.
    fn send(&self, ports: &Ports, transmit: &Transmit) -> bool {
        let Some(bound) = ports.towards(transmit.path.port, transmit.path.remote) else {
            return true;
        };
        let datagram = quinn_udp::Transmit {
            destination: transmit.path.remote,
            ecn: None,
            contents: &self.arena[..transmit.len],
            segment_size: (transmit.segment < transmit.len).then_some(transmit.segment),
            src_ip: None,
        };
        let sent = bound.state.try_send(UdpSockRef::from(&bound.io), &datagram);
        !sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}
