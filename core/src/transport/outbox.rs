//! What of our files the peer still needs (PROTOCOL 5.6): ranges, never bytes. Whoever reads the file
//! is asked for a lost range again.

use crate::ranges::RangeSet;
use alloc::collections::BTreeMap;
use core::ops::Range;

/// One file on its way.
#[derive(Debug)]
struct Outgoing {
    size: u64,
    /// No byte at or past this yet.
    limit: u64,
    /// Never sent.
    fresh: RangeSet,
    /// Sent, and lost on the way.
    lost: RangeSet,
    /// The peer has them.
    acked: RangeSet,
    /// Bytes of those.
    held: u64,
}

impl Outgoing {
    /// What goes next: what was lost before what is new.
    fn next(&self) -> Option<Range<u64>> {
        let lost = self.lost.iter().next().cloned();
        lost.or_else(|| {
            let fresh = self.fresh.iter().next()?;
            let range = fresh.start..fresh.end.min(self.limit);
            (!range.is_empty()).then_some(range)
        })
    }
}

/// All files that we send.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    transfers: BTreeMap<u64, Outgoing>,
    /// The transfer that sent last: the others have their turn first.
    last: u64,
}

impl Outbox {
    /// The transfer that sent last, if there is none any more.
    pub(crate) fn resting(&self) -> Option<u64> {
        self.transfers.is_empty().then_some(self.last)
    }

    /// The same after a rest.
    pub(crate) fn woken(last: u64) -> Self {
        Self { last, ..Self::default() }
    }

    /// A file of `size` bytes goes, but for what the peer has.
    pub(crate) fn start(&mut self, transfer: u64, size: u64, have: RangeSet, limit: u64) {
        let mut fresh = RangeSet::new();
        fresh.insert(0..size);
        for range in have.iter() {
            fresh.remove(range.clone());
        }
        let held = have.iter().map(|range| range.end - range.start).sum();
        let lost = RangeSet::new();
        let outgoing = Outgoing { size, limit, fresh, lost, acked: have, held };
        self.transfers.insert(transfer, outgoing);
    }

    /// Raises the limit of a transfer; a lower one changes nothing.
    pub(crate) fn raise(&mut self, transfer: u64, limit: u64) {
        if let Some(outgoing) = self.transfers.get_mut(&transfer) {
            outgoing.limit = outgoing.limit.max(limit);
        }
    }

    /// Nothing more of it goes.
    pub(crate) fn stop(&mut self, transfer: u64) {
        self.transfers.remove(&transfer);
    }

    /// What goes next, transfers taking turns.
    pub(crate) fn next(&self) -> Option<(u64, Range<u64>)> {
        let next = |(transfer, outgoing): (&u64, &Outgoing)| Some((*transfer, outgoing.next()?));
        let after = self.transfers.range(self.last + 1..).find_map(next);
        after.or_else(|| self.transfers.range(..=self.last).find_map(next))
    }

    /// What still goes of a range that [`Self::next`] named: the file may have been stopped meanwhile.
    pub(crate) fn wants(&self, transfer: u64, range: &Range<u64>) -> bool {
        let next = self.transfers.get(&transfer).and_then(Outgoing::next);
        next.is_some_and(|next| next.start == range.start && range.end <= next.end)
    }

    /// A range went out.
    pub(crate) fn sent(&mut self, transfer: u64, range: Range<u64>) {
        self.last = transfer;
        if let Some(outgoing) = self.transfers.get_mut(&transfer) {
            outgoing.fresh.remove(range.clone());
            outgoing.lost.remove(range);
        }
    }

    /// A range may be lost: it goes again unless it has arrived.
    pub(crate) fn lost(&mut self, transfer: u64, range: Range<u64>) {
        let Some(outgoing) = self.transfers.get_mut(&transfer) else { return };
        outgoing.lost.insert(range.clone());
        let mut arrived = RangeSet::new();
        for acked in outgoing.acked.overlapping(range) {
            arrived.insert(acked.clone());
        }
        for range in arrived.iter() {
            outgoing.lost.remove(range.clone());
        }
    }

    /// A range has arrived.
    pub(crate) fn acked(&mut self, transfer: u64, range: Range<u64>) {
        let Some(outgoing) = self.transfers.get_mut(&transfer) else { return };
        let known: u64 = outgoing
            .acked
            .overlapping(range.clone())
            .map(|have| have.end.min(range.end) - have.start.max(range.start))
            .sum();
        outgoing.held += range.end - range.start - known;
        outgoing.lost.remove(range.clone());
        outgoing.acked.insert(range);
    }

