//! Runs ClawChat and its peers in turns and prints how they compare: `compare [--only NAME]...
//! [--rounds N] [--quick] [--list]`.
//!
//! Only ratios mean anything: both sides are measured in one run, one after the other, and each round
//! gives a ratio of its own. Processor time is what the system says of each process; every process is
//! this program in another role, and so built alike. `docs/performance.md` tells how to read it.

mod child;
mod files;
mod memory;
mod ours;
mod proto;
mod quic;
mod rows;
mod scp;
mod udp;

use child::{Sample, percentiles};
use rows::{EXPERIMENTS, Experiment, Figure, Goal, Scale};
use std::io::Write as _;
use std::process::ExitCode;

const USAGE: &str = "usage: compare [--only NAME]... [--rounds N] [--quick] [--list]\n";

/// What a process does when it is not the one that compares.
type Role = fn(&[String]) -> Result<(), String>;

const ROLES: &[(&str, Role)] = &[
    ("ours-server", ours::serve),
    ("ours-bulk", ours::bulk),
    ("ours-ping", ours::ping),
    ("ours-handshakes", ours::handshakes),
    ("ours-idle", ours::idle),
    ("quic-server", quic::serve),
    ("quic-bulk", quic::bulk),
    ("quic-handshakes", quic::handshakes),
    ("quic-idle", quic::idle),
    ("udp-sink", udp::sink),
    ("udp-bulk", udp::bulk),
    ("udp-echo", udp::echo),
    ("udp-ping", udp::ping),
    ("packet-bare", memory::packet_bare),
    ("packet-path", memory::packet_path),
    ("core-bulk", memory::core_bulk),
    ("packet-layer", memory::packet_layer),
    ("packet-batch", memory::packet_batch),
    ("many", memory::many),
    ("bulk-apart", rows::bulk_apart),
    ("proto-bulk", memory::proto_bulk),
    ("file-end", files::end),
];

struct Options {
    only: Vec<String>,
    rounds: usize,
    scale: Scale,
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn complain(text: &str) {
    let _gone = std::io::stderr().write_all(text.as_bytes());
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, core, role, rest @ ..] = &words[..]
        && first == "--role"
    {
        return play(core, role, rest);
    }
    if words == ["--list"] {
        EXPERIMENTS.iter().for_each(|one| say(&format!("{}: against {}\n", one.name, one.peer)));
        return ExitCode::SUCCESS;
    }
    let Some(options) = options(&words) else {
        complain(USAGE);
        return ExitCode::from(2);
    };
    heading(&options);
    let wanted = |one: &&Experiment| {
        options.only.is_empty() || options.only.iter().any(|name| name == one.name)
    };
    for experiment in EXPERIMENTS.iter().filter(wanted) {
        compare(experiment, &options);
    }
    ExitCode::SUCCESS
}

fn play(core: &str, role: &str, words: &[String]) -> ExitCode {
    child::prepare();
    child::pin(core);
    let Some((_, work)) = ROLES.iter().find(|(name, _)| *name == role) else {
        complain(USAGE);
        return ExitCode::from(2);
    };
    match work(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&format!("{role}: {why}\n"));
            ExitCode::FAILURE
        }
    }
}

fn options(words: &[String]) -> Option<Options> {
    let mut options = Options { only: vec![], rounds: 5, scale: Scale { quick: false } };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => options.scale.quick = true,
            "--rounds" => {
                options.rounds = words.next()?.parse().ok().filter(|rounds| *rounds > 0)?
            }
            "--only" => {
                let name = words.next()?;
                EXPERIMENTS.iter().find(|one| one.name == name)?;
                options.only.push(name.clone());
            }
            _ => return None,
        }
    }
    Some(options)
}

fn heading(options: &Options) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let quick = if options.scale.quick { ", quick: the figures are rough" } else { "" };
    say(&format!("{} rounds on {cores} cores{quick}; min / median / max\n", options.rounds));
    if cores < 2 {
        say("with one core both sides share it: what goes through sockets says little\n");
    }
    say(&format!(
        "{:<16} {:<40} {:>12} {:>22}   {:<34} {}\n",
        "experiment", "figure", "goal", "ours / peer", "ours", "peer"
    ));
}

/// Measures both sides in turns; each round begins with the other one.
fn compare(experiment: &Experiment, options: &Options) {
    let mut samples: [Vec<Sample>; 2] = [vec![], vec![]];
    let mut missing: [Option<String>; 2] = [None, None];
    for round in 0..options.rounds {
        for turn in 0..2 {
            let side = (round + turn) % 2;
            if missing[side].is_some() {
                continue;
            }
            match experiment.sides[side](options.scale) {
                Ok(sample) => samples[side].push(sample),
                Err(why) => missing[side] = Some(why),
            }
        }
    }
    for figure in experiment.figures {
        say(&row(experiment, figure, &samples, &missing));
    }
}

fn row(
    experiment: &Experiment,
    figure: &Figure,
    samples: &[Vec<Sample>; 2],
    missing: &[Option<String>; 2],
) -> String {
    let values = |side: usize| -> Vec<f64> {
        let value = |sample: &Sample| Some(sample.get(figure.key)? * figure.scale);
        samples[side].iter().filter_map(value).collect()
    };
    let (ours, peer) = (values(0), values(1));
    let complete = missing.iter().all(Option::is_none);
    let ratios: Vec<f64> = ours.iter().zip(&peer).map(|(a, b)| a / b).collect();
    let shown = |side: usize, values: &[f64]| match &missing[side] {
        Some(why) => format!("- ({why})"),
        None => format!("{} {}", spread(values), figure.unit),
    };
    let (goal, verdict) = match figure.goal {
        Goal::AtLeast(goal) => (format!("≥ {goal:.2}"), complete.then(|| middle(&ratios) >= goal)),
        Goal::AtMost(goal) => (format!("≤ {goal:.3}"), complete.then(|| middle(&ratios) <= goal)),
        Goal::OursAtMost(goal) => {
            let worst = ours.iter().copied().fold(f64::NAN, f64::max);
            let verdict = missing[0].is_none().then_some(worst <= goal);
            (format!("≤ {goal} {}", figure.unit), verdict)
        }
        Goal::None => ("-".to_owned(), None),
    };
    let mark = verdict.map_or("", |met| if met { "  met" } else { "  MISSED" });
    let ratio = if complete { spread(&ratios) } else { "not measured".to_owned() };
    format!(
        "{:<16} {:<40} {goal:>12} {ratio:>22}   {:<34} {} {}{mark}\n",
        experiment.name,
        figure.what,
        shown(0, &ours),
        experiment.peer,
        shown(1, &peer),
    )
}

fn middle(values: &[f64]) -> f64 {
    percentiles(values.to_vec()).0
}

/// Least, median and most, with three digits that count.
fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::NAN, f64::min);
    let most = values.iter().copied().fold(f64::NAN, f64::max);
    [least, middle(values), most].map(digits).join(" / ")
}

fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
