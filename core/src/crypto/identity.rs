//! Sequence numbers as message ids, and IVs from them (PROTOCOL 3): one block of AES each.

use crate::secret::Secret;
use crate::time::UnixMs;
use crate::wire::header::Header;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Aes256Dec, Block};
use core::fmt;
use subtle::ConstantTimeEq;

/// Packets of one pass at most: as many segments as one call takes with GSO.
pub const BATCH: usize = 64;
/// Widest pass of the AES back ends. What is left over is done block by block, so that blocks for
/// nothing are cheaper than a long remainder.
const WIDTH: usize = 64;

const _: () = assert!((2 * BATCH).is_multiple_of(WIDTH) && BATCH.is_multiple_of(WIDTH));

/// A packet-identity key.
pub struct Identity(Aes256);

/// The part of one that finds the number of a message id: half as large, and expanded for good, since any
/// stranger's datagram may ask it.
pub(super) struct Finder(Aes256Dec);

impl Finder {
    pub(super) fn new(key: &Secret<32>) -> Self {
        Self(Aes256Dec::new(key.expose().into()))
    }

    /// See [`Identity::seq`].
    pub(super) fn seq(&self, message_id: &[u8; 16]) -> Option<u64> {
        let mut block = (*message_id).into();
        self.0.decrypt_block(&mut block);
        seq_of(block)
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Finder(…)")
    }
}

/// What a header takes from its packet's number and time.
///
/// Not `Clone`: a (key, IV) pair never seals two different packets (PROTOCOL 3), and who seals uses
/// this up.
#[derive(Debug)]
pub struct PacketIdentity {
    pub(super) message_id: [u8; 16],
    pub(super) timestamp: UnixMs,
    pub(super) iv: [u8; 12],
    seq: u64,
}

impl PacketIdentity {
    /// The packet's number.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }
}

/// Identities made in one pass, which it gives one by one: see [`Identity::batch`].
pub struct Identities {
    /// Of each packet the message id and the block of its IV.
    blocks: [Block; 2 * BATCH],
    timestamp: UnixMs,
    first: u64,
    given: usize,
    count: usize,
}

/// What opening steps 2 and 3 say of a header under one key (PROTOCOL 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recognised {
    /// Its message id was not made with this key.
    #[default]
    Foreign,
    /// It was, for this number, but the IV is not that of this number and time: to be dropped.
    WrongIv(u64),
    /// Both fit; steps 4 and 5 are left.
    Fits(u64),
}

impl Identity {
    /// From `pid(dir)`, or from the key of first packets.
    #[must_use]
    pub fn new(key: &Secret<32>) -> Self {
        Self(Aes256::new(key.expose().into()))
    }

    /// The message id of `seq`; under the key of first packets, of a hello's nonce.
    #[must_use]
    pub fn message_id(&self, seq: u64) -> [u8; 16] {
        self.encrypt(id_block(seq))
    }

    /// `seq` of a message id; `None` when it was not made with this key.
    #[must_use]
    pub fn seq(&self, message_id: &[u8; 16]) -> Option<u64> {
        let mut block = (*message_id).into();
        self.0.decrypt_block(&mut block);
        seq_of(block)
    }

    /// The IV of `seq` sealed at `timestamp`.
    #[must_use]
    pub fn iv(&self, timestamp: UnixMs, seq: u64) -> [u8; 12] {
        iv_of(&self.encrypt(iv_block(timestamp, seq)).into())
    }

    /// Message id and IV of `seq` sealed at `timestamp`.
    #[must_use]
    pub fn packet(&self, timestamp: UnixMs, seq: u64) -> PacketIdentity {
        let (message_id, iv) = (self.message_id(seq), self.iv(timestamp, seq));
        PacketIdentity { message_id, timestamp, iv, seq }
    }

