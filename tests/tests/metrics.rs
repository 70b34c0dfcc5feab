//! `[server.metrics]`: metrics for Prometheus, and health checks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::process::Stdio;

use plugsocket_tests::{Address, Client, RawClient, Response, Setup, TestHost, close_frame, skip};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

fn setup() -> Setup {
    Setup::new(PROGRAM).server("metrics", r#"{ listen = "127.0.0.1:0" }"#)
}

async fn metrics_address(host: &TestHost) -> Address {
    let line = host
        .wait_for_log("the metrics listener", |line| line.starts_with("listening for metrics"))
        .await;
    Address::Tcp(line.field("address").parse().unwrap())
}

async fn get(address: &Address, path: &str, headers: &str) -> Response {
    let mut client = RawClient::connect(address).await;
    client.write(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n")).await;
    client.last_response().await
}

async fn scrape(host: &TestHost, accept: &str) -> String {
    let address = metrics_address(host).await;
    let response = get(&address, "/metrics", &format!("Accept: {accept}\r\n")).await;
    assert_eq!(response.status, 200);
    response.body
}

/// Returns the value of the series that begins so.
fn value(page: &str, series: &str) -> f64 {
    let rest = page.lines().find_map(|line| line.strip_prefix(series));
    rest.unwrap_or_else(|| panic!("{series} in {page}")).trim().parse().unwrap()
}

async fn record(client: &mut Client, metric: Value) {
    let mut command = metric;
    command["do"] = json!("metric");
    assert_eq!(client.ask(&command).await, true, "{command}");
}

#[tokio::test]
async fn a_scrape_counts_what_has_happened() {
    let host = setup().resource("/x", "speaker").start().await;
    let mut ann = host.connect("/x").await;
    for _ in 0..20 {
        ann.ask(&json!({"do": "sessions"})).await;
    }
    let mut bob = host.raw().await.upgraded("/x").await;
    bob.write(close_frame(4321)).await;
    bob.read_to_end().await;
    let page = loop {
        let page = scrape(&host, "text/plain").await;
        if page.contains("side=\"client\"") {
            break page;
        }
    };
    for (series, expected) in [
        (r#"plugsocket_resource_up{resource="/x",plugin="speaker"}"#, 1.0),
        (r#"plugsocket_sessions{resource="/x"}"#, 1.0),
        (r#"plugsocket_connections_opened_total{resource="/x"}"#, 2.0),
        (
            r#"plugsocket_connections_closed_total{resource="/x",side="client",code="4000-4999"}"#,
            1.0,
        ),
        (r#"plugsocket_messages_received_total{resource="/x"}"#, 20.0),
        // `ready` for both; an answer and `next` for each message.
        (r#"plugsocket_messages_sent_total{resource="/x"}"#, 42.0),
        (r#"plugsocket_callback_seconds_count{resource="/x",callback="open"}"#, 2.0),
        (r#"plugsocket_callback_seconds_count{resource="/x",callback="close"}"#, 1.0),
        (r#"plugsocket_plugin_loads_total{plugin="speaker"}"#, 1.0),
        ("plugsocket_ready", 1.0),
    ] {
        assert_eq!(value(&page, &format!("{series} ")), expected, "{series}");
    }
    let calls =
        value(&page, r#"plugsocket_callback_seconds_count{resource="/x",callback="message"} "#);
    assert!((16.0..=32.0).contains(&calls), "{calls} of 20 calls");
    assert!(value(&page, r#"plugsocket_received_bytes_total{resource="/x"} "#) > 20.0 * 20.0);
    assert!(value(&page, "process_open_fds ") >= 5.0);
    assert!(value(&page, "process_cpu_seconds_total ") >= 0.0);
}

#[tokio::test]
async fn the_format_is_negotiated_and_both_are_valid() {
    let host = setup().resource("/x", "speaker").start().await;
    let mut ann = host.connect("/x").await;
    record(
        &mut ann,
        json!({"kind": "counter", "name": "bids", "value": 2, "labels": {"lot": "a\"\\\n"}}),
    )
    .await;
    let openmetrics = scrape(&host, OPENMETRICS).await;
    assert!(openmetrics.ends_with("# EOF\n"), "{openmetrics}");
    assert!(openmetrics.contains("# TYPE plugsocket_messages_sent counter\n"));
    // Without this bucket, Prometheus computes no quantiles.
    assert!(openmetrics.contains(r#"le="+Inf""#), "{openmetrics}");
    let address = metrics_address(&host).await;
    let response = get(&address, "/metrics", "").await;
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let page = response.body;
    assert!(page.contains("# TYPE plugsocket_messages_sent_total counter\n"), "{page}");
    let mut lines: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
    let count = lines.len();
    lines.sort_unstable();
    lines.dedup_by_key(|line| line.rsplit_once(' ').unwrap().0.to_owned());
    assert_eq!(lines.len(), count, "no series occurs twice");
    check_by_promtool(&page).await;
}

/// `promtool check metrics` finds nothing wrong and nothing unusual.
async fn check_by_promtool(page: &str) {
    let mut command = tokio::process::Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut promtool) = command.stderr(Stdio::piped()).kill_on_drop(true).spawn() else {
        let hint = "apt-get install prometheus";
        return skip(
            "the_format_is_negotiated_and_both_are_valid",
            "promtool is not installed",
            hint,
        );
    };
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(page.as_bytes()).await.unwrap();
    drop(input);
    let output = promtool.wait_with_output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[tokio::test]
async fn metrics_of_an_application_continue_after_a_reload() {
    let host = setup().resource("/x", "speaker").resource("/y", "speaker").start().await;
    let mut ann = host.connect("/x").await;
    let bid =
        json!({"kind": "counter", "name": "bids_total", "value": 2, "labels": {"plugin": "mine"}});
    record(&mut ann, bid.clone()).await;
    let seconds = json!({"kind": "histogram", "name": "seconds", "buckets": [1, 5], "value": 3});
    record(&mut ann, seconds).await;
    // The same name in another resource is another kind.
    let mut bob = host.connect("/y").await;
    record(&mut bob, json!({"kind": "gauge", "name": "seconds", "value": 7})).await;
    host.reload_same("speaker", "speaker").await;
    record(&mut ann, bid).await;
    for accept in [OPENMETRICS, "text/plain"] {
        let page = scrape(&host, accept).await;
        for (series, expected) in [
            (r#"bids_total{resource="/x",plugin="speaker",exported_plugin="mine"}"#, 4.0),
            (r#"seconds{resource="/y",plugin="speaker"}"#, 7.0),
            (r#"seconds_histogram_sum{resource="/x",plugin="speaker"}"#, 3.0),
            (r#"seconds_histogram_count{resource="/x",plugin="speaker"}"#, 1.0),
        ] {
            let series = format!("plugsocket_application_{series} ");
            assert_eq!(value(&page, &series), expected, "{series}");
        }
        let bucket = page
            .lines()
            .find(|line| line.contains("seconds_histogram_bucket") && line.contains(r#"le="5"#));
        assert!(bucket.unwrap().ends_with(" 1"), "{bucket:?}");
    }
}

#[tokio::test]
async fn refusals_are_counted_by_reason() {
    let setup = setup().resource("/x", "speaker").resource("/closed", "start_refuse");
    let host = setup.server("unknown_resource", r#""404""#).start().await;
    for path in ["/unknown", "/closed"] {
        host.raw().await.try_handshake(path).await;
    }
    host.raw().await.try_request("nonsense\r\n\r\n").await;
    let page = scrape(&host, "text/plain").await;
    for (reason, expected) in
        [("unknown_resource", 1.0), ("unavailable", 1.0), ("bad_request", 1.0), ("limit", 0.0)]
    {
        let series = format!("plugsocket_handshakes_refused_total{{reason={reason:?}}} ");
        assert_eq!(value(&page, &series), expected, "{reason}");
    }
    assert_eq!(
        value(&page, r#"plugsocket_resource_up{resource="/closed",plugin="start_refuse"} "#),
        0.0
    );
    let refusals = r#"plugsocket_plugin_refusals_total{plugin="start_refuse",reason="preflight"} "#;
    assert!(value(&page, refusals) >= 1.0);
}

#[tokio::test]
async fn health_checks_say_whether_and_why() {
    let setup = setup().server("health", r#""/internal/health""#).resource("/x", "speaker");
    let setup = setup.resource("/closed", "start_refuse").resource("/internal/*", "speaker");
    let host = setup.start().await;
    let inner = metrics_address(&host).await;
    for (address, prefix) in [(&inner, "/health"), (host.address(), "/internal/health")] {
        let live = get(address, &format!("{prefix}/live"), "").await;
        assert_eq!((live.status, live.header("content-type")), (200, Some("application/json")));
        let ready = get(address, &format!("{prefix}/ready"), "").await;
        assert_eq!(ready.status, 503);
        let body: Value = serde_json::from_str(&ready.body).unwrap();
        assert_eq!(body["status"], "not ready");
        assert!(body["reasons"][0].as_str().unwrap().starts_with("/closed: "), "{body}");
    }
    for path in ["/", "/health", "/health/", "/x", "/metrics/"] {
        assert_eq!(get(&inner, path, "").await.status, 404, "{path}");
    }
    assert_eq!(get(host.address(), "/internal/health/x", "").await.status, 400, "a resource");
    let mut post = RawClient::connect(&inner).await;
    post.write("POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(post.last_response().await.status, 405);
}

#[tokio::test]
async fn a_host_is_ready_until_it_drains() {
    let mut host = setup().server("drain", "30").resource("/x", "speaker").start().await;
    let address = metrics_address(&host).await;
    assert_eq!(get(&address, "/health/ready", "").await.status, 200);
    // A refused file does not take the host out of service.
    host.write_config("nonsense");
    host.wait_for_log("the refusal", |line| line.text().contains("not applied")).await;
    let ready = get(&address, "/health/ready", "").await;
    let body: Value = serde_json::from_str(&ready.body).unwrap();
    assert_eq!(ready.status, 200, "{body}");
    assert!(body["notes"][0].as_str().unwrap().contains("plugins.toml"), "{body}");
    assert_eq!(value(&scrape(&host, "*/*").await, "plugsocket_config_applied "), 0.0);
    // One that does not answer the close frame keeps the host draining.
    let mut silent = host.raw().await.upgraded("/x").await;
    host.signal("TERM");
    while silent.frame().await.is_some_and(|frame| frame.close_code().is_none()) {}
    let ready = get(&address, "/health/ready", "").await;
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert_eq!(get(&address, "/health/live", "").await.status, 200);
    drop(silent);
    assert_eq!(host.exited().await.code(), Some(0));
}

#[tokio::test]
async fn slow_and_hostile_scrapers_are_bounded() {
    let host = setup().resource("/x", "speaker").start().await;
    let address = metrics_address(&host).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(RawClient::connect(&address).await);
    }
    // The host answers the first of them that is too late, and then serves the next.
    assert_eq!(silent[0].last_response().await.status, 408);
    assert_eq!(get(&address, "/health/live", "").await.status, 200);
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(20_000));
    let mut client = RawClient::connect(&address).await;
    client.write(long).await;
    assert!((400..500).contains(&client.last_response().await.status));
}
