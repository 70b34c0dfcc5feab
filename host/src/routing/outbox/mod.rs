//! The one way to a connection: what it is to be sent, in order, and whether and why it is to end.
//!
//! Many write, one reads: lanes, routers and the pinger put things in and never wait; the connection's task takes
//! everything there is at once, so that a burst costs one wake-up and one write. Bounded in messages and in bytes
//! (`budget`): a peer that does not read is disconnected (1013), it never slows down a sender.
//!
//! A peer that does read, but sends without waiting for large answers, must not be taken for that one. So the lane handles nothing
//! more for a peer whose outbox is *crowded*: it leaves the rest here, [deferred](Outbox::defer), until the connection has written what
//! waits.
//!
//! An idle outbox owns no memory but itself. It knows nothing of sockets.

mod budget;
mod overflow;

use crate::protocol::close::CloseReason;
use crate::protocol::outgoing::Outgoing;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::{replace, take};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use plugsocket_plugin::{CloseCode, ClosedBy};

use self::budget::Budget;
pub(crate) use self::budget::OutboxBounds;
use self::overflow::ConflationKeys;
use super::input::{Input, Load};
use super::sync::{AtomicBool, Mutex, MutexGuard};

/// The connection has ended, or is ending and takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// What the connection's task finds.
#[derive(Debug)]
pub(crate) struct Taken {
    /// To be written, in this order. May be empty.
    pub(crate) queue: VecDeque<Outgoing>,
    /// The connection is to be closed after that.
    pub(crate) close: Option<CloseReason>,
    /// The lane is to go on with what it deferred, after that.
    pub(crate) resumes: bool,
}

/// What a connection's task does first if there is both; in turn, so that neither keeps it from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    Write,
    Read,
}

/// What [`Outbox::look`] finds.
#[derive(Debug)]
pub(crate) enum NextStep {
    Write(Taken),
    /// Nothing was taken. `is_due`: there is something to take, to be asked for once reading has been tried.
    Wait {
        may_read: bool,
        is_due: bool,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<OutboxState>,
    /// Whether the connection's task runs, or was woken, and looks here before it waits again: nobody need wake it. It is only taken
    /// back under the lock, so whoever put something in before is seen.
    is_attended: AtomicBool,
    /// Whether the application has refused this connection or ended it.
    is_cut_off: AtomicBool,
    /// Whether something is deferred. Written under the lock, by the lane.
    is_deferring: AtomicBool,
}

#[derive(Debug, Default)]
struct OutboxState {
    queue: VecDeque<Outgoing>,
    budget: Budget,
    phase: Phase,
    waker: Option<Waker>,
    /// The `next` packet, where its `fyi` is not empty: set once and sent often.
    next: Option<Arc<str>>,
    /// What was read from this connection, is with the lane, and has not been dealt with.
    with_lane: Load,
    /// Whether the connection does not read because of that.
    is_held: bool,
    /// While messages with a key wait.
    keys: Option<Box<ConflationKeys>>,
    /// While there is something.
    deferred: Option<Box<Deferred>>,
}

/// What was read from the connection and is for the lane to handle later.
#[derive(Debug, Default)]
struct Deferred {
    inputs: Vec<Input>,
    /// Whether the connection knows, and sees to it that the lane goes on.
    is_told: bool,
}

/// `Opening → Open → Closing → Finished`; from `Opening` also straight to the last two.
#[derive(Debug, Default)]
enum Phase {
    /// The application has not decided yet; what it sends is kept back, so that `ready` comes first.
    #[default]
    Opening,
    Open,
    /// Ends for this reason once the application's lane is through with the connection.
    /// `reason` is gone once the connection has taken it, and where it is the peer that is done.
    Closing {
        reason: Option<CloseReason>,
        accepts: bool,
        /// Whether the application has not decided yet; what it sends is kept back as in `Opening`.
        is_opening: bool,
    },
    /// Nothing comes any more. The queue may still hold what came before, and the connection may not know the reason yet.
    Finished(Option<CloseReason>),
}

impl Phase {
    fn closing(reason: CloseReason, accepts: bool) -> Self {
        Self::Closing { reason: Some(reason), accepts, is_opening: false }
    }

    fn is_opening(&self) -> bool {
        matches!(self, Self::Opening | Self::Closing { is_opening: true, .. })
    }
}

impl Outbox {
    /// Appends. A full outbox is a slow peer: it is closed with 1013, and what waited is dropped, as nobody would read it; unless the
    /// bounds have another policy.
    pub(crate) fn push(&self, item: Outgoing, bounds: OutboxBounds) -> Result<(), Gone> {
        self.push_keyed(item, None, bounds).map(drop)
    }

