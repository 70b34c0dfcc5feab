//! Peers that read slowly or not at all: what they may cost, and what becomes of what they are sent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Line, RawClient, Setup, TestHost, masked, opcode};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const MIB: u64 = 1 << 20;

fn closes(line: &Line, code: &str) -> bool {
    line.message() == "connection ends" && line.field("code") == code
}

/// Connections that never read anything behind their handshake.
async fn deaf(host: &TestHost, path: &str, count: usize) -> Vec<RawClient> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(host.raw().await.upgraded(path).await);
    }
    clients
}

#[tokio::test]
async fn a_hundred_readers_that_are_slow_cost_a_mebibyte_each_at_most() {
    const READERS: usize = 100;
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker");
    let host = setup.server("write_timeout", "60").server("close_timeout", "0.2").start().await;
    let mut sender = host.connect("/speak").await;
    let readers = deaf(&host, "/speak", READERS).await;
    let me = sender.uuid().to_owned();
    let before = host.resident_bytes();
    let broadcast = json!({
        "do": "broadcast", "message": "x".repeat(10_000), "except": [me]
    });
    let mut most = 0;
    let mut gone = 0;
    for _ in 0..4000 {
        let reached = sender.ask(&broadcast).await.as_u64().unwrap();
        most = most.max(host.resident_bytes().saturating_sub(before));
        gone = READERS as u64 - reached;
        if reached == 0 {
            break;
        }
    }
    assert_eq!(gone, READERS as u64, "each is closed in the end");
    assert!(most < READERS as u64 * MIB, "{} kB each", most / READERS as u64 / 1024);
    drop(readers);
    assert_eq!(sender.ask(&json!({"do": "fyi"})).await, true);
}

#[tokio::test]
async fn what_is_sent_to_each_by_itself_costs_no_more() {
    const READERS: usize = 10;
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("write_timeout", "60");
    let host = setup.start().await;
    let mut clients = deaf(&host, "/echo", READERS).await;
    let before = host.resident_bytes();
    let messages = masked(opcode::BINARY, &[b'x'; 10_000]).repeat(100);
    let mut most = 0;
    // The echo of each is its own copy. The sockets fill, then the outboxes; then nothing is read any more.
    for client in &mut clients {
        let mut written = 0;
        while written < 20 * messages.len() {
            let write = tokio::time::timeout(
                std::time::Duration::from_millis(300),
                client.try_write(&messages),
            );
            if write.await.is_err() {
                break;
            }
            written += messages.len();
        }
        most = most.max(host.resident_bytes().saturating_sub(before));
    }
    assert!(most < READERS as u64 * 2 * MIB, "{} kB each", most / READERS as u64 / 1024);
    let too_slow = host.log().iter().filter(|line| closes(line, "1013")).count();
    assert_eq!(too_slow, 0, "a peer that sends without reading is read more slowly, not closed");
}

