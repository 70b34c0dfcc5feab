//! The WebSocket upgrade: checks the request and writes the 101 response.
//!
//! Owns the rules of RFC 6455 sections 4.2.1 and 4.2.2. Origin, address and limits are checked
//! elsewhere.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::fields::origin;
use super::head::{Head, Method};
use super::lists;
use super::refusal::{Refusal, bad_request};

/// Checks a request for a WebSocket (RFC 6455 section 4.2.1) and returns the value of
/// `Sec-WebSocket-Accept`.
///
/// # Errors
///
/// 405 for a method other than GET, 426 for a version of WebSocket other than 13, 400 for any other
/// fault.
pub fn check_upgrade(head: &Head) -> Result<String, Refusal> {
    // RFC 6455 section 4.2.1: "An HTTP/1.1 or higher GET request".
    if head.method() != Method::Get {
        return Err(Refusal::method_not_allowed("GET"));
    }
    if head.is_http_1_0() {
        return bad_request("HTTP/1.1 or higher is needed");
    }
    if head.has("transfer-encoding") || head.content_length()?.is_some_and(|length| length > 0) {
        return bad_request("a WebSocket handshake has no body");
    }
    for (name, token) in [("upgrade", "websocket"), ("connection", "upgrade")] {
        if !head.lists(name, token) {
            return bad_request(format!(
                "this is a WebSocket server: the {name} header must name {token}"
            ));
        }
    }
    lists::check_lists(head)?;
    origin(head)?;
    // The version before the key: older drafts have other keys, and must be answered with 426.
    if head.exactly_one("sec-websocket-version")? != b"13" {
        return Err(Refusal::upgrade_required());
    }
    let key = head.exactly_one("sec-websocket-key")?;
    match KEY_BASE64.decode(key) {
        // RFC 6455 section 4.1 item 7: "a randomly selected 16-byte value that has been
        // base64-encoded".
        Ok(nonce) if nonce.len() == 16 => Ok(derive_accept_key(key)),
        _ => bad_request("Sec-WebSocket-Key is not 16 bytes in base64"),
    }
}

/// Returns whether the request names WebSocket, valid or not. A server may ignore an upgrade to any
/// other protocol (RFC 9110 section 7.8).
pub fn wants_websocket(head: &Head) -> bool {
    head.lists("upgrade", "websocket")
}

/// Returns the first subprotocol in the peer's order that the host offers.
///
/// RFC 6455 section 4.1: the peer's list is "ordered by preference"; names are compared exactly.
pub fn choose_protocol<'a>(head: &Head, offered: &'a [String]) -> Option<&'a str> {
    head.members("sec-websocket-protocol")
        .find_map(|wanted| offered.iter().find(|name| name.as_bytes() == wanted))
        .map(String::as_str)
}

