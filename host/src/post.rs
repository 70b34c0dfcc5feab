//! A backend in one HTTP request: `POST /resource` with the message as its body.
//!
//! For the application it is a connection like any other: `open`, one `message`, `close`. The answer's body is what the
//! application sent to it, one packet a line, and last the `next` (with the verdict in its `fyi`) or the `close`.

use std::fmt::Write as _;

use bytes::Bytes;
use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::config::Config;
use crate::dialog;
use crate::http::{self, Refusal, response};
use crate::outbox::{CloseReason, Outgoing, Payload, Taken};
use crate::plugin::lane::{Inbox, Input, Item};
use crate::registry::Entry;
use crate::wire::close_packet;

pub(crate) const JSON: &str = "application/json";

pub(crate) struct Request {
    /// Of the body, in bytes.
    pub(crate) length: usize,
    /// What of it came with the head.
    pub(crate) read: Vec<u8>,
    pub(crate) inbox: Inbox,
}

/// Hands the request to the application and returns the whole HTTP answer.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: Request,
    entry: Entry,
    config: &Config,
) -> Vec<u8> {
    let limit = config.server.timeouts.message;
    let Request { length, read, inbox } = request;
    let asks_first = http::wants_continue(&entry.peer.head) && read.is_empty();
    let body = match timeout(limit, read_body(stream, read, length, asks_first)).await {
        Ok(Some(body)) => body,
        Ok(None) => return Refusal::bad_request("the body ended early").to_bytes(),
        Err(_) => return Refusal::timed_out().to_bytes(),
    };
    if std::str::from_utf8(&body).is_err() {
        return Refusal::bad_request("the body is not UTF-8").to_bytes();
    }
    let message = Input::Message(Payload { is_text: true, bytes: Bytes::from(body) });
    let peer = entry.peer.clone();
    let mut said = String::new();
    let exchange = async {
        let sent = inbox.send(Item::Open(peer.clone())).await;
        sent.and(inbox.send(Item::Inputs(peer.clone(), vec![message])).await).ok()?;
        Some(listen(&entry, &mut said).await)
    };
    let (status, reason) = match timeout(limit, exchange).await {
        Ok(Some(None)) => (200, CloseReason::new(CloseCode::NORMAL, ClosedBy::Peer, "")),
        Ok(Some(Some(reason))) => (422, reason),
        Ok(None) => (503, CloseReason::host(CloseCode::AWAY, "this application was removed")),
        Err(_) => (503, CloseReason::host(CloseCode::TRY_AGAIN, "the application did not answer in time")),
    };
    if status != 200 {
        said.push_str(&close_packet(&reason));
        said.push('\n');
    }
    // The lane may be slow to take this; the peer need not wait for it.
    tokio::task::Builder::new();
    response(status, JSON, said.as_bytes(), &[])
}
