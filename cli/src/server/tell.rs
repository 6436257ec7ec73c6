//! What the server tells of its events, to programs and to people: all that SPEC 11.3 and 11.4 want to
//! be seen, each once and with all that is known of it.

use crate::text::{bytes, event, moment, one_line};
use clawchat_core::error::CloseReason;
use clawchat_core::id::TransferId;
use clawchat_core::ops::FileFailure;
use clawchat_core::server::{Alert, Audit, Event, Resource};
use clawchat_core::wire::json::{Json, Object};
use clawchat_core::wire::message::{FileOffer, Recipient, SERVER_MEMBER, hex};
use clawchat_mio::clock;

/// A clock is set by less; JSON has no larger numbers that all programs read.
const YEARS_MS: i64 = (1 << 53) - 1;

/// Something told.
#[derive(Debug)]
pub(super) struct Told {
    object: Object,
    /// The same for a person, unless it is of no use to one who looks on.
    line: Option<String>,
    /// A person is to see it in any case.
    wakes: bool,
}

impl Told {
    fn news(object: Object, line: String) -> Self {
        Self { object, line: Some(line), wakes: false }
    }

    /// For programs and for later.
    const fn quiet(object: Object) -> Self {
        Self { object, line: None, wakes: false }
    }

    fn waking(object: Object, line: String) -> Self {
        Self { object, line: Some(line), wakes: true }
    }

    /// As a line of JSON.
    pub(super) fn object(&self) -> &Object {
        &self.object
    }

    /// For a person, who may have asked for quiet.
    pub(super) fn line(&self, quiet: bool) -> Option<&str> {
        self.line.as_deref().filter(|_| self.wakes || !quiet)
    }
}

/// An event, and when it was told.
pub(super) fn dated(name: &str) -> Object {
    event(name).with("ts", moment(clock::now().wall.secs()))
}

fn of_member(name: &str, member: &str) -> Object {
    dated(name).with("member", member)
}

/// What is told of an event.
pub(super) fn describe(what: &Event) -> Told {
    match what {
        Event::Listening { port } => Told::news(
            dated("listening").with("port", u64::from(*port)),
            format!("listening on UDP port {port}"),
        ),
        Event::NoPort => Told::waking(
            dated("no_port"),
            "no port could be bound for the next rotation; again in a minute".to_owned(),
        ),
        Event::PortRotated { from, to } => Told::news(
            dated("port_rotated").with("from", u64::from(*from)).with("to", u64::from(*to)),
            format!("the port is now UDP {to}, after {from}"),
        ),
        Event::Audit(audit) => describe_audit(audit),
        Event::Alert(alert) => describe_alert(alert),
        Event::Connected { .. } | Event::Disconnected { .. } | Event::KeysRotated { .. } => {
            describe_session(what)
        }
        Event::Chat(chat) => {
            let to_us = matches!(&chat.to, Recipient::Member(name) if name == SERVER_MEMBER);
            let line = if to_us { format!(": {}", one_line(&chat.text)) } else { String::new() };
            let object = dated("chat")
                .with("from", chat.from.as_str())
                .with("to", chat.to.to_string())
                .with("id", chat.id.to_string())
                .with_some("text", to_us.then_some(chat.text.as_str()));
            Told::news(object, format!("chat from {} to {}{line}", chat.from, chat.to))
        }
        Event::Compromised { member, by, new_file_ready } => Told::waking(
            of_member("compromised", member)
                .with("by", by.as_str())
                .with("new_file_ready", *new_file_ready),
            format!("COMPROMISED: the keys of {member} are wiped, raised by {by}"),
        ),
        Event::FileOffered { .. }
        | Event::FileComplete { .. }
        | Event::FileSending { .. }
        | Event::FileEnded { .. } => describe_file(what),
        Event::Signalled { session, member, acknowledged } => {
            let object = of_member("signalled", member)
                .with("session", session.0)
                .with("acknowledged", *acknowledged);
            let how = if *acknowledged { "acknowledged" } else { "did not acknowledge" };
            Told::news(object, format!("{member} {how} COMPROMISED"))
        }
    }
}

