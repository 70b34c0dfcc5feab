//! Settings of the C library's allocator.
#![expect(unsafe_code, reason = "mallopt has no safe binding")]

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
