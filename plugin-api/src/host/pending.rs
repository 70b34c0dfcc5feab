//! Values on their way to [`Plugin::event`](crate::Plugin::event).
//!
//! A value belongs to the instance that posted it. What arrives after that instance was replaced is
//! collected here, and delivered while it retires.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

type Value = Box<dyn Any + Send>;

/// The values of one instance.
#[derive(Default)]
pub(crate) struct Pending {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Values that are being made or that wait in the inbox.
    outstanding: usize,
    /// Whether late values are delivered, in a library that a host has loaded.
    collects: bool,
    late: VecDeque<Value>,
}

impl Pending {
    /// Returns the values of an instance that is going to retire by [`next_late`](Self::next_late).
    pub(crate) fn collecting() -> Arc<Self> {
        let pending = Self::default();
        pending.lock().collects = true;
        Arc::new(pending)
    }

    /// Counts a value until the guard is dropped.
    pub(crate) fn count(self: &Arc<Self>) -> Outstanding {
        self.lock().outstanding += 1;
        Outstanding(self.clone())
    }

    /// Keeps a value that the host does not deliver any more.
    pub(crate) fn collect(&self, value: Value) {
        let mut state = self.lock();
        if state.collects {
            state.late.push_back(value);
            self.changed.notify_all();
        } else {
            // Its drop may call the host.
            drop(state);
            drop(value);
        }
    }

    /// Returns the next late value; `None` once there are no more, or at the deadline.
    pub(crate) fn next_late(&self, deadline: Instant) -> Option<Value> {
        let mut state = self.lock();
        loop {
            if let Some(value) = state.late.pop_front() {
                return Some(value);
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if state.outstanding == 0 || rest.is_zero() {
                return None;
            }
            let waited = self.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Drops late values from now on.
    pub(crate) fn end(&self) {
        let late = {
            let mut state = self.lock();
            state.collects = false;
            std::mem::take(&mut state.late)
        };
        drop(late);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one value.
pub(crate) struct Outstanding(Arc<Pending>);

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.lock().outstanding -= 1;
        self.0.changed.notify_all();
    }
}

/// A value in the hands of the host, which delivers or drops it.
pub(crate) struct Envelope {
    /// `None` once it is delivered.
    value: Option<Value>,
    outstanding: Outstanding,
}

impl Envelope {
    pub(crate) fn new(value: Value, pending: &Arc<Pending>) -> Self {
        Self { value: Some(value), outstanding: pending.count() }
    }

    pub(crate) fn open(mut self) -> Option<Value> {
        self.value.take()
    }
}

impl Drop for Envelope {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            self.outstanding.0.collect(value);
        }
    }
}
