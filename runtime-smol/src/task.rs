//! The one task that owns the machine.

use crate::host::Host;
use crate::jobs::Jobs;
use crate::socket::Sockets;
use crate::{Command, Options, SessionState, clock};
use clawchat_core::client::{Action, Client, Event};
use clawchat_core::id::OpId;
use clawchat_core::limits::DATAGRAM_MAX;
use clawchat_core::ops::{Chunk, Outcome};
use clawchat_core::spin::{AdaptiveSpin, SPIN};
use clawchat_core::time::{Instant, Now};
use clawchat_core::transport::path::Transmit;
use clawchat_core::wire::message::FileError;
use core::net::IpAddr;
use core::time::Duration;
use smol::Timer;
use smol::channel::{Receiver, Sender, TryRecvError, unbounded};
use smol::future::FutureExt;
use std::sync::Arc;

/// Commands that are taken before the network has its turn.
const COMMANDS: u32 = 16;
/// Receives of one turn.
const RECEIVES: usize = 16;
/// Batches of files that one turn sends: what arrives meanwhile must not wait for long.
const BATCHES: u32 = 16;

/// Longest wait: so long after waking from a sleep of the machine, at most, it sees what has become due.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// While the socket or the application keeps it from sending, deadlines only have to be kept roughly.
const HELD_PAUSE: Duration = Duration::from_millis(5);

/// What woke the task.
enum Woken {
    Readable,
    /// Something came, and has been taken.
    Received,
    Writable,
    Deadline,
    Completion(OpId, Outcome),
    Command(Command),
    /// All handles are gone; only the network is left to listen to.
    NoHandle,
}

/// Both ends of a channel.
type Channel<T> = (Sender<T>, Receiver<T>);

pub(crate) struct Task {
    client: Client,
    addresses: Vec<IpAddr>,
    sockets: Sockets,
    host: Arc<dyn Host>,
    jobs: Jobs,
    commands: Option<Receiver<Command>>,
    events: Sender<Event>,
    completions: Channel<(OpId, Outcome)>,
    arena: Vec<u8>,
    /// Bytes of a file on their way from the disk; empty before the first.
    scratch: Vec<u8>,
    /// There may be more of a file to send at once.
    more: bool,
    /// Something may have arrived meanwhile: to look costs less than to be told.
    look: bool,
    /// Bytes sent since it last had to wait.
    sent: usize,
    spin: AdaptiveSpin,
    /// Commands taken since the network was last looked at or waited for.
    in_a_row: u32,
    /// Fires when the machine's deadline has come, or earlier: to set it anew wakes the reactor.
    timer: Timer,
    /// When it fires, on the machine's clock.
    fires: Option<Instant>,
    /// What is being sent, and how many bytes of it the socket has.
    waiting: Option<(Transmit, usize)>,
    /// Chats that the application was given and has not dealt with.
    unseen: usize,
}

impl Task {
    pub(crate) fn new(
        client: Client,
        addresses: Vec<IpAddr>,
        host: Arc<dyn Host>,
        commands: Receiver<Command>,
        events: Sender<Event>,
        options: Options,
    ) -> Self {
        let completions = unbounded();
        Self {
            client,
            addresses,
            sockets: Sockets::new(!options.offload),
            jobs: Jobs::new(host.clone(), completions.0.clone()),
            host,
            commands: Some(commands),
            events,
            completions,
            arena: vec![0; DATAGRAM_MAX],
            scratch: Vec::new(),
            more: false,
            look: false,
            sent: 0,
            spin: AdaptiveSpin::default(),
            in_a_row: 0,
            timer: Timer::never(),
            fires: None,
            waiting: None,
            unseen: 0,
        }
    }

    /// Runs until the machine has nothing more to send or to answer.
    pub(crate) async fn run(mut self) {
        loop {
            self.drain(clock::now());
            if self.client.is_over() && self.commands.as_ref().is_none_or(Receiver::is_closed) {
                return;
            }
            // Who was handed something may have an answer to it.
            smol::future::yield_now().await;
            let woken = match self.at_hand() {
                Some(woken) => woken,
                None => self.rest().await,
            };
            let now = clock::now();
            match woken {
                Woken::Readable => {
                    self.receive(now);
                }
                Woken::Received | Woken::Writable | Woken::Deadline => {}
                Woken::Completion(op, outcome) => self.client.handle_completion(now, op, outcome),
                Woken::Command(command) => self.command(now, command),
                Woken::NoHandle => self.commands = None,
            }
            if self.client.poll_timeout().is_some_and(|deadline| deadline.at <= now.mono) {
                self.client.handle_timeout(now);
            }
        }
    }

