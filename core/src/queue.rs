//! A queue that is empty most of the time.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::collections::vec_deque;

/// As [`VecDeque`], but in one word until something is in it.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "one word instead of four")]
pub(crate) struct Queue<T>(Option<Box<VecDeque<T>>>);

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    pub(crate) fn push_back(&mut self, item: T) {
        self.0.get_or_insert_default().push_back(item);
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.0.as_mut()?.pop_front()
    }

    pub(crate) fn extend(&mut self, items: impl Iterator<Item = T>) {
        items.for_each(|item| self.push_back(item));
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        if let Some(queue) = &mut self.0 {
            queue.retain(keep);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Gives the room back, if nothing is in it.
    pub(crate) fn rest(&mut self) {
        self.0.take_if(|queue| queue.is_empty());
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> IntoIterator for Queue<T> {
    type Item = T;
    type IntoIter = vec_deque::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.map_or_else(VecDeque::new, |queue| *queue).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn in_order_and_small_when_empty() {
        let mut queue = Queue::new();
        assert_eq!(queue.pop_front(), None);
        queue.extend(1..=5);
        queue.retain(|item| item % 2 == 1);
        queue.rest();
        assert_eq!((queue.len(), queue.pop_front()), (3, Some(1)));
        queue.push_back(9);
        assert_eq!(queue.into_iter().collect::<Vec<_>>(), [3, 5, 9]);
        let mut queue = Queue::new();
        queue.extend(0..3);
        while queue.pop_front().is_some() {}
        assert!(queue.is_empty() && queue.0.is_some());
        queue.rest();
        assert!(queue.0.is_none());
        assert_eq!(size_of::<Queue<u8>>(), size_of::<usize>());
        assert_eq!(Queue::<u8>::default().into_iter().count(), 0);
    }
}
