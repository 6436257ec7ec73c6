//! Renewed credentials (PROTOCOL 5.2): durable first, then sent, then confirmed, and the secret before
//! them retired.

use super::credentials::SecretId;
use super::{Action, Audit, Credential, CredentialStatus, Event, Server, Waits};
use crate::id::{FileId, SessionId};
use crate::time::Now;
use crate::wire::message::{Message, PortRotation};
use alloc::string::ToString;
use alloc::vec::Vec;

impl Server {
    /// A session was established with `secret`: what that means for the others of its file.
    pub(super) fn secret_used(&mut self, now: Now, secret: SecretId) {
        let done = self.credentials.established(now, secret);
        self.secrets_retired(now, &done.retired);
        if done.renew {
            self.renew(now, secret.file);
        }
    }

    /// Gets a file another secret, which is sent once it is durable. False when it can't have one.
    pub(super) fn renew(&mut self, now: Now, file: FileId) -> bool {
        if self.credentials.renewal(file).is_some() {
            return true;
        }
        let Some(member) = self.member_of(file) else { return false };
        if !self.credentials.may_renew(file) {
            if !self.credentials.has_room() {
                self.events.push_back(Event::Audit(Audit::NotRenewed { file, member }));
            }
            return false;
        }
        let Ok(draft) = self.draft(now, &member, self.renewal_valid_for) else { return false };
        let timestamp = self.credentials.fresh_timestamp(file, now.wall.secs());
        let mut draft = *draft;
        draft.content.timestamp = timestamp;
        if let Some(told) = self.ports.announcement() {
            draft.content.server_udp_port = told.new_port;
        }
        let credential = Credential { file, timestamp, carried: false, ..draft.credential };
        self.credentials.begin_renewal(draft.content, credential);
        let secret = SecretId { file, timestamp };
        let credentials = self.credentials.durable(file);
        let action = Action::KeepCredentials { file, credentials };
        if self.ops.start(now.mono, action, Waits::Renew(secret)).is_err() {
            self.renewed(now, secret, false);
        }
        true
    }

    fn member_of(&self, file: FileId) -> Option<alloc::string::String> {
        let own = self.credentials.iter().find(|credential| credential.file == file)?;
        Some(own.member.clone())
    }

    /// A renewed secret is durable, or could not be made so.
    pub(super) fn renewed(&mut self, now: Now, secret: SecretId, done: bool) {
        let file = secret.file;
        let accepted = self.credentials.end_renewal(now, secret, done);
        let credential = self.credentials.get(secret).filter(|_| accepted);
        if let Some(Credential { member, valid_until, .. }) = credential {
            let (member, valid_until) = (member.clone(), *valid_until);
            self.events.push_back(Event::Audit(Audit::Renewed { file, member, valid_until }));
        } else if let Some(member) = self.member_of(file) {
            self.events.push_back(Event::Audit(Audit::NotRenewed { file, member }));
        }
        if let Some(id) = self.session_of(file) {
            // In the announcement if one is being prepared, else by itself.
            let announced = self.ports.announcement().is_some();
            let announce = self.sessions.get_mut(id).and_then(|entry| entry.announce.as_mut());
            match announce {
                Some(announce) if announced || announce.with_file => {
                    announce.with_file |= accepted;
                    self.announce_if_ready(now, id);
                }
                _ if accepted => self.send_renewal(now, id),
                _ => {}
            }
        }
    }

    /// The established session of a file.
    fn session_of(&self, file: FileId) -> Option<SessionId> {
        let own = self.sessions.of_file(file);
        own.filter(|(_, entry)| entry.established.is_some()).map(|(id, _)| id).last()
    }

    /// Sends the renewed secret of a session's file, with the port that is announced: the client goes
    /// by the newest one it was told. Else with the present one.
    pub(super) fn send_renewal(&mut self, now: Now, id: SessionId) {
        if let Some(told) = self.ports.announcement() {
            self.tell_port(now, id, told, true);
            return;
        }
        let Some(new_port) = self.ports.number() else { return };
        let opens_at = now.wall.secs();
        let next_rotation = self.ports.next_rotation(now.wall);
        let told = (new_port, opens_at, opens_at, next_rotation);
        self.send_port(now, id, told, true);
    }

