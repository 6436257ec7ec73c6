//! What hosts do with files, sooner or later.

use super::host::{Arriving, Held, Hosted, Reading, Sending, bytes, key};
use super::sha256;
use crate::lazy::{self, Machine};
use crate::oracle::{Verdict, Who};
use crate::world::{Happening, Process, World};
use clawchat_core::error::SendError;
use clawchat_core::id::{ChatId, TransferId};
use clawchat_core::ops::{Chunk, FileFailure};
use clawchat_core::ranges::RangeSet;
use clawchat_core::server::StoredFile;
use clawchat_core::wire::message::{FileError, FileOffer, SERVER_MEMBER};
use clawchat_core::{client, server};

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// Takes or refuses an offer.
    Answer(TransferId, FileOffer),
    /// Lets more come.
    More(TransferId),
    /// Compares the hash. At the server this makes the file durable.
    Check(TransferId, [u8; 32], Option<Box<StoredFile>>),
    /// Says what came of it.
    Tell(TransferId, Result<Option<Box<StoredFile>>, FileError>),
    /// Hashes a file of ours.
    Digest(TransferId),
    /// Ends a transfer.
    Cancel(TransferId, &'static str),
    /// Offers a file that is on the disk.
    Offer(ChatId),
}

/// Nobody lives so long, microseconds.
const NEVER: u64 = u64::MAX / 2;
/// More of a file than this is never taken, bytes.
const ENDLESS: u64 = 1 << 32;

impl World {
    /// Plans a deed of a host.
    pub(crate) fn plan_deed(&mut self, who: Who, deed: Deed) {
        let faults = self.files.faults;
        let wait = if self.rng.chance(faults.never) {
            self.fault("host that never acts");
            NEVER
        } else if self.rng.chance(faults.slow) {
            self.rng.range(100_000..=8_000_000)
        } else {
            self.rng.range(0..=20_000)
        };
        self.push_deed(who, self.now() + wait, deed);
    }

    fn push_deed(&mut self, who: Who, at: u64, deed: Deed) {
        let run = self.server.run;
        self.push(at, Happening::File { who, run, deed });
    }

    /// Whatever was never done is done now, and what was put off until the end of a long sleep.
    pub(crate) fn wake_hosts(&mut self, sleepers: &[Who]) {
        let mut late = self.take_deeds_after(NEVER, |_| true);
        late.extend(self.take_deeds_after(self.now() + 2, |who| sleepers.contains(&who)));
        for (who, run, deed) in late {
            let at = self.now() + self.rng.range(1..=1_000_000);
            self.push(at, Happening::File { who, run, deed });
        }
    }

    /// Does a deed, if its host still runs.
    pub(crate) fn do_deed(&mut self, who: Who, run: u32, deed: Deed) {
        match who {
            Who::Server if run != self.server.run || !self.server_is_up() => return,
            Who::Client(process) if !self.client(process).runs() => return,
            Who::Client(process) if self.client(process).sleeps(self.now()) => {
                let at = self.client(process).asleep_until;
                self.push_deed(who, at, deed);
                return;
            }
            Who::Server | Who::Client(_) => {}
        }
        match deed {
            Deed::Answer(transfer, offer) => self.answer(who, transfer, offer),
            Deed::More(transfer) => self.let_more_come(who, transfer),
            Deed::Check(transfer, digest, stored) => self.compare(who, transfer, &digest, stored),
            Deed::Tell(transfer, result) => self.tell_checked(who, transfer, result),
            Deed::Digest(transfer) => {
                if let Who::Client(process) = who
                    && let Some((_, id, size)) =
                        self.client(process).files.outgoing.get(&transfer).cloned()
                {
                    let digest = sha256(id, size);
                    self.with_client(process, |c, now| c.file_digest(now, transfer, digest));
                }
            }
            Deed::Cancel(transfer, reason) => self.cancel_file(who, transfer, reason),
            Deed::Offer(id) => {
                if let Who::Client(process) = who {
                    self.offer_again(process, id);
                }
            }
        }
    }

    fn member_of(&self, who: Who) -> String {
        match who {
            Who::Server => SERVER_MEMBER.to_string(),
            Who::Client(process) => self.client(process).member.clone(),
        }
    }

