//! Routing: broadcast, feedback by uuid and ident, rooms and sessions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Client, LineClient, Request, Setup, TestHost};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn host() -> TestHost {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").resource("/php", "feedback");
    setup.resource("/speak", "speaker").plain("/mute", "speaker").start().await
}

/// Expects that nothing was sent to this client.
async fn expect_nothing(client: &mut Client) {
    let next = client.call(&json!({"opcode": "nothing"})).await;
    assert_eq!(next.packets, Vec::<Value>::new());
}

async fn expect_no_line(client: &mut LineClient) {
    let next = client.call(&json!({"opcode": "nothing"})).await;
    assert_eq!(next.packets, Vec::<Value>::new());
}

async fn with_ident(host: &TestHost, path: &str, ident: &str) -> Client {
    host.open(Request::to(path).header("Ident", ident)).await.ready().await
}

#[tokio::test]
async fn a_broadcast_reaches_all_other_websockets_with_a_dialog_and_no_backend() {
    let host = host().await;
    let mut sender = host.connect("/web").await;
    let mut web = [host.connect("/web").await, host.connect("/php").await];
    let mut speaker = host.connect("/speak").await;
    let mut mute = host.open(Request::to("/mute")).await;
    let mut backend = host.connect_backend("/php").await;
    let mut lines = host.connect_lines("/php").await;
    // Broadcasts do not reach resources without a dialog. The answer shows that `mute` is
    // connected.
    mute.send(json!({"do": "whoami"}).to_string()).await;
    mute.receive_json().await;
    let uuid = sender.uuid();
    let text = format!(
        r#"{{ "opcode":"broadcast", "message": "é", "fromUUID":"{uuid}", "extra":[1,  2] }}"#
    );
    sender.send(&text).await;
    sender.expect_next().await;
    for client in web.iter_mut().chain([&mut speaker]) {
        // The packet is forwarded unchanged.
        assert_eq!(client.receive_text().await, text);
    }
    expect_nothing(&mut backend).await;
    expect_no_line(&mut lines).await;
    mute.send(json!({"do": "fyi"}).to_string()).await;
    assert_eq!(mute.receive_json().await["do"], "fyi");
    // A backend's broadcast reaches all browsers.
    lines.send(json!({"opcode": "broadcast", "message": 2})).await;
    lines.expect_next().await;
    for client in web.iter_mut().chain([&mut sender, &mut speaker]) {
        assert_eq!(client.receive_json().await["message"], 2);
    }
    expect_nothing(&mut backend).await;
}

#[tokio::test]
async fn a_uuid_reaches_one_websocket_on_any_resource_and_no_backend() {
    let host = host().await;
    let mut sender = host.connect_lines("/php").await;
    let mut here = host.connect("/php").await;
    let mut there = host.connect("/speak").await;
    let mut other = host.connect("/php").await;
    let mut backend = host.connect_backend("/php").await;
    for receiver in [&mut here, &mut there] {
        let feedback = json!({"opcode": "feedback", "uuid": receiver.uuid(), "message": "m"});
        assert_eq!(sender.call(&feedback).await.fyi, "delivered");
        assert_eq!(receiver.receive_json().await, feedback);
    }
    for uuid in [backend.uuid(), sender.uuid()].map(ToOwned::to_owned) {
        let feedback = json!({"opcode": "feedback", "uuid": uuid, "message": "m"});
        assert_eq!(other.call(&feedback).await.fyi, "gone");
    }
    expect_nothing(&mut other).await;
    expect_nothing(&mut backend).await;
}

#[tokio::test]
async fn an_ident_reaches_clients_of_any_kind() {
    let host = host().await;
    let mut sender = host.connect("/web").await;
    let mut websocket = with_ident(&host, "/web", "a browser").await;
    let backend = Request::to("/php").header("Client-Type", "php").header("Ident", "a script");
    let mut backend = host.open(backend).await.ready().await;
    let opening = "backend\nGET /php HTTP/1.1\nIdent: a line\n\n";
    let mut lines = LineClient::open(host.address(), opening).await.ready().await;
    for ident in ["a browser", "a script", "a line"] {
        let feedback = json!({"opcode": "feedback", "ident": ident, "message": ident});
        assert_eq!(sender.call(&feedback).await.fyi, "delivered");
    }
    assert_eq!(websocket.receive_json().await["message"], "a browser");
    assert_eq!(backend.receive_json().await["message"], "a script");
    assert_eq!(lines.receive_json().await["message"], "a line");
    // The latest connection with an ident receives; when it ends, the previous one does.
    let mut newer = with_ident(&host, "/web", "a browser").await;
    let feedback = json!({"opcode": "feedback", "ident": "a browser", "message": 2});
    sender.call(&feedback).await;
    assert_eq!(newer.receive_json().await, feedback);
    newer.close().await;
    while sender.call(&feedback).await.fyi != "delivered" {}
    assert_eq!(websocket.receive_json().await, feedback);
}

