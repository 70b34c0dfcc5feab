//! The opening lines of plain TCP, and how to distinguish them from an HTTP request.
//!
//! Yields an equivalent request head, so that the rest of the host treats both transports alike.

use super::{AUTHORIZATION, IDENT, begins_with, without_line_end};
use crate::protocol::http::{Head, Refusal, bad_request};

/// What the first bytes of a connection begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// An HTTP request, or anything unknown: [`Head`] checks it.
    Http,
    /// The opening lines of plain TCP.
    Lines,
}

/// Returns the transport of a connection; `None` while its first bytes fit both.
pub fn detect_transport(buf: &[u8]) -> Option<Transport> {
    match FIRST_LINES {
        lines if lines.iter().any(|line| buf.starts_with(line)) => Some(Transport::Lines),
        lines if lines.iter().any(|line| line.starts_with(buf)) => None,
        _ => Some(Transport::Http),
    }
}

/// Whether a late line of the opening may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// The opening ended with an empty line, an Ident or the first message.
    Closed,
    /// Nothing followed yet: an `Ident:` line that comes next is late and is dropped.
    Awaited,
}

/// A complete opening.
#[derive(Debug)]
pub struct Opened {
    /// Path, query and, if sent, the headers `Authorization` and `Ident`; no other header.
    pub head: Head,
    /// The length of the opening; the rest of the buffer is the first read for
    /// [`Lines`](super::Lines).
    pub used: usize,
    /// For [`Lines::new`](super::Lines::new).
    pub tail: Tail,
}

/// Parses the opening in a growing buffer. Examines each byte once, however the reads are split.
#[derive(Debug)]
pub struct Opening {
    max_head: usize,
    scanned: usize,
    stage: Stage,
}

/// The line that is read next, and where it begins.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Marker,
    Request {
        at: usize,
    },
    /// `Authorization` lines have been read from `token_at` to `at`.
    Rest {
        request_at: usize,
        token_at: usize,
        at: usize,
    },
}

impl Opening {
    /// Creates a reader; `max_head` is the most bytes of an opening.
    pub fn new(max_head: usize) -> Self {
        Self { max_head: max_head.min(u32::MAX as usize), scanned: 0, stage: Stage::Marker }
    }

    /// Continues to read; `buf` is everything received so far. `None` while the opening is
    /// incomplete.
    ///
    /// # Errors
    ///
    /// 400 for a malformed line, 431 past `max_head`, 505 for another version of HTTP.
    pub fn read(&mut self, buf: &[u8]) -> Result<Option<Opened>, Refusal> {
        loop {
            match self.stage {
                Stage::Marker => {
                    let Some(end) = self.line_end(buf)? else { return Ok(None) };
                    if !FIRST_LINES.contains(&&buf[..end]) {
                        return bad_request("the first line is not `backend`");
                    }
                    self.stage = Stage::Request { at: end };
                }
                Stage::Request { at } => {
                    let Some(end) = self.line_end(buf)? else { return Ok(None) };
                    if !buf[at..].starts_with(b"GET ") {
                        return bad_request("the second line is not `GET /resource HTTP/1.1`");
                    }
                    // Checked now, so that its faults are reported before those of later lines.
                    Head::of_opening(without_line_end(&buf[at..end]), [].into_iter())?;
                    self.stage = Stage::Rest { request_at: at, token_at: end, at: end };
                }
                Stage::Rest { request_at, token_at, at } => {
                    if buf[at..].is_empty() || !begins_with(&buf[at..], AUTHORIZATION) {
                        return self.finish(buf, request_at, token_at, at);
                    }
                    let Some(end) = self.line_end(buf)? else { return Ok(None) };
                    self.stage = Stage::Rest { request_at, token_at, at: end };
                }
            }
        }
    }

    /// Parses what begins at `at`; `Authorization` lines are between `token_at` and `at`.
    fn finish(
        &mut self,
        buf: &[u8],
        request_at: usize,
        token_at: usize,
        at: usize,
    ) -> Result<Option<Opened>, Refusal> {
        let rest = &buf[at..];
        let (ident, used, tail): (&[u8], _, _) = if rest.is_empty() || rest == b"\r" {
            (b"", at, Tail::Awaited)
        } else if !begins_with(rest, IDENT) {
            (b"", at + empty_line(rest), Tail::Closed)
        } else {
            let Some(end) = self.line_end(buf)? else { return Ok(None) };
            (&buf[at..end], end + empty_line(&buf[end..]), Tail::Closed)
        };
        let request_line = without_line_end(&buf[request_at..token_at]);
        let tokens = buf[token_at..at].split_inclusive(|byte| *byte == b'\n');
        let headers = tokens.chain([ident]).map(without_line_end);
        Ok(Some(Opened { head: Head::of_opening(request_line, headers)?, used, tail }))
    }