    fn hosted(&mut self, who: Who) -> &mut Hosted {
        match who {
            Who::Server => &mut self.server.files,
            Who::Client(process) => &mut self.client_mut(process).files,
        }
    }

    fn held(&mut self, who: Who) -> &mut Held {
        match who {
            Who::Server => &mut self.files.server,
            Who::Client(process) => {
                let member = self.client(process).member.clone();
                &mut self.files.members.entry(member).or_default().held
            }
        }
    }

    /// Bytes that came with a datagram are written before anything else happens.
    pub(crate) fn write_chunk(&mut self, who: Who, chunk: &Chunk<'_>) {
        let (hosted, held) = match who {
            Who::Server => (&mut self.server.files, &mut self.files.server),
            Who::Client(Process(index)) => {
                let node = &mut self.clients[index];
                let disk = self.files.members.entry(node.member.clone()).or_default();
                (&mut node.files, &mut disk.held)
            }
        };
        let verdict = hosted.write(&mut self.oracles.files, held, &mut self.rng, chunk);
        self.oracles.judge(verdict);
        if self.rng.chance(self.files.faults.write / 50) {
            self.fault("failed write");
            let result = Err(FileError::Disk);
            self.push_deed(who, self.now(), Deed::Tell(chunk.transfer, result));
        }
    }

    // Sending.

    /// A member's user sends a file.
    ///
    /// # Errors
    /// What the client says.
    pub fn send_file(
        &mut self,
        process: Process,
        to: &str,
        size: u64,
    ) -> Result<ChatId, SendError> {
        let from = self.client(process).member.clone();
        let id = ChatId(self.rng.seed()[..16].try_into().unwrap_or_default());
        self.files.serial += 1;
        let name = format!("file {}.bin", self.files.serial);
        let mut recipients = self.recipients(&from, to);
        recipients.retain(|name| name != SERVER_MEMBER);
        self.oracles.files.sent(&from, id, (&name, size, to), recipients);
        let disk = self.files.members.entry(from.clone()).or_default();
        disk.sending.insert(id, Sending { to: to.to_string(), name, size });
        let offered = self.offer_again(process, id).unwrap_or(Err(SendError::Closed));
        if let Err(error) = offered {
            self.drop_sending(&from, id);
            return Err(error);
        }
        Ok(id)
    }

    fn offer_again(
        &mut self,
        process: Process,
        id: ChatId,
    ) -> Option<Result<TransferId, SendError>> {
        let member = self.client(process).member.clone();
        let Sending { to, name, size } = self.files.members.get(&member)?.sending.get(&id)?.clone();
        if self.client(process).files.outgoing.values().any(|(_, known, _)| *known == id) {
            return None;
        }
        let offered =
            self.with_client(process, |client, now| client.offer_file(now, id, &to, &name, size))?;
        if let Ok(transfer) = offered {
            self.client_mut(process).files.outgoing.insert(transfer, (member, id, size));
        }
        Some(offered)
    }

    /// A new process offers what its member sends.
    pub(crate) fn offer_all(&mut self, process: Process) {
        let member = self.client(process).member.clone();
        let Some(disk) = self.files.members.get(&member) else { return };
        for id in disk.sending.keys().copied().collect::<Vec<_>>() {
            self.push_deed(Who::Client(process), self.now() + 1, Deed::Offer(id));
        }
    }

    fn drop_sending(&mut self, member: &str, id: ChatId) {
        self.oracles.files.given_up(member, id);
        if let Some(disk) = self.files.members.get_mut(member) {
            disk.sending.remove(&id);
        }
    }

    /// Sends what machines want to send of files. Whether anything was.
    pub(crate) fn send_files(&mut self, who: Who) -> bool {
        let (fails, now) = (self.files.faults.read, self.now());
        let taken = match who {
            Who::Server => {
                let node = &mut self.server;
                let Some(host) = &mut node.host else { return false };
                let (now, rng) = (host.clock.at(now), &mut self.rng);
                let mut read = |want: &_| node.files.read(want, rng, fails);
                lazy::chunks(&mut host.machine, now, &mut read, &mut self.out)
            }
            Who::Client(Process(index)) => {
                let node = &mut self.clients[index];
                let Some(host) = &mut node.host else { return false };
                let (now, rng) = (host.clock.at(now), &mut self.rng);
                let mut read = |want: &_| node.files.read(want, rng, fails);
                lazy::chunks(&mut host.machine, now, &mut read, &mut self.out)
            }
        };
        self.chunks_taken(who, taken)
    }

