//! What must hold for every message, every split and every interleaving. The fuzz targets look for what breaks a parser; here
//! the input is what a right peer sends, and the messages must be those that it meant.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{Framing, read_all};
use crate::protocol::chunk::{Form, Joiner, Step};
use crate::protocol::http::{ChunkedBody, Refusal};
use crate::protocol::lines::Tail;
use crate::protocol::ws::frame;

const MAX: usize = 10_000;

/// A message, where it is cut into fragments, and the control frames before each of them.
#[derive(Clone, Debug)]
struct Sent {
    is_text: bool,
    payload: Vec<u8>,
    cuts: Vec<Index>,
    controls: Vec<Control>,
}

#[derive(Clone, Debug)]
struct Control {
    /// After which fragment of the message, if it has that many.
    behind: usize,
    is_ping: bool,
    payload: Vec<u8>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let payload = prop_oneof![
        any::<String>().prop_map(|text| (true, text.into_bytes())),
        vec(any::<u8>(), 0..300).prop_map(|bytes| (false, bytes)),
        (0..3000_usize).prop_map(|length| (true, vec![b'x'; length])),
    ];
    let control = (0..4_usize, any::<bool>(), vec(any::<u8>(), 0..=125))
        .prop_map(|(behind, is_ping, payload)| Control { behind, is_ping, payload });
    (payload, vec(any::<Index>(), 0..4), vec(control, 0..3))
        .prop_map(|((is_text, payload), cuts, controls)| Sent { is_text, payload, cuts, controls })
}

/// A frame as a client sends it: `first` is its first byte (FIN, reserved bits, opcode).
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0x01, 0xfe, 0x33];
    let mut bytes = Vec::new();
    frame::append_header(&mut bytes, Form::Text, payload.len());
    bytes[0] = first;
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&MASK);
    let at = bytes.len();
    bytes.extend_from_slice(payload);
    frame::unmask(&mut bytes[at..], MASK);
    bytes
}

/// `bytes` in pieces; the cuts may coincide.
fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.sort_unstable();
    ends.push(bytes.len());
    let mut begin = 0;
    let cut = |end| &bytes[std::mem::replace(&mut begin, end)..end];
    ends.into_iter().map(cut).collect()
}

impl Sent {
    /// Its frames, and the pongs that they ask for.
    fn append(&self, frames: &mut Vec<u8>, pongs: &mut Vec<u8>) {
        let fragments = pieces(&self.payload, &self.cuts);
        let last = fragments.len() - 1;
        for (n, fragment) in fragments.into_iter().enumerate() {
            let opcode = match (n, self.is_text) {
                (0, true) => 1,
                (0, false) => 2,
                _ => 0,
            };
            let end = if n == last { 0x80 } else { 0 };
            frames.extend(masked(opcode | end, fragment));
            for control in self.controls.iter().filter(|control| control.behind == n) {
                frames.extend(masked(if control.is_ping { 0x89 } else { 0x8a }, &control.payload));
                if control.is_ping {
                    pongs.extend([0x8a, control.payload.len() as u8]);
                    pongs.extend(&control.payload);
                }
            }
        }
    }
}

/// What lines may say beside chunks: no line feed, and nothing that a read in its middle could end (`lines` says what).
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z ]{0,20}x",
        "\\{\"a\":\\[[0-9]{1,3},\"[}\\]a-z]{0,9}\"\\]\\}",
        Just("\u{e4}\u{1f600}".to_owned()),
    ]
}

/// A chunked body, mostly well-formed at each place.
fn chunked_body() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => "(0{0,3}[1-9a-f](;a=b)?\r\n[x-z]{1,3}\r\n)|(0{1,3}\r\n)|(X: y\r\n)|(\r\n)",
        2 => (1..9_usize).prop_map(|size| format!("{size:X}\r\n{}\r\n", "x".repeat(size))),
        1 => Just("0\r\n\r\n".to_owned()),
    ];
    let bytes = prop_oneof![
        8 => part.prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(bytes, 0..12).prop_map(|parts| parts.concat())
}

