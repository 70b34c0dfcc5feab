//! Responses: a [`Refusal`] with its reason, and any other complete response.
//!
//! A reason may quote the peer, so control characters are escaped. Every response ends its
//! connection; the others are in `answer`.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::protocol::dialog::whole_seconds;

/// The interim response to a request that [`wants_continue`](super::wants_continue).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a request is rejected: a status, a reason for the reader, and the header fields that the
/// status requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    reason: Cow<'static, str>,
    extra: Vec<(&'static str, Cow<'static, str>)>,
    is_bodiless: bool,
}

/// Returns [`Refusal::bad_request`] as an error.
pub(crate) fn bad_request<T>(reason: impl Into<Cow<'static, str>>) -> Result<T, Refusal> {
    Err(Refusal::bad_request(reason))
}

impl Refusal {
    /// 400: the request is malformed or incomplete.
    pub fn bad_request(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, reason)
    }

    /// 401: the client must authenticate; `error` is the code of RFC 6750 section 3.1, or `None` if
    /// there were no credentials.
    pub(crate) fn unauthorized(
        reason: impl Into<Cow<'static, str>>,
        error: Option<&'static str>,
    ) -> Self {
        // RFC 9110 section 11.6.1: a 401 carries at least one challenge.
        let challenge = match error {
            Some(error) => format!("Bearer error=\"{error}\"").into(),
            None => Cow::from("Bearer"),
        };
        Self::new(401, reason).with("WWW-Authenticate", challenge)
    }

    /// 403: this origin or this address is not permitted.
    pub fn forbidden(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(403, reason)
    }

    /// 404: no resource has this path.
    pub fn not_found(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, reason)
    }

    /// 405: `allow` lists the supported methods, for example `GET, POST`.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(405, format!("this path accepts only {allow}")).with("Allow", allow)
    }

    /// 408: the request was not complete in time.
    pub fn timed_out() -> Self {
        Self::new(408, "the request was not complete in time")
    }

    /// 411: a body without a `Content-Length`.
    pub fn length_required() -> Self {
        Self::new(411, "Content-Length is required")
    }

    /// 413: the body is longer than `max_bytes`.
    pub fn body_too_large(max_bytes: usize) -> Self {
        Self::new(413, format!("the body is longer than {max_bytes} bytes"))
    }

    /// 426: unsupported version of WebSocket; the response names the supported one (RFC 6455
    /// section 4.4).
    pub fn upgrade_required() -> Self {
        // RFC 9110 section 7.8: Connection must list Upgrade, here on a second line.
        Self::new(426, "only WebSocket version 13 is supported")
            .with("Connection", "Upgrade")
            .with("Upgrade", "websocket")
            .with("Sec-WebSocket-Version", "13")
    }

    /// 431: the head is longer than `max_bytes`.
    pub fn head_too_large(max_bytes: usize) -> Self {
        Self::new(431, format!("the request head is longer than {max_bytes} bytes"))
    }

    /// 431: the head has more header lines than `max`.
    pub fn too_many_headers(max: usize) -> Self {
        Self::new(431, format!("the request has more than {max} header lines"))
    }

    /// 431: chunk extensions and trailer fields are longer than a head may be.
    pub(super) fn extra_too_large() -> Self {
        Self::new(431, "chunk extensions and trailer fields are longer than max_head")
    }

    /// 501: an unsupported feature of HTTP.
    pub fn not_implemented(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(501, reason)
    }

    /// 503: temporarily unavailable; `retry_after` is sent in seconds, rounded up.
    pub fn unavailable(reason: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::new(503, reason).with("Retry-After", whole_seconds(retry_after).to_string())
    }

    /// 505: unsupported major version of HTTP.
    pub fn version_not_supported() -> Self {
        Self::new(505, "only HTTP/1.1 is supported")
    }

    fn new(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: escaped(reason.into()), extra: Vec::new(), is_bodiless: false }
    }

    fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.extra.push((name, value.into()));
        self
    }

    /// Makes this a response to HEAD, without a body (RFC 9110 section 9.3.2). It has no
    /// `Content-Length`, which would be that of the response to GET (section 8.6).
    #[must_use]
    pub fn without_body(self) -> Self {
        Self { is_bodiless: true, ..self }
    }

    /// Returns the status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the reason, which is the body, without control characters.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns the complete response; its body is the reason and a line feed.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.with_body(TEXT, format!("{}\n", self.reason).as_bytes())
    }

    /// Returns the complete response with this body.
    pub(crate) fn with_body(&self, content_type: &str, body: &[u8]) -> Vec<u8> {
        let extra: Vec<_> = self.extra.iter().map(|(name, value)| (*name, &**value)).collect();
        match self.is_bodiless {
            true => response_head(self.status, content_type, None, CLOSE, &extra).into_bytes(),
            false => response(self.status, content_type, body, &extra),
        }
    }
}

/// Returns a complete HTTP/1.1 response with `Content-Length` and `Connection: close`.
///
/// `extra` holds further header fields. Control characters in their values are removed, so that a
/// value cannot become a line.
pub fn response(status: u16, content_type: &str, body: &[u8], extra: &[(&str, &str)]) -> Vec<u8> {
    with_body(response_head(status, content_type, Some(body.len()), CLOSE, extra), body)
}

/// Returns the lines of a response after which the host keeps the connection open for the time
/// `idle`.
pub(super) fn keep_alive(idle: Duration) -> String {
    // A client that knows the time does not send when the host closes.
    format!("Connection: keep-alive\r\nKeep-Alive: timeout={}", idle.as_secs())
}

/// Removes the body of a response to GET, for the response to HEAD (RFC 9110 section 9.3.2).
pub fn without_body(mut response: Vec<u8>) -> Vec<u8> {
    if let Some(end) = memchr::memmem::find(&response, b"\r\n\r\n") {
        response.truncate(end + 4);
    }
    response
}

