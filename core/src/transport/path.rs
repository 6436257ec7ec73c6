//! Where packets come from and go to, and how that changes (PROTOCOL 6).

use crate::id::PortId;
use crate::limits::{AMPLIFICATION, BATCH_BYTES, DATAGRAM_MIN, PATH_PROBES};
use crate::random::Stream;
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::net::{IpAddr, SocketAddr};

/// A path: a local binding and the peer's address (PROTOCOL 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// The local binding.
    pub port: PortId,
    /// The peer's address.
    pub remote: SocketAddr,
    /// The local address that the peer sends to, where the binding has several: answers leave from it.
    pub local: Option<IpAddr>,
}

impl Path {
    /// A path of a binding with one address, or none that matters.
    #[must_use]
    pub const fn new(port: PortId, remote: SocketAddr) -> Self {
        Self { port, remote, local: None }
    }
}

/// A datagram that was written into the caller's buffer.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where it goes.
    pub path: Path,
    /// Bytes written, from the start of the buffer.
    pub len: usize,
    /// Length of each datagram among them but the last, which may be shorter.
    pub segment: usize,
}

impl Transmit {
    /// How many bytes of it go by one call where the system cuts up to `segments` datagrams out of one
    /// buffer (GSO); where it cuts none, that is one.
    #[must_use]
    pub fn at_once(&self, segments: usize) -> usize {
        let segment = self.segment.max(1);
        segment * segments.min(BATCH_BYTES / segment).max(1)
    }

    /// A single datagram.
    pub(crate) const fn one(path: Path, len: usize) -> Self {
        Self { path, len, segment: len }
    }
}

/// Longest pause between two challenges of a path that this side wants to move to.
const GOAL_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Longest time that a path is not doubted again after the old one was proven to be in use.
const REFUTED_MAX: Duration = Duration::from_secs(5);

/// Probes that wait to be sent.
const OUTBOX: usize = 64;
/// Probes of one candidate: those of its path, and two of the old one.
const CANDIDATE_PROBES: usize = PATH_PROBES as usize + 2;

/// What a path's fate is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) now: Instant,
    /// The probe timeout, without back-off.
    pub(crate) pto: Duration,
    /// The smoothed round-trip time.
    pub(crate) rtt: Duration,
}

/// The bytes of a CHALLENGE and the path that it goes by.
type Probe = (Path, [u8; 8]);

/// The old path of a peer whose address seems to have changed: while it answers there, whoever sent
/// from the new one only forwards copies (RFC 9000 §9.3.3).
#[derive(Debug)]
struct Old {
    /// Both challenges that go there.
    challenges: [[u8; 8]; 2],
    /// When the second one goes.
    again_at: Option<Instant>,
    /// Those that have left, of which the last begins the wait.
    sent: u32,
    /// When silence means that nobody is there any more.
    silent_at: Instant,
}

impl Old {
    /// When the wait for an answer is over, once both challenges have left.
    const fn silent(&self) -> Option<Instant> {
        if self.sent < 2 { None } else { Some(self.silent_at) }
    }
}

/// A path from which copies came while the peer was still at the old one.
#[derive(Clone, Copy, Debug)]
struct Refuted {
    path: Path,
    times: u32,
    until: Instant,
}

/// A path that a packet with the highest number came by, and that is not proven yet.
#[derive(Debug)]
struct Candidate {
    path: Path,
    challenges: VecDeque<[u8; 8]>,
    probes: u32,
    received: u64,
    sent: u64,
    next: Instant,
    answered: bool,
    old: Option<Old>,
}

/// A path that this side wants to move to.
#[derive(Debug)]
struct Goal {
    path: Path,
    /// Only while the present path is silent.
    detour: bool,
    challenges: VecDeque<[u8; 8]>,
    probes: u32,
    next: Instant,
}

