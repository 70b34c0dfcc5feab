//! Reads and checks a request: WebSocket upgrade, plain TCP, POST, page, or one for an application.
//!
//! Reads the request head under a size and a time limit. Does not know lanes or outboxes.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::Kind;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::page;
use crate::config::{Access, Config};
use crate::hub::counters::Refused;
use crate::hub::{Hub, health};
use crate::net::origin::Origin;
use crate::protocol::http::{
    self, BodyEnd, ClientType, Head, HeadReader, Method, Refusal, client_type,
};
use crate::protocol::lines::{Opening, Tail, Transport, detect_transport};
use crate::protocol::time_limit::{timeout, timeout_at};
use crate::routing::peer::with_parameters;
use crate::routing::resource::Resource;

/// A valid request, or opening of plain TCP.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) head: Head,
    /// The resource that serves its path, if there is one.
    pub(crate) resource: Option<Arc<Resource>>,
    /// The client: the peer itself, or the one that a trusted proxy forwards for.
    pub(crate) origin: Origin,
    /// Bytes that arrived after the head.
    pub(crate) read: Vec<u8>,
    pub(crate) intent: Intent,
    /// The interval of the heartbeats that the client asks for.
    pub(crate) heartbeat: Option<Duration>,
}

/// What the client asks for.
#[derive(Debug)]
pub(crate) enum Intent {
    WebSocket {
        /// The value of `Sec-WebSocket-Accept`.
        accept: String,
        kind: Kind,
    },
    Lines(Tail),
    Post(BodyEnd),
    /// A plain request that the application answers.
    Request {
        end: BodyEnd,
        kind: Kind,
    },
    /// One of the host's own files, as a complete response to GET; or that to OPTIONS.
    Page(Vec<u8>),
}

/// Reasons for which a handshake fails.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// Refused with this HTTP response.
    Refused(Refusal),
    /// Refused on plain TCP, where the answer is a `close` packet.
    RefusedLines(&'static str),
    /// The connection ended before a complete head.
    Left,
}

impl HandshakeError {
    /// Returns as what it counts; a client that left was not refused.
    pub(crate) fn why(&self) -> Option<Refused> {
        Some(match self {
            Self::Refused(refusal) => match refusal.status() {
                403 => Refused::Forbidden,
                408 => Refused::TimedOut,
                _ => Refused::Request,
            },
            Self::RefusedLines(_) => Refused::Forbidden,
            Self::Left => return None,
        })
    }
}

impl From<Refusal> for HandshakeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Reads and checks the head, which must be complete at time `by`. `kept` is what was read of it
/// with the previous request; `None` for the first request of a connection.
///
/// # Errors
/// The refusal, with the origin as far as it is known.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    kept: Option<Vec<u8>>,
    peer: Origin,
    by: Instant,
    hub: &Hub,
) -> Result<Handshake, (Origin, HandshakeError)> {
    let config = &*hub.config.load_full();
    let access = &config.server.access;
    // Plain TCP has its own connections: only the first bytes of one can be its opening.
    let transport = kept.as_ref().map(|_| Transport::Http);
    let mut buffer = kept.unwrap_or_else(|| Vec::with_capacity(1024));
    let mut origin = peer;
    let read = timeout_at(by, read_head(stream, &mut buffer, transport, config)).await;
    let checked = match read.unwrap_or_else(|_| Err(Refusal::timed_out().into())) {
        Ok((head, None, read)) => {
            origin = peer.resolve_forwarded(&head, access);
            let found = find_resource(head, hub, config);
            match health_check(&found.0, hub, config) {
                Some(answer) => Ok(page_of(found.0, answer, origin)),
                None => check_request(found, read, origin, config).map_err(Into::into),
            }
        }
        Ok((_, Some(_), _)) if !peer.may_be_backend(access) => {
            Err(HandshakeError::RefusedLines("this address may not be a backend"))
        }
        Ok((head, Some(tail), read)) => match http::heartbeat(&head) {
            Ok(heartbeat) => {
                let (head, resource) = find_resource(head, hub, config);
                let intent = Intent::Lines(tail);
                Ok(Handshake { head, resource, origin, read, intent, heartbeat })
            }
            Err(refusal) => Err(refusal.into()),
        },
        Err(error) => Err(error),
    };
    checked.map_err(|error| match error {
        HandshakeError::Refused(refusal) if is_head_request(&buffer) => {
            (origin, refusal.without_body().into())
        }
        error => (origin, error),
    })
}

