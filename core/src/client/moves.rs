//! What the server announces: another port to move to, and a renewed security file to keep
//! (PROTOCOL 5.2).

use super::search::{self, PORT};
use super::{Action, Client, Event, Renewal, State, Waits};
use crate::time::{Duration, Instant, Now, UnixMs};
use crate::transport::path::Path;
use crate::wire::message::{Message, PortRotation};
use crate::wire::secfile::SecurityFile;
use alloc::boxed::Box;
use core::net::SocketAddr;
use zeroize::Zeroize;

/// Pause before a file that may be stored is stored again.
const STORE_AGAIN: Duration = Duration::from_secs(10);

/// The server's clock, as it was told at a moment of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerClock {
    pub(super) told_at: Instant,
    pub(super) told: UnixMs,
}

impl ServerClock {
    /// When the server's clock shows `unix_s`; in the past, `told_at` is near enough.
    fn when(self, unix_s: u64) -> Instant {
        let ms = unix_s.saturating_mul(1000).saturating_sub(self.told.0);
        self.told_at + Duration::from_millis(ms)
    }
}

/// The port that the server announced last.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextPort {
    number: u16,
    opens: Instant,
    /// Whether the server is asked for there.
    asked: bool,
}

impl NextPort {
    /// When the server is to be asked for there, if it is not yet.
    pub(super) fn ask_at(self) -> Option<Instant> {
        (!self.asked).then_some(self.opens)
    }
}

/// How far a renewed security file is on its way to the disk.
#[derive(Debug, Default)]
pub(super) enum Renewing {
    /// There is none.
    #[default]
    Idle,
    /// It is being stored.
    Storing(Box<Renewed>),
    /// Nobody knows whether it was stored: it is stored again then, until that is known.
    Doubtful(Box<Renewed>, Instant),
}

/// A renewed security file that is not known to be stored.
#[derive(Debug)]
pub(super) struct Renewed {
    file: SecurityFile,
    /// A newer one that waits behind it.
    behind: Option<Box<SecurityFile>>,
    /// An earlier attempt may have succeeded.
    doubtful: bool,
}

impl Client {
    /// The server announced its port.
    pub(super) fn announced(&mut self, now: Now, mut announced: PortRotation) {
        let file = announced.security_file.take().and_then(|mut object| {
            let file = SecurityFile::from_object(&object).ok();
            object.zeroize();
            file
        });
        if let Some(file) = file {
            self.renew(now, Box::new(file));
        }
        let clock = self.server_clock;
        let opens = clock.map_or(now.mono, |clock| clock.when(announced.opens_at));
        let State::InSession(session, _) = &self.state else { return };
        let present = session.path().remote.port() == announced.new_port;
        // The present port, told with a renewed file, takes nothing back of what is to come.
        if present && self.next_port.is_some_and(|next| !next.asked && next.opens > opens) {
            return;
        }
        self.next_port = Some(NextPort { number: announced.new_port, opens, asked: false });
        self.follow_port(now);
    }

    /// Asks at the announced port, once it opens, whether the server is there; and at its other
    /// addresses while it does not answer at the present one.
    pub(super) fn follow_port(&mut self, now: Now) {
        let State::InSession(session, _) = &mut self.state else { return };
        // A server whose clock was set may be there earlier than it seemed when it told.
        let silent = session.is_silent();
        let due = |next: &&mut NextPort| !next.asked && (silent || next.opens <= now.mono);
        if let Some(next) = self.next_port.as_mut().filter(due) {
            next.asked = true;
            let remote = SocketAddr::new(session.path().remote.ip(), next.number);
            session.aim(now.mono, Path::new(PORT, remote));
        }
        let announced = self.next_port.filter(|next| next.asked).map(|next| next.number);
        session.look_around(now.mono, &self.addresses, announced);
    }

