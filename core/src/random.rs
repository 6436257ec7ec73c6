//! All randomness of a machine comes from one 32-byte seed that its driver draws from the operating
//! system. Two streams, so that what an observer sees (nonces, ids) says nothing about what it must
//! not (keys), and the same seed gives the same run in simulation.

use crate::secret::Secret;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};

/// The randomness a machine starts from: 32 bytes from the operating system, never used twice.
#[derive(Debug)]
pub struct Seed(Secret<32>);

impl Seed {
    /// Takes over 32 random bytes and wipes the caller's copy.
    #[must_use]
    pub fn new(bytes: &mut [u8; 32]) -> Self {
        Self(Secret::take(bytes))
    }
}

/// One stream with fast key erasure: every draw replaces the key, so that a later look into memory
/// tells nothing about earlier draws (SPEC 2.3).
#[derive(Debug)]
pub(crate) struct Stream {
    key: Secret<32>,
}

impl Stream {
    fn new(seed: &Secret<32>, which: u8) -> Self {
        let key = Secret::filled(|key| {
            let nonce = [which; 12];
            ChaCha20::new(seed.expose().into(), &nonce.into()).apply_keystream(key);
        });
        Self { key }
    }

    /// Fills `out` with random bytes.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        let mut cipher = ChaCha20::new(self.key.expose().into(), &[0; 12].into());
        self.key = Secret::filled(|key| cipher.apply_keystream(key));
        out.fill(0);
        cipher.apply_keystream(out);
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    pub(crate) fn secret<const N: usize>(&mut self) -> Secret<N> {
        Secret::filled(|out| self.fill(out))
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }
}

/// The two streams of a machine.
#[derive(Debug)]
pub(crate) struct Random {
    /// For values that go out in the clear or to the peer: nonces, challenges, message ids, salts.
    pub(crate) public: Stream,
    /// For keys and secrets.
    pub(crate) private: Stream,
}

impl Random {
    pub(crate) fn new(seed: &Seed) -> Self {
        Self { public: Stream::new(&seed.0, 1), private: Stream::new(&seed.0, 2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_repeat() {
        let random = || Random::new(&Seed::new(&mut [3; 32]));
        let (mut a, mut b) = (random(), random());
        let first: [u8; 32] = a.public.array();
        assert_eq!(first, b.public.array());
        assert_ne!(first, a.public.array());
        assert_ne!(first, a.private.array());
        let mut long = [0; 200];
        a.public.fill(&mut long);
        assert!(long.chunks(8).all(|chunk| chunk != [0; 8]));
    }
}
