//! The commands that do not serve. They reach a running server over its admin socket; those that can
//! do without one work on the state folder themselves, through the same machine.

use super::args::{Common, Compromised, Issue, SendFile, Setup};
use super::offline::{Offline, busy};
use super::store::{Identity, PortSetting, Store};
use super::worker::IssueOptions;
use super::{admin, run};
use crate::disk;
use crate::failure::{Exit, Failure, Outcome};
use crate::key::BootstrapKey;
use crate::text::{answer, bytes, complain, event, moment, one_line, print, span};
use clawchat_core::wire::json::{Json, Object, unbase64};
use clawchat_core::wire::message::is_name;
use clawchat_core::wire::secfile::SERVER_NAME_MAX;
use clawchat_mio::clock;
use core::net::Ipv4Addr;
use core::time::Duration;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

/// How long a hand-carried file is valid by default.
pub(super) const VALID_FOR: Duration = Duration::from_secs(clawchat_core::server::VALID_FOR);

/// The state folder: as named, else SPEC 6.1's for user `openclaw`, else under the user's data.
pub(super) fn state_folder(common: &Common) -> Outcome<PathBuf> {
    if let Some(folder) = &common.state {
        return Ok(folder.clone());
    }
    let home = directories::BaseDirs::new().ok_or_else(|| {
        Failure::new(Exit::Config, "there is no home folder for the state")
            .advice("name a folder: --state DIR")
    })?;
    Ok(default_folder(home.home_dir(), home.data_dir()))
}

/// Where the state of the user with this home folder is.
fn default_folder(home: &Path, data: &Path) -> PathBuf {
    if home == Path::new("/home/openclaw") {
        return home.join("clawchat");
    }
    data.join("clawchat").join("server")
}

/// Opens a state folder.
pub(super) fn open(folder: &Path) -> Outcome<Option<Store>> {
    Store::open(folder)
}

/// Who the server is: as kept, with what the command line changes, or new. True when new.
pub(super) fn ensure_identity(
    store: &Store,
    setup: &Setup,
    quiet: bool,
) -> Outcome<(Identity, bool)> {
    let old = store.identity()?;
    let fresh = old.is_none();
    let before = old.as_ref().map(Identity::settings);
    let mut identity = match old {
        Some(identity) => identity,
        None => {
            let public = setup.public.clone().filter(|host| host != "auto");
            let public = public.unwrap_or_else(|| guess_public(quiet));
            let name = setup.name.clone().unwrap_or_else(host_name);
            let port = setup.port.unwrap_or(PortSetting::Auto);
            Identity::generate(name, public, port, clock::now().wall.secs())?
        }
    };
    if let Some(public) = &setup.public {
        identity.public = if public == "auto" { guess_public(quiet) } else { public.clone() };
    }
    identity.port = setup.port.unwrap_or(identity.port);
    identity.rotate_every = setup.rotate_every.map_or(identity.rotate_every, u64::from);
    let renewal = setup.renewal_valid_for.map(|duration| duration.as_secs().max(1));
    identity.renewal_valid_for = renewal.unwrap_or(identity.renewal_valid_for);
    if let Some(name) = &setup.name {
        identity.name.clone_from(name);
    }
    if identity.name.len() > SERVER_NAME_MAX || identity.public.is_empty() {
        let what =
            format!("a server name has at most {SERVER_NAME_MAX} bytes, an address at least 1");
        return Err(Failure::new(Exit::Usage, what));
    }
    // Not written without need: a full disk must not keep a server from starting.
    if before != Some(identity.settings()) {
        store.set_identity(&identity)?;
    }
    if fresh && !quiet {
        complain(&format!("made {} for `{}`", store.folder().display(), identity.name));
    }
    Ok((identity, fresh))
}

/// The address that this machine has towards the world. Nothing is sent.
fn guess_public(quiet: bool) -> String {
    let address = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect(("192.0.2.1", 9)).and_then(|()| socket.local_addr()))
        .map_or_else(|_| Ipv4Addr::LOCALHOST.into(), |address| address.ip());
    if !quiet {
        complain(&format!(
            "note: clients will look for this server at {address}; if they can't, say --public HOST"
        ));
    }
    address.to_string()
}

fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    if name.is_empty() { "ClawChat".to_owned() } else { name.chars().take(64).collect() }
}

