//! Known answers: every case of `spec-vectors/*.json` as a test of its own.
//!
//! Each check takes all fields of its case; one that it leaves over fails the case.

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use clawchat_core::crypto::aead::{AwsLc, CipherProvider, RustCrypto};
use clawchat_core::crypto::agree::PrivateKey;
use clawchat_core::crypto::derive::{
    ConnectionId, Direction, EpochKeys, derive, direction_key, epoch_next, epoch_zero, hello_id,
};
use clawchat_core::crypto::envelope::checksum as checksum_of;
use clawchat_core::crypto::identity::{Identity, PacketIdentity, Recognised};
use clawchat_core::crypto::packet::PacketKeys;
use clawchat_core::crypto::replay::ReplayWindow;
use clawchat_core::crypto::{envelope, sign};
use clawchat_core::error::{Malformed, Violation};
use clawchat_core::id::{ChatId, Epoch};
use clawchat_core::limits::{DATAGRAM_BASE, HEADER_LEN, ITERATIONS, OVERHEAD};
use clawchat_core::secret::Secret;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::canonical::canonical;
use clawchat_core::wire::cursor::Writer;
use clawchat_core::wire::frame::{
    Fragment, Frame, Frames, write_ack, write_challenge, write_message, write_padding,
    write_response, write_signal,
};
use clawchat_core::wire::header::{Header, PacketType};
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{ErrorCode, Message, Recipient, Side, is_name};
use clawchat_core::wire::secfile::{Envelope, FileRefusal, PortSchedule, SecurityFile};
use clawchat_tests::vectors::{Fields, Outcome, folder, hex, json_files, load, own_folder};
use core::fmt::Debug;
use core::ops::RangeInclusive;
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;
use std::process::ExitCode;

// ---------------------------------------------------------------------------------------- the list

/// Makes the tests of one file, taking all fields of that file.
type Suite = fn(&mut Fields) -> Outcome<Vec<Trial>>;

/// What makes the known answers, and how the tests of each are told apart.
const PROVIDERS: [(&str, Provider); 2] = [("", &RustCrypto), (" (aws-lc)", &AwsLc)];

type Provider = &'static dyn CipherProvider;

/// The known answers, in the folder that `CLAWCHAT_SPEC_VECTORS` may name.
const KNOWN: [(&str, Suite); 9] = [
    ("compromised", |file| cases(file, "compromised", compromised_name, compromised)),
    ("frames", |file| cases(file, "frames", frame_name, frame)),
    ("handshake", |file| {
        sealed_cases(file, "handshake", |case| text_of(case, "connection_id"), handshake)
    }),
    ("key_derivation", |file| cases(file, "key_derivation", derivation_name, key_derivation)),
    ("packet", |file| sealed_cases(file, "packet", packet_name, packet)),
    ("packet_refused", packet_refused),
    ("port_schedule", |file| cases(file, "port_schedule", schedule_name, port_schedule)),
    ("punch", |file| sealed_cases(file, "punch", |case| text_of(case, "connection_id"), punch)),
    ("security_file", security_files),
];

