//! Slow consumers: memory per client, outbox policies, `write_timeout`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use plugsocket_tests::markdown::{self, Block};
use plugsocket_tests::{
    Address, Authority, Line, RawClient, Setup, Stream, TestHost, masked, opcode, skip, within,
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const MIB: u64 = 1 << 20;

fn closes(line: &Line, code: &str) -> bool {
    line.message() == "connection closed" && line.field("code") == code
}

#[tokio::test]
async fn a_hundred_slow_readers_use_at_most_a_mebibyte_each() {
    const READERS: usize = 100;
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker");
    let host = setup.server("write_timeout", "60").server("close_timeout", "0.2").start().await;
    let mut sender = host.connect("/speak").await;
    let readers = host.non_readers("/speak", b"", READERS).await;
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
    assert_eq!(gone, READERS as u64, "each slow client is closed");
    assert!(most < READERS as u64 * MIB, "{} kB each", most / READERS as u64 / 1024);
    drop(readers);
    assert_eq!(sender.ask(&json!({"do": "fyi"})).await, true);
}

#[tokio::test]
async fn individual_messages_to_slow_readers_keep_memory_bounded() {
    const READERS: usize = 10;
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("write_timeout", "60");
    let host = setup.start().await;
    let mut clients = host.non_readers("/echo", b"", READERS).await;
    let before = host.resident_bytes();
    let messages = masked(opcode::BINARY, &[b'x'; 10_000]).repeat(100);
    let mut most = 0;
    // Each echo is a separate copy. First the sockets fill up, then the outboxes; then the host
    // stops reading.
    for client in &mut clients {
        let mut written = 0;
        while written < 20 * messages.len() {
            let write =
                tokio::time::timeout(Duration::from_millis(300), client.try_write(&messages));
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
async fn a_message_of_max_message_always_fits_into_the_outbox() {
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
    // Two large echoes without waiting, each followed by a small one.
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
async fn a_client_that_reads_nothing_within_write_timeout_is_closed() {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").server("write_timeout", "0.3");
    let host = setup.server("close_timeout", "0.2").start().await;
    let _non_reader = host.non_readers("/web", b"", 1).await;
    let mut sender = host.connect("/web").await;
    // One message larger than the socket buffers: the write stalls, but the outbox is not full.
    let large = json!({"opcode": "broadcast", "message": "x".repeat(14_000_000)});
    assert_eq!(sender.call(&large).await.packets.len(), 0);
    let is_match = |line: &Line| closes(line, "1013") && line.text().contains("write_timeout");
    host.wait_for_log("the slow client to be closed", is_match).await;
}

/// Checks the numbers in `{"n":…}` of all messages that a late reader receives: each message is
/// complete and none is missing.
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

/// Returns the complete messages in the received bytes; only the last frame may be incomplete.
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
async fn nothing_follows_an_abandoned_partial_write() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker").server("write_timeout", "0.2");
    let setup = setup.server("outbox_bytes", "64_000_000").server("outbox_messages", "100_000");
    // The last one is longer than what the host writes ahead of a client that does not read.
    let long = [vec![500; 24], vec![400_000]].concat();
    for sizes in [&[3000, 3000, 3000, 20_000][..], &long] {
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
        // The last part is empty or an incomplete line.
        found.pop();
        check_numbers(&found);
    }
}

#[tokio::test]
async fn a_client_that_reads_a_large_message_slowly_is_not_timed_out() {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").server("ping_interval", "0.2");
    let host = setup.server("write_timeout", "30").start().await;
    let mut slow = host.raw().await.upgraded("/web").await;
    let mut sender = host.connect("/web").await;
    let large = json!({"opcode": "broadcast", "message": "x".repeat(14_000_000)});
    assert_eq!(sender.call(&large).await.packets.len(), 0);
    // Meanwhile the host has pinged a client that reads several times.
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

#[tokio::test]
async fn memory_of_large_messages_returns_to_the_system_after_their_clients_are_closed() {
    const ROUNDS: usize = 4;
    const CLIENTS: usize = 8;
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("write_timeout", "0.1");
    let host = setup.server("close_timeout", "0.1").start().await;
    let message = masked(opcode::BINARY, &vec![b'x'; LARGE]);
    let before = host.resident_bytes();
    for round in 1..=ROUNDS {
        let _clients = host.non_readers("/echo", &message, CLIENTS).await;
        let all_closed = async {
            while host.log().iter().filter(|line| closes(line, "1013")).count() < round * CLIENTS {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Less than half of what the answers to all clients take.
            while host.resident_bytes() > before + 32 * MIB {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("the memory to return", all_closed).await;
    }
}

/// `write_timeout` of the tests with steady readers, a twentieth of its default. A client has to
/// read 64 KiB in this time, which is 131 kB/s; their rates are twenty times those of the promise.
const WRITE_TIMEOUT: &str = "0.5";
/// Bytes per second that correspond to 10, 20, 50, 100 and 200 kB/s.
const ENOUGH: [u64; 5] = [200_000, 400_000, 1_000_000, 2_000_000, 4_000_000];
/// A quarter of the least rate.
const TOO_SLOW: u64 = 32_768;
/// More than the buffers of both systems hold.
const LARGE: usize = 8_000_000;
/// Longer than what a client takes at once allows it to take nothing: eight times the limit.
const STEADY: Duration = Duration::from_secs(7);

fn setup_of_steady_readers() -> Setup {
    let setup = Setup::new(PROGRAM).plain("/chat", "echo").server("write_timeout", WRITE_TIMEOUT);
    setup.server("ping_interval", "0").server("close_timeout", "0.2")
}

/// Connects a client that has sent a large message to an application that sends it back.
async fn with_large_answer(address: &Address) -> Stream {
    // A buffer that grows would take most of the message at once.
    let stream = address.connect_with_buffer(64 * 1024).await;
    let mut client = RawClient::over(stream).upgraded("/chat").await;
    client.write(masked(opcode::BINARY, &vec![b'x'; LARGE])).await;
    client.into_stream()
}

/// Reads at a steady rate for `steady`, and then as fast as possible, to the end of the answer or
/// of the connection; returns whether the answer was complete.
async fn receives_all(address: &Address, rate: u64, steady: Duration) -> bool {
    let mut stream = with_large_answer(address).await;
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let begun = Instant::now();
    let mut turn = tokio::time::interval(Duration::from_millis(10));
    let expected = 10 + LARGE;
    while bytes.len() < expected {
        let allowed = match begun.elapsed() {
            elapsed if elapsed < steady => elapsed.as_millis() as u64 * rate / 1000,
            _ => u64::MAX,
        };
        let most = usize::try_from(allowed).unwrap().saturating_sub(bytes.len()).min(buffer.len());
        if most == 0 {
            turn.tick().await;
            continue;
        }
        match within("a part of the message", stream.read(&mut buffer[..most])).await {
            Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
            Ok(0) | Err(_) => return false,
        }
    }
    assert_eq!(bytes[..2], [opcode::BINARY, 127]);
    assert!(bytes[10..].iter().all(|byte| *byte == b'x'), "{rate}");
    bytes.len() == expected
}

/// Checks that clients that read fast enough through this address receive all of a large message.
async fn check_steady_readers(address: &Address) {
    let received = join_all(ENOUGH.map(|rate| receives_all(address, rate, STEADY))).await;
    assert_eq!(received, [true; 5], "{address:?}, {ENOUGH:?}");
}

#[tokio::test]
async fn write_timeout_is_the_rate_at_which_a_client_must_read_a_large_message() {
    let authority = Authority::default();
    let setup = setup_of_steady_readers().with_tls(&authority.issue(&["localhost"]));
    let setup = setup.server("listen", r#"["127.0.0.1:0", "unix:host.sock"]"#);
    let host = setup.start().await;
    let [tcp, unix, tls] = host.addresses() else { panic!("{:?}", host.addresses()) };
    let tls = authority.tls_address(tls, "localhost");
    let checks = [tcp, unix, &tls].map(async |address| {
        // Read slowly beyond the time at which the client is closed.
        let too_slow = receives_all(address, TOO_SLOW, 3 * STEADY);
        let (is_whole, ()) = tokio::join!(too_slow, check_steady_readers(address));
        assert!(!is_whole, "{address:?}");
    });
    join_all(checks).await;
    let is_match = |line: &&Line| closes(line, "1013") && line.text().contains("write_timeout");
    assert_eq!(host.log().iter().filter(is_match).count(), 3);
}

/// nginx with the configuration of the documentation, in front of `host`.
struct Nginx {
    address: Address,
    _process: Child,
    _reading: JoinSet<()>,
}

impl Nginx {
    /// Returns `None` if nginx is missing.
    async fn start(host: &TestHost) -> Option<Self> {
        let documents = markdown::documents();
        let mut blocks = documents.iter().flat_map(|document| &document.blocks);
        let is_server = |block: &&Block| block.text.contains("listen 80 ");
        let documented = blocks.find(is_server).expect("a documented server");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let Address::Tcp(upstream) = host.address() else { panic!("{:?}", host.address()) };
        let server = documented.text.replace("listen 80", &format!("listen 127.0.0.1:{port}"));
        let server = server.replace("127.0.0.1:8095", &upstream.to_string());
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths = paths.map(|name| format!("{name}_temp_path {name};\n")).concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr notice;\nevents {{}}\n\
             http {{\naccess_log off;\n{paths}{server}}}\n"
        );
        let folder = host.folder().join("nginx");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder).args(["-e", "stderr", "-c", "nginx.conf"]);
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut process = match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            spawned => spawned.unwrap(),
        };
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.contains("event method")) {
            let line = within("nginx to start", log.next_line()).await.unwrap();
            lines.push(line.unwrap_or_else(|| panic!("{lines:#?}")));
        }
        // nginx must be able to write its log.
        let mut reading = JoinSet::new();
        reading.spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let address = Address::Tcp(([127, 0, 0, 1], port).into());
        Some(Self { address, _process: process, _reading: reading })
    }
}

#[tokio::test]
async fn behind_nginx_a_client_that_reads_steadily_receives_a_large_message() {
    let host = setup_of_steady_readers().server("trusted_proxies", r#"["127.0.0.1"]"#).start();
    let host = host.await;
    match Nginx::start(&host).await {
        Some(nginx) => check_steady_readers(&nginx.address).await,
        None => skip("behind_nginx", "nginx is missing", "apt-get install nginx-light"),
    }
}

/// Reads up to the value `last`; returns the numbers of all `{"value":n}`.
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
async fn drop_oldest_keeps_a_slow_client_and_delivers_the_newest() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker").plain("/plain", "speaker");
    let setup = setup.key("/speak", "outbox_policy", r#""drop_oldest""#);
    let setup = setup.key("/plain", "outbox_policy", r#""drop_oldest""#);
    let setup = setup.key("/speak", "outbox_messages", "100").server("write_timeout", "30");
    let host = setup.key("/plain", "outbox_bytes", "300_000").start().await;
    for (path, message) in [("/speak", "m".to_owned()), ("/plain", "m".repeat(10_000))] {
        let mut client = host.raw().await.upgraded(path).await;
        // All in one callback, so that nothing can be written in between.
        let command = json!({"do": "values", "count": 5000, "message": message});
        client.write(masked(opcode::TEXT, command.to_string().as_bytes())).await;
        let values = values(&mut client, 5000).await;
        assert!(values.is_sorted() && values.len() < 5000, "{} of 5000", values.len());
        let newest = &values[values.len().saturating_sub(20)..];
        assert!(newest.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{newest:?}");
        let is_match = |line: &Line| {
            line.level() == "WARN"
                && line.starts_with("slow consumer")
                && line.field("resource") == path
        };
        host.wait_for_log("a warning", is_match).await;
        assert_eq!(host.log().into_iter().filter(is_match).count(), 1, "one warning per minute");
    }
    let (_, status) = host.command(&["status", "--json"]).await;
    assert!(status.contains(r#""dropped_messages":4"#), "{status}");
}

#[tokio::test]
async fn conflate_always_delivers_the_last_value_of_each_key() {
    let setup = Setup::new(PROGRAM).plain("/speak", "speaker");
    let setup = setup.key("/speak", "outbox_policy", r#""conflate""#);
    let host = setup.key("/speak", "outbox_messages", "20").start().await;
    let mut client = host.raw().await.upgraded("/speak").await;
    let command = |key: &str| {
        json!({"do": "values", "count": 5000, "key": key, "message": "m".repeat(1000)}).to_string()
    };
    client.write(masked(opcode::TEXT, command("a").as_bytes())).await;
    // Only a few values arrive, including the last.
    let found = values(&mut client, 5000).await;
    assert!(found.is_sorted() && found.len() < 100, "{} of 5000", found.len());
    // Messages without a key are not conflated.
    client.write(masked(opcode::TEXT, command("").as_bytes())).await;
    loop {
        let frame = client.frame().await.expect("a close frame");
        if frame.first == opcode::CLOSE {
            assert_eq!(frame.close_code(), Some(1013), "{frame:?}");
            break;
        }
    }
    // Publishing to a room also conflates; the key has a maximum length.
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
