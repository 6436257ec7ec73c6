//! Folders that come: their lists say where the files in them go (docs/files.md).

use super::folder::{MANIFEST_MAX, Manifest};
use super::incoming::Incoming;
use super::{cannot_write, parts, write_private};
use crate::failure::Outcome;
use crate::text::complain;
use clawchat_core::id::ChatId;
use clawchat_core::wire::json::{Json, Object};
use clawchat_core::wire::message::FileOffer;
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How the name of a folder's list ends.
pub const LIST: &str = ".clawchat-folder";
/// Where partial files, and lists of folders that are not whole, lie in the folder that they are for.
pub const PARTS: &str = ".clawchat-parts";
/// Files that folders of one sender may miss in all: beyond that his oldest folder is no longer put
/// together, and its files come side by side.
const MISSING_MAX: usize = 100_000;
/// How the name of the file beside a list ends that says where its folder is.
const PLACE: &str = ".place";
/// A folder of which nothing has come for so long, and nothing will: the server keeps files for a week.
const STALE: Duration = Duration::from_secs(30 * 86_400);
/// A list without its folder is left of a crash once it is so old: another process may be about to make it.
const ORPHAN: Duration = Duration::from_secs(3600);

/// The folders that are on their way to one place.
#[derive(Debug)]
pub struct Folders {
    into: PathBuf,
    folders: Vec<Folder>,
}

impl Folders {
    /// Those that go into the folder `into`, with those that were begun before.
    #[must_use]
    pub fn open(into: &Path) -> Self {
        let mut all = Self { into: into.to_owned(), folders: Vec::new() };
        remove_orphans(&into.join(PARTS));
        begun(&into.join(PARTS)).into_iter().for_each(|folder| all.push(folder));
        all
    }

    /// Whether an offer may be one of a folder's list.
    #[must_use]
    pub fn is_list(offer: &FileOffer) -> bool {
        offer.name.ends_with(LIST) && offer.size <= MANIFEST_MAX as u64
    }

    /// What the receipt of a file says that goes to `folder`, for a note in a line of text.
    #[must_use]
    pub fn receipt(&self, folder: &Path, note: &str) -> Vec<u8> {
        let kind = if self.is_for_lists(folder) { "list" } else { "file" };
        format!("{kind} {note}").into_bytes()
    }

    /// The note of a file that was placed before a crash, by its sender and id, from its receipt; `None` for
    /// a list whose folder was not made: that comes again.
    #[must_use]
    pub fn placed_before(&self, key: &(String, ChatId), receipt: &[u8]) -> Option<String> {
        let (kind, note) = core::str::from_utf8(receipt).ok()?.split_once(' ')?;
        (kind != "list" || self.has_list(key)).then(|| note.to_owned())
    }

    fn is_for_lists(&self, folder: &Path) -> bool {
        folder == self.into.join(PARTS)
    }

    /// Whether a file, by its sender and id, belongs to a folder on its way.
    #[must_use]
    pub fn has(&self, key: &(String, ChatId)) -> bool {
        self.folders.iter().any(|folder| folder.place(key).is_some())
    }

    /// Whether the folder of a list, by its sender and id, has been made, and its files are on their way.
    fn has_list(&self, (from, id): &(String, ChatId)) -> bool {
        self.folders.iter().any(|folder| folder.is_of(from, *id))
    }

    /// The folder that a whole file goes to. A list that is none is a file like others.
    ///
    /// # Errors
    /// The operating system's, when that of lists can't be made.
    pub fn folder_for(&self, offer: &FileOffer, incoming: &Incoming) -> io::Result<PathBuf> {
        if Self::is_list(offer) && parse(incoming.reader()?).is_some() {
            let parts = self.into.join(PARTS);
            DirBuilder::new().recursive(true).mode(0o700).create(&parts)?;
            return Ok(parts);
        }
        let key = (offer.from.clone(), offer.id);
        let within = self.folders.iter().find_map(|folder| folder.place(&key));
        // It may have been moved away meanwhile.
        Ok(within.filter(|path| path.is_dir()).unwrap_or_else(|| self.into.clone()))
    }

    /// A file is in its place, `path`. If it was a folder's list: its folders are made, and this is where.
    /// One that is known is not made twice.
    ///
    /// [`Self::settle`] once that is noted.
    ///
    /// # Errors
    /// 73: the folders can't be made, and the files will come side by side.
    pub fn placed(&mut self, offer: &FileOffer, path: &Path) -> Outcome<Option<PathBuf>> {
        if !path.parent().is_some_and(|folder| self.is_for_lists(folder)) {
            let key = (offer.from.clone(), offer.id);
            self.folders.iter_mut().for_each(|folder| folder.has_got(&key));
            return Ok(None);
        }
        if let Some(known) = self.folders.iter().find(|other| other.is_of(&offer.from, offer.id)) {
            if known.list != path {
                // One that stays is of no folder.
                let _left = std::fs::remove_file(path);
            }
            return Ok(Some(known.root.clone()));
        }
        let Some(manifest) = read(path) else { return Ok(None) };
        let mut folder = Folder::new(path.to_owned(), offer.id, &offer.from, &manifest);
        // The next process goes on with it, also if this one gets no further than that.
        let made = manifest.make_folders(&self.into, |root| {
            folder.root = root.to_owned();
            folder.keep().map_err(|failure| io::Error::other(failure.what))
        });
        match made {
            Ok(root) => folder.root = root,
            Err(error) => {
                folder.forget();
                return Err(cannot_write(&self.into, &error));
            }
        }
        folder.is_made = true;
        if let Err(failure) = folder.keep() {
            complain(&failure.to_string());
        }
        let root = folder.root.clone();
        self.push(folder);
        Ok(Some(root))
    }

