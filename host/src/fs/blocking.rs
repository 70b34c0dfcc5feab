//! Runs blocking file system work on a thread of its own.
//!
//! Tokio's blocking pool panics where the system cannot start a thread, which would end the task
//! that asked. Here it is an error.

use std::io;

use tokio::sync::oneshot;

/// Runs `work` off the runtime, and to its end even if the caller is cancelled.
///
/// # Errors
/// The system cannot start a thread (the work is then not done), or the work panicked.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    // A cancelled caller has dropped the receiver.
    let work = move || drop(done.send(work()));
    let started = std::thread::Builder::new().name("aside".to_owned()).spawn(work);
    drop(started.map_err(|e| io::Error::new(e.kind(), format!("cannot start a thread: {e}")))?);
    result.await.map_err(|_| io::Error::other("the work panicked; the log has the panic"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_blocking_work_is_returned_as_an_error() {
        assert_eq!(run_blocking(|| 7).await.unwrap(), 7);
        let panicked = run_blocking(|| std::panic::resume_unwind(Box::new("on purpose")));
        assert!(panicked.await.is_err());
    }
}
