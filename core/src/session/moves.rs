//! Where a session is, and where it is to go (PROTOCOL 5.2, 6).

use super::{Session, SessionEvent};
use crate::error::{Malformed, Violation};
use crate::time::Instant;
use crate::transport::Transport;
use crate::transport::path::Path;
use crate::wire::message::{Message, PortRotation};
use crate::wire::secfile::SecurityFile;
use core::net::{IpAddr, SocketAddr};
use zeroize::Zeroize;

/// Probe timeouts in a row after which a client looks for its server at other addresses.
const SILENT_PTOS: u32 = 2;

impl Session {
    /// The local binding of its path was closed: it goes on at `path`, without proof.
    pub(crate) fn rehome(&mut self, path: Path) {
        self.path = path;
        if let Some(transport) = self.phase.transport_mut(self.kept()) {
            transport.paths.set_home(path);
            let _not_a_move = transport.take_move();
        }
    }

    /// Says so if the session is on another path than before.
    pub(super) fn note_move(&mut self) {
        if let Some((from, to)) = self.phase.awake_mut().and_then(Transport::take_move) {
            self.path = to;
            self.events.push_back(SessionEvent::Moved { from, to });
        }
    }

    /// A renewed security file in it is as strictly judged as any other message.
    pub(super) fn take_announcement(
        &mut self,
        mut announced: PortRotation,
    ) -> Result<(), Violation> {
        let file = announced.security_file.as_ref().map(SecurityFile::from_object);
        if let Some(Err(_)) = file {
            announced.security_file.zeroize();
            return Err(Violation::Message(Malformed::Field("security_file")));
        }
        self.events.push_back(SessionEvent::Message(Message::PortRotation(announced)));
        Ok(())
    }

    /// Client: moves to `path` as soon as the server answers there (PROTOCOL 5.2).
    pub(crate) fn aim(&mut self, now: Instant, path: Path) {
        if let Some(transport) = self.phase.transport_mut(self.kept()) {
            transport.paths.aim(now, path, false);
        }
    }

    /// Whether the peer does not answer at the present path.
    pub(crate) fn is_silent(&self) -> bool {
        self.phase.transport().is_some_and(|t| t.pto_count() >= SILENT_PTOS)
    }

    /// Client: while the server is silent at the present address, it is asked at its others, and at the
    /// port that it announced last (PROTOCOL 6).
    pub(crate) fn look_around(&mut self, now: Instant, addresses: &[IpAddr], port: Option<u16>) {
        // At rest there is no silence.
        let Some(transport) = self.phase.awake_mut() else { return };
        let home = transport.paths.home();
        if transport.recovery.pto_count() < SILENT_PTOS {
            transport.paths.stay();
            return;
        }
        let present = home.remote.port();
        for ip in addresses {
            for port in core::iter::once(present).chain(port.filter(|port| *port != present)) {
                let remote = SocketAddr::new(*ip, port);
                transport.paths.aim(now, Path { remote, ..home }, true);
            }
        }
    }
}
