//! The network of a world: it loses, delays, reorders, doubles and damages datagrams, and an
//! attacker hears all of them. Its only source of chance is one seed.

use crate::world::Process;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::ops::RangeInclusive;
use std::collections::{BTreeMap, VecDeque};

/// A stream of pseudo-random numbers (SplitMix64): the one source of chance in a world.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.u64() % end }
    }

    /// A number of `range`.
    pub fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True `per_mille` times in 1000.
    pub const fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// An index below `len`, which is not 0.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// One of `items`; `None` of none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.index(items.len())) }
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.u64().to_le_bytes()[..chunk.len()]);
        }
        bytes
    }

    /// 32 bytes for a machine to start from.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        seed.copy_from_slice(&self.bytes(32));
        seed
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.index(end + 1));
        }
    }
}

/// One direction of a link. Chances are per mille, times microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether anything passes.
    pub up: bool,
    /// Chance that a datagram is lost.
    pub loss: u64,
    /// Chance that it arrives twice.
    pub duplicate: u64,
    /// Chance that bits of it are flipped.
    pub corrupt: u64,
    /// Least time on the way.
    pub delay: u64,
    /// Most time beyond that: datagrams overtake one another.
    pub jitter: u64,
    /// Largest IP packet that passes, bytes: larger ones vanish.
    pub mtu: usize,
    /// Bytes a second; 0 is as many as there are.
    pub rate: u64,
    /// Bytes that wait at most for their turn; beyond them datagrams are lost.
    pub queue: u64,
    /// The IP family that it does not carry.
    pub without: Option<Family>,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Link {
    /// Loses nothing, 10 ms and a little jitter.
    pub const CLEAN: Self = Self {
        up: true,
        loss: 0,
        duplicate: 0,
        corrupt: 0,
        delay: 10_000,
        jitter: 1_000,
        mtu: 65_535,
        rate: 0,
        queue: 0,
        without: None,
    };

    /// Lets nothing pass.
    pub const DOWN: Self = Self { up: false, ..Self::CLEAN };

    /// Loses `loss` per mille, doubles and damages some, and reorders.
    #[must_use]
    pub const fn lossy(loss: u64) -> Self {
        Self { loss, duplicate: 30, corrupt: 20, jitter: 40_000, ..Self::CLEAN }
    }

    /// Any link that may be met in chaos.
    pub fn random(rng: &mut Rng) -> Self {
        Self {
            up: true,
            loss: rng.range(0..=300),
            duplicate: rng.range(0..=100),
            corrupt: rng.range(0..=50),
            delay: rng.range(100..=120_000),
            jitter: rng.range(0..=150_000),
            mtu: [1_280, 1_400, 1_500, 9_000, 65_535][rng.index(5)],
            rate: [0, 0, 30_000, 200_000][rng.index(4)],
            queue: rng.range(10_000..=200_000),
            without: [None, None, None, Some(Family::V4), Some(Family::V6)][rng.index(5)],
        }
    }

    /// Whether it carries nothing to or from an address.
    #[must_use]
    pub const fn lacks(&self, address: SocketAddr) -> bool {
        match self.without {
            None => false,
            Some(Family::V4) => address.is_ipv4(),
            Some(Family::V6) => address.is_ipv6(),
        }
    }

    /// What comes of a datagram: copies, each after how long, and whether it is whole.
    pub fn carry(&self, rng: &mut Rng, datagram: &[u8]) -> Vec<(u64, Vec<u8>)> {
        // IP and UDP take 28 bytes.
        if !self.up || datagram.len() + 28 > self.mtu || rng.chance(self.loss) {
            return Vec::new();
        }
        let copies = 1 + usize::from(rng.chance(self.duplicate));
        (0..copies)
            .map(|_| {
                let mut copy = datagram.to_vec();
                if rng.chance(self.corrupt) {
                    flip(rng, &mut copy);
                }
                (self.delay + rng.range(0..=self.jitter), copy)
            })
            .collect()
    }
}

/// Flips one to three different bits.
pub fn flip(rng: &mut Rng, datagram: &mut [u8]) {
    if datagram.is_empty() {
        return;
    }
    let mut bits = Vec::new();
    for _ in 0..rng.range(1..=3) {
        let bit = rng.index(datagram.len() * 8);
        if !bits.contains(&bit) {
            bits.push(bit);
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// The way of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From a client to the server.
    Up,
    /// From the server to a client.
    Down,
}

/// A datagram that the attacker heard when it arrived.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Where it arrived.
    pub to: SocketAddr,
    /// Its bytes.
    pub datagram: Vec<u8>,
}

/// Datagrams that the attacker remembers.
const HEARD: usize = 20_000;

/// All links, and the attacker beside them.
#[derive(Debug)]
pub struct Net {
    /// What links are like that have no entry of their own.
    pub default: Link,
    links: BTreeMap<(Process, Way), Link>,
    /// Until when what was sent before keeps a slow link busy.
    busy: BTreeMap<(Process, Way), u64>,
    /// Since when a client's two directions have no IP family in common, world time.
    apart: BTreeMap<Process, u64>,
    heard: VecDeque<Heard>,
    attackers: u32,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            default: Link::CLEAN,
            links: BTreeMap::new(),
            busy: BTreeMap::new(),
            apart: BTreeMap::new(),
            heard: VecDeque::new(),
            attackers: 0,
        }
    }
}

