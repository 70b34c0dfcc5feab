//! Plain HTTP requests that an application answers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plugsocket_tests::{RawClient, Response, Setup, TestHost, within};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const HS256: &str = r#"[{ algorithm = "HS256", file = "secret.key" }]"#;

fn setup() -> Setup {
    Setup::new(PROGRAM).resource("/web", "web").resource("/plain", "feedback")
}

/// Sends a request on a connection and returns the response.
async fn ask(client: &mut RawClient, line: &str, headers: &str, body: &str) -> Response {
    let length = match body {
        "" => String::new(),
        body => format!("Content-Length: {}\r\n", body.len()),
    };
    client.write(format!("{line} HTTP/1.1\r\nHost: h\r\n{headers}{length}\r\n{body}")).await;
    client.response().await
}

/// Sends a request on its own connection.
async fn fetch(host: &TestHost, line: &str, headers: &str, body: &str) -> Response {
    ask(&mut host.raw().await, line, headers, body).await
}

async fn get(host: &TestHost, query: &str) -> Response {
    // As a backend, which `max_per_ip` does not count.
    fetch(host, &format!("GET /web?{query}"), "Client-Type: backend\r\n", "").await
}

/// Returns the request as the application describes it.
async fn described(host: &TestHost, line: &str, headers: &str, body: &str) -> Value {
    let response = fetch(host, line, headers, body).await;
    assert_eq!(response.status, 200, "{line}: {response:?}");
    serde_json::from_str(&response.body).unwrap()
}

/// Sends a request without waiting for the answer.
async fn begin(host: &TestHost, query: &str) -> RawClient {
    let mut client = host.raw().await;
    client.write(format!("GET /web?{query} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
    client
}

/// Waits until the application holds a request with this id.
async fn until_held(host: &TestHost, id: &str) {
    within("a held request", async {
        while get(host, &format!("do=is-held&id={id}")).await.status != 200 {}
    })
    .await;
}

/// Waits until the application holds a request with this id, and releases it; returns what its
/// holder learned.
async fn release(host: &TestHost, id: &str) -> String {
    until_held(host, id).await;
    get(host, &format!("do=release&id={id}")).await.body
}

/// Returns the head of a response without a body.
async fn head_of(client: &mut RawClient) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        match client.line().await {
            line if line.is_empty() => return lines,
            line => lines.push(line),
        }
    }
}

#[tokio::test]
async fn every_method_reaches_the_application_with_query_headers_and_body() {
    let host = setup().resource("/app/{key}/*", "web").start().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let headers = "X-One: 1\r\nx-one: 2\r\nCookie: a=\"b\"\r\n";
        let found = described(&host, &format!("{method} /web?a=1&b=%20"), headers, "bödy").await;
        for (key, expected) in [
            ("method", method),
            ("path", "/web"),
            ("resource", "/web"),
            ("query", "a=1&b=%20"),
            ("host", "h"),
            ("body", "bödy"),
            ("address", "127.0.0.1"),
            ("kind", if method == "POST" { "backend" } else { "websocket" }),
        ] {
            assert_eq!(found[key], expected, "{method} {key}");
        }
        let sent = [["host", "h"], ["x-one", "1"], ["x-one", "2"], ["cookie", "a=\"b\""]];
        let sent: Vec<Value> = sent.iter().map(|pair| json!(pair)).collect();
        assert_eq!(found["headers"].as_array().unwrap()[..4], sent);
        assert_eq!((&found["user"], &found["parameters"]), (&Value::Null, &json!({})));
    }
    let found = described(&host, "PUT /app/a%2Fb/c/d%20e", "", "").await;
    assert_eq!(found["parameters"], json!({"key": "a/b", "*": "c/d e"}));
    assert_eq!(found["path"], "/app/a%2Fb/c/d%20e");
}

