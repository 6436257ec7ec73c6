//! Files at the server (PROTOCOL 5.6): what members send is kept in the spool until those it is for
//! have it; what is for the server itself goes to its inbox.

mod sending;

use super::operator::{self, Errand, Queued};
use super::run::Command;
use super::spooler::{self, Inbox, Job, Opened};
use crate::disk;
use crate::disk::folders::Folders;
use crate::disk::incoming::Key;
use crate::disk::room::Room;
use crate::disk::source::Source;
use crate::disk::spool::Spool;
use crate::files::{Arriving, Hashed, key_of};
use crate::text::{bytes, complain};
use clawchat_core::error::SendError;
use clawchat_core::id::{ChatId, OpId, SessionId, TransferId};
use clawchat_core::limits::FILES_TAKEN;
use clawchat_core::ops::{Chunk, FileFailure, Want};
use clawchat_core::ranges::RangeSet;
use clawchat_core::server::{Event, Server, StoredFile};
use clawchat_core::time::Now;
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{FileError, FileOffer, Recipient, hex};
use clawchat_mio::Remote;
use core::time::Duration;
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

/// A file that is durable, and where if it is the server's own.
pub(super) type Kept = Box<(StoredFile, Option<PathBuf>)>;

/// News for the loop.
#[derive(Debug)]
pub(super) enum News {
    /// A file that arrives is hashed.
    Hashed(Key, Hashed),
    /// A file is durable, or it could not be made so.
    Kept(TransferId, Key, Result<Kept, String>),
    /// What the operator sends from here is in the spool, to be offered; or it could not be put there; or
    /// somebody is still writing in it.
    Queued(PathBuf, Option<Result<Queued, String>>, Option<mpsc::Sender<Object>>),
    /// There is one in the outbox.
    Found(Recipient, PathBuf),
    /// What lies there can't be sent, or was sent and can't be removed, and why.
    Stuck(PathBuf, String),
    /// That was all that there is; and what of that which was asked for is gone.
    Scanned(Vec<PathBuf>),
}

/// All files of the server.
#[derive(Debug)]
pub(super) struct Files {
    spool: Arc<Spool>,
    arriving: BTreeMap<TransferId, Arriving>,
    /// In which session each of them is.
    sessions: BTreeMap<TransferId, SessionId>,
    /// Offers of sessions that have as many files on their way as one may have.
    waiting: VecDeque<(SessionId, TransferId, FileOffer)>,
    /// Something has ended since they were looked at.
    has_ended: bool,
    /// What interrupted transfers left: their next ones go on with it.
    left: BTreeMap<Key, Arriving>,
    giving: BTreeMap<TransferId, Source>,
    /// Those that are right, and being made durable.
    keeping: BTreeSet<Key>,
    /// What those that are here and not yet judged are to become.
    complete: BTreeMap<TransferId, StoredFile>,
    /// Those that got bytes in this turn.
    touched: BTreeSet<TransferId>,
    room_at: Instant,
    /// What of the outbox is being put into the spool.
    leaving: BTreeSet<PathBuf>,
    /// Why something of it can't be sent, where that was said.
    complained: BTreeMap<PathBuf, String>,
    /// The outbox is being looked into.
    is_scanning: bool,
    jobs: mpsc::Sender<Job>,
    errands: mpsc::Sender<Errand>,
    remote: Remote<Command>,
    worker: Option<JoinHandle<()>>,
}

