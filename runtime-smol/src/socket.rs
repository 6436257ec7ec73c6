//! The client's sockets: one per address family that the server has.

use clawchat_core::id::PortId;
use clawchat_core::ops::Outcome;
use clawchat_core::transport::path::{Path, Transmit};
use core::array::from_fn;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use smol::Async;
use smol::future::FutureExt;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::UdpSocket;

/// Room for one receive: a datagram, or as many as the kernel joins.
const SLOT: usize = 65_536;
/// Receives at a time: a client's one peer fills no more.
const SLOTS: usize = if BATCH_SIZE < 8 { BATCH_SIZE } else { 8 };
/// Receives at a time before so many came at once: who only chats needs no more.
const FIRST_SLOTS: usize = if SLOTS < 2 { SLOTS } else { 2 };

/// Room of the kernel for what the task has not read yet, bytes; best effort.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Room of the kernel for what the link has not taken yet, bytes; best effort.
const SEND_BUFFER: usize = 1 << 20;

#[derive(Debug)]
struct Bound {
    io: Async<UdpSocket>,
    state: UdpSocketState,
    v4: bool,
}

/// A binding, once made.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    port: Option<PortId>,
    bound: Vec<Bound>,
    arena: Vec<u8>,
    /// The system is not to cut datagrams out of one buffer, even if it can.
    plain: bool,
}

impl Sockets {
    /// Binds any port for each family among `addresses`; failed when none could be bound.
    pub(crate) fn bind(&mut self, port: PortId, addresses: &[IpAddr]) -> Outcome {
        self.port = Some(port);
        self.bound.clear();
        self.arena.resize(self.arena.len().max(SLOT * FIRST_SLOTS), 0);
        for v4 in [true, false] {
            if addresses.iter().any(|ip| ip.is_ipv4() == v4) {
                self.bound.extend(open(v4).ok());
            }
        }
        if self.bound.is_empty() { Outcome::Failed } else { Outcome::Done }
    }

    /// Closes the binding. What was not read of it is gone with it.
    pub(crate) fn close(&mut self, port: PortId) -> Outcome {
        if self.port == Some(port) {
            self.port = None;
            self.bound.clear();
        }
        Outcome::Done
    }

    /// Sockets that are to be bound; `plain` for a call for each datagram.
    pub(crate) fn new(plain: bool) -> Self {
        Self { plain, ..Self::default() }
    }

    /// Sends a transmit from byte `sent` on; how far that got, which is to its end unless the socket would
    /// block.
    pub(crate) fn send(&self, transmit: &Transmit, arena: &[u8], mut sent: usize) -> usize {
        let v4 = transmit.path.remote.is_ipv4();
        let Some(bound) = self.bound.iter().find(|bound| bound.v4 == v4) else {
            return transmit.len;
        };
        while sent < transmit.len {
            let most = if self.plain { 1 } else { bound.state.max_gso_segments() };
            let end = transmit.len.min(sent + transmit.at_once(most));
            match send_batch(bound, transmit, &arena[sent..end]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
                // The network card cuts nothing after all: one by one.
                Err(_) if most > 1 && bound.state.max_gso_segments() == 1 => {}
                // Any other error is packet loss, which the machine survives.
                Ok(()) | Err(_) => sent = end,
            }
        }
        sent
    }

    /// Reads one batch of each socket and hands out what the kernel joined: datagrams of one path, and
    /// the size of each but the last. Whether there may be more at once.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(Path, &mut [u8], usize)) -> bool {
        let Some(port) = self.port else { return false };
        let mut more = false;
        let mut full = false;
        let slots = self.arena.len() / SLOT;
        for bound in &self.bound {
            let mut arena = self.arena.chunks_mut(SLOT);
            let mut slices: [_; SLOTS] =
                from_fn(|_| IoSliceMut::new(arena.next().unwrap_or_default()));
            let mut meta = [RecvMeta::default(); SLOTS];
            let socket = UdpSockRef::from(bound.io.get_ref());
            let received = bound.state.recv(socket, &mut slices[..slots], &mut meta[..slots]);
            let count = match received {
                Ok(count) => count,
                Err(error) => {
                    // An ICMP error of an earlier send is read away like this.
                    more |= error.kind() != io::ErrorKind::WouldBlock;
                    continue;
                }
            };
            full |= count == slots;
            for (slot, meta) in self.arena.chunks_mut(SLOT).zip(&meta[..count]) {
                let remote = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                let path = Path::new(port, remote);
                take(path, &mut slot[..meta.len.min(SLOT)], meta.stride.max(1));
            }
        }
        if full {
            self.arena.resize(SLOT * SLOTS, 0);
        }
        more || full
    }

    /// Waits until a socket may have something; for ever when there is none.
    pub(crate) async fn readable(&self) {
        wait(self.bound.iter().map(|bound| bound.io.readable())).await;
    }

    /// Waits until the socket for an address family may take something. The other one always may.
    pub(crate) async fn writable(&self, v4: bool) {
        let bound = self.bound.iter().filter(|bound| bound.v4 == v4);
        wait(bound.map(|bound| bound.io.writable())).await;
    }
}

