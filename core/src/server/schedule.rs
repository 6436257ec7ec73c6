//! Which session is due when, and which may have something to send: nothing walks all sessions.

use crate::id::SessionId;
use crate::time::Instant;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Deadlines of sessions, and the sessions to poll.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    deadlines: BTreeSet<(Instant, SessionId)>,
    of: BTreeMap<SessionId, Instant>,
    ready: BTreeSet<SessionId>,
    /// Sessions whose deadline may be another by now.
    stale: BTreeSet<SessionId>,
    /// The last one touched, while it is in all sets: datagrams come in batches.
    touched: Option<SessionId>,
    /// Sessions that may have bytes of files to send, and the one that sent them last.
    with_files: BTreeSet<SessionId>,
    last_with_files: Option<SessionId>,
    /// Round robin: the session polled last.
    last: Option<SessionId>,
}

impl Schedule {
    /// A session was touched: it may have something to send, and another deadline, which is asked for
    /// once before it matters.
    pub(super) fn touch(&mut self, id: SessionId) {
        if self.touched != Some(id) {
            self.stale.insert(id);
            self.ready.insert(id);
            self.with_files.insert(id);
            self.touched = Some(id);
        }
    }

    /// The next session whose deadline is to be set.
    pub(super) fn next_stale(&mut self) -> Option<SessionId> {
        self.touched = None;
        self.stale.pop_first()
    }

    pub(super) fn set_deadline(&mut self, id: SessionId, deadline: Option<Instant>) {
        if let Some(old) = self.of.remove(&id) {
            self.deadlines.remove(&(old, id));
        }
        if let Some(at) = deadline {
            self.of.insert(id, at);
            self.deadlines.insert((at, id));
        }
    }

    pub(super) fn forget(&mut self, id: SessionId) {
        self.set_deadline(id, None);
        self.stale.remove(&id);
        self.ready.remove(&id);
        self.with_files.remove(&id);
        self.touched = None;
    }

    pub(super) fn next_deadline(&self) -> Option<(Instant, SessionId)> {
        self.deadlines.first().copied()
    }

    /// The sessions whose deadline has come.
    pub(super) fn due(&self, now: Instant) -> Vec<SessionId> {
        self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    /// The next session to poll, taking turns.
    pub(super) fn next_ready(&mut self) -> Option<SessionId> {
        let after = self.last.map_or(SessionId(0), |SessionId(last)| SessionId(last + 1));
        let id = self.ready.range(after..).next().or_else(|| self.ready.first()).copied()?;
        self.last = Some(id);
        Some(id)
    }

    /// The next session to ask for bytes of files, taking turns; the same until it sent some or has none.
    pub(super) fn next_with_files(&self) -> Option<SessionId> {
        let after =
            self.last_with_files.map_or(SessionId(0), |SessionId(last)| SessionId(last + 1));
        let next = self.with_files.range(after..).next();
        next.or_else(|| self.with_files.first()).copied()
    }

    /// The session sent bytes of files.
    pub(super) const fn sent_files(&mut self, id: SessionId) {
        self.last_with_files = Some(id);
    }

    /// The session has no bytes of files that may go now; its pacer may have set a deadline.
    pub(super) fn no_files(&mut self, id: SessionId) {
        self.touched = None;
        self.stale.insert(id);
        self.with_files.remove(&id);
    }

    /// The session has nothing more to send. Sending moves deadlines too.
    pub(super) fn idle(&mut self, id: SessionId) {
        self.touched = None;
        self.stale.insert(id);
        self.ready.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_and_turns() {
        let at = Instant::from_micros;
        let mut schedule = Schedule::default();
        let settle = |schedule: &mut Schedule, deadlines: [u64; 2]| {
            while let Some(id) = schedule.next_stale() {
                let [one, two] = deadlines.map(at);
                schedule.set_deadline(id, Some(if id == SessionId(1) { one } else { two }));
            }
        };
        schedule.touch(SessionId(1));
        schedule.touch(SessionId(2));
        settle(&mut schedule, [5, 3]);
        assert_eq!(schedule.next_deadline(), Some((at(3), SessionId(2))));
        schedule.touch(SessionId(2));
        schedule.touch(SessionId(2));
        settle(&mut schedule, [0, 9]);
        assert_eq!(schedule.next_deadline(), Some((at(5), SessionId(1))));
        assert_eq!(schedule.next_ready(), Some(SessionId(1)));
        assert_eq!(schedule.next_ready(), Some(SessionId(2)));
        assert_eq!(schedule.next_ready(), Some(SessionId(1)));
        schedule.idle(SessionId(2));
        assert_eq!(schedule.next_stale(), Some(SessionId(2)), "it has sent");
        assert_eq!(schedule.next_ready(), Some(SessionId(1)));
        schedule.touch(SessionId(2));
        schedule.idle(SessionId(2));
        schedule.touch(SessionId(2));
        assert_eq!(schedule.next_ready(), Some(SessionId(2)), "touched again after it was idle");
        schedule.idle(SessionId(2));
        schedule.forget(SessionId(1));
        assert_eq!(schedule.next_ready(), None);
        assert_eq!(schedule.next_deadline(), Some((at(9), SessionId(2))));
    }
}
