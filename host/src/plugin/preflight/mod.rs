//! The preflight, which runs a library in a child process before the host opens it.
//!
//! The code of a library may crash, hang or exit, from its constructors on. The host therefore runs
//! itself as `plugsocket preflight FILE`, the **guard**, which starts a second process, the
//! **rehearsal**. That one does with the library what the host is going to do: it opens the file,
//! starts an instance for each resource, restores its state and drops it. It reports each step
//! before it begins it, so that the guard knows where it ended. The guard enforces the host's time
//! limits, ends every process that the library has started, and answers with one line. Only a
//! library that passes is opened in the host.

mod guard;
mod rehearsal;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

pub(crate) use self::guard::{guard, signal_name};
pub(crate) use self::rehearsal::rehearse;
use super::Snapshot;
use crate::config::HandoverSettings;
use crate::fs::blocking::run_blocking;
use crate::fs::owner_only;
use crate::protocol::time_limit::timeout;

/// The hidden subcommand.
pub(crate) const COMMAND: &str = "preflight";

/// An instance that the child starts.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Path of the resource; empty if there is none.
    pub(crate) resource: String,
    /// Settings for `start`, as JSON.
    pub(crate) settings: String,
    /// State for `restore`.
    pub(crate) state: Option<Snapshot>,
}

/// A part of the preflight. The library may end the child in each of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    Open,
    Attach,
    Start(String),
    Restore(String),
    Drop(String),
    Exit,
}

/// Why a library did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    #[error("{}", describe(.0, .1))]
    Failed(Step, Fault),
    #[error("the preflight process did not answer within {0:?}")]
    NoAnswer(Duration),
    #[error("cannot start the preflight process")]
    Spawn(#[source] std::io::Error),
    #[error("cannot write {} for the preflight", path.display())]
    State {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// How a step failed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// With a sentence.
    Refused(String),
    /// By a signal.
    Crashed(String),
    /// With this exit code.
    Exited(i32),
    /// For longer than this limit.
    Hung(Duration),
}

impl PreflightError {
    /// Returns the resource whose instance failed.
    pub(crate) fn resource(&self) -> Option<&str> {
        match self {
            Self::Failed(Step::Start(it) | Step::Restore(it) | Step::Drop(it), _) => Some(it),
            _ => None,
        }
    }

    /// Returns the resource whose instance refused to start, or panicked.
    pub(crate) fn refusing(&self) -> Option<&str> {
        match self {
            Self::Failed(Step::Start(resource), Fault::Refused(_)) => Some(resource),
            _ => None,
        }
    }

    /// Returns the resource whose state could not be restored.
    pub(crate) fn restoring(&self) -> Option<&str> {
        match self {
            Self::Failed(Step::Restore(resource), _) => Some(resource),
            _ => None,
        }
    }
}

/// What the guard and the rehearsal read from standard input, as one line of JSON. The states are
/// in files beside the library.
#[derive(Debug, Serialize, Deserialize)]
struct Brief {
    open_limit: Duration,
    start_limit: Duration,
    restore_limit: Duration,
    snapshot_limit: usize,
    candidates: Vec<Part>,
}

/// What the guard writes to standard output, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Passed,
    Failed(Step, Fault),
    /// The rehearsal could not be run.
    Unable(String),
}

/// A [`Candidate`], with the version of its state.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    resource: String,
    settings: String,
    state: Option<u32>,
}

impl Brief {
    fn limit(&self, step: &Step) -> Duration {
        match step {
            Step::Start(_) => self.start_limit,
            Step::Restore(_) => self.restore_limit,
            Step::Open | Step::Attach | Step::Drop(_) | Step::Exit => self.open_limit,
        }
    }

    /// Returns a time within which the guard has answered, if it can.
    fn longest(&self) -> Duration {
        let instance = self.start_limit + self.restore_limit + self.open_limit;
        let count = u32::try_from(self.candidates.len()).unwrap_or(u32::MAX);
        (self.open_limit * 3 + MARGIN).saturating_add(instance.saturating_mul(count))
    }
}

/// For starting processes and ending them.
const MARGIN: Duration = Duration::from_secs(10);

/// Opens `library`, a staged copy, in a child process and starts the candidates there.
///
/// # Errors
/// The library refused, crashed, exited or hung.
pub(crate) async fn run(
    library: &Path,
    limits: &HandoverSettings,
    candidates: Vec<Candidate>,
) -> Result<(), PreflightError> {
    let (mut parts, mut states) = (Vec::new(), Vec::new());
    for (index, Candidate { resource, settings, state }) in candidates.into_iter().enumerate() {
        let version = state.as_ref().map(|state| state.version);
        states.extend(state.map(|state| (state_file(library, index), state)));
        parts.push(Part { resource, settings, state: version });
    }
    let brief = Brief {
        open_limit: limits.preflight,
        start_limit: limits.start,
        restore_limit: limits.restore,
        snapshot_limit: limits.snapshot_limit,
        candidates: parts,
    };
    let files: Vec<PathBuf> = states.iter().map(|(path, _)| path.clone()).collect();
    let written = run_blocking(move || write(states)).await;
    let result = match written.map_err(PreflightError::Spawn).flatten() {
        Ok(()) => ask(library, &brief).await,
        Err(error) => Err(error),
    };
    for file in files {
        // It may not have been written. The folder is removed with the host, at the latest.
        drop(std::fs::remove_file(file));
    }
    result
}

