//! What an operator asks of a server.

use super::{Action, Credential, CredentialStatus, SecurityFileDraft, Server, Waits};
use crate::crypto::derive::ConnectionId;
use crate::error::SendError;
use crate::id::{Epoch, FileId, OpId, SessionId};
use crate::time::{Duration, Now, UnixMs};
use crate::wire::message::{ErrorCode, Recipient, RotationReason, SERVER_MEMBER, Status, is_name};
use crate::wire::secfile::SecurityFile;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;

/// How long a hand-carried file is valid by default, seconds (SPEC 6.2).
pub const VALID_FOR: u64 = 3600;
/// How long a renewed file is valid by default, seconds: 30 days (PROTOCOL 5.2).
pub const RENEWAL_VALID_FOR: u64 = 30 * 86_400;
/// How long a hello is repeated (SPEC 6.2), seconds.
const HOLE_PUNCH_TIMEOUT: u64 = 60;
/// How long a compromised signal waits for its ack (SPEC 6.2), seconds.
const RESPONSE_TIMEOUT: u64 = 10;

/// Why a security file can't be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssueError {
    /// The name is not of `[a-z0-9._-]{1,64}`, or is reserved.
    Name,
    /// No port is bound, so no file could say where the server is.
    NoPort,
    /// As many files as a server accepts are out.
    TooMany,
}

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a member's name is 1 to 64 of a-z 0-9 . _ - and not `server`",
            Self::NoPort => "no port is known",
            Self::TooMany => "1000 security files are out; retire some first",
        })
    }
}

impl core::error::Error for IssueError {}

/// A member, as `members` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Whether it is online.
    pub status: Status,
    /// Since when.
    pub since: UnixMs,
    /// Files that are accepted.
    pub files: usize,
    /// Chat waiting for it.
    pub waiting: usize,
}

/// A session, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// Which.
    pub id: SessionId,
    /// Whose.
    pub member: String,
    /// Which security file it began with.
    pub file: FileId,
    /// Its connection id (PROTOCOL 2.4), as both sides know it.
    pub connection_id: ConnectionId,
    /// The client's address.
    pub remote: SocketAddr,
    /// The sealing epoch.
    pub epoch: Epoch,
    /// How many epochs there are keys of: at most three (PROTOCOL 5.1).
    pub epochs_held: usize,
    /// When it was established.
    pub since: UnixMs,
    /// Round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Probe timeout, without back-off (RFC 9002 6.2.1).
    pub pto: Duration,
}