    /// The same by a driver that is late.
    pub(crate) fn send_some_files(&mut self, who: Who) -> bool {
        let (fails, now) = (self.files.faults.read, self.now());
        let taken = match who {
            Who::Server => {
                let node = &mut self.server;
                let Some(host) = &mut node.host else { return false };
                let (now, Some(lazy)) = (host.clock.at(now), &mut host.lazy) else { return false };
                let rng = &mut self.rng;
                let mut read = |want: &_| node.files.read(want, rng, fails);
                let out = &mut self.out;
                lazy::some_chunks(&mut host.machine, now, lazy, &mut host.want, &mut read, out)
            }
            Who::Client(Process(index)) => {
                let node = &mut self.clients[index];
                let Some(host) = &mut node.host else { return false };
                let (now, Some(lazy)) = (host.clock.at(now), &mut host.lazy) else { return false };
                let rng = &mut self.rng;
                let mut read = |want: &_| node.files.read(want, rng, fails);
                let out = &mut self.out;
                lazy::some_chunks(&mut host.machine, now, lazy, &mut host.want, &mut read, out)
            }
        };
        self.chunks_taken(who, taken)
    }

    fn chunks_taken(&mut self, who: Who, taken: lazy::Taken) -> bool {
        let lazy::Taken { datagrams, more, failed, complaint } = taken;
        let sent = !datagrams.is_empty();
        for (path, datagram) in datagrams {
            match who {
                Who::Server => self.server_sends(path, datagram),
                Who::Client(process) => self.client_sends(process, path, datagram),
            }
        }
        if let Some(transfer) = failed {
            self.fault("failed read");
            self.hosted(who).unreadable.insert(transfer);
            self.push_deed(who, self.now(), Deed::Cancel(transfer, "it can't be read"));
        }
        if let Some(complaint) = complaint {
            self.fail(&complaint);
        }
        sent || more
    }

    /// Whether a machine wants nothing of its host that the host could give.
    pub(crate) fn wants_nothing(&mut self, who: Who) -> bool {
        let now = self.now();
        match who {
            Who::Server => {
                let Some(host) = &mut self.server.host else { return true };
                let want = host.machine.want(host.clock.at(now));
                want.is_none_or(|want| !self.server.files.can_read(want.transfer))
            }
            Who::Client(Process(index)) => {
                let Some(host) = &mut self.clients[index].host else { return true };
                let want = host.machine.want(host.clock.at(now));
                want.is_none_or(|want| !self.clients[index].files.can_read(want.transfer))
            }
        }
    }

    // Taking.

    fn answer(&mut self, who: Who, transfer: TransferId, offer: FileOffer) {
        let (key, member) = (key(&offer), self.member_of(who));
        let size = offer.size;
        let disk = self.files.members.get(&member);
        let whole = match who {
            Who::Server => self.disk.has_file(&offer.from, offer.id),
            Who::Client(_) => disk.is_some_and(|disk| disk.finished.contains(&key)),
        };
        // One of petabytes whose beginning was forgotten would never end.
        let endless = !whole && size - bytes(&self.held(who).of(&key)) > ENDLESS;
        let disk = self.files.members.get(&member);
        let unwanted = endless || disk.is_some_and(|disk| disk.refused.contains(&key));
        if unwanted || self.rng.chance(self.files.faults.refuse) {
            self.fault("refused file");
            self.cancel_file(who, transfer, "it is not wanted");
            self.note_refused(who, &offer);
            return;
        }
        let mut have = self.held(who).of(&key);
        if whole {
            have.insert(0..size);
        }
        let holds = !whole && self.rng.chance(self.files.faults.hold);
        let limit = if holds { self.rng.below(size + 1) } else { size };
        let taken = self.accept(who, transfer, &have, limit);
        match taken {
            Ok(()) => {
                let arriving = Arriving { offer, limit, have, wrong: false };
                self.hosted(who).arriving.insert(transfer, arriving);
                if limit < size {
                    self.plan_deed(who, Deed::More(transfer));
                }
            }
            Err(SendError::WindowFull) => {
                let at = self.now() + 500_000;
                self.push_deed(who, at, Deed::Answer(transfer, offer));
            }
            Err(_) => {}
        }
    }

