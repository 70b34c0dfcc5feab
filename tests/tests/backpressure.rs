//! Backpressure: slow consumers and blocked applications, without effect on others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Line, Request, Setup, close_frame, masked, opcode, within};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const MIB: u64 = 1 << 20;

fn is_too_slow(line: &Line) -> bool {
    line.message() == "connection closed" && line.field("code") == "1013"
}

#[tokio::test]
async fn a_client_that_never_reads_is_disconnected_and_the_others_are_served() {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").server("max_message", "100_000");
    let setup = setup.server("outbox_bytes", "400_000").server("write_timeout", "0.5");
    let host = setup.server("close_timeout", "0.2").start().await;
    let mut slow = host.raw().await.upgraded("/web").await;
    let mut sender = host.connect("/web").await;
    let mut reader = host.connect("/web").await;
    let broadcast = json!({"opcode": "broadcast", "message": "x".repeat(90_000)});
    let mut sent = 0;
    while !host.log().iter().any(is_too_slow) {
        sent += 1;
        assert!(sent < 10_000, "the client is never disconnected");
        assert_eq!(sender.call(&broadcast).await.packets.len(), 0);
        assert_eq!(reader.receive_json().await["opcode"], "broadcast");
    }
    // It may read what was already sent; a close frame may no longer fit into the outbox.
    assert!(!slow.read_to_end().await.is_empty());
    assert_eq!(sender.call(&broadcast).await.packets.len(), 0);
}