#[tokio::test]
async fn one_message_of_max_message_always_finds_a_place_and_the_dialog_behind_it() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker").resource("/web", "feedback");
    let setup = setup.server("outbox_bytes", "262144").server("max_message", "8_000_000");
    let host = setup.start().await;
    let mut sender = host.connect("/web").await;
    let mut reader = host.connect("/web").await;
    let large = json!({"opcode": "broadcast", "message": "x".repeat(7_900_000)});
    for _ in 0..3 {
        assert_eq!(sender.call(&large).await.packets.len(), 0);
        assert_eq!(reader.receive_json().await["message"].as_str().unwrap().len(), 7_900_000);
    }
    // Its own echo, twice without waiting in between, and a small one behind each.
    let echo = json!({"opcode": "echo", "message": "y".repeat(3_000_000)}).to_string();
    for _ in 0..2 {
        sender.send(&echo).await;
        sender.send(r#"{"opcode":"echo","message":"z"}"#).await;
    }
    for length in [3_000_000, 1, 3_000_000, 1] {
        let packet = sender.receive_json().await;
        assert_eq!(packet["message"].as_str().unwrap().len(), length);
        assert_eq!(sender.receive_json().await["opcode"], "next");
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_within_write_timeout_is_closed() {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").server("write_timeout", "0.3");
    let host = setup.server("close_timeout", "0.2").start().await;
    let _deaf = deaf(&host, "/web", 1).await;
    let mut sender = host.connect("/web").await;
    // More than both sockets' buffers hold, in one message: it is the writing that does not end, not the outbox that is full.
    let large = json!({"opcode": "broadcast", "message": "x".repeat(14_000_000)});
    assert_eq!(sender.call(&large).await.packets.len(), 0);
    let is_meant = |line: &Line| closes(line, "1013") && line.text().contains("write_timeout");
    host.wait_for_log("the end of the peer that does not read", is_meant).await;
}

/// The numbers in `{"n":…}` of what a peer reads when it begins to read only after the host gave up: each message whole, none missing.
#[track_caller]
fn check_numbers(messages: &[&[u8]]) {
    let number = |message: &&[u8]| {
        let packet: serde_json::Value = serde_json::from_slice(message).unwrap_or_else(|error| {
            panic!("{error}: {}", message[..message.len().min(60)].escape_ascii())
        });
        packet["n"].as_u64()
    };
    let numbers: Vec<u64> = messages.iter().filter_map(number).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert!(numbers.len() > 20, "{} messages", numbers.len());
}

/// Whole messages at the beginning of what was received; a frame that was begun and not ended must be the last.
fn whole_frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let [first, length, ..] = bytes {
        let (header, length) = match length {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => (
                10,
                usize::try_from(u64::from_be_bytes(*bytes[2..].first_chunk().unwrap())).unwrap(),
            ),
            length => (2, usize::from(*length)),
        };
        match *first {
            opcode::TEXT => messages.extend(bytes.get(header..header + length)),
            opcode::CLOSE => {}
            other => panic!("a frame that begins with {other:#x}"),
        }
        bytes = bytes.get(header + length..).unwrap_or_default();
    }
    messages
}

#[tokio::test]
async fn a_write_that_is_given_up_is_followed_by_nothing_that_could_be_misread() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker").server("write_timeout", "0.2");
    let setup = setup.server("outbox_bytes", "64_000_000").server("outbox_messages", "100_000");
    for sizes in [&[3000, 3000, 3000, 20_000][..], &[200_000, 1000]] {
        let host = setup.clone().server("close_timeout", "0.2").start().await;
        let mut frames = host.raw().await.upgraded("/speak").await;
        let mut lines = host.raw().await;
        lines.write("backend\nGET /speak HTTP/1.1\n\n").await;
        let mut sender = host.connect("/speak").await;
        let me = sender.uuid().to_owned();
        let (mut n, mut ended) = (0, 0);
        while ended < 2 {
            let message = json!({"n": n, "x": "x".repeat(sizes[n % sizes.len()])}).to_string();
            let broadcast = json!({"do": "broadcast", "message": message, "except": [me]});
            sender.ask(&broadcast).await;
            n += 1;
            ended = host.log().iter().filter(|line| closes(line, "1013")).count();
        }
        assert!(
            host.log()
                .iter()
                .filter(|line| closes(line, "1013"))
                .all(|line| line.text().contains("write_timeout"))
        );
        check_numbers(&whole_frames(&frames.read_to_end().await));
        let bytes = lines.read_to_end().await;
        let mut found: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        // Nothing, or a line that was not ended.
        found.pop();
        check_numbers(&found);
    }
}

#[tokio::test]
async fn a_peer_that_takes_a_large_message_slowly_is_not_taken_for_dead() {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").server("ping_interval", "0.2");
    let host = setup.server("write_timeout", "30").start().await;
    let mut slow = host.raw().await.upgraded("/web").await;
    let mut sender = host.connect("/web").await;
    let large = json!({"opcode": "broadcast", "message": "x".repeat(14_000_000)});
    assert_eq!(sender.call(&large).await.packets.len(), 0);
    // Of a peer that reads, the host would have wanted an answer long since.
    let mut other = host.raw().await.upgraded("/web").await;
    let mut pings = 0;
    while pings < 6 {
        let frame = other.frame().await.expect("pings");
        if frame.first == opcode::PING {
            pings += 1;
            other.write(masked(opcode::PONG, b"")).await;
        }
    }
    let mut received = 0;
    while received < 14_000_000 {
        received = received.max(slow.frame().await.expect("the message").payload.len());
    }
    let echo = json!({"opcode": "echo", "message": "still here"}).to_string();
    slow.write(masked(opcode::TEXT, echo.as_bytes())).await;
    loop {
        let frame = slow.frame().await.expect("an echo");
        match frame.first {
            opcode::PING => slow.write(masked(opcode::PONG, b"")).await,
            opcode::TEXT if frame.payload == echo.as_bytes() => break,
            other => assert_ne!(other, opcode::CLOSE),
        }
    }
}

