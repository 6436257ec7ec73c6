//! AES-256-GCM behind one small trait. The only file that names an implementation of it.

use crate::limits::TAG_LEN;
use crate::secret::Secret;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{AesGcm, aes::Aes256Enc};
use alloc::boxed::Box;
use core::fmt::Debug;

/// A key of AES-256-GCM, 12-byte nonce, 16-byte detached tag (SPEC 4.1).
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

/// Makes packet ciphers: one provider a process, chosen at its start.
pub trait CipherProvider: Debug + Send + Sync {
    /// Its name, as `status` shows it.
    fn name(&self) -> &'static str;

    /// A cipher under `key`.
    fn packet_cipher(&self, key: &Secret<32>) -> Box<dyn PacketCipher>;
}

/// The portable provider: the `aes-gcm` crate.
#[derive(Clone, Copy, Debug)]
pub struct RustCrypto;

impl CipherProvider for RustCrypto {
    fn name(&self) -> &'static str {
        "aes-gcm"
    }

    fn packet_cipher(&self, key: &Secret<32>) -> Box<dyn PacketCipher> {
        Box::new(RustCryptoCipher(AesGcm::new(key.expose().into())))
    }
}

// The encrypting half of AES is all that GCM uses.
struct RustCryptoCipher(AesGcm<Aes256Enc, aes_gcm::aead::consts::U12>);

impl Debug for RustCryptoCipher {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("AES-256-GCM(…)")
    }
}

impl PacketCipher for RustCryptoCipher {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38D, test cases 13 and 15 of the GCM specification (AES-256).
    #[test]
    fn known_answers() {
        let cipher = RustCrypto.packet_cipher(&Secret::take(&mut [0; 32]));
        let tag = cipher.seal_in_place(&[0; 12], &[], &mut []);
        assert_eq!(tag[..4], [0x53, 0x0f, 0x8a, 0xfb]);
        let mut text = [0; 16];
        let tag = cipher.seal_in_place(&[0; 12], &[], &mut text);
        assert_eq!(text[..4], [0xce, 0xa7, 0x40, 0x3d]);
        assert_eq!(tag[..4], [0xd0, 0xd1, 0xc8, 0xa7]);
        assert!(!cipher.open_in_place(&[0; 12], &[1], &mut text.clone(), &tag));
        assert!(cipher.open_in_place(&[0; 12], &[], &mut text, &tag));
        assert_eq!(text, [0; 16]);
    }
}
