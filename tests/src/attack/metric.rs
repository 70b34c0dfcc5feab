//! Measured values of an attack, and their row in the printed table.

use std::time::Duration;

use super::{Attack, LatencyLimit};
use crate::load::percentile;

/// A measured value, with or without a limit.
#[derive(Clone, Debug)]
pub struct Metric {
    text: String,
    exceeds_limit: bool,
}

impl Metric {
    pub(super) fn unlimited(what: &str, value: impl Into<String>) -> Self {
        Self { text: format!("{what} {}", value.into()), exceeds_limit: false }
    }

    pub(super) fn seconds(what: &str, took: Duration, is_done: bool, limit: Duration) -> Self {
        let not = if is_done { "" } else { "not " };
        let (took, most) = (took.as_secs_f64(), limit.as_secs_f64());
        let text = format!("{what} {not}{took:.1} s (≤ {most:.0} s)");
        Self { text, exceeds_limit: !is_done || took > most }
    }

    pub(super) fn limited(what: &str, value: f64, most: f64, unit: &str) -> Self {
        let text = format!("{what} {value:.1} {unit} (≤ {most:.0} {unit})");
        Self { text, exceeds_limit: value > most }
    }

    pub(super) fn count(what: &str, count: u64, most: u64) -> Self {
        Self { text: format!("{what} {count}"), exceeds_limit: count > most }
    }

    pub(super) fn ratio(what: &str, ratio: f64) -> Self {
        Self { text: format!("{what} {ratio:.1}×"), exceeds_limit: ratio > 10.0 }
    }

    pub(super) fn amplified(what: &str, ratio: f64) -> Self {
        // The page is a static file that any client may request.
        Self { text: format!("{what} {ratio:.1}×"), exceeds_limit: ratio > 10.0 && what != "page" }
    }
}

/// The results of one attack on one server.
#[derive(Clone, Debug)]
pub struct Row {
    pub(super) attack: Attack,
    pub(super) is_host: bool,
    pub(super) before: Vec<Duration>,
    pub(super) during: Vec<Duration>,
    pub(super) resident: (u64, u64),
    pub(super) lost: u64,
    pub(super) closed: u64,
    pub(super) metrics: Vec<Metric>,
}

impl Row {
    /// The header of the table.
    pub const HEADER: &str = "\
| attack | server | p50 / p99 before, ms | p50 / p99 during, ms | memory before → peak, MB | legitimate clients: lost, closed | measured |
|---|---|---|---|---|---|---|";

    pub(super) fn check_limits(&mut self, p99: LatencyLimit, growth: u64) {
        let [before, during] = [&self.before, &self.during].map(|times| percentile(times, 99));
        let most = match p99 {
            LatencyLimit::None => Duration::MAX,
            LatencyLimit::Milliseconds(most) => Duration::from_millis(most),
            LatencyLimit::TwiceBaseline => (2 * before).max(Duration::from_millis(1)),
        };
        if during > most || (self.during.is_empty() && most < Duration::MAX) {
            let text = format!("p99 over {:.1} ms", most.as_secs_f64() * 1e3);
            self.metrics.push(Metric { text, exceeds_limit: true });
        }
        let grown = self.resident.1.saturating_sub(self.resident.0);
        if growth > 0 && grown > growth * 1024 * 1024 {
            let text = format!("memory grew by more than {growth} MiB");
            self.metrics.push(Metric { text, exceeds_limit: true });
        }
    }

    /// Returns whether all metrics are within their limits and no legitimate client lost a message
    /// or its connection.
    pub fn passes(&self) -> bool {
        self.lost + self.closed == 0 && !self.metrics.iter().any(|metric| metric.exceeds_limit)
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
        let metrics: Vec<String> = self
            .metrics
            .iter()
            .map(|metric| match metric.exceeds_limit {
                true => format!("**{}**", metric.text),
                false => metric.text.clone(),
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
            self.closed,
            metrics.join("; "),
        )
    }
}
