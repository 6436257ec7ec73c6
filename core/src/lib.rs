//! The ClawChat protocol as a state machine: pure, `no_std`, without clock, socket or randomness of
//! its own.
//!
//! A [`Server`](server::Server) or a [`Client`](client::Client) takes datagrams, the time, commands and
//! completions, and gives out datagrams, actions and events. Whoever drives it owns everything else:
//! sockets, clocks, disk, threads. `docs/PROTOCOL.md` says what goes over the wire; comments cite its
//! sections as `PROTOCOL 5.1`, and those of the security specification behind it as `SPEC 7.2`.
//!
//! # The contract
//!
//! 1. A machine never blocks, never calls out, never reads a clock.
//! 2. Every method is one of: an input (`handle_*`, given the time), a command, an output (`poll_*`), a
//!    getter.
//! 3. Before you sleep, drain the `poll_*`, in any order, until each gives `None`. Late is slow, never
//!    wrong.
//! 4. The buffer for `poll_transmit` is at least [`DATAGRAM_MAX`](limits::DATAGRAM_MAX) bytes long; a
//!    longer one is permission to batch.
//! 5. A [`Transmit`](transport::path::Transmit) that can't be sent now stays in your buffer: stop polling
//!    until it can. To drop it is packet loss, which the machine survives.
//! 6. Answer each action once. One that is never answered counts as failed after ten minutes.
//! 7. `poll_timeout` names the moment to call `handle_timeout`. To call it early or often is harmless.
//!    Datagrams that arrived together are cheaper as one batch; they mean what each would mean alone.
//! 8. Nothing that the network sends is an `Err`. What does not open is dropped in silence.
//!
//! # A run loop
//!
//! The whole of a driver, for a server and a client that share one thread and a perfect network:
//!
//! ```
//! use clawchat_core::client::{Client, ClientConfig, Event};
//! use clawchat_core::crypto::aead::RustCrypto;
//! use clawchat_core::id::PortId;
//! use clawchat_core::limits::KeyLimits;
//! use clawchat_core::ops::Outcome;
//! use clawchat_core::random::Seed;
//! use clawchat_core::server::{Action, PortChoice, RENEWAL_VALID_FOR, Server, ServerConfig, Timing};
//! use clawchat_core::time::{Duration, Instant, Now, UnixMs};
//! use clawchat_core::transport::path::Path;
//! use clawchat_core::wire::secfile::SecurityFile;
//!
//! let mut now = Now { mono: Instant::ZERO, wall: UnixMs(1_700_000_000_000) };
//! let mut server = Server::new(
//!     ServerConfig {
//!         server_id: "cc-1".into(),
//!         server_name: "Example".into(),
//!         public: "192.0.2.1".into(),
//!         port: PortChoice::Fixed(50_000),
//!         timing: Timing::default(),
//!         renewal_valid_for: RENEWAL_VALID_FOR,
//!         members: vec![],
//!         credentials: vec![],
//!         chats: vec![],
//!         files: vec![],
//!         max_sessions: 100,
//!         key_limits: KeyLimits::default(),
//!         provider: &RustCrypto,
//!     },
//!     &Seed::new(&mut [1; 32]), // 32 bytes of the operating system's randomness
//!     now,
//! );
//! server.issue(now, "ann", &[], 3600).unwrap();
//! let mut file = None;
//! while let Some((op, action)) = server.poll_action() {
//!     if let Action::IssueSecurityFile { draft } = action {
//!         // A host makes the credential durable, seals the file and hands it out.
//!         file = SecurityFile::from_object(&draft.content.to_object()).ok();
//!     }
//!     server.handle_completion(now, op, Outcome::Done);
//! }
//!
//! let here = "192.0.2.1:50000".parse().unwrap();
//! let there = "198.51.100.7:40000".parse().unwrap();
//! let config = ClientConfig {
//!     file: file.unwrap(),
//!     addresses: vec!["192.0.2.1".parse().unwrap()],
//!     port: None,
//!     reconnect: true,
//!     key_limits: KeyLimits::default(),
//!     provider: &RustCrypto,
//! };
//! let mut client = Client::new(config, &Seed::new(&mut [2; 32]), now);
//! let id = client.send_chat(now, "@server", "hello").unwrap();
//!
//! let mut out = vec![0; clawchat_core::limits::DATAGRAM_MAX];
//! let stored = 'turns: loop {
//!     client.handle_timeout(now);
//!     server.handle_timeout(now);
//!     while let Some((op, _)) = client.poll_action() {
//!         client.handle_completion(now, op, Outcome::Done);
//!     }
//!     while let Some((op, _)) = server.poll_action() {
//!         server.handle_completion(now, op, Outcome::Done);
//!     }
//!     while let Some(sent) = client.poll_transmit(now, &mut out) {
//!         let path = Path::new(PortId(0), there);
//!         server.handle_datagram(now, path, &mut out[..sent.len]);
//!     }
//!     while let Some(sent) = server.poll_transmit(now, &mut out) {
//!         let path = Path::new(PortId(0), here);
//!         client.handle_datagram(now, path, &mut out[..sent.len]);
//!     }
//!     while server.poll_event().is_some() {}
//!     while let Some(event) = client.poll_event() {
//!         if let Event::Receipt { id, .. } = event {
//!             break 'turns id;
//!         }
//!     }
//!     now.mono = now.mono + Duration::from_millis(1);
//! };
//! assert_eq!(stored, id);
//! ```
//!
//! # Floors
//!
//! A module uses those on its own floor and below, never above; a test holds that.
//!
//! | floor | modules | what is there |
//! |---|---|---|
//! | 5 | [`server`], [`client`], [`ops`] | the roles |
//! | 4 | `session` | what the messages of one peer mean |
//! | 3 | [`transport`] | one peer's packets |
//! | 2 | [`crypto`] | pure functions of keys and bytes |
//! | 1 | [`wire`] | bytes to values and back |
//! | 0 | [`time`], [`random`], [`id`], [`secret`], [`limits`], [`error`], [`ranges`], [`spin`], `budget`, `queue`, `spare` | ground |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod budget;
pub mod client;
pub mod crypto;
pub mod error;
pub mod id;
pub mod limits;
pub mod ops;
mod queue;
pub mod random;
pub mod ranges;
pub mod secret;
pub mod server;
mod session;
mod spare;
pub mod spin;
pub mod time;
pub mod transport;
pub mod wire;
