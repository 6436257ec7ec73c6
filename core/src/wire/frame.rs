//! Frames of a plaintext (PROTOCOL 4): checked views when reading, plain values when writing.

use super::cursor::{Reader, VARINT_MAX, Writer, varint_len};
use super::header::PacketType;
use crate::error::Malformed;
use crate::limits::{ACK_RANGES, MESSAGE_MAX};
use core::ops::RangeInclusive;

const PADDING: u8 = 0x00;
const ACK: u8 = 0x01;
const MESSAGE: u8 = 0x02;
const CHUNK: u8 = 0x03;
const CHALLENGE: u8 = 0x04;
const RESPONSE: u8 = 0x05;
const SIGNAL: u8 = 0x06;

/// One frame, its bytes still in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// All bytes to the end of the plaintext are zero.
    Padding,
    /// Sequence numbers received.
    Ack(Ack<'a>),
    /// A fragment of a message.
    Message(Fragment<'a>),
    /// A piece of a file, to the end of the plaintext.
    Chunk {
        /// Which transfer.
        transfer: u64,
        /// Where in the file, bytes.
        offset: u64,
        /// At least one byte.
        bytes: &'a [u8],
    },
    /// Asks the peer to answer by the path this came by.
    Challenge([u8; 8]),
    /// Answers a challenge.
    Response([u8; 8]),
    /// One JSON object outside the message channel, its bytes not yet read.
    Signal(&'a [u8]),
}

/// A fragment of a message (PROTOCOL 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Number of the message in its direction.
    pub id: u64,
    /// Length of the whole message, 1..65,536 bytes.
    pub total: u64,
    /// Where in the message.
    pub offset: u64,
    /// At least one byte; offset + length ≤ total.
    pub bytes: &'a [u8],
}

/// An ACK frame whose ranges were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Largest sequence number received.
    pub largest: u64,
    /// Time from its arrival to this frame, microseconds.
    pub delay_us: u64,
    first: u64,
    count: u64,
    rest: &'a [u8],
}

impl<'a> Ack<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let (largest, delay_us) = (reader.varint()?, reader.varint()?);
        let (count, first) = (reader.varint()?, reader.varint()?);
        if count >= ACK_RANGES as u64 {
            return Err(Malformed::AckRanges);
        }
        let before = *reader;
        let mut lowest = largest.checked_sub(first).ok_or(Malformed::AckRanges)?;
        for _ in 0..count {
            let (gap, length) = (reader.varint()?, reader.varint()?);
            let largest = lowest.checked_sub(gap + 2).ok_or(Malformed::AckRanges)?;
            lowest = largest.checked_sub(length).ok_or(Malformed::AckRanges)?;
        }
        let mut before = before;
        let (all, left) = (before.rest(), reader.clone().rest());
        Ok(Self { largest, delay_us, first, count, rest: &all[..all.len() - left.len()] })
    }

    /// The ranges, from the largest down (RFC 9000 §19.3.1).
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + 'a {
        let mut reader = Reader::new(self.rest);
        let mut lowest = self.largest - self.first;
        let mut left = self.count;
        core::iter::once(lowest..=self.largest).chain(core::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let (gap, length) = (reader.varint().ok()?, reader.varint().ok()?);
            let largest = lowest.checked_sub(gap + 2)?;
            lowest = largest.checked_sub(length)?;
            Some(lowest..=largest)
        }))
    }

    /// The smallest sequence number of all ranges.
    #[must_use]
    pub fn smallest(&self) -> u64 {
        self.ranges().last().map_or(self.largest, |range| *range.start())
    }
}

impl<'a> Frame<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            PADDING => {
                if reader.rest().iter().any(|byte| *byte != 0) {
                    return Err(Malformed::Padding);
                }
                Self::Padding
            }
            ACK => Self::Ack(Ack::read(reader)?),
            MESSAGE => {
                let (id, total) = (reader.varint()?, reader.varint()?);
                let (offset, length) = (reader.varint()?, reader.varint()?);
                let fits = offset.checked_add(length).is_some_and(|end| end <= total);
                if !(1..=MESSAGE_MAX as u64).contains(&total) || length == 0 || !fits {
                    return Err(Malformed::Fragment);
                }
                let length = usize::try_from(length).map_err(|_| Malformed::Fragment)?;
                Self::Message(Fragment { id, total, offset, bytes: reader.bytes(length)? })
            }
            CHUNK => {
                let (transfer, offset, bytes) = read_chunk(reader)?;
                Self::Chunk { transfer, offset, bytes }
            }
            CHALLENGE => Self::Challenge(reader.array()?),
            RESPONSE => Self::Response(reader.array()?),
            SIGNAL => {
                let length = reader.varint()?;
                let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
                Self::Signal(reader.bytes(length)?)
            }
            _ => return Err(Malformed::UnknownTag),
        })
    }

    /// Whether a packet of an epoch from 1 on may hold this frame (table of PROTOCOL 4).
    #[must_use]
    pub const fn allowed_in(&self, kind: PacketType) -> bool {
        use PacketType as T;
        match self {
            Self::Padding | Self::Ack(_) => true,
            Self::Message(_) => matches!(
                kind,
                T::Chat | T::File | T::Presence | T::KeyRotation | T::PortRotation | T::Error
            ),
            Self::Chunk { .. } => matches!(kind, T::File),
            Self::Challenge(_) => matches!(kind, T::Ping),
            Self::Response(_) => matches!(kind, T::Pong),
            Self::Signal(_) => matches!(kind, T::Error | T::Compromised | T::CompromisedAck),
        }
    }
}

