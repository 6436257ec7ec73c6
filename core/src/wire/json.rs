//! Strict JSON (PROTOCOL 5): one object, no duplicate key at any level, no number outside
//! ±(2^53-1).

use crate::error::Malformed;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use zeroize::Zeroize;

/// Largest magnitude of a number.
pub const NUMBER_MAX: i64 = (1 << 53) - 1;

/// Room for the text of any object that holds a secret, bytes.
const ENCODE_ROOM: usize = 4096;

/// A JSON value. Objects keep their keys sorted by code point, which is what UTF-8 order is.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number written as an integer.
    Int(i64),
    /// Any other number.
    Fraction(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Self>),
    /// An object.
    Object(Object),
}

/// The fields of a JSON object, sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(BTreeMap<String, Json>);

impl Object {
    /// An object with no field.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Reads one strict JSON object.
    ///
    /// # Errors
    /// [`Malformed::Json`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        match serde_json::from_slice(bytes) {
            Ok(Json::Object(object)) => Ok(object),
            _ => Err(Malformed::Json),
        }
    }

    /// The object as JSON text without white space, keys sorted.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Room at once: growing would leave copies of secrets behind.
        let mut out = Vec::with_capacity(ENCODE_ROOM);
        super::canonical::write_object(&mut out, self, None);
        out
    }

    /// The object with another field.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.0.insert(key.to_string(), value.into());
        self
    }

    /// The object with another field, if there is a value for it.
    #[must_use]
    pub fn with_some(self, key: &str, value: Option<impl Into<Json>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The field's value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.0.get(key)
    }

    /// Fields in order of their keys.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A string field.
    ///
    /// # Errors
    /// [`Malformed::Field`], as for all the getters below.
    pub fn text(&self, key: &'static str) -> Result<&str, Malformed> {
        match self.get(key) {
            Some(Json::Text(text)) => Ok(text),
            _ => Err(Malformed::Field(key)),
        }
    }

    /// A boolean field.
    ///
    /// # Errors
    /// [`Malformed::Field`].
    pub fn bool(&self, key: &'static str) -> Result<bool, Malformed> {
        match self.get(key) {
            Some(Json::Bool(value)) => Ok(*value),
            _ => Err(Malformed::Field(key)),
        }
    }

    /// An integer field that is not negative.
    ///
    /// # Errors
    /// [`Malformed::Field`].
    pub fn uint(&self, key: &'static str) -> Result<u64, Malformed> {
        match self.get(key) {
            Some(Json::Int(value)) => u64::try_from(*value).map_err(|_| Malformed::Field(key)),
            _ => Err(Malformed::Field(key)),
        }
    }

    /// An object field.
    ///
    /// # Errors
    /// [`Malformed::Field`].
    pub fn object(&self, key: &'static str) -> Result<&Self, Malformed> {
        match self.get(key) {
            Some(Json::Object(value)) => Ok(value),
            _ => Err(Malformed::Field(key)),
        }
    }

    /// An array field.
    ///
    /// # Errors
    /// [`Malformed::Field`].
    pub fn list(&self, key: &'static str) -> Result<&[Json], Malformed> {
        match self.get(key) {
            Some(Json::List(value)) => Ok(value),
            _ => Err(Malformed::Field(key)),
        }
    }

    /// A base64 field of exactly `N` bytes (RFC 4648 §4, padded).
    ///
    /// # Errors
    /// [`Malformed::Field`].
    pub fn bytes<const N: usize>(&self, key: &'static str) -> Result<[u8; N], Malformed> {
        let text = self.text(key)?;
        // The decoder wants a little more room than the bytes themselves.
        let mut bytes = STANDARD.decode(text).map_err(|_| Malformed::Field(key))?;
        let array = bytes.as_slice().try_into().map_err(|_| Malformed::Field(key));
        bytes.zeroize();
        array
    }

    /// Checks that a field is the very text.
    ///
    /// # Errors
    /// [`Malformed::Field`].
    pub fn expect(&self, key: &'static str, text: &str) -> Result<(), Malformed> {
        if self.text(key)? == text { Ok(()) } else { Err(Malformed::Field(key)) }
    }

    /// A field read by `read` where it is present; `null` is not absence.
    ///
    /// # Errors
    /// What `read` says.
    pub fn optional<'a, T>(
        &'a self,
        key: &'static str,
        read: impl FnOnce(&'a Self, &'static str) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        self.get(key).map(|_| read(self, key)).transpose()
    }
}

