//! What is read of a packet: as little as its way requires. It borrows from the text wherever a value has no escapes.
//!
//! `serde_json` says whether the text is JSON, without making anything of it: a number may be one that no double holds, a text half a
//! surrogate pair, and no depth of nesting costs more than its length. Then the top level is cut into keys and values as they are written.

use std::borrow::Cow;

use memchr::memchr2;
use serde::de::IgnoredAny;

/// The three keys that decide where a packet goes. Empty texts and values that are no texts are absent: nobody is called
/// `true` or `0`. Of a key that stands there twice the last counts, as in JavaScript and PHP.
#[derive(Default)]
pub(crate) struct Envelope<'a> {
    pub(crate) opcode: Option<Cow<'a, str>>,
    pub(crate) uuid: Option<Cow<'a, str>>,
    pub(crate) ident: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// None if the text is no JSON object.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        let members = Members { rest: text.trim_ascii_start().strip_prefix('{')? };
        let mut envelope = Self::default();
        for (key, value) in members {
            let place = match text_of(key).as_deref() {
                Some("opcode") => &mut envelope.opcode,
                Some("uuid") => &mut envelope.uuid,
                Some("ident") => &mut envelope.ident,
                _ => continue,
            };
            *place = text_of(value);
        }
        Some(envelope)
    }
}

/// A text that is not empty; None for any other value, and where no text can be made of it.
fn text_of(written: &str) -> Option<Cow<'_, str>> {
    let inside = written.strip_prefix('"')?.strip_suffix('"')?;
    match inside {
        "" => None,
        _ if inside.contains('\\') => serde_json::from_str(written).ok().map(Cow::Owned),
        _ => Some(Cow::Borrowed(inside)),
    }
}

/// The keys and values of an object, as they are written, behind its opening brace. That it is JSON is known.
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
    /// The next key or value; None at the end of the object.
    fn take(&mut self) -> Option<&'a str> {
        let is_between = |byte: u8| matches!(byte, b':' | b',') || is_blank(byte);
        let begin = self.rest.bytes().position(|byte| !is_between(byte))?;
        let rest = &self.rest[begin..];
        let (written, behind) = rest.split_at_checked(length(rest.as_bytes()))?;
        self.rest = behind;
        (!written.is_empty()).then_some(written)
    }
}

/// Of the value that these bytes begin with; 0 where they begin with the end of an object.
fn length(bytes: &[u8]) -> usize {
    let ends = |byte: &u8| matches!(byte, b',' | b'}') || is_blank(*byte);
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match bytes.get(at) {
            Some(b'"') => at += text_length(&bytes[at..]),
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

/// Of the text in quotes that these bytes begin with.
fn text_length(bytes: &[u8]) -> usize {
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

/// RFC 8259, section 2.
fn is_blank(byte: u8) -> bool {
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
    fn what_is_no_text_is_absent_and_harms_nothing() {
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
    fn texts_without_escapes_are_not_copied() {
        let envelope = Envelope::read(r#"{"uuid":"a.b","ident":"a\u0062"}"#).unwrap();
        assert!(matches!(envelope.uuid, Some(Cow::Borrowed("a.b"))));
        assert_eq!(envelope.ident, Some(Cow::Owned("ab".to_owned())));
    }
}
