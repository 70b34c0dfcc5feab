//! Accept loop: accepts sockets while file descriptors are free, and starts a task for each.
//!
//! Does not read from a connection.

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use super::fd_reserve::FdReserve;
use super::listener::{Accepted, Listener};

/// Accepts until `stop` changes; then returns the tasks of the open connections.
pub(crate) async fn accept(
    listener: Listener,
    mut begin: impl FnMut(Accepted, &mut JoinSet<()>),
    mut stop: watch::Receiver<()>,
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
                            _ = stop.changed() => return connections,
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
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    error!(%error, "connection task failed");
                }
            }
            () = shortage.end() => {
                shortage.ends = None;
                info!("accepting again");
            }
            _ = stop.changed() => return connections,
        }
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
