//! The security files that a server issued, and the secrets it accepts (PROTOCOL 3, 5.1, 5.2).

use super::admission::HelloMemory;
use crate::crypto::derive::hello_id;
use crate::crypto::identity::Identity;
use crate::id::FileId;
use crate::limits::{RETIRED_MEMORY, SECRETS, SECRETS_PER_FILE, SECRETS_RETIRED};
use crate::random::Stream;
use crate::secret::Secret;
use crate::time::{Duration, Instant, Now};
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

/// Names one secret: its file, and `timestamp` within that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SecretId {
    pub(super) file: FileId,
    pub(super) timestamp: u64,
}

/// A secret and what goes with it.
#[derive(Debug)]
struct Held {
    credential: Credential,
    hello_id: Identity,
    /// When it is retired, once its client has confirmed the renewed one.
    dies: Option<Instant>,
}

impl Held {
    fn new(now: Now, credential: Credential) -> Self {
        let hello_id = Identity::new(&hello_id(&credential.secret));
        let dies = match credential.status {
            CredentialStatus::Dying { at } => {
                Some(now.mono + Duration::from_secs(at.saturating_sub(now.wall.secs())))
            }
            CredentialStatus::Accepted | CredentialStatus::Retired { .. } => None,
        };
        Self { credential, hello_id, dies }
    }

    /// Whether nothing of it counts any more.
    fn is_forgotten(&self, unix_s: u64) -> bool {
        let end = match self.credential.status {
            CredentialStatus::Retired { since } => since,
            CredentialStatus::Accepted | CredentialStatus::Dying { .. } => {
                self.credential.valid_until.saturating_add(self.credential.grace_period)
            }
        };
        Duration::from_secs(unix_s.saturating_sub(end)) > RETIRED_MEMORY
    }
}

/// A renewed secret that its client has not confirmed.
#[derive(Debug)]
pub(super) struct Renewal {
    /// What the client is sent.
    pub(super) content: SecurityFile,
    /// The secret until it is durable; only then it is accepted, and the client is sent it.
    pending: Option<Credential>,
}

impl Renewal {
    /// Whether the client may be sent it.
    pub(super) const fn is_durable(&self) -> bool {
        self.pending.is_none()
    }
}

/// A security file with its renewals.
#[derive(Debug)]
struct File {
    /// Those that are accepted, oldest first.
    held: Vec<Held>,
    /// Those that are known only to be refused, oldest first: apart, since they may be many and are
    /// seldom looked at.
    retired: Vec<Held>,
    hellos: HelloMemory,
    renewal: Option<Renewal>,
}

impl File {
    fn all(&self) -> impl Iterator<Item = &Held> {
        self.retired.iter().chain(&self.held)
    }

    /// Retires the accepted secrets that `which` says.
    fn retire(&mut self, now: Now, which: impl Fn(&Held) -> bool) -> Vec<SecretId> {
        let mut retired = Vec::new();
        for mut held in self.held.extract_if(.., |held| which(held)) {
            let Credential { file, timestamp, .. } = held.credential;
            held.credential.status = CredentialStatus::Retired { since: now.wall.secs() };
            held.dies = None;
            retired.push(SecretId { file, timestamp });
            self.retired.push(held);
        }
        self.retired.sort_by_key(|held| held.credential.timestamp);
        retired
    }
}

/// What a new session means for the secrets of its file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Established {
    /// Secrets that are retired by it.
    pub(super) retired: Vec<SecretId>,
    /// The session is to get a renewed secret at once.
    pub(super) renew: bool,
}

