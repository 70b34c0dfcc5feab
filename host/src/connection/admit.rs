//! Admits a connection to its resource: limits, authentication, availability; or rejects it.
//!
//! Owns a connection's task from the first byte of its request to the end of its handshake.

use std::ops::ControlFlow::{self, Break, Continue};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plugsocket_plugin::{CloseCode, Kind};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tracing::{Instrument, Span, debug_span};

use super::handshake::{self, Handshake, Intent};
use super::reject::{Rejection, Rejector, denied};
use super::timers::Timers;
use super::{Connection, Socket, exchange, http_post};
use crate::auth::{Applicant, Denial, Pass};
use crate::config::{Config, UnknownResource};
use crate::hub::Hub;
use crate::hub::counters::Refused;
use crate::net::connection_limits::{ConnectionGuard, Handshaking};
use crate::net::origin::Origin;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::close::CloseReason;
use crate::protocol::http::{self, Head, Method};
use crate::protocol::time_limit::timeout;
use crate::protocol::wire::Wire;
use crate::routing::counters::Counters;
use crate::routing::outbox::{Outbox, OutboxBounds};
use crate::routing::peer::{Client, Membership, Peer, PeerState};
use crate::routing::resource::{Resource, Service, ServiceState};

/// Serves one socket until it closes. The admission future is boxed so that its memory is freed
/// before the connection runs.
pub(crate) async fn serve<S: Socket>(
    admission: Pin<Box<impl Future<Output = Option<Admitted<S>>>>>,
) {
    let Some(mut admitted) = admission.await else { return };
    let span = admitted.span.clone();
    let end = match admitted.until {
        None => admitted.connection.work().instrument(span).await,
        Some(until) => Box::pin(admitted.connection.work_until(until).instrument(span)).await,
    };
    Box::pin(admitted.connection.end(end).instrument(admitted.span)).await;
}

/// A connection that its resource has admitted.
pub(crate) struct Admitted<S> {
    connection: Connection<S>,
    span: Span,
    /// When the token expires, if that closes the connection (`close_on_expiry`).
    until: Option<Instant>,
    /// Counts the connection until it ends.
    _counted: ConnectionGuard,
}

/// Reads requests until one admits the connection. `None` if all have been answered completely.
pub(crate) async fn admit<S: Socket>(
    stream: S,
    origin: Origin,
    handshaking: Handshaking,
    hub: Arc<Hub>,
) -> Option<Admitted<S>> {
    let mut request = Request { stream, handshaking, kept: None };
    loop {
        match admit_request(request, origin, &hub).await {
            Continue(next) => request = next,
            Break(admitted) => return admitted,
        }
    }
}

/// A connection whose next request is to be read.
pub(super) struct Request<S> {
    pub(super) stream: S,
    pub(super) handshaking: Handshaking,
    /// What was read behind the previous request; `None` for the first request.
    pub(super) kept: Option<Vec<u8>>,
}

/// What follows a request: another one, or the connection that it admitted.
pub(super) type Step<S> = ControlFlow<Option<Admitted<S>>, Request<S>>;

async fn admit_request<S: Socket>(request: Request<S>, origin: Origin, hub: &Arc<Hub>) -> Step<S> {
    let config = hub.config.load_full();
    let Request { mut stream, handshaking, mut kept } = request;
    let mut by = handshaking.deadline(config.server.timeouts.head);
    if let Some(read) = &mut kept {
        if !http_post::wait_for_next(&mut stream, read, by, &hub.connection_limits).await {
            drop(timeout(config.server.timeouts.close, stream.shutdown()).await);
            return Break(None);
        }
        by = Instant::now() + config.server.timeouts.head;
    }
    let handshake = match handshake::read(&mut stream, kept, origin, by, hub).await {
        Ok(handshake) => handshake,
        Err((origin, no)) => {
            no.why().into_iter().for_each(|why| hub.counters.add_refused(why));
            Rejector::new(handshaking, &config).refuse(stream, no, origin).await;
            return Break(None);
        }
    };
    let kind = match handshake.intent {
        Intent::Page(page) => {
            let answer = match handshake.head.method() {
                Method::Head => http::without_body(page),
                _ => page,
            };
            Rejector::new(handshaking, &config).answer(stream, &answer).await;
            return Break(None);
        }
        Intent::WebSocket { kind, .. } | Intent::Request { kind, .. } => kind,
        Intent::Lines(_) => Kind::Tcp,
        Intent::Post(_) => Kind::Backend,
    };
    match admit_client(origin, &handshake, kind, hub, &config).await {
        Ok(admission) => {
            drop(handshaking);
            match handshake.intent {
                Intent::Post(end) | Intent::Request { end, .. } => {
                    exchange::serve(stream, handshake, end, admission, hub).await
                }
                _ => open_connection(stream, handshake, admission, hub).await,
            }
        }
        Err((why, rejection)) => {
            hub.counters.add_refused(why);
            Rejector::new(handshaking, &config).reject(stream, handshake, rejection).await;
            Break(None)
        }
    }
}

