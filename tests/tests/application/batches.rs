//! Messages of one read in one call.

use plugsocket_tests::{RawClient, Setup, TestHost, masked, opcode};

use super::{LANES, PROGRAM};

async fn host(lane: &str) -> TestHost {
    let lane = format!("{lane:?}");
    Setup::new(PROGRAM).resource("/b", "batcher").key("/b", "lane", &lane).start().await
}

/// Sends messages with one write.
async fn send_at_once(client: &mut RawClient, texts: &[&str]) {
    let frames = texts.iter().map(|text| masked(opcode::TEXT, text.as_bytes()));
    client.write(frames.collect::<Vec<_>>().concat()).await;
}

async fn connect(host: &TestHost) -> RawClient {
    let mut client = host.raw().await.upgraded("/b").await;
    assert!(client.expect_text().await.contains("ready"));
    client
}

const NEXT: &str = r#"{"opcode":"next","fyi":""}"#;

#[tokio::test]
async fn the_messages_of_one_read_arrive_in_one_call_and_are_acknowledged_each() {
    for lane in LANES {
        let host = host(lane).await;
        let mut client = connect(&host).await;
        send_at_once(&mut client, &["a", "b", "c"]).await;
        assert_eq!(client.expect_text().await, "3:a", "{lane}");
        for _ in 0..3 {
            assert_eq!(client.expect_text().await, NEXT, "{lane}");
        }
        send_at_once(&mut client, &["d"]).await;
        assert_eq!(client.expect_text().await, "1:d", "{lane}");
        assert_eq!(client.expect_text().await, NEXT, "{lane}");
        // A chunk buffer divides a batch.
        send_at_once(&mut client, &["e", "f", "bufferON", "g", "h", "bufferOFF", "i", "j"]).await;
        let mut answers = Vec::new();
        while answers.len() < 2 {
            let text = client.expect_text().await;
            answers.extend((text != NEXT).then_some(text));
        }
        assert_eq!(answers[0], "2:e", "{lane}");
        assert_eq!(answers[1], "3:gh", "{lane}");
    }
}

#[tokio::test]
async fn a_deferred_message_of_a_batch_keeps_its_place() {
    for lane in LANES {
        let host = host(lane).await;
        let mut client = connect(&host).await;
        send_at_once(&mut client, &["a", "defer", "c", "defer", "e"]).await;
        assert_eq!(client.expect_text().await, "5:a", "{lane}");
        for fyi in ["", "later", "", "later", ""] {
            let next = format!(r#"{{"opcode":"next","fyi":"{fyi}"}}"#);
            assert_eq!(client.expect_text().await, next, "{lane}");
        }
    }
}

#[tokio::test]
async fn a_refusal_and_a_panic_in_a_batch_close_the_connection() {
    let host = host("shared").await;
    for (text, code, reason) in
        [("refuse", 1008, "refused"), ("panic", 1011, "the application failed")]
    {
        let mut client = connect(&host).await;
        send_at_once(&mut client, &["a", "defer", text, "d"]).await;
        assert_eq!(client.expect_text().await, "4:a");
        let packet = client.expect_text().await;
        assert_eq!(packet, format!(r#"{{"opcode":"close","error":"{reason}"}}"#));
        assert_eq!(client.expect_close(code).await, reason);
    }
}
