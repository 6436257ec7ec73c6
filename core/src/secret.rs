//! Key material: on the heap so that moves leave no copies behind, wiped when dropped, never printed.

use alloc::boxed::Box;
use core::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// `N` secret bytes. No `Clone`, no `PartialEq`; comparison is [`Secret::same`], in constant time.
pub struct Secret<const N: usize>(Box<Zeroizing<[u8; N]>>);

impl<const N: usize> Secret<N> {
    /// Takes over `bytes` and wipes the caller's copy.
    #[must_use]
    pub fn take(bytes: &mut [u8; N]) -> Self {
        let secret = Self::filled(|own| own.copy_from_slice(bytes));
        bytes.zeroize();
        secret
    }

    /// A secret filled by `fill`, with no copy outside the heap.
    pub fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self(Box::new(Zeroizing::new([0; N])));
        fill(&mut secret.0);
        secret
    }

    /// A secret from a slice of exactly `N` bytes; `None` for another length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == N).then(|| Self::filled(|own| own.copy_from_slice(bytes)))
    }

    /// The bytes, for the cryptographic functions that need them.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// A second copy, asked for by name because it doubles what must be wiped.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::filled(|own| own.copy_from_slice(self.expose()))
    }

    /// Constant-time comparison.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{N}>(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_and_hides() {
        let mut bytes = [7; 32];
        let secret = Secret::take(&mut bytes);
        assert_eq!(bytes, [0; 32]);
        assert_eq!(secret.expose(), &[7; 32]);
        assert_eq!(alloc::format!("{secret:?}"), "Secret<32>(…)");
        assert!(secret.same(&secret.duplicate()));
        assert!(!secret.same(&Secret::take(&mut [8; 32])));
        assert!(Secret::<32>::from_slice(&[0; 31]).is_none());
    }
}
