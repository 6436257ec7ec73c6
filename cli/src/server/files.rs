//! Files at the server (PROTOCOL 5.6): what members send is kept in the spool until those it is for
//! have it; what is for the server itself goes to its inbox.

use super::admin;
use super::run::Command;
use crate::disk;
use crate::disk::incoming::{Checkpoint, Incoming, Key};
use crate::disk::room::Room;
use crate::disk::source::Source;
use crate::disk::spool::{Meta, Spool};
use crate::failure::{Exit, Outcome};
use crate::files::{Arriving, Hashed, key_of};
use crate::text::{bytes, complain, list};
use clawchat_core::id::{ChatId, OpId, SessionId, TransferId};
use clawchat_core::limits::{FILE_AGE, FILES_TAKEN};
use clawchat_core::ops::{self, Chunk, FileFailure, Want};
use clawchat_core::server::{Event, Server, StoredFile};
use clawchat_core::time::{Now, UnixMs};
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{
    FileError, FileOffer, Recipient, SERVER_MEMBER, hex, is_file_name,
};
use clawchat_mio::Remote;
use core::time::Duration;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

/// How often it is looked whether there is room now.
const ROOM_EVERY: Duration = Duration::from_secs(5);
/// What was left by interrupted transfers is kept in memory for so many at most; the disk has it all.
const LEFT: usize = 64;
/// Bytes of files that are kept for members, unless the operator says otherwise.
const QUOTA: u64 = 10 << 30;
/// How often it is looked for parts that nobody goes on with.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Bytes copied at a time.
const COPY: usize = 1 << 20;
/// What lies in the outbox untouched for so long is whole.
const SETTLED: Duration = Duration::from_secs(2);

/// News for the loop.
#[derive(Debug)]
pub(super) enum News {
    /// A file that arrives is hashed.
    Hashed(Key, Hashed),
    /// A file is durable, and where if it is the server's own; or it could not be made so.
    Kept(TransferId, Result<(StoredFile, Option<PathBuf>), String>),
    /// A file of the operator is in the spool, to be offered; or it could not be put there.
    Queued(Result<StoredFile, String>, Option<mpsc::Sender<Object>>),
    /// There is one in the outbox.
    Found(Recipient, PathBuf),
}

/// Work for the thread.
#[derive(Debug)]
enum Job {
    Save(Checkpoint),
    Keep(TransferId, Box<Incoming>, StoredFile),
    Discard(Box<Incoming>),
    /// A member has a file, or wants it no more.
    Delivered(OpId, Key0, String),
    /// Puts a file of the operator into the spool.
    Queue(Queue),
    /// Looks into the outbox.
    Scan,
    Stop,
}

/// A file of the operator.
#[derive(Debug)]
struct Queue {
    to: Recipient,
    members: Vec<String>,
    path: PathBuf,
    /// It is taken from where it is.
    consume: bool,
    /// Who asked for it.
    reply: Option<mpsc::Sender<Object>>,
}

/// Sender and id of a file.
type Key0 = (String, ChatId);

/// All files of the server.
#[derive(Debug)]
pub(super) struct Files {
    spool: Arc<Spool>,
    arriving: BTreeMap<TransferId, Arriving>,
    /// In which session each of them is.
    sessions: BTreeMap<TransferId, SessionId>,
    /// Offers of sessions that have as many files on their way as one may have.
    waiting: VecDeque<(SessionId, TransferId, FileOffer)>,
    /// What interrupted transfers left: their next ones go on with it.
    left: BTreeMap<Key, Arriving>,
    giving: BTreeMap<TransferId, Source>,
    /// What those that are here and not yet judged are to become.
    complete: BTreeMap<TransferId, StoredFile>,
    /// Those that got bytes in this turn.
    touched: BTreeSet<TransferId>,
    room_at: Instant,
    /// What can't be sent from the outbox, and was said so.
    complained: BTreeSet<PathBuf>,
    jobs: mpsc::Sender<Job>,
    remote: Remote<Command>,
    worker: Option<JoinHandle<()>>,
}

