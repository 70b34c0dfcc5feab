//! The request head: checked once and kept as it was received.
//!
//! Owns the raw bytes of a head in one allocation and a few offsets into it; a lookup scans a dozen
//! short lines. Everything that RFC 9112 forbids is rejected here, before any other code sees a
//! head. What the headers mean for an upgrade or a body is decided in the neighbouring modules.

mod reader;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::reader::HeadReader;
use super::refusal::Refusal;
use super::target::{Located, is_authority, locate};

/// The most header lines of a head; more are answered with 431.
pub const MAX_HEADERS: usize = 100;

/// The methods that the host distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`: the upgrade.
    Get,
    /// `POST`: a message from a backend.
    Post,
    /// Any other method.
    Other,
}

/// A checked request head: one block of bytes, kept for the life of its connection.
///
/// Header names are tokens; values contain no control characters except tabs. There is exactly one
/// valid `Host`, and the length of the body is unambiguous.
#[derive(Clone)]
pub struct Head {
    block: Box<[u8]>,
    path_at: u32,
    path_end: u32,
    query_at: u32,
    query_end: u32,
    headers_at: u32,
    method: Method,
}

impl Head {
    /// Parses a head at the beginning of `buf` and returns it with its length; `None` while it is
    /// incomplete.
    ///
    /// Scans `buf` from its start: for a growing buffer, keep a [`HeadReader`].
    ///
    /// # Errors
    ///
    /// 400 for a malformed head, 431 past `max_head` bytes or [`MAX_HEADERS`], 505 for another
    /// major version of HTTP.
    pub fn parse(buf: &[u8], max_head: usize) -> Result<Option<(Self, usize)>, Refusal> {
        HeadReader::new(max_head).read(buf)
    }

    /// Returns the head equivalent to the opening of a plain TCP connection: the request line and
    /// header lines, without line ends; empty ones do not count.
    ///
    /// # Errors
    ///
    /// As [`Head::parse`], but without a required `Host`.
    pub(crate) fn of_opening<'a>(
        request_line: &[u8],
        headers: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, Refusal> {
        let mut block = [request_line, b"\r\n"].concat();
        for line in headers.filter(|line| !line.is_empty()) {
            block.extend_from_slice(line);
            block.extend_from_slice(b"\r\n");
        }
        block.extend_from_slice(b"\r\n");
        Self::checked(&block)
    }

