//! Every bound of the system, and what must hold between them.

use core::time::Duration;

/// Smallest datagram, bytes (PROTOCOL 3).
pub const DATAGRAM_MIN: usize = 64;
/// Largest datagram, bytes (PROTOCOL 3); `out` buffers are at least this long.
pub const DATAGRAM_MAX: usize = 65_504;
/// Datagram size until a path proves larger ones (PROTOCOL 4.3), and the exact size of a hello.
pub const DATAGRAM_BASE: usize = 1200;
/// Packet header, bytes (PROTOCOL 3).
pub const HEADER_LEN: usize = 38;
/// GCM tag, bytes.
pub const TAG_LEN: usize = 16;
/// Bytes of a datagram that are neither plaintext nor padding.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// Replay window, sequence numbers (PROTOCOL 3: at least 2048).
pub const REPLAY_WINDOW: u64 = 2048;
/// Sequence numbers stay below this (PROTOCOL 3).
pub const SEQ_END: u64 = 1 << 62;
/// Ranges of one ACK frame (PROTOCOL 4).
pub const ACK_RANGES: usize = 64;

/// Largest message, bytes (PROTOCOL 4.1).
pub const MESSAGE_MAX: usize = 65_536;
/// Messages from the lowest one not wholly acknowledged (PROTOCOL 4.1).
pub const CHANNEL_MESSAGES: u64 = 64;
/// Bytes of those messages (PROTOCOL 4.1).
pub const CHANNEL_BYTES: usize = 1 << 20;
/// Disjoint pieces of one message at a receiver (PROTOCOL 4.1).
pub const MESSAGE_PIECES: usize = 256;
/// Messages that wait for a place in the window of the channel. A peer that makes us owe it more
/// answers than this, and acknowledges none, is cut off.
pub const CHANNEL_BACKLOG: usize = 1024;

/// Repetition of a hello: first interval, doubling up to [`HELLO_INTERVAL_MAX`] (PROTOCOL 5.1).
pub const HELLO_INTERVAL: Duration = Duration::from_millis(250);
/// Longest interval between two copies of a hello.
pub const HELLO_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// How long a client waits for the first packet of a session before it looks for the server again; each
/// further time of the same search twice as long. The server may have answered by a port that it closed
/// in the same moment (PROTOCOL 5.2), and a link may be slow.
pub const ANSWERED_PATIENCE: Duration = Duration::from_secs(8);
/// From this copy on a hello goes to all attempts of the slot (PROTOCOL 5.2).
pub const HELLO_WIDE_FROM: u32 = 5;
/// Port attempts of a slot that every hello copy goes to (PROTOCOL 5.2).
pub const HELLO_ATTEMPTS: u32 = 3;
/// Port attempts of a slot (SPEC 7.3).
pub const PORT_ATTEMPTS: u32 = 10;
/// A hello with a timestamp further off is answered `clock_skew` (PROTOCOL 5.1 step 3).
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// A hello with a timestamp further off is dropped (PROTOCOL 5.1 step 0) and forgotten (step 2).
pub const HELLO_MEMORY: Duration = Duration::from_secs(3900);
/// Hellos that one file remembers (PROTOCOL 5.1 step 2).
pub const HELLOS_REMEMBERED: usize = 4096;
/// Burst of a file's budget for new hellos; it refills by one a second (PROTOCOL 5.1 step 2).
pub const HELLO_BURST: u32 = 60;
/// Times that a copy of a hello or of a signal draws its reply again (PROTOCOL 5.1 step 1).
pub const REPLY_COPIES: u32 = 64;
/// An error's reply datagram is kept this long after its hello; a half-open session lasts as long.
pub const HALF_OPEN: Duration = Duration::from_secs(60);
/// Half-open sessions of one file (PROTOCOL 5.1 step 5).
pub const HALF_OPEN_PER_FILE: usize = 4;
/// Established sessions by default (SPEC 11.2).
pub const SESSIONS: usize = 100;
/// Secrets that a server accepts (PROTOCOL 3).
pub const SECRETS: usize = 1000;
/// Secrets of one file that are accepted at a time (PROTOCOL 5.2).
pub const SECRETS_PER_FILE: usize = 2;
/// Retired secrets that a server remembers in all; beyond them the oldest are forgotten early.
pub const SECRETS_RETIRED: usize = 20_000;
/// An expired or retired secret is remembered this long, only to be refused (PROTOCOL 5.2).
pub const RETIRED_MEMORY: Duration = Duration::from_secs(7 * 86_400);

