//! What a client starts from, what it asks to be done, and what it tells.

use crate::crypto::aead::CipherProvider;
use crate::error::CloseReason;
use crate::id::{ChatId, Epoch, PortId, TransferId};
use crate::limits::KeyLimits;
use crate::ops::FileFailure;
use crate::time::{Duration, UnixMs};
use crate::wire::message::{Chat, ErrorMessage, FileOffer, Presence, ReceiptState, SessionInfo};
use crate::wire::secfile::SecurityFile;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// What a client starts from.
#[derive(Debug)]
pub struct ClientConfig {
    /// The security file, already judged by [`SecurityFile::check_time`].
    pub file: SecurityFile,
    /// What `server_public_ip` stands for.
    pub addresses: Vec<IpAddr>,
    /// A port given by hand overrides all others (SPEC 15.3).
    pub port: Option<u16>,
    /// Connect anew, for ever, once a first session was there.
    pub reconnect: bool,
    /// What one epoch's keys may carry (PROTOCOL 5.1).
    pub key_limits: KeyLimits,
    /// Makes packet ciphers.
    pub provider: &'static dyn CipherProvider,
}

/// A renewed security file to be sealed and stored (PROTOCOL 5.2).
#[derive(Debug)]
pub struct Renewal {
    /// Its content.
    pub content: SecurityFile,
    /// Salt of PBKDF2.
    pub salt: [u8; 32],
    /// IV of AES-256-GCM.
    pub iv: [u8; 12],
}

/// An effect that the driver or its host performs, and answers with one completion.
///
/// Those about the security file are performed in the order in which they were given, and one that is
/// answered as failed was not done, and will not be.
#[derive(Debug)]
pub enum Action {
    /// Make a UDP binding on any port, and name it `port`.
    BindPort {
        /// Its name from now on.
        port: PortId,
    },
    /// Close a binding: nothing is sent to it or read from it any more.
    ClosePort {
        /// Its name.
        port: PortId,
    },
    /// Put this file in place of the present one, whole or not at all, under the same bootstrap key
    /// and open to its owner only.
    StoreSecurityFile {
        /// What to seal.
        renewal: Box<Renewal>,
    },
    /// Overwrite and remove the security file, and all copies that are ours.
    WipeSecurityFiles,
}

/// What happened, for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session is established.
    Connected {
        /// What the server said of it.
        info: SessionInfo,
        /// The sealing epoch.
        epoch: Epoch,
        /// Our wall clock minus the server's when it answered, milliseconds.
        skew_ms: i64,
    },
    /// The session has ended; the client connects anew by itself.
    Disconnected {
        /// Why.
        reason: CloseReason,
        /// Pause before the next attempt.
        retry_in: Duration,
    },
    /// The session, or the attempt at one, has ended for good.
    Closed(CloseReason),
    /// A chat, shown once.
    Chat(Chat),
    /// What became of a chat of ours.
    Receipt {
        /// Which.
        id: ChatId,
        /// What.
        state: ReceiptState,
        /// Who says so.
        by: String,
        /// When.
        at: UnixMs,
    },
    /// A file is offered to us: [`Client::accept_file`](super::Client::accept_file) takes it,
    /// [`Client::cancel_file`](super::Client::cancel_file) refuses it, and without an answer it is
    /// offered again in the next session.
    FileOffered {
        /// Its transfer.
        transfer: TransferId,
        /// What it is.
        offer: FileOffer,
    },
    /// The server takes a file of ours: its SHA-256 is needed
    /// ([`Client::file_digest`](super::Client::file_digest)).
    FileAccepted {
        /// Its transfer.
        transfer: TransferId,
        /// Bytes of it that are there already.
        held: u64,
    },
    /// All of a file has arrived. [`Client::file_checked`](super::Client::file_checked) answers.
    FileComplete {
        /// Its transfer.
        transfer: TransferId,
        /// What it must hash to.
        sha256: [u8; 32],
    },
    /// A transfer has ended: the server has our file, or it failed.
    FileEnded {
        /// Which.
        transfer: TransferId,
        /// How.
        result: Result<(), FileFailure>,
    },
    /// A member's presence.
    Presence(Presence),
    /// All members, and our rooms.
    Roster {
        /// Everybody.
        members: Vec<Presence>,
        /// Rooms we are in.
        rooms: Vec<String>,
    },
    /// The server refused something, and the session goes on.
    Refused(ErrorMessage),
    /// The session is in a new epoch.
    KeysRotated {
        /// Its number.
        epoch: Epoch,
    },
    /// The server has answered a ping ([`Client::ping`](super::Client::ping)).
    Pong {
        /// How long that took, on this machine's clock.
        rtt: Duration,
    },
    /// The security file was renewed, and is stored (PROTOCOL 5.2).
    Renewed {
        /// Last second of its validity, `unix_s`.
        valid_until: u64,
    },
    /// The renewed security file could not be stored: the present one is still good, and the server
    /// sends it again.
    NotRenewed,
    /// The session has moved to another port or address of the server (PROTOCOL 5.2, 6).
    Moved {
        /// Where the server is now.
        remote: SocketAddr,
    },
    /// Messages can be taken again after [`SendError::WindowFull`](crate::error::SendError::WindowFull).
    Writable,
    /// COMPROMISED: all keys in memory are gone, and the security file is being wiped.
    Compromised {
        /// Whether the server raised it.
        by_server: bool,
        /// Whether the other side is known to know.
        acknowledged: bool,
    },
    /// The security file is wiped; `ok` tells whether that succeeded.
    Wiped {
        /// Whether it did.
        ok: bool,
    },
}
