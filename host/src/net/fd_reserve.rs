//! How many descriptors are left, and the few that connections do not get.
//!
//! Without a reserve a host that is full of connections could open no library, answer no `plugsocket status` and read no
//! `plugins.toml`. Nothing is counted: the system gives out the lowest number that is free, so the number of a descriptor says
//! how many are in use.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};

/// The limit of the process (`RLIMIT_NOFILE`).
#[derive(Debug)]
pub(crate) struct FdReserve {
    limit: RawFd,
}

impl FdReserve {
    pub(crate) fn new() -> Self {
        Self { limit: limit().unwrap_or(RawFd::MAX) }
    }

    pub(crate) fn limit(&self) -> RawFd {
        self.limit
    }

    /// Whether a descriptor with this number is one of the reserve. The limit may have been raised meanwhile (`prlimit`).
    pub(crate) fn is_reserved(&mut self, number: RawFd) -> bool {
        if number < first_reserved(self.limit) {
            return false;
        }
        self.limit = limit().unwrap_or(self.limit);
        number >= first_reserved(self.limit)
    }

    /// Whether the next descriptor would be none of the reserve.
    pub(crate) fn is_room(&mut self) -> bool {
        File::open("/dev/null").is_ok_and(|probe| !self.is_reserved(probe.as_raw_fd()))
    }
}

/// A reload needs about ten at a time, each command on the control socket two.
fn first_reserved(limit: RawFd) -> RawFd {
    limit - (limit / 8).min(32)
}

/// None where it cannot be read, or there is none.
fn limit() -> Option<RawFd> {
    soft_limit(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn soft_limit(limits: &str) -> Option<RawFd> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_few_and_a_little_of_many() {
        for (limit, expected) in [(64, 56), (256, 224), (1024, 992), (1 << 20, (1 << 20) - 32)] {
            assert_eq!(first_reserved(limit), expected, "{limit}");
        }
    }

    #[test]
    fn the_limit_is_the_soft_one() {
        let line = "Max open files            1024                 1048576              files     ";
        let limits =
            format!("Limit  Soft Limit  Hard Limit  Units\n{line}\nMax locked memory  1 2 bytes");
        assert_eq!(soft_limit(&limits), Some(1024));
        assert_eq!(soft_limit(&limits.replace("1024 ", "unlimited")), None);
        assert!(limit().is_some());
    }
}
