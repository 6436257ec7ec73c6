//! What the tests share.

pub mod disk;
pub mod lazy;
pub mod net;
pub mod oracle;
pub mod process;
pub mod scenario;
pub mod transcript;
pub mod vectors;
pub mod world;