    /// The same for a message that may have a key (`"conflate"`). How many others were dropped for it.
    pub(crate) fn push_keyed(
        &self,
        item: Outgoing,
        key: Option<&Arc<str>>,
        bounds: OutboxBounds,
    ) -> Result<u32, Gone> {
        self.append(&mut self.lock(), item, key, bounds)
    }

    /// Appends the dialog's `next`, as [`push`](Self::push) does.
    pub(crate) fn acknowledge(&self, bounds: OutboxBounds) -> Result<(), Gone> {
        let mut state = self.lock();
        let next = Outgoing::Next(state.next.clone());
        self.append(&mut state, next, None, bounds).map(drop)
    }

    /// The `next` packet from here on; `None` for the one with an empty `fyi`.
    pub(crate) fn set_next(&self, packet: Option<Arc<str>>) {
        self.lock().next = packet;
    }

    fn append(
        &self,
        state: &mut OutboxState,
        item: Outgoing,
        key: Option<&Arc<str>>,
        bounds: OutboxBounds,
    ) -> Result<u32, Gone> {
        match state.phase {
            Phase::Opening | Phase::Open | Phase::Closing { accepts: true, .. } => {}
            Phase::Closing { accepts: false, .. } | Phase::Finished(_) => return Err(Gone),
        }
        let Ok(dropped) = state.enter(item, key, bounds) else {
            state.drop_queue();
            let reason = CloseReason::host(
                CloseCode::TRY_AGAIN,
                "too slow: more waits than outbox_messages or outbox_bytes allow",
            );
            match &mut state.phase {
                // It is being closed already, in an orderly way: the first reason counts.
                Phase::Closing { accepts, .. } => *accepts = false,
                phase => *phase = Phase::closing(reason, false),
            }
            self.wake(state);
            return Err(Gone);
        };
        if !state.phase.is_opening() {
            self.wake(state);
        }
        Ok(dropped)
    }

    /// The application has taken the connection: lets through what it sent meanwhile, after `first`.
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

    /// The application has refused the connection: what it sent meanwhile is dropped.
    pub(crate) fn refuse(&self, reason: CloseReason) {
        self.is_cut_off.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        state.drop_queue();
        state.phase = Phase::closing(reason, false);
        self.wake(&state);
    }

    /// Asks the connection to end, after what is already here. The first reason counts.
    ///
    /// Answers to messages that are already with the application are still taken if it is the host that closes in an orderly
    /// way (1001); after that the lane calls [`finish`](Self::finish).
    pub(crate) fn close(&self, reason: CloseReason) -> Result<(), Gone> {
        let mut state = self.lock();
        let is_opening = match state.phase {
            Phase::Opening => true,
            Phase::Open => false,
            Phase::Closing { .. } | Phase::Finished(_) => return Err(Gone),
        };
        if reason.by == ClosedBy::Plugin {
            self.is_cut_off.store(true, Ordering::Relaxed);
        }
        let accepts = reason.by == ClosedBy::Host && reason.code == CloseCode::AWAY;
        state.phase = Phase::Closing { reason: Some(reason), accepts, is_opening };
        self.wake(&state);
        Ok(())
    }

    /// The peer has said its last, and will read what it is owed for what it said before. False if it is owed nothing, or the connection
    /// ends for another reason already: then nothing more is taken for it.
    pub(crate) fn begin_draining(&self) -> bool {
        let mut state = self.lock();
        let is_opening = match state.phase {
            Phase::Opening => true,
            Phase::Open => false,
            Phase::Closing { .. } | Phase::Finished(_) => return false,
        };
        if !is_opening && state.with_lane == Load::default() && state.queue.is_empty() {
            state.finish();
            return false;
        }
        state.phase = Phase::Closing { reason: None, accepts: true, is_opening };
        true
    }

    /// The connection's task runs and looks here before it waits again. Only that task says so.
    pub(crate) fn attend(&self) {
        self.is_attended.store(true, Ordering::Relaxed);
    }

    /// This waits for the lane.
    pub(crate) fn reserve(&self, load: Load) {
        let mut state = self.lock();
        state.with_lane.messages += load.messages;
        state.with_lane.bytes += load.bytes;
    }

