//! Slow peers, slow applications, and those who must not notice them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Line, Request, Setup, masked, opcode, within};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const MIB: u64 = 1 << 20;

fn is_too_slow(line: &Line) -> bool {
    line.message() == "connection ends" && line.field("code") == "1013"
}

#[tokio::test]
async fn a_client_that_never_reads_is_disconnected_and_the_others_are_served() {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").server("max_message", "100_000");
    let setup = setup.server("outbox_bytes", "400_000").server("write_timeout", "0.5");
    let host = setup.server("close_timeout", "0.2").start().await;
    let mut deaf = host.raw().await.upgraded("/web").await;
    let mut sender = host.connect("/web").await;
    let mut reader = host.connect("/web").await;
    let broadcast = json!({"opcode": "broadcast", "message": "x".repeat(90_000)});
    let mut sent = 0;
    while !host.log().iter().any(is_too_slow) {
        sent += 1;
        assert!(sent < 10_000, "it is never disconnected");
        assert_eq!(sender.call(&broadcast).await.packets.len(), 0);
        assert_eq!(reader.receive_json().await["opcode"], "broadcast");
    }
    // What was on its way it may read; there may have been no place for a close frame any more.
    assert!(!deaf.read_to_end().await.is_empty());
    assert_eq!(sender.call(&broadcast).await.packets.len(), 0);
}

#[tokio::test]
async fn a_slow_client_reads_that_it_was_too_slow_if_it_reads_at_last() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker");
    let host = setup.server("outbox_messages", "50").start().await;
    let mut client = host.connect("/speak").await;
    let mut other = host.connect("/speak").await;
    // More in one callback than the outbox holds.
    client.send(json!({"do": "thread", "count": 1_000_000, "message": "m"}).to_string()).await;
    let closing = loop {
        let packet = client.receive_json().await;
        if packet["opcode"] == "close" {
            break packet;
        }
    };
    assert!(closing["error"].as_str().unwrap().contains("too slow"), "{closing}");
    client.expect_close(1013).await;
    assert_eq!(other.ask(&json!({"do": "fyi"})).await, true);
}

#[tokio::test]
async fn pings_of_a_client_that_never_reads_do_not_pile_up() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("write_timeout", "0.5");
    let host = setup.server("close_timeout", "0.2").start().await;
    let before = host.resident_bytes();
    let mut client = host.raw().await.upgraded("/echo").await;
    let pings = masked(opcode::PING, &[b'x'; 125]).repeat(1000);
    // Its pongs find no way, so the host reads no further, and disconnects it in the end.
    let mut sent = 0;
    while client.try_write(&pings).await.is_ok() {
        sent += pings.len();
        assert!(sent < 500_000_000, "it is never disconnected");
    }
    let grown = host.resident_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "{} MiB for {sent} bytes of pings", grown / MIB);
    let mut other = host.open(Request::to("/echo")).await;
    other.send("x").await;
    assert_eq!(other.receive_text().await, "x");
}

#[tokio::test]
async fn a_blocked_plugin_does_not_delay_other_resources() {
    let setup = Setup::new(PROGRAM).resource("/block", "blocker").resource("/web", "feedback");
    let folder = std::env::temp_dir().join(format!("plugsocket-release-{}", std::process::id()));
    let release = format!("{:?}", folder.to_str().unwrap());
    let host = setup.plain("/echo", "echo").config("/block", "release", &release).start().await;
    let mut blocked = host.connect("/block").await;
    let mut behind = host.connect("/block").await;
    blocked.send("block forever").await;
    behind.send("waits").await;
    let mut web = host.connect("/web").await;
    let mut echo = host.open(Request::to("/echo")).await;
    for n in 0..200 {
        let packet = json!({"opcode": "echo", "message": n});
        assert_eq!(web.call(&packet).await.packets, [packet]);
        echo.send("x").await;
        assert_eq!(echo.receive_text().await, "x");
    }
    // New connections come in, too, but on the resource that is blocked.
    host.connect("/web").await;
    std::fs::write(&folder, "").unwrap();
    assert_eq!(blocked.receive_text().await, "block forever");
    assert_eq!(behind.receive_text().await, "waits");
    std::fs::remove_file(folder).unwrap();
}

#[tokio::test]
async fn a_client_of_a_blocked_resource_is_read_no_faster_than_handled() {
    const MESSAGES: usize = 800;
    let setup = Setup::new(PROGRAM).plain("/block", "blocker").plain("/echo", "echo");
    let host = setup.server("inbox_messages", "4").start().await;
    let mut client = host.raw().await.upgraded("/block").await;
    client.write(masked(opcode::TEXT, b"block 3000")).await;
    let (mut from, mut to) = tokio::io::split(client.into_stream());
    let message = masked(opcode::BINARY, &[b'x'; 65_000]);
    let before = host.resident_bytes();
    let mut both = tokio::task::JoinSet::new();
    both.spawn(async move {
        for _ in 0..MESSAGES {
            to.write_all(&message).await.unwrap();
        }
    });
    // As long as the application is blocked, what cannot be handled is not read.
    let mut echo = host.open(Request::to("/echo")).await;
    let mut most = 0;
    for _ in 0..2000 {
        echo.send("x").await;
        assert_eq!(echo.receive_text().await, "x");
        most = most.max(host.resident_bytes().saturating_sub(before));
    }
    assert!(most < 20 * MIB, "{} MiB of 50", most / MIB);
    // Then everything is answered: nothing was lost.
    both.spawn(async move {
        let mut left = 2 + "block 3000".len() + MESSAGES * (4 + 65_000);
        let mut buffer = vec![0; 65_536];
        while left > 0 {
            // A ping may be among them.
            left = left.saturating_sub(from.read(&mut buffer).await.unwrap());
        }
    });
    while let Some(ended) = within("all answers", both.join_next()).await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_the_host_does_not_read_is_neither_dead_nor_late_nor_idle() {
    let setup = Setup::new(PROGRAM).resource("/block", "blocker").server("ping_interval", "0.2");
    let setup = setup.server("message_timeout", "0.4").server("idle_timeout", "0.5");
    let host = setup.start().await;
    for size in [1, 20_000] {
        let mut client = host.connect("/block").await;
        client.send("block 1500").await;
        let message = "x".repeat(size);
        // More than the host takes while the application is busy; a part of one is read, and its end is not.
        for _ in 0..600 / (1 + size / 2000) {
            client.send(&message).await;
        }
        assert_eq!(client.receive_text().await, "block 1500");
        client.expect_next().await;
        for _ in 0..600 / (1 + size / 2000) {
            assert_eq!(client.receive_text().await, message);
            client.expect_next().await;
        }
    }
}

#[tokio::test]
async fn one_that_waits_for_a_slow_answer_is_not_idle() {
    let setup = Setup::new(PROGRAM).resource("/block", "blocker");
    let host = setup.server("idle_timeout", "0.3").start().await;
    let mut client = host.connect("/block").await;
    client.send("block 1500").await;
    assert_eq!(client.receive_text().await, "block 1500");
    client.expect_next().await;
    client.expect_close_packet(1001).await;
}
