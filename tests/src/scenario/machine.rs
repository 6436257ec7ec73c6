//! The machine under test, server or client, with its actions and events as JSON.

use clawchat_core::client::{self, Client};
use clawchat_core::error::CloseReason;
use clawchat_core::id::{OpId, TransferId};
use clawchat_core::ops::{Chunk, Deadline, FileFailure, Outcome, Want};
use clawchat_core::server::{
    self, Alert, Audit, Credential, CredentialStatus, Resource, Server, StoredChat, StoredFile,
};
use clawchat_core::time::Now;
use clawchat_core::transport::path::{Path, Transmit};
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{Chat, ErrorMessage, FileOffer, Presence, SessionInfo, hex};
use serde_json::{Value, json};

/// The machine under test.
#[derive(Debug)]
pub(super) enum Machine {
    /// A server.
    Server(Box<Server>),
    /// A client.
    Client(Box<Client>),
}

/// The core's JSON as that of the runner.
#[must_use]
pub(super) fn value_of(object: &Object) -> Value {
    serde_json::from_slice(&object.encode()).unwrap_or_default()
}

impl Machine {
    /// Input: a datagram. The bytes of a file that it brought count as an event.
    pub(super) fn handle_datagram(
        &mut self,
        now: Now,
        path: Path,
        datagram: &mut [u8],
    ) -> Option<Value> {
        let chunk = match self {
            Self::Server(server) => server.handle_datagram(now, path, datagram),
            Self::Client(client) => client.handle_datagram(now, path, datagram),
        };
        chunk.map(|Chunk { transfer, offset, bytes }| {
            json!({
                "event": "chunk", "transfer": transfer.0, "offset": offset, "length": bytes.len(),
            })
        })
    }

    /// Input: a deadline may have come.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        match self {
            Self::Server(server) => server.handle_timeout(now),
            Self::Client(client) => client.handle_timeout(now),
        }
    }

    /// Input: an action was completed.
    pub(super) fn handle_completion(&mut self, now: Now, op: OpId, outcome: Outcome) {
        match self {
            Self::Server(server) => server.handle_completion(now, op, outcome),
            Self::Client(client) => client.handle_completion(now, op, outcome),
        }
    }

    /// Output: a datagram.
    pub(super) fn poll_transmit(&mut self, now: Now, out: &mut [u8]) -> Option<Transmit> {
        match self {
            Self::Server(server) => server.poll_transmit(now, out),
            Self::Client(client) => client.poll_transmit(now, out),
        }
    }

    /// Output: bytes of a file that are wanted.
    pub(super) fn file_want(&mut self, now: Now) -> Option<Want> {
        match self {
            Self::Server(server) => server.file_want(now),
            Self::Client(client) => client.file_want(now),
        }
    }

    /// Output: some of those bytes, sealed.
    pub(super) fn send_chunk(
        &mut self,
        now: Now,
        want: &Want,
        len: usize,
        out: &mut [u8],
    ) -> Option<Transmit> {
        let bytes = vec![b' '; len];
        match self {
            Self::Server(server) => server.send_chunk(now, want, &bytes, out),
            Self::Client(client) => client.send_chunk(now, want, &bytes, out),
        }
    }

    /// Output: an action, and the security file in it.
    pub(super) fn poll_action(&mut self) -> Option<(OpId, Value)> {
        match self {
            Self::Server(server) => server.poll_action().map(|(op, act)| (op, server_action(&act))),
            Self::Client(client) => client.poll_action().map(|(op, act)| (op, client_action(&act))),
        }
    }

    /// Output: an event, and the file that is to be checked by it.
    pub(super) fn poll_event(&mut self) -> Option<(Value, Option<StoredFile>)> {
        match self {
            Self::Server(server) => server.poll_event().map(|event| {
                let value = server_event(&event);
                match event {
                    server::Event::FileComplete { file, .. } => (value, Some(file)),
                    _ => (value, None),
                }
            }),
            Self::Client(client) => client.poll_event().map(|event| (client_event(&event), None)),
        }
    }

    /// Output: the next deadline.
    #[must_use]
    pub(super) fn poll_timeout(&mut self) -> Option<Deadline> {
        match self {
            Self::Server(server) => server.poll_timeout(),
            Self::Client(client) => client.poll_timeout(),
        }
    }

    /// What the getters say.
    #[must_use]
    pub(super) fn state(&self) -> Value {
        let reasons = |drops: &mut dyn Iterator<Item = (_, u64)>| -> Value {
            drops
                .map(|(reason, count): (clawchat_core::error::DropReason, u64)| {
                    (reason.name().to_owned(), json!(count))
                })
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        match self {
            Self::Server(server) => json!({
                "sessions": server.sessions().len(),
                "epochs": server.sessions().iter().map(|s| s.epoch.0).collect::<Vec<_>>(),
                "remotes": server.sessions().iter().map(|s| s.remote.to_string()).collect::<Vec<_>>(),
                "port": server.port(),
                "files_kept": server.kept_files().count(),
                "drained": server.is_drained(),
                "waiting": server.members().iter()
                    .map(|m| (m.name.clone(), json!(m.waiting))).collect::<serde_json::Map<_, _>>(),
                "drops": reasons(&mut server.drops()),
            }),
            Self::Client(client) => json!({
                "epoch": client.epoch().map(|epoch| epoch.0),
                "over": client.is_over(),
                "remote": client.path().map(|path| path.remote.to_string()),
                "unreceipted": client.unreceipted(),
                "drops": reasons(&mut client.drops()),
            }),
        }
    }
}

