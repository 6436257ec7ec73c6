//! From a carried file and a key to what a client starts from. No packet is sent before all of it is
//! known to be right.

use super::args::Common;
use super::profile;
use crate::cipher;
use crate::disk;
use crate::failure::{Exit, Failure, Outcome};
use crate::key::BootstrapKey;
use crate::text::{complain, is_interactive, moment, one_line, span};
use clawchat_core::crypto::envelope;
use clawchat_core::error::Malformed;
use clawchat_core::limits::SECURITY_FILE_MAX;
use clawchat_core::wire::json::unbase64;
use clawchat_core::wire::secfile::{Envelope, FileRefusal, SecurityFile};
use clawchat_smol::clock;
use core::net::IpAddr;
use std::net::ToSocketAddrs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Tries at the prompt.
const TRIES: u32 = 3;

/// A security file that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: SecurityFile,
    /// Its bytes, as they are kept.
    pub(super) bytes: Vec<u8>,
    pub(super) key: BootstrapKey,
    /// What COMPROMISED wipes.
    pub(super) path: Option<PathBuf>,
}

/// Reads the file that the command line names, or the profile's.
pub(super) fn load(common: &Common) -> Outcome<Opened> {
    match &common.sec {
        Some(path) => read(common, path, None),
        None => {
            let profile = profile::find(&common.profile)?;
            read(common, &profile.sec, Some(&profile.key))
        }
    }
}

/// Reads and opens a security file.
pub(super) fn read(common: &Common, path: &Path, key: Option<&Path>) -> Outcome<Opened> {
    let bytes = disk::read_input(path, SECURITY_FILE_MAX * 2)?;
    let bytes = binary(bytes);
    let shown = one_line(&path.display().to_string());
    Envelope::parse(&bytes).map_err(|refusal| refused(&shown, &bytes, refusal, None))?;
    if key.is_none() {
        warn_if_open(common, path);
    }
    let mut prompts = 0;
    loop {
        let key = find_key(common, key, &mut prompts)?;
        match envelope::open(cipher::provider(), &bytes, key.secret()) {
            Ok(file) => {
                file.check_time(clock::now().wall.secs())
                    .map_err(|refusal| refused(&shown, &bytes, refusal, None))?;
                let path = (path.as_os_str() != "-").then(|| path.to_owned());
                return Ok(Opened { file, bytes, key, path });
            }
            Err(FileRefusal::WrongKey | FileRefusal::WrongKeyOrDamaged)
                if (1..TRIES).contains(&prompts) =>
            {
                complain("this bootstrap key does not open the file; try again");
            }
            Err(refusal) => return Err(refused(&shown, &bytes, refusal, Some(&key))),
        }
    }
}

/// The file as raw bytes: it may have been carried as base64 text.
fn binary(bytes: Vec<u8>) -> Vec<u8> {
    let is_text = bytes.iter().all(u8::is_ascii);
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if !is_text || first == Some(&b'{') {
        return bytes;
    }
    let text = String::from_utf8_lossy(&bytes).split_whitespace().collect::<String>();
    unbase64(&text).unwrap_or(bytes)
}

fn warn_if_open(common: &Common, path: &Path) {
    let mode = std::fs::metadata(path).map_or(0o600, |meta| meta.permissions().mode());
    if mode & 0o077 != 0 && !common.quiet {
        complain(&format!("note: {} is readable by others here (chmod 600)", path.display()));
    }
}