fn write(states: Vec<(PathBuf, Snapshot)>) -> Result<(), PreflightError> {
    for (path, state) in states {
        let written = owner_only::file(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &state.bytes));
        written.map_err(|source| PreflightError::State { path, source })?;
    }
    Ok(())
}

fn state_file(library: &Path, index: usize) -> PathBuf {
    library.with_file_name(format!("preflight.{index}.state"))
}

/// Runs the guard. It ends with the host: its standard input, which stays open until then, ends.
async fn ask(library: &Path, brief: &Brief) -> Result<(), PreflightError> {
    // Not current_exe(): an upgrade may have replaced that path.
    let mut child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .arg(library)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .env_remove("RUST_BACKTRACE")
        .process_group(0)
        .spawn()
        .map_err(PreflightError::Spawn)?;
    let limit = brief.longest();
    let Ok(answer) = timeout(limit, answer(&mut child, brief)).await else {
        end_group(&child);
        return Err(PreflightError::NoAnswer(limit));
    };
    match serde_json::from_str(&answer.map_err(PreflightError::Spawn)?) {
        Ok(Answer::Passed) => Ok(()),
        Ok(Answer::Failed(step, fault)) => Err(PreflightError::Failed(step, fault)),
        Ok(Answer::Unable(text)) => Err(PreflightError::Spawn(std::io::Error::other(text))),
        Err(error) => Err(PreflightError::Spawn(error.into())),
    }
}

async fn answer(child: &mut Child, brief: &Brief) -> std::io::Result<String> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(std::io::Error::other("the child has no pipes"));
    };
    stdin.write_all(&line(brief)?).await?;
    let mut answer = String::new();
    stdout.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    child.wait().await?;
    Ok(answer)
}

/// Ends a guard that does not answer, and the rehearsal.
fn end_group(child: &Child) {
    if let Some(group) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
        // It may have ended.
        kill_process_group(group, Signal::KILL).ok();
    }
}

const MAX_ANSWER: u64 = 64 * 1024;

fn line(value: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads the brief from standard input, and nothing behind it.
fn read_brief() -> std::io::Result<Brief> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Says which part of the library did what.
fn describe(step: &Step, fault: &Fault) -> String {
    let (resource, name) = match step {
        Step::Open => ("", "its constructor"),
        Step::Attach => ("", "its `attach`"),
        Step::Start(resource) => (resource.as_str(), "`start`"),
        Step::Restore(resource) => (resource.as_str(), "`restore`"),
        Step::Drop(resource) => (resource.as_str(), "the drop of its instance"),
        Step::Exit => ("", "its code at the end of the process"),
    };
    let place = if resource.is_empty() { String::new() } else { format!("{resource}: ") };
    let text = match (fault, step) {
        (Fault::Refused(text), _) => text.clone(),
        (Fault::Crashed(signal), _) => format!("{name} crashed: {signal}"),
        (Fault::Exited(code), _) => format!("{name} ended the process with exit code {code}"),
        (Fault::Hung(limit), Step::Start(_)) => {
            format!("{name} hung: it did not start within {limit:?}")
        }
        (Fault::Hung(limit), Step::Restore(_)) => {
            format!("{name} hung: it did not take over the state within {limit:?}")
        }
        (Fault::Hung(limit), _) => format!("{name} hung: it did not end within {limit:?}"),
    };
    place + &text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_callback_and_the_resource() {
        let limit = Duration::from_secs(5);
        for (step, fault, expected) in [
            (Step::Open, Fault::Crashed("SIGSEGV".into()), "its constructor crashed: SIGSEGV"),
            (Step::Open, Fault::Hung(limit), "its constructor hung: it did not end within 5s"),
            (Step::Start("/a".into()), Fault::Refused("no".into()), "/a: no"),
            (
                Step::Start(String::new()),
                Fault::Exited(3),
                "`start` ended the process with exit code 3",
            ),
            (
                Step::Restore("/a".into()),
                Fault::Hung(limit),
                "/a: `restore` hung: it did not take over the state within 5s",
            ),
            (
                Step::Drop("/a".into()),
                Fault::Hung(limit),
                "/a: the drop of its instance hung: it did not end within 5s",
            ),
        ] {
            assert_eq!(describe(&step, &fault), expected);
        }
    }
}
