//! The two ways in which messages lie on a socket: WebSocket frames, and lines on plain TCP.
//!
//! Reads all messages that one readiness of the socket brings and writes all that are to be written at once: a flush for
//! each message costs ten times as much.

mod lines;

use super::close::close_packet;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use self::lines::LineStream;
use super::chunk::{Form, TooMuch};
use super::close::CloseReason;
use super::lines::Tail;
use super::outgoing::Outgoing;
use super::ws::WebSocket;
use crate::config::Limits;

/// A socket after its handshake.
#[derive(Debug)]
pub(crate) enum Wire<S> {
    WebSocket(WebSocket<S>),
    Lines(LineStream<S>),
}

/// One message as it came.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    pub(crate) form: Form,
}

/// What a read ended with.
#[derive(Debug)]
pub(crate) enum Progress {
    /// There may be messages; read on when they are dealt with, or when others have had their turn.
    More,
    /// A ping or a pong was read. The pong to a ping has to be written before more is read, or a peer that never reads could pile them up.
    Pong,
    /// The peer has said all that it wants to say: a close frame, or the end of a stream of lines. It can still be sent what it was
    /// owed before that.
    Done(CloseReason),
    /// The connection broke. Nothing can be sent any more.
    Left(CloseReason),
    /// The peer broke the protocol; it can still be told so.
    Violated(CloseReason),
}

impl Progress {
    /// Whether nothing that the peer says counts any more.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Left(_) | Self::Violated(_))
    }
}

/// What was read, beside the messages that it brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// As they came from the socket.
    pub(crate) bytes: u32,
    /// Control frames, and fragments before the last one: work for the host that brings an application nothing.
    pub(crate) frames: u32,
}

impl Traffic {
    /// Whether it is time to count it and to let others have their turn.
    pub(crate) fn is_much(self) -> bool {
        self.bytes as usize >= 4 * READ_BYTES || self.frames >= 256
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Speaks WebSocket on a socket whose handshake is done; `read` is what came behind the request.
    pub(crate) fn websocket(stream: S, read: Vec<u8>, limits: &Limits) -> Self {
        Self::WebSocket(WebSocket::new(stream, read, limits))
    }

    /// Speaks lines; `read` is what came behind the opening.
    pub(crate) fn lines(stream: S, read: &[u8], tail: Tail, limits: &Limits) -> Self {
        Self::Lines(LineStream::new(stream, read, tail, limits.max_message))
    }

    /// Reads at least one message and what else is there, or the beginning of one. Whole messages that were taken from the
    /// socket are in `batch` afterwards.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
    ) -> Poll<Progress> {
        match self {
            Self::WebSocket(socket) => socket.poll_receive(cx, batch),
            Self::Lines(lines) => lines.poll_receive(cx, batch),
        }
    }

    /// What was read since the last call, for whoever counts it.
    pub(crate) fn take_traffic(&mut self) -> Traffic {
        match self {
            Self::WebSocket(socket) => socket.take_traffic(),
            Self::Lines(lines) => lines.take_traffic(),
        }
    }

    /// Whether anything was read since then.
    pub(crate) fn is_heard(&self) -> bool {
        match self {
            Self::WebSocket(socket) => socket.is_heard(),
            Self::Lines(lines) => lines.is_heard(),
        }
    }

    /// Whether a message has begun whose end has not come.
    pub(crate) fn is_midway(&self) -> bool {
        match self {
            Self::WebSocket(socket) => socket.is_midway(),
            Self::Lines(lines) => lines.is_midway(),
        }
    }

    /// Bytes of memory for what came and is no message yet.
    #[cfg(any(test, feature = "internals"))]
    pub(crate) fn kept(&self) -> usize {
        match self {
            Self::WebSocket(socket) => socket.kept(),
            Self::Lines(lines) => lines.kept(),
        }
    }

    /// Writes all of `queue`, at once as far as the socket takes it; the peer has `limit` for each [`STEP`] of it.
    ///
    /// What it had not written when it failed, or was dropped, is lost; so nothing more can be written, as the peer could not tell
    /// that something is missing before it.
    pub(crate) async fn write(
        &mut self,
        queue: VecDeque<Outgoing>,
        uuid: &str,
        limit: Duration,
    ) -> Result<(), WriteError> {
        match self {
            Self::WebSocket(socket) => socket.write(queue, uuid, limit).await,
            Self::Lines(lines) => lines.write(queue, uuid, limit).await,
        }
    }

