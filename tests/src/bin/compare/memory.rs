//! What needs no socket: machines and ciphers in one thread.

use crate::child::{Measured, Sample, percentiles, tell_sample, thread_cpu, word};
use crate::proto;
use clawchat_core::crypto::aead::{AwsLc, CipherProvider as _};
use clawchat_core::crypto::derive::{Direction, derive};
use clawchat_core::crypto::identity::Recognised;
use clawchat_core::crypto::packet::PacketKeys;
use clawchat_core::limits::{BATCH_BYTES, HEADER_LEN, OVERHEAD};
use clawchat_core::secret::Secret;
use clawchat_core::time::UnixMs;
use clawchat_core::wire::header::{Header, PacketType};
use clawchat_tests::bench::{Datagram, FileRun, Rig};
use core::hint::black_box;
use core::time::Duration;

/// Sizes of datagrams, bytes: multiples of 16, as all are.
pub(crate) const SIZES: [usize; 2] = [1200, 1408];
/// Bytes of a header that are authenticated.
const AAD: usize = 26;
/// Blocks of which the quickest counts.
const BLOCKS: u32 = 50;
/// Datagrams that are made before, and answered together.
const BATCH: usize = 64;
/// Sessions that talk while the others are idle.
const TALKERS: usize = 64;

fn tell_of(measured: &Sample) {
    let figures: Vec<_> = measured.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    tell_sample(&figures);
}

/// Nanoseconds that one call takes, in the quickest of many blocks: whatever disturbs the others is
/// not the work.
fn nanoseconds(count: u32, mut work: impl FnMut(u64)) -> f64 {
    let block = count / BLOCKS;
    let time = |number: u32| {
        let first = u64::from(number * block);
        let started = thread_cpu();
        (first..first + u64::from(block)).for_each(&mut work);
        (thread_cpu() - started) * 1e9 / f64::from(block)
    };
    (0..BLOCKS).map(time).fold(f64::INFINITY, f64::min)
}

/// Role: `packet-bare COUNT`: the cipher of our provider seals and opens the same bytes.
pub(crate) fn packet_bare(words: &[String]) -> Result<(), String> {
    let count = word(words, 0)?;
    let cipher = AwsLc.packet_cipher(&Secret::take(&mut [7; 32]));
    let one = |size: usize| {
        let (mut text, aad) = (vec![7; size - OVERHEAD], [1; AAD]);
        let each = nanoseconds(count, |seq| {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&seq.to_be_bytes());
            let tag = cipher.seal_in_place(&nonce, &aad, &mut text);
            assert!(cipher.open_in_place(&nonce, &aad, black_box(&mut text), &tag));
        });
        (size.to_string(), each)
    };
    tell_of(&SIZES.map(one).into());
    Ok(())
}

/// Role: `packet-layer COUNT`: a packet sealed, recognised and opened, without its frames and without
/// the account that a session keeps of it.
pub(crate) fn packet_layer(words: &[String]) -> Result<(), String> {
    let count = word(words, 0)?;
    let mut keys = PacketKeys::new(&derive(b"secret", b"context"), Direction::C2s, &AwsLc);
    let one = |size: usize| {
        let mut datagram = vec![7; size];
        let each = nanoseconds(count, |seq| {
            let (at, text) = (UnixMs(1_700_000_000_000), size - OVERHEAD);
            let len = keys.seal(seq, at, PacketType::File, &mut datagram, text);
            let datagram = black_box(&mut datagram[..len]);
            let header = Header::decode(datagram).expect("it was just written");
            let found = keys.seq(&header).expect("it is of this key");
            assert!(found == seq && keys.iv_fits(&header, found));
            assert_eq!(keys.open(&header, datagram), Ok(HEADER_LEN..HEADER_LEN + text));
        });
        (size.to_string(), each)
    };
    tell_of(&SIZES.map(one).into());
    Ok(())
}

/// Role: `packet-batch COUNT`: of a batch of packets, as large as one that goes by one call, nothing but what
/// each must go through: its bytes put into it, ids and IVs made, sealed, recognised, opened.
pub(crate) fn packet_batch(words: &[String]) -> Result<(), String> {
    let count: u32 = word(words, 0)?;
    let mut keys = PacketKeys::new(&derive(b"secret", b"context"), Direction::C2s, &AwsLc);
    let mut next = 0;
    let one = |size: usize| {
        let (many, text) = (BATCH_BYTES / size, size - OVERHEAD);
        let (mut arena, content) = (vec![0; many * size], vec![7; many * text]);
        let mut headers = Vec::with_capacity(many);
        let mut said = vec![Recognised::default(); many];
        let batches = count / u32::try_from(many).unwrap_or(u32::MAX);
        let each = nanoseconds(batches, |_| {
            let identities = keys.identities(UnixMs(1_700_000_000_000), next, many);
            next += many as u64;
            let places = arena.chunks_mut(size).zip(content.chunks(text));
            for (identity, (place, bytes)) in identities.zip(places) {
                place[HEADER_LEN..HEADER_LEN + text].copy_from_slice(bytes);
                keys.seal_with(identity, PacketType::File, place, text);
            }
            headers.clear();
            headers.extend(black_box(&arena).chunks(size).filter_map(Header::decode));
            keys.recognise(&headers, &mut said);
            for ((place, header), said) in arena.chunks_mut(size).zip(&headers).zip(&said) {
                assert!(matches!(said, Recognised::Fits(_)) && keys.open(header, place).is_ok());
            }
        });
        (size.to_string(), each / many as f64)
    };
    tell_of(&SIZES.map(one).into());
    Ok(())
}

