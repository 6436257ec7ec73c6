//! `clawchat-server run`.

use super::admin::{self, Request};
use super::args::{Common, Run};
use super::commands::{self, VALID_FOR, show_key};
use super::compromising::Compromising;
use super::files::{Files, News};
use super::journal::Journal;
use super::resources::{self, Resources, Usage};
use super::spooler::{self, Inbox, Opened};
use super::store::Store;
use super::tell::{Told, dated, describe};
use super::worker::{self, IssueOptions, IssueResult, Issued, Job};
use crate::cipher;
use crate::failure::{Exit, Failure, Outcome};
use crate::text::{complain, list, moment, one_line, print};
use clawchat_core::id::OpId;
use clawchat_core::limits::{KeyLimits, SESSIONS};
use clawchat_core::ops::{Chunk, Outcome as Completion, Want};
use clawchat_core::server::{Action, Event, Server, ServerConfig};
use clawchat_core::time::Now;
use clawchat_core::wire::json::{Object, base64};
use clawchat_mio::{Driver, Flow, Host, Remote, clock, entropy};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// How long a shutdown may take: three copies of the farewell, a PTO apart.
const SHUTDOWN: Duration = Duration::from_secs(4);

/// What other threads ask of the loop.
#[derive(Debug)]
pub(super) enum Command {
    Admin(Request),
    /// A minute is over: what this process uses.
    Sampled(Usage),
    /// Something about a file.
    File(News),
    Terminate,
    Stop,
}

impl From<Request> for Command {
    fn from(request: Request) -> Self {
        Self::Admin(request)
    }
}

/// Who asked for a security file.
#[derive(Debug)]
enum Asker {
    /// Over the admin socket, and whether it wants the key in any case.
    Admin(mpsc::Sender<Object>, bool),
    /// The first run itself.
    FirstRun,
}

#[derive(Debug)]
struct ServerHost {
    json: bool,
    quiet: bool,
    interactive: bool,
    jobs: mpsc::Sender<Job>,
    issued: mpsc::Receiver<IssueResult>,
    results: BTreeMap<OpId, Result<Issued, String>>,
    /// Options for the action that the machine is about to hand out.
    options: BTreeMap<OpId, IssueOptions>,
    askers: BTreeMap<OpId, Asker>,
    compromising: Compromising,
    resources: Resources,
    files: Files,
    remote: Remote<Command>,
    /// Issue a file to the first member once there is a port.
    first_member: Option<String>,
    failure: Option<Box<Failure>>,
    port_taken: String,
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn run(common: &Common, arguments: Run, json: bool) -> Outcome<()> {
    let folder = commands::state_folder(common)?;
    let store = commands::open(&folder)?.ok_or_else(|| {
        Failure::new(Exit::Config, format!("another server runs on {}", folder.display()))
            .advice("stop it first, or name another folder with --state")
    })?;
    let (identity, fresh) = commands::ensure_identity(&store, &arguments.setup, common.quiet)?;
    let journal = Journal::open(&folder.join("chat.journal"))?;
    let opened = spooler::open(&folder, arguments.file_quota)?;
    let (inbox, files) = spooler::stored(&opened.spool, &folder);
    let members = store.members()?;
    let first_member = (fresh && members.is_empty()).then(|| "owner".to_owned());
    let config = ServerConfig {
        server_id: identity.server_id.clone(),
        server_name: identity.name.clone(),
        public: identity.public.clone(),
        port: identity.port_choice(),
        timing: identity.timing(),
        renewal_valid_for: identity.renewal_valid_for,
        members,
        credentials: store.credentials()?,
        chats: journal.chats(),
        files,
        max_sessions: arguments.max_sessions.map_or(SESSIONS, usize::from),
        key_limits: KeyLimits::default(),
        provider: cipher::provider(),
    };
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, error.to_string());
    let server = Server::new(config, &entropy::seed().map_err(failed)?, clock::now());
    let bind = if arguments.bind.is_empty() {
        vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
    } else {
        arguments.bind
    };
    let driver = Driver::new(server, bind.clone()).map_err(failed)?;
    let kept = (store, journal, (opened, inbox));
    serve(driver, kept, first_member, &bind, common, json)
}

