//! From the first bytes of a connection to what it wants: an upgrade, plain TCP, a POST, the page, or a refusal.
//!
//! Reads the request head under a size and a time limit and judges it; [`Handshake`] says what is to be done. Nothing here
//! knows lanes or outboxes.

use crate::net::origin::Origin;

use plugsocket_plugin::Kind;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::page;
use crate::config::{Access, Config};
use crate::protocol::http::{
    self, ClientType, Head, HeadReader, Method, Refusal, Upgrade, client_type,
};
use crate::protocol::lines::{Opening, Tail, Transport, detect_transport};

/// What a peer wants, having been allowed it.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) head: Head,
    /// The peer, or whom a trusted proxy speaks for.
    pub(crate) origin: Origin,
    /// What came behind the head.
    pub(crate) read: Vec<u8>,
    pub(crate) intent: Intent,
}

#[derive(Debug)]
pub(crate) enum Intent {
    WebSocket {
        upgrade: Upgrade,
        kind: Kind,
    },
    Lines {
        tail: Tail,
    },
    Post {
        length: usize,
    },
    /// One of the host's own files, as its whole answer.
    Page(Vec<u8>),
}

/// Why there is no handshake.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// To be answered with this.
    Refused(Refusal),
    /// Not allowed on plain TCP, where the answer is the dialog's.
    RefusedLines(&'static str),
    /// Gone before it said anything whole.
    Left,
}

impl From<Refusal> for HandshakeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Reads and judges what a connection begins with; it must be whole by then.
///
/// # Errors
/// It is refused, or has gone; and who that is, as far as it is known.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    peer: Origin,
    by: Instant,
    config: &Config,
) -> Result<Handshake, (Origin, HandshakeError)> {
    let access = &config.server.access;
    let mut buffer = Vec::with_capacity(1024);
    let mut origin = peer;
    let read = timeout_at(by, read_first(stream, &mut buffer, config)).await;
    let judged = match read.unwrap_or_else(|_| Err(Refusal::timed_out().into())) {
        Ok(First::Request(head, read)) => {
            origin = peer.resolve_forwarded(&head, access);
            judge(head, read, origin, config).map_err(Into::into)
        }
        Ok(First::Opening(..)) if !peer.may_be_backend(access) => {
            Err(HandshakeError::RefusedLines("this address may not be a backend"))
        }
        Ok(First::Opening(head, tail, read)) => {
            Ok(Handshake { head, origin, read, intent: Intent::Lines { tail } })
        }
        Err(no) => Err(no),
    };
    judged.map_err(|no| match no {
        HandshakeError::Refused(refusal) if asks_for_the_head(&buffer) => {
            (origin, refusal.without_body().into())
        }
        no => (origin, no),
    })
}

/// Whether this is a HEAD request, however malformed the rest of it is.
fn asks_for_the_head(bytes: &[u8]) -> bool {
    bytes.strip_prefix(b"\r\n").unwrap_or(bytes).starts_with(b"HEAD ")
}

enum First {
    Request(Head, Vec<u8>),
    Opening(Head, Tail, Vec<u8>),
}

/// An opening that may be over is listened to for `ready_delay`: some scripts write line by line. What is left in `buffer` is what was
/// judged.
async fn read_first<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    config: &Config,
) -> Result<First, HandshakeError> {
    let (max_head, pause) = (config.server.limits.max_head, config.server.timeouts.ready_delay);
    let mut request = HeadReader::new(max_head);
    let mut opening = Opening::new(max_head);
    let mut decided = None;
    loop {
        if matches!(stream.read_buf(buffer).await, Ok(0) | Err(_)) {
            return Err(HandshakeError::Left);
        }
        if decided.is_none() {
            decided = detect_transport(buffer);
        }
        match decided {
            Some(Transport::Lines) => {
                let Some(mut opened) = opening.read(buffer)? else { continue };
                while opened.tail == Tail::Awaited
                    && let Ok(Ok(1..)) = timeout(pause, stream.read_buf(buffer)).await
                {
                    // The whole of it again: an `Ident:` may have followed, or the beginning of one.
                    match Opening::new(max_head).read(buffer)? {
                        Some(longer) => opened = longer,
                        None => break,
                    }
                }
                let read = buffer.split_off(opened.used);
                return Ok(First::Opening(opened.head, opened.tail, read));
            }
            Some(Transport::Http) => {
                if let Some((head, used)) = request.read(buffer)? {
                    return Ok(First::Request(head, buffer.split_off(used)));
                }
            }
            None => {}
        }
    }
}

fn judge(head: Head, read: Vec<u8>, origin: Origin, config: &Config) -> Result<Handshake, Refusal> {
    let access = &config.server.access;
    let intent = match head.method() {
        Method::Post => judge_post(&head, origin, config)?,
        Method::Get if config.server.page && !http::wants_websocket(&head) => {
            match page::answer(head.path()) {
                Some(answer) => Intent::Page(answer),
                None => judge_upgrade(&head, origin, access)?,
            }
        }
        _ => judge_upgrade(&head, origin, access)?,
    };
    Ok(Handshake { head, origin, read, intent })
}

fn judge_upgrade(head: &Head, origin: Origin, access: &Access) -> Result<Intent, Refusal> {
    let upgrade = http::check_upgrade(head)?;
    let kind = match client_type(head)? {
        ClientType::Backend if origin.may_be_backend(access) => Kind::Backend,
        ClientType::Backend => {
            return Err(Refusal::forbidden("this address may not be a backend (allowed_ips)"));
        }
        ClientType::WebSocket if access.allows_origin(head.header("origin")) => Kind::WebSocket,
        ClientType::WebSocket => {
            return Err(Refusal::forbidden("this Origin is not allowed (allowed_origins)"));
        }
    };
    Ok(Intent::WebSocket { upgrade, kind })
}

fn judge_post(head: &Head, origin: Origin, config: &Config) -> Result<Intent, Refusal> {
    let access = &config.server.access;
    if !origin.may_be_backend(access) {
        return Err(Refusal::forbidden("this address may not be a backend (allowed_ips)"));
    }
    // A page in a browser on this machine can post here without asking; browsers always say where a POST comes from.
    if http::origin(head)?.is_some() {
        return Err(Refusal::forbidden("a browser may not be a backend: use a WebSocket"));
    }
    let length = http::post_length(head, config.server.limits.max_message)?;
    Ok(Intent::Post { length })
}
