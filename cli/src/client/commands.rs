//! The commands that connect.

use super::args::{Common, Send};
use super::confirm_wipe;
use super::link::{Link, Woken};
use super::show;
use super::taking::Taker;
use crate::cipher;
use crate::disk;
use crate::failure::{Exit, Failure, Outcome};
use crate::text::{answer, complain, event, list, one_line, print, try_answer};
use clawchat_core::client::Event;
use clawchat_core::error::{CloseReason, SendError};
use clawchat_core::limits::MESSAGE_MAX;
use clawchat_core::wire::message::{ErrorCode, Presence, ReceiptState, Recipient};
use core::time::Duration;
use std::path::Path;
use std::time::Instant;

/// `send`: one message, done once it is stored.
pub(super) fn send(common: &Common, what: &Send) -> Outcome<()> {
    if Recipient::parse(&what.to).is_none() {
        let text = format!("`{}` is no recipient", one_line(&what.to));
        return Err(Failure::new(Exit::Usage, text).advice("--to '#room' or --to '@member'"));
    }
    let text = message(&what.text)?;
    let link = Link::start(common)?;
    smol::block_on(async {
        let deadline = Instant::now() + common.timeout;
        link.connected(common.timeout).await?;
        let id = link.handle.send_chat(&what.to, &text).await.map_err(not_sent)?;
        loop {
            match link.next(Some(deadline)).await {
                Woken::Event(Event::Receipt { id: of, state: ReceiptState::Stored, .. })
                    if of == id =>
                {
                    break;
                }
                Woken::Event(Event::Refused(error)) if error.id == Some(id) => {
                    let exit = match error.code {
                        ErrorCode::RateLimited => Exit::TryLater,
                        _ => Exit::Failed,
                    };
                    let what = format!("not sent ({})", error.code.name());
                    link.leave().await?;
                    return Err(Failure::new(exit, what).fact(one_line(&error.message)));
                }
                Woken::Event(Event::Compromised { .. }) => return Err(link.wiped().await),
                Woken::Event(Event::Closed(reason)) => {
                    return Err(link.failure(&reason, common.timeout));
                }
                Woken::Event(_) => {}
                Woken::Signal => {
                    link.leave().await?;
                    let text = "interrupted before the server had stored it";
                    return Err(Failure::new(Exit::Interrupted, text));
                }
                Woken::Timeout => {
                    return Err(link.failure(&CloseReason::Unreachable, common.timeout));
                }
            }
        }
        if common.json {
            print(&event("stored").with("id", id.to_string()).with("to", what.to.as_str()));
        } else if !common.quiet {
            complain(&format!("> stored, for {}", what.to));
        }
        link.leave().await
    })
}

/// The text as named, or from stdin without its last line end.
fn message(text: &str) -> Outcome<String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let bytes = disk::read_input(Path::new("-"), MESSAGE_MAX)?;
    let mut text =
        String::from_utf8(bytes).map_err(|_| Failure::new(Exit::Usage, "the text is not UTF-8"))?;
    if text.ends_with('\n') {
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
    }
    Ok(text)
}

fn not_sent(error: SendError) -> Box<Failure> {
    let exit = match error {
        SendError::Size | SendError::Recipient | SendError::Name => Exit::Usage,
        SendError::WindowFull | SendError::Busy => Exit::TryLater,
        SendError::Closed => Exit::Unreachable,
    };
    Failure::new(exit, format!("not sent: {error}"))
}

/// `listen`: prints what comes, and takes files if it is to, until it is stopped.
pub(super) fn listen(common: &Common, accept: Option<&Path>) -> Outcome<()> {
    let link = Link::start(common)?.showing_chat();
    smol::block_on(async {
        let mut taker = accept.map(|into| Taker::new(common, &link, into)).transpose()?;
        let end = listen_on(common, &link, &mut taker).await;
        if let Some(mut taker) = taker {
            taker.stop();
        }
        match end {
            Heard::Compromised => {
                let failure = link.wiped().await;
                if common.json {
                    print(&event("wiped").with("ok", failure.facts.is_empty()));
                }
                Err(failure)
            }
            Heard::Closed(reason) => Err(link.failure(&reason, common.timeout)),
            Heard::Stopped => link.leave().await,
        }
    })
}

