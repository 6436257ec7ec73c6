//! Floor 1: bytes to values and back. No keys, no clock, no state.

pub mod canonical;
pub mod cursor;
pub mod frame;
pub mod header;
pub mod json;
pub mod message;
pub mod secfile;
