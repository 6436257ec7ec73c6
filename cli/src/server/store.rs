//! The state folder: what a server must not forget, each thing in a file of its own.
//!
//! ```text
//!   server.json         who it is, where it is, the key of its port schedule
//!   members/NAME.json   a member, its bootstrap key and rooms
//!   credentials/N.json  a security file's secrets, each durable before its file is handed out
//!   credentials/N.gone  one that was retired, on its way to be wiped
//!   security/*.sec      security files that wait to be carried
//!   chat.journal        chat on its way
//!   admin.sock, lock    only while a server runs
//! ```

mod retire;

use crate::disk::{self, wipe::wipe};
use crate::failure::{Exit, Failure, Outcome};
use crate::key::BootstrapKey;
use clawchat_core::error::Malformed;
use clawchat_core::id::FileId;
use clawchat_core::limits::ROTATION_INTERVAL;
use clawchat_core::secret::Secret;
use clawchat_core::server::{
    Credential, CredentialStatus, Member, PortChoice, RENEWAL_VALID_FOR, Timing,
};
use clawchat_core::wire::json::{Json, Object, base64};
use clawchat_core::wire::message::is_name;
use clawchat_core::wire::secfile::PortSchedule;
use std::fs::File;
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// How the port is chosen, as the command line and `server.json` say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSetting {
    /// By the keyed schedule.
    Auto,
    /// Any free one, another at each rotation.
    Random,
    /// Always this one.
    Fixed(u16),
}

impl PortSetting {
    /// Reads `auto`, `random` or a port number.
    ///
    /// # Errors
    /// What a port looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "random" => Ok(Self::Random),
            number => match number.parse() {
                Ok(port) if port > 0 => Ok(Self::Fixed(port)),
                _ => Err(format!("`{text}` is neither `auto`, `random` nor a port of 1 to 65535")),
            },
        }
    }

    fn to_text(self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Random => "random".to_owned(),
            Self::Fixed(port) => port.to_string(),
        }
    }
}

/// Who and where the server is.
#[derive(Debug)]
pub struct Identity {
    /// Its id.
    pub server_id: String,
    /// Its name.
    pub name: String,
    /// Address or host name that clients find it under.
    pub public: String,
    /// How its port is chosen.
    pub port: PortSetting,
    /// Seconds from one rotation of keys and port to the next.
    pub rotate_every: u64,
    /// How long a renewed security file is valid, seconds.
    pub renewal_valid_for: u64,
    /// Key of the port schedule.
    seed: Secret<32>,
    /// When its slot 0 began, `unix_s`.
    origin: u64,
}

impl Identity {
    /// A new server.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn generate(name: String, public: String, port: PortSetting, now: u64) -> Outcome<Self> {
        let id = BootstrapKey::generate()?;
        let hex = clawchat_core::wire::message::hex(&id.secret().expose()[..16]);
        let server_id = format!(
            "cc-{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        );
        let seed = BootstrapKey::generate()?.secret().duplicate();
        let origin = now - now % 3600;
        let (rotate_every, renewal_valid_for) = (ROTATION_INTERVAL, RENEWAL_VALID_FOR);
        Ok(Self { server_id, name, public, port, rotate_every, renewal_valid_for, seed, origin })
    }

    /// What the command line may change.
    #[must_use]
    pub fn settings(&self) -> (String, String, PortSetting, u64, u64) {
        let (name, public) = (self.name.clone(), self.public.clone());
        (name, public, self.port, self.rotate_every, self.renewal_valid_for)
    }

    /// How often keys and port rotate, as the core takes it.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing::every(self.rotate_every)
    }

    /// The port's choice, as the core takes it.
    #[must_use]
    pub fn port_choice(&self) -> PortChoice {
        match self.port {
            PortSetting::Fixed(port) => PortChoice::Fixed(port),
            PortSetting::Random => PortChoice::Random,
            PortSetting::Auto => PortChoice::Scheduled(PortSchedule {
                seed: self.seed.duplicate(),
                origin: self.origin,
                interval: self.rotate_every,
            }),
        }
    }

    fn to_object(&self) -> Object {
        Object::new()
            .with("server_id", self.server_id.as_str())
            .with("name", self.name.as_str())
            .with("public", self.public.as_str())
            .with("port", self.port.to_text())
            .with("rotate_every", self.rotate_every)
            .with("renewal_valid_for", self.renewal_valid_for)
            .with("port_seed", base64(self.seed.expose()))
            .with("port_origin", self.origin)
    }

    fn from_object(object: &Object) -> Result<Self, Malformed> {
        let port =
            PortSetting::parse(object.text("port")?).map_err(|_| Malformed::Field("port"))?;
        Ok(Self {
            server_id: object.text("server_id")?.to_owned(),
            name: object.text("name")?.to_owned(),
            public: object.text("public")?.to_owned(),
            port,
            rotate_every: object.uint("rotate_every")?.clamp(1, ROTATION_INTERVAL),
            renewal_valid_for: object.uint("renewal_valid_for")?,
            seed: Secret::take(&mut object.bytes("port_seed")?),
            origin: object.uint("port_origin")?,
        })
    }
}

