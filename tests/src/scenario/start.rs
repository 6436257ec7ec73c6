//! The state that a scenario starts from.

use super::machine::Machine;
use super::words::{address, duration, lay_over};
use super::world::{FileData, Peer, World};
use crate::net::Rng;
use crate::vectors::{Fields, Outcome};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawchat_core::client::{Client, ClientConfig};
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::id::{ChatId, FileId};
use clawchat_core::limits::{KeyLimits, SESSIONS};
use clawchat_core::random::Seed;
use clawchat_core::secret::Secret;
use clawchat_core::server::{
    Credential, CredentialStatus, Member, PortChoice, RENEWAL_VALID_FOR, Server, ServerConfig,
    StoredChat, StoredFile, Timing,
};
use clawchat_core::time::{Instant, Now, UnixMs};
use clawchat_core::wire::message::{Chat, FileOffer, Recipient};
use clawchat_core::wire::secfile::{PortSchedule, SecurityFile};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Wall clock at the start, `unix_s`, when a scenario does not set it: 20 minutes into an hour.
const BEGIN: u64 = 1_772_000_400;
/// The server of all scenarios.
pub(super) const SERVER_ID: &str = "cc-550e8400-e29b-41d4-a716-446655440000";
/// Its address.
pub(super) const SERVER: &str = "192.0.2.1:50000";

/// Makes the machine and the world around it.
///
/// # Errors
/// For a start state that is none.
pub(super) fn world(start: &Value) -> Outcome<World> {
    Fields::of(start.clone())?.all(|start| {
        let clock = |start: &mut Fields, key: &str, or: u64| {
            start
                .maybe(key)
                .map_or(Ok(or), |value| value.as_u64().ok_or_else(|| format!("{key}: no time")))
        };
        let mono = Instant::from_micros(clock(start, "mono_s", 1000)? * 1_000_000);
        let wall = UnixMs(clock(start, "wall_s", BEGIN)? * 1000);
        let now = Now { mono, wall };
        let rng = Rng::new(clock(start, "seed", 1)?);
        let role = start.text("role")?;
        let flags = start.maybe("peer").unwrap_or_else(|| json!({}));
        let completes = start.maybe("complete").unwrap_or_else(|| json!({}));
        let keep = start.maybe("watch_start").is_some_and(|keep| keep == true);
        let mut world = match role.as_str() {
            "server" => server(start, now, rng)?,
            "client" => client(start, now, rng)?,
            other => return Err(format!("no role: {other}")),
        };
        world.set(&json!({"peer": flags, "complete": completes}))?;
        world.settle()?;
        if !keep {
            world.outputs.clear();
        }
        Ok(world)
    })
}

/// The secret of the file with this number.
fn secret(number: u64) -> [u8; 32] {
    let mut rng = Rng::new(0x5ec0 + number);
    rng.seed()
}

fn address_of(number: usize) -> Outcome<core::net::SocketAddr> {
    let (host, port) = (number % 200 + 1, 40_000 + number);
    address(&json!(format!("198.51.100.{host}:{port}")))
}

/// Members, their files and peers; `crowd` adds as many more.
struct Cast {
    members: BTreeMap<String, Vec<String>>,
    files: BTreeMap<String, Value>,
    peers: BTreeMap<String, Value>,
}

fn object_list(value: Option<Value>, or: &[&str]) -> Outcome<BTreeMap<String, Value>> {
    match value {
        None => Ok(or.iter().map(|name| ((*name).to_owned(), json!({}))).collect()),
        Some(Value::Object(fields)) => Ok(fields.into_iter().collect()),
        Some(other) => Err(format!("no object: {other}")),
    }
}

