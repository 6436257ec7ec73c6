//! What of a transport outlives silence: a session that is idle holds this and no more.

use super::ack::Acks;
use super::channel::{RecvChannel, SendChannel};
use super::epochs::Epochs;
use super::outbox::Outbox;
use super::path::{self, Path};
use super::ping::Asked;
use super::recovery::{self, Recovery};
use super::{Earliest, Settled, Timer, Transport, ended};
use crate::error::CloseReason;
use crate::limits::{IDLE_TIMEOUT, KEEPALIVE};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// A session that was silent for so long, with nothing under way and no ACK owed, keeps what outlives
/// silence and no more: to wake it with its next packet costs some microseconds.
const REST: Duration = Duration::from_millis(5);

/// A transport of which nothing is under way.
#[derive(Debug)]
pub(crate) struct Resting {
    pub(crate) epochs: Epochs,
    acks: Acks,
    recovery: recovery::Resting,
    paths: path::Resting,
    /// Ids of the next message each way.
    next_sent: u64,
    next_received: u64,
    last_transfer: u64,
    last_sent: Instant,
    last_received: Instant,
}

/// What its owner remembers of a transport meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// Its path.
    pub(crate) home: Path,
    /// Bytes of datagrams sealed and opened, over all epochs.
    pub(crate) traffic: (u64, u64),
}

impl Transport {
    /// When it rests, unless it does or something is under way.
    pub(super) fn rests_at(&self) -> Option<Instant> {
        let idle = self.recovery.is_idle() && self.sending.is_idle() && self.acks.due().is_none();
        (idle && self.epochs.is_ready()).then(|| self.last_sent.max(self.last_received) + REST)
    }

    /// Gives back all room that an idle session does not need.
    pub(super) fn rest(&mut self) {
        self.epochs.rest();
        self.recovery.release();
        self.acks.rest();
        self.sending.rest();
        self.receiving.rest();
        self.settled = Settled::default();
        self.delivered = Vec::new();
        self.responses.shrink_to_fit();
    }

    /// What is left of it at rest, or itself if that is not all.
    pub(crate) fn into_resting(self: Box<Self>) -> Result<Resting, Box<Self>> {
        let (Some(next_sent), Some(next_received), Some(last_transfer)) =
            (self.sending.resting(), self.receiving.resting(), self.outbox.resting())
        else {
            return Err(self);
        };
        let quiet = self.responses.is_empty()
            && self.delivered.is_empty()
            && self.acks.due().is_none()
            && !self.ping_due
            && self.asked == Asked::Nothing
            && self.known_home == self.paths.home();
        if !quiet || !self.recovery.may_rest() || !self.paths.may_rest() {
            return Err(self);
        }
        let own = *self;
        Ok(Resting {
            epochs: own.epochs,
            acks: own.acks,
            recovery: own.recovery.into_resting(),
            paths: own.paths.into_resting(),
            next_sent,
            next_received,
            last_transfer,
            last_sent: own.last_sent,
            last_received: own.last_received,
        })
    }
}

impl Resting {
    /// All of a transport again.
    pub(crate) fn wake(self, kept: Kept) -> Transport {
        let Kept { home, traffic: (sent_bytes, received_bytes) } = kept;
        Transport {
            epochs: self.epochs,
            acks: self.acks,
            recovery: Recovery::wake(self.recovery),
            known_home: home,
            paths: self.paths.wake(home),
            sending: SendChannel::woken(self.next_sent),
            receiving: RecvChannel::woken(self.next_received),
            outbox: Outbox::woken(self.last_transfer),
            responses: VecDeque::new(),
            delivered: Vec::new(),
            settled: Settled::default(),
            ping_due: false,
            asked: Asked::Nothing,
            last_sent: self.last_sent,
            last_received: self.last_received,
            sent_bytes,
            received_bytes,
        }
    }

    /// A deadline may have come; true when it has to wake for it.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> bool {
        self.epochs.on_timeout(now);
        now.since(self.last_sent) >= KEEPALIVE
    }
}

