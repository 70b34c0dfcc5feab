//! Load test: reloads an application repeatedly while connections exchange numbered messages.
//!
//! Talkers always have several unanswered messages; other connections send one occasionally. Each
//! connection checks that its messages are answered once and in order, and the application counts
//! them across reloads. Deviations are counted, not asserted, so that a program can report them.

mod exchange;
mod invalid_library;
mod trend;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::exchange::{ConnectionReport, Pacing, Progress, Version, exchange};
pub use self::trend::Trend;
use crate::client::{Client, Request};
use crate::host::TestHost;
use crate::setup::Setup;
use crate::within;

/// The extent of the load.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The number of reloads.
    pub reloads: usize,
    /// The number of connections.
    pub sockets: usize,
    /// The number of connections that exchange messages continuously.
    pub talkers: usize,
    /// The pause of a talker after each answer.
    pub pace: Duration,
    /// The number of invalid libraries to offer between the reloads.
    pub bad: usize,
    /// Bytes that the application adds to its state.
    pub ballast: usize,
}

/// The results.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages sent.
    pub sent: u64,
    /// Messages answered once and in order.
    pub answered: u64,
    /// Messages never answered.
    pub lost: u64,
    /// Messages answered more than once, or counted more than once.
    pub duplicated: u64,
    /// Answers out of order.
    pub reordered: u64,
    /// Connections that the host closed.
    pub closed: u64,
    /// Messages counted by the application over all generations.
    pub counted: u64,
    /// The pause of each reload according to the host's log, sorted.
    pub pauses: Vec<Duration>,
    /// The time from moving a file into the folder to the first answer of the new version, sorted.
    pub delays: Vec<Duration>,
    /// The size of the last state that was handed over.
    pub state_bytes: u64,
    /// The resident memory of the host in bytes, before the first reload and after each.
    pub resident: Vec<u64>,
    /// The kind of each invalid library, and the host's error.
    pub refusals: Vec<(&'static str, String)>,
    /// The time from the first message to the last.
    pub took: Duration,
}

impl Report {
    /// Returns whether no deviation occurred.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.closed == 0
            && self.sent == self.answered
            && self.sent == self.counted
    }

    /// Returns the resident bytes per retired generation. The first tenth of the reloads is
    /// warm-up.
    pub fn resident_growth(&self) -> Trend {
        Trend::of(&self.resident[self.resident.len() / 10..])
    }

    fn add(&mut self, part: &ConnectionReport) {
        self.sent += part.sent;
        self.answered += part.answered;
        self.lost += part.lost;
        self.duplicated += part.duplicated;
        self.reordered += part.reordered;
        self.closed += part.closed;
        self.counted = self.counted.max(part.total);
    }
}

/// Returns a percentile of sorted durations; `share` is in percent.
pub fn percentile(sorted: &[Duration], share: usize) -> Duration {
    let rank = (sorted.len() * share).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Runs the load test with the host at the path `program`.
///
/// # Panics
/// If the host does not start, a reload takes too long, or an invalid library is not refused.
pub async fn reload_under_load(program: impl Into<PathBuf>, plan: Plan) -> Report {
    let setup = Setup::new(program).library("counter", "counter_v1").resource("/count", "counter");
    let setup = setup.config("/count", "ballast", &plan.ballast.to_string());
    // The default `quiet`, as an operator would have; a short timeout for a constructor that hangs.
    let setup = setup.reload("quiet", "0.15").reload("preflight_timeout", "1");
    let host = setup.start().await;
    let clients = connect(&host, plan.sockets).await;
    let (stop, stopped) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    let mut exchanges = JoinSet::new();
    let begun = Instant::now();
    for (number, client) in clients.into_iter().enumerate() {
        exchanges.spawn(exchange(client, plan.pacing(number), progress.clone(), stopped.clone()));
    }
    // The memory that a connection allocates for its first message must not count as a reload's.
    let all = u32::try_from(plan.sockets).expect("there are not that many ports");
    within("the first answer on each connection", progress.answered_once.acquire_many(all))
        .await
        .unwrap()
        .forget();
    let mut report = Report { resident: vec![host.resident_bytes()], ..Report::default() };
    for number in 1..=plan.reloads {
        reload(&host, if number % 2 == 0 { "v1" } else { "v2" }, &progress.version, &mut report)
            .await;
        while report.refusals.len() < plan.bad * number / plan.reloads {
            refuse(&host, &mut report).await;
        }
    }
    stop.send_replace(true);
    while let Some(part) = within("the connections to finish", exchanges.join_next()).await {
        report.add(&part.unwrap());
    }
    // Messages that were handled twice but answered once.
    report.duplicated += report.counted.saturating_sub(report.sent);
    report.took = begun.elapsed();
    report.pauses.sort();
    report.delays.sort();
    report
}

impl Plan {
    fn pacing(&self, number: usize) -> Pacing {
        if number < self.talkers {
            return Pacing { in_flight: IN_FLIGHT, pause: self.pace };
        }
        // Spread out, so that they do not all send at the same time.
        let share = number as f64 / self.sockets as f64;
        Pacing { in_flight: 1, pause: IDLE_PAUSE.mul_f64(0.5 + share) }
    }
}

/// Unanswered messages of a talker at a time.
const IN_FLIGHT: u64 = 4;
/// The average pause of the other connections.
const IDLE_PAUSE: Duration = Duration::from_secs(5);

/// Opens the connections, a limited number at a time.
async fn connect(host: &TestHost, sockets: usize) -> Vec<Client> {
    const AT_ONCE: usize = 64;
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut opening = JoinSet::new();
    for _ in 0..sockets {
        let (address, permits) = (host.address().clone(), permits.clone());
        opening.spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            Client::open(&address, Request::to("/count")).await.ready().await
        });
    }
    opening.join_all().await
}

/// Replaces the counter by another version and waits until it answers.
async fn reload(host: &TestHost, by: &str, version: &watch::Sender<Version>, report: &mut Report) {
    let mut version = version.subscribe();
    let position = host.log_position();
    let library = std::fs::read(crate::plugin_path(&format!("counter_{by}"))).unwrap();
    let moved = host.put_library("counter", &library);
    let first =
        within("the first answer of the new version", version.wait_for(|version| version.by == by));
    let since = first.await.unwrap().since;
    report.delays.push(since.duration_since(moved));
    let served = "resource is served by a new instance";
    let line = host.wait_for_log_since(position, served, |line| line.starts_with(served)).await;
    report.pauses.push(duration(&line.field("pause")));
    report.state_bytes = line.field("snapshot_bytes").parse().unwrap_or_default();
    host.wait_for_reload(position).await;
    report.resident.push(host.resident_bytes());
}

/// Offers the next invalid library and records the error.
async fn refuse(host: &TestHost, report: &mut Report) {
    let library = invalid_library::ALL[report.refusals.len() % invalid_library::ALL.len()];
    let position = host.log_position();
    host.put_library("counter", &library.bytes());
    let line = host.wait_for_error(position, library.reason).await;
    let sentence = match line.field("error") {
        error if error.is_empty() => line.message().to_owned(),
        error => format!("{}: {error}", line.message()),
    };
    report.refusals.push((library.what, sentence));
}

/// Parses the `Debug` format of `Duration`.
fn duration(text: &str) -> Duration {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        _ => 1.0,
    };
    Duration::from_secs_f64(number.parse::<f64>().unwrap_or_default() * factor)
}
