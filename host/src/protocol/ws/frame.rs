//! Frame codec (RFC 6455, section 5.2): parses headers, unmasks payloads and writes headers.
//!
//! A *plain* frame is a whole message in one frame: final, text or binary, masked, without reserved
//! bits, its length in the shortest form. Of fragments and control frames, only the size is
//! determined here. A violation is reported at the first byte that proves it. Pure.

use thiserror::Error;

use crate::protocol::chunk::Form;

/// What the bytes received so far begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameHead {
    /// An incomplete header.
    Short,
    /// A plain frame; its payload may be incomplete.
    Plain(Plain),
    /// A fragment or a control frame; its payload may be incomplete.
    Other(Other),
    /// A header that violates the protocol or exceeds a limit.
    Faulty(Fault),
}

/// Why a header is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Clients must mask (RFC 6455, section 5.1).
    #[error("a frame that is not masked")]
    Unmasked,
    /// The shortest form must be used (RFC 6455, section 5.2).
    #[error("a frame whose length is not in its shortest form")]
    LongLength,
    /// The first bit must be 0 (RFC 6455, section 5.2).
    #[error("a frame whose length has its first bit set")]
    SignedLength,
    /// Control frames have at most 125 bytes (RFC 6455, section 5.5).
    #[error("a control frame of more than 125 bytes")]
    LongControl,
    /// Control frames must not be fragmented (RFC 6455, section 5.5).
    #[error("a control frame in fragments")]
    FragmentedControl,
    /// A close code has two bytes (RFC 6455, section 5.5.1).
    #[error("a close frame of one byte")]
    ShortClose,
    /// Reserved bits and opcodes need an extension (RFC 6455, section 5.2).
    #[error("a frame with a reserved bit or of a reserved kind")]
    Reserved,
    /// Exceeds `max_message`: closed with 1009, all others with 1002.
    #[error("a frame that is longer than max_message")]
    TooLong,
}

/// A whole message in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// [`Form::Text`], not checked yet, or [`Form::Binary`].
    pub form: Form,
    /// Bytes before the payload.
    pub header: usize,
    /// Bytes of the payload.
    pub length: usize,
    /// The masking key.
    pub mask: [u8; 4],
}

/// A fragment or a control frame: needs a state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// Bytes before the payload.
    pub header: usize,
    /// Bytes of the payload.
    pub length: usize,
    /// Whether a fragmented message continues after this frame; `None` for control frames, which do
    /// not change that.
    pub leaves_open: Option<bool>,
}

/// Parses the header that `bytes` begin with.
#[must_use]
#[inline]
pub fn parse_header(bytes: &[u8], max_message: usize) -> FrameHead {
    // Nearly all frames: plain, a whole header, a short payload.
    if let &[first @ (0x81 | 0x82), second @ 0x80..=0xfd, a, b, c, d, ..] = bytes {
        let length = usize::from(second & 0x7f);
        if length <= max_message {
            let form = if first == 0x81 { Form::Text } else { Form::Binary };
            return FrameHead::Plain(Plain { form, header: 6, length, mask: [a, b, c, d] });
        }
    }
    parse_any_header(bytes, max_message)
}

