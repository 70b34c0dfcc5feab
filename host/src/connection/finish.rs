//! The end of a connection: notifies the application, writes remaining answers, closes the socket.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::sync::mpsc::error::SendError;
use tracing::debug;

use super::{Connection, Socket, trace};
use crate::plugin::lane::Item;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::close::{CloseReason, close_packet};
use crate::protocol::time_limit::timeout;
use crate::routing::peer::Peer;
use crate::routing::resource::{Resource, ServiceState};

/// Why the connection loop ended.
#[derive(Debug)]
pub(super) enum End {
    /// The socket is closed or broken; nothing can be written.
    Left(CloseReason),
    /// The client has finished sending and still receives pending answers.
    Done(CloseReason),
    /// The host or the application closes the connection and sends the reason.
    Closed(CloseReason),
}

impl End {
    pub(super) fn reason(&self) -> &CloseReason {
        let (Self::Left(reason) | Self::Done(reason) | Self::Closed(reason)) = self;
        reason
    }

    /// Returns whether the client first receives the answers to the messages that the application
    /// already has.
    pub(super) fn waits_for_answers(&self) -> bool {
        match self {
            Self::Left(_) => false,
            Self::Done(_) => true,
            Self::Closed(reason) => reason.waits_for_answers(),
        }
    }
}

/// How [`Connection::work`] ended, and the item that the lane has not taken.
pub(crate) struct Ended {
    pub(super) end: End,
    pub(super) pending: Option<Item>,
}

impl<S: Socket> Connection<S> {
    /// Notifies the application and closes the socket.
    pub(crate) async fn end(mut self, Ended { end, mut pending }: Ended) {
        let peer = self.peer().clone();
        if peer.outbox.is_evicted() {
            peer.outbox.written();
            if let Some(Item::Inputs { reserved, .. }) = &pending {
                peer.outbox.release(*reserved);
                pending = None;
            }
        }
        if peer.input_bytes() > 0 {
            // Not a message any more, and the goodbye may take long.
            self.wire.discard_input();
            self.joiner.discard();
            peer.note_partial(false, 0);
        }
        let reason = end.reason().clone();
        peer.resource.counters.closings.add(&reason);
        let is_peers = reason.by == ClosedBy::Peer;
        let shown = if is_peers { cut(&reason.text) } else { &reason.text };
        debug!(code = reason.code.0, by = ?reason.by, reason = shown, "connection closed");
        let has_answers = match end {
            End::Left(_) => {
                // From now on a feedback is answered `gone`.
                peer.outbox.finish();
                false
            }
            End::Done(_) => peer.outbox.begin_draining(),
            End::Closed(_) => true,
        };
        if has_answers {
            return self.finish_writing(end, pending).await;
        }
        if peer.is_traced() {
            trace::closed(&peer, &reason);
        }
        let (inbox, limit) = (self.inbox, self.timeouts.close);
        let mut wire = self.wire;
        let goodbye = async move {
            if matches!(end, End::Left(_)) || wire.answer_close().await.is_ok() {
                wire.linger().await;
            }
        };
        // Concurrently: neither waits for the other, be it a slow client or a stuck lane.
        let goodbye = async move { drop(timeout(limit, goodbye).await) };
        tokio::join!(notify_close(&inbox, &peer, pending, reason), goodbye);
    }

    /// Notifies the application, writes the remaining answers and closes. A stuck lane must not
    /// keep the socket open.
    async fn finish_writing(mut self, end: End, pending: Option<Item>) {
        let (peer, limit) = (self.peer().clone(), self.timeouts.close);
        let mut notification =
            pin!(notify_close(&self.inbox, &peer, pending, end.reason().clone()));
        let mut is_notified = false;
        let rest = async {
            notification.as_mut().await;
            is_notified = true;
            peer.outbox.remaining().await
        };
        let rest = timeout(limit, rest).await.unwrap_or_default();
        if peer.is_traced() {
            trace::written(&peer, &rest);
            trace::closed(&peer, end.reason());
        }
        let goodbye = async {
            // After an abandoned write the wire takes nothing more, so the stream has no gap.
            let _lost = self.wire.write(rest, &peer.identity, limit).await;
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
        if timeout(limit, goodbye).await.is_err() {
            self.wire.start_shutdown().await;
        }
        drop(self.wire);
        if !is_notified && !peer.outbox.is_finished() {
            notification.await;
        }
    }
}

/// Returns the beginning of a text that a client has chosen: 40 characters.
fn cut(text: &str) -> &str {
    text.char_indices().nth(40).map_or(text, |(end, _)| &text[..end])
}

/// Sends the pending item and then `close` to the lane. Waits as long as the lane takes: every
/// `open` has its `close`.
async fn notify_close(inbox: &Inbox, peer: &Arc<Peer>, pending: Option<Item>, reason: CloseReason) {
    let mut inbox = inbox.clone();
    for mut item in pending.into_iter().chain([Item::Close(peer.clone(), reason)]) {
        while let Err(SendError(refused)) = inbox.send(item).await {
            let Ok(next) = find_lane(&peer.resource, &inbox) else {
                // The lane closed all its connections when it ended.
                peer.outbox.finish();
                return;
            };
            (inbox, item) = (next, refused);
        }
    }
}

/// Returns the lane that replaced one that has ended, or the reason for closing if none did.
pub(super) fn find_lane(resource: &Resource, ended: &Inbox) -> Result<Inbox, CloseReason> {
    match &resource.service().state {
        ServiceState::Serving(inbox) if !inbox.same_channel(ended) => Ok(inbox.clone()),
        ServiceState::Serving(_) => {
            Err(CloseReason::host(CloseCode::AWAY, "this application was removed"))
        }
        ServiceState::Unavailable(outage) => Err(outage.close_reason()),
    }
}
