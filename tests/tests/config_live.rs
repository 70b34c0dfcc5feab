//! Changes of `plugins.toml` while the host runs and connections are open.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Line, RawClient, Request, Setup, TestHost};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).resource("/count", "counter_v1").resource("/web", "feedback")
}

async fn counts(client: &mut Client, by: &str, seq: u64) {
    client.send("x").await;
    let next = client.until_next().await;
    let counted = &next.packets[0];
    assert_eq!((&counted["by"], &counted["seq"]), (&by.into(), &seq.into()), "{counted}");
}

/// Writes a configuration that must be rejected; returns the log line with the reason.
async fn expect_rejection(host: &TestHost, text: &str, reason: &str) -> Line {
    let position = host.log_position();
    host.write_config(text);
    let line = host.wait_for_error(position, reason).await;
    let stays = |line: &Line| {
        line.starts_with("configuration not applied; the running configuration stays in effect")
    };
    host.wait_for_log_since(position, "the configuration to be rejected", stays).await;
    line
}

#[tokio::test]
async fn an_added_resource_is_served_without_effect_on_others() {
    let mut host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    let line = host.apply(host.setup().resource("/new", "speaker")).await;
    assert!(line.field("added").contains("/new"), "{line}");
    let mut newcomer = host.connect("/new").await;
    assert_eq!(newcomer.ask(&json!({"do": "fyi"})).await, true);
    counts(&mut client, "v1", 2).await;
}

#[tokio::test]
async fn a_removed_resource_closes_its_connections_with_1001() {
    let mut host = setup().resource("/gone", "speaker").plain("/plain", "speaker").start().await;
    let mut client = host.connect("/count").await;
    let mut dialog = host.connect("/gone").await;
    let mut plain = host.open(Request::to("/plain")).await;
    plain.send(json!({"do": "fyi"}).to_string()).await;
    plain.receive_json().await;
    host.apply(host.setup().remove("/gone").remove("/plain")).await;
    let packet = dialog.expect_close_packet(1001).await;
    assert!(packet["error"].as_str().unwrap().contains("removed"), "{packet}");
    plain.expect_close(1001).await;
    host.open(Request::to("/gone")).await.expect_close_packet(1008).await;
    counts(&mut client, "v1", 1).await;
    // The resource can be added again.
    host.apply(host.setup().resource("/gone", "speaker")).await;
    host.connect("/gone").await;
}

#[tokio::test]
async fn a_remapped_resource_closes_sessions_in_the_old_application_and_opens_them_in_the_new() {
    let mut host = setup().resource("/x", "panicker").start().await;
    let mut client = host.connect("/x").await;
    // The old application logs that it received the close.
    client.send("panic in close").await;
    client.receive_text().await;
    client.expect_next().await;
    let position = host.log_position();
    host.apply(host.setup().resource("/x", "speaker")).await;
    let closed = |line: &Line| line.text().contains("panic requested in close");
    host.wait_for_log_since(position, "the close", closed).await;
    let calls = client.ask(&json!({"do": "log-of-calls"})).await;
    assert_eq!(calls[0], json!({"call": "open", "uuid": client.uuid()}));
    // A connection that the new application refuses is closed.
    host.apply(host.setup().resource("/x", "panicker")).await;
    let mut refused = host.open(Request::to("/x?refuse=not+mine")).await.ready().await;
    host.apply(host.setup().resource("/x", "speaker")).await;
    assert_eq!(refused.expect_close_packet(1008).await["error"], "not mine");
    assert_eq!(client.ask(&json!({"do": "fyi"})).await, true);
}

#[tokio::test]
async fn a_reconfigured_application_keeps_state_and_connections() {
    let mut host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    for (by, seq) in [("anne", 2), ("bert", 3)] {
        let line = host.apply(host.setup().config("/count", "by", &format!("{by:?}"))).await;
        assert!(line.field("reconfigured").contains("/count"), "{line}");
        counts(&mut client, by, seq).await;
    }
}

#[tokio::test]
async fn a_changed_lane_keeps_state_and_order() {
    let mut host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    let mut seq = 1;
    for lane in ["\"thread\"", "\"shared\"", "\"thread\""] {
        for _ in 0..20 {
            client.send("x").await;
        }
        host.apply(host.setup().key("/count", "lane", lane)).await;
        for _ in 0..20 {
            seq += 1;
            assert_eq!(client.until_next().await.packets[0]["seq"], seq);
        }
        seq += 1;
        counts(&mut client, "v1", seq).await;
        counts(&mut host.connect("/count").await, "v1", 1).await;
    }
}