    /// Takes what has arrived; how many bytes that was.
    fn receive(&mut self, now: Now) -> usize {
        let mut received = 0;
        // Bounded, so that a flood can't keep the task from its commands.
        for _ in 0..RECEIVES {
            let (client, host, received) = (&mut self.client, &self.host, &mut received);
            self.look = self.sockets.receive(|path, datagrams, stride| {
                let store = |chunk: &Chunk<'_>| host.store(chunk);
                *received += datagrams.len();
                client.handle_batch(now, path, datagrams, stride, store);
            });
            if !self.look {
                break;
            }
        }
        for transfer in self.host.flush() {
            self.client.file_checked(now, transfer, Err(FileError::Disk));
        }
        received
    }

    /// What there is to do without waiting.
    fn at_hand(&mut self) -> Option<Woken> {
        if let Ok((op, outcome)) = self.completions.1.try_recv() {
            return Some(Woken::Completion(op, outcome));
        }
        // Who always has another command must not keep the task from the network.
        if self.in_a_row < COMMANDS {
            match self.commands.as_ref().map(Receiver::try_recv) {
                Some(Ok(command)) => {
                    self.in_a_row += 1;
                    return Some(Woken::Command(command));
                }
                Some(Err(TryRecvError::Closed)) => return Some(Woken::NoHandle),
                Some(Err(TryRecvError::Empty)) | None => {}
            }
        }
        let look = self.more || self.look || self.in_a_row >= COMMANDS;
        self.in_a_row = 0;
        look.then_some(Woken::Readable)
    }

    /// Waits, with nothing at hand; what arrives is taken.
    async fn rest(&mut self) -> Woken {
        let (sent, began) = (core::mem::take(&mut self.sent), clock::now().mono);
        if self.spin.is_worth_it(sent)
            && let Some(woken) = self.look_out(sent, began).await
        {
            return woken;
        }
        let woken = self.wait().await;
        if !matches!(woken, Woken::Readable) {
            return woken;
        }
        let now = clock::now();
        let received = self.receive(now);
        self.spin.learn(sent, now.mono.since(began), received);
        Woken::Received
    }

    /// Waits for a moment without falling asleep.
    async fn look_out(&mut self, sent: usize, began: Instant) -> Option<Woken> {
        loop {
            let now = clock::now();
            let received = self.receive(now);
            if received > 0 || now.mono.since(began) >= SPIN {
                self.spin.learn(sent, now.mono.since(began), received);
                return (received > 0).then_some(Woken::Received);
            }
            // The application may be a task of the same thread.
            smol::future::yield_now().await;
            let woken = self.at_hand();
            if woken.is_some() {
                return woken;
            }
        }
    }

    /// Sets the timer, unless it fires before the deadline anyway.
    fn set_timer(&mut self) {
        let now = clock::now().mono;
        let Some(mut at) = self.client.poll_timeout().map(|deadline| deadline.at) else { return };
        if self.waiting.is_some() || self.is_held() {
            // A deadline that waits for the socket or the application must not spin.
            at = at.max(now + HELD_PAUSE);
        }
        // The timer stands still while the machine sleeps, its clock does not.
        let slept = |fires| fires < now;
        at = at.min(now + WAIT_MAX);
        if self.fires.is_none_or(|fires| at < fires || slept(fires)) {
            self.timer.set_after(at.since(now));
            self.fires = Some(at);
        }
    }

