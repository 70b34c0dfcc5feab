//! TLS: what is served to whom, and what happens when certificates change.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, SystemTime};

use plugsocket_tests::{
    Address, Authority, Client, Issued, LineClient, RawClient, Request, Setup, TestHost, within,
};
use serde_json::Value;
use tokio::io::AsyncReadExt;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const POST: &str = "POST /web HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";

/// One that looks at its files again and again.
fn setup() -> Setup {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").plain("/echo", "echo");
    setup.reload("rescan", "0.05").reload("quiet", "0.02")
}

/// Where it speaks TLS.
fn secure(host: &TestHost) -> &Address {
    &host.addresses()[1]
}

/// What the host says of a certificate, by its place in the list.
async fn certificate(host: &TestHost, at: usize) -> Value {
    let (_, status) = host.command(&["status", "--json"]).await;
    serde_json::from_str::<Value>(&status).unwrap()["certificates"][at].take()
}

/// What the host says is wrong with its first certificate.
async fn problem(host: &TestHost) -> Value {
    certificate(host, 0).await["problem"].take()
}

/// An answer to these bytes.
async fn answer(address: &Address, request: &str) -> RawClient {
    let mut client = RawClient::connect(address).await;
    client.write(request).await;
    client
}

#[tokio::test]
async fn every_way_in_is_there_in_both_versions_of_tls() {
    let authority = Authority::default();
    let host = setup().secured(&authority.issue(&["localhost"])).start().await;
    for address in [
        authority.reach(secure(&host), "localhost"),
        authority.reach_by_1_2(secure(&host), "localhost"),
    ] {
        let mut client = Client::open(&address, Request::to("/web")).await.ready().await;
        client.send(r#"{"opcode":"ping"}"#).await;
        client.expect_next().await;
        assert_eq!(answer(&address, POST).await.last_response().await.status, 200);
        let page = "GET /plugsocket/ HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(answer(&address, page).await.last_response().await.status, 200);
        LineClient::open(&address, "backend\nGET /web HTTP/1.1\n\n").await.ready().await;
        client.close().await;
    }
}

#[tokio::test]
async fn large_messages_pass_in_both_directions() {
    let authority = Authority::default();
    let host = setup().secured(&authority.issue(&["localhost"])).start().await;
    let address = authority.reach(secure(&host), "localhost");
    let mut client = Client::open(&address, Request::to("/echo")).await;
    for length in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 3_000_000] {
        let message: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
        client.send_binary(&message).await;
        assert_eq!(client.receive().await.unwrap().into_data(), message, "{length}");
    }
    // Many at once, without waiting.
    for _ in 0..500 {
        client.send("x".repeat(1000)).await;
    }
    for _ in 0..500 {
        assert_eq!(client.receive_text().await.len(), 1000);
    }
}

#[tokio::test]
async fn http_on_a_tls_port_and_tls_on_a_plain_one_are_told_apart() {
    let authority = Authority::default();
    let host = setup().secured(&authority.issue(&["localhost"])).start().await;
    let handshake = RawClient::handshake("/web");
    let late = format!("\r\n{handshake}");
    for request in [handshake, late, "backend\nGET /web HTTP/1.1\n\n".to_owned()] {
        let response = answer(secure(&host), &request).await.last_response().await;
        assert_eq!(response.status, 400);
        assert!(response.body.contains("this port speaks TLS"), "{response:?}");
    }
    let Address::Tcp(_) = host.address() else { panic!("no TCP") };
    let hello = authority.reach(host.address(), "localhost");
    assert!(hello.try_connect().await.is_err());
    // As a browser's, in two pieces.
    let mut client = host.raw().await;
    client.write([0x16, 3, 1, 2]).await;
    client.write([&[0, 1, 0][..], &[7; 400]].concat()).await;
    let said = client.read_to_end().await;
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400"), "{}", said.escape_ascii());
    // The host is well.
    host.connect("/web").await;
}

