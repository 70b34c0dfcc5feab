//! The PROXY protocol, versions 1 and 2: trusted and untrusted senders, and malformed headers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::time::{Duration, Instant};

use plugsocket_tests::{Line, RawClient, Setup, TestHost};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// A host behind a proxy on 127.0.0.1 that allows backends from 198.51.100.7.
fn setup() -> Setup {
    Setup::new(PROGRAM)
        .resource("/web", "feedback")
        .server("proxy_protocol", "true")
        .server("trusted_proxies", r#"["127.0.0.1"]"#)
        .server("allowed_ips", r#"["198.51.100.7"]"#)
}

fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, body].concat()
}

/// Connects with a PROXY header; returns the client address that the host reports.
async fn known_as(host: &TestHost, header: &[u8]) -> String {
    let mut client = host.raw().await;
    // In one write, so that the host reads bytes beyond the header.
    let handshake = RawClient::handshake("/web");
    client.write([header, handshake.as_bytes()].concat()).await;
    client.expect_switching().await;
    assert!(client.expect_text().await.contains("ready"));
    let (_, output) = host.command(&["connections", "--json"]).await;
    let connections: Value = serde_json::from_str(&output).unwrap();
    connections[0]["address"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_address_in_a_proxy_header_becomes_the_clients_address() {
    let host = setup().start().await;
    let v4 = [203, 0, 113, 9, 10, 0, 0, 1, 1, 2, 3, 4];
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    for (header, address) in [
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n".to_vec(), "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::5 ::1 4711 443\r\n".to_vec(), "2001:db8::5"),
        (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 4711 443\r\n".to_vec(), "203.0.113.9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (version_2(0x21, 0x11, &v4), "203.0.113.9"),
        (version_2(0x21, 0x11, &[&v4[..], &[1; 3000]].concat()), "203.0.113.9"),
        (version_2(0x21, 0x21, &v6), "2001:db8::"),
        (version_2(0x20, 0x00, &[]), "127.0.0.1"),
        (version_2(0x21, 0x31, &[0; 216]), "127.0.0.1"),
    ] {
        let position = host.log_position();
        assert_eq!(known_as(&host, &header).await, address, "{}", header.escape_ascii());
        let is_end = |line: &Line| line.message() == "connection closed";
        host.wait_for_log_since(position, "the end of the connection", is_end).await;
    }
}

#[tokio::test]
async fn the_address_in_the_header_decides_who_is_a_backend() {
    let host = setup().start().await;
    let request =
        "POST /web HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    for (source, status) in [("198.51.100.7", 200), ("198.51.100.8", 403)] {
        let mut client = host.raw().await;
        client.write(format!("PROXY TCP4 {source} 10.0.0.1 1 2\r\n{request}")).await;
        assert_eq!(client.last_response().await.status, status, "{source}");
    }
}

#[tokio::test]
async fn a_client_of_unknown_address_has_none_of_the_proxys_rights() {
    let host = setup().server("allowed_ips", r#"["127.0.0.1"]"#).start().await;
    let request =
        "POST /web HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    // Its X-Forwarded-For is ignored too, because the client is not a proxy.
    let forwarded = request.replace("Host: x", "Host: x\r\nX-Forwarded-For: 127.0.0.1");
    let body = [127; 216];
    for (header, status) in [
        (version_2(0x21, 0x00, &[]), 403),
        (version_2(0x21, 0x12, &body[..12]), 403),
        (version_2(0x21, 0x22, &body[..36]), 403),
        (version_2(0x21, 0x31, &body), 403),
        (version_2(0x21, 0x32, &body), 403),
        // The proxy's own connections.
        (version_2(0x20, 0x00, &[]), 200),
        (version_2(0x20, 0x31, &body), 200),
        (b"PROXY UNKNOWN\r\n".to_vec(), 200),
    ] {
        for request in [request, &forwarded] {
            let mut client = host.raw().await;
            client.write([&header, request.as_bytes()].concat()).await;
            let found = client.last_response().await.status;
            assert_eq!(found, status, "{}", header.escape_ascii());
        }
    }
    let mut lines = host.raw().await;
    let opening = b"backend\nGET /web HTTP/1.1\n\n";
    lines.write([&version_2(0x21, 0x31, &body)[..], opening].concat()).await;
    assert!(lines.read_to_end().await.windows(18).any(|part| part == b"may not be a backe"));
}

#[tokio::test]
async fn an_incomplete_proxy_header_closes_the_connection() {
    let host = setup().server("head_timeout", "0.2").start().await;
    for begin in [
        RawClient::handshake("/web").into_bytes(),
        b"PROXY TCP4 203.0.113.9\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2".to_vec(),
        b"PROXY ".repeat(30),
        version_2(0x21, 0x11, &[1; 4]),
        version_2(0x2f, 0x11, &[1; 12]),
        b"\r\n\r\n\0\r\nQUIT".to_vec(),
        Vec::new(),
    ] {
        let mut client = host.raw().await;
        client.write(&begin).await;
        assert_eq!(client.read_to_end().await, b"", "{}", begin.escape_ascii());
    }
}

#[tokio::test]
async fn missing_proxy_headers_are_logged_as_a_warning_once_per_minute() {
    let host = setup().start().await;
    let missing = "the connection does not begin with a PROXY header";
    let words = "malformed PROXY header: expected two addresses and two ports";
    for (begin, level, error) in [
        // A health check of a load balancer.
        ("", "DEBUG", "unexpected end of file"),
        ("GET / HTTP/1.1\r\n", "WARN", missing),
        ("PROXY TCP4 203.0.113.9\r\n", "DEBUG", words),
        ("\x16\x03\x01 and so on", "DEBUG", missing),
    ] {
        let position = host.log_position();
        let mut client = host.raw().await;
        client.write(begin).await;
        client.finish().await;
        assert_eq!(client.read_to_end().await, b"");
        let is_match = |line: &Line| {
            line.starts_with("PROXY header rejected")
                || line.starts_with("invalid or missing PROXY header")
        };
        let line = host.wait_for_log_since(position, begin, is_match).await;
        assert_eq!((line.level(), line.field("error")), (level, error.to_owned()));
        assert_eq!(line.field("address"), "127.0.0.1");
    }
}

#[tokio::test]
async fn head_timeout_starts_when_the_connection_is_accepted() {
    let host = setup().server("head_timeout", "2").start().await;
    let begun = Instant::now();
    let mut client = host.raw().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.write(b"PROXY UNKNOWN\r\n").await;
    assert_eq!(client.last_response().await.status, 408);
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(3200), "{took:?}");
}

#[tokio::test]
async fn a_proxy_header_from_an_untrusted_address_is_refused() {
    let host = setup().server("trusted_proxies", r#"["192.0.2.1"]"#).start().await;
    let mut client = host.raw().await;
    let handshake = RawClient::handshake("/web");
    client.write(format!("PROXY TCP4 198.51.100.7 10.0.0.1 1 2\r\n{handshake}")).await;
    assert_eq!(client.last_response().await.status, 400);
    assert_eq!(host.raw().await.try_handshake("/web").await, 101);
}

#[tokio::test]
async fn proxy_protocol_can_be_enabled_at_run_time() {
    let mut host = setup().server("proxy_protocol", "false").start().await;
    assert_eq!(host.raw().await.try_handshake("/web").await, 101);
    let on = host.setup().server("proxy_protocol", "true");
    host.apply(on).await;
    let mut client = host.raw().await;
    client.write(b"PROXY UNKNOWN\r\n").await;
    assert_eq!(client.try_handshake("/web").await, 101);
}

#[tokio::test]
async fn rate_limits_apply_to_the_address_in_the_proxy_header() {
    let host = setup().server("max_handshakes_per_ip", "1").start().await;
    let mut refused = 0;
    for n in 0..10 {
        let mut client = host.raw().await;
        client.write(format!("PROXY TCP6 2001:db8::{n} ::1 1 2\r\n")).await;
        refused += u32::from(client.try_handshake("/web").await == 503);
    }
    assert!(refused >= 3, "{refused}");
    for n in 0..20 {
        let mut client = host.raw().await;
        client.write(format!("PROXY TCP4 203.0.113.{n} 10.0.0.1 1 2\r\n")).await;
        assert_eq!(client.try_handshake("/web").await, 101, "{n}");
    }
}

#[tokio::test]
async fn a_proxy_behind_a_load_balancer_is_exempt_from_the_rate_limit() {
    let setup = setup().server("max_handshakes_per_ip", "1");
    let setup = setup.server("trusted_proxies", r#"["127.0.0.1", "10.0.0.0/8"]"#);
    let host = setup.start().await;
    let through = async |address: String| {
        let forwarded = format!("\r\nX-Forwarded-For: {address}\r\n\r\n");
        let request = RawClient::handshake("/web").replace("\r\n\r\n", &forwarded);
        let mut client = host.raw().await;
        client.write(format!("PROXY TCP4 10.0.0.8 10.0.0.1 1 2\r\n{request}")).await;
        client.line().await
    };
    for n in 0..20 {
        assert!(through(format!("203.0.113.{n}")).await.contains(" 101 "), "{n}");
    }
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(through("203.0.113.99".to_owned()).await.contains(" 503 "));
    }
    assert!(refused >= 5, "{refused}");
}
