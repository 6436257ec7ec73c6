//! Oracles over sessions, asked after every step: epochs of both sides, rotations that are due, worn
//! keys, one session for each file, and what may go to an address that is not proven.

use crate::oracle::{Verdict, Who, ensure};
use crate::world::{Process, World};
use clawchat_core::crypto::derive::ConnectionId;
use clawchat_core::id::{Epoch, FileId};
use clawchat_core::limits::{DATAGRAM_MAX, EPOCH_AGE_MAX, KeyLimits, ROTATION_MAX};
use clawchat_core::server::{Server, SessionStatus};
use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};

/// What a machine says of a session of its.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whose machine.
    pub who: Who,
    /// The session.
    pub connection: ConnectionId,
    /// Its file; only the server knows.
    pub file: Option<FileId>,
    /// Its sealing epoch.
    pub epoch: Epoch,
    /// Epochs that there are keys of.
    pub held: usize,
    /// Where its peer is.
    pub remote: SocketAddr,
    /// Whether its machine runs, and is not suspended.
    pub awake: bool,
}

/// One side of a session.
#[derive(Debug)]
struct Side {
    epoch: Epoch,
    /// When that epoch was reached, microseconds.
    since: u64,
    /// When a rotation was asked for that is not complete.
    asked: Option<u64>,
    /// Bytes sealed and opened in that epoch.
    bytes: u64,
}

/// A driver may be so late, microseconds; and a machine that wakes needs a moment.
const LATE: u64 = 2_000_000;

/// Sessions as both sides tell of them.
#[derive(Debug, Default)]
pub struct Sessions {
    sides: BTreeMap<(Who, ConnectionId), Side>,
    /// Addresses that are, or were, a session's path.
    homes: BTreeSet<SocketAddr>,
    /// Bytes received from, and sent to, other addresses.
    paid: BTreeMap<SocketAddr, (u64, u64)>,
}

impl Sessions {
    /// All sessions as they are at `now`, microseconds; rotations are due each `interval` seconds.
    ///
    /// # Errors
    /// A complaint.
    pub fn look(&mut self, now: u64, interval: u64, end: u64, seen: &[Seen]) -> Verdict {
        self.sides.retain(|(who, connection), _| {
            seen.iter().any(|seen| seen.who == *who && seen.connection == *connection)
        });
        let mut files = BTreeSet::new();
        for session in seen {
            let Seen { who, connection, epoch, file, .. } = session;
            if *who == Who::Server {
                self.homes.insert(session.remote);
                self.paid.remove(&session.remote);
                ensure(file.is_none_or(|file| files.insert(file)), || {
                    format!("oracle 7: two sessions of file {file:?}")
                })?;
            }
            ensure(session.held <= 3, || {
                format!("oracle 3: {who:?} holds keys of {} epochs", session.held)
            })?;
            let key = (*who, *connection);
            let new = Side { epoch: *epoch, since: now, asked: None, bytes: 0 };
            let side = self.sides.entry(key).or_insert(new);
            if side.epoch != *epoch {
                // That none is skipped is seen in what machines tell: here two may pass between looks.
                ensure(side.epoch < *epoch, || {
                    format!("oracle 3: {who:?} goes from epoch {} back to {epoch}", side.epoch)
                })?;
                *side = Side { epoch: *epoch, since: now, asked: None, bytes: 0 };
            }
            if session.awake {
                in_time(*who, now, interval, end, side)?;
            }
        }
        self.compare(seen)
    }

    /// The epochs of the two sides of a session differ by one at most.
    fn compare(&self, seen: &[Seen]) -> Verdict {
        for server in seen.iter().filter(|seen| seen.who == Who::Server) {
            for client in seen
                .iter()
                .filter(|other| other.who != Who::Server && other.connection == server.connection)
            {
                ensure(client.epoch.0.abs_diff(server.epoch.0) <= 1, || {
                    let (who, epoch, other) = (client.who, client.epoch, server.epoch);
                    format!("oracle 3: {who:?} is in epoch {epoch}, the server in {other}")
                })?;
            }
        }
        Ok(())
    }

    /// A rotation was asked for.
    pub fn asked(&mut self, who: Who, connection: &ConnectionId, now: u64) {
        if let Some(side) = self.sides.get_mut(&(who, *connection)) {
            side.asked.get_or_insert(now);
        }
    }

    /// A side sealed or opened a datagram.
    pub fn carried(&mut self, who: Who, connection: &ConnectionId, len: usize) {
        if let Some(side) = self.sides.get_mut(&(who, *connection)) {
            side.bytes += len as u64;
        }
    }

    /// Whether an address is, or was, a session's path.
    #[must_use]
    pub fn is_home(&self, address: SocketAddr) -> bool {
        self.homes.contains(&address)
    }

    /// A session was established there; it may be gone before anybody looks.
    pub fn established(&mut self, remote: SocketAddr) {
        self.homes.insert(remote);
    }

