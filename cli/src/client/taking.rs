//! Files that come (PROTOCOL 5.6), for `get` and `listen --accept`. Each appears under its name once it
//! is whole and verified; nothing is ever overwritten.

use super::args::Common;
use super::link::Link;
use super::progress::Progress;
use super::shown::Shown;
use crate::disk::folders::{Folders, LIST, PARTS};
use crate::disk::incoming::Key;
use crate::disk::room::Room;
use crate::disk::{self, receipt};
use crate::failure::{Exit, Failure, Failures, Outcome};
use crate::files::{Arriving, Hashed, key_of};
use crate::text::{bytes, complain, event, one_line, print};
use clawchat_core::client::Event;
use clawchat_core::id::{ChatId, TransferId};
use clawchat_core::ops::FileFailure;
use clawchat_core::ranges::RangeSet;
use clawchat_core::wire::message::{FileError, FileOffer, hex};
use core::time::Duration;
use smol::channel::{Receiver, Sender, unbounded};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often it is looked whether there is room now.
const ROOM_EVERY: Duration = Duration::from_secs(2);
/// Files that are taken at a time.
const AT_A_TIME: usize = 16;
/// Partial files that nobody came back to for so long go.
const STALE: Duration = Duration::from_secs(30 * 86_400);

/// A digest, and of which file.
type Digested = (Key, Hashed);

/// Takes files into a folder.
pub(super) struct Taker<'a> {
    common: &'a Common,
    link: &'a Link,
    into: PathBuf,
    /// What this device has received, by this process or one before it.
    received: Shown,
    active: BTreeMap<TransferId, FileOffer>,
    /// What interrupted transfers left.
    left: BTreeMap<Key, Arriving>,
    /// Those that came before and are only to be confirmed.
    known: BTreeMap<TransferId, FileOffer>,
    /// Offers that wait for their turn.
    waiting: VecDeque<(TransferId, FileOffer)>,
    /// Folders whose files are on their way.
    folders: Folders,
    hashed: (Sender<Digested>, Receiver<Digested>),
    progress: Progress,
    /// Bytes that are through.
    done: u64,
    room_at: Instant,
    paused: bool,
    /// Files that could not be taken.
    pub(super) failures: Failures,
    /// What is offered is refused, but for lists of folders.
    refuses: bool,
    /// How many came.
    pub(super) taken: usize,
}

impl<'a> Taker<'a> {
    pub(super) fn new(common: &'a Common, link: &'a Link, into: &Path) -> Outcome<Self> {
        if !into.is_dir() {
            std::fs::create_dir_all(into).map_err(|error| disk::cannot_write(into, &error))?;
        }
        let into = std::fs::canonicalize(into).map_err(|error| disk::cannot_write(into, &error))?;
        // What can't be swept lies there until next time.
        let _left = disk::incoming::sweep(&into.join(PARTS), STALE);
        Ok(Self {
            common,
            link,
            folders: Folders::open(&into),
            into,
            received: Shown::default(),
            active: BTreeMap::new(),
            left: BTreeMap::new(),
            known: BTreeMap::new(),
            waiting: VecDeque::new(),
            hashed: unbounded(),
            progress: Progress::new(0, common.json, common.quiet),
            done: 0,
            room_at: Instant::now(),
            paused: false,
            failures: Failures::default(),
            refuses: false,
            taken: 0,
        })
    }