/// How `listen` ended.
enum Heard {
    Compromised,
    Closed(CloseReason),
    Stopped,
}

async fn listen_on(common: &Common, link: &Link, taker: &mut Option<Taker<'_>>) -> Heard {
    let mut connect = Some(Instant::now() + common.timeout);
    loop {
        let tick = taker.as_ref().and_then(Taker::tick);
        let woken = link.next([connect, tick].into_iter().flatten().min()).await;
        let told = match &woken {
            // It is said when it is here.
            Woken::Event(Event::FileOffered { .. }) if taker.is_some() => true,
            Woken::Event(what) => tell(common, what),
            Woken::Signal | Woken::Timeout => true,
        };
        if !told {
            link.nobody_reads();
        }
        let event = match woken {
            Woken::Event(what) => match taker {
                Some(taker) => taker.take(what),
                None => Some(what),
            },
            Woken::Signal => return Heard::Stopped,
            Woken::Timeout if connect.is_some_and(|at| at <= Instant::now()) => {
                return Heard::Closed(CloseReason::Unreachable);
            }
            Woken::Timeout => None,
        };
        match event {
            Some(Event::Connected { .. }) => {
                connect = None;
                show_inbox(common, link);
            }
            Some(Event::Compromised { .. }) => return Heard::Compromised,
            Some(Event::Closed(reason)) => return Heard::Closed(reason),
            Some(Event::FileOffered { transfer, offer }) => {
                taker.iter_mut().for_each(|taker| taker.offered(transfer, offer.clone()));
            }
            _ => {}
        }
        if let Some(taker) = taker {
            taker.look().await;
            taker.failures.tell();
        }
    }
}

/// Prints the chat that other commands kept.
fn show_inbox(common: &Common, link: &Link) {
    for chat in link.take_inbox() {
        if !tell(common, &Event::Chat(chat.clone())) {
            link.nobody_reads();
        }
        link.was_shown(&chat);
    }
    link.clear_inbox();
}

/// Chat is the answer and goes to stdout; the rest is talk. False for an answer that nobody reads.
fn tell(common: &Common, what: &Event) -> bool {
    let line = match what {
        _ if common.json => match show::json(what) {
            Some(object) => String::from_utf8_lossy(&object.encode()).into_owned(),
            None => return true,
        },
        Event::Chat(chat) => show::chat(chat),
        _ => {
            show::line(what).filter(|_| !common.quiet).iter().for_each(|line| complain(line));
            return true;
        }
    };
    try_answer(&line).is_ok()
}

/// Connects, and waits for the roster.
async fn roster(link: Link, common: &Common) -> Outcome<(Link, Vec<Presence>, Vec<String>)> {
    link.connected(common.timeout).await?;
    let deadline = Instant::now() + common.timeout;
    loop {
        match link.next(Some(deadline)).await {
            Woken::Event(Event::Roster { members, rooms }) => return Ok((link, members, rooms)),
            Woken::Event(Event::Compromised { .. }) => return Err(link.wiped().await),
            Woken::Event(Event::Closed(reason)) => {
                return Err(link.failure(&reason, common.timeout));
            }
            Woken::Event(_) => {}
            Woken::Signal => return Err(Failure::new(Exit::Interrupted, "interrupted")),
            Woken::Timeout => return Err(link.failure(&CloseReason::Unreachable, common.timeout)),
        }
    }
}

/// `who`
pub(super) fn who(common: &Common) -> Outcome<()> {
    let link = Link::start(common)?;
    smol::block_on(async {
        let (link, members, rooms) = roster(link, common).await?;
        if common.json {
            print(
                &clawchat_core::wire::json::Object::new()
                    .with("schema", 1)
                    .with("members", show::roster(&members))
                    .with("rooms", list(rooms.iter().map(String::as_str))),
            );
        } else {
            show::table(&members).iter().for_each(|line| answer(line));
            answer(&format!("rooms: {}", rooms.join(", ")));
        }
        link.leave().await
    })
}

