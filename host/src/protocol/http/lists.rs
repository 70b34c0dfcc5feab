//! Checks the grammar of the list headers of a handshake.
//!
//! RFC 6455 section 4.2.1 rejects a handshake with "any violations of the ABNF grammar". A lenient
//! reader could find a member that a proxy before it does not find.

use super::head::{Head, is_token};
use super::refusal::{Refusal, bad_request};

/// Checks `Connection`, `Upgrade`, `Sec-WebSocket-Protocol` and `Sec-WebSocket-Extensions`.
///
/// # Errors
/// 400 with the name of the malformed header.
pub(super) fn check_lists(head: &Head) -> Result<(), Refusal> {
    let (protocols, extensions) = ("Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions");
    let lists: [(&str, &str, Grammar); 4] = [
        ("Connection", "options", is_token),
        ("Upgrade", "protocols", is_product),
        (protocols, "subprotocols", is_token),
        (extensions, "extensions", is_extension),
    ];
    for (name, what, is_member) in lists {
        // RFC 6455 sections 4.3 and 9.1: these two have at least one member.
        let is_empty = [protocols, extensions].contains(&name)
            && head.has(name)
            && head.members(name).next().is_none();
        if is_empty || !head.members(name).all(is_member) {
            return bad_request(format!("{name} is not a list of {what}"));
        }
    }
    // RFC 6455 section 4.1 item 10: the names of subprotocols "MUST all be unique strings".
    let mut names: Vec<&[u8]> = head.members(protocols).collect();
    names.sort_unstable();
    match names.windows(2).any(|pair| pair[0] == pair[1]) {
        true => bad_request("Sec-WebSocket-Protocol names a subprotocol twice"),
        false => Ok(()),
    }
}

/// Returns whether these bytes are one member of a list.
type Grammar = fn(&[u8]) -> bool;

/// Returns whether this is a name with an optional `/version` (RFC 9110 section 7.8).
fn is_product(bytes: &[u8]) -> bool {
    bytes.splitn(2, |byte| *byte == b'/').all(is_token)
}

/// Returns whether this is an extension with parameters (RFC 6455 section 9.1). No valid parameter
/// contains a comma or a semicolon, not even in quotes.
fn is_extension(bytes: &[u8]) -> bool {
    let mut parts = bytes.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    parts.next().is_some_and(is_token) && parts.all(is_parameter)
}

/// RFC 6455 section 9.1: "the value after quoted-string unescaping MUST conform to the 'token'
/// ABNF".
fn is_parameter(bytes: &[u8]) -> bool {
    let Some(equals) = memchr::memchr(b'=', bytes) else { return is_token(bytes) };
    let (name, value) = (bytes[..equals].trim_ascii(), bytes[equals + 1..].trim_ascii());
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    is_token(name) && quoted.map_or_else(|| is_token(value), is_quoted_token)
}

fn is_quoted_token(quoted: &[u8]) -> bool {
    let (mut bytes, mut text) = (quoted.iter(), Vec::new());
    while let Some(byte) = bytes.next() {
        // The byte after a backslash; a backslash without one is not part of a token.
        text.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    is_token(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, is_good: bool) {
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{name}: {value}\r\n\r\n");
        let (head, _) = Head::parse(text.as_bytes(), 8192).unwrap().unwrap();
        assert_eq!(check_lists(&head).is_ok(), is_good, "{name}: {value:?}");
    }

    #[test]
    fn subprotocols_are_tokens_each_once() {
        for (value, is_good) in [
            ("chat", true),
            ("chat, echo.v2", true),
            (",,chat ,\tx,", true),
            ("Chat, chat", true),
            ("", false),
            (",", false),
            ("ch at", false),
            ("chat;q=1", false),
            ("\"chat\"", false),
            ("a/b", false),
            ("chat, @", false),
            ("chät", false),
            ("chat, x, chat", false),
            ("chat\r\nSec-WebSocket-Protocol: x", true),
            ("chat\r\nSec-WebSocket-Protocol: chat", false),
            ("chat\r\nSec-WebSocket-Protocol: ", true),
        ] {
            check("Sec-WebSocket-Protocol", value, is_good);
        }
    }

    #[test]
    fn extensions_are_tokens_with_parameters() {
        for (value, is_good) in [
            ("permessage-deflate; client_max_window_bits", true),
            ("permessage-deflate;client_max_window_bits=15 , x ; a = b", true),
            ("x; a=\"b\", y", true),
            (r#"x; a="\b""#, true),
            (",x,", true),
            ("", false),
            (", ,", false),
            (";", false),
            ("x;", false),
            ("x; =", false),
            ("x; a=", false),
            ("x; a=\"", false),
            ("x; a=\"\"", false),
            ("x; a=\"b c\"", false),
            ("x; a=\"b, y\"", false),
            (r#"x; a="b\"#, false),
            ("x; a=b=c", false),
            ("foo bar", false),
            ("foo;;bar", false),
            ("foo, ;bar", false),
            ("=foo", false),
            ("\"foo\"", false),
            ("foo/bar", false),
            ("föo", false),
        ] {
            check("Sec-WebSocket-Extensions", value, is_good);
        }
    }

    #[test]
    fn options_and_protocols_are_tokens() {
        check("Connection", "keep-alive, Upgrade", true);
        check("Connection", "Upgrade, a b", false);
        check("Connection", "Upgrade, @", false);
        check("Upgrade", "websocket, h2c/1.0", true);
        check("Upgrade", "websocket, h2c/", false);
        check("Upgrade", "websocket, \"x", false);
    }
}
