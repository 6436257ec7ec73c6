//! The client binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    clawchat_cli::client::main()
}
