//! CUBIC (RFC 9438) with HyStart++ (RFC 9406), in integers: bytes and microseconds.

use super::congestion::{Controller, INITIAL_DATAGRAMS, MINIMUM_DATAGRAMS, WINDOW_MAX, take};
use crate::time::{Duration, Instant};

/// `C` is 0.4 datagrams per cubic second (RFC 9438 §5): this over [`C_PER`], in cubic microseconds.
const C: u128 = 2;
const C_PER: u128 = 5 * 1_000_000_000_000_000_000;
/// What a loss leaves of the window, tenths (RFC 9438 §4.6).
const BETA: u64 = 7;
/// What fast convergence leaves of it as the next plateau, twentieths: (1 + beta) / 2 (§4.7).
const CONVERGENCE: u64 = 17;
/// Growth in the Reno-friendly region, seventeenths of Reno's: 3 (1 - beta) / (1 + beta) (§4.3).
const ALPHA: u128 = 9;
const ALPHA_PER: u128 = 17;
/// Times on the curve stay below this, microseconds: five hours, and its cube leaves room.
const TIME_MAX: u64 = 1 << 34;

/// The curve of one congestion avoidance stage.
#[derive(Debug)]
struct Curve {
    /// Where the curve is flat, bytes (`W_max`).
    plateau: u64,
    /// When it is flat (`K`), microseconds from its start.
    flat: u64,
    /// Time on the curve, microseconds. It stands still while the window is not in use (§5.8), so
    /// that a pause is not answered with a leap.
    elapsed: u64,
    /// The last acknowledgement.
    last: Instant,
    /// What Reno's window would be (`W_est`).
    reno: u64,
    reno_credit: u128,
    credit: u128,
}

impl Curve {
    fn new(now: Instant, window: u64, w_max: u64, datagram: u64) -> Self {
        let plateau = w_max.max(window);
        let flat = cube_root(u128::from(plateau - window) * C_PER / (C * u128::from(datagram)));
        Self { plateau, flat, elapsed: 0, last: now, reno: window, reno_credit: 0, credit: 0 }
    }

    /// `W_cubic` at a time on the curve.
    fn at(&self, micros: u64, datagram: u64) -> u64 {
        let distance = u128::from(micros.abs_diff(self.flat).min(TIME_MAX));
        let change = C * u128::from(datagram) * distance.pow(3) / C_PER;
        let change = u64::try_from(change).unwrap_or(WINDOW_MAX).min(WINDOW_MAX);
        if micros < self.flat { self.plateau.saturating_sub(change) } else { self.plateau + change }
    }
}

/// CUBIC.
#[derive(Debug)]
pub(crate) struct Cubic {
    datagram: u64,
    window: u64,
    /// `ssthresh`; the maximum until there was a congestion event.
    threshold: u64,
    recovery_start: Option<Instant>,
    /// The window before the last reduction, after fast convergence (`W_max`); 0 for none.
    w_max: u64,
    /// The window before the last reduction (`cwnd_prior`).
    prior: u64,
    curve: Option<Curve>,
    hystart: HyStart,
}

impl Cubic {
    pub(crate) fn new(datagram: u64) -> Self {
        Self {
            datagram,
            window: INITIAL_DATAGRAMS * datagram,
            threshold: u64::MAX,
            recovery_start: None,
            w_max: 0,
            prior: 0,
            curve: None,
            hystart: HyStart::default(),
        }
    }

    fn minimum(&self) -> u64 {
        MINIMUM_DATAGRAMS * self.datagram
    }

    fn in_recovery(&self, sent: Instant) -> bool {
        self.recovery_start.is_some_and(|start| sent <= start)
    }

    fn slow_start(&mut self, now: Instant, sent: Instant, bytes: u64, limited: bool) {
        // HyStart++ is for the first slow start; a later one has a threshold that was measured.
        let first = self.threshold == u64::MAX;
        if first {
            self.hystart.acked(now, sent);
        }
        if limited {
            let divisor = if first { self.hystart.divisor() } else { 1 };
            self.window = (self.window + bytes / divisor).min(WINDOW_MAX);
        }
        if first && self.hystart.is_over() {
            (self.threshold, self.w_max, self.prior) = (self.window, self.window, self.window);
        }
    }

