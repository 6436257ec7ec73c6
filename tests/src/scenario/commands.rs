//! What users and operators ask of the machine.

use super::machine::Machine;
use super::world::World;
use crate::vectors::{Fields, Outcome, unhex};
use clawchat_core::client::Client;
use clawchat_core::id::{ChatId, TransferId};
use clawchat_core::ranges::RangeSet;
use clawchat_core::time::Now;
use clawchat_core::wire::message::{FileError, Status};
use core::fmt::Debug;
use serde_json::{Value, json};

fn result<T, E: Debug>(result: Result<T, E>, value: impl FnOnce(T) -> Value) -> Value {
    match result {
        Ok(done) => value(done),
        Err(error) => json!({ "error": format!("{error:?}") }),
    }
}

/// Commands about files, which servers and clients share; `None` for another.
fn file_command(world: &mut World, name: &str, fields: &mut Fields) -> Outcome<Option<Value>> {
    let now = world.now;
    if name == "read" {
        let most = fields.maybe("most").and_then(|most| most.as_u64());
        let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        return world.read_file(most).map(Some);
    }
    if !["accept_file", "raise_file_limit", "file_checked", "cancel_file"].contains(&name) {
        return Ok(None);
    }
    let transfer = TransferId(fields.uint("transfer")?);
    let done = |done| Some(result(done, |()| json!(true)));
    Ok(match name {
        "accept_file" => {
            let (have, limit) = (fields.maybe("have").unwrap_or_default(), fields.uint("limit")?);
            let mut set = RangeSet::new();
            for range in have.as_array().into_iter().flatten() {
                let end = |index: usize| range[index].as_u64().ok_or("have: no range");
                set.insert(end(0)?..end(1)?);
            }
            // So many ranges of one byte, with one missing after each.
            let count = fields.maybe("every_other").and_then(|count| count.as_u64());
            for at in 0..count.unwrap_or(0) {
                set.insert(at * 2..at * 2 + 1);
            }
            done(match &mut world.machine {
                Machine::Server(server) => server.accept_file(now, transfer, &set, limit),
                Machine::Client(client) => client.accept_file(now, transfer, &set, limit),
            })
        }
        "raise_file_limit" => {
            let limit = fields.uint("limit")?;
            done(match &mut world.machine {
                Machine::Server(server) => server.raise_file_limit(now, transfer, limit),
                Machine::Client(client) => client.raise_file_limit(now, transfer, limit),
            })
        }
        "file_checked" => {
            let error = match fields.maybe("error").as_ref().and_then(Value::as_str) {
                None => None,
                Some("hash") => Some(FileError::Hash),
                Some("size") => Some(FileError::Size),
                Some(_) => Some(FileError::Disk),
            };
            match &mut world.machine {
                Machine::Server(server) => {
                    let file = world.complete_files.remove(&transfer.0);
                    let file = file.ok_or("no such file is complete");
                    let checked = match error {
                        Some(error) => Err(error),
                        None => Ok(file?),
                    };
                    server.file_checked(now, transfer, checked);
                }
                Machine::Client(client) => {
                    client.file_checked(now, transfer, error.map_or(Ok(()), Err));
                }
            }
            Some(json!(true))
        }
        _ => {
            let reason = fields.text("reason")?;
            match &mut world.machine {
                Machine::Server(server) => server.cancel_file(now, transfer, &reason),
                Machine::Client(client) => client.cancel_file(now, transfer, &reason),
            }
            Some(json!(true))
        }
    })
}

/// Gives the machine a command; what it returns.
///
/// # Errors
/// For one that the machine does not know.
pub(super) fn command(world: &mut World, command: Value) -> Outcome<Value> {
    let now = world.now;
    Fields::of(command)?.all(|fields| {
        let name = fields.text("name")?;
        if let Some(done) = file_command(world, &name, fields)? {
            return Ok(done);
        }
        match &mut world.machine {
            Machine::Server(server) => match name.as_str() {
                "issue" => {
                    let (member, rooms) = (fields.text("member")?, fields.maybe("rooms"));
                    let rooms = rooms.and_then(|rooms| rooms.as_array().cloned());
                    let rooms: Vec<String> = rooms
                        .unwrap_or_default()
                        .iter()
                        .filter_map(|room| room.as_str().map(str::to_owned))
                        .collect();
                    let valid_for = fields.maybe("valid_for").and_then(|v| v.as_u64());
                    let issued = server.issue(now, &member, &rooms, valid_for.unwrap_or(3600));
                    Ok(result(issued, |_| json!(true)))
                }
                "rotate_keys" => {
                    let member = fields.maybe("member");
                    let member = member.as_ref().and_then(Value::as_str);
                    Ok(json!(server.rotate_keys(now, member)))
                }
                "compromised" => {
                    let (member, reason) = (fields.text("member")?, fields.text("reason")?);
                    Ok(json!(server.declare_compromised(now, &member, &reason)))
                }
                "shut_down" => {
                    server.shut_down(now);
                    Ok(json!(true))
                }
                other => Err(format!("no command of a server: {other}")),
            },
            Machine::Client(client) => client_command(client, now, &name, fields),
        }
    })
}

fn client_command(
    client: &mut Client,
    now: Now,
    name: &str,
    fields: &mut Fields,
) -> Outcome<Value> {
    match name {
        "send_chat" => {
            let text = match fields.maybe("length").and_then(|length| length.as_u64()) {
                Some(length) => "x".repeat(usize::try_from(length).unwrap_or(0)),
                None => fields.text("text")?,
            };
            let sent = client.send_chat(now, &fields.text("to")?, &text);
            Ok(result(sent, |id| json!(id.to_string())))
        }
        "set_status" => {
            let status = match fields.text("status")?.as_str() {
                "away" => Status::Away,
                _ => Status::Online,
            };
            Ok(result(client.set_status(now, status), |()| json!(true)))
        }
        "offer_file" => {
            let id = ChatId::parse(&fields.text("id")?).ok_or("no id")?;
            let (to, file) = (fields.text("to")?, fields.text("file")?);
            let offered = client.offer_file(now, id, &to, &file, fields.uint("size")?);
            Ok(result(offered, |transfer| json!(transfer.0)))
        }
        "file_digest" => {
            let transfer = TransferId(fields.uint("transfer")?);
            let digest = unhex(&fields.text("sha256")?);
            let digest = digest.and_then(|digest| digest.try_into().ok());
            client.file_digest(now, transfer, digest.ok_or("no SHA-256")?);
            Ok(json!(true))
        }
        "rotate_keys" => Ok(result(client.rotate_keys(now), |()| json!(true))),
        "compromised" => {
            client.declare_compromised(now);
            Ok(json!(true))
        }
        "give_up_signalling" => {
            client.give_up_signalling(now);
            Ok(json!(true))
        }
        "leave" => {
            client.leave(now);
            Ok(json!(true))
        }
        "connect" => {
            client.connect(now);
            Ok(json!(true))
        }
        other => Err(format!("no command of a client: {other}")),
    }
}
