//! A connection for the length of a command.

use super::args::Common;
use super::files::ClientFiles;
use super::inbox::Inbox;
use super::open::{self, Opened};
use super::shown::Shown;
use crate::cipher;
use crate::disk::{self, wipe::wipe_through_links};
use crate::failure::{Exit, Failure, Outcome};
use crate::key::BootstrapKey;
use crate::text::{complain, is_interactive, one_line, span};
use clawchat_core::client::{Action, ClientConfig, Event, Renewal};
use clawchat_core::crypto::envelope;
use clawchat_core::error::CloseReason;
use clawchat_core::id::{ChatId, TransferId};
use clawchat_core::limits::{KeyLimits, SECURITY_FILE_MAX};
use clawchat_core::ops::{self, Chunk, Want};
use clawchat_core::wire::message::{Chat, ErrorCode, SessionInfo};
use clawchat_smol::{Handle, Host, Options, clock};
use core::cell::RefCell;
use core::net::IpAddr;
use core::time::Duration;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use smol::channel::{Receiver, unbounded};
use smol::future::FutureExt;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Clocks that differ by more are worth a warning.
const SKEW_WARNING_MS: u64 = 30_000;
/// A goodbye waits for its ack at most 3 PTO; this is for a driver that is stuck.
const GOODBYE: Duration = Duration::from_secs(5);
/// A client for whom there was no place asks again after this.
const FULL_PAUSE: Duration = Duration::from_secs(10);

/// The security file on the disk: renewed in place, and wiped on COMPROMISED.
#[derive(Debug)]
struct SecHost {
    sec: Option<PathBuf>,
    key: BootstrapKey,
    files: Arc<ClientFiles>,
}

impl SecHost {
    /// Puts a renewed file in place of the present one, under the same key; false when there is none:
    /// what a person or COMPROMISED has removed does not come back. Nor does an older one replace
    /// what another process of the same user has stored meanwhile.
    fn store(&self, renewal: &Renewal) -> bool {
        let Some(path) = &self.sec else { return false };
        // A link stays one.
        let Ok(path) = std::fs::canonicalize(path) else { return false };
        let present = disk::read_input(&path, SECURITY_FILE_MAX * 2).ok();
        let present = present
            .and_then(|bytes| envelope::open(cipher::provider(), &bytes, self.key.secret()).ok());
        // An attempt before this one may have stored the very same.
        if present.is_some_and(|present| present.timestamp > renewal.content.timestamp) {
            return false;
        }
        let sealed = envelope::seal(
            cipher::provider(),
            &renewal.content,
            self.key.secret(),
            renewal.salt,
            renewal.iv,
        );
        disk::write_private(&path, &sealed, true).is_ok()
    }

    /// Wipes the file, what a link leads to, and what a crash left of writing it.
    fn wipe(&self) -> io::Result<()> {
        let Some(path) = &self.sec else { return Ok(()) };
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let left = disk::wipe_temporary_of(&target);
        wipe_through_links(path).and(left)
    }
}

impl Host for SecHost {
    fn perform(&self, action: &Action) -> ops::Outcome {
        match action {
            Action::StoreSecurityFile { renewal } if self.store(renewal) => ops::Outcome::Done,
            Action::WipeSecurityFiles => match self.wipe() {
                Ok(()) => ops::Outcome::Done,
                Err(error) => {
                    let path = self.sec.as_ref().map(|path| path.display().to_string());
                    let path = one_line(&path.unwrap_or_default());
                    complain(&format!("cannot wipe {path}: {}", disk::plain(&error)));
                    ops::Outcome::Failed
                }
            },
            Action::BindPort { .. }
            | Action::ClosePort { .. }
            | Action::StoreSecurityFile { .. } => ops::Outcome::Failed,
        }
    }

    fn offered(&self, transfer: TransferId, id: ChatId) {
        self.files.offered(transfer, id);
    }

