//! The timers of a resource. They belong to the host, so that they survive a reload.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plugsocket_plugin::HostError;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Timers by key and by time.
#[derive(Debug, Default)]
pub(crate) struct TimerQueue {
    timers: Mutex<Timers>,
    /// A timer expires earlier than all others did before.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Timers {
    by_key: HashMap<Arc<str>, Due>,
    /// With the period of a timer that repeats.
    by_time: BTreeMap<Due, (Arc<str>, Option<Duration>)>,
    /// Distinguishes timers of the same time, in the order in which they were set.
    number: u64,
}

type Due = (Instant, u64);

impl TimerQueue {
    const MAX_TIMERS: usize = 100_000;
    const MAX_KEY: usize = 256;
    /// Longer delays make no difference, and would exceed the clock.
    const MAX_DELAY: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

    /// Sets a timer, in place of one with the same key.
    ///
    /// # Errors
    /// `TooLarge` for the key, `TooMany` for the number of timers.
    pub(crate) fn set(&self, key: &str, delay: Duration, repeats: bool) -> Result<(), HostError> {
        if key.len() > Self::MAX_KEY {
            return Err(HostError::TooLarge);
        }
        let delay = delay.clamp(Duration::from_millis(1), Self::MAX_DELAY);
        let mut timers = self.lock();
        if timers.by_key.len() >= Self::MAX_TIMERS && !timers.by_key.contains_key(key) {
            return Err(HostError::TooMany);
        }
        timers.cancel(key);
        let before = timers.next();
        let at = Instant::now() + delay;
        timers.insert(key.into(), at, repeats.then_some(delay));
        if before.is_none_or(|before| at < before) {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Cancels a timer; returns whether there was one.
    pub(crate) fn cancel(&self, key: &str) -> bool {
        self.lock().cancel(key)
    }

    /// Returns when the next timer expires.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.lock().next()
    }

    /// Takes the key of a timer that has expired. One that repeats is set again; calls that it has
    /// missed are not repeated.
    pub(crate) fn take_expired(&self, now: Instant) -> Option<Arc<str>> {
        let mut timers = self.lock();
        let ((at, _), _) = timers.by_time.first_key_value()?;
        if *at > now {
            return None;
        }
        let ((at, _), (key, period)) = timers.by_time.pop_first()?;
        timers.by_key.remove(&key);
        if let Some(period) = period {
            let next = at + period;
            timers.insert(key.clone(), if next > now { next } else { now + period }, Some(period));
        }
        Some(key)
    }

    /// Removes all timers.
    pub(crate) fn clear(&self) {
        *self.lock() = Timers::default();
    }

    fn lock(&self) -> MutexGuard<'_, Timers> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timers {
    fn next(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    fn insert(&mut self, key: Arc<str>, at: Instant, period: Option<Duration>) {
        self.number += 1;
        let due = (at, self.number);
        self.by_key.insert(key.clone(), due);
        self.by_time.insert(due, (key, period));
    }

    fn cancel(&mut self, key: &str) -> bool {
        let due = self.by_key.remove(key);
        due.is_some_and(|due| self.by_time.remove(&due).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timers_expire_in_the_order_of_their_times() {
        let timers = TimerQueue::default();
        for (key, millis) in [("c", 30), ("a", 10), ("b", 10), ("x", 5)] {
            timers.set(key, Duration::from_millis(millis), false).unwrap();
        }
        assert!(timers.cancel("x") && !timers.cancel("x"));
        // Replaces the earlier one.
        timers.set("c", Duration::from_millis(20), false).unwrap();
        let start = Instant::now();
        assert_eq!(timers.next(), Some(start + Duration::from_millis(10)));
        assert_eq!(timers.take_expired(start), None);
        let later = start + Duration::from_millis(25);
        let expired: Vec<_> = std::iter::from_fn(|| timers.take_expired(later)).collect();
        assert_eq!(expired, ["a", "b", "c"].map(Arc::from));
        assert_eq!(timers.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_timer_does_not_make_up_for_missed_calls() {
        let timers = TimerQueue::default();
        timers.set("every", Duration::from_millis(10), true).unwrap();
        let at = |millis| Instant::now() + Duration::from_millis(millis);
        assert_eq!(timers.take_expired(at(12)).as_deref(), Some("every"));
        assert_eq!(timers.next(), Some(at(20)));
        assert_eq!(timers.take_expired(at(75)).as_deref(), Some("every"));
        assert_eq!(timers.next(), Some(at(85)));
        assert!(timers.take_expired(at(80)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_and_timers_are_bounded() {
        let timers = TimerQueue::default();
        let second = Duration::from_secs(1);
        assert_eq!(timers.set(&"k".repeat(257), second, false), Err(HostError::TooLarge));
        for number in 0..TimerQueue::MAX_TIMERS {
            timers.set(&number.to_string(), Duration::MAX, false).unwrap();
        }
        assert_eq!(timers.set("more", second, false), Err(HostError::TooMany));
        timers.set("7", second, false).unwrap();
        timers.clear();
        assert_eq!(timers.next(), None);
    }
}
