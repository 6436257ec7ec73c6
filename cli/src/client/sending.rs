//! `send-file`: files and folders, until the server has them. Repeated after an interruption it goes on
//! where it was.

use super::args::{Common, SendFile};
use super::link::{Link, Woken};
use super::memory::Memory;
use super::outgoing::{Item, Kind, Plan};
use super::progress::Progress;
use crate::disk::digest::Digest;
use crate::disk::source::Source;
use crate::failure::{Exit, Failure, Failures, Outcome};
use crate::files::Hashed;
use crate::text::{bytes, complain, event, one_line, print};
use clawchat_core::client::Event;
use clawchat_core::error::SendError;
use clawchat_core::id::TransferId;
use clawchat_core::ops::FileFailure;
use clawchat_core::wire::message::{FileError, SessionInfo, hex};
use core::time::Duration;
use smol::channel::{Receiver, Sender, unbounded};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Files that are offered at a time.
const AT_A_TIME: usize = 32;
/// A file that changes again and again is given up after so many beginnings.
const BEGINNINGS: u32 = 3;

/// A digest, and of which transfer.
type Digested = (TransferId, Hashed);

/// A file on its way.
struct Active {
    item: Item,
    source: Option<Arc<Source>>,
    /// Bytes that the server has.
    done: u64,
    digest: Option<Digest>,
    sha256: Option<[u8; 32]>,
}

struct Sending<'a> {
    common: &'a Common,
    link: &'a Link,
    to: &'a str,
    info: SessionInfo,
    memory: Memory,
    /// Folders: remembered until all of them is through.
    folders: Vec<PathBuf>,
    waiting: VecDeque<Item>,
    active: BTreeMap<TransferId, Active>,
    hashed: (Sender<Digested>, Receiver<Digested>),
    progress: Progress,
    /// Bytes of files that are through.
    done: u64,
    files: usize,
    /// What could not be sent, and why.
    failures: Failures,
    /// They are to go no further.
    cancel: bool,
}

/// How the command ended.
enum End {
    Done,
    Paused,
    Compromised,
    Failed(Box<Failure>),
}

/// `send-file`
pub(super) fn send_file(common: &Common, what: &SendFile) -> Outcome<()> {
    if clawchat_core::wire::message::Recipient::parse(&what.to).is_none() {
        let text = format!("`{}` is no recipient", one_line(&what.to));
        return Err(Failure::new(Exit::Usage, text).advice("--to '@member' or --to '#room'"));
    }
    // What can't be read is said before anything is sent.
    let plan = Plan::of(&what.paths)?;
    let link = Link::start(common)?;
    smol::block_on(async {
        let info = link.connected(common.timeout).await?;
        let mut sending = Sending::new(common, &link, &what.to, info, plan)?;
        sending.cancel = what.cancel;
        let end = sending.run().await;
        sending.progress.end();
        let summary = sending.summary(what);
        drop(sending);
        match end {
            End::Compromised => Err(link.wiped().await),
            End::Failed(failure) => Err(failure),
            End::Done => {
                link.leave().await?;
                summary
            }
            End::Paused => {
                link.leave().await?;
                summary
            }
        }
    })
}

impl<'a> Sending<'a> {
    fn new(
        common: &'a Common,
        link: &'a Link,
        to: &'a str,
        info: SessionInfo,
        plan: Plan,
    ) -> Outcome<Self> {
        let memory = Memory::of(&info);
        let (notes, folders) = (plan.notes.clone(), plan.folders());
        let waiting = plan.items(&memory, to)?;
        let goes = waiting.iter().filter(|item| item.kind != Kind::Stale);
        let total = goes.map(|item| item.size).sum();
        let progress = Progress::new(total, common.json, common.quiet);
        if !common.quiet {
            notes.iter().for_each(|note| complain(note));
        }
        let (files, hashed) = (waiting.len(), unbounded());
        Ok(Self {
            common,
            link,
            to,
            info,
            memory,
            folders,
            waiting,
            active: BTreeMap::new(),
            hashed,
            progress,
            done: 0,
            files,
            failures: Failures::default(),
            cancel: false,
        })
    }

    async fn run(&mut self) -> End {
        loop {
            if let Err(failure) = self.offer_next().await {
                return End::Failed(failure);
            }
            if self.active.is_empty() && self.waiting.is_empty() {
                return End::Done;
            }
            match self.link.next(Some(Instant::now() + TICK)).await {
                Woken::Event(Event::Compromised { .. }) => return End::Compromised,
                Woken::Event(Event::Closed(reason)) => {
                    return End::Failed(self.link.failure(&reason, self.common.timeout));
                }
                Woken::Event(what) => self.take(what),
                Woken::Signal => return End::Paused,
                Woken::Timeout => {}
            }
            self.take_digests();
            self.take_failures();
            self.look().await;
        }
    }

