//! TLS: connections over it, certificate renewal, and certificates that are not valid.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

mod connections;
mod renewal;
mod validity;

use std::time::Duration;

use plugsocket_tests::{Address, RawClient, Setup, TestHost};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const POST: &str =
    "POST /web HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";

/// A host that polls its files frequently.
fn setup() -> Setup {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").plain("/echo", "echo");
    setup.reload("rescan", "0.05").reload("quiet", "0.02")
}

/// Returns the TLS address of the host.
fn secure(host: &TestHost) -> &Address {
    &host.addresses()[1]
}

/// Returns the status of the certificate at an index.
async fn certificate(host: &TestHost, at: usize) -> Value {
    let (_, status) = host.command(&["status", "--json"]).await;
    serde_json::from_str::<Value>(&status).unwrap()["certificates"][at].take()
}

/// Returns the reported problem of the first certificate.
async fn problem(host: &TestHost) -> Value {
    certificate(host, 0).await["problem"].take()
}

/// Connects and sends a request.
async fn send(address: &Address, text: &str) -> RawClient {
    let mut client = RawClient::connect(address).await;
    client.write(text).await;
    client
}
