//! Reads the three keys that route a packet, and nothing else. Values without escapes are borrowed.
//!
//! `serde_json` validates the syntax without building values: numbers may exceed a double, strings
//! may contain half a surrogate pair, and nesting costs no more than its length. Then the top level
//! is split into the source text of keys and values.

use std::borrow::Cow;

use memchr::memchr2;
use serde::de::IgnoredAny;

/// The keys that route a packet. An empty string and a value of another type count as absent. If a
/// key occurs twice, the last value counts, as in JavaScript and PHP.
#[derive(Default)]
pub(crate) struct Envelope<'a> {
    pub(crate) opcode: Option<Cow<'a, str>>,
    pub(crate) uuid: Option<Cow<'a, str>>,
    pub(crate) ident: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Returns `None` if the text is not a JSON object.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        let members = Members { rest: text.trim_ascii_start().strip_prefix('{')? };
        let mut envelope = Self::default();
        for (key, value) in members {
            let slot = match string_of(key).as_deref() {
                Some("opcode") => &mut envelope.opcode,
                Some("uuid") => &mut envelope.uuid,
                Some("ident") => &mut envelope.ident,
                _ => continue,
            };
            *slot = string_of(value);
        }
        Some(envelope)
    }
}

/// Decodes a non-empty JSON string; `None` for any other value and for a lone surrogate.
fn string_of(source: &str) -> Option<Cow<'_, str>> {
    let inside = source.strip_prefix('"')?.strip_suffix('"')?;
    match inside {
        "" => None,
        _ if inside.contains('\\') => serde_json::from_str(source).ok().map(Cow::Owned),
        _ => Some(Cow::Borrowed(inside)),
    }
}

/// Splits a valid object, after its opening brace, into the source text of its keys and values.
struct Members<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.take()?;
        let value = self.take()?;
        Some((key, value))
    }
}

impl<'a> Members<'a> {
    /// Returns the next key or value; `None` at the end of the object.
    fn take(&mut self) -> Option<&'a str> {
        let is_between = |byte: u8| matches!(byte, b':' | b',') || is_whitespace(byte);
        let begin = self.rest.bytes().position(|byte| !is_between(byte))?;
        let rest = &self.rest[begin..];
        let (source, behind) = rest.split_at_checked(value_length(rest.as_bytes()))?;
        self.rest = behind;
        (!source.is_empty()).then_some(source)
    }
}

/// Returns the length of the value at the start of `bytes`; 0 at the end of an object.
fn value_length(bytes: &[u8]) -> usize {
    let ends = |byte: &u8| matches!(byte, b',' | b'}') || is_whitespace(*byte);
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
    use super::Envelope;
    use std::borrow::Cow;

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        let envelope = Envelope::read(r#"{"opcode":"echo","opcode":"quit"}"#).unwrap();
        assert_eq!(envelope.opcode.as_deref(), Some("quit"));
    }

    #[test]
    fn values_of_other_types_count_as_absent() {
        let long = format!(r#"{{"uuid":{},"opcode":"echo"}}"#, "9".repeat(400));
        for packet in [
            r#"{"opcode":"echo","uuid":1e999}"#,
            r#"{"opcode":"echo","ident":-1e400}"#,
            &long,
            r#"{"opcode":"echo","ident":"\ud800"}"#,
            r#"{"\ud800":1,"opcode":"echo"}"#,
            r#"{"op\u0063ode":"ech\u006f","ident":"a","ident":[{}]}"#,
            r#" { "opcode" : "echo" , "uuid" : "" } "#,
            r#"{"a":{"uuid":"x","]":"}\""},"b":[["\"",{"ident":"y"}]],"opcode":"echo"}"#,
            r#"{"uuid":{"$serde_json::private::RawValue":"\"x\""},"opcode":"echo","c":-1.5e3 }"#,
            "{\"\":0,\"opcode\"\r\n:\t\"echo\",\"d\":true}",
        ] {
            let envelope = Envelope::read(packet).unwrap();
            assert_eq!(envelope.opcode.as_deref(), Some("echo"), "{packet}");
            assert_eq!((envelope.uuid, envelope.ident), (None, None), "{packet}");
        }
        for opcode in [r#""\ud800""#, "1e999", "null", r#""""#] {
            let packet = format!(r#"{{"opcode":{opcode}}}"#);
            let envelope = Envelope::read(&packet).unwrap();
            assert_eq!(envelope.opcode, None, "{opcode}");
        }
    }

    #[test]
    fn strings_without_escapes_are_borrowed() {
        let envelope = Envelope::read(r#"{"uuid":"a.b","ident":"a\u0062"}"#).unwrap();
        assert!(matches!(envelope.uuid, Some(Cow::Borrowed("a.b"))));
        assert_eq!(envelope.ident, Some(Cow::Owned("ab".to_owned())));
    }
}
