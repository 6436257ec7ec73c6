//! Counts the instructions of hot functions and compares them with `tests/icount.json`: `icount
//! [--rewrite] [--only NAME]`.
//!
//! A counter of instructions hears nothing of the machine's other work, so that a change of a few
//! percent shows. `valgrind` counts; without it there is nothing to do. What is counted is our own work:
//! the cipher is one that does nothing, since the same AES-GCM takes other instructions on each
//! processor (and valgrind knows no VAES). A block of AES that hides each packet's number remains, of
//! two dozen instructions where the processor has AES. Inputs are the same in each run. Another compiler
//! makes other code: what it counts is shown, and judged by nobody until the file is written anew.
//!
//! A further function is a further line of [`COUNTED`].

use clawchat_core::crypto::derive::{Direction, derive};
use clawchat_core::crypto::packet::PacketKeys;
use clawchat_core::limits::{ACK_RANGES, DATAGRAM_MAX, OVERHEAD};
use clawchat_core::ranges::RangeSet;
use clawchat_core::time::{Duration, UnixMs};
use clawchat_core::wire::cursor::Writer;
use clawchat_core::wire::frame::{Frame, Frames, write_ack};
use clawchat_core::wire::header::{Header, PacketType};
use clawchat_tests::bench::{Datagram, FileRun, NullCipher, Rig};
use core::hint::black_box;
use core::net::{Ipv4Addr, SocketAddr};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// More than this beyond what was committed is too much.
const TOLERANCE: f64 = 0.03;
/// Calls of each function; what the first few have to set up hardly counts then.
const CALLS: u32 = 1000;
/// Sessions of a server that many use.
const SESSIONS: u32 = 100;
/// Sessions that do nothing while those talk: what a datagram costs must not depend on them.
const MANY: u32 = 1000;
/// Size of a datagram, bytes.
const SIZE: usize = 1200;
/// Size of one that carries a file, bytes.
const FILE_SIZE: usize = 1472;

/// A function, called so many times in [`measured_section`].
type Work = fn(u32);

/// What is counted.
const COUNTED: &[(&str, Work)] = &[
    ("packet_seal_1200", packet_seal),
    ("packet_open_1200", packet_open),
    ("ack_write_64_ranges", ack_write),
    ("ack_read_64_ranges", ack_read),
    ("ranges_insert_and_forget", ranges),
    ("client_sends_ping", client_sends),
    ("server_turn_for_ping", server_turn),
    ("server_turn_for_ping_of_1000", server_turn_of_many),
    ("server_turn_for_ping_at_rest", server_turn_at_rest),
    ("client_takes_ack", client_takes),
    ("router_refuses_stranger", stranger),
    ("file_of_100_datagrams", file_turns),
];

/// Only what is called in here is counted.
#[inline(never)]
fn measured_section(work: &mut dyn FnMut()) {
    work();
}

fn keys() -> PacketKeys {
    PacketKeys::new(&derive(b"secret", b"context"), Direction::C2s, &NullCipher)
}

fn seal(keys: &mut PacketKeys, seq: u32, datagram: &mut [u8]) -> usize {
    let at = UnixMs(1_700_000_000_000);
    keys.seal(seq.into(), at, PacketType::File, datagram, SIZE - OVERHEAD)
}

fn packet_seal(calls: u32) {
    let (mut keys, mut datagram) = (keys(), vec![0; SIZE]);
    for seq in 0..calls {
        measured_section(&mut || {
            black_box(seal(&mut keys, seq, &mut datagram));
        });
    }
}

fn packet_open(calls: u32) {
    let (mut keys, mut datagram) = (keys(), vec![0; SIZE]);
    for seq in 0..calls {
        seal(&mut keys, seq, &mut datagram);
        measured_section(&mut || {
            let header = Header::decode(&datagram).expect("it is well made");
            let found = keys.seq(&header).expect("it is of this key");
            assert!(keys.iv_fits(&header, found) && keys.open(&header, &mut datagram).is_ok());
        });
    }
}

/// As many ranges as an ACK has, with gaps.
fn write_ranges(out: &mut [u8]) -> usize {
    let mut writer = Writer::new(out);
    let ranges = (0..ACK_RANGES as u64).rev().map(|n| n * 100 + 1..=n * 100 + 90);
    assert!(write_ack(&mut writer, 1000, ranges), "it has room");
    writer.len()
}