impl Server {
    /// Command: issues a security file to a member, which is made if it is new.
    ///
    /// The file counts once the action is completed.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue(
        &mut self,
        now: Now,
        member: &str,
        rooms: &[String],
        valid_for: u64,
    ) -> Result<OpId, IssueError> {
        if !is_name(member) || member == SERVER_MEMBER {
            return Err(IssueError::Name);
        }
        let draft = self.draft(now, member, valid_for)?;
        if !self.hub.has_member(member) {
            self.hub.set_member(member, rooms, now);
        }
        let kept = draft.credential.duplicate();
        let action = Action::IssueSecurityFile { draft };
        self.ops.start(now.mono, action, Waits::Issue(kept)).map_err(|_| IssueError::TooMany)
    }

    pub(super) fn draft(
        &mut self,
        now: Now,
        member: &str,
        valid_for: u64,
    ) -> Result<Box<SecurityFileDraft>, IssueError> {
        let server_udp_port = self.ports.number().ok_or(IssueError::NoPort)?;
        if !self.credentials.has_room() {
            return Err(IssueError::TooMany);
        }
        let timestamp = now.wall.secs();
        let secret = self.random.private.secret::<32>();
        let credential = Credential {
            file: self.credentials.fresh_id(&mut self.random.public),
            member: member.to_string(),
            secret: secret.duplicate(),
            timestamp,
            carried: true,
            status: CredentialStatus::Accepted,
            valid_until: timestamp.saturating_add(valid_for),
            grace_period: self.timing.grace,
            response_timeout: RESPONSE_TIMEOUT,
        };
        let content = SecurityFile {
            server_id: self.server_id.clone(),
            server_name: self.server_name.clone(),
            server_public_ip: self.public.clone(),
            server_udp_port,
            shared_secret: secret,
            bootstrap_key_id: alloc::format!("bootstrap-{member}"),
            timestamp,
            valid_from: timestamp,
            valid_until: credential.valid_until,
            next_rotation: self.ports.next_rotation(now.wall),
            grace_period: self.timing.grace,
            stun_servers: Vec::new(),
            hole_punch_timeout: HOLE_PUNCH_TIMEOUT,
            port_schedule: self.ports.schedule().map(|schedule| schedule.duplicate()),
            response_timeout: RESPONSE_TIMEOUT,
        };
        let (salt, iv) = (self.random.public.array(), self.random.public.array());
        Ok(Box::new(SecurityFileDraft { credential, content, salt, iv }))
    }

    /// Command: rotates the keys of a member's sessions, or of all; how many were asked.
    pub fn rotate_keys(&mut self, now: Now, member: Option<&str>) -> usize {
        let asked = |entry: &super::Entry| {
            entry.established.is_some() && member.is_none_or(|name| *entry.member == *name)
        };
        let ids: Vec<_> =
            self.sessions.iter().filter(|(_, e)| asked(e)).map(|(id, _)| id).collect();
        ids.into_iter()
            .filter(|id| {
                let rotated = self.with_session(now, *id, |session, cx| {
                    session.rotate(cx, RotationReason::Operator)
                });
                // One that is under way serves as well.
                matches!(rotated, Some(Ok(()) | Err(SendError::Busy)))
            })
            .count()
    }

    /// Command: tells every client `shutdown` and takes no more sessions. Drained once
    /// [`Self::is_drained`].
    pub fn shut_down(&mut self, now: Now) {
        self.closing = true;
        let ids: Vec<_> = self.sessions.iter().map(|(id, _)| id).collect();
        for id in ids {
            let established = self.sessions.get(id).is_some_and(|e| e.established.is_some());
            if established {
                self.end(now, id, ErrorCode::Shutdown, "the server is shutting down");
            } else {
                self.with_session(now, id, |session, _| {
                    if session.is_half_open() {
                        session.discard();
                    }
                });
            }
        }
    }

    /// Getter: whether a shutdown has said all it had to say.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.closing && self.sessions.len() == 0
    }

    /// Getter: all members.
    #[must_use]
    pub fn members(&self) -> Vec<MemberStatus> {
        let status = |name: &str| {
            let presence = self.hub.presence(name)?;
            let (status, since) = (presence.status, presence.since);
            let files = self.credentials.count_of(name);
            let waiting = self.hub.waiting(name);
            Some(MemberStatus { name: name.to_string(), status, since, files, waiting })
        };
        self.hub.names().filter_map(status).collect()
    }

    /// Getter: whom something of the server itself is for; `None` for nobody that there is. The server is
    /// nobody here: what it sent itself would wait for ever.
    #[must_use]
    pub fn recipients(&self, to: &Recipient) -> Option<Vec<String>> {
        let mut names = self.hub.recipients(SERVER_MEMBER, to)?;
        names.retain(|name| name != SERVER_MEMBER);
        (!names.is_empty()).then_some(names)
    }

    /// Getter: all established sessions, the oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionStatus> {
        let status = |(id, entry): (SessionId, &super::Entry)| {
            Some(SessionStatus {
                id,
                member: entry.member.to_string(),
                file: entry.secret.file,
                connection_id: entry.session.connection_id(),
                remote: entry.session.path().remote,
                epoch: entry.session.epoch()?,
                epochs_held: entry.session.epochs_held(),
                since: entry.established?.wall,
                rtt: entry.session.rtt(),
                pto: entry.session.pto(),
            })
        };
        let mut all: Vec<_> = self.sessions.iter().filter_map(status).collect();
        all.sort_unstable_by_key(|status| status.id);
        all
    }

    /// Getter: the port clients are told, once one is bound or tried.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.ports.number()
    }

    /// Getter: all ports that are read: the present one, and those before it until they close.
    #[must_use]
    pub fn open_ports(&self) -> Vec<u16> {
        self.ports.open().collect()
    }

    /// Getter: when the next rotation is due, `unix_s`.
    #[must_use]
    pub fn next_rotation(&self, now: Now) -> u64 {
        self.ports.next_rotation(now.wall)
    }

    /// Getter: most established sessions.
    #[must_use]
    pub const fn max_sessions(&self) -> usize {
        self.max_sessions
    }

    /// Getter: whether a file is accepted at this time, `unix_s`.
    #[must_use]
    pub fn accepts(&self, file: FileId, unix_s: u64) -> bool {
        self.credentials.iter().any(|c| c.file == file && c.is_valid(unix_s))
    }
}