/// What there is to know of a transport, awake or at rest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View<'a> {
    Awake(&'a Transport),
    Resting(&'a Resting),
}

impl<'a> View<'a> {
    /// The keys.
    pub(crate) const fn epochs(self) -> &'a Epochs {
        match self {
            Self::Awake(transport) => &transport.epochs,
            Self::Resting(resting) => &resting.epochs,
        }
    }

    /// The smoothed RTT, once there was a sample.
    pub(crate) fn smoothed(self) -> Option<Duration> {
        match self {
            Self::Awake(transport) => transport.recovery.rtt.smoothed(),
            Self::Resting(resting) => resting.recovery.smoothed(),
        }
    }

    /// The probe timeout without back-off.
    pub(crate) fn pto(self) -> Duration {
        match self {
            Self::Awake(transport) => transport.recovery.rtt.pto(),
            Self::Resting(resting) => resting.recovery.pto(),
        }
    }

    /// Probe timeouts since the last acknowledgement.
    pub(crate) const fn pto_count(self) -> u32 {
        match self {
            Self::Awake(transport) => transport.recovery.pto_count(),
            Self::Resting(_) => 0,
        }
    }

    /// Bytes of datagrams sealed and opened, over all epochs; at rest its owner knows.
    pub(crate) const fn traffic(self) -> Option<(u64, u64)> {
        match self {
            Self::Awake(transport) => Some(transport.traffic()),
            Self::Resting(_) => None,
        }
    }

    /// Whether a message would be sent without waiting long for others.
    pub(crate) fn has_room(self) -> bool {
        match self {
            Self::Awake(transport) => transport.sending.has_room(),
            Self::Resting(_) => true,
        }
    }

    /// Why the session ends now, if it does.
    pub(crate) fn end(self, now: Instant) -> Option<CloseReason> {
        match self {
            Self::Awake(transport) => transport.end(now),
            Self::Resting(resting) => ended(now, resting.last_received, &resting.epochs),
        }
    }

    /// The earlier of `first` and what comes first here.
    pub(crate) fn earliest(self, first: Earliest) -> Earliest {
        match self {
            Self::Awake(transport) => transport.earliest(first),
            Self::Resting(resting) => first
                .or(Timer::Keepalive, Some(resting.last_sent + KEEPALIVE))
                .or(Timer::Idle, Some(resting.last_received + IDLE_TIMEOUT))
                .or(Timer::PreviousEpoch, resting.epochs.deadline())
                .or(Timer::KeyRotation, Some(resting.epochs.worn_at())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::RustCrypto;
    use crate::crypto::derive::{Direction, derive};
    use crate::id::{Epoch, PortId};
    use crate::limits::{DATAGRAM_MAX, KeyLimits};
    use crate::random::{Random, Seed, Stream};
    use crate::time::{Now, UnixMs};
    use crate::transport::epochs::EpochState;
    use crate::wire::header::{Header, PacketType};
    use alloc::vec;

    /// Two transports without a network between them, and what happens to them.
    struct Pair {
        now: Now,
        sides: [Box<Transport>; 2],
        random: Stream,
        /// Datagrams and messages: who sent it, when, and its length.
        log: Vec<(usize, Instant, usize)>,
        rests: bool,
        rested: u32,
    }

    impl Pair {
        fn new(rests: bool) -> Self {
            let now =
                Now { mono: Instant::from_micros(1_000_000), wall: UnixMs(1_700_000_000_000) };
            let home = Path::new(PortId(0), ([192, 0, 2, 1], 4000).into());
            let side = |own| {
                let keys = derive(b"secret", b"context");
                let epoch = EpochState::new(now.mono, Epoch(1), keys, own, &RustCrypto);
                let epochs = Epochs::new(epoch, KeyLimits::default());
                Box::new(Transport::new(now.mono, epochs, home, false))
            };
            let sides = [side(Direction::C2s), side(Direction::S2c)];
            let random = Random::new(&Seed::new(&mut [4; 32])).public;
            Self { now, sides, random, log: Vec::new(), rests, rested: 0 }
        }

        /// What both have to say; whether there was anything.
        fn exchange(&mut self) -> bool {
            let (mut out, before) = (vec![0; DATAGRAM_MAX], self.log.len());
            for from in 0..2 {
                while let Some((path, len)) = self.sides[from].poll_transmit(self.now, &mut out) {
                    self.log.push((from, self.now.mono, len));
                    let (to, now) = (&mut self.sides[1 - from], self.now.mono);
                    let header = Header::decode(&out[..len]).unwrap();
                    let found = to.epochs.recognise(&header).unwrap();
                    let opened = to.open(now, &header, found, &mut out[..len]).unwrap();
                    to.arrived(now, path, opened.seq, len, &mut self.random);
                    let number = (opened.seq, opened.completes);
                    to.process(now, path, header.kind, number, &out[opened.plaintext]).unwrap();
                    while let Some((_, message)) = to.pop_message() {
                        self.log.push((2 + from, now, message.len()));
                    }
                }
            }
            self.log.len() > before
        }

        /// Lets time pass from deadline to deadline.
        fn pass(&mut self, time: Duration) {
            let end = self.now.mono + time;
            while self.now.mono < end {
                while self.exchange() {}
                let first =
                    |side: &Transport| side.earliest(Earliest::default()).0.map(|(_, at)| at);
                let next = self.sides.iter().filter_map(|side| first(side)).min().unwrap();
                let step = next.min(end).max(self.now.mono + Duration::from_micros(10));
                self.now.mono = step;
                for side in 0..2 {
                    let rests = self.sides[side].on_timeout(self.now.mono, &mut self.random);
                    if rests && self.rests {
                        self.rest(side);
                    }
                }
            }
        }

        fn rest(&mut self, side: usize) {
            let own = &self.sides[side];
            let kept = Kept { home: own.paths.home(), traffic: own.traffic() };
            let before = alloc::format!("{:?}", own.earliest(Earliest::default()));
            let other = Self::new(false).sides.into_iter().next().unwrap();
            let own = core::mem::replace(&mut self.sides[side], other);
            self.sides[side] = match own.into_resting() {
                Ok(resting) => {
                    self.rested += 1;
                    let view = View::Resting(&resting).earliest(Earliest::default());
                    assert_eq!(alloc::format!("{view:?}"), before, "it has the same deadlines");
                    Box::new(resting.wake(kept))
                }
                Err(own) => own,
            };
        }
    }

    /// Messages of all sizes at all distances; with rests and without, the same happens.
    #[test]
    fn nobody_can_tell_that_it_rested() {
        let run = |rests| {
            let mut pair = Pair::new(rests);
            for round in 0..60_u64 {
                let len = usize::try_from(1 + round * 7919 % 20_000).unwrap();
                let side = usize::try_from(round % 3 / 2).unwrap();
                assert!(pair.sides[side].sending.push(PacketType::Chat, vec![7; len], None));
                pair.pass(Duration::from_millis([1, 4, 7, 40, 300, 25_000][round as usize % 6]));
            }
            pair
        };
        let (with, without) = (run(true), run(false));
        assert!(with.rested >= 30, "{}", with.rested);
        assert!(with.log.iter().filter(|(from, ..)| *from > 1).count() == 60);
        assert_eq!(with.log, without.log);
        for (a, b) in with.sides.iter().zip(&without.sides) {
            assert_eq!(a.traffic(), b.traffic());
            assert_eq!(alloc::format!("{:?}", a.acks), alloc::format!("{:?}", b.acks));
            assert_eq!(
                alloc::format!("{:?}", a.recovery.rtt),
                alloc::format!("{:?}", b.recovery.rtt)
            );
        }
    }

    /// Whose probes went unanswered for long asks again as soon as the peer is heard, not at the end of its
    /// back-off: the path may last for a moment only.
    #[test]
    fn a_sign_of_life_ends_the_back_off() {
        let mut pair = Pair::new(false);
        let mut out = vec![0; DATAGRAM_MAX];
        assert!(pair.sides[0].sending.push(PacketType::Chat, vec![7; 10], None));
        pair.pass(Duration::from_millis(100));
        assert!(pair.sides[1].sending.push(PacketType::Chat, vec![7; 10], None));
        // Nothing that it sends arrives.
        let (mut probes, end) = (0, pair.now.mono + Duration::from_secs(30));
        while pair.now.mono < end {
            while pair.sides[1].poll_transmit(pair.now, &mut out).is_some() {
                probes += 1;
            }
            let next = pair.sides[1].earliest(Earliest::default()).0.unwrap().1;
            pair.now.mono = next.max(pair.now.mono + Duration::from_micros(10));
            pair.sides[1].on_timeout(pair.now.mono, &mut pair.random);
        }
        assert!((4..20).contains(&probes), "{probes}");
        while pair.sides[1].poll_transmit(pair.now, &mut out).is_some() {}
        let pto = pair.sides[1].recovery.rtt.pto();
        let due = |side: &Transport| side.recovery.deadline().unwrap();
        assert!(due(&pair.sides[1]) > pair.now.mono + pto * 8, "it is patient by now");
        pair.sides[0].ping();
        let (_, len) = pair.sides[0].poll_transmit(pair.now, &mut out).unwrap();
        let header = Header::decode(&out[..len]).unwrap();
        let found = pair.sides[1].epochs.recognise(&header).unwrap();
        pair.sides[1].open(pair.now.mono, &header, found, &mut out[..len]).unwrap();
        assert!(due(&pair.sides[1]) <= pair.now.mono + pto);
    }

    #[test]
    fn what_is_under_way_does_not_rest() {
        let mut pair = Pair::new(false);
        pair.pass(Duration::from_millis(100));
        let rests = |pair: &mut Pair| {
            let other = Pair::new(false).sides.into_iter().next().unwrap();
            let own = core::mem::replace(&mut pair.sides[0], other);
            let resting = own.into_resting();
            let rests = resting.is_ok();
            pair.sides[0] = resting
                .map_or_else(|own| own, |_| Pair::new(false).sides.into_iter().next().unwrap());
            rests
        };
        pair.sides[0].ping();
        assert!(!rests(&mut pair), "a ping is due");
        pair.exchange();
        assert!(!rests(&mut pair), "it was not acknowledged");
        pair.pass(Duration::from_millis(100));
        assert!(!rests(&mut pair), "nobody has asked how long it took");
        assert!(pair.sides[0].take_pong().is_some());
        assert!(pair.sides[0].sending.push(PacketType::Chat, vec![7; 10], None));
        assert!(!rests(&mut pair), "a message waits");
        pair.pass(Duration::from_millis(100));
        let path = Path::new(PortId(1), ([192, 0, 2, 1], 4000).into());
        pair.sides[0].paths.aim(pair.now.mono, path, false);
        assert!(!rests(&mut pair), "a path is asked");
        pair.sides[0].paths.set_home(path);
        assert!(!rests(&mut pair), "nobody has heard of the move");
        pair.sides[0].take_move();
        assert!(rests(&mut pair));
    }
}
