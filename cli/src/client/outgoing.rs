//! What `send-file` sends: files, and folders as a list and the files in it.

use super::memory::{Memory, Sent};
use crate::disk;
use crate::disk::folder::{Manifest, Walked, walk};
use crate::disk::folders::LIST;
use crate::disk::source::Source;
use crate::failure::{Exit, Failure, Outcome};
use crate::text::one_line;
use clawchat_core::id::ChatId;
use clawchat_core::wire::message::is_file_name;
use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file by itself, remembered until it is through.
    File,
    /// The list of a folder.
    List,
    /// A file of a folder.
    Within,
    /// What the server has of a file that was changed since: it is to go.
    Stale,
}

/// A file to send.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) id: ChatId,
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Its size, bytes.
    pub(super) size: u64,
    /// How often it was begun.
    pub(super) beginnings: u32,
    /// The list of a folder lies there until it is sent.
    list: Option<tempfile::NamedTempFile>,
}

/// What the command line names, looked at before anything is sent.
#[derive(Debug)]
pub(super) struct Plan {
    paths: Vec<(PathBuf, Option<Walked>)>,
    /// What is left out, and why.
    pub(super) notes: Vec<String>,
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Box<Failure> {
    let what = format!("cannot read {}: {}", path.display(), disk::plain(error));
    Failure::new(Exit::NoSuchFile, what)
}

fn name_of(path: &Path) -> Outcome<String> {
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_file_name(name));
    name.map(ToOwned::to_owned).ok_or_else(|| {
        let what = format!(
            "{}: receivers take no file of this name",
            one_line(&path.display().to_string())
        );
        Failure::new(Exit::Usage, what).advice("rename it first")
    })
}

fn fresh_id() -> Outcome<ChatId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    Ok(ChatId(id))
}

/// Size and last change of a file, to see whether it is still the same.
fn stamp(path: &Path) -> Outcome<(u64, String)> {
    let meta = std::fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
    Ok((meta.len(), format!("{}.{:09}", meta.mtime(), meta.mtime_nsec())))
}

impl Plan {
    /// Looks at what is to be sent.
    pub(super) fn of(named: &[PathBuf]) -> Outcome<Self> {
        let (mut paths, mut notes) = (Vec::new(), Vec::new());
        for named in named {
            // A link that a person names is followed; those within folders are not.
            let path = std::fs::canonicalize(named).map_err(|error| cannot_read(named, &error))?;
            name_of(&path)?;
            if !path.is_dir() {
                Source::open(&path).map_err(|error| cannot_read(named, &error))?;
                paths.push((path, None));
                continue;
            }
            let walked = walk(&path).map_err(|error| cannot_read(named, &error))?;
            for skipped in &walked.skipped {
                let shown = one_line(&skipped.path.display().to_string());
                notes.push(format!("left out: {shown}: {}", skipped.why));
            }
            paths.push((path, Some(walked)));
        }
        Ok(Self { paths, notes })
    }

    /// The folders among what is sent.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let folders = self.paths.iter().filter(|(_, walked)| walked.is_some());
        folders.map(|(path, _)| path.clone()).collect()
    }

    /// The files to send, in order; with the ids that they had when they were begun before.
    pub(super) fn items(self, memory: &Memory, to: &str) -> Outcome<VecDeque<Item>> {
        let mut items = VecDeque::new();
        for (path, walked) in self.paths {
            match walked {
                None => {
                    items.extend(Item::stale(&path, memory, to)?);
                    items.push_back(Item::file(&path, memory, to, 1)?);
                }
                Some(walked) => folder(&path, walked, memory, to, &mut items)?,
            }
        }
        Ok(items)
    }
}

impl Item {
    /// What was begun of a file that is another now: else the server would keep it for days.
    fn stale(path: &Path, memory: &Memory, to: &str) -> Outcome<Option<Self>> {
        let now = stamp(path)?;
        let stale =
            memory.recall(to, path).filter(|sent| (sent.size, &sent.changed) != (now.0, &now.1));
        let Some(Sent { id, size, .. }) = stale else { return Ok(None) };
        let shown = path.display();
        crate::text::complain(&format!("{shown} was changed since: it starts anew"));
        memory.forget(to, path);
        let (kind, name, path) = (Kind::Stale, name_of(path)?, path.to_owned());
        Ok(Some(Self { kind, id, name, path, size, beginnings: 1, list: None }))
    }

