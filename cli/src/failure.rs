//! How a command fails: a documented exit code, what happened, the facts, and what to do next.

use clawchat_core::wire::json::Object;
use std::collections::VecDeque;
use std::fmt;
use std::process::ExitCode;

macro_rules! exits {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $name:literal,)*) => {
        /// Exit codes, after sysexits where one fits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Exit {
            $($(#[$doc])* $variant = $code,)*
        }

        impl Exit {
            /// Its name in messages.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

exits! {
    /// Nothing better fits.
    Failed = 1 "failed",
    /// The command line is wrong.
    Usage = 2 "usage",
    /// The security file is damaged, or is none.
    SecDamaged = 65 "sec_damaged",
    /// A file that was named is not there.
    NoSuchFile = 66 "no_such_file",
    /// The server does not answer.
    Unreachable = 69 "unreachable",
    /// A file can't be written.
    CannotWrite = 73 "cannot_write",
    /// It may work later.
    TryLater = 75 "try_later",
    /// The other side speaks another version.
    VersionMismatch = 76 "version_mismatch",
    /// The key or the rights do not suffice.
    NotPermitted = 77 "not_permitted",
    /// The configuration or the state folder is wrong.
    Config = 78 "config",
    /// The security file has expired.
    SecExpired = 80 "sec_expired",
    /// This computer's clock is wrong.
    ClockSkew = 81 "clock_skew",
    /// A file is not over yet; the same command goes on with it.
    TransferIncomplete = 83 "transfer_incomplete",
    /// COMPROMISED: the keys are wiped.
    KeysWiped = 84 "keys_wiped",
    /// Interrupted twice.
    Interrupted = 130 "interrupted",
}

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened.
    pub what: String,
    /// Measured facts, a line each.
    pub facts: Vec<String>,
    /// What to do next.
    pub advice: Option<String>,
}

/// Result of a command.
pub type Outcome<T> = Result<T, Box<Failure>>;

impl Failure {
    /// A failure with its reason.
    #[must_use]
    pub fn new(exit: Exit, what: impl Into<String>) -> Box<Self> {
        Box::new(Self { exit, what: what.into(), facts: Vec::new(), advice: None })
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self: Box<Self>, fact: impl Into<String>) -> Box<Self> {
        self.facts.push(fact.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn advice(mut self: Box<Self>, advice: impl Into<String>) -> Box<Self> {
        self.advice = Some(advice.into());
        self
    }

    /// The failure as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        let object = Object::new()
            .with("schema", 1)
            .with("event", "error")
            .with("error", self.exit.name())
            .with("code", self.exit as u64)
            .with("message", self.what.as_str())
            .with_some("try", self.advice.as_deref());
        String::from_utf8_lossy(&object.encode()).into_owned()
    }

    /// Tells the user, on stderr and with `json` on stdout too, and gives the exit code.
    #[must_use]
    pub fn report(&self, json: bool) -> ExitCode {
        crate::text::complain(&self.to_string());
        if json {
            crate::text::answer(&self.to_json());
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.exit.name(), self.what)?;
        for fact in &self.facts {
            write!(f, "\n  {fact}")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "\n  try: {advice}")?;
        }
        Ok(())
    }
}

impl core::error::Error for Failure {}

/// What went wrong beside what went well.
#[derive(Debug, Default)]
pub struct Failures(VecDeque<Box<Failure>>);

impl Failures {
    /// Adds one.
    pub fn push(&mut self, failure: Box<Failure>) {
        self.0.push_back(failure);
    }

    /// Says all, and forgets them.
    pub fn tell(&mut self) {
        for failure in self.0.drain(..) {
            crate::text::complain(&failure.to_string());
        }
    }

    /// The first is the command's; the others are said.
    ///
    /// # Errors
    /// The first.
    pub fn into_outcome(mut self) -> Outcome<()> {
        let first = self.0.pop_front();
        self.tell();
        first.map_or(Ok(()), Err)
    }
}
