//! What the server tells of its events, to programs and to people.

use crate::text::{event, moment, one_line};
use clawchat_core::server::{Alert, Audit, Event, Resource};
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{Recipient, SERVER_MEMBER};

/// What is for the audit log, as a JSON object; a person at a terminal looks it up when it matters.
pub(super) fn audit(what: &Audit) -> Object {
    let of = |kind: &str, member: &str| event("audit").with("kind", kind).with("member", member);
    match what {
        Audit::HelloAnswered { member, remote } => {
            of("hello_answered", member).with("remote", remote.to_string())
        }
        Audit::HelloRefused { member, remote, code, retired } => of("hello_refused", member)
            .with("remote", remote.to_string())
            .with("code", code.name())
            .with("retired_credential", *retired),
        Audit::Dropped { reason, count } => event("audit")
            .with("kind", "dropped")
            .with("reason", reason.name())
            .with("count", *count),
        Audit::PathMoved { session, member, from, to } => of("endpoint_changed", member)
            .with("session", session.0)
            .with("from", from.to_string())
            .with("to", to.to_string()),
        Audit::Renewed { file, member, valid_until } => {
            of("sec_renewed", member).with("file", file.0).with("valid_until", moment(*valid_until))
        }
        Audit::NotRenewed { file, member } => of("sec_not_renewed", member).with("file", file.0),
        Audit::SecretRetired { file, member } => of("sec_retired", member).with("file", file.0),
        Audit::RateLimited { member } => of("rate_limited", member),
        Audit::ChatDropped { from, id, to } => {
            of("chat_dropped", to).with("from", from.as_str()).with("id", id.to_string())
        }
    }
}

/// What should wake somebody.
fn alert(what: &Alert) -> (Object, String) {
    let of = |kind: &str| event("alert").with("kind", kind);
    match what {
        Alert::PortScan { address, ports } => (
            of("port_scan").with("address", address.to_string()).with("ports", *ports as u64),
            format!("alert: {address} tries port after port ({ports} within a minute)"),
        ),
        Alert::AuthFlood { address } => {
            let address = address.map(|address| address.to_string());
            let who = address.as_deref().unwrap_or("the network");
            let line = format!("alert: a flood of datagrams that no key fits, from {who}");
            (of("auth_flood").with_some("address", address.as_deref()), line)
        }
        Alert::Anomaly { member, bytes, usual } => (
            of("anomaly")
                .with("member", member.as_str())
                .with("bytes", *bytes)
                .with("usual", *usual),
            format!("alert: {member} moved {bytes} bytes in a minute, usually {usual}"),
        ),
        Alert::Resource { what, used, limit } => {
            let what = match what {
                Resource::Sessions => "sessions",
                Resource::Secrets => "secrets",
                Resource::Actions => "actions",
            };
            let (used, limit) = (*used as u64, *limit as u64);
            let object = of("resource").with("what", what).with("used", used).with("limit", limit);
            (object, format!("alert: {used} of {limit} {what} are in use"))
        }
        Alert::Clock { step_ms } => (
            of("clock").with("step_ms", clawchat_core::wire::json::Json::Int(*step_ms)),
            format!("alert: the clock was set by {step_ms} ms; the port follows it"),
        ),
    }
}

/// An event as a JSON object and as a line; `None` for those that are told elsewhere.
pub(super) fn describe(what: &Event) -> Option<(Object, String)> {
    Some(match what {
        Event::Listening { .. } | Event::NoPort | Event::Audit(_) => return None,
        Event::Alert(what) => alert(what),
        Event::PortRotated { from, to } => (
            event("port_rotated").with("from", u64::from(*from)).with("to", u64::from(*to)),
            format!("the port is now UDP {to}, after {from}"),
        ),
        Event::Connected { session, member, remote } => (
            event("connected")
                .with("member", member.as_str())
                .with("session", session.0)
                .with("remote", remote.to_string()),
            format!("{member} connected from {remote}"),
        ),
        Event::Disconnected { session, member, remote, lasted, sent, received, reason } => (
            event("disconnected")
                .with("member", member.as_str())
                .with("session", session.0)
                .with("remote", remote.to_string())
                .with("seconds", lasted.as_secs())
                .with("sent", *sent)
                .with("received", *received)
                .with("reason", reason.to_string()),
            format!("{member} disconnected: {reason}"),
        ),
        Event::Chat(chat) => {
            let to_us = matches!(&chat.to, Recipient::Member(name) if name == SERVER_MEMBER);
            let line = if to_us { format!(": {}", one_line(&chat.text)) } else { String::new() };
            let object = event("chat")
                .with("from", chat.from.as_str())
                .with("to", chat.to.to_string())
                .with("id", chat.id.to_string())
                .with_some("text", to_us.then_some(chat.text.as_str()));
            (object, format!("chat from {} to {}{line}", chat.from, chat.to))
        }
        Event::Compromised { member, by, new_file_ready } => {
            let object = event("compromised")
                .with("member", member.as_str())
                .with("by", by.as_str())
                .with("new_file_ready", *new_file_ready);
            (object, format!("COMPROMISED: the keys of {member} are wiped, raised by {by}"))
        }
        Event::Signalled { member, acknowledged, .. } => {
            let object = event("signalled")
                .with("member", member.as_str())
                .with("acknowledged", *acknowledged);
            let how = if *acknowledged { "acknowledged" } else { "did not acknowledge" };
            (object, format!("{member} {how} COMPROMISED"))
        }
        Event::KeysRotated { member, epoch, .. } => (
            event("key_rotated").with("member", member.as_str()).with("epoch", epoch.0),
            format!("{member} is in key epoch {epoch}"),
        ),
    })
}
