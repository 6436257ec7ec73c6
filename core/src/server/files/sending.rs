//! Bytes of files on their way out.

use super::{Server, Transfer};
use crate::ops::Want;
use crate::session::Number;
use crate::time::Now;
use crate::transport::path::Transmit;

impl Server {
    /// Output: bytes of a file to read and to hand to [`Self::send_chunk`]. Ask when there is nothing
    /// to transmit; asking twice gives the same answer.
    pub fn file_want(&mut self, now: Now) -> Option<Want> {
        while let Some(id) = self.schedule.next_with_files() {
            if let Some(entry) = self.sessions.get_mut(id) {
                // By a port that has closed nothing leaves; its client is about to follow.
                let open = self.ports.reads(entry.session.path().port);
                if let Some((count, offset, len)) =
                    entry.session.file_want(now.mono).filter(|_| open)
                    && let Some(transfer) = self.files.of(id, Number { ours: true, count })
                {
                    return Some(Want { transfer, offset, len });
                }
            }
            self.schedule.no_files(id);
        }
        None
    }

    /// Output: seals bytes that [`Self::file_want`] asked for into `out`, as a batch of datagrams.
    /// `None` when they are no longer wanted.
    pub fn send_chunk(
        &mut self,
        now: Now,
        want: &Want,
        bytes: &[u8],
        out: &mut [u8],
    ) -> Option<Transmit> {
        let Transfer { session, number, .. } = self.files.transfers.get(&want.transfer)?;
        let (id, count) = (*session, number.count);
        let entry = self.sessions.get_mut(id)?;
        if !self.ports.reads(entry.session.path().port) {
            return None;
        }
        let bytes = &bytes[..bytes.len().min(want.len)];
        let sent = entry.session.send_chunk(now, (count, want.offset), bytes, out)?;
        // Sending moves deadlines, and the last byte brings a message.
        self.schedule.sent_files(id);
        self.schedule.touch(id);
        Some(sent)
    }
}
