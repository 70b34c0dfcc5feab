//! Resource usage of a running process, from /proc.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

/// A process, identified by its pid.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// Returns the resident memory; 0 once the process has ended.
    pub fn resident_bytes(self) -> u64 {
        let text = self.read("status");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024
    }

    /// Returns the CPU time used, in ticks of 10 ms.
    pub fn cpu(self) -> Duration {
        let text = self.read("stat");
        // The name may contain spaces. After it: state is field 3, utime and stime are 14 and 15.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 =
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Returns the number of open file descriptors.
    pub fn descriptors(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0)).map_or(0, Iterator::count)
    }

    /// Returns the number of threads.
    pub fn threads(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.0)).map_or(0, Iterator::count)
    }

    /// Returns whether the process is still running.
    pub fn is_running(self) -> bool {
        let text = self.read("stat");
        let state = text.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
        !state.is_empty() && !state.starts_with('Z')
    }

    fn read(self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap_or_default()
    }
}

/// Samples the resident memory of a process until dropped.
#[derive(Debug)]
pub struct MemorySampler {
    peak: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    _sampling: JoinSet<()>,
}

impl MemorySampler {
    /// Starts sampling, on the current runtime.
    pub fn start(process: Process) -> Self {
        let (peak, ended) = (Arc::new(AtomicU64::new(process.resident_bytes())), Arc::default());
        let mut sampling = JoinSet::new();
        let (high, over): (Arc<AtomicU64>, Arc<AtomicBool>) = (peak.clone(), Arc::clone(&ended));
        sampling.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                high.fetch_max(process.resident_bytes(), Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
        });
        Self { peak, ended, _sampling: sampling }
    }

    /// Stops sampling; returns the highest value in bytes.
    pub fn peak(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.peak.load(Ordering::Relaxed)
    }
}
