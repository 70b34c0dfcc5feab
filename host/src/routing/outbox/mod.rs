//! The outbox of a connection: the bounded queue of what to send, and whether and why to close.
//!
//! Many producers, one consumer. Producers never wait; the connection's task takes the whole queue
//! at once, so that a burst costs one wake-up and one write. Bounded in messages and bytes
//! (`budget`): a slow consumer is closed (1013) or loses messages (`overflow`).
//!
//! A client that reads, but sends without waiting for large answers, is not a slow consumer. When
//! its outbox is *crowded*, the lane [defers](Outbox::defer) the rest of its input until the
//! connection has written (backpressure).
//!
//! An idle outbox allocates nothing. Does not know sockets.

mod acknowledgement;
mod budget;
mod eviction;
mod overflow;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::{replace, take};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use plugsocket_plugin::{CloseCode, ClosedBy};

use self::acknowledgement::Waiting;
pub(crate) use self::acknowledgement::{Answer, CallPosition};
use self::budget::Budget;
pub(crate) use self::budget::OutboxBounds;
pub(crate) use self::eviction::Holding;
use self::overflow::ConflationKeys;
pub(crate) use self::overflow::Entered;
use super::input::{Input, Load};
use super::sync::{AtomicBool, Mutex, MutexGuard};
use crate::protocol::buffered::Share;
use crate::protocol::close::CloseReason;
use crate::protocol::payload::Outgoing;

/// The connection has ended or accepts nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// What the connection's task takes at once.
#[derive(Debug)]
pub(crate) struct Taken {
    /// To write, in this order; may be empty.
    pub(crate) queue: VecDeque<Outgoing>,
    /// Close after writing, for this reason.
    pub(crate) close: Option<CloseReason>,
    /// After writing, the lane has to resume deferred input.
    pub(crate) resumes: bool,
}

/// Which of writing and reading goes first; the connection alternates, so that neither starves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    Write,
    Read,
}

/// Result of [`Outbox::next_step`].
#[derive(Debug)]
pub(crate) enum NextStep {
    Write(Taken),
    /// Nothing was taken. `is_due`: something can be taken after reading has been tried.
    Wait {
        may_read: bool,
        is_due: bool,
    },
}

/// The outbox of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<OutboxState>,
    /// Whether the connection's task runs or was woken and will check the outbox before it waits,
    /// so no wake-up is needed. Cleared only under the lock, so no push is missed.
    is_attended: AtomicBool,
    /// Whether the application has refused or closed this connection.
    is_cut_off: AtomicBool,
    /// Whether input is deferred. Written under the lock, by the lane.
    is_deferring: AtomicBool,
}

#[derive(Debug, Default)]
struct OutboxState {
    queue: VecDeque<Outgoing>,
    budget: Budget,
    phase: Phase,
    waker: Option<Waker>,
    /// The `next` packet, if its `fyi` is not empty.
    next: Option<Arc<str>>,
    /// Input that the lane has not handled yet.
    with_lane: Load,
    /// Whether the connection does not read because of `with_lane`.
    is_held: bool,
    /// Whether the host closes the connection because of what it buffers.
    is_evicted: bool,
    /// What the outbox and the lane buffer for this connection.
    share: Share,
    /// Present while messages with a key wait.
    keys: Option<Box<ConflationKeys>>,
    /// Present while input is deferred.
    deferred: Option<Box<Deferred>>,
    /// Present while an acknowledgement is deferred.
    waiting: Option<Box<Waiting>>,
}

/// Input that the lane handles later.
#[derive(Debug, Default)]
struct Deferred {
    inputs: Vec<Input>,
    /// Whether the connection has taken note and will make the lane resume.
    is_taken: bool,
}

/// `Opening → Open → Closing → Finished`; from `Opening` also directly to the last two.
#[derive(Debug, Default)]
enum Phase {
    /// The application has not accepted yet; its messages wait, so that `ready` is first.
    #[default]
    Opening,
    Open,
    /// Closes once the lane has finished with the connection. `reason` is `None` after the
    /// connection has taken it, and where the client has finished sending.
    Closing {
        reason: Option<CloseReason>,
        accepts: bool,
        /// Whether the application has not accepted yet, as in `Opening`.
        is_opening: bool,
    },
    /// Accepts nothing more. Earlier messages and the reason may still wait for the connection.
    Finished(Option<CloseReason>),
}

