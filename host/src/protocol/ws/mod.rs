//! WebSocket: a fast path for messages in one frame, and tokio-tungstenite for all other frames.
//!
//! Nearly all traffic is whole messages in one frame. They are read into a buffer of the thread,
//! unmasked and checked there, so an idle connection owns no buffer. Fragments, pings and pongs go
//! through `TungstenitePath`, which exists only while it is needed.
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

use std::future::poll_fn;

use tokio::io::{AsyncRead, AsyncWrite};

use self::read::FrameReader;
use self::write::FrameWriter;
use super::io::{DiscardPacer, Progress, linger};
use crate::config::MessageLimits;

/// A WebSocket after its handshake.
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    pub(super) stream: S,
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// `input` is what followed the request.
    pub(super) fn new(stream: S, input: Vec<u8>, limits: &MessageLimits) -> Self {
        Self { stream, reader: FrameReader::new(input, limits), writer: FrameWriter::new() }
    }

    /// Waits for the peer's close frame, if the host closed first, and for the end of the stream.
    pub(super) async fn linger(&mut self) {
        let Self { stream, reader, writer } = self;
        if writer.is_closing() && !reader.has_ended() {
            let mut scrap = Vec::new();
            let mut pacer = DiscardPacer::default();
            while let Progress::More | Progress::Pong =
                poll_fn(|cx| reader.poll_receive(stream, cx, &mut scrap, writer)).await
            {
                scrap.clear();
                pacer.pause_after(std::mem::take(&mut reader.traffic).bytes as usize).await;
            }
        }
        linger(stream).await;
    }
}
