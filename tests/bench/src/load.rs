//! Echoes: connections that keep a number of messages in flight.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::measure::{Effort, Latencies, Sample};
use crate::server::{Server, Setup, Subject};
use crate::traffic::{Link, frame};

/// What the connections do.
#[derive(Clone, Debug)]
pub struct Talk {
    /// How many there are.
    pub connections: usize,
    /// Bytes of each message's text.
    pub size: usize,
    /// Messages that each sends before their answers are awaited.
    pub in_flight: usize,
    /// The paths that they take in turn; empty: that of the subject.
    pub paths: Vec<String>,
}

impl Talk {
    /// With texts of 64 bytes, on the path of the subject.
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

    /// Measures a server that runs under this load.
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

/// Connections at work, counting what was answered.
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
    /// Opens the connections and lets them talk.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub async fn start(server: &Server, subject: &Subject, talk: &Talk) -> io::Result<Self> {
        let mut load = Self {
            tasks: JoinSet::new(),
            progress: Progress::default(),
            latencies: Latencies::default(),
        };
        let burst: Arc<[u8]> = frame(&vec![b'x'; talk.size]).repeat(talk.in_flight).into();
        let own = [subject.path.to_owned()];
        let paths = if talk.paths.is_empty() { own.as_slice() } else { &talk.paths };
        // All are open before the first talks: behind thousands that do, each further handshake would wait its turn.
        let mut silent = Vec::with_capacity(talk.connections);
        for (number, path) in (0..talk.connections).zip(paths.iter().cycle()) {
            let mut link = Link::open(server.address, path, "", number).await?;
            if subject.greets {
                link.expect(1).await?;
            }
            let answers = talk.in_flight * subject.answers;
            let bursts =
                Bursts { link, bytes: burst.clone(), messages: talk.in_flight as u64, answers };
            silent.push(bursts);
        }
        for bursts in silent {
            load.tasks.spawn(bursts.exchange(load.progress.clone(), load.latencies.clone()));
        }
        Ok(load)
    }

    /// Messages answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.progress.answered.load(Ordering::Relaxed)
    }

    /// Ends all.
    ///
    /// # Errors
    /// One of them failed on the way.
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
            latencies.note(begun.elapsed());
            progress.answered.fetch_add(self.messages, Ordering::Relaxed);
        }
        Ok(())
    }
}
