//! Sending: what the socket does not take stays here, and nothing more is polled until it does.

use crate::host::Host;
use crate::ports::{Bound, Ports};
use clawchat_core::limits::DATAGRAM_MAX;
use clawchat_core::server::Server;
use clawchat_core::time::Now;
use clawchat_core::transport::path::Transmit;
use quinn_udp::UdpSockRef;
use std::fmt;
use std::io;

/// Batches of files that one turn sends: what arrives meanwhile must not wait for long.
const BATCHES: u32 = 16;

/// The send arena and what waits in it.
pub(crate) struct Sender {
    arena: Vec<u8>,
    /// Bytes of a file on their way from the disk.
    scratch: Vec<u8>,
    /// What is being sent, and how many bytes of it the socket has.
    waiting: Option<(Transmit, usize)>,
    /// Bytes sent since that was last asked.
    pub(crate) sent: usize,
    /// The system may cut datagrams out of one buffer, if it can.
    pub(crate) offload: bool,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Sender {
    pub(crate) fn new() -> Self {
        let scratch = vec![0; DATAGRAM_MAX];
        Self { arena: vec![0; DATAGRAM_MAX], scratch, waiting: None, sent: 0, offload: true }
    }

    /// Whether the socket would block.
    pub(crate) const fn is_blocked(&self) -> bool {
        self.waiting.is_some()
    }

    /// How many bytes were sent since this was last asked.
    pub(crate) const fn take_sent(&mut self) -> usize {
        core::mem::replace(&mut self.sent, 0)
    }

    /// Sends all that the server has, until a socket would block or a turn has had its share of files.
    /// True when there may be more of them at once.
    pub(crate) fn flush<H: Host>(
        &mut self,
        ports: &Ports,
        server: &mut Server,
        host: &mut H,
        now: Now,
    ) -> bool {
        let mut batches = 0;
        loop {
            let next = self.waiting.take();
            let next = next.or_else(|| Some((server.poll_transmit(now, &mut self.arena)?, 0)));
            let next = match next {
                None if batches == BATCHES => return true,
                None => {
                    batches += 1;
                    self.chunks(server, host, now).map(|transmit| (transmit, 0))
                }
                next => next,
            };
            let Some((transmit, before)) = next else { return false };
            let sent = self.send(ports, &transmit, before);
            self.sent = self.sent.saturating_add(sent.saturating_sub(before));
            if sent < transmit.len {
                self.waiting = Some((transmit, sent));
                return false;
            }
        }
    }

    /// Seals the next batch of a file.
    fn chunks<H: Host>(&mut self, server: &mut Server, host: &mut H, now: Now) -> Option<Transmit> {
        while let Some(want) = server.file_want(now) {
            let bytes = &mut self.scratch[..want.len];
            match host.load(&want, bytes) {
                Ok(()) => {
                    let sent = server.send_chunk(now, &want, bytes, &mut self.arena);
                    if sent.is_some() {
                        return sent;
                    }
                }
                Err(reason) => server.cancel_file(now, want.transfer, reason),
            }
        }
        None
    }

    /// Sends a transmit from byte `sent` on; how far that got, which is to its end unless the socket
    /// would block. What belongs to a closed binding is gone with it.
    fn send(&self, ports: &Ports, transmit: &Transmit, mut sent: usize) -> usize {
        let Some(bound) = ports.towards(&transmit.path) else { return transmit.len };
        while sent < transmit.len {
            let most = if self.offload { bound.state.max_gso_segments() } else { 1 };
            let end = transmit.len.min(sent + transmit.at_once(most));
            match send_batch(bound, transmit, &self.arena[sent..end]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
                // The network card cuts nothing after all: one by one.
                Err(_) if most > 1 && bound.state.max_gso_segments() == 1 => {}
                // Any other error is packet loss, which the machine survives. One that is expected is
                // EMSGSIZE, for a size probe that the first link of the path does not take.
                Ok(()) | Err(_) => sent = end,
            }
        }
        sent
    }
}

fn send_batch(bound: &Bound, transmit: &Transmit, contents: &[u8]) -> io::Result<()> {
    let datagram = quinn_udp::Transmit {
        destination: transmit.path.remote,
        ecn: None,
        contents,
        segment_size: (transmit.segment < contents.len()).then_some(transmit.segment),
        src_ip: transmit.path.local.filter(|_| bound.ip.is_unspecified()),
    };
    bound.state.try_send(UdpSockRef::from(&bound.io), &datagram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rx::Receiver;
    use clawchat_core::id::PortId;
    use clawchat_core::ops::Outcome;
    use clawchat_core::transport::path::Path;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use core::time::Duration;
    use mio::{Events, Poll};
    use std::net::UdpSocket;

    const PORT: PortId = PortId(3);

    struct Bench {
        poll: Poll,
        ports: Ports,
        number: u16,
    }

    /// A binding at these addresses; `None` where the machine lacks the family.
    fn bench(bind: &[IpAddr]) -> Option<Bench> {
        let poll = Poll::new().unwrap();
        let mut ports = Ports::new(bind.to_vec());
        let free = UdpSocket::bind(SocketAddr::new(bind[0], 0)).ok()?;
        let number = free.local_addr().unwrap().port();
        drop(free);
        assert_eq!(ports.bind(poll.registry(), PORT, number), Outcome::Done);
        Some(Bench { poll, ports, number })
    }

    fn peer(ip: IpAddr) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    impl Bench {
        /// What arrives next, and by which path.
        fn receive(&mut self) -> (Path, Vec<u8>) {
            let (mut receiver, mut events) = (Receiver::new(), Events::with_capacity(8));
            loop {
                let mut got = None;
                for bound in self.ports.iter_mut() {
                    receiver
                        .receive(bound, |path, datagram, _| got = Some((path, datagram.to_vec())));
                }
                if let Some(got) = got {
                    return got;
                }
                self.poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
                assert!(!events.is_empty(), "nothing came");
            }
        }

        fn send(&self, path: Path, len: usize, segment: usize) -> usize {
            self.send_by(Sender::new(), path, len, segment)
        }

        fn send_by(&self, mut sender: Sender, path: Path, len: usize, segment: usize) -> usize {
            sender.arena.resize(sender.arena.len().max(len), 0);
            sender.arena.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
            sender.send(&self.ports, &Transmit { path, len, segment }, 0)
        }
    }

    #[test]
    fn answers_leave_from_the_address_that_was_asked() {
        let mut bench = bench(&[Ipv4Addr::UNSPECIFIED.into()]).unwrap();
        // Linux has all of 127.0.0.0/8.
        for last in if cfg!(target_os = "linux") { 1..=3 } else { 1..=1 } {
            let asked = IpAddr::from([127, 0, 0, last]);
            let (client, address) = peer(Ipv4Addr::LOCALHOST.into());
            client.send_to(b"hello", (asked, bench.number)).unwrap();
            let (path, datagram) = bench.receive();
            assert_eq!(path, Path { port: PORT, remote: address, local: Some(asked) });
            assert_eq!(datagram, b"hello");
            assert_eq!(bench.send(path, 100, 100), 100);
            let from = client.recv_from(&mut [0; 200]).unwrap();
            assert_eq!(from, (100, SocketAddr::new(asked, bench.number)));
        }
    }

    #[test]
    fn of_several_sockets_the_one_that_was_asked_answers() {
        if !cfg!(target_os = "linux") {
            return;
        }
        let two = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let mut bench = bench(&two).unwrap();
        for asked in two {
            let (client, address) = peer(Ipv4Addr::LOCALHOST.into());
            client.send_to(b"hello", (asked, bench.number)).unwrap();
            let (path, _) = bench.receive();
            assert_eq!((path.local, path.remote), (Some(asked), address));
            bench.send(path, 64, 64);
            assert_eq!(client.recv_from(&mut [0; 200]).unwrap().1.ip(), asked);
        }
    }

    #[test]
    fn the_largest_datagram_goes_in_one_piece() {
        // The largest multiple of 16 that fits the loopback's MTU of 65,536 with its headers.
        for (ip, largest) in [
            (IpAddr::from(Ipv4Addr::LOCALHOST), DATAGRAM_MAX),
            (Ipv6Addr::LOCALHOST.into(), 65_488),
        ] {
            let Some(bench) = bench(&[ip]) else { continue };
            let (client, address) = peer(ip);
            let path = Path::new(PORT, address);
            let bound = bench.ports.towards(&path).unwrap();
            assert!(!bound.state.may_fragment() || !cfg!(target_os = "linux"));
            assert_eq!(bench.send(path, largest, largest), largest);
            let mut buffer = vec![0; 70_000];
            assert_eq!(client.recv(&mut buffer).unwrap(), largest);
            assert!(buffer[..largest].iter().enumerate().all(|(at, b)| *b == (at % 251) as u8));
            if ip.is_ipv6() && cfg!(target_os = "linux") {
                // Too large for the first link: lost, never cut in pieces; the socket lives on.
                let too_long = [7; DATAGRAM_MAX];
                let transmit = Transmit { path, len: DATAGRAM_MAX, segment: DATAGRAM_MAX };
                let error = send_batch(bound, &transmit, &too_long).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::MSGSIZE.raw_os_error()));
                assert_eq!(bench.send(path, DATAGRAM_MAX, DATAGRAM_MAX), DATAGRAM_MAX);
            }
            bench.send(path, 64, 64);
            assert_eq!(client.recv(&mut buffer).unwrap(), 64);
        }
    }

