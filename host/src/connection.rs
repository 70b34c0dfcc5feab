//! One connection after its handshake: the only code that touches its socket, in both directions.
//!
//! Reads messages, joins chunks, hands what came to the lane and reads no further until the lane has taken it; writes what is
//! in the outbox. Ends in one place, whatever the cause: the application learns of it after everything that was sent
//! before, and what the application still answered is written before the last words.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::{CloseCode, ClosedBy, Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::error::SendError;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use crate::chunk::{Form, Joiner, Step};
use crate::config::{Limits, Timeouts};
use crate::outbox::{CloseReason, Load, Outgoing, Payload, Taken};
use crate::plugin::inbox::Inbox;
use crate::plugin::lane::{Input, Item};
use crate::registry::{Entry, Peer};
use crate::resource::ServiceState;
use crate::wire::{BATCH_MESSAGES, Progress, Received, Wire};

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
    LaneEnded,
    Overdue,
}

/// A connection at work.
pub(crate) struct Connection<S> {
    wire: Wire<S>,
    entry: Entry,
    inbox: Inbox,
    joiner: Joiner,
    /// When a message, or an open chunk buffer, that has begun must be whole.
    whole_by: Option<Instant>,
    timeouts: Timeouts,
    /// What one read may bring.
    one_read: Load,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(
        wire: Wire<S>,
        entry: Entry,
        inbox: Inbox,
        limits: &Limits,
        timeouts: &Timeouts,
    ) -> Self {
        let joiner = Joiner::new(limits.max_message, limits.max_chunks);
        let one_read = Load { messages: BATCH_MESSAGES, bytes: limits.max_message };
        Self { wire, entry, inbox, joiner, whole_by: None, timeouts: timeouts.clone(), one_read }
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

    fn peer(&self) -> &Arc<Peer> {
        &self.entry.peer
    }

    async fn serve(&mut self, pending: &mut Option<Item>) -> End {
        let peer = self.peer().clone();
        let mut batch = Vec::new();
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
            let overdue = reached(self.whole_by);
            let may_read = pending.is_none() && peer.outbox.may_read(self.one_read, peer.bounds);
            let turn = tokio::select! {
                taken = peer.outbox.take() => Turn::Write(taken),
                permit = self.inbox.reserve(), if pending.is_some() => match permit {
                    Ok(permit) => {
                        permit.send(pending.take().expect("guarded by the arm"));
                        continue;
                    }
                    Err(_) => Turn::LaneEnded,
                },
                progress = self.wire.receive(&mut batch), if may_read => Turn::Read(progress),
                () = overdue => Turn::Overdue,
            };
            match turn {
                Turn::Write(Taken { queue, close }) => {
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
                    peer.heard();
                    let begun = share.read(&progress, batch.len());
                    let joined = self.hand_on(&mut batch, pending);
                    share.handled(begun);
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
                    return End::Closed(CloseReason::host(CloseCode::POLICY, OVERDUE));
                }
            }
        }
    }

    /// Gives what was read to the lane, or keeps it pending if there is no place.
    fn hand_on(
        &mut self,
        batch: &mut Vec<Received>,
        pending: &mut Option<Item>,
    ) -> Result<(), CloseReason> {
        let mut inputs = Vec::with_capacity(batch.len());
        let joined = self.join(batch, &mut inputs);
        if !inputs.is_empty() {
            self.peer().outbox.lend(Input::load(&inputs));
            let item = Item::Inputs(self.peer().clone(), inputs);
            if let Err(refused) = self.inbox.try_send(item) {
                *pending = Some(refused.into_inner());
            }
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
                    Input::Message(Payload { is_text: form != Form::Binary, bytes })
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
        let written = timeout(self.timeouts.write, self.wire.write(queue, &self.entry.peer)).await;
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

const OVERDUE: &str = "a message was not whole in time";

/// What a connection had of its thread since the others had their turn. The runtime itself counts reads and writes, up to 128,
/// whatever each costs: twenty peers that flood would make everybody else wait for a tenth of a second.
#[derive(Default)]
struct Share(u32);

impl Share {
    /// Reads or writes of a full batch.
    const MOST: u32 = 4;
    /// The application may have handled right here what was read.
    const LONG: Duration = Duration::from_micros(500);

    /// Lets the others have their turn if it was enough.
    async fn rest(&mut self) {
        if self.0 >= Self::MOST {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }

    fn wrote(&mut self, messages: usize) {
        self.0 += u32::from(messages >= BATCH_MESSAGES);
    }

    /// When what was read begins to be handled, if it is much.
    fn read(&mut self, progress: &Progress, messages: usize) -> Option<Instant> {
        self.0 += match (progress, messages) {
            // A part of a message, fragments or pings: up to ten thousand frames in one read.
            (Progress::Pong, _) | (_, 0) => Self::MOST,
            (_, BATCH_MESSAGES..) => 1,
            _ => 0,
        };
        (messages >= BATCH_MESSAGES).then(Instant::now)
    }

    fn handled(&mut self, begun: Option<Instant>) {
        if begun.is_some_and(|begun| begun.elapsed() > Self::LONG) {
            self.0 = Self::MOST;
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
            "too slow: nothing could be written in time",
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