/// The frames of a plaintext, in order. After an error comes nothing more.
#[derive(Clone, Debug)]
pub struct Frames<'a>(Reader<'a>);

impl<'a> Frames<'a> {
    /// The frames of `plaintext`.
    #[must_use]
    pub const fn new(plaintext: &'a [u8]) -> Self {
        Self(Reader::new(plaintext))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let frame = Frame::read(&mut self.0);
        if frame.is_err() {
            self.0.rest();
        }
        Some(frame)
    }
}

/// Writes an ACK of `ranges`, given from the largest down; as many as fit, at most 64.
///
/// False, and nothing written, when not even the first fits or there is none.
#[must_use]
pub fn write_ack(
    out: &mut Writer<'_>,
    delay_us: u64,
    ranges: impl Iterator<Item = RangeInclusive<u64>> + Clone,
) -> bool {
    let mut all = ranges.clone();
    let Some(first) = all.next() else { return false };
    let (largest, first_length) = (*first.end(), first.end() - first.start());
    // The count is at most 63, and so one byte.
    let mut size = 1 + varint_len(largest) + varint_len(delay_us) + 1 + varint_len(first_length);
    let mut lowest = *first.start();
    let mut count = 0;
    let gaps = all.map_while(move |range| {
        let gap = lowest.checked_sub(range.end() + 2)?;
        lowest = *range.start();
        Some((gap, range.end() - range.start()))
    });
    for (gap, length) in gaps.clone().take(ACK_RANGES - 1) {
        let more = varint_len(gap) + varint_len(length);
        if size + more > out.room() {
            break;
        }
        size += more;
        count += 1;
    }
    if size > out.room() {
        return false;
    }
    let mut ok = out.bytes(&[ACK]) && out.varint(largest) && out.varint(delay_us);
    ok &= out.varint(count) && out.varint(first_length);
    for (gap, length) in gaps.take(usize::try_from(count).unwrap_or(0)) {
        ok &= out.varint(gap) && out.varint(length);
    }
    ok
}

/// Writes as much of the fragment as fits, and returns how many of its bytes that is; 0 for none.
#[must_use]
pub fn write_message(out: &mut Writer<'_>, fragment: &Fragment<'_>) -> usize {
    let head = 1
        + varint_len(fragment.id)
        + varint_len(fragment.total)
        + varint_len(fragment.offset)
        + varint_len(out.room() as u64);
    let count = out.room().saturating_sub(head).min(fragment.bytes.len());
    let ok = count > 0
        && out.bytes(&[MESSAGE])
        && out.varint(fragment.id)
        && out.varint(fragment.total)
        && out.varint(fragment.offset)
        && out.varint(count as u64)
        && out.bytes(&fragment.bytes[..count]);
    if ok { count } else { 0 }
}

/// The rest of a CHUNK: transfer, offset, and bytes to the end of the plaintext.
fn read_chunk<'a>(reader: &mut Reader<'a>) -> Result<(u64, u64, &'a [u8]), Malformed> {
    let (transfer, offset) = (reader.varint()?, reader.varint()?);
    let bytes = reader.rest();
    if bytes.is_empty() || offset + bytes.len() as u64 > VARINT_MAX {
        return Err(Malformed::Chunk);
    }
    Ok((transfer, offset, bytes))
}

/// The CHUNK that a plaintext begins with, and so is all of it.
#[must_use]
pub fn lone_chunk(plaintext: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (tag, rest) = plaintext.split_first()?;
    if *tag == CHUNK { read_chunk(&mut Reader::new(rest)).ok() } else { None }
}

/// Bytes of a file that a CHUNK at `offset` can carry in a plaintext of `room` bytes.
#[must_use]
pub const fn chunk_room(room: usize, transfer: u64, offset: u64) -> usize {
    room.saturating_sub(1 + varint_len(transfer) + varint_len(offset))
}

/// Writes a CHUNK, which ends the plaintext: all of `bytes`, which are not none, or nothing.
#[must_use]
pub fn write_chunk(out: &mut Writer<'_>, transfer: u64, offset: u64, bytes: &[u8]) -> bool {
    (1..=chunk_room(out.room(), transfer, offset)).contains(&bytes.len())
        && out.bytes(&[CHUNK])
        && out.varint(transfer)
        && out.varint(offset)
        && out.bytes(bytes)
}

