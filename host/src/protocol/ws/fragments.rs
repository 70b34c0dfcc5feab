//! The slow path: fragments, pings and pongs, on tokio-tungstenite's state machine.
//!
//! Only these frames come here. Plain frames bypass the state machine because it owns a buffer per
//! connection and copies each message; close frames bypass it because the host delays its answer
//! until the peer has received everything it is owed. Reassembly and pongs, in contrast, are rare
//! and intricate, so a well-tested implementation is worth its cost. It reads from a pipe in memory
//! and never touches the socket. It checks whole frames only; limits, order and text are checked
//! here as early as the bytes prove a violation.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use plugsocket_plugin::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::frame::Other;
use super::partial::Fragments;
use super::utf8::NotUtf8;
use crate::protocol::chunk::{Form, LimitExceeded};
use crate::protocol::close::CloseReason;
use crate::protocol::io::{Progress, Received, not_utf8, too_long};

/// tokio-tungstenite's state machine and the checks ahead of it.
#[derive(Debug)]
pub(super) struct TungstenitePath {
    machine: WebSocketStream<Pipe>,
    /// Bytes of the current frame that were not fed yet.
    frame_left: usize,
    /// What the current frame makes of `is_open`.
    leaves_open: Option<bool>,
    /// Whether a fragmented message is incomplete.
    is_open: bool,
    fragments: Fragments,
    /// Frames of the current message.
    frames: usize,
    /// Payload bytes of the current message, with those of the current frame.
    bytes: usize,
    max_message: usize,
    max_frames: usize,
}

impl TungstenitePath {
    pub(super) fn new(max_message: usize, max_frames: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(1024)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_PIPE)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let machine = WebSocketStream::from_raw_socket(Pipe::default(), Role::Server, Some(config));
        // There is no handshake to wait for.
        let machine = futures_util::FutureExt::now_or_never(machine).expect("ready at once");
        Self {
            machine,
            frame_left: 0,
            leaves_open: None,
            is_open: false,
            fragments: Fragments::default(),
            frames: 0,
            bytes: 0,
            max_message,
            max_frames,
        }
    }

    /// Returns whether plain frames may bypass the state machine, and whether it can be dropped.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_open && !self.is_in_frame()
    }

    pub(super) fn is_in_frame(&self) -> bool {
        self.frame_left > 0
    }

    /// Begins the frame whose header is at the start of `bytes`.
    ///
    /// # Errors
    /// The frame must not follow the previous one (RFC 6455, section 5.4), or exceeds a limit.
    pub(super) fn begin(&mut self, bytes: &[u8], frame: Other) -> Result<(), CloseReason> {
        self.frame_left = frame.header + frame.length;
        self.leaves_open = frame.leaves_open;
        self.fragments.begin(bytes);
        let Some(leaves_open) = frame.leaves_open else { return Ok(()) };
        let continues = bytes.first().is_some_and(|first| first & 0x0f == 0);
        if continues != self.is_open {
            let text = match continues {
                true => "a continuation of no message",
                false => "a message before the end of another one",
            };
            return Err(CloseReason::host(CloseCode::PROTOCOL, text));
        }
        self.frames += 1;
        self.bytes += frame.length;
        if self.bytes > self.max_message {
            return Err(too_long(self.max_message));
        }
        if self.frames > self.max_frames {
            let limit = LimitExceeded::Frames { max: self.max_frames };
            return Err(CloseReason::host(CloseCode::TOO_BIG, limit.to_string()));
        }
        if !leaves_open {
            (self.frames, self.bytes) = (0, 0);
        }
        Ok(())
    }

    /// Feeds the bytes of the current frame and returns their number.
    ///
    /// # Errors
    /// The text cannot become UTF-8.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<usize, CloseReason> {
        let used = self.frame_left.min(bytes.len());
        self.fragments.push(&bytes[..used]).map_err(|NotUtf8| not_utf8())?;
        self.machine.get_mut().input.extend_from_slice(&bytes[..used]);
        self.frame_left -= used;
        if !self.is_in_frame() {
            self.is_open = self.leaves_open.unwrap_or(self.is_open);
        }
        Ok(used)
    }

    /// Returns the pongs that were not written yet.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.machine.get_mut().output
    }

    /// Returns the memory held for the current message.
    pub(super) fn buffered_bytes(&self) -> usize {
        let fed = self.bytes.saturating_sub(self.frame_left);
        self.machine.get_ref().input.capacity() + fed
    }

    /// Moves complete messages to `batch`.
    pub(super) fn drain(&mut self, batch: &mut Vec<Received>) -> Progress {
        // Fed bytes are followed by a call of this function, so nothing has to wake the task.
        let cx = &mut Context::from_waker(Waker::noop());
        let mut progress = Progress::More;
        loop {
            let (form, bytes) = match Pin::new(&mut self.machine).poll_next(cx) {
                Poll::Pending => return progress,
                Poll::Ready(None) => {
                    return Progress::Broken(CloseReason::peer(CloseCode::ABNORMAL, ""));
                }
                Poll::Ready(Some(Ok(Message::Text(text)))) => (Form::Text, text.into()),
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => (Form::Binary, bytes),
                // A pong, too, must be reported: it proves that an idle peer is alive.
                Poll::Ready(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {
                    progress = Progress::Pong;
                    continue;
                }
                // Close frames are not fed.
                Poll::Ready(Some(Ok(Message::Frame(_) | Message::Close(_)))) => continue,
                Poll::Ready(Some(Err(error))) => return self.violation(&error),
            };
            batch.push(Received { bytes, form });
        }
    }

    fn violation(&self, error: &Error) -> Progress {
        Progress::Violation(match error {
            Error::Utf8(_) => not_utf8(),
            Error::Capacity(_) => too_long(self.max_message),
            error => CloseReason::host(CloseCode::PROTOCOL, error.to_string()),
        })
    }
}

/// More than the pongs of one read.
const MAX_PIPE: usize = 1024 * 1024;

/// An in-memory stream between the socket and tungstenite.
#[derive(Debug, Default)]
struct Pipe {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl AsyncRead for Pipe {
    /// Registers no waker: see [`TungstenitePath::drain`].
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            return Poll::Pending;
        }
        let count = self.input.len().min(buffer.remaining());
        buffer.put_slice(&self.input[..count]);
        self.input.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
