//! The server binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    clawchat_cli::server::main(std::env::args_os())
}
