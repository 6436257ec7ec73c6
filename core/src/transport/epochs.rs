//! Which keys seal and which open (PROTOCOL 2.1, 5.1).

use crate::crypto::aead::CipherProvider;
use crate::crypto::derive::{Direction, EpochKeys, direction_key};
use crate::crypto::identity::{Identities, PacketIdentity, Recognised};
use crate::crypto::packet::PacketKeys;
use crate::crypto::replay::ReplayWindow;
use crate::error::DropReason;
use crate::id::Epoch;
use crate::limits::{
    DATAGRAM_MAX, EPOCH_AGE_MAX, KeyLimits, PREVIOUS_EPOCH_MAX, PREVIOUS_EPOCH_MIN,
};
use crate::secret::Secret;
use crate::time::{Duration, Instant, UnixMs};
use crate::wire::header::{Header, PacketType};
use alloc::boxed::Box;
use core::ops::Range;

/// What an epoch needs to seal, and to sign: all but its receive keys.
#[derive(Debug)]
pub(crate) struct SendKeys {
    pub(crate) packet: PacketKeys,
    /// Signs what we send in this epoch (PROTOCOL 7).
    pub(crate) own_mac: Secret<32>,
    /// Checks what the peer signed in this epoch.
    pub(crate) peer_mac: Secret<32>,
}

/// One epoch's keys at one side.
#[derive(Debug)]
pub(crate) struct EpochState {
    pub(crate) epoch: Epoch,
    open: PacketKeys,
    pub(crate) send: SendKeys,
    next_key_seed: Option<Secret<32>>,
    /// Lowest number opened in it.
    lowest: Option<u64>,
    /// When its keys were made.
    since: Instant,
    /// Bytes of datagrams sealed and opened in it.
    bytes: u64,
}

impl EpochState {
    /// Expands an epoch's keys for the side that sends in direction `own`.
    pub(crate) fn new(
        now: Instant,
        epoch: Epoch,
        keys: EpochKeys,
        own: Direction,
        provider: &'static dyn CipherProvider,
    ) -> Self {
        Self {
            epoch,
            open: PacketKeys::opening(&keys, own.reverse(), provider),
            send: SendKeys {
                packet: PacketKeys::new(&keys, own, provider),
                own_mac: direction_key(&keys.mac_key, own),
                peer_mac: direction_key(&keys.mac_key, own.reverse()),
            },
            next_key_seed: Some(keys.next_key_seed),
            lowest: None,
            since: now,
            bytes: 0,
        }
    }

    fn rest(&mut self) {
        self.open.rest();
        self.send.packet.rest();
    }

    /// Whether it has served as long or as much as keys may (PROTOCOL 5.1). Another datagram of any
    /// size still fits before that.
    fn is_worn(&self, now: Instant, limits: KeyLimits) -> bool {
        now.since(self.since) >= EPOCH_AGE_MAX || self.bytes + DATAGRAM_MAX as u64 > limits.end
    }
}

/// The epoch before the current one.
#[derive(Debug)]
enum Previous {
    /// The peer may not know the current epoch yet: everything of the previous one still counts.
    Whole(Box<EpochState>),
    /// The peer is in a later epoch: only late packets are opened, until then.
    ReceiveOnly(Box<ReceiveOnly>),
}

/// What is left of an epoch for late packets.
#[derive(Debug)]
struct ReceiveOnly {
    epoch: Epoch,
    open: PacketKeys,
    /// Numbers from here on were sealed in a later epoch.
    below: u64,
    until: Instant,
}

/// Whose keys fit a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Current,
    Next,
    Previous,
    Older,
}

/// What opening steps 2 and 3 say of a packet that a session knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    slot: Slot,
    seq: u64,
    /// Its IV was compared with those of its batch.
    iv_fits: bool,
}

/// A packet that opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) epoch: Epoch,
    pub(crate) seq: u64,
    pub(crate) plaintext: Range<usize>,
    /// It is the first one of an epoch, which completes a rotation.
    pub(crate) completes: bool,
}

