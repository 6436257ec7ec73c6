//! The journal of chat: what was stored, and who has it. One line a record; a line that a crash cut
//! was never confirmed, and is dropped.

use crate::disk;
use crate::failure::{Exit, Failure, Outcome};
use clawchat_core::error::Malformed;
use clawchat_core::id::ChatId;
use clawchat_core::limits::CHATS_REMEMBERED;
use clawchat_core::server::StoredChat;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::json::{Json, Object};
use clawchat_core::wire::message::{Chat, Recipient};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The journal is rewritten once it is this long and mostly old.
const COMPACT_AT: u64 = 8 << 20;

/// Chat that a server must not forget.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
    /// As much of it as was flushed.
    durable: u64,
    /// By age. What has no recipient left keeps only its id.
    chats: BTreeMap<u64, StoredChat>,
    index: BTreeMap<(String, ChatId), u64>,
    next: u64,
}

impl Journal {
    /// Opens the journal of a state folder, made if it is missing.
    ///
    /// # Errors
    /// 73, 78.
    pub fn open(path: &Path) -> Outcome<Self> {
        if !path.exists() {
            disk::write_private(path, b"", false)?;
        }
        let bytes = disk::read_private(path)?;
        let file = open(path).map_err(|error| disk::cannot_write(path, &error))?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            size: 0,
            durable: 0,
            chats: BTreeMap::new(),
            index: BTreeMap::new(),
            next: 0,
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for (number, line) in lines.enumerate() {
            journal.replay(line).map_err(|what| {
                let text = format!("{}: line {} is damaged: {what}", path.display(), number + 1);
                Failure::new(Exit::Config, text).advice("restore it, or move it away")
            })?;
        }
        journal.size = whole as u64;
        if journal.compact().is_err() {
            // A full disk hinders new chat, not what is there: only a line that a crash cut must go.
            journal.file = open(path).map_err(|error| disk::cannot_write(path, &error))?;
            journal.file.set_len(journal.size).map_err(|error| disk::cannot_write(path, &error))?;
            journal.durable = journal.size;
        }
        Ok(journal)
    }

    /// What was stored, oldest first.
    #[must_use]
    pub fn chats(&self) -> Vec<StoredChat> {
        self.chats.values().cloned().collect()
    }

    fn replay(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let object = Object::parse(line)?;
        if object.get("by").is_some() {
            let (from, id, by) = read_delivered(&object)?;
            self.note_delivered(&from, id, &by);
        } else {
            let stored = read_stored(&object)?;
            self.note_stored(stored);
        }
        Ok(())
    }

    fn note_stored(&mut self, stored: StoredChat) {
        self.index.insert((stored.chat.from.clone(), stored.chat.id), self.next);
        self.chats.insert(self.next, stored);
        self.next += 1;
    }

    fn note_delivered(&mut self, from: &str, id: ChatId, by: &str) {
        let at = self.index.get(&(from.to_owned(), id));
        if let Some(stored) = at.and_then(|at| self.chats.get_mut(at)) {
            stored.to.retain(|member| member != by);
            if stored.to.is_empty() {
                stored.chat.text = String::new();
            }
        }
    }

    /// Writes that a chat is stored. Counts once [`Self::flush`] has returned.
    ///
    /// # Errors
    /// The operating system's.
    pub fn store(&mut self, stored: &StoredChat) -> io::Result<()> {
        self.append(&write_stored(stored))?;
        self.note_stored(stored.clone());
        Ok(())
    }

    /// Writes that a member has a chat.
    ///
    /// # Errors
    /// The operating system's.
    pub fn delivered(&mut self, from: &str, id: ChatId, by: &str) -> io::Result<()> {
        let object = Object::new().with("from", from).with("id", id.to_string()).with("by", by);
        self.append(&object)?;
        self.note_delivered(from, id, by);
        Ok(())
    }