    /// The arrival is noted before what follows from the command: a datagram can't come in between.
    fn accept(
        &mut self,
        who: Who,
        transfer: TransferId,
        have: &RangeSet,
        limit: u64,
    ) -> Result<(), SendError> {
        let taken = match who {
            Who::Server => {
                self.with_server(|server, now| server.accept_file(now, transfer, have, limit))
            }
            Who::Client(process) => self
                .with_client(process, |client, now| client.accept_file(now, transfer, have, limit)),
        };
        taken.unwrap_or(Err(SendError::Closed))
    }

    fn note_refused(&mut self, who: Who, offer: &FileOffer) {
        match who {
            Who::Server => self.oracles.files.given_up(&offer.from, offer.id),
            Who::Client(process) => {
                let member = self.client(process).member.clone();
                self.oracles.files.refused(&member, &offer.from, offer.id);
                self.files.members.entry(member).or_default().refused.insert(key(offer));
            }
        }
    }

    fn let_more_come(&mut self, who: Who, transfer: TransferId) {
        let calm = self.files.faults == super::FileFaults::default();
        let step = self.rng.below(200_000);
        let Some(arriving) = self.hosted(who).arriving.get_mut(&transfer) else { return };
        let size = arriving.offer.size;
        let limit = if calm { size } else { (arriving.limit + 1 + step).min(size) };
        arriving.limit = arriving.limit.max(limit);
        let raised = match who {
            Who::Server => {
                self.with_server(|server, now| server.raise_file_limit(now, transfer, limit))
            }
            Who::Client(process) => self
                .with_client(process, |client, now| client.raise_file_limit(now, transfer, limit)),
        };
        match raised {
            Some(Ok(())) if limit < size => self.plan_deed(who, Deed::More(transfer)),
            Some(Err(SendError::WindowFull)) => {
                self.push_deed(who, self.now() + 500_000, Deed::More(transfer));
            }
            _ => {}
        }
    }

    /// The hash is known: at the server a right file is durable from here on.
    fn compare(
        &mut self,
        who: Who,
        transfer: TransferId,
        digest: &[u8; 32],
        stored: Option<Box<StoredFile>>,
    ) {
        let Some(arriving) = self.hosted(who).arriving.remove(&transfer) else { return };
        let (offer, wrong) = (arriving.offer.clone(), arriving.wrong);
        let right = *digest == sha256(offer.id, offer.size) && !wrong;
        let result = if !right {
            Err(FileError::Hash)
        } else if self.rng.chance(self.files.faults.write) {
            self.fault("failed write");
            Err(FileError::Disk)
        } else {
            Ok(stored)
        };
        let held = key(&offer);
        match &result {
            Ok(stored) => {
                self.held(who).forget(&held);
                let member = self.member_of(who);
                if let Some(stored) = stored {
                    self.disk.keep_file((**stored).clone());
                } else {
                    self.oracles.files.finished(&member, &offer.from, offer.id);
                    self.files.members.entry(member).or_default().finished.insert(held);
                }
            }
            Err(FileError::Hash) => self.held(who).forget(&held),
            Err(_) => self.held(who).put(held, arriving.have),
        }
        self.plan_deed(who, Deed::Tell(transfer, result));
    }

    fn tell_checked(
        &mut self,
        who: Who,
        transfer: TransferId,
        result: Result<Option<Box<StoredFile>>, FileError>,
    ) {
        if result.is_err() {
            let member = self.member_of(who);
            self.files.disappointed.insert(member);
            if let Some(arriving) = self.hosted(who).arriving.remove(&transfer) {
                let (key, have) = (key(&arriving.offer), arriving.have);
                self.held(who).put(key, have);
            }
        }
        match who {
            Who::Server => {
                let result = match result {
                    Ok(None) => return,
                    Ok(Some(stored)) => Ok(*stored),
                    Err(error) => Err(error),
                };
                self.with_server(|server, now| server.file_checked(now, transfer, result));
            }
            Who::Client(process) => {
                let result = result.map(|_| ());
                self.with_client(process, |client, now| client.file_checked(now, transfer, result));
            }
        }
    }