    /// The signal of COMPROMISED goes to all ports and addresses that the server may have by now.
    pub(super) fn signal_elsewhere(&mut self, now: Now) {
        let (State::InSession(session, _), Some(config)) = (&mut self.state, &self.config) else {
            return;
        };
        let mut ports = search::ports(&config.file, now.wall.secs(), 0, config.port);
        ports.push(session.path().remote.port());
        ports.extend(self.next_port.map(|next| next.number));
        ports.sort_unstable();
        ports.dedup();
        let targets = search::targets(&self.addresses, &ports);
        session.signal_elsewhere(targets.into_iter().map(|to| Path::new(PORT, to)).collect());
    }

    fn renew(&mut self, now: Now, file: Box<SecurityFile>) {
        let Some(config) = &self.config else { return };
        let same = config.file.shared_secret.same(&file.shared_secret);
        if config.file.server_id != file.server_id {
            self.events.push_back(Event::NotRenewed);
        } else if same {
            // The server does not know yet that it is stored.
            self.confirm(file.timestamp);
        } else {
            match &mut self.renewing {
                Renewing::Storing(under_way) | Renewing::Doubtful(under_way, _) => {
                    if !under_way.file.shared_secret.same(&file.shared_secret) {
                        under_way.behind = Some(file);
                    }
                }
                Renewing::Idle => {
                    let (file, behind, doubtful) = (*file, None, false);
                    self.store(now, Box::new(Renewed { file, behind, doubtful }));
                }
            }
        }
    }

    fn store(&mut self, now: Now, renewed: Box<Renewed>) {
        let renewal = self.renewal(renewed.file.duplicate());
        self.renewing = Renewing::Storing(renewed);
        self.start(now, Action::StoreSecurityFile { renewal }, Waits::Store);
    }

    fn renewal(&mut self, content: SecurityFile) -> Box<Renewal> {
        let (salt, iv) = (self.random.public.array(), self.random.public.array());
        Box::new(Renewal { content, salt, iv })
    }

    /// The renewed file is stored, or is not, or nobody knows (`None`).
    pub(super) fn stored(&mut self, now: Now, done: Option<bool>) {
        let Renewing::Storing(mut renewed) = core::mem::take(&mut self.renewing) else { return };
        match done {
            Some(true) => {
                let (timestamp, valid_until) = (renewed.file.timestamp, renewed.file.valid_until);
                if let Some(config) = &mut self.config {
                    config.file = renewed.file;
                    self.events.push_back(Event::Renewed { valid_until });
                    self.confirm(timestamp);
                }
            }
            Some(false) if !renewed.doubtful => self.events.push_back(Event::NotRenewed),
            Some(false) | None => {
                // A session begun with the present secret would retire the renewed one, which may be
                // all that the disk holds.
                if !renewed.doubtful {
                    self.events.push_back(Event::NotRenewed);
                }
                renewed.doubtful = true;
                self.renewing = Renewing::Doubtful(renewed, now.mono + STORE_AGAIN);
                return;
            }
        }
        if let Some(next) = renewed.behind {
            self.renew(now, next);
        }
    }

    /// When a doubtful file is to be stored again.
    pub(super) const fn store_again_at(&self) -> Option<Instant> {
        match &self.renewing {
            Renewing::Doubtful(_, at) => Some(*at),
            Renewing::Idle | Renewing::Storing(_) => None,
        }
    }

    /// Stores a doubtful file again if that is due.
    pub(super) fn store_again(&mut self, now: Now) {
        if self.store_again_at().is_some_and(|at| at <= now.mono)
            && let Renewing::Doubtful(renewed, _) = core::mem::take(&mut self.renewing)
        {
            self.store(now, renewed);
        }
    }

    /// Tells the server that the file with this `timestamp` is stored. If that is lost, a session begun
    /// with the file tells it as well.
    fn confirm(&mut self, timestamp: u64) {
        if let State::InSession(session, _) = &mut self.state {
            let _lost_with_the_session =
                session.send(&Message::CredentialStored { timestamp }, None);
        }
    }
}