/// A state folder that is locked by this process.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens a state folder, made if it is missing; `None` when another process has it. What a crash
    /// left half done is finished.
    ///
    /// # Errors
    /// 73, and 78 when it is open to others.
    pub fn open(folder: &Path) -> Outcome<Option<Self>> {
        for part in ["", "members", "credentials", "security"] {
            disk::make_private_folder(&folder.join(part))?;
        }
        let path = folder.join("lock");
        if !path.exists() {
            // Another process may be first; either way it is there.
            drop(disk::write_private(&path, b"", false));
        }
        disk::check_private(&path)?;
        let lock = File::open(&path).map_err(|error| disk::cannot_write(&path, &error))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let store = Self { folder: folder.to_owned(), _lock: lock };
                store.finish();
                for sec in files(&folder.join("security"))? {
                    disk::check_private(&sec)?;
                }
                Ok(Some(store))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(disk::cannot_write(&path, &error.into())),
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Who the server is; `None` before it was first made.
    ///
    /// # Errors
    /// 78.
    pub fn identity(&self) -> Outcome<Option<Identity>> {
        let path = self.folder.join("server.json");
        if !path.exists() {
            return Ok(None);
        }
        read_object(&path, Identity::from_object).map(Some)
    }

    /// Keeps who the server is.
    ///
    /// # Errors
    /// 73.
    pub fn set_identity(&self, identity: &Identity) -> Outcome<()> {
        write_object(&self.folder.join("server.json"), identity.to_object())
    }

    fn member_path(&self, name: &str) -> PathBuf {
        self.folder.join("members").join(format!("{name}.json"))
    }

    /// A member's bootstrap key, made with the member if that is new; true with a new one.
    ///
    /// # Errors
    /// 73, 78.
    pub fn member_key(&self, name: &str, rooms: &[String]) -> Outcome<(BootstrapKey, bool)> {
        let path = self.member_path(name);
        if path.exists() {
            let key = read_object(&path, |object| {
                let text = Zeroizing::new(object.text("bootstrap_key")?.to_owned());
                BootstrapKey::parse(&text).map_err(|_| Malformed::Field("bootstrap_key"))
            })?;
            return Ok((key, false));
        }
        let key = BootstrapKey::generate()?;
        let rooms: Vec<Json> = rooms.iter().map(|room| room.as_str().into()).collect();
        let object = Object::new()
            .with("name", name)
            .with("rooms", rooms)
            .with("bootstrap_key", key.to_base64().as_str());
        write_object(&path, object)?;
        Ok((key, true))
    }

    /// All members.
    ///
    /// # Errors
    /// 78.
    pub fn members(&self) -> Outcome<Vec<Member>> {
        let mut members = Vec::new();
        for path in json_files(&self.folder.join("members"))? {
            members.push(read_object(&path, |object| {
                let rooms = object.list("rooms")?.iter().map(|room| match room {
                    Json::Text(room) if is_name(room) => Ok(room.clone()),
                    _ => Err(Malformed::Field("rooms")),
                });
                let name = object.text("name")?.to_owned();
                if !is_name(&name) {
                    return Err(Malformed::Field("name"));
                }
                Ok(Member { name, rooms: rooms.collect::<Result<_, _>>()? })
            })?);
        }
        members.sort_by(|a: &Member, b| a.name.cmp(&b.name));
        Ok(members)
    }

    fn credential_path(&self, file: FileId) -> PathBuf {
        self.folder.join("credentials").join(format!("{file}.json"))
    }

    /// Makes durable that these, and no others, are the secrets of a file, before one of them is handed
    /// out; `sec` is the security file that waits here to be carried. Once the secret of that is no
    /// longer accepted, it is wiped.
    ///
    /// # Errors
    /// 73.
    pub fn keep_credentials(
        &self,
        file: FileId,
        credentials: &[Credential],
        sec: Option<&str>,
    ) -> Outcome<()> {
        let path = self.credential_path(file);
        if credentials.is_empty() {
            return self.retire(&[file]);
        }
        let waiting = sec.map(ToOwned::to_owned).or_else(|| waiting_sec(&path));
        let live = credentials.iter().any(is_carried_and_accepted);
        // Named until it is wiped, lest a crash in between forget it.
        let named = waiting.as_deref().filter(|name| live || self.sec_path(name).exists());
        let secrets: Vec<Json> = credentials.iter().map(|c| write_credential(c).into()).collect();
        let object =
            Object::new().with("file", file.0).with_some("sec", named).with("secrets", secrets);
        write_object(&path, object)?;
        if let Some(name) = named.filter(|_| !live) {
            // The secrets are kept, and that is what was asked for.
            retire::complain_of(self.wipe_sec(name));
        }
        Ok(())
    }

    /// All credentials.
    ///
    /// # Errors
    /// 78.
    pub fn credentials(&self) -> Outcome<Vec<Credential>> {
        let mut all = Vec::new();
        for path in json_files(&self.folder.join("credentials"))? {
            all.extend(read_object(&path, read_credentials)?);
        }
        Ok(all)
    }

    fn sec_path(&self, name: &str) -> PathBuf {
        self.folder.join("security").join(name)
    }

    fn wipe_sec(&self, name: &str) -> Outcome<()> {
        let path = self.sec_path(name);
        wipe(&path).map_err(|error| disk::cannot_write(&path, &error))
    }

    /// A name for a security file made at `unix_s` that is not taken (SPEC 6.1, PROTOCOL 8).
    ///
    /// # Errors
    /// 73.
    pub fn sec_name(&self, unix_s: u64) -> Outcome<String> {
        let time = clawchat_core::time::UnixMs(unix_s.saturating_mul(1000));
        let ((year, month, day), (hour, minute, second)) = (time.date(), time.time_of_day());
        let stamp = format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}");
        let names = (0..10_000).map(|n| match n {
            0 => format!("clawchat-{stamp}.sec"),
            n => format!("clawchat-{stamp}-{n}.sec"),
        });
        let folder = self.folder.join("security");
        names
            .into_iter()
            .find(|name| !folder.join(name).exists())
            .ok_or_else(|| Failure::new(Exit::CannotWrite, "too many security files of one second"))
    }

    /// Writes a security file to be carried.
    ///
    /// # Errors
    /// 73.
    pub fn write_sec(&self, name: &str, bytes: &[u8]) -> Outcome<PathBuf> {
        let path = self.sec_path(name);
        disk::write_private(&path, bytes, false)?;
        Ok(path)
    }

    /// Wipes a member who was made with a security file that could not be written after all.
    ///
    /// # Errors
    /// 73.
    pub fn forget_member(&self, name: &str) -> Outcome<()> {
        let path = self.member_path(name);
        wipe(&path).map_err(|error| disk::cannot_write(&path, &error))
    }
}