/// `status`
pub(super) fn status(common: &Common) -> Outcome<()> {
    let link = Link::start(common)?;
    smol::block_on(async {
        let started = Instant::now();
        let info = link.connected(common.timeout).await?;
        let took = started.elapsed();
        let state = link.handle.state().await;
        let server = state.as_ref().and_then(|state| state.server);
        let server = server.map_or_else(String::new, |server| server.to_string());
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let epoch = state.as_ref().and_then(|state| state.epoch).map_or(0, |epoch| epoch.0);
        let rtt = state.and_then(|state| state.rtt);
        let cipher = cipher::provider().name();
        if common.json {
            print(
                &clawchat_core::wire::json::Object::new()
                    .with("schema", 1)
                    .with("server_name", info.server_name.as_str())
                    .with("server_id", info.server_id.as_str())
                    .with("member", info.member.as_str())
                    .with("server", server)
                    .with("observed", info.observed.as_str())
                    .with("epoch", epoch)
                    .with("cipher", cipher)
                    .with("connect_ms", millis)
                    .with_some("rtt_us", rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(0)))
                    .with("next_rotation", info.next_rotation),
            );
        } else {
            answer(&format!("server    {} at {server}", one_line(&info.server_name)));
            answer(&format!("member    {}, seen as {}", info.member, one_line(&info.observed)));
            let rtt =
                rtt.map_or(String::new(), |rtt| format!(", rtt {:.1} ms", rtt.as_secs_f64() * 1e3));
            answer(&format!(
                "session   connected in {millis} ms{rtt}, key epoch {epoch}, cipher {cipher}"
            ));
        }
        link.leave().await
    })
}

/// How long `compromised` looks for the server before it wipes without it.
fn patience(common: &Common) -> Duration {
    common.timeout
}

/// `compromised`: tells the server, and wipes here in any case.
pub(super) fn compromised(common: &Common, sure: bool) -> Outcome<()> {
    if !sure {
        confirm_wipe(
            common.no_input,
            "This destroys the keys of this device here and at the server.",
        )?;
    }
    let link = Link::start(common)?;
    smol::block_on(async {
        link.handle.declare_compromised();
        let mut deadline = Some(Instant::now() + patience(common));
        let (mut told, mut by_server) = (false, false);
        let ok = loop {
            match link.next(deadline).await {
                // From here on the protocol bounds the wait: `response_timeout`.
                Woken::Event(Event::Connected { .. }) => deadline = None,
                Woken::Event(Event::Compromised { by_server: peer, acknowledged }) => {
                    (told, by_server) = (acknowledged, peer);
                }
                Woken::Event(Event::Wiped { ok }) => break ok,
                Woken::Event(_) => {}
                Woken::Signal | Woken::Timeout => {
                    link.handle.give_up_signalling();
                    deadline = None;
                }
            }
        };
        if common.json {
            print(
                &event("compromised")
                    .with("by", if by_server { "server" } else { "user" })
                    .with("acknowledged", told)
                    .with("wiped", ok),
            );
        }
        if !ok {
            return Err(Failure::new(Exit::CannotWrite, "the security file could not be wiped")
                .advice("delete it by hand, and every copy of it"));
        }
        if told {
            if !common.quiet {
                complain("the server knows; all keys of this device are destroyed, here and there");
                complain(
                    "next: let the operator hand you the new file, then: clawchat open FILE.sec",
                );
            }
            return Ok(());
        }
        Err(Failure::new(
            Exit::Unreachable,
            "the keys here are destroyed, but the server did not acknowledge",
        )
        .fact("It may not know that they are compromised.")
        .advice("tell the operator: clawchat-server compromised NAME"))
    })
}
