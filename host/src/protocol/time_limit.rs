//! Time limits that are fair after a standstill of the process: a paused virtual machine, a laptop
//! that slept, SIGSTOP.
//!
//! When the process continues, all timers expire at once, before the host has seen what arrived on
//! its sockets. A time limit that has expired then waits for another [`GRACE`], in which the host
//! reads; the peer is late only if nothing came.

use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{self, Instant};

/// A time limit has passed.
#[derive(Debug)]
pub(crate) struct Late;

/// Interval in which [`observe`] checks that the process runs.
const TICK: Duration = Duration::from_millis(250);
/// A tick that is later than this means that the process stood still.
const STANDSTILL: Duration = Duration::from_secs(1);
/// Additional time after a standstill.
const GRACE: Duration = Duration::from_secs(1);

/// Milliseconds from the first tick to the last tick, and to the end of the last standstill.
static TICKED: AtomicU64 = AtomicU64::new(0);
static CONTINUED: AtomicU64 = AtomicU64::new(0);
static FIRST_TICK: OnceLock<Instant> = OnceLock::new();

/// Observes standstills; does not return. Without it, no time limit waits longer.
pub(crate) async fn observe() {
    FIRST_TICK.get_or_init(Instant::now);
    loop {
        time::sleep(TICK).await;
        grace();
    }
}

/// Returns the rest of the additional time, if the process stood still a moment ago.
fn grace() -> Option<Duration> {
    let now = millis(FIRST_TICK.get()?.elapsed());
    // The first tick or time limit after a standstill records it.
    let late = now.saturating_sub(TICKED.swap(now, Ordering::Relaxed));
    if late > millis(STANDSTILL) {
        CONTINUED.store(now, Ordering::Relaxed);
    }
    let end = CONTINUED.load(Ordering::Relaxed) + millis(GRACE);
    (now < end && end > millis(GRACE)).then(|| Duration::from_millis(end - now))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Completes at `at`, or later after a standstill.
pub(crate) async fn sleep_until(at: Instant) {
    // One timer: every connection holds this future while it waits.
    let mut timer = pin!(time::sleep_until(at));
    timer.as_mut().await;
    while let Some(left) = grace() {
        timer.as_mut().reset(Instant::now() + left);
        timer.as_mut().await;
    }
}

/// Awaits a future for at most `limit`, or longer after a standstill.
///
/// # Errors
/// The time is over; the future is dropped.
pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Late> {
    /// For limits that no clock reaches.
    const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);
    timeout_at(Instant::now() + limit.min(FOREVER), future).await
}

/// Awaits a future until `at`, or longer after a standstill.
///
/// # Errors
/// As [`timeout`].
pub(crate) async fn timeout_at<F: Future>(at: Instant, future: F) -> Result<F::Output, Late> {
    let mut future = pin!(future);
    tokio::select! {
        biased;
        output = &mut future => Ok(output),
        () = sleep_until(at) => Err(Late),
    }
}
