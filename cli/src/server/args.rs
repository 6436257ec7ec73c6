//! The command line of `clawchat-server`.

use super::store::PortSetting;
use crate::text::{parse_duration, parse_size};
use clap::{Args, Parser, Subcommand};
use core::net::IpAddr;
use core::time::Duration;
use std::path::PathBuf;

/// The secure chat server for your own machine: no cloud, no open door.
#[derive(Debug, Parser)]
#[command(
    name = "clawchat-server",
    version,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 66 no such file, 69 no server runs, 73 cannot write, \
                  77 not permitted, 78 configuration."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) common: Common,
    /// Answer in JSON: one document, or one event a line.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The state folder.
    #[arg(long, global = true, value_name = "DIR", env = "CLAWCHAT_STATE")]
    pub(super) state: Option<PathBuf>,
    /// Never ask; a question becomes exit code 2.
    #[arg(long, global = true)]
    pub(super) no_input: bool,
    /// Say only what went wrong.
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make what is missing, and serve. The default.
    Run(Run),
    /// Make what is missing, and do not serve.
    Init(Setup),
    /// Make a security file for a member.
    Issue(Issue),
    /// List the members.
    Members,
    /// Show how the running server is doing.
    Status,
    /// Send files and folders to a member or a room; who is away gets them later.
    SendFile(SendFile),
    /// Rotate the session keys of a member, or of all.
    RotateKeys {
        /// The member.
        name: Option<String>,
    },
    /// Wipe a member's keys here and on its devices, and make a replacement file.
    Compromised(Compromised),
}

/// Who and where the server is; kept in the state folder.
#[derive(Debug, Args)]
pub(super) struct Setup {
    /// Address or host name that clients find this server under.
    #[arg(long, value_name = "HOST")]
    pub(super) public: Option<String>,
    /// UDP port: `auto` moves by a secret schedule, `random` to any free one, a number stays.
    #[arg(long, value_name = "auto|random|N", value_parser = PortSetting::parse)]
    pub(super) port: Option<PortSetting>,
    /// The server's name, as clients show it.
    #[arg(long, value_name = "TEXT")]
    pub(super) name: Option<String>,
    /// How long a renewed security file is good for: the longest absence without carrying a new one.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) renewal_valid_for: Option<Duration>,
    /// Time between two rotations of keys and port, 5s to 1h: an hour, unless it is to be watched.
    #[arg(long, hide_short_help = true, value_name = "TIME", value_parser = parse_interval)]
    pub(super) rotate_every: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) setup: Setup,
    /// Listen at this address only; may be given more than once.
    #[arg(long, value_name = "IP")]
    pub(super) bind: Vec<IpAddr>,
    /// Most clients at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) max_sessions: Option<u16>,
    /// Bytes of files that are kept for members: 10GiB, unless said otherwise.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) file_quota: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Issue {
    /// The member: 1 to 64 of a-z 0-9 . _ -
    pub(super) name: String,
    /// Write the security file here; `-` prints it.
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Write the member's bootstrap key here, in base64; `-` prints it.
    #[arg(long, value_name = "FILE")]
    pub(super) key_out: Option<PathBuf>,
    /// How long the file can be used for its first connection.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub(super) valid_for: Duration,
    /// A room that a new member is in, beside the lobby; may be given more than once.
    #[arg(long, value_name = "ROOM")]
    pub(super) room: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct SendFile {
    /// A member, or a room with its `#`.
    #[arg(value_name = "NAME|#room")]
    pub(super) to: String,
    /// Files and folders.
    #[arg(required = true)]
    pub(super) paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Compromised {
    /// The member.
    pub(super) name: String,
    /// Why, for the log.
    #[arg(long, default_value = "operator_initiated")]
    pub(super) reason: String,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes_wipe_all_keys: bool,
}

/// Reads a whole number of seconds between two rotations.
fn parse_interval(text: &str) -> Result<u16, String> {
    let time = parse_duration(text)?;
    let whole = u16::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
    let allowed = whole.filter(|secs| (5..=3600).contains(secs));
    allowed.ok_or_else(|| "not a whole number of seconds from 5s to 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn intervals() {
        assert_eq!(parse_interval("10s"), Ok(10));
        assert_eq!(parse_interval("5"), Ok(5));
        assert_eq!(parse_interval("1h"), Ok(3600));
        for bad in ["4s", "3601", "2h", "5500ms", "70000000", "", "soon"] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["x", "run", "--port", "0"]).is_err());
        assert!(Cli::try_parse_from(["x", "--json", "issue", "ann", "--valid-for", "2h"]).is_ok());
    }
}
