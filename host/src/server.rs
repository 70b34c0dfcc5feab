//! Accepts connections and brings each to its resource, or answers why not.
//!
//! Owns the listeners' accept loops, the count of connections, and every connection's task. What a connection does after its
//! handshake is `connection.rs`'.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use plugsocket_plugin::{CloseCode, Kind};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{Instrument, Span, debug, debug_span, warn};

use crate::config::{Config, UnknownResource};
use crate::connection::Connection;
use crate::dialog;
use crate::handshake::{self, Handshake, NoHandshake, Origin, RETRY_AFTER, Wish};
use crate::http::{self, Refusal};
use crate::identity::Mint;
use crate::outbox::{Bounds, CloseReason};
use crate::plugin::inbox::Inbox;
use crate::post;
use crate::registry::{Arrival, Peer, Registry};
use crate::resource::{Resource, Resources, Service, ServiceState};
use crate::supervisor::roster::Roster;
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
    /// How the plugins stand.
    pub(crate) roster: ArcSwap<Roster>,
    pub(crate) started: Instant,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// As in `listen`.
    pub(crate) fn address(&self) -> io::Result<String> {
        Ok(match self {
            Self::Tcp(listener) => listener.local_addr()?.to_string(),
            Self::Unix(listener) => match listener.local_addr()?.as_pathname() {
                Some(path) => format!("unix:{}", path.display()),
                None => "unix:".to_owned(),
            },
        })
    }
}

/// Accepts until told to stop; then returns the connections that are still there.
pub(crate) async fn accept(
    listener: Listener,
    hub: Arc<Hub>,
    mut stop: watch::Receiver<()>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept_one(&listener) => match accepted {
                Ok(Accepted::Tcp(stream, origin)) => drop(connections.spawn(serve(stream, origin, hub.clone()))),
                Ok(Accepted::Unix(stream)) => drop(connections.spawn(serve(stream, Origin::Unix, hub.clone()))),
                Err(error) => {
                    // Out of descriptors or memory: they come back when connections end. Accepting at once would only spin.
                    warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task failed");
                }
            }
            _ = stop.changed() => return connections,
        }
    }
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

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

enum Accepted {
    Tcp(TcpStream, Origin),
    Unix(UnixStream),
}

async fn accept_one(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // A connection that was reset has no options any more; it ends by itself.
            drop(stream.set_nodelay(true));
            Ok(Accepted::Tcp(stream, Origin::Ip(address.ip().to_canonical())))
        }
        Listener::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
    }
}

/// Serves one socket from its first byte to its last.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, origin: Origin, hub: Arc<Hub>) {
    // In a box: what the handshake needs is given back before the connection begins its life.
    let Some(mut admitted) = Box::pin(admit(stream, origin, hub)).await else { return };
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
    let counted = hub.census.count(handshake.origin, kind, &config);
    let place = counted.and_then(|counted| Ok((counted, find(resource, &handshake, &config)?)));
    match place {
        Ok((counted, place)) => {
            welcome(stream, handshake, (kind, place, counted), &hub, &config).await
        }
        Err(nowhere) => {
            turn_away(stream, handshake, nowhere, &config).await;
            None
        }
    }
}

async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    no: NoHandshake,
    origin: Origin,
    config: &Config,
) {
    match no {
        NoHandshake::Left => {}
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
}

/// Why a connection belongs nowhere, and how it is told.
enum Nowhere {
    /// By an HTTP answer: 404 for 1008, else 503.
    Http(CloseReason),
    /// By the dialog, because a browser cannot read an HTTP error.
    Dialog(CloseReason),
}

impl Nowhere {
    /// Over a limit: it may come back.
    fn full(text: &str) -> Self {
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
    };
    let bounds = Bounds { messages: limits.outbox_messages, bytes: limits.outbox_bytes };
    let peer = Arc::new(Peer::new(arrival, bounds));
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
    let connection = Connection::new(wire, hub.registry.enter(peer), inbox, limits, timeouts);
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

async fn tell<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await
}

/// Writes the one answer of a connection and ends it.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8], config: &Config) {
    let written = timeout(config.server.timeouts.write, stream.write_all(bytes)).await;
    if matches!(written, Ok(Ok(()))) {
        drop(timeout(config.server.timeouts.close, linger(&mut stream)).await);
    }
}

/// How many connections there are, in total and from each address.
#[derive(Debug, Default)]
pub(crate) struct Census {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// Only filled while `max_per_ip` is set.
    per_ip: HashMap<IpAddr, usize>,
}

impl Census {
    fn count(
        self: &Arc<Self>,
        origin: Origin,
        kind: Kind,
        config: &Config,
    ) -> Result<Counted, Nowhere> {
        let limits = &config.server.limits;
        let mut counts = self.lock();
        if limits.max_connections.is_some_and(|max| counts.total >= max.get()) {
            return Err(Nowhere::full("too many connections"));
        }
        let ip = match (origin, kind, limits.max_per_ip) {
            (Origin::Ip(ip), Kind::WebSocket, Some(max)) => {
                let count = counts.per_ip.entry(ip).or_default();
                if *count >= max.get() {
                    return Err(Nowhere::full("too many connections from this address"));
                }
                *count += 1;
                Some(ip)
            }
            _ => None,
        };
        counts.total += 1;
        Ok(Counted { census: self.clone(), ip })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
struct Counted {
    census: Arc<Census>,
    ip: Option<IpAddr>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.census.lock();
        counts.total -= 1;
        if let Some(ip) = self.ip
            && let Some(count) = counts.per_ip.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                counts.per_ip.remove(&ip);
            }
        }
    }
}
