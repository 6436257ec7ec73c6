//! Bindings and their sockets.

use clawchat_core::id::PortId;
use clawchat_core::ops::Outcome;
use clawchat_core::transport::path::Path;
use core::net::{IpAddr, SocketAddr};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;

/// Room of the kernel for what the loop has not read yet, bytes; best effort.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Room of the kernel for what the link has not taken yet, bytes; best effort.
const SEND_BUFFER: usize = 1 << 20;

/// One socket of a binding.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) port: PortId,
    /// The address that it is bound to, or the unspecified one for all.
    pub(crate) ip: IpAddr,
    pub(crate) io: UdpSocket,
    pub(crate) state: UdpSocketState,
    /// There may be more to read.
    pub(crate) readable: bool,
}

/// All bindings: for each port number one socket per address of `bind`.
#[derive(Debug)]
pub(crate) struct Ports {
    bind: Vec<IpAddr>,
    sockets: BTreeMap<Token, Bound>,
    next: usize,
    /// The loop is also to be woken when a socket takes something again: as a rule it is not, or each
    /// datagram that has left would wake it.
    writable: bool,
}

impl Ports {
    pub(crate) const fn new(bind: Vec<IpAddr>) -> Self {
        Self { bind, sockets: BTreeMap::new(), next: 0, writable: false }
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Bound> {
        self.sockets.get_mut(&token)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Bound> {
        self.sockets.values_mut()
    }

    /// The socket of a path's binding that its packets leave by.
    pub(crate) fn towards(&self, path: &Path) -> Option<&Bound> {
        let own = self
            .sockets
            .values()
            .filter(|bound| bound.port == path.port && bound.ip.is_ipv4() == path.remote.is_ipv4());
        own.max_by_key(|bound| (Some(bound.ip) == path.local, bound.ip.is_unspecified()))
    }

    /// Binds a port number at all addresses. An address family that the machine lacks is left out,
    /// as long as another one is there.
    pub(crate) fn bind(&mut self, registry: &Registry, port: PortId, number: u16) -> Outcome {
        let mut made = Vec::new();
        for ip in &self.bind {
            match open(SocketAddr::new(*ip, number)) {
                Ok((io, state)) => made.push((*ip, io, state)),
                Err(error) if is_missing_family(&error) && self.bind.len() > 1 => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Outcome::PortInUse;
                }
                Err(_) => return Outcome::Failed,
            }
        }
        let mut registered = 0;
        for (ip, mut io, state) in made {
            let token = Token(self.next);
            if registry.register(&mut io, token, interest(self.writable)).is_err() {
                continue;
            }
            self.next += 1;
            registered += 1;
            self.sockets.insert(token, Bound { port, ip, io, state, readable: true });
        }
        if registered > 0 { Outcome::Done } else { Outcome::Failed }
    }

    /// Has the loop woken when sockets take something again, or no longer.
    pub(crate) fn await_writable(&mut self, registry: &Registry, writable: bool) -> io::Result<()> {
        if self.writable != writable {
            for (token, bound) in &mut self.sockets {
                registry.reregister(&mut bound.io, *token, interest(writable))?;
            }
            self.writable = writable;
        }
        Ok(())
    }

    /// Closes a binding. What was not read of it is gone with it.
    pub(crate) fn close(&mut self, registry: &Registry, port: PortId) -> Outcome {
        for (_, mut bound) in self.sockets.extract_if(.., |_, bound| bound.port == port) {
            // The queue forgets a socket that is closed, whatever it says here.
            let _closed_anyway = registry.deregister(&mut bound.io);
        }
        Outcome::Done
    }
}

fn interest(writable: bool) -> Interest {
    if writable { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }
}

fn open(address: SocketAddr) -> io::Result<(UdpSocket, UdpSocketState)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    widen(&socket);
    socket.bind(&address.into())?;
    // It also forbids fragments: what does not fit the path must be lost, or size probes tell nothing.
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    Ok((UdpSocket::from_std(socket.into()), state))
}

/// Asks for more room than the system gives by itself; it gives what it wants to.
fn widen(socket: &Socket) {
    if socket.recv_buffer_size().is_ok_and(|size| size < RECEIVE_BUFFER) {
        let _refused = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    }
    if socket.send_buffer_size().is_ok_and(|size| size < SEND_BUFFER) {
        let _refused = socket.set_send_buffer_size(SEND_BUFFER);
    }
}

fn is_missing_family(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}