    fn file(path: &Path, memory: &Memory, to: &str, beginnings: u32) -> Outcome<Self> {
        let (size, changed) = stamp(path)?;
        let known = memory.recall(to, path);
        let same = known.filter(|sent| (sent.size, &sent.changed) == (size, &changed));
        let id = match same {
            Some(sent) => sent.id,
            None => fresh_id()?,
        };
        memory.note(to, path, &Sent { id, size, changed, list: None })?;
        let (kind, name, path) = (Kind::File, name_of(path)?, path.to_owned());
        Ok(Self { kind, id, name, path, size, beginnings, list: None })
    }

    /// Opens it. One whose size is another than when it was looked at has to begin anew.
    pub(super) fn open(&self) -> Outcome<Arc<Source>> {
        let path = self.list.as_ref().map_or(self.path.as_path(), |list| list.path());
        let source = Source::open(path).map_err(|error| cannot_read(path, &error))?;
        if source.size() != self.size {
            let what = format!("{} was changed since it was looked at", path.display());
            return Err(Failure::new(Exit::Failed, what).advice("send it again"));
        }
        Ok(Arc::new(source))
    }

    /// The same from its beginning. `None` for a file of a folder, whose list names its size and id: the
    /// folder is to be sent again.
    pub(super) fn anew(self, memory: &Memory, to: &str) -> Outcome<Option<Self>> {
        if self.kind != Kind::File {
            return Ok(None);
        }
        memory.forget(to, &self.path);
        Self::file(&self.path, memory, to, self.beginnings + 1).map(Some)
    }

    /// It has arrived, or goes no more.
    pub(super) fn through(&self, memory: &Memory, to: &str) {
        if self.kind == Kind::File {
            memory.forget(to, &self.path);
        }
    }
}

/// The items of a folder.
fn folder(
    path: &Path,
    walked: Walked,
    memory: &Memory,
    to: &str,
    items: &mut VecDeque<Item>,
) -> Outcome<()> {
    let name = name_of(path)?;
    let known = memory.recall(to, path);
    let list = known.as_ref().and_then(|sent| Manifest::parse(sent.list.as_ref()?.as_bytes()));
    let same = list.filter(|list| {
        let have = list.files.iter().map(|file| (file.path.as_str(), file.size));
        let want = walked.files.iter().map(|file| (file.path.as_str(), file.size));
        have.eq(want) && list.folders == walked.folders
    });
    let (id, manifest) = match (known, same) {
        (Some(sent), Some(list)) => (sent.id, list),
        _ => {
            let mut ids = Vec::new();
            for _ in &walked.files {
                ids.push(fresh_id()?.0);
            }
            let mut ids = ids.into_iter();
            (fresh_id()?, Manifest::of(&walked, || ids.next().unwrap_or_default()))
        }
    };
    let encoded =
        manifest.to_send().map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let text = String::from_utf8(encoded.clone())
        .map_err(|_| Failure::new(Exit::Failed, "the list of the folder is no text"))?;
    let (size, changed) = (encoded.len() as u64, String::new());
    memory.note(to, path, &Sent { id, size, changed, list: Some(text) })?;
    let failed = |error: std::io::Error| disk::cannot_write(&std::env::temp_dir(), &error);
    let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
    file.write_all(&encoded).and_then(|()| file.flush()).map_err(failed)?;
    let (kind, name, list) = (Kind::List, format!("{name}{LIST}"), Some(file));
    let path = path.to_owned();
    items.push_back(Item { kind, id, name, path, size, beginnings: 1, list });
    for (file, found) in manifest.files.iter().zip(walked.files) {
        let (kind, id, name) = (Kind::Within, ChatId(file.id), name_of(&found.source)?);
        let (path, size) = (found.source, file.size);
        items.push_back(Item { kind, id, name, path, size, beginnings: 1, list: None });
    }
    Ok(())
}
