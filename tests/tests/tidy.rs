//! The rules of the tree that no compiler checks. There are no exceptions to them.

use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a function's body in the core.
const FUNCTION: usize = 70;
/// Most lines of a file in the core, its tests not counted.
const FILE: usize = 500;
/// The floors of the core: what lies on one may use its own and those below.
const FLOORS: [&[&str]; 6] = [
    &[
        "time", "random", "id", "secret", "limits", "error", "ranges", "budget", "spin", "queue",
        "spare",
    ],
    &["wire"],
    &["crypto"],
    &["transport"],
    &["session"],
    &["ops", "server", "client"],
];
/// Neither of these knows the other.
const APART: [&str; 2] = ["server", "client"];

/// A source file without its tests and comments: numbered lines.
struct Source {
    path: PathBuf,
    lines: Vec<(usize, String)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, found: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).expect("it can be read");
            found.push(Source { lines: production(&text), path });
        }
    }
}

fn crate_sources(name: &str) -> Vec<Source> {
    let mut found = Vec::new();
    sources(&root().join(name).join("src"), &mut found);
    assert!(!found.is_empty(), "{name} has no sources");
    found
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The lines of a formatted file that are neither of a `#[cfg(test)]` item nor comments.
fn production(text: &str) -> Vec<(usize, String)> {
    let (mut kept, mut test_item): (Vec<(usize, String)>, Option<usize>) = (Vec::new(), None);
    for (index, line) in text.lines().enumerate() {
        if let Some(depth) = test_item {
            let closes = indent(line) == depth && (line.trim_start().starts_with('}'));
            let one_line = indent(line) == depth && line.ends_with(';');
            if closes || one_line {
                test_item = None;
            }
        } else if line.trim_start().starts_with("#[cfg(test)]") {
            test_item = Some(indent(line));
        } else {
            let code = line.split("//").next().unwrap_or_default();
            kept.push((index + 1, code.trim_end().to_string()));
        }
    }
    kept
}

/// Functions of a file: their line, name and the lines of their bodies.
fn functions(lines: &[(usize, String)]) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, (number, line)) in lines.iter().enumerate() {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(word) = words.iter().position(|word| *word == "fn") else { continue };
        let qualifiers = ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "async"];
        if !words[..word].iter().all(|word| qualifiers.contains(word)) {
            continue;
        }
        let name =
            words.get(word + 1).map_or("", |name| name.split(['(', '<']).next().unwrap_or(name));
        let same = |other: &str| indent(other) == indent(line);
        let opens = lines[at..].iter().position(|(_, l)| {
            same(l) && (l.ends_with('{') || l.ends_with(';') || l.ends_with('}'))
        });
        let Some(opens) = opens.map(|offset| at + offset) else { continue };
        if !lines[opens].1.ends_with('{') {
            continue;
        }
        let closes = lines[opens + 1..].iter().position(|(_, l)| same(l) && l.trim() == "}");
        found.push((*number, name.to_string(), closes.unwrap_or(lines.len())));
    }
    found
}

