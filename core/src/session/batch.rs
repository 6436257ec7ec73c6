//! Datagrams that arrived together: what their headers say is made out in one pass (PROTOCOL 3).

use super::Session;
use crate::crypto::identity::{BATCH, Recognised};
use crate::id::Epoch;
use crate::transport::epochs::Found;
use crate::wire::header::Header;
use alloc::vec::Vec;

/// From so many datagrams on, one pass costs less than one by one.
const WORTH: usize = 4;

/// Headers of one batch, and what the keys of one session say of them. Kept for its room.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    headers: Vec<Header>,
    said: Vec<Recognised>,
    epoch: Option<Epoch>,
}

impl Batch {
    /// Most datagrams of one pass.
    pub(crate) const MOST: usize = BATCH;

    /// Reads the headers of datagrams of `stride` bytes each, the last of which may be shorter; the first
    /// header, if all are well-formed and one pass is worth it.
    pub(crate) fn read(&mut self, datagrams: &[u8], stride: usize) -> Option<&Header> {
        self.headers.clear();
        if datagrams.len() <= stride.saturating_mul(WORTH - 1) {
            return None;
        }
        for datagram in datagrams.chunks(stride).take(Self::MOST) {
            self.headers.push(Header::decode(datagram)?);
        }
        self.headers.first()
    }

    /// Asks the present keys of a session about all of them.
    pub(crate) fn ask(&mut self, session: &Session) {
        self.said.clear();
        self.said.resize(self.headers.len(), Recognised::Foreign);
        if let Some(epochs) = session.phase.epochs() {
            self.epoch = Some(epochs.recognise_batch(&self.headers, &mut self.said));
        }
    }

    /// What is known of a datagram. `None` when the session knows nothing of it by these keys, or has
    /// others by now: it is then treated like one that came alone.
    pub(crate) fn found(&self, session: &Session, index: usize) -> Option<(Header, Found)> {
        let found = session.phase.epochs()?.found(self.epoch?, *self.said.get(index)?)?;
        Some((*self.headers.get(index)?, found))
    }
}
