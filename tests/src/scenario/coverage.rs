//! The list of requirements, and what shows that each is kept.

use super::{Scenario, folder};
use crate::vectors::{Fields, Outcome, load, own_folder};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The file of the requirements, beside those of scenarios.
pub(super) const FILE: &str = "requirements.json";
/// Sections of which something may be unbuilt: NAT.
const UNBUILT: [&str; 1] = ["PROTOCOL 9"];

/// A sentence of the protocol, or a number in one.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// Its name: section and number.
    pub id: String,
    /// Section that it is of, such as `PROTOCOL 5.1`.
    pub section: String,
    /// What it asks for, in short.
    pub text: String,
    /// Known answers that show it, named as the test target `vectors` names them.
    pub vectors: Vec<String>,
    /// Tests elsewhere that show what no scenario can: `path: function`.
    pub tests: Vec<String>,
    /// Why nothing can show it: what it is about does not exist yet.
    pub unbuilt: Option<String>,
}

fn strings(fields: &mut Fields, key: &str) -> Outcome<Vec<String>> {
    let Some(list) = fields.maybe(key) else { return Ok(Vec::new()) };
    let text = |item: &Value| item.as_str().map(str::to_owned);
    let list = list.as_array().and_then(|list| list.iter().map(text).collect());
    list.ok_or_else(|| format!("{key}: no list of text"))
}

/// All requirements, in the order of the file.
///
/// # Errors
/// When the file is none of requirements, or two have one id.
pub fn requirements() -> Outcome<Vec<Requirement>> {
    let mut list = Vec::new();
    load(&folder().join(FILE))?.all(|file| {
        file.text("about")?;
        for section in file.list("sections")? {
            list.extend(section_of(section)?);
        }
        Ok(())
    })?;
    let mut seen = BTreeSet::new();
    let twice = list.iter().find(|requirement: &&Requirement| !seen.insert(requirement.id.clone()));
    match twice {
        Some(requirement) => Err(format!("{} is there twice", requirement.id)),
        None => Ok(list),
    }
}

fn section_of(section: Value) -> Outcome<Vec<Requirement>> {
    Fields::of(section)?.all(|section| {
        let name = section.text("section")?;
        let requirements = section.list("requirements")?;
        if requirements.is_empty() {
            return Err(format!("{name} has no requirement"));
        }
        let requirement = |value| {
            Fields::of(value)?.all(|fields| {
                let id = format!("{name} #{}", fields.uint("n")?);
                let (text, vectors) = (fields.text("text")?, strings(fields, "vectors")?);
                let (section, tests) = (name.clone(), strings(fields, "tests")?);
                let unbuilt = match fields.has("unbuilt") {
                    true => Some(fields.text("unbuilt")?),
                    false => None,
                };
                Ok(Requirement { id, section, text, vectors, tests, unbuilt })
            })
        };
        requirements.into_iter().map(requirement).collect()
    })
}

/// Names of the known answers: `file/index`, and what `why` says of each case.
fn vector_names() -> Outcome<BTreeMap<String, Option<String>>> {
    let mut names = BTreeMap::new();
    for file in crate::vectors::json_files(&own_folder())? {
        let suite = file.trim_end_matches(".json").to_owned();
        let mut fields = load(&own_folder().join(&file))?;
        for (key, prefix) in [("cases", suite.clone()), ("refused", format!("{suite}/refused"))] {
            let Some(Value::Array(cases)) = fields.maybe(key) else { continue };
            for (index, case) in cases.iter().enumerate() {
                let why = case["why"].as_str().map(str::to_owned);
                names.insert(format!("{prefix}/{index:03}"), why);
            }
        }
    }
    Ok(names)
}

/// Whether a known answer is there: `file/*` for a whole file, or `file/index` with its `why`.
fn vector_exists(names: &BTreeMap<String, Option<String>>, reference: &str) -> bool {
    if let Some(file) = reference.strip_suffix("/*") {
        return names.keys().any(|name| name.starts_with(&format!("{file}/")));
    }
    let (name, rest) = reference.split_once(' ').unwrap_or((reference, ""));
    names.get(name).is_some_and(|why| why.as_ref().is_none_or(|why| rest.ends_with(why.as_str())))
}

