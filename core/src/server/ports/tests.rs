use super::*;
use crate::random::{Random, Seed};
use crate::secret::Secret;

fn stream() -> Stream {
    Random::new(&Seed::new(&mut [4; 32])).public
}

fn schedule() -> PortSchedule {
    PortSchedule { seed: Secret::take(&mut [9; 32]), origin: 0, interval: 3600 }
}

const READY: BindResult = BindResult::Ready { emergency: false };

/// `secs` after the edge of slot 100, on both clocks.
fn at(secs: u64) -> Now {
    let mono = Instant::ZERO + Duration::from_secs(secs);
    Now { mono, wall: UnixMs((360_000 + secs) * 1000) }
}

fn listening(choice: PortChoice) -> (Ports, Stream) {
    let mut random = stream();
    let mut ports = Ports::new(choice, Timing::default(), at(0), &mut random);
    let (port, number) = ports.wanted().unwrap();
    assert_eq!(ports.bound(at(0), port, true, &mut random), BindResult::Listening(number));
    (ports, random)
}

/// Turns at every deadline up to `secs`; all that came of it.
fn turn_until(ports: &mut Ports, secs: u64, random: &mut Stream) -> Vec<(u64, Turn)> {
    let mut turns = Vec::new();
    while let Some(due) = ports.deadline().filter(|due| *due <= at(secs).mono) {
        let now = due.since(Instant::ZERO);
        let now = at(now.as_secs());
        let turn = ports.turn(now, random);
        if turn != Turn::default() {
            turns.push((now.wall.secs() - 360_000, turn));
        }
    }
    turns
}

#[test]
fn ten_attempts_of_the_slot() {
    let mut random = stream();
    let choice = PortChoice::Scheduled(schedule());
    let mut ports = Ports::new(choice, Timing::default(), at(7), &mut random);
    for (attempt, number) in schedule().ports(100).enumerate() {
        let (port, tried) = ports.wanted().unwrap();
        assert_eq!(tried, number);
        let expected = if attempt < 9 { BindResult::Again } else { BindResult::Failed };
        assert_eq!(ports.bound(at(7), port, false, &mut random), expected);
        assert_eq!(ports.bound(at(7), port, false, &mut random), BindResult::Stale);
    }
    assert_eq!(ports.deadline(), Some(at(67).mono), "each minute");
    assert!(ports.turn(at(67), &mut random).bind);
    assert_eq!(ports.wanted().unwrap().1, schedule().port(100, 0));
}

#[test]
fn a_rotation_of_the_schedule() {
    let (mut ports, mut random) = listening(PortChoice::Scheduled(schedule()));
    let old = ports.current().unwrap();
    assert_eq!(old.number, schedule().port(100, 0));
    let turns = turn_until(&mut ports, 3480, &mut random);
    assert_eq!(turns, [(3480, Turn { bind: true, ..Turn::default() })], "T - 120 s");
    let (port, number) = ports.wanted().unwrap();
    assert_eq!(number, schedule().port(101, 0));
    assert_eq!(ports.bound(at(3481), port, true, &mut random), READY);
    let told = ports.announcement().unwrap();
    assert_eq!((told.new_port, told.opens_at), (number, 363_600));
    assert_eq!((told.closes_old_at, told.next_rotation), (363_900, 367_200));
    assert!(ports.reads(old.port) && !ports.reads(port));
    let turns = turn_until(&mut ports, 3600, &mut random);
    let rotated = Some((old.number, number));
    assert_eq!(turns, [(3600, Turn { rotated, ..Turn::default() })]);
    assert!(ports.reads(old.port) && ports.reads(port) && ports.announcement().is_some());
    let turns = turn_until(&mut ports, 3900, &mut random);
    assert_eq!(turns, [(3900, Turn { close: [old.port].into(), ..Turn::default() })]);
    assert!(!ports.reads(old.port) && ports.announcement().is_none());
    assert_eq!(turn_until(&mut ports, 7079, &mut random), []);
}

#[test]
fn no_port_binds() {
    let (mut ports, mut random) = listening(PortChoice::Scheduled(schedule()));
    turn_until(&mut ports, 3480, &mut random);
    while let Some((port, _)) = ports.wanted() {
        ports.bound(at(3480), port, false, &mut random);
    }
    let turns = turn_until(&mut ports, 3599, &mut random);
    assert_eq!(turns.len(), 1);
    assert_eq!((turns[0].0, turns[0].1.bind), (3540, true), "each minute");
    while let Some((port, _)) = ports.wanted() {
        ports.bound(at(3540), port, false, &mut random);
    }
    turn_until(&mut ports, 3600, &mut random);
    // The slot has begun: the port opens as soon as it is bound.
    let (port, number) = ports.wanted().unwrap();
    assert_eq!(ports.bound(at(3601), port, true, &mut random), READY);
    assert_eq!(ports.announcement().unwrap().opens_at, 363_601);
    assert!(ports.turn(at(3601), &mut random).rotated.is_some());
    assert_eq!(ports.number(), Some(number));
}