    async fn wait(&mut self) -> Woken {
        self.set_timer();
        let held = self.is_held();
        let timer = &mut self.timer;
        let fires = &mut self.fires;
        let readable = async {
            self.sockets.readable().await;
            Woken::Readable
        };
        let writable = async {
            match self.waiting {
                Some((transmit, _)) if !held => {
                    self.sockets.writable(transmit.path.remote.is_ipv4()).await;
                }
                // Held, it sends nothing however writable the socket is.
                Some(_) | None => smol::future::pending().await,
            }
            Woken::Writable
        };
        let deadline = async {
            timer.await;
            *fires = None;
            Woken::Deadline
        };
        let completion = async {
            match self.completions.1.recv().await {
                Ok((op, outcome)) => Woken::Completion(op, outcome),
                Err(_) => smol::future::pending().await,
            }
        };
        let command = async {
            match &self.commands {
                Some(commands) => commands.recv().await.map_or(Woken::NoHandle, Woken::Command),
                None => smol::future::pending().await,
            }
        };
        command.or(completion).or(readable).or(writable).or(deadline).await
    }

    fn command(&mut self, now: Now, command: Command) {
        // A reply that nobody waits for any more is no loss.
        match command {
            Command::Send { to, text, reply } => {
                let _gone = reply.try_send(self.client.send_chat(now, &to, &text));
            }
            Command::Status(status, reply) => {
                let _gone = reply.try_send(self.client.set_status(now, status));
            }
            Command::RotateKeys(reply) => {
                let _gone = reply.try_send(self.client.rotate_keys(now));
            }
            Command::Ping(reply) => drop(reply.try_send(self.client.ping())),
            Command::State(reply) => {
                let _gone = reply.try_send(SessionState {
                    epoch: self.client.epoch(),
                    rtt: self.client.rtt(),
                    server: self.client.path().map(|path| path.remote),
                    unreceipted: self.client.unreceipted(),
                });
            }
            Command::OfferFile { id, to, name, size, reply } => {
                let offered = self.client.offer_file(now, id, &to, &name, size);
                if let Ok(transfer) = offered {
                    self.host.offered(transfer, id);
                }
                let _gone = reply.try_send(offered);
            }
            Command::FileDigest(transfer, sha256) => {
                self.client.file_digest(now, transfer, sha256);
            }
            Command::AcceptFile { transfer, have, limit, reply } => {
                let _gone = reply.try_send(self.client.accept_file(now, transfer, &have, limit));
            }
            Command::RaiseLimit(transfer, limit) => {
                // A transfer that is over needs no limit.
                let _over = self.client.raise_file_limit(now, transfer, limit);
            }
            Command::FileChecked(transfer, result) => {
                self.client.file_checked(now, transfer, result);
            }
            Command::CancelFile(transfer, reason) => {
                self.client.cancel_file(now, transfer, &reason);
            }
            Command::Progress(transfer, reply) => {
                let _gone = reply.try_send(self.client.file_progress(transfer));
            }
            Command::Connect => self.client.connect(now),
            Command::Compromised => self.client.declare_compromised(now),
            Command::GiveUpSignalling => self.client.give_up_signalling(now),
            Command::Leave => self.client.leave(now),
            Command::DealtWith(chats) => self.unseen = self.unseen.saturating_sub(chats),
        }
    }

    /// Performs and hands out what the machine has, until it has nothing more.
    fn drain(&mut self, now: Now) {
        while let Some((op, action)) = self.client.poll_action() {
            let outcome = match action {
                Action::BindPort { port } => Some(self.sockets.bind(port, &self.addresses)),
                Action::ClosePort { port } => Some(self.sockets.close(port)),
                Action::StoreSecurityFile { .. } | Action::WipeSecurityFiles => None,
            };
            if let Some(outcome) = outcome {
                self.client.handle_completion(now, op, outcome);
                continue;
            }
            self.jobs.start(op, action);
        }
        self.hand_out();
        let mut batches = 0;
        self.more = false;
        while !self.is_held() {
            let next = self.waiting.take();
            let mut next =
                next.or_else(|| Some((self.client.poll_transmit(now, &mut self.arena)?, 0)));
            if next.is_none() {
                if batches == BATCHES {
                    self.more = true;
                    break;
                }
                batches += 1;
                next = self.chunks(now).map(|transmit| (transmit, 0));
                self.look |= next.is_some();
            }
            let Some((transmit, before)) = next else { break };
            let sent = self.sockets.send(&transmit, &self.arena, before);
            self.sent = self.sent.saturating_add(sent.saturating_sub(before));
            if sent < transmit.len {
                self.waiting = Some((transmit, sent));
                break;
            }
        }
        self.hand_out();
    }

