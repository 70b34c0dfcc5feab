//! Plain TCP: the opening lines, then messages without frames.
//!
//! Decides where a message ends on a connection without frames. Two kinds of clients exist: those
//! that end each message with a line feed, and old ones that write a message without an end, in one
//! write, and wait for the answer. Knows no sockets and does not interpret messages.
//!
//! **The opening** ([`Opening`]) ends with its `GET` line, because an old client sends nothing more
//! before it receives `ready`. An `Ident:` line counts if it follows in the same buffer; the rest
//! of an incomplete one is awaited (no message of an old client begins that way). The caller may
//! wait a moment for clients that write line by line, and parse everything again. After that,
//! [`Lines`] drops a late `Ident:` line and empty lines, so that they do not reach the application.
//! An empty line ends the opening; an `Ident:` line behind it is a message.
//!
//! **The mode** is decided by the first message and does not change. If a line feed ends it (even
//! as the first byte of a later read, or as CRLF), only line feeds end messages, however reads are
//! split. Otherwise the connection is legacy: a line feed still ends a message, and so does the end
//! of a read after a whole JSON value, `bufferON` or `bufferOFF`; while a chunk buffer is open,
//! each read is one chunk, line feeds included.
//!
//! Consequences:
//! - A JSON number needs its line feed in both modes: `12` may be the beginning of `123`.
//! - A first line that begins with a whole value (`{} {}`, `bufferONx`, blanks after the value) is
//!   taken for a legacy message if a read ends there. All other lines are safe.
//! - An empty line is not a message and gets no answer; before line mode, neither are blanks.

mod json_scan;
mod opening;
#[cfg(test)]
mod tests;

use std::mem;

use bytes::Bytes;
use thiserror::Error;

use self::json_scan::ScanState;
pub use self::opening::{Opened, Opening, Tail, Transport, detect_transport};
use super::dialog::{is_buffer_off, is_buffer_on};
use crate::error::counted;

/// A message is longer than `max_message`, so no further message can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a message is longer than {} (max_message)", counted(*.0, "byte"))]
pub struct LineError(usize);

/// Splits the input of a plain TCP connection into messages. They are bytes, because a chunk may
/// end within a character.
///
/// Owns no memory between messages.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Where the current message begins.
    start: usize,
    /// How many of its bytes were examined.
    scanned: usize,
    scan: ScanState,
    mode: Mode,
    /// Whether a chunk buffer is open, according to the commands so far.
    is_buffering: bool,
    tail: Tail,
    max_message: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No message yet.
    Undecided,
    /// The first message ended with its read; the next byte decides.
    Deciding,
    Lines,
    Legacy,
}