impl Phase {
    fn closing(reason: CloseReason) -> Self {
        Self::Closing { reason: Some(reason), accepts: false, is_opening: false }
    }

    fn is_opening(&self) -> bool {
        matches!(self, Self::Opening | Self::Closing { is_opening: true, .. })
    }

    fn is_ending(&self) -> bool {
        matches!(self, Self::Closing { .. } | Self::Finished(_))
    }
}

impl Outbox {
    /// Appends an item. A full outbox means a slow consumer: by default the queue is dropped and
    /// the connection closed with 1013; `bounds` may have another policy.
    pub(crate) fn push(&self, item: Outgoing, bounds: OutboxBounds) -> Result<(), Gone> {
        self.push_keyed(item, None, bounds).map(drop)
    }

    /// Appends a message that may have a key (`"conflate"`).
    pub(crate) fn push_keyed(
        &self,
        item: Outgoing,
        key: Option<&Arc<str>>,
        bounds: OutboxBounds,
    ) -> Result<Entered, Gone> {
        self.append(&mut self.lock(), item, key, bounds)
    }

    fn append(
        &self,
        state: &mut OutboxState,
        item: Outgoing,
        key: Option<&Arc<str>>,
        bounds: OutboxBounds,
    ) -> Result<Entered, Gone> {
        match state.phase {
            Phase::Opening | Phase::Open | Phase::Closing { accepts: true, .. } => {}
            Phase::Closing { accepts: false, .. } | Phase::Finished(_) => return Err(Gone),
        }
        let Some(entered) = state.enter(item, key, bounds) else {
            state.cut(CloseReason::host(
                CloseCode::TRY_AGAIN,
                "too slow: more waits than outbox_messages or outbox_bytes allow",
            ));
            self.wake(state);
            return Err(Gone);
        };
        state.count_added();
        if !state.phase.is_opening() {
            self.wake(state);
        }
        Ok(entered)
    }

    /// Opens the outbox after the application has accepted: sends `first`, then what has waited.
    pub(crate) fn accept(&self, first: Option<Outgoing>) {
        let mut state = self.lock();
        if let Some(first) = first {
            state.queue.push_front(first);
            state.shift_keys();
        }
        match &mut state.phase {
            Phase::Closing { is_opening, .. } => *is_opening = false,
            Phase::Opening => state.phase = Phase::Open,
            Phase::Open | Phase::Finished(_) => {}
        }
        self.wake(&state);
    }

    /// Closes the connection that the application has refused, and drops what has waited.
    pub(crate) fn refuse(&self, reason: CloseReason) {
        self.is_cut_off.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        state.drop_queue();
        state.phase = Phase::closing(reason);
        self.wake(&state);
    }

    /// Requests that the connection closes after what is already queued. The first reason counts.
    ///
    /// If the reason [waits for answers](CloseReason::waits_for_answers), they are accepted until the
    /// lane calls [`finish`](Self::finish).
    pub(crate) fn close(&self, reason: CloseReason) -> Result<(), Gone> {
        self.close_now(&mut self.lock(), reason)
    }

    fn close_now(&self, state: &mut OutboxState, reason: CloseReason) -> Result<(), Gone> {
        if state.phase.is_ending() {
            return Err(Gone);
        }
        if reason.by == ClosedBy::Plugin {
            self.is_cut_off.store(true, Ordering::Relaxed);
        }
        let accepts = reason.waits_for_answers();
        let is_opening = state.phase.is_opening();
        state.phase = Phase::Closing { reason: Some(reason), accepts, is_opening };
        self.wake(state);
        Ok(())
    }

    /// Records that the client has finished sending but still reads. Returns whether answers are
    /// outstanding; if not, or if the connection closes already, nothing more is accepted.
    pub(crate) fn begin_draining(&self) -> bool {
        let mut state = self.lock();
        if state.phase.is_ending() {
            return false;
        }
        let is_opening = state.phase.is_opening();
        if !is_opening && state.with_lane == Load::default() && state.queue.is_empty() {
            state.finish();
            return false;
        }
        state.phase = Phase::Closing { reason: None, accepts: true, is_opening };
        true
    }

