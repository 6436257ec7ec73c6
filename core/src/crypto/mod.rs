//! Floor 2: pure functions of keys and bytes.

pub mod aead;
pub mod agree;
pub mod derive;
pub mod envelope;
pub mod identity;
pub mod packet;
pub mod replay;
pub mod schedule;
pub mod sign;
