//! Deferred acknowledgements.

use std::path::Path;

use plugsocket_tests::{Client, RawClient, Setup};
use serde_json::json;

use super::{LANES, PROGRAM, command, command_without_next, defer, reload, worker};

async fn complete(by: &mut Client, name: &str, fyi: Option<&str>) {
    let completed = command(by, json!({"do": "complete", "name": name, "fyi": fyi})).await;
    assert_eq!(completed, "Ok(())", "{name}");
}

#[tokio::test]
async fn acknowledgements_keep_the_order_of_the_messages() {
    for lane in LANES {
        let host = worker("a").key("/w", "lane", &format!("{lane:?}")).start().await;
        let (mut ann, mut bob) = (host.connect("/w").await, host.connect("/w").await);
        defer(&mut ann, "1").await;
        defer(&mut ann, "2").await;
        // Answered at once, acknowledged behind the two.
        let echo = json!({"do": "echo", "text": "3"});
        assert_eq!(command_without_next(&mut ann, echo).await, "3", "{lane}");
        complete(&mut bob, "2", Some("second")).await;
        complete(&mut bob, "1", Some("first")).await;
        for fyi in ["first", "second", ""] {
            assert_eq!(ann.expect_next().await, fyi, "{lane}");
        }
        let echo = json!({"do": "echo", "text": "4"});
        assert_eq!(command(&mut ann, echo).await, "4", "{lane}");
        // A ticket is used up.
        let again = json!({"do": "complete", "name": "1"});
        assert_eq!(command(&mut bob, again).await, "unknown", "{lane}");
        assert_eq!(command(&mut ann, json!({"do": "defer_twice"})).await, "Err(Invalid)");
    }
}

#[tokio::test]
async fn work_off_the_lane_answers_and_completes_its_message() {
    let host = worker("a").start().await;
    let mut ann = host.connect("/w").await;
    ann.send(json!({"do": "blocking", "text": "read"}).to_string()).await;
    let packets = ann.until_next().await.packets;
    assert!(packets.contains(&json!({"blocking": "read"})), "{packets:?}");
}

#[tokio::test]
async fn results_that_come_after_a_swap_reach_the_instance_that_waits_for_them() {
    for lane in LANES {
        let host = worker("a").key("/w", "lane", &format!("{lane:?}")).start().await;
        let mut ann = host.connect("/w").await;
        for round in 0..3 {
            for number in 0..20 {
                let text = format!("{round}.{number}");
                ann.send(json!({"do": "blocking", "text": text, "millis": 100}).to_string()).await;
            }
            reload(&host, "worker").await;
            let mut nexts = 0;
            while nexts < 20 {
                nexts += usize::from(ann.receive_json().await["opcode"] == "next");
            }
        }
    }
}

#[tokio::test]
async fn a_refused_a_dropped_and_an_expired_ticket_close_their_connection() {
    let watchdog = "{ callback_warn = 0.1, callback_limit = 0.4 }";
    let host = worker("a").server("watchdog", watchdog).start().await;
    let mut bob = host.connect("/w").await;
    let mut ann = host.connect("/w").await;
    defer(&mut ann, "refused").await;
    command(&mut bob, json!({"do": "refuse", "name": "refused", "reason": "sold"})).await;
    assert_eq!(ann.expect_close_packet(4001).await["error"], "sold");
    let mut ann = host.connect("/w").await;
    defer(&mut ann, "dropped").await;
    command(&mut bob, json!({"do": "fail", "name": "dropped"})).await;
    assert_eq!(ann.expect_close_packet(1011).await["error"], "the application failed");
    host.wait_for_log("a warning", |line| line.text().contains("its ticket was dropped")).await;
    let mut ann = host.connect("/w").await;
    defer(&mut ann, "expired").await;
    let error = "the application did not answer in time";
    assert_eq!(ann.expect_close_packet(1011).await["error"], error);
    host.wait_for_log("a warning", |line| line.text().contains("deferred message not completed"))
        .await;
    let late = command(&mut bob, json!({"do": "complete", "name": "expired"})).await;
    assert_eq!(late, "Err(Gone)");
}

#[tokio::test]
async fn a_message_stays_deferred_across_a_reload() {
    for lane in LANES {
        let host = worker("a").key("/w", "lane", &format!("{lane:?}")).start().await;
        let (mut ann, mut bob) = (host.connect("/w").await, host.connect("/w").await);
        // One for the successor, one for a thread of the old instance, one for its `drop`.
        defer(&mut ann, "1").await;
        command_without_next(&mut ann, json!({"do": "defer_on_thread"})).await;
        command_without_next(&mut ann, json!({"do": "defer_in_drop"})).await;
        reload(&host, "worker").await;
        complete(&mut bob, "1", Some("successor")).await;
        let mut retiring = 0;
        let mut fyis = Vec::new();
        while fyis.len() < 3 {
            let packet = ann.receive_json().await;
            match packet["opcode"].as_str() {
                Some("next") => fyis.push(packet["fyi"].as_str().unwrap().to_owned()),
                _ => retiring += usize::from(packet["retiring"] == "Replaced"),
            }
        }
        let retired = ["successor", "Err(Retired)", "Some(Err(Retired))"];
        assert_eq!((fyis, retiring), (retired.map(str::to_owned).into(), 1), "{lane}");
    }
}