/// The path of a session, and what may become of it.
#[derive(Debug)]
pub(crate) struct Paths {
    home: Path,
    /// Whether a change of the peer's address is to be doubted: at a server, which has many addresses
    /// in front of it; a client takes packets of its server's addresses only.
    doubts: bool,
    highest: u64,
    candidate: Option<Box<Candidate>>,
    /// No other candidate is probed before.
    not_before: Instant,
    goals: VecDeque<Goal>,
    /// Left for a path that this side wanted: what still comes from there does not draw it back, since
    /// the peer may follow late, or not before it closes the old path. A port is left at all addresses.
    left: Option<Path>,
    refuted: Option<Box<Refuted>>,
    /// When a ping is to go by the path that this side moved to: a peer that was asked at the old one
    /// just before may have taken the first packets from the new one for copies.
    confirm_at: Option<Instant>,
    outbox: VecDeque<Probe>,
}

/// What of it outlives silence.
#[derive(Debug)]
pub(crate) struct Resting {
    doubts: bool,
    highest: u64,
    not_before: Instant,
    left: Option<Box<Path>>,
    refuted: Option<Box<Refuted>>,
}

impl Resting {
    /// All of it again.
    pub(crate) fn wake(self, home: Path) -> Paths {
        Paths {
            highest: self.highest,
            not_before: self.not_before,
            left: self.left.map(|left| *left),
            refuted: self.refuted,
            ..Paths::new(home, self.doubts)
        }
    }
}

impl Paths {
    /// Whether nothing is asked or owed.
    pub(crate) fn may_rest(&self) -> bool {
        self.candidate.is_none()
            && self.goals.is_empty()
            && self.outbox.is_empty()
            && self.confirm_at.is_none()
    }

    /// What is left of it then.
    pub(crate) fn into_resting(self) -> Resting {
        Resting {
            doubts: self.doubts,
            highest: self.highest,
            not_before: self.not_before,
            left: self.left.map(Box::new),
            refuted: self.refuted,
        }
    }

    pub(crate) const fn new(home: Path, doubts: bool) -> Self {
        Self {
            home,
            doubts,
            highest: 0,
            candidate: None,
            not_before: Instant::ZERO,
            goals: VecDeque::new(),
            left: None,
            refuted: None,
            confirm_at: None,
            outbox: VecDeque::new(),
        }
    }

    /// Where packets go.
    pub(crate) const fn home(&self) -> Path {
        self.home
    }

    /// Sets the path without proof: of the packet that establishes a session, or when its local
    /// binding was closed.
    pub(crate) fn set_home(&mut self, path: Path) {
        self.home = path;
        self.candidate = None;
        self.refuted = None;
        self.goals.retain(|goal| goal.path != path);
    }

    /// A packet of `len` bytes opened.
    pub(crate) fn opened(
        &mut self,
        pace: impl FnOnce() -> Pace,
        path: Path,
        seq: u64,
        len: usize,
        random: &mut Stream,
    ) {
        if let Some(candidate) = self.candidate.as_mut().filter(|c| c.path == path) {
            candidate.received += len as u64;
        }
        if seq <= self.highest {
            return;
        }
        self.highest = seq;
        if path == self.home {
            // The peer still sends from there.
            self.candidate.take_if(|candidate| candidate.old.is_some());
        } else if self.candidate.is_none() {
            let pace = pace();
            if self.may_doubt(pace.now, path) {
                self.candidate = Some(Box::new(self.suspect(pace, path, len, random)));
                self.probe_candidate(pace, random);
            }
        }
    }

    fn may_doubt(&self, now: Instant, path: Path) -> bool {
        let refuted = self.refuted.as_ref();
        let refuted = refuted.filter(|refuted| refuted.path == path && refuted.until > now);
        let room = self.outbox.len() + CANDIDATE_PROBES <= OUTBOX;
        self.not_before <= now && refuted.is_none() && !self.is_left(path) && room
    }

    /// Whether this side went away from there because it wanted to be elsewhere. It does not answer
    /// there either: the peer would take that for a sign that it is still there.
    pub(crate) fn is_left(&self, path: Path) -> bool {
        self.left.is_some_and(|left| {
            let same_port = left.remote.port() == self.home.remote.port();
            if same_port { path == left } else { path.remote.port() == left.remote.port() }
        })
    }

