//! Bindings and their sockets.

use clawchat_core::id::PortId;
use clawchat_core::ops::Outcome;
use core::net::{IpAddr, SocketAddr};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;

/// One socket of a binding.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) port: PortId,
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
}

impl Ports {
    pub(crate) const fn new(bind: Vec<IpAddr>) -> Self {
        Self { bind, sockets: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Bound> {
        self.sockets.get_mut(&token)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Bound> {
        self.sockets.values_mut()
    }

    /// The socket that reaches `remote` from a binding.
    pub(crate) fn towards(&self, port: PortId, remote: SocketAddr) -> Option<&Bound> {
        self.sockets.values().find(|bound| {
            let local = bound.io.local_addr().ok();
            bound.port == port && local.is_some_and(|l| l.is_ipv4() == remote.is_ipv4())
        })
    }

    /// Binds a port number at all addresses. An address family that the machine lacks is left out,
    /// as long as another one is there.
    pub(crate) fn bind(&mut self, registry: &Registry, port: PortId, number: u16) -> Outcome {
        let mut made = Vec::new();
        for ip in &self.bind {
            match open(SocketAddr::new(*ip, number)) {
                Ok(socket) => made.push(socket),
                Err(error) if is_missing_family(&error) && self.bind.len() > 1 => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Outcome::PortInUse;
                }
                Err(_) => return Outcome::Failed,
            }
        }
        let mut registered = 0;
        for (mut io, state) in made {
            let token = Token(self.next);
            if registry.register(&mut io, token, Interest::READABLE | Interest::WRITABLE).is_err() {
                continue;
            }
            self.next += 1;
            registered += 1;
            self.sockets.insert(token, Bound { port, io, state, readable: true });
        }
        if registered > 0 { Outcome::Done } else { Outcome::Failed }
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

fn open(address: SocketAddr) -> io::Result<(UdpSocket, UdpSocketState)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    Ok((UdpSocket::from_std(socket.into()), state))
}

fn is_missing_family(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}
