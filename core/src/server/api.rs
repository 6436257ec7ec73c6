//! What a server starts from, what it asks to be done, and what it tells.

use super::audit::{Alert, Audit};
use super::credentials::{Credential, SecurityFileDraft};
use super::files::StoredFile;
use super::hub::StoredChat;
use super::ports::{PortChoice, Timing};
use crate::crypto::aead::CipherProvider;
use crate::error::CloseReason;
use crate::id::{ChatId, Epoch, FileId, PortId, SessionId, TransferId};
use crate::limits::KeyLimits;
use crate::ops::FileFailure;
use crate::time::Duration;
use crate::wire::message::{Chat, FileOffer};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// A member and the rooms it is in beside the lobby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its rooms.
    pub rooms: Vec<String>,
}

/// What a server starts from: its configuration, and what it had made durable.
#[derive(Debug)]
pub struct ServerConfig {
    /// The server's id, as its security files name it.
    pub server_id: String,
    /// The server's name, for people.
    pub server_name: String,
    /// Address or host name that clients find it under.
    pub public: String,
    /// How its port is chosen.
    pub port: PortChoice,
    /// How often keys and port rotate (SPEC 7.1).
    pub timing: Timing,
    /// What one epoch's keys may carry (PROTOCOL 5.1).
    pub key_limits: KeyLimits,
    /// How long a renewed security file is valid, seconds: the longest sleep without carrying a file
    /// by hand (PROTOCOL 5.2).
    pub renewal_valid_for: u64,
    /// Everybody who may connect.
    pub members: Vec<Member>,
    /// Secrets of the files it issued.
    pub credentials: Vec<Credential>,
    /// Chat not yet delivered, oldest first; with no recipient left only its id counts.
    pub chats: Vec<StoredChat>,
    /// Files that are kept for members, oldest first.
    pub files: Vec<StoredFile>,
    /// Most established sessions (SPEC 11.2).
    pub max_sessions: usize,
    /// Makes packet ciphers.
    pub provider: &'static dyn CipherProvider,
}

/// An effect that the driver or its host performs, and answers with one completion.
///
/// Those about one file are performed in the order in which they were given, and one that is
/// answered as failed was not done, and will not be.
#[derive(Debug)]
pub enum Action {
    /// Listen on UDP port `number`, and name the binding `port`.
    BindPort {
        /// Its name from now on.
        port: PortId,
        /// The port number.
        number: u16,
    },
    /// Close a binding: nothing is sent to it or read from it any more.
    ClosePort {
        /// Its name.
        port: PortId,
    },
    /// Make durable that these, and no others, are the secrets of a file: of what is no longer among
    /// them nothing is kept. An empty list forgets the file.
    KeepCredentials {
        /// Which file.
        file: FileId,
        /// Its secrets, oldest first.
        credentials: Vec<Credential>,
    },
    /// Keep the credential, then seal the file and write it.
    IssueSecurityFile {
        /// What to keep and to seal.
        draft: Box<SecurityFileDraft>,
    },
    /// Make durable that these files are no longer accepted, wiping all that is kept of them.
    RetireFiles {
        /// Which.
        files: Vec<FileId>,
    },
    /// Make a chat durable.
    StoreChat {
        /// The chat and who it is for.
        stored: Box<StoredChat>,
    },
    /// Note, in its own time, that a member has a chat.
    ChatDelivered {
        /// Author of the chat.
        from: String,
        /// Its id.
        id: ChatId,
        /// Who has it.
        by: String,
    },
    /// Note, in its own time, that a member has a file or wants it no more; what is kept for nobody any
    /// more may go.
    FileDelivered {
        /// Who sent it.
        from: String,
        /// Its id.
        id: ChatId,
        /// Who has it.
        by: String,
    },
}

/// What happened, for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server listens on this port.
    Listening {
        /// The port number.
        port: u16,
    },
    /// The server has moved to another port (PROTOCOL 5.2).
    PortRotated {
        /// The port it was on.
        from: u16,
        /// The port it is on.
        to: u16,
    },
    /// No port could be bound: the server stays where it is, if it is anywhere, and tries again in a
    /// minute.
    NoPort,
    /// For the audit log.
    Audit(Audit),
    /// For a person.
    Alert(Alert),
    /// A member's session is established.
    Connected {
        /// Which session.
        session: SessionId,
        /// Whose.
        member: String,
        /// From where.
        remote: SocketAddr,
    },
    /// An established session has ended.
    Disconnected {
        /// Which session.
        session: SessionId,
        /// Whose.
        member: String,
        /// From where.
        remote: SocketAddr,
        /// How long it lasted.
        lasted: Duration,
        /// Bytes of datagrams sealed.
        sent: u64,
        /// Bytes of datagrams opened.
        received: u64,
        /// Why.
        reason: CloseReason,
    },
    /// A chat is durable, and on its way.
    Chat(Chat),
    /// A member offers a file: [`Server::accept_file`](super::Server::accept_file) takes it,
    /// [`Server::cancel_file`](super::Server::cancel_file) refuses it.
    FileOffered {
        /// Its transfer.
        transfer: TransferId,
        /// In which session.
        session: SessionId,
        /// What it is.
        offer: FileOffer,
    },
    /// All of a member's file has arrived. [`Server::file_checked`](super::Server::file_checked) answers,
    /// with `file` once it is right and durable.
    FileComplete {
        /// Its transfer.
        transfer: TransferId,
        /// What it must be.
        file: StoredFile,
    },
    /// A member takes a file that is kept for it: its bytes will be wanted.
    FileSending {
        /// Its transfer.
        transfer: TransferId,
        /// What it is.
        offer: FileOffer,
        /// Who takes it.
        to: String,
        /// Bytes of it that the member has.
        held: u64,
    },
    /// A transfer that the host knows of has ended: by the peer, with its session, or since another one has
    /// brought the same file.
    FileEnded {
        /// Which.
        transfer: TransferId,
        /// How.
        result: Result<(), FileFailure>,
    },
    /// COMPROMISED was raised for a member.
    Compromised {
        /// Whose keys.
        member: String,
        /// Who raised it: the member, or `server`.
        by: String,
        /// Whether the retirement is durable and the replacement file written.
        new_file_ready: bool,
    },
    /// Our signal to a session is through with.
    Signalled {
        /// Which session.
        session: SessionId,
        /// Whose.
        member: String,
        /// Whether the client acknowledged it.
        acknowledged: bool,
    },
    /// A session is in a new epoch.
    KeysRotated {
        /// Which session.
        session: SessionId,
        /// Whose.
        member: String,
        /// Its epoch.
        epoch: Epoch,
    },
}
