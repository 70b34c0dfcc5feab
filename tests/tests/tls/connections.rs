//! Connections over TLS: handshake, choice of the certificate, client certificates, session
//! resumption.

use std::process::Command;
use std::time::{Duration, SystemTime};

use plugsocket_tests::{
    Address, Authority, Client, Issued, Line, LineClient, RawClient, Request, skip, within,
};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::{POST, secure, send, setup};

#[tokio::test]
async fn all_protocols_work_over_tls_1_2_and_1_3() {
    let authority = Authority::default();
    let host = setup().with_tls(&authority.issue(&["localhost"])).start().await;
    for address in [
        authority.tls_address(secure(&host), "localhost"),
        authority.tls12_address(secure(&host), "localhost"),
    ] {
        let mut client = Client::open(&address, Request::to("/web")).await.ready().await;
        client.send(r#"{"opcode":"ping"}"#).await;
        client.expect_next().await;
        assert_eq!(send(&address, POST).await.last_response().await.status, 200);
        let page = "GET /plugsocket/ HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(send(&address, page).await.last_response().await.status, 200);
        LineClient::open(&address, "backend\nGET /web HTTP/1.1\n\n").await.ready().await;
        client.close().await;
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_certificate_and_key_is_dropped() {
    let authority = Authority::default();
    let Issued { certificate, key } = authority.issue(&["localhost"]);
    let issued =
        Issued { certificate: format!("\u{feff}{certificate}"), key: format!("\u{feff}{key}") };
    let host = setup().with_tls(&issued).start().await;
    let address = authority.tls_address(secure(&host), "localhost");
    Client::open(&address, Request::to("/web")).await.ready().await;
}

#[tokio::test]
async fn large_messages_pass_in_both_directions() {
    let authority = Authority::default();
    let host = setup().with_tls(&authority.issue(&["localhost"])).start().await;
    let address = authority.tls_address(secure(&host), "localhost");
    let mut client = Client::open(&address, Request::to("/echo")).await;
    for length in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 3_000_000] {
        let message: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
        client.send_binary(&message).await;
        assert_eq!(client.receive().await.unwrap().into_data(), message, "{length}");
    }
    // Many messages without waiting.
    for _ in 0..500 {
        client.send("x".repeat(1000)).await;
    }
    for _ in 0..500 {
        assert_eq!(client.receive_text().await.len(), 1000);
    }
}

#[tokio::test]
async fn http_on_a_tls_port_and_tls_on_a_plain_port_are_refused() {
    let authority = Authority::default();
    let host = setup().with_tls(&authority.issue(&["localhost"])).start().await;
    let handshake = RawClient::handshake("/web");
    let late = format!("\r\n{handshake}");
    for request in [handshake, late, "backend\nGET /web HTTP/1.1\n\n".to_owned()] {
        let response = send(secure(&host), &request).await.last_response().await;
        assert_eq!(response.status, 400);
        assert!(response.body.contains("this port speaks TLS"), "{response:?}");
    }
    let Address::Tcp(_) = host.address() else { panic!("no TCP") };
    let tls = authority.tls_address(host.address(), "localhost");
    assert!(tls.try_connect().await.is_err());
    // A ClientHello like a browser's, in two pieces.
    let mut client = host.raw().await;
    client.write([0x16, 3, 1, 2]).await;
    client.write([&[0, 1, 0][..], &[7; 400]].concat()).await;
    let response = client.read_to_end().await;
    assert!(
        response.is_empty() || response.starts_with(b"HTTP/1.1 400"),
        "{}",
        response.escape_ascii()
    );
    // The host still accepts connections.
    host.connect("/web").await;
}

#[tokio::test]
async fn close_notify_is_sent_to_a_refused_client() {
    let authority = Authority::default();
    let setup = setup().with_tls(&authority.issue(&["localhost"]));
    let host = setup.server("close_timeout", "0.2").server("head_timeout", "0.2").start().await;
    let address = authority.tls_address(secure(&host), "localhost");
    let unknown = RawClient::handshake("/nowhere");
    let beginning = "GET /web HTTP/1.1\r\n";
    for request in [unknown.as_str(), beginning, "GET /web HTTP/1.1\r\n\r\n"] {
        let mut stream = send(&address, request).await.into_stream();
        let mut response = Vec::new();
        // Without close_notify this is an error.
        within("the end", stream.read_to_end(&mut response)).await.unwrap();
        assert!(response.starts_with(b"HTTP/1.1 "), "{}", response.escape_ascii());
    }
}

#[tokio::test]
async fn a_connection_without_a_valid_client_hello_ends_after_tls_timeout() {
    let authority = Authority::default();
    let setup = setup().with_tls(&authority.issue(&["localhost"])).tls("tls_timeout", "0.2");
    let host = setup.server("head_timeout", "600").start().await;
    let record = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for begin in [&b""[..], &record[..1], &record[..5], &record] {
        let mut client = send(secure(&host), "").await;
        client.write(begin).await;
        // The host may send an alert.
        assert!(client.read_to_end().await.len() < 20, "{begin:?}");
    }
    for nonsense in [&[0u8; 300][..], &[0x16; 300], &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0]] {
        let mut client = send(secure(&host), "").await;
        client.write(nonsense).await;
        assert!(client.read_to_end().await.len() < 20);
    }
}

#[tokio::test]
async fn sni_selects_the_certificate() {
    let authority = Authority::default();
    let first = authority.issue(&["first.example", "www.first.example"]);
    let wild = authority.issue(&["*.second.example"]);
    let exact = authority.issue(&["exact.second.example"]);
    let host = setup()
        .with_tls(&first)
        .put("wild.pem", &wild.certificate)
        .put("wild.key", &wild.key)
        .put("exact.pem", &exact.certificate)
        .put("exact.key", &exact.key)
        .tls(
            "certificates",
            r#"[{ certificate = "own.pem", key = "own.key" }, { certificate = "wild.pem", key = "wild.key" }, { certificate = "exact.pem", key = "exact.key" }]"#,
        )
        .start()
        .await;
    for (name, expected) in [
        ("first.example", &first),
        ("WWW.First.Example", &first),
        ("a.second.example", &wild),
        ("exact.second.example", &exact),
    ] {
        let address = authority.tls_address(secure(&host), name);
        assert_eq!(address.certificate().await, expected.der(), "{name}");
    }
    // For an unknown name the first certificate is served, which the client rejects.
    for name in ["second.example", "a.b.second.example", "other.example"] {
        assert!(authority.tls_address(secure(&host), name).try_connect().await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_client_certificate_authenticates_a_backend() {
    let (authority, backends) = (Authority::default(), Authority::default());
    let setup = setup().with_tls(&authority.issue(&["localhost"])).put("ca.pem", backends.pem());
    let setup = setup.tls("client_ca", r#""ca.pem""#).server("allowed_ips", r#"["192.0.2.1"]"#);
    let host = setup.server("trusted_proxies", r#"["127.0.0.1"]"#).start().await;
    let without_certificate = authority.tls_address(secure(&host), "localhost");
    assert_eq!(send(&without_certificate, POST).await.last_response().await.status, 403);
    Client::open(&without_certificate, Request::to("/web")).await.ready().await;

    let backend = authority.tls_address_with_certificate(
        secure(&host),
        "localhost",
        &backends.issue_client(),
    );
    assert_eq!(send(&backend, POST).await.last_response().await.status, 200);
    LineClient::open(&backend, "backend\nGET /web HTTP/1.1\n\n").await.ready().await;
    // The certificate authenticates the proxy, not the clients behind it.
    let forwarded = POST.replace("Host: x", "Host: x\r\nX-Forwarded-For: 198.51.100.1");
    assert_eq!(send(&backend, &forwarded).await.last_response().await.status, 403);

    // In TLS 1.3 the client sees the rejection when it reads.
    let wrong_ca = authority.tls_address_with_certificate(
        secure(&host),
        "localhost",
        &authority.issue_client(),
    );
    if let Ok(stream) = wrong_ca.try_connect().await {
        drop(stream);
        let mut client = RawClient::connect(&wrong_ca).await;
        drop(client.try_write(POST).await);
        assert_eq!(client.read_to_end().await, b"");
    }
}

/// Sends a POST; returns the response, or nothing if the connection fails.
async fn post(address: &Address) -> Vec<u8> {
    let Ok(stream) = address.try_connect().await else { return Vec::new() };
    let mut client = RawClient::over(stream);
    drop(client.try_write(POST).await);
    client.read_to_end().await
}

#[tokio::test]
async fn no_session_is_resumed_past_the_expiry_of_the_client_certificate() {
    let (authority, backends) = (Authority::default(), Authority::default());
    let setup = setup().with_tls(&authority.issue(&["localhost"])).put("ca.pem", backends.pem());
    let setup = setup.tls("client_ca", r#""ca.pem""#).server("allowed_ips", r#"["192.0.2.1"]"#);
    let host = setup.start().await;
    for reach in
        [Authority::tls_address_with_certificate, Authority::tls12_address_with_certificate]
    {
        let position = host.log_position();
        let short_lived = backends.issue_client_until(SystemTime::now() + Duration::from_secs(4));
        let address = reach(&authority, secure(&host), "localhost", &short_lived);
        // The session ticket arrives with the response.
        assert!(post(&address).await.starts_with(b"HTTP/1.1 200"));
        assert!(address.resumes().await && post(&address).await.starts_with(b"HTTP/1.1 200"));
        let expired = async { while !post(&address).await.is_empty() {} };
        within("the certificate to expire", expired).await;
        let is_match = |line: &Line| line.starts_with("TLS session resumption refused");
        let line = host.wait_for_log_since(position, "the reason", is_match).await;
        assert!(line.field("error").contains("expired"), "{line}");
    }
    // Other clients are not affected.
    let address = authority.tls_address_with_certificate(
        secure(&host),
        "localhost",
        &backends.issue_client(),
    );
    assert!(post(&address).await.starts_with(b"HTTP/1.1 200"));
    assert!(address.resumes().await && post(&address).await.starts_with(b"HTTP/1.1 200"));
}

/// Returns the commands in the guide for creating a backend's certificate.
fn documented_commands() -> String {
    let guide = include_str!("../../../docs/guides/tls-and-reverse-proxies.md");
    let mut blocks = guide.split("```sh\n").map(|block| block.split("```").next().unwrap());
    let block = blocks.find(|block| block.contains("-keyout ca.key")).unwrap();
    block.lines().filter(|line| line.starts_with("openssl")).collect::<Vec<_>>().join(" && ")
}

#[tokio::test]
async fn a_certificate_created_by_the_manuals_commands_authenticates_a_backend() {
    let folder = std::env::temp_dir().join(format!("plugsocket-openssl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let made =
        Command::new("bash").args(["-c", &documented_commands()]).current_dir(&folder).output();
    if Command::new("openssl").arg("version").output().is_err() {
        let test = "a_certificate_created_by_the_manuals_commands_authenticates_a_backend";
        skip(test, "openssl is missing", "apt-get install openssl");
        return;
    }
    assert!(made.as_ref().is_ok_and(|made| made.status.success()), "{made:?}");
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let client = Issued { certificate: file("reports.pem"), key: file("reports.key") };
    let authority = Authority::default();
    let setup = setup().with_tls(&authority.issue(&["localhost"])).put("ca.pem", file("ca.pem"));
    let setup = setup.tls("client_ca", r#""ca.pem""#).server("allowed_ips", r#"["192.0.2.1"]"#);
    let host = setup.start().await;
    let backend = authority.tls_address_with_certificate(secure(&host), "localhost", &client);
    assert_eq!(send(&backend, POST).await.last_response().await.status, 200);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_proxy_header_precedes_tls() {
    let authority = Authority::default();
    let setup = setup().with_tls(&authority.issue(&["localhost"])).tls("proxy_protocol", "true");
    let host = setup.server("trusted_proxies", r#"["127.0.0.1"]"#).start().await;
    let direct = authority.tls_address(secure(&host), "localhost");
    let proxied = direct.clone().with_proxy_header("PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n");
    let _client = Client::open(&proxied, Request::to("/web")).await.ready().await;
    let (_, output) = host.command(&["connections", "--json"]).await;
    let connections: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(connections[0]["address"], "203.0.113.9");
    // A connection without a header is refused; the other port expects none.
    assert!(direct.try_connect().await.is_err());
    host.connect("/web").await;
}

#[tokio::test]
async fn a_host_may_listen_for_tls_only() {
    let authority = Authority::default();
    let host =
        setup().with_tls(&authority.issue(&["localhost"])).server("listen", "[]").start().await;
    let [address] = host.addresses() else { panic!("{:?}", host.addresses()) };
    let address = authority.tls_address(address, "localhost");
    Client::open(&address, Request::to("/web")).await.ready().await;
    let nowhere = setup().server("listen", "[]").run(&["check"]).await;
    assert!(
        nowhere.stderr.contains("the array is empty, so no client could connect"),
        "{nowhere:?}"
    );
}
