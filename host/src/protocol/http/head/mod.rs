//! The request head: checked once and kept as it was received.
//!
//! Owns the raw bytes of a head in one allocation and a few offsets into it; a lookup scans a dozen
//! short lines. Everything that RFC 9112 forbids is rejected here, before any other code sees a
//! head. The neighbouring modules decide what the headers mean for an upgrade or a body.

mod reader;
#[cfg(test)]
mod tests;

use std::{fmt, iter};

use httparse::{EMPTY_HEADER, Status, parse_headers};

pub use self::reader::HeadReader;
use super::refusal::{Refusal, bad_request};
use super::target::{is_authority, path_start};

/// The most header lines of a head; more are answered with 431.
pub const MAX_HEADERS: usize = 100;

/// The methods that the host distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`: the upgrade.
    Get,
    /// `HEAD`: the head of the response to `GET`.
    Head,
    /// `POST`: a message from a backend.
    Post,
    /// `OPTIONS`: the methods of a path, or of the host (`*`), whose path is "/".
    Options,
    /// Any other method.
    Other,
}

/// A checked request head: one block of bytes, kept for the life of its connection.
///
/// Header names are tokens; values contain no control characters except tabs. There is exactly one
/// valid `Host` (at most one in HTTP/1.0), and the length of the body is unambiguous.
#[derive(Clone)]
pub struct Head {
    block: Box<[u8]>,
    /// Where path and query begin and end.
    target_at: u32,
    target_end: u32,
    headers_at: u32,
    method: Method,
    is_http_1_0: bool,
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
    /// The same as those of [`Head::parse`], but no `Host` is required; 400 for HTTP/1.0.
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
        match Self::checked(&block)? {
            head if head.is_http_1_0 => bad_request("the request line must say HTTP/1.1"),
            head => Ok(head),
        }
    }

    /// Checks the syntax of a whole head, empty line included.
    fn checked(block: &[u8]) -> Result<Self, Refusal> {
        // The first CR, not CRLF: a lone one in the request line of an opening must be rejected.
        let line_len = memchr::memchr(b'\r', block).unwrap_or(block.len());
        let (line, rest) = block.split_at(line_len);
        let RequestLine { method, target_at, target_end, is_http_1_0 } = request_line(line)?;
        let Some(header_lines) = rest.strip_prefix(b"\r\n") else {
            return bad_request("a carriage return without a line feed");
        };
        // httparse rejects folded lines, blanks before the colon and control characters. It accepts
        // bare line feeds, which the scan has rejected.
        match parse_headers(header_lines, &mut [EMPTY_HEADER; MAX_HEADERS]) {
            Ok(Status::Complete(_)) => {}
            Ok(Status::Partial) => return bad_request("a header line is malformed"),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Refusal::too_many_headers(MAX_HEADERS));
            }
            Err(error) => return bad_request(format!("a header line is malformed: {error}")),
        }
        // A head is never longer than u32::MAX: `HeadReader::new` caps its limit.
        Ok(Self {
            target_at: target_at as u32,
            target_end: target_end as u32,
            headers_at: line_len as u32 + 2,
            method,
            is_http_1_0,
            block: block.into(),
        })
    }

    /// Returns the method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Returns the method that an application answers: that of the request, and `GET` for a HEAD,
    /// whose response is that to GET without the body (RFC 9110 section 9.3.2).
    pub(crate) fn method_name(&self) -> &str {
        if self.method == Method::Head {
            return "GET";
        }
        let end = memchr::memchr(b' ', &self.block).unwrap_or_default();
        str::from_utf8(&self.block[..end]).unwrap_or_default()
    }

    /// Returns whether the target is `*`: a question about the host, not about a path.
    pub(crate) fn is_about_host(&self) -> bool {
        self.method == Method::Options && self.target_at == self.target_end
    }

    /// Returns whether the version is HTTP/1.0, else it is 1.1 or higher.
    pub fn is_http_1_0(&self) -> bool {
        self.is_http_1_0
    }

    /// Returns the path of the target as it was sent: not decoded and never empty.
    pub fn path(&self) -> &str {
        match self.target().0 {
            // RFC 9112 section 3.2.1: an empty path means "/".
            "" => "/",
            path => path,
        }
    }

    /// Returns the query of the target as it was sent; empty if there is none.
    pub fn query(&self) -> &str {
        self.target().1
    }

    fn target(&self) -> (&str, &str) {
        let target = &self.block[self.target_at as usize..self.target_end as usize];
        let target = str::from_utf8(target).expect("`path_start` accepts only ASCII");
        target.split_once('?').unwrap_or((target, ""))
    }

    /// Keeps a text with the head, in the same block, so that heads without one need no field for
    /// it. Must be called once.
    pub(crate) fn attach(&mut self, text: &str) {
        self.block = [&*self.block, text.as_bytes()].concat().into();
    }

    /// Returns the attached text; empty if there is none.
    pub(crate) fn attached(&self) -> &str {
        let from = (self.headers_at as usize).saturating_sub(2);
        let end = memchr::memmem::find(&self.block[from..], b"\r\n\r\n");
        let text = end.map_or(&[][..], |end| &self.block[from + end + 4..]);
        str::from_utf8(text).unwrap_or_default()
    }

    /// Returns the first value of a header, trimmed; `None` if it is absent or not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        str::from_utf8(self.values(name).next()?).ok()
    }

    /// Iterates over all header lines in order: the name as sent, the value trimmed.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines().filter_map(|(name, value)| Some((str::from_utf8(name).ok()?, value)))
    }

    fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.block.get(self.headers_at as usize..).unwrap_or_default();
        iter::from_fn(move || {
            let line = &rest[..memchr::memchr(b'\r', rest)?];
            rest = rest.get(line.len() + 2..).unwrap_or_default();
            // The empty line has no colon and ends the iteration.
            let colon = memchr::memchr(b':', line)?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }

    /// Iterates over the values of all lines of one header, in order.
    pub(super) fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
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
        self.all_members(name).filter(|member| !member.is_empty())
    }

    /// Returns whether a list header contains this token, in any case.
    pub(super) fn lists(&self, name: &str, token: &str) -> bool {
        self.members(name).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
    }

    fn all_members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let split = |value: &'a [u8]| value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        self.values(name).flat_map(split)
    }

    /// Returns the value of a header that may occur once; an error spells it as `name` does.
    pub(super) fn at_most_one<'a>(&'a self, name: &'a str) -> Result<Option<&'a [u8]>, Refusal> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => bad_request(format!("more than one {name} header")),
            (value, None) => Ok(value),
        }
    }

    /// Returns the value of a header that must occur once; an error spells it as `name` does.
    pub(super) fn exactly_one<'a>(&'a self, name: &'a str) -> Result<&'a [u8], Refusal> {
        let missing = || Refusal::bad_request(format!("the {name} header is missing"));
        self.at_most_one(name)?.ok_or_else(missing)
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
        for digits in self.all_members("content-length") {
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return bad_request("Content-Length is not a number");
            }
            let number = digits.iter().fold(0_u64, |sum, digit| {
                sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
            });
            if length.is_some_and(|earlier| earlier != number) {
                return bad_request("differing Content-Length values");
            }
            length = Some(number);
        }
        Ok(length)
    }

    /// Checks that there is exactly one valid `Host` (RFC 9112 section 3.2). HTTP/1.0 did not have
    /// it yet.
    fn check_host(&self) -> Result<(), Refusal> {
        let host = match self.is_http_1_0 {
            true => self.at_most_one("Host")?,
            false => Some(self.exactly_one("Host")?),
        };
        match host {
            Some(host) if host.contains(&b'@') => bad_request("the Host has user information"),
            Some(host) if !is_authority(host) => bad_request("the Host header is malformed"),
            _ => Ok(()),
        }
    }

    /// Checks that the length of the body is unambiguous. RFC 9112 section 6.1: a request with both
    /// fields "might indicate an attempt to perform request smuggling".
    fn check_body(&self) -> Result<(), Refusal> {
        if self.content_length()?.is_some() && self.has("transfer-encoding") {
            return bad_request("Content-Length together with Transfer-Encoding");
        }
        // The same section: "MUST treat the message as if the framing is faulty".
        if self.is_http_1_0 && self.has("transfer-encoding") {
            return bad_request("Transfer-Encoding in HTTP/1.0");
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

/// The parts of a request line.
struct RequestLine {
    method: Method,
    /// Where path and query begin and end.
    target_at: usize,
    target_end: usize,
    is_http_1_0: bool,
}

/// Splits `method SP target SP version` (RFC 9112 section 3). An error does not quote the line: it
/// may be a token, a cookie or a message, and reasons are logged.
fn request_line(line: &[u8]) -> Result<RequestLine, Refusal> {
    const MALFORMED: &str = "the request line is malformed: it is method, target and HTTP/1.1, with one space between them";
    let parts: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
    let &[method, target, version] = &parts[..] else { return bad_request(MALFORMED) };
    if !is_token(method) {
        return bad_request(MALFORMED);
    }
    let is_http_1_0 = match version.strip_prefix(b"HTTP/") {
        Some([b'1', b'.', minor @ b'0'..=b'9']) => *minor == b'0',
        Some([b'0'..=b'9', b'.', b'0'..=b'9']) => return Err(Refusal::version_not_supported()),
        _ => return bad_request(MALFORMED),
    };
    let line_start = method.len() + 1;
    let target_at = line_start
        + match (method, target) {
            // RFC 9112 section 3.2.4: the host as a whole, which has no path.
            (b"OPTIONS", b"*") => target.len(),
            _ => path_start(target)?,
        };
    let method = match method {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"POST" => Method::Post,
        b"OPTIONS" => Method::Options,
        _ => Method::Other,
    };
    Ok(RequestLine { method, target_at, target_end: line_start + target.len(), is_http_1_0 })
}

/// Returns whether this is a `token` (RFC 9110 section 5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}
