//! Resources whose key is a pattern: which one a path selects, what the application learns of it,
//! and that authentication follows the resource.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plugsocket_tests::{RawClient, Request, Setup, TestHost};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const HS256: &str = r#"[{ algorithm = "HS256", file = "secret.key" }]"#;

fn token() -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = [part(json!({"alg": "HS256"})), part(json!({"sub": "ann", "exp": u32::MAX}))];
    let signed = signed.join(".");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

fn setup(paths: &[&str]) -> Setup {
    let setup = Setup::new(PROGRAM).put("secret.key", SECRET).server("max_handshakes_per_ip", "0");
    paths.iter().fold(setup, |setup, path| setup.resource(path, "web"))
}

/// Returns the status of a handshake, with further header lines.
async fn handshake(host: &TestHost, target: &str, fields: &str) -> u16 {
    let request = RawClient::handshake(target).replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
    host.raw().await.try_request(&request).await
}

/// Connects and returns how the application describes the connection.
async fn described(host: &TestHost, target: &str) -> Value {
    host.connect(target).await.ask(&json!({"do": "describe"})).await
}

#[tokio::test]
async fn a_path_selects_the_most_specific_resource_and_the_application_gets_the_open_parts() {
    let host = setup(&["/app/new", "/app/{key}", "/app/{key}/{page}", "/files/*"]).start().await;
    for (path, resource, parameters) in [
        ("/app/new", "/app/new", json!({})),
        ("/app/x", "/app/{key}", json!({"key": "x"})),
        ("/app/M%C3%BCller%2F1", "/app/{key}", json!({"key": "Müller/1"})),
        ("/app/%ff", "/app/{key}", json!({"key": "\u{fffd}"})),
        ("/app/a/b%20c", "/app/{key}/{page}", json!({"key": "a", "page": "b c"})),
        ("/app/a%20b/c", "/app/{key}/{page}", json!({"key": "a b", "page": "c"})),
        ("/files", "/files/*", json!({"*": ""})),
        ("/files/", "/files/*", json!({"*": ""})),
        ("/files/a/b%20c", "/files/*", json!({"*": "a/b c"})),
    ] {
        let found = described(&host, &format!("{path}?q=%20")).await;
        assert_eq!(found["path"], path);
        assert_eq!((&found["resource"], &found["parameters"]), (&json!(resource), &parameters));
        assert_eq!(found["query"], "q=%20", "{path}");
    }
    for path in ["/app", "/app/", "/app/new/", "/app//x", "/app/a/b/c", "/App/x", "/file", "/"] {
        assert_eq!(handshake(&host, path, "Sec-WebSocket-Protocol: x\r\n").await, 404, "{path}");
    }
}