/// The bootstrap key, from the first place that has one (never from the command line itself).
fn find_key(common: &Common, profile: Option<&Path>, prompts: &mut u32) -> Outcome<BootstrapKey> {
    if let Some(path) = &common.key_file {
        return BootstrapKey::read(path);
    }
    if common.key_stdin {
        return BootstrapKey::read(Path::new("-"));
    }
    if let Some(path) = profile {
        return BootstrapKey::read(path);
    }
    if let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY") {
        let path = Path::new(&folder).join("bootstrap.key");
        if path.exists() {
            return BootstrapKey::read(&path);
        }
    }
    if let Ok(text) = std::env::var("CLAWCHAT_BOOTSTRAP_KEY") {
        let text = Zeroizing::new(text);
        complain("note: CLAWCHAT_BOOTSTRAP_KEY is seen by other programs; use --key-file");
        return BootstrapKey::parse(&text).map_err(|what| Failure::new(Exit::NotPermitted, what));
    }
    if common.no_input || !is_interactive() {
        let what = "the bootstrap key is needed, and there is nobody to ask";
        return Err(Failure::new(Exit::Usage, what).advice("pass --key-file FILE"));
    }
    loop {
        *prompts += 1;
        let text = rpassword::prompt_password("Bootstrap key (24 words or base64): ")
            .map(Zeroizing::new)
            .map_err(|error| Failure::new(Exit::Usage, format!("no key was typed: {error}")))?;
        match BootstrapKey::parse(&text) {
            Ok(key) => return Ok(key),
            Err(what) if *prompts >= TRIES => return Err(Failure::new(Exit::NotPermitted, what)),
            Err(what) => complain(&what),
        }
    }
}

fn refused(
    shown: &str,
    bytes: &[u8],
    refusal: FileRefusal,
    key: Option<&BootstrapKey>,
) -> Box<Failure> {
    let again = "copy it again as a file, or ask for a new one: clawchat-server issue NAME";
    let now = clock::now().wall.secs();
    match refusal {
        FileRefusal::NotAFile(Malformed::Json) if bytes.first() == Some(&b'{') => {
            Failure::new(Exit::SecDamaged, format!("{shown} is damaged: it is cut or was changed"))
                .fact(format!("size {} bytes", bytes.len()))
                .advice(again)
        }
        FileRefusal::NotAFile(Malformed::Json) => {
            Failure::new(Exit::SecDamaged, format!("{shown} is not a ClawChat security file"))
        }
        FileRefusal::TooLarge => {
            let what = format!("{shown} is not a ClawChat security file: it is too large");
            Failure::new(Exit::SecDamaged, what)
        }
        FileRefusal::Damaged => {
            let what = format!("{shown} was changed on the way (checksum does not match)");
            Failure::new(Exit::SecDamaged, what)
                .fact(format!("size {} bytes", bytes.len()))
                .advice(again)
        }
        FileRefusal::WrongKey => {
            let here = key.map_or_else(String::new, BootstrapKey::fingerprint);
            Failure::new(Exit::NotPermitted, format!("this bootstrap key does not open {shown}"))
                .fact("The file is intact (checksum ok), so the key differs from the server's.")
                .advice(format!(
                    "compare fingerprints: here {here}, on the server: clawchat-server issue NAME"
                ))
        }
        FileRefusal::WrongKeyOrDamaged => {
            let what = format!("this bootstrap key does not open {shown}, or the file is damaged");
            Failure::new(Exit::NotPermitted, what).advice(again)
        }
        FileRefusal::NotAFile(_) | FileRefusal::Content(_) => {
            Failure::new(Exit::SecDamaged, format!("{shown}: {refusal}")).advice(again)
        }
        FileRefusal::Expired { made, until } => {
            let what = format!("{shown} expired {} ago", span(now.saturating_sub(until)));
            Failure::new(Exit::SecExpired, what)
                .fact(format!(
                    "made {}, good for {}",
                    moment(made),
                    span(until.saturating_sub(made))
                ))
                .fact(format!("this computer's clock says {}", moment(now)))
                .advice("ask for a new one: clawchat-server issue NAME")
        }
        FileRefusal::NotYetValid { from } => {
            let what =
                format!("{shown} is not valid for another {}", span(from.saturating_sub(now)));
            Failure::new(Exit::ClockSkew, what)
                .fact(format!("this computer's clock says {}", moment(now)))
                .advice("timedatectl set-ntp true")
        }
    }
}

/// What the file's `server_public_ip` stands for.
pub(super) fn resolve(host: &str) -> Outcome<Vec<IpAddr>> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    let shown = one_line(host);
    let failed = |what: String| {
        Failure::new(Exit::Unreachable, what).advice("look whether this network has DNS")
    };
    let found = (host, 0).to_socket_addrs();
    let found = found.map_err(|error| failed(format!("cannot find `{shown}`: {error}")))?;
    let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(failed(format!("`{shown}` has no address")));
    }
    Ok(addresses)
}
