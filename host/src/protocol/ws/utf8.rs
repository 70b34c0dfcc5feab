//! Incremental UTF-8 validation of text that arrives in pieces.
//!
//! Fails at the first wrong byte, not at the end of the message (RFC 6455, section 8.1). Examines
//! each byte once and keeps at most three bytes of an incomplete character. Pure.

/// The state of a text between two pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    /// The first bytes of an incomplete character.
    begun: [u8; 3],
    length: u8,
}

/// The text cannot become UTF-8, whatever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUtf8;

impl Utf8 {
    /// Checks the next piece.
    ///
    /// # Errors
    /// No continuation makes the text UTF-8.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.length > 0 {
            let [first, rest @ ..] = piece else { return Ok(()) };
            piece = rest;
            self.finish_character(*first)?;
        }
        match std::str::from_utf8(piece) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(NotUtf8),
            Err(error) => {
                let begun = &piece[error.valid_up_to()..];
                self.begun[..begun.len()].copy_from_slice(begun);
                self.length = begun.len() as u8;
                Ok(())
            }
        }
    }

    /// Returns whether the text can end here.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.length == 0
    }

    /// Adds one byte to the incomplete character.
    fn finish_character(&mut self, byte: u8) -> Result<(), NotUtf8> {
        let length = usize::from(self.length);
        let mut character = [0; 4];
        character[..length].copy_from_slice(&self.begun[..length]);
        character[length] = byte;
        match std::str::from_utf8(&character[..=length]) {
            Ok(_) => self.length = 0,
            Err(error) if error.error_len().is_some() => return Err(NotUtf8),
            Err(_) => {
                // Four bytes are always a whole character or an error.
                self.begun[length] = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` in pieces of this size: whether it is whole at its end, or the bytes read when
    /// it failed.
    fn read(text: &[u8], piece: usize) -> Result<bool, usize> {
        let mut utf8 = Utf8::default();
        let mut taken = 0;
        for piece in text.chunks(piece) {
            taken += piece.len();
            utf8.push(piece).map_err(|NotUtf8| taken)?;
        }
        Ok(utf8.is_whole())
    }

    #[test]
    fn text_fails_at_its_first_wrong_byte_at_every_split() {
        for (text, expected) in [
            (&b""[..], Ok(true)),
            (b"plain", Ok(true)),
            ("κόσμε, 𝄞 and more".as_bytes(), Ok(true)),
            (b"caf\xc3", Ok(false)),
            (b"\xf0\x9d\x84", Ok(false)),
            (b"caf\xe9 au", Err(5)),
            (b"\xff", Err(1)),
            (b"\xc0\x80", Err(1)),
            // A surrogate, an overlong form, and past U+10FFFF: wrong at the second byte.
            (b"\xed\xa0\x80", Err(2)),
            (b"\xe0\x80\x80", Err(2)),
            (b"\xf4\x90\x80\x80", Err(2)),
            (b"ab\xf0\x9d\x84x", Err(6)),
        ] {
            assert_eq!(read(text, 1), expected, "{text:?}");
            for piece in 2..8 {
                let found = read(text, piece);
                match expected {
                    Ok(_) => assert_eq!(found, expected, "{text:?} by {piece}"),
                    Err(at) => {
                        let end = at.next_multiple_of(piece).min(text.len());
                        assert_eq!(found, Err(end), "{text:?} by {piece}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_result_is_that_of_the_standard_library() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..6)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let choices = [0x41, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80];
                    choices[(state >> 40) as usize % choices.len()]
                })
                .collect();
            let expected = std::str::from_utf8(&bytes).is_ok();
            for piece in [1, 2, 6] {
                assert_eq!(read(&bytes, piece) == Ok(true), expected, "{bytes:x?}");
            }
        }
    }
}
