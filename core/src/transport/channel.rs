//! The reliable, ordered channel of messages, one per direction (PROTOCOL 4.1).

use crate::error::Violation;
use crate::limits::{CHANNEL_BACKLOG, CHANNEL_BYTES, CHANNEL_MESSAGES, MESSAGE_PIECES};
use crate::ranges::RangeSet;
use crate::wire::frame::Fragment;
use crate::wire::header::PacketType;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use zeroize::Zeroizing;

/// What its sender wants to be told by when a message is wholly acknowledged.
pub(crate) type Token = u64;

#[derive(Debug)]
struct Outgoing {
    kind: PacketType,
    /// It may hold a renewed secret.
    bytes: Zeroizing<Vec<u8>>,
    token: Option<Token>,
    /// Bytes from here on were never sent.
    unsent: u64,
    /// Bytes to send again.
    lost: RangeSet,
    acked: RangeSet,
}

impl Outgoing {
    fn total(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn next(&self) -> Option<Range<u64>> {
        let again = self.lost.iter().next().cloned();
        again.or_else(|| (self.unsent < self.total()).then(|| self.unsent..self.total()))
    }
}

/// The sending side.
#[derive(Debug, Default)]
pub(crate) struct SendChannel {
    /// Id of the first message in `window`: the lowest not wholly acknowledged.
    lowest: u64,
    window: VecDeque<Outgoing>,
    window_bytes: usize,
    /// Messages that were not begun and so have no id yet: one that is urgent may still go before.
    waiting: VecDeque<Outgoing>,
}

/// What a packet may carry of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// All.
    Begin,
    /// Messages already begun, and key rotation: the epoch is near its end (PROTOCOL 5.1).
    Repair,
}

impl SendChannel {
    /// Queues a message of 1..65,536 bytes. False when the backlog is full; the few steps of key
    /// rotation go in all the same.
    #[must_use]
    pub(crate) fn push(
        &mut self,
        kind: PacketType,
        mut bytes: Vec<u8>,
        token: Option<Token>,
    ) -> bool {
        if self.waiting.len() >= CHANNEL_BACKLOG && kind != PacketType::KeyRotation {
            return false;
        }
        // Encoders reserve far more than most messages need. A renewed secret, which only comes with
        // a port, stays where it is: a copy would be left behind.
        if kind != PacketType::PortRotation {
            bytes.shrink_to_fit();
        }
        let (unsent, lost, acked) = (0, RangeSet::new(), RangeSet::new());
        let bytes = Zeroizing::new(bytes);
        let message = Outgoing { kind, bytes, token, unsent, lost, acked };
        // Key rotation waits for nobody's chat (PROTOCOL 5.1).
        if kind == PacketType::KeyRotation {
            let at = self.waiting.partition_point(|other| other.kind == PacketType::KeyRotation);
            self.waiting.insert(at, message);
        } else {
            self.waiting.push_back(message);
        }
        true
    }

    /// Whether a message pushed now would be sent without waiting long for others.
    pub(crate) fn has_room(&self) -> bool {
        ((self.window.len() + self.waiting.len()) as u64) < CHANNEL_MESSAGES / 2
    }

    /// Gives back room that is not needed now.
    pub(crate) fn rest(&mut self) {
        self.window.shrink_to_fit();
        self.waiting.shrink_to_fit();
    }

    /// Id of the next message, if no other is under way.
    pub(crate) fn resting(&self) -> Option<u64> {
        self.is_idle().then_some(self.lowest)
    }

    /// The same after a rest.
    pub(crate) fn woken(lowest: u64) -> Self {
        Self { lowest, ..Self::default() }
    }

