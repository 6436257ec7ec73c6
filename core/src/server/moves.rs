//! Port rotation at the server (PROTOCOL 5.2, SPEC 7.2): bind the next port, rotate each client's
//! keys, announce, open, close.

use super::ports::{Announcement, BindResult, Turn};
use super::{Action, Announce, Event, Server, Waits};
use crate::id::{Epoch, PortId, SessionId};
use crate::time::Now;
use crate::transport::path::Path;
use crate::wire::message::RotationReason;
use alloc::string::ToString;
use alloc::vec::Vec;

impl Server {
    /// Starts the bind that is wanted.
    pub(super) fn bind(&mut self, now: Now) {
        if let Some((port, number)) = self.ports.wanted() {
            let action = Action::BindPort { port, number };
            if self.ops.start(now.mono, action, Waits::Bind(port)).is_err() {
                self.bound(now, port, false);
            }
        }
    }

    pub(super) fn close(&mut self, now: Now, port: PortId) {
        // A binding that stays open by mistake is drained unread.
        let _started = self.ops.start(now.mono, Action::ClosePort { port }, Waits::Nothing);
    }

    /// A bind was completed.
    pub(super) fn bound(&mut self, now: Now, port: PortId, done: bool) {
        match self.ports.bound(now, port, done, &mut self.random.public) {
            BindResult::Listening(port) => self.events.push_back(Event::Listening { port }),
            BindResult::Ready { emergency } => {
                if emergency {
                    self.announce_to_others(now);
                } else {
                    self.rotate_for_announcement(now, RotationReason::Interval, true);
                }
                self.turn_ports(now);
                self.announce_to_all(now);
            }
            BindResult::Again => self.bind(now),
            BindResult::Failed => self.events.push_back(Event::NoPort),
            BindResult::Stale if done => self.close(now, port),
            BindResult::Stale => {}
        }
    }

    /// Does what is due for the ports.
    pub(super) fn turn_ports(&mut self, now: Now) {
        let Turn { rotated, close, bind, announce } = self.ports.turn(now, &mut self.random.public);
        if let Some((from, to)) = rotated {
            self.events.push_back(Event::PortRotated { from, to });
        }
        for port in close {
            self.leave_port(port);
            self.close(now, port);
        }
        if announce {
            self.rotate_for_announcement(now, RotationReason::Interval, true);
        }
        if bind {
            self.bind(now);
        }
        if !self.ports.is_waiting() {
            self.announce_without_files(now);
        }
    }

    /// The port is open: nobody waits any longer for a disk to hear of it. What is renewed later goes
    /// by itself.
    fn announce_without_files(&mut self, now: Now) {
        let credentials = &self.credentials;
        let waits = |(id, entry): (SessionId, &mut super::Entry)| {
            // What is durable already waits for nothing but the keys.
            let late = credentials.renewal(entry.secret.file).is_some_and(|r| !r.is_durable());
            let announce = entry.announce.as_mut().filter(|announce| announce.with_file && late)?;
            announce.with_file = false;
            Some(id)
        };
        let late: Vec<_> = self.sessions.iter_mut().filter_map(waits).collect();
        late.into_iter().for_each(|id| self.announce_if_ready(now, id));
    }

    /// Sessions that are still on a port which closes go on at the present one.
    fn leave_port(&mut self, port: PortId) {
        let Some(current) = self.ports.current() else { return };
        let here = |entry: &super::Entry| entry.session.path().port == port;
        for (_, entry) in self.sessions.iter_mut().filter(|(_, entry)| here(entry)) {
            let path = Path { port: current.port, ..entry.session.path() };
            entry.session.rehome(path);
        }
    }

    /// Has each session rotate its keys, and then hear of the port. Hourly, it also gets a renewed
    /// credential.
    fn rotate_for_announcement(&mut self, now: Now, reason: RotationReason, renew: bool) {
        let ids: Vec<_> = self.established_ids().collect();
        for id in ids {
            let epoch =
                self.with_session(now, id, |session, cx| session.require_rotation(cx, reason));
            let file = self.sessions.get(id).map(|entry| entry.secret.file);
            if renew && let Some(file) = file {
                self.renew(now, file);
            }
            if let (Some(Some(epoch)), Some(entry)) = (epoch, self.sessions.get_mut(id)) {
                entry.announce = Some(Announce { epoch, with_file: renew });
            }
        }
    }