/// Modules of the core that a line names.
fn imports(line: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => {
                let inside = list.split('}').next().unwrap_or_default();
                found.extend(inside.split(',').map(|item| word(item.trim())));
            }
            None => found.push(word(rest)),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// The module of the core that a file belongs to.
fn module(path: &Path) -> String {
    let core = root().join("core/src");
    let inside = path.strip_prefix(&core).expect("it is in the core");
    let first = inside.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
    first.trim_end_matches(".rs").to_string()
}

#[track_caller]
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn functions_are_short() {
    let mut complaints = Vec::new();
    for Source { path, lines } in crate_sources("core") {
        for (number, name, body) in functions(&lines) {
            if body > FUNCTION {
                complaints.push(format!("{}:{number}: {name} has {body} lines", path.display()));
            }
        }
    }
    none(&complaints);
}

#[test]
fn files_are_short() {
    let mut complaints = Vec::new();
    for Source { path, lines } in crate_sources("core") {
        if lines.len() > FILE {
            complaints.push(format!("{}: {} lines", path.display(), lines.len()));
        }
    }
    none(&complaints);
}

#[test]
fn floors_import_downwards() {
    let mut complaints = Vec::new();
    for Source { path, lines } in crate_sources("core") {
        let own = module(&path);
        if own == "lib" {
            continue;
        }
        let on = floor(&own).unwrap_or_else(|| panic!("{own} is on no floor"));
        for (number, line) in lines {
            for name in imports(&line) {
                let above = floor(&name).is_some_and(|used| used > on);
                let across =
                    own != name && APART.contains(&own.as_str()) && APART.contains(&name.as_str());
                if above || across {
                    let line = line.trim();
                    complaints
                        .push(format!("{}:{number}: {own} uses {name}: {line}", path.display()));
                }
            }
        }
    }
    none(&complaints);
}

#[test]
fn the_core_has_no_std() {
    let mut complaints = Vec::new();
    for Source { path, lines } in crate_sources("core") {
        for (number, line) in lines {
            let named = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            if named.into_iter().any(|path| path == "std" || path.starts_with("std::")) {
                complaints.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    none(&complaints);
}

#[test]
fn nothing_gives_up() {
    let mut complaints = Vec::new();
    for name in ["core", "runtime-mio", "runtime-smol", "cli"] {
        for Source { path, lines } in crate_sources(name) {
            for (number, line) in lines {
                if [".unwrap()", "panic!(", "todo!(", "unimplemented!("]
                    .iter()
                    .any(|bad| line.contains(bad))
                {
                    complaints.push(format!("{}:{number}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    none(&complaints);
}

/// PROTOCOL 3, 7: what an attacker may guess is compared in constant time.
#[test]
fn secrets_are_compared_in_constant_time() {
    let sources = crate_sources("core");
    for (file, function) in [
        ("crypto/packet.rs", "iv_fits"),
        ("crypto/identity.rs", "recognise"),
        ("crypto/sign.rs", "verify"),
        ("secret.rs", "same"),
    ] {
        let source = sources.iter().find(|source| source.path.ends_with(file));
        let lines = &source.expect("the file is there").lines;
        let found = functions(lines).into_iter().find(|(_, name, _)| name == function);
        let (first, _, body) = found.expect("the function is there");
        let mut inside = lines.iter().filter(|(line, _)| (first..first + body + 2).contains(line));
        assert!(inside.any(|(_, line)| line.contains(".ct_eq(")), "{file}: {function}");
    }
}

/// PROTOCOL 3: a process never forks with a session alive.
#[test]
fn nothing_forks() {
    let mut complaints = Vec::new();
    for name in ["core", "runtime-mio", "runtime-smol", "cli"] {
        for Source { path, lines } in crate_sources(name) {
            for (number, line) in lines {
                let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                if words.any(|word| ["fork", "vfork", "clone3", "daemon"].contains(&word)) {
                    complaints.push(format!("{}:{number}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    none(&complaints);
}

#[test]
fn the_rules_themselves() {
    let text = "use crate::{time::Now, wire};\n// crate::server\nfn a(\n    b: u8,\n) {\n    b;\n    c;\n}\n\
                #[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod more {\n    fn x() {\n    }\n}\nfn d() {}\n\
                pub(crate) const fn e() -> u8 {\n    1\n}\n";
    let lines = production(text);
    assert!(!lines.iter().any(|(_, line)| line.contains("mod ") || line.contains("server")));
    assert_eq!(imports(&lines[0].1), ["time", "wire"]);
    assert_eq!(imports("let x: crate::id::Epoch = y;"), ["id"]);
    let found = functions(&lines);
    assert_eq!(found, [(3, "a".to_string(), 2), (17, "e".to_string(), 1)]);
    assert!(floor("time") < floor("wire") && floor("nothing").is_none());
}
