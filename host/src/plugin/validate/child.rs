//! The child: opens the library, runs one check, and reports each callback before it begins.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::checks;
use super::driver::Bench;
use super::journal::Journal;
use super::process::Usage;
use super::report::{Finding, fail};
use super::runner::Brief;

/// The hidden subcommand.
pub(crate) const COMMAND: &str = "plugin-validation";

/// The part that opens the library, which the parent limits.
pub(super) const OPENING: &str = "its constructor";

/// A line for the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// Written before the callback, during which the process may end.
    Begins(String),
    /// The callback did not return within the limit.
    Hung,
    Done(Option<Finding>),
}

/// Runs as the child. Standard input is a socket to the parent.
///
/// # Errors
/// The parent cannot be reached.
pub(crate) fn run() -> io::Result<()> {
    // Without it, the parent's time limits still apply.
    set_parent_process_death_signal(Some(Signal::KILL)).ok();
    let socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut line = String::new();
    BufReader::new(socket.try_clone()?).read_line(&mut line)?;
    let brief: Brief = serde_json::from_str(&line)?;
    let Some(check) = checks::named(&brief.check) else {
        return Err(io::Error::other("there is no such check"));
    };
    let journal = Journal::install();
    let progress = Arc::new(Progress::new(socket));
    let (alive, ended) = channel::<()>();
    let (watched, limit) = (progress.clone(), brief.limit);
    let watch = move || {
        while ended.recv_timeout(Duration::from_millis(20)) == Err(RecvTimeoutError::Timeout) {
            if watched.is_overdue(limit) {
                return watched.write(&Report::Hung);
            }
        }
        Ok(())
    };
    drop(std::thread::Builder::new().name("watch".to_owned()).spawn(watch)?);
    // This thread opens the library, and does not end before the process.
    let bench = Bench::open(brief, progress.clone(), journal);
    progress.write(&Report::Begins("its code".to_owned()))?;
    let finding = (check.run)(&bench).err().or_else(|| bench.journal.finding());
    drop(alive);
    progress.write(&Report::Done(finding))
}

/// What the check does at present.
pub(super) struct Progress {
    socket: UnixStream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The callback that was reported last, and since when it runs.
    callback: &'static str,
    since: Option<Instant>,
    /// Where to keep what each callback uses.
    samples: Option<Vec<Sample>>,
}

/// A callback that has returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) callback: &'static str,
    pub(super) time: Duration,
    /// The part of the time in which the thread neither ran nor waited for a processor.
    pub(super) blocked: Duration,
    /// The part in which it ran.
    pub(super) ran: Duration,
}

impl Progress {
    fn new(socket: UnixStream) -> Self {
        Self { socket, state: Mutex::default() }
    }

    /// Runs a callback.
    pub(super) fn call<T>(&self, callback: &'static str, call: impl FnOnce() -> T) -> T {
        let measures = self.begin(callback);
        let before = measures.then(|| (Instant::now(), Usage::of_thread()));
        let result = call();
        let mut state = self.lock();
        state.since = None;
        if let Some((begun, before)) = before {
            let time = begun.elapsed();
            let after = Usage::of_thread();
            let (blocked, ran) = (after.blocked_since(before, time), after.ran_since(before));
            state.samples.get_or_insert_default().push(Sample { callback, time, blocked, ran });
        }
        result
    }

    /// Returns whether callbacks are measured.
    fn begin(&self, callback: &'static str) -> bool {
        let mut state = self.lock();
        if state.callback != callback {
            state.callback = callback;
            // Fails only if the parent has gone, which ends this process.
            self.write(&Report::Begins(callback.to_owned())).ok();
        }
        state.since = Some(Instant::now());
        state.samples.is_some()
    }

    /// Measures callbacks from now on.
    pub(super) fn measure(&self) {
        self.lock().samples = Some(Vec::new());
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        self.lock().samples.take().unwrap_or_default()
    }

    fn is_overdue(&self, limit: Duration) -> bool {
        self.lock().since.is_some_and(|since| since.elapsed() > limit)
    }

    fn write(&self, report: &Report) -> io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        (&self.socket).write_all(&line)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the result of a step, or a finding about a thread that could not be started or panicked.
pub(super) fn on_thread<T: Send>(
    name: &str,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Finding> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    std::thread::scope(|scope| {
        let started = thread.spawn_scoped(scope, work);
        let started = started.map_err(|error| fail(format!("cannot start a thread: {error}")))?;
        started.join().map_err(|_| fail(format!("the thread `{name}` has panicked")))
    })
}
