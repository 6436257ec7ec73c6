//! Deliberately broken builds, each of which one oracle must catch: `tests/mutants.json` lists the
//! changes to the core, the program `mutants` builds and plays them.

use crate::vectors::{Fields, Outcome};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A change of one file.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Which file, from the workspace on.
    pub file: String,
    /// Text that stands in it once.
    pub find: String,
    /// What stands there instead.
    pub put: String,
}

/// A broken core.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// The oracle that must complain.
    pub oracle: u64,
    /// What is wrong with it.
    pub what: String,
    /// The changes that break it.
    pub edits: Vec<Edit>,
    /// The test target that catches it; the world when there is none.
    pub target: Option<String>,
}

/// The folder of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// All mutants.
///
/// # Errors
/// When the list can't be read.
pub fn mutants() -> Outcome<Vec<Mutant>> {
    let path = workspace().join("tests/mutants.json");
    let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let list: Vec<Value> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    list.into_iter().map(mutant).collect()
}

fn mutant(value: Value) -> Outcome<Mutant> {
    Fields::of(value)?.all(|fields| {
        let (oracle, what) = (fields.uint("oracle")?, fields.text("what")?);
        let target = fields.maybe("target").and_then(|name| name.as_str().map(str::to_owned));
        let edit = |value| {
            Fields::of(value)?.all(|fields| {
                let (file, find) = (fields.text("file")?, fields.text("find")?);
                Ok(Edit { file, find, put: fields.text("put")? })
            })
        };
        let edits = fields.list("edits")?.into_iter().map(edit).collect::<Outcome<_>>()?;
        Ok(Mutant { oracle, what, edits, target })
    })
}

impl Mutant {
    /// Breaks the copy of the workspace in `root`; gives what its files were.
    ///
    /// # Errors
    /// When a text is not there, or more than once.
    pub fn apply(&self, root: &Path) -> Outcome<Vec<(PathBuf, String)>> {
        let mut before: Vec<(PathBuf, String)> = Vec::new();
        for Edit { file, find, put } in &self.edits {
            let path = root.join(file);
            let text = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
            let count = text.matches(find.as_str()).count();
            if count != 1 {
                return Err(format!("{}: {find:?} stands {count} times in {file}", self.what));
            }
            let broken = text.replacen(find.as_str(), put, 1);
            if before.iter().all(|(known, _)| *known != path) {
                before.push((path.clone(), text));
            }
            fs::write(&path, broken).map_err(|error| format!("{file}: {error}"))?;
        }
        Ok(before)
    }

    /// The same, without writing anything.
    ///
    /// # Errors
    /// When a text is not there, or more than once.
    pub fn check(&self) -> Outcome {
        for Edit { file, find, .. } in &self.edits {
            let path = workspace().join(file);
            let text = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
            let count = text.matches(find.as_str()).count();
            if count != 1 {
                return Err(format!("{}: {find:?} stands {count} times in {file}", self.what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_mutant_still_fits_the_code() {
        let complaints: Vec<_> =
            mutants().unwrap().iter().filter_map(|m| m.check().err()).collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    #[test]
    fn every_oracle_has_a_mutant() {
        let oracles: BTreeSet<_> = mutants().unwrap().iter().map(|mutant| mutant.oracle).collect();
        assert_eq!(oracles, (1..=13).collect());
    }
}
