//! One connection after its handshake: the only code that touches its socket, in both directions.
//!
//! Reads messages, joins chunks, hands what came to the lane and reads no further until the lane has taken it; writes what is
//! in the outbox. Ends in one place, whatever the cause: the application learns of it after everything that was sent
//! before, and what the application still answered is written before the last words.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use plugsocket_plugin::{CloseCode, ClosedBy, Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::error::SendError;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use crate::chunk::{Form, Joiner, Step};
use crate::config::{Limits, Timeouts};
use crate::outbox::{CloseReason, First, Load, Look, Outgoing, Taken};
use crate::pace::Pace;
use crate::payload::Payload;
use crate::plugin::inbox::Inbox;
use crate::plugin::lane::{Input, Item};
use crate::registry::{Entry, Peer};
use crate::resource::ServiceState;
use crate::share::Share;
use crate::wire::{BATCH_MESSAGES, Progress, READ_BYTES, Received, Traffic, Wire};

/// Why the loop ended.
#[derive(Debug)]
enum End {
    /// The peer has gone; nothing can be written.
    Left(CloseReason),
    /// The host or the application closes; the peer is told.
    Closed(CloseReason),
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
    Overdue,
}

/// What one read may bring, beside one message that began before it.
const ONE_READ: Load = Load { messages: BATCH_MESSAGES, bytes: READ_BYTES };

/// A connection at work.
pub(crate) struct Connection<S> {
    wire: Wire<S>,
    entry: Entry,
    inbox: Inbox,
    joiner: Joiner,
    /// When a message, or an open chunk buffer, that has begun must be whole; later by what the host holds its peer back.
    whole_by: Option<Instant>,
    timeouts: Timeouts,
    pace: Option<Box<Pace>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(
        wire: Wire<S>,
        entry: Entry,
        inbox: Inbox,
        (limits, timeouts): (&Limits, &Timeouts),
        pace: Option<Box<Pace>>,
    ) -> Self {
        let joiner = Joiner::new(limits.max_message, limits.max_chunks);
        Self { wire, entry, inbox, joiner, whole_by: None, timeouts: timeouts.clone(), pace }
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
        let mut first = First::Write;
        // What ended the reading, while what was read before is still pending.
        let mut last: Option<End> = None;
        let mut share = Share::default();
        loop {
            share.rest().await;
            if pending.is_none()
                && let Some(end) = last.take()
            {
                return end;
            }
            let turn = match pending {
                Some(_) => self.wait_for_lane(pending).await,
                None => self.turn(first, &mut batch).await,
            };
            peer.outbox.attend();
            match turn {
                Turn::Taken => peer.hold(self.pace.as_ref().is_some_and(|pace| !pace.may_read())),
                Turn::Write(Taken { queue, close }) => {
                    first = First::Read;
                    share.wrote(queue.len());
                    if let Err(end) = self.write(queue).await {
                        return end;
                    }
                    if let Some(reason) = close {
                        return End::Closed(reason);
                    }
                }
                Turn::LaneEnded => match find_lane(&peer, &self.inbox) {
                    Some(inbox) => self.inbox = inbox,
                    None => return End::Closed(lane_gone(&peer)),
                },
                Turn::Read(progress) => {
                    first = First::Write;
                    peer.heard();
                    let joined = self.count(batch.len()).and_then(|frames| {
                        let begun = share.read(frames, batch.len());
                        let joined = self.hand_on(&mut batch, pending);
                        share.handled(begun);
                        joined
                    });
                    last = match (joined, progress) {
                        (Err(reason), _) | (Ok(()), Progress::Violated(reason)) => {
                            Some(End::Closed(reason))
                        }
                        (Ok(()), Progress::Left(reason)) => Some(End::Left(reason)),
                        (Ok(()), Progress::Pong) => self.flush().await.err(),
                        (Ok(()), Progress::More) => None,
                    };
                }
                Turn::Overdue => {
                    if let Err(reason) = self.wake() {
                        return End::Closed(reason);
                    }
                }
            }
        }
    }

    /// Waits for something to write or to read, whichever comes `first`.
    async fn turn(&mut self, first: First, batch: &mut Vec<Received>) -> Turn {
        let next_time = self.next_time();
        let (wire, outbox, bounds) =
            (&mut self.wire, &self.entry.peer.outbox, self.entry.peer.bounds);
        let is_paced = self.pace.as_ref().is_none_or(|pace| pace.may_read());
        let mut overdue = pin!(reached(next_time));
        poll_fn(|cx| {
            let (may_read, is_due) = match outbox.look(cx, first, ONE_READ, bounds) {
                Look::Write(taken) => return Poll::Ready(Turn::Write(taken)),
                Look::Wait { may_read, is_due } => (may_read, is_due),
            };
            if is_paced
                && may_read
                && let Poll::Ready(progress) = wire.poll_receive(cx, batch)
            {
                return Poll::Ready(Turn::Read(progress));
            }
            if is_due && let Some(taken) = outbox.try_take() {
                return Poll::Ready(Turn::Write(taken));
            }
            overdue.as_mut().poll(cx).map(|()| Turn::Overdue)
        })
        .await
    }

