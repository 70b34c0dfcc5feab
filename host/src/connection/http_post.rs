//! HTTP ingress: `POST /resource` delivers its body as one message of a backend.
//!
//! The application sees an ordinary connection: `open`, one `message`, `close`. The response body
//! has the packets that the application sent, one per line, then `next` (with the verdict in its
//! `fyi`) or `close`.

use std::borrow::Cow;

use bytes::Bytes;
use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use super::Socket;
use crate::config::Config;
use crate::plugin::lane::Item;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::chunk::Form;
use crate::protocol::close::{CloseReason, close_packet};
use crate::protocol::dialog;
use crate::protocol::http::{self, Refusal, response};
use crate::protocol::payload::{Outgoing, Payload};
use crate::routing::input::{Input, Load};
use crate::routing::outbox::Taken;
use crate::routing::registry::Entry;

/// Content type of packets.
pub(crate) const JSON: &str = "application/json";

/// A POST request whose head has been read.
pub(crate) struct PostRequest {
    /// Length of the body in bytes.
    pub(crate) length: usize,
    /// The part of the body that arrived with the head.
    pub(crate) read: Vec<u8>,
    pub(crate) inbox: Inbox,
}

/// Hands the body to the application and returns the complete HTTP response.
pub(crate) async fn serve(
    stream: &mut impl Socket,
    request: PostRequest,
    entry: Entry,
    config: &Config,
) -> Vec<u8> {
    let limit = config.server.timeouts.message;
    let PostRequest { length, read, inbox } = request;
    let expects_continue = http::wants_continue(&entry.peer.client.head) && read.is_empty();
    let body = match timeout(limit, read_body(stream, read, length, expects_continue)).await {
        Ok(Some(body)) => body,
        Ok(None) => return Refusal::bad_request("the body ended early").to_bytes(),
        Err(_) => return Refusal::timed_out().to_bytes(),
    };
    if std::str::from_utf8(&body).is_err() {
        return Refusal::bad_request("the body is not UTF-8").to_bytes();
    }
    let message = Input::Message(Payload::shared(Form::Text, Bytes::from(body)));
    let peer = entry.peer.clone();
    let mut answer = String::new();
    let exchange = async {
        inbox.send(Item::Open(peer.clone())).await.ok()?;
        let (peer, inputs, reserved) = (peer.clone(), vec![message], Load::default());
        inbox.send(Item::Inputs { peer, inputs, reserved }).await.ok()?;
        collect_answer(&entry, &inbox, &mut answer).await
    };
    let (status, reason) = match timeout(limit, exchange).await {
        Ok(Some(None)) => (200, CloseReason::new(CloseCode::NORMAL, ClosedBy::Peer, "")),
        Ok(Some(Some(reason))) => (422, reason),
        Ok(None) => (503, CloseReason::host(CloseCode::AWAY, "this application was removed")),
        Err(_) => {
            (503, CloseReason::host(CloseCode::TRY_AGAIN, "the application did not answer in time"))
        }
    };
    if status != 200 {
        answer.push_str(&close_packet(&reason));
        answer.push('\n');
    }
    peer.outbox.finish();
    drop(entry);
    // Every `open` has its `close`. In the background: a full inbox must not delay the response.
    let close = Item::Close(peer, reason);
    if let Err(TrySendError::Full(close)) = inbox.try_send(close) {
        tokio::runtime::Handle::current().spawn(async move { inbox.send(close).await });
    }
    response(status, JSON, answer.as_bytes(), &[])
}

/// Collects what the application sends until it acknowledges the message (`Some(None)`) or closes
/// the connection (`Some(Some(reason))`). `None` if the lane has ended.
async fn collect_answer(
    entry: &Entry,
    inbox: &Inbox,
    answer: &mut String,
) -> Option<Option<CloseReason>> {
    let peer = &entry.peer;
    loop {
        let Taken { queue, close, resumes } = peer.outbox.take().await;
        for item in queue {
            let (packet, is_last): (Cow<'_, str>, bool) = match &item {
                Outgoing::Message(payload) => (String::from_utf8_lossy(payload.as_bytes()), false),
                Outgoing::Next(packet) => (packet.as_deref().unwrap_or(dialog::NEXT).into(), true),
                Outgoing::Ready | Outgoing::Ping => continue,
            };
            answer.extend(packet.chars().map(|c| if c == '\n' { ' ' } else { c }));
            answer.push('\n');
            if is_last {
                return Some(None);
            }
        }
        if close.is_some() {
            return Some(close);
        }
        if resumes {
            peer.outbox.written();
            inbox.send(Item::Resume(peer.clone())).await.ok()?;
        }
    }
}

/// Reads the body; `None` if it ends early.
async fn read_body(
    stream: &mut impl Socket,
    mut body: Vec<u8>,
    length: usize,
    expects_continue: bool,
) -> Option<Vec<u8>> {
    if expects_continue {
        stream.write_all(http::CONTINUE).await.ok()?;
    }
    // Memory grows with what arrives, not with the length that the client claims.
    while body.len() < length {
        if matches!(stream.read_buf(&mut body).await, Ok(0) | Err(_)) {
            return None;
        }
    }
    body.truncate(length);
    Some(body)
}
