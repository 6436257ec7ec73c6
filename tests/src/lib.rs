//! What the tests share.

pub mod bench;
mod client_disk;
pub mod crowd;
pub mod disk;
pub mod eve;
pub mod files;
pub mod hostile;
pub mod lazy;
pub mod mutants;
pub mod nat;
pub mod net;
pub mod oracle;
pub mod process;
mod rehearsal;
pub mod scenario;
pub mod sessions;
pub mod storm;
pub mod transcript;
pub mod vectors;
pub mod world;
