//! Messages on plain TCP: splits do not change them in line mode, every message is part of the
//! input, and the buffer is limited.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use plugsocket::protocol::lines::{LineError, Lines, Tail};
use plugsocket_fuzz::Input;
use serde::de::IgnoredAny;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let max_message = [20, 300, 70_000][input.below(3)];
    let tail = [Tail::Closed, Tail::Awaited][input.below(2)];
    let cuts = input.cuts();
    let bytes = input.0;
    let whole = read(&[bytes], tail, max_message);
    let reads = cuts.of(bytes);
    let split = read(&reads, tail, max_message);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let single = read(&single, tail, max_message);
    // From a legacy client each read may be a message; otherwise only the first line is ambiguous.
    if first_line_is_safe(bytes, tail) {
        assert_eq!(whole, split, "{reads:?}");
        assert_eq!(whole, single);
    }
    for (messages, _) in [&whole, &split, &single] {
        check_made_of(bytes, messages);
        assert!(messages.iter().all(|message| message.len() <= max_message));
    }
});

fn read(reads: &[&[u8]], tail: Tail, max_message: usize) -> (Vec<Bytes>, Option<LineError>) {
    let mut lines = Lines::new(max_message, tail);
    let (mut messages, mut longest) = (Vec::new(), 0);
    for read in reads {
        lines.push(read);
        loop {
            match lines.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        // The buffer grows to twice its content: an incomplete message, its line end, and one read.
        longest = longest.max(read.len());
        assert!(
            lines.buffered_bytes() <= 2 * (max_message + 2 + longest) + 64,
            "{}",
            lines.buffered_bytes()
        );
        assert_eq!(lines.is_mid_message(), lines.buffered_bytes() > 0);
    }
    (messages, None)
}

/// Returns whether a line feed ends the first message, and no read can end it earlier.
fn first_line_is_safe(bytes: &[u8], tail: Tail) -> bool {
    let mut awaits = tail == Tail::Awaited;
    let mut rest = bytes;
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return false };
        let (line, behind) = (&rest[..end], &rest[end + 1..]);
        let content = line.strip_suffix(b"\r").unwrap_or(line);
        let early = (1..content.len()).map(|len| &content[..len]).any(|begun| {
            let text = begun.strip_suffix(b"\r").unwrap_or(begun);
            let value = begun.strip_prefix(b"\xef\xbb\xbf").unwrap_or(begun);
            begun == b"bufferON"
                || begun == b"bufferOFF"
                || text == b"bufferON"
                || text == b"bufferOFF"
                || serde_json::from_slice::<IgnoredAny>(value).is_ok()
        });
        if early {
            return false;
        }
        let is_ident = awaits && content.len() >= 6 && content[..6].eq_ignore_ascii_case(b"ident:");
        if !content.trim_ascii().is_empty() {
            awaits = false;
            if !is_ident {
                return true;
            }
        }
        rest = behind;
    }
}

/// Checks that the messages are parts of the input, in order.
fn check_made_of(bytes: &[u8], messages: &[Bytes]) {
    let mut rest = bytes;
    for message in messages {
        let at = (0..=rest.len() - message.len().min(rest.len()))
            .find(|at| rest[*at..].starts_with(message));
        let at = at.unwrap_or_else(|| panic!("{message:?} was not sent"));
        rest = &rest[at + message.len()..];
    }
}
