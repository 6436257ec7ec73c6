//! Sealing and opening one packet in place (PROTOCOL 3).

use super::aead::{CipherProvider, PacketCipher};
use super::derive::{Direction, EpochKeys, direction_key};
use super::identity::Identity;
use crate::error::DropReason;
use crate::limits::{HEADER_LEN, OVERHEAD, TAG_LEN};
use crate::time::UnixMs;
use crate::wire::header::{Header, PacketType, padding};
use alloc::boxed::Box;
use core::ops::Range;
use subtle::ConstantTimeEq;

/// Bytes of the header that GCM authenticates as AAD; the IV authenticates itself.
const AAD_LEN: usize = 26;

/// The packet key and the identity key of one direction in one epoch.
#[derive(Debug)]
pub struct PacketKeys {
    cipher: Box<dyn PacketCipher>,
    identity: Identity,
}

impl PacketKeys {
    /// The keys of `direction`, expanded from the epoch's (PROTOCOL 2.2).
    #[must_use]
    pub fn new(keys: &EpochKeys, direction: Direction, provider: &dyn CipherProvider) -> Self {
        Self {
            cipher: provider.packet_cipher(&direction_key(&keys.encryption_key, direction)),
            identity: Identity::new(&direction_key(&keys.iv_key, direction)),
        }
    }

    /// Seals the plaintext at `out[38..38 + plaintext]` under its number and returns the length of
    /// the datagram, a multiple of 16.
    ///
    /// The caller never uses a number twice, but to seal a hello or an epoch-0 reply once.
    pub fn seal(
        &self,
        seq: u64,
        timestamp: UnixMs,
        kind: PacketType,
        out: &mut [u8],
        plaintext: usize,
    ) -> usize {
        self.seal_as(self.identity.message_id(seq), seq, timestamp, kind, out, plaintext)
    }

    /// The same with a message id made by another key: a hello's (PROTOCOL 3).
    pub fn seal_as(
        &self,
        message_id: [u8; 16],
        seq: u64,
        timestamp: UnixMs,
        kind: PacketType,
        out: &mut [u8],
        plaintext: usize,
    ) -> usize {
        let tail = padding(plaintext);
        let iv = self.identity.iv(timestamp, seq);
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

    /// `seq` of a datagram made with this key (opening step 2).
    #[must_use]
    pub fn seq(&self, header: &Header) -> Option<u64> {
        self.identity.seq(&header.message_id)
    }

    /// Opening step 3: the IV is the derived one, compared in constant time.
    #[must_use]
    pub fn iv_fits(&self, header: &Header, seq: u64) -> bool {
        self.identity.iv(header.timestamp, seq).ct_eq(&header.iv).into()
    }

    /// Opening step 5: decrypts in place and returns where the plaintext is.
    ///
    /// # Errors
    /// [`DropReason::Tag`]; the datagram's bytes are then of no use.
    pub fn open(&self, header: &Header, datagram: &mut [u8]) -> Result<Range<usize>, DropReason> {
        let end = header.tag_at(datagram.len());
        let tag: [u8; TAG_LEN] =
            *datagram[end..].first_chunk().expect("the header was checked against the length");
        let (head, rest) = datagram.split_at_mut(HEADER_LEN);
        let text = &mut rest[..end - HEADER_LEN];
        if self.cipher.open_in_place(&header.iv, &head[..AAD_LEN], text, &tag) {
            Ok(HEADER_LEN..end)
        } else {
            Err(DropReason::Tag)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::RustCrypto;
    use crate::crypto::derive::derive;
    use alloc::vec;
    use alloc::vec::Vec;
    use quickcheck::quickcheck;

    fn keys() -> PacketKeys {
        PacketKeys::new(&derive(b"secret", b"context"), Direction::C2s, &RustCrypto)
    }

    fn open(keys: &PacketKeys, datagram: &mut [u8]) -> Option<(u64, PacketType, Vec<u8>)> {
        let header = Header::decode(datagram)?;
        let seq = keys.seq(&header)?;
        if !keys.iv_fits(&header, seq) {
            return None;
        }
        let range = keys.open(&header, datagram).ok()?;
        Some((seq, header.kind, datagram[range].to_vec()))
    }

    quickcheck! {
        fn round_trip_and_no_bit_may_change(seq: u64, ms: u64, text: Vec<u8>, flip: usize) -> bool {
            let keys = keys();
            let text = if text.is_empty() { vec![0] } else { text };
            let mut out = vec![0xff; text.len() + 80];
            out[HEADER_LEN..HEADER_LEN + text.len()].copy_from_slice(&text);
            let timestamp = UnixMs(ms >> 8);
            let len = keys.seal(seq, timestamp, PacketType::Chat, &mut out, text.len());
            let mut broken = out[..len].to_vec();
            broken[flip / 8 % len] ^= 1 << (flip % 8);
            len.is_multiple_of(16)
                && open(&keys, &mut out[..len]) == Some((seq, PacketType::Chat, text))
                && open(&keys, &mut broken).is_none()
        }

        fn arbitrary_bytes_never_open(bytes: Vec<u8>) -> bool {
            let mut bytes = bytes;
            bytes.resize(bytes.len() / 16 * 16 + 64, 0);
            bytes[0] = 0x20;
            bytes[17] = 0;
            bytes[25] = 1;
            open(&keys(), &mut bytes).is_none()
        }
    }
}
