//! JWTs: where they are read from, which are valid, and how a refusal is reported.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plugsocket_tests::{Line, LineClient, Request};
use serde_json::{Value, json};

use crate::{SECRET, now, part, refused, request, signed, token_of, user_of, with_tokens};

#[tokio::test]
async fn a_token_is_read_from_each_configured_place_and_its_user_reaches_the_application() {
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
    // Each client has its own user; a resource without `auth` has none.
    let mut bob = host.open(request("/private", &token_of("bob"))).await.ready().await;
    assert_eq!(user_of(&mut bob).await, "bob");
    let mut open = host.open(request("/open", &token)).await.ready().await;
    let me = open.ask(&json!({"do": "whoami"})).await;
    assert_eq!((&me["user"], &me["claims"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn a_script_on_plain_tcp_sends_its_token_in_the_opening() {
    let setup = with_tokens().auth("/private", "backends", r#""required""#);
    let host = setup.auth("/private", "from", r#"["header"]"#).start().await;
    let open = async |fields: &str| {
        let opening = format!("backend\nGET /private HTTP/1.1\n{fields}\n");
        LineClient::open(host.address(), &opening).await
    };
    for ident in ["", "Ident: printer\n"] {
        let fields = format!("Authorization: Bearer {}\n{ident}", token_of("ann"));
        let mut client = open(&fields).await.ready().await;
        let me = &client.call(&json!({"do": "whoami"})).await.packets[0]["result"];
        let expected = if ident.is_empty() { Value::Null } else { json!("printer") };
        assert_eq!((&me["user"], &me["ident"]), (&json!("ann"), &expected), "{me}");
    }
    let two = format!("Authorization: Bearer {0}\nAuthorization: Bearer {0}\n", token_of("ann"));
    for (fields, error) in [
        ("", "no token"),
        ("Authorization: Basic x\n", "no token"),
        ("Authorization: Bearer a.b.c\n", "the token cannot be read"),
        (&two, "more than one token"),
    ] {
        assert_eq!(open(fields).await.expect_close_packet().await["error"], error, "{fields}");
    }
}

#[tokio::test]
async fn a_token_among_the_subprotocols_is_never_selected_as_the_subprotocol() {
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
        assert_eq!(user_of(&mut client).await, "ann");
    }
    // A refused browser receives the reason, for which its handshake must select a subprotocol.
    let bad = Request::to("/private").header("Sec-WebSocket-Protocol", "bearer, a.b.c");
    let mut client = host.open(bad.header("Origin", "https://example.org")).await;
    assert_eq!(client.protocol(), Some("bearer"));
    assert_eq!(client.expect_close_packet(1008).await["error"], "the token cannot be read");
}

#[tokio::test]
async fn an_invalid_token_is_refused_with_a_reason_and_opens_no_session() {
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
    // Without a dialog even a browser is refused by an HTTP response.
    assert_eq!(refused(&host, "/plain", "Origin: https://example.org\r\n").await.status, 401);
    let mut ann = host.open(request("/private", &token_of("ann"))).await.ready().await;
    let calls = ann.ask(&json!({"do": "log-of-calls"})).await;
    assert_eq!(calls.as_array().unwrap().iter().filter(|call| call["call"] == "open").count(), 1);
}

#[tokio::test]
async fn backends_need_a_token_only_if_required() {
    let mut host = with_tokens().start().await;
    let post = |token: &str| {
        let body = r#"{"do":"whoami"}"#;
        format!(
            "POST /private HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{token}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut script = host.connect_backend("/private").await;
    assert_eq!(user_of(&mut script).await, Value::Null);
    host.connect_lines("/private").await;
    let mut raw = host.raw().await;
    raw.write(post("")).await;
    assert_eq!(raw.last_response().await.status, 200);

    host.apply(host.setup().auth("/private", "backends", "\"required\"")).await;
    // Existing connections stay.
    assert_eq!(user_of(&mut script).await, Value::Null);
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
async fn close_on_expiry_closes_a_connection_when_its_token_expires() {
    let setup = with_tokens().auth("/private", "close_on_expiry", "true");
    let host = setup.auth("/private", "leeway", "0").auth("/plain", "leeway", "0").start().await;
    let token = signed(&json!({"sub": "ann", "exp": now() + 2}), SECRET);
    let mut plain = host.open(request("/plain", &token)).await;
    let mut closed = host.open(request("/private", &token)).await.ready().await;
    assert_eq!(closed.expect_close_packet(1008).await["error"], "token expired");
    // The connection without `close_on_expiry` stays.
    plain.send(json!({"do": "whoami"}).to_string()).await;
    assert_eq!(plain.receive_json().await["result"]["user"], "ann");
}

#[tokio::test]
async fn refused_logins_are_logged_with_their_reason_and_limited() {
    let setup = with_tokens().environment("RUST_LOG", "info");
    let host = setup.start().await;
    for _ in 0..40 {
        assert_eq!(refused(&host, "/plain?token=secret-x", "").await.status, 401);
    }
    // Other resources have a limit of their own.
    assert_eq!(refused(&host, "/private", "").await.status, 401);
    let is_private =
        |line: &Line| line.starts_with("login") && line.field("resource") == "/private";
    let line = host.wait_for_log("the refused login", is_private).await;
    assert_eq!((line.level(), line.message()), ("INFO", "login refused"));
    let fields = ["address", "status", "reason"].map(|name| line.field(name));
    assert_eq!(fields, ["127.0.0.1", "401", "no token"]);
    let lines = host.log();
    let refused = lines.iter().filter(|line| line.message() == "login refused");
    assert_eq!(refused.count(), 11);
    assert!(!lines.iter().any(|line| line.text().contains("secret-x")));
}