    /// Ends a transfer, whoever offered it.
    pub(crate) fn cancel_file(&mut self, who: Who, transfer: TransferId, reason: &str) {
        let hosted = self.hosted(who);
        let outgoing = hosted.outgoing.remove(&transfer);
        let arriving = hosted.arriving.remove(&transfer);
        match (who, outgoing, arriving) {
            (Who::Client(_), Some((from, id, _)), _) => self.drop_sending(&from, id),
            (Who::Server, Some((_, _, _)), _) => {
                let members = self.files.members.keys().cloned().collect::<Vec<_>>();
                self.files.disappointed.extend(members);
            }
            (_, None, Some(Arriving { offer, .. })) => {
                self.note_refused(who, &offer);
                self.held(who).forget(&key(&offer));
            }
            (_, None, None) => {}
        }
        match who {
            Who::Server => {
                self.with_server(|server, now| server.cancel_file(now, transfer, reason));
            }
            Who::Client(process) => {
                self.with_client(process, |client, now| client.cancel_file(now, transfer, reason));
            }
        }
    }

    /// Somebody ends one of a host's transfers.
    pub(crate) fn cancel_any(&mut self, who: Who) {
        let hosted = self.hosted(who);
        let all = hosted.outgoing.keys().chain(hosted.arriving.keys()).copied();
        let all: Vec<_> = all.collect();
        if let Some(transfer) = self.rng.pick(&all).copied() {
            self.fault("cancelled file");
            self.cancel_file(who, transfer, "changed my mind");
        }
    }

    // What machines tell.

