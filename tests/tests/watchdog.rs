//! The watchdog: applications that hang or panic are reported, abandoned and restarted, without
//! effect on other resources.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Line, Setup, TestHost, within};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup(watchdog: &str) -> Setup {
    Setup::new(PROGRAM).server("watchdog", watchdog).resource("/web", "feedback")
}

async fn echoes(client: &mut Client) {
    let packet = json!({"opcode": "echo", "message": 1});
    assert_eq!(client.call(&packet).await.packets, [packet]);
}

/// Connects to a resource that is not served; returns the `close` packet.
async fn rejected(host: &TestHost, path: &str) -> Value {
    host.open(plugsocket_tests::Request::to(path)).await.expect_close_packet(1013).await
}

async fn wait_for(host: &TestHost, position: usize, message: &str) -> Line {
    host.wait_for_log_since(position, message, |line| line.starts_with(message)).await
}

#[tokio::test]
async fn a_slow_callback_is_reported_while_it_runs_and_when_it_ends() {
    let watchdog = "{ callback_warn = 0.05 }";
    let setup = setup(watchdog).resource("/slow", "blocker");
    let host = setup.config("/slow", "release", r#""release""#).start().await;
    let mut client = host.connect("/slow").await;
    client.send("block 300").await;
    let line = wait_for(&host, 0, "slow callback still running").await;
    let fields = ["plugin", "generation", "resource", "callback"].map(|name| line.field(name));
    assert_eq!(fields, ["blocker", "1", "/slow", "message"]);
    assert_eq!(line.level(), "WARN");
    let still_runs = host.log().iter().all(|line| !line.starts_with("slow callback has returned"));
    assert!(still_runs);
    assert_eq!(client.receive_text().await, "block 300");
    wait_for(&host, 0, "slow callback has returned").await;
    client.expect_next().await;
    client.send("quick").await;
    assert_eq!(client.receive_text().await, "quick");
    let reports =
        host.log().iter().filter(|line| line.starts_with("slow callback still running")).count();
    assert_eq!(reports, 1);
}

#[tokio::test]
async fn disabling_a_stuck_application_closes_all_its_connections() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.6, restart_pause = 600 }";
    let host = setup(watchdog).resource("/stuck", "blocker").server("close_timeout", "1");
    let host = host.start().await;
    let mut failing = host.connect("/stuck").await;
    failing.send("block forever").await;
    wait_for(&host, 0, "slow callback still running").await;
    // This session's `open` waits behind the stuck callback.
    let waiting = host.open(plugsocket_tests::Request::to("/stuck")).await;
    let (code, output) = host.command(&["plugin", "disable", "blocker"]).await;
    assert_eq!(code, 0, "{output}");
    for mut client in [failing, waiting] {
        let packet = client.expect_close_packet(1013).await;
        assert_eq!(packet["error"], "the application blocker is disabled");
        client.close().await;
    }
    let connected =
        async { while host.command(&["connections", "--json"]).await.1.trim() != "[]" {} };
    within("all connections to end", connected).await;
    let packet = rejected(&host, "/stuck").await;
    assert_eq!(packet["error"], "the application blocker is disabled");
    assert_eq!(host.command(&["plugin", "enable", "blocker"]).await.0, 0);
    let mut client = host.connect("/stuck").await;
    client.send("quick").await;
    assert_eq!(client.receive_text().await, "quick");
}

#[tokio::test]
async fn a_replacement_of_a_stuck_library_that_fails_restarts_the_previous_one() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.5, restart_pause = 0.1 }";
    let host = setup(watchdog).resource("/stuck", "app").library("app", "blocker");
    // Without a rehearsal, which takes longer than the watchdog waits for the stuck lane.
    let host = host.plugin_key("app", "preflight", r#""open""#).config("/stuck", "starts", "1");
    let host = host.start().await;
    let mut failing = host.connect("/stuck").await;
    failing.send("block forever").await;
    wait_for(&host, 0, "slow callback still running").await;
    let position = host.log_position();
    // The new library can start only once, so it fails when the watchdog restarts it.
    host.replace_library("app", "counter_v2");
    host.wait_for_error(position, "no other one could start").await;
    failing.expect_close_packet(1013).await;
    wait_for(&host, position, "resource is served").await;
    let mut client = host.connect("/stuck").await;
    client.send("quick").await;
    assert_eq!(client.receive_text().await, "quick");
}