fn ack_write(calls: u32) {
    let mut out = vec![0; SIZE];
    for _ in 0..calls {
        measured_section(&mut || {
            black_box(write_ranges(&mut out));
        });
    }
}

fn ack_read(calls: u32) {
    let mut out = vec![0; SIZE];
    let len = write_ranges(&mut out);
    for _ in 0..calls {
        measured_section(&mut || {
            for frame in Frames::new(black_box(&out[..len])) {
                let Ok(Frame::Ack(ack)) = frame else { panic!("it is an ACK") };
                assert_eq!(ack.ranges().count(), ACK_RANGES);
            }
        });
    }
}

/// Numbers that arrive with one in sixteen missing for a while.
fn ranges(calls: u32) {
    let mut set = RangeSet::new();
    for number in (0..u64::from(calls)).map(|n| n * 16) {
        measured_section(&mut || {
            for n in number..number + 15 {
                set.insert(n..n + 1);
            }
            if let Some(missed) = number.checked_sub(33) {
                set.insert(missed..missed + 1);
            }
            set.keep_last(ACK_RANGES);
        });
    }
}

/// Brings the answer of a ping back, so that another one can go.
fn answer(rig: &mut Rig, client: usize, ping: &mut Datagram) {
    let mut pong = rig.reply();
    assert_eq!(rig.serve(ping, &mut pong), 64, "a pong has 64 bytes");
    rig.to_client(client, pong);
    // What is told of it is taken away.
    assert!(rig.from_client(client).is_empty(), "an answer asks for none");
    rig.pass(Duration::from_micros(100), client);
}

fn client_sends(calls: u32) {
    let mut rig = Rig::new(1, &NullCipher);
    let mut out = vec![0; DATAGRAM_MAX];
    let mut ping = rig.ping(0);
    answer(&mut rig, 0, &mut ping);
    for _ in 0..calls {
        let now = rig.now;
        measured_section(&mut || {
            assert!(rig.clients[0].ping().is_ok());
            let sent = rig.clients[0].poll_transmit(now, &mut out).expect("it goes at once");
            ping.bytes.copy_from_slice(&out[..sent.len]);
        });
        answer(&mut rig, 0, &mut ping);
    }
}

fn server_turn(calls: u32) {
    server_turns(SESSIONS, calls, Duration::from_micros(20));
}

/// The same beside many that do not talk.
fn server_turn_of_many(calls: u32) {
    server_turns(MANY, calls, Duration::from_micros(20));
}

/// The same of sessions that were silent long enough to rest.
fn server_turn_at_rest(calls: u32) {
    server_turns(SESSIONS, calls, Duration::from_millis(1));
}

/// A hundred of so many sessions take turns, so far apart. The others have gone to rest before.
fn server_turns(sessions: u32, calls: u32, pause: Duration) {
    let mut rig = Rig::new(sessions, &NullCipher);
    rig.idle();
    let mut pong = rig.reply();
    for call in 0..SESSIONS + calls {
        let client = (call * 7 % SESSIONS) as usize;
        let mut ping = rig.ping(client);
        let mut turn = || assert_eq!(rig.serve(&mut ping, &mut pong), 64);
        // The first turn of each wakes it.
        if call < SESSIONS {
            turn()
        } else {
            measured_section(&mut turn)
        }
        let bytes = pong.bytes.clone();
        rig.to_client(client, Datagram { path: pong.path, bytes });
        assert!(rig.from_client(client).is_empty(), "an answer asks for none");
        rig.pass(pause, client);
    }
}

fn client_takes(calls: u32) {
    let mut rig = Rig::new(1, &NullCipher);
    for _ in 0..calls {
        let (mut ping, mut pong) = (rig.ping(0), rig.reply());
        assert_eq!(rig.serve(&mut ping, &mut pong), 64);
        let now = rig.now;
        measured_section(&mut || {
            rig.clients[0].handle_datagram(now, pong.path, &mut pong.bytes);
            assert!(rig.clients[0].poll_timeout().is_some());
        });
        assert!(rig.from_client(0).is_empty(), "an answer asks for none");
        rig.pass(Duration::from_micros(100), 0);
    }
}

