//! Bootstrap keys as people carry them: 24 words, or base64.

use crate::failure::{Exit, Failure, Outcome};
use bip39::{Language, Mnemonic};
use clawchat_core::secret::Secret;
use clawchat_core::wire::json::{base64, unbase64};
use sha2_fingerprint::fingerprint_of;
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

mod sha2_fingerprint {
    use clawchat_core::crypto::derive::derive;
    use clawchat_core::secret::Secret;

    /// Four bytes that tell keys apart and nothing else about them.
    pub(super) fn fingerprint_of(key: &Secret<32>) -> [u8; 4] {
        let keys = derive(key.expose(), b"ClawChat bootstrap key fingerprint");
        *keys.mac_key.expose().first_chunk().unwrap_or(&[0; 4])
    }
}

/// A bootstrap key.
#[derive(Debug)]
pub struct BootstrapKey(Secret<32>);

impl BootstrapKey {
    /// A fresh random key.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn generate() -> Outcome<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|e| Failure::new(Exit::Failed, format!("no randomness: {e}")))?;
        Ok(Self(Secret::take(&mut bytes)))
    }

    /// The key itself.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }

    /// The key as base64.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(base64(self.0.expose()))
    }

    /// The key as 24 words.
    #[must_use]
    pub fn to_words(&self) -> Zeroizing<String> {
        let words = Mnemonic::from_entropy(self.0.expose()).map(|mnemonic| mnemonic.to_string());
        Zeroizing::new(words.unwrap_or_default())
    }

    /// Tells keys apart, as `7F3A-91C2`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let [a, b, c, d] = fingerprint_of(&self.0);
        format!("{a:02X}{b:02X}-{c:02X}{d:02X}")
    }

    /// Reads 24 words or base64.
    ///
    /// # Errors
    /// What is wrong with the text; never the text itself, but for a mistyped word.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.split_whitespace().nth(1).is_none() {
            let mut bytes = unbase64(text).unwrap_or_default();
            let key = Secret::from_slice(&bytes);
            bytes.zeroize();
            return key.map(Self).ok_or_else(|| {
                "this is no bootstrap key: 24 words, or 44 characters of base64".to_owned()
            });
        }
        let text = Zeroizing::new(text.to_lowercase());
        let words: Vec<_> = text.split_whitespace().collect();
        let list = Language::English.word_list();
        for (index, word) in words.iter().enumerate() {
            if list.binary_search(word).is_err() {
                let near = nearest(word, list);
                return Err(format!(
                    "word {} \"{word}\" is not in the list; did you mean \"{near}\"?",
                    index + 1
                ));
            }
        }
        if words.len() != 24 {
            return Err(format!("{} words, but a bootstrap key has 24", words.len()));
        }
        let joined = Zeroizing::new(words.join(" "));
        let mnemonic = Mnemonic::parse_normalized(&joined)
            .map_err(|_| "24 words, but they do not belong together: check the order".to_owned())?;
        let (mut entropy, length) = mnemonic.to_entropy_array();
        let key = Secret::from_slice(&entropy[..length]);
        entropy.zeroize();
        key.map(Self).ok_or_else(|| "a bootstrap key has 24 words".to_owned())
    }

    /// Reads a key file: `-` is stdin.
    ///
    /// # Errors
    /// 66 when it is missing, 77 when it holds no key.
    pub fn read(path: &Path) -> Outcome<Self> {
        let mut bytes = crate::disk::read_input(path, 4096)?;
        let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
        bytes.zeroize();
        Self::parse(&text)
            .map_err(|what| Failure::new(Exit::NotPermitted, format!("{}: {what}", path.display())))
    }
}

/// The word of the list that takes the fewest changes.
fn nearest<'a>(word: &str, list: &'a [&'a str]) -> &'a str {
    list.iter().min_by_key(|other| distance(word, other)).copied().unwrap_or_default()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_base64_are_the_same_key() {
        let key = BootstrapKey::generate().unwrap();
        for text in [key.to_words(), key.to_base64()] {
            let spaced = format!("  {}\n", text.replace(' ', " \n "));
            let again = BootstrapKey::parse(&spaced).unwrap();
            assert!(again.secret().same(key.secret()));
            assert_eq!(again.fingerprint(), key.fingerprint());
        }
        assert_eq!(key.to_words().split(' ').count(), 24);
    }

    #[test]
    fn typos_are_named() {
        let key = BootstrapKey(Secret::take(&mut [7; 32]));
        let words = key.to_words();
        let mut list: Vec<&str> = words.split(' ').collect();
        list[13] = "ocian";
        let error = BootstrapKey::parse(&list.join(" ")).unwrap_err();
        assert_eq!(error, "word 14 \"ocian\" is not in the list; did you mean \"ocean\"?");
        let mut swapped: Vec<&str> = words.split(' ').collect();
        swapped.swap(0, 23);
        assert!(BootstrapKey::parse(&swapped.join(" ")).unwrap_err().contains("order"));
        assert!(BootstrapKey::parse("abandon ability").unwrap_err().contains("2 words"));
        assert!(BootstrapKey::parse("AAAA").is_err() && BootstrapKey::parse("").is_err());
    }
}
