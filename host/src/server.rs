//! Brings each connection to its resource, or answers why not.
//!
//! Owns a connection's task from the first byte of its request. What comes before that is `door.rs`', what it does after its
//! handshake is `connection.rs`'.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use plugsocket_plugin::{CloseCode, Kind};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::{Instrument, Span, debug, debug_span};

use crate::census::{Arriving, Census, Counted, Full};
use crate::config::{Config, UnknownResource};
use crate::connection::Connection;
use crate::dialog;
use crate::handshake::{self, Handshake, NoHandshake, Origin, RETRY_AFTER, Wish};
use crate::http::{self, Refusal};
use crate::identity::Mint;
use crate::outbox::{Bounds, CloseReason};
use crate::pace::Pace;
use crate::plugin::inbox::Inbox;
use crate::post;
use crate::registry::{Arrival, Peer, Registry};
use crate::resource::{Resource, Resources, Service, ServiceState};
use crate::supervisor::roster::Roster;
use crate::tls::Tls;
use crate::wire::{Wire, close_packet, linger};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Hub {
    /// The configuration in force; a connection looks once, when it comes.
    pub(crate) config: ArcSwap<Config>,
    pub(crate) resources: Arc<ArcSwap<Resources>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mint: Mint,
    pub(crate) census: Arc<Census>,
    pub(crate) tls: Tls,
    /// How the plugins stand.
    pub(crate) roster: ArcSwap<Roster>,
    pub(crate) started: Instant,
}

/// Pings every peer each `ping_interval`, a part of them at a time, and closes those that did not answer the last one.
pub(crate) async fn keep_alive(hub: Arc<Hub>) {
    /// How soon a changed interval is noticed while pings are off.
    const OFF: Duration = Duration::from_secs(1);
    let parts = u32::try_from(Registry::slices()).unwrap_or(1);
    loop {
        for part in 0..Registry::slices() {
            let interval = hub.config.load().server.timeouts.ping_interval;
            sleep(interval.map_or(OFF, |interval| interval / parts)).await;
            if interval.is_some() {
                hub.registry.for_each_in(part, |peer| peer.ping_or_expire());
            }
        }
    }
}

/// Serves one socket from its first byte to its last.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    origin: Origin,
    arriving: Arriving,
    hub: Arc<Hub>,
) {
    // In a box: what the handshake needs is given back before the connection begins its life.
    let Some(mut admitted) = Box::pin(admit(stream, origin, arriving, hub)).await else { return };
    let end = admitted.connection.work().instrument(admitted.span.clone()).await;
    Box::pin(admitted.connection.end(end).instrument(admitted.span)).await;
}

/// A connection with a resource.
struct Admitted<S> {
    connection: Connection<S>,
    span: Span,
    /// Held for as long as the connection lasts.
    _counted: Counted,
}

/// Reads the handshake and brings the connection to its resource. None if that was all.
async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    origin: Origin,
    arriving: Arriving,
    hub: Arc<Hub>,
) -> Option<Admitted<S>> {
    let config = hub.config.load_full();
    let handshake = match handshake::read(&mut stream, origin, &config).await {
        Ok(handshake) => handshake,
        Err(no) => {
            refuse(stream, no, origin, &config).await;
            return None;
        }
    };
    let kind = match &handshake.wish {
        Wish::Page(page) => {
            answer(stream, page, &config).await;
            return None;
        }
        Wish::WebSocket { kind, .. } => *kind,
        Wish::Lines { .. } => Kind::Tcp,
        Wish::Post { .. } => Kind::Backend,
    };
    let resource = hub.resources.load().get(handshake.head.path()).cloned();
    let place = pace_forwarded(origin, handshake.origin, &hub, &config)
        .and_then(|()| hub.census.count(handshake.origin, kind, &config))
        .map_err(Nowhere::from)
        .and_then(|counted| Ok((counted, find(resource, &handshake, &config)?)));
    match place {
        Ok((counted, place)) => {
            drop(arriving);
            welcome(stream, handshake, (kind, place, counted), &hub, &config).await
        }
        Err(nowhere) => {
            turn_away(stream, handshake, nowhere, &config).await;
            None
        }
    }
}

/// Whether somebody for whom a proxy speaks may come in now: at the door only the proxy was seen.
fn pace_forwarded(peer: Origin, origin: Origin, hub: &Hub, config: &Config) -> Result<(), Full> {
    match origin {
        Origin::Ip(ip) if origin != peer => hub.census.pace(ip, config),
        _ => Ok(()),
    }
}

async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    no: NoHandshake,
    origin: Origin,
    config: &Config,
) {
    match no {
        NoHandshake::Left => {}
        NoHandshake::Refused(refusal) => {
            debug!(status = refusal.status(), reason = refusal.reason(), address = %origin.to_text(), "refused");
            answer(stream, &refusal.to_bytes(), config).await;
        }
        NoHandshake::RefusedLines(reason) => {
            debug!(reason, address = %origin.to_text(), "refused");
            answer(stream, format!("{}\n", dialog::close(reason)).as_bytes(), config).await;
        }
    }
}

/// Where a connection belongs.
struct Place {
    resource: Arc<Resource>,
    inbox: Inbox,
    service: Arc<Service>,
}

/// Why a connection belongs nowhere, and how it is told.
enum Nowhere {
    /// By an HTTP answer: 404 for 1008, else 503.
    Http(CloseReason),
    /// By the dialog, because a browser cannot read an HTTP error.
    Dialog(CloseReason),
}

