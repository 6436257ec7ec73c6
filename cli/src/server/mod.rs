//! `clawchat-server`.

mod admin;
mod args;
mod commands;
pub mod journal;
mod run;
pub mod store;
pub mod worker;

use crate::process;
use args::{Cli, Command};
use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the server binary with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::forbid_core_dumps();
    process::private_umask();
    let cli = Cli::parse_from(arguments);
    let json = cli.json;
    let done = match cli.command.unwrap_or_default() {
        Command::Run(run) => run::run(&cli.common, run, json),
        Command::Init(init) => commands::init(&cli.common, init, json),
        Command::Issue(issue) => commands::issue(&cli.common, issue, json),
        Command::Members => commands::members(&cli.common, json),
        Command::Status => commands::status(&cli.common, json),
        Command::RotateKeys { name } => commands::rotate_keys(&cli.common, name.as_deref(), json),
        Command::Compromised(what) => commands::compromised(&cli.common, &what, json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}
