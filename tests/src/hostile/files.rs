//! Abuse of file transfer (PROTOCOL 5.6).

use super::{Abuse, Hostile, text};
use crate::files;
use crate::vectors::hex;
use clawchat_core::id::ChatId;
use clawchat_core::limits::OFFERS_UNANSWERED;
use clawchat_core::wire::header::PacketType;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Names that no file may have, and one that it may.
const NAMES: [&str; 10] =
    ["a.bin", "../a.bin", "a/b", "a:b", "", "..", "a.", "CON", "lpt1.txt", "a\u{202e}b"];
/// Size of a file that comes in pieces.
const PIECED: u64 = 1 << 18;
/// Most bytes of a file that she lets come.
const TAKEN: u64 = 30_000;
/// Largest file that is sent as it should be.
const WHOLE: u64 = 3_000;

/// A file that it offers.
#[derive(Debug)]
struct Own {
    id: ChatId,
    size: u64,
    /// Up to where the server takes it.
    limit: Option<u64>,
    /// Pieces that were sent of it.
    pieces: u64,
}

/// The transfers of one session.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    next: u64,
    own: BTreeMap<u64, Own>,
    /// What the server offers: sizes.
    given: BTreeMap<u64, u64>,
}

impl Transfers {
    fn unanswered(&self) -> usize {
        self.own.values().filter(|own| own.limit.is_none()).count()
    }

    fn taken(&self) -> Vec<u64> {
        self.own.iter().filter(|(_, own)| own.limit.is_some()).map(|(count, _)| *count).collect()
    }

    /// The server says something of a file.
    pub(super) fn hear(&mut self, message: &Value) {
        let (Some(count), limit) = (message["transfer"].as_u64(), message["limit"].as_u64()) else {
            return;
        };
        match text(message, "type") {
            "file_offer" if self.given.len() < 100 => {
                self.given.insert(count, message["size"].as_u64().unwrap_or(0));
            }
            "file_accept" | "file_more" => {
                if let Some(own) = self.own.get_mut(&count) {
                    own.limit = limit;
                }
            }
            "file_done" => {
                self.own.remove(&count);
            }
            "file_cancel" if message["side"] == "receiver" => {
                self.own.remove(&count);
            }
            "file_cancel" => {
                self.given.remove(&count);
            }
            _ => {}
        }
    }
}

impl Hostile {
    fn say_of_file(&mut self, index: usize, message: &Value) {
        self.say(index, PacketType::File, message);
    }

    fn cancel(&mut self, index: usize, transfer: u64) {
        let cancel = json!({
            "type": "file_cancel", "transfer": transfer, "reason": "why not", "side": "sender",
        });
        self.lines[index].transfers.own.remove(&transfer);
        self.say_of_file(index, &cancel);
    }

    /// Offers a file of this size; its transfer.
    pub(super) fn offer_file(&mut self, index: usize, name: &str, size: u64) -> u64 {
        let to = self.rng.pick(&self.targets).cloned().unwrap_or_default();
        let id = ChatId(self.rng.bytes(16).try_into().unwrap_or_default());
        let transfers = &mut self.lines[index].transfers;
        let transfer = transfers.next;
        transfers.next += 1;
        transfers.own.insert(transfer, Own { id, size, limit: None, pieces: 0 });
        let offer = json!({
            "type": "file_offer", "transfer": transfer, "id": id.to_string(), "name": name,
            "size": size, "to": to, "from": "ann",
        });
        self.say_of_file(index, &offer);
        transfer
    }

    /// Offers without end: most are taken back at once, or have no name that a file may have.
    pub(super) fn offers(&mut self, index: usize) {
        // One too many ends the session.
        let most = OFFERS_UNANSWERED - usize::from(!self.rng.chance(30));
        for _ in 0..self.rng.range(1..=self.measure.flood) {
            let name = NAMES[self.rng.index(NAMES.len())];
            let long = "x".repeat(256);
            let name = if self.rng.chance(100) { long.as_str() } else { name };
            let size = [0, 1, self.rng.below(1 << 20), (1 << 53) - 1][self.rng.index(4)];
            let transfer = self.offer_file(index, name, size);
            if self.lines[index].transfers.unanswered() > most || self.rng.chance(500) {
                self.cancel(index, transfer);
            }
        }
    }

