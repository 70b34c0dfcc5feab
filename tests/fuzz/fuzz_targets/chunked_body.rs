//! Chunked request bodies: splits change neither the result nor its length, no body exceeds its
//! limit, and httparse agrees with an accepted one.
#![no_main]

use httparse::Status;
use libfuzzer_sys::fuzz_target;
use plugsocket::protocol::http::{ChunkedBody, Refusal};
use plugsocket_fuzz::Input;

/// The body and its encoded length, `None` while incomplete.
type Verdict = Result<Option<(Vec<u8>, usize)>, Refusal>;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let max_body = [0, 20, 70_000][input.below(3)];
    let max_extra = [0, 30, 16 << 10][input.below(3)];
    let cuts = input.cuts();
    let bytes = input.0;
    let decode = |reads: &[&[u8]]| decode(reads, ChunkedBody::new(max_body, max_extra));
    let whole = decode(&[bytes]);
    assert_eq!(whole, decode(&cuts.of(bytes)));
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(whole, decode(&single));
    match whole {
        Err(refusal) => assert!([400, 413, 431].contains(&refusal.status())),
        Ok(None) => {}
        Ok(Some((body, used))) => {
            assert!(body.len() <= max_body);
            assert_eq!(decode(&[&bytes[..used - 1]]), Ok(None), "a prefix is accepted");
            assert_eq!(reference(&bytes[..used]), body);
        }
    }
});

fn decode(reads: &[&[u8]], mut decoder: ChunkedBody) -> Verdict {
    let mut before = 0;
    for read in reads {
        if let Some(used) = decoder.read(read)? {
            assert!(used <= read.len());
            return Ok(Some((decoder.into_body(), before + used)));
        }
        before += read.len();
    }
    Ok(None)
}

/// Decodes a complete body, which ends where `rest` ends, with httparse.
fn reference(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        // httparse reads at most 15 digits.
        let zeros = rest.iter().take_while(|byte| **byte == b'0').count();
        rest = &rest[zeros.saturating_sub(1)..];
        let Ok(Status::Complete((begin, size))) = httparse::parse_chunk_size(rest) else {
            panic!("httparse rejects {}", rest.escape_ascii());
        };
        rest = &rest[begin..];
        if size == 0 {
            break;
        }
        let (data, behind) = rest.split_at(usize::try_from(size).expect("within the limit"));
        body.extend_from_slice(data);
        rest = behind.strip_prefix(b"\r\n").expect("a line end behind a chunk");
    }
    let mut trailers = vec![httparse::EMPTY_HEADER; rest.len()];
    let parsed = httparse::parse_headers(rest, &mut trailers);
    assert!(
        matches!(parsed, Ok(Status::Complete((end, _))) if end == rest.len()),
        "{parsed:?} for {}",
        rest.escape_ascii()
    );
    body
}
