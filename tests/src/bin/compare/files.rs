//! Files of ours: with the real binaries from disk to disk, and while keys and port rotate.

use crate::child::{Child, Core, Measured, Sample, text};
use crate::scp;
use clawchat_tests::process::{Process, Sandbox, Server};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Seconds between two rotations of keys and port: the least that `clawchat-server run` takes.
const ROTATION: u64 = 5;

/// A binary beside this one, of the same profile.
fn program(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(text)?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(format!("no {name}: cargo build --release -p clawchat-cli"))
}

/// Runs a command to its end, which must be a good one.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(text)?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// A file of so many MiB, sent once to the server's inbox: from the start of `send-file` to its end,
/// which comes when the server has checked what it wrote.
pub(crate) fn copy(mib: u64) -> Measured {
    let (server, client) = (program("clawchat-server")?, program("clawchat")?);
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&server);
    command.args(["run", "--bind", "127.0.0.1", "--public", "127.0.0.1", "--json"]);
    let serving = Server::ready(Process::start({
        command.args(["--port", "auto", "--state"]).arg(sandbox.state());
        command
    }));
    let (sec, key) = (sandbox.path("ann.sec"), sandbox.path("ann.key"));
    let mut issue = sandbox.command(&server);
    issue.args(["issue", "ann", "--state"]).arg(sandbox.state());
    run(issue.arg("-o").arg(&sec).arg("--key-out").arg(&key))?;
    let from = sandbox.path("file");
    scp::make_file(&from, mib)?;
    let mut send = sandbox.command(&client);
    send.args(["send-file", "--to", "@server"]).arg(&from);
    send.arg("--sec").arg(&sec).arg("--key-file").arg(&key);
    let started = Instant::now();
    run(&mut send)?;
    let seconds = started.elapsed().as_secs_f64();
    let arrived = arrived(&sandbox.state().join("inbox"))?;
    if !scp::same(&from, &arrived)? {
        return Err("what arrived has other bytes".to_owned());
    }
    serving.stop();
    Ok(Sample::from([("rate".to_owned(), (mib << 20) as f64 / seconds)]))
}

/// The one file of a folder.
fn arrived(folder: &Path) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(folder).map_err(text)?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.is_file()).ok_or_else(|| "nothing is in the inbox".to_owned())
}

/// The longest pause between two turns of the server that brought bytes of a file, while its client
/// offers new keys each second and keys and port rotate by the server's own schedule.
pub(crate) fn rotations(mib: u64) -> Measured {
    let words = ["1".to_owned(), "one".to_owned(), ROTATION.to_string()];
    let (mut server, port) = Child::serve("ours-server", &words)?;
    let words = [port, mib.to_string(), "rotate".to_owned()];
    Child::start(Core::Client, "ours-bulk", &words)?.sample()?;
    server.sample()
}
