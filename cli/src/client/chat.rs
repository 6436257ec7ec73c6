//! `chat`: lines typed go out, what comes stands above the input line. Works in a dumb terminal and
//! without one.

use super::args::Common;
use super::link::{Link, Woken};
use super::{confirm_wipe, show};
use crate::failure::{Exit, Failure, Outcome};
use crate::text::{complain, one_line, try_answer};
use clawchat_core::client::Event;
use clawchat_core::wire::message::{Presence, Recipient};
use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};
use smol::channel::{Receiver, Sender, unbounded};
use smol::future::FutureExt;
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::time::Instant;

const HELP: &str = "/to #room|@member  who lines go to
/who               who is there
/status            how the connection is doing
/rotate            new session keys
/compromised       destroy the keys here and at the server
/quit              leave";

/// Prints above the input line, where there is one; false when nobody reads it.
type Printer = Box<dyn FnMut(String) -> bool + Send>;

struct Console {
    link: Link,
    print: Printer,
    to: String,
    members: BTreeMap<String, Presence>,
}

/// How the chat ended.
enum End {
    /// The user leaves.
    Leave,
    /// The user wants the keys destroyed.
    Declare,
    /// The server had them destroyed.
    Compromised,
}

/// What became of a line.
enum Next {
    Go,
    Leave,
    Wipe,
}

/// `chat`
pub(super) fn chat(common: &Common, to: &str) -> Outcome<()> {
    if Recipient::parse(to).is_none() {
        let what = format!("`{}` is no recipient", one_line(to));
        return Err(Failure::new(Exit::Usage, what).advice("--to '#room' or --to '@member'"));
    }
    let link = Link::start(common)?.showing_chat();
    let info = smol::block_on(link.connected(common.timeout))?;
    complain(&format!(
        "connected to {} as {}; lines go to {to}, /help for more",
        one_line(&info.server_name),
        info.member
    ));
    let (lines, mut print) = console()?;
    let members = BTreeMap::new();
    for chat in link.take_inbox() {
        if !print(show::chat(&chat)) {
            link.nobody_reads();
        }
        link.was_shown(&chat);
    }
    link.clear_inbox();
    let mut console = Console { link, print, to: to.to_owned(), members };
    let end = smol::block_on(console.run(&lines, common))?;
    let Console { link, .. } = console;
    match end {
        End::Leave => smol::block_on(link.leave()),
        End::Compromised => Err(smol::block_on(link.wiped())),
        End::Declare => {
            // The editor has the terminal until its thread ends, which it did with this line.
            smol::block_on(link.leave())?;
            let what = "This destroys the keys of this device here and at the server.";
            confirm_wipe(common.no_input, what)?;
            super::commands::compromised(common, true)
        }
    }
}

/// Lines of the user, and how to print beside them.
fn console() -> Outcome<(Receiver<String>, Printer)> {
    let (sender, lines) = unbounded();
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send_blocking(line).is_err() {
                    return;
                }
            }
        });
        return Ok((lines, Box::new(|text| try_answer(&text).is_ok())));
    }
    let failed = |error: ReadlineError| Failure::new(Exit::Failed, error.to_string());
    let mut editor = DefaultEditor::new().map_err(failed)?;
    let printer = editor.create_external_printer();
    std::thread::spawn(move || edit(&mut editor, &sender));
    let print: Printer = match printer {
        Ok(mut printer) => Box::new(move |text| {
            printer.print(format!("{text}\n")).is_ok() || try_answer(&text).is_ok()
        }),
        Err(_) => Box::new(|text| try_answer(&text).is_ok()),
    };
    Ok((lines, print))
}

/// Reads lines until the user leaves, or a line takes the terminal away from the editor.
fn edit(editor: &mut DefaultEditor, lines: &Sender<String>) {
    while let Ok(line) = editor.readline("> ") {
        let last = matches!(line.trim(), "/compromised" | "/quit");
        if !line.trim().is_empty() {
            // A history that can't grow is no reason to stop.
            let _kept = editor.add_history_entry(&line);
        }
        if lines.send_blocking(line).is_err() || last {
            return;
        }
    }
}

