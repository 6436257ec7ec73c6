//! Three questions, three kinds of answer: is it well formed ([`Malformed`]), did the peer keep the
//! rules ([`Violation`]), did the caller ([`SendError`])? And why a session ended ([`CloseReason`]) or
//! a datagram was dropped ([`DropReason`]).

use crate::time::UnixMs;
use alloc::string::String;
use core::fmt;

/// Bytes that are no value of the format they should be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The input ends inside a value.
    Truncated,
    /// A frame tag outside the table of PROTOCOL 4.
    UnknownTag,
    /// PADDING that is not zero to the end.
    Padding,
    /// ACK ranges that run below zero or are more than 64.
    AckRanges,
    /// A message fragment outside its total, empty, or of a total outside 1..65,536.
    Fragment,
    /// A CHUNK with no byte, or that runs past the largest offset.
    Chunk,
    /// Not one JSON object in UTF-8, a duplicate key, or a number outside ±(2^53-1).
    Json,
    /// A JSON field that is missing, ill-typed or out of range; its name.
    Field(&'static str),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("ends inside a value"),
            Self::UnknownTag => f.write_str("unknown frame tag"),
            Self::Padding => f.write_str("padding is not zero"),
            Self::AckRanges => f.write_str("bad ACK ranges"),
            Self::Fragment => f.write_str("bad message fragment"),
            Self::Chunk => f.write_str("bad file chunk"),
            Self::Json => f.write_str("not a strict JSON object"),
            Self::Field(name) => write!(f, "field `{name}` is missing or wrong"),
        }
    }
}

impl core::error::Error for Malformed {}

/// A rule that an authenticated peer broke. It ends the session with the fatal error `protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The plaintext is not a sequence of frames (PROTOCOL 4).
    Frames(Malformed),
    /// A frame that its header type may not hold (PROTOCOL 4).
    FrameInType,
    /// An ACK of a sequence number never sent (PROTOCOL 4).
    AckUnsent,
    /// A message is not as PROTOCOL 5 says.
    Message(Malformed),
    /// A known message type under another header type, or from the wrong side (PROTOCOL 5).
    MessageSide,
    /// Fragments of one message that disagree in total, type or bytes (PROTOCOL 4.1).
    FragmentsDisagree,
    /// Past the message window: 64 ids, 1 MiB or 256 pieces (PROTOCOL 4.1).
    MessageWindow,
    /// A rotation step out of turn, or for an epoch that is not next (PROTOCOL 5.1).
    RotationStep,
    /// An X25519 result of zero (PROTOCOL 2.1).
    ZeroSharedSecret,
    /// A CHUNK of a transfer never accepted (PROTOCOL 5.6).
    UnknownTransfer,
    /// A CHUNK past the size or the limit of its file (PROTOCOL 5.6).
    ChunkPastLimit,
    /// More than 16 offers unanswered (PROTOCOL 5.6).
    TooManyOffers,
    /// A file message out of turn, or for a transfer that does not exist (PROTOCOL 5.6).
    TransferStep,
    /// A compromised signal or its ack with a wrong signature or field (PROTOCOL 7).
    BadSignal,
    /// A key rotation that was due or asked for was not complete in 300 s (PROTOCOL 5.1).
    RotationOverdue,
    /// It makes us owe more answers than it acknowledges.
    Backlog,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(what) => write!(f, "malformed frame: {what}"),
            Self::FrameInType => f.write_str("frame not allowed in this packet type"),
            Self::AckUnsent => f.write_str("acknowledged a packet that was never sent"),
            Self::Message(what) => write!(f, "malformed message: {what}"),
            Self::MessageSide => f.write_str("message under a wrong type or from the wrong side"),
            Self::FragmentsDisagree => f.write_str("fragments of a message disagree"),
            Self::MessageWindow => f.write_str("past the message window"),
            Self::RotationStep => f.write_str("key rotation step out of turn"),
            Self::ZeroSharedSecret => f.write_str("key agreement gave zero"),
            Self::UnknownTransfer => f.write_str("data of a file transfer never accepted"),
            Self::ChunkPastLimit => f.write_str("data past the size or limit of its file"),
            Self::TooManyOffers => f.write_str("more than 16 file offers unanswered"),
            Self::TransferStep => f.write_str("message about an unknown file transfer"),
            Self::BadSignal => f.write_str("compromised signal with a wrong signature or field"),
            Self::RotationOverdue => f.write_str("key rotation not completed in time"),
            Self::Backlog => f.write_str("too many unacknowledged answers"),
        }
    }
}

