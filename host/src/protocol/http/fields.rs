//! Parses the header fields about a request's body, its origin and the kind of its client.
//!
//! Makes no decisions: the caller passes the trusted addresses as a predicate.

use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

use super::head::Head;
use super::refusal::{Refusal, bad_request};
use super::target::is_port;

/// The kind of client, according to `Client-Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientType {
    /// A browser, or any client without the header.
    WebSocket,
    /// A backend script: `Client-Type: php` or `Client-Type: backend`.
    Backend,
}

/// Parses the header `Client-Type`, ignoring case.
///
/// # Errors
///
/// 400 if it is repeated: a proxy and the host could read different ones.
pub fn client_type(head: &Head) -> Result<ClientType, Refusal> {
    let name = head.at_most_one("Client-Type")?.unwrap_or_default();
    let is_backend =
        ["php", "backend"].iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    Ok(if is_backend { ClientType::Backend } else { ClientType::WebSocket })
}

/// Returns the origin of the page that a browser connects from, unchanged.
///
/// # Errors
///
/// 400 if it is repeated, which RFC 6454 section 7.3 forbids.
pub fn origin(head: &Head) -> Result<Option<&[u8]>, Refusal> {
    head.at_most_one("Origin")
}

/// Returns the client's name from `Ident`; `None` unless it is UTF-8 of 1 to 256 bytes without
/// control characters.
pub fn ident(head: &Head) -> Option<&str> {
    let name = head.header("ident")?.trim();
    let is_valid = (1..=MAX_IDENT_BYTES).contains(&name.len()) && !name.contains(char::is_control);
    is_valid.then_some(name)
}

/// Returns the interval of the query parameter `heartbeat`, which the host reserves: after how many
/// seconds without a message the client wants a sign of life.
///
/// # Errors
///
/// 400 unless it occurs at most once and is an integer from 1 to 600.
pub fn heartbeat(head: &Head) -> Result<Option<Duration>, Refusal> {
    let wrong = || {
        Refusal::bad_request("the query parameter heartbeat is a number of seconds from 1 to 600")
    };
    let mut values = head.query().split('&').filter_map(|pair| match pair.split_once('=') {
        Some((HEARTBEAT, seconds)) => Some(seconds),
        _ => (pair == HEARTBEAT).then_some(""),
    });
    let Some(seconds) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::bad_request("the query parameter heartbeat is there twice"));
    }
    let is_number = seconds.bytes().all(|byte| byte.is_ascii_digit());
    match seconds.parse() {
        Ok(seconds @ 1..=600) if is_number => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(wrong()),
    }
}

const HEARTBEAT: &str = "heartbeat";

/// Where the body of a request ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// After this number of bytes.
    Length(usize),
    /// Where [`ChunkedBody`](super::ChunkedBody) finds it.
    Chunked,
}

/// Returns where the body of a POST ends, which must say that.
///
/// # Errors
///
/// 411 without a length, 413 above `max` bytes, 501 for a transfer coding other than chunked, 400 if
/// chunked is not the last coding or is named twice.
pub fn post_body(head: &Head, max: usize) -> Result<BodyEnd, Refusal> {
    if head.has("transfer-encoding") {
        return check_chunked(head).map(|()| BodyEnd::Chunked);
    }
    let length = head.content_length()?.ok_or_else(Refusal::length_required)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= max);
    length.map(BodyEnd::Length).ok_or_else(|| Refusal::body_too_large(max))
}

/// Returns where the body of any request ends: without a length there is none (RFC 9112 section
/// 6.3).
///
/// # Errors
///
/// The same as those of [`post_body`], except 411.
pub fn request_body(head: &Head, max: usize) -> Result<BodyEnd, Refusal> {
    match head.has("content-length") || head.has("transfer-encoding") {
        true => post_body(head, max),
        false => Ok(BodyEnd::Length(0)),
    }
}

/// Checks that the body is chunked and has no other coding.
fn check_chunked(head: &Head) -> Result<(), Refusal> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    // One line without empty members: a parser before the host may read other lists in another way.
    if head.at_most_one("Transfer-Encoding")?.is_some_and(is_chunked) {
        return Ok(());
    }
    let codings: Vec<&[u8]> = head.members("transfer-encoding").collect();
    let chunked_at = codings.iter().position(|coding| is_chunked(coding));
    // RFC 9112 section 6.3: the length is unknown if chunked is not the last coding.
    let may_be_last = chunked_at.is_none_or(|at| at > 0 && at + 1 == codings.len());
    match may_be_last && !codings.is_empty() {
        true => Err(Refusal::not_implemented("chunked is the only supported Transfer-Encoding")),
        false => bad_request("Transfer-Encoding is not `chunked` alone"),
    }
}

