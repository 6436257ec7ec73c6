//! Two clocks, both given by the caller (PROTOCOL 1): a monotonic one that counts sleep, for timers
//! and ages, and the wall clock, for timestamps and port slots.

use core::fmt;
use core::num::NonZero;
use core::ops::{Add, Sub};
pub use core::time::Duration;

/// A moment on the caller's monotonic clock, in microseconds from an origin of its choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// One more than the microseconds, so that no moment is all zeros: an `Option` of one takes no more room.
pub struct Instant(NonZero<u64>);

impl Instant {
    /// The origin of the clock.
    pub const ZERO: Self = Self(NonZero::<u64>::MIN);

    /// `micros` microseconds after the origin.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(NonZero::<u64>::MIN.saturating_add(micros))
    }

    /// Microseconds since the origin.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0.get() - 1
    }

    /// Time from `earlier` to here; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instant({})", self.as_micros())
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        let micros = u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX);
        Self::from_micros(self.as_micros().saturating_sub(micros))
    }
}

/// A moment on the wall clock: milliseconds since 1970-01-01 UTC (PROTOCOL 1, `unix_ms`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// Whole seconds since 1970-01-01 UTC (PROTOCOL 1, `unix_s`).
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// Distance between two moments, whichever is later.
    #[must_use]
    pub const fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }

    /// The UTC date as `(year, month, day)`, proleptic Gregorian.
    #[must_use]
    pub fn date(self) -> (u64, u64, u64) {
        // Days to civil date, counting in 400-year eras that begin on 1 March.
        let days = self.secs() / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        (year, month, day)
    }

    /// The UTC time of day as `(hour, minute, second)`.
    #[must_use]
    pub const fn time_of_day(self) -> (u64, u64, u64) {
        let second = self.secs() % 86_400;
        (second / 3600, second / 60 % 60, second % 60)
    }
}

/// Both clocks, read once per turn by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub mono: Instant,
    /// The wall clock.
    pub wall: UnixMs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (secs, date) in [
            (0, (1970, 1, 1)),
            (951_782_399, (2000, 2, 28)),
            (951_782_400, (2000, 2, 29)),
            (951_868_800, (2000, 3, 1)),
            (1_690_925_948, (2023, 8, 1)),
            (1_892_835_999, (2029, 12, 24)),
            (4_107_542_400, (2100, 3, 1)),
        ] {
            assert_eq!(UnixMs(secs * 1000).date(), date);
        }
        assert_eq!(UnixMs(86_399_999).time_of_day(), (23, 59, 59));
    }

    #[test]
    fn no_more_room_for_an_option() {
        assert_eq!(size_of::<Option<Instant>>(), size_of::<Instant>());
        assert_eq!(Instant::from_micros(5).as_micros(), 5);
        assert_eq!(alloc::format!("{:?}", Instant::ZERO), "Instant(0)");
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::from_micros(u64::MAX) + Duration::MAX, Instant::from_micros(u64::MAX));
        assert_eq!(Instant::ZERO.since(Instant::from_micros(5)), Duration::ZERO);
    }
}
