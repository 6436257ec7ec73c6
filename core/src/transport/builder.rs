//! Packs frames into packets and seals them (PROTOCOL 3, 4).

use super::Transport;
use super::path::Path;
use super::recovery::Sent;
use crate::limits::{BATCH_MAX, DATAGRAM_BASE, DATAGRAM_MIN, HEADER_LEN, OVERHEAD};
use crate::time::Now;
use crate::wire::cursor::Writer;
use crate::wire::frame::{
    chunk_room, write_challenge, write_chunk, write_message, write_padding, write_response,
};
use crate::wire::header::PacketType;
use alloc::vec::Vec;
use core::ops::Range;

/// Largest plaintext of a datagram of the base size.
const ROOM: usize = DATAGRAM_BASE - OVERHEAD;
/// From so many packets on it is cheaper to make their message ids and IVs in one pass.
const BATCH_WORTH: usize = 3;

/// The next datagram, most urgent first: responses, challenges, messages, pings, bare
/// acknowledgements.
pub(super) fn build(transport: &mut Transport, now: Now, out: &mut [u8]) -> Option<(Path, usize)> {
    let (home, last_sent) = (transport.paths.home(), transport.last_sent);
    let sent = next(transport, now, home, out);
    if sent.is_some_and(|(path, _)| path != home) {
        // What goes elsewhere keeps nothing alive here (PROTOCOL 6).
        transport.last_sent = last_sent;
    }
    sent
}

fn next(transport: &mut Transport, now: Now, home: Path, out: &mut [u8]) -> Option<(Path, usize)> {
    while let Some((path, data)) = transport.responses.pop_front() {
        // Nothing but the answer goes to a path that is not proven.
        if path == home || transport.paths.may_answer(path, DATAGRAM_MIN) {
            let len = lone(out, |writer| write_response(writer, &data));
            return Some((path, seal(transport, now, PacketType::Pong, out, len, None)));
        }
    }
    if let Some((path, data)) = transport.paths.poll(transport.pace(now.mono)) {
        let len = lone(out, |writer| write_challenge(writer, &data));
        return Some((path, seal(transport, now, PacketType::Ping, out, len, None)));
    }
    let full = transport.recovery.datagram_size() as u64;
    if transport.sending.has_next(transport.may())
        && transport.recovery.may_send_paced(now.mono, full)
        && let Some(len) = messages(transport, now, out)
    {
        return Some((home, len));
    }
    if let Some(size) = transport.recovery.size_probe() {
        return Some((home, size_probe(transport, now, size, out)));
    }
    if transport.ping_due && transport.recovery.may_send(64) {
        transport.ping_due = false;
        let (acked, len) = plaintext(transport, now, out, |writer| {
            write_padding(writer, 1);
            true
        });
        let sent = Record { fragments: Vec::new(), acked };
        transport.asked.sent(transport.epochs.next_seq());
        return Some((home, seal(transport, now, PacketType::Ping, out, len, Some(sent))));
    }
    if transport.acks.due().is_some_and(|due| due <= now.mono) {
        return bare_ack(transport, now, out).map(|len| (home, len));
    }
    None
}

/// A ping padded to `size` bytes, outside congestion control (PROTOCOL 4.2, RFC 8899).
fn size_probe(transport: &mut Transport, now: Now, size: usize, out: &mut [u8]) -> usize {
    let mut writer = Writer::new(&mut out[HEADER_LEN..HEADER_LEN + size - OVERHEAD]);
    write_padding(&mut writer, size - OVERHEAD);
    let plaintext = writer.len();
    let (seq, len) = seal_only(transport, now, PacketType::Ping, out, plaintext);
    debug_assert_eq!(len, size, "sizes are multiples of 16");
    let (at, size, fragments, acked) = (now.mono, len as u64, Vec::new(), None);
    transport.recovery.sent_size_probe(Sent { seq, at, size, fragments, chunk: None, acked });
    len
}

/// A packet of nothing but an ACK, if one is owed.
pub(super) fn bare_ack(transport: &mut Transport, now: Now, out: &mut [u8]) -> Option<usize> {
    let (acked, len) = plaintext(transport, now, out, |_| true);
    acked?;
    Some(seal(transport, now, PacketType::Pong, out, len, None))
}

/// What must be remembered of an ack-eliciting packet.
struct Record {
    fragments: Vec<(u64, Range<u64>)>,
    acked: Option<u64>,
}

