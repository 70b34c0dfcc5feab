//! The request target and the authority of `Host`.
//!
//! A path is compared with the configured resources byte for byte and is not decoded. So a path
//! that a proxy, an application or a log could decode into another one is rejected.

use super::refusal::{Refusal, bad_request};

/// Returns where path and query begin in a target in origin-form or absolute-form; rejects other
/// forms with 400. An empty path means `/`.
///
/// RFC 9112 section 3.2.2: "a server MUST accept the absolute-form in requests".
pub(super) fn path_start(target: &[u8]) -> Result<usize, Refusal> {
    if !target.iter().all(u8::is_ascii_graphic) {
        return bad_request("the request target holds a byte that is not visible ASCII");
    }
    // RFC 9112 section 3.2: no form of the target has a fragment.
    if target.contains(&b'#') {
        return bad_request("the request target has a fragment");
    }
    let start = if target.starts_with(b"/") { 0 } else { after_authority(target)? };
    let rest = &target[start..];
    check_path(&rest[..memchr::memchr(b'?', rest).unwrap_or(rest.len())])?;
    Ok(start)
}

/// Returns where scheme and authority of an absolute-form end.
fn after_authority(target: &[u8]) -> Result<usize, Refusal> {
    let rejected =
        || Refusal::bad_request("the request target is not a path that begins with a slash");
    let scheme_end = memchr::memmem::find(target, b"://").ok_or_else(rejected)?;
    let scheme = target[..scheme_end].to_ascii_lowercase();
    if !matches!(&scheme[..], b"http" | b"https" | b"ws" | b"wss") {
        return Err(rejected());
    }
    let authority_at = scheme_end + 3;
    let rest = &target[authority_at..];
    let authority = &rest[..memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len())];
    // RFC 9110 section 4.2.4: it "SHOULD" be treated "as an error".
    if authority.contains(&b'@') {
        return bad_request("the request target has user information");
    }
    if is_authority(authority) { Ok(authority_at + authority.len()) } else { Err(rejected()) }
}

/// Rejects `..` segments, backslashes and control characters (plain or percent-encoded), a `%`
/// without two hex digits, and the delimiters that no URI contains.
///
/// The query is not checked: browsers do not encode a lone `%` or a backslash in it.
fn check_path(path: &[u8]) -> Result<(), Refusal> {
    let mut rest = path;
    // The length of the current segment while it consists of dots.
    let mut dots = Some(0);
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = if first == b'%' { percent_decoded(after)? } else { (first, after) };
        match byte {
            b'/' if dots == Some(2) => break,
            b'/' => dots = Some(0),
            b'.' => dots = dots.map(|n: usize| n + 1),
            b'\\' => return bad_request("the path holds a backslash"),
            _ if byte.is_ascii_control() => {
                return bad_request("the path holds a control character");
            }
            b'"' | b'<' | b'>' if first != b'%' => {
                return bad_request("the path holds a character that must be percent-encoded");
            }
            _ => dots = None,
        }
        rest = after;
    }
    if dots == Some(2) { bad_request("the path has a \"..\" segment") } else { Ok(()) }
}

/// Decodes the byte after a `%` and returns it with the bytes that follow.
fn percent_decoded(digits: &[u8]) -> Result<(u8, &[u8]), Refusal> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if let [high, low, rest @ ..] = digits
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Ok(((high << 4 | low) as u8, rest));
    }
    bad_request("the path has a malformed percent-encoding")
}

/// Returns whether this is `host [ ":" port ]` (RFC 3986 section 3.2), without user information.
pub(super) fn is_authority(authority: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(authority) else { return false };
    let (is_valid_host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (is_reg_name(host.as_bytes()), port)
        }
    };
    // RFC 3986 section 3.2.3: the port may be empty after its colon.
    is_valid_host && (matches!(port, "" | ":") || port.strip_prefix(':').is_some_and(is_port))
}

