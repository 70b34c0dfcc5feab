//! The one way to a connection: what it is to be sent, in order, and whether and why it is to end.
//!
//! Many write, one reads: lanes, routers and the pinger put things in and never wait; the connection's task takes
//! everything there is at once, so that a burst costs one wake-up and one write. Bounded in messages and in bytes:
//! a peer that does not read is disconnected (1013), it never slows down a sender.
//!
//! An idle outbox owns no memory but itself. It knows nothing of sockets.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::{CloseCode, ClosedBy};

use crate::sync::{Mutex, MutexGuard};

/// A message's payload. Cloning it is counting a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// Whether the bytes are known to be UTF-8 and are to be sent as text.
    pub(crate) is_text: bool,
    /// The bytes.
    pub(crate) bytes: Bytes,
}

impl Bounds {
    /// Whether a message of this size can wait at all.
    pub(crate) fn can_hold(self, payload: &Payload) -> bool {
        payload.bytes.len() + Outgoing::OVERHEAD <= self.bytes
    }
}

#[cfg(test)]
impl Payload {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self { is_text: true, bytes: Bytes::from(text.into()) }
    }
}

/// One thing that the connection's task writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// The dialog's `ready`.
    Ready,
    /// What an application sends.
    Message(Payload),
    /// The dialog's `next`, with its `fyi`.
    Next(Option<Arc<str>>),
    /// A ping frame; nothing on plain TCP.
    Ping,
}

impl Outgoing {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(payload) => payload.bytes.len() + Self::OVERHEAD,
            Self::Next(Some(fyi)) => fyi.len() + Self::OVERHEAD,
            Self::Ready | Self::Next(None) | Self::Ping => Self::OVERHEAD,
        }
    }

    /// Counted for each entry, so that a million empty messages are not free.
    const OVERHEAD: usize = 64;
}

/// Why and how a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    pub(crate) code: CloseCode,
    pub(crate) by: ClosedBy,
    pub(crate) text: String,
    /// After which the peer may come back, told in the `close` packet.
    pub(crate) retry_after: Option<Duration>,
}

impl CloseReason {
    pub(crate) fn new(code: CloseCode, by: ClosedBy, text: impl Into<String>) -> Self {
        Self { code, by, text: text.into(), retry_after: None }
    }

    /// Whether something went wrong, as opposed to somebody leaving. A peer that says goodbye has left, whatever its code: that of
    /// a browser's plain `close()` is 1005.
    pub(crate) fn is_fault(&self) -> bool {
        match self.by {
            ClosedBy::Peer => self.code == CloseCode::ABNORMAL,
            ClosedBy::Plugin => false,
            _ => !matches!(self.code, CloseCode::NORMAL | CloseCode::AWAY),
        }
    }

    pub(crate) fn host(code: CloseCode, text: impl Into<String>) -> Self {
        Self::new(code, ClosedBy::Host, text)
    }
}

/// How much may wait. The same for all connections of a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Messages, and the bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

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
}

#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    phase: Phase,
    waker: Option<Waker>,
    /// What was read from this connection, is with the lane, and has not been dealt with.
    with_lane: Load,
    /// Whether the connection does not read because of that.
    is_held: bool,
}

/// `Opening → Open → Closing → Finished`; from `Opening` also straight to the last two.
#[derive(Debug, Default)]
enum Phase {
    /// The application has not decided yet; what it sends is kept back, so that `ready` comes first.
    #[default]
    Opening,
    Open,
    /// Ends for this reason once the application's lane is through with the connection.
    /// `reason` is gone once the connection has taken it.
    Closing {
        reason: Option<CloseReason>,
        by: ClosedBy,
        accepts: bool,
    },
    /// Nothing comes any more. The queue may still hold what came before, and the connection may not know the reason yet.
    Finished(Option<CloseReason>),
}