/// The body and the number of bytes that it took, `None` while it is incomplete.
fn decode(reads: &[&[u8]], max_body: usize) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
    let mut decoder = ChunkedBody::new(max_body, 40);
    let mut before = 0;
    for read in reads {
        if let Some(used) = decoder.read(read)? {
            return Ok(Some((decoder.into_body(), before + used)));
        }
        before += read.len();
    }
    Ok(None)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fragments_and_control_frames_between_them_are_the_message_that_was_meant(
        messages in vec(sent(), 0..6),
        cuts in vec(any::<Index>(), 0..12),
        behind in any::<Index>(),
    ) {
        let (mut frames, mut pongs) = (Vec::new(), Vec::new());
        messages.iter().for_each(|message| message.append(&mut frames, &mut pongs));
        let (first, rest) = frames.split_at(behind.index(frames.len() + 1));
        let outcome = read_all(Framing::WebSocket, first, &pieces(rest, &cuts), MAX);
        let expected: Vec<_> = messages
            .into_iter()
            .map(|Sent { is_text, payload, .. }| {
                (if is_text { Form::Text } else { Form::Binary }, Bytes::from(payload))
            })
            .collect();
        prop_assert_eq!(outcome.messages, expected);
        prop_assert_eq!(outcome.answers, pongs);
        prop_assert_eq!(outcome.end, (1006, false));
    }

    #[test]
    fn a_message_in_chunks_is_the_message_that_was_meant(
        message in any::<String>(),
        chunk_cuts in vec(any::<Index>(), 0..9),
        cuts in vec(any::<Index>(), 0..12),
        is_websocket in any::<bool>(),
    ) {
        // A line feed ends a line, and an empty line is not a message.
        let message = message.replace(['\n', '\r'], " ");
        let mut sent = Vec::new();
        let chunks = pieces(message.as_bytes(), &chunk_cuts);
        // What has no place of its own in either framing.
        prop_assume!(!chunks.iter().any(|chunk| chunk.starts_with(b"buffer")));
        let whole = [&[&b"bufferON"[..]], &chunks[..], &[b"bufferOFF"]].concat();
        for part in whole {
            match (is_websocket, std::str::from_utf8(part)) {
                (true, Ok(_)) => sent.extend(masked(0x81, part)),
                (true, Err(_)) => sent.extend(masked(0x82, part)),
                (false, _) => sent.extend([part, b"\n"].concat()),
            }
        }
        // The first line must not end with its read before it is whole, or this is an old peer.
        let framing = if is_websocket { Framing::WebSocket } else { Framing::Lines(Tail::Closed) };
        let (first, rest) = sent.split_at(if is_websocket { 0 } else { b"bufferON\n".len() });
        let outcome = read_all(framing, first, &pieces(rest, &cuts), MAX);
        let mut joiner = Joiner::new(MAX, 100);
        let steps: Vec<Step> =
            outcome.messages.into_iter().map(|(form, bytes)| joiner.take(bytes, form)).collect();
        let (last, before) = steps.split_last().expect("two commands at least");
        prop_assert!(before.iter().all(|step| *step == Step::Acknowledge));
        prop_assert_eq!(last, &Step::Deliver(Bytes::from(message)));
    }

    #[test]
    fn lines_are_the_messages_that_were_meant(
        messages in vec((line(), any::<bool>()), 1..9),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let mut sent = Vec::new();
        for (message, with_return) in &messages {
            sent.extend_from_slice(message.as_bytes());
            sent.extend_from_slice(if *with_return { b"\r\n" } else { b"\n" });
        }
        let outcome = read_all(Framing::Lines(Tail::Closed), &[], &pieces(&sent, &cuts), MAX);
        let expected: Vec<_> = messages
            .into_iter()
            .map(|(message, _)| (Form::Unchecked, Bytes::from(message)))
            .collect();
        prop_assert_eq!(outcome.messages, expected);
    }

    #[test]
    fn an_old_peer_that_writes_and_waits_is_understood(
        messages in vec("\\{\"a\":\"[^\u{0}-\u{1f}\"\\\\]{0,40}\"\\}", 1..9),
    ) {
        let reads: Vec<&[u8]> = messages.iter().map(String::as_bytes).collect();
        let outcome = read_all(Framing::Lines(Tail::Awaited), &[], &reads, MAX);
        let found: Vec<_> = outcome.messages.iter().map(|(_, bytes)| &bytes[..]).collect();
        prop_assert_eq!(found, reads);
    }

    #[test]
    fn the_splits_of_a_chunked_body_do_not_matter_and_its_limit_holds(
        sent in chunked_body(),
        cuts in vec(any::<Index>(), 0..12),
        max_body in 0..30_usize,
    ) {
        let whole = decode(&[&sent], max_body);
        prop_assert_eq!(&whole, &decode(&pieces(&sent, &cuts), max_body));
        let single: Vec<&[u8]> = sent.chunks(1).collect();
        prop_assert_eq!(&whole, &decode(&single, max_body));
        if let Ok(Some((body, used))) = whole {
            prop_assert!(body.len() <= max_body);
            prop_assert_eq!(decode(&[&sent[..used - 1]], max_body), Ok(None));
        }
    }

    #[test]
    fn a_chunked_body_is_the_body_that_was_meant(
        body in vec(any::<u8>(), 0..300),
        chunk_cuts in vec(any::<Index>(), 0..9),
        extension in "(;[a-z]{1,2}(=[a-z]{1,2})?)?",
        trailer in "([A-Z]{1,3}: ?[a-z ]{0,9}\r\n)?",
        behind in vec(any::<u8>(), 0..9),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let mut sent = Vec::new();
        for chunk in pieces(&body, &chunk_cuts).into_iter().filter(|chunk| !chunk.is_empty()) {
            sent.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
            sent.extend([chunk, b"\r\n"].concat());
        }
        sent.extend(format!("0\r\n{trailer}\r\n").bytes());
        let used = sent.len();
        sent.extend(behind);
        let decoded = decode(&pieces(&sent, &cuts), 300);
        prop_assert_eq!(decoded, Ok(Some((body, used))));
    }
}
