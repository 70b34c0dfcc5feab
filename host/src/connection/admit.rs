//! Brings each connection to its resource, or answers why not.
//!
//! Owns a connection's task from the first byte of its request. What comes before that is `door.rs`', what it does after its
//! handshake is `connection.rs`'.

use crate::hub::Hub;
use std::pin::Pin;
use std::sync::Arc;

use plugsocket_plugin::{CloseCode, Kind};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tracing::{Instrument, Span, debug_span};

use super::handshake::{self, Handshake, Intent};
use super::reject::{CloseTimeouts, Rejection, Rejector, answer, denied};
use super::timers::Timers;
use super::{Connection, http_post};
use crate::auth::{Applicant, Pass};
use crate::config::{Config, UnknownResource};
use crate::net::connection_limits::{ConnectionGuard, Handshaking, LimitReached};
use crate::net::origin::Origin;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::close::CloseReason;
use crate::protocol::http::{self, Head};
use crate::protocol::wire::Wire;
use crate::routing::outbox::OutboxBounds;
use crate::routing::registry::{Arrival, Peer};
use crate::routing::resource::{Resource, Service, ServiceState};

/// Serves one socket to its last byte. Its admission is in a box: what that needs is given back before the connection begins its life.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
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

/// A connection with a resource.
pub(crate) struct Admitted<S> {
    connection: Connection<S>,
    span: Span,
    /// When what it showed expires, where that ends it.
    until: Option<tokio::time::Instant>,
    /// Held for as long as the connection lasts.
    _counted: ConnectionGuard,
}

/// Reads the handshake and brings the connection to its resource. None if that was all.
pub(crate) async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    origin: Origin,
    handshaking: Handshaking,
    hub: Arc<Hub>,
) -> Option<Admitted<S>> {
    let config = hub.config.load_full();
    let by = handshaking.deadline(config.server.timeouts.head);
    let handshake = match handshake::read(&mut stream, origin, by, &config).await {
        Ok(handshake) => handshake,
        Err((origin, no)) => {
            Rejector::new(handshaking, &config).refuse(stream, no, origin).await;
            return None;
        }
    };
    let kind = match &handshake.intent {
        Intent::Page(page) => {
            Rejector::new(handshaking, &config).answer(stream, page).await;
            return None;
        }
        Intent::WebSocket { kind, .. } => *kind,
        Intent::Lines { .. } => Kind::Tcp,
        Intent::Post { .. } => Kind::Backend,
    };
    match find_place(origin, &handshake, kind, &hub, &config).await {
        Ok(place) => {
            drop(handshaking);
            // The present one: its place is among the present resources.
            let config = hub.config.load_full();
            welcome(stream, handshake, (kind, place), &hub, &config).await
        }
        Err(rejection) => {
            Rejector::new(handshaking, &config).turn_away(stream, handshake, rejection).await;
            None
        }
    }
}

/// Whether somebody for whom a proxy speaks may come in now: at the door only the proxy was seen.
fn pace_forwarded(
    peer: Origin,
    origin: Origin,
    hub: &Hub,
    config: &Config,
) -> Result<(), LimitReached> {
    match origin {
        Origin::Ip(ip) | Origin::Hidden(Some(ip)) if origin != peer => {
            hub.connection_limits.check_rate(ip, config)
        }
        _ => Ok(()),
    }
}

/// Where a connection belongs, and its place there.
struct Admission {
    resource: Arc<Resource>,
    inbox: Inbox,
    service: Arc<Service>,
    pass: Pass,
    guard: ConnectionGuard,
}

/// Where the connection belongs, if there is room for it and it is let in. It is counted last: those who are not let in, or for whom
/// an endpoint is still asked, take nobody's place. And what serves is looked for after what may take time.
async fn find_place(
    peer: Origin,
    handshake: &Handshake,
    kind: Kind,
    hub: &Hub,
    config: &Config,
) -> Result<Admission, Rejection> {
    let Handshake { head, origin, .. } = handshake;
    pace_forwarded(peer, *origin, hub, config)?;
    hub.connection_limits.check(*origin, kind, config)?;
    let pass = judge(handshake, kind, hub).await?;
    let Some(resource) = hub.resources.load().get(head.path()).cloned() else {
        return Err(unknown(head, config));
    };
    let service = resource.service();
    match &service.state {
        ServiceState::Serving(inbox) => {
            let (inbox, guard) =
                (inbox.clone(), hub.connection_limits.count(*origin, kind, config)?);
            Ok(Admission { resource, inbox, service, pass, guard })
        }
        ServiceState::Unavailable(outage) => {
            let reason = outage.close_reason();
            Err(match service.dialog {
                true => {
                    let protocol = protocol(head, &service, pass.protocol);
                    Rejection::Dialog(reason, protocol.map(Into::into))
                }
                false => Rejection::http(reason),
            })
        }
    }
}

