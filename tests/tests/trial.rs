//! `plugsocket plugin check`: a library is tried without a host, with a real state if there is one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::Path;

use plugsocket_tests::{Setup, plugin_path};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// What a check says, and with which exit code.
async fn check(library: &Path, more: &[&str]) -> (Option<i32>, String) {
    let library = library.to_str().unwrap();
    let arguments = [&["plugin", "check", library], more].concat();
    let outcome = Setup::new(PROGRAM).run(&arguments).await;
    (outcome.code, outcome.said + &outcome.complained)
}

#[tokio::test]
async fn a_library_that_would_serve_is_fine_and_what_keeps_another_from_it_is_said() {
    let (code, said) = check(&plugin_path("counter_v1"), &[]).await;
    assert!(code == Some(0) && said.ends_with("fine: it starts\n"), "{code:?} {said}");
    for (library, settings, part) in [
        ("counter_v1", r#"{"refuse_start": true}"#, "it did not start"),
        ("counter_v1", r#"{"nonsense": 1}"#, "nonsense"),
        ("panicker", r#"{"panic_in_start": true}"#, "it panicked"),
        ("ctor_crash", "{}", "its constructor crashed: SIGSEGV"),
        ("ctor_exit", "{}", "exit code 3"),
        ("no_plugin", "{}", "it is no plugsocket plugin"),
        ("old_abi", "{}", "does not fit this host's"),
    ] {
        let (code, said) = check(&plugin_path(library), &["--settings", settings]).await;
        assert!(code == Some(1) && said.contains(part), "{library}: {code:?} {said}");
    }
    let (code, said) = check(&plugin_path("ctor_hang"), &["--timeout", "1"]).await;
    assert!(code == Some(1) && said.contains("did not end within 1s"), "{code:?} {said}");
    let (code, said) = check(Path::new("/nowhere/libx.so"), &[]).await;
    assert!(code == Some(1) && said.contains("cannot read /nowhere/libx.so"), "{code:?} {said}");
    let (code, said) = check(Path::new("/proc/self/status"), &[]).await;
    assert!(code == Some(1) && said.contains("it is no shared library"), "{code:?} {said}");
}

#[tokio::test]
async fn a_real_state_is_tried_before_the_library_is() {
    let setup = Setup::new(PROGRAM).resource("/app", "app").library("app", "counter_v1");
    let mut host = setup.key("/app", "snapshot_every", "3600").start().await;
    let mut client = host.connect("/app").await;
    client.send("add").await;
    client.receive_json().await;
    host.signal("TERM");
    assert!(host.ended().await.success());
    let state = host.folder().join(".plugsocket/state/snapshots/%2Fapp.snapshot");
    let with_state = ["--with-state", state.to_str().unwrap()];

    let (code, said) = check(&plugin_path("counter_v2"), &with_state).await;
    assert!(code == Some(0) && said.ends_with("takes over that state\n"), "{code:?} {said}");
    let refuse = [&with_state[..], &["--settings", r#"{"refuse_restore": true}"#]].concat();
    let (code, said) = check(&plugin_path("counter_v2"), &refuse).await;
    assert!(
        code == Some(1) && said.contains("it does not take over the state of"),
        "{code:?} {said}"
    );
    let (code, said) = check(&plugin_path("counter_v2"), &["--with-state", "/nowhere"]).await;
    assert!(code == Some(1) && said.contains("/nowhere is not there"), "{code:?} {said}");
}
