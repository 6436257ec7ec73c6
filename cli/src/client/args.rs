//! The command line of `clawchat`.

use crate::text::parse_duration;
use clap::{Args, Parser, Subcommand};
use core::time::Duration;
use std::path::PathBuf;

/// Secure chat with your own server: no cloud, no open door.
#[derive(Debug, Parser)]
#[command(
    name = "clawchat",
    version,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 65 damaged or no security file, 66 no such file, \
                  69 server unreachable, 73 cannot write, 75 try later (server full, superseded), \
                  77 wrong bootstrap key, 78 configuration, 80 file expired, 81 clock wrong, \
                  83 files not through yet, 84 keys wiped."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The security file; `-` reads it from stdin.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) sec: Option<PathBuf>,
    /// A file with the bootstrap key, in base64 or 24 words.
    #[arg(long, global = true, value_name = "FILE", env = "CLAWCHAT_BOOTSTRAP_KEY_FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// Read the bootstrap key from stdin.
    #[arg(long, global = true, conflicts_with = "key_file")]
    pub(super) key_stdin: bool,
    /// A profile made by `open`, instead of --sec and --key-file.
    #[arg(long, global = true, value_name = "NAME", default_value = "default")]
    pub(super) profile: String,
    /// How long connecting may take, and the whole of send, who and status.
    #[arg(long, global = true, value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    pub(super) timeout: Duration,
    /// Look for the server at this UDP port only.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: Option<u16>,
    /// Answer in JSON: one document, or one event a line.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Never ask; a question becomes exit code 2.
    #[arg(long, global = true)]
    pub(super) no_input: bool,
    /// Say only what went wrong.
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take a carried security file into a profile, so that no command needs --sec again.
    Open {
        /// The security file; `-` reads it from stdin.
        file: PathBuf,
    },
    /// Send one message; done once the server has stored it.
    Send(Send),
    /// Send files and folders; done once the server has them. Repeated, it goes on where it was.
    SendFile(SendFile),
    /// Take files that wait at the server.
    Get(Get),
    /// List the files that wait at the server.
    Ls,
    /// Print what comes, until stopped.
    Listen {
        /// Take all files that come into this folder.
        #[arg(long, value_name = "DIR")]
        accept: Option<PathBuf>,
    },
    /// Chat in the terminal, line by line.
    Chat {
        /// Who lines go to.
        #[arg(long, value_name = "#room|@member", default_value = "#lobby")]
        to: String,
    },
    /// Show who is there.
    Who,
    /// Show how the connection is doing.
    Status,
    /// Destroy the keys here and at the server.
    Compromised {
        /// Do not ask.
        #[arg(long)]
        yes_wipe_all_keys: bool,
    },
    /// See it all work, on this machine alone.
    Demo,
}

#[derive(Debug, Args)]
pub(super) struct Send {
    /// Who it goes to.
    #[arg(long, value_name = "#room|@member", default_value = "#lobby")]
    pub(super) to: String,
    /// The text; `-` reads it from stdin.
    pub(super) text: String,
}

#[derive(Debug, Args)]
pub(super) struct SendFile {
    /// Who they go to: `@server` is the server itself.
    #[arg(long, value_name = "#room|@member", default_value = SendFile::TO)]
    pub(super) to: String,
    /// Send them no further: what the server has of one that is not whole goes.
    #[arg(long)]
    pub(super) cancel: bool,
    /// Files and folders.
    #[arg(required = true, value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
}

impl SendFile {
    /// Who files go to when nobody is named.
    pub(super) const TO: &str = "@server";
}

#[derive(Debug, Args)]
pub(super) struct Get {
    /// Their names, or the beginnings of their ids, as `ls` shows them.
    #[arg(required_unless_present = "all", value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// All of them.
    #[arg(long, conflicts_with = "names")]
    pub(super) all: bool,
    /// Do not take them, and let the server offer them no more.
    #[arg(long, conflicts_with = "output")]
    pub(super) refuse: bool,
    /// Put them into this folder, and not the present one.
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["x", "send", "--timeout", "never", "hi"]).is_err());
        let cli = Cli::try_parse_from(["x", "send", "--sec", "f", "--to", "@bob", "hi", "--json"]);
        assert!(cli.is_ok_and(|cli| cli.common.json));
    }
}
