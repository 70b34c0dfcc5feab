//! `plugsocket plugin check`: tries a library without a running host, optionally with a snapshot.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::Path;

use plugsocket_tests::{Setup, plugin_path};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// Runs `plugin check`; returns the exit code and all output.
async fn check(library: &Path, more: &[&str]) -> (Option<i32>, String) {
    let library = library.to_str().unwrap();
    let arguments = [&["plugin", "check", library], more].concat();
    let outcome = Setup::new(PROGRAM).run(&arguments).await;
    (outcome.code, outcome.stdout + &outcome.stderr)
}

#[tokio::test]
async fn plugin_check_accepts_a_valid_library_and_reports_errors() {
    let (code, output) = check(&plugin_path("counter_v1"), &[]).await;
    assert!(code == Some(0) && output.ends_with("fine: it starts\n"), "{code:?} {output}");
    for (library, settings, part) in [
        ("counter_v1", r#"{"refuse_start": true}"#, "it did not start"),
        ("counter_v1", r#"{"nonsense": 1}"#, "nonsense"),
        ("panicker", r#"{"panic_in_start": true}"#, "it panicked"),
        ("ctor_crash", "{}", "its constructor crashed: SIGSEGV"),
        ("ctor_exit", "{}", "exit code 3"),
        ("no_plugin", "{}", "it is not a plugsocket plugin"),
        ("old_abi", "{}", "is incompatible with this host's"),
    ] {
        let (code, output) = check(&plugin_path(library), &["--settings", settings]).await;
        assert!(code == Some(1) && output.contains(part), "{library}: {code:?} {output}");
    }
    let (code, output) = check(&plugin_path("ctor_hang"), &["--timeout", "1"]).await;
    assert!(code == Some(1) && output.contains("did not end within 1s"), "{code:?} {output}");
    let (code, output) = check(Path::new("/nowhere/libx.so"), &[]).await;
    assert!(
        code == Some(1) && output.contains("cannot read /nowhere/libx.so"),
        "{code:?} {output}"
    );
    let (code, output) = check(Path::new("/proc/self/status"), &[]).await;
    assert!(code == Some(1) && output.contains("it is not a shared library"), "{code:?} {output}");
}

#[tokio::test]
async fn plugin_check_restores_a_snapshot() {
    let setup = Setup::new(PROGRAM).resource("/app", "app").library("app", "counter_v1");
    let mut host = setup.key("/app", "snapshot_every", "3600").start().await;
    let mut client = host.connect("/app").await;
    client.send("add").await;
    client.receive_json().await;
    host.signal("TERM");
    assert!(host.exited().await.success());
    let state = host.folder().join(".plugsocket/state/snapshots/%2Fapp.snapshot");
    let with_state = ["--with-state", state.to_str().unwrap()];

    let (code, output) = check(&plugin_path("counter_v2"), &with_state).await;
    assert!(code == Some(0) && output.ends_with("takes over that state\n"), "{code:?} {output}");
    let refuse = [&with_state[..], &["--settings", r#"{"refuse_restore": true}"#]].concat();
    let (code, output) = check(&plugin_path("counter_v2"), &refuse).await;
    assert!(
        code == Some(1) && output.contains("it does not take over the state of"),
        "{code:?} {output}"
    );
    let (code, output) = check(&plugin_path("counter_v2"), &["--with-state", "/nowhere"]).await;
    assert!(code == Some(1) && output.contains("/nowhere does not exist"), "{code:?} {output}");
}
