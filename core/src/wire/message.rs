//! Messages and signals (PROTOCOL 5): JSON objects with a `type`.

mod file;
mod names;

use super::header::PacketType;
use super::json::{Json, Object, base64};
pub use crate::error::ErrorCode;
use crate::error::{Malformed, Violation};
use crate::id::{ChatId, Epoch};
use crate::time::UnixMs;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
pub use file::{FILE_NAME_MAX, FileError, FileMessage, is_file_name};
pub use names::{
    LOBBY, ReceiptState, Recipient, RotationReason, SERVER_MEMBER, Status, VERSION, hex, is_name,
};

/// What the answer to a hello tells the client (PROTOCOL 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The server's wall clock.
    pub now: UnixMs,
    /// The member that the file names.
    pub member: String,
    /// The server's id; must be the file's.
    pub server_id: String,
    /// The server's name.
    pub server_name: String,
    /// The client's address as the server sees it.
    pub observed: String,
    /// Seconds without sending after which a ping goes out.
    pub keepalive: u64,
    /// Seconds without a packet after which the session is dead.
    pub idle_timeout: u64,
    /// When the next port rotation is due, `unix_s`.
    pub next_rotation: u64,
    /// Seconds between rotations.
    pub rotation_interval: u64,
    /// Seconds of grace.
    pub grace_period: u64,
}

/// A chat (PROTOCOL 5.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    /// Chosen by the sender; with `from` it names the chat.
    pub id: ChatId,
    /// Who wrote it; the server sets it.
    pub from: String,
    /// Who it goes to.
    pub to: Recipient,
    /// The text.
    pub text: String,
    /// When it was written, by the sender's clock.
    pub sent_at: UnixMs,
}

/// A member's presence (PROTOCOL 5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Who.
    pub member: String,
    /// How.
    pub status: Status,
    /// Since when.
    pub since: UnixMs,
}

/// An error (PROTOCOL 5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorMessage {
    /// What is wrong.
    pub code: ErrorCode,
    /// The same for a person.
    pub message: String,
    /// Whether it ends the session.
    pub fatal: bool,
    /// The chat or offer that was refused.
    pub id: Option<ChatId>,
    /// The sender's wall clock.
    pub now: Option<UnixMs>,
}

/// Announces another port (PROTOCOL 5.2).
#[derive(Clone, Debug, PartialEq)]
pub struct PortRotation {
    /// The port as seen from outside.
    pub new_port: u16,
    /// When it is read, `unix_s` of the server.
    pub opens_at: u64,
    /// When the old one closes, `unix_s`.
    pub closes_old_at: u64,
    /// When the next one is due, `unix_s`.
    pub next_rotation: u64,
    /// The client's renewed credential, as the content of a security file.
    pub security_file: Option<Object>,
}

/// A message of the channel, or a SIGNAL of the same form.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Server: rotate to this epoch.
    Trigger {
        /// The epoch to go to.
        epoch: Epoch,
        /// Why.
        reason: RotationReason,
    },
    /// Client: its public key for this epoch.
    Offer {
        /// The epoch to go to.
        epoch: Epoch,
        /// X25519 public key.
        public_key: [u8; 32],
        /// In a hello: the server it is for.
        server_id: Option<String>,
    },
    /// Server: its public key for this epoch.
    Answer {
        /// The epoch to go to.
        epoch: Epoch,
        /// X25519 public key.
        public_key: [u8; 32],
        /// In the answer to a hello.
        session: Option<SessionInfo>,
    },
    /// Client: seals under this epoch from here on.
    Switch {
        /// The epoch gone to.
        epoch: Epoch,
    },
    /// Another port.
    PortRotation(PortRotation),
    /// Client: the renewed file with this `timestamp` is safe.
    CredentialStored {
        /// `timestamp` of that file, `unix_s`.
        timestamp: u64,
    },
    /// An error.
    Error(ErrorMessage),
    /// A chat.
    Chat(Chat),
    /// What became of one.
    Receipt {
        /// Which chat.
        id: ChatId,
        /// What.
        state: ReceiptState,
        /// Who says so.
        by: String,
        /// When.
        at: UnixMs,
    },
    /// A member's presence.
    Presence(Presence),
    /// All members, and the rooms of this one.
    Roster {
        /// Everybody.
        members: Vec<Presence>,
        /// Rooms that this member is in.
        rooms: Vec<String>,
    },
    /// About a file transfer.
    File {
        /// Number of the transfer at its sending side.
        transfer: u64,
        /// What.
        what: FileMessage,
    },
}