fn file(name: &str, transfer: TransferId, offer: &FileOffer) -> Object {
    dated(name)
        .with("transfer", transfer.0)
        .with("from", offer.from.as_str())
        .with("to", offer.to.to_string())
        .with("id", offer.id.to_string())
        .with("size", offer.size)
}

fn describe_file(what: &Event) -> Told {
    match what {
        Event::FileOffered { transfer, offer, .. } => Told::news(
            file("file_offered", *transfer, offer),
            format!("{} sends a file of {} to {}", offer.from, bytes(offer.size), offer.to),
        ),
        Event::FileComplete { transfer, file: complete } => Told::quiet(
            file("file_complete", *transfer, &complete.offer).with("sha256", hex(&complete.sha256)),
        ),
        Event::FileSending { transfer, offer, to, held } => Told::news(
            file("file_sending", *transfer, offer).with("by", to.as_str()).with("held", *held),
            format!("{to} takes a file of {} from {}", bytes(offer.size), offer.from),
        ),
        Event::FileEnded { transfer, result } => {
            let how = match result {
                Ok(()) => "done",
                Err(FileFailure::Checked(_)) => "not_right",
                Err(FileFailure::Cancelled(_)) => "cancelled",
                Err(FileFailure::Interrupted) => "interrupted",
            };
            let reason = match result {
                Err(FileFailure::Cancelled(reason)) => Some(reason.as_str()),
                _ => None,
            };
            let object = dated("file_ended").with("transfer", transfer.0).with("how", how);
            Told::quiet(object.with_some("reason", reason))
        }
        _ => Told::quiet(dated("file")),
    }
}

fn describe_session(what: &Event) -> Told {
    match what {
        Event::Connected { session, member, remote } => Told::news(
            of_member("connected", member)
                .with("session", session.0)
                .with("remote", remote.to_string()),
            format!("{member} connected from {remote}"),
        ),
        Event::Disconnected { session, member, remote, lasted, sent, received, reason } => {
            let detail = match reason {
                CloseReason::Violated(what) => Some(what.to_string()),
                _ => None,
            };
            let more = detail.as_ref().map(|what| format!(": {what}")).unwrap_or_default();
            Told::news(
                of_member("disconnected", member)
                    .with("session", session.0)
                    .with("remote", remote.to_string())
                    .with("seconds", lasted.as_secs())
                    .with("sent", *sent)
                    .with("received", *received)
                    .with("reason", reason.to_string())
                    .with_some("detail", detail),
                format!("{member} disconnected: {reason}{more}"),
            )
        }
        Event::KeysRotated { session, member, epoch } => Told::news(
            of_member("key_rotated", member).with("session", session.0).with("epoch", epoch.0),
            format!("{member} is in key epoch {epoch}"),
        ),
        // The others are not of a session.
        _ => Told::quiet(dated("other")),
    }
}

fn describe_audit(what: &Audit) -> Told {
    match what {
        Audit::HelloAnswered { member, remote } => {
            Told::quiet(of_member("hello_answered", member).with("remote", remote.to_string()))
        }
        Audit::HelloRefused { member, remote, code, retired } => {
            let old = if *retired { "; someone has an old copy of the file" } else { "" };
            Told::news(
                of_member("hello_refused", member)
                    .with("remote", remote.to_string())
                    .with("code", code.name())
                    .with("retired_credential", *retired),
                format!("{member} from {remote} was refused ({}){old}", code.name()),
            )
        }
        Audit::Dropped { reason, count } => {
            Told::quiet(dated("dropped").with("reason", reason.name()).with("count", *count))
        }
        Audit::PathMoved { session, member, from, to } => Told::news(
            of_member("path_moved", member)
                .with("session", session.0)
                .with("from", from.to_string())
                .with("to", to.to_string()),
            format!("{member} moved from {from} to {to}"),
        ),
        Audit::Renewed { file, member, valid_until } => Told::quiet(
            of_member("renewed", member).with("file", file.0).with("valid_until", *valid_until),
        ),
        Audit::NotRenewed { file, member } => Told::news(
            of_member("not_renewed", member).with("file", file.0),
            format!("a security file of {member} could not be renewed"),
        ),
        Audit::NotRetired { file, member } => Told::waking(
            of_member("not_retired", member).with("file", file.0),
            format!(
                "a security file of {member} is refused, but a restart would accept it: the disk does \
                 not take that yet, it is tried again each minute"
            ),
        ),
        Audit::NotKept { file, member } => Told::news(
            of_member("not_kept", member).with("file", file.0),
            format!(
                "secrets of {member} can't be written to the disk, it is tried again each minute"
            ),
        ),
        Audit::SecretRetired { file, member } => {
            Told::quiet(of_member("secret_retired", member).with("file", file.0))
        }
        Audit::RateLimited { member } => Told::news(
            of_member("rate_limited", member),
            format!("{member} sends more chat than is allowed"),
        ),
        Audit::ChatDropped { from, id, to } => Told::news(
            dated("chat_dropped")
                .with("from", from.as_str())
                .with("id", id.to_string())
                .with("to", to.as_str()),
            format!("{to} does not get a chat from {from}: too old, or one of too many"),
        ),
    }
}

