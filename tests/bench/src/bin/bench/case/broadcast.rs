//! One client broadcasts to all others. The next broadcast starts when the last subscriber has
//! received an earlier one.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use plugsocket_bench::{
    CHAT, Effort, FAN, HOST_WEB, Inbound, Latencies, Link, NODE_RELAY, Program, RELAY, Sample,
    Server, Setup, Subject, Table, frame,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::entries;

struct Shape {
    subscribers: usize,
    size: usize,
    in_flight: usize,
}

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    let entries = entries(&[FAN, RELAY, CHAT, NODE_RELAY, HOST_WEB]);
    let (subscribers, sizes): (&[_], &[_]) = match effort.is_quick {
        true => (&[500], &[64]),
        false => (&[500, 5000], &[64, 4096]),
    };
    for &subscribers in subscribers {
        for &size in sizes {
            for in_flight in [1, 16] {
                let shape = Shape { subscribers, size, in_flight };
                let measure = async |subject: &_| measure(effort, subject, &shape).await;
                let rows = effort.rounds(&entries, measure).await?;
                let title = format!(
                    "broadcast: {size} bytes to {subscribers}, {in_flight} in flight; latency to the last receiver"
                );
                let table = Table::new(title)
                    .value("deliveries")
                    .busy()
                    .time("p50", |s| s.p50)
                    .time("p99", |s| s.p99)
                    .ratio("of fan", FAN.name, |s| s.value, 1.0)
                    .ratio("of relay", RELAY.name, |s| s.value, 1.0)
                    .ratio("p50 to relay", RELAY.name, |s| s.p50, 1.0);
                println!("{}", table.render(&rows));
            }
        }
    }
    Ok(())
}

async fn measure(effort: &Effort, subject: &Subject, shape: &Shape) -> io::Result<Sample> {
    let server = Server::start(subject, &Setup { size: shape.size, ..Setup::default() }).await?;
    let deliveries = Arc::new(Deliveries::new(shape.subscribers));
    let mut tasks = JoinSet::new();
    let mut outbound = Vec::new();
    for _ in 0..shape.subscribers {
        let (Link { inbound, outbound: half }, _) = server.open(subject, 0).await?;
        outbound.push(half);
        tasks.spawn(subscribe(inbound, deliveries.clone()));
    }
    let (sender, _) = server.open(subject, 0).await?;
    let message = frame(message(subject, shape.size).as_bytes());
    tasks.spawn(send(sender, message, deliveries.clone(), shape.in_flight));
    let count = || deliveries.count.load(Ordering::Relaxed);
    tokio::select! {
        sample = effort.observe(&server, &deliveries.latencies, count) => sample,
        Some(ended) = tasks.join_next() => Err(io::Error::other(format!("ended early: {ended:?}"))),
    }
}

/// Returns a message of this size that the server sends to all others.
fn message(subject: &Subject, size: usize) -> String {
    let (before, after) = match subject.program {
        Program::Host => (r#"{"opcode":"broadcast","message":""#, r#""}"#),
        _ => ("* ", ""),
    };
    format!("{before}{}{after}", "x".repeat(size - before.len() - after.len()))
}

async fn subscribe(mut inbound: Inbound, deliveries: Arc<Deliveries>) -> io::Result<()> {
    let mut received = 0;
    loop {
        let count = inbound.receive().await?;
        deliveries.received(received, count);
        received += count;
    }
}

async fn send(
    link: Link,
    message: Vec<u8>,
    deliveries: Arc<Deliveries>,
    most: usize,
) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let Link { mut inbound, mut outbound } = link;
    let acknowledged = async {
        loop {
            inbound.receive().await?;
        }
    };
    let sending = async {
        loop {
            let free = deliveries.reserve(most);
            match free {
                0 => deliveries.progress.notified().await,
                free => outbound.write_all(&message.repeat(free)).await?,
            }
        }
    };
    tokio::select! {
        ended = acknowledged => ended,
        ended = sending => ended,
    }
}

/// Which broadcasts have been sent and received.
struct Deliveries {
    subscribers: usize,
    count: AtomicU64,
    latencies: Latencies,
    progress: Notify,
    round: Mutex<Round>,
}

#[derive(Default)]
struct Round {
    sent: usize,
    done: usize,
    /// Start and number of receivers of each broadcast in flight, by its number.
    in_flight: Vec<(Option<Instant>, usize)>,
}

/// More than the broadcasts in flight.
const WINDOW: usize = 64;

impl Deliveries {
    fn new(subscribers: usize) -> Self {
        let round = Round { in_flight: vec![(None, 0); WINDOW], ..Round::default() };
        Self {
            subscribers,
            count: AtomicU64::new(0),
            latencies: Latencies::default(),
            progress: Notify::new(),
            round: Mutex::new(round),
        }
    }

    /// Returns how many more broadcasts may be sent now, and counts them as sent.
    fn reserve(&self, most: usize) -> usize {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let free = most - (round.sent - round.done);
        for number in round.sent..round.sent + free {
            round.in_flight[number % WINDOW] = (Some(Instant::now()), 0);
        }
        round.sent += free;
        free
    }

    /// Records that a subscriber has received `count` broadcasts after the first `before`.
    fn received(&self, before: usize, count: usize) {
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        for number in before..before + count {
            let (since, receivers) = &mut round.in_flight[number % WINDOW];
            *receivers += 1;
            if *receivers == self.subscribers {
                since.iter().for_each(|since| self.latencies.record(since.elapsed()));
                round.done += 1;
                self.progress.notify_one();
            }
        }
    }
}
