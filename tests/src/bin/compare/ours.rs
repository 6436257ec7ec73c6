//! ClawChat through both of its drivers: a server on `clawchat-mio`, clients on `clawchat-smol`.

use crate::child::{
    answer_for_usage, cpu, heard, percentiles, tell, tell_rate, tell_sample, text, word,
};
use clawchat_core::client;
use clawchat_core::crypto::aead::AwsLc;
use clawchat_core::id::{ChatId, OpId, TransferId};
use clawchat_core::limits::DATAGRAM_MAX;
use clawchat_core::ops::{Chunk, Outcome, Want};
use clawchat_core::ranges::RangeSet;
use clawchat_core::server::{Action, Event, PortChoice, Server, Timing};
use clawchat_core::time::Now;
use clawchat_mio::{Driver, Flow, Remote};
use clawchat_smol::{Handle, Options};
use clawchat_tests::bench::{Members, client_config, server_config};
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use smol::LocalExecutor;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Sessions begun at a time where the rate does not count.
const BATCH: usize = 20;

/// What files are made of: as many bytes as are asked for at once, for all sessions of a process.
static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();

/// A host with a perfect disk, which takes every file and keeps nothing of it.
struct ServerHost {
    remote: Remote<()>,
    /// The port is told once only.
    told: bool,
    pauses: Pauses,
}

/// How steadily the bytes of a file arrive.
#[derive(Default)]
struct Pauses {
    /// It is to be told at the end of a file.
    wanted: bool,
    /// Bytes have come since the last look at the clock.
    came: bool,
    last: Option<Instant>,
    longest: f64,
    ports: u32,
    keys: u32,
}

impl Pauses {
    /// Receiving has come to an end for now.
    fn look(&mut self) {
        if !self.wanted || !core::mem::take(&mut self.came) {
            return;
        }
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max((now - last).as_secs_f64());
        }
    }

    fn tell(&self) {
        if self.wanted {
            let (ports, keys) = (self.ports.into(), self.keys.into());
            tell_sample(&[("stall", self.longest), ("ports", ports), ("keys", keys)]);
        }
    }
}

impl clawchat_mio::Host for ServerHost {
    type Command = ();

    fn start(&mut self, op: OpId, _: Action) {
        self.remote.complete(op, Outcome::Done);
    }

    fn completed(&mut self, _: &mut Server, _: Now, _: OpId, _: Outcome) {}

    fn event(&mut self, server: &mut Server, now: Now, event: Event) {
        match event {
            Event::Listening { port } if !self.told => {
                self.told = true;
                tell(&port.to_string());
            }
            Event::PortRotated { .. } => self.pauses.ports += 1,
            Event::KeysRotated { .. } => self.pauses.keys += 1,
            Event::FileOffered { transfer, offer, .. } => {
                // An offer that is gone already has been taken back.
                let _gone = server.accept_file(now, transfer, &RangeSet::new(), offer.size);
            }
            Event::FileComplete { transfer, file } => {
                self.pauses.tell();
                server.file_checked(now, transfer, Ok(file));
            }
            _ => {}
        }
    }

    fn store(&mut self, _: &Chunk<'_>) -> bool {
        self.pauses.came = true;
        true
    }

    fn flush(&mut self, _: &mut Server, _: Now) {
        self.pauses.look();
    }

    fn load(&mut self, _: &Want, _: &mut [u8]) -> Result<(), &'static str> {
        Err("there is no file")
    }

    fn command(&mut self, _: &mut Server, _: Now, (): ()) -> Flow {
        Flow::Continue
    }
}

/// Role: `ours-server FILES one|each [SECONDS]`: with a third word port and keys rotate so often, and the
/// longest pause within a file is told when it is complete.
pub(crate) fn serve(words: &[String]) -> Result<(), String> {
    let (files, members): (u64, String) = (word(words, 0)?, word(words, 1)?);
    let now = clawchat_mio::clock::now();
    let members = if members == "each" { Members::Each } else { Members::One };
    let mut config = server_config(now, files, members, PortChoice::Random, &AwsLc);
    let mut pauses = Pauses::default();
    if words.len() > 2 {
        config.timing = Timing::every(word(words, 2)?);
        pauses.wanted = true;
    }
    let server = Server::new(config, &clawchat_mio::entropy::seed().map_err(text)?, now);
    let driver = Driver::new(server, vec![ADDRESS]).map_err(text)?;
    let mut host = ServerHost { remote: driver.remote(), told: false, pauses };
    answer_for_usage();
    driver.run(&mut host).map_err(text)
}

/// A host whose files are all of one pattern.
struct ClientHost {
    pattern: &'static [u8],
}

impl clawchat_smol::Host for ClientHost {
    fn perform(&self, _: &client::Action) -> Outcome {
        Outcome::Done
    }

    fn offered(&self, _: TransferId, _: ChatId) {}

    fn store(&self, _: &Chunk<'_>) -> bool {
        false
    }

    fn flush(&self) -> Vec<TransferId> {
        Vec::new()
    }

    fn load(&self, _: &Want, bytes: &mut [u8]) -> Result<(), &'static str> {
        bytes.copy_from_slice(&self.pattern[..bytes.len()]);
        Ok(())
    }
}

/// A session of a file, and the task that drives it on `executor`.
async fn connect(executor: &LocalExecutor<'_>, file: u64, port: u16) -> Result<Handle, String> {
    connect_by(executor, file, port, false).await
}

