//! The little language of scenarios: values that depend on the clock or on earlier outputs, and
//! patterns that outputs are compared with.

use crate::vectors::Outcome;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Values by name: the clocks, counters, and what patterns captured.
pub(super) type Names = BTreeMap<String, Value>;

/// Replaces each string that begins with `=` by what it stands for.
///
/// # Errors
/// For an unknown name, or arithmetic on what is no integer.
pub(super) fn resolve(value: &Value, names: &Names) -> Outcome<Value> {
    Ok(match value {
        Value::String(text) => match text.strip_prefix('=') {
            Some(expression) => evaluate(expression, names)?,
            None => value.clone(),
        },
        Value::Array(list) => {
            Value::Array(list.iter().map(|item| resolve(item, names)).collect::<Outcome<_>>()?)
        }
        Value::Object(fields) => {
            let field = |(key, item): (&String, &Value)| Ok((key.clone(), resolve(item, names)?));
            Value::Object(fields.iter().map(field).collect::<Outcome<_>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

/// A name alone, of any type, or integers with `+`, `-` and `*`, from left to right.
fn evaluate(expression: &str, names: &Names) -> Outcome<Value> {
    let name =
        |name: &str| names.get(name).cloned().ok_or_else(|| format!("nothing is called {name:?}"));
    let operator = |c: char| matches!(c, '+' | '-' | '*');
    if !expression.contains(operator) {
        return name(expression.trim());
    }
    let number = |text: &str| -> Outcome<i64> {
        match text.trim().parse() {
            Ok(number) => Ok(number),
            Err(_) => name(text.trim())?.as_i64().ok_or_else(|| format!("{text} is no integer")),
        }
    };
    let mut rest = expression;
    let end = rest.find(operator).unwrap_or(rest.len());
    let mut total = number(&rest[..end])?;
    rest = &rest[end..];
    while let Some(which) = rest.chars().next() {
        let operand = &rest[1..];
        let end = operand.find(operator).unwrap_or(operand.len());
        let value = number(&operand[..end])?;
        total = match which {
            '+' => total + value,
            '-' => total - value,
            _ => total * value,
        };
        rest = &operand[end..];
    }
    Ok(Value::from(total))
}

/// Compares an output with a pattern; captures go into `names`.
///
/// # Errors
/// Where they differ.
pub(super) fn compare(pattern: &Value, got: &Value, names: &mut Names) -> Outcome {
    compare_at("", pattern, got, names)
}

fn compare_at(at: &str, pattern: &Value, got: &Value, names: &mut Names) -> Outcome {
    let differ = |pattern: &Value| {
        let at = if at.is_empty() { "it" } else { at };
        Err(format!("{at}: expected {pattern}, got {got}"))
    };
    match pattern {
        Value::String(text) if text == "*" => Ok(()),
        Value::String(text) if text.starts_with('$') => {
            if let Some(known) = names.get(&text[1..]).filter(|known| *known != got) {
                return differ(known);
            }
            names.insert(text[1..].to_owned(), got.clone());
            Ok(())
        }
        Value::String(text) if text.starts_with('=') => {
            let value = resolve(pattern, names)?;
            if value == *got { Ok(()) } else { differ(&value) }
        }
        Value::Object(fields) => match special(at, fields, got, names) {
            Some(result) => result,
            None => compare_fields(at, fields, got, names),
        },
        Value::Array(list) => {
            let Some(items) = got.as_array().filter(|items| items.len() == list.len()) else {
                return differ(pattern);
            };
            for (index, (pattern, item)) in list.iter().zip(items).enumerate() {
                compare_at(&format!("{at}[{index}]"), pattern, item, names)?;
            }
            Ok(())
        }
        _ if pattern == got => Ok(()),
        _ => differ(pattern),
    }
}

/// Patterns that are no values: a range, a list that has an item, alternatives, a negation.
fn special(
    at: &str,
    fields: &Map<String, Value>,
    got: &Value,
    names: &mut Names,
) -> Option<Outcome> {
    let wrong = || Err(format!("{at}: expected {}, got {got}", Value::Object(fields.clone())));
    let mut tried = |pattern: &Value, value: &Value| {
        let mut scratch = names.clone();
        let fits = compare_at(at, pattern, value, &mut scratch).is_ok();
        if fits {
            *names = scratch;
        }
        fits
    };
    let holds = if !fields.is_empty() && fields.keys().all(|key| key == "min" || key == "max") {
        let bound = |key: &str| fields.get(key).map(|value| resolve(value, names));
        let (min, max) = (bound("min"), bound("max"));
        got.as_i64().is_some_and(|number| {
            min.is_none_or(|min| min.is_ok_and(|min| min.as_i64() <= Some(number)))
                && max.is_none_or(|max| max.is_ok_and(|max| max.as_i64() >= Some(number)))
        })
    } else if let (Some(item), 1) = (fields.get("has"), fields.len()) {
        got.as_array().is_some_and(|list| list.iter().any(|value| tried(item, value)))
    } else if let (Some(Value::Array(some)), 1) = (fields.get("one_of"), fields.len()) {
        some.iter().any(|pattern| tried(pattern, got))
    } else if let (Some(pattern), 1) = (fields.get("not"), fields.len()) {
        !tried(pattern, got)
    } else {
        return None;
    };
    Some(if holds { Ok(()) } else { wrong() })
}

/// Every field of the pattern; those that it does not name are not compared, and `null` is absence.
fn compare_fields(
    at: &str,
    fields: &Map<String, Value>,
    got: &Value,
    names: &mut Names,
) -> Outcome {
    let Some(object) = got.as_object() else {
        return Err(format!("{at}: expected an object, got {got}"));
    };
    for (key, pattern) in fields {
        let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let value = object.get(key).unwrap_or(&Value::Null);
        if value.is_null() && !pattern.is_null() {
            return Err(format!("{at}: expected {pattern}, but there is none in {got}"));
        }
        compare_at(&at, pattern, value, names)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fits(pattern: &Value, got: &Value, names: &mut Names) -> bool {
        compare(pattern, got, names).is_ok()
    }

    #[test]
    fn values() {
        let names = Names::from([("x".to_owned(), json!(5)), ("s".to_owned(), json!("text"))]);
        assert_eq!(
            resolve(&json!(["=x", "=x*2+1", "=s", "x"]), &names).unwrap(),
            json!([5, 11, "text", "x"])
        );
        assert!(resolve(&json!("=y"), &names).is_err() && resolve(&json!("=s+1"), &names).is_err());
    }

    #[test]
    fn patterns() {
        let mut names = Names::new();
        assert!(fits(&json!({"a": 1, "b": null}), &json!({"a": 1, "c": 2}), &mut names));
        assert!(!fits(&json!({"a": 1}), &json!({}), &mut names));
        assert!(!fits(&json!({"a": "*"}), &json!({}), &mut names));
        assert!(fits(&json!(["*", "$x"]), &json!([1, 2]), &mut names));
        assert!(!fits(&json!(["*"]), &json!([1, 2]), &mut names));
        assert!(
            fits(&json!("$x"), &json!(2), &mut names) && !fits(&json!("$x"), &json!(3), &mut names)
        );
        assert!(fits(&json!("=x+1"), &json!(3), &mut names));
        assert!(fits(&json!({"min": 2, "max": "=x+3"}), &json!(5), &mut names));
        assert!(!fits(&json!({"max": 4}), &json!(5), &mut names));
        assert!(fits(&json!({"has": 2}), &json!([1, 2]), &mut names));
        assert!(fits(&json!({"one_of": [1, 2]}), &json!(2), &mut names));
        assert!(fits(&json!({"not": 3}), &json!(2), &mut names));
    }
}
