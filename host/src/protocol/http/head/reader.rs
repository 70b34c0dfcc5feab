//! Finds the end of a request head in a growing buffer.

use super::{Head, MAX_HEADERS};
use crate::fs::read::BYTE_ORDER_MARK;
use crate::protocol::http::{Refusal, bad_request};

/// Finds and checks a head in a growing buffer. Examines each byte once, however the reads are
/// split.
///
/// A fault that no later byte can correct (a bare line feed, a control character, too many lines)
/// is reported at once.
#[derive(Debug, Clone)]
pub struct HeadReader {
    max_head: usize,
    /// How many bytes of the buffer were examined.
    scanned: usize,
    /// Where the current line begins.
    line_at: usize,
    /// The number of complete lines.
    lines: usize,
    /// Where the request line begins: 0, or 2 after a leading empty line.
    head_at: usize,
}

impl HeadReader {
    /// Creates a reader; `max_head` is the most bytes of a head, its empty line included.
    pub fn new(max_head: usize) -> Self {
        let max_head = max_head.min(u32::MAX as usize);
        Self { max_head, scanned: 0, line_at: 0, lines: 0, head_at: 0 }
    }

    /// Continues to read; `buf` is everything received so far. Must not be called after it returned
    /// a head or an error.
    ///
    /// # Errors
    ///
    /// The same as those of [`Head::parse`].
    pub fn read(&mut self, buf: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
        if buf.starts_with(BYTE_ORDER_MARK) {
            return bad_request(
                "the request starts with a byte order mark (U+FEFF); send it without the mark",
            );
        }
        let Some(end) = self.find_end(buf)? else { return Ok(None) };
        let head = Head::checked(buf.get(self.head_at..end).unwrap_or_default())?;
        head.check_host()?;
        head.check_body()?;
        Ok(Some((head, end)))
    }

    fn find_end(&mut self, buf: &[u8]) -> Result<Option<usize>, Refusal> {
        let window = &buf[..buf.len().min(self.max_head)];
        while let Some(&byte) = window.get(self.scanned) {
            let after_return = self.scanned > self.line_at && window[self.scanned - 1] == b'\r';
            self.scanned += 1;
            if byte == b'\n' && after_return {
                if self.line_ended()? {
                    return Ok(Some(self.scanned));
                }
                continue;
            }
            match byte {
                // RFC 9112 section 2.2 permits a recipient to accept a lone LF as a line end; that
                // some do and some do not permits request smuggling.
                b'\n' => return bad_request("a line ends without a carriage return"),
                _ if after_return => return bad_request("a carriage return without a line feed"),
                b'\r' | b'\t' => {}
                _ if byte.is_ascii_control() => {
                    return bad_request("the head holds a control character");
                }
                _ => {}
            }
        }
        let is_full = buf.len() >= self.max_head;
        if is_full { Err(Refusal::head_too_large(self.max_head)) } else { Ok(None) }
    }

    /// Counts the line that ends at `scanned`. Returns true for the empty line that ends the head.
    fn line_ended(&mut self) -> Result<bool, Refusal> {
        let empty = self.scanned - self.line_at == 2;
        // RFC 9112 section 2.2: "SHOULD ignore at least one empty line (CRLF) received prior to the
        // request-line".
        if empty && self.line_at == 0 {
            self.head_at = self.scanned;
        } else if empty && self.lines == 0 {
            return bad_request("there is no request line");
        } else if empty {
            return Ok(true);
        } else if self.lines > MAX_HEADERS {
            return Err(Refusal::too_many_headers(MAX_HEADERS));
        } else {
            self.lines += 1;
        }
        self.line_at = self.scanned;
        Ok(false)
    }
}
