//! The rules of the protocol as data: every scenario of `spec-vectors/scenarios` as a test of its
//! own, and tests that every requirement is shown by one, or by a known answer.

use clawchat_tests::scenario::{
    Requirement, Scenario, broken_references, headings, requirements, scenarios, uncovered,
    wrongly_unbuilt,
};
use clawchat_tests::vectors::Outcome;
use libtest_mimic::{Arguments, Trial};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;

type Check = fn(&[Requirement], &[Scenario]) -> Outcome;

/// Sections of PROTOCOL that ask for something, 3 to 8.
const PROTOCOL: [&str; 15] =
    ["3", "4", "4.1", "4.2", "4.3", "5", "5.1", "5.2", "5.3", "5.4", "5.5", "5.6", "6", "7", "8"];
/// Sections of SPEC that ask for something, 5 to 11. The headings above them have no text of their
/// own.
const SPEC: [&str; 23] = [
    "5.1", "5.2", "5.3", "5.4", "6.1", "6.2", "6.3", "7.1", "7.2", "7.3", "8.1", "8.2", "8.3",
    "8.4", "8.5", "9.1", "9.2", "10.1", "10.2", "11.1", "11.2", "11.3", "11.4",
];

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
    let checks: [(&str, Check); 5] = [
        ("coverage/every requirement is shown", everything_is_shown),
        ("coverage/every section has requirements", sections),
        ("coverage/nothing is unbuilt but what may be", unbuilt),
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
    let unbuilt = all.iter().filter(|requirement| requirement.unbuilt.is_some()).count();
    let text = format!("{} requirements, of which {unbuilt} are not built yet\n", all.len());
    let _ = std::io::stderr().write_all(text.as_bytes());
    let bare: Vec<_> = uncovered(all, list).iter().map(line).collect();
    none(&format!("{} of {} requirements are shown by nothing", bare.len(), all.len()), &bare)
}

fn unbuilt(all: &[Requirement], list: &[Scenario]) -> Outcome {
    none("requirements that are wrongly said to be unbuilt", &wrongly_unbuilt(all, list))
}

fn sections(all: &[Requirement], _: &[Scenario]) -> Outcome {
    let protocol = PROTOCOL.map(|number| format!("PROTOCOL {number}"));
    if headings(3..=8)? != protocol {
        return Err(format!("the headings of docs/PROTOCOL.md are {:?}", headings(3..=8)?));
    }
    let sections = protocol.into_iter().chain(SPEC.map(|number| format!("SPEC {number}")));
    let sections: Vec<_> = sections.collect();
    let has = |section: &String| all.iter().any(|requirement| requirement.section == *section);
    let bare: Vec<_> = sections.iter().filter(|section| !has(section)).cloned().collect();
    none("sections that have no requirement", &bare)
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