/// All that both sides do for a hundred datagrams of a file, their share of acknowledgements included.
fn file_turns(calls: u32) {
    let mut run = FileRun::new(1 << 40, FILE_SIZE, &NullCipher);
    // Until the search for the size has ended, and the window is open.
    while run.chunks() < 100_000 {
        run.step();
    }
    let until = run.chunks() + 100 * u64::from(calls);
    let mut fair = true;
    measured_section(&mut || {
        while run.chunks() < until {
            run.step();
        }
        fair = run.chunks() < until + u64::from(calls);
    });
    assert!(fair, "no more were counted than are said");
}

/// A datagram that no key fits, from an address that nobody is at.
fn stranger(calls: u32) {
    let mut rig = Rig::new(SESSIONS, &NullCipher);
    let mut datagram = rig.ping(0);
    for call in 0..calls {
        datagram.path.remote = SocketAddr::from((Ipv4Addr::from(0xc000_0200 + call), 4000));
        datagram.bytes[1..5].copy_from_slice(&call.to_be_bytes());
        let now = rig.now;
        measured_section(&mut || {
            rig.server.handle_datagram(now, datagram.path, &mut datagram.bytes);
        });
        rig.pass(Duration::from_millis(10), 0);
    }
    let dropped: u64 = rig.server.drops().map(|(_, count)| count).sum();
    assert_eq!(dropped, u64::from(calls), "nobody's datagram is dropped");
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (rewrite, only) = match words[..] {
        [] => (false, None),
        ["--rewrite"] => (true, None),
        ["--only", name] if work(name).is_some() => (false, Some(name)),
        ["--run", name] => {
            let Some(work) = work(name) else { return ExitCode::from(2) };
            work(CALLS);
            return ExitCode::SUCCESS;
        }
        _ => {
            say("usage: icount [--rewrite] [--only NAME]\n");
            return ExitCode::from(2);
        }
    };
    if Command::new("valgrind").arg("--version").output().is_err() {
        say("valgrind isn't here: nothing is counted\n");
        return ExitCode::SUCCESS;
    }
    match run(rewrite, only) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            say(&format!("icount: {why}\n"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn work(name: &str) -> Option<Work> {
    COUNTED.iter().find(|(own, _)| *own == name).map(|(_, work)| *work)
}

/// Where what is to be compared with is.
fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("icount.json")
}

/// What the code is made by and for.
fn maker() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output();
    let version = version.map_or_else(|_| Vec::new(), |output| output.stdout);
    format!("{}, {}", String::from_utf8_lossy(&version).trim(), std::env::consts::ARCH)
}

/// Whether nothing takes more than it did.
fn run(rewrite: bool, only: Option<&str>) -> Result<bool, String> {
    let known = std::fs::read_to_string(file()).unwrap_or_default();
    let known: Value = serde_json::from_str(&known).unwrap_or(Value::Null);
    let maker = maker();
    let judged = known["made_by"] == maker.as_str();
    let (mut counts, mut grown) = (Map::new(), 0);
    for (name, _) in COUNTED.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let now = count(name)?;
        counts.insert((*name).to_owned(), json!(now));
        let before = known["instructions"][name].as_u64();
        let change = before.map_or(0.0, |before| now as f64 / before as f64 - 1.0);
        let verdict = match before {
            None => "new",
            Some(_) if change > TOLERANCE => "GREW",
            Some(_) if change < -TOLERANCE => "shrank: write the file anew",
            Some(_) => "",
        };
        grown += usize::from(verdict == "GREW");
        let before = before.map_or_else(|| "-".to_owned(), |before| before.to_string());
        let percent = change * 100.0;
        say(&format!("{name:<26} {before:>8} {now:>8} {percent:>+7.1} % {verdict}\n"));
    }
    if rewrite {
        let all = json!({ "made_by": maker, "instructions": counts });
        let text = serde_json::to_string_pretty(&all).map_err(|error| error.to_string())?;
        std::fs::write(file(), text + "\n").map_err(|error| error.to_string())?;
        return Ok(true);
    }
    if !judged {
        say(&format!("the file was made by {}, this by {maker}: no verdict\n", known["made_by"]));
    }
    Ok(grown == 0 || !judged)
}

/// Instructions of one call.
fn count(name: &str) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.args(["--toggle-collect=*measured_section*"]).arg(own).args(["--run", name]);
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected.filter(|_| output.status.success()) {
        Some(0) | None => Err(format!("{name} was not counted: {said}")),
        Some(all) => Ok(u64::div_ceil(all, CALLS.into())),
    }
}