    fn chunk(&mut self, index: usize, transfer: u64, offset: u64, length: u64) {
        let chunk = json!({"chunk": {"transfer": transfer, "offset": offset, "length": length}});
        self.send(index, PacketType::File, &[chunk]);
    }

    /// Files in as many pieces as can be: every other byte, and nothing of it ever whole.
    pub(super) fn file_pieces(&mut self, index: usize) {
        let taken = self.lines[index].transfers.taken();
        if taken.len() + self.lines[index].transfers.unanswered() < OFFERS_UNANSWERED {
            self.offer_file(index, "a.bin", PIECED);
        }
        // One of them beyond what its receiver bears.
        let one = taken.first().copied().filter(|_| self.rng.chance(500));
        let Some(transfer) = one.or_else(|| self.rng.pick(&taken).copied()) else { return };
        for _ in 0..self.measure.flood * 8 {
            let Some(own) = self.lines[index].transfers.own.get_mut(&transfer) else { return };
            let at = own.pieces * 2 % own.size.max(1);
            own.pieces += 1;
            let end = own.limit.unwrap_or(0).min(own.size);
            if at < end {
                self.chunk(index, transfer, at, 1);
            }
        }
    }

    /// Bytes where none may be, some of them over others; and of what is over.
    pub(super) fn file_chunks(&mut self, index: usize) {
        let size = self.rng.below(200_000);
        self.offer_file(index, "a.bin", size);
        let taken = self.lines[index].transfers.taken();
        let Some(transfer) = self.rng.pick(&taken).copied() else { return };
        let Some(own) = self.lines[index].transfers.own.get(&transfer) else { return };
        let (size, limit) = (own.size, own.limit.unwrap_or(0));
        for _ in 0..self.rng.range(1..=20) {
            let length = self.rng.range(1..=900);
            if length <= limit.min(size) {
                let at = self.rng.below(limit.min(size) - length + 1);
                self.chunk(index, transfer, at, length);
            }
        }
        let next = self.lines[index].transfers.next;
        match self.rng.below(60) {
            0 => self.chunk(index, transfer, limit, 1),
            1 => self.chunk(index, transfer, size.saturating_sub(1), 2),
            2 => self.chunk(index, next, 0, 1),
            3 => self.chunk(index, transfer, (1 << 62) - 1, 900),
            4..40 => {
                self.cancel(index, transfer);
                self.chunk(index, transfer, 0, 1);
            }
            _ => {}
        }
    }

    /// Messages about files out of turn.
    pub(super) fn file_turns(&mut self, index: usize) {
        let (own, given) = {
            let transfers = &self.lines[index].transfers;
            let own: Vec<_> = transfers.own.keys().copied().collect();
            (own, transfers.given.iter().map(|(count, size)| (*count, *size)).collect::<Vec<_>>())
        };
        if own.len() < OFFERS_UNANSWERED / 2 {
            self.offer_file(index, "a.bin", 5);
        }
        let mine = self.rng.pick(&own).copied().unwrap_or(0);
        let (theirs, size) = self.rng.pick(&given).copied().unwrap_or((0, 0));
        // Most of these end the session.
        let fatal = self.rng.chance(60);
        let say = match self.rng.below(8) {
            0 if fatal => json!({"type": "file_accept", "transfer": mine, "have": [], "limit": 1}),
            1 if fatal => json!({
                "type": "file_accept", "transfer": theirs, "have": [[0, size + 1]], "limit": size,
            }),
            2 if fatal => json!({"type": "file_done", "transfer": theirs, "ok": true}),
            3 if fatal => {
                json!({"type": "file_end", "transfer": mine, "sha256": "00".repeat(32)})
            }
            4 if fatal => json!({"type": "file_cancel", "transfer": 1_u64 << 40, "reason": ""}),
            5 if fatal => json!({"type": "file_more", "transfer": 1_u64 << 40, "limit": 1}),
            6 => json!({"type": "file_more", "transfer": theirs, "limit": 1}),
            _ => {
                self.cancel(index, mine);
                json!({"type": "file_cancel", "transfer": mine, "reason": "", "side": "sender"})
            }
        };
        if fatal || !own.is_empty() {
            self.say_of_file(index, &say);
        }
    }

