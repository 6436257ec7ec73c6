//! COMPROMISED at the server (PROTOCOL 7): secrets retired first, then a replacement file, then the
//! ack, then silence.

use super::{Action, Audit, Event, Server, Waits};
use crate::error::CloseReason;
use crate::id::{FileId, SessionId};
use crate::time::Now;
use crate::wire::message::SERVER_MEMBER;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What a retirement is for.
#[derive(Debug)]
pub(super) struct Replacement {
    member: String,
    by: String,
    files: Vec<FileId>,
}

/// A file whose retirement is not durable.
#[derive(Debug)]
pub(super) struct Unretired {
    member: String,
    /// Nothing is under way for it.
    failed: bool,
}

/// How far the retirement of a session's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retirement {
    /// On its way to the disk: no signal is acknowledged before it is there.
    Pending,
    /// It could not be made durable: no signal is acknowledged at all.
    Failed,
    /// Durable.
    Done { new_file_ready: bool },
}

impl Server {
    /// Command: raises COMPROMISED for all files of a member. False for an unknown member.
    ///
    /// Their secrets meet silence from here on; sessions are told until they acknowledge or
    /// `response_timeout` is over; a replacement file is made.
    pub fn declare_compromised(&mut self, now: Now, member: &str, reason: &str) -> bool {
        if !self.hub.has_member(member) {
            return false;
        }
        let mut files = self.credentials.of_member(member);
        // What an earlier signal could not retire counts as long as the disk has it.
        let unretired = self.unretired.iter().filter(|(_, left)| left.member == member);
        files.extend(unretired.map(|(file, _)| *file));
        let sessions: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, entry)| *entry.member == *member)
            .map(|(id, _)| id)
            .collect();
        for id in sessions {
            let told = self
                .with_session(now, id, |session, cx| session.declare_compromised(cx.now, reason));
            debug_assert!(told.is_some(), "it was there a line ago");
        }
        let (member, by) = (member.to_string(), SERVER_MEMBER.to_string());
        self.retire(now, Replacement { member, by, files });
        true
    }

    /// A member raised COMPROMISED: its session holds its keys until the ack is sealed.
    pub(super) fn compromised_by_member(&mut self, now: Now, id: SessionId) {
        let Some(entry) = self.sessions.get(id) else { return };
        let (file, member) = (entry.secret.file, entry.member.to_string());
        let retirement = entry.retirement;
        self.gone(now, id, CloseReason::Wiped);
        match retirement {
            None => {
                let by = member.clone();
                self.retire(now, Replacement { member, by, files: [file].into() });
            }
            Some(retirement) => {
                // Our own signal crossed this one, which counts as its ack.
                self.events.push_back(Event::Signalled { session: id, member, acknowledged: true });
                if retirement != Retirement::Pending {
                    self.settle(now, &[file], retirement);
                }
            }
        }
    }

    fn retire(&mut self, now: Now, replacement: Replacement) {
        let files = replacement.files.clone();
        for file in &files {
            self.credentials.wipe(*file);
            // To keep nothing of it any more would retire it without anybody being told.
            self.unkept.remove(file);
            let left = Unretired { member: replacement.member.clone(), failed: false };
            self.unretired.entry(*file).or_insert(left);
        }
        let mut unsigned = Vec::new();
        for (id, entry) in self.sessions.iter_mut().filter(|(_, e)| files.contains(&e.secret.file))
        {
            entry.retirement = Some(Retirement::Pending);
            if entry.session.is_half_open() || entry.session.is_open() {
                unsigned.push(id);
            }
        }
        for id in unsigned {
            self.gone(now, id, CloseReason::Wiped);
            self.remove(id);
        }
        // Nobody else waits for the disk.
        self.emergency_move(now);
        let action = Action::RetireFiles { files };
        let started = self.ops.start(now.mono, action, Waits::Retire(replacement));
        if let Err(Waits::Retire(replacement)) = started {
            self.retired(now, replacement, false);
        }
    }

    /// Acknowledges the signals that waited for a retirement, or wipes in silence where it failed:
    /// the client then tells its user to inform the operator.
    fn settle(&mut self, now: Now, files: &[FileId], retirement: Retirement) {
        let own = self.sessions.iter_mut().filter(|(_, entry)| files.contains(&entry.secret.file));
        let ids: Vec<_> = own
            .map(|(id, entry)| {
                entry.retirement = Some(retirement);
                id
            })
            .collect();
        for id in ids {
            self.with_session(now, id, |session, cx| match retirement {
                Retirement::Done { new_file_ready } => session.acknowledge(cx.now, new_file_ready),
                Retirement::Failed if session.is_replacing() => session.discard(),
                Retirement::Failed | Retirement::Pending => {}
            });
        }
    }

    /// The retirement is durable, or could not be made so.
    pub(super) fn retired(&mut self, now: Now, replacement: Replacement, done: bool) {
        self.note_retired(&replacement.files, done);
        if !done {
            self.settle(now, &replacement.files, Retirement::Failed);
            self.report(replacement, false);
            return;
        }
        let member = replacement.member.clone();
        match self.draft(now, &member, super::commands::VALID_FOR) {
            Ok(draft) => {
                let kept = draft.credential.duplicate();
                let action = Action::IssueSecurityFile { draft };
                let started = self.ops.start(now.mono, action, Waits::Replace(kept, replacement));
                if let Err(Waits::Replace(_, replacement)) = started {
                    self.replaced(now, replacement, false);
                }
            }
            Err(_) => self.replaced(now, replacement, false),
        }
    }

    /// Files are durably retired, or are to be retired again: a restart would accept them.
    pub(super) fn note_retired(&mut self, files: &[FileId], done: bool) {
        for file in files {
            if done {
                self.unretired.remove(file);
            } else if let Some(left) = self.unretired.get_mut(file) {
                left.failed = true;
                let (file, member) = (*file, left.member.clone());
                self.events.push_back(Event::Audit(Audit::NotRetired { file, member }));
            }
        }
    }

    /// Tries again what could not be retired. Who raised it was told that it failed, and that no file
    /// replaces it: neither is said again.
    pub(super) fn retire_again(&mut self, now: Now) {
        let failed = self.unretired.iter_mut().filter(|(_, left)| left.failed);
        let files: Vec<_> = failed
            .map(|(file, left)| {
                left.failed = false;
                *file
            })
            .collect();
        if files.is_empty() {
            return;
        }
        let action = Action::RetireFiles { files: files.clone() };
        if self.ops.start(now.mono, action, Waits::RetireAgain(files.clone())).is_err() {
            self.note_retired(&files, false);
        }
    }

    /// The replacement file is written, or could not be.
    pub(super) fn replaced(&mut self, now: Now, replacement: Replacement, done: bool) {
        self.settle(now, &replacement.files, Retirement::Done { new_file_ready: done });
        self.report(replacement, done);
    }

    fn report(&mut self, replacement: Replacement, new_file_ready: bool) {
        let Replacement { member, by, .. } = replacement;
        self.events.push_back(Event::Compromised { member, by, new_file_ready });
    }

    /// A client acknowledged our signal, or did not in time.
    pub(super) fn signalled(&mut self, now: Now, id: SessionId, acknowledged: bool) {
        let Some(entry) = self.sessions.get(id) else { return };
        let member = entry.member.to_string();
        self.gone(now, id, CloseReason::Wiped);
        self.events.push_back(Event::Signalled { session: id, member, acknowledged });
    }
}
