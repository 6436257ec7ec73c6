//! File transfers (PROTOCOL 5.6), of which this side takes none: each offer is cancelled, and what
//! still comes for it is ignored.

use super::Session;
use crate::error::Violation;
use crate::time::Now;
use crate::wire::message::{FileMessage, Message};

/// Transfers that the peer offered.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    offered: u64,
}

impl Transfers {
    /// A CHUNK came: of a transfer that was cancelled, or of none.
    pub(super) const fn take_chunk(&self, transfer: u64) -> Result<(), Violation> {
        if transfer < self.offered { Ok(()) } else { Err(Violation::UnknownTransfer) }
    }
}

impl Session {
    pub(super) fn take_file(
        &mut self,
        now: Now,
        transfer: u64,
        what: &FileMessage,
    ) -> Result<(), Violation> {
        match what {
            FileMessage::Offer { .. } => {
                if transfer != self.transfers.offered {
                    return Err(Violation::TransferStep);
                }
                self.transfers.offered += 1;
                let reason = "this side takes no files".into();
                let what = FileMessage::Cancel { reason };
                self.owe(now, &Message::File { transfer, what }, None);
                Ok(())
            }
            FileMessage::End { .. } | FileMessage::Cancel { .. }
                if transfer < self.transfers.offered =>
            {
                Ok(())
            }
            FileMessage::Accept { .. }
            | FileMessage::More { .. }
            | FileMessage::End { .. }
            | FileMessage::Done { .. }
            | FileMessage::Cancel { .. } => Err(Violation::TransferStep),
        }
    }
}
