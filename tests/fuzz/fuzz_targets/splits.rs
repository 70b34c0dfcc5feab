//! WebSocket input in pieces: splits do not change the result, and the buffer is limited to a
//! message and a read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plugsocket::internals::{Framing, read_all};
use plugsocket_fuzz::{Input, frames};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let max_message = [125, 1000, 20_000][input.below(3)];
    let (cuts, behind) = (input.cuts(), input.below(128));
    let bytes = if input.below(4) == 0 { input.0.to_vec() } else { frames(&mut input) };
    let whole = read_all(Framing::WebSocket, &[], &[&bytes], max_message);
    let (behind, rest) = bytes.split_at(behind.min(bytes.len()));
    let reads = cuts.of(rest);
    let split = read_all(Framing::WebSocket, behind, &reads, max_message);
    assert_eq!(whole.messages, split.messages);
    // If both the header and the text of a frame are invalid, either error may be reported.
    let is_fault = |end| matches!(end, (1002 | 1007, true));
    let (one, other) = (whole.end, split.end);
    assert!(one == other || is_fault(one) && is_fault(other), "{one:?} {other:?}");
    assert_eq!(whole.answers, split.answers);
    let longest_read =
        reads.iter().map(|read| read.len()).max().unwrap_or_default().max(behind.len());
    for (outcome, read) in [(&whole, bytes.len()), (&split, longest_read)] {
        // A frame with its header, here and in tungstenite; buffers grow to twice their content.
        let most = 4 * (max_message + 14 + read.min(64 * 1024)) + 8 * 1024;
        assert!(outcome.most_buffered <= most, "{} of {most}", outcome.most_buffered);
        assert!(outcome.messages.iter().all(|(_, message)| message.len() <= max_message));
        // One batch, and the end of a fragmented message.
        assert!(outcome.most_at_once <= 65, "{}", outcome.most_at_once);
    }
});
