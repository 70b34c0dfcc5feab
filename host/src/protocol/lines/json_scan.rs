//! Detects the end of a JSON value that arrives in pieces, from brackets and quotes.
//!
//! Owns no bytes. Determines only whether the bytes can be a whole value, so that the full check
//! runs once instead of after every read.

use serde::de::IgnoredAny;

use crate::fs::read::without_byte_order_mark;

/// The position in a JSON value, as far as brackets and quotes show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanState {
    Before,
    /// In a byte order mark, before these bytes. It is not JSON, but the application can say so.
    Mark(&'static [u8]),
    /// Inside this number of brackets.
    Nested(usize),
    /// In a string, inside this number of brackets.
    Text(usize),
    Escape(usize),
    /// In `true`, `false` or `null`, before these bytes.
    Word(&'static [u8]),
    Balanced,
    /// Not a value, or one whose end cannot be known (a number).
    Broken,
}

impl ScanState {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            *self = self.after(*byte);
        }
    }

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Before | Self::Balanced, b' ' | b'\t' | b'\r' | b'\n') => self,
            (Self::Before, 0xef) => Self::Mark(b"\xbb\xbf"),
            (Self::Mark([0xbf]), 0xbf) => Self::Before,
            (Self::Mark([0xbb, rest @ ..]), 0xbb) => Self::Mark(rest),
            (Self::Before, b'{' | b'[') => Self::Nested(1),
            (Self::Before, b'"') => Self::Text(0),
            (Self::Before, b't') => Self::Word(b"rue"),
            (Self::Before, b'f') => Self::Word(b"alse"),
            (Self::Before, b'n') => Self::Word(b"ull"),
            (Self::Word([expected, rest @ ..]), _) if byte == *expected => match rest {
                [] => Self::Balanced,
                _ => Self::Word(rest),
            },
            (Self::Before | Self::Mark(_) | Self::Balanced | Self::Word(_) | Self::Broken, _) => {
                Self::Broken
            }
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

    /// Returns whether `value`, which is everything that was fed, is a whole JSON value. Parses at
    /// most once: a failure is final.
    pub(super) fn confirm(&mut self, value: &[u8]) -> bool {
        let value = without_byte_order_mark(value);
        if *self == Self::Balanced && serde_json::from_slice::<IgnoredAny>(value).is_err() {
            *self = Self::Broken;
        }
        *self == Self::Balanced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, whole: bool) {
        let mut state = ScanState::Before;
        state.feed(value.as_bytes());
        assert_eq!(state.confirm(value.as_bytes()), whole, "{value:?}");
        let confirmed_before_its_end =
            (0..value.trim_end().len()).filter(|len| value.is_char_boundary(*len)).any(|len| {
                let mut state = ScanState::Before;
                state.feed(&value.as_bytes()[..len]);
                state.confirm(&value.as_bytes()[..len])
            });
        assert!(!whole || !confirmed_before_its_end, "{value:?}");
    }

    #[test]
    fn deep_nesting_and_long_numbers_are_scanned_in_linear_time() {
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
            let mut state = ScanState::Before;
            state.feed(value.as_bytes());
            assert_eq!(state.confirm(value.as_bytes()), whole, "{}…", &value[..20]);
        }
    }

    #[test]
    fn a_value_is_whole_when_it_cannot_continue() {
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
            ("\u{feff}{\"a\":1}", true),
            ("\u{feff}", false),
            (" \u{feff}{}", false),
            ("\u{feff}\u{feff}{}", false),
            ("\u{fefe}{}", false),
            ("bufferON", false),
        ] {
            check(value, whole);
        }
    }
}
