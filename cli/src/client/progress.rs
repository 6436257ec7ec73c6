//! How transfers are doing: a bar for a person, lines of JSON for a program.

use crate::text::{bytes, event, print};
use core::time::Duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Instant;

/// A program hears of progress so often.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Progress of all transfers of a command together. It counts what the other side has.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    json: bool,
    started: Instant,
    /// Bytes that were there before.
    before: u64,
    told_at: Option<Instant>,
}

impl Progress {
    /// For `total` bytes. The bar hides itself where stderr is no terminal.
    pub(super) fn new(total: u64, json: bool, quiet: bool) -> Self {
        let target =
            if json || quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "{percent:>3} % |{wide_bar}| {decimal_bytes}/{decimal_total_bytes}  \
                        {decimal_bytes_per_sec}  {eta}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        Self { bar, json, started: Instant::now(), before: 0, told_at: None }
    }

    /// More is to come than was known.
    pub(super) fn add(&self, total: u64) {
        self.bar.inc_length(total);
    }

    /// So many bytes were there before: they say nothing of the rate.
    pub(super) fn resumed(&mut self, held: u64) {
        self.before += held;
        self.bar.inc(held);
        self.bar.reset_eta();
    }

    /// So many bytes are there, and what to say beside the bar.
    pub(super) fn set(&self, done: u64, beside: impl Into<String>) {
        if self.bar.position() != done {
            self.bar.set_position(done);
        }
        let beside = beside.into();
        if self.bar.message() != beside {
            self.bar.set_message(beside);
        }
        self.bar.tick();
    }

    /// Whether a program is to hear of progress now.
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.json && self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if due {
            self.told_at = Some(Instant::now());
        }
        due
    }

    /// Tells a program how a transfer is doing.
    pub(super) fn tell(&self, transfer: u64, acked: u64) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(1).max(1);
        let rate = acked.saturating_sub(self.before).saturating_mul(8000) / millis;
        print(
            &event("progress")
                .with("transfer", format!("t-{transfer}"))
                .with("acked", acked)
                .with("rate_bps", rate),
        );
    }

    /// Says something above the bar.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| crate::text::complain(line));
    }

    /// The time since it began, and the rate over it, as a person says them.
    pub(super) fn pace(&self, done: u64) -> String {
        let elapsed = self.started.elapsed();
        let rate = done.saturating_sub(self.before) as f64 / elapsed.as_secs_f64().max(0.001);
        format!("{:.1} s, {}/s", elapsed.as_secs_f64(), bytes(rate as u64))
    }

    /// How many seconds it took so far.
    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
