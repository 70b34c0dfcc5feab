//! Hot reload: libraries replaced while connections are open.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::Path;
use std::time::Duration;

use plugsocket_tests::load::{Plan, reload_under_load};
use plugsocket_tests::{Client, Line, Request, Setup, TestHost, plugin_path, within};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).library("counter", "counter_v1").resource("/count", "counter")
}

async fn counted(client: &mut Client, message: &str) -> Value {
    client.send(message).await;
    let mut next = client.until_next().await;
    assert_eq!(next.packets.len(), 1, "{:?}", next.packets);
    next.packets.remove(0)
}

/// Sends a message and expects that it is the `seq`-th of this connection, counted by version `by`.
async fn counts(client: &mut Client, by: &str, seq: u64) {
    let counted = counted(client, "x").await;
    assert_eq!((&counted["by"], &counted["seq"]), (&by.into(), &seq.into()), "{counted}");
}

/// Replaces the library with `put` and expects that the new one takes over state and connections.
async fn expect_takeover(put: impl Fn(&TestHost, &Path)) {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    for (library, by, seq) in [("counter_v2", "v2", 2), ("counter_v1", "v1", 3)] {
        let position = host.log_position();
        put(&host, &plugin_path(library));
        host.wait_for_reload(position).await;
        counts(&mut client, by, seq).await;
    }
    client.close().await;
}