/// What a connection needs to be served.
pub(super) struct Admission {
    pub(super) kind: Kind,
    pub(super) resource: Arc<Resource>,
    pub(super) inbox: Inbox,
    service: Arc<Service>,
    pub(super) pass: Pass,
    guard: ConnectionGuard,
}

/// Authenticates, and counts the connection. It is counted last, so that refused and still
/// unauthenticated connections do not use up the limits.
async fn admit_client(
    peer: Origin,
    handshake: &Handshake,
    kind: Kind,
    hub: &Hub,
    config: &Config,
) -> Result<Admission, (Refused, Rejection)> {
    let Handshake { head, origin, .. } = handshake;
    let limit = |full| (Refused::Limit, Rejection::from(full));
    let unknown = || (Refused::UnknownResource, unknown_path(head, config));
    // A client behind a proxy: on accept only the proxy's address was known.
    if let Origin::Ip(ip) | Origin::Hidden(Some(ip)) = *origin
        && *origin != peer
    {
        hub.connection_limits.check_rate(ip, config).map_err(limit)?;
    }
    hub.connection_limits.check(*origin, kind, config).map_err(limit)?;
    let resource = handshake.resource.clone().ok_or_else(unknown)?;
    let pass = authenticate(handshake, &resource, kind, hub).await;
    let pass = pass.map_err(|rejection| (Refused::Authentication, rejection))?;
    // Authentication may take long. The path may select another resource now, for which it does
    // not count.
    if !hub.resources.load().find(head.path()).is_some_and(|now| Arc::ptr_eq(now, &resource)) {
        return Err(unknown());
    }
    let service = resource.service();
    match &service.state {
        ServiceState::Serving(inbox) => {
            let guard = hub.connection_limits.count(*origin, kind, config).map_err(limit)?;
            let inbox = inbox.clone();
            Ok(Admission { kind, resource, inbox, service, pass, guard })
        }
        ServiceState::Unavailable(outage) => {
            let (reason, protocol) =
                (outage.close_reason(), protocol(head, &service, pass.protocol));
            let rejection = match service.dialog {
                true => Rejection::Dialog(reason, protocol.map(Into::into)),
                false => Rejection::http(reason),
            };
            Err((Refused::Unavailable, rejection))
        }
    }
}

/// Authenticates the client where the resource requires it.
async fn authenticate(
    handshake: &Handshake,
    resource: &Resource,
    kind: Kind,
    hub: &Hub,
) -> Result<Pass, Rejection> {
    let Handshake { head, origin, .. } = handshake;
    // By the key, never by the path, which may be another spelling.
    let Some(guard) = hub.guards.load().get(&resource.path).cloned() else {
        return Ok(Pass::default());
    };
    let address = origin.to_text();
    let applicant = Applicant { resource: &resource.path, head, kind, address: &address };
    let begun = Instant::now();
    let decided = Box::pin(guard.authorize(&applicant)).await;
    count_login(&resource.counters, &decided, begun.elapsed());
    decided.map_err(|denial| {
        let service = resource.service();
        // Only browsers need the dialog to read the reason; other clients read the HTTP status.
        let is_websocket = matches!(handshake.intent, Intent::WebSocket { .. });
        match service.dialog && is_websocket && head.has("origin") {
            true => {
                let protocol = protocol(head, &service, denial.protocol).map(Into::into);
                Rejection::Dialog(denied(&denial), protocol)
            }
            false => Rejection::Http(denied(&denial), denial.refusal),
        }
    })
}

fn count_login(counters: &Counters, decided: &Result<Pass, Denial>, took: Duration) {
    let Counters { logins, times, .. } = counters;
    times.authentication.observe(took, 1);
    let outcome = match decided {
        Ok(_) => &logins.accepted,
        Err(Denial { retry_after: None, .. }) => &logins.denied,
        Err(_) => &logins.failed,
    };
    outcome.fetch_add(1, Ordering::Relaxed);
}

