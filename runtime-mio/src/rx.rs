//! Receiving: batches into one arena, split by stride.

use crate::ports::Bound;
use clawchat_core::transport::path::Path;
use core::array::from_fn;
use core::net::{IpAddr, SocketAddr};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef};
use std::fmt;
use std::io::{self, IoSliceMut};

/// Room for one receive: a datagram, or as many as the kernel joins.
const SLOT: usize = 65_536;
/// Receives at a time while few come: the rest of the arena is not touched.
const FEW: usize = if BATCH_SIZE < 8 { BATCH_SIZE } else { 8 };
/// Receives of one turn and socket; the rest waits for the next turn.
const RECEIVES: usize = 8;

/// The receive arena: 2 MiB for the whole server.
pub(crate) struct Receiver {
    arena: Vec<u8>,
    /// Receives at a time.
    slots: usize,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({} bytes)", self.arena.len())
    }
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { arena: vec![0; SLOT * BATCH_SIZE], slots: FEW }
    }

    /// Reads what a socket has, up to the budget of a turn, and hands out what the kernel joined:
    /// datagrams of one path, and the size of each but the last.
    pub(crate) fn receive(
        &mut self,
        bound: &mut Bound,
        mut take: impl FnMut(Path, &mut [u8], usize),
    ) {
        for turn in 1..=RECEIVES {
            let slots = self.slots;
            let mut arena = self.arena.chunks_mut(SLOT).take(slots);
            let mut slices: [_; BATCH_SIZE] =
                from_fn(|_| IoSliceMut::new(arena.next().unwrap_or_default()));
            let mut meta = [RecvMeta::default(); BATCH_SIZE];
            let socket = UdpSockRef::from(&bound.io);
            match bound.state.recv(socket, &mut slices[..slots], &mut meta[..slots]) {
                Ok(count) => {
                    for (slot, meta) in self.arena.chunks_mut(SLOT).zip(&meta[..count]) {
                        let remote =
                            SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                        let local = local(bound.ip, meta.dst_ip);
                        let path = Path { port: bound.port, remote, local };
                        take(path, &mut slot[..meta.len.min(SLOT)], meta.stride.max(1));
                    }
                    // Elsewhere one call gives one datagram, however many wait.
                    if cfg!(any(target_os = "linux", target_os = "android")) && count < slots {
                        // That was all; what comes now wakes the loop.
                        bound.readable = false;
                        return;
                    }
                    if turn == RECEIVES {
                        self.slots = BATCH_SIZE;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    bound.readable = false;
                    return;
                }
                // An ICMP error of an earlier send is read away like this; the socket lives on.
                Err(_) => {}
            }
        }
    }
}

/// Which address of ours a datagram came to, so that the answer leaves from there. What went to many
/// machines names none of them.
fn local(bound: IpAddr, asked: Option<IpAddr>) -> Option<IpAddr> {
    if !bound.is_unspecified() {
        return Some(bound);
    }
    asked.filter(|ip| match ip {
        IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_multicast() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;
    use clawchat_core::id::PortId;
    use clawchat_core::ops::Outcome;
    use core::net::Ipv4Addr;
    use std::net::UdpSocket;

    #[test]
    fn takes_more_at_once_when_more_comes() {
        let (poll, mut ports) =
            (mio::Poll::new().unwrap(), Ports::new(vec![Ipv4Addr::LOCALHOST.into()]));
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = free.local_addr().unwrap();
        drop(free);
        assert_eq!(ports.bind(poll.registry(), PortId(0), to.port()), Outcome::Done);
        let (peer, mut receiver) =
            (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), Receiver::new());
        let mut receive = |receiver: &mut Receiver| {
            let mut got = vec![];
            for bound in ports.iter_mut() {
                bound.readable = true;
                receiver.receive(bound, |_, datagrams, stride| {
                    got.extend(datagrams.chunks(stride).map(|datagram| datagram[0]));
                });
            }
            got
        };
        let send = |count| {
            for number in 0..count {
                assert_eq!(peer.send_to(&[number; 100], to).unwrap(), 100);
            }
        };
        let few = u8::try_from(FEW).unwrap();
        send(few);
        assert!(receive(&mut receiver).into_iter().eq(0..few));
        assert_eq!(receiver.slots, FEW, "a burst that one turn takes is nothing");
        // More than one turn takes.
        let many = u8::try_from(FEW * RECEIVES + 10).unwrap();
        send(many);
        let mut got = receive(&mut receiver);
        assert_eq!(got.len(), FEW * RECEIVES);
        assert_eq!(receiver.slots, BATCH_SIZE);
        got.extend(receive(&mut receiver));
        assert!(got.into_iter().eq(0..many));
    }

    #[test]
    fn only_one_of_ours_is_an_address_to_answer_from() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = ip("0.0.0.0");
        assert_eq!(local(all, Some(ip("192.0.2.1"))), Some(ip("192.0.2.1")));
        assert_eq!(local(ip("::"), Some(ip("2001:db8::1"))), Some(ip("2001:db8::1")));
        assert_eq!(local(ip("192.0.2.2"), None), Some(ip("192.0.2.2")));
        for other in ["255.255.255.255", "224.0.0.1", "0.0.0.0", "ff02::1"] {
            assert_eq!(local(all, Some(ip(other))), None);
        }
    }
}