    /// What this command was asked.
    pub(super) const fn common(&self) -> &'a Common {
        self.common
    }

    /// What this device has received before.
    pub(super) fn knows(&mut self, received: Shown) {
        self.received = received;
        // What a process before this one placed, and was killed before it noted that.
        for (key, note, receipt) in receipt::of_placed(&self.into.join(PARTS)) {
            let file = (key.from, ChatId(key.id));
            match self.folders.placed_before(&file, &note) {
                // Of another server, it waits for a session with that.
                Some(place) if place != self.received.place() => {}
                Some(_) if !self.received.note_file(&file.0, &file.1) => {}
                Some(_) | None => receipt.noted(),
            }
        }
    }

    /// Whether a file, by its sender and id, belongs to a folder on its way.
    pub(super) fn is_of_folder(&self, key: &(String, ChatId)) -> bool {
        self.folders.has(key)
    }

    /// Whether something is under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.active.is_empty() || !self.waiting.is_empty() || !self.known.is_empty()
    }

    /// When to call [`Self::look`].
    pub(super) fn tick(&self) -> Option<Instant> {
        self.is_busy().then(|| Instant::now() + TICK)
    }

    /// Takes an offer.
    pub(super) fn offered(&mut self, transfer: TransferId, offer: FileOffer) {
        if !self.is_busy() {
            self.progress = Progress::new(0, self.common.json, self.common.quiet);
            self.done = 0;
        }
        self.progress.add(offer.size);
        self.waiting.push_back((transfer, offer));
    }

    /// Takes what the link tells of files; gives back what is about something else.
    pub(super) fn take(&mut self, what: Event) -> Option<Event> {
        match what {
            Event::FileComplete { transfer, sha256 } => {
                if let Some(offer) = self.known.remove(&transfer) {
                    self.link.handle.file_checked(transfer, Ok(()));
                    self.done += offer.size;
                } else {
                    self.link.files.with(transfer, |arriving| arriving.expected = Some(sha256));
                }
                None
            }
            Event::FileEnded { transfer, result } => {
                self.ended(transfer, &result);
                None
            }
            Event::Connected { ref info, .. } => {
                self.knows(Shown::received(info));
                Some(what)
            }
            other => Some(other),
        }
    }

    /// Refuses an offer for good. The list of a folder is taken: it names the files that are to be refused.
    pub(super) fn refuse(&mut self, transfer: TransferId, offer: FileOffer) {
        self.refuses = true;
        if Folders::is_list(&offer) {
            self.offered(transfer, offer);
            return;
        }
        self.link.handle.cancel_file(transfer, "refused");
        self.taken += 1;
        self.tell_refused(&offer);
    }

    fn tell_refused(&self, offer: &FileOffer) {
        if self.common.json {
            print(
                &event("refused")
                    .with("name", offer.name.as_str())
                    .with("id", offer.id.to_string()),
            );
        } else if !self.common.quiet {
            let folder = offer.name.strip_suffix(LIST).map(|name| format!("{name}/"));
            let name = one_line(folder.as_deref().unwrap_or(&offer.name));
            complain(&format!("refused: {name} from {}", offer.from));
        }
    }

    /// Goes on with everything.
    pub(super) async fn look(&mut self) {
        self.start_next().await;
        self.take_digests();
        self.judge().await;
        for (transfer, why) in self.link.files.failed() {
            self.failed(transfer, &why);
        }
        if self.room_at.elapsed() >= ROOM_EVERY {
            self.room_at = Instant::now();
            self.look_for_room();
        }
        let due = self.progress.is_due();
        let (mut held, progress) = (self.done, &self.progress);
        self.link.files.each(|transfer, arriving| {
            let here = arriving.held();
            held += here;
            if due {
                progress.tell(transfer.0, here);
            }
        });
        let left = self.active.len() + self.waiting.len();
        let beside = if self.paused { "paused: disk full" } else { "" };
        let beside = if left > 1 { format!("[{left} files left] {beside}") } else { beside.into() };
        if self.is_busy() {
            self.progress.set(held, beside);
        } else {
            self.progress.end();
        }
    }

    /// A list of a folder comes before the files in it.
    fn is_behind_a_list(&self, offer: &FileOffer) -> bool {
        self.active.values().any(|other| other.from == offer.from && Folders::is_list(other))
    }

    async fn start_next(&mut self) {
        while self.active.len() < AT_A_TIME
            && let Some((_, offer)) = self.waiting.front()
            && !self.is_behind_a_list(offer)
            && let Some((transfer, offer)) = self.waiting.pop_front()
        {
            if self.received.has_file(&offer) {
                self.confirm(transfer, offer).await;
            } else if let Err(why) = self.start(transfer, &offer).await {
                // Left without an answer, it waits for the next session.
                let name = one_line(&offer.name);
                let failure = Failure::new(Exit::CannotWrite, format!("{name}: {why}"));
                self.failures.push(failure);
            }
        }
    }

    /// It is here already: the server did not learn of it.
    async fn confirm(&mut self, transfer: TransferId, offer: FileOffer) {
        let mut have = RangeSet::new();
        have.insert(0..offer.size);
        if self.link.handle.accept_file(transfer, have, offer.size).await.is_ok() {
            self.known.insert(transfer, offer);
        }
    }

    async fn start(&mut self, transfer: TransferId, offer: &FileOffer) -> Result<(), String> {
        let key = key_of(offer);
        let plain = |error: std::io::Error| disk::plain(&error);
        let mut arriving = match self.left.remove(&key) {
            Some(left) => left,
            None => {
                let news = self.hashed.0.clone();
                let told = move |hashed| {
                    // Nobody asks any more once the command ends.
                    let _gone = news.try_send((key, hashed));
                };
                Arriving::open(&self.into.join(PARTS), offer, told).map_err(plain)?
            }
        };
        arriving.expected = None;
        let room = arriving.reserve().map_err(plain)?;
        let (have, held) = (arriving.have().clone(), arriving.held());
        let limit = if room == Room::Enough { offer.size } else { 0 };
        self.link.files.take(transfer, arriving);
        if let Room::Missing { needs, has } = room {
            self.pause(needs, has);
        }
        self.tell_start(transfer, offer, held);
        self.active.insert(transfer, offer.clone());
        let taken = self.link.handle.accept_file(transfer, have, limit).await;
        if taken.is_err() {
            // The session has ended meanwhile; the offer comes again.
            self.ended(transfer, &Err(FileFailure::Interrupted));
        }
        Ok(())
    }

    fn tell_start(&mut self, transfer: TransferId, offer: &FileOffer, held: u64) {
        if held > 0 {
            self.progress.resumed(held);
        }
        if self.common.json {
            print(
                &event("start")
                    .with("transfer", format!("t-{transfer}"))
                    .with("from", offer.from.as_str())
                    .with("name", offer.name.as_str())
                    .with("size", offer.size)
                    .with("held", held),
            );
        } else if held > 0 && !self.common.quiet {
            let (name, size) = (one_line(&offer.name), bytes(offer.size));
            self.progress.say(&format!("{name}: {} of {size} are here already", bytes(held)));
        }
    }

    fn pause(&mut self, needs: u64, has: u64) {
        if !self.paused && self.common.json {
            print(&event("paused").with("why", "disk_full").with("needs", needs).with("has", has));
        } else if !self.paused {
            let shown = self.into.display();
            let (needs, has) = (bytes(needs), bytes(has));
            self.progress.say(&format!("paused: disk full at {shown} (needs {needs}, has {has})"));
        }
        self.paused = true;
    }

    fn look_for_room(&mut self) {
        let (mut paused, mut ready) = (false, Vec::new());
        self.link.files.each(|transfer, arriving| {
            if arriving.waits_for_room {
                match arriving.reserve() {
                    Ok(Room::Enough) => ready.push((transfer, arriving.offer.size)),
                    Ok(Room::Missing { .. }) | Err(_) => paused = true,
                }
            }
        });
        for (transfer, limit) in ready {
            self.link.handle.raise_file_limit(transfer, limit);
        }
        self.paused = paused;
    }

    fn take_digests(&mut self) {
        while let Ok((key, hashed)) = self.hashed.1.try_recv() {
            // What can't be read is not right.
            let found = hashed.unwrap_or([0; 32]);
            if let Some(left) = self.left.get_mut(&key) {
                left.found = Some(found);
            }
            self.link.files.each(|_, arriving| {
                if key_of(&arriving.offer) == key {
                    arriving.found = Some(found);
                }
            });
        }
    }

    /// Decides over those that are whole and hashed.
    async fn judge(&mut self) {
        let mut ready = Vec::new();
        self.link.files.each(|transfer, arriving| {
            ready.extend(arriving.verdict().map(|right| (transfer, right)));
        });
        for (transfer, right) in ready {
            let Some(arriving) = self.link.files.taken(transfer) else { continue };
            self.active.remove(&transfer);
            let offer = arriving.offer.clone();
            if right {
                let sha256 = arriving.found.unwrap_or_default();
                self.place(transfer, &offer, sha256, arriving).await;
            } else {
                // What lies there is worth nothing.
                let _left = arriving.into_incoming().discard();
                self.link.handle.file_checked(transfer, Err(FileError::Hash));
                let what = format!(
                    "{}: it arrived damaged; the server offers it again",
                    one_line(&offer.name)
                );
                self.progress.say(&what);
            }
        }
    }

    async fn place(
        &mut self,
        transfer: TransferId,
        offer: &FileOffer,
        sha256: [u8; 32],
        arriving: Arriving,
    ) {
        let (name, incoming) = (offer.name.clone(), arriving.into_incoming());
        let folder = self.folders.folder_for(offer, &incoming);
        let place = self.received.place();
        let note = folder.as_ref().map(|folder| self.folders.receipt(folder, &place));
        let note = note.unwrap_or_default();
        let placed = smol::unblock(move || incoming.place(&folder?, &name, &note)).await;
        let (path, receipt) = match placed {
            Ok(placed) => placed,
            Err(error) => {
                self.link.handle.file_checked(transfer, Err(FileError::Disk));
                let name = one_line(&offer.name);
                let what = format!("{name} can't be put into place: {}", disk::plain(&error));
                self.failures.push(Failure::new(Exit::CannotWrite, what));
                return;
            }
        };
        let folder = self.folders.placed(offer, &path).unwrap_or_else(|failure| {
            self.failures.push(failure);
            None
        });
        // After that: a list that is known has its folder.
        if self.received.note_file(&offer.from, &offer.id) {
            receipt.noted();
            self.folders.settle();
        }
        self.link.handle.file_checked(transfer, Ok(()));
        self.done += offer.size;
        self.taken += 1;
        self.tell_done(transfer, offer, &sha256, folder.as_deref().unwrap_or(&path));
    }

    fn tell_done(&self, transfer: TransferId, offer: &FileOffer, sha256: &[u8; 32], path: &Path) {
        if self.refuses {
            self.tell_refused(offer);
            return;
        }
        let shown = path.display().to_string();
        if self.common.json {
            print(
                &event("done")
                    .with("transfer", format!("t-{transfer}"))
                    .with("from", offer.from.as_str())
                    .with("name", offer.name.as_str())
                    .with("size", offer.size)
                    .with("path", shown.as_str())
                    .with("sha256", hex(sha256))
                    .with("verified", true),
            );
        } else if !self.common.quiet {
            let (from, size) = (&offer.from, bytes(offer.size));
            let shown = one_line(&shown);
            self.progress
                .say(&format!("{shown}  {size} from {from}, sha256 {} verified", hex(sha256)));
        }
    }

    fn ended(&mut self, transfer: TransferId, result: &Result<(), FileFailure>) {
        self.waiting.retain(|(other, _)| *other != transfer);
        self.known.remove(&transfer);
        self.active.remove(&transfer);
        let Some(mut arriving) = self.link.files.taken(transfer) else { return };
        if let Err(FileFailure::Cancelled(reason)) = result {
            let name = one_line(&arriving.offer.name);
            self.progress.say(&format!("{name}: cancelled: {}", one_line(reason)));
            // What lies there is worth nothing any more.
            let _left = arriving.into_incoming().discard();
            return;
        }
        if let Ok(checkpoint) = arriving.checkpoint() {
            smol::unblock(|| drop(checkpoint.save())).detach();
        }
        self.left.insert(key_of(&arriving.offer), arriving);
    }

    /// The disk failed while a file was written: what is there is kept.
    fn failed(&mut self, transfer: TransferId, why: &str) {
        self.active.remove(&transfer);
        if let Some(arriving) = self.link.files.taken(transfer) {
            let what = format!("{}: {why}", one_line(&arriving.offer.name));
            self.failures.push(Failure::new(Exit::CannotWrite, what));
        }
    }

    /// Makes durable what is here; how many files are not whole.
    pub(super) fn stop(&mut self) -> usize {
        self.progress.end();
        self.link.files.save_all();
        self.folders.settle();
        self.active.len() + self.waiting.len() + self.left.len()
    }
}
