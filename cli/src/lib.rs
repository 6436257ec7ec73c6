//! The ClawChat binaries. What both share is at the top; the rest is in [`server`] and [`client`].
#![forbid(unsafe_code)]

pub mod cipher;
pub mod client;
pub mod disk;
pub mod failure;
pub mod files;
pub mod key;
pub mod process;
pub mod server;
pub mod text;