/// Which side a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server.
    Server,
}

fn name(object: &Object, key: &'static str) -> Result<String, Malformed> {
    let text = object.text(key)?;
    if is_name(text) { Ok(text.to_string()) } else { Err(Malformed::Field(key)) }
}

fn chat_id(object: &Object, key: &'static str) -> Result<ChatId, Malformed> {
    ChatId::parse(object.text(key)?).ok_or(Malformed::Field(key))
}

fn recipient(object: &Object) -> Result<Recipient, Malformed> {
    Recipient::parse(object.text("to")?).ok_or(Malformed::Field("to"))
}

fn ms(object: &Object, key: &'static str) -> Result<UnixMs, Malformed> {
    object.uint(key).map(UnixMs)
}

/// A field that the server writes: from a client it may be missing, and is ignored (PROTOCOL 5).
fn by_server<T: Default>(
    side: Side,
    read: impl FnOnce() -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    match side {
        Side::Server => read(),
        Side::Client => Ok(T::default()),
    }
}

impl Message {
    /// The header type it travels under.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Trigger { .. }
            | Self::Offer { .. }
            | Self::Answer { .. }
            | Self::Switch { .. } => PacketType::KeyRotation,
            Self::PortRotation(_) | Self::CredentialStored { .. } => PacketType::PortRotation,
            Self::Error(_) => PacketType::Error,
            Self::Chat(_) | Self::Receipt { .. } => PacketType::Chat,
            Self::Presence(_) | Self::Roster { .. } => PacketType::Presence,
            Self::File { .. } => PacketType::File,
        }
    }

    /// Reads a message that came from `side` under header type `kind`; `None` for an unknown `type`.
    ///
    /// # Errors
    /// [`Violation::Message`] and [`Violation::MessageSide`].
    pub fn read(bytes: &[u8], kind: PacketType, side: Side) -> Result<Option<Self>, Violation> {
        let object = Object::parse(bytes).map_err(Violation::Message)?;
        Self::from_object(&object, kind, side)
    }

    /// The same for an object that is already parsed.
    ///
    /// # Errors
    /// [`Violation::Message`] and [`Violation::MessageSide`].
    pub fn from_object(
        object: &Object,
        kind: PacketType,
        side: Side,
    ) -> Result<Option<Self>, Violation> {
        // SPEC 8's objects are known types too, and have packet types of their own.
        if matches!(object.text("type"), Ok("compromised" | "compromised_ack")) {
            return Err(Violation::MessageSide);
        }
        let Some(message) = Self::parse(object, side).map_err(Violation::Message)? else {
            return Ok(None);
        };
        if message.packet_type() != kind || !message.may_come_from(side) {
            return Err(Violation::MessageSide);
        }
        Ok(Some(message))
    }

    const fn may_come_from(&self, side: Side) -> bool {
        match (self, side) {
            (
                Self::Trigger { .. }
                | Self::Answer { .. }
                | Self::PortRotation(_)
                | Self::Roster { .. },
                Side::Client,
            )
            | (
                Self::Offer { .. } | Self::Switch { .. } | Self::CredentialStored { .. },
                Side::Server,
            ) => false,
            // `read` is the one receipt that clients send (PROTOCOL 5.4).
            (Self::Receipt { state, .. }, Side::Client) => matches!(state, ReceiptState::Read),
            _ => true,
        }
    }

    fn parse(object: &Object, side: Side) -> Result<Option<Self>, Malformed> {
        Ok(Some(match object.text("type")? {
            "key_rotation" => Self::parse_rotation(object)?,
            "port_rotation" => Self::PortRotation(PortRotation::parse(object)?),
            "credential_stored" => {
                object.expect("version", VERSION)?;
                Self::CredentialStored { timestamp: object.uint("timestamp")? }
            }
            "error" => Self::Error(ErrorMessage {
                code: ErrorCode::from_name(object.text("code")?).ok_or(Malformed::Field("code"))?,
                message: object.text("message")?.to_string(),
                fatal: object.bool("fatal")?,
                id: object.optional("id", chat_id)?,
                now: object.optional("now", ms)?,
            }),
            "chat" => Self::Chat(Chat {
                id: chat_id(object, "id")?,
                from: by_server(side, || name(object, "from"))?,
                to: recipient(object)?,
                text: object.text("text")?.to_string(),
                sent_at: ms(object, "sent_at")?,
            }),
            "receipt" => Self::Receipt {
                id: chat_id(object, "id")?,
                state: ReceiptState::read(object)?,
                by: by_server(side, || name(object, "by"))?,
                at: by_server(side, || ms(object, "at"))?,
            },
            "presence" => Self::Presence(Presence {
                member: by_server(side, || name(object, "member"))?,
                status: Status::read(object)?,
                since: by_server(side, || ms(object, "since"))?,
            }),
            "roster" => Self::parse_roster(object)?,
            other => match FileMessage::parse(other, object, side)? {
                Some(what) => Self::File { transfer: object.uint("transfer")?, what },
                None => return Ok(None),
            },
        }))
    }

    fn parse_rotation(object: &Object) -> Result<Self, Malformed> {
        object.expect("version", VERSION)?;
        let epoch = Epoch(object.uint("epoch")?);
        Ok(match object.text("step")? {
            "trigger" => Self::Trigger { epoch, reason: RotationReason::read(object)? },
            "offer" => Self::Offer {
                epoch,
                public_key: object.bytes("public_key")?,
                server_id: object
                    .optional("server_id", |o, key| o.text(key).map(ToString::to_string))?,
            },
            "answer" => Self::Answer {
                epoch,
                public_key: object.bytes("public_key")?,
                session: object.optional("session", |o, key| SessionInfo::parse(o.object(key)?))?,
            },
            "switch" => Self::Switch { epoch },
            _ => return Err(Malformed::Field("step")),
        })
    }

    fn parse_roster(object: &Object) -> Result<Self, Malformed> {
        let members = object.list("members")?.iter().map(|item| match item {
            Json::Object(item) => Ok(Presence {
                member: name(item, "member")?,
                status: Status::read(item)?,
                since: ms(item, "since")?,
            }),
            _ => Err(Malformed::Field("members")),
        });
        let rooms = object.list("rooms")?.iter().map(|item| match item {
            Json::Text(room) if is_name(room) => Ok(room.clone()),
            _ => Err(Malformed::Field("rooms")),
        });
        Ok(Self::Roster {
            members: members.collect::<Result<_, _>>()?,
            rooms: rooms.collect::<Result<_, _>>()?,
        })
    }

    /// The message as a JSON object.
    #[must_use]
    pub fn to_object(&self) -> Object {
        let typed = |name: &str| Object::new().with("type", name);
        let rotation = |step: &str, epoch: &Epoch| {
            typed("key_rotation").with("version", VERSION).with("step", step).with("epoch", epoch.0)
        };
        match self {
            Self::Trigger { epoch, reason } => {
                rotation("trigger", epoch).with("reason", reason.name())
            }
            Self::Offer { epoch, public_key, server_id } => rotation("offer", epoch)
                .with("public_key", base64(public_key))
                .with_some("server_id", server_id.as_deref()),
            Self::Answer { epoch, public_key, session } => rotation("answer", epoch)
                .with("public_key", base64(public_key))
                .with_some("session", session.as_ref().map(SessionInfo::to_object)),
            Self::Switch { epoch } => rotation("switch", epoch),
            Self::PortRotation(what) => what.write(typed("port_rotation")),
            Self::CredentialStored { timestamp } => {
                typed("credential_stored").with("version", VERSION).with("timestamp", *timestamp)
            }
            Self::Error(error) => typed("error")
                .with("code", error.code.name())
                .with("message", error.message.as_str())
                .with("fatal", error.fatal)
                .with_some("id", error.id.map(|id| id.to_string()))
                .with_some("now", error.now.map(|now| now.0)),
            Self::Chat(chat) => typed("chat")
                .with("id", chat.id.to_string())
                .with_some("from", (!chat.from.is_empty()).then_some(chat.from.as_str()))
                .with("to", chat.to.to_string())
                .with("text", chat.text.as_str())
                .with("sent_at", chat.sent_at.0),
            Self::Receipt { id, state, by, at } => typed("receipt")
                .with("id", id.to_string())
                .with("state", state.name())
                .with_some("by", (!by.is_empty()).then_some(by.as_str()))
                .with("at", at.0),
            Self::Presence(presence) => presence.write(typed("presence")),
            Self::Roster { members, rooms } => typed("roster")
                .with(
                    "members",
                    members.iter().map(|m| m.write(Object::new()).into()).collect::<Vec<Json>>(),
                )
                .with(
                    "rooms",
                    rooms.iter().map(|room| room.as_str().into()).collect::<Vec<Json>>(),
                ),
            Self::File { transfer, what } => what.to_object().with("transfer", *transfer),
        }
    }

    /// The message as JSON bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_object().encode()
    }
}