    /// The lane has dealt with this.
    pub(crate) fn release(&self, load: Load) {
        if load == Load::default() {
            return;
        }
        let mut state = self.lock();
        state.with_lane.messages = state.with_lane.messages.saturating_sub(load.messages);
        state.with_lane.bytes = state.with_lane.bytes.saturating_sub(load.bytes);
        if state.is_held {
            self.wake(&state);
        }
    }

    /// Whether the lane has left something for later, and so leaves all that comes. For the lane, which knows without a lock.
    pub(crate) fn is_deferring(&self) -> bool {
        self.is_deferring.load(Ordering::Relaxed)
    }

    /// Whether the lane is to leave what came from this connection for later: it would fill the outbox with the answers.
    pub(crate) fn is_crowded(&self, bounds: OutboxBounds) -> bool {
        self.lock().is_crowded(bounds)
    }

    /// Keeps what the lane leaves for later, behind what is here. It still counts as being with the lane. Only the lane does so, and does
    /// it with all that comes, until it has taken this back.
    pub(crate) fn defer(&self, inputs: Vec<Input>) {
        let mut state = self.lock();
        self.is_deferring.store(true, Ordering::Relaxed);
        state.deferred.get_or_insert_default().inputs.extend(inputs);
        self.wake(&state);
    }

    /// What was taken is written. Said before the lane is told to go on: it counts on the place.
    pub(crate) fn written(&self) {
        self.lock().budget.written();
    }

    /// What the lane left for later: it handles at least the first of it now.
    pub(crate) fn take_deferred(&self) -> Vec<Input> {
        let mut state = self.lock();
        self.is_deferring.store(false, Ordering::Relaxed);
        state.deferred.take().map_or_else(Vec::new, |deferred| deferred.inputs)
    }

    /// The lane is through with this connection: nothing comes any more.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        state.finish();
        self.wake(&state);
    }

