//! From `accept()` to the first byte of a request: takes sockets in, as far as there is room, and gives each to its task.
//!
//! Owns the accept loops. What a connection says is for `server` to hear.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use crate::census::{Arriving, Full};
use crate::config::Config;
use crate::descriptors::Descriptors;
use crate::handshake::{Origin, RETRY_AFTER};
use crate::http::Refusal;
use crate::listener::{Accepted, Layer, Listener, accept_one};
use crate::proxy_protocol;
use crate::server::{Hub, answer, serve};

/// Accepts until told to stop; then returns the connections that are still there.
pub(crate) async fn accept(
    listener: Listener,
    hub: Arc<Hub>,
    mut stop: watch::Receiver<()>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let mut shortage = Shortage { descriptors: Descriptors::new(), over: None };
    loop {
        tokio::select! {
            accepted = accept_one(&listener) => match accepted {
                Ok(accepted) => {
                    if shortage.descriptors.is_reserved(accepted.descriptor()) {
                        shortage.note("no descriptors left for connections");
                        tokio::select! {
                            () = shortage.room() => {}
                            _ = stop.changed() => return connections,
                        }
                    }
                    admit(accepted, &hub, &mut connections);
                }
                Err(error) if is_of_one_connection(&error) => debug!(%error, "not accepted"),
                Err(error) => {
                    // Out of descriptors or memory: they come back when connections end. Accepting at once would only spin.
                    shortage.note(&error.to_string());
                    sleep(PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task failed");
                }
            }
            () = shortage.end() => shortage.say_over(),
            _ = stop.changed() => return connections,
        }
    }
}

/// The first byte of a TLS connection: the content type of a record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
const NO_TLS: &str = "this port speaks TLS: use https:// or wss://";

/// Between two looks whether there is room.
const PAUSE: Duration = Duration::from_millis(100);
/// A shortage is over once nothing was short for so long.
const OVER: Duration = Duration::from_secs(1);

/// Whether connections can be taken in. Says so once when it begins and once when it ends.
struct Shortage {
    descriptors: Descriptors,
    /// When it will have been over.
    over: Option<Instant>,
}

impl Shortage {
    fn note(&mut self, reason: &str) {
        if self.over.replace(Instant::now() + OVER).is_none() {
            let limit = self.descriptors.limit();
            warn!(
                reason,
                limit, "cannot accept; those who come wait (LimitNOFILE, max_connections)"
            );
        }
    }

    /// Waits until a descriptor is left that is not of the reserve.
    async fn room(&mut self) {
        while !self.descriptors.is_room() {
            sleep(PAUSE).await;
        }
        self.over = Some(Instant::now() + OVER);
    }

    async fn end(&self) {
        match self.over {
            Some(over) => sleep_until(over).await,
            None => std::future::pending().await,
        }
    }

    fn say_over(&mut self) {
        self.over = None;
        info!("accepting again");
    }
}

/// Errors of a connection that ended before it was taken, which `accept(2)` passes on.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

/// Gives a socket to its task, if the limits at the door allow it.
fn admit(accepted: Accepted, hub: &Arc<Hub>, connections: &mut JoinSet<()>) {
    match accepted {
        Accepted::Unix(stream) => {
            let arriving = hub.census.arrive();
            connections.spawn(serve(stream, Origin::Unix, arriving, hub.clone()));
        }
        Accepted::Tcp(stream, ip, layer) => {
            let config = hub.config.load();
            let arriving = hub.census.arrive();
            if !config.server.access.allows_backend(ip)
                && let Err(full) = arriving.check(&config.server.limits)
            {
                turn_away_at_once(&stream, (ip, layer), full);
                return;
            }
            let guest = Guest { ip, layer, arriving, hub: hub.clone() };
            // Whom a proxy speaks for is not known yet.
            if config.server.access.is_trusted_proxy(ip) {
                match is_introduced(layer, &config) {
                    true => drop(connections.spawn(guest.introduced(stream))),
                    false => guest.begin(stream, connections),
                }
                return;
            }
            match hub.census.pace(ip, &config) {
                Ok(()) => guest.begin(stream, connections),
                Err(full) => drop(connections.spawn(guest.turn_away(stream, full))),
            }
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

/// A connection that has been let in, before it has said anything.
struct Guest {
    ip: IpAddr,
    layer: Layer,
    arriving: Arriving,
    hub: Arc<Hub>,
}

impl Guest {
    /// Two kinds of tasks: one without TLS is none the larger for it.
    fn begin(self, stream: TcpStream, connections: &mut JoinSet<()>) {
        match self.layer {
            Layer::Plain => connections.spawn(self.serve(stream)),
            Layer::Tls => connections.spawn(self.secured(stream)),
        };
    }

    fn serve(self, stream: TcpStream) -> impl Future<Output = ()> + Send {
        serve(stream, Origin::Ip(self.ip), self.arriving, self.hub)
    }

    async fn secured(self, stream: TcpStream) {
        if let Some((stream, origin)) = Box::pin(self.shake_hands(stream)).await {
            serve(stream, origin, self.arriving, self.hub).await;
        }
    }

    /// The TLS handshake. None if there is nobody to serve.
    async fn shake_hands(&self, stream: TcpStream) -> Option<(Box<TlsStream<TcpStream>>, Origin)> {
        let config = self.hub.config.load_full();
        let (served, settings) = (self.hub.tls.served()?, config.server.tls.as_ref()?);
        let by = Instant::now() + settings.timeout;
        let mut first = [0];
        // Looked at and left there: who says nothing costs no buffer.
        if !matches!(timeout_at(by, stream.peek(&mut first)).await, Ok(Ok(1))) {
            return None;
        }
        if first[0] != TLS_HANDSHAKE {
            debug!(address = %self.ip, "no TLS on a TLS port");
            if first[0].is_ascii_graphic() {
                answer(stream, &Refusal::bad_request(NO_TLS).to_bytes(), &config).await;
            }
            return None;
        }
        match timeout_at(by, served.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => {
                let is_certified = stream.get_ref().1.peer_certificates().is_some();
                let origin = if is_certified { Origin::Certified } else { Origin::Ip };
                Some((Box::new(stream), origin(self.ip)))
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

    async fn turn_away(self, stream: TcpStream, full: Full) {
        if self.layer == Layer::Tls {
            // To be told in TLS would cost what the limit saves.
            return;
        }
        let config = self.hub.config.load_full();
        answer(stream, &refusal(&full), &config).await;
    }

    /// Hears from a proxy for whom it speaks, and serves that one.
    async fn introduced(self, mut stream: TcpStream) {
        match Box::pin(self.listen_to_proxy(&mut stream)).await {
            Ok((guest, Ok(()))) if guest.layer == Layer::Tls => guest.secured(stream).await,
            Ok((guest, Ok(()))) => guest.serve(stream).await,
            Ok((guest, Err(full))) => Box::pin(guest.turn_away(stream, full)).await,
            Err(reason) => debug!(reason, "a proxy is not served"),
        }
    }

    /// Who it is, and whether that one may come in now.
    async fn listen_to_proxy(
        self,
        stream: &mut TcpStream,
    ) -> Result<(Self, Result<(), Full>), String> {
        let config = self.hub.config.load_full();
        let header = timeout(config.server.timeouts.head, proxy_protocol::read(stream)).await;
        let said = header.map_err(|_| "the PROXY header was not whole in time".to_owned())?;
        match said.map_err(|error| error.to_string())? {
            Some(ip) => {
                let paced = self.hub.census.pace(ip, &config);
                Ok((Self { ip, ..self }, paced))
            }
            None => Ok((self, Ok(()))),
        }
    }
}

/// Without a place to wait in for the peer to take it.
fn turn_away_at_once(stream: &TcpStream, (ip, layer): (IpAddr, Layer), full: Full) {
    debug!(reason = full.0, address = %ip, "turned away");
    if layer == Layer::Plain {
        // Who does not get it sees the end.
        drop(stream.try_write(&refusal(&full)));
    }
}

fn refusal(Full(reason): &Full) -> Vec<u8> {
    Refusal::unavailable(*reason, RETRY_AFTER).to_bytes()
}
