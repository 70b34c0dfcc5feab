//! What WebSocket and lines share in reading from and writing to a socket.
//!
//! Owns the results of a read and of a write, the buffer that all reads of a thread share, and the
//! limits of one read or write. Does not know what a message looks like on the wire.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::CloseCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::chunk::{Form, LimitExceeded};
use super::close::CloseReason;
use crate::protocol::time_limit::timeout;

/// One message as it was received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    pub(crate) form: Form,
}

/// How a read ended.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The connection continues; the read may have brought messages.
    More,
    /// A ping or a pong was read. The pong to a ping must be written before the next read, or a
    /// peer that never reads could make pongs pile up.
    Pong,
    /// The peer sent a close frame, or ended a stream of lines. It can still be sent what it was
    /// owed before that.
    Done(CloseReason),
    /// The connection broke; nothing can be sent.
    Broken(CloseReason),
    /// The peer violated the protocol; a close frame can still be sent.
    Violation(CloseReason),
}

impl Progress {
    /// Returns whether all further input is ignored.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Broken(_) | Self::Violation(_))
    }

    /// Returns the end of a connection that broke for this reason.
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken(CloseReason::peer(CloseCode::ABNORMAL, reason))
    }
}

/// What was read, apart from the messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes read from the socket.
    pub(crate) bytes: u32,
    /// Control frames, and fragments before the last one: work for the host without a message for
    /// the application.
    pub(crate) frames: u32,
    /// Those of the frames that were pings and pongs.
    pub(crate) pings: u16,
    pub(crate) pongs: u16,
}

impl Traffic {
    /// Returns whether the connection must yield and have its traffic counted.
    pub(crate) fn is_much(self) -> bool {
        self.bytes as usize >= 4 * READ_BYTES || self.frames >= 256
    }

    /// Counts the frame whose header is at the start of `bytes`.
    pub(super) fn add_frame(&mut self, bytes: &[u8]) {
        self.frames = self.frames.saturating_add(1);
        match bytes.first().map(|first| first & 0x0f) {
            Some(9) => self.pings = self.pings.saturating_add(1),
            Some(10) => self.pongs = self.pongs.saturating_add(1),
            _ => {}
        }
    }

    pub(super) fn add_bytes(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u32);
    }
}

/// Why a write did not complete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The peer took less than a [`STEP`] in time.
    #[error("too slow: it takes less than {} KiB in write_timeout", STEP / 1024)]
    Late,
    /// The host drops what it buffers for the peer.
    #[error("{}", super::close::BUFFERS_FULL)]
    Evicted,
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Time limit of all writes to one peer: `write_timeout` for each [`STEP`], on average.
///
/// A peer's system takes a part at once and reports nothing while the peer reads that part: Linux
/// announces space in a full receive buffer when a sixteenth of it is free, and on a loopback
/// interface often when all of it is. What was taken therefore pays for the time after it.
#[derive(Debug, Default)]
pub(crate) struct WriteDeadline {
    /// The end of the time that is paid for. In a box, because most connections take less than a
    /// step in all.
    paid_until: Option<Box<Instant>>,
    /// Bytes that were taken since, less than a [`STEP`].
    unpaid_bytes: u32,
}

impl WriteDeadline {
    /// The most steps that are paid for in advance: 512 KiB, more than a sixteenth of the largest
    /// receive buffer that Linux gives by default. A peer that stops reading keeps its connection
    /// for as many time limits.
    const MAX_STEPS: u32 = 8;

    /// Completes one part of a write, of at most about a [`STEP`], in time. Most parts do not wait
    /// and set no timer.
    pub(super) async fn complete(
        &mut self,
        limit: Duration,
        part_bytes: usize,
        part: impl Future<Output = io::Result<()>>,
    ) -> Result<(), WriteError> {
        let mut part = pin!(part);
        match poll_fn(|cx| Poll::Ready(part.as_mut().poll(cx))).await {
            Poll::Ready(written) => written?,
            Poll::Pending => {
                let now = Instant::now();
                let paid_until = self.paid_until.as_deref();
                let paid = paid_until.map_or(limit, |at| at.saturating_duration_since(now));
                // In a box: every connection's task would contain the timer.
                let part = Box::pin(timeout(limit.max(paid), part));
                part.await.map_err(|_| WriteError::Late)??;
            }
        }
        self.count(part_bytes, limit);
        Ok(())
    }