/// Budget for key trials beyond the known session, per address: refill a second (PROTOCOL 3).
pub const TRIALS_PER_SECOND: u32 = 200;
/// Burst of that budget.
pub const TRIALS_BURST: u32 = 1000;
/// The same over all addresses, refill a second; what a flood of forged sources may cost.
pub const TRIALS_GLOBAL_PER_SECOND: u32 = 20_000;
/// Burst of the global budget.
pub const TRIALS_GLOBAL_BURST: u32 = 20_000;
/// Hellos a second that are tried with the secrets known only to be refused; beyond, their holders
/// meet silence. Each costs a block for each such secret.
pub const RETIRED_TRIALS_PER_SECOND: u32 = 100;
/// Addresses whose budget is tracked; beyond them only the global budget counts.
pub const TRIAL_ADDRESSES: usize = 4096;
/// When more come, those that no longer count are looked for this often at most.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Distinct ports of one address whose datagrams nothing opens, within [`SCAN_WINDOW`], that make a
/// port scan (SPEC 11.4).
pub const SCAN_PORTS: usize = 12;
/// See [`SCAN_PORTS`].
pub const SCAN_WINDOW: Duration = Duration::from_secs(60);
/// A wall clock that moves by more than this beside the monotonic one was set.
pub const CLOCK_STEP: Duration = Duration::from_secs(5);

/// A ping goes out after this long without sending (PROTOCOL 6).
pub const KEEPALIVE: Duration = Duration::from_secs(20);
/// After this long without a packet the session is dead (PROTOCOL 6).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that may go to a path that is not proven, for each that came by it (PROTOCOL 6).
pub const AMPLIFICATION: u64 = 3;
/// Challenges of a path that does not answer, one per PTO, before it is given up.
pub const PATH_PROBES: u32 = 4;
/// Copies of a fatal error (PROTOCOL 5.3).
pub const FATAL_COPIES: u32 = 3;
/// Interval of the compromised signal (PROTOCOL 7).
pub const SIGNAL_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of datagrams, sealed and opened, after which an epoch's keys are due to rotate (PROTOCOL 5.1).
pub const EPOCH_BYTES_DUE: u64 = 1_000_000_000;
/// Bytes at which an epoch seals no CHUNK and begins no message but rotation (PROTOCOL 5.1).
pub const EPOCH_BYTES_STOP: u64 = 2_000_000_000;
/// Bytes at which an epoch ends its session (PROTOCOL 5.1).
pub const EPOCH_BYTES_END: u64 = 2_200_000_000;
/// What one epoch's keys may carry, bytes of datagrams sealed and opened (PROTOCOL 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// From here on they are due to rotate.
    pub due: u64,
    /// From here on no CHUNK is sealed and no message begun but rotation.
    pub stop: u64,
    /// No datagram is sealed beyond this, and the session ends.
    pub end: u64,
}

impl KeyLimits {
    /// None of them above what the protocol allows.
    #[must_use]
    pub fn capped(self) -> Self {
        let Self { due, stop, end } = Self::default();
        Self { due: self.due.min(due), stop: self.stop.min(stop), end: self.end.min(end) }
    }
}

impl Default for KeyLimits {
    /// Those of the protocol; a machine may be given lower ones.
    fn default() -> Self {
        Self { due: EPOCH_BYTES_DUE, stop: EPOCH_BYTES_STOP, end: EPOCH_BYTES_END }
    }
}

