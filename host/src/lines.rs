//! Plain TCP: the opening lines, then messages without frames.
//!
//! Owns the question where a message ends on a connection that has no frames. Two kinds of peers must be understood: those
//! that end each message with a line feed and need not wait, and old ones that write a message without any end, in one write,
//! and wait for the answer. Knows no sockets and no application; what is inside a message is somebody else's.
//!
//! **The opening** ([`Opening`]) is over as soon as its `GET` line is whole, for the old peer sends nothing more before it sees
//! `ready`. An `Ident:` line counts if it follows in the same buffer; if only the beginning of one is there, the rest is
//! awaited (no message of an old peer begins so). Later it is too late, `ready` is out: [`Lines`] then drops it, and an empty
//! line as well, so that neither reaches the application. Send the opening in one write.
//!
//! **The mode** is decided by the first message and stays. If a line feed ends it (also one that is the very next byte of a
//! later read, or CRLF), only line feeds end messages for ever, however reads are split. Else the connection is legacy: a
//! line feed still ends a message, and so does the end of a read behind a whole JSON value, `bufferON` or `bufferOFF`; while a
//! chunk buffer is open, each read is one chunk, line feeds included.
//!
//! What follows from it:
//! - A JSON number cannot be known to be whole (`12` may be the half of `123`): it needs its line feed, in both modes.
//! - A first line of which a beginning is a whole value (`{} {}`, `bufferONx`, blanks behind the value) can be taken for a legacy
//!   message if a read ends right there; every other line is safe.
//! - An empty line is no message and gets no answer, and until line mode is decided, neither is one of blanks.
//! - CR before the ending LF belongs to the line end.

use std::mem;

use bytes::Bytes;
use serde::de::IgnoredAny;
use thiserror::Error;

use crate::dialog::{is_buffer_off, is_buffer_on};
use crate::http::{Head, Refusal};

/// What the first bytes of a connection announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// An HTTP request, or nothing known: [`Head`] judges.
    Http,
    /// The opening lines of plain TCP.
    Plain,
}

/// Which way a connection begins; `None` while its first bytes fit both.
pub fn way(buf: &[u8]) -> Option<Way> {
    if FIRST_LINES.iter().any(|line| buf.starts_with(line)) {
        return Some(Way::Plain);
    }
    if FIRST_LINES.iter().any(|line| line.starts_with(buf)) { None } else { Some(Way::Http) }
}

/// Whether the opening may still go on behind what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// It ended with an empty line, an Ident or the first message.
    Closed,
    /// Nothing followed yet: an `Ident:` line that comes now comes too late and is dropped.
    Awaited,
}

/// A whole opening.
#[derive(Debug)]
pub struct Opened {
    /// Path, query and, where announced, the header `Ident`; no other header.
    pub head: Head,
    /// How many bytes of the buffer it took; the rest is the first read for [`Lines`].
    pub used: usize,
    /// For [`Lines::new`].
    pub tail: Tail,
}

/// Reads the opening from a buffer that grows; each byte is looked at once, however the reads are split.
#[derive(Debug)]
pub struct Opening {
    max_head: usize,
    scanned: usize,
    stage: Stage,
}

/// Which line is read, and where it begins.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Marker,
    Request { at: usize },
    Rest { request_at: usize, at: usize },
}

impl Opening {
    /// `max_head` is the most bytes that the opening may have.
    pub fn new(max_head: usize) -> Self {
        Self { max_head, scanned: 0, stage: Stage::Marker }
    }

