//! What the operator sends, looked at, and then copied into the spool.

use super::super::outbox::{Sent, Taken};
use super::super::spooler::meta;
use super::Queue;
use crate::disk::folder::{Manifest, WalkedFile, walk};
use crate::disk::folders::LIST;
use crate::disk::incoming::{Incoming, Key};
use crate::disk::inside::Inside;
use crate::disk::room::Room;
use crate::disk::source::Source;
use crate::disk::spool::Spool;
use clawchat_core::id::ChatId;
use clawchat_core::server::StoredFile;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::message::{FileOffer, SERVER_MEMBER, is_file_name};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// What is to be copied.
#[derive(Debug)]
pub(super) struct Plan {
    /// The list of a folder: its name, its content, and the id of its offer.
    pub(super) list: Option<(String, Vec<u8>, [u8; 16])>,
    files: Vec<Planned>,
    /// Folders in which nothing is, from the folder on.
    folders: Vec<PathBuf>,
    /// What of a folder is not sent, and why.
    pub(super) left_out: Vec<String>,
}

#[derive(Debug)]
struct Planned {
    path: PathBuf,
    id: [u8; 16],
    size: u64,
}

impl Plan {
    pub(super) fn of(what: &Queue) -> io::Result<Self> {
        if std::fs::symlink_metadata(&what.path)?.is_dir() {
            return Self::of_folder(what);
        }
        name_of(&what.path)?;
        let (path, id) = (what.path.clone(), fresh_id()?);
        let files = vec![Planned { size: Source::open(&path)?.size(), path, id }];
        Ok(Self { list: None, files, folders: Vec::new(), left_out: Vec::new() })
    }

    fn of_folder(what: &Queue) -> io::Result<Self> {
        let walked = walk(&what.path)?;
        let left_out: Vec<String> = walked.skipped.iter().map(ToString::to_string).collect();
        if let (true, Some(first)) = (what.consume, left_out.first()) {
            // It would stay behind for ever.
            return Err(refused(&format!("it has something that is not sent: {first}")));
        }
        let ids = walked.files.iter().map(|_| fresh_id()).collect::<io::Result<Vec<_>>>()?;
        let mut next = ids.iter().copied();
        let list = Manifest::of(&walked, || next.next().unwrap_or_default()).to_send()?;
        let list = Some((format!("{}{LIST}", walked.name), list, fresh_id()?));
        let planned = |(file, id): (WalkedFile, _)| {
            let WalkedFile { source, size, .. } = file;
            Planned { path: source, id, size }
        };
        let files = walked.files.into_iter().zip(ids).map(planned).collect();
        let folders = walked.folders.iter().map(|inside| what.path.join(inside)).collect();
        Ok(Self { list, files, folders, left_out })
    }

    /// Bytes of all that is to be stored, each by itself.
    pub(super) fn sizes(&self) -> impl Iterator<Item = u64> {
        let list = self.list.iter().map(|(_, list, _)| list.len() as u64);
        list.chain(self.files.iter().map(|file| file.size))
    }

    pub(super) fn ids(&self) -> Vec<[u8; 16]> {
        let list = self.list.iter().map(|(_, _, id)| *id);
        list.chain(self.files.iter().map(|file| file.id)).collect()
    }
}

