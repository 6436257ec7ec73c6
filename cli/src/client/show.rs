//! Events as people and programs read them.

use crate::text::{bytes, event, harmless, list, moment, one_line, span};
use clawchat_core::client::Event;
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{Chat, Presence, ReceiptState};

/// An event as a JSON object; `None` for what is of no use to a program.
pub(super) fn json(what: &Event) -> Option<Object> {
    Some(match what {
        Event::Connected { info, epoch, skew_ms } => event("connected")
            .with("member", info.member.as_str())
            .with("epoch", epoch.0)
            .with("server_id", info.server_id.as_str())
            .with("server_name", info.server_name.as_str())
            .with("observed", info.observed.as_str())
            .with("clock_skew_ms", clawchat_core::wire::json::Json::Int(*skew_ms)),
        Event::Disconnected { reason, retry_in } => event("disconnected")
            .with("reason", reason.to_string())
            .with("retry_in_ms", u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX)),
        Event::Closed(reason) => event("closed").with("reason", reason.to_string()),
        Event::Chat(chat) => event("chat")
            .with("from", chat.from.as_str())
            .with("to", chat.to.to_string())
            .with("id", chat.id.to_string())
            .with("text", chat.text.as_str())
            .with("sent_at", chat.sent_at.0),
        Event::Receipt { id, state, by, at } => event("receipt")
            .with("id", id.to_string())
            .with("state", state.name())
            .with("by", by.as_str())
            .with("at", at.0),
        Event::Presence(presence) => event("presence")
            .with("member", presence.member.as_str())
            .with("status", presence.status.name())
            .with("since", presence.since.0),
        Event::Roster { members, rooms } => event("roster")
            .with("members", roster(members))
            .with("rooms", list(rooms.iter().map(String::as_str))),
        Event::Refused(error) => event("refused")
            .with("error", error.code.name())
            .with("message", error.message.as_str())
            .with_some("id", error.id.map(|id| id.to_string())),
        Event::KeysRotated { epoch } => event("key_rotated").with("epoch", epoch.0),
        Event::FileOffered { transfer, offer } => event("file_offered")
            .with("transfer", format!("t-{transfer}"))
            .with("from", offer.from.as_str())
            .with("to", offer.to.to_string())
            .with("id", offer.id.to_string())
            .with("name", offer.name.as_str())
            .with("size", offer.size),
        Event::Compromised { by_server, acknowledged } => event("compromised")
            .with("by", if *by_server { "server" } else { "user" })
            .with("acknowledged", *acknowledged),
        Event::Wiped { ok } => event("wiped").with("ok", *ok),
        Event::Renewed { valid_until } => event("renewed").with("valid_until", *valid_until),
        Event::NotRenewed => event("not_renewed"),
        Event::Moved { remote } => event("moved").with("server", remote.to_string()),
        Event::FileAccepted { .. }
        | Event::FileComplete { .. }
        | Event::FileEnded { .. }
        | Event::Pong { .. }
        | Event::Writable => return None,
    })
}

/// Members as JSON.
pub(super) fn roster(members: &[Presence]) -> clawchat_core::wire::json::Json {
    list(members.iter().map(|presence| {
        Object::new()
            .with("member", presence.member.as_str())
            .with("status", presence.status.name())
            .with("since", presence.since.0)
    }))
}

/// A chat as lines for a person.
pub(super) fn chat(chat: &Chat) -> String {
    let (hour, minute, second) = chat.sent_at.time_of_day();
    let text = harmless(&chat.text).replace('\n', "\n    ");
    format!("{hour:02}:{minute:02}:{second:02} {} → {}: {text}", chat.from, chat.to)
}

/// Any other event as a line for a person; `None` for what does not concern one.
pub(super) fn line(what: &Event) -> Option<String> {
    Some(match what {
        Event::Connected { info, .. } => {
            format!("connected to {} as {}", one_line(&info.server_name), info.member)
        }
        Event::Disconnected { reason, retry_in } => {
            format!("disconnected ({reason}), next try in {}", span(retry_in.as_secs()))
        }
        Event::Presence(presence) => format!("{} is {}", presence.member, presence.status.name()),
        Event::Roster { members, .. } => {
            let here = members.iter().filter(|m| m.status.name() != "offline");
            let here: Vec<_> = here.map(|m| m.member.as_str()).collect();
            format!("here: {}", here.join(", "))
        }
        Event::Refused(error) => {
            format!("! refused ({}): {}", error.code.name(), one_line(&error.message))
        }
        Event::KeysRotated { epoch } => format!("keys rotated, epoch {epoch}"),
        Event::FileOffered { offer, .. } => format!(
            "{} sends {} ({}): clawchat get '{}'",
            offer.from,
            one_line(&offer.name),
            bytes(offer.size),
            one_line(&offer.name)
        ),
        Event::NotRenewed => "the renewed security file could not be stored".to_owned(),
        Event::Receipt { id, state, by, .. } => {
            let (mark, id) = (mark(*state), &id.to_string()[..6]);
            match state {
                ReceiptState::Stored => format!("{mark} {id} stored"),
                ReceiptState::Delivered | ReceiptState::Read => {
                    format!("{mark} {id} {} by {by}", state.name())
                }
            }
        }
        Event::Chat(said) => chat(said),
        // What needs nobody's attention, and what is told elsewhere.
        Event::Renewed { .. }
        | Event::Moved { .. }
        | Event::FileAccepted { .. }
        | Event::FileComplete { .. }
        | Event::FileEnded { .. }
        | Event::Closed(_)
        | Event::Writable
        | Event::Pong { .. }
        | Event::Compromised { .. }
        | Event::Wiped { .. } => return None,
    })
}

/// `>` stored, `✓` delivered, `✓✓` read.
const fn mark(state: ReceiptState) -> &'static str {
    match state {
        ReceiptState::Stored => ">",
        ReceiptState::Delivered => "✓",
        ReceiptState::Read => "✓✓",
    }
}

/// A list of members for a person.
pub(super) fn table(members: &[Presence]) -> Vec<String> {
    let head = format!("{:<24} {:<8} {}", "NAME", "STATUS", "SINCE");
    let row = |p: &Presence| {
        format!("{:<24} {:<8} {}", p.member, p.status.name(), moment(p.since.secs()))
    };
    core::iter::once(head).chain(members.iter().map(row)).collect()
}
