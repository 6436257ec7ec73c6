//! Folders that come: their lists say where the files in them go (docs/files.md).

use super::outgoing::LIST;
use crate::disk;
use crate::disk::folder::Manifest;
use crate::failure::Outcome;
use clawchat_core::id::ChatId;
use clawchat_core::wire::json::Object;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder whose files are on their way.
#[derive(Debug)]
pub(super) struct Folder {
    /// Its list, which lies among the partial files until all of them are here.
    list: PathBuf,
    from: String,
    root: PathBuf,
    /// Where each that is missing goes.
    pub(super) missing: BTreeMap<ChatId, PathBuf>,
}

impl Folder {
    pub(super) fn new(list: PathBuf, from: &str, root: PathBuf, manifest: &Manifest) -> Self {
        let place = |path: &str| {
            let path = root.join(path);
            path.parent().map_or_else(|| root.clone(), Path::to_owned)
        };
        let files = manifest.files.iter();
        let missing = files.map(|file| (ChatId(file.id), place(&file.path))).collect();
        Self { list, from: from.to_owned(), root, missing }
    }

    /// Where a file of it goes.
    pub(super) fn place(&self, (from, id): &(String, ChatId)) -> Option<PathBuf> {
        self.missing.get(id).filter(|_| self.from == *from).cloned()
    }

    /// A file is in its place; whether others are missing. With the last one the list goes.
    pub(super) fn misses_more_than(&mut self, (from, id): &(String, ChatId)) -> bool {
        if self.from == *from && self.missing.remove(id).is_some() && self.missing.is_empty() {
            self.forget();
            return false;
        }
        true
    }

    /// Beside its list: what the next process has to know.
    pub(super) fn keep(&self) -> Outcome<()> {
        let object = Object::new()
            .with("from", self.from.as_str())
            .with("root", self.root.to_string_lossy().as_ref());
        disk::write_private(&place_of(&self.list), &object.encode(), true)
    }

    pub(super) fn forget(&self) {
        for path in [place_of(&self.list), self.list.clone()] {
            // One that stays is read again, for nothing.
            let _left = std::fs::remove_file(path);
        }
    }
}

fn place_of(list: &Path) -> PathBuf {
    list.with_extension("place")
}

/// Folders that were begun before.
pub(super) fn folders(parts: &Path) -> Vec<Folder> {
    let entries = std::fs::read_dir(parts).into_iter().flatten().filter_map(Result::ok);
    let read = |place: PathBuf| {
        let object = Object::parse(&std::fs::read(&place).ok()?).ok()?;
        let list = place.with_extension(LIST.trim_start_matches('.'));
        let manifest = Manifest::parse(&std::fs::read(&list).ok()?)?;
        let root = PathBuf::from(object.text("root").ok()?);
        let mut folder = Folder::new(list, object.text("from").ok()?, root.clone(), &manifest);
        // What is there was placed before.
        for file in &manifest.files {
            if root.join(&file.path).exists() {
                folder.missing.remove(&ChatId(file.id));
            }
        }
        Some(folder)
    };
    let places = entries.map(|entry| entry.path());
    places
        .filter(|path| path.extension().is_some_and(|end| end == "place"))
        .filter_map(read)
        .collect()
}