fn serve(
    driver: Driver<ServerHost>,
    (store, journal, files): (Store, Journal, (Opened, Inbox)),
    first_member: Option<String>,
    bind: &[IpAddr],
    common: &Common,
    json: bool,
) -> Outcome<()> {
    let folder = store.folder().to_owned();
    let remote = driver.remote();
    let (jobs, inbox) = mpsc::channel();
    let (results, issued) = mpsc::channel();
    let addresses: Vec<_> = bind.iter().map(ToString::to_string).collect();
    let mut host = ServerHost {
        json,
        quiet: common.quiet,
        interactive: crate::text::is_interactive() && !common.no_input,
        jobs: jobs.clone(),
        issued,
        results: BTreeMap::new(),
        options: BTreeMap::new(),
        askers: BTreeMap::new(),
        compromising: Compromising::default(),
        resources: Resources::default(),
        files: Files::start(files, &folder, remote.clone()),
        remote: remote.clone(),
        first_member,
        failure: None,
        port_taken: addresses.join(", "),
    };
    admin::listen(&folder, remote.clone())?;
    let worker = worker::start(store, journal, remote.clone(), inbox, results);
    resources::watch(remote.clone());
    terminate_on_signal(remote)?;
    let ran = driver.run(&mut host);
    finish(&jobs, worker);
    host.files.finish();
    admin::remove(&folder);
    if let Some(failure) = host.failure {
        return Err(failure);
    }
    ran.map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// What was begun is made durable.
fn finish(jobs: &mpsc::Sender<Job>, worker: JoinHandle<()>) {
    if jobs.send(Job::Stop).is_ok() {
        // A worker that panicked has nothing more to say.
        let _panicked = worker.join();
    }
}

fn terminate_on_signal(remote: Remote<Command>) -> Outcome<()> {
    let signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT]);
    let mut signals = signals.map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            remote.command(Command::Terminate);
            let second = remote.clone();
            std::thread::spawn(move || {
                std::thread::sleep(SHUTDOWN);
                second.command(Command::Stop);
            });
            // Asked twice, it does not wait for anybody.
            if signals.forever().next().is_some() {
                remote.command(Command::Stop);
            }
        }
    });
    Ok(())
}

impl Host for ServerHost {
    type Command = Command;

    fn start(&mut self, op: OpId, action: Action) {
        if let Action::FileDelivered { from, id, by } = action {
            self.files.delivered(op, from, id, by);
            return;
        }
        let replacement = IssueOptions { rooms: Vec::new(), save: true };
        let options = self.options.remove(&op).unwrap_or(replacement);
        self.compromising.started(op, &action);
        // The worker outlives the loop.
        let _gone = self.jobs.send(Job::Action(op, action, options));
    }

    fn completed(&mut self, _server: &mut Server, _now: Now, op: OpId, outcome: Completion) {
        self.compromising.completed(op, outcome);
        self.results.extend(self.issued.try_iter());
        let result = self.results.remove(&op);
        match (self.askers.remove(&op), result) {
            (Some(Asker::Admin(reply, with_key)), Some(result)) => {
                let _gone = reply.send(match result {
                    Ok(issued) => issue_answer(&issued, with_key),
                    Err(what) => admin::refuse(Exit::CannotWrite, &what, None),
                });
            }
            (Some(Asker::FirstRun), Some(Ok(issued))) => self.tell_first_file(&issued),
            (Some(Asker::FirstRun), Some(Err(what))) => complain(&what),
            (Some(Asker::Admin(reply, _)), None) => {
                let what = format!("{outcome:?}");
                let _gone = reply.send(admin::refuse(Exit::CannotWrite, &what, None));
            }
            (Some(Asker::FirstRun) | None, _) => {}
        }
    }

