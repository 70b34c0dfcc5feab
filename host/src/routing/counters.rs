//! Counters of a resource, for operators and for probation. Never reset.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use plugsocket_plugin::ConnectionId;

use super::callback::CallbackKind;
use super::closings::Closings;
use super::histogram::Histogram;

/// Live counters. Each is exact; a set of values is not a snapshot of one moment.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    messages: AtomicU64,
    traffic: [Traffic; SHARDS],
    high_water: AtomicU64,
    refused: AtomicU64,
    panics: AtomicU64,
    slow_calls: AtomicU64,
    dropped: AtomicU64,
    conflated: AtomicU64,
    opened: AtomicU64,
    rate_limited: AtomicU64,
    restarts: AtomicU64,
    quarantines: AtomicU64,
    swaps: AtomicU64,
    last_pause_micros: AtomicU64,
    /// Seconds since the Unix epoch.
    last_swap: AtomicU64,
    last_state_bytes: AtomicU64,
    pub(crate) closings: Closings,
    pub(crate) times: Times,
    pub(crate) logins: Logins,
}

/// Connections of several processors count at the same time, so each counts in one of these.
const SHARDS: usize = 8;

/// What passed through some of the connections. On its own cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Traffic {
    sent: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

/// How long things of a resource took.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// Of each callback; see [`Times::callback`].
    callbacks: [Histogram; CallbackKind::ALL.len()],
    /// How long messages waited for the lane; those of direct calls did not.
    pub(crate) queue: Histogram,
    /// From the deferral of a message to its completion.
    pub(crate) deferred: Histogram,
    /// How long messages waited during a swap.
    pub(crate) pause: Histogram,
    pub(crate) authentication: Histogram,
}

impl Times {
    /// Returns the time that the application spent in a kind of callback.
    pub(crate) fn callback(&self, kind: CallbackKind) -> &Histogram {
        &self.callbacks[kind.index()]
    }

    /// Returns how many callbacks of all kinds there were, and the time in them.
    pub(crate) fn all_callbacks(&self) -> (u64, Duration) {
        let values = self.callbacks.iter().map(Histogram::values);
        values.fold((0, Duration::ZERO), |(count, sum), it| (count + it.count(), sum + it.sum))
    }
}

/// Outcomes of authentication.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    pub(crate) accepted: AtomicU64,
    pub(crate) denied: AtomicU64,
    /// Authentication itself failed, and the client may retry.
    pub(crate) failed: AtomicU64,
}

/// Values read from [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CounterValues {
    /// Messages handed to the application.
    pub(crate) messages: u64,
    /// Messages and packets written to clients.
    pub(crate) sent: u64,
    /// Bytes read from clients.
    pub(crate) read_bytes: u64,
    /// Bytes of messages and packets written to clients.
    pub(crate) written_bytes: u64,
    /// The most messages that were written to one client at once.
    pub(crate) high_water: u64,
    /// Messages that the application refused.
    pub(crate) refused: u64,
    /// Callbacks that panicked.
    pub(crate) panics: u64,
    /// Callbacks that ran longer than `callback_warn`.
    pub(crate) slow_calls: u64,
    /// Messages dropped for slow consumers.
    pub(crate) dropped: u64,
    /// Messages that a newer one with the same key replaced.
    pub(crate) conflated: u64,
    /// Connections that began.
    pub(crate) opened: u64,
    /// How often a client exceeded its rate.
    pub(crate) rate_limited: u64,
    /// New instances after a failure.
    pub(crate) restarts: u64,
    /// How often the resource was closed for a pause after failures.
    pub(crate) quarantines: u64,
    /// Number of swaps.
    pub(crate) swaps: u64,
    /// How long messages waited during the last swap.
    pub(crate) last_pause: Duration,
    pub(crate) last_swap: Option<SystemTime>,
    /// Size of the state that the last swap handed over.
    pub(crate) last_state_bytes: u64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn add_messages(&self, count: u64) {
        add(&self.messages, count);
    }

    pub(crate) fn add_read(&self, id: ConnectionId, bytes: u64) {
        add(&self.traffic_of(id).read_bytes, bytes);
    }

    /// Counts what one write sends to a client.
    pub(crate) fn add_sent(&self, id: ConnectionId, messages: u64, bytes: u64) {
        let traffic = self.traffic_of(id);
        add(&traffic.sent, messages);
        add(&traffic.written_bytes, bytes);
        if messages > self.high_water.load(Ordering::Relaxed) {
            self.high_water.fetch_max(messages, Ordering::Relaxed);
        }
    }

    fn traffic_of(&self, id: ConnectionId) -> &Traffic {
        &self.traffic[id.0 as usize % SHARDS]
    }

    pub(crate) fn add_refused(&self) {
        add(&self.refused, 1);
    }

    pub(crate) fn add_panic(&self) {
        add(&self.panics, 1);
    }

    pub(crate) fn add_slow_call(&self) {
        add(&self.slow_calls, 1);
    }

    pub(crate) fn add_dropped(&self, count: u64) {
        add(&self.dropped, count);
    }

    pub(crate) fn add_conflated(&self) {
        add(&self.conflated, 1);
    }

    pub(crate) fn add_opened(&self) {
        add(&self.opened, 1);
    }

    pub(crate) fn add_rate_limited(&self) {
        add(&self.rate_limited, 1);
    }

    pub(crate) fn add_restart(&self) {
        add(&self.restarts, 1);
    }

    pub(crate) fn add_quarantine(&self) {
        add(&self.quarantines, 1);
    }

    pub(crate) fn add_swap(&self, pause: Duration, state_bytes: usize) {
        let micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        self.last_pause_micros.store(micros, Ordering::Relaxed);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.last_swap.store(now.as_secs(), Ordering::Relaxed);
        self.last_state_bytes.store(state_bytes as u64, Ordering::Relaxed);
        self.times.pause.observe(pause, 1);
        add(&self.swaps, 1);
    }

    pub(crate) fn values(&self) -> CounterValues {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sum =
            |of: fn(&Traffic) -> &AtomicU64| self.traffic.iter().map(|it| value(of(it))).sum();
        let last_swap = Duration::from_secs(value(&self.last_swap));
        CounterValues {
            messages: value(&self.messages),
            sent: sum(|traffic| &traffic.sent),
            read_bytes: sum(|traffic| &traffic.read_bytes),
            written_bytes: sum(|traffic| &traffic.written_bytes),
            high_water: value(&self.high_water),
            refused: value(&self.refused),
            panics: value(&self.panics),
            slow_calls: value(&self.slow_calls),
            dropped: value(&self.dropped),
            conflated: value(&self.conflated),
            opened: value(&self.opened),
            rate_limited: value(&self.rate_limited),
            restarts: value(&self.restarts),
            quarantines: value(&self.quarantines),
            swaps: value(&self.swaps),
            last_pause: Duration::from_micros(value(&self.last_pause_micros)),
            last_swap: (!last_swap.is_zero()).then(|| SystemTime::UNIX_EPOCH + last_swap),
            last_state_bytes: value(&self.last_state_bytes),
        }
    }
}
