//! A panic in an application ends one connection and affects no other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Line, Request, Response, Setup, TestHost};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn host() -> TestHost {
    Setup::new(PROGRAM).resource("/panic", "panicker").plain("/plain", "panicker").start().await
}

async fn answers(client: &mut Client) {
    client.send("hello").await;
    assert_eq!(client.receive_text().await, "hello");
    client.expect_next().await;
}

#[tokio::test]
async fn a_panic_in_message_closes_that_connection_with_1011_and_no_other() {
    let host = host().await;
    let mut bystander = host.connect("/panic").await;
    for _ in 0..3 {
        let mut client = host.connect("/panic").await;
        answers(&mut client).await;
        client.send("panic").await;
        client.expect_close_packet(1011).await;
        answers(&mut bystander).await;
    }
    let mut plain = host.open(Request::to("/plain")).await;
    plain.send("panic").await;
    plain.expect_close(1011).await;
    // The location of the panic is logged but not sent to the client.
    let line = host
        .wait_for_log("the location of the panic", |line| line.text().contains("lib.rs:"))
        .await;
    assert!(line.text().contains("panic requested in message"), "{line}");
}

async fn post(host: &TestHost, path: &str, body: &str) -> Response {
    let mut client = host.raw().await;
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    client.write(head + body).await;
    client.last_response().await
}

#[tokio::test]
async fn a_panic_while_a_post_is_answered_is_a_500() {
    let host = host().await;
    let mut bystander = host.connect("/panic").await;
    for (path, body) in [
        ("/panic", "panic"),
        ("/panic", "abort-payload"),
        ("/panic?panic=open", "hello"),
        ("/plain", "panic"),
    ] {
        let response = post(&host, path, body).await;
        assert_eq!(response.status, 500, "{path} {body}: {response:?}");
        let failed = json!({"opcode": "close", "error": "the application failed"});
        assert_eq!(response.packets(), [failed], "{path} {body}");
        answers(&mut bystander).await;
    }
}

#[tokio::test]
async fn a_panic_payload_that_panics_when_dropped_is_contained() {
    let host = host().await;
    let mut bystander = host.connect("/panic").await;
    let mut client = host.connect("/panic").await;
    client.send("abort-payload").await;
    client.expect_close_packet(1011).await;
    answers(&mut bystander).await;
}

#[tokio::test]
async fn a_panic_in_open_refuses_the_connection() {
    let host = host().await;
    let mut bystander = host.connect("/panic").await;
    host.open(Request::to("/panic?panic=open")).await.expect_close_packet(1011).await;
    host.open(Request::to("/plain?panic=open")).await.expect_close(1011).await;
    answers(&mut bystander).await;
}

#[tokio::test]
async fn a_panic_in_close_affects_no_other_connection() {
    let host = host().await;
    let mut bystander = host.connect("/panic").await;
    let mut client = host.connect("/panic").await;
    client.send("panic in close").await;
    client.receive_text().await;
    client.expect_next().await;
    client.close().await;
    let is_panic = |line: &Line| line.text().contains("panic requested in close");
    host.wait_for_log("the panic", is_panic).await;
    answers(&mut bystander).await;
}

#[tokio::test]
async fn a_panic_in_start_affects_no_other_resource() {
    let setup = Setup::new(PROGRAM).resource("/panic", "panicker").resource("/fine", "panicker");
    let host = setup.config("/panic", "panic_in_start", "true").start().await;
    host.wait_for_error(0, "panic requested in start").await;
    let mut client = host.open(Request::to("/panic")).await;
    let packet = client.expect_close_packet(1013).await;
    assert!(packet["retry_after"].as_u64().unwrap() > 0, "{packet}");
    answers(&mut host.connect("/fine").await).await;
}

#[tokio::test]
async fn a_panic_in_restore_or_drop_keeps_the_connections() {
    // The whole preflight would refuse such settings before they are applied.
    let setup = Setup::new(PROGRAM).resource("/panic", "panicker");
    let mut host = setup.plugin_key("panicker", "preflight", r#""open""#).start().await;
    let mut client = host.connect("/panic").await;
    let position = host.log_position();
    host.write_setup(host.setup().config("/panic", "panic_in_restore", "true"));
    host.wait_for_error(position, "panic requested in restore").await;
    // The rest of the configuration is applied.
    let applied = |line: &Line| line.starts_with("configuration applied");
    host.wait_for_log_since(position, "the configuration to be applied", applied).await;
    answers(&mut client).await;
    let setup = host.setup().config("/panic", "panic_in_restore", "false");
    let setup = setup.config("/panic", "panic_in_drop", "true");
    host.apply(setup).await;
    answers(&mut client).await;
    // Replaces the instance that panics when dropped.
    let position = host.log_position();
    host.apply(host.setup().config("/panic", "panic_in_drop", "false")).await;
    let is_panic = |line: &Line| line.text().contains("panic requested in drop");
    host.wait_for_log_since(position, "the panic", is_panic).await;
    answers(&mut client).await;
    assert_eq!(client.call(&json!({})).await.packets, [json!({})]);
}
