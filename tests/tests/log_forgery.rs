//! Input of clients and plugins cannot forge log lines, and secrets are never logged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Line, RawClient, Request, Setup, TestHost, masked, opcode};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// Line ends, a forged log line, terminal control sequences, and invisible characters.
const FORGERY: &str = "\r\n2026-01-01T00:00:00Z  INFO forged\u{1b}[2J\u{9b}2K\u{85}\u{7f}\0\u{2028}\u{202e}\u{61c}\u{200b}\u{feff}\u{fe0f}\u{3164}\u{e0041}end";

fn hidden(c: char) -> bool {
    c.is_control() || "\u{2028}\u{202e}\u{61c}\u{200b}\u{feff}\u{fe0f}\u{3164}\u{e0041}".contains(c)
}

async fn inject_everywhere(host: &TestHost) {
    let mut client = host.connect("/x").await;
    client.ask(&json!({"do": "log", "level": "warn", "message": FORGERY})).await;
    client.ask(&json!({"do": "trace", "message": FORGERY})).await;
    // As the reason of a refused message and of a client's close frame.
    let mut other = host.connect("/x").await;
    other.send(json!({"do": "refuse", "reason": FORGERY}).to_string()).await;
    other.expect_close_packet(1008).await;
    let mut raw = host.raw().await.upgraded("/x").await;
    let reason = [&1000u16.to_be_bytes()[..], FORGERY.as_bytes()].concat();
    raw.write(masked(opcode::CLOSE, &reason)).await;
    raw.read_to_end().await;
    for request in [
        b"GET /\r\nforged HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /\x1b[2J HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"GET /%0d%0aforged HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"FORGED\x1b[2J\x85 / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"GET /x HTTP/1.1\r\nHost: h\x1b[2J\r\n\r\n".to_vec(),
        format!("GET /x HTTP/1.1\r\nHost: {}\r\n\r\n", "\u{9b}2J\u{85}").into_bytes(),
        b"backend\nGET /x\x1b[2J HTTP/1.1\n\n".to_vec(),
    ] {
        let mut raw = host.raw().await;
        raw.write(&request).await;
        raw.finish().await;
        raw.read_to_end().await;
    }
    let mut raw = host.raw().await;
    raw.write(RawClient::handshake("/x").replace("\r\n\r\n", "\r\nIdent: a\u{85}\u{9b}b\r\n\r\n"))
        .await;
    raw.expect_switching().await;
    // As the file name of an invalid library.
    std::fs::write(host.folder().join("plugins/liba\nforged\u{1b}[2J.so"), b"x").unwrap();
    client.ask(&json!({"do": "log", "level": "warn", "message": "end of test"})).await;
    host.wait_for_log("end of test", |line| line.text().contains("end of test")).await;
}

#[tokio::test]
async fn input_cannot_forge_a_line_of_the_text_log() {
    let setup = Setup::new(PROGRAM).resource("/x", "speaker").log_format("text");
    let host = setup.environment("RUST_LOG", "trace").start().await;
    inject_everywhere(&host).await;
    for line in host.log() {
        let text = line.text();
        assert!(!text.contains(hidden), "{text:?}");
        assert!(!text.starts_with("2026-01-01T00:00:00Z"), "{text:?}");
        let second = text.split_whitespace().nth(1).unwrap_or_default();
        assert!(["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&second), "{text:?}");
    }
    let is_escaped =
        |line: &Line| line.text().contains("\\r\\n2026-01-01T00:00:00Z  INFO forged\\u{1b}[2J");
    assert!(
        host.log().iter().filter(|line| is_escaped(line)).count() >= 2,
        "the text is logged in escaped form"
    );
}

#[tokio::test]
async fn each_line_of_the_json_log_is_one_object_without_hidden_characters() {
    let setup = Setup::new(PROGRAM).resource("/x", "speaker");
    let host = setup.environment("RUST_LOG", "trace").start().await;
    inject_everywhere(&host).await;
    for line in host.log() {
        let text = line.text();
        assert!(!text.contains(hidden), "{text:?}");
        let object: Value = serde_json::from_str(text).unwrap();
        assert!(object["level"].is_string() && object["timestamp"].is_string(), "{text}");
    }
    // The JSON log contains the original text.
    let log = host.log();
    assert!(log.iter().any(|line| line.message() == FORGERY), "{log:?}");
}

#[tokio::test]
async fn input_cannot_forge_a_row_of_a_table() {
    let host = Setup::new(PROGRAM).resource("/x", "speaker").start().await;
    // No control characters: an ident that contains them is refused.
    let ident = "a\u{202e}\u{61c}\u{200b}\u{2028}b";
    let request = Request::to("/x").header("Client-Type", "backend").header("Ident", ident);
    let _backend = host.open(request).await.ready().await;
    std::fs::write(host.folder().join("plugins/liba\nforged\u{1b}[2J.so"), b"x").unwrap();
    for (command, escaped, lines) in [
        (&["connections"][..], "a\\u{202e}\\u{61c}\\u{200b}\\u{2028}b", 2),
        (&["plugin", "list"], "a\\nforged\\u{1b}[2J", 7),
    ] {
        let (code, output) = host.command(command).await;
        assert!(code == 0 && output.contains(escaped), "{output:?}");
        assert!(!output.contains(|c: char| c != '\n' && hidden(c)), "{output:?}");
        assert_eq!(output.lines().count(), lines, "{output:?}");
    }
    // The JSON output contains the original text.
    let (_, output) = host.command(&["connections", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&output).unwrap()[0]["ident"], ident);
}

const SECRETS: [&str; 7] = [
    "s3cr3t-query",
    "s3cr3t-header",
    "s3cr3t-cookie",
    "s3cr3t-text",
    "s3cr3t-bytes",
    "s3cr3t-post",
    "s3cr3t-line",
];

#[tokio::test]
async fn secrets_are_not_logged_even_at_trace_level() {
    let setup = Setup::new(PROGRAM).resource("/x", "speaker").plain("/echo", "echo");
    let setup = setup.resource("/guarded", "speaker").put("secret.key", "s3cr3t-key-".repeat(4));
    let setup = setup.auth("/guarded", "keys", r#"[{ algorithm = "HS256", file = "secret.key" }]"#);
    let setup = setup.auth(
        "/guarded",
        "from",
        r#"["header", "query:token", "cookie:session", "subprotocol"]"#,
    );
    let host = setup.environment("RUST_LOG", "trace").start().await;
    send_secrets_in_requests(&host).await;
    let uuid = send_secrets_in_messages(&host).await;
    host.connect("/x").await.ask(&json!({"do": "log", "message": "end of test"})).await;
    host.wait_for_log("end of test", |line| line.text().contains("end of test")).await;
    let signature = uuid.split_once('.').unwrap().1.to_owned();
    for line in host.log() {
        let text = line.text();
        assert!(!text.contains("s3cr3t") && !text.contains(&signature), "{text}");
    }
}

async fn send_secrets_in_requests(host: &TestHost) {
    let [query, header, cookie, _, _, post, _] = SECRETS;
    for path in ["/x", "/guarded", "/nowhere", "/../x"] {
        for (target, field) in [
            (format!("{path}?token={query}"), String::new()),
            (path.to_owned(), format!("Authorization: Bearer {header}")),
            (path.to_owned(), format!("Cookie: session={cookie}")),
            (path.to_owned(), format!("Sec-WebSocket-Protocol: bearer, {header}")),
        ] {
            let mut raw = host.raw().await;
            let handshake = RawClient::handshake(&target);
            let handshake = if field.is_empty() {
                handshake
            } else {
                handshake.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"))
            };
            raw.write(handshake).await;
            raw.finish().await;
            raw.read_to_end().await;
        }
    }
    // Malformed requests, parts of which are quoted in the log.
    for request in [
        format!("GET /x?token={query} HTTP/1.1 x\r\nHost: h\r\n\r\n"),
        format!("GET x?token={query} HTTP/1.1\r\nHost: h\r\n\r\n"),
        format!("GET ftp://h/?token={query} HTTP/1.1\r\nHost: h\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\nHost: h\r\nCookie {cookie}\r\n\r\n"),
        format!(
            "POST /x?token={query} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{post}",
            post.len()
        ),
    ] {
        let mut raw = host.raw().await;
        raw.write(request).await;
        raw.read_to_end().await;
    }
}

/// Sends secrets in messages; returns the uuid of a client.
async fn send_secrets_in_messages(host: &TestHost) -> String {
    let [query, _, _, text, bytes, _, line] = SECRETS;
    let mut client = host.connect(&format!("/x?{query}")).await;
    let uuid = client.uuid().to_owned();
    client.send("bufferON").await;
    client.send(json!({"do": "fyi", "fyi": text}).to_string()).await;
    client.send("bufferOFF").await;
    for _ in 0..3 {
        client.until_next().await;
    }
    let mut echo = host.open(Request::to("/echo")).await;
    echo.send_binary(bytes.as_bytes()).await;
    echo.receive().await;
    // Fragments and control frames are read by tungstenite.
    let mut raw = host.raw().await.upgraded("/echo").await;
    raw.write(masked(0x01, text.as_bytes())).await;
    raw.write(masked(opcode::PING, bytes.as_bytes())).await;
    raw.write(masked(opcode::CONTINUATION, text.as_bytes())).await;
    raw.write(masked(opcode::CLOSE, &1000u16.to_be_bytes())).await;
    raw.read_to_end().await;
    let mut lines = host.connect_lines("/x").await;
    lines.send(&json!({"do": "fyi", "fyi": line}).to_string()).await;
    lines.until_next().await;
    uuid
}

#[tokio::test]
async fn a_valid_traceparent_is_in_the_lines_of_its_connection() {
    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let setup = Setup::new(PROGRAM).resource("/x", "speaker");
    let host = setup.environment("RUST_LOG", "debug").start().await;
    let invalid = VALID.replace('0', "G");
    for (traceparent, expected) in [(VALID, VALID), (&invalid, ""), ("", "")] {
        let position = host.log_position();
        let request = Request::to("/x").header("traceparent", traceparent);
        host.open(request).await.close().await;
        let is_end = |line: &Line| line.starts_with("connection closed");
        let line = host.wait_for_log_since(position, "the end", is_end).await;
        let json: Value = serde_json::from_str(line.text()).unwrap();
        assert_eq!(json["span"]["traceparent"].as_str().unwrap_or_default(), expected, "{line}");
    }
}