    /// Reads on; `buf` is all that was received so far, at every call. `None` while it is incomplete.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] for its reason: 400 for lines that are not as they must be, 431 past `max_head`, 505 for another HTTP.
    pub fn read(&mut self, buf: &[u8]) -> Result<Option<Opened>, Refusal> {
        loop {
            match self.stage {
                Stage::Marker => {
                    let Some(end) = self.line_end(buf)? else { return Ok(None) };
                    if !FIRST_LINES.contains(&&buf[..end]) {
                        return Err(Refusal::bad_request("the first line is not `backend`"));
                    }
                    self.stage = Stage::Request { at: end };
                }
                Stage::Request { at } => {
                    let Some(end) = self.line_end(buf)? else { return Ok(None) };
                    if !buf[at..].starts_with(b"GET ") {
                        return Err(Refusal::bad_request(
                            "the second line is not `GET /resource HTTP/1.1`",
                        ));
                    }
                    self.stage = Stage::Rest { request_at: at, at: end };
                }
                Stage::Rest { request_at, at } => return self.finish(buf, request_at, at),
            }
        }
    }

    fn finish(
        &mut self,
        buf: &[u8],
        request_at: usize,
        at: usize,
    ) -> Result<Option<Opened>, Refusal> {
        let request_line = without_line_end(&buf[request_at..at]);
        let rest = &buf[at..];
        let seen = rest.len().min(IDENT.len());
        let (ident, used, tail) = if rest.is_empty() || rest == b"\r" {
            (None, at, Tail::Awaited)
        } else if !rest[..seen].eq_ignore_ascii_case(&IDENT[..seen]) {
            (None, at + empty_line(rest), Tail::Closed)
        } else {
            let Some(end) = self.line_end(buf)? else { return Ok(None) };
            let ident = without_line_end(&buf[at..end])[IDENT.len()..].trim_ascii();
            (Some(ident), end + empty_line(&buf[end..]), Tail::Closed)
        };
        Ok(Some(Opened { head: Head::of_opening(request_line, ident)?, used, tail }))
    }

    /// Where the line under the scan ends, line feed included.
    fn line_end(&mut self, buf: &[u8]) -> Result<Option<usize>, Refusal> {
        let window = &buf[..buf.len().min(self.max_head)];
        match memchr::memchr(b'\n', window.get(self.scanned..).unwrap_or_default()) {
            Some(len) => {
                self.scanned += len + 1;
                Ok(Some(self.scanned))
            }
            None if buf.len() >= self.max_head => Err(Refusal::head_too_large(self.max_head)),
            None => {
                self.scanned = window.len();
                Ok(None)
            }
        }
    }
}

/// Why no further message can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LineError {
    /// A message is longer than configured (`max_message`).
    #[error("a message is longer than {max_bytes} bytes")]
    TooLong {
        /// The limit.
        max_bytes: usize,
    },
}

/// Tells the messages of a plain TCP connection apart: bytes, for a chunk may end inside a character.
///
/// Owns no memory while no message is under way.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Where the message under way begins.
    at: usize,
    /// How much of it was looked at.
    scanned: usize,
    shape: Shape,
    mode: Mode,
    buffering: Buffering,
    tail: Tail,
    max_message: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No message yet.
    Undecided,
    /// The first message ended with its read: the next byte decides.
    Deciding,
    Lines,
    Legacy,
}

/// Whether a chunk buffer is open, as seen from the commands that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Buffering {
    On,
    Off,
}

impl Lines {
    /// `max_message` is in bytes, without the line end.
    pub fn new(max_message: usize, tail: Tail) -> Self {
        Self {
            buffer: Vec::new(),
            at: 0,
            scanned: 0,
            shape: Shape::Before,
            mode: Mode::Undecided,
            buffering: Buffering::Off,
            tail,
            max_message,
        }
    }

    /// Adds one read: all that the socket had at that moment, since the end of a read can end a legacy message. Take all
    /// messages before the next one; what is pushed in two pieces without that counts as one read.
    pub fn push(&mut self, read: &[u8]) {
        // Only when more is dropped than moved: linear over the life of the connection.
        if self.at > self.buffer.len() / 2 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(read);
    }

