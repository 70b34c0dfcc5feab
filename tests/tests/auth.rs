//! Who is let in before the application is asked, and what it is told of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use plugsocket_tests::{
    Client, Line, LineClient, RawClient, Request, Response, Setup, TestHost, within,
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const HS256: &str = r#"[{ algorithm = "HS256", file = "secret.key" }]"#;
const FROM: &str = r#"["header", "query:token", "cookie:session", "subprotocol"]"#;

/// `/private` with a dialog and `/plain` without one, both behind tokens; `/open` behind nothing.
fn with_tokens() -> Setup {
    let setup = Setup::new(PROGRAM).resource("/open", "speaker").put("secret.key", SECRET);
    let setup = setup.resource("/private", "speaker").plain("/plain", "speaker");
    let guard = |setup: Setup, path| setup.auth(path, "keys", HS256).auth(path, "from", FROM);
    guard(guard(setup, "/private"), "/plain")
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn signed(claims: &Value, secret: &str) -> String {
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn token_of(user: &str) -> String {
    signed(&json!({"sub": user, "exp": now() + 600, "role": "editor"}), SECRET)
}

fn request(target: &str, token: &str) -> Request {
    Request::to(target).header("Authorization", &format!("Bearer {token}"))
}

async fn who(client: &mut Client) -> Value {
    client.ask(&json!({"do": "whoami"})).await["user"].clone()
}

/// A handshake that must be refused.
async fn refused(host: &TestHost, target: &str, fields: &str) -> Response {
    let mut client = host.raw().await;
    client
        .write(RawClient::handshake(target).replace("\r\n\r\n", &format!("\r\n{fields}\r\n")))
        .await;
    client.last_response().await
}

#[tokio::test]
async fn a_token_is_taken_from_where_it_may_be_and_its_user_reaches_the_application() {
    let host = with_tokens().start().await;
    let token = token_of("ann");
    for request in [
        request("/private", &token),
        Request::to(&format!("/private?x=1&token={token}")),
        Request::to("/private").header("Cookie", &format!("a=b; session={token}")),
    ] {
        let mut client = host.open(request).await.ready().await;
        let me = client.ask(&json!({"do": "whoami"})).await;
        let claims: Value = serde_json::from_str(me["claims"].as_str().unwrap()).unwrap();
        assert_eq!((&me["user"], &claims["role"]), (&json!("ann"), &json!("editor")), "{me}");
    }
    // Others of the same resource are told apart, and nothing is said where nothing is asked.
    let mut bob = host.open(request("/private", &token_of("bob"))).await.ready().await;
    assert_eq!(who(&mut bob).await, "bob");
    let mut open = host.open(request("/open", &token)).await.ready().await;
    let me = open.ask(&json!({"do": "whoami"})).await;
    assert_eq!((&me["user"], &me["claims"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn a_token_in_the_subprotocols_is_answered_by_one_that_is_not_the_token() {
    let setup = with_tokens().key("/private", "subprotocols", r#"["v2"]"#);
    let host = setup.start().await;
    let token = token_of("ann");
    for (offer, chosen) in [
        (format!("bearer, {token}"), "bearer"),
        (format!("v1, bearer, {token}"), "bearer"),
        (format!("bearer, {token}, v2"), "v2"),
    ] {
        let request = Request::to("/private").header("Sec-WebSocket-Protocol", &offer);
        let mut client = host.open(request).await.ready().await;
        assert_eq!(client.protocol(), Some(chosen));
        assert_eq!(who(&mut client).await, "ann");
    }
    // A browser that is refused can read why: its handshake needs the subprotocol too.
    let bad = Request::to("/private").header("Sec-WebSocket-Protocol", "bearer, a.b.c");
    let mut client = host.open(bad.header("Origin", "https://example.org")).await;
    assert_eq!(client.protocol(), Some("bearer"));
    assert_eq!(client.expect_close_packet(1008).await["error"], "the token cannot be read");
}

#[tokio::test]
async fn who_shows_nothing_valid_is_told_why_and_never_reaches_the_application() {
    let host = with_tokens().start().await;
    let good = json!({"sub": "ann", "exp": now() + 600});
    let none = format!("{}.{}.", part(&json!({"alg": "none"})), part(&good));
    let expired = signed(&json!({"sub": "ann", "exp": now() - 60}), SECRET);
    let early = signed(&json!({"sub": "ann", "exp": now() + 600, "nbf": now() + 300}), SECRET);
    let deep = format!("{{\"sub\":\"ann\",\"exp\":9e9,\"x\":{}", "[".repeat(3000));
    let bomb = format!("{}.{}.AAAA", part(&json!({"alg": "HS256"})), URL_SAFE_NO_PAD.encode(deep));
    let long = signed(&json!({"sub": "x".repeat(2000), "exp": now() + 600}), SECRET);
    let huge = format!(r#"{{"sub":12345678901234567890123,"exp":{}}}"#, now() + 600);
    let huge = signed(&serde_json::from_str(&huge).unwrap(), SECRET);
    for (token, reason) in [
        (long, "the token's user is too long or has control characters"),
        (huge, "the token names no user"),
        (signed(&good, "another secret of thirty-two bytes"), "the token's signature is not valid"),
        (none, "the token is signed in a way that is not accepted"),
        (expired, "the token has expired"),
        (early, "the token is not valid yet"),
        (bomb, "the token's signature is not valid"),
        ("x".repeat(9000), "the token is too long"),
        ("x".to_owned(), "the token cannot be read"),
    ] {
        for target in ["/private", "/plain"] {
            let fields = format!("Authorization: Bearer {token}\r\n");
            let answer = refused(&host, target, &fields).await;
            assert_eq!((answer.status, answer.body.trim_end()), (401, reason));
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, Some("Bearer error=\"invalid_token\""));
        }
        let request = request("/private", &token).header("Origin", "https://example.org");
        let mut browser = host.open(request).await;
        assert_eq!(browser.expect_close_packet(1008).await["error"], reason);
    }
    let answer = refused(&host, "/private", "").await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
    // A browser reads an HTTP answer where there is no dialog, or it would be told in a language that it does not speak.
    assert_eq!(refused(&host, "/plain", "Origin: https://example.org\r\n").await.status, 401);
    let mut ann = host.open(request("/private", &token_of("ann"))).await.ready().await;
    let calls = ann.ask(&json!({"do": "log-of-calls"})).await;
    assert_eq!(calls.as_array().unwrap().iter().filter(|call| call["call"] == "open").count(), 1);
}

#[tokio::test]
async fn backends_are_exempt_unless_they_are_not() {
    let mut host = with_tokens().start().await;
    let post = |token: &str| {
        let body = r#"{"do":"whoami"}"#;
        format!(
            "POST /private HTTP/1.1\r\nHost: h\r\n{token}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut script = host.connect_backend("/private").await;
    assert_eq!(who(&mut script).await, Value::Null);
    host.connect_lines("/private").await;
    let mut raw = host.raw().await;
    raw.write(post("")).await;
    assert_eq!(raw.last_response().await.status, 200);

    host.apply(host.setup().auth("/private", "backends", "\"required\"")).await;
    // Who is there stays.
    assert_eq!(who(&mut script).await, Value::Null);
    let answer = refused(&host, "/private", "Client-Type: backend\r\n").await;
    assert_eq!(answer.status, 401);
    let mut raw = host.raw().await;
    raw.write(post("")).await;
    let answer = raw.last_response().await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(answer.packets(), [json!({"opcode": "close", "error": "no token"})]);
    let mut lines = LineClient::open(host.address(), "backend\nGET /private HTTP/1.1\n\n").await;
    assert_eq!(lines.receive_json().await["error"], "no token");

    let token = token_of("cron");
    let mut raw = host.raw().await;
    raw.write(post(&format!("Authorization: Bearer {token}\r\n"))).await;
    let answer = raw.last_response().await;
    assert_eq!(answer.packets()[0]["result"]["user"], "cron");
    host.connect_lines(&format!("/private?token={token}")).await;
}

#[tokio::test]
async fn a_key_that_changes_is_taken_and_one_that_is_broken_is_not() {
    let host = with_tokens().start().await;
    let path = host.folder().join("secret.key");
    let second = "another secret of thirty-two bytes";
    let of = |secret: &str| signed(&json!({"sub": "ann", "exp": now() + 600}), secret);
    let position = host.log_position();
    std::fs::write(&path, second).unwrap();
    let taken = |line: &Line| {
        line.says("the keys for tokens were read again") && line.field("resource") == "/plain"
    };
    let refused_keys =
        |line: &Line| line.says("keys for tokens refused") && line.field("resource") == "/plain";
    host.wait_for_log_since(position, "the new key", taken).await;
    host.open(request("/plain", &of(second))).await;
    assert_eq!(
        refused(&host, "/plain", &format!("Authorization: Bearer {}\r\n", of(SECRET))).await.status,
        401
    );
    for (content, reason) in [("short", "the secret has 5 bytes"), ("", "the secret has 0 bytes")] {
        let position = host.log_position();
        std::fs::write(&path, content).unwrap();
        let line = host.wait_for_log_since(position, "an error", refused_keys).await;
        assert!(line.field("reason").contains(reason), "{line}");
        assert!(line.field("reason").contains("secret.key"), "{line}");
        host.open(request("/plain", &of(second))).await;
    }
    let position = host.log_position();
    std::fs::remove_file(&path).unwrap();
    let line = host.wait_for_log_since(position, "an error", refused_keys).await;
    assert!(line.field("reason").contains("secret.key cannot be read"), "{line}");
    host.open(request("/plain", &of(second))).await;
    let position = host.log_position();
    std::fs::write(&path, SECRET).unwrap();
    host.wait_for_log_since(position, "the first key", taken).await;
    host.open(request("/plain", &of(SECRET))).await;
}

/// A host that may read no more than the mode of a file says, whoever runs it.
fn held_to_modes(setup: Setup) -> Setup {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let without = "--bounding-set=-dac_override,-dac_read_search";
    if is_root { setup.launcher(&["setpriv", without]) } else { setup }
}

#[tokio::test]
async fn a_key_that_may_not_be_read_is_taken_once_it_may() {
    let host = held_to_modes(with_tokens()).start().await;
    let path = host.folder().join("secret.key");
    let second = "another secret of thirty-two bytes";
    let position = host.log_position();
    let next = host.folder().join("next");
    std::fs::write(&next, second).unwrap();
    std::fs::set_permissions(&next, Permissions::from_mode(0o000)).unwrap();
    std::fs::rename(&next, &path).unwrap();
    let is_plain = |line: &Line| line.field("resource") == "/plain";
    let refused_keys = |line: &Line| line.says("keys for tokens refused") && is_plain(line);
    let line = host.wait_for_log_since(position, "an error", refused_keys).await;
    assert!(line.field("reason").contains("Permission denied"), "{line}");
    // Nothing of the file changes but who may read it.
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let taken = |line: &Line| line.says("the keys for tokens were read again") && is_plain(line);
    host.wait_for_log_since(position, "the new key", taken).await;
    let signed = signed(&json!({"sub": "ann", "exp": now() + 600}), second);
    host.open(request("/plain", &signed)).await;
    let told = host.log().into_iter().filter(refused_keys).count();
    assert_eq!(told, 1, "told once, however often it was tried");
}

#[tokio::test]
async fn a_set_of_keys_may_have_one_that_is_of_no_use_and_shows_none() {
    let k = URL_SAFE_NO_PAD.encode(SECRET);
    let set = json!({"keys": [{"kty": "oct", "k": k}, {"kty": "oct", "k": ["s3cr3t"]}]});
    let setup = Setup::new(PROGRAM).plain("/plain", "speaker").put("keys.json", set.to_string());
    let host = setup.auth("/plain", "keys", r#"[{ jwks = "keys.json" }]"#).start().await;
    let skips = |line: &Line| line.says("keys of a set cannot be used and are skipped");
    let line = host.wait_for_log("what is skipped", skips).await;
    assert_eq!((line.level(), line.field("skipped")), ("WARN", "1".to_owned()), "{line}");
    assert!(line.field("first").starts_with("key 2: a member of it is missing"), "{line}");
    host.open(request("/plain", &token_of("ann"))).await;
    for broken in [&*format!(r#"{{"keys":"{k}"}}"#), r#"{"keys":[{"kty":"oct","k":s3cr3t}]}"#] {
        let position = host.log_position();
        std::fs::write(host.folder().join("keys.json"), broken).unwrap();
        let line = host.wait_for_error(position, "it is no JSON Web Key Set").await;
        assert!(!line.text().contains("s3cr3t") && !line.text().contains(&k), "{line}");
        host.open(request("/plain", &token_of("ann"))).await;
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used_keep_a_configuration_from_being_applied() {
    let outcome = with_tokens().put("secret.key", "short").run(&["check"]).await;
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.complained.contains("secret.key cannot be used: the secret has 5 bytes"),
        "{outcome:?}"
    );
    let mut host = Setup::new(PROGRAM).resource("/open", "speaker").start().await;
    let mut client = host.connect("/open").await;
    let good = host.setup();
    let position = host.log_position();
    host.write_config(&good.clone().auth("/open", "keys", HS256).toml());
    host.wait_for_error(position, "configuration not applied").await;
    // Nothing has changed: neither for who is there nor for who comes.
    assert_eq!(who(&mut client).await, Value::Null);
    host.connect("/open").await;
    // With its key it is applied, and for new connections only; and taken back.
    std::fs::write(host.folder().join("secret.key"), SECRET).unwrap();
    let line = host.apply(good.clone().auth("/open", "keys", HS256)).await;
    assert!(line.field("guarded").contains("/open"), "{line}");
    assert_eq!(refused(&host, "/open", "").await.status, 401);
    assert_eq!(who(&mut client).await, Value::Null);
    host.open(request("/open", &token_of("ann"))).await.ready().await;
    host.apply(good).await;
    host.connect("/open").await;
}

#[tokio::test]
async fn every_key_file_that_is_of_no_use_is_told_with_its_line() {
    let keys = r#"[{ algorithm = "HS256", file = "none.key" }, { algorithm = "HS256", file = "public.pem" },
  { algorithm = "RS256", file = "secret.key" },
  { algorithm = "HS256", file = "plugins" }, { jwks = "secret.key" }]"#;
    let setup = Setup::new(PROGRAM).resource("/open", "speaker").put("secret.key", SECRET);
    let setup = setup.put("public.pem", "-----BEGIN PUBLIC KEY-----\n");
    let bad = setup.clone().auth("/open", "keys", keys).resource("/also", "speaker");
    let bad = bad.auth("/also", "keys", r#"[{ jwks = "none.json" }]"#);
    let toml = bad.toml();
    let line_of = |part: &str| toml.lines().position(|line| line.contains(part)).unwrap() + 1;
    let told = |text: &str| {
        for (part, key, said) in [
            ("none.json", r#""/also".auth.keys[0].jwks"#, "none.json cannot be read: No such file"),
            ("none.key", r#""/open".auth.keys[0].file"#, "none.key cannot be read: No such file"),
            ("public.pem", r#""/open".auth.keys[1].file"#, "public.pem cannot be used: a PEM"),
            ("RS256", r#""/open".auth.keys[2].file"#, "secret.key cannot be used: it holds no"),
            ("jwks = \"secret", r#""/open".auth.keys[3].file"#, "plugins cannot be read: it is no"),
            (
                "jwks = \"secret",
                r#""/open".auth.keys[4].jwks"#,
                "secret.key cannot be used: it is no",
            ),
        ] {
            let place = format!("plugins.toml:{}: resources.{key}: the key file ", line_of(part));
            let line = text.lines().find(|line| line.contains(&place));
            assert!(line.is_some_and(|line| line.contains(said)), "{place}…{said} in {text}");
        }
    };
    for command in ["check", "run"] {
        let outcome = bad.run(&[command]).await;
        assert_eq!(outcome.code, Some(1));
        told(&outcome.complained);
    }
    let host = setup.start().await;
    host.write_config(&toml);
    let (code, said) = host.command(&["reload"]).await;
    assert_eq!(code, 1);
    told(&said);
    let position = host.log_position();
    host.write_config(&toml);
    host.wait_for_error(position, "configuration not applied").await;
    let errors = host.log().into_iter().skip(position).filter(|line| line.level() == "ERROR");
    told(&errors.map(|line| line.message().to_owned() + "\n").collect::<String>());
    host.connect("/open").await;
}

#[tokio::test]
async fn a_public_key_is_enough_and_is_no_secret() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let der =
        [&b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..], pair.public_key().as_ref()];
    let body = STANDARD.encode(der.concat());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
    let keys = r#"[{ algorithm = "EdDSA", file = "public.pem", kid = "a" }]"#;
    let setup = Setup::new(PROGRAM).plain("/x", "speaker").put("public.pem", &pem);
    let setup = setup.auth("/x", "keys", keys).auth("/x", "audience", r#"["chat"]"#);
    let host = setup.auth("/x", "issuer", "\"us\"").start().await;
    let claims = json!({"sub": "ann", "exp": now() + 60, "aud": ["chat"], "iss": "us"});
    let message = format!("{}.{}", part(&json!({"alg": "EdDSA", "kid": "a"})), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()));
    host.open(request("/x", &format!("{message}.{signature}"))).await;
    // What anybody can make who has the public key.
    let forged = format!("Authorization: Bearer {}\r\n", signed(&claims, &pem));
    assert_eq!(refused(&host, "/x", &forged).await.status, 401);
}

#[tokio::test]
async fn a_connection_ends_with_its_token_where_that_is_wanted() {
    let setup = with_tokens().auth("/private", "close_on_expiry", "true");
    let host = setup.auth("/private", "leeway", "0").auth("/plain", "leeway", "0").start().await;
    let token = signed(&json!({"sub": "ann", "exp": now() + 2}), SECRET);
    let mut plain = host.open(request("/plain", &token)).await;
    let mut closed = host.open(request("/private", &token)).await.ready().await;
    assert_eq!(closed.expect_close_packet(1008).await["error"], "token expired");
    // The other one stays.
    plain.send(json!({"do": "whoami"}).to_string()).await;
    assert_eq!(plain.receive_json().await["result"]["user"], "ann");
}

/// Answers requests one after the other, each by what `answer` makes of its head; counts the connections.
struct Endpoint {
    url: String,
    connections: tokio::sync::watch::Receiver<usize>,
    heads: tokio::sync::mpsc::Receiver<String>,
}

async fn endpoint(answer: impl Fn(&str) -> String + Send + Clone + 'static) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("\"http://{}/auth.php?v=1\"", listener.local_addr().unwrap());
    let (count, connections) = tokio::sync::watch::channel(0);
    let (said, heads) = tokio::sync::mpsc::channel(64);
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.send_modify(|count| *count += 1);
            tokio::spawn(serve(stream, answer.clone(), said.clone()));
        }
    });
    Endpoint { url, connections, heads }
}

async fn serve(
    mut stream: TcpStream,
    answer: impl Fn(&str) -> String,
    said: tokio::sync::mpsc::Sender<String>,
) {
    let mut read = Vec::new();
    while matches!(stream.read_buf(&mut read).await, Ok(1..)) {
        if !read.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8(std::mem::take(&mut read)).unwrap();
        let answer = answer(&head);
        let is_heard = said.send(head).await.is_ok();
        // An empty one is an endpoint that says nothing.
        if answer.is_empty() {
            continue;
        }
        stream.write_all(answer.as_bytes()).await.ok();
        if !is_heard || answer.contains("close\r\n") {
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
async fn an_endpoint_sees_the_request_and_names_the_user() {
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
    assert_eq!(*endpoint.connections.borrow(), 1, "the connection is used again");
    // Backends are not asked about.
    host.connect_backend("/private").await;
    assert!(endpoint.heads.try_recv().is_err());
}

#[tokio::test]
async fn what_an_endpoint_answers_decides() {
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
        ("302", 503, "nobody can be authenticated now"),
        ("500", 503, "nobody can be authenticated now"),
        ("json", 503, "nobody can be authenticated now"),
        ("page", 503, "nobody can be authenticated now"),
        ("error", 503, "nobody can be authenticated now"),
        ("two", 503, "nobody can be authenticated now"),
        ("long", 503, "nobody can be authenticated now"),
        ("junk", 503, "nobody can be authenticated now"),
        ("cut", 503, "nobody can be authenticated now"),
        ("silence", 503, "nobody can be authenticated now"),
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
    assert_eq!(who(&mut named).await, "ann");
    let mut nobody = host.connect("/private?nobody").await;
    assert_eq!(who(&mut nobody).await, Value::Null);
    // One line when it begins to fail and one when it is over, whatever happens in between.
    let fails = |line: &&Line| line.says("the endpoint for authentication fails");
    let log = host.log();
    assert_eq!(log.iter().filter(fails).count(), 1, "{log:?}");
    assert!(log.iter().any(|line| line.says("the endpoint for authentication answers again")));
}

#[tokio::test]
async fn an_endpoint_that_is_gone_or_slow_lets_nobody_in_and_stalls_nobody_else() {
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
    assert!(*endpoint.connections.borrow() >= 2, "two at once");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    host.apply(host.setup().auth("/private", "url", &format!("\"http://{free}/\""))).await;
    assert_eq!(refused(&host, "/private", "").await.status, 503);
    // A name that nobody knows; whether the system's resolver says so at once or not at all.
    host.apply(host.setup().auth("/private", "url", "\"http://no.such.name.invalid/\"")).await;
    assert_eq!(refused(&host, "/private", "").await.status, 503);
    host.connect("/open").await;
}

#[tokio::test]
async fn an_endpoint_that_ended_a_kept_connection_is_asked_anew() {
    let mut endpoint = endpoint(|_| answer("200 OK", "", "")).await;
    let host = with_endpoint(&endpoint.url).start().await;
    host.connect("/private").await;
    drop(endpoint.heads.recv().await);
    // From here on it ends each connection behind its answer, and does not say so.
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
    assert_eq!(who(&mut client).await, "ann");
}

const LOGIN: &str = "<?php session_start(); $_SESSION['user'] = $_GET['user'];";
/// Its warnings are sent before its status, as PHP's own defaults have it.
const CARELESS: &str = r#"<?php
session_start();
if (!isset($_SESSION['user'])) { http_response_code(401); exit(json_encode(['error' => 'log in first'])); }
echo json_encode(['user' => $_SESSION['user']]);
"#;

/// The script that the manual gives.
fn documented() -> &'static str {
    let (_, behind) = include_str!("../../docs/operating.md").split_once("```php\n").unwrap();
    behind.split_once("```").unwrap().0
}

/// PHP's own server without any `php.ini`, for the files of a folder.
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

/// What it answers, once it listens.
async fn fetch(port: u16, target: &str) -> String {
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let get = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said
}

#[tokio::test]
async fn the_session_of_a_php_site_decides() {
    let found = std::process::Command::new("php").arg("-v").output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no php");
        return;
    }
    let (well, ill) = (free_port().await, free_port().await);
    let mut setup = Setup::new(PROGRAM).put("login.php", LOGIN).put("auth.php", documented());
    setup = setup.put("careless.php", CARELESS);
    for (path, port, script) in [
        ("/private", well, "auth"),
        ("/careless", well, "careless"),
        ("/ill", ill, "auth"),
        ("/ill-and-careless", ill, "careless"),
    ] {
        let url = format!("\"http://127.0.0.1:{port}/{script}.php\"");
        setup = setup.resource(path, "speaker").auth(path, "url", &url);
    }
    let host = setup.start().await;
    let folder = host.folder().to_owned();
    let _well = php(well, &folder, &folder);
    let _ill = php(ill, &folder, &folder.join("none"));
    let said = within("php to answer", fetch(well, "/login.php?user=ann")).await;
    within("the other php to answer", fetch(ill, "/login.php?user=ann")).await;
    let cookie = said.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).unwrap();
    let cookie = cookie.split(';').next().unwrap();
    for path in ["/private", "/careless"] {
        let request = Request::to(path).header("Cookie", cookie);
        let mut client = host.open(request).await.ready().await;
        assert_eq!(who(&mut client).await, "ann");
    }
    // The second is no name of a session; on the ill one no session can be read.
    for (path, cookie, status, reason) in [
        ("/private", "PHPSESSID=nobody", 401, "log in first"),
        ("/private", "PHPSESSID=.", 401, "log in first"),
        ("/careless", "PHPSESSID=nobody", 401, "log in first"),
        ("/careless", "PHPSESSID=.", 503, "nobody can be authenticated now"),
        ("/ill", cookie, 401, "log in first"),
        ("/ill-and-careless", cookie, 503, "nobody can be authenticated now"),
    ] {
        let answer = refused(&host, path, &format!("Cookie: {cookie}\r\n")).await;
        let found = (answer.status, answer.body.trim_end());
        assert_eq!(found, (status, reason), "{path} {cookie}");
    }
}
