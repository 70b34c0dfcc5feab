//! Traces: what passes single connections, for an operator who asks for it.
//!
//! Owns the bounded queue between a connection and a reader. A connection that is not traced only
//! reads one flag of its [`Peer`]. Payloads are kept only where the operator wants them, and only
//! their beginning.

use std::collections::VecDeque;
use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::peer::Peer;
use crate::protocol::chunk::Form;

/// The most items that wait for a reader; more are counted and lost.
const MAX_ITEMS: usize = 1_000;
/// How much of a payload is kept, in bytes.
pub(crate) const MAX_SHOWN: usize = 200;

/// Whether an item came from the client or was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// Whether payloads are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payloads {
    Redacted,
    Shown,
}

/// Something that passed the connection.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) at: SystemTime,
    pub(crate) direction: Direction,
    /// `text`, `binary`, `chunk`, `ready`, `next`, `ping`, `pong` or `close`.
    pub(crate) kind: &'static str,
    /// Size of the payload.
    pub(crate) bytes: usize,
    pub(crate) form: Form,
    /// The beginning of the payload, where it is shown.
    pub(crate) shown: Option<Box<[u8]>>,
    /// Of a `close`: code and reason.
    pub(crate) close: Option<(u16, String)>,
}

impl Passed {
    pub(super) fn new(direction: Direction, kind: &'static str, bytes: usize) -> Self {
        let (at, form) = (SystemTime::now(), Form::Text);
        Self { at, direction, kind, bytes, form, shown: None, close: None }
    }
}

/// What was recorded since the last read.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) items: VecDeque<Passed>,
    /// Items that did not fit before them.
    pub(crate) lost: u64,
    /// Whether the connection has ended.
    pub(crate) has_ended: bool,
}

/// One reader of one connection.
#[derive(Debug)]
pub(crate) struct Trace {
    connection: u64,
    payloads: Payloads,
    recorded: Mutex<Recorded>,
    changed: Notify,
}

impl Trace {
    /// Completes when there may be something to read.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes what was recorded.
    pub(crate) fn take(&self) -> Recorded {
        let mut recorded = self.lock();
        let has_ended = recorded.has_ended;
        replace(&mut *recorded, Recorded { has_ended, ..Recorded::default() })
    }

    fn push(&self, item: &Passed, payload: Option<&[u8]>) {
        let mut recorded = self.lock();
        if recorded.items.len() < MAX_ITEMS {
            let shown = payload.filter(|_| self.payloads == Payloads::Shown);
            let shown = shown.map(|payload| payload[..payload.len().min(MAX_SHOWN)].into());
            recorded.items.push_back(Passed { shown, ..item.clone() });
        } else {
            recorded.lost += 1;
        }
        drop(recorded);
        self.changed.notify_one();
    }

    fn end(&self) {
        self.lock().has_ended = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The traces of a resource's connections.
#[derive(Debug, Default)]
pub(crate) struct Traces(Mutex<Vec<Arc<Trace>>>);

impl Traces {
    /// Starts a trace.
    pub(super) fn begin(&self, peer: &Peer, payloads: Payloads) -> Arc<Trace> {
        let (recorded, changed) = (Mutex::default(), Notify::new());
        let trace = Arc::new(Trace { connection: peer.id().0, payloads, recorded, changed });
        let mut all = self.lock();
        all.push(trace.clone());
        peer.set_traced(true);
        trace
    }

    /// Ends a trace.
    pub(super) fn remove(&self, peer: &Peer, trace: &Arc<Trace>) {
        let mut all = self.lock();
        all.retain(|other| !Arc::ptr_eq(other, trace));
        peer.set_traced(all.iter().any(|other| other.connection == peer.id().0));
    }

    /// Ends the traces of a connection that has ended.
    pub(super) fn end(&self, peer: &Peer) {
        let ended = |trace: &&Arc<Trace>| trace.connection == peer.id().0;
        self.lock().iter().filter(ended).for_each(|trace| trace.end());
    }

    pub(super) fn record(&self, peer: &Peer, item: &Passed, payload: Option<&[u8]>) {
        let traced = |trace: &&Arc<Trace>| trace.connection == peer.id().0;
        self.lock().iter().filter(traced).for_each(|trace| trace.push(item, payload));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Trace>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trace that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct TraceGuard {
    pub(crate) peer: Arc<Peer>,
    pub(crate) trace: Arc<Trace>,
}

impl TraceGuard {
    pub(crate) fn begin(peer: Arc<Peer>, payloads: Payloads) -> Self {
        let trace = peer.resource.traces.begin(&peer, payloads);
        Self { peer, trace }
    }
}

impl Drop for TraceGuard {
    fn drop(&mut self) {
        self.peer.resource.traces.remove(&self.peer, &self.trace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_is_not_read_is_bounded_and_counts_what_it_loses() {
        let trace = |payloads| Trace {
            connection: 1,
            payloads,
            recorded: Mutex::default(),
            changed: Notify::new(),
        };
        let (shown, redacted) = (trace(Payloads::Shown), trace(Payloads::Redacted));
        let item = Passed::new(Direction::In, "text", 500);
        for trace in [&shown, &redacted] {
            (0..MAX_ITEMS + 5).for_each(|_| trace.push(&item, Some(&[b'x'; 500])));
        }
        let Recorded { items, lost, has_ended } = shown.take();
        assert_eq!((items.len(), lost, has_ended), (MAX_ITEMS, 5, false));
        assert_eq!(items[0].shown.as_deref(), Some(&[b'x'; MAX_SHOWN][..]));
        assert!(redacted.take().items.iter().all(|item| item.shown.is_none()));
        // The end stays, and no payload is recorded of what has none.
        shown.push(&item, None);
        shown.end();
        let last = shown.take();
        assert!(last.has_ended && last.items[0].shown.is_none() && shown.take().has_ended);
    }
}
