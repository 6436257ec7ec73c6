//! Reads known answers: the files of `spec-vectors`, whose schema its README gives.
//!
//! Whoever checks a case takes its fields out one by one. A field left over is one that nobody
//! checked, and fails the case.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawchat_core::secret::Secret;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A result whose error is a sentence for the test's output.
pub type Outcome<T = ()> = Result<T, String>;

/// The project's own folder of vectors.
#[must_use]
pub fn own_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec-vectors")
}

/// The folder of the known answers: `CLAWCHAT_SPEC_VECTORS` when set, else [`own_folder`].
///
/// Tests run in the folder of their crate; a relative path is meant from where the workspace is.
#[must_use]
pub fn folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    env::var_os("CLAWCHAT_SPEC_VECTORS").map_or_else(own_folder, |named| workspace.join(named))
}

/// Reads one file of vectors.
///
/// # Errors
/// When it is missing or not a JSON object.
pub fn load(path: &Path) -> Outcome<Fields> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| format!("{}: not JSON: {error}", path.display()))?;
    Fields::of(value)
}

/// Names of the JSON files in a folder.
///
/// # Errors
/// When the folder can't be read.
pub fn json_files(folder: &Path) -> Outcome<Vec<String>> {
    let wrong = |error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            names.push(name);
        }
    }
    Ok(names)
}

/// The fields of a JSON object that nobody has checked yet.
#[derive(Clone, Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The fields of `value`.
    ///
    /// # Errors
    /// When it is no object.
    pub fn of(value: Value) -> Outcome<Self> {
        if let Value::Object(fields) = value {
            return Ok(Self(fields));
        }
        Err(format!("not an object: {value}"))
    }

    /// Lets `check` take what it wants, and fails if that is not everything.
    ///
    /// # Errors
    /// What `check` says, or the names of the fields left over.
    pub fn all<T>(mut self, check: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        let result = check(&mut self)?;
        if self.0.is_empty() {
            return Ok(result);
        }
        let left: Vec<_> = self.0.keys().map(String::as_str).collect();
        Err(format!("fields that nothing checks: {}", left.join(", ")))
    }

    /// Takes a field that may be missing.
    pub fn maybe(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    /// Whether a field that may be missing is there.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Takes a field.
    ///
    /// # Errors
    /// When it is missing; so for all the functions below, and when it is of another type.
    pub fn take(&mut self, key: &str) -> Outcome<Value> {
        self.maybe(key).ok_or_else(|| format!("field {key} is missing"))
    }

    /// Takes a string.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn text(&mut self, key: &str) -> Outcome<String> {
        let value = self.take(key)?;
        if let Value::String(text) = value {
            return Ok(text);
        }
        Err(format!("field {key} is no string: {value}"))
    }

    /// Takes an integer that is not negative.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn uint(&mut self, key: &str) -> Outcome<u64> {
        let value = self.take(key)?;
        value.as_u64().ok_or_else(|| format!("field {key} is no such integer: {value}"))
    }

    /// Takes a `u64` written as decimal text.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn decimal(&mut self, key: &str) -> Outcome<u64> {
        let text = self.text(key)?;
        text.parse().map_err(|_| format!("field {key} is no decimal u64: {text}"))
    }

    /// Takes `true` or `false`.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn bool(&mut self, key: &str) -> Outcome<bool> {
        let value = self.take(key)?;
        value.as_bool().ok_or_else(|| format!("field {key} is no boolean: {value}"))
    }

    /// Takes an array.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn list(&mut self, key: &str) -> Outcome<Vec<Value>> {
        let value = self.take(key)?;
        if let Value::Array(list) = value {
            return Ok(list);
        }
        Err(format!("field {key} is no array: {value}"))
    }

    /// Takes an object, of which `check` must take everything.
    ///
    /// # Errors
    /// See [`Self::take`] and [`Self::all`].
    pub fn within<T>(
        &mut self,
        key: &str,
        check: impl FnOnce(&mut Self) -> Outcome<T>,
    ) -> Outcome<T> {
        let fields = Self::of(self.take(key)?).map_err(|why| format!("field {key}: {why}"))?;
        fields.all(check).map_err(|why| format!("in {key}: {why}"))
    }

    /// Takes bytes in lower-case hex.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn hex(&mut self, key: &str) -> Outcome<Vec<u8>> {
        let text = self.text(key)?;
        unhex(&text).ok_or_else(|| format!("field {key} is not hex: {text}"))
    }

    /// Takes exactly `N` bytes in lower-case hex.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn hex_array<const N: usize>(&mut self, key: &str) -> Outcome<[u8; N]> {
        let bytes = self.hex(key)?;
        bytes.as_slice().try_into().map_err(|_| format!("field {key} is not of {N} bytes"))
    }

    /// Takes a key of 32 bytes in lower-case hex.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn key(&mut self, key: &str) -> Outcome<Secret<32>> {
        Ok(Secret::take(&mut self.hex_array(key)?))
    }

    /// Takes exactly `N` bytes in base64.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn base64_array<const N: usize>(&mut self, key: &str) -> Outcome<[u8; N]> {
        let bytes = self.base64(key)?;
        bytes.as_slice().try_into().map_err(|_| format!("field {key} is not of {N} bytes"))
    }

    /// Takes bytes in base64.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn base64(&mut self, key: &str) -> Outcome<Vec<u8>> {
        let text = self.text(key)?;
        STANDARD.decode(&text).map_err(|_| format!("field {key} is not base64: {text}"))
    }
}

/// Bytes of lower-case hex; `None` when it is none.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    text.as_bytes().chunks_exact(2).map(pair).collect()
}

/// Bytes as lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
