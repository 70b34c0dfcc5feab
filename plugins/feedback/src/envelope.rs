//! What is read of a packet: as little as its way requires. It borrows from the text wherever a value has no escapes.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

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
        serde_json::from_str(text).ok()
    }
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(key) = map.next_key()? {
            let place = match key {
                Key::Opcode => &mut envelope.opcode,
                Key::Uuid => &mut envelope.uuid,
                Key::Ident => &mut envelope.ident,
                // Skipped without recursion: no depth of nesting costs more than its length.
                Key::Another => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            // As it is written: what is no text may be a number that no double holds, or half a surrogate pair.
            *place = text(map.next_value()?);
        }
        Ok(envelope)
    }
}

/// A text that is not empty; None for any other value, and where no text can be made of it.
fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let written = value.get();
    let inside = written.strip_prefix('"')?.strip_suffix('"')?;
    match inside {
        "" => None,
        _ if inside.contains('\\') => serde_json::from_str(written).ok().map(Cow::Owned),
        _ => Some(Cow::Borrowed(inside)),
    }
}

enum Key {
    Opcode,
    Uuid,
    Ident,
    Another,
}

impl<'de> Deserialize<'de> for Key {
    /// From bytes, as half a surrogate pair is no text.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E: Error>(self, key: &[u8]) -> Result<Key, E> {
        Ok(match key {
            b"opcode" => Key::Opcode,
            b"uuid" => Key::Uuid,
            b"ident" => Key::Ident,
            _ => Key::Another,
        })
    }
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
