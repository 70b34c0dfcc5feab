//! Authentication by an HTTP endpoint, such as the session of a PHP site.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use plugsocket_tests::{Line, RawClient, Request, Setup, skip, within};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::{PROGRAM, refused, user_of};

/// An HTTP endpoint that answers each request by its head and counts connections.
struct Endpoint {
    url: String,
    connections: tokio::sync::watch::Receiver<usize>,
    heads: tokio::sync::mpsc::Receiver<String>,
}

async fn endpoint(answer: impl Fn(&str) -> String + Send + Clone + 'static) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("\"http://{}/auth.php?v=1\"", listener.local_addr().unwrap());
    let (count, connections) = tokio::sync::watch::channel(0);
    let (recorder, heads) = tokio::sync::mpsc::channel(64);
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.send_modify(|count| *count += 1);
            tokio::spawn(serve(stream, answer.clone(), recorder.clone()));
        }
    });
    Endpoint { url, connections, heads }
}

async fn serve(
    mut stream: TcpStream,
    answer: impl Fn(&str) -> String,
    recorder: tokio::sync::mpsc::Sender<String>,
) {
    let mut read = Vec::new();
    while matches!(stream.read_buf(&mut read).await, Ok(1..)) {
        if !read.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8(std::mem::take(&mut read)).unwrap();
        let answer = answer(&head);
        let is_recorded = recorder.send(head).await.is_ok();
        // An empty answer simulates an endpoint that does not answer.
        if answer.is_empty() {
            continue;
        }
        stream.write_all(answer.as_bytes()).await.ok();
        if !is_recorded || answer.contains("close\r\n") {
            return;
        }
    }
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn with_endpoint(url: &str) -> Setup {
    Setup::new(PROGRAM).resource("/private", "speaker").auth("/private", "url", url)
}

#[tokio::test]
async fn an_endpoint_receives_the_request_and_returns_the_user() {
    let mut endpoint = endpoint(|head| {
        let user = head.lines().find_map(|line| line.strip_prefix("cookie: user=")).unwrap_or("");
        let body = json!({"user": user, "claims": {"rights": ["read"]}}).to_string();
        answer("200 OK", "Content-Type: application/json\r\n", &body)
    })
    .await;
    let setup = with_endpoint(&endpoint.url).server("trusted_proxies", r#"["127.0.0.1"]"#);
    let host = setup.start().await;
    for user in ["ann", "bob"] {
        let request = Request::to("/private?room=1").header("Cookie", &format!("user={user}"));
        let request = request.header("X-Forwarded-For", "192.0.2.7").header("X-User", "root");
        let request = request.header("Accept-Language", "de").header("Proxy-Authorization", "x");
        let mut client = host.open(request).await.ready().await;
        let me = client.ask(&json!({"do": "whoami"})).await;
        assert_eq!((&me["user"], &me["claims"]), (&json!(user), &json!(r#"{"rights":["read"]}"#)));
        let head = endpoint.heads.recv().await.unwrap();
        assert!(head.starts_with("GET /auth.php?v=1 HTTP/1.1\r\n"), "{head}");
        for line in
            ["x-original-uri: /private?room=1", "x-forwarded-for: 192.0.2.7", "accept-language: de"]
        {
            assert!(head.lines().any(|found| found == line), "{line} in {head}");
        }
        for absent in ["upgrade", "connection", "proxy-authorization", "sec-websocket", "x-user"] {
            assert!(!head.contains(absent), "{absent} in {head}");
        }
    }
    assert_eq!(*endpoint.connections.borrow(), 1, "the connection is reused");
    // The endpoint is not called for backends.
    host.connect_backend("/private").await;
    assert!(endpoint.heads.try_recv().is_err());
}

#[tokio::test]
async fn the_response_of_an_endpoint_decides() {
    let endpoint = endpoint(|head| {
        let path = head.lines().find_map(|line| line.strip_prefix("x-original-uri: ")).unwrap();
        match path.split_once('?').unwrap().1 {
            "401" => answer("401 Unauthorized", "", ""),
            "403" => answer("403 Forbidden", "", r#"{"error":"banned until May"}"#),
            "302" => answer("302 Found", "Location: /login\r\n", ""),
            "500" => answer("500 Oops", "", r#"{"user":"root"}"#),
            "json" => answer("200 OK", "Content-Type: application/json\r\n", "{"),
            "page" => answer("200 OK", "Content-Type: text/html\r\n", "<b>Warning</b>: no session"),
            "error" => answer("200 OK", "", r#"{"error":"log in first"}"#),
            "two" => answer("200 OK", "X-User: ann\r\nX-User: root\r\n", ""),
            "long" => answer("200 OK", "", &"x".repeat(70_000)),
            "junk" => "HTTP/9 what\r\n\r\n".to_owned(),
            "cut" => {
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n{}".to_owned()
            }
            "silence" => String::new(),
            "header" => answer("204 No Content", "X-User: ann\r\nConnection: close\r\n", ""),
            _ => answer("200 OK", "", ""),
        }
    })
    .await;
    let host = with_endpoint(&endpoint.url).auth("/private", "timeout", "0.3").start().await;
    for (query, status, reason) in [
        ("401", 401, "not signed in"),
        ("403", 403, "banned until May"),
        ("302", 503, "authentication is unavailable"),
        ("500", 503, "authentication is unavailable"),
        ("json", 503, "authentication is unavailable"),
        ("page", 503, "authentication is unavailable"),
        ("error", 503, "authentication is unavailable"),
        ("two", 503, "authentication is unavailable"),
        ("long", 503, "authentication is unavailable"),
        ("junk", 503, "authentication is unavailable"),
        ("cut", 503, "authentication is unavailable"),
        ("silence", 503, "authentication is unavailable"),
    ] {
        let answer = refused(&host, &format!("/private?{query}"), "").await;
        assert_eq!((answer.status, answer.body.trim_end()), (status, reason), "{query}");
        assert_eq!(answer.header("retry-after").is_some(), status == 503);
        let request = Request::to(&format!("/private?{query}")).header("Origin", "http://x");
        let mut browser = host.open(request).await;
        let code = if status == 503 { 1013 } else { 1008 };
        let packet = browser.expect_close_packet(code).await;
        assert_eq!(
            (&packet["error"], packet["retry_after"].is_u64()),
            (&json!(reason), status == 503)
        );
    }
    let mut named = host.connect("/private?header").await;
    assert_eq!(user_of(&mut named).await, "ann");
    let mut anonymous = host.connect("/private?anonymous").await;
    assert_eq!(user_of(&mut anonymous).await, Value::Null);
    // One log line for the first failure and one for the recovery.
    let is_failure = |line: &&Line| line.starts_with("authentication endpoint failed");
    let log = host.log();
    assert_eq!(log.iter().filter(is_failure).count(), 1, "{log:?}");
    assert!(log.iter().any(|line| line.starts_with("authentication endpoint recovered")));
}

#[tokio::test]
async fn an_unreachable_or_slow_endpoint_refuses_clients_and_delays_no_other_resource() {
    let endpoint = endpoint(|_| String::new()).await;
    let setup = with_endpoint(&endpoint.url).resource("/open", "speaker");
    let setup = setup.auth("/private", "timeout", "0.5").auth("/private", "max_calls", "2");
    let mut host = setup.start().await;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut client = host.raw().await;
        client.write(RawClient::handshake("/private")).await;
        waiting.push(client);
    }
    host.connect("/open").await;
    for mut client in waiting {
        assert_eq!(client.last_response().await.status, 503);
    }
    assert!(*endpoint.connections.borrow() >= 2, "two concurrent requests");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    host.apply(host.setup().auth("/private", "url", &format!("\"http://{free}/\""))).await;
    assert_eq!(refused(&host, "/private", "").await.status, 503);
    // An unknown host name; the resolver may fail at once or time out.
    host.apply(host.setup().auth("/private", "url", "\"http://no.such.name.invalid/\"")).await;
    assert_eq!(refused(&host, "/private", "").await.status, 503);
    host.connect("/open").await;
}

#[tokio::test]
async fn a_closed_keep_alive_connection_to_an_endpoint_is_reopened() {
    let mut endpoint = endpoint(|_| answer("200 OK", "", "")).await;
    let host = with_endpoint(&endpoint.url).start().await;
    host.connect("/private").await;
    drop(endpoint.heads.recv().await);
    // From here on the endpoint closes each connection after its answer, without `Connection:
    // close`.
    endpoint.heads.close();
    for _ in 0..4 {
        host.connect("/private").await;
    }
    assert!(*endpoint.connections.borrow() > 1);
}

#[tokio::test]
async fn an_endpoint_may_listen_on_a_unix_socket() {
    let host = with_endpoint("\"http://unix:app.sock:/auth\"").start().await;
    let listener = UnixListener::bind(host.folder().join("app.sock")).unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut read).await.unwrap();
        }
        stream.write_all(answer("200 OK", "X-User: ann\r\n", "").as_bytes()).await.unwrap();
        String::from_utf8(read).unwrap()
    };
    let (head, mut client) = tokio::join!(serve, host.connect("/private"));
    assert!(head.starts_with("GET /auth HTTP/1.1\r\n"), "{head}");
    assert_eq!(user_of(&mut client).await, "ann");
}

const LOGIN: &str = "<?php session_start(); $_SESSION['user'] = $_GET['user'];";

/// A script that prints warnings before the status, as with PHP's defaults.
const CARELESS: &str = r#"<?php
session_start();
if (!isset($_SESSION['user'])) { http_response_code(401); exit(json_encode(['error' => 'log in first'])); }
echo json_encode(['user' => $_SESSION['user']]);
"#;

/// Returns the script from the guide.
fn documented_script() -> &'static str {
    let guide = include_str!("../../../docs/guides/authentication.md");
    let (_, behind) = guide.split_once("```php\n").unwrap();
    behind.split_once("```").unwrap().0
}

/// Starts PHP's built-in server without `php.ini`.
fn php(port: u16, folder: &Path, sessions: &Path) -> tokio::process::Child {
    tokio::process::Command::new("php")
        .args(["-n", "-d", &format!("session.save_path={}", sessions.display())])
        .args(["-S", &format!("127.0.0.1:{port}"), "-t"])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Sends a GET request once the server listens; returns the response.
async fn fetch(port: u16, target: &str) -> String {
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let get = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn a_php_session_authenticates() {
    let found = std::process::Command::new("php").arg("-v").output();
    if !found.is_ok_and(|output| output.status.success()) {
        skip("a_php_session_authenticates", "php is missing", "apt-get install php-cli");
        return;
    }
    let (working, broken) = (free_port().await, free_port().await);
    let mut setup =
        Setup::new(PROGRAM).put("login.php", LOGIN).put("auth.php", documented_script());
    setup = setup.put("careless.php", CARELESS);
    for (path, port, script) in [
        ("/private", working, "auth"),
        ("/careless", working, "careless"),
        ("/broken", broken, "auth"),
        ("/broken-and-careless", broken, "careless"),
    ] {
        let url = format!("\"http://127.0.0.1:{port}/{script}.php\"");
        setup = setup.resource(path, "speaker").auth(path, "url", &url);
    }
    let host = setup.start().await;
    let folder = host.folder().to_owned();
    let _working = php(working, &folder, &folder);
    let _broken = php(broken, &folder, &folder.join("none"));
    let response = within("php to answer", fetch(working, "/login.php?user=ann")).await;
    within("the other php to answer", fetch(broken, "/login.php?user=ann")).await;
    let cookie = response.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).unwrap();
    let cookie = cookie.split(';').next().unwrap();
    for path in ["/private", "/careless"] {
        let request = Request::to(path).header("Cookie", cookie);
        let mut client = host.open(request).await.ready().await;
        assert_eq!(user_of(&mut client).await, "ann");
    }
    // "." is not a valid session ID; the broken server cannot read any session.
    for (path, cookie, status, reason) in [
        ("/private", "PHPSESSID=nobody", 401, "log in first"),
        ("/private", "PHPSESSID=.", 401, "log in first"),
        ("/careless", "PHPSESSID=nobody", 401, "log in first"),
        ("/careless", "PHPSESSID=.", 503, "authentication is unavailable"),
        ("/broken", cookie, 401, "log in first"),
        ("/broken-and-careless", cookie, 503, "authentication is unavailable"),
    ] {
        let answer = refused(&host, path, &format!("Cookie: {cookie}\r\n")).await;
        let found = (answer.status, answer.body.trim_end());
        assert_eq!(found, (status, reason), "{path} {cookie}");
    }
}
