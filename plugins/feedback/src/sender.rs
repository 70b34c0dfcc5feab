//! What a browser may say about the sender of a packet. Pure.

use std::borrow::Cow;

use plugsocket_plugin::{Json, Packet};
use serde::Deserialize;

/// Treatment of [`FROM_UUID`] in a packet of a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sender {
    /// Where it is present, it is the sender's uuid.
    Replace,
    /// It is present, and the sender's uuid.
    Stamp,
    /// It is as the client wrote it.
    Keep,
}

/// The key by which receivers know the sender.
const FROM_UUID: &str = "fromUUID";

impl Sender {
    /// Returns the text that others receive: that of the packet if nothing in it has to change.
    pub(crate) fn apply<'t>(
        self,
        packet: Packet<'t>,
        uuid: &str,
        strip: &[String],
    ) -> Cow<'t, str> {
        if self == Self::Keep && strip.is_empty() {
            return Cow::Borrowed(packet.as_text());
        }
        let is_stripped = |key: &str| strip.iter().any(|stripped| stripped == key);
        let is_true = |value: Json<'_>| value.to_text().as_deref() == Some(uuid);
        let (mut is_named, mut changes) = (false, false);
        for (key, value) in packet.members() {
            let key = key.to_text().unwrap_or_default();
            let names = key == FROM_UUID && !is_stripped(&key);
            is_named |= names;
            changes |= is_stripped(&key) || (names && self != Self::Keep && !is_true(value));
        }
        if !changes && (is_named || self != Self::Stamp) {
            return Cow::Borrowed(packet.as_text());
        }
        self.rewrite(packet, uuid, is_stripped).into()
    }

    /// Writes the packet again, without white space between its members.
    fn rewrite(self, packet: Packet<'_>, uuid: &str, is_stripped: impl Fn(&str) -> bool) -> String {
        let own = format!("\"{FROM_UUID}\":\"{uuid}\"");
        let (mut members, mut is_written) = (Vec::new(), false);
        for (key, value) in packet.members() {
            let name = key.to_text().unwrap_or_default();
            if is_stripped(&name) {
                continue;
            }
            if name != FROM_UUID || self == Self::Keep {
                members.push(format!("{}:{}", key.as_source(), value.as_source()));
            } else if !is_written {
                members.push(own.clone());
                is_written = true;
            }
        }
        if self == Self::Stamp && !is_written {
            members.push(own);
        }
        format!("{{{}}}", members.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugsocket_plugin::Message;

    fn applied(sender: Sender, text: &str, strip: &[&str]) -> String {
        let strip: Vec<String> = strip.iter().map(|key| (*key).to_owned()).collect();
        let packet = Packet::read(Message::Text(text)).unwrap();
        sender.apply(packet, "U", &strip).into_owned()
    }

    #[test]
    fn a_false_sender_is_replaced_wherever_it_is_written() {
        for (text, expected) in [
            (r#"{"a":1e999,"fromUUID":"V"}"#, r#"{"a":1e999,"fromUUID":"U"}"#),
            (r#"{"fromUUID":"V","fromUUID":"W", "b" : [1, 2]}"#, r#"{"fromUUID":"U","b":[1, 2]}"#),
            (r#"{"fromUUID":"U","fromUUID":"V"}"#, r#"{"fromUUID":"U"}"#),
            (r#"{"from\u0055UID":"V"}"#, r#"{"fromUUID":"U"}"#),
            (r#"{"fromUUID":null}"#, r#"{"fromUUID":"U"}"#),
            (r#"{"fromUUID":{"fromUUID":"U"}}"#, r#"{"fromUUID":"U"}"#),
            (r#"{"fromUUID":"","x":"\ud800"}"#, r#"{"fromUUID":"U","x":"\ud800"}"#),
        ] {
            assert_eq!(applied(Sender::Replace, text, &[]), expected, "{text}");
            assert_eq!(applied(Sender::Stamp, text, &[]), expected, "{text}");
            assert_eq!(applied(Sender::Keep, text, &[]), text);
        }
    }

    #[test]
    fn a_packet_without_a_false_sender_is_unchanged() {
        for text in [
            "{ }",
            r#" {"message" : {"fromUUID":"V"}, "FROMUUID":"V"} "#,
            r#"{ "fromUUID" : "U" }"#,
            r#"{"fromUUID":"\u0055","a":"fromUUID"}"#,
        ] {
            assert_eq!(applied(Sender::Replace, text, &["role"]), text);
            assert_eq!(applied(Sender::Keep, text, &[]), text);
        }
    }

    #[test]
    fn a_stamp_is_in_every_packet() {
        for (text, expected) in [
            ("{ }", r#"{"fromUUID":"U"}"#),
            (r#"{"a":{"fromUUID":"V"}}"#, r#"{"a":{"fromUUID":"V"},"fromUUID":"U"}"#),
            (r#"{ "fromUUID":"U" }"#, r#"{ "fromUUID":"U" }"#),
        ] {
            assert_eq!(applied(Sender::Stamp, text, &[]), expected, "{text}");
        }
    }

    #[test]
    fn stripped_keys_are_removed() {
        let text = r#"{"role":"admin","a":1,"fromUUID":"V","r\u006fle":2}"#;
        assert_eq!(applied(Sender::Replace, text, &["role"]), r#"{"a":1,"fromUUID":"U"}"#);
        assert_eq!(applied(Sender::Keep, text, &["role"]), r#"{"a":1,"fromUUID":"V"}"#);
        assert_eq!(applied(Sender::Replace, text, &["role", "fromUUID"]), r#"{"a":1}"#);
        assert_eq!(
            applied(Sender::Stamp, text, &["role", "fromUUID"]),
            r#"{"a":1,"fromUUID":"U"}"#
        );
        assert_eq!(applied(Sender::Replace, r#"{"role":1}"#, &["role"]), "{}");
    }
}
