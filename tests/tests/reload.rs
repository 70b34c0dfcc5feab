//! Libraries replaced while connections are open.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::Path;
use std::time::Duration;

use plugsocket_tests::load::{Plan, reload_under_load};
use plugsocket_tests::{Client, Request, Setup, TestHost, plugin_path, within};
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

/// The next message of this connection is the `seq`-th, and counted by this version.
async fn counts(client: &mut Client, by: &str, seq: u64) {
    let counted = counted(client, "x").await;
    assert_eq!((&counted["by"], &counted["seq"]), (&by.into(), &seq.into()), "{counted}");
}

/// Puts a library into the folder in some way; the new one takes over, with state and connections kept.
async fn takes_over(put: impl Fn(&TestHost, &Path)) {
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
async fn a_library_copied_over_takes_over() {
    takes_over(|host, library| {
        std::fs::copy(library, host.library("counter")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_library_moved_into_the_folder_takes_over() {
    takes_over(|host, library| {
        let elsewhere = host.folder().join("elsewhere.so");
        std::fs::copy(library, &elsewhere).unwrap();
        std::fs::rename(elsewhere, host.library("counter")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_library_installed_takes_over() {
    takes_over(|host, library| {
        std::fs::remove_file(host.library("counter")).unwrap();
        std::fs::copy(library, host.library("counter")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_library_hard_linked_as_cargo_does_takes_over() {
    takes_over(|host, library| {
        let built = host.folder().join(library.file_name().unwrap());
        std::fs::copy(library, &built).unwrap();
        std::fs::remove_file(host.library("counter")).unwrap();
        std::fs::hard_link(built, host.library("counter")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_library_behind_a_symbolic_link_is_found_by_the_look_at_the_folder() {
    let host = setup().reload("rescan", "0.2").start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    let target = host.folder().join("target.so");
    std::fs::copy(plugin_path("counter_v1"), &target).unwrap();
    std::fs::remove_file(host.library("counter")).unwrap();
    std::os::unix::fs::symlink(&target, host.library("counter")).unwrap();
    host.wait_for_log("the same content", |line| line.says("library touched")).await;
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
    let is_new = |line: &plugsocket_tests::Line| line.message() == "plugin loaded";
    let reloaded = host.wait_for_log_since(position, "the reload", is_new);
    let mut reloaded = std::pin::pin!(reloaded);
    let mut number = 0;
    let mut is_done = false;
    // One more after the reload.
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
        assert!(after < 1_000_000, "the reload never came");
    }
}

#[tokio::test]
async fn ten_reloads_and_ten_bad_libraries_lose_duplicate_reorder_and_close_nothing() {
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

/// A candidate is refused for this reason, and the running generation goes on as if nothing had been.
async fn is_refused(host: &TestHost, client: &mut Client, reason: &str, put: impl FnOnce()) {
    let before = counted(client, "before").await;
    let position = host.log_position();
    put();
    let line = host.wait_for_error(position, reason).await;
    assert!(!line.message().contains('\n'), "{line}");
    let after = counted(client, "after").await;
    assert_eq!(after["by"], before["by"]);
    assert_eq!(after["seq"].as_u64(), before["seq"].as_u64().map(|seq| seq + 1));
    let mut newcomer = host.connect("/count").await;
    counts(&mut newcomer, "v1", 1).await;
    newcomer.close().await;
}

#[tokio::test]
async fn a_bad_candidate_changes_nothing_and_is_explained() {
    let host = setup().reload("preflight_timeout", "0.5").start().await;
    let mut client = host.connect("/count").await;
    let write = |bytes: &[u8]| std::fs::write(host.library("counter"), bytes).unwrap();
    let good = std::fs::read(plugin_path("counter_v2")).unwrap();
    let half = &good[..good.len() / 2];
    is_refused(&host, &mut client, "incomplete", || write(half)).await;
    is_refused(&host, &mut client, "no shared library", || write(b"hello")).await;
    is_refused(&host, &mut client, "the file is empty", || write(b"")).await;
    for (library, reason) in [
        ("ctor_crash", "SIGSEGV"),
        ("ctor_exit", "exit code 3"),
        ("ctor_hang", "did not end within 500ms"),
        ("no_plugin", "no plugsocket plugin"),
        ("old_abi", "does not fit"),
    ] {
        let put = || host.replace_library("counter", library);
        is_refused(&host, &mut client, reason, put).await;
    }
    // And then a good one.
    host.reload("counter", "counter_v2").await;
    assert_eq!(counted(&mut client, "x").await["by"], "v2");
}

#[tokio::test]
async fn a_candidate_that_does_not_take_the_state_over_changes_nothing() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    // Another application, which does not read the counter's snapshot.
    let put = || host.replace_library("counter", "feedback");
    is_refused(&host, &mut client, "does not take over the state", put).await;
    host.reload("counter", "counter_v2").await;
}

#[tokio::test]
async fn a_candidate_that_refuses_to_start_changes_nothing() {
    // Knows other keys: the configuration of the resource is refused.
    let host = setup().config("/count", "ballast", "10").start().await;
    let mut client = host.connect("/count").await;
    let put = || host.replace_library("counter", "speaker");
    is_refused(&host, &mut client, "did not start", put).await;
}

#[tokio::test]
async fn the_same_content_is_not_loaded_again() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    let position = host.log_position();
    host.replace_library("counter", "counter_v1");
    let touched = |line: &plugsocket_tests::Line| line.says("library touched");
    host.wait_for_log_since(position, "the look at it", touched).await;
    assert!(!host.log()[position..].iter().any(|line| line.message() == "plugin loaded"));
    counts(&mut client, "v1", 2).await;
}

#[tokio::test]
async fn a_deleted_library_goes_on_and_may_come_back() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    std::fs::remove_file(host.library("counter")).unwrap();
    host.wait_for_log("the warning", |line| line.says("library deleted")).await;
    counts(&mut client, "v1", 2).await;
    counts(&mut host.connect("/count").await, "v1", 1).await;
    host.reload("counter", "counter_v2").await;
    counts(&mut client, "v2", 3).await;
}

#[tokio::test]
async fn a_library_that_comes_later_brings_its_resource_to_life() {
    let host = Setup::new(PROGRAM).resource("/count", "counter").without("counter").start().await;
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
async fn a_thread_of_a_retired_generation_is_told_so_and_reaches_nobody() {
    let setup = Setup::new(PROGRAM).library("app", "speaker").resource("/app", "app");
    let host = setup.start().await;
    let mut client = host.connect("/app").await;
    let thread =
        serde_json::json!({"do": "thread", "count": 1_000_000, "every_ms": 5, "message": ""});
    client.send(thread.to_string()).await;
    let position = host.log_position();
    host.replace_library("app", "counter_v1");
    let ended =
        |line: &plugsocket_tests::Line| line.message().contains("thread ended: this instance");
    host.wait_for_log_since(position, "the end of the thread", ended).await;
    client.send("end").await;
    // What it said before is all there is.
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