#[tokio::test]
async fn changed_dialog_and_subprotocols_apply_to_new_connections() {
    let mut host = setup().start().await;
    let mut old = host.connect("/count").await;
    let setup = host.setup().key("/count", "dialog", "false");
    host.apply(setup.key("/count", "subprotocols", r#"["v2"]"#)).await;
    counts(&mut old, "v1", 1).await;
    let request = Request::to("/count").header("Sec-WebSocket-Protocol", "v2");
    let mut new = host.open(request).await;
    assert_eq!(new.protocol(), Some("v2"));
    for _ in 0..2 {
        new.send("x").await;
        assert_eq!(new.receive_json().await["opcode"], "counted");
    }
    counts(&mut old, "v1", 2).await;
}

#[tokio::test]
async fn an_invalid_file_changes_nothing_and_is_reported_with_line_and_key() {
    let mut host = setup().start().await;
    let mut client = host.connect("/count").await;
    let good = host.setup().resource("/new", "speaker");
    for (key, value) in [("dialogue", "true"), ("lane", "\"fast\""), ("dialog", "1")] {
        let text = good.clone().key("/new", key, value).toml();
        let at = text.lines().position(|line| line.starts_with(&format!("{key} ="))).unwrap() + 1;
        let place = format!("plugins.toml:{at}: resources.\"/new\".{key}: ");
        let line = expect_rejection(&host, &text, key).await;
        assert!(line.message().contains(&place), "{line}");
    }
    expect_rejection(&host, "[server\n", "plugins.toml:1").await;
    host.open(Request::to("/new")).await.expect_close_packet(1008).await;
    counts(&mut client, "v1", 1).await;
    host.apply(good).await;
    host.connect("/new").await;
    counts(&mut client, "v1", 2).await;
}

#[tokio::test]
async fn a_file_without_resources_is_rejected() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    for text in ["", "[server]\nplugin_dir = \"plugins\"\n"] {
        expect_rejection(&host, text, "it maps no resource any more").await;
        assert!(host.log().iter().any(|line| line.text().contains("plugsocket stop")));
    }
    counts(&mut client, "v1", 1).await;
}

#[tokio::test]
async fn a_plugin_that_does_not_start_rejects_the_whole_file() {
    let host = setup().resource("/panic", "panicker").start().await;
    let mut client = host.connect("/count").await;
    let changed = host.setup().config("/count", "by", "\"new\"");
    for (setup, reason) in [
        (changed.clone().resource("/new", "nowhere").without_library("nowhere"), "libnowhere.so"),
        (changed.clone().resource("/new", "speaker").config("/new", "x", "1"), "did not start"),
        (changed.clone().resource("/new", "no_plugin"), "not a plugsocket plugin"),
        (changed.clone().config("/panic", "panic_in_start", "true"), "panic requested in start"),
    ] {
        setup.copy_libraries(host.folder());
        expect_rejection(&host, &setup.toml(), reason).await;
        counts(&mut host.connect("/count").await, "v1", 1).await;
    }
    counts(&mut client, "v1", 1).await;
}

#[tokio::test]
async fn a_refused_state_keeps_the_previous_configuration() {
    let mut host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    let position = host.log_position();
    host.write_setup(host.setup().config("/count", "refuse_restore", "true"));
    host.wait_for_error(position, "refusal requested by `refuse_restore`").await;
    counts(&mut client, "v1", 2).await;
}

#[tokio::test]
async fn keys_that_need_a_restart_are_reported_and_the_rest_is_applied() {
    let mut host = setup().start().await;
    let mut client = host.connect("/count").await;
    let position = host.log_position();
    let setup = host.setup().server("listen", r#"["127.0.0.1:1"]"#).resource("/new", "speaker");
    host.apply(setup).await;
    let is_warning = |line: &Line| line.level() == "WARN" && line.message().contains("restart");
    let line = host.wait_for_log_since(position, "the warning", is_warning).await;
    assert_eq!(line.field("keys"), "listen");
    host.connect("/new").await;
    counts(&mut client, "v1", 1).await;
}

#[tokio::test]
async fn sighup_reloads_the_configuration() {
    // File events take effect only after ten minutes.
    let mut host = setup().reload("quiet", "600").start().await;
    let position = host.log_position();
    host.write_setup(host.setup().resource("/new", "speaker"));
    host.signal("HUP");
    let applied = |line: &Line| line.starts_with("configuration applied");
    host.wait_for_log_since(position, "the configuration to be applied", applied).await;
    host.connect("/new").await;
}

#[tokio::test]
async fn a_configuration_replaced_by_rename_is_noticed() {
    let host = setup().start().await;
    let position = host.log_position();
    let setup = host.setup().resource("/new", "speaker");
    setup.copy_libraries(host.folder());
    let draft = host.folder().join(".plugins.toml.swp");
    std::fs::write(&draft, setup.toml()).unwrap();
    std::fs::rename(draft, host.folder().join("plugins.toml")).unwrap();
    let applied = |line: &Line| line.starts_with("configuration applied");
    host.wait_for_log_since(position, "the configuration to be applied", applied).await;
    host.connect("/new").await;
}

#[tokio::test]
async fn changed_limits_and_lists_apply_to_new_connections() {
    let mut host = setup().start().await;
    let mut client = host.connect("/count").await;
    let listed = r#"["https://www.example.org"]"#;
    let setup = host.setup().server("allowed_origins", listed).server("allowed_ips", r#"["::1"]"#);
    let line = host.apply(setup.server("max_message", "1000")).await;
    assert!(line.field("server").contains("allowed_origins"), "{line}");
    let mut refused = host.raw().await;
    refused.write(RawClient::handshake("/count")).await;
    assert_eq!(refused.last_response().await.status, 403);
    let request = Request::to("/count").header("Origin", "https://www.example.org");
    let mut new = host.open(request).await.ready().await;
    new.send("x".repeat(1001)).await;
    let packet: Value = new.expect_close_packet(1009).await;
    assert!(packet["error"].is_string());
    // The old limit still applies to the existing connection.
    client.send("x".repeat(1001)).await;
    assert_eq!(client.until_next().await.packets.len(), 1);
    // Existing connections count against a new limit.
    for limit in ["max_connections", "max_per_ip"] {
        host.apply(host.setup().server("allowed_origins", "[]").server(limit, "1")).await;
        let mut refused = host.raw().await;
        refused.write(RawClient::handshake("/count")).await;
        assert_eq!(refused.last_response().await.status, 503);
        host.apply(host.setup().server(limit, "0")).await;
    }
}

#[tokio::test]
async fn an_unmapped_library_is_reported_and_loaded_once_mapped() {
    let mut host = setup().start().await;
    let position = host.log_position();
    host.replace_library("spare", "speaker");
    let offered = |line: &Line| line.starts_with("available");
    host.wait_for_log_since(position, "the library to be reported", offered).await;
    host.apply(host.setup().resource("/spare", "spare")).await;
    host.connect("/spare").await;
}

#[tokio::test]
async fn two_resources_change_their_applications_in_one_edit_under_traffic() {
    const MESSAGES: usize = 50;
    let setup = Setup::new(PROGRAM).resource("/a", "counter_v1").resource("/b", "counter_v2");
    let mut host = setup.start().await;
    let (mut a, mut b) = (host.connect("/a").await, host.connect("/b").await);
    for number in 0..MESSAGES {
        a.send(&number.to_string()).await;
        b.send(&number.to_string()).await;
    }
    let swapped = host.setup().resource("/a", "counter_v2").resource("/b", "counter_v1");
    let line = host.apply(swapped).await;
    let remapped = line.field("remapped");
    assert!(remapped.contains("/a") && remapped.contains("/b"), "{line}");
    for number in MESSAGES..2 * MESSAGES {
        a.send(&number.to_string()).await;
        b.send(&number.to_string()).await;
    }
    for (client, before, after) in [(&mut a, "v1", "v2"), (&mut b, "v2", "v1")] {
        let mut by = before;
        for number in 0..2 * MESSAGES {
            let next = client.until_next().await;
            let [answer] = next.packets.as_slice() else { panic!("{:?}", next.packets) };
            assert_eq!(answer["message"], number.to_string());
            // The switch happens between two messages, and only once.
            if answer["by"] == after {
                by = after;
            }
            assert_eq!(answer["by"], by, "{number}");
        }
        assert_eq!(by, after);
    }
}
