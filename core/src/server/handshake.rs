//! The server's side of connecting: rotation 0 → 1 (PROTOCOL 5.1).

use super::admission::Known;
use super::credentials::SecretId;
use super::relay::Handed;
use super::{Audit, Entry, Event, REPLIES, Server};
use crate::crypto::agree::PrivateKey;
use crate::crypto::derive::{ConnectionId, Direction, EpochKeys, epoch_next, epoch_zero};
use crate::crypto::packet::PacketKeys;
use crate::error::DropReason;
use crate::id::{Epoch, FileId, SessionId};
use crate::limits::{
    CLOCK_SKEW, DATAGRAM_BASE, HALF_OPEN, HALF_OPEN_PER_FILE, HEADER_LEN, HELLO_MEMORY,
    IDLE_TIMEOUT, KEEPALIVE, TAG_LEN,
};
use crate::queue::Queue;
use crate::session::{Session, Setup, datagram_hash};
use crate::time::{Duration, Now, UnixMs};
use crate::transport::Timer;
use crate::transport::epochs::{EpochState, Epochs};
use crate::transport::path::Path;
use crate::wire::cursor::Writer;
use crate::wire::frame::{Frame, Frames, write_signal};
use crate::wire::header::{Header, PacketType};
use crate::wire::message::{ErrorCode, ErrorMessage, Message, SessionInfo, Side};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// A hello that opened.
struct Hello {
    secret: SecretId,
    nonce: u64,
    timestamp: UnixMs,
    connection_id: ConnectionId,
    keys: EpochKeys,
    client_public: [u8; 32],
}

impl Server {
    /// Steps 0 to 5 for a datagram whose message id says that it is a hello of `file`.
    pub(super) fn take_hello(
        &mut self,
        now: Now,
        path: Path,
        id: SecretId,
        nonce: u64,
        header: &Header,
        datagram: &mut [u8],
    ) -> Result<(), DropReason> {
        if self.closing || now.wall.distance(header.timestamp) > HELLO_MEMORY {
            return Err(DropReason::Hello);
        }
        let hash = datagram_hash(datagram);
        let sessions = &self.sessions;
        let half_open = |id| sessions.get(id).is_some_and(|entry| entry.session.is_half_open());
        let (hellos, credential) = self.credentials.hellos(id).ok_or(DropReason::NoKey)?;
        match hellos.known(now.mono, nonce, &hash, half_open) {
            Known::New => {}
            Known::Copy(reply) => {
                self.reply(path, reply);
                return Ok(());
            }
            Known::Silence => return Err(DropReason::Hello),
        }
        let connection_id = ConnectionId::new(header.timestamp, nonce);
        let keys = epoch_zero(&credential.secret, &connection_id, header.timestamp);
        let mut packet = PacketKeys::new(&keys, Direction::C2s, self.provider);
        if !packet.iv_fits(header, nonce) {
            return Err(DropReason::Iv);
        }
        let plaintext = packet.open(header, datagram)?;
        if !hellos.remember(now.mono, now.wall, nonce, hash, header.timestamp) {
            // Whoever sends them has the file.
            self.flooded(now, Some(path.remote.ip()));
            return Err(DropReason::Hello);
        }
        let (client_public, server_id) = read_offer(&datagram[plaintext])?;
        if server_id != self.server_id {
            return Err(DropReason::Hello);
        }
        let timestamp = header.timestamp;
        let hello = Hello { secret: id, nonce, timestamp, connection_id, keys, client_public };
        match self.judge(now, &hello) {
            Some(error) => {
                self.refuse(now, path, &hello, &error);
                Ok(())
            }
            None => self.answer(now, path, hello),
        }
    }

    /// Steps 3 and 4.
    fn judge(&self, now: Now, hello: &Hello) -> Option<ErrorMessage> {
        let skew = now.wall.distance(hello.timestamp);
        let error = |code, message: String, now| {
            Some(ErrorMessage { code, message, fatal: true, id: None, now })
        };
        if skew > CLOCK_SKEW {
            let side = if hello.timestamp > now.wall { "ahead of" } else { "behind" };
            let text = format!("your clock is {} s {side} the server's", skew.as_secs());
            return error(ErrorCode::ClockSkew, text, Some(now.wall));
        }
        if !self.credentials.is_accepted(hello.secret, now.wall.secs()) {
            return error(ErrorCode::Expired, "this security file has expired".to_string(), None);
        }
        if !self.has_place(hello.secret.file, None) {
            let text = format!("the server has {0} of {0} clients", self.max_sessions);
            return error(ErrorCode::ServerFull, text, None);
        }
        None
    }

