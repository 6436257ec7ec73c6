//! Chat that came while a command ran that does not show chat. The server has been told that it was
//! delivered, so it is kept here until `listen` or `chat` shows it.

use crate::disk::{self, wipe::wipe};
use crate::failure::Outcome;
use clawchat_core::crypto::derive::derive;
use clawchat_core::id::ChatId;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{Chat, Recipient, SessionInfo, hex};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The inbox of a member at a server.
#[derive(Clone, Debug)]
pub(super) struct Inbox(PathBuf);

impl Inbox {
    /// The inbox that goes with a session; `None` where this user has no place for it.
    pub(super) fn of(info: &SessionInfo) -> Option<Self> {
        name_of(info, "inbox").map(|path| Self(path.with_extension("jsonl")))
    }

    /// Keeps a chat.
    pub(super) fn keep(&self, chat: &Chat) -> Outcome<()> {
        let folder = disk::folder_of(&self.0);
        disk::make_private_folder(&folder)?;
        let mut line = write(chat).encode();
        line.push(b'\n');
        let mut options = OpenOptions::new();
        options
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.0)
            .and_then(|mut file| file.write_all(&line).and_then(|()| file.sync_data()))
            .map_err(|error| disk::cannot_write(&self.0, &error))
    }

    /// What was kept, oldest first. A line that a crash cut is left out.
    pub(super) fn read(&self) -> Outcome<Vec<Chat>> {
        if !self.0.exists() {
            return Ok(Vec::new());
        }
        let bytes = disk::read_private(&self.0)?;
        let lines = bytes.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| read(&Object::parse(line).ok()?)).collect())
    }

    /// What was read has been shown.
    pub(super) fn clear(&self) {
        // What can't be removed is shown again: better than lost.
        let _kept = wipe(&self.0);
    }
}

/// The file of a member at a server in a folder of this user's state; `None` where there is none.
pub(super) fn name_of(info: &SessionInfo, folder: &str) -> Option<PathBuf> {
    let home = directories::BaseDirs::new()?;
    let state = home.state_dir().unwrap_or_else(|| home.data_local_dir());
    let name = derive(info.server_id.as_bytes(), info.member.as_bytes());
    Some(state.join("clawchat").join(folder).join(hex(&name.mac_key.expose()[..12])))
}

fn write(chat: &Chat) -> Object {
    Object::new()
        .with("from", chat.from.as_str())
        .with("to", chat.to.to_string())
        .with("id", chat.id.to_string())
        .with("text", chat.text.as_str())
        .with("sent_at", chat.sent_at.0)
}

fn read(object: &Object) -> Option<Chat> {
    Some(Chat {
        id: ChatId::parse(object.text("id").ok()?)?,
        from: object.text("from").ok()?.to_owned(),
        to: Recipient::parse(object.text("to").ok()?)?,
        text: object.text("text").ok()?.to_owned(),
        sent_at: UnixMs(object.uint("sent_at").ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_until_shown() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = Inbox(folder.path().join("new").join("a.jsonl"));
        assert!(inbox.read().unwrap().is_empty());
        let chat = |id| Chat {
            id: ChatId([id; 16]),
            from: "bob".into(),
            to: Recipient::Member("ann".into()),
            text: "two\nlines".into(),
            sent_at: UnixMs(7),
        };
        inbox.keep(&chat(1)).unwrap();
        inbox.keep(&chat(2)).unwrap();
        assert_eq!(inbox.read().unwrap(), [chat(1), chat(2)]);
        inbox.clear();
        assert!(inbox.read().unwrap().is_empty());
    }
}