/// Returns whether the client waits for [`CONTINUE`](super::CONTINUE) before it sends the body (RFC
/// 9110 section 10.1.1); in HTTP/1.0 it cannot.
pub fn wants_continue(head: &Head) -> bool {
    !head.is_http_1_0() && head.lists("expect", "100-continue")
}

/// Returns whether the client may send another request on this connection (RFC 9112 section 9.3).
pub fn wants_keep_alive(head: &Head) -> bool {
    let is_kept = !head.is_http_1_0() || head.lists("connection", "keep-alive");
    is_kept && !head.lists("connection", "close")
}

/// The client on whose behalf a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// The peer itself: it is not a trusted proxy, or names no client.
    Direct,
    /// The client with this address.
    For(IpAddr),
    /// A client that the trusted proxy with this address names in an unreadable way; `None` if the
    /// proxy has no address.
    Unreadable(Option<IpAddr>),
}

/// Returns the client that `X-Forwarded-For` names, if the peer is a trusted proxy.
///
/// The header is read from the right, over all its lines: each proxy appends the address it saw, so
/// an entry is as trustworthy as the one to its right. The first address that is not trusted is the
/// client's; if all are trusted, the leftmost is. Entries may have a port, and IPv6 addresses a
/// zone; IPv4 addresses mapped into IPv6 are IPv4, also for `is_trusted`.
///
/// A peer without an address is a trusted one on a Unix socket.
pub fn forwarded_for(
    head: &Head,
    peer: Option<IpAddr>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Forwarded {
    let peer = peer.map(|peer| peer.to_canonical());
    if !peer.is_none_or(&is_trusted) || !head.has("x-forwarded-for") {
        return Forwarded::Direct;
    }
    let mut nearest = peer;
    let lines: Vec<&[u8]> = head.values("x-forwarded-for").collect();
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',')) {
        let Some(address) = address(entry.trim_ascii()) else {
            return Forwarded::Unreadable(nearest);
        };
        let address = address.to_canonical();
        nearest = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    nearest.map_or(Forwarded::Direct, Forwarded::For)
}

/// Parses `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]` or `[::1]:5`; IPv6 addresses may have a zone.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?;
    let (text, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => match text.parse::<SocketAddrV4>() {
            Ok(address) => return Some(IpAddr::V4(*address.ip())),
            Err(_) if text.contains(':') => (text, ""),
            Err(_) => return text.parse().ok().map(IpAddr::V4),
        },
    };
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return None;
    }
    // The zone names an interface of the proxy.
    let address = text.split('%').next().unwrap_or_default();
    address.parse().ok().map(IpAddr::V6)
}

