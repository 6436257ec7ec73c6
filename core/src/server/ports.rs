//! Which port the server listens on, and which next (PROTOCOL 5.2, SPEC 7).

use crate::id::PortId;
use crate::limits::{
    ANNOUNCE, BIND_RETRY, EMERGENCY_GRACE, GRACE_PERIOD, PORT_ATTEMPTS, ROTATION_INTERVAL,
};
use crate::random::Stream;
use crate::time::{Duration, Instant, Now, UnixMs};
use crate::wire::secfile::PortSchedule;
use alloc::vec::Vec;

/// How often keys and port rotate, seconds (SPEC 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one rotation to the next.
    pub interval: u64,
    /// How long the old port stays open; at most a third of the interval.
    pub grace: u64,
    /// How long before a rotation it is prepared and announced; at most a quarter of the interval.
    pub announce: u64,
}

impl Timing {
    /// Rotations each `interval` seconds, at least 1: what SPEC 7.1 says for an hour, and in
    /// proportion for intervals too short for that.
    #[must_use]
    pub fn every(interval: u64) -> Self {
        let interval = interval.max(1);
        let (grace, announce) = (GRACE_PERIOD.min(interval / 3), ANNOUNCE.min(interval / 4));
        Self { interval, grace, announce }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::every(ROTATION_INTERVAL)
    }
}

/// How the port is chosen.
#[derive(Debug)]
pub enum PortChoice {
    /// Always this one.
    Fixed(u16),
    /// Any free one of 49152..65535, another at each rotation (SPEC 7.3).
    Random,
    /// By the keyed schedule, which goes into the security files. Its interval is that of the
    /// server's [`Timing`].
    Scheduled(PortSchedule),
}

/// A port that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) port: PortId,
    pub(super) number: u16,
    slot: u64,
    attempt: u32,
}

/// Why another port is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// There is none yet.
    Start,
    /// A slot begins, or has begun.
    Slot,
    /// Keys were compromised (PROTOCOL 7).
    Emergency,
}

/// The port after the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is not time for it.
    Nothing,
    /// A bind is under way; `left` attempts after it.
    Binding { bound: Bound, left: u32, why: Why },
    /// Bound, and read from then on.
    Waiting { bound: Bound, opens: Instant },
    /// No port could be bound; tried again then.
    Failed { why: Why, retry: Instant },
}

/// What clients are told of a rotation, in `unix_s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) new_port: u16,
    pub(super) opens_at: u64,
    pub(super) closes_old_at: u64,
    pub(super) next_rotation: u64,
    /// Nobody has to be told any more from then on.
    until: Instant,
    /// It is of an emergency: nothing takes its place before that.
    urgent: bool,
}

/// What became of a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BindResult {
    /// The server listens on its first port.
    Listening(u16),
    /// The next port is bound: clients are to be told. In an emergency their keys rotate already.
    Ready { emergency: bool },
    /// Another attempt is to be made.
    Again,
    /// No attempt succeeded.
    Failed,
    /// Nobody waits for that port any more: if it is bound, it is to be closed.
    Stale,
}

/// What time brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// The server moved from one port number to another.
    pub(super) rotated: Option<(u16, u16)>,
    /// Bindings to close.
    pub(super) close: Vec<PortId>,
    /// A bind is to be started.
    pub(super) bind: bool,
    /// The present port is announced for the slot to come.
    pub(super) announce: bool,
}

/// The ports of a server.
#[derive(Debug)]
pub(super) struct Ports {
    choice: PortChoice,
    timing: Timing,
    current: Option<Bound>,
    next: Next,
    closing: Vec<(Bound, Instant)>,
    announcement: Option<Announcement>,
    next_id: u32,
    /// When to look at the slots again.
    look_at: Instant,
}

impl Ports {
    pub(super) fn new(choice: PortChoice, timing: Timing, now: Now, random: &mut Stream) -> Self {
        let mut ports = Self {
            choice,
            timing,
            current: None,
            next: Next::Nothing,
            closing: Vec::new(),
            announcement: None,
            next_id: 0,
            look_at: now.mono,
        };
        let slot = ports.slot(now.wall);
        ports.begin(now, (slot, 0), PORT_ATTEMPTS, Why::Start, random);
        ports
    }

    /// The slot of a time, and seconds until the next one begins.
    fn slot_and_rest(&self, wall: UnixMs) -> (u64, u64) {
        match &self.choice {
            PortChoice::Scheduled(schedule) => {
                (schedule.slot(wall.secs()), schedule.within_slot(wall.secs()).1)
            }
            PortChoice::Fixed(_) | PortChoice::Random => {
                let interval = self.timing.interval;
                (wall.secs() / interval, interval - wall.secs() % interval)
            }
        }
    }

    fn slot(&self, wall: UnixMs) -> u64 {
        self.slot_and_rest(wall).0
    }