    /// Whether there is a free place, the session that a new one of `file` supersedes not counted.
    fn has_place(&self, file: FileId, but: Option<SessionId>) -> bool {
        if self.sessions.len() < self.max_sessions {
            return true;
        }
        let own = self.sessions.of_file(file);
        let own = own.filter(|(id, entry)| entry.established.is_some() && Some(*id) != but);
        let but = but.and_then(|id| self.sessions.get(id)?.established);
        self.sessions.established() - own.count() - usize::from(but.is_some()) < self.max_sessions
    }

    fn refuse(&mut self, now: Now, path: Path, hello: &Hello, error: &ErrorMessage) {
        let json = Message::Error(error.clone()).encode();
        let datagram = self.seal_reply(now, hello, PacketType::Error, &json);
        if let Some((hellos, credential)) = self.credentials.hellos(hello.secret) {
            hellos.replied(now.mono, hello.nonce, &datagram, None);
            let (member, remote) = (credential.member.clone(), path.remote);
            let retired = credential.is_retired();
            let refused = Audit::HelloRefused { member, remote, code: error.code, retired };
            self.events.push_back(Event::Audit(refused));
        }
        self.reply(path, datagram);
    }

    /// Seals the one reply to a hello: a fresh random number, outside the sequence space.
    fn seal_reply(&mut self, now: Now, hello: &Hello, kind: PacketType, json: &[u8]) -> Vec<u8> {
        let mut out = vec![0; DATAGRAM_BASE];
        let mut writer = Writer::new(&mut out[HEADER_LEN..DATAGRAM_BASE - TAG_LEN]);
        let fits = write_signal(&mut writer, json);
        debug_assert!(fits, "names are at most 128 bytes");
        let plaintext = writer.len();
        let seq = self.random.public.u64();
        let mut keys = PacketKeys::new(&hello.keys, Direction::S2c, self.provider);
        let len = keys.seal(seq, now.wall, kind, &mut out, plaintext);
        out.truncate(len);
        out
    }

    fn reply(&mut self, path: Path, datagram: Vec<u8>) {
        if self.replies.len() >= REPLIES {
            self.replies.pop_front();
        }
        self.replies.push_back((path, datagram));
    }

    /// Step 5.
    fn answer(&mut self, now: Now, path: Path, hello: Hello) -> Result<(), DropReason> {
        let private = PrivateKey::new(self.provider, self.random.private.secret());
        let public_key = private.public();
        let agreed = private.agree(&hello.client_public).ok_or(DropReason::Hello)?;
        let credential = self.credentials.get(hello.secret).ok_or(DropReason::NoKey)?;
        let member = self.hub.name(&credential.member);
        let response_timeout = Duration::from_secs(credential.response_timeout);
        let session = Some(self.session_info(now, path, &member));
        let json = Message::Answer { epoch: Epoch(1), public_key, session }.encode();
        let datagram = self.seal_reply(now, &hello, PacketType::KeyRotation, &json);
        let Hello { secret, nonce, connection_id, keys, client_public, .. } = hello;
        let keys = epoch_next(
            keys.next_key_seed,
            agreed,
            &connection_id,
            Epoch(1),
            &client_public,
            &public_key,
        );
        let epoch = EpochState::new(now.mono, Epoch(1), keys, Direction::S2c, self.provider);
        let setup = Setup {
            side: Side::Server,
            connection_id,
            path,
            epochs: Epochs::new(epoch, self.key_limits),
            response_timeout,
            rotation_interval: Duration::from_secs(self.timing.interval),
            provider: self.provider,
        };
        self.make_room(secret.file);
        let session = Session::new(now.mono, setup);
        let (hello_at, owed) = (now.mono, Queue::new());
        let (announce, retirement, established) = (None, None, None);
        let answered = Audit::HelloAnswered { member: member.to_string(), remote: path.remote };
        self.events.push_back(Event::Audit(answered));
        let entry = Entry {
            session,
            secret,
            member,
            hello_at,
            owed,
            handed: Handed::default(),
            announce,
            retirement,
            established,
            counted: 0,
            held: false,
        };
        let id = self.sessions.insert(entry);
        self.schedule.begin(id);
        self.schedule.set_deadline(id, Some((Timer::Forget, now.mono + HALF_OPEN)));
        if let Some((hellos, _)) = self.credentials.hellos(secret) {
            hellos.replied(now.mono, nonce, &datagram, Some(id));
        }
        self.reply(path, datagram);
        Ok(())
    }