    /// Records that the calling task, the connection's, will check the outbox before it waits.
    pub(crate) fn attend(&self) {
        self.is_attended.store(true, Ordering::Relaxed);
    }

    /// Counts input that was handed to the lane.
    pub(crate) fn reserve(&self, load: Load) {
        let mut state = self.lock();
        state.with_lane.messages += load.messages;
        state.with_lane.bytes += load.bytes;
        state.count_added();
    }

    /// Deducts input that the lane has handled.
    pub(crate) fn release(&self, load: Load) {
        if load == Load::default() {
            return;
        }
        let mut state = self.lock();
        state.with_lane = state.with_lane.without(load);
        state.count_removed();
        if state.is_held {
            self.wake(&state);
        }
    }

    /// Returns whether input is deferred, without taking the lock. For the lane.
    pub(crate) fn is_deferring(&self) -> bool {
        self.is_deferring.load(Ordering::Relaxed)
    }

    /// Returns whether the lane has to defer input: its answers would fill the outbox.
    pub(crate) fn is_crowded(&self, bounds: OutboxBounds) -> bool {
        self.lock().is_crowded(bounds)
    }

    /// Keeps input for later, behind earlier deferred input; it still counts as being with the
    /// lane, which calls this for all input until [`take_deferred`](Self::take_deferred).
    pub(crate) fn defer(&self, inputs: Vec<Input>) {
        let mut state = self.lock();
        self.is_deferring.store(true, Ordering::Relaxed);
        state.deferred.get_or_insert_default().inputs.extend(inputs);
        self.wake(&state);
    }

    /// Releases the budget of what was taken and is now written. Must precede `Item::Resume`.
    pub(crate) fn written(&self) {
        self.lock().written();
    }

    /// Returns the deferred input; the lane handles at least its first item.
    pub(crate) fn take_deferred(&self) -> Vec<Input> {
        let mut state = self.lock();
        self.is_deferring.store(false, Ordering::Relaxed);
        state.deferred.take().map_or_else(Vec::new, |deferred| deferred.inputs)
    }

