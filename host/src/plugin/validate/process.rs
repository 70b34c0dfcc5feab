//! What the kernel knows about this process: threads, descriptors, memory, signals.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Returns the threads with their names.
pub(super) fn threads() -> BTreeMap<u32, String> {
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let thread = |id: u32| {
        let name = fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok()?;
        Some((id, name.trim_end().to_owned()))
    };
    entries.filter_map(|entry| thread(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Returns the open file descriptors, each with what it refers to.
pub(super) fn descriptors() -> BTreeMap<u32, String> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let descriptor = |entry: fs::DirEntry| {
        // The one that reads the folder is closed by now, or has no target at the end.
        let target = fs::read_link(entry.path()).ok()?.display().to_string();
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, target)).filter(|(_, target)| !target.ends_with("/fd"))
    };
    entries.filter_map(descriptor).collect()
}

/// Waits until `left` returns nothing, but not longer than `limit`; returns what is left.
pub(super) fn wait_until_none<T>(limit: Duration, left: impl Fn() -> Vec<T>) -> Vec<T> {
    let end = Instant::now() + limit;
    loop {
        let rest = left();
        if rest.is_empty() || Instant::now() >= end {
            return rest;
        }
        pause(Duration::from_millis(5));
    }
}

#[expect(clippy::disallowed_methods, reason = "what threads do by themselves has no event")]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Returns the bytes of anonymous memory in RAM: heap, stacks and changed data of libraries.
pub(super) fn memory() -> usize {
    let kilobytes = status("RssAnon").split(' ').next().and_then(|number| number.parse().ok());
    kilobytes.unwrap_or(0_usize) * 1024
}

/// Returns the value of a line of `/proc/self/status`.
fn status(key: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}

/// What all code in a process shares.
pub(super) struct Surroundings {
    parts: [(&'static str, String); 4],
    folder: Option<PathBuf>,
    environment: BTreeSet<(OsString, OsString)>,
}

impl Surroundings {
    pub(super) fn now() -> Self {
        let parts = [
            ("the signal mask", "SigBlk"),
            ("the ignored signals", "SigIgn"),
            ("the handlers of signals", "SigCgt"),
            ("the umask", "Umask"),
        ];
        Self {
            parts: parts.map(|(name, key)| (name, status(key))),
            folder: fs::read_link("/proc/self/cwd").ok(),
            environment: std::env::vars_os().collect(),
        }
    }

    /// Returns what differs from an earlier time.
    pub(super) fn differences(&self, before: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for ((name, now), (_, before)) in self.parts.iter().zip(&before.parts) {
            if now != before {
                differences.push(format!("{name} ({before} before, {now} now)"));
            }
        }
        if self.folder != before.folder {
            differences.push("the current folder".to_owned());
        }
        let changed = self.environment.symmetric_difference(&before.environment);
        let names: BTreeSet<_> = changed.map(|(name, _)| name.display().to_string()).collect();
        differences.extend(names.into_iter().map(|name| format!("the variable {name}")));
        differences
    }
}

/// The processor time of a thread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    ran: Duration,
    /// Waiting for a processor.
    queued: Duration,
    /// How often the thread has waited for something else.
    waits: u64,
}

impl Usage {
    /// Returns that of the calling thread.
    pub(super) fn of_thread() -> Self {
        let read = |name| fs::read_to_string(format!("/proc/thread-self/{name}"));
        let times = read("schedstat").unwrap_or_default();
        let mut times = times.split_whitespace().map(|time| time.parse().unwrap_or(0));
        let mut next = || Duration::from_nanos(times.next().unwrap_or(0));
        let (ran, queued) = (next(), next());
        let status = read("status").unwrap_or_default();
        let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        Self { ran, queued, waits: waits.and_then(|waits| waits.trim().parse().ok()).unwrap_or(0) }
    }

    /// Returns how long the thread has waited for something else than a processor.
    pub(super) fn blocked_since(self, before: Self, time: Duration) -> Duration {
        let wanted = self.ran_since(before) + self.queued.saturating_sub(before.queued);
        if self.waits > before.waits { time.saturating_sub(wanted) } else { Duration::ZERO }
    }

    pub(super) fn ran_since(self, before: Self) -> Duration {
        self.ran.saturating_sub(before.ran)
    }
}