    /// Writes what the protocol says by itself.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::WebSocket(socket) => socket.flush().await,
            Self::Lines(_) => Ok(()),
        }
    }

    /// The host's last words: the `close` packet where there is a dialog, the close frame, and the end of writing.
    pub(crate) async fn say_goodbye(
        &mut self,
        reason: &CloseReason,
        with_packet: bool,
    ) -> io::Result<()> {
        let packet = with_packet.then(|| close_packet(reason));
        match self {
            Self::WebSocket(socket) => socket.say_goodbye(reason, packet).await,
            Self::Lines(lines) => lines.say_goodbye(packet).await,
        }
    }

    /// The end of the host's side, where it is the peer that is done.
    pub(crate) async fn answer_goodbye(&mut self) -> io::Result<()> {
        match self {
            Self::WebSocket(socket) => socket.answer_goodbye().await,
            Self::Lines(lines) => lines.say_goodbye(None).await,
        }
    }

    /// Ends the host's side without waiting for anything: TLS has an end of its own to tell (RFC 8446, section 6.1).
    pub(crate) async fn hang_up(&mut self) {
        let stream = match self {
            Self::WebSocket(socket) => socket.stream_mut(),
            Self::Lines(lines) => lines.stream_mut(),
        };
        poll_fn(|cx| {
            let _ended: Poll<io::Result<()>> = Pin::new(&mut *stream).poll_shutdown(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Waits for the peer's own close. Without that, what it sent and nobody read would reset the connection, and it might
    /// not see the last words.
    pub(crate) async fn linger(&mut self) {
        match self {
            Self::WebSocket(socket) => socket.linger().await,
            Self::Lines(lines) => lines.linger().await,
        }
    }
}

/// Why not all was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Less than a [`STEP`] was taken in time.
    #[error("too slow: it takes less than {} KiB in write_timeout", STEP / 1024)]
    Late,
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// How much a peer has to take in each `write_timeout`: one that reads slowly but reads is not cut in the middle of a large message.
pub(crate) const STEP: usize = 64 * 1024;

/// One step of writing. Hardly any has to wait, and one that need not wait needs no clock.
pub(super) async fn in_time(
    limit: Duration,
    step: impl Future<Output = io::Result<()>>,
) -> Result<(), WriteError> {
    let mut step = pin!(step);
    match poll_fn(|cx| Poll::Ready(step.as_mut().poll(cx))).await {
        Poll::Ready(written) => Ok(written?),
        Poll::Pending => match timeout(limit, step).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(WriteError::Late),
        },
    }
}

/// How far a socket's writing got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteState {
    /// All that was to be written is, or is kept to be written next.
    Whole,
    /// Under way, or given up between two frames or lines: what was to come is lost.
    Gap,
    /// Under way, or given up, inside of one: nothing at all can follow.
    Torn,
}

impl WriteState {
    pub(super) fn check(self) -> io::Result<()> {
        match self {
            Self::Whole => Ok(()),
            Self::Gap | Self::Torn => Err(io::Error::other("an earlier write was given up")),
        }
    }
}

thread_local! {
    /// What one read of a socket brings, for the moment in which it is taken apart. Shared by all connections of the thread, so
    /// that one that waits has no use for a buffer of its own.
    pub(super) static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Ends the host's side and reads what the peer still sends until it ends too. The caller limits the time.
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_ok() {
        let mut scrap = [0; 1024];
        let mut pacer = DiscardPacer::default();
        while let Ok(read @ 1..) = stream.read(&mut scrap).await {
            pacer.after(read).await;
        }
    }
}

/// How fast the host reads what it throws away: 6 MB a second of each peer. One that is only late has soon ended; twenty that
/// flood behind their own end would otherwise take the threads from everybody else until the time for it is over.
#[derive(Debug, Default)]
pub(super) struct DiscardPacer {
    read_bytes: usize,
}

impl DiscardPacer {
    const PAUSE: Duration = Duration::from_millis(10);

    pub(super) async fn after(&mut self, read_bytes: usize) {
        self.read_bytes += read_bytes;
        if self.read_bytes >= READ_BYTES {
            self.read_bytes = 0;
            sleep(Self::PAUSE).await;
        }
    }
}

pub(super) const NO_CLOSE_FRAME: &str = "the connection ended without a close frame";

pub(super) fn not_utf8() -> CloseReason {
    CloseReason::host(CloseCode::INVALID, "text that is not UTF-8")
}

pub(super) fn too_long(max_bytes: usize) -> CloseReason {
    CloseReason::host(CloseCode::TOO_BIG, TooMuch::Bytes { max_bytes }.to_string())
}

pub(super) fn left(code: CloseCode, text: &str) -> CloseReason {
    CloseReason::new(code, ClosedBy::Peer, text)
}

/// How many bytes one read brings at most, beside the rest of a message that is larger.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// How many messages one read hands on at most, so that one busy peer does not hold up its own answers.
pub(crate) const BATCH_MESSAGES: usize = 64;