/// Shows a bootstrap key to a person, once.
pub(super) fn show_key(key: &BootstrapKey) {
    complain(&format!("bootstrap key, shown once (fingerprint {}):", key.fingerprint()));
    let words = key.to_words();
    let words: Vec<_> = words.split(' ').collect();
    for (row, line) in words.chunks(6).enumerate() {
        let cells = line.iter().enumerate();
        let cells = cells.map(|(column, word)| format!("{:>4} {word:<10}", row * 6 + column + 1));
        complain(cells.collect::<String>().trim_end());
    }
    complain(&format!("  or as base64: {}", key.to_base64().as_str()));
}

/// `init`
pub(super) fn init(common: &Common, setup: Setup, json: bool) -> Outcome<()> {
    let folder = state_folder(common)?;
    let store = open(&folder)?.ok_or_else(|| busy(&folder))?;
    let (identity, fresh) = ensure_identity(&store, &setup, common.quiet)?;
    if json {
        print(
            &event("initialised")
                .with("state", folder.display().to_string())
                .with("new", fresh)
                .with("public", identity.public.as_str())
                .with("server_id", identity.server_id.as_str()),
        );
    } else if !common.quiet {
        complain(&format!("state folder {}", folder.display()));
        complain(&format!("clients find it at {}", identity.public));
        complain("next: clawchat-server issue NAME -o NAME.sec, then clawchat-server run");
    }
    Ok(())
}

/// How an issue is to be done, from a request.
pub(super) fn issue_options(request: &Object) -> IssueOptions {
    let rooms = request.list("rooms").unwrap_or_default().iter().filter_map(|room| match room {
        Json::Text(room) if is_name(room) => Some(room.clone()),
        _ => None,
    });
    IssueOptions { rooms: rooms.collect(), save: request.bool("save") == Ok(true) }
}

/// `issue`
pub(super) fn issue(common: &Common, what: Issue, json: bool) -> Outcome<()> {
    let folder = state_folder(common)?;
    if let Some(room) = what.room.iter().find(|room| !is_name(room)) {
        return Err(Failure::new(Exit::Usage, format!("`{room}` is no room: a-z 0-9 . _ -")));
    }
    // Before anything is made: what can't be written must not cost a secret.
    for path in [&what.output, &what.key_out].into_iter().flatten() {
        if path.as_os_str() != "-" && !disk::folder_of(path).is_dir() {
            let what = format!("{} is no folder", disk::folder_of(path).display());
            return Err(Failure::new(Exit::CannotWrite, what));
        }
    }
    let rooms: Vec<Json> = what.room.iter().map(|room| room.as_str().into()).collect();
    let request = Object::new()
        .with("cmd", "issue")
        .with("member", what.name.as_str())
        .with("rooms", rooms)
        .with("valid_for", what.valid_for.as_secs())
        .with("save", what.output.is_none())
        .with("key", what.key_out.is_some());
    let reply = match admin::ask(&folder, &request)? {
        Some(reply) => reply,
        None => {
            let mut offline = Offline::open(&folder)?;
            let options = issue_options(&request);
            offline
                .server
                .issue(clock::now(), &what.name, &options.rooms, what.valid_for.as_secs())
                .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
            let issued = offline.perform(&options)?;
            let issued = issued.ok_or_else(|| offline.why_not_issued())?;
            run::issue_answer(&issued, what.key_out.is_some())
        }
    };
    hand_over(common, &what, &reply, json)
}

/// Writes and shows what was issued.
fn hand_over(common: &Common, what: &Issue, reply: &Object, json: bool) -> Outcome<()> {
    let garbled = || Failure::new(Exit::Failed, "the server's answer makes no sense");
    let sec = reply.text("sec").ok().and_then(unbase64).ok_or_else(garbled)?;
    let key = reply.text("key").ok().map(BootstrapKey::parse).transpose().map_err(|_| garbled())?;
    let mut path = reply.text("path").ok().map(ToOwned::to_owned);
    match &what.output {
        Some(output) if output.as_os_str() == "-" => answer(&String::from_utf8_lossy(&sec)),
        Some(output) => {
            disk::write_private(output, &sec, true)?;
            path = Some(output.display().to_string());
        }
        None => {}
    }
    match (&what.key_out, &key) {
        (Some(output), Some(key)) if output.as_os_str() == "-" => answer(&key.to_base64()),
        (Some(output), Some(key)) => {
            let line = zeroize::Zeroizing::new(format!("{}\n", key.to_base64().as_str()));
            disk::write_private(output, line.as_bytes(), true)?;
        }
        _ => {}
    }
    let valid_until = reply.uint("valid_until").unwrap_or(0);
    if json && what.output.as_deref() != Some(Path::new("-")) {
        print(
            &event("issued")
                .with("member", what.name.as_str())
                .with_some("path", path.as_deref())
                .with("bytes", sec.len() as u64)
                .with("valid_until", valid_until)
                .with_some("fingerprint", reply.text("fingerprint").ok()),
        );
    }
    if !common.quiet {
        if let Some(path) = &path {
            let (until, valid) = (moment(valid_until), span(what.valid_for.as_secs()));
            complain(&format!("{path}  {} bytes, 0600, valid until {until} ({valid})", sec.len()));
        }
        match &key {
            Some(key) if what.key_out.is_none() => show_key(key),
            Some(_) => {}
            None => complain(&format!(
                "bootstrap key as before (fingerprint {}); --key-out FILE writes it",
                reply.text("fingerprint").unwrap_or("?")
            )),
        }
    }
    Ok(())
}

