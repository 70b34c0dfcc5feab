//! What a peer may take of the host: each limit, and what is told to whoever goes past it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::Setup;
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

#[tokio::test]
async fn a_connection_is_in_no_more_than_max_rooms() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker").server("max_rooms", "3");
    let host = setup.start().await;
    let mut ann = host.connect("/speak").await;
    let mut bob = host.connect("/speak").await;
    let join = |room: &str| json!({"do": "join", "room": room});
    let too_many = json!({"error": "more than the host's limit"});
    for (room, expected) in [
        ("a", json!(true)),
        ("b", json!(true)),
        ("a", json!(true)),
        ("c", json!(true)),
        ("d", too_many.clone()),
        ("b", json!(true)),
    ] {
        assert_eq!(ann.ask(&join(room)).await, expected, "{room}");
    }
    assert_eq!(ann.ask(&json!({"do": "leave", "room": "b"})).await, true);
    assert_eq!(ann.ask(&join("d")).await, true);
    assert_eq!(ann.ask(&join("e")).await, too_many);
    // It is a limit of each, and a room that was refused has no member.
    assert_eq!(bob.ask(&join("e")).await, true);
    for (room, expected) in [("e", 1), ("d", 1), ("b", 0)] {
        let publish = json!({"do": "publish", "room": room, "message": "{}"});
        let reached: Value = bob.ask(&publish).await;
        assert_eq!(reached, expected, "{room}");
    }
}
