//! Spreads what the window allows over the round trip (RFC 9002 §7.7), in bursts worth a system call.

use crate::time::{Duration, Instant};

/// Rates are this many times the window per round trip, quarters: a little above it, so that the
/// window and not the pacer is what limits, and twice in slow start, where the window doubles.
const GAIN: u64 = 5;
const GAIN_SLOW_START: u64 = 8;
/// A burst is what the rate gives in this time: drivers' timers are no finer.
const BURST_TIME: u64 = 2000;
/// Least burst, datagrams: what RFC 9002 §7.7 lets out at once.
const BURST_MIN: u64 = 10;
/// Largest burst, as one segmented send (GSO) takes it: datagrams, and bytes.
const BURST_MAX: u64 = 64;
const BURST_BYTES: u64 = 64 * 1024;
/// A round trip shorter than a timer's step cannot be divided.
const RTT_MIN: Duration = Duration::from_millis(1);
/// Rates and tokens have this many bits behind the point, so that a slow rate is not rounded away.
const POINT: u32 = 20;

/// What the rate follows from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// Congestion window, bytes.
    pub(crate) window: u64,
    /// Smoothed RTT, once there was a sample.
    pub(crate) smoothed: Option<Duration>,
    pub(crate) slow_start: bool,
    /// Datagram size, bytes.
    pub(crate) datagram: u64,
}

impl Flow {
    /// Bytes per microsecond, with [`POINT`] bits behind the point; `None` for no pacing.
    fn rate(&self) -> Option<u64> {
        let micros = self.smoothed.filter(|rtt| *rtt >= RTT_MIN)?.as_micros();
        let gain = if self.slow_start { GAIN_SLOW_START } else { GAIN };
        let rate = ((u128::from(self.window) * u128::from(gain)) << POINT) / (micros * 4);
        Some(u64::try_from(rate).unwrap_or(u64::MAX).max(1))
    }

    /// Most bytes that go out at once.
    fn burst(&self, rate: u64) -> u64 {
        (rate.saturating_mul(BURST_TIME) >> POINT)
            .max(BURST_MIN * self.datagram)
            .min(BURST_MAX * self.datagram)
            .min(BURST_BYTES)
            .max(self.datagram)
    }
}

/// A token bucket; nothing but ordinary packets asks it.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    /// Bytes that may go out, with [`POINT`] bits behind the point; `None`: as many as a burst has.
    tokens: Option<u64>,
    /// When that was so.
    at: Instant,
}

impl Pacer {
    /// Bytes that may go out now.
    pub(crate) fn allowed(&mut self, now: Instant, flow: &Flow) -> u64 {
        let Some(rate) = flow.rate() else {
            *self = Self { tokens: None, at: now };
            return u64::MAX;
        };
        let full = flow.burst(rate) << POINT;
        let micros = u64::try_from(now.since(self.at).as_micros()).unwrap_or(u64::MAX);
        let tokens = match self.tokens {
            Some(tokens) => tokens.saturating_add(rate.saturating_mul(micros)).min(full),
            None => full,
        };
        (self.tokens, self.at) = (Some(tokens), self.at.max(now));
        tokens >> POINT
    }

    /// `bytes` went out.
    pub(crate) fn spend(&mut self, bytes: u64) {
        if let Some(tokens) = &mut self.tokens {
            *tokens = tokens.saturating_sub(bytes << POINT);
        }
    }

