//! The fast provider, `aws-lc-rs`: for programs with an operating system, built with a C compiler.

use super::{CipherProvider, PacketCipher};
use crate::limits::TAG_LEN;
use crate::secret::Secret;
use alloc::boxed::Box;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use core::fmt;

/// The fast provider: the `aws-lc-rs` crate. Feature `aws-lc`.
#[derive(Clone, Copy, Debug)]
pub struct AwsLc;

impl CipherProvider for AwsLc {
    fn name(&self) -> &'static str {
        "aws-lc"
    }

    fn packet_cipher(&self, key: &Secret<32>) -> Box<dyn PacketCipher> {
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("a key is of 32 bytes");
        Box::new(Cipher(LessSafeKey::new(key)))
    }

    fn x25519_public(&self, private: &Secret<32>) -> [u8; 32] {
        let public = key_pair(private).compute_public_key().expect("it was computed with the pair");
        *public.as_ref().first_chunk().expect("a public key is of 32 bytes")
    }

    fn x25519(&self, private: Secret<32>, peer: &[u8; 32]) -> Option<Secret<32>> {
        // It refuses an all-zero result itself.
        let peer = UnparsedPublicKey::new(&X25519, peer);
        agree(&key_pair(&private), peer, (), |shared| Secret::from_slice(shared).ok_or(())).ok()
    }
}

/// The library's copy of a private key lives for one computation. Its allocator wipes what it frees.
fn key_pair(private: &Secret<32>) -> PrivateKey {
    PrivateKey::from_private_key(&X25519, private.expose()).expect("any 32 bytes are a private key")
}

/// The key is in the library's memory, which is wiped when freed. "Less safe" means that nonces are
/// the caller's affair, as PROTOCOL 3 wants it.
struct Cipher(LessSafeKey);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AES-256-GCM(…)")
    }
}

impl PacketCipher for Cipher {
    fn seal_in_place(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), text)
            .expect("GCM refuses only texts over 64 GiB");
        *tag.as_ref().first_chunk().expect("a tag is of 16 bytes")
    }

    fn open_in_place(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.open_in_place_separate_tag(nonce, Aad::from(aad), tag, text).is_ok()
    }
}
