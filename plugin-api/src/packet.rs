//! [`Packet`]: a JSON object from a client, read one level deep.
//!
//! `serde_json` validates the syntax without building values: nesting costs no more than its
//! length. Then the object is split into the source text of its keys and values.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2;
use serde::de::{Deserializer as _, IgnoredAny, Visitor};

use crate::{CloseCode, Message, Refused};

/// A JSON object from a client, with every value as the client wrote it.
///
/// Reading it into numbers and strings would lose what clients send: a number beyond 2^64 or with a
/// fraction changes, and half of a surrogate pair, from a text cut within an emoji, is an error.
/// [`Json`] keeps the source text.
///
/// ```
/// use plugsocket_plugin::{Message, Packet};
///
/// let packet = Packet::read(Message::Text(r#"{"opcode":"lock","id":18446744073709551617}"#))?;
/// let [opcode, id, note] = packet.fields(["opcode", "id", "note"]);
/// assert_eq!(opcode.and_then(|json| json.to_text()).as_deref(), Some("lock"));
/// assert_eq!(id.and_then(|json| json.to_text()).as_deref(), Some("18446744073709551617"));
/// assert!(note.is_none());
/// # Ok::<(), plugsocket_plugin::Refused>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    text: &'a str,
}

impl<'a> Packet<'a> {
    /// Reads a message, text or binary.
    ///
    /// # Errors
    /// The message is not a JSON object: a refusal with [`CloseCode::INVALID`] and one sentence for
    /// the client, which contains nothing of the message.
    pub fn read(message: Message<'a>) -> Result<Self, Refused> {
        let invalid = |reason: &str| Refused::with_code(CloseCode::INVALID, reason);
        let text = message.to_text().ok_or_else(|| invalid("a packet must be UTF-8 JSON"))?;
        if text.trim_ascii_start().starts_with('\u{feff}') {
            return Err(invalid(
                "the packet starts with a byte order mark (U+FEFF); send the JSON without it",
            ));
        }
        if !text.trim_ascii_start().starts_with('{') {
            return Err(invalid("a packet must be a JSON object"));
        }
        match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Ok(Self { text }),
            Err(error) => Err(invalid(&format!("a packet must be a JSON object: {error}"))),
        }
    }

    /// Returns the message.
    #[must_use]
    pub fn as_text(&self) -> &'a str {
        self.text
    }

    /// Returns the values of these keys. A value that is missing or null is `None`; if a key occurs
    /// twice, the last value counts, as in JavaScript and PHP.
    #[must_use]
    pub fn fields<const N: usize>(&self, names: [&str; N]) -> [Option<Json<'a>>; N] {
        let mut fields = [None; N];
        for (key, value) in self.members() {
            let key = key.to_text();
            if let Some(at) = names.iter().position(|name| key.as_deref() == Some(name)) {
                fields[at] = Some(value).filter(|value| value.source != "null");
            }
        }
        fields
    }

    /// Returns all keys and values, in the order of the text.
    pub fn members(&self) -> impl Iterator<Item = (Json<'a>, Json<'a>)> + use<'a> {
        let inside = self.text.trim_ascii_start().strip_prefix('{').unwrap_or_default();
        let mut values = Values { rest: inside };
        std::iter::from_fn(move || Some((values.next()?, values.next()?)))
    }
}

/// The source text of one value of a [`Packet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<'a> {
    source: &'a str,
}