    fn push(&mut self, folder: Folder) {
        let from = folder.from.clone();
        self.folders.push(folder);
        loop {
            let mut own = self.folders.iter().enumerate().filter(|(_, other)| other.from == from);
            let missing: usize = own.clone().map(|(_, other)| other.missing.len()).sum();
            match own.next() {
                Some((oldest, _)) if missing > MISSING_MAX => self.folders.remove(oldest).forget(),
                _ => return,
            }
        }
    }

    /// What was placed is noted: folders that miss nothing are forgotten, and so is the folder of partial
    /// files unless anything is in it.
    pub fn settle(&mut self) {
        self.folders.retain(|folder| {
            let misses = !folder.missing.is_empty();
            if !misses {
                folder.forget();
            }
            misses
        });
        let _stays = std::fs::remove_dir(self.into.join(PARTS));
    }
}

/// A folder whose files are on their way.
#[derive(Debug)]
struct Folder {
    /// Its list, which lies among the partial files until all of them are here.
    list: PathBuf,
    /// The id of the list's offer.
    id: ChatId,
    from: String,
    root: PathBuf,
    /// Whether all folders in it are there.
    is_made: bool,
    /// Where in it each file that is missing goes.
    missing: BTreeMap<ChatId, PathBuf>,
}

impl Folder {
    /// One whose place is not yet known.
    fn new(list: PathBuf, id: ChatId, from: &str, manifest: &Manifest) -> Self {
        let place = |path: &str| Path::new(path).parent().map(Path::to_owned).unwrap_or_default();
        let files = manifest.files.iter();
        let missing = files.map(|file| (ChatId(file.id), place(&file.path))).collect();
        Self { list, id, from: from.to_owned(), root: PathBuf::new(), is_made: false, missing }
    }

    /// Whether this is the folder of a list.
    fn is_of(&self, from: &str, id: ChatId) -> bool {
        self.from == from && self.id == id
    }

    /// Where a file of it goes.
    fn place(&self, (from, id): &(String, ChatId)) -> Option<PathBuf> {
        self.missing.get(id).filter(|_| self.from == *from).map(|inside| self.root.join(inside))
    }

    /// A file is in its place.
    fn has_got(&mut self, (from, id): &(String, ChatId)) {
        if self.from == *from && self.missing.remove(id).is_some() {
            // It goes stale by the last that came. If that can't be written, it does so earlier.
            let place = File::options().write(true).open(place_of(&self.list));
            let _touched = place.and_then(|place| place.set_modified(SystemTime::now()));
        }
    }

    /// Beside its list: what the next process has to know.
    fn keep(&self) -> Outcome<()> {
        let object = Object::new()
            .with("from", self.from.as_str())
            .with("id", self.id.to_string())
            .with("root", self.root.to_string_lossy().as_ref())
            .with("made", self.is_made);
        write_private(&place_of(&self.list), &object.encode(), true)
    }

    fn forget(&self) {
        for path in [place_of(&self.list), self.list.clone()] {
            // One that stays is read again, for nothing.
            let _left = std::fs::remove_file(path);
        }
    }
}

fn place_of(list: &Path) -> PathBuf {
    list.with_extension(&PLACE[1..])
}

fn parse(file: impl Read) -> Option<Manifest> {
    let mut bytes = Vec::new();
    file.take(MANIFEST_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
    Manifest::parse(&bytes)
}

fn read(list: &Path) -> Option<Manifest> {
    parse(File::open(list).ok()?)
}

/// Removes lists whose folder was never made: they came again.
fn remove_orphans(parts: &Path) {
    for name in parts::names(parts).unwrap_or_default() {
        let path = parts.join(&name);
        let is_orphan = name.ends_with(LIST) && !place_of(&path).exists();
        if is_orphan && parts::is_old(&path, ORPHAN) && read(&path).is_some() {
            let _left = parts::remove(&path);
        }
    }
}

/// Folders that were begun before, oldest first. Those that nothing has come of for long are forgotten.
fn begun(parts: &Path) -> Vec<Folder> {
    let names = parts::names(parts).unwrap_or_default().into_iter();
    let mut places: Vec<_> = names
        .filter(|name| name.ends_with(PLACE))
        .map(|name| parts.join(name))
        .filter_map(|path| Some((parts::age(&path)?, path)))
        .collect();
    places.sort_by(|a, b| b.cmp(a));
    let mut folders = Vec::new();
    for (age, place) in places {
        let list = place.with_extension(LIST.trim_start_matches('.'));
        if age >= STALE {
            let _left = [&place, &list].map(|path| parts::remove(path));
            continue;
        }
        folders.extend(go_on(&place, list));
    }
    folders
}

/// A folder that was begun before.
fn go_on(place: &Path, list: PathBuf) -> Option<Folder> {
    let object = Object::parse(&std::fs::read(place).ok()?).ok()?;
    let manifest = read(&list)?;
    let (from, id) = (object.text("from").ok()?, ChatId::parse(object.text("id").ok()?)?);
    let mut folder = Folder::new(list, id, from, &manifest);
    folder.root = PathBuf::from(object.text("root").ok()?);
    folder.is_made = object.get("made") == Some(&Json::Bool(true));
    if !folder.is_made {
        manifest.finish_folders(&folder.root).ok()?;
        folder.is_made = true;
        // Else that is done again next time, for nothing.
        let _kept = folder.keep();
    }
    // What is there was placed before.
    for file in &manifest.files {
        if folder.root.join(&file.path).exists() {
            folder.missing.remove(&ChatId(file.id));
        }
    }
    Some(folder)
}