    /// The next message, without its line end; `None` until more is pushed.
    ///
    /// # Errors
    ///
    /// Past `max_message`; then there is no way on.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, LineError> {
        if self.mode == Mode::Deciding {
            self.decide();
        }
        match (self.mode, self.buffering) {
            (Mode::Deciding, _) => Ok(None),
            (Mode::Legacy, Buffering::On) => self.next_chunk(),
            _ => self.next_line(),
        }
    }

    fn decide(&mut self) {
        match self.pending() {
            [] | [b'\r'] => {}
            [b'\n', ..] => self.decide_for(Mode::Lines, 1),
            [b'\r', b'\n', ..] => self.decide_for(Mode::Lines, 2),
            _ => self.decide_for(Mode::Legacy, 0),
        }
    }

    fn decide_for(&mut self, mode: Mode, line_end: usize) {
        self.mode = mode;
        self.consume(self.at + line_end);
    }

    /// A message that ends with a line feed or, outside line mode, with the read.
    fn next_line(&mut self) -> Result<Option<Bytes>, LineError> {
        while let Some(len) = memchr::memchr(b'\n', &self.pending()[self.scanned..]) {
            let end = self.at + self.scanned + len + 1;
            let line = without_line_end(&self.buffer[self.at..end]);
            self.check_length(line.len())?;
            let message = self.is_message(line).then(|| Bytes::copy_from_slice(line));
            let blank = line.trim_ascii().is_empty();
            self.consume(end);
            if !blank {
                self.tail = Tail::Closed;
            }
            if let Some(message) = message {
                self.mode = if self.mode == Mode::Legacy { Mode::Legacy } else { Mode::Lines };
                return Ok(Some(self.passed(message)));
            }
        }
        self.next_unended()
    }

    /// A whole value at the end of a read.
    fn next_unended(&mut self) -> Result<Option<Bytes>, LineError> {
        let pending = &self.buffer[self.at..];
        let message = pending.strip_suffix(b"\r").unwrap_or(pending);
        self.check_length(message.len())?;
        let fresh = mem::replace(&mut self.scanned, pending.len());
        if self.mode == Mode::Lines {
            return Ok(None);
        }
        self.shape.feed(&pending[fresh..]);
        if !is_buffer_on(pending) && !is_buffer_off(pending) && !self.shape.confirm(pending) {
            return Ok(None);
        }
        let message = Bytes::copy_from_slice(message);
        self.consume(self.buffer.len());
        if self.mode == Mode::Undecided {
            self.mode = Mode::Deciding;
        }
        self.tail = Tail::Closed;
        Ok(Some(self.passed(message)))
    }

    /// A read of a legacy connection while its chunk buffer is open.
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
        Ok(Some(self.passed(chunk)))
    }

    fn pending(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    fn check_length(&self, length: usize) -> Result<(), LineError> {
        if length > self.max_message {
            Err(LineError::TooLong { max_bytes: self.max_message })
        } else {
            Ok(())
        }
    }

    fn is_message(&self, line: &[u8]) -> bool {
        if self.mode == Mode::Lines {
            return !line.is_empty();
        }
        let late_ident = self.tail == Tail::Awaited
            && line.get(..IDENT.len()).is_some_and(|start| start.eq_ignore_ascii_case(IDENT));
        !line.trim_ascii().is_empty() && !late_ident
    }

    /// The next message begins at `end`.
    fn consume(&mut self, end: usize) {
        self.at = end;
        self.scanned = 0;
        self.shape = Shape::Before;
        if self.at == self.buffer.len() {
            self.buffer = Vec::new();
            self.at = 0;
        }
    }

    fn passed(&mut self, message: Bytes) -> Bytes {
        if is_buffer_on(&message) {
            self.buffering = Buffering::On;
        } else if is_buffer_off(&message) {
            self.buffering = Buffering::Off;
        }
        message
    }
}

/// How far a JSON value is, told from its brackets and quotes alone: enough to know when a full check may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Before,
    /// Inside this many brackets.
    Nested(usize),
    Text(usize),
    Escape(usize),
    /// Inside `true`, `false` or `null`, with this to come.
    Word(&'static [u8]),
    Balanced,
    /// No continuation makes a value of it, or none that could be known to be whole.
    Broken,
}