    /// Sends a `port_rotation`: port, when it opens, when the old one closes, when the next is due.
    pub(super) fn send_port(
        &mut self,
        now: Now,
        id: SessionId,
        (new_port, opens_at, closes_old_at, next_rotation): (u16, u64, u64, u64),
        with_file: bool,
    ) {
        let Some(entry) = self.sessions.get(id) else { return };
        // The file must not name a port that closes while the client keeps it.
        let renewal = self.credentials.renewal_at(entry.secret.file, new_port);
        let renewal = renewal.filter(|renewal| with_file && renewal.is_durable());
        let security_file = renewal.map(|renewal| renewal.content.to_object());
        let message = Message::PortRotation(PortRotation {
            new_port,
            opens_at,
            closes_old_at,
            next_rotation,
            security_file,
        });
        self.with_session(now, id, |session, cx| session.owe(cx.now, &message, None));
    }

    /// A client has stored its renewed file.
    pub(super) fn credential_stored(&mut self, now: Now, id: SessionId, timestamp: u64) {
        let Some(entry) = self.sessions.get(id) else { return };
        let file = entry.secret.file;
        let secret = SecretId { file, timestamp };
        if self.credentials.confirm(now, secret, self.timing.grace) {
            self.keep(now, file);
        }
    }

    /// Secrets are no longer accepted: their half-open sessions go with them, and it is made durable.
    fn secrets_retired(&mut self, now: Now, retired: &[SecretId]) {
        for secret in retired {
            let own = self.sessions.of_file(secret.file);
            let half_open = own.filter(|(_, e)| e.secret == *secret && e.session.is_half_open());
            let gone: Vec<_> = half_open.map(|(id, _)| id).collect();
            gone.into_iter().for_each(|id| self.remove(id));
            if let Some(Credential { member, .. }) = self.credentials.get(*secret) {
                let (file, member) = (secret.file, member.clone());
                self.events.push_back(Event::Audit(Audit::SecretRetired { file, member }));
            }
        }
        let mut files: Vec<_> = retired.iter().map(|secret| secret.file).collect();
        files.dedup();
        files.into_iter().for_each(|file| self.keep(now, file));
    }

    /// Makes durable what is kept of a file's secrets.
    pub(super) fn keep(&mut self, now: Now, file: FileId) {
        self.start_keep(now, file, false);
    }

    fn start_keep(&mut self, now: Now, file: FileId, again: bool) {
        let credentials = self.credentials.durable(file);
        let action = Action::KeepCredentials { file, credentials };
        if self.ops.start(now.mono, action, Waits::Keep { file, again }).is_err() {
            self.kept(file, again, false);
        }
    }

    /// What is kept of a file's secrets is durable, or is to be tried again: until then an old secret
    /// is accepted after a restart.
    pub(super) fn kept(&mut self, file: FileId, again: bool, done: bool) {
        if done || self.unretired.contains_key(&file) {
            return;
        }
        let news = self.unkept.insert(file) && !again;
        if let Some(member) = self.credentials.owner(file).filter(|_| news) {
            let member = member.to_string();
            self.events.push_back(Event::Audit(Audit::NotKept { file, member }));
        }
    }

    /// Tries again what could not be made durable, as it is now.
    pub(super) fn keep_again(&mut self, now: Now) {
        for file in core::mem::take(&mut self.unkept) {
            self.start_keep(now, file, true);
        }
    }

    /// Retires the secrets whose time has come.
    pub(super) fn retire_due(&mut self, now: Now) {
        let retired = self.credentials.retire_due(now);
        self.secrets_retired(now, &retired);
    }
}

impl Credential {
    /// Whether it is known only to be refused.
    #[must_use]
    pub const fn is_retired(&self) -> bool {
        matches!(self.status, CredentialStatus::Retired { .. })
    }
}