/// A stored file as the spool keeps it.
fn meta(file: &StoredFile) -> Meta {
    Meta {
        id: file.offer.id.0,
        from: file.offer.from.clone(),
        name: file.offer.name.clone(),
        size: file.offer.size,
        sha256: file.sha256,
        to: file.offer.to.to_string(),
        recipients: file.to.clone(),
        stored_at: file.stored_at.0,
    }
}

/// Opens the folders of files in the state folder.
///
/// # Errors
/// 73, 78.
pub(super) fn open(folder: &Path, quota: Option<u64>) -> Outcome<Spool> {
    for part in ["inbox", "outbox", "spool", "spool/parts"] {
        disk::make_private_folder(&folder.join(part))?;
    }
    let path = folder.join("spool");
    for kept in [&path, &path.join("parts")] {
        let entries = std::fs::read_dir(kept).map_err(|error| disk::cannot_write(kept, &error))?;
        for entry in entries.filter_map(Result::ok) {
            disk::check_private(&entry.path())?;
        }
    }
    let opened = Spool::open(&path, quota.unwrap_or(QUOTA));
    opened.map_err(|error| disk::cannot_write(&path, &error))
}

/// The files that the spool keeps, as the machine takes them.
pub(super) fn stored(spool: &Spool) -> Vec<StoredFile> {
    let file = |meta: Meta| {
        let to = Recipient::parse(&meta.to)?;
        let (id, name, size, from) = (ChatId(meta.id), meta.name, meta.size, meta.from);
        let offer = FileOffer { id, name, size, to, from };
        let (sha256, to) = (meta.sha256, meta.recipients);
        Some(StoredFile { offer, sha256, to, stored_at: UnixMs(meta.stored_at) })
    };
    spool.list().into_iter().filter_map(file).collect()
}

impl Files {
    /// Of the state folder `folder`.
    pub(super) fn start(spool: Spool, folder: &Path, remote: Remote<Command>) -> Self {
        let (spool, (jobs, work)) = (Arc::new(spool), mpsc::channel());
        let worker = worker(Arc::clone(&spool), folder.to_owned(), work, remote.clone());
        Self {
            spool,
            arriving: BTreeMap::new(),
            sessions: BTreeMap::new(),
            waiting: VecDeque::new(),
            left: BTreeMap::new(),
            giving: BTreeMap::new(),
            complete: BTreeMap::new(),
            touched: BTreeSet::new(),
            room_at: Instant::now(),
            complained: BTreeSet::new(),
            jobs,
            remote,
            worker: Some(worker),
        }
    }

    /// Bytes that the spool keeps.
    pub(super) fn used(&self) -> u64 {
        self.spool.used()
    }

    /// What is here of files on their way is made durable, and the thread ends.
    pub(super) fn finish(&mut self) {
        for (_, mut arriving) in core::mem::take(&mut self.arriving) {
            if let Ok(checkpoint) = arriving.checkpoint() {
                self.work(Job::Save(checkpoint));
            }
        }
        self.work(Job::Stop);
        if let Some(worker) = self.worker.take() {
            // One that panicked has nothing more to say.
            let _panicked = worker.join();
        }
    }

    fn work(&self, job: Job) {
        // The thread outlives the loop.
        let _gone = self.jobs.send(job);
    }

    /// A member has a file that the spool keeps for it.
    pub(super) fn delivered(&self, op: OpId, from: String, id: ChatId, by: String) {
        self.work(Job::Delivered(op, (from, id), by));
    }