/// The keys of a session: at most three epochs, none skipped.
#[derive(Debug)]
pub(crate) struct Epochs {
    /// Client: the epoch before the previous one, until a packet of the current one has opened.
    older: Option<Box<ReceiveOnly>>,
    previous: Option<Previous>,
    current: EpochState,
    next: Option<Box<EpochState>>,
    replay: ReplayWindow,
    next_seq: u64,
    limits: KeyLimits,
}

impl Epochs {
    pub(crate) fn new(current: EpochState, limits: KeyLimits) -> Self {
        let (older, previous, next) = (None, None, None);
        let (replay, limits) = (ReplayWindow::default(), limits.capped());
        Self { older, previous, current, next, replay, next_seq: 1, limits }
    }

    /// How many epochs there are keys of.
    pub(crate) fn held(&self) -> usize {
        let before = usize::from(self.older.is_some()) + usize::from(self.previous.is_some());
        before + 1 + usize::from(self.next.is_some())
    }

    /// Whether so much was sealed and opened that the keys are due to rotate (PROTOCOL 5.1).
    pub(crate) const fn is_due(&self) -> bool {
        self.current.bytes >= self.limits.due
    }

    /// The epoch that seals.
    pub(crate) const fn current(&self) -> Epoch {
        self.current.epoch
    }

    /// What seals now.
    pub(crate) const fn send(&self) -> &SendKeys {
        &self.current.send
    }

    /// Since when the sealing epoch has been there.
    pub(crate) const fn since(&self) -> Instant {
        self.current.since
    }

    /// Whether user data must wait for the next epoch (PROTOCOL 5.1).
    pub(crate) const fn is_stopped(&self) -> bool {
        self.current.bytes >= self.limits.stop
    }

    /// Whether keys have served as long or as much as they may: the session ends (PROTOCOL 5.1).
    pub(crate) fn is_worn(&self, now: Instant) -> bool {
        let previous = match &self.previous {
            Some(Previous::Whole(previous)) => previous.is_worn(now, self.limits),
            Some(Previous::ReceiveOnly(_)) | None => false,
        };
        previous || self.current.is_worn(now, self.limits)
    }

    /// When keys are too old, or at once when they have served too much: the session ends (PROTOCOL
    /// 5.1).
    pub(crate) fn worn_at(&self) -> Instant {
        let oldest = match &self.previous {
            Some(Previous::Whole(previous)) => previous,
            Some(Previous::ReceiveOnly(_)) | None => &self.current,
        };
        if self.is_worn(oldest.since) { oldest.since } else { oldest.since + EPOCH_AGE_MAX }
    }

    /// Seals the plaintext at `out[38..]` in `epoch`, which the peer may still be in: the number it
    /// got, and the length of the datagram.
    pub(crate) fn seal(
        &mut self,
        epoch: Epoch,
        timestamp: UnixMs,
        kind: PacketType,
        out: &mut [u8],
        plaintext: usize,
    ) -> Option<(u64, usize)> {
        let seq = self.next_seq;
        let state = match &mut self.previous {
            _ if epoch == self.current.epoch => &mut self.current,
            Some(Previous::Whole(previous)) if epoch == previous.epoch => previous,
            Some(_) | None => return None,
        };
        let len = state.send.packet.seal(seq, timestamp, kind, out, plaintext);
        state.bytes += len as u64;
        self.next_seq += 1;
        Some((seq, len))
    }

    /// Message ids and IVs for the next `count` packets of the current epoch, made in one pass. Each seals
    /// once, in order, or not at all.
    pub(crate) fn identities(&mut self, timestamp: UnixMs, count: usize) -> Identities {
        self.current.send.packet.identities(timestamp, self.next_seq, count)
    }

    /// Seals the plaintext at `out[38..]` in the current epoch under the next of [`Self::identities`].
    pub(crate) fn seal_with(
        &mut self,
        identity: PacketIdentity,
        kind: PacketType,
        out: &mut [u8],
        plaintext: usize,
    ) -> (u64, usize) {
        let seq = identity.seq();
        debug_assert_eq!(seq, self.next_seq, "nothing else was sealed in between");
        let len = self.current.send.packet.seal_with(identity, kind, out, plaintext);
        self.current.bytes += len as u64;
        self.next_seq = seq + 1;
        (seq, len)
    }

