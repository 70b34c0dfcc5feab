//! The slow path: fragments, pings and pongs, on tungstenite's state machine.
//!
//! Plain frames bypass the state machine because it owns a buffer per connection and copies each
//! message; close frames bypass it because the host delays its answer until the peer has received
//! everything it is owed. Reassembly and pongs are rare and intricate, so a well-tested
//! implementation is worth its cost. It reads from a pipe in memory and never touches the socket.
//! It checks whole frames only; limits, order and text are checked here as early as the bytes prove
//! a violation.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use plugsocket_plugin::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::frame::Other;
use super::partial::Fragments;
use super::utf8::NotUtf8;
use crate::protocol::chunk::{Form, LimitExceeded};
use crate::protocol::close::CloseReason;
use crate::protocol::io::{Progress, Received, not_utf8, too_long};

/// tungstenite's state machine and the checks ahead of it.
#[derive(Debug)]
pub(super) struct TungstenitePath {
    machine: WebSocket<Pipe>,
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
        Self {
            machine: WebSocket::from_raw_socket(Pipe::default(), Role::Server, Some(config)),
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
        self.machine.get_mut().input.extend(&bytes[..used]);
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

    /// Returns the memory held for bytes that the state machine has not read.
    #[cfg(any(test, feature = "internals"))]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.machine.get_ref().input.capacity()
    }

    /// Moves complete messages to `batch`.
    pub(super) fn drain(&mut self, batch: &mut Vec<Received>) -> Progress {
        let mut progress = Progress::More;
        loop {
            let (form, bytes) = match self.machine.read() {
                Ok(Message::Text(text)) => (Form::Text, text.into()),
                Ok(Message::Binary(bytes)) => (Form::Binary, bytes),
                // A pong, too, must be reported: it proves that an idle peer is alive.
                Ok(Message::Ping(_) | Message::Pong(_)) => {
                    progress = Progress::Pong;
                    continue;
                }
                // Close frames are not fed.
                Ok(Message::Frame(_) | Message::Close(_)) => continue,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return progress,
                Err(error) => return self.violation(&error),
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
    input: VecDeque<u8>,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
