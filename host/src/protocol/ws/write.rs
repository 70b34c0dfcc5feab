//! The write side of a WebSocket: frames small messages together, and writes large ones as they
//! are.
//!
//! Owns what the socket has not taken yet, and whether an earlier write was cancelled.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{close, frame};
use crate::protocol::chunk::Form;
use crate::protocol::close::CloseReason;
use crate::protocol::dialog;
use crate::protocol::identity::Identity;
use crate::protocol::io::{STEP, WriteDeadline, WriteError, WriteState};
use crate::protocol::payload::Outgoing;

/// The write side of a WebSocket.
#[derive(Debug, Default)]
pub(in crate::protocol) struct FrameWriter {
    /// What the socket has not taken yet, and pongs.
    pub(super) output: Vec<u8>,
    /// Whether the host's close frame was queued: no frame may follow it.
    pub(super) is_closing: bool,
    state: WriteState,
    deadline: WriteDeadline,
}

impl FrameWriter {
    /// Writes all of `queue`, with as few writes as the socket permits.
    pub(in crate::protocol) async fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        queue: VecDeque<Outgoing>,
        identity: &Identity,
        limit: Duration,
    ) -> Result<(), WriteError> {
        self.state.check()?;
        self.state = WriteState::Gap;
        let mut queue = queue.into_iter().peekable();
        while queue.peek().is_some() {
            let mut large = None;
            if !self.output.is_empty() {
                self.flush_in_time(stream, limit).await?;
            }
            let first_write = poll_fn(|cx| {
                Poll::Ready(FRAMES.with_borrow_mut(|frames| {
                    frames.clear();
                    large = append_frames(frames, &mut queue, identity);
                    if large.is_some() {
                        self.state = WriteState::Torn;
                    }
                    self.poll_write_some(stream, cx, frames)
                }))
            });
            let written = first_write.await?;
            self.deadline.count(written, limit);
            if !self.output.is_empty() {
                self.flush_in_time(stream, limit).await?;
            }
            if let Some(payload) = large {
                self.deadline.write_all(stream, &payload, limit).await?;
                self.state = WriteState::Gap;
            }
        }
        self.deadline.flush(stream, limit).await?;
        self.state = WriteState::Whole;
        Ok(())
    }

    /// Writes what is buffered, in time.
    pub(in crate::protocol) async fn flush_in_time<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        limit: Duration,
    ) -> Result<(), WriteError> {
        let Self { output, deadline, .. } = self;
        match output.len() {
            0 => Ok(()),
            length => deadline.complete(limit, length, flush(output, stream)).await,
        }
    }

    /// Writes what the socket takes now and keeps the rest. Returns how much it has taken.
    fn poll_write_some<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        frames: &[u8],
    ) -> io::Result<usize> {
        let mut rest = frames;
        while !rest.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => rest = &rest[written..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.output.extend_from_slice(rest);
        Ok(frames.len() - rest.len())
    }

    /// Writes what is buffered. Cancel-safe: no byte is written twice.
    pub(in crate::protocol) async fn flush<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> io::Result<()> {
        match self.output.is_empty() {
            true => Ok(()),
            false => flush(&mut self.output, stream).await,
        }
    }

    /// Writes the `close` packet, if any, and the close frame.
    pub(in crate::protocol) async fn send_close<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        reason: &CloseReason,
        packet: Option<String>,
    ) -> io::Result<()> {
        if self.state == WriteState::Torn {
            return self.state.check();
        }
        if let Some(packet) = packet {
            append_text(&mut self.output, &packet);
        }
        close::append(&mut self.output, reason.code, &reason.text);
        self.is_closing = true;
        self.flush(stream).await?;
        stream.flush().await
    }

    /// Answers the peer's close frame, if there was one; `payload` is its payload.
    pub(in crate::protocol) async fn answer_close<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        payload: Option<Box<[u8]>>,
    ) -> io::Result<()> {
        self.state.check()?;
        if let Some(payload) = payload {
            close::append_answer(&mut self.output, &payload);
        }
        self.flush(stream).await
    }
}

/// Writes all of `output`. Cancel-safe: no byte is written twice.
async fn flush<S: AsyncWrite + Unpin>(output: &mut Vec<u8>, stream: &mut S) -> io::Result<()> {
    poll_fn(|cx| {
        while !output.is_empty() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, output)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => drop(output.drain(..count)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    *output = Vec::new();
    // TLS may buffer what the socket did not take.
    stream.flush().await
}

/// The longest payload that is copied to be written together with other frames.
const LARGE: usize = 16 * 1024;

thread_local! {
    /// The frames of one write, on their way from the outbox to the socket.
    static FRAMES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends the frames of `queue` up to and including the header of a large one, and returns the
/// payload of that one.
fn append_frames(
    frames: &mut Vec<u8>,
    queue: &mut impl Iterator<Item = Outgoing>,
    identity: &Identity,
) -> Option<Bytes> {
    while frames.len() < STEP {
        match queue.next()? {
            Outgoing::Message(payload) => {
                frame::append_header(frames, payload.form, payload.len());
                if payload.len() > LARGE {
                    return payload.into_long();
                }
                frames.extend_from_slice(payload.as_bytes());
            }
            Outgoing::Next(packet) => {
                append_text(frames, packet.as_deref().unwrap_or(dialog::NEXT));
            }
            Outgoing::Ready => append_text(frames, &dialog::ready(identity.as_str())),
            // RFC 6455, section 5.5.2: final, opcode 9, no payload.
            Outgoing::Ping => frames.extend_from_slice(&[0x89, 0]),
        }
    }
    None
}

fn append_text(out: &mut Vec<u8>, text: &str) {
    frame::append_header(out, Form::Text, text.len());
    out.extend_from_slice(text.as_bytes());
}
