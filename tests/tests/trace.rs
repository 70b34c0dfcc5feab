//! `plugsocket trace`: what passes one connection, in both directions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Follower, Request, Setup, TestHost, masked, opcode};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM)
        .resource("/count", "counter")
        .library("counter", "counter_v1")
        .plain("/echo", "echo")
}

/// Starts a trace and waits until it records.
async fn trace(host: &TestHost, uuid: &str, options: &[&str]) -> Follower {
    let mut follower = host.follow(&[&["trace", uuid, "--json"], options].concat());
    let first = next(&mut follower).await;
    assert_eq!(first["kind"], "trace");
    assert!(first["uuid"].as_str().unwrap().starts_with(uuid), "{first}");
    assert_eq!(first["address"], "127.0.0.1");
    follower
}

async fn next(follower: &mut Follower) -> Value {
    let line = follower.next_line().await.expect("the trace continues");
    serde_json::from_str(&line).unwrap()
}

/// Direction, kind and size.
fn brief(line: &Value) -> (&str, &str, u64) {
    let text = |key: &str| line[key].as_str().unwrap();
    (text("direction"), text("kind"), line["bytes"].as_u64().unwrap())
}

#[tokio::test]
async fn a_trace_shows_kinds_and_sizes_and_no_payloads_until_the_connection_ends() {
    let host = setup().start().await;
    let (mut client, mut other) = (host.connect("/count").await, host.connect("/count").await);
    let mut follower = trace(&host, &client.uuid()[..8], &[]).await;
    other.send("of another connection").await;
    other.until_next().await;
    client.send("s3cr3t").await;
    client.until_next().await;
    for text in ["bufferON", "s3cr3t ", "chunk", "bufferOFF"] {
        client.send(text).await;
        client.until_next().await;
    }
    client.close().await;
    let mut seen = Vec::new();
    loop {
        let line = next(&mut follower).await;
        assert!(line["payload"].is_null() && !line.to_string().contains("s3cr3t"), "{line}");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        let is_last = line["kind"] == "close";
        seen.push(line);
        if is_last {
            break;
        }
    }
    let kinds: Vec<_> = seen.iter().map(|line| (brief(line).0, brief(line).1)).collect();
    let chunk = [("in", "chunk"), ("out", "next")];
    let message = [("out", "text"), ("out", "next")];
    let expected = [
        &[("in", "text")][..],
        &message,
        &chunk,
        &chunk,
        &chunk,
        &[("in", "chunk")],
        &message,
        &[("in", "close")],
    ];
    assert_eq!(kinds, expected.concat());
    assert_eq!(brief(&seen[0]), ("in", "text", 6));
    assert_eq!(seen.last().unwrap()["code"], 1005);
    let (code, rest, errors) = follower.ended().await;
    assert_eq!((code, rest.as_str()), (Some(0), ""));
    assert_eq!(errors, "plugsocket: the connection has ended\n");
}

#[tokio::test]
async fn payloads_are_shown_on_request_and_bounded() {
    let host = setup().start().await;
    let mut client = host.raw().await.upgraded("/echo").await;
    let (_, list) = host.command(&["connections", "--quiet"]).await;
    let uuid = list.trim();
    let mut follower = trace(&host, uuid, &["--payloads"]).await;
    client.write(masked(opcode::TEXT, "a\u{1b}[2J\nä".as_bytes())).await;
    assert_eq!(client.frame().await.unwrap().first, opcode::TEXT);
    let line = next(&mut follower).await;
    assert_eq!((brief(&line), &line["payload"]), (("in", "text", 8), &json!("a\u{1b}[2J\nä")));
    assert_eq!(brief(&next(&mut follower).await), ("out", "text", 8));
    client.write(masked(opcode::BINARY, &[b'x', 0, 255])).await;
    assert_eq!(client.frame().await.unwrap().first, opcode::BINARY);
    assert_eq!(next(&mut follower).await["payload"], r"x\x00\xff");
    next(&mut follower).await;
    client.write(masked(opcode::TEXT, &[b'y'; 1_000])).await;
    assert_eq!(client.frame().await.unwrap().first, opcode::TEXT);
    let line = next(&mut follower).await;
    assert_eq!((brief(&line), &line["cut"]), (("in", "text", 1_000), &json!(true)));
    assert_eq!(line["payload"], "y".repeat(200));
    next(&mut follower).await;
    client.write(masked(opcode::PING, b"now")).await;
    assert_eq!(client.frame().await.unwrap().first, opcode::PONG);
    assert_eq!(brief(&next(&mut follower).await), ("in", "ping", 0));
    assert_eq!(brief(&next(&mut follower).await), ("out", "pong", 0));
    follower.signal("INT");
    assert_eq!(follower.ended().await.0, Some(0));
    assert_eq!(host.command(&["connections", "close", uuid]).await.0, 0);
    let (code, output) = host.command(&["trace", "nobody"]).await;
    assert!(code == 1 && output.contains("no connection has the uuid"), "{output}");
}

#[tokio::test]
async fn a_trace_shows_why_the_host_closes_a_connection() {
    let host = setup().start().await;
    let mut client = host.open(Request::to("/count")).await.ready().await;
    let mut follower = trace(&host, client.uuid(), &["--payloads"]).await;
    assert_eq!(host.command(&["connections", "close", client.uuid()]).await.0, 0);
    client.expect_close_packet(1001).await;
    let close = next(&mut follower).await;
    assert_eq!((&close["direction"], &close["code"]), (&json!("out"), &json!(1001)));
    assert_eq!(close["reason"], "closed by the operator");
    client.close().await;
    assert_eq!(follower.ended().await.0, Some(0));
}
