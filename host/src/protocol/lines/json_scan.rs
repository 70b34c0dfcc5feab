//! When a JSON value that arrives in pieces may be whole: told from brackets and quotes, byte by byte.
//!
//! Owns no bytes. Knows only whether what it saw can be a whole value, so that the full check runs once and not at every read.

use serde::de::IgnoredAny;

/// How far a JSON value is, told from its brackets and quotes alone: enough to know when a full check may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Before,
    /// Inside this many brackets.
    Nested(usize),
    Text(usize),
    Escape(usize),
    /// Inside `true`, `false` or `null`, with this to come.
    Word(&'static [u8]),
    Balanced,
    /// No continuation makes a value of it, or none that could be known to be whole.
    Broken,
}

impl Shape {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            *self = self.after(*byte);
        }
    }

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Before | Self::Balanced, b' ' | b'\t' | b'\r' | b'\n') => self,
            (Self::Before, b'{' | b'[') => Self::Nested(1),
            (Self::Before, b'"') => Self::Text(0),
            (Self::Before, b't') => Self::Word(b"rue"),
            (Self::Before, b'f') => Self::Word(b"alse"),
            (Self::Before, b'n') => Self::Word(b"ull"),
            (Self::Word([expected, rest @ ..]), _) if byte == *expected => match rest {
                [] => Self::Balanced,
                _ => Self::Word(rest),
            },
            (Self::Before | Self::Balanced | Self::Word(_) | Self::Broken, _) => Self::Broken,
            (Self::Nested(1), b'}' | b']') => Self::Balanced,
            (Self::Nested(depth), b'}' | b']') => Self::Nested(depth - 1),
            (Self::Nested(depth), b'{' | b'[') => Self::Nested(depth + 1),
            (Self::Nested(depth), b'"') => Self::Text(depth),
            (Self::Nested(_), _) => self,
            (Self::Text(depth), b'\\') => Self::Escape(depth),
            (Self::Text(0), b'"') => Self::Balanced,
            (Self::Text(depth), b'"') => Self::Nested(depth),
            (Self::Text(_), _) => self,
            (Self::Escape(depth), _) => Self::Text(depth),
        }
    }

    /// Whether `value`, all that was fed, is a whole JSON value. Parses it at most once: a failure is for ever.
    pub(super) fn confirm(&mut self, value: &[u8]) -> bool {
        if *self != Self::Balanced {
            return false;
        }
        let whole = serde_json::from_slice::<IgnoredAny>(value).is_ok();
        if !whole {
            *self = Self::Broken;
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, whole: bool) {
        let mut shape = Shape::Before;
        shape.feed(value.as_bytes());
        assert_eq!(shape.confirm(value.as_bytes()), whole, "{value:?}");
        let confirmed_before_its_end =
            (0..value.trim_end().len()).filter(|len| value.is_char_boundary(*len)).any(|len| {
                let mut shape = Shape::Before;
                shape.feed(&value.as_bytes()[..len]);
                shape.confirm(&value.as_bytes()[..len])
            });
        assert!(!whole || !confirmed_before_its_end, "{value:?}");
    }

    #[test]
    fn depth_and_numbers_cost_nothing_but_their_bytes() {
        let deep = 100_000;
        for (value, whole) in [
            ("[".repeat(deep), false),
            ("[".repeat(deep) + &"]".repeat(deep), true),
            ("{\"a\":".repeat(deep) + "1" + &"}".repeat(deep), true),
            ("]".repeat(deep), false),
            (format!("[{}]", "9".repeat(deep)), true),
            (format!("[1e{}]", "9".repeat(deep)), true),
            (format!("[-0.{}e-999999]", "0".repeat(deep)), true),
        ] {
            let mut shape = Shape::Before;
            shape.feed(value.as_bytes());
            assert_eq!(shape.confirm(value.as_bytes()), whole, "{}…", &value[..20]);
        }
    }

    #[test]
    fn values_are_whole_once_they_cannot_go_on() {
        for (value, whole) in [
            ("{}", true),
            (" \t\r\n[ ] \n", true),
            ("{\"a\":[{\"b\":\"]}\"},[[]]]}", true),
            ("\"\"", true),
            ("\"\\\"\"", true),
            ("\"\\\\\"", true),
            ("true", true),
            ("false", true),
            ("null", true),
            ("", false),
            (" ", false),
            ("{", false),
            ("{]", false),
            ("[}", false),
            ("[1,]", false),
            ("{a}", false),
            ("{}}", false),
            ("{}{}", false),
            ("[] x", false),
            ("\"\\\"", false),
            ("\"\n\"", false),
            ("\"\\x\"", false),
            ("tru", false),
            ("truely", false),
            ("nul l", false),
            ("1", false),
            ("-1.5e3", false),
            ("bufferON", false),
        ] {
            check(value, whole);
        }
    }
}