impl Files {
    /// Of the state folder `folder`.
    pub(super) fn start(
        (Opened { spool, taking }, inbox): (Opened, Inbox),
        folder: &Path,
        remote: Remote<Command>,
    ) -> Self {
        let (spool, (jobs, work)) = (Arc::new(spool), mpsc::channel());
        let worker = spooler::start(Arc::clone(&spool), inbox, work, remote.clone());
        let (errands, to_run) = mpsc::channel();
        operator::start(Arc::clone(&spool), folder, taking, to_run, remote.clone());
        Self {
            spool,
            arriving: BTreeMap::new(),
            sessions: BTreeMap::new(),
            waiting: VecDeque::new(),
            has_ended: false,
            left: BTreeMap::new(),
            giving: BTreeMap::new(),
            keeping: BTreeSet::new(),
            complete: BTreeMap::new(),
            touched: BTreeSet::new(),
            room_at: Instant::now(),
            leaving: BTreeSet::new(),
            complained: BTreeMap::new(),
            is_scanning: false,
            jobs,
            errands,
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

    fn run(&self, errand: Errand) {
        // The same.
        let _gone = self.errands.send(errand);
    }

    /// A member has a file that the spool keeps for it.
    pub(super) fn delivered(&self, op: OpId, from: String, id: ChatId, by: String) {
        self.work(Job::Delivered(op, (from, id), by));
    }

    /// Takes what the machine tells of files; true if it was about one.
    pub(super) fn event(&mut self, server: &mut Server, now: Now, event: &Event) -> bool {
        match event {
            Event::FileOffered { transfer, session, offer } => {
                let offer = (*session, *transfer, offer.clone());
                self.take_some(server, now, VecDeque::from([offer]));
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

    /// Takes those of some offers whose sessions may have another file on its way: the others wait, and so
    /// do those who made them.
    fn take_some(
        &mut self,
        server: &mut Server,
        now: Now,
        offers: VecDeque<(SessionId, TransferId, FileOffer)>,
    ) {
        let mut on_their_way: BTreeMap<SessionId, usize> = BTreeMap::new();
        let mut lists: BTreeSet<String> = BTreeSet::new();
        for (transfer, Arriving { offer, .. }) in &self.arriving {
            if let Some(session) = self.sessions.get(transfer) {
                *on_their_way.entry(*session).or_default() += 1;
            }
            if Folders::is_list(offer) {
                lists.insert(offer.from.clone());
            }
        }
        for (session, transfer, offer) in offers {
            let many = on_their_way.entry(session).or_default();
            // A list of a folder comes before the files in it.
            if *many >= FILES_TAKEN || lists.contains(&offer.from) {
                self.waiting.push_back((session, transfer, offer));
                continue;
            }
            self.sessions.insert(transfer, session);
            match self.take(server, now, transfer, &offer) {
                Ok(true) => {}
                Ok(false) => {
                    if Folders::is_list(&offer) {
                        lists.insert(offer.from.clone());
                    }
                    self.waiting.push_back((session, transfer, offer.clone()));
                }
                Err(reason) => server.cancel_file(now, transfer, &reason),
            }
            if self.arriving.contains_key(&transfer) {
                *many += 1;
                if Folders::is_list(&offer) {
                    lists.insert(offer.from);
                }
            }
        }
        let arriving = &self.arriving;
        self.sessions.retain(|transfer, _| arriving.contains_key(transfer));
    }

    /// A transfer is no longer on its way: those that wait for that are looked at again.
    fn no_longer(&mut self, transfer: TransferId) -> Option<Arriving> {
        self.has_ended = true;
        self.arriving.remove(&transfer)
    }

    /// Takes an offer, as far as there is room for it. False when it has to wait: what another session brought
    /// of the same file is still being seen to.
    fn take(
        &mut self,
        server: &mut Server,
        now: Now,
        transfer: TransferId,
        offer: &FileOffer,
    ) -> Result<bool, String> {
        let (key, failed) = (key_of(offer), |_| "the server's disk failed".to_owned());
        if self.keeping.contains(&key) {
            return Ok(false);
        }
        let mut arriving = match self.left.remove(&key) {
            Some(left) => left,
            None => {
                if !server.may_take_file() {
                    return Err("the server keeps too many files already".to_owned());
                }
                if let Room::Missing { needs, has } = self.spool.room_for_part(&key) {
                    return Err(format!("the server's quota has {has} bytes left of {needs}"));
                }
                let remote = self.remote.clone();
                let hashed = move |digest| {
                    let _gone = remote.command(Command::File(News::Hashed(key, digest)));
                };
                match Arriving::open(self.spool.parts(), offer, hashed) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    opened => opened.map_err(failed)?,
                }
            }
        };
        arriving.expected = None;
        let limit = match arriving.reserve().map_err(failed)? {
            Room::Enough => offer.size,
            Room::Missing { needs, has } => {
                let shown = self.spool.parts().display();
                let (needs, has) = (bytes(needs), bytes(has));
                complain(&format!(
                    "paused: disk full at {shown} (needs {needs}, has {has}) for a file of {}",
                    offer.from
                ));
                0
            }
        };
        match server.accept_file(now, transfer, arriving.have(), limit) {
            Ok(()) => drop(self.arriving.insert(transfer, arriving)),
            Err(SendError::WindowFull) => {
                self.keep_left(arriving);
                return Ok(false);
            }
            // An offer that is gone meanwhile is made again.
            Err(_) => self.keep_left(arriving),
        }
        Ok(true)
    }

    /// Decides over a file once all of it is here and hashed.
    fn judge(&mut self, server: &mut Server, now: Now, transfer: TransferId) {
        let Some(right) = self.arriving.get(&transfer).and_then(Arriving::verdict) else { return };
        let (Some(arriving), Some(file)) =
            (self.no_longer(transfer), self.complete.remove(&transfer))
        else {
            return;
        };
        let incoming = Box::new(arriving.into_incoming());
        if right {
            self.keeping.insert(key_of(&file.offer));
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
        let Some(mut arriving) = self.no_longer(transfer) else { return };
        // Only one that was interrupted is gone on with.
        if !matches!(result, Err(FileFailure::Interrupted)) {
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
            News::Kept(transfer, key, Ok(kept)) => {
                let (file, path) = *kept;
                self.keeping.remove(&key);
                if let Some(path) = path {
                    let (from, sha256) = (&file.offer.from, hex(&file.sha256));
                    complain(&format!(
                        "file from {from}: {}, sha256 {sha256} verified",
                        path.display()
                    ));
                }
                server.file_checked(now, transfer, Ok(file));
                self.confirm(server, now, &key);
            }
            News::Kept(transfer, key, Err(what)) => {
                self.keeping.remove(&key);
                self.has_ended = true;
                complain(&what);
                server.file_checked(now, transfer, Err(FileError::Disk));
            }
            News::Queued(path, queued, reply) => {
                self.leaving.remove(&path);
                if let Some(queued) = queued {
                    self.queued(server, path, queued, reply.as_ref());
                }
            }
            News::Found(to, path) => self.send_from_outbox(server, to, path),
            News::Stuck(path, why) => self.complain_once(path, &why),
            News::Scanned(gone) => {
                self.is_scanning = false;
                // What comes there later is something else.
                self.complained.retain(|path, _| !gone.contains(path));
            }
        }
    }

    /// A file is here: who offers it too need not send it.
    fn confirm(&mut self, server: &mut Server, now: Now, key: &Key) {
        for (session, transfer, offer) in core::mem::take(&mut self.waiting) {
            if key_of(&offer) != *key {
                self.waiting.push_back((session, transfer, offer));
                continue;
            }
            let mut all = RangeSet::new();
            all.insert(0..offer.size);
            // One that is over is no loss.
            let taken = server.accept_file(now, transfer, &all, offer.size);
            if taken == Err(SendError::WindowFull) {
                self.waiting.push_back((session, transfer, offer));
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
            self.no_longer(chunk.transfer);
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
                    self.no_longer(transfer);
                    server.file_checked(now, transfer, Err(FileError::Disk));
                }
            }
        }
        if core::mem::take(&mut self.has_ended) && !self.waiting.is_empty() {
            let waiting = core::mem::take(&mut self.waiting);
            self.take_some(server, now, waiting);
        }
        if self.room_at.elapsed() >= ROOM_EVERY {
            self.room_at = Instant::now();
            // Of some that wait nobody tells when they may go on.
            self.has_ended = true;
            self.look_for_room(server, now);
            // One at a time: they wait while something large is copied.
            if !core::mem::replace(&mut self.is_scanning, true) {
                self.run(Errand::Scan(self.complained.keys().cloned().collect()));
            }
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
