//! Brings each connection to its resource, or answers why not.
//!
//! Owns a connection's task from the first byte of its request. What comes before that is `door.rs`', what it does after its
//! handshake is `connection.rs`'.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use plugsocket_plugin::{CloseCode, Kind};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::{Instrument, Span, debug, debug_span};

use crate::auth::{self, Applicant, Denial, Guards, Pass};
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
    /// Who may come to them, where not everybody may.
    pub(crate) guards: ArcSwap<Guards>,
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

/// Reads the files of keys again when they change.
pub(crate) async fn keep_keys(hub: Arc<Hub>) {
    loop {
        sleep(auth::LOOK_EVERY).await;
        let guards = hub.guards.load_full();
        if guards.is_empty() {
            continue;
        }
        if let Err(error) = tokio::task::spawn_blocking(move || auth::refresh(&guards)).await {
            tracing::error!(%error, "the look at the files of keys failed");
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
    let span = admitted.span.clone();
    let end = match admitted.until {
        None => admitted.connection.work().instrument(span).await,
        Some(until) => Box::pin(admitted.connection.work_until(until).instrument(span)).await,
    };
    Box::pin(admitted.connection.end(end).instrument(admitted.span)).await;
}

/// A connection with a resource.
struct Admitted<S> {
    connection: Connection<S>,
    span: Span,
    /// When what it showed expires, where that ends it.
    until: Option<tokio::time::Instant>,
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
    let counted = pace_forwarded(origin, handshake.origin, &hub, &config)
        .and_then(|()| hub.census.count(handshake.origin, kind, &config));
    let counted = match counted {
        Ok(counted) => counted,
        Err(full) => {
            turn_away(stream, handshake, full.into(), &config).await;
            return None;
        }
    };
    match place(&handshake, kind, &hub, &config).await {
        Ok(place) => {
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
    mut stream: S,
    no: NoHandshake,
    origin: Origin,
    config: &Config,
) {
    match no {
        // It may only have ended its own side, and TLS has an end of its own to tell (RFC 8446, section 6.1).
        NoHandshake::Left => drop(timeout(config.server.timeouts.close, stream.shutdown()).await),
        // Who has said nothing whole for so long is not waited for again; but what it did send was read, so the answer arrives.
        NoHandshake::Refused(late) if late.status() == 408 => {
            drop(timeout(config.server.timeouts.write, tell(&mut stream, &late.to_bytes())).await);
        }
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
    pass: Pass,
}

/// Why a connection belongs nowhere, and how it is told.
enum Nowhere {
    /// By an HTTP answer.
    Http(CloseReason, Refusal),
    /// By the dialog, because a browser cannot read an HTTP error; with the subprotocol that the handshake needs.
    Dialog(CloseReason, Option<&'static str>),
}

impl From<Full> for Nowhere {
    /// It may come back.
    fn from(Full(text): Full) -> Self {
        let reason = CloseReason::host(CloseCode::TRY_AGAIN, text);
        Self::http(CloseReason { retry_after: Some(RETRY_AFTER), ..reason })
    }
}

impl Nowhere {
    fn http(reason: CloseReason) -> Self {
        let refusal = refusal(&reason);
        Self::Http(reason, refusal)
    }

    /// Not let in. Only a browser needs the dialog to read why; scripts and tools know what to do with a status.
    fn denied(denial: Denial, is_browser: bool) -> Self {
        let Denial { refusal, retry_after, protocol } = denial;
        let code = match retry_after {
            None => CloseCode::POLICY,
            Some(_) => CloseCode::TRY_AGAIN,
        };
        let reason = CloseReason { retry_after, ..CloseReason::host(code, refusal.reason()) };
        if is_browser { Self::Dialog(reason, protocol) } else { Self::Http(reason, refusal) }
    }
}

/// Where the connection belongs, if it is let in there. What serves is looked for after what may take time.
async fn place(
    handshake: &Handshake,
    kind: Kind,
    hub: &Hub,
    config: &Config,
) -> Result<Place, Nowhere> {
    let Handshake { head, origin, .. } = handshake;
    let guard = hub.guards.load().get(head.path()).cloned();
    let pass = match guard {
        None => Pass::default(),
        Some(guard) => {
            let address = origin.to_text();
            let applicant = Applicant { head, kind, address: &address };
            let judged = Box::pin(guard.judge(&applicant)).await;
            judged.map_err(|denial| {
                let resource = hub.resources.load().get(head.path()).cloned();
                let has_dialog = resource.is_some_and(|resource| resource.service().dialog);
                Nowhere::denied(denial, has_dialog && head.header("origin").is_some())
            })?
        }
    };
    let resource = hub.resources.load().get(head.path()).cloned();
    find(resource, handshake, config).map(|place| Place { pass, ..place })
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
            UnknownResource::Close => Nowhere::Dialog(reason, None),
            UnknownResource::NotFound => Nowhere::http(reason),
        });
    };
    let service = resource.service();
    match &service.state {
        ServiceState::Serving(inbox) => {
            let (inbox, service) = (inbox.clone(), service.clone());
            Ok(Place { inbox, resource, service, pass: Pass::default() })
        }
        ServiceState::Unavailable(outage) => {
            let reason = outage.close_reason();
            Err(if service.dialog { Nowhere::Dialog(reason, None) } else { Nowhere::http(reason) })
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
    let Place { resource, inbox, service, pass } = place;
    let Pass { login, until, protocol } = pass;
    let (limits, timeouts) = (&config.server.limits, &config.server.timeouts);
    let settings = config.resources.get(&resource.path);
    let rate = settings.map_or(&config.server.rate, |settings| &settings.rate);
    let is_post = matches!(wish, Wish::Post { .. });
    let switching = match &wish {
        Wish::WebSocket { upgrade, .. } => {
            let own = http::choose_protocol(&head, &service.subprotocols);
            http::switching(upgrade, own.or(protocol))
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
        login,
        resource,
        bounds: Bounds::new(limits, settings.map(|settings| &settings.outbox)),
        max_rooms: limits.max_rooms,
        may_announce: origin.may_be_backend(&config.server.access),
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
    let until = until.and_then(instant);
    Some(Admitted { connection, span, until, _counted: counted })
}

/// Tells a peer why there is nothing for it, in the way that it can read.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    handshake: Handshake,
    nowhere: Nowhere,
    config: &Config,
) {
    let (Nowhere::Http(reason, _) | Nowhere::Dialog(reason, _)) = &nowhere;
    debug!(path = handshake.head.path(), reason = reason.text, "turned away");
    let packet = close_packet(reason);
    match (handshake.wish, &nowhere) {
        (Wish::Lines { .. }, _) => answer(stream, format!("{packet}\n").as_bytes(), config).await,
        (Wish::Post { .. }, nowhere) => {
            let refusal = match nowhere {
                Nowhere::Http(_, refusal) => refusal.clone(),
                Nowhere::Dialog(reason, _) => refusal(reason),
            };
            let body = format!("{packet}\n");
            answer(stream, &refusal.with_body(post::JSON, body.as_bytes()), config).await;
        }
        (Wish::WebSocket { upgrade, .. }, Nowhere::Dialog(reason, protocol)) => {
            let goodbye = async {
                stream.write_all(&http::switching(&upgrade, *protocol)).await?;
                let mut wire = Wire::websocket(stream, handshake.read, &config.server.limits);
                wire.say_goodbye(reason, true).await?;
                wire.linger().await;
                io::Result::Ok(())
            };
            // A peer that does not take it goes without.
            drop(timeout(config.server.timeouts.close, goodbye).await);
        }
        (Wish::WebSocket { .. }, Nowhere::Http(_, refusal)) => {
            answer(stream, &refusal.to_bytes(), config).await;
        }
        (Wish::Page(_), _) => answer(stream, &refusal(reason).to_bytes(), config).await,
    }
}

/// 503 where another try may help, else 404.
fn refusal(reason: &CloseReason) -> Refusal {
    match reason.retry_after {
        Some(after) => Refusal::unavailable(reason.text.clone(), after),
        None => Refusal::not_found(reason.text.clone()),
    }
}

/// The same moment on the clock that timers follow.
fn instant(time: SystemTime) -> Option<tokio::time::Instant> {
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::Instant::now().checked_add(left)
}

async fn tell<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&http::dated(bytes, SystemTime::now())).await?;
    stream.shutdown().await
}

/// Writes the one answer of a connection and ends it.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    bytes: &[u8],
    config: &Config,
) {
    let bytes = http::dated(bytes, SystemTime::now());
    let written = timeout(config.server.timeouts.write, stream.write_all(&bytes)).await;
    if matches!(written, Ok(Ok(()))) {
        drop(timeout(config.server.timeouts.close, linger(&mut stream)).await);
    }
}
