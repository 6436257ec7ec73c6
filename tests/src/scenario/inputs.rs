//! Datagrams that scripted peers and strangers send.

use super::frames;
use super::link::{Birth, Link, Packet};
use super::pattern::resolve;
use super::react::rotation;
use super::words::{address, kind, lay_over, signed_duration};
use super::world::World;
use crate::vectors::{Fields, Outcome, unhex};
use clawchat_core::crypto::derive::Direction;
use clawchat_core::id::PortId;
use clawchat_core::limits::{DATAGRAM_BASE, OVERHEAD};
use clawchat_core::time::UnixMs;
use clawchat_core::transport::path::Path;
use clawchat_core::wire::header::PacketType;
use serde_json::{Value, json};

/// The name that a signal must have.
const SIGNAL: &str = "CLAWCHAT_COMPROMISED_V2";

/// Sends what the step says.
///
/// # Errors
/// When it says nothing, or what it says can't be sent.
pub(super) fn input(world: &mut World, step: &mut Fields) -> Outcome {
    let count = step.maybe("count").map_or(Some(1), |count| count.as_u64()).ok_or("no count")?;
    let template = step.clone();
    for index in 0..count {
        world.names.insert("i".to_owned(), json!(index));
        if index == 0 {
            one(world, step)?;
        } else {
            one(world, &mut template.clone())?;
        }
    }
    Ok(())
}

fn one(world: &mut World, step: &mut Fields) -> Outcome {
    if step.has("hello") {
        hello(world, step)
    } else if step.has("answer") {
        answer(world, step)
    } else if step.has("switch") {
        let name = step.text("switch")?;
        let attempt = attempt(world, &name, step)?;
        let link = world.link(&name, attempt).ok_or("no such link")?;
        link.current = link.newest();
        let message = rotation("switch", link.current, None);
        send_message(world, step, &name, attempt, PacketType::KeyRotation, &message)
    } else if step.has("offer") {
        let name = step.text("offer")?;
        let attempt = attempt(world, &name, step)?;
        let message = world.offer(&name, attempt)?;
        send_message(world, step, &name, attempt, PacketType::KeyRotation, &message)
    } else if step.has("send") {
        send(world, step)
    } else if step.has("replay") {
        let label = step.text("replay")?;
        let bytes = world.labels.get(&label).cloned();
        let bytes = bytes.ok_or_else(|| format!("no datagram is called {label:?}"))?;
        let path = stranger(world, step)?;
        pass(world, step, path, bytes)
    } else if step.has("raw") {
        raw(world, step)
    } else {
        Err("this step does nothing that is known".to_owned())
    }
}

/// The attempt that a step means: the last one, unless it says which.
fn attempt(world: &World, name: &str, step: &mut Fields) -> Outcome<usize> {
    let peer = world.peers.get(name).ok_or_else(|| format!("no peer is called {name:?}"))?;
    match step.maybe("attempt").map(|attempt| attempt.as_u64()) {
        Some(Some(attempt)) => usize::try_from(attempt).map_err(|error| error.to_string()),
        Some(None) => Err("attempt: no number".to_owned()),
        None => peer.links.len().checked_sub(1).ok_or_else(|| format!("{name} never connected")),
    }
}

/// The path of a datagram: a peer's, but for what the step says.
fn path_of(step: &mut Fields, mut path: Path, world: &World) -> Outcome<Path> {
    if let Some(from) = step.maybe("from") {
        path.remote = match &resolve(&from, &world.names)? {
            // Many ports of one address, or many addresses, by number.
            Value::Object(fields) if fields.contains_key("port") => {
                let number = fields["port"].as_u64().unwrap_or(0);
                address(&json!(format!("10.9.9.9:{}", 1000 + number)))?
            }
            Value::Object(fields) => {
                let number = fields.get("ip").and_then(Value::as_u64).unwrap_or(0);
                address(&json!(format!("10.{}.{}.1:5000", number / 250, number % 250)))?
            }
            other => address(other)?,
        };
    }
    if let Some(port) = step.maybe("port").and_then(|port| port.as_u64()) {
        path.port = PortId(u32::try_from(port).map_err(|error| error.to_string())?);
    }
    Ok(path)
}

/// The path of a datagram of nobody known.
fn stranger(world: &World, step: &mut Fields) -> Outcome<Path> {
    let base = match step.maybe("as") {
        Some(Value::String(name)) => world.peers.get(&name).map(super::world::Peer::path),
        _ => world.peers.values().next().map(super::world::Peer::path),
    };
    path_of(step, base.ok_or("no such peer")?, world)
}

