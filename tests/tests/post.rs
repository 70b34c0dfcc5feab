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
    client.response().await
}

/// Returns a POST whose message is sent back, with these further headers.
fn echo(headers: &str, message: &str) -> String {
    let body = json!({"opcode": "echo", "message": message}).to_string();
    let length = body.len();
    format!("POST /php HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// Returns the same in chunks, with an extension and trailer fields.
fn chunked_echo(message: &str) -> String {
    let body = json!({"opcode": "echo", "message": message}).to_string();
    let (first, second) = body.split_at(7);
    format!(
        "POST /php HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
         7;name=\"value\"\r\n{first}\r\n0{:X}\r\n{second}\r\n0\r\nX-Sum: 1\r\n\r\n",
        second.len()
    )
}

fn echoed(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{response:?}");
    let [packet, next] = &response.packets()[..] else { panic!("{response:?}") };
    assert_eq!(next["opcode"], "next");
    packet["message"].clone()
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
    let response = client.response().await;
    assert_eq!((response.status, response.packets().len()), (200, 2));
    // In chunks, on the same connection.
    let head = "POST /php HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
    client.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
    assert_eq!(client.line().await, "HTTP/1.1 100 Continue");
    assert_eq!(client.line().await, "");
    client.write("c\r\n{\"opcode\":\"e\r\n").await;
    client.write("4\r\ncho\"\r\n1\r\n}\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    // A refusal is final; the body is not awaited. Without a body there is nothing to ask for.
    for (headers, status) in [
        ("Origin: null\r\nContent-Length: 2\r\n", 403),
        ("Content-Length: 1001\r\n", 413),
        ("Content-Length: 0\r\n", 422),
    ] {
        let mut client = host.raw().await;
        client.write(format!("{head}{headers}\r\n")).await;
        assert_eq!(client.last_response().await.status, status, "{headers}");
    }
    // In HTTP/1.0 there are no interim responses.
    let mut client = host.raw().await;
    client.write(echo("Expect: 100-continue\r\n", "a").replace("HTTP/1.1", "HTTP/1.0")).await;
    assert_eq!(echoed(&client.last_response().await), "a");
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
    assert_eq!(client.response().await.packets()[0]["message"], "ü");
    for byte in chunked_echo("ü").into_bytes() {
        client.write([byte]).await;
    }
    assert_eq!(echoed(&client.response().await), "ü");
}

#[tokio::test]
async fn each_refused_post_has_a_status_and_a_reason() {
    let host = host().await;
    for (path, headers, body, status) in [
        ("/php", "Origin: http://localhost\r\nContent-Length: 2\r\n", "{}", 403),
        ("/php", "", "", 411),
        ("/php", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", 501),
        ("/php", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n", 422),
        ("/php", "Transfer-Encoding: chunked\r\n", "3E9\r\n", 413),
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
async fn a_connection_is_kept_for_further_requests_until_the_client_closes_it() {
    let host = host().await;
    let mut client = host.raw().await;
    for message in ["a", "b"] {
        client.write(echo("", message)).await;
        let response = client.response().await;
        assert_eq!(echoed(&response), message);
        assert_eq!(response.header("connection"), Some("keep-alive"));
        assert_eq!(response.header("keep-alive"), Some("timeout=5"));
    }
    // An empty line behind a body, as some clients send it.
    client.write(chunked_echo("c") + "\r\n").await;
    assert_eq!(echoed(&client.response().await), "c");
    client.write(echo("", "d")).await;
    assert_eq!(echoed(&client.response().await), "d");
    client.write(echo("Connection: close\r\n", "e")).await;
    assert_eq!(echoed(&client.last_response().await), "e");
    // Each request is a session of its own.
    let first = post(&host, "/speak", r#"{"do":"whoami"}"#).await.packets()[0].clone();
    let second = post(&host, "/speak", r#"{"do":"whoami"}"#).await.packets()[0].clone();
    assert_ne!(first["result"]["uuid"], second["result"]["uuid"]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let host = host().await;
    let mut client = host.raw().await;
    let (first, long) = (echo("", "1"), echo("", &"2".repeat(900)));
    client.write(format!("{first}{long}{}{}", chunked_echo("3"), echo("", "4"))).await;
    assert_eq!(echoed(&client.response().await), "1");
    assert_eq!(echoed(&client.response().await), "2".repeat(900));
    assert_eq!(echoed(&client.response().await), "3");
    assert_eq!(echoed(&client.response().await), "4");
    // Split within every request.
    let requests = [echo("", "5"), chunked_echo("6"), echo("", "7")].concat();
    for part in requests.as_bytes().chunks(50) {
        client.write(part).await;
    }
    for message in ["5", "6", "7"] {
        assert_eq!(echoed(&client.response().await), message);
    }
    // A proxy may send the handshake of a WebSocket on a connection that it has kept.
    client.write([echo("", "8"), RawClient::handshake("/php")].concat()).await;
    assert_eq!(echoed(&client.response().await), "8");
    client.expect_switching().await;
    assert!(client.expect_text().await.starts_with(r#"{"opcode":"ready""#));
}

#[tokio::test]
async fn no_request_follows_an_error_or_the_wish_to_close() {
    let host = host().await;
    let good = echo("", "a");
    let headers = |text: &str| format!("POST /php HTTP/1.1\r\nHost: x\r\n{text}\r\n\r\n");
    let chunks = |text: &str| format!("{}{text}", headers("Transfer-Encoding: chunked"));
    for (request, status) in [
        (headers("Content-Length: 2\r\nTransfer-Encoding: chunked"), 400),
        (headers("Content-Length: 2\r\nContent-Length: 3"), 400),
        (headers("Content-Length: 0"), 422),
        (headers("Transfer-Encoding: identity"), 501),
        (headers("Content-Length: 1001"), 413),
        (chunks("0x2\r\n{}\r\n0\r\n\r\n"), 400),
        (chunks("2\r\n{}0\r\n\r\n"), 400),
        (chunks("2\r\n{}\r\n0\r\nX: y\nZ: a\r\n\r\n"), 400),
        (good.replace("/php", "/nowhere"), 404),
        ("GET /plugsocket/page.css HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 200),
        // Only the first bytes of a connection can open plain TCP.
        (format!("{}backend\nGET /php HTTP/1.1\n\n", echo("", "b")), 200),
        (echo("Connection: close\r\n", "b"), 200),
        (echo("Connection: Keep-Alive, Close\r\n", "b"), 200),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 200),
    ] {
        let mut client = host.raw().await;
        client.write(format!("{request}{good}")).await;
        let mut response = client.response().await;
        assert_eq!(response.status, status, "{request:?}: {response:?}");
        if request.contains("backend\n") {
            response = client.response().await;
            assert_eq!(response.status, 400, "{response:?}");
        }
        assert_eq!(response.header("connection"), Some("close"), "{request:?}: {response:?}");
        assert_eq!(client.read_to_end().await, b"", "{request:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_ends_after_head_timeout() {
    let setup = Setup::new(PROGRAM).resource("/php", "feedback");
    let host = setup.server("head_timeout", "0.5").start().await;
    // Without a request, or with an empty line, there is nothing to answer.
    for behind in ["", "\r\n"] {
        let mut client = host.raw().await;
        client.write(echo("", "a") + behind).await;
        assert_eq!(echoed(&client.response().await), "a");
        assert_eq!(client.read_to_end().await, b"");
    }
    let mut client = host.raw().await;
    client.write(echo("", "a") + "POST /php HTTP/1.1\r\n").await;
    assert_eq!(echoed(&client.response().await), "a");
    assert_eq!(client.last_response().await.status, 408);
}

#[tokio::test]
async fn a_kept_connection_counts_as_a_handshaking_one() {
    let host = Setup::new(PROGRAM)
        .server("listen", r#"["127.0.0.1:0", "unix:host.sock"]"#)
        .server("allowed_ips", "[]")
        .server("max_handshakes", "2")
        .resource("/php", "feedback")
        .start()
        .await;
    let backend = || RawClient::connect(&host.addresses()[1]);
    let mut first = backend().await;
    first.write(echo("", "a")).await;
    assert_eq!(first.response().await.header("connection"), Some("keep-alive"));
    // Half of the limit is for new connections.
    let mut second = backend().await;
    second.write(echo("", "a")).await;
    assert_eq!(echoed(&second.last_response().await), "a");
    let mut handshaking = host.raw().await;
    handshaking.write("GET ").await;
    let mut refused = host.raw().await;
    assert_eq!(refused.last_response().await.status, 503);
    first.write(echo("", "b")).await;
    assert_eq!(echoed(&first.last_response().await), "b");
    // The place is free.
    let mut third = host.raw().await;
    assert_eq!(third.try_handshake("/php").await, 101);
}

#[tokio::test]
async fn a_host_that_stops_ends_kept_connections() {
    let setup = Setup::new(PROGRAM).resource("/php", "feedback");
    let mut host = setup.server("head_timeout", "1000").server("drain", "1000").start().await;
    let mut idle = host.raw().await;
    idle.write(echo("", "a")).await;
    assert_eq!(echoed(&idle.response().await), "a");
    host.signal("TERM");
    assert_eq!(idle.read_to_end().await, b"");
    assert_eq!(host.exited().await.code(), Some(0));
}

#[tokio::test]
async fn http_1_0_and_head_are_answered_as_by_any_server() {
    let host = host().await;
    let body = r#"{"opcode":"echo","message":"a"}"#;
    let old = |headers: &str| {
        format!("POST /php HTTP/1.0\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let mut client = host.raw().await;
    client.write(old("")).await;
    assert_eq!(echoed(&client.last_response().await), "a");
    let mut client = host.raw().await;
    for _ in 0..2 {
        client.write(old("Host: x\r\nConnection: keep-alive\r\n")).await;
        let response = client.response().await;
        assert_eq!(echoed(&response), "a");
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
    client.write(old("Transfer-Encoding: chunked\r\n")).await;
    assert_eq!(client.last_response().await.status, 400);
    for (method, version) in [("GET", "1.0"), ("HEAD", "1.1"), ("HEAD", "1.0")] {
        let fields = if version == "1.0" { "" } else { "Host: x\r\n" };
        let request =
            |method: &str| format!("{method} /plugsocket/ HTTP/{version}\r\n{fields}\r\n");
        let mut client = host.raw().await;
        client.write(request("GET")).await;
        let page = client.last_response().await;
        assert_eq!((page.status, page.body.contains("<html")), (200, true));
        let mut client = host.raw().await;
        client.write(request(method)).await;
        let answer = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains(&format!("\r\nContent-Length: {}\r\n", page.body.len())));
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.is_empty(), method == "HEAD");
    }
    // A handshake needs HTTP/1.1 and GET.
    for (from, to, status) in [("HTTP/1.1", "HTTP/1.0", "400"), ("GET", "HEAD", "405")] {
        let mut client = host.raw().await;
        client.write(RawClient::handshake("/php").replace(from, to)).await;
        let answer = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn the_status_says_who_ended_a_post() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker").resource("/block", "blocker");
    let host =
        setup.server("watchdog", "{ callback_warn = 0.1, callback_limit = 0.4 }").start().await;
    for (code, status) in [(1008, 422), (1013, 422), (4000, 422), (1011, 500)] {
        let command = json!({"do": "refuse", "code": code, "reason": "no"}).to_string();
        let response = post(&host, "/speak", &command).await;
        assert_eq!(response.status, status, "{code}: {response:?}");
        assert_eq!(response.packets(), [json!({"opcode": "close", "error": "no"})]);
    }
    // The watchdog abandons the application.
    let response = post(&host, "/block", "block forever").await;
    assert_eq!((response.status, response.header("retry-after").is_some()), (503, true));
    assert!(response.packets()[0]["retry_after"].is_u64(), "{response:?}");
}
