//! Connects a client to a server, chats and rotates keys, in a program that has no `std`, no libc
//! and no operating system but `exit`.
#![no_std]

extern crate alloc;

mod bare;

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use clawchat_core::client::{self, Client, ClientConfig};
use clawchat_core::crypto::aead::RustCrypto;
use clawchat_core::id::PortId;
use clawchat_core::limits::KeyLimits;
use clawchat_core::ops::Outcome;
use clawchat_core::random::Seed;
use clawchat_core::server::{self, PortChoice, Server, ServerConfig};
use clawchat_core::time::{Duration, Instant, Now, UnixMs};
use clawchat_core::transport::path::Path;
use clawchat_core::wire::secfile::SecurityFile;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50_000);
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);

fn now(ms: u64) -> Now {
    let mono = Instant::ZERO + Duration::from_millis(ms);
    Now { mono, wall: UnixMs(1_700_000_000_000 + ms) }
}

/// A server that listens, and the content of a security file for `ann`.
fn server() -> Option<(Server, SecurityFile)> {
    let config = ServerConfig {
        server_id: "proof".to_string(),
        server_name: "proof".to_string(),
        public: "127.0.0.1".to_string(),
        port: PortChoice::Fixed(SERVER.port()),
        timing: server::Timing::default(),
        renewal_valid_for: server::RENEWAL_VALID_FOR,
        members: Vec::new(),
        credentials: Vec::new(),
        chats: Vec::new(),
        files: Vec::new(),
        max_sessions: 1,
        key_limits: KeyLimits::default(),
        provider: &RustCrypto,
    };
    let mut server = Server::new(config, &Seed::new(&mut [1; 32]), now(0));
    server.issue(now(0), "ann", &[], 3600).ok()?;
    let mut file = None;
    while let Some((op, action)) = server.poll_action() {
        if let server::Action::IssueSecurityFile { draft } = action {
            file = SecurityFile::from_object(&draft.content.to_object()).ok();
        }
        server.handle_completion(now(0), op, Outcome::Done);
    }
    Some((server, file?))
}

/// What must have happened.
#[derive(Default)]
struct Seen {
    connected: bool,
    stored: bool,
    rotated: bool,
}

fn connect() -> Option<()> {
    let (mut server, file) = server()?;
    let addresses = vec![SERVER.ip()];
    let config = ClientConfig { file, addresses, port: None, reconnect: false, key_limits: KeyLimits::default(), provider: &RustCrypto };
    let mut client = Client::new(config, &Seed::new(&mut [2; 32]), now(0));
    client.send_chat(now(0), "@server", "no operating system here").ok()?;
    let mut out = vec![0; clawchat_core::limits::DATAGRAM_MAX].into_boxed_slice();
    let mut seen = Seen::default();
    for ms in 0..5000 {
        step(&mut server, &mut client, now(ms), &mut out, &mut seen);
        if seen.connected && seen.stored && seen.rotated {
            return Some(());
        }
    }
    None
}

fn step(server: &mut Server, client: &mut Client, now: Now, out: &mut Box<[u8]>, seen: &mut Seen) {
    client.handle_timeout(now);
    server.handle_timeout(now);
    while let Some((op, _)) = client.poll_action() {
        client.handle_completion(now, op, Outcome::Done);
    }
    while let Some((op, _)) = server.poll_action() {
        server.handle_completion(now, op, Outcome::Done);
    }
    while let Some(sent) = client.poll_transmit(now, out) {
        let path = Path::new(PortId(0), CLIENT);
        server.handle_datagram(now, path, &mut out[..sent.len]);
    }
    while let Some(sent) = server.poll_transmit(now, out) {
        let path = Path::new(PortId(0), SERVER);
        client.handle_datagram(now, path, &mut out[..sent.len]);
    }
    while let Some(event) = client.poll_event() {
        match event {
            client::Event::Connected { .. } => seen.connected = true,
            client::Event::KeysRotated { .. } => seen.rotated = true,
            client::Event::Receipt { .. } => {
                seen.stored = true;
                // The first one asks; while that is under way the second is refused.
                let _busy = client.rotate_keys(now);
            }
            _ => {}
        }
    }
    while server.poll_event().is_some() {}
}

/// 0 when all of it worked.
pub(crate) fn proof() -> i32 {
    if connect().is_some() { 0 } else { 1 }
}
