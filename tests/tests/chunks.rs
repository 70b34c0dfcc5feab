//! The chunk protocol: `bufferON`, chunks, `bufferOFF`, and their limits.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Client, LineClient, Request, Setup, TestHost, close_frame, masked, opcode};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).resource("/talk", "echo").resource("/count", "counter_v1")
}

/// Sends the pieces and expects exactly one `next` for each.
async fn send_acknowledged(client: &mut Client, pieces: &[&str]) {
    for piece in pieces {
        client.send(piece).await;
        assert_eq!(client.expect_next().await, "");
    }
}

async fn send_lines_acknowledged(client: &mut LineClient, pieces: &[&str]) {
    for piece in pieces {
        client.send(piece).await;
        assert_eq!(client.expect_next().await, "");
    }
}

/// Returns the application's count of messages, including the one sent here.
async fn total(host: &TestHost) -> Value {
    let mut client = host.connect("/count").await;
    client.send("how many?").await;
    client.until_next().await.packets[0]["total"].clone()
}

#[tokio::test]
async fn chunks_are_acknowledged_and_reach_the_application_joined_and_in_order() {
    let host = setup().start().await;
    let mut client = host.connect("/talk").await;
    for _ in 0..2 {
        send_acknowledged(&mut client, &["bufferON", "one,", " two,", "", " three"]).await;
        client.send("bufferOFF").await;
        assert_eq!(client.receive_text().await, "one, two, three");
        client.expect_next().await;
    }
}

#[tokio::test]
async fn nothing_reaches_the_application_before_the_end() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    send_acknowledged(&mut client, &["bufferON", "a", "b", "c"]).await;
    assert_eq!(total(&host).await, 1);
    client.send("bufferOFF").await;
    let next = client.until_next().await;
    let counted = json!({"opcode": "counted", "by": "v1", "total": 2, "seq": 1, "message": "abc"});
    assert_eq!(next.packets, [counted]);
}

#[tokio::test]
async fn commands_must_match_exactly() {
    let host = setup().start().await;
    let mut client = host.connect("/talk").await;
    for text in ["bufferOFF", "bufferon", " bufferON", "bufferON ", "bufferOFF\n", "BUFFERON"] {
        client.send(text).await;
        assert_eq!(client.receive_text().await, text);
        client.expect_next().await;
    }
    // A binary message is not a command but an ordinary chunk.
    client.send_binary(b"bufferON").await;
    assert!(client.receive().await.unwrap().is_binary());
    client.expect_next().await;
    send_acknowledged(&mut client, &["bufferON"]).await;
    client.send_binary(b"bufferOFF").await;
    client.expect_next().await;
    client.send("bufferOFF").await;
    assert_eq!(client.receive_text().await, "bufferOFF");
}

#[tokio::test]
async fn a_second_buffer_on_discards_the_open_buffer() {
    let host = setup().start().await;
    let mut client = host.connect("/talk").await;
    send_acknowledged(&mut client, &["bufferON", "dropped", "bufferON", "kept"]).await;
    client.send("bufferOFF").await;
    assert_eq!(client.receive_text().await, "kept");
}

#[tokio::test]
async fn an_open_buffer_is_discarded_with_its_connection() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    send_acknowledged(&mut client, &["bufferON", "half"]).await;
    client.close().await;
    host.wait_for_log("the end of the connection", |line| line.message() == "connection closed")
        .await;
    assert_eq!(total(&host).await, 1);
}

#[tokio::test]
async fn more_than_max_chunks_is_closed_with_1009_and_delivers_nothing() {
    let host = setup().server("max_chunks", "3").start().await;
    let mut client = host.connect("/count").await;
    send_acknowledged(&mut client, &["bufferON", "1", "2", "3"]).await;
    client.send("bufferOFF").await;
    client.until_next().await;
    send_acknowledged(&mut client, &["bufferON", "1", "2", "3"]).await;
    client.send("4").await;
    let packet = client.expect_close_packet(1009).await;
    assert!(packet["error"].as_str().unwrap().contains("3 chunks"), "{packet}");
    assert_eq!(total(&host).await, 2);
}

#[tokio::test]
async fn more_than_max_message_over_all_chunks_is_closed_with_1009() {
    let host = setup().server("max_message", "200").start().await;
    let mut client = host.connect("/count").await;
    let (half, more) = ("x".repeat(100), "x".repeat(101));
    send_acknowledged(&mut client, &["bufferON", &half, &half]).await;
    client.send("bufferOFF").await;
    client.until_next().await;
    send_acknowledged(&mut client, &["bufferON", &half]).await;
    client.send(&more).await;
    let packet = client.expect_close_packet(1009).await;
    assert!(packet["error"].as_str().unwrap().contains("200 bytes"), "{packet}");
    assert_eq!(total(&host).await, 2);
}

