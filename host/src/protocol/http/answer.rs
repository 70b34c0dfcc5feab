//! Responses of applications: the headers that one may send, and the bytes of the response.

use std::time::Duration;

use super::head::is_token;
use super::refusal::{CLOSE, keep_alive, phrase};

/// A response whose status, headers and body an application has chosen.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Only such that [`may_send`] accepts.
    pub(crate) headers: Vec<(Box<str>, Box<str>)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The status of an application that leaves the request to the host.
    pub(crate) const UNHANDLED: u16 = 0;

    /// Creates an answer without headers and body. Another status than 200 to 599 becomes 500.
    pub(crate) fn new(status: u16) -> Self {
        let is_known = status == Self::UNHANDLED || (200..600).contains(&status);
        let status = if is_known { status } else { 500 };
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Returns the number of bytes of the headers and the body.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        headers.sum::<usize>() + self.body.len()
    }

    /// Returns the head. `idle`: for how long the host keeps the connection open after the
    /// response, if it does.
    pub(crate) fn head(&self, idle: Option<Duration>) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        for (name, value) in &self.headers {
            head.extend([name, ": ", value.trim(), "\r\n"]);
        }
        // RFC 9110 section 8.6: a 204 has no length, and a 304 need not have that of a 200.
        if !matches!(self.status, 204 | 304) {
            head.push_str(&format!("Content-Length: {}\r\n", self.content().len()));
        }
        head.push_str(&idle.map_or_else(|| CLOSE.to_owned(), keep_alive));
        head.push_str("\r\n\r\n");
        head.into_bytes()
    }

    /// Returns the body, which some statuses do not have (RFC 9110 sections 15.3.5, 15.3.6 and
    /// 15.4.5).
    pub(crate) fn content(&self) -> &[u8] {
        if matches!(self.status, 204 | 205 | 304) { &[] } else { &self.body }
    }
}

/// Returns whether an application may send this header: it is valid (RFC 9110 sections 5.1 and 5.5)
/// and none that the host sends itself, or that is about the connection.
pub(crate) fn may_send(name: &str, value: &str) -> bool {
    const HOSTS_OWN: [&str; 9] = [
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let is_text = |byte: u8| byte == b'\t' || !byte.is_ascii_control();
    is_token(name.as_bytes())
        && value.bytes().all(is_text)
        && !HOSTS_OWN.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let headers = vec![("X-One".into(), " 1\t".into())];
        Answer { headers, body: body.into(), ..Answer::new(status) }
    }

    #[test]
    fn a_head_has_the_headers_of_the_application_and_those_of_the_host() {
        let head = |answer: &Answer, idle| String::from_utf8(answer.head(idle)).unwrap();
        assert_eq!(
            head(&answer(404, "four"), None),
            "HTTP/1.1 404 Not Found\r\nX-One: 1\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            head(&answer(299, ""), Some(Duration::from_secs(5))),
            "HTTP/1.1 299 \r\nX-One: 1\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\
             Keep-Alive: timeout=5\r\n\r\n"
        );
        for (status, length) in [(204, None), (304, None), (205, Some(0)), (200, Some(4))] {
            let answer = answer(status, "four");
            let line = length.map_or_else(String::new, |n| format!("Content-Length: {n}\r\n"));
            let phrase = phrase(status);
            let expected =
                format!("HTTP/1.1 {status} {phrase}\r\nX-One: 1\r\n{line}{CLOSE}\r\n\r\n");
            assert_eq!(head(&answer, None), expected);
            assert_eq!(answer.content().len(), length.unwrap_or(0), "{status}");
        }
        assert_eq!(
            [0, 101, 199, 600, 7].map(|status| Answer::new(status).status),
            [0, 500, 500, 500, 500]
        );
    }

    #[test]
    fn an_application_sends_only_valid_headers_and_none_of_the_hosts() {
        for (name, value, expected) in [
            ("X-One", "1", true),
            ("Set-Cookie", "a=\"ü\"; Path=/", true),
            ("X-Tab", "a\tb", true),
            ("X-Empty", "", true),
            ("", "x", false),
            ("X One", "x", false),
            ("X-One:", "x", false),
            ("X-Ü", "x", false),
            ("X-One\r\nX-Two", "x", false),
            ("X-One", "a\r\nX-Two: b", false),
            ("X-One", "a\nb", false),
            ("X-One", "a\0b", false),
            ("X-One", "a\u{7f}b", false),
            ("Content-Length", "1", false),
            ("transfer-encoding", "chunked", false),
            ("CONNECTION", "close", false),
            ("Keep-Alive", "x", false),
            ("Date", "x", false),
            ("Upgrade", "x", false),
            ("Trailer", "x", false),
            ("TE", "x", false),
        ] {
            assert_eq!(may_send(name, value), expected, "{name:?}: {value:?}");
        }
    }
}