    #[test]
    fn batches_arrive_as_single_datagrams() {
        let bench = bench(&[Ipv4Addr::LOCALHOST.into()]).unwrap();
        let (client, address) = peer(Ipv4Addr::LOCALHOST.into());
        let path = Path::new(PORT, address);
        // With a short one at the end; more segments and more bytes than the kernel takes at once.
        let cases = [(10 * 1200 + 64, 1200), (100 * 64, 64), (50 * 1472 + 16, 1472)];
        for ((len, segment), offload) in cases.into_iter().flat_map(|c| [(c, true), (c, false)]) {
            let mut sender = Sender::new();
            sender.offload = offload;
            assert_eq!(bench.send_by(sender, path, len, segment), len);
            let mut buffer = [0; 2000];
            let mut at = 0;
            while at < len {
                let got = client.recv(&mut buffer).unwrap();
                assert_eq!(got, segment.min(len - at), "{segment} of {len} at {at}");
                assert!((0..got).all(|i| buffer[i] == ((at + i) % 251) as u8));
                at += got;
            }
        }
    }

    #[test]
    fn what_waits_for_a_closed_binding_is_dropped() {
        let mut bench = bench(&[Ipv4Addr::LOCALHOST.into()]).unwrap();
        let (_client, address) = peer(Ipv4Addr::LOCALHOST.into());
        assert_eq!(bench.ports.close(bench.poll.registry(), PORT), Outcome::Done);
        assert_eq!(bench.send(Path::new(PORT, address), 5000, 1200), 5000, "not stuck");
        let again = bench.ports.bind(bench.poll.registry(), PortId(4), bench.number);
        assert_eq!(again, Outcome::Done, "the number is free again");
    }
}
