//! Answers that are streams: the host sends lines until the client leaves or nothing can follow.
//!
//! Owns the clients that follow; their number is bounded. A client that does not read is dropped:
//! nothing that the host does waits for it. Streams end after the control socket, so that the last
//! events of the host reach them.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::protocol::{AnswerLine, ControlAnswer};
use super::trace;
use crate::ops::events::{Batch, EVENTS};
use crate::protocol::time_limit::timeout;
use crate::routing::trace::TraceGuard;

/// The most streams at a time.
const MAX_STREAMS: usize = 16;
/// Time in which a client must take what is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that clients have to take the last lines when the host ends.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Hands clients to the task that serves streams.
#[derive(Clone, Debug)]
pub(crate) struct Streams(mpsc::Sender<NewStream>);

/// A client that asked for a stream.
#[derive(Debug)]
struct NewStream {
    stream: UnixStream,
    followed: Followed,
    /// Why the configuration file on disk is not in effect.
    notice: Option<String>,
}

/// What a stream is about.
#[derive(Debug)]
pub(crate) enum Followed {
    /// The last events, and with `follow` those that come.
    Events {
        last: usize,
        follow: bool,
    },
    Connection(TraceGuard),
}

/// The task that serves streams.
pub(crate) struct StreamServer {
    server: JoinSet<()>,
    /// Dropped when no further stream begins.
    stop: oneshot::Sender<()>,
}

impl StreamServer {
    /// Starts the task.
    pub(crate) fn start() -> (Streams, Self) {
        let (sender, mut new) = mpsc::channel(MAX_STREAMS);
        let (stop, mut stopped) = oneshot::channel();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut streams = JoinSet::new();
            loop {
                tokio::select! {
                    begun = new.recv() => match begun {
                        Some(new) if streams.len() < MAX_STREAMS => drop(streams.spawn(serve(new))),
                        Some(new) => refuse(&new.stream),
                        None => break,
                    },
                    Some(_) = streams.join_next() => {}
                    _ = &mut stopped => break,
                }
            }
            while streams.join_next().await.is_some() {}
        });
        (Streams(sender), Self { server, stop })
    }

    /// Sends the last events and ends all streams, within a second.
    pub(crate) async fn finish(mut self) {
        EVENTS.end();
        drop(self.stop);
        drop(timeout(LAST_LINES, self.server.join_next()).await);
    }
}

impl Streams {
    /// Begins a stream, or sends one that ends by itself.
    pub(super) async fn begin(
        &self,
        stream: UnixStream,
        followed: Followed,
        notice: Option<String>,
    ) {
        let new = NewStream { stream, followed, notice };
        match new.followed {
            Followed::Events { follow: false, .. } => serve(new).await,
            // Fails only if the host ends.
            _ => drop(self.0.send(new).await),
        }
    }
}

/// Refuses a stream. The buffer of a new socket has space for the answer.
fn refuse(stream: &UnixStream) {
    let text = format!("{MAX_STREAMS} streams are open, which is the maximum; end one of them");
    drop(stream.try_write(&answer_line(ControlAnswer::Refused(text), None)));
}

async fn serve(NewStream { mut stream, followed, notice }: NewStream) {
    let begin = answer_line(ControlAnswer::Stream, notice);
    // An error means that the client has left, or does not read.
    let _left: io::Result<()> = async {
        write(&mut stream, &begin).await?;
        let end = match followed {
            Followed::Events { last, follow } => send_events(&mut stream, last, follow).await?,
            Followed::Connection(traced) => send_trace(&mut stream, &traced).await?,
        };
        write(&mut stream, &answer_line(end, None)).await
    }
    .await;
}

/// Sends events until nothing follows; returns the last answer.
///
/// # Errors
/// The client has left, or does not read.
async fn send_events(
    stream: &mut UnixStream,
    last: usize,
    follow: bool,
) -> io::Result<ControlAnswer> {
    // Before the first read, so that no event is overlooked.
    let mut changed = EVENTS.subscribe();
    let mut from = EVENTS.before_last(last);
    loop {
        let Batch { lines, next, missed, is_last } = EVENTS.read(from);
        if missed > 0 {
            let text = format!("{missed} events were not read in time and are lost");
            return Ok(ControlAnswer::Refused(text));
        }
        from = next;
        if !lines.is_empty() {
            write(stream, lines.as_bytes()).await?;
        } else if is_last {
            return Ok(ControlAnswer::Done("the host has stopped".to_owned()));
        } else if follow {
            wait(stream, changed.changed()).await?;
        } else {
            return Ok(ControlAnswer::Done("these are all events that are kept".to_owned()));
        }
    }
}

/// Sends what passes a connection until it ends; returns the last answer.
///
/// # Errors
/// The client has left, or does not read.
async fn send_trace(stream: &mut UnixStream, traced: &TraceGuard) -> io::Result<ControlAnswer> {
    write(stream, trace::first_line(&traced.peer).as_bytes()).await?;
    loop {
        let recorded = traced.trace.take();
        let lines = trace::lines(&recorded);
        if !lines.is_empty() {
            write(stream, lines.as_bytes()).await?;
        }
        if recorded.has_ended {
            return Ok(ControlAnswer::Done("the connection has ended".to_owned()));
        }
        wait(stream, traced.trace.changed()).await?;
    }
}

/// Waits for an event, as long as the client is there.
///
/// # Errors
/// The client has left.
async fn wait(stream: &mut UnixStream, event: impl Future) -> io::Result<()> {
    let left = async {
        let mut ignored = [0; 64];
        while stream.read(&mut ignored).await? > 0 {}
        Err(io::ErrorKind::UnexpectedEof.into())
    };
    tokio::select! {
        _ = event => Ok(()),
        left = left => left,
    }
}

async fn write(stream: &mut UnixStream, lines: &[u8]) -> io::Result<()> {
    let written = timeout(WRITE_TIMEOUT, stream.write_all(lines)).await;
    written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn answer_line(answer: ControlAnswer, notice: Option<String>) -> Vec<u8> {
    let mut line = serde_json::to_vec(&AnswerLine { answer, notice }).unwrap_or_default();
    line.push(b'\n');
    line
}
