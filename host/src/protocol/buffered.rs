//! The bytes that the host buffers for all clients together, and their limit (`max_buffered_bytes`).
//!
//! Counted are input that is not handled yet and output that is not written yet. An owner of a
//! buffer keeps its [`Share`] up to date; a long payload counts once, however many connections it
//! waits for. Does not decide what happens beyond the limit.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
static EXCEEDED: Notify = Notify::const_new();

/// Shares change in steps of this size, so that small messages cost no atomic operation. A smaller
/// buffer does not count.
pub(crate) const STEP: usize = 16 * 1024;

/// Returns the bytes that are buffered at present.
pub(crate) fn bytes() -> usize {
    BYTES.load(Ordering::Relaxed)
}

/// Returns how many bytes have to be dropped, beside those that are `leaving` already: none within
/// the limit, otherwise all above seven eighths of it.
pub(crate) fn excess(leaving: usize) -> usize {
    let (bytes, limit) = (bytes().saturating_sub(leaving), LIMIT.load(Ordering::Relaxed));
    if bytes > limit { bytes - (limit - limit / 8) } else { 0 }
}

/// Sets the limit in bytes; `None`: no limit.
pub(crate) fn set_limit(limit: Option<NonZeroUsize>) {
    LIMIT.store(limit.map_or(usize::MAX, NonZeroUsize::get), Ordering::Relaxed);
    EXCEEDED.notify_one();
}

/// Completes when the limit was exceeded or changed since the last call. Only one task may wait.
pub(crate) async fn exceeded() {
    EXCEEDED.notified().await;
}

fn add(bytes: usize) {
    let sum = BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if sum > LIMIT.load(Ordering::Relaxed) {
        EXCEEDED.notify_one();
    }
}

fn subtract(bytes: usize) {
    BYTES.fetch_sub(bytes, Ordering::Relaxed);
}

/// What one owner buffers. Given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Share(AtomicU32);

impl Share {
    /// Sets the size in bytes. Only one task at a time may call this.
    #[inline]
    pub(crate) fn set(&self, bytes: usize) {
        let (old, new) = (self.0.load(Ordering::Relaxed), (bytes / STEP) as u32);
        if new != old {
            self.change(old, new);
        }
    }

    #[cold]
    fn change(&self, old: u32, new: u32) {
        self.0.store(new, Ordering::Relaxed);
        match new.checked_sub(old) {
            Some(more) => add(more as usize * STEP),
            None => subtract((old - new) as usize * STEP),
        }
    }

    #[inline]
    pub(crate) fn is_counted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Returns the counted bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed) as usize * STEP
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What one POST request buffers. All together have a quarter of the limit, because they cannot be
/// closed in favor of others.
#[derive(Debug, Default)]
pub(crate) struct PostShare(Share);

static POST_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The POST requests together buffer more than they may.
#[derive(Debug)]
pub(crate) struct PostsFull;

impl PostShare {
    /// Sets the size in bytes.
    ///
    /// # Errors
    /// The size grows, and all POST requests together exceed a quarter of the limit.
    pub(crate) fn set(&self, bytes: usize) -> Result<(), PostsFull> {
        let old = self.0.bytes();
        self.0.set(bytes);
        let new = self.0.bytes();
        if new <= old {
            POST_BYTES.fetch_sub(old - new, Ordering::Relaxed);
            return Ok(());
        }
        let sum = POST_BYTES.fetch_add(new - old, Ordering::Relaxed) + new - old;
        let is_full = sum > new && sum > LIMIT.load(Ordering::Relaxed) / 4;
        if is_full { Err(PostsFull) } else { Ok(()) }
    }
}

impl Drop for PostShare {
    fn drop(&mut self) {
        POST_BYTES.fetch_sub(self.0.bytes(), Ordering::Relaxed);
    }
}

/// The least length of a payload that counts by itself; a shorter one counts for each connection.
pub(crate) const LONG: usize = 1024;

/// Copies a payload of at least [`LONG`] bytes, which counts until its last reference is dropped.
pub(crate) fn copied(payload: &[u8]) -> Bytes {
    add(payload.len());
    Bytes::from_owner(LongPayload(payload.into()))
}

struct LongPayload(Box<[u8]>);

impl AsRef<[u8]> for LongPayload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for LongPayload {
    fn drop(&mut self) {
        subtract(self.0.len());
    }
}