impl Shape {
    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            *self = self.after(*byte);
        }
    }

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Before | Self::Balanced, b' ' | b'\t' | b'\r' | b'\n') => self,
            (Self::Before, b'{' | b'[') => Self::Nested(1),
            (Self::Before, b'"') => Self::Text(0),
            (Self::Before, b't') => Self::Word(b"rue"),
            (Self::Before, b'f') => Self::Word(b"alse"),
            (Self::Before, b'n') => Self::Word(b"ull"),
            (Self::Word([expected, rest @ ..]), _) if byte == *expected => match rest {
                [] => Self::Balanced,
                _ => Self::Word(rest),
            },
            (Self::Before | Self::Balanced | Self::Word(_) | Self::Broken, _) => Self::Broken,
            (Self::Nested(1), b'}' | b']') => Self::Balanced,
            (Self::Nested(depth), b'}' | b']') => Self::Nested(depth - 1),
            (Self::Nested(depth), b'{' | b'[') => Self::Nested(depth + 1),
            (Self::Nested(depth), b'"') => Self::Text(depth),
            (Self::Nested(_), _) => self,
            (Self::Text(depth), b'\\') => Self::Escape(depth),
            (Self::Text(0), b'"') => Self::Balanced,
            (Self::Text(depth), b'"') => Self::Nested(depth),
            (Self::Text(_), _) => self,
            (Self::Escape(depth), _) => Self::Text(depth),
        }
    }

    /// Whether `value`, all that was fed, is a whole JSON value. Parses it at most once: a failure is for ever.
    fn confirm(&mut self, value: &[u8]) -> bool {
        if *self != Self::Balanced {
            return false;
        }
        let whole = serde_json::from_slice::<IgnoredAny>(value).is_ok();
        if !whole {
            *self = Self::Broken;
        }
        whole
    }
}

/// The length of the empty line that `bytes` begin with, 0 if they do not.
fn empty_line(bytes: &[u8]) -> usize {
    match bytes {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => line,
    }
}

const FIRST_LINES: [&[u8]; 4] =
    [b"php process\n", b"php process\r\n", b"backend\n", b"backend\r\n"];