impl From<Full> for Nowhere {
    /// It may come back.
    fn from(Full(text): Full) -> Self {
        let reason = CloseReason::host(CloseCode::TRY_AGAIN, text);
        Self::Http(CloseReason { retry_after: Some(RETRY_AFTER), ..reason })
    }
}

fn find(
    resource: Option<Arc<Resource>>,
    handshake: &Handshake,
    config: &Config,
) -> Result<Place, Nowhere> {
    let Some(resource) = resource else {
        let text = format!("no application serves {}", handshake.head.path());
        let reason = CloseReason::host(CloseCode::POLICY, text);
        return Err(match config.server.unknown_resource {
            UnknownResource::Close => Nowhere::Dialog(reason),
            UnknownResource::NotFound => Nowhere::Http(reason),
        });
    };
    let service = resource.service();
    match &service.state {
        ServiceState::Serving(inbox) => {
            Ok(Place { inbox: inbox.clone(), resource, service: service.clone() })
        }
        ServiceState::Unavailable(outage) => {
            let reason = outage.close_reason();
            Err(if service.dialog { Nowhere::Dialog(reason) } else { Nowhere::Http(reason) })
        }
    }
}

async fn welcome<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    handshake: Handshake,
    (kind, place, counted): (Kind, Place, Counted),
    hub: &Arc<Hub>,
    config: &Config,
) -> Option<Admitted<S>> {
    let Handshake { head, origin, read, wish } = handshake;
    let Place { resource, inbox, service } = place;
    let (limits, timeouts) = (&config.server.limits, &config.server.timeouts);
    let settings = config.resources.get(&resource.path);
    let rate = settings.map_or(&config.server.rate, |settings| &settings.rate);
    let is_post = matches!(wish, Wish::Post { .. });
    let switching = match &wish {
        Wish::WebSocket { upgrade, .. } => {
            http::switching(upgrade, http::choose_protocol(&head, &service.subprotocols))
        }
        _ => Vec::new(),
    };
    let arrival = Arrival {
        identity: hub.mint.mint(),
        kind,
        // A POST is answered with the dialog's packets, or it would not be answered at all.
        dialog: service.dialog || is_post,
        address: origin.to_text(),
        head,
        resource,
        bounds: Bounds::new(limits, settings.map(|settings| &settings.outbox)),
        max_rooms: limits.max_rooms,
    };
    let peer = Arc::new(Peer::new(arrival));
    // Nothing that is logged about a connection is louder than that, and an enabled span costs as much as the connection.
    let span = debug_span!("connection", id = %peer.id(), resource = peer.resource.path, peer = &*peer.address);
    let wire = match wish {
        Wish::Post { length } => {
            let request = post::Request { length, read, inbox };
            let entry = hub.registry.enter(peer);
            let bytes = post::serve(&mut stream, request, entry, config).instrument(span).await;
            answer(stream, &bytes, config).await;
            return None;
        }
        Wish::Lines { tail } => Wire::lines(stream, &read, tail, limits),
        Wish::WebSocket { .. } | Wish::Page(_) => {
            let written = timeout(timeouts.write, stream.write_all(&switching)).await;
            matches!(written, Ok(Ok(()))).then_some(())?;
            Wire::websocket(stream, read, limits)
        }
    };
    let pace = Pace::new(rate, timeouts.idle);
    let entry = hub.registry.enter(peer);
    let connection = Connection::new(wire, entry, inbox, (limits, timeouts), pace);
    Some(Admitted { connection, span, _counted: counted })
}

/// Tells a peer why there is nothing for it, in the way that it can read.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    handshake: Handshake,
    nowhere: Nowhere,
    config: &Config,
) {
    let (Nowhere::Http(reason) | Nowhere::Dialog(reason)) = &nowhere;
    debug!(path = handshake.head.path(), reason = reason.text, "turned away");
    let packet = close_packet(reason);
    match (handshake.wish, &nowhere) {
        (Wish::Lines { .. }, _) => answer(stream, format!("{packet}\n").as_bytes(), config).await,
        (Wish::Post { .. }, _) => {
            let status = if reason.code == CloseCode::POLICY { 404 } else { 503 };
            let body = format!("{packet}\n");
            answer(stream, &http::response(status, post::JSON, body.as_bytes(), &[]), config).await;
        }
        (Wish::WebSocket { upgrade, .. }, Nowhere::Dialog(reason)) => {
            let goodbye = async {
                stream.write_all(&http::switching(&upgrade, None)).await?;
                let mut wire = Wire::websocket(stream, handshake.read, &config.server.limits);
                wire.say_goodbye(reason, true).await?;
                wire.linger().await;
                io::Result::Ok(())
            };
            // A peer that does not take it goes without.
            drop(timeout(config.server.timeouts.close, goodbye).await);
        }
        (Wish::WebSocket { .. } | Wish::Page(_), _) => {
            let text = reason.text.clone();
            let refusal = match reason.retry_after {
                Some(after) => Refusal::unavailable(text, after),
                None => Refusal::not_found(text),
            };
            answer(stream, &refusal.to_bytes(), config).await;
        }
    }
}

/// Writes the one answer of a connection and ends it.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    bytes: &[u8],
    config: &Config,
) {
    let written = timeout(config.server.timeouts.write, stream.write_all(bytes)).await;
    if matches!(written, Ok(Ok(()))) {
        drop(timeout(config.server.timeouts.close, linger(&mut stream)).await);
    }
}