fn cast(start: &mut Fields) -> Outcome<Cast> {
    let mut members = BTreeMap::new();
    for (name, rooms) in object_list(start.maybe("members"), &["ann", "bob"])? {
        let rooms = rooms.as_array().cloned().unwrap_or_default();
        let rooms = rooms.iter().filter_map(|room| room.as_str().map(str::to_owned)).collect();
        members.insert(name, rooms);
    }
    let names: Vec<_> = members.keys().cloned().collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut files = object_list(start.maybe("files"), &names)?;
    let names: Vec<_> = files.keys().cloned().collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut peers = object_list(start.maybe("peers"), &names)?;
    let crowd = start.maybe("crowd").and_then(|count| count.as_u64()).unwrap_or(0);
    for number in 0..crowd {
        let name = format!("m{number}");
        members.insert(name.clone(), Vec::new());
        files.insert(name.clone(), json!({}));
        peers.insert(name, json!({}));
    }
    Ok(Cast { members, files, peers })
}

fn port_choice(value: Option<Value>, interval: u64) -> Outcome<PortChoice> {
    let schedule = || PortSchedule { seed: Secret::take(&mut [7; 32]), origin: 0, interval };
    match value {
        None => Ok(PortChoice::Fixed(50_000)),
        Some(Value::String(word)) if word == "random" => Ok(PortChoice::Random),
        Some(Value::String(word)) if word == "scheduled" => Ok(PortChoice::Scheduled(schedule())),
        Some(Value::Number(number)) => {
            let port = number.as_u64().and_then(|port| u16::try_from(port).ok());
            port.map(PortChoice::Fixed).ok_or_else(|| format!("no port: {number}"))
        }
        Some(other) => Err(format!("no choice of ports: {other}")),
    }
}

fn credential(file: u64, name: &str, now: Now, over: Value) -> Outcome<(Credential, FileData)> {
    Fields::of(over)?.all(|over| {
        let member = over.maybe("member").map_or_else(
            || Ok(name.to_owned()),
            |member| member.as_str().map(str::to_owned).ok_or("member: no text"),
        )?;
        let mut number = |key: &str, or: i64| {
            over.maybe(key)
                .map_or(Ok(or), |value| value.as_i64().ok_or_else(|| format!("{key}: no integer")))
        };
        let wall = i64::try_from(now.wall.secs()).unwrap_or(i64::MAX);
        let at = |moment: i64| u64::try_from(wall + moment).unwrap_or(0);
        // Several secrets may belong to one file.
        let id = number("file", i64::try_from(file).unwrap_or(0))?;
        let timestamp = at(number("timestamp", -60)?);
        let valid_until = at(number("valid_until", 86_400)?);
        let grace_period = number("grace_period", 300)?.unsigned_abs();
        let response_timeout = number("response_timeout", 10)?.unsigned_abs();
        let dying = number("dies", i64::MAX)?;
        let retired = number("retired", i64::MAX)?;
        let status = if retired != i64::MAX {
            CredentialStatus::Retired { since: at(retired) }
        } else if dying != i64::MAX {
            CredentialStatus::Dying { at: at(dying) }
        } else {
            CredentialStatus::Accepted
        };
        // A file carried by hand is renewed at its first session; most scenarios are about other things.
        let carried = over.maybe("carried").is_some_and(|carried| carried == true);
        let mut bytes = secret(file);
        let data = FileData {
            secret: bytes,
            member: member.clone(),
            server_id: SERVER_ID.to_owned(),
            timestamp,
        };
        let credential = Credential {
            file: FileId(id.unsigned_abs()),
            member,
            secret: Secret::take(&mut bytes),
            timestamp,
            carried,
            status,
            valid_until,
            grace_period,
            response_timeout,
        };
        Ok((credential, data))
    })
}

/// A file that a server kept from before.
fn stored_file(value: Value, now: Now) -> Outcome<StoredFile> {
    Fields::of(value)?.all(|file| {
        let id = ChatId::parse(&file.text("id")?).ok_or("no id")?;
        let (from, size) = (file.text("from")?, file.uint("size")?);
        let to = Recipient::parse(&file.text("to")?).ok_or("no recipient")?;
        let name = file.maybe("file").and_then(|name| name.as_str().map(str::to_owned));
        let name = name.unwrap_or_else(|| "a.bin".to_owned());
        let waits = file.list("waits")?;
        let waits = waits.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        let age = file.maybe("age").map_or_else(|| Ok(Default::default()), |age| duration(&age))?;
        let age = u64::try_from(age.as_millis()).unwrap_or(0);
        let stored_at = UnixMs(now.wall.0.saturating_sub(age));
        let offer = FileOffer { id, name, size, to, from };
        Ok(StoredFile { offer, sha256: [0x11; 32], to: waits, stored_at })
    })
}

