//! Libraries and files that are no good, at the start: each is explained in one sentence, and the rest is served.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Outcome, Request, Setup, plugin_path};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// One good resource, and a bad one on `/bad`.
fn setup() -> Setup {
    Setup::new(PROGRAM).resource("/good", "counter_v1").resource("/bad", "bad")
}

/// The host says why, serves the rest, and tells peers of the bad resource to come later.
async fn is_explained(setup: Setup, reason: &str) {
    let host = setup.clone().start().await;
    let line = host.wait_for_error(0, reason).await;
    assert!(line.says("plugin bad refused: "), "{line}");
    assert!(!line.message().contains('\n'), "one sentence: {line}");
    let mut client = host.connect("/good").await;
    client.send("hello").await;
    assert_eq!(client.until_next().await.packets[0]["message"], "hello");
    let mut client = host.open(Request::to("/bad")).await;
    let packet = client.expect_close_packet(1013).await;
    assert!(packet["retry_after"].as_u64().unwrap() > 0, "{packet}");
    drop(host);
    let Outcome { code, complained, .. } = setup.run(&["check"]).await;
    assert_eq!(code, Some(1));
    assert!(complained.contains(reason), "{complained}");
}

fn library() -> Vec<u8> {
    std::fs::read(plugin_path("counter_v1")).unwrap()
}

#[tokio::test]
async fn a_missing_library_is_named_with_its_place() {
    is_explained(setup().without("bad"), "libbad.so is not there").await;
}

#[tokio::test]
async fn an_empty_file_and_a_text_are_no_libraries() {
    is_explained(setup().file("bad", b""), "the file is empty").await;
    is_explained(setup().file("bad", b"#!/bin/sh\n"), "no shared library").await;
}

#[tokio::test]
async fn a_library_for_another_machine_is_named_as_such() {
    let mut bytes = library();
    bytes[4] = 1;
    is_explained(setup().file("bad", &bytes), "another machine (32 bit)").await;
    let mut bytes = library();
    bytes[18] = 8;
    is_explained(setup().file("bad", &bytes), "another machine (another processor)").await;
}

#[tokio::test]
async fn a_program_is_no_library() {
    let mut bytes = library();
    // ET_EXEC.
    bytes[16] = 2;
    is_explained(setup().file("bad", &bytes), "no shared library").await;
}

#[tokio::test]
async fn a_library_that_is_not_whole_is_never_opened() {
    let bytes = library();
    for length in [40, 100, bytes.len() / 3, bytes.len() - 1] {
        is_explained(setup().file("bad", &bytes[..length]), "incomplete").await;
    }
    let mut zeros = bytes.clone();
    let half = bytes.len() / 2;
    zeros[half..].fill(0);
    is_explained(setup().file("bad", &zeros), "damaged").await;
}

#[tokio::test]
async fn a_library_that_is_no_plugin_is_named_as_such() {
    is_explained(setup().library("bad", "no_plugin"), "no plugsocket plugin").await;
}

#[tokio::test]
async fn a_plugin_with_another_layout_is_refused() {
    is_explained(setup().library("bad", "old_abi"), "does not fit this host's").await;
}

#[tokio::test]
async fn a_constructor_that_crashes_or_exits_kills_only_the_preflight_child() {
    is_explained(setup().library("bad", "ctor_crash"), "crashed: SIGSEGV").await;
    is_explained(setup().library("bad", "ctor_exit"), "exit code 3").await;
}

#[tokio::test]
async fn a_constructor_that_hangs_is_given_up() {
    let setup = setup().library("bad", "ctor_hang").reload("preflight_timeout", "0.5");
    is_explained(setup, "did not end within 500ms").await;
}

#[tokio::test]
async fn a_plugin_that_does_not_start_is_explained_by_its_own_words() {
    let setup = setup().library("bad", "counter_v2");
    let refusing = setup.clone().config("/bad", "refuse_start", "true");
    is_explained(refusing, "told to refuse by `refuse_start`").await;
    let unknown = setup.clone().config("/bad", "colour", "\"red\"");
    is_explained(unknown, "colour").await;
    let slow = setup.reload("start_timeout", "0.3").config("/bad", "start_delay_ms", "60_000");
    is_explained(slow, "did not start within 300ms").await;
}

#[tokio::test]
async fn a_library_that_nobody_maps_is_available_with_the_line_to_add() {
    let host = Setup::new(PROGRAM).library("spare", "counter_v1").start().await;
    let line = host.wait_for_log("the offer", |line| line.says("available")).await;
    assert!(line.message().contains(r#"[resources."/spare"] and plugin = "spare""#), "{line}");
}

#[tokio::test]
async fn one_library_serves_several_resources_with_an_instance_each() {
    let setup = Setup::new(PROGRAM).resource("/a", "counter_v1").resource("/b", "counter_v1");
    let host = setup.config("/b", "by", "\"b\"").start().await;
    for (path, by) in [("/a", "v1"), ("/b", "b")] {
        let mut client = host.connect(path).await;
        client.send("x").await;
        let counted = json!({"opcode": "counted", "by": by, "total": 1, "seq": 1, "message": "x"});
        assert_eq!(client.until_next().await.packets, [counted]);
    }
}

#[tokio::test]
async fn check_says_that_all_is_fine() {
    let setup = Setup::new(PROGRAM).resource("/a", "counter_v1").plain("/b", "echo");
    let Outcome { code, said, .. } = setup.run(&["check"]).await;
    assert_eq!(code, Some(0));
    assert!(said.contains("plugins.toml") && said.contains("2 resources"), "{said}");
}

#[tokio::test]
async fn a_mistake_in_the_file_is_named_by_line_and_key_and_ends_check_and_run() {
    let setup = Setup::new(PROGRAM).resource("/a", "counter_v1").key("/a", "dialogue", "true");
    let line = setup.toml().lines().position(|line| line.starts_with("dialogue")).unwrap() + 1;
    for command in ["check", "run"] {
        let Outcome { code, complained, .. } = setup.run(&[command]).await;
        assert_eq!(code, Some(1), "{complained}");
        let place = format!("plugins.toml:{line}: resources.\"/a\".dialogue");
        assert!(complained.contains(&place), "{complained}");
    }
}

#[tokio::test]
async fn a_missing_configuration_or_an_address_in_use_ends_it_with_1() {
    let Outcome { code, complained, .. } =
        Setup::new(PROGRAM).run(&["run", "--config", "nothing.toml"]).await;
    assert_eq!(code, Some(1));
    assert!(complained.contains("nothing.toml"), "{complained}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::new(PROGRAM).server("listen", &format!("[\"{address}\"]"));
    let Outcome { code, complained, .. } = setup.run(&["run"]).await;
    assert_eq!(code, Some(1));
    assert!(complained.contains(&format!("cannot listen on {address}")), "{complained}");
}

#[tokio::test]
async fn help_and_version_are_told_and_nonsense_is_2() {
    let setup = Setup::new(PROGRAM);
    let Outcome { code, said, .. } = setup.run(&["--help"]).await;
    assert_eq!(code, Some(0));
    assert!(said.contains("check") && said.contains("SIGHUP"), "{said}");
    assert!(!said.contains("preflight"), "{said}");
    let Outcome { code, said, .. } = setup.run(&["--version"]).await;
    assert_eq!((code, said.split_whitespace().count()), (Some(0), 2), "{said}");
    assert_eq!(setup.run(&["--nonsense"]).await.code, Some(2));
    assert_eq!(setup.run(&["nonsense"]).await.code, Some(2));
}
