//! Soak test: millions of messages over short connections while the application is replaced and
//! clients do not read large answers. Accounts for each message and checks that no memory, file
//! descriptor or thread is leaked.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::attack::Process;
use crate::client::{Client, Request};
use crate::load::Trend;
use crate::raw::{masked, opcode};
use crate::setup::Setup;
use crate::stream::Address;
use crate::{TestHost, within};

/// The extent of the test.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The number of messages.
    pub messages: u64,
    /// Simultaneous connections.
    pub connections: usize,
    /// Messages on each connection before it is closed and replaced.
    pub each: u64,
    /// Messages between two reloads.
    pub reload_every: u64,
}

/// The results.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages sent.
    pub sent: u64,
    /// Messages answered once and in order.
    pub answered: u64,
    /// Messages counted by the application over all generations.
    pub counted: u64,
    /// Connections that were opened and closed.
    pub sessions: u64,
    /// The number of reloads.
    pub reloads: u64,
    /// Clients that were closed because they did not read a large answer.
    pub non_readers: usize,
    /// The resident memory of the host in bytes, before and after each twentieth of the messages.
    pub resident: Vec<u64>,
    /// The resident memory at the end, without connections.
    pub resident_at_end: u64,
    /// The host's file descriptors without connections, before and after.
    pub descriptors: (usize, usize),
    /// The host's threads, before and after.
    pub threads: (usize, usize),
    /// Connections that the host still lists at the end.
    pub left: usize,
    /// The time from the first message to the last.
    pub took: Duration,
}

impl Report {
    /// Returns whether no message was lost and no resource was leaked.
    pub fn is_clean(&self) -> bool {
        self.sent == self.answered
            && self.sent == self.counted
            && self.left == 0
            && self.descriptors.1 <= self.descriptors.0
            && self.threads.1 <= self.threads.0
            && self.is_flat()
            && self.has_returned()
    }

    /// Returns whether memory at the end is within 10 % of that after the warm-up. What retired
    /// generations keep mapped is not counted.
    pub fn has_returned(&self) -> bool {
        let retired = self.reloads as f64 * RETIRED_BYTES;
        self.resident_at_end as f64 <= 1.1 * self.warm() + retired
    }

    /// Returns whether memory after the warm-up grows by at most 5 % in total and 0.1 MiB per
    /// million messages. What retired generations keep mapped is not counted.
    pub fn is_flat(&self) -> bool {
        let millions = self.sent as f64 / 1e6;
        let growth = self.growth().slope * millions - self.reloads as f64 * RETIRED_BYTES;
        growth <= 0.05 * self.warm() && growth <= (0.1 * millions).max(1.0) * 1_048_576.0
    }

    /// Returns the memory after the warm-up, which includes one round of large messages.
    pub fn warm(&self) -> f64 {
        self.resident.get(self.resident.len() / 4).map_or(f64::MAX, |bytes| *bytes as f64)
    }

    /// Returns the memory growth in bytes per million messages, including retired generations. The
    /// first quarter is warm-up.
    pub fn growth(&self) -> Trend {
        let trend = Trend::of(&self.resident[self.resident.len() / 4..]);
        let steps = STEPS as f64 / (self.sent as f64 / 1e6);
        Trend { slope: trend.slope * steps, error: trend.error * steps }
    }
}

/// The number of memory samples.
const STEPS: u64 = 20;
/// The most memory that a retired generation of the counter keeps mapped.
const RETIRED_BYTES: f64 = 60_000.0;
/// Rounds of large messages: in the middle of each quarter of the messages.
const ROUNDS: u64 = 4;
/// Clients of a round, each of which sends one large message to `/echo` and reads nothing.
const NON_READERS: usize = 10;
/// The length of such a message.
const LARGE_BYTES: usize = 8 << 20;
/// Unanswered messages of a connection at a time.
const IN_FLIGHT: u64 = 32;

/// Totals that all connections update.
#[derive(Debug, Default)]
struct Totals {
    assigned: AtomicU64,
    answered: AtomicU64,
    counted: AtomicU64,
    sessions: AtomicU64,
}