    fn session_info(&self, now: Now, path: Path, member: &str) -> SessionInfo {
        SessionInfo {
            now: now.wall,
            member: member.to_string(),
            server_id: self.server_id.clone(),
            server_name: self.server_name.clone(),
            observed: path.remote.to_string(),
            keepalive: KEEPALIVE.as_secs(),
            idle_timeout: IDLE_TIMEOUT.as_secs(),
            next_rotation: self.ports.next_rotation(now.wall),
            rotation_interval: self.timing.interval,
            grace_period: self.timing.grace,
        }
    }

    /// At most 4 half-open sessions per file: a fifth replaces the oldest.
    fn make_room(&mut self, file: FileId) {
        let own = self.sessions.of_file(file);
        let mut own = own.filter(|(_, entry)| entry.session.is_half_open()).map(|(id, _)| id);
        if let Some(oldest) = own.next()
            && own.count() + 1 >= HALF_OPEN_PER_FILE
        {
            self.remove(oldest);
        }
    }

    /// The first packet of epoch 1 opened.
    pub(super) fn established(&mut self, now: Now, id: SessionId) {
        let Some(entry) = self.sessions.get(id) else { return };
        let (secret, member, path) = (entry.secret, entry.member.clone(), entry.session.path());
        let file = secret.file;
        if let Some((hellos, _)) = self.credentials.hellos(secret) {
            hellos.established(id);
        }
        if !self.credentials.is_accepted(secret, now.wall.secs()) {
            self.end(now, id, ErrorCode::Expired, "this security file is no longer accepted");
            return;
        }
        if self.closing {
            self.end(now, id, ErrorCode::Shutdown, "the server is shutting down");
            return;
        }
        if !self.has_place(file, Some(id)) {
            self.end(now, id, ErrorCode::ServerFull, "the last free place was just taken");
            return;
        }
        let newer = |(other, entry): (SessionId, &Entry)| other > id && entry.established.is_some();
        if self.sessions.of_file(file).any(newer) {
            // Its client has begun anew since, and holds a secret that this session would retire.
            self.end(now, id, ErrorCode::Superseded, "a newer session of this security file");
            return;
        }
        let older = self.sessions.of_file(file);
        let older = older.filter(|(other, entry)| *other != id && entry.established.is_some());
        let older: Vec<_> = older.map(|(other, _)| other).collect();
        self.sessions.establish(now, id);
        let (session, remote) = (id, path.remote);
        self.events.push_back(Event::Connected { session, member: member.to_string(), remote });
        // Welcomed before the older one goes: the member is online throughout.
        self.welcome(now, id, &member);
        for other in older {
            self.end(now, other, ErrorCode::Superseded, "a newer session of this security file");
        }
        self.secret_used(now, secret);
        self.tell_newcomer(now, id);
    }

    pub(super) fn end(&mut self, now: Now, id: SessionId, code: ErrorCode, message: &str) {
        self.with_session(now, id, |session, cx| session.end(cx.now, code, message));
    }
}

/// The one SIGNAL of a hello: the client's public key, and the server it is for.
fn read_offer(plaintext: &[u8]) -> Result<([u8; 32], String), DropReason> {
    let mut signal = None;
    for frame in Frames::new(plaintext) {
        match frame.map_err(|_| DropReason::EpochZero)? {
            Frame::Signal(json) if signal.is_none() => signal = Some(json),
            Frame::Padding | Frame::Ack(_) => {}
            Frame::Signal(_)
            | Frame::Message(_)
            | Frame::Chunk { .. }
            | Frame::Challenge(_)
            | Frame::Response(_) => return Err(DropReason::EpochZero),
        }
    }
    let json = signal.ok_or(DropReason::EpochZero)?;
    match Message::read(json, PacketType::KeyRotation, Side::Client) {
        Ok(Some(Message::Offer { epoch: Epoch(1), public_key, server_id: Some(server_id) })) => {
            Ok((public_key, server_id))
        }
        _ => Err(DropReason::EpochZero),
    }
}
