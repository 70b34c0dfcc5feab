//! The answers: a [`Refusal`] with its reason, and any other complete response.
//!
//! Owns the layout of a response and the status phrases. Whatever a peer sent may be quoted in a reason: control characters
//! never leave this file unescaped. Every answer here ends its connection.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// The interim answer to a request that [`wants_continue`](super::wants_continue), before its body is read.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a request is not served: a status, a sentence for the one who reads it, and the header that the status obliges to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    reason: Cow<'static, str>,
    extra: Extra,
    is_bodiless: bool,
}

/// The header field that belongs to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extra {
    None,
    Allow(&'static str),
    WebSocketVersion,
    RetryAfter(Duration),
    Challenge(Option<&'static str>),
}

impl Refusal {
    /// 400: the request is malformed, or lacks something.
    pub fn bad_request(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, reason, Extra::None)
    }

    /// 401: who this is must be shown first; `error` is the code of RFC 6750 section 3.1, none where nothing was shown.
    pub(crate) fn unauthorized(
        reason: impl Into<Cow<'static, str>>,
        error: Option<&'static str>,
    ) -> Self {
        Self::new(401, reason, Extra::Challenge(error))
    }

    /// 403: this origin or this address may not.
    pub fn forbidden(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(403, reason, Extra::None)
    }

    /// 404: no resource serves this path.
    pub fn not_found(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, reason, Extra::None)
    }

    /// 405: `allow` lists the methods that are served here, as in `GET, POST`.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(405, format!("only {allow} is served here"), Extra::Allow(allow))
    }

    /// 408: the request was not whole in time.
    pub fn timed_out() -> Self {
        Self::new(408, "the request was not whole in time", Extra::None)
    }

    /// 411: a body without a `Content-Length`.
    pub fn length_required() -> Self {
        Self::new(411, "Content-Length is required", Extra::None)
    }

    /// 413: the body is longer than `max_bytes`.
    pub fn body_too_large(max_bytes: usize) -> Self {
        Self::new(413, format!("the body is longer than {max_bytes} bytes"), Extra::None)
    }

    /// 426: another version of the WebSocket protocol.
    ///
    /// RFC 6455 section 4.4: the answer names the version that is spoken.
    pub fn upgrade_required() -> Self {
        Self::new(426, "only WebSocket version 13 is spoken here", Extra::WebSocketVersion)
    }

    /// 431: the head is longer than `max_bytes`.
    pub fn head_too_large(max_bytes: usize) -> Self {
        Self::new(431, format!("the request head is longer than {max_bytes} bytes"), Extra::None)
    }

    /// 431: the head has more header lines than `max`.
    pub fn too_many_headers(max: usize) -> Self {
        Self::new(431, format!("the request has more than {max} header lines"), Extra::None)
    }

    /// 501: a feature of HTTP that this server does without.
    pub fn not_implemented(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(501, reason, Extra::None)
    }

    /// 503: not now; `retry_after` is sent in whole seconds, rounded up.
    pub fn unavailable(reason: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::new(503, reason, Extra::RetryAfter(retry_after))
    }

    /// 505: another major version of HTTP.
    pub fn version_not_supported() -> Self {
        Self::new(505, "only HTTP/1.1 is spoken here", Extra::None)
    }

    fn new(status: u16, reason: impl Into<Cow<'static, str>>, extra: Extra) -> Self {
        Self { status, reason: escaped(reason.into()), extra, is_bodiless: false }
    }

    /// The same as an answer to HEAD (RFC 9110 section 9.3.2: it "MUST NOT send content"). It says no length either: that would be the
    /// length of what a GET had been answered with (section 8.6), and that might have been no refusal.
    #[must_use]
    pub fn without_body(self) -> Self {
        Self { is_bodiless: true, ..self }
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The sentence that is the body, without control characters: fit for a log or a `close` of the dialog.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The whole response, reason and line end as its body.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.with_body(TEXT, format!("{}\n", self.reason).as_bytes())
    }

    /// The whole response, with another body in the place of the reason.
    pub(crate) fn with_body(&self, content_type: &str, body: &[u8]) -> Vec<u8> {
        let plain = |extra: &[(&str, &str)]| match self.is_bodiless {
            true => response_head(self.status, content_type, None, extra).into_bytes(),
            false => response(self.status, content_type, body, extra),
        };
        match self.extra {
            // RFC 9110 section 11.6.1: a 401 carries at least one challenge.
            Extra::Challenge(None) => plain(&[("WWW-Authenticate", "Bearer")]),
            Extra::Challenge(Some(error)) => {
                plain(&[("WWW-Authenticate", &format!("Bearer error=\"{error}\""))])
            }
            Extra::None => plain(&[]),
            Extra::Allow(methods) => plain(&[("Allow", methods)]),
            Extra::RetryAfter(pause) => {
                plain(&[("Retry-After", &whole_seconds(pause).to_string())])
            }
            // RFC 9110 section 7.8: who sends Upgrade also lists it in Connection, here on a line beside `close`.
            Extra::WebSocketVersion => plain(&[
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
            ]),
        }
    }
}