#[tokio::test]
async fn the_end_of_tls_is_told_also_to_a_refused_peer_that_does_not_answer() {
    let authority = Authority::default();
    let setup = setup().secured(&authority.issue(&["localhost"]));
    let host = setup.server("close_timeout", "0.2").server("head_timeout", "0.2").start().await;
    let address = authority.reach(secure(&host), "localhost");
    let unknown = RawClient::handshake("/nowhere");
    let beginning = "GET /web HTTP/1.1\r\n";
    for request in [unknown.as_str(), beginning, "GET /web HTTP/1.1\r\n\r\n"] {
        let mut stream = answer(&address, request).await.into_stream();
        let mut said = Vec::new();
        // Without it, this is an error.
        within("the end", stream.read_to_end(&mut said)).await.unwrap();
        assert!(said.starts_with(b"HTTP/1.1 "), "{}", said.escape_ascii());
    }
}

#[tokio::test]
async fn who_says_no_hello_is_gone_after_tls_timeout() {
    let authority = Authority::default();
    let setup = setup().secured(&authority.issue(&["localhost"])).tls("tls_timeout", "0.2");
    let host = setup.server("head_timeout", "600").start().await;
    let record = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for begin in [&b""[..], &record[..1], &record[..5], &record] {
        let mut client = answer(secure(&host), "").await;
        client.write(begin).await;
        // An alert may be said.
        assert!(client.read_to_end().await.len() < 20, "{begin:?}");
    }
    for nonsense in [&[0u8; 300][..], &[0x16; 300], &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0]] {
        let mut client = answer(secure(&host), "").await;
        client.write(nonsense).await;
        assert!(client.read_to_end().await.len() < 20);
    }
}

