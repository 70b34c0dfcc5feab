//! The preflight child process, which opens a library before the host does.
//!
//! Opening a library runs its constructors before anything can be checked; they may crash, hang or
//! exit. The host therefore runs itself as `plugsocket preflight FILE`, which opens the file,
//! checks it and prints one line. Only a library that passes is opened in the host.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Printed by the child if the library passed.
pub(crate) const FINE: &str = "fine";
/// The hidden subcommand.
pub(crate) const COMMAND: &str = "preflight";

/// Why a library did not pass.
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
    #[error("cannot start the preflight process")]
    Spawn(#[source] std::io::Error),
}

/// Opens `library` in a child process; `arguments` are those of a trial, if it is one.
///
/// # Errors
/// The child refused the library, crashed, exited or hung.
pub(crate) async fn run(
    library: &Path,
    arguments: &[OsString],
    limit: Duration,
) -> Result<(), PreflightError> {
    // Not current_exe(): an upgrade may have replaced that path.
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
        let mut output = String::new();
        if let Some(stdout) = stdout.as_mut() {
            // If the output is not text, the exit status decides.
            drop(stdout.take(MAX_OUTPUT).read_to_string(&mut output).await);
        }
        (output, child.wait().await)
    };
    match tokio::time::timeout(limit, run).await {
        Ok((output, Ok(status))) => result_of_child(&output, status),
        Ok((_, Err(error))) => Err(PreflightError::Spawn(error)),
        Err(_) => Err(PreflightError::Hung(limit)),
    }
}

/// Ends the child with its parent: a constructor that hangs must not outlive a killed host.
pub(crate) fn end_with_parent() {
    // Without it, the host's time limit still applies.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).ok();
}

const MAX_OUTPUT: u64 = 64 * 1024;

fn result_of_child(output: &str, status: ExitStatus) -> Result<(), PreflightError> {
    let line = output.lines().last().unwrap_or_default();
    match (status.code(), status.signal()) {
        (Some(0), _) if line == FINE => Ok(()),
        (Some(1), _) if !line.is_empty() => Err(PreflightError::Refused(line.to_owned())),
        (Some(code), _) => Err(PreflightError::Exited(code)),
        (None, signal) => Err(PreflightError::Crashed(signal_name(signal.unwrap_or_default()))),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match Signal::from_named_raw(signal) {
        Some(Signal::ILL) => "SIGILL",
        Some(Signal::ABORT) => "SIGABRT",
        Some(Signal::BUS) => "SIGBUS",
        Some(Signal::FPE) => "SIGFPE",
        Some(Signal::KILL) => "SIGKILL",
        Some(Signal::SEGV) => "SIGSEGV",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::SYS) => "SIGSYS",
        _ => "a signal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_and_the_exit_status_of_the_child_become_one_error() {
        for (output, status, expected) in [
            ("fine\n", 0, "fine"),
            ("noise\nfine\n", 0, "fine"),
            ("it is not a plugsocket plugin\n", 1 << 8, "it is not a plugsocket plugin"),
            ("", 3 << 8, "its constructor ended the process with exit code 3"),
            ("", 0, "its constructor ended the process with exit code 0"),
            ("", 11, "its constructor crashed: SIGSEGV"),
            ("fine\n", 7, "its constructor crashed: SIGBUS"),
        ] {
            let result = result_of_child(output, ExitStatus::from_raw(status));
            assert_eq!(result.map_or_else(|e| e.to_string(), |()| "fine".to_owned()), expected);
        }
    }
}