/// The security file that waits to be carried, if there is one.
fn waiting_sec(path: &Path) -> Option<String> {
    let sec = |object: &Object| object.optional("sec", |o, key| o.text(key).map(ToOwned::to_owned));
    read_object(path, sec).ok().flatten().filter(|name| !name.contains('/'))
}

/// Whether the security file that was carried by hand still counts.
const fn is_carried_and_accepted(credential: &Credential) -> bool {
    credential.carried && !credential.is_retired()
}

fn write_credential(credential: &Credential) -> Object {
    let (status, at) = match credential.status {
        CredentialStatus::Accepted => ("accepted", None),
        CredentialStatus::Dying { at } => ("dying", Some(at)),
        CredentialStatus::Retired { since } => ("retired", Some(since)),
    };
    Object::new()
        .with("member", credential.member.as_str())
        .with("secret", base64(credential.secret.expose()))
        .with("timestamp", credential.timestamp)
        .with("carried", credential.carried)
        .with("status", status)
        .with_some("status_at", at)
        .with("valid_until", credential.valid_until)
        .with("grace_period", credential.grace_period)
        .with("response_timeout", credential.response_timeout)
}

fn read_credentials(object: &Object) -> Result<Vec<Credential>, Malformed> {
    let file = FileId(object.uint("file")?);
    let secrets = object.list("secrets")?.iter().map(|secret| match secret {
        Json::Object(secret) => read_credential(file, secret),
        _ => Err(Malformed::Field("secrets")),
    });
    secrets.collect()
}

