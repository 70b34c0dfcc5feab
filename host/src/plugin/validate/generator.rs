//! Messages for checks: samples, and random ones from a seed.

use std::hash::{BuildHasher, RandomState};

use crate::protocol::chunk::Form;
use crate::protocol::payload::Payload;

/// Returns a seed of its own for each run, short enough to type.
pub(super) fn random_seed() -> u64 {
    RandomState::new().hash_one(0) % 1_000_000
}

/// SplitMix64 (Steele, Lea and Flood, 2014): the same numbers from the same seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    pub(super) fn pick<'i, T>(&mut self, items: &'i [T]) -> &'i T {
        &items[self.below(items.len())]
    }

    /// Returns one of the samples, often damaged.
    pub(super) fn message(&mut self, samples: &[Payload]) -> Payload {
        let sample = self.pick(samples);
        let mut bytes = sample.as_bytes().to_vec();
        match self.below(4) {
            0 if !bytes.is_empty() => {
                let at = self.below(bytes.len());
                bytes[at] = self.next() as u8;
            }
            1 => bytes.truncate(self.below(bytes.len() + 1)),
            2 => {
                let count = self.below(200);
                bytes = self.bytes(count);
            }
            _ => return sample.clone(),
        }
        if sample.form == Form::Binary {
            return binary(&bytes);
        }
        text(&String::from_utf8_lossy(&bytes))
    }
}

pub(super) fn text(text: &str) -> Payload {
    Payload::copied(Form::Text, text.as_bytes())
}

pub(super) fn binary(bytes: &[u8]) -> Payload {
    Payload::copied(Form::Binary, bytes)
}

/// Returns the messages of the author, then some of all kinds.
pub(super) fn samples(messages: &[String]) -> Vec<Payload> {
    let own = messages.iter().map(|message| text(message));
    let texts = [
        "hello",
        "",
        "{}",
        "[]",
        "null",
        "-0",
        "1e400",
        r#""""#,
        r#"{"opcode":"echo","message":"x"}"#,
        r#"{"opcode":7,"uuid":null,"ident":[],"message":{}}"#,
        r#"{"a":{"b":[1,2,{"c":"d"}]},"a":2}"#,
        "{\"emoji\":\"\u{1f600}\\ud83d\"}",
        "\u{feff}{}",
        "{\"cut",
        "a\u{0}b",
        "\r\n\t\u{7f}\u{2028}",
    ];
    let bytes: [&[u8]; 4] = [b"hello", b"", b"{}", &[0, 0xff, 0xfe, 0x80]];
    let texts = texts.into_iter().map(text);
    own.chain(texts).chain(bytes.into_iter().map(binary)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_messages() {
        let messages = |seed| {
            let (mut random, samples) = (Random::new(seed), samples(&[]));
            (0..100).map(|_| random.message(&samples)).collect::<Vec<_>>()
        };
        assert!(messages(1) == messages(1));
        assert!(messages(1) != messages(2));
    }
}
