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
use tokio::time::sleep;

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
}

impl Traffic {
    /// Returns whether the connection must yield and have its traffic counted.
    pub(crate) fn is_much(self) -> bool {
        self.bytes as usize >= 4 * READ_BYTES || self.frames >= 256
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

/// Completes one step of a write within `limit`. Most steps do not wait and set no timer.
pub(super) async fn in_time(
    limit: Duration,
    step: impl Future<Output = io::Result<()>>,
) -> Result<(), WriteError> {
    let mut step = pin!(step);
    match poll_fn(|cx| Poll::Ready(step.as_mut().poll(cx))).await {
        Poll::Ready(written) => Ok(written?),
        Poll::Pending => Ok(timeout(limit, step).await.map_err(|_| WriteError::Late)??),
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
