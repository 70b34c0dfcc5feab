//! Writes what is in the outbox of a connection, while nothing is read from it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use plugsocket_plugin::{CloseCode, ClosedBy};

use super::finish::End;
use super::timers::{Deadline, Timers};
use super::{Connection, Socket, hold, trace};
use crate::protocol::close::CloseReason;
use crate::protocol::io::WriteError;
use crate::protocol::payload::Outgoing;
use crate::routing::peer::Peer;

impl<S: Socket> Connection<S> {
    /// Writes what was taken from the outbox.
    ///
    /// # Errors
    /// The connection has to end.
    pub(super) async fn write(&mut self, mut queue: VecDeque<Outgoing>) -> Result<(), End> {
        if self.wire.is_mid_message() {
            // Queued before the message began.
            queue.retain(|item| !matches!(item, Outgoing::Ping));
        }
        if queue.is_empty() {
            return Ok(());
        }
        let bytes = queue.iter().map(|item| item.len() as u64).sum();
        self.entry.peer.count_written(queue.len(), bytes);
        if let Some(timers) = &mut self.timers {
            timers.note_write(&mut queue);
        }
        self.write_queue(queue).await
    }

    /// Writes a heartbeat, if one is due. It is not activity, so that `idle_timeout` still applies.
    pub(super) async fn write_heartbeat(&mut self) -> Result<(), End> {
        let heartbeat = self.timers.as_mut().and_then(|timers| timers.take_heartbeat());
        match heartbeat {
            Some(heartbeat) => self.write_queue(VecDeque::from([heartbeat])).await,
            None => Ok(()),
        }
    }

    async fn write_queue(&mut self, queue: VecDeque<Outgoing>) -> Result<(), End> {
        let Self { wire, entry, message_deadline, timers, timeouts, .. } = self;
        if entry.peer.is_traced() {
            trace::written(&entry.peer, &queue);
        }
        let writing = pin!(wire.write(queue, &entry.peer.identity, timeouts.write));
        unread(&entry.peer, message_deadline, timers, writing).await
    }

    pub(super) async fn flush(&mut self) -> Result<(), End> {
        let Self { wire, entry, message_deadline, timers, timeouts, .. } = self;
        let flushing = pin!(wire.flush(timeouts.write));
        unread(&entry.peer, message_deadline, timers, flushing).await
    }
}

/// Completes a write, unless the connection is evicted. While the write waits nothing is read,
/// including answers to pings.
async fn unread(
    peer: &Peer,
    message_deadline: &mut Deadline,
    timers: &mut Option<Box<Timers>>,
    mut writing: Pin<&mut impl Future<Output = Result<(), WriteError>>>,
) -> Result<(), End> {
    if let Poll::Ready(written) = poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await {
        return write_result(written);
    }
    let was_held = peer.is_held();
    hold(peer, message_deadline, timers, true);
    let written = poll_fn(|cx| match writing.as_mut().poll(cx) {
        Poll::Pending => peer.outbox.poll_evicted(cx).map(|()| Err(WriteError::Evicted)),
        written => written,
    });
    let written = written.await;
    hold(peer, message_deadline, timers, was_held);
    write_result(written)
}

fn write_result(written: Result<(), WriteError>) -> Result<(), End> {
    match written {
        Ok(()) => Ok(()),
        Err(WriteError::Socket(error)) => {
            Err(End::Left(CloseReason::new(CloseCode::ABNORMAL, ClosedBy::Peer, error.to_string())))
        }
        Err(WriteError::Evicted) => Err(End::Closed(CloseReason::buffers_full())),
        Err(cut) => Err(End::Closed(CloseReason::host(CloseCode::TRY_AGAIN, cut.to_string()))),
    }
}
