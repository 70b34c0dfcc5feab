//! The last seconds of a host: every connection is told to go, a part of them at a time, and gets the time to.
//!
//! Thousands of clients that are closed in the same moment come back in the same moment. So they are closed in even steps over
//! the first half of `drain`, and each is told a time of its own to come back at. Who accepts and who serves is not known here.

use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use crate::hub::Hub;
use crate::protocol::close::CloseReason;
use crate::routing::registry::Peer;

/// Lets every connection finish, within `drain`. `accepting` yields the connections of each listener once it has stopped.
pub(crate) async fn drain(hub: &Arc<Hub>, mut accepting: JoinSet<JoinSet<()>>) {
    let limit = hub.config.load().server.timeouts.drain;
    let count = hub.registry.len();
    info!(connections = count, ?limit, "draining");
    let mut connections = Vec::new();
    while let Some(accepted) = accepting.join_next().await {
        connections.extend(accepted.ok());
    }
    let all_ended = async {
        for connections in &mut connections {
            while connections.join_next().await.is_some() {}
        }
    };
    let drained = timeout(limit, async {
        tokio::select! {
            () = all_ended => {}
            () = close_all(hub, limit / 2) => {}
        }
    });
    if drained.await.is_err() {
        let left: usize = connections.iter().map(JoinSet::len).sum();
        warn!(connections = left, "not all connections ended in time; they are cut");
    }
}

/// Closes the connections in even steps within `window`, and then those that come. Does not end.
async fn close_all(hub: &Hub, window: Duration) {
    let spread = hub.config.load().server.timeouts.retry_spread;
    // In the order of their ids, which are random.
    let mut peers = Vec::new();
    hub.registry.for_each(|peer| peers.push(peer.clone()));
    let step = step(peers.len(), window);
    while !peers.is_empty() {
        let rest = peers.len().saturating_sub(step);
        peers.drain(rest..).for_each(|peer| close(&peer, spread));
        if rest > 0 {
            sleep(PACE).await;
        }
    }
    loop {
        // Again and again: a connection whose handshake was under way has come since.
        hub.registry.for_each(|peer| close(peer, spread));
        sleep(PACE).await;
    }
}

/// How many connections are closed at a time.
fn step(count: usize, window: Duration) -> usize {
    let steps = usize::try_from(window.as_millis() / PACE.as_millis()).unwrap_or(usize::MAX);
    count.div_ceil(steps.max(1)).max(AT_ONCE)
}

fn close(peer: &Peer, spread: Duration) {
    if peer.outbox.is_ending() {
        return;
    }
    let reason = CloseReason::host(CloseCode::AWAY, "server shutting down");
    let retry_after = (!spread.is_zero()).then(|| at_random(spread));
    // One that is closing already is as good.
    peer.outbox.close(CloseReason { retry_after, ..reason }).ok();
}

/// A time between none and `spread`.
fn at_random(spread: Duration) -> Duration {
    // The low half of a uuid is 62 random bits under two fixed ones.
    let (_, low) = Uuid::new_v4().as_u64_pair();
    let share = (low & u64::from(u32::MAX)) as f64 / f64::from(u32::MAX);
    spread.mul_f64(share)
}

/// Between two steps.
const PACE: Duration = Duration::from_millis(50);
/// So many are closed in one step even if there is time for more of them.
const AT_ONCE: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_fill_the_window_and_few_connections_go_at_once() {
        for (count, millis, expected) in [
            (0, 5000, 10),
            (9, 5000, 10),
            (10_000, 5000, 100),
            (10_001, 5000, 101),
            (300, 1000, 15),
            (300, 40, 300),
            (300, 0, 300),
        ] {
            assert_eq!(step(count, Duration::from_millis(millis)), expected, "{count} in {millis}");
        }
    }

    #[test]
    fn times_to_come_back_are_spread_evenly() {
        let spread = Duration::from_secs(10);
        let times: Vec<Duration> = (0..10_000).map(|_| at_random(spread)).collect();
        for second in 0..10 {
            let within = |time: &&Duration| time.as_secs() == second;
            let count = times.iter().filter(within).count();
            assert!((700..1300).contains(&count), "{count} in second {second}");
        }
        assert!(times.iter().all(|time| *time <= spread));
    }
}
