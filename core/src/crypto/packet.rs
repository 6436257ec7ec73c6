//! Sealing and opening one packet in place (PROTOCOL 3).

use super::aead::{CipherProvider, PacketCipher};
use super::derive::{Direction, EpochKeys, direction_key};
use super::identity::{Finder, Identities, Identity, PacketIdentity, Recognised, difference};
use crate::error::DropReason;
use crate::limits::{HEADER_LEN, OVERHEAD, TAG_LEN};
use crate::secret::Secret;
use crate::time::UnixMs;
use crate::wire::header::{Header, PacketType, padding};
use alloc::boxed::Box;
use core::ops::Range;
use subtle::ConstantTimeEq;

/// Bytes of the header that GCM authenticates as AAD; the IV authenticates itself.
const AAD_LEN: usize = 26;

/// The packet key and the identity key of one direction in one epoch.
///
/// Expanded they take a kilobyte and more; a session that is idle holds a few hundred bytes, and expands
/// them with its next packet.
#[derive(Debug)]
pub struct PacketKeys {
    /// The packet key, and the identity key after it: in one place, which takes less room than two.
    both: Secret<64>,
    provider: &'static dyn CipherProvider,
    ready: Option<Box<Ready>>,
    /// Of keys that open: recognises packets meanwhile.
    finder: Option<Box<Finder>>,
}

/// Both keys, expanded.
#[derive(Debug)]
struct Ready {
    cipher: Box<dyn PacketCipher>,
    identity: Identity,
}

impl PacketKeys {
    /// The keys of `direction`, derived from the epoch's (PROTOCOL 2.2).
    #[must_use]
    pub fn new(
        keys: &EpochKeys,
        direction: Direction,
        provider: &'static dyn CipherProvider,
    ) -> Self {
        Self {
            both: Secret::filled(|out| {
                let (packet, identity) = out.split_at_mut(32);
                packet.copy_from_slice(direction_key(&keys.encryption_key, direction).expose());
                identity.copy_from_slice(direction_key(&keys.iv_key, direction).expose());
            }),
            provider,
            ready: None,
            finder: None,
        }
    }

    /// The same, to open with: they recognise a packet at the cost of one block also while they rest.
    #[must_use]
    pub fn opening(
        keys: &EpochKeys,
        direction: Direction,
        provider: &'static dyn CipherProvider,
    ) -> Self {
        let mut own = Self::new(keys, direction, provider);
        own.finder = Some(Box::new(Finder::new(&own.identity())));
        own
    }

    fn ready(&mut self) -> &Ready {
        if self.ready.is_none() {
            let cipher = self.provider.packet_cipher(&self.part(0));
            let identity = Identity::new(&self.identity());
            self.ready = Some(Box::new(Ready { cipher, identity }));
        }
        self.ready.as_ref().expect("it is there or was just made")
    }

    fn part(&self, at: usize) -> Secret<32> {
        Secret::filled(|out| out.copy_from_slice(&self.both.expose()[at..at + 32]))
    }

    fn identity(&self) -> Secret<32> {
        self.part(32)
    }

    /// Whether they are expanded.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Wipes the expanded keys, until the next packet.
    pub fn rest(&mut self) {
        self.ready = None;
    }

    /// Asks the identity key, expanded for this one question if it is not.
    fn ask<T>(&self, question: impl FnOnce(&Identity) -> T) -> T {
        match &self.ready {
            Some(ready) => question(&ready.identity),
            None => question(&Identity::new(&self.identity())),
        }
    }

    /// Seals the plaintext at `out[38..38 + plaintext]` under its number and returns the length of
    /// the datagram, a multiple of 16.
    ///
    /// The caller never uses a number twice, but to seal a hello or an epoch-0 reply once.
    pub fn seal(
        &mut self,
        seq: u64,
        timestamp: UnixMs,
        kind: PacketType,
        out: &mut [u8],
        plaintext: usize,
    ) -> usize {
        let ready = self.ready();
        let PacketIdentity { message_id, iv, .. } = ready.identity.packet(timestamp, seq);
        ready.seal(message_id, timestamp, iv, kind, out, plaintext)
    }