    fn store(&self, chunk: &Chunk<'_>) -> bool {
        self.files.store(chunk)
    }

    fn flush(&self) -> Vec<TransferId> {
        self.files.flush()
    }

    fn load(&self, want: &Want, bytes: &mut [u8]) -> Result<(), &'static str> {
        self.files.load(want, bytes)
    }
}

/// What a command waits for.
#[derive(Debug)]
pub(super) enum Woken {
    Event(Event),
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// The time is over.
    Timeout,
}

/// A connection and all that ends it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) handle: Handle,
    /// Files on their way.
    pub(super) files: Arc<ClientFiles>,
    task: smol::Task<()>,
    signals: Receiver<i32>,
    addresses: Vec<IpAddr>,
    server_name: String,
    /// Where chat is kept by a command that shows none, and kept from such commands.
    inbox: RefCell<Option<Inbox>>,
    /// Chat goes to the inbox, not to the command.
    keeps_chat: bool,
    /// What was shown, by this process or one before it: the server may send it again.
    shown: RefCell<Shown>,
    /// The chat that the command has and shows.
    showing: RefCell<Option<Chat>>,
    interactive: bool,
    quiet: bool,
}

impl Link {
    /// Starts to connect with the file that the command line names.
    pub(super) fn start(common: &Common) -> Outcome<Self> {
        Self::with(common, open::load(common)?)
    }

    pub(super) fn with(common: &Common, opened: Opened) -> Outcome<Self> {
        let signals = signals()?;
        let addresses = open::resolve(&opened.file.server_public_ip)?;
        let server_name = one_line(&opened.file.server_name);
        let config = ClientConfig {
            file: opened.file,
            addresses: addresses.clone(),
            port: common.port,
            reconnect: true,
            key_limits: KeyLimits::default(),
            provider: cipher::provider(),
        };
        let files = Arc::<ClientFiles>::default();
        let host = SecHost { sec: opened.path, key: opened.key, files: Arc::clone(&files) };
        let host = Arc::new(host);
        let (handle, task) = Handle::connect(config, host, Options::default())
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let interactive = is_interactive() && !common.json && !common.no_input;
        let (task, quiet) = (smol::spawn(task), common.quiet);
        Ok(Self {
            handle,
            files,
            task,
            signals,
            addresses,
            server_name,
            inbox: RefCell::default(),
            keeps_chat: true,
            shown: RefCell::default(),
            showing: RefCell::default(),
            interactive,
            quiet,
        })
    }

    /// For commands that show chat as it comes.
    pub(super) const fn showing_chat(mut self) -> Self {
        self.keeps_chat = false;
        self
    }

    /// Chat that other commands kept; each is to be told [`Self::was_shown`] once it is.
    pub(super) fn take_inbox(&self) -> Vec<Chat> {
        let Some(inbox) = self.inbox.borrow().clone() else { return Vec::new() };
        let mut chats = inbox.read().unwrap_or_else(|failure| {
            complain(&failure.to_string());
            Vec::new()
        });
        // A command that was killed may have kept one and got it again.
        let (shown, mut names) = (self.shown.borrow(), BTreeSet::new());
        chats.retain(|chat| !shown.has(chat) && names.insert((chat.from.clone(), chat.id)));
        chats
    }

    /// A chat is on the screen.
    pub(super) fn was_shown(&self, chat: &Chat) {
        self.shown.borrow_mut().note(chat);
    }

    /// A chat could not be printed, since whoever read the output went away: ends the process without
    /// a word to the server, where the chat waits for the next time.
    pub(super) fn nobody_reads(&self) -> ! {
        complain("nobody reads the output any more: what is not shown waits for the next time");
        // Not by returning: to drop the link is to say that the rest was dealt with.
        std::process::exit(Exit::CannotWrite as i32)
    }

    /// What [`Self::take_inbox`] gave is on the screen.
    pub(super) fn clear_inbox(&self) {
        if let Some(inbox) = &*self.inbox.borrow() {
            inbox.clear();
        }
    }

