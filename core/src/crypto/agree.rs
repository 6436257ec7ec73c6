//! X25519 (RFC 7748). A key pair serves one epoch: the private key is used up by its one agreement.

use super::aead::CipherProvider;
use crate::secret::Secret;

/// A private key, wiped after its one use, and its public key.
#[derive(Debug)]
pub struct PrivateKey {
    provider: &'static dyn CipherProvider,
    private: Secret<32>,
    public: [u8; 32],
}

impl PrivateKey {
    /// A private key of 32 random bytes. Multiplies once, for the public key.
    #[must_use]
    pub fn new(provider: &'static dyn CipherProvider, private: Secret<32>) -> Self {
        let public = provider.x25519_public(&private);
        Self { provider, private, public }
    }

    /// Its public key.
    #[must_use]
    pub const fn public(&self) -> [u8; 32] {
        self.public
    }

    /// The shared secret with `peer`; `None` for an all-zero result (PROTOCOL 2.1).
    #[must_use]
    pub fn agree(self, peer: &[u8; 32]) -> Option<Secret<32>> {
        self.provider.x25519(self.private, peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::PROVIDERS;

    fn key(provider: &'static dyn CipherProvider, byte: u8) -> PrivateKey {
        PrivateKey::new(provider, Secret::take(&mut [byte; 32]))
    }

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
        for provider in PROVIDERS {
            for point in [[0; 32], one, minus_one, eight] {
                assert!(key(*provider, 7).agree(&point).is_none());
            }
        }
    }

    #[test]
    fn both_sides_agree() {
        for provider in PROVIDERS {
            let (a, b) = (key(*provider, 1).public(), key(*provider, 2).public());
            let (left, right) = (key(*provider, 1).agree(&b), key(*provider, 2).agree(&a));
            assert!(left.unwrap().same(&right.unwrap()));
        }
    }

    /// RFC 7748 section 6.1.
    #[test]
    fn known_answers() {
        let private = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2,
            0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5,
            0x1d, 0xb9, 0x2c, 0x2a,
        ];
        for provider in PROVIDERS {
            let key = PrivateKey::new(*provider, Secret::take(&mut { private }));
            assert_eq!(key.public()[..4], [0x85, 0x20, 0xf0, 0x09]);
        }
    }
}
