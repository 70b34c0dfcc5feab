//! The frames that nearly all traffic consists of, told apart, unmasked and made without a state machine.
//!
//! A *plain* frame is a whole message in one frame: final, text or binary, masked as a client must, no reserved bit, its length in
//! the shortest form (RFC 6455, section 5.2). Everything else (fragments, control frames, violations) is only measured here, and
//! tungstenite's to judge. Pure: bytes in, values out; constant work for each byte.

/// What lies at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Not even the header is whole.
    Short,
    /// A plain frame; its payload may still be on its way.
    Plain(Plain),
    /// Another frame of this kind, as far as its header can be believed.
    Other(Other),
}

/// A whole message in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Text, else binary.
    pub is_text: bool,
    /// Bytes before the payload.
    pub header: usize,
    /// Bytes of the payload.
    pub length: usize,
    /// What the payload is masked with.
    pub mask: [u8; 4],
}

/// A frame that needs a state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// Header and payload in bytes; `None` if that cannot be said, or is no business of a peer.
    pub size: Option<usize>,
    /// Whether a fragmented message is under way behind this frame; `None`: as it was before (a control frame).
    pub leaves_open: Option<bool>,
}

/// Looks at the frame that begins here. A payload of more than `max_message` bytes is not plain.
#[must_use]
pub fn look(bytes: &[u8], max_message: usize) -> Look {
    let &[first, second, ref rest @ ..] = bytes else { return Look::Short };
    let (extended, minimum) = match second & 0x7f {
        126 => (2, 126),
        127 => (8, 0x1_0000),
        _ => (0, 0),
    };
    let mask_at = 2 + extended;
    let Some(&[a, b, c, d]) = bytes.get(mask_at..mask_at + 4) else {
        // An unmasked frame may be shorter than that, and is a violation.
        return if second & 0x80 == 0 {
            Look::Other(Other { size: None, leaves_open: None })
        } else {
            Look::Short
        };
    };
    let length = match extended {
        0 => u64::from(second & 0x7f),
        _ => rest[..extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    let header = mask_at + 4;
    let is_sized = second & 0x80 != 0 && length <= max_message as u64;
    let is_shortest = length >= minimum;
    // The bound was just checked, so it fits.
    let length = length as usize;
    match first {
        0x81 | 0x82 if is_sized && is_shortest => {
            Look::Plain(Plain { is_text: first == 0x81, header, length, mask: [a, b, c, d] })
        }
        _ => Look::Other(Other {
            // Not evaluated for a length that is not: the sum may overflow. One in a longer form than it needs is taken as it
            // is by tungstenite, so the frames behind it have to be found.
            size: is_sized.then(|| header + length),
            leaves_open: (first & 0x08 == 0).then_some(first & 0x80 == 0),
        }),
    }
}

/// Takes the mask off a payload, or puts it on (RFC 6455, section 5.3).
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
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
pub fn append_header(out: &mut Vec<u8>, is_text: bool, length: usize) {
    out.push(if is_text { 0x81 } else { 0x82 });
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

    fn check(bytes: &[u8], expected: Look) {
        assert_eq!(look(bytes, MAX), expected, "{:02x?}", &bytes[..bytes.len().min(16)]);
    }

    const DOOMED: Look = Look::Other(Other { size: None, leaves_open: Some(false) });

    #[test]
    fn frames_are_told_apart_by_their_header() {
        let plain = |is_text, header, length| {
            Look::Plain(Plain { is_text, header, length, mask: [1, 2, 3, 4] })
        };
        let mask = [1, 2, 3, 4];
        check(&frame(0x81, 0x80, &mask), plain(true, 6, 0));
        check(&frame(0x82, 0x85, &mask), plain(false, 6, 5));
        check(&frame(0x81, 0xfe, &[0, 126, 1, 2, 3, 4]), plain(true, 8, 126));
        check(&frame(0x81, 0xff, &[0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]), plain(true, 14, 0x1_0000));
        let other = |size, leaves_open| Look::Other(Other { size: Some(size), leaves_open });
        check(&frame(0x01, 0x85, &mask), other(11, Some(true)));
        check(&frame(0x00, 0x85, &mask), other(11, Some(true)));
        check(&frame(0x80, 0x85, &mask), other(11, Some(false)));
        check(&frame(0x89, 0x85, &mask), other(11, None));
        check(&frame(0xc1, 0x85, &mask), other(11, Some(false)));
    }

    #[test]
    fn what_breaks_the_protocol_is_never_plain() {
        let mask = [1, 2, 3, 4];
        // Not masked; a length past 2^63; a length past the limit; not the shortest length.
        check(&frame(0x81, 0x05, b"hello"), DOOMED);
        check(&frame(0x81, 0x01, b"h"), Look::Other(Other { size: None, leaves_open: None }));
        check(&[&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1], &mask[..]].concat(), DOOMED);
        check(&[&[0x81, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0], &mask[..]].concat(), DOOMED);
        let longer = |size| Look::Other(Other { size: Some(size), leaves_open: Some(false) });
        check(&frame(0x81, 0xfe, &[0, 125, 1, 2, 3, 4]), longer(133));
        check(&frame(0x81, 0xff, &[0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4]), longer(65_549));
    }

    #[test]
    fn a_header_is_whole_or_short_at_every_split() {
        let whole = frame(0x81, 0xff, &[0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]);
        for end in 0..whole.len() {
            check(&whole[..end], Look::Short);
        }
    }

    #[test]
    fn what_tungstenite_makes_is_understood_and_what_is_made_it_understands() {
        for length in [0, 1, 7, 8, 9, 125, 126, 127, 4096, 0xffff, 0x1_0000] {
            let text = "x".repeat(length);
            let mut frame = Frame::message(text.clone(), OpCode::Data(Data::Text), true);
            frame.header_mut().mask = Some([7, 8, 9, 10]);
            let mut bytes = Vec::new();
            frame.format(&mut bytes).unwrap();
            let Look::Plain(found) = look(&bytes, MAX) else { panic!("{length}") };
            assert_eq!(
                (found.is_text, found.length, found.header + length),
                (true, length, bytes.len())
            );
            unmask(&mut bytes[found.header..], found.mask);
            assert_eq!(&bytes[found.header..], text.as_bytes());

            let mut header = Vec::new();
            append_header(&mut header, false, length);
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
