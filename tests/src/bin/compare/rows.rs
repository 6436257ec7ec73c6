//! The experiments: two sides each, the figures that are compared, and what they should come to.

use crate::child::{Child, Core, Measured, Sample, ethernet, idle, pair, tell_sample, text, word};
use crate::{files, scp};
use tempfile::NamedTempFile;

/// Datagram size of bare UDP, bytes: an Ethernet's.
const SIZE: usize = 1472;
/// Most that quinn sends by itself: datagrams of ours in memory are no larger.
const QUIC_SIZE: usize = 1452;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// A tenth or less of everything: to see that it works.
    pub(crate) quick: bool,
}

impl Scale {
    fn of<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    fn mib(self) -> u64 {
        self.of(1024, 64)
    }

    /// Handshakes of one run: each file may send 60 hellos at once, and one more a second.
    fn handshakes(self) -> [String; 2] {
        [self.of(3000, 500).to_string(), "100".to_owned()]
    }

    fn sessions(self) -> u32 {
        self.of(1000, 100)
    }

    fn pings(self) -> String {
        self.of(20_000, 1000).to_string()
    }
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Ours itself, in the figure's unit, whatever the peer's is.
    OursAtMost(f64),
    /// It is only shown.
    None,
}

/// One row: a figure that both sides tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) key: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// What a figure is multiplied with to be in that unit.
    pub(crate) scale: f64,
    pub(crate) goal: Goal,
}

const fn figure(
    key: &'static str,
    what: &'static str,
    (scale, unit): (f64, &'static str),
    goal: Goal,
) -> Figure {
    Figure { key, what, unit, scale, goal }
}

/// One side of an experiment, measured once.
pub(crate) type Side = fn(Scale) -> Measured;

/// Two sides that are measured in turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Experiment {
    pub(crate) name: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) sides: [Side; 2],
    pub(crate) figures: &'static [Figure],
}

const MICROS: (f64, &str) = (1e6, "us");
const MILLIS: (f64, &str) = (1e3, "ms");
const NANOS: (f64, &str) = (1.0, "ns");
const GBIT: (f64, &str) = (8e-9, "Gbit/s");
const PER_SECOND: (f64, &str) = (1.0, "/s");
const PER_GB: (f64, &str) = (1.0, "s/GB");
const COUNT: (f64, &str) = (1.0, "");
const KILOBYTES: (f64, &str) = (1e-3, "kB");