/// Reads what a slow peer was sent in the end: the numbers of all `{"value":n}`.
async fn values(client: &mut RawClient, last: u64) -> Vec<u64> {
    let mut found = Vec::new();
    while found.last() != Some(&last) {
        let frame = client.frame().await.expect("more values");
        let packet: serde_json::Value = serde_json::from_slice(&frame.payload).unwrap_or_default();
        found.extend(packet["value"].as_u64());
    }
    found
}

#[tokio::test]
async fn where_the_oldest_are_dropped_a_slow_peer_stays_and_reads_the_newest() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker").plain("/plain", "speaker");
    let setup = setup.key("/speak", "outbox_policy", r#""drop_oldest""#);
    let setup = setup.key("/plain", "outbox_policy", r#""drop_oldest""#);
    let setup = setup.key("/speak", "outbox_messages", "100").server("write_timeout", "30");
    let host = setup.key("/plain", "outbox_bytes", "300_000").start().await;
    for (path, message) in [("/speak", "m".to_owned()), ("/plain", "m".repeat(10_000))] {
        let mut client = host.raw().await.upgraded(path).await;
        // All in one callback: nothing can be written meanwhile.
        let command = json!({"do": "values", "count": 5000, "message": message});
        client.write(masked(opcode::TEXT, command.to_string().as_bytes())).await;
        let values = values(&mut client, 5000).await;
        assert!(values.is_sorted() && values.len() < 5000, "{} of 5000", values.len());
        let newest = &values[values.len().saturating_sub(20)..];
        assert!(newest.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{newest:?}");
        let is_meant = |line: &Line| {
            line.level() == "WARN" && line.says("slow peer") && line.field("resource") == path
        };
        host.wait_for_log("a line about it", is_meant).await;
        assert_eq!(host.log().into_iter().filter(is_meant).count(), 1, "no more than one a minute");
    }
    let (_, status) = host.command(&["status", "--json"]).await;
    assert!(status.contains(r#""dropped_messages":4"#), "{status}");
}

#[tokio::test]
async fn where_values_are_conflated_the_last_of_each_key_always_arrives() {
    let setup = Setup::new(PROGRAM).plain("/speak", "speaker");
    let setup = setup.key("/speak", "outbox_policy", r#""conflate""#);
    let host = setup.key("/speak", "outbox_messages", "20").start().await;
    let mut client = host.raw().await.upgraded("/speak").await;
    let command = |key: &str| {
        json!({"do": "values", "count": 5000, "key": key, "message": "m".repeat(1000)}).to_string()
    };
    client.write(masked(opcode::TEXT, command("a").as_bytes())).await;
    // Few of them, and the last.
    let found = values(&mut client, 5000).await;
    assert!(found.is_sorted() && found.len() < 100, "{} of 5000", found.len());
    // Without a key there is nothing to conflate.
    client.write(masked(opcode::TEXT, command("").as_bytes())).await;
    loop {
        let frame = client.frame().await.expect("a close frame");
        if frame.first == opcode::CLOSE {
            assert_eq!(frame.close_code(), Some(1013), "{frame:?}");
            break;
        }
    }
    // To many and into a room it is the same function; elsewhere it is the plain one.
    let mut reader = host.open(plugsocket_tests::Request::to("/speak")).await;
    for (ask, expected) in [
        (json!({"do": "join", "room": "r"}), r#"{"do":"join","result":true}"#),
        (json!({"do": "publish-latest", "room": "r", "key": "k", "message": "p"}), "p"),
        (json!({"do": "fyi"}), r#"{"do":"publish-latest","result":1}"#),
        (
            json!({"do": "latest", "key": "k".repeat(257), "message": "x"}),
            r#"{"do":"fyi","result":true}"#,
        ),
    ] {
        reader.send(ask.to_string()).await;
        assert_eq!(reader.receive_text().await, expected);
    }
    assert!(reader.receive_text().await.contains("larger than"));
}