    /// Keeps what the command does not show; false for what it is to see.
    fn is_kept(&self, event: &Event) -> bool {
        match event {
            Event::Connected { info, .. } => {
                self.inbox.replace(Inbox::of(info));
                self.shown.replace(Shown::of(info));
                false
            }
            Event::Chat(chat) if self.shown.borrow().has(chat) => true,
            Event::Chat(chat) if self.keeps_chat => {
                let kept = self.inbox.borrow().as_ref().map(|inbox| inbox.keep(chat));
                if !matches!(kept, Some(Ok(()))) {
                    // Nowhere to keep it: shown here rather than lost.
                    complain(&super::show::chat(chat));
                }
                true
            }
            Event::Chat(chat) => {
                self.showing.replace(Some(chat.clone()));
                false
            }
            _ => false,
        }
    }

    /// The next thing to act on, until `deadline`. A chat given before is on the screen by now, and is
    /// noted before it is acknowledged: one that is lost on the way is never missed, and only one that
    /// is shown in the moment in which the process is killed may be shown again.
    pub(super) async fn next(&self, deadline: Option<Instant>) -> Woken {
        if let Some(chat) = self.showing.take() {
            self.was_shown(&chat);
        }
        let event = async {
            loop {
                match self.handle.next_event().await {
                    Some(event) if self.is_kept(&event) => {}
                    Some(event) => return Woken::Event(event),
                    None => smol::future::pending().await,
                }
            }
        };
        let signal = async {
            match self.signals.recv().await {
                Ok(_) => Woken::Signal,
                Err(_) => smol::future::pending().await,
            }
        };
        let timeout = async {
            match deadline {
                Some(at) => drop(smol::Timer::at(at).await),
                None => smol::future::pending().await,
            }
            Woken::Timeout
        };
        event.or(signal).or(timeout).await
    }

    /// Waits until there is a session.
    pub(super) async fn connected(&self, timeout: Duration) -> Outcome<SessionInfo> {
        let mut deadline = Instant::now() + timeout;
        loop {
            match self.next(Some(deadline)).await {
                Woken::Event(Event::Connected { info, skew_ms, .. }) => {
                    self.warn_of_skew(skew_ms);
                    return Ok(info);
                }
                Woken::Event(Event::Closed(reason)) => {
                    let full =
                        matches!(reason, CloseReason::Refused { code: ErrorCode::ServerFull, .. });
                    let failure = self.failure(&reason, timeout);
                    if !full || !self.interactive {
                        return Err(failure);
                    }
                    complain(&format!("{failure}\n  waiting… (Ctrl-C to stop)"));
                    if let Woken::Signal = self.next(Some(Instant::now() + FULL_PAUSE)).await {
                        return Err(failure);
                    }
                    self.handle.reconnect();
                    deadline = Instant::now() + timeout;
                }
                Woken::Event(_) => {}
                Woken::Signal => return Err(Failure::new(Exit::Interrupted, "interrupted")),
                Woken::Timeout => return Err(self.failure(&CloseReason::Unreachable, timeout)),
            }
        }
    }

    fn warn_of_skew(&self, skew_ms: i64) {
        let off = skew_ms.unsigned_abs();
        if off > SKEW_WARNING_MS && !self.quiet {
            let side = if skew_ms > 0 { "ahead of" } else { "behind" };
            let off = span(off / 1000);
            complain(&format!("warning: this computer's clock is {off} {side} the server's"));
        }
    }