    /// Whether everything was acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.window.is_empty() && self.waiting.is_empty()
    }

    /// Whether the first of those waiting may be begun.
    fn may_begin(&self, may: May) -> bool {
        let Some(first) = self.waiting.front() else { return false };
        (self.window.len() as u64) < CHANNEL_MESSAGES
            && self.window_bytes + first.bytes.len() <= CHANNEL_BYTES
            && (may == May::Begin || first.kind == PacketType::KeyRotation)
    }

    /// Whether there is something to send.
    pub(crate) fn has_next(&self, may: May) -> bool {
        self.may_begin(may) || self.window.iter().any(|message| message.next().is_some())
    }

    /// The next fragment to send, of a given type if the packet has one already. What was begun goes
    /// before what was not.
    pub(crate) fn next(
        &mut self,
        kind: Option<PacketType>,
        may: May,
    ) -> Option<(PacketType, Fragment<'_>)> {
        let begun = self.window.iter().position(|message| message.next().is_some());
        if begun.is_none() && self.may_begin(may) {
            let first = self.waiting.pop_front_if(|first| kind.is_none_or(|k| k == first.kind))?;
            self.window_bytes += first.bytes.len();
            self.window.push_back(first);
        }
        let index = begun.or_else(|| self.window.len().checked_sub(1))?;
        let message = self.window.get(index)?;
        if kind.is_some_and(|kind| kind != message.kind) {
            return None;
        }
        let range = message.next()?;
        let (start, end) = (index_of(range.start), index_of(range.end));
        let fragment = Fragment {
            id: self.lowest + index as u64,
            total: message.total(),
            offset: range.start,
            bytes: &message.bytes[start..end],
        };
        Some((message.kind, fragment))
    }

    fn get(&mut self, id: u64) -> Option<&mut Outgoing> {
        self.window.get_mut(index_of(id.checked_sub(self.lowest)?))
    }

    /// Bytes of a message went out.
    pub(crate) fn sent(&mut self, id: u64, range: Range<u64>) {
        if let Some(message) = self.get(id) {
            message.unsent = message.unsent.max(range.end);
            message.lost.remove(range);
        }
    }

    /// Bytes of a message may be lost: they go out again unless they were acknowledged.
    pub(crate) fn lost(&mut self, id: u64, range: Range<u64>) {
        if let Some(message) = self.get(id) {
            message.lost.insert(range);
            for acked in message.acked.iter() {
                message.lost.remove(acked.clone());
            }
        }
    }

    /// Bytes of a message were acknowledged; tokens of messages that are whole by that, and all before
    /// them: a peer that has a later message but not an earlier one has not delivered it.
    pub(crate) fn acked(&mut self, id: u64, range: Range<u64>, tokens: &mut Vec<Token>) {
        let Some(message) = self.get(id) else { return };
        message.acked.insert(range.clone());
        message.lost.remove(range);
        while let Some(first) = self.window.front() {
            if !first.acked.contains_range(0..first.total()) {
                break;
            }
            tokens.extend(first.token);
            self.window_bytes -= first.bytes.len();
            self.window.pop_front();
            self.lowest += 1;
        }
    }
}

/// Positions fit `usize`: they lie within a message or within the window.
fn index_of(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

#[derive(Debug)]
struct Incoming {
    kind: PacketType,
    /// It may hold a renewed secret.
    bytes: Zeroizing<Vec<u8>>,
    have: RangeSet,
}

/// The receiving side.
#[derive(Debug, Default)]
pub(crate) struct RecvChannel {
    /// Id of the next message to deliver.
    next: u64,
    partial: BTreeMap<u64, Incoming>,
    /// Totals of the messages in `partial`.
    bytes: usize,
}

impl RecvChannel {
    /// Gives back room that is not needed now.
    pub(crate) fn rest(&mut self) {
        if self.partial.is_empty() {
            self.partial = BTreeMap::new();
        }
    }

    /// Id of the next message, if nothing is here of it or of another.
    pub(crate) fn resting(&self) -> Option<u64> {
        self.partial.is_empty().then_some(self.next)
    }

    /// The same after a rest.
    pub(crate) fn woken(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// Takes a fragment from a packet of type `kind`.
    pub(crate) fn fragment(
        &mut self,
        kind: PacketType,
        fragment: &Fragment<'_>,
    ) -> Result<(), Violation> {
        if fragment.id < self.next {
            return Ok(());
        }
        if fragment.id - self.next >= CHANNEL_MESSAGES {
            return Err(Violation::MessageWindow);
        }
        let total = index_of(fragment.total);
        if !self.partial.contains_key(&fragment.id) {
            if self.bytes + total > CHANNEL_BYTES {
                return Err(Violation::MessageWindow);
            }
            self.bytes += total;
            let fresh =
                Incoming { kind, bytes: Zeroizing::new(vec![0; total]), have: RangeSet::new() };
            self.partial.insert(fragment.id, fresh);
        }
        let message = self.partial.get_mut(&fragment.id).expect("it is there or was just made");
        if message.kind != kind || message.bytes.len() != total {
            return Err(Violation::FragmentsDisagree);
        }
        message.take(fragment)
    }

    /// The next whole message, in order of id.
    pub(crate) fn pop(&mut self) -> Option<(PacketType, Zeroizing<Vec<u8>>)> {
        let message = self.partial.get(&self.next)?;
        if !message.have.contains_range(0..message.bytes.len() as u64) {
            return None;
        }
        let message = self.partial.remove(&self.next)?;
        self.bytes -= message.bytes.len();
        self.next += 1;
        Some((message.kind, message.bytes))
    }
}

impl Incoming {
    fn take(&mut self, fragment: &Fragment<'_>) -> Result<(), Violation> {
        let range = fragment.offset..fragment.offset + fragment.bytes.len() as u64;
        for have in self.have.overlapping(range.clone()) {
            let both = have.start.max(range.start)..have.end.min(range.end);
            if !both.is_empty() {
                let known = &self.bytes[index_of(both.start)..index_of(both.end)];
                let (start, end) = (both.start - range.start, both.end - range.start);
                if known != &fragment.bytes[index_of(start)..index_of(end)] {
                    return Err(Violation::FragmentsDisagree);
                }
            }
        }
        self.bytes[index_of(range.start)..index_of(range.end)].copy_from_slice(fragment.bytes);
        self.have.insert(range);
        if self.have.len() > MESSAGE_PIECES {
            return Err(Violation::MessageWindow);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
