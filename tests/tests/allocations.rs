//! What is allocated: nothing for a data packet, and little for a session that is idle.

use allocation_counter::measure;
use clawchat_core::crypto::aead::{CipherProvider, RustCrypto};
use clawchat_tests::bench::{FileRun, NullCipher, Rig};

/// Size of a datagram, bytes.
const SIZE: usize = 1408;

/// Allocations of both machines while so many datagrams bring bytes of a file.
fn allocations(provider: &'static dyn CipherProvider, datagrams: u64) -> u64 {
    let mut run = FileRun::new(1 << 40, SIZE, provider);
    let go = |run: &mut FileRun, datagrams: u64| {
        let first = run.chunks();
        while run.chunks() < first + datagrams {
            run.step();
        }
    };
    // Until the size of datagrams is found, and the queues have their room.
    go(&mut run, 20_000);
    measure(|| go(&mut run, datagrams)).count_total
}

#[test]
fn a_data_packet_allocates_nothing() {
    let providers: [&'static dyn CipherProvider; 2] = [&NullCipher, &RustCrypto];
    for provider in providers {
        let datagrams = 20_000;
        let count = allocations(provider, datagrams);
        eprintln!("{}: {count} allocations for {datagrams} data packets", provider.name());
        assert!(count <= 20, "{count} allocations for {datagrams} data packets");
    }
}

/// Bytes that a server holds with so many idle sessions.
fn held(sessions: u32) -> i64 {
    measure(|| {
        let mut rig = Rig::new(sessions, &RustCrypto);
        rig.idle();
        rig.clients = Vec::new();
        core::mem::forget(rig);
    })
    .bytes_current
}

#[test]
fn an_idle_session_holds_little() {
    let (few, many) = (held(64), held(256));
    let each = (many - few) / 192;
    eprintln!("{each} bytes for an idle session, its file included");
    assert!(each < 6144, "{each} bytes for an idle session");
}
