//! Datagram size discovery (RFC 8899, PROTOCOL 4.3): padded pings look for the largest datagram that
//! the path carries; a black hole leads back to the base.

use crate::limits::{DATAGRAM_BASE, DATAGRAM_MAX};
use crate::time::{Duration, Instant};

/// Sizes worth a probe, each the largest multiple of 16 in a common link's MTU without the IP and
/// UDP headers (28 bytes for IPv4, 48 for IPv6). A finer search would gain a percent of throughput
/// and cost probes on every path.
const SIZES: [usize; 22] = [
    DATAGRAM_BASE,
    1232,   // IPv6's least MTU, 1280, and tunnels that use it: IPv6
    1248,   // the same, IPv4
    1344,   // 1400, mobile networks: IPv6
    1360,   // 1400: IPv4; 1420, WireGuard: IPv6
    1392,   // 1420: IPv4; 1450, VXLAN: IPv6
    1408,   // 1450: IPv4; 1460, clouds: IPv6
    1424,   // 1460: IPv4; 1480, tunnels over IPv4: IPv6
    1440,   // 1476, GRE: IPv4; 1492, PPPoE, and 1500: IPv6
    1456,   // 1492: IPv4
    1472,   // 1500, Ethernet: IPv4
    2272,   // 2304, wireless LAN
    4304,   // 4352, FDDI
    4432,   // 4470, packet over SONET
    8848,   // 8896, clouds
    8944,   // 9000, jumbo frames: IPv6
    8960,   // 9000: IPv4
    16_336, // 16,384, loopback of macOS
    32_720, // 32,768
    65_472, // 65,520, InfiniBand: IPv6
    65_488, // the same, IPv4; 65,536, loopback of Linux: IPv6
    DATAGRAM_MAX,
];
/// The first size to try from below it: that of most paths.
const PIVOT: usize = 10;
/// Probes of one size before it counts as too large (RFC 8899 §5.1.2 `MAX_PROBES`).
const PROBES: u32 = 3;
/// Full datagrams acknowledged before a search: who only chats has no use for one.
const WARM_UP: u32 = 16;
/// A datagram this much below the size is still a full one: the last frame did not fit.
const SLACK: usize = 64;
/// When to search again for what was too large (RFC 8899 §5.1.1 `PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_secs(600);
/// The same after a black hole: sooner, since an outage may look like one, but not at once, since
/// a path that flaps would be searched for ever.
const COOL_DOWN: Duration = Duration::from_secs(60);
/// Times in a row that only large packets are lost, and none arrives, before the path is a black
/// hole. A burst lost to a full queue is one such time, and the next large packet that arrives ends
/// the row; at a tenth of packets lost by chance, four are one in ten thousand.
const LOSSES: u32 = 4;
/// Probe timeouts in a row with large packets in flight that mean the same: then nothing arrives
/// at all, and one alone is common.
const TIMEOUTS: u32 = 2;

const _: () = {
    assert!(SIZES[PIVOT] == 1472);
    let mut index = 1;
    while index < SIZES.len() {
        assert!(SIZES[index - 1] < SIZES[index] && SIZES[index].is_multiple_of(16));
        index += 1;
    }
};

#[derive(Debug)]
enum Phase {
    /// Content with the present size; counts full datagrams acknowledged.
    Base { acked: u32 },
    /// `failed`: the smallest size known to be too large, or the end of the list; `tries` of the
    /// next size were lost; `probe` is in flight: its number and what it tries.
    Searching { failed: usize, tries: u32, probe: Option<(u64, usize)> },
    /// Nothing larger passes; not to be tried again before.
    Complete { until: Instant },
}

/// The size of datagrams on a path. It has no timer of its own: a size is searched for when there is
/// traffic that gains by it.
#[derive(Debug)]
pub(crate) struct Mtu {
    /// Index of the present size.
    at: usize,
    phase: Phase,
    /// Times in a row, and the last of them.
    losses: u32,
    last_loss: Option<Instant>,
}

impl Default for Mtu {
    fn default() -> Self {
        Self { at: 0, phase: Phase::Base { acked: 0 }, losses: 0, last_loss: None }
    }
}

impl Mtu {
    /// Size of a full datagram.
    pub(crate) const fn size(&self) -> usize {
        SIZES[self.at]
    }

    /// As if a search had found the size of most paths.
    #[cfg(test)]
    pub(crate) fn found() -> Self {
        let phase = Phase::Complete { until: Instant::ZERO + RAISE };
        Self { at: PIVOT, phase, ..Self::default() }
    }

