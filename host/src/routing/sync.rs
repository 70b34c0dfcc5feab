//! Synchronisation primitives of the folder and of a lane's dispatcher slot.
//!
//! Outbox and dispatcher slot use those of the standard library; with `--cfg shuttle`, those of the
//! model checker that `tests/model` runs.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
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

/// Locks for reading. A panic of another thread leaves the data of this folder consistent.
pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing, as [`read`] does.
pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