/// Whether a file of the workspace has a test of that name: a function after `#[test]`, or one of
/// `quickcheck!`.
fn test_exists(reference: &str) -> bool {
    let Some((path, name)) = reference.split_once(": ") else { return false };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(workspace.join(path)).is_ok_and(|text| is_test(&text, name))
}

fn is_test(text: &str, name: &str) -> bool {
    let Some((before, after)) = text.split_once(&format!("fn {name}(")) else { return false };
    let property = after.lines().next().is_some_and(|line| line.ends_with("-> bool {"));
    before.trim_end().ends_with("#[test]") || property && before.contains("quickcheck! {")
}

/// Complaints about requirements marked unbuilt that may not be, or that something shows.
#[must_use]
pub fn wrongly_unbuilt(all: &[Requirement], scenarios: &[Scenario]) -> Vec<String> {
    let mut wrong = Vec::new();
    for requirement in all.iter().filter(|requirement| requirement.unbuilt.is_some()) {
        let Requirement { id, section, vectors, tests, .. } = requirement;
        if !UNBUILT.contains(&section.as_str()) {
            wrong.push(format!("{id}: nothing of {section} may be unbuilt"));
        }
        let scenario = scenarios.iter().any(|scenario| scenario.covers.contains(id));
        if scenario || !vectors.is_empty() || !tests.is_empty() {
            wrong.push(format!("{id} is said to be unbuilt, and is shown"));
        }
    }
    wrong
}

/// The headings of `docs/PROTOCOL.md` with these first numbers, as sections.
///
/// # Errors
/// When it can't be read.
pub fn headings(chapters: core::ops::RangeInclusive<u32>) -> Outcome<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PROTOCOL.md");
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let number = |line: &str| {
        let title = line.strip_prefix("## ").or_else(|| line.strip_prefix("### "))?;
        let number = title.split(' ').next()?.trim_end_matches('.');
        let chapter: u32 = number.split('.').next()?.parse().ok()?;
        chapters.contains(&chapter).then(|| format!("PROTOCOL {number}"))
    };
    Ok(text.lines().filter_map(number).collect())
}

/// Complaints about references that lead nowhere.
///
/// # Errors
/// When a file can't be read.
pub fn broken_references(all: &[Requirement], scenarios: &[Scenario]) -> Outcome<Vec<String>> {
    let names = vector_names()?;
    let ids: BTreeSet<_> = all.iter().map(|requirement| requirement.id.as_str()).collect();
    let mut broken = Vec::new();
    for requirement in all {
        let vectors = requirement.vectors.iter().filter(|name| !vector_exists(&names, name));
        broken.extend(vectors.map(|name| format!("{}: no vector {name:?}", requirement.id)));
        let tests = requirement.tests.iter().filter(|name| !test_exists(name));
        broken.extend(tests.map(|name| format!("{}: no test {name:?}", requirement.id)));
    }
    for scenario in scenarios {
        let unknown = scenario.covers.iter().filter(|id| !ids.contains(id.as_str()));
        let at = format!("{}.json, {:?}", scenario.file, scenario.name);
        broken.extend(unknown.map(|id| format!("{at}: no requirement {id:?}")));
        if scenario.covers.is_empty() {
            broken.push(format!("{at} covers nothing"));
        }
    }
    Ok(broken)
}

/// Requirements that nothing shows; with the names of pending scenarios that would.
#[must_use]
pub fn uncovered(all: &[Requirement], scenarios: &[Scenario]) -> Vec<(Requirement, Vec<String>)> {
    let covers = |requirement: &Requirement, pending: bool| -> Vec<String> {
        let own = scenarios.iter().filter(|scenario| scenario.pending == pending);
        let own = own.filter(|scenario| scenario.covers.contains(&requirement.id));
        own.map(|scenario| format!("{}/{}", scenario.file, scenario.name)).collect()
    };
    let bare = |requirement: &&Requirement| {
        requirement.unbuilt.is_none()
            && requirement.vectors.is_empty()
            && requirement.tests.is_empty()
            && covers(requirement, false).is_empty()
    };
    all.iter().filter(bare).map(|found| (found.clone(), covers(found, true))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_test() {
        let text = "fn a() {}\n#[test]\nfn b() {}\nquickcheck! {\nfn c(x: u8) -> bool {\n";
        assert!(!is_test(text, "a") && is_test(text, "b") && is_test(text, "c"));
        assert!(!is_test(text, "d") && !is_test("fn c(x: u8) -> bool {\n", "c"));
    }
}