/// Returns whether this is a HEAD request, even if the rest is malformed.
fn is_head_request(bytes: &[u8]) -> bool {
    bytes.strip_prefix(b"\r\n").unwrap_or(bytes).starts_with(b"HEAD ")
}

/// Reads a complete head; returns it, the tail of an opening on plain TCP, and what was read after
/// it. An opening that may be complete is extended for `ready_delay`, because some scripts write
/// line by line. `buffer` may have the beginning of the head, and keeps its bytes.
async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    mut transport: Option<Transport>,
    config: &Config,
) -> Result<(Head, Option<Tail>, Vec<u8>), HandshakeError> {
    let max_head = config.server.limits.messages.max_head;
    let pause = config.server.timeouts.ready_delay;
    let mut request = HeadReader::new(max_head);
    let mut opening = Opening::new(max_head);
    let mut is_unparsed = !buffer.is_empty();
    loop {
        if !take(&mut is_unparsed) && matches!(stream.read_buf(buffer).await, Ok(0) | Err(_)) {
            return Err(HandshakeError::Left);
        }
        if transport.is_none() {
            transport = detect_transport(buffer);
        }
        match transport {
            Some(Transport::Lines) => {
                let Some(mut opened) = opening.read(buffer)? else { continue };
                while opened.tail == Tail::Awaited
                    && let Ok(Ok(1..)) = timeout(pause, stream.read_buf(buffer)).await
                {
                    // Parsed from the start: an `Ident:` line, or a part of it, may have followed.
                    match Opening::new(max_head).read(buffer)? {
                        Some(longer) => opened = longer,
                        None => break,
                    }
                }
                return Ok((opened.head, Some(opened.tail), buffer.split_off(opened.used)));
            }
            Some(Transport::Http) => {
                if let Some((head, used)) = request.read(buffer)? {
                    return Ok((head, None, buffer.split_off(used)));
                }
            }
            None => {}
        }
    }
}

/// Finds the resource, and keeps the decoded parameters of its pattern with the head.
fn find_resource(head: Head, hub: &Hub, config: &Config) -> (Head, Option<Arc<Resource>>) {
    let is_own = page::is_own(head.path(), config);
    let resource = hub.resources.load().find(head.path()).filter(|_| !is_own).cloned();
    match resource {
        Some(resource) => (with_parameters(head, &resource.path), Some(resource)),
        None => (head, None),
    }
}

/// Returns the response to a health check (`health`).
fn health_check(head: &Head, hub: &Hub, config: &Config) -> Option<Vec<u8>> {
    let is_check = matches!(head.method(), Method::Get | Method::Head);
    let prefix = config.server.health.as_deref().filter(|_| is_check)?;
    health::answer(head.path(), prefix, hub)
}

fn page_of(head: Head, answer: Vec<u8>, origin: Origin) -> Handshake {
    let intent = Intent::Page(answer);
    Handshake { head, resource: None, origin, read: Vec::new(), intent, heartbeat: None }
}

fn check_request(
    (head, resource): (Head, Option<Arc<Resource>>),
    read: Vec<u8>,
    origin: Origin,
    config: &Config,
) -> Result<Handshake, Refusal> {
    let is_upgrade = head.method() == Method::Get && http::wants_websocket(&head);
    let takes_request = !is_upgrade
        && !head.is_about_host()
        && resource.as_ref().is_some_and(|resource| resource.takes_requests());
    let intent = match takes_request {
        true => check_plain(&head, origin, config)?,
        false => host_intent(&head, origin, resource.is_some(), config)?,
    };
    let heartbeat = match intent {
        Intent::WebSocket { .. } => http::heartbeat(&head)?,
        _ => None,
    };
    Ok(Handshake { head, resource, origin, read, intent, heartbeat })
}

