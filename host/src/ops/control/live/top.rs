//! `plugsocket top`: what the resources of the running host do now.
//!
//! The host only reports counters. This command asks for them again and again, and shows the
//! differences as rates.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::num::ParseFloatError;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Interrupt, events, follow};
use crate::error::counted;
use crate::ops::control::client::{AskError, HostAddress, ask};
use crate::ops::control::protocol::{
    BufferedReport, ControlAnswer, ControlRequest, ResourceReport, StatusReport,
};
use crate::ops::control::table::{age, coloured_table};
use crate::ops::control::terminal::{Colours, Screen, Size, fitted};
use crate::ops::logging::escaped;

/// How many events the page ends with.
const EVENTS: usize = 6;

/// How often to ask.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TopView {
    /// Time between two pages, from 0.1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error: ParseFloatError| error.to_string())?;
    match (0.1..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("it must be from 0.1 to 3600".to_owned()),
    }
}

impl TopView {
    /// Runs the command. Where standard output is not a terminal, it prints one page.
    ///
    /// # Errors
    /// No host answers, it refuses, or it ends.
    pub(super) fn run(self, host: &HostAddress) -> Result<(), AskError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(AskError::Signals)?;
        let result = runtime.block_on(async {
            let mut interrupt = Interrupt::install()?;
            tokio::select! {
                result = self.show(host) => result,
                () = interrupt.received() => Ok(()),
            }
        });
        // A host that does not answer must not keep the command alive.
        runtime.shutdown_background();
        result
    }

    async fn show(self, host: &HostAddress) -> Result<(), AskError> {
        let mut now = Sample::take(host).await?;
        if !io::stdout().is_terminal() {
            sleep(self.interval).await;
            let page = page(&Sample::take(host).await?, Some(&now), Size::of_stdout());
            // The reader may have left.
            drop(io::stdout().write_all(page.as_bytes()));
            return Ok(());
        }
        let mut resized = signal(SignalKind::window_change()).map_err(AskError::Signals)?;
        let screen = Screen::enter();
        let mut before = None;
        loop {
            screen.show(&page(&now, before.as_ref(), Size::of_stdout()));
            tokio::select! {
                () = sleep(self.interval) => {
                    let next = Sample::take(host).await?;
                    before = Some(std::mem::replace(&mut now, next));
                }
                _ = resized.recv() => {}
            }
        }
    }
}

/// What the host reported at one moment.
#[derive(Debug)]
struct Sample {
    at: Instant,
    status: StatusReport,
    /// The last events, formatted.
    events: Vec<String>,
}

impl Sample {
    /// Asks the host. Fails as [`ask`] does.
    async fn take(host: &HostAddress) -> Result<Self, AskError> {
        let host = host.clone();
        let asked = spawn_blocking(move || Self::ask(&host)).await;
        asked.map_err(|error| AskError::Signals(error.into()))?
    }

    fn ask(host: &HostAddress) -> Result<Self, AskError> {
        let answer = ask(host, &ControlRequest::Status { metrics: false })?;
        let status = match answer.answer {
            ControlAnswer::Status(status) => status,
            ControlAnswer::Refused(reason) => return Err(AskError::Refused(escaped(&reason))),
            _ => {
                return Err(AskError::Refused("the answer of the host is not a status".to_owned()));
            }
        };
        let at = Instant::now();
        let (mut events, colours) = (Vec::new(), Colours::of_stdout());
        let last = ControlRequest::Events { last: Some(EVENTS), follow: false };
        follow(host, &last, |line| {
            events.push(events::text(line, colours));
            Ok(())
        })?;
        Ok(Self { at, status, events })
    }
}

/// A resource in the time between two samples.
struct Row<'a> {
    now: &'a ResourceReport,
    /// Messages per second, and bytes.
    messages_in: f64,
    messages_out: f64,
    bytes_in: f64,
    bytes_out: f64,
    /// Mean times; `None` if nothing was measured.
    callback: Option<f64>,
    queue_wait: Option<f64>,
}

