//! What an outbox buffers, and its eviction when all connections together buffer too much.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::{Outbox, OutboxState, Phase};
use crate::protocol::close::CloseReason;

/// Less than this is not worth counting exactly: with the memory of its entries, it is below one
/// step of a share.
const SMALL: usize = 4 * 1024;

impl Outbox {
    /// Drops the queue and closes the connection, also in the middle of a write.
    pub(crate) fn evict(&self, reason: CloseReason) {
        let mut state = self.lock();
        state.cut(reason);
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

    /// Returns the bytes that an eviction would drop; other outboxes may refer to some of them.
    pub(crate) fn evictable_bytes(&self) -> usize {
        self.lock().budget.bytes()
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
    }
}
