//! What the server tells its monitor, and what becomes of it.

use super::audit::{Alert, Audit, Resource};
use super::{Event, Server};
use crate::error::DropReason;
use crate::id::SessionId;
use crate::limits::{OPS_COMMON, SECRETS};
use crate::time::Now;
use crate::transport::path::Path;
use core::net::IpAddr;

impl Server {
    /// A datagram was dropped in silence.
    pub(super) fn dropped(&mut self, now: Now, path: Path, reason: DropReason) {
        self.drops[reason as usize] += 1;
        if !matches!(reason, DropReason::Header | DropReason::NoKey | DropReason::Budget) {
            return;
        }
        let scan = self.monitor.stranger(now.mono, path.remote);
        self.alert(scan);
        if reason == DropReason::Budget {
            let address = path.remote.ip();
            let whose = (!self.trials.is_exhausted(now.mono)).then_some(address);
            self.flooded(now, whose);
        }
    }

    /// A budget is used up: that of an address, or that of all together.
    pub(super) fn flooded(&mut self, now: Now, address: Option<IpAddr>) {
        let flood = self.monitor.flood(now.mono, address);
        self.alert(flood);
    }

    fn alert(&mut self, alert: Option<Alert>) {
        self.events.extend(alert.map(Event::Alert));
    }

    fn audit(&mut self, audit: Audit) {
        self.events.push_back(Event::Audit(audit));
    }

    /// Some time has passed.
    pub(super) fn watch_clock(&mut self, now: Now) {
        let step = self.monitor.clock(now);
        self.alert(step);
    }

    /// A minute is over.
    pub(super) fn watch_minute(&mut self) {
        let ids: alloc::vec::Vec<_> = self.sessions.iter().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.count_traffic(id));
        for alert in self.monitor.minute() {
            self.alert(Some(alert));
        }
        for audit in self.monitor.drops(&self.drops) {
            self.audit(audit);
        }
        let established = self.sessions.established();
        for (what, used, limit) in [
            (Resource::Sessions, established, self.max_sessions),
            (Resource::Secrets, self.credentials.accepted(), SECRETS),
            (Resource::Actions, self.ops.len(), OPS_COMMON),
        ] {
            let alert = self.monitor.resource(what, used, limit);
            self.alert(alert);
        }
    }

    /// Adds a session's traffic since the last time to its member's.
    pub(super) fn count_traffic(&mut self, id: SessionId) {
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let (sent, received) = entry.session.traffic();
        let total = sent + received;
        let fresh = total.saturating_sub(entry.counted);
        entry.counted = entry.counted.max(total);
        let member = entry.member.clone();
        self.monitor.traffic(&member, fresh);
    }
}
