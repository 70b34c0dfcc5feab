//! One connection, from its accepted socket to its close. Owns the socket; only this folder reads
//! and writes it. Does not know libraries or how messages are routed.
//!
//! This module is the loop after the handshake. It reads messages, joins chunks and hands them to
//! the lane; it reads no further until the lane has taken them (backpressure). It writes what is in
//! the outbox. Every connection ends in `finish`: the application sees `close` after all earlier
//! messages, and its answers are written before the close frame.

pub(crate) mod admit;
pub(crate) mod establish;
mod exchange;
mod fairness;
mod finish;
pub(crate) mod handshake;
mod http_post;
mod http_request;
pub(crate) mod keep_alive;
pub(crate) mod memory_limit;
mod output;
pub(crate) mod page;
mod rate_limit;
pub(crate) mod reject;
mod timers;
mod trace;

use std::future::{Future, poll_fn};
use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use plugsocket_plugin::{CloseCode, Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use self::fairness::TurnBudget;
use self::finish::{End, Ended, find_lane};
use self::rate_limit::RateExceeded;
use self::timers::{Deadline, Timers};
use crate::config::{ServerSettings, Timeouts};
use crate::plugin::lane::Item;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::chunk::{Form, Joiner, Step};
use crate::protocol::close::CloseReason;
use crate::protocol::io::{BATCH_MESSAGES, Progress, READ_BYTES, Received, Traffic};
use crate::protocol::payload::Payload;
use crate::protocol::time_limit::sleep_until;
use crate::protocol::wire::Wire;
use crate::routing::input::{Input, Load};
use crate::routing::outbox::{NextStep, Priority, Taken};
use crate::routing::peer::Peer;
use crate::routing::registry::Entry;

/// A byte stream to a client.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// What the loop does next.
enum Turn {
    Write(Taken),
    Read(Progress),
    /// The lane has taken the pending item.
    Taken,
    LaneEnded,
    /// A timer may have expired, started or stopped.
    Clock,
}

/// The most that one read brings, beside one message that began earlier.
const ONE_READ: Load = Load { messages: BATCH_MESSAGES, bytes: READ_BYTES };

/// An open connection.
pub(crate) struct Connection<S> {
    wire: Wire<S>,
    entry: Entry,
    inbox: Inbox,
    joiner: Joiner,
    /// Deadline for a partial message or an open chunk buffer.
    message_deadline: Deadline,
    /// When to stop waiting for answers before the end.
    leaves_at: Option<Instant>,
    timeouts: Timeouts,
    timers: Option<Box<Timers>>,
}

impl<S: Socket> Connection<S> {
    pub(crate) fn new(
        wire: Wire<S>,
        entry: Entry,
        inbox: Inbox,
        timers: Option<Box<Timers>>,
        settings: &ServerSettings,
    ) -> Self {
        let messages = &settings.limits.messages;
        let joiner = Joiner::new(messages.max_message, messages.max_chunks);
        let message_deadline = Deadline::None;
        let timeouts = settings.timeouts.clone();
        Self { wire, entry, inbox, joiner, message_deadline, leaves_at: None, timeouts, timers }
    }

    /// Serves the connection until it has to close; call [`end`](Self::end) then.
    pub(crate) async fn work(&mut self) -> Ended {
        if self.peer().kind == Kind::Backend {
            // Old scripts read the 101 response and `ready` with one read each, and lose `ready` if
            // both arrive together.
            tokio::time::sleep(self.timeouts.ready_delay).await;
        }
        let mut pending = Some(Item::Open(self.peer().clone()));
        let end = self.serve(&mut pending).await;
        Ended { end, pending }
    }

    /// Serves the connection as [`work`](Self::work) does, and closes it at `until`.
    pub(crate) async fn work_until(&mut self, until: Instant) -> Ended {
        let peer = self.peer().clone();
        let mut work = pin!(self.work());
        tokio::select! {
            ended = &mut work => return ended,
            () = sleep_until(until) => {
                // Fails only if the connection is already closing.
                let _gone = peer.outbox.close(CloseReason::host(CloseCode::POLICY, "token expired"));
            }
        }
        work.await
    }

    fn peer(&self) -> &Arc<Peer> {
        &self.entry.peer
    }

    async fn serve(&mut self, pending: &mut Option<Item>) -> End {
        let peer = self.peer().clone();
        let mut batch = Vec::new();
        let mut first = Priority::Write;
        // Why reading ended, while earlier input is still pending.
        let mut last: Option<End> = None;
        // The lane has deferred input and has to resume it.
        let mut resumes = false;
        let mut budget = TurnBudget::default();
        loop {
            budget.yield_if_spent().await;
            if pending.is_none() && take(&mut resumes) {
                peer.outbox.written();
                *pending = Some(Item::Resume(peer.clone()));
            }
            if let Some(end) = last.take_if(|end| self.may_end(end, pending.as_ref())) {
                return end;
            }
            let turn = match pending {
                Some(_) => self.wait_for_lane(pending).await,
                None => self.turn(last.is_none(), first, &mut batch).await,
            };
            peer.outbox.attend();
            match turn {
                Turn::Taken => self.start_leaving(last.as_ref(), None),
                Turn::Write(taken) => {
                    first = Priority::Read;
                    budget.wrote(taken.queue.len());
                    resumes |= taken.resumes;
                    if let Err(end) = self.write(taken.queue).await {
                        return end;
                    }
                    match taken.close.map(End::Closed) {
                        Some(end) if !end.waits_for_answers() => return end,
                        Some(end) => last = Some(end),
                        None => {}
                    }
                    self.start_leaving(last.as_ref(), pending.as_ref());
                }
                Turn::LaneEnded => match find_lane(&peer.resource, &self.inbox) {
                    Ok(inbox) => self.inbox = inbox,
                    Err(reason) => return End::Closed(reason),
                },
                Turn::Read(progress) => {
                    first = Priority::Write;
                    peer.received();
                    last = self.process_read(progress, &mut batch, pending, &mut budget).await;
                    self.start_leaving(last.as_ref(), pending.as_ref());
                }
                Turn::Clock => {
                    if let Err(reason) = self.check_timers() {
                        return End::Closed(reason);
                    }
                    if let Err(end) = self.write_heartbeat().await {
                        return end;
                    }
                }
            }
        }
    }

    /// Starts the time that the lane has to answer before a connection ends that waits for that.
    /// After the client has finished sending, each answer starts it again.
    fn start_leaving(&mut self, end: Option<&End>, pending: Option<&Item>) {
        // Reads no clock on the way of a message.
        let at = || Instant::now() + self.timeouts.close;
        self.leaves_at = match end {
            Some(End::Done(_)) if pending.is_none() => Some(at()),
            Some(end @ End::Closed(_)) if end.waits_for_answers() => {
                self.leaves_at.or_else(|| Some(at()))
            }
            _ => return,
        };
    }

    /// Returns whether the connection may end: the lane has what was read and, if the connection
    /// waits for that, has answered it or answers nothing for `close_timeout`.
    fn may_end(&self, end: &End, pending: Option<&Item>) -> bool {
        let is_overdue = self.leaves_at.is_some_and(|at| at <= Instant::now());
        let is_answered = || !end.waits_for_answers() || !self.peer().outbox.is_with_lane();
        is_overdue || pending.is_none() && is_answered()
    }

    /// Processes what was read; returns why reading ended, if it did.
    async fn process_read(
        &mut self,
        progress: Progress,
        batch: &mut Vec<Received>,
        pending: &mut Option<Item>,
        budget: &mut TurnBudget,
    ) -> Option<End> {
        let joined = match self.charge(batch.len()) {
            Ok(frames) => {
                let begun = budget.read(frames, batch.len());
                let joined = self.hand_on(batch, pending);
                budget.handled(begun);
                joined
            }
            Err(RateExceeded { reason, allowed }) => {
                truncate(batch, allowed);
                self.hand_on(batch, pending).and(Err(reason))
            }
        };
        match (joined, progress) {
            (Err(reason), _) | (Ok(()), Progress::Violation(reason)) => Some(End::Closed(reason)),
            (Ok(()), Progress::Done(reason)) => Some(End::Done(reason)),
            (Ok(()), Progress::Broken(reason)) => Some(End::Left(reason)),
            (Ok(()), Progress::Pong) => self.flush().await.err(),
            (Ok(()), Progress::More) => None,
        }
    }

    /// Waits for something to write or, while `reads`, to read; `first` breaks a tie.
    async fn turn(&mut self, reads: bool, first: Priority, batch: &mut Vec<Received>) -> Turn {
        let next_time = self.next_time();
        let Self { wire, entry, joiner, message_deadline, timers, .. } = self;
        let peer = &*entry.peer;
        let is_paced = !reads || timers.as_ref().is_none_or(|timers| timers.may_read());
        let more = reads.then_some(ONE_READ);
        let mut clock = pin!(reached(next_time));
        poll_fn(|cx| {
            let (may_read, is_due) = match peer.outbox.next_step(cx, first, more, peer.bounds) {
                NextStep::Write(taken) => return Poll::Ready(Turn::Write(taken)),
                NextStep::Wait { may_read, is_due } => (is_paced && may_read, is_due),
            };
            if may_read == peer.is_held() {
                hold(peer, message_deadline, timers, !may_read);
                // This changes which timers run.
                return Poll::Ready(Turn::Clock);
            }
            if may_read {
                if !reads {
                    return Poll::Ready(Turn::Clock);
                }
                if let Poll::Ready(progress) = wire.poll_receive(cx, batch) {
                    return Poll::Ready(Turn::Read(progress));
                }
                if wire.traffic().bytes > 0 {
                    // In the middle of a message a client cannot answer a ping.
                    peer.received();
                    note_partial(peer, wire, joiner);
                }
            }
            if is_due && let Some(taken) = peer.outbox.try_take() {
                return Poll::Ready(Turn::Write(taken));
            }
            clock.as_mut().poll(cx).map(|()| Turn::Clock)
        })
        .await
    }

    /// Waits for a place in the lane's inbox, or for something to write. `pending` must be `Some`.
    async fn wait_for_lane(&mut self, pending: &mut Option<Item>) -> Turn {
        hold(&self.entry.peer, &mut self.message_deadline, &mut self.timers, true);
        let clock = reached(self.next_time());
        tokio::select! {
            taken = self.entry.peer.outbox.take() => Turn::Write(taken),
            permit = self.inbox.reserve() => match permit {
                Ok(permit) => {
                    permit.send(pending.take().expect("the caller checked it"));
                    Turn::Taken
                }
                Err(_) => Turn::LaneEnded,
            },
            () = clock => Turn::Clock,
        }
    }

    /// Returns when the next timer expires.
    fn next_time(&self) -> Option<Instant> {
        let timer = self.timers.as_ref().and_then(|timers| timers.next_expiry());
        self.message_deadline.time().into_iter().chain(timer).chain(self.leaves_at).min()
    }

    /// Checks the timers.
    fn check_timers(&mut self) -> Result<(), CloseReason> {
        if let Some(timers) = &mut self.timers {
            let peer = &self.entry.peer;
            // A partial message has a deadline of its own.
            let is_busy = peer.is_held() || peer.outbox.is_with_lane();
            timers.check(is_busy || self.message_deadline.time().is_some())?;
        }
        if self.message_deadline.is_expired() {
            let text = "a message was not complete in time (message_timeout)";
            return Err(CloseReason::host(CloseCode::POLICY, text));
        }
        Ok(())
    }

    /// Charges what was read to the rate limiter; returns the frames that completed no message.
    fn charge(&mut self, messages: usize) -> Result<u32, RateExceeded> {
        let Traffic { bytes, frames, pings, pongs } = take(self.wire.traffic());
        self.entry.peer.count_read(bytes.into());
        if self.entry.peer.is_traced() {
            trace::received_control(&self.entry.peer, pings, pongs);
        }
        if let Some(timers) = &mut self.timers {
            let read = Load { messages: messages + frames as usize, bytes: bytes as usize };
            timers.charge(read, messages).map_err(|mut excess| {
                // Frames that completed no message may have preceded the others.
                let allowed = &mut excess.allowed.messages;
                *allowed = allowed.saturating_sub(frames as usize);
                self.entry.peer.resource.counters.add_rate_limited();
                excess
            })?;
            if !timers.may_read() {
                self.entry.peer.resource.counters.add_rate_limited();
            }
        }
        Ok(frames)
    }

    /// Hands what was read to the lane; it stays pending if the inbox is full.
    fn hand_on(
        &mut self,
        batch: &mut Vec<Received>,
        pending: &mut Option<Item>,
    ) -> Result<(), CloseReason> {
        let mut inputs = Vec::with_capacity(batch.len());
        let joined = self.join(batch, &mut inputs);
        if !inputs.is_empty()
            && let Err(refused) = self.inbox.try_inputs(self.peer(), inputs)
        {
            *pending = Some(refused.into_inner());
        }
        joined
    }

    /// Joins chunks and converts messages to inputs, in order.
    fn join(
        &mut self,
        batch: &mut Vec<Received>,
        inputs: &mut Vec<Input>,
    ) -> Result<(), CloseReason> {
        let is_traced = self.entry.peer.is_traced();
        for Received { bytes, form } in batch.drain(..) {
            let traced = is_traced.then(|| bytes.clone());
            let step = self.joiner.take(bytes, form);
            if let Some(bytes) = traced {
                trace::received(&self.entry.peer, form, &bytes, &step);
            }
            inputs.push(match step {
                Step::Deliver(bytes) => {
                    let form = if form == Form::Binary { form } else { Form::Text };
                    Input::Message(Payload::shared(form, bytes))
                }
                Step::Acknowledge => Input::Chunk,
                Step::LimitExceeded(limit) => {
                    return Err(CloseReason::host(CloseCode::TOO_BIG, limit.to_string()));
                }
                Step::Invalid => {
                    return Err(CloseReason::host(CloseCode::INVALID, "text that is not UTF-8"));
                }
            });
        }
        // The deadline restarts with each message; a chunk is only a part of one.
        let is_mid_message = note_partial(&self.entry.peer, &self.wire, &self.joiner);
        if !is_mid_message || inputs.iter().any(|input| matches!(input, Input::Message(_))) {
            self.message_deadline = Deadline::None;
        }
        if is_mid_message {
            self.message_deadline.start(self.timeouts.message);
        }
        Ok(())
    }
}

/// Records the beginning of a message that the connection has read; returns whether there is one.
fn note_partial<S: Socket>(peer: &Peer, wire: &Wire<S>, joiner: &Joiner) -> bool {
    let is_mid_frame = wire.is_mid_message();
    let is_mid_message = is_mid_frame || joiner.is_open();
    let bytes = if is_mid_message { wire.buffered_bytes() + joiner.buffered_bytes() } else { 0 };
    peer.note_partial(is_mid_frame, bytes);
    is_mid_message
}

/// Truncates the batch to the messages that the rate limit allows.
fn truncate(batch: &mut Vec<Received>, mut allowed: Load) {
    let is_allowed = |received: &&Received| {
        let left = allowed.bytes.checked_sub(received.bytes.len());
        allowed.bytes = left.unwrap_or_default();
        left.is_some()
    };
    let count = batch.iter().take(allowed.messages).take_while(is_allowed).count();
    batch.truncate(count);
}

/// Records whether the host reads from the client; while it does not, the client's timers stop.
fn hold(
    peer: &Peer,
    message_deadline: &mut Deadline,
    timers: &mut Option<Box<Timers>>,
    is_held: bool,
) {
    if is_held == peer.is_held() {
        return;
    }
    peer.hold(is_held);
    if let Some(timers) = timers {
        timers.hold(is_held);
    }
    match is_held {
        true => message_deadline.pause(),
        false => message_deadline.resume(),
    }
}

/// Completes at `time`; never for `None`.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
