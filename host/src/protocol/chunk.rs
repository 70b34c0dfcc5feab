//! Chunks: the messages between `bufferON` and `bufferOFF` are joined to one message.
//!
//! Owns the chunks of one connection while its buffer is open, and their limits. Knows no sockets:
//! the caller answers each step. Costs one pointer while no buffer is open; an open buffer costs
//! what was received, and at most twice that while it grows.
//!
//! Outside a buffer, binary messages pass unchanged. Inside they are chunks like text (a sender may
//! split a text within a character), but never commands; the joined message is text.

use bytes::Bytes;
use thiserror::Error;

use super::dialog::{is_buffer_off, is_buffer_on};
use crate::error::counted;

/// What is known about a message's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Valid UTF-8 (a WebSocket text message).
    Text,
    /// Text that is not checked yet (a message on plain TCP).
    Unchecked,
    /// Binary.
    Binary,
}

/// What the caller does with a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Deliver this to the application: as binary if the message was [`Form::Binary`], otherwise as
    /// text, which is valid UTF-8.
    Deliver(Bytes),
    /// Answer with `next`; the application receives nothing.
    Acknowledge,
    /// Close with 1009. The chunks are discarded.
    LimitExceeded(LimitExceeded),
    /// Close with 1007: the text is not UTF-8. The chunks are discarded.
    Invalid,
}

/// The limit that a message in pieces exceeds. `Display` is the text of the `close` packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LimitExceeded {
    /// The number of chunks (`max_chunks`).
    #[error("more than {} in one message (max_chunks)", counted(.max.to_owned(), "chunk"))]
    Chunks {
        /// The limit.
        max: usize,
    },
    /// The number of bytes (`max_message`).
    #[error("more than {} in one message (max_message)", counted(.max_bytes.to_owned(), "byte"))]
    Bytes {
        /// The limit.
        max_bytes: usize,
    },
    /// The number of WebSocket fragments (`max_frames`).
    #[error("more than {} in one message (max_frames)", counted(.max.to_owned(), "frame"))]
    Frames {
        /// The limit.
        max: usize,
    },
}

/// Joins the chunks of one connection.
#[derive(Debug)]
pub struct Joiner {
    max_message: usize,
    max_chunks: usize,
    open: Option<Box<Chunks>>,
}

/// An open buffer. Chunks are copied and joined at once: a slice would keep its read buffer alive,
/// and joining many pieces later would need the memory twice.
#[derive(Debug, Default)]
struct Chunks {
    message: Vec<u8>,
    count: usize,
}

impl Joiner {
    /// Creates a joiner without an open buffer. `max_message` limits the bytes of all chunks of one
    /// message; `usize::MAX` means no limit.
    pub fn new(max_message: usize, max_chunks: usize) -> Self {
        Self { max_message, max_chunks, open: None }
    }

    /// Processes the next message of the connection.
    pub fn take(&mut self, message: Bytes, form: Form) -> Step {
        if form != Form::Binary {
            if is_buffer_on(&message) {
                self.open = Some(Box::default());
                return Step::Acknowledge;
            }
            if is_buffer_off(&message)
                && let Some(chunks) = self.open.take()
            {
                return as_text(chunks.message.into());
            }
        }
        let Some(chunks) = &mut self.open else {
            return if form == Form::Unchecked { as_text(message) } else { Step::Deliver(message) };
        };
        let exceeded = if chunks.count >= self.max_chunks {
            LimitExceeded::Chunks { max: self.max_chunks }
        } else if message.len() > self.max_message.saturating_sub(chunks.message.len()) {
            LimitExceeded::Bytes { max_bytes: self.max_message }
        } else {
            chunks.count += 1;
            chunks.message.extend_from_slice(&message);
            return Step::Acknowledge;
        };
        self.open = None;
        Step::LimitExceeded(exceeded)
    }

    /// Returns the memory held for an open buffer.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |chunks| chunks.message.capacity())
    }

    /// Discards an open buffer.
    pub(crate) fn discard(&mut self) {
        self.open = None;
    }

    /// Returns whether a buffer is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

