//! Echo load: connections that keep a number of messages in flight.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::measure::{Effort, Latencies, Sample};
use crate::server::{Server, Setup, Subject};
use crate::traffic::{Link, frame};

/// Shape of the load.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Number of connections.
    pub connections: usize,
    /// Bytes of a message's text.
    pub size: usize,
    /// Messages that a connection sends before it waits for their answers.
    pub in_flight: usize,
    /// Paths that the connections use in turn; if empty, that of the subject.
    pub paths: Vec<String>,
}

impl Talk {
    /// Creates a load with texts of 64 bytes, on the path of the subject.
    #[must_use]
    pub fn new(connections: usize, in_flight: usize) -> Self {
        Self { connections, size: 64, in_flight, paths: Vec::new() }
    }

    /// Starts the server and measures it under this load.
    ///
    /// # Errors
    /// The server or a connection fails.
    pub async fn measure(
        &self,
        effort: &Effort,
        subject: &Subject,
        setup: &Setup,
    ) -> io::Result<Sample> {
        let server = Server::start(subject, setup).await?;
        self.measure_on(effort, &server, subject).await
    }

    /// Measures a running server under this load.
    ///
    /// # Errors
    /// The server or a connection fails.
    pub async fn measure_on(
        &self,
        effort: &Effort,
        server: &Server,
        subject: &Subject,
    ) -> io::Result<Sample> {
        let load = Load::start(server, subject, self).await?;
        let sample = effort.observe(server, &load.latencies, || load.answered()).await?;
        load.stop().await?;
        Ok(sample)
    }
}

/// Running connections that count answered messages.
#[derive(Debug)]
pub struct Load {
    tasks: JoinSet<io::Result<()>>,
    progress: Progress,
    latencies: Latencies,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Opens the connections and starts the load.
    ///
    /// # Errors
    /// A connection cannot be opened.
    pub async fn start(server: &Server, subject: &Subject, talk: &Talk) -> io::Result<Self> {
        let mut load = Self {
            tasks: JoinSet::new(),
            progress: Progress::default(),
            latencies: Latencies::default(),
        };
        let burst: Arc<[u8]> = frame(&vec![b'x'; talk.size]).repeat(talk.in_flight).into();
        let own = [subject.path.to_owned()];
        let paths = if talk.paths.is_empty() { own.as_slice() } else { &talk.paths };
        // All are open before the first one sends: otherwise handshakes would wait behind messages.
        let mut idle = Vec::with_capacity(talk.connections);
        for (number, path) in (0..talk.connections).zip(paths.iter().cycle()) {
            let mut link = Link::open(server.address, path, "", number).await?;
            if subject.greets {
                link.expect(1).await?;
            }
            let answers = talk.in_flight * subject.answers;
            let bursts =
                Bursts { link, bytes: burst.clone(), messages: talk.in_flight as u64, answers };
            idle.push(bursts);
        }
        for bursts in idle {
            load.tasks.spawn(bursts.exchange(load.progress.clone(), load.latencies.clone()));
        }
        Ok(load)
    }

    /// Returns the number of messages answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.progress.answered.load(Ordering::Relaxed)
    }

    /// Stops all connections.
    ///
    /// # Errors
    /// A connection failed.
    pub async fn stop(mut self) -> io::Result<()> {
        self.progress.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
    }
}

struct Bursts {
    link: Link,
    bytes: Arc<[u8]>,
    messages: u64,
    answers: usize,
}

impl Bursts {
    async fn exchange(mut self, progress: Progress, latencies: Latencies) -> io::Result<()> {
        while !progress.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            self.link.send(&self.bytes).await?;
            self.link.expect(self.answers).await?;
            latencies.record(begun.elapsed());
            progress.answered.fetch_add(self.messages, Ordering::Relaxed);
        }
        Ok(())
    }
}
