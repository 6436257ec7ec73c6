//! What a `send-file` that was interrupted has to know when it is repeated: under which id it offered
//! a file, and what the file was then.

use super::inbox::name_of;
use crate::disk;
use crate::failure::Outcome;
use clawchat_core::crypto::derive::derive;
use clawchat_core::id::ChatId;
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{SessionInfo, hex};
use std::path::{Path, PathBuf};

/// What is remembered of a file or folder on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// The id of its offer; of a folder's, that of its list.
    pub(super) id: ChatId,
    /// Its size, bytes.
    pub(super) size: u64,
    /// When it was last changed, as the disk says it.
    pub(super) changed: String,
    /// The list of a folder, with the ids of its files.
    pub(super) list: Option<String>,
}

/// The folder of a member at a server; `None` where this user has no place for it.
#[derive(Clone, Debug)]
pub(super) struct Memory(Option<PathBuf>);

impl Memory {
    pub(super) fn of(info: &SessionInfo) -> Self {
        Self(name_of(info, "sending"))
    }

    fn path(&self, to: &str, path: &Path) -> Option<PathBuf> {
        let name = derive(path.as_os_str().as_encoded_bytes(), to.as_bytes());
        Some(self.0.as_ref()?.join(format!("{}.json", hex(&name.mac_key.expose()[..16]))))
    }

    /// What was on its way to somebody from a path.
    pub(super) fn recall(&self, to: &str, path: &Path) -> Option<Sent> {
        let object = Object::parse(&disk::read_private(&self.path(to, path)?).ok()?).ok()?;
        Some(Sent {
            id: ChatId::parse(object.text("id").ok()?)?,
            size: object.uint("size").ok()?,
            changed: object.text("changed").ok()?.to_owned(),
            list: object.text("list").ok().map(ToOwned::to_owned),
        })
    }

    /// Something is on its way.
    pub(super) fn note(&self, to: &str, path: &Path, sent: &Sent) -> Outcome<()> {
        let (Some(folder), Some(name)) = (&self.0, self.path(to, path)) else { return Ok(()) };
        disk::make_private_folder(folder)?;
        let object = Object::new()
            .with("id", sent.id.to_string())
            .with("size", sent.size)
            .with("changed", sent.changed.as_str())
            .with_some("list", sent.list.as_deref());
        disk::write_private(&name, &object.encode(), true)
    }

    /// It has arrived, or goes no more.
    pub(super) fn forget(&self, to: &str, path: &Path) {
        if let Some(name) = self.path(to, path) {
            // One that stays names an id that the server knows, and costs a question.
            let _left = std::fs::remove_file(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_until_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory(Some(folder.path().join("new").join("ann")));
        let path = Path::new("/data/a.bin");
        assert_eq!(memory.recall("@bob", path), None);
        let sent =
            Sent { id: ChatId([7; 16]), size: 9, changed: "1.2".into(), list: Some("{}".into()) };
        memory.note("@bob", path, &sent).unwrap();
        assert_eq!(memory.recall("@bob", path), Some(sent));
        assert_eq!(memory.recall("@eve", path), None);
        memory.forget("@bob", path);
        assert_eq!(memory.recall("@bob", path), None);
        assert_eq!(Memory(None).recall("@bob", path), None);
    }
}