    /// Returns where the current line ends, line feed included.
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

/// Returns the length of the empty line that `bytes` begin with, or 0.
fn empty_line(bytes: &[u8]) -> usize {
    match bytes {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    }
}

const FIRST_LINES: [&[u8]; 4] =
    [b"php process\n", b"php process\r\n", b"backend\n", b"backend\r\n"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::ident;

    #[test]
    fn the_first_line_decides_the_transport() {
        for (buf, expected) in [
            ("", None),
            ("p", None),
            ("php process", None),
            ("php process\r", None),
            ("back", None),
            ("backend", None),
            ("php process\n", Some(Transport::Lines)),
            ("php process\r\nGET", Some(Transport::Lines)),
            ("backend\n", Some(Transport::Lines)),
            ("backend\r\n", Some(Transport::Lines)),
            ("G", Some(Transport::Http)),
            ("GET / HTTP/1.1\r\n", Some(Transport::Http)),
            ("php processes\n", Some(Transport::Http)),
            ("backend /x", Some(Transport::Http)),
            ("Backend\n", Some(Transport::Http)),
            ("\n", Some(Transport::Http)),
            ("\u{16}\u{3}", Some(Transport::Http)),
        ] {
            assert_eq!(detect_transport(buf.as_bytes()), expected, "{buf:?}");
        }
    }

    /// Path, query, Ident, the remaining bytes, and the tail of an opening.
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

    /// Checks the same byte by byte, where the opening may end before a late line arrives.
    fn check_opening_in_single_bytes(text: &str, expected: Result<Option<Found<'_>>, u16>) {
        let mut opening = Opening::new(64);
        let result =
            (1..=text.len()).find_map(|len| opening.read(&text.as_bytes()[..len]).transpose());
        match result {
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
    fn an_opening_is_two_lines_and_an_ident() {
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
            ("php process\nGET / HTTP/1.1\rXX: y\n", Err(400)),
            ("php process\nGET / HTTP/1.1\r\r\n", Err(400)),
            (long.as_str(), Err(431)),
        ] {
            check_opening(text, expected);
        }
    }

    #[test]
    fn authorization_precedes_the_ident() {
        let w = |ident, left, tail| Ok(Some(("/w", "", ident, left, tail)));
        for (text, expected) in [
            ("backend\nGET /w HTTP/1.1\nAuthorization: Bearer x\n", w(None, "", Tail::Awaited)),
            ("backend\nGET /w HTTP/1.1\nauthorization:x\n\n{}", w(None, "{}", Tail::Closed)),
            (
                "backend\r\nGET /w HTTP/1.1\r\nAUTHORIZATION: x\r\nIdent: me\r\n\r\n",
                w(Some("me"), "", Tail::Closed),
            ),
            ("backend\nGET /w HTTP/1.1\nAuthorization: x\nI", Ok(None)),
            ("backend\nGET /w HTTP/1.1\nAuthoriz", Ok(None)),
            (
                "backend\nGET /w HTTP/1.1\nAuthorization: x\r\nAuthorization: y\n{}",
                w(None, "{}", Tail::Closed),
            ),
            ("backend\nGET /w HTTP/1.1\nAutumn\n", w(None, "Autumn\n", Tail::Closed)),
            (
                "backend\nGET /w HTTP/1.1\nIdent: me\nAuthorization: x\n",
                w(Some("me"), "Authorization: x\n", Tail::Closed),
            ),
        ] {
            check_opening(text, expected);
        }
    }

    #[test]
    fn an_opening_is_limited_and_cannot_smuggle_headers() {
        for (text, expected) in [
            (format!("backend\nGET / HTTP/1.1\nIdent: {}", "a".repeat(64)), 431),
            ("backend\nGET / HTTP/1.1\nIdent: a\rHost: b\n".to_owned(), 400),
            ("backend\nGET / HTTP/1.1\nIdent: a\0\n".to_owned(), 400),
            ("backend\nGET / HTTP/1.1\nAuthorization: a\rIdent: b\n".to_owned(), 400),
            (format!("backend\nGET / HTTP/1.1\nAuthorization: {}", "a".repeat(64)), 431),
            ("b".repeat(64), 431),
        ] {
            let found = Opening::new(64).read(text.as_bytes()).map_err(|refusal| refusal.status());
            assert_eq!(found.err(), Some(expected), "{text:?}");
        }
    }
}
