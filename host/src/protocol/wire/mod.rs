//! A socket after its handshake: WebSocket frames, or lines on plain TCP.
//!
//! A read takes all messages that one readiness of the socket brings, and a write sends the whole
//! queue: one flush per message costs ten times as much. Does not know what a message means.

mod lines;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use self::lines::LineStream;
use super::close::CloseReason;
use super::io::{Progress, Received, Traffic, WriteError, linger};
use super::lines::Tail;
use super::outgoing::Outgoing;
use super::ws::WebSocket;
use crate::config::MessageLimits;

/// A socket after its handshake.
#[derive(Debug)]
pub(crate) enum Wire<S> {
    WebSocket(WebSocket<S>),
    Lines(LineStream<S>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A WebSocket whose handshake is done; `read` is what followed the request.
    pub(crate) fn websocket(stream: S, read: Vec<u8>, limits: &MessageLimits) -> Self {
        Self::WebSocket(WebSocket::new(stream, read, limits))
    }

    /// Plain TCP; `read` is what followed the opening.
    pub(crate) fn lines(stream: S, read: &[u8], tail: Tail, limits: &MessageLimits) -> Self {
        Self::Lines(LineStream::new(stream, read, tail, limits.max_message))
    }

    /// Reads at least one message, or the beginning of one, and appends the whole messages to
    /// `batch`.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
    ) -> Poll<Progress> {
        match self {
            Self::WebSocket(WebSocket { stream, reader, writer }) => {
                reader.poll_receive(stream, cx, batch, writer)
            }
            Self::Lines(lines) => lines.poll_receive(cx, batch),
        }
    }

    /// Returns the traffic since the last call.
    pub(crate) fn take_traffic(&mut self) -> Traffic {
        std::mem::take(match self {
            Self::WebSocket(socket) => &mut socket.reader.traffic,
            Self::Lines(lines) => &mut lines.traffic,
        })
    }

    /// Returns whether anything was received since the last [`take_traffic`](Self::take_traffic).
    pub(crate) fn has_received(&self) -> bool {
        let traffic = match self {
            Self::WebSocket(socket) => socket.reader.traffic,
            Self::Lines(lines) => lines.traffic,
        };
        traffic.bytes > 0
    }

    /// Returns whether a message has begun and not ended.
    pub(crate) fn is_mid_message(&self) -> bool {
        match self {
            Self::WebSocket(socket) => socket.reader.is_mid_message(),
            Self::Lines(lines) => lines.lines.is_mid_message(),
        }
    }

    /// Returns the memory held for input that is not a whole message yet.
    #[cfg(any(test, feature = "internals"))]
    pub(crate) fn buffered_bytes(&self) -> usize {
        match self {
            Self::WebSocket(socket) => socket.reader.buffered_bytes(),
            Self::Lines(lines) => lines.lines.buffered_bytes(),
        }
    }

    /// Writes all of `queue`; the peer has `limit` for each [`STEP`](super::io::STEP) of it.
    ///
    /// After an error or a cancellation nothing more can be written, because the peer could not
    /// see that something is missing.
    pub(crate) async fn write(
        &mut self,
        queue: VecDeque<Outgoing>,
        uuid: &str,
        limit: Duration,
    ) -> Result<(), WriteError> {
        match self {
            Self::WebSocket(WebSocket { stream, writer, .. }) => {
                writer.write(stream, queue, uuid, limit).await
            }
            Self::Lines(lines) => lines.write(queue, uuid, limit).await,
        }
    }

    /// Writes what is buffered, pongs for example.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::WebSocket(socket) => socket.writer.flush(&mut socket.stream).await,
            Self::Lines(_) => Ok(()),
        }
    }

    /// Closes from the host's side: writes the `close` packet, if any, and the close frame.
    pub(crate) async fn send_close(
        &mut self,
        reason: &CloseReason,
        packet: Option<String>,
    ) -> io::Result<()> {
        match self {
            Self::WebSocket(WebSocket { stream, writer, .. }) => {
                writer.send_close(stream, reason, packet).await
            }
            Self::Lines(lines) => lines.send_close(packet).await,
        }
    }

    /// Closes the host's side after the peer has closed.
    pub(crate) async fn answer_close(&mut self) -> io::Result<()> {
        match self {
            Self::WebSocket(WebSocket { stream, reader, writer }) => {
                writer.answer_close(stream, reader.take_close_payload()).await
            }
            Self::Lines(lines) => lines.send_close(None).await,
        }
    }

    /// Starts to shut down writing, without waiting: TLS has a closing message of its own
    /// (RFC 8446, section 6.1).
    pub(crate) async fn start_shutdown(&mut self) {
        poll_fn(|cx| {
            let _ended: Poll<io::Result<()>> = Pin::new(self.stream_mut()).poll_shutdown(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Waits until the peer has closed. Closing with unread input would reset the connection, and
    /// the peer might lose the last messages.
    pub(crate) async fn linger(&mut self) {
        match self {
            Self::WebSocket(socket) => socket.linger().await,
            Self::Lines(lines) => linger(&mut lines.stream).await,
        }
    }

    /// Returns the socket.
    pub(crate) fn stream_mut(&mut self) -> &mut S {
        match self {
            Self::WebSocket(socket) => &mut socket.stream,
            Self::Lines(lines) => &mut lines.stream,
        }
    }
}
