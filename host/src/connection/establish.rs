//! From an accepted socket to the first byte of its request: limits, PROXY header, TLS handshake.
//!
//! Owns a connection's task until `admit` reads the request.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::admit::{self, Admitted, serve};
use super::reject::Rejector;
use crate::config::Config;
use crate::hub::Hub;
use crate::net::connection_limits::{Handshaking, LimitReached};
use crate::net::listener::{Accepted, Layer};
use crate::net::origin::Origin;
use crate::net::proxy_protocol::{self, ProxyError, ProxyHeader};
use crate::protocol::close::RETRY_AFTER;
use crate::protocol::http::{Refusal, dated};

/// The first byte of a TLS connection: the content type of a record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
const NO_TLS: &str = "this port speaks TLS: use https:// or wss://";

/// Gives a socket to its task, if there is room at the door.
pub(crate) fn begin(accepted: Accepted, hub: &Arc<Hub>, connections: &mut JoinSet<()>) {
    let handshaking = hub.connection_limits.start_handshake();
    match accepted {
        Accepted::Unix(stream) => {
            let admission = admit::admit(stream, Origin::Unix, handshaking, hub.clone());
            connections.spawn(serve(Box::pin(admission)));
        }
        Accepted::Tcp(stream, ip, layer) => {
            let config = hub.config.load();
            if !config.server.access.allows_backend(ip)
                && let Err(full) = handshaking.check(&config.server.limits)
            {
                turn_away_at_once(stream, (ip, layer), full);
                return;
            }
            let connection =
                NewConnection { ip, origin: Origin::Ip(ip), layer, handshaking, hub: hub.clone() };
            // Two kinds of tasks: one without TLS is none the larger for it.
            match layer {
                Layer::Plain => connections.spawn(serve(Box::pin(connection.plain(stream)))),
                Layer::Tls => connections.spawn(serve(Box::pin(connection.secured(stream)))),
            };
        }
    }
}

/// Whether proxies begin with a header here.
fn is_introduced(layer: Layer, config: &Config) -> bool {
    match (layer, &config.server.tls) {
        (Layer::Tls, Some(tls)) => tls.proxy_protocol,
        (Layer::Tls, None) => false,
        (Layer::Plain, _) => config.server.proxy_protocol,
    }
}

type Secured = Box<TlsStream<TcpStream>>;

/// A connection that has been let in, before it has said anything.
struct NewConnection {
    /// The socket's, or what a proxy says of it.
    ip: IpAddr,
    origin: Origin,
    layer: Layer,
    handshaking: Handshaking,
    hub: Arc<Hub>,
}

impl NewConnection {
    async fn plain(self, stream: TcpStream) -> Option<Admitted<TcpStream>> {
        let (stream, connection) = self.enter(stream).await?;
        admit::admit(stream, connection.origin, connection.handshaking, connection.hub).await
    }

    async fn secured(self, stream: TcpStream) -> Option<Admitted<Secured>> {
        let (stream, connection) = self.enter(stream).await?;
        let (stream, origin, connection) = Box::pin(connection.shake_hands(stream)).await?;
        Box::pin(admit::admit(stream, origin, connection.handshaking, connection.hub)).await
    }

    /// Hears from a proxy for whom it speaks, and whether that one may come in now. None if not.
    async fn enter(self, mut stream: TcpStream) -> Option<(TcpStream, Self)> {
        let config = self.hub.config.load_full();
        let is_trusted = |connection: &Self| config.server.access.is_trusted_proxy(connection.ip);
        let connection = match is_trusted(&self) && is_introduced(self.layer, &config) {
            true => self.introduced(&mut stream, &config).await?,
            false => self,
        };
        // For whom one speaks that is a proxy itself is not known before its request.
        if connection.origin == Origin::Ip(connection.ip) && is_trusted(&connection) {
            return Some((stream, connection));
        }
        match connection.hub.connection_limits.check_rate(connection.ip, &config) {
            Ok(()) => Some((stream, connection)),
            Err(full) => {
                connection.turn_away(stream, full).await;
                None
            }
        }
    }

