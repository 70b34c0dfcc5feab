//! Closes connections when the host buffers more than `max_buffered_bytes` for all of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use crate::protocol::buffered;
use crate::routing::outbox::Holding;
use crate::routing::registry::Registry;

/// Time for closed connections to give back their buffers.
const PAUSE: Duration = Duration::from_millis(10);
/// The least time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Closes the connections that buffer most whenever all together exceed the limit, down to seven
/// eighths of it. Does not return.
pub(crate) async fn enforce(registry: Arc<Registry>) {
    let (mut closed, mut log_at) = (0, Instant::now());
    loop {
        if buffered::excess(0) > 0 {
            let begun = Instant::now();
            closed += evict_largest(&registry);
            // With many connections the search takes long.
            sleep(PAUSE.max(9 * begun.elapsed())).await;
        } else if closed > 0 {
            drop(timeout_at(log_at, buffered::exceeded()).await);
        } else {
            buffered::exceeded().await;
        }
        if closed > 0 && Instant::now() >= log_at {
            let buffered = buffered::bytes();
            warn!(closed, buffered, "max_buffered_bytes exceeded: largest consumers closed");
            (closed, log_at) = (0, Instant::now() + LOG_INTERVAL);
        }
    }
}

/// Evicts the largest consumers until the rest is within seven eighths of the limit; returns their
/// number.
fn evict_largest(registry: &Registry) -> usize {
    let (mut holders, mut leaving) = (Vec::new(), 0);
    registry.for_each(|peer| match peer.outbox.holding() {
        Holding::Evicted(bytes) => leaving += peer.input_bytes() + bytes,
        Holding::Evictable(bytes) if peer.input_bytes() + bytes >= buffered::STEP => {
            holders.push((peer.input_bytes() + bytes, peer.clone()));
        }
        Holding::Evictable(_) => {}
    });
    // One connection alone has limits of its own.
    if holders.len() < 2 {
        return 0;
    }
    holders.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let (mut excess, mut count) = (buffered::excess(leaving), 0);
    for (bytes, peer) in holders {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(bytes);
        peer.outbox.evict();
        count += 1;
    }
    count
}
