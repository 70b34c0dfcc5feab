//! Violations of RFC 6455: each is answered by a close frame with the right code and affects no
//! other connection.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Client, RawClient, Request, Setup, TestHost, close_frame, masked, opcode};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn host() -> (TestHost, Client) {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").resource("/talk", "echo");
    let setup = setup.server("max_message", "1000").server("max_frames", "20");
    let host = setup.start().await;
    let bystander = host.open(Request::to("/echo")).await;
    (host, bystander)
}

async fn expect_echo(bystander: &mut Client) {
    bystander.send("still there?").await;
    assert_eq!(bystander.receive_text().await, "still there?");
}

/// Encodes the header of a masked frame with an 8-byte length.
fn header_64(first: u8, length: u64) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | 127];
    frame.extend(length.to_be_bytes());
    frame.extend([1, 2, 3, 4]);
    frame
}

fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, u8::try_from(payload.len()).unwrap()];
    frame.extend(payload);
    frame
}

/// Encodes the header of a masked frame with a 2-byte length, even if a shorter form exists.
fn header_16(first: u8, length: u16) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    vec![first, 0x80 | 126, high, low, 1, 2, 3, 4]
}

/// Encodes the first `count` frames of a fragmented message.
fn fragments(count: usize) -> Vec<u8> {
    [masked(BEGIN, b""), masked(0x00, b"").repeat(count - 1)].concat()
}

/// Encodes a close frame with a code and a reason.
fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    masked(opcode::CLOSE, &[&code.to_be_bytes(), reason].concat())
}

const TEXT: u8 = opcode::TEXT;
const BINARY: u8 = opcode::BINARY;
const MORE: u8 = opcode::CONTINUATION;
/// The first fragment of a text message.
const BEGIN: u8 = 0x01;