fn credential(credential: &Credential) -> Value {
    let (status, at) = match credential.status {
        CredentialStatus::Accepted => ("accepted", None),
        CredentialStatus::Dying { at } => ("dying", Some(at)),
        CredentialStatus::Retired { since } => ("retired", Some(since)),
    };
    json!({
        "file": credential.file.0, "member": credential.member, "status": status, "at": at,
        "timestamp": credential.timestamp, "carried": credential.carried,
        "valid_until": credential.valid_until, "grace_period": credential.grace_period,
    })
}

fn chat(chat: &Chat) -> Value {
    json!({
        "id": chat.id.to_string(), "from": chat.from, "to": chat.to.to_string(),
        "text": chat.text, "sent_at": chat.sent_at.0,
    })
}

fn stored(stored: &StoredChat) -> Value {
    json!({"chat": chat(&stored.chat), "to": stored.to, "stored_at": stored.stored_at.0})
}

fn server_action(action: &server::Action) -> Value {
    use server::Action as A;
    match action {
        A::BindPort { port, number } => {
            json!({"action": "bind_port", "port": port.0, "number": number})
        }
        A::ClosePort { port } => json!({"action": "close_port", "port": port.0}),
        A::KeepCredentials { file, credentials } => json!({
            "action": "keep_credentials", "file": file.0,
            "credentials": credentials.iter().map(credential).collect::<Vec<_>>(),
        }),
        A::IssueSecurityFile { draft } => json!({
            "action": "issue_security_file", "credential": credential(&draft.credential),
            "content": value_of(&draft.content.to_object()),
        }),
        A::RetireFiles { files } => json!({
            "action": "retire_files", "files": files.iter().map(|file| file.0).collect::<Vec<_>>(),
        }),
        A::StoreChat { stored: what } => json!({"action": "store_chat", "stored": stored(what)}),
        A::ChatDelivered { from, id, by } => {
            json!({"action": "chat_delivered", "from": from, "id": id.to_string(), "by": by})
        }
        A::FileDelivered { from, id, by } => {
            json!({"action": "file_delivered", "from": from, "id": id.to_string(), "by": by})
        }
    }
}

fn client_action(action: &client::Action) -> Value {
    use client::Action as A;
    match action {
        A::BindPort { port } => json!({"action": "bind_port", "port": port.0}),
        A::ClosePort { port } => json!({"action": "close_port", "port": port.0}),
        A::StoreSecurityFile { renewal } => json!({
            "action": "store_security_file", "content": value_of(&renewal.content.to_object()),
        }),
        A::WipeSecurityFiles => json!({"action": "wipe_security_files"}),
    }
}

fn reason(reason: &CloseReason) -> Value {
    match reason {
        CloseReason::Refused { code, message, now } => json!({
            "reason": "refused", "code": code.name(), "message": message,
            "now": now.map(|now| now.0),
        }),
        CloseReason::Ended(code) => json!({"reason": "ended", "code": code.name()}),
        CloseReason::Violated(what) => json!({"reason": "violated", "by": format!("{what:?}")}),
        other => json!({ "reason": other.to_string() }),
    }
}

