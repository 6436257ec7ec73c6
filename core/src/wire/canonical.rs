//! Canonical JSON for signatures (PROTOCOL 7): keys sorted by code point at every level, no white
//! space, integers in decimal, no floats, the fewest escapes.

use super::json::{Json, Object};
use alloc::vec::Vec;

/// The canonical form of `object` without its field `signature`; `None` when it holds a float.
#[must_use]
pub fn canonical(object: &Object) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    write_object(&mut out, object, Some("signature")).then_some(out)
}

/// Writes all fields but `without`; false if there was a float among them.
pub(super) fn write_object(out: &mut Vec<u8>, object: &Object, without: Option<&str>) -> bool {
    out.push(b'{');
    let (mut exact, mut separator) = (true, false);
    for (key, value) in object.fields().filter(|(key, _)| Some(*key) != without) {
        if core::mem::replace(&mut separator, true) {
            out.push(b',');
        }
        write_text(out, key);
        out.push(b':');
        exact &= write_value(out, value);
    }
    out.push(b'}');
    exact
}

fn write_value(out: &mut Vec<u8>, value: &Json) -> bool {
    match value {
        Json::Text(text) => write_text(out, text),
        Json::Object(object) => return write_object(out, object, None),
        Json::List(list) => {
            out.push(b'[');
            let mut exact = true;
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                exact &= write_value(out, item);
            }
            out.push(b']');
            return exact;
        }
        Json::Null | Json::Bool(_) | Json::Int(_) | Json::Fraction(_) => {
            // serde_json writes these in their one shortest form.
            out.extend(serde_json::to_vec(value).unwrap_or_default());
            return !matches!(value, Json::Fraction(_));
        }
    }
    true
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0x08 => out.extend(b"\\b"),
            0x0c => out.extend(b"\\f"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0..0x20 => {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 0xf));
                out.extend([b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_bare_and_escaped() {
        let object = Object::parse(
            "{\"z\":[1,-2,null,true],\"signature\":\"x\",\"\u{ffff}\":1,\"\u{1F600}\":2,\
             \"a\":{\"signature\":\"\\u0001\\u001f\\b\\f\\n\\r\\t\\\"\\\\/\\u007f\"}}"
                .as_bytes(),
        )
        .unwrap();
        // By code point U+FFFF comes before U+1F600; in UTF-16 it would be the other way round.
        let expected = "{\"a\":{\"signature\":\"\\u0001\\u001f\\b\\f\\n\\r\\t\\\"\\\\/\u{7f}\"},\
                        \"z\":[1,-2,null,true],\"\u{ffff}\":1,\"\u{1F600}\":2}";
        assert_eq!(canonical(&object).unwrap(), expected.as_bytes());
        assert!(canonical(&Object::parse(br#"{"a":1.0}"#).unwrap()).is_none());
    }
}
