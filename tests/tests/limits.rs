//! Limits per connection: rooms, message and byte rates, idle timeout, floods.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::time::{Duration, Instant};

use plugsocket_tests::{Line, Request, Setup, TestHost, close_frame, masked, opcode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

#[tokio::test]
async fn a_connection_is_in_no_more_than_max_rooms() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker").server("max_rooms", "3");
    let host = setup.start().await;
    let mut ann = host.connect("/speak").await;
    let mut bob = host.connect("/speak").await;
    let join = |room: &str| json!({"do": "join", "room": room});
    let too_many = json!({"error": "more than the host's limit"});
    for (room, expected) in [
        ("a", json!(true)),
        ("b", json!(true)),
        ("a", json!(true)),
        ("c", json!(true)),
        ("d", too_many.clone()),
        ("b", json!(true)),
    ] {
        assert_eq!(ann.ask(&join(room)).await, expected, "{room}");
    }
    assert_eq!(ann.ask(&json!({"do": "leave", "room": "b"})).await, true);
    assert_eq!(ann.ask(&join("d")).await, true);
    assert_eq!(ann.ask(&join("e")).await, too_many);
    // The limit is per connection, and a refused join adds no member.
    assert_eq!(bob.ask(&join("e")).await, true);
    for (room, expected) in [("e", 1), ("d", 1), ("b", 0)] {
        let publish = json!({"do": "publish", "room": room, "message": "{}"});
        let reached: Value = bob.ask(&publish).await;
        assert_eq!(reached, expected, "{room}");
    }
}

/// Sends `count` messages at once and awaits their echoes; returns the time that took.
async fn echoes(host: &TestHost, path: &str, count: usize) -> Duration {
    let mut client = host.raw().await.upgraded(path).await;
    let since = Instant::now();
    client.write(masked(opcode::TEXT, b"hello").repeat(count)).await;
    for _ in 0..count {
        loop {
            let frame = client.frame().await.expect("an echo");
            if frame.first == opcode::TEXT {
                break;
            }
        }
    }
    since.elapsed()
}

#[tokio::test]
async fn a_client_over_the_rate_is_throttled_and_not_closed() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").plain("/free", "echo");
    let setup = setup.plain("/bytes", "echo").server("ping_interval", "0.1");
    let setup = setup.server("rate", "{ messages_per_second = 100, burst = 0.1 }");
    let setup = setup.key("/free", "rate", "{ messages_per_second = 0 }");
    let setup = setup.key("/bytes", "rate", "{ messages_per_second = 0, bytes_per_second = 1000 }");
    let host = setup.server("message_timeout", "0.5").start().await;
    // The second read waits until the bucket has recovered from the first, for far longer than two
    // ping intervals, in which the host reads no pong.
    let (limited, free) = tokio::join!(echoes(&host, "/echo", 200), echoes(&host, "/free", 2000));
    assert!(limited > Duration::from_millis(1200), "{limited:?}");
    assert!(free < limited, "{free:?} of {limited:?}");
    let bytes = echoes(&host, "/bytes", 200).await;
    assert!(bytes > Duration::from_millis(600), "{bytes:?}");
    let ended = |line: &Line| line.message() == "connection closed" && line.field("code") != "1006";
    assert!(!host.log().iter().any(ended));
}

#[tokio::test]
async fn time_spent_throttled_counts_against_no_timeout() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("idle_timeout", "0.5");
    let setup =
        setup.key("/echo", "rate", "{ messages_per_second = 30, bytes_per_second = 50_000 }");
    let host = setup.server("message_timeout", "0.5").start().await;
    let mut client = host.raw().await.upgraded("/echo").await;
    // The first read delays the next by more than a second; the large message begins in that time.
    let large = masked(opcode::BINARY, &[b'x'; 80_000]);
    client.write([masked(opcode::TEXT, b"hello").repeat(63), large].concat()).await;
    let mut lengths = Vec::new();
    while lengths.last() != Some(&80_000) {
        let frame = client.frame().await.expect("an echo");
        assert_ne!(frame.first, opcode::CLOSE, "{frame:?}");
        lengths.push(frame.payload.len());
    }
    assert_eq!(lengths.len(), 64);
    client.expect_close(1001).await;
}

