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

use self::lines::LineCodec;
use super::close::CloseReason;
use super::identity::Identity;
use super::io::{Progress, Received, Traffic, WriteError, linger};
use super::lines::Tail;
use super::payload::Outgoing;
use super::ws::{FrameReader, FrameWriter};
use crate::config::MessageLimits;

/// A socket after its handshake.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    pub(crate) stream: S,
    codec: Codec,
}

#[derive(Debug)]
enum Codec {
    WebSocket(FrameReader, FrameWriter),
    Lines(LineCodec),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Creates a WebSocket whose handshake is done; `read` is what followed the request.
    pub(crate) fn websocket(stream: S, read: Vec<u8>, limits: &MessageLimits) -> Self {
        let codec = Codec::WebSocket(FrameReader::new(read, limits), FrameWriter::default());
        Self { stream, codec }
    }

    /// Creates a plain TCP connection; `read` is what followed the opening.
    pub(crate) fn lines(stream: S, read: &[u8], tail: Tail, limits: &MessageLimits) -> Self {
        Self { stream, codec: Codec::Lines(LineCodec::new(read, tail, limits.max_message)) }
    }

    /// Reads at least one message, or the beginning of one, and appends the whole messages to
    /// `batch`.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
    ) -> Poll<Progress> {
        match &mut self.codec {
            Codec::WebSocket(reader, writer) => {
                reader.poll_receive(&mut self.stream, cx, batch, writer)
            }
            Codec::Lines(lines) => lines.poll_receive(&mut self.stream, cx, batch),
        }
    }

    /// Returns the traffic since the caller last took it.
    pub(crate) fn traffic(&mut self) -> &mut Traffic {
        match &mut self.codec {
            Codec::WebSocket(reader, _) => &mut reader.traffic,
            Codec::Lines(lines) => &mut lines.traffic,
        }
    }

    /// Returns whether a message has begun and not ended.
    pub(crate) fn is_mid_message(&self) -> bool {
        match &self.codec {
            Codec::WebSocket(reader, _) => reader.is_mid_message(),
            Codec::Lines(lines) => lines.lines.is_mid_message(),
        }
    }

    /// Returns the memory held for input that is not a whole message yet.
    pub(crate) fn buffered_bytes(&self) -> usize {
        match &self.codec {
            Codec::WebSocket(reader, _) => reader.buffered_bytes(),
            Codec::Lines(lines) => lines.lines.buffered_bytes(),
        }
    }

    /// Discards the beginning of a message; everything that follows is ignored.
    pub(crate) fn discard_input(&mut self) {
        match &mut self.codec {
            Codec::WebSocket(reader, _) => reader.discard_input(),
            Codec::Lines(lines) => lines.lines.discard(),
        }
    }

    /// Writes all of `queue`; the peer has `limit` for each [`STEP`](super::io::STEP) of it, on
    /// average.
    ///
    /// After an error or a cancellation nothing more can be written, because the peer could not see
    /// that something is missing.
    pub(crate) async fn write(
        &mut self,
        queue: VecDeque<Outgoing>,
        identity: &Identity,
        limit: Duration,
    ) -> Result<(), WriteError> {
        let Self { stream, codec } = self;
        match codec {
            Codec::WebSocket(_, writer) => writer.write(stream, queue, identity, limit).await,
            Codec::Lines(lines) => lines.write(stream, queue, identity, limit).await,
        }
    }

    /// Writes what is buffered, pongs for example, in time.
    pub(crate) async fn flush(&mut self, limit: Duration) -> Result<(), WriteError> {
        match &mut self.codec {
            Codec::WebSocket(_, writer) => writer.flush_in_time(&mut self.stream, limit).await,
            Codec::Lines(_) => Ok(()),
        }
    }

    /// Closes from the host's side: writes the `close` packet, if any, and the close frame.
    pub(crate) async fn send_close(
        &mut self,
        reason: &CloseReason,
        packet: Option<String>,
    ) -> io::Result<()> {
        let Self { stream, codec } = self;
        match codec {
            Codec::WebSocket(_, writer) => writer.send_close(stream, reason, packet).await,
            Codec::Lines(lines) => lines.send_close(stream, packet).await,
        }
    }

    /// Closes the host's side after the peer has closed.
    pub(crate) async fn answer_close(&mut self) -> io::Result<()> {
        let Self { stream, codec } = self;
        match codec {
            Codec::WebSocket(reader, writer) => {
                writer.answer_close(stream, reader.close_payload.take()).await
            }
            Codec::Lines(lines) => lines.send_close(stream, None).await,
        }
    }

    /// Starts to shut down writing, without waiting: TLS has a closing message of its own (RFC
    /// 8446, section 6.1).
    pub(crate) async fn start_shutdown(&mut self) {
        poll_fn(|cx| {
            let _ended: Poll<io::Result<()>> = Pin::new(&mut self.stream).poll_shutdown(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Waits until the peer has closed. Closing with unread input would reset the connection, and
    /// the peer might lose the last messages.
    pub(crate) async fn linger(&mut self) {
        if let Codec::WebSocket(reader, writer) = &mut self.codec {
            reader.await_close(&mut self.stream, writer).await;
        }
        linger(&mut self.stream).await;
    }
}
