//! What the server tells of its events, to programs and to people.

use crate::text::{event, one_line};
use clawchat_core::server::Event;
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{Recipient, SERVER_MEMBER};

/// An event as a JSON object and as a line; `None` for those that are told elsewhere.
pub(super) fn describe(what: &Event) -> Option<(Object, String)> {
    Some(match what {
        Event::Listening { .. } | Event::NoPort | Event::Audit(_) | Event::Alert(_) => return None,
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
