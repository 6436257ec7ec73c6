//! Signatures of the compromised messages (PROTOCOL 7).

use crate::secret::Secret;
use crate::wire::canonical::canonical;
use crate::wire::json::Object;
use crate::wire::message::hex;
use alloc::string::String;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// `hex(HMAC(mac(dir), canonical(object without "signature")))`; `None` for an object with a float.
#[must_use]
pub fn signature(mac: &Secret<32>, object: &Object) -> Option<String> {
    let mut hmac = <Hmac<Sha256> as KeyInit>::new_from_slice(mac.expose())
        .expect("HMAC takes keys of any length");
    hmac.update(&canonical(object)?);
    Some(hex(&hmac.finalize().into_bytes()))
}

/// Whether the object's own `signature` is right, compared in constant time.
#[must_use]
pub fn verify(mac: &Secret<32>, object: &Object) -> bool {
    let (Some(expected), Ok(given)) = (signature(mac, object), object.text("signature")) else {
        return false;
    };
    expected.as_bytes().ct_eq(given.as_bytes()).into()
}
