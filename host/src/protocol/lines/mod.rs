//! Plain TCP: the opening lines, then messages without frames.
//!
//! Owns the question where a message ends on a connection that has no frames. Two kinds of peers must be understood: those
//! that end each message with a line feed and need not wait, and old ones that write a message without any end, in one write,
//! and wait for the answer. Knows no sockets and no application; what is inside a message is somebody else's.
//!
//! **The opening** ([`Opening`]) is over as soon as its `GET` line is whole, for the old peer sends nothing more before it sees
//! `ready`. An `Ident:` line counts if it follows in the same buffer; if only the beginning of one is there, the rest is
//! awaited (no message of an old peer begins so). The caller may listen for a moment more, for peers that write line by line, and
//! begin again with all that came. Later it is too late, `ready` is out: [`Lines`] then drops it, and an empty line as well, so
//! that neither reaches the application. Behind an empty line the opening is over, and an `Ident:` line is a message like any other.
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

mod json_scan;
mod opening;

use std::mem;

use bytes::Bytes;
use thiserror::Error;

use self::json_scan::Shape;
pub use self::opening::{Opened, Opening, Tail, Transport, detect_transport};
use super::dialog::{is_buffer_off, is_buffer_on};

/// Why no further message can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LineError {
    /// A message is longer than configured (`max_message`).
    #[error("a message is longer than {max_bytes} bytes (max_message)")]
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
            self.consume(end);
            // Any line ends the opening, an empty one too: an `Ident:` behind it is a message, as it is where both come together.
            self.tail = Tail::Closed;
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

    /// Whether bytes are kept that are no whole message yet.
    pub fn is_mid_message(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Bytes of memory for what came and is no message yet.
    #[cfg(any(test, feature = "internals"))]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.capacity()
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

fn without_line_end(line: &[u8]) -> &[u8] {
    match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => line,
    }
}

const IDENT: &[u8] = b"ident:";

#[cfg(test)]
mod tests {
    use super::*;

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
            (&["\n", "ident:\n{}\n"], &["ident:", "{}"]),
            (&["  \r\n", "Ident: me\n"], &["Ident: me"]),
            (&["Ident: me\r\n", "\r\n", "Ident: you\n"], &["Ident: you"]),
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