    /// The same of `count` consecutive numbers, of [`BATCH`] at most, in one pass over the blocks of
    /// all (PROTOCOL 3): faster than one by one from three on. The last number is below 2^64.
    #[must_use]
    pub fn batch(&self, timestamp: UnixMs, first: u64, count: usize) -> Identities {
        let count = count.min(BATCH);
        let mut blocks = [Block::default(); 2 * BATCH];
        let used = &mut blocks[..padded(2 * count)];
        for (pair, at) in used.chunks_exact_mut(2).zip(0..count as u64) {
            let seq = first + at;
            pair[0] = id_block(seq).to_be_bytes().into();
            pair[1] = iv_block(timestamp, seq).to_be_bytes().into();
        }
        self.0.encrypt_blocks(used);
        Identities { blocks, timestamp, first, given: 0, count }
    }

    /// Opening steps 2 and 3 (PROTOCOL 3) for each header into its place in `out`, in two passes over
    /// the blocks of [`BATCH`] headers at a time: faster than one by one from four headers on. IVs are
    /// compared in constant time.
    pub fn recognise(&self, headers: &[Header], out: &mut [Recognised]) {
        for (headers, out) in headers.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let mut blocks = [Block::default(); BATCH];
            for (block, header) in blocks.iter_mut().zip(headers) {
                *block = header.message_id.into();
            }
            let used = &mut blocks[..padded(headers.len())];
            self.0.decrypt_blocks(used);
            let mut any = false;
            for ((block, header), out) in used.iter_mut().zip(headers).zip(&mut *out) {
                *out = seq_of(*block).map_or(Recognised::Foreign, Recognised::WrongIv);
                if let Recognised::WrongIv(seq) = *out {
                    any = true;
                    *block = iv_block(header.timestamp, seq).to_be_bytes().into();
                }
            }
            if !any {
                continue;
            }
            self.0.encrypt_blocks(used);
            for ((block, header), out) in used.iter().zip(headers).zip(out) {
                if let Recognised::WrongIv(seq) = *out
                    && bool::from(difference(&iv_of(block), &header.iv).ct_eq(&0))
                {
                    *out = Recognised::Fits(seq);
                }
            }
        }
    }

    fn encrypt(&self, block: u128) -> [u8; 16] {
        let mut block = block.to_be_bytes().into();
        self.0.encrypt_block(&mut block);
        block.into()
    }
}

impl Iterator for Identities {
    type Item = PacketIdentity;

