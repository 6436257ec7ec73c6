//! `admin.sock`: how other commands reach the running server. One JSON object a line each way; only
//! the same user or root is answered.

use crate::disk;
use crate::failure::{Exit, Failure, Outcome};
use clawchat_core::wire::json::Object;
use clawchat_mio::Remote;
use core::time::Duration;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// Longest request or answer, bytes.
const LINE_MAX: u64 = 1 << 20;
/// How long an answer may take: a member's signal may wait for its ack.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest path that a Unix socket takes everywhere.
const PATH_MAX: usize = 100;

/// A request, and where its answer goes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) object: Object,
    pub(super) reply: mpsc::Sender<Object>,
}

/// The socket's path, through an open folder when it would be too long.
fn short(folder: &Path) -> (PathBuf, Option<std::fs::File>) {
    let path = folder.join("admin.sock");
    if path.as_os_str().len() <= PATH_MAX {
        return (path, None);
    }
    match std::fs::File::open(folder) {
        Ok(open) => (format!("/proc/self/fd/{}/admin.sock", open.as_raw_fd()).into(), Some(open)),
        Err(_) => (path, None),
    }
}

/// Listens in the state folder, whose lock the caller holds: a socket that is there is a dead one's.
pub(super) fn listen<C: From<Request> + Send + 'static>(
    folder: &Path,
    remote: Remote<C>,
) -> Outcome<()> {
    let (path, _open) = short(folder);
    let failed = |error: io::Error| disk::cannot_write(&folder.join("admin.sock"), &error);
    let _not_there = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let remote = remote.clone();
            std::thread::spawn(move || drop(serve(stream, &remote)));
        }
    });
    Ok(())
}

/// Takes the socket away.
pub(super) fn remove(folder: &Path) {
    let _not_there = std::fs::remove_file(folder.join("admin.sock"));
}

fn serve<C: From<Request>>(mut stream: UnixStream, remote: &Remote<C>) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    let own = rustix::process::geteuid();
    if peer.uid != own && !peer.uid.is_root() {
        return Ok(());
    }
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let object = read(&stream)?;
    let (reply, answer) = mpsc::channel();
    remote.command(C::from(Request { object, reply }));
    let gone = |_| refuse(Exit::TryLater, "the server is stopping", None);
    let answer = answer.recv_timeout(ANSWER_TIMEOUT).unwrap_or_else(gone);
    write(&mut stream, &answer)
}

fn read(stream: &UnixStream) -> io::Result<Object> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_MAX)).read_until(b'\n', &mut line)?;
    Object::parse(&line).map_err(io::Error::other)
}

fn write(stream: &mut UnixStream, object: &Object) -> io::Result<()> {
    let mut line = object.encode();
    line.push(b'\n');
    stream.write_all(&line)
}

/// A refusal, as an answer.
pub(super) fn refuse(exit: Exit, what: &str, advice: Option<&str>) -> Object {
    Object::new()
        .with("ok", false)
        .with("code", exit as u64)
        .with("message", what)
        .with_some("try", advice)
}

/// Asks the server that runs on a state folder; `None` when none does.
pub(super) fn ask(folder: &Path, request: &Object) -> Outcome<Option<Object>> {
    let (path, _open) = short(folder);
    let Ok(mut stream) = UnixStream::connect(&path) else { return Ok(None) };
    let lost = |error: io::Error| {
        Failure::new(Exit::Unreachable, format!("the server did not answer: {error}"))
    };
    stream.set_read_timeout(Some(ANSWER_TIMEOUT + Duration::from_secs(5))).map_err(lost)?;
    write(&mut stream, request).map_err(lost)?;
    let answer = read(&stream).map_err(lost)?;
    if answer.bool("ok") == Ok(true) {
        return Ok(Some(answer));
    }
    let code = answer.uint("code").unwrap_or(1);
    let known = [
        Exit::Usage,
        Exit::Unreachable,
        Exit::CannotWrite,
        Exit::TryLater,
        Exit::Config,
        Exit::NoSuchFile,
    ];
    let exit = known.into_iter().find(|exit| *exit as u64 == code).unwrap_or(Exit::Failed);
    let failure = Failure::new(exit, answer.text("message").unwrap_or("refused"));
    Err(match answer.text("try") {
        Ok(advice) => failure.advice(advice),
        Err(_) => failure,
    })
}