    /// A session's end as a failure.
    pub(super) fn failure(&self, reason: &CloseReason, timeout: Duration) -> Box<Failure> {
        match reason {
            CloseReason::Unreachable | CloseReason::Idle | CloseReason::KeysWorn => {
                self.unreachable(timeout)
            }
            CloseReason::Refused { code, message, now } => {
                let said = format!("the server says: {}", one_line(message));
                match code {
                    ErrorCode::ClockSkew => clock_skew(now.map(|now| now.0)),
                    ErrorCode::Expired => Failure::new(
                        Exit::SecExpired,
                        "the server no longer accepts this security file",
                    )
                    .advice("ask for a new one: clawchat-server issue NAME"),
                    ErrorCode::ServerFull => {
                        Failure::new(Exit::TryLater, "the server is full").fact(said)
                    }
                    ErrorCode::Superseded => Failure::new(
                        Exit::TryLater,
                        "another session with this security file took over",
                    )
                    .advice("use one security file for each device: clawchat-server issue NAME"),
                    ErrorCode::Shutdown | ErrorCode::RateLimited => {
                        Failure::new(Exit::TryLater, format!("refused ({})", code.name()))
                            .fact(said)
                    }
                    ErrorCode::NoRecipient | ErrorCode::Protocol | ErrorCode::Internal => {
                        Failure::new(Exit::Failed, format!("refused ({})", code.name())).fact(said)
                    }
                }
            }
            CloseReason::Ended(code) => {
                Failure::new(Exit::Failed, format!("the connection failed ({})", code.name()))
            }
            CloseReason::Violated(what) => {
                Failure::new(Exit::Failed, format!("the server broke the protocol: {what}"))
                    .advice("see whether both sides have the same version")
            }
            CloseReason::Goodbye => Failure::new(Exit::Failed, "the session has ended"),
            CloseReason::Wiped => Failure::new(Exit::KeysWiped, "the keys are wiped"),
        }
    }

    fn unreachable(&self, timeout: Duration) -> Box<Failure> {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let what = format!(
            "no answer from {} ({}) in {}",
            self.server_name,
            addresses.join(", "),
            span(timeout.as_secs().max(1))
        );
        Failure::new(Exit::Unreachable, what)
            .fact("The server is off, a firewall drops UDP, or this security file was revoked.")
            .advice("on the server: clawchat-server status")
    }

    /// Says goodbye and waits until that is through.
    ///
    /// # Errors
    /// 84 when COMPROMISED came in between.
    pub(super) async fn leave(mut self) -> Outcome<()> {
        // What still comes is nobody's to show.
        self.keeps_chat = true;
        self.handle.leave();
        let deadline = Some(Instant::now() + GOODBYE);
        loop {
            match self.next(deadline).await {
                Woken::Event(Event::Compromised { .. }) => return Err(self.wiped().await),
                Woken::Event(Event::Closed(_)) | Woken::Signal | Woken::Timeout => return Ok(()),
                Woken::Event(_) => {}
            }
        }
    }

    /// The server raised COMPROMISED: waits for the wipe, tells, and stays to answer copies of the
    /// signal as long as the protocol wants.
    pub(super) async fn wiped(self) -> Box<Failure> {
        let wiped = loop {
            match self.next(None).await {
                Woken::Event(Event::Wiped { ok }) => break ok,
                Woken::Event(_) | Woken::Signal | Woken::Timeout => {}
            }
        };
        let failure = Failure::new(
            Exit::KeysWiped,
            "COMPROMISED received from the server: all keys here are destroyed",
        );
        let failure = if wiped {
            failure
        } else {
            failure
                .fact("The security file could not be wiped: delete it, and every copy, by hand.")
        };
        complain("COMPROMISED received from the server");
        let Self { handle, task, signals, .. } = self;
        drop(handle);
        let signalled = async {
            // A closed channel is no signal.
            if signals.recv().await.is_err() {
                smol::future::pending::<()>().await;
            }
        };
        task.or(signalled).await;
        failure.advice("ask the operator for the new security file, then: clawchat open FILE.sec")
    }
}

fn clock_skew(server_ms: Option<u64>) -> Box<Failure> {
    let here = clock::now().wall.0;
    let what = server_ms.map_or_else(
        || "this computer's clock differs from the server's".to_owned(),
        |server| {
            let side = if here > server { "ahead of" } else { "behind" };
            let off = span(here.abs_diff(server) / 1000);
            format!("this computer's clock is {off} {side} the server's")
        },
    );
    Failure::new(Exit::ClockSkew, what).fact("allowed: 5 min").advice("timedatectl set-ntp true")
}