/// The same, without GSO if it is to be `plain`.
async fn connect_by(
    executor: &LocalExecutor<'_>,
    file: u64,
    port: u16,
    plain: bool,
) -> Result<Handle, String> {
    let config = client_config(clawchat_smol::clock::now(), file, port, ADDRESS, &AwsLc);
    let host = ClientHost { pattern: PATTERN.get_or_init(|| vec![7; DATAGRAM_MAX]) };
    let options = Options { offload: !plain };
    let (handle, task) = Handle::connect(config, Arc::new(host), options).map_err(text)?;
    executor.spawn(task).detach();
    loop {
        match handle.next_event().await {
            Some(client::Event::Connected { .. }) => return Ok(handle),
            Some(client::Event::Closed(reason)) => return Err(reason.to_string()),
            Some(_) => {}
            None => return Err("the client ended".to_owned()),
        }
    }
}

fn run<T>(
    work: impl AsyncFnOnce(&Rc<LocalExecutor<'static>>) -> Result<T, String>,
) -> Result<T, String> {
    let executor = Rc::new(LocalExecutor::new());
    smol::block_on(executor.run(work(&executor)))
}

/// Role: `ours-ping PORT COUNT`: from asking for a ping to hearing of its pong.
pub(crate) fn ping(words: &[String]) -> Result<(), String> {
    let (port, count): (u16, usize) = (word(words, 0)?, word(words, 1)?);
    run(async |executor| {
        let handle = connect(executor, 0, port).await?;
        // A task beside the driver's, as an application's would be.
        executor.spawn(pings(handle, count)).await
    })
}

async fn pings(handle: Handle, count: usize) -> Result<(), String> {
    let mut times = Vec::new();
    let used = cpu();
    while times.len() < count {
        let begun = Instant::now();
        handle.ping().await.map_err(text)?;
        while !matches!(handle.next_event().await, Some(client::Event::Pong { .. }) | None) {}
        times.push(begun.elapsed().as_secs_f64());
    }
    let used = (cpu() - used) / count as f64;
    let (p50, p99, worst) = percentiles(times);
    tell_sample(&[("p50", p50), ("p99", p99), ("worst", worst), ("cpu", used)]);
    Ok(())
}

/// Role: `ours-bulk PORT MIB [rotate|plain]`: a file from memory, from its offer to the server's word that it
/// is complete. Its digest is not computed, since a stream of the peer has none either.
pub(crate) fn bulk(words: &[String]) -> Result<(), String> {
    let (port, mib): (u16, u64) = (word(words, 0)?, word(words, 1)?);
    let how = words.get(2).map_or("", String::as_str);
    run(async |executor| {
        let handle = connect_by(executor, 0, port, how == "plain").await?;
        if how == "rotate" {
            executor.spawn(rotate(handle.clone())).detach();
        }
        let (started, used) = (Instant::now(), cpu());
        let offered = handle.offer_file(ChatId([1; 16]), "@server", "file", mib << 20).await;
        handle.file_digest(offered.map_err(|error| format!("{error:?}"))?, [7; 32]);
        loop {
            match handle.next_event().await {
                Some(client::Event::FileEnded { result: Ok(()), .. }) => break,
                Some(client::Event::FileEnded { result: Err(why), .. }) => {
                    return Err(format!("{why:?}"));
                }
                Some(client::Event::Closed(reason)) => return Err(reason.to_string()),
                Some(_) => {}
                None => return Err("the client ended".to_owned()),
            }
        }
        let (seconds, used) = (started.elapsed().as_secs_f64(), cpu() - used);
        tell_sample(&[("seconds", seconds), ("cpu", used), ("bytes", (mib << 20) as f64)]);
        Ok(())
    })
}

/// Offers new keys each second.
async fn rotate(handle: Handle) {
    loop {
        smol::Timer::after(Duration::from_secs(1)).await;
        // A rotation that is still under way will do.
        let _busy = handle.rotate_keys().await;
    }
}

/// Role: `ours-handshakes PORT COUNT AT_A_TIME`, each worker with a file of its own.
pub(crate) fn handshakes(words: &[String]) -> Result<(), String> {
    let port: u16 = word(words, 0)?;
    let (count, at_a_time): (u64, u64) = (word(words, 1)?, word(words, 2)?);
    run(async |executor| {
        let (started, used) = (Instant::now(), cpu());
        let workers: Vec<_> = (0..at_a_time)
            .map(|worker| {
                let (own, executor) = (count / at_a_time, executor.clone());
                let own = own + u64::from(worker < count % at_a_time);
                let spawner = executor.clone();
                spawner.spawn(async move {
                    let mut times = Vec::new();
                    for _ in 0..own {
                        let begun = Instant::now();
                        let handle = connect(&executor, worker, port).await?;
                        times.push(begun.elapsed().as_secs_f64());
                        handle.leave();
                    }
                    Ok::<_, String>(times)
                })
            })
            .collect();
        let mut times = Vec::new();
        for worker in workers {
            times.extend(worker.await?);
        }
        tell_rate(count as f64, started.elapsed(), cpu() - used, times);
        Ok(())
    })
}

/// Role: `ours-idle PORT COUNT`: sessions that do nothing.
pub(crate) fn idle(words: &[String]) -> Result<(), String> {
    let (port, count): (u16, usize) = (word(words, 0)?, word(words, 1)?);
    run(async |executor| {
        let mut all = vec![connect(executor, 0, port).await?];
        smol::Timer::after(Duration::from_secs(1)).await;
        tell("one");
        heard();
        while all.len() < count {
            let batch: Vec<_> = (0..BATCH.min(count - all.len()))
                .map(|index| {
                    let (file, executor) = ((all.len() + index) as u64, executor.clone());
                    let spawner = executor.clone();
                    spawner.spawn(async move { connect(&executor, file, port).await })
                })
                .collect();
            for session in batch {
                all.push(session.await?);
            }
        }
        // Longer than the others take, since whoever is there is told to all.
        smol::Timer::after(Duration::from_secs(2)).await;
        tell("all");
        heard();
        Ok(())
    })
}
