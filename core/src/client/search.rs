//! Looking for the server: the hello, where it goes, and how often (PROTOCOL 5.1, 5.2).

use super::{Client, ClientConfig, State};
use crate::crypto::aead::CipherProvider;
use crate::crypto::agree::PrivateKey;
use crate::crypto::derive::{ConnectionId, Direction, EpochKeys, epoch_next, epoch_zero, hello_id};
use crate::crypto::identity::Identity;
use crate::crypto::packet::PacketKeys;
use crate::error::{CloseReason, DropReason, Malformed, Violation};
use crate::id::{Epoch, PortId};
use crate::limits::{
    ANSWERED_PATIENCE, DATAGRAM_BASE, HEADER_LEN, HELLO_ATTEMPTS, HELLO_INTERVAL,
    HELLO_INTERVAL_MAX, HELLO_WIDE_FROM, OVERHEAD, PORT_ATTEMPTS, ROTATION_INTERVAL,
};
use crate::random::Random;
use crate::session::{Session, Setup};
use crate::time::{Duration, Instant, Now};
use crate::transport::epochs::{EpochState, Epochs};
use crate::transport::path::Path;
use crate::wire::cursor::Writer;
use crate::wire::frame::{Frame, Frames, write_padding, write_signal};
use crate::wire::header::{Header, PacketType};
use crate::wire::message::{ErrorMessage, Message, SessionInfo, Side};
use crate::wire::secfile::SecurityFile;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// One attempt to connect.
#[derive(Debug)]
pub(super) struct Search {
    connection_id: ConnectionId,
    keys: EpochKeys,
    /// Opens what the server seals in epoch 0.
    open: PacketKeys,
    private: PrivateKey,
    hello: Vec<u8>,
    /// Copies sent so far.
    copies: u32,
    interval: Duration,
    next: Instant,
    pub(super) until: Instant,
    /// How long the first packet of a session found may take.
    pub(super) patience: Duration,
    /// Where this copy still has to go.
    targets: VecDeque<SocketAddr>,
}

/// A session was found, and has not said a word yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    /// When to look for the server again.
    again_at: Instant,
    /// Of the search that found it.
    until: Instant,
    patience: Duration,
}

/// What ended a search.
#[derive(Debug)]
pub(super) enum Found {
    /// The server's answer: a session, and what it said of it.
    Session(Box<Session>, SessionInfo),
    /// The server's error.
    Refused(ErrorMessage),
    /// An answer that breaks a rule.
    Bad(Violation),
}

impl Search {
    pub(super) fn new(
        now: Now,
        file: &SecurityFile,
        random: &mut Random,
        provider: &'static dyn CipherProvider,
    ) -> Self {
        let nonce = random.public.u64();
        let private = PrivateKey::new(provider, random.private.secret());
        let connection_id = ConnectionId::new(now.wall, nonce);
        let keys = epoch_zero(&file.shared_secret, &connection_id, now.wall);
        let offer = Message::Offer {
            epoch: Epoch(1),
            public_key: private.public(),
            server_id: Some(file.server_id.clone()),
        };
        let mut hello = vec![0; DATAGRAM_BASE];
        let room = DATAGRAM_BASE - OVERHEAD;
        let mut writer = Writer::new(&mut hello[HEADER_LEN..HEADER_LEN + room]);
        let fits = write_signal(&mut writer, &offer.encode());
        debug_assert!(fits, "a server id is at most 128 bytes");
        write_padding(&mut writer, room);
        let plaintext = writer.len();
        let id = Identity::new(&hello_id(&file.shared_secret)).message_id(nonce);
        let mut seal = PacketKeys::new(&keys, Direction::C2s, provider);
        seal.seal_as(id, nonce, now.wall, PacketType::KeyRotation, &mut hello, plaintext);
        Self {
            connection_id,
            open: PacketKeys::new(&keys, Direction::S2c, provider),
            keys,
            private,
            hello,
            copies: 0,
            interval: HELLO_INTERVAL,
            next: now.mono,
            until: now.mono + Duration::from_secs(file.hole_punch_timeout),
            patience: ANSWERED_PATIENCE,
            targets: VecDeque::new(),
        }
    }

    /// When the next copy is due, or the search is given up.
    pub(super) fn deadline(&self) -> Instant {
        self.next.min(self.until)
    }