    /// The server tells something about a file.
    pub(crate) fn server_tells_of_file(&mut self, event: &server::Event) -> Verdict {
        let who = Who::Server;
        match event {
            server::Event::FileOffered { transfer, offer, .. } => {
                self.plan_deed(who, Deed::Answer(*transfer, offer.clone()));
                self.oracles.files.offered(None, offer)
            }
            server::Event::FileComplete { transfer, file } => {
                let arriving = self.server.files.arriving.get(transfer);
                let whole = arriving.is_none_or(Arriving::is_whole);
                let stored = Some(Box::new(file.clone()));
                self.plan_deed(who, Deed::Check(*transfer, file.sha256, stored));
                self.oracles.files.complete(&file.offer, whole, &file.sha256)
            }
            server::Event::FileSending { transfer, offer, to, .. } => {
                self.server.files.outgoing.insert(*transfer, key(offer));
                self.oracles.files.offered(Some(to), offer)
            }
            server::Event::FileEnded { transfer, .. } => {
                self.server.files.outgoing.remove(transfer);
                self.arrival_ended(who, *transfer);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn arrival_ended(&mut self, who: Who, transfer: TransferId) {
        let Some(arriving) = self.hosted(who).arriving.remove(&transfer) else { return };
        // Whatever ended it: the server cancels too what it can't read now, and offers again.
        self.held(who).put(key(&arriving.offer), arriving.have);
    }

    /// A client tells something about a file.
    pub(crate) fn client_tells_of_file(
        &mut self,
        process: Process,
        event: &client::Event,
    ) -> Verdict {
        let who = Who::Client(process);
        match event {
            client::Event::FileOffered { transfer, offer } => {
                self.plan_deed(who, Deed::Answer(*transfer, offer.clone()));
                let member = self.client(process).member.clone();
                self.oracles.files.offered(Some(&member), offer)
            }
            client::Event::FileAccepted { transfer, .. } => {
                self.plan_deed(who, Deed::Digest(*transfer));
                Ok(())
            }
            client::Event::FileComplete { transfer, sha256 } => {
                let arriving = self.client(process).files.arriving.get(transfer);
                let complaint = arriving.map_or(Ok(()), |arriving| {
                    self.oracles.files.complete(&arriving.offer, arriving.is_whole(), sha256)
                });
                self.plan_deed(who, Deed::Check(*transfer, *sha256, None));
                complaint
            }
            client::Event::FileEnded { transfer, result } => {
                self.arrival_ended(who, *transfer);
                self.sending_ended(process, *transfer, result)
            }
            client::Event::Connected { .. } => {
                // What could not be offered while it was closed.
                self.offer_all(process);
                Ok(())
            }
            client::Event::Compromised { .. } => {
                self.client_mut(process).files = Hosted::default();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What became of a file of ours.
    fn sending_ended(
        &mut self,
        process: Process,
        transfer: TransferId,
        result: &Result<(), FileFailure>,
    ) -> Verdict {
        let outgoing = self.client_mut(process).files.outgoing.remove(&transfer);
        let Some((from, id, _)) = outgoing else { return Ok(()) };
        match result {
            Ok(()) => {
                if let Some(disk) = self.files.members.get_mut(&from) {
                    disk.sending.remove(&id);
                }
                super::Files::told_done(&from, id, self.disk.has_file(&from, id))
            }
            Err(FileFailure::Checked(FileError::Disk)) => {
                let at = self.now() + self.rng.range(1_000_000..=10_000_000);
                self.push_deed(Who::Client(process), at, Deed::Offer(id));
                Ok(())
            }
            Err(FileFailure::Cancelled(_)) => {
                self.drop_sending(&from, id);
                Ok(())
            }
            Err(other) => Err(format!("oracle 13: file {id} of {from} ended with {other:?}")),
        }
    }

    /// Members whose files the server offers again only in another session.
    pub(crate) fn reconnect_disappointed(&mut self) {
        for member in core::mem::take(&mut self.files.disappointed) {
            if let Some(process) = self.living(&member) {
                self.crash_client(process);
            }
        }
    }

    /// How many bytes of a file somebody has, or would have after a crash.
    pub fn file_bytes(&self, who: Who, from: &str, id: ChatId, size: u64) -> u64 {
        let key = (from.to_string(), id, size);
        let (hosted, held) = match who {
            Who::Server if self.disk.has_file(from, id) => return size,
            Who::Server => (&self.server.files, Some(&self.files.server)),
            Who::Client(process) => {
                let node = self.client(process);
                if self.oracles.files.is_finished(&node.member, from, id) {
                    return size;
                }
                (&node.files, self.files.members.get(&node.member).map(|disk| &disk.held))
            }
        };
        let arriving = hosted.arriving.values().filter(|arriving| arriving.offer.id == id);
        let arriving = arriving.map(|arriving| bytes(&arriving.have)).max();
        arriving.unwrap_or(0).max(held.map_or(0, |held| held.bytes(&key)))
    }

    /// A huge file of which all but the end is there already, wherever it goes.
    pub(crate) fn send_end_of_file(
        &mut self,
        process: Process,
        to: &str,
        (size, missing): (u64, u64),
    ) -> Result<ChatId, SendError> {
        let id = self.send_file(process, to, size)?;
        let from = self.client(process).member.clone();
        let (key, mut have) = ((from.clone(), id, size), RangeSet::new());
        have.insert(0..size - missing);
        self.files.server.put(key.clone(), have.clone());
        for member in self.recipients(&from, to) {
            let disk = self.files.members.entry(member).or_default();
            disk.held.put(key.clone(), have.clone());
        }
        Ok(id)
    }

    /// Whether every file that must arrive has, and nothing is kept for anybody.
    ///
    /// # Errors
    /// A complaint about one that has not.
    pub fn files_complete(&self) -> Verdict {
        let readers = self.processes().filter(|(_, node)| node.lives());
        let readers = readers.map(|(_, node)| node.member.clone()).collect();
        let kept = |from: &str, id| self.disk.has_file(from, id);
        self.oracles.files.all_there(kept, &readers)?;
        let kept = self.server_machine().into_iter().flat_map(server::Server::kept_files);
        for stored in kept {
            let waits = stored.to.iter().find(|name| !self.oracles.files.is_exempt(name));
            if let Some(name) = waits {
                let offer = &stored.offer;
                return Err(format!("oracle 13: {offer:?} is still kept for {name}"));
            }
        }
        Ok(())
    }
}

/// Reads for a machine.
pub(crate) type Reader<'r> =
    &'r mut dyn FnMut(&clawchat_core::ops::Want) -> Result<Reading, String>;
