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
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::admit::{self, Admitted, serve};
use super::reject::Rejector;
use crate::config::Config;
use crate::hub::Hub;
use crate::hub::counters::{Refused, TlsOutcome};
use crate::net::connection_limits::{Handshaking, LimitReached};
use crate::net::listener::{Accepted, Layer};
use crate::net::origin::Origin;
use crate::net::proxy_protocol::{self, ProxyError, ProxyHeader};
use crate::protocol::close::RETRY_AFTER;
use crate::protocol::http::{Refusal, dated};
use crate::protocol::time_limit::timeout_at;

/// First byte of a TLS connection: the content type of its record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Spawns the task of an accepted socket, unless a connection limit is reached.
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
                && let Err(full) = handshaking.check(&config.server.limits.connections)
            {
                hub.counters.add_refused(Refused::Limit);
                return reject_immediately(stream, ip, layer, &full);
            }
            let connection =
                NewConnection { ip, origin: Origin::Ip(ip), layer, handshaking, hub: hub.clone() };
            // Two kinds of tasks, so that a plain connection does not pay for TLS state.
            match layer {
                Layer::Plain => connections.spawn(serve(Box::pin(connection.plain(stream)))),
                Layer::Tls => connections.spawn(serve(Box::pin(connection.secured(stream)))),
            };
        }
    }
}

/// Returns whether trusted proxies send a PROXY header on this layer.
fn expects_proxy_header(layer: Layer, config: &Config) -> bool {
    match (layer, &config.server.tls) {
        (Layer::Tls, Some(tls)) => tls.proxy_protocol,
        (Layer::Tls, None) => false,
        (Layer::Plain, _) => config.server.access.proxy_protocol,
    }
}

type Secured = Box<TlsStream<TcpStream>>;

/// An accepted connection before its request.
struct NewConnection {
    /// Address of the socket, or of the client that a PROXY header names.
    ip: IpAddr,
    origin: Origin,
    layer: Layer,
    handshaking: Handshaking,
    hub: Arc<Hub>,
}

impl NewConnection {
    async fn plain(self, stream: TcpStream) -> Option<Admitted<TcpStream>> {
        let (stream, connection) = self.identify(stream).await?;
        admit::admit(stream, connection.origin, connection.handshaking, connection.hub).await
    }

    async fn secured(self, stream: TcpStream) -> Option<Admitted<Secured>> {
        let (stream, connection) = self.identify(stream).await?;
        let (stream, origin, connection) = Box::pin(connection.tls_handshake(stream)).await?;
        Box::pin(admit::admit(stream, origin, connection.handshaking, connection.hub)).await
    }

    /// Reads the PROXY header and applies the connection rate. `None` if the connection has ended.
    async fn identify(self, mut stream: TcpStream) -> Option<(TcpStream, Self)> {
        let config = self.hub.config.load_full();
        let is_trusted = |connection: &Self| config.server.access.is_trusted_proxy(connection.ip);
        let connection = match is_trusted(&self) && expects_proxy_header(self.layer, &config) {
            true => self.read_proxy_header(&mut stream, &config).await?,
            false => self,
        };
        // The client behind a trusted proxy without a PROXY header is known only from its request.
        if connection.origin == Origin::Ip(connection.ip) && is_trusted(&connection) {
            return Some((stream, connection));
        }
        match connection.hub.connection_limits.check_rate(connection.ip, &config) {
            Ok(()) => Some((stream, connection)),
            Err(full) => {
                connection.reject(stream, full).await;
                None
            }
        }
    }

    /// Reads a PROXY header. `None` if that fails.
    async fn read_proxy_header(self, stream: &mut TcpStream, config: &Config) -> Option<Self> {
        let by = self.handshaking.deadline(config.server.timeouts.head);
        let address = self.ip;
        match timeout_at(by, proxy_protocol::read(stream)).await {
            Ok(Ok(ProxyHeader::Peer)) => Some(self),
            Ok(Ok(ProxyHeader::For(ip))) => Some(Self { ip, origin: Origin::Ip(ip), ..self }),
            Ok(Ok(ProxyHeader::Unspecified)) => {
                Some(Self { origin: Origin::Hidden(Some(address)), ..self })
            }
            Ok(Err(error)) => {
                // Load balancers connect and close as a health check.
                let is_mistake = !matches!(error, ProxyError::Socket(_));
                if is_mistake && self.hub.connection_limits.should_warn_of_proxy() {
                    warn!(%error, %address, "invalid or missing PROXY header; make the proxy send one, or remove it from trusted_proxies");
                } else {
                    debug!(%error, %address, "PROXY header rejected");
                }
                None
            }
            Err(_) => {
                debug!(error = "header not complete in time", %address, "PROXY header rejected");
                None
            }
        }
    }

