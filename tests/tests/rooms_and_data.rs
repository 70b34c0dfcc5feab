//! Members and names of rooms, and the data of rooms and connections, also across a reload.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Line, Setup, TestHost, within};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

const GONE: &str = "the connection is gone";

async fn host() -> TestHost {
    Setup::new(PROGRAM).resource("/x", "speaker").resource("/other", "speaker").start().await
}

async fn ask(client: &mut Client, command: Value) -> Value {
    client.ask(&command).await
}

async fn join(client: &mut Client, rooms: &[&str]) {
    for room in rooms {
        assert_eq!(ask(client, json!({"do": "join", "room": room})).await, true);
    }
}

/// Returns the uuids of the members of a room.
async fn members(client: &mut Client, room: &str) -> Vec<String> {
    let members = ask(client, json!({"do": "members", "room": room})).await;
    let members = members.as_array().unwrap().iter();
    members.map(|member| member["uuid"].as_str().unwrap().to_owned()).collect()
}

/// Ends a connection and waits until the application has seen it.
async fn end(client: Client, observer: &mut Client) {
    let uuid = client.uuid().to_owned();
    client.close().await;
    let closed = |call: &Value| call["call"] == "close" && call["uuid"] == uuid;
    let seen = async {
        loop {
            let calls = ask(observer, json!({"do": "log-of-calls"})).await;
            if calls.as_array().unwrap().iter().any(closed) {
                return;
            }
        }
    };
    within("the close", seen).await;
}

fn sorted(clients: &[&Client]) -> Vec<String> {
    let mut uuids: Vec<String> = clients.iter().map(|client| client.uuid().to_owned()).collect();
    uuids.sort_unstable();
    uuids
}

#[tokio::test]
async fn an_application_reads_members_and_rooms_also_after_a_reload() {
    let host = host().await;
    let (mut ann, mut bob) = (host.connect("/x").await, host.connect("/x").await);
    let mut other = host.connect("/other").await;
    join(&mut ann, &["zoo", "attic", "middle"]).await;
    join(&mut bob, &["attic"]).await;
    join(&mut other, &["attic", "elsewhere"]).await;
    for is_reloaded in [false, true] {
        if is_reloaded {
            host.reload_same("speaker", "speaker").await;
        }
        assert_eq!(members(&mut ann, "attic").await, sorted(&[&ann, &bob]));
        assert_eq!(members(&mut ann, "zoo").await, sorted(&[&ann]));
        assert_eq!(members(&mut ann, "elsewhere").await, Vec::<String>::new());
        for (command, expected) in [
            (json!({"do": "room-count", "room": "attic"}), json!(2)),
            (json!({"do": "room-count", "room": "elsewhere"}), json!(0)),
            (json!({"do": "rooms"}), json!(["zoo", "attic", "middle"])),
            (json!({"do": "rooms", "to": bob.uuid()}), json!(["attic"])),
            (json!({"do": "room-names"}), json!(["attic", "middle", "zoo"])),
        ] {
            assert_eq!(ask(&mut ann, command.clone()).await, expected, "{command}");
        }
        assert_eq!(
            ask(&mut other, json!({"do": "room-names"})).await,
            json!(["attic", "elsewhere"])
        );
    }
    ask(&mut ann, json!({"do": "leave", "room": "attic"})).await;
    assert_eq!(ask(&mut ann, json!({"do": "rooms"})).await, json!(["zoo", "middle"]));
    join(&mut ann, &["attic", "zoo"]).await;
    assert_eq!(ask(&mut ann, json!({"do": "rooms"})).await, json!(["zoo", "middle", "attic"]));
    end(ann, &mut bob).await;
    assert_eq!(ask(&mut bob, json!({"do": "room-names"})).await, json!(["attic"]));
    assert_eq!(ask(&mut bob, json!({"do": "room-count", "room": "attic"})).await, 1);
}

