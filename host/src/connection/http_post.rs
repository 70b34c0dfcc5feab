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
use tokio::time::Instant;

use super::Socket;
use crate::config::{Config, MessageLimits};
use crate::net::connection_limits::ConnectionLimits;
use crate::plugin::lane::Item;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::buffered::{PostShare, PostsFull};
use crate::protocol::chunk::Form;
use crate::protocol::close::{BUFFERS_FULL, CloseReason, RETRY_AFTER, close_packet};
use crate::protocol::dialog;
use crate::protocol::http::{self, Answer, BodyEnd, ChunkedBody, Head, Refusal, response};
use crate::protocol::payload::{Outgoing, Payload};
use crate::protocol::time_limit::{timeout, timeout_at};
use crate::routing::input::{Input, Load};
use crate::routing::outbox::Taken;
use crate::routing::registry::Entry;

/// Content type of packets.
pub(crate) const JSON: &str = "application/json";

/// The body of a request.
pub(crate) struct Received {
    pub(crate) body: Bytes,
    /// What was read behind the request.
    pub(crate) rest: Vec<u8>,
    /// Counts the body.
    pub(crate) share: PostShare,
}

/// A POST request that was read.
pub(crate) struct PostRequest {
    pub(crate) received: Received,
    pub(crate) inbox: Inbox,
}

/// A response after which the connection may stay open.
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    /// What was read behind the request.
    pub(crate) rest: Vec<u8>,
    /// Counts the response until it is written.
    pub(crate) share: PostShare,
}

/// A complete response that ends its connection.
pub(crate) struct ErrorResponse {
    pub(crate) bytes: Vec<u8>,
    /// Counts the response until it is written.
    pub(crate) share: PostShare,
}

impl From<Refusal> for ErrorResponse {
    fn from(refusal: Refusal) -> Self {
        Self { bytes: refusal.to_bytes(), share: PostShare::default() }
    }
}

/// Waits until there is a byte of the next request in `read`. Returns false if the connection has to
/// close instead: the client closed it or sent nothing until `by`, or keep-alive has ended.
pub(crate) async fn wait_for_next(
    stream: &mut impl Socket,
    read: &mut Vec<u8>,
    by: Instant,
    limits: &ConnectionLimits,
) -> bool {
    let arrival = async {
        // Some clients send an empty line behind a body, which the reader of the head drops.
        while b"\r\n".starts_with(read) {
            read.reserve(1024);
            if matches!(stream.read_buf(read).await, Ok(0) | Err(_)) {
                return false;
            }
        }
        true
    };
    tokio::select! {
        biased;
        arrived = timeout_at(by, arrival) => arrived.unwrap_or(false),
        () = limits.keep_alive_ended() => false,
    }
}

/// Receives the body of a request in time. `read` is what arrived with the head: a part of the
/// body, or more.
pub(crate) async fn receive(
    stream: &mut impl Socket,
    head: &Head,
    read: Vec<u8>,
    end: BodyEnd,
    config: &Config,
) -> Result<Received, Refusal> {
    let expects_continue = http::wants_continue(head) && read.is_empty();
    let share = PostShare::default();
    let body = async {
        if expects_continue && end != BodyEnd::Length(0) {
            send_continue(stream).await?;
        }
        read_body(stream, read, end, &config.server.limits.messages, &share).await
    };
    let body = timeout(config.server.timeouts.message, body).await;
    let (body, rest) = body.unwrap_or_else(|_| Err(Refusal::timed_out()))?;
    Ok(Received { body: body.into(), rest, share })
}

