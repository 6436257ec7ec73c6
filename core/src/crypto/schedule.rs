//! The keyed port schedule (PROTOCOL 5.2).

use crate::limits::PORT_ATTEMPTS;
use crate::wire::secfile::PortSchedule;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// First port of the range (SPEC 7.3).
pub const PORT_MIN: u16 = 49_152;

impl PortSchedule {
    /// Readers refuse an interval under 1.
    const fn length(&self) -> u64 {
        if self.interval == 0 { 1 } else { self.interval }
    }

    /// The slot of a time, `unix_s`. Before the origin it is slot 0.
    #[must_use]
    pub const fn slot(&self, unix_s: u64) -> u64 {
        unix_s.saturating_sub(self.origin) / self.length()
    }

    /// Seconds since the slot of `unix_s` began, and until it ends.
    #[must_use]
    pub const fn within_slot(&self, unix_s: u64) -> (u64, u64) {
        let since = unix_s.saturating_sub(self.origin) % self.length();
        (since, self.length() - since)
    }

    /// The port of a slot's `attempt`, 49152..65535.
    #[must_use]
    pub fn port(&self, slot: u64, attempt: u32) -> u16 {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.seed.expose())
            .expect("HMAC takes keys of any length");
        mac.update(b"ClawChat-v2-Port");
        mac.update(&slot.to_be_bytes());
        mac.update(&attempt.to_be_bytes());
        let hash = mac.finalize().into_bytes();
        // 16384 ports divide 2^16: the low two bytes of the u32 are all that counts.
        PORT_MIN + (u16::from_be_bytes([hash[2], hash[3]]) & 0x3fff)
    }

    /// The ports of a slot in the order in which they are tried.
    pub fn ports(&self, slot: u64) -> impl Iterator<Item = u16> + '_ {
        (0..PORT_ATTEMPTS).map(move |attempt| self.port(slot, attempt))
    }
}
