//! Clients' disks: one security file each, renewed in place, which a new process starts from.

use crate::disk::duplicate;
use crate::oracle::{Verdict, Who};
use crate::world::{Happening, Process, World, micros};
use clawchat_core::id::{FileId, OpId};
use clawchat_core::limits::OP_TIMEOUT;
use clawchat_core::ops::Outcome;
use clawchat_core::wire::secfile::SecurityFile;

impl World {
    /// A client stores a renewed file: soon, late, not at all, or without anybody ever saying so.
    pub(crate) fn client_stores(&mut self, process: Process, op: OpId, content: SecurityFile) {
        let (faults, begin) = (self.disk.faults, self.now().max(self.busy_until(process)));
        let slow = self.rng.chance(faults.slow);
        let at = begin
            + if slow { self.rng.range(100_000..=4_000_000) } else { self.rng.range(50..=5_000) };
        let lost = self.rng.chance(faults.lost);
        if lost {
            self.fault("lost completion");
            self.lose_until(process, at + micros(OP_TIMEOUT));
        }
        if self.rng.chance(faults.issue) || (lost && self.rng.chance(500)) {
            if !lost {
                self.fault("failed store");
                let (who, run, outcome) = (Who::Client(process), 0, Outcome::Failed);
                self.push(at, Happening::Complete { who, run, op, outcome });
            }
            return;
        }
        self.set_busy(process, at);
        let (content, told) = (Box::new(content), !lost);
        self.push(at, Happening::ClientStored { process, op, content, told });
    }

    /// The file is on the disk, if its process still runs to put it there.
    pub(crate) fn client_stored(
        &mut self,
        process: Process,
        op: OpId,
        content: SecurityFile,
        told: bool,
    ) {
        let node = self.client(process);
        let Some(file) = node.file.filter(|_| node.runs()) else { return };
        // What COMPROMISED removed does not come back, nor is a newer file replaced.
        let older = self.stored_file(file).is_some_and(|old| old.timestamp <= content.timestamp);
        if older {
            self.put_file(file, duplicate(&content));
        }
        self.check_stored();
        if told {
            let outcome = if older { Outcome::Done } else { Outcome::Failed };
            self.complete(Who::Client(process), op, outcome);
        }
    }

    /// Every file on a client's disk is accepted, and no more than two secrets of it (PROTOCOL 5.2).
    pub(crate) fn check_stored(&self) {
        let mut complaint = None;
        for (file, content) in self.stored_files() {
            if self.is_given_up(*file) {
                continue;
            }
            let (accepted, count) = self.disk.accepts(*file, &content.shared_secret);
            if !accepted {
                complaint = Some(format!("oracle 7: the stored file {file} would be refused"));
            }
            if count > 2 {
                complaint = Some(format!("oracle 7: {count} secrets of {file} are accepted"));
            }
        }
        if let Some(complaint) = complaint {
            self.fail(&complaint);
        }
    }

    /// Whether a client that starts from its disk may be refused as expired.
    pub(crate) fn may_refuse(&self, file: FileId, began_with: u64) -> Verdict {
        let now = self.server_secs();
        let present = self.stored_file(file).is_some_and(|file| {
            file.timestamp == began_with && now <= file.valid_until + file.grace_period
        });
        if present && !self.is_given_up(file) {
            return Err(format!("oracle 7: the stored file {file} was refused"));
        }
        Ok(())
    }
}