    /// Checks the syntax of a whole head, empty line included.
    fn checked(block: &[u8]) -> Result<Self, Refusal> {
        // The first CR, not CRLF: a lone one in the request line of an opening must be rejected.
        let line_len = memchr::memchr(b'\r', block).unwrap_or(block.len());
        let (line, rest) = block.split_at(line_len);
        let (method, target_at, located) = request_line(line)?;
        let Some(header_lines) = rest.strip_prefix(b"\r\n") else {
            return Err(Refusal::bad_request("a carriage return without a line feed"));
        };
        let headers_at = line_len + 2;
        let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
        // httparse rejects folded lines, blanks before the colon and control characters. It accepts
        // bare line feeds, which the scan has rejected.
        match httparse::parse_headers(header_lines, &mut fields) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => {
                return Err(Refusal::bad_request("a header line is malformed"));
            }
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Refusal::too_many_headers(MAX_HEADERS));
            }
            Err(error) => {
                return Err(Refusal::bad_request(format!("a header line is malformed: {error}")));
            }
        }
        // A head is never longer than u32::MAX: `HeadReader::new` caps its limit.
        let offset = |at: usize| u32::try_from(target_at + at).unwrap_or(u32::MAX);
        Ok(Self {
            path_at: offset(located.path.start),
            path_end: offset(located.path.end),
            query_at: offset(located.query.start),
            query_end: offset(located.query.end),
            headers_at: u32::try_from(headers_at).unwrap_or(u32::MAX),
            method,
            block: block.into(),
        })
    }

    /// Returns the method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Returns the path of the target as it was sent: not decoded and never empty.
    pub fn path(&self) -> &str {
        match self.text(self.path_at, self.path_end) {
            // RFC 9112 section 3.2.1: an empty path means "/".
            "" => "/",
            path => path,
        }
    }

    /// Returns the query of the target as it was sent; empty if there is none.
    pub fn query(&self) -> &str {
        self.text(self.query_at, self.query_end)
    }

    /// Returns the first value of a header, trimmed; `None` if it is absent or not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let name = name.as_bytes();
        let (_, value) = self.lines().find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        str::from_utf8(value).ok()
    }

    /// Iterates over all header lines in order: the name as sent, the value trimmed.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines().filter_map(|(name, value)| Some((str::from_utf8(name).ok()?, value)))
    }

    fn lines(&self) -> HeaderLines<'_> {
        HeaderLines(self.block.get(self.headers_at as usize..).unwrap_or_default())
    }

    /// Iterates over the values of all lines of one header, in order.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Iterates over the values of one header that are UTF-8.
    pub(crate) fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values(name).filter_map(|value| str::from_utf8(value).ok())
    }

    /// Iterates over the members of a list header (RFC 9110 section 5.6.1), over all its lines;
    /// empty members are skipped.
    pub(super) fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }

    /// Returns whether the header is present.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// Returns the length of the body; `None` if there is no `Content-Length`. Saturates.
    ///
    /// A repeated number counts once (RFC 9110 section 8.6).
    pub(super) fn content_length(&self) -> Result<Option<u64>, Refusal> {
        let mut length = None;
        for member in
            self.values("content-length").flat_map(|value| value.split(|byte| *byte == b','))
        {
            let digits = member.trim_ascii();
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(Refusal::bad_request("Content-Length is not a number"));
            }
            let number = digits.iter().fold(0_u64, |sum, digit| {
                sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
            });
            if length.is_some_and(|earlier| earlier != number) {
                return Err(Refusal::bad_request("differing Content-Length values"));
            }
            length = Some(number);
        }
        Ok(length)
    }

    fn text(&self, start: u32, end: u32) -> &str {
        // `locate` accepts only ASCII.
        self.block
            .get(start as usize..end as usize)
            .and_then(|bytes| str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    /// Checks that there is exactly one valid `Host` (RFC 9112 section 3.2).
    fn check_host(&self) -> Result<(), Refusal> {
        let mut hosts = self.values("host");
        match (hosts.next(), hosts.next()) {
            (None, _) => Err(Refusal::bad_request("the Host header is missing")),
            (Some(_), Some(_)) => Err(Refusal::bad_request("more than one Host header")),
            (Some(host), None) if host.contains(&b'@') => {
                Err(Refusal::bad_request("the Host has user information"))
            }
            (Some(host), None) if !is_authority(host) => {
                Err(Refusal::bad_request("the Host header is malformed"))
            }
            (Some(_), None) => Ok(()),
        }
    }

    /// Checks that the length of the body is unambiguous. RFC 9112 section 6.1: a request with both
    /// fields "might indicate an attempt to perform request smuggling".
    fn check_body(&self) -> Result<(), Refusal> {
        if self.content_length()?.is_some() && self.has("transfer-encoding") {
            return Err(Refusal::bad_request("Content-Length together with Transfer-Encoding"));
        }
        Ok(())
    }
}

impl fmt::Debug for Head {
    /// Prints method and path only: headers carry cookies and tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

/// Splits `method SP target SP version` (RFC 9112 section 3) and returns the offset of the target.
/// An error does not quote the line: it may be a token, a cookie or a message, and reasons are
/// logged.
fn request_line(line: &[u8]) -> Result<(Method, usize, Located), Refusal> {
    let malformed = || {
        Refusal::bad_request(
            "the request line is malformed: it is method, target and HTTP/1.1, with one space between them",
        )
    };
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed());
    };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return Err(malformed());
    }
    match version.strip_prefix(b"HTTP/") {
        Some([b'1', b'.', b'1'..=b'9']) => {}
        // RFC 6455 section 4.2.1: "An HTTP/1.1 or higher GET request".
        Some([b'1', b'.', b'0']) => {
            return Err(Refusal::bad_request("HTTP/1.1 or higher is needed"));
        }
        Some([b'0'..=b'9', b'.', b'0'..=b'9']) => return Err(Refusal::version_not_supported()),
        _ => return Err(malformed()),
    }
    if (method, target) == (b"OPTIONS", b"*") {
        return Err(Refusal::method_not_allowed("GET"));
    }
    let located = locate(target)?;
    let method_name = match method {
        b"GET" => Method::Get,
        b"POST" => Method::Post,
        _ => Method::Other,
    };
    Ok((method_name, method.len() + 1, located))
}

/// Returns whether this is a `tchar` (RFC 9110 section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The header lines of a checked block.
struct HeaderLines<'a>(&'a [u8]);

impl<'a> Iterator for HeaderLines<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr::memchr(b'\r', self.0)?;
        let line = &self.0[..end];
        self.0 = self.0.get(end + 2..).unwrap_or_default();
        // The empty line has no colon and ends the iteration.
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    }
}