#[tokio::test]
async fn members_may_leave_while_they_are_visited() {
    let host = host().await;
    let (mut ann, mut bob) = (host.connect("/x").await, host.connect("/x").await);
    join(&mut ann, &["r"]).await;
    join(&mut bob, &["r"]).await;
    assert_eq!(ask(&mut ann, json!({"do": "empty-room", "room": "r"})).await, 2);
    assert_eq!(ask(&mut ann, json!({"do": "room-count", "room": "r"})).await, 0);
    assert_eq!(ask(&mut bob, json!({"do": "rooms"})).await, json!([]));
}

#[tokio::test]
async fn another_resource_and_a_closed_connection_are_gone() {
    let host = host().await;
    let (mut ann, mut bob) = (host.connect("/x").await, host.connect("/x").await);
    let mut other = host.connect("/other").await;
    ask(&mut other, json!({"do": "set-data", "message": "mine"})).await;
    let elsewhere = ask(&mut other, json!({"do": "id"})).await;
    let closed = ask(&mut bob, json!({"do": "id"})).await;
    assert_eq!(ask(&mut ann, json!({"do": "data", "id": closed})).await, Value::Null);
    end(bob, &mut ann).await;
    for id in [elsewhere, closed, json!(1)] {
        for command in ["rooms", "data", "set-data"] {
            let command = json!({"do": command, "id": id, "message": "m"});
            assert_eq!(ask(&mut ann, command.clone()).await["error"], GONE, "{command}");
        }
    }
    assert_eq!(ask(&mut other, json!({"do": "session-data"})).await, "mine");
}

#[tokio::test]
async fn data_of_a_connection_survives_a_reload_and_is_there_in_close() {
    let host = host().await;
    let (mut ann, mut bob) = (host.connect("/x").await, host.connect("/x").await);
    assert_eq!(ask(&mut ann, json!({"do": "session-data"})).await, Value::Null);
    assert_eq!(ask(&mut ann, json!({"do": "data"})).await, Value::Null);
    for (data, expected) in [("seat 12", json!("seat 12")), ("", Value::Null), ("é", json!("é"))]
    {
        let command = json!({"do": "set-data", "to": bob.uuid(), "message": data});
        assert_eq!(ask(&mut ann, command).await, true);
        let command = json!({"do": "data", "to": bob.uuid()});
        assert_eq!(ask(&mut ann, command).await, expected);
        assert_eq!(ask(&mut bob, json!({"do": "session-data"})).await, expected);
    }
    assert_eq!(ask(&mut ann, json!({"do": "session-data"})).await, Value::Null);
    let mut cat = host.connect("/x?data=from+open").await;
    assert_eq!(ask(&mut cat, json!({"do": "session-data"})).await, "from open");
    host.reload_same("speaker", "speaker").await;
    assert_eq!(ask(&mut bob, json!({"do": "session-data"})).await, "é");
    join(&mut bob, &["r"]).await;
    let visited = ask(&mut ann, json!({"do": "members", "room": "r"})).await;
    assert_eq!(visited[0]["data"], "é");
    let position = host.log_position();
    bob.close().await;
    let closed = |line: &Line| line.message() == "closed with data: é";
    host.wait_for_log_since(position, "the close with its data", closed).await;
}

#[tokio::test]
async fn data_of_a_room_survives_a_reload_and_ends_with_its_last_member() {
    let host = host().await;
    let (mut ann, mut bob) = (host.connect("/x").await, host.connect("/x").await);
    let set = |data: &str| json!({"do": "set-room-data", "room": "r", "message": data});
    let get = || json!({"do": "room-data", "room": "r"});
    assert_eq!(ask(&mut ann, get()).await, Value::Null);
    assert_eq!(ask(&mut ann, set("topic")).await["error"], GONE);
    join(&mut ann, &["r"]).await;
    join(&mut bob, &["r"]).await;
    assert_eq!(ask(&mut ann, get()).await, Value::Null);
    for (data, expected) in [("first", json!("first")), ("", Value::Null), ("x", json!("x"))] {
        assert_eq!(ask(&mut ann, set(data)).await, true);
        assert_eq!(ask(&mut bob, get()).await, expected);
    }
    let mut other = host.connect("/other").await;
    join(&mut other, &["r"]).await;
    assert_eq!(ask(&mut other, get()).await, Value::Null);
    host.reload_same("speaker", "speaker").await;
    assert_eq!(ask(&mut bob, get()).await, "x");
    end(ann, &mut bob).await;
    assert_eq!(ask(&mut bob, get()).await, "x");
    ask(&mut bob, json!({"do": "leave", "room": "r"})).await;
    assert_eq!(ask(&mut bob, set("y")).await["error"], GONE);
    join(&mut bob, &["r"]).await;
    assert_eq!(ask(&mut bob, get()).await, Value::Null);
}