    /// When the next rotation is due, `unix_s`.
    pub(super) fn next_rotation(&self, wall: UnixMs) -> u64 {
        wall.secs() + self.slot_and_rest(wall).1
    }

    /// Attempts at a port of a slot, from `attempt` on. The present number is passed over.
    fn begin(
        &mut self,
        now: Now,
        (slot, mut attempt): (u64, u32),
        mut left: u32,
        why: Why,
        random: &mut Stream,
    ) {
        while left > 0 {
            left -= 1;
            let number = match &self.choice {
                PortChoice::Fixed(number) => *number,
                PortChoice::Random => {
                    let [high, low] = random.array();
                    crate::crypto::schedule::PORT_MIN + (u16::from_be_bytes([high, low]) & 0x3fff)
                }
                PortChoice::Scheduled(schedule) => schedule.port(slot, attempt % PORT_ATTEMPTS),
            };
            let present = self.current.is_some_and(|current| current.number == number);
            if !present && self.closing.iter().all(|(bound, _)| bound.number != number) {
                let port = PortId(self.next_id);
                self.next_id += 1;
                let bound = Bound { port, number, slot, attempt };
                self.next = Next::Binding { bound, left, why };
                return;
            }
            attempt += 1;
        }
        self.next = Next::Failed { why, retry: now.mono + BIND_RETRY };
    }

    /// The bind to start, if one is wanted.
    pub(super) const fn wanted(&self) -> Option<(PortId, u16)> {
        match self.next {
            Next::Binding { bound, .. } => Some((bound.port, bound.number)),
            Next::Nothing | Next::Waiting { .. } | Next::Failed { .. } => None,
        }
    }

    /// A bind succeeded or not.
    pub(super) fn bound(
        &mut self,
        now: Now,
        port: PortId,
        done: bool,
        random: &mut Stream,
    ) -> BindResult {
        let Next::Binding { bound, left, why } = self.next else { return BindResult::Stale };
        if bound.port != port {
            return BindResult::Stale;
        }
        if !done {
            let fixed = matches!(self.choice, PortChoice::Fixed(_));
            let left = if fixed { 0 } else { left };
            self.begin(now, (bound.slot, bound.attempt + 1), left, why, random);
            let failed = matches!(self.next, Next::Failed { .. });
            return if failed { BindResult::Failed } else { BindResult::Again };
        }
        match why {
            Why::Start => {
                self.current = Some(bound);
                self.next = Next::Nothing;
                BindResult::Listening(bound.number)
            }
            Why::Slot => {
                let (slot, rest) = self.slot_and_rest(now.wall);
                let wait = if slot < bound.slot { rest } else { 0 };
                self.wait(now, bound, (wait, self.timing.grace), false);
                BindResult::Ready { emergency: false }
            }
            Why::Emergency => {
                self.wait(now, bound, (0, EMERGENCY_GRACE), true);
                BindResult::Ready { emergency: true }
            }
        }
    }

    /// `bound` is read `wait` seconds from now, and what was before it is closed `grace` later.
    fn wait(&mut self, now: Now, bound: Bound, (wait, grace): (u64, u64), urgent: bool) {
        // Whole seconds are what clients are told.
        let opens_at = now.wall.secs() + wait;
        let opens = now.mono + Duration::from_millis((opens_at * 1000).saturating_sub(now.wall.0));
        self.next = Next::Waiting { bound, opens };
        self.announcement = Some(Announcement {
            new_port: bound.number,
            opens_at,
            closes_old_at: opens_at + grace,
            next_rotation: self.next_rotation(UnixMs(opens_at * 1000)),
            until: opens + Duration::from_secs(grace),
            urgent,
        });
    }

    /// Moves at once, as far as the choice of ports allows (PROTOCOL 7). True when a bind is to be
    /// started, false when clients can be told at once; `close` is a port that nobody will use now.
    pub(super) fn emergency(&mut self, now: Now, random: &mut Stream) -> (bool, Option<PortId>) {
        let Some(current) = self.current else { return (false, None) };
        let close = match self.next {
            Next::Waiting { bound, .. } if bound.port != current.port => Some(bound.port),
            Next::Binding { why: Why::Emergency, .. } => return (false, None),
            Next::Waiting { .. } | Next::Binding { .. } | Next::Nothing | Next::Failed { .. } => {
                None
            }
        };
        self.announcement = None;
        // Nobody is on a port longer than that whose keys may be known.
        let latest = now.mono + Duration::from_secs(EMERGENCY_GRACE);
        for (_, at) in &mut self.closing {
            *at = latest.min(*at);
        }
        if matches!(self.choice, PortChoice::Fixed(_)) {
            self.wait(now, current, (0, EMERGENCY_GRACE), true);
            return (false, close);
        }
        // Again from the first after the last.
        let from = (current.slot, current.attempt + 1);
        self.begin(now, from, PORT_ATTEMPTS, Why::Emergency, random);
        (true, close)
    }