impl Net {
    /// The link of a client in one direction.
    #[must_use]
    pub fn link(&self, process: Process, way: Way) -> Link {
        self.links.get(&(process, way)).copied().unwrap_or(self.default)
    }

    /// A datagram takes its turn at a link: how long it waits, or nothing when the queue is full.
    pub fn enqueue(&mut self, process: Process, way: Way, now: u64, len: usize) -> Option<u64> {
        let Link { rate, queue, .. } = self.link(process, way);
        if rate == 0 {
            return Some(0);
        }
        let busy = self.busy.entry((process, way)).or_insert(now);
        let waits = busy.saturating_sub(now);
        if waits * rate / 1_000_000 > queue {
            return None;
        }
        *busy = now.max(*busy) + len as u64 * 1_000_000 / rate;
        Some(*busy - now)
    }

    /// Sets one direction of a client's link.
    pub fn set(&mut self, process: Process, way: Way, link: Link) {
        self.links.insert((process, way), link);
    }

    /// Sets both directions.
    pub fn set_both(&mut self, process: Process, link: Link) {
        self.set(process, Way::Up, link);
        self.set(process, Way::Down, link);
    }

    /// Sees, at `now`, whether a client's two directions have an IP family in common. Without one both
    /// sides hear each other and nothing that needs an answer by the same path succeeds.
    pub fn compare(&mut self, process: Process, now: u64) {
        let ways = [self.link(process, Way::Up), self.link(process, Way::Down)];
        let families = [Family::V4, Family::V6];
        if families.iter().any(|family| ways.iter().all(|link| link.without != Some(*family))) {
            self.apart.remove(&process);
        } else {
            self.apart.entry(process).or_insert(now);
        }
    }

    /// Since when they have none in common, if they have not.
    #[must_use]
    pub fn apart(&self, process: Process) -> Option<u64> {
        self.apart.get(&process).copied()
    }

    /// Sets all links, those to come too.
    pub fn set_all(&mut self, link: Link) {
        self.links.clear();
        self.apart.clear();
        self.default = link;
    }

    /// The attacker hears a datagram arrive.
    pub fn hear(&mut self, to: SocketAddr, datagram: &[u8]) {
        if self.heard.len() >= HEARD {
            self.heard.pop_front();
        }
        self.heard.push_back(Heard { to, datagram: datagram.to_vec() });
    }

    /// Something that the attacker heard.
    pub fn recall(&self, rng: &mut Rng) -> Option<&Heard> {
        if self.heard.is_empty() { None } else { self.heard.get(rng.index(self.heard.len())) }
    }

    /// Everything that the attacker still knows.
    pub fn heard(&self) -> impl Iterator<Item = &Heard> {
        self.heard.iter()
    }

    /// An address of an attacker who sends on what others send.
    pub fn forwarder(&mut self) -> SocketAddr {
        self.attackers += 1;
        let [_, high, middle, low] = self.attackers.to_be_bytes();
        (IpAddr::V4(Ipv4Addr::new(172, high, middle, low)), 6666).into()
    }

    /// An address that hosts no machine and never will.
    pub fn attacker(&mut self) -> SocketAddr {
        self.attackers += 1;
        let [_, high, middle, low] = self.attackers.to_be_bytes();
        (IpAddr::V4(Ipv4Addr::new(10, high, middle, low)), 6666).into()
    }
}

/// Whether an address is the attacker's.
#[must_use]
pub fn is_attacker(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[0] == 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_repeats_and_spreads() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        assert_eq!(a.bytes(100), b.bytes(100));
        let hits = (0..10_000).filter(|_| a.chance(300)).count();
        assert!((2700..3300).contains(&hits), "{hits}");
        let mut items: Vec<_> = (0..50).collect();
        a.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn links_do_what_they_say() {
        let mut rng = Rng::new(1);
        assert_eq!(Link::DOWN.carry(&mut rng, &[1; 64]), []);
        let [(after, copy)] = Link::CLEAN.carry(&mut rng, &[1; 64]).try_into().unwrap();
        assert!((10_000..=11_000).contains(&after));
        assert_eq!(copy, [1; 64]);
        let bad = Link { loss: 300, duplicate: 1000, corrupt: 1000, ..Link::CLEAN };
        let copies: Vec<_> = (0..1000).flat_map(|_| bad.carry(&mut rng, &[1; 64])).collect();
        assert!((1200..1600).contains(&copies.len()), "{}", copies.len());
        assert!(copies.iter().all(|(_, copy)| copy != &[1; 64]));
    }
}