#[tokio::test]
async fn each_fragment_counts_against_the_message_rate() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo");
    let rate = "{ messages_per_second = 3, policy = \"close\" }";
    let host = setup.key("/echo", "rate", rate).start().await;
    for (pieces, is_good) in [(3, true), (4, false)] {
        let mut client = host.raw().await.upgraded("/echo").await;
        let middle = masked(0x00, b"b").repeat(pieces - 2);
        client.write([masked(0x01, b"a"), middle, masked(0x80, b"c")].concat()).await;
        let frame = client.frame().await.expect("an echo or a close");
        assert_eq!(frame.first == opcode::TEXT, is_good, "{frame:?}");
    }
}

#[tokio::test]
async fn policy_close_closes_with_1008_and_names_the_key() {
    let setup = Setup::new(PROGRAM).resource("/talk", "echo").plain("/echo", "echo");
    let rate = "{ messages_per_second = 20, burst = 1, policy = \"close\" }";
    let host = setup.key("/talk", "rate", rate).start().await;
    let mut client = host.raw().await.upgraded("/talk").await;
    client.expect_text().await;
    client.write(masked(opcode::TEXT, b"x").repeat(21)).await;
    let text = loop {
        let text = client.expect_text().await;
        if text.contains(r#""opcode":"close""#) {
            break text;
        }
    };
    assert!(text.contains("more than 20 messages a second (rate.messages_per_second)"), "{text}");
    client.expect_close(1008).await;
    assert!(echoes(&host, "/echo", 500).await < Duration::from_secs(10));
}

#[tokio::test]
async fn messages_within_the_burst_are_handled_and_a_close_frame_is_not_counted() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").plain("/bytes", "echo");
    let setup =
        setup.key("/echo", "rate", "{ messages_per_second = 10, burst = 1, policy = \"close\" }");
    let rate = "{ bytes_per_second = 120, burst = 1, policy = \"close\" }";
    let host = setup.key("/bytes", "rate", rate).start().await;
    let message = masked(opcode::TEXT, &[b'x'; 14]);
    for (path, allowed) in [("/echo", 10), ("/bytes", 5)] {
        for (count, code) in [(allowed, 1000), (60, 1008)] {
            let mut client = host.raw().await.upgraded(path).await;
            client.write([message.repeat(count), close_frame(1000)].concat()).await;
            let mut echoes = 0;
            let end = loop {
                match client.frame().await.expect("a close frame") {
                    frame if frame.first == opcode::TEXT => echoes += 1,
                    frame => break frame.close_code(),
                }
            };
            // The byte rate also counts frame headers, `allowed` only payloads.
            assert!(echoes >= allowed.min(count) && echoes <= 2 * allowed, "{path} {echoes}");
            assert_eq!(end, Some(code), "{path} {count}");
        }
    }
}

#[tokio::test]
async fn messages_delayed_by_the_host_do_not_violate_the_rate() {
    let setup = Setup::new(PROGRAM).resource("/block", "blocker").server("outbox_messages", "64");
    let rate = "{ messages_per_second = 10, policy = \"close\" }";
    let host = setup.key("/block", "rate", rate).start().await;
    let mut client = host.connect("/block").await;
    client.send("block 4000").await;
    // Half the allowed rate, but in total more than the burst and than the host reads meanwhile.
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    for n in 0..19 {
        pace.tick().await;
        client.send(n.to_string()).await;
    }
    assert_eq!(client.receive_text().await, "block 4000");
    client.expect_next().await;
    for n in 0..19 {
        assert_eq!(client.receive_text().await, n.to_string());
        client.expect_next().await;
    }
}

#[tokio::test]
async fn a_throttled_client_that_disconnects_is_released_at_once() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("ping_interval", "0.2");
    let setup = setup.server("rate", "{ messages_per_second = 10 }");
    let host = setup.server("max_connections", "1").start().await;
    let mut client = host.raw().await.upgraded("/echo").await;
    // One write that exceeds the rate by a quarter of an hour.
    client.write(masked(opcode::PING, b"").repeat(10_000)).await;
    client.frame().await.expect("a pong or a ping");
    drop(client);
    host.wait_for_log("the end of the connection", |line| line.message() == "connection closed")
        .await;
    while host.raw().await.try_handshake("/echo").await != 101 {}
}

