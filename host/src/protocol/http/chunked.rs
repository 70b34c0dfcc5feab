//! Decodes a request body in the chunked transfer coding (RFC 9112 section 7.1).
//!
//! As strict as the reader of heads: a line end is CRLF, and no byte is skipped, because a body that
//! two parsers end at different places permits request smuggling. Chunk extensions and trailer
//! fields are checked and discarded.

use super::head::is_token;
use super::refusal::{Refusal, bad_request};

/// Decodes a chunked body, however the reads are split.
#[derive(Debug)]
pub struct ChunkedBody {
    body: Vec<u8>,
    max_body: usize,
    /// The incomplete line: a chunk size with its extensions, or a trailer field.
    line: Vec<u8>,
    /// Bytes of extensions and trailer fields that may still follow.
    extra_left: usize,
    expected: Expected,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Size,
    /// So many bytes of a chunk.
    Data(usize),
    /// The line end behind a chunk.
    DataEnd,
    Trailer,
}

impl ChunkedBody {
    /// Creates a decoder for a body of at most `max_body` bytes, with at most `max_extra` bytes of
    /// extensions and trailer fields.
    pub fn new(max_body: usize, max_extra: usize) -> Self {
        let (body, line) = (Vec::new(), Vec::new());
        Self { body, max_body, line, extra_left: max_extra, expected: Expected::Size }
    }

    /// Decodes one read; returns how many of its bytes belong to the body once that is complete,
    /// `None` if all do and more must follow. Must not be called after it returned a number or an
    /// error.
    ///
    /// # Errors
    ///
    /// 400 for a malformed body, 413 past `max_body`, 431 past `max_extra`.
    pub fn read(&mut self, read: &[u8]) -> Result<Option<usize>, Refusal> {
        let mut rest = read;
        while !rest.is_empty() {
            if let Expected::Data(left) = self.expected {
                let (data, behind) = rest.split_at(left.min(rest.len()));
                self.body.extend_from_slice(data);
                rest = behind;
                self.expected = match left - data.len() {
                    0 => Expected::DataEnd,
                    left => Expected::Data(left),
                };
            } else if self.reads_line(&mut rest)? {
                let line = std::mem::take(&mut self.line);
                if self.expected == Expected::Trailer && line.is_empty() {
                    return Ok(Some(read.len() - rest.len()));
                }
                self.line_ended(&line)?;
            }
        }
        Ok(None)
    }

    /// Returns the memory held for the body.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.body.capacity()
    }

    /// Returns the decoded body.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// Takes bytes of the current line; returns whether it is complete, without its line end.
    fn reads_line(&mut self, rest: &mut &[u8]) -> Result<bool, Refusal> {
        while let Some((&byte, behind)) = rest.split_first() {
            *rest = behind;
            match (self.line.last(), byte) {
                (Some(b'\r'), b'\n') => {
                    self.line.pop();
                    return Ok(true);
                }
                (Some(b'\r'), _) | (_, b'\n') => {
                    return bad_request("a line of the chunked body does not end with CR LF");
                }
                (None, _) if self.expected == Expected::Size && !byte.is_ascii_hexdigit() => {
                    return bad_request("a chunk does not begin with its size in hexadecimal");
                }
                (_, b'\r') => {}
                _ if self.expected == Expected::DataEnd => {
                    return bad_request("a chunk is longer than its size");
                }
                _ if byte.is_ascii_control() && byte != b'\t' => {
                    return bad_request("a control character in a chunk size or trailer field");
                }
                _ => {}
            }
            self.line.push(byte);
            // One more for the carriage return.
            if self.line.len() > self.extra_left + SIZE_DIGITS + 1 {
                return Err(Refusal::extra_too_large());
            }
        }
        Ok(false)
    }

    fn line_ended(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.expected = match self.expected {
            Expected::Size => {
                self.extra_left -= line.len().saturating_sub(SIZE_DIGITS);
                match chunk_size(line)? {
                    0 => Expected::Trailer,
                    size if size <= self.max_body - self.body.len() => Expected::Data(size),
                    _ => return Err(Refusal::body_too_large(self.max_body)),
                }
            }
            Expected::Trailer => {
                self.extra_left = self.extra_left.saturating_sub(line.len());
                let name_len = memchr::memchr(b':', line).unwrap_or_default();
                if !is_token(&line[..name_len]) {
                    return bad_request("a trailer field is malformed");
                }
                Expected::Trailer
            }
            Expected::DataEnd | Expected::Data(_) => Expected::Size,
        };
        Ok(())
    }
}

/// Parses `size [; extensions]`; saturates.
fn chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    // RFC 9112 section 7.1.1: whitespace may precede a semicolon, and nothing else.
    if !extensions.is_empty() && !extensions.trim_ascii_start().starts_with(b";") {
        return bad_request("a chunk size is not a hexadecimal number");
    }
    Ok(digits.iter().fold(0, |size: usize, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        size.saturating_mul(16).saturating_add(digit as usize)
    }))
}

