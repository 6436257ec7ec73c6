//! Sealing and opening a security file (SPEC 6.3, PROTOCOL 8). Pure, but slow by intent: 100,000
//! rounds of PBKDF2 take tens of milliseconds, so callers run it off their loop.

use super::aead::CipherProvider;
use crate::limits::ITERATIONS;
use crate::secret::Secret;
use crate::wire::message::hex;
use crate::wire::secfile::{Envelope, FileRefusal, SecurityFile};
use alloc::string::String;
use alloc::vec::Vec;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

fn file_key(bootstrap_key: &Secret<32>, salt: &[u8; 32], iterations: u32) -> Secret<32> {
    Secret::filled(|key| {
        pbkdf2::pbkdf2_hmac::<Sha256>(bootstrap_key.expose(), salt, iterations, key);
    })
}

/// The bytes of a security file. `salt` and `iv` are fresh random bytes.
#[must_use]
pub fn seal(
    provider: &dyn CipherProvider,
    file: &SecurityFile,
    bootstrap_key: &Secret<32>,
    salt: [u8; 32],
    iv: [u8; 12],
) -> Vec<u8> {
    let mut object = file.to_object();
    let mut ciphertext = object.encode();
    object.zeroize();
    let cipher = provider.packet_cipher(&file_key(bootstrap_key, &salt, ITERATIONS));
    let tag = cipher.seal_in_place(&iv, &[], &mut ciphertext);
    let mut envelope = Envelope {
        salt,
        iv,
        ciphertext,
        tag,
        iterations: ITERATIONS,
        timestamp: file.timestamp,
        checksum: None,
    };
    envelope.checksum = Some(checksum(&envelope));
    envelope.encode()
}

/// Opens a security file and checks all that PROTOCOL 8 asks of its reader but the time, which is
/// [`SecurityFile::check_time`].
///
/// # Errors
/// Every [`FileRefusal`] but those about time.
pub fn open(
    provider: &dyn CipherProvider,
    bytes: &[u8],
    bootstrap_key: &Secret<32>,
) -> Result<SecurityFile, FileRefusal> {
    let envelope = Envelope::parse(bytes)?;
    let cipher =
        provider.packet_cipher(&file_key(bootstrap_key, &envelope.salt, envelope.iterations));
    let mut text = Zeroizing::new(envelope.ciphertext.clone());
    if cipher.open_in_place(&envelope.iv, &[], &mut text, &envelope.tag) {
        return SecurityFile::parse(&text);
    }
    Err(match &envelope.checksum {
        None => FileRefusal::WrongKeyOrDamaged,
        Some(given) if *given == checksum(&envelope) => FileRefusal::WrongKey,
        Some(_) => FileRefusal::Damaged,
    })
}

/// First 8 hex digits of SHA-256 over salt ‖ iv ‖ ciphertext ‖ tag (PROTOCOL 8).
#[must_use]
pub fn checksum(envelope: &Envelope) -> String {
    let hash = Sha256::new()
        .chain_update(envelope.salt)
        .chain_update(envelope.iv)
        .chain_update(&envelope.ciphertext)
        .chain_update(envelope.tag)
        .finalize();
    hex(&hash[..4])
}