#[tokio::test]
async fn control_frames_and_empty_messages_count_against_the_rate() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo");
    let rate = "{ messages_per_second = 100, policy = \"close\" }";
    let host = setup.server("rate", rate).start().await;
    for flood in [
        masked(opcode::PING, b"").repeat(101),
        masked(opcode::PONG, b"").repeat(101),
        [masked(0x01, b""), masked(0x00, b"").repeat(100)].concat(),
        masked(opcode::TEXT, b"").repeat(101),
        masked(opcode::TEXT, b"bufferON").repeat(101),
    ] {
        let mut client = host.raw().await.upgraded("/echo").await;
        client.write(&flood).await;
        client.write(masked(opcode::TEXT, b"one more").repeat(64)).await;
        let code = loop {
            let frame = client.frame().await.expect("a close frame");
            if frame.first == opcode::CLOSE {
                break frame.close_code();
            }
        };
        assert_eq!(code, Some(1008), "{:x?}", &flood[..8]);
    }
}

#[tokio::test]
async fn idle_timeout_closes_a_connection_regardless_of_pings() {
    let setup = Setup::new(PROGRAM).resource("/talk", "echo").plain("/echo", "echo");
    let setup = setup.server("idle_timeout", "0.6").server("ping_interval", "0.1");
    let host = setup.start().await;
    let mut quiet = host.open(Request::to("/echo")).await;
    let mut lines = host.connect_lines("/talk").await;
    let since = Instant::now();
    let reason = quiet.expect_close(1001).await;
    assert!(reason.contains("idle_timeout"), "{reason}");
    assert!(since.elapsed() > Duration::from_millis(400));
    lines.expect_close_packet().await;
    // Messages reset the idle timeout.
    let mut busy = host.open(Request::to("/echo")).await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1500) {
        busy.send("x").await;
        assert_eq!(busy.receive_text().await, "x");
    }
    busy.expect_close(1001).await;
}

#[tokio::test]
async fn floods_without_payload_neither_hold_memory_nor_starve_others() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").resource("/talk", "echo");
    let host = setup.start().await;
    let mut other = host.open(Request::to("/echo")).await;
    for (what, path, first, flood) in [
        ("empty pings", "/echo", vec![], masked(opcode::PING, b"")),
        ("pongs", "/echo", vec![], masked(opcode::PONG, b"x")),
        ("empty fragments", "/echo", masked(0x01, b""), masked(0x00, b"")),
        ("empty messages", "/echo", vec![], masked(opcode::TEXT, b"")),
        ("bufferON", "/talk", vec![], masked(opcode::TEXT, b"bufferON")),
    ] {
        let before = host.resident_bytes();
        let mut client = host.raw().await.upgraded(path).await;
        if path == "/talk" {
            assert!(client.expect_text().await.contains("ready"));
        }
        let (mut from, mut to) = tokio::io::split(client.into_stream());
        let mut both = tokio::task::JoinSet::new();
        let flood = flood.repeat(10_000);
        both.spawn(async move {
            // The connection may be closed for exceeding max_frames.
            if to.write_all(&first).await.is_ok() {
                while to.write_all(&flood).await.is_ok() {}
            }
        });
        both.spawn(async move {
            let mut buffer = vec![0; 65_536];
            while matches!(from.read(&mut buffer).await, Ok(1..)) {}
        });
        let (mut slowest, mut most) = (Duration::ZERO, 0);
        for _ in 0..100 {
            let since = Instant::now();
            other.send("x").await;
            assert_eq!(other.receive_text().await, "x");
            slowest = slowest.max(since.elapsed());
            most = most.max(host.resident_bytes().saturating_sub(before));
        }
        both.shutdown().await;
        assert!(most < 8 << 20, "{what}: {} kB", most / 1024);
        assert!(slowest < Duration::from_secs(2), "{what}: {slowest:?}");
    }
}
