//! The dialog: `ready`, `next` and `close` packets, their order, and resources without a dialog.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{
    Client, Next, RawClient, Request, Setup, TestHost, close_frame, masked, opcode,
};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn host() -> TestHost {
    let setup = Setup::new(PROGRAM).resource("/web", "feedback").resource("/speak", "speaker");
    setup.plain("/echo", "echo").plain("/mute", "speaker").start().await
}

fn echo(message: impl Into<Value>) -> Value {
    json!({"opcode": "echo", "message": message.into()})
}

/// Returns the speaker's log of callbacks for one connection.
async fn calls_about(uuid: &str, observer: &mut Client) -> Vec<Value> {
    let calls = observer.ask(&json!({"do": "log-of-calls"})).await;
    let about = calls.as_array().unwrap().iter().filter(|call| call["uuid"] == uuid);
    about.cloned().collect()
}

/// Like [`calls_about`], once `close` has been called.
async fn calls_until_close(uuid: &str, observer: &mut Client) -> Vec<Value> {
    loop {
        let calls = calls_about(uuid, observer).await;
        if calls.iter().any(|call| call["call"] == "close") {
            return calls;
        }
    }
}

fn call_names(calls: &[Value]) -> Vec<&str> {
    calls.iter().map(|call| call["call"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn ready_comes_first_and_its_uuid_is_random_and_signed() {
    let host = host().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let client = host.connect("/web").await;
        let (uuid, mac) = client.uuid().split_once('.').unwrap();
        let shape: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(shape, [8, 4, 4, 4, 12], "{uuid}");
        assert_eq!(uuid.as_bytes()[14], b'4', "version: {uuid}");
        assert!(b"89ab".contains(&uuid.as_bytes()[19]), "variant: {uuid}");
        assert!(mac.len() == 64 && mac.bytes().all(|byte| byte.is_ascii_hexdigit()), "{mac}");
        assert!(!seen.contains(&uuid.to_owned()));
        seen.push(uuid.to_owned());
    }
}

#[tokio::test]
async fn each_message_gets_one_next_after_all_packets_sent_while_handling_it() {
    let host = host().await;
    let mut client = host.connect("/web").await;
    for n in 0..20 {
        let Next { packets, fyi } = client.call(&echo(n)).await;
        assert_eq!((packets, fyi.as_str()), (vec![echo(n)], ""));
    }
    client.call(&json!({"opcode": "unknown"})).await;
    client.call(&json!({})).await;
    let last = client.call(&echo("last")).await;
    assert_eq!(last.packets, [echo("last")]);
}

#[tokio::test]
async fn pipelined_messages_are_answered_in_order() {
    let host = host().await;
    let mut client = host.raw().await.upgraded("/web").await;
    client.expect_text().await;
    let all: Vec<u8> =
        (0..300).flat_map(|n| masked(opcode::TEXT, echo(n).to_string().as_bytes())).collect();
    client.write(all).await;
    for n in 0..300 {
        let answer: Value = serde_json::from_str(&client.expect_text().await).unwrap();
        assert_eq!(answer, echo(n));
        assert_eq!(client.expect_text().await, r#"{"opcode":"next","fyi":""}"#);
    }
}

#[tokio::test]
async fn a_resource_without_a_dialog_sends_no_packets() {
    let host = host().await;
    let mut client = host.open(Request::to("/echo")).await;
    for text in ["first", "", "bufferOFF", r#"{"opcode":"quit"}"#, "ü€𝄞"] {
        client.send(text).await;
        assert_eq!(client.receive_text().await, text);
    }
    let mut client = host.open(Request::to("/mute")).await;
    client.send(json!({"do": "refuse", "code": 4001, "reason": "no"}).to_string()).await;
    assert_eq!(client.expect_close(4001).await, "no");
}

#[tokio::test]
async fn binary_messages_pass_byte_for_byte() {
    let host = host().await;
    let mut client = host.open(Request::to("/echo")).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for bytes in [&bytes[..0], &bytes[..1], &bytes[..126], &bytes[..65_536], &bytes] {
        client.send_binary(bytes).await;
        let answer = client.receive().await.unwrap();
        assert!(answer.is_binary() && *answer.into_data() == *bytes);
    }
}

#[tokio::test]
async fn a_fragmented_message_is_joined_across_control_frames() {
    let host = host().await;
    let mut client = host.raw().await.upgraded("/echo").await;
    client.write(masked(0x01, b"frag")).await;
    client.write(masked(opcode::PING, b"there?")).await;
    let pong = client.frame().await.unwrap();
    assert_eq!((pong.first, pong.text()), (opcode::PONG, "there?"));
    client.write(masked(0x00, b"men")).await;
    client.write(masked(opcode::PONG, b"")).await;
    // A fragment may end inside a character.
    client.write(masked(0x00, &"ü".as_bytes()[..1])).await;
    client.write(masked(opcode::CONTINUATION, &"ü".as_bytes()[1..])).await;
    assert_eq!(client.expect_text().await, "fragmenü");
    client.write([masked(0x02, b"\xff"), masked(opcode::CONTINUATION, b"\x00")].concat()).await;
    let answer = client.frame().await.unwrap();
    assert_eq!((answer.first, &*answer.payload), (opcode::BINARY, &b"\xff\x00"[..]));
}

#[tokio::test]
async fn the_fyi_of_a_feedback_is_delivered_or_gone() {
    let host = host().await;
    let (mut sender, mut receiver) = (host.connect("/web").await, host.connect("/web").await);
    let feedback = json!({"opcode": "feedback", "uuid": receiver.uuid(), "message": "m"});
    let Next { packets, fyi } = sender.call(&feedback).await;
    assert_eq!((packets.len(), fyi.as_str()), (0, "delivered"));
    assert_eq!(receiver.receive_json().await, feedback);
    assert_eq!(sender.call(&echo(1)).await.fyi, "");
    receiver.close().await;
    host.wait_for_log("the end of the connection", |line| line.message() == "connection closed")
        .await;
    while sender.call(&feedback).await.fyi != "gone" {}
}

#[tokio::test]
async fn quit_closes_with_1000_and_no_packet() {
    let host = host().await;
    let mut client = host.connect("/web").await;
    client.send(r#"{"opcode":"quit"}"#).await;
    // The `quit` may still be answered by a `next`.
    let Some(message) = client.receive().await else {
        panic!("the connection ended without a close frame")
    };
    if message.is_text() {
        assert_eq!(message.to_text().unwrap(), r#"{"opcode":"next","fyi":""}"#);
        client.expect_close(1000).await;
    } else {
        assert!(message.is_close(), "{message:?}");
    }
}

#[tokio::test]
async fn invalid_json_closes_with_1007() {
    let host = host().await;
    for text in ["{", "hello", "[]", "17"] {
        let mut client = host.connect("/web").await;
        client.send(text).await;
        let packet = client.expect_close_packet(1007).await;
        assert!(packet["error"].as_str().unwrap().contains("JSON"), "{packet}");
    }
}

#[tokio::test]
async fn a_message_sent_in_open_arrives_after_ready() {
    let host = host().await;
    let mut client = host.connect("/speak?greet=1").await;
    assert_eq!(client.receive_json().await, json!({"greeting": client.uuid()}));
}

#[tokio::test]
async fn a_refusal_in_open_sends_a_close_packet_and_code() {
    let host = host().await;
    let mut client = host.open(Request::to("/speak?refuse=room+is+full")).await;
    assert_eq!(client.expect_close_packet(1008).await["error"], "room is full");
    let mut client = host.open(Request::to("/mute?refuse=full")).await;
    assert_eq!(client.expect_close(1008).await, "full");
}

#[tokio::test]
async fn a_refused_message_closes_with_the_code_of_the_application() {
    let host = host().await;
    let mut client = host.connect("/speak").await;
    client.send(json!({"do": "refuse", "code": 4002, "reason": "not this"}).to_string()).await;
    assert_eq!(client.expect_close_packet(4002).await["error"], "not this");
}

#[tokio::test]
async fn the_application_sees_open_and_close_exactly_once_for_each_kind_of_end() {
    let host = host().await;
    let mut observer = host.connect("/speak").await;
    // The client closes.
    let mut client = host.connect("/speak").await;
    let uuid = client.uuid().to_owned();
    client.ask(&json!({"do": "whoami"})).await;
    client.ask(&json!({"do": "whoami"})).await;
    client.close().await;
    let calls = calls_until_close(&uuid, &mut observer).await;
    assert_eq!(call_names(&calls), ["open", "message", "message", "close"]);
    assert_eq!((&calls[3]["by"], &calls[3]["code"]), (&json!("peer"), &json!(1005)));
    // The client disappears.
    let client = host.connect("/speak").await;
    let uuid = client.uuid().to_owned();
    drop(client);
    let calls = calls_until_close(&uuid, &mut observer).await;
    assert_eq!(call_names(&calls), ["open", "error", "close"]);
    assert_eq!((&calls[2]["by"], &calls[2]["code"]), (&json!("peer"), &json!(1006)));
    // The application closes.
    let mut client = host.connect("/speak").await;
    let uuid = client.uuid().to_owned();
    client.send(json!({"do": "close", "code": 4000, "reason": "enough"}).to_string()).await;
    assert_eq!(client.expect_close_packet(4000).await["error"], "enough");
    let calls = calls_until_close(&uuid, &mut observer).await;
    assert_eq!(call_names(&calls), ["open", "message", "close"]);
    assert_eq!((&calls[2]["by"], &calls[2]["code"]), (&json!("plugin"), &json!(4000)));
    assert_eq!(calls[2]["reason"], "enough");
}

#[tokio::test]
async fn messages_before_a_close_frame_are_handled_before_the_close_callback() {
    let host = host().await;
    let mut observer = host.connect("/speak").await;
    let mut client = host.raw().await.upgraded("/speak").await;
    let ready: Value = serde_json::from_str(&client.expect_text().await).unwrap();
    let message = masked(opcode::TEXT, br#"{"do":"whoami"}"#);
    client.write([message.repeat(50), close_frame(4003)].concat()).await;
    let calls = calls_until_close(ready["uuid"].as_str().unwrap(), &mut observer).await;
    assert_eq!(calls.len(), 52);
    assert_eq!((&calls[51]["call"], &calls[51]["code"]), (&json!("close"), &json!(4003)));
}

#[tokio::test]
async fn close_is_called_at_once_even_if_the_client_keeps_its_socket_open() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker").server("close_timeout", "600");
    let host = setup.start().await;
    let mut observer = host.connect("/speak").await;
    let mut client = host.raw().await.upgraded("/speak").await;
    let ready: Value = serde_json::from_str(&client.expect_text().await).unwrap();
    client.write(close_frame(1000)).await;
    let calls = calls_until_close(ready["uuid"].as_str().unwrap(), &mut observer).await;
    assert_eq!(call_names(&calls), ["open", "close"]);
    client.expect_close(1000).await;
}

#[tokio::test]
async fn a_refused_session_gets_no_close_callback() {
    let host = host().await;
    let mut observer = host.connect("/speak").await;
    host.open(Request::to("/speak?refuse=x")).await.expect_close_packet(1008).await;
    let calls = observer.ask(&json!({"do": "log-of-calls"})).await;
    assert_eq!(call_names(calls.as_array().unwrap()), ["open", "open", "message"]);
}

#[tokio::test]
async fn a_close_frame_is_answered_with_its_code() {
    let host = host().await;
    for path in ["/web", "/echo"] {
        let mut client = host.raw().await;
        client.write([RawClient::handshake(path).into_bytes(), close_frame(1000)].concat()).await;
        client.expect_switching().await;
        let mut frame = client.frame().await.unwrap();
        if frame.first == opcode::TEXT {
            frame = client.frame().await.unwrap();
        }
        assert_eq!(frame.close_code(), Some(1000), "{path}");
        assert_eq!(client.frame().await, None);
    }
}

#[tokio::test]
async fn a_session_has_the_details_of_its_request() {
    let host = host().await;
    let request = Request::to("/speak?a=1&b=%20").header("User-Agent", "tester");
    let mut client = host.open(request.header("Ident", "me")).await.ready().await;
    let session = client.ask(&json!({"do": "whoami", "header": "user-agent"})).await;
    assert_eq!(
        session,
        json!({
            "uuid": client.uuid(), "kind": "websocket", "ident": "me", "address": "127.0.0.1",
            "resource": "/speak", "query": "a=1&b=%20", "header": "tester", "user": null, "claims": null
        })
    );
    let mut backend = host.connect_backend("/speak").await;
    assert_eq!(backend.ask(&json!({"do": "whoami"})).await["kind"], "backend");
}

#[tokio::test]
async fn messages_before_a_close_frame_are_answered_before_the_close() {
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").plain("/block", "blocker");
    let host = setup.resource("/talk", "echo").start().await;
    for (path, count) in [("/echo", 1), ("/echo", 200), ("/talk", 3), ("/block", 2)] {
        let mut client = host.raw().await.upgraded(path).await;
        let messages = masked(opcode::TEXT, b"hello").repeat(count);
        client.write([messages, close_frame(1000)].concat()).await;
        let mut texts = Vec::new();
        let end = loop {
            let frame = client.frame().await.expect("a close frame");
            match frame.first {
                opcode::TEXT => texts.push(frame.text().to_owned()),
                _ => break frame,
            }
        };
        assert_eq!(end.close_code(), Some(1000), "{path}");
        let count_of = |part: &str| texts.iter().filter(|text| text.contains(part)).count();
        let is_dialog = path == "/talk";
        assert_eq!(
            (count_of("hello"), count_of("next")),
            (count, if is_dialog { count } else { 0 })
        );
        assert!(client.frame().await.is_none(), "nothing follows the close frame");
    }
}
