//! Messages about file transfers (PROTOCOL 5.6).

use super::names::{Recipient, hex};
use super::{Side, by_server, chat_id, name, recipient};
use crate::error::Malformed;
use crate::id::ChatId;
use crate::wire::json::{Json, Object};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

/// Longest name of a file, bytes: what file systems hold.
pub const FILE_NAME_MAX: usize = 255;

/// Whether a receiver may give a file, or a part of its path, this name (PROTOCOL 5.6).
///
/// True for a base name of 1 to 255 bytes that names a file of its own everywhere: no separator of any
/// system (`/`, `\`, `:`), nothing that hides or reorders other characters (control and bidirectional
/// ones), no device of Windows, no dot or space at the end (Windows drops them, and another name is
/// left), neither `.` nor `..`.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    (1..=FILE_NAME_MAX).contains(&name.len())
        // With the dot at the end go `.` and `..`.
        && !name.ends_with(['.', ' '])
        && !name.chars().any(is_refused)
        && !is_device(name)
}

/// What no name of a file may hold.
fn is_refused(c: char) -> bool {
    matches!(c, '/' | '\\' | ':')
        || c.is_control()
        // Arabic letter mark, left-to-right and right-to-left marks, embeddings and overrides, isolates.
        || matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Whether Windows takes `name` for a device, which it does with any extension, in any case, and with
/// spaces before the extension.
fn is_device(name: &str) -> bool {
    let base = name.split('.').next().unwrap_or(name).trim_end_matches(' ');
    let is = |device: &str| base.eq_ignore_ascii_case(device);
    if ["CON", "PRN", "AUX", "NUL"].into_iter().any(is) {
        return true;
    }
    // Cut after three bytes, where the number begins; Windows reads superscript digits as digits.
    let Some((port, number)) = base.split_at_checked(3) else { return false };
    let numbered = ["COM", "LPT"].into_iter().any(|device| port.eq_ignore_ascii_case(device));
    let mut digits = number.chars();
    numbered
        && matches!(digits.next(), Some('0'..='9' | '\u{B9}' | '\u{B2}' | '\u{B3}'))
        && digits.next().is_none()
}

/// Result of a file transfer at its receiver (PROTOCOL 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileError {
    /// The size is not the offered one.
    Size,
    /// The SHA-256 differs.
    Hash,
    /// The disk failed or is full.
    Disk,
}

/// Which end of a transfer somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSide {
    /// It offered the file.
    Sender,
    /// It was offered the file.
    Receiver,
}

impl FileSide {
    const fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
        }
    }
}

/// A file that is offered (PROTOCOL 5.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOffer {
    /// Its id, the same over reconnects.
    pub id: ChatId,
    /// Its base name.
    pub name: String,
    /// Its size, bytes.
    pub size: u64,
    /// Who it goes to.
    pub to: Recipient,
    /// Who offers it; the server sets it.
    pub from: String,
}

/// Messages about file transfers (PROTOCOL 5.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileMessage {
    /// Offers a file.
    Offer(FileOffer),
    /// Takes the offer.
    Accept {
        /// Byte ranges already held, at most 1000.
        have: Vec<Range<u64>>,
        /// No byte at or past this yet.
        limit: u64,
    },
    /// Raises the limit.
    More {
        /// No byte at or past this yet.
        limit: u64,
    },
    /// Every byte has been sent once.
    End {
        /// SHA-256 of the file.
        sha256: [u8; 32],
    },
    /// The receiver has checked; final.
    Done {
        /// Whether the file is whole and stored.
        ok: bool,
        /// Why not.
        error: Option<FileError>,
    },
    /// Ends the transfer.
    Cancel {
        /// Why.
        reason: String,
        /// Which end of the transfer cancels it. Each side counts its transfers from 0, so the number
        /// alone may name two.
        side: Option<FileSide>,
    },
}

impl FileMessage {
    pub(super) fn parse(
        kind: &str,
        object: &Object,
        side: Side,
    ) -> Result<Option<Self>, Malformed> {
        Ok(Some(match kind {
            "file_offer" => Self::Offer(FileOffer {
                id: chat_id(object, "id")?,
                name: object.text("name")?.to_string(),
                size: object.uint("size")?,
                to: recipient(object)?,
                from: by_server(side, || name(object, "from"))?,
            }),
            "file_accept" => Self::Accept { have: held(object)?, limit: object.uint("limit")? },
            "file_more" => Self::More { limit: object.uint("limit")? },
            "file_end" => Self::End { sha256: hex32(object.text("sha256")?)? },
            "file_done" => Self::Done {
                ok: object.bool("ok")?,
                error: object.optional("error", |o, key| match o.text(key)? {
                    "size" => Ok(FileError::Size),
                    "hash" => Ok(FileError::Hash),
                    "disk" => Ok(FileError::Disk),
                    _ => Err(Malformed::Field(key)),
                })?,
            },
            "file_cancel" => Self::Cancel {
                reason: object.text("reason")?.to_string(),
                side: match object.text("side") {
                    Ok("sender") => Some(FileSide::Sender),
                    Ok("receiver") => Some(FileSide::Receiver),
                    _ => None,
                },
            },
            _ => return Ok(None),
        }))
    }