    /// The next copy of the hello, if one is due.
    pub(super) fn poll(
        &mut self,
        now: Now,
        targets: impl FnOnce(u32) -> Vec<SocketAddr>,
        out: &mut [u8],
    ) -> Option<(SocketAddr, usize)> {
        if self.targets.is_empty() {
            if self.next > now.mono || self.until <= now.mono {
                return None;
            }
            self.targets = targets(self.copies).into();
            self.copies += 1;
            self.next = now.mono + self.interval;
            self.interval = (self.interval * 2).min(HELLO_INTERVAL_MAX);
        }
        let target = self.targets.pop_front()?;
        out.get_mut(..self.hello.len())?.copy_from_slice(&self.hello);
        Some((target, self.hello.len()))
    }

    /// Reads the server's reply. What is not one is dropped in silence.
    pub(super) fn read(
        &mut self,
        header: &Header,
        datagram: &mut [u8],
    ) -> Result<Message, DropReason> {
        let seq = self.open.seq(header).ok_or(DropReason::NoKey)?;
        if !self.open.iv_fits(header, seq) {
            return Err(DropReason::Iv);
        }
        let plaintext = self.open.open(header, datagram)?;
        let mut frames = Frames::new(&datagram[plaintext])
            .filter(|frame| !matches!(frame, Ok(Frame::Padding | Frame::Ack(_))));
        let (Some(Ok(Frame::Signal(json))), None) = (frames.next(), frames.next()) else {
            return Err(DropReason::EpochZero);
        };
        match Message::read(json, header.kind, Side::Server) {
            Ok(Some(message)) => Ok(message),
            _ => Err(DropReason::EpochZero),
        }
    }

    /// What to remember of the search that was answered.
    pub(super) fn answered(&self, now: Instant) -> Answered {
        let Self { until, patience, .. } = *self;
        let again_at = (now + patience).min(until.max(now + ANSWERED_PATIENCE));
        Answered { again_at, until, patience }
    }

    /// Uses up the search with the reply that was read: epoch 0 is dropped.
    pub(super) fn finish(
        self,
        now: Now,
        path: Path,
        config: &ClientConfig,
        reply: Message,
    ) -> Found {
        let ClientConfig { file, provider, key_limits, .. } = config;
        let (server_public, info) = match reply {
            Message::Error(error) => return Found::Refused(error),
            Message::Answer { public_key, session: Some(info), .. } => (public_key, info),
            _ => return Found::Bad(Violation::RotationStep),
        };
        if info.server_id != file.server_id {
            return Found::Bad(Violation::Message(Malformed::Field("server_id")));
        }
        let client_public = self.private.public();
        let Some(agreed) = self.private.agree(&server_public) else {
            return Found::Bad(Violation::ZeroSharedSecret);
        };
        let keys = epoch_next(
            self.keys.next_key_seed,
            agreed,
            &self.connection_id,
            Epoch(1),
            &client_public,
            &server_public,
        );
        let epoch = EpochState::new(now.mono, Epoch(1), keys, Direction::C2s, *provider);
        let setup = Setup {
            side: Side::Client,
            connection_id: self.connection_id,
            path,
            epochs: Epochs::new(epoch, *key_limits),
            response_timeout: Duration::from_secs(file.response_timeout),
            rotation_interval: Duration::from_secs(
                info.rotation_interval.clamp(1, ROTATION_INTERVAL),
            ),
            provider: *provider,
        };
        let mut session = Session::new(now.mono, setup);
        let switched = session.send(&Message::Switch { epoch: Epoch(1) }, None);
        debug_assert!(switched.is_ok(), "an empty channel has room");
        Found::Session(Box::new(session), info)
    }
}

impl Client {
    /// When a session that was found is given up for its silence.
    pub(super) fn search_on_at(&self) -> Option<Instant> {
        let State::InSession(session, _) = &self.state else { return None };
        self.answered.filter(|_| session.is_half_open()).map(|answered| answered.again_at)
    }

    /// Looks for a server that answered and was not heard of since: with a new hello, until the time of
    /// the first is up.
    pub(super) fn search_on(&mut self, now: Now) {
        let silent = self.search_on_at().is_some_and(|at| at <= now.mono);
        let Some(answered) = self.answered.filter(|_| silent) else { return };
        self.answered = None;
        if answered.until <= now.mono {
            self.ended(now, CloseReason::Unreachable);
            return;
        }
        self.search(now);
        if let State::Searching(search) = &mut self.state {
            search.until = answered.until;
            search.patience = answered.patience * 2;
        }
    }
}

/// Whether a reply can end the search: an answer to epoch 1, or a fatal error.
pub(super) fn is_reply(message: &Message) -> bool {
    match message {
        Message::Answer { epoch, session, .. } => *epoch == Epoch(1) && session.is_some(),
        Message::Error(error) => error.fatal,
        _ => false,
    }
}