fn describe_alert(what: &Alert) -> Told {
    let alert = |kind: &str| dated("alert").with("kind", kind);
    match what {
        Alert::PortScan { address, ports } => Told::waking(
            alert("port_scan").with("address", address.to_string()).with("ports", *ports as u64),
            format!("alert: strangers at {address} knocked from {ports} ports within a minute"),
        ),
        Alert::AuthFlood { address } => {
            let address = address.map(|address| address.to_string());
            let from = address.as_deref().unwrap_or("many addresses");
            let line = format!("alert: a flood of datagrams that no key fits, from {from}");
            Told::waking(alert("auth_flood").with_some("address", address.as_deref()), line)
        }
        Alert::Anomaly { member, bytes, usual } => Told::waking(
            alert("anomaly")
                .with("member", member.as_str())
                .with("bytes", *bytes)
                .with("usual", *usual),
            format!("alert: {bytes} bytes with {member} within a minute; usual are {usual}"),
        ),
        Alert::Resource { what, used, limit } => {
            let name = match what {
                Resource::Sessions => "sessions",
                Resource::Secrets => "secrets",
                Resource::Actions => "actions",
            };
            used_up(name, *used as u64, *limit as u64)
        }
        Alert::Clock { step_ms } => Told::waking(
            alert("clock").with("step_ms", Json::Int((*step_ms).clamp(-YEARS_MS, YEARS_MS))),
            format!("alert: the clock was set by {step_ms} ms"),
        ),
    }
}

