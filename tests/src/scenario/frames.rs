//! Frames as scenarios write and read them.

use crate::vectors::{Outcome, hex, unhex};
use clawchat_core::limits::DATAGRAM_MAX;
use clawchat_core::wire::cursor::Writer;
use clawchat_core::wire::frame::{Frame, Frames, write_ack};
use core::ops::RangeInclusive;
use serde_json::{Value, json};

/// Inclusive ranges from the largest down, as a JSON list of pairs.
fn ranges_of(value: &Value) -> Outcome<Vec<RangeInclusive<u64>>> {
    let range = |pair: &Value| Some(pair.get(0)?.as_u64()?..=pair.get(1)?.as_u64()?);
    let ranges: Option<Vec<_>> = value.as_array().and_then(|list| list.iter().map(range).collect());
    ranges.ok_or_else(|| format!("no list of [first, last]: {value}"))
}

fn number(frame: &Value, key: &str) -> Outcome<u64> {
    frame[key].as_u64().ok_or_else(|| format!("{key} is missing in {frame}"))
}

/// The bytes of a frame's content: `json`, `text`, `hex`, or `length` zero bytes.
fn content(frame: &Value) -> Outcome<Vec<u8>> {
    if let Some(json) = frame.get("json") {
        return serde_json::to_vec(json).map_err(|error| error.to_string());
    }
    if let Some(text) = frame["text"].as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    if let Some(digits) = frame["hex"].as_str() {
        return unhex(digits).ok_or_else(|| format!("not hex: {digits}"));
    }
    let length = usize::try_from(number(frame, "length")?).map_err(|error| error.to_string())?;
    Ok(vec![b' '; length])
}

fn bytes(value: &Value) -> Outcome<Vec<u8>> {
    value.as_str().and_then(unhex).ok_or_else(|| format!("not hex: {value}"))
}

/// Writes one frame. Nothing is checked: a scenario may well want a bad one.
///
/// # Errors
/// When it is none that a scenario can write, or does not fit.
pub(crate) fn write(out: &mut Writer<'_>, frame: &Value) -> Outcome {
    let fields = frame.as_object().ok_or_else(|| format!("no frame: {frame}"))?;
    let (kind, what) = fields.iter().next().ok_or("an empty frame")?;
    let fits = match kind.as_str() {
        "ack" => {
            let ranges = ranges_of(&what["ranges"])?;
            write_ack(out, what["delay_us"].as_u64().unwrap_or(0), ranges.into_iter())
        }
        "message" => {
            let data = content(what)?;
            let length = data.len() as u64;
            out.bytes(&[2])
                && out.varint(number(what, "id")?)
                && out.varint(what["total"].as_u64().unwrap_or(length))
                && out.varint(what["offset"].as_u64().unwrap_or(0))
                && out.varint(length)
                && out.bytes(&data)
        }
        "chunk" => {
            out.bytes(&[3])
                && out.varint(number(what, "transfer")?)
                && out.varint(number(what, "offset")?)
                && out.bytes(&content(what)?)
        }
        "challenge" => out.bytes(&[4]) && out.bytes(&bytes(what)?),
        "response" => out.bytes(&[5]) && out.bytes(&bytes(what)?),
        "signal" => {
            let data = serde_json::to_vec(what).map_err(|error| error.to_string())?;
            out.bytes(&[6]) && out.varint(data.len() as u64) && out.bytes(&data)
        }
        "padding" => {
            let count = what.as_u64().and_then(|count| usize::try_from(count).ok());
            out.bytes(&vec![0; count.ok_or_else(|| format!("no count: {what}"))?])
        }
        "raw" => out.bytes(&bytes(what)?),
        other => return Err(format!("no such frame: {other}")),
    };
    if fits { Ok(()) } else { Err(format!("does not fit: {frame}")) }
}

/// The plaintext of a list of frames.
///
/// # Errors
/// See [`write`].
pub(crate) fn plaintext(frames: &[Value]) -> Outcome<Vec<u8>> {
    let mut out = vec![0; DATAGRAM_MAX];
    let mut writer = Writer::new(&mut out);
    frames.iter().try_for_each(|frame| write(&mut writer, frame))?;
    let length = writer.len();
    out.truncate(length);
    Ok(out)
}

/// The frames of a plaintext.
///
/// # Errors
/// For a malformed one.
pub(crate) fn read(plaintext: &[u8]) -> Outcome<Vec<Value>> {
    let mut list = Vec::new();
    for frame in Frames::new(plaintext) {
        list.push(match frame.map_err(|error| format!("malformed frame: {error}"))? {
            Frame::Padding => json!({ "padding": true }),
            Frame::Ack(ack) => {
                let pair = |range: RangeInclusive<u64>| json!([range.start(), range.end()]);
                let ranges: Vec<Value> = ack.ranges().map(pair).collect();
                json!({"ack": {"ranges": ranges, "delay_us": ack.delay_us}})
            }
            Frame::Message(part) => {
                let length = part.bytes.len();
                let (id, total, offset) = (part.id, part.total, part.offset);
                json!({"message": {"id": id, "total": total, "offset": offset, "length": length}})
            }
            Frame::Chunk { transfer, offset, bytes } => {
                json!({"chunk": {"transfer": transfer, "offset": offset, "length": bytes.len()}})
            }
            Frame::Challenge(data) => json!({ "challenge": hex(&data) }),
            Frame::Response(data) => json!({ "response": hex(&data) }),
            Frame::Signal(bytes) => {
                let object: Value = serde_json::from_slice(bytes)
                    .map_err(|error| format!("a signal that is no JSON: {error}"))?;
                json!({ "signal": object })
            }
        });
    }
    Ok(list)
}