fn parse_any_header(bytes: &[u8], max_message: usize) -> FrameHead {
    let &[first, ref rest @ ..] = bytes else { return FrameHead::Short };
    let is_plain = matches!(first, 0x81 | 0x82);
    if !is_plain && let Some(fault) = fault_of(first, rest.first().copied()) {
        return FrameHead::Faulty(fault);
    }
    let &[second, ref rest @ ..] = rest else { return FrameHead::Short };
    if second & 0x80 == 0 {
        return FrameHead::Faulty(Fault::Unmasked);
    }
    let (extended, minimum) = match second & 0x7f {
        126 => (2, 126),
        127 => (8, 0x1_0000),
        _ => (0, 0),
    };
    let Some((length, rest)) = rest.split_at_checked(extended) else {
        return if extended == 8 && rest.first().is_some_and(|byte| byte & 0x80 != 0) {
            FrameHead::Faulty(Fault::SignedLength)
        } else {
            FrameHead::Short
        };
    };
    let length = match extended {
        0 => u64::from(second & 0x7f),
        _ => length.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    if length < minimum || length > max_message as u64 {
        return FrameHead::Faulty(match length {
            _ if length >> 63 != 0 => Fault::SignedLength,
            _ if length < minimum => Fault::LongLength,
            _ => Fault::TooLong,
        });
    }
    let Some(&[a, b, c, d]) = rest.get(..4) else { return FrameHead::Short };
    // `length` is at most `max_message`.
    let (header, length) = (6 + extended, length as usize);
    if is_plain {
        let form = if first == 0x81 { Form::Text } else { Form::Binary };
        return FrameHead::Plain(Plain { form, header, length, mask: [a, b, c, d] });
    }
    let leaves_open = (first & 0x08 == 0).then_some(first & 0x80 == 0);
    FrameHead::Other(Other { header, length, leaves_open })
}

/// Returns the fault that the first two bytes of a frame prove, except a missing mask.
fn fault_of(first: u8, second: Option<u8>) -> Option<Fault> {
    let length = second.map(|second| second & 0x7f);
    match first {
        0x00..=0x02 | 0x80..=0x82 => None,
        0x88..=0x8a if length.is_some_and(|length| length > 125) => Some(Fault::LongControl),
        CLOSE if length == Some(1) => Some(Fault::ShortClose),
        0x88..=0x8a => None,
        0x08..=0x0a => Some(Fault::FragmentedControl),
        _ => Some(Fault::Reserved),
    }
}

/// The first byte of a close frame (RFC 6455, section 5.5.1).
pub const CLOSE: u8 = 0x88;

/// Returns the length of the header that `bytes` begin with and its masking key; `None` if the
/// header is incomplete or the frame is not masked.
#[must_use]
pub fn header_and_mask(bytes: &[u8]) -> Option<(usize, [u8; 4])> {
    let second = *bytes.get(1)?;
    let header = match second & 0x7f {
        126 => 8,
        127 => 14,
        _ => 6,
    };
    let mask = bytes.get(header - 4..header)?.try_into().expect("four bytes");
    (second & 0x80 != 0).then_some((header, mask))
}

/// Masks or unmasks a payload (RFC 6455, section 5.3).
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for chunk in &mut words {
        let masked: [u8; 8] = (&*chunk).try_into().expect("chunks of eight");
        chunk.copy_from_slice(&(u64::from_ne_bytes(masked) ^ word).to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends the header of a final, unmasked data frame with a payload of `length` bytes.
pub fn append_header(out: &mut Vec<u8>, form: Form, length: usize) {
    out.push(if form == Form::Binary { 0x82 } else { 0x81 });
    match length {
        0..126 => out.push(length as u8),
        126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

    const MAX: usize = 100_000;

    fn frame(first: u8, second: u8, rest: &[u8]) -> Vec<u8> {
        [&[first, second], rest].concat()
    }

    fn check(bytes: &[u8], expected: FrameHead) {
        assert_eq!(parse_header(bytes, MAX), expected, "{:02x?}", &bytes[..bytes.len().min(16)]);
    }

    #[test]
    fn the_header_decides_the_kind_of_frame() {
        let plain = |form, header, length| {
            FrameHead::Plain(Plain { form, header, length, mask: [1, 2, 3, 4] })
        };
        let mask = [1, 2, 3, 4];
        check(&frame(0x81, 0x80, &mask), plain(Form::Text, 6, 0));
        check(&frame(0x82, 0x85, &mask), plain(Form::Binary, 6, 5));
        check(&frame(0x81, 0xfe, &[0, 126, 1, 2, 3, 4]), plain(Form::Text, 8, 126));
        check(
            &frame(0x81, 0xff, &[0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]),
            plain(Form::Text, 14, 0x1_0000),
        );
        let other = |leaves_open| FrameHead::Other(Other { header: 6, length: 5, leaves_open });
        check(&frame(0x01, 0x85, &mask), other(Some(true)));
        check(&frame(0x00, 0x85, &mask), other(Some(true)));
        check(&frame(0x80, 0x85, &mask), other(Some(false)));
        check(&frame(0x89, 0x85, &mask), other(None));
    }

    #[test]
    fn violations_are_never_plain() {
        let mask = [1, 2, 3, 4];
        let faulty = FrameHead::Faulty;
        check(&frame(0x81, 0x05, b"hello"), faulty(Fault::Unmasked));
        check(&frame(0x89, 0x00, b""), faulty(Fault::Unmasked));
        check(&frame(0x81, 0xfe, &[0, 125, 1, 2, 3, 4]), faulty(Fault::LongLength));
        check(&frame(0x8a, 0xfe, &[0, 1, 1, 2, 3, 4]), faulty(Fault::LongControl));
        let long = |length: u64| [&length.to_be_bytes()[..], &mask].concat();
        check(&frame(0x01, 0xff, &long(0xffff)), faulty(Fault::LongLength));
        check(&frame(0x81, 0xff, &long(1 << 63 | 1)), faulty(Fault::SignedLength));
        check(&frame(0x02, 0xff, &long(u64::MAX)), faulty(Fault::SignedLength));
        check(&frame(0x00, 0xff, &long(MAX as u64 + 1)), faulty(Fault::TooLong));
        check(&frame(0x82, 0xff, &long(u64::MAX >> 1)), faulty(Fault::TooLong));
        check(&frame(0x89, 0xff, &long(MAX as u64 + 1)), faulty(Fault::LongControl));
        check(&frame(0x88, 0xfe, &[0, 126, 1, 2, 3, 4]), faulty(Fault::LongControl));
        check(&frame(0xc1, 0xff, &long(MAX as u64 + 1)), faulty(Fault::Reserved));
        check(&frame(0x09, 0x80, &mask), faulty(Fault::FragmentedControl));
        check(&frame(0x88, 0x81, &mask), faulty(Fault::ShortClose));
        check(&frame(0x83, 0x80, &mask), faulty(Fault::Reserved));
    }

    #[test]
    fn a_violation_is_reported_at_the_first_byte_that_proves_it() {
        for (bytes, fault) in [
            (&[0x91][..], Fault::Reserved),
            (&[0x0b], Fault::Reserved),
            (&[0x08], Fault::FragmentedControl),
            (&[0x81, 0x05], Fault::Unmasked),
            (&[0x89, 0xfe], Fault::LongControl),
            (&[0x88, 0x81], Fault::ShortClose),
            (&[0x81, 0xfe, 0, 5], Fault::LongLength),
            (&[0x81, 0xff, 0x80], Fault::SignedLength),
            (&[0x02, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Fault::LongLength),
            (&[0x80, 0xff, 0, 0, 0, 1, 0, 0, 0, 0], Fault::TooLong),
        ] {
            check(bytes, FrameHead::Faulty(fault));
            for end in 0..bytes.len() {
                check(&bytes[..end], FrameHead::Short);
            }
        }
    }

    #[test]
    fn length_and_mask_need_a_whole_header() {
        for (bytes, expected) in [
            (frame(0x01, 0x80, &[1, 2, 3, 4]), Some((6, [1, 2, 3, 4]))),
            (frame(0x01, 0xfe, &[0, 0, 1, 2, 3, 4, 5]), Some((8, [1, 2, 3, 4]))),
            (frame(0x01, 0xff, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]), Some((14, [1, 2, 3, 4]))),
            (frame(0x01, 0xfe, &[0, 0, 1, 2, 3]), None),
            (frame(0x01, 0x04, &[1, 2, 3, 4]), None),
            (vec![], None),
        ] {
            assert_eq!(header_and_mask(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn an_incomplete_header_is_short_at_every_split() {
        let whole = frame(0x81, 0xff, &[0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]);
        for end in 0..whole.len() {
            check(&whole[..end], FrameHead::Short);
        }
    }

    #[test]
    fn frames_agree_with_tungstenite_in_both_directions() {
        for length in [0, 1, 7, 8, 9, 125, 126, 127, 4096, 0xffff, 0x1_0000] {
            let text = "x".repeat(length);
            let mut frame = Frame::message(text.clone(), OpCode::Data(Data::Text), true);
            frame.header_mut().mask = Some([7, 8, 9, 10]);
            let mut bytes = Vec::new();
            frame.format(&mut bytes).unwrap();
            let FrameHead::Plain(found) = parse_header(&bytes, MAX) else { panic!("{length}") };
            assert_eq!(
                (found.form, found.length, found.header + length),
                (Form::Text, length, bytes.len())
            );
            unmask(&mut bytes[found.header..], found.mask);
            assert_eq!(&bytes[found.header..], text.as_bytes());

            let mut header = Vec::new();
            append_header(&mut header, Form::Binary, length);
            let (parsed, size) =
                FrameHeader::parse(&mut std::io::Cursor::new(&header)).unwrap().unwrap();
            assert_eq!(
                (parsed.opcode, parsed.is_final, size),
                (OpCode::Data(Data::Binary), true, length as u64)
            );
            assert_ne!(parsed.opcode, OpCode::Control(Control::Ping));
        }
    }
}
