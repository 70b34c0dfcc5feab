//! Replaces one instance by another: the parts of a swap, its limits, and how state is restored.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::warn;

use super::health::Revocation;
use crate::config::HandoverSettings;
use crate::plugin::{Failure, Instance, Retirement, Snapshot};
use crate::protocol::time_limit::timeout;
use crate::routing::counters::CounterValues;
use crate::routing::peer::Peer;

/// A swap to a successor that has started.
pub(crate) struct Swap {
    pub(crate) next: Box<dyn Instance>,
    pub(crate) succession: Succession,
    /// With [`Succession::Restored`]: the sessions in the successor's state.
    pub(crate) known: Vec<Arc<Peer>>,
    pub(crate) limits: HandoverSettings,
    /// How the predecessor retires.
    pub(crate) retirement: Retirement,
    /// Receives the outcome. If the receiver was dropped, the swap does not take place.
    pub(crate) done: oneshot::Sender<Result<Handover, SwapError>>,
}

/// How a successor relates to its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Succession {
    /// The same application: it takes over the state, and connections are not opened again.
    Update,
    /// Another application: the old one sees each connection close, the new one sees it open.
    Replacement,
    /// The successor has restored an earlier state. It sees connections open that came since then,
    /// and connections close that left.
    Restored,
}

/// The outcome of a successful swap.
#[derive(Debug)]
pub(crate) struct Handover {
    /// How long messages waited.
    pub(crate) pause: Duration,
    /// The state that the successor restored.
    pub(crate) snapshot: Option<Snapshot>,
    /// The members of the resource at the swap.
    pub(crate) sessions: Vec<Arc<Peer>>,
    /// The resource's counters at the swap.
    pub(crate) values: CounterValues,
}

/// Why the predecessor stays active.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwapError {
    #[error("the running instance did not return its state: {0}")]
    Snapshot(String),
    #[error("the new instance does not take over the state: {0}")]
    Restore(String),
    #[error("its state is {bytes} bytes, and reload.snapshot_limit is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the new instance did not take over the state within {0:?}")]
    RestoreHung(Duration),
    #[error("cannot start a thread that restores the state")]
    Thread(#[source] std::io::Error),
    #[error("the resource no longer has a lane")]
    NoLane,
    #[error("the running instance is stuck in a callback")]
    Stuck,
    #[error("the running instance was stuck and was given up, and no other one could start: {0}")]
    Restart(String),
}

impl From<Failure> for SwapError {
    /// The failure of a `restore`.
    fn from(failure: Failure) -> Self {
        Self::Restore(failure.into_text())
    }
}

/// Activates a successor that gets no state.
pub(super) fn activate(mut next: Box<dyn Instance>) -> Result<Box<dyn Instance>, SwapError> {
    match next.restore(None) {
        Ok(()) => Ok(next),
        Err(failure) => {
            drop(discard(next));
            Err(failure.into())
        }
    }
}

/// Restores a state within `limit` and returns the instance and the state. The work is done on a
/// thread, which is left behind when it takes longer.
pub(crate) async fn restore(
    mut next: Box<dyn Instance>,
    snapshot: Snapshot,
    limit: Duration,
) -> Result<(Box<dyn Instance>, Snapshot), SwapError> {
    let revocation = next.revocation();
    let (done, restored) = oneshot::channel();
    let work = move || match next.restore(Some(&snapshot)) {
        // Drops an instance that comes too late.
        Ok(()) => drop(done.send(Ok((next, snapshot)))),
        Err(failure) => {
            next.retire();
            done.send(Err(failure.into())).ok();
        }
    };
    let thread = std::thread::Builder::new().name("restore".to_owned()).spawn(work);
    drop(thread.map_err(SwapError::Thread)?);
    match timeout(limit, restored).await {
        Ok(Ok(restored)) => restored,
        Ok(Err(_)) => Err(SwapError::Restore("its thread ended".to_owned())),
        Err(_) => {
            revocation.iter().for_each(Revocation::revoke);
            Err(SwapError::RestoreHung(limit))
        }
    }
}

/// Drops an instance that has not served, on its own thread, because its `Drop` may join threads.
/// Returns what completes when it was dropped.
pub(crate) fn discard(instance: Box<dyn Instance>) -> oneshot::Receiver<()> {
    drop_after(instance, |_| {})
}

/// Lets an instance that has served finish, and drops it, as [`discard`] does.
pub(super) fn retire(
    mut instance: Box<dyn Instance>,
    retirement: Retirement,
) -> oneshot::Receiver<()> {
    instance.begin_retiring(retirement.limit);
    drop_after(instance, move |instance| instance.finish_retiring(retirement))
}

fn drop_after(
    mut instance: Box<dyn Instance>,
    finish: impl FnOnce(&mut dyn Instance) + Send + 'static,
) -> oneshot::Receiver<()> {
    let (done, gone) = oneshot::channel();
    let name = format!("drop:{}", instance.generation());
    let work = move || {
        finish(&mut *instance);
        drop(instance);
        // The requester may have gone.
        done.send(()).ok();
    };
    if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
        warn!(%error, "cannot start a thread that drops an instance");
    }
    gone
}