fn as_text(message: Bytes) -> Step {
    if str::from_utf8(&message).is_ok() { Step::Deliver(message) } else { Step::Invalid }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the steps for `messages` (`=` text, `?` unchecked, `#` binary) under limits of 10
    /// bytes and 3 chunks: `.` acknowledge, `!` too many chunks, `>` too many bytes, `x` invalid,
    /// anything else is delivered.
    fn check(messages: &[&[u8]], expected: &[&str]) {
        let mut joiner = Joiner::new(10, 3);
        let steps: Vec<String> = messages
            .iter()
            .map(|message| {
                let form = match message[0] {
                    b'=' => Form::Text,
                    b'?' => Form::Unchecked,
                    _ => Form::Binary,
                };
                match joiner.take(Bytes::copy_from_slice(&message[1..]), form) {
                    Step::Deliver(bytes) => bytes.escape_ascii().to_string(),
                    Step::Acknowledge => ".".to_owned(),
                    Step::LimitExceeded(LimitExceeded::Chunks { .. }) => "!".to_owned(),
                    Step::LimitExceeded(_) => ">".to_owned(),
                    Step::Invalid => "x".to_owned(),
                }
            })
            .collect();
        assert_eq!(steps, expected, "{messages:?}");
    }

    #[test]
    fn messages_between_the_commands_are_joined() {
        let on: &[u8] = b"=bufferON";
        let off: &[u8] = b"=bufferOFF";
        for (messages, expected) in [
            (
                &[&b"=hello"[..], b"=hello again, longer than the limit"][..],
                &["hello", "hello again, longer than the limit"][..],
            ),
            (&[on, b"=he", b"=llo", off, b"=next"], &[".", ".", ".", "hello", "next"]),
            (&[on, off], &[".", ""]),
            (&[off], &["bufferOFF"]),
            (&[on, b"=a", off, off], &[".", ".", "a", "bufferOFF"]),
            (&[on, b"=a", on, b"=b", off], &[".", ".", ".", ".", "b"]),
            (&[b"= bufferON"], &[" bufferON"]),
            (&[b"=bufferON\n"], &["bufferON\\n"]),
            (&[b"=bufferon"], &["bufferon"]),
            (&[on, b"=bufferOFF ", off], &[".", ".", "bufferOFF "]),
            (&[on, b"=a", b"=b", b"=c", off], &[".", ".", ".", ".", "abc"]),
            (
                &[on, b"=a", b"=b", b"=c", b"=d", b"=e", off],
                &[".", ".", ".", ".", "!", "e", "bufferOFF"],
            ),
            (&[on, b"=", b"=", b"=", b"="], &[".", ".", ".", ".", "!"]),
            (&[on, b"=0123456789", off], &[".", ".", "0123456789"]),
            (&[on, b"=0123456789", b"=", off], &[".", ".", ".", "0123456789"]),
            (&[on, b"=0123456789", b"=x", off], &[".", ".", ">", "bufferOFF"]),
            (&[on, b"=0123456789x"], &[".", ">"]),
            (&[b"?\xc3\xa4"], &["\\xc3\\xa4"]),
            (&[b"?\xc3", b"?a"], &["x", "a"]),
            (&[b"?bufferON", b"?\xc3", b"?\xa4", b"?bufferOFF"], &[".", ".", ".", "\\xc3\\xa4"]),
            (&[b"?bufferON", b"?\xc3", b"?bufferOFF", b"?a"], &[".", ".", "x", "a"]),
            (&[b"#\xc3"], &["\\xc3"]),
            (&[b"#bufferON", b"#bufferOFF"], &["bufferON", "bufferOFF"]),
            (&[on, b"#\xc3", b"#\xa4", b"=b", off], &[".", ".", ".", ".", "\\xc3\\xa4b"]),
            (&[on, b"#\xc3", off], &[".", ".", "x"]),
            (&[on, b"#bufferOFF", off], &[".", ".", "bufferOFF"]),
        ] {
            check(messages, expected);
        }
    }

    #[test]
    fn an_idle_joiner_owns_nothing() {
        assert!(size_of::<Joiner>() <= 24);
        let mut joiner = Joiner::new(10, 3);
        let _step = joiner.take(Bytes::from_static(b"bufferON"), Form::Text);
        assert!(joiner.is_open());
        let _step = joiner.take(Bytes::from_static(b"bufferOFF"), Form::Text);
        assert!(joiner.open.is_none());
    }

    #[test]
    fn limits_of_the_whole_range_do_not_overflow() {
        let mut joiner = Joiner::new(usize::MAX, usize::MAX);
        let _step = joiner.take(Bytes::from_static(b"bufferON"), Form::Text);
        assert_eq!(joiner.take(Bytes::from_static(b"a"), Form::Text), Step::Acknowledge);
        assert_eq!(
            joiner.take(Bytes::from_static(b"bufferOFF"), Form::Text),
            Step::Deliver(Bytes::from_static(b"a"))
        );
    }

    #[test]
    fn each_reason_names_its_limit() {
        for (limit, expected) in [
            (LimitExceeded::Chunks { max: 3 }, "more than 3 chunks in one message (max_chunks)"),
            (
                LimitExceeded::Bytes { max_bytes: 10 },
                "more than 10 bytes in one message (max_message)",
            ),
            (LimitExceeded::Frames { max: 3 }, "more than 3 frames in one message (max_frames)"),
        ] {
            assert_eq!(limit.to_string(), expected);
        }
    }
}