    /// The same with a message id made by another key: a hello's (PROTOCOL 3).
    pub fn seal_as(
        &mut self,
        message_id: [u8; 16],
        seq: u64,
        timestamp: UnixMs,
        kind: PacketType,
        out: &mut [u8],
        plaintext: usize,
    ) -> usize {
        let ready = self.ready();
        let iv = ready.identity.iv(timestamp, seq);
        ready.seal(message_id, timestamp, iv, kind, out, plaintext)
    }

    /// Message ids and IVs for `count` packets from number `first` on, of [`BATCH`] at most, made in
    /// one pass for [`Self::seal_with`] (PROTOCOL 3). What is not sealed with is dropped: numbers may
    /// be skipped, but not used again.
    ///
    /// [`BATCH`]: super::identity::BATCH
    #[must_use]
    pub fn identities(&mut self, timestamp: UnixMs, first: u64, count: usize) -> Identities {
        self.ready().identity.batch(timestamp, first, count)
    }

    /// [`Self::seal`] with an identity that these keys made before.
    pub fn seal_with(
        &mut self,
        identity: PacketIdentity,
        kind: PacketType,
        out: &mut [u8],
        plaintext: usize,
    ) -> usize {
        let PacketIdentity { message_id, timestamp, iv, .. } = identity;
        self.ready().seal(message_id, timestamp, iv, kind, out, plaintext)
    }

    /// Opening steps 2 and 3 for many headers at once, each into its place in `out`: what
    /// [`Self::seq`] and [`Self::iv_fits`] say one by one.
    pub fn recognise(&self, headers: &[Header], out: &mut [Recognised]) {
        self.ask(|identity| identity.recognise(headers, out));
    }

    /// `seq` of a datagram made with this key (opening step 2).
    #[must_use]
    pub fn seq(&self, header: &Header) -> Option<u64> {
        match &self.finder {
            Some(finder) => finder.seq(&header.message_id),
            None => self.ask(|identity| identity.seq(&header.message_id)),
        }
    }

    /// Opening step 3: the IV is the derived one, compared in constant time.
    #[must_use]
    pub fn iv_fits(&self, header: &Header, seq: u64) -> bool {
        let iv = self.ask(|identity| identity.iv(header.timestamp, seq));
        difference(&iv, &header.iv).ct_eq(&0).into()
    }

    /// Opening step 5: decrypts in place and returns where the plaintext is.
    ///
    /// # Errors
    /// [`DropReason::Tag`]; the datagram's bytes are then of no use.
    pub fn open(
        &mut self,
        header: &Header,
        datagram: &mut [u8],
    ) -> Result<Range<usize>, DropReason> {
        let end = header.tag_at(datagram.len());
        let tag: [u8; TAG_LEN] =
            *datagram[end..].first_chunk().expect("the header was checked against the length");
        let (head, rest) = datagram.split_at_mut(HEADER_LEN);
        let text = &mut rest[..end - HEADER_LEN];
        let was_ready = self.is_ready();
        if self.ready().cipher.open_in_place(&header.iv, &head[..AAD_LEN], text, &tag) {
            return Ok(HEADER_LEN..end);
        }
        if !was_ready {
            // What does not open changes nothing.
            self.rest();
        }
        Err(DropReason::Tag)
    }
}

