//! Applications that hang or panic: reported while it happens, given up, started again; nobody else notices.
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
async fn a_stuck_application_that_is_switched_off_keeps_nobody_waiting() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.6, restart_pause = 600 }";
    let host = setup(watchdog).resource("/stuck", "blocker").server("close_timeout", "1");
    let host = host.start().await;
    let mut guilty = host.connect("/stuck").await;
    guilty.send("block forever").await;
    wait_for(&host, 0, "a callback takes long").await;
    // Behind the callback: not taken by the application yet.
    let waiting = host.open(plugsocket_tests::Request::to("/stuck")).await;
    let (code, said) = host.command(&["plugin", "disable", "blocker"]).await;
    assert_eq!(code, 0, "{said}");
    for mut client in [guilty, waiting] {
        let packet = client.expect_close_packet(1013).await;
        assert_eq!(packet["error"], "the application blocker is switched off");
        client.close().await;
    }
    let connected =
        async { while host.command(&["connections", "--json"]).await.1.trim() != "[]" {} };
    within("all connections to be gone", connected).await;
    let packet = turned_away(&host, "/stuck").await;
    assert_eq!(packet["error"], "the application blocker is switched off");
    assert_eq!(host.command(&["plugin", "enable", "blocker"]).await.0, 0);
    let mut client = host.connect("/stuck").await;
    client.send("quick").await;
    assert_eq!(client.receive_text().await, "quick");
}

#[tokio::test]
async fn a_library_that_takes_over_from_a_stuck_one_and_fails_leaves_it_to_the_one_before() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.5, restart_pause = 0.1 }";
    let host = setup(watchdog).resource("/stuck", "app").library("app", "blocker");
    let host = host.config("/stuck", "starts", "1").start().await;
    let mut guilty = host.connect("/stuck").await;
    guilty.send("block forever").await;
    wait_for(&host, 0, "a callback takes long").await;
    let position = host.log_position();
    // It starts once, to take over, and not again when the lane has been given up.
    host.replace_library("app", "counter_v2");
    host.wait_for_error(position, "no other one could start").await;
    guilty.expect_close_packet(1013).await;
    wait_for(&host, position, "resource is served").await;
    let mut client = host.connect("/stuck").await;
    client.send("quick").await;
    assert_eq!(client.receive_text().await, "quick");
}

#[tokio::test]
async fn an_instance_that_takes_long_to_drop_holds_up_nobody() {
    // One thread for everybody, so that nobody could step in.
    let host = Setup::new(PROGRAM).environment("TOKIO_WORKER_THREADS", "1");
    let host = host
        .resource("/web", "feedback")
        .resource("/slow", "counter")
        .library("counter", "counter_v1");
    let host = host.config("/slow", "drop_delay_ms", "15000").start().await;
    let mut bystander = host.connect("/web").await;
    let (code, said) = host.command(&["plugin", "disable", "counter"]).await;
    assert_eq!(code, 0, "{said}");
    // It is still being dropped, by a thread that names itself when it begins.
    let is_dropping = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", host.pid())).unwrap().flatten();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks.filter_map(|task| name(task).ok()).any(|name| name.starts_with("drop:"))
    };
    within("the thread that drops it", async {
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
async fn a_line_of_a_lane_names_the_generation_that_serves_and_none_before() {
    let host = Setup::new(PROGRAM).log_format("text").resource("/panic", "panicker");
    let host = host.key("/panic", "lane", r#""thread""#).start().await;
    for _ in 0..3 {
        assert_eq!(host.command(&["plugin", "reload", "panicker"]).await.0, 0);
    }
    let mut guilty = host.connect("/panic").await;
    guilty.send("panic").await;
    guilty.expect_close_packet(1011).await;
    let is_meant = |line: &Line| line.text().contains("told to panic");
    let line = host.wait_for_log("the panic", is_meant).await;
    assert!(line.text().contains("lane{") && line.text().contains("generation=4"), "{line}");
    assert!((1..4).all(|number| !line.text().contains(&format!("generation={number}"))), "{line}");
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
