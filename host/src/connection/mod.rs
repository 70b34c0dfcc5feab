//! One connection after its handshake: the only code that touches its socket, in both directions.
//!
//! Reads messages, joins chunks, hands what came to the lane and reads no further until the lane has taken it; writes what is
//! in the outbox. Ends in one place, whatever the cause: the application learns of it after everything that was sent
//! before, and what the application still answered is written before the last words.

pub(crate) mod admit;
mod deadline;
pub(crate) mod establish;
mod fairness;
pub(crate) mod handshake;
mod http_post;
pub(crate) mod keep_alive;
pub(crate) mod page;
mod rate_limit;
pub(crate) mod reject;
mod timers;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::take;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use plugsocket_plugin::{CloseCode, ClosedBy, Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::error::SendError;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use self::deadline::Deadline;
use self::fairness::TurnBudget;
use self::rate_limit::RateExceeded;
use self::timers::Timers;
use crate::config::{Limits, Timeouts};
use crate::plugin::lane::Item;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::chunk::{Form, Joiner, Step};
use crate::protocol::close::{CloseReason, close_packet};
use crate::protocol::io::{BATCH_MESSAGES, Progress, READ_BYTES, Received, Traffic, WriteError};
use crate::protocol::outgoing::Outgoing;
use crate::protocol::payload::Payload;
use crate::protocol::wire::Wire;
use crate::routing::input::{Input, Load};
use crate::routing::outbox::{NextStep, Priority, Taken};
use crate::routing::registry::{Entry, Peer};
use crate::routing::resource::ServiceState;

/// Why the loop ended.
#[derive(Debug)]
enum End {
    /// The peer has gone; nothing can be written.
    Left(CloseReason),
    /// The peer is done, and is still told what it is owed.
    Done(CloseReason),
    /// The host or the application closes; the peer is told.
    Closed(CloseReason),
}

impl End {
    fn reason(&self) -> &CloseReason {
        let (Self::Left(reason) | Self::Done(reason) | Self::Closed(reason)) = self;
        reason
    }
}

/// How [`Connection::work`] ended, and what was not handed on by then.
pub(crate) struct Ended {
    end: End,
    pending: Option<Item>,
}

/// What the loop does next.
enum Turn {
    Write(Taken),
    Read(Progress),
    /// The lane has taken what was pending.
    Taken,
    LaneEnded,
    /// A clock may be over, or goes on.
    Clock,
}

/// What one read may bring, beside one message that began before it.
const ONE_READ: Load = Load { messages: BATCH_MESSAGES, bytes: READ_BYTES };

/// A connection at work.
pub(crate) struct Connection<S> {
    wire: Wire<S>,
    entry: Entry,
    inbox: Inbox,
    joiner: Joiner,
    /// For a message, or an open chunk buffer, that has begun.
    whole: Deadline,
    /// When it is no longer waited for the answers to a peer that is done.
    leaves_at: Option<Instant>,
    timeouts: Timeouts,
    timers: Option<Box<Timers>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(
        wire: Wire<S>,
        entry: Entry,
        inbox: Inbox,
        (limits, timeouts): (&Limits, &Timeouts),
        timers: Option<Box<Timers>>,
    ) -> Self {
        let joiner = Joiner::new(limits.max_message, limits.max_chunks);
        let whole = Deadline::None;
        let timeouts = timeouts.clone();
        Self { wire, entry, inbox, joiner, whole, leaves_at: None, timeouts, timers }
    }

    /// Serves the connection until it is to end. Then [`end`](Self::end) it.
    pub(crate) async fn work(&mut self) -> Ended {
        if self.peer().kind == Kind::Backend {
            // Old scripts read the 101 answer and `ready` with one read each, and lose `ready` if both come together.
            tokio::time::sleep(self.timeouts.ready_delay).await;
        }
        let mut pending = Some(Item::Open(self.peer().clone()));
        let end = self.serve(&mut pending).await;
        Ended { end, pending }
    }