/// Writes a CHALLENGE.
#[must_use]
pub fn write_challenge(out: &mut Writer<'_>, data: &[u8; 8]) -> bool {
    out.room() >= 9 && out.bytes(&[CHALLENGE]) && out.bytes(data)
}

/// Writes a RESPONSE.
#[must_use]
pub fn write_response(out: &mut Writer<'_>, data: &[u8; 8]) -> bool {
    out.room() >= 9 && out.bytes(&[RESPONSE]) && out.bytes(data)
}

/// Writes a SIGNAL of `json`.
#[must_use]
pub fn write_signal(out: &mut Writer<'_>, json: &[u8]) -> bool {
    let length = json.len() as u64;
    out.room() > varint_len(length) + json.len()
        && out.bytes(&[SIGNAL])
        && out.varint(length)
        && out.bytes(json)
}

/// Writes `count` bytes of PADDING, or as many as fit.
pub fn write_padding(out: &mut Writer<'_>, count: usize) {
    for _ in 0..count.min(out.room()) {
        let _fits = out.bytes(&[PADDING]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::RangeSet;
    use alloc::vec;
    use alloc::vec::Vec;
    use quickcheck::quickcheck;

    quickcheck! {
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) -> bool {
            for frame in Frames::new(&bytes).flatten() {
                if let Frame::Ack(ack) = frame {
                    let ranges: Vec<_> = ack.ranges().collect();
                    assert!(ranges.iter().all(|range| range.start() <= range.end()));
                    assert!(ranges.windows(2).all(|two| two[1].end() + 1 < *two[0].start()));
                    assert_eq!(ack.smallest(), *ranges.last().unwrap().start());
                }
            }
            true
        }

        fn ack_round_trip(seqs: Vec<u16>, delay: u32, room: u8) -> bool {
            let mut set = RangeSet::new();
            for seq in seqs {
                set.insert(u64::from(seq)..u64::from(seq) + 1);
            }
            let ranges = set.iter().rev().map(|range| range.start..=range.end - 1);
            let mut out = vec![0; usize::from(room) + 16];
            let mut writer = Writer::new(&mut out);
            let written = write_ack(&mut writer, u64::from(delay), ranges.clone());
            let len = writer.len();
            if set.is_empty() {
                return !written && len == 0;
            }
            let Some(Ok(Frame::Ack(ack))) = Frames::new(&out[..len]).next() else { return false };
            let read: Vec<_> = ack.ranges().collect();
            ack.delay_us == u64::from(delay)
                && !read.is_empty()
                && read.len() <= ACK_RANGES
                && ranges.take(read.len()).eq(read)
        }

        fn message_round_trip(id: u32, offset: u16, bytes: Vec<u8>, room: u8) -> bool {
            let (id, offset) = (u64::from(id), u64::from(offset) / 2);
            let total = (offset + bytes.len() as u64).max(1);
            let mut out = vec![0; usize::from(room)];
            let mut writer = Writer::new(&mut out);
            let count = write_message(&mut writer, &Fragment { id, total, offset, bytes: &bytes });
            let len = writer.len();
            let mut frames = Frames::new(&out[..len]);
            if count == 0 {
                return len == 0;
            }
            let expected = Fragment { id, total, offset, bytes: &bytes[..count] };
            frames.next() == Some(Ok(Frame::Message(expected))) && frames.next().is_none()
        }

        fn chunk_round_trip(transfer: u32, offset: u64, bytes: Vec<u8>, room: u8) -> bool {
            let (transfer, offset) = (u64::from(transfer), offset >> 3);
            let mut out = vec![0; usize::from(room)];
            let mut writer = Writer::new(&mut out);
            let most = chunk_room(usize::from(room), transfer, offset);
            let fits = (1..=most).contains(&bytes.len());
            let written = write_chunk(&mut writer, transfer, offset, &bytes);
            let len = writer.len();
            if !written {
                return !fits && len == 0;
            }
            let mut frames = Frames::new(&out[..len]);
            frames.next() == Some(Ok(Frame::Chunk { transfer, offset, bytes: &bytes }))
                && frames.next().is_none()
        }

        fn small_frames_round_trip(data: u64, json: Vec<u8>, padding: u8) -> bool {
            let data = data.to_be_bytes();
            let mut out = vec![0xff; 600];
            let mut writer = Writer::new(&mut out);
            assert!(write_challenge(&mut writer, &data) && write_response(&mut writer, &data));
            assert!(write_signal(&mut writer, &json));
            write_padding(&mut writer, usize::from(padding));
            let len = writer.len();
            let frames: Result<Vec<_>, _> = Frames::new(&out[..len]).collect();
            let mut expected =
                vec![Frame::Challenge(data), Frame::Response(data), Frame::Signal(&json)];
            if padding > 0 {
                expected.push(Frame::Padding);
            }
            frames == Ok(expected)
        }
    }
}
