//! Which keys seal and which open (PROTOCOL 2.1, 5.1).

use crate::crypto::aead::CipherProvider;
use crate::crypto::derive::{Direction, EpochKeys, direction_key};
use crate::crypto::packet::PacketKeys;
use crate::crypto::replay::ReplayWindow;
use crate::error::DropReason;
use crate::id::Epoch;
use crate::limits::{PREVIOUS_EPOCH_MAX, PREVIOUS_EPOCH_MIN};
use crate::secret::Secret;
use crate::time::{Duration, Instant};
use crate::wire::header::Header;
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
}

impl EpochState {
    /// Expands an epoch's keys for the side that sends in direction `own`.
    pub(crate) fn new(
        epoch: Epoch,
        keys: EpochKeys,
        own: Direction,
        provider: &dyn CipherProvider,
    ) -> Self {
        Self {
            epoch,
            open: PacketKeys::new(&keys, own.reverse(), provider),
            send: SendKeys {
                packet: PacketKeys::new(&keys, own, provider),
                own_mac: direction_key(&keys.mac_key, own),
                peer_mac: direction_key(&keys.mac_key, own.reverse()),
            },
            next_key_seed: Some(keys.next_key_seed),
            lowest: None,
        }
    }
}

/// The epoch before the current one.
#[derive(Debug)]
enum Previous {
    /// The peer may not know the current epoch yet: everything of the previous one still counts.
    Whole(Box<EpochState>),
    /// The peer is in the current epoch: only late packets are opened, until then.
    ReceiveOnly(Epoch, Box<PacketKeys>, Instant),
}

/// Whose keys fit a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Current,
    Next,
    Previous,
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
    previous: Option<Previous>,
    current: EpochState,
    next: Option<EpochState>,
    replay: ReplayWindow,
    next_seq: u64,
}

impl Epochs {
    pub(crate) fn new(current: EpochState) -> Self {
        let (previous, next) = (None, None);
        Self { previous, current, next, replay: ReplayWindow::default(), next_seq: 1 }
    }

    /// The epoch that seals.
    pub(crate) const fn current(&self) -> Epoch {
        self.current.epoch
    }

    /// What seals now.
    pub(crate) const fn send(&self) -> &SendKeys {
        &self.current.send
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
        if self.is_confirmed() {
            self.previous = None;
        }
    }

    /// The seed for the next epoch; given once.
    pub(crate) const fn take_seed(&mut self) -> Option<Secret<32>> {
        self.current.next_key_seed.take()
    }

    /// A number for the next packet; each is given once, over all epochs.
    pub(crate) const fn take_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    /// The first number not yet given.
    pub(crate) const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Server: opens `next` from now on, and seals in it once a packet of it has opened.
    pub(crate) fn prepare(&mut self, next: EpochState) {
        self.next = Some(next);
    }

    /// Client: opens and seals in `next` from now on.
    pub(crate) fn switch(&mut self, next: EpochState) {
        let old = core::mem::replace(&mut self.current, next);
        self.previous = Some(Previous::Whole(Box::new(old)));
    }

    /// Opening step 2 for this session: whose keys a packet was made with, and its number.
    pub(crate) fn recognise(&self, header: &Header) -> Option<(Slot, u64)> {
        let fits = |keys: &PacketKeys, slot| keys.seq(header).map(|seq| (slot, seq));
        fits(&self.current.open, Slot::Current)
            .or_else(|| fits(&self.next.as_ref()?.open, Slot::Next))
            .or_else(|| fits(self.previous_keys()?, Slot::Previous))
    }

    fn previous_keys(&self) -> Option<&PacketKeys> {
        match self.previous.as_ref()? {
            Previous::Whole(previous) => Some(&previous.open),
            Previous::ReceiveOnly(_, open, _) => Some(open),
        }
    }