/// Returns the 101 response; `accept` is from [`check_upgrade`], `protocol` from
/// [`choose_protocol`].
pub fn switching(accept: &str, protocol: Option<&str>) -> Vec<u8> {
    // The letter case of these values must not change: an old client compares them exactly.
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    if let Some(protocol) = protocol {
        head.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Accepts nonzero bits after the sixteenth byte, which keys written by hand have.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("Host", "h"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];
    /// For [`GOOD`]'s key, from RFC 6455 section 1.3.
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    /// Returns a valid head in which the lines of `changed` replace those of the same name; an
    /// empty value removes the line.
    fn head(method: &str, changed: &[(&str, &str)]) -> Head {
        let mut text = format!("{method} /web HTTP/1.1\r\n");
        for (name, value) in GOOD
            .iter()
            .filter(|(name, _)| !changed.iter().any(|(other, _)| other == name))
            .chain(changed)
        {
            if !value.is_empty() {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        text.push_str("\r\n");
        Head::parse(text.as_bytes(), 8192).unwrap().unwrap().0
    }

    fn check(changed: &[(&str, &str)], expected: Result<(), u16>) {
        let result = check_upgrade(&head("GET", changed));
        let found = result.as_ref().map(|_| ()).map_err(Refusal::status);
        assert_eq!(found, expected, "{changed:?}: {result:?}");
    }

    #[test]
    fn each_header_of_an_upgrade_is_checked() {
        let key = "Sec-WebSocket-Key";
        let version = "Sec-WebSocket-Version";
        for (changed, expected) in [
            (&[][..], Ok(())),
            (&[("Upgrade", "WebSocket")], Ok(())),
            (&[("Upgrade", "h2c, websocket")], Ok(())),
            (&[("Upgrade", "h2c"), ("Upgrade", "websocket")], Ok(())),
            (&[("Connection", "keep-alive, Upgrade")], Ok(())),
            (&[("Connection", "keep-alive"), ("Connection", "UPGRADE")], Ok(())),
            (&[("Connection", ",,keep-alive,\tupgrade ,")], Ok(())),
            (&[("Content-Length", "0")], Ok(())),
            (&[("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")], Ok(())),
            (&[(key, "AAAAAAAAAAAAAAAAAAAAAA==")], Ok(())),
            (&[(key, "AAAAAAAAAAAAAAAAAAAAAB==")], Ok(())),
            (&[("Upgrade", "")], Err(400)),
            (&[("Upgrade", "websockets")], Err(400)),
            (&[("Upgrade", "web socket")], Err(400)),
            (&[("Upgrade", "h2c")], Err(400)),
            (&[("Connection", "")], Err(400)),
            (&[("Connection", "keep-alive")], Err(400)),
            (&[("Connection", "upgrades")], Err(400)),
            (&[("Connection", "keep-alive Upgrade")], Err(400)),
            (&[(key, "")], Err(400)),
            (&[(key, "dGhlIHNhbXBsZSBub25jZQ==")], Ok(())),
            (&[(key, "dGhlIHNhbXBsZSBub25jZQ")], Err(400)),
            (&[(key, "dGhlIHNhbXBsZSBub25jZQ=")], Err(400)),
            (&[(key, "dGhlIHNhbXBsZSBub25jZQ===")], Err(400)),
            (&[(key, "dGhlIHNhbXBsZSBub25j")], Err(400)),
            (&[(key, "dGhlIHNhbXBsZSBub25jZQ0K")], Err(400)),
            (&[(key, "dGhlIHNhbXBsZSBub25j ZQ==")], Err(400)),
            (&[(key, "dGhlIHNhbXBsZSBub25j*Q==")], Err(400)),
            (&[(key, "dGhlIHNhbXBsZSBub25j_-==")], Err(400)),
            (&[(key, "x")], Err(400)),
            (&[(key, "dGhlIHNhbXBsZSBub25jZQ=="), (key, "dGhlIHNhbXBsZSBub25jZQ==")], Err(400)),
            (&[(version, "")], Err(400)),
            (&[(version, "13"), (version, "13")], Err(400)),
            (&[(version, "8")], Err(426)),
            (&[(version, "14")], Err(426)),
            (&[(version, "013")], Err(426)),
            (&[(version, "+13")], Err(426)),
            (&[(version, "13, 8")], Err(426)),
            (&[(version, "13x")], Err(426)),
            (&[(version, "7"), (key, "")], Err(426)),
            (&[("Origin", "https://a"), ("Origin", "https://a")], Err(400)),
            (&[("Content-Length", "1")], Err(400)),
            (&[("Transfer-Encoding", "chunked")], Err(400)),
            (&[("Transfer-Encoding", "identity")], Err(400)),
        ] {
            check(changed, expected);
        }
    }

    #[test]
    fn only_get_upgrades() {
        for method in ["POST", "HEAD", "OPTIONS", "get", "GETT"] {
            let refusal = check_upgrade(&head(method, &[])).unwrap_err();
            assert_eq!(refusal.status(), 405, "{method}");
            assert!(String::from_utf8(refusal.to_bytes()).unwrap().contains("\r\nAllow: GET\r\n"));
        }
    }

    fn check_protocol(lines: &[&str], expected: Option<&str>) {
        let offered = ["chat".to_owned(), "echo.v2".to_owned()];
        let changed: Vec<(&str, &str)> =
            lines.iter().map(|line| ("Sec-WebSocket-Protocol", *line)).collect();
        assert_eq!(choose_protocol(&head("GET", &changed), &offered), expected, "{lines:?}");
    }

    #[test]
    fn the_peers_first_known_protocol_is_chosen() {
        for (lines, expected) in [
            (&[][..], None),
            (&["chat"], Some("chat")),
            (&["echo.v2, chat"], Some("echo.v2")),
            (&["other ,\tchat"], Some("chat")),
            (&["other", "echo.v2"], Some("echo.v2")),
            (&["Chat"], None),
            (&["chat echo.v2"], None),
            (&[",,"], None),
        ] {
            check_protocol(lines, expected);
        }
    }

    #[test]
    fn the_response_has_the_exact_layout() {
        let accept = check_upgrade(&head("GET", &[])).unwrap();
        assert_eq!(accept, ACCEPT);
        let lines = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n"
        );
        assert_eq!(switching(&accept, None), format!("{lines}\r\n").into_bytes());
        let with_protocol = format!("{lines}Sec-WebSocket-Protocol: chat\r\n\r\n");
        assert_eq!(switching(&accept, Some("chat")), with_protocol.into_bytes());
    }
}
