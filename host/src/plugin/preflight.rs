//! The throw-away child that opens a candidate first.
//!
//! A library's constructors run when it is opened, before anything of it can be checked: they may crash, hang or exit.
//! So the host runs itself again as `plugsocket preflight FILE`, which opens the file, does the full check and prints one
//! line; only what survives that is opened in this process.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// What the child prints when all is well.
pub(crate) const FINE: &str = "fine";
/// The hidden sub-command.
pub(crate) const COMMAND: &str = "preflight";

/// Why a candidate did not survive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    #[error("{0}")]
    Refused(String),
    #[error("its constructor crashed: {0}")]
    Crashed(&'static str),
    #[error("its constructor ended the process with exit code {0}")]
    Exited(i32),
    #[error("its constructor did not end within {0:?}")]
    Hung(Duration),
    #[error("cannot start the process that opens it first")]
    Spawn(#[source] std::io::Error),
}

/// Lets a child open `library`.
///
/// # Errors
/// What the child found, or how it died.
pub(crate) async fn check(library: &Path, limit: Duration) -> Result<(), PreflightError> {
    run(library, &[], limit).await
}

/// The same, with more to do for the child (`trial.rs`).
///
/// # Errors
/// As [`check`].
pub(crate) async fn run(
    library: &Path,
    arguments: &[OsString],
    limit: Duration,
) -> Result<(), PreflightError> {
    // Not current_exe(): that path may have been replaced by an upgrade since.
    let mut child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .arg(library)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .env_remove("RUST_BACKTRACE")
        .kill_on_drop(true)
        .spawn()
        .map_err(PreflightError::Spawn)?;
    let mut stdout = child.stdout.take();
    let run = async {
        let mut said = String::new();
        if let Some(stdout) = stdout.as_mut() {
            // A child that writes nonsense is judged by its status.
            drop(stdout.take(MAX_ANSWER).read_to_string(&mut said).await);
        }
        (said, child.wait().await)
    };
    match tokio::time::timeout(limit, run).await {
        Ok((said, Ok(status))) => judge(&said, status),
        Ok((_, Err(error))) => Err(PreflightError::Spawn(error)),
        Err(_) => Err(PreflightError::Hung(limit)),
    }
}

/// For the child: a constructor that hangs must not outlive a host that was killed, and nobody else would end it.
pub(crate) fn end_with_parent() {
    let signal = Some(rustix::process::Signal::KILL);
    // Without it the host's own limit still holds.
    rustix::process::set_parent_process_death_signal(signal).ok();
}

const MAX_ANSWER: u64 = 64 * 1024;

fn judge(said: &str, status: ExitStatus) -> Result<(), PreflightError> {
    let said = said.lines().last().unwrap_or_default();
    match (status.code(), status.signal()) {
        (Some(0), _) if said == FINE => Ok(()),
        (Some(1), _) if !said.is_empty() => Err(PreflightError::Refused(said.to_owned())),
        (Some(code), _) => Err(PreflightError::Exited(code)),
        (None, signal) => Err(PreflightError::Crashed(signal_name(signal.unwrap_or_default()))),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => "a signal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_child_ended_is_told_in_one_sentence() {
        for (said, status, expected) in [
            ("fine\n", 0, "fine"),
            ("noise\nfine\n", 0, "fine"),
            ("it is not a plugsocket plugin\n", 1 << 8, "it is not a plugsocket plugin"),
            ("", 3 << 8, "its constructor ended the process with exit code 3"),
            ("", 0, "its constructor ended the process with exit code 0"),
            ("", 11, "its constructor crashed: SIGSEGV"),
            ("fine\n", 7, "its constructor crashed: SIGBUS"),
        ] {
            let result = judge(said, ExitStatus::from_raw(status));
            assert_eq!(result.map_or_else(|e| e.to_string(), |()| "fine".to_owned()), expected);
        }
    }
}
