//! Machines for measurements: a server and any number of clients in one thread, with files that both
//! sides know and no simulation around them. The same calls give the same machines.

mod file;

pub use file::FileRun;

use clawchat_core::client::{Client, ClientConfig};
use clawchat_core::crypto::aead::{CipherProvider, PacketCipher};
use clawchat_core::id::{FileId, PortId};
use clawchat_core::limits::{DATAGRAM_MAX, KeyLimits, TAG_LEN};
use clawchat_core::ops::Outcome;
use clawchat_core::random::Seed;
use clawchat_core::secret::Secret;
use clawchat_core::server::{
    Credential, CredentialStatus, Member, PortChoice, RENEWAL_VALID_FOR, Server, ServerConfig,
    Timing,
};
use clawchat_core::time::{Duration, Instant, Now, UnixMs};
use clawchat_core::transport::path::Path;
use clawchat_core::wire::secfile::SecurityFile;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

const SERVER: &str = "cc-compare";
/// A file is good from an hour before to an hour after.
const HOUR: u64 = 3600;

/// Whose the files of a measurement are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// All of one member: its sessions have nothing to tell one another.
    One,
    /// Each of another one, who learns who else is there.
    Each,
}

impl Members {
    fn of(self, file: u64) -> String {
        format!("m{}", if self == Self::Each { file } else { 0 })
    }
}

/// The secret of a file: known to both sides of a measurement, and to nobody's harm.
fn secret(file: u64) -> Secret<32> {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&file.to_be_bytes());
    Secret::take(&mut bytes)
}

/// What a server with so many files starts from. That they were not carried by hand means that none
/// is renewed while something else is measured.
#[must_use]
pub fn server_config(
    now: Now,
    files: u64,
    members: Members,
    port: PortChoice,
    provider: &'static dyn CipherProvider,
) -> ServerConfig {
    let credential = |file: u64| Credential {
        file: FileId(file),
        member: members.of(file),
        secret: secret(file),
        timestamp: now.wall.secs() - HOUR,
        carried: false,
        status: CredentialStatus::Accepted,
        valid_until: now.wall.secs() + HOUR,
        grace_period: 300,
        response_timeout: 10,
    };
    let member = |file: u64| Member { name: members.of(file), rooms: vec![] };
    ServerConfig {
        server_id: SERVER.to_owned(),
        server_name: SERVER.to_owned(),
        public: "localhost".to_owned(),
        port,
        timing: Timing::default(),
        renewal_valid_for: RENEWAL_VALID_FOR,
        members: (0..if members == Members::Each { files } else { 1 }).map(member).collect(),
        credentials: (0..files).map(credential).collect(),
        chats: vec![],
        files: Vec::new(),
        // A session may still be on its way out while the next one of its file comes in.
        max_sessions: usize::try_from(files).unwrap_or(usize::MAX),
        key_limits: KeyLimits::default(),
        provider,
    }
}

/// What a client with one of those files starts from.
#[must_use]
pub fn client_config(
    now: Now,
    file: u64,
    port: u16,
    address: IpAddr,
    provider: &'static dyn CipherProvider,
) -> ClientConfig {
    let file = SecurityFile {
        server_id: SERVER.to_owned(),
        server_name: SERVER.to_owned(),
        server_public_ip: address.to_string(),
        server_udp_port: port,
        shared_secret: secret(file),
        bootstrap_key_id: "none".to_owned(),
        timestamp: now.wall.secs() - HOUR,
        valid_from: now.wall.secs() - HOUR,
        valid_until: now.wall.secs() + HOUR,
        next_rotation: now.wall.secs() + HOUR,
        grace_period: 300,
        stun_servers: vec![],
        hole_punch_timeout: 60,
        port_schedule: None,
        response_timeout: 10,
    };
    let addresses = vec![address];
    let (port, reconnect, key_limits) = (Some(port), false, KeyLimits::default());
    ClientConfig { file, addresses, port, reconnect, key_limits, provider }
}

/// The port of a server in memory.
const PORT: u16 = 50_000;
/// Its address.
const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A cipher that changes nothing and believes everything: what is left is our own work, whatever the
/// processor can do for AES-GCM.
#[derive(Clone, Copy, Debug)]
pub struct NullCipher;

impl CipherProvider for NullCipher {
    fn x25519_public(&self, private: &Secret<32>) -> [u8; 32] {
        clawchat_core::crypto::aead::RustCrypto.x25519_public(private)
    }

