//! Connection limits, per-address rate limits, and a host that runs out of file descriptors.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::future::pending;
use std::time::{Duration, Instant};

use plugsocket_tests::{Address, Client, Line, RawClient, Request, Setup, TestHost, within};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// No address is allowed to connect as a backend.
fn setup() -> Setup {
    Setup::new(PROGRAM)
        .library("counter", "counter_v1")
        .resource("/count", "counter")
        .server("allowed_ips", r#"["192.0.2.1"]"#)
}

/// Attempts a handshake with `address` in X-Forwarded-For; returns the status code.
async fn handshake_from(host: &TestHost, address: &str) -> (RawClient, u16) {
    let mut client = host.raw().await;
    let line = format!("\r\nX-Forwarded-For: {address}\r\n\r\n");
    client.write(RawClient::handshake("/count").replace("\r\n\r\n", &line)).await;
    let first = client.line().await;
    let status = first.split(' ').nth(1).unwrap().parse().unwrap();
    (client, status)
}

#[tokio::test]
async fn an_ipv6_network_counts_as_one_address() {
    let setup = setup().server("max_per_ip", "2").server("trusted_proxies", r#"["127.0.0.1"]"#);
    let host = setup.start().await;
    let mut kept = Vec::new();
    for (address, status) in [
        ("2001:db8::1", 101),
        ("2001:db8::2:3:4:5", 101),
        ("2001:db8::6", 503),
        ("[2001:db8:0:1::1]:443", 101),
        ("198.51.100.1", 101),
        ("::ffff:198.51.100.1", 101),
        ("198.51.100.1", 503),
        ("198.51.100.2", 101),
    ] {
        let (client, found) = handshake_from(&host, address).await;
        assert_eq!(found, status, "{address}");
        kept.push(client);
    }
}

#[tokio::test]
async fn both_address_families_are_served_on_one_port() {
    for order in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"], ["[::]", "127.0.0.1"]] {
        let free = std::net::TcpListener::bind("[::]:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let listen = order.map(|host| format!("{host}:{port}"));
        let host = setup().server("listen", &format!("{listen:?}")).start().await;
        for address in ["127.0.0.1", "[::1]"] {
            let address = Address::parse(&format!("{address}:{port}"));
            Client::open(&address, Request::to("/count")).await.ready().await;
        }
        assert_eq!(host.addresses().len(), 2);
    }
}

#[tokio::test]
async fn an_ipv4_mapped_address_counts_as_ipv4() {
    let setup = setup().server("listen", r#"["[::]:0"]"#).server("max_per_ip", "1");
    let host = setup.server("allowed_ips", r#"["127.0.0.1"]"#).start().await;
    let Address::Tcp(mut address) = host.address().clone() else { panic!("no TCP") };
    address.set_ip([127, 0, 0, 1].into());
    let address = Address::Tcp(address);
    let backend = Request::to("/count").header("Client-Type", "backend");
    let _backend = Client::open(&address, backend).await.ready().await;
    let (_, output) = host.command(&["connections", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&output).unwrap()[0]["address"], "127.0.0.1");
    let _client = Client::open(&address, Request::to("/count")).await.ready().await;
    assert_eq!(RawClient::connect(&address).await.try_handshake("/count").await, 503);
}

#[tokio::test]
async fn connections_over_the_rate_limit_get_503_until_the_limit_recovers() {
    let host = setup().server("max_handshakes_per_ip", "1").start().await;
    for _ in 0..5 {
        host.connect("/count").await;
    }
    // On a slow machine the rate limit allows some of these.
    let mut refused = 0;
    for _ in 0..10 {
        let mut client = host.raw().await;
        client.write(RawClient::handshake("/count")).await;
        if client.line().await.contains(" 503 ") {
            let rest = String::from_utf8(client.read_to_end().await).unwrap();
            assert!(rest.contains("Retry-After: 5\r\n"), "{rest}");
            assert!(rest.contains("too many new connections from this address"), "{rest}");
            refused += 1;
        }
    }
    assert!(refused >= 5, "{refused}");
    let is_rejection = |line: &Line| {
        line.message() == "connection rejected" && line.field("address") == "127.0.0.1"
    };
    within("a log line per rejection", async {
        while host.log().into_iter().filter(is_rejection).count() != refused {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within("the rate limit to allow a connection", async {
        while host.raw().await.try_handshake("/count").await != 101 {}
    })
    .await;
}

#[tokio::test]
async fn the_rate_limit_applies_to_the_forwarded_address() {
    let setup = setup().server("max_handshakes_per_ip", "1");
    let host = setup.server("trusted_proxies", r#"["127.0.0.1"]"#).start().await;
    for n in 1..40 {
        let (_, status) = handshake_from(&host, &format!("198.51.100.{n}")).await;
        assert_eq!(status, 101, "{n}");
    }
    let mut refused = 0;
    for n in 1..20 {
        // All in one network.
        refused += u32::from(handshake_from(&host, &format!("2001:db8::{n}")).await.1 == 503);
    }
    assert!(refused >= 5, "{refused}");
}

#[tokio::test]
async fn backends_are_exempt_from_rate_and_handshake_limits() {
    let setup = setup().server("max_handshakes_per_ip", "1").server("max_handshakes", "1");
    let host = setup.server("allowed_ips", r#"["127.0.0.1"]"#).start().await;
    let _stalled = (host.raw().await, host.raw().await);
    for _ in 0..30 {
        host.connect_backend("/count").await;
    }
}

#[tokio::test]
async fn max_handshakes_limits_connections_without_a_request() {
    let path = std::env::temp_dir().join(format!("plugsocket-accept-{}", std::process::id()));
    let listen = format!(r#"["127.0.0.1:0", "unix:{}"]"#, path.display());
    let host = setup().server("max_handshakes", "3").server("listen", &listen).start().await;
    // Connections that have sent their request do not count.
    let _served = [host.connect("/count").await, host.connect("/count").await];
    let mut stalled = Vec::new();
    for _ in 0..3 {
        stalled.push(host.raw().await);
    }
    let answer = String::from_utf8(host.raw().await.read_to_end().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Retry-After: ") && answer.contains("Date: "), "{answer}");
    assert!(answer.ends_with("too many handshakes at a time\n"), "{answer}");
    // Clients on a Unix socket are backends.
    let mut local = RawClient::connect(&host.addresses()[1]).await;
    assert_eq!(local.try_handshake("/count").await, 101);
    stalled.clear();
    within("a handshake to succeed", async {
        let mut client = host.raw().await;
        while client.try_write(RawClient::handshake("/count")).await.is_err()
            || !client.line().await.contains(" 101 ")
        {
            client = host.raw().await;
        }
    })
    .await;
    std::fs::remove_file(path).unwrap();
}

/// Returns whether the host still lingers for a rejected client that keeps its side open.
async fn is_lingering(client: &mut RawClient) -> bool {
    client.read_to_end().await;
    // A closed socket answers further bytes by a reset, after which a write fails.
    let reset = async { while client.try_write(b"x").await.is_ok() {} };
    timeout(ATTEMPT, reset).await.is_err()
}

#[tokio::test]
async fn a_rejected_connection_does_not_count_against_max_handshakes() {
    let setup = setup().server("max_handshakes", "1").server("close_timeout", "600");
    let host = setup.server("head_timeout", "600").start().await;
    let nonsense = "GET /count HTTP/1.1\r\n\r\n";
    let mut lingering = host.raw().await;
    lingering.write(nonsense).await;
    assert!(lingering.line().await.contains(" 400 "));
    assert_eq!(host.raw().await.try_handshake("/count").await, 101);
    // The host lingers for `max_handshakes` rejected clients; it closes the others at once.
    for request in [nonsense, "GET /plugsocket/nothing HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut client = host.raw().await;
        client.write(request).await;
        assert!(client.line().await.contains(" 40"));
        assert!(!is_lingering(&mut client).await, "{request}");
    }
    assert!(is_lingering(&mut lingering).await);
}

#[tokio::test]
async fn an_unauthenticated_connection_does_not_count_against_max_connections() {
    let setup = setup().server("max_connections", "1").server("close_timeout", "600");
    let host = setup
        .server("max_per_ip", "1")
        .put("secret.key", "0123456789abcdef0123456789abcdef")
        .resource("/guarded", "counter")
        .auth("/guarded", "keys", r#"[{ algorithm = "HS256", file = "secret.key" }]"#)
        .start()
        .await;
    let handshake = RawClient::handshake("/guarded");
    let mut refused = Vec::new();
    for request in [handshake.replace("Host", "Origin: http://x\r\nHost"), handshake] {
        let mut client = host.raw().await;
        client.write(request).await;
        // The rejected clients keep their side open.
        let status = client.line().await;
        assert!(status.contains(" 101 ") || status.contains(" 401 "), "{status}");
        refused.push(client);
    }
    let _served = host.connect("/count").await;
    assert_eq!(host.raw().await.try_handshake("/count").await, 503);
    assert_eq!(host.raw().await.try_handshake("/guarded").await, 503);
}

#[tokio::test]
async fn a_pending_authentication_counts_against_max_handshakes_only() {
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("\"http://{}/\"", endpoint.local_addr().unwrap());
    let setup = setup().server("max_connections", "1").server("max_handshakes", "2");
    let setup = setup.resource("/guarded", "counter").auth("/guarded", "url", &url);
    let host = setup.auth("/guarded", "timeout", "60").start().await;
    let mut pending = host.raw().await;
    pending.write(RawClient::handshake("/guarded")).await;
    // The endpoint does not answer.
    let _asked = within("the endpoint to be called", endpoint.accept()).await.unwrap();
    let _served = host.connect("/count").await;
    let _silent = host.raw().await;
    let answer = String::from_utf8(host.raw().await.read_to_end().await).unwrap();
    assert!(answer.ends_with("too many handshakes at a time\n"), "{answer}");
}

const ATTEMPT: Duration = Duration::from_millis(100);

/// Returns the CPU time of the host in ticks of 10 ms.
fn cpu_ticks(host: &TestHost) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", host.pid())).unwrap();
    let behind_name = stat.rsplit(") ").next().unwrap();
    behind_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn a_host_out_of_file_descriptors_serves_existing_connections_and_recovers() {
    let launcher = ["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"];
    let host = setup().server("head_timeout", "600").launcher(&launcher).start().await;
    let mut client = host.connect("/count").await;
    let position = host.log_position();
    // Some wait in the backlog, others for a place in the backlog.
    let mut waiting = JoinSet::new();
    for _ in 0..400 {
        let address = host.address().clone();
        waiting.spawn(async move {
            let _socket = RawClient::connect(&address).await;
            pending::<()>().await;
        });
    }
    let is_short = |line: &Line| line.starts_with("out of file descriptors");
    let line = host.wait_for_log_since(position, "a warning", is_short).await;
    assert_eq!((line.level(), line.field("limit")), ("WARN", "256".to_owned()));

    // Connected clients are served, and the control socket works.
    let before = cpu_ticks(&host);
    let since = Instant::now();
    client.send("one").await;
    assert_eq!(client.until_next().await.packets[0]["by"], "v1");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let share = (cpu_ticks(&host) - before) as f64 / since.elapsed().as_secs_f64();
    assert!(share <= 5.0, "{share} % CPU");
    let (code, status) = host.command(&["status", "--json"]).await;
    assert_eq!(code, 0, "{status}");
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["connections"], 1);
    host.reload("counter", "counter_v2").await;
    client.send("two").await;
    assert_eq!(client.until_next().await.packets[0]["by"], "v2");

    let freed = Instant::now();
    waiting.shutdown().await;
    within("to be accepted", async {
        // A SYN that a full backlog dropped is repeated after a second.
        let Address::Tcp(address) = host.address() else { panic!("no TCP") };
        while !matches!(timeout(ATTEMPT, TcpStream::connect(address)).await, Ok(Ok(_))) {}
    })
    .await;
    host.connect("/count").await;
    let waited = freed.elapsed();
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    println!("serving again after {waited:?}, {share:.1} % CPU");
    let is_over = |line: &Line| line.message() == "accepting again";
    host.wait_for_log_since(position, "the recovery", is_over).await;
    let warnings = host.log().into_iter().filter(is_short).count();
    assert_eq!(warnings, 1);
}
