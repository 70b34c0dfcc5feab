//! Checks the text of frames that are still incomplete.
//!
//! Text that can never become UTF-8 closes the connection at the first wrong byte (RFC 6455,
//! section 8.1), not at the end of the frame.

use super::frame::{self, Plain};
use super::utf8::{NotUtf8, Utf8};
use crate::protocol::chunk::Form;

/// Progress on a plain frame that is read in place. Frames that arrive whole do not need it.
#[derive(Debug, Default)]
pub(super) struct PartialFrame {
    /// Bytes of the payload that are unmasked and, if text, checked.
    done: u32,
    text: Utf8,
}

impl PartialFrame {
    /// Unmasks and checks the new bytes at the end of `bytes`, which begins with the header.
    pub(super) fn advance(&mut self, plain: Plain, bytes: &mut [u8]) -> Result<(), NotUtf8> {
        let new = &mut bytes[plain.header + self.done as usize..];
        frame::unmask(new, rotated(plain.mask, self.done));
        self.done += new.len() as u32;
        if plain.form == Form::Text { self.text.push(new) } else { Ok(()) }
    }

    /// Unmasks and checks the rest of a frame that is now complete.
    pub(super) fn finish(mut self, plain: Plain, bytes: &mut [u8]) -> Result<(), NotUtf8> {
        self.advance(plain, bytes)?;
        if self.text.is_whole() { Ok(()) } else { Err(NotUtf8) }
    }
}

/// Checks the text of a fragmented message ahead of the state machine, which checks whole fragments
/// only.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    text: Utf8,
    /// Whether the current message is text.
    is_text: bool,
    /// The current frame, if it belongs to that message.
    frame: Option<Fragment>,
}

#[derive(Debug)]
struct Fragment {
    /// Bytes of the header that were not received yet.
    header_left: usize,
    mask: [u8; 4],
    done: u32,
}

impl Fragments {
    /// Begins the frame whose header is at the start of `bytes`.
    pub(super) fn begin(&mut self, bytes: &[u8]) {
        self.frame = None;
        match bytes.first() {
            Some(0x01) => (self.is_text, self.text) = (true, Utf8::default()),
            Some(0x00 | 0x80) if self.is_text => {}
            // A control frame may come between two fragments; any other frame ends the text.
            Some(first) => {
                self.is_text &= first & 0x08 != 0;
                return;
            }
            None => return,
        }
        let fragment = |(header_left, mask)| Fragment { header_left, mask, done: 0 };
        self.frame = frame::header_and_mask(bytes).map(fragment);
    }

    /// Checks the next bytes of the current frame.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), NotUtf8> {
        let Some(fragment) = &mut self.frame else { return Ok(()) };
        let header = fragment.header_left.min(bytes.len());
        fragment.header_left -= header;
        for part in bytes[header..].chunks(BLOCK) {
            let mut block = [0; BLOCK];
            let plain = &mut block[..part.len()];
            plain.copy_from_slice(part);
            frame::unmask(plain, rotated(fragment.mask, fragment.done));
            fragment.done += part.len() as u32;
            self.text.push(plain)?;
        }
        Ok(())
    }
}

/// How many bytes are unmasked at once, on the stack.
const BLOCK: usize = 512;

/// Returns the mask for the payload after its first `done` bytes.
fn rotated(mut mask: [u8; 4], done: u32) -> [u8; 4] {
    mask.rotate_left(done as usize % 4);
    mask
}
