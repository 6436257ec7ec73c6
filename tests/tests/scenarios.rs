//! The rules of the protocol as data: every scenario of `spec-vectors/scenarios` as a test of its
//! own, and tests that every requirement is shown by one, or by a known answer.

use clawchat_tests::scenario::{
    Requirement, Scenario, broken_references, requirements, scenarios, uncovered,
};
use clawchat_tests::vectors::Outcome;
use libtest_mimic::{Arguments, Trial};
use std::collections::BTreeSet;
use std::process::ExitCode;

type Check = fn(&[Requirement], &[Scenario]) -> Outcome;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    let (all, list) = (requirements(), scenarios());
    for scenario in list.clone().unwrap_or_default() {
        let (name, pending) = (format!("{}/{}", scenario.file, scenario.name), scenario.pending);
        let kind = if pending { "pending" } else { "" };
        let play = trial(name, move || scenario.play());
        trials.push(play.with_kind(kind).with_ignored_flag(pending));
    }
    let both = move || Ok::<_, String>((all.clone()?, list.clone()?));
    let checks: [(&str, Check); 3] = [
        ("coverage/every requirement is shown", everything_is_shown),
        ("coverage/every reference leads somewhere", references),
        ("coverage/no two scenarios share a name", names),
    ];
    for (name, check) in checks {
        let both = both.clone();
        trials.push(trial(name.to_owned(), move || {
            let (all, list) = both()?;
            check(&all, &list)
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, check: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial::test(name, move || Ok(check()?))
}

fn none(complaint: &str, list: &[String]) -> Outcome {
    if list.is_empty() { Ok(()) } else { Err(format!("{complaint}:\n{}", list.join("\n"))) }
}

fn everything_is_shown(all: &[Requirement], list: &[Scenario]) -> Outcome {
    let line = |(requirement, pending): &(Requirement, Vec<String>)| {
        let Requirement { id, text, .. } = requirement;
        let pending = if pending.is_empty() {
            String::new()
        } else {
            format!(" [pending: {}]", pending.join("; "))
        };
        format!("{id}: {text}{pending}")
    };
    let bare: Vec<_> = uncovered(all, list).iter().map(line).collect();
    none(&format!("{} of {} requirements are shown by nothing", bare.len(), all.len()), &bare)
}

fn references(all: &[Requirement], list: &[Scenario]) -> Outcome {
    none("references that lead nowhere", &broken_references(all, list)?)
}

fn names(_: &[Requirement], list: &[Scenario]) -> Outcome {
    let mut seen = BTreeSet::new();
    let twice = list.iter().filter(|scenario| !seen.insert((&scenario.file, &scenario.name)));
    let twice: Vec<_> =
        twice.map(|scenario| format!("{}/{}", scenario.file, scenario.name)).collect();
    none("names that two scenarios share", &twice)
}