impl Ready {
    fn seal(
        &self,
        message_id: [u8; 16],
        timestamp: UnixMs,
        iv: [u8; 12],
        kind: PacketType,
        out: &mut [u8],
        plaintext: usize,
    ) -> usize {
        let tail = padding(plaintext);
        let header = Header {
            padding: u8::try_from(tail).expect("padding is below 16"),
            message_id,
            timestamp,
            kind,
            iv,
        };
        out[..HEADER_LEN].copy_from_slice(&header.encode());
        let (head, rest) = out.split_at_mut(HEADER_LEN);
        let (text, rest) = rest.split_at_mut(plaintext);
        let tag = self.cipher.seal_in_place(&iv, &head[..AAD_LEN], text);
        rest[..TAG_LEN].copy_from_slice(&tag);
        rest[TAG_LEN..TAG_LEN + tail].fill(0);
        OVERHEAD + plaintext + tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::PROVIDERS;
    use crate::crypto::derive::derive;
    use crate::crypto::identity::BATCH;
    use alloc::vec;
    use alloc::vec::Vec;
    use quickcheck::quickcheck;

    fn keys(provider: &'static dyn CipherProvider) -> PacketKeys {
        PacketKeys::new(&derive(b"secret", b"context"), Direction::C2s, provider)
    }

    fn open(keys: &mut PacketKeys, datagram: &mut [u8]) -> Option<(u64, PacketType, Vec<u8>)> {
        let header = Header::decode(datagram)?;
        let seq = keys.seq(&header)?;
        if !keys.iv_fits(&header, seq) {
            return None;
        }
        let range = keys.open(&header, datagram).ok()?;
        Some((seq, header.kind, datagram[range].to_vec()))
    }

    fn any_bit_counts(
        keys: &mut PacketKeys,
        seq: u64,
        timestamp: UnixMs,
        text: &[u8],
        flip: usize,
    ) -> bool {
        let mut out = vec![0xff; text.len() + 80];
        out[HEADER_LEN..HEADER_LEN + text.len()].copy_from_slice(text);
        let len = keys.seal(seq, timestamp, PacketType::Chat, &mut out, text.len());
        let mut broken = out[..len].to_vec();
        broken[flip / 8 % len] ^= 1 << (flip % 8);
        len.is_multiple_of(16)
            && open(keys, &mut out[..len]) == Some((seq, PacketType::Chat, text.to_vec()))
            && open(keys, &mut broken).is_none()
    }

    #[test]
    fn a_batch_seals_what_one_by_one_does() {
        for provider in PROVIDERS {
            let (mut keys, now, first) = (keys(*provider), UnixMs(1_700_000_000_000), 41);
            let mut headers = Vec::new();
            for (identity, seq) in keys.identities(now, first, BATCH).zip(first..) {
                let (mut out, mut single) = ([3; 128], [3; 128]);
                let len = keys.seal_with(identity, PacketType::File, &mut out, 60);
                assert_eq!(keys.seal(seq, now, PacketType::File, &mut single, 60), len);
                assert_eq!(out, single);
                headers.push(Header::decode(&out[..len]).unwrap());
            }
            let mut said = [Recognised::Foreign; BATCH];
            keys.recognise(&headers, &mut said);
            assert!(said.iter().zip(first..).all(|(said, seq)| *said == Recognised::Fits(seq)));
        }
    }

    #[test]
    fn what_rests_recognises_and_opens_as_before() {
        for provider in PROVIDERS {
            let context = derive(b"secret", b"context");
            let mut receiver = PacketKeys::opening(&context, Direction::C2s, *provider);
            let mut sender = keys(*provider);
            let mut out = [3; 128];
            let len = sender.seal(7, UnixMs(1), PacketType::Ping, &mut out, 60);
            let header = Header::decode(&out[..len]).unwrap();
            let mut broken = out;
            broken[50] ^= 1;
            assert_eq!(open(&mut receiver, &mut broken[..len]), None);
            assert!(!receiver.is_ready(), "a forgery costs it nothing that lasts");
            assert_eq!(receiver.seq(&header), Some(7));
            let mut copy = out;
            assert!(open(&mut receiver, &mut copy[..len]).is_some() && receiver.is_ready());
            receiver.rest();
            sender.rest();
            let mut again = [3; 128];
            sender.seal(7, UnixMs(1), PacketType::Ping, &mut again, 60);
            assert_eq!(again, out);
            assert!(open(&mut receiver, &mut again[..len]).is_some());
        }
    }

    quickcheck! {
        fn round_trip_and_no_bit_may_change(seq: u64, ms: u64, text: Vec<u8>, flip: usize) -> bool {
            let text = if text.is_empty() { vec![0] } else { text };
            let timestamp = UnixMs(ms >> 8);
            PROVIDERS.iter().all(|provider| {
                any_bit_counts(&mut keys(*provider), seq, timestamp, &text, flip)
            })
        }

        fn arbitrary_bytes_never_open(bytes: Vec<u8>) -> bool {
            let mut bytes = bytes;
            bytes.resize(bytes.len() / 16 * 16 + 64, 0);
            bytes[0] = 0x20;
            bytes[17] = 0;
            bytes[25] = 1;
            PROVIDERS.iter().all(|provider| open(&mut keys(*provider), &mut bytes.clone()).is_none())
        }
    }
}