impl<'a> Row<'a> {
    /// Compares two reports. Without an earlier one the rates are those since the host started.
    fn new(now: &'a ResourceReport, before: Option<&ResourceReport>, seconds: f64) -> Self {
        let (counts, traffic) = (now.counts, now.traffic);
        let (old_counts, old_traffic) =
            before.map(|before| (before.counts, before.traffic)).unwrap_or_default();
        // Exact: no count reaches 2^53.
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let mean = |[sum, old_sum]: [f64; 2], [count, old_count]: [u64; 2]| {
            let count = count.saturating_sub(old_count);
            (count > 0).then(|| (sum - old_sum).max(0.0) / count as f64)
        };
        Self {
            now,
            messages_in: rate(counts.messages, old_counts.messages),
            messages_out: rate(traffic.sent_messages, old_traffic.sent_messages),
            bytes_in: rate(traffic.read_bytes, old_traffic.read_bytes),
            bytes_out: rate(traffic.written_bytes, old_traffic.written_bytes),
            callback: mean(
                [traffic.callback_seconds, old_traffic.callback_seconds],
                [traffic.callbacks, old_traffic.callbacks],
            ),
            queue_wait: mean(
                [traffic.queue_wait_seconds, old_traffic.queue_wait_seconds],
                [traffic.queue_waits, old_traffic.queue_waits],
            ),
        }
    }

    fn state(&self) -> String {
        match (&self.now.closed, self.now.on_probation) {
            (Some(reason), _) => format!("closed: {reason}"),
            (None, true) => "on probation".to_owned(),
            (None, false) => "serving".to_owned(),
        }
    }
}

/// Compares two samples; the busiest resource is the first.
fn rows<'a>(now: &'a Sample, before: Option<&Sample>) -> Vec<Row<'a>> {
    // Counters of another host begin again.
    let before = before.filter(|before| before.status.pid == now.status.pid);
    let seconds = match before {
        Some(before) => now.at.duration_since(before.at).as_secs_f64().max(1e-3),
        None => now.status.uptime_seconds.max(1) as f64,
    };
    let earlier = before.map_or(&[][..], |before| &before.status.resources);
    let earlier: HashMap<&str, &ResourceReport> =
        earlier.iter().map(|resource| (resource.path.as_str(), resource)).collect();
    let resources = now.status.resources.iter();
    let mut rows: Vec<Row<'_>> = resources
        .map(|now| Row::new(now, earlier.get(now.path.as_str()).copied(), seconds))
        .collect();
    rows.sort_by(|a, b| {
        let [a, b] = [a, b].map(|row| row.messages_in + row.messages_out);
        b.total_cmp(&a)
    });
    rows
}

/// Formats a page of at most this size.
fn page(now: &Sample, before: Option<&Sample>, size: Size) -> String {
    let rows = rows(now, before);
    let mut lines = heading(&now.status);
    let room = size.height.saturating_sub(lines.len() + 5 + now.events.len());
    let shown = rows.len().min(room.max(1));
    lines.push(String::new());
    lines.extend(resource_table(&rows[..shown]).lines().map(ToOwned::to_owned));
    if shown < rows.len() {
        lines.push(format!("and {}", counted(rows.len() - shown, "quieter resource")));
    }
    lines.push(String::new());
    lines.extend(now.events.iter().cloned());
    lines.truncate(size.height);
    lines.iter().map(|line| format!("{}\n", fitted(line, size.width))).collect()
}

/// Returns the lines about the whole host.
fn heading(status: &StatusReport) -> Vec<String> {
    let StatusReport { version, pid, connections, refused_handshakes, .. } = status;
    let BufferedReport { bytes, max_bytes } = &status.buffered;
    let limit =
        max_bytes.map_or_else(String::new, |max| format!(" of {}B", amount(max.get() as f64)));
    let (up, connections) = (age(status.uptime_seconds), counted(*connections, "connection"));
    let buffered = amount(*bytes as f64);
    let mut lines = vec![format!(
        "plugsocket {version}, process {pid}, up {up}, {connections}, {buffered}B{limit} buffered, {refused_handshakes} handshakes refused"
    )];
    if status.draining {
        lines.push("draining: the host accepts no new connections".to_owned());
    }
    if let Some(reason) = &status.config_file.refused {
        let first = escaped(reason.lines().next().unwrap_or_default());
        lines.push(format!("configuration refused; the version before is in effect: {first}"));
    }
    lines
}

