//! The server's store of files on their way: kept until everybody they are for has them.
//!
//! ```text
//!   ID-MEMBER.data   a whole file
//!   ID-MEMBER.json   what belongs to it; without that it is none
//!   parts/           files that are still being received
//! ```
//!
//! The id stands first, so that no name of a member, which may be `..`, is a path of its own.

use super::incoming::{Incoming, Key};
use super::parts::{kept, names, remove};
use super::place::invalid;
use super::room::Room;
use super::source::Source;
use super::{sync_folder, wipe_temporary, write_atomic};
use clawchat_core::id::ChatId;
use clawchat_core::wire::json::{Json, NUMBER_MAX, Object};
use clawchat_core::wire::message::{Recipient, hex, is_file_name, is_name};
use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const DATA: &str = ".data";
const META: &str = ".json";
/// What a file takes at least, bytes: also empty ones need a place, and somebody may send many.
const LEAST: u64 = 4096;

/// What belongs to a stored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The id of its offer; with `from` it names the file.
    pub id: [u8; 16],
    /// Who sent it.
    pub from: String,
    /// Its base name.
    pub name: String,
    /// Its size, bytes, under 2^53.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Who it was sent to, `@member` or `#room`.
    pub to: String,
    /// Members who do not have it yet.
    pub recipients: Vec<String>,
    /// When it was stored, `unix_ms`.
    pub stored_at: u64,
}

/// The files that the server keeps. All methods may be called from any thread; those that change
/// something wait for the disk, and for each other.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    parts: PathBuf,
    quota: u64,
    files: Mutex<BTreeMap<Name, Meta>>,
    /// Held by who changes what is on the disk, so that `files` is never locked for that long.
    writing: Mutex<()>,
    ignored: Vec<PathBuf>,
    /// Bytes of those.
    ignored_size: u64,
}

/// Names a file: its sender, and the id of its offer.
type Name = (String, [u8; 16]);

