//! Bare UDP over loopback, with plain blocking calls: what no protocol of this kind can beat.

use crate::child::{answer_for_usage, cpu, percentiles, tell, tell_sample, text, word};
use clawchat_core::crypto::aead::{AwsLc, CipherProvider as _, PacketCipher};
use clawchat_core::limits::TAG_LEN;
use clawchat_core::secret::Secret;
use core::net::Ipv4Addr;
use core::time::Duration;
use std::io;
use std::net::UdpSocket;
use std::time::Instant;

/// Datagrams for which the receiver sends one acknowledgement.
const ACK_EVERY: u64 = 32;
/// Bytes that may be on their way: well below what the receiver's buffer holds.
const WINDOW: u64 = 1 << 20;
/// Room asked of the kernel for each socket: what our server's driver asks for.
const BUFFER: usize = 2 << 20;
/// A datagram that is not acknowledged by then is taken to be lost.
const PATIENCE: Duration = Duration::from_millis(200);

fn socket(buffer: Option<usize>) -> Result<UdpSocket, String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    if let Some(size) = buffer {
        let reference = socket2::SockRef::from(&socket);
        reference.set_recv_buffer_size(size).map_err(text)?;
        reference.set_send_buffer_size(size).map_err(text)?;
    }
    Ok(socket)
}

/// What sealing alone costs: the cipher of our binaries, and a number for each datagram.
struct Seal {
    cipher: Box<dyn PacketCipher>,
    number: u64,
}

impl Seal {
    /// If one of the words is `sealed`.
    fn wanted(words: &[String]) -> Option<Self> {
        let wanted = words.iter().any(|word| word == "sealed");
        let cipher = || AwsLc.packet_cipher(&Secret::take(&mut [7; 32]));
        wanted.then(|| Self { cipher: cipher(), number: 0 })
    }

    fn nonce(&mut self) -> [u8; 12] {
        self.number += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.number.to_be_bytes());
        nonce
    }

    fn seal(&mut self, datagram: &mut [u8]) {
        let nonce = self.nonce();
        let (text, tag) = datagram.split_at_mut(datagram.len() - TAG_LEN);
        tag.copy_from_slice(&self.cipher.seal_in_place(&nonce, &[], text));
    }

    fn open(&mut self, datagram: &mut [u8]) -> Result<(), String> {
        let nonce = self.nonce();
        let (text, tag) = datagram.split_last_chunk_mut().ok_or("a datagram without a tag")?;
        let opened = self.cipher.open_in_place(&nonce, &[], text, tag);
        opened.then_some(()).ok_or_else(|| "a datagram did not open".to_owned())
    }
}

/// Role: `udp-sink [sealed]`: takes datagrams and acknowledges every 32nd with the number so far.
pub(crate) fn sink(words: &[String]) -> Result<(), String> {
    let mut seal = Seal::wanted(words);
    let socket = socket(Some(BUFFER))?;
    tell(&socket.local_addr().map_err(text)?.port().to_string());
    answer_for_usage();
    let (mut buffer, mut count) = (vec![0; 1 << 16], 0_u64);
    loop {
        let (len, from) = socket.recv_from(&mut buffer).map_err(text)?;
        if let Some(seal) = &mut seal {
            seal.open(&mut buffer[..len])?;
        }
        count += 1;
        if count.is_multiple_of(ACK_EVERY) {
            socket.send_to(&count.to_be_bytes(), from).map_err(text)?;
        }
    }
}

/// Role: `udp-bulk PORT MIB SIZE [sealed] [unconnected]`: so many MiB in datagrams of `SIZE` bytes.
pub(crate) fn bulk(words: &[String]) -> Result<(), String> {
    let (port, mib, size): (u16, u64, usize) = (word(words, 0)?, word(words, 1)?, word(words, 2)?);
    let socket = socket(Some(BUFFER))?;
    let to = (Ipv4Addr::LOCALHOST, port);
    let connected = words.iter().all(|word| word != "unconnected");
    if connected {
        socket.connect(to).map_err(text)?;
    }
    socket.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    let total = ((mib << 20) / size as u64).next_multiple_of(ACK_EVERY);
    let window = (WINDOW / size as u64).max(2 * ACK_EVERY);
    let (mut datagram, mut ack) = (vec![7; size], [0; 8]);
    let mut seal = Seal::wanted(words);
    let (mut sent, mut acked) = (0, 0);
    let (started, used) = (Instant::now(), cpu());
    while acked < total {
        if sent < total && sent - acked < window {
            if let Some(seal) = &mut seal {
                seal.seal(&mut datagram);
            }
            let went =
                if connected { socket.send(&datagram) } else { socket.send_to(&datagram, to) };
            went.map_err(text)?;
            sent += 1;
            continue;
        }
        match socket.recv(&mut ack) {
            Ok(_) => acked = u64::from_be_bytes(ack),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err("a datagram got lost".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let bytes = (total * size as u64) as f64;
    let seconds = started.elapsed().as_secs_f64();
    tell_sample(&[("seconds", seconds), ("cpu", cpu() - used), ("bytes", bytes)]);
    Ok(())
}

/// Role: `udp-echo`: sends back what comes.
pub(crate) fn echo(_: &[String]) -> Result<(), String> {
    let socket = socket(None)?;
    tell(&socket.local_addr().map_err(text)?.port().to_string());
    answer_for_usage();
    let mut buffer = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).map_err(text)?;
        socket.send_to(&buffer[..len], from).map_err(text)?;
    }
}

/// Role: `udp-ping PORT COUNT`: 64 bytes there and back.
pub(crate) fn ping(words: &[String]) -> Result<(), String> {
    let (port, count): (u16, usize) = (word(words, 0)?, word(words, 1)?);
    let socket = socket(None)?;
    socket.connect((Ipv4Addr::LOCALHOST, port)).map_err(text)?;
    let (mut buffer, mut times, used) = ([0; 64], Vec::new(), cpu());
    while times.len() < count {
        let begun = Instant::now();
        socket.send(&buffer).map_err(text)?;
        socket.recv(&mut buffer).map_err(text)?;
        times.push(begun.elapsed().as_secs_f64());
    }
    let used = (cpu() - used) / count as f64;
    let (p50, p99, worst) = percentiles(times);
    tell_sample(&[("p50", p50), ("p99", p99), ("worst", worst), ("cpu", used)]);
    Ok(())
}
