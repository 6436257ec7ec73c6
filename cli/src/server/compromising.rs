//! Operators who wait until COMPROMISED is through.

use clawchat_core::id::{OpId, SessionId};
use clawchat_core::ops::Outcome;
use clawchat_core::server::{Action, Event};
use clawchat_core::wire::json::Object;
use std::collections::BTreeSet;
use std::sync::mpsc;

/// One of them.
#[derive(Debug)]
struct Waiting {
    member: String,
    sessions: BTreeSet<SessionId>,
    told: u64,
    acknowledged: u64,
    /// Whether the files are retired, durably, and whether there is a new one.
    settled: Option<(bool, bool)>,
    reply: mpsc::Sender<Object>,
}

/// All of them, and what they wait for.
#[derive(Debug, Default)]
pub(super) struct Compromising {
    waiting: Vec<Waiting>,
    /// Retirements under way.
    retiring: BTreeSet<OpId>,
    /// Retirements that failed, and whose event is to come.
    failed: u64,
}

impl Compromising {
    /// An operator raised COMPROMISED for a member who has these sessions.
    pub(super) fn raised(
        &mut self,
        member: &str,
        sessions: BTreeSet<SessionId>,
        reply: mpsc::Sender<Object>,
    ) {
        let (member, told) = (member.to_owned(), sessions.len() as u64);
        let (acknowledged, settled) = (0, None);
        self.waiting.push(Waiting { member, sessions, told, acknowledged, settled, reply });
    }

    /// An action was begun.
    pub(super) fn started(&mut self, op: OpId, action: &Action) {
        if matches!(action, Action::RetireFiles { .. }) {
            self.retiring.insert(op);
        }
    }

    /// An action is done, or failed.
    pub(super) fn completed(&mut self, op: OpId, outcome: Outcome) {
        if self.retiring.remove(&op) && outcome != Outcome::Done {
            self.failed += 1;
        }
    }

    /// Something happened that they may wait for. Those whose COMPROMISED is through are answered.
    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Compromised { member, new_file_ready, .. } => {
                let lost = !new_file_ready && self.failed > 0;
                self.failed -= u64::from(lost);
                for waiting in self.waiting.iter_mut().filter(|waiting| waiting.member == *member) {
                    waiting.settled = Some((!lost, *new_file_ready));
                }
            }
            Event::Signalled { session, acknowledged, .. } => {
                for waiting in &mut self.waiting {
                    if waiting.sessions.remove(session) {
                        waiting.acknowledged += u64::from(*acknowledged);
                    }
                }
            }
            _ => {}
        }
        self.waiting.retain(|waiting| !waiting.answer());
    }
}

impl Waiting {
    /// Answers if it is through; whether it is.
    fn answer(&self) -> bool {
        let Some((retired, ready)) = self.settled.filter(|_| self.sessions.is_empty()) else {
            return false;
        };
        let _gone = self.reply.send(
            Object::new()
                .with("ok", true)
                .with("member", self.member.as_str())
                .with("told", self.told)
                .with("acknowledged", self.acknowledged)
                .with("retired", retired)
                .with("new_file_ready", ready),
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_retired_is_told() {
        let mut compromising = Compromising::default();
        let (reply, answers) = mpsc::channel();
        let done = |new_file_ready| Event::Compromised {
            member: "ann".into(),
            by: "server".into(),
            new_file_ready,
        };
        let retire = Action::RetireFiles { files: Vec::new() };
        for (op, outcome, ready) in
            [(1, Outcome::Failed, false), (2, Outcome::Done, false), (3, Outcome::Done, true)]
        {
            let session = SessionId(7);
            compromising.raised("ann", [session].into(), reply.clone());
            compromising.started(OpId(op), &retire);
            compromising.completed(OpId(op), outcome);
            compromising.event(&done(ready));
            assert!(answers.try_recv().is_err(), "a session is still being told");
            let member = "ann".to_owned();
            compromising.event(&Event::Signalled { session, member, acknowledged: true });
            let answer = answers.try_recv().unwrap();
            assert_eq!(answer.bool("retired"), Ok(outcome == Outcome::Done));
            assert_eq!(answer.bool("new_file_ready"), Ok(ready));
            assert_eq!((answer.uint("told"), answer.uint("acknowledged")), (Ok(1), Ok(1)));
        }
    }
}