/// Age at which an epoch ends its session (PROTOCOL 5.1, SPEC 7.1).
pub const EPOCH_AGE_MAX: Duration = Duration::from_secs(3900);
/// A client offers a rotation by itself when one is due and no trigger has come for so long
/// (PROTOCOL 5.1).
pub const TRIGGER_PATIENCE: Duration = Duration::from_secs(5);
/// A rotation that was begun, or is due, is complete within this time, or the session ends.
pub const ROTATION_MAX: Duration = Duration::from_secs(300);
/// Longest that the previous epoch's receive keys stay (PROTOCOL 5.1).
pub const PREVIOUS_EPOCH_MAX: Duration = Duration::from_secs(300);
/// Shortest that they stay.
pub const PREVIOUS_EPOCH_MIN: Duration = Duration::from_secs(1);

/// Rotations that a client may offer unasked, refill a second (SPEC 11.2); the answer to one beyond
/// waits. Rotating many times a second is fine: this bounds what one client's agreements may cost.
pub const OFFERS_PER_SECOND: u32 = 50;
/// Burst of that budget.
pub const OFFERS_BURST: u32 = 200;

/// Seconds between two key rotations (SPEC 7.1), as told in the answer to a hello.
pub const ROTATION_INTERVAL: u64 = 3600;
/// Seconds before a port rotation at which it is prepared and announced (SPEC 7.1).
pub const ANNOUNCE: u64 = 120;
/// When no port binds, another try is made after this (PROTOCOL 5.2).
pub const BIND_RETRY: Duration = Duration::from_secs(60);
/// Seconds that the old port stays open after an emergency move (PROTOCOL 7).
pub const EMERGENCY_GRACE: u64 = 60;
/// Seconds of grace (SPEC 7.1).
pub const GRACE_PERIOD: u64 = 300;

/// Chats of one member, refill a second (PROTOCOL 11).
pub const CHATS_PER_SECOND: u32 = 20;
/// Burst of that budget (PROTOCOL 11).
pub const CHATS_BURST: u32 = 100;
/// A client keeps this far below the burst, so that what a stalled path lets through at once is not
/// refused.
pub const CHATS_BURST_OWN: u32 = 40;
/// A client repeats a chat that was too many after this long.
pub const RATE_LIMITED_PAUSE: Duration = Duration::from_secs(1);
/// Presence of one member that is passed on, refill a second; what is beyond waits, and of that only
/// the newest counts.
pub const PRESENCE_PER_SECOND: u32 = 1;
/// Burst of that budget.
pub const PRESENCE_BURST: u32 = 10;
/// How long chat is kept for an absent member (PROTOCOL 5.4).
pub const MAILBOX_AGE: Duration = Duration::from_secs(7 * 86_400);
/// Chat kept for an absent member (PROTOCOL 5.4).
pub const MAILBOX_MESSAGES: usize = 1000;
/// Bytes of that chat; beyond them too the oldest makes way.
pub const MAILBOX_BYTES: usize = 8 << 20;
/// Chat ids that a server remembers per sender, to relay each once.
pub const CHATS_REMEMBERED: usize = 4096;
/// Chats of one sender that wait to be made durable.
pub const CHATS_PENDING: usize = 1024;
/// Receipts and presence that wait for a place in a session's channel; receipts beyond are dropped,
/// answers beyond end the session.
pub const OWED: usize = 4096;
/// (`from`, `id`) pairs that a client remembers, to show each once.
pub const CHATS_SEEN: usize = 16_384;
/// Chats that a client keeps until their receipt `stored`.
pub const CHATS_UNRECEIPTED: usize = 1024;
/// Actions under way; each session has at most two, each chat one.
pub const OPS: usize = 65_536;
/// Actions under way beyond which none is started for chat: a disk that is behind with chat must not
/// keep secrets from being retired or kept.
pub const OPS_COMMON: usize = OPS / 2;
/// An action without completion counts as failed after this: long, because what is done after all must
/// not have been called failed.
pub const OP_TIMEOUT: Duration = Duration::from_secs(600);