/// Overwrites all strings: security files hold their secret as text.
impl Zeroize for Object {
    fn zeroize(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
        self.0.clear();
    }
}

/// Also on the way out of a parser that met an error.
impl Drop for Object {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl Zeroize for Json {
    fn zeroize(&mut self) {
        match self {
            Self::Text(text) => text.zeroize(),
            Self::List(list) => list.iter_mut().for_each(Zeroize::zeroize),
            Self::Object(object) => object.zeroize(),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Fraction(_) => {}
        }
    }
}

/// Bytes as base64 text (RFC 4648 §4, padded).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Base64 text as bytes; `None` when it is not of RFC 4648 §4, padded.
#[must_use]
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_string())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// Values over 2^53-1 are written as that: no field of the protocol reaches it.
impl From<u64> for Json {
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(NUMBER_MAX).min(NUMBER_MAX))
    }
}

impl From<Vec<Self>> for Json {
    fn from(list: Vec<Self>) -> Self {
        Self::List(list)
    }
}

impl From<Object> for Json {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Fraction(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list),
            Self::Object(object) => serializer.collect_map(&object.0),
        }
    }
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON with numbers within ±(2^53-1)")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        if value.unsigned_abs() > NUMBER_MAX as u64 {
            return Err(E::custom("number out of range"));
        }
        Ok(Json::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        let value = i64::try_from(value).map_err(|_| E::custom("number out of range"))?;
        self.visit_i64(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        if !(-(NUMBER_MAX as f64)..=NUMBER_MAX as f64).contains(&value) {
            return Err(E::custom("number out of range"));
        }
        Ok(Json::Fraction(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_string()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut object = Object::new();
        while let Some((key, value)) = map.next_entry::<String, Json>()? {
            if object.0.insert(key, value).is_some() {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        Ok(Json::Object(object))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    quickcheck! {
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) -> bool {
            let _ = Object::parse(&bytes);
            let wrapped: Vec<u8> = [b"{\"a\":\"", &bytes[..], b"\"}"].concat();
            let _ = Object::parse(&wrapped);
            true
        }

        fn round_trip(fields: Vec<(String, String, u32)>) -> bool {
            let mut object = Object::new();
            for (key, text, number) in &fields {
                let inner = Object::new().with(text, key.as_str()).with("n", u64::from(*number));
                object = object.with(key, text.as_str()).with(text, inner);
            }
            Object::parse(&object.encode()) == Ok(object)
        }
    }

    #[test]
    fn strictness() {
        for bad in [
            "",
            "[]",
            "1",
            "{",
            "{}x",
            r#"{"a":1,"a":1}"#,
            r#"{"b":{"a":1,"a":2}}"#,
            r#"{"a":9007199254740992}"#,
            r#"{"a":-9007199254740992}"#,
            r#"{"a":1e300}"#,
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
            "{\"a\":\"\u{1}\"}",
            r#"{"a":01}"#,
        ] {
            assert_eq!(Object::parse(bad.as_bytes()), Err(Malformed::Json), "{bad}");
        }
        assert_eq!(Object::parse(b"{\"a\":\"\xff\"}"), Err(Malformed::Json));
        let deep = [b"{\"a\":".repeat(200), b"1".to_vec(), b"}".repeat(200)].concat();
        assert_eq!(Object::parse(&deep), Err(Malformed::Json));
        let good = Object::parse(br#" {"a":9007199254740991,"b":1.5,"c":null,"d":"x"} "#).unwrap();
        assert_eq!(good.uint("a"), Ok(9_007_199_254_740_991));
        assert_eq!(good.uint("b"), Err(Malformed::Field("b")));
        assert_eq!(good.optional("c", Object::uint), Err(Malformed::Field("c")));
        assert_eq!(good.optional("e", Object::uint), Ok(None));
        assert_eq!(good.expect("d", "y"), Err(Malformed::Field("d")));
    }
}
