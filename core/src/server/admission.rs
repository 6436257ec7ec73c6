//! Who may knock, and how often (PROTOCOL 3, 5.1): budgets for key trials, and the memory of hellos.

use crate::budget::Budget;
use crate::id::SessionId;
use crate::limits::{
    HALF_OPEN, HELLO_BURST, HELLO_MEMORY, HELLOS_REMEMBERED, REPLY_COPIES,
    RETIRED_TRIALS_PER_SECOND, SWEEP_EVERY, TRIAL_ADDRESSES, TRIALS_BURST, TRIALS_GLOBAL_BURST,
    TRIALS_GLOBAL_PER_SECOND, TRIALS_PER_SECOND,
};
use crate::time::{Duration, Instant, UnixMs};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

/// What datagrams that no key fits may cost, per address and in all. Nobody is ever banned.
#[derive(Debug)]
pub(super) struct Trials {
    global: Budget,
    /// Trials of secrets that are known only to be refused.
    retired: Budget,
    addresses: BTreeMap<IpAddr, Budget>,
    /// When they may be swept again, once there are too many.
    sweep_at: Instant,
}

impl Trials {
    pub(super) const fn new(now: Instant) -> Self {
        let global = Budget::new(now, TRIALS_GLOBAL_PER_SECOND, TRIALS_GLOBAL_BURST);
        let retired = Budget::new(now, RETIRED_TRIALS_PER_SECOND, RETIRED_TRIALS_PER_SECOND);
        Self { global, retired, addresses: BTreeMap::new(), sweep_at: now }
    }

    /// Whether another trial is in the budget.
    pub(super) fn allow(&mut self, now: Instant, address: IpAddr) -> bool {
        self.global.has_one(now) && self.addresses.get_mut(&address).is_none_or(|b| b.has_one(now))
    }

    /// Whether the budget of all together is used up.
    pub(super) fn is_exhausted(&mut self, now: Instant) -> bool {
        !self.global.has_one(now)
    }

    /// Whether a hello may be tried with retired secrets too: they are many, and to tell their holders
    /// that they are must not cost what everybody else needs.
    pub(super) fn allow_retired(&mut self, now: Instant) -> bool {
        self.retired.take(now)
    }

    /// No key fitted.
    pub(super) fn charge(&mut self, now: Instant, address: IpAddr) {
        self.global.take(now);
        if self.addresses.len() >= TRIAL_ADDRESSES && !self.addresses.contains_key(&address) {
            if self.sweep_at <= now {
                self.sweep_at = now + SWEEP_EVERY;
                self.addresses.retain(|_, budget| !budget.is_full(now));
            }
            if self.addresses.len() >= TRIAL_ADDRESSES {
                return;
            }
        }
        let fresh = || Budget::new(now, TRIALS_PER_SECOND, TRIALS_BURST);
        self.addresses.entry(address).or_insert_with(fresh).take(now);
    }
}

/// Hellos of a file up to which its memory grows one by one.
const FEW: usize = 4;

/// The one reply to a hello.
#[derive(Debug)]
struct Reply {
    datagram: Vec<u8>,
    left: u32,
    /// 60 s after the hello.
    until: Instant,
    /// An answer lasts only as long as its half-open session.
    session: Option<SessionId>,
}

#[derive(Debug)]
struct Remembered {
    hash: [u8; 32],
    timestamp: UnixMs,
    reply: Option<Box<Reply>>,
}

/// What a file remembers of its hellos.
#[derive(Debug)]
pub(super) struct HelloMemory {
    /// By nonce, in order: most files remember a few.
    hellos: Vec<(u64, Remembered)>,
    budget: Budget,
}

/// What memory says of a hello.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Never seen.
    New,
    /// A copy: this is its reply.
    Copy(Vec<u8>),
    /// Seen, and not to be answered.
    Silence,
}

impl HelloMemory {
    pub(super) const fn new(now: Instant) -> Self {
        Self { hellos: Vec::new(), budget: Budget::new(now, 1, HELLO_BURST) }
    }

    fn get(&mut self, nonce: u64) -> Option<&mut Remembered> {
        let at = self.hellos.binary_search_by_key(&nonce, |(nonce, _)| *nonce).ok()?;
        self.hellos.get_mut(at).map(|(_, hello)| hello)
    }

    /// A session is no longer half-open: its hello has no reply any more.
    pub(super) fn established(&mut self, session: SessionId) {
        for (_, hello) in &mut self.hellos {
            hello.reply.take_if(|reply| reply.session == Some(session));
        }
    }