    fn event(&mut self, server: &mut Server, now: Now, event: Event) {
        self.compromising.event(&event);
        self.files.event(server, now, &event);
        match event {
            // On another port already, it tries again by itself.
            Event::NoPort if server.open_ports().is_empty() => {
                let what = format!(
                    "cannot bind the UDP port at {}: it is in use, or not allowed here",
                    self.port_taken
                );
                let failure = Failure::new(Exit::Config, what);
                self.failure = Some(failure.advice("--port N with another port, or --bind IP"));
                self.remote.command(Command::Stop);
            }
            _ => self.tell(&describe(&event)),
        }
        if let Event::Listening { .. } = event {
            self.issue_to_first(server, now);
        }
    }

    fn store(&mut self, chunk: &Chunk<'_>) -> bool {
        self.files.store(chunk)
    }

    fn flush(&mut self, server: &mut Server, now: Now) {
        self.files.flush(server, now);
    }

    fn load(&mut self, want: &Want, bytes: &mut [u8]) -> Result<(), &'static str> {
        self.files.load(want, bytes)
    }

    fn command(&mut self, server: &mut Server, now: Now, command: Command) -> Flow {
        match command {
            Command::Admin(request) => self.answer(server, now, request),
            Command::Sampled(usage) => {
                for told in self.resources.minute(&usage) {
                    self.tell(&told);
                }
            }
            Command::File(news) => self.files.news(server, now, news),
            Command::Terminate => server.shut_down(now),
            Command::Stop => return Flow::Stop,
        }
        Flow::Continue
    }
}

impl ServerHost {
    /// The first run makes the first member, once a file can name the port.
    fn issue_to_first(&mut self, server: &mut Server, now: Now) {
        if let Some(member) = self.first_member.take()
            && let Ok(op) = server.issue(now, &member, &[], VALID_FOR.as_secs())
        {
            self.options.insert(op, IssueOptions { rooms: Vec::new(), save: true });
            self.askers.insert(op, Asker::FirstRun);
        }
    }

    /// The first security file: where it is, and, to a person, its key.
    fn tell_first_file(&self, issued: &Issued) {
        let path = issued.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        if self.json {
            print(
                &dated("issued")
                    .with("member", issued.member.as_str())
                    .with("path", path.as_str())
                    .with("valid_until", issued.valid_until),
            );
        }
        if self.quiet {
            return;
        }
        complain(&format!("security file for `{}`: {path}", issued.member));
        if self.interactive {
            show_key(&issued.key);
        } else {
            complain(&format!(
                "its bootstrap key: clawchat-server issue {} -o FILE --key-out KEYFILE",
                issued.member
            ));
        }
    }

    fn tell(&self, told: &Told) {
        if self.json {
            print(told.object());
        } else if let Some(line) = told.line(self.quiet) {
            complain(line);
        }
    }

    fn answer(&mut self, server: &mut Server, now: Now, request: Request) {
        let Request { object, reply } = request;
        let member = object.text("member").ok().map(ToOwned::to_owned);
        let answer = match (object.text("cmd"), member) {
            (Ok("issue"), Some(member)) => {
                self.issue(server, now, &object, &member, reply);
                return;
            }
            (Ok("compromised"), Some(member)) => {
                self.declare(server, now, &object, &member, reply);
                return;
            }
            (Ok("send_file"), _) => {
                let (to, path) = (object.text("to").unwrap_or_default(), object.text("path"));
                self.files.send(server, to, path.unwrap_or_default().into(), reply);
                return;
            }
            (Ok("members"), _) => Object::new().with("ok", true).with("members", members(server)),
            (Ok("status"), _) => status(server, now)
                .with("files_kept", server.kept_files().count() as u64)
                .with("spool", self.files.used()),
            (Ok("rotate_keys"), member) => {
                let known = member
                    .as_deref()
                    .is_none_or(|name| server.members().iter().any(|member| member.name == name));
                if known {
                    let asked = server.rotate_keys(now, member.as_deref());
                    Object::new().with("ok", true).with("asked", asked as u64)
                } else {
                    no_member(member.as_deref().unwrap_or_default())
                }
            }
            _ => admin::refuse(Exit::Usage, "unknown request", None),
        };
        let _gone = reply.send(answer);
    }

