use super::super::congestion::NewReno;
use super::*;
use crate::wire::cursor::Writer;
use crate::wire::frame::{Frame, Frames, write_ack};
use alloc::collections::BTreeSet;
use core::ops::RangeInclusive;
use quickcheck::quickcheck;

fn at(ms: u64) -> Instant {
    Instant::from_micros(ms * 1000)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn packet(seq: u64, at: Instant, size: u64) -> Sent {
    Sent { seq, at, size, fragments: Vec::new(), chunk: None, acked: None }
}

fn sent(seq: u64, ms: u64) -> Sent {
    packet(seq, at(ms), 1200)
}

fn acknowledge(
    recovery: &mut Recovery,
    now: Instant,
    delay_us: u64,
    ranges: impl Iterator<Item = RangeInclusive<u64>> + Clone,
    next: u64,
) -> Result<(Vec<u64>, Vec<u64>), Violation> {
    let mut out = [0; 1200];
    let mut writer = Writer::new(&mut out);
    assert!(write_ack(&mut writer, delay_us, ranges));
    let len = writer.len();
    let Some(Ok(Frame::Ack(ack))) = Frames::new(&out[..len]).next() else { panic!() };
    let mut settled = Settled::default();
    recovery.on_ack(now, &ack, next, &mut settled)?;
    let seqs = |list: &[Sent]| list.iter().map(|sent| sent.seq).collect();
    Ok((seqs(&settled.acked), seqs(&settled.lost)))
}

fn ack(
    recovery: &mut Recovery,
    ms: u64,
    ranges: &[RangeInclusive<u64>],
    next: u64,
) -> Result<(Vec<u64>, Vec<u64>), Violation> {
    acknowledge(recovery, at(ms), 0, ranges.iter().cloned(), next)
}

/// A deadline that has come, and what became of packets by that.
fn timeout(recovery: &mut Recovery, now: Instant) -> Settled {
    let mut settled = Settled::default();
    recovery.on_timeout(now, &mut settled);
    settled
}

fn lost(settled: &Settled) -> Vec<u64> {
    settled.lost.iter().map(|sent| sent.seq).collect()
}

/// RFC 9002 §6.1.1, §6.1.2.
#[test]
fn loss_by_number_and_by_time() {
    let mut recovery = Recovery::default();
    (1..=6).for_each(|seq| recovery.sent(sent(seq, seq)));
    assert_eq!(ack(&mut recovery, 50, &[5..=5, 1..=1], 7), Ok(([5, 1].into(), [2].into())));
    assert_eq!(recovery.rtt.smoothed(), Some(ms(45)));
    // 3 and 4 are lost 9/8 of the RTT after they were sent.
    assert_eq!(recovery.deadline(), Some(Instant::from_micros(3000 + 45_000 * 9 / 8)));
    assert_eq!(lost(&timeout(&mut recovery, at(60))), [3, 4]);
    assert_eq!(recovery.bytes_in_flight(), 1200);
}

/// RFC 9002 §6.1.2: never sooner than the granularity.
#[test]
fn granularity() {
    let mut recovery = Recovery::default();
    (1..=3).for_each(|seq| recovery.sent(packet(seq, Instant::from_micros(seq), 1200)));
    let now = Instant::from_micros(10);
    acknowledge(&mut recovery, now, 0, [2..=2].into_iter(), 4).unwrap();
    assert_eq!(recovery.deadline(), Some(Instant::from_micros(1001)));
}

/// RFC 9002 §6.2.1, §6.2.2.
#[test]
fn probes_back_off() {
    let mut recovery = Recovery::default();
    assert_eq!(recovery.deadline(), None);
    recovery.sent(sent(1, 0));
    let first = recovery.deadline().unwrap();
    assert_eq!(first, Instant::ZERO + ms(333) + Duration::from_micros(4 * 166_500) + ms(25));
    assert!(timeout(&mut recovery, first).lost.is_empty());
    assert_eq!((recovery.probes, recovery.pto_count()), (2, 1));
    assert_eq!(recovery.deadline().unwrap().since(first), recovery.rtt.pto() * 2);
    // RFC 9002 §7.5: probes go whatever the window says.
    recovery.bytes_in_flight += 1 << 30;
    assert!(recovery.may_send(1200) && recovery.may_send_paced(first, 1200));
    recovery.bytes_in_flight -= 1 << 30;
    assert_eq!(ack(&mut recovery, 2000, &[1..=1], 2), Ok(([1].into(), [].into())));
    assert_eq!((recovery.deadline(), recovery.probes, recovery.pto_count()), (None, 0, 0));
}

#[test]
fn never_sent() {
    let mut recovery = Recovery::default();
    recovery.sent(sent(1, 0));
    assert_eq!(ack(&mut recovery, 1, &[1..=2], 2), Err(Violation::AckUnsent));
    assert_eq!(ack(&mut recovery, 1, &[0..=1], 2), Err(Violation::AckUnsent));
    assert_eq!(ack(&mut recovery, 1, &[1..=1], 2), Ok(([1].into(), [].into())));
    // A repeated ACK is fine.
    assert_eq!(ack(&mut recovery, 1, &[1..=1], 2), Ok(([].into(), [].into())));
}

/// PROTOCOL 4: what is in flight is walked, not what a peer names.
#[test]
fn an_ack_of_everything_costs_little() {
    let (mut recovery, next) = (Recovery::default(), 1 << 61);
    recovery.sent(sent(1, 0));
    recovery.sent(sent(next - 1, 0));
    let all = ack(&mut recovery, 10, &[1..=next - 1], next);
    assert_eq!(all, Ok(([next - 1, 1].into(), [].into())));
}

/// RFC 9002 §5.1 to §5.3.
#[test]
fn round_trips() {
    let mut rtt = Rtt::default();
    rtt.sample(ms(100), ms(20));
    assert_eq!((rtt.smoothed, rtt.variation, rtt.min), (ms(100), ms(50), Some(ms(100))));
    // The delay counts up to 25 ms.
    rtt.sample(ms(200), ms(1000));
    assert_eq!(rtt.variation, (ms(150) + ms(75)) / 4);
    assert_eq!(rtt.smoothed, (ms(700) + ms(175)) / 8);
    // It never takes a sample below the least RTT.
    let before = rtt.smoothed;
    rtt.sample(ms(110), ms(20));
    assert_eq!(rtt.smoothed, (before * 7 + ms(110)) / 8);
    rtt.sample(ms(90), ms(20));
    assert_eq!(rtt.min, Some(ms(90)));

    // §5.1: no sample from an ACK whose largest number was acknowledged before.
    let mut recovery = Recovery::default();
    (1..=2).for_each(|seq| recovery.sent(sent(seq, 0)));
    ack(&mut recovery, 10, &[2..=2], 3).unwrap();
    ack(&mut recovery, 90, &[1..=2], 3).unwrap();
    assert_eq!(recovery.rtt.latest, ms(10));
    assert_eq!(recovery.rtt.min(), Some(ms(10)));
}

/// Packets 2.. sent at these times, after a first one whose RTT of 10 ms was taken at 10 ms; then
/// the last one is acknowledged 10 ms after it was sent.
fn silence(times: &[u64], acked: Option<u64>) -> Recovery {
    let mut recovery = Recovery::default();
    recovery.sent(sent(1, 0));
    ack(&mut recovery, 10, &[1..=1], 2).unwrap();
    // pto() is 10 + 20 + 25 ms, and after another sample of 10 ms 10 + 15 + 25.
    let mut seq = 1;
    for ms in times {
        seq += 1;
        recovery.sent(sent(seq, *ms));
    }
    let ranges: Vec<_> = [Some(seq), acked].into_iter().flatten().map(|seq| seq..=seq).collect();
    ack(&mut recovery, times.last().unwrap() + 10, &ranges, seq + 1).unwrap();
    recovery
}

#[test]
fn the_smallest_window_has_room_for_a_file() {
    let mut recovery = silence(&[20, 60, 171, 400], None);
    assert_eq!((recovery.window(), recovery.bytes_in_flight()), (2400, 0));
    assert_eq!(recovery.batch(at(500)), 1);
    recovery.sent(sent(6, 500));
    assert_eq!(recovery.batch(at(501)), 0);
    assert!(recovery.may_send(1200), "the rest is for messages");
}

/// RFC 9002 §7.6.
#[test]
fn persistent_congestion() {
    let collapsed = |times: &[u64], acked| silence(times, acked).window() == 2400;
    assert!(!collapsed(&[20, 60, 170, 400], None), "150 ms are three PTOs, not more");
    assert!(collapsed(&[20, 60, 171, 400], None));
    assert!(!collapsed(&[20, 60, 171, 400], Some(3)), "one between arrived");
    assert!(!collapsed(&[5, 60, 160, 400], None), "before the first sample nothing counts");
    assert!(!collapsed(&[20, 400], None), "one packet is no period");
    // §5.2
    assert_eq!(silence(&[20, 60, 171, 500], None).rtt.min(), Some(ms(10)));

    // The period is found though its end is lost later than its beginning.
    let mut recovery = Recovery::default();
    recovery.sent(sent(1, 0));
    ack(&mut recovery, 10, &[1..=1], 2).unwrap();
    recovery.sent(sent(2, 20));
    recovery.sent(sent(3, 300));
    recovery.sent(sent(4, 301));
    assert_eq!(ack(&mut recovery, 311, &[4..=4], 5), Ok(([4].into(), [2].into())));
    assert!(recovery.window() > 2400);
    let deadline = recovery.deadline().unwrap();
    assert_eq!(lost(&timeout(&mut recovery, deadline)), [3]);
    assert_eq!(recovery.window(), 2400);
}

/// RFC 9002 §7.3.2: one reduction for all losses of a round trip; §7.8: growth only in use.
#[test]
fn the_window() {
    let mut recovery = Recovery::default();
    for seq in 1..=10 {
        assert!(recovery.may_send(1200));
        recovery.sent(sent(seq, 0));
    }
    assert!(!recovery.may_send(1));
    ack(&mut recovery, 10, &[1..=10], 11).unwrap();
    assert_eq!(recovery.window(), 24_000);
    recovery.sent(sent(11, 20));
    ack(&mut recovery, 30, &[11..=11], 12).unwrap();
    recovery.sent(sent(12, 40));
    ack(&mut recovery, 50, &[12..=12], 13).unwrap();
    recovery.sent(sent(13, 60));
    ack(&mut recovery, 70, &[13..=13], 14).unwrap();
    let idle = recovery.window();
    recovery.sent(sent(14, 80));
    ack(&mut recovery, 90, &[14..=14], 15).unwrap();
    assert_eq!(recovery.window(), idle);
    (15..=34).for_each(|seq| recovery.sent(sent(seq, 100)));
    ack(&mut recovery, 110, &[20..=20], 35).unwrap();
    ack(&mut recovery, 110, &[30..=30, 20..=20], 35).unwrap();
    let reduced = recovery.window();
    assert_eq!(reduced, (idle + 1200) / 10 * 7, "20 was acknowledged; CUBIC leaves seven tenths");
    ack(&mut recovery, 111, &[34..=34], 35).unwrap();
    assert_eq!(recovery.window(), reduced);
}

/// PROTOCOL 4.2: size probes are outside congestion control; 4.3.
#[test]
fn size_probes() {
    let mut recovery = Recovery::default();
    (1..=16).for_each(|seq| recovery.sent(sent(seq, 0)));
    assert_eq!(recovery.size_probe(), None);
    ack(&mut recovery, 10, &[1..=16], 17).unwrap();
    let window = recovery.window();
    assert_eq!(recovery.size_probe(), Some(1472));
    recovery.sent_size_probe(packet(17, at(20), 1472));
    assert_eq!((recovery.size_probe(), recovery.bytes_in_flight()), (None, 0));
    ack(&mut recovery, 30, &[17..=17], 18).unwrap();
    assert_eq!((recovery.datagram_size(), recovery.window()), (1472, window));
    // One that is lost changes nothing but the search.
    for round in 0..3 {
        let seq = 18 + 2 * round;
        assert_eq!(recovery.size_probe(), Some(65_504));
        recovery.sent_size_probe(packet(seq, at(1000 * seq), 65_504));
        recovery.sent(sent(seq + 1, 1000 * seq + 900));
        let settled = ack(&mut recovery, 1000 * seq + 910, &[seq + 1..=seq + 1], seq + 2);
        assert_eq!(settled, Ok(([seq + 1].into(), [seq].into())));
        assert!(recovery.window() >= window);
    }
    assert_eq!(recovery.size_probe(), Some(8944));
    // It is repaired by a probe timeout like any other packet, and no other probe goes meanwhile.
    recovery.sent_size_probe(packet(30, at(60_000), 8944));
    let deadline = recovery.deadline().unwrap();
    timeout(&mut recovery, deadline);
    recovery.sent(packet(31, deadline, 64));
    assert_eq!(recovery.size_probe(), None);
    let now = deadline + ms(10);
    let settled = acknowledge(&mut recovery, now, 0, [31..=31].into_iter(), 32);
    assert_eq!(settled, Ok(([31].into(), [30].into())));
    assert_eq!(recovery.size_probe(), Some(8944));
}

/// PROTOCOL 4.3.
#[test]
fn a_black_hole() {
    let mut recovery = Recovery::default();
    (1..=16).for_each(|seq| recovery.sent(sent(seq, 0)));
    ack(&mut recovery, 10, &[1..=16], 17).unwrap();
    recovery.sent_size_probe(packet(17, at(20), 1472));
    ack(&mut recovery, 30, &[17..=17], 18).unwrap();
    recovery.sent(packet(18, at(40), 1472));
    for count in 1..=2 {
        assert_eq!(recovery.datagram_size(), 1472);
        let deadline = recovery.deadline().unwrap();
        timeout(&mut recovery, deadline);
        assert_eq!(recovery.pto_count(), count);
    }
    assert_eq!(recovery.datagram_size(), 1200);
}

/// PROTOCOL 6, RFC 9000 §9.4.
#[test]
fn another_path() {
    let mut recovery = Recovery::default();
    (1..=16).for_each(|seq| recovery.sent(sent(seq, 0)));
    ack(&mut recovery, 10, &[1..=16], 17).unwrap();
    recovery.sent_size_probe(packet(17, at(20), 1472));
    ack(&mut recovery, 30, &[17..=17], 18).unwrap();
    (18..=27).for_each(|seq| recovery.sent(packet(seq, at(40), 1472)));
    recovery.reset_path();
    assert_eq!((recovery.window(), recovery.bytes_in_flight()), (12_000, 0));
    assert_eq!((recovery.datagram_size(), recovery.rtt.smoothed()), (1200, None));
    assert!(recovery.deadline().is_some());
    assert!(recovery.may_send(12_000));
    // What went by the old path is settled, and says nothing of the new one.
    let before = ack(&mut recovery, 50, &[18..=20], 28).unwrap();
    assert_eq!(before.0, [20, 19, 18]);
    assert_eq!((recovery.window(), recovery.bytes_in_flight()), (12_000, 0));
    assert_eq!(recovery.rtt.smoothed(), None);
    recovery.sent(sent(28, 60));
    recovery.sent(sent(29, 61));
    let (acked, lost) = ack(&mut recovery, 160, &[29..=29, 21..=21], 30).unwrap();
    assert_eq!((acked, lost), ([29, 21].into(), (22..=27).collect()));
    // 28 may be late only.
    assert_eq!((recovery.window(), recovery.bytes_in_flight()), (12_000, 1200));
    assert_eq!(recovery.rtt.smoothed(), Some(ms(99)));
}

/// RFC 9002 §7.7.
#[test]
fn paced_packets() {
    let mut recovery = Recovery::default();
    let mut seq = 0;
    let mut fill = |recovery: &mut Recovery, now: Instant| {
        let first = seq + 1;
        while recovery.may_send_paced(now, 1200) {
            seq += 1;
            recovery.sent(packet(seq, now, 1200));
        }
        first..=seq
    };
    assert_eq!(fill(&mut recovery, at(0)), 1..=10);
    assert_eq!(recovery.pacing_deadline(), None, "it is the window that is full");
    ack(&mut recovery, 100, &[1..=10], 11).unwrap();
    assert_eq!(fill(&mut recovery, at(100)), 11..=20);
    let wake = recovery.pacing_deadline().unwrap();
    // Half a burst of 6000 bytes, at twice 24,000 bytes in 100 ms.
    assert_eq!(wake, at(100) + Duration::from_micros(12_501));
    timeout(&mut recovery, wake);
    assert_eq!(recovery.pacing_deadline(), None);
    assert_eq!(fill(&mut recovery, wake), 21..=25);
    // Nothing waits for the pacer while probes may go.
    let deadline = recovery.deadline().unwrap();
    timeout(&mut recovery, deadline);
    assert!(recovery.may_send_paced(deadline, 1200));
    assert_eq!(recovery.pacing_deadline(), None);
}

quickcheck! {
    /// Every packet is settled at most once, what is in flight agrees with a plain set, and what is
    /// below the newest one acknowledged is settled but for the last two.
    fn agrees_with_a_plain_set(steps: Vec<(u8, u8, u8)>) -> bool {
        let mut recovery = Recovery::new(Box::new(NewReno::new(1200)));
        let (mut model, mut next, mut now) = (BTreeSet::new(), 1_u64, 0);
        steps.into_iter().all(|(kind, low, length)| {
            now += u64::from(kind);
            match kind % 4 {
                0 => {
                    let ready = recovery.deadline().is_some_and(|deadline| deadline <= at(now));
                    let settled = timeout(&mut recovery, at(now));
                    if settled.lost.iter().any(|sent| !ready || !model.remove(&sent.seq)) {
                        return false;
                    }
                }
                1 if next > 1 => {
                    let high = (next - 1).saturating_sub(u64::from(low) % 8).max(1);
                    let low = high.saturating_sub(u64::from(length % 8)).max(1);
                    let (acked, lost) = ack(&mut recovery, now, &[low..=high], next).unwrap();
                    if acked.iter().any(|seq| !(low..=high).contains(seq))
                        || acked.iter().chain(&lost).any(|seq| !model.remove(seq))
                        || model.iter().any(|seq| (low..=high).contains(seq))
                        || model.iter().any(|seq| seq + 2 < high)
                    {
                        return false;
                    }
                }
                _ => for _ in 0..length % 16 {
                    // Numbers that were never sent leave gaps.
                    next += u64::from(low % 2);
                    recovery.sent(sent(next, now));
                    model.insert(next);
                    next += 1;
                },
            }
            recovery.packets().map(|sent| sent.seq).eq(model.iter().copied())
                && recovery.bytes_in_flight() == model.len() as u64 * 1200
                && recovery.deadline().is_some() != model.is_empty()
                && recovery.in_flight.front().is_none_or(|entry| entry.packet.is_some())
        })
    }
}

/// A link of a rate (bytes per ms), a one-way delay and a queue (bytes); the share of what it could
/// carry in `time` that arrives, and the share of packets lost.
fn through(mut recovery: Recovery, rate: u64, delay: u64, queue: u64, time: u64) -> (f64, f64) {
    const SIZE: u64 = 1200;
    // Per packet under way: when its ACK is back. The link is busy until `free`.
    let mut acks: VecDeque<(Instant, u64)> = VecDeque::new();
    let (mut now, mut free, mut seq) = (Instant::ZERO, Instant::ZERO, 0);
    let (mut arrived, mut dropped) = (0, 0);
    while now < at(time) {
        while recovery.may_send_paced(now, SIZE) {
            seq += 1;
            recovery.sent(packet(seq, now, SIZE));
            let waiting = u64::try_from(free.since(now).as_micros()).unwrap() * rate / 1000;
            if waiting + SIZE > queue {
                dropped += 1;
                continue;
            }
            free = free.max(now) + Duration::from_micros(SIZE * 1000 / rate);
            acks.push_back((free + ms(2 * delay), seq));
        }
        let back = acks.front().map(|(back, _)| *back);
        let wake = [back, recovery.deadline(), recovery.pacing_deadline()];
        now = wake.into_iter().flatten().min().unwrap().max(now);
        if back == Some(now) {
            let (_, seq) = acks.pop_front().unwrap();
            arrived += SIZE;
            acknowledge(&mut recovery, now, 0, [seq..=seq].into_iter(), u64::MAX >> 2).unwrap();
        } else {
            timeout(&mut recovery, now);
        }
    }
    (arrived as f64 / (rate * time) as f64, f64::from(dropped) / seq as f64)
}

#[test]
fn fills_a_link() {
    // 10 Mbit/s and 30 ms, 100 Mbit/s and 100 ms, 1 Gbit/s and 20 ms; a queue of half a round
    // trip, and a fifth.
    for (rate, delay, time) in [(1250, 15, 10_000), (12_500, 50, 30_000), (125_000, 10, 10_000)] {
        for part in [2, 5] {
            let queue = rate * delay * 2 / part;
            let (cubic, lost) = through(Recovery::default(), rate, delay, queue, time);
            let reno = Recovery::new(Box::new(NewReno::new(1200)));
            let (reno, _) = through(reno, rate, delay, queue, time);
            assert!(cubic > 0.8 && cubic > reno - 0.02, "{rate} {delay} {part}: {cubic} {reno}");
            assert!(lost < 0.01, "{rate} {delay} {part}: {lost}");
        }
    }
}