fn stored_chat(value: Value, now: Now) -> Outcome<StoredChat> {
    Fields::of(value)?.all(|chat| {
        let id = ChatId::parse(&chat.text("id")?).ok_or("no chat id")?;
        let from = chat.text("from")?;
        let to = Recipient::parse(&chat.text("to")?).ok_or("no recipient")?;
        let text = match chat.maybe("length").and_then(|length| length.as_u64()) {
            Some(length) => "x".repeat(usize::try_from(length).unwrap_or(0)),
            None => chat.text("text")?,
        };
        let waits = chat.list("waits")?;
        let waits = waits.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        let age = chat.maybe("age").map_or_else(|| Ok(Default::default()), |age| duration(&age))?;
        let age = u64::try_from(age.as_millis()).unwrap_or(0);
        let stored_at = UnixMs(now.wall.0.saturating_sub(age));
        let chat = Chat { id, from, to, text, sent_at: stored_at };
        Ok(StoredChat { chat, to: waits, stored_at })
    })
}

/// Limits of keys that are lower than the protocol's, so that few bytes wear them out.
fn key_limits(start: &mut Fields) -> Outcome<KeyLimits> {
    let mut limits = KeyLimits::default();
    if start.has("key_limits") {
        start.within("key_limits", |fields| {
            limits.due = fields.uint("due")?;
            limits.stop = fields.uint("stop")?;
            limits.end = fields.uint("end")?;
            Ok(())
        })?;
    }
    Ok(limits)
}

fn server(start: &mut Fields, now: Now, mut rng: Rng) -> Outcome<World> {
    let Cast { members, files, peers } = cast(start)?;
    let number = |start: &mut Fields, key: &str, or: u64| {
        start
            .maybe(key)
            .map_or(Ok(or), |value| value.as_u64().ok_or_else(|| format!("{key}: no integer")))
    };
    let interval = number(start, "interval", 3600)?;
    let port = port_choice(start.maybe("port"), interval)?;
    let max = number(start, "max_sessions", SESSIONS as u64)?;
    let renewal_valid_for = number(start, "renewal_valid_for", RENEWAL_VALID_FOR)?;
    let server_name = start.maybe("server_name").and_then(|name| name.as_str().map(str::to_owned));
    let chats = start.maybe("chats").and_then(|chats| chats.as_array().cloned());
    let chats = chats.unwrap_or_default().into_iter().map(|chat| stored_chat(chat, now));
    let kept = start.maybe("kept_files").and_then(|kept| kept.as_array().cloned());
    let kept = kept.unwrap_or_default().into_iter().map(|file| stored_file(file, now));
    let (mut credentials, mut data) = (Vec::new(), BTreeMap::new());
    for (index, (name, over)) in files.into_iter().enumerate() {
        let (credential, file) = credential(index as u64 + 1, &name, now, over)?;
        credentials.push(credential);
        data.insert(name, file);
    }
    let config = ServerConfig {
        server_id: SERVER_ID.to_owned(),
        server_name: server_name.unwrap_or_else(|| "OpenClaw Production".to_owned()),
        public: "192.0.2.1".to_owned(),
        port,
        timing: Timing::every(interval),
        renewal_valid_for,
        members: members.into_iter().map(|(name, rooms)| Member { name, rooms }).collect(),
        credentials,
        chats: chats.collect::<Outcome<_>>()?,
        files: kept.collect::<Outcome<_>>()?,
        max_sessions: usize::try_from(max).unwrap_or(usize::MAX),
        key_limits: key_limits(start)?,
        provider: &RustCrypto,
    };
    let server = Server::new(config, &Seed::new(&mut rng.seed()), now);
    let mut world = World::new(Machine::Server(Box::new(server)), now, rng);
    world.files = data;
    for (index, (name, over)) in peers.into_iter().enumerate() {
        let peer = Fields::of(over)?.all(|over| {
            let file = over
                .maybe("file")
                .map_or_else(|| Some(name.clone()), |f| f.as_str().map(str::to_owned));
            let from =
                over.maybe("address").map_or_else(|| address_of(index), |at| address(&at))?;
            Ok(Peer::new(file.ok_or("file: no text")?, from))
        });
        world.peers.insert(name, peer?);
    }
    Ok(world)
}