    /// Waits for a place in the lane's inbox, and meanwhile for something to write. What is `pending` must be there.
    async fn wait_for_lane(&self, pending: &mut Option<Item>) -> Turn {
        let overdue = reached(self.next_time());
        tokio::select! {
            taken = self.entry.peer.outbox.take() => Turn::Write(taken),
            permit = self.inbox.reserve() => match permit {
                Ok(permit) => {
                    permit.send(pending.take().expect("what it waits for"));
                    Turn::Taken
                }
                Err(_) => Turn::LaneEnded,
            },
            () = overdue => Turn::Overdue,
        }
    }

    /// When something is due, if nothing happens before.
    fn next_time(&self) -> Option<Instant> {
        match &self.pace {
            None => self.whole_by,
            Some(pace) => self.whole_by.into_iter().chain(pace.next()).min(),
        }
    }

    /// [`next_time`](Self::next_time) has come.
    fn wake(&mut self) -> Result<(), CloseReason> {
        if let Some(pace) = &mut self.pace {
            pace.wake()?;
            self.entry.peer.hold(!pace.may_read());
        }
        if self.whole_by.is_some_and(|by| Instant::now() >= by) {
            let text = "a message was not whole in time (message_timeout)";
            return Err(CloseReason::host(CloseCode::POLICY, text));
        }
        Ok(())
    }

    /// Counts what was read, and so many messages of it; returns how many frames brought none.
    fn count(&mut self, messages: usize) -> Result<u32, CloseReason> {
        let Traffic { bytes, frames } = self.wire.take_traffic();
        if let Some(pace) = &mut self.pace {
            let read = Load { messages: messages + frames as usize, bytes: bytes as usize };
            let held = pace.read(read, messages)?;
            if !held.is_zero() {
                // The host's own doing is not the peer's fault.
                self.whole_by = self.whole_by.map(|by| by + held);
                self.entry.peer.hold(true);
            }
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
            self.peer().hold(true);
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
                Step::TooMuch(limit) => {
                    return Err(CloseReason::host(CloseCode::TOO_BIG, limit.to_string()));
                }
                Step::Invalid => {
                    return Err(CloseReason::host(CloseCode::INVALID, "text that is not UTF-8"));
                }
            });
        }
        // The time begins anew with the next message; a chunk is only a part of one.
        if inputs.iter().any(|input| matches!(input, Input::Message(_))) {
            self.whole_by = None;
        }
        self.whole_by = match (self.joiner.is_open() || self.wire.is_midway(), self.whole_by) {
            (true, None) => Some(Instant::now() + self.timeouts.message),
            (true, by) => by,
            (false, _) => None,
        };
        Ok(())
    }

    async fn write(&mut self, queue: VecDeque<Outgoing>) -> Result<(), End> {
        if queue.is_empty() {
            return Ok(());
        }
        if let Some(pace) = &mut self.pace {
            pace.write(queue.iter());
        }
        let mut writing = pin!(self.wire.write(queue, &self.entry.peer));
        // Hardly any write has to wait, and one that need not wait needs no clock.
        let written = match poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await {
            Poll::Ready(written) => Ok(written),
            Poll::Pending => timeout(self.timeouts.write, writing).await,
        };
        judge(written)
    }

    async fn flush(&mut self) -> Result<(), End> {
        judge(timeout(self.timeouts.write, self.wire.flush()).await)
    }

    /// Takes leave of application and peer.
    pub(crate) async fn end(mut self, Ended { end, pending }: Ended) {
        let patience = self.timeouts.close;
        let peer = self.peer().clone();
        if let End::Left(_) = &end {
            // From here on a feedback is told that nobody is there.
            peer.outbox.finish();
        }
        let (End::Left(reason) | End::Closed(reason)) = &end;
        debug!(code = reason.code.0, by = ?reason.by, reason = reason.text, "connection ends");
        match end {
            End::Left(reason) => {
                let mut wire = self.wire;
                let linger = async move { drop(timeout(patience, wire.linger()).await) };
                // The application need not wait for a peer that keeps its socket, nor the socket for a lane that is stuck.
                tokio::join!(depart(&self.inbox, &peer, pending, reason), linger);
            }
            End::Closed(reason) => {
                // What the application answers to what it was handed before belongs to the peer; but a lane that is stuck
                // must not keep the socket.
                let mut departure = pin!(depart(&self.inbox, &peer, pending, reason.clone()));
                let rest = async {
                    departure.as_mut().await;
                    peer.outbox.rest().await
                };
                let rest = timeout(patience, rest).await;
                let goodbye = async {
                    if let Ok(rest) = rest {
                        self.wire.write(rest, &peer).await?;
                    }
                    self.wire
                        .say_goodbye(&reason, peer.dialog && reason.code != CloseCode::NORMAL)
                        .await?;
                    self.wire.linger().await;
                    io::Result::Ok(())
                };
                drop(timeout(patience, goodbye).await);
                drop(self.wire);
                if !peer.outbox.is_finished() {
                    departure.await;
                }
            }
        }
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

fn judge(written: Result<io::Result<()>, Elapsed>) -> Result<(), End> {
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            Err(End::Left(CloseReason::new(CloseCode::ABNORMAL, ClosedBy::Peer, error.to_string())))
        }
        Err(_) => Err(End::Closed(CloseReason::host(
            CloseCode::TRY_AGAIN,
            "too slow: nothing could be written in time (write_timeout)",
        ))),
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