    /// Whether it knows nothing of the path that matters after a silence.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.at == 0 && self.losses == 0 && matches!(self.phase, Phase::Base { acked: 0 })
    }

    /// Whether a datagram is larger than every path is assumed to carry.
    pub(crate) const fn is_large(size: usize) -> bool {
        size > DATAGRAM_BASE
    }

    /// Size of the probe that is due.
    pub(crate) fn probe(&self) -> Option<usize> {
        match self.phase {
            Phase::Searching { failed, probe: None, .. } => Some(SIZES[next(self.at, failed)?]),
            _ => None,
        }
    }

    /// The probe that was due went out as packet `seq`.
    pub(crate) fn probe_sent(&mut self, seq: u64) {
        if let Phase::Searching { failed, probe: probe @ None, .. } = &mut self.phase {
            *probe = next(self.at, *failed).map(|index| (seq, index));
        }
    }

    /// The probe `seq` was acknowledged; one of before a move or a black hole says nothing.
    pub(crate) fn on_probe_acked(&mut self, now: Instant, seq: u64) {
        if let Phase::Searching { failed, tries, probe } = &mut self.phase
            && let Some((_, index)) = probe.take_if(|(sent, _)| *sent == seq)
        {
            (self.at, *tries) = (index, 0);
            (self.losses, self.last_loss) = (0, None);
            if next(index, *failed).is_none() {
                self.phase = Phase::Complete { until: now + RAISE };
            }
        }
    }

    /// The probe `seq` was lost.
    pub(crate) fn on_probe_lost(&mut self, now: Instant, seq: u64) {
        if let Phase::Searching { failed, tries, probe } = &mut self.phase
            && let Some((_, index)) = probe.take_if(|(sent, _)| *sent == seq)
        {
            *tries += 1;
            if *tries >= PROBES {
                (*failed, *tries) = (index, 0);
            }
            if next(self.at, *failed).is_none() {
                self.phase = Phase::Complete { until: now + RAISE };
            }
        }
    }

    /// An ordinary packet was acknowledged.
    pub(crate) fn on_acked(&mut self, now: Instant, size: usize) {
        if Self::is_large(size) {
            (self.losses, self.last_loss) = (0, None);
        }
        if size + SLACK < self.size() || self.at + 1 == SIZES.len() {
            return;
        }
        match &mut self.phase {
            Phase::Base { acked } => {
                *acked += 1;
                if *acked >= WARM_UP {
                    self.phase = Phase::Searching { failed: SIZES.len(), tries: 0, probe: None };
                }
            }
            Phase::Complete { until } if now >= *until => self.phase = Phase::Base { acked: 1 },
            Phase::Searching { .. } | Phase::Complete { .. } => {}
        }
    }

    /// An ordinary packet was lost. What is lost at one moment counts once.
    pub(crate) fn on_lost(&mut self, now: Instant, size: usize) {
        if self.at > 0 && Self::is_large(size) && self.last_loss != Some(now) {
            self.last_loss = Some(now);
            self.losses += 1;
            if self.losses >= LOSSES {
                self.black_hole(now);
            }
        }
    }

    /// The `count`th probe timeout in a row; `large`: with a large packet in flight.
    pub(crate) fn on_probe_timeout(&mut self, now: Instant, count: u32, large: bool) {
        if self.at > 0 && large && count >= TIMEOUTS {
            self.black_hole(now);
        }
    }

    fn black_hole(&mut self, now: Instant) {
        *self = Self { phase: Phase::Complete { until: now + COOL_DOWN }, ..Self::default() };
    }
}

