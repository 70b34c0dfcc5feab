//! Metrics of the process, under the names that all exporters use.

use std::fmt;
use std::fs;

use prometheus_client::encoding::DescriptorEncoder;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::families as family;

/// Writes what the system tells about this process; what it does not tell is absent.
pub(super) fn write(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    if let Some(Usage { cpu, memory, start }) = usage() {
        family::CPU.write(encoder, |series| series.number(&[], cpu))?;
        family::MEMORY.write(encoder, |series| series.number(&[], memory))?;
        family::START.write(encoder, |series| series.number(&[], start))?;
    }
    if let Some(open) = open_descriptors() {
        family::FDS.write(encoder, |series| series.number(&[], open))?;
    }
    match getrlimit(Resource::Nofile).current {
        Some(limit) => family::MAX_FDS.write(encoder, |series| series.number(&[], limit)),
        None => Ok(()),
    }
}

struct Usage {
    /// Seconds of processor time.
    cpu: f64,
    /// Bytes that are resident.
    memory: u64,
    /// Seconds since 1970.
    start: f64,
}

/// Reads proc_pid_stat(5).
fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program may contain spaces; the third field is the first behind it.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = clock_ticks_per_second() as f64;
    let (user, system, started) = (field(14)?, field(15)?, field(22)?);
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok())?;
    Some(Usage {
        cpu: (user + system) as f64 / ticks,
        memory: field(24)? * page_size() as u64,
        start: boot + started as f64 / ticks,
    })
}

/// Returns the number of open descriptors. Linux 6.2 tells it as the size of the folder; to list a
/// folder of many thousands takes milliseconds.
fn open_descriptors() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).ok()?.len() {
        // The one that lists the folder does not count.
        0 => fs::read_dir(FOLDER).ok().map(|entries| entries.count().saturating_sub(1) as u64),
        count => Some(count),
    }
}