    fn suspect(&mut self, pace: Pace, path: Path, len: usize, random: &mut Stream) -> Candidate {
        let changed = self.doubts && path.remote != self.home.remote;
        let old = changed.then(|| {
            let challenges = [random.array(), random.array()];
            push(&mut self.outbox, self.home, challenges[0]);
            let again = pace.now + pace.rtt.min(pace.pto) / 2;
            Old { challenges, again_at: Some(again), sent: 0, silent_at: again + pace.pto }
        });
        Candidate {
            path,
            challenges: VecDeque::new(),
            probes: 0,
            received: len as u64,
            sent: 0,
            next: pace.now,
            answered: false,
            old,
        }
    }

    /// Sends the next CHALLENGE to the candidate if one is due and it has paid for it.
    fn probe_candidate(&mut self, pace: Pace, random: &mut Stream) {
        let Some(candidate) = &mut self.candidate else { return };
        if candidate.answered || candidate.next > pace.now {
            return;
        }
        candidate.next = pace.now + pace.pto;
        self.not_before = candidate.next;
        if candidate.probes >= PATH_PROBES {
            self.candidate = None;
            return;
        }
        candidate.probes += 1;
        if candidate.sent + DATAGRAM_MIN as u64 > candidate.received * AMPLIFICATION {
            return;
        }
        candidate.sent += DATAGRAM_MIN as u64;
        let challenge = random.array();
        candidate.challenges.push_back(challenge);
        push(&mut self.outbox, candidate.path, challenge);
    }

    /// Whether an answer of `len` bytes may go by a path, which is then charged with it.
    pub(crate) fn may_answer(&mut self, path: Path, len: usize) -> bool {
        match &mut self.candidate {
            Some(candidate) if candidate.path == path => {
                let may = candidate.sent + len as u64 <= candidate.received * AMPLIFICATION;
                candidate.sent += if may { len as u64 } else { 0 };
                may
            }
            // It answers a packet that is at least as long.
            Some(_) | None => true,
        }
    }

    /// A RESPONSE came by `path`; true when the session moved by that.
    pub(crate) fn answered(&mut self, pace: Pace, path: Path, data: &[u8; 8]) -> bool {
        let wanted =
            self.goals.iter().any(|goal| goal.path == path && goal.challenges.contains(data));
        if wanted {
            self.goals.clear();
            self.left = Some(self.home);
            self.set_home(path);
            self.confirm_at = Some(pace.now + pace.pto * 2);
            return true;
        }
        let Some(candidate) = &mut self.candidate else { return false };
        if path == candidate.path && candidate.challenges.contains(data) {
            candidate.answered = true;
        } else if candidate.old.as_ref().is_some_and(|old| old.challenges.contains(data)) {
            // By whichever path: who forwards copies may be faster with this one too, and only who is
            // at the old path knows what was asked there.
            self.refute(pace);
        }
        self.settle(pace.now)
    }

    /// The peer is still at the old path.
    fn refute(&mut self, pace: Pace) {
        let Some(path) = self.candidate.take().map(|candidate| candidate.path) else { return };
        let before = self.refuted.as_ref().filter(|refuted| refuted.path == path);
        let times = before.map_or(0, |refuted| refuted.times + 1);
        let until = pace.now + (pace.pto * (1 << times.min(8))).min(REFUTED_MAX);
        self.refuted = Some(Box::new(Refuted { path, times, until }));
    }

    /// Moves if the candidate is proven and the old path silent.
    fn settle(&mut self, now: Instant) -> bool {
        let proven = |candidate: &&Candidate| {
            let silent = |old: &Old| old.silent().is_some_and(|at| at <= now);
            candidate.answered && candidate.old.as_ref().is_none_or(silent)
        };
        let Some(path) = self.candidate.as_deref().filter(proven).map(|c| c.path) else {
            return false;
        };
        self.set_home(path);
        true
    }

    /// Wants to move to `path`: it is challenged until it answers, or another goal is set. A detour
    /// stands beside other goals.
    pub(crate) fn aim(&mut self, now: Instant, path: Path, detour: bool) {
        if !detour {
            self.goals.clear();
        }
        if path != self.home && self.goals.iter().all(|goal| goal.path != path) {
            let challenges = VecDeque::new();
            self.goals.push_back(Goal { path, detour, challenges, probes: 0, next: now });
        }
    }

    /// The present path is fine: gives up the detours.
    pub(crate) fn stay(&mut self) {
        self.goals.retain(|goal| !goal.detour);
    }

