//! The parent: runs each check in a child process, and says how a child ended that did not report.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::checks::{Check, WRITES_NOTHING};
use super::child::{COMMAND, OPENING, Report};
use super::report::{Finding, Grade, Outcome, excerpt, fail, skip};
use crate::plugin::preflight::signal_name;

/// What a child reads from its socket, as one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Brief {
    /// The staged copy.
    pub(super) library: PathBuf,
    pub(super) check: String,
    pub(super) settings: String,
    pub(super) bad_settings: Option<String>,
    pub(super) messages: Vec<String>,
    pub(super) query: String,
    pub(super) seed: u64,
    /// Of each callback.
    pub(super) limit: Duration,
}

/// Runs checks one after the other.
pub(super) struct Runner {
    brief: Brief,
    /// A failed check without which no other one makes sense.
    broken: Option<&'static str>,
}

impl Runner {
    pub(super) fn new(brief: Brief) -> Self {
        Self { brief, broken: None }
    }

    /// Runs a check.
    ///
    /// # Errors
    /// The child cannot be started.
    pub(super) fn run(&mut self, check: &Check) -> io::Result<Outcome> {
        let begun = Instant::now();
        let finding = match self.broken {
            Some(broken) => Some(skip(format!("needs the check {broken}, which has failed"))),
            None => {
                let brief = Brief { check: check.name.to_owned(), ..self.brief.clone() };
                run_child(&brief)?
            }
        };
        let has_failed = finding.as_ref().is_some_and(|finding| finding.grade == Grade::Fail);
        if has_failed && check.is_first() {
            self.broken = Some(check.name);
        }
        Ok(Outcome::new(check.name, finding, begun.elapsed()))
    }
}

/// Time for a whole check, beside the limit of each callback.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

fn run_child(brief: &Brief) -> io::Result<Option<Finding>> {
    let (socket, theirs) = UnixStream::pair()?;
    // Not current_exe(): an upgrade may have replaced that path.
    let mut child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .env_remove("RUST_BACKTRACE")
        .process_group(0)
        .spawn()?;
    let printed = child.stdout.take().map(collect).transpose()?;
    let followed = follow(socket, &mut child, brief);
    // Ends also what the library has started.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        kill_process_group(group, Signal::KILL).ok();
    }
    child.wait()?;
    let finding = followed?;
    let printed = printed.and_then(|printed| printed.recv_timeout(Duration::from_millis(100)).ok());
    let printed = printed.unwrap_or_default();
    if brief.check != WRITES_NOTHING || printed.is_empty() || finding.is_some() {
        return Ok(finding);
    }
    let text = excerpt(&String::from_utf8_lossy(&printed));
    Ok(Some(fail(format!("it writes to standard output: {text:?}; log with `tracing` instead"))))
}

/// Reads what the child prints, and returns the beginning of it at the end.
fn collect(mut stdout: ChildStdout) -> io::Result<Receiver<Vec<u8>>> {
    const KEPT: u64 = 1000;
    let (done, printed) = channel();
    let work = move || {
        let mut bytes = Vec::new();
        let read = stdout.by_ref().take(KEPT).read_to_end(&mut bytes);
        if read.is_ok() {
            io::copy(&mut stdout, &mut io::sink()).ok();
        }
        done.send(bytes).ok();
    };
    drop(std::thread::Builder::new().name("stdout".to_owned()).spawn(work)?);
    Ok(printed)
}

/// Sends the brief and reads the reports to the end of the child.
fn follow(socket: UnixStream, child: &mut Child, brief: &Brief) -> io::Result<Option<Finding>> {
    let mut line = serde_json::to_vec(brief)?;
    line.push(b'\n');
    // Fails only if the child has ended, which is found below.
    (&socket).write_all(&line).ok();
    let end = Instant::now() + CHECK_LIMIT.max(brief.limit * 6);
    let mut lines = BufReader::new(socket);
    let (mut callback, mut result) = (OPENING.to_owned(), None);
    loop {
        let rest = end.saturating_duration_since(Instant::now());
        // The child cannot limit its constructor, which holds a lock of the dynamic linker.
        let is_limited = result.is_some() || callback == OPENING;
        let limit = if is_limited { brief.limit.min(rest) } else { rest };
        lines.get_ref().set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        let mut line = String::new();
        match lines.read_line(&mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) if result.is_some() => {
                let limit = brief.limit;
                return Ok(Some(fail(format!("the process did not end within {limit:?}"))));
            }
            Err(_) if callback == OPENING => {
                return Ok(Some(fail(format!("{callback} did not return within {limit:?}"))));
            }
            Err(_) => {
                let text = format!("the check did not end within {limit:?}; last, {callback} ran");
                return Ok(Some(fail(text)));
            }
        }
        match serde_json::from_str(&line)? {
            Report::Begins(next) => callback = next,
            Report::Hung => {
                let limit = brief.limit;
                return Ok(Some(fail(format!("{callback} did not return within {limit:?}"))));
            }
            Report::Done(finding) => {
                callback = "its code at the end of the process".to_owned();
                result = Some(finding);
            }
        }
    }
    let ended = ended_badly(wait(child, brief.limit)?, &callback, result.is_some());
    Ok(ended.or(result.flatten()))
}

/// Waits for a child that has closed its socket.
#[expect(clippy::disallowed_methods, reason = "a process can only be polled with a limit")]
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        match child.try_wait()? {
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            status => return Ok(status),
        }
    }
}

fn ended_badly(status: Option<ExitStatus>, callback: &str, is_done: bool) -> Option<Finding> {
    let Some(status) = status else {
        return Some(fail(format!("{callback} did not let the process end")));
    };
    match (status.code(), status.signal()) {
        (Some(0), _) if is_done => None,
        (Some(code), _) => {
            Some(fail(format!("{callback} ended the process with exit code {code}")))
        }
        (_, Some(signal)) => Some(fail(format!("{callback} crashed: {}", signal_name(signal)))),
        _ => Some(fail(format!("{callback} ended the process"))),
    }
}
