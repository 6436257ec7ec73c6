//! Watches for what should be looked up later, or should wake somebody (SPEC 11.3, 11.4). What
//! strangers can cause is bounded in memory and told once a minute at most.

use super::audit::{Alert, Audit, Resource};
use crate::error::DropReason;
use crate::limits::{CLOCK_STEP, SCAN_PORTS, SCAN_WINDOW, SWEEP_EVERY, TRIAL_ADDRESSES};
use crate::time::{Duration, Instant, Now};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// Minutes that a member is watched before anything is called unusual.
const USUAL_MINUTES: u32 = 10;
/// Below this many bytes a minute nothing is unusual.
const USUAL_FLOOR: u64 = 1 << 20;
/// Deviations from the mean that are unusual.
const DEVIATIONS: u64 = 8;

/// Where datagrams that nothing opens come from.
#[derive(Debug)]
struct Scan {
    since: Instant,
    ports: BTreeSet<u16>,
}

/// What a member's minutes are like: exponentially weighted mean and mean deviation.
#[derive(Debug, Default)]
struct Usual {
    minutes: u32,
    mean: u64,
    deviation: u64,
    /// Bytes of the minute under way.
    bytes: u64,
    alerted: bool,
}

impl Usual {
    /// A minute is over; what is unusual about it.
    fn minute(&mut self) -> Option<(u64, u64)> {
        let bytes = core::mem::take(&mut self.bytes);
        let limit = self.mean + self.deviation * DEVIATIONS + USUAL_FLOOR;
        let unusual = self.minutes >= USUAL_MINUTES && bytes > limit;
        let usual = self.mean;
        self.minutes = self.minutes.saturating_add(1);
        self.deviation = (self.deviation * 15 + bytes.abs_diff(self.mean)) / 16;
        self.mean = (self.mean * 15 + bytes) / 16;
        let news = unusual && !self.alerted;
        self.alerted = unusual;
        news.then_some((bytes, usual))
    }
}

/// All that is watched.
#[derive(Debug)]
pub(super) struct Monitor {
    told: [u64; DropReason::ALL.len()],
    scans: BTreeMap<IpAddr, Scan>,
    /// Budgets that were used up, and until when that is no news.
    floods: BTreeMap<Option<IpAddr>, Instant>,
    usual: BTreeMap<String, Usual>,
    short: BTreeSet<Resource>,
    clocks: Now,
    /// When full maps may be swept again: not for each datagram that finds them full.
    sweep_at: Instant,
}

impl Monitor {
    pub(super) const fn new(now: Now) -> Self {
        Self {
            told: [0; DropReason::ALL.len()],
            scans: BTreeMap::new(),
            floods: BTreeMap::new(),
            usual: BTreeMap::new(),
            short: BTreeSet::new(),
            clocks: now,
            sweep_at: now.mono,
        }
    }

