//! COMPROMISED at the server (PROTOCOL 7): secrets retired first, then a replacement file, then the
//! ack, then silence.

use super::{Action, Event, Server, Waits};
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
    /// The session whose signal waits for its ack.
    signaller: Option<SessionId>,
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
        let files = self.credentials.of_member(member);
        let sessions: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, entry)| entry.member == member)
            .map(|(id, _)| *id)
            .collect();
        for id in sessions {
            let told = self
                .with_session(now, id, |session, cx| session.declare_compromised(cx.now, reason));
            debug_assert!(told.is_some(), "it was there a line ago");
        }
        self.retire(
            now,
            files,
            Replacement {
                member: member.to_string(),
                by: SERVER_MEMBER.to_string(),
                signaller: None,
            },
        );
        true
    }

    /// A member raised COMPROMISED: its session holds its keys until the ack is sealed.
    pub(super) fn compromised_by_member(&mut self, now: Now, id: SessionId) {
        let Some(entry) = self.sessions.get(&id) else { return };
        let (file, member) = (entry.file, entry.member.clone());
        self.gone(now, id, CloseReason::Wiped);
        if self.credentials.get(file).is_none() {
            // Our own signal crossed this one: the file is retired already.
            self.with_session(now, id, |session, cx| session.acknowledge(cx.now, false));
            return;
        }
        let by = member.clone();
        self.retire(now, [file].into(), Replacement { member, by, signaller: Some(id) });
    }

    fn retire(&mut self, now: Now, files: Vec<FileId>, replacement: Replacement) {
        for file in &files {
            self.credentials.wipe(*file);
        }
        let own = self.sessions.iter().filter(|(id, entry)| {
            files.contains(&entry.file)
                && Some(**id) != replacement.signaller
                && (entry.session.is_half_open() || entry.session.is_open())
        });
        let own: Vec<_> = own.map(|(id, _)| *id).collect();
        for id in own {
            self.gone(now, id, CloseReason::Wiped);
            self.remove(id);
        }
        let action = Action::RetireFiles { files };
        let started = self.ops.start(now.mono, action, Waits::Retire(replacement));
        if let Err(Waits::Retire(replacement)) = started {
            self.retired(now, replacement, false);
        }
    }

    /// The retirement is durable, or could not be made so.
    pub(super) fn retired(&mut self, now: Now, replacement: Replacement, done: bool) {
        if !done {
            // Never an ack for what is not done: the client tells its user to inform the operator.
            if let Some(id) = replacement.signaller {
                self.with_session(now, id, |session, _| session.discard());
            }
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

    /// The replacement file is written, or could not be.
    pub(super) fn replaced(&mut self, now: Now, replacement: Replacement, done: bool) {
        if let Some(id) = replacement.signaller {
            self.with_session(now, id, |session, cx| session.acknowledge(cx.now, done));
        }
        self.report(replacement, done);
    }

    fn report(&mut self, replacement: Replacement, new_file_ready: bool) {
        let Replacement { member, by, .. } = replacement;
        self.events.push_back(Event::Compromised { member, by, new_file_ready });
    }

    /// A client acknowledged our signal, or did not in time.
    pub(super) fn signalled(&mut self, now: Now, id: SessionId, acknowledged: bool) {
        let Some(entry) = self.sessions.get(&id) else { return };
        let member = entry.member.clone();
        self.gone(now, id, CloseReason::Wiped);
        self.events.push_back(Event::Signalled { session: id, member, acknowledged });
    }
}