impl<'a> Json<'a> {
    /// Returns the value as the client wrote it, a string with its quotes and escapes.
    #[must_use]
    pub fn as_source(self) -> &'a str {
        self.source
    }

    /// Returns a string, or a number as it was written; `None` for any other value.
    ///
    /// PHP's `JSON_NUMERIC_CHECK` makes numbers of strings like `"42"`, so both name the same. Half
    /// of a surrogate pair becomes U+FFFD.
    #[must_use]
    pub fn to_text(self) -> Option<Cow<'a, str>> {
        let Some(inside) = self.source.strip_prefix('"') else {
            return self.is_number().then_some(Cow::Borrowed(self.source));
        };
        let inside = inside.strip_suffix('"')?;
        if inside.contains('\\') { self.decode().map(Cow::Owned) } else { Some(inside.into()) }
    }

    /// Returns a number as a double, infinite beyond its range; `None` for any other value.
    #[must_use]
    pub fn to_number(self) -> Option<f64> {
        if self.is_number() { self.source.parse().ok() } else { None }
    }

    /// Returns the elements of an array; `None` for any other value.
    #[must_use]
    pub fn elements(self) -> Option<impl Iterator<Item = Json<'a>> + use<'a>> {
        self.source.strip_prefix('[').map(|rest| Values { rest })
    }

    fn is_number(self) -> bool {
        self.source.starts_with(|first: char| first == '-' || first.is_ascii_digit())
    }

    fn decode(self) -> Option<String> {
        serde_json::Deserializer::from_str(self.source).deserialize_bytes(Lossy).ok()
    }
}

/// Reads a string in WTF-8, which is how `serde_json` passes half of a surrogate pair on.
struct Lossy;

impl Visitor<'_> for Lossy {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            // The first of the three bytes of half a pair. All other bytes are UTF-8.
            if chunk.invalid() == [0xed] {
                text.push('\u{fffd}');
            }
        }
        Ok(text)
    }
}

/// Splits the inside of a valid object or array into the source text of its keys and values.
struct Values<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Values<'a> {
    type Item = Json<'a>;

    fn next(&mut self) -> Option<Json<'a>> {
        let is_between = |byte: u8| matches!(byte, b':' | b',') || is_whitespace(byte);
        let begin = self.rest.bytes().position(|byte| !is_between(byte))?;
        let rest = &self.rest[begin..];
        let (source, behind) = rest.split_at_checked(value_length(rest.as_bytes()))?;
        self.rest = behind;
        (!source.is_empty()).then_some(Json { source })
    }
}

/// Returns the length of the value at the start of `bytes`; 0 at the end of an object or array.
fn value_length(bytes: &[u8]) -> usize {
    let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || is_whitespace(*byte);
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match bytes.get(at) {
            Some(b'"') => at += string_length(&bytes[at..]),
            Some(b'{' | b'[') => (depth, at) = (depth + 1, at + 1),
            Some(b'}' | b']') if depth > 0 => (depth, at) = (depth - 1, at + 1),
            Some(_) if depth > 0 => {
                at += 1;
                continue;
            }
            _ => return bytes.iter().position(ends).unwrap_or(bytes.len()),
        }
        if depth == 0 {
            return at;
        }
    }
}

