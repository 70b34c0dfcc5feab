//! From `accept()` to the first byte of a request: takes sockets in, as far as there is room, and gives each to its task.
//!
//! Owns the accept loops. What a connection says is for `server` to hear.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::census::{Arriving, Full};
use crate::config::Server;
use crate::descriptors::Descriptors;
use crate::handshake::{Origin, RETRY_AFTER};
use crate::http::Refusal;
use crate::listener::{Accepted, Listener, accept_one};
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
        Accepted::Tcp(stream, ip) => {
            let config = hub.config.load();
            let Server { access, limits, proxy_protocol, .. } = &config.server;
            let arriving = hub.census.arrive();
            if !access.allows_backend(ip)
                && let Err(full) = arriving.check(limits)
            {
                turn_away_at_once(&stream, ip, full);
                return;
            }
            let guest = Guest { ip, arriving, hub: hub.clone() };
            // Whom a proxy speaks for is not known yet.
            if !access.is_trusted_proxy(ip) {
                match hub.census.pace(ip, &config) {
                    Ok(()) => connections.spawn(guest.serve(stream)),
                    Err(full) => connections.spawn(guest.turn_away(stream, full)),
                };
            } else if *proxy_protocol {
                connections.spawn(guest.introduced(stream));
            } else {
                connections.spawn(guest.serve(stream));
            }
        }
    }
}

/// A connection that has been let in, before it has said anything.
struct Guest {
    ip: IpAddr,
    arriving: Arriving,
    hub: Arc<Hub>,
}

impl Guest {
    fn serve(self, stream: TcpStream) -> impl Future<Output = ()> + Send {
        serve(stream, Origin::Ip(self.ip), self.arriving, self.hub)
    }

    async fn turn_away(self, stream: TcpStream, full: Full) {
        let config = self.hub.config.load_full();
        answer(stream, &refusal(&full), &config).await;
    }

    /// Hears from a proxy for whom it speaks, and serves that one.
    async fn introduced(self, mut stream: TcpStream) {
        match Box::pin(self.listen_to_proxy(&mut stream)).await {
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
fn turn_away_at_once(stream: &TcpStream, ip: IpAddr, full: Full) {
    debug!(reason = full.0, address = %ip, "turned away");
    // Who does not get it sees the end.
    drop(stream.try_write(&refusal(&full)));
}

fn refusal(Full(reason): &Full) -> Vec<u8> {
    Refusal::unavailable(*reason, RETRY_AFTER).to_bytes()
}