    /// Whether the application has refused this connection or ended it: messages still on their way to it are dropped.
    /// Those of a peer that has gone by itself are handled.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::Relaxed)
    }

    /// Whether the connection is on its way out.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.lock().phase, Phase::Closing { .. } | Phase::Finished(_))
    }

    /// Whether something that was read from it is with the lane.
    pub(crate) fn is_with_lane(&self) -> bool {
        self.lock().with_lane != Load::default()
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.lock().phase, Phase::Finished(_))
    }

    /// Waits for something to write, or for the order to close. Cancel-safe. One task at a time may wait, and has written what it
    /// took before.
    pub(crate) async fn take(&self) -> Taken {
        poll_fn(|cx| {
            let mut state = self.lock();
            state.budget.written();
            state.take().map_or_else(|| self.watch(&mut state, cx), Poll::Ready)
        })
        .await
    }

    /// What there is to do for a connection that could also read `more`; None if it has read its last. Unless something is taken, the
    /// task is woken by whatever comes, and by the lane if it may not read.
    pub(crate) fn look(
        &self,
        cx: &Context<'_>,
        first: Priority,
        more: Option<Load>,
        bounds: OutboxBounds,
    ) -> NextStep {
        let mut state = self.lock();
        state.budget.written();
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

    /// What there is, without waiting.
    pub(crate) fn try_take(&self) -> Option<Taken> {
        self.lock().take()
    }

    /// Waits until the lane is through, then yields the rest. Cancel-safe.
    pub(crate) async fn rest(&self) -> VecDeque<Outgoing> {
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
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
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
        // Held for a few instructions that do not panic; a poisoned lock would mean nothing here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutboxState {
    fn drop_queue(&mut self) {
        self.queue.clear();
        self.budget.clear();
        self.keys = None;
    }

    fn finish(&mut self) {
        if self.phase.is_opening() {
            // Nobody decided: there was no `ready`, and so there is nothing that could follow it.
            self.drop_queue();
        }
        self.phase = match take(&mut self.phase) {
            Phase::Closing { reason, .. } | Phase::Finished(reason) => Phase::Finished(reason),
            Phase::Opening | Phase::Open => Phase::Finished(None),
        };
    }

    /// Whether there is something to write, or the order to close.
    fn is_due(&self) -> bool {
        match &self.phase {
            Phase::Opening => false,
            Phase::Open => {
                !self.queue.is_empty()
                    || self.deferred.as_ref().is_some_and(|deferred| !deferred.is_told)
            }
            Phase::Closing { reason, is_opening: true, .. } => reason.is_some(),
            Phase::Closing { reason, .. } | Phase::Finished(reason) => {
                reason.is_some() || !self.queue.is_empty()
            }
        }
    }

    fn take(&mut self) -> Option<Taken> {
        if !self.is_due() {
            return None;
        }
        let (mut close, mut resumes) = (None, false);
        match &mut self.phase {
            Phase::Opening => {}
            Phase::Open => {
                let deferred = self.deferred.as_mut();
                resumes = deferred.is_some_and(|deferred| !replace(&mut deferred.is_told, true));
            }
            // `ready` has to come before what waits.
            Phase::Closing { reason, is_opening: true, .. } => {
                return Some(Taken { queue: VecDeque::new(), close: reason.take(), resumes });
            }
            Phase::Closing { reason, .. } | Phase::Finished(reason) => close = reason.take(),
        }
        self.budget.hand_over();
        self.keys = None;
        Some(Taken { queue: take(&mut self.queue), close, resumes })
    }

    /// Whether another answer, which may be large, could find no place. For one that has gone none is needed.
    fn is_crowded(&self, bounds: OutboxBounds) -> bool {
        if let Phase::Finished(_) = self.phase {
            return false;
        }
        self.deferred.is_some()
            || self.queue.len() > bounds.messages / 4 * 3
            || !self.budget.has_place(0, bounds.bytes)
    }

    /// Whether the connection may read `more`: if all that it sent were sent back to it, and acknowledged, there would be a place here.
    /// So a peer that sends without waiting is read no faster than its messages are handled, and is not taken for a slow one
    /// because of the answers to what it sent itself. Beside `more` there may be one message of any size. One that has read its last could
    /// read on once nothing of it is with the lane.
    fn may_read(&mut self, more: Option<Load>, bounds: OutboxBounds) -> bool {
        let Load { messages, bytes } = self.with_lane;
        let Some(more) = more.filter(|_| self.deferred.is_none()) else {
            // What is deferred is with the lane as well.
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
mod tests {
    use super::*;
    use crate::config::OutboxPolicy;
    use crate::protocol::payload::Payload;
    use futures_util::FutureExt;

    const BOUNDS: OutboxBounds =
        OutboxBounds { messages: 3, bytes: 1000, message_bytes: 5000, policy: OutboxPolicy::Close };

    fn text(text: &str) -> Outgoing {
        Outgoing::Message(Payload::text(text))
    }

    fn take(outbox: &Outbox) -> Option<(Vec<Outgoing>, Option<u16>)> {
        let taken = outbox.take().now_or_never()?;
        Some((taken.queue.into(), taken.close.map(|reason| reason.code.0)))
    }

    #[test]
    fn what_is_sent_while_opening_waits_for_ready() {
        let outbox = Outbox::default();
        outbox.push(text("welcome"), BOUNDS).unwrap();
        assert_eq!(take(&outbox), None);
        outbox.accept(Some(Outgoing::Ready));
        assert_eq!(take(&outbox), Some((vec![Outgoing::Ready, text("welcome")], None)));
        assert_eq!(take(&outbox), None);
    }

    #[test]
    fn ready_comes_first_also_where_the_connection_ends_before_it_was_taken() {
        let away = CloseReason::host(CloseCode::AWAY, "server shutting down");
        for is_owed in [false, true] {
            let outbox = Outbox::default();
            outbox.push(text("welcome"), BOUNDS).unwrap();
            let reason = if is_owed { None } else { Some(1001) };
            match is_owed {
                true => assert!(outbox.begin_draining()),
                false => outbox.close(away.clone()).unwrap(),
            }
            assert_eq!(take(&outbox), reason.map(|code| (vec![], Some(code))));
            outbox.accept(Some(Outgoing::Ready));
            outbox.finish();
            let rest = outbox.rest().now_or_never().unwrap();
            assert_eq!(Vec::from(rest), [Outgoing::Ready, text("welcome")]);
        }
        let outbox = Outbox::default();
        outbox.push(text("welcome"), BOUNDS).unwrap();
        outbox.close(away).unwrap();
        outbox.finish();
        assert!(outbox.rest().now_or_never().unwrap().is_empty(), "nobody took it");
    }

    #[test]
    fn a_peer_that_is_done_is_owed_what_waits_and_what_is_with_the_lane() {
        let load = Load { messages: 1, bytes: 0 };
        for (waits, reserved, is_owed) in
            [(false, false, false), (true, false, true), (false, true, true)]
        {
            let outbox = Outbox::default();
            outbox.accept(None);
            if waits {
                outbox.push(text("answer"), BOUNDS).unwrap();
            }
            if reserved {
                outbox.reserve(load);
            }
            assert_eq!(outbox.begin_draining(), is_owed);
            assert_eq!(outbox.push(text("more"), BOUNDS).is_ok(), is_owed);
            assert!(!outbox.begin_draining() && outbox.is_ending());
        }
    }

    #[test]
    fn a_refused_peer_reads_nothing_but_the_refusal() {
        let outbox = Outbox::default();
        outbox.push(text("welcome"), BOUNDS).unwrap();
        outbox.refuse(CloseReason::new(CloseCode::POLICY, ClosedBy::Plugin, "no"));
        assert_eq!(take(&outbox), Some((vec![], Some(1008))));
        assert_eq!(outbox.push(text("late"), BOUNDS), Err(Gone));
    }

    #[test]
    fn a_peer_that_does_not_read_is_closed_with_1013() {
        for sizes in [[1, 1, 1, 1], [900, 400, 5000, 5000]] {
            let outbox = Outbox::default();
            outbox.accept(None);
            let results = sizes.map(|n| outbox.push(text(&"x".repeat(n)), BOUNDS).is_ok());
            assert!(results[0] && !results[3], "{results:?}");
            assert_eq!(take(&outbox), Some((vec![], Some(1013))));
        }
    }

    #[test]
    fn what_the_lane_defers_is_told_once_and_comes_back_in_order() {
        let outbox = Outbox::default();
        outbox.accept(None);
        assert!(outbox.push(text("a"), BOUNDS).is_ok() && outbox.is_crowded(BOUNDS), "of three");
        outbox.defer(vec![Input::Chunk]);
        outbox.defer(vec![Input::Message(Payload::text("b"))]);
        let resumes = || outbox.try_take().map(|taken| (taken.queue.len(), taken.resumes));
        assert_eq!([resumes(), resumes()], [Some((1, true)), None]);
        assert!(outbox.is_crowded(BOUNDS), "until the lane has taken it back");
        assert_eq!(outbox.take_deferred(), [Input::Chunk, Input::Message(Payload::text("b"))]);
        assert!(!outbox.is_crowded(BOUNDS) && outbox.take_deferred().is_empty());
        outbox.defer(vec![Input::Chunk]);
        assert_eq!([resumes(), resumes()], [Some((0, true)), None]);
    }

    #[test]
    fn an_answer_that_finds_no_place_does_not_change_why_a_connection_ends() {
        for is_told in [false, true] {
            let outbox = Outbox::default();
            outbox.accept(None);
            outbox.close(CloseReason::host(CloseCode::AWAY, "x")).unwrap();
            let reasons = |outbox: &Outbox| take(outbox).and_then(|(_, reason)| reason);
            let first = is_told.then(|| reasons(&outbox)).flatten();
            let pushed = [1; 4].map(|_| outbox.push(text("answer"), BOUNDS).is_ok());
            assert_eq!(pushed, [true, true, true, false]);
            assert_eq!(
                (first, reasons(&outbox)),
                if is_told { (Some(1001), None) } else { (None, Some(1001)) }
            );
        }
    }

    #[test]
    fn a_reason_outlives_a_lane_that_is_through_before_the_connection_looked() {
        let outbox = Outbox::default();
        outbox.accept(None);
        outbox.close(CloseReason::host(CloseCode::AWAY, "x")).unwrap();
        outbox.finish();
        assert_eq!(take(&outbox), Some((vec![], Some(1001))));
        assert_eq!(take(&outbox), None);
    }

    #[test]
    fn an_orderly_close_still_takes_answers_and_a_plugins_close_does_not() {
        let away = CloseReason::host(CloseCode::AWAY, "server shutting down");
        let quit = CloseReason::new(CloseCode::NORMAL, ClosedBy::Plugin, "");
        for (reason, accepts) in [(away, true), (quit, false)] {
            let outbox = Outbox::default();
            outbox.accept(None);
            outbox.close(reason.clone()).unwrap();
            assert_eq!(outbox.push(text("answer"), BOUNDS).is_ok(), accepts);
            assert_eq!(outbox.close(reason.clone()), Err(Gone));
            assert_eq!(take(&outbox).unwrap().1, Some(reason.code.0));
            assert_eq!(outbox.rest().now_or_never(), None);
            outbox.finish();
            assert!(outbox.rest().now_or_never().is_some());
            assert_eq!(outbox.push(text("late"), BOUNDS), Err(Gone));
        }
    }
}
