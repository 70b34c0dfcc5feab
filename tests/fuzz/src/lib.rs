//! Decodes fuzz inputs for the targets. Every function is total: every input is valid.

/// A fuzz input, consumed from the front.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Returns the next byte, or 0 at the end.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// Returns a number below `bound`, which is at most 256.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// Returns a number of two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Returns the next `count` bytes, or the rest.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Returns bytes whose number is in one byte before them.
    pub fn piece(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte());
        self.take(count)
    }

    /// Returns a [`piece`](Self::piece) as a string.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.piece()).into_owned()
    }

    /// Returns the lengths of the pieces into which data is split.
    pub fn cuts(&mut self) -> Cuts {
        let count = 1 + self.below(6);
        // At the end of the input: one piece with all data.
        let cuts = self.take(count).iter().map(|byte| length(*byte));
        Cuts(cuts.chain(self.is_empty().then_some(usize::MAX)).collect())
    }

    /// Returns whether the input is used up.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns a mostly small length: splits inside of an element find more than splits between them.
fn length(byte: u8) -> usize {
    match byte {
        0..64 => 1 + usize::from(byte) % 4,
        64..192 => usize::from(byte),
        192.. => 1 << (byte % 17),
    }
}

/// Lengths of pieces, repeated.
#[derive(Clone, Debug)]
pub struct Cuts(Vec<usize>);

impl Cuts {
    /// Splits `bytes` into non-empty pieces.
    pub fn of<'a>(&self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        for length in self.0.iter().chain(std::iter::repeat(&self.0[0])) {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at((*length).min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces
    }

    /// Returns the total length after each piece.
    pub fn ends(&self, bytes: &[u8]) -> Vec<usize> {
        let mut end = 0;
        self.of(bytes)
            .iter()
            .map(|piece| {
                end += piece.len();
                end
            })
            .collect()
    }
}

/// Encodes client frames of all kinds, valid and invalid, from a few bytes of input each.
pub fn frames(input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !input.is_empty() && bytes.len() < 100_000 {
        append_frame(&mut bytes, input);
    }
    bytes
}

fn append_frame(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    let kind = input.byte();
    // Mostly valid, so that the following frames are reached.
    let first = match kind % 16 {
        0..=3 => 0x81,
        4 | 5 => 0x82,
        6 => 0x01,
        7 => 0x02,
        8 => 0x00,
        9 | 10 => 0x80,
        11 => 0x89,
        12 => 0x8a,
        13 => 0x88,
        14 => input.byte(),
        _ => return bytes.extend_from_slice(input.piece()),
    };
    let payload: Vec<u8> = match kind >> 4 {
        0..=9 => {
            let count = input.below(16);
            input.take(count).to_vec()
        }
        10 | 11 => input.piece().to_vec(),
        // A long payload of one character.
        _ => vec![b'x'; usize::from(input.word()) % 5000],
    };
    let shape = if kind >= 0xf0 { input.byte() } else { 0 };
    bytes.push(first);
    let masked = if shape & 1 == 0 { 0x80 } else { 0 };
    // The length may not be in its shortest form, or differ from that of the payload.
    let length = payload.len() as u64 + if shape & 2 == 0 { 0 } else { u64::from(input.byte()) };
    match (shape >> 2 & 3, length) {
        (0, 0..126) => bytes.push(masked | length as u8),
        (0 | 1, 0..0x1_0000) => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        (3, _) => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&(length | u64::from(input.byte()) << 56).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    let mask = if masked == 0 { [0; 4] } else { [0x5a, kind, 0xfe, 0x33] };
    if masked != 0 {
        bytes.extend_from_slice(&mask);
    }
    bytes.extend(payload.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