/// All secrets.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    files: BTreeMap<FileId, File>,
    /// No secret is to be retired before: asked after every packet, it must not walk them all.
    next_death: Option<Instant>,
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

    /// Those that are accepted.
    fn held(&self) -> impl Iterator<Item = &Held> {
        self.files.values().flat_map(|file| &file.held)
    }

    /// How many secrets are accepted, those on their way included.
    pub(super) fn accepted(&self) -> usize {
        let pending =
            self.files.values().filter_map(|file| file.renewal.as_ref()?.pending.as_ref());
        self.held().count() + pending.count()
    }

    /// Whether another secret may be accepted.
    pub(super) fn has_room(&self) -> bool {
        self.accepted() < SECRETS
    }

    pub(super) fn accept(&mut self, now: Now, credential: Credential) {
        let hellos = HelloMemory::new(now.mono);
        let fresh = File { held: Vec::new(), retired: Vec::new(), hellos, renewal: None };
        let file = self.files.entry(credential.file).or_insert(fresh);
        let own = if credential.is_retired() { &mut file.retired } else { &mut file.held };
        let held = Held::new(now, credential);
        self.next_death = self.next_death.into_iter().chain(held.dies).min();
        // One as a rule, and at most a few.
        own.reserve_exact(1);
        own.push(held);
        own.sort_by_key(|held| held.credential.timestamp);
    }

    /// Whose first packet a datagram claims to be, and its nonce: accepted secrets first, then those
    /// that are known only to be refused.
    pub(super) fn recognise(
        &self,
        header: &Header,
        allow_retired: impl FnOnce() -> bool,
    ) -> Option<(SecretId, u64)> {
        let fits = |held: &Held| {
            let nonce = held.hello_id.seq(&header.message_id)?;
            let Credential { file, timestamp, .. } = held.credential;
            Some((SecretId { file, timestamp }, nonce))
        };
        self.held().find_map(fits).or_else(|| {
            let mut retired = self.files.values().flat_map(|file| &file.retired);
            allow_retired().then(|| retired.find_map(fits)).flatten()
        })
    }

    fn find(&self, id: SecretId) -> Option<&Held> {
        self.files.get(&id.file)?.all().find(|held| held.credential.timestamp == id.timestamp)
    }

    pub(super) fn get(&self, id: SecretId) -> Option<&Credential> {
        self.find(id).map(|held| &held.credential)
    }

    /// Whether a session may be established with a secret (PROTOCOL 5.1 step 4).
    pub(super) fn is_accepted(&self, id: SecretId, unix_s: u64) -> bool {
        self.get(id).is_some_and(|own| !own.is_retired() && own.is_valid(unix_s))
    }

    /// What a file remembers of its hellos, and a secret of it.
    pub(super) fn hellos(&mut self, id: SecretId) -> Option<(&mut HelloMemory, &Credential)> {
        let file = self.files.get_mut(&id.file)?;
        let mut all = file.retired.iter().chain(&file.held);
        let held = all.find(|held| held.credential.timestamp == id.timestamp)?;
        Some((&mut file.hellos, &held.credential))
    }

    /// Wipes all secrets of a file: whoever uses one meets silence (PROTOCOL 5.2).
    pub(super) fn wipe(&mut self, file: FileId) {
        self.files.remove(&file);
    }

    /// All files of a member, those that are only known to be refused too.
    pub(super) fn of_member(&self, member: &str) -> Vec<FileId> {
        let own = |file: &File| file.all().any(|held| held.credential.member == member);
        self.files.iter().filter(|(_, file)| own(file)).map(|(id, _)| *id).collect()
    }

    /// Whose a file is.
    pub(super) fn owner(&self, file: FileId) -> Option<&str> {
        self.files.get(&file)?.all().next().map(|held| &*held.credential.member)
    }

    /// How many files of a member are accepted.
    pub(super) fn count_of(&self, member: &str) -> usize {
        let own = |held: &Held| held.credential.member == member;
        self.files.values().filter(|file| file.held.iter().any(own)).count()
    }

    /// Secrets that are accepted.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Credential> {
        self.held().map(|held| &held.credential)
    }

    /// The secrets of a file as they are to be made durable.
    pub(super) fn durable(&self, file: FileId) -> Vec<Credential> {
        let Some(file) = self.files.get(&file) else { return Vec::new() };
        let pending = file.renewal.as_ref().and_then(|renewal| renewal.pending.as_ref());
        let held = file.all().map(|held| &held.credential);
        let mut all: Vec<_> = held.chain(pending).map(Credential::duplicate).collect();
        all.sort_by_key(|credential| credential.timestamp);
        all
    }

    /// A session was established with a secret (PROTOCOL 5.2).
    pub(super) fn established(&mut self, now: Now, id: SecretId) -> Established {
        let mut done = Established::default();
        let Some(file) = self.files.get_mut(&id.file) else { return done };
        let own = file.held.iter().find(|held| held.credential.timestamp == id.timestamp);
        let Some(own) = own else { return done };
        if matches!(own.credential.status, CredentialStatus::Dying { .. }) {
            // Its client has a newer one, and has said so: this one dies as it was going to.
            return done;
        }
        done.renew = own.credential.carried;
        // The older ones die with it; a newer one was never confirmed, and its client lacks it.
        done.retired = file.retire(now, |held| held.credential.timestamp != id.timestamp);
        done.renew |= done.retired.iter().any(|retired| retired.timestamp > id.timestamp);
        // One that is not durable yet has not been sent to anybody.
        file.renewal = file.renewal.take().filter(|renewal| !renewal.is_durable());
        done
    }

    /// The renewed secret of a file that waits for its confirmation.
    pub(super) fn renewal(&self, file: FileId) -> Option<&Renewal> {
        self.files.get(&file)?.renewal.as_ref()
    }

    /// The same, as it is sent with the announcement of a port.
    pub(super) fn renewal_at(&mut self, file: FileId, port: u16) -> Option<&Renewal> {
        let renewal = self.files.get_mut(&file)?.renewal.as_mut()?;
        renewal.content.server_udp_port = port;
        Some(renewal)
    }

    /// Whether a file may get another secret: at most two are accepted at a time.
    pub(super) fn may_renew(&self, file: FileId) -> bool {
        let Some(file) = self.files.get(&file) else { return false };
        file.renewal.is_none() && file.held.len() < SECRETS_PER_FILE && self.has_room()
    }

    /// A `timestamp` for the next secret of a file: no two share one.
    pub(super) fn fresh_timestamp(&self, file: FileId, unix_s: u64) -> u64 {
        let all = self.files.get(&file).into_iter().flat_map(File::all);
        all.map(|held| held.credential.timestamp + 1).max().unwrap_or(0).max(unix_s)
    }

    /// A file is to get another secret, once that is durable.
    pub(super) fn begin_renewal(&mut self, content: SecurityFile, credential: Credential) {
        if let Some(file) = self.files.get_mut(&credential.file) {
            file.renewal = Some(Renewal { content, pending: Some(credential) });
        }
    }

    /// The renewed secret with this `timestamp` is durable, or could not be made so. Whether its
    /// client may be sent it.
    pub(super) fn end_renewal(&mut self, now: Now, id: SecretId, done: bool) -> bool {
        let Some(file) = self.files.get_mut(&id.file) else { return false };
        let is_it = |renewal: &mut Renewal| {
            renewal.pending.as_ref().is_some_and(|pending| pending.timestamp == id.timestamp)
        };
        let Some(mut renewal) = file.renewal.take_if(is_it) else { return false };
        if let Some(credential) = renewal.pending.take().filter(|_| done) {
            file.held.push(Held::new(now, credential));
            file.renewal = Some(renewal);
        }
        done
    }

    /// The client has stored its renewed file: the secret before it dies in `grace` seconds. False
    /// when that is no news.
    pub(super) fn confirm(&mut self, now: Now, id: SecretId, grace: u64) -> bool {
        let Some(file) = self.files.get_mut(&id.file) else { return false };
        let is_it = |renewal: &mut Renewal| {
            renewal.is_durable() && renewal.content.timestamp == id.timestamp
        };
        if file.renewal.take_if(is_it).is_none() {
            return false;
        }
        let older = |held: &&mut Held| held.credential.timestamp < id.timestamp;
        for held in file.held.iter_mut().filter(older) {
            held.credential.status = CredentialStatus::Dying { at: now.wall.secs() + grace };
            let dies = now.mono + Duration::from_secs(grace);
            held.dies = Some(dies);
            self.next_death = Some(self.next_death.map_or(dies, |at| at.min(dies)));
        }
        true
    }

    /// When to look for secrets that are to be retired: one that went in another way may be the reason.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.next_death
    }

    /// Retires the secrets that are due.
    pub(super) fn retire_due(&mut self, now: Now) -> Vec<SecretId> {
        let due = |held: &Held| held.dies.is_some_and(|at| at <= now.mono);
        let retired = self.files.values_mut().flat_map(|file| file.retire(now, due)).collect();
        self.next_death = self.held().filter_map(|held| held.dies).min();
        retired
    }

    /// Forgets old hellos, secrets that expired or were retired 7 days ago, and of too many retired
    /// ones the oldest; the files that changed.
    pub(super) fn forget(&mut self, now: Now) -> Vec<FileId> {
        let since = |held: &Held| match held.credential.status {
            CredentialStatus::Retired { since } => Some(since),
            CredentialStatus::Accepted | CredentialStatus::Dying { .. } => None,
        };
        let retired = self.files.values().flat_map(|file| &file.retired);
        let mut times: Vec<u64> = retired.filter_map(since).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let cut = times.get(SECRETS_RETIRED).copied();
        let crowded = |held: &Held| cut.is_some_and(|cut| since(held).is_some_and(|at| at <= cut));
        let mut changed = Vec::new();
        for (id, file) in &mut self.files {
            file.hellos.forget(now.mono, now.wall);
            let before = file.all().count();
            file.held.retain(|held| !held.is_forgotten(now.wall.secs()));
            file.retired.retain(|held| !crowded(held) && !held.is_forgotten(now.wall.secs()));
            if file.all().count() != before {
                changed.push(*id);
            }
        }
        self.files.retain(|_, file| file.all().next().is_some() || file.renewal.is_some());
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixMs;

    const FILE: FileId = FileId(7);

    fn at(secs: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_secs(secs), wall: UnixMs(secs * 1000) }
    }

    fn credential(timestamp: u64, carried: bool) -> Credential {
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&timestamp.to_be_bytes());
        Credential {
            file: FILE,
            member: "ann".into(),
            secret: Secret::take(&mut secret),
            timestamp,
            carried,
            status: CredentialStatus::Accepted,
            valid_until: timestamp + 1_000_000,
            grace_period: 300,
            response_timeout: 10,
        }
    }

    fn content(timestamp: u64) -> SecurityFile {
        SecurityFile {
            server_id: "id".into(),
            server_name: "name".into(),
            server_public_ip: "192.0.2.1".into(),
            server_udp_port: 50_000,
            shared_secret: credential(timestamp, false).secret,
            bootstrap_key_id: "b".into(),
            timestamp,
            valid_from: 0,
            valid_until: 0,
            next_rotation: 0,
            grace_period: 300,
            stun_servers: Vec::new(),
            hole_punch_timeout: 60,
            port_schedule: None,
            response_timeout: 10,
        }
    }

    fn is_retired(all: &Credentials, id: SecretId) -> bool {
        all.get(id).is_some_and(Credential::is_retired)
    }

    fn id(timestamp: u64) -> SecretId {
        SecretId { file: FILE, timestamp }
    }

    fn renew(all: &mut Credentials, secs: u64) -> u64 {
        assert!(all.may_renew(FILE));
        let timestamp = all.fresh_timestamp(FILE, secs);
        all.begin_renewal(content(timestamp), credential(timestamp, false));
        assert!(!all.is_accepted(id(timestamp), secs), "not before it is durable");
        assert_eq!(all.durable(FILE).last().unwrap().timestamp, timestamp);
        assert!(all.end_renewal(at(secs), id(timestamp), true));
        timestamp
    }

    fn carried() -> Credentials {
        let mut all = Credentials::default();
        all.accept(at(100), credential(100, true));
        all
    }

    #[test]
    fn a_renewal_that_is_confirmed() {
        let mut all = carried();
        let first = all.established(at(100), id(100));
        assert_eq!(first, Established { retired: [].into(), renew: true });
        let newer = renew(&mut all, 100);
        assert_eq!(newer, 101, "no two share a timestamp");
        assert!(!all.may_renew(FILE), "two at most");
        assert!(!all.confirm(at(101), id(100), 300) && all.confirm(at(101), id(newer), 300));
        assert!(!all.confirm(at(102), id(newer), 300), "once");
        assert!(all.is_accepted(id(100), 400) && !all.may_renew(FILE));
        assert_eq!(all.established(at(102), id(100)), Established::default(), "it has a newer one");
        assert_eq!(all.deadline(), Some(at(401).mono));
        assert_eq!(all.retire_due(at(400)), []);
        assert_eq!(all.retire_due(at(401)), [id(100)]);
        assert!(!all.is_accepted(id(100), 401) && is_retired(&all, id(100)));
        assert!(all.is_accepted(id(newer), 401) && all.may_renew(FILE));
        assert_eq!(
            all.established(at(500), id(newer)),
            Established::default(),
            "hourly from now on"
        );
        all.forget(at(401 + 7 * 86_400));
        assert!(is_retired(&all, id(100)));
        assert_eq!(all.forget(at(402 + 7 * 86_400)), [FILE]);
        assert!(all.get(id(100)).is_none());
    }

    #[test]
    fn a_session_with_the_new_secret_retires_the_old_one() {
        let mut all = carried();
        all.established(at(100), id(100));
        let newer = renew(&mut all, 200);
        let done = all.established(at(201), id(newer));
        assert_eq!(done, Established { retired: [id(100)].into(), renew: false });
        assert!(all.may_renew(FILE));
    }

    #[test]
    fn a_session_with_the_old_secret_retires_what_was_not_confirmed() {
        let mut all = carried();
        all.established(at(100), id(100));
        let lost = renew(&mut all, 200);
        let again = all.established(at(300), id(100));
        assert_eq!(again, Established { retired: [id(lost)].into(), renew: true });
        let newer = renew(&mut all, 300);
        assert!(all.is_accepted(id(newer), 300) && is_retired(&all, id(lost)));
        assert!(!all.confirm(at(301), id(lost), 300));
        let kept = all.durable(FILE);
        assert_eq!(kept.iter().map(|c| c.timestamp).collect::<Vec<_>>(), [100, lost, newer]);
    }

    #[test]
    fn a_renewal_that_is_not_durable_yet() {
        let mut all = carried();
        all.established(at(100), id(100));
        all.begin_renewal(content(200), credential(200, false));
        assert!(all.established(at(201), id(100)).retired.is_empty(), "it was never sent");
        assert!(!all.may_renew(FILE));
        assert!(!all.end_renewal(at(202), id(200), false));
        assert!(all.renewal(FILE).is_none() && all.may_renew(FILE));
        all.begin_renewal(content(203), credential(203, false));
        all.wipe(FILE);
        assert!(!all.end_renewal(at(204), id(203), true), "retired meanwhile: nothing comes back");
        assert!(all.durable(FILE).is_empty());
    }

    #[test]
    fn a_restart_goes_on() {
        let mut all = Credentials::default();
        let mut dying = credential(100, true);
        dying.status = CredentialStatus::Dying { at: 400 };
        all.accept(at(150), dying);
        all.accept(at(150), credential(120, false));
        assert_eq!(all.deadline(), Some(at(400).mono));
        assert!(all.is_accepted(id(100), 399));
        assert_eq!((all.accepted(), all.count_of("ann")), (2, 1));
        // What was not confirmed before the restart is as good as not confirmed at all.
        let mut all = carried();
        all.accept(at(150), credential(120, false));
        let again = all.established(at(200), id(100));
        assert_eq!(again, Established { retired: [id(120)].into(), renew: true });
    }
}
