//! Token buckets: how often something may happen.

use crate::time::{Duration, Instant};

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    per_second: u32,
    burst: u32,
    /// Tokens in millionths, so that fractions of a second count.
    tokens: u64,
    at: Instant,
}

impl Budget {
    /// A full bucket that gets `per_second` tokens a second and holds at most `burst`.
    pub(crate) const fn new(now: Instant, per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, tokens: burst as u64 * 1_000_000, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.since(self.at).as_micros().min(u128::from(u32::MAX));
        let more = u64::try_from(elapsed).unwrap_or(0) * u64::from(self.per_second);
        self.tokens = (self.tokens + more).min(u64::from(self.burst) * 1_000_000);
        self.at = now;
    }

    /// Whether there is a token.
    pub(crate) fn has_one(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= 1_000_000
    }

    /// Whether nothing was taken for long.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens == u64::from(self.burst) * 1_000_000
    }

    /// When there is a token again; it is worth no wait when there is one now.
    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        self.refill(now);
        let missing = 1_000_000_u64.saturating_sub(self.tokens);
        now + Duration::from_micros(missing.div_ceil(u64::from(self.per_second.max(1))))
    }

    /// Takes one token; false when there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let has = self.has_one(now);
        self.tokens -= if has { 1_000_000 } else { 0 };
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_refill() {
        let start = Instant::ZERO;
        let mut budget = Budget::new(start, 2, 3);
        assert!((0..3).all(|_| budget.take(start)) && !budget.take(start));
        assert_eq!(budget.next(start), start + Duration::from_millis(500));
        assert!(!budget.take(start + Duration::from_millis(499)));
        assert!(budget.take(start + Duration::from_millis(500)));
        assert!((0..3).all(|_| budget.take(start + Duration::from_secs(60))));
        assert!(!budget.take(start + Duration::from_secs(60)));
    }
}
