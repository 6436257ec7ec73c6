//! What a packet costs, from the bare cipher up to both machines: the floor first, so that one run tells how
//! much is put on top. `cargo bench -p clawchat-tests --bench data_path`.

use clawchat_core::crypto::aead::{AwsLc, CipherProvider, RustCrypto};
use clawchat_core::crypto::derive::{Direction, derive};
use clawchat_core::crypto::packet::PacketKeys;
use clawchat_core::limits::OVERHEAD;
use clawchat_core::secret::Secret;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::header::{Header, PacketType};
use clawchat_tests::bench::FileRun;
use core::hint::black_box;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Instant;

const PROVIDERS: [&dyn CipherProvider; 2] = [&AwsLc, &RustCrypto];
/// Sizes of datagrams, bytes.
const SIZES: [usize; 2] = [1200, 1408];
/// Bytes of a header that are authenticated.
const AAD: usize = 26;

/// The cipher alone, then the packet around it, then all that both machines do for a packet of a file.
fn packet(c: &mut Criterion) {
    let mut group = c.benchmark_group("packet");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        for provider in PROVIDERS {
            let id = |what: &str| BenchmarkId::new(format!("{what}, {}", provider.name()), size);
            let cipher = provider.packet_cipher(&Secret::take(&mut [7; 32]));
            let mut text = vec![7; size - OVERHEAD];
            group.bench_function(id("cipher alone"), |b| {
                b.iter(|| {
                    let tag = cipher.seal_in_place(&[1; 12], &[1; AAD], &mut text);
                    cipher.open_in_place(&[1; 12], &[1; AAD], black_box(&mut text), &tag)
                });
            });
            let keys = derive(b"secret", b"context");
            let mut keys = PacketKeys::new(&keys, Direction::C2s, provider);
            let mut datagram = vec![7; size];
            let mut number = 0;
            group.bench_function(id("sealed, recognised, opened"), |b| {
                b.iter(|| {
                    number += 1;
                    let (at, kind) = (UnixMs(1_700_000_000_000), PacketType::File);
                    let len = keys.seal(number, at, kind, &mut datagram, size - OVERHEAD);
                    let header = Header::decode(&datagram[..len]).expect("it was just written");
                    let fits = keys.seq(&header) == Some(number) && keys.iv_fits(&header, number);
                    assert!(fits && keys.open(&header, &mut datagram[..len]).is_ok());
                });
            });
            // Until the size of datagrams is found.
            let mut run = FileRun::new(1 << 50, size, provider);
            while run.chunks() < 20_000 {
                run.step();
            }
            group.bench_function(id("both machines"), |b| {
                b.iter_custom(|count| {
                    let (first, started) = (run.chunks(), Instant::now());
                    while run.chunks() < first + count {
                        run.step();
                    }
                    // The last step went a little further.
                    started.elapsed().mul_f64(count as f64 / (run.chunks() - first) as f64)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, packet);
criterion_main!(benches);
