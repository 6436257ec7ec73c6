//! Words for people and lines for programs.

use clawchat_core::wire::json::{Json, Object};
use core::time::Duration;
use std::io::{IsTerminal, Write};

/// Prints a line of the answer to stdout. A reader that went away is no failure of ours.
pub fn answer(line: &str) {
    let _gone = try_answer(line);
}

/// The same, where it matters whether anybody reads it.
///
/// # Errors
/// When the reader went away, or what it writes to is full.
pub fn try_answer(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}

/// Prints talk to stderr.
pub fn complain(line: &str) {
    let _gone = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether a person sees stderr and can answer at stdin.
#[must_use]
pub fn is_interactive() -> bool {
    std::io::stderr().is_terminal() && std::io::stdin().is_terminal()
}

/// An event as a line of JSON.
#[must_use]
pub fn event(name: &str) -> Object {
    Object::new().with("schema", 1).with("event", name)
}

/// Prints an object as a line of JSON.
pub fn print(object: &Object) {
    answer(&String::from_utf8_lossy(&object.encode()));
}

/// A list of JSON values.
pub fn list<T: Into<Json>>(items: impl IntoIterator<Item = T>) -> Json {
    Json::List(items.into_iter().map(Into::into).collect())
}

/// Text of somebody else with nothing in it that moves a cursor, hides or turns around what stands
/// there. Lines and tabs stay.
#[must_use]
pub fn harmless(text: &str) -> String {
    let harmful = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// The same on one line.
#[must_use]
pub fn one_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

/// A duration as a person says it: the two largest units.
#[must_use]
pub fn span(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let mut left = seconds;
    let mut words = Vec::new();
    for (unit, size) in units {
        if left >= size && words.len() < 2 {
            words.push(format!("{} {unit}", left / size));
            left %= size;
        } else if !words.is_empty() {
            break;
        }
    }
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

/// A moment as RFC 3339 in UTC.
#[must_use]
pub fn moment(unix_s: u64) -> String {
    i64::try_from(unix_s)
        .ok()
        .and_then(|secs| jiff::Timestamp::from_second(secs).ok())
        .map_or_else(|| format!("unix {unix_s}"), |time| time.to_string())
}

/// Reads a duration such as `20s`, `500ms`, `2h`, `30d`.
///
/// # Errors
/// A message that says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| bad_duration(text))?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" | "min" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(|| bad_duration(text))
}

fn bad_duration(text: &str) -> String {
    format!("`{text}` is no duration; write for example 500ms, 20s, 5min, 1h or 30d")
}

/// A number of bytes as a person says it.
#[must_use]
pub fn bytes(count: u64) -> String {
    let (mut value, mut rest, mut unit) = (count, 0, None);
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        if value < 1000 {
            break;
        }
        rest = value % 1000 / 100;
        value /= 1000;
        unit = Some(next);
    }
    match unit {
        None => format!("{count} B"),
        Some(unit) if value < 100 => format!("{value}.{rest} {unit}"),
        Some(unit) => format!("{value} {unit}"),
    }
}

/// Reads a number of bytes such as `500MB`, `10GB`, `1GiB`.
///
/// # Errors
/// A message that says what a size looks like.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let bad = || format!("`{text}` is no size; write for example 500MB, 10GB or 1GiB");
    let number: u64 = number.parse().map_err(|_| bad())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for bad in ["", "s", "5y", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(span(0), "0 s");
        assert_eq!(span(11_520), "3 h 12 min");
        assert_eq!(span(86_405), "1 d");
        assert_eq!(moment(1_690_925_948), "2023-08-01T21:39:08Z");
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10GB"), Ok(10_000_000_000));
        assert_eq!(parse_size("1 GiB"), Ok(1 << 30));
        assert_eq!(parse_size("7"), Ok(7));
        for bad in ["", "GB", "1.5GB", "9x", "99999999999TB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        for (count, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_150_000_000, "2.1 GB")]
        {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(123_456_789), "123 MB");
        assert_eq!(bytes(u64::MAX), "18446 PB");
    }

    #[test]
    fn nothing_harmful_is_shown() {
        assert_eq!(harmless("a\x1b[2Jb\u{202e}c\r\nd\te"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}\nd\te");
        assert_eq!(one_line("a\nb"), "a b");
    }
}