    /// Takes what the machine tells of files; true if it was about one.
    pub(super) fn event(&mut self, server: &mut Server, now: Now, event: &Event) -> bool {
        match event {
            Event::FileOffered { transfer, session, offer } => {
                self.waiting.push_back((*session, *transfer, offer.clone()));
                self.take_waiting(server, now);
            }
            Event::FileComplete { transfer, file } => {
                if let Some(arriving) = self.arriving.get_mut(transfer) {
                    arriving.expected = Some(file.sha256);
                }
                self.complete.insert(*transfer, file.clone());
                self.judge(server, now, *transfer);
            }
            Event::FileSending { transfer, offer, .. } => {
                match self.spool.open_data(&offer.from, &offer.id.0) {
                    Ok(source) => drop(self.giving.insert(*transfer, source)),
                    Err(_) => server.cancel_file(now, *transfer, "the server's disk failed"),
                }
            }
            Event::FileEnded { transfer, result } => self.ended(*transfer, result),
            _ => return false,
        }
        true
    }

    /// Takes the offers whose sessions may have another file on its way: the others wait, and so do
    /// those who made them.
    fn take_waiting(&mut self, server: &mut Server, now: Now) {
        for (session, transfer, offer) in core::mem::take(&mut self.waiting) {
            let on_their_way = self
                .sessions
                .iter()
                .filter(|(other, of)| **of == session && self.arriving.contains_key(other));
            if on_their_way.count() >= FILES_TAKEN {
                self.waiting.push_back((session, transfer, offer));
                continue;
            }
            self.sessions.insert(transfer, session);
            if let Err(reason) = self.take(server, now, transfer, &offer) {
                server.cancel_file(now, transfer, &reason);
            }
        }
        let arriving = &self.arriving;
        self.sessions.retain(|transfer, _| arriving.contains_key(transfer));
    }

    /// Takes an offer, as far as there is room for it.
    fn take(
        &mut self,
        server: &mut Server,
        now: Now,
        transfer: TransferId,
        offer: &FileOffer,
    ) -> Result<(), String> {
        let (key, failed) = (key_of(offer), |_| "the server's disk failed".to_owned());
        let mut arriving = match self.left.remove(&key) {
            Some(left) => left,
            None => {
                if let Room::Missing { needs, has } = self.spool.room_for_part(&key) {
                    return Err(format!("the server's quota has {has} bytes left of {needs}"));
                }
                let remote = self.remote.clone();
                let hashed = move |digest| {
                    let _gone = remote.command(Command::File(News::Hashed(key, digest)));
                };
                Arriving::open(self.spool.parts(), offer, hashed).map_err(failed)?
            }
        };
        arriving.expected = None;
        let room = arriving.reserve().map_err(failed)?;
        let limit = if room == Room::Enough { offer.size } else { 0 };
        let taken = server.accept_file(now, transfer, arriving.have(), limit);
        // An offer that is gone meanwhile is made again.
        if taken.is_ok() {
            self.arriving.insert(transfer, arriving);
        } else {
            self.keep_left(arriving);
        }
        Ok(())
    }

    /// Decides over a file once all of it is here and hashed.
    fn judge(&mut self, server: &mut Server, now: Now, transfer: TransferId) {
        let Some(right) = self.arriving.get(&transfer).and_then(Arriving::verdict) else { return };
        let (Some(arriving), Some(file)) =
            (self.arriving.remove(&transfer), self.complete.remove(&transfer))
        else {
            return;
        };
        let incoming = Box::new(arriving.into_incoming());
        if right {
            self.work(Job::Keep(transfer, incoming, file));
        } else {
            self.work(Job::Discard(incoming));
            server.file_checked(now, transfer, Err(FileError::Hash));
        }
    }

    fn ended(&mut self, transfer: TransferId, result: &Result<(), FileFailure>) {
        self.giving.remove(&transfer);
        self.complete.remove(&transfer);
        self.waiting.retain(|(_, other, _)| *other != transfer);
        let Some(mut arriving) = self.arriving.remove(&transfer) else { return };
        if matches!(result, Err(FileFailure::Cancelled(_))) {
            self.work(Job::Discard(Box::new(arriving.into_incoming())));
            return;
        }
        if let Ok(checkpoint) = arriving.checkpoint() {
            self.work(Job::Save(checkpoint));
        }
        self.keep_left(arriving);
    }

