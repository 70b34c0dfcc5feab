//! Millions of messages over connections that come and go, under an application that is replaced all the while: every message
//! accounted for, and in the end nothing left of it.

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
use crate::setup::Setup;
use crate::stream::Address;
use crate::{TestHost, within};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Messages in all.
    pub messages: u64,
    /// Connections at a time.
    pub connections: usize,
    /// Messages of each connection before it closes and another one opens.
    pub each: u64,
    /// Messages between two replacements of the library.
    pub reload_every: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages sent.
    pub sent: u64,
    /// Messages answered, once and in order.
    pub answered: u64,
    /// What the application has counted over all generations.
    pub counted: u64,
    /// Connections opened and closed.
    pub sessions: u64,
    /// Replacements of the library.
    pub reloads: u64,
    /// Resident memory of the host in bytes, before and after each twentieth of the messages.
    pub resident: Vec<u64>,
    /// Open files of the host with no connection, before and after.
    pub descriptors: (usize, usize),
    /// Its threads, before and after.
    pub threads: (usize, usize),
    /// Connections that the host still knows of in the end.
    pub left: usize,
    /// From the first message to the last.
    pub took: Duration,
}

impl Report {
    /// Whether nothing was lost and nothing stayed.
    pub fn is_clean(&self) -> bool {
        self.sent == self.answered
            && self.sent == self.counted
            && self.left == 0
            && self.descriptors.1 <= self.descriptors.0
            && self.threads.1 <= self.threads.0
            && self.is_flat()
    }

    /// Whether memory, once warm, stays within a twentieth, and grows by no more than 0.1 MiB with a million messages. What its reloads
    /// keep mapped is no part of either.
    pub fn is_flat(&self) -> bool {
        let millions = self.sent as f64 / 1e6;
        let growth = self.growth().slope * millions - self.reloads as f64 * RETIRED_BYTES;
        let warm =
            self.resident.get(self.resident.len() / 4).map_or(f64::MAX, |bytes| *bytes as f64);
        growth <= 0.05 * warm && growth <= (0.1 * millions).max(1.0) * 1_048_576.0
    }

    /// By how much memory grows with a million messages, in bytes. The first quarter warms up. Each retired generation is in it.
    pub fn growth(&self) -> Trend {
        let trend = Trend::of(&self.resident[self.resident.len() / 4..]);
        let steps = STEPS as f64 / (self.sent as f64 / 1e6);
        Trend { slope: trend.slope * steps, error: trend.error * steps }
    }
}

/// Between two looks at the memory: this share of all messages.
const STEPS: u64 = 20;
/// What a retired generation of this library keeps in memory, at most.
const RETIRED_BYTES: f64 = 60_000.0;
/// Messages of one connection that are under way at once.
const IN_FLIGHT: u64 = 32;

/// What the connections find out together.
#[derive(Debug, Default)]
struct Sums {
    begun: AtomicU64,
    answered: AtomicU64,
    counted: AtomicU64,
    sessions: AtomicU64,
}

/// Does it. `program` is the host.
///
/// # Panics
/// When a connection is refused or ends, an answer is another than it must be, or a reload does not happen.
pub async fn soak(program: impl Into<PathBuf>, plan: Plan) -> Report {
    let setup = Setup::new(program).library("counter", "counter_v1").resource("/count", "counter");
    let setup =
        setup.environment("RUST_LOG", "warn,plugsocket=info").reload("keep_generations", "0");
    let host = setup.start().await;
    let process = Process(host.pid());
    let sums = Arc::new(Sums::default());
    // What a first connection and a first reload make for good is not what is looked for.
    talk(host.address(), 1, &sums).await;
    for library in ["counter_v2", "counter_v1"] {
        host.reload("counter", library).await;
    }
    settle(&host, None).await;
    let before = (process.descriptors(), process.threads());
    let mut report = Report { resident: vec![process.resident()], ..Report::default() };
    let begun = Instant::now();
    let mut working = JoinSet::new();
    for _ in 0..plan.connections {
        working.spawn(work(host.address().clone(), plan, sums.clone()));
    }
    watch(&host, plan, &sums, &mut report).await;
    while let Some(worked) = working.join_next().await {
        worked.expect("a connection that is treated as promised");
    }
    report.took = begun.elapsed();
    report.left = settle(&host, Some(before)).await;
    report.descriptors = (before.0, process.descriptors());
    report.threads = (before.1, process.threads());
    report.answered = sums.answered.load(Ordering::Relaxed);
    report.sent = plan.messages + 1;
    report.counted = sums.counted.load(Ordering::Relaxed);
    report.sessions = sums.sessions.load(Ordering::Relaxed);
    report
}

/// Replaces the library and looks at the memory until all messages are answered.
async fn watch(host: &TestHost, plan: Plan, sums: &Sums, report: &mut Report) {
    let step = (plan.messages / STEPS).max(1);
    let (mut next_look, mut next_reload) = (step, plan.reload_every);
    loop {
        let answered = sums.answered.load(Ordering::Relaxed);
        if answered >= next_look {
            report.resident.push(host.resident_bytes());
            next_look += step;
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

/// One connection after the other until all messages are given out.
async fn work(address: Address, plan: Plan, sums: Arc<Sums>) {
    loop {
        let from = sums.begun.fetch_add(plan.each, Ordering::Relaxed);
        if from >= plan.messages {
            return;
        }
        talk(&address, plan.each.min(plan.messages - from), &sums).await;
    }
}

/// Opens a connection, exchanges so many messages, closes it.
async fn talk(address: &Address, messages: u64, sums: &Sums) {
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
        sums.answered.fetch_add(1, Ordering::Relaxed);
        sums.counted.fetch_max(counted["total"].as_u64().unwrap_or_default(), Ordering::Relaxed);
    }
    client.close().await;
    sums.sessions.fetch_add(1, Ordering::Relaxed);
}

/// Waits until the host knows no connection any more, and has no more open files and threads than `before`; how many connections
/// it knows after that, or after some seconds.
async fn settle(host: &TestHost, before: Option<(usize, usize)>) -> usize {
    // A thread that has had to wait for a file is kept for ten seconds.
    const PATIENCE: Duration = Duration::from_secs(15);
    let begun = Instant::now();
    loop {
        let (code, said) = within("the list", host.command(&["connections", "--json"])).await;
        assert_eq!(code, 0, "{said}");
        let list: Value = serde_json::from_str(&said).unwrap();
        let list = list.as_array().or_else(|| list["connections"].as_array());
        let known = list.map_or(usize::MAX, Vec::len);
        let process = Process(host.pid());
        let has_settled = before.is_none_or(|(descriptors, threads)| {
            process.descriptors() <= descriptors && process.threads() <= threads
        });
        if known == 0 && has_settled || begun.elapsed() > PATIENCE {
            return known;
        }
        sleep(Duration::from_millis(100)).await;
    }
}
