//! The one cipher provider of this process.

use clawchat_core::crypto::aead::{self, CipherProvider};

/// The provider that all of this process seals, opens and agrees with, chosen when it is built: the
/// fast one, unless the feature `fast-crypto` is off.
#[must_use]
pub const fn provider() -> &'static dyn CipherProvider {
    #[cfg(feature = "fast-crypto")]
    let provider = &aead::AwsLc;
    #[cfg(not(feature = "fast-crypto"))]
    let provider = &aead::RustCrypto;
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_status_shows() {
        let fast = cfg!(feature = "fast-crypto");
        assert_eq!(provider().name(), if fast { "aws-lc" } else { "aes-gcm" });
    }
}
