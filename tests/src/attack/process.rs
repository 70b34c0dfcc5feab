//! What the system says of a running process, and the highest that it said over a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

/// A process by its number.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// Resident memory in bytes; 0 once it has ended.
    pub fn resident(self) -> u64 {
        let text = self.read("status");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024
    }

    /// Processor time that it has used, to a hundredth of a second.
    pub fn cpu(self) -> Duration {
        let text = self.read("stat");
        // Behind the name, which may hold blanks: state is field 3, utime and stime are 14 and 15.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 =
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Open files.
    pub fn descriptors(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0)).map_or(0, Iterator::count)
    }

    /// Threads.
    pub fn threads(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.0)).map_or(0, Iterator::count)
    }

    /// Whether it still runs.
    pub fn lives(self) -> bool {
        let text = self.read("stat");
        let state = text.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
        !state.is_empty() && !state.starts_with('Z')
    }

    fn read(self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0)).unwrap_or_default()
    }
}

/// Looks at the memory of a process all the time, on the runtime that made it.
#[derive(Debug)]
pub struct Watch {
    peak: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    _looking: JoinSet<()>,
}

impl Watch {
    /// Begins.
    pub fn on(process: Process) -> Self {
        let (peak, ended) = (Arc::new(AtomicU64::new(process.resident())), Arc::default());
        let mut looking = JoinSet::new();
        let (high, over): (Arc<AtomicU64>, Arc<AtomicBool>) = (peak.clone(), Arc::clone(&ended));
        looking.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                high.fetch_max(process.resident(), Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
        });
        Self { peak, ended, _looking: looking }
    }

    /// Ends; the most resident memory that was seen, in bytes.
    pub fn peak(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.peak.load(Ordering::Relaxed)
    }
}
