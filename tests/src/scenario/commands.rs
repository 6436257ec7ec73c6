//! What users and operators ask of the machine.

use super::machine::Machine;
use super::world::World;
use crate::vectors::{Fields, Outcome};
use clawchat_core::wire::message::Status;
use core::fmt::Debug;
use serde_json::{Value, json};

fn result<T, E: Debug>(result: Result<T, E>, value: impl FnOnce(T) -> Value) -> Value {
    match result {
        Ok(done) => value(done),
        Err(error) => json!({ "error": format!("{error:?}") }),
    }
}

/// Gives the machine a command; what it returns.
///
/// # Errors
/// For one that the machine does not know.
pub(super) fn command(world: &mut World, command: Value) -> Outcome<Value> {
    let now = world.now;
    Fields::of(command)?.all(|fields| {
        let name = fields.text("name")?;
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
            Machine::Client(client) => match name.as_str() {
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
            },
        }
    })
}
