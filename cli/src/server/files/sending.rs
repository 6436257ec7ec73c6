//! What the operator sends, as the loop sees it.

use super::super::admin;
use super::super::operator::{Errand, Queue, Queued};
use super::Files;
use crate::failure::Exit;
use crate::text::{complain, list};
use clawchat_core::server::Server;
use clawchat_core::wire::json::{Json, Object};
use clawchat_core::wire::message::{Recipient, hex};
use std::path::PathBuf;
use std::sync::mpsc;

/// Files and folders of the outbox of which it is remembered that they can't be sent.
const COMPLAINED: usize = 1024;

impl Files {
    /// What the operator sends is offered, and said to be.
    pub(super) fn queued(
        &mut self,
        server: &mut Server,
        path: PathBuf,
        queued: Result<Queued, String>,
        reply: Option<&mpsc::Sender<Object>>,
    ) {
        let answer = match queued {
            Ok(Queued { files, folder, left_out }) => {
                self.complained.remove(&path);
                // The list of a folder is no file of it.
                let content = files.iter().skip(usize::from(folder));
                let (size, count) =
                    (content.clone().map(|file| file.offer.size).sum::<u64>(), content.len());
                let first = files.first().map(|file| {
                    Object::new()
                        .with("ok", true)
                        .with("id", file.offer.id.to_string())
                        .with("size", size)
                        .with("sha256", hex(&file.sha256))
                        .with("to", list(file.to.iter().map(String::as_str)))
                        .with("files", count as u64)
                        .with("left_out", left_out.into_iter().map(Json::from).collect::<Vec<_>>())
                });
                // Their ids are new: none of them is known.
                let kept = files.into_iter().all(|file| server.keep_file(file));
                first.filter(|_| kept).unwrap_or_else(|| {
                    admin::refuse(Exit::CannotWrite, "the server keeps no more files", None)
                })
            }
            Err(what) => {
                if reply.is_none() {
                    self.complain_once(path, &what);
                }
                admin::refuse(Exit::CannotWrite, &what, None)
            }
        };
        if let Some(reply) = reply {
            let _gone = reply.send(answer);
        }
    }

    /// Sends what the operator put into the outbox.
    pub(super) fn send_from_outbox(&mut self, server: &Server, to: Recipient, path: PathBuf) {
        if let Some(members) = server.recipients(&to) {
            if self.leaving.insert(path.clone()) {
                self.run(Errand::Queue(Queue { to, members, path, consume: true, reply: None }));
            }
            return;
        }
        let what = format!("{}: there is no {to}", path.display());
        self.complain_once(path, &what);
    }

    /// Says why something of the outbox can't be sent: it is tried again every few seconds.
    pub(super) fn complain_once(&mut self, path: PathBuf, what: &str) {
        if self.complained.len() >= COMPLAINED {
            // They are said again rather than remembered without end.
            self.complained.clear();
        }
        // Numbers in it change each time: of the quota, that others fill.
        let reason: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        if self.complained.insert(path, reason.clone()) != Some(reason) {
            complain(what);
        }
    }

    /// Sends a file that the operator names.
    pub(in super::super) fn send(
        &self,
        server: &Server,
        to: &str,
        path: PathBuf,
        reply: mpsc::Sender<Object>,
    ) {
        let to = Recipient::parse(to);
        match to.and_then(|to| server.recipients(&to).map(|members| (to, members))) {
            Some((to, members)) => {
                let reply = Some(reply);
                self.run(Errand::Queue(Queue { to, members, path, consume: false, reply }));
            }
            None => {
                let what = "there is no such member or room, or nobody in it";
                let _gone = reply.send(admin::refuse(Exit::NoSuchFile, what, None));
            }
        }
    }
}
