//! The opening handshake: accepted and refused requests, origins, proxies, subprotocols, limits.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{
    Client, Line, LineClient, RawClient, Request, Response, Setup, TestHost, masked, opcode,
};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).resource("/web", "feedback").plain("/echo", "echo")
}

/// Sends a request and expects a single HTTP response that refuses it.
async fn refused(host: &TestHost, request: &str) -> Response {
    let mut client = host.raw().await;
    client.write(request).await;
    client.last_response().await
}

fn without(header: &str) -> String {
    let request = RawClient::handshake("/web");
    let lines = request.split_inclusive("\r\n").filter(|line| !line.starts_with(header));
    lines.collect()
}

fn with(line: &str) -> String {
    RawClient::handshake("/web").replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"))
}

#[tokio::test]
async fn each_refusal_is_one_http_response_with_a_reason() {
    let host = setup().server("page", "false").start().await;
    let good = RawClient::handshake("/web");
    for (request, status) in [
        (without("Host"), 400),
        (without("Upgrade"), 400),
        (without("Connection"), 400),
        (without("Sec-WebSocket-Key"), 400),
        (without("Sec-WebSocket-Version"), 400),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 400),
        (good.replace("HTTP/1.1", "HTTP/2.0"), 505),
        (good.replace("GET", "BREW"), 405),
        (good.replace("Version: 13", "Version: 8"), 426),
        (with("no colon"), 400),
        (with("Content-Length: 3"), 400),
        ("nonsense\r\n\r\n".to_owned(), 400),
        (format!("GET /web HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(20_000)), 431),
        (with(&"X: y\r\n".repeat(200)), 431),
    ] {
        let response = refused(&host, &request).await;
        assert_eq!(response.status, status, "{request:?}: {response:?}");
        assert!(response.body.trim().len() > 5, "no reason: {response:?}");
        match status {
            405 => assert_eq!(response.header("allow"), Some("GET, POST, OPTIONS")),
            426 => assert_eq!(response.header("sec-websocket-version"), Some("13")),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_valid_handshake_is_answered_as_the_rfc_requires() {
    let host = setup().start().await;
    let mut client = host.raw().await;
    client.write(RawClient::handshake("/web").replace("websocket", "WebSocket")).await;
    assert_eq!(client.line().await, "HTTP/1.1 101 Switching Protocols");
    let mut headers = Vec::new();
    loop {
        match client.line().await {
            line if line.is_empty() => break,
            line => headers.push(line),
        }
    }
    // RFC 6455, section 1.3.
    assert!(headers.contains(&"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()));
    assert!(client.expect_text().await.starts_with(r#"{"opcode":"ready""#));
}

#[tokio::test]
async fn a_request_head_over_head_timeout_is_answered_408() {
    let host = setup().server("head_timeout", "0.2").start().await;
    for beginning in ["", "GET /web HT", "GET /web HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut client = host.raw().await;
        client.write(beginning).await;
        assert_eq!(client.last_response().await.status, 408);
    }
    let mut client = host.raw().await;
    client.write("GET /web HT").await;
    client.finish().await;
    for message in ["request refused", "connection ended before a complete request"] {
        let is_match =
            |line: &Line| line.message() == message && line.field("address") == "127.0.0.1";
        host.wait_for_log(message, is_match).await;
    }
}

#[tokio::test]
async fn only_listed_origins_may_connect() {
    let listed = r#"["https://www.example.org"]"#;
    let host = setup().server("allowed_origins", listed).start().await;
    for (origin, status) in [
        ("Origin: https://evil.example.org", 403),
        ("Origin: https://www.example.org.evil.org", 403),
        ("Origin: http://www.example.org", 403),
        ("Origin: null", 403),
        ("X-Nothing: 1", 403),
    ] {
        assert_eq!(refused(&host, &with(origin)).await.status, status, "{origin}");
    }
    for origin in
        ["https://www.example.org", "https://www.example.org:443", "HTTPS://WWW.example.org"]
    {
        host.open(Request::to("/web").header("Origin", origin)).await.ready().await;
    }
    // Backends are identified by their address, not their origin.
    host.connect_backend("/web").await;
}

#[tokio::test]
async fn without_allowed_origins_any_or_no_origin_may_connect() {
    let host = setup().start().await;
    host.open(Request::to("/web").header("Origin", "https://anywhere.example")).await.ready().await;
    host.connect("/web").await;
}

#[tokio::test]
async fn only_allowed_addresses_may_be_backends() {
    let setup = setup().server("listen", r#"["127.0.0.1:0", "[::1]:0"]"#);
    let host = setup.server("allowed_ips", r#"["::1"]"#).start().await;
    let [v4, v6] = host.addresses() else { panic!("two listeners") };
    let backend = || Request::to("/web").header("Client-Type", "PHP");
    Client::open(v6, backend()).await.ready().await;
    Client::open(v4, Request::to("/web")).await.ready().await;
    let mut client = RawClient::connect(v4).await;
    client.write(with("Client-Type: php")).await;
    assert_eq!(client.last_response().await.status, 403);
}

#[tokio::test]
async fn a_forwarded_address_counts_only_from_a_trusted_proxy() {
    let setup = Setup::new(PROGRAM)
        .resource("/who", "speaker")
        .server("listen", r#"["127.0.0.1:0", "[::1]:0"]"#)
        .server("trusted_proxies", r#"["::1"]"#);
    let host = setup.start().await;
    let [v4, v6] = host.addresses() else { panic!("two listeners") };
    for (address, seen) in [(v4, "127.0.0.1"), (v6, "203.0.113.9")] {
        let request = Request::to("/who").header("X-Forwarded-For", "198.51.100.1, 203.0.113.9");
        let mut client = Client::open(address, request).await.ready().await;
        assert_eq!(client.ask(&json!({"do": "whoami"})).await["address"], seen);
    }
    // A client behind the proxy is not allowed to be a backend.
    let mut client = RawClient::connect(v6).await;
    client.write(with("Client-Type: php\r\nX-Forwarded-For: 203.0.113.7")).await;
    assert_eq!(client.last_response().await.status, 403);
    host.wait_for_log("the refusal with the client's address", |line| {
        line.field("address") == "203.0.113.7"
    })
    .await;
}

#[tokio::test]
async fn a_client_without_a_readable_forwarded_address_has_none_of_the_proxys_rights() {
    let setup = Setup::new(PROGRAM).resource("/who", "speaker");
    let host = setup.server("trusted_proxies", r#"["127.0.0.1"]"#).start().await;
    let handshake = RawClient::handshake("/who");
    let backend = handshake.replace("Host", "Client-Type: php\r\nHost");
    let post = "POST /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
        .to_owned();
    for value in ["", "unknown", "unix:", "1.1.1.1, unknown", "1.1.1.1:99999", "1.1.1.1,,127.0.0.1"]
    {
        for request in [&backend, &post] {
            let request = request.replace("Host", &format!("X-Forwarded-For: {value}\r\nHost"));
            assert_eq!(refused(&host, &request).await.status, 403, "{request}");
        }
        let request = Request::to("/who").header("X-Forwarded-For", value);
        let mut client = host.open(request).await.ready().await;
        let me = client.ask(&json!({"do": "whoami"})).await;
        assert_eq!((&me["kind"], &me["address"]), (&json!("websocket"), &json!("127.0.0.1")));
    }
    let request = Request::to("/who").header("X-Forwarded-For", "1.1.1.1, fe80::1%eth0");
    let mut client = host.open(request).await.ready().await;
    assert_eq!(client.ask(&json!({"do": "whoami"})).await["address"], "fe80::1");
    // Without X-Forwarded-For the request counts as the proxy's own.
    host.connect_backend("/who").await;
    assert_eq!(refused(&host, &post).await.status, 200);
}

#[tokio::test]
async fn a_client_forwarded_over_a_unix_socket_has_none_of_the_proxys_rights() {
    let setup = Setup::new(PROGRAM).resource("/who", "speaker");
    let setup = setup.server("listen", r#"["127.0.0.1:0", "unix:host.sock"]"#);
    let setup = setup.server("allowed_ips", r#"["198.51.100.7"]"#);
    let mut host = setup.server("trusted_proxies", r#"["10.0.0.0/8", "unix"]"#).start().await;
    let unix = host.addresses()[1].clone();
    let named = |value: &str| format!("X-Forwarded-For: {value}\r\n");
    let who = async |fields: &str| {
        let mut request = Request::to("/who");
        if let Some(value) = fields.trim().strip_prefix("X-Forwarded-For: ") {
            request = request.header("X-Forwarded-For", value);
        }
        let mut client = Client::open(&unix, request).await.ready().await;
        client.ask(&json!({"do": "whoami"})).await["address"].clone()
    };
    let posted = async |fields: &str| {
        let mut client = RawClient::connect(&unix).await;
        let request = format!(
            "POST /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}Content-Length: 2\r\n\r\n{{}}"
        );
        client.write(request).await;
        client.last_response().await.status
    };
    for (value, seen, status) in [
        ("203.0.113.9", "203.0.113.9", 403),
        ("198.51.100.7, 203.0.113.9, 10.0.0.1", "203.0.113.9", 403),
        ("203.0.113.9, 198.51.100.7", "198.51.100.7", 200),
        ("unknown", "unix", 403),
        ("unix:", "unix", 403),
        ("unknown, 10.0.0.1", "10.0.0.1", 403),
    ] {
        assert_eq!(who(&named(value)).await, seen, "{value}");
        assert_eq!(posted(&named(value)).await, status, "{value}");
    }
    // Without X-Forwarded-For, or if the peer is not a trusted proxy, the socket's address counts.
    assert_eq!((who("").await, posted("").await), (json!("unix"), 200));
    let without = host.setup().server("trusted_proxies", r#"["10.0.0.0/8"]"#);
    let line = host.apply(without).await;
    assert!(line.field("server").contains("trusted_proxies"), "{line}");
    assert_eq!(posted(&named("203.0.113.9")).await, 200);
}

#[tokio::test]
async fn user_information_is_neither_returned_nor_logged() {
    let host = setup().start().await;
    let good = RawClient::handshake("/web");
    for (request, reason) in [
        (good.replace("/web", "http://u:SECRET@h/web"), "the request target has user information"),
        (good.replace("localhost", "u:SECRET@h"), "the Host has user information"),
        (good.replace("/web", "http://u:a/SECRET@h"), "not a path"),
        (good.replace("/web", "http://u:a SECRET@h"), "malformed"),
        (
            "backend\nGET http://u:SECRET@h/web HTTP/1.1\n\n".to_owned(),
            "the request target has user information",
        ),
    ] {
        let position = host.log_position();
        let response = refused(&host, &request).await;
        assert_eq!(response.status, 400, "{request}");
        assert!(response.body.contains(reason), "{response:?}");
        let is_match = |line: &Line| line.message() == "request refused";
        let line = host.wait_for_log_since(position, "the refusal", is_match).await;
        assert!(!format!("{response:?}{line}").contains("SECRET"), "{response:?} {line}");
    }
}

#[tokio::test]
async fn the_first_supported_subprotocol_is_selected() {
    let host = setup().key("/web", "subprotocols", r#"["v1.chat", "v2.chat"]"#).start().await;
    for (wanted, chosen) in
        [("v2.chat, v1.chat", Some("v2.chat")), ("other, v1.chat", Some("v1.chat"))]
    {
        let request = Request::to("/web").header("Sec-WebSocket-Protocol", wanted);
        assert_eq!(host.open(request).await.protocol(), chosen);
    }
    let mut client = host.raw().await;
    client.write(with("Sec-WebSocket-Protocol: unknown")).await;
    loop {
        let line = client.line().await;
        assert!(!line.starts_with("Sec-WebSocket-Protocol"), "{line}");
        if line.is_empty() {
            break;
        }
    }
}

#[tokio::test]
async fn a_refusal_in_the_dialog_selects_a_subprotocol() {
    let endpoint = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("\"http://{}/\"", endpoint.local_addr().unwrap());
    drop(endpoint);
    let own = |setup: Setup, path| setup.key(path, "subprotocols", r#"["v1.x"]"#);
    let setup = own(own(setup().resource("/gone", "absent"), "/gone"), "/web");
    let host = setup.without_library("absent").auth("/web", "url", &url).start().await;
    for (path, offer, code) in [("/gone", "v0.x, v1.x", 1013), ("/web", "v1.x", 1013)] {
        let request = Request::to(path).header("Sec-WebSocket-Protocol", offer);
        let mut client = host.open(request.header("Origin", "http://x")).await;
        assert_eq!(client.protocol(), Some("v1.x"), "{path}");
        assert!(client.expect_close_packet(code).await["retry_after"].is_u64(), "{path}");
    }
    // An unknown resource has no subprotocols to choose from.
    let request = with("Sec-WebSocket-Protocol: v1.x").replace("/web", "/nowhere");
    assert_eq!(refused(&host, &request).await.status, 404);
}

#[tokio::test]
async fn an_unknown_path_gets_a_close_packet_by_default() {
    let host = setup().start().await;
    let mut client = host.open(Request::to("/nowhere?x=1")).await;
    let packet = client.expect_close_packet(1008).await;
    assert!(packet["error"].as_str().unwrap().contains("/nowhere"), "{packet}");
}

#[tokio::test]
async fn an_unknown_path_gets_404_if_configured() {
    let host = setup().server("unknown_resource", r#""404""#).start().await;
    let response = refused(&host, &RawClient::handshake("/nowhere")).await;
    assert_eq!(response.status, 404);
    assert!(response.body.contains("/nowhere"), "{response:?}");
}

#[tokio::test]
async fn a_path_is_compared_literally_and_without_query() {
    let host = setup().server("unknown_resource", r#""404""#).start().await;
    host.connect("/web?room=1").await;
    for path in ["/web/", "/WEB", "/%77eb", "/web2"] {
        assert_eq!(refused(&host, &RawClient::handshake(path)).await.status, 404, "{path}");
    }
    assert_eq!(refused(&host, &RawClient::handshake("/x/../web")).await.status, 400);
}

#[tokio::test]
async fn connections_over_max_connections_get_503_with_retry_after() {
    let host = setup().server("max_connections", "2").start().await;
    let first = host.connect("/web").await;
    let _second = host.connect("/web").await;
    let response = refused(&host, &RawClient::handshake("/web")).await;
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    let mut lines = LineClient::open(host.address(), "backend\nGET /web HTTP/1.1\n\n").await;
    lines.expect_close_packet().await;
    first.close().await;
    host.wait_for_log("the connection to end", |line| line.message() == "connection closed").await;
    // The count is decremented shortly after that log line.
    while host.raw().await.try_handshake("/web").await != 101 {}
}

#[tokio::test]
async fn over_max_per_ip_only_websockets_are_refused() {
    let host = setup().server("max_per_ip", "1").start().await;
    let _first = host.connect("/web").await;
    let response = refused(&host, &RawClient::handshake("/web")).await;
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    host.connect_backend("/web").await;
    host.connect_lines("/web").await;
}

#[tokio::test]
async fn ipv4_ipv6_and_unix_sockets_serve_all_protocols() {
    let listen = r#"["127.0.0.1:0", "[::1]:0", "unix:host.sock"]"#;
    let host = setup().server("listen", listen).start().await;
    assert_eq!(host.addresses().len(), 3);
    for address in host.addresses() {
        for request in [Request::to("/web"), Request::to("/web").header("Client-Type", "backend")] {
            let mut client = Client::open(address, request).await.ready().await;
            client.call(&json!({"opcode": "nothing"})).await;
        }
        let opening = "backend\nGET /web HTTP/1.1\n\n";
        LineClient::open(address, opening).await.ready().await;
    }
}

#[tokio::test]
async fn frames_in_the_same_packet_as_the_handshake_are_handled() {
    let host = setup().start().await;
    let mut client = host.raw().await;
    let mut bytes = RawClient::handshake("/echo").into_bytes();
    bytes.extend(masked(opcode::TEXT, b"one"));
    bytes.extend(masked(opcode::TEXT, b"two"));
    client.write(bytes).await;
    client.expect_switching().await;
    assert_eq!(client.expect_text().await, "one");
    assert_eq!(client.expect_text().await, "two");
}

#[tokio::test]
async fn a_request_sent_byte_by_byte_is_accepted() {
    let host = setup().start().await;
    let mut client = host.raw().await;
    for byte in RawClient::handshake("/echo").bytes() {
        client.write([byte]).await;
    }
    client.expect_switching().await;
    for byte in masked(opcode::TEXT, b"slow") {
        client.write([byte]).await;
    }
    assert_eq!(client.expect_text().await, "slow");
}

#[tokio::test]
async fn the_page_is_served_at_its_path_only() {
    let host = setup().start().await;
    let page = refused(&host, &get("/plugsocket/")).await;
    assert_eq!((page.status, page.body.contains("<html")), (200, true));
    let moved = refused(&host, &get("/plugsocket")).await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("/plugsocket/")));
    assert_eq!(refused(&host, &get("/plugsocket/nothing")).await.status, 404);
    assert_eq!(refused(&host, &get("/web")).await.status, 400);
    let root = refused(&host, &get("/")).await;
    assert_eq!((root.status, root.header("location")), (302, Some("/plugsocket/")));
}

#[tokio::test]
async fn options_and_other_methods_get_the_allowed_ones() {
    let host = setup().start().await;
    let own = "GET, HEAD, OPTIONS";
    let resource = "GET, POST, OPTIONS";
    for (version, fields) in [("1.0", ""), ("1.1", "Host: localhost\r\n")] {
        for (target, allowed) in [
            ("/", own),
            ("*", own),
            ("/plugsocket", own),
            ("/plugsocket/", own),
            ("/plugsocket/nothing", own),
            ("/favicon.ico", own),
            ("/web", resource),
            ("/none?x", resource),
        ] {
            let request = |method| format!("{method} {target} HTTP/{version}\r\n{fields}\r\n");
            let response = refused(&host, &request("OPTIONS")).await;
            let found = (response.status, response.header("allow"), &*response.body);
            assert_eq!(found, (200, Some(allowed), ""), "{target} in {version}");
            if target != "*" {
                for method in ["PUT", "TRACE", "CONNECT", "BREW", "options"] {
                    let response = refused(&host, &request(method)).await;
                    let found = (response.status, response.header("allow"));
                    assert_eq!(found, (405, Some(allowed)), "{method} {target} in {version}");
                }
            }
        }
    }
    // A resource at this path accepts POST.
    let host = setup().resource("/", "feedback").start().await;
    let response = refused(&host, "OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.status, response.header("allow")), (200, Some(resource)));
}

#[tokio::test]
async fn the_client_is_served_without_the_page() {
    let host = setup().server("page", "false").start().await;
    let client = refused(&host, &get("/plugsocket/plugsocket.js")).await;
    assert_eq!((client.status, client.body.contains("class Plugsocket")), (200, true));
    assert_eq!(client.header("access-control-allow-origin"), Some("*"));
    for path in ["/plugsocket", "/plugsocket/", "/plugsocket/page.js", "/"] {
        let response = refused(&host, &get(path)).await;
        let says_why = response.body.contains("page = false");
        assert_eq!((response.status, says_why), (404, true), "{path}: {response:?}");
    }
    // A WebSocket handshake is none of this.
    let upgrade = RawClient::handshake("/plugsocket/plugsocket.js");
    let mut client = host.raw().await;
    client.write(upgrade).await;
    client.expect_switching().await;
}

#[tokio::test]
async fn a_path_that_a_browser_tries_by_itself_is_answered_without_a_log_line() {
    let host = setup().start().await;
    let position = host.log_position();
    assert_eq!(refused(&host, &get("/favicon.ico")).await.status, 404);
    assert_eq!(refused(&host, &get("/")).await.status, 302);
    // The next line is that of a path that only WebSockets reach.
    assert_eq!(refused(&host, &get("/web")).await.status, 400);
    let line = host.wait_for_log_since(position, "any line", |_| true).await;
    assert_eq!(line.message(), "request refused");
    // A resource has its path for itself.
    let setup = setup().resource("/", "feedback").resource("/favicon.ico", "feedback");
    let host = setup.start().await;
    for (path, what) in [
        ("/", "this is plugsocket, a WebSocket host: connect to / with a WebSocket, or open"),
        ("/favicon.ico", "this is a WebSocket server"),
    ] {
        let response = refused(&host, &get(path)).await;
        let says_what = response.body.contains(what);
        assert_eq!((response.status, says_what), (400, true), "{path}: {response:?}");
        host.connect(path).await;
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}
