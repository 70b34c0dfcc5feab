//! Probation: a new library that fails shortly after loading is rolled back, keeping state and
//! connections.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Line, Request, Setup, TestHost};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup(library: &str) -> Setup {
    Setup::new(PROGRAM).resource("/app", "app").library("app", library)
}

/// Sends a message; returns the version that counted it, the total and this connection's count.
async fn count(client: &mut Client) -> (String, u64, u64) {
    client.send("x").await;
    let packet = client.until_next().await.packets.remove(0);
    let number = |name: &str| packet[name].as_u64().unwrap();
    (packet["by"].as_str().unwrap().to_owned(), number("total"), number("seq"))
}

fn v1(total: u64, seq: u64) -> (String, u64, u64) {
    ("v1".to_owned(), total, seq)
}

async fn probation_failure(host: &TestHost) -> Line {
    let is_match = |line: &Line| line.starts_with("probation failed");
    host.wait_for_log("the probation to fail", is_match).await
}

#[tokio::test]
async fn a_panic_rolls_back_with_the_state_before_the_swap_if_the_new_state_is_refused() {
    let host = setup("counter_v1").start().await;
    let (mut staying, mut leaving) = (host.connect("/app").await, host.connect("/app").await);
    assert_eq!((count(&mut staying).await, count(&mut leaving).await), (v1(1, 1), v1(2, 1)));
    // The panicker accepts any state, but its snapshot is not valid for the counter.
    host.reload("app", "panicker").await;
    let (mut joining, mut failing) = (host.connect("/app").await, host.connect("/app").await);
    leaving.close().await;
    failing.send("panic").await;
    failing.expect_close_packet(1011).await;
    let line = probation_failure(&host).await;
    let fields = ["plugin", "generation", "reason", "state", "again"].map(|name| line.field(name));
    assert_eq!(fields, ["app", "2", "/app: it panicked", "as before the swap", "1"]);
    assert_eq!(count(&mut staying).await, v1(3, 2));
    assert_eq!(count(&mut joining).await, v1(4, 1));
    // The same file is not loaded again.
    let position = host.log_position();
    host.replace_library("app", "panicker");
    host.wait_for_error(position, "was rolled back").await;
    assert_eq!(count(&mut staying).await, v1(5, 3));
}

#[tokio::test]
async fn too_many_refused_messages_roll_back_with_the_current_state() {
    let host = setup("counter_v1").start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, v1(1, 1));
    host.reload("app", "counter_v2").await;
    for _ in 0..20 {
        count(&mut client).await;
    }
    for _ in 0..6 {
        let mut failing = host.connect("/app").await;
        failing.send_binary(b"x").await;
        failing.expect_close_packet(1003).await;
    }
    let line = probation_failure(&host).await;
    assert!(line.field("reason").starts_with("/app: it refused 6 of 2"), "{line}");
    assert_eq!(line.field("state"), "carried back");
    assert_eq!(count(&mut client).await, v1(22, 22));
}

#[tokio::test]
async fn probation_ends_even_under_constant_control_requests() {
    let host = setup("counter_v1").start().await;
    host.reload("app", "panicker").await;
    let control = host.folder().join(".plugsocket/control");
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let control = control.clone();
        requests.spawn(async move {
            loop {
                let mut stream = tokio::net::UnixStream::connect(&control).await.unwrap();
                stream.write_all(REQUEST).await.unwrap();
                stream.read_to_end(&mut Vec::new()).await.unwrap();
            }
        });
    }
    let mut failing = host.connect("/app").await;
    failing.send("panic").await;
    failing.expect_close_packet(1011).await;
    probation_failure(&host).await;
    assert!(requests.try_join_next().is_none(), "the requests are still being sent");
}

/// A control request without effect.
const REQUEST: &[u8] = b"{\"do\":\"plugin-disable\",\"plugin\":\"nobody\"}\n";

#[tokio::test]
async fn a_library_that_passed_probation_is_not_rolled_back() {
    let host = setup("counter_v1").reload("probation_messages", "5").start().await;
    host.reload("app", "panicker").await;
    let mut client = host.connect("/app").await;
    for _ in 0..5 {
        client.send("fine").await;
        client.until_text("fine").await;
    }
    host.wait_for_log("the probation to pass", |line| line.starts_with("probation passed")).await;
    let mut failing = host.connect("/app").await;
    failing.send("panic").await;
    failing.expect_close_packet(1011).await;
    client.send("still here").await;
    client.until_text("still here").await;
    assert!(host.log().iter().all(|line| !line.starts_with("probation failed")));
}

#[tokio::test]
async fn a_library_that_gets_stuck_on_probation_is_rolled_back() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.4, restart_pause = 600 }";
    let host = setup("speaker").server("watchdog", watchdog).start().await;
    host.reload("app", "blocker").await;
    let mut failing = host.connect("/app").await;
    failing.send("block forever").await;
    failing.expect_close_packet(1013).await;
    assert_eq!(probation_failure(&host).await.field("reason"), "/app: it got stuck");
    let mut client = host.open(Request::to("/app")).await.ready().await;
    assert_eq!(client.ask(&json!({"do": "whoami"})).await["uuid"], client.uuid());
}

#[tokio::test]
async fn without_probation_a_panic_only_closes_its_connection() {
    let host = setup("counter_v1").reload("probation_time", "0").start().await;
    host.reload("app", "panicker").await;
    let (mut client, mut failing) = (host.connect("/app").await, host.connect("/app").await);
    failing.send("panic").await;
    failing.expect_close_packet(1011).await;
    client.send("still the new one").await;
    client.until_text("still the new one").await;
}

/// Expects an echo and its `next`.
trait UntilText {
    async fn until_text(&mut self, text: &str);
}

impl UntilText for Client {
    async fn until_text(&mut self, text: &str) {
        assert_eq!(self.receive_text().await, text);
        self.expect_next().await;
    }
}
