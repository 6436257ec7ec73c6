//! A hostile member in a world: she reaches its server straight, and nobody hears what she sends.

use crate::hostile::{Abuse, Hostile, Measure};
use crate::oracle::Verdict;
use crate::world::{Happening, World};
use clawchat_core::id::FileId;
use clawchat_core::transport::path::Path;
use core::net::SocketAddr;
use std::collections::BTreeSet;

/// Her name among the members.
pub const EVE: &str = "eve";
/// Time on the way, microseconds.
const DELAY: u64 = 10_000;
/// Longest pause between two deeds, microseconds.
const PAUSE: u64 = 1_500_000;

/// What happens to her.
#[derive(Debug)]
pub(crate) enum Post {
    /// She does something.
    Act,
    /// A datagram of hers arrives at the server.
    Up { from: SocketAddr, datagram: Vec<u8> },
    /// One of the server's arrives at her.
    Down { to: SocketAddr, datagram: Vec<u8> },
}

/// Her, and what the world knows of her.
#[derive(Debug)]
pub struct Eve {
    hostile: Hostile,
    /// Files that she was given.
    given: BTreeSet<FileId>,
    /// She does nothing any more.
    stopped: bool,
}

impl World {
    /// Lets a hostile member of this name in, who is among the members; some of `targets` are nobody.
    pub fn let_in(&mut self, targets: &[&str]) {
        let mut abuses = Abuse::ALL;
        self.rng.shuffle(&mut abuses);
        let count = if self.rng.chance(200) { abuses.len() } else { 1 + self.rng.index(10) };
        // No more chat than leaves room in the mailboxes of those who are away.
        let measure = Measure { flood: 30, text: 20_000, chats: 250 };
        let hostile = Hostile::new(self.rng.u64(), EVE, &abuses[..count], targets).within(measure);
        self.eve = Some(Eve { hostile, given: BTreeSet::new(), stopped: false });
        self.oracles.chats.exempt(EVE);
        self.oracles.files.exempt(EVE);
        self.push(self.now(), Happening::Eve(Post::Act));
    }

    /// She stops.
    pub fn stop_eve(&mut self) {
        if let Some(eve) = &mut self.eve {
            eve.stopped = true;
        }
    }

    /// How often she had a session.
    #[must_use]
    pub fn hostile_sessions(&self) -> u64 {
        self.eve.as_ref().map_or(0, |eve| eve.hostile.sessions())
    }

    /// Whether the server's datagrams to this address are for her; then they are on their way.
    pub(crate) fn goes_to_eve(&mut self, to: SocketAddr, datagram: &[u8]) -> bool {
        let own = self.eve.is_some() && Hostile::owns(to);
        if own {
            let datagram = datagram.to_vec();
            self.push(self.now() + DELAY, Happening::Eve(Post::Down { to, datagram }));
        }
        own
    }

    pub(crate) fn eve_happens(&mut self, post: Post) -> Verdict {
        match post {
            Post::Up { from, datagram } => {
                if let Some(port) = self.any_port() {
                    self.server_takes(Path::new(port, from), datagram);
                }
                return Ok(());
            }
            Post::Act => self.tend_eve(),
            Post::Down { .. } => {}
        }
        let (now, wall) = (self.now(), self.server_wall());
        let Some(eve) = &mut self.eve else { return Ok(()) };
        if eve.stopped {
            return Ok(());
        }
        let acts = matches!(post, Post::Act);
        match post {
            Post::Down { to, datagram } => eve.hostile.handle(wall, to, &datagram),
            Post::Act | Post::Up { .. } => eve.hostile.act(wall),
        }
        let mut sendings = Vec::new();
        while let Some(sending) = eve.hostile.poll() {
            sendings.push(sending);
        }
        let complaint = eve.hostile.complaint();
        for (from, datagram) in sendings {
            self.push(now + DELAY, Happening::Eve(Post::Up { from, datagram }));
        }
        if acts {
            let pause = self.rng.range(1..=PAUSE);
            self.push(now + pause, Happening::Eve(Post::Act));
        }
        complaint.map_or(Ok(()), |why| Err(format!("oracle 2: the hostile member finds: {why}")))
    }

    /// The operator gives her another file when hers is refused.
    fn tend_eve(&mut self) {
        let newest = self.disk.newest(EVE);
        let content = newest.and_then(|file| self.disk.content(file));
        let Some(eve) = self.eve.as_mut().filter(|eve| !eve.stopped) else { return };
        if !eve.hostile.needs_file() {
            return;
        }
        match (newest, content) {
            (Some(file), Some(content)) if eve.given.insert(file) => {
                eve.hostile.take_file(&content);
            }
            _ if self.rng.chance(200) => {
                let _perhaps =
                    self.with_server(|server, now| server.issue(now, EVE, &[], 1_000_000));
            }
            _ => {}
        }
    }
}
