//! Applications that hang or panic: reported while it happens, given up, started again; nobody else notices.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Line, Setup, TestHost};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup(watchdog: &str) -> Setup {
    Setup::new(PROGRAM).server("watchdog", watchdog).resource("/web", "feedback")
}

async fn echoes(client: &mut Client) {
    let packet = json!({"opcode": "echo", "message": 1});
    assert_eq!(client.call(&packet).await.packets, [packet]);
}

/// A connection that is told at once that nothing serves; its `close` packet.
async fn turned_away(host: &TestHost, path: &str) -> Value {
    host.open(plugsocket_tests::Request::to(path)).await.expect_close_packet(1013).await
}

async fn wait_for(host: &TestHost, position: usize, message: &str) -> Line {
    host.wait_for_log_since(position, message, |line| line.says(message)).await
}

#[tokio::test]
async fn a_slow_callback_is_reported_while_it_runs_and_again_when_it_ends() {
    let watchdog = "{ callback_warn = 0.05 }";
    let setup = setup(watchdog).resource("/slow", "blocker");
    let host = setup.config("/slow", "release", r#""release""#).start().await;
    let mut client = host.connect("/slow").await;
    client.send("block 300").await;
    let line = wait_for(&host, 0, "a callback takes long").await;
    let fields = ["plugin", "generation", "resource", "callback"].map(|name| line.field(name));
    assert_eq!(fields, ["blocker", "1", "/slow", "message"]);
    assert_eq!(line.level(), "WARN");
    let still_runs = host.log().iter().all(|line| !line.says("the slow callback has ended"));
    assert!(still_runs);
    assert_eq!(client.receive_text().await, "block 300");
    wait_for(&host, 0, "the slow callback has ended").await;
    client.expect_next().await;
    client.send("quick").await;
    assert_eq!(client.receive_text().await, "quick");
    let reports = host.log().iter().filter(|line| line.says("a callback takes long")).count();
    assert_eq!(reports, 1);
}

#[tokio::test]
async fn a_stuck_application_is_given_up_and_started_again_and_others_feel_nothing() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.5, restart_pause = 1.5 }";
    let mut host = setup(watchdog).resource("/stuck", "blocker").start().await;
    let mut bystander = host.connect("/web").await;
    let (mut idle, mut guilty) = (host.connect("/stuck").await, host.connect("/stuck").await);
    guilty.send("block forever").await;
    wait_for(&host, 0, "a callback takes long").await;
    echoes(&mut bystander).await;
    for client in [&mut idle, &mut guilty] {
        let packet = client.expect_close_packet(1013).await;
        assert_eq!(packet["retry_after"], 2, "{packet}");
    }
    let position = host.log_position();
    let packet = turned_away(&host, "/stuck").await;
    assert_eq!(packet["retry_after"], 2, "{packet}");
    echoes(&mut bystander).await;
    wait_for(&host, position, "resource is served").await;
    let mut again = host.connect("/stuck").await;
    again.send("hello").await;
    assert_eq!(again.receive_text().await, "hello");
    // Neither does the thread that is left behind keep the program.
    host.signal("TERM");
    assert!(host.ended().await.success());
}

#[tokio::test]
async fn a_reload_puts_a_stuck_resource_right() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.5, restart_pause = 600 }";
    let setup = setup(watchdog).resource("/stuck", "app").library("app", "blocker");
    let host = setup.reload("probation_time", "0").start().await;
    let mut guilty = host.connect("/stuck").await;
    guilty.send("block forever").await;
    // Once before the watchdog has given it up, once after.
    for library in ["speaker", "blocker"] {
        host.reload("app", library).await;
        let mut client = host.connect("/stuck").await;
        client.send(r#"{"do":"whoami"}"#).await;
        client.receive_text().await;
        client.close().await;
    }
    guilty.expect_close_packet(1013).await;
    let mut guilty = host.connect("/stuck").await;
    guilty.send("block forever").await;
    wait_for(&host, 0, "lane given up").await;
    guilty.expect_close_packet(1013).await;
    assert_eq!(turned_away(&host, "/stuck").await["retry_after"], 600);
    host.reload("app", "speaker").await;
    host.connect("/stuck").await;
}

#[tokio::test]
async fn an_application_that_panics_again_and_again_is_started_afresh_and_then_closed_for_a_while()
{
    let watchdog = "{ max_panics = 2, restart_pause = 0.5 }";
    let host = setup(watchdog).resource("/panic", "panicker").start().await;
    let mut bystander = host.connect("/panic").await;
    let three_panics = async || {
        for _ in 0..3 {
            let mut client = host.connect("/panic").await;
            client.send("panic").await;
            client.expect_close_packet(1011).await;
        }
    };
    three_panics().await;
    wait_for(&host, 0, "resource is served by a new instance").await;
    bystander.send("still here").await;
    assert_eq!(bystander.receive_text().await, "still here");
    bystander.expect_next().await;
    let position = host.log_position();
    three_panics().await;
    assert_eq!(bystander.expect_close_packet(1013).await["retry_after"], 1);
    wait_for(&host, position, "panics again and again; closed").await;
    wait_for(&host, position, "resource is served").await;
    host.connect("/panic").await;
}