/// One complete HTTP/1.1 response with `Content-Length` and `Connection: close`.
///
/// `extra` holds further header fields; control characters in their values are dropped, so that no value can become a line.
pub fn response(status: u16, content_type: &str, body: &[u8], extra: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = response_head(status, content_type, Some(body.len()), extra).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn response_head(
    status: u16,
    content_type: &str,
    length: Option<usize>,
    extra: &[(&str, &str)],
) -> String {
    let mut head =
        format!("HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\n", phrase(status));
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("Connection: close\r\n");
    for (name, value) in extra {
        head.push_str(name);
        head.push_str(": ");
        head.extend(value.chars().filter(|c| !c.is_control()));
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}

/// A response with the `Date` of the moment at which it is sent (RFC 9110, section 6.6.1). What is no response stays as it is.
pub fn dated(response: &[u8], now: SystemTime) -> Cow<'_, [u8]> {
    let line_end = response.windows(2).position(|pair| pair == b"\r\n");
    match line_end {
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
    let mut clean = String::with_capacity(reason.len() + 8);
    for c in reason.chars() {
        if c.is_control() { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    Cow::Owned(clean)
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        // RFC 9112 section 4: the phrase may be empty.
        _ => "",
    }
}

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
    fn refusals_are_whole_responses() {
        for (refusal, status_line, body) in [
            (Refusal::bad_request("no"), "400 Bad Request", "no"),
            (Refusal::bad_request("a\r\nb\0"), "400 Bad Request", "a\\r\\nb\\u{0}"),
            (Refusal::bad_request("ä\u{85}"), "400 Bad Request", "ä\\u{85}"),
            (Refusal::forbidden("not you"), "403 Forbidden", "not you"),
            (Refusal::not_found("none"), "404 Not Found", "none"),
            (Refusal::timed_out(), "408 Request Timeout", "the request was not whole in time"),
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
                "only HTTP/1.1 is spoken here",
            ),
        ] {
            check(&refusal, status_line, &[], body);
        }
    }

    #[test]
    fn some_statuses_oblige_to_a_header() {
        let second = Duration::from_secs(1);
        for (refusal, status_line, contained, body) in [
            (
                Refusal::method_not_allowed("GET"),
                "405 Method Not Allowed",
                &["Allow: GET"][..],
                "only GET is served here",
            ),
            (
                Refusal::upgrade_required(),
                "426 Upgrade Required",
                &["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Connection: Upgrade"],
                "only WebSocket version 13 is spoken here",
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
    fn an_answer_to_head_has_no_body() {
        let bytes = Refusal::method_not_allowed("GET").without_body().to_bytes();
        let expected = "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain; charset=utf-8\r\n\
                        Connection: close\r\nAllow: GET\r\n\r\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_response_carries_its_body_and_no_smuggled_line() {
        let bytes = response(200, "application/json", b"{}", &[("X-Verdict", "gone\r\nEvil: 1")]);
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\
                        X-Verdict: goneEvil: 1\r\n\r\n{}";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