fn read_credential(file: FileId, object: &Object) -> Result<Credential, Malformed> {
    let status = match object.text("status")? {
        "accepted" => CredentialStatus::Accepted,
        "dying" => CredentialStatus::Dying { at: object.uint("status_at")? },
        "retired" => CredentialStatus::Retired { since: object.uint("status_at")? },
        _ => return Err(Malformed::Field("status")),
    };
    Ok(Credential {
        file,
        member: object.text("member")?.to_owned(),
        secret: Secret::take(&mut object.bytes("secret")?),
        timestamp: object.uint("timestamp")?,
        carried: object.bool("carried")?,
        status,
        valid_until: object.uint("valid_until")?,
        grace_period: object.uint("grace_period")?,
        response_timeout: object.uint("response_timeout")?,
    })
}

/// The `.json` files in a folder; others, left by a crash, count for nothing.
fn json_files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    files_ending(folder, "json")
}

fn files_ending(folder: &Path, wanted: &str) -> Outcome<Vec<PathBuf>> {
    let mut paths = files(folder)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == wanted));
    Ok(paths)
}

fn files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let unreadable = |error: std::io::Error| {
        Failure::new(Exit::Config, format!("cannot list {}: {error}", folder.display()))
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn read_object<T>(path: &Path, read: impl FnOnce(&Object) -> Result<T, Malformed>) -> Outcome<T> {
    let bytes = disk::read_private(path)?;
    let mut object = Object::parse(&bytes).map_err(|what| broken(path, what))?;
    let value = read(&object);
    object.zeroize();
    value.map_err(|what| broken(path, what))
}

fn broken(path: &Path, what: Malformed) -> Box<Failure> {
    Failure::new(Exit::Config, format!("{} is damaged: {what}", path.display()))
        .advice("restore it from a backup, or move it away")
}

/// Writes an object, and wipes what of it was in memory.
fn write_object(path: &Path, mut object: Object) -> Outcome<()> {
    let bytes = Zeroizing::new(object.encode());
    object.zeroize();
    disk::write_private(path, &bytes, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let store = Store::open(&path).unwrap().unwrap();
        assert!(Store::open(&path).unwrap().is_none(), "locked");
        assert!(store.identity().unwrap().is_none());
        let made = Identity::generate("n".into(), "p".into(), PortSetting::Auto, 7300).unwrap();
        store.set_identity(&made).unwrap();
        let again = store.identity().unwrap().unwrap();
        assert_eq!(again.to_object(), made.to_object());
        assert_eq!((made.origin, made.server_id.len()), (7200, 39));
        let (key, new) = store.member_key("ann", &["ops".into()]).unwrap();
        let (same, old) = store.member_key("ann", &[]).unwrap();
        assert!(new && !old && key.secret().same(same.secret()));
        let rooms = vec!["ops".to_owned()];
        assert_eq!(store.members().unwrap(), [Member { name: "ann".into(), rooms }]);
        let (other, _) = store.member_key("bob", &[]).unwrap();
        assert!(!other.secret().same(key.secret()), "each member has its own");
        let credential = |timestamp, carried, status| Credential {
            file: FileId(3),
            member: "ann".into(),
            secret: Secret::take(&mut [5; 32]),
            timestamp,
            carried,
            status,
            valid_until: 9,
            grace_period: 300,
            response_timeout: 10,
        };
        let name = store.sec_name(1_700_000_000).unwrap();
        assert_eq!(name, "clawchat-20231114-221320.sec");
        let sec = store.write_sec(&name, b"x").unwrap();
        assert_eq!(store.sec_name(1_700_000_000).unwrap(), "clawchat-20231114-221320-1.sec");
        let (accepted, dying) = (CredentialStatus::Accepted, CredentialStatus::Dying { at: 7 });
        let first = credential(1, true, accepted);
        store.keep_credentials(FileId(3), &[first], Some(&name)).unwrap();
        let both = [credential(1, true, dying), credential(2, false, accepted)];
        store.keep_credentials(FileId(3), &both, None).unwrap();
        let kept = store.credentials().unwrap();
        assert!(kept[0].secret.same(&both[0].secret) && sec.exists());
        assert_eq!((kept[0].status, kept[1].timestamp, kept[1].carried), (dying, 2, false));
        let retired = CredentialStatus::Retired { since: 8 };
        let later = [credential(1, true, retired), credential(2, false, accepted)];
        store.keep_credentials(FileId(3), &later, None).unwrap();
        assert_eq!(store.credentials().unwrap()[0].status, retired);
        assert!(!sec.exists(), "its secret is worth nothing any more");
        store.retire(&[FileId(3)]).unwrap();
        store.retire(&[FileId(3)]).unwrap();
        assert!(store.credentials().unwrap().is_empty());
        store.keep_credentials(FileId(3), &later, None).unwrap();
        store.keep_credentials(FileId(3), &[], None).unwrap();
        assert!(store.credentials().unwrap().is_empty());
    }

    /// SPEC 6.1, PROTOCOL 8.
    #[test]
    fn names_of_security_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clawchat");
        let store = Store::open(&path).unwrap().unwrap();
        let first = "clawchat-20231114-221320";
        for name in [format!("{first}.sec"), format!("{first}-1.sec"), format!("{first}-2.sec")] {
            assert_eq!(store.sec_name(1_700_000_000).unwrap(), name);
            let sec = store.write_sec(&name, b"x").unwrap();
            assert_eq!(sec, path.join("security").join(&name));
            assert!(store.write_sec(&name, b"y").is_err(), "never over another");
            assert_eq!(std::fs::read(sec).unwrap(), b"x");
        }
        assert_eq!(store.sec_name(1_700_000_001).unwrap(), "clawchat-20231114-221321.sec");
        assert_eq!(store.sec_name(951_782_400).unwrap(), "clawchat-20000229-000000.sec");
    }

    #[test]
    fn damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap().unwrap();
        disk::write_private(&store.folder().join("server.json"), b"{", false).unwrap();
        assert_eq!(store.identity().unwrap_err().exit, Exit::Config);
    }

    const FILE: FileId = FileId(3);

    fn carried(status: CredentialStatus) -> Credential {
        Credential {
            file: FILE,
            member: "ann".into(),
            secret: Secret::take(&mut [5; 32]),
            timestamp: 1,
            carried: true,
            status,
            valid_until: 9,
            grace_period: 300,
            response_timeout: 10,
        }
    }

    /// A store with one credential and the security file that goes with it.
    fn with_sec(folder: &Path) -> (Store, PathBuf) {
        let store = Store::open(folder).unwrap().unwrap();
        let credential = [carried(CredentialStatus::Accepted)];
        store.keep_credentials(FILE, &credential, Some("a.sec")).unwrap();
        let sec = store.write_sec("a.sec", b"x").unwrap();
        (store, sec)
    }

    fn names(store: &Store) -> Vec<String> {
        let paths = files(&store.folder().join("credentials")).unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        paths.iter().map(name).collect()
    }

    #[test]
    fn a_retirement_cut_anywhere_is_finished() {
        for (step, sec_there) in [("renamed", true), ("sec wiped", false), ("overwritten", false)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state");
            let (store, sec) = with_sec(&path);
            let gone = path.join("credentials/3.gone");
            std::fs::rename(store.credential_path(FILE), &gone).unwrap();
            if !sec_there {
                std::fs::remove_file(&sec).unwrap();
            }
            if step == "overwritten" {
                std::fs::write(&gone, [0; 300]).unwrap();
            }
            assert!(store.credentials().unwrap().is_empty(), "{step}");
            drop(store);
            let store = Store::open(&path).unwrap().unwrap();
            assert!(names(&store).is_empty() && !sec.exists(), "{step}");
        }
    }

    #[test]
    fn a_retirement_that_failed_was_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let (store, sec) = with_sec(&folder.path().join("state"));
        disk::faults::fail_syncs(2);
        assert_eq!(store.retire(&[FILE, FileId(4)]).unwrap_err().exit, Exit::CannotWrite);
        assert_eq!(names(&store), ["3.json"]);
        assert!(sec.exists());
        disk::faults::fail_syncs(1);
        store.retire(&[FILE, FileId(4)]).unwrap();
        assert!(names(&store).is_empty() && !sec.exists());
    }

    #[test]
    fn what_a_crash_left_is_wiped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (store, sec) = with_sec(&path);
        let retired = CredentialStatus::Retired { since: 8 };
        // A folder has the name: it can't be wiped, which is not the same as not kept.
        std::fs::remove_file(&sec).unwrap();
        std::fs::create_dir(&sec).unwrap();
        store.keep_credentials(FILE, &[carried(retired)], None).unwrap();
        assert_eq!(store.credentials().unwrap()[0].status, retired);
        std::fs::remove_dir(&sec).unwrap();
        disk::write_private(&sec, b"x", true).unwrap();
        let left = ["", "members", "credentials", "security"]
            .map(|part| path.join(part).join(".tmp-3.json-Xy12"));
        left.iter().for_each(|path| disk::write_private(path, b"a secret", false).unwrap());
        drop(store);
        let store = Store::open(&path).unwrap().unwrap();
        assert!(!sec.exists() && left.iter().all(|path| !path.exists()));
        assert_eq!(names(&store), ["3.json"]);
    }
}
