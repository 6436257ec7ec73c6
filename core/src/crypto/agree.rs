//! X25519 (RFC 7748). A key pair serves one epoch: the private key is used up by its one agreement.

use crate::secret::Secret;
use x25519_dalek::{PublicKey, StaticSecret};

/// A private key, wiped after its one use.
#[derive(Debug)]
pub struct PrivateKey(Secret<32>);

impl PrivateKey {
    /// A private key of 32 random bytes.
    #[must_use]
    pub const fn new(bytes: Secret<32>) -> Self {
        Self(bytes)
    }

    /// Its public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        PublicKey::from(&StaticSecret::from(*self.0.expose())).to_bytes()
    }

    /// The shared secret with `peer`; `None` for an all-zero result (PROTOCOL 2.1).
    #[must_use]
    pub fn agree(self, peer: &[u8; 32]) -> Option<Secret<32>> {
        let own = StaticSecret::from(*self.0.expose());
        let shared = own.diffie_hellman(&PublicKey::from(*peer));
        shared
            .was_contributory()
            .then(|| Secret::filled(|out| out.copy_from_slice(shared.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_order_points_are_refused() {
        // The points of order 1, 2, 4 and 8 (RFC 7748 section 6.1 asks for this check).
        let mut one = [0; 32];
        one[0] = 1;
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        let eight = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f,
            0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16,
            0x5f, 0x49, 0xb8, 0x00,
        ];
        for point in [[0; 32], one, minus_one, eight] {
            assert!(PrivateKey::new(Secret::take(&mut [7; 32])).agree(&point).is_none());
        }
    }

    #[test]
    fn both_sides_agree() {
        let key = |byte| PrivateKey::new(Secret::take(&mut [byte; 32]));
        let (a, b) = (key(1).public(), key(2).public());
        assert!(key(1).agree(&b).unwrap().same(&key(2).agree(&a).unwrap()));
    }
}