/// Whoever held it has left it in order.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spool {
    /// Opens the store in a folder of its own, in which nobody else writes, or makes it. `quota` is in
    /// bytes. What a crash left is removed: data that nothing is known of, and the other way round.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(folder: &Path, quota: u64) -> io::Result<Self> {
        let parts = folder.join("parts");
        DirBuilder::new().recursive(true).mode(0o700).create(&parts)?;
        wipe_temporary(folder)?;
        let mut spool = Self {
            folder: folder.to_owned(),
            parts,
            quota,
            files: Mutex::default(),
            writing: Mutex::default(),
            ignored: Vec::new(),
            ignored_size: 0,
        };
        for name in names(folder)? {
            spool.find(&name)?;
        }
        Ok(spool)
    }

    /// Looks at one of the files that are there.
    fn find(&mut self, name: &str) -> io::Result<()> {
        let path = self.folder.join(name);
        if let Some((from, id)) = parse(name, DATA) {
            let known = self.path(&from, &id, META).exists();
            return if known { Ok(()) } else { remove(&path) };
        }
        let Some((from, id)) = parse(name, META) else { return Ok(()) };
        let data = match std::fs::symlink_metadata(self.path(&from, &id, DATA)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return remove(&path),
            data => data?,
        };
        let meta = Meta::parse(&std::fs::read(&path)?)
            .filter(|meta| (&meta.from, meta.id) == (&from, id) && meta.size == data.len());
        match meta {
            Some(meta) => drop(locked(&self.files).insert((from, id), meta)),
            // Of a later version, or damaged: nothing that could be sent, nor to be thrown away.
            None => {
                self.ignored.push(path);
                self.ignored_size += data.len().max(LEAST);
            }
        }
        Ok(())
    }

    fn path(&self, from: &str, id: &[u8; 16], end: &str) -> PathBuf {
        self.folder.join(format!("{}-{from}{end}", hex(id)))
    }

    /// The folder for files that are being received: `parts` of [`Incoming::open`].
    #[must_use]
    pub fn parts(&self) -> &Path {
        &self.parts
    }

    /// Does away with what is being received from a member, but for what is open.
    pub fn discard_parts(&self, from: &str) {
        for key in kept(&self.parts).unwrap_or_default().iter().filter(|key| key.from == from) {
            let _open = Incoming::open(&self.parts, key).and_then(Incoming::discard);
        }
    }

    /// Metadata that was found and not understood. It stays where it is, with its data.
    #[must_use]
    pub fn ignored(&self) -> &[PathBuf] {
        &self.ignored
    }

    /// Stores a file that is whole, and durable once this returns. Else it is still partial, and can be
    /// opened again.
    ///
    /// # Errors
    /// `InvalidInput` when it is not whole, or not the one that `meta` says; `AlreadyExists`; the
    /// operating system's.
    pub fn add(&self, meta: &Meta, incoming: Incoming) -> io::Result<()> {
        if !meta.is_good() || *incoming.key() != meta.key() {
            return Err(invalid("what is said of this file can't be true"));
        }
        let _writing = locked(&self.writing);
        let (data, about) =
            (self.path(&meta.from, &meta.id, DATA), self.path(&meta.from, &meta.id, META));
        // The flush of the folder that ends the second is for both.
        incoming.move_to(&data, || write_atomic(&about, &meta.encode(), false).map(drop))?;
        locked(&self.files).insert((meta.from.clone(), meta.id), meta.clone());
        Ok(())
    }

    /// Says who does not have the file yet; durable once this returns.
    ///
    /// # Errors
    /// `NotFound`, `InvalidInput` for what is no name, the operating system's; then it is as before.
    pub fn set_recipients(
        &self,
        from: &str,
        id: &[u8; 16],
        recipients: &[String],
    ) -> io::Result<()> {
        let _writing = locked(&self.writing);
        let mut meta = self.get(from, id).ok_or(io::ErrorKind::NotFound)?;
        meta.recipients = recipients.to_vec();
        if !meta.is_good() {
            return Err(invalid("one of these is no member's name"));
        }
        write_atomic(&self.path(from, id, META), &meta.encode(), true)?;
        locked(&self.files).insert((from.to_owned(), *id), meta);
        Ok(())
    }

    /// Removes a file; one that is not there is removed already. Who reads it can go on.
    ///
    /// # Errors
    /// The operating system's; then it is as before, or its data goes at the next start.
    pub fn remove(&self, from: &str, id: &[u8; 16]) -> io::Result<()> {
        self.remove_all(from, core::slice::from_ref(id))
    }

    /// Removes files, with one flush for all of them.
    ///
    /// # Errors
    /// The first of the operating system's; the others are removed all the same.
    pub fn remove_all(&self, from: &str, ids: &[[u8; 16]]) -> io::Result<()> {
        let _writing = locked(&self.writing);
        let (mut done, mut any) = (Ok(()), false);
        for id in ids.iter().filter(|id| self.get(from, id).is_some()) {
            any = true;
            let removed = self.remove_one(from, id);
            done = done.and(removed);
        }
        if any {
            let flushed = sync_folder(&self.folder).or_else(|_| sync_folder(&self.folder));
            done = done.and(flushed);
        }
        done
    }

    fn remove_one(&self, from: &str, id: &[u8; 16]) -> io::Result<()> {
        // From here on it is none, whatever happens.
        remove(&self.path(from, id, META))?;
        locked(&self.files).remove(&(from.to_owned(), *id));
        remove(&self.path(from, id, DATA))
    }

    /// Makes sure that what was stored is durable: a flush that failed before may have been of that.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sync(&self) -> io::Result<()> {
        sync_folder(&self.folder)
    }

    /// What is known of a file.
    #[must_use]
    pub fn get(&self, from: &str, id: &[u8; 16]) -> Option<Meta> {
        locked(&self.files).get(&(from.to_owned(), *id)).cloned()
    }

    /// All files, in the order in which they were stored.
    #[must_use]
    pub fn list(&self) -> Vec<Meta> {
        let mut files: Vec<_> = locked(&self.files).values().cloned().collect();
        files.sort_by_key(|meta| meta.stored_at);
        files
    }

    /// Opens a file to send it.
    ///
    /// # Errors
    /// `NotFound`; `InvalidData` when it is not as long as it was; the operating system's.
    pub fn open_data(&self, from: &str, id: &[u8; 16]) -> io::Result<Source> {
        let meta = self.get(from, id).ok_or(io::ErrorKind::NotFound)?;
        let source = Source::open(&self.path(from, id, DATA))?;
        if source.size() != meta.size {
            let what = format!("{} had {} bytes", source.path().display(), meta.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(source)
    }

    /// Bytes that files take, those being received with all that they will have, and each at least 4096.
    /// Where it can't be told what is being received, it is the whole quota.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used_without(None)
    }

    /// Whether the quota has room for others of these sizes.
    #[must_use]
    pub fn room_for(&self, sizes: impl IntoIterator<Item = u64>) -> Room {
        let needs = sizes.into_iter().map(|size| size.max(LEAST)).fold(0, u64::saturating_add);
        Room::between(needs, self.quota.saturating_sub(self.used()))
    }

    /// The same for a file that may be there in part already, and is then not counted twice.
    #[must_use]
    pub fn room_for_part(&self, key: &Key) -> Room {
        let used = self.used_without(Some(key));
        Room::between(key.size.max(LEAST), self.quota.saturating_sub(used))
    }

    fn used_without(&self, key: Option<&Key>) -> u64 {
        let Ok(parts) = kept(&self.parts) else { return self.quota };
        let parts = parts.iter().filter(|part| key != Some(*part)).map(|part| part.size);
        let files: Vec<u64> = locked(&self.files).values().map(|meta| meta.size).collect();
        let sizes = parts.chain(files).map(|size| size.max(LEAST));
        sizes.fold(self.ignored_size, u64::saturating_add)
    }
}