    /// A deadline may have come; true when the session moved by that.
    pub(crate) fn on_timeout(&mut self, pace: Pace, random: &mut Stream) -> bool {
        self.probe_candidate(pace, random);
        if let Some(candidate) = &mut self.candidate
            && let Some(old) = &mut candidate.old
            && old.again_at.is_some_and(|at| at <= pace.now)
        {
            old.again_at = None;
            push(&mut self.outbox, self.home, old.challenges[1]);
        }
        for goal in self.goals.iter_mut().filter(|goal| goal.next <= pace.now) {
            let challenge = random.array();
            goal.challenges.push_back(challenge);
            if goal.challenges.len() > PATH_PROBES as usize {
                goal.challenges.pop_front();
            }
            // One probe per PTO at first; a port that stays silent is asked ever less often.
            goal.next = pace.now + (pace.pto * (1 << goal.probes.min(4))).min(GOAL_INTERVAL_MAX);
            goal.probes += 1;
            // A driver that drains late is asked again later.
            if self.outbox.len() + CANDIDATE_PROBES < OUTBOX {
                push(&mut self.outbox, goal.path, challenge);
            }
        }
        self.settle(pace.now)
    }

    /// Whether a ping is due by the path that this side moved to.
    pub(crate) fn is_confirmation_due(&mut self, now: Instant) -> bool {
        self.confirm_at.take_if(|at| *at <= now).is_some()
    }

    /// The next CHALLENGE to send. The wait for the old path's answer begins when it leaves, however
    /// late.
    pub(crate) fn poll(&mut self, pace: Pace) -> Option<Probe> {
        let probe = self.outbox.pop_front()?;
        let old = self.candidate.as_mut().and_then(|candidate| candidate.old.as_mut());
        if let Some(old) = old.filter(|old| old.challenges.contains(&probe.1)) {
            old.sent += 1;
            old.silent_at = old.silent_at.max(pace.now + pace.pto);
        }
        Some(probe)
    }

    /// When [`Self::on_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.goals.is_empty() && self.candidate.is_none() {
            return self.confirm_at;
        }
        let goals = self.goals.iter().map(|goal| goal.next).min();
        let candidate = self.candidate.as_ref().and_then(|candidate| {
            let old = candidate.old.as_ref();
            let again = old.and_then(|old| old.again_at);
            let own =
                if candidate.answered { old.and_then(Old::silent) } else { Some(candidate.next) };
            again.into_iter().chain(own).min()
        });
        goals.into_iter().chain(candidate).chain(self.confirm_at).min()
    }
}

