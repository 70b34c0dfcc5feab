//! Authentication of clients before the application opens a session, and what the application
//! learns about the user.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

mod endpoint;
mod keys;
mod tokens;

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plugsocket_tests::{Client, RawClient, Request, Response, Setup, TestHost};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const HS256: &str = r#"[{ algorithm = "HS256", file = "secret.key" }]"#;
const FROM: &str = r#"["header", "query:token", "cookie:session", "subprotocol"]"#;

/// `/private` with a dialog and `/plain` without one, both protected by tokens; `/open` is not.
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

async fn user_of(client: &mut Client) -> Value {
    client.ask(&json!({"do": "whoami"})).await["user"].clone()
}

/// Sends a handshake that must be refused; returns the response.
async fn refused(host: &TestHost, target: &str, fields: &str) -> Response {
    let mut client = host.raw().await;
    client
        .write(RawClient::handshake(target).replace("\r\n\r\n", &format!("\r\n{fields}\r\n")))
        .await;
    client.last_response().await
}
