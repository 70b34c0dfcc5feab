//! Commands that follow the running host until they are interrupted.
//!
//! Each of them asks the control socket as other programs do, and only shows what it answers.

mod events;
mod top;
mod trace;

use std::io::{self, BufRead, Write};
use std::thread;

use clap::Subcommand;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdout;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use self::events::EventsView;
use self::top::TopView;
use self::trace::TraceView;
use super::client::{AskError, HostAddress, send};
use super::protocol::{AnswerLine, ControlAnswer, ControlRequest};
use crate::ops::logging::escaped;

/// Commands that follow the running host.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Live {
    /// Show what the running host did: loads, swaps, refusals and other events.
    Events(EventsView),
    /// Show what the resources of the running host do now, until interrupted.
    Top(TopView),
    /// Show what passes one connection of the running host, until interrupted.
    Trace(TraceView),
}

impl Live {
    /// Runs the command.
    ///
    /// # Errors
    /// No host answers, it refuses, or it ends while the command follows it.
    pub(crate) fn run(self, host: &HostAddress) -> Result<(), AskError> {
        match self {
            Self::Events(view) => view.run(host),
            Self::Top(view) => view.run(host),
            Self::Trace(view) => view.run(host),
        }
    }
}

/// How a stream ended.
enum StreamEnd {
    /// The host has sent everything; its sentence.
    Done(String),
    /// Standard output is closed.
    OutputClosed,
}

/// Asks for a stream and shows each of its lines.
///
/// # Errors
/// No host answers, it refuses or drops the stream, or it ends.
fn follow(
    host: &HostAddress,
    request: &ControlRequest,
    mut show: impl FnMut(&str) -> io::Result<()>,
) -> Result<StreamEnd, AskError> {
    let (mut stream, path) = send(host, request)?;
    let mut line = String::new();
    let failed = |source| AskError::NoHost { path: path.clone(), source };
    stream.read_line(&mut line).map_err(failed)?;
    let first: AnswerLine = serde_json::from_str(&line).map_err(AskError::Answer)?;
    if let Some(notice) = first.notice {
        drop(writeln!(io::stderr(), "plugsocket: warning: {}", escaped(&notice)));
    }
    let mut answer = first.answer;
    loop {
        match answer {
            ControlAnswer::Stream => {}
            ControlAnswer::Refused(reason) => return Err(AskError::Refused(escaped(&reason))),
            ControlAnswer::Done(text) => return Ok(StreamEnd::Done(text)),
            _ => return Err(AskError::Ended("the answer of the host is not a stream".to_owned())),
        }
        loop {
            line.clear();
            let read = stream.read_line(&mut line);
            if !matches!(read, Ok(1..)) || !line.ends_with('\n') {
                let text =
                    "the host has ended, or has dropped this command because it did not read";
                return Err(AskError::Ended(text.to_owned()));
            }
            if line.starts_with(r#"{"answer":"#) {
                let last: AnswerLine = serde_json::from_str(&line).map_err(AskError::Answer)?;
                answer = last.answer;
                break;
            }
            if show(line.trim_end()).is_err() {
                return Ok(StreamEnd::OutputClosed);
            }
        }
    }
}

/// The signals by which a user or the system ends a command.
struct Interrupt([Signal; 3]);

impl Interrupt {
    /// Installs the handlers, within a runtime.
    ///
    /// # Errors
    /// The signals cannot be handled.
    fn install() -> Result<Self, AskError> {
        let handler = |kind| signal(kind).map_err(AskError::Signals);
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()];
        Ok(Self([handler(interrupt)?, handler(terminate)?, handler(SignalKind::hangup())?]))
    }

    async fn received(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Returns when standard output is a pipe that no process reads any more. A write would report that
/// only at the next line, which may be late: `plugsocket events --follow | grep -m 1 …`.
fn await_closed_output() {
    let stdout = stdout();
    // Nothing is asked for, so only errors are reported.
    let mut output = [PollFd::new(&stdout, PollFlags::empty())];
    while let Ok(0) | Err(Errno::INTR) = poll(&mut output, None) {}
}

/// Runs work on a thread of its own until it is done. Returns `None` if the command is interrupted
/// or standard output is closed before that; a blocked write does not keep the program alive.
///
/// # Errors
/// The signals cannot be handled.
fn until_interrupted<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>, AskError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(AskError::Signals)?;
    runtime.block_on(async {
        let mut interrupt = Interrupt::install()?;
        let (done, result) = oneshot::channel();
        thread::spawn(move || done.send(work()).ok());
        let (left, reader_left) = oneshot::channel();
        thread::spawn(move || {
            await_closed_output();
            left.send(())
        });
        tokio::select! {
            result = result => Ok(result.ok()),
            () = interrupt.received() => Ok(None),
            _ = reader_left => Ok(None),
        }
    })
}
