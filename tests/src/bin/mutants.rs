//! Builds each mutant of `tests/mutants.json` in a copy of the workspace, plays it, and demands that
//! the oracle it is for complains: `mutants [--only ORACLE]`.

use clawchat_tests::mutants::{Mutant, mutants, workspace};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

/// Seeds that a mutant is played with, at most.
const SEEDS: &str = "400";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let only = match (arguments.next().as_deref(), arguments.next()) {
        (None, None) => None,
        (Some("--only"), Some(number)) => number.parse::<u64>().ok(),
        _ => {
            say("usage: mutants [--only ORACLE]\n");
            return ExitCode::from(2);
        }
    };
    match run(only) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            say(&format!("mutants: {why}\n"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// How many were not caught.
fn run(only: Option<u64>) -> Result<usize, String> {
    let root = workspace().join("target/mutants");
    let tree = root.join("tree");
    copy_tree(&tree)?;
    let (mut caught, mut escaped) = (0, 0);
    for mutant in mutants()?.iter().filter(|mutant| only.is_none_or(|n| n == mutant.oracle)) {
        let before = mutant.apply(&tree)?;
        let verdict = play(mutant, &tree, &root);
        for (path, text) in before {
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let how = match verdict {
            Ok(complaint) => {
                caught += 1;
                format!("caught: {complaint}")
            }
            Err(why) => {
                escaped += 1;
                format!("ESCAPED: {why}")
            }
        };
        say(&format!("oracle {:>2}: {}: {how}\n", mutant.oracle, mutant.what));
    }
    say(&format!("{caught} passed, {escaped} failed\n"));
    Ok(escaped)
}

/// The files that git knows, as they are.
fn copy_tree(tree: &Path) -> Result<(), String> {
    let listed = Command::new("git").arg("ls-files").current_dir(workspace()).output();
    let listed = listed.map_err(|error| format!("git: {error}"))?;
    let _fresh = fs::remove_dir_all(tree);
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        let (from, to) = (workspace().join(name), tree.join(name));
        let folder = to.parent().map_or_else(PathBuf::new, Path::to_owned);
        let copied = fs::create_dir_all(folder).and_then(|()| fs::copy(&from, &to));
        copied.map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// What the oracle said, or why it said nothing.
fn play(mutant: &Mutant, tree: &Path, root: &Path) -> Result<String, String> {
    // Dependencies that are built serve again.
    let target = workspace().join("target");
    let cargo = |arguments: &[&str]| -> Result<Output, String> {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(tree).env("CARGO_TARGET_DIR", &target);
        // A mutant differs by a line.
        command.env("CARGO_INCREMENTAL", "1");
        command.output().map_err(|error| format!("cargo: {error}"))
    };
    let package = ["--locked", "--quiet", "-p", "clawchat-tests"];
    let output = match &mutant.target {
        Some(target) => cargo(&[&["test"], &package[..], &["--test", target]].concat())?,
        None => {
            let built = cargo(&[&["build"], &package[..], &["--bin", "world"]].concat())?;
            if !built.status.success() {
                return Err(String::from_utf8_lossy(&built.stderr).into_owned());
            }
            let program = root.join("world");
            let copied = fs::copy(target.join("debug/world"), &program);
            copied.map_err(|error| format!("world: {error}"))?;
            let mut world = Command::new(program);
            world.args(["--seeds", SEEDS, "--until-violation"]);
            world.env("RUST_BACKTRACE", "0").output().map_err(|error| format!("world: {error}"))?
        }
    };
    if output.status.success() {
        return Err("nobody complained".to_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let wanted = format!("oracle {}: ", mutant.oracle);
    match text.lines().find(|line| line.contains(&wanted)) {
        Some(line) => Ok(line.split("µs: ").last().unwrap_or(line).to_owned()),
        None => {
            let others = text.lines().filter(|line| line.contains(" µs: "));
            let others: Vec<_> = others.take(3).collect();
            Err(format!("others complained: {others:?}"))
        }
    }
}
