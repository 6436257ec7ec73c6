//! `clawchat-server`.

mod admin;
mod args;
mod commands;
mod compromising;
mod files;
pub mod journal;
mod offline;
mod operator;
mod outbox;
mod resources;
mod run;
mod spooler;
pub mod store;
mod tell;
pub mod worker;

use crate::process;
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the server binary with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::forbid_core_dumps();
    process::private_umask();
    let cli = Cli::parse_from(with_default(arguments.into_iter().collect()));
    let json = cli.json;
    let done = match cli.command {
        Command::Run(run) => run::run(&cli.common, run, json),
        Command::Init(init) => commands::init(&cli.common, init, json),
        Command::Issue(issue) => commands::issue(&cli.common, issue, json),
        Command::Members => commands::members(&cli.common, json),
        Command::Status => commands::status(&cli.common, json),
        Command::SendFile(what) => commands::send_file(&cli.common, &what, json),
        Command::RotateKeys { name } => commands::rotate_keys(&cli.common, name.as_deref(), json),
        Command::Compromised(what) => commands::compromised(&cli.common, &what, json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

/// `run` is what is meant when no command is named.
fn with_default(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let commands = Cli::command();
    let named = |word: &OsString| {
        matches!(word.to_str(), Some("-h" | "--help" | "-V" | "--version" | "help"))
            || commands.get_subcommands().any(|command| word == command.get_name())
    };
    if !arguments.iter().skip(1).any(named) {
        arguments.insert(1.min(arguments.len()), "run".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_the_default() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(with_default(words("x")), words("x run"));
        assert_eq!(with_default(words("x --port 5")), words("x run --port 5"));
        assert_eq!(with_default(words("x --json issue ann")), words("x --json issue ann"));
        assert_eq!(with_default(words("x --help")), words("x --help"));
    }
}
