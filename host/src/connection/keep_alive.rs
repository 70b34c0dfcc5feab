//! Keep-alive: pings all connections and closes those that do not answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::hub::Hub;
use crate::protocol::time_limit::sleep_until;
use crate::routing::registry::Registry;

/// Pings every connection once per `ping_interval`, one registry shard at a time, and closes those
/// that did not answer the previous ping.
pub(crate) async fn keep_alive(hub: Arc<Hub>) {
    let mut last = Instant::now();
    loop {
        for part in 0..Registry::SHARDS {
            last = next_ping(&hub, last).await;
            hub.registry.for_each_in(part, |peer| peer.ping_or_expire());
        }
    }
}

/// Waits until the next shard is due; `ping_interval` may change meanwhile.
async fn next_ping(hub: &Hub, last: Instant) -> Instant {
    /// Time within which a changed interval takes effect.
    const RECHECK: Duration = Duration::from_secs(1);
    let parts = u32::try_from(Registry::SHARDS).unwrap_or(1);
    loop {
        let interval = hub.config.load().server.timeouts.ping_interval;
        let left = interval.map(|interval| (interval / parts).saturating_sub(last.elapsed()));
        match left {
            // What arrived during a standstill is read first.
            Some(Duration::ZERO) => {
                sleep_until(Instant::now()).await;
                return Instant::now();
            }
            left => sleep(left.map_or(RECHECK, |left| left.min(RECHECK))).await,
        }
    }
}
