//! The threads of [`Host::spawn_blocking`], shared by all instances of a library.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Host;
use crate::types::HostError;

pub(crate) type Work = Box<dyn FnOnce() + Send>;

const MAX_THREADS: usize = 16;
const MAX_WAITING: usize = 10_000;
/// A thread without work ends after this time: a retired library must not keep threads.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Pool {
    waiting: VecDeque<Work>,
    threads: usize,
    idle: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { waiting: VecDeque::new(), threads: 0, idle: 0 });
static ARRIVED: Condvar = Condvar::new();

/// Runs `work` on a thread of the pool.
///
/// # Errors
/// `TooMany` if the queue is full or the system refuses the first thread.
pub(crate) fn spawn(work: Work) -> Result<(), HostError> {
    let mut pool = lock();
    if pool.waiting.len() >= MAX_WAITING {
        return Err(HostError::TooMany);
    }
    if pool.idle <= pool.waiting.len() && pool.threads < MAX_THREADS {
        let started = std::thread::Builder::new().name("blocking".to_owned()).spawn(run);
        match started {
            Ok(_) => pool.threads += 1,
            // The running threads take the work.
            Err(_) if pool.threads > 0 => {}
            Err(_) => return Err(HostError::TooMany),
        }
    }
    pool.waiting.push_back(work);
    ARRIVED.notify_one();
    Ok(())
}

fn run() {
    let mut pool = lock();
    loop {
        if let Some(work) = pool.waiting.pop_front() {
            drop(pool);
            // The panic hook has logged it.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
                crate::export::discard(payload);
            }
            pool = lock();
            continue;
        }
        pool.idle += 1;
        let (again, waited) =
            ARRIVED.wait_timeout(pool, IDLE).unwrap_or_else(PoisonError::into_inner);
        pool = again;
        pool.idle -= 1;
        if waited.timed_out() && pool.waiting.is_empty() {
            pool.threads -= 1;
            return;
        }
    }
}

/// Posts a result, and waits while the inbox is full; one that is late waits for the retirement.
pub(crate) fn deliver(host: &Host, mut value: Box<dyn Any + Send>) {
    /// Pause before the next attempt.
    const PAUSE: Duration = Duration::from_millis(1);
    loop {
        value = match host.try_post(value) {
            Ok(()) => return,
            Err((HostError::TooMany, again)) => again,
            Err((_, late)) => return host.collect(late),
        };
        std::thread::park_timeout(PAUSE);
    }
}

fn lock() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}