    /// Opening steps 3 to 5. State changes only when the packet opens.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        pto: Duration,
        header: &Header,
        (slot, seq): (Slot, u64),
        datagram: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let (keys, below) = match slot {
            Slot::Current => (Some(&self.current.open), None),
            Slot::Next => (self.next.as_ref().map(|next| &next.open), None),
            Slot::Previous => (self.previous_keys(), self.current.lowest),
        };
        let keys = keys.ok_or(DropReason::NoKey)?;
        if !keys.iv_fits(header, seq) {
            return Err(DropReason::Iv);
        }
        if !self.replay.may_open(seq) || below.is_some_and(|lowest| seq >= lowest) {
            return Err(DropReason::Replay);
        }
        let plaintext = keys.open(header, datagram)?;
        self.replay.opened(seq);
        if slot == Slot::Previous {
            let epoch = match self.previous.as_ref() {
                Some(Previous::Whole(old)) => old.epoch,
                Some(Previous::ReceiveOnly(epoch, ..)) => *epoch,
                None => return Err(DropReason::NoKey),
            };
            return Ok(Opened { epoch, seq, plaintext, completes: false });
        }
        if slot == Slot::Next
            && let Some(next) = self.next.take()
        {
            self.switch(next);
        }
        let completes = self.current.lowest.is_none();
        self.current.lowest = Some(self.current.lowest.map_or(seq, |old| old.min(seq)));
        if completes {
            let stay = (pto * 3).max(PREVIOUS_EPOCH_MIN).min(PREVIOUS_EPOCH_MAX);
            self.previous = self.previous.take().map(|previous| match previous {
                Previous::Whole(old) => {
                    Previous::ReceiveOnly(old.epoch, Box::new(old.open), now + stay)
                }
                reduced @ Previous::ReceiveOnly(..) => reduced,
            });
        }
        Ok(Opened { epoch: self.current.epoch, seq, plaintext, completes })
    }

    /// When the previous epoch's keys are due to go.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        match &self.previous {
            Some(Previous::ReceiveOnly(.., at)) => Some(*at),
            Some(Previous::Whole(_)) | None => None,
        }
    }

    /// Drops the previous epoch's keys if they are due.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.previous = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::RustCrypto;
    use crate::crypto::derive::derive;
    use crate::limits::HEADER_LEN;
    use crate::time::UnixMs;
    use crate::wire::header::PacketType;

    fn state(epoch: u64, own: Direction) -> EpochState {
        EpochState::new(Epoch(epoch), derive(b"secret", &[epoch as u8]), own, &RustCrypto)
    }

    fn seal(epochs: &mut Epochs, epoch: Epoch) -> [u8; 64] {
        let mut out = [0; 64];
        out[HEADER_LEN] = 0;
        let seq = epochs.take_seq();
        let keys = &epochs.send_of(epoch).unwrap().packet;
        assert_eq!(keys.seal(seq, UnixMs(1), PacketType::Ping, &mut out, 1), 64);
        out
    }

    fn open(epochs: &mut Epochs, datagram: &[u8; 64]) -> Result<(Epoch, bool), DropReason> {
        let mut datagram = *datagram;
        let header = Header::decode(&datagram).unwrap();
        let found = epochs.recognise(&header).ok_or(DropReason::NoKey)?;
        let pto = Duration::from_millis(100);
        let opened = epochs.open(Instant::ZERO, pto, &header, found, &mut datagram)?;
        Ok((opened.epoch, opened.completes))
    }

    #[test]
    fn a_rotation() {
        let mut client = Epochs::new(state(1, Direction::C2s));
        let mut server = Epochs::new(state(1, Direction::S2c));
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
        let mut client = Epochs::new(state(1, Direction::C2s));
        let mut server = Epochs::new(state(1, Direction::S2c));
        open(&mut server, &seal(&mut client, Epoch(1))).unwrap();
        server.prepare(state(2, Direction::S2c));
        open(&mut server, &seal(&mut client, Epoch(1))).unwrap();
        client.switch(state(2, Direction::C2s));
        assert_eq!(open(&mut server, &seal(&mut client, Epoch(2))), Ok((Epoch(2), true)));
    }

    #[test]
    fn old_keys_open_no_new_numbers() {
        let mut client = Epochs::new(state(1, Direction::C2s));
        let mut server = Epochs::new(state(1, Direction::S2c));
        open(&mut server, &seal(&mut client, Epoch(1))).unwrap();
        server.prepare(state(2, Direction::S2c));
        client.switch(state(2, Direction::C2s));
        open(&mut server, &seal(&mut client, Epoch(2))).unwrap();
        let forged = seal(&mut client, Epoch(1));
        assert_eq!(open(&mut server, &forged), Err(DropReason::Replay));
    }
}
