//! One thread for all that is slow: disk and PBKDF2. Actions go in, completions come out, in order;
//! chat that waits together is made durable together.

use super::journal::Journal;
use super::store::Store;
use crate::failure::{Failure, Outcome};
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
    let sec = envelope::seal(&draft.content, key.secret(), draft.salt, draft.iv);
    let name = options.save.then(|| store.sec_name(draft.content.timestamp)).transpose()?;
    // The secret first: a file must never be out whose server does not know it.
    let credential = core::slice::from_ref(&draft.credential);
    store.keep_credentials(draft.credential.file, credential, name.as_deref())?;
    let path = name.map(|name| store.write_sec(&name, &sec)).transpose()?;
    let valid_until = draft.content.valid_until;
    Ok(Issued { member, sec, path, key, new_member, valid_until })
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
        Action::RetireFiles { files } => {
            let told = |failure: Box<Failure>| crate::text::complain(&failure.to_string());
            // All of them, also when one fails.
            files
                .iter()
                .map(|file| store.retire(*file).map_err(told))
                .filter(Result::is_err)
                .count()
                == 0
        }
        Action::BindPort { .. }
        | Action::ClosePort { .. }
        | Action::StoreChat { .. }
        | Action::ChatDelivered { .. } => false,
    }
}

fn complete<C>(remote: &Remote<C>, op: OpId, done: bool) {
    let _gone = remote.complete(op, if done { Completion::Done } else { Completion::Failed });
}
