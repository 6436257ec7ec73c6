//! Address translators in front of clients: how they map, what they let in, when they forget.

use crate::net::Rng;
use crate::world::Process;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};

/// How a translator maps and filters (RFC 4787).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// There is none.
    #[default]
    Open,
    /// One outside port for all destinations, open to everybody.
    EndpointIndependent,
    /// One outside port for all destinations, open to those that were sent to.
    PortDependent,
    /// An outside port for each destination.
    Symmetric,
}

#[derive(Debug)]
struct Mapping {
    outside: SocketAddr,
    used: u64,
    to: BTreeSet<SocketAddr>,
}

/// A client's translator.
#[derive(Debug)]
pub struct Nat {
    kind: Kind,
    ip: IpAddr,
    ip6: IpAddr,
    next_port: u16,
    /// A mapping that was idle for so long is forgotten, microseconds.
    pub timeout: u64,
    /// By IP version (true is 6), and by destination where that matters.
    mappings: BTreeMap<(bool, Option<SocketAddr>), Mapping>,
    /// Times that a mapping was made anew.
    pub rebindings: u64,
}

impl Nat {
    /// The translator of a client.
    #[must_use]
    pub fn new(process: Process, kind: Kind, timeout: u64) -> Self {
        let number = u16::try_from(process.0).unwrap_or(0);
        let [high, low] = number.to_be_bytes();
        let ip = IpAddr::V4(Ipv4Addr::new(198, 51, high, low));
        let ip6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, number));
        let (next_port, mappings, rebindings) = (50_000, BTreeMap::new(), 0);
        Self { kind, ip, ip6, next_port, timeout, mappings, rebindings }
    }

    /// Any kind; most clients have one.
    pub fn random_kind(rng: &mut Rng) -> Kind {
        [Kind::Open, Kind::EndpointIndependent, Kind::PortDependent, Kind::Symmetric][rng.index(4)]
    }

    /// Whether an outside address belongs to it, now or before.
    #[must_use]
    pub fn owns(&self, outside: SocketAddr) -> bool {
        (outside.ip() == self.ip || outside.ip() == self.ip6) && outside.port() < self.next_port
    }

    /// Forgets all mappings: what is sent next comes from other ports.
    pub fn rebind(&mut self) {
        self.rebindings += u64::from(!self.mappings.is_empty());
        self.mappings.clear();
    }

    /// A datagram goes out to `to`: the address that it comes from there.
    pub fn outbound(&mut self, now: u64, to: SocketAddr) -> SocketAddr {
        let key = (to.is_ipv6(), (self.kind == Kind::Symmetric).then_some(to));
        let idle = |mapping: &Mapping| {
            self.kind != Kind::Open && now.saturating_sub(mapping.used) > self.timeout
        };
        if self.mappings.get(&key).is_some_and(idle) {
            self.mappings.remove(&key);
            self.rebindings += 1;
        }
        let ip = if to.is_ipv6() { self.ip6 } else { self.ip };
        let next_port = &mut self.next_port;
        let mapping = self.mappings.entry(key).or_insert_with(|| {
            let outside = SocketAddr::new(ip, *next_port);
            *next_port += 1;
            Mapping { outside, used: now, to: BTreeSet::new() }
        });
        mapping.used = now;
        mapping.to.insert(to);
        mapping.outside
    }

    /// Whether a datagram from `from` to an outside address gets in.
    pub fn inbound(&mut self, now: u64, outside: SocketAddr, from: SocketAddr) -> bool {
        let (kind, timeout) = (self.kind, self.timeout);
        self.mappings.values_mut().any(|mapping| {
            let there = mapping.outside == outside
                && (kind == Kind::Open || now.saturating_sub(mapping.used) <= timeout);
            let let_in = match kind {
                Kind::Open | Kind::EndpointIndependent => true,
                Kind::PortDependent | Kind::Symmetric => mapping.to.contains(&from),
            };
            if there && let_in {
                mapping.used = now;
            }
            there && let_in
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn kinds() {
        for (kind, same, stranger) in [
            (Kind::Open, true, true),
            (Kind::EndpointIndependent, true, true),
            (Kind::PortDependent, true, false),
            (Kind::Symmetric, false, false),
        ] {
            let mut nat = Nat::new(Process(3), kind, 30_000_000);
            let (one, two) = (nat.outbound(0, address(1)), nat.outbound(0, address(2)));
            assert_eq!(one == two, same, "{kind:?}");
            assert!(nat.inbound(1, one, address(1)));
            assert_eq!(nat.inbound(1, one, address(9)), stranger, "{kind:?}");
            assert!(nat.owns(one) && !nat.owns(address(1)));
            let late = nat.outbound(31_000_000, address(1));
            assert_eq!(late == one, kind == Kind::Open, "{kind:?}");
            nat.rebind();
            assert!(!nat.inbound(31_000_001, late, address(1)));
            assert_ne!(nat.outbound(31_000_001, address(1)), late);
        }
    }
}