    /// Who it is after a proxy has said so. None if it has not.
    async fn introduced(self, stream: &mut TcpStream, config: &Config) -> Option<Self> {
        let by = self.handshaking.deadline(config.server.timeouts.head);
        let address = self.ip;
        match timeout_at(by, proxy_protocol::read(stream)).await {
            Ok(Ok(ProxyHeader::Peer)) => Some(self),
            Ok(Ok(ProxyHeader::For(ip))) => Some(Self { ip, origin: Origin::Ip(ip), ..self }),
            Ok(Ok(ProxyHeader::Unspecified)) => {
                Some(Self { origin: Origin::Hidden(Some(self.ip)), ..self })
            }
            // Who ended it may only have looked whether somebody is there, as balancers do.
            Ok(Err(error @ ProxyError::Socket(_))) => {
                debug!(%error, %address, "a proxy is not served");
                None
            }
            Ok(Err(error)) if self.hub.connection_limits.should_warn_of_proxy() => {
                warn!(%error, %address, "a proxy is not served; let it send PROXY headers, or take it out of trusted_proxies");
                None
            }
            Ok(Err(error)) => {
                debug!(%error, %address, "a proxy is not served");
                None
            }
            Err(_) => {
                debug!(error = "its PROXY header was not whole in time", %address, "a proxy is not served");
                None
            }
        }
    }

    /// The TLS handshake. None if there is nobody to serve.
    async fn shake_hands(self, stream: TcpStream) -> Option<(Secured, Origin, Self)> {
        let config = self.hub.config.load_full();
        let (served, settings) = (self.hub.tls.served()?, config.server.tls.as_ref()?);
        let by = self.handshaking.deadline(settings.timeout);
        let mut first = [0];
        // Looked at and left there: who says nothing costs no buffer.
        let is_there = matches!(timeout_at(by, stream.peek(&mut first)).await, Ok(Ok(1)));
        if is_there && first[0] != TLS_HANDSHAKE {
            debug!(address = %self.ip, "no TLS on a TLS port");
            // Text, or the empty line that may come before a request.
            if first[0].is_ascii_graphic() || matches!(first[0], b'\r' | b'\n') {
                let answer = Refusal::bad_request(NO_TLS).to_bytes();
                Rejector::new(self.handshaking, &config).answer(stream, &answer).await;
            }
            return None;
        }
        if !is_there {
            debug!(address = %self.ip, "left, or silent, before the TLS handshake");
            return None;
        }
        match timeout_at(by, served.acceptor().accept(stream)).await {
            Ok(Ok(mut stream)) => {
                if let Err(error) = served.verify_resumed(stream.get_ref().1) {
                    debug!(address = %self.ip, %error, "a TLS session does not go on");
                    // Who does not get it sees the end.
                    drop(timeout_at(by, stream.shutdown()).await);
                    return None;
                }
                let is_certified = stream.get_ref().1.peer_certificates().is_some();
                let origin = if is_certified { Origin::Certified(self.ip) } else { self.origin };
                Some((Box::new(stream), origin, self))
            }
            Ok(Err(error)) => {
                debug!(address = %self.ip, %error, "no TLS handshake");
                None
            }
            Err(_) => {
                debug!(address = %self.ip, "no TLS handshake in time");
                None
            }
        }
    }

    async fn turn_away(self, stream: TcpStream, full: LimitReached) {
        debug!(reason = full.0, address = %self.ip, "turned away");
        if self.layer == Layer::Tls {
            // To be told in TLS would cost what the limit saves.
            return;
        }
        let config = self.hub.config.load_full();
        Rejector::new(self.handshaking, &config).answer(stream, &refusal(&full)).await;
    }
}

/// Without a place to wait in for the peer to take it.
fn turn_away_at_once(stream: TcpStream, (ip, layer): (IpAddr, Layer), full: LimitReached) {
    debug!(reason = full.0, address = %ip, "turned away");
    if layer == Layer::Plain {
        // Who does not get it sees the end.
        drop(say_at_once(stream, &dated(&refusal(&full), SystemTime::now())));
    }
}

/// What the system takes without waiting is said, and what it has of a request is read: unread, it would reset the connection, and
/// the answer be lost.
fn say_at_once(stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    // A socket of the runtime's is not tried before the runtime has heard of it. This one does not block either.
    let mut stream = stream.into_std()?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut scrap = [0; 4096];
    for _ in 0..MOST_READS {
        if stream.read(&mut scrap)? == 0 {
            break;
        }
    }
    Ok(())
}

/// Of 4 KiB: as much as the longest head that is usual.
const MOST_READS: usize = 8;

fn refusal(LimitReached(reason): &LimitReached) -> Vec<u8> {
    Refusal::unavailable(*reason, RETRY_AFTER).to_bytes()
}
