//! Which chats this device has shown: the server sends a chat again when it does not know whether it
//! was delivered, also to the next process when this one was killed.

use super::inbox::name_of;
use crate::disk::recent::Recent;
use clawchat_core::crypto::derive::derive;
use clawchat_core::id::ChatId;
use clawchat_core::limits::CHATS_SEEN;
use clawchat_core::wire::message::{Chat, FileOffer, SessionInfo, hex};
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

/// Hex digits of a line. They tell nothing of who wrote what.
const DIGITS: usize = 24;

/// Chats that were shown, in memory and, where there is a place for it, on the disk. What that loses is
/// shown again: better than lost.
#[derive(Debug, Default)]
pub(super) struct Shown {
    list: Option<Recent>,
    known: BTreeSet<String>,
    order: VecDeque<String>,
}

impl Shown {
    /// What the member of a session was shown at its server.
    pub(super) fn of(info: &SessionInfo) -> Self {
        name_of(info, "shown").map_or_else(Self::default, Self::open)
    }

    fn open(path: PathBuf) -> Self {
        let (list, lines) = Recent::open(path, CHATS_SEEN, |line| line.len() == DIGITS);
        let mut shown = Self { list: Some(list), ..Self::default() };
        lines.into_iter().for_each(|line| shown.add(line));
        shown
    }

    fn add(&mut self, key: String) {
        if self.known.insert(key.clone()) {
            self.order.push_back(key);
        }
        if self.order.len() > CHATS_SEEN
            && let Some(old) = self.order.pop_front()
        {
            self.known.remove(&old);
        }
    }

    /// Files that the member of a session has received from its server.
    pub(super) fn received(info: &SessionInfo) -> Self {
        name_of(info, "received").map_or_else(Self::default, Self::open)
    }

    /// Whether a chat was shown.
    pub(super) fn has(&self, chat: &Chat) -> bool {
        self.known.contains(&key(&chat.from, &chat.id))
    }

    /// Whether a file was received.
    pub(super) fn has_file(&self, offer: &FileOffer) -> bool {
        self.known.contains(&key(&offer.from, &offer.id))
    }

    /// A file, by its sender and id, lies under its name.
    /// Whether the disk has taken that.
    pub(super) fn note_file(&mut self, from: &str, id: &ChatId) -> bool {
        self.note_key(key(from, id))
    }

    /// Where this is kept; nothing where there is no place for it.
    pub(super) fn place(&self) -> String {
        let path = self.list.as_ref().map(Recent::path);
        path.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
    }

    /// A chat stands on the screen.
    pub(super) fn note(&mut self, chat: &Chat) {
        // What is not noted is shown again: better than lost.
        let _noted = self.note_key(key(&chat.from, &chat.id));
    }

    fn note_key(&mut self, key: String) -> bool {
        if self.known.contains(&key) {
            return true;
        }
        let noted = self.list.as_mut().is_none_or(|list| list.note(&key));
        self.add(key);
        noted
    }
}

fn key(from: &str, id: &ChatId) -> String {
    hex(&derive(&id.0, from.as_bytes()).mac_key.expose()[..DIGITS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawchat_core::time::UnixMs;
    use clawchat_core::wire::message::Recipient;

    fn chat(id: u16, from: &str) -> Chat {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        Chat {
            id: ChatId(bytes),
            from: from.into(),
            to: Recipient::Member("ann".into()),
            text: "hi".into(),
            sent_at: UnixMs(7),
        }
    }

    #[test]
    fn known_to_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("a");
        let mut shown = Shown::open(path.clone());
        shown.note(&chat(1, "bob"));
        shown.note(&chat(1, "bob"));
        shown.note(&chat(2, "bob"));
        drop(shown);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 2 * (DIGITS + 1), "each once");
        assert!(!String::from_utf8_lossy(&bytes).contains("bob"));
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let mut shown = Shown::open(path.clone());
        assert!(shown.has(&chat(1, "bob")) && !shown.has(&chat(1, "eve")));
        assert!(!shown.has(&chat(2, "bob")), "a line that was cut");
        shown.note(&chat(3, "bob"));
        assert!(Shown::open(path).has(&chat(3, "bob")), "not glued to the line that was cut");
    }

    #[test]
    fn is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("a");
        crate::disk::make_private_folder(&folder.path().join("new")).unwrap();
        let lines: String = (0..2 * CHATS_SEEN).map(|n| format!("{n:0DIGITS$x}\n")).collect();
        crate::disk::write_private(&path, lines.as_bytes(), false).unwrap();
        let mut shown = Shown::open(path.clone());
        assert_eq!(shown.known.len(), CHATS_SEEN);
        shown.note(&chat(1, "bob"));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), CHATS_SEEN + 1);
        assert!(Shown::open(path).has(&chat(1, "bob")));
    }
}
