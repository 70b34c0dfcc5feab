//! Replacing a library again and again under connections that exchange numbered messages.
//!
//! Some connections keep several messages under way all the time, the others say something now and then. Each checks that its
//! messages are answered once and in order, by an application that has counted them through every reload. What deviates
//! is counted, not asserted, so that a command can report it.

mod bad;
mod exchange;
mod trend;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::exchange::{Findings, Front, Part, Talk, exchange};
pub use self::trend::Trend;
use crate::client::{Client, Request};
use crate::host::TestHost;
use crate::setup::Setup;
use crate::within;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often the library is replaced.
    pub reloads: usize,
    /// Connections in all.
    pub sockets: usize,
    /// Those that talk all the time.
    pub talkers: usize,
    /// How long these wait after each answer.
    pub pace: Duration,
    /// How many libraries that are no good are tried meanwhile.
    pub bad: usize,
    /// Bytes that the application adds to its state.
    pub ballast: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages sent.
    pub sent: u64,
    /// Messages answered as they should be.
    pub answered: u64,
    /// Messages never answered.
    pub lost: u64,
    /// Messages answered more than once, or counted more than once.
    pub duplicated: u64,
    /// Answers out of order.
    pub reordered: u64,
    /// Connections that ended before their time.
    pub closed: u64,
    /// Messages that the application has counted over all generations.
    pub counted: u64,
    /// How long messages waited at each reload, as the host's log says, sorted.
    pub pauses: Vec<Duration>,
    /// From the move of the file into the folder to the first answer of the new code, sorted.
    pub delays: Vec<Duration>,
    /// The state that was handed over last, in bytes.
    pub state_bytes: u64,
    /// Resident memory of the host in bytes, before the first reload and after each.
    pub resident: Vec<u64>,
    /// What was no good, and what the host said of it.
    pub refusals: Vec<(&'static str, String)>,
    /// From the first message to the last.
    pub took: Duration,
}

impl Report {
    /// Whether nothing went wrong at all.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.closed == 0
            && self.sent == self.answered
            && self.sent == self.counted
    }

    /// What each retired generation keeps resident, in bytes. The first tenth of the reloads warms up.
    pub fn resident_growth(&self) -> Trend {
        Trend::of(&self.resident[self.resident.len() / 10..])
    }

    fn add(&mut self, part: &Part) {
        self.sent += part.sent;
        self.answered += part.answered;
        self.lost += part.lost;
        self.duplicated += part.duplicated;
        self.reordered += part.reordered;
        self.closed += part.closed;
        self.counted = self.counted.max(part.total);
    }
}

/// The duration that a share of them does not exceed; `share` in percent.
pub fn percentile(sorted: &[Duration], share: usize) -> Duration {
    let rank = (sorted.len() * share).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Does it. `program` is the host.
///
/// # Panics
/// When the host does not start, a reload does not happen in time, or a bad library is not refused.
pub async fn reload_under_load(program: impl Into<PathBuf>, plan: Plan) -> Report {
    let setup = Setup::new(program).library("counter", "counter_v1").resource("/count", "counter");
    let setup = setup.config("/count", "ballast", &plan.ballast.to_string());
    // How long an operator waits, as it is where nothing is said of it; and a short wait for a constructor that hangs.
    let setup = setup.reload("quiet", "0.15").reload("preflight_timeout", "1");
    let host = setup.start().await;
    let clients = connect(&host, plan.sockets).await;
    let (stop, stopped) = watch::channel(false);
    let findings = Arc::new(Findings::default());
    let mut talks = JoinSet::new();
    let begun = Instant::now();
    for (number, client) in clients.into_iter().enumerate() {
        talks.spawn(exchange(client, plan.talk(number), findings.clone(), stopped.clone()));
    }
    // What each connection keeps in memory once it has spoken is not what a reload costs.
    let all = u32::try_from(plan.sockets).expect("there are not that many ports");
    within("everybody's first answer", findings.spoken.acquire_many(all)).await.unwrap().forget();
    let mut report = Report { resident: vec![host.resident_bytes()], ..Report::default() };
    for number in 1..=plan.reloads {
        reload(&host, if number % 2 == 0 { "v1" } else { "v2" }, &findings.front, &mut report)
            .await;
        while report.refusals.len() < plan.bad * number / plan.reloads {
            refuse(&host, &mut report).await;
        }
    }
    stop.send_replace(true);
    while let Some(part) = within("the connections to finish", talks.join_next()).await {
        report.add(&part.unwrap());
    }
    // What was handled twice without being answered twice.
    report.duplicated += report.counted.saturating_sub(report.sent);
    report.took = begun.elapsed();
    report.pauses.sort();
    report.delays.sort();
    report
}

impl Plan {
    fn talk(&self, number: usize) -> Talk {
        if number < self.talkers {
            return Talk { in_flight: IN_FLIGHT, pace: self.pace };
        }
        // Not all at the same time.
        let share = number as f64 / self.sockets as f64;
        Talk { in_flight: 1, pace: IDLE_PACE.mul_f64(0.5 + share) }
    }
}

/// Messages of a talker that are under way at once.
const IN_FLIGHT: u64 = 4;
/// How often the others say something.
const IDLE_PACE: Duration = Duration::from_secs(5);

/// Opens that many connections, some at a time.
async fn connect(host: &TestHost, sockets: usize) -> Vec<Client> {
    const AT_ONCE: usize = 64;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut opening = JoinSet::new();
    for _ in 0..sockets {
        let (address, places) = (host.address().clone(), places.clone());
        opening.spawn(async move {
            let _place = places.acquire().await.unwrap();
            Client::open(&address, Request::to("/count")).await.ready().await
        });
    }
    opening.join_all().await
}

/// Replaces the counter by this version and waits until it answers.
async fn reload(host: &TestHost, by: &str, front: &watch::Sender<Front>, report: &mut Report) {
    let mut front = front.subscribe();
    let position = host.log_position();
    let library = std::fs::read(crate::plugin_path(&format!("counter_{by}"))).unwrap();
    let moved = host.put_library("counter", &library);
    let first = within("the first answer of the new code", front.wait_for(|front| front.by == by));
    let since = first.await.unwrap().since;
    report.delays.push(since.duration_since(moved));
    let served = "resource is served by a new instance";
    let line = host.wait_for_log_since(position, served, |line| line.says(served)).await;
    report.pauses.push(duration(&line.field("pause")));
    report.state_bytes = line.field("snapshot_bytes").parse().unwrap_or_default();
    host.wait_for_reload(position).await;
    report.resident.push(host.resident_bytes());
}

/// Offers the next library that is no good.
async fn refuse(host: &TestHost, report: &mut Report) {
    let bad = bad::ALL[report.refusals.len() % bad::ALL.len()];
    let position = host.log_position();
    host.put_library("counter", &bad.bytes());
    let line = host.wait_for_error(position, bad.reason).await;
    let sentence = match line.field("error") {
        error if error.is_empty() => line.message().to_owned(),
        error => format!("{}: {error}", line.message()),
    };
    report.refusals.push((bad.what, sentence));
}

/// Reads what `Duration`'s `Debug` wrote.
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
