//! Work that waits for the file system, on a thread of its own.
//!
//! The runtime has threads for that too, but panics where the system gives none: then who asked for the work would be gone for good.
//! Here it is an error like any other.

use std::io;

use tokio::sync::oneshot;

/// Does the work beside the runtime, to its end, also if nobody waits for it any more.
///
/// # Errors
/// The system gives no thread (then the work is not done), or the work panicked.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    // Who asked may have gone.
    let work = move || drop(done.send(work()));
    drop(std::thread::Builder::new().name("aside".to_owned()).spawn(work).map_err(no_thread)?);
    result.await.map_err(|_| io::Error::other("it panicked; the log says where"))
}

fn no_thread(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the system gives no thread: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_not_passed_on() {
        assert_eq!(run_blocking(|| 7).await.unwrap(), 7);
        let panicked = run_blocking(|| std::panic::resume_unwind(Box::new("on purpose")));
        assert!(panicked.await.is_err());
    }
}
