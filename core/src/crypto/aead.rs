//! AES-256-GCM and X25519 behind one small trait. Only the files of this module name an
//! implementation of AES-GCM.

use crate::limits::TAG_LEN;
use crate::secret::Secret;
use alloc::boxed::Box;
use core::fmt::Debug;

#[cfg(feature = "aws-lc")]
mod aws_lc;
mod rust_crypto;

#[cfg(feature = "aws-lc")]
pub use aws_lc::AwsLc;
pub use rust_crypto::RustCrypto;

/// A key of AES-256-GCM, 12-byte nonce, 16-byte detached tag (SPEC 4.1). Prepared once, and wiped when
/// dropped; sealing and opening allocate nothing.
pub trait PacketCipher: Debug + Send + Sync {
    /// Encrypts `text` in place and returns its tag. At most 65,504 bytes.
    fn seal_in_place(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN];

    /// Decrypts `text` in place; false, and `text` of no use, when the tag does not fit.
    fn open_in_place(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool;
}

/// Makes packet ciphers and agrees on secrets: one provider a process, chosen at its start.
pub trait CipherProvider: Debug + Send + Sync {
    /// Its name, as `status` shows it.
    fn name(&self) -> &'static str;

    /// A cipher under `key`.
    fn packet_cipher(&self, key: &Secret<32>) -> Box<dyn PacketCipher>;

    /// The X25519 public key of `private` (RFC 7748). [`PrivateKey`](super::agree::PrivateKey) is how
    /// it is asked for.
    fn x25519_public(&self, private: &Secret<32>) -> [u8; 32];

    /// X25519 of `private`, which is used up, and a peer's public key; `None` for an all-zero result
    /// (PROTOCOL 2.1).
    fn x25519(&self, private: Secret<32>, peer: &[u8; 32]) -> Option<Secret<32>>;
}

/// All providers of this build, which must not be told apart by what they make.
#[cfg(test)]
pub(crate) const PROVIDERS: &[&dyn CipherProvider] = &[
    &RustCrypto,
    #[cfg(feature = "aws-lc")]
    &AwsLc,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38D, test cases 13 and 15 of the GCM specification (AES-256).
    #[test]
    fn known_answers() {
        for provider in PROVIDERS {
            let cipher = provider.packet_cipher(&Secret::take(&mut [0; 32]));
            let tag = cipher.seal_in_place(&[0; 12], &[], &mut []);
            assert_eq!(tag[..4], [0x53, 0x0f, 0x8a, 0xfb]);
            assert!(cipher.open_in_place(&[0; 12], &[], &mut [], &tag));
            let mut text = [0; 16];
            let tag = cipher.seal_in_place(&[0; 12], &[], &mut text);
            assert_eq!(text[..4], [0xce, 0xa7, 0x40, 0x3d]);
            assert_eq!(tag[..4], [0xd0, 0xd1, 0xc8, 0xa7]);
            assert!(!cipher.open_in_place(&[0; 12], &[1], &mut text.clone(), &tag));
            assert!(!cipher.open_in_place(&[1; 12], &[], &mut text.clone(), &tag));
            assert!(!cipher.open_in_place(&[0; 12], &[], &mut text.clone(), &[0; 16]));
            assert!(cipher.open_in_place(&[0; 12], &[], &mut text, &tag));
            assert_eq!(text, [0; 16]);
        }
    }

    #[test]
    fn no_cipher_shows_its_key() {
        for provider in PROVIDERS {
            let cipher = provider.packet_cipher(&Secret::take(&mut [0xab; 32]));
            assert_eq!(alloc::format!("{cipher:?}"), "AES-256-GCM(…)");
        }
    }
}

#[cfg(test)]
#[cfg(feature = "aws-lc")]
mod both {
    use super::*;
    use crate::limits::{DATAGRAM_MAX, OVERHEAD};
    use alloc::vec::Vec;
    use quickcheck::{Arbitrary, Gen, quickcheck};

    /// The largest plaintext of a packet.
    const LARGEST: usize = DATAGRAM_MAX - OVERHEAD;

    /// 32 bytes that any provider may be given as a key.
    #[derive(Clone, Copy, Debug)]
    struct Key([u8; 32]);

    impl Arbitrary for Key {
        fn arbitrary(g: &mut Gen) -> Self {
            Self(core::array::from_fn(|_| u8::arbitrary(g)))
        }
    }

    impl Key {
        fn secret(self) -> Secret<32> {
            Secret::take(&mut { self.0 })
        }
    }

    /// Whether either provider makes the same of a text, and opens what the other made.
    fn same(key: Key, nonce: [u8; 12], aad: &[u8; 26], text: &[u8]) -> bool {
        let ours = RustCrypto.packet_cipher(&key.secret());
        let other = AwsLc.packet_cipher(&key.secret());
        let (mut a, mut b) = (text.to_vec(), text.to_vec());
        let tag = ours.seal_in_place(&nonce, aad, &mut a);
        if tag != other.seal_in_place(&nonce, aad, &mut b) || a != b {
            return false;
        }
        let mut broken = tag;
        broken[text.len() % TAG_LEN] ^= 1;
        !ours.open_in_place(&nonce, aad, &mut a.clone(), &broken)
            && !other.open_in_place(&nonce, aad, &mut a.clone(), &broken)
            && ours.open_in_place(&nonce, aad, &mut b, &tag)
            && other.open_in_place(&nonce, aad, &mut a, &tag)
            && a == text
            && b == text
    }

    fn pattern(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed).collect()
    }

    #[test]
    fn every_length() {
        let (key, aad) = (Key([0x5a; 32]), [0x20; 26]);
        for len in (0..=2048).chain([LARGEST]) {
            assert!(same(key, [len as u8; 12], &aad, &pattern(len, 1)), "{len} bytes");
        }
    }

    quickcheck! {
        fn same_bytes(key: Key, other: Key, len: usize, seed: u8) -> bool {
            let nonce = *other.0.first_chunk().unwrap();
            let aad = other.0.first_chunk().unwrap();
            let len = if seed == 0 { LARGEST } else { len % 2049 };
            same(key, nonce, aad, &pattern(len, seed))
        }

        fn same_agreement(a: Key, b: Key) -> bool {
            let agreed = RustCrypto.x25519(a.secret(), &b.0).unwrap();
            RustCrypto.x25519_public(&a.secret()) == AwsLc.x25519_public(&a.secret())
                && AwsLc.x25519(a.secret(), &b.0).unwrap().same(&agreed)
        }
    }
}
