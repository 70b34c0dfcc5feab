//! From `accept()` to the first byte of a request: takes sockets in and gives each to its task.
//!
//! Owns the accept loops. What a connection says is for `server` to hear.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;

use crate::handshake::Origin;
use crate::listener::{Accepted, Listener, accept_one};
use crate::server::{Hub, serve};

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

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