/// Whether it is let in, where not everybody is.
async fn judge(handshake: &Handshake, kind: Kind, hub: &Hub) -> Result<Pass, Rejection> {
    let Handshake { head, origin, .. } = handshake;
    let Some(guard) = hub.guards.load().get(head.path()).cloned() else {
        return Ok(Pass::default());
    };
    let address = origin.to_text();
    let applicant = Applicant { head, kind, address: &address };
    let judged = Box::pin(guard.authorize(&applicant)).await;
    judged.map_err(|denial| {
        let resource = hub.resources.load().get(head.path()).cloned();
        let service = resource.map(|resource| resource.service());
        // Only a browser needs the dialog to read why; scripts and tools know what to do with a status.
        match service.filter(|service| service.dialog && head.has("origin")) {
            Some(service) => {
                let protocol = protocol(head, &service, denial.protocol).map(Into::into);
                Rejection::Dialog(denied(&denial), protocol)
            }
            None => Rejection::denied(denial),
        }
    })
}

/// Nothing is served there.
fn unknown(head: &Head, config: &Config) -> Rejection {
    let text = format!("no application serves {}", head.path());
    let reason = CloseReason::host(CloseCode::POLICY, text);
    // A browser that offers subprotocols takes no handshake without one of them, and there is no resource to choose it.
    let may_close = !head.has("sec-websocket-protocol");
    match config.server.unknown_resource {
        UnknownResource::Close if may_close => Rejection::Dialog(reason, None),
        UnknownResource::Close | UnknownResource::NotFound => Rejection::http(reason),
    }
}

/// The subprotocol to answer with: the resource's own, else that of a token.
fn protocol<'a>(
    head: &Head,
    service: &'a Service,
    of_token: Option<&'static str>,
) -> Option<&'a str> {
    http::choose_protocol(head, &service.subprotocols).or(of_token)
}

async fn welcome<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    handshake: Handshake,
    (kind, place): (Kind, Admission),
    hub: &Arc<Hub>,
    config: &Config,
) -> Option<Admitted<S>> {
    let Handshake { head, origin, read, intent } = handshake;
    let Admission { resource, inbox, service, pass, guard } = place;
    let Pass { login, until, protocol: of_token } = pass;
    let (limits, timeouts) = (&config.server.limits, &config.server.timeouts);
    let settings = config.resources.get(&resource.path);
    let rate = settings.map_or(&config.server.rate, |settings| &settings.rate);
    let is_post = matches!(intent, Intent::Post { .. });
    let switching = match &intent {
        Intent::WebSocket { upgrade, .. } => {
            http::switching(upgrade, protocol(&head, &service, of_token))
        }
        _ => Vec::new(),
    };
    let arrival = Arrival {
        identity: hub.identity_issuer.issue(),
        kind,
        // A POST is answered with the dialog's packets, or it would not be answered at all.
        dialog: service.dialog || is_post,
        address: origin.to_text(),
        head,
        login,
        resource,
        bounds: OutboxBounds::new(limits, settings.map(|settings| &settings.outbox)),
        max_rooms: limits.max_rooms,
        may_announce: origin.may_be_backend(&config.server.access),
    };
    let peer = Arc::new(Peer::new(arrival));
    // Nothing that is logged about a connection is louder than that, and an enabled span costs as much as the connection.
    let span = debug_span!("connection", id = %peer.id(), resource = peer.resource.path, peer = &*peer.address);
    let wire = match intent {
        Intent::Post { length } => {
            let request = http_post::PostRequest { length, read, inbox };
            let entry = hub.registry.enter(peer);
            let bytes =
                http_post::serve(&mut stream, request, entry, config).instrument(span).await;
            // From here on it takes nobody's place.
            drop(guard);
            answer(stream, &bytes, CloseTimeouts::full(timeouts)).await;
            return None;
        }
        Intent::Lines { tail } => Wire::lines(stream, &read, tail, limits),
        Intent::WebSocket { .. } | Intent::Page(_) => {
            let written = timeout(timeouts.write, stream.write_all(&switching)).await;
            matches!(written, Ok(Ok(()))).then_some(())?;
            Wire::websocket(stream, read, limits)
        }
    };
    let timers = Timers::new(rate, timeouts.idle);
    let entry = hub.registry.enter(peer);
    let connection = Connection::new(wire, entry, inbox, (limits, timeouts), timers);
    Some(Admitted { connection, span, until, _counted: guard })
}