impl Lines {
    /// Creates a reader. `max_message` is in bytes, without the line end.
    pub fn new(max_message: usize, tail: Tail) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            scan: ScanState::Before,
            mode: Mode::Undecided,
            is_buffering: false,
            tail,
            max_message,
        }
    }

    /// Adds one read: everything that the socket had, because the end of a read can end a legacy
    /// message. Take all messages before the next push, or both count as one read.
    pub fn push(&mut self, read: &[u8]) {
        // Drops more bytes than it moves: linear over the life of the connection.
        if self.start > self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(read);
    }

    /// Returns the next message without its line end; `None` until more is pushed.
    ///
    /// # Errors
    ///
    /// The message exceeds `max_message`; the connection cannot continue.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, LineError> {
        if self.mode == Mode::Deciding {
            self.decide();
        }
        match self.mode {
            Mode::Deciding => Ok(None),
            Mode::Legacy if self.is_buffering => self.next_chunk(),
            _ => self.next_line(),
        }
    }

    fn decide(&mut self) {
        let line_end;
        (self.mode, line_end) = match self.pending() {
            [] | [b'\r'] => return,
            [b'\n', ..] => (Mode::Lines, 1),
            [b'\r', b'\n', ..] => (Mode::Lines, 2),
            _ => (Mode::Legacy, 0),
        };
        self.consume(self.start + line_end);
    }

    /// Returns a message that ends with a line feed or, outside line mode, with the read.
    fn next_line(&mut self) -> Result<Option<Bytes>, LineError> {
        while let Some(len) = memchr::memchr(b'\n', &self.pending()[self.scanned..]) {
            let end = self.start + self.scanned + len + 1;
            let line = without_line_end(&self.buffer[self.start..end]);
            self.check_length(line.len())?;
            let message = self.is_message(line).then(|| Bytes::copy_from_slice(line));
            // Any other line ends the opening, even an empty one.
            if !is_header(line, AUTHORIZATION) {
                self.tail = Tail::Closed;
            }
            self.consume(end);
            if let Some(message) = message {
                self.mode = if self.mode == Mode::Legacy { Mode::Legacy } else { Mode::Lines };
                return Ok(Some(self.track_commands(message)));
            }
        }
        self.next_unended()
    }

    /// Returns a whole value at the end of a read.
    fn next_unended(&mut self) -> Result<Option<Bytes>, LineError> {
        let pending = &self.buffer[self.start..];
        let message = pending.strip_suffix(b"\r").unwrap_or(pending);
        self.check_length(message.len())?;
        let examined = mem::replace(&mut self.scanned, pending.len());
        if self.mode == Mode::Lines {
            return Ok(None);
        }
        self.scan.feed(&pending[examined..]);
        if !is_buffer_on(pending) && !is_buffer_off(pending) && !self.scan.confirm(pending) {
            return Ok(None);
        }
        let message = Bytes::copy_from_slice(message);
        self.consume(self.buffer.len());
        if self.mode == Mode::Undecided {
            self.mode = Mode::Deciding;
        }
        self.tail = Tail::Closed;
        Ok(Some(self.track_commands(message)))
    }

    /// Returns a read of a legacy connection while its chunk buffer is open.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, LineError> {
        let pending = self.pending();
        if pending.is_empty() {
            return Ok(None);
        }
        self.check_length(pending.len())?;
        let line = without_line_end(pending);
        let chunk = if is_buffer_on(line) || is_buffer_off(line) { line } else { pending };
        let chunk = Bytes::copy_from_slice(chunk);
        self.consume(self.buffer.len());
        Ok(Some(self.track_commands(chunk)))
    }

    /// Returns whether a message has begun and not ended.
    pub fn is_mid_message(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Returns the memory held for an incomplete message.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Discards the beginning of a message. The connection cannot continue.
    pub(crate) fn discard(&mut self) {
        (self.buffer, self.start, self.scanned) = (Vec::new(), 0, 0);
    }

    fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn check_length(&self, length: usize) -> Result<(), LineError> {
        if length > self.max_message { Err(LineError(self.max_message)) } else { Ok(()) }
    }

    fn is_message(&self, line: &[u8]) -> bool {
        if self.mode == Mode::Lines {
            return !line.is_empty();
        }
        let is_late = self.tail == Tail::Awaited
            && (is_header(line, AUTHORIZATION) || is_header(line, IDENT));
        !line.trim_ascii().is_empty() && !is_late
    }

    /// Drops the current message, which ends at `end`.
    fn consume(&mut self, end: usize) {
        self.start = end;
        self.scanned = 0;
        self.scan = ScanState::Before;
        if self.start == self.buffer.len() {
            self.buffer = Vec::new();
            self.start = 0;
        }
    }

    fn track_commands(&mut self, message: Bytes) -> Bytes {
        let is_buffering = self.is_buffering && !is_buffer_off(&message);
        self.is_buffering = is_buffering || is_buffer_on(&message);
        message
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let Some(line) = line.strip_suffix(b"\n") else { return line };
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Returns whether `line` begins with `name`, or is a beginning of it, in any letter case.
fn begins_with(line: &[u8], name: &[u8]) -> bool {
    let seen = line.len().min(name.len());
    line[..seen].eq_ignore_ascii_case(&name[..seen])
}

fn is_header(line: &[u8], name: &[u8]) -> bool {
    line.len() >= name.len() && begins_with(line, name)
}

const AUTHORIZATION: &[u8] = b"authorization:";
const IDENT: &[u8] = b"ident:";