    /// What sealed and signed in `epoch`, while the peer may still be in it.
    pub(crate) fn send_of(&self, epoch: Epoch) -> Option<&SendKeys> {
        match &self.previous {
            _ if epoch == self.current.epoch => Some(&self.current.send),
            Some(Previous::Whole(previous)) if epoch == previous.epoch => Some(&previous.send),
            Some(_) | None => None,
        }
    }

    /// Whether the peer is known to be in the current epoch.
    pub(crate) const fn is_confirmed(&self) -> bool {
        self.current.lowest.is_some()
    }

    /// Whether an epoch is prepared that no packet has opened in.
    pub(crate) const fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Takes no further rotation step (PROTOCOL 7).
    pub(crate) fn forget_next(&mut self) {
        self.next = None;
        self.current.next_key_seed = None;
        self.older = None;
        if self.is_confirmed() {
            self.previous = None;
        }
    }

    /// The seed for the next epoch; given once.
    pub(crate) const fn take_seed(&mut self) -> Option<Secret<32>> {
        self.current.next_key_seed.take()
    }

    /// The first number not yet given.
    pub(crate) const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Server: opens `next` from now on, and seals in it once a packet of it has opened.
    pub(crate) fn prepare(&mut self, next: EpochState) {
        self.next = Some(Box::new(next));
    }

    /// Client: opens and seals in `next` from now on.
    pub(crate) fn switch(&mut self, next: EpochState) {
        let old = core::mem::replace(&mut self.current, next);
        self.older = match self.previous.replace(Previous::Whole(Box::new(old))) {
            Some(Previous::ReceiveOnly(older)) => Some(older),
            Some(Previous::Whole(_)) | None => None,
        };
    }

    /// Opening step 2 for this session: whose keys a packet was made with, and its number.
    pub(crate) fn recognise(&self, header: &Header) -> Option<Found> {
        let found = |slot| move |seq| Found { slot, seq, iv_fits: false };
        let fits = |keys: &PacketKeys, slot| keys.seq(header).map(found(slot));
        fits(&self.current.open, Slot::Current)
            .or_else(|| fits(&self.next.as_ref()?.open, Slot::Next))
            .or_else(|| fits(self.previous_keys()?, Slot::Previous))
            .or_else(|| fits(&self.older.as_ref()?.open, Slot::Older))
    }

    /// Opening steps 2 and 3 for many packets in one pass, as far as keys of the current epoch go.
    pub(crate) fn recognise_batch(&self, headers: &[Header], out: &mut [Recognised]) -> Epoch {
        self.current.open.recognise(headers, out);
        self.current.epoch
    }

    /// What [`Self::recognise_batch`] said of a packet, while its keys are the current ones.
    pub(crate) fn found(&self, epoch: Epoch, said: Recognised) -> Option<Found> {
        match said {
            Recognised::Fits(seq) if epoch == self.current.epoch => {
                Some(Found { slot: Slot::Current, seq, iv_fits: true })
            }
            _ => None,
        }
    }

    fn previous_keys(&self) -> Option<&PacketKeys> {
        match self.previous.as_ref()? {
            Previous::Whole(previous) => Some(&previous.open),
            Previous::ReceiveOnly(previous) => Some(&previous.open),
        }
    }