#[tokio::test]
async fn a_slow_client_receives_the_reason_if_it_reads_before_the_cut() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker");
    let host = setup.server("outbox_messages", "50").start().await;
    let mut client = host.connect("/speak").await;
    let mut other = host.connect("/speak").await;
    // One callback sends more than the outbox holds.
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
    // The pongs cannot be written, so the host stops reading and finally disconnects the client.
    let mut sent = 0;
    while client.try_write(&pings).await.is_ok() {
        sent += pings.len();
        assert!(sent < 500_000_000, "the client is never disconnected");
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
    // Other resources accept new connections.
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
    // While the application is blocked, the host reads no more than it can queue.
    let mut echo = host.open(Request::to("/echo")).await;
    let mut most = 0;
    for _ in 0..2000 {
        echo.send("x").await;
        assert_eq!(echo.receive_text().await, "x");
        most = most.max(host.resident_bytes().saturating_sub(before));
    }
    assert!(most < 20 * MIB, "{} MiB of 50", most / MIB);
    // Afterwards every message is answered.
    both.spawn(async move {
        let mut left = 2 + "block 3000".len() + MESSAGES * (4 + 65_000);
        let mut buffer = vec![0; 65_536];
        while left > 0 {
            // A ping may come in between.
            left = left.saturating_sub(from.read(&mut buffer).await.unwrap());
        }
    });
    while let Some(ended) = within("all answers", both.join_next()).await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn timeouts_are_suspended_while_the_host_does_not_read() {
    let setup = Setup::new(PROGRAM).resource("/block", "blocker").server("ping_interval", "0.2");
    let setup = setup.server("message_timeout", "0.4").server("idle_timeout", "0.5");
    let host = setup.start().await;
    for size in [1, 20_000] {
        let mut client = host.connect("/block").await;
        client.send("block 1500").await;
        let message = "x".repeat(size);
        // More than the host queues while the application is busy, so it stops reading inside a
        // message.
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
async fn a_client_that_waits_for_a_slow_answer_is_not_idle() {
    let setup = Setup::new(PROGRAM).resource("/block", "blocker");
    let host = setup.server("idle_timeout", "0.3").start().await;
    let mut client = host.connect("/block").await;
    client.send("block 1500").await;
    assert_eq!(client.receive_text().await, "block 1500");
    client.expect_next().await;
    client.expect_close_packet(1001).await;
}

/// The requests are sent at once; the answers to one read are three times the outbox.
#[tokio::test]
async fn a_reading_client_may_pipeline_requests_for_more_than_the_outbox_holds() {
    const ASKED: usize = 60;
    const VALUES: usize = 30;
    let request = json!({"do": "values", "count": VALUES, "message": "x".repeat(3000)}).to_string();
    for lane in ["\"shared\"", "\"thread\""] {
        let setup = Setup::new(PROGRAM).resource("/speak", "speaker").key("/speak", "lane", lane);
        let host = setup.server("outbox_bytes", "262_144").start().await;
        for is_last in [false, true] {
            let mut client = host.raw().await.upgraded("/speak").await;
            client.expect_text().await;
            let mut all = masked(opcode::TEXT, request.as_bytes()).repeat(ASKED);
            if is_last {
                all.extend(close_frame(1000));
            }
            client.write(all).await;
            for _ in 0..ASKED {
                for n in 1..=VALUES {
                    assert!(client.expect_text().await.contains(&format!("\"value\":{n}")), "{n}");
                }
                assert!(client.expect_text().await.contains("\"do\":\"values\""));
                assert!(client.expect_text().await.contains("next"));
            }
            if is_last {
                client.expect_close(1000).await;
            } else {
                client.write(masked(opcode::TEXT, br#"{"do":"fyi"}"#)).await;
                assert!(client.expect_text().await.contains("\"do\":\"fyi\""));
            }
        }
        let mut lines = host.raw().await;
        let all = format!("{request}\n").repeat(ASKED);
        lines.write(format!("php process\nGET /speak HTTP/1.1\n\n{all}")).await;
        lines.finish().await;
        let answered = String::from_utf8(lines.read_to_end().await).unwrap();
        assert_eq!(answered.matches("\"opcode\":\"next\"").count(), ASKED);
        assert_eq!(answered.matches("\"value\":").count(), ASKED * VALUES);
        assert!(!host.log().iter().any(is_too_slow));
    }
}

#[tokio::test]
async fn a_small_outbox_does_not_make_a_pipelining_client_slow() {
    for (messages, policy) in [("2", "close"), ("16", "close"), ("16", "drop_oldest")] {
        let setup = Setup::new(PROGRAM).resource("/talk", "echo").plain("/echo", "echo");
        let setup = setup.key("/talk", "outbox_policy", &format!("{policy:?}"));
        let host = setup.server("outbox_messages", messages).start().await;
        for path in ["/talk", "/echo"] {
            let mut client = host.raw().await.upgraded(path).await;
            if path == "/talk" {
                client.expect_text().await;
            }
            client.write(masked(opcode::TEXT, b"hi").repeat(200)).await;
            for _ in 0..200 {
                assert_eq!(client.expect_text().await, "hi");
                if path == "/talk" {
                    assert!(client.expect_text().await.contains("next"));
                }
            }
        }
    }
}

#[tokio::test]
async fn receiving_a_long_answer_resets_the_idle_timeout() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("idle_timeout", "0.5");
    let host = setup.start().await;
    let mut client = host.raw().await.upgraded("/echo").await;
    client.write(masked(opcode::BINARY, &vec![0; 16_000_000])).await;
    let (mut from, mut to) = tokio::io::split(client.into_stream());
    // Slowly, for longer than `idle_timeout`.
    let mut left = 10 + 16_000_000;
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(10));
    let mut buffer = vec![0; 200_000];
    while left > 0 {
        pace.tick().await;
        let most = left.min(buffer.len());
        left -= within("the echo", from.read(&mut buffer[..most])).await.unwrap();
    }
    to.write_all(&masked(opcode::TEXT, b"x")).await.unwrap();
    within("the next echo", from.read_exact(&mut buffer[..3])).await.unwrap();
    assert_eq!(buffer[..3], [opcode::TEXT, 1, b'x']);
}

#[tokio::test]
async fn a_client_with_unwritten_pongs_is_not_timed_out() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("ping_interval", "0.2");
    let host = setup.start().await;
    let client = host.raw().await.upgraded("/echo").await;
    let (mut from, mut to) = tokio::io::split(client.into_stream());
    let pings = masked(opcode::PING, &[b'x'; 125]).repeat(1000);
    let second = std::time::Duration::from_secs(1);
    // Until the host can no longer write and stops reading, and then for five ping intervals.
    let mut sent = 0;
    let rest = loop {
        let mut part = std::io::Cursor::new(&pings);
        if tokio::time::timeout(second, to.write_all_buf(&mut part)).await.is_err() {
            break pings[usize::try_from(part.position()).unwrap()..].to_vec();
        }
        sent += 1000;
    };
    let mut tasks = tokio::task::JoinSet::<()>::new();
    tasks.spawn(async move {
        to.write_all(&rest).await.unwrap();
        to.write_all(&masked(opcode::TEXT, b"still here")).await.unwrap();
        // The client does not answer the host's pings; its own messages show that it is alive.
        std::future::pending().await
    });
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 65_536];
    while !bytes.ends_with(b"still here") {
        let read = within("the pongs", from.read(&mut buffer)).await.unwrap();
        assert_ne!(read, 0, "closed after {sent} pings");
        bytes.drain(..bytes.len().saturating_sub(64));
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// All requests arrive in one read; the answers are many times the outbox and are never read.
#[tokio::test]
async fn messages_are_handled_even_if_their_answers_are_never_read() {
    const REQUESTS: usize = 30;
    let long = json!({"do": "values", "count": 500, "message": "x".repeat(200)}).to_string();
    for lane in ["\"shared\"", "\"thread\""] {
        let setup = Setup::new(PROGRAM).resource("/speak", "speaker").key("/speak", "lane", lane);
        let setup = setup.server("outbox_bytes", "262_144").server("write_timeout", "1");
        let host = setup.server("close_timeout", "0.3").start().await;
        let mut listener = host.connect("/speak").await;
        let to = listener.uuid().to_owned();
        for last in [&b""[..], b"\xff"] {
            let mut sender = host.raw().await.upgraded("/speak").await;
            let mut all = Vec::new();
            for n in 0..REQUESTS {
                let feedback =
                    json!({"do": "feedback_uuid", "target": to, "message": n.to_string()});
                all.extend(masked(opcode::TEXT, long.as_bytes()));
                all.extend(masked(opcode::TEXT, feedback.to_string().as_bytes()));
            }
            if !last.is_empty() {
                all.extend(masked(opcode::TEXT, last));
            }
            sender.write(all).await;
            for n in 0..REQUESTS {
                assert_eq!(listener.receive_text().await, n.to_string(), "{lane} {last:?}");
            }
        }
    }
}
