//! Checks the grammar of the list headers of a handshake.
//!
//! RFC 6455 section 4.2.1 rejects a handshake with "any violations of the ABNF grammar". A lenient
//! reader could find a member that a proxy before it does not find.

use super::head::{Head, is_token};
use super::refusal::Refusal;

/// Checks `Connection`, `Upgrade`, `Sec-WebSocket-Protocol` and `Sec-WebSocket-Extensions`.
///
/// # Errors
/// 400 with the name of the malformed header.
pub(super) fn check_lists(head: &Head) -> Result<(), Refusal> {
    let has_valid_members = |name, is_member: fn(&[u8]) -> bool| head.members(name).all(is_member);
    let is_not_empty = |name| !head.has(name) || head.members(name).next().is_some();
    let malformed =
        |name, what| Err(Refusal::bad_request(format!("{name} is not a list of {what}")));
    if !has_valid_members("connection", is_token_text) {
        return malformed("Connection", "options");
    }
    if !has_valid_members("upgrade", is_product) {
        return malformed("Upgrade", "protocols");
    }
    if !has_valid_members("sec-websocket-protocol", is_token_text)
        || !is_not_empty("sec-websocket-protocol")
    {
        return malformed("Sec-WebSocket-Protocol", "subprotocols");
    }
    let extensions = "sec-websocket-extensions";
    if !head.values(extensions).all(are_extensions) || !is_not_empty(extensions) {
        return malformed("Sec-WebSocket-Extensions", "extensions");
    }
    check_unique(head)
}

/// RFC 6455 section 4.1 item 10: the names of subprotocols "MUST all be unique strings".
fn check_unique(head: &Head) -> Result<(), Refusal> {
    let mut names: Vec<&[u8]> = head.members("sec-websocket-protocol").collect();
    names.sort_unstable();
    match names.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(Refusal::bad_request("Sec-WebSocket-Protocol names a subprotocol twice")),
        false => Ok(()),
    }
}

/// Returns whether this is a `token` (RFC 9110 section 5.6.2).
fn is_token_text(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token(*byte))
}

/// Returns whether this is a name with an optional `/version` (RFC 9110 section 7.8).
fn is_product(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == b'/');
    parts.all(is_token_text)
}

/// Returns whether a line is a list of extensions with parameters (RFC 6455 section 9.1).
fn are_extensions(value: &[u8]) -> bool {
    let mut rest = Rest(value);
    loop {
        // Empty members are ignored (RFC 9110 section 5.6.1).
        if !rest.is_at(b',') && !rest.0.is_empty() && !rest.take_extension() {
            return false;
        }
        if rest.0.is_empty() {
            return true;
        }
        if !rest.take(b',') {
            return false;
        }
    }
}

/// The rest of a line.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take_extension(&mut self) -> bool {
        if !self.take_token() {
            return false;
        }
        while self.take(b';') {
            if !self.take_token() || self.take(b'=') && !self.take_value() {
                return false;
            }
        }
        true
    }

    /// RFC 6455 section 9.1: "the value after quoted-string unescaping MUST conform to the 'token'
    /// ABNF".
    fn take_value(&mut self) -> bool {
        if !self.is_at(b'"') {
            return self.take_token();
        }
        let mut text = Vec::new();
        let mut bytes = self.0[1..].iter();
        loop {
            match bytes.next() {
                None => return false,
                Some(b'"') => break,
                Some(b'\\') => text.extend(bytes.next()),
                Some(byte) => text.push(*byte),
            }
        }
        self.0 = bytes.as_slice();
        is_token_text(&text)
    }

    fn take_token(&mut self) -> bool {
        self.skip_space();
        let length = self.0.iter().take_while(|byte| is_token(**byte)).count();
        self.0 = &self.0[length..];
        length > 0
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.is_at(byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn is_at(&mut self, byte: u8) -> bool {
        self.skip_space();
        self.0.first() == Some(&byte)
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }
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
