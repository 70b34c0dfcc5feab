//! Frames whose end has not come: their text is checked as it arrives, so that what can never become UTF-8 ends the connection at once
//! (RFC 6455 section 8.1), not when the rest has come.

use super::frame::{self, Plain};
use super::utf8::{NotUtf8, Utf8};

/// What is done of a plain frame that is read where it stays. Frames that arrive whole never get here.
#[derive(Debug, Default)]
pub(super) struct PartialFrame {
    /// Bytes of the payload that are unmasked and, if they are text, checked.
    done: u32,
    text: Utf8,
}

impl PartialFrame {
    /// Takes what is new of the frame that is all of `bytes`, as far as it has come.
    pub(super) fn advance(&mut self, plain: Plain, bytes: &mut [u8]) -> Result<(), NotUtf8> {
        let new = &mut bytes[plain.header + self.done as usize..];
        frame::unmask(new, rotated(plain.mask, self.done));
        self.done += new.len() as u32;
        if plain.is_text { self.text.push(new) } else { Ok(()) }
    }

    /// The same with the last of it.
    pub(super) fn finish(mut self, plain: Plain, bytes: &mut [u8]) -> Result<(), NotUtf8> {
        self.advance(plain, bytes)?;
        if self.text.is_whole() { Ok(()) } else { Err(NotUtf8) }
    }
}

/// The text of a fragmented message on its way to the state machine, which looks at whole fragments only.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    text: Utf8,
    /// Whether the message under way is a text.
    is_text: bool,
    /// Of the present frame, if it is one of that message.
    frame: Option<Piece>,
}

#[derive(Debug)]
struct Piece {
    /// Bytes of the header that have not come.
    header_left: usize,
    mask: [u8; 4],
    done: u32,
}

impl Fragments {
    /// A frame begins here.
    pub(super) fn begin(&mut self, bytes: &[u8]) {
        self.frame = None;
        match bytes.first() {
            Some(0x01) => (self.is_text, self.text) = (true, Utf8::default()),
            Some(0x00 | 0x80) if self.is_text => {}
            // A control frame comes between two fragments; any other frame is another message, or a violation.
            Some(first) => {
                self.is_text &= first & 0x08 != 0;
                return;
            }
            None => return,
        }
        let piece = |(header_left, mask)| Piece { header_left, mask, done: 0 };
        self.frame = frame::header(bytes).map(piece);
    }

    /// Takes what is new of the frame.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), NotUtf8> {
        let Some(piece) = &mut self.frame else { return Ok(()) };
        let header = piece.header_left.min(bytes.len());
        piece.header_left -= header;
        for part in bytes[header..].chunks(BLOCK) {
            let mut block = [0; BLOCK];
            let plain = &mut block[..part.len()];
            plain.copy_from_slice(part);
            frame::unmask(plain, rotated(piece.mask, piece.done));
            piece.done += part.len() as u32;
            self.text.push(plain)?;
        }
        Ok(())
    }
}

/// Unmasked at a time, on the stack.
const BLOCK: usize = 512;

/// The mask as it is for a payload of which so much is done.
fn rotated(mut mask: [u8; 4], done: u32) -> [u8; 4] {
    mask.rotate_left(done as usize % 4);
    mask
}
