//! One turn of the loop.

use crate::clock;
use crate::host::{Flow, Host, Input};
use crate::{Driver, WAKER};
use clawchat_core::server::Action;
use clawchat_core::spin::SPIN;
use clawchat_core::time::{Instant, Now};
use core::time::Duration;
use std::io;

/// Longest wait. The loop's timer stands still while the machine sleeps, the server's clock does not:
/// so long after waking, at most, it sees what has become due.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// While a socket would block, its readiness wakes the loop; deadlines only have to be kept roughly.
const BLOCKED_PAUSE: Duration = Duration::from_millis(5);

impl<H: Host> Driver<H> {
    pub(crate) fn turn(&mut self, events: &mut mio::Events, host: &mut H) -> io::Result<Flow> {
        self.drain(clock::now(), host);
        self.ports.await_writable(self.poll.registry(), self.sender.is_blocked())?;
        let (began, sent) = (clock::now(), self.sender.take_sent());
        let timeout = self.pause(began);
        let spins = timeout.is_none_or(|timeout| timeout > SPIN) && self.spin.is_worth_it(sent);
        let mut received = if spins { self.look_out(began.mono, host) } else { 0 };
        if received == 0 {
            match self.poll.poll(events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            for event in events.iter().filter(|event| event.token() != WAKER && event.is_readable())
            {
                if let Some(bound) = self.ports.get_mut(event.token()) {
                    bound.readable = true;
                }
            }
            received = self.receive(clock::now(), host);
        }
        let now = clock::now();
        self.spin.learn(sent, now.mono.since(began.mono), received);
        host.flush(&mut self.server, now);
        let flow = self.take_inputs(now, host);
        self.drain(now, host);
        // Not before: what has just been sent, acknowledgements above all, was due until then.
        if self.server.poll_timeout().is_some_and(|deadline| deadline.at <= now.mono) {
            self.server.handle_timeout(now);
            self.drain(now, host);
        }
        let over = self.server.is_drained() && !self.sender.is_blocked();
        Ok(if over { Flow::Stop } else { flow })
    }

    /// Reads what the sockets have and hands it to the machine; how many bytes that was.
    fn receive(&mut self, now: Now, host: &mut H) -> usize {
        let mut received = 0;
        for bound in self.ports.iter_mut().filter(|bound| bound.readable) {
            self.receiver.receive(bound, |path, datagrams, stride| {
                received += datagrams.len();
                self.server.handle_batch(now, path, datagrams, stride, |chunk| host.store(chunk));
            });
        }
        received
    }

    /// The same until something comes, for a moment.
    fn look_out(&mut self, began: Instant, host: &mut H) -> usize {
        loop {
            self.ports.iter_mut().for_each(|bound| bound.readable = true);
            let now = clock::now();
            let received = self.receive(now, host);
            if received > 0 || now.mono.since(began) >= SPIN {
                return received;
            }
        }
    }

    /// How long to wait for sockets and inputs.
    fn pause(&mut self, now: Now) -> Option<Duration> {
        if self.more || self.ports.iter_mut().any(|bound| bound.readable) {
            return Some(Duration::ZERO);
        }
        let deadline = self.server.poll_timeout()?.at.since(now.mono).min(WAIT_MAX);
        Some(if self.sender.is_blocked() { deadline.max(BLOCKED_PAUSE) } else { deadline })
    }

    fn take_inputs(&mut self, now: Now, host: &mut H) -> Flow {
        let mut flow = Flow::Continue;
        while let Ok(input) = self.inputs.try_recv() {
            match input {
                Input::Completion(op, outcome) => {
                    self.server.handle_completion(now, op, outcome);
                    host.completed(&mut self.server, now, op, outcome);
                }
                Input::Command(command) => {
                    if host.command(&mut self.server, now, command) == Flow::Stop {
                        flow = Flow::Stop;
                    }
                }
            }
        }
        flow
    }

    /// Performs and hands out what the machine has, until it has nothing more.
    fn drain(&mut self, now: Now, host: &mut H) {
        loop {
            let mut quiet = true;
            while let Some((op, action)) = self.server.poll_action() {
                quiet = false;
                let outcome = match action {
                    Action::BindPort { port, number } => {
                        self.ports.bind(self.poll.registry(), port, number)
                    }
                    Action::ClosePort { port } => self.ports.close(self.poll.registry(), port),
                    other => {
                        host.start(op, other);
                        continue;
                    }
                };
                self.server.handle_completion(now, op, outcome);
            }
            while let Some(event) = self.server.poll_event() {
                quiet = false;
                host.event(&mut self.server, now, event);
            }
            if quiet {
                break;
            }
        }
        self.more = self.sender.flush(&self.ports, &mut self.server, host, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawchat_core::crypto::aead::RustCrypto;
    use clawchat_core::id::OpId;
    use clawchat_core::limits::KeyLimits;
    use clawchat_core::ops::{Chunk, Outcome, Want};
    use clawchat_core::random::Seed;
    use clawchat_core::server::{
        Event, PortChoice, RENEWAL_VALID_FOR, Server, ServerConfig, Timing,
    };
    use core::net::{Ipv4Addr, SocketAddr};
    use std::net::UdpSocket;

    /// A host of nobody.
    struct Quiet;

    impl Host for Quiet {
        type Command = ();

        fn start(&mut self, _: OpId, _: Action) {}
        fn completed(&mut self, _: &mut Server, _: Now, _: OpId, _: Outcome) {}
        fn event(&mut self, _: &mut Server, _: Now, _: Event) {}
        fn store(&mut self, _: &Chunk<'_>) -> bool {
            false
        }
        fn flush(&mut self, _: &mut Server, _: Now) {}
        fn load(&mut self, _: &Want, _: &mut [u8]) -> Result<(), &'static str> {
            Err("there are no files")
        }
        fn command(&mut self, _: &mut Server, _: Now, (): ()) -> Flow {
            Flow::Continue
        }
    }

    /// A driver that listens, and where.
    fn driver() -> (Driver<Quiet>, SocketAddr) {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let config = ServerConfig {
            server_id: "cc-test".to_owned(),
            server_name: "test".to_owned(),
            public: "localhost".to_owned(),
            port: PortChoice::Fixed(address.port()),
            timing: Timing::default(),
            renewal_valid_for: RENEWAL_VALID_FOR,
            members: vec![],
            credentials: vec![],
            chats: vec![],
            files: vec![],
            max_sessions: 1,
            key_limits: KeyLimits::default(),
            provider: &RustCrypto,
        };
        let server = Server::new(config, &Seed::new(&mut [1; 32]), clock::now());
        let mut driver = Driver::new(server, vec![address.ip()]).unwrap();
        // Binds, and sees that nothing has come yet.
        let flow = driver.turn(&mut mio::Events::with_capacity(8), &mut Quiet).unwrap();
        assert_eq!(flow, Flow::Continue);
        assert!(driver.ports.iter_mut().all(|bound| !bound.readable));
        (driver, address)
    }

    #[test]
    fn a_near_answer_is_found_without_asking_the_system_to_be_woken() {
        for near in [false, true] {
            let (mut driver, address) = driver();
            let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            peer.send_to(&[0; 64], address).unwrap();
            (0..if near { 100 } else { 0 }).for_each(|_| driver.spin.learn(64, SPIN, 64));
            driver.sender.sent = 64;
            let mut events = mio::Events::with_capacity(8);
            driver.turn(&mut events, &mut Quiet).unwrap();
            assert_eq!(events.is_empty(), near);
            assert_eq!(
                driver.server.drops().map(|(_, count)| count).sum::<u64>(),
                1,
                "it was taken"
            );
        }
    }
}