/// All of them, in the order in which they run.
pub(crate) const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "bulk",
        peer: "quinn",
        sides: [ours_bulk, quic_bulk],
        figures: &[
            figure("rate", "goodput over loopback", GBIT, Goal::None),
            figure("client", "client CPU", PER_GB, Goal::None),
            figure("server", "server CPU", PER_GB, Goal::None),
        ],
    },
    Experiment {
        name: "bulk-ethernet",
        peer: "quinn",
        sides: [|scale| apart(scale, "ours"), |scale| apart(scale, "quic")],
        figures: &[
            figure("rate", "goodput, loopback with MTU 1500", GBIT, Goal::AtLeast(2.0)),
            figure("client", "client CPU", PER_GB, Goal::AtMost(0.45)),
            figure("server", "server CPU", PER_GB, Goal::AtMost(0.45)),
        ],
    },
    Experiment {
        name: "plain",
        peer: "bare UDP",
        sides: [|scale| apart(scale, "plain"), |scale| apart(scale, "udp")],
        figures: &[figure("rate", "goodput without GSO and GRO", GBIT, Goal::AtLeast(0.9))],
    },
    Experiment {
        name: "plain-sealed",
        peer: "bare UDP",
        sides: [|scale| apart(scale, "sealed"), |scale| apart(scale, "udp")],
        figures: &[figure("rate", "the peer itself, sealing and opening", GBIT, Goal::None)],
    },
    Experiment {
        name: "plain-unconnected",
        peer: "bare UDP",
        sides: [|scale| apart(scale, "unconnected"), |scale| apart(scale, "udp")],
        figures: &[figure("rate", "the same, its socket not connected", GBIT, Goal::None)],
    },
    Experiment {
        name: "core",
        peer: "quinn-proto",
        sides: [
            |scale| alone("core-bulk", &[mib_in_memory(scale), QUIC_SIZE.to_string()]),
            |scale| alone("proto-bulk", &[mib_in_memory(scale)]),
        ],
        figures: &[figure("rate", "both machines on one thread", GBIT, Goal::AtLeast(2.0))],
    },
    Experiment {
        name: "packet",
        peer: "bare AEAD",
        sides: [|scale| alone("packet-path", &[ops(scale).to_string()]), packet_bare],
        figures: &[
            figure("1200", "packet path of the core, 1200 B", NANOS, Goal::AtMost(1.1)),
            figure("1408", "packet path of the core, 1408 B", NANOS, Goal::AtMost(1.1)),
        ],
    },
    Experiment {
        name: "packet-layer",
        peer: "bare AEAD",
        sides: [|scale| alone("packet-layer", &[ops(scale).to_string()]), packet_bare],
        figures: &[
            figure("1200", "seal, recognise and open only, 1200 B", NANOS, Goal::None),
            figure("1408", "seal, recognise and open only, 1408 B", NANOS, Goal::None),
        ],
    },
    Experiment {
        name: "packet-batch",
        peer: "bare AEAD",
        sides: [|scale| alone("packet-batch", &[ops(scale).to_string()]), packet_bare],
        figures: &[
            figure(
                "1200",
                "filled, sealed, recognised and opened by batches, 1200 B",
                NANOS,
                Goal::None,
            ),
            figure("1408", "the same, 1408 B", NANOS, Goal::None),
        ],
    },
    Experiment {
        name: "handshakes",
        peer: "quinn",
        sides: [ours_handshakes, |scale| quic_handshakes(scale, "default")],
        figures: &[
            figure("per_second", "handshakes, 100 at a time", PER_SECOND, Goal::AtLeast(5.0)),
            figure("worst", "slowest of them", MILLIS, Goal::OursAtMost(1000.0)),
            figure("cpu", "client CPU each", MICROS, Goal::None),
            figure("server", "server CPU each", MICROS, Goal::None),
        ],
    },
    Experiment {
        name: "handshakes-wide",
        peer: "quinn, 4 MiB socket buffers",
        sides: [ours_handshakes, |scale| quic_handshakes(scale, "wide")],
        figures: &[
            figure("per_second", "handshakes, 100 at a time", PER_SECOND, Goal::None),
            figure("worst", "slowest of them", MILLIS, Goal::None),
            figure("server", "server CPU each", MICROS, Goal::None),
        ],
    },
    Experiment {
        name: "idle",
        peer: "quinn",
        sides: [|scale| ours_idle(scale, "one"), quic_idle],
        // 2 kB where quinn needs 38.
        figures: &[
            figure("bytes", "server memory for an idle session", KILOBYTES, Goal::AtMost(0.053)),
            figure("process", "the whole server", KILOBYTES, Goal::None),
        ],
    },
    Experiment {
        name: "idle-members",
        peer: "quinn",
        sides: [|scale| ours_idle(scale, "each"), quic_idle],
        figures: &[figure("bytes", "the same, each of another member", KILOBYTES, Goal::None)],
    },
    Experiment {
        name: "ping",
        peer: "blocking UDP",
        sides: [ours_ping, udp_ping],
        figures: &[
            figure("p50", "64-byte ping to its pong, p50", MICROS, Goal::AtMost(1.03)),
            figure("p99", "the same, p99", MICROS, Goal::None),
            figure("cpu", "client CPU each", MICROS, Goal::None),
        ],
    },
    Experiment {
        name: "file",
        peer: "scp",
        sides: [|scale| files::copy(scale.mib()), |scale| scp::copy(scale.mib())],
        figures: &[figure("rate", "a file from disk to disk, verified", GBIT, Goal::AtLeast(4.0))],
    },
    Experiment {
        name: "file-least",
        peer: "scp",
        sides: [|scale| files::least(scale.mib()), |scale| scp::copy(scale.mib())],
        figures: &[figure("rate", "a digest at both ends and a write alone", GBIT, Goal::None)],
    },
    Experiment {
        name: "many",
        peer: "none",
        // Both servers are in one process: a ratio of its own says more than two figures of different moments.
        sides: [many, nobody],
        figures: &[
            figure(
                "same_ratio",
                "a datagram of 64 sessions, 10,000 / 100 in all",
                COUNT,
                Goal::OursAtMost(1.1),
            ),
            figure("same", "the same, with 10,000", NANOS, Goal::None),
            figure("all_ratio", "a datagram, all talk in turn, 10,000 / 100", COUNT, Goal::None),
            figure("all", "the same, with 10,000", NANOS, Goal::None),
        ],
    },
    Experiment {
        name: "rotations",
        peer: "none",
        sides: [|scale| files::rotations(scale.of(16, 4) * scale.mib()), nobody],
        figures: &[
            figure("stall", "longest pause", MILLIS, Goal::OursAtMost(50.0)),
            figure("keys", "times that keys rotated", COUNT, Goal::None),
            figure("ports", "times that the port rotated", COUNT, Goal::None),
        ],
    },
];

/// Operations of a measurement in memory.
fn ops(scale: Scale) -> u32 {
    scale.of(500_000, 50_000)
}

/// A role without a server.
fn alone(role: &str, words: &[String]) -> Measured {
    Child::start(Core::Client, role, words)?.sample()
}

fn packet_bare(scale: Scale) -> Measured {
    alone("packet-bare", &[ops(scale).to_string()])
}

/// From what a transfer used to what it used for each GB.
fn bulk_figures(measured: Measured) -> Measured {
    let sample = measured?;
    let gigabytes = sample["bytes"] / 1e9;
    Ok(Sample::from([
        ("rate".to_owned(), sample["bytes"] / sample["seconds"]),
        ("client".to_owned(), sample["cpu"] / gigabytes),
        ("server".to_owned(), sample["server_cpu"] / gigabytes),
    ]))
}

