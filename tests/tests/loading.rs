//! Invalid libraries and configurations at startup: each is explained in one sentence, and the
//! other resources are served.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{CommandOutput, Request, Setup, plugin_path};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// A valid resource on `/good` and an invalid one on `/bad`.
fn setup() -> Setup {
    Setup::new(PROGRAM).resource("/good", "counter_v1").resource("/bad", "bad")
}

/// Expects that the host logs the reason, serves `/good` and answers on `/bad` with `retry_after`,
/// and that `check` prints the reason.
async fn expect_reason(setup: Setup, reason: &str) {
    let host = setup.clone().start().await;
    let line = host.wait_for_error(0, reason).await;
    assert!(line.starts_with("plugin bad refused: "), "{line}");
    assert!(!line.message().contains('\n'), "one sentence: {line}");
    let mut client = host.connect("/good").await;
    client.send("hello").await;
    assert_eq!(client.until_next().await.packets[0]["message"], "hello");
    let mut client = host.open(Request::to("/bad")).await;
    let packet = client.expect_close_packet(1013).await;
    assert!(packet["retry_after"].as_u64().unwrap() > 0, "{packet}");
    drop(host);
    let CommandOutput { code, stderr, .. } = setup.run(&["check"]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains(reason), "{stderr}");
}

fn library() -> Vec<u8> {
    std::fs::read(plugin_path("counter_v1")).unwrap()
}

#[tokio::test]
async fn a_missing_library_is_reported_with_its_path() {
    expect_reason(setup().without_library("bad"), "libbad.so does not exist").await;
}

#[tokio::test]
async fn an_empty_file_and_a_script_are_refused() {
    expect_reason(setup().file("bad", b""), "the file is empty").await;
    expect_reason(setup().file("bad", b"#!/bin/sh\n"), "not a shared library").await;
}

#[tokio::test]
async fn a_library_for_another_architecture_is_refused() {
    let mut bytes = library();
    bytes[4] = 1;
    expect_reason(setup().file("bad", &bytes), "another machine (32 bit)").await;
    let mut bytes = library();
    bytes[18] = 8;
    expect_reason(setup().file("bad", &bytes), "another machine (another processor)").await;
}

#[tokio::test]
async fn an_executable_is_refused() {
    let mut bytes = library();
    // ET_EXEC.
    bytes[16] = 2;
    expect_reason(setup().file("bad", &bytes), "a program or object file").await;
}

#[tokio::test]
async fn an_incomplete_library_is_never_opened() {
    let bytes = library();
    for length in [40, 100, bytes.len() / 3, bytes.len() - 1] {
        expect_reason(setup().file("bad", &bytes[..length]), "incomplete").await;
    }
    let mut zeros = bytes.clone();
    let half = bytes.len() / 2;
    zeros[half..].fill(0);
    expect_reason(setup().file("bad", &zeros), "damaged").await;
}

#[tokio::test]
async fn a_library_that_is_not_a_plugin_is_refused() {
    expect_reason(setup().library("bad", "no_plugin"), "not a plugsocket plugin").await;
}

#[tokio::test]
async fn a_plugin_with_an_incompatible_abi_is_refused() {
    expect_reason(setup().library("bad", "old_abi"), "is incompatible with this host's").await;
}

#[tokio::test]
async fn a_constructor_that_crashes_or_exits_kills_only_the_preflight_child() {
    expect_reason(setup().library("bad", "ctor_crash"), "crashed: SIGSEGV").await;
    expect_reason(setup().library("bad", "ctor_exit"), "exit code 3").await;
}

#[tokio::test]
async fn a_constructor_that_hangs_times_out() {
    let setup = setup().library("bad", "ctor_hang").reload("preflight_timeout", "0.5");
    expect_reason(setup, "did not end within 500ms").await;
}

#[tokio::test]
async fn a_plugin_that_does_not_start_is_reported_with_its_reason() {
    let setup = setup().library("bad", "counter_v2");
    let refusing = setup.clone().config("/bad", "refuse_start", "true");
    expect_reason(refusing, "refusal requested by `refuse_start`").await;
    let unknown = setup.clone().config("/bad", "colour", "\"red\"");
    expect_reason(unknown, "colour").await;
    let slow = setup.reload("start_timeout", "0.3").config("/bad", "start_delay_ms", "60_000");
    expect_reason(slow, "did not start within 300ms").await;
}