/// Changes bytes as the step says, names the datagram, and delivers it unless it is held back.
fn pass(world: &mut World, step: &mut Fields, path: Path, mut bytes: Vec<u8>) -> Outcome {
    if let Some(flip) = step.maybe("flip") {
        let [at, mask] = [0, 1].map(|index| flip[index].as_i64());
        let (at, mask) = (at.ok_or("flip: no offset")?, mask.ok_or("flip: no mask")?);
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let at = if at < 0 { length + at } else { at };
        let byte =
            usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)).ok_or("flip: where?")?;
        *byte ^= u8::try_from(mask).map_err(|error| error.to_string())?;
    }
    if let Some(resize) = step.maybe("resize").and_then(|resize| resize.as_i64()) {
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX) + resize;
        bytes.resize(usize::try_from(length).unwrap_or(0), 0);
    }
    if let Some(label) = step.maybe("label") {
        let label = label.as_str().ok_or("label: no text")?.to_owned();
        world.labels.insert(label, bytes.clone());
    }
    if step.maybe("hold").is_some_and(|hold| hold == true) {
        return Ok(());
    }
    world.deliver(path, &bytes)
}

/// The timestamp of a datagram: now, or older by `age`.
fn timestamp(world: &World, step: &mut Fields) -> Outcome<UnixMs> {
    let Some(age) = step.maybe("age") else { return Ok(world.now.wall) };
    let (future, age) = signed_duration(&age)?;
    let (ms, wall) = (u64::try_from(age.as_millis()).unwrap_or(u64::MAX), world.now.wall.0);
    Ok(UnixMs(if future { wall + ms } else { wall.saturating_sub(ms) }))
}

/// A client's hello: a new attempt, or, with `nonce`, one with the nonce of an earlier one.
///
/// # Errors
/// See [`input`].
pub(super) fn hello(world: &mut World, step: &mut Fields) -> Outcome {
    let name = resolve(&step.take("hello")?, &world.names)?;
    let name = name.as_str().ok_or("hello: no name")?.replace('#', &world.names_index());
    let private = world.private_key();
    let fresh = world.rng.u64();
    let peer = world.peers.get(&name).ok_or_else(|| format!("no peer is called {name:?}"))?;
    let file = world.files.get(&peer.file).ok_or("the peer has no file")?.clone();
    let nonce = match step.maybe("nonce").map(|nonce| nonce.as_u64()) {
        Some(nonce) => nonce.ok_or("nonce: no number")?,
        None => fresh,
    };
    let mut secret = file.shared_secret();
    if step.maybe("secret").is_some_and(|which| which == "unknown") {
        secret = clawchat_core::secret::Secret::take(&mut [0xee; 32]);
    }
    let timestamp = timestamp(world, step)?;
    let mut offer = rotation("offer", 1, Some(&private.public()));
    offer["server_id"] = json!(file.server_id);
    if let Some(over) = step.maybe("with") {
        lay_over(&mut offer, &resolve(&over, &world.names)?);
    }
    let length = step.maybe("length").and_then(|length| length.as_u64());
    let length = length.map_or(Ok(DATAGRAM_BASE), |length| {
        usize::try_from(length).map_err(|error| error.to_string())
    })?;
    let list = match step.maybe("frames") {
        Some(list) => list.as_array().cloned().ok_or("frames: no list")?,
        None => vec![json!({ "signal": offer })],
    };
    let kind = step.maybe("type").map_or(Ok(PacketType::KeyRotation), |text| kind(&text))?;
    let mut plaintext = frames::plaintext(&list)?;
    plaintext.resize(length - OVERHEAD, 0);
    let birth = Birth { secret: &secret, timestamp, nonce };
    let mut link = Link::new(Direction::C2s, &birth, private);
    let iv_seq = step.maybe("bad_iv").map(|_| nonce ^ 1);
    let packet = Packet { epoch: 0, seq: nonce, iv_seq, kind, timestamp, plaintext: &plaintext };
    let bytes = link.seal_hello(&secret, &packet)?;
    let path = path_of(step, peer.path(), world)?;
    world.peers.get_mut(&name).ok_or("no such peer")?.links.push(link);
    pass(world, step, path, bytes)
}