    /// Seals the next batch of a file.
    fn chunks(&mut self, now: Now) -> Option<Transmit> {
        while let Some(want) = self.client.file_want(now) {
            if self.scratch.len() < want.len {
                self.scratch.resize(DATAGRAM_MAX, 0);
            }
            let bytes = &mut self.scratch[..want.len];
            match self.host.load(&want, bytes) {
                Ok(()) => {
                    let sent = self.client.send_chunk(now, &want, bytes, &mut self.arena);
                    if sent.is_some() {
                        return sent;
                    }
                }
                Err(reason) => self.client.cancel_file(now, want.transfer, reason),
            }
        }
        None
    }

    fn hand_out(&mut self) {
        while let Some(event) = self.client.poll_event() {
            let is_chat = matches!(event, Event::Chat(_));
            // Nobody listens once all handles are gone.
            if self.events.try_send(event).is_ok() && is_chat {
                self.unseen += 1;
            }
        }
    }

    /// Whether nothing may be sent: it could acknowledge a chat that is then lost with the application.
    fn is_held(&self) -> bool {
        // COMPROMISED waits for nobody, and acknowledges no chat.
        self.unseen > 0 && !self.events.is_closed() && !self.client.is_compromised()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawchat_core::client::ClientConfig;
    use clawchat_core::crypto::aead::RustCrypto;
    use clawchat_core::id::{ChatId, TransferId};
    use clawchat_core::limits::KeyLimits;
    use clawchat_core::ops::Want;
    use clawchat_core::random::Seed;
    use clawchat_core::secret::Secret;
    use clawchat_core::wire::secfile::SecurityFile;
    use core::net::Ipv4Addr;
    use std::net::UdpSocket;

    /// A host of nobody.
    struct Quiet;

    impl Host for Quiet {
        fn perform(&self, _: &Action) -> Outcome {
            Outcome::Failed
        }
        fn offered(&self, _: TransferId, _: ChatId) {}
        fn store(&self, _: &Chunk<'_>) -> bool {
            false
        }
        fn flush(&self) -> Vec<TransferId> {
            vec![]
        }
        fn load(&self, _: &Want, _: &mut [u8]) -> Result<(), &'static str> {
            Err("there are no files")
        }
    }

    fn config(now: Now, port: u16) -> ClientConfig {
        let secs = now.wall.secs();
        let file = SecurityFile {
            server_id: "cc-test".to_owned(),
            server_name: "test".to_owned(),
            server_public_ip: "127.0.0.1".to_owned(),
            server_udp_port: port,
            shared_secret: Secret::take(&mut [7; 32]),
            bootstrap_key_id: "none".to_owned(),
            timestamp: secs - 60,
            valid_from: secs - 60,
            valid_until: secs + 3600,
            next_rotation: secs + 3600,
            grace_period: 300,
            stun_servers: vec![],
            hole_punch_timeout: 60,
            port_schedule: None,
            response_timeout: 10,
        };
        let addresses = vec![Ipv4Addr::LOCALHOST.into()];
        let (port, key_limits) = (Some(port), KeyLimits::default());
        ClientConfig { file, addresses, port, reconnect: false, key_limits, provider: &RustCrypto }
    }

    #[test]
    fn a_near_answer_is_found_without_asking_the_system_to_be_woken() {
        for near in [false, true] {
            let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let now = clock::now();
            let config = config(now, peer.local_addr().unwrap().port());
            let client = Client::new(config, &Seed::new(&mut [1; 32]), now);
            let (_commands, commands) = unbounded();
            let (events, _events) = unbounded();
            let addresses = vec![Ipv4Addr::LOCALHOST.into()];
            let mut task =
                Task::new(client, addresses, Arc::new(Quiet), commands, events, Options::default());
            // Binds, and says hello.
            task.drain(now);
            let (_, from) = peer.recv_from(&mut [0; 2000]).unwrap();
            peer.send_to(&[0; 64], from).unwrap();
            (0..if near { 100 } else { 0 }).for_each(|_| task.spin.learn(64, SPIN, 64));
            task.sent = 64;
            // What has to be waited for is not there the first time that it is asked.
            let woken = smol::block_on(smol::future::poll_once(task.rest()));
            assert_eq!(matches!(woken, Some(Woken::Received)), near);
        }
    }
}