    fn issue(
        &mut self,
        server: &mut Server,
        now: Now,
        object: &Object,
        member: &str,
        reply: mpsc::Sender<Object>,
    ) {
        let options = commands::issue_options(object);
        let valid_for = object.uint("valid_for").unwrap_or(VALID_FOR.as_secs());
        match server.issue(now, member, &options.rooms, valid_for) {
            Ok(op) => {
                self.options.insert(op, options);
                let with_key = object.bool("key") == Ok(true);
                self.askers.insert(op, Asker::Admin(reply, with_key));
            }
            Err(error) => {
                let _gone = reply.send(admin::refuse(Exit::Usage, &error.to_string(), None));
            }
        }
    }

    fn declare(
        &mut self,
        server: &mut Server,
        now: Now,
        object: &Object,
        member: &str,
        reply: mpsc::Sender<Object>,
    ) {
        let sessions: BTreeSet<_> = server
            .sessions()
            .into_iter()
            .filter(|session| session.member == member)
            .map(|session| session.id)
            .collect();
        let reason = object.text("reason").unwrap_or("operator_initiated");
        if !server.declare_compromised(now, member, reason) {
            let _gone = reply.send(no_member(member));
            return;
        }
        self.compromising.raised(member, sessions, reply);
    }
}

fn no_member(name: &str) -> Object {
    let what = format!("there is no member `{}`", one_line(name));
    admin::refuse(Exit::NoSuchFile, &what, Some("clawchat-server members"))
}

/// A security file as an answer; the key when it was asked for, or is new and shown once.
pub(super) fn issue_answer(issued: &Issued, with_key: bool) -> Object {
    let key = (with_key || issued.new_member).then(|| issued.key.to_base64());
    Object::new()
        .with("ok", true)
        .with("member", issued.member.as_str())
        .with("sec", base64(&issued.sec))
        .with_some("path", issued.path.as_ref().map(|path| path.display().to_string()))
        .with_some("key", key.as_ref().map(|key| key.as_str()))
        .with("new_member", issued.new_member)
        .with("fingerprint", issued.key.fingerprint())
        .with("valid_until", issued.valid_until)
}

/// The members, as `members` answers.
pub(super) fn members(server: &Server) -> clawchat_core::wire::json::Json {
    list(server.members().into_iter().map(|member| {
        Object::new()
            .with("name", member.name.as_str())
            .with("status", member.status.name())
            .with("since", moment(member.since.secs()))
            .with("files", member.files as u64)
            .with("waiting", member.waiting as u64)
    }))
}

fn status(server: &Server, now: Now) -> Object {
    let sessions = server.sessions().into_iter().map(|session| {
        Object::new()
            .with("member", session.member.as_str())
            .with("remote", session.remote.to_string())
            .with("epoch", session.epoch.0)
            .with("since", moment(session.since.secs()))
            .with("seconds", now.wall.secs().saturating_sub(session.since.secs()))
            .with_some("rtt_us", session.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(0)))
    });
    let drops =
        server.drops().fold(Object::new(), |o, (reason, count)| o.with(reason.name(), count));
    let usage = Usage::now();
    Object::new()
        .with("ok", true)
        .with("port", server.port().map_or(0, u64::from))
        .with("clients_limit", server.max_sessions() as u64)
        .with("cipher", cipher::provider().name())
        .with("clients", list(sessions))
        .with("dropped", drops)
        .with_some("memory", usage.as_ref().map(|usage| usage.memory))
        .with_some("cpu_ms", usage.as_ref().map(|usage| usage.cpu_ms))
}
