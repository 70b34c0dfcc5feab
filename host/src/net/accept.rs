//! From `accept()` to the first byte of a request: takes sockets in, as far as there is room, and gives each to its task.
//!
//! Owns the accept loops. What a connection says is for `server` to hear.

use std::io::{self};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::fd_reserve::FdReserve;
use super::listener::{Accepted, Listener, accept_one};

/// Accepts until told to stop; then returns the connections that are still there.
pub(crate) async fn accept(
    listener: Listener,
    mut begin: impl FnMut(Accepted, &mut JoinSet<()>),
    mut stop: watch::Receiver<()>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let mut shortage = FdShortage { descriptors: FdReserve::new(), over: None };
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
                    begin(accepted, &mut connections);
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
struct FdShortage {
    descriptors: FdReserve,
    /// When it will have been over.
    over: Option<Instant>,
}

impl FdShortage {
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
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}
