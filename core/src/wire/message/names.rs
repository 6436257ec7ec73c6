//! The words and names that messages are made of (PROTOCOL 5).

use crate::error::Malformed;
use crate::wire::json::Object;
use alloc::string::{String, ToString};

/// `version` of rotation messages and signals.
pub const VERSION: &str = "2.0";
/// The reserved member: the server itself, its operator and its agent (PROTOCOL 5).
pub const SERVER_MEMBER: &str = "server";
/// The room that every member is in (PROTOCOL 5.5).
pub const LOBBY: &str = "lobby";

/// Whether `name` may name a member or a room (PROTOCOL 5).
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// Who a chat or a file goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recipient {
    /// `#name`
    Room(String),
    /// `@name`
    Member(String),
}

impl Recipient {
    /// Reads `#room` or `@member`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.get(1..).filter(|name| is_name(name))?.to_string();
        match text.as_bytes().first()? {
            b'#' => Some(Self::Room(name)),
            b'@' => Some(Self::Member(name)),
            _ => None,
        }
    }
}

impl core::fmt::Display for Recipient {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Room(name) => write!(f, "#{name}"),
            Self::Member(name) => write!(f, "@{name}"),
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $field:literal: $($(#[$vdoc:meta])* $variant:ident = $word:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// The word on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            pub(super) fn read(object: &Object) -> Result<Self, Malformed> {
                match object.text($field)? {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(Malformed::Field($field)),
                }
            }
        }
    };
}

words! {
    /// Why the server triggers a key rotation (PROTOCOL 5.1).
    RotationReason, "reason":
    /// The interval is over.
    Interval = "interval",
    /// 1 GB was sealed and opened.
    Data = "data",
    /// The operator asked.
    Operator = "operator",
    /// Another member raised COMPROMISED.
    Emergency = "emergency",
}

words! {
    /// What became of a chat (PROTOCOL 5.4).
    ReceiptState, "state":
    /// Safe with the server.
    Stored = "stored",
    /// Acknowledged by a recipient.
    Delivered = "delivered",
    /// Read by a recipient.
    Read = "read",
}

words! {
    /// Presence of a member (PROTOCOL 5.5).
    Status, "status":
    /// Has an established session.
    Online = "online",
    /// Online, but not attending.
    Away = "away",
    /// Has none.
    Offline = "offline",
}

/// Lower-case hex of bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use core::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ok = write!(text, "{byte:02x}");
        text
    })
}