/// Writes one small frame.
fn lone(out: &mut [u8], write: impl FnOnce(&mut Writer<'_>) -> bool) -> usize {
    let mut writer = Writer::new(&mut out[HEADER_LEN..HEADER_LEN + ROOM]);
    let written = write(&mut writer);
    debug_assert!(written, "it is 9 bytes long");
    writer.len()
}

/// Writes an ACK if one is owed, then what `write` adds.
fn plaintext(
    transport: &mut Transport,
    now: Now,
    out: &mut [u8],
    write: impl FnOnce(&mut Writer<'_>) -> bool,
) -> (Option<u64>, usize) {
    let mut writer = Writer::new(&mut out[HEADER_LEN..HEADER_LEN + ROOM]);
    let acked = transport.acks.write(now.mono, &mut writer);
    let written = write(&mut writer);
    debug_assert!(written, "an ACK of 64 ranges leaves room for a small frame");
    (acked, writer.len())
}

/// A packet of fragments of one type.
fn messages(transport: &mut Transport, now: Now, out: &mut [u8]) -> Option<usize> {
    let may = transport.may();
    let (kind, _) = transport.sending.next(None, may)?;
    let room = transport.recovery.datagram_size() - OVERHEAD;
    let mut writer = Writer::new(&mut out[HEADER_LEN..HEADER_LEN + room]);
    let acked = transport.acks.write(now.mono, &mut writer);
    let mut fragments = Vec::new();
    while let Some((_, fragment)) = transport.sending.next(Some(kind), may) {
        let count = write_message(&mut writer, &fragment) as u64;
        if count == 0 {
            break;
        }
        let (id, range) = (fragment.id, fragment.offset..fragment.offset + count);
        transport.sending.sent(id, range.clone());
        fragments.push((id, range));
    }
    let len = writer.len();
    Some(seal(transport, now, kind, out, len, Some(Record { fragments, acked })))
}

/// How many bytes of a file from `range` fit `count` datagrams of `size` bytes.
pub(super) fn batch_room(size: usize, count: usize, transfer: u64, range: &Range<u64>) -> usize {
    let mut at = range.start;
    for _ in 0..count {
        at += chunk_room(size - OVERHEAD, transfer, at) as u64;
        if at >= range.end {
            break;
        }
    }
    usize::try_from(at.min(range.end) - range.start).unwrap_or(0)
}

/// Seals `bytes` of a file in full datagrams, the last of which may be shorter; as many as `out` holds.
pub(super) fn chunks(
    transport: &mut Transport,
    now: Now,
    transfer: u64,
    mut offset: u64,
    mut bytes: &[u8],
    out: &mut [u8],
) -> usize {
    let segment = transport.recovery.datagram_size();
    let count = bytes.len().div_ceil(chunk_room(segment - OVERHEAD, transfer, offset).max(1));
    let mut identities =
        (count >= BATCH_WORTH).then(|| transport.epochs.identities(now.wall, count.min(BATCH_MAX)));
    let (first, mut at) = (offset, 0);
    while !bytes.is_empty() && out.len() - at >= segment && !transport.epochs.is_stopped() {
        let room = segment - OVERHEAD;
        let (piece, rest) = bytes.split_at(bytes.len().min(chunk_room(room, transfer, offset)));
        let datagram = &mut out[at..at + segment];
        let mut writer = Writer::new(&mut datagram[HEADER_LEN..HEADER_LEN + room]);
        let written = write_chunk(&mut writer, transfer, offset, piece);
        debug_assert!(written, "it was cut to fit");
        let plaintext = writer.len();
        let identity = identities.as_mut().and_then(Iterator::next);
        let (seq, len) = match identity {
            Some(identity) => {
                transport.epochs.seal_with(identity, PacketType::File, datagram, plaintext)
            }
            None => {
                let epoch = transport.epochs.current();
                let file = PacketType::File;
                let sealed = transport.epochs.seal(epoch, now.wall, file, datagram, plaintext);
                sealed.expect("the current epoch always seals")
            }
        };
        let range = offset..offset + piece.len() as u64;
        let (size, fragments, chunk) = (len as u64, Vec::new(), Some((transfer, range)));
        let sent = Sent { seq, at: now.mono, size, fragments, chunk, acked: None };
        transport.recovery.sent(sent);
        offset += piece.len() as u64;
        (at, bytes) = (at + len, rest);
    }
    transport.outbox.sent(transfer, first..offset);
    transport.last_sent = now.mono;
    transport.sent_bytes += at as u64;
    at
}

fn seal(
    transport: &mut Transport,
    now: Now,
    kind: PacketType,
    out: &mut [u8],
    plaintext: usize,
    record: Option<Record>,
) -> usize {
    let (seq, len) = seal_only(transport, now, kind, out, plaintext);
    if let Some(Record { fragments, acked }) = record {
        let size = len as u64;
        let (at, chunk) = (now.mono, None);
        transport.recovery.sent(Sent { seq, at, size, fragments, chunk, acked });
    }
    len
}

/// Seals in the current epoch: the number of the packet, and its length.
fn seal_only(
    transport: &mut Transport,
    now: Now,
    kind: PacketType,
    out: &mut [u8],
    plaintext: usize,
) -> (u64, usize) {
    let epoch = transport.epochs.current();
    let sealed = transport.epochs.seal(epoch, now.wall, kind, out, plaintext);
    let (seq, len) = sealed.expect("the current epoch always seals");
    transport.last_sent = now.mono;
    transport.sent_bytes += len as u64;
    (seq, len)
}
