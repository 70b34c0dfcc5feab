//! What is counted of a resource's application, for operators and for whoever judges a new generation. Never reset.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Written by the lane, the watchdog and whoever sends, read by anybody; each figure is exact, the set of them is not one moment's.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    messages: AtomicU64,
    refused: AtomicU64,
    panics: AtomicU64,
    slow_calls: AtomicU64,
    dropped: AtomicU64,
    swaps: AtomicU64,
    last_pause_micros: AtomicU64,
}

/// The figures of one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CounterValues {
    /// Messages that the application was handed.
    pub(crate) messages: u64,
    /// Those of them that it refused.
    pub(crate) refused: u64,
    /// Callbacks of any kind that panicked.
    pub(crate) panics: u64,
    /// Callbacks of any kind that ran for longer than `callback_warn`.
    pub(crate) slow_calls: u64,
    /// Messages to peers that were dropped because they read slowly.
    pub(crate) dropped: u64,
    /// How often one instance took over from another.
    pub(crate) swaps: u64,
    /// How long messages waited the last time.
    pub(crate) last_pause: Duration,
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

    pub(crate) fn add_swap(&self, pause: Duration) {
        let micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        self.last_pause_micros.store(micros, Ordering::Relaxed);
        self.swaps.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn values(&self) -> CounterValues {
        let figure = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterValues {
            messages: figure(&self.messages),
            refused: figure(&self.refused),
            panics: figure(&self.panics),
            slow_calls: figure(&self.slow_calls),
            dropped: figure(&self.dropped),
            swaps: figure(&self.swaps),
            last_pause: Duration::from_micros(figure(&self.last_pause_micros)),
        }
    }
}
