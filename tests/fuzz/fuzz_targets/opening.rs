//! Opening of plain TCP: with any split the same path or refusal, and the same messages after it.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use plugsocket::protocol::http::{Refusal, ident};
use plugsocket::protocol::lines::{Lines, Opened, Opening, Tail, Transport, detect_transport};
use plugsocket_fuzz::Input;

const MAX_HEAD: usize = 256;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let cuts = input.cuts();
    let first_line =
        [&b""[..], b"backend\n", b"php process\r\nGET ", b"backend\nGET /web HTTP/1.1\n"]
            [input.below(4)];
    let bytes = &[first_line, input.0].concat()[..];
    let ends = cuts.ends(bytes);
    check_transport(bytes);
    // Only the opening, at once and in pieces.
    let whole = Opening::new(MAX_HEAD).read(bytes);
    let mut opening = Opening::new(MAX_HEAD);
    let split = ends.iter().find_map(|end| {
        let found = opening.read(&bytes[..*end]).transpose()?;
        Some((*end, found))
    });
    match (whole, split) {
        (Ok(None), None) => assert!(bytes.len() < MAX_HEAD),
        (Err(whole), Some((_, Err(split)))) => assert_eq!(whole, split),
        (Ok(Some(whole)), Some((_, Ok(split)))) => check_same(bytes, &whole, &split),
        // In pieces it ended before a later line that is invalid or incomplete.
        (Err(_) | Ok(None), Some((end, Ok(split)))) => {
            assert!(end < bytes.len() && split.tail == Tail::Awaited);
        }
        (whole, split) => panic!("{whole:?} but in pieces {split:?}"),
    }
});

fn check_transport(bytes: &[u8]) {
    // A detected transport does not change.
    let mut known = None;
    for end in 0..=bytes.len().min(20) {
        let now = detect_transport(&bytes[..end]);
        assert!(known.is_none() || now == known);
        known = now;
    }
    let accepted = Opening::new(MAX_HEAD).read(bytes);
    if let Ok(Some(_)) = accepted {
        assert_eq!(known, Some(Transport::Lines));
    }
    if known == Some(Transport::Http) {
        assert!(!matches!(accepted, Ok(Some(_))), "both HTTP and an opening");
    }
    if let Err(refusal) = accepted {
        assert!(is_clean(&refusal));
    }
}

fn is_clean(refusal: &Refusal) -> bool {
    (400..600).contains(&refusal.status()) && !refusal.reason().contains(char::is_control)
}

fn check_same(bytes: &[u8], whole: &Opened, split: &Opened) {
    assert_eq!((whole.head.path(), whole.head.query()), (split.head.path(), split.head.query()));
    assert!(whole.used <= bytes.len() && split.used <= whole.used);
    assert!(ident(&whole.head).is_none_or(|name| name.len() <= 256));
    if split.tail == Tail::Closed {
        assert_eq!(ident(&whole.head), ident(&split.head));
    }
    // A late Ident line has no effect: the messages that end with a line feed are the same.
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let behind =
        |opened: &Opened| messages(bytes.get(opened.used..end).unwrap_or_default(), opened.tail);
    assert_eq!(behind(whole), behind(split));
}

fn messages(bytes: &[u8], tail: Tail) -> Vec<Bytes> {
    let mut lines = Lines::new(usize::MAX, tail);
    lines.push(bytes);
    std::iter::from_fn(|| lines.next_message().expect("there is no limit")).collect()
}