/// Queues a probe, for which there is room.
fn push(outbox: &mut VecDeque<Probe>, path: Path, challenge: [u8; 8]) {
    debug_assert!(outbox.len() < OUTBOX, "a candidate begins only with room for all its probes");
    outbox.push_back((path, challenge));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DATAGRAM_MAX;
    use crate::random::{Random, Seed};
    use alloc::vec::Vec;

    const RTT: Duration = Duration::from_millis(100);
    const PTO: Duration = Duration::from_millis(300);

    #[test]
    fn batches_fit_one_call() {
        let at_once =
            |segment, segments| Transmit { path: path(0, 1), len: 1, segment }.at_once(segments);
        assert_eq!(at_once(1200, 64), 54 * 1200);
        assert_eq!(at_once(1200, 1), 1200);
        assert_eq!(at_once(64, 64), 64 * 64);
        assert_eq!(at_once(DATAGRAM_MAX, 64), DATAGRAM_MAX);
        assert_eq!(at_once(0, 64), 64);
    }

    fn path(port: u32, host: u8) -> Path {
        Path::new(PortId(port), ([192, 0, 2, host], 4000).into())
    }

    fn pace(ms: u64) -> Pace {
        Pace { now: Instant::from_micros(ms * 1000), pto: PTO, rtt: RTT }
    }

    fn stream() -> Stream {
        Random::new(&Seed::new(&mut [4; 32])).public
    }

    fn probes(paths: &mut Paths) -> Vec<Probe> {
        core::iter::from_fn(|| paths.poll(pace(0))).collect()
    }

    /// Runs all deadlines up to `ms`.
    fn run(paths: &mut Paths, ms: u64, random: &mut Stream) -> bool {
        let mut moved = false;
        while let Some(at) = paths.deadline().filter(|at| *at <= pace(ms).now) {
            moved |= paths.on_timeout(Pace { now: at, ..pace(ms) }, random);
        }
        moved
    }

    #[test]
    fn a_rebinding_moves_within_rtt_and_pto() {
        let (mut paths, mut random) = (Paths::new(path(0, 1), true), stream());
        paths.opened(|| pace(0), path(0, 1), 5, 64, &mut random);
        assert!(probes(&mut paths).is_empty());
        paths.opened(|| pace(1000), path(0, 2), 4, 64, &mut random);
        assert!(probes(&mut paths).is_empty(), "not the highest number");
        paths.opened(|| pace(1000), path(0, 2), 6, 64, &mut random);
        let sent = probes(&mut paths);
        assert_eq!(sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [path(0, 1), path(0, 2)]);
        assert!(!paths.answered(pace(1050), path(0, 1), &sent[1].1), "by the same path only");
        assert!(!run(&mut paths, 1099, &mut random));
        assert_eq!(probes(&mut paths).len(), 1, "the old path is asked twice");
        assert!(!paths.answered(pace(1100), path(0, 2), &sent[1].1), "the old one may answer");
        assert!(run(&mut paths, 1000 + 400, &mut random));
        assert_eq!(paths.home(), path(0, 2));
    }

    #[test]
    fn whoever_forwards_copies_gets_nothing() {
        let (mut paths, mut random) = (Paths::new(path(0, 1), true), stream());
        for round in 0..50 {
            // A path that was refuted is left alone for up to 5 s.
            let start = round * 6000;
            paths.opened(|| pace(start), path(0, 66), 2 * round + 1, 64, &mut random);
            let sent = probes(&mut paths);
            assert_eq!(sent.len(), 2);
            // The attacker answers at once, the client a round trip later, over the old path.
            assert!(!paths.answered(pace(start + 1), path(0, 66), &sent[1].1));
            assert!(!run(&mut paths, start + 100, &mut random));
            // Of the two challenges one may be lost.
            let old = if round % 2 == 0 { sent[0] } else { probes(&mut paths)[0] };
            probes(&mut paths);
            // What the client answers may be copied too, and be there first.
            let by = if round % 3 == 0 { path(0, 66) } else { path(0, 1) };
            assert!(!paths.answered(pace(start + 150), by, &old.1));
            paths.opened(|| pace(start + 160), path(0, 66), 2 * round + 2, 64, &mut random);
            assert!(probes(&mut paths).is_empty(), "not doubted again at once");
            assert!(!run(&mut paths, start + 999, &mut random));
            assert_eq!(paths.home(), path(0, 1));
        }
    }

    #[test]
    fn silence_counts_from_the_asking() {
        let (mut paths, mut random) = (Paths::new(path(0, 1), true), stream());
        paths.opened(|| pace(0), path(0, 2), 1, 64, &mut random);
        // The driver drains only now.
        run(&mut paths, 700, &mut random);
        let sent: Vec<_> = core::iter::from_fn(|| paths.poll(pace(700))).collect();
        let (_, challenge) = sent.iter().find(|(to, _)| *to == path(0, 2)).copied().unwrap();
        assert!(!paths.answered(pace(701), path(0, 2), &challenge), "the old one may answer yet");
        assert!(!run(&mut paths, 999, &mut random) && run(&mut paths, 1000, &mut random));
    }

    #[test]
    fn another_local_port_needs_one_answer() {
        let (mut paths, mut random) = (Paths::new(path(0, 1), true), stream());
        paths.opened(|| pace(0), path(1, 1), 1, 64, &mut random);
        let sent = probes(&mut paths);
        assert_eq!(sent.len(), 1);
        assert!(paths.answered(pace(100), path(1, 1), &sent[0].1));
        assert_eq!(paths.home(), path(1, 1));
    }

    #[test]
    fn three_times_what_it_paid() {
        let (mut paths, mut random) = (Paths::new(path(0, 1), true), stream());
        paths.opened(|| pace(0), path(0, 2), 1, 64, &mut random);
        let mut answers = 0;
        while paths.may_answer(path(0, 2), 64) {
            answers += 1;
        }
        assert_eq!(answers, 2, "one of three is the challenge");
        run(&mut paths, 10_000, &mut random);
        let to_new = probes(&mut paths).iter().filter(|(to, _)| *to == path(0, 2)).count();
        assert_eq!(to_new, 1);
        assert!(paths.candidate.is_none(), "given up");
        assert!(paths.may_answer(path(0, 1), 9999));
    }

    #[test]
    fn one_candidate_at_a_time() {
        let (mut paths, mut random) = (Paths::new(path(0, 1), true), stream());
        paths.opened(|| pace(0), path(0, 2), 1, 64, &mut random);
        paths.opened(|| pace(10), path(0, 3), 2, 64, &mut random);
        assert!(probes(&mut paths).iter().all(|(to, _)| *to != path(0, 3)));
        paths.opened(|| pace(20), path(0, 1), 3, 64, &mut random);
        assert!(paths.candidate.is_none(), "it still sends from the old one");
        paths.opened(|| pace(30), path(0, 3), 4, 64, &mut random);
        assert!(probes(&mut paths).is_empty(), "one probe per PTO");
        paths.opened(|| pace(400), path(0, 3), 5, 64, &mut random);
        assert_eq!(probes(&mut paths).len(), 2);
    }

    #[test]
    fn a_peer_that_lags_draws_nobody_back() {
        let (mut paths, mut random) = (Paths::new(path(0, 1), false), stream());
        paths.aim(pace(0).now, path(0, 2), false);
        run(&mut paths, 0, &mut random);
        let (_, challenge) = probes(&mut paths)[0];
        assert!(paths.answered(pace(100), path(0, 2), &challenge));
        paths.opened(|| pace(110), path(0, 1), 7, 64, &mut random);
        assert!(probes(&mut paths).is_empty());
        paths.opened(|| pace(120), path(0, 2), 8, 64, &mut random);
        paths.opened(|| pace(130), path(0, 1), 9, 64, &mut random);
        assert!(probes(&mut paths).is_empty(), "nor when it follows in part");
        paths.opened(|| pace(140), path(0, 3), 10, 64, &mut random);
        assert_eq!(probes(&mut paths).len(), 1, "another one is a candidate as ever");
    }

    #[test]
    fn a_port_is_left_at_all_addresses() {
        let at = |ip: [u8; 4], port: u16| Path::new(PortId(0), (ip, port).into());
        let (one, two) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        let (mut paths, mut random) = (Paths::new(at(one, 4000), false), stream());
        paths.aim(pace(0).now, at(one, 5000), false);
        run(&mut paths, 0, &mut random);
        let (_, challenge) = probes(&mut paths)[0];
        assert!(paths.answered(pace(100), at(one, 5000), &challenge));
        // The peer lags at the old port, which it knows under its other address.
        paths.opened(|| pace(110), at(two, 4000), 7, 64, &mut random);
        assert!(probes(&mut paths).is_empty());
        paths.opened(|| pace(120), at(two, 5000), 8, 64, &mut random);
        assert_eq!(probes(&mut paths).len(), 1, "the new port at another address is a candidate");
    }

    #[test]
    fn goals_are_asked_until_one_answers() {
        let (mut paths, mut random) = (Paths::new(path(0, 1), false), stream());
        paths.aim(pace(0).now, path(0, 2), false);
        paths.aim(pace(0).now, path(0, 3), true);
        run(&mut paths, 5000, &mut random);
        let sent = probes(&mut paths);
        assert!((6..30).contains(&sent.len()), "{}", sent.len());
        let (_, last) = sent.iter().rev().find(|(to, _)| *to == path(0, 3)).unwrap();
        assert!(!paths.answered(pace(5001), path(0, 2), last));
        assert!(paths.answered(pace(5001), path(0, 3), last));
        assert!(paths.goals.is_empty());
        paths.aim(pace(6000).now, path(0, 4), true);
        paths.stay();
        assert_eq!((paths.home(), paths.deadline()), (path(0, 3), Some(pace(5601).now)));
        assert!(!paths.is_confirmation_due(pace(5600).now));
        assert!(paths.is_confirmation_due(pace(5601).now) && paths.deadline().is_none());
    }
}
