//! The end of an instance, reasons of snapshots, and changed configurations.

use plugsocket_tests::{Line, TestHost};
use serde_json::{Value, json};

use super::{command, defer, reload, worker};

/// Waits until an instance has logged why it retires.
async fn logged(host: &TestHost, position: usize, reason: &str) {
    let is_match = |line: &Line| line.text().contains("retiring") && line.text().contains(reason);
    host.wait_for_log_since(position, "an instance to retire", is_match).await;
}

#[tokio::test]
async fn a_retiring_instance_learns_why_and_can_still_address_connections() {
    let mut host = worker("a").start().await;
    let mut ann = host.connect("/w").await;
    let expect = |packet: Value, reason: &str| {
        assert_eq!(packet["retiring"], reason, "{packet}");
        assert_eq!(packet["all"], "Err(Retired)", "{packet}");
    };
    let echo = json!({"do": "echo", "text": ""});
    command(&mut ann, echo.clone()).await;
    reload(&host, "worker").await;
    expect(ann.receive_json().await, "Replaced");
    command(&mut ann, echo.clone()).await;
    host.apply(worker("b")).await;
    expect(ann.receive_json().await, "Reconfigured");
    command(&mut ann, echo.clone()).await;
    let position = host.log_position();
    assert_eq!(host.command(&["plugin", "disable", "worker"]).await.0, 0);
    logged(&host, position, "Disabled").await;
    assert_eq!(host.command(&["plugin", "enable", "worker"]).await.0, 0);
    let mut ann = host.connect("/w").await;
    command(&mut ann, echo.clone()).await;
    let position = host.log_position();
    let setup = host.setup();
    host.apply(setup.remove("/w").resource("/x", "worker")).await;
    logged(&host, position, "Removed").await;
    let mut ann = host.connect("/x").await;
    command(&mut ann, echo).await;
    let position = host.log_position();
    host.signal("TERM");
    assert!(host.exited().await.success());
    logged(&host, position, "Stopping").await;
}

#[tokio::test]
async fn the_functions_of_a_retiring_instance_end_at_its_deadline() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.4 }";
    let setup = worker("a").server("watchdog", watchdog).config("/w", "retiring", "\"wait\"");
    let host = setup.start().await;
    let mut ann = host.connect("/w").await;
    command(&mut ann, json!({"do": "echo", "text": ""})).await;
    reload(&host, "worker").await;
    // The successor serves meanwhile.
    command(&mut ann, json!({"do": "echo", "text": ""})).await;
    let line = host.wait_for_log("retired", |line| line.text().contains("is_late")).await;
    assert!(line.text().contains("true"), "{}", line.text());
}

#[tokio::test]
async fn a_snapshot_is_taken_for_a_reason() {
    let mut host = worker("a").key("/w", "snapshot_every", "0.2").start().await;
    let mut ann = host.connect("/w").await;
    let calls = json!({"do": "calls"});
    let has = |calls: &Value, reason: &str| {
        calls.as_array().unwrap().contains(&json!(format!("snapshot {reason}")))
    };
    while !has(&command(&mut ann, calls.clone()).await, "Stored") {}
    reload(&host, "worker").await;
    let after = command(&mut ann, calls.clone()).await;
    assert!(has(&after, "Checked") && has(&after, "Replaced"), "{after}");
    host.apply(worker("b").key("/w", "snapshot_every", "0.2")).await;
    let after = command(&mut ann, calls).await;
    assert!(has(&after, "Reconfigured"), "{after}");
}

#[tokio::test]
async fn a_changed_configuration_is_applied_without_a_new_instance() {
    let change =
        |label: &str, change: &str| worker(label).config("/w", "change", &format!("{change:?}"));
    let mut host = worker("a").start().await;
    let (mut ann, mut bob) = (host.connect("/w").await, host.connect("/w").await);
    defer(&mut ann, "1").await;
    let position = host.log_position();
    host.apply(change("b", "apply")).await;
    let echo = json!({"do": "echo", "text": ""});
    bob.send(echo.to_string()).await;
    assert_eq!(bob.until_next().await.packets[0]["by"], "b");
    let swapped = |line: &Line| line.text().contains("by a new instance");
    assert!(!host.log()[position..].iter().any(swapped));
    // Refused: the whole file is not applied, and an instance that has changed changes back.
    let position = host.log_position();
    let setup = change("c", "apply").resource("/x", "worker").config("/x", "label", "\"x\"");
    host.apply(setup).await;
    let setup = change("d", "apply").resource("/x", "worker").config("/x", "change", "\"refuse\"");
    host.write_setup(setup);
    let line = host.wait_for_error(position, "not this one").await;
    assert!(line.text().contains("/x") && line.text().contains("changed configuration"));
    host.wait_for_error(position, "configuration not applied").await;
    bob.send(echo.to_string()).await;
    assert_eq!(bob.until_next().await.packets[0]["by"], "c");
    // Another instance where the application asks for one.
    host.apply(change("e", "restart").resource("/x", "worker")).await;
    bob.send(echo.to_string()).await;
    let packets = bob.until_next().await.packets;
    assert!(packets.iter().any(|packet| packet["by"] == "e"), "{packets:?}");
    let calls = command(&mut bob, json!({"do": "calls"})).await;
    assert!(calls.as_array().unwrap().contains(&json!("snapshot Reconfigured")), "{calls}");
    command(&mut bob, json!({"do": "complete", "name": "1"})).await;
    ann.expect_next().await;
}