    /// Step 1: a known nonce. `half_open` tells whether a session still is.
    pub(super) fn known(
        &mut self,
        now: Instant,
        nonce: u64,
        hash: &[u8; 32],
        half_open: impl Fn(SessionId) -> bool,
    ) -> Known {
        let Some(hello) = self.get(nonce) else { return Known::New };
        let Some(reply) = hello.reply.as_mut().filter(|_| hello.hash == *hash) else {
            return Known::Silence;
        };
        if now >= reply.until || reply.session.is_some_and(|session| !half_open(session)) {
            hello.reply = None;
            return Known::Silence;
        }
        if reply.left == 0 {
            return Known::Silence;
        }
        reply.left -= 1;
        Known::Copy(reply.datagram.clone())
    }

    /// Step 2: remembers a hello that authenticates; false when over budget or memory.
    pub(super) fn remember(
        &mut self,
        now: Instant,
        wall: UnixMs,
        nonce: u64,
        hash: [u8; 32],
        timestamp: UnixMs,
    ) -> bool {
        if self.hellos.len() >= HELLOS_REMEMBERED {
            self.hellos.retain(|(_, hello)| age(wall, hello.timestamp) <= HELLO_MEMORY);
        }
        if self.hellos.len() >= HELLOS_REMEMBERED || !self.budget.take(now) {
            return false;
        }
        let remembered = Remembered { hash, timestamp, reply: None };
        match self.hellos.binary_search_by_key(&nonce, |(nonce, _)| *nonce) {
            Ok(at) => self.hellos[at].1 = remembered,
            Err(at) => {
                if self.hellos.len() < FEW {
                    self.hellos.reserve_exact(1);
                }
                self.hellos.insert(at, (nonce, remembered));
            }
        }
        true
    }

    /// Steps 3 to 5: the reply to a remembered hello; an answer's half-open session with it.
    pub(super) fn replied(
        &mut self,
        now: Instant,
        nonce: u64,
        datagram: &[u8],
        session: Option<SessionId>,
    ) {
        if let Some(hello) = self.get(nonce) {
            let (datagram, until) = (datagram.to_vec(), now + HALF_OPEN);
            hello.reply = Some(Box::new(Reply { datagram, left: REPLY_COPIES, until, session }));
        }
    }

    /// Forgets what is too old to be taken anyway, also by a clock that is set back. A full memory does
    /// not wait so long.
    pub(super) fn forget(&mut self, now: Instant, wall: UnixMs) {
        self.hellos.retain(|(_, hello)| age(wall, hello.timestamp) <= HELLO_MEMORY * 2);
        for (_, hello) in &mut self.hellos {
            hello.reply.take_if(|reply| reply.until <= now);
        }
        self.hellos.shrink_to_fit();
    }
}

/// How old a timestamp is; one of the future is not, however far it is.
fn age(wall: UnixMs, timestamp: UnixMs) -> Duration {
    Duration::from_millis(wall.0.saturating_sub(timestamp.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_starve_another() {
        let (now, address) = (Instant::ZERO, |n: u8| IpAddr::from([10, 0, 0, n]));
        let mut trials = Trials::new(now);
        for _ in 0..TRIALS_BURST {
            assert!(trials.allow(now, address(1)));
            trials.charge(now, address(1));
        }
        assert!(!trials.allow(now, address(1)) && trials.allow(now, address(2)));
    }

    #[test]
    fn copies_get_their_reply_and_no_more() {
        let (now, wall) = (Instant::ZERO, UnixMs(1));
        let mut memory = HelloMemory::new(now);
        let known = |memory: &mut HelloMemory, at, hash| memory.known(at, 7, &[hash; 32], |_| true);
        assert_eq!(known(&mut memory, now, 1), Known::New);
        assert!(memory.remember(now, wall, 7, [1; 32], wall));
        assert_eq!(known(&mut memory, now, 1), Known::Silence, "no reply yet");
        memory.replied(now, 7, b"no", None);
        assert_eq!(known(&mut memory, now, 2), Known::Silence, "other bytes");
        for _ in 0..REPLY_COPIES {
            assert_eq!(known(&mut memory, now, 1), Known::Copy(b"no".to_vec()));
        }
        assert_eq!(known(&mut memory, now, 1), Known::Silence, "64 times");
        memory.replied(now, 7, b"yes", Some(SessionId(3)));
        assert_eq!(memory.known(now, 7, &[1; 32], |id| id != SessionId(3)), Known::Silence);
        for nonce in 8..8 + u64::from(HELLO_BURST) - 1 {
            assert!(memory.remember(now, wall, nonce, [0; 32], wall));
        }
        assert!(!memory.remember(now, wall, 99, [0; 32], wall), "over budget");
        memory.forget(now, UnixMs(4_000_000));
        assert_eq!(known(&mut memory, now, 1), Known::Silence, "the clock may be set back");
        memory.forget(now, UnixMs(4_000_000_000));
        assert_eq!(known(&mut memory, now, 1), Known::New);
    }
}