/// Returns the length of the string at the start of `bytes`, with its quotes.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// Whitespace of JSON (RFC 8259 section 2).
fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Packet<'_>, Refused> {
        Packet::read(Message::Text(text))
    }

    /// Returns the source text of the value of `x`.
    fn source_of_x(text: &str) -> Option<&str> {
        let [x] = read(text).unwrap().fields(["x"]);
        x.map(Json::as_source)
    }

    #[test]
    fn a_value_keeps_its_source_text() {
        let long = "9".repeat(1000);
        for value in [
            "9007199254740993",
            "123456789012345678901234567890.123456789",
            "-0.0",
            "1.10",
            "1e400",
            "-1.5e-3",
            &long,
            r#""""#,
            r#""\"}\\""#,
            r#""\ud83d""#,
            "true",
            "[]",
            r#"[[1],{"y":"]}"}]"#,
            r#"{"x":{"x":[{}]}}"#,
            r#"{"$serde_json::private::RawValue":"\"y\""}"#,
            r#"{"$serde_json::private::Number":"1"}"#,
        ] {
            for packet in [
                format!(r#"{{"x":{value}}}"#),
                format!(" {{ \"a\":{value}, \"x\"\r\n:\t{value} , \"b\":{value}}} "),
                format!(r#"{{"x":1,"\u0078":{value}}}"#),
            ] {
                assert_eq!(source_of_x(&packet), Some(value), "{packet}");
            }
        }
        for absent in ["{}", r#"{"x":null}"#, r#"{"x":1,"x":null}"#, r#"{"y":{"x":1}}"#] {
            assert_eq!(source_of_x(absent), None, "{absent}");
        }
    }

    #[test]
    fn strings_and_numbers_are_text() {
        for (value, expected) in [
            (r#""a b""#, Some("a b")),
            (r#""""#, Some("")),
            (r#""a\u0062\n\"\\""#, Some("ab\n\"\\")),
            (r#""\ud83d\ude00""#, Some("\u{1f600}")),
            ("42", Some("42")),
            ("-1.50e2", Some("-1.50e2")),
            ("12345678901234567890123", Some("12345678901234567890123")),
            ("true", None),
            ("[1]", None),
            (r#"{"a":"b"}"#, None),
        ] {
            assert_eq!(Json { source: value }.to_text().as_deref(), expected, "{value}");
        }
        assert!(matches!(Json { source: r#""ab""# }.to_text(), Some(Cow::Borrowed("ab"))));
        assert_eq!(Json { source: "-1.5e3" }.to_number(), Some(-1500.0));
        assert_eq!(Json { source: "1e999" }.to_number(), Some(f64::INFINITY));
        assert_eq!(Json { source: r#""1""# }.to_number(), None);
    }

    #[test]
    fn half_of_a_surrogate_pair_is_a_replacement_character() {
        for (value, expected) in [
            (r"cut \ud83d", "cut \u{fffd}"),
            (r"\ude00 cut", "\u{fffd} cut"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
            (r"\ud83dx\n", "\u{fffd}x\n"),
            (r"é\uDBFF\n퟿\uffff", "é\u{fffd}\n\u{d7ff}\u{ffff}"),
            (r"\ud83d\u00e9", "\u{fffd}é"),
        ] {
            let source = format!("\"{value}\"");
            assert_eq!(Json { source: &source }.to_text().as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn arrays_are_split_into_elements() {
        let elements = |source| {
            Json { source }.elements().map(|all| all.map(Json::as_source).collect::<Vec<_>>())
        };
        assert_eq!(
            elements(r#"[ 1,"a]" , [2 ,3],{"b":4}]"#).unwrap(),
            ["1", r#""a]""#, "[2 ,3]", r#"{"b":4}"#]
        );
        assert_eq!(elements("[]").unwrap(), [""; 0]);
        assert_eq!(elements("[ ]").unwrap(), [""; 0]);
        assert_eq!(elements("{}"), None);
        assert_eq!(elements(r#""[]""#), None);
    }

    #[test]
    fn members_put_together_again_are_the_same_object() {
        let text = r#"{ "a":1,"b" : {"c":[ 2 ]} ,"a":"\ud800"}"#;
        let members = read(text).unwrap().members();
        let members: Vec<_> =
            members.map(|(k, v)| format!("{}:{}", k.as_source(), v.as_source())).collect();
        assert_eq!(members.join(","), r#""a":1,"b":{"c":[ 2 ]},"a":"\ud800""#);
    }

    #[test]
    fn anything_but_a_json_object_is_refused_with_a_sentence() {
        let mark = "the packet starts with a byte order mark (U+FEFF); send the JSON without it";
        let object = "a packet must be a JSON object";
        for (text, expected) in [
            ("", object),
            ("hello", object),
            ("[1]", object),
            ("\"{}\"", object),
            ("{} {}", "a packet must be a JSON object: trailing characters at line 1 column 4"),
            ("{'a':1}", "a packet must be a JSON object: key must be a string at line 1 column 2"),
            ("\u{feff}{}", mark),
            (" \u{feff}{", mark),
        ] {
            let refused = read(text).unwrap_err();
            assert_eq!((refused.code, refused.reason.as_str()), (CloseCode::INVALID, expected));
        }
        let binary = Packet::read(Message::Binary(b"{\"a\":\"\xff\"}")).unwrap_err();
        assert_eq!(binary.reason, "a packet must be UTF-8 JSON");
        assert!(Packet::read(Message::Binary(b"{}")).is_ok());
    }

    #[test]
    fn deep_nesting_is_harmless() {
        let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(source_of_x(&deep).unwrap().len(), 400_000);
        read(&"[".repeat(200_000)).unwrap_err();
        read(&"{\"a\":".repeat(100_000)).unwrap_err();
    }
}