    fn sweep(&mut self, now: Instant) {
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP_EVERY;
            self.scans.retain(|_, scan| now.since(scan.since) < SCAN_WINDOW);
            self.floods.retain(|_, until| *until > now);
        }
    }

    /// A datagram that nothing opens came.
    pub(super) fn stranger(&mut self, now: Instant, remote: SocketAddr) -> Option<Alert> {
        let address = remote.ip();
        if self.scans.len() >= TRIAL_ADDRESSES && !self.scans.contains_key(&address) {
            self.sweep(now);
            if self.scans.len() >= TRIAL_ADDRESSES {
                return None;
            }
        }
        let fresh = || Scan { since: now, ports: BTreeSet::new() };
        let scan = self.scans.entry(address).or_insert_with(fresh);
        if now.since(scan.since) >= SCAN_WINDOW {
            *scan = fresh();
        }
        // More ports than make a scan need not be counted.
        let news = scan.ports.len() < SCAN_PORTS && scan.ports.insert(remote.port());
        let ports = scan.ports.len();
        (news && ports == SCAN_PORTS).then_some(Alert::PortScan { address, ports })
    }

    /// A budget for trials is used up: that of an address, or that of all together.
    pub(super) fn flood(&mut self, now: Instant, address: Option<IpAddr>) -> Option<Alert> {
        // That of all together always has its place.
        let new = address.is_some() && !self.floods.contains_key(&address);
        if new && self.floods.len() >= TRIAL_ADDRESSES {
            self.sweep(now);
            if self.floods.len() >= TRIAL_ADDRESSES {
                return None;
            }
        }
        // As long as it goes on it is no news.
        let old = self.floods.insert(address, now + SCAN_WINDOW);
        old.is_none_or(|until| until <= now).then_some(Alert::AuthFlood { address })
    }

    /// Bytes that a member sent or got.
    pub(super) fn traffic(&mut self, member: &str, bytes: u64) {
        match self.usual.get_mut(member) {
            Some(usual) => usual.bytes += bytes,
            None => {
                self.usual.insert(member.to_string(), Usual { bytes, ..Usual::default() });
            }
        }
    }

    /// The time at some input: a wall clock that was set.
    pub(super) fn clock(&mut self, now: Now) -> Option<Alert> {
        let wide = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let wall = i64::try_from(now.wall.0).unwrap_or(i64::MAX);
        let before = i64::try_from(self.clocks.wall.0).unwrap_or(i64::MAX);
        let passed = wide(now.mono.since(self.clocks.mono));
        self.clocks = now;
        let step_ms = wall.saturating_sub(before).saturating_sub(passed);
        (step_ms.unsigned_abs() > u64::try_from(wide(CLOCK_STEP)).unwrap_or(u64::MAX))
            .then_some(Alert::Clock { step_ms })
    }

    /// A minute is over: members whose traffic was unusual.
    pub(super) fn minute(&mut self) -> Vec<Alert> {
        let alert = |(member, usual): (&String, &mut Usual)| {
            let (bytes, usual) = usual.minute()?;
            Some(Alert::Anomaly { member: member.clone(), bytes, usual })
        };
        self.usual.iter_mut().filter_map(alert).collect()
    }

    /// How much of a resource is in use.
    pub(super) fn resource(&mut self, what: Resource, used: usize, limit: usize) -> Option<Alert> {
        if used * 4 < limit * 3 {
            self.short.remove(&what);
        }
        let short = used * 10 >= limit * 9;
        (short && self.short.insert(what)).then_some(Alert::Resource { what, used, limit })
    }

    /// What was dropped since the last call.
    pub(super) fn drops(&mut self, drops: &[u64; DropReason::ALL.len()]) -> Vec<Audit> {
        let mut audits = Vec::new();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            let count = drops[index] - self.told[index];
            if count > 0 {
                audits.push(Audit::Dropped { reason, count });
            }
        }
        self.told = *drops;
        audits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixMs;

    fn at(secs: u64) -> Now {
        let mono = Instant::ZERO + Duration::from_secs(secs);
        Now { mono, wall: UnixMs(1_000_000 + secs * 1000) }
    }

    #[test]
    fn twelve_ports_within_a_minute() {
        let mut monitor = Monitor::new(at(0));
        let from = |port| SocketAddr::from(([192, 0, 2, 7], port));
        let mut alerts = 0;
        for port in 0..100 {
            assert!(monitor.stranger(at(0).mono, from(7)).is_none(), "one port is no scan");
            alerts += usize::from(monitor.stranger(at(30).mono, from(1000 + port)).is_some());
        }
        assert_eq!(alerts, 1);
        for port in 0..11 {
            assert!(monitor.stranger(at(61).mono, from(port)).is_none(), "another minute");
        }
        let address = from(0).ip();
        let alert = monitor.stranger(at(100).mono, from(11));
        assert_eq!(alert, Some(Alert::PortScan { address, ports: 12 }));
        for host in 0..10_000_u32 {
            let [_, _, c, d] = host.to_be_bytes();
            monitor.stranger(at(200).mono, ([198, 51, c, d], 1).into());
        }
        assert!(monitor.scans.len() <= TRIAL_ADDRESSES, "bounded");
        let millis = |ms| Instant::ZERO + Duration::from_millis(ms);
        monitor.stranger(millis(259_500), ([203, 0, 113, 1], 1).into());
        let full = monitor.scans.len();
        monitor.stranger(millis(260_000), ([203, 0, 113, 1], 1).into());
        assert_eq!((full, monitor.scans.len()), (TRIAL_ADDRESSES, TRIAL_ADDRESSES));
        monitor.stranger(millis(260_500), ([203, 0, 113, 1], 1).into());
        assert_eq!(monitor.scans.len(), 1, "swept once a second");
    }

    #[test]
    fn a_flood_is_told_once() {
        let mut monitor = Monitor::new(at(0));
        assert!(monitor.flood(at(0).mono, None).is_some());
        for secs in 0..500 {
            assert!(monitor.flood(at(secs).mono, None).is_none());
        }
        assert!(monitor.flood(at(600).mono, None).is_some());
        let mut told = 0;
        for host in 0..10_000_u32 {
            let [_, _, c, d] = host.to_be_bytes();
            let address = Some(IpAddr::from([198, 51, c, d]));
            told += usize::from(monitor.flood(at(700).mono, address).is_some());
        }
        assert!(told <= TRIAL_ADDRESSES && monitor.flood(at(700).mono, None).is_some());
    }

    #[test]
    fn what_is_unusual() {
        let mut monitor = Monitor::new(at(0));
        for minute in 0..30 {
            monitor.traffic("ann", 10 << 20);
            monitor.traffic("bob", if minute % 2 == 0 { 0 } else { 50 << 20 });
            assert_eq!(monitor.minute(), []);
        }
        monitor.traffic("ann", 200 << 20);
        monitor.traffic("bob", 60 << 20);
        let [Alert::Anomaly { member, bytes, .. }] = &monitor.minute()[..] else { panic!() };
        assert_eq!((member.as_str(), *bytes), ("ann", 200 << 20));
        monitor.traffic("ann", 400 << 20);
        assert_eq!(monitor.minute(), [], "told once");
    }

    #[test]
    fn clocks_and_resources() {
        let mut monitor = Monitor::new(at(0));
        assert_eq!(monitor.clock(at(3600)), None);
        let set = Now { wall: UnixMs(at(3660).wall.0 - 720_000), ..at(3660) };
        assert_eq!(monitor.clock(set), Some(Alert::Clock { step_ms: -720_000 }));
        let what = Resource::Sessions;
        assert_eq!(monitor.resource(what, 89, 100), None);
        let alert = Some(Alert::Resource { what, used: 90, limit: 100 });
        assert_eq!(monitor.resource(what, 90, 100), alert);
        assert_eq!(monitor.resource(what, 100, 100), None, "told once");
        monitor.resource(what, 74, 100);
        assert!(monitor.resource(what, 95, 100).is_some());
        let mut drops = [0; DropReason::ALL.len()];
        drops[DropReason::Tag as usize] = 3;
        assert_eq!(monitor.drops(&drops), [Audit::Dropped { reason: DropReason::Tag, count: 3 }]);
        assert_eq!(monitor.drops(&drops), []);
    }
}