#[tokio::test]
async fn a_client_is_read_no_faster_than_its_messages_are_completed() {
    let setup = worker("a").server("outbox_messages", "40").server("inbox_messages", "10");
    let host = setup.start().await;
    let mut ann = host.connect("/w").await;
    let mut bob = host.connect("/w").await;
    defer(&mut ann, "first").await;
    // More than the host may hold: it stops reading, and nothing is lost.
    const MESSAGES: usize = 300;
    let text = json!({"do": "echo", "text": "x".repeat(100)}).to_string();
    for _ in 0..MESSAGES {
        ann.send(&text).await;
    }
    // Time in which a host without a limit would handle all of them.
    for _ in 0..300 {
        command(&mut bob, json!({"do": "calls"})).await;
    }
    complete(&mut bob, "first", None).await;
    let (mut before, mut nexts) = (0, 0);
    while nexts <= MESSAGES {
        match ann.receive_json().await["opcode"] == "next" {
            true => nexts += 1,
            false => before += usize::from(nexts == 0),
        }
    }
    // The limit, and what one read brings.
    assert!(before <= 40 + 64, "{before} messages were handled behind a deferred one");
}

#[tokio::test]
async fn a_post_and_a_client_that_has_finished_sending_wait_for_their_answer() {
    let host = worker("a").start().await;
    let body = json!({"do": "blocking", "text": "posted"}).to_string();
    let mut post: RawClient = host.raw().await;
    let length = body.len();
    post.write(format!("POST /w HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"))
        .await;
    let response = post.response().await;
    let packets = response.packets();
    assert_eq!(response.status, 200, "{response:?}");
    assert!(packets.contains(&json!({"blocking": "posted"})), "{packets:?}");
    assert_eq!(packets.last().unwrap()["opcode"], "next");
}

#[tokio::test]
async fn a_connection_that_the_host_closes_first_receives_its_deferred_answers() {
    for lane in LANES {
        let mut host = worker("a").key("/w", "lane", &format!("{lane:?}")).start().await;
        let mut ann = host.connect("/w").await;
        for text in ["1", "2", "3"] {
            ann.send(json!({"do": "blocking", "text": text, "millis": 300}).to_string()).await;
        }
        // All are with the application.
        let mut bob = host.connect("/w").await;
        command(&mut bob, json!({"do": "echo", "text": "behind"})).await;
        host.signal("TERM");
        let (mut answers, mut nexts) = (Vec::new(), 0);
        while nexts < 3 {
            let packet = ann.receive_json().await;
            match packet["opcode"].as_str() {
                Some("next") => nexts += 1,
                _ => answers.extend(packet["blocking"].as_str().map(str::to_owned)),
            }
        }
        answers.sort();
        assert_eq!(answers, ["1", "2", "3"], "{lane}");
        ann.expect_close_packet(1001).await;
        assert_eq!(host.exited().await.code(), Some(0), "{lane}");
    }
}

#[tokio::test]
async fn a_deferred_message_delays_the_end_of_a_connection_by_close_timeout() {
    let mut host = worker("a").server("close_timeout", "0.3").start().await;
    let mut ann = host.connect("/w").await;
    defer(&mut ann, "never").await;
    host.signal("TERM");
    ann.expect_close_packet(1001).await;
    assert_eq!(host.exited().await.code(), Some(0));
}

#[tokio::test]
async fn the_example_with_a_runtime_of_its_own_answers_across_a_reload() {
    let program = std::env::current_exe().unwrap();
    let examples = program.parent().and_then(Path::parent).unwrap().join("examples");
    let library = std::fs::read(examples.join("libasync_lookup.so"));
    let library = library.expect("`cargo test --workspace` builds the examples");
    let setup = Setup::new(PROGRAM).resource("/lookup", "lookup").file("lookup", &library);
    let host = setup.start().await;
    let mut client = host.connect("/lookup").await;
    for is_last in [false, true] {
        for _ in 0..20 {
            client.send("127.0.0.1").await;
        }
        for _ in 0..20 {
            let packets = client.until_next().await.packets;
            assert!(packets.iter().all(|packet| packet["addresses"] == json!(["127.0.0.1"])));
        }
        if !is_last {
            reload(&host, "lookup").await;
        }
    }
}