    fn keep_left(&mut self, arriving: Arriving) {
        if self.left.len() >= LEFT {
            // The disk has what was saved of it.
            self.left.pop_first();
        }
        self.left.insert(key_of(&arriving.offer), arriving);
    }

    /// News of other threads.
    pub(super) fn news(&mut self, server: &mut Server, now: Now, news: News) {
        match news {
            News::Hashed(key, digest) => {
                // What can't be read is not right.
                let digest = digest.unwrap_or([0; 32]);
                if let Some(left) = self.left.get_mut(&key) {
                    left.found = Some(digest);
                }
                let same =
                    |(_, arriving): &(&TransferId, &mut Arriving)| key_of(&arriving.offer) == key;
                if let Some((transfer, arriving)) = self.arriving.iter_mut().find(same) {
                    arriving.found = Some(digest);
                    let transfer = *transfer;
                    self.judge(server, now, transfer);
                }
            }
            News::Kept(transfer, Ok((file, path))) => {
                if let Some(path) = path {
                    complain(&format!("file from {}: {}", file.offer.from, path.display()));
                }
                server.file_checked(now, transfer, Ok(file));
            }
            News::Kept(transfer, Err(what)) => {
                complain(&what);
                server.file_checked(now, transfer, Err(FileError::Disk));
            }
            News::Queued(Ok(file), reply) => {
                let answer = Object::new()
                    .with("ok", true)
                    .with("id", file.offer.id.to_string())
                    .with("size", file.offer.size)
                    .with("sha256", hex(&file.sha256))
                    .with("to", list(file.to.iter().map(String::as_str)));
                server.keep_file(file);
                reply.into_iter().for_each(|reply| drop(reply.send(answer.clone())));
            }
            News::Queued(Err(what), Some(reply)) => {
                let _gone = reply.send(admin::refuse(Exit::CannotWrite, &what, None));
            }
            News::Queued(Err(what), None) => complain(&what),
            News::Found(to, path) => self.send_from_outbox(server, to, path),
        }
    }

    /// Sends what the operator put into the outbox.
    fn send_from_outbox(&mut self, server: &Server, to: Recipient, path: PathBuf) {
        match server.recipients(&to) {
            Some(members) => {
                self.work(Job::Queue(Queue { to, members, path, consume: true, reply: None }));
            }
            None if self.complained.insert(path.clone()) => {
                complain(&format!("{}: there is no {to}", path.display()));
            }
            None => {}
        }
    }

    /// Sends a file that the operator names.
    pub(super) fn send(
        &self,
        server: &Server,
        to: &str,
        path: PathBuf,
        reply: mpsc::Sender<Object>,
    ) {
        let to = Recipient::parse(to);
        match to.and_then(|to| server.recipients(&to).map(|members| (to, members))) {
            Some((to, members)) => {
                let reply = Some(reply);
                self.work(Job::Queue(Queue { to, members, path, consume: false, reply }));
            }
            None => {
                let what = "there is no such member or room, or nobody in it";
                let _gone = reply.send(admin::refuse(Exit::NoSuchFile, what, None));
            }
        }
    }

    /// Writes bytes that came; false, and the transfer is over, when that fails.
    pub(super) fn store(&mut self, chunk: &Chunk<'_>) -> bool {
        let Some(arriving) = self.arriving.get_mut(&chunk.transfer) else { return false };
        self.touched.insert(chunk.transfer);
        let stored = arriving.store(chunk);
        if let Err(error) = &stored {
            let size = arriving.offer.size;
            complain(&format!("a file of {} can't be stored: {}", bytes(size), disk::plain(error)));
            // What is durable of it counts when it is offered again.
            self.arriving.remove(&chunk.transfer);
        }
        stored.is_ok()
    }

