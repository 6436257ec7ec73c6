//! The portable provider, and the only one without `std`: `aes-gcm` and `x25519-dalek`.

use super::{CipherProvider, PacketCipher};
use crate::limits::TAG_LEN;
use crate::secret::Secret;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{AesGcm, aes::Aes256Enc};
use alloc::boxed::Box;
use core::fmt;
use x25519_dalek::{PublicKey, StaticSecret};

/// The portable provider: the `aes-gcm` and `x25519-dalek` crates.
#[derive(Clone, Copy, Debug)]
pub struct RustCrypto;

impl CipherProvider for RustCrypto {
    fn name(&self) -> &'static str {
        "aes-gcm"
    }

    fn packet_cipher(&self, key: &Secret<32>) -> Box<dyn PacketCipher> {
        Box::new(Cipher(AesGcm::new(key.expose().into())))
    }

    fn x25519_public(&self, private: &Secret<32>) -> [u8; 32] {
        PublicKey::from(&StaticSecret::from(*private.expose())).to_bytes()
    }

    fn x25519(&self, private: Secret<32>, peer: &[u8; 32]) -> Option<Secret<32>> {
        let own = StaticSecret::from(*private.expose());
        let shared = own.diffie_hellman(&PublicKey::from(*peer));
        shared
            .was_contributory()
            .then(|| Secret::filled(|out| out.copy_from_slice(shared.as_bytes())))
    }
}

// The encrypting half of AES is all that GCM uses.
struct Cipher(AesGcm<Aes256Enc, aes_gcm::aead::consts::U12>);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AES-256-GCM(…)")
    }
}

impl PacketCipher for Cipher {
    fn seal_in_place(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        self.0
            .encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text))
            .expect("GCM refuses only texts over 64 GiB")
            .into()
    }

    fn open_in_place(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        let text = InOutBuf::from(text);
        self.0.decrypt_inout_detached(nonce.into(), aad, text, tag.into()).is_ok()
    }
}