/// Runs the soak test with the host at the path `program`.
///
/// # Panics
/// If a connection is refused or closed, an answer is wrong, or a reload fails.
pub async fn soak(program: impl Into<PathBuf>, plan: Plan) -> Report {
    let setup = Setup::new(program).library("counter", "counter_v1").resource("/count", "counter");
    let setup =
        setup.environment("RUST_LOG", "warn,plugsocket=info").reload("keep_generations", "0");
    let setup = setup.plain("/echo", "echo").server("write_timeout", "0.5");
    let host = setup.start().await;
    let process = Process(host.pid());
    let totals = Arc::new(Totals::default());
    // The first connection and reloads allocate resources once, which is not a leak.
    exchange(host.address(), 1, &totals).await;
    for library in ["counter_v2", "counter_v1"] {
        host.reload("counter", library).await;
    }
    wait_until_idle(&host, None).await;
    let before = (process.descriptors(), process.threads());
    let mut report = Report { resident: vec![process.resident_bytes()], ..Report::default() };
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..plan.connections {
        workers.spawn(work(host.address().clone(), plan, totals.clone()));
    }
    reload_and_sample(&host, plan, &totals, &mut report).await;
    while let Some(worked) = workers.join_next().await {
        worked.expect("each message is answered in order");
    }
    report.took = begun.elapsed();
    report.left = wait_until_idle(&host, Some(before)).await;
    report.resident_at_end = process.resident_bytes();
    report.descriptors = (before.0, process.descriptors());
    report.threads = (before.1, process.threads());
    report.answered = totals.answered.load(Ordering::Relaxed);
    report.sent = plan.messages + 1;
    report.counted = totals.counted.load(Ordering::Relaxed);
    report.sessions = totals.sessions.load(Ordering::Relaxed);
    report
}

/// Reloads the application, runs the rounds of large messages and samples the memory until all
/// messages are answered.
async fn reload_and_sample(host: &TestHost, plan: Plan, totals: &Totals, report: &mut Report) {
    let step = (plan.messages / STEPS).max(1);
    let (mut next_sample, mut next_reload) = (step, plan.reload_every);
    let mut next_round = plan.messages / ROUNDS / 2;
    loop {
        let answered = totals.answered.load(Ordering::Relaxed);
        if answered >= next_sample {
            report.resident.push(host.resident_bytes());
            next_sample += step;
        }
        if answered >= next_round {
            report.non_readers += leave_large_answers_unread(host).await;
            next_round += plan.messages / ROUNDS;
        }
        if answered > plan.messages {
            return;
        }
        if answered >= next_reload {
            let by = if report.reloads.is_multiple_of(2) { "counter_v2" } else { "counter_v1" };
            host.reload("counter", by).await;
            report.reloads += 1;
            next_reload += plan.reload_every;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Sends large messages whose answers are not read; returns the number of clients when the host has
/// closed all of them.
async fn leave_large_answers_unread(host: &TestHost) -> usize {
    let message = masked(opcode::BINARY, &vec![b'x'; LARGE_BYTES]);
    let clients = host.non_readers("/echo", &message, NON_READERS).await;
    let all_closed = async {
        while host.command(&["connections", "--json"]).await.1.contains("/echo") {
            sleep(Duration::from_millis(50)).await;
        }
    };
    within("the clients to be closed", all_closed).await;
    clients.len()
}

/// Opens one connection after the other until all messages are assigned.
async fn work(address: Address, plan: Plan, totals: Arc<Totals>) {
    loop {
        let from = totals.assigned.fetch_add(plan.each, Ordering::Relaxed);
        if from >= plan.messages {
            return;
        }
        exchange(&address, plan.each.min(plan.messages - from), &totals).await;
    }
}

/// Opens a connection, exchanges messages and closes it.
async fn exchange(address: &Address, messages: u64, totals: &Totals) {
    let mut client = Client::open(address, Request::to("/count")).await.ready().await;
    let mut sent = 0;
    for number in 1..=messages {
        while sent < messages && sent < number + IN_FLIGHT - 1 {
            sent += 1;
            client.send(sent.to_string()).await;
        }
        let next = client.until_next().await;
        let [counted] = &next.packets[..] else { panic!("not one answer: {:?}", next.packets) };
        assert_eq!(
            (&counted["message"], &counted["seq"]),
            (&number.to_string().into(), &number.into())
        );
        totals.answered.fetch_add(1, Ordering::Relaxed);
        totals.counted.fetch_max(counted["total"].as_u64().unwrap_or_default(), Ordering::Relaxed);
    }
    client.close().await;
    totals.sessions.fetch_add(1, Ordering::Relaxed);
}

/// Waits until the host lists no connections and has no more file descriptors and threads than
/// `before`, or until a timeout; returns the number of connections that are left.
async fn wait_until_idle(host: &TestHost, before: Option<(usize, usize)>) -> usize {
    // A blocking thread of the runtime is kept for ten seconds.
    const TIMEOUT: Duration = Duration::from_secs(15);
    let begun = Instant::now();
    loop {
        let (code, output) = within("the list", host.command(&["connections", "--json"])).await;
        assert_eq!(code, 0, "{output}");
        let list: Value = serde_json::from_str(&output).unwrap();
        let list = list.as_array().or_else(|| list["connections"].as_array());
        let known = list.map_or(usize::MAX, Vec::len);
        let process = Process(host.pid());
        let is_idle = before.is_none_or(|(descriptors, threads)| {
            process.descriptors() <= descriptors && process.threads() <= threads
        });
        if known == 0 && is_idle || begun.elapsed() > TIMEOUT {
            return known;
        }
        sleep(Duration::from_millis(100)).await;
    }
}