/// Digits of a chunk size that do not count as extra bytes.
const SIZE_DIGITS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BODY: usize = 20;
    const MAX_EXTRA: usize = 100;

    /// Body and rest, `None` while incomplete, or the status of the refusal.
    type Decoded<'a> = Result<Option<(Vec<u8>, &'a [u8])>, u16>;

    /// Decodes `sent` in reads of `step` bytes.
    fn decode(sent: &[u8], step: usize) -> Decoded<'_> {
        let mut decoder = ChunkedBody::new(MAX_BODY, MAX_EXTRA);
        let mut at = 0;
        for read in sent.chunks(step) {
            if let Some(used) = decoder.read(read).map_err(|refusal| refusal.status())? {
                return Ok(Some((decoder.into_body(), &sent[at + used..])));
            }
            at += read.len();
        }
        Ok(None)
    }

    #[test]
    fn a_chunked_body_is_decoded_however_it_is_split() {
        let long = format!("5;x={}\r\nhello\r\n0\r\n\r\n", "y".repeat(MAX_EXTRA - 10));
        let too_long = format!("5;x={}\r\nhello\r\n0\r\n\r\n", "y".repeat(MAX_EXTRA + 20));
        let trailers = format!("0\r\n{}\r\n", "X: yyyyyyyyyyyyyyyyy\r\n".repeat(20));
        for (sent, expected) in [
            ("0\r\n\r\n", Ok(Some(("", "")))),
            ("5\r\nhello\r\n0\r\n\r\n", Ok(Some(("hello", "")))),
            ("1\r\nh\r\n00004\r\nello\r\n000\r\n\r\nGET", Ok(Some(("hello", "GET")))),
            (
                "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
                Ok(Some(("01234567890123456789", ""))),
            ),
            ("5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", Ok(Some(("hello", "")))),
            ("5 \t;a\r\nhello\r\n0\r\n\r\n", Ok(Some(("hello", "")))),
            ("0\r\nX: y\r\nContent-Length:5\r\n\r\n\r\n", Ok(Some(("", "\r\n")))),
            ("2\r\n\r\n\r\n0\r\n\r\n", Ok(Some(("\r\n", "")))),
            (&long, Ok(Some(("hello", "")))),
            ("", Ok(None)),
            ("5\r\nhello\r\n0\r\n\r", Ok(None)),
            ("5\r\nhell", Ok(None)),
            ("\r\n", Err(400)),
            ("5\r\nhello\r\n\r\n", Err(400)),
            ("hello", Err(400)),
            (";a\r\n", Err(400)),
            (" 5\r\nhello\r\n", Err(400)),
            ("-5\r\nhello\r\n", Err(400)),
            ("+5\r\nhello\r\n", Err(400)),
            ("0x5\r\nhello\r\n", Err(400)),
            ("5 \r\nhello\r\n", Err(400)),
            ("5 6\r\nhello\r\n", Err(400)),
            ("1_0\r\nhello\r\n", Err(400)),
            ("5\nhello\r\n", Err(400)),
            ("5\rhello\r\n", Err(400)),
            ("5\r\r\nhello\r\n", Err(400)),
            ("5;a\nb\r\nhello\r\n", Err(400)),
            ("5;a\0\r\nhello\r\n", Err(400)),
            ("5\r\nhello!\r\n", Err(400)),
            ("5\r\nhello\n0\r\n\r\n", Err(400)),
            ("5\r\nhello0\r\n\r\n", Err(400)),
            ("5\r\nhell\r\n0\r\n\r\n", Err(400)),
            ("0\r\nno colon\r\n\r\n", Err(400)),
            ("0\r\n: y\r\n\r\n", Err(400)),
            ("0\r\nX : y\r\n\r\n", Err(400)),
            ("0\r\nX: y\r\n folded: z\r\n\r\n", Err(400)),
            ("0\r\nX: y\nZ: a\r\n\r\n", Err(400)),
            ("0\r\n\n", Err(400)),
            ("15\r\n", Err(413)),
            ("14\r\n01234567890123456789\r\n1\r\n", Err(413)),
            ("FFFFFFFFFFFFFFFF\r\n", Err(413)),
            ("10000000000000000000000005\r\n", Err(413)),
            (&too_long, Err(431)),
            (&trailers, Err(431)),
        ] {
            for step in [1, 2, 3, 7, sent.len().max(1)] {
                let expected = expected.map(|found: Option<(&str, &str)>| {
                    found.map(|(body, rest)| (body.as_bytes().to_vec(), rest.as_bytes()))
                });
                assert_eq!(decode(sent.as_bytes(), step), expected, "{sent:?} by {step}");
            }
        }
    }

    #[test]
    fn extensions_are_limited_over_all_chunks() {
        let many = "1;abcdefghijklmnopqrs\r\nx\r\n".repeat(MAX_BODY);
        assert_eq!(decode(many.as_bytes(), 64), Ok(None));
        let more = "1;abcdefghijklmnopqrstuvwxyz\r\nx\r\n".repeat(MAX_BODY);
        assert_eq!(decode(more.as_bytes(), 64), Err(431));
    }
}