/// Role: `packet-path COUNT`: a chunk of a file built, sealed, opened and accounted for at both sides,
/// with the acknowledgements that go back, in the quickest of many blocks.
pub(crate) fn packet_path(words: &[String]) -> Result<(), String> {
    let count: u32 = word(words, 0)?;
    let one = |size: usize| {
        // Of the datagrams, the first block goes before the size is found.
        let bytes = u64::from(count) * 2 * size as u64;
        let (mut run, block) = (FileRun::new(bytes, size, &AwsLc), u64::from(count / BLOCKS));
        let mut quickest = f64::INFINITY;
        for number in 0..=BLOCKS {
            let (first, started) = (run.chunks(), thread_cpu());
            while run.chunks() - first < block {
                run.step();
            }
            let each = (thread_cpu() - started) * 1e9 / (run.chunks() - first) as f64;
            quickest = if number == 0 { quickest } else { quickest.min(each) };
        }
        (size.to_string(), quickest)
    };
    tell_of(&SIZES.map(one).into());
    Ok(())
}

/// Role: `core-bulk MIB SIZE`: a file from one machine to the other, in datagrams of at most `SIZE`
/// bytes. The handshake does not count, the search for the size does.
pub(crate) fn core_bulk(words: &[String]) -> Result<(), String> {
    let (mib, size): (u64, usize) = (word(words, 0)?, word(words, 1)?);
    let mut run = FileRun::new(mib << 20, size, &AwsLc);
    let started = thread_cpu();
    while !run.is_over() {
        run.step();
    }
    tell_sample(&[("rate", run.received() as f64 / (thread_cpu() - started))]);
    Ok(())
}

/// Blocks of [`many`]: each is served by both servers, one after the other.
const PAIRS: usize = 40;

/// Role: `many SESSIONS FEW COUNT`: what a ping and its pong cost a server with so many sessions, a whole
/// turn of its driver for each, and one with few. Both are in this process and take turns, so that neither
/// has the quicker moments of the machine to itself; of the pairs the one in the middle counts. The same
/// sessions talk at both, or all of each in turn.
pub(crate) fn many(words: &[String]) -> Result<(), String> {
    let (sessions, few, count): (u32, u32, usize) =
        (word(words, 0)?, word(words, 1)?, word(words, 2)?);
    let mut rigs = [sessions, few].map(Crowd::new);
    let rounds = (count / BATCH / PAIRS).max(1);
    let mut cost = |talkers: [usize; 2]| {
        let mut pairs: Vec<[f64; 2]> = Vec::with_capacity(PAIRS);
        for pair in 0..PAIRS {
            let mut costs = [0.0; 2];
            for turn in 0..2 {
                let side = (pair + turn) % 2;
                // The first round brings its memory back into the caches.
                rigs[side].serve(1, talkers[side]);
                costs[side] = rigs[side].serve(rounds, talkers[side]);
            }
            pairs.push(costs);
        }
        let middle = |of: fn(&[f64; 2]) -> f64| percentiles(pairs.iter().map(of).collect()).0;
        (middle(|costs| costs[0]), middle(|costs| costs[0] / costs[1]))
    };
    let (same, same_ratio) = cost([TALKERS; 2]);
    let (all, all_ratio) = cost([sessions as usize, few as usize]);
    tell_sample(&[
        ("same", same),
        ("same_ratio", same_ratio),
        ("all", all),
        ("all_ratio", all_ratio),
    ]);
    Ok(())
}

/// A server whose clients ping it.
struct Crowd {
    rig: Rig,
    next: usize,
}

impl Crowd {
    fn new(sessions: u32) -> Self {
        Self { rig: Rig::new(sessions, &AwsLc), next: 0 }
    }

    /// Nanoseconds of the server for a ping of one of so many, in so many rounds.
    fn serve(&mut self, rounds: usize, talkers: usize) -> f64 {
        let (rig, mut spent) = (&mut self.rig, 0.0);
        for _ in 0..rounds {
            let step = |_| {
                // Far apart, so that all take part alike.
                self.next = (self.next + 7919) % talkers;
                self.next
            };
            let talking: Vec<usize> = (0..BATCH).map(step).collect();
            let mut pings: Vec<Datagram> = talking.iter().map(|of| rig.ping(*of)).collect();
            let mut pongs: Vec<Datagram> = talking.iter().map(|_| rig.reply()).collect();
            let started = thread_cpu();
            for (ping, pong) in pings.iter_mut().zip(&mut pongs) {
                // The numbers that it acknowledges grow.
                assert!(matches!(rig.serve(ping, pong), 64 | 80), "one pong for each ping");
            }
            spent += thread_cpu() - started;
            talking.into_iter().zip(pongs).for_each(|(of, pong)| rig.to_client(of, pong));
            rig.pass(Duration::from_micros(100), 0);
        }
        spent * 1e9 / (rounds * BATCH) as f64
    }
}

/// Role: `proto-bulk MIB`: quinn-proto alone.
pub(crate) fn proto_bulk(words: &[String]) -> Result<(), String> {
    let measured: Measured = proto::bulk(word(words, 0)?);
    tell_of(&measured?);
    Ok(())
}
