//! Settings of the C library's allocator.
#![expect(unsafe_code, reason = "mallopt and malloc_trim have no safe bindings")]

use std::time::Duration;

use tokio::time::sleep;

use crate::fs::blocking::run_blocking;
use crate::protocol::buffered;

/// Makes the allocator return the memory of large messages to the system.
///
/// By default glibc raises its threshold for `mmap` to the size of the largest freed block, up to
/// 32 MiB: after one message of 16 MiB, later ones come from the heap, and a small block above them
/// keeps their pages until the process ends. A fixed threshold turns that off. Must be called before
/// any thread starts.
pub(super) fn return_large_blocks() {
    /// Bytes; above what a connection needs for small messages, so that those stay on the heap.
    const MMAP_THRESHOLD: libc::c_int = 1 << 20;
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number inside the allocator, and no other thread runs yet. It fails only for a
    // threshold above its maximum, which leaves the default.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
    }
}

/// Returns freed memory to the system after clients have made the host buffer much: blocks below the
/// threshold for `mmap` remain with the thread that allocated them. Does not return.
pub(super) async fn return_freed_memory() {
    const INTERVAL: Duration = Duration::from_millis(500);
    /// Bytes; less is not worth the time.
    const FREED: usize = 32 << 20;
    let mut most = 0;
    loop {
        sleep(INTERVAL).await;
        let bytes = buffered::bytes();
        most = bytes.max(most);
        if most - bytes >= FREED {
            most = bytes;
            // Off the runtime: it can take tenths of a second. Without a thread, the memory stays.
            drop(run_blocking(trim).await);
        }
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator locks what it examines.
    unsafe {
        libc::malloc_trim(0);
    }
}
