//! What must hold of files (oracle 13): only right bytes, none past a limit, none lost, each file once.

use super::{fits, seed, sha256};
use crate::oracle::{Verdict, ensure};
use clawchat_core::id::ChatId;
use clawchat_core::wire::message::FileOffer;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
struct Sent {
    name: String,
    size: u64,
    to: String,
    recipients: Vec<String>,
    /// Its sender or the server's host does not want it to arrive any more.
    given_up: bool,
}

/// Files that members send.
#[derive(Debug, Default)]
pub struct Files {
    sent: BTreeMap<(String, ChatId), Sent>,
    /// Whole at a member: whose it is, from whom.
    finished: BTreeSet<(String, String, ChatId)>,
    refused: BTreeSet<(String, String, ChatId)>,
    /// What the present run of the server has passed on, and to whom.
    passed_on: BTreeSet<(String, ChatId, String)>,
    bytes: u64,
    /// A hostile member: files that come in its own name may be anything.
    hostile: Option<String>,
}

impl Files {
    /// Asks nothing of the files of this member.
    pub fn exempt(&mut self, member: &str) {
        self.hostile = Some(member.to_string());
    }

    /// Whether nothing is asked of the files of this member.
    #[must_use]
    pub fn is_exempt(&self, member: &str) -> bool {
        self.hostile.as_deref() == Some(member)
    }

    /// A member sends a file to these.
    pub fn sent(&mut self, from: &str, id: ChatId, offer: (&str, u64, &str), to: Vec<String>) {
        let (name, size, room) = offer;
        let (name, to, recipients) = (name.to_string(), room.to_string(), to);
        let sent = Sent { name, size, to, recipients, given_up: false };
        self.sent.insert((from.to_string(), id), sent);
    }

    /// It is not to arrive any more, though it may.
    pub fn given_up(&mut self, from: &str, id: ChatId) {
        if let Some(sent) = self.sent.get_mut(&(from.to_string(), id)) {
            sent.given_up = true;
        }
    }

    /// A file was offered to the server, or by it to a member.
    ///
    /// # Errors
    /// A complaint; so for all that follow.
    pub fn offered(&self, member: Option<&str>, offer: &FileOffer) -> Verdict {
        let FileOffer { id, name, size, to, from } = offer;
        if self.is_exempt(from) {
            return Ok(());
        }
        let sent = self.sent.get(&(from.clone(), *id));
        let sent = sent.ok_or_else(|| format!("oracle 13: file {offer:?} was never sent"))?;
        let same = sent.name == *name && sent.size == *size && sent.to == to.to_string();
        ensure(same, || format!("oracle 13: the offer of file {id} was altered: {offer:?}"))?;
        let meant = member.is_none_or(|member| sent.recipients.iter().any(|name| name == member));
        ensure(meant, || format!("oracle 13: file {id} was offered to {member:?}"))
    }

    /// Bytes of a file arrived, which was taken up to a limit. Whether they are right.
    ///
    /// # Errors
    /// A complaint.
    pub fn arrived(
        &mut self,
        offer: &FileOffer,
        limit: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<bool, String> {
        let (id, end) = (offer.id, offset + bytes.len() as u64);
        self.bytes += bytes.len() as u64;
        ensure(end <= limit.min(offer.size) && !bytes.is_empty(), || {
            format!("oracle 13: bytes {offset}..{end} of file {id} of {} up to {limit}", offer.size)
        })?;
        let right = fits(seed(id, offer.size), offset, bytes);
        ensure(right || self.is_exempt(&offer.from), || {
            format!("oracle 13: bytes {offset}..{end} of file {id} are wrong")
        })?;
        Ok(right)
    }

    /// A host is asked to check a file.
    ///
    /// # Errors
    /// A complaint.
    pub fn complete(&self, offer: &FileOffer, whole: bool, digest: &[u8; 32]) -> Verdict {
        let id = offer.id;
        ensure(whole, || format!("oracle 13: file {id} counts as complete, and is not"))?;
        let right = *digest == sha256(id, offer.size) || self.is_exempt(&offer.from);
        ensure(right, || format!("oracle 13: the SHA-256 of file {id} was altered"))
    }

    /// A member has a whole file; its host sees to it that it has each once.
    pub fn finished(&mut self, member: &str, from: &str, id: ChatId) {
        self.finished.insert((member.to_string(), from.to_string(), id));
    }

    /// A member does not want a file.
    pub fn refused(&mut self, member: &str, from: &str, id: ChatId) {
        self.refused.insert((member.to_string(), from.to_string(), id));
    }

    /// A sender was told that the server has its file.
    ///
    /// # Errors
    /// A complaint.
    pub fn told_done(from: &str, id: ChatId, durable: bool) -> Verdict {
        ensure(durable, || {
            format!("oracle 13: file {id} of {from} counts as sent, and is not kept")
        })
    }

    /// The server says that a member has a file, or wants it no more.
    ///
    /// # Errors
    /// A complaint.
    pub fn passed_on(&mut self, from: &str, id: ChatId, by: &str) -> Verdict {
        let through = self.is_exempt(by) || self.is_exempt(from) || {
            let key = (by.to_string(), from.to_string(), id);
            self.finished.contains(&key) || self.refused.contains(&key)
        };
        ensure(through, || {
            format!("oracle 13: file {id} of {from} counts as passed on to {by}, who never had it")
        })?;
        let first = self.passed_on.insert((from.to_string(), id, by.to_string()));
        ensure(first, || format!("oracle 13: file {id} of {from} was passed on twice to {by}"))
    }

    /// Another run of the server: it may pass on again what it can't know to have passed on.
    pub fn server_began(&mut self) {
        self.passed_on.clear();
    }

    /// Every file that is still to arrive is whole with those of these members that it is for.
    ///
    /// # Errors
    /// A complaint.
    pub fn all_there(
        &self,
        kept: impl Fn(&str, ChatId) -> bool,
        readers: &BTreeSet<String>,
    ) -> Verdict {
        for ((from, id), sent) in self.sent.iter().filter(|(_, sent)| !sent.given_up) {
            ensure(kept(from, *id), || format!("oracle 13: file {id} of {from} never came"))?;
            for name in sent.recipients.iter().filter(|name| readers.contains(*name)) {
                let key = (name.clone(), from.clone(), *id);
                let there = self.finished.contains(&key) || self.refused.contains(&key);
                ensure(there, || format!("oracle 13: file {id} of {from} never reached {name}"))?;
            }
        }
        Ok(())
    }

    /// Whether a member has a whole file.
    #[must_use]
    pub fn is_finished(&self, member: &str, from: &str, id: ChatId) -> bool {
        self.finished.contains(&(member.to_string(), from.to_string(), id))
    }

    /// Files that members sent.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sent.len()
    }