    fn x25519(&self, private: Secret<32>, peer: &[u8; 32]) -> Option<Secret<32>> {
        clawchat_core::crypto::aead::RustCrypto.x25519(private, peer)
    }

    fn name(&self) -> &'static str {
        "null"
    }

    fn packet_cipher(&self, _: &Secret<32>) -> Box<dyn PacketCipher> {
        Box::new(Self)
    }
}

impl PacketCipher for NullCipher {
    fn seal_in_place(&self, _: &[u8; 12], _: &[u8], _: &mut [u8]) -> [u8; TAG_LEN] {
        [0; TAG_LEN]
    }

    fn open_in_place(&self, _: &[u8; 12], _: &[u8], _: &mut [u8], _: &[u8; TAG_LEN]) -> bool {
        true
    }
}

/// A datagram in flight.
#[derive(Debug)]
pub struct Datagram {
    /// The path it came by, as its receiver sees it.
    pub path: Path,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A server and its clients.
#[derive(Debug)]
pub struct Rig {
    /// What time it is; it moves only when told to.
    pub now: Now,
    /// The server.
    pub server: Server,
    /// Clients, each with a session.
    pub clients: Vec<Client>,
    provider: &'static dyn CipherProvider,
    out: Vec<u8>,
}

impl Rig {
    /// A server with so many files, and a session of each.
    ///
    /// # Panics
    /// When one can't be established.
    #[must_use]
    pub fn new(sessions: u32, provider: &'static dyn CipherProvider) -> Self {
        let mono = Instant::ZERO + Duration::from_secs(1);
        let now = Now { mono, wall: UnixMs(1_700_000_000_000) };
        let port = PortChoice::Fixed(PORT);
        let config = server_config(now, sessions.into(), Members::One, port, provider);
        let server = Server::new(config, &Seed::new(&mut [1; 32]), now);
        let out = vec![0; DATAGRAM_MAX];
        let mut rig = Self { now, server, clients: vec![], provider, out };
        rig.turn_server();
        (0..sessions).for_each(|file| rig.connect(file));
        rig.settle();
        rig
    }

    fn connect(&mut self, file: u32) {
        let config = client_config(self.now, file.into(), PORT, IP, self.provider);
        let mut seed = [2; 32];
        seed[..4].copy_from_slice(&file.to_be_bytes());
        self.clients.push(Client::new(config, &Seed::new(&mut seed), self.now));
        // Hello, answer, switch, and what the server has to say. No time passes, or with thousands the
        // first ones would time out.
        let index = self.clients.len() - 1;
        self.exchange(index);
        assert!(self.clients[index].epoch().is_some(), "session {file} is established");
    }

    /// Lets acknowledgements go that may wait for something to go with.
    fn settle(&mut self) {
        self.now.mono = self.now.mono + Duration::from_millis(30);
        self.now.wall.0 += 30;
        self.server.handle_timeout(self.now);
        for client in 0..self.clients.len() {
            self.clients[client].handle_timeout(self.now);
            self.exchange(client);
        }
    }

    /// Lets all sessions become idle: nothing is under way, and nothing was for a second.
    pub fn idle(&mut self) {
        (0..3).for_each(|_| self.settle());
        for client in 0..self.clients.len() {
            self.pass(Duration::from_millis(1000 / self.clients.len() as u64 + 1), client);
        }
    }

    /// Lets time pass for the server and one client.
    pub fn pass(&mut self, time: Duration, client: usize) {
        self.now.mono = self.now.mono + time;
        self.now.wall.0 += u64::try_from(time.as_millis()).unwrap_or(0);
        self.server.handle_timeout(self.now);
        self.clients[client].handle_timeout(self.now);
    }

    /// Carries datagrams between the server and one client until there are none.
    fn exchange(&mut self, client: usize) {
        loop {
            let sent = self.from_client(client);
            let quiet = sent.is_empty();
            for mut datagram in sent {
                self.server.handle_datagram(self.now, datagram.path, &mut datagram.bytes);
            }
            let replies = self.turn_server();
            if quiet && replies.is_empty() {
                return;
            }
            for (to, reply) in replies {
                self.to_client(to, reply);
            }
        }
    }

    /// The address of a client.
    fn address(client: usize) -> SocketAddr {
        let number = u32::try_from(client).unwrap_or(u32::MAX);
        (Ipv4Addr::from(0x0a00_0001 + number), 40_000).into()
    }