    fn avoid(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        smoothed: Duration,
        limited: bool,
    ) {
        let (window, datagram) = (self.window, self.datagram);
        let curve = self.curve.get_or_insert_with(|| Curve::new(now, window, self.w_max, datagram));
        // Only time during which what is now acknowledged was under way: not that of a silence.
        let since = curve.last.max(sent);
        curve.last = now;
        if !limited {
            return;
        }
        curve.elapsed = curve.elapsed.saturating_add(micros(now.since(since))).min(TIME_MAX);
        let alpha = if curve.reno < self.prior { ALPHA } else { ALPHA_PER };
        curve.reno_credit += alpha * u128::from(bytes) * u128::from(datagram);
        let unit = window.saturating_mul(ALPHA_PER as u64);
        curve.reno = (curve.reno + take(&mut curve.reno_credit, unit)).min(WINDOW_MAX);
        self.window = if curve.at(curve.elapsed, datagram) < curve.reno {
            window.max(curve.reno)
        } else {
            let target = curve.at(curve.elapsed.saturating_add(micros(smoothed)), datagram);
            let missing = target.clamp(window, window + window / 2) - window;
            curve.credit += u128::from(missing) * u128::from(bytes);
            (window + take(&mut curve.credit, window)).min(WINDOW_MAX)
        };
    }
}

impl Controller for Cubic {
    fn window(&self) -> u64 {
        self.window
    }

    fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    fn sampled(&mut self, rtt: Duration) {
        self.hystart.sampled(rtt);
    }

    fn acked(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        smoothed: Duration,
        limited: bool,
    ) {
        if self.in_recovery(sent) {
            return;
        }
        if self.in_slow_start() {
            self.slow_start(now, sent, bytes, limited);
        } else {
            self.avoid(now, sent, bytes, smoothed, limited);
        }
    }

    fn lost(&mut self, now: Instant, sent: Instant) {
        if self.in_recovery(sent) {
            return;
        }
        let window = self.window;
        self.recovery_start = Some(now);
        self.prior = window;
        self.w_max = if window < self.w_max { window / 20 * CONVERGENCE } else { window };
        self.window = (window / 10 * BETA).max(self.minimum());
        self.threshold = self.window;
        self.curve = None;
    }

    fn collapsed(&mut self) {
        // RFC 9438 §4.8: the curve that follows begins flat.
        (self.window, self.w_max) = (self.minimum(), 0);
        (self.recovery_start, self.curve) = (None, None);
    }

    fn set_datagram_size(&mut self, size: u64) {
        if size == self.datagram {
            return;
        }
        self.datagram = size;
        self.window = self.window.max(self.minimum());
        // The curve counts in datagrams: a new one begins here.
        self.curve = None;
    }

    fn reset(&mut self) {
        *self = Self::new(self.datagram);
    }

    fn is_fresh(&self) -> bool {
        // What HyStart++ saw of RTTs is that of a round trip which is over.
        self.threshold == u64::MAX && self.window == INITIAL_DATAGRAMS * self.datagram
    }
}

/// RTT samples of a round that make it count (RFC 9406 §4.3, as the constants below).
const ROUND_SAMPLES: u32 = 8;
const RISE_MIN: Duration = Duration::from_millis(4);
const RISE_MAX: Duration = Duration::from_millis(16);
const RISE_DIVISOR: u32 = 8;
const CONSERVATIVE_DIVISOR: u64 = 4;
const CONSERVATIVE_ROUNDS: u32 = 5;

/// HyStart++ (RFC 9406): leaves slow start when the RTT rises, before the queue overflows.
#[derive(Debug)]
struct HyStart {
    /// A packet sent from here on ends the round when it is acknowledged.
    round_start: Instant,
    last_min: Option<Duration>,
    round_min: Option<Duration>,
    samples: u32,
    /// In conservative slow start: the RTT at which it began, and rounds since.
    conservative: Option<(Duration, u32)>,
}

impl Default for HyStart {
    fn default() -> Self {
        Self {
            round_start: Instant::ZERO,
            last_min: None,
            round_min: None,
            samples: 0,
            conservative: None,
        }
    }
}

impl HyStart {
    fn acked(&mut self, now: Instant, sent: Instant) {
        if sent >= self.round_start {
            (self.last_min, self.round_min) = (self.round_min, None);
            (self.round_start, self.samples) = (now, 0);
            if let Some((_, rounds)) = &mut self.conservative {
                *rounds += 1;
            }
        }
    }

    fn sampled(&mut self, rtt: Duration) {
        let min = self.round_min.map_or(rtt, |min| min.min(rtt));
        self.round_min = Some(min);
        self.samples = self.samples.saturating_add(1);
        if self.samples < ROUND_SAMPLES {
            return;
        }
        match (self.conservative, self.last_min) {
            // The rise was noise.
            (Some((baseline, _)), _) if min < baseline => self.conservative = None,
            (None, Some(last)) if min >= last + (last / RISE_DIVISOR).clamp(RISE_MIN, RISE_MAX) => {
                self.conservative = Some((min, 0));
            }
            _ => {}
        }
    }