impl Meta {
    fn key(&self) -> Key {
        Key { from: self.from.clone(), id: self.id, size: self.size }
    }

    /// Whether all of it can be stored and means something.
    fn is_good(&self) -> bool {
        let fits = |number| i64::try_from(number).is_ok_and(|number| number <= NUMBER_MAX);
        is_name(&self.from)
            && is_file_name(&self.name)
            && Recipient::parse(&self.to).is_some()
            && self.recipients.iter().all(|name| is_name(name))
            && fits(self.size)
            && fits(self.stored_at)
    }

    /// One line of JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let recipients = self.recipients.iter().map(|name| Json::from(name.as_str()));
        Object::new()
            .with("schema", 1)
            .with("id", hex(&self.id))
            .with("from", self.from.as_str())
            .with("name", self.name.as_str())
            .with("size", self.size)
            .with("sha256", hex(&self.sha256))
            .with("to", self.to.as_str())
            .with("recipients", recipients.collect::<Vec<Json>>())
            .with("stored_at", self.stored_at)
            .encode()
    }

    /// What [`Self::encode`] wrote, if it can be true.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let object = Object::parse(bytes).ok()?;
        let text = |key| object.text(key).ok();
        let number = |key| object.uint(key).ok();
        let name = |item: &Json| match item {
            Json::Text(name) => Some(name.clone()),
            _ => None,
        };
        let sha256 = parse_sha256(text("sha256")?)?;
        let meta = Self {
            id: ChatId::parse(text("id")?)?.0,
            from: text("from")?.into(),
            name: text("name")?.into(),
            size: number("size")?,
            sha256,
            to: text("to")?.into(),
            recipients: object.list("recipients").ok()?.iter().map(name).collect::<Option<_>>()?,
            stored_at: number("stored_at")?,
        };
        (number("schema")? == 1 && meta.is_good()).then_some(meta)
    }
}

/// Reads 64 hex digits.
#[must_use]
pub fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let (low, high) = (ChatId::parse(text.get(..32)?)?, ChatId::parse(text.get(32..)?)?);
    let mut sha256 = [0; 32];
    sha256[..16].copy_from_slice(&low.0);
    sha256[16..].copy_from_slice(&high.0);
    Some(sha256)
}

/// Reads the name of a file of ours.
fn parse(name: &str, end: &str) -> Option<Name> {
    let (id, from) = name.strip_suffix(end)?.split_once('-')?;
    is_name(from).then_some((from.to_owned(), ChatId::parse(id)?.0))
}

#[cfg(test)]
mod tests;
