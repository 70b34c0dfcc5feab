//! Every configuration in the documents is started by a host, which serves its resources.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use plugsocket::config::Config;
use plugsocket_tests::markdown::documents;
use plugsocket_tests::{Address, Authority, Client, Line, Request, Setup, TestHost, plugin_path};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{PROGRAM, blocks, expect_none};

/// Configurations that a test cannot start, by a part of their text, with the reason.
const NOT_STARTED: [(&str, &str); 0] = [];
/// Hosts that run at the same time.
const AT_ONCE: usize = 4;
const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The digest that the documents show: of an empty file.
const SHOWN_DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[tokio::test]
async fn every_configuration_is_served() {
    let documents = documents();
    let blocks = blocks(&documents, &["toml"]);
    let configurations: Vec<_> = blocks
        .into_iter()
        .filter(|(_, block)| !block.text.contains("[package]"))
        .filter(|(_, block)| !NOT_STARTED.iter().any(|(part, _)| block.text.contains(part)))
        .map(|(document, block)| {
            (format!("{}:{}", document.path.display(), block.line), block.text.clone())
        })
        .collect();
    assert!(configurations.len() >= 15, "{configurations:?}");
    let mut problems = Vec::new();
    for batch in configurations.chunks(AT_ONCE) {
        let (mut hosts, mut places) = (JoinSet::new(), BTreeMap::new());
        for (place, text) in batch {
            places.insert(hosts.spawn(serve(text.clone())).id(), place);
        }
        while let Some(ended) = hosts.join_next_with_id().await {
            let (id, problem) = match ended {
                Ok((id, served)) => (id, served.err()),
                Err(error) => (error.id(), Some(format!("{error}, see above"))),
            };
            problems.extend(problem.map(|problem| format!("{}: {problem}", places[&id])));
        }
    }
    expect_none(problems);
}

/// Starts a host with a configuration, and connects to each of its resources on each address.
async fn serve(shown: String) -> Result<(), String> {
    let mut endpoint = JoinSet::new();
    let mut text = movable(&completed(&shown));
    for url in values(&shown, "url") {
        text = text.replace(url, &accepting_endpoint(&mut endpoint).await);
    }
    let config = Config::parse(&text, "plugins.toml").map_err(|error| error.to_string())?;
    let authority = Authority::default();
    let mut setup = with_files(Setup::new(PROGRAM), &text, &authority);
    for resource in config.resources.values() {
        let library = std::fs::read(plugin_path(&resource.plugin)).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, &library);
        text = text.replace(SHOWN_DIGEST, &hexadecimal(digest.as_ref()));
        let folder = values(&text, "plugin_dir")[0];
        setup = setup.put(&format!("{folder}/lib{}.so", resource.plugin), library);
    }
    let host = setup.text(&text).start().await;
    for address in reachable(&host, &text, &authority) {
        for (path, resource) in &config.resources {
            let request = Request::to(path).header("Origin", "https://www.example.org");
            let bearer = token(&text).map(|token| format!("Bearer {token}"));
            let request = bearer.iter().fold(request, |r, value| r.header("Authorization", value));
            let client = Client::open(&address, request).await;
            let client = if resource.dialog { client.ready().await } else { client };
            client.close().await;
        }
    }
    // The files of this test have the usual permissions.
    let is_problem = |line: &&Line| {
        ["WARN", "ERROR"].contains(&line.level()) && !line.starts_with("all users can read this")
    };
    match host.log().iter().find(is_problem) {
        Some(line) => Err(line.to_string()),
        None => Ok(()),
    }
}