/// Something is nearly used up.
pub(super) fn used_up(name: &str, used: u64, limit: u64) -> Told {
    Told::waking(
        dated("alert")
            .with("kind", "resource")
            .with("what", name)
            .with("used", used)
            .with("limit", limit),
        format!("alert: {used} of {limit} {name} in use"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawchat_core::error::{DropReason, ErrorCode};
    use clawchat_core::id::{ChatId, Epoch, FileId, SessionId};
    use core::net::SocketAddr;
    use core::time::Duration;

    const ANN: &str = "ann";

    fn at(port: u16) -> SocketAddr {
        ([192, 0, 2, 7], port).into()
    }

    /// Checks what is told beside `schema` and `ts`, and whether one who asked for quiet sees it.
    #[track_caller]
    fn shows(what: &Event, fields: &str, wakes: bool) {
        let told = describe(what);
        let time = told.object().text("ts").unwrap();
        let fields = Object::parse(format!(r#"{{"event":{fields}"#).as_bytes()).unwrap();
        let fields = fields.with("schema", 1).with("ts", time);
        assert_eq!(String::from_utf8(told.object().encode()), String::from_utf8(fields.encode()));
        assert_eq!(told.line(true).is_some(), wakes);
    }

    /// SPEC 11.3: authentication attempts, connections, failed decryption and invalid messages, key
    /// rotations and what is compromised.
    #[test]
    fn audits_show_all_they_hold() {
        let (member, file, session) = (|| ANN.to_owned(), FileId(5), SessionId(4));
        let audits = [
            (
                Audit::HelloAnswered { member: member(), remote: at(1) },
                r#""hello_answered","member":"ann","remote":"192.0.2.7:1"}"#,
            ),
            (
                Audit::HelloRefused {
                    member: member(),
                    remote: at(1),
                    code: ErrorCode::Expired,
                    retired: true,
                },
                r#""hello_refused","member":"ann","remote":"192.0.2.7:1","code":"expired","retired_credential":true}"#,
            ),
            (
                Audit::Dropped { reason: DropReason::Tag, count: 3 },
                r#""dropped","reason":"tag","count":3}"#,
            ),
            (
                Audit::PathMoved { session, member: member(), from: at(1), to: at(2) },
                r#""path_moved","member":"ann","session":4,"from":"192.0.2.7:1","to":"192.0.2.7:2"}"#,
            ),
            (
                Audit::Renewed { file, member: member(), valid_until: 9 },
                r#""renewed","member":"ann","file":5,"valid_until":9}"#,
            ),
            (
                Audit::NotRenewed { file, member: member() },
                r#""not_renewed","member":"ann","file":5}"#,
            ),
            (
                Audit::SecretRetired { file, member: member() },
                r#""secret_retired","member":"ann","file":5}"#,
            ),
            (Audit::RateLimited { member: member() }, r#""rate_limited","member":"ann"}"#),
            (
                Audit::ChatDropped { from: member(), id: ChatId([1; 16]), to: "bob".into() },
                r#""chat_dropped","from":"ann","id":"01010101010101010101010101010101","to":"bob"}"#,
            ),
        ];
        for (audit, object) in audits {
            shows(&Event::Audit(audit), object, false);
        }
        let (lasted, reason) = (Duration::from_secs(61), CloseReason::Idle);
        let (sent, received) = (7, 8);
        shows(
            &Event::Disconnected {
                session,
                member: member(),
                remote: at(1),
                lasted,
                sent,
                received,
                reason,
            },
            r#""disconnected","member":"ann","session":4,"remote":"192.0.2.7:1","seconds":61,"sent":7,"received":8,"reason":"idle"}"#,
            false,
        );
        shows(
            &Event::KeysRotated { session, member: member(), epoch: Epoch(2) },
            r#""key_rotated","member":"ann","session":4,"epoch":2}"#,
            false,
        );
        shows(
            &Event::Compromised { member: member(), by: "server".into(), new_file_ready: true },
            r#""compromised","member":"ann","by":"server","new_file_ready":true}"#,
            true,
        );
    }

    #[test]
    fn what_the_disk_refused() {
        let (file, member) = (FileId(5), || "ann".to_owned());
        shows(
            &Event::Audit(Audit::NotRetired { file, member: member() }),
            r#""not_retired","member":"ann","file":5}"#,
            true,
        );
        shows(
            &Event::Audit(Audit::NotKept { file, member: member() }),
            r#""not_kept","member":"ann","file":5}"#,
            false,
        );
    }

    /// SPEC 11.4, but for what only this process knows of itself.
    #[test]
    fn alerts_reach_also_who_asked_for_quiet() {
        let alerts = [
            (
                Alert::PortScan { address: at(1).ip(), ports: 12 },
                r#""port_scan","address":"192.0.2.7","ports":12}"#,
            ),
            (Alert::AuthFlood { address: None }, r#""auth_flood"}"#),
            (
                Alert::AuthFlood { address: Some(at(1).ip()) },
                r#""auth_flood","address":"192.0.2.7"}"#,
            ),
            (
                Alert::Anomaly { member: ANN.into(), bytes: 9, usual: 1 },
                r#""anomaly","member":"ann","bytes":9,"usual":1}"#,
            ),
            (
                Alert::Resource { what: Resource::Sessions, used: 90, limit: 100 },
                r#""resource","what":"sessions","used":90,"limit":100}"#,
            ),
            (Alert::Clock { step_ms: -7 }, r#""clock","step_ms":-7}"#),
        ];
        for (alert, object) in alerts {
            shows(&Event::Alert(alert), &format!(r#""alert","kind":{object}"#), true);
        }
    }
}
