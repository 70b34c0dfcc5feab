//! Pings all connections, and closes those that did not answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::hub::Hub;
use crate::routing::registry::Registry;

/// Pings every peer each `ping_interval`, a part of them at a time, and closes those that did not answer the last one.
pub(crate) async fn keep_alive(hub: Arc<Hub>) {
    let mut last = Instant::now();
    loop {
        for part in 0..Registry::slices() {
            last = ping_time(&hub, last).await;
            hub.registry.for_each_in(part, |peer| peer.ping_or_expire());
        }
    }
}

/// Waits for the time of the next part of the pings, whose interval may change meanwhile.
async fn ping_time(hub: &Hub, last: Instant) -> Instant {
    /// How soon that is noticed.
    const SOON: Duration = Duration::from_secs(1);
    let parts = u32::try_from(Registry::slices()).unwrap_or(1);
    loop {
        let interval = hub.config.load().server.timeouts.ping_interval;
        let left = interval.map(|interval| (interval / parts).saturating_sub(last.elapsed()));
        match left {
            Some(Duration::ZERO) => return Instant::now(),
            left => sleep(left.map_or(SOON, |left| left.min(SOON))).await,
        }
    }
}