impl Presence {
    fn write(&self, object: Object) -> Object {
        object
            .with_some("member", (!self.member.is_empty()).then_some(self.member.as_str()))
            .with("status", self.status.name())
            .with("since", self.since.0)
    }
}

impl SessionInfo {
    fn parse(object: &Object) -> Result<Self, Malformed> {
        Ok(Self {
            now: ms(object, "now")?,
            member: name(object, "member")?,
            server_id: object.text("server_id")?.to_string(),
            server_name: object.text("server_name")?.to_string(),
            observed: object.text("observed")?.to_string(),
            keepalive: object.uint("keepalive")?,
            idle_timeout: object.uint("idle_timeout")?,
            next_rotation: object.uint("next_rotation")?,
            rotation_interval: object.uint("rotation_interval")?,
            grace_period: object.uint("grace_period")?,
        })
    }

    fn to_object(&self) -> Object {
        Object::new()
            .with("now", self.now.0)
            .with("member", self.member.as_str())
            .with("server_id", self.server_id.as_str())
            .with("server_name", self.server_name.as_str())
            .with("observed", self.observed.as_str())
            .with("keepalive", self.keepalive)
            .with("idle_timeout", self.idle_timeout)
            .with("next_rotation", self.next_rotation)
            .with("rotation_interval", self.rotation_interval)
            .with("grace_period", self.grace_period)
    }
}

impl PortRotation {
    fn parse(object: &Object) -> Result<Self, Malformed> {
        object.expect("version", VERSION)?;
        let port = u16::try_from(object.uint("new_port")?).ok().filter(|port| *port != 0);
        Ok(Self {
            new_port: port.ok_or(Malformed::Field("new_port"))?,
            opens_at: object.uint("opens_at")?,
            closes_old_at: object.uint("closes_old_at")?,
            next_rotation: object.uint("next_rotation")?,
            security_file: object.optional("security_file", |o, key| o.object(key).cloned())?,
        })
    }

    fn write(&self, object: Object) -> Object {
        object
            .with("version", VERSION)
            .with("new_port", u64::from(self.new_port))
            .with("opens_at", self.opens_at)
            .with("closes_old_at", self.closes_old_at)
            .with("next_rotation", self.next_rotation)
            .with_some("security_file", self.security_file.clone())
    }
}

#[cfg(test)]
mod tests;
