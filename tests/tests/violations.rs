//! Peers that break RFC 6455: each is told its code in a close frame, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Client, RawClient, Request, Setup, TestHost, closing, masked, opcode};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn host() -> (TestHost, Client) {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").resource("/talk", "echo");
    let host = setup.server("max_message", "1000").start().await;
    let bystander = host.open(Request::to("/echo")).await;
    (host, bystander)
}

async fn is_unharmed(bystander: &mut Client) {
    bystander.send("still there?").await;
    assert_eq!(bystander.receive_text().await, "still there?");
}

/// The header of a masked frame that claims a length of 8 bytes.
fn claiming(first: u8, length: u64) -> Vec<u8> {
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

#[tokio::test]
async fn each_violation_is_answered_with_its_code() {
    let (host, mut bystander) = host().await;
    for (what, bytes, code) in [
        ("an unmasked frame", unmasked(opcode::TEXT, b"hello"), 1002),
        ("an unmasked control frame", unmasked(opcode::PING, b""), 1002),
        ("reserved bit 1", masked(opcode::TEXT | 0x40, b"x"), 1002),
        ("reserved bit 2", masked(opcode::TEXT | 0x20, b"x"), 1002),
        ("reserved bit 3", masked(opcode::TEXT | 0x10, b"x"), 1002),
        ("a reserved data opcode", masked(0x83, b"x"), 1002),
        ("a reserved control opcode", masked(0x8b, b"x"), 1002),
        ("an oversize ping", masked(opcode::PING, &[0; 126]), 1002),
        ("an oversize close", masked(opcode::CLOSE, &[3, 232].repeat(80)), 1002),
        ("a fragmented ping", masked(0x09, b"x"), 1002),
        ("a continuation of nothing", masked(opcode::CONTINUATION, b"x"), 1002),
        (
            "a new message inside a fragmented one",
            [masked(0x01, b"x"), masked(opcode::TEXT, b"y")].concat(),
            1002,
        ),
        ("invalid UTF-8", masked(opcode::TEXT, b"caf\xe9"), 1007),
        ("half a character at the end", masked(opcode::TEXT, b"\xc3"), 1007),
        ("a surrogate", masked(opcode::TEXT, b"\xed\xa0\x80"), 1007),
        (
            "invalid UTF-8 over fragments",
            [masked(0x01, b"\xc3"), masked(opcode::CONTINUATION, b"x")].concat(),
            1007,
        ),
        ("a frame over max_message", masked(opcode::TEXT, &[b'x'; 1001]), 1009),
        ("a binary frame over max_message", masked(opcode::BINARY, &[0; 1001]), 1009),
        ("only the header of such a frame", claiming(opcode::TEXT, 1001), 1009),
        (
            "fragments over max_message",
            [masked(0x01, &[b'x'; 600]), masked(opcode::CONTINUATION, &[b'x'; 600])].concat(),
            1009,
        ),
        ("a length of 2^63", claiming(opcode::BINARY, 1 << 63), 1002),
        ("a length of 2^64 - 1", claiming(opcode::BINARY, u64::MAX), 1002),
        ("a length of 2^63 - 1", claiming(opcode::BINARY, (1 << 63) - 1), 1009),
    ] {
        let mut client = host.raw().await.upgraded("/echo").await;
        client.write(bytes).await;
        let frame = client.frame().await.unwrap_or_else(|| panic!("{what}: no close frame"));
        let answered = frame.close_code();
        // RFC 6455, section 5.2: the first bit of the length must be 0; too big is as true.
        let is_right = answered == Some(code) || what.contains("2^6") && answered == Some(1009);
        assert!(is_right, "{what}: {frame:?}, not {code}");
        assert!(std::str::from_utf8(&frame.payload[2..]).is_ok(), "{what}: {frame:?}");
        client.finish().await;
        assert_eq!(client.frame().await, None, "{what}");
        is_unharmed(&mut bystander).await;
    }
}

#[tokio::test]
async fn a_close_frame_that_is_none_is_answered_with_1002_or_1007() {
    let (host, mut bystander) = host().await;
    for (payload, codes) in [
        (&b"\x03"[..], [1002, 1002]),
        (&999_u16.to_be_bytes(), [1002, 1002]),
        (&1004_u16.to_be_bytes(), [1002, 1002]),
        (&1005_u16.to_be_bytes(), [1002, 1002]),
        (&1006_u16.to_be_bytes(), [1002, 1002]),
        (&1016_u16.to_be_bytes(), [1002, 1002]),
        (&2999_u16.to_be_bytes(), [1002, 1002]),
        (&5000_u16.to_be_bytes(), [1002, 1002]),
        (b"\x03\xe8\xff\xff", [1007, 1002]),
    ] {
        let mut client = host.raw().await.upgraded("/echo").await;
        client.write(masked(opcode::CLOSE, payload)).await;
        let frame = client.frame().await.unwrap_or_else(|| panic!("{payload:?}: no close frame"));
        let code = frame.close_code().unwrap_or_default();
        assert!(codes.contains(&code), "{payload:?}: {frame:?}");
        client.finish().await;
        assert_eq!(client.frame().await, None);
        is_unharmed(&mut bystander).await;
    }
}

#[tokio::test]
async fn data_after_a_close_frame_is_not_handled() {
    let (host, mut bystander) = host().await;
    let mut client = host.raw().await.upgraded("/echo").await;
    client.write([closing(1000), masked(opcode::TEXT, b"too late")].concat()).await;
    client.expect_close(1000).await;
    is_unharmed(&mut bystander).await;
}

#[tokio::test]
async fn what_was_sent_before_a_violation_is_answered_before_the_close() {
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
async fn a_message_of_max_message_passes() {
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
async fn a_peer_that_vanishes_in_the_middle_of_anything_harms_nobody() {
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
    is_unharmed(&mut bystander).await;
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
    is_unharmed(&mut bystander).await;
}

#[tokio::test]
async fn a_message_that_is_not_whole_in_time_ends_the_connection() {
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
