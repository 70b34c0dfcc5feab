//! Packets from backends to one browser each, by uuid; backends on WebSockets and on plain TCP.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use plugsocket_bench::{
    Effort, HOST_WEB, Latencies, Link, NODE_RELAY, Program, RELAY, Sample, Server, Setup, Subject,
    Table, frame,
};
use tokio::task::JoinSet;

use super::{entries, round_trip};

/// How backends connect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    WebSocket,
    Lines,
}

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    for (transport, name) in [(Transport::WebSocket, "WebSockets"), (Transport::Lines, "plain TCP")]
    {
        let subjects: &[Subject] = match transport {
            Transport::WebSocket => &[RELAY, NODE_RELAY, HOST_WEB],
            Transport::Lines => &[RELAY, HOST_WEB],
        };
        let counts: &[_] = if effort.is_quick { &[8] } else { &[8, 1] };
        for &pairs in counts {
            let round_trip = round_trip(effort).await?;
            let measure = async |subject: &Subject| {
                let server = Server::start(subject, &Setup::default()).await?;
                Traffic::start(&server, subject, transport, pairs)
                    .await?
                    .measure(effort, &server)
                    .await
            };
            let rows = effort.rounds(&entries(subjects), measure).await?;
            let title = format!(
                "feedback: {pairs} backends on {name} to {pairs} browsers; latency in round trips of {:.0} µs",
                round_trip * 1e6
            );
            let table = Table::new(title)
                .value("packets")
                .busy()
                .multiple("p50", |s| s.p50, round_trip)
                .multiple("p99", |s| s.p99, round_trip)
                .ratio("of relay", RELAY.name, |s| s.value, 1.0)
                .ratio("p50 to relay", RELAY.name, |s| s.p50, 1.0);
            println!("{}", table.render(&rows));
        }
    }
    Ok(())
}

/// Running pairs. Each backend waits for an acknowledgement before it sends the next packet.
pub(super) struct Traffic {
    tasks: JoinSet<io::Result<()>>,
    received: Arc<AtomicU64>,
    latencies: Latencies,
}

type Sent = Arc<Mutex<VecDeque<Instant>>>;

impl Traffic {
    pub(super) async fn start(
        server: &Server,
        subject: &Subject,
        transport: Transport,
        pairs: usize,
    ) -> io::Result<Self> {
        let mut traffic = Self {
            tasks: JoinSet::new(),
            received: Arc::default(),
            latencies: Latencies::default(),
        };
        for _ in 0..pairs {
            let (browser, greeting) = server.open(subject, 0).await?;
            let backend = open_backend(server, subject, transport).await?;
            let text = packet(subject, &greeting)?;
            let message = match transport {
                Transport::WebSocket => frame(text.as_bytes()),
                Transport::Lines => format!("{text}\n").into_bytes(),
            };
            let sent = Sent::default();
            traffic.tasks.spawn(report(backend, message, sent.clone()));
            let (received, latencies) = (traffic.received.clone(), traffic.latencies.clone());
            traffic.tasks.spawn(watch(browser, sent, received, latencies));
        }
        Ok(traffic)
    }

    pub(super) async fn measure(mut self, effort: &Effort, server: &Server) -> io::Result<Sample> {
        let count = || self.received.load(Ordering::Relaxed);
        tokio::select! {
            sample = effort.observe(server, &self.latencies, count) => sample,
            Some(ended) = self.tasks.join_next() => {
                Err(io::Error::other(format!("ended early: {ended:?}")))
            }
        }
    }
}

async fn open_backend(
    server: &Server,
    subject: &Subject,
    transport: Transport,
) -> io::Result<Link> {
    let path = if subject.program == Program::Host { "/php" } else { subject.path };
    let mut link = match transport {
        Transport::WebSocket => Link::open(server.address, path, "Client-Type: php\r\n", 0).await?,
        Transport::Lines => Link::open_lines(server.address, path).await?,
    };
    link.expect(1).await?;
    Ok(link)
}

/// Returns the packet for the browser with this greeting. Its size is the same for all servers.
fn packet(subject: &Subject, greeting: &str) -> io::Result<String> {
    const SIZE: usize = 170;
    let (before, after) = match subject.program {
        Program::Host => {
            let uuid = greeting.split('"').nth(7);
            let uuid = uuid.ok_or_else(|| io::Error::other(format!("no uuid in {greeting}")))?;
            (format!(r#"{{"opcode":"feedback","uuid":"{uuid}","message":""#), r#""}"#)
        }
        _ => (format!("{greeting} "), ""),
    };
    let padding = SIZE.saturating_sub(before.len() + after.len());
    Ok(format!("{before}{}{after}", "x".repeat(padding)))
}

async fn report(mut link: Link, message: Vec<u8>, sent: Sent) -> io::Result<()> {
    loop {
        sent.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
        link.send(&message).await?;
        link.expect(1).await?;
    }
}

async fn watch(
    mut browser: Link,
    sent: Sent,
    received: Arc<AtomicU64>,
    latencies: Latencies,
) -> io::Result<()> {
    loop {
        let count = browser.inbound.receive().await?;
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        let count = count.min(sent.len());
        sent.drain(..count).for_each(|since| latencies.record(since.elapsed()));
        received.fetch_add(count as u64, Ordering::Relaxed);
    }
}
