//! Key derivation (PROTOCOL 2).

use crate::id::Epoch;
use crate::secret::Secret;
use crate::time::UnixMs;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const SESSION_KEYS: &[u8] = b"ClawChat v2.0 Session Keys";
const SESSION: &[u8] = b"ClawChat-v2-Session";

/// Direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    C2s,
    /// Server to client.
    S2c,
}

impl Direction {
    /// The ASCII text that keys are derived with.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::C2s => "c2s",
            Self::S2c => "s2c",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::C2s => Self::S2c,
            Self::S2c => Self::C2s,
        }
    }
}

/// The keys of one epoch (SPEC 5.3).
#[derive(Debug)]
pub struct EpochKeys {
    /// Packet keys are expanded from this.
    pub encryption_key: Secret<32>,
    /// Signature keys are expanded from this.
    pub mac_key: Secret<32>,
    /// Packet-identity keys are expanded from this.
    pub iv_key: Secret<32>,
    /// Goes into the next epoch.
    pub next_key_seed: Secret<32>,
}

/// `derive(secret, context)` of PROTOCOL 2.1.
#[must_use]
pub fn derive(secret: &[u8], context: &[u8]) -> EpochKeys {
    let salt = Sha256::new().chain_update(secret).chain_update(context).finalize();
    let mut keys = Zeroizing::new([0; 128]);
    Hkdf::<Sha256>::new(Some(&salt), secret)
        .expand(SESSION_KEYS, &mut *keys)
        .expect("128 bytes are less than 255 hashes");
    let part = |at: usize| Secret::filled(|out| out.copy_from_slice(&keys[at..at + 32]));
    EpochKeys {
        encryption_key: part(0),
        mac_key: part(32),
        iv_key: part(64),
        next_key_seed: part(96),
    }
}

/// Epoch 0 (PROTOCOL 2.1): `timestamp` is the hello's.
#[must_use]
pub fn epoch_zero(
    shared_secret: &Secret<32>,
    connection_id: &ConnectionId,
    timestamp: UnixMs,
) -> EpochKeys {
    let context = format!("{connection_id}:{}", timestamp.secs());
    derive(shared_secret.expose(), context.as_bytes())
}

/// Epoch n ≥ 1 (PROTOCOL 2.1). The seed and the agreed secret are used up.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "both are wiped here")]
pub fn epoch_next(
    next_key_seed: Secret<32>,
    agreed: Secret<32>,
    connection_id: &ConnectionId,
    epoch: Epoch,
    client_public: &[u8; 32],
    server_public: &[u8; 32],
) -> EpochKeys {
    let mut secret = Zeroizing::new([0; 64]);
    secret[..32].copy_from_slice(next_key_seed.expose());
    secret[32..].copy_from_slice(agreed.expose());
    let mut context = Vec::from(format!("{connection_id}:{epoch}:"));
    context.extend_from_slice(client_public);
    context.extend_from_slice(server_public);
    derive(&*secret, &context)
}

/// A key of one direction (PROTOCOL 2.2): `enc`, `pid` and `mac` from the epoch's three keys.
#[must_use]
pub fn direction_key(key: &Secret<32>, direction: Direction) -> Secret<32> {
    let hkdf = Hkdf::<Sha256>::from_prk(key.expose()).expect("a key is as long as a hash");
    Secret::filled(|out| {
        hkdf.expand_multi_info(&[SESSION, b" ", direction.name().as_bytes()], out)
            .expect("32 bytes are less than 255 hashes");
    })
}

/// Key of the first packet (PROTOCOL 2.3).
#[must_use]
pub fn hello_id(shared_secret: &Secret<32>) -> Secret<32> {
    let hkdf = Hkdf::<Sha256>::new(Some(SESSION), shared_secret.expose());
    Secret::filled(|out| {
        hkdf.expand(b"hello id", out).expect("32 bytes are less than 255 hashes");
    })
}

/// Name of an attempt to connect, and of the session that comes of it (PROTOCOL 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Days since 1970-01-01.
    day: u64,
    nonce: u64,
}

impl ConnectionId {
    /// `"clawchat-" ‖ YYYYMMDD ‖ "-" ‖ hex(nonce)`, the date being the hello's.
    #[must_use]
    pub const fn new(timestamp: UnixMs, nonce: u64) -> Self {
        Self { day: timestamp.secs() / 86_400, nonce }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = UnixMs(self.day * 86_400_000).date();
        write!(f, "clawchat-{year:04}{month:02}{day:02}-{:016x}", self.nonce)
    }
}