    /// All that a client has to send, its other outputs drained.
    pub fn from_client(&mut self, client: usize) -> Vec<Datagram> {
        let (machine, mut sent) = (&mut self.clients[client], Vec::new());
        while let Some((op, _)) = machine.poll_action() {
            machine.handle_completion(self.now, op, Outcome::Done);
        }
        while machine.poll_event().is_some() {}
        while let Some(transmit) = machine.poll_transmit(self.now, &mut self.out) {
            let path = Path::new(PortId(0), Self::address(client));
            sent.push(Datagram { path, bytes: self.out[..transmit.len].to_vec() });
        }
        sent
    }

    /// A datagram of the server reaches a client.
    pub fn to_client(&mut self, client: usize, mut datagram: Datagram) {
        self.clients[client].handle_datagram(self.now, datagram.path, &mut datagram.bytes);
    }

    /// Drains the server as a driver does: what it sends, and to whom.
    pub fn turn_server(&mut self) -> Vec<(usize, Datagram)> {
        let mut sent = Vec::new();
        while let Some((op, _)) = self.server.poll_action() {
            self.server.handle_completion(self.now, op, Outcome::Done);
        }
        while self.server.poll_event().is_some() {}
        while let Some(transmit) = self.server.poll_transmit(self.now, &mut self.out) {
            let IpAddr::V4(ip) = transmit.path.remote.ip() else { continue };
            let client = (u32::from(ip) - 0x0a00_0001) as usize;
            let path = Path::new(PortId(0), (IP, PORT).into());
            sent.push((client, Datagram { path, bytes: self.out[..transmit.len].to_vec() }));
        }
        sent
    }

    /// The datagram of a ping of one client.
    ///
    /// # Panics
    /// When it has no session, or its last ping was not answered.
    pub fn ping(&mut self, client: usize) -> Datagram {
        self.clients[client].ping().expect("it has a session");
        self.from_client(client).pop().expect("a ping goes out at once")
    }

    /// One datagram and the whole turn of a driver that follows from it; the replies are in `out`.
    /// How many bytes were sent.
    pub fn serve(&mut self, datagram: &mut Datagram, out: &mut Datagram) -> usize {
        self.server.handle_datagram(self.now, datagram.path, &mut datagram.bytes);
        let mut total = self.drain(out);
        // How long to sleep is the last thing that a driver asks.
        let deadline = self.server.poll_timeout().expect("a session always has a deadline");
        if deadline.at <= self.now.mono {
            self.server.handle_timeout(self.now);
            total += self.drain(out);
        }
        total
    }

    /// Takes all that the server has to say.
    fn drain(&mut self, out: &mut Datagram) -> usize {
        while let Some((op, _)) = self.server.poll_action() {
            self.server.handle_completion(self.now, op, Outcome::Done);
        }
        while self.server.poll_event().is_some() {}
        let mut total = 0;
        while let Some(transmit) = self.server.poll_transmit(self.now, &mut self.out) {
            out.bytes.clear();
            out.bytes.extend_from_slice(&self.out[..transmit.len]);
            total += transmit.len;
        }
        total
    }

    /// A place for a reply of the server.
    #[must_use]
    pub fn reply(&self) -> Datagram {
        let path = Path::new(PortId(0), (IP, PORT).into());
        Datagram { path, bytes: Vec::with_capacity(DATAGRAM_MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_of_64_bytes_has_a_pong_of_64_bytes() {
        let mut rig = Rig::new(3, &NullCipher);
        for client in [0, 2, 1, 0] {
            let mut ping = rig.ping(client);
            assert_eq!(ping.bytes.len(), 64);
            let mut pong = rig.reply();
            assert_eq!(rig.serve(&mut ping, &mut pong), 64);
            rig.to_client(client, pong);
        }
        assert!(rig.server.drops().all(|(_, count)| count == 0));
    }

    #[test]
    fn every_one_of_many_has_its_session() {
        let mut rig = Rig::new(300, &NullCipher);
        for client in (0..300).map(|n| n * 7 % 300).chain(0..300) {
            let (mut ping, mut pong) = (rig.ping(client), rig.reply());
            assert_eq!(rig.serve(&mut ping, &mut pong), 64, "session {client}");
            rig.to_client(client, pong);
            rig.pass(Duration::from_micros(100), 0);
        }
    }
}
