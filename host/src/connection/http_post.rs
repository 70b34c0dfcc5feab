//! A backend in one HTTP request: `POST /resource` with the message as its body.
//!
//! For the application it is a connection like any other: `open`, one `message`, `close`. The answer's body is what the
//! application sent to it, one packet a line, and last the `next` (with the verdict in its `fyi`) or the `close`.

use std::borrow::Cow;

use bytes::Bytes;
use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use crate::config::Config;
use crate::plugin::lane::Item;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::close::{CloseReason, close_packet};
use crate::protocol::dialog;
use crate::protocol::http::{self, Refusal, response};
use crate::protocol::outgoing::Outgoing;
use crate::protocol::payload::Payload;
use crate::routing::input::{Input, Load};
use crate::routing::outbox::Taken;
use crate::routing::registry::Entry;

pub(crate) const JSON: &str = "application/json";

pub(crate) struct PostRequest {
    /// Of the body, in bytes.
    pub(crate) length: usize,
    /// What of it came with the head.
    pub(crate) read: Vec<u8>,
    pub(crate) inbox: Inbox,
}

/// Hands the request to the application and returns the whole HTTP answer.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: PostRequest,
    entry: Entry,
    config: &Config,
) -> Vec<u8> {
    let limit = config.server.timeouts.message;
    let PostRequest { length, read, inbox } = request;
    let asks_first = http::wants_continue(&entry.peer.head) && read.is_empty();
    let body = match timeout(limit, read_body(stream, read, length, asks_first)).await {
        Ok(Some(body)) => body,
        Ok(None) => return Refusal::bad_request("the body ended early").to_bytes(),
        Err(_) => return Refusal::timed_out().to_bytes(),
    };
    if std::str::from_utf8(&body).is_err() {
        return Refusal::bad_request("the body is not UTF-8").to_bytes();
    }
    let message = Input::Message(Payload::shared(true, Bytes::from(body)));
    let peer = entry.peer.clone();
    let mut said = String::new();
    let exchange = async {
        inbox.send(Item::Open(peer.clone())).await.ok()?;
        inbox
            .send(Item::Inputs {
                peer: peer.clone(),
                inputs: vec![message],
                reserved: Load::default(),
            })
            .await
            .ok()?;
        listen(&entry, &inbox, &mut said).await
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
        said.push_str(&close_packet(&reason));
        said.push('\n');
    }
    peer.outbox.finish();
    drop(entry);
    // In the background: a slow lane need not hold up the answer, but every `open` gets its `close`.
    let close = Item::Close(peer, reason);
    if let Err(TrySendError::Full(close)) = inbox.try_send(close) {
        tokio::runtime::Handle::current().spawn(async move { inbox.send(close).await });
    }
    response(status, JSON, said.as_bytes(), &[])
}

/// Collects what the application sends, until it acknowledges the message (`Some(None)`) or ends the connection. None if the lane has
/// ended.
async fn listen(entry: &Entry, inbox: &Inbox, said: &mut String) -> Option<Option<CloseReason>> {
    let peer = &entry.peer;
    loop {
        let Taken { queue, close, resumes } = peer.outbox.take().await;
        for item in queue {
            let (packet, is_last): (Cow<'_, str>, bool) = match &item {
                Outgoing::Message(payload) => (String::from_utf8_lossy(payload.as_bytes()), false),
                Outgoing::Next(packet) => (packet.as_deref().unwrap_or(dialog::NEXT).into(), true),
                Outgoing::Ready | Outgoing::Ping => continue,
            };
            said.extend(packet.chars().map(|c| if c == '\n' { ' ' } else { c }));
            said.push('\n');
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

/// None if it ends early.
async fn read_body<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    mut body: Vec<u8>,
    length: usize,
    asks_first: bool,
) -> Option<Vec<u8>> {
    if asks_first {
        stream.write_all(http::CONTINUE).await.ok()?;
    }
    // Not by the length that the peer claims: memory grows with what really comes.
    while body.len() < length {
        if matches!(stream.read_buf(&mut body).await, Ok(0) | Err(_)) {
            return None;
        }
    }
    body.truncate(length);
    Some(body)
}