fn send_batch(bound: &Bound, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
    let datagram = quinn_udp::Transmit {
        destination: transmit.path.remote,
        ecn: None,
        contents,
        segment_size: (transmit.segment < contents.len()).then_some(transmit.segment),
        src_ip: None,
    };
    bound.state.try_send(UdpSockRef::from(bound.io.get_ref()), &datagram)
}

/// The first of at most two. An error is for the next receive or send to meet.
async fn wait(mut each: impl Iterator<Item = impl Future<Output = io::Result<()>>>) {
    let (first, second) = (each.next(), each.next());
    ready(first).or(ready(second)).await;
}

async fn ready(socket: Option<impl Future<Output = io::Result<()>>>) {
    match socket {
        Some(socket) => drop(socket.await),
        None => smol::future::pending().await,
    }
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

fn open(v4: bool) -> io::Result<Bound> {
    let (domain, ip) = if v4 {
        (Domain::IPV4, IpAddr::from(Ipv4Addr::UNSPECIFIED))
    } else {
        (Domain::IPV6, IpAddr::from(Ipv6Addr::UNSPECIFIED))
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if !v4 {
        socket.set_only_v6(true)?;
    }
    widen(&socket);
    socket.bind(&SocketAddr::new(ip, 0).into())?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    Ok(Bound { io: Async::new(socket.into())?, state, v4 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn batches_arrive_as_single_datagrams() {
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let path = Path::new(PortId(0), peer.local_addr().unwrap());
        for plain in [false, true] {
            let mut sockets = Sockets::new(plain);
            assert_eq!(sockets.bind(PortId(0), &[Ipv4Addr::LOCALHOST.into()]), Outcome::Done);
            // With a short one at the end; more segments and more bytes than the kernel takes at once.
            for (len, segment) in [(10 * 1200 + 64, 1200), (100 * 64, 64), (50 * 1472 + 16, 1472)] {
                let arena: Vec<_> = (0..len).map(|at| (at % 251) as u8).collect();
                assert_eq!(sockets.send(&Transmit { path, len, segment }, &arena, 0), len);
                let (mut buffer, mut at) = ([0; 2000], 0);
                while at < len {
                    let got = peer.recv(&mut buffer).unwrap();
                    assert_eq!(buffer[..got], arena[at..len.min(at + segment)], "{segment}");
                    at += got;
                }
            }
        }
    }

    #[test]
    fn takes_more_at_once_when_more_comes() {
        let mut sockets = Sockets::new(false);
        assert_eq!(sockets.bind(PortId(0), &[Ipv4Addr::LOCALHOST.into()]), Outcome::Done);
        let few = sockets.arena.len();
        let to = sockets.bound[0].io.get_ref().local_addr().unwrap().port();
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for round in 1..=2 {
            for number in 0..40 {
                peer.send_to(&[number; 100], (Ipv4Addr::LOCALHOST, to)).unwrap();
            }
            let mut got = Vec::new();
            while got.len() < 40 {
                smol::block_on(sockets.readable());
                let mut more = true;
                while more {
                    more = sockets.receive(|_, datagrams, stride| {
                        got.extend(datagrams.chunks(stride).map(|datagram| datagram[0]));
                    });
                }
            }
            assert!(got.iter().copied().eq(0..40), "{got:?}");
            assert!(few < sockets.arena.len(), "round {round}");
        }
        assert_eq!(sockets.arena.len(), SLOT * SLOTS);
    }
}