    pub(super) fn flush(&mut self, server: &mut Server, now: Now) {
        for transfer in core::mem::take(&mut self.touched) {
            let Some(arriving) = self.arriving.get_mut(&transfer) else { continue };
            match arriving.flush() {
                Ok(Some(checkpoint)) => self.work(Job::Save(checkpoint)),
                Ok(None) => {}
                Err(_) => {
                    self.arriving.remove(&transfer);
                    server.file_checked(now, transfer, Err(FileError::Disk));
                }
            }
        }
        if !self.waiting.is_empty() {
            self.take_waiting(server, now);
        }
        if self.room_at.elapsed() >= ROOM_EVERY {
            self.room_at = Instant::now();
            self.look_for_room(server, now);
            self.work(Job::Scan);
        }
    }

    fn look_for_room(&mut self, server: &mut Server, now: Now) {
        for (transfer, arriving) in self.arriving.iter_mut().filter(|(_, a)| a.waits_for_room) {
            if matches!(arriving.reserve(), Ok(Room::Enough)) {
                let size = arriving.offer.size;
                // One that is over needs no room.
                let _over = server.raise_file_limit(now, *transfer, size);
            }
        }
    }

    pub(super) fn load(&self, want: &Want, bytes: &mut [u8]) -> Result<(), &'static str> {
        let source = self.giving.get(&want.transfer).ok_or("it is no longer here")?;
        source.read_at(want.offset, bytes).map_err(|_| "the server's disk failed")
    }
}

/// The thread for what takes long.
fn worker(
    spool: Arc<Spool>,
    folder: PathBuf,
    work: mpsc::Receiver<Job>,
    remote: Remote<Command>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let _left = disk::incoming::sweep(spool.parts(), FILE_AGE);
        let mut swept = Instant::now();
        while let Ok(job) = work.recv() {
            // Parts that nobody goes on with would count against the quota for ever.
            if swept.elapsed() >= SWEEP_EVERY {
                swept = Instant::now();
                let _left = disk::incoming::sweep(spool.parts(), FILE_AGE);
            }
            match job {
                // What could not be saved comes again after a restart.
                Job::Save(checkpoint) => drop(checkpoint.save()),
                Job::Discard(incoming) => drop(incoming.discard()),
                Job::Keep(transfer, incoming, file) => {
                    let kept = keep(&spool, &folder.join("inbox"), *incoming, file);
                    let _gone = remote.command(Command::File(News::Kept(transfer, kept)));
                }
                Job::Delivered(op, (from, id), by) => {
                    let done = delivered(&spool, &from, id, &by).is_ok();
                    let outcome = if done { ops::Outcome::Done } else { ops::Outcome::Failed };
                    let _gone = remote.complete(op, outcome);
                }
                Job::Queue(Queue { to, members, path, consume, reply }) => {
                    let queued = queue(&spool, to, members, &path).map_err(|error| {
                        format!("cannot send {}: {}", path.display(), disk::plain(&error))
                    });
                    if queued.is_ok() && consume {
                        // One that can't be removed is sent again: better than lost.
                        let _left = std::fs::remove_file(&path);
                    }
                    let _gone = remote.command(Command::File(News::Queued(queued, reply)));
                }
                Job::Scan => {
                    for (to, path) in scan(&folder.join("outbox")) {
                        let _gone = remote.command(Command::File(News::Found(to, path)));
                    }
                }
                Job::Stop => return,
            }
        }
    })
}

