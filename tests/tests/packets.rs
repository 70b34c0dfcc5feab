//! What the bundled applications make of packets: numbers, texts cut within a character, byte order
//! marks, misspelt opcodes, malformed uuids and false senders.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Request, Response, Setup, TestHost};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const MARK: &str = "starts with a byte order mark (U+FEFF)";

async fn host() -> TestHost {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").resource("/chat", "chat");
    setup.resource("/locks", "locks").resource("/jobs", "jobs").start().await
}

async fn post(host: &TestHost, path: &str, body: &str) -> Response {
    let mut client = host.raw().await;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n"
    );
    client.write(format!("{head}\r\n{body}")).await;
    client.last_response().await
}

/// Sends a text; returns the packets up to the `next`.
async fn ask(client: &mut Client, text: &str) -> Vec<Value> {
    client.send(text).await;
    client.until_next().await.packets
}

#[tokio::test]
async fn a_number_is_an_id_by_its_text() {
    let host = host().await;
    let (mut ann, mut bob) = (host.connect("/locks").await, host.connect("/locks").await);
    for (one, other) in [
        ("9007199254740993", "9007199254740992"),
        ("12345678901234567890123", "12345678901234567890124"),
        ("1.10", "1.1"),
    ] {
        let lock = |id| format!(r#"{{"opcode":"lock","ids":[{id}]}}"#);
        let locks = ask(&mut ann, &lock(one)).await;
        assert!(
            locks.last().unwrap()["mine"].as_array().unwrap().contains(&json!(one)),
            "{locks:?}"
        );
        let locks = ask(&mut bob, &lock(other)).await;
        assert!(locks.last().unwrap()["mine"].as_array().unwrap().contains(&json!(other)));
        assert_eq!(locks.last().unwrap()["locked"], json!([]), "{other} is not {one}");
    }
    let (mut browser, long) = (host.connect("/jobs").await, "12345678901234567890123");
    ask(&mut browser, &json!({"opcode": "watch", "job": long}).to_string()).await;
    let report = |job: &str| format!(r#"{{"opcode":"progress","job":{job},"text":42}}"#);
    let other = post(&host, "/jobs", &report("12345678901234567890124")).await;
    assert_eq!(other.packets(), [json!({"opcode": "next", "fyi": "unwatched"})]);
    let watched = post(&host, "/jobs", &report(long)).await;
    assert_eq!(watched.packets(), [json!({"opcode": "next", "fyi": "watched"})]);
    let packet = browser.receive_json().await;
    assert_eq!((&packet["job"], &packet["text"]), (&json!(long), &json!("42")));
}

#[tokio::test]
async fn a_number_matches_the_ident_that_it_spells() {
    let host = host().await;
    let request = Request::to("/web").header("Client-Type", "php").header("Ident", "42");
    let mut script = host.open(request).await.ready().await;
    let body = r#"{"opcode":"feedback","ident":42,"uuid":"","message":"Hello"}"#;
    let response = post(&host, "/web", body).await;
    assert_eq!(response.packets(), [json!({"opcode": "next", "fyi": "delivered"})]);
    assert_eq!(script.receive_text().await, body);
    let mut member = host.connect("/chat?name=Ann").await;
    member.receive_json().await;
    let joined = ask(&mut member, r#"{"opcode":"join","room":42,"name":7}"#).await;
    assert_eq!((&joined[0]["room"], &joined[0]["name"]), (&json!("42"), &json!("7")));
    assert_eq!(ask(&mut member, r#"{"message":2024}"#).await[0]["message"], "2024");
}

#[tokio::test]
async fn a_text_that_is_cut_within_a_character_is_accepted() {
    let host = host().await;
    let mut browser = host.connect("/web").await;
    let packet =
        format!(r#"{{"opcode":"feedback","uuid":"{}","message":"cut \ud83d"}}"#, browser.uuid());
    let response = post(&host, "/web", &packet).await;
    assert_eq!(response.packets(), [json!({"opcode": "next", "fyi": "delivered"})]);
    assert_eq!(browser.receive_text().await, packet);
    let mut member = host.connect("/chat").await;
    member.receive_json().await;
    let said = ask(&mut member, r#"{"message":"cut \ud83d"}"#).await;
    assert_eq!(said[0]["message"], "cut \u{fffd}");
    let mut holder = host.connect("/locks").await;
    let locks = ask(&mut holder, r#"{"opcode":"lock","ids":["cut \ud83d"]}"#).await;
    assert_eq!(locks[0]["mine"], json!(["cut \u{fffd}"]));
    let mut watcher = host.connect("/jobs").await;
    let state = ask(&mut watcher, r#"{"opcode":"watch","job":"cut \ud83d"}"#).await;
    assert_eq!(state[0]["job"], "cut \u{fffd}");
}

#[tokio::test]
async fn a_byte_order_mark_before_a_message_is_named() {
    let host = host().await;
    let marked = "\u{feff}{\"opcode\":\"echo\"}";
    let mut browser = host.connect("/web").await;
    browser.send(marked).await;
    let error = browser.expect_close_packet(1007).await["error"].clone();
    assert!(error.as_str().unwrap().contains(MARK), "{error}");
    let response = post(&host, "/web", marked).await;
    assert_eq!(response.status, 422);
    assert!(response.body.contains(MARK), "{response:?}");
    for path in ["/chat", "/locks", "/jobs"] {
        let response = post(&host, path, marked).await;
        assert!(response.status == 200 && response.body.contains(MARK), "{path}: {response:?}");
        assert!(response.body.contains(r#""fyi":"refused""#), "{path}: {response:?}");
    }
    // An old client, whose messages have no line end.
    let mut lines = host.connect_lines("/web").await;
    lines.write(marked).await;
    let error = lines.expect_close_packet().await["error"].clone();
    assert!(error.as_str().unwrap().contains(MARK), "{error}");
    let mut raw = host.raw().await;
    raw.write("\u{feff}backend\nGET /web HTTP/1.1\n\n").await;
    let response = raw.last_response().await;
    assert!(response.status == 400 && response.body.contains(MARK), "{response:?}");
}

#[tokio::test]
async fn an_unknown_opcode_of_a_backend_is_reported_and_logged_once() {
    let host = host().await;
    let mistake = json!({"opcode": "brodcast", "message": "x"});
    let mut backend = host.connect_backend("/web").await;
    let mut lines = host.connect_lines("/web").await;
    let mut browser = host.connect("/web").await;
    for _ in 0..2 {
        assert_eq!(backend.call(&mistake).await.fyi, "unknown opcode");
        assert_eq!(lines.call(&mistake).await.fyi, "unknown opcode");
        let response = post(&host, "/web", &mistake.to_string()).await;
        assert_eq!(response.packets(), [json!({"opcode": "next", "fyi": "unknown opcode"})]);
    }
    assert_eq!(browser.call(&mistake).await.fyi, "");
    let targetless = json!({"opcode": "feedback", "message": "x"});
    assert_eq!(backend.call(&targetless).await.fyi, "no uuid and no ident");
    assert_eq!(lines.call(&targetless).await.fyi, "no uuid and no ident");
    assert_eq!(browser.call(&targetless).await.fyi, "gone");
    assert_eq!(backend.call(&json!({"opcode": "echo"})).await.fyi, "");
    // Logged after everything above.
    post(&host, "/web", "[]").await;
    host.wait_for_log("the last message", |line| line.starts_with("message is not a JSON")).await;
    let log = host.log();
    let logged: Vec<_> =
        log.iter().filter(|line| line.starts_with("unknown opcode of a backend")).collect();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].level() == "WARN" && logged[0].text().contains("brodcast"), "{logged:?}");
}

#[tokio::test]
async fn a_malformed_uuid_is_not_reported_as_gone() {
    let host = host().await;
    let mut sender = host.connect("/web").await;
    let gone = host.connect("/web").await;
    let uuid = gone.uuid().to_owned();
    assert_eq!(uuid.len(), 101);
    gone.close().await;
    let to = |uuid: &str| json!({"opcode": "feedback", "uuid": uuid, "message": "x"});
    while sender.call(&to(&uuid)).await.fyi != "gone" {}
    for malformed in [&uuid[..36], &uuid[1..], &uuid.to_uppercase(), "undefined"] {
        assert_eq!(sender.call(&to(malformed)).await.fyi, "malformed uuid", "{malformed}");
        let response = post(&host, "/web", &to(malformed).to_string()).await;
        assert_eq!(response.packets(), [json!({"opcode": "next", "fyi": "malformed uuid"})]);
    }
    let report = json!({"opcode": "progress", "job": "J", "uuid": "undefined"});
    let response = post(&host, "/jobs", &report.to_string()).await;
    assert!(response.body.contains("`uuid` must be the uuid"), "{response:?}");
    let report = json!({"opcode": "progress", "job": "J", "uuid": uuid});
    let response = post(&host, "/jobs", &report.to_string()).await;
    assert_eq!(response.packets(), [json!({"opcode": "next", "fyi": "unwatched"})]);
}

#[tokio::test]
async fn a_browser_cannot_send_in_the_name_of_another() {
    let host = host().await;
    let (mut sender, mut receiver) = (host.connect("/web").await, host.connect("/web").await);
    let (own, to) = (sender.uuid().to_owned(), receiver.uuid().to_owned());
    for routed in [json!({"opcode": "broadcast"}), json!({"opcode": "feedback", "uuid": to})] {
        let mut packet = routed;
        for (from, expected) in [(&own, &own), (&to, &own)] {
            packet["fromUUID"] = json!(from);
            let mut received = packet.clone();
            received["fromUUID"] = json!(expected);
            let text = packet.to_string();
            sender.send(&text).await;
            let other = receiver.receive_text().await;
            assert_eq!(serde_json::from_str::<Value>(&other).unwrap(), received);
            // What is true is passed on byte for byte.
            assert_eq!(other == text, from == expected);
            sender.expect_next().await;
        }
    }
    let packet = json!({"opcode": "feedback", "uuid": to, "fromUUID": "a script"});
    post(&host, "/web", &packet.to_string()).await;
    assert_eq!(receiver.receive_json().await, packet, "backends write what they like");
}
