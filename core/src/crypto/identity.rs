//! Sequence numbers as message ids, and IVs from them (PROTOCOL 3): one block of AES each.

use crate::secret::Secret;
use crate::time::UnixMs;
use aes::Aes256;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use core::fmt;

/// A packet-identity key.
pub struct Identity(Aes256);

impl Identity {
    /// From `pid(dir)`, or from the key of first packets.
    #[must_use]
    pub fn new(key: &Secret<32>) -> Self {
        Self(Aes256::new(key.expose().into()))
    }

    /// The message id of `seq`; under the key of first packets, of a hello's nonce.
    #[must_use]
    pub fn message_id(&self, seq: u64) -> [u8; 16] {
        self.encrypt(u128::from(seq))
    }

    /// `seq` of a message id; `None` when it was not made with this key.
    #[must_use]
    pub fn seq(&self, message_id: &[u8; 16]) -> Option<u64> {
        let mut block = (*message_id).into();
        self.0.decrypt_block(&mut block);
        u64::try_from(u128::from_be_bytes(block.into())).ok()
    }

    /// The IV of `seq` sealed at `timestamp`.
    #[must_use]
    pub fn iv(&self, timestamp: UnixMs, seq: u64) -> [u8; 12] {
        let low = u128::from(timestamp.0 & 0x00ff_ffff_ffff_ffff) << 64 | u128::from(seq);
        let block = self.encrypt(1 << 120 | low);
        let [iv @ .., _, _, _, _] = block;
        iv
    }

    fn encrypt(&self, block: u128) -> [u8; 16] {
        let mut block = block.to_be_bytes().into();
        self.0.encrypt_block(&mut block);
        block.into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}
