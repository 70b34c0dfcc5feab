//! Synchronisation primitives of the outbox and of a lane's dispatcher slot.
//!
//! Normally those of the standard library; with `--cfg shuttle` those of the model checker that
//! `tests/model` runs.

use std::time::Duration;

#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicUsize};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Sleeps; in a model, yields.
pub(crate) async fn pause(time: Duration) {
    #[cfg(not(shuttle))]
    tokio::time::sleep(time).await;
    #[cfg(shuttle)]
    {
        let _ = time;
        shuttle::future::yield_now().await;
    }
}
