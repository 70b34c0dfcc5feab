//! A new library that does badly in its first moments: undone by itself, with the state and without losing anybody.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Line, Request, Setup, TestHost};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup(library: &str) -> Setup {
    Setup::new(PROGRAM).resource("/app", "app").library("app", library)
}

/// Who counted, the total, and the number of this connection's messages.
async fn count(client: &mut Client) -> (String, u64, u64) {
    client.send("x").await;
    let packet = client.until_next().await.packets.remove(0);
    let number = |name: &str| packet[name].as_u64().unwrap();
    (packet["by"].as_str().unwrap().to_owned(), number("total"), number("seq"))
}

fn v1(total: u64, seq: u64) -> (String, u64, u64) {
    ("v1".to_owned(), total, seq)
}

async fn failed(host: &TestHost) -> Line {
    let is_meant = |line: &Line| line.says("probation failed");
    host.wait_for_log("the end of the probation", is_meant).await
}

#[tokio::test]
async fn a_panic_brings_the_library_before_back_with_the_state_of_the_swap_if_no_other_is_taken() {
    let host = setup("counter_v1").start().await;
    let (mut stays, mut goes) = (host.connect("/app").await, host.connect("/app").await);
    assert_eq!((count(&mut stays).await, count(&mut goes).await), (v1(1, 1), v1(2, 1)));
    // It takes over any state, and gives one that the counter does not take.
    host.reload("app", "panicker").await;
    let (mut comes, mut guilty) = (host.connect("/app").await, host.connect("/app").await);
    goes.close().await;
    guilty.send("panic").await;
    guilty.expect_close_packet(1011).await;
    let line = failed(&host).await;
    let fields = ["plugin", "generation", "reason", "state", "again"].map(|name| line.field(name));
    assert_eq!(fields, ["app", "2", "/app: it panicked", "as before the swap", "1"]);
    assert_eq!(count(&mut stays).await, v1(3, 2));
    assert_eq!(count(&mut comes).await, v1(4, 1));
    // The same file is not tried again.
    let position = host.log_position();
    host.replace_library("app", "panicker");
    host.wait_for_error(position, "rolled back from").await;
    assert_eq!(count(&mut stays).await, v1(5, 3));
}

#[tokio::test]
async fn refused_messages_over_the_share_bring_the_library_before_back_and_the_state_is_carried_back()
 {
    let host = setup("counter_v1").start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, v1(1, 1));
    host.reload("app", "counter_v2").await;
    for _ in 0..20 {
        count(&mut client).await;
    }
    for _ in 0..6 {
        let mut guilty = host.connect("/app").await;
        guilty.send_binary(b"x").await;
        guilty.expect_close_packet(1003).await;
    }
    let line = failed(&host).await;
    assert!(line.field("reason").starts_with("/app: it refused 6 of 2"), "{line}");
    assert_eq!(line.field("state"), "carried back");
    assert_eq!(count(&mut client).await, v1(22, 22));
}

#[tokio::test]
async fn a_library_is_judged_however_many_orders_come_meanwhile() {
    let host = setup("counter_v1").start().await;
    host.reload("app", "panicker").await;
    let control = host.folder().join(".plugsocket/control");
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let control = control.clone();
        asking.spawn(async move {
            loop {
                let mut stream = tokio::net::UnixStream::connect(&control).await.unwrap();
                stream.write_all(ORDER).await.unwrap();
                stream.read_to_end(&mut Vec::new()).await.unwrap();
            }
        });
    }
    let mut guilty = host.connect("/app").await;
    guilty.send("panic").await;
    guilty.expect_close_packet(1011).await;
    failed(&host).await;
    assert!(asking.try_join_next().is_none(), "they ask on");
}

/// One that changes nothing.
const ORDER: &[u8] = b"{\"do\":\"plugin-disable\",\"plugin\":\"nobody\"}\n";

#[tokio::test]
async fn a_library_that_did_well_stays_whatever_it_does_later() {
    let host = setup("counter_v1").reload("probation_messages", "5").start().await;
    host.reload("app", "panicker").await;
    let mut client = host.connect("/app").await;
    for _ in 0..5 {
        client.send("fine").await;
        client.until_text("fine").await;
    }
    host.wait_for_log("to pass", |line| line.says("probation passed")).await;
    let mut guilty = host.connect("/app").await;
    guilty.send("panic").await;
    guilty.expect_close_packet(1011).await;
    client.send("still here").await;
    client.until_text("still here").await;
    assert!(host.log().iter().all(|line| !line.says("probation failed")));
}

#[tokio::test]
async fn a_library_that_gets_stuck_on_probation_is_undone_as_well() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.4, restart_pause = 600 }";
    let host = setup("speaker").server("watchdog", watchdog).start().await;
    host.reload("app", "blocker").await;
    let mut guilty = host.connect("/app").await;
    guilty.send("block forever").await;
    guilty.expect_close_packet(1013).await;
    assert_eq!(failed(&host).await.field("reason"), "/app: it got stuck");
    let mut client = host.open(Request::to("/app")).await.ready().await;
    assert_eq!(client.ask(&json!({"do": "whoami"})).await["uuid"], client.uuid());
}

#[tokio::test]
async fn without_probation_a_panic_costs_one_connection_and_no_more() {
    let host = setup("counter_v1").reload("probation_time", "0").start().await;
    host.reload("app", "panicker").await;
    let (mut client, mut guilty) = (host.connect("/app").await, host.connect("/app").await);
    guilty.send("panic").await;
    guilty.expect_close_packet(1011).await;
    client.send("still the new one").await;
    client.until_text("still the new one").await;
}

/// For a plugin that sends back what it gets.
trait UntilText {
    async fn until_text(&mut self, text: &str);
}

impl UntilText for Client {
    async fn until_text(&mut self, text: &str) {
        assert_eq!(self.receive_text().await, text);
        self.expect_next().await;
    }
}
