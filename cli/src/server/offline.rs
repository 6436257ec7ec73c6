//! A state folder that no server runs on: the same machine does the same work.

use super::journal::Journal;
use super::store::{PortSetting, Store};
use super::worker::{self, IssueOptions, Issued};
use crate::cipher;
use crate::failure::{Exit, Failure, Outcome};
use clawchat_core::id::OpId;
use clawchat_core::limits::{KeyLimits, SESSIONS};
use clawchat_core::ops::Outcome as Completion;
use clawchat_core::server::{Action, SecurityFileDraft, Server, ServerConfig};
use clawchat_mio::{clock, entropy};
use std::path::Path;

/// A server that is not running, to change its state with.
pub(super) struct Offline {
    pub(super) store: Store,
    pub(super) server: Server,
    /// Whether a security file can name the port; one that is drawn when the server runs it can't.
    knows_port: bool,
    /// Why a security file that was asked for was not issued.
    not_issued: Option<Box<Failure>>,
}

impl Offline {
    pub(super) fn open(folder: &Path) -> Outcome<Self> {
        let missing = || {
            Failure::new(Exit::Config, format!("{} is no state folder yet", folder.display()))
                .advice("clawchat-server init --public HOST")
        };
        if !folder.join("server.json").exists() {
            return Err(missing());
        }
        let store = Store::open(folder)?.ok_or_else(|| busy(folder))?;
        let identity = store.identity()?.ok_or_else(missing)?;
        let timing = identity.timing();
        let knows_port = identity.port != PortSetting::Random;
        let config = ServerConfig {
            port: identity.port_choice(),
            server_id: identity.server_id,
            server_name: identity.name,
            public: identity.public,
            timing,
            renewal_valid_for: identity.renewal_valid_for,
            members: store.members()?,
            credentials: store.credentials()?,
            chats: Journal::open(&folder.join("chat.journal"))?.chats(),
            files: Vec::new(),
            max_sessions: SESSIONS,
            key_limits: KeyLimits::default(),
            provider: cipher::provider(),
        };
        let seed = entropy::seed().map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
        let mut server = Server::new(config, &seed, clock::now());
        // It is not going to listen; its port is the one that it would try first.
        while server.poll_action().is_some() {}
        Ok(Self { store, server, knows_port, not_issued: None })
    }

    fn issue(&self, draft: &SecurityFileDraft, options: &IssueOptions) -> Outcome<Issued> {
        if self.knows_port {
            return worker::issue(&self.store, draft, options);
        }
        let what = "the port is drawn when the server runs: a file could not name it";
        let member = &draft.credential.member;
        Err(Failure::new(Exit::Unreachable, what)
            .advice(format!("clawchat-server run, and meanwhile: clawchat-server issue {member}")))
    }

    /// Performs all that the machine asks for; the file that was issued, if one could be.
    pub(super) fn perform(&mut self, options: &IssueOptions) -> Outcome<Option<Issued>> {
        let mut issued = None;
        while let Some((op, action)) = self.server.poll_action() {
            match &action {
                Action::IssueSecurityFile { draft } => match self.issue(draft, options) {
                    Ok(file) => issued = Some(file),
                    Err(failure) => {
                        self.not_issued = Some(failure);
                        self.complete(op, Completion::Failed);
                        continue;
                    }
                },
                Action::RetireFiles { files } => {
                    self.store.retire(files)?;
                }
                Action::KeepCredentials { file, credentials } => {
                    self.store.keep_credentials(*file, credentials, None)?;
                }
                Action::BindPort { .. }
                | Action::ClosePort { .. }
                | Action::StoreChat { .. }
                | Action::ChatDelivered { .. }
                | Action::FileDelivered { .. } => {}
            }
            self.complete(op, Completion::Done);
        }
        Ok(issued)
    }

    pub(super) fn why_not_issued(&mut self) -> Box<Failure> {
        let nothing = || Failure::new(Exit::Failed, "nothing was issued");
        self.not_issued.take().unwrap_or_else(nothing)
    }

    fn complete(&mut self, op: OpId, outcome: Completion) {
        self.server.handle_completion(clock::now(), op, outcome);
    }
}

/// A folder that another process has, which is no server.
pub(super) fn busy(folder: &Path) -> Box<Failure> {
    let what = format!("{} is in use, but its server does not answer", folder.display());
    Failure::new(Exit::TryLater, what)
        .advice("again in a moment, or look what became of the server")
}
