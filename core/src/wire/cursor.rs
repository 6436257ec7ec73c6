//! Reading and writing slices, with the variable-length integers of RFC 9000 §16.

use crate::error::Malformed;

/// Largest value of a varint.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Reads a slice from its front.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(*bytes)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when none is left.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A varint; non-minimal forms are accepted (PROTOCOL 1).
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when it is cut.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        if let Some(ahead) = self.0.first_chunk::<8>() {
            let len = 1 << (ahead[0] >> 6);
            let value = u64::from_be_bytes(*ahead) & (u64::MAX >> 2);
            self.0 = &self.0[len..];
            return Ok(value >> (64 - 8 * len));
        }
        let first = self.u8()?;
        let mut value = u64::from(first & 0x3f);
        for byte in self.bytes((1 << (first >> 6)) - 1)? {
            value = value << 8 | u64::from(*byte);
        }
        Ok(value)
    }

    /// All that is left.
    pub const fn rest(&mut self) -> &'a [u8] {
        let rest = self.0;
        self.0 = &[];
        rest
    }
}

/// Writes into a slice from its front. What does not fit is refused whole.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// A writer at the start of `out`.
    #[must_use]
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// Bytes written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.out.len() - self.len
    }

    /// Writes `bytes`; false, and nothing written, when they do not fit.
    #[must_use]
    pub fn bytes(&mut self, bytes: &[u8]) -> bool {
        let Some(place) = self.out.get_mut(self.len..self.len + bytes.len()) else { return false };
        place.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }

    /// Writes the minimal form of `value`; false when it does not fit or is over [`VARINT_MAX`].
    #[must_use]
    pub fn varint(&mut self, value: u64) -> bool {
        let bytes = value.to_be_bytes();
        let tagged = |size: usize, tag: u8| {
            let mut form = [0; 8];
            form[..size].copy_from_slice(&bytes[8 - size..]);
            form[0] |= tag << 6;
            form
        };
        match varint_len(value) {
            1 => self.bytes(&tagged(1, 0)[..1]),
            2 => self.bytes(&tagged(2, 1)[..2]),
            4 => self.bytes(&tagged(4, 2)[..4]),
            _ if value <= VARINT_MAX => self.bytes(&tagged(8, 3)),
            _ => false,
        }
    }
}

/// Length of the minimal form of `value`, bytes.
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    quickcheck! {
        fn varint_round_trip(value: u64, shift: u8) -> bool {
            let value = (value & VARINT_MAX) >> (shift % 62);
            let mut out = [0; 8];
            let mut writer = Writer::new(&mut out);
            assert!(writer.varint(value));
            let len = writer.len();
            let mut reader = Reader::new(&out[..len]);
            len == varint_len(value) && reader.varint() == Ok(value) && reader.is_empty()
        }
    }

    #[test]
    fn rfc_9000_examples() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(Reader::new(bytes).varint(), Ok(value));
            assert_eq!(Reader::new(&bytes[..bytes.len() - 1]).varint(), Err(Malformed::Truncated));
        }
        assert!(!Writer::new(&mut [0; 8]).varint(VARINT_MAX + 1));
        assert!(!Writer::new(&mut [0; 1]).varint(64));
    }
}
