//! The words that scenarios use for times, types, addresses and outcomes.

use crate::vectors::Outcome;
use clawchat_core::ops;
use clawchat_core::time::Duration;
use clawchat_core::wire::header::PacketType;
use core::net::SocketAddr;
use serde_json::Value;

/// A duration as text: a number and `us`, `ms`, `s`, `min`, `h` or `d`.
///
/// # Errors
/// When it is none.
pub(super) fn duration(value: &Value) -> Outcome<Duration> {
    let (negative, duration) = signed_duration(value)?;
    if negative { Err(format!("a negative time: {value}")) } else { Ok(duration) }
}

/// The same with a sign: whether it is negative, and how long it is.
///
/// # Errors
/// When it is none.
pub(super) fn signed_duration(value: &Value) -> Outcome<(bool, Duration)> {
    let wrong = || format!("no duration: {value}");
    let text = value.as_str().ok_or_else(wrong)?;
    let (count, unit) = text.split_once(' ').ok_or_else(wrong)?;
    let micros = match unit {
        "us" => 1,
        "ms" => 1000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return Err(wrong()),
    };
    let count: i64 = count.parse().map_err(|_| wrong())?;
    Ok((count < 0, Duration::from_micros(count.unsigned_abs() * micros)))
}

/// A packet type as text: `0x04`.
///
/// # Errors
/// When it is none.
pub(super) fn kind(value: &Value) -> Outcome<PacketType> {
    let number = value.as_str().and_then(|text| text.strip_prefix("0x"));
    let number = number.and_then(|digits| u8::from_str_radix(digits, 16).ok());
    number.and_then(PacketType::from_u8).ok_or_else(|| format!("no packet type: {value}"))
}

/// The text of a packet type.
#[must_use]
pub(super) fn kind_text(kind: u8) -> String {
    format!("0x{kind:02x}")
}

/// An address as text.
///
/// # Errors
/// When it is none.
pub(super) fn address(value: &Value) -> Outcome<SocketAddr> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| format!("no address: {value}"))
}

/// The outcome of an action; `None` for `never`.
///
/// # Errors
/// When it is none.
pub(super) fn outcome(text: &str) -> Outcome<Option<ops::Outcome>> {
    Ok(match text {
        "done" => Some(ops::Outcome::Done),
        "failed" => Some(ops::Outcome::Failed),
        "port_in_use" => Some(ops::Outcome::PortInUse),
        "never" => None,
        other => return Err(format!("no outcome: {other}")),
    })
}

/// Lays the fields of `over` over those of `base`, objects within objects too; `null` removes.
pub(super) fn lay_over(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(key);
                } else {
                    lay_over(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}
