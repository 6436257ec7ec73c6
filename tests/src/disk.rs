//! What the server of a world had made durable: it survives when the server is dropped.

use crate::net::Rng;
use clawchat_core::id::{ChatId, FileId};
use clawchat_core::ops::Outcome;
use clawchat_core::secret::Secret;
use clawchat_core::server::{Action, Credential, SecurityFileDraft, StoredChat, StoredFile};
use clawchat_core::wire::secfile::SecurityFile;
use std::collections::BTreeMap;

/// How the disk fails. Chances are per mille.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// A chat is not stored.
    pub store: u64,
    /// A security file is not written.
    pub issue: u64,
    /// Files are not retired.
    pub retire: u64,
    /// An action takes seconds.
    pub slow: u64,
    /// An action other than chat takes longer than the machine waits for it.
    pub hang: u64,
    /// Nobody ever says whether secrets were kept or a renewed file stored.
    pub lost: u64,
}

/// When an action is performed, when its machine learns of it, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// When it is durable, microseconds.
    pub performed: u64,
    /// When it is completed, microseconds.
    pub completed: u64,
    /// How it ends.
    pub outcome: Outcome,
}

/// A security file that was issued: who has it, and what it holds.
#[derive(Debug)]
pub struct Issued {
    /// Its number.
    pub file: FileId,
    /// Whose it is.
    pub member: String,
    /// Its content.
    pub content: SecurityFile,
}

/// A second copy of a security file's content.
///
/// # Panics
/// When a file can't be read back as written.
#[must_use]
pub fn duplicate(content: &SecurityFile) -> SecurityFile {
    SecurityFile::from_object(&content.to_object()).expect("a file reads back as written")
}

/// Everything durable.
#[derive(Debug, Default)]
pub struct Disk {
    /// How it fails.
    pub faults: DiskFaults,
    credentials: BTreeMap<FileId, Vec<Credential>>,
    issued: Vec<Issued>,
    retired: BTreeMap<FileId, u64>,
    journal: Vec<StoredChat>,
    by_id: BTreeMap<(String, ChatId), usize>,
    /// Files that members sent, checked and whole, in the order in which they came.
    files: Vec<StoredFile>,
    /// Chat is written in order: when the last write ends, and when that is known.
    busy: (u64, u64),
    /// The same for files.
    files_busy: (u64, u64),
}

impl Disk {
    /// Decides over an action that was handed out at `now`.
    pub fn plan(&mut self, rng: &mut Rng, now: u64, action: &Action) -> Plan {
        let DiskFaults { store, issue, retire, slow, hang, lost } = self.faults;
        let fail = match action {
            Action::StoreChat { .. } => store,
            Action::IssueSecurityFile { .. } => issue,
            Action::RetireFiles { .. } => retire,
            Action::KeepCredentials { .. } => issue / 2,
            Action::BindPort { .. }
            | Action::ClosePort { .. }
            | Action::ChatDelivered { .. }
            | Action::FileDelivered { .. } => 0,
        };
        let outcome = if rng.chance(fail) { Outcome::Failed } else { Outcome::Done };
        let mut time = |slow| {
            if rng.chance(slow) { rng.range(100_000..=4_000_000) } else { rng.range(50..=5_000) }
        };
        let (writing, telling) = (time(slow), time(slow / 2));
        let journal = matches!(action, Action::StoreChat { .. } | Action::ChatDelivered { .. });
        if journal {
            let performed = self.busy.0.max(now + writing);
            let completed = self.busy.1.max(performed + telling);
            self.busy = (performed, completed);
            return Plan { performed, completed, outcome };
        }
        let hung = if rng.chance(hang) { 65_000_000 } else { 0 };
        let performed = self.files_busy.0.max(now + writing + hung);
        let completed = self.files_busy.1.max(performed + telling);
        self.files_busy = (performed, completed);
        let lost = matches!(action, Action::KeepCredentials { .. }) && rng.chance(lost);
        // In ten days nobody waits any more.
        let completed = if lost { now + 864_000_000_000 } else { completed };
        Plan { performed, completed, outcome }
    }

    /// Makes an action durable.
    pub fn perform(&mut self, now: u64, action: Action) {
        match action {
            Action::IssueSecurityFile { draft } => self.issue(*draft),
            Action::RetireFiles { files } => {
                for file in files {
                    self.credentials.remove(&file);
                    self.retired.entry(file).or_insert(now);
                }
            }
            Action::StoreChat { stored } => {
                let key = (stored.chat.from.clone(), stored.chat.id);
                self.by_id.insert(key, self.journal.len());
                self.journal.push(*stored);
            }
            Action::ChatDelivered { from, id, by } => {
                if let Some(at) = self.by_id.get(&(from, id)) {
                    self.journal[*at].to.retain(|member| *member != by);
                }
            }
            Action::KeepCredentials { file, credentials } => {
                self.credentials.insert(file, credentials);
            }
            Action::FileDelivered { from, id, by } => {
                let of = |file: &&mut StoredFile| file.offer.from == from && file.offer.id == id;
                if let Some(file) = self.files.iter_mut().find(of) {
                    file.to.retain(|member| *member != by);
                }
            }
            Action::BindPort { .. } | Action::ClosePort { .. } => {}
        }
    }

