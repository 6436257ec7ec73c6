//! Plays the steps of a scenario.

use super::expect;
use super::inputs;
use super::pattern::{compare, resolve};
use super::words::{duration, outcome, signed_duration};
use super::world::World;
use crate::vectors::{Fields, Outcome};
use clawchat_core::time::Duration;
use clawchat_core::wire::header::PacketType;
use serde_json::{Value, json};

/// Deadlines that one moment may have.
const SPINS: u32 = 300;
/// How often a peer pings while time passes in the background.
const PEER_PINGS: Duration = Duration::from_secs(15);

/// Plays one step: what it does, then what the machine must have put out by it.
///
/// # Errors
/// When it can't be played, or the machine did otherwise.
pub(super) fn play(world: &mut World, step: Value) -> Outcome {
    Fields::of(step)?.all(|step| {
        // Only for people.
        step.maybe("note");
        if step.has("repeat") {
            return repeat(world, step);
        }
        let expected = step.maybe("expect");
        let watch = step.maybe("watch");
        world.tell_time();
        let silent = act(world, step)?;
        world.tell_time();
        let expected = expected.unwrap_or_else(|| json!([]));
        if silent && expected == json!([]) {
            world.outputs.clear();
            return Ok(());
        }
        expect::check(world, &expected, watch.as_ref())
    })
}

/// Plays steps again and again.
fn repeat(world: &mut World, step: &mut Fields) -> Outcome {
    let (count, steps) = (step.uint("repeat")?, step.list("steps")?);
    for round in 0..count {
        world.names.insert("round".to_owned(), json!(round));
        world.names.insert("round_text".to_owned(), json!(round.to_string()));
        world.names.insert("chat_id".to_owned(), json!(format!("{round:032x}")));
        for step in &steps {
            play(world, step.clone()).map_err(|why| format!("round {round}, {step}: {why}"))?;
        }
    }
    Ok(())
}

/// Does what the step says; true when its outputs are nobody's business unless expected.
fn act(world: &mut World, step: &mut Fields) -> Outcome<bool> {
    if step.has("advance") {
        return advance(world, step).map(|()| false);
    }
    if step.has("wall") {
        let (negative, by) = signed_duration(&step.take("wall")?)?;
        world.step_wall(negative, by);
        return Ok(false);
    }
    if step.has("connect") {
        return connect(world, step).map(|()| true);
    }
    if step.has("set") {
        world.set(&step.take("set")?)?;
        return Ok(true);
    }
    if step.has("complete") {
        return complete(world, step).map(|()| false);
    }
    if step.has("command") {
        let command = step.take("command")?;
        let command = resolve(&command, &world.names)?;
        let result = super::commands::command(world, command)?;
        let expected = step.maybe("returns").unwrap_or(Value::Bool(true));
        compare(&expected, &result, &mut world.names).map_err(|why| format!("returns {why}"))?;
        world.settle()?;
        return Ok(false);
    }
    if step.has("check") {
        let pattern = step.take("check")?;
        let mut state = world.machine.state();
        let due = world.machine.poll_timeout().map(|deadline| deadline.at);
        state["most_messages"] = json!(world.most_messages);
        state["next_timer_ms"] = json!(due.map(|at| at.since(world.now.mono).as_millis()));
        compare(&pattern, &state, &mut world.names)?;
        return Ok(false);
    }
    if step.has("move") {
        return relocate(world, step).map(|()| true);
    }
    if step.has("load") {
        return load(world, step).map(|()| true);
    }
    inputs::input(world, step).map(|()| false)
}