#[test]
fn an_emergency_takes_the_next_attempt() {
    let (mut ports, mut random) = listening(PortChoice::Scheduled(schedule()));
    let old = ports.current().unwrap();
    for attempt in 1..=10 {
        assert_eq!(ports.emergency(at(50), &mut random), (true, None));
        assert_eq!(ports.emergency(at(50), &mut random), (false, None), "it is on its way");
        let (port, number) = ports.wanted().unwrap();
        if attempt < 10 {
            assert_eq!(number, schedule().port(100, attempt));
        }
        let ready = BindResult::Ready { emergency: true };
        assert_eq!(ports.bound(at(50), port, true, &mut random), ready);
        let told = ports.announcement().unwrap();
        assert_eq!((told.opens_at, told.closes_old_at), (360_050, 360_110));
        assert!(ports.turn(at(50), &mut random).rotated.is_some());
        if attempt == 1 {
            assert!(ports.reads(old.port));
            assert_eq!(ports.turn(at(109), &mut random).close, []);
            assert_eq!(ports.turn(at(110), &mut random).close, [old.port]);
        }
    }
}

#[test]
fn an_emergency_while_the_next_port_waits() {
    let (mut ports, mut random) = listening(PortChoice::Scheduled(schedule()));
    turn_until(&mut ports, 3480, &mut random);
    let (waiting, _) = ports.wanted().unwrap();
    ports.bound(at(3480), waiting, true, &mut random);
    assert_eq!(ports.emergency(at(3500), &mut random), (true, Some(waiting)));
    let (port, _) = ports.wanted().unwrap();
    assert_eq!(ports.bound(at(3500), waiting, true, &mut random), BindResult::Stale);
    let ready = BindResult::Ready { emergency: true };
    assert_eq!(ports.bound(at(3500), port, true, &mut random), ready);
    let turn = ports.turn(at(3500), &mut random);
    assert!(turn.rotated.is_some() && !turn.bind, "who has not heard of it is still told");
    let told = ports.announcement().unwrap();
    assert_eq!((told.opens_at, told.closes_old_at), (363_500, 363_560));
    assert_eq!(turn_until(&mut ports, 3559, &mut random), []);
    assert_eq!(ports.announcement(), Some(told));
    let turns = turn_until(&mut ports, 3560, &mut random);
    assert!(turns[0].1.bind, "the slot to come is prepared anew");
    assert_eq!(ports.wanted().unwrap().1, schedule().port(101, 0));
}

#[test]
fn an_emergency_closes_what_the_rotation_left_open() {
    let (mut ports, mut random) = listening(PortChoice::Scheduled(schedule()));
    let old = ports.current().unwrap();
    turn_until(&mut ports, 3480, &mut random);
    let (next, _) = ports.wanted().unwrap();
    ports.bound(at(3480), next, true, &mut random);
    turn_until(&mut ports, 3610, &mut random);
    assert!(ports.reads(old.port));
    assert_eq!(ports.emergency(at(3610), &mut random), (true, None));
    assert_eq!(ports.turn(at(3669), &mut random).close, []);
    assert_eq!(ports.turn(at(3670), &mut random).close, [old.port]);
}

#[test]
fn an_emergency_of_a_fixed_port_near_the_edge() {
    let (mut ports, mut random) = listening(PortChoice::Fixed(5000));
    turn_until(&mut ports, 3479, &mut random);
    assert_eq!(ports.emergency(at(3500), &mut random), (false, None));
    assert!(!ports.turn(at(3500), &mut random).announce);
    assert_eq!(ports.announcement().unwrap().opens_at, 363_500);
    let turns = turn_until(&mut ports, 3560, &mut random);
    assert!(turns[0].1.announce);
    assert_eq!(ports.announcement().unwrap().opens_at, 363_600);
}

#[test]
fn fixed_and_random_ports() {
    let (mut ports, mut random) = listening(PortChoice::Fixed(5000));
    let turns = turn_until(&mut ports, 3480, &mut random);
    assert_eq!(turns, [(3480, Turn { announce: true, ..Turn::default() })]);
    let told = ports.announcement().unwrap();
    assert_eq!((told.new_port, told.opens_at, told.closes_old_at), (5000, 363_600, 363_900));
    assert_eq!(turn_until(&mut ports, 7000, &mut random), [], "nothing opens or closes");
    assert_eq!(ports.emergency(at(7000), &mut random), (false, None));
    assert_eq!(ports.announcement().unwrap().opens_at, 367_000);

    let (mut ports, mut random) = listening(PortChoice::Random);
    let old = ports.number().unwrap();
    turn_until(&mut ports, 3480, &mut random);
    let (_, number) = ports.wanted().unwrap();
    assert!(number >= 49_152 && number != old);
}

#[test]
fn the_wall_clock_is_followed() {
    let (mut ports, mut random) = listening(PortChoice::Scheduled(schedule()));
    let set = |secs: u64, wall: u64| Now { wall: UnixMs((360_000 + wall) * 1000), ..at(secs) };
    // Five hours ahead.
    assert!(ports.turn(set(60, 18_060), &mut random).bind);
    let (port, number) = ports.wanted().unwrap();
    assert_eq!(number, schedule().port(105, 0));
    assert_eq!(ports.bound(set(60, 18_060), port, true, &mut random), READY);
    assert!(ports.turn(set(60, 18_060), &mut random).rotated.is_some());
    // A little back over the edge: both ports are searched by clients, and nothing moves.
    assert!(!ports.turn(set(400, 17_900), &mut random).bind);
    // Far back.
    assert!(ports.turn(set(460, 460), &mut random).bind);
    assert_eq!(ports.wanted().unwrap().1, schedule().port(100, 0));
}

#[test]
fn timing_in_proportion() {
    assert_eq!(Timing::default(), Timing { interval: 3600, grace: 300, announce: 120 });
    assert_eq!(Timing::every(10), Timing { interval: 10, grace: 3, announce: 2 });
    assert_eq!(Timing::every(0).interval, 1);
}