    /// Offers what may be offered now: the files of a folder once its list is there, a file that was
    /// changed once what was there of it is gone.
    async fn offer_next(&mut self) -> Outcome<()> {
        let barrier = |active: &Active| matches!(active.item.kind, Kind::List | Kind::Stale);
        while self.active.len() < AT_A_TIME
            && !self.active.values().any(barrier)
            && let Some(item) = self.waiting.pop_front()
        {
            // Of what is to go nothing is read.
            let opened = (item.kind != Kind::Stale).then(|| item.open()).transpose();
            let source = match opened {
                Ok(source) => source,
                Err(failure) => {
                    self.failures.push(failure);
                    continue;
                }
            };
            if let Some(source) = &source {
                self.link.files.offer(item.id, Arc::clone(source));
            }
            let handle = &self.link.handle;
            let offered = handle.offer_file(item.id, self.to, &item.name, item.size).await;
            match offered {
                Ok(transfer) => {
                    if self.common.json && item.kind != Kind::Stale {
                        print(
                            &event("start")
                                .with("transfer", format!("t-{transfer}"))
                                .with("name", item.name.as_str())
                                .with("size", item.size),
                        );
                    }
                    let active = Active { item, source, done: 0, digest: None, sha256: None };
                    self.active.insert(transfer, active);
                }
                Err(SendError::Closed) => {
                    return Err(Failure::new(Exit::Unreachable, "the connection is gone"));
                }
                Err(error) => {
                    let what = format!("{}: {error}", item.path.display());
                    self.failures.push(Failure::new(Exit::Usage, what));
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, what: Event) {
        self.take_digests();
        match what {
            Event::FileAccepted { transfer, .. } if self.goes_no_further(transfer) => {
                self.cancelled(transfer);
            }
            Event::FileAccepted { transfer, held } => self.accepted(transfer, held),
            Event::FileEnded { transfer, result: Ok(()) } => self.arrived(transfer),
            Event::FileEnded { transfer, result: Err(why) } => self.refused(transfer, &why),
            Event::Disconnected { .. } if !self.common.json && !self.common.quiet => {
                let safe = self.safe();
                self.progress.say(&format!("waiting for the network, {} safe", bytes(safe)));
            }
            Event::Connected { .. } if !self.common.json && !self.common.quiet => {
                self.progress.say("connected again");
            }
            _ => {}
        }
    }

    /// Bytes that the server has.
    fn safe(&self) -> u64 {
        self.done + self.active.values().map(|active| active.done).sum::<u64>()
    }

    /// The server takes a file: its digest begins.
    fn accepted(&mut self, transfer: TransferId, held: u64) {
        let Some(active) = self.active.get_mut(&transfer) else { return };
        if held > active.done {
            let (name, size) = (one_line(&active.item.name), active.item.size);
            self.progress.resumed(held - active.done);
            if !self.common.quiet && !self.common.json {
                let line = format!("{name}: {} of {} are there already", bytes(held), bytes(size));
                self.progress.say(&line);
            }
        }
        // Less than before, if a crash of the server has cost it what was not on its disk yet.
        active.done = held;
        if active.digest.is_some() || active.sha256.is_some() {
            return;
        }
        let (handle, news) = (self.link.handle.clone(), self.hashed.0.clone());
        let told = move |hashed: Hashed| {
            // First to the command, which says it once the file has arrived. Nobody asks any more once
            // that has ended.
            let sha256 = hashed.as_ref().ok().copied();
            let _gone = news.try_send((transfer, hashed));
            if let Some(sha256) = sha256 {
                handle.file_digest(transfer, sha256);
            }
        };
        let Some(source) = &active.source else { return };
        let started = source.reader().and_then(|file| Digest::start(file, source.size(), told));
        match started {
            Ok(digest) => {
                digest.available(source.size());
                active.digest = Some(digest);
            }
            Err(error) => self.give_up(transfer, &crate::disk::plain(&error)),
        }
    }

    fn take_digests(&mut self) {
        while let Ok((transfer, hashed)) = self.hashed.1.try_recv() {
            match hashed {
                Ok(sha256) => {
                    if let Some(active) = self.active.get_mut(&transfer) {
                        (active.sha256, active.digest) = (Some(sha256), None);
                    }
                }
                Err(error) => self.give_up(transfer, &crate::disk::plain(&error)),
            }
        }
    }

    fn goes_no_further(&self, transfer: TransferId) -> bool {
        let stale = |active: &Active| active.item.kind == Kind::Stale;
        self.cancel || self.active.get(&transfer).is_some_and(stale)
    }

    /// The server knows now which file is meant: it goes no further.
    fn cancelled(&mut self, transfer: TransferId) {
        let Some(active) = self.active.remove(&transfer) else { return };
        self.link.handle.cancel_file(transfer, "its sender cancelled it");
        self.link.files.given(transfer);
        active.item.through(&self.memory, self.to);
        if self.cancel && !self.common.quiet && !self.common.json {
            self.progress.say(&format!("cancelled: {}", one_line(&active.item.name)));
        }
    }

    /// What failed while it was read: a file that was changed begins anew.
    fn take_failures(&mut self) {
        for (transfer, why) in self.link.files.failed() {
            let Some(active) = self.active.remove(&transfer) else { continue };
            self.again(active.item, &why);
        }
    }

    /// Sends a file from its beginning, under another id.
    fn again(&mut self, item: Item, why: &str) {
        let name = one_line(&item.name);
        let result = item.anew(&self.memory, self.to);
        match result {
            Ok(Some(item)) if item.beginnings <= BEGINNINGS => {
                self.progress.say(&format!("{name}: {why}; it starts anew"));
                self.waiting.push_front(item);
            }
            Ok(_) => {
                let what = format!("{name}: {why}");
                let failure = Failure::new(Exit::Failed, what);
                self.failures.push(failure.advice("send it again once nobody changes it"));
            }
            Err(failure) => self.failures.push(failure),
        }
    }

    fn give_up(&mut self, transfer: TransferId, why: &str) {
        let Some(active) = self.active.remove(&transfer) else { return };
        self.link.handle.cancel_file(transfer, "it can't be read any more");
        self.link.files.given(transfer);
        // One that became shorter is no disk that fails.
        if let Some(Err(changed)) = active.source.as_ref().map(|source| source.check()) {
            self.again(active.item, &changed.to_string());
            return;
        }
        let what = format!("{}: {}", active.item.path.display(), one_line(why));
        self.failures.push(Failure::new(Exit::NoSuchFile, what));
    }

    /// The server has a file, and has checked it.
    fn arrived(&mut self, transfer: TransferId) {
        let Some(active) = self.active.remove(&transfer) else { return };
        self.link.files.given(transfer);
        self.done += active.item.size;
        active.item.through(&self.memory, self.to);
        let sha256 = active.sha256.map(|sha256| hex(&sha256)).unwrap_or_default();
        if self.common.json {
            print(
                &event("done")
                    .with("transfer", format!("t-{transfer}"))
                    .with("name", active.item.name.as_str())
                    .with("size", active.item.size)
                    .with("sha256", sha256)
                    .with("verified", true)
                    .with("ms", self.progress.millis()),
            );
        } else if !self.common.quiet && active.item.kind == Kind::File {
            let (name, server) = (one_line(&active.item.name), one_line(&self.info.server_name));
            self.progress.say(&format!("{name}  sha256 {sha256}, verified by {server}"));
        }
    }

    fn refused(&mut self, transfer: TransferId, why: &FileFailure) {
        if *why == FileFailure::Interrupted {
            return;
        }
        let Some(active) = self.active.remove(&transfer) else { return };
        self.link.files.given(transfer);
        if active.item.kind == Kind::Stale {
            return;
        }
        match why {
            FileFailure::Checked(FileError::Hash | FileError::Size) => {
                self.again(active.item, "it arrived otherwise than it is here");
            }
            FileFailure::Checked(FileError::Disk) => {
                let what = format!("{}: the server could not store it", active.item.path.display());
                self.failures.push(Failure::new(Exit::CannotWrite, what));
            }
            FileFailure::Cancelled(reason) => {
                active.item.through(&self.memory, self.to);
                let what = format!("{} was not taken", active.item.path.display());
                let said = format!("the server says: {}", one_line(reason));
                self.failures.push(Failure::new(Exit::Failed, what).fact(said));
            }
            FileFailure::Interrupted => {}
        }
    }

    /// Looks how far everything is.
    async fn look(&mut self) {
        let due = self.progress.is_due();
        for (transfer, active) in &mut self.active {
            if let Some((held, _)) = self.link.handle.file_progress(*transfer).await {
                active.done = active.done.max(held);
            }
            if due {
                self.progress.tell(transfer.0, active.done);
            }
        }
        let left = self.active.len() + self.waiting.len();
        let beside = if self.files > 1 {
            format!("[{left} of {} files left]", self.files)
        } else {
            String::new()
        };
        self.progress.set(self.safe(), beside);
    }

    /// What is said at the end.
    fn summary(&mut self, what: &SendFile) -> Outcome<()> {
        let (safe, left) = (self.safe(), self.active.len() + self.waiting.len());
        if left > 0 {
            let paths: Vec<_> = what.paths.iter().map(|path| path.display().to_string()).collect();
            let text = format!("paused: {} are there", bytes(safe));
            let to = if what.to == SendFile::TO {
                String::new()
            } else {
                format!("--to '{}' ", what.to)
            };
            let again = format!("clawchat send-file {to}{}", one_line(&paths.join(" ")));
            return Err(Failure::new(Exit::TransferIncomplete, text)
                .advice(format!("{again}   goes on with it")));
        }
        for folder in &self.folders {
            self.memory.forget(self.to, folder);
        }
        core::mem::take(&mut self.failures).into_outcome()?;
        if !self.cancel && !self.common.json && !self.common.quiet {
            let pace = self.progress.pace(self.done);
            complain(&format!("> {} for {}, in {pace}", bytes(self.done), self.to));
        }
        Ok(())
    }
}