    /// The server received a datagram from an address.
    pub fn received(&mut self, from: SocketAddr, len: usize) {
        if !self.homes.contains(&from) {
            self.paid.entry(from).or_default().0 += len as u64;
        }
    }

    /// The server sends a datagram to an address that is no session's path.
    ///
    /// # Errors
    /// A complaint.
    pub fn sent_unproven(&mut self, to: SocketAddr, len: usize) -> Verdict {
        let (received, sent) = self.paid.entry(to).or_default();
        *sent += len as u64;
        ensure(*sent <= *received * 3, || {
            format!("oracle 6: {sent} bytes to {to}, from which {received} came")
        })
    }

    /// The server was dropped.
    pub fn server_restarted(&mut self) {
        self.sides.retain(|(who, _), _| *who != Who::Server);
    }
}

/// Rotations are complete and keys replaced in time, and no epoch carries too much.
fn in_time(who: Who, now: u64, interval: u64, end: u64, side: &Side) -> Verdict {
    let (age, late) = (now - side.since, ROTATION_MAX.as_micros() as u64 + LATE);
    let due = interval * 1_000_000;
    ensure(age <= due + late, || {
        format!("oracle 4: {who:?} has epoch {} for {} s", side.epoch, age / 1_000_000)
    })?;
    ensure(side.asked.is_none_or(|asked| now - asked <= late), || {
        format!("oracle 4: a rotation that {who:?} was asked for is not complete after 300 s")
    })?;
    ensure(age <= EPOCH_AGE_MAX.as_micros() as u64 + LATE, || {
        format!("oracle 5: epoch {} of {who:?} is {} s old", side.epoch, age / 1_000_000)
    })?;
    // What was under way when the epoch began is counted here, and in the machine for the one before.
    ensure(side.bytes <= end + 2 * DATAGRAM_MAX as u64, || {
        format!("oracle 5: epoch {} of {who:?} has carried {} bytes", side.epoch, side.bytes)
    })
}

impl World {
    /// Every session of every machine.
    fn seen(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        if let Some(server) = self.server_machine() {
            seen.extend(server.sessions().into_iter().map(|session| Seen {
                who: Who::Server,
                connection: session.connection_id,
                file: Some(session.file),
                epoch: session.epoch,
                held: session.epochs_held,
                remote: session.remote,
                awake: true,
            }));
        }
        let now = self.now();
        for (process, node) in self.processes().filter(|(_, node)| node.runs()) {
            let Some(client) = self.client_machine(process) else { continue };
            if let (Some(connection), Some(epoch), Some(path)) =
                (client.connection_id(), client.epoch(), client.path())
            {
                seen.push(Seen {
                    who: Who::Client(process),
                    connection,
                    file: None,
                    epoch,
                    held: client.epochs_held(),
                    remote: path.remote,
                    // Who just woke is given a moment.
                    awake: now >= node.asleep_until + 1_000_000,
                });
            }
        }
        seen
    }

    /// Asks the oracles over sessions.
    pub(crate) fn look(&mut self) {
        let (seen, now) = (self.seen(), self.now());
        let (interval, end) = (self.setup.interval, self.setup.key_limits.end);
        let verdict = self.oracles.sessions.look(now, interval, end, &seen);
        self.oracles.judge(verdict);
    }

    /// A machine sealed or opened a datagram of the session with `peer`. Only worth its time where
    /// keys may carry little.
    pub(crate) fn account(&mut self, who: Who, peer: SocketAddr, len: usize) {
        if self.setup.key_limits == KeyLimits::default() {
            return;
        }
        let connection = match who {
            Who::Server => {
                let of = |session: &SessionStatus| session.remote == peer;
                let sessions = self.server_machine().map(Server::sessions).unwrap_or_default();
                sessions.into_iter().find(of).map(|session| session.connection_id)
            }
            Who::Client(process) => {
                self.client_machine(process).and_then(|client| client.connection_id())
            }
        };
        if let Some(connection) = connection {
            self.oracles.sessions.carried(who, &connection, len);
        }
    }

    /// The server sends to an address: if no session is there, it may send no more than three times
    /// what came from it (PROTOCOL 6).
    pub(crate) fn judge_unproven(&mut self, to: SocketAddr, len: usize) {
        let home = self.oracles.sessions.is_home(to)
            || self.server_machine().is_some_and(|s| s.sessions().iter().any(|s| s.remote == to));
        if !home {
            let verdict = self.oracles.sessions.sent_unproven(to, len);
            self.oracles.judge(verdict);
        }
    }

    /// Whose traffic goes by a forwarder's address, and that client's own address.
    pub(crate) fn forwarded(&self, to: SocketAddr) -> Option<(Process, SocketAddr)> {
        let (process, _) = self.forwarders.iter().find(|(_, forwarder)| **forwarder == to)?;
        Some((*process, self.client(*process).address?))
    }

