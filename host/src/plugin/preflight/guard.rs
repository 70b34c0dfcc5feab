//! The guard: runs the rehearsal, limits its steps, and ends all processes that it has started.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep_until, timeout};

use super::rehearsal::Report;
use super::{Answer, Brief, COMMAND, Fault, Step, line, read_brief};

/// Runs as the guard: no log, and one line of JSON on standard output.
///
/// # Errors
/// The host cannot be reached.
pub(crate) fn guard(library: &Path) -> io::Result<()> {
    let answer = match check(library) {
        Ok(None) => Answer::Passed,
        Ok(Some((step, fault))) => Answer::Failed(step, fault),
        Err(error) => Answer::Unable(error.to_string()),
    };
    end_descendants();
    io::stdout().write_all(&line(&answer)?)
}

fn check(library: &Path) -> io::Result<Option<(Step, Fault)>> {
    // Orphans of the rehearsal become children of this process, also those with a session of
    // their own.
    set_child_subreaper(Some(getpid()))?;
    let brief = read_brief()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(library, &brief))
}

/// Returns the step that failed.
async fn run(library: &Path, brief: &Brief) -> io::Result<Option<(Step, Fault)>> {
    let mut child = Command::new("/proc/self/exe")
        .args([COMMAND, super::rehearsal::OPTION])
        .arg(library)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the rehearsal has no pipes"));
    };
    // Fails only if the child has ended, which is found below.
    stdin.write_all(&line(brief)?).await.ok();
    drop(stdin);
    let host = Receiver::from_owned_fd(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?)?;
    let mut watched = Watched { child, lines: BufReader::new(stdout).lines(), step: Step::Open };
    tokio::select! {
        fault = watched.follow(brief) => Ok(fault?.map(|fault| (watched.step, fault))),
        // Standard input ends with the host, or when the host has given up.
        _ = host.readable() => Err(io::Error::other("the host has ended")),
    }
}

struct Watched {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The step that it has reported last.
    step: Step,
}

impl Watched {
    /// Follows the rehearsal to its end, or to its first fault.
    async fn follow(&mut self, brief: &Brief) -> io::Result<Option<Fault>> {
        let mut deadline = tokio::time::Instant::now() + brief.limit(&self.step);
        let mut has_lines = true;
        loop {
            tokio::select! {
                biased;
                line = self.lines.next_line(), if has_lines => match line.unwrap_or_default() {
                    Some(line) => {
                        if let Some(fault) = self.take(&line) {
                            return Ok(Some(fault));
                        }
                        deadline = tokio::time::Instant::now() + brief.limit(&self.step);
                    }
                    None => has_lines = false,
                },
                status = self.child.wait() => {
                    // A process that it has started may hold the pipe open.
                    while has_lines && let Ok(Ok(Some(line))) =
                        timeout(LAST_LINES, self.lines.next_line()).await
                    {
                        if let Some(fault) = self.take(&line) {
                            return Ok(Some(fault));
                        }
                    }
                    return Ok(fault(status?, &self.step));
                }
                () = sleep_until(deadline) => {
                    return Ok(Some(Fault::Hung(brief.limit(&self.step))));
                }
            }
        }
    }

    fn take(&mut self, line: &str) -> Option<Fault> {
        match serde_json::from_str(line) {
            Ok(Report::Begins(step)) => self.step = step,
            Ok(Report::Refused(text)) => return Some(Fault::Refused(text)),
            // Not a report.
            Err(_) => {}
        }
        None
    }
}

/// Time for reading what an ended process has written.
const LAST_LINES: Duration = Duration::from_millis(50);

fn fault(status: ExitStatus, step: &Step) -> Option<Fault> {
    match (status.code(), status.signal()) {
        (Some(0), _) if *step == Step::Exit => None,
        (Some(code), _) => Some(Fault::Exited(code)),
        (None, signal) => Some(Fault::Crashed(signal_name(signal.unwrap_or_default()))),
    }
}

/// Ends all descendants; one whose parent ends becomes a child of this process.
fn end_descendants() {
    let deadline = Instant::now() + END_LIMIT;
    while Instant::now() < deadline {
        match wait(WaitOptions::NOHANG) {
            // No children are left.
            Err(_) => return,
            Ok(Some(_)) => {}
            Ok(None) => {
                for child in children() {
                    // It may have ended.
                    kill_process(child, Signal::KILL).ok();
                }
                pause();
            }
        }
    }
}

/// Time for ending processes; one that is in the kernel ends later.
const END_LIMIT: Duration = Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "this process has nothing else to do")]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

fn children() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |id: &i32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // NUMBER (NAME) STATE PARENT; a name may contain spaces and parentheses.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        parent == Some(&own)
    };
    ids.filter(is_child).filter_map(Pid::from_raw).collect()
}

/// Returns the name of a signal that ends a process.
pub(crate) fn signal_name(signal: i32) -> String {
    match Signal::from_named_raw(signal) {
        Some(Signal::ILL) => "SIGILL",
        Some(Signal::TRAP) => "SIGTRAP",
        Some(Signal::ABORT) => "SIGABRT",
        Some(Signal::BUS) => "SIGBUS",
        Some(Signal::FPE) => "SIGFPE",
        Some(Signal::KILL) => "SIGKILL",
        Some(Signal::SEGV) => "SIGSEGV",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::SYS) => "SIGSYS",
        _ => return format!("signal {signal}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_and_the_last_step_become_one_fault() {
        let start = Step::Start("/a".to_owned());
        for (status, step, expected) in [
            (0, &Step::Exit, None),
            (0, &start, Some(Fault::Exited(0))),
            (3 << 8, &start, Some(Fault::Exited(3))),
            (3 << 8, &Step::Exit, Some(Fault::Exited(3))),
            (11, &start, Some(Fault::Crashed("SIGSEGV".to_owned()))),
            (7, &Step::Exit, Some(Fault::Crashed("SIGBUS".to_owned()))),
            (31, &start, Some(Fault::Crashed("SIGSYS".to_owned()))),
        ] {
            assert_eq!(fault(ExitStatus::from_raw(status), step), expected, "{status} {step:?}");
        }
    }
}