#[tokio::test]
async fn a_library_overwritten_in_place_takes_over() {
    expect_takeover(|host, library| {
        std::fs::copy(library, host.library("counter")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_library_moved_into_the_folder_takes_over() {
    expect_takeover(|host, library| {
        let elsewhere = host.folder().join("elsewhere.so");
        std::fs::copy(library, &elsewhere).unwrap();
        std::fs::rename(elsewhere, host.library("counter")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_library_deleted_and_copied_takes_over() {
    expect_takeover(|host, library| {
        std::fs::remove_file(host.library("counter")).unwrap();
        std::fs::copy(library, host.library("counter")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_library_hard_linked_as_cargo_does_takes_over() {
    expect_takeover(|host, library| {
        let built = host.folder().join(library.file_name().unwrap());
        std::fs::copy(library, &built).unwrap();
        std::fs::remove_file(host.library("counter")).unwrap();
        std::fs::hard_link(built, host.library("counter")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_changed_target_of_a_symbolic_link_is_found_by_rescan() {
    let host = setup().reload("rescan", "0.2").start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    let target = host.folder().join("target.so");
    std::fs::copy(plugin_path("counter_v1"), &target).unwrap();
    std::fs::remove_file(host.library("counter")).unwrap();
    std::os::unix::fs::symlink(&target, host.library("counter")).unwrap();
    host.wait_for_log("the unchanged library to be noticed", |line| {
        line.starts_with("library touched")
    })
    .await;
    let position = host.log_position();
    std::fs::copy(plugin_path("counter_v2"), &target).unwrap();
    host.wait_for_reload(position).await;
    counts(&mut client, "v2", 2).await;
}

#[tokio::test]
async fn a_uuid_reaches_its_client_after_a_reload_of_its_application() {
    let setup = Setup::new(PROGRAM).library("app", "speaker").resource("/app", "app");
    let host = setup.resource("/web", "feedback").start().await;
    let mut client = host.connect("/app").await;
    let mut sender = host.connect("/web").await;
    host.reload("app", "counter_v1").await;
    let feedback =
        serde_json::json!({"opcode": "feedback", "uuid": client.uuid(), "message": "still you?"});
    assert_eq!(sender.call(&feedback).await.fyi, "delivered");
    assert_eq!(client.receive_json().await, feedback);
    counts(&mut client, "v1", 1).await;
}

#[tokio::test]
async fn messages_sent_during_a_reload_are_answered_once_and_in_order() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    let position = host.log_position();
    host.replace_library("counter", "counter_v2");
    let is_new = |line: &Line| line.message() == "plugin loaded";
    let reloaded = host.wait_for_log_since(position, "the reload", is_new);
    let mut reloaded = std::pin::pin!(reloaded);
    let mut number = 0;
    let mut is_done = false;
    // Until one message after the reload.
    for after in 0.. {
        number += 1;
        let counted = counted(&mut client, &number.to_string()).await;
        assert_eq!((&counted["seq"], &counted["total"]), (&number.into(), &number.into()));
        assert_eq!(counted["message"], number.to_string());
        if is_done {
            assert_eq!(counted["by"], "v2", "{counted}");
            break;
        }
        let now = Duration::ZERO;
        is_done = tokio::time::timeout(now, &mut reloaded).await.is_ok();
        assert!(after < 1_000_000, "the plugin is never loaded");
    }
}

#[tokio::test]
async fn ten_reloads_and_ten_invalid_libraries_lose_duplicate_reorder_and_close_nothing() {
    let plan = Plan {
        reloads: 10,
        sockets: 40,
        talkers: 20,
        pace: Duration::ZERO,
        bad: 10,
        ballast: 1000,
    };
    let report = reload_under_load(PROGRAM, plan).await;
    assert!(report.is_clean(), "{report:?}");
    assert!(report.sent > 200, "{report:?}");
    assert_eq!((report.pauses.len(), report.delays.len(), report.refusals.len()), (10, 10, 10));
}

/// Expects that a library is refused and that the running generation keeps its state.
async fn expect_refusal(host: &TestHost, client: &mut Client, reason: &str, put: impl FnOnce()) {
    let before = counted(client, "before").await;
    let position = host.log_position();
    put();
    let line = host.wait_for_error(position, reason).await;
    assert!(!line.message().contains('\n'), "{line}");
    let after = counted(client, "after").await;
    assert_eq!(after["by"], before["by"]);
    assert_eq!(after["seq"].as_u64(), before["seq"].as_u64().map(|seq| seq + 1));
    let mut other = host.connect("/count").await;
    counts(&mut other, "v1", 1).await;
    other.close().await;
}

#[tokio::test]
async fn an_invalid_library_changes_nothing_and_is_reported() {
    let host = setup().reload("preflight_timeout", "0.5").start().await;
    let mut client = host.connect("/count").await;
    let write = |bytes: &[u8]| std::fs::write(host.library("counter"), bytes).unwrap();
    let good = std::fs::read(plugin_path("counter_v2")).unwrap();
    let half = &good[..good.len() / 2];
    expect_refusal(&host, &mut client, "incomplete", || write(half)).await;
    expect_refusal(&host, &mut client, "not a shared library", || write(b"hello")).await;
    expect_refusal(&host, &mut client, "the file is empty", || write(b"")).await;
    for (library, reason) in [
        ("ctor_crash", "SIGSEGV"),
        ("ctor_exit", "exit code 3"),
        ("ctor_hang", "did not end within 500ms"),
        ("no_plugin", "not a plugsocket plugin"),
        ("old_abi", "is incompatible"),
    ] {
        let put = || host.replace_library("counter", library);
        expect_refusal(&host, &mut client, reason, put).await;
    }
    // A valid library is loaded afterwards.
    host.reload("counter", "counter_v2").await;
    assert_eq!(counted(&mut client, "x").await["by"], "v2");
}

#[tokio::test]
async fn a_library_that_refuses_the_state_changes_nothing() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    // Another application, which rejects the counter's snapshot.
    let put = || host.replace_library("counter", "feedback");
    expect_refusal(&host, &mut client, "does not take over the state", put).await;
    host.reload("counter", "counter_v2").await;
}

#[tokio::test]
async fn a_library_that_does_not_start_changes_nothing() {
    // The speaker does not have the key `ballast`.
    let host = setup().config("/count", "ballast", "10").start().await;
    let mut client = host.connect("/count").await;
    let put = || host.replace_library("counter", "speaker");
    expect_refusal(&host, &mut client, "did not start", put).await;
}

#[tokio::test]
async fn an_unchanged_library_is_not_reloaded() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    let position = host.log_position();
    host.replace_library("counter", "counter_v1");
    let touched = |line: &Line| line.starts_with("library touched");
    host.wait_for_log_since(position, "the library to be compared", touched).await;
    assert!(!host.log()[position..].iter().any(|line| line.message() == "plugin loaded"));
    counts(&mut client, "v1", 2).await;
}

#[tokio::test]
async fn a_deleted_library_keeps_serving_and_can_be_replaced() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    std::fs::remove_file(host.library("counter")).unwrap();
    host.wait_for_log("a warning", |line| line.starts_with("library deleted")).await;
    counts(&mut client, "v1", 2).await;
    counts(&mut host.connect("/count").await, "v1", 1).await;
    host.reload("counter", "counter_v2").await;
    counts(&mut client, "v2", 3).await;
}

#[tokio::test]
async fn a_library_that_arrives_later_opens_its_resource() {
    let host =
        Setup::new(PROGRAM).resource("/count", "counter").without_library("counter").start().await;
    let mut early = host.open(Request::to("/count")).await;
    early.expect_close_packet(1013).await;
    host.reload("counter", "counter_v1").await;
    counts(&mut host.connect("/count").await, "v1", 1).await;
}

#[tokio::test]
async fn a_new_generation_serves_every_resource_of_its_plugin() {
    let host = setup().resource("/other", "counter").plain("/third", "echo").start().await;
    let mut clients = [host.connect("/count").await, host.connect("/other").await];
    let mut third = host.open(Request::to("/third")).await;
    host.reload("counter", "counter_v2").await;
    for client in &mut clients {
        counts(client, "v2", 1).await;
    }
    third.send("untouched").await;
    assert_eq!(third.receive_text().await, "untouched");
}

#[tokio::test]
async fn a_thread_of_a_retired_generation_gets_an_error_and_sends_nothing() {
    let setup = Setup::new(PROGRAM).library("app", "speaker").resource("/app", "app");
    let host = setup.start().await;
    let mut client = host.connect("/app").await;
    let thread =
        serde_json::json!({"do": "thread", "count": 1_000_000, "every_ms": 5, "message": ""});
    client.send(thread.to_string()).await;
    let position = host.log_position();
    host.replace_library("app", "counter_v1");
    let ended = |line: &Line| line.message().contains("thread ended: this instance");
    host.wait_for_log_since(position, "the end of the thread", ended).await;
    client.send("end").await;
    // Only messages that the thread sent before the reload may arrive.
    within("the answer", async {
        loop {
            let packet = client.receive_json().await;
            if packet["message"] == "end" {
                break;
            }
            assert!(
                packet["thread"].is_u64() || packet["opcode"] == "next" || packet["do"] == "thread"
            );
        }
    })
    .await;
    client.expect_next().await;
}
