//! The only randomness of the operating system in this crate.

use clawchat_core::random::Seed;
use std::io;

/// A fresh seed for a machine.
///
/// # Errors
/// The operating system gives no randomness.
pub fn seed() -> io::Result<Seed> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(Seed::new(&mut bytes))
}