/// Adds to a fragment what a host needs: a resource, addresses and a plugin folder.
fn completed(fragment: &str) -> String {
    let has = |header: &str| fragment.lines().any(|line| line.starts_with(header));
    let mut text = fragment.to_owned();
    let headers = fragment.lines().filter_map(|line| line.strip_prefix("[resources."));
    let mut paths: HashSet<&str> = headers.filter_map(|header| header.split('"').nth(1)).collect();
    if paths.is_empty() {
        paths.insert("/any");
    }
    let pinned =
        fragment.lines().find_map(|line| line.strip_prefix("[plugins.")?.strip_suffix(']'));
    for path in paths {
        let header = format!("[resources.\"{path}\"]");
        if !has(&header) {
            let plugin = pinned.unwrap_or("echo");
            text.push_str(&format!("\n{header}\nplugin = \"{plugin}\"\n"));
        }
    }
    if !has("[server]") {
        text = format!("[server]\n\n{text}");
    }
    let table = text.split_once("[server]\n").unwrap().1;
    let keys = table.lines().take_while(|line| !line.starts_with('['));
    let names: Vec<_> = keys.filter_map(|line| line.split(" = ").next()).collect();
    let needed = [("listen", r#"["127.0.0.1:8095"]"#), ("plugin_dir", r#""plugins""#)];
    let missing = needed.iter().filter(|(name, _)| !names.contains(name));
    let missing: String = missing.map(|(name, value)| format!("{name} = {value}\n")).collect();
    text.replacen("[server]\n", &format!("[server]\n{missing}"), 1)
}

/// Replaces addresses by free ports of loopback, and absolute paths by the same ones below the
/// folder of the host.
fn movable(text: &str) -> String {
    let moved = text.replace("= \"/", "= \"");
    let lines = moved.lines().map(|line| match line.strip_prefix("listen = ") {
        Some(address) if address.starts_with('"') => "listen = \"127.0.0.1:0\"\n".to_owned(),
        Some(addresses) => {
            let addresses: Vec<String> = serde_json::from_str(addresses).unwrap();
            let on_loopback = addresses.iter().map(|address| match address.starts_with('[') {
                true => "[::1]:0",
                false => "127.0.0.1:0",
            });
            format!("listen = {}\n", json!(on_loopback.collect::<Vec<_>>()))
        }
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// The strings that are assigned to a key, in tables and in inline tables.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let start = format!("{key} = \"");
    let found = text.match_indices(&start).filter(|(at, _)| {
        let before = text[..*at].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && before != '_')
    });
    found.map(|(at, _)| text[at + start.len()..].split('"').next().unwrap()).collect()
}

/// Creates the files that a configuration names.
fn with_files(mut setup: Setup, text: &str, authority: &Authority) -> Setup {
    let server = authority.issue(&["localhost"]);
    for (key, content) in [
        ("certificate", server.certificate),
        ("key", server.key),
        ("client_ca", Authority::default().pem()),
        (
            "jwks",
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "2025",
            "x": URL_SAFE_NO_PAD.encode(signing_key().public_key())}]})
            .to_string(),
        ),
    ] {
        for name in values(text, key) {
            setup = setup.put(name, &content);
        }
    }
    for (name, algorithm) in values(text, "file").iter().zip(values(text, "algorithm")) {
        let content = match algorithm {
            "HS256" => SECRET.to_owned(),
            "EdDSA" => public_key(),
            other => panic!("no key for {other}"),
        };
        setup = setup.put(name, content);
    }
    setup
}

/// The addresses of a host; those of `[server.tls]` follow those of `[server]`.
fn reachable(host: &TestHost, text: &str, authority: &Authority) -> Vec<Address> {
    let is_tls: Vec<bool> = host
        .log()
        .iter()
        .filter(|line| line.message() == "listening")
        .map(|line| line.field("tls") == "true")
        .collect();
    let addresses = host.addresses().iter().zip(is_tls);
    let addresses = addresses.map(|(address, is_tls)| match is_tls {
        true if text.contains("proxy_protocol = true") => authority
            .tls_address(address, "localhost")
            .with_proxy_header("PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n"),
        true => authority.tls_address(address, "localhost"),
        false => address.clone(),
    });
    addresses.collect()
}

/// Listens for the requests of an authentication endpoint and accepts all; returns its URL.
async fn accepting_endpoint(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/auth.php", listener.local_addr().unwrap());
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n")
                && matches!(stream.read_buf(&mut head).await, Ok(1..))
            {}
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    });
    url
}

fn signing_key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

/// The public key in PEM.
fn public_key() -> String {
    let start = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
    let body = STANDARD.encode([&start[..], signing_key().public_key().as_ref()].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
}

/// A token that satisfies the first key of a configuration; None if it has no keys.
fn token(text: &str) -> Option<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({"sub": "ann", "exp": now + 600});
    if let Some(issuer) = values(text, "issuer").first() {
        claims["iss"] = json!(issuer);
    }
    if let Some(audience) = text.lines().find_map(|line| line.strip_prefix("audience = ")) {
        claims["aud"] = serde_json::from_str(audience).unwrap();
    }
    let algorithm = *values(text, "algorithm").first()?;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": algorithm, "kid": values(text, "kid").first()});
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = match algorithm {
        "EdDSA" => signing_key().sign(signed.as_bytes()).as_ref().to_vec(),
        _ => {
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
            ring::hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
        }
    };
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