fn need_server(folder: &Path, request: &Object) -> Outcome<Object> {
    admin::ask(folder, request)?.ok_or_else(|| {
        Failure::new(Exit::Unreachable, format!("no server runs on {}", folder.display()))
            .advice("clawchat-server run")
    })
}

/// `members`
pub(super) fn members(common: &Common, json: bool) -> Outcome<()> {
    let folder = state_folder(common)?;
    let members = match admin::ask(&folder, &Object::new().with("cmd", "members"))? {
        Some(reply) => reply.list("members").unwrap_or_default().to_vec(),
        None => match run::members(&Offline::open(&folder)?.server) {
            Json::List(members) => members,
            _ => Vec::new(),
        },
    };
    if json {
        print(&Object::new().with("schema", 1).with("members", members));
        return Ok(());
    }
    answer(&format!(
        "{:<24} {:<8} {:<22} {:>5} {:>8}",
        "NAME", "STATUS", "SINCE", "FILES", "WAITING"
    ));
    for member in &members {
        let Json::Object(member) = member else { continue };
        answer(&format!(
            "{:<24} {:<8} {:<22} {:>5} {:>8}",
            member.text("name").unwrap_or("?"),
            member.text("status").unwrap_or("?"),
            member.text("since").unwrap_or("?"),
            member.uint("files").unwrap_or(0),
            member.uint("waiting").unwrap_or(0),
        ));
    }
    Ok(())
}

/// `status`
pub(super) fn status(common: &Common, json: bool) -> Outcome<()> {
    let folder = state_folder(common)?;
    let reply = need_server(&folder, &Object::new().with("cmd", "status"))?;
    if json {
        print(&reply.with("schema", 1));
        return Ok(());
    }
    let clients = reply.list("clients").unwrap_or_default();
    answer(&format!(
        "UDP port {}   {} of {} clients   cipher {}",
        reply.uint("port").unwrap_or(0),
        clients.len(),
        reply.uint("clients_limit").unwrap_or(0),
        reply.text("cipher").unwrap_or("?"),
    ));
    let memory =
        reply.uint("memory").map_or_else(|_| "-".into(), |bytes| format!("{} KiB", bytes / 1024));
    let cpu = reply.uint("cpu_ms").unwrap_or(0) as f64 / 1e3;
    answer(&format!("CPU time {cpu:.1} s   memory {memory}"));
    if !clients.is_empty() {
        answer(&format!(
            "{:<24} {:<28} {:>6} {:>10} {:>10}",
            "NAME", "ADDRESS", "EPOCH", "RTT", "SINCE"
        ));
    }
    for client in clients {
        let Json::Object(client) = client else { continue };
        let rtt = client
            .uint("rtt_us")
            .map_or_else(|_| "-".into(), |us| format!("{:.1} ms", us as f64 / 1e3));
        answer(&format!(
            "{:<24} {:<28} {:>6} {rtt:>10} {:>10}",
            client.text("member").unwrap_or("?"),
            client.text("remote").unwrap_or("?"),
            client.uint("epoch").unwrap_or(0),
            span(client.uint("seconds").unwrap_or(0)),
        ));
    }
    Ok(())
}

/// `rotate-keys`
pub(super) fn rotate_keys(common: &Common, name: Option<&str>, json: bool) -> Outcome<()> {
    let folder = state_folder(common)?;
    let request = Object::new().with("cmd", "rotate_keys").with_some("member", name);
    let reply = need_server(&folder, &request)?;
    let asked = reply.uint("asked").unwrap_or(0);
    if json {
        print(&Object::new().with("schema", 1).with("asked", asked));
    } else {
        answer(&format!("asked {asked} sessions for new keys"));
    }
    Ok(())
}