fn with_body(head: String, body: &[u8]) -> Vec<u8> {
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn response_head(
    status: u16,
    content_type: &str,
    length: Option<usize>,
    connection: &str,
    extra: &[(&str, &str)],
) -> String {
    let mut head =
        format!("HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\n", phrase(status));
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str(connection);
    head.push_str("\r\n");
    for (name, value) in extra {
        head.push_str(name);
        head.push_str(": ");
        head.extend(value.chars().filter(|c| !c.is_control()));
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}

/// Adds the `Date` header to a response (RFC 9110, section 6.6.1). Other bytes are returned
/// unchanged.
pub fn dated(response: &[u8], now: SystemTime) -> Cow<'_, [u8]> {
    match memchr::memmem::find(response, b"\r\n") {
        Some(end) if response.starts_with(b"HTTP/1.1 ") => {
            let (status, rest) = response.split_at(end);
            let date = format!("\r\nDate: {}", httpdate::fmt_http_date(now));
            Cow::Owned([status, date.as_bytes(), rest].concat())
        }
        _ => Cow::Borrowed(response),
    }
}

fn escaped(reason: Cow<'static, str>) -> Cow<'static, str> {
    if !reason.contains(char::is_control) {
        return reason;
    }
    let mut clean = String::new();
    for c in reason.chars() {
        if c.is_control() { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    Cow::Owned(clean)
}

/// Returns the reason phrase; empty for an unknown status (RFC 9112 section 4).
pub(super) fn phrase(status: u16) -> &'static str {
    match StatusCode::from_u16(status) {
        // RFC 9110 renamed these two.
        Ok(StatusCode::PAYLOAD_TOO_LARGE) => "Content Too Large",
        Ok(StatusCode::UNPROCESSABLE_ENTITY) => "Unprocessable Content",
        Ok(status) => status.canonical_reason().unwrap_or_default(),
        Err(_) => "",
    }
}

/// The line of a response that ends its connection.
pub(super) const CLOSE: &str = "Connection: close";
const TEXT: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(refusal: &Refusal, status_line: &str, contained: &[&str], body: &str) {
        let bytes = refusal.to_bytes();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let (head, sent_body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status_line}\r\n")), "{head}");
        for line in contained {
            assert!(head.lines().any(|l| l == *line), "no line {line:?} in {head}");
        }
        let length = format!("Content-Length: {}", sent_body.len());
        for line in
            [length.as_str(), "Connection: close", "Content-Type: text/plain; charset=utf-8"]
        {
            assert!(head.lines().any(|l| l == line), "no line {line:?} in {head}");
        }
        assert_eq!(sent_body, format!("{body}\n"));
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Response::new(&mut fields);
        let used = parsed.parse(&bytes).unwrap().unwrap();
        assert_eq!((parsed.code, &bytes[used..]), (Some(refusal.status()), sent_body.as_bytes()));
    }

    #[test]
    fn refusals_are_complete_responses() {
        for (refusal, status_line, body) in [
            (Refusal::bad_request("no"), "400 Bad Request", "no"),
            (Refusal::bad_request("a\r\nb\0"), "400 Bad Request", "a\\r\\nb\\u{0}"),
            (Refusal::bad_request("ä\u{85}"), "400 Bad Request", "ä\\u{85}"),
            (Refusal::forbidden("not you"), "403 Forbidden", "not you"),
            (Refusal::not_found("none"), "404 Not Found", "none"),
            (Refusal::timed_out(), "408 Request Timeout", "the request was not complete in time"),
            (Refusal::length_required(), "411 Length Required", "Content-Length is required"),
            (
                Refusal::body_too_large(7),
                "413 Content Too Large",
                "the body is longer than 7 bytes",
            ),
            (
                Refusal::head_too_large(9),
                "431 Request Header Fields Too Large",
                "the request head is longer than 9 bytes",
            ),
            (
                Refusal::too_many_headers(9),
                "431 Request Header Fields Too Large",
                "the request has more than 9 header lines",
            ),
            (Refusal::not_implemented("no"), "501 Not Implemented", "no"),
            (
                Refusal::version_not_supported(),
                "505 HTTP Version Not Supported",
                "only HTTP/1.1 is supported",
            ),
        ] {
            check(&refusal, status_line, &[], body);
        }
    }

    #[test]
    fn some_statuses_require_a_header() {
        let second = Duration::from_secs(1);
        for (refusal, status_line, contained, body) in [
            (
                Refusal::method_not_allowed("GET"),
                "405 Method Not Allowed",
                &["Allow: GET"][..],
                "this path accepts only GET",
            ),
            (
                Refusal::upgrade_required(),
                "426 Upgrade Required",
                &["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Connection: Upgrade"],
                "only WebSocket version 13 is supported",
            ),
            (
                Refusal::unavailable("full", second * 3),
                "503 Service Unavailable",
                &["Retry-After: 3"],
                "full",
            ),
            (
                Refusal::unavailable("full", second / 2),
                "503 Service Unavailable",
                &["Retry-After: 1"],
                "full",
            ),
        ] {
            check(&refusal, status_line, contained, body);
        }
    }

    #[test]
    fn a_response_to_head_has_no_body() {
        let bytes = Refusal::method_not_allowed("GET").without_body().to_bytes();
        let expected = "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain; charset=utf-8\r\n\
                        Connection: close\r\nAllow: GET\r\n\r\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_header_value_cannot_become_a_line() {
        let bytes = response(200, "application/json", b"{}", &[("X-Verdict", "gone\r\nEvil: 1")]);
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\
                        X-Verdict: goneEvil: 1\r\n\r\n{}";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