    fn divisor(&self) -> u64 {
        if self.conservative.is_some() { CONSERVATIVE_DIVISOR } else { 1 }
    }

    fn is_over(&self) -> bool {
        self.conservative.is_some_and(|(_, rounds)| rounds >= CONSERVATIVE_ROUNDS)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(TIME_MAX).min(TIME_MAX)
}

/// The largest integer whose cube is at most `n`.
fn cube_root(n: u128) -> u64 {
    let mut root = 0_u64;
    for bit in (0..43).rev() {
        let more = root | 1 << bit;
        if u128::from(more).checked_pow(3).is_some_and(|cube| cube <= n) {
            root = more;
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use quickcheck::quickcheck;

    const DATAGRAM: u64 = 1200;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A window's worth of acknowledgements, a round trip of 100 ms after they were sent at `now`.
    fn round(cubic: &mut Cubic, now: &mut u64, limited: bool) {
        let sent = *now;
        *now += 100;
        for _ in 0..cubic.window() / DATAGRAM {
            cubic.acked(at(*now), at(sent), DATAGRAM, ms(100), limited);
        }
    }

    #[test]
    fn roots() {
        for root in [0_u64, 1, 2, 9, 10, 1 << 20, 2_642_245, 6_981_463_658_331] {
            let cube = u128::from(root).pow(3);
            assert_eq!(cube_root(cube), root);
            assert_eq!(cube_root(cube + 1), root.max(u64::from(root == 0)));
            assert_eq!(cube_root(cube.saturating_sub(1)), root.saturating_sub(1));
        }
        assert_eq!(cube_root(u128::MAX), 6_981_463_658_331);
    }

    /// RFC 9438 §4.6, §4.7; once a round trip.
    #[test]
    fn a_loss_takes_three_tenths() {
        let mut cubic = Cubic::new(DATAGRAM);
        assert_eq!(cubic.window(), 12_000);
        cubic.acked(at(2), at(1), DATAGRAM, ms(1), true);
        cubic.acked(at(2), at(1), DATAGRAM, ms(1), false);
        assert_eq!(cubic.window(), 13_200);
        cubic.lost(at(10), at(5));
        assert_eq!((cubic.window(), cubic.w_max), (9240, 13_200));
        cubic.lost(at(11), at(6));
        cubic.acked(at(11), at(7), DATAGRAM, ms(1), true);
        assert_eq!(cubic.window(), 9240);
        cubic.lost(at(20), at(12));
        assert_eq!((cubic.window(), cubic.w_max), (6468, 9240 / 20 * 17), "fast convergence");
        for seq in 30..60 {
            cubic.lost(at(seq), at(seq - 1));
        }
        assert_eq!(cubic.window(), 2400);
        cubic.set_datagram_size(9000);
        assert_eq!(cubic.window(), 18_000);
        cubic.reset();
        assert_eq!(cubic.window(), 90_000);
    }

    /// RFC 9438 §4.2: after K seconds the window is back at the plateau, then beyond.
    #[test]
    fn the_curve() {
        let mut cubic = Cubic::new(DATAGRAM);
        cubic.window = 1000 * DATAGRAM;
        cubic.lost(at(1), at(0));
        assert_eq!(cubic.window(), 700 * DATAGRAM);
        let mut now = 2;
        round(&mut cubic, &mut now, true);
        // K = cbrt(300 / 0.4) s
        assert_eq!(cubic.curve.as_ref().unwrap().flat, 9_085_602);
        while cubic.curve.as_ref().unwrap().elapsed < 9_000_000 {
            let before = cubic.window();
            round(&mut cubic, &mut now, true);
            assert!(cubic.window() >= before);
        }
        let window = cubic.window() / DATAGRAM;
        assert!((995..=1001).contains(&window), "{window}");
        (0..50).for_each(|_| round(&mut cubic, &mut now, true));
        let window = cubic.window() / DATAGRAM;
        // 0.4 * (5 s)^3 = 50 datagrams; Reno would have one each round.
        assert!((1040..=1055).contains(&window), "{window}");
    }

    /// RFC 9438 §4.3: on a short path CUBIC is no slower than Reno.
    #[test]
    fn friendly_to_reno() {
        let mut cubic = Cubic::new(DATAGRAM);
        cubic.window = 20 * DATAGRAM;
        cubic.lost(at(1), at(0));
        let mut now = 2;
        for _ in 0..12 {
            let sent = now;
            now += 1;
            for _ in 0..cubic.window() / DATAGRAM {
                cubic.acked(at(now), at(sent), DATAGRAM, ms(1), true);
            }
        }
        // 9/17 datagrams a round from 14 up to the prior window of 20.
        let window = cubic.window() / DATAGRAM;
        assert!((19..=21).contains(&window), "{window}");
        for _ in 0..10 {
            let sent = now;
            now += 1;
            for _ in 0..cubic.window() / DATAGRAM {
                cubic.acked(at(now), at(sent), DATAGRAM, ms(1), true);
            }
        }
        let window = cubic.window() / DATAGRAM;
        assert!((27..=31).contains(&window), "then one a round: {window}");
    }

    /// RFC 9438 §5.8.
    #[test]
    fn time_out_of_use_is_no_time() {
        let mut cubic = Cubic::new(DATAGRAM);
        cubic.window = 1000 * DATAGRAM;
        cubic.lost(at(1), at(0));
        let mut now = 2;
        (0..10).for_each(|_| round(&mut cubic, &mut now, true));
        let (window, elapsed) = (cubic.window(), cubic.curve.as_ref().unwrap().elapsed);
        (0..1000).for_each(|_| round(&mut cubic, &mut now, false));
        now += 3_600_000;
        assert_eq!(cubic.window(), window);
        round(&mut cubic, &mut now, true);
        assert_eq!(cubic.curve.as_ref().unwrap().elapsed, elapsed + 100_000);
        assert!(cubic.window() < window + window / 20);
    }

    /// RFC 9002 §7.6, RFC 9438 §4.8.
    #[test]
    fn persistent_congestion() {
        let mut cubic = Cubic::new(DATAGRAM);
        cubic.window = 100 * DATAGRAM;
        cubic.lost(at(1), at(0));
        cubic.collapsed();
        assert_eq!(cubic.window(), 2 * DATAGRAM);
        assert!(cubic.in_slow_start());
        let mut now = 10;
        while cubic.in_slow_start() {
            round(&mut cubic, &mut now, true);
        }
        assert!((70..=75).contains(&(cubic.window() / DATAGRAM)));
        round(&mut cubic, &mut now, true);
        assert_eq!(cubic.curve.as_ref().unwrap().flat, 0);
    }

    /// RFC 9406 §4.2.
    #[test]
    fn a_rising_rtt_ends_slow_start() {
        let mut cubic = Cubic::new(DATAGRAM);
        let mut now = 1;
        let mut rounds = |cubic: &mut Cubic, count: u32, rtt: u64| {
            for _ in 0..count {
                let sent = now;
                now += rtt;
                for _ in 0..10 {
                    cubic.sampled(ms(rtt));
                    cubic.acked(at(now), at(sent), DATAGRAM, ms(rtt), true);
                }
            }
        };
        rounds(&mut cubic, 3, 40);
        assert_eq!(cubic.window(), 40 * DATAGRAM);
        rounds(&mut cubic, 2, 46);
        assert!(cubic.hystart.conservative.is_some());
        rounds(&mut cubic, 1, 40);
        assert!(cubic.hystart.conservative.is_none(), "it was noise");
        rounds(&mut cubic, 2, 46);
        assert!(cubic.in_slow_start());
        rounds(&mut cubic, 5, 46);
        assert!(!cubic.in_slow_start());
        assert_eq!(cubic.threshold, cubic.w_max);
    }

    quickcheck! {
        /// Whatever happens, the window stays between its bounds and nothing overflows.
        fn within_bounds(start: u64, events: Vec<(u8, u32, u32)>) -> bool {
            let mut cubic = Cubic::new(DATAGRAM);
            cubic.window = (start % (WINDOW_MAX * 2)).clamp(2 * DATAGRAM, WINDOW_MAX);
            let mut now = Instant::ZERO;
            events.into_iter().all(|(kind, wait, size)| {
                let sent = now;
                now = now + Duration::from_micros(u64::from(wait) << (kind % 16));
                let before = cubic.window();
                match kind % 8 {
                    0 => cubic.lost(now, sent),
                    1 => cubic.collapsed(),
                    2 => cubic.set_datagram_size(u64::from(size % 65_505).max(1200)),
                    3 => cubic.sampled(Duration::from_micros(u64::from(wait))),
                    _ => {
                        let smoothed = Duration::from_micros(u64::from(wait));
                        cubic.acked(now, sent, u64::from(size % 65_505), smoothed, kind >= 64);
                        if cubic.window() < before || kind < 64 && cubic.window() != before {
                            return false;
                        }
                    }
                }
                (cubic.minimum()..=WINDOW_MAX).contains(&cubic.window())
            })
        }
    }
}