#[tokio::test]
async fn data_has_at_most_65536_bytes() {
    let host = host().await;
    let mut ann = host.connect("/x").await;
    join(&mut ann, &["r"]).await;
    for (set, get) in [("set-data", "data"), ("set-room-data", "room-data")] {
        let set = |count: u32| json!({"do": set, "room": "r", "count": count});
        assert_eq!(ask(&mut ann, set(65_536)).await, true);
        let refused = ask(&mut ann, set(65_537)).await;
        assert!(refused["error"].as_str().unwrap().contains("larger than"), "{refused}");
        // The data before is kept.
        assert_eq!(ask(&mut ann, json!({"do": get, "room": "r"})).await, 65_536);
    }
    let command = json!({"do": "set-room-data", "room": "none", "count": 65_537});
    assert!(ask(&mut ann, command).await["error"].as_str().unwrap().contains("larger than"));
}

#[tokio::test]
async fn another_application_finds_no_data_of_the_former_one() {
    let mut host = host().await;
    let mut ann = host.connect("/x").await;
    join(&mut ann, &["r"]).await;
    ask(&mut ann, json!({"do": "set-data", "message": "seat 12"})).await;
    ask(&mut ann, json!({"do": "set-room-data", "room": "r", "message": "topic"})).await;
    let position = host.log_position();
    host.apply(host.setup().resource("/x", "another").library("another", "speaker")).await;
    // The former application still has it when it sees the connection close.
    let closed = |line: &Line| line.message() == "closed with data: seat 12";
    host.wait_for_log_since(position, "the close with its data", closed).await;
    for command in ["session-data", "data", "room-data"] {
        assert_eq!(ask(&mut ann, json!({"do": command, "room": "r"})).await, Value::Null);
    }
}

#[tokio::test]
async fn a_new_start_without_the_state_finds_no_data() {
    let host = host().await;
    let mut ann = host.connect("/x").await;
    ask(&mut ann, json!({"do": "set-data", "message": "seat 12"})).await;
    host.reload_same("speaker", "speaker").await;
    assert_eq!(ask(&mut ann, json!({"do": "session-data"})).await, "seat 12");
    assert_eq!(host.command(&["plugin", "rollback", "speaker", "--fresh"]).await.0, 0);
    assert_eq!(ask(&mut ann, json!({"do": "session-data"})).await, Value::Null);
}

#[tokio::test]
async fn an_instance_that_was_replaced_reads_and_stores_nothing() {
    let host = host().await;
    let mut ann = host.connect("/x").await;
    ask(&mut ann, json!({"do": "set-data", "message": "seat 12"})).await;
    let thread = json!({"do": "thread", "count": 1_000_000, "every_ms": 5, "message": ""});
    assert_eq!(ask(&mut ann, thread).await, true);
    let position = host.log_position();
    host.reload_same("speaker", "speaker").await;
    let later = |line: &Line| line.starts_with("later calls: ");
    let line = host.wait_for_log_since(position, "the calls of the thread", later).await;
    let errors: Vec<&str> =
        line.message().trim_start_matches("later calls: ").split("; ").collect();
    assert_eq!(errors.len(), 8, "{errors:?}");
    assert!(errors.iter().all(|error| error.contains("this instance")), "{errors:?}");
    assert_eq!(ask(&mut ann, json!({"do": "session-data"})).await, "seat 12");
}