    /// When [`Self::allowed`] gives something worth waking for: half a burst, and a datagram.
    /// `None` if it does already.
    pub(crate) fn next(&self, flow: &Flow) -> Option<Instant> {
        let rate = flow.rate()?;
        let worth = (flow.burst(rate) / 2).max(flow.datagram) << POINT;
        let missing = worth.checked_sub(self.tokens?).filter(|missing| *missing > 0)?;
        Some(self.at + Duration::from_micros(missing.div_ceil(rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use quickcheck::quickcheck;

    fn flow(window: u64, rtt_us: u64) -> Flow {
        let smoothed = Some(Duration::from_micros(rtt_us));
        Flow { window, smoothed, slow_start: false, datagram: 1200 }
    }

    #[test]
    fn not_before_a_sample_nor_below_the_timer() {
        let mut pacer = Pacer::default();
        let unknown = Flow { smoothed: None, ..flow(12_000, 0) };
        for flow in [unknown, flow(12_000, 999)] {
            assert_eq!(pacer.allowed(Instant::ZERO, &flow), u64::MAX);
            pacer.spend(1 << 30);
            assert_eq!(pacer.next(&flow), None);
        }
        assert_eq!(pacer.allowed(Instant::ZERO, &flow(12_000, 1000)), 30_000);
    }

    #[test]
    fn bursts() {
        let burst = |window, datagram| {
            let flow = Flow { datagram, ..flow(window, 100_000) };
            Pacer::default().allowed(Instant::ZERO, &flow)
        };
        assert_eq!(burst(12_000, 1200), 12_000, "ten datagrams at least");
        assert_eq!(burst(800_000, 1200), 20_000, "2 ms");
        assert_eq!(burst(1 << 40, 1200), 65_536, "64 KiB");
        assert_eq!(burst(1 << 40, 512), 64 * 512, "64 datagrams");
        assert_eq!(burst(1 << 40, 65_504), 65_536);
        assert_eq!(burst(200_000, 65_504), 65_536);
    }

    #[test]
    fn a_timer_for_half_a_burst() {
        let flow = flow(120_000, 100_000);
        let mut pacer = Pacer::default();
        assert_eq!(pacer.allowed(Instant::ZERO, &flow), 12_000);
        assert_eq!(pacer.next(&flow), None);
        pacer.spend(12_000);
        // 1.5 bytes a microsecond
        assert_eq!(pacer.next(&flow), Some(Instant::from_micros(4000)));
        assert_eq!(pacer.allowed(Instant::from_micros(1000), &flow), 1500);
        assert_eq!(pacer.next(&flow), Some(Instant::from_micros(4000)));
        assert_eq!(pacer.allowed(Instant::from_micros(4000), &flow), 6000);
        let start = Flow { slow_start: true, ..flow };
        assert_eq!(pacer.allowed(Instant::from_micros(5000), &start), 8399);
        // A driver whose clock steps back gets nothing twice.
        assert_eq!(pacer.allowed(Instant::ZERO, &flow), 8399);
        assert_eq!(pacer.allowed(Instant::from_micros(5000), &flow), 8399);
    }

    quickcheck! {
        /// Over any interval no more goes out than the rate gives, and one burst; the timer comes
        /// no earlier than a datagram may go.
        fn never_above_the_rate(window: u64, rtt: u32, polls: Vec<(u16, bool)>) -> bool {
            let flow = flow(window % (1 << 40), u64::from(rtt).max(1000));
            let rate = flow.rate().unwrap();
            let burst = flow.burst(rate);
            let mut pacer = Pacer::default();
            let mut now = Instant::from_micros(7);
            let mut sent: Vec<(Instant, u64)> = Vec::new();
            for (wait, wake) in polls {
                now = match pacer.next(&flow).filter(|_| wake) {
                    Some(at) if at > now => at,
                    _ => now + Duration::from_micros(u64::from(wait)),
                };
                let before = pacer.next(&flow);
                let bytes = pacer.allowed(now, &flow) / 1200 * 1200;
                if bytes == 0 && before.is_some_and(|at| at <= now) {
                    return false;
                }
                pacer.spend(bytes);
                sent.push((now, bytes));
            }
            (0..sent.len()).all(|first| {
                let mut total = 0;
                sent[first..].iter().all(|(at, bytes)| {
                    total += u128::from(*bytes);
                    let micros = at.since(sent[first].0).as_micros();
                    total <= u128::from(burst) + ((u128::from(rate) * micros) >> POINT) + 1
                })
            })
        }

        /// However often it is asked, a busy sender gets the whole rate.
        fn never_below_the_rate(window: u32, rtt: u32, step: u8) -> bool {
            let flow = flow(u64::from(window).max(2400), u64::from(rtt % 1_000_000).max(1000));
            let step = u64::from(step).max(1);
            let rate = flow.rate().unwrap();
            if rate.saturating_mul(step) >> POINT > flow.burst(rate) / 2 {
                return true;
            }
            let mut pacer = Pacer::default();
            let (mut now, mut sent) = (Instant::ZERO, 0);
            for _ in 0..1000 {
                now = now + Duration::from_micros(step);
                let bytes = pacer.allowed(now, &flow) / 1200 * 1200;
                pacer.spend(bytes);
                sent += bytes;
            }
            sent + 2400 >= rate.saturating_mul(1000 * step) >> POINT
        }
    }
}
