use super::*;
use alloc::collections::BTreeMap;
use quickcheck::quickcheck;

fn session(slot: u64, number: u64) -> SessionId {
    SessionId((number << 24) | slot)
}

const fn due(micros: u64) -> Option<(Timer, Instant)> {
    Some((Timer::Idle, Instant::from_micros(micros)))
}

fn next(schedule: &mut Schedule) -> Option<(Instant, SessionId)> {
    schedule.next_deadline().map(|(deadline, id)| (deadline.at, id))
}

#[test]
fn deadlines_and_turns() {
    let at = Instant::from_micros;
    let (one, two) = (session(0, 1), session(1, 2));
    let mut schedule = Schedule::default();
    let settle = |schedule: &mut Schedule, deadlines: [u64; 2]| {
        while let Some(id) = schedule.next_stale() {
            schedule.set_deadline(id, due(deadlines[id.slot()]));
        }
    };
    schedule.begin(one);
    schedule.begin(two);
    schedule.touch(one);
    schedule.touch(two);
    settle(&mut schedule, [5, 3]);
    assert_eq!(next(&mut schedule), Some((at(3), two)));
    schedule.touch(two);
    schedule.touch(two);
    settle(&mut schedule, [0, 9]);
    assert_eq!(next(&mut schedule), Some((at(5), one)));
    assert_eq!(schedule.next_ready(), Some(one));
    assert_eq!(schedule.next_ready(), Some(two));
    assert_eq!(schedule.next_ready(), Some(one));
    schedule.idle(one);
    assert_eq!(schedule.next_stale(), Some(one), "it has sent");
    assert_eq!(schedule.next_ready(), Some(two));
    schedule.idle(two);
    schedule.touch(two);
    assert_eq!(schedule.next_ready(), Some(two), "touched again after it was idle");
    schedule.touch(one);
    schedule.forget(two);
    assert_eq!(schedule.next_ready(), Some(one));
    assert_eq!(schedule.next_with_files(), Some(one));
    schedule.idle(one);
    assert_eq!(schedule.next_ready(), None);
    assert_eq!(next(&mut schedule), Some((at(5), one)));
    let newer = session(1, 3);
    schedule.begin(newer);
    schedule.touch(two);
    assert_eq!(schedule.next_ready(), None, "what is no more has no place");
    schedule.set_deadline(newer, due(4));
    assert_eq!(next(&mut schedule), Some((at(4), newer)));
}

#[test]
fn files_take_turns() {
    let mut schedule = Schedule::default();
    let all: Vec<_> = (0..3).map(|slot| session(slot, slot)).collect();
    for id in &all {
        schedule.begin(*id);
        schedule.touch(*id);
    }
    assert_eq!(schedule.next_with_files(), Some(all[0]));
    assert_eq!(schedule.next_with_files(), Some(all[0]), "until it has sent");
    schedule.sent_files(all[0]);
    assert_eq!(schedule.next_with_files(), Some(all[1]));
    schedule.no_files(all[1]);
    schedule.sent_files(all[2]);
    assert_eq!(schedule.next_with_files(), Some(all[0]));
    schedule.touch(all[1]);
    schedule.sent_files(all[0]);
    assert_eq!(schedule.next_with_files(), Some(all[2]));
}

/// What a deadline moved to and from leaves behind is cleared away.
#[test]
fn the_heap_stays_small() {
    let at = Instant::from_micros;
    let mut schedule = Schedule::default();
    let id = session(0, 1);
    schedule.begin(id);
    for time in (0..10_000).rev() {
        schedule.set_deadline(id, due(20_000));
        schedule.set_deadline(id, due(time));
        assert!(schedule.heap.len() <= 2 + LITTER + 1);
    }
    assert_eq!(next(&mut schedule), Some((at(0), id)));
}

quickcheck! {
    fn deadlines_are_those_of_a_plain_map(steps: Vec<(u8, u8, u8)>) -> bool {
        const SLOTS: u64 = 4;
        let mut schedule = Schedule::default();
        let (mut plain, mut born) = (BTreeMap::new(), SLOTS);
        let mut ids: Vec<_> = (0..SLOTS).map(|slot| session(slot, slot)).collect();
        ids.iter().for_each(|id| schedule.begin(*id));
        steps.into_iter().all(|(step, slot, time)| {
            let slot = usize::from(slot) % ids.len();
            let id = ids[slot];
            match step % 8 {
                0 => {
                    schedule.forget(id);
                    plain.remove(&id);
                    ids[slot] = session(slot as u64, born);
                    born += 1;
                    schedule.begin(ids[slot]);
                }
                1 => {
                    schedule.set_deadline(id, None);
                    plain.remove(&id);
                }
                2 => {
                    let now = Instant::from_micros(time.into());
                    let mut due = schedule.due(now);
                    due.sort();
                    let expected: Vec<_> =
                        plain.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
                    if due != expected {
                        return false;
                    }
                    plain.retain(|_, at| *at > now);
                }
                _ => {
                    let at = Instant::from_micros(time.into());
                    schedule.set_deadline(id, due(time.into()));
                    plain.insert(id, at);
                }
            }
            next(&mut schedule).map(|(at, _)| at) == plain.values().min().copied()
        })
    }
}
