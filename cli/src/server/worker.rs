//! One thread for all that is slow: disk and PBKDF2. Actions go in, completions come out, in order;
//! chat that waits together is made durable together.

use super::journal::Journal;
use super::store::Store;
use crate::cipher;
use crate::failure::Outcome;
use crate::key::BootstrapKey;
use clawchat_core::crypto::envelope;
use clawchat_core::id::OpId;
use clawchat_core::ops::Outcome as Completion;
use clawchat_core::server::{Action, SecurityFileDraft};
use clawchat_mio::Remote;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// What is to become of a security file.
#[derive(Clone, Debug, Default)]
pub struct IssueOptions {
    /// Rooms of a member that is new.
    pub rooms: Vec<String>,
    /// Leave the file in the `security` folder.
    pub save: bool,
}

/// A security file that was issued.
#[derive(Debug)]
pub struct Issued {
    /// Its member.
    pub member: String,
    /// Its bytes.
    pub sec: Vec<u8>,
    /// Where it was saved.
    pub path: Option<PathBuf>,
    /// The member's bootstrap key.
    pub key: BootstrapKey,
    /// Whether the member is new.
    pub new_member: bool,
    /// Last second of validity.
    pub valid_until: u64,
}

/// Work for the thread.
#[derive(Debug)]
pub enum Job {
    /// An action of the machine.
    Action(OpId, Action, IssueOptions),
    /// End, once all before it is done.
    Stop,
}

/// What became of an issue, told before its completion.
pub type IssueResult = (OpId, Result<Issued, String>);

/// Performs one action that is not chat.
///
/// # Errors
/// What the disk says.
pub fn issue(store: &Store, draft: &SecurityFileDraft, options: &IssueOptions) -> Outcome<Issued> {
    let member = draft.credential.member.clone();
    let (key, new_member) = store.member_key(&member, &options.rooms)?;
    let sec =
        envelope::seal(cipher::provider(), &draft.content, key.secret(), draft.salt, draft.iv);
    let path = keep(store, draft, options, &sec).inspect_err(|_| {
        // What is answered as failed was not done.
        let undone = store.retire(&[draft.credential.file]);
        let forgotten = if new_member { store.forget_member(&member) } else { Ok(()) };
        if let Err(failure) = undone.and(forgotten) {
            crate::text::complain(&failure.to_string());
        }
    })?;
    let valid_until = draft.content.valid_until;
    Ok(Issued { member, sec, path, key, new_member, valid_until })
}

/// Keeps the secret, then the file if it is to wait here; where that is.
fn keep(
    store: &Store,
    draft: &SecurityFileDraft,
    options: &IssueOptions,
    sec: &[u8],
) -> Outcome<Option<PathBuf>> {
    let name = options.save.then(|| store.sec_name(draft.content.timestamp)).transpose()?;
    // The secret first: a file must never be out whose server does not know it.
    let credential = core::slice::from_ref(&draft.credential);
    store.keep_credentials(draft.credential.file, credential, name.as_deref())?;
    name.map(|name| store.write_sec(&name, sec)).transpose()
}

/// Starts the thread.
pub fn start<C: Send + 'static>(
    store: Store,
    mut journal: Journal,
    remote: Remote<C>,
    jobs: mpsc::Receiver<Job>,
    issued: mpsc::Sender<IssueResult>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while let Ok(first) = jobs.recv() {
            let mut written = Vec::new();
            let mut stop = false;
            for job in core::iter::once(first).chain(jobs.try_iter()) {
                let Job::Action(op, action, options) = job else {
                    stop = true;
                    break;
                };
                match action {
                    Action::StoreChat { stored } => {
                        written.push((op, journal.store(&stored).is_ok()));
                    }
                    Action::ChatDelivered { from, id, by } => {
                        written.push((op, journal.delivered(&from, id, &by).is_ok()));
                    }
                    other => {
                        let done = perform(&store, op, &other, &options, &issued);
                        complete(&remote, op, done);
                    }
                }
            }
            let durable = written.is_empty() || journal.flush().is_ok();
            for (op, done) in written {
                complete(&remote, op, done && durable);
            }
            if stop {
                return;
            }
        }
    })
}

fn perform(
    store: &Store,
    op: OpId,
    action: &Action,
    options: &IssueOptions,
    issued: &mpsc::Sender<IssueResult>,
) -> bool {
    match action {
        Action::IssueSecurityFile { draft } => {
            let result = issue(store, draft, options).map_err(|failure| failure.to_string());
            let done = result.is_ok();
            // Nobody asks once the loop has ended.
            let _gone = issued.send((op, result));
            done
        }
        Action::KeepCredentials { file, credentials } => store
            .keep_credentials(*file, credentials, None)
            .map_err(|failure| crate::text::complain(&failure.to_string()))
            .is_ok(),
        Action::RetireFiles { files } => store
            .retire(files)
            .map_err(|failure| crate::text::complain(&failure.to_string()))
            .is_ok(),
        Action::BindPort { .. }
        | Action::ClosePort { .. }
        | Action::StoreChat { .. }
        | Action::ChatDelivered { .. }
        | Action::FileDelivered { .. } => false,
    }
}

fn complete<C>(remote: &Remote<C>, op: OpId, done: bool) {
    let _gone = remote.complete(op, if done { Completion::Done } else { Completion::Failed });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use clawchat_core::limits::KeyLimits;
    use clawchat_core::server::{PortChoice, Server, ServerConfig, Timing};
    use clawchat_mio::{clock, entropy};

    /// What a machine asks to be written for a new member.
    fn draft() -> Box<SecurityFileDraft> {
        let config = ServerConfig {
            server_id: "s".into(),
            server_name: "s".into(),
            public: "127.0.0.1".into(),
            port: PortChoice::Fixed(5000),
            timing: Timing::every(3600),
            key_limits: KeyLimits::default(),
            renewal_valid_for: 60,
            members: Vec::new(),
            credentials: Vec::new(),
            chats: Vec::new(),
            files: Vec::new(),
            max_sessions: 1,
            provider: cipher::provider(),
        };
        let mut server = Server::new(config, &entropy::seed().unwrap(), clock::now());
        while server.poll_action().is_some() {}
        server.issue(clock::now(), "ann", &[], 60).unwrap();
        match server.poll_action() {
            Some((_, Action::IssueSecurityFile { draft })) => draft,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_issue_that_failed_was_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let store = Store::open(&path).unwrap().unwrap();
        let (draft, options) = (draft(), IssueOptions { rooms: Vec::new(), save: true });
        let security = path.join("security");
        std::fs::remove_dir(&security).unwrap();
        assert_eq!(issue(&store, &draft, &options).unwrap_err().exit, Exit::CannotWrite);
        assert!(store.credentials().unwrap().is_empty() && store.members().unwrap().is_empty());
        std::fs::create_dir(&security).unwrap();
        assert!(issue(&store, &draft, &options).unwrap().path.unwrap().exists());
        assert_eq!(store.credentials().unwrap().len(), 1);
    }
}