/// A server's answer to the newest hello, or what `signal` is in its place.
///
/// # Errors
/// See [`input`].
pub(super) fn answer(world: &mut World, step: &mut Fields) -> Outcome {
    let name = step.text("answer")?;
    let attempt = attempt(world, &name, step)?;
    let peer = world.peers.get(&name).ok_or("no such peer")?;
    let (path, file) = (peer.path(), world.files.get(&peer.file).ok_or("the peer has no file")?);
    let mut session = json!({
        "now": world.now.wall.0, "member": file.member, "server_id": file.server_id,
        "server_name": "OpenClaw Production", "observed": "198.51.100.1:40000", "keepalive": 20,
        "idle_timeout": 60, "next_rotation": world.now.wall.secs() + 3600,
        "rotation_interval": 3600, "grace_period": 300,
    });
    if let Some(over) = step.maybe("session") {
        lay_over(&mut session, &resolve(&over, &world.names)?);
    }
    let list = match (step.maybe("frames"), step.maybe("signal")) {
        (Some(list), _) => list.as_array().cloned().ok_or("frames: no list")?,
        (None, Some(signal)) => vec![json!({ "signal": resolve(&signal, &world.names)? })],
        (None, None) => {
            let mut signal = world.answer(&name, attempt)?;
            signal["session"] = session;
            if let Some(over) = step.maybe("with") {
                lay_over(&mut signal, &resolve(&over, &world.names)?);
            }
            vec![json!({ "signal": signal })]
        }
    };
    let word = if list[0]["signal"]["type"] == "error" { "0x06" } else { "0x04" };
    let kind = kind(&step.maybe("type").unwrap_or_else(|| json!(word)))?;
    let plaintext = frames::plaintext(&list)?;
    let (seq, timestamp) = (world.rng.u64(), timestamp(world, step)?);
    let iv_seq = step.maybe("bad_iv").map(|_| seq ^ 1);
    let link = world.link(&name, attempt).ok_or("no such link")?;
    let packet = Packet { epoch: 0, seq, iv_seq, kind, timestamp, plaintext: &plaintext };
    let bytes = link.seal(&packet)?;
    let path = path_of(step, path, world)?;
    pass(world, step, path, bytes)
}

/// A ping of a peer that has a session.
///
/// # Errors
/// When it can't be sealed.
pub(super) fn ping(world: &mut World, name: &str) -> Outcome {
    let Some(peer) = world.peers.get(name) else { return Err(format!("no peer {name:?}")) };
    let Some(attempt) = peer.links.len().checked_sub(1) else { return Ok(()) };
    if peer.links[attempt].current == 0 {
        return Ok(());
    }
    let path = peer.path();
    let datagram = world.seal_next(name, attempt, PacketType::Ping, &[json!({"padding": 1})])?;
    world.deliver(path, &datagram)
}

fn send_message(
    world: &mut World,
    step: &mut Fields,
    name: &str,
    attempt: usize,
    kind: PacketType,
    message: &Value,
) -> Outcome {
    let mut message = message.clone();
    if let Some(over) = step.maybe("with") {
        lay_over(&mut message, &resolve(&over, &world.names)?);
    }
    let link = world.link(name, attempt).ok_or("no such link")?;
    let id = step.maybe("id").and_then(|id| id.as_u64()).unwrap_or(link.next_message);
    link.next_message = link.next_message.max(id + 1);
    let list = [json!({"message": {"id": id, "json": message}})];
    packet(world, step, name, attempt, kind, &list)
}

/// Seals frames with a peer's keys, in the epoch, with the number and of the age that the step says.
fn packet(
    world: &mut World,
    step: &mut Fields,
    name: &str,
    attempt: usize,
    kind: PacketType,
    list: &[Value],
) -> Outcome {
    let mut plaintext = frames::plaintext(list)?;
    if let Some(length) = step.maybe("pad_to").and_then(|length| length.as_u64()) {
        let length = usize::try_from(length).unwrap_or(0).saturating_sub(OVERHEAD);
        plaintext.resize(length.max(plaintext.len()), 0);
    }
    let timestamp = timestamp(world, step)?;
    let number = |step: &mut Fields, key: &str| {
        let value = step.maybe(key).map(|value| resolve(&value, &world.names)).transpose()?;
        value.map(|value| value.as_u64().ok_or_else(|| format!("{key}: no number"))).transpose()
    };
    let (epoch, seq) = (number(step, "epoch")?, number(step, "seq")?);
    let skip = number(step, "skip")?.unwrap_or(0);
    let iv_seq = step.maybe("bad_iv").map(|_| u64::MAX);
    let path = world.peers.get(name).ok_or("no such peer")?.path();
    let link = world.link(name, attempt).ok_or("no such link")?;
    link.next_seq += skip;
    let seq = seq.unwrap_or_else(|| {
        link.next_seq += 1;
        link.next_seq - 1
    });
    let epoch = epoch.unwrap_or(link.current);
    let bytes =
        link.seal(&Packet { epoch, seq, iv_seq, kind, timestamp, plaintext: &plaintext })?;
    let path = path_of(step, path, world)?;
    pass(world, step, path, bytes)
}