impl Phase {
    fn closing(reason: CloseReason, accepts: bool) -> Self {
        Self::Closing { by: reason.by, reason: Some(reason), accepts }
    }
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default() }
    }

    /// Appends. A full outbox is a slow peer: it is closed with 1013, and what waited is dropped, as nobody would read it.
    pub(crate) fn push(&self, item: Outgoing, bounds: Bounds) -> Result<(), Gone> {
        let mut state = self.lock();
        match state.phase {
            Phase::Opening | Phase::Open | Phase::Closing { accepts: true, .. } => {}
            Phase::Closing { accepts: false, .. } | Phase::Finished(_) => return Err(Gone),
        }
        let bytes = state.bytes + item.bytes();
        if state.queue.len() >= bounds.messages || bytes > bounds.bytes {
            state.queue.clear();
            state.bytes = 0;
            let reason = CloseReason::host(
                CloseCode::TRY_AGAIN,
                "too slow: more messages wait than the host keeps",
            );
            state.phase = Phase::closing(reason, false);
            state.wake();
            return Err(Gone);
        }
        state.bytes = bytes;
        state.queue.push_back(item);
        if !matches!(state.phase, Phase::Opening) {
            state.wake();
        }
        Ok(())
    }

    /// The application has taken the connection: lets through what it sent meanwhile, after `first`.
    pub(crate) fn accept(&self, first: Option<Outgoing>) {
        let mut state = self.lock();
        if let Some(first) = first {
            state.queue.push_front(first);
        }
        if matches!(state.phase, Phase::Opening) {
            state.phase = Phase::Open;
        }
        state.wake();
    }

    /// The application has refused the connection: what it sent meanwhile is dropped.
    pub(crate) fn refuse(&self, reason: CloseReason) {
        let mut state = self.lock();
        state.queue.clear();
        state.bytes = 0;
        state.phase = Phase::closing(reason, false);
        state.wake();
    }

    /// Asks the connection to end, after what is already here. The first reason counts.
    ///
    /// Answers to messages that are already with the application are still taken if it is the host that closes in an orderly
    /// way (1001); after that the lane calls [`finish`](Self::finish).
    pub(crate) fn close(&self, reason: CloseReason) -> Result<(), Gone> {
        let mut state = self.lock();
        match state.phase {
            Phase::Opening | Phase::Open => {}
            Phase::Closing { .. } | Phase::Finished(_) => return Err(Gone),
        }
        let accepts = reason.by == ClosedBy::Host && reason.code == CloseCode::AWAY;
        state.phase = Phase::closing(reason, accepts);
        state.wake();
        Ok(())
    }

    /// This is on its way to the lane. Only the connection's task says so: it runs, and looks here next, so what is answered at once
    /// need not wake it.
    pub(crate) fn lend(&self, load: Load) {
        let mut state = self.lock();
        state.with_lane.messages += load.messages;
        state.with_lane.bytes += load.bytes;
        state.waker = None;
    }

    /// The lane has dealt with this.
    pub(crate) fn give_back(&self, load: Load) {
        let mut state = self.lock();
        state.with_lane.messages = state.with_lane.messages.saturating_sub(load.messages);
        state.with_lane.bytes = state.with_lane.bytes.saturating_sub(load.bytes);
        if state.is_held {
            state.wake();
        }
    }

    /// Whether the connection may read `more`: if all that it sent were sent back to it, and acknowledged, there would be a place here.
    /// So a peer that sends without waiting is read no faster than its messages are handled, and is not taken for a slow one
    /// because of the answers to what it sent itself.
    pub(crate) fn may_read(&self, more: Load, bounds: Bounds) -> bool {
        let mut state = self.lock();
        let Load { messages, bytes } = state.with_lane;
        let is_idle = messages == 0 && state.queue.is_empty();
        let has_place = state.queue.len() + 2 * (messages + more.messages) <= bounds.messages
            && state.bytes + bytes + more.bytes <= bounds.bytes;
        state.is_held = !is_idle && !has_place;
        !state.is_held
    }

    /// The lane is through with this connection: nothing comes any more.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        state.phase = match std::mem::take(&mut state.phase) {
            Phase::Closing { reason, .. } | Phase::Finished(reason) => Phase::Finished(reason),
            Phase::Opening | Phase::Open => Phase::Finished(None),
        };
        state.wake();
    }

    /// Whether the application has refused this connection or ended it: messages still on their way to it are dropped.
    /// Those of a peer that has gone by itself are handled.
    pub(crate) fn is_cut_off(&self) -> bool {
        matches!(self.lock().phase, Phase::Closing { by: ClosedBy::Plugin, .. })
    }

    /// Whether the connection is on its way out.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.lock().phase, Phase::Closing { .. } | Phase::Finished(_))
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.lock().phase, Phase::Finished(_))
    }

    /// Waits for something to write, for the order to close, or, if it may not read, for the lane to be through with
    /// all that was read. Cancel-safe. One task at a time may wait.
    pub(crate) async fn take(&self) -> Taken {
        poll_fn(|cx| self.poll_take(cx)).await
    }

    fn poll_take(&self, cx: &Context<'_>) -> Poll<Taken> {
        let mut state = self.lock();
        let close = match &mut state.phase {
            Phase::Opening => None,
            Phase::Closing { reason, .. } | Phase::Finished(reason) => reason.take(),
            Phase::Open => None,
        };
        let holds_back = matches!(state.phase, Phase::Opening);
        if close.is_none() && (holds_back || state.queue.is_empty()) {
            if state.is_held && state.with_lane.messages == 0 {
                state.is_held = false;
                return Poll::Ready(Taken { queue: VecDeque::new(), close });
            }
            state.watch(cx);
            return Poll::Pending;
        }
        state.bytes = 0;
        Poll::Ready(Taken { queue: std::mem::take(&mut state.queue), close })
    }

    /// Waits until the lane is through, then yields the rest. Cancel-safe.
    pub(crate) async fn rest(&self) -> VecDeque<Outgoing> {
        poll_fn(|cx| {
            let mut state = self.lock();
            if !matches!(state.phase, Phase::Finished(_)) {
                state.watch(cx);
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut state.queue))
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Held for a few instructions that do not panic; a poisoned lock would mean nothing here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn watch(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const BOUNDS: Bounds = Bounds { messages: 3, bytes: 1000 };

    fn text(text: &str) -> Outgoing {
        Outgoing::Message(Payload::text(text))
    }

    fn take(outbox: &Outbox) -> Option<(Vec<Outgoing>, Option<u16>)> {
        let taken = outbox.take().now_or_never()?;
        Some((taken.queue.into(), taken.close.map(|reason| reason.code.0)))
    }

    #[test]
    fn what_is_sent_while_opening_waits_for_ready() {
        let outbox = Outbox::new();
        outbox.push(text("welcome"), BOUNDS).unwrap();
        assert_eq!(take(&outbox), None);
        outbox.accept(Some(Outgoing::Ready));
        assert_eq!(take(&outbox), Some((vec![Outgoing::Ready, text("welcome")], None)));
        assert_eq!(take(&outbox), None);
    }

    #[test]
    fn a_refused_peer_reads_nothing_but_the_refusal() {
        let outbox = Outbox::new();
        outbox.push(text("welcome"), BOUNDS).unwrap();
        outbox.refuse(CloseReason::new(CloseCode::POLICY, ClosedBy::Plugin, "no"));
        assert_eq!(take(&outbox), Some((vec![], Some(1008))));
        assert_eq!(outbox.push(text("late"), BOUNDS), Err(Gone));
    }

    #[test]
    fn a_peer_that_does_not_read_is_closed_with_1013() {
        for sizes in [[1, 1, 1, 1], [1, 900, 100, 0]] {
            let outbox = Outbox::new();
            outbox.accept(None);
            let results = sizes.map(|n| outbox.push(text(&"x".repeat(n)), BOUNDS).is_ok());
            assert!(results[0] && !results[3], "{results:?}");
            assert_eq!(take(&outbox), Some((vec![], Some(1013))));
        }
    }

    #[test]
    fn a_reason_outlives_a_lane_that_is_through_before_the_connection_looked() {
        let outbox = Outbox::new();
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
            let outbox = Outbox::new();
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
