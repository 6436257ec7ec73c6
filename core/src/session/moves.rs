//! Where a session is, and where it is to go (PROTOCOL 5.2, 6).

use super::phase::Phase;
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
        let (rests, kept) = (matches!(self.phase, Phase::Resting(_)), self.kept());
        self.path = path;
        if let Some(transport) = self.phase.transport_mut(kept) {
            transport.paths.set_home(path);
            let _not_a_move = transport.take_move();
        }
        if rests {
            // With a port all its sessions move: none has to stay awake for that.
            self.phase.rest();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::RustCrypto;
    use crate::crypto::derive::{ConnectionId, Direction, derive};
    use crate::id::{Epoch, PortId};
    use crate::limits::{DATAGRAM_BASE, KeyLimits};
    use crate::session::Setup;
    use crate::time::{Duration, UnixMs};
    use crate::transport::epochs::{EpochState, Epochs};
    use crate::wire::message::Side;

    /// A session whose datagrams are larger than the least.
    fn session(path: Path) -> Session {
        let keys = derive(b"secret", b"context");
        let epoch = EpochState::new(Instant::ZERO, Epoch(1), keys, Direction::S2c, &RustCrypto);
        let setup = Setup {
            side: Side::Server,
            connection_id: ConnectionId::new(UnixMs(0), 7),
            path,
            epochs: Epochs::new(epoch, KeyLimits::default()),
            response_timeout: Duration::from_secs(10),
            rotation_interval: Duration::from_secs(3600),
            provider: &RustCrypto,
        };
        let mut session = Session::new(Instant::ZERO, setup);
        session.phase.establish();
        let kept = session.kept();
        session.phase.transport_mut(kept).unwrap().recovery.find_size();
        session
    }

    /// A closed port takes a session elsewhere, whose path is another one (PROTOCOL 4.3), whether it rests
    /// or not.
    #[test]
    fn a_session_at_rest_moves_as_any_other() {
        let at = |port| Path::new(PortId(port), ([192, 0, 2, 1], 4000).into());
        for rests in [false, true] {
            let mut session = session(at(0));
            let size = |session: &mut Session| {
                let kept = session.kept();
                session.phase.transport_mut(kept).unwrap().recovery.datagram_size()
            };
            assert!(size(&mut session) > DATAGRAM_BASE);
            if rests {
                session.phase.rest();
                assert!(matches!(session.phase, Phase::Resting(_)));
            }
            session.rehome(at(1));
            assert_eq!(matches!(session.phase, Phase::Resting(_)), rests, "it rests on");
            assert_eq!(session.path(), at(1));
            assert_eq!(size(&mut session), DATAGRAM_BASE);
            assert_eq!(session.phase.awake().unwrap().paths.home(), at(1));
        }
    }

    #[test]
    fn what_was_learned_of_the_path_outlives_a_rest() {
        let path = Path::new(PortId(0), ([192, 0, 2, 1], 4000).into());
        let mut session = session(path);
        session.phase.rest();
        let kept = session.kept();
        let transport = session.phase.transport_mut(kept).unwrap();
        assert!(transport.recovery.datagram_size() > DATAGRAM_BASE);
        assert_eq!(transport.paths.home(), path);
    }
}