    pub(super) fn to_object(&self) -> Object {
        let typed = |name: &str| Object::new().with("type", name);
        match self {
            Self::Offer(FileOffer { id, name, size, to, from }) => typed("file_offer")
                .with("id", id.to_string())
                .with("name", name.as_str())
                .with("size", *size)
                .with("to", to.to_string())
                .with_some("from", (!from.is_empty()).then_some(from.as_str())),
            Self::Accept { have, limit } => {
                let pair = |range: &Range<u64>| {
                    Json::List([range.start, range.end].map(Json::from).into())
                };
                typed("file_accept")
                    .with("have", have.iter().map(pair).collect::<Vec<Json>>())
                    .with("limit", *limit)
            }
            Self::More { limit } => typed("file_more").with("limit", *limit),
            Self::End { sha256 } => typed("file_end").with("sha256", hex(sha256)),
            Self::Done { ok, error } => typed("file_done").with("ok", *ok).with_some(
                "error",
                error.map(|error| match error {
                    FileError::Size => "size",
                    FileError::Hash => "hash",
                    FileError::Disk => "disk",
                }),
            ),
            Self::Cancel { reason, side } => typed("file_cancel")
                .with("reason", reason.as_str())
                .with_some("side", side.map(FileSide::name)),
        }
    }
}

/// `have` of a file_accept: at most 1000 ranges `[start, end)`.
fn held(object: &Object) -> Result<Vec<Range<u64>>, Malformed> {
    let list = object.list("have")?;
    let number = |json: &Json| match json {
        Json::Int(value) => u64::try_from(*value).ok(),
        _ => None,
    };
    let range = |item: &Json| match item {
        Json::List(pair) if pair.len() == 2 => {
            let (start, end) = (number(&pair[0])?, number(&pair[1])?);
            (start < end).then_some(start..end)
        }
        _ => None,
    };
    if list.len() > 1000 {
        return Err(Malformed::Field("have"));
    }
    list.iter().map(range).collect::<Option<_>>().ok_or(Malformed::Field("have"))
}

/// Reads 64 lower-case hex digits.
fn hex32(text: &str) -> Result<[u8; 32], Malformed> {
    let bad = Malformed::Field("sha256");
    let (Some(low), Some(high)) = (text.get(..32), text.get(32..)) else { return Err(bad) };
    let (Some(low), Some(high)) = (ChatId::parse(low), ChatId::parse(high)) else {
        return Err(bad);
    };
    let mut out = [0; 32];
    out[..16].copy_from_slice(&low.0);
    out[16..].copy_from_slice(&high.0);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use quickcheck::{TestResult, quickcheck};

    quickcheck! {
        /// What is let through is one component of a path, and stays one however it is read.
        fn a_name_is_one_component(name: String) -> TestResult {
            if !is_file_name(&name) {
                return TestResult::discard();
            }
            let strange = |c: char| c.is_control() || "/\\:".contains(c);
            let whole = name.trim_end_matches([' ', '.']) == name;
            TestResult::from_bool(
                !name.is_empty() && name.len() <= 255 && !name.chars().any(strange) && whole,
            )
        }

        /// One character that is refused makes any name refused, wherever it stands.
        fn a_refused_character_anywhere(before: String, after: String, which: usize) -> bool {
            let refused: Vec<char> = ('\0'..'\u{3000}').filter(|c| is_refused(*c)).collect();
            let c = refused[which % refused.len()];
            !is_file_name(&format!("{before}{c}{after}"))
        }

        /// A device stays one, whatever its case and its extension.
        fn devices(which: usize, upper: Vec<bool>, extension: String) -> bool {
            let names = ["con", "prn", "aux", "nul", "com0", "com7", "lpt9", "com\u{b9}", "lpt\u{b3}"];
            let mut upper = upper.into_iter();
            let change = |c: char| match upper.next() {
                Some(true) => c.to_ascii_uppercase(),
                _ => c,
            };
            let name: String = names[which % names.len()].chars().map(change).collect();
            let refused = |name: String| !is_file_name(&name);
            refused(format!("{name}.{extension}"))
                && refused(format!("{name} .{extension}x"))
                && refused(name)
        }

        /// A letter before a device, or one after it, makes it a name like others.
        fn no_device(letter: u8) -> bool {
            let letter = char::from(b'a' + letter % 26);
            ["con", "nul", "com1", "lpt9"].into_iter().all(|device| {
                is_file_name(&format!("{letter}{device}.txt"))
                    && is_file_name(&format!("{device}{letter}.txt"))
                    && is_file_name(&format!("a.{device}"))
            })
        }
    }

    #[test]
    fn names_that_are_good() {
        for name in [
            "a",
            "report.pdf",
            "archive.tar.gz",
            ".bashrc",
            "...a",
            "a..b",
            " a",
            "a b (2).c",
            "com",
            "com10",
            "com\u{2074}",
            "lpt",
            "console",
            "null",
            "co",
            "cön",
            "日本語.txt",
            "🦀",
            "~",
            "-rf",
            "a\u{301}",
            "COM\u{b9}\u{b2}",
        ] {
            assert!(is_file_name(name), "{name:?}");
        }
        assert!(is_file_name(&"a".repeat(255)) && !is_file_name(&"a".repeat(256)));
        assert!(is_file_name(&"é".repeat(127)) && !is_file_name(&"é".repeat(128)));
    }

    #[test]
    fn names_that_lead_elsewhere() {
        for name in [
            "",
            ".",
            "..",
            "...",
            "a.",
            "a ",
            " ",
            ". ",
            "a/b",
            "/a",
            "a/",
            "../a",
            "a\\b",
            "C:",
            "a:b",
            "a\0",
            "a\nb",
            "\u{1b}[2J",
            "a\u{7f}",
            "a\u{85}b",
            "a\u{9b}",
            "CON",
            "con.txt",
            "Aux.tar.gz",
            "nul .txt",
            "NUL  .a.b",
            "PRN",
            "COM0",
            "com9.x",
            "LPT\u{b2}",
            "com\u{b3}.txt",
        ] {
            assert!(!is_file_name(name), "{name:?}");
        }
        for c in "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}"
            .chars()
        {
            assert!(!is_file_name(&format!("a{c}txt.exe")), "{c:?}");
        }
    }
}