/// Makes a whole file durable: in the inbox if it is the server's, else in the spool.
fn keep(
    spool: &Spool,
    inbox: &Path,
    incoming: Incoming,
    mut file: StoredFile,
) -> Result<(StoredFile, Option<PathBuf>), String> {
    let failed = |error: io::Error| {
        format!("a file from {} could not be stored: {}", file.offer.from, disk::plain(&error))
    };
    let to_us = |to: &Recipient| matches!(to, Recipient::Member(name) if name == SERVER_MEMBER);
    if to_us(&file.offer.to) {
        let path = incoming.place(inbox, &file.offer.name).map_err(failed)?;
        file.to.clear();
        return Ok((file, Some(path)));
    }
    if file.to.is_empty() {
        incoming.discard().map_err(failed)?;
    } else {
        spool.add(&meta(&file), incoming).map_err(failed)?;
    }
    Ok((file, None))
}

/// Notes that a member has a file; when it waits for nobody any more, it goes.
fn delivered(spool: &Spool, from: &str, id: ChatId, by: &str) -> io::Result<()> {
    let known = spool.list().into_iter().find(|meta| meta.from == from && meta.id == id.0);
    let Some(mut meta) = known else { return Ok(()) };
    meta.recipients.retain(|name| name != by);
    if meta.recipients.is_empty() {
        spool.remove(from, &id.0)
    } else {
        spool.set_recipients(from, &id.0, &meta.recipients)
    }
}

/// Copies a file into the spool, hashing it on the way.
fn queue(
    spool: &Spool,
    to: Recipient,
    members: Vec<String>,
    path: &Path,
) -> io::Result<StoredFile> {
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_file_name(name));
    let name = name.ok_or_else(|| refused("receivers take no file of this name"))?.to_owned();
    let source = Source::open(path)?;
    let (size, mut id) = (source.size(), [0; 16]);
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    if let Room::Missing { needs, has } = spool.room_for(size) {
        return Err(refused(&format!("the quota has {has} bytes left of {needs}")));
    }
    let from = SERVER_MEMBER.to_owned();
    let key = Key { from: from.clone(), id, size };
    let mut incoming = Incoming::open(spool.parts(), &key)?;
    if let Room::Missing { needs, has } = incoming.reserve()? {
        incoming.discard()?;
        return Err(refused(&format!("the disk has {has} bytes left of {needs}")));
    }
    let sha256 = match copy(&source, &mut incoming) {
        Ok(sha256) => sha256,
        Err(error) => {
            incoming.discard()?;
            return Err(error);
        }
    };
    let stored_at = clawchat_mio::clock::now().wall;
    let offer = FileOffer { id: ChatId(id), name, size, to, from };
    let file = StoredFile { offer, sha256, to: members, stored_at };
    spool.add(&meta(&file), incoming)?;
    Ok(file)
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn copy(source: &Source, into: &mut Incoming) -> io::Result<[u8; 32]> {
    let (mut hash, mut at, mut buffer) = (Sha256::new(), 0, vec![0; COPY]);
    while at < source.size() {
        let length = usize::try_from(source.size() - at).unwrap_or(COPY).min(COPY);
        source.read_at(at, &mut buffer[..length])?;
        hash.update(&buffer[..length]);
        into.write(at, &buffer[..length])?;
        at += length as u64;
    }
    source.check().map_err(|changed| refused(&changed.to_string()))?;
    Ok(hash.finalize().into())
}

/// The files in the outbox that nobody has touched for a moment: `outbox/@member/FILE` and
/// `outbox/#room/FILE`.
fn scan(outbox: &Path) -> Vec<(Recipient, PathBuf)> {
    let entries = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(Result::ok).map(|entry| entry.path())
    };
    let ready = |path: &PathBuf| {
        let meta = std::fs::symlink_metadata(path);
        let age = meta.as_ref().ok().and_then(|meta| meta.modified().ok()?.elapsed().ok());
        meta.is_ok_and(|meta| meta.is_file()) && age.is_some_and(|age| age >= SETTLED)
    };
    let mut found = Vec::new();
    for folder in entries(outbox) {
        let name = folder.file_name().and_then(|name| name.to_str());
        if let Some(to) = name.and_then(Recipient::parse) {
            found.extend(entries(&folder).filter(ready).map(|path| (to.clone(), path)));
        }
    }
    found
}
