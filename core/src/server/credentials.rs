//! The security files that a server issued, and the secrets it accepts (PROTOCOL 3, 5.1, 5.2).

use super::admission::HelloMemory;
use crate::crypto::derive::hello_id;
use crate::crypto::identity::Identity;
use crate::id::FileId;
use crate::limits::{RETIRED_MEMORY, SECRETS};
use crate::random::Stream;
use crate::secret::Secret;
use crate::time::{Duration, Instant};
use crate::wire::header::Header;
use crate::wire::secfile::SecurityFile;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// What a secret is good for (PROTOCOL 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialStatus {
    /// Accepted.
    Accepted,
    /// Accepted until this `unix_s`: its client has confirmed the renewed one.
    Dying {
        /// When it is retired.
        at: u64,
    },
    /// Known only to be refused, for 7 days.
    Retired {
        /// Since when, `unix_s`.
        since: u64,
    },
}

/// A secret of a security file as its server must keep it: durable before the file is handed out.
#[derive(Debug)]
pub struct Credential {
    /// The file, with its renewals.
    pub file: FileId,
    /// The member it was issued to.
    pub member: String,
    /// Its secret.
    pub secret: Secret<32>,
    /// `timestamp` of the security file that holds it, `unix_s`; no two secrets of a file share one.
    pub timestamp: u64,
    /// Whether that security file was carried by hand, not sent in a session.
    pub carried: bool,
    /// What it is good for.
    pub status: CredentialStatus,
    /// Last second of validity, `unix_s`.
    pub valid_until: u64,
    /// Grace after that, seconds.
    pub grace_period: u64,
    /// How long a compromised signal waits for its ack, seconds.
    pub response_timeout: u64,
}

impl Credential {
    /// Whether a hello under it is answered (PROTOCOL 5.1 step 4).
    #[must_use]
    pub const fn is_valid(&self, unix_s: u64) -> bool {
        unix_s <= self.valid_until.saturating_add(self.grace_period)
    }

    /// A second copy.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            file: self.file,
            member: self.member.clone(),
            secret: self.secret.duplicate(),
            timestamp: self.timestamp,
            carried: self.carried,
            status: self.status,
            valid_until: self.valid_until,
            grace_period: self.grace_period,
            response_timeout: self.response_timeout,
        }
    }
}

/// A security file to be sealed and written.
#[derive(Debug)]
pub struct SecurityFileDraft {
    /// What its server keeps of it.
    pub credential: Credential,
    /// Its content.
    pub content: SecurityFile,
    /// Salt of PBKDF2.
    pub salt: [u8; 32],
    /// IV of AES-256-GCM.
    pub iv: [u8; 12],
}

/// An accepted secret and what goes with it.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) credential: Credential,
    hello_id: Identity,
    pub(super) hellos: HelloMemory,
}

/// All accepted secrets.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    files: BTreeMap<FileId, Accepted>,
}

impl Credentials {
    /// A name for a new file: random, so that none comes again after a restart.
    pub(super) fn fresh_id(&self, random: &mut Stream) -> FileId {
        loop {
            // 53 bits: the largest integer of JSON.
            let id = FileId(random.u64() >> 11);
            if !self.files.contains_key(&id) {
                return id;
            }
        }
    }

    /// Whether another secret may be accepted.
    pub(super) fn has_room(&self) -> bool {
        self.files.len() < SECRETS
    }

    pub(super) fn accept(&mut self, now: Instant, credential: Credential) {
        let hello_id = Identity::new(&hello_id(&credential.secret));
        let hellos = HelloMemory::new(now);
        self.files.insert(credential.file, Accepted { credential, hello_id, hellos });
    }

    /// Whose first packet a datagram claims to be, and its nonce.
    pub(super) fn recognise(&self, header: &Header) -> Option<(FileId, u64)> {
        self.files.iter().find_map(|(file, accepted)| {
            accepted.hello_id.seq(&header.message_id).map(|nonce| (*file, nonce))
        })
    }

    pub(super) fn get(&self, file: FileId) -> Option<&Accepted> {
        self.files.get(&file)
    }

    pub(super) fn get_mut(&mut self, file: FileId) -> Option<&mut Accepted> {
        self.files.get_mut(&file)
    }

    /// Wipes a secret: whoever uses it meets silence (PROTOCOL 5.2).
    pub(super) fn wipe(&mut self, file: FileId) {
        self.files.remove(&file);
    }

    /// The files of a member.
    pub(super) fn of_member(&self, member: &str) -> Vec<FileId> {
        let own = self.files.values().filter(|accepted| accepted.credential.member == member);
        own.map(|accepted| accepted.credential.file).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Credential> {
        self.files.values().map(|accepted| &accepted.credential)
    }

    /// Forgets old hellos, and secrets that expired 7 days ago; the files of those.
    pub(super) fn forget(&mut self, now: Instant, wall: crate::time::UnixMs) -> Vec<FileId> {
        let mut gone = Vec::new();
        for (file, accepted) in &mut self.files {
            accepted.hellos.forget(now, wall);
            let credential = &accepted.credential;
            let end = credential.valid_until.saturating_add(credential.grace_period);
            if Duration::from_secs(wall.secs().saturating_sub(end)) > RETIRED_MEMORY {
                gone.push(*file);
            }
        }
        gone
    }
}