#[tokio::test]
async fn the_name_that_is_asked_for_chooses_the_certificate() {
    let authority = Authority::default();
    let first = authority.issue(&["first.example", "www.first.example"]);
    let wild = authority.issue(&["*.second.example"]);
    let exact = authority.issue(&["exact.second.example"]);
    let host = setup()
        .secured(&first)
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
        let address = authority.reach(secure(&host), name);
        assert_eq!(address.certificate().await, expected.der(), "{name}");
    }
    // Unknown ones get the first, and find that it is not theirs.
    for name in ["second.example", "a.b.second.example", "other.example"] {
        assert!(authority.reach(secure(&host), name).try_connect().await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_certificate_of_the_client_makes_a_backend() {
    let (authority, backends) = (Authority::default(), Authority::default());
    let setup = setup().secured(&authority.issue(&["localhost"])).put("ca.pem", backends.pem());
    let setup = setup.tls("client_ca", r#""ca.pem""#).server("allowed_ips", r#"["192.0.2.1"]"#);
    let host = setup.server("trusted_proxies", r#"["127.0.0.1"]"#).start().await;
    let anybody = authority.reach(secure(&host), "localhost");
    assert_eq!(answer(&anybody, POST).await.last_response().await.status, 403);
    Client::open(&anybody, Request::to("/web")).await.ready().await;

    let backend = authority.reach_as(secure(&host), "localhost", &backends.issue_client());
    assert_eq!(answer(&backend, POST).await.last_response().await.status, 200);
    LineClient::open(&backend, "backend\nGET /web HTTP/1.1\n\n").await.ready().await;
    // It is the proxy's certificate, not that of those for whom it speaks.
    let forwarded = POST.replace("Host: x", "Host: x\r\nX-Forwarded-For: 198.51.100.1");
    assert_eq!(answer(&backend, &forwarded).await.last_response().await.status, 403);

    // TLS 1.3: the client learns of it when it reads.
    let stranger = authority.reach_as(secure(&host), "localhost", &authority.issue_client());
    if let Ok(stream) = stranger.try_connect().await {
        drop(stream);
        let mut client = RawClient::connect(&stranger).await;
        drop(client.try_write(POST).await);
        assert_eq!(client.read_to_end().await, b"");
    }
}

/// An answer to a POST; what it is if the connection ends instead.
async fn said(address: &Address) -> Vec<u8> {
    let Ok(stream) = address.try_connect().await else { return Vec::new() };
    let mut client = RawClient::over(stream);
    drop(client.try_write(POST).await);
    client.read_to_end().await
}

#[tokio::test]
async fn a_session_goes_on_no_longer_than_the_certificate_of_the_client() {
    let (authority, backends) = (Authority::default(), Authority::default());
    let setup = setup().secured(&authority.issue(&["localhost"])).put("ca.pem", backends.pem());
    let setup = setup.tls("client_ca", r#""ca.pem""#).server("allowed_ips", r#"["192.0.2.1"]"#);
    let host = setup.start().await;
    for reach in [Authority::reach_as, Authority::reach_as_by_1_2] {
        let position = host.log_position();
        let brief = backends.issue_client_until(SystemTime::now() + Duration::from_secs(4));
        let address = reach(&authority, secure(&host), "localhost", &brief);
        // Its ticket comes with the answer.
        assert!(said(&address).await.starts_with(b"HTTP/1.1 200"));
        assert!(address.resumes().await && said(&address).await.starts_with(b"HTTP/1.1 200"));
        let expired = async { while !said(&address).await.is_empty() {} };
        within("the certificate to expire", expired).await;
        let is_meant = |line: &plugsocket_tests::Line| line.says("a TLS session does not go on");
        let line = host.wait_for_log_since(position, "why", is_meant).await;
        assert!(line.field("error").contains("expired"), "{line}");
    }
    // Others are as they were.
    let address = authority.reach_as(secure(&host), "localhost", &backends.issue_client());
    assert!(said(&address).await.starts_with(b"HTTP/1.1 200"));
    assert!(address.resumes().await && said(&address).await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn an_authority_of_clients_that_ends_or_is_damaged_is_told() {
    let now = SystemTime::now();
    let (authority, fresh) = (Authority::default(), Authority::default());
    let setup = setup().secured(&authority.issue(&["localhost"]));
    let setup = setup.tls("client_ca", r#""ca.pem""#);
    let both = Authority::until(now - DAY).pem() + &fresh.pem();
    let host = setup.put("ca.pem", both).start().await;
    let ended = |line: &plugsocket_tests::Line| {
        line.level() == "WARN" && line.says("an authority of clients has expired")
    };
    let line = host.wait_for_log("a warning", ended).await;
    assert!(line.field("file").ends_with("/ca.pem"), "{line}");
    let found = certificate(&host, 1).await;
    assert_eq!(found["key"], "server.tls.client_ca");
    assert!(found["problem"].as_str().unwrap().starts_with("expired on "), "{found}");
    assert!(problem(&host).await.is_null());

    host.put("ca.pem", fresh.pem());
    let is_well = async { while !certificate(&host, 1).await["problem"].is_null() {} };
    within("all to be well", is_well).await;
    let position = host.log_position();
    host.put("ca.pem", "-----BEGIN CERTIFICATE-----\n!\n");
    host.wait_for_error(position, "is damaged PEM").await;
    let found = certificate(&host, 1).await;
    assert!(found["problem"].as_str().unwrap().contains("is damaged PEM"), "{found}");
    let (_, table) = host.command(&["status"]).await;
    let row = table.lines().find(|line| line.starts_with("server.tls.client_ca ")).unwrap();
    assert!(row.contains("is damaged PEM"), "{row}");

    let position = host.log_position();
    host.put("ca.pem", Authority::until(now + 10 * DAY + DAY / 2).pem());
    let soon = |line: &plugsocket_tests::Line| line.says("a certificate ends soon");
    let line = host.wait_for_log_since(position, "a warning", soon).await;
    assert_eq!(line.field("days_left"), "10");
}

#[tokio::test]
async fn a_certificate_is_renewed_while_connections_stay() {
    let authority = Authority::default();
    let (old, new) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let host = setup().secured(&old).start().await;
    let address = authority.reach(secure(&host), "localhost");
    let mut client = Client::open(&address, Request::to("/echo")).await;
    assert_eq!(address.certificate().await, old.der());

    // In two steps, with a pause.
    let position = host.log_position();
    host.put("own.pem", &new.certificate);
    let line = host.wait_for_error(position, "is not the key of").await;
    let (pem, key) = (host.folder().join("own.pem"), host.folder().join("own.key"));
    let said = format!(
        "{} is not the key of {}; give the two that were made together; the former one serves on",
        key.display(),
        pem.display()
    );
    assert_eq!(line.message(), said);
    assert_eq!(line.field("key"), "server.tls.certificates[0].key");
    assert_eq!(address.certificate().await, old.der());
    assert!(problem(&host).await.as_str().unwrap().contains("is not the key"));
    host.put("own.key", &new.key);
    let in_service = |line: &plugsocket_tests::Line| line.message() == "certificate in service";
    host.wait_for_log_since(position, "the new one", in_service).await;
    assert_eq!(address.certificate().await, new.der());
    let errors = host.log().into_iter().filter(|line| line.level() == "ERROR").count();
    assert_eq!(errors, 1, "told once, however often it was tried");

    client.send("still here").await;
    assert_eq!(client.receive_text().await, "still here");
}

#[tokio::test]
async fn files_that_are_not_fit_change_nothing_until_they_are() {
    let authority = Authority::default();
    let own = authority.issue(&["localhost"]);
    let host = setup().secured(&own).start().await;
    let address = authority.reach(secure(&host), "localhost");
    let expired = authority.issue_until(&["localhost"], SystemTime::now() - DAY);
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (file, content, said) in [
        ("own.pem", &*expired.certificate, "expired on"),
        ("own.pem", "", "has no certificate in it"),
        ("own.pem", &*own.key, "has no certificate in it"),
        (
            "own.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "cannot be understood",
        ),
        ("own.key", "", "has no private key in it"),
        ("own.key", encrypted, "is encrypted"),
        ("own.key", &*expired.key, "is not the key of"),
    ] {
        let position = host.log_position();
        host.put(file, content);
        let line = host.wait_for_error(position, said).await;
        assert!(line.message().starts_with(&*host.folder().join(file).to_string_lossy()), "{line}");
        assert_eq!(address.certificate().await, own.der(), "{said}");
        host.put("own.pem", &own.certificate);
        host.put("own.key", &own.key);
        let fine = async { while !problem(&host).await.is_null() {} };
        within("all to be well again", fine).await;
    }
    let position = host.log_position();
    std::fs::remove_file(host.folder().join("own.key")).unwrap();
    host.wait_for_error(position, "cannot be read: No such file").await;
    assert_eq!(address.certificate().await, own.der());
}

#[tokio::test]
async fn sessions_go_on_until_another_certificate_is_served() {
    let authority = Authority::default();
    let own = authority.issue(&["localhost"]);
    let host = setup().secured(&own).start().await;
    // Its ticket comes with the handshake.
    let address = authority.reach_by_1_2(secure(&host), "localhost");
    assert!(!address.resumes().await && address.resumes().await);
    let position = host.log_position();
    host.put("own.key", "");
    host.wait_for_error(position, "has no private key in it").await;
    // The file is tried again with every other of these.
    for _ in 0..20 {
        assert!(!problem(&host).await.is_null() && address.resumes().await);
    }
    host.put("own.key", &own.key);
    within("all to be well again", async { while !problem(&host).await.is_null() {} }).await;
    assert!(address.resumes().await);
    let (position, new) = (host.log_position(), authority.issue(&["localhost"]));
    host.put("own.pem", &new.certificate);
    host.put("own.key", &new.key);
    let in_service = |line: &plugsocket_tests::Line| line.message() == "certificate in service";
    host.wait_for_log_since(position, "the new one", in_service).await;
    assert!(!address.resumes().await && address.resumes().await);
}

#[tokio::test]
async fn a_certificate_that_expires_in_service_is_told() {
    let authority = Authority::default();
    let brief = authority.issue_until(&["localhost"], SystemTime::now() + Duration::from_secs(3));
    let host = setup().secured(&brief).start().await;
    assert!(problem(&host).await.is_null());
    host.wait_for_error(0, "a certificate has expired").await;
    assert!(problem(&host).await.as_str().unwrap().starts_with("expired on "));
    let (_, said) = host.command(&["status"]).await;
    assert!(said.contains("; renew it"), "{said}");
}

/// The commands that the manual gives for the certificate of a backend.
fn documented() -> String {
    let manual = include_str!("../../docs/operating.md");
    let mut blocks = manual.split("```sh\n").map(|block| block.split("```").next().unwrap());
    let block = blocks.find(|block| block.contains("openssl req -x509")).unwrap();
    block.lines().filter(|line| line.starts_with("openssl")).collect::<Vec<_>>().join(" && ")
}

#[tokio::test]
async fn a_certificate_made_as_the_manual_says_makes_a_backend() {
    let folder = std::env::temp_dir().join(format!("plugsocket-openssl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let made = Command::new("bash").args(["-c", &documented()]).current_dir(&folder).output();
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: no openssl");
        return;
    }
    assert!(made.as_ref().is_ok_and(|made| made.status.success()), "{made:?}");
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let client = Issued { certificate: file("reports.pem"), key: file("reports.key") };
    let authority = Authority::default();
    let setup = setup().secured(&authority.issue(&["localhost"])).put("ca.pem", file("ca.pem"));
    let setup = setup.tls("client_ca", r#""ca.pem""#).server("allowed_ips", r#"["192.0.2.1"]"#);
    let host = setup.start().await;
    let backend = authority.reach_as(secure(&host), "localhost", &client);
    assert_eq!(answer(&backend, POST).await.last_response().await.status, 200);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn links_may_be_switched_as_certbot_does() {
    let authority = Authority::default();
    let (old, new) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let folder = std::env::temp_dir().join(format!("plugsocket-certbot-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("archive")).unwrap();
    std::fs::create_dir_all(folder.join("live")).unwrap();
    let lay = |n: u8, issued: &Issued| {
        for (name, content) in [("fullchain", &issued.certificate), ("privkey", &issued.key)] {
            std::fs::write(folder.join(format!("archive/{name}{n}.pem")), content).unwrap();
            let live = folder.join(format!("live/{name}.pem"));
            drop(std::fs::remove_file(&live));
            symlink(format!("../archive/{name}{n}.pem"), live).unwrap();
        }
    };
    lay(1, &old);
    let entry = format!(
        r#"[{{ certificate = "{0}/live/fullchain.pem", key = "{0}/live/privkey.pem" }}]"#,
        folder.display()
    );
    let host = setup().secured(&old).tls("certificates", &entry).start().await;
    let address = authority.reach(secure(&host), "localhost");
    assert_eq!(address.certificate().await, old.der());
    let position = host.log_position();
    lay(2, &new);
    let in_service = |line: &plugsocket_tests::Line| line.message() == "certificate in service";
    host.wait_for_log_since(position, "the new one", in_service).await;
    assert_eq!(address.certificate().await, new.der());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn the_list_of_certificates_changes_with_the_configuration_or_not_at_all() {
    let authority = Authority::default();
    let (one, two) = (authority.issue(&["one.example"]), authority.issue(&["two.example"]));
    let setup = setup().put("two.pem", &two.certificate).put("two.key", &two.key);
    let mut host = setup.secured(&one).start().await;
    let both = r#"[{ certificate = "own.pem", key = "own.key" }, { certificate = "two.pem", key = "KEY" }]"#;
    let address = authority.reach(secure(&host), "two.example");

    let position = host.log_position();
    let bad = host.setup().tls("certificates", &both.replace("KEY", "own.key"));
    host.write_config(&bad.toml());
    let line = host.wait_for_error(position, "server.tls.certificates[1].key").await;
    let line_number = bad.toml().lines().position(|l| l.starts_with("certificates")).unwrap() + 1;
    assert!(line.message().contains(&format!("plugins.toml:{line_number}: ")), "{line}");
    assert!(line.message().contains("is not the key of"), "{line}");
    host.wait_for_error(position, "configuration not applied").await;
    assert!(address.try_connect().await.is_err());

    let good = host.setup().tls("certificates", &both.replace("KEY", "two.key"));
    host.apply(good).await;
    within("the new certificate", async { while address.try_connect().await.is_err() {} }).await;
    assert_eq!(address.certificate().await, two.der());

    // To listen elsewhere needs a restart; the rest is applied.
    let position = host.log_position();
    let moved = host.setup().tls("listen", r#"["127.0.0.1:1"]"#).tls("tls_timeout", "7");
    host.apply(moved).await;
    let is_meant = |line: &plugsocket_tests::Line| line.field("keys") == "tls.listen";
    host.wait_for_log_since(position, "a word about the restart", is_meant).await;
    assert_eq!(address.certificate().await, two.der());
}

#[tokio::test]
async fn the_whole_chain_is_looked_at_and_what_a_file_says_beside_it_is_not() {
    let authority = Authority::default();
    let own = authority.issue(&["localhost"]);
    let expired = authority.issue_until(&["x"], SystemTime::now() - DAY).certificate;
    let old_form = own.key.replace("KEY-----\nM", "KEY-----\nProc-Type: 4,ENCRYPTED\n\nM");
    let (fine, noted) = ("fine", format!("NOT ENCRYPTED, keep it safe\n{}", own.key));
    for (behind, key, said) in [
        (authority.pem(), &noted, fine),
        (OF_VERSION_1.to_owned(), &own.key, fine),
        (cut(&authority.pem()), &own.key, "certificate 2 of "),
        (authority.pem() + &expired, &own.key, "certificate 3 of "),
        (String::new(), &old_form, "own.key is encrypted"),
    ] {
        let setup = setup().secured(&own).put("own.pem", own.certificate.clone() + &behind);
        let outcome = setup.put("own.key", key).run(&["check"]).await;
        let is_fine = outcome.code == Some(0);
        assert!(is_fine == (said == fine), "{outcome:?}");
        assert!(is_fine || outcome.complained.contains(said), "{outcome:?}");
    }
}

/// By `openssl x509 -req` of OpenSSL 3.0 without an extension; until 2126.
const OF_VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBHjCBxAIUUirUwSHhhn3ybtdxZ38AN5oj+DwwCgYIKoZIzj0EAwIwDTELMAkG
A1UEAwwCY2EwIBcNMjYxMTI1MTQxMTU1WhgPMjEyNjExMDExNDExNTVaMBQxEjAQ
BgNVBAMMCWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABF2o9MDl
M2f2azMqQky/PPaoRcZsK/i2IqHfBHtyETasPgTTbyGM8K+4NnNphoIc6qdSPaVP
BQSyNEc7BnZy1D8wCgYIKoZIzj0EAwIDSQAwRgIhAIpfshMrKQEbJgqhp8jYreuq
A0GpBDsyKqpKj1t1tWsFAiEAggxAs+muYLM4027vsQrb7gQ6fofx1Uher9OKHgzz
bRI=
-----END CERTIFICATE-----\n";

/// A certificate whose end is missing, in PEM that is whole.
fn cut(pem: &str) -> String {
    let der = pem.lines().filter(|line| !line.starts_with('-')).take(2).collect::<String>();
    format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_told_by_line() {
    let (authority, now) = (Authority::default(), SystemTime::now());
    let own = authority.issue(&["localhost"]);
    let other = authority.issue(&["localhost"]);
    let fine = setup().secured(&own);
    let line = fine.toml().lines().position(|l| l.starts_with("certificates")).unwrap() + 1;
    assert_eq!(fine.run(&["check"]).await.code, Some(0));
    for (setup, part, said) in [
        (fine.clone().put("own.key", &other.key), "certificates[0].key", "is not the key of"),
        (fine.clone().put("own.key", "x"), "certificates[0].key", "has no private key in it"),
        (
            fine.clone().put("own.pem", "x"),
            "certificates[0].certificate",
            "has no certificate in it",
        ),
        (
            fine.clone().put("own.pem", authority.issue_until(&["x"], now - DAY).certificate),
            "certificates[0].certificate",
            "expired on",
        ),
        (
            fine.clone().put("own.pem", OF_VERSION_1),
            "certificates[0].certificate",
            "own.pem is an X.509 certificate of version 1, and version 3 is needed",
        ),
        (
            fine.clone().tls("certificates", r#"[{ certificate = "own.pem", key = "none" }]"#),
            "certificates[0].key",
            "cannot be read: No such file",
        ),
    ] {
        for command in ["check", "run"] {
            let outcome = setup.run(&[command]).await;
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            let place = format!("plugins.toml:{line}: server.tls.{part}: ");
            assert!(outcome.complained.contains(&place), "{outcome:?}");
            assert!(outcome.complained.contains(said), "{outcome:?}");
        }
    }
    let authorities = fine.tls("client_ca", r#""own.key""#).run(&["check"]).await;
    assert!(authorities.complained.contains("server.tls.client_ca: "), "{authorities:?}");
    assert!(authorities.complained.contains("one of each authority"), "{authorities:?}");
}

#[tokio::test]
async fn names_and_end_are_to_be_seen_and_the_end_is_warned_of() {
    let authority = Authority::default();
    let soon = authority
        .issue_until(&["soon.example", "*.soon.example"], SystemTime::now() + 10 * DAY + DAY / 2);
    let host = setup().secured(&soon).start().await;
    let is_warning = |line: &plugsocket_tests::Line| line.says("a certificate ends soon");
    let line = host.wait_for_log("a warning", is_warning).await;
    assert_eq!(line.field("days_left"), "10");
    let (_, said) = host.command(&["status"]).await;
    assert!(said.contains("soon.example *.soon.example"), "{said}");
    let (_, said) = host.command(&["status", "--json"]).await;
    let certificate = &serde_json::from_str::<Value>(&said).unwrap()["certificates"][0];
    assert_eq!(certificate["days_left"], 10);
    assert_eq!(certificate["names"], serde_json::json!(["soon.example", "*.soon.example"]));
    assert_eq!(certificate["expires"], line.field("expires"));
    assert_eq!(host.log().into_iter().filter(is_warning).count(), 1, "once a day");
}

#[tokio::test]
async fn a_proxy_speaks_before_tls() {
    let authority = Authority::default();
    let setup = setup().secured(&authority.issue(&["localhost"])).tls("proxy_protocol", "true");
    let host = setup.server("trusted_proxies", r#"["127.0.0.1"]"#).start().await;
    let relay = Relay::to(secure(&host), b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n").await;
    let address = authority.reach(&relay.address, "localhost");
    let _client = Client::open(&address, Request::to("/web")).await.ready().await;
    let (_, said) = host.command(&["connections", "--json"]).await;
    let connections: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(connections[0]["address"], "203.0.113.9");
    // Without a header it is not let in; on the other port none is expected.
    assert!(authority.reach(secure(&host), "localhost").try_connect().await.is_err());
    host.connect("/web").await;
}

/// Passes on one connection, behind a header.
struct Relay {
    address: Address,
    _task: tokio::task::JoinSet<()>,
}

impl Relay {
    async fn to(host: &Address, header: &'static [u8]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let host = host.clone();
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = host.connect().await;
            tokio::io::AsyncWriteExt::write_all(&mut far, header).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
        });
        Self { address, _task: task }
    }
}

#[tokio::test]
async fn a_host_may_speak_nothing_but_tls() {
    let authority = Authority::default();
    let host =
        setup().secured(&authority.issue(&["localhost"])).server("listen", "[]").start().await;
    let [address] = host.addresses() else { panic!("{:?}", host.addresses()) };
    let address = authority.reach(address, "localhost");
    Client::open(&address, Request::to("/web")).await.ready().await;
    let nowhere = setup().server("listen", "[]").run(&["check"]).await;
    assert!(
        nowhere.complained.contains("the list is empty, so nobody could connect"),
        "{nowhere:?}"
    );
}

#[tokio::test]
async fn a_key_that_may_not_be_read_is_tried_again() {
    let authority = Authority::default();
    let (old, new) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    // Root may read anything, unless that is taken from it.
    let without = "--bounding-set=-dac_override,-dac_read_search";
    let setup = setup().secured(&old);
    let setup = if is_root() { setup.launcher(&["setpriv", without]) } else { setup };
    let host = setup.start().await;
    let address = authority.reach(secure(&host), "localhost");
    let key = host.folder().join("own.key");
    let position = host.log_position();
    host.put("own.pem", &new.certificate);
    host.put("own.key", &new.key);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o000)).unwrap();
    host.wait_for_error(position, "Permission denied").await;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let in_service = |line: &plugsocket_tests::Line| line.message() == "certificate in service";
    host.wait_for_log_since(position, "the new one", in_service).await;
    assert_eq!(address.certificate().await, new.der());
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t")
}
