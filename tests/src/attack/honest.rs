//! Clients that behave: each sends a message, awaits its echo, waits a little, and never stops. What they notice of an attack is
//! what an attack is measured by.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::peer::Peer;

/// A few of them, at work on a thread of their own.
#[derive(Debug)]
pub struct Honest {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Noticed>,
}

/// What they noticed.
#[derive(Clone, Debug, Default)]
pub struct Noticed {
    /// When a message was sent, and how long its echo took.
    pub samples: Vec<(Instant, Duration)>,
    /// Messages whose echo did not come or was another one.
    pub lost: u64,
    /// Connections that ended.
    pub cut: u64,
}

impl Honest {
    /// Connects `count` clients to the echo of this server and lets them talk.
    ///
    /// # Panics
    /// When the system gives no thread, or the server takes nobody.
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
                    talking.spawn(talk(peer, stopped.clone()));
                }
                ready.send(()).unwrap();
                let mut all = Noticed::default();
                for part in talking.join_all().await {
                    all.samples.extend(part.samples);
                    all.lost += part.lost;
                    all.cut += part.cut;
                }
                all
            })
        });
        is_ready.recv().unwrap();
        Self { stop, thread }
    }

    /// Lets them finish what they are at.
    ///
    /// # Panics
    /// When one of them did.
    pub fn finish(self) -> Noticed {
        self.stop.send_replace(true);
        self.thread.join().unwrap()
    }
}

impl Noticed {
    /// How long echoes took of messages that were sent between two moments, sorted.
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let within = self.samples.iter().filter(|(at, _)| (from..to).contains(at));
        let mut times: Vec<Duration> = within.map(|(_, took)| *took).collect();
        times.sort();
        times
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_millis(10);

async fn talk(mut peer: Peer, stop: watch::Receiver<bool>) -> Noticed {
    let mut noticed = Noticed::default();
    let mut number = 0_u64;
    while !*stop.borrow() {
        number += 1;
        let text = format!("honest message {number}");
        let sent = Instant::now();
        let echo = async {
            peer.send(text.as_bytes()).await.ok()?;
            peer.message().await.ok()
        };
        match timeout(PATIENCE, echo).await {
            Ok(Some(echo)) if echo == text.as_bytes() => {
                noticed.samples.push((sent, sent.elapsed()))
            }
            Ok(Some(_)) => noticed.lost += 1,
            // What waited longest must not be left out of the figures.
            Err(_) => {
                noticed.samples.push((sent, PATIENCE));
                noticed.lost += 1;
                return noticed;
            }
            Ok(None) => {
                noticed.lost += 1;
                noticed.cut += 1;
                return noticed;
            }
        }
        sleep(PACE).await;
    }
    noticed
}