#[tokio::test]
async fn an_unmapped_library_is_reported_with_the_lines_to_add() {
    let host = Setup::new(PROGRAM).library("spare", "counter_v1").start().await;
    let line =
        host.wait_for_log("the library to be reported", |line| line.starts_with("available")).await;
    assert!(line.message().contains(r#"[resources."/spare"] and plugin = "spare""#), "{line}");
}

#[tokio::test]
async fn each_resource_of_a_library_has_its_own_instance() {
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
async fn check_accepts_a_valid_configuration() {
    let setup = Setup::new(PROGRAM).resource("/a", "counter_v1").plain("/b", "echo");
    let CommandOutput { code, stdout, .. } = setup.run(&["check"]).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("plugins.toml") && stdout.contains("2 resources"), "{stdout}");
}

#[tokio::test]
async fn check_names_the_cause_and_serves_nothing() {
    let setup = Setup::new(PROGRAM).resource("/a", "counter_v1").config("/a", "colour", "1");
    let line = setup.toml().lines().position(|line| line.ends_with(".config]")).unwrap() + 1;
    let CommandOutput { code, stderr, .. } = setup.run(&["check"]).await;
    let last = stderr.lines().last().unwrap();
    assert_eq!(code, Some(1));
    let cause = "1 plugin or resource cannot be served: plugin counter_v1 refused: /a: it did not";
    assert!(last.starts_with(&format!("plugsocket: {cause} start")), "{last}");
    let place = format!("plugins.toml:{line}: resources.\"/a\".config");
    assert!(last.contains(&place), "{last}");
    assert!(!stderr.contains("is served") && !stderr.contains("generation"), "{stderr}");
    let setup = Setup::new(PROGRAM).resource("/a", "counter_v1");
    let CommandOutput { code, stderr, .. } = setup.run(&["check"]).await;
    assert_eq!(code, Some(0));
    assert!(stderr.contains("resource can be served"), "{stderr}");
    assert!(!stderr.contains("is served") && !stderr.contains("generation"), "{stderr}");
}

#[tokio::test]
async fn refused_settings_of_a_new_resource_are_logged_once_with_their_place() {
    let mut host = Setup::new(PROGRAM).resource("/a", "counter_v1").start().await;
    let position = host.log_position();
    let setup = host.setup().resource("/b", "counter_v1").config("/b", "colour", "1");
    let toml = setup.toml();
    let line = toml.lines().position(|line| line == "[resources.\"/b\".config]").unwrap() + 1;
    host.write_setup(setup);
    let refused = host.wait_for_error(position, "/b cannot be served by plugin counter_v1").await;
    let place = format!("plugins.toml:{line}: resources.\"/b\".config");
    assert!(refused.message().ends_with(&place), "{refused}");
    assert!(!refused.message().contains("keeps serving"), "{refused}");
    let (code, output) = host.command(&["reload"]).await;
    assert!(code == 1 && output.trim().ends_with(&place), "{output}");
    let lines = host.log();
    let count = lines.iter().filter(|line| line.text().contains("cannot be served")).count();
    assert_eq!(count, 1, "logged once");
    let served = lines.iter().find(|line| line.message() == "resource is served").unwrap();
    assert_eq!(served.field("lane"), "shared");
}

#[tokio::test]
async fn an_invalid_key_is_reported_with_its_line_by_check_and_run() {
    let setup = Setup::new(PROGRAM).resource("/a", "counter_v1").key("/a", "dialogue", "true");
    let line = setup.toml().lines().position(|line| line.starts_with("dialogue")).unwrap() + 1;
    for command in ["check", "run"] {
        let CommandOutput { code, stderr, .. } = setup.run(&[command]).await;
        assert_eq!(code, Some(1), "{stderr}");
        let place = format!("plugins.toml:{line}: resources.\"/a\".dialogue");
        assert!(stderr.contains(&place), "{stderr}");
    }
}

#[tokio::test]
async fn a_missing_configuration_or_an_address_in_use_exits_with_1() {
    let CommandOutput { code, stderr, .. } =
        Setup::new(PROGRAM).run(&["run", "--config", "nothing.toml"]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("nothing.toml"), "{stderr}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::new(PROGRAM).server("listen", &format!("[\"{address}\"]"));
    let CommandOutput { code, stderr, .. } = setup.run(&["run"]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&format!("cannot listen on {address}")), "{stderr}");
}

#[tokio::test]
async fn help_and_version_are_printed_and_invalid_arguments_exit_with_2() {
    let setup = Setup::new(PROGRAM);
    let CommandOutput { code, stdout, .. } = setup.run(&["--help"]).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("check") && stdout.contains("SIGHUP"), "{stdout}");
    assert!(!stdout.contains("preflight"), "{stdout}");
    let CommandOutput { code, stdout, .. } = setup.run(&["--version"]).await;
    assert_eq!((code, stdout.split_whitespace().count()), (Some(0), 2), "{stdout}");
    assert_eq!(setup.run(&["--nonsense"]).await.code, Some(2));
    assert_eq!(setup.run(&["nonsense"]).await.code, Some(2));
}
