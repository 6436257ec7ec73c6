//! Actions under way: what waits for each, and when it is given up.

use crate::id::{OpId, TransferId};
use crate::limits::{OP_TIMEOUT, OPS, OPS_COMMON};
use crate::time::Instant;
use crate::transport::Timer;
use crate::wire::message::FileError;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, and durable where that matters.
    Done,
    /// The port is taken; another is tried.
    PortInUse,
    /// It could not be done.
    Failed,
}

/// Bytes of a file that arrived (PROTOCOL 5.6): to be written before events are polled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'d> {
    /// Which transfer.
    pub transfer: TransferId,
    /// Where in the file, bytes.
    pub offset: u64,
    /// They lie in the datagram's own buffer.
    pub bytes: &'d [u8],
}

/// Bytes of a file to be read and handed to `send_chunk`: one batch of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which transfer.
    pub transfer: TransferId,
    /// Where in the file, bytes.
    pub offset: u64,
    /// How many bytes; fewer will do.
    pub len: usize,
}

/// Why a transfer has ended (PROTOCOL 5.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFailure {
    /// Its receiver checked it, and it was not right.
    Checked(FileError),
    /// The peer cancelled it, and says why.
    Cancelled(String),
    /// The session has ended. Whoever sends offers it again in the next one; what has arrived counts.
    Interrupted,
}

/// A deadline, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// What for.
    pub timer: Timer,
}

/// Actions to hand out, and what waits (`W`) for those handed out.
#[derive(Debug)]
pub(crate) struct Ops<A, W> {
    next: u64,
    queue: VecDeque<(OpId, A)>,
    waiting: BTreeMap<OpId, (Instant, W)>,
}

impl<A, W> Default for Ops<A, W> {
    fn default() -> Self {
        Self { next: 0, queue: VecDeque::new(), waiting: BTreeMap::new() }
    }
}

impl<A, W> Ops<A, W> {
    /// Queues an action. What was to wait comes back, and nothing is queued, when too many are under
    /// way.
    pub(crate) fn start(&mut self, now: Instant, action: A, waits: W) -> Result<OpId, W> {
        if self.waiting.len() >= OPS {
            return Err(waits);
        }
        let id = OpId(self.next);
        self.next += 1;
        self.queue.push_back((id, action));
        self.waiting.insert(id, (now + OP_TIMEOUT, waits));
        Ok(id)
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The same for what many may cause: it leaves half of the places to what must not fail for that.
    pub(crate) fn start_common(&mut self, now: Instant, action: A, waits: W) -> Result<OpId, W> {
        if self.waiting.len() >= OPS_COMMON { Err(waits) } else { self.start(now, action, waits) }
    }

    /// What waits for an action.
    pub(crate) fn waits(&self, id: OpId) -> Option<&W> {
        self.waiting.get(&id).map(|(_, waits)| waits)
    }

    pub(crate) fn poll(&mut self) -> Option<(OpId, A)> {
        self.queue.pop_front()
    }

    /// What waited for this action; `None` for a stray or second completion.
    pub(crate) fn finish(&mut self, id: OpId) -> Option<W> {
        self.waiting.remove(&id).map(|(_, waits)| waits)
    }

    /// When the oldest action is given up. Ids and deadlines grow together.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, (at, _))| *at)
    }

    /// The oldest action, if it is to be given up now.
    pub(crate) fn expired(&self, now: Instant) -> Option<OpId> {
        let (id, (at, _)) = self.waiting.first_key_value()?;
        (*at <= now).then_some(*id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_completion_counts_once() {
        let mut ops = Ops::default();
        let id = ops.start(Instant::ZERO, "bind", 7).unwrap();
        assert_eq!(ops.poll(), Some((id, "bind")));
        assert_eq!(ops.poll(), None);
        assert_eq!(ops.expired(Instant::ZERO), None);
        assert_eq!(ops.expired(Instant::ZERO + OP_TIMEOUT), Some(id));
        assert_eq!(ops.finish(id), Some(7));
        assert_eq!(ops.finish(id), None);
        assert_eq!(ops.deadline(), None);
    }

    #[test]
    fn chat_leaves_room_for_what_must_be_done() {
        let mut ops = Ops::default();
        while ops.start_common(Instant::ZERO, "chat", 0).is_ok() {}
        assert_eq!(ops.len(), OPS_COMMON);
        while ops.start(Instant::ZERO, "retire", 1).is_ok() {}
        assert_eq!(ops.len(), OPS);
        assert_eq!(ops.waits(OpId(OPS_COMMON as u64)), Some(&1));
    }
}