fn resource_table(rows: &[Row<'_>]) -> String {
    coloured_table(
        rows,
        |row| row.now.style(),
        &[
            ("RESOURCE", |row| row.now.path.clone()),
            ("PLUGIN", |row| row.now.plugin.clone()),
            ("GEN", |row| row.now.generation.map_or("-".to_owned(), |n| n.to_string())),
            ("SESSIONS", |row| row.now.counts.sessions.to_string()),
            ("IN/s", |row| amount(row.messages_in)),
            ("OUT/s", |row| amount(row.messages_out)),
            ("READ B/s", |row| amount(row.bytes_in)),
            ("WRITTEN B/s", |row| amount(row.bytes_out)),
            ("CALLBACK", |row| row.callback.map_or("-".to_owned(), time)),
            ("QUEUE", |row| row.queue_wait.map_or("-".to_owned(), time)),
            ("REFUSED", |row| row.now.counts.refused_messages.to_string()),
            ("DROPPED", |row| row.now.counts.dropped_messages.to_string()),
            ("LAST SWAP", |row| match row.now.last_swap_age_seconds {
                None => "-".to_owned(),
                Some(seconds) => {
                    let pause = time(row.now.last_pause_micros as f64 / 1e6);
                    format!("{pause}, {} ago", age(seconds))
                }
            }),
            ("STATE", Row::state),
        ],
    )
}

/// Formats a number with three digits: `0`, `0.4`, `17`, `12.3k`, `4.56M`.
fn amount(value: f64) -> String {
    let (value, unit) = match value {
        0.0..999.5 => (value, ""),
        999.5..999_500.0 => (value / 1e3, "k"),
        999_500.0..999_500_000.0 => (value / 1e6, "M"),
        _ => (value / 1e9, "G"),
    };
    match value {
        _ if unit.is_empty() && (value.fract() == 0.0 || value >= 10.0) => format!("{value:.0}"),
        0.0..10.0 if !unit.is_empty() => format!("{value:.2}{unit}"),
        0.0..100.0 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

/// Formats seconds in the unit that suits them.
fn time(seconds: f64) -> String {
    match seconds {
        1.0.. => format!("{seconds:.1} s"),
        1e-3.. => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{:.1} µs", seconds * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_about_three_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (0.42, "0.4"),
            (3.0, "3"),
            (17.4, "17"),
            (999.0, "999"),
            (999.9, "1.00k"),
            (1_234.0, "1.23k"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (4_560_000.0, "4.56M"),
            (2e10, "20.0G"),
        ] {
            assert_eq!(amount(value), expected);
        }
        assert_eq!([4.3e-5, 0.0021, 3.0].map(time), ["43.0 µs", "2.1 ms", "3.0 s"]);
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        assert!(["0", "-1", "1e9", "x", "NaN"].iter().all(|text| interval(text).is_err()));
    }

    fn sample(messages: u64, at: Instant, pid: u32) -> Sample {
        let resource = |path: &str, messages: u64, closed: Option<&str>| {
            serde_json::json!({
                "path": path, "plugin": "chat", "generation": 3, "closed": closed, "lane": "shared",
                "sessions": 2, "messages": messages, "refused_messages": 1, "panics": 0,
                "slow_calls": 0, "swaps": 1, "last_pause_micros": 213, "last_swap_age_seconds": 61,
                "sent_messages": 2 * messages, "callbacks": messages,
                "callback_seconds": messages as f64 * 5e-6,
            })
        };
        let status = serde_json::json!({
            "version": "0.1.0", "pid": pid, "uptime_seconds": 100, "config": "plugins.toml",
            "connections": 4,
            "resources": [resource("/a", 5, Some("off")), resource("/b", messages, None)],
        });
        Sample {
            at,
            status: serde_json::from_value(status).unwrap(),
            events: vec!["an event".to_owned(); 2],
        }
    }

    #[test]
    fn a_page_shows_differences_as_rates_and_fits_the_terminal() {
        let begun = Instant::now();
        let before = sample(1_000, begun, 7);
        let now = sample(3_000, begun + Duration::from_secs(2), 7);
        let unlimited = Size { width: usize::MAX, height: usize::MAX };
        let shown = page(&now, Some(&before), unlimited);
        let lines: Vec<&str> = shown.lines().collect();
        // The busiest first.
        assert!(lines[3].starts_with("/b") && lines[4].starts_with("/a"), "{shown}");
        for part in ["1.00k", "2.00k", "5.0 µs", "213.0 µs, 1 min ago", "serving"] {
            assert!(lines[3].contains(part), "{part}: {shown}");
        }
        assert!(lines[4].ends_with("closed: off"), "{shown}");
        assert_eq!(lines.last(), Some(&"an event"));
        // Another process: its counters began again.
        let restarted = page(&now, Some(&sample(9_000, begun, 8)), unlimited);
        assert!(restarted.lines().nth(3).unwrap().contains(" 30 "), "{restarted}");
        let small = page(&now, Some(&before), Size { width: 20, height: 9 });
        assert!(small.lines().all(|line| line.chars().count() <= 20), "{small}");
        assert!(small.lines().count() <= 9 && small.contains("and 1 quieter"), "{small}");
    }
}