#[tokio::test]
async fn a_body_is_read_as_that_of_a_post() {
    let host = setup().server("max_message", "1000").server("message_timeout", "0.5").start().await;
    let mut client = host.raw().await;
    let chunked = "PUT /web HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write(format!("{chunked}3\r\nabc\r\n2;x\r\nde\r\n0\r\nX: 1\r\n\r\n")).await;
    let found: Value = serde_json::from_str(&client.response().await.body).unwrap();
    assert_eq!(found["body"], "abcde");
    client
        .write("PUT /web HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await;
    assert_eq!(client.line().await, "HTTP/1.1 100 Continue");
    assert_eq!(client.line().await, "");
    client.write("ok").await;
    assert_eq!(client.response().await.status, 200);
    for (headers, status) in [
        ("Content-Length: 1001\r\n", 413),
        ("Content-Length: x\r\n", 400),
        ("Transfer-Encoding: gzip\r\n", 501),
        ("Content-Length: 9\r\n", 408),
    ] {
        let mut client = host.raw().await;
        client.write(format!("PUT /web HTTP/1.1\r\nHost: h\r\n{headers}\r\n")).await;
        assert_eq!(client.last_response().await.status, status, "{headers}");
    }
    let body = "x".repeat(1000);
    assert_eq!(described(&host, "DELETE /web", "", &body).await["body"], body);
}

#[tokio::test]
async fn a_response_has_the_status_headers_and_body_of_the_application() {
    let host = setup().start().await;
    for status in [200, 201, 299, 404, 418, 500, 599] {
        let response = get(&host, &format!("do=status&status={status}&body=b%0A")).await;
        assert_eq!((response.status, &*response.body), (status, "b\n"));
        assert!(response.header("date").is_some() && response.header("content-type").is_none());
    }
    for status in [0, 101, 199, 600, 999] {
        assert_eq!(get(&host, &format!("do=status&status={status}")).await.status, 500);
    }
    for (status, length) in [(204, None), (304, None), (205, Some("0"))] {
        let mut client = begin(&host, &format!("do=status&status={status}&body=x")).await;
        let head = head_of(&mut client).await;
        assert!(head[0].starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}");
        let found = head.iter().find_map(|line| line.strip_prefix("Content-Length: "));
        assert_eq!(found, length, "{status}");
        assert_eq!(ask(&mut client, "GET /web?do=status&status=202", "", "").await.status, 202);
    }
    let response = get(&host, "do=headers").await;
    let found = |name: &str| -> Vec<&str> {
        let all = response.headers.iter().filter(|(found, _)| found == name);
        all.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(found("x-one"), ["1"]);
    assert_eq!(found("set-cookie"), ["a=1", "b=ü"]);
    assert_eq!(found("content-length"), ["0"]);
    assert_eq!(found("connection"), ["keep-alive"]);
    assert_eq!(found("date").len(), 1);
    for dropped in ["transfer-encoding", "bad name", "x-split", "x-injected"] {
        assert!(found(dropped).is_empty(), "{dropped}");
    }
    let warning = "header of a response dropped";
    host.wait_for_log(warning, |line| line.message() == warning).await;
    get(&host, "do=header&name=X%0AY&value=1").await;
    get(&host, "do=header&name=X&value=a%0D%0Ab").await;
    let warnings = host.log().iter().filter(|line| line.message() == warning).count();
    assert!((1..=2).contains(&warnings), "at most one a minute: {warnings}");
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let host = setup().start().await;
    let mut client = host.raw().await;
    client.write("HEAD /web?do=status&status=200&body=four HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let head = head_of(&mut client).await;
    assert!(head.contains(&"Content-Length: 4".to_owned()), "{head:?}");
    // The connection stays usable, so nothing followed the head.
    assert_eq!(ask(&mut client, "GET /web?do=status&status=202", "", "").await.status, 202);
    client.write("HEAD /web HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(head_of(&mut client).await.contains(&"X-Method: GET".to_owned()));
    client.write("HEAD /web?do=unhandled HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let refused = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(refused.starts_with("HTTP/1.1 405 ") && refused.ends_with("\r\n\r\n"), "{refused}");
}

#[tokio::test]
async fn answers_come_later_from_any_thread_and_once() {
    let host = setup().start().await;
    assert_eq!(get(&host, "do=thread").await.body, "from a thread");
    assert_eq!(get(&host, "do=twice").await.body, "first");
    let mut held = begin(&host, "do=hold&id=1").await;
    assert_eq!(release(&host, "1").await, "Ok(())");
    assert_eq!(held.response().await.body, "released");
    // The lane is free while requests are held.
    let mut held: Vec<RawClient> = Vec::new();
    for id in 0..20 {
        held.push(begin(&host, &format!("do=hold&id={id}")).await);
    }
    for (id, client) in held.iter_mut().enumerate().rev() {
        assert_eq!(release(&host, &id.to_string()).await, "Ok(())");
        assert_eq!(client.response().await.body, "released");
    }
}

#[tokio::test]
async fn a_failing_application_is_a_500_and_the_connection_stays_open() {
    let host = setup().server("watchdog", "{ max_panics = 100 }").start().await;
    let mut client = host.raw().await;
    for query in ["panic", "drop", "forget"] {
        let response = ask(&mut client, &format!("GET /web?do={query}"), "", "").await;
        assert_eq!(response.status, 500, "{query}");
    }
    assert_eq!(ask(&mut client, "GET /web?do=thread", "", "").await.status, 200);
}

#[tokio::test]
async fn a_response_is_bounded() {
    let host = setup().server("max_message", "1000").start().await;
    let most = (4 << 20) + 1000;
    let response = get(&host, &format!("do=big&bytes={most}")).await;
    assert_eq!((response.status, response.body.len()), (200, most));
    for query in [format!("do=big&bytes={}", most + 1), format!("do=big&body=header&bytes={most}")]
    {
        assert_eq!(get(&host, &query).await.status, 500, "{query}");
    }
}

#[tokio::test]
async fn a_request_without_an_answer_is_a_503_after_callback_limit() {
    let watchdog = "{ callback_warn = 0.2, callback_limit = 0.4, restart_pause = 0.2 }";
    let host = setup().server("watchdog", watchdog).start().await;
    let mut held = begin(&host, "do=hold&id=1").await;
    let response = held.last_response().await;
    assert_eq!((response.status, response.header("retry-after")), (503, Some("5")));
    // A late answer has no receiver.
    assert_eq!(release(&host, "1").await, "Err(Gone)");
    // A callback that hangs ends the lane, and all that wait for it.
    let mut waiting = begin(&host, "do=hold&id=2").await;
    until_held(&host, "2").await;
    let mut hanging = begin(&host, "do=hang").await;
    for client in [&mut waiting, &mut hanging] {
        let response = client.last_response().await;
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.header("retry-after").is_some());
    }
    let stuck = "callback stuck";
    let line = host.wait_for_log(stuck, |line| line.message() == stuck).await;
    assert_eq!(line.field("callback"), "request");
    within("the new instance", async { while get(&host, "do=thread").await.status != 200 {} })
        .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let host = setup().start().await;
    let mut client = host.raw().await;
    let mut requests = String::new();
    for n in 0..50 {
        let query = ["do=thread", "do=status&status=200", "do=drop", "n=1"][n % 4];
        requests +=
            &format!("POST /web?{query} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
    }
    client.write(requests).await;
    for n in 0..50 {
        let response = client.response().await;
        assert_eq!(response.status, if n % 4 == 2 { 500 } else { 200 }, "{n}");
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
    client.write("GET /web?do=thread HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.last_response().await.body, "from a thread");
    let mut client = host.raw().await;
    client.write("GET /web?do=thread HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.last_response().await.status, 200);
    // A flood of requests behind one that waits is not read without bound, and all are answered.
    let mut client = host.raw().await;
    client.write("GET /web?do=hold&id=1 HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let one = format!(
        "GET /web?do=status&status=204 HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "x".repeat(999)
    );
    client.write(one.repeat(60)).await;
    assert_eq!(release(&host, "1").await, "Ok(())");
    assert_eq!(client.response().await.body, "released");
    for _ in 0..60 {
        assert!(head_of(&mut client).await[0].starts_with("HTTP/1.1 204 "));
    }
}

#[tokio::test]
async fn a_websocket_and_plain_tcp_connect_to_the_same_resource() {
    let host = setup().start().await;
    let mut browser = host.connect("/web?do=panic").await;
    assert_eq!(browser.ask(&json!({"do": "x"})).await["kind"], "websocket");
    let mut client = host.raw().await;
    assert_eq!(ask(&mut client, "GET /web?do=thread", "", "").await.status, 200);
    // Also as a later request of a connection.
    client.write(RawClient::handshake("/web")).await;
    assert_eq!(client.line().await, "HTTP/1.1 101 Switching Protocols");
    let mut lines = host.connect_lines("/web").await;
    lines.send("{}").await;
    assert_eq!(lines.receive_json().await["result"]["kind"], "tcp");
    // Not a valid handshake, and not a request for the application.
    let upgrade = "Upgrade: websocket\r\n";
    assert_eq!(fetch(&host, "GET /web", upgrade, "").await.status, 400);
    // A question about the host.
    let response = fetch(&host, "OPTIONS *", "", "").await;
    assert_eq!((response.status, response.header("allow").is_some()), (200, true));
}

#[tokio::test]
async fn unhandled_requests_are_answered_as_without_the_application() {
    let host = setup().server("page", "false").start().await;
    let mut client = host.raw().await;
    let post = |path: &str| format!("POST {path}?do=unhandled");
    let response = ask(&mut client, &post("/web"), "", r#"{"do":"x"}"#).await;
    let packets = response.packets();
    assert_eq!((response.status, &packets[0]["result"]["kind"]), (200, &json!("backend")));
    assert_eq!(packets[1]["opcode"], "next");
    // The connection was kept.
    let response = ask(&mut client, &post("/web"), "", r#"{"do":"y"}"#).await;
    assert_eq!(response.packets()[0]["do"], "y");
    for (line, headers, body) in [
        ("GET", "", ""),
        ("OPTIONS", "", ""),
        ("DELETE", "", ""),
        ("POST", "", ""),
        ("POST", "", "\u{ff}"),
        ("POST", "Origin: http://x\r\n", "{}"),
        ("GET", "Sec-WebSocket-Version: 13\r\nConnection: Upgrade\r\n", ""),
    ] {
        let web = fetch(&host, &format!("{line} /web?do=unhandled"), headers, body).await;
        let plain = fetch(&host, &format!("{line} /plain?do=unhandled"), headers, body).await;
        if (line, headers, body.is_empty()) == ("POST", "", false) {
            continue;
        }
        assert_eq!((web.status, &web.body), (plain.status, &plain.body), "{line} {headers}");
        let allow = |response: &Response| response.header("allow").map(str::to_owned);
        assert_eq!(allow(&web), allow(&plain), "{line}");
    }
    let mut client = host.raw().await;
    client
        .write(b"POST /web?do=unhandled HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n\xff")
        .await;
    assert_eq!(client.last_response().await.status, 400);
}

#[tokio::test]
async fn only_scripts_of_the_operator_are_backends() {
    let host = setup().start().await;
    for (line, headers, kind) in [
        ("GET /web", "", "websocket"),
        ("GET /web", "Client-Type: backend\r\n", "backend"),
        ("GET /web", "Origin: http://localhost\r\n", "websocket"),
        ("GET /web", "Sec-Fetch-Site: cross-site\r\n", "websocket"),
        ("GET /web", "X-Forwarded-For: 127.0.0.1\r\n", "websocket"),
        ("DELETE /web", "Via: 1.1 proxy\r\n", "websocket"),
        ("GET /web", "Client-Type: backend\r\nForwarded: for=1.1.1.1\r\n", "websocket"),
        ("POST /web", "", "backend"),
        ("POST /web", "Origin: null\r\n", "websocket"),
    ] {
        assert_eq!(described(&host, line, headers, "").await["kind"], kind, "{line} {headers}");
    }
    let host = setup().server("allowed_ips", "[]").start().await;
    assert_eq!(described(&host, "GET /web", "", "").await["kind"], "websocket");
    // A message needs a backend.
    assert_eq!(fetch(&host, "POST /web?do=unhandled", "", "{}").await.status, 403);
}

#[tokio::test]
async fn an_origin_that_is_not_allowed_is_refused() {
    let host = setup().server("allowed_origins", r#"["https://good.example"]"#).start().await;
    for (headers, status) in [
        ("", 200),
        ("Origin: https://good.example\r\n", 200),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: \u{ff}\r\n", 403),
        ("Origin: https://good.example\r\nOrigin: https://good.example\r\n", 400),
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let response = fetch(&host, &format!("{method} /web"), headers, "").await;
            assert_eq!(response.status, status, "{method} {headers}: {response:?}");
        }
    }
}

fn token() -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"sub": "ann", "exp": u32::MAX, "role": "editor"});
    let signed = [part(json!({"alg": "HS256"})), part(claims)].join(".");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

#[tokio::test]
async fn authentication_precedes_the_application_and_names_the_user() {
    let setup = setup().put("secret.key", SECRET).resource("/app/{key}", "web");
    let setup = setup.auth("/web", "keys", HS256).auth("/app/{key}", "keys", HS256);
    let mut host = setup.auth("/app/{key}", "backends", "\"required\"").start().await;
    let bearer = format!("Authorization: Bearer {}\r\n", token());
    let origin = "Origin: http://x\r\n";
    for path in ["/web", "/app/x", "/app/%78"] {
        for method in ["GET", "POST", "DELETE"] {
            let line = format!("{method} {path}");
            let refused = fetch(&host, &line, origin, "").await;
            assert_eq!(refused.status, 401, "{line}");
            assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
            let found = described(&host, &line, &format!("{origin}{bearer}"), "").await;
            assert_eq!(found["user"], "ann", "{line}");
            assert!(found["claims"].as_str().unwrap().contains("editor"));
        }
    }
    let mut client = host.raw().await;
    client.write("HEAD /app/x HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let refused = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(refused.starts_with("HTTP/1.1 401 ") && refused.ends_with("\r\n\r\n"), "{refused}");
    // Backends are exempt unless they are required to authenticate.
    let backend = "Client-Type: backend\r\n";
    assert_eq!(described(&host, "GET /web", backend, "").await["user"], Value::Null);
    assert_eq!(fetch(&host, "GET /web", "", "").await.status, 401);
    assert_eq!(fetch(&host, "GET /app/x", "", "").await.status, 401);
    assert_eq!(fetch(&host, "GET /web", "Sec-Fetch-Site: none\r\n", "").await.status, 401);
    host.apply(host.setup().auth("/web", "backends", "\"required\"")).await;
    assert_eq!(fetch(&host, "POST /web?do=unhandled", "", "{}").await.status, 401);
    let response = fetch(&host, "POST /web?do=unhandled", &bearer, "{}").await;
    assert_eq!(response.packets()[0]["result"]["user"], "ann");
}

#[tokio::test]
async fn a_client_that_leaves_is_not_waited_for() {
    let host = setup().server("max_per_ip", "2").start().await;
    let origin = "Origin: http://x\r\n";
    let held = |id: u32| format!("GET /web?do=hold&id={id} HTTP/1.1\r\nHost: h\r\n{origin}\r\n");
    let mut first = host.raw().await;
    first.write(held(1)).await;
    let mut second = host.raw().await;
    second.write(held(2)).await;
    until_held(&host, "1").await;
    until_held(&host, "2").await;
    // Each request counts as a connection while it waits.
    assert_eq!(fetch(&host, "GET /web?do=thread", origin, "").await.status, 503);
    drop(first);
    within("the place of the client that left", async {
        while fetch(&host, "GET /web?do=thread", origin, "").await.status != 200 {}
    })
    .await;
    assert_eq!(release(&host, "1").await, "Err(Gone)");
    assert_eq!(release(&host, "2").await, "Ok(())");
    assert_eq!(second.response().await.body, "released");
}

#[tokio::test]
async fn each_request_has_one_answer_across_a_reload() {
    // Otherwise an instance starts in the preflight, too.
    let host = setup().plugin_key("web", "preflight", "\"open\"").start().await;
    let instance = |response: &Response| -> Value {
        serde_json::from_str::<Value>(&response.body).unwrap()["instance"].clone()
    };
    let old = instance(&get(&host, "").await);
    let mut from_retired = begin(&host, "do=retired").await;
    let mut dropped = begin(&host, "do=hold&id=1").await;
    until_held(&host, "1").await;
    // The lane waits in one request; others wait in the inbox, and behind them the swap.
    let file = host.folder().join("go");
    let mut running = begin(&host, &format!("do=wait&file={}", file.display())).await;
    let mut queued: Vec<RawClient> = Vec::new();
    for _ in 0..10 {
        queued.push(begin(&host, "").await);
    }
    let position = host.log_position();
    let reload = host.command(&["plugin", "reload", "web"]);
    let starts = "web starts";
    let go = async {
        host.wait_for_log_since(position, starts, |line| line.message() == starts).await;
        queued.push(begin(&host, "").await);
        host.put("go", "");
    };
    let ((code, output), ()) = tokio::join!(reload, go);
    assert_eq!(code, 0, "{output}");
    assert_eq!(instance(&running.response().await), old);
    for client in &mut queued {
        assert_eq!(client.response().await.status, 200);
    }
    assert_ne!(instance(&get(&host, "").await), old);
    assert_eq!(from_retired.response().await.body, "from a thread");
    assert_eq!(dropped.response().await.status, 500, "its responder was dropped");
}

#[tokio::test]
async fn requests_wait_while_the_resource_changes_its_lane() {
    let mut host = setup().start().await;
    for (id, lane) in ["\"shared\"", "\"thread\"", "\"shared\""].into_iter().enumerate() {
        let mut held = begin(&host, &format!("do=hold&id={id}")).await;
        until_held(&host, &id.to_string()).await;
        host.apply(host.setup().key("/web", "lane", lane)).await;
        for query in ["do=thread", "do=status&status=200", "do=twice", ""] {
            assert_eq!(get(&host, query).await.status, 200, "{lane} {query}");
        }
        assert_eq!(release(&host, &id.to_string()).await, "Ok(())");
        assert_eq!(held.response().await.body, "released");
    }
}

#[tokio::test]
async fn requests_follow_what_the_active_library_declares() {
    let host = setup().start().await;
    let mut client = host.raw().await;
    assert_eq!(ask(&mut client, "GET /web?do=thread", "", "").await.status, 200);
    // A library without the function. Each request is answered by the one or by the host.
    let position = host.log_position();
    host.replace_library("web", "feedback");
    within("the other library", async {
        loop {
            match ask(&mut client, "GET /web?do=thread", "", "").await.status {
                200 => {}
                status => return assert_eq!(status, 400),
            }
        }
    })
    .await;
    host.wait_for_reload(position).await;
    assert_eq!(get(&host, "do=thread").await.status, 400);
    let echo = r#"{"opcode":"echo","message":1}"#;
    assert_eq!(fetch(&host, "POST /web", "", echo).await.packets()[0]["message"], 1);
    host.reload("web", "web").await;
    assert_eq!(get(&host, "do=thread").await.body, "from a thread");
}

#[tokio::test]
async fn waiting_requests_end_with_the_application() {
    let host = setup().start().await;
    let mut held = begin(&host, "do=hold&id=1").await;
    until_held(&host, "1").await;
    let (code, output) = host.command(&["plugin", "disable", "web"]).await;
    assert_eq!(code, 0, "{output}");
    let response = held.last_response().await;
    assert_eq!((response.status, response.header("retry-after")), (503, Some("5")));
    // Later requests learn that the application is disabled.
    let response = get(&host, "").await;
    assert_eq!((response.status, response.header("retry-after")), (503, Some("30")));
    let response = fetch(&host, "POST /web", "", "{}").await;
    assert_eq!((response.status, &response.packets()[0]["opcode"]), (503, &json!("close")));
    let (code, output) = host.command(&["plugin", "enable", "web"]).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(get(&host, "do=thread").await.status, 200);
}

#[tokio::test]
async fn a_host_that_stops_answers_requests_that_wait() {
    let mut host = setup().server("drain", "1").start().await;
    let mut held = begin(&host, "do=hold&id=1").await;
    until_held(&host, "1").await;
    host.signal("TERM");
    let response = held.last_response().await;
    assert_eq!(response.status, 503, "{response:?}");
    assert!(host.exited().await.success());
}

#[tokio::test]
async fn a_resource_without_the_function_is_served_as_before() {
    let host = setup().server("page", "false").start().await;
    for (line, status) in [
        ("GET /plain", 400),
        ("HEAD /plain", 405),
        ("PUT /plain", 405),
        ("OPTIONS /plain", 200),
        ("POST /plain", 411),
        ("GET /none", 400),
        ("GET /", 404),
    ] {
        let mut client = host.raw().await;
        client.write(format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        let response = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {response}");
    }
}

#[tokio::test]
async fn the_page_of_the_host_precedes_a_pattern_for_all_paths() {
    let host = Setup::new(PROGRAM).resource("/*", "web").start().await;
    for (path, is_page) in [
        ("/plugsocket/", true),
        ("/plugsocket/plugsocket.js", true),
        ("/", false),
        ("/favicon.ico", false),
        ("/plugsocketed", false),
    ] {
        let response = fetch(&host, &format!("GET {path}?do=thread"), "", "").await;
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.body == "from a thread", !is_page, "{path}");
    }
    assert_eq!(fetch(&host, "POST /plugsocket/x", "", "{}").await.status, 404);
    tokio::time::timeout(Duration::from_secs(20), host.connect("/any/path")).await.unwrap();
}
