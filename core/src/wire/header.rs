//! The packet header, and the cheapest test of a datagram (PROTOCOL 3, opening step 1).

use crate::limits::{DATAGRAM_MAX, DATAGRAM_MIN, HEADER_LEN, OVERHEAD, TAG_LEN};
use crate::time::UnixMs;

/// Message type of the header (SPEC 9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PacketType {
    /// Chat message.
    Chat = 0x01,
    /// File transfer.
    File = 0x02,
    /// Presence update.
    Presence = 0x03,
    /// Key rotation, and the handshake.
    KeyRotation = 0x04,
    /// Port rotation.
    PortRotation = 0x05,
    /// Error.
    Error = 0x06,
    /// Keepalive ping.
    Ping = 0x07,
    /// Keepalive pong, and packets of nothing but ACK and RESPONSE.
    Pong = 0x08,
    /// Compromised signal.
    Compromised = 0x09,
    /// Compromised acknowledge.
    CompromisedAck = 0x0a,
}

impl PacketType {
    /// The type with this number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0x01 => Self::Chat,
            0x02 => Self::File,
            0x03 => Self::Presence,
            0x04 => Self::KeyRotation,
            0x05 => Self::PortRotation,
            0x06 => Self::Error,
            0x07 => Self::Ping,
            0x08 => Self::Pong,
            0x09 => Self::Compromised,
            0x0a => Self::CompromisedAck,
            _ => return None,
        })
    }
}

/// Bytes of padding that make `plaintext` bytes a datagram of a multiple of 16 (PROTOCOL 3).
#[must_use]
pub const fn padding(plaintext: usize) -> usize {
    (16 - (OVERHEAD + plaintext) % 16) % 16
}

/// Largest plaintext whose datagram is at most `datagram` bytes, a multiple of 16.
#[must_use]
pub const fn plaintext_room(datagram: usize) -> usize {
    datagram.saturating_sub(OVERHEAD)
}

/// What the header says, before anything of it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of padding bytes after the tag, 0..15.
    pub padding: u8,
    /// The message id: an encrypted sequence number.
    pub message_id: [u8; 16],
    /// When the packet was sealed.
    pub timestamp: UnixMs,
    /// Its type.
    pub kind: PacketType,
    /// The IV field.
    pub iv: [u8; 12],
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = 0x20 | self.padding;
        out[1..17].copy_from_slice(&self.message_id);
        out[17..25].copy_from_slice(&self.timestamp.0.to_be_bytes());
        out[17] = 0;
        out[25] = self.kind as u8;
        out[26..38].copy_from_slice(&self.iv);
        out
    }

    /// Reads the header of a datagram that passes opening step 1; `None` for one that does not.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let len = datagram.len();
        if !len.is_multiple_of(16) || !(DATAGRAM_MIN..=DATAGRAM_MAX).contains(&len) {
            return None;
        }
        let (version, padding) = (datagram[0] >> 4, datagram[0] & 0x0f);
        let tail = usize::from(padding);
        if version != 2 || OVERHEAD + tail >= len || datagram[17] != 0 {
            return None;
        }
        if datagram[len - tail..].iter().any(|byte| *byte != 0) {
            return None;
        }
        Some(Self {
            padding,
            message_id: *datagram[1..].first_chunk()?,
            timestamp: UnixMs(u64::from_be_bytes(*datagram[17..].first_chunk()?)),
            kind: PacketType::from_u8(datagram[25])?,
            iv: *datagram[26..].first_chunk()?,
        })
    }

    /// Where the ciphertext ends and the tag begins in a datagram of `len` bytes.
    #[must_use]
    pub fn tag_at(&self, len: usize) -> usize {
        len - usize::from(self.padding) - TAG_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use quickcheck::quickcheck;

    quickcheck! {
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) -> bool {
            let mut bytes = bytes;
            bytes.resize(bytes.len() / 16 * 16 + 64, 0);
            bytes[0] = 0x20 | bytes[0] & 0xf;
            let _ = Header::decode(&bytes);
            true
        }
    }

    #[test]
    fn padding_is_least() {
        for plaintext in 1..100 {
            let len = OVERHEAD + plaintext + padding(plaintext);
            assert!(len.is_multiple_of(16) && padding(plaintext) < 16);
            assert!(plaintext_room(len) >= plaintext);
        }
    }

    #[test]
    fn round_trip() {
        let header = Header {
            padding: 9,
            message_id: [7; 16],
            timestamp: UnixMs(1_690_925_948_815),
            kind: PacketType::Pong,
            iv: [9; 12],
        };
        let mut datagram = [1; 64];
        datagram[..HEADER_LEN].copy_from_slice(&header.encode());
        datagram[55..].fill(0);
        assert_eq!(Header::decode(&datagram), Some(header));
        assert_eq!(header.tag_at(64), 39);
    }
}