#[tokio::test]
async fn plain_tcp_and_post_select_a_resource_as_a_websocket_does() {
    let host = setup(&["/app/{key}"]).resource("/speak/{key}", "speaker").start().await;
    let mut lines = host.connect_lines("/app/a%20b").await;
    lines.send("x").await;
    let found = lines.receive_json().await["result"].clone();
    assert_eq!((&found["parameters"], &found["kind"]), (&json!({"key": "a b"}), &json!("tcp")));
    let mut client = host.raw().await;
    client
        .write("POST /app/c?do=unhandled HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
        .await;
    let response = client.response().await;
    assert_eq!(response.packets()[0]["result"]["parameters"], json!({"key": "c"}));
}

#[tokio::test]
async fn the_connections_of_a_pattern_share_one_instance_and_its_members() {
    let host = Setup::new(PROGRAM).resource("/room/{name}", "speaker").start().await;
    let mut ann = host.connect("/room/a").await;
    let mut bob = host.connect("/room/b").await;
    let reached = ann.ask(&json!({"do": "broadcast", "message": "{}"})).await;
    assert_eq!(reached, 2);
    assert_eq!(bob.receive_json().await, json!({}));
    let (_, status) = host.command(&["status"]).await;
    assert!(status.contains("/room/{name}"), "{status}");
}

#[tokio::test]
async fn a_guard_is_that_of_the_resource_whatever_the_spelling_of_the_path() {
    let setup = setup(&["/app/{key}", "/app/{key}/*", "/open/key", "/open/*"]);
    let setup = setup.auth("/app/{key}", "keys", HS256).auth("/app/{key}/*", "keys", HS256);
    // A backend needs no token.
    let setup = setup.server("allowed_ips", r#"["192.0.2.1"]"#);
    let host = setup.auth("/open/key", "keys", HS256).start().await;
    for path in [
        "/app/key",
        "/app/%6bey",
        "/app/KEY",
        "/app/key/",
        "/app/key//",
        "/app/x/y",
        "/app/x%2Fy",
        "/app/x?/open/z",
        "http://h/app/key",
        "/open/key",
    ] {
        assert_eq!(handshake(&host, path, "").await, 401, "{path}");
        let plain = format!("GET {path} HTTP/1.1\r\nHost: h\r\nOrigin: http://x\r\n\r\n");
        assert_eq!(host.raw().await.try_request(&plain).await, 401, "{path}");
    }
    // Not a resource, rather than one without authentication.
    for (path, status) in [
        ("/open/%6bey", 404),
        ("/open//key", 404),
        ("/open/%2Fkey", 404),
        ("/open/./key", 404),
        ("/open/%2e/key", 404),
        ("/app/x/../y", 400),
        ("/open/../app/x", 400),
        ("/open/%2e%2e/app/x", 400),
        ("/open%2f..%2fapp%2fx", 400),
        ("/open\\..\\app", 400),
        ("//app/x", 404),
        ("/App/x", 404),
    ] {
        let found = handshake(&host, path, "Sec-WebSocket-Protocol: x\r\n").await;
        assert_eq!(found, status, "{path}");
    }
    assert_eq!(described(&host, "/open/Key").await["resource"], "/open/*");
    let request = Request::to("/app/x").header("Authorization", &format!("Bearer {}", token()));
    let mut client = host.open(request).await.ready().await;
    let found = client.ask(&json!({"do": "describe"})).await;
    assert_eq!((&found["user"], &found["resource"]), (&json!("ann"), &json!("/app/{key}")));
}

#[tokio::test]
async fn a_reload_adds_a_more_specific_resource_and_leaves_the_connections_of_the_pattern() {
    let mut host = setup(&["/app/{key}"]).start().await;
    let mut before = host.connect("/app/new").await;
    host.apply(host.setup().resource("/app/new", "web")).await;
    assert_eq!(before.ask(&json!({"do": "describe"})).await["resource"], "/app/{key}");
    assert_eq!(described(&host, "/app/new").await["resource"], "/app/new");
    assert_eq!(described(&host, "/app/x").await["resource"], "/app/{key}");
    host.apply(host.setup().remove("/app/new")).await;
    assert_eq!(described(&host, "/app/new").await["resource"], "/app/{key}");
}

#[tokio::test]
async fn patterns_for_the_same_paths_are_a_mistake_with_both_lines() {
    let mut host = setup(&["/app/{key}"]).start().await;
    let position = host.log_position();
    host.write_setup(host.setup().resource("/app/{id}", "web"));
    let line = host.wait_for_error(position, "matches the same paths").await;
    assert!(line.text().contains("/app/{id}") && line.text().contains("/app/{key}"));
    assert_eq!(described(&host, "/app/x").await["resource"], "/app/{key}");
}

#[tokio::test]
async fn the_state_of_a_pattern_survives_a_restart() {
    let setup = Setup::new(PROGRAM).resource("/count/{key}/*", "counter_v1");
    let setup = setup.key("/count/{key}/*", "snapshot_every", "0.1");
    let mut host = setup.start().await;
    let mut client = host.connect("/count/a/b").await;
    client.send("x").await;
    let answer = client.until_next().await;
    host.signal("TERM");
    host.exited().await;
    let files = std::fs::read_dir(host.folder().join(".plugsocket/state/snapshots"));
    let names: Vec<_> =
        files.unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["%2Fcount%2F{key}%2F*.snapshot"], "{answer:?}");
}
