//! Closes connections when the host buffers more than `max_buffered_bytes` for all of them.

use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use crate::protocol::buffered;
use crate::protocol::close::{BUFFERS_FULL, CloseReason};
use crate::routing::registry::Registry;

/// Time for closed connections to give back their buffers.
const PAUSE: Duration = Duration::from_millis(10);
/// Connections that buffer less are not closed.
const LEAST: usize = 16 * 1024;
/// The least time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Closes the connections that buffer most whenever all together exceed the limit, down to seven
/// eighths of it. Does not return.
pub(crate) async fn enforce(registry: Arc<Registry>) {
    let (mut closed, mut log_at) = (0, Instant::now());
    loop {
        if buffered::excess() > 0 {
            let begun = Instant::now();
            closed += evict_largest(&registry);
            // With many connections the search takes long.
            sleep(PAUSE.max(4 * begun.elapsed())).await;
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
    let mut holders = Vec::new();
    registry.for_each(|peer| {
        let (input, output) = (peer.input_bytes(), peer.outbox.evictable_bytes());
        if input + output >= LEAST {
            holders.push((input + output, input > output, peer.clone()));
        }
    });
    holders.sort_unstable_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
    let (mut excess, mut count) = (buffered::excess(), 0);
    for (bytes, is_input, peer) in holders {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(bytes);
        let code = if is_input { CloseCode::TOO_BIG } else { CloseCode::TRY_AGAIN };
        peer.outbox.evict(CloseReason::host(code, BUFFERS_FULL));
        count += 1;
    }
    count
}
