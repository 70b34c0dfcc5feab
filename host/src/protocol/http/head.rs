//! The request head: found in a growing buffer, checked once, kept as it came.
//!
//! Owns the raw bytes of a head in one allocation and a few offsets into it; a lookup scans the block instead of a map, which
//! a connection with its dozen short lines never notices. Everything that RFC 9112 wants refused is refused here, before any
//! other code sees a head; what the headers mean for an upgrade or a body is judged in the neighbouring files.

use std::fmt;

use super::refusal::Refusal;
use super::target::{Located, is_authority, locate};

/// How many header lines a head may have; one more is answered with 431.
pub const MAX_HEADERS: usize = 100;

/// The methods that the host tells apart.
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
/// Header names are tokens, values are free of control characters (but tabs) and may be any bytes otherwise.
/// Exactly one valid `Host`, and no contradiction about the length of a body.
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
    /// Reads a head from the beginning of `buf`; `None` while it is incomplete, else the head and the bytes it took.
    ///
    /// Scans `buf` from its start: for a buffer that grows read by read, keep a [`HeadReader`].
    ///
    /// # Errors
    ///
    /// 400 for whatever RFC 9112 or this host does not accept, 431 past `max_head` bytes or [`MAX_HEADERS`], 505 for
    /// another major version of HTTP.
    pub fn parse(buf: &[u8], max_head: usize) -> Result<Option<(Self, usize)>, Refusal> {
        HeadReader::new(max_head).read(buf)
    }

    /// The head that stands for the opening of a plain TCP connection: the request line, and the Ident where there is one.
    ///
    /// # Errors
    ///
    /// As [`Head::parse`], but no `Host` is required.
    pub(crate) fn of_opening(request_line: &[u8], ident: Option<&[u8]>) -> Result<Self, Refusal> {
        let mut block =
            Vec::with_capacity(request_line.len() + ident.map_or(0, |ident| ident.len() + 9) + 4);
        block.extend_from_slice(request_line);
        block.extend_from_slice(b"\r\n");
        if let Some(ident) = ident {
            block.extend_from_slice(b"Ident: ");
            block.extend_from_slice(ident);
            block.extend_from_slice(b"\r\n");
        }
        block.extend_from_slice(b"\r\n");
        Self::checked(&block)
    }

    /// Checks the syntax of a whole head, empty line included.
    fn checked(block: &[u8]) -> Result<Self, Refusal> {
        // Not the first CRLF but the first CR: a lone one inside the request line of an opening must not pass.
        let line_len = memchr::memchr(b'\r', block).unwrap_or(block.len());
        let (line, rest) = block.split_at(line_len);
        let (method, target_at, located) = request_line(line)?;
        let Some(header_lines) = rest.strip_prefix(b"\r\n") else {
            return Err(Refusal::bad_request("a carriage return without a line feed"));
        };
        let headers_at = line_len + 2;
        let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
        // httparse refuses folded lines, blanks before the colon and control characters; bare line feeds, which it lets
        // pass, were refused by the scan.
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

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The path of the target as it was sent, never decoded, never empty.
    pub fn path(&self) -> &str {
        match self.text(self.path_at, self.path_end) {
            // RFC 9112 section 3.2.1: an empty path is sent, and meant, as "/".
            "" => "/",
            path => path,
        }
    }

    /// What follows the `?` of the target, as it was sent; empty where there is none.
    pub fn query(&self) -> &str {
        self.text(self.query_at, self.query_end)
    }

    /// The first value of a header, without the blanks around it; `None` where it is absent or not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers().find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        str::from_utf8(value).ok()
    }

    /// All header lines in their order: name as sent, value without the blanks around it.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let lines = self.block.get(self.headers_at as usize..).unwrap_or_default();
        Lines(lines).filter_map(|(name, value)| Some((str::from_utf8(name).ok()?, value)))
    }

    /// The values of all lines of one header, in their order.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The same, but for those that are no UTF-8.
    pub(crate) fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values(name).filter_map(|value| str::from_utf8(value).ok())
    }

    /// The members of a list header (RFC 9110 section 5.6.1), over all its lines; empty members are skipped.
    pub(super) fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }

    /// Whether any line of this header is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// The length of the body, `None` where none is said. Above `u64::MAX` it is `u64::MAX`.
    ///
    /// RFC 9110 section 8.6: the same number several times is one number, anything else that is not a number is an error.
    pub(super) fn content_length(&self) -> Result<Option<u64>, Refusal> {
        let mut length = None;
        for member in
            self.values("content-length").flat_map(|value| value.split(|byte| *byte == b','))
        {
            let digits = member.trim_ascii();
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(Refusal::bad_request("Content-Length is no number"));
            }
            let number = digits.iter().fold(0_u64, |sum, digit| {
                sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
            });
            if length.is_some_and(|earlier| earlier != number) {
                return Err(Refusal::bad_request("several differing Content-Length"));
            }
            length = Some(number);
        }
        Ok(length)
    }

    fn text(&self, start: u32, end: u32) -> &str {
        // `locate` let only ASCII pass.
        self.block
            .get(start as usize..end as usize)
            .and_then(|bytes| str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    /// RFC 9112 section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
    /// lacks a Host header field and to any request message that contains more than one Host header field line or a Host
    /// header field with an invalid field value."
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

    /// RFC 9112 section 6.1: a request with both "might indicate an attempt to perform request smuggling".
    fn check_body(&self) -> Result<(), Refusal> {
        if self.content_length()?.is_some() && self.has("transfer-encoding") {
            return Err(Refusal::bad_request("Content-Length together with Transfer-Encoding"));
        }
        Ok(())
    }
}

impl fmt::Debug for Head {
    /// Method and path only: headers carry cookies and tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

/// Finds and checks a head in a buffer that grows: each byte is looked at once, however the reads are split.
///
/// What no later byte can mend (a bare line feed, a control character, too many lines) is refused when it comes.
#[derive(Debug, Clone)]
pub struct HeadReader {
    max_head: usize,
    /// How much of the buffer was looked at.
    scanned: usize,
    /// Where the line under the scan begins.
    line_at: usize,
    /// How many lines are whole.
    lines: usize,
    /// Where the request line begins: 0, or 2 behind a leading empty line.
    head_at: usize,
}

impl HeadReader {
    /// `max_head` is the most bytes that a head may have, its empty line included.
    pub fn new(max_head: usize) -> Self {
        let max_head = max_head.min(u32::MAX as usize);
        Self { max_head, scanned: 0, line_at: 0, lines: 0, head_at: 0 }
    }

    /// As [`Head::parse`]; `buf` is all that was received so far, at every call. After a head or a refusal it is spent.
    ///
    /// # Errors
    ///
    /// As [`Head::parse`].
    pub fn read(&mut self, buf: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
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
                // RFC 9112 section 2.2 lets a recipient take a lone LF as a line end; two readings of one head are a hole.
                b'\n' => return Err(Refusal::bad_request("a line ends without a carriage return")),
                _ if after_return => {
                    return Err(Refusal::bad_request("a carriage return without a line feed"));
                }
                b'\r' | b'\t' => {}
                _ if byte.is_ascii_control() => {
                    return Err(Refusal::bad_request("the head holds a control character"));
                }
                _ => {}
            }
        }
        if buf.len() >= self.max_head {
            Err(Refusal::head_too_large(self.max_head))
        } else {
            Ok(None)
        }
    }

    /// Counts the line that ends at `scanned`; true for the empty line that ends the head.
    fn line_ended(&mut self) -> Result<bool, Refusal> {
        let empty = self.scanned - self.line_at == 2;
        // RFC 9112 section 2.2: "SHOULD ignore at least one empty line (CRLF) received prior to the request-line".
        if empty && self.line_at == 0 {
            self.head_at = self.scanned;
        } else if empty && self.lines == 0 {
            return Err(Refusal::bad_request("there is no request line"));
        } else if empty {
            return Ok(true);
        } else {
            self.lines += 1;
            if self.lines > MAX_HEADERS + 1 {
                return Err(Refusal::too_many_headers(MAX_HEADERS));
            }
        }
        self.line_at = self.scanned;
        Ok(false)
    }
}

