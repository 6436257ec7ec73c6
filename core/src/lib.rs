//! The ClawChat protocol as a state machine without input or output of its own.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod client;
pub mod crypto;
pub mod error;
pub mod id;
pub mod limits;
pub mod ops;
pub mod random;
pub mod ranges;
pub mod secret;
pub mod server;
mod session;
pub mod time;
pub mod transport;
pub mod wire;