const MAX_IDENT_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &str) -> Head {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        Head::parse(text.as_bytes(), 8192).unwrap().unwrap().0
    }

    #[test]
    fn a_heartbeat_is_one_number_of_seconds() {
        for (query, expected) in [
            ("", Ok(None)),
            ("?", Ok(None)),
            ("?a=heartbeat&heartbeats=x&Heartbeat=x", Ok(None)),
            ("?heartbeat=1", Ok(Some(1))),
            ("?a=1&heartbeat=600&b", Ok(Some(600))),
            ("?heartbeat=0", Err(400)),
            ("?heartbeat=601", Err(400)),
            ("?heartbeat=99999999999999999999", Err(400)),
            ("?heartbeat=", Err(400)),
            ("?heartbeat", Err(400)),
            ("?heartbeat=+5", Err(400)),
            ("?heartbeat=-5", Err(400)),
            ("?heartbeat=2.5", Err(400)),
            ("?heartbeat=5s", Err(400)),
            ("?heartbeat=%35", Err(400)),
            ("?heartbeat=5&heartbeat=5", Err(400)),
        ] {
            let text = format!("GET /{query} HTTP/1.1\r\nHost: h\r\n\r\n");
            let (head, _) = Head::parse(text.as_bytes(), 8192).unwrap().unwrap();
            let found = heartbeat(&head).map_err(|refusal| refusal.status());
            assert_eq!(found, expected.map(|seconds| seconds.map(Duration::from_secs)), "{query}");
        }
    }

    fn check_forwarded(fields: &str, peer: &str, expected: Forwarded) {
        let trusted = |address: IpAddr| {
            address.is_loopback() || matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10)
        };
        let found = forwarded_for(&head(fields), peer.parse().ok(), trusted);
        assert_eq!(found, expected, "{fields:?} from {peer}");
    }

    #[test]
    fn the_first_untrusted_address_from_the_right_counts() {
        let (one, v6) = (Some("1.1.1.1"), Some("2001:db8::1"));
        for (fields, peer, expected) in [
            ("", "127.0.0.1", None),
            ("", "9.9.9.9", None),
            ("X-Forwarded-For: 1.1.1.1\r\n", "9.9.9.9", None),
            ("X-Forwarded-For: unknown\r\n", "9.9.9.9", None),
            ("X-Forwarded-For: 1.1.1.1\r\n", "127.0.0.1", one),
            ("x-forwarded-for: 1.1.1.1\r\n", "::1", one),
            ("X-Forwarded-For: 1.1.1.1\r\n", "::ffff:127.0.0.1", one),
            ("X-Forwarded-For: 1.1.1.1\r\n", "::ffff:9.9.9.9", None),
            ("X-Forwarded-For: 6.6.6.6, 1.1.1.1\r\n", "127.0.0.1", one),
            ("X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.0.0.2 ,10.0.0.1\r\n", "127.0.0.1", one),
            ("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.1.1.1, 10.0.0.1\r\n", "::1", one),
            ("X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 10.0.0.1\r\n", "127.0.0.1", one),
            ("X-Forwarded-For: 10.0.0.2, 10.0.0.1\r\n", "127.0.0.1", Some("10.0.0.2")),
            ("X-Forwarded-For: 127.0.0.1\r\n", "127.0.0.1", Some("127.0.0.1")),
            ("X-Forwarded-For: unknown, 1.1.1.1\r\n", "127.0.0.1", one),
            ("X-Forwarded-For: 1.1.1.1:80\r\n", "127.0.0.1", one),
            ("X-Forwarded-For: 2001:db8::1\r\n", "127.0.0.1", v6),
            ("X-Forwarded-For: [2001:db8::1]\r\n", "127.0.0.1", v6),
            ("X-Forwarded-For: [2001:db8::1]:443\r\n", "127.0.0.1", v6),
            ("X-Forwarded-For: [::ffff:1.1.1.1]:443\r\n", "127.0.0.1", one),
            ("X-Forwarded-For: 1.1.1.1, ::ffff:10.0.0.1\r\n", "127.0.0.1", one),
            ("X-Forwarded-For: fe80::1%eth0\r\n", "127.0.0.1", Some("fe80::1")),
            ("X-Forwarded-For: [fe80::1%eth0]\r\n", "127.0.0.1", Some("fe80::1")),
            ("X-Forwarded-For: [fe80::1%25en1]:80\r\n", "127.0.0.1", Some("fe80::1")),
        ] {
            let address = expected.map(|address| address.parse().unwrap());
            check_forwarded(fields, peer, address.map_or(Forwarded::Direct, Forwarded::For));
        }
    }

    #[test]
    fn an_unreadable_entry_hides_the_client() {
        let (proxy, next) = ("127.0.0.1", "10.0.0.1");
        for (value, nearest) in [
            ("", proxy),
            (",", proxy),
            ("1.1.1.1,", proxy),
            ("1.1.1.1, unknown", proxy),
            ("unix:", proxy),
            ("1.1.1.1, unknown, 10.0.0.1", next),
            ("1.1.1.1,,10.0.0.1", next),
            ("1.1.1.256", proxy),
            ("\"1.1.1.1\"", proxy),
            ("01.1.1.1", proxy),
            ("1.1.1.1:99999", proxy),
            ("1.1.1.1:", proxy),
            ("1.1.1.1%eth0", proxy),
            ("[1.1.1.1]", proxy),
            ("[::1", proxy),
            ("[::1]:", proxy),
            ("[::1]:+1", proxy),
            ("[::1]:99999", proxy),
            ("[::1]x", proxy),
            ("%eth0", proxy),
        ] {
            let fields = format!("X-Forwarded-For: {value}\r\n");
            check_forwarded(&fields, proxy, Forwarded::Unreadable(nearest.parse().ok()));
        }
    }

    fn check_post(fields: &str, expected: Result<BodyEnd, u16>) {
        let found = post_body(&head(fields), 100).map_err(|refusal| refusal.status());
        assert_eq!(found, expected, "{fields:?}");
    }

    #[test]
    fn bodies_are_chunked_or_have_a_length_within_the_limit() {
        let length = |length| Ok(BodyEnd::Length(length));
        for (fields, expected) in [
            ("Content-Length: 0\r\n", length(0)),
            ("Content-Length: 100\r\n", length(100)),
            ("Content-Length: 0007\r\n", length(7)),
            ("Content-Length: 7\r\nContent-Length: 7\r\n", length(7)),
            ("Content-Length: 7, 7\r\n", length(7)),
            ("Content-Length: 101\r\n", Err(413)),
            ("Content-Length: 18446744073709551616\r\n", Err(413)),
            ("Content-Length: 99999999999999999999999999999999\r\n", Err(413)),
            ("", Err(411)),
        ] {
            check_post(fields, expected);
        }
        for (codings, expected) in [
            ("chunked", Ok(BodyEnd::Chunked)),
            ("CHUNKED", Ok(BodyEnd::Chunked)),
            ("gzip, chunked", Err(501)),
            ("xchunked", Err(501)),
            ("chunked;a=b", Err(501)),
            ("identity", Err(501)),
            ("chunked, gzip", Err(400)),
            ("gzip, chunked, identity", Err(400)),
            ("chunked, chunked", Err(400)),
            (", chunked", Err(400)),
            ("chunked,", Err(400)),
            (",", Err(400)),
            ("", Err(400)),
            ("chunked\r\nTransfer-Encoding: chunked", Err(400)),
            ("chunked\r\nTransfer-Encoding:", Err(400)),
        ] {
            check_post(&format!("Transfer-Encoding: {codings}\r\n"), expected);
        }
    }

    #[test]
    fn a_connection_is_kept_as_version_and_options_say() {
        for (version, fields, expected) in [
            ("1.1", "", true),
            ("1.2", "", true),
            ("1.1", "Connection: keep-alive\r\n", true),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let text = format!("POST / HTTP/{version}\r\nHost: h\r\n{fields}\r\n");
            let head = Head::parse(text.as_bytes(), 8192).unwrap().unwrap().0;
            assert_eq!(wants_keep_alive(&head), expected, "{text:?}");
        }
    }

    #[test]
    fn only_100_continue_is_an_expectation() {
        for (fields, expected) in [
            ("", false),
            ("Expect: 100-continue\r\n", true),
            ("Expect: 100-Continue\r\n", true),
            ("Expect: something\r\n", false),
        ] {
            assert_eq!(wants_continue(&head(fields)), expected, "{fields:?}");
        }
    }

    #[test]
    fn client_type_and_ident_are_parsed() {
        let longest = "x".repeat(MAX_IDENT_BYTES);
        for (fields, kind, name) in [
            ("", ClientType::WebSocket, None),
            ("Client-Type: php\r\nIdent: a b\r\n", ClientType::Backend, Some("a b")),
            ("client-type: PHP\r\nIDENT: \u{e4}\r\n", ClientType::Backend, Some("\u{e4}")),
            ("Client-Type: Backend\r\nIdent:\r\n", ClientType::Backend, None),
            ("Client-Type: browser\r\nIdent: \u{a0} \r\n", ClientType::WebSocket, None),
            ("Client-Type: phpx\r\nIdent: a\tb\r\n", ClientType::WebSocket, None),
            ("Client-Type:\r\nIdent: a\u{85}b\r\n", ClientType::WebSocket, None),
            (&format!("Ident: {longest}\r\n"), ClientType::WebSocket, Some(longest.as_str())),
            (&format!("Ident: {longest}x\r\n"), ClientType::WebSocket, None),
        ] {
            let head = head(fields);
            assert_eq!((client_type(&head), ident(&head)), (Ok(kind), name), "{fields:?}");
        }
        let twice = head("Client-Type: php\r\nClient-Type: php\r\n");
        assert_eq!(client_type(&twice).map_err(|refusal| refusal.status()), Err(400));
    }

    #[test]
    fn at_most_one_origin_is_accepted() {
        for (fields, expected) in [
            ("", Ok(None)),
            ("Origin:\r\n", Ok(Some(&b""[..]))),
            ("Origin: null\r\n", Ok(Some(b"null"))),
            ("Origin: \u{e4}\r\n", Ok(Some("\u{e4}".as_bytes()))),
            ("Origin: a\r\nOrigin: a\r\n", Err(400)),
            ("Origin: \u{e4}\r\nX: y\r\norigin: a\r\n", Err(400)),
        ] {
            let head = head(fields);
            assert_eq!(origin(&head).map_err(|refusal| refusal.status()), expected, "{fields:?}");
        }
    }
}