    fn next(&mut self) -> Option<PacketIdentity> {
        if self.given == self.count {
            return None;
        }
        let at = self.given;
        self.given += 1;
        Some(PacketIdentity {
            message_id: self.blocks[2 * at].into(),
            timestamp: self.timestamp,
            iv: iv_of(&self.blocks[2 * at + 1]),
            seq: self.first + at as u64,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.given;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Identities {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({} of {})", self.len(), self.count)
    }
}

/// `0x00 ‖ 0^7 ‖ seq`.
fn id_block(seq: u64) -> u128 {
    u128::from(seq)
}

/// `0x01 ‖ timestamp[1..8] ‖ seq`.
fn iv_block(timestamp: UnixMs, seq: u64) -> u128 {
    1 << 120 | u128::from(timestamp.0 & 0x00ff_ffff_ffff_ffff) << 64 | u128::from(seq)
}

/// The number in a decrypted message id.
fn seq_of(block: Block) -> Option<u64> {
    u64::try_from(u128::from_be_bytes(block.into())).ok()
}

fn iv_of(block: &Block) -> [u8; 12] {
    let block: [u8; 16] = (*block).into();
    let [iv @ .., _, _, _, _] = block;
    iv
}

/// 0 for the same IVs, gathered without a branch: to be compared in constant time, as one word where
/// twelve bytes one by one would cost as much as their block.
pub(super) fn difference(one: &[u8; 12], other: &[u8; 12]) -> u64 {
    let words = |iv: &[u8; 12]| {
        let [a, b, c, d, e, f, g, h, low @ ..] = *iv;
        (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u32::from_ne_bytes(low))
    };
    let ((high, low), (high_other, low_other)) = (words(one), words(other));
    (high ^ high_other) | u64::from(low ^ low_other)
}

/// How many blocks a pass takes for `blocks` of them.
const fn padded(blocks: usize) -> usize {
    if blocks < WIDTH / 4 { blocks } else { blocks.next_multiple_of(WIDTH) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::PacketType;
    use alloc::vec::Vec;
    use quickcheck::{TestResult, quickcheck};

    const NOW: UnixMs = UnixMs(1_690_925_948_815);

    fn identity(byte: u8) -> Identity {
        Identity::new(&Secret::take(&mut [byte; 32]))
    }

    fn header(of: PacketIdentity) -> Header {
        let PacketIdentity { message_id, timestamp, iv, .. } = of;
        Header { padding: 0, message_id, timestamp, kind: PacketType::Chat, iv }
    }

    #[test]
    fn a_batch_is_its_packets_one_by_one() {
        let identity = identity(7);
        for (count, made) in (0..=BATCH).map(|count| (count, count)).chain([(BATCH + 1, BATCH)]) {
            let first = (1 << 40) - 3;
            let mut batch = identity.batch(NOW, first, count);
            assert_eq!(batch.len(), made);
            for seq in first..first + made as u64 {
                let packet = batch.next().unwrap();
                assert_eq!((packet.seq(), packet.timestamp), (seq, NOW));
                assert_eq!(packet.message_id, identity.message_id(seq));
                assert_eq!(packet.iv, identity.iv(NOW, seq));
            }
            assert!(batch.next().is_none());
        }
    }

    quickcheck! {
        fn batches_anywhere(timestamp: u64, first: u64, count: u8) -> TestResult {
            if first.checked_add(256).is_none() {
                return TestResult::discard();
            }
            let (identity, timestamp) = (identity(1), UnixMs(timestamp));
            TestResult::from_bool(identity.batch(timestamp, first, count.into()).zip(first..).all(
                |(packet, seq)| {
                    packet.message_id == identity.message_id(seq)
                        && packet.iv == identity.iv(timestamp, seq)
                },
            ))
        }

        /// Headers of ours, of others, and of ours with a bit of the IV or of the time changed.
        fn recognised_as_one_by_one(kinds: Vec<u8>, seq: u32) -> bool {
            let (ours, others) = (identity(1), identity(2));
            let kinds: Vec<_> = kinds.iter().cycle().take(kinds.len() * 3).collect();
            let headers: Vec<_> = kinds
                .iter()
                .enumerate()
                .map(|(at, kind)| {
                    let seq = u64::from(seq) + at as u64;
                    let maker = if **kind % 4 == 0 { &others } else { &ours };
                    let mut header = header(maker.packet(NOW, seq));
                    match **kind % 4 {
                        1 => header.iv[usize::from(**kind) % 12] ^= 1 << (**kind >> 5),
                        2 => header.timestamp.0 += 1,
                        _ => {}
                    }
                    header
                })
                .collect();
            let mut out = alloc::vec![Recognised::Fits(0); headers.len()];
            ours.recognise(&headers, &mut out);
            headers.iter().zip(out).all(|(header, out)| {
                out == match ours.seq(&header.message_id) {
                    None => Recognised::Foreign,
                    Some(seq) if ours.iv(header.timestamp, seq) == header.iv => Recognised::Fits(seq),
                    Some(seq) => Recognised::WrongIv(seq),
                }
            })
        }
    }

    #[test]
    fn any_bit_is_a_difference() {
        let iv: [u8; 12] = core::array::from_fn(|at| at as u8 * 23);
        assert_eq!(difference(&iv, &iv), 0);
        for bit in 0..96 {
            let mut other = iv;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(difference(&iv, &other), 0);
        }
    }

    #[test]
    fn what_is_recognised() {
        let (ours, others) = (identity(1), identity(2));
        let mut late = header(ours.packet(NOW, 6));
        late.timestamp.0 -= 1;
        let headers = [header(ours.packet(NOW, 5)), late, header(others.packet(NOW, 7))];
        let mut out = [Recognised::default(); 3];
        ours.recognise(&headers, &mut out);
        assert_eq!(out, [Recognised::Fits(5), Recognised::WrongIv(6), Recognised::Foreign]);
    }
}
