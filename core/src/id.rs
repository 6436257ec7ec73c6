//! Names of things, each a type of its own.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A session of a server, never reused within a process.
    SessionId(u64)
}
id! {
    /// A local binding that the driver made for `Action::BindPort`, never reused within a process.
    PortId(u32)
}
id! {
    /// An action that waits for its completion, never reused within a process.
    OpId(u64)
}
id! {
    /// A security file with its renewals (PROTOCOL 5.1), never reused by a server.
    FileId(u64)
}
id! {
    /// A file transfer, in either direction; never reused within a process.
    TransferId(u64)
}
id! {
    /// A key epoch (PROTOCOL 2.1). 0 authenticates, user data begins with 1.
    Epoch(u64)
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The id of a chat or an offer: 16 bytes, 32 lower-case hex digits on the wire (PROTOCOL 5.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChatId(pub [u8; 16]);

impl ChatId {
    /// Reads 32 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| match digit {
                b'0'..=b'9' => Some(digit - b'0'),
                b'a'..=b'f' => Some(digit - b'a' + 10),
                _ => None,
            });
            *byte = high? << 4 | low?;
        }
        Some(Self(id))
    }
}

impl fmt::Display for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn chat_id_text() {
        let text = "00ff10a5000000000000000000000001";
        assert_eq!(ChatId::parse(text).unwrap().to_string(), text);
        for bad in ["", "00FF10a5000000000000000000000001", "0", "g0ff10a5000000000000000000000001"]
        {
            assert!(ChatId::parse(bad).is_none());
        }
    }
}