    /// Takes what the server offers, with many ranges and in small steps, and leaves it there.
    pub(super) fn file_takes(&mut self, index: usize) {
        let transfers = &mut self.lines[index].transfers;
        let Some((transfer, size)) = transfers.given.pop_first() else { return };
        let count = self.rng.below(1001).min(size / 2);
        let have: Vec<_> = (0..count).map(|n| json!([n * 2, n * 2 + 1])).collect();
        // Of petabytes only some: she would get them all.
        let limit = self.rng.below(size.min(TAKEN) + 2);
        self.say_of_file(
            index,
            &json!({"type": "file_accept", "transfer": transfer, "have": have, "limit": limit}),
        );
        for step in 0..self.rng.below(20) {
            let more = json!({"type": "file_more", "transfer": transfer, "limit": limit + step});
            self.say_of_file(index, &more);
        }
        match self.rng.below(4) {
            0 => {
                let done = json!({
                    "type": "file_done", "transfer": transfer, "ok": false, "error": "disk",
                });
                self.say_of_file(index, &done);
            }
            1 => {
                let cancel = json!({
                    "type": "file_cancel", "transfer": transfer, "reason": "no", "side": "receiver",
                });
                self.say_of_file(index, &cancel);
            }
            _ => {}
        }
    }

    /// Small files as they should be, as fast as they are taken.
    pub(super) fn whole_files(&mut self, index: usize) {
        if self.lines[index].transfers.unanswered() < OFFERS_UNANSWERED / 2 {
            let size = self.rng.below(WHOLE);
            self.offer_file(index, "a.bin", size);
        }
        for transfer in self.lines[index].transfers.taken() {
            let Some(Own { id, size, limit, .. }) = self.lines[index].transfers.own.get(&transfer)
            else {
                continue;
            };
            let (id, size, limit) = (*id, *size, limit.unwrap_or(0));
            if size > WHOLE || limit < size {
                continue;
            }
            let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
            files::fill(files::seed(id, size), 0, &mut content);
            for (at, part) in content.chunks(900).enumerate() {
                let chunk = json!({
                    "chunk": {"transfer": transfer, "offset": at * 900, "hex": hex(part)},
                });
                self.send(index, PacketType::File, &[chunk]);
            }
            let end = json!({
                "type": "file_end", "transfer": transfer, "sha256": hex(&files::sha256(id, size)),
            });
            self.say_of_file(index, &end);
            self.lines[index].transfers.own.remove(&transfer);
        }
    }

    /// File offers, chunks of no transfer.
    pub(super) fn files(&mut self, index: usize) {
        for _ in 0..self.rng.range(1..=10) {
            let size = self.rng.below(1 << 50);
            self.offer_file(index, "a.bin", size);
        }
        let transfer = self.rng.below(self.lines[index].transfers.next + 1);
        let transfer = if self.rng.chance(20) { transfer } else { 0 };
        self.chunk(index, transfer, 1 << 30, 900);
        let what = match self.rng.below(40) {
            0 => json!({"type": "file_done", "transfer": transfer, "ok": true}),
            1 => json!({"type": "file_accept", "transfer": transfer, "have": [], "limit": 1}),
            _ => json!({"type": "file_cancel", "transfer": transfer, "reason": "why not"}),
        };
        self.say_of_file(index, &what);
    }

    /// Commits one of these.
    pub(super) fn abuse_files(&mut self, index: usize, abuse: Abuse) {
        match abuse {
            Abuse::Offers => self.offers(index),
            Abuse::FilePieces => self.file_pieces(index),
            Abuse::Chunks => self.file_chunks(index),
            Abuse::FileTurns => self.file_turns(index),
            Abuse::FileTakes => self.file_takes(index),
            Abuse::WholeFiles => self.whole_files(index),
            _ => self.files(index),
        }
    }
}
