//! Counters of a resource's application, for operators and for probation. Never reset.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Live counters. Each is exact; a set of values is not a snapshot of one moment.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    messages: AtomicU64,
    refused: AtomicU64,
    panics: AtomicU64,
    slow_calls: AtomicU64,
    dropped: AtomicU64,
    swaps: AtomicU64,
    last_pause_micros: AtomicU64,
    last_state_bytes: AtomicU64,
}

/// Values read from [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CounterValues {
    /// Messages handed to the application.
    pub(crate) messages: u64,
    /// Messages that the application refused.
    pub(crate) refused: u64,
    /// Callbacks that panicked.
    pub(crate) panics: u64,
    /// Callbacks that ran longer than `callback_warn`.
    pub(crate) slow_calls: u64,
    /// Messages dropped for slow consumers.
    pub(crate) dropped: u64,
    /// Number of swaps.
    pub(crate) swaps: u64,
    /// How long messages waited during the last swap.
    pub(crate) last_pause: Duration,
    /// Size of the state that the last swap handed over.
    pub(crate) last_state_bytes: u64,
}

impl Counters {
    pub(crate) fn add_messages(&self, count: u64) {
        self.messages.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_slow_call(&self) {
        self.slow_calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_swap(&self, pause: Duration, state_bytes: usize) {
        let micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        self.last_pause_micros.store(micros, Ordering::Relaxed);
        self.last_state_bytes.store(state_bytes as u64, Ordering::Relaxed);
        self.swaps.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn values(&self) -> CounterValues {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterValues {
            messages: value(&self.messages),
            refused: value(&self.refused),
            panics: value(&self.panics),
            slow_calls: value(&self.slow_calls),
            dropped: value(&self.dropped),
            swaps: value(&self.swaps),
            last_pause: Duration::from_micros(value(&self.last_pause_micros)),
            last_state_bytes: value(&self.last_state_bytes),
        }
    }
}
