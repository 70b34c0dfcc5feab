//! tungstenite's state machine, for the frames that are not plain: fragments, control frames, violations, the close handshake.
//!
//! It is fed through a pipe in memory, and what it says is taken from there; it never touches the socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{SinkExt, Stream};
use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message as WsMessage, Utf8Bytes};

use super::arriving::Fragments;
use super::{NO_CLOSE_FRAME, Progress, Received, left, not_utf8, too_long};
use crate::chunk::{Form, TooMuch};
use crate::frame::{Look, Other};
use crate::outbox::CloseReason;
use crate::utf8::NotUtf8;

/// tungstenite's state machine, at work on the frames that are not plain.
#[derive(Debug)]
pub(super) struct Unusual {
    machine: WebSocketStream<Pipe>,
    /// Bytes of the present frame that it has not been given; `None` for a frame without an end.
    frame_left: Option<usize>,
    /// What will be under way behind the present frame.
    leaves_open: Option<bool>,
    /// Whether a fragmented message is under way.
    is_open: bool,
    fragments: Fragments,
    /// Of the message under way.
    frames: usize,
    max_message: usize,
    max_frames: usize,
    /// Whether the host's close frame went through it.
    is_closing: bool,
}

impl Unusual {
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
            frame_left: Some(0),
            leaves_open: None,
            is_open: false,
            fragments: Fragments::default(),
            frames: 0,
            max_message,
            max_frames,
            is_closing: false,
        }
    }

    /// Nothing is under way: plain frames may pass by, and it may be put away.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_open && !self.is_closing && !self.is_in_frame()
    }

    pub(super) fn is_in_frame(&self) -> bool {
        self.frame_left != Some(0)
    }

    /// Gives it what belongs to the present frame, or to the next, at which `look` was taken. Returns how much that was.
    ///
    /// # Errors
    /// It continues no message, is one frame too many, or the text of a fragment and can never become UTF-8.
    pub(super) fn feed(&mut self, bytes: &[u8], look: Look) -> Result<usize, CloseReason> {
        if !self.is_in_frame() {
            // RFC 6455, section 5.4. The state machine would say so too, but only when the frame has come to its end.
            if bytes.first().is_some_and(|first| first & 0x0f == 0) && !self.is_open {
                let text = "a continuation of no message";
                return Err(CloseReason::host(CloseCode::PROTOCOL, text));
            }
            self.fragments.begin(bytes);
            (self.frame_left, self.leaves_open) = match look {
                // Inside a fragmented message even a plain frame is for it to judge.
                Look::Plain(plain) => (Some(plain.header + plain.length), Some(false)),
                Look::Other(Other { size, leaves_open }) => (Some(size), leaves_open),
                Look::Short | Look::Faulty(_) => (None, None),
            };
            self.count_frame()?;
        }
        let used = self.frame_left.map_or(bytes.len(), |left| left.min(bytes.len()));
        self.fragments.take(&bytes[..used]).map_err(|NotUtf8| not_utf8())?;
        self.machine.get_mut().input.extend_from_slice(&bytes[..used]);
        self.frame_left = self.frame_left.map(|left| left - used);
        if !self.is_in_frame() {
            self.is_open = self.leaves_open.unwrap_or(self.is_open);
        }
        Ok(used)
    }

    /// Whether the host has said goodbye, and the peer's answer is awaited.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Makes the host's close frame; one that has answered the peer's says so already, which is as good.
    pub(super) async fn close(&mut self, reason: &CloseReason) {
        let frame = CloseFrame { code: reason.code.0.into(), reason: close_text(&reason.text) };
        // Into the pipe it always goes.
        drop(self.machine.send(WsMessage::Close(Some(frame))).await);
        self.is_closing = true;
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

    /// Counts the present frame, unless it is a control frame.
    fn count_frame(&mut self) -> Result<(), CloseReason> {
        let Some(leaves_open) = self.leaves_open else { return Ok(()) };
        let frames = self.frames + 1;
        self.frames = if leaves_open { frames } else { 0 };
        if frames <= self.max_frames {
            return Ok(());
        }
        let limit = TooMuch::Frames { max: self.max_frames };
        Err(CloseReason::host(CloseCode::TOO_BIG, limit.to_string()))
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
                WsMessage::Frame(_) => {}
                WsMessage::Close(frame) => {
                    // Polled once more, it answers with its own close frame.
                    drop(Pin::new(&mut self.machine).poll_next(cx));
                    let (code, text) = frame.map_or((NO_CODE, String::new()), |f| {
                        (CloseCode(f.code.into()), f.reason.to_string())
                    });
                    return Progress::Done(CloseReason::new(code, ClosedBy::Peer, text));
                }
            }
        }
    }
}

/// More than a close and the pongs to the pings of one read.
const MAX_PIPE: usize = 1024 * 1024;
/// 1005: a close frame without a code (RFC 6455, section 7.4.1). Reported, never sent.
const NO_CODE: CloseCode = CloseCode(1005);

fn ended(error: WsError, max_bytes: usize) -> Progress {
    let violated = |code, text: String| Progress::Violated(CloseReason::host(code, text));
    match error {
        WsError::ConnectionClosed | WsError::AlreadyClosed | WsError::Io(_) => {
            Progress::Left(left(CloseCode::ABNORMAL, ""))
        }
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Progress::Left(left(CloseCode::ABNORMAL, NO_CLOSE_FRAME))
        }
        WsError::Utf8(_) => Progress::Violated(not_utf8()),
        WsError::Capacity(_) => Progress::Violated(too_long(max_bytes)),
        error => violated(CloseCode::PROTOCOL, error.to_string()),
    }
}

/// RFC 6455, section 5.5: a control frame holds 125 bytes, two of them are the code.
fn close_text(text: &str) -> Utf8Bytes {
    let mut end = text.len().min(123);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
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