/// A peer is elsewhere from now on, or sends to another binding of the machine.
fn relocate(world: &mut World, step: &mut Fields) -> Outcome {
    let name = step.text("move")?;
    let peer = world.peers.get_mut(&name).ok_or("no such peer")?;
    if let Some(address) = step.maybe("address") {
        peer.address = super::words::address(&resolve(&address, &world.names)?)?;
    }
    if let Some(port) = step.maybe("port").and_then(|port| port.as_u64()) {
        peer.port = u32::try_from(port).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn load(world: &mut World, step: &mut Fields) -> Outcome {
    let (name, file) = (step.text("load")?, step.text("file")?);
    let data = world.files.get(&file).ok_or_else(|| format!("no file is called {file:?}"))?;
    let own = format!("{name} loaded");
    world.files.insert(own.clone(), data.clone());
    world.peers.get_mut(&name).ok_or("no such peer")?.file = own;
    Ok(())
}

fn complete(world: &mut World, step: &mut Fields) -> Outcome {
    let name = step.text("complete")?;
    let word = step.maybe("outcome").unwrap_or_else(|| json!("done"));
    let outcome = outcome(word.as_str().ok_or("outcome: no text")?)?.ok_or("never?")?;
    let at = world.waiting.iter().position(|(_, waiting)| *waiting == name);
    let (op, _) = world.waiting.remove(at.ok_or_else(|| format!("no {name} is under way"))?);
    world.machine.handle_completion(world.now, op, outcome);
    world.settle()
}

fn run(world: &mut World, by: Duration) -> Outcome {
    let end = world.now.mono + by;
    let (mut last, mut spins) = (world.now.mono, 0);
    while !world.tick(end)? {
        spins = if world.now.mono == last { spins + 1 } else { 0 };
        if spins > SPINS {
            return Err(format!("the machine spins: {:?}", world.machine.poll_timeout()));
        }
        last = world.now.mono;
    }
    Ok(())
}

/// Time passes. In the background peers keep their sessions alive, and pings are nobody's business.
fn advance(world: &mut World, step: &mut Fields) -> Outcome {
    let by = duration(&resolve(&step.take("advance")?, &world.names)?)?;
    let Some(background) = step.maybe("background") else { return run(world, by) };
    let alive: Vec<String> = match background {
        Value::Bool(_) => world.peers.keys().cloned().collect(),
        Value::Array(list) => {
            list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
        }
        other => return Err(format!("background: {other}")),
    };
    let end = world.now.mono + by;
    while world.now.mono < end {
        for name in &alive {
            inputs::ping(world, name)?;
        }
        let left = end.since(world.now.mono);
        run(world, left.min(PEER_PINGS))?;
    }
    world.outputs.retain(|output| {
        let kind = output.value["type"].as_str();
        let bare = output.value["frames"] == json!([]);
        !(bare && matches!(kind, Some("0x07" | "0x08")))
    });
    Ok(())
}

/// The whole of connecting, for scenarios about what comes after it.
fn connect(world: &mut World, step: &mut Fields) -> Outcome {
    let name = step.text("connect")?;
    let count = step.maybe("count").map_or(Some(1), |count| count.as_u64()).ok_or("no count")?;
    let from = step.maybe("from_number").and_then(|from| from.as_u64()).unwrap_or(0);
    let over = step.maybe("session").unwrap_or_else(|| json!({}));
    for number in from..from + count {
        let name = name.replace('#', &number.to_string());
        if world.is_server() {
            inputs::hello(world, &mut Fields::of(json!({"hello": name}))?)?;
            let peer = world.peers.get(&name).ok_or("no such peer")?;
            let attempt = peer.links.len() - 1;
            if !peer.links[attempt].has(1) {
                return Err(format!("{name} was not answered: {:?}", world.outputs));
            }
            world.switch(&name, attempt)?;
            world.settle()?;
        } else {
            answer_client(world, &name, &over)?;
        }
    }
    let lost = world.outputs.iter().any(|output| output.value["type"] == "0x06");
    if lost { Err(format!("refused: {:?}", world.outputs)) } else { Ok(()) }
}

/// The server's side of connecting: the answer, and a roster once the client is in epoch 1.
fn answer_client(world: &mut World, name: &str, over: &Value) -> Outcome {
    let fields = json!({"answer": name, "session": over});
    inputs::answer(world, &mut Fields::of(fields)?)?;
    let attempt = world.peers.get(name).ok_or("no such peer")?.links.len() - 1;
    let link = world.link(name, attempt).ok_or("no such link")?;
    if link.current != 1 {
        return Err("the client has not switched".to_owned());
    }
    let roster = json!({
        "type": "roster", "rooms": ["lobby"],
        "members": [{"member": "ann", "status": "online", "since": 1}],
    });
    world.say(name, attempt, PacketType::Presence, &roster)?;
    world.settle()
}