    /// Records that the lane has finished with this connection.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        state.finish();
        self.wake(&state);
    }

    /// Returns whether the application has refused or closed the connection: its remaining input is
    /// dropped. Input of a client that left by itself is handled.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::Relaxed)
    }

    /// Returns whether the connection is closing or closed.
    pub(crate) fn is_ending(&self) -> bool {
        self.lock().phase.is_ending()
    }

    /// Returns whether the lane has unhandled input.
    pub(crate) fn is_with_lane(&self) -> bool {
        self.lock().with_lane != Load::default()
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.lock().phase, Phase::Finished(_))
    }

    /// Waits for something to write or a request to close. Cancel-safe. Only one task may wait,
    /// after it has written what it took before.
    pub(crate) async fn take(&self) -> Taken {
        poll_fn(|cx| {
            let mut state = self.lock();
            state.written();
            state.take().map_or_else(|| self.watch(&mut state, cx), Poll::Ready)
        })
        .await
    }

    /// Returns the next step of a connection that could read `more` (`None`: it has stopped
    /// reading). Unless something is taken, the task is woken by a push, and by the lane if it may
    /// not read.
    pub(crate) fn next_step(
        &self,
        cx: &Context<'_>,
        first: Priority,
        more: Option<Load>,
        bounds: OutboxBounds,
    ) -> NextStep {
        let mut state = self.lock();
        state.written();
        if first == Priority::Write
            && let Some(taken) = state.take()
        {
            return NextStep::Write(taken);
        }
        let may_read = state.may_read(more, bounds);
        let is_due = state.is_due();
        let _: Poll<()> = self.watch(&mut state, cx);
        NextStep::Wait { may_read, is_due }
    }

    /// Takes what is available, without waiting.
    pub(crate) fn try_take(&self) -> Option<Taken> {
        self.lock().take()
    }

    /// Waits until the lane has finished, then returns the rest of the queue. Cancel-safe.
    pub(crate) async fn remaining(&self) -> VecDeque<Outgoing> {
        poll_fn(|cx| {
            let mut state = self.lock();
            match state.phase {
                Phase::Finished(_) => {
                    state.keys = None;
                    Poll::Ready(take(&mut state.queue))
                }
                _ => self.watch(&mut state, cx),
            }
        })
        .await
    }

    fn watch<T>(&self, state: &mut OutboxState, cx: &Context<'_>) -> Poll<T> {
        state.set_waker(cx);
        self.is_attended.store(false, Ordering::Relaxed);
        Poll::Pending
    }

    fn wake(&self, state: &OutboxState) {
        if !self.is_attended.swap(true, Ordering::Relaxed)
            && let Some(waker) = &state.waker
        {
            waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutboxState {
    fn finish(&mut self) {
        self.drop_waiting();
        if self.phase.is_opening() {
            // Without a decision there was no `ready`, and nothing may follow it.
            self.drop_queue();
        }
        self.phase = match take(&mut self.phase) {
            Phase::Closing { reason, .. } | Phase::Finished(reason) => Phase::Finished(reason),
            Phase::Opening | Phase::Open => Phase::Finished(None),
        };
    }

    /// Returns whether there is something to write or a request to close.
    fn is_due(&self) -> bool {
        match &self.phase {
            Phase::Opening => false,
            Phase::Open => !self.queue.is_empty() || self.has_new_deferred(),
            Phase::Closing { reason, is_opening: true, .. } => reason.is_some(),
            Phase::Closing { reason, .. } => {
                reason.is_some() || !self.queue.is_empty() || self.has_new_deferred()
            }
            Phase::Finished(reason) => reason.is_some() || !self.queue.is_empty(),
        }
    }

    /// Returns whether the connection has not taken note of the deferred input.
    fn has_new_deferred(&self) -> bool {
        self.deferred.as_ref().is_some_and(|deferred| !deferred.is_taken)
    }

    fn take(&mut self) -> Option<Taken> {
        if !self.is_due() {
            return None;
        }
        let (mut close, mut resumes) = (None, false);
        match &mut self.phase {
            Phase::Opening | Phase::Open => {}
            // `ready` has to precede the queue.
            Phase::Closing { reason, is_opening: true, .. } => {
                return Some(Taken { queue: VecDeque::new(), close: reason.take(), resumes });
            }
            Phase::Closing { reason, .. } | Phase::Finished(reason) => close = reason.take(),
        }
        if !matches!(self.phase, Phase::Finished(_))
            && let Some(deferred) = &mut self.deferred
        {
            resumes = !replace(&mut deferred.is_taken, true);
        }
        self.budget.hand_over(self.queue.len());
        self.keys = None;
        Some(Taken { queue: take(&mut self.queue), close, resumes })
    }

    /// Returns whether another answer, which may be large, might not fit.
    fn is_crowded(&self, bounds: OutboxBounds) -> bool {
        let is_crowded = self.deferred.is_some()
            || self.queue.len() > bounds.messages / 4 * 3
            || !self.budget.has_place(0, bounds.bytes);
        is_crowded && !matches!(self.phase, Phase::Finished(_))
    }

    /// Returns whether the connection may read `more` (backpressure): only if echoing and
    /// acknowledging all its unhandled input would fit. So a client that sends without waiting is
    /// read no faster than its messages are handled, and its own answers do not make it a slow
    /// consumer. Without `more`, returns whether the lane has no input left.
    fn may_read(&mut self, more: Option<Load>, bounds: OutboxBounds) -> bool {
        let Load { messages, bytes } = self.with_lane;
        let Some(more) = more.filter(|_| self.deferred.is_none()) else {
            // Deferred input counts as being with the lane.
            self.is_held = messages > 0;
            return !self.is_held;
        };
        let is_idle = messages == 0 && self.queue.is_empty();
        let answers = 2 * (messages + more.messages);
        let answer_bytes = bytes + more.bytes + answers * Outgoing::OVERHEAD;
        let has_place = self.queue.len() + answers <= bounds.messages
            && self.budget.has_place(answer_bytes, bounds.bytes);
        self.is_held = !is_idle && !has_place;
        !self.is_held
    }
}

#[cfg(test)]
mod tests;