/// Offers of one side that wait for an answer (PROTOCOL 5.6).
pub const OFFERS_UNANSWERED: usize = 16;
/// Ranges that a receiver names when it takes an offer (PROTOCOL 5.6).
pub const FILE_RANGES: usize = 1000;
/// Disjoint ranges of one file at its receiver; beyond them it cancels (PROTOCOL 5.6).
pub const FILE_PIECES: usize = 65_536;
/// Files that one session takes at a time; an offer beyond them waits for its answer.
pub const FILES_TAKEN: usize = 16;
/// Files that a client has offered, or will once there is a session.
pub const FILES_OFFERED: usize = 4096;
/// Files that a server keeps for absent members.
pub const FILES_KEPT: usize = 65_536;
/// Files that a server remembers to have passed on, so that a repeated offer sends none twice.
pub const FILES_REMEMBERED: usize = 4096;
/// How long a file is kept for an absent member, as chat is (PROTOCOL 5.4).
pub const FILE_AGE: Duration = Duration::from_secs(7 * 86_400);
/// Datagrams of one batch, as one segmented send (GSO) takes them.
pub const BATCH_MAX: usize = 64;
/// Bytes of one batch: an IP packet less its headers.
pub const BATCH_BYTES: usize = 65_487;

/// Largest security file, bytes (PROTOCOL 8).
pub const SECURITY_FILE_MAX: usize = 64 * 1024;
/// Iterations of PBKDF2 that writers use (SPEC 4.2).
pub const ITERATIONS: u32 = 100_000;
/// Most iterations that a reader accepts (PROTOCOL 8).
pub const ITERATIONS_MAX: u32 = 10_000_000;

const _: () = {
    assert!(DATAGRAM_MAX.is_multiple_of(16) && DATAGRAM_BASE.is_multiple_of(16));
    assert!(DATAGRAM_MIN > OVERHEAD && DATAGRAM_MAX <= 65_507);
    assert!(REPLAY_WINDOW >= 2048);
    assert!(MESSAGE_MAX <= CHANNEL_BYTES);
    assert!(HELLO_MEMORY.as_secs() == ROTATION_INTERVAL + GRACE_PERIOD);
    assert!(CLOCK_SKEW.as_secs() < HELLO_MEMORY.as_secs());
    assert!(KEEPALIVE.as_secs() * 3 <= IDLE_TIMEOUT.as_secs());
    assert!(PREVIOUS_EPOCH_MIN.as_secs() < PREVIOUS_EPOCH_MAX.as_secs());
    assert!(HELLO_ATTEMPTS < PORT_ATTEMPTS);
    // A file that is renewed each hour retires 168 secrets in 7 days.
    let renewals = RETIRED_MEMORY.as_secs() / ROTATION_INTERVAL + 1;
    assert!(SECRETS_RETIRED as u64 >= renewals * SESSIONS as u64);
    assert!(SECRETS_RETIRED * RETIRED_TRIALS_PER_SECOND as usize <= 2_000_000);
    assert!(EPOCH_BYTES_DUE < EPOCH_BYTES_STOP && EPOCH_BYTES_STOP < EPOCH_BYTES_END);
    assert!(EPOCH_AGE_MAX.as_secs() == ROTATION_INTERVAL + ROTATION_MAX.as_secs());
    assert!(ANNOUNCE <= ROTATION_INTERVAL / 4 && GRACE_PERIOD <= ROTATION_INTERVAL / 3);
    assert!(SECURITY_FILE_MAX <= MESSAGE_MAX);
    assert!(CHATS_REMEMBERED >= MAILBOX_MESSAGES);
    assert!(MAILBOX_BYTES > 2 * MESSAGE_MAX);
    assert!(OPS_COMMON < OPS);
    assert!(CHATS_PENDING >= CHATS_UNRECEIPTED);
    assert!(CHATS_BURST_OWN < CHATS_BURST);
};
