//! Compares what a machine put out with what a step expects: exactly that, and nothing else.

use super::pattern::{Names, compare};
use super::world::{Output, World};
use crate::vectors::Outcome;
use serde_json::{Value, json};

/// Outputs that a failure shows.
const SHOWN: usize = 12;
/// Characters that it shows of each: a chat may be long.
const SHOWN_OF_EACH: usize = 2000;

/// Which output an expectation is about.
fn kind(value: &Value) -> &'static str {
    if value.get("event").is_some() {
        "events"
    } else if value.get("action").is_some() {
        "actions"
    } else {
        "datagrams"
    }
}

/// A packet that only acknowledges, or probes for the size of datagrams.
fn is_mechanics(value: &Value) -> bool {
    let bare = value["frames"] == json!([]) && value["signal"].is_null();
    let large = value["length"].as_u64().is_some_and(|length| length > 1200);
    bare && (value["type"] == "0x08" || value["type"] == "0x07" && large)
}

/// Checks the outputs of a step, and takes them away.
///
/// # Errors
/// What was expected and what came.
pub(super) fn check(world: &mut World, expected: &Value, watch: Option<&Value>) -> Outcome {
    let mut outputs: Vec<Output> = core::mem::take(&mut world.outputs);
    if !world.habits.sees_acks {
        outputs.retain(|output| !is_mechanics(&output.value));
    }
    // What strangers cause is told each minute, and seldom what a scenario is about.
    let told = expected.as_array().is_some_and(|list| list.iter().any(|e| e["event"] == "dropped"));
    outputs.retain(|output| told || output.value["event"] != "dropped");
    if let Some(kinds) = watch {
        let kinds = kinds.as_array().ok_or("watch: no list")?;
        outputs.retain(|output| kinds.contains(&json!(kind(&output.value))));
    }
    let list = expected.as_array().ok_or("expect: no list")?;
    for (index, entry) in list.iter().enumerate() {
        let matched = entry_matches(world, &mut outputs, entry);
        matched.map_err(|why| format!("expectation {index} {entry}: {why}{}", show(&outputs)))?;
    }
    if outputs.is_empty() {
        return Ok(());
    }
    Err(format!("more came than is expected:{}", show(&outputs)))
}

fn show(outputs: &[Output]) -> String {
    let mut text = format!("\nleft are {} outputs", outputs.len());
    for output in outputs.iter().take(SHOWN) {
        let line: String = output.value.to_string().chars().take(SHOWN_OF_EACH).collect();
        text.push_str(&format!("\n  {line}"));
    }
    text
}

fn fits(pattern: &Value, value: &Value, names: &Names) -> bool {
    compare(pattern, value, &mut names.clone()).is_ok()
}

/// Whether an output is of the kind, and to the peer and attempt, that an expectation is about.
fn is_meant(entry: &Value, output: &Output) -> bool {
    let same = |key: &str| entry.get(key).is_none_or(|wanted| output.value[key] == *wanted);
    let datagram = kind(entry) == "datagrams";
    kind(&output.value) == kind(entry) && (!datagram || same("to") && same("attempt"))
}

/// Takes messages to a peer in order, however they are spread over datagrams.
fn said_in_order(
    world: &mut World,
    outputs: &mut Vec<Output>,
    entry: &Value,
    said: &Value,
) -> Outcome {
    let wanted = said.as_array().map_or(0, Vec::len);
    let mut messages: Vec<Value> = Vec::new();
    while messages.len() < wanted {
        let brings = |output: &Output| is_meant(entry, output) && output.value["signal"].is_null();
        let at = outputs.iter().position(brings);
        let Some(at) = at else { break };
        let output = outputs.remove(at);
        messages.extend(output.value["messages"].as_array().cloned().unwrap_or_default());
    }
    compare(said, &Value::Array(messages), &mut world.names)
}

/// Takes the outputs that one expectation is about: the next of its kind, to its peer if it says.
fn entry_matches(world: &mut World, outputs: &mut Vec<Output>, entry: &Value) -> Outcome {
    let mut pattern = entry.clone();
    let fields = pattern.as_object_mut().ok_or("no object")?;
    // A count of an event or an action is one of its own fields when it is no plain expectation.
    let counted = entry["event"] == "dropped";
    let count = if counted { None } else { fields.remove("count") };
    let at_least = count.as_ref().and_then(|count| count["min"].as_u64());
    let count = count.and_then(|count| count.as_u64()).or(at_least).unwrap_or(1);
    let times = fields.remove("times");
    let somewhere = fields.remove("somewhere").is_some_and(|somewhere| somewhere == true);
    let optional = fields.remove("optional").is_some_and(|optional| optional == true);
    let (label, same_as) = (fields.remove("label"), fields.remove("same_as"));
    let times = times.as_ref().map(|list| list.as_array().ok_or("times: no list")).transpose()?;
    let count = times.map_or(count, |list| list.len() as u64);
    if let Some(said) = fields.remove("said") {
        return said_in_order(world, outputs, entry, &said);
    }
    for index in 0..count {
        world.names.insert("i".to_owned(), json!(index));
        let at = outputs.iter().position(|output| {
            let fits_here = || fits(&pattern, &output.value, &world.names);
            is_meant(entry, output) && (!somewhere || fits_here())
        });
        if optional && at.is_none_or(|at| !fits(&pattern, &outputs[at].value, &world.names)) {
            return Ok(());
        }
        let at = at.ok_or_else(|| format!("only {index} came"))?;
        let output = &outputs[at];
        compare(&pattern, &output.value, &mut world.names)?;
        if let Some(times) = times {
            let at = usize::try_from(index).unwrap_or(usize::MAX);
            compare(&times[at], &output.value["at"], &mut world.names)?;
        }
        if let Some(same) = same_as.as_ref().and_then(Value::as_str) {
            let known = world.labels.get(same).ok_or_else(|| format!("no label {same:?}"))?;
            if *known != output.bytes {
                return Err(format!("its bytes are not those of {same:?}"));
            }
        }
        let output = outputs.remove(at);
        if let Some(label) = label.as_ref().and_then(Value::as_str) {
            let known =
                world.labels.entry(label.to_owned()).or_insert_with(|| output.bytes.clone());
            if *known != output.bytes && count > 1 {
                return Err("their bytes are not the same".to_owned());
            }
            known.clone_from(&output.bytes);
        }
    }
    if at_least.is_some() {
        outputs.retain(|output| !fits(&pattern, &output.value, &world.names));
    }
    Ok(())
}