const IDENT: &[u8] = b"ident:";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ident;

    #[test]
    fn ways() {
        for (buf, expected) in [
            ("", None),
            ("p", None),
            ("php process", None),
            ("php process\r", None),
            ("back", None),
            ("backend", None),
            ("php process\n", Some(Way::Plain)),
            ("php process\r\nGET", Some(Way::Plain)),
            ("backend\n", Some(Way::Plain)),
            ("backend\r\n", Some(Way::Plain)),
            ("G", Some(Way::Http)),
            ("GET / HTTP/1.1\r\n", Some(Way::Http)),
            ("php processes\n", Some(Way::Http)),
            ("backend /x", Some(Way::Http)),
            ("Backend\n", Some(Way::Http)),
            ("\n", Some(Way::Http)),
            ("\u{16}\u{3}", Some(Way::Http)),
        ] {
            assert_eq!(way(buf.as_bytes()), expected, "{buf:?}");
        }
    }

    /// What an opening comes to: path, query, Ident, what is left over, and whether more may come.
    type Found<'a> = (&'a str, &'a str, Option<&'a str>, &'a str, Tail);

    fn check_opening(text: &str, expected: Result<Option<Found<'_>>, u16>) {
        let opened = Opening::new(64).read(text.as_bytes()).map_err(|refusal| refusal.status());
        let found = opened.as_ref().map_err(|status| *status).map(|opened| {
            opened
                .as_ref()
                .map(|o| (o.head.path(), o.head.query(), ident(&o.head), &text[o.used..], o.tail))
        });
        assert_eq!(found, expected, "{text:?}");
        check_opening_in_single_bytes(text, expected);
    }

    /// The same byte by byte: the same verdict, but that the opening may be over before a late line comes.
    fn check_opening_in_single_bytes(text: &str, expected: Result<Option<Found<'_>>, u16>) {
        let mut opening = Opening::new(64);
        let verdict =
            (1..=text.len()).find_map(|len| opening.read(&text.as_bytes()[..len]).transpose());
        match verdict {
            None => assert_eq!(expected, Ok(None), "{text:?}"),
            Some(Err(refusal)) => assert_eq!(expected, Err(refusal.status()), "{text:?}"),
            Some(Ok(opened)) => {
                if let Ok(Some((path, query, ..))) = expected {
                    assert_eq!(
                        (opened.head.path(), opened.head.query(), opened.tail),
                        (path, query, Tail::Awaited)
                    );
                }
            }
        }
    }

    #[test]
    fn openings() {
        let web = |ident, left, tail| Ok(Some(("/web", "", ident, left, tail)));
        let long = format!("backend\nGET /{} HTTP/1.1\n", "a".repeat(42));
        for (text, expected) in [
            ("php process\nGET /web HTTP/1.1\n", web(None, "", Tail::Awaited)),
            ("php process\r\nGET /web HTTP/1.1\r\n", web(None, "", Tail::Awaited)),
            ("backend\nGET /web HTTP/1.1\n", web(None, "", Tail::Awaited)),
            ("backend\nGET /web HTTP/1.1\n\n", web(None, "", Tail::Closed)),
            ("backend\r\nGET /web HTTP/1.1\r\n\r\n", web(None, "", Tail::Closed)),
            ("backend\r\nGET /web HTTP/1.1\r\n\r", web(None, "\r", Tail::Awaited)),
            ("backend\nGET /web HTTP/1.1\nIdent: me\n", web(Some("me"), "", Tail::Closed)),
            ("backend\nGET /web HTTP/1.1\nIDENT:me \n\n", web(Some("me"), "", Tail::Closed)),
            (
                "backend\r\nGET /web HTTP/1.1\r\nident:  a b\r\n\r\n{}",
                web(Some("a b"), "{}", Tail::Closed),
            ),
            ("backend\nGET /web HTTP/1.1\nIdent: me\n{}\n", web(Some("me"), "{}\n", Tail::Closed)),
            ("backend\nGET /web HTTP/1.1\nIdent:\n", web(None, "", Tail::Closed)),
            ("backend\nGET /web HTTP/1.1\nIdent: \u{e4}\n", web(Some("\u{e4}"), "", Tail::Closed)),
            ("backend\nGET /web HTTP/1.1\nI", Ok(None)),
            ("backend\nGET /web HTTP/1.1\nIdent:", Ok(None)),
            ("backend\nGET /web HTTP/1.1\nIdent: m", Ok(None)),
            ("backend\nGET /web HTTP/1.1\nIdea\n", web(None, "Idea\n", Tail::Closed)),
            ("backend\nGET /web HTTP/1.1\n{\"a\":1}", web(None, "{\"a\":1}", Tail::Closed)),
            ("backend\nGET /web HTTP/1.1\n\nIdent: me\n", web(None, "Ident: me\n", Tail::Closed)),
            ("backend\nGET /?a=1 HTTP/1.1\n", Ok(Some(("/", "a=1", None, "", Tail::Awaited)))),
            ("backend\nGET ws://h/x HTTP/1.1\n", Ok(Some(("/x", "", None, "", Tail::Awaited)))),
            ("", Ok(None)),
            ("php pro", Ok(None)),
            ("php process\n", Ok(None)),
            ("php process\nGET /web HTTP/1.1", Ok(None)),
            ("php process\nGET /web HTTP/1.1\r", Ok(None)),
            ("php proces\n", Err(400)),
            ("\n", Err(400)),
            ("php process\r\r\n", Err(400)),
            ("php process\n\n", Err(400)),
            ("php process\nPOST / HTTP/1.1\n", Err(400)),
            ("php process\nget / HTTP/1.1\n", Err(400)),
            ("php process\nGET /\n", Err(400)),
            ("php process\nGET  / HTTP/1.1\n", Err(400)),
            ("php process\nGET / HTTP/1.0\n", Err(400)),
            ("php process\nGET / HTTP/2.0\n", Err(505)),
            ("php process\nGET /../x HTTP/1.1\n", Err(400)),
            ("php process\nGET /\r HTTP/1.1\n", Err(400)),
            ("php process\nGET / HTTP/1.1\rX: y\n", Err(400)),
            (long.as_str(), Err(431)),
        ] {
            check_opening(text, expected);
        }
    }

    #[test]
    fn an_opening_has_limits_and_smuggles_nothing() {
        for (text, expected) in [
            (format!("backend\nGET / HTTP/1.1\nIdent: {}", "a".repeat(64)), 431),
            ("backend\nGET / HTTP/1.1\nIdent: a\rHost: b\n".to_owned(), 400),
            ("backend\nGET / HTTP/1.1\nIdent: a\0\n".to_owned(), 400),
            ("b".repeat(64), 431),
        ] {
            let found = Opening::new(64).read(text.as_bytes()).map_err(|refusal| refusal.status());
            assert_eq!(found.err(), Some(expected), "{text:?}");
        }
    }

    /// All messages of these reads, under a limit of 20 bytes, after an opening with this tail.
    fn messages(reads: &[&[u8]], tail: Tail) -> Result<Vec<Bytes>, LineError> {
        let mut lines = Lines::new(20, tail);
        let mut found = Vec::new();
        for read in reads {
            lines.push(read);
            while let Some(message) = lines.next_message()? {
                found.push(message);
            }
        }
        Ok(found)
    }

    fn check(reads: &[&str], expected: &[&str]) {
        let reads: Vec<&[u8]> = reads.iter().map(|read| read.as_bytes()).collect();
        let found = messages(&reads, Tail::Awaited).unwrap();
        let found: Vec<_> = found.iter().map(|message| str::from_utf8(message).unwrap()).collect();
        assert_eq!(found, expected, "{reads:?}");
    }

    #[test]
    fn line_mode() {
        for (reads, expected) in [
            (&["{\"a\":1}\n"][..], &["{\"a\":1}"][..]),
            (&["{\"a\":1}\n{\"b\":2}\r\n"], &["{\"a\":1}", "{\"b\":2}"]),
            (
                &["{\"a\":1}", "\n", "{\"b\":2}", "{\"c\":3}\n"],
                &["{\"a\":1}", "{\"b\":2}{\"c\":3}"],
            ),
            (&["{\"a\":1}", "\n[2]", "\n"], &["{\"a\":1}", "[2]"]),
            (&["{\"a\":1}\r", "\n[2]", "\n"], &["{\"a\":1}", "[2]"]),
            (&["{\"a\":1}", "\r", "\n[2]", "\n"], &["{\"a\":1}", "[2]"]),
            (&["{\"a\"", ":1}\n[2", "]", "\n"], &["{\"a\":1}", "[2]"]),
            (&["hello\n{}", "\n"], &["hello", "{}"]),
            (&["hello\nbufferON", "x\n"], &["hello", "bufferONx"]),
            (&["12", "3\n4\n"], &["123", "4"]),
            (&["\n\r\n", "\n", "{}\n\n\n[]\n"], &["{}", "[]"]),
            (&["{}\n  \n"], &["{}", "  "]),
            (
                &["bufferON\nab\r\n", "c", "d\nbufferOFF\nx\n"],
                &["bufferON", "ab", "cd", "bufferOFF", "x"],
            ),
            (&["bufferON", "\nab", "cd\nbufferOFF\n"], &["bufferON", "abcd", "bufferOFF"]),
            (&["bufferON\r", "\nab", "cd\n"], &["bufferON", "abcd"]),
            (&["{}\na\rb\r\r\n"], &["{}", "a\rb\r"]),
            (&["{}\nx"], &["{}"]),
            (&["{}\nIdent: me\n"], &["{}", "Ident: me"]),
        ] {
            check(reads, expected);
        }
    }

    #[test]
    fn legacy_mode() {
        for (reads, expected) in [
            (&["{\"a\":1}"][..], &["{\"a\":1}"][..]),
            (&["{\"a\":1}", "{\"b\":2}"], &["{\"a\":1}", "{\"b\":2}"]),
            (&["{\"a\"", ":1}", "[", "2]"], &["{\"a\":1}", "[2]"]),
            (&["{\"a\":\"}", "\\", "\"}\"}", "[]"], &["{\"a\":\"}\\\"}\"}", "[]"]),
            (
                &["\"a\"", "true", "null", "false", " [] "],
                &["\"a\"", "true", "null", "false", " [] "],
            ),
            (&["tr", "ue", "nul", "l "], &["true", "null "]),
            (&["{}", "12", "3\n", "4\n{}"], &["{}", "123", "4", "{}"]),
            (&["{}", "nope", "{}", "\n", "{}"], &["{}", "nope{}", "{}"]),
            (&["{}", "{]", "{}", "\n{}"], &["{}", "{]{}", "{}"]),
            (&["{}", "{}{}", "\n"], &["{}", "{}{}"]),
            (&["{}", "  \n\r\n", "[]"], &["{}", "[]"]),
            (&["{}", "[]\n", "[1]"], &["{}", "[]", "[1]"]),
            (&["{}", "\r[]"], &["{}", "\r[]"]),
            (
                &["bufferON", "{\"a\":", "1}\n", "bufferOFF", "{}"],
                &["bufferON", "{\"a\":", "1}\n", "bufferOFF", "{}"],
            ),
            (
                &["bufferON", "  ", "\n", "bufferOFF\n", "[]"],
                &["bufferON", "  ", "\n", "bufferOFF", "[]"],
            ),
            (&["bufferON", "a", "bufferON\r\n", "b"], &["bufferON", "a", "bufferON", "b"]),
            (
                &["{}", "bufferON", "\na", "bufferOFF", "[]"],
                &["{}", "bufferON", "\na", "bufferOFF", "[]"],
            ),
            (&["{}", "bufferON\nab\ncd", "bufferOFF"], &["{}", "bufferON", "ab\ncd", "bufferOFF"]),
            (&["{}", "bufferO", "FF", "1\n"], &["{}", "bufferOFF", "1"]),
            (&["bufferOFF", "{}"], &["bufferOFF", "{}"]),
        ] {
            check(reads, expected);
        }
    }

    #[test]
    fn late_opening_lines_reach_nobody() {
        for (reads, expected) in [
            (&["Ident: me\n", "{}"][..], &["{}"][..]),
            (&["Id", "ent: me\r\n\r\n", "{}\n"], &["{}"]),
            (&["\n", "ident:\n{}"], &["{}"]),
            (&["\r", "\n", "{}"], &["{}"]),
            (&["Ident: me\nIdent: you\n"], &["Ident: you"]),
            (&["{}", "Ident: me\n"], &["{}", "Ident: me"]),
        ] {
            check(reads, expected);
        }
        assert_eq!(
            messages(&[b"Ident: me\n"], Tail::Closed).unwrap(),
            [Bytes::from_static(b"Ident: me")]
        );
    }

    #[test]
    fn chunks_may_split_a_character() {
        let reads: &[&[u8]] = &[b"bufferON", b"\xc3", b"\xa4", b"bufferOFF"];
        assert_eq!(messages(reads, Tail::Closed).unwrap(), reads);
    }

    #[test]
    fn messages_have_a_limit() {
        let twenty = "01234567890123456789";
        for (reads, good) in [
            (&[twenty, "\n"][..], true),
            (&[twenty, "\r", "\n"], true),
            (&["{}\n", twenty, "\r\n"], true),
            (&["{}", "bufferON", twenty], true),
            (&[twenty, "x"], false),
            (&[twenty, "\rx"], false),
            (&["0123456789", "0123456789x\n"], false),
            (&["{}\n", twenty, "x\n"], false),
            (&["{}\n", twenty, "x"], false),
            (&["[\"", twenty, "\"]"], false),
            (&["{}", "bufferON", "01234567890123456789x"], false),
        ] {
            let reads: Vec<&[u8]> = reads.iter().map(|read| read.as_bytes()).collect();
            let found = messages(&reads, Tail::Closed);
            assert_eq!(found.is_ok(), good, "{reads:?} {found:?}");
        }
    }

    /// Knuth's MMIX generator; its high bits.
    fn random(state: &mut u64) -> usize {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*state >> 33).unwrap()
    }

    #[test]
    fn no_split_changes_the_messages_of_line_mode() {
        let first = [
            "{\"a\":[1,\"}\\\"\"]}",
            "[]",
            "\"x\"",
            "bufferON",
            "hello",
            "12",
            "true",
            "-",
            "{]",
            "nothing",
        ];
        let later = [
            "{}",
            "{\"b\":2}",
            "bufferON",
            "bufferOFF",
            "x",
            "1",
            "",
            " ",
            "\u{e4}\u{1f600}",
            "a\rb",
            "{}{}",
            "[",
        ];
        let state = &mut 1;
        for _ in 0..5_000 {
            let mut sent = Vec::new();
            let mut expected = Vec::new();
            for n in 0..1 + random(state) % 6 {
                let line =
                    if n == 0 { first[random(state) % 10] } else { later[random(state) % 12] };
                sent.extend_from_slice(line.as_bytes());
                sent.extend_from_slice(if random(state).is_multiple_of(2) {
                    b"\n"
                } else {
                    b"\r\n"
                });
                if !line.is_empty() {
                    expected.push(Bytes::from(line));
                }
            }
            let mut reads = Vec::new();
            let mut rest = sent.as_slice();
            while !rest.is_empty() {
                let (read, after) = rest.split_at(rest.len().min(1 + random(state) % 9));
                reads.push(read);
                rest = after;
            }
            assert_eq!(messages(&reads, Tail::Awaited).unwrap(), expected, "{reads:?}");
        }
    }

    /// Random bytes of the kind that matter, in random reads, with and without taking what is there: no panic, nothing made up.
    #[test]
    fn noise_is_survived() {
        let state = &mut 7;
        let alphabet = b"{}[]\"\\\n\r t1bufferONF\xc3";
        for _ in 0..3_000 {
            let mut lines = Lines::new(30, Tail::Awaited);
            let (mut pushed, mut taken) = (0, 0);
            'connection: for _ in 0..random(state) % 30 {
                let read: Vec<u8> = (0..random(state) % 8)
                    .map(|_| alphabet[random(state) % alphabet.len()])
                    .collect();
                pushed += read.len();
                lines.push(&read);
                while !random(state).is_multiple_of(4) {
                    match lines.next_message() {
                        Ok(Some(message)) => taken += message.len(),
                        Ok(None) => break,
                        Err(_) => break 'connection,
                    }
                }
            }
            assert!(taken <= pushed);
        }
    }

    /// A value that looks balanced at every byte, and one long value byte by byte: quadratic work would take minutes.
    #[test]
    fn single_bytes_cost_linear_time() {
        let size = 2_000_000;
        let spaces = [&b"{]"[..], &vec![b' '; size]].concat();
        let nested = [vec![b'['; size / 2], vec![b']'; size / 2]].concat();
        for (sent, expected) in
            [(spaces, 0), (nested, 1), (vec![b'{'; size], 0), (vec![b'x'; size], 0)]
        {
            let mut lines = Lines::new(usize::MAX, Tail::Closed);
            let mut found = 0;
            for byte in &sent {
                lines.push(&[*byte]);
                found += usize::from(lines.next_message().unwrap().is_some());
            }
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_idle_connection_owns_no_buffer() {
        let mut lines = Lines::new(100, Tail::Closed);
        lines.push(b"{}\n{}\n");
        while lines.next_message().unwrap().is_some() {}
        assert_eq!(lines.buffer.capacity(), 0);
    }
}