/// The ports to try, most likely first (PROTOCOL 5.2). `copy` counts from 0.
pub(super) fn ports(file: &SecurityFile, unix_s: u64, copy: u32, by_hand: Option<u16>) -> Vec<u16> {
    if let Some(port) = by_hand {
        return vec![port];
    }
    let mut ports = vec![file.server_udp_port];
    if let Some(schedule) = &file.port_schedule {
        let attempts = if copy >= HELLO_WIDE_FROM { PORT_ATTEMPTS } else { HELLO_ATTEMPTS };
        let slot = schedule.slot(unix_s);
        let (since, until) = schedule.within_slot(unix_s);
        let mut slots = vec![slot];
        if since < file.grace_period && slot > 0 {
            slots.push(slot - 1);
        }
        if until <= file.grace_period {
            slots.push(slot + 1);
        }
        for slot in slots {
            ports.extend((0..attempts).map(|attempt| schedule.port(slot, attempt)));
        }
    }
    let mut seen = alloc::collections::BTreeSet::new();
    ports.retain(|port| seen.insert(*port));
    ports
}

/// All addresses at all ports.
pub(super) fn targets(addresses: &[IpAddr], ports: &[u16]) -> Vec<SocketAddr> {
    ports.iter().flat_map(|port| addresses.iter().map(|ip| (*ip, *port).into())).collect()
}

/// The one binding of a client.
pub(super) const PORT: PortId = PortId(0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::wire::secfile::PortSchedule;

    fn file(scheduled: bool) -> SecurityFile {
        SecurityFile {
            server_id: "id".into(),
            server_name: "name".into(),
            server_public_ip: "192.0.2.1".into(),
            server_udp_port: 50_000,
            shared_secret: Secret::take(&mut [1; 32]),
            bootstrap_key_id: "b".into(),
            timestamp: 0,
            valid_from: 0,
            valid_until: 0,
            next_rotation: 0,
            grace_period: 300,
            stun_servers: Vec::new(),
            hole_punch_timeout: 60,
            port_schedule: scheduled.then(|| PortSchedule {
                seed: Secret::take(&mut [2; 32]),
                origin: 0,
                interval: 3600,
            }),
            response_timeout: 10,
        }
    }

    #[test]
    fn where_hellos_go() {
        assert_eq!(ports(&file(false), 1, 9, None), [50_000]);
        assert_eq!(ports(&file(true), 1, 9, Some(7)), [7]);
        let scheduled = file(true);
        let schedule = scheduled.port_schedule.as_ref().unwrap();
        let of = |slot| move |attempt| schedule.port(slot, attempt);
        let expected = |slots: &[u64], attempts| {
            let mut all = vec![50_000];
            slots.iter().for_each(|slot| all.extend((0..attempts).map(of(*slot))));
            all
        };
        let middle = 5 * 3600 + 1800;
        assert_eq!(ports(&scheduled, middle, 4, None), expected(&[5], 3));
        assert_eq!(ports(&scheduled, middle, 5, None), expected(&[5], 10));
        assert_eq!(ports(&scheduled, 5 * 3600 + 299, 0, None), expected(&[5, 4], 3));
        assert_eq!(ports(&scheduled, 5 * 3600 + 300, 0, None), expected(&[5], 3));
        assert_eq!(ports(&scheduled, 6 * 3600 - 300, 0, None), expected(&[5, 6], 3));
    }

    #[test]
    fn when_hellos_go() {
        let mut random = Random::new(&crate::random::Seed::new(&mut [5; 32]));
        let start = Now { mono: Instant::ZERO, wall: crate::time::UnixMs(1_700_000_000_000) };
        let file = file(false);
        let mut search = Search::new(start, &file, &mut random, &crate::crypto::aead::RustCrypto);
        let (mut out, mut at, mut first) = (vec![0; 2000], Vec::new(), None);
        let mut now = start;
        while search.deadline() < search.until {
            now.mono = search.deadline();
            let to = targets(&[IpAddr::from([192, 0, 2, 1])], &[50_000]);
            let (target, len) = search.poll(now, |_| to, &mut out).unwrap();
            assert_eq!((target.port(), len), (50_000, DATAGRAM_BASE));
            assert_eq!(*first.get_or_insert_with(|| out.clone()), out, "byte for byte the same");
            assert_eq!(search.poll(now, |_| Vec::new(), &mut out), None);
            at.push(now.mono.as_micros() / 1000);
        }
        assert_eq!(at[..7], [0, 250, 750, 1750, 3750, 5750, 7750]);
        assert_eq!(*at.last().unwrap(), 59_750);
    }
}
