//! Legitimate clients: each sends a message, awaits the echo, pauses and repeats. Their latency and
//! losses measure the effect of an attack.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::peer::Peer;

/// Legitimate clients that run on a separate thread.
#[derive(Debug)]
pub struct LegitimateClients {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Observations>,
}

/// Latencies and losses that the clients observed.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    /// For each message, the time it was sent and the latency of its echo.
    pub samples: Vec<(Instant, Duration)>,
    /// Messages whose echo was missing or different.
    pub lost: u64,
    /// Connections that the server closed.
    pub closed: u64,
}

impl LegitimateClients {
    /// Connects `count` clients to the echo resource of a server and starts the exchange.
    ///
    /// # Panics
    /// If no thread can be started, or the server refuses a connection.
    pub fn start(address: SocketAddr, count: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                let mut talking = JoinSet::new();
                for _ in 0..count {
                    let peer = Peer::open(address, "/echo").await.unwrap();
                    talking.spawn(exchange(peer, stopped.clone()));
                }
                ready.send(()).unwrap();
                let mut all = Observations::default();
                for part in talking.join_all().await {
                    all.samples.extend(part.samples);
                    all.lost += part.lost;
                    all.closed += part.closed;
                }
                all
            })
        });
        is_ready.recv().unwrap();
        Self { stop, thread }
    }

    /// Stops the clients after their current message and returns the observations.
    ///
    /// # Panics
    /// If a client panicked.
    pub fn finish(self) -> Observations {
        self.stop.send_replace(true);
        self.thread.join().unwrap()
    }
}

impl Observations {
    /// Returns the sorted latencies of messages sent in the interval.
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let within = self.samples.iter().filter(|(at, _)| (from..to).contains(at));
        let mut times: Vec<Duration> = within.map(|(_, took)| *took).collect();
        times.sort();
        times
    }
}

const ECHO_TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

async fn exchange(mut peer: Peer, stop: watch::Receiver<bool>) -> Observations {
    let mut observed = Observations::default();
    let mut number = 0_u64;
    while !*stop.borrow() {
        number += 1;
        let text = format!("legitimate message {number}");
        let sent = Instant::now();
        let echo = async {
            peer.send(text.as_bytes()).await.ok()?;
            peer.message().await.ok()
        };
        match timeout(ECHO_TIMEOUT, echo).await {
            Ok(Some(echo)) if echo == text.as_bytes() => {
                observed.samples.push((sent, sent.elapsed()))
            }
            Ok(Some(_)) => observed.lost += 1,
            // Counts as a sample, or the longest waits would be missing from the percentiles.
            Err(_) => {
                observed.samples.push((sent, ECHO_TIMEOUT));
                observed.lost += 1;
                return observed;
            }
            Ok(None) => {
                observed.lost += 1;
                observed.closed += 1;
                return observed;
            }
        }
        sleep(PAUSE).await;
    }
    observed
}
