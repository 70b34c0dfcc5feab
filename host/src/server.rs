//! Accepts connections and brings each to its resource, or answers why not.
//!
//! Owns the listeners' accept loops, the count of connections, and every connection's task. What a connection does after its
//! handshake is `connection.rs`'.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use plugsocket_plugin::{CloseCode, Kind};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{Instrument, debug, info_span, warn};

use crate::config::{Config, UnknownResource};
use crate::connection::Connection;
use crate::handshake::{self, Handshake, NoHandshake, Origin, RETRY_AFTER, Wish};
use crate::http::{self, Refusal};
use crate::identity::Mint;
use crate::outbox::{Bounds, CloseReason};
use crate::plugin::lane::Inbox;
use crate::post;
use crate::registry::{Arrival, Peer, Registry};
use crate::resource::{Resource, Resources, Service, ServiceState};
use crate::wire::{Wire, linger};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Hub {
    /// The configuration in force; a connection looks once, when it comes.
    pub(crate) config: ArcSwap<Config>,
    pub(crate) resources: Arc<ArcSwap<Resources>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mint: Mint,
    pub(crate) census: Arc<Census>,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Accepts until told to stop; then returns the connections that are still there.
pub(crate) async fn accept(listener: Listener, hub: Arc<Hub>, mut stop: watch::Receiver<bool>) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept_one(&listener, &hub, &mut connections) => {
                if let Err(error) = accepted {
                    // Out of descriptors or memory: they come back when connections end. Accepting at once would only spin.
                    warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task failed");
                }
            }
            _ = stop.wait_for(|stop| *stop) => return connections,
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn accept_one(listener: &Listener, hub: &Arc<Hub>, connections: &mut JoinSet<()>) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // A reset peer has no options any more; the connection ends by itself.
            drop(stream.set_nodelay(true));
            let origin = Origin::Ip(address.ip().to_canonical());
            connections.spawn(serve(stream, origin, hub.clone()));
        }
        Listener::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            connections.spawn(serve(stream, Origin::Unix, hub.clone()));
        }
    }
    Ok(())
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, origin: Origin, hub: Arc<Hub>) {
    let config = hub.config.load_full();
    match handshake::read(&mut stream, origin, &config).await {
        Ok(handshake) => admit(stream, handshake, &hub, &config).await,
        Err(NoHandshake::Left) => {}
        Err(NoHandshake::Refused(refusal)) => {
            debug!(status = refusal.status(), reason = refusal.reason(), address = %origin.to_text(), "refused");
            answer(stream, &refusal.to_bytes(), &config).await;
        }
        Err(NoHandshake::RefusedLines(reason)) => {
            debug!(reason, address = %origin.to_text(), "refused");
            let packet = format!("{}\n", crate::dialog::close(reason));
            answer(stream, packet.as_bytes(), &config).await;
        }
    }
}

async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    handshake: Handshake,
    hub: &Arc<Hub>,
    config: &Config,
) {
    let Handshake { head, origin, read, wish } = handshake;
    let kind = match &wish {
        Wish::Page(page) => return answer(stream, page, config).await,
        Wish::WebSocket { kind, .. } => *kind,
        Wish::Lines { .. } => Kind::Tcp,
        Wish::Post { .. } => Kind::Backend,
    };
    let counted = match hub.census.count(origin, kind, config) {
        Ok(counted) => counted,
        Err(reason) => {
            let bytes = match wish {
                Wish::Lines { .. } => format!("{}\n", crate::dialog::close(reason)).into_bytes(),
                _ => Refusal::unavailable(reason, RETRY_AFTER).to_bytes(),
            };
            return answer(stream, &bytes, config).await;
        }
    };
    let resource = hub.resources.load().get(head.path()).cloned();
    let (resource, inbox, service) = match find(resource, head.path()) {
        Ok(found) => found,
        Err(nowhere) => return turn_away(stream, wish, read, &nowhere, config).await,
    };
    let limits = &config.server.limits;
    let is_post = matches!(wish, Wish::Post { .. });
    let wire = match wish {
        Wish::Post { length } => {
            let arrival = Arrival { identity: hub.mint.mint(), kind, dialog: true, address: origin.to_text(), head, resource };
            let entry = hub.registry.enter(Arc::new(Peer::new(arrival, bounds(config))));
            let request = post::Request { length, read, inbox };
            let bytes = post::serve(&mut stream, request, entry, config).await;
            return answer(stream, &bytes, config).await;
        }
        Wish::WebSocket { upgrade, .. } => {
            let protocol = http::choose_protocol(&head, &service.subprotocols);
            if stream.write_all(&http::switching(&upgrade, protocol)).await.is_err() {
                return;
            }
            Wire::websocket(stream, read, limits).await
        }
        Wish::Lines { tail } => Wire::lines(stream, &read, tail, limits),
        Wish::Page(_) => return,
    };
}
