//! A file that goes from a client to its server in memory.

use super::{IP, PORT, Rig};
use clawchat_core::client;
use clawchat_core::crypto::aead::CipherProvider;
use clawchat_core::id::{ChatId, PortId};
use clawchat_core::limits::DATAGRAM_MAX;
use clawchat_core::ops::Outcome;
use clawchat_core::ranges::RangeSet;
use clawchat_core::server::Event;
use clawchat_core::time::Duration;
use clawchat_core::transport::path::Path;

/// Time that passes between two turns while a file goes in memory.
const STEP: Duration = Duration::from_micros(100);
/// The same while nothing moves.
const WAIT: Duration = Duration::from_millis(1);
/// Batches of a file that a client sends in one turn, as its driver does.
const BATCHES: u32 = 16;
/// Turns in a row without a datagram after which something is wrong.
const STUCK: u32 = 60_000;

/// A file of one client on its way to the server, in one thread. Each datagram is handed over in the
/// buffer that it was sealed into, as a driver hands over what lies in its arena.
#[derive(Debug)]
pub struct FileRun {
    rig: Rig,
    /// Datagrams above this many bytes are lost, so that the search for the size ends there.
    largest: usize,
    content: Vec<u8>,
    received: u64,
    chunks: u64,
    quiet: u32,
    over: bool,
}

impl FileRun {
    /// A session, and a file of so many bytes that is offered in it.
    ///
    /// # Panics
    /// When it can't be offered.
    #[must_use]
    pub fn new(size: u64, largest: usize, provider: &'static dyn CipherProvider) -> Self {
        let mut rig = Rig::new(1, provider);
        let (now, client) = (rig.now, &mut rig.clients[0]);
        let offered = client.offer_file(now, ChatId([1; 16]), "@server", "file", size);
        let transfer = offered.expect("it has a session");
        // What a host makes of the content is no part of this: any digest will do.
        client.file_digest(now, transfer, [7; 32]);
        let content = vec![7; DATAGRAM_MAX];
        Self { rig, largest, content, received: 0, chunks: 0, quiet: 0, over: false }
    }

    /// Bytes of the file that have arrived.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Datagrams that brought them.
    #[must_use]
    pub const fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Whether the server has all of it and the client knows that.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// One turn of both sides.
    ///
    /// # Panics
    /// When the file is refused, or nothing moves any more.
    pub fn step(&mut self) {
        let sent = self.client_turn();
        let moved = self.server_turn() || sent;
        self.quiet = if moved { 0 } else { self.quiet + 1 };
        assert!(self.quiet < STUCK, "nothing moves any more");
        let rig = &mut self.rig;
        let pause = if self.quiet > 3 { WAIT } else { STEP };
        rig.now.mono = rig.now.mono + pause;
        let (now, client) = (rig.now, &mut rig.clients[0]);
        if client.poll_timeout().is_some_and(|deadline| deadline.at <= now.mono) {
            client.handle_timeout(now);
        }
        if rig.server.poll_timeout().is_some_and(|deadline| deadline.at <= now.mono) {
            rig.server.handle_timeout(now);
        }
    }

    /// What the client has to send reaches the server; whether there was any.
    fn client_turn(&mut self) -> bool {
        let Self { rig, content, .. } = self;
        let (now, client) = (rig.now, &mut rig.clients[0]);
        while let Some((op, _)) = client.poll_action() {
            client.handle_completion(now, op, Outcome::Done);
        }
        while let Some(event) = client.poll_event() {
            if let client::Event::FileEnded { result, .. } = event {
                result.expect("nothing stops it");
                self.over = true;
            }
        }
        let (path, mut batches, mut any) = (Path::new(PortId(0), Rig::address(0)), 0, false);
        loop {
            let mut sent = client.poll_transmit(now, &mut rig.out);
            if sent.is_none()
                && batches < BATCHES
                && let Some(want) = client.file_want(now)
            {
                batches += 1;
                sent = client.send_chunk(now, &want, &content[..want.len], &mut rig.out);
            }
            let Some(sent) = sent else { return any };
            any = true;
            if sent.segment <= self.largest {
                let datagrams = &mut rig.out[..sent.len];
                rig.server.handle_batch(now, path, datagrams, sent.segment, |chunk| {
                    self.received += chunk.bytes.len() as u64;
                    self.chunks += 1;
                    true
                });
            }
        }
    }

    /// The server takes what it is offered, and what it has to send reaches the client; whether there
    /// was any.
    fn server_turn(&mut self) -> bool {
        let rig = &mut self.rig;
        let now = rig.now;
        while let Some((op, _)) = rig.server.poll_action() {
            rig.server.handle_completion(now, op, Outcome::Done);
        }
        while let Some(event) = rig.server.poll_event() {
            match event {
                Event::FileOffered { transfer, offer, .. } => {
                    let taken = rig.server.accept_file(now, transfer, &RangeSet::new(), offer.size);
                    taken.expect("it was just offered");
                }
                Event::FileComplete { transfer, file } => {
                    rig.server.file_checked(now, transfer, Ok(file));
                }
                _ => {}
            }
        }
        let (path, mut any) = (Path::new(PortId(0), (IP, PORT).into()), false);
        while let Some(sent) = rig.server.poll_transmit(now, &mut rig.out) {
            any = true;
            for datagram in rig.out[..sent.len].chunks_mut(sent.segment) {
                if datagram.len() <= self.largest {
                    let chunk = rig.clients[0].handle_datagram(now, path, datagram);
                    debug_assert!(chunk.is_none(), "the server sends no file");
                }
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::super::NullCipher;
    use super::*;

    #[test]
    fn a_file_arrives_in_datagrams_of_the_size_that_passes() {
        let mut run = FileRun::new(30_000_000, 1408, &NullCipher);
        while run.received() < 10_000_000 {
            run.step();
        }
        let (bytes, chunks) = (run.received(), run.chunks());
        while !run.is_over() {
            run.step();
        }
        assert_eq!(run.received(), 30_000_000, "nothing was lost or came twice");
        let each = (run.received() - bytes) / (run.chunks() - chunks);
        assert!((1300..1408).contains(&each), "{each} bytes a datagram");
    }
}