/// Returns what a request asks of the host itself, where no application answers it.
pub(crate) fn host_intent(
    head: &Head,
    origin: Origin,
    is_resource: bool,
    config: &Config,
) -> Result<Intent, Refusal> {
    let page = match head.method() {
        Method::Get if http::wants_websocket(head) => None,
        Method::Get | Method::Head => page::answer(head.path(), is_resource, config),
        // A server may ignore an upgrade (RFC 9110 section 7.8).
        Method::Options => Some(page::options(head.path(), is_resource)),
        Method::Post | Method::Other => None,
    };
    match (page, head.method()) {
        (Some(answer), _) => Ok(Intent::Page(answer)),
        (None, Method::Post) => check_post(head, origin, config),
        (None, Method::Get) => check_upgrade(head, origin, &config.server.access),
        (None, _) => {
            let allowed = page::allowed_methods(head.path(), is_resource);
            Err(Refusal::method_not_allowed(allowed))
        }
    }
}

/// Returns the `Origin`; empty if it is not text, which is not the same as none.
fn origin_of(head: &Head) -> Option<&str> {
    head.has("origin").then(|| head.header("origin").unwrap_or_default())
}

fn check_upgrade(head: &Head, origin: Origin, access: &Access) -> Result<Intent, Refusal> {
    let accept = http::check_upgrade(head)?;
    let kind = match client_type(head)? {
        ClientType::Backend if origin.may_be_backend(access) => Kind::Backend,
        ClientType::Backend => {
            return Err(Refusal::forbidden("this address may not be a backend (allowed_ips)"));
        }
        ClientType::WebSocket if access.allows_origin(origin_of(head)) => Kind::WebSocket,
        ClientType::WebSocket => {
            return Err(Refusal::forbidden("this Origin is not allowed (allowed_origins)"));
        }
    };
    Ok(Intent::WebSocket { accept, kind })
}

fn check_post(head: &Head, origin: Origin, config: &Config) -> Result<Intent, Refusal> {
    let access = &config.server.access;
    if !origin.may_be_backend(access) {
        return Err(Refusal::forbidden("this address may not be a backend (allowed_ips)"));
    }
    // A page in a browser on this machine could post here, but always with an `Origin`.
    if http::origin(head)?.is_some() {
        return Err(Refusal::forbidden("a browser may not be a backend: use a WebSocket"));
    }
    let end = http::post_body(head, config.server.limits.messages.max_message)?;
    // Has no effect, and is refused as in a handshake.
    http::heartbeat(head)?;
    Ok(Intent::Post(end))
}

/// Checks a plain request for an application.
fn check_plain(head: &Head, origin: Origin, config: &Config) -> Result<Intent, Refusal> {
    let access = &config.server.access;
    let page = http::origin(head)?;
    if page.is_some() && !access.allows_origin(origin_of(head)) {
        return Err(Refusal::forbidden("this Origin is not allowed (allowed_origins)"));
    }
    // A browser sends no `Origin` with many requests other than POST, but no `Client-Type` either.
    let says_so = head.method() == Method::Post || head.has("client-type");
    let is_own =
        page.is_none() && says_so && !(head.method() != Method::Post && is_on_behalf(head));
    let kind = match is_own && origin.may_be_backend(access) {
        true => Kind::Backend,
        false => Kind::WebSocket,
    };
    let end = http::request_body(head, config.server.limits.messages.max_message)?;
    Ok(Intent::Request { end, kind })
}

/// Returns whether a browser on the machine of a backend sent this request, or a proxy there.
fn is_on_behalf(head: &Head) -> bool {
    ["sec-fetch-site", "x-forwarded-for", "forwarded", "via"].iter().any(|name| head.has(name))
}
