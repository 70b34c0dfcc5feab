//! Keep-alive pings and graceful shutdown.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::time::Instant;

use plugsocket_tests::{
    Client, Line, LineClient, RawClient, Request, Setup, TestHost, close_frame, masked, opcode,
};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).resource("/speak", "speaker").plain("/echo", "echo")
}

async fn ready(client: &mut RawClient) -> Value {
    serde_json::from_str(&client.expect_text().await).unwrap()
}

#[tokio::test]
async fn a_client_that_answers_pings_stays() {
    let host = setup().server("ping_interval", "0.3").start().await;
    let mut client = host.raw().await.upgraded("/speak").await;
    ready(&mut client).await;
    answer_pings(&mut client, 5).await;
    client.write(masked(opcode::TEXT, br#"{"do":"whoami"}"#)).await;
    loop {
        match client.frame().await.unwrap() {
            frame if frame.first == opcode::PING => {
                client.write(masked(opcode::PONG, &frame.payload)).await;
            }
            frame => {
                assert!(frame.text().contains("whoami"));
                break;
            }
        }
    }
}

/// Answers pings, of which the first `count` are awaited.
async fn answer_pings(client: &mut RawClient, count: usize) {
    for _ in 0..count {
        let ping = client.frame().await.unwrap();
        assert_eq!(ping.first, opcode::PING, "{ping:?}");
        client.write(masked(opcode::PONG, &ping.payload)).await;
    }
}

#[tokio::test]
async fn no_ping_is_sent_while_a_message_is_under_way() {
    let host = setup().server("ping_interval", "0.2").start().await;
    let frame = masked(opcode::TEXT, b"in two parts");
    let fragments = [masked(0x01, b"in two "), masked(opcode::CONTINUATION, b"parts")].concat();
    for (message, cut) in [(&frame, 7), (&frame, 1), (&fragments, 13), (&fragments, 15)] {
        let mut other = host.raw().await.upgraded("/echo").await;
        let mut client = host.raw().await.upgraded("/echo").await;
        // The next ping is not due before the host has read the first part.
        answer_pings(&mut client, 1).await;
        client.write(&message[..cut]).await;
        answer_pings(&mut other, 5).await;
        client.write(&message[cut..]).await;
        // Nothing came before the echo, and the silence does not close the connection.
        assert_eq!(client.expect_text().await, "in two parts", "{cut}");
        answer_pings(&mut client, 2).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_closed_and_close_is_called() {
    let host = setup().server("ping_interval", "0.3").start().await;
    let mut client = host.raw().await.upgraded("/speak").await;
    let uuid = ready(&mut client).await["uuid"].clone();
    assert_eq!(client.frame().await.unwrap().first, opcode::PING);
    assert!(client.expect_text().await.contains(r#""opcode":"close""#));
    client.expect_close(1001).await;
    let mut observer = host.connect("/speak").await;
    loop {
        let calls = observer.ask(&json!({"do": "log-of-calls"})).await;
        let is_close = |call: &&Value| call["call"] == "close" && call["uuid"] == uuid;
        if let Some(call) = calls.as_array().unwrap().iter().find(is_close) {
            assert_eq!(call["code"], 1001);
            break;
        }
    }
}

#[tokio::test]
async fn a_client_sending_a_long_message_counts_as_alive() {
    let host = setup().server("ping_interval", "0.1").start().await;
    let mut client = host.raw().await.upgraded("/speak").await;
    ready(&mut client).await;
    let command = json!({"do": "fyi", "message": "x".repeat(50_000)}).to_string();
    // The client cannot send a pong inside the frame.
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
    for part in masked(opcode::TEXT, command.as_bytes()).chunks(1000) {
        pace.tick().await;
        client.write(part).await;
    }
    loop {
        let frame = client.frame().await.expect("an answer");
        match frame.first {
            opcode::PING => {}
            opcode::TEXT => break,
            other => panic!("{other:#x}"),
        }
    }
}

#[tokio::test]
async fn a_ping_is_answered_with_its_own_payload() {
    let host = setup().start().await;
    let mut client = host.raw().await.upgraded("/echo").await;
    for payload in [&b""[..], b"x", &[0xff; 125]] {
        client.write(masked(opcode::PING, payload)).await;
        let pong = client.frame().await.unwrap();
        assert_eq!((pong.first, &*pong.payload), (opcode::PONG, payload));
    }
}

#[tokio::test]
async fn sigterm_closes_all_connections_with_1001_and_exits_with_0() {
    let mut host = setup().server("drain", "15").start().await;
    let mut dialog = host.connect("/speak").await;
    let mut backend = host.connect_backend("/speak").await;
    let mut lines = host.connect_lines("/speak").await;
    let mut plain = host.open(Request::to("/echo")).await;
    host.signal("TERM");
    for client in [&mut dialog, &mut backend] {
        assert_eq!(client.expect_close_packet(1001).await["error"], "server shutting down");
    }
    assert_eq!(lines.expect_close_packet().await["error"], "server shutting down");
    plain.expect_close(1001).await;
    let clients: [Client; 3] = [dialog, backend, plain];
    for client in clients {
        client.close().await;
    }
    drop(lines);
    assert_eq!(host.exited().await.code(), Some(0));
    assert!(!host.log().iter().any(|line| line.level() == "ERROR" || line.level() == "WARN"));
    let staged = std::fs::read_dir(host.folder().join(".plugsocket/staged")).unwrap();
    assert_eq!(staged.count(), 0, "the staged copies are removed");
}

#[tokio::test]
async fn sigint_exits_with_0() {
    let mut host = setup().start().await;
    host.signal("INT");
    assert_eq!(host.exited().await.code(), Some(0));
}

#[tokio::test]
async fn messages_in_progress_at_shutdown_are_answered_before_the_close() {
    let mut host = Setup::new(PROGRAM).resource("/block", "blocker").start().await;
    let mut client = host.connect("/block").await;
    client.send("block 400").await;
    client.send("after").await;
    // Both messages have been sent before the signal.
    let position = host.log_position();
    host.signal("TERM");
    host.wait_for_log_since(position, "the drain", |line| line.message() == "draining connections")
        .await;
    for text in ["block 400", "after"] {
        assert_eq!(client.receive_text().await, text);
        client.expect_next().await;
    }
    assert_eq!(client.expect_close_packet(1001).await["error"], "server shutting down");
    client.close().await;
    assert_eq!(host.exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_ignores_the_close_does_not_delay_the_shutdown() {
    let mut host = setup().server("drain", "1").server("close_timeout", "0.3").start().await;
    let mut unresponsive = host.raw().await.upgraded("/echo").await;
    unresponsive.write(masked(opcode::TEXT, b"x")).await;
    unresponsive.expect_text().await;
    let _silent = host.raw().await;
    let begun = Instant::now();
    host.signal("TERM");
    assert_eq!(host.exited().await.code(), Some(0));
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(unresponsive.frame().await.unwrap().close_code(), Some(1001));
}

#[tokio::test]
async fn a_stuck_application_does_not_prevent_the_shutdown() {
    let mut host =
        Setup::new(PROGRAM).resource("/block", "blocker").server("drain", "0.5").start().await;
    let mut client = host.connect("/block").await;
    client.send("block forever").await;
    host.signal("TERM");
    assert_eq!(host.exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_does_not_answer_a_close_frame_is_cut_after_close_timeout() {
    let host = setup().server("close_timeout", "0.2").start().await;
    let mut client = host.raw().await.upgraded("/speak").await;
    ready(&mut client).await;
    client.write(masked(opcode::TEXT, br#"{"do":"close","code":4000}"#)).await;
    assert!(client.expect_text().await.contains("close"));
    assert_eq!(client.frame().await.unwrap().close_code(), Some(4000));
    // The client does not answer; the host cuts the connection and ignores a late close frame.
    assert_eq!(client.frame().await, None);
    drop(client.try_write(close_frame(1000)).await);
    host.connect("/speak").await;
}

/// Expects `ready` and, in the next message, the first heartbeat.
async fn expect_first_heartbeat(client: Client) -> Client {
    let mut client = client.ready().await;
    assert_eq!(client.receive_text().await, HEARTBEAT);
    client
}

const HEARTBEAT: &str = r#"{"opcode":"heartbeat"}"#;

#[tokio::test]
async fn a_client_that_asks_receives_a_heartbeat_for_each_silent_interval() {
    let host = setup().start().await;
    let mut plain = host.open(Request::to("/echo?heartbeat=1")).await;
    let mut silent = host.connect("/speak?heartbeats=1").await;
    let backend = Request::to("/speak?a=1&heartbeat=1").header("Client-Type", "backend");
    let mut backend = expect_first_heartbeat(host.open(backend).await).await;
    let mut lines = host.connect_lines("/speak?heartbeat=1").await;
    assert_eq!(lines.receive().await.as_deref(), Some(HEARTBEAT));
    let mut client =
        expect_first_heartbeat(host.open(Request::to("/speak?heartbeat=1")).await).await;
    let begun = Instant::now();
    for _ in 0..2 {
        assert_eq!(client.receive_text().await, HEARTBEAT);
    }
    let taken = begun.elapsed().as_secs_f64();
    assert!(taken > 1.9, "{taken}");
    for _ in 0..2 {
        assert_eq!(backend.receive_text().await, HEARTBEAT);
        assert_eq!(lines.receive().await.as_deref(), Some(HEARTBEAT));
    }
    // Without the parameter, and without a dialog, none has arrived meanwhile.
    assert_eq!(silent.call(&json!({"do": "fyi"})).await.packets.len(), 1);
    plain.send("first").await;
    assert_eq!(plain.receive_text().await, "first");
    // The application sees the query unchanged.
    let me = loop {
        let next = backend.call(&json!({"do": "whoami"})).await;
        if let Some(me) = next.packets.into_iter().find(|packet| packet["do"] == "whoami") {
            break me;
        }
    };
    assert_eq!(me["result"]["query"], "a=1&heartbeat=1");
}

#[tokio::test]
async fn a_ping_does_not_replace_a_heartbeat_because_no_page_sees_it() {
    let host = setup().server("ping_interval", "0.3").start().await;
    let mut client =
        expect_first_heartbeat(host.open(Request::to("/speak?heartbeat=1")).await).await;
    for _ in 0..2 {
        assert_eq!(client.receive_text().await, HEARTBEAT);
    }
}

#[tokio::test]
async fn a_client_that_hears_anything_else_receives_no_heartbeat() {
    let host = setup().start().await;
    let mut clock =
        expect_first_heartbeat(host.open(Request::to("/speak?heartbeat=1")).await).await;
    let mut busy = expect_first_heartbeat(host.open(Request::to("/speak?heartbeat=2")).await).await;
    for _ in 0..5 {
        assert_eq!(clock.receive_text().await, HEARTBEAT);
        assert_eq!(busy.call(&json!({"do": "fyi"})).await.packets.len(), 1);
    }
}

#[tokio::test]
async fn a_heartbeat_does_not_wait_for_the_application_and_is_no_activity() {
    let setup = Setup::new(PROGRAM).resource("/block", "blocker").resource("/speak", "speaker");
    let host = setup.server("idle_timeout", "2.5").start().await;
    let block = host.open(Request::to("/block?heartbeat=1")).await;
    let mut blocked = expect_first_heartbeat(block).await;
    let mut idle = expect_first_heartbeat(host.open(Request::to("/speak?heartbeat=1")).await).await;
    blocked.send("block 2500").await;
    for expected in [HEARTBEAT, HEARTBEAT, "block 2500"] {
        assert_eq!(blocked.receive_text().await, expected);
    }
    blocked.expect_next().await;
    for _ in 0..2 {
        assert_eq!(idle.receive_text().await, HEARTBEAT);
    }
    let packet = idle.expect_close_packet(1001).await;
    assert!(packet["error"].as_str().unwrap().contains("idle_timeout"), "{packet}");
}

/// Broadcasts a message of many `x` that is larger than the buffers of a socket.
async fn broadcast_large(host: &TestHost) {
    let mut sender = host.connect("/speak").await;
    let message = "x".repeat(LARGE);
    let command = json!({"do": "broadcast", "message": message, "except": [sender.uuid()]});
    assert_eq!(sender.ask(&command).await, 2);
    sender.close().await;
}

const LARGE: usize = 14_000_000;

/// Opens a WebSocket and a connection of plain TCP with heartbeats, and reads `ready` of both.
async fn two_clients(host: &TestHost) -> (RawClient, RawClient) {
    let mut frames = host.raw().await.upgraded("/speak?heartbeat=1").await;
    ready(&mut frames).await;
    let mut lines = host.raw().await;
    lines.write("backend\nGET /speak?heartbeat=1 HTTP/1.1\n\n").await;
    assert!(lines.line().await.contains("ready"));
    (frames, lines)
}

#[tokio::test]
async fn a_client_that_does_not_read_is_sent_no_heartbeats_and_closed_as_a_slow_consumer() {
    let setup = setup().server("write_timeout", "2.5");
    let host = setup.server("close_timeout", "0.2").start().await;
    let (frames, lines) = two_clients(&host).await;
    broadcast_large(&host).await;
    // Meanwhile two heartbeats would be due.
    let is_cut = |line: &Line| {
        line.message() == "connection closed"
            && line.field("code") == "1013"
            && line.text().contains("write_timeout")
    };
    host.wait_for_log("one client to be closed", is_cut).await;
    let behind = host.log().iter().position(is_cut).unwrap() + 1;
    host.wait_for_log_since(behind, "the other client to be closed", is_cut).await;
    for mut client in [frames, lines] {
        let received = client.read_to_end().await;
        let large_at = received.windows(9).position(|bytes| bytes == b"xxxxxxxxx").unwrap();
        let (before, large) = received.split_at(large_at);
        let heartbeats = String::from_utf8_lossy(before).matches(HEARTBEAT).count();
        assert!((1..10).contains(&heartbeats), "{heartbeats}");
        // A part of the message, and nothing behind it.
        assert!(large.len() < LARGE && large.iter().all(|byte| *byte == b'x'));
    }
}

#[tokio::test]
async fn a_heartbeat_never_lands_inside_a_message() {
    // Without pings, which could arrive in place of an expected text.
    let setup = setup().resource("/clock", "speaker").server("ping_interval", "0");
    let host = setup.start().await;
    let (mut frames, mut lines) = two_clients(&host).await;
    let mut clock =
        expect_first_heartbeat(host.open(Request::to("/clock?heartbeat=1")).await).await;
    broadcast_large(&host).await;
    for _ in 0..3 {
        assert_eq!(clock.receive_text().await, HEARTBEAT);
    }
    // Every frame and every line is whole, and heartbeats continue behind the large one.
    for is_lines in [false, true] {
        let (mut larges, mut heartbeats_behind) = (0, 0);
        while heartbeats_behind < 2 {
            let text = match is_lines {
                true => lines.line().await,
                false => frames.expect_text().await,
            };
            match &*text {
                HEARTBEAT => heartbeats_behind += larges,
                large => {
                    assert!(large.len() == LARGE && large.bytes().all(|byte| byte == b'x'));
                    larges += 1;
                }
            }
        }
        assert_eq!(larges, 1);
    }
    // A client in the middle of a fragmented message still receives them.
    let mut half = host.raw().await.upgraded("/speak?heartbeat=1").await;
    half.write(masked(0x01, br#"{"do":"#)).await;
    ready(&mut half).await;
    for _ in 0..3 {
        assert_eq!(half.expect_text().await, HEARTBEAT);
    }
    half.write(masked(0x80, br#""fyi"}"#)).await;
    while !half.expect_text().await.contains("fyi") {}
}

#[tokio::test]
async fn a_malformed_heartbeat_is_refused_with_400() {
    let host = setup().start().await;
    for wrong in ["", "=", "=0", "=601", "=x", "=1.5", "=-1", "=+1", "=1&heartbeat=1"] {
        let target = format!("/speak?heartbeat{wrong}");
        let mut client = host.raw().await;
        client.write(RawClient::handshake(&target)).await;
        let response = client.last_response().await;
        let is_told = response.body.contains("the query parameter heartbeat");
        assert_eq!((response.status, is_told), (400, true), "{target}: {response:?}");
    }
    let mut lines =
        LineClient::open(host.address(), "backend\nGET /speak?heartbeat=x HTTP/1.1\n\n").await;
    assert_eq!(lines.receive().await.as_deref(), Some("HTTP/1.1 400 Bad Request\r"));
    let post = "POST /speak?heartbeat=x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}";
    let mut client = host.raw().await;
    client.write(post).await;
    assert_eq!(client.last_response().await.status, 400);
}
