//! Messages whose acknowledgement an application has deferred.
//!
//! A ticket belongs to the resource, not to an instance: it can be completed after a reload.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plugsocket_plugin::{ConnectionId, HostError};
use uuid::Uuid;

use super::outbox::{CallPosition, Gone};
use super::peer::Peer;

/// The open tickets of a resource.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    open: Mutex<BTreeMap<u64, Ticket>>,
}

#[derive(Debug)]
struct Ticket {
    of: ConnectionId,
    since: Instant,
}

/// The messages that an application is handling on this thread.
#[derive(Clone, Copy, Default)]
struct Call {
    /// How many they are; 0 outside of a call.
    messages: usize,
    /// Their bytes.
    bytes: usize,
    has_deferred: bool,
}

thread_local! {
    static CALL: Cell<Call> = const { Cell::new(Call { messages: 0, bytes: 0, has_deferred: false }) };
}

/// Calls an application with messages; returns whether it has deferred one.
pub(crate) fn while_handling<T>(
    messages: usize,
    bytes: usize,
    call: impl FnOnce() -> T,
) -> (T, bool) {
    CALL.set(Call { messages, bytes, has_deferred: false });
    let result = call();
    // Calls are not nested: an application cannot be called by what it calls.
    (result, CALL.take().has_deferred)
}

impl Tickets {
    /// Defers a message that the calling thread is handling; returns the number of its ticket.
    ///
    /// # Errors
    /// `Invalid` without such a message, or if it is deferred already; `Gone` if the connection has
    /// ended.
    pub(crate) fn defer(&self, peer: &Peer, index: usize) -> Result<u64, HostError> {
        // Not those of an earlier process, which a snapshot on disk may contain.
        static NEXT: LazyLock<AtomicU64> =
            LazyLock::new(|| AtomicU64::new(Uuid::new_v4().as_u64_pair().0 >> 1));
        let call = CALL.get();
        if index >= call.messages {
            return Err(HostError::Invalid);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // First, so that another thread can complete it at once.
        self.lock().insert(number, Ticket { of: peer.id(), since: Instant::now() });
        let at = CallPosition { of: call.messages, index, is_first: !call.has_deferred };
        let bytes = call.bytes / call.messages;
        let refusal = match peer.outbox.defer_acknowledgement(at, number, bytes) {
            Ok(true) => {
                CALL.set(Call { has_deferred: true, ..call });
                return Ok(number);
            }
            Ok(false) => HostError::Invalid,
            Err(Gone) => HostError::Gone,
        };
        self.take(number);
        Err(refusal)
    }

    /// Closes a ticket; returns whose message it is, and for how long it was deferred.
    pub(crate) fn take(&self, number: u64) -> Option<(ConnectionId, Duration)> {
        self.lock().remove(&number).map(|ticket| (ticket.of, ticket.since.elapsed()))
    }

    /// Returns the number of open tickets.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Closes the tickets that are older than `limit`.
    pub(crate) fn take_expired(&self, limit: Duration) -> Vec<(u64, ConnectionId)> {
        let now = Instant::now();
        // In the order of their age.
        let mut open = self.lock();
        let mut expired = Vec::new();
        while let Some(oldest) = open.first_entry()
            && now.saturating_duration_since(oldest.get().since) > limit
        {
            let (number, ticket) = oldest.remove_entry();
            expired.push((number, ticket.of));
        }
        expired
    }

    /// Does not count `time`, in which the process was suspended.
    pub(crate) fn exclude(&self, time: Duration) {
        self.lock().values_mut().for_each(|ticket| ticket.since += time);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Ticket>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