/// Returns the rejection of a path without a resource.
fn unknown_path(head: &Head, config: &Config) -> Rejection {
    let text = format!("no application serves {}", head.path());
    let reason = CloseReason::host(CloseCode::POLICY, text);
    // A browser that offers subprotocols fails a handshake without one, and no resource chooses it.
    let may_close = !head.has("sec-websocket-protocol");
    match config.server.unknown_resource {
        UnknownResource::Close if may_close => Rejection::Dialog(reason, None),
        UnknownResource::Close | UnknownResource::NotFound => Rejection::http(reason),
    }
}

/// Selects the subprotocol: one of the resource, else that of the token.
fn protocol<'a>(
    head: &Head,
    service: &'a Service,
    of_token: Option<&'static str>,
) -> Option<&'a str> {
    http::choose_protocol(head, &service.subprotocols).or(of_token)
}

/// Creates the peer of an admitted connection.
pub(super) fn new_peer(
    client: Client,
    kind: Kind,
    dialog: bool,
    resource: &Arc<Resource>,
    hub: &Hub,
) -> Arc<Peer> {
    let config = hub.config.load();
    let (limits, settings) = (&config.server.limits, config.resources.get(&resource.path));
    Arc::new(Peer {
        identity: hub.identity_issuer.issue(),
        kind,
        dialog,
        client,
        resource: resource.clone(),
        outbox: Outbox::default(),
        bounds: OutboxBounds::new(limits, settings.map(|settings| &settings.outbox)),
        membership: Membership::new(limits.messages.max_rooms),
        state: PeerState::new(hub.started),
    })
}

/// Returns the span of a connection. Nothing about a connection is logged above debug, and an
/// enabled span costs as much memory as the connection.
pub(super) fn connection_span(peer: &Peer) -> Span {
    debug_span!(
        "connection", id = %peer.id(), resource = peer.resource.path,
        peer = &*peer.client.address, traceparent = traceparent(&peer.client.head)
    )
}

/// Returns the trace to which the client says that its request belongs (W3C Trace Context, section
/// 3.2), if it has the form of version 00.
fn traceparent(head: &Head) -> Option<&str> {
    let value = head.header("traceparent")?;
    let lengths = value.split('-').map(str::len);
    let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f' | b'-');
    (lengths.eq([2, 32, 16, 2]) && value.bytes().all(is_hex)).then_some(value)
}

async fn open_connection<S: Socket>(
    mut stream: S,
    handshake: Handshake,
    admission: Admission,
    hub: &Arc<Hub>,
) -> Step<S> {
    // Read again: the resource was found in the current configuration.
    let config = hub.config.load_full();
    let Handshake { head, origin, read, intent, heartbeat, .. } = handshake;
    let Admission { kind, resource, inbox, service, pass, guard } = admission;
    let Pass { login, until, protocol: of_token } = pass;
    let (limits, timeouts) = (&config.server.limits, &config.server.timeouts);
    let settings = config.resources.get(&resource.path);
    let rate = settings.map_or(&config.server.limits.flow.rate, |settings| &settings.rate);
    let switching = match &intent {
        Intent::WebSocket { accept, .. } => {
            http::switching(accept, protocol(&head, &service, of_token))
        }
        _ => Vec::new(),
    };
    let client = Client {
        address: origin.to_text(),
        head,
        login,
        may_announce: origin.may_be_backend(&config.server.access),
    };
    let peer = new_peer(client, kind, service.dialog, &resource, hub);
    let heartbeat = heartbeat.filter(|_| peer.dialog);
    let span = connection_span(&peer);
    let wire = match intent {
        Intent::Lines(tail) => Wire::lines(stream, &read, tail, &limits.messages),
        _ => {
            let written = timeout(timeouts.write, stream.write_all(&switching)).await;
            if !matches!(written, Ok(Ok(()))) {
                return Break(None);
            }
            Wire::websocket(stream, read, &limits.messages)
        }
    };
    let timers = Timers::new(rate, timeouts.idle, heartbeat);
    let entry = hub.registry.enter(peer);
    let connection = Connection::new(wire, entry, inbox, timers, &config.server);
    Break(Some(Admitted { connection, span, until, _counted: guard }))
}