impl Console {
    async fn run(&mut self, lines: &Receiver<String>, common: &Common) -> Outcome<End> {
        enum Either {
            Line(Option<String>),
            Woken(Woken),
        }
        loop {
            let line = async { Either::Line(lines.recv().await.ok()) };
            let woken = async { Either::Woken(self.link.next(None).await) };
            match line.or(woken).await {
                Either::Line(None) => return self.flush(common).await,
                Either::Line(Some(line)) => match self.line(line.trim()).await {
                    Next::Go => {}
                    Next::Leave => return self.flush(common).await,
                    Next::Wipe => return Ok(End::Declare),
                },
                Either::Woken(Woken::Event(Event::Compromised { .. })) => {
                    return Ok(End::Compromised);
                }
                Either::Woken(Woken::Event(Event::Closed(reason))) => {
                    return Err(self.link.failure(&reason, common.timeout));
                }
                Either::Woken(Woken::Event(event)) => self.event(&event),
                Either::Woken(Woken::Signal | Woken::Timeout) => return Ok(End::Leave),
            }
        }
    }

    /// Before leaving: what was typed is stored, or the time is over.
    async fn flush(&mut self, common: &Common) -> Outcome<End> {
        let deadline = Instant::now() + common.timeout;
        while self.link.handle.state().await.is_some_and(|state| state.unreceipted > 0) {
            match self.link.next(Some(deadline)).await {
                Woken::Event(Event::Compromised { .. }) => return Ok(End::Compromised),
                Woken::Event(event) => self.event(&event),
                Woken::Signal => return Ok(End::Leave),
                Woken::Timeout => {
                    return Err(Failure::new(Exit::Unreachable, "not all messages were stored"));
                }
            }
        }
        Ok(End::Leave)
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Roster { members, .. } => {
                self.members = members.iter().map(|m| (m.member.clone(), m.clone())).collect();
            }
            Event::Presence(presence) => {
                self.members.insert(presence.member.clone(), presence.clone());
            }
            _ => {}
        }
        let chat = matches!(event, Event::Chat(_));
        if show::line(event).is_some_and(|line| !(self.print)(line)) && chat {
            self.link.nobody_reads();
        }
    }

    /// Tells the user something that may be missed.
    fn say(&mut self, text: String) {
        let _read = (self.print)(text);
    }

    async fn line(&mut self, line: &str) -> Next {
        let mut words = line.split_whitespace();
        match words.next() {
            None => {}
            Some("/quit") => return Next::Leave,
            Some("/compromised") => return Next::Wipe,
            Some("/help") => self.say(HELP.to_owned()),
            Some("/who") => {
                let members: Vec<_> = self.members.values().cloned().collect();
                self.say(show::table(&members).join("\n"));
            }
            Some("/to") => match words.next().filter(|to| Recipient::parse(to).is_some()) {
                Some(to) => {
                    self.to = to.to_owned();
                    self.say(format!("lines go to {to}"));
                }
                None => self.say("/to #room or /to @member".to_owned()),
            },
            Some("/rotate") => {
                if let Err(error) = self.link.handle.rotate_keys().await {
                    self.say(format!("! {error}"));
                }
            }
            Some("/status") => self.status().await,
            Some(word) if word.starts_with('/') => self.say(HELP.to_owned()),
            Some(_) => match self.link.handle.send_chat(&self.to, line).await {
                Ok(id) => self.say(format!("… {} to {}", &id.to_string()[..6], self.to)),
                Err(error) => self.say(format!("! not sent: {error}")),
            },
        }
        Next::Go
    }

    async fn status(&mut self) {
        let Some(state) = self.link.handle.state().await else { return };
        let rtt = state
            .rtt
            .map_or_else(|| "-".into(), |rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1e3));
        let line = match (state.epoch, state.server) {
            (Some(epoch), Some(server)) => format!(
                "{server}, rtt {rtt}, key epoch {epoch}, {} waiting to be stored",
                state.unreceipted
            ),
            _ => format!("not connected, {} waiting", state.unreceipted),
        };
        self.say(line);
    }
}