/// What is copied, and the folder in the outbox that it is taken from.
pub(super) struct Copier<'a> {
    spool: &'a Spool,
    what: &'a Queue,
    from: Option<Inside>,
    /// What is in the spool.
    pub(super) files: Vec<StoredFile>,
    /// Where it was.
    copied: Vec<Sent>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(spool: &'a Spool, what: &'a Queue) -> io::Result<Self> {
        let from = if what.consume { Some(Inside::open(above(&what.path))?) } else { None };
        Ok(Self { spool, what, from, files: Vec::new(), copied: Vec::new() })
    }

    /// The list of a folder, and then its files.
    pub(super) fn all(&mut self, plan: &Plan) -> io::Result<()> {
        if let Some((name, list, id)) = &plan.list {
            self.add(name.clone(), list.len() as u64, *id, |incoming| {
                incoming.write(0, list)?;
                Ok(Sha256::digest(list).into())
            })?;
        }
        plan.files.iter().try_for_each(|file| self.file(file))
    }

    /// What is to be removed from the outbox, once all is copied; `None` for what is to stay.
    pub(super) fn taken(&self, plan: &Plan) -> Option<Taken> {
        let number = self.from.as_ref()?.number();
        let entry = inside(&self.what.path, &self.what.path)?;
        let mut folders = BTreeSet::new();
        for path in plan.files.iter().map(|file| &file.path).chain(&plan.folders) {
            let path = inside(&self.what.path, path)?;
            let above = path.ancestors().skip(1).filter(|above| *above != Path::new(""));
            folders.extend(above.map(Path::to_owned));
        }
        // A folder of a file has been one all along; one without files is to be named.
        folders.extend(plan.folders.iter().filter_map(|path| inside(&self.what.path, path)));
        if plan.list.is_some() {
            folders.insert(entry.clone());
        }
        Some(Taken {
            to: above(&self.what.path).file_name()?.to_str()?.to_owned(),
            number,
            entry,
            files: self.copied.clone(),
            // In order, a folder stands before those in it.
            folders: folders.into_iter().rev().collect(),
        })
    }

    fn file(&mut self, planned: &Planned) -> io::Result<()> {
        let Planned { path, id, size } = planned;
        let name = name_of(path)?;
        let (place, source) = match &self.from {
            Some(from) => {
                let place = inside(&self.what.path, path).ok_or(io::ErrorKind::InvalidInput)?;
                let source = from.source(&place)?;
                (place, source)
            }
            None => (path.clone(), Source::open(path)?),
        };
        if *size != source.size() {
            let what = format!("{} was changed since it was looked at", path.display());
            return Err(refused(&what));
        }
        let sha256 = self.add(name, *size, *id, |incoming| copy(&source, incoming))?;
        let content = source.stamp().content();
        self.copied.push(Sent { path: place, content, size: *size, sha256 });
        Ok(())
    }

    fn add(
        &mut self,
        name: String,
        size: u64,
        id: [u8; 16],
        fill: impl FnOnce(&mut Incoming) -> io::Result<[u8; 32]>,
    ) -> io::Result<[u8; 32]> {
        has_room(self.spool, [size])?;
        let from = SERVER_MEMBER.to_owned();
        let key = Key { from: from.clone(), id, size };
        // One that can't be filled is done away with by whoever asked for all of them.
        let mut incoming = Incoming::open(self.spool.parts(), &key)?;
        if let Room::Missing { needs, has } = incoming.reserve()? {
            return Err(refused(&format!("the disk has {has} bytes left of {needs}")));
        }
        let sha256 = fill(&mut incoming)?;
        // The list of a folder is older than its files: it goes first.
        let after = self.files.last().map_or(0, |last| last.stored_at.0 + 1);
        let stored_at = UnixMs(clawchat_mio::clock::now().wall.0.max(after));
        let offer = FileOffer { id: ChatId(id), name, size, to: self.what.to.clone(), from };
        let file = StoredFile { offer, sha256, to: self.what.members.clone(), stored_at };
        self.spool.add(&meta(&file), incoming)?;
        self.files.push(file);
        Ok(sha256)
    }
}

/// The folder that an entry of the outbox is in.
fn above(entry: &Path) -> &Path {
    entry.parent().unwrap_or(entry)
}

/// A path in an entry of the outbox, from the folder on that the entry is in.
fn inside(entry: &Path, path: &Path) -> Option<PathBuf> {
    path.strip_prefix(above(entry)).ok().map(Path::to_owned)
}

/// Whether the quota has room for files of these sizes.
pub(super) fn has_room(spool: &Spool, sizes: impl IntoIterator<Item = u64>) -> io::Result<()> {
    match spool.room_for(sizes) {
        Room::Enough => Ok(()),
        Room::Missing { needs, has } => {
            Err(refused(&format!("the quota has {has} bytes left of {needs}")))
        }
    }
}

fn name_of(path: &Path) -> io::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| is_file_name(name));
    Ok(name.ok_or_else(|| refused("receivers take no file of this name"))?.to_owned())
}

pub(super) fn fresh_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(id)
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn copy(source: &Source, into: &mut Incoming) -> io::Result<[u8; 32]> {
    let sha256 = source.read_all(|at, bytes| into.write(at, bytes))?;
    source.check().map_err(|changed| refused(&changed.to_string()))?;
    Ok(sha256)
}
