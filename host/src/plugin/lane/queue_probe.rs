//! How long items wait in the inbox of a lane, found without a time stamp in each item.
//!
//! One item at a time is followed: the probe knows when it was queued and how many are ahead of it.
//! So a queue is measured once per passage, and each wait is exact up to one batch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Follows one item through the inbox.
#[derive(Debug)]
pub(super) struct QueueProbe {
    began: Instant,
    /// 0: follows none. Otherwise the microseconds at which the item was queued, and in the low
    /// `LEFT_BITS` bits how many items the lane takes up to it.
    followed: AtomicU64,
}

const LEFT_BITS: u32 = 20;
const MAX_LEFT: u64 = (1 << LEFT_BITS) - 1;

impl QueueProbe {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), followed: AtomicU64::new(0) }
    }

    /// Follows an item that is about to be queued behind others, unless it follows one already.
    pub(super) fn queue(&self, ahead: usize) {
        if self.followed.load(Ordering::Relaxed) != 0 {
            return;
        }
        let left = (ahead as u64 + 1).min(MAX_LEFT);
        let item = (self.micros(Instant::now()) << LEFT_BITS) | left;
        // Fails if another sender was first.
        self.followed.compare_exchange(0, item, Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    /// Records that the lane has taken items; returns how long the followed one has waited, if it is
    /// among them.
    pub(super) fn take(&self, count: usize, now: Instant) -> Option<Duration> {
        let item = self.followed.load(Ordering::Relaxed);
        if item == 0 {
            return None;
        }
        let left = (item & MAX_LEFT).saturating_sub(count as u64);
        if left > 0 {
            self.followed.store(item & !MAX_LEFT | left, Ordering::Relaxed);
            return None;
        }
        self.clear();
        let waited = self.micros(now).saturating_sub(item >> LEFT_BITS);
        Some(Duration::from_micros(waited))
    }

    /// Stops following: the queue is empty.
    pub(super) fn clear(&self) {
        self.followed.store(0, Ordering::Relaxed);
    }

    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_followed_item_is_found_behind_those_ahead_of_it() {
        let probe = QueueProbe::new();
        let later = |millis| Instant::now() + Duration::from_millis(millis);
        assert_eq!(probe.take(1, later(0)), None);
        probe.queue(2);
        probe.queue(9);
        assert_eq!(probe.take(2, later(5)), None);
        let waited = probe.take(1, later(10)).unwrap();
        assert!(
            waited >= Duration::from_millis(10) && waited < Duration::from_secs(5),
            "{waited:?}"
        );
        assert_eq!(probe.take(1, later(20)), None);
        probe.queue(0);
        probe.clear();
        assert_eq!(probe.take(1, later(20)), None);
    }
}
