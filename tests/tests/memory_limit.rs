//! `max_buffered_bytes`: the memory of all clients together.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Line, RawClient, Setup, TestHost, masked, opcode, within};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const MIB: usize = 1 << 20;

fn setup(max_message: usize, max_buffered: usize) -> Setup {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").resource("/speak", "speaker");
    let setup = setup.resource("/web", "feedback").server("close_timeout", "0.2");
    let setup = setup.server("max_message", &max_message.to_string());
    setup.server("max_buffered_bytes", &max_buffered.to_string())
}

/// Returns how many connections the host has closed because of the limit.
fn evicted(host: &TestHost) -> usize {
    let is_close =
        |line: &&Line| line.message() == "connection closed" && line.field("code") == "1013";
    host.log().iter().filter(is_close).count()
}

/// Waits until the host has closed at least `count` connections because of the limit.
async fn closed(host: &TestHost, count: usize) {
    within("the host to close the largest consumers", async {
        while evicted(host) < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn buffered(host: &TestHost) -> usize {
    let (code, output) = host.command(&["status", "--json"]).await;
    assert_eq!(code, 0, "{output}");
    let status: Value = serde_json::from_str(&output).unwrap();
    usize::try_from(status["buffered"]["bytes"].as_u64().unwrap()).unwrap()
}

/// Waits until the host buffers at most `bytes` bytes.
async fn falls_to(host: &TestHost, bytes: usize) {
    within("the buffers to be given back", async { while buffered(host).await > bytes {} }).await;
}

async fn is_served(host: &TestHost) {
    let mut client = host.raw().await.upgraded("/echo").await;
    client.write(masked(opcode::TEXT, b"small")).await;
    assert_eq!(client.expect_text().await, "small");
}

/// The beginnings of messages of more than 3 MiB, in each form that a message can have.
async fn unfinished(host: &TestHost, count: usize) -> Vec<RawClient> {
    let frame = |first| masked(first, &vec![b'x'; 3 * MIB + 100_000])[..3 * MIB].to_vec();
    let fragments = [masked(0x02, &vec![b'x'; 3 * MIB - 9]), masked(0x00, b"more")].concat();
    let chunks = ["bufferON".to_owned(), "x".repeat(3 * MIB)];
    let chunks = chunks.map(|chunk| masked(opcode::TEXT, chunk.as_bytes())).concat();
    let line = format!("backend\nGET /web HTTP/1.1\n\n{}", "x".repeat(3 * MIB)).into_bytes();
    let mut clients = Vec::new();
    for _ in 0..count {
        for (path, begun) in
            [("/echo", &frame(opcode::BINARY)), ("/echo", &fragments), ("/web", &chunks)]
        {
            let mut client = host.raw().await.upgraded(path).await;
            client.write(begun).await;
            clients.push(client);
        }
        let mut client = host.raw().await;
        client.write(&line).await;
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn unfinished_messages_of_many_clients_are_bounded_together() {
    let host = setup(4 * MIB, 10 * MIB).start().await;
    // An eighth below the limit is free after each excess, so that at most three remain.
    let clients = unfinished(&host, 2).await;
    closed(&host, 5).await;
    falls_to(&host, 10 * MIB).await;
    is_served(&host).await;
    let told =
        host.log().iter().any(|line| line.message().starts_with("max_buffered_bytes exceeded"));
    assert!(told);
    drop(clients);
    falls_to(&host, 0).await;
}

#[tokio::test]
async fn a_limit_that_is_set_later_applies_at_once() {
    let mut host = setup(4 * MIB, 0).start().await;
    let clients = unfinished(&host, 1).await;
    within("the input to be read", async { while buffered(&host).await < 10 * MIB {} }).await;
    let setup = host.setup().server("max_buffered_bytes", &(10 * MIB).to_string());
    host.apply(setup).await;
    closed(&host, 1).await;
    falls_to(&host, 10 * MIB).await;
    drop(clients);
}

#[tokio::test]
async fn slow_consumers_are_closed_in_the_middle_of_a_write() {
    let setup = setup(16 * MIB, 32 * MIB).server("write_timeout", "600");
    let host = setup.start().await;
    let message = masked(opcode::BINARY, &vec![b'x'; 15 * MIB]);
    let clients = host.non_readers("/echo", &message, 5).await;
    closed(&host, 3).await;
    falls_to(&host, 32 * MIB).await;
    is_served(&host).await;
    drop(clients);
    falls_to(&host, 0).await;
}

#[tokio::test]
async fn a_broadcast_counts_once_however_many_clients_are_slow() {
    const READERS: usize = 20;
    let host = setup(8 * MIB, 24 * MIB).server("write_timeout", "600").start().await;
    let mut sender = host.connect("/speak").await;
    let mut readers = host.non_readers("/speak", b"", READERS).await;
    let me = sender.uuid().to_owned();
    let message = "x".repeat(7 * MIB);
    let broadcast = json!({"do": "broadcast", "message": message, "except": [me]});
    assert_eq!(sender.ask(&broadcast).await, READERS);
    assert!(buffered(&host).await < 24 * MIB);
    for reader in &mut readers {
        while reader.expect_text().await.len() < message.len() {}
    }
}

#[tokio::test]
async fn posts_together_may_buffer_a_quarter_of_the_limit() {
    let host = setup(4 * MIB, 32 * MIB).start().await;
    let part = "x".repeat(3 * MIB);
    let mut posts = tokio::task::JoinSet::new();
    let framings = ["Content-Length: 4000000", "Transfer-Encoding: chunked\r\n\r\n3D0000"];
    for framing in framings.repeat(2) {
        let mut client = host.raw().await;
        let head = format!("POST /web HTTP/1.1\r\nHost: x\r\n{framing}\r\n");
        let end = if framing.starts_with('C') { "\r\n" } else { "" };
        // The refusal can come before the end.
        drop(client.try_write(format!("{head}{end}{part}")).await);
        posts.spawn(async move { client.response().await });
    }
    for _ in 0..2 {
        let response = within("a refusal", posts.join_next()).await.unwrap().unwrap();
        assert_eq!((response.status, response.header("retry-after").is_some()), (503, true));
    }
    is_served(&host).await;
}

#[tokio::test]
async fn handled_input_is_given_back_although_nothing_is_answered() {
    let setup = setup(4 * MIB, 8 * MIB).plain("/quiet", "feedback");
    let host = setup.key("/quiet", "lane", r#""thread""#).start().await;
    let message = json!({"opcode": "feedback", "uuid": "no", "message": "x".repeat(300_000)});
    let message = masked(opcode::TEXT, message.to_string().as_bytes());
    let _clients = host.non_readers("/quiet", &message, 60).await;
    falls_to(&host, 0).await;
    let is_close = |line: &Line| line.message() == "connection closed";
    assert_eq!(host.log().iter().filter(|line| is_close(line)).count(), 0);
}

#[tokio::test]
async fn only_as_many_clients_are_closed_as_hold_the_excess() {
    let setup = setup(4 * MIB, 8 * MIB).server("close_timeout", "10");
    let host = setup.server("write_timeout", "600").start().await;
    // Ten times 1.5 MiB: some must go, and the rest stays although those leave slowly.
    let message = masked(opcode::BINARY, &vec![b'x'; 3 * MIB / 2 + 100])[..3 * MIB / 2].to_vec();
    let clients = host.non_readers("/echo", &message, 10).await;
    closed(&host, 5).await;
    falls_to(&host, 8 * MIB).await;
    is_served(&host).await;
    assert!(evicted(&host) <= 7, "{}", evicted(&host));
    drop(clients);
}

#[tokio::test]
async fn answers_to_posts_count_until_they_are_written() {
    let setup = setup(4 * MIB, 8 * MIB).server("write_timeout", "600");
    let host = setup.start().await;
    let body = json!({"opcode": "echo", "message": "x".repeat(7 * MIB / 2)}).to_string();
    let request =
        format!("POST /web HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = host.raw().await;
        // One that is refused cannot write all.
        drop(client.try_write(&request).await);
        clients.push(client);
    }
    let mut statuses = Vec::new();
    for mut client in clients {
        statuses.push(client.response().await.status);
    }
    assert!(statuses.contains(&200) && buffered(&host).await <= 8 * MIB, "{statuses:?}");
}
