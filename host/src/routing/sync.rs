//! What the two pieces that several threads are at together are made of: the outbox, and the place of a lane.
//!
//! Those of the standard library. Compiled with `--cfg shuttle`, as `tests/model` does, those of a scheduler that tries out
//! interleavings (`model.rs`); everything else stays as it is, because it is never held across one of these.

use std::time::Duration;

#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicUsize};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Sleeps; in a model, lets others run.
pub(crate) async fn pause(time: Duration) {
    #[cfg(not(shuttle))]
    tokio::time::sleep(time).await;
    #[cfg(shuttle)]
    {
        let _ = time;
        shuttle::future::yield_now().await;
    }
}
