//! Which session is due when, and which may have something to send: nothing in a turn walks all sessions.

use crate::id::SessionId;
use crate::ops::Deadline;
use crate::time::Instant;
use crate::transport::Timer;
use alloc::collections::binary_heap::PeekMut;
use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;

/// Later than any deadline.
const NEVER: Instant = Instant::from_micros(u64::MAX);
/// Times in the heap that count no more are cleared away once there are more than those that do, and
/// this many.
const LITTER: usize = 64;

/// What is known of the session in one place.
#[derive(Clone, Debug)]
struct Marks {
    id: SessionId,
    deadline: Instant,
    /// What it is for.
    timer: Timer,
    /// When the heap says that it is due: not later than its deadline.
    queued: Instant,
    ready: bool,
    stale: bool,
    with_files: bool,
}

/// Deadlines of sessions, and the sessions to poll.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// By place of the session.
    marks: Vec<Marks>,
    /// A session's deadline mostly moves away, which is found out when its time in here comes.
    heap: BinaryHeap<Reverse<(Instant, SessionId)>>,
    /// How many times in the heap count.
    queued: usize,
    /// Sessions to poll, taking turns.
    ready: VecDeque<SessionId>,
    /// Sessions whose deadline may be another by now.
    stale: Vec<SessionId>,
    /// Sessions that may have bytes of files to send, taking turns.
    with_files: VecDeque<SessionId>,
}

impl Schedule {
    /// What is known of a session, if it is the one in its place.
    fn marks(&mut self, id: SessionId) -> Option<&mut Marks> {
        self.marks.get_mut(id.slot()).filter(|marks| marks.id == id)
    }

    /// A session has begun.
    pub(super) fn begin(&mut self, id: SessionId) {
        let (deadline, queued) = (NEVER, NEVER);
        let (timer, ready, stale, with_files) = (Timer::Forget, false, false, false);
        let fresh = Marks { id, deadline, timer, queued, ready, stale, with_files };
        if self.marks.len() <= id.slot() {
            self.marks.resize(id.slot() + 1, fresh.clone());
        }
        self.marks[id.slot()] = fresh;
    }

    /// A session is no more: what the queues have of it is passed over.
    pub(super) fn forget(&mut self, id: SessionId) {
        if let Some(marks) = self.marks(id) {
            let queued = core::mem::replace(&mut marks.queued, NEVER) != NEVER;
            (marks.ready, marks.stale, marks.with_files) = (false, false, false);
            marks.deadline = NEVER;
            self.queued -= usize::from(queued);
        }
    }

    /// A session was touched: it may have something to send, and another deadline, which is asked for
    /// once before it matters.
    pub(super) fn touch(&mut self, id: SessionId) {
        let Some(marks) = self.marks.get_mut(id.slot()).filter(|marks| marks.id == id) else {
            return;
        };
        if !core::mem::replace(&mut marks.stale, true) {
            self.stale.push(id);
        }
        if !core::mem::replace(&mut marks.ready, true) {
            self.ready.push_back(id);
        }
        if !core::mem::replace(&mut marks.with_files, true) {
            self.with_files.push_back(id);
        }
    }

    /// A session's deadline may be another.
    fn doubt(&mut self, id: SessionId) {
        if let Some(marks) = self.marks(id)
            && !core::mem::replace(&mut marks.stale, true)
        {
            self.stale.push(id);
        }
    }

    /// The next session whose deadline is to be set.
    pub(super) fn next_stale(&mut self) -> Option<SessionId> {
        while let Some(id) = self.stale.pop() {
            if let Some(marks) = self.marks(id)
                && core::mem::replace(&mut marks.stale, false)
            {
                return Some(id);
            }
        }
        None
    }

    pub(super) fn set_deadline(&mut self, id: SessionId, deadline: Option<(Timer, Instant)>) {
        let Some(marks) = self.marks(id) else { return };
        (marks.timer, marks.deadline) = deadline.unwrap_or((Timer::Forget, NEVER));
        if marks.deadline < marks.queued {
            let (at, fresh) = (marks.deadline, marks.queued == NEVER);
            marks.queued = at;
            self.queued += usize::from(fresh);
            self.heap.push(Reverse((at, id)));
            if self.heap.len() > 2 * self.queued + LITTER {
                self.sweep();
            }
        }
    }

    /// Leaves in the heap what counts.
    fn sweep(&mut self) {
        let queued = self.marks.iter().filter(|marks| marks.queued != NEVER);
        self.heap = queued.map(|marks| Reverse((marks.queued, marks.id))).collect();
    }

    /// The first deadline, and whose it is.
    pub(super) fn next_deadline(&mut self) -> Option<(Deadline, SessionId)> {
        loop {
            let mut first = self.heap.peek_mut()?;
            let Reverse((at, id)) = *first;
            let marks = self.marks.get_mut(id.slot());
            let Some(marks) = marks.filter(|marks| marks.id == id && marks.queued == at) else {
                PeekMut::pop(first);
                continue;
            };
            if marks.deadline == at {
                return Some((Deadline { timer: marks.timer, at }, id));
            }
            marks.queued = marks.deadline;
            if marks.queued == NEVER {
                self.queued -= 1;
                PeekMut::pop(first);
            } else {
                // It sinks no deeper than it has to: not to where nothing was for long.
                *first = Reverse((marks.queued, id));
            }
        }
    }

    /// Takes the first time out of the heap.
    fn unqueue(&mut self) {
        if let Some(Reverse((at, id))) = self.heap.pop()
            && let Some(marks) = self.marks(id).filter(|marks| marks.queued == at)
        {
            marks.queued = NEVER;
            self.queued -= 1;
        }
    }

    /// The sessions whose deadline has come; each once, until its deadline is set again.
    pub(super) fn due(&mut self, now: Instant) -> Vec<SessionId> {
        let mut due = Vec::new();
        while let Some((_, id)) = self.next_deadline().filter(|(due, _)| due.at <= now) {
            self.unqueue();
            due.push(id);
        }
        due
    }

    /// The next session to poll, taking turns.
    pub(super) fn next_ready(&mut self) -> Option<SessionId> {
        while let Some(id) = self.ready.pop_front() {
            if self.marks(id).is_some_and(|marks| marks.ready) {
                self.ready.push_back(id);
                return Some(id);
            }
        }
        None
    }

    /// The session polled last has nothing more to send. Sending moves deadlines too.
    pub(super) fn idle(&mut self, id: SessionId) {
        if self.ready.pop_back_if(|last| *last == id).is_some()
            && let Some(marks) = self.marks(id)
        {
            marks.ready = false;
        }
        self.doubt(id);
    }

    /// The next session to ask for bytes of files, taking turns; the same until it sent some or has none.
    pub(super) fn next_with_files(&mut self) -> Option<SessionId> {
        while let Some(id) = self.with_files.front().copied() {
            if self.marks(id).is_some_and(|marks| marks.with_files) {
                return Some(id);
            }
            self.with_files.pop_front();
        }
        None
    }

    /// The session sent bytes of files.
    pub(super) fn sent_files(&mut self, id: SessionId) {
        if self.with_files.pop_front_if(|first| *first == id).is_some() {
            self.with_files.push_back(id);
        }
    }

    /// The session has no bytes of files that may go now; its pacer may have set a deadline.
    pub(super) fn no_files(&mut self, id: SessionId) {
        if self.with_files.pop_front_if(|first| *first == id).is_some()
            && let Some(marks) = self.marks(id)
        {
            marks.with_files = false;
        }
        self.doubt(id);
    }
}

#[cfg(test)]
mod tests;