    fn append(&mut self, object: &Object) -> io::Result<()> {
        let mut line = object.encode();
        line.push(b'\n');
        let written = self.file.write_all(&line);
        if written.is_err() {
            // Half a line would spoil the next one.
            self.file.set_len(self.size)?;
            return written;
        }
        self.size += line.len() as u64;
        Ok(())
    }

    /// Makes durable what was written since the last time. When it fails nothing of that stays: chat
    /// that was called failed must not come back after a restart.
    ///
    /// # Errors
    /// The operating system's.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.size > COMPACT_AT {
            self.forget();
            let kept: usize = self.chats.values().map(|s| s.chat.text.len() + 200).sum();
            // Without room for a second journal the first one does for longer.
            if (kept as u64) < self.size / 2 && self.compact().is_ok() {
                return Ok(());
            }
        }
        // The second may succeed: a flush that fails is told once, whatever it was of.
        match self.sync().or_else(|_| self.sync()) {
            Ok(()) => {
                self.durable = self.size;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.durable)?;
                self.size = self.durable;
                let before = Self::open(&self.path).map_err(io::Error::other)?;
                *self = before;
                Err(error)
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        disk::faults::strike()?;
        self.file.sync_data()
    }

    /// Forgets ids of delivered chats beyond those that count.
    fn forget(&mut self) {
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        let mut gone = Vec::new();
        for (number, stored) in self.chats.iter().rev() {
            let count = kept.entry(stored.chat.from.clone()).or_default();
            *count += 1;
            if *count > CHATS_REMEMBERED && stored.to.is_empty() {
                gone.push(*number);
            }
        }
        for number in gone {
            if let Some(stored) = self.chats.remove(&number) {
                self.index.remove(&(stored.chat.from, stored.chat.id));
            }
        }
    }

    /// Writes the journal anew, without what is settled.
    fn compact(&mut self) -> io::Result<()> {
        self.forget();
        let mut bytes = Vec::new();
        for stored in self.chats.values() {
            bytes.extend(write_stored(stored).encode());
            bytes.push(b'\n');
        }
        // The very file that got the name: one opened by it could fail to open, and all that is
        // written to the old one from then on would be lost.
        self.file = disk::open_written(&self.path, &bytes, true)
            .map_err(|failure| io::Error::other(failure.to_string()))?;
        self.size = bytes.len() as u64;
        self.durable = self.size;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn write_stored(stored: &StoredChat) -> Object {
    let for_: Vec<Json> = stored.to.iter().map(|member| member.as_str().into()).collect();
    Object::new()
        .with("from", stored.chat.from.as_str())
        .with("id", stored.chat.id.to_string())
        .with("to", stored.chat.to.to_string())
        .with("text", stored.chat.text.as_str())
        .with("sent_at", stored.chat.sent_at.0)
        .with("stored_at", stored.stored_at.0)
        .with("for", for_)
}

fn read_stored(object: &Object) -> Result<StoredChat, Malformed> {
    let to = Recipient::parse(object.text("to")?).ok_or(Malformed::Field("to"))?;
    let members = object.list("for")?.iter().map(|member| match member {
        Json::Text(member) => Ok(member.clone()),
        _ => Err(Malformed::Field("for")),
    });
    Ok(StoredChat {
        chat: Chat {
            id: ChatId::parse(object.text("id")?).ok_or(Malformed::Field("id"))?,
            from: object.text("from")?.to_owned(),
            to,
            text: object.text("text")?.to_owned(),
            sent_at: UnixMs(object.uint("sent_at")?),
        },
        to: members.collect::<Result<_, _>>()?,
        stored_at: UnixMs(object.uint("stored_at")?),
    })
}

fn read_delivered(object: &Object) -> Result<(String, ChatId, String), Malformed> {
    let id = ChatId::parse(object.text("id")?).ok_or(Malformed::Field("id"))?;
    Ok((object.text("from")?.to_owned(), id, object.text("by")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(id: u8, to: &[&str]) -> StoredChat {
        let to = to.iter().map(|member| (*member).to_owned()).collect();
        let chat = Chat {
            id: ChatId([id; 16]),
            from: "ann".into(),
            to: Recipient::Room("lobby".into()),
            text: "hi\n\"there\"".into(),
            sent_at: UnixMs(5),
        };
        StoredChat { chat, to, stored_at: UnixMs(7) }
    }

    #[test]
    fn survives_a_crash_at_any_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let mut journal = Journal::open(&path).unwrap();
        journal.store(&chat(1, &["bob", "eve"])).unwrap();
        journal.store(&chat(2, &["bob"])).unwrap();
        journal.delivered("ann", ChatId([1; 16]), "bob").unwrap();
        journal.flush().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let ends: Vec<_> =
            bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        for cut in 0..=bytes.len() {
            disk::write_private(&path, &bytes[..cut], true).unwrap();
            let chats = Journal::open(&path).unwrap().chats();
            let lines = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(chats.len(), lines.min(2));
            if lines == 3 {
                assert_eq!(chats, [chat(1, &["eve"]), chat(2, &["bob"])]);
            }
        }
    }

    #[test]
    fn what_is_delivered_keeps_its_id_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let mut journal = Journal::open(&path).unwrap();
        journal.store(&chat(1, &["bob"])).unwrap();
        journal.delivered("ann", ChatId([1; 16]), "bob").unwrap();
        drop(journal);
        let chats = Journal::open(&path).unwrap().chats();
        assert_eq!((chats[0].chat.text.as_str(), chats[0].to.len()), ("", 0));
        assert!(!std::fs::read_to_string(&path).unwrap().contains("there"));
        disk::write_private(&path, b"{}\n{}\n", true).unwrap();
        assert_eq!(Journal::open(&path).unwrap_err().exit, Exit::Config);
    }

    #[test]
    fn chat_that_failed_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let mut journal = Journal::open(&path).unwrap();
        journal.store(&chat(1, &["bob"])).unwrap();
        disk::faults::fail_syncs(1);
        journal.flush().unwrap();
        journal.store(&chat(2, &["bob"])).unwrap();
        disk::faults::fail_syncs(2);
        assert!(journal.flush().is_err());
        assert_eq!(journal.chats(), [chat(1, &["bob"])]);
        journal.store(&chat(3, &["bob"])).unwrap();
        journal.flush().unwrap();
        drop(journal);
        let kept = [chat(1, &["bob"]), chat(3, &["bob"])];
        assert_eq!(Journal::open(&path).unwrap().chats(), kept);
    }

    #[test]
    fn without_room_for_a_new_journal_the_old_one_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (near, far) = (folder.path().join("near"), folder.path().join("far"));
        std::fs::create_dir(&near).unwrap();
        let path = near.join("j");
        let mut journal = Journal::open(&path).unwrap();
        let mut long = chat(1, &["bob"]);
        long.chat.text = "x".repeat(60_000);
        for id in 0..150 {
            long.chat.id = ChatId([id; 16]);
            journal.store(&long).unwrap();
            journal.delivered("ann", long.chat.id, "bob").unwrap();
        }
        // Nothing can be made in a folder that is not there.
        std::fs::rename(&near, &far).unwrap();
        journal.store(&chat(200, &["eve"])).unwrap();
        journal.flush().unwrap();
        std::fs::rename(&far, &near).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() > COMPACT_AT);
        let last = |path: &Path| Journal::open(path).unwrap().chats().pop();
        let copy = folder.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        assert_eq!(last(&copy), Some(chat(200, &["eve"])));
        // With room it is rewritten, and what follows goes to the new one.
        journal.store(&chat(201, &["eve"])).unwrap();
        journal.flush().unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < COMPACT_AT);
        journal.store(&chat(202, &["eve"])).unwrap();
        journal.flush().unwrap();
        drop(journal);
        assert_eq!(last(&path), Some(chat(202, &["eve"])));
    }
}
