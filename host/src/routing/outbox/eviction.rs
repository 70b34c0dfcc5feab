//! What an outbox buffers, and its eviction when all connections together buffer too much.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::{Outbox, OutboxState, Phase};
use crate::protocol::close::CloseReason;
use crate::routing::input::Load;

/// Less than this is not worth counting exactly: with the memory of its entries, it is below one
/// step of a share.
const SMALL: usize = 4 * 1024;

/// What an outbox and the lane buffer for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holding {
    /// Bytes of the queue and of unhandled input; other outboxes may refer to some of them.
    Evictable(usize),
    /// Bytes that the evicted connection has not given back yet.
    Evicted(usize),
}

impl Outbox {
    /// Drops the queue and deferred input, and closes the connection, also in the middle of a write.
    pub(crate) fn evict(&self) {
        let mut state = self.lock();
        if let Some(deferred) = state.deferred.take() {
            self.is_deferring.store(false, Ordering::Relaxed);
            state.with_lane = state.with_lane.without(Load::of(&deferred.inputs));
        }
        state.cut(CloseReason::buffers_full());
        state.is_evicted = true;
        // A task that writes is attending, but does not check the outbox.
        self.is_attended.store(true, Ordering::Relaxed);
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
    }

    /// Completes when the connection is evicted. For the connection's task while it writes.
    pub(crate) fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.is_evicted {
            return Poll::Ready(());
        }
        state.set_waker(cx);
        Poll::Pending
    }

    pub(crate) fn is_evicted(&self) -> bool {
        self.lock().is_evicted
    }

    /// Returns what is buffered for this connection.
    pub(crate) fn holding(&self) -> Holding {
        let state = self.lock();
        match state.is_evicted {
            true => Holding::Evicted(state.share.bytes()),
            false => Holding::Evictable(state.budget.bytes() + state.with_lane.bytes),
        }
    }
}

impl OutboxState {
    /// Updates the share after an addition.
    #[inline]
    pub(super) fn count_added(&self) {
        if self.budget.counts() + self.with_lane.bytes > SMALL {
            self.count_share();
        }
    }

    /// Records that what was taken is written, and what the lane has handled meanwhile.
    #[inline]
    pub(super) fn written(&mut self) {
        if self.budget.is_writing() {
            self.budget.written();
        }
        self.count_removed();
    }

    /// Updates the share after a removal.
    #[inline]
    pub(super) fn count_removed(&self) {
        if self.share.is_counted() {
            self.count_share();
        }
    }

    #[cold]
    fn count_share(&self) {
        self.share.set(self.budget.own_bytes(self.queue.len()) + self.with_lane.bytes);
    }

    /// Drops the queue and closes the connection; if it is closing already, for the earlier reason.
    pub(super) fn cut(&mut self, reason: CloseReason) {
        self.drop_queue();
        match &mut self.phase {
            Phase::Closing { accepts, .. } => *accepts = false,
            Phase::Finished(_) => {}
            phase => *phase = Phase::closing(reason),
        }
    }

    pub(super) fn drop_queue(&mut self) {
        self.queue.clear();
        self.budget.clear();
        self.keys = None;
        self.count_removed();
    }
    pub(super) fn set_waker(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}
