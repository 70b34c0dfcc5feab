//! Accept loop: accepts sockets while file descriptors are free, and starts a task for each.
//!
//! Does not read from a connection.

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use super::fd_reserve::FdReserve;
use super::listener::{Accepted, Listener};

/// Whether the host accepts connections. The states follow each other in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Accepting {
    #[default]
    Open,
    /// The listening sockets are closed; open connections stay.
    Draining,
    /// Open connections are closed as well.
    Stopping,
}

/// Accepts connections, and watches over their tasks until the host stops; then returns them.
pub(crate) async fn accept(
    listener: Listener,
    mut begin: impl FnMut(Accepted, &mut JoinSet<()>),
    mut accepting: watch::Receiver<Accepting>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let mut shortage = FdShortage { reserve: FdReserve::new(), ends: None };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => {
                    if shortage.reserve.is_reserved(accepted.descriptor()) {
                        shortage.extend("the remaining ones are reserved");
                        tokio::select! {
                            () = shortage.wait_for_descriptor() => {}
                            () = until(&mut accepting, |it| it != Accepting::Open) => break,
                        }
                    }
                    begin(accepted, &mut connections);
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "connection ended before it was accepted");
                }
                Err(error) => {
                    // Descriptors and memory return when connections end; an immediate retry would
                    // only spin.
                    shortage.extend(&error.to_string());
                    sleep(RETRY_INTERVAL).await;
                }
            },
            Some(ended) = connections.join_next() => check(ended),
            () = shortage.end() => {
                shortage.ends = None;
                info!("accepting again");
            }
            () = until(&mut accepting, |it| it != Accepting::Open) => break,
        }
    }
    // A client that tries to connect learns at once that it cannot, and another host can listen.
    drop(listener);
    loop {
        tokio::select! {
            Some(ended) = connections.join_next() => check(ended),
            () = until(&mut accepting, |it| it == Accepting::Stopping) => return connections,
        }
    }
}

/// Completes in a state for which `is_awaited`.
async fn until(accepting: &mut watch::Receiver<Accepting>, is_awaited: impl Fn(Accepting) -> bool) {
    // Fails only without a host.
    drop(accepting.wait_for(|it| is_awaited(*it)).await);
}

fn check(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "connection task failed");
    }
}

const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// A shortage has ended once accepting succeeded for this long.
const RECOVERY_TIME: Duration = Duration::from_secs(1);

/// Shortage of file descriptors, logged once when it begins and once when it ends.
struct FdShortage {
    reserve: FdReserve,
    /// Set during a shortage.
    ends: Option<Instant>,
}

impl FdShortage {
    fn extend(&mut self, reason: &str) {
        if self.ends.replace(Instant::now() + RECOVERY_TIME).is_none() {
            warn!(
                reason,
                limit = self.reserve.limit,
                "out of file descriptors; new connections wait in the backlog; raise LimitNOFILE \
                 or lower max_connections"
            );
        }
    }

    /// Waits until a descriptor outside the reserve is free.
    async fn wait_for_descriptor(&mut self) {
        while !self.reserve.is_room() {
            sleep(RETRY_INTERVAL).await;
        }
        self.ends = Some(Instant::now() + RECOVERY_TIME);
    }

    async fn end(&self) {
        match self.ends {
            Some(end) => sleep_until(end).await,
            None => std::future::pending().await,
        }
    }
}

/// Returns whether accept(2) reported an error of the one connection it took from the backlog.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