/// The size to try between one that passes and one that does not: at first the most likely one,
/// then the largest, then halves.
fn next(passes: usize, failed: usize) -> Option<usize> {
    if failed < SIZES.len() {
        return (failed - passes > 1).then_some(passes.midpoint(failed));
    }
    let first = if passes < PIVOT { PIVOT } else { SIZES.len() - 1 };
    (first > passes).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const NOW: Instant = Instant::from_micros(5);

    fn warm_up(mtu: &mut Mtu, now: Instant) {
        (0..WARM_UP).for_each(|_| mtu.on_acked(now, mtu.size()));
    }

    /// Probes until the search is over, on a path that carries `limit`, and loses what `lose` says
    /// of the try of a size; how many probes that took.
    fn search(mtu: &mut Mtu, limit: usize, mut lose: impl FnMut(u32) -> bool) -> u64 {
        let (mut seq, mut tries, mut last) = (0, 0, 0);
        while let Some(size) = mtu.probe() {
            (tries, last) = (if size == last { tries + 1 } else { 0 }, size);
            seq += 1;
            mtu.probe_sent(seq);
            assert_eq!(mtu.probe(), None, "one at a time");
            if size <= limit && !lose(tries) {
                mtu.on_probe_acked(NOW, seq);
            } else {
                mtu.on_probe_lost(NOW, seq);
            }
        }
        seq
    }

    fn found(limit: usize) -> Mtu {
        let mut mtu = Mtu::default();
        warm_up(&mut mtu, NOW);
        search(&mut mtu, limit, |_| false);
        mtu
    }

    quickcheck! {
        /// The search ends at the largest size that passes, if no size loses all its tries.
        fn finds_the_largest(limit: u16, losses: u64) -> bool {
            let mut losses = losses;
            let limit = usize::from(limit).max(DATAGRAM_BASE);
            let mut mtu = Mtu::default();
            warm_up(&mut mtu, NOW);
            let probes = search(&mut mtu, limit, |tries| {
                losses = losses.rotate_left(1);
                tries + 1 < PROBES && losses & 1 == 1
            });
            let largest = SIZES.into_iter().filter(|size| *size <= limit).max();
            Some(mtu.size()) == largest && probes <= 3 * 7
        }
    }

    #[test]
    fn common_paths() {
        for (limit, probes) in [(65_507, 2), (1472, 13), (1452, 12), (8972, 1 + 3 + 1 + 1 + 1 + 3)]
        {
            let mut mtu = Mtu::default();
            warm_up(&mut mtu, NOW);
            assert!(search(&mut mtu, limit, |_| false) <= probes + 3, "{limit}");
        }
        assert_eq!(found(1472).size(), 1472);
        assert_eq!(found(1452).size(), 1440);
        assert_eq!(found(65_488).size(), 65_488);
        assert_eq!(found(1200).size(), 1200);
    }

    #[test]
    fn only_with_traffic_that_gains() {
        let mut mtu = Mtu::default();
        (0..1000).for_each(|_| mtu.on_acked(NOW, 256));
        assert_eq!(mtu.probe(), None);
        (1..WARM_UP).for_each(|_| mtu.on_acked(NOW, 1184));
        assert_eq!(mtu.probe(), None);
        mtu.on_acked(NOW, 1184);
        assert_eq!(mtu.probe(), Some(1472));
    }

    #[test]
    fn searches_again() {
        let mut mtu = found(1472);
        let later = NOW + RAISE;
        warm_up(&mut mtu, later - Duration::from_micros(1));
        assert_eq!(mtu.probe(), None);
        warm_up(&mut mtu, later);
        assert_eq!(mtu.probe(), Some(DATAGRAM_MAX));
        search(&mut mtu, 8972, |_| false);
        assert_eq!(mtu.size(), 8960);
        let mut mtu = found(DATAGRAM_MAX);
        warm_up(&mut mtu, later);
        assert_eq!(mtu.probe(), None, "there is nothing larger");
    }

    #[test]
    fn black_holes() {
        let at = |count| NOW + Duration::from_millis(count);
        let mut mtu = found(1472);
        (0..10).for_each(|_| mtu.on_lost(at(1), 1472));
        (2..4).for_each(|count| mtu.on_lost(at(count), 1216));
        (4..9).for_each(|count| mtu.on_lost(at(count), 1200));
        mtu.on_acked(at(9), 1200);
        assert_eq!(mtu.size(), 1472, "three times, and what every path carries");
        mtu.on_acked(at(10), 1456);
        (11..14).for_each(|count| mtu.on_lost(at(count), 1472));
        assert_eq!(mtu.size(), 1472, "one arrived between");
        mtu.on_lost(at(14), 1472);
        assert_eq!(mtu.size(), 1200);
        warm_up(&mut mtu, at(15));
        assert_eq!(mtu.probe(), None);
        warm_up(&mut mtu, at(14) + COOL_DOWN);
        assert_eq!(mtu.probe(), Some(1472));

        let mut mtu = found(1472);
        mtu.on_probe_timeout(at(1), 1, true);
        mtu.on_probe_timeout(at(2), 2, false);
        assert_eq!(mtu.size(), 1472);
        mtu.on_probe_timeout(at(2), 2, true);
        assert_eq!(mtu.size(), 1200);
    }

    #[test]
    fn probes_of_before() {
        let mut mtu = Mtu::default();
        warm_up(&mut mtu, NOW);
        mtu.probe_sent(7);
        mtu = Mtu::default();
        mtu.on_probe_acked(NOW, 7);
        warm_up(&mut mtu, NOW);
        mtu.on_probe_acked(NOW, 7);
        mtu.on_probe_lost(NOW, 7);
        assert_eq!((mtu.size(), mtu.probe()), (1200, Some(1472)));
        mtu.probe_sent(9);
        mtu.on_probe_acked(NOW, 7);
        assert_eq!(mtu.size(), 1200);
        mtu.on_probe_acked(NOW, 9);
        assert_eq!(mtu.size(), 1472);
    }
}
