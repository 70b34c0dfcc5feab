//! What is read of a packet: as little as its way requires. It borrows from the text wherever a value has no escapes.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

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

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Opcode,
    Uuid,
    Ident,
    #[serde(other)]
    Another,
}

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(key) = map.next_key()? {
            match key {
                Key::Opcode => envelope.opcode = map.next_value::<Text<'_>>()?.0,
                Key::Uuid => envelope.uuid = map.next_value::<Text<'_>>()?.0,
                Key::Ident => envelope.ident = map.next_value::<Text<'_>>()?.0,
                // Skipped without recursion: no depth of nesting costs more than its length.
                Key::Another => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(envelope)
    }
}

/// A text that is not empty, or any other JSON value as None.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text((!text.is_empty()).then_some(Cow::Borrowed(text))))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text((!text.is_empty()).then(|| Cow::Owned(text.to_owned()))))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Text<'de>, E> {
        Ok(Text(None))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Text<'de>, E> {
        Ok(Text(None))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Text<'de>, E> {
        Ok(Text(None))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Text<'de>, E> {
        Ok(Text(None))
    }

    fn visit_unit<E: Error>(self) -> Result<Text<'de>, E> {
        Ok(Text(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text(None))
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
    fn texts_without_escapes_are_not_copied() {
        let envelope = Envelope::read(r#"{"uuid":"a.b","ident":"a\u0062"}"#).unwrap();
        assert!(matches!(envelope.uuid, Some(Cow::Borrowed("a.b"))));
        assert_eq!(envelope.ident, Some(Cow::Owned("ab".to_owned())));
    }
}