/// The content of a client's security file, SPEC 6.2's with today's times.
fn content(now: Now) -> Value {
    let made = now.wall.secs() - 60;
    json!({
        "version": "2.0", "protocol": "clawchat-file-v2", "server_id": SERVER_ID,
        "server_name": "OpenClaw Production", "server_public_ip": "192.0.2.1",
        "server_udp_port": 50_000, "shared_secret": STANDARD.encode(secret(1)),
        "bootstrap_key_id": "bootstrap-ann", "timestamp": made, "valid_from": made,
        "valid_until": made + 3600, "next_rotation": made + 3600, "grace_period": 300,
        "supported_ciphers": ["AES-256-GCM"],
        "nat_traversal": {"stun_servers": [], "hole_punch_timeout": 60},
        "compromised_protocol": {"signal": "CLAWCHAT_COMPROMISED_V2", "response_timeout": 10},
    })
}

/// A security file of SPEC 6.2 as the core reads it.
///
/// # Errors
/// When it is refused.
pub(super) fn security_file(content: &Value) -> Outcome<SecurityFile> {
    let text = serde_json::to_vec(content).map_err(|error| error.to_string())?;
    SecurityFile::parse(&text).map_err(|refusal| refusal.to_string())
}

/// What a peer needs of a security file.
///
/// # Errors
/// When it is refused.
pub(super) fn file_data(content: &Value, member: &str) -> Outcome<FileData> {
    let file = security_file(content)?;
    let secret = *file.shared_secret.expose();
    let (server_id, timestamp) = (file.server_id.clone(), file.timestamp);
    Ok(FileData { secret, member: member.to_owned(), server_id, timestamp })
}

fn client(start: &mut Fields, now: Now, mut rng: Rng) -> Outcome<World> {
    let mut content = content(now);
    let over = start.maybe("file").unwrap_or_else(|| json!({}));
    let names = super::world::clock_names(now, now);
    lay_over(&mut content, &super::pattern::resolve(&over, &names)?);
    let file = security_file(&content)?;
    let data = file_data(&content, "ann")?;
    let addresses = start.maybe("addresses").unwrap_or_else(|| json!(["192.0.2.1"]));
    let addresses = addresses.as_array().cloned().unwrap_or_default();
    let ip = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let addresses: Option<Vec<_>> = addresses.iter().map(ip).collect();
    let port = start.maybe("port_by_hand").and_then(|port| port.as_u64());
    let reconnect = start.maybe("reconnect").is_none_or(|reconnect| reconnect == true);
    let config = ClientConfig {
        file,
        addresses: addresses.ok_or("addresses: no list of addresses")?,
        port: port.and_then(|port| u16::try_from(port).ok()),
        reconnect,
        key_limits: key_limits(start)?,
        provider: &RustCrypto,
    };
    let client = Client::new(config, &Seed::new(&mut rng.seed()), now);
    let mut world = World::new(Machine::Client(Box::new(client)), now, rng);
    world.files.insert("ann".to_owned(), data);
    // What a renewal of it is made of.
    world.names.insert("file".to_owned(), content);
    let peer = Peer::new("ann".to_owned(), address(&json!(SERVER))?);
    world.peers.insert("server".to_owned(), peer);
    Ok(world)
}