/// Signals as messages; the third one ends the process at once.
fn signals() -> Outcome<Receiver<i32>> {
    let (sender, receiver) = unbounded();
    let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = signals.map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
    std::thread::spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 || sender.try_send(signal).is_err() {
                std::process::exit(Exit::Interrupted as i32);
            }
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawchat_core::secret::Secret;
    use clawchat_core::wire::secfile::SecurityFile;
    use std::os::unix::fs::PermissionsExt;

    fn content(timestamp: u64, secret: u8) -> SecurityFile {
        SecurityFile {
            server_id: "cc-test".into(),
            server_name: "Test".into(),
            server_public_ip: "192.0.2.1".into(),
            server_udp_port: 50_000,
            shared_secret: Secret::take(&mut [secret; 32]),
            bootstrap_key_id: "bootstrap-ann".into(),
            timestamp,
            valid_from: timestamp,
            valid_until: timestamp + 3600,
            next_rotation: timestamp + 3600,
            grace_period: 300,
            stun_servers: Vec::new(),
            hole_punch_timeout: 60,
            port_schedule: None,
            response_timeout: 10,
        }
    }

    fn store(host: &SecHost, timestamp: u64, secret: u8) -> ops::Outcome {
        let content = content(timestamp, secret);
        let renewal = Box::new(Renewal { content, salt: [secret; 32], iv: [secret; 12] });
        host.perform(&Action::StoreSecurityFile { renewal })
    }

    /// PROTOCOL 5.2: in its place, atomically, mode 600, under the same bootstrap key.
    #[test]
    fn a_renewed_file_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ann.sec");
        let key = || BootstrapKey::parse("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").unwrap();
        let host = SecHost { sec: Some(path.clone()), key: key(), files: Arc::default() };
        let secret = || {
            let file =
                envelope::open(cipher::provider(), &std::fs::read(&path).unwrap(), key().secret())
                    .unwrap();
            *file.shared_secret.expose()
        };
        assert_eq!(store(&host, 5, 1), ops::Outcome::Failed, "what was removed stays so");
        let old =
            envelope::seal(cipher::provider(), &content(5, 1), key().secret(), [1; 32], [1; 12]);
        std::fs::write(&path, &old).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        // Another name of the old file: it is replaced, never written over in part.
        std::fs::hard_link(&path, folder.path().join("old")).unwrap();
        assert_eq!(store(&host, 6, 2), ops::Outcome::Done);
        assert_eq!(secret(), [2; 32]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(folder.path().join("old")).unwrap(), old);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else stays");
        assert_eq!(store(&host, 5, 1), ops::Outcome::Failed, "an older one replaces nothing");
        assert_eq!(secret(), [2; 32]);
        assert_eq!(host.perform(&Action::WipeSecurityFiles), ops::Outcome::Done);
        assert!(!path.exists());
    }

    #[test]
    fn compromised_wipes_through_links_and_what_a_crash_left() {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        let (real, link) = (name("real.sec"), name("link.sec"));
        let host = SecHost {
            sec: Some(link.clone()),
            key: BootstrapKey::generate().unwrap(),
            files: Arc::default(),
        };
        let wipe = || host.perform(&Action::WipeSecurityFiles);
        std::fs::write(&real, "secret").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        for left in [".tmp-real.sec-a1", ".tmp-other-a1"] {
            std::fs::write(name(left), "secret").unwrap();
        }
        assert_eq!(wipe(), ops::Outcome::Done);
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".tmp-other-a1"], "what is not ours stays");
        assert_eq!(wipe(), ops::Outcome::Done, "what is not there is wiped");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(wipe(), ops::Outcome::Failed, "its target can't be wiped");
    }
}
