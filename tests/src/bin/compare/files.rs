//! Files of ours: with the real binaries from disk to disk, and while keys and port rotate.

use crate::child::{Child, Core, Measured, Sample, tell_sample, text, word};
use crate::scp;
use clawchat_tests::process::{Process, Sandbox, Server};
use core::hint::black_box;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{Read as _, Write as _};
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

/// Bytes that are read at once: they stay in the cache of the core that hashes them.
const PIECE: usize = 256 * 1024;

/// What no copy of a file that both ends verify does without, on a core for each end: its bytes read and
/// hashed at one, hashed and written at the other. Neither a network nor a cipher.
pub(crate) fn least(mib: u64) -> Measured {
    let folder = tempfile::TempDir::new().map_err(text)?;
    let path = |name: &str| folder.path().join(name).to_str().map(str::to_owned);
    let (Some(from), Some(to)) = (path("from"), path("to")) else {
        return Err("the temporary folder has a strange name".to_owned());
    };
    scp::make_file(Path::new(&from), mib)?;
    let started = Instant::now();
    let mut sender = Child::start(Core::Client, "file-end", core::slice::from_ref(&from))?;
    let mut receiver = Child::start(Core::Server, "file-end", &[from, to])?;
    let (read, written) = (sender.sample()?["bytes"], receiver.sample()?["bytes"]);
    let seconds = started.elapsed().as_secs_f64();
    if read != written || read != (mib << 20) as f64 {
        return Err("an end ended early".to_owned());
    }
    Ok(Sample::from([("rate".to_owned(), read / seconds)]))
}

/// Role: `file-end FROM [TO]`: one end of [`least`].
pub(crate) fn end(words: &[String]) -> Result<(), String> {
    let (from, to): (PathBuf, Option<&String>) = (word(words, 0)?, words.get(1));
    let mut from = File::open(from).map_err(text)?;
    let mut to = to.map(File::create).transpose().map_err(text)?;
    let (mut hash, mut piece, mut bytes) = (Sha256::new(), vec![0; PIECE], 0);
    loop {
        let len = from.read(&mut piece).map_err(text)?;
        if len == 0 {
            break;
        }
        hash.update(&piece[..len]);
        if let Some(to) = &mut to {
            to.write_all(&piece[..len]).map_err(text)?;
        }
        bytes += len;
    }
    black_box(hash.finalize());
    tell_sample(&[("bytes", bytes as f64)]);
    Ok(())
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
