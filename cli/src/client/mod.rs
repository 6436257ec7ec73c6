//! `clawchat`.

mod args;
mod chat;
mod commands;
mod demo;
mod files;
mod get;
mod inbox;
mod link;
mod memory;
mod open;
mod outgoing;
mod profile;
mod progress;
mod sending;
mod show;
mod shown;
mod taking;

use crate::failure::{Exit, Failure, Outcome};
use crate::process;
use crate::text::{complain, is_interactive};
use args::{Cli, Command};
use clap::Parser;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Runs the client binary with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    process::forbid_core_dumps();
    process::private_umask();
    // `clawchat server …` is the server binary: the demo starts it from the one binary it has.
    if std::env::args_os().nth(1).is_some_and(|word| word == "server") {
        let arguments = std::env::args_os().skip(2);
        return crate::server::main(
            [OsString::from("clawchat-server")].into_iter().chain(arguments),
        );
    }
    let cli = Cli::parse();
    let json = cli.common.json;
    let common = &cli.common;
    let done = match cli.command {
        Command::Open { file } => profile::open(common, &file),
        Command::Send(send) => commands::send(common, &send),
        Command::SendFile(what) => sending::send_file(common, &what),
        Command::Get(what) => get::get(common, &what),
        Command::Ls => get::ls(common),
        Command::Listen { accept } => commands::listen(common, accept.as_deref()),
        Command::Chat { to } => chat::chat(common, &to),
        Command::Who => commands::who(common),
        Command::Status => commands::status(common),
        Command::Compromised { yes_wipe_all_keys } => {
            commands::compromised(common, yes_wipe_all_keys)
        }
        Command::Demo => demo::demo(common),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

/// Asks a person to type `WIPE` before keys are destroyed.
///
/// # Errors
/// 2 when there is nobody to ask, 1 when the answer is another.
pub fn confirm_wipe(no_input: bool, what: &str) -> Outcome<()> {
    if no_input || !is_interactive() {
        let text = "this destroys keys, and there is nobody to ask";
        return Err(Failure::new(Exit::Usage, text).advice("pass --yes-wipe-all-keys"));
    }
    complain(what);
    let _shown = write!(std::io::stderr(), "Type WIPE to go on: ");
    let mut line = String::new();
    let _read = std::io::stdin().read_line(&mut line);
    if line.trim() == "WIPE" {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "nothing was wiped"))
}
