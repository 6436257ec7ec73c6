//! From a datagram to the session it belongs to, cheapest test first (PROTOCOL 3).

use super::Server;
use crate::error::DropReason;
use crate::id::SessionId;
use crate::limits::DATAGRAM_BASE;
use crate::ops::Chunk;
use crate::session::{Batch, ChunkAt, Context, datagram_hash};
use crate::time::Now;
use crate::transport::epochs::Found;
use crate::transport::path::Path;
use crate::wire::header::{Header, PacketType};
use crate::wire::message::FileError;
use core::net::SocketAddr;

impl Server {
    /// Input: a datagram arrived by `path`. It is decrypted in place. Nothing that the network sends
    /// is an error: what does not open is dropped in silence, and counted. The bytes of a file that it
    /// brought stay where they are.
    pub fn handle_datagram<'d>(
        &mut self,
        now: Now,
        path: Path,
        datagram: &'d mut [u8],
    ) -> Option<Chunk<'d>> {
        let taken = self.route(now, path, datagram);
        self.chunk(now, path, taken, datagram)
    }

    /// Input: datagrams that arrived together by `path`, of `stride` bytes each, the last of which may be
    /// shorter: the same as one after another, with less work for each (PROTOCOL 3). `store` is given the
    /// bytes of files; false ends the transfer.
    pub fn handle_batch(
        &mut self,
        now: Now,
        path: Path,
        datagrams: &mut [u8],
        stride: usize,
        mut store: impl FnMut(&Chunk<'_>) -> bool,
    ) {
        let stride = stride.max(1);
        for group in datagrams.chunks_mut(stride.saturating_mul(Batch::MOST)) {
            let known = self.known_batch(path, group, stride);
            for (index, datagram) in group.chunks_mut(stride).enumerate() {
                let found = known.and_then(|id| {
                    let (header, found) =
                        self.batch.found(&self.sessions.get(id)?.session, index)?;
                    Some((id, header, found))
                });
                let taken = match found {
                    Some((id, header, found)) => {
                        self.deliver(now, path, id, &header, found, datagram)
                    }
                    None => self.route(now, path, datagram),
                };
                if let Some(chunk) = self.chunk(now, path, taken, datagram)
                    && !store(&chunk)
                {
                    let transfer = chunk.transfer;
                    self.file_checked(now, transfer, Err(FileError::Disk));
                }
            }
        }
    }

    /// The session that the first datagram of a batch is for, which is asked about all of them.
    fn known_batch(&mut self, path: Path, datagrams: &[u8], stride: usize) -> Option<SessionId> {
        if !self.ports.reads(path.port) {
            return None;
        }
        let header = *self.batch.read(datagrams, stride)?;
        let (id, _) = self.known_at(path.remote, &header)?;
        self.batch.ask(&self.sessions.get(id)?.session);
        Some(id)
    }

    /// The bytes of a file that a datagram brought, if it did.
    fn chunk<'d>(
        &mut self,
        now: Now,
        path: Path,
        taken: Result<Option<(SessionId, ChunkAt)>, DropReason>,
        datagram: &'d [u8],
    ) -> Option<Chunk<'d>> {
        match taken {
            Ok(chunk) => {
                let (id, ChunkAt { count, offset, at }) = chunk?;
                let transfer = self.files.of_chunk(id, count)?;
                Some(Chunk { transfer, offset, bytes: datagram.get(at)? })
            }
            Err(reason) => {
                self.dropped(now, path, reason);
                None
            }
        }
    }

    fn route(
        &mut self,
        now: Now,
        path: Path,
        datagram: &mut [u8],
    ) -> Result<Option<(SessionId, ChunkAt)>, DropReason> {
        if !self.ports.reads(path.port) {
            return Err(DropReason::Port);
        }
        let header = Header::decode(datagram).ok_or(DropReason::Header)?;
        if let Some((id, found)) = self.known_at(path.remote, &header) {
            return self.deliver(now, path, id, &header, found, datagram);
        }
        let address = path.remote.ip();
        if !self.trials.allow(now.mono, address) {
            return Err(DropReason::Budget);
        }
        let fits = self
            .sessions
            .iter()
            .find_map(|(id, entry)| entry.session.recognise(&header).map(|found| (id, found)));
        if let Some((id, found)) = fits {
            return self.deliver(now, path, id, &header, found, datagram);
        }
        if header.kind == PacketType::Compromised && self.repeat_ack(path, datagram) {
            return Ok(None);
        }
        if header.kind == PacketType::KeyRotation
            && datagram.len() == DATAGRAM_BASE
            && let Some((secret, nonce)) =
                self.credentials.recognise(&header, || self.trials.allow_retired(now.mono))
        {
            return self.take_hello(now, path, secret, nonce, &header, datagram).map(|()| None);
        }
        self.trials.charge(now.mono, address);
        Err(DropReason::NoKey)
    }

    /// The session at an address that a datagram is for. Never more are tried than are established at
    /// that very address: whoever adds to them gave a `switch` of his own for it.
    fn known_at(&self, remote: SocketAddr, header: &Header) -> Option<(SessionId, Found)> {
        let mut all = self.sessions.at(remote);
        all.find_map(|(id, entry)| Some((id, entry.session.recognise(header)?)))
    }

    fn deliver(
        &mut self,
        now: Now,
        path: Path,
        id: SessionId,
        header: &Header,
        found: Found,
        datagram: &mut [u8],
    ) -> Result<Option<(SessionId, ChunkAt)>, DropReason> {
        let hash = (header.kind == PacketType::Compromised).then(|| datagram_hash(datagram));
        let entry = self.sessions.get_mut(id).ok_or(DropReason::NoKey)?;
        let mut cx = Context { now, random: &mut self.random };
        let taken = entry.session.handle_datagram(&mut cx, path, header, found, datagram);
        if let Some(hash) = hash {
            entry.session.note_signal(hash);
        }
        // What did not open has changed nothing.
        if taken.is_ok() && entry.is_quiet() {
            self.schedule.touch(id);
        } else if taken.is_ok() || entry.session.is_over() {
            self.drain(now, id);
        }
        taken.map(|chunk| Some((id, chunk?)))
    }

    /// A copy of a signal already acknowledged draws the same ack (PROTOCOL 7).
    fn repeat_ack(&mut self, path: Path, datagram: &[u8]) -> bool {
        let mut hash = None;
        for (id, entry) in self.sessions.iter_mut().filter(|(_, entry)| entry.session.echoes()) {
            let hash = hash.get_or_insert_with(|| datagram_hash(datagram));
            if entry.session.is_copy_of_signal(path, hash) {
                self.schedule.touch(id);
                return true;
            }
        }
        false
    }
}
