//! Files at the server (PROTOCOL 5.6): what members send is kept in the spool until those it is for
//! have it; what is for the server itself goes to its inbox.

use super::admin;
use super::run::Command;
use super::spooler::{self, Job, Queue};
use crate::disk;
use crate::disk::folders::Folders;
use crate::disk::incoming::Key;
use crate::disk::room::Room;
use crate::disk::source::Source;
use crate::disk::spool::Spool;
use crate::failure::Exit;
use crate::files::{Arriving, Hashed, key_of};
use crate::text::{bytes, complain, list};
use clawchat_core::id::{ChatId, OpId, SessionId, TransferId};
use clawchat_core::limits::FILES_TAKEN;
use clawchat_core::ops::{Chunk, FileFailure, Want};
use clawchat_core::server::{Event, Server, StoredFile};
use clawchat_core::time::Now;
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{FileError, FileOffer, Recipient, hex};
use clawchat_mio::Remote;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

/// How often it is looked whether there is room now.
const ROOM_EVERY: Duration = Duration::from_secs(5);
/// What was left by interrupted transfers is kept in memory for so many at most; the disk has it all.
const LEFT: usize = 64;

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

impl Files {
    /// Of the state folder `folder`.
    pub(super) fn start(spool: Spool, folder: &Path, remote: Remote<Command>) -> Self {
        let (spool, (jobs, work)) = (Arc::new(spool), mpsc::channel());
        let worker = spooler::start(Arc::clone(&spool), folder.to_owned(), work, remote.clone());
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
            // A list of a folder comes before the files in it.
            let behind = self.arriving.values().any(|Arriving { offer: other, .. }| {
                other.from == offer.from && Folders::is_list(other)
            });
            if behind || on_their_way.count() >= FILES_TAKEN {
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