fn mib_in_memory(scale: Scale) -> String {
    (scale.mib() / 4).to_string()
}

fn ours_bulk(scale: Scale) -> Measured {
    let server = ["1".to_owned(), "one".to_owned()];
    bulk_figures(pair(("ours-server", &server), ("ours-bulk", &[scale.mib().to_string()])))
}

/// A call for each datagram: with none joined by the sender, none arrive joined.
fn plain_bulk(scale: Scale) -> Measured {
    let server = ["1".to_owned(), "one".to_owned()];
    let client = [(scale.mib() / 4).to_string(), "plain".to_owned()];
    bulk_figures(pair(("ours-server", &server), ("ours-bulk", &client)))
}

/// One side of `bulk` where no datagram is larger than an Ethernet's.
fn apart(scale: Scale, side: &str) -> Measured {
    let quick = u8::from(scale.quick).to_string();
    Child::start_apart("bulk-apart", &[side.to_owned(), quick])?
        .sample()
        .map_err(|why| format!("a network of one's own takes root, unshare and ip: {why}"))
}

/// Role: `bulk-apart ours|quic|plain|udp|sealed|unconnected QUICK`, in a network of its own: one side of
/// `bulk` or of `plain`.
pub(crate) fn bulk_apart(words: &[String]) -> Result<(), String> {
    let (side, quick): (String, u8) = (word(words, 0)?, word(words, 1)?);
    ethernet()?;
    let scale = Scale { quick: quick == 1 };
    let sample = match side.as_str() {
        "ours" => ours_bulk(scale),
        "plain" => plain_bulk(scale),
        "udp" => udp_bulk(scale, &[]),
        "sealed" => udp_bulk(scale, &["sealed".to_owned()]),
        "unconnected" => udp_bulk(scale, &["sealed".to_owned(), "unconnected".to_owned()]),
        _ => quic_bulk(scale),
    }?;
    let figures: Vec<_> = sample.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    tell_sample(&figures);
    Ok(())
}

/// A quinn server's words, and the file that it leaves its certificate in.
fn quic_server(buffers: &str) -> Result<(NamedTempFile, [String; 2]), String> {
    let file = NamedTempFile::new().map_err(text)?;
    let path = file.path().to_str().ok_or("the temporary folder has a strange name")?.to_owned();
    Ok((file, [buffers.to_owned(), path]))
}

fn quic_bulk(scale: Scale) -> Measured {
    let (_file, server) = quic_server("default")?;
    let client = [&[scale.mib().to_string()], &server[..]].concat();
    bulk_figures(pair(("quic-server", &server), ("quic-bulk", &client)))
}

fn udp_bulk(scale: Scale, how: &[String]) -> Measured {
    // It only has to be long enough.
    let client = [scale.mib() / 4, SIZE as u64].map(|number| number.to_string());
    bulk_figures(pair(("udp-sink", how), ("udp-bulk", &[&client[..], how].concat())))
}

/// What a server used, for each of so many.
fn each(measured: Measured, count: &str) -> Measured {
    let mut sample = measured?;
    let count: f64 = count.parse().map_err(text)?;
    sample.insert("server".to_owned(), sample["server_cpu"] / count);
    Ok(sample)
}

fn quic_handshakes(scale: Scale, buffers: &str) -> Measured {
    let (_file, server) = quic_server(buffers)?;
    let count = scale.handshakes();
    let client = [&count[..], &server[..]].concat();
    each(pair(("quic-server", &server), ("quic-handshakes", &client)), &count[0])
}

fn ours_handshakes(scale: Scale) -> Measured {
    let count = scale.handshakes();
    let server = ["100".to_owned(), "one".to_owned()];
    each(pair(("ours-server", &server), ("ours-handshakes", &count)), &count[0])
}

fn quic_idle(scale: Scale) -> Measured {
    let (_file, server) = quic_server("default")?;
    idle(("quic-server", &server), ("quic-idle", &server[1..]), scale.sessions())
}

fn ours_idle(scale: Scale, members: &str) -> Measured {
    let server = [scale.sessions().to_string(), members.to_owned()];
    idle(("ours-server", &server), ("ours-idle", &[]), scale.sessions())
}

fn ours_ping(scale: Scale) -> Measured {
    let server = ["1".to_owned(), "one".to_owned()];
    pair(("ours-server", &server), ("ours-ping", &[scale.pings()]))
}

fn udp_ping(scale: Scale) -> Measured {
    pair(("udp-echo", &[]), ("udp-ping", &[scale.pings()]))
}

fn many(scale: Scale) -> Measured {
    let words = [scale.of(10_000, 1000), 100, scale.of(200_000, 20_000)];
    alone("many", &words.map(|number: u32| number.to_string()))
}

fn nobody(_: Scale) -> Measured {
    Err("it is measured against nobody".to_owned())
}