impl core::error::Error for Violation {}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Codes of errors (PROTOCOL 5.3).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// The word on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The code of a word.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// The clocks differ by more than 300 s.
    ClockSkew = "clock_skew",
    /// The secret is retired or too old.
    Expired = "expired",
    /// No free place.
    ServerFull = "server_full",
    /// Too many messages.
    RateLimited = "rate_limited",
    /// An unknown member, or a room that the sender is not in.
    NoRecipient = "no_recipient",
    /// A newer session of the same file.
    Superseded = "superseded",
    /// The peer broke a rule.
    Protocol = "protocol",
    /// The server stops.
    Shutdown = "shutdown",
    /// Anything else on the sender's side.
    Internal = "internal",
}

/// Why the application's request was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No such session, or it is ending.
    Closed,
    /// Too much is under way; wait for `Event::Writable`.
    WindowFull,
    /// The text, with its envelope, is over 65,536 bytes, or empty.
    Size,
    /// The recipient is no `#room` or `@member` of `[a-z0-9._-]{1,64}`.
    Recipient,
    /// The key rotation before this one is not finished, or a file was taken already.
    Busy,
    /// The name of the file is not one that receivers take (PROTOCOL 5.6).
    Name,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "there is no session",
            Self::WindowFull => "too many messages under way",
            Self::Size => "the text is empty or too long",
            Self::Recipient => "the recipient must be #room or @member",
            Self::Busy => "a key rotation is under way",
            Self::Name => "receivers take no file of this name",
        })
    }
}

impl core::error::Error for SendError {}

/// Why a session, or the attempt at one, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Either side said goodbye (PROTOCOL 5.5).
    Goodbye,
    /// No packet for 60 s (PROTOCOL 6).
    Idle,
    /// No answer to the hello within `hole_punch_timeout` (PROTOCOL 5.1).
    Unreachable,
    /// The peer sent a fatal error (PROTOCOL 5.3).
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its text, free of control characters.
        message: String,
        /// The peer's clock, where it told it.
        now: Option<UnixMs>,
    },
    /// We sent a fatal error with this code.
    Ended(ErrorCode),
    /// We sent the fatal error `protocol`.
    Violated(Violation),
    /// Its keys were too old, or had sealed and opened too much, to go on with (PROTOCOL 5.1).
    KeysWorn,
    /// COMPROMISED ended it (PROTOCOL 7).
    Wiped,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goodbye => f.write_str("goodbye"),
            Self::Idle => f.write_str("idle"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Refused { code, .. } | Self::Ended(code) => f.write_str(code.name()),
            Self::Violated(_) => f.write_str("protocol"),
            Self::KeysWorn => f.write_str("keys worn out"),
            Self::Wiped => f.write_str("compromised"),
        }
    }
}

/// Why a datagram was dropped in silence (PROTOCOL 3, 5.1); counted, never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Length, version, type or padding (opening step 1).
    Header,
    /// No key fits (step 2).
    NoKey,
    /// The budget for key trials is used up.
    Budget,
    /// The IV is not the derived one (step 3).
    Iv,
    /// Seen before or too old (step 4).
    Replay,
    /// GCM did not open (step 5).
    Tag,
    /// A hello that is stale, replayed, over budget or for another server (PROTOCOL 5.1).
    Hello,
    /// A frame of epoch 0 that is not the one expected.
    EpochZero,
    /// From another address than this peer may use.
    Address,
    /// The session is ending and takes nothing more.
    Ending,
    /// At a port that is not open yet, or no longer (PROTOCOL 5.2).
    Port,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 11] = [
        Self::Header,
        Self::NoKey,
        Self::Budget,
        Self::Iv,
        Self::Replay,
        Self::Tag,
        Self::Hello,
        Self::EpochZero,
        Self::Address,
        Self::Ending,
        Self::Port,
    ];

    /// Its name in statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::NoKey => "no_key",
            Self::Budget => "budget",
            Self::Iv => "iv",
            Self::Replay => "replay",
            Self::Tag => "tag",
            Self::Hello => "hello",
            Self::EpochZero => "epoch_zero",
            Self::Address => "address",
            Self::Ending => "ending",
            Self::Port => "port",
        }
    }
}
