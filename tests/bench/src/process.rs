//! Resource use of a process, and limits of this one.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Returns the CPU time of a process, summed over its running threads.
///
/// # Errors
/// There is no such process.
pub(crate) fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // The thread may have ended.
        if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
            nanos += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Returns the resident memory of a process in bytes.
///
/// # Errors
/// There is no such process.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// Returns the peak of resident memory since [`forget_peak`], in bytes.
///
/// # Errors
/// There is no such process.
pub fn peak_bytes(pid: u32) -> io::Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// Resets the peak of resident memory.
///
/// # Errors
/// There is no such process, or it belongs to another user.
pub fn forget_peak(pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

fn status_bytes(pid: u32, key: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024)
}

/// Raises the limit of open files as far as the system allows; returns the new limit. Child
/// processes inherit it.
#[must_use]
pub fn allow_files(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    // Only root can exceed the hard limit, and not in every container.
    for maximum in [wanted.max(hard), hard] {
        let new = Rlimit { current: Some(wanted.min(maximum)), maximum: Some(maximum) };
        if setrlimit(Resource::Nofile, new).is_ok() {
            return wanted.min(maximum);
        }
    }
    limit.current.unwrap_or(u64::MAX)
}

/// Pins the calling thread, and the threads and processes that it starts, to one core.
///
/// # Errors
/// There is no such core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}
