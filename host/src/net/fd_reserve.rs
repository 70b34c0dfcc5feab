//! Reserves the last file descriptors of the process for the host itself.
//!
//! Without a reserve, a host full of connections could not open a library, answer
//! `plugsocket status` or read `plugins.toml`. Descriptors are not counted: the system assigns the
//! lowest free number, so the number of a new descriptor shows how many are in use.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use rustix::process::{Resource, getrlimit};

/// File descriptor limit of the process (soft `RLIMIT_NOFILE`) and the reserve below it.
#[derive(Debug)]
pub(crate) struct FdReserve {
    pub(crate) limit: RawFd,
}

impl FdReserve {
    pub(crate) fn new() -> Self {
        Self { limit: fd_limit() }
    }

    /// Returns whether a descriptor of this number belongs to the reserve. Reads the limit again
    /// first, which `prlimit` may have raised.
    pub(crate) fn is_reserved(&mut self, number: RawFd) -> bool {
        if number < first_reserved(self.limit) {
            return false;
        }
        self.limit = fd_limit();
        number >= first_reserved(self.limit)
    }

    /// Returns whether the next descriptor would be outside the reserve.
    pub(crate) fn is_room(&mut self) -> bool {
        File::open("/dev/null").is_ok_and(|probe| !self.is_reserved(probe.as_raw_fd()))
    }
}

/// A reload needs about ten descriptors, a command on the control socket two.
fn first_reserved(limit: RawFd) -> RawFd {
    limit - (limit / 8).min(32)
}

fn fd_limit() -> RawFd {
    let soft = getrlimit(Resource::Nofile).current;
    soft.and_then(|soft| RawFd::try_from(soft).ok()).unwrap_or(RawFd::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_of_the_descriptors_and_at_most_32_are_reserved() {
        for (limit, expected) in [(64, 56), (256, 224), (1024, 992), (1 << 20, (1 << 20) - 32)] {
            assert_eq!(first_reserved(limit), expected, "{limit}");
        }
    }

    #[test]
    fn the_limit_is_the_soft_one() {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let soft = line.split_whitespace().next().unwrap().parse();
        assert_eq!(fd_limit(), soft.unwrap_or(RawFd::MAX));
    }
}