fn send(world: &mut World, step: &mut Fields) -> Outcome {
    let name = step.text("send")?;
    let attempt = attempt(world, &name, step)?;
    let kind = kind(&step.take("type")?)?;
    if let Some(message) = step.maybe("message") {
        let message = if message == "answer" {
            world.answer(&name, attempt)?
        } else {
            resolve(&message, &world.names)?
        };
        return send_message(world, step, &name, attempt, kind, &message);
    }
    let list = if let Some(signal) = step.maybe("signal") {
        vec![json!({ "signal": signal_of(world, step, &name, attempt, signal)? })]
    } else {
        let list = resolve(&step.take("frames")?, &world.names)?;
        let list = list.as_array().cloned().ok_or("frames: no list")?;
        let link = world.link(&name, attempt).ok_or("no such link")?;
        let all = |frame: Value| {
            if frame == "ack_all" { link.ack().ok_or("nothing to acknowledge") } else { Ok(frame) }
        };
        list.into_iter().map(all).collect::<Result<Vec<_>, _>>()?
    };
    packet(world, step, &name, attempt, kind, &list)
}

/// A signal, signed if it is one of the compromised protocol.
fn signal_of(
    world: &World,
    step: &mut Fields,
    name: &str,
    attempt: usize,
    signal: Value,
) -> Outcome<Value> {
    let peer = world.peers.get(name).ok_or("no such peer")?;
    let link = peer.links.get(attempt).ok_or("no such link")?;
    let (id, now) = (link.id.to_string(), world.now.wall.secs());
    let mut signal = match signal.as_str() {
        Some("compromised") => json!({
            "type": "compromised", "version": "2.0", "signal": SIGNAL, "timestamp": now,
            "connection_id": id, "reason": "user_initiated",
        }),
        Some("compromised_ack") => json!({
            "type": "compromised_ack", "version": "2.0", "timestamp": now, "connection_id": id,
            "action": "keys_deleted", "new_file_ready": true,
        }),
        _ => resolve(&signal, &world.names)?,
    };
    if let Some(over) = step.maybe("with") {
        lay_over(&mut signal, &resolve(&over, &world.names)?);
    }
    let typed = signal["type"].as_str().unwrap_or_default().starts_with("compromised");
    let epoch = step.maybe("sign_epoch").and_then(|epoch| epoch.as_u64()).unwrap_or(link.current);
    match step.maybe("sign").as_ref().and_then(Value::as_str) {
        Some("not") => Ok(signal),
        Some("other_direction") => link.sign(epoch, false, &signal),
        _ if typed => {
            let mut signed = link.sign(epoch, true, &signal)?;
            if let Some(after) = step.maybe("after_signing") {
                lay_over(&mut signed, &after);
            }
            Ok(signed)
        }
        _ => Ok(signal),
    }
}

/// Bytes of nobody: hex, or as many as asked for that are well formed but fit no key.
fn raw(world: &mut World, step: &mut Fields) -> Outcome {
    let bytes = match step.take("raw")? {
        Value::String(text) => unhex(&text).ok_or("raw: no hex")?,
        Value::Number(length) => {
            let length = length.as_u64().and_then(|length| usize::try_from(length).ok());
            let mut bytes = world.rng.bytes(length.ok_or("raw: no length")?);
            let kind = kind(&step.maybe("type").unwrap_or_else(|| json!("0x04")))?;
            if bytes.len() > 25 {
                (bytes[0], bytes[17], bytes[25]) = (0x20, 0, kind as u8);
            }
            bytes
        }
        other => return Err(format!("raw: {other}")),
    };
    let path = stranger(world, step)?;
    pass(world, step, path, bytes)
}

impl World {
    /// The number of the repetition under way.
    fn names_index(&self) -> String {
        self.names.get("i").map_or_else(|| "0".to_owned(), Value::to_string)
    }
}
