//! From a datagram to the session, or to the search for one (PROTOCOL 3, 6).

use super::search;
use super::{Client, State};
use crate::error::DropReason;
use crate::ops::Chunk;
use crate::session::{Batch, ChunkAt, Context, Number, datagram_hash};
use crate::time::Now;
use crate::transport::epochs::Found;
use crate::transport::path::Path;
use crate::wire::header::{Header, PacketType};
use crate::wire::message::FileError;

impl Client {
    /// Input: a datagram arrived by `path`. It is decrypted in place; what does not open is dropped in
    /// silence, and counted. The bytes of a file that it brought stay where they are.
    pub fn handle_datagram<'d>(
        &mut self,
        now: Now,
        path: Path,
        datagram: &'d mut [u8],
    ) -> Option<Chunk<'d>> {
        let taken = self.route(now, path, datagram);
        self.chunk(taken, datagram)
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
            let known = self.know_batch(path, group, stride);
            for (index, datagram) in group.chunks_mut(stride).enumerate() {
                let found = match &self.state {
                    State::InSession(session, _) if known => self.batch.found(session, index),
                    _ => None,
                };
                let taken = match found {
                    Some((header, found)) => self.deliver(now, path, &header, found, datagram),
                    None => self.route(now, path, datagram),
                };
                if let Some(chunk) = self.chunk(taken, datagram)
                    && !store(&chunk)
                {
                    let transfer = chunk.transfer;
                    self.file_checked(now, transfer, Err(FileError::Disk));
                }
            }
        }
    }

    /// Asks the session about all datagrams of a batch; false when there is nothing to ask.
    fn know_batch(&mut self, path: Path, datagrams: &[u8], stride: usize) -> bool {
        let State::InSession(session, _) = &self.state else { return false };
        let ours = self.addresses.contains(&path.remote.ip());
        let known = ours && self.batch.read(datagrams, stride).is_some();
        if known {
            self.batch.ask(session);
        }
        known
    }

    /// The bytes of a file that a datagram brought, if it did.
    fn chunk<'d>(
        &mut self,
        taken: Result<Option<ChunkAt>, DropReason>,
        datagram: &'d [u8],
    ) -> Option<Chunk<'d>> {
        match taken {
            Ok(chunk) => {
                let ChunkAt { count, offset, at } = chunk?;
                let transfer = self.files.of(Number { ours: false, count })?;
                Some(Chunk { transfer, offset, bytes: datagram.get(at)? })
            }
            Err(reason) => {
                self.drops[reason as usize] += 1;
                None
            }
        }
    }

    fn route(
        &mut self,
        now: Now,
        path: Path,
        datagram: &mut [u8],
    ) -> Result<Option<ChunkAt>, DropReason> {
        let header = Header::decode(datagram).ok_or(DropReason::Header)?;
        if !self.addresses.contains(&path.remote.ip()) {
            return Err(DropReason::Address);
        }
        if let State::Wiped(Some(session)) = &mut self.state {
            let copy = session.is_copy_of_signal(path, &datagram_hash(datagram));
            return if copy { Ok(None) } else { Err(DropReason::NoKey) };
        }
        match &mut self.state {
            State::Searching(search) => {
                let message = search.read(&header, datagram)?;
                if !search::is_reply(&message) {
                    return Err(DropReason::EpochZero);
                }
                self.found(now, path, message);
                Ok(None)
            }
            State::InSession(session, _) => {
                let found = session.recognise(&header).ok_or(DropReason::NoKey)?;
                self.deliver(now, path, &header, found, datagram)
            }
            State::Binding | State::Waiting(_) | State::Wiped(_) | State::Closed => {
                Err(DropReason::Ending)
            }
        }
    }

    /// A datagram that the session knows.
    fn deliver(
        &mut self,
        now: Now,
        path: Path,
        header: &Header,
        found: Found,
        datagram: &mut [u8],
    ) -> Result<Option<ChunkAt>, DropReason> {
        let State::InSession(session, _) = &mut self.state else { return Err(DropReason::NoKey) };
        let hash = (header.kind == PacketType::Compromised).then(|| datagram_hash(datagram));
        let mut cx = Context { now, random: &mut self.random };
        let taken = session.handle_datagram(&mut cx, path, header, found, datagram);
        if let Some(hash) = hash {
            session.note_signal(hash);
        }
        self.drain(now);
        taken
    }
}
