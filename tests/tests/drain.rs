//! Graceful shutdown with many connections: closed in steps, with a spread `retry_after`.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::time::{Duration, Instant};

use plugsocket_tests::{Setup, TestHost};
use tokio::task::JoinSet;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// Connects clients and drains the host; returns for each the time until its close and its
/// `retry_after`, sorted.
async fn closed(host: &TestHost, count: usize) -> Vec<(Duration, Option<u64>)> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(host.connect("/speak").await);
    }
    let begun = Instant::now();
    host.signal("TERM");
    let mut closing = JoinSet::new();
    for mut client in clients {
        closing.spawn(async move {
            let packet = client.expect_close_packet(1001).await;
            let elapsed = begun.elapsed();
            assert_eq!(packet["error"], "server shutting down");
            client.close().await;
            (elapsed, packet.get("retry_after").map(|seconds| seconds.as_u64().unwrap()))
        });
    }
    let mut closed = closing.join_all().await;
    closed.sort();
    closed
}

#[tokio::test]
async fn many_connections_are_closed_in_steps_with_spread_retry_after() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker");
    let mut host = setup.server("drain", "8").server("retry_spread", "5").start().await;
    let closed = closed(&host, 300).await;
    // 300 in steps of ten every 50 ms: 1.45 s from the first to the last.
    let at = |index: usize| closed[index].0;
    assert!(at(299) - at(0) > Duration::from_millis(1200), "{closed:?}");
    assert!(at(299) < Duration::from_secs(6), "{closed:?}");
    for third in [0, 100, 199] {
        let apart = at(third + 100) - at(third);
        assert!(apart > Duration::from_millis(150), "{third}: {closed:?}");
    }
    for seconds in 1..=5 {
        let count = closed.iter().filter(|(_, after)| *after == Some(seconds)).count();
        assert!((20..120).contains(&count), "{count} clients with retry_after {seconds}");
    }
    assert!(closed.iter().all(|(_, after)| after.is_some_and(|after| after <= 5)), "{closed:?}");
    assert_eq!(host.exited().await.code(), Some(0));
    assert!(!host.log().iter().any(|line| line.level() == "WARN"), "no connection was cut");
}

#[tokio::test]
async fn few_connections_are_closed_at_once_and_without_spread_get_no_retry_after() {
    let setup = Setup::new(PROGRAM).resource("/speak", "speaker");
    let mut host = setup.server("drain", "120").server("retry_spread", "0").start().await;
    let closed = closed(&host, 10).await;
    assert!(closed.iter().all(|(_, after)| after.is_none()), "{closed:?}");
    assert_eq!(host.exited().await.code(), Some(0));
}