    /// The operator asks for a rotation of keys.
    pub fn rotate_by_server(&mut self, member: Option<&str>) {
        let now = self.now();
        let sessions = self.server_machine().map(Server::sessions).unwrap_or_default();
        for session in sessions.iter().filter(|s| member.is_none_or(|name| s.member == name)) {
            self.oracles.sessions.asked(Who::Server, &session.connection_id, now);
        }
        self.with_server(|server, now| server.rotate_keys(now, member));
    }

    /// A user asks for a rotation of keys.
    pub fn rotate_by_client(&mut self, process: Process) {
        let connection = self.client_machine(process).and_then(|c| c.connection_id());
        let asked = self.with_client(process, |client, now| client.rotate_keys(now));
        if let (Some(Ok(())), Some(connection)) = (asked, connection) {
            self.oracles.sessions.asked(Who::Client(process), &connection, self.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawchat_core::time::UnixMs;

    const CLIENT: Who = Who::Client(Process(0));
    const MINUTE: u64 = 60_000_000;

    fn seen(who: Who, nonce: u64, epoch: u64) -> Seen {
        let file = (who == Who::Server).then_some(FileId(7));
        Seen {
            who,
            connection: ConnectionId::new(UnixMs(0), nonce),
            file,
            epoch: Epoch(epoch),
            held: 2,
            remote: ([192, 0, 2, 7], 4000).into(),
            awake: true,
        }
    }

    fn look(sessions: &mut Sessions, now: u64, seen: &[Seen]) -> Verdict {
        sessions.look(now, 3600, 1_000_000, seen)
    }

    #[track_caller]
    fn complains(verdict: Verdict, of: &str) {
        let complaint = verdict.unwrap_err();
        assert!(complaint.contains(of), "{complaint}");
    }

    #[test]
    fn epochs_of_two_sides() {
        let mut sessions = Sessions::default();
        let pair = |one, two| [seen(Who::Server, 1, one), seen(CLIENT, 1, two)];
        assert_eq!(look(&mut sessions, 0, &pair(1, 1)), Ok(()));
        assert_eq!(look(&mut sessions, 1, &pair(1, 2)), Ok(()));
        complains(look(&mut sessions, 2, &pair(1, 3)), "oracle 3");
        let mut sessions = Sessions::default();
        assert_eq!(look(&mut sessions, 0, &pair(2, 1)), Ok(()));
        complains(look(&mut sessions, 1, &pair(1, 1)), "oracle 3");
        complains(look(&mut sessions, 1, &[Seen { held: 4, ..seen(CLIENT, 1, 2) }]), "oracle 3");
    }

    #[test]
    fn rotations_and_worn_keys() {
        let mut sessions = Sessions::default();
        let one = [seen(CLIENT, 1, 1)];
        assert_eq!(look(&mut sessions, 0, &one), Ok(()));
        assert_eq!(look(&mut sessions, 65 * MINUTE, &one), Ok(()));
        let asleep = [Seen { awake: false, ..seen(CLIENT, 1, 1) }];
        assert_eq!(look(&mut sessions, 66 * MINUTE, &asleep), Ok(()));
        complains(look(&mut sessions, 66 * MINUTE, &one), "oracle 4");
        complains(sessions.look(66 * MINUTE, 9000, 1_000_000, &one), "oracle 5");
        let two = [seen(CLIENT, 1, 2)];
        assert_eq!(look(&mut sessions, 66 * MINUTE, &two), Ok(()));
        sessions.asked(CLIENT, &two[0].connection, 66 * MINUTE);
        assert_eq!(look(&mut sessions, 71 * MINUTE, &two), Ok(()));
        complains(look(&mut sessions, 72 * MINUTE, &two), "oracle 4");
        let three = [seen(CLIENT, 1, 3)];
        assert_eq!(look(&mut sessions, 72 * MINUTE, &three), Ok(()));
        sessions.carried(CLIENT, &two[0].connection, 1_000_000);
        assert_eq!(look(&mut sessions, 72 * MINUTE, &three), Ok(()));
        sessions.carried(CLIENT, &two[0].connection, 200_000);
        complains(look(&mut sessions, 72 * MINUTE, &three), "oracle 5");
    }

    #[test]
    fn files_and_addresses() {
        let mut sessions = Sessions::default();
        let (one, two) = (seen(Who::Server, 1, 1), seen(Who::Server, 2, 1));
        complains(look(&mut sessions, 0, &[one.clone(), two.clone()]), "oracle 7");
        let other = Seen { file: Some(FileId(8)), ..two };
        assert_eq!(look(&mut sessions, 0, &[one, other]), Ok(()));
        let stranger = ([192, 0, 2, 8], 4000).into();
        assert!(sessions.is_home(([192, 0, 2, 7], 4000).into()) && !sessions.is_home(stranger));
        sessions.received(stranger, 64);
        assert_eq!(sessions.sent_unproven(stranger, 192), Ok(()));
        complains(sessions.sent_unproven(stranger, 64), "oracle 6");
    }
}
