//! `scp` over loopback, to an `sshd` of one's own with keys that are thrown away.

use crate::child::{Measured, Sample, text};
use core::net::Ipv4Addr;
use core::time::Duration;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Instant;
use tempfile::TempDir;

const CIPHER: &str = "aes256-gcm@openssh.com";
/// How long sshd may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where to look beside `PATH`: sshd is not for everybody's.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"];

/// A program of this machine. `CLAWCHAT_SSHD` names an sshd that is elsewhere.
fn program(name: &str) -> Result<PathBuf, String> {
    if let Some(own) = std::env::var_os("CLAWCHAT_SSHD").filter(|_| name == "sshd") {
        return Ok(own.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    let mut found = folders.map(|folder| folder.join(name)).filter(|path| path.is_file());
    found.next().ok_or_else(|| format!("there is no {name} here"))
}

fn run(program: &Path, words: &[&OsStr]) -> Result<(), String> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().map_err(text)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim()))
}

fn key(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let path = folder.join(name);
    let words = ["-q", "-t", "ed25519", "-N", "", "-f"].map(OsStr::new);
    run(&program("ssh-keygen")?, &[&words[..], &[path.as_os_str()]].concat())?;
    Ok(path)
}

/// An sshd that ends with this value.
struct Sshd {
    process: Child,
    port: u16,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Sshd {
    fn start(folder: &Path) -> Result<Self, String> {
        let host = key(folder, "host")?;
        let own = key(folder, "own")?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
        let port = free.local_addr().map_err(text)?.port();
        drop(free);
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}.pub\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin prohibit-password\nCiphers {CIPHER}\nLogLevel ERROR\n\
             Subsystem sftp internal-sftp\n",
            host.display(),
            own.display()
        );
        let path = folder.join("sshd_config");
        fs::write(&path, config).map_err(text)?;
        let mut command = Command::new(program("sshd")?);
        command.args(["-D", "-e", "-f"]).arg(path);
        let process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(text)?;
        let mut sshd = Self { process, port };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if sshd.process.try_wait().map_err(text)?.is_some() || Instant::now() > until {
                return Err(format!("sshd does not listen: {}", sshd.complaint()));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(sshd)
    }

    fn complaint(&mut self) -> String {
        let _ended = self.process.kill();
        let mut said = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            let _as_far_as_it_goes = stderr.read_to_string(&mut said);
        }
        said.trim().to_owned()
    }
}

/// A file of bytes that nothing can compress.
pub(crate) fn make_file(path: &Path, mib: u64) -> Result<(), String> {
    let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(path).map_err(text)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..(mib << 20) / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes()).map_err(text)?;
    }
    out.into_inner().map_err(text)?.sync_all().map_err(text)
}

/// Whether two files have the same bytes.
pub(crate) fn same(one: &Path, other: &Path) -> Result<bool, String> {
    let open = |path| fs::File::open(path).map(|file| BufReader::with_capacity(1 << 20, file));
    let (mut one, mut other) = (open(one).map_err(text)?, open(other).map_err(text)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = one.read(&mut a).map_err(text)?;
        if len == 0 {
            return Ok(other.read(&mut b).map_err(text)? == 0);
        }
        if other.read_exact(&mut b[..len]).is_err() || a[..len] != b[..len] {
            return Ok(false);
        }
    }
}

/// A file of so many MiB, copied once.
pub(crate) fn copy(mib: u64) -> Measured {
    let scp = program("scp")?;
    program("sshd")?;
    let folder = TempDir::new().map_err(text)?;
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let sshd = Sshd::start(folder.path())?;
    make_file(&from, mib)?;
    let mut command = Command::new(scp);
    command.args(["-q", "-F", "/dev/null", "-c", CIPHER, "-o", "StrictHostKeyChecking=no"]);
    command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"]);
    command.args(["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-P", &sshd.port.to_string()]);
    command.arg("-i").arg(folder.path().join("own")).arg(&from);
    command.arg(format!("127.0.0.1:{}", to.display())).stdin(Stdio::null());
    let started = Instant::now();
    let output = command.output().map_err(text)?;
    let seconds = started.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err(format!("scp: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    if !same(&from, &to)? {
        return Err("the copy has other bytes".to_owned());
    }
    Ok(Sample::from([("rate".to_owned(), (mib << 20) as f64 / seconds)]))
}