    /// The same, but that the host closes it at this time.
    pub(crate) async fn work_until(&mut self, until: Instant) -> Ended {
        let peer = self.peer().clone();
        let mut work = pin!(self.work());
        tokio::select! {
            ended = &mut work => return ended,
            () = sleep_until(until) => {
                // One that is going needs no other reason.
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
        // What ended the reading, while what was read before is still pending.
        let mut last: Option<End> = None;
        // The lane deferred something and is to go on with it.
        let mut resumes = false;
        let mut budget = TurnBudget::default();
        loop {
            budget.rest().await;
            if pending.is_none() {
                if take(&mut resumes) {
                    peer.outbox.written();
                    *pending = Some(Item::Resume(peer.clone()));
                } else if self.may_end(last.as_ref())
                    && let Some(end) = last.take()
                {
                    return end;
                }
            }
            let turn = match pending {
                Some(_) => self.wait_for_lane(pending).await,
                None => self.turn((last.is_none(), first), &mut batch).await,
            };
            peer.outbox.attend();
            match turn {
                Turn::Taken => {}
                Turn::Write(taken) => {
                    first = Priority::Read;
                    budget.wrote(taken.queue.len());
                    resumes |= taken.resumes;
                    if let Err(end) = self.write(taken.queue).await {
                        return end;
                    }
                    if let Some(reason) = taken.close {
                        return End::Closed(reason);
                    }
                    self.leave(last.as_ref());
                }
                Turn::LaneEnded => match find_lane(&peer, &self.inbox) {
                    Some(inbox) => self.inbox = inbox,
                    None => return End::Closed(lane_gone(&peer)),
                },
                Turn::Read(progress) => {
                    first = Priority::Write;
                    peer.received();
                    last = self.take_in(progress, &mut batch, pending, &mut budget).await;
                    self.leave(last.as_ref());
                }
                Turn::Clock => {
                    if let Err(reason) = self.wake() {
                        return End::Closed(reason);
                    }
                }
            }
        }
    }

    /// Gives the lane time to answer a peer that is done.
    fn leave(&mut self, end: Option<&End>) {
        if let Some(End::Done(_)) = end {
            self.leaves_at = Some(Instant::now() + self.timeouts.close);
        }
    }

    /// Whether the reading's `end` is the connection's. A peer that is done is first told all that it asked for, in goes that its outbox
    /// can hold; but not for longer than `close_timeout` in which the lane answers nothing.
    fn may_end(&self, end: Option<&End>) -> bool {
        match end {
            Some(End::Done(_)) => {
                !self.peer().outbox.is_with_lane()
                    || self.leaves_at.is_some_and(|at| at <= Instant::now())
            }
            _ => true,
        }
    }

    /// Deals with what was read, up to what it ended with.
    async fn take_in(
        &mut self,
        progress: Progress,
        batch: &mut Vec<Received>,
        pending: &mut Option<Item>,
        budget: &mut TurnBudget,
    ) -> Option<End> {
        let joined = match self.count(batch.len()) {
            Ok(frames) => {
                let begun = budget.read(frames, batch.len());
                let joined = self.hand_on(batch, pending);
                budget.handled(begun);
                joined
            }
            Err(RateExceeded { reason, allowed }) => {
                cut(batch, allowed);
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

    /// Waits for something to write or to read, if it reads, whichever comes `first`.
    async fn turn(&mut self, (reads, first): (bool, Priority), batch: &mut Vec<Received>) -> Turn {
        let next_time = match self.leaves_at {
            None => self.next_time(),
            leaves_at => self.next_time().into_iter().chain(leaves_at).min(),
        };
        let Self { wire, entry, whole, timers, .. } = self;
        let peer = &*entry.peer;
        let is_paced = !reads || timers.as_ref().is_none_or(|timers| timers.may_read());
        let more = reads.then_some(ONE_READ);
        let mut clock = pin!(reached(next_time));
        poll_fn(|cx| {
            let (may_read, is_due) = match peer.outbox.look(cx, first, more, peer.bounds) {
                NextStep::Write(taken) => return Poll::Ready(Turn::Write(taken)),
                NextStep::Wait { may_read, is_due } => (is_paced && may_read, is_due),
            };
            if may_read == peer.is_held() {
                hold(peer, whole, timers, !may_read);
                // Other clocks run than those that are waited for here.
                return Poll::Ready(Turn::Clock);
            }
            if may_read {
                if !reads {
                    return Poll::Ready(Turn::Clock);
                }
                if let Poll::Ready(progress) = wire.poll_receive(cx, batch) {
                    return Poll::Ready(Turn::Read(progress));
                }
                if wire.has_received() {
                    // In the middle of a message a peer cannot answer a ping.
                    peer.received();
                }
            }
            if is_due && let Some(taken) = peer.outbox.try_take() {
                return Poll::Ready(Turn::Write(taken));
            }
            clock.as_mut().poll(cx).map(|()| Turn::Clock)
        })
        .await
    }

    /// Waits for a place in the lane's inbox, and meanwhile for something to write. What is `pending` must be there.
    async fn wait_for_lane(&mut self, pending: &mut Option<Item>) -> Turn {
        hold(&self.entry.peer, &mut self.whole, &mut self.timers, true);
        let clock = reached(self.next_time());
        tokio::select! {
            taken = self.entry.peer.outbox.take() => Turn::Write(taken),
            permit = self.inbox.reserve() => match permit {
                Ok(permit) => {
                    permit.send(pending.take().expect("what it waits for"));
                    Turn::Taken
                }
                Err(_) => Turn::LaneEnded,
            },
            () = clock => Turn::Clock,
        }
    }

    /// When a clock is over, if nothing happens before.
    fn next_time(&self) -> Option<Instant> {
        match &self.timers {
            None => self.whole.time(),
            Some(timers) => self.whole.time().into_iter().chain(timers.next()).min(),
        }
    }

    /// [`next_time`](Self::next_time) may have come.
    fn wake(&mut self) -> Result<(), CloseReason> {
        if let Some(timers) = &mut self.timers {
            let peer = &self.entry.peer;
            // What is under way has a time of its own.
            let is_busy = peer.is_held() || peer.outbox.is_with_lane();
            timers.wake(is_busy || self.whole.time().is_some())?;
        }
        if self.whole.is_over() {
            let text = "a message was not whole in time (message_timeout)";
            return Err(CloseReason::host(CloseCode::POLICY, text));
        }
        Ok(())
    }

    /// Counts what was read, and so many messages of it; returns how many frames brought none.
    fn count(&mut self, messages: usize) -> Result<u32, RateExceeded> {
        let Traffic { bytes, frames } = self.wire.take_traffic();
        if let Some(timers) = &mut self.timers {
            let read = Load { messages: messages + frames as usize, bytes: bytes as usize };
            timers.read(read, messages).map_err(|excess| excess.behind(frames as usize))?;
        }
        Ok(frames)
    }

    /// Gives what was read to the lane, or keeps it pending if there is no place.
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

    /// Turns what was read into what the lane gets, in order.
    fn join(
        &mut self,
        batch: &mut Vec<Received>,
        inputs: &mut Vec<Input>,
    ) -> Result<(), CloseReason> {
        for Received { bytes, form } in batch.drain(..) {
            inputs.push(match self.joiner.take(bytes, form) {
                Step::Deliver(bytes) => {
                    Input::Message(Payload::shared(form != Form::Binary, bytes))
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
        // The time begins anew with the next message; a chunk is only a part of one.
        let is_mid_message = self.joiner.is_open() || self.wire.is_mid_message();
        if !is_mid_message || inputs.iter().any(|input| matches!(input, Input::Message(_))) {
            self.whole = Deadline::None;
        }
        if is_mid_message {
            self.whole.begin(self.timeouts.message);
        }
        Ok(())
    }

    async fn write(&mut self, queue: VecDeque<Outgoing>) -> Result<(), End> {
        if queue.is_empty() {
            return Ok(());
        }
        if let Some(timers) = &mut self.timers {
            timers.write(queue.iter());
        }
        let Self { wire, entry, whole, timers, timeouts, .. } = self;
        let writing = pin!(wire.write(queue, entry.peer.identity.as_str(), timeouts.write));
        judge(unread(&entry.peer, whole, timers, writing).await)
    }

    async fn flush(&mut self) -> Result<(), End> {
        let Self { wire, entry, whole, timers, timeouts, .. } = self;
        let flushing = pin!(timeout(timeouts.write, wire.flush()));
        let flushed = unread(&entry.peer, whole, timers, flushing).await;
        judge(flushed.map_or(Err(WriteError::Late), |flushed| flushed.map_err(Into::into)))
    }

    /// Takes leave of application and peer.
    pub(crate) async fn end(self, Ended { end, pending }: Ended) {
        let peer = self.peer().clone();
        let reason = end.reason().clone();
        debug!(code = reason.code.0, by = ?reason.by, reason = reason.text, "connection ends");
        let is_owed = match end {
            End::Left(_) => {
                // From here on a feedback is told that nobody is there.
                peer.outbox.finish();
                false
            }
            End::Done(_) => peer.outbox.settle(),
            End::Closed(_) => true,
        };
        if is_owed {
            self.settle(end, pending).await;
            return;
        }
        let (inbox, close_timeouts) = (self.inbox, self.timeouts.close);
        let mut wire = self.wire;
        let rejector = async move {
            if matches!(end, End::Left(_)) || wire.answer_close().await.is_ok() {
                wire.linger().await;
            }
        };
        // The application need not wait for a peer that keeps its socket, nor the socket for a lane that is stuck.
        let rejector = async move { drop(timeout(close_timeouts, rejector).await) };
        tokio::join!(depart(&inbox, &peer, pending, reason), rejector);
    }

    /// Tells the application, writes what the peer is owed, and says goodbye. A lane that is stuck must not keep the socket.
    async fn settle(mut self, end: End, pending: Option<Item>) {
        let (peer, close_timeouts) = (self.peer().clone(), self.timeouts.close);
        let mut departure = pin!(depart(&self.inbox, &peer, pending, end.reason().clone()));
        let mut is_told = false;
        let rest = async {
            departure.as_mut().await;
            is_told = true;
            peer.outbox.rest().await
        };
        let rest = timeout(close_timeouts, rest).await.unwrap_or_default();
        let goodbye = async {
            // Behind a write that was given up nothing more is taken, or it would be missing in front of it.
            let _lost = self.wire.write(rest, peer.identity.as_str(), close_timeouts).await;
            match &end {
                End::Closed(reason) => {
                    let with_packet = peer.dialog && reason.code != CloseCode::NORMAL;
                    let packet = with_packet.then(|| close_packet(reason));
                    self.wire.send_close(reason, packet).await?;
                }
                End::Done(_) | End::Left(_) => self.wire.answer_close().await?,
            }
            self.wire.linger().await;
            io::Result::Ok(())
        };
        if timeout(close_timeouts, goodbye).await.is_err() {
            self.wire.start_shutdown().await;
        }
        drop(self.wire);
        if !is_told && !peer.outbox.is_finished() {
            departure.await;
        }
    }
}

/// Writes. If that cannot be done at once, nothing is read meanwhile, nor an answer to a ping.
async fn unread<T>(
    peer: &Peer,
    whole: &mut Deadline,
    timers: &mut Option<Box<Timers>>,
    mut writing: Pin<&mut impl Future<Output = T>>,
) -> T {
    if let Poll::Ready(written) = poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await {
        return written;
    }
    let was_held = peer.is_held();
    hold(peer, whole, timers, true);
    let written = writing.await;
    hold(peer, whole, timers, was_held);
    written
}

/// Leaves the first messages, as many as are allowed.
fn cut(batch: &mut Vec<Received>, mut allowed: Load) {
    let is_allowed = |received: &&Received| {
        let left = allowed.bytes.checked_sub(received.bytes.len());
        allowed.bytes = left.unwrap_or_default();
        left.is_some()
    };
    let count = batch.iter().take(allowed.messages).take_while(is_allowed).count();
    batch.truncate(count);
}

/// Whether the host reads from a peer: while it does not, the clocks for what the peer does stand still.
fn hold(peer: &Peer, whole: &mut Deadline, timers: &mut Option<Box<Timers>>, is_held: bool) {
    if is_held == peer.is_held() {
        return;
    }
    peer.hold(is_held);
    if let Some(timers) = timers {
        timers.hold(is_held);
    }
    match is_held {
        true => whole.stop(),
        false => whole.go_on(),
    }
}

/// At this time; never for None.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Hands on what is still pending, and then the end. Waits as long as the lane makes it wait: every `open` gets its `close`.
async fn depart(inbox: &Inbox, peer: &Arc<Peer>, pending: Option<Item>, reason: CloseReason) {
    let mut inbox = inbox.clone();
    for mut item in pending.into_iter().chain([Item::Close(peer.clone(), reason)]) {
        while let Err(SendError(refused)) = inbox.send(item).await {
            let Some(next) = find_lane(peer, &inbox) else {
                // The lane has closed all its connections when it ended.
                peer.outbox.finish();
                return;
            };
            (inbox, item) = (next, refused);
        }
    }
}

/// The lane that took the place of one that has ended; what was sent to that one is done first.
fn find_lane(peer: &Peer, ended: &Inbox) -> Option<Inbox> {
    match &peer.resource.service().state {
        ServiceState::Serving(inbox) if !inbox.same_channel(ended) => Some(inbox.clone()),
        _ => None,
    }
}

fn judge(written: Result<(), WriteError>) -> Result<(), End> {
    match written {
        Ok(()) => Ok(()),
        Err(WriteError::Socket(error)) => {
            Err(End::Left(CloseReason::new(CloseCode::ABNORMAL, ClosedBy::Peer, error.to_string())))
        }
        Err(late) => Err(End::Closed(CloseReason::host(CloseCode::TRY_AGAIN, late.to_string()))),
    }
}

fn lane_gone(peer: &Peer) -> CloseReason {
    match &peer.resource.service().state {
        ServiceState::Unavailable(outage) => outage.close_reason(),
        ServiceState::Serving(_) => {
            CloseReason::host(CloseCode::AWAY, "this application was removed")
        }
    }
}