    /// Does what is due.
    pub(super) fn turn(&mut self, now: Now, random: &mut Stream) -> Turn {
        let mut turn = Turn::default();
        if let Next::Waiting { bound, opens } = self.next
            && opens <= now.mono
        {
            self.next = Next::Nothing;
            if let Some(old) = self.current.replace(bound).filter(|old| old.port != bound.port) {
                let until = self.announcement.map_or(opens, |announced| announced.until);
                self.closing.push((old, until));
                turn.rotated = Some((old.number, bound.number));
            }
        }
        let due = |(_, at): &mut (Bound, Instant)| *at <= now.mono;
        turn.close = self.closing.extract_if(.., due).map(|(bound, _)| bound.port).collect();
        self.announcement = self.announcement.filter(|announced| announced.until > now.mono);
        if let Next::Failed { why, retry } = self.next
            && retry <= now.mono
        {
            let from = match (why, self.current) {
                (Why::Emergency, Some(current)) => (current.slot, current.attempt + 1),
                (Why::Start, _) => (self.slot(now.wall), 0),
                _ => (self.target(now.wall), 0),
            };
            self.begin(now, from, PORT_ATTEMPTS, why, random);
            turn.bind = true;
        } else if self.next == Next::Nothing && self.urgent_until().is_none() {
            self.look(now, &mut turn, random);
        }
        turn
    }

    /// Until when an emergency's port is announced: the slot to come waits for that, or its own
    /// announcement would take the place of one that few have heard.
    fn urgent_until(&self) -> Option<Instant> {
        self.announcement.filter(|announced| announced.urgent).map(|announced| announced.until)
    }

    /// The slot whose port is to be bound next: the one to come when that is near.
    fn target(&self, wall: UnixMs) -> u64 {
        let (slot, rest) = self.slot_and_rest(wall);
        if rest <= self.timing.announce { slot + 1 } else { slot }
    }

    /// Begins the rotation that is due by the wall clock, which may have been set.
    fn look(&mut self, now: Now, turn: &mut Turn, random: &mut Stream) {
        let Some(current) = self.current else { return };
        let (slot, rest) = self.slot_and_rest(now.wall);
        let target = self.target(now.wall);
        let ahead = rest.saturating_sub(self.timing.announce).max(1);
        self.look_at = now.mono + Duration::from_secs(ahead).min(BIND_RETRY);
        // A clock that was set back a little over the edge of a slot: clients look at both ports.
        let back_a_little = current.slot == slot + 1 && rest <= self.timing.grace;
        if target == current.slot || back_a_little {
            return;
        }
        if matches!(self.choice, PortChoice::Fixed(_)) {
            let wait = if target > slot { rest } else { 0 };
            let bound = Bound { slot: target, ..current };
            self.wait(now, bound, (wait, self.timing.grace), false);
            turn.announce = true;
            return;
        }
        self.begin(now, (target, 0), PORT_ATTEMPTS, Why::Slot, random);
        turn.bind = true;
    }

    /// When [`Self::turn`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = match self.next {
            Next::Nothing => {
                let at = self.urgent_until().map_or(self.look_at, |until| until.max(self.look_at));
                self.current.map(|_| at)
            }
            Next::Waiting { opens, .. } => Some(opens),
            Next::Failed { retry, .. } => Some(retry),
            Next::Binding { .. } => None,
        };
        let closing = self.closing.iter().map(|(_, at)| *at).min();
        next.into_iter().chain(closing).min()
    }

    /// Whether datagrams that arrive at a binding count: what comes to the next port before its time
    /// is drained unread.
    pub(super) fn reads(&self, port: PortId) -> bool {
        self.current.is_some_and(|current| current.port == port)
            || self.closing.iter().any(|(bound, _)| bound.port == port)
    }

    /// Whether the next port is bound, and not read yet.
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.next, Next::Waiting { .. })
    }

    /// What clients are to be told at present.
    pub(super) const fn announcement(&self) -> Option<Announcement> {
        self.announcement
    }

    /// The binding in use.
    pub(super) const fn current(&self) -> Option<Bound> {
        self.current
    }

    /// The port as clients are told it: the bound one, else the first one tried.
    pub(super) fn number(&self) -> Option<u16> {
        let first = self.wanted().map(|(_, number)| number);
        self.current.map(|current| current.number).or(first)
    }

    /// All port numbers that are read.
    pub(super) fn open(&self) -> impl Iterator<Item = u16> {
        let closing = self.closing.iter().map(|(bound, _)| bound.number);
        self.current.map(|current| current.number).into_iter().chain(closing)
    }

    /// Whether nobody can find the next port but by being told.
    pub(super) const fn is_random(&self) -> bool {
        matches!(self.choice, PortChoice::Random)
    }

    pub(super) const fn schedule(&self) -> Option<&PortSchedule> {
        match &self.choice {
            PortChoice::Fixed(_) | PortChoice::Random => None,
            PortChoice::Scheduled(schedule) => Some(schedule),
        }
    }
}

#[cfg(test)]
mod tests;