fn merged(mut event: Value, more: &Value) -> Value {
    if let (Some(fields), Some(more)) = (event.as_object_mut(), more.as_object()) {
        fields.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    event
}

fn server_event(event: &server::Event) -> Value {
    use server::Event as E;
    match event {
        E::Listening { port } => json!({"event": "listening", "port": port}),
        E::PortRotated { from, to } => json!({"event": "port_rotated", "from": from, "to": to}),
        E::NoPort => json!({"event": "no_port"}),
        E::Audit(what) => audit(what),
        E::Alert(what) => alert(what),
        E::Connected { session, member, remote } => json!({
            "event": "connected", "session": session.0, "member": member,
            "remote": remote.to_string(),
        }),
        E::Disconnected { session, member, remote, lasted, sent, received, reason: why } => merged(
            json!({
                "event": "disconnected", "session": session.0, "member": member,
                "remote": remote.to_string(), "lasted_s": lasted.as_secs(), "sent": sent,
                "received": received,
            }),
            &reason(why),
        ),
        E::Chat(what) => merged(json!({"event": "chat"}), &chat(what)),
        E::Compromised { member, by, new_file_ready } => json!({
            "event": "compromised", "member": member, "by": by, "new_file_ready": new_file_ready,
        }),
        E::Signalled { session, member, acknowledged } => json!({
            "event": "signalled", "session": session.0, "member": member,
            "acknowledged": acknowledged,
        }),
        E::KeysRotated { session, member, epoch } => json!({
            "event": "keys_rotated", "session": session.0, "member": member, "epoch": epoch.0,
        }),
        E::FileOffered { transfer, session, offer } => json!({
            "event": "file_offered", "transfer": transfer.0, "session": session.0,
            "offer": file_offer(offer),
        }),
        E::FileComplete { transfer, file } => json!({
            "event": "file_complete", "transfer": transfer.0, "offer": file_offer(&file.offer),
            "sha256": hex(&file.sha256), "to": file.to,
        }),
        E::FileSending { transfer, offer, to, held } => json!({
            "event": "file_sending", "transfer": transfer.0, "offer": file_offer(offer), "to": to,
            "held": held,
        }),
        E::FileEnded { transfer, result } => file_ended(*transfer, result),
    }
}

fn file_offer(offer: &FileOffer) -> Value {
    json!({
        "id": offer.id.to_string(), "name": offer.name, "size": offer.size,
        "to": offer.to.to_string(), "from": offer.from,
    })
}

fn file_ended(transfer: TransferId, result: &Result<(), FileFailure>) -> Value {
    let how = match result {
        Ok(()) => "ok".to_string(),
        Err(FileFailure::Checked(error)) => format!("{error:?}").to_lowercase(),
        Err(FileFailure::Cancelled(reason)) => format!("cancelled: {reason}"),
        Err(FileFailure::Interrupted) => "interrupted".to_string(),
    };
    json!({"event": "file_ended", "transfer": transfer.0, "how": how})
}

fn audit(what: &Audit) -> Value {
    match what {
        Audit::HelloAnswered { member, remote } => json!({
            "event": "hello_answered", "member": member, "remote": remote.to_string(),
        }),
        Audit::HelloRefused { member, remote, code, retired } => json!({
            "event": "hello_refused", "member": member, "remote": remote.to_string(),
            "code": code.name(), "retired_credential": retired,
        }),
        Audit::Dropped { reason, count } => {
            json!({"event": "dropped", "reason": reason.name(), "count": count})
        }
        Audit::PathMoved { session, member, from, to } => json!({
            "event": "path_moved", "session": session.0, "member": member,
            "from": from.to_string(), "to": to.to_string(),
        }),
        Audit::Renewed { file, member, valid_until } => json!({
            "event": "renewed", "file": file.0, "member": member, "valid_until": valid_until,
        }),
        Audit::NotRenewed { file, member } => {
            json!({"event": "not_renewed", "file": file.0, "member": member})
        }
        Audit::NotRetired { file, member } => {
            json!({"event": "not_retired", "file": file.0, "member": member})
        }
        Audit::NotKept { file, member } => {
            json!({"event": "not_kept", "file": file.0, "member": member})
        }
        Audit::SecretRetired { file, member } => {
            json!({"event": "secret_retired", "file": file.0, "member": member})
        }
        Audit::RateLimited { member } => json!({"event": "rate_limited", "member": member}),
        Audit::ChatDropped { from, id, to } => {
            json!({"event": "chat_dropped", "from": from, "id": id.to_string(), "to": to})
        }
    }
}

fn alert(what: &Alert) -> Value {
    match what {
        Alert::PortScan { address, ports } => {
            json!({"event": "port_scan", "address": address.to_string(), "ports": ports})
        }
        Alert::AuthFlood { address } => {
            json!({"event": "auth_flood", "address": address.map(|address| address.to_string())})
        }
        Alert::Anomaly { member, bytes, usual } => {
            json!({"event": "anomaly", "member": member, "bytes": bytes, "usual": usual})
        }
        Alert::Resource { what, used, limit } => {
            let what = match what {
                Resource::Sessions => "sessions",
                Resource::Secrets => "secrets",
                Resource::Actions => "actions",
            };
            json!({"event": "resource", "what": what, "used": used, "limit": limit})
        }
        Alert::Clock { step_ms } => json!({"event": "clock", "step_ms": step_ms}),
    }
}

fn presence(presence: &Presence) -> Value {
    json!({
        "member": presence.member, "status": presence.status.name(), "since": presence.since.0,
    })
}

fn session(info: &SessionInfo) -> Value {
    json!({
        "now": info.now.0, "member": info.member, "server_id": info.server_id,
        "observed": info.observed, "next_rotation": info.next_rotation,
    })
}

fn refused(error: &ErrorMessage) -> Value {
    json!({
        "event": "refused", "code": error.code.name(), "message": error.message,
        "id": error.id.map(|id| id.to_string()),
    })
}

fn client_event(event: &client::Event) -> Value {
    use client::Event as E;
    match event {
        E::Connected { info, epoch, skew_ms } => json!({
            "event": "connected", "session": session(info), "epoch": epoch.0, "skew_ms": skew_ms,
        }),
        E::Disconnected { reason: why, retry_in } => merged(
            json!({"event": "disconnected", "retry_in_ms": retry_in.as_millis()}),
            &reason(why),
        ),
        E::Closed(why) => merged(json!({"event": "closed"}), &reason(why)),
        E::Chat(what) => merged(json!({"event": "chat"}), &chat(what)),
        E::Receipt { id, state, by, at } => json!({
            "event": "receipt", "id": id.to_string(), "state": state.name(), "by": by, "at": at.0,
        }),
        E::Presence(what) => merged(json!({"event": "presence"}), &presence(what)),
        E::Roster { members, rooms } => json!({
            "event": "roster", "members": members.iter().map(presence).collect::<Vec<_>>(),
            "rooms": rooms,
        }),
        E::Refused(error) => refused(error),
        E::KeysRotated { epoch } => json!({"event": "keys_rotated", "epoch": epoch.0}),
        E::Renewed { valid_until } => json!({"event": "renewed", "valid_until": valid_until}),
        E::Pong { .. } => json!({"event": "pong"}),
        E::NotRenewed => json!({"event": "not_renewed"}),
        E::Moved { remote } => json!({"event": "moved", "remote": remote.to_string()}),
        E::FileOffered { transfer, offer } => json!({
            "event": "file_offered", "transfer": transfer.0, "offer": file_offer(offer),
        }),
        E::FileAccepted { transfer, held } => {
            json!({"event": "file_accepted", "transfer": transfer.0, "held": held})
        }
        E::FileComplete { transfer, sha256 } => {
            json!({"event": "file_complete", "transfer": transfer.0, "sha256": hex(sha256)})
        }
        E::FileEnded { transfer, result } => file_ended(*transfer, result),
        E::Writable => json!({"event": "writable"}),
        E::Compromised { by_server, acknowledged } => json!({
            "event": "compromised", "by_server": by_server, "acknowledged": acknowledged,
        }),
        E::Wiped { ok } => json!({"event": "wiped", "ok": ok}),
    }
}