/// Splits `method SP target SP version` (RFC 9112 section 3): one space each, nothing else; with the target's offset. A refusal quotes
/// nothing: what stands here instead may be a token, a cookie or a message, and reasons end up in logs.
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

/// `tchar` of RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The header lines of a checked block.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr::memchr(b'\r', self.0)?;
        let line = &self.0[..end];
        self.0 = self.0.get(end + 2..).unwrap_or_default();
        // The empty line has no colon and ends the walk.
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_HEAD: usize = 8192;

    /// `expected` is the path that is found, or the status of the refusal, or `Ok("")` for an incomplete head.
    fn check(head: &[u8], expected: Result<&str, u16>) {
        let found = |verdict: &Result<Option<(Head, usize)>, Refusal>| match verdict {
            Ok(Some((head, _))) => Ok(head.path().to_owned()),
            Ok(None) => Ok(String::new()),
            Err(refusal) => Err(refusal.status()),
        };
        let expected = expected.map(str::to_owned);
        let whole = Head::parse(head, MAX_HEAD);
        assert_eq!(found(&whole), expected, "{} {whole:?}", head.escape_ascii());
        if let Ok(Some((_, used))) = whole {
            assert_eq!(used, head.len(), "{}", head.escape_ascii());
        }
        let mut reader = HeadReader::new(MAX_HEAD);
        let split =
            (0..=head.len()).find_map(|len| reader.read(&head[..len]).transpose()).transpose();
        assert_eq!(found(&split), expected, "byte by byte: {}", head.escape_ascii());
    }

    /// A head with a good request line and these header lines.
    fn fields(lines: &str) -> Vec<u8> {
        format!("GET /x HTTP/1.1\r\n{lines}\r\n").into_bytes()
    }

    const REQUEST_LINES: &[(&str, Result<&str, u16>)] = &[
        ("GET /x HTTP/1.1", Ok("/x")),
        ("POST /x HTTP/1.1", Ok("/x")),
        ("get /x HTTP/1.1", Ok("/x")),
        ("M-SEARCH /x HTTP/1.1", Ok("/x")),
        ("GET /x HTTP/1.2", Ok("/x")),
        ("GET /x?y HTTP/1.9", Ok("/x")),
        ("GET http://h HTTP/1.1", Ok("/")),
        ("GET http://other/x?y HTTP/1.1", Ok("/x")),
        ("GET WSS://[::1]:1/x HTTP/1.1", Ok("/x")),
        ("GET /x HTTP/1.0", Err(400)),
        ("GET /x HTTP/2.0", Err(505)),
        ("GET /x HTTP/0.9", Err(505)),
        ("GET /x HTTP/3.7", Err(505)),
        ("PRI * HTTP/2.0", Err(505)),
        ("GET /x HTTP/2", Err(400)),
        ("GET /x HTTP/1.10", Err(400)),
        ("GET /x HTTP/11.1", Err(400)),
        ("GET /x HTTP/1,1", Err(400)),
        ("GET /x http/1.1", Err(400)),
        ("GET /x HTTPS/1.1", Err(400)),
        ("GET /x ICY/1.1", Err(400)),
        ("GET /x", Err(400)),
        ("GET", Err(400)),
        ("GET  HTTP/1.1", Err(400)),
        ("GET  /x HTTP/1.1", Err(400)),
        ("GET /x  HTTP/1.1", Err(400)),
        ("GET /x HTTP/1.1 ", Err(400)),
        (" GET /x HTTP/1.1", Err(400)),
        ("GET /x y HTTP/1.1", Err(400)),
        ("GET\t/x HTTP/1.1", Err(400)),
        ("GET /x\tHTTP/1.1", Err(400)),
        ("GET /x\tHTTP/1.1 HTTP/1.1", Err(400)),
        ("G(T /x HTTP/1.1", Err(400)),
        ("G\u{e4}T /x HTTP/1.1", Err(400)),
        ("\"GET\" /x HTTP/1.1", Err(400)),
        (" /x HTTP/1.1", Err(400)),
        ("GET /\u{e4} HTTP/1.1", Err(400)),
        ("GET /x\0 HTTP/1.1", Err(400)),
        ("GET /\u{7f} HTTP/1.1", Err(400)),
        ("GET /\u{1b}[0m HTTP/1.1", Err(400)),
        ("GET /x#y HTTP/1.1", Err(400)),
        ("GET /x?y#z HTTP/1.1", Err(400)),
        ("OPTIONS * HTTP/1.1", Err(405)),
        ("CONNECT h:443 HTTP/1.1", Err(400)),
        ("GET h HTTP/1.1", Err(400)),
        ("GET x/y HTTP/1.1", Err(400)),
        ("GET ftp://h/x HTTP/1.1", Err(400)),
        ("GET file:///x HTTP/1.1", Err(400)),
        ("GET http:///x HTTP/1.1", Err(400)),
        ("GET http://u:p@h/x HTTP/1.1", Err(400)),
        ("GET /../x HTTP/1.1", Err(400)),
        ("GET /x/.. HTTP/1.1", Err(400)),
        ("GET /x/%2e%2E/y HTTP/1.1", Err(400)),
        ("GET /x%2f..%2Fy HTTP/1.1", Err(400)),
        ("GET http://h/../x HTTP/1.1", Err(400)),
        ("GET /x\\..\\y HTTP/1.1", Err(400)),
        ("GET /x%5c..%5Cy HTTP/1.1", Err(400)),
        ("GET /x%00 HTTP/1.1", Err(400)),
        ("GET /x%0d%0aSet-Cookie:%20a HTTP/1.1", Err(400)),
        ("GET /%zz HTTP/1.1", Err(400)),
        ("GET /x% HTTP/1.1", Err(400)),
        ("GET /x%4 HTTP/1.1", Err(400)),
        ("\u{16}\u{3}\u{1}\u{2}", Err(400)),
    ];

    #[test]
    fn request_lines() {
        for (line, expected) in REQUEST_LINES {
            check(format!("{line}\r\nHost: h\r\n\r\n").as_bytes(), *expected);
        }
    }

    const HEADER_LINES: &[(&str, Result<&str, u16>)] = &[
        ("Host: h\r\n", Ok("/x")),
        ("hOST:h\r\n", Ok("/x")),
        ("Host: \t h \t\r\n", Ok("/x")),
        ("Host: [::1]:8095\r\n", Ok("/x")),
        ("Host: h:\r\n", Ok("/x")),
        ("Host: h\r\nEmpty:\r\nBlank:  \r\n", Ok("/x")),
        ("Host: h\r\nX: a\tb\r\n", Ok("/x")),
        ("Host: h\r\nX: \u{e4}\r\n", Ok("/x")),
        ("Host: h\r\n!#$%&'*+-.^_`|~09: x\r\n", Ok("/x")),
        ("Host: h\r\nX: :::\r\n", Ok("/x")),
        ("Host: h\r\nContent-Length: 0\r\n", Ok("/x")),
        ("Host: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n", Ok("/x")),
        ("Host: h\r\nContent-Length: 5, 05\r\n", Ok("/x")),
        ("Host: h\r\nTransfer-Encoding: chunked\r\n", Ok("/x")),
        ("", Err(400)),
        ("X: y\r\n", Err(400)),
        ("Host:\r\n", Err(400)),
        ("Host: h\r\nHost: h\r\n", Err(400)),
        ("Host: h\r\nX: y\r\nHOST: i\r\n", Err(400)),
        ("Host: h, i\r\n", Err(400)),
        ("Host: h i\r\n", Err(400)),
        ("Host: http://h\r\n", Err(400)),
        ("Host: u@h\r\n", Err(400)),
        ("Host: h/x\r\n", Err(400)),
        ("Host: h:x\r\n", Err(400)),
        ("Host: h:65536\r\n", Err(400)),
        ("Host: [::1\r\n", Err(400)),
        ("Host: ::1\r\n", Err(400)),
        ("Host: \u{e4}\r\n", Err(400)),
        ("Host : h\r\n", Err(400)),
        ("Host\t: h\r\n", Err(400)),
        (" Host: h\r\n", Err(400)),
        ("\tHost: h\r\n", Err(400)),
        ("Host: h\r\n X: y\r\n", Err(400)),
        ("Host: h\r\nX: y\r\n folded\r\n", Err(400)),
        ("Host: h\r\nX: y\r\n\tfolded\r\n", Err(400)),
        ("Host: h\r\nX:\r\n y\r\n", Err(400)),
        ("Host: h\r\nX : y\r\n", Err(400)),
        ("Host: h\r\nX Y: z\r\n", Err(400)),
        ("Host: h\r\n: y\r\n", Err(400)),
        ("Host: h\r\nno colon\r\n", Err(400)),
        ("Host: h\r\nX(: y\r\n", Err(400)),
        ("Host: h\r\n\u{e4}: y\r\n", Err(400)),
        ("Host: h\r\nX\0: y\r\n", Err(400)),
        ("Host: h\r\nX: y\0z\r\n", Err(400)),
        ("Host: h\r\nX: y\u{1}\r\n", Err(400)),
        ("Host: h\r\nX: y\u{7f}\r\n", Err(400)),
        ("Host: h\r\nX: y\u{b}\r\n", Err(400)),
        ("Host: h\r\nX: y\rz\r\n", Err(400)),
        ("Host: h\r\nX: y\r\r\n", Err(400)),
        ("Host: h\r\nX: y\nZ: a\r\n", Err(400)),
        ("Host: h\n", Err(400)),
        ("Host: h\n\n", Err(400)),
        ("Host: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n", Err(400)),
        ("Host: h\r\nContent-Length: 5, 6\r\n", Err(400)),
        ("Host: h\r\nContent-Length: 5,\r\n", Err(400)),
        ("Host: h\r\nContent-Length:\r\n", Err(400)),
        ("Host: h\r\nContent-Length: +5\r\n", Err(400)),
        ("Host: h\r\nContent-Length: -5\r\n", Err(400)),
        ("Host: h\r\nContent-Length: 0x5\r\n", Err(400)),
        ("Host: h\r\nContent-Length: 5 5\r\n", Err(400)),
        ("Host: h\r\nContent-Length: \u{664}\r\n", Err(400)),
        ("Host: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(400)),
        ("Host: h\r\ntransfer-encoding: x\r\nCONTENT-LENGTH: 0\r\n", Err(400)),
    ];

    #[test]
    fn header_lines() {
        for (lines, expected) in HEADER_LINES {
            check(&fields(lines), *expected);
        }
    }

    #[test]
    fn beginnings_ends_and_limits() {
        let many = |count: usize| fields(&format!("Host: h\r\n{}", "X: y\r\n".repeat(count - 1)));
        let long = |len: usize| {
            let bare = fields("Host: h\r\nX: \r\n").len();
            fields(&format!("Host: h\r\nX: {}\r\n", "y".repeat(len - bare)))
        };
        for (head, expected) in [
            (b"".to_vec(), Ok("")),
            (b"\r".to_vec(), Ok("")),
            (b"\r\n".to_vec(), Ok("")),
            (b"GET /x HTTP/1.1\r\nHost: h\r\n\r".to_vec(), Ok("")),
            (b"\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Ok("/x")),
            (b"\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Err(400)),
            (b"\r\n\r\n".to_vec(), Err(400)),
            (b"\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Err(400)),
            (b"\rGET /x HTTP/1.1\r\n".to_vec(), Err(400)),
            (b"GET /x HTTP/1.1\n".to_vec(), Err(400)),
            (b"GET /x HTTP/1.1\r\r\nHost: h\r\n\r\n".to_vec(), Err(400)),
            (b"GET /x HTTP/1.1\r\n\r\n".to_vec(), Err(400)),
            (b"\xff\xfe\r\n\r\n".to_vec(), Err(400)),
            (b"\x80\x80 /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Err(400)),
            (b"GET /x HTTP/1.1\r\nHost: h\r\nX: \xff\r\n\r\n".to_vec(), Ok("/x")),
            (many(MAX_HEADERS), Ok("/x")),
            (many(MAX_HEADERS + 1), Err(431)),
            (many(1000), Err(431)),
            (long(MAX_HEAD), Ok("/x")),
            (long(MAX_HEAD + 1), Err(431)),
            (vec![b'a'; MAX_HEAD - 1], Ok("")),
            (vec![b'a'; MAX_HEAD], Err(431)),
            (vec![b'a'; MAX_HEAD * 2], Err(431)),
        ] {
            check(&head, expected);
        }
    }

    #[test]
    fn what_follows_a_head_is_left_alone() {
        let mut sent = fields("Host: h\r\n");
        let len = sent.len();
        sent.extend_from_slice(b"\0\n\xffbody");
        assert_eq!(Head::parse(&sent, len).unwrap().unwrap().1, len);
        assert_eq!(Head::parse(&sent, len - 1).unwrap_err().status(), 431);
        sent.splice(..0, *b"\r\n");
        let (head, used) = Head::parse(&sent, MAX_HEAD).unwrap().unwrap();
        assert_eq!((used, head.path(), head.block.len()), (len + 2, "/x", len));
    }

    #[test]
    fn lookups() {
        let text = b"POST http://h/a/b?c=%2 HTTP/1.1\r\nHost: h\r\nX: 1 \r\nx:2\r\nBad: \xff\r\nEmpty:\r\n\r\n";
        let head = Head::parse(text, MAX_HEAD).unwrap().unwrap().0;
        assert_eq!((head.method(), head.path(), head.query()), (Method::Post, "/a/b", "c=%2"));
        for (name, expected) in [
            ("host", Some("h")),
            ("HOST", Some("h")),
            ("x", Some("1")),
            ("bad", None),
            ("empty", Some("")),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(head.header(name), expected, "{name}");
        }
        let all: Vec<(&str, &[u8])> = head.headers().collect();
        let expected: [(&str, &[u8]); 5] =
            [("Host", b"h"), ("X", b"1"), ("x", b"2"), ("Bad", b"\xff"), ("Empty", b"")];
        assert_eq!(all, expected);
        assert_eq!(format!("{head:?}"), "Head { method: Post, path: \"/a/b\", .. }");
    }

    #[test]
    fn an_absolute_form_without_a_path_means_the_root() {
        let head =
            Head::parse(b"GET ws://h?q HTTP/1.1\r\nHost: h\r\n\r\n", MAX_HEAD).unwrap().unwrap().0;
        assert_eq!((head.path(), head.query()), ("/", "q"));
    }

    #[test]
    fn refusals_quote_nothing_of_the_peers() {
        let target = "the request target is no path, which begins with a slash";
        let line = "the request line is malformed: it is method, target and HTTP/1.1, with one space between them";
        for (first, host, reason) in [
            ("GET http://u:SECRET@h/x HTTP/1.1", "h", "the request target has user information"),
            ("GET http://u:a/SECRET@h HTTP/1.1", "h", target),
            ("GET http://u:SECRET%40h/ HTTP/1.1", "h", target),
            ("GET u:SECRET@h:443 HTTP/1.1", "h", target),
            ("GET ftp://h/x?SECRET HTTP/1.1", "h", target),
            ("GET http://u:SECRET@h", "h", line),
            ("Authorization: Bearer SECRET", "h", line),
            (r#"{"opcode":"feedback","message":"SECRET"}"#, "h", line),
            ("GET / HTTP/1.1 Authorization: Bearer SECRET", "h", line),
            ("GET /x HTTP/1.1", "u:SECRET@h", "the Host has user information"),
            ("GET /x HTTP/1.1", "SECRET x", "the Host header is malformed"),
        ] {
            let text = format!("{first}\r\nHost: {host}\r\n\r\n");
            let refusal = Head::parse(text.as_bytes(), MAX_HEAD).unwrap_err();
            assert_eq!((refusal.status(), refusal.reason()), (400, reason), "{first}");
        }
    }

    #[test]
    fn a_head_is_small() {
        assert!(size_of::<Head>() <= 40);
    }

    /// Damages a good head at random: whatever comes of it, nothing panics, and what passes has sound parts.
    #[test]
    fn noise_is_survived() {
        let good = fields(
            "Host: h:1\r\nUpgrade: websocket\r\nContent-Length: 0\r\nX-Forwarded-For: ::1\r\n",
        );
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        let bytes = b"\r\n\t\0 :/%.?#\\,;[]\x7f\xff1AH";
        for _ in 0..20_000 {
            let mut head = good.clone();
            for _ in 0..1 + random(3) {
                let at = random(head.len());
                match random(3) {
                    0 => head[at] = bytes[random(bytes.len())],
                    1 => head.insert(at, bytes[random(bytes.len())]),
                    _ => drop(head.remove(at)),
                }
            }
            if let Ok(Some((head, _))) = Head::parse(&head, MAX_HEAD) {
                assert!(head.path().starts_with('/'));
                assert_eq!(head.values("host").count(), 1);
                assert!(head.headers().all(|(name, value)| {
                    !name.is_empty()
                        && value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
                }));
            }
        }
    }
}
