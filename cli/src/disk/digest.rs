//! The SHA-256 of a file, made while it is being transferred: it is there with the last byte.

use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Bytes that are read at a time, and that are worth waking the thread for.
const CHUNK: u64 = 256 * 1024;

/// The digest of a file, in the making on a thread of its own. Dropped, it stops within one read, and
/// nobody hears of it.
#[derive(Debug)]
pub struct Digest {
    shared: Arc<Shared>,
    size: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// So many bytes may be read.
    available: u64,
    /// With so many, the thread has work; 0 while it works.
    wanted: u64,
    stop: bool,
}

impl Shared {
    /// Whoever held this has left it in order.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `wanted` bytes may be read, and tells how many may; `None` to stop.
    fn wait(&self, wanted: u64) -> Option<u64> {
        let mut state = self.lock();
        state.wanted = wanted;
        while state.available < wanted && !state.stop {
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted = 0;
        (!state.stop).then_some(state.available)
    }
}

impl Digest {
    /// Begins the digest of a file of `size` bytes, none of which may be read yet. The thread calls
    /// `on_done` once, with the SHA-256 of all of them or with why the file can't be read, unless this is
    /// dropped before.
    ///
    /// # Errors
    /// The operating system's, when it has no thread left.
    pub fn start(
        file: File,
        size: u64,
        on_done: impl FnOnce(io::Result<[u8; 32]>) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let work = move || {
            if let Some(done) = digest(&file, size, &theirs).transpose() {
                on_done(done);
            }
        };
        // Not joined: it ends by itself, and may be within what the owner waits for.
        thread::Builder::new().name("digest".into()).spawn(work)?;
        Ok(Self { shared, size })
    }

    /// Says that the first `upto` bytes may be read. All of them, for a file that is there; of one that is
    /// being received, the beginning that has no hole. Less than before changes nothing.
    pub fn available(&self, upto: u64) {
        let mut state = self.shared.lock();
        state.available = state.available.max(upto.min(self.size));
        if state.wanted != 0 && state.available >= state.wanted {
            self.shared.more.notify_one();
        }
    }
}

impl Drop for Digest {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.more.notify_one();
    }
}

/// The digest of `size` bytes, as they become available; `None` when told to stop.
fn digest(file: &File, size: u64, shared: &Shared) -> io::Result<Option<[u8; 32]>> {
    let (mut hash, mut at) = (Sha256::new(), 0);
    let mut buffer = vec![0; usize::try_from(CHUNK.min(size)).unwrap_or(0)];
    loop {
        // A whole chunk at a time: a byte of news is not worth a change of threads.
        let Some(available) = shared.wait(size.min(at + CHUNK)) else { return Ok(None) };
        if at == size {
            return Ok(Some(hash.finalize().into()));
        }
        let length = usize::try_from(available - at).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..length], at)?;
        hash.update(&buffer[..length]);
        at += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use std::io::Write;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

    const SOON: Duration = Duration::from_secs(60);

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn start(file: File, size: u64) -> (Digest, Receiver<io::Result<[u8; 32]>>) {
        let (sender, receiver) = channel();
        let done = move |digest| sender.send(digest).unwrap();
        (Digest::start(file, size, done).unwrap(), receiver)
    }

    #[test]
    fn of_files_of_all_sizes() {
        for size in [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let (digest, done) = start(file(&bytes), size);
            digest.available(u64::MAX);
            let expected: [u8; 32] = Sha256::digest(&bytes).into();
            assert_eq!(done.recv_timeout(SOON).unwrap().unwrap(), expected, "{size}");
            assert_eq!(done.recv_timeout(SOON).unwrap_err(), RecvTimeoutError::Disconnected);
            digest.available(size);
        }
    }

    #[test]
    fn of_a_file_that_grows() {
        let bytes: Vec<u8> = (0..3 * CHUNK).map(|at| (at % 253) as u8).collect();
        let growing = file(&[]);
        let (digest, done) = start(growing.try_clone().unwrap(), bytes.len() as u64);
        for upto in [0, 1, CHUNK - 1, CHUNK + 5, CHUNK, 2 * CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK] {
            let end = usize::try_from(upto).unwrap();
            growing.write_all_at(&bytes[..end], 0).unwrap();
            assert!(done.try_recv().is_err(), "not before the last byte");
            digest.available(upto);
        }
        let expected: [u8; 32] = Sha256::digest(&bytes).into();
        assert_eq!(done.recv_timeout(SOON).unwrap().unwrap(), expected);
    }

    #[test]
    fn reads_nothing_too_early() {
        // A byte past what is available would be past the end of the file.
        let growing = file(&[1; CHUNK as usize]);
        let (digest, done) = start(growing.try_clone().unwrap(), CHUNK + 10);
        digest.available(CHUNK);
        while digest.shared.lock().wanted != CHUNK + 10 {
            thread::yield_now();
        }
        growing.write_all_at(&[1; 10], CHUNK).unwrap();
        digest.available(CHUNK + 10);
        let expected: [u8; 32] = Sha256::digest([1; CHUNK as usize + 10]).into();
        assert_eq!(done.recv_timeout(SOON).unwrap().unwrap(), expected);
    }

    #[test]
    fn a_file_that_is_shorter_than_it_was() {
        let (digest, done) = start(file(b"short"), 10);
        digest.available(10);
        let error = done.recv_timeout(SOON).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        digest.available(10);
    }

    #[test]
    fn dropped_it_ends_and_stays_silent() {
        for available in [0, 5, CHUNK] {
            let (digest, done) = start(file(&vec![0; 2 * CHUNK as usize]), 2 * CHUNK);
            digest.available(available);
            drop(digest);
            // The thread is gone when what it was to call is.
            assert_eq!(done.recv_timeout(SOON).unwrap_err(), RecvTimeoutError::Disconnected);
        }
    }
}