    /// Times that a member got a whole file.
    #[must_use]
    pub fn count_finished(&self) -> usize {
        self.finished.len()
    }

    /// Bytes of files that arrived somewhere.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::fill;
    use clawchat_core::wire::message::Recipient;

    const ID: ChatId = ChatId([1; 16]);

    fn offer() -> FileOffer {
        let (name, from) = ("a.bin".to_string(), "ann".to_string());
        FileOffer { id: ID, name, size: 100, to: Recipient::Member("bob".to_string()), from }
    }

    fn sent() -> Files {
        let mut files = Files::default();
        files.sent("ann", ID, ("a.bin", 100, "@bob"), vec!["bob".to_string()]);
        files
    }

    #[track_caller]
    fn complains<T: core::fmt::Debug>(verdict: Result<T, String>, of: &str) {
        let complaint = verdict.unwrap_err();
        assert!(complaint.contains(of), "{complaint}");
    }

    #[test]
    fn offers() {
        let files = sent();
        assert_eq!(files.offered(None, &offer()), Ok(()));
        assert_eq!(files.offered(Some("bob"), &offer()), Ok(()));
        complains(files.offered(Some("cid"), &offer()), "was offered to");
        let other = FileOffer { size: 101, ..offer() };
        complains(files.offered(Some("bob"), &other), "altered");
        let other = FileOffer { from: "bob".to_string(), ..offer() };
        complains(files.offered(None, &other), "never sent");
    }

    #[test]
    fn bytes() {
        let mut files = sent();
        let mut bytes = [0; 50];
        fill(seed(ID, 100), 50, &mut bytes);
        assert_eq!(files.arrived(&offer(), 100, 50, &bytes), Ok(true));
        complains(files.arrived(&offer(), 100, 51, &bytes), "51..101");
        complains(files.arrived(&offer(), 99, 50, &bytes), "up to 99");
        complains(files.arrived(&offer(), 100, 49, &bytes), "wrong");
        files.exempt("ann");
        assert_eq!(files.arrived(&offer(), 100, 49, &bytes), Ok(false));
        let files = sent();
        complains(files.complete(&offer(), false, &sha256(ID, 100)), "is not");
        complains(files.complete(&offer(), true, &[0; 32]), "altered");
        assert_eq!(files.complete(&offer(), true, &sha256(ID, 100)), Ok(()));
    }

    #[test]
    fn the_end_of_a_file() {
        let mut files = sent();
        complains(Files::told_done("ann", ID, false), "not kept");
        complains(files.passed_on("ann", ID, "bob"), "never had it");
        let readers = ["bob".to_string()].into();
        complains(files.all_there(|_, _| false, &readers), "never came");
        complains(files.all_there(|_, _| true, &readers), "never reached bob");
        assert_eq!(files.all_there(|_, _| true, &BTreeSet::new()), Ok(()), "its reader is dead");
        files.finished("bob", "ann", ID);
        assert_eq!(files.all_there(|_, _| true, &readers), Ok(()));
        assert_eq!(files.passed_on("ann", ID, "bob"), Ok(()));
        complains(files.passed_on("ann", ID, "bob"), "twice");
        files.server_began();
        assert_eq!(files.passed_on("ann", ID, "bob"), Ok(()));
        files.given_up("ann", ID);
        assert_eq!(files.all_there(|_, _| false, &readers), Ok(()));
    }
}