    /// Whether every byte was sent once, or was there before.
    pub(crate) fn is_sent(&self, transfer: u64) -> bool {
        self.transfers.get(&transfer).is_some_and(|outgoing| outgoing.fresh.is_empty())
    }

    /// Bytes that the peer has, of how many.
    pub(crate) fn progress(&self, transfer: u64) -> Option<(u64, u64)> {
        self.transfers.get(&transfer).map(|outgoing| (outgoing.held, outgoing.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use quickcheck::quickcheck;

    fn set(ranges: &[Range<u64>]) -> RangeSet {
        let mut set = RangeSet::new();
        ranges.iter().for_each(|range| {
            set.insert(range.clone());
        });
        set
    }

    #[test]
    fn what_is_held_or_past_the_limit_stays() {
        let mut outbox = Outbox::default();
        outbox.start(0, 100, set(&[0..10, 50..60]), 30);
        assert_eq!(outbox.next(), Some((0, 10..30)));
        assert!(outbox.wants(0, &(10..20)) && !outbox.wants(0, &(10..31)));
        assert!(!outbox.wants(1, &(10..20)));
        outbox.sent(0, 10..30);
        assert_eq!(outbox.next(), None);
        outbox.raise(0, 20);
        assert_eq!(outbox.next(), None);
        outbox.raise(0, u64::MAX);
        assert_eq!(outbox.next(), Some((0, 30..50)));
        outbox.sent(0, 30..50);
        assert_eq!(outbox.next(), Some((0, 60..100)));
        assert!(!outbox.is_sent(0));
        outbox.sent(0, 60..100);
        assert!(outbox.is_sent(0));
        assert_eq!(outbox.progress(0), Some((20, 100)));
        outbox.acked(0, 5..40);
        outbox.acked(0, 5..40);
        assert_eq!(outbox.progress(0), Some((50, 100)));
    }

    #[test]
    fn lost_ranges_go_first_and_arrived_ones_never() {
        let mut outbox = Outbox::default();
        outbox.start(0, 100, RangeSet::new(), 100);
        outbox.sent(0, 0..80);
        outbox.acked(0, 20..30);
        outbox.lost(0, 10..40);
        assert_eq!(outbox.next(), Some((0, 10..20)));
        outbox.acked(0, 0..20);
        assert_eq!(outbox.next(), Some((0, 30..40)));
        outbox.sent(0, 30..40);
        assert_eq!(outbox.next(), Some((0, 80..100)));
        outbox.stop(0);
        assert_eq!(outbox.next(), None);
        outbox.lost(0, 0..10);
        assert_eq!(outbox.progress(0), None);
    }

    #[test]
    fn transfers_take_turns() {
        let mut outbox = Outbox::default();
        for transfer in 0..3 {
            outbox.start(transfer, 20, RangeSet::new(), 20);
        }
        let mut turns = [0; 6];
        for turn in &mut turns {
            let (transfer, range) = outbox.next().unwrap();
            outbox.sent(transfer, range.start..range.start + 10);
            *turn = transfer;
        }
        assert_eq!(turns, [1, 2, 0, 1, 2, 0]);
        assert_eq!(outbox.next(), None);
    }

    quickcheck! {
        /// Whatever is lost and acknowledged in whatever order, in the end all has arrived, and
        /// nothing that has is sent again.
        fn all_arrives(size: u16, fates: Vec<u8>) -> bool {
            let size = u64::from(size);
            let mut outbox = Outbox::default();
            outbox.start(0, size, RangeSet::new(), size);
            let mut arrived = RangeSet::new();
            let mut fates = fates.into_iter();
            while let Some((transfer, range)) = outbox.next() {
                let range = range.start..range.end.min(range.start + 1400);
                if arrived.overlapping(range.clone()).next().is_some() {
                    return false;
                }
                outbox.sent(transfer, range.clone());
                if fates.next().unwrap_or(0) % 3 == 1 {
                    outbox.lost(transfer, range);
                } else {
                    outbox.acked(transfer, range.clone());
                    arrived.insert(range);
                }
            }
            outbox.is_sent(0) && outbox.progress(0) == Some((size, size))
        }
    }
}