/// Hands the body to the application and returns its answer.
///
/// # Errors
/// The connection must close after the response.
pub(crate) async fn serve(
    request: PostRequest,
    entry: Entry,
    config: &Config,
) -> Result<Reply, ErrorResponse> {
    let limit = config.server.timeouts.message;
    let PostRequest { received: Received { body, rest, share }, inbox } = request;
    if std::str::from_utf8(&body).is_err() {
        return Err(Refusal::bad_request("the body is not UTF-8").into());
    }
    let message = Input::Message(Payload::shared(Form::Text, body));
    let peer = entry.peer.clone();
    let mut answer = Collected { text: String::new(), share };
    let exchange = async {
        inbox.send(Item::Open(peer.clone())).await.ok()?;
        let (peer, inputs, reserved) = (peer.clone(), vec![message], Load::default());
        inbox.send(Item::Inputs { peer, inputs, reserved }).await.ok()?;
        collect_answer(&entry, &inbox, &mut answer).await
    };
    let closed = match timeout(limit, exchange).await {
        Ok(Some(closed)) => closed,
        Ok(None) => Some(CloseReason::host(CloseCode::AWAY, "this application was removed")),
        Err(_) => {
            let text = "the application did not answer in time";
            Some(CloseReason::host(CloseCode::TRY_AGAIN, text))
        }
    };
    let result = match &closed {
        None => {
            let Collected { text, share } = answer;
            let (headers, body) = (vec![("Content-Type".into(), JSON.into())], text.into_bytes());
            Ok(Reply { answer: Answer { status: 200, headers, body }, rest, share })
        }
        Some(reason) => {
            let packets = [answer.text, close_packet(reason), "\n".to_owned()].concat();
            let bytes = closed_response(reason, packets.as_bytes());
            Err(ErrorResponse { bytes, share: answer.share })
        }
    };
    let reason = closed.unwrap_or_else(|| CloseReason::peer(CloseCode::NORMAL, ""));
    peer.outbox.finish();
    drop(entry);
    // Every `open` has its `close`. In the background: a full inbox must not delay the response.
    let close = Item::Close(peer, reason);
    if let Err(TrySendError::Full(close)) = inbox.try_send(close) {
        tokio::runtime::Handle::current().spawn(async move { inbox.send(close).await });
    }
    result
}

/// Returns the response for a connection that the application or the host closed.
fn closed_response(reason: &CloseReason, packets: &[u8]) -> Vec<u8> {
    match (reason.by, reason.code) {
        (ClosedBy::Host, _) => {
            let after = reason.retry_after.unwrap_or(RETRY_AFTER);
            Refusal::unavailable("", after).with_body(JSON, packets)
        }
        // The application panicked, or reports an error of its own.
        (_, CloseCode::ERROR) => response(500, JSON, packets, &[]),
        _ => response(422, JSON, packets, &[]),
    }
}

/// Collects what the application sends until it acknowledges the message (`Some(None)`) or closes
/// the connection (`Some(Some(reason))`). `None` if the lane has ended.
async fn collect_answer(
    entry: &Entry,
    inbox: &Inbox,
    answer: &mut Collected,
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
            if answer.push(&packet).is_err() {
                return Some(Some(CloseReason::buffers_full()));
            }
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

/// The packets of an answer, one per line.
struct Collected {
    text: String,
    share: PostShare,
}

impl Collected {
    fn push(&mut self, packet: &str) -> Result<(), PostsFull> {
        self.text.extend(packet.chars().map(|c| if c == '\n' { ' ' } else { c }));
        self.text.push('\n');
        self.share.set(self.text.capacity())
    }
}

fn ended() -> Refusal {
    Refusal::bad_request("the body ended early")
}

async fn send_continue(stream: &mut impl Socket) -> Result<(), Refusal> {
    stream.write_all(http::CONTINUE).await.map_err(|_| ended())?;
    stream.flush().await.map_err(|_| ended())
}

/// Reads the body; returns it, and what was read behind it.
async fn read_body(
    stream: &mut impl Socket,
    read: Vec<u8>,
    end: BodyEnd,
    limits: &MessageLimits,
    share: &PostShare,
) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    let count = |bytes| {
        let full = |PostsFull| Refusal::unavailable(BUFFERS_FULL, RETRY_AFTER);
        share.set(bytes).map_err(full)
    };
    let mut buffer = read;
    match end {
        BodyEnd::Length(length) => {
            let rest = buffer.split_off(length.min(buffer.len()));
            // Memory grows with what arrives, not with the length that the client claims.
            while buffer.len() < length {
                let mut body = (&mut *stream).take((length - buffer.len()) as u64);
                if matches!(body.read_buf(&mut buffer).await, Ok(0) | Err(_)) {
                    return Err(ended());
                }
                count(buffer.capacity())?;
            }
            Ok((buffer, rest))
        }
        BodyEnd::Chunked => {
            let mut body = ChunkedBody::new(limits.max_message, limits.max_head);
            loop {
                if let Some(used) = body.read(&buffer)? {
                    return Ok((body.into_body(), buffer.split_off(used)));
                }
                count(body.buffered_bytes())?;
                buffer.clear();
                buffer.reserve(CHUNKED_READ);
                if matches!(stream.read_buf(&mut buffer).await, Ok(0) | Err(_)) {
                    return Err(ended());
                }
            }
        }
    }
}

/// The least buffer for a read of a chunked body.
const CHUNKED_READ: usize = 16 * 1024;
