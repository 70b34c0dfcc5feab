//! One instance takes over from another: what a swap is made of, what it may cost, and how state is taken over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::warn;

use crate::plugin::{Failure, Instance, Snapshot};
use crate::routing::counters::CounterValues;
use crate::routing::registry::Peer;

/// A successor, ready to take over.
pub(crate) struct Swap {
    pub(crate) next: Box<dyn Instance>,
    pub(crate) succession: Succession,
    /// For [`Succession::Returned`]: the sessions that its state speaks of.
    pub(crate) known: Vec<Arc<Peer>>,
    pub(crate) limits: HandoverLimits,
    /// Told what became of it. Where nobody waits for that any more, the swap is off.
    pub(crate) done: oneshot::Sender<Result<Handover, SwapError>>,
}

/// What a successor is to its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Succession {
    /// The same application: it takes over the state; connections are not opened again.
    Heir,
    /// Another application: the old one sees each connection close, the new one sees it open.
    Stranger,
    /// It has its state already, from a moment when other sessions were there: it sees those open that have come since,
    /// and those close that have gone.
    Returned,
}

/// What a handover of state may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandoverLimits {
    pub(crate) snapshot_bytes: usize,
    pub(crate) restore: Duration,
}

/// What a swap cost.
#[derive(Debug)]
pub(crate) struct Handover {
    /// How long messages waited.
    pub(crate) pause: Duration,
    /// What the successor took over.
    pub(crate) snapshot: Option<Snapshot>,
    /// Who was there.
    pub(crate) sessions: Vec<Arc<Peer>>,
    /// What had been counted of the resource.
    pub(crate) values: CounterValues,
}

/// Why the predecessor goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwapError {
    #[error("the running instance could not give its state: {0}")]
    Snapshot(String),
    #[error("the new instance does not take over the state: {0}")]
    Restore(String),
    #[error("its state is {bytes} bytes, and reload.snapshot_limit is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the new instance did not take over the state within {0:?}")]
    RestoreHung(Duration),
    #[error("the system gives no thread for it")]
    Thread(#[source] std::io::Error),
    #[error("the resource has no lane any more")]
    NoLane,
    #[error("the running instance is stuck in a callback")]
    Stuck,
    #[error("the running instance was stuck and given up, and no other one could start: {0}")]
    Restart(String),
}

impl std::fmt::Debug for Swap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Swap(generation {})", self.next.generation())
    }
}

impl SwapError {
    fn restore(failure: Failure) -> Self {
        Self::Restore(failure.into_text())
    }
}

/// For a successor that gets no state.
pub(super) fn take_up(mut next: Box<dyn Instance>) -> Result<Box<dyn Instance>, SwapError> {
    match next.restore(None) {
        Ok(()) => Ok(next),
        Err(failure) => {
            drop(discard(next));
            Err(SwapError::restore(failure))
        }
    }
}

/// Lets an instance take over a state, within `limit`; returns both.
pub(crate) async fn restore(
    mut next: Box<dyn Instance>,
    snapshot: Snapshot,
    limit: Duration,
) -> Result<(Box<dyn Instance>, Snapshot), SwapError> {
    let revocation = next.revocation();
    let (done, restored) = oneshot::channel();
    let work = move || match next.restore(Some(&snapshot)) {
        // What comes too late is dropped here.
        Ok(()) => drop(done.send(Ok((next, snapshot)))),
        Err(failure) => {
            next.retire();
            done.send(Err(SwapError::restore(failure))).ok();
        }
    };
    let thread = std::thread::Builder::new().name("restore".to_owned()).spawn(work);
    drop(thread.map_err(SwapError::Thread)?);
    match timeout(limit, restored).await {
        Ok(Ok(restored)) => restored,
        Ok(Err(_)) => Err(SwapError::Restore("its thread ended".to_owned())),
        Err(_) => {
            if let Some((state, revoked)) = revocation {
                state.store(revoked, Ordering::Release);
            }
            Err(SwapError::RestoreHung(limit))
        }
    }
}

/// Ends when an instance is gone.
pub(crate) type RetiredReceiver = oneshot::Receiver<()>;

/// Drops an instance where it holds nobody up: its `Drop` may join threads.
pub(crate) fn discard(instance: Box<dyn Instance>) -> RetiredReceiver {
    let (done, gone) = oneshot::channel();
    let name = format!("drop:{}", instance.generation());
    let work = move || {
        drop(instance);
        // Who asked may have gone.
        done.send(()).ok();
    };
    if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
        warn!(%error, "no thread to drop an instance on");
    }
    gone
}
