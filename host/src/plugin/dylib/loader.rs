//! The thread on which the host opens all libraries. It never ends.
//!
//! An allocator or a C library takes the thread that opens it for the main thread of the process
//! and may keep its state there: with mimalloc 3, every thread crashes once that thread has ended.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

static LOADER: Mutex<Option<SyncSender<Job>>> = Mutex::new(None);

/// Runs `work` on the thread of the libraries.
///
/// # Errors
/// The thread cannot be started, or the work panicked.
pub(crate) async fn on_loader<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    // The caller may have left.
    let job: Job = Box::new(move || drop(done.send(work())));
    loader()?.try_send(job).map_err(|_| io::Error::other("libraries are opened one by one"))?;
    result.await.map_err(|_| io::Error::other("the work panicked; the log has the panic"))
}

fn loader() -> io::Result<SyncSender<Job>> {
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loader) = &*loader {
        return Ok(loader.clone());
    }
    let (jobs, queue) = sync_channel::<Job>(1);
    let work = move || {
        for job in queue {
            // A panic is reported to the caller, whose receiver ends.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    };
    drop(std::thread::Builder::new().name("loader".to_owned()).spawn(work)?);
    Ok(loader.insert(jobs).clone())
}
