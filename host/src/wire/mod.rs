//! The two ways in which messages lie on a socket: WebSocket frames, and lines on plain TCP.
//!
//! Reads all messages that one readiness of the socket brings and writes all that are to be written at once: a flush for
//! each message costs ten times as much.

mod arriving;
mod lines;
#[cfg(test)]
mod properties;
mod websocket;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use self::lines::LineStream;
use self::websocket::WebSocket;
use crate::chunk::Form;
use crate::config::Limits;
use crate::dialog;
use crate::lines::Tail;
use crate::outbox::{CloseReason, Outgoing};
use crate::registry::Peer;

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
    /// The peer closed, properly or not. Nothing can be sent any more.
    Left(CloseReason),
    /// The peer broke the protocol; it can still be told so.
    Violated(CloseReason),
}

/// What was read, beside the messages that it brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// As they came from the socket.
    pub(crate) bytes: u32,
    /// Control frames and fragments: work for the host that brings an application nothing.
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

    /// Writes all of `queue`, at once as far as the socket takes it.
    pub(crate) async fn write(&mut self, queue: VecDeque<Outgoing>, peer: &Peer) -> io::Result<()> {
        match self {
            Self::WebSocket(socket) => socket.write(queue, peer).await,
            Self::Lines(lines) => lines.write(queue, peer).await,
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

    /// Waits for the peer's own close. Without that, what it sent and nobody read would reset the connection, and it might
    /// not see the last words.
    pub(crate) async fn linger(&mut self) {
        match self {
            Self::WebSocket(socket) => socket.linger().await,
            Self::Lines(lines) => lines.linger().await,
        }
    }
}

thread_local! {
    /// What one read of a socket brings, for the moment in which it is taken apart. Shared by all connections of the thread, so
    /// that one that waits has no use for a buffer of its own.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Ends the host's side and reads what the peer still sends until it ends too. The caller limits the time.
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_ok() {
        let mut scrap = [0; 1024];
        let mut leisure = Leisure::default();
        while let Ok(read @ 1..) = stream.read(&mut scrap).await {
            leisure.after(read).await;
        }
    }
}

/// How fast the host reads what it throws away: 6 MB a second of each peer. One that is only late has soon ended; twenty that
/// flood behind their own end would otherwise take the threads from everybody else until the time for it is over.
#[derive(Debug, Default)]
struct Leisure {
    read_bytes: usize,
}

impl Leisure {
    const PAUSE: Duration = Duration::from_millis(10);

    async fn after(&mut self, read_bytes: usize) {
        self.read_bytes += read_bytes;
        if self.read_bytes >= READ_BYTES {
            self.read_bytes = 0;
            sleep(Self::PAUSE).await;
        }
    }
}

fn left(code: CloseCode, text: &str) -> CloseReason {
    CloseReason::new(code, ClosedBy::Peer, text)
}

pub(crate) fn close_packet(reason: &CloseReason) -> String {
    match reason.retry_after {
        Some(after) => dialog::close_retry(&reason.text, after),
        None => dialog::close(&reason.text),
    }
}

/// How many bytes one read brings at most, beside the rest of a message that is larger.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// How many messages one read hands on at most, so that one busy peer does not hold up its own answers.
pub(crate) const BATCH_MESSAGES: usize = 64;