#[tokio::test]
async fn a_buffer_that_exceeds_message_timeout_is_closed() {
    let host = setup().server("message_timeout", "0.3").start().await;
    let mut client = host.connect("/count").await;
    send_acknowledged(&mut client, &["bufferON", "half"]).await;
    let packet = client.expect_close_packet(1008).await;
    assert!(packet["error"].as_str().unwrap().contains("in time"), "{packet}");
    assert_eq!(total(&host).await, 1);
}

#[tokio::test]
async fn chunks_work_without_a_dialog() {
    let host = Setup::new(PROGRAM).plain("/echo", "echo").start().await;
    let mut client = host.open(Request::to("/echo")).await;
    for text in ["bufferON", "a", "b", "bufferOFF"] {
        client.send(text).await;
    }
    assert_eq!(client.receive_text().await, "ab");
}

#[tokio::test]
async fn on_plain_tcp_a_chunk_may_end_inside_a_character() {
    let host = setup().start().await;
    let mut client = host.connect_lines("/talk").await;
    send_lines_acknowledged(&mut client, &["bufferON", "gr"]).await;
    let bytes = "ü€".as_bytes();
    for chunk in [&bytes[..1], &bytes[1..3], &bytes[3..]] {
        client.write([chunk, b"\n"].concat()).await;
        client.expect_next().await;
    }
    client.send("bufferOFF").await;
    assert_eq!(client.receive().await.unwrap(), "grü€");
    client.expect_next().await;
    // A chunk is a line, even if it is not complete JSON.
    send_lines_acknowledged(&mut client, &["bufferON", r#"{"a":"#, "1}"]).await;
    client.send("bufferOFF").await;
    assert_eq!(client.receive().await.unwrap(), r#"{"a":1}"#);
}

#[tokio::test]
async fn a_joined_message_that_is_not_utf8_is_closed_with_1007() {
    let host = setup().start().await;
    let mut client = host.connect_lines("/count").await;
    send_lines_acknowledged(&mut client, &["bufferON"]).await;
    client.write(b"\xc3\n").await;
    client.expect_next().await;
    client.send("bufferOFF").await;
    client.expect_close_packet().await;
    // Over WebSocket only binary chunks can contain invalid UTF-8.
    let mut client = host.raw().await.upgraded("/count").await;
    client.expect_text().await;
    for frame in [
        masked(opcode::TEXT, b"bufferON"),
        masked(opcode::BINARY, b"\xff"),
        masked(opcode::TEXT, b"bufferOFF"),
    ] {
        client.write(frame).await;
    }
    for _ in 0..2 {
        client.expect_text().await;
    }
    assert!(client.expect_text().await.contains("close"));
    client.expect_close(1007).await;
    assert_eq!(total(&host).await, 1);
}

#[tokio::test]
async fn chunk_limits_apply_on_plain_tcp() {
    let host = setup().server("max_message", "200").server("max_chunks", "2").start().await;
    let long = "x".repeat(120);
    for pieces in [["bufferON", "1", "2", "3"], ["bufferON", &long, &long, ""]] {
        let mut client = host.connect_lines("/count").await;
        for piece in pieces {
            client.send(piece).await;
        }
        let mut packet = client.receive_json().await;
        while packet["opcode"] == "next" {
            packet = client.receive_json().await;
        }
        assert_eq!(packet["opcode"], "close", "{packet}");
        client.expect_end().await;
    }
    assert_eq!(total(&host).await, 1);
}

/// The report must not depend on how the bytes are split into reads.
#[tokio::test]
async fn an_invalid_message_is_reported_even_if_a_close_frame_follows() {
    let host = setup().server("max_chunks", "3").plain("/echo", "echo").start().await;
    let text = |text: &str| masked(opcode::TEXT, text.as_bytes());
    let half = [text("bufferON"), masked(opcode::BINARY, b"\xc3"), text("bufferOFF")].concat();
    let many = [text("bufferON"), text("x").repeat(4)].concat();
    for path in ["/talk", "/echo"] {
        for (bytes, code) in [(&half, 1007), (&many, 1009)] {
            let mut client = host.raw().await.upgraded(path).await;
            client.write([&bytes[..], &close_frame(1000)].concat()).await;
            let end = loop {
                let frame = client.frame().await.expect("a close frame");
                if frame.first == opcode::CLOSE {
                    break frame;
                }
            };
            assert_eq!(end.close_code(), Some(code), "{path}");
            assert_eq!(client.frame().await, None);
        }
    }
}