#[tokio::test]
async fn an_ident_is_accepted_only_from_allowed_backends() {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").resource("/speak", "speaker");
    let host = setup.server("trusted_proxies", r#"["127.0.0.1"]"#).start().await;
    let backend = Request::to("/web").header("Client-Type", "php").header("Ident", "import");
    let mut backend = host.open(backend).await.ready().await;
    let forwarded = |path: &str, ident: &str| {
        Request::to(path).header("Ident", ident).header("X-Forwarded-For", "203.0.113.7")
    };
    let _duplicate = host.open(forwarded("/web", "import")).await.ready().await;
    let mut untrusted = host.open(forwarded("/speak", "root")).await.ready().await;
    let mut sender = host.connect("/web").await;
    for (ident, verdict) in [("import", "delivered"), ("root", "gone")] {
        let feedback = json!({"opcode": "feedback", "ident": ident, "message": 1});
        assert_eq!(sender.call(&feedback).await.fyi, verdict);
    }
    assert_eq!(backend.receive_json().await["ident"], "import");
    assert_eq!(untrusted.ask(&json!({"do": "whoami"})).await["ident"], json!(null));
}

#[tokio::test]
async fn a_feedback_without_a_valid_target_reaches_no_client() {
    let host = host().await;
    let mut sender = host.connect("/web").await;
    let mut receiver = host.connect("/web").await;
    let mut second = host.connect("/web").await;
    let (uuid, mac) = receiver.uuid().split_once('.').unwrap();
    let (other, _) = second.uuid().split_once('.').unwrap();
    let malformed = "malformed uuid";
    let targets = [
        (json!({"uuid": true}), "gone"),
        (json!({"uuid": 0}), malformed),
        (json!({"uuid": ""}), "gone"),
        (json!({"uuid": null}), "gone"),
        (json!({"uuid": []}), "gone"),
        (json!({"ident": 0}), "gone"),
        (json!({"ident": true}), "gone"),
        (json!({"ident": ""}), "gone"),
        (json!({}), "gone"),
        // Forged uuids with a wrong or missing signature.
        (json!({"uuid": uuid}), malformed),
        (json!({"uuid": format!("{uuid}.")}), malformed),
        (json!({"uuid": format!("{uuid}.{}", "0".repeat(64))}), "gone"),
        (json!({"uuid": format!("{other}.{mac}")}), "gone"),
        (json!({"uuid": format!("{uuid}.{mac}0")}), malformed),
        (json!({"uuid": format!("{}.{mac}", uuid.to_uppercase())}), malformed),
        (json!({"ident": receiver.uuid()}), "gone"),
    ];
    for (mut packet, fyi) in targets {
        packet["opcode"] = json!("feedback");
        packet["message"] = json!("for whom?");
        assert_eq!(sender.call(&packet).await.fyi, fyi, "{packet}");
    }
    expect_nothing(&mut receiver).await;
    expect_nothing(&mut second).await;
}

#[tokio::test]
async fn publish_reaches_exactly_the_members_of_a_room() {
    let host = host().await;
    let mut members =
        [host.connect("/speak").await, host.connect("/speak").await, host.connect("/speak").await];
    for client in &mut members {
        assert_eq!(client.ask(&json!({"do": "join", "room": "r"})).await, true);
        // A second join has no effect.
        assert_eq!(client.ask(&json!({"do": "join", "room": "r"})).await, true);
    }
    let [first, second, third] = &mut members;
    let publish = json!({"do": "publish", "room": "r", "message": "{\"to\":\"all\"}"});
    assert_eq!(first.ask(&publish).await, 3);
    assert_eq!(second.receive_json().await["to"], "all");
    assert_eq!(third.receive_json().await["to"], "all");
    second.ask(&json!({"do": "leave", "room": "r"})).await;
    let but = json!({
        "do": "publish", "room": "r", "message": "{\"to\":\"some\"}", "except": [first.uuid()]
    });
    assert_eq!(first.ask(&but).await, 1);
    assert_eq!(third.receive_json().await["to"], "some");
    assert_eq!(second.ask(&json!({"do": "publish", "room": "other", "message": "x"})).await, 0);
    let long = json!({"do": "join", "room": "r".repeat(257)});
    assert!(first.ask(&long).await["error"].is_string());
}

#[tokio::test]
async fn a_connection_that_ends_leaves_its_rooms() {
    let host = host().await;
    let mut stays = host.connect("/speak").await;
    let mut goes = host.connect("/speak").await;
    goes.ask(&json!({"do": "join", "room": "r"})).await;
    let publish = json!({"do": "publish", "room": "r", "message": "{}"});
    assert_eq!(stays.ask(&publish).await, 1);
    goes.close().await;
    while stays.ask(&publish).await != 0 {}
}

#[tokio::test]
async fn a_broadcast_has_a_scope_and_exceptions() {
    let host = host().await;
    let mut sender = host.connect("/speak").await;
    let mut near = host.connect("/speak").await;
    let mut far = host.connect("/web").await;
    let mut backend = host.connect_backend("/speak").await;
    let message = r#"{"opcode":"m"}"#;
    for (command, reached) in [
        (json!({"do": "broadcast"}), 3),
        (json!({"do": "broadcast", "websockets": true}), 2),
        (json!({"do": "broadcast", "except": [sender.uuid(), near.uuid()]}), 1),
        (json!({"do": "all"}), 4),
        (json!({"do": "all", "websockets": true, "except": [sender.uuid()]}), 2),
    ] {
        let mut command = command;
        command["message"] = json!(message);
        assert_eq!(sender.ask(&command).await, reached, "{command}");
    }
    // In the order of the commands above, those that include this one.
    for (client, count) in [(&mut near, 4), (&mut far, 2), (&mut backend, 3)] {
        for _ in 0..count {
            assert_eq!(client.receive_text().await, message);
        }
    }
    expect_nothing(&mut far).await;
    for client in [&mut near, &mut backend] {
        assert_eq!(client.call(&json!({"do": "fyi"})).await.packets.len(), 1);
    }
}

#[tokio::test]
async fn an_application_sees_and_reaches_only_sessions_of_its_resource() {
    let host = host().await;
    let mut first = host.connect("/speak").await;
    let second = host.connect("/speak").await;
    let far = host.connect("/web").await;
    let sessions = first.ask(&json!({"do": "sessions"})).await;
    let mut uuids: Vec<_> =
        sessions.as_array().unwrap().iter().map(|s| s["uuid"].clone()).collect();
    let mut expected = vec![json!(first.uuid()), json!(second.uuid())];
    uuids.sort_by_key(ToString::to_string);
    expected.sort_by_key(ToString::to_string);
    assert_eq!(uuids, expected);
    let send = json!({"do": "send", "to": far.uuid(), "message": "x"});
    assert!(first.ask(&send).await["error"].is_string());
}

#[tokio::test]
async fn an_fyi_set_by_the_application_persists() {
    let host = host().await;
    let mut client = host.connect("/speak").await;
    for (fyi, expected) in [("hello", "hello"), ("\"quoted\"\n", "\"quoted\"\n"), ("", "")] {
        assert_eq!(client.call(&json!({"do": "fyi", "fyi": fyi})).await.fyi, expected);
        assert_eq!(client.call(&json!({"do": "whoami"})).await.fyi, expected);
    }
    let long = json!({"do": "fyi", "fyi": "x".repeat(4097)});
    assert!(client.ask(&long).await["error"].is_string());
}

#[tokio::test]
async fn an_application_may_send_from_its_own_thread_and_on_ticks() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker");
    let host = setup.config("/speak", "tick_ms", "20").start().await;
    let mut client = host.connect("/speak").await;
    let mut ticks = 0;
    while ticks < 3 {
        ticks = client.receive_json().await["tick"].as_u64().unwrap();
    }
    client
        .send(json!({"do": "thread", "count": 3, "every_ms": 1, "message": "t"}).to_string())
        .await;
    let mut expected = 1;
    while expected <= 3 {
        let packet = client.receive_json().await;
        if let Some(number) = packet["thread"].as_u64() {
            assert_eq!(number, expected);
            expected += 1;
        }
    }
}