/// Returns whether this is a port number in digits.
pub(super) fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Returns whether this is a `reg-name` (RFC 3986 section 3.2.2) that is not empty (RFC 9110
/// section 4.2.1).
fn is_reg_name(host: &[u8]) -> bool {
    let mut rest = host;
    while let Some((&first, after)) = rest.split_first() {
        rest = match first {
            b'%' => match percent_decoded(after) {
                Ok((_, after)) => after,
                Err(_) => return false,
            },
            _ if first.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&first) => after,
            _ => return false,
        };
    }
    !host.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, expected: Option<(&str, &str)>) {
        let found = path_start(target.as_bytes()).ok().map(|start| &target[start..]);
        let found = found.map(|found| found.split_once('?').unwrap_or((found, "")));
        assert_eq!(found, expected, "{target}");
    }

    #[test]
    fn a_target_is_a_safe_path_with_a_query() {
        for (target, expected) in [
            ("/", Some(("/", ""))),
            ("/web", Some(("/web", ""))),
            ("/web?", Some(("/web", ""))),
            ("/web?a=1&b=%2", Some(("/web", "a=1&b=%2"))),
            ("/web?a=/../b\\?", Some(("/web", "a=/../b\\?"))),
            ("//web", Some(("//web", ""))),
            ("/a|b[c]^{}`~:@!$&'()*+,;=", Some(("/a|b[c]^{}`~:@!$&'()*+,;=", ""))),
            ("/a/./b", Some(("/a/./b", ""))),
            ("/a/...", Some(("/a/...", ""))),
            ("/a/..b/c..", Some(("/a/..b/c..", ""))),
            ("/a%20b%C3%A4", Some(("/a%20b%C3%A4", ""))),
            ("/%22%3c", Some(("/%22%3c", ""))),
            ("/%252e%252e", Some(("/%252e%252e", ""))),
            ("http://h/web?x", Some(("/web", "x"))),
            ("HTTPS://h:1/web", Some(("/web", ""))),
            ("ws://[::1]:80/web", Some(("/web", ""))),
            ("wss://h", Some(("", ""))),
            ("ws://h?x=1", Some(("", "x=1"))),
            ("", None),
            ("*", None),
            ("web", None),
            ("h:443", None),
            ("ftp://h/", None),
            ("://h/", None),
            ("http://", None),
            ("http:///web", None),
            ("http:/web", None),
            ("http://user@h/", None),
            ("http://h:x/", None),
            ("http://h/../a", None),
            ("/a#b", None),
            ("/a?b#c", None),
            ("/..", None),
            ("/../a", None),
            ("/a/..", None),
            ("/a/../b", None),
            ("/a/..?q", None),
            ("/a/%2e%2e/b", None),
            ("/a/.%2E", None),
            ("/a%2f..%2fb", None),
            ("/a%2F%2e.%2fb", None),
            ("/a\\b", None),
            ("/a%5cb", None),
            ("/%00", None),
            ("/%0d%0a", None),
            ("/%7f", None),
            ("/%", None),
            ("/%2", None),
            ("/%g0", None),
            ("/%+1", None),
            ("/a\"b", None),
            ("/<a>", None),
            ("/ä", None),
            ("/a\tb", None),
            ("/a\u{7f}", None),
        ] {
            check(target, expected);
        }
    }

    #[test]
    fn an_authority_is_a_host_and_a_port() {
        for (authority, good) in [
            ("h", true),
            ("example.org:8095", true),
            ("a_b-c.d~e", true),
            ("127.0.0.1:1", true),
            ("[::1]", true),
            ("[::ffff:1.2.3.4]:65535", true),
            ("h:", true),
            ("a%20b", true),
            ("", false),
            (":80", false),
            ("h:65536", false),
            ("h:+1", false),
            ("h:1:2", false),
            ("::1", false),
            ("[::1", false),
            ("[::1]x", false),
            ("[h]", false),
            ("[]", false),
            ("u@h", false),
            ("h/x", false),
            ("h h", false),
            ("h,h2", true),
            ("a%2", false),
            ("hä", false),
        ] {
            assert_eq!(is_authority(authority.as_bytes()), good, "{authority}");
        }
    }
}