    /// Opening steps 3 to 5. State changes only when the packet opens.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        pto: impl FnOnce() -> Duration,
        header: &Header,
        Found { slot, seq, iv_fits }: Found,
        datagram: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let (keys, below) = match (slot, &mut self.previous, &mut self.older) {
            (Slot::Current, ..) => (Some(&mut self.current.open), None),
            (Slot::Next, ..) => (self.next.as_mut().map(|next| &mut next.open), None),
            (Slot::Previous, Some(Previous::Whole(old)), _) => {
                (Some(&mut old.open), self.current.lowest)
            }
            (Slot::Previous, Some(Previous::ReceiveOnly(old)), _) | (Slot::Older, _, Some(old)) => {
                (Some(&mut old.open), Some(old.below))
            }
            (Slot::Previous | Slot::Older, ..) => (None, None),
        };
        let keys = keys.ok_or(DropReason::NoKey)?;
        // Before the IV, which keys at rest would have to be expanded for.
        if !self.replay.may_open(seq) || below.is_some_and(|lowest| seq >= lowest) {
            return Err(DropReason::Replay);
        }
        if !iv_fits && !keys.iv_fits(header, seq) {
            return Err(DropReason::Iv);
        }
        let plaintext = keys.open(header, datagram)?;
        self.replay.opened(seq);
        let (epoch, completes) = self.note_opened(now, pto, slot, seq, datagram.len() as u64);
        Ok(Opened { epoch, seq, plaintext, completes })
    }

    /// A packet opened: its epoch, and whether that is the first one of it.
    fn note_opened(
        &mut self,
        now: Instant,
        pto: impl FnOnce() -> Duration,
        slot: Slot,
        seq: u64,
        len: u64,
    ) -> (Epoch, bool) {
        match (slot, &mut self.previous, &self.older) {
            (Slot::Previous, Some(Previous::Whole(old)), _) => {
                old.bytes += len;
                old.lowest = Some(old.lowest.map_or(seq, |lowest| lowest.min(seq)));
                return (old.epoch, false);
            }
            (Slot::Previous, Some(Previous::ReceiveOnly(old)), _) => return (old.epoch, false),
            (Slot::Older, _, Some(old)) => return (old.epoch, false),
            (Slot::Current | Slot::Next | Slot::Previous | Slot::Older, ..) => {}
        }
        if slot == Slot::Next
            && let Some(next) = self.next.take()
        {
            self.switch(*next);
        }
        let completes = self.current.lowest.is_none();
        let lowest = self.current.lowest.map_or(seq, |old| old.min(seq));
        self.current.lowest = Some(lowest);
        self.current.bytes += len;
        if completes {
            self.older = None;
            let stay = (pto() * 3).max(PREVIOUS_EPOCH_MIN).min(PREVIOUS_EPOCH_MAX);
            let reduce = |previous| match previous {
                Previous::Whole(old) => {
                    let (epoch, open, until) = (old.epoch, old.open, now + stay);
                    Previous::ReceiveOnly(Box::new(ReceiveOnly {
                        epoch,
                        open,
                        below: lowest,
                        until,
                    }))
                }
                reduced @ Previous::ReceiveOnly(_) => reduced,
            };
            self.previous = self.previous.take().map(reduce);
        } else if let Some(Previous::ReceiveOnly(old)) = &mut self.previous {
            old.below = lowest;
        }
        (self.current.epoch, completes)
    }

    /// Whether there are expanded keys.
    pub(crate) const fn is_ready(&self) -> bool {
        self.current.open.is_ready() || self.current.send.packet.is_ready()
    }

    /// Keys wait in short for the next packet.
    pub(crate) fn rest(&mut self) {
        self.current.rest();
        if let Some(Previous::Whole(previous)) = &mut self.previous {
            previous.rest();
        }
        if let Some(next) = &mut self.next {
            next.rest();
        }
        self.replay.rest();
    }

    /// When the oldest keys are due to go.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let previous = match &self.previous {
            Some(Previous::ReceiveOnly(old)) => Some(old.until),
            Some(Previous::Whole(_)) | None => None,
        };
        self.older.as_ref().map(|older| older.until).or(previous)
    }

    /// Drops the keys of earlier epochs that are due.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        self.older = self.older.take().filter(|older| older.until > now);
        self.previous = self.previous.take().filter(|previous| match previous {
            Previous::ReceiveOnly(old) => old.until > now,
            Previous::Whole(_) => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::RustCrypto;
    use crate::crypto::derive::derive;
    use crate::limits::HEADER_LEN;

    fn state(epoch: u64, own: Direction) -> EpochState {
        EpochState::new(
            Instant::ZERO,
            Epoch(epoch),
            derive(b"secret", &[epoch as u8]),
            own,
            &RustCrypto,
        )
    }

    fn seal(epochs: &mut Epochs, epoch: Epoch) -> [u8; 64] {
        let mut out = [0; 64];
        out[HEADER_LEN] = 0;
        let sealed = epochs.seal(epoch, UnixMs(1), PacketType::Ping, &mut out, 1);
        assert_eq!(sealed.unwrap().1, 64);
        out
    }

    fn open(epochs: &mut Epochs, datagram: &[u8; 64]) -> Result<(Epoch, bool), DropReason> {
        let mut datagram = *datagram;
        let header = Header::decode(&datagram).unwrap();
        let found = epochs.recognise(&header).ok_or(DropReason::NoKey)?;
        let pto = || Duration::from_millis(100);
        let opened = epochs.open(Instant::ZERO, pto, &header, found, &mut datagram)?;
        Ok((opened.epoch, opened.completes))
    }

    #[test]
    fn a_rotation() {
        let mut client = Epochs::new(state(1, Direction::C2s), KeyLimits::default());
        let mut server = Epochs::new(state(1, Direction::S2c), KeyLimits::default());
        let late = seal(&mut client, Epoch(1));
        let first = seal(&mut client, Epoch(1));
        assert_eq!(open(&mut server, &first), Ok((Epoch(1), true)));
        assert_eq!(open(&mut server, &first), Err(DropReason::Replay));
        server.prepare(state(2, Direction::S2c));
        let old = seal(&mut server, Epoch(1));
        client.switch(state(2, Direction::C2s));
        // The client still takes, and may still answer, epoch 1.
        assert_eq!(open(&mut client, &old), Ok((Epoch(1), false)));
        assert!(client.send_of(Epoch(1)).is_some());
        let switch = seal(&mut client, Epoch(2));
        assert_eq!(open(&mut server, &switch), Ok((Epoch(2), true)));
        assert_eq!(server.current(), Epoch(2));
        assert!(server.send_of(Epoch(1)).is_none());
        assert_eq!(open(&mut server, &late), Ok((Epoch(1), false)));
        let after = seal(&mut server, Epoch(2));
        assert_eq!(open(&mut client, &after), Ok((Epoch(2), true)));
        assert!(client.send_of(Epoch(1)).is_none());
        let at = client.deadline().unwrap();
        assert_eq!(at.since(Instant::ZERO), PREVIOUS_EPOCH_MIN);
        client.on_timeout(at);
        assert_eq!(client.deadline(), None);
    }

    #[test]
    fn what_is_in_flight_leaves_the_next_epoch_alone() {
        let mut client = Epochs::new(state(1, Direction::C2s), KeyLimits::default());
        let mut server = Epochs::new(state(1, Direction::S2c), KeyLimits::default());
        open(&mut server, &seal(&mut client, Epoch(1))).unwrap();
        server.prepare(state(2, Direction::S2c));
        open(&mut server, &seal(&mut client, Epoch(1))).unwrap();
        client.switch(state(2, Direction::C2s));
        assert_eq!(open(&mut server, &seal(&mut client, Epoch(2))), Ok((Epoch(2), true)));
    }

    #[test]
    fn old_keys_open_no_new_numbers() {
        let mut client = Epochs::new(state(1, Direction::C2s), KeyLimits::default());
        let mut server = Epochs::new(state(1, Direction::S2c), KeyLimits::default());
        open(&mut server, &seal(&mut client, Epoch(1))).unwrap();
        server.prepare(state(2, Direction::S2c));
        client.switch(state(2, Direction::C2s));
        open(&mut server, &seal(&mut client, Epoch(2))).unwrap();
        let forged = seal(&mut client, Epoch(1));
        assert_eq!(open(&mut server, &forged), Err(DropReason::Replay));
    }
}
