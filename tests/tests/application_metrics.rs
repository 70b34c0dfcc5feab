//! Metrics that applications publish: counters, gauges and histograms in `plugsocket status`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Line, Setup, TestHost};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).resource("/x", "speaker").resource("/other", "speaker")
}

async fn record(client: &mut Client, metric: Value) {
    let mut command = metric;
    command["do"] = json!("metric");
    assert_eq!(client.ask(&command).await, true, "{command}");
}

/// Returns the series of a resource.
async fn metrics(host: &TestHost, resource: &str) -> Vec<Value> {
    let (code, output) = host.command(&["status", "--json"]).await;
    assert_eq!(code, 0, "{output}");
    let status: Value = serde_json::from_str(&output).unwrap();
    let mut resources = status["resources"].as_array().unwrap().iter();
    let found = resources.find(|found| found["path"] == resource).unwrap();
    found["metrics"].as_array().unwrap().clone()
}

/// Returns the value of the only series with this name.
async fn value(host: &TestHost, name: &str) -> Value {
    let series = metrics(host, "/x").await;
    series
        .iter()
        .find(|series| series["name"] == name)
        .map_or(Value::Null, |it| it["value"].clone())
}

#[tokio::test]
async fn the_status_shows_every_series_of_an_application() {
    let host = setup().start().await;
    assert_eq!(metrics(&host, "/x").await, Vec::<Value>::new());
    assert!(!host.command(&["status"]).await.1.contains("metrics of the application"));
    let mut ann = host.connect("/x").await;
    let clock = json!({"lot": r#"a "clock" \"#, "b": "\u{202e}ü"});
    for value in [2.0, 0.5] {
        record(&mut ann, json!({"kind": "counter", "name": "bids", "value": value})).await;
        let labelled = json!({"kind": "counter", "name": "bids", "labels": clock, "value": value});
        record(&mut ann, labelled).await;
        let seconds = json!({
            "kind": "histogram", "name": "seconds", "buckets": [0.5, 1, 2.5], "value": value,
            "message": "Time of a bid.",
        });
        record(&mut ann, seconds).await;
    }
    record(&mut ann, json!({"kind": "gauge", "name": "open_lots", "value": 7})).await;
    record(&mut ann, json!({"kind": "gauge-add", "name": "open_lots", "value": -9.5})).await;
    let bids = |labels| {
        json!({
            "name": "bids", "kind": "counter", "help": "", "labels": labels, "value": 2.5,
            "histogram": null,
        })
    };
    let buckets = json!([
        {"le": 0.5, "count": 1}, {"le": 1.0, "count": 1}, {"le": 2.5, "count": 2}
    ]);
    assert_eq!(
        metrics(&host, "/x").await,
        [
            bids(json!({})),
            bids(clock),
            json!({
                "name": "open_lots", "kind": "gauge", "help": "", "labels": {}, "value": -2.5,
                "histogram": null,
            }),
            json!({
                "name": "seconds", "kind": "histogram", "help": "Time of a bid.", "labels": {},
                "value": null, "histogram": {"count": 2, "sum": 2.5, "buckets": buckets},
            }),
        ]
    );
    assert_eq!(metrics(&host, "/other").await, Vec::<Value>::new());
    let (_, text) = host.command(&["status"]).await;
    let block = concat!(
        "\n/x: metrics of the application\n",
        "bids 2.5\n",
        r#"bids{b="\u{202e}ü",lot="a \"clock\" \\"} 2.5"#,
        "\nopen_lots -2.5\n",
        "seconds count 2, sum 2.5, mean 1.25\n",
    );
    assert!(text.contains(block), "{text}");
    assert!(!text.contains("/other: metrics"), "{text}");
}

#[tokio::test]
async fn a_series_continues_after_a_reload_and_counts_in_every_state_of_an_instance() {
    let host = setup().config("/x", "count_starts", "true").start().await;
    let mut ann = host.connect("/x").await;
    // `start` runs before the instance is active.
    assert_eq!(value(&host, "starts").await, 1.0);
    let bids = || json!({"kind": "counter", "name": "bids", "value": 1});
    record(&mut ann, bids()).await;
    let thread = json!({"do": "thread", "count": 1_000_000, "every_ms": 5, "message": ""});
    assert_eq!(ann.ask(&thread).await, true);
    let position = host.log_position();
    host.reload_same("speaker", "speaker").await;
    record(&mut ann, bids()).await;
    assert_eq!(value(&host, "starts").await, 2.0);
    assert_eq!(value(&host, "bids").await, 2.0);
    // The thread ends after its instance was replaced, and counts that.
    let ended = |line: &Line| line.starts_with("thread ended");
    host.wait_for_log_since(position, "the end of the thread", ended).await;
    assert_eq!(value(&host, "threads_ended").await, 1.0);
}

#[tokio::test]
async fn a_value_that_a_kind_cannot_have_changes_nothing() {
    let host = setup().start().await;
    let mut ann = host.connect("/x").await;
    record(&mut ann, json!({"kind": "counter", "name": "c", "value": 3})).await;
    record(&mut ann, json!({"kind": "counter", "name": "c", "value": -1})).await;
    // Twice the greatest number is not a number in JSON.
    for _ in 0..2 {
        record(&mut ann, json!({"kind": "gauge-add", "name": "g", "value": f64::MAX})).await;
    }
    assert_eq!(value(&host, "c").await, 3.0);
    assert_eq!(value(&host, "g").await, f64::MAX);
}

#[tokio::test]
async fn a_series_that_cannot_be_registered_is_logged_with_what_would_be_right() {
    let host = setup().start().await;
    let mut ann = host.connect("/x").await;
    record(&mut ann, json!({"kind": "counter", "name": "taken", "value": 1})).await;
    let (long, many): (String, serde_json::Map<_, _>) =
        ("v".repeat(101), (0..9).map(|n| (format!("l{n}"), json!(""))).collect());
    for (metric, part) in [
        (json!({"kind": "counter", "name": "no-name"}), "letters, digits and `_`"),
        (json!({"kind": "counter", "name": long}), "a name consists of 1 to 100"),
        (json!({"kind": "gauge", "name": "a", "labels": {"l-l": ""}}), r#"label "l-l": a name"#),
        (json!({"kind": "gauge", "name": "a", "labels": {"l": long}}), "the label `l`"),
        (json!({"kind": "gauge", "name": "a", "labels": {"l": "a\nb"}}), "no control characters"),
        (json!({"kind": "gauge", "name": "a", "labels": many}), "9 labels; the maximum is 8"),
        (json!({"kind": "histogram", "name": "a", "buckets": []}), "1 to 64 buckets"),
        (json!({"kind": "histogram", "name": "a", "buckets": [2, 1]}), "that ascend"),
        (json!({"kind": "gauge", "name": "taken"}), "a counter with this name exists"),
    ] {
        let position = host.log_position();
        record(&mut ann, metric.clone()).await;
        let refused = |line: &Line| line.starts_with("metric not registered");
        let line = host.wait_for_log_since(position, "the reason", refused).await;
        assert_eq!(line.level(), "WARN", "{line}");
        for (field, expected) in [("resource", "/x"), ("plugin", "speaker"), ("generation", "1")] {
            assert_eq!(line.field(field), expected, "{line}");
        }
        assert_eq!(line.field("name"), metric["name"].as_str().unwrap(), "{line}");
        assert!(line.field("error").contains(part), "{line}");
    }
    assert_eq!(metrics(&host, "/x").await.len(), 1);
}

#[tokio::test]
async fn a_resource_has_at_most_1000_series() {
    let host = setup().start().await;
    let (mut ann, mut other) = (host.connect("/x").await, host.connect("/other").await);
    let numbered = |number: u32| json!({"kind": "gauge", "name": "g", "labels": {"n": number.to_string()}, "value": 1});
    for number in 0..1000 {
        record(&mut ann, numbered(number)).await;
    }
    assert!(!host.log().iter().any(|line| line.starts_with("metric not registered")));
    record(&mut ann, numbered(1000)).await;
    let refused = |line: &Line| line.field("error").contains("1000 series");
    host.wait_for_log("the reason", refused).await;
    // Those that exist continue, and other resources have their own.
    record(&mut ann, numbered(999)).await;
    record(&mut other, numbered(1000)).await;
    let (x, other) = (metrics(&host, "/x").await, metrics(&host, "/other").await);
    assert_eq!((x.len(), other.len()), (1000, 1));
}
