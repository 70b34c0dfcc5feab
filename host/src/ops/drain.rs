//! Graceful shutdown: closes all connections in steps and waits for them within `drain`.
//!
//! Clients that are closed at the same moment reconnect at the same moment. So connections are
//! closed in even steps over the first half of `drain`, each with a `retry_after` of its own.

use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};
use uuid::Uuid;

use crate::hub::Hub;
use crate::protocol::close::CloseReason;
use crate::protocol::time_limit::timeout;
use crate::routing::peer::Peer;

/// Closes every connection and waits for its end, at most `drain`. `accepting` yields the
/// connections of each listener once that has stopped.
pub(crate) async fn drain(hub: &Arc<Hub>, mut accepting: JoinSet<JoinSet<()>>) {
    let limit = hub.config.load().server.timeouts.drain;
    let count = hub.registry.len();
    info!(connections = count, ?limit, "draining connections");
    hub.connection_limits.end_keep_alive();
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
        warn!(connections = left, "drain time is over; remaining connections are cut");
    }
}

/// Closes all connections in even steps within `window`, then new ones. Does not return.
async fn close_all(hub: &Hub, window: Duration) {
    let spread = hub.config.load().server.timeouts.retry_spread;
    // Ordered by id, which is random.
    let mut peers = Vec::new();
    hub.registry.for_each(|peer| peers.push(peer.clone()));
    let step = step(peers.len(), window);
    while !peers.is_empty() {
        let rest = peers.len().saturating_sub(step);
        peers.drain(rest..).for_each(|peer| close(&peer, spread));
        if rest > 0 {
            sleep(STEP_INTERVAL).await;
        }
    }
    loop {
        // Repeatedly: handshakes that were in progress add connections.
        hub.registry.for_each(|peer| close(peer, spread));
        sleep(STEP_INTERVAL).await;
    }
}

/// Returns how many connections one step closes.
fn step(count: usize, window: Duration) -> usize {
    let steps =
        usize::try_from(window.as_millis() / STEP_INTERVAL.as_millis()).unwrap_or(usize::MAX);
    count.div_ceil(steps.max(1)).max(MIN_STEP)
}

fn close(peer: &Peer, spread: Duration) {
    if peer.outbox.is_ending() {
        return;
    }
    let reason = CloseReason::host(CloseCode::AWAY, "server shutting down");
    let retry_after = (!spread.is_zero()).then(|| random_delay(spread));
    // Fails only for a connection that is already closing.
    peer.outbox.close(CloseReason { retry_after, ..reason }).ok();
}

/// Returns a random time between zero and `spread`.
fn random_delay(spread: Duration) -> Duration {
    // The low half of a UUID has 62 random bits.
    let (_, low) = Uuid::new_v4().as_u64_pair();
    let share = (low & u64::from(u32::MAX)) as f64 / f64::from(u32::MAX);
    spread.mul_f64(share)
}

/// Time between two steps.
const STEP_INTERVAL: Duration = Duration::from_millis(50);
/// Smallest step, even where the window has time for smaller ones.
const MIN_STEP: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_fill_the_window_and_have_a_minimum_size() {
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
    fn retry_delays_are_spread_evenly() {
        let spread = Duration::from_secs(10);
        let times: Vec<Duration> = (0..10_000).map(|_| random_delay(spread)).collect();
        for second in 0..10 {
            let within = |time: &&Duration| time.as_secs() == second;
            let count = times.iter().filter(within).count();
            assert!((700..1300).contains(&count), "{count} in second {second}");
        }
        assert!(times.iter().all(|time| *time <= spread));
    }
}