    /// Performs the TLS handshake. `None` if it fails.
    async fn tls_handshake(self, stream: TcpStream) -> Option<(Secured, Origin, Self)> {
        let config = self.hub.config.load_full();
        let (served, settings) = (self.hub.tls.load_full()?, config.server.tls.as_ref()?);
        let by = self.handshaking.deadline(settings.timeout);
        let mut first = [0];
        // Peek, so that a silent connection costs no buffer.
        let is_there = matches!(timeout_at(by, stream.peek(&mut first)).await, Ok(Ok(1)));
        if is_there && first[0] != TLS_HANDSHAKE {
            debug!(address = %self.ip, "plain text on a TLS port");
            // Text, or the empty line that may precede a request.
            if first[0].is_ascii_graphic() || matches!(first[0], b'\r' | b'\n') {
                let refusal = Refusal::bad_request("this port speaks TLS: use https:// or wss://");
                let rejector = Rejector::new(self.handshaking, &config);
                rejector.answer(stream, &refusal.to_bytes()).await;
            }
            return None;
        }
        if !is_there {
            debug!(address = %self.ip, "connection ended or silent before the TLS handshake");
            return None;
        }
        let accepted = timeout_at(by, served.acceptor().accept(stream)).await;
        self.hub.counters.add_tls(match &accepted {
            Ok(Ok(_)) => TlsOutcome::Completed,
            Ok(Err(_)) => TlsOutcome::Failed,
            Err(_) => TlsOutcome::TimedOut,
        });
        match accepted {
            Ok(Ok(mut stream)) => {
                if let Err(error) = served.verify_resumed(stream.get_ref().1) {
                    debug!(address = %self.ip, %error, "TLS session resumption refused");
                    // Best effort: the client sees the end in any case.
                    drop(timeout_at(by, stream.shutdown()).await);
                    return None;
                }
                let is_certified = stream.get_ref().1.peer_certificates().is_some();
                let origin = if is_certified { Origin::Certified(self.ip) } else { self.origin };
                Some((Box::new(stream), origin, self))
            }
            Ok(Err(error)) => {
                debug!(address = %self.ip, %error, "TLS handshake failed");
                None
            }
            Err(_) => {
                debug!(address = %self.ip, "TLS handshake timed out");
                None
            }
        }
    }

    async fn reject(self, stream: TcpStream, full: LimitReached) {
        debug!(reason = full.0, address = %self.ip, "connection rejected");
        self.hub.counters.add_refused(Refused::Limit);
        if self.layer == Layer::Tls {
            // A TLS handshake for the answer would cost what the limit saves.
            return;
        }
        let config = self.hub.config.load_full();
        Rejector::new(self.handshaking, &config).answer(stream, &refusal(&full)).await;
    }
}

/// Rejects a connection without waiting for the client.
fn reject_immediately(stream: TcpStream, ip: IpAddr, layer: Layer, full: &LimitReached) {
    debug!(reason = full.0, address = %ip, "connection rejected");
    if layer == Layer::Plain {
        // Best effort: the client sees the end in any case.
        drop(write_immediately(stream, &dated(&refusal(full), SystemTime::now())));
    }
}

/// Writes what the system takes without waiting, and reads what has arrived of the request: unread
/// bytes would reset the connection and lose the answer.
fn write_immediately(stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    // Tokio would first wait for readiness; the standard socket is non-blocking as well.
    let mut stream = stream.into_std()?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut discarded = [0; 4096];
    for _ in 0..MAX_READS {
        if stream.read(&mut discarded)? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads of 4 KiB: together, the longest usual request head.
const MAX_READS: usize = 8;

fn refusal(LimitReached(reason): &LimitReached) -> Vec<u8> {
    Refusal::unavailable(*reason, RETRY_AFTER).to_bytes()
}