    /// A member's file was checked, and is durable.
    pub fn keep_file(&mut self, file: StoredFile) {
        if !self.has_file(&file.offer.from, file.offer.id) {
            self.files.push(file);
        }
    }

    /// Whether a member's file was ever kept.
    #[must_use]
    pub fn has_file(&self, from: &str, id: ChatId) -> bool {
        self.files.iter().any(|file| file.offer.from == from && file.offer.id == id)
    }

    /// The files that somebody waits for, for a server that starts; perhaps also those that nobody
    /// does any more.
    #[must_use]
    pub fn files(&self, all: bool) -> Vec<StoredFile> {
        self.files.iter().filter(|file| all || !file.to.is_empty()).cloned().collect()
    }

    fn issue(&mut self, draft: SecurityFileDraft) {
        let SecurityFileDraft { credential, content, .. } = draft;
        let (file, member) = (credential.file, credential.member.clone());
        self.credentials.entry(file).or_default().push(credential);
        self.issued.push(Issued { file, member, content });
    }

    /// The server was dropped: what it had not handed over yet is gone, and the disk is idle.
    pub const fn server_crashed(&mut self) {
        self.busy = (0, 0);
        self.files_busy = (0, 0);
    }

    /// Whether a file's secret is accepted after a restart, and how many secrets of it are.
    #[must_use]
    pub fn accepts(&self, file: FileId, secret: &Secret<32>) -> (bool, usize) {
        let held = self.credentials.get(&file).map_or(&[][..], Vec::as_slice);
        let live = || held.iter().filter(|credential| !credential.is_retired());
        (live().any(|credential| credential.secret.same(secret)), live().count())
    }

    /// The credentials, for a server that starts.
    #[must_use]
    pub fn credentials(&self) -> Vec<Credential> {
        self.credentials.values().flatten().map(Credential::duplicate).collect()
    }

    /// The chats, for a server that starts.
    #[must_use]
    pub fn chats(&self) -> Vec<StoredChat> {
        self.journal.clone()
    }

    /// Whether a chat is durable.
    #[must_use]
    pub fn has_chat(&self, from: &str, id: ChatId) -> bool {
        self.by_id.contains_key(&(from.to_string(), id))
    }

    /// Chats that are durable.
    #[must_use]
    pub const fn stored(&self) -> usize {
        self.journal.len()
    }

    /// All files that were ever issued, oldest first.
    #[must_use]
    pub fn issued(&self) -> &[Issued] {
        &self.issued
    }

    /// The newest file of a member that is accepted.
    #[must_use]
    pub fn newest(&self, member: &str) -> Option<FileId> {
        let mine = |issued: &&Issued| {
            issued.member == member && self.credentials.contains_key(&issued.file)
        };
        self.issued.iter().rev().find(mine).map(|issued| issued.file)
    }

    /// Content of a file.
    #[must_use]
    pub fn content(&self, file: FileId) -> Option<SecurityFile> {
        let issued = self.issued.iter().rev().find(|issued| issued.file == file)?;
        Some(duplicate(&issued.content))
    }

    /// Since when a file is retired, microseconds.
    #[must_use]
    pub fn retired_at(&self, file: FileId) -> Option<u64> {
        self.retired.get(&file).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawchat_core::time::UnixMs;
    use clawchat_core::wire::message::{Chat, Recipient};

    fn store(id: u8) -> Action {
        let chat = Chat {
            id: ChatId([id; 16]),
            from: "ann".to_string(),
            to: Recipient::Room("lobby".to_string()),
            text: "hi".to_string(),
            sent_at: UnixMs(0),
        };
        Action::StoreChat {
            stored: Box::new(StoredChat {
                chat,
                to: vec!["bob".to_string()],
                stored_at: UnixMs(0),
            }),
        }
    }

    #[test]
    fn chat_is_written_in_order() {
        let faults = DiskFaults { slow: 500, ..DiskFaults::default() };
        let (mut disk, mut rng) = (Disk { faults, ..Disk::default() }, Rng::new(3));
        let mut last = (0, 0);
        for id in 0..100 {
            let plan = disk.plan(&mut rng, u64::from(id) * 10, &store(id));
            assert!(plan.performed <= plan.completed);
            assert!(last.0 <= plan.performed && last.1 <= plan.completed);
            last = (plan.performed, plan.completed);
            disk.perform(plan.performed, store(id));
        }
        assert_eq!(disk.stored(), 100);
        let (from, by) = ("ann".to_string(), "bob".to_string());
        disk.perform(0, Action::ChatDelivered { from, id: ChatId([7; 16]), by });
        let chats = disk.chats();
        assert!(chats[7].to.is_empty() && chats[8].to == ["bob"]);
        assert!(disk.has_chat("ann", ChatId([9; 16])) && !disk.has_chat("bob", ChatId([9; 16])));
    }
}