/// `send-file`
pub(super) fn send_file(common: &Common, what: &SendFile, json: bool) -> Outcome<()> {
    let folder = state_folder(common)?;
    let named = what.to.starts_with(['#', '@']);
    let to = if named { what.to.clone() } else { format!("@{}", what.to) };
    for path in &what.paths {
        let shown = path.display();
        let full = std::fs::canonicalize(path)
            .map_err(|error| Failure::new(Exit::NoSuchFile, format!("{shown}: {error}")))?;
        let text = full
            .to_str()
            .ok_or_else(|| Failure::new(Exit::Usage, format!("{shown}: the path is not UTF-8")))?;
        let request =
            Object::new().with("cmd", "send_file").with("to", to.as_str()).with("path", text);
        let reply = need_server(&folder, &request)?;
        let (id, sha256) = (reply.text("id").unwrap_or(""), reply.text("sha256").unwrap_or(""));
        let (size, files) = (reply.uint("size").unwrap_or(0), reply.uint("files").unwrap_or(1));
        for left_out in reply.list("left_out").unwrap_or_default() {
            if let Json::Text(what) = left_out {
                complain(&format!("left out: {}", one_line(what)));
            }
        }
        if json {
            print(
                &event("queued")
                    .with("path", text)
                    .with("to", to.as_str())
                    .with("id", id)
                    .with("size", size)
                    .with("files", files)
                    .with("sha256", sha256),
            );
        } else if full.is_dir() {
            answer(&format!("{shown} ({}, {files} files) waits for {to}", bytes(size)));
        } else {
            answer(&format!("{shown} ({}) waits for {to}, sha256 {sha256}", bytes(size)));
        }
    }
    Ok(())
}

/// `compromised`
pub(super) fn compromised(common: &Common, what: &Compromised, json: bool) -> Outcome<()> {
    let folder = state_folder(common)?;
    if !what.yes_wipe_all_keys {
        crate::client::confirm_wipe(
            common.no_input,
            &format!("This wipes all keys and security files of `{}`, here and there.", what.name),
        )?;
    }
    let request = Object::new()
        .with("cmd", "compromised")
        .with("member", what.name.as_str())
        .with("reason", what.reason.as_str());
    let (reply, not_ready) = match admin::ask(&folder, &request)? {
        Some(reply) => (reply, None),
        None => compromised_offline(&folder, what)?,
    };
    let (told, acknowledged) =
        (reply.uint("told").unwrap_or(0), reply.uint("acknowledged").unwrap_or(0));
    let ready = reply.bool("new_file_ready").unwrap_or(false);
    let retired = reply.bool("retired").unwrap_or(false);
    if json {
        print(
            &event("compromised")
                .with("member", what.name.as_str())
                .with("told", told)
                .with("acknowledged", acknowledged)
                .with("retired", retired)
                .with("new_file_ready", ready),
        );
    } else {
        let worth = if retired { "; the old files are worthless" } else { "" };
        answer(&format!("told {told} sessions, {acknowledged} acknowledged{worth}"));
        let sec = folder.join("security");
        if ready {
            answer(&format!("the replacement file is in {}: carry it by hand", sec.display()));
        }
    }
    if !retired {
        let text = "the disk does not keep that the old files are worthless";
        return Err(Failure::new(Exit::CannotWrite, text)
            .fact("This server refuses them; once it is started again it would accept them.")
            .advice(format!(
                "mend the disk of {}, start the server again, and repeat this command",
                folder.display()
            )));
    }
    if ready {
        return Ok(());
    }
    Err(not_ready.unwrap_or_else(|| {
        Failure::new(Exit::CannotWrite, "the replacement file could not be written")
            .advice(format!("clawchat-server issue {}", what.name))
    }))
}

/// The same without a server; and why there is no replacement file, if there is none.
fn compromised_offline(
    folder: &Path,
    what: &Compromised,
) -> Outcome<(Object, Option<Box<Failure>>)> {
    let mut offline = Offline::open(folder)?;
    if !offline.server.declare_compromised(clock::now(), &what.name, &what.reason) {
        let text = format!("there is no member `{}`", what.name);
        return Err(Failure::new(Exit::NoSuchFile, text).advice("clawchat-server members"));
    }
    let issued = offline.perform(&IssueOptions { rooms: Vec::new(), save: true })?;
    let reply = Object::new().with("retired", true).with("new_file_ready", issued.is_some());
    Ok((reply, issued.is_none().then(|| offline.why_not_issued())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPEC 6.1; the files are in its folder `security`.
    #[test]
    fn where_the_state_is() {
        let folder = |home: &str| default_folder(Path::new(home), Path::new("/data"));
        assert_eq!(folder("/home/openclaw"), Path::new("/home/openclaw/clawchat"));
        assert_eq!(folder("/home/ann"), Path::new("/data/clawchat/server"));
    }
}