/// A description, the bytes that violate the protocol, and the expected close code.
type Violation = (&'static str, Vec<u8>, u16);

fn x(count: usize) -> Vec<u8> {
    vec![b'x'; count]
}

#[rustfmt::skip] // One line per violation.
fn frame_violations() -> Vec<Violation> {
    vec![
        ("an unmasked text", unmasked(TEXT, b"hello"), 1002),
        ("an unmasked empty text", unmasked(TEXT, b""), 1002),
        ("an unmasked ping", unmasked(opcode::PING, b""), 1002),
        ("an unmasked close", unmasked(opcode::CLOSE, b"\x03\xe8"), 1002),
        ("an unmasked fragment", unmasked(BEGIN, b"x"), 1002),
        ("an unmasked long frame", [&[TEXT, 126, 0, 200][..], &x(200)].concat(), 1002),
        ("reserved bit 1", masked(TEXT | 0x40, b"x"), 1002),
        ("reserved bit 2", masked(TEXT | 0x20, b"x"), 1002),
        ("reserved bit 3", masked(TEXT | 0x10, b"x"), 1002),
        ("all reserved bits", masked(BINARY | 0x70, b"x"), 1002),
        ("a reserved bit in a ping", masked(opcode::PING | 0x40, b"x"), 1002),
        ("a reserved bit in a close", masked(opcode::CLOSE | 0x20, b"\x03\xe8"), 1002),
        ("a reserved bit in a fragment", [masked(BEGIN, b"x"), masked(MORE | 0x40, b"x")].concat(), 1002),
        ("data opcode 3", masked(0x83, b"x"), 1002),
        ("data opcode 7", masked(0x87, b""), 1002),
        ("control opcode 11", masked(0x8b, b"x"), 1002),
        ("control opcode 15", masked(0x8f, b""), 1002),
        ("a reserved opcode with a large length", header_64(0x83, 1 << 40), 1002),
        ("a ping of 126 bytes", masked(opcode::PING, &x(126)), 1002),
        ("a reserved bit in a frame with a large length", header_64(TEXT | 0x40, 1 << 40), 1002),
        ("a ping with a large length", header_64(opcode::PING, 1 << 40), 1002),
        ("a close of 160 bytes", masked(opcode::CLOSE, &[3, 232].repeat(80)), 1002),
        ("a fragmented ping", masked(0x09, b"x"), 1002),
        ("a fragmented close", masked(0x08, b"\x03\xe8"), 1002),
        ("a continuation without a message", masked(MORE, b"x"), 1002),
        ("a non-final continuation without a message", masked(0x00, b"x"), 1002),
        ("a continuation of a finished message", [masked(BEGIN, b"x"), masked(MORE, b"x"), masked(MORE, b"x")].concat(), 1002),
        ("a text inside a fragmented one", [masked(BEGIN, b"x"), masked(TEXT, b"y")].concat(), 1002),
        ("a fragmented text inside a fragmented one", [masked(BEGIN, b"x"), masked(BEGIN, b"y")].concat(), 1002),
        ("a binary inside a fragmented text", [masked(BEGIN, b"x"), masked(BINARY, b"y")].concat(), 1002),
        ("a length of 5 in 2 bytes", [header_16(TEXT, 5), x(5)].concat(), 1002),
        ("a length of 125 in 2 bytes", header_16(BINARY, 125), 1002),
        ("a length of 0 in 2 bytes", header_16(TEXT, 0), 1002),
        ("a length of 5 in 8 bytes", header_64(TEXT, 5), 1002),
        ("a length of 65535 in 8 bytes", header_64(BINARY, 0xffff), 1002),
        ("a fragment's length of 1 in 2 bytes", header_16(BEGIN, 1), 1002),
        ("a ping's length of 1 in 2 bytes", header_16(opcode::PING, 1), 1002),
        ("a length of 2^63", header_64(BINARY, 1 << 63), 1002),
        ("a length of 2^64 - 1", header_64(TEXT, u64::MAX), 1002),
        ("a fragment's length of 2^63", header_64(BEGIN, 1 << 63), 1002),
        ("a length of 2^63 - 1", header_64(BINARY, (1 << 63) - 1), 1009),
    ]
}

#[rustfmt::skip] // One line per violation.
fn content_violations() -> Vec<Violation> {
    vec![
        ("invalid UTF-8", masked(TEXT, b"caf\xe9"), 1007),
        ("half a character at the end", masked(TEXT, b"\xc3"), 1007),
        ("a surrogate", masked(TEXT, b"\xed\xa0\x80"), 1007),
        ("an overlong form", masked(TEXT, b"\xc0\xaf"), 1007),
        ("a code point beyond U+10FFFF", masked(TEXT, b"\xf4\x90\x80\x80"), 1007),
        ("invalid UTF-8 over fragments", [masked(BEGIN, b"\xc3"), masked(MORE, b"x")].concat(), 1007),
        ("invalid UTF-8 in the first fragment", masked(BEGIN, b"\xff"), 1007),
        ("half a character at the end of the last fragment", [masked(BEGIN, b"x"), masked(MORE, b"\xe2\x82")].concat(), 1007),
        ("invalid UTF-8 in an incomplete frame", masked(TEXT, &[&b"\xf4\x90"[..], &x(900)].concat())[..20].to_vec(), 1007),
        ("invalid UTF-8 in an incomplete fragment", masked(BEGIN, &[&b"\xf4\x90"[..], &x(900)].concat())[..20].to_vec(), 1007),
        ("a text over max_message", masked(TEXT, &x(1001)), 1009),
        ("a binary over max_message", masked(BINARY, &x(1001)), 1009),
        ("only the header of such a frame", header_64(TEXT, 70_000), 1009),
        ("fragments over max_message", [masked(BEGIN, &x(600)), masked(MORE, &x(600))].concat(), 1009),
        ("a fragment over max_message", masked(BEGIN, &x(1001)), 1009),
        ("more frames than max_frames", fragments(21), 1009),
        ("a close of 1 byte", masked(opcode::CLOSE, b"\x03"), 1002),
        ("a close with 0", close(0, b""), 1002),
        ("a close with 999", close(999, b""), 1002),
        ("a close with 1004", close(1004, b""), 1002),
        ("a close with 1005", close(1005, b""), 1002),
        ("a close with 1006", close(1006, b""), 1002),
        ("a close with 1015", close(1015, b""), 1002),
        ("a close with 1016", close(1016, b"x"), 1002),
        ("a close with 2999", close(2999, b""), 1002),
        ("a close with 5000", close(5000, b""), 1002),
        ("a close with 65535", close(65535, b""), 1002),
        ("a close whose reason is not UTF-8", close(1000, b"\xff\xff"), 1007),
        ("a close whose reason ends in half a character", close(3000, b"x\xc3"), 1007),
    ]
}

#[tokio::test]
async fn each_violation_is_answered_with_its_close_code() {
    let (host, mut bystander) = host().await;
    let mut wrong = Vec::new();
    for (what, bytes, code) in frame_violations().into_iter().chain(content_violations()) {
        let mut client = host.raw().await.upgraded("/echo").await;
        // Unread input after the violation must not cause a reset before the close frame is read.
        let behind = masked(TEXT, b"more").repeat(5000);
        client.write(&bytes).await;
        drop(client.try_write(&behind).await);
        let frame = loop {
            let frame = client.frame().await.unwrap_or_else(|| panic!("{what}: no close frame"));
            // Messages before the violation are answered.
            if frame.first != TEXT {
                break frame;
            }
        };
        let reason = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default());
        if frame.close_code() != Some(code) || reason.is_empty() {
            wrong.push(format!("{what}: {:?}, not {code}: {reason}", frame.close_code()));
        }
        client.finish().await;
        assert_eq!(client.frame().await, None, "{what}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    expect_echo(&mut bystander).await;
}

#[tokio::test]
async fn a_violation_in_a_frame_header_is_answered_without_the_payload() {
    let (host, mut bystander) = host().await;
    let inside = |second: &[u8]| [&masked(BEGIN, b"x"), second].concat();
    for (what, bytes, code) in [
        ("a reserved bit", vec![TEXT | 0x40], 1002),
        ("a reserved opcode", vec![0x8b], 1002),
        ("a fragmented ping", vec![0x09], 1002),
        ("a long ping", vec![opcode::PING, 0xfe], 1002),
        ("a close of one byte", vec![opcode::CLOSE, 0x81], 1002),
        ("no mask", vec![TEXT, 5], 1002),
        ("a length in a form too long", vec![TEXT, 0xfe, 0, 5], 1002),
        ("a length of 2^63", vec![BINARY, 0xff, 0x80], 1002),
        ("too long", vec![BINARY, 0xff, 0, 0, 0, 0, 0, 1, 0, 0], 1009),
        ("a continuation without a message", vec![MORE, 0x85, 1, 2, 3, 4], 1002),
        ("a text inside a text", inside(&[TEXT, 0x85, 1, 2, 3, 4]), 1002),
        ("a fragment inside a text", inside(&[0x02, 0x85, 1, 2, 3, 4]), 1002),
        ("a message too long in total", inside(&[MORE, 0xfe, 3, 232, 1, 2, 3, 4]), 1009),
    ] {
        for ends in [false, true] {
            let mut client = host.raw().await.upgraded("/echo").await;
            client.write(&bytes).await;
            if ends {
                client.finish().await;
            }
            let frame = client.frame().await;
            let found = frame.as_ref().and_then(|frame| frame.close_code());
            assert_eq!(found, Some(code), "{what} {ends}: {frame:?}");
        }
    }
    expect_echo(&mut bystander).await;
}

#[tokio::test]
async fn each_valid_close_code_is_echoed() {
    let (host, _) = host().await;
    for code in [1000, 1001, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999] {
        let mut client = host.raw().await.upgraded("/echo").await;
        client.write(close(code, b"why")).await;
        let frame = client.frame().await.expect("an answer");
        assert_eq!((frame.first, frame.close_code()), (opcode::CLOSE, Some(code)));
        assert_eq!(client.frame().await, None);
    }
    let mut client = host.raw().await.upgraded("/echo").await;
    client.write(masked(opcode::CLOSE, b"")).await;
    let frame = client.frame().await.expect("an answer");
    assert_eq!((frame.first, &frame.payload[..]), (opcode::CLOSE, &b""[..]));
}

#[tokio::test]
async fn data_after_a_close_frame_is_not_handled() {
    let (host, mut bystander) = host().await;
    let mut client = host.raw().await.upgraded("/echo").await;
    client.write([close_frame(1000), masked(opcode::TEXT, b"too late")].concat()).await;
    client.expect_close(1000).await;
    expect_echo(&mut bystander).await;
}

#[tokio::test]
async fn messages_before_a_violation_are_answered_before_the_close() {
    let (host, _bystander) = host().await;
    let mut client = host.raw().await.upgraded("/talk").await;
    client.expect_text().await;
    client.write([masked(opcode::TEXT, b"fine"), masked(0x83, b"x")].concat()).await;
    assert_eq!(client.expect_text().await, "fine");
    assert_eq!(client.expect_text().await, r#"{"opcode":"next","fyi":""}"#);
    assert!(client.expect_text().await.starts_with(r#"{"opcode":"close","error":""#));
    client.expect_close(1002).await;
}

#[tokio::test]
async fn a_message_of_max_message_is_accepted() {
    let (host, _bystander) = host().await;
    let mut client = host.raw().await.upgraded("/echo").await;
    let whole = [b'x'; 1000];
    client.write(masked(opcode::TEXT, &whole)).await;
    assert_eq!(client.expect_text().await.len(), 1000);
    client.write(masked(0x01, &whole[..500])).await;
    client.write(masked(opcode::CONTINUATION, &whole[500..])).await;
    assert_eq!(client.expect_text().await.len(), 1000);
}

#[tokio::test]
async fn a_client_that_disconnects_at_any_byte_affects_no_other() {
    let (host, mut bystander) = host().await;
    let whole = [RawClient::handshake("/echo").into_bytes(), masked(opcode::TEXT, b"x")].concat();
    for length in (0..whole.len()).step_by(7) {
        let mut client = host.raw().await;
        client.write(&whole[..length]).await;
        drop(client);
        let mut client = host.raw().await;
        client.write(&whole[..length]).await;
        client.finish().await;
    }
    expect_echo(&mut bystander).await;
}

#[tokio::test]
async fn noise_instead_of_a_request_is_refused() {
    let (host, mut bystander) = host().await;
    for noise in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[0; 100], &[0xff; 100]] {
        let mut client = host.raw().await;
        client.write(noise).await;
        client.finish().await;
        let answer = client.read_to_end().await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    }
    expect_echo(&mut bystander).await;
}

#[tokio::test]
async fn a_message_over_message_timeout_closes_the_connection() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").resource("/talk", "echo");
    let host = setup.server("message_timeout", "0.3").start().await;
    let frame = masked(opcode::TEXT, b"whole");
    for beginning in [&frame[..1], &frame[..4], &frame[..9], &masked(0x01, b"fragment")] {
        let mut client = host.raw().await.upgraded("/echo").await;
        client.write(&frame).await;
        assert_eq!(client.expect_text().await, "whole");
        client.write(beginning).await;
        client.expect_close(1008).await;
    }
    let mut lines = host.connect_lines("/talk").await;
    lines.write("half a li").await;
    lines.expect_close_packet().await;
}
