//! What an attack came to, and its line in the table.

use std::time::Duration;

use super::{Attack, Most};
use crate::load::percentile;

/// One thing that was measured.
#[derive(Clone, Debug)]
pub struct Figure {
    text: String,
    is_missed: bool,
}

impl Figure {
    pub(super) fn plain(what: &str, value: impl Into<String>) -> Self {
        Self { text: format!("{what} {}", value.into()), is_missed: false }
    }

    pub(super) fn seconds(what: &str, took: Duration, is_done: bool, limit: Duration) -> Self {
        let not = if is_done { "" } else { "not " };
        let (took, most) = (took.as_secs_f64(), limit.as_secs_f64());
        let text = format!("{what} {not}{took:.1} s (≤ {most:.0} s)");
        Self { text, is_missed: !is_done || took > most }
    }

    pub(super) fn limited(what: &str, value: f64, most: f64, unit: &str) -> Self {
        let text = format!("{what} {value:.1} {unit} (≤ {most:.0} {unit})");
        Self { text, is_missed: value > most }
    }

    pub(super) fn count(what: &str, count: u64, most: u64) -> Self {
        Self { text: format!("{what} {count}"), is_missed: count > most }
    }

    pub(super) fn ratio(what: &str, ratio: f64) -> Self {
        Self { text: format!("{what} {ratio:.1}×"), is_missed: ratio > 10.0 }
    }

    pub(super) fn amplified(what: &str, ratio: f64) -> Self {
        // The page is a file that is served; nobody is kept from asking for it.
        Self { text: format!("{what} {ratio:.1}×"), is_missed: ratio > 10.0 && what != "page" }
    }
}

/// What came of one attack on one server.
#[derive(Clone, Debug)]
pub struct Row {
    pub(super) attack: Attack,
    pub(super) is_host: bool,
    pub(super) before: Vec<Duration>,
    pub(super) during: Vec<Duration>,
    pub(super) resident: (u64, u64),
    pub(super) lost: u64,
    pub(super) cut: u64,
    pub(super) figures: Vec<Figure>,
}

impl Row {
    /// The head of the table.
    pub const HEAD: &str = "\
| attack | server | p50 / p99 before, ms | p50 / p99 during, ms | memory before → peak, MB | honest: lost, cut | measured |
|---|---|---|---|---|---|---|";

    pub(super) fn judge(&mut self, p99: Most, growth: u64) {
        let [before, during] = [&self.before, &self.during].map(|times| percentile(times, 99));
        let most = match p99 {
            Most::Anything => Duration::MAX,
            Most::Milliseconds(most) => Duration::from_millis(most),
            Most::Twice => (2 * before).max(Duration::from_millis(1)),
        };
        if during > most || (self.during.is_empty() && most < Duration::MAX) {
            let text = format!("p99 over {:.1} ms", most.as_secs_f64() * 1e3);
            self.figures.push(Figure { text, is_missed: true });
        }
        let grown = self.resident.1.saturating_sub(self.resident.0);
        if growth > 0 && grown > growth * 1024 * 1024 {
            let text = format!("memory grew by more than {growth} MiB");
            self.figures.push(Figure { text, is_missed: true });
        }
    }

    /// Whether every figure was reached and no honest client noticed anything but time.
    pub fn is_good(&self) -> bool {
        self.lost + self.cut == 0 && !self.figures.iter().any(|figure| figure.is_missed)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let times = |times: &[Duration]| {
            if times.is_empty() {
                return "none".to_owned();
            }
            let [p50, p99] = [50, 99].map(|share| percentile(times, share).as_secs_f64() * 1e3);
            format!("{p50:.2} / {p99:.1}")
        };
        let figures: Vec<String> = self
            .figures
            .iter()
            .map(|figure| match figure.is_missed {
                true => format!("**{}**", figure.text),
                false => figure.text.clone(),
            })
            .collect();
        let (before, peak) = (self.resident.0 as f64 / 1e6, self.resident.1 as f64 / 1e6);
        let (name, what) = (self.attack.name, self.attack.what);
        let attack = if self.is_host { format!("`{name}`: {what}") } else { String::new() };
        write!(
            f,
            "| {attack} | {} | {} | {} | {before:.1} → {peak:.1} | {}, {} | {} |",
            if self.is_host { "plugsocket" } else { "ws" },
            times(&self.before),
            times(&self.during),
            self.lost,
            self.cut,
            figures.join("; "),
        )
    }
}
