//! Backends that send a message as an HTTP POST request.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{RawClient, Response, Setup, TestHost};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn host() -> TestHost {
    let setup = Setup::new(PROGRAM).resource("/php", "feedback").resource("/speak", "speaker");
    setup.server("max_message", "1000").start().await
}

/// Posts with the headers that curl sends.
async fn post(host: &TestHost, path: &str, body: &str) -> Response {
    let headers = format!(
        "User-Agent: curl/8.0\r\nAccept: */*\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n",
        body.len()
    );
    request(host, path, &headers, body).await
}

async fn request(host: &TestHost, path: &str, headers: &str, body: &str) -> Response {
    let mut client = host.raw().await;
    client.write(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}")).await;
    client.last_response().await
}

#[tokio::test]
async fn a_feedback_by_post_reaches_its_browser_and_returns_the_verdict() {
    let host = host().await;
    let mut browser = host.connect("/php").await;
    let feedback = json!({"opcode": "feedback", "uuid": browser.uuid(), "message": "50 %"});
    let response = post(&host, "/php", &feedback.to_string()).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.packets(), [json!({"opcode": "next", "fyi": "delivered"})]);
    assert_eq!(browser.receive_json().await, feedback);
    let uuid = format!("00000000-0000-4000-8000-000000000000.{}", "0".repeat(64));
    let nobody = json!({"opcode": "feedback", "uuid": uuid, "message": "x"});
    let response = post(&host, "/php", &nobody.to_string()).await;
    assert_eq!(response.packets(), [json!({"opcode": "next", "fyi": "gone"})]);
}

#[tokio::test]
async fn a_post_is_a_backend_and_gets_the_packets_before_next() {
    let host = host().await;
    let response = post(&host, "/speak?greet=1", r#"{"do":"whoami","header":"user-agent"}"#).await;
    let packets = response.packets();
    let [greeting, answer, next] = &packets[..] else { panic!("{packets:?}") };
    let session = &answer["result"];
    assert_eq!(greeting["greeting"], session["uuid"]);
    assert_eq!((&session["kind"], &session["header"]), (&json!("backend"), &json!("curl/8.0")));
    assert_eq!(next["opcode"], "next");
    // The application sees a session that opens and closes.
    let response = post(&host, "/speak", r#"{"do":"log-of-calls"}"#).await;
    let calls = response.packets()[0]["result"].clone();
    let about = |call: &&Value| call["uuid"] == session["uuid"];
    let names: Vec<_> =
        calls.as_array().unwrap().iter().filter(about).map(|c| &c["call"]).collect();
    assert_eq!(names, ["open", "message", "close"]);
}

#[tokio::test]
async fn expect_100_continue_is_answered() {
    let host = host().await;
    let body = json!({"opcode": "echo", "message": "x".repeat(500)}).to_string();
    let mut client = host.raw().await;
    let length = body.len();
    let head = "POST /php HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n";
    client.write(format!("{head}Content-Length: {length}\r\n\r\n")).await;
    assert_eq!(client.line().await, "HTTP/1.1 100 Continue");
    assert_eq!(client.line().await, "");
    client.write(body).await;
    let response = client.last_response().await;
    assert_eq!((response.status, response.packets().len()), (200, 2));
}

#[tokio::test]
async fn a_request_sent_byte_by_byte_is_joined() {
    let host = host().await;
    let mut client = host.raw().await;
    let body = r#"{"opcode":"echo","message":"ü"}"#;
    let length = body.len();
    let head = format!("POST /php HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    for byte in [head.as_bytes(), body.as_bytes()].concat() {
        client.write([byte]).await;
    }
    assert_eq!(client.last_response().await.packets()[0]["message"], "ü");
}

#[tokio::test]
async fn each_refused_post_has_a_status_and_a_reason() {
    let host = host().await;
    for (path, headers, body, status) in [
        ("/php", "Origin: http://localhost\r\nContent-Length: 2\r\n", "{}", 403),
        ("/php", "", "", 411),
        ("/php", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n", 501),
        ("/php", "Content-Length: 1001\r\n", "", 413),
        ("/php", "Content-Length: 99999999999999999999999\r\n", "", 413),
        ("/php", "Content-Length: -1\r\n", "", 400),
        ("/php", "Content-Length: 1\r\nContent-Length: 2\r\n", "{}", 400),
        ("/php", "Content-Length: 1\r\n", "\u{0}", 422),
        ("/nowhere", "Content-Length: 2\r\n", "{}", 404),
        ("/php", "Content-Length: 1\r\n", "{", 422),
        ("/speak?refuse=full", "Content-Length: 2\r\n", "{}", 422),
    ] {
        let response = request(&host, path, headers, body).await;
        assert_eq!(response.status, status, "{path} {headers:?}: {response:?}");
        assert!(response.body.trim().len() > 5, "no reason: {response:?}");
    }
}

#[tokio::test]
async fn a_refusal_by_the_application_is_in_the_body() {
    let host = host().await;
    let response = post(&host, "/speak?refuse=full", "{}").await;
    assert_eq!(response.packets(), [json!({"opcode": "close", "error": "full"})]);
    let response = post(&host, "/nowhere", "{}").await;
    assert_eq!(response.packets()[0]["opcode"], "close");
}

#[tokio::test]
async fn a_body_that_is_not_text_or_ends_early_is_400() {
    let host = host().await;
    let mut client = host.raw().await;
    let head = b"POST /php HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n";
    client.write([&head[..], b"\xff\xfe"].concat()).await;
    assert_eq!(client.last_response().await.status, 400);
    let mut client = host.raw().await;
    client.write([&head[..], b"{"].concat()).await;
    client.finish().await;
    assert_eq!(client.last_response().await.status, 400);
}

#[tokio::test]
async fn an_address_that_is_not_allowed_may_not_post() {
    let setup = Setup::new(PROGRAM).resource("/php", "feedback");
    let host = setup.server("allowed_ips", r#"["::1"]"#).start().await;
    assert_eq!(post(&host, "/php", "{}").await.status, 403);
}

#[tokio::test]
async fn a_post_to_a_resource_without_dialog_is_answered_with_packets() {
    let host = Setup::new(PROGRAM).plain("/echo", "echo").start().await;
    let response = post(&host, "/echo", "7").await;
    assert_eq!(response.packets(), [json!(7), json!({"opcode": "next", "fyi": ""})]);
}

#[tokio::test]
async fn a_second_request_in_the_same_packet_is_ignored() {
    let host = host().await;
    let mut client = host.raw().await;
    let first = "POST /php HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    client.write([first, &RawClient::handshake("/php")].concat()).await;
    // One response, then the end of the connection.
    assert_eq!(client.last_response().await.packets().len(), 1);
}
