//! Posted events and timers.

use std::collections::BTreeSet;

use plugsocket_tests::{Client, Next};
use serde_json::{Value, json};

use super::{LANES, command, library, reload, worker};

/// Returns the packets until one of them contains `part`.
async fn until(client: &mut Client, part: &Value) -> Vec<Value> {
    let mut packets = Vec::new();
    loop {
        let packet = client.receive_json().await;
        let found = part.as_object().unwrap().iter().all(|(key, value)| packet[key] == *value);
        packets.push(packet);
        if found {
            return packets;
        }
    }
}

#[tokio::test]
async fn events_arrive_in_the_order_of_the_posts() {
    for lane in LANES {
        let setup = worker("a").key("/w", "lane", &format!("{lane:?}"));
        let host = setup.server("outbox_messages", "4000").start().await;
        let mut ann = host.connect("/w").await;
        ann.send(json!({"do": "post_from_thread", "count": 2000}).to_string()).await;
        let packets = until(&mut ann, &json!({"event": "1999"})).await;
        let events: Vec<&str> = packets.iter().filter_map(|p| p["event"].as_str()).collect();
        let expected: Vec<String> = (0..2000).map(|number: u32| number.to_string()).collect();
        assert_eq!(events, expected, "{lane}");
        let Next { packets, .. } = ann.call(&json!({"do": "post_value", "text": "boxed"})).await;
        if !packets.iter().any(|packet| packet["value"] == "boxed") {
            until(&mut ann, &json!({"value": "boxed"})).await;
        }
    }
}

#[tokio::test]
async fn the_inbox_and_the_size_of_an_event_are_bounded() {
    let host = worker("a").server("inbox_messages", "50").start().await;
    let mut ann = host.connect("/w").await;
    ann.send(json!({"do": "post_too_much"}).to_string()).await;
    let packets = until(&mut ann, &json!({"by": "a"})).await;
    assert_eq!(packets[0]["result"], json!(["Err(TooLarge)", "Err(TooMany)"]));
}

#[tokio::test]
async fn requests_of_the_start_take_effect_when_the_instance_serves() {
    let early = |label: &str| {
        let texts = format!("[\"{label} 1\", \"{label} 2\"]");
        worker(label).config("/w", "early", &texts).config("/w", "early_timer", "\"tock\"")
    };
    let mut host = early("a").config("/w", "change", "\"restart\"").start().await;
    let mut ann = host.connect("/w").await;
    reload(&host, "worker").await;
    let packets = until(&mut ann, &json!({"event": "a 2"})).await;
    assert!(packets.contains(&json!({"event": "a 1", "by": "a"})), "{packets:?}");
    host.apply(early("b")).await;
    let packets = until(&mut ann, &json!({"timer": "tock", "by": "b"})).await;
    assert!(packets.iter().any(|packet| packet["event"] == "b 2"), "{packets:?}");
}

#[tokio::test]
async fn timers_survive_a_reload_but_not_another_application() {
    for lane in LANES {
        let mut host = worker("a").key("/w", "lane", &format!("{lane:?}")).start().await;
        let mut ann = host.connect("/w").await;
        for (key, millis) in [("late", 400), ("cancelled", 50), ("never", 600_000)] {
            let after = json!({"do": "after", "millis": millis, "key": key});
            assert_eq!(command(&mut ann, after).await, json!(true));
        }
        command(&mut ann, json!({"do": "after", "millis": 30, "key": "soon"})).await;
        let cancel = json!({"do": "cancel", "key": "cancelled"});
        let mut packets = ann.call(&cancel).await.packets;
        reload(&host, "worker").await;
        command(&mut ann, json!({"do": "every", "millis": 20, "key": "often"})).await;
        packets.extend(until(&mut ann, &json!({"timer": "late"})).await);
        for _ in 0..3 {
            packets.extend(until(&mut ann, &json!({"timer": "often"})).await);
        }
        let fired: BTreeSet<&str> = packets.iter().filter_map(|p| p["timer"].as_str()).collect();
        assert!(!fired.contains("cancelled") && !fired.contains("never"), "{lane}: {packets:?}");
        let setup = host.setup();
        host.apply(setup.remove("/w").resource("/w", "echo")).await;
        host.apply(worker("c").file("worker", &library("worker"))).await;
        // Opened anew by this application, which has no timers.
        let cancelled = command(&mut ann, json!({"do": "cancel", "key": "never"})).await;
        assert_eq!(cancelled, json!(false), "{lane}");
    }
}
