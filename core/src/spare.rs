//! A value that is its default most of the time.

use alloc::boxed::Box;
use core::ops::{Deref, DerefMut};

/// What has a state in which it need not be kept.
pub(crate) trait Unused: Default + 'static {
    /// That state.
    const UNUSED: &'static Self;

    /// Whether it is in that state.
    fn is_unused(&self) -> bool;

    /// Gives back room that is not needed now, in whatever state it is.
    fn release(&mut self) {}
}

/// One word until the value is changed, and again once it rests unused.
#[derive(Debug)]
pub(crate) struct Spare<T>(Option<Box<T>>);

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Unused> Spare<T> {
    /// Gives back what room is not used.
    pub(crate) fn rest(&mut self) {
        if let Some(value) = &mut self.0 {
            value.release();
            self.0.take_if(|value| value.is_unused());
        }
    }
}

impl<T: Unused> Deref for Spare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::UNUSED)
    }
}

impl<T: Unused> DerefMut for Spare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Unused for u64 {
        const UNUSED: &'static Self = &0;

        fn is_unused(&self) -> bool {
            *self == 0
        }
    }

    #[test]
    fn small_while_unused() {
        let mut spare = Spare::<u64>::default();
        assert_eq!((*spare, size_of_val(&spare)), (0, size_of::<usize>()));
        assert!(spare.0.is_none());
        *spare += 3;
        spare.rest();
        assert_eq!(*spare, 3);
        *spare -= 3;
        assert!(spare.0.is_some());
        spare.rest();
        assert!(spare.0.is_none() && *spare == 0);
    }
}
