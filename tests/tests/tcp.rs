//! Backends on plain TCP: line-delimited packets, and old clients that send no line ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{LineClient, Setup, TestHost};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn host() -> TestHost {
    let setup = Setup::new(PROGRAM).resource("/php", "feedback").resource("/speak", "speaker");
    setup.resource("/talk", "echo").start().await
}

async fn open(host: &TestHost, opening: &str) -> LineClient {
    LineClient::open(host.address(), opening).await
}

#[tokio::test]
async fn each_form_of_the_opening_is_accepted() {
    let host = host().await;
    for opening in [
        "php process\nGET /php HTTP/1.1\n",
        "php process\nGET /php HTTP/1.1\n\n",
        "php process\r\nGET /php HTTP/1.1\r\n\r\n",
        "backend\nGET /php HTTP/1.1\n\n",
        "backend\r\nGET /php HTTP/1.1\r\nIdent: me\r\n\r\n",
        "backend\nGET /php HTTP/1.1\nident: me\n",
    ] {
        let mut client = open(&host, opening).await.ready().await;
        let echo = json!({"opcode": "echo", "message": opening});
        assert_eq!(client.call(&echo).await.packets, [echo], "{opening:?}");
    }
}

#[tokio::test]
async fn an_opening_sent_byte_by_byte_is_accepted() {
    let host = host().await;
    let mut client = open(&host, "").await;
    for byte in b"backend\nGET /php HTTP/1.1\nIdent: me\n\n{\"opcode\":\"x\"}\n" {
        client.write([*byte]).await;
    }
    let mut client = client.ready().await;
    client.expect_next().await;
}

#[tokio::test]
async fn an_ident_in_a_separate_write_is_awaited() {
    let host =
        Setup::new(PROGRAM).resource("/php", "feedback").server("ready_delay", "5").start().await;
    let mut client = open(&host, "backend\n").await;
    client.write("GET /php HTTP/1.1\n").await;
    client.write("Ident: line by line\n").await;
    client.write("\n").await;
    let mut client = client.ready().await;
    let feedback = json!({"opcode": "feedback", "ident": "line by line", "message": 1});
    assert_eq!(client.call(&feedback).await.packets, [feedback]);
}

#[tokio::test]
async fn an_invalid_opening_is_refused() {
    let host = host().await;
    for (opening, part) in [("backend\nPOST /php HTTP/1.1\n", "400"), ("backend\nhello\n", "400")] {
        let mut client = open(&host, opening).await;
        assert!(client.receive().await.unwrap().contains(part));
    }
    let mut client = open(&host, "backend\nGET /nowhere HTTP/1.1\n\n").await;
    let packet = client.expect_close_packet().await;
    assert!(packet["error"].as_str().unwrap().contains("/nowhere"), "{packet}");
}

#[tokio::test]
async fn the_ident_is_known_to_the_application_and_to_feedback() {
    let host = host().await;
    let opening = "backend\nGET /speak?job=7 HTTP/1.1\nIdent: nightly run\n\n";
    let mut client = open(&host, opening).await.ready().await;
    let next = client.call(&json!({"do": "whoami"})).await;
    let session = &next.packets[0]["result"];
    assert_eq!(
        (&session["kind"], &session["ident"], &session["query"]),
        (&json!("tcp"), &json!("nightly run"), &json!("job=7"))
    );
    let mut browser = host.connect("/php").await;
    let feedback = json!({"opcode": "feedback", "ident": "nightly run", "message": "stop"});
    assert_eq!(browser.call(&feedback).await.fyi, "delivered");
    assert_eq!(client.receive_json().await, feedback);
}

#[tokio::test]
async fn line_delimited_messages_can_be_pipelined() {
    let host = host().await;
    let mut client = host.connect_lines("/php").await;
    let echo = |n: usize| json!({"opcode": "echo", "message": n});
    let all: String = (0..500).map(|n| format!("{}\n", echo(n))).collect();
    client.write(all).await;
    for n in 0..500 {
        assert_eq!(client.until_next().await.packets, [echo(n)]);
    }
}

#[tokio::test]
async fn a_message_without_line_end_ends_with_its_json() {
    let host = host().await;
    let mut client = open(&host, "php process\nGET /php HTTP/1.1\n").await.ready().await;
    for n in 0..5 {
        let echo = json!({"opcode": "echo", "message": n});
        client.write(echo.to_string()).await;
        assert_eq!(client.until_next().await.packets, [echo]);
    }
}

