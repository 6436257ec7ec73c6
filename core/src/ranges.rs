//! A set of `u64` half-open ranges: received sequence numbers, acknowledged and lost bytes.

use alloc::vec::Vec;
use core::ops::Range;

/// Disjoint, non-adjacent half-open ranges in ascending order.
///
/// Kept in a vector: the sets of this protocol are short and capped, and grow at their end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds `range`; true if that added anything.
    pub fn insert(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        // What comes in order comes to the end.
        match self.0.last_mut() {
            Some(last) if range.start > last.end => {}
            Some(last) if range.start >= last.start => {
                let grows = range.end > last.end;
                last.end = last.end.max(range.end);
                return grows;
            }
            Some(_) => return self.insert_within(range),
            None => {}
        }
        self.0.push(range);
        true
    }

    /// The same for a range that begins before the last one does.
    fn insert_within(&mut self, range: Range<u64>) -> bool {
        let first = self.0.partition_point(|have| have.end < range.start);
        let last = self.0.partition_point(|have| have.start <= range.end);
        if first == last {
            self.0.insert(first, range);
            return true;
        }
        let (start, end) = (self.0[first].start, self.0[last - 1].end);
        if last - first == 1 && start <= range.start && range.end <= end {
            return false;
        }
        self.0[first] = start.min(range.start)..end.max(range.end);
        self.0.drain(first + 1..last);
        true
    }

    /// Takes `range` out; true if that removed anything.
    pub fn remove(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        let first = self.0.partition_point(|have| have.end <= range.start);
        let last = self.0.partition_point(|have| have.start < range.end);
        if first == last {
            return false;
        }
        let left = self.0[first].start..range.start;
        let right = range.end..self.0[last - 1].end;
        match (left.is_empty(), right.is_empty()) {
            (true, true) => drop(self.0.drain(first..last)),
            (false, false) if last - first == 1 => {
                self.0[first] = left;
                self.0.insert(last, right);
            }
            (is_left, is_right) => {
                if !is_left {
                    self.0[first] = left;
                }
                if !is_right {
                    self.0[last - 1] = right;
                }
                self.0.drain(first + usize::from(!is_left)..last - usize::from(!is_right));
            }
        }
        true
    }

    /// Whether every number of `range` is in the set.
    #[must_use]
    pub fn contains_range(&self, range: Range<u64>) -> bool {
        let at = self.0.partition_point(|have| have.end < range.end);
        range.is_empty() || self.0.get(at).is_some_and(|have| have.start <= range.start)
    }

    /// The ranges that have numbers in common with `range`, without a look at the others.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = &Range<u64>> {
        let first = self.0.partition_point(|have| have.end <= range.start);
        self.0[first..].iter().take_while(move |have| have.start < range.end)
    }

    /// Whether `value` is in the set.
    #[must_use]
    pub fn contains(&self, value: u64) -> bool {
        let at = self.0.partition_point(|have| have.end <= value);
        self.0.get(at).is_some_and(|have| have.start <= value)
    }

    /// Takes out and returns the lowest range, at most `limit` numbers of it.
    pub fn take_first(&mut self, limit: u64) -> Option<Range<u64>> {
        let range = self.0.first()?.clone();
        let taken = range.start..range.end.min(range.start.saturating_add(limit));
        self.remove(taken.clone());
        Some(taken)
    }

    /// Drops the lowest ranges until at most `count` are left.
    pub fn keep_last(&mut self, count: usize) {
        let excess = self.0.len().saturating_sub(count);
        self.0.drain(..excess);
    }

    /// Gives back room that is not needed now.
    pub(crate) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Range<u64>> + ExactSizeIterator + Clone {
        self.0.iter()
    }

    /// Number of disjoint ranges.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use quickcheck::quickcheck;

    quickcheck! {
        /// The set of ranges and a set of numbers agree after any operations.
        fn agrees_with_a_plain_set(operations: Vec<(bool, u8, u8)>) -> bool {
            let (mut set, mut model) = (RangeSet::new(), BTreeSet::new());
            operations.into_iter().all(|(insert, start, length)| {
                let range = u64::from(start)..u64::from(start) + u64::from(length % 20);
                let before = model.len();
                let changed = if insert {
                    model.extend(range.clone());
                    set.insert(range.clone())
                } else {
                    model.retain(|value| !range.contains(value));
                    set.remove(range.clone())
                };
                let apart = set.0.windows(2).all(|pair| pair[0].end < pair[1].start);
                changed == (model.len() != before)
                    && apart
                    && set.iter().all(|range| !range.is_empty())
                    && set.iter().cloned().flatten().eq(model.iter().copied())
                    && set.contains_range(range.clone()) == range.clone().all(|v| model.contains(&v))
                    && set.contains(range.start) == model.contains(&range.start)
            })
        }
    }

    #[test]
    fn takes_in_order_and_keeps_the_newest() {
        let mut set = RangeSet::new();
        for start in [10, 0, 20] {
            set.insert(start..start + 5);
        }
        assert_eq!(set.take_first(3), Some(0..3));
        assert_eq!(set.take_first(3), Some(3..5));
        set.keep_last(1);
        assert_eq!(set.take_first(100), Some(20..25));
        assert_eq!(set.take_first(1), None);
    }
}
