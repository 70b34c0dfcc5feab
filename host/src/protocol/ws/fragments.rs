//! tungstenite's state machine, for the frames that are neither plain nor the end: fragments, pings and pongs.
//!
//! It is fed through a pipe in memory, and what it says is taken from there; it never touches the socket. It judges a frame once that is
//! whole; what its header or the beginning of a text proves is judged here before, so that nobody has to send the rest first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use plugsocket_plugin::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::frame::Other;
use super::partial::Fragments;
use super::utf8::NotUtf8;
use crate::protocol::chunk::{Form, TooMuch};
use crate::protocol::close::CloseReason;
use crate::protocol::wire::{Progress, Received, left, not_utf8, too_long};

/// tungstenite's state machine, at work on the frames that are not plain.
#[derive(Debug)]
pub(super) struct TungstenitePath {
    machine: WebSocketStream<Pipe>,
    /// Bytes of the present frame that it has not been given.
    frame_left: usize,
    /// What will be under way behind the present frame.
    leaves_open: Option<bool>,
    /// Whether a fragmented message is under way.
    is_open: bool,
    fragments: Fragments,
    /// Of the message under way.
    frames: usize,
    /// Of its payload, with the present frame.
    bytes: usize,
    max_message: usize,
    max_frames: usize,
}

impl TungstenitePath {
    pub(super) fn new((max_message, max_frames): (usize, usize)) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(1024)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_PIPE)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let machine = WebSocketStream::from_raw_socket(Pipe::default(), Role::Server, Some(config));
        // It awaits nothing: there is no handshake.
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

    /// Nothing is under way: plain frames may pass by, and it may be put away.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_open && !self.is_in_frame()
    }

    pub(super) fn is_in_frame(&self) -> bool {
        self.frame_left > 0
    }

    /// Begins with the frame whose header these bytes are the beginning of.
    ///
    /// # Errors
    /// It has no place behind what came before (RFC 6455, section 5.4), or is one frame or byte too many.
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
            let limit = TooMuch::Frames { max: self.max_frames };
            return Err(CloseReason::host(CloseCode::TOO_BIG, limit.to_string()));
        }
        if !leaves_open {
            (self.frames, self.bytes) = (0, 0);
        }
        Ok(())
    }

    /// Gives it what belongs to the present frame, and returns how much that was.
    ///
    /// # Errors
    /// It is the text of a fragment and can never become UTF-8.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<usize, CloseReason> {
        let used = self.frame_left.min(bytes.len());
        self.fragments.take(&bytes[..used]).map_err(|NotUtf8| not_utf8())?;
        self.machine.get_mut().input.extend_from_slice(&bytes[..used]);
        self.frame_left -= used;
        if !self.is_in_frame() {
            self.is_open = self.leaves_open.unwrap_or(self.is_open);
        }
        Ok(used)
    }

    /// Moves what it says behind `output`.
    pub(super) fn speak(&mut self, output: &mut Vec<u8>) {
        output.append(&mut self.machine.get_mut().output);
    }

    /// Bytes of memory for what it was given and has not taken.
    #[cfg(any(test, feature = "internals"))]
    pub(super) fn kept(&self) -> usize {
        self.machine.get_ref().input.capacity()
    }

    pub(super) fn drain(&mut self, batch: &mut Vec<Received>, cx: &mut Context<'_>) -> Progress {
        let mut progress = Progress::More;
        loop {
            let received = match Pin::new(&mut self.machine).poll_next(cx) {
                Poll::Pending => return progress,
                Poll::Ready(None) => return Progress::Left(left(CloseCode::ABNORMAL, "")),
                Poll::Ready(Some(Err(error))) => return ended(error, self.max_message),
                Poll::Ready(Some(Ok(message))) => message,
            };
            match received {
                WsMessage::Text(text) => {
                    batch.push(Received { bytes: text.into(), form: Form::Text })
                }
                WsMessage::Binary(bytes) => batch.push(Received { bytes, form: Form::Binary }),
                // A pong, too, ends the read: it is all that shows that an idle peer is alive.
                WsMessage::Ping(_) | WsMessage::Pong(_) => progress = Progress::Pong,
                // It is given no close frames.
                WsMessage::Frame(_) | WsMessage::Close(_) => {}
            }
        }
    }
}

/// More than the pongs to the pings of one read.
const MAX_PIPE: usize = 1024 * 1024;

fn ended(error: WsError, max_bytes: usize) -> Progress {
    Progress::Violated(match error {
        WsError::Utf8(_) => not_utf8(),
        WsError::Capacity(_) => too_long(max_bytes),
        error => CloseReason::host(CloseCode::PROTOCOL, error.to_string()),
    })
}

/// A socket in memory, between the real one and tungstenite.
#[derive(Debug, Default)]
struct Pipe {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl AsyncRead for Pipe {
    /// Whoever fills it polls again.
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
