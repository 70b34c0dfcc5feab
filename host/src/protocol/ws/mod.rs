//! WebSocket: a fast path for messages in one frame, and tokio-tungstenite for all other frames.
//!
//! Nearly all traffic is whole messages in one frame. They are read into a buffer of the thread,
//! unmasked and checked there, so an idle connection owns no buffer. Fragments, pings and pongs go
//! through [`TungstenitePath`](fragments::TungstenitePath), which exists only while it is needed.
//! The close handshake is in `close`. Does not know what a message means.

mod close;
mod fragments;
pub mod frame;
mod partial;
mod read;
#[cfg(test)]
mod tests;
pub mod utf8;
mod write;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use self::read::FrameReader;
use self::write::FrameWriter;
use super::close::CloseReason;
use super::io::{DiscardPacer, Progress, Received, Traffic, WriteError, linger};
use super::outgoing::Outgoing;
use crate::config::Limits;

/// A WebSocket after its handshake.
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    stream: S,
    reader: FrameReader,
    writer: FrameWriter,
}

// Methods that only delegate return the inner future: another layer would enlarge the connection's.
impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// `input` is what followed the request.
    pub(crate) fn new(stream: S, input: Vec<u8>, limits: &Limits) -> Self {
        Self { stream, reader: FrameReader::new(input, limits), writer: FrameWriter::new() }
    }

    /// Reads at least one message, and at most
    /// [`BATCH_MESSAGES`](super::io::BATCH_MESSAGES); the next call continues.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
    ) -> Poll<Progress> {
        self.reader.poll_receive(&mut self.stream, cx, batch, &mut self.writer)
    }

    pub(crate) fn take_traffic(&mut self) -> Traffic {
        self.reader.take_traffic()
    }

    pub(crate) fn has_received(&self) -> bool {
        self.reader.has_received()
    }

    pub(crate) fn is_mid_message(&self) -> bool {
        self.reader.is_mid_message()
    }

    #[cfg(any(test, feature = "internals"))]
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.reader.buffered_bytes()
    }

    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    #[cfg(any(test, feature = "internals"))]
    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    pub(crate) fn write(
        &mut self,
        queue: VecDeque<Outgoing>,
        uuid: &str,
        limit: Duration,
    ) -> impl Future<Output = Result<(), WriteError>> {
        self.writer.write(&mut self.stream, queue, uuid, limit)
    }

    pub(crate) fn flush(&mut self) -> impl Future<Output = io::Result<()>> {
        self.writer.flush(&mut self.stream)
    }

    /// Writes the `close` packet, if any, and the close frame.
    pub(crate) fn send_close(
        &mut self,
        reason: &CloseReason,
        packet: Option<String>,
    ) -> impl Future<Output = io::Result<()>> {
        self.writer.send_close(&mut self.stream, reason, packet)
    }

    /// Answers the peer's close frame.
    pub(crate) fn answer_close(&mut self) -> impl Future<Output = io::Result<()>> {
        self.writer.answer_close(&mut self.stream, self.reader.take_close_payload())
    }

    /// Waits for the peer's close frame, if the host closed first, and for the end of the stream.
    pub(crate) async fn linger(&mut self) {
        if self.writer.is_closing() && !self.reader.has_ended() {
            let mut scrap = Vec::new();
            let mut pacer = DiscardPacer::default();
            while let Progress::More | Progress::Pong =
                poll_fn(|cx| self.poll_receive(cx, &mut scrap)).await
            {
                scrap.clear();
                pacer.pause_after(self.take_traffic().bytes as usize).await;
            }
        }
        linger(&mut self.stream).await;
    }
}
