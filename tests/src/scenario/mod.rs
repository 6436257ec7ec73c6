//! The rules of the protocol as data: reads `spec-vectors/scenarios/*.json`, whose schema the README
//! of that folder's parent gives, and plays them to a server or a client.
//!
//! The runner holds the keys of the scripted peer. It seals and opens with the core's own functions
//! of bytes, which the known answers check; what a machine does is compared with the scenario alone.

mod commands;
mod coverage;
mod expect;
pub(crate) mod frames;
mod inputs;
pub(crate) mod link;
mod machine;
mod pattern;
mod react;
mod start;
mod steps;
mod words;
mod world;

pub use coverage::{
    Requirement, broken_references, headings, requirements, uncovered, wrongly_unbuilt,
};

use crate::vectors::{Fields, Outcome, json_files, load, own_folder};
use serde_json::Value;
use std::path::PathBuf;

/// The folder of the scenarios.
#[must_use]
pub fn folder() -> PathBuf {
    own_folder().join("scenarios")
}

/// One scenario as its file has it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// File it is of, without `.json`.
    pub file: String,
    /// What it shows.
    pub name: String,
    /// Ids of the requirements that it shows.
    pub covers: Vec<String>,
    /// The machine does not do this yet.
    pub pending: bool,
    /// Role, start state and options.
    start: Value,
    steps: Vec<Value>,
}

impl Scenario {
    fn read(file: &str, role: &Value, value: Value) -> Outcome<Self> {
        Fields::of(value)?.all(|fields| {
            let name = fields.text("name")?;
            let strings = |list: Vec<Value>| {
                let text = |item: Value| item.as_str().map(str::to_owned);
                list.into_iter()
                    .map(text)
                    .collect::<Option<Vec<_>>>()
                    .ok_or("covers: no list of text")
            };
            let covers = strings(fields.list("covers")?)?;
            let pending = fields.maybe("pending").is_some_and(|pending| pending == true);
            // Only for people.
            fields.maybe("why");
            let mut start =
                fields.maybe("start").unwrap_or_else(|| Value::Object(Default::default()));
            let object = start.as_object_mut().ok_or("start is no object")?;
            object.insert("role".to_owned(), fields.maybe("role").unwrap_or_else(|| role.clone()));
            let steps = fields.list("steps")?;
            Ok(Self { file: file.to_owned(), name, covers, pending, start, steps })
        })
    }

    /// Plays it.
    ///
    /// # Errors
    /// What went otherwise, with file, name and number of the step.
    pub fn play(&self) -> Outcome {
        let at = |what: &str, why: String| {
            format!("{}.json, scenario {:?}, {what}:\n{why}", self.file, self.name)
        };
        let mut world = start::world(&self.start).map_err(|why| at("start", why))?;
        for (index, step) in self.steps.iter().enumerate() {
            let played = steps::play(&mut world, step.clone());
            played.map_err(|why| at(&format!("step {index} {step}"), why))?;
        }
        Ok(())
    }
}

/// All scenarios of the folder.
///
/// # Errors
/// For a file that is none of scenarios.
pub fn scenarios() -> Outcome<Vec<Scenario>> {
    let mut names = json_files(&folder())?;
    names.sort();
    let mut all = Vec::new();
    for name in names.iter().filter(|name| *name != coverage::FILE) {
        let file = name.trim_end_matches(".json");
        let list = load(&folder().join(name))?.all(|fields| {
            fields.text("about")?;
            let role = fields.take("role")?;
            let list = fields.list("scenarios")?;
            list.into_iter()
                .map(|value| Scenario::read(file, &role, value))
                .collect::<Outcome<Vec<_>>>()
        });
        all.extend(list.map_err(|why| format!("{name}: {why}"))?);
    }
    Ok(all)
}