#[tokio::test]
async fn a_slow_drop_blocks_no_other_resource() {
    // A single worker thread, so that a blocking drop would block everything.
    let host = Setup::new(PROGRAM).environment("TOKIO_WORKER_THREADS", "1");
    let host = host
        .resource("/web", "feedback")
        .resource("/slow", "counter")
        .library("counter", "counter_v1");
    // A rehearsal would refuse a drop that is slower than `preflight_timeout`.
    let host = host.plugin_key("counter", "preflight", r#""open""#);
    let host = host.config("/slow", "drop_delay_ms", "15000").start().await;
    let mut bystander = host.connect("/web").await;
    let (code, output) = host.command(&["plugin", "disable", "counter"]).await;
    assert_eq!(code, 0, "{output}");
    // The drop runs on a thread with this name.
    let is_dropping = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", host.pid())).unwrap().flatten();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks.filter_map(|task| name(task).ok()).any(|name| name.starts_with("drop:"))
    };
    within("the thread that drops the instance", async {
        loop {
            echoes(&mut bystander).await;
            if is_dropping() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn log_lines_of_a_lane_name_only_the_current_generation() {
    let host = Setup::new(PROGRAM).log_format("text").resource("/panic", "panicker");
    let host = host.key("/panic", "lane", r#""thread""#).start().await;
    for _ in 0..3 {
        assert_eq!(host.command(&["plugin", "reload", "panicker"]).await.0, 0);
    }
    let mut failing = host.connect("/panic").await;
    failing.send("panic").await;
    failing.expect_close_packet(1011).await;
    let is_match = |line: &Line| line.text().contains("panic requested");
    let line = host.wait_for_log("the panic", is_match).await;
    assert!(line.text().contains("lane{") && line.text().contains("generation=4"), "{line}");
    assert!((1..4).all(|number| !line.text().contains(&format!("generation={number}"))), "{line}");
}

#[tokio::test]
async fn a_stuck_application_is_abandoned_and_restarted_without_effect_on_others() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.5, restart_pause = 1.5 }";
    let mut host = setup(watchdog).resource("/stuck", "blocker").start().await;
    let mut bystander = host.connect("/web").await;
    let (mut idle, mut failing) = (host.connect("/stuck").await, host.connect("/stuck").await);
    failing.send("block forever").await;
    wait_for(&host, 0, "slow callback still running").await;
    echoes(&mut bystander).await;
    for client in [&mut idle, &mut failing] {
        let packet = client.expect_close_packet(1013).await;
        assert_eq!(packet["retry_after"], 2, "{packet}");
    }
    let position = host.log_position();
    let packet = rejected(&host, "/stuck").await;
    assert_eq!(packet["retry_after"], 2, "{packet}");
    echoes(&mut bystander).await;
    wait_for(&host, position, "resource is served").await;
    let mut again = host.connect("/stuck").await;
    again.send("hello").await;
    assert_eq!(again.receive_text().await, "hello");
    // The abandoned thread does not prevent the shutdown.
    host.signal("TERM");
    assert!(host.exited().await.success());
}

#[tokio::test]
async fn a_reload_recovers_a_stuck_resource() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.5, restart_pause = 600 }";
    let setup = setup(watchdog).resource("/stuck", "app").library("app", "blocker");
    let host = setup.reload("probation_time", "0").start().await;
    let mut failing = host.connect("/stuck").await;
    failing.send("block forever").await;
    // Once before the watchdog abandons the lane, once after.
    for library in ["speaker", "blocker"] {
        host.reload("app", library).await;
        let mut client = host.connect("/stuck").await;
        client.send(r#"{"do":"whoami"}"#).await;
        client.receive_text().await;
        client.close().await;
    }
    failing.expect_close_packet(1013).await;
    let mut failing = host.connect("/stuck").await;
    failing.send("block forever").await;
    wait_for(&host, 0, "lane abandoned").await;
    failing.expect_close_packet(1013).await;
    assert_eq!(rejected(&host, "/stuck").await["retry_after"], 600);
    host.reload("app", "speaker").await;
    host.connect("/stuck").await;
}

#[tokio::test]
async fn an_application_that_panics_repeatedly_is_restarted_and_then_closed_temporarily() {
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
    wait_for(&host, position, "repeated panics; resource closed").await;
    wait_for(&host, position, "resource is served").await;
    host.connect("/panic").await;
}
