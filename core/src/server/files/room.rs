//! How many transfers one session may have, and how long files are kept.

use super::{Files, Known, Server, Transfer, What};
use crate::id::{SessionId, TransferId};
use crate::limits::{FILE_AGE, FILES_TAKEN, OFFERS_UNANSWERED};
use crate::ranges::RangeSet;
use crate::server::StoredFile;
use crate::session::Number;
use crate::time::Now;
use crate::wire::message::{ErrorCode, ErrorMessage, FileOffer, Message};
use alloc::format;
use alloc::vec::Vec;

impl Files {
    /// The transfers of a session that one side offered, oldest first.
    pub(super) fn offered_by(
        &self,
        session: SessionId,
        ours: bool,
    ) -> impl Iterator<Item = TransferId> {
        let edges = [0, u64::MAX].map(|count| (session, Number { ours, count }));
        let [first, last] = edges;
        self.numbers.range(first..=last).map(|(_, transfer)| *transfer)
    }

    /// Whether a session that may be offered more has not taken too many that are not over.
    pub(super) fn has_room(&self, session: SessionId) -> bool {
        self.offered_by(session, true).count() < OFFERS_UNANSWERED + FILES_TAKEN
    }
}

impl Server {
    /// Takes files that are here already, a few at a time: nothing of them has to come again.
    pub(super) fn take_known(&mut self, id: SessionId) {
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let mut room = FILES_TAKEN;
        for transfer in self.files.offered_by(id, false).collect::<Vec<_>>() {
            let Some(Transfer { number, what: What::In { offer, known, .. }, .. }) =
                self.files.transfers.get_mut(&transfer)
            else {
                continue;
            };
            if *known == Known::No || room == 0 {
                continue;
            }
            room -= 1;
            let mut have = RangeSet::new();
            have.insert(0..offer.size);
            if *known == Known::Waits
                && entry.session.accept_file(number.count, &have, offer.size).is_ok()
            {
                *known = Known::Taken;
            }
        }
    }

    /// Drops the files that nobody came for in time.
    pub(in crate::server) fn expire_files(&mut self, now: Now) {
        let age = u64::try_from(FILE_AGE.as_millis()).unwrap_or(u64::MAX);
        let old = |stored: &StoredFile| now.wall.0.saturating_sub(stored.stored_at.0) >= age;
        let expired = self.files.kept.iter().filter(|(_, stored)| old(stored));
        let expired: Vec<_> =
            expired.flat_map(|(file, s)| s.to.iter().map(move |to| (*file, to.clone()))).collect();
        for (file, member) in expired {
            let offer = self.files.kept.get(&file).map(|stored| stored.offer.clone());
            self.file_passed(now, file, &member);
            let Some(FileOffer { from, id, .. }) = offer else { continue };
            let message = format!("file not delivered: for 7 days nobody came as @{member}");
            let (code, fatal) = (ErrorCode::NoRecipient, false);
            let error = ErrorMessage { code, message, fatal, id: Some(id), now: None };
            self.send_receipt(now, &from, Message::Error(error));
        }
    }
}