    fn established_ids(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.iter().filter(|(_, e)| e.established.is_some()).map(|(id, _)| id)
    }

    fn announce_to_all(&mut self, now: Now) {
        let ids: Vec<_> = self.established_ids().collect();
        ids.into_iter().for_each(|id| self.announce_if_ready(now, id));
    }

    /// Tells a session of the port once its keys are rotated and its credential is durable.
    pub(super) fn announce_if_ready(&mut self, now: Now, id: SessionId) {
        let told = self.ports.announcement();
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let Some(announce) = &entry.announce else { return };
        let rotated = entry.session.epoch().is_some_and(|epoch| epoch >= announce.epoch);
        let renewal = self.credentials.renewal(entry.secret.file);
        let on_its_way = renewal.is_some_and(|renewal| !renewal.is_durable());
        if !rotated || (announce.with_file && on_its_way) {
            return;
        }
        let with_file = announce.with_file;
        if let Some(told) = told {
            self.tell_port(now, id, told, with_file);
        } else if with_file {
            // The keys took longer than the announcement lasted.
            entry.announce = None;
            self.send_renewal(now, id);
        }
    }

    /// A session established between an announcement and its end is told at once.
    pub(super) fn tell_newcomer(&mut self, now: Now, id: SessionId) {
        if let Some(told) = self.ports.announcement() {
            self.tell_port(now, id, told, false);
        }
    }

    pub(super) fn tell_port(
        &mut self,
        now: Now,
        id: SessionId,
        told: Announcement,
        with_file: bool,
    ) {
        if let Some(entry) = self.sessions.get_mut(id) {
            entry.announce = None;
        }
        let Announcement { new_port, opens_at, closes_old_at, next_rotation, .. } = told;
        self.send_port(now, id, (new_port, opens_at, closes_old_at, next_rotation), with_file);
    }

    /// Keys were compromised: everybody else gets new keys, and the server another port (PROTOCOL 7).
    pub(super) fn emergency_move(&mut self, now: Now) {
        self.rotate_for_announcement(now, RotationReason::Emergency, false);
        let (bind, close) = self.ports.emergency(now, &mut self.random.public);
        if let Some(port) = close {
            self.close(now, port);
        }
        if bind {
            self.bind(now);
        }
        self.turn_ports(now);
    }

    /// Sessions that began while no port could be bound for an emergency hear of it too.
    fn announce_to_others(&mut self, now: Now) {
        for (_, entry) in self.sessions.iter_mut().filter(|(_, e)| e.established.is_some()) {
            entry.announce.get_or_insert(Announce { epoch: Epoch(0), with_file: false });
        }
        if self.ports.is_random() {
            self.renew_for_port(now);
        }
    }

    /// Files name the port that closes, and nothing else tells where the server is now: each session
    /// gets one that names the new port.
    fn renew_for_port(&mut self, now: Now) {
        let ids: Vec<_> = self.established_ids().collect();
        for id in ids {
            let Some(file) = self.sessions.get(id).map(|entry| entry.secret.file) else {
                continue;
            };
            self.renew(now, file);
            let durable =
                self.credentials.renewal(file).is_some_and(|renewal| renewal.is_durable());
            if let Some(announce) = self.sessions.get_mut(id).and_then(|e| e.announce.as_mut()) {
                announce.with_file = durable;
            }
        }
    }

    /// A session has opened a new epoch: it may have waited for that to hear of the port.
    pub(super) fn keys_rotated(&mut self, now: Now, id: SessionId, epoch: Epoch) {
        if let Some(entry) = self.sessions.get(id) {
            let (session, member) = (id, entry.member.to_string());
            self.events.push_back(Event::KeysRotated { session, member, epoch });
        }
        self.announce_if_ready(now, id);
    }
}
