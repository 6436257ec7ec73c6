//! `get` takes files that wait at the server, `ls` lists them.

use super::args::{Common, Get};
use super::link::{Link, Woken};
use super::shown::Shown;
use super::taking::Taker;
use crate::disk;
use crate::disk::folders::LIST;
use crate::failure::{Exit, Failure, Outcome};
use crate::text::{answer, bytes, complain, list, one_line, print};
use clawchat_core::client::Event;
use clawchat_core::id::TransferId;
use clawchat_core::wire::json::Object;
use clawchat_core::wire::message::{FileOffer, SessionInfo};
use core::time::Duration;
use std::path::PathBuf;
use std::time::Instant;

/// What waits at the server is offered within this time of connecting.
const OFFERS: Duration = Duration::from_millis(1500);

/// Whether `get` was asked for a file.
fn is_wanted(what: &Get, offer: &FileOffer, from_list: bool) -> bool {
    let name = offer.name.strip_suffix(LIST).unwrap_or(&offer.name);
    let id = offer.id.to_string();
    what.all
        || from_list
        || what.names.iter().any(|wanted| {
            *wanted == name
                || *wanted == offer.name
                || (wanted.len() >= 6 && id.starts_with(wanted))
        })
}

/// `get`: takes files that wait, and ends.
pub(super) fn get(common: &Common, what: &Get) -> Outcome<()> {
    let link = Link::start(common)?;
    smol::block_on(async {
        let info = link.connected(common.timeout).await?;
        // The lists of folders that are refused.
        let lists = what.refuse.then(tempfile::tempdir).transpose();
        let lists = lists.map_err(|error| disk::cannot_write(&std::env::temp_dir(), &error))?;
        let into = match &lists {
            Some(lists) => lists.path().to_owned(),
            None => what.output.clone().unwrap_or_else(|| PathBuf::from(".")),
        };
        let mut taker = Taker::new(common, &link, &into)?;
        taker.knows(Shown::received(&info));
        let end = get_all(&mut taker, &link, what).await;
        let unfinished = taker.stop();
        let (taken, failures) = (taker.taken, core::mem::take(&mut taker.failures));
        drop(taker);
        match end {
            End::Compromised => return Err(link.wiped().await),
            End::Closed(failure) => return Err(failure),
            End::Paused | End::Done => link.leave().await?,
        }
        if unfinished > 0 {
            let what = match unfinished {
                1 => "paused: a file is not whole yet".to_owned(),
                _ => format!("paused: {unfinished} files are not whole yet"),
            };
            let failure = Failure::new(Exit::TransferIncomplete, what);
            return Err(failure.advice("the same command goes on with what is missing"));
        }
        failures.into_outcome()?;
        if taken == 0 && !what.all {
            let text = format!("the server has no such file for you: {}", what.names.join(", "));
            return Err(Failure::new(Exit::NoSuchFile, one_line(&text)).advice("clawchat ls"));
        }
        if taken == 0 && !common.quiet && !common.json {
            complain("no file waits");
        }
        Ok(())
    })
}

/// How `get` ended.
enum End {
    Done,
    Paused,
    Compromised,
    Closed(Box<Failure>),
}

async fn get_all(taker: &mut Taker<'_>, link: &Link, what: &Get) -> End {
    let (mut others, mut until) = (Vec::new(), Instant::now() + OFFERS);
    loop {
        if !taker.is_busy() && Instant::now() >= until {
            return End::Done;
        }
        let deadline = taker.tick().unwrap_or(until);
        match link.next(Some(deadline)).await {
            Woken::Event(Event::Compromised { .. }) => return End::Compromised,
            Woken::Event(Event::Closed(reason)) => {
                return End::Closed(link.failure(&reason, taker.common().timeout));
            }
            Woken::Event(event) => match taker.take(event) {
                Some(Event::FileOffered { transfer, offer }) => {
                    others.push((transfer, offer));
                    until = until.max(Instant::now() + OFFERS / 3);
                }
                // All are offered anew in a new session.
                Some(Event::Connected { .. }) => {
                    others.clear();
                    until = Instant::now() + OFFERS;
                }
                _ => {}
            },
            Woken::Signal => return End::Paused,
            Woken::Timeout => {}
        }
        // Which files belong to a folder is known once its list is here.
        let wanted = |(_, offer): &mut (TransferId, FileOffer)| {
            let key = (offer.from.clone(), offer.id);
            let within = taker.is_of_folder(&key);
            is_wanted(what, offer, within)
        };
        for (transfer, offer) in others.extract_if(.., wanted).collect::<Vec<_>>() {
            if what.refuse {
                taker.refuse(transfer, offer);
                // With the list of a folder its files are known.
                until = until.max(Instant::now() + OFFERS);
            } else {
                taker.offered(transfer, offer);
            }
        }
        taker.look().await;
    }
}

/// `ls`: the files that wait.
pub(super) fn ls(common: &Common) -> Outcome<()> {
    let link = Link::start(common)?;
    smol::block_on(async {
        let info = link.connected(common.timeout).await?;
        let (mut offers, mut until) = (Vec::new(), Instant::now() + OFFERS);
        loop {
            match link.next(Some(until)).await {
                Woken::Event(Event::FileOffered { offer, .. }) => {
                    offers.push(offer);
                    until = until.max(Instant::now() + OFFERS / 3);
                }
                Woken::Event(Event::Compromised { .. }) => return Err(link.wiped().await),
                Woken::Event(Event::Closed(reason)) => {
                    return Err(link.failure(&reason, common.timeout));
                }
                Woken::Event(_) => {}
                Woken::Signal | Woken::Timeout => break,
            }
        }
        show(common, &info, &offers);
        link.leave().await
    })
}

fn show(common: &Common, info: &SessionInfo, offers: &[FileOffer]) {
    if common.json {
        let files = offers.iter().map(|offer| {
            Object::new()
                .with("name", offer.name.as_str())
                .with("size", offer.size)
                .with("from", offer.from.as_str())
                .with("to", offer.to.to_string())
                .with("id", offer.id.to_string())
        });
        print(&Object::new().with("schema", 1).with("files", list(files)));
        return;
    }
    if offers.is_empty() {
        complain(&format!("no file waits at {} for {}", one_line(&info.server_name), info.member));
        return;
    }
    answer(&format!("{:<8} {:<10} {:<16} {}", "ID", "SIZE", "FROM", "NAME"));
    for offer in offers {
        let name = offer.name.strip_suffix(LIST).map(|name| format!("{name}/"));
        let name = one_line(&name.unwrap_or_else(|| offer.name.clone()));
        let id = &offer.id.to_string()[..8];
        answer(&format!("{id:<8} {:<10} {:<16} {name}", bytes(offer.size), offer.from));
    }
}