    /// Writes all of `bytes` in time.
    pub(crate) async fn write_all<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        bytes: &[u8],
        limit: Duration,
    ) -> Result<(), WriteError> {
        for step in bytes.chunks(STEP) {
            self.complete(limit, step.len(), stream.write_all(step)).await?;
        }
        Ok(())
    }

    /// Writes what the stream itself buffers in time: TLS.
    pub(crate) async fn flush<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        limit: Duration,
    ) -> Result<(), WriteError> {
        self.complete(limit, 0, stream.flush()).await
    }

    /// Counts bytes that the socket has taken.
    #[inline]
    pub(super) fn count(&mut self, bytes: usize, limit: Duration) {
        let bytes = self.unpaid_bytes as usize + bytes;
        self.unpaid_bytes = (bytes % STEP) as u32;
        if bytes >= STEP {
            self.pay(bytes / STEP, limit);
        }
    }

    #[cold]
    fn pay(&mut self, steps: usize, limit: Duration) {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX).min(Self::MAX_STEPS);
        let now = Instant::now();
        let paid_until = self.paid_until.get_or_insert_with(|| Box::new(now));
        let paid = now.max(**paid_until) + limit * steps;
        **paid_until = paid.min(now + limit * Self::MAX_STEPS);
    }
}

/// How far writing to a socket got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WriteState {
    /// Everything was written or is buffered.
    #[default]
    Whole,
    /// A write is in progress or was cancelled between two frames or lines: the rest is lost.
    Gap,
    /// A write is in progress or was cancelled inside a frame or line: nothing can follow.
    Torn,
}

impl WriteState {
    /// Returns whether another write may follow.
    ///
    /// # Errors
    /// An earlier write was cancelled.
    pub(super) fn check(self) -> io::Result<()> {
        let given_up = || io::Error::other("an earlier write was given up");
        (self == Self::Whole).then_some(()).ok_or_else(given_up)
    }
}

thread_local! {
    /// The bytes of one read until they are parsed. All connections of a thread share it, so an
    /// idle connection owns no read buffer.
    pub(super) static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Shuts down writing and discards what the peer still sends, until it closes. The caller limits
/// the time.
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_ok() {
        let mut scrap = [0; 1024];
        let mut pacer = DiscardPacer::default();
        while let Ok(read @ 1..) = stream.read(&mut scrap).await {
            pacer.pause_after(read).await;
        }
    }
}

/// Limits how fast discarded input is read to 6 MB/s per peer. Otherwise a few peers that flood a
/// closing connection would occupy all threads until the close timeout.
#[derive(Debug, Default)]
pub(super) struct DiscardPacer {
    read_bytes: usize,
}

impl DiscardPacer {
    const PAUSE: Duration = Duration::from_millis(10);

    pub(super) async fn pause_after(&mut self, read_bytes: usize) {
        self.read_bytes += read_bytes;
        if self.read_bytes >= READ_BYTES {
            self.read_bytes = 0;
            sleep(Self::PAUSE).await;
        }
    }
}

pub(super) fn not_utf8() -> CloseReason {
    CloseReason::host(CloseCode::INVALID, "text that is not UTF-8")
}

pub(super) fn too_long(max_bytes: usize) -> CloseReason {
    CloseReason::host(CloseCode::TOO_BIG, LimitExceeded::Bytes { max_bytes }.to_string())
}

/// How many bytes a peer must take in each `write_timeout`: a slow reader is not cut off in the
/// middle of a large message.
pub(crate) const STEP: usize = 64 * 1024;
/// The most bytes of one read, unless it completes a larger message.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// The most messages of one read, so that a busy peer does not delay its own answers.
pub(crate) const BATCH_MESSAGES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Returns whether a part that takes this many seconds is in time.
    async fn completes(deadline: &mut WriteDeadline, seconds: u64, part_bytes: usize) -> bool {
        let part = async {
            sleep(Duration::from_secs(seconds)).await;
            Ok(())
        };
        deadline.complete(LIMIT, part_bytes, part).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_the_time_limit_for_each_step_on_average() {
        let mut deadline = WriteDeadline::default();
        assert!(!completes(&mut deadline, 11, STEP).await, "nothing was taken before");
        assert!(completes(&mut deadline, 9, STEP).await);
        assert!(completes(&mut deadline, 9, STEP).await);
        // What is taken at once pays for the time after it, also in small parts.
        for _ in 0..4 * STEP / 1024 {
            deadline.count(1024, LIMIT);
        }
        for _ in 0..20 {
            assert!(completes(&mut deadline, 38, 4 * STEP).await);
        }
        // A peer that is slower is late after a while.
        let mut parts = 0;
        while completes(&mut deadline, 50, 4 * STEP).await {
            parts += 1;
        }
        assert!((1..10).contains(&parts), "{parts}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_is_late_after_a_bounded_time() {
        let mut deadline = WriteDeadline::default();
        deadline.count(1000 * STEP, LIMIT);
        assert!(!completes(&mut deadline, 81, STEP).await);
        // The time that was paid for has passed.
        assert!(!completes(&mut deadline, 11, STEP).await);
    }
}
