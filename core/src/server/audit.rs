//! What an operator should be able to look up later, and what should wake one (SPEC 11.3, 11.4).

use crate::error::{DropReason, ErrorCode};
use crate::id::{ChatId, FileId, SessionId};
use alloc::string::String;
use core::net::{IpAddr, SocketAddr};

/// A security event beyond those of sessions, keys and ports, which have events of their own. Never
/// one a packet: what a stranger can cause is counted and told once a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    /// A hello was answered (PROTOCOL 5.1).
    HelloAnswered {
        /// Whose file it was made with.
        member: String,
        /// Where it came from.
        remote: SocketAddr,
    },
    /// A hello was refused (PROTOCOL 5.1 steps 3 and 4).
    HelloRefused {
        /// Whose file it was made with.
        member: String,
        /// Where it came from.
        remote: SocketAddr,
        /// How.
        code: ErrorCode,
        /// Its secret is retired: someone has an old copy of the file (`retired_credential`).
        retired: bool,
    },
    /// Datagrams dropped in silence since the last such event.
    Dropped {
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
    },
    /// A client's address or port changed, and was validated (PROTOCOL 6).
    PathMoved {
        /// Which session.
        session: SessionId,
        /// Whose.
        member: String,
        /// The address before.
        from: SocketAddr,
        /// The address now.
        to: SocketAddr,
    },
    /// A file has a renewed secret, which its client was sent (PROTOCOL 5.2).
    Renewed {
        /// Which file.
        file: FileId,
        /// Whose.
        member: String,
        /// Last second of its validity, `unix_s`.
        valid_until: u64,
    },
    /// A file could not be renewed: too many secrets are accepted, or it could not be made durable.
    NotRenewed {
        /// Which file.
        file: FileId,
        /// Whose.
        member: String,
    },
    /// The retirement of a file (PROTOCOL 7) is not durable: it meets silence now, but a restart would
    /// accept it. Tried again each minute until it is.
    NotRetired {
        /// Which file.
        file: FileId,
        /// Whose.
        member: String,
    },
    /// What is kept of a file's secrets could not be made durable: a restart would go by what was
    /// before. Tried again each minute; told once.
    NotKept {
        /// Which file.
        file: FileId,
        /// Whose.
        member: String,
    },
    /// A secret is no longer accepted (PROTOCOL 5.2).
    SecretRetired {
        /// Which file.
        file: FileId,
        /// Whose.
        member: String,
    },
    /// A member sends more than 20 chats a second; told once a minute.
    RateLimited {
        /// Who.
        member: String,
    },
    /// A chat was not delivered within 7 days, or made way for newer ones (PROTOCOL 5.4).
    ChatDropped {
        /// Its author.
        from: String,
        /// Its id.
        id: ChatId,
        /// Who did not get it.
        to: String,
    },
}

/// A condition that should be told to a person at once (SPEC 11.4). Each is told once, and again only
/// when it was over meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// Datagrams that nothing opens came from many ports of one address within a minute.
    PortScan {
        /// The address; it may be forged.
        address: IpAddr,
        /// Distinct ports.
        ports: usize,
    },
    /// Datagrams that no key fits used up a budget (PROTOCOL 3), or hellos that of their file (PROTOCOL
    /// 5.1).
    AuthFlood {
        /// The address whose budget it was, which may be forged; `None` for that of all together.
        address: Option<IpAddr>,
    },
    /// A member's traffic is far from its usual.
    Anomaly {
        /// Who.
        member: String,
        /// Bytes in the last minute, both directions.
        bytes: u64,
        /// Bytes of a usual minute.
        usual: u64,
    },
    /// Something is nearly used up.
    Resource {
        /// What.
        what: Resource,
        /// How much of it is in use.
        used: usize,
        /// How much there is.
        limit: usize,
    },
    /// The wall clock was set: ports follow it (PROTOCOL 5.2).
    Clock {
        /// By how much, milliseconds.
        step_ms: i64,
    },
}

/// What can be used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Established sessions (SPEC 11.2).
    Sessions,
    /// Accepted secrets (PROTOCOL 3).
    Secrets,
    /// Actions under way.
    Actions,
}