/// The project's own vectors, always in its own folder.
const OWN: [(&str, Suite); 4] = [
    ("canonical", |file| cases(file, "canonical", why_name, canonical_json)),
    ("json_refused", |file| cases(file, "json_refused", message_name, json_refused)),
    ("messages", |file| cases(file, "messages", message_name, message)),
    ("names", |file| cases(file, "names", name_name, name)),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (list, folder) in [(&KNOWN[..], folder()), (&OWN[..], own_folder())] {
        for (name, suite) in list {
            let file = load(&folder.join(format!("{name}.json")));
            let result = match file.and_then(|file| file.all(suite)) {
                Ok(tests) => {
                    trials.extend(tests);
                    Ok(())
                }
                Err(why) => Err(why),
            };
            trials.push(trial(format!("files/{name}.json present"), move || result));
        }
    }
    for (which, folder) in [("known answers", folder()), ("own vectors", own_folder())] {
        trials.push(trial(format!("files/nothing unknown beside the {which}"), move || {
            let known = |file: &str| {
                KNOWN.iter().chain(&OWN).any(|(name, _)| file.strip_suffix(".json") == Some(name))
            };
            let others: Vec<_> =
                json_files(&folder)?.into_iter().filter(|file| !known(file)).collect();
            yes(others.is_empty(), &format!("files that nothing checks: {}", others.join(", ")))
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, check: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial::test(name, move || Ok(check()?))
}

/// The tests of a list of cases that need nothing else of their file.
fn cases(
    file: &mut Fields,
    suite: &str,
    name: fn(&Value) -> String,
    check: fn(&mut Fields) -> Outcome,
) -> Outcome<Vec<Trial>> {
    file.text("about")?;
    Ok(list_of(file, "cases")?
        .map(|(index, case)| {
            let name = format!("{suite}/{index:03} {}", name(&case));
            trial(name, move || Fields::of(case)?.all(check))
        })
        .collect())
}

/// Takes a list of cases, and numbers them.
fn list_of(file: &mut Fields, key: &str) -> Outcome<impl Iterator<Item = (usize, Value)> + use<>> {
    let list = file.list(key)?;
    yes(!list.is_empty(), &format!("{key} is empty"))?;
    Ok(list.into_iter().enumerate())
}

/// The tests of a list of cases that seal or agree: each case once for each provider.
fn sealed_cases(
    file: &mut Fields,
    suite: &str,
    name: fn(&Value) -> String,
    check: fn(&mut Fields, Provider) -> Outcome,
) -> Outcome<Vec<Trial>> {
    file.text("about")?;
    sealed_cases_of(file, "cases", suite, name, check)
}

fn sealed_cases_of(
    file: &mut Fields,
    key: &str,
    suite: &str,
    name: fn(&Value) -> String,
    check: impl Fn(&mut Fields, Provider) -> Outcome + Clone + Send + 'static,
) -> Outcome<Vec<Trial>> {
    let tests = |(index, case): (usize, Value)| {
        let check = check.clone();
        PROVIDERS.map(|(suffix, provider)| {
            let (check, case) = (check.clone(), case.clone());
            let name = format!("{suite}/{index:03} {}{suffix}", name(&case));
            trial(name, move || Fields::of(case)?.all(|case| check(case, provider)))
        })
    };
    Ok(list_of(file, key)?.flat_map(tests).collect())
}

// ------------------------------------------------------------------------------------- comparisons

fn yes(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn equal<T: PartialEq + Debug>(what: &str, got: T, expected: T) -> Outcome {
    if got == expected {
        return Ok(());
    }
    Err(format!("{what}:\n     got {got:?}\nexpected {expected:?}"))
}

fn same(what: &str, got: &[u8], expected: &[u8]) -> Outcome {
    if got == expected {
        return Ok(());
    }
    Err(format!("{what}:\n     got {}\nexpected {}", hex(got), hex(expected)))
}

/// Compares a key with the field of that name.
fn same_key(case: &mut Fields, field: &str, got: &Secret<32>) -> Outcome {
    same(field, got.expose(), &case.hex_array::<32>(field)?)
}

fn known<T>(what: &str, value: Option<T>) -> Outcome<T> {
    value.ok_or_else(|| format!("{what}: there is none"))
}

fn readable<T, E: Debug>(what: &str, result: Result<T, E>) -> Outcome<T> {
    result.map_err(|error| format!("{what}: {error:?}"))
}

// ------------------------------------------------------------------------------------ common parts

fn text_of(case: &Value, key: &str) -> String {
    case[key].as_str().unwrap_or("?").to_owned()
}

fn why_name(case: &Value) -> String {
    text_of(case, "why")
}

fn direction(case: &mut Fields) -> Outcome<Direction> {
    match case.text("direction")?.as_str() {
        "c2s" => Ok(Direction::C2s),
        "s2c" => Ok(Direction::S2c),
        other => Err(format!("no direction: {other}")),
    }
}

fn packet_type(case: &mut Fields) -> Outcome<PacketType> {
    let number = case.uint("type")?;
    let kind = u8::try_from(number).ok().and_then(PacketType::from_u8);
    kind.ok_or_else(|| format!("no packet type: {number}"))
}

fn timestamp(case: &mut Fields, key: &str) -> Outcome<UnixMs> {
    case.uint(key).map(UnixMs)
}

/// Two of an epoch's keys, the others being of no use to packets.
fn epoch_of(encryption_key: [u8; 32], iv_key: [u8; 32]) -> EpochKeys {
    EpochKeys {
        encryption_key: Secret::take(&mut { encryption_key }),
        mac_key: Secret::take(&mut [0; 32]),
        iv_key: Secret::take(&mut { iv_key }),
        next_key_seed: Secret::take(&mut [0; 32]),
    }
}

/// What a sealed packet is made of, besides its keys.
struct Parts<'a> {
    /// Given when another key than the packet's makes it.
    message_id: Option<[u8; 16]>,
    seq: u64,
    timestamp: UnixMs,
    kind: PacketType,
    plaintext: &'a [u8],
}

/// A datagram that `seal` makes of a plaintext in it, whose length it is told.
fn datagram_of(plaintext: &[u8], seal: impl FnOnce(&mut [u8], usize) -> usize) -> Vec<u8> {
    let length = plaintext.len();
    // Bytes that sealing must overwrite.
    let mut out = vec![0xff; OVERHEAD + length + 16];
    out[HEADER_LEN..HEADER_LEN + length].copy_from_slice(plaintext);
    let end = seal(&mut out, length);
    out.truncate(end);
    out
}

fn seal(keys: &mut PacketKeys, parts: &Parts<'_>) -> Vec<u8> {
    let Parts { message_id, seq, timestamp, kind, plaintext } = *parts;
    datagram_of(plaintext, |out, length| match message_id {
        Some(id) => keys.seal_as(id, seq, timestamp, kind, out, length),
        None => keys.seal(seq, timestamp, kind, out, length),
    })
}

/// The same with an identity made before.
fn seal_with(keys: &mut PacketKeys, identity: PacketIdentity, parts: &Parts<'_>) -> Vec<u8> {
    datagram_of(parts.plaintext, |out, length| keys.seal_with(identity, parts.kind, out, length))
}

/// Steps 3 and 5 of opening, for a `seq` found in step 2.
fn open(keys: &mut PacketKeys, header: &Header, seq: u64, datagram: &[u8]) -> Outcome<Vec<u8>> {
    yes(keys.iv_fits(header, seq), "dropped: IV")?;
    let mut bytes = datagram.to_vec();
    let range = keys.open(header, &mut bytes).map_err(|why| format!("dropped: {why:?}"))?;
    Ok(bytes[range].to_vec())
}

/// Seals `parts` to exactly `datagram`, and opens that to the same parts.
fn seal_and_open(keys: &mut PacketKeys, parts: &Parts<'_>, datagram: &[u8]) -> Outcome {
    same("sealed datagram", &seal(keys, parts), datagram)?;
    let header = known("header", Header::decode(datagram))?;
    equal("timestamp", header.timestamp, parts.timestamp)?;
    equal("type", header.kind, parts.kind)?;
    match parts.message_id {
        Some(id) => same("message id", &header.message_id, &id)?,
        None => equal("seq", keys.seq(&header), Some(parts.seq))?,
    }
    same("opened plaintext", &open(keys, &header, parts.seq, datagram)?, parts.plaintext)
}

/// The one frame of `plaintext` besides PADDING.
fn only_frame(plaintext: &[u8]) -> Outcome<Frame<'_>> {
    let frames: Result<Vec<_>, _> = Frames::new(plaintext).collect();
    match readable("frames", frames)?[..] {
        [frame] | [frame, Frame::Padding] => Ok(frame),
        ref other => Err(format!("expected one frame and PADDING: {other:?}")),
    }
}

/// A JSON value as the core reads it.
fn object_of(value: &Value) -> Outcome<Object> {
    let text = readable("writing JSON", serde_json::to_vec(value))?;
    readable("JSON", Object::parse(&text))
}

// ------------------------------------------------------------------------------------- compromised

fn compromised_name(case: &Value) -> String {
    format!("{} {}", text_of(case, "direction"), text_of(&case["object"], "type"))
}

fn compromised(case: &mut Fields) -> Outcome {
    let epoch_key = case.key("mac_key")?;
    let direction = direction(case)?;
    let mac = direction_key(&epoch_key, direction);
    let object = object_of(&case.take("object")?)?;
    let expected = case.text("canonical")?;
    let signature = case.text("signature")?;

    let form = known("canonical form", canonical(&object))?;
    equal("canonical form", String::from_utf8_lossy(&form).as_ref(), expected.as_str())?;
    equal("signature", sign::signature(&mac, &object).as_deref(), Some(signature.as_str()))?;

    let signed = object.clone().with("signature", signature.as_str());
    equal("canonical form of the signed object", canonical(&signed), Some(form))?;
    yes(sign::verify(&mac, &signed), "its own signature does not fit")?;
    yes(!sign::verify(&mac, &object), "an object without signature is taken")?;
    let changed = signed.clone().with("timestamp", 1_u64);
    yes(!sign::verify(&mac, &changed), "the signature fits another object")?;
    let other = direction_key(&epoch_key, direction.reverse());
    yes(!sign::verify(&other, &signed), "the signature fits the other direction")
}

// ------------------------------------------------------------------------------------------ frames

fn frame_name(case: &Value) -> String {
    let kind = text_of(case, "frame");
    case["why"].as_str().map_or_else(|| kind.clone(), |why| format!("{kind}: {why}"))
}

fn frame(case: &mut Fields) -> Outcome {
    let kind = case.text("frame")?;
    let bytes = case.hex("bytes")?;
    // Only a reason for people.
    case.maybe("why");
    if kind == "malformed" {
        return malformed(&bytes);
    }
    let read_only = match case.maybe("decode_only") {
        None => false,
        Some(Value::Bool(read_only)) => read_only,
        Some(other) => return Err(format!("field decode_only is no boolean: {other}")),
    };
    let frames: Result<Vec<_>, _> = Frames::new(&bytes).collect();
    let [frame] = readable("frames", frames)?[..] else {
        return Err("more or less than one frame".to_owned());
    };
    // Larger than needed: the writers leave room for lengths that are not known yet.
    let mut out = vec![0xff; bytes.len() + 16];
    let mut writer = Writer::new(&mut out);
    let written = match kind.as_str() {
        "ack" => ack(case, frame, &mut writer)?,
        "message" => fragment(case, frame, &mut writer)?,
        "chunk" => chunk(case, frame, &mut writer)?,
        "challenge" => {
            let data = case.hex_array("data")?;
            equal("frame", frame, Frame::Challenge(data))?;
            write_challenge(&mut writer, &data)
        }
        "response" => {
            let data = case.hex_array("data")?;
            equal("frame", frame, Frame::Response(data))?;
            write_response(&mut writer, &data)
        }
        "padding" => {
            equal("frame", frame, Frame::Padding)?;
            write_padding(&mut writer, bytes.len());
            true
        }
        "signal" => signal(case, frame, &mut writer)?,
        other => return Err(format!("no such frame: {other}")),
    };
    // A form that our writer does not choose (varints longer than needed) is only read.
    if read_only {
        return Ok(());
    }
    yes(written, "not written")?;
    let length = writer.len();
    same("written frame", &out[..length], &bytes)
}

/// Frames that no writer of the core makes: here only their integers are the core's.
fn write_chunk(out: &mut Writer<'_>, transfer: u64, offset: u64, bytes: &[u8]) -> bool {
    out.bytes(&[0x03]) && out.varint(transfer) && out.varint(offset) && out.bytes(bytes)
}

fn malformed(bytes: &[u8]) -> Outcome {
    let frames: Result<Vec<_>, _> = Frames::new(bytes).collect();
    // The JSON of a SIGNAL is read after its frame.
    let bad_signal = |frame: &Frame<'_>| match frame {
        Frame::Signal(json) => Object::parse(json).is_err(),
        Frame::Padding
        | Frame::Ack(_)
        | Frame::Message(_)
        | Frame::Chunk { .. }
        | Frame::Challenge(_)
        | Frame::Response(_) => false,
    };
    match frames {
        Ok(frames) if !frames.iter().any(bad_signal) => Err(format!("taken: {frames:?}")),
        _ => Ok(()),
    }
}

fn ack(case: &mut Fields, frame: Frame<'_>, out: &mut Writer<'_>) -> Outcome<bool> {
    let range = |pair: &Value| {
        let [start, end] = [0, 1].map(|at| pair[at].as_u64());
        let two = pair.as_array().is_some_and(|pair| pair.len() == 2);
        Some(RangeInclusive::new(start?, end?)).filter(|_| two)
    };
    let ranges: Option<Vec<_>> = case.list("ranges")?.iter().map(range).collect();
    let ranges = known("ranges", ranges)?;
    let delay_us = case.uint("delay_us")?;
    let Frame::Ack(ack) = frame else {
        return Err(format!("not an ACK: {frame:?}"));
    };
    equal("delay", ack.delay_us, delay_us)?;
    equal("largest", Some(ack.largest), ranges.first().map(|range| *range.end()))?;
    equal("smallest", Some(ack.smallest()), ranges.last().map(|range| *range.start()))?;
    equal("ranges", ack.ranges().collect::<Vec<_>>(), ranges.clone())?;
    Ok(write_ack(out, delay_us, ranges.into_iter()))
}

fn fragment(case: &mut Fields, frame: Frame<'_>, out: &mut Writer<'_>) -> Outcome<bool> {
    let data = case.hex("data")?;
    let expected = Fragment {
        id: case.uint("id")?,
        total: case.uint("total")?,
        offset: case.uint("offset")?,
        bytes: &data,
    };
    equal("frame", frame, Frame::Message(expected))?;
    Ok(write_message(out, &expected) == data.len())
}

fn chunk(case: &mut Fields, frame: Frame<'_>, out: &mut Writer<'_>) -> Outcome<bool> {
    let (transfer, offset) = (case.uint("transfer")?, case.uint("offset")?);
    let data = case.hex("data")?;
    equal("frame", frame, Frame::Chunk { transfer, offset, bytes: &data })?;
    Ok(write_chunk(out, transfer, offset, &data))
}

/// The signals among the vectors are errors.
fn signal(case: &mut Fields, frame: Frame<'_>, out: &mut Writer<'_>) -> Outcome<bool> {
    let object = object_of(&case.take("object")?)?;
    let Frame::Signal(json) = frame else {
        return Err(format!("not a SIGNAL: {frame:?}"));
    };
    equal("object", readable("JSON", Object::parse(json))?, object.clone())?;
    let message = readable("error", Message::read(json, PacketType::Error, Side::Server))?;
    equal("error, written", known("error", message)?.to_object(), object)?;
    // White space and the order of keys are free: the JSON goes out as it came.
    Ok(write_signal(out, json))
}

// --------------------------------------------------------------------------------------- handshake

/// What the steps of one handshake share.
struct Handshake {
    provider: Provider,
    connection: ConnectionId,
    epoch_zero: EpochKeys,
    client_public: [u8; 32],
    server_public: [u8; 32],
}

fn handshake(case: &mut Fields, provider: Provider) -> Outcome {
    let shared_secret = case.key("shared_secret")?;
    let nonce = u64::from_be_bytes(case.hex_array("nonce")?);
    let hello_at = timestamp(case, "timestamp_ms")?;
    let connection = ConnectionId::new(hello_at, nonce);
    equal("connection_id", connection.to_string(), case.text("connection_id")?)?;
    let epoch_zero = epoch_zero(&shared_secret, &connection, hello_at);
    case.within("epoch0", |keys| epoch_keys(keys, &epoch_zero))?;
    let first = hello_id(&shared_secret);
    same_key(case, "hello_id_key", &first)?;

    let (client_public, server_public, agreed) = agreement(case, provider)?;
    same_key(case, "client_public", &Secret::take(&mut { client_public }))?;
    same_key(case, "server_public", &Secret::take(&mut { server_public }))?;
    same_key(case, "dh", &agreed)?;
    let handshake = Handshake { provider, connection, epoch_zero, client_public, server_public };
    hello(case, &handshake, &Identity::new(&first), nonce, hello_at)?;
    answer(case, &handshake)?;
    refusal(case, &handshake)?;

    let Handshake { connection, epoch_zero, .. } = handshake;
    let seed = epoch_zero.next_key_seed;
    let epoch = Epoch(1);
    let keys = epoch_next(seed, agreed, &connection, epoch, &client_public, &server_public);
    case.within("epoch1", |case| epoch_keys(case, &keys))?;
    switch(case, &keys, provider)?;

    case.within("epoch2", |case| {
        let (client, server, agreed) = agreement(case, provider)?;
        let seed = keys.next_key_seed;
        epoch_keys(case, &epoch_next(seed, agreed, &connection, Epoch(2), &client, &server))
    })
}

fn epoch_keys(case: &mut Fields, keys: &EpochKeys) -> Outcome {
    same_key(case, "encryption_key", &keys.encryption_key)?;
    same_key(case, "mac_key", &keys.mac_key)?;
    same_key(case, "iv_key", &keys.iv_key)?;
    same_key(case, "next_key_seed", &keys.next_key_seed)
}

/// Both public keys and what both sides agree on.
fn agreement(case: &mut Fields, provider: Provider) -> Outcome<([u8; 32], [u8; 32], Secret<32>)> {
    let client = PrivateKey::new(provider, case.key("client_private")?);
    let server = PrivateKey::new(provider, case.key("server_private")?);
    let (client_public, server_public) = (client.public(), server.public());
    let agreed = known("agreement", client.agree(&server_public))?;
    let other = known("agreement", server.agree(&client_public))?;
    yes(agreed.same(&other), "the two sides do not agree")?;
    Ok((client_public, server_public, agreed))
}

/// Reads the SIGNAL of an epoch-0 plaintext, and writes the same plaintext again.
fn signal_of(plaintext: &[u8]) -> Outcome<&[u8]> {
    let frame = only_frame(plaintext)?;
    let Frame::Signal(json) = frame else {
        return Err(format!("not a SIGNAL: {frame:?}"));
    };
    let mut out = vec![0xff; plaintext.len()];
    let mut writer = Writer::new(&mut out);
    yes(write_signal(&mut writer, json), "the SIGNAL is not written")?;
    write_padding(&mut writer, plaintext.len());
    same("written plaintext", &out, plaintext)?;
    Ok(json)
}

/// Reads a message, and checks that every field of its JSON went into it.
fn read_message(json: &[u8], kind: PacketType, side: Side) -> Outcome<Message> {
    let message = known("message", readable("message", Message::read(json, kind, side))?)?;
    let object = readable("JSON", Object::parse(json))?;
    equal("message, written", message.to_object(), object)?;
    Ok(message)
}

fn hello(
    case: &mut Fields,
    handshake: &Handshake,
    first: &Identity,
    nonce: u64,
    hello_at: UnixMs,
) -> Outcome {
    let plaintext = case.hex("hello_plaintext")?;
    let datagram = case.hex("hello")?;
    let id = first.message_id(nonce);
    equal("nonce", first.seq(&id), Some(nonce))?;
    let parts = Parts {
        message_id: Some(id),
        seq: nonce,
        timestamp: hello_at,
        kind: PacketType::KeyRotation,
        plaintext: &plaintext,
    };
    equal("length of the hello", datagram.len(), DATAGRAM_BASE)?;
    let mut keys = PacketKeys::new(&handshake.epoch_zero, Direction::C2s, handshake.provider);
    seal_and_open(&mut keys, &parts, &datagram)?;
    let message = read_message(signal_of(&plaintext)?, PacketType::KeyRotation, Side::Client)?;
    let Message::Offer { epoch: Epoch(1), public_key, server_id: Some(_) } = message else {
        return Err(format!("not a hello: {message:?}"));
    };
    same("public key of the hello", &public_key, &handshake.client_public)
}

/// Seals and opens one of the server's epoch-0 packets, and reads its message.
fn reply(
    case: &mut Fields,
    handshake: &Handshake,
    name: &str,
    seq: u64,
    kind: PacketType,
) -> Outcome<(UnixMs, Message)> {
    let plaintext = case.hex(&format!("{name}_plaintext"))?;
    let datagram = case.hex(name)?;
    let timestamp = timestamp(case, &format!("{name}_timestamp_ms"))?;
    let parts = Parts { message_id: None, seq, timestamp, kind, plaintext: &plaintext };
    let mut keys = PacketKeys::new(&handshake.epoch_zero, Direction::S2c, handshake.provider);
    seal_and_open(&mut keys, &parts, &datagram)?;
    Ok((timestamp, read_message(signal_of(&plaintext)?, kind, Side::Server)?))
}

fn answer(case: &mut Fields, handshake: &Handshake) -> Outcome {
    let seq = case.decimal("server_seq")?;
    match reply(case, handshake, "answer", seq, PacketType::KeyRotation)? {
        (at, Message::Answer { epoch: Epoch(1), public_key, session: Some(session) }) => {
            same("public key of the answer", &public_key, &handshake.server_public)?;
            equal("now", session.now, at)?;
            equal("member", session.member.as_str(), "alice")?;
            equal("observed", session.observed.as_str(), "198.51.100.7:50000")?;
            equal("keepalive", session.keepalive, 20)?;
            equal("idle_timeout", session.idle_timeout, 60)?;
            equal("rotation_interval", session.rotation_interval, 3600)?;
            equal("grace_period", session.grace_period, 300)
        }
        (_, other) => Err(format!("not an answer: {other:?}")),
    }
}

fn refusal(case: &mut Fields, handshake: &Handshake) -> Outcome {
    let seq = case.decimal("error_seq")?;
    match reply(case, handshake, "error", seq, PacketType::Error)? {
        (at, Message::Error(error)) => {
            equal("code", error.code, ErrorCode::ClockSkew)?;
            equal("fatal", error.fatal, true)?;
            equal("id", error.id, None)?;
            equal("now", error.now, Some(at))
        }
        (_, other) => Err(format!("not an error: {other:?}")),
    }
}

fn switch(case: &mut Fields, keys: &EpochKeys, provider: Provider) -> Outcome {
    let plaintext = case.hex("switch_plaintext")?;
    let parts = Parts {
        message_id: None,
        // The first packet of the client's epoch 1.
        seq: 1,
        timestamp: timestamp(case, "switch_timestamp_ms")?,
        kind: PacketType::KeyRotation,
        plaintext: &plaintext,
    };
    let mut keys = PacketKeys::new(keys, Direction::C2s, provider);
    seal_and_open(&mut keys, &parts, &case.hex("switch")?)?;
    let frame = only_frame(&plaintext)?;
    let Frame::Message(whole) = frame else {
        return Err(format!("not a MESSAGE: {frame:?}"));
    };
    let expected = Fragment { id: 0, total: whole.bytes.len() as u64, offset: 0, ..whole };
    equal("fragment", whole, expected)?;
    let mut out = vec![0xff; plaintext.len() + 8];
    let mut writer = Writer::new(&mut out);
    equal("bytes written", write_message(&mut writer, &whole), whole.bytes.len())?;
    let length = writer.len();
    same("written plaintext", &out[..length], &plaintext)?;
    let message = read_message(whole.bytes, parts.kind, Side::Client)?;
    equal("message", message, Message::Switch { epoch: Epoch(1) })
}

// ---------------------------------------------------------------------------------- key derivation

fn derivation_name(case: &Value) -> String {
    format!("secret of {} bytes", text_of(case, "secret").len() / 2)
}

fn key_derivation(case: &mut Fields) -> Outcome {
    let keys = derive(&case.hex("secret")?, &case.hex("context")?);
    epoch_keys(case, &keys)?;
    for direction in [Direction::C2s, Direction::S2c] {
        case.within(direction.name(), |case| {
            same_key(case, "enc", &direction_key(&keys.encryption_key, direction))?;
            same_key(case, "pid", &direction_key(&keys.iv_key, direction))?;
            same_key(case, "mac", &direction_key(&keys.mac_key, direction))
        })?;
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------ packet

fn packet_name(case: &Value) -> String {
    format!("{} type {} seq {}", text_of(case, "direction"), case["type"], text_of(case, "seq"))
}

fn packet(case: &mut Fields, provider: Provider) -> Outcome {
    let direction = direction(case)?;
    let epoch = epoch_of(case.hex_array("encryption_key")?, case.hex_array("iv_key")?);
    let plaintext = case.hex("plaintext")?;
    let parts = Parts {
        message_id: None,
        seq: case.decimal("seq")?,
        timestamp: timestamp(case, "timestamp_ms")?,
        kind: packet_type(case)?,
        plaintext: &plaintext,
    };
    let identity = Identity::new(&direction_key(&epoch.iv_key, direction));
    let id = case.hex_array::<16>("message_id")?;
    let iv = case.hex_array::<12>("iv")?;
    same("message id", &identity.message_id(parts.seq), &id)?;
    equal("seq of the message id", identity.seq(&id), Some(parts.seq))?;
    same("IV", &identity.iv(parts.timestamp, parts.seq), &iv)?;

    let datagram = case.hex("datagram")?;
    let header = known("header", Header::decode(&datagram))?;
    same("message id of the header", &header.message_id, &id)?;
    same("IV of the header", &header.iv, &iv)?;
    same("header, written", &header.encode(), &datagram[..HEADER_LEN])?;
    let mut keys = PacketKeys::new(&epoch, direction, provider);
    seal_and_open(&mut keys, &parts, &datagram)?;
    let mut batch = keys.identities(parts.timestamp, parts.seq, 1);
    let made = known("identity", batch.next())?;
    same("sealed with it", &seal_with(&mut keys, made, &parts), &datagram)?;
    let mut said = [Recognised::Foreign];
    keys.recognise(&[header], &mut said);
    equal("recognised", said, [Recognised::Fits(parts.seq)])?;
    let other = PacketKeys::new(&epoch, direction.reverse(), provider);
    other.recognise(&[header], &mut said);
    equal("recognised under the other direction", said, [Recognised::Foreign])?;
    equal("seq under the other direction", other.seq(&header), None)
}

/// All five steps of opening.
fn open_datagram(keys: &mut PacketKeys, window: &mut ReplayWindow, datagram: &[u8]) -> Outcome {
    let header = Header::decode(datagram).ok_or("dropped: form")?;
    let seq = keys.seq(&header).ok_or("dropped: no key")?;
    yes(window.may_open(seq), "dropped: seq")?;
    open(keys, &header, seq, datagram)?;
    window.opened(seq);
    Ok(())
}

fn packet_refused(file: &mut Fields) -> Outcome<Vec<Trial>> {
    file.text("about")?;
    let direction = direction(file)?;
    let (encryption_key, iv_key) = (file.hex_array("encryption_key")?, file.hex_array("iv_key")?);
    let keys = move |provider: Provider| {
        PacketKeys::new(&epoch_of(encryption_key, iv_key), direction, provider)
    };
    let good = file.hex("good")?;
    let refused = move |case: &mut Fields, provider: Provider| {
        // Only a reason for people.
        case.text("why")?;
        let datagram = case.hex("datagram")?;
        match open_datagram(&mut keys(provider), &mut ReplayWindow::default(), &datagram) {
            Ok(()) => Err("opened".to_owned()),
            Err(_) => Ok(()),
        }
    };
    let mut tests = sealed_cases_of(file, "cases", "packet_refused", why_name, refused)?;
    tests.extend(PROVIDERS.map(|(suffix, provider)| {
        let good = good.clone();
        trial(format!("packet_refused/good opens, once{suffix}"), move || {
            let (mut keys, mut window) = (keys(provider), ReplayWindow::default());
            open_datagram(&mut keys, &mut window, &good)?;
            yes(open_datagram(&mut keys, &mut window, &good).is_err(), "opened twice")
        })
    }));
    Ok(tests)
}

// ----------------------------------------------------------------------------------- port schedule

fn schedule_name(case: &Value) -> String {
    format!("slot {}", case["slot"])
}

fn port_schedule(case: &mut Fields) -> Outcome {
    let schedule = PortSchedule {
        seed: case.key("seed")?,
        origin: case.uint("origin")?,
        interval: case.uint("interval")?,
    };
    let unix_s = case.uint("unix_s")?;
    let slot = case.uint("slot")?;
    equal("slot", schedule.slot(unix_s), slot)?;
    let (since, left) = schedule.within_slot(unix_s);
    equal("time in the slot", since + left, schedule.interval)?;
    equal("slot one second before it", schedule.slot(unix_s - since - 1), slot - 1)?;
    equal("slot at its end", schedule.slot(unix_s + left), slot + 1)?;

    let port = |port: &Value| u16::try_from(port.as_u64()?).ok();
    let expected: Option<Vec<_>> = case.list("ports")?.iter().map(port).collect();
    let expected = known("ports", expected)?;
    equal("ports", schedule.ports(slot).collect(), expected.clone())?;
    let one_by_one = (0..).zip(&expected).map(|(attempt, _)| schedule.port(slot, attempt));
    equal("ports one by one", one_by_one.collect(), expected)
}

// ------------------------------------------------------------------------------------------- punch

fn punch(case: &mut Fields, provider: Provider) -> Outcome {
    let shared_secret = case.key("shared_secret")?;
    let nonce = u64::from_be_bytes(case.hex_array("nonce")?);
    let timestamp = timestamp(case, "timestamp_ms")?;
    let connection = ConnectionId::new(timestamp, nonce);
    equal("connection_id", connection.to_string(), case.text("connection_id")?)?;

    // 0^7 ‖ 0x01 ‖ nonce under hello_id.
    let first = hello_id(&shared_secret);
    let mut block = (1 << 64 | u128::from(nonce)).to_be_bytes().into();
    Aes256::new(first.expose().into()).encrypt_block(&mut block);
    let id = block.into();
    equal("a punch read as a hello", Identity::new(&first).seq(&id), None)?;

    let keys = epoch_zero(&shared_secret, &connection, timestamp);
    let plaintext = [0];
    let parts = Parts {
        message_id: Some(id),
        seq: nonce,
        timestamp,
        kind: PacketType::Ping,
        plaintext: &plaintext,
    };
    let datagram = case.hex("datagram")?;
    equal("length", datagram.len(), 64)?;
    seal_and_open(&mut PacketKeys::new(&keys, Direction::S2c, provider), &parts, &datagram)?;
    equal("frame", only_frame(&plaintext)?, Frame::Padding)
}

// ----------------------------------------------------------------------------------- security file

fn security_files(file: &mut Fields) -> Outcome<Vec<Trial>> {
    file.text("about")?;
    let key = file.base64_array("bootstrap_key_refused")?;
    let now = file.uint("now_refused")?;
    let name = |case: &Value| {
        let (content, file) = (&case["content"], &case["file"]);
        format!("{}, {} iterations", text_of(content, "server_public_ip"), file["iterations"])
    };
    let refused =
        move |case: &mut Fields, provider: Provider| refused_file(case, provider, key, now);
    let mut tests = sealed_cases_of(file, "cases", "security_file", name, security_file)?;
    tests.extend(sealed_cases_of(file, "refused", "security_file/refused", why_name, refused)?);
    Ok(tests)
}

/// The fields of an envelope.
const ENVELOPE: [&str; 9] = [
    "version",
    "salt",
    "iv",
    "ciphertext",
    "tag",
    "algorithm",
    "iterations",
    "timestamp",
    "checksum",
];

fn refused_file(case: &mut Fields, provider: Provider, key: [u8; 32], now: u64) -> Outcome {
    // Only a reason for people.
    case.text("why")?;
    let expected = case.text("expect")?;
    let mut key = if case.has("bootstrap_key") { case.base64_array("bootstrap_key")? } else { key };
    let now = if case.has("now") { case.uint("now")? } else { now };
    let fields = case.take("file")?;
    let bytes = readable("writing JSON", serde_json::to_vec(&fields))?;
    // Its values are what the case is about; its fields are those of SPEC 6.3 and no other.
    Fields::of(fields)?.all(|fields| {
        for field in ENVELOPE {
            fields.maybe(field);
        }
        Ok(())
    })?;
    let opened = envelope::open(provider, &bytes, &Secret::take(&mut key));
    let refusal = match opened.and_then(|file| file.check_time(now)) {
        Ok(()) => return Err("opened".to_owned()),
        Err(refusal) => refusal,
    };
    let kind = match refusal {
        FileRefusal::NotAFile(_) | FileRefusal::TooLarge | FileRefusal::Content(_) => "refused",
        FileRefusal::Damaged => "damaged",
        FileRefusal::WrongKey => "wrong_key",
        FileRefusal::WrongKeyOrDamaged => "wrong key or damaged",
        FileRefusal::Expired { .. } => "expired",
        FileRefusal::NotYetValid { .. } => "not_yet_valid",
    };
    equal(&format!("kind of {refusal:?}"), kind, expected.as_str())
}

fn security_file(case: &mut Fields, provider: Provider) -> Outcome {
    let key = Secret::take(&mut case.base64_array("bootstrap_key")?);
    let now = case.uint("now")?;
    let content = case.take("content")?;
    let fields = case.take("file")?;
    let bytes = readable("writing JSON", serde_json::to_vec(&fields))?;
    let envelope = readable("envelope", Envelope::parse(&bytes))?;
    Fields::of(fields)?.all(|fields| envelope_fields(fields, &envelope))?;
    let file = readable("opening", envelope::open(provider, &bytes, &key))?;
    let object = object_of(&content)?;
    Fields::of(content)?.all(|fields| content_fields(fields, &file))?;
    readable("at the time given", file.check_time(now))?;
    times(&file)?;
    other_key(&bytes, &envelope, provider)?;
    // Written: the same content; sealed with the iterations that writers use, it opens to the same.
    equal("content, written", file.to_object(), object.clone())?;
    let sealed = envelope::seal(provider, &file, &key, envelope.salt, envelope.iv);
    let again = readable("sealed envelope", Envelope::parse(&sealed))?;
    equal("salt, sealed", again.salt, envelope.salt)?;
    equal("IV, sealed", again.iv, envelope.iv)?;
    equal("iterations, sealed", again.iterations, ITERATIONS)?;
    equal("timestamp, sealed", again.timestamp, file.timestamp)?;
    equal("checksum, sealed", again.checksum.clone(), Some(checksum_of(&again)))?;
    let opened = readable("opening what was sealed", envelope::open(provider, &sealed, &key))?;
    equal("content, sealed and opened", opened.to_object(), object)
}

fn envelope_fields(fields: &mut Fields, envelope: &Envelope) -> Outcome {
    equal("version", fields.text("version")?.as_str(), "2.0")?;
    equal("algorithm", fields.text("algorithm")?.as_str(), "aes-256-gcm-pbkdf2")?;
    same("salt", &envelope.salt, &fields.base64_array::<32>("salt")?)?;
    same("iv", &envelope.iv, &fields.base64_array::<12>("iv")?)?;
    same("ciphertext", &envelope.ciphertext, &fields.base64("ciphertext")?)?;
    same("tag", &envelope.tag, &fields.base64_array::<16>("tag")?)?;
    equal("iterations", u64::from(envelope.iterations), fields.uint("iterations")?)?;
    // Of no meaning to readers, and a fraction in some files.
    match fields.maybe("timestamp") {
        Some(value) if value.is_f64() => {}
        Some(value) => equal("timestamp", Some(envelope.timestamp), value.as_u64())?,
        None => equal("timestamp", envelope.timestamp, 0)?,
    }
    if fields.has("checksum") {
        let checksum = fields.text("checksum")?;
        equal("computed checksum", checksum_of(envelope), checksum.clone())?;
        return equal("checksum", envelope.checksum.as_ref(), Some(&checksum));
    }
    equal("checksum", envelope.checksum.as_ref(), None)
}

fn content_fields(fields: &mut Fields, file: &SecurityFile) -> Outcome {
    equal("version", fields.text("version")?.as_str(), "2.0")?;
    equal("protocol", fields.text("protocol")?.as_str(), "clawchat-file-v2")?;
    equal("server_id", &file.server_id, &fields.text("server_id")?)?;
    equal("server_name", &file.server_name, &fields.text("server_name")?)?;
    equal("server_public_ip", &file.server_public_ip, &fields.text("server_public_ip")?)?;
    equal("server_udp_port", u64::from(file.server_udp_port), fields.uint("server_udp_port")?)?;
    let secret = fields.base64_array::<32>("shared_secret")?;
    same("shared_secret", file.shared_secret.expose(), &secret)?;
    equal("bootstrap_key_id", &file.bootstrap_key_id, &fields.text("bootstrap_key_id")?)?;
    equal("timestamp", file.timestamp, fields.uint("timestamp")?)?;
    equal("valid_from", file.valid_from, fields.uint("valid_from")?)?;
    equal("valid_until", file.valid_until, fields.uint("valid_until")?)?;
    equal("next_rotation", file.next_rotation, fields.uint("next_rotation")?)?;
    equal("grace_period", file.grace_period, fields.uint("grace_period")?)?;
    let ciphers = fields.list("supported_ciphers")?;
    equal("supported_ciphers", ciphers, vec![Value::from("AES-256-GCM")])?;
    fields.within("compromised_protocol", |fields| {
        equal("signal", fields.text("signal")?.as_str(), "CLAWCHAT_COMPROMISED_V2")?;
        equal("response_timeout", file.response_timeout, fields.uint("response_timeout")?)
    })?;
    fields.within("nat_traversal", |fields| nat_fields(fields, file))
}

fn nat_fields(fields: &mut Fields, file: &SecurityFile) -> Outcome {
    let servers = file.stun_servers.iter().map(|server| server.as_str().into()).collect();
    equal("stun_servers", fields.list("stun_servers")?, servers)?;
    equal("hole_punch_timeout", file.hole_punch_timeout, fields.uint("hole_punch_timeout")?)?;
    let Some(schedule) = &file.port_schedule else {
        return yes(!fields.has("port_schedule"), "port_schedule was not read");
    };
    fields.within("port_schedule", |fields| {
        same("seed", schedule.seed.expose(), &fields.base64_array::<32>("seed")?)?;
        equal("origin", schedule.origin, fields.uint("origin")?)?;
        equal("interval", schedule.interval, fields.uint("interval")?)
    })
}

/// The first and the last second at which a file is taken, and their neighbours.
fn times(file: &SecurityFile) -> Outcome {
    let (first, last) = (file.valid_from - 300, file.valid_until + file.grace_period);
    let (made, until, from) = (file.timestamp, file.valid_until, file.valid_from);
    let expired = FileRefusal::Expired { made, until };
    equal("one second early", file.check_time(first - 1), Err(FileRefusal::NotYetValid { from }))?;
    equal("first second", file.check_time(first), Ok(()))?;
    equal("last second", file.check_time(last), Ok(()))?;
    equal("one second late", file.check_time(last + 1), Err(expired))
}

/// Without a checksum a reader can't tell a wrong key from damage.
fn other_key(bytes: &[u8], envelope: &Envelope, provider: Provider) -> Outcome {
    let expected = match envelope.checksum {
        Some(_) => FileRefusal::WrongKey,
        None => FileRefusal::WrongKeyOrDamaged,
    };
    let refusal = envelope::open(provider, bytes, &Secret::take(&mut [0; 32])).err();
    equal("refusal of another key", refusal, Some(expected))
}

// ------------------------------------------------------------------------------- our own: canonical

fn canonical_json(case: &mut Fields) -> Outcome {
    // Only a reason for people.
    case.text("why")?;
    let object = readable("JSON", Object::parse(case.text("json")?.as_bytes()))?;
    let expected = case.take("canonical")?;
    if expected.is_null() {
        return equal("canonical form", canonical(&object), None);
    }
    let expected = expected.as_str().ok_or("field canonical is no string")?;
    let form = known("canonical form", canonical(&object))?;
    equal("canonical form", String::from_utf8_lossy(&form).as_ref(), expected)?;
    let again = readable("canonical form as JSON", Object::parse(&form))?;
    equal("canonical form of it", canonical(&again), Some(form))
}

// -------------------------------------------------------------------------------- our own: messages

fn message_name(case: &Value) -> String {
    format!("type {} from {}: {}", case["type"], text_of(case, "from"), text_of(case, "why"))
}

/// Takes what messages are read with: header type and sender.
fn circumstances(case: &mut Fields) -> Outcome<(PacketType, Side)> {
    // Only a reason for people.
    case.text("why")?;
    let side = match case.text("from")?.as_str() {
        "client" => Side::Client,
        "server" => Side::Server,
        other => return Err(format!("no side: {other}")),
    };
    Ok((packet_type(case)?, side))
}

fn json_refused(case: &mut Fields) -> Outcome {
    let (kind, side) = circumstances(case)?;
    // What is no UTF-8 is given in hex.
    let json = if case.has("hex") { case.hex("hex")? } else { case.text("json")?.into_bytes() };
    let expected = match case.text("expect")?.as_str() {
        "json" => "no strict JSON".to_owned(),
        "field" => format!("field {}", case.text("field")?),
        "side" => "wrong header type or side".to_owned(),
        other => return Err(format!("no kind of refusal: {other}")),
    };
    let got = match Message::read(&json, kind, side) {
        Err(Violation::Message(Malformed::Json)) => "no strict JSON".to_owned(),
        Err(Violation::Message(Malformed::Field(field))) => format!("field {field}"),
        Err(Violation::MessageSide) => "wrong header type or side".to_owned(),
        other => format!("{other:?}"),
    };
    equal("refusal", got, expected)
}

fn message(case: &mut Fields) -> Outcome {
    let (kind, side) = circumstances(case)?;
    let read = |json: &str| readable("message", Message::read(json.as_bytes(), kind, side));
    let message = read(&case.text("json")?)?;
    if case.has("ignored") {
        yes(case.bool("ignored")?, "ignored is there but false")?;
        return equal("message", message, None);
    }
    let message = known("message", message)?;
    if case.has("same_as") {
        return equal("message", Some(message), read(&case.text("same_as")?)?);
    }
    let written = case.text("written")?;
    equal("message, written", String::from_utf8_lossy(&message.encode()).as_ref(), &written)?;
    equal("header type", message.packet_type(), kind)?;
    equal("message, read again", read(&written)?, Some(message))
}

// ----------------------------------------------------------------------------------- our own: names

fn name_name(case: &Value) -> String {
    format!("{}: {}", text_of(case, "kind"), text_of(case, "why"))
}

fn name(case: &mut Fields) -> Outcome {
    // Only a reason for people.
    case.text("why")?;
    let text = case.text("text")?;
    let kind = case.text("kind")?;
    if kind == "recipient" && (case.has("room") || case.has("member")) {
        let expected = if case.has("room") {
            Recipient::Room(case.text("room")?)
        } else {
            Recipient::Member(case.text("member")?)
        };
        equal("written", expected.to_string(), text.clone())?;
        return equal("recipient", Recipient::parse(&text), Some(expected));
    }
    if kind == "chat_id" && case.has("bytes") {
        let expected = ChatId(case.hex_array("bytes")?);
        equal("written", expected.to_string(), text.clone())?;
        return equal("id", ChatId::parse(&text), Some(expected));
    }
    let taken = match kind.as_str() {
        "name" => is_name(&text),
        "recipient" => Recipient::parse(&text).is_some(),
        "chat_id" => ChatId::parse(&text).is_some(),
        other => return Err(format!("no kind of name: {other}")),
    };
    equal("taken", taken, case.bool("ok")?)
}