#[tokio::test]
async fn chunks_without_line_ends_are_accepted() {
    let host = host().await;
    let mut client = open(&host, "php process\nGET /php HTTP/1.1\n").await.ready().await;
    for piece in ["bufferON", r#"{"opcode":"echo","#, "\"message\":\n\"gr\u{fc}n\"}"] {
        client.write(piece).await;
        client.expect_next().await;
    }
    client.write("bufferOFF").await;
    assert_eq!(client.until_next().await.packets, [json!({"opcode": "echo", "message": "grün"})]);
}

#[tokio::test]
async fn a_partial_message_is_kept_until_the_rest_arrives() {
    let host = host().await;
    for end in ["", "\n", "\r\n"] {
        let mut client = host.connect_lines("/php").await;
        client.write(r#"{"opcode":"echo","mess"#).await;
        // A round trip on another connection, during which the host reads the first half.
        host.connect_lines("/php").await.call(&json!({})).await;
        client.write(format!("age\":\"€\"}}{end}")).await;
        let echo = json!({"opcode": "echo", "message": "€"});
        assert_eq!(client.until_next().await.packets, [echo]);
    }
}

#[tokio::test]
async fn crlf_ends_a_line_and_is_not_part_of_the_message() {
    let host = host().await;
    let mut client = host.connect_lines("/talk").await;
    client.write("one\r\ntwo\r\n\r\nthree\n").await;
    for text in ["one", "two", "three"] {
        assert_eq!(client.receive().await.unwrap(), text);
        client.expect_next().await;
    }
}

#[tokio::test]
async fn a_packet_with_line_feeds_is_sent_as_one_line() {
    let host = host().await;
    let mut client = host.connect_lines("/speak").await;
    let send = json!({"do": "send", "message": "{\"a\":\n1}"});
    let next = client.call(&send).await;
    assert_eq!(next.packets, [json!({"a": 1}), json!({"do": "send", "result": true})]);
}

#[tokio::test]
async fn a_line_over_max_message_ends_the_connection() {
    let setup = Setup::new(PROGRAM).resource("/php", "feedback").server("max_message", "1000");
    let host = setup.start().await;
    let mut client = host.connect_lines("/php").await;
    client.send(json!({"opcode": "echo", "message": "x".repeat(2000)})).await;
    let packet = client.expect_close_packet().await;
    assert!(packet["error"].as_str().unwrap().contains("1000"), "{packet}");
    // Also without a line feed.
    let mut client = host.connect_lines("/php").await;
    client.write("x".repeat(1500)).await;
    client.expect_close_packet().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_ends_the_connection() {
    let host = host().await;
    let mut client = host.connect_lines("/talk").await;
    client.write(b"caf\xe9\n").await;
    client.expect_close_packet().await;
}

#[tokio::test]
async fn quit_closes_the_connection() {
    let host = host().await;
    let mut client = host.connect_lines("/php").await;
    client.send(json!({"opcode": "quit"})).await;
    while let Some(line) = client.receive().await {
        assert!(line.contains("next"), "{line}");
    }
}

#[tokio::test]
async fn an_address_that_is_not_allowed_gets_a_close_packet() {
    let setup = Setup::new(PROGRAM).resource("/php", "feedback");
    let setup = setup.server("allowed_ips", r#"["::1"]"#);
    let host = setup.server("listen", r#"["127.0.0.1:0", "[::1]:0"]"#).start().await;
    let opening = "backend\nGET /php HTTP/1.1\n\n";
    let mut client = LineClient::open(&host.addresses()[0], opening).await;
    let packet = client.expect_close_packet().await;
    assert!(packet["error"].as_str().unwrap().contains("address"), "{packet}");
    LineClient::open(&host.addresses()[1], opening).await.ready().await;
}

#[tokio::test]
async fn a_script_that_shuts_down_its_side_at_once_receives_all_answers() {
    let setup = Setup::new(PROGRAM).resource("/php", "feedback").resource("/block", "blocker");
    let host = setup.start().await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(host.connect("/block").await);
    }
    for (path, message, is_sent_back) in [
        ("/php", r#"{"opcode":"echo","message":1}"#, true),
        ("/php", r#"{"opcode":"feedback","uuid":"x"}"#, false),
        ("/block", "block 200", true),
    ] {
        // The lane is busy before this session's `open`.
        others[0].send("block 100").await;
        others[1].send("x").await;
        let mut client = host.raw().await;
        client.write(format!("backend\nGET {path} HTTP/1.1\n\n{message}\n")).await;
        client.finish().await;
        let received = String::from_utf8(client.read_to_end().await).unwrap();
        let lines: Vec<&str> = received.lines().collect();
        assert!(lines[0].starts_with(r#"{"opcode":"ready""#), "{received}");
        assert_eq!(lines[1] == message, is_sent_back, "{received}");
        assert!(lines.last().unwrap().starts_with(r#"{"opcode":"next""#), "{received}");
    }
}
