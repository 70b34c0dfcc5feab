//! The watchdog: checks all lanes several times a second and reports slow callbacks while they run,
//! stuck callbacks and repeated panics.
//!
//! Runs on its own thread, because applications on shared lanes may block the runtime. Decides
//! nothing: the supervisor handles its reports.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tracing::{info, warn};

use super::Change;
use crate::config::{Config, WatchdogSettings};
use crate::hub::Hub;
use crate::plugin::lane::health::{LaneHealth, StallDetector, StallFinding, suspended_for};
use crate::routing::peer::Completion;
use crate::routing::resource::{Resource, ServiceState};

/// Stops the watchdog when dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _stop: mpsc::Sender<()>,
}

/// Starts the watchdog. A report that does not fit into `changes` is repeated.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn start(hub: Arc<Hub>, changes: Sender<Change>) -> io::Result<Watchdog> {
    let (stop, stopped) = mpsc::channel();
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        let mut lanes = BTreeMap::new();
        let mut checked = Instant::now();
        loop {
            let config = hub.config.load_full();
            let pause = interval(&config.server.watchdog);
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let late = suspended_for(checked.elapsed(), pause);
            checked = Instant::now();
            lanes.values_mut().for_each(|lane: &mut WatchedLane| lane.detector.exclude(late));
            check_lanes(&hub, &config, &mut lanes, &changes);
            expire_tickets(&hub, config.server.watchdog.callback_limit, late);
        }
    })?;
    Ok(Watchdog { _stop: stop })
}

/// Interval that resolves a duration to an eighth of the limit.
fn interval(limits: &WatchdogSettings) -> Duration {
    let shortest = limits.callback_warn.min(limits.callback_limit) / 8;
    shortest.clamp(Duration::from_millis(1), Duration::from_millis(125))
}

/// State of a lane between two checks.
struct WatchedLane {
    health: Arc<LaneHealth>,
    detector: StallDetector,
    generation: u64,
    panics: SlidingWindow,
}

fn check_lanes(
    hub: &Hub,
    config: &Config,
    lanes: &mut BTreeMap<String, WatchedLane>,
    changes: &Sender<Change>,
) {
    let (resources, now) = (hub.resources.load_full(), Instant::now());
    lanes.retain(|path, _| resources.contains_key(path));
    for (path, resource) in resources.iter() {
        let service = resource.service();
        let ServiceState::Serving(inbox) = &service.state else { continue };
        let health = inbox.health();
        let lane = lanes.entry(path.clone()).or_insert_with(|| WatchedLane {
            health: health.clone(),
            detector: StallDetector::new(now),
            generation: health.generation(),
            panics: SlidingWindow::new(0),
        });
        if !Arc::ptr_eq(&lane.health, health) {
            (lane.health, lane.detector) = (health.clone(), StallDetector::new(now));
        }
        if lane.generation != health.generation() {
            lane.generation = health.generation();
            lane.panics = SlidingWindow::new(resource.counters.values().panics);
        }
        let limits = &config.server.watchdog;
        if let Some(finding) = lane.detector.poll(health, now, limits) {
            let plugin = config.resources.get(path).map_or("", |settings| &*settings.plugin);
            lane.detector.is_stuck_reported |= report(plugin, resource, health, finding, changes);
        }
        let panics = lane.panics.within_a_minute(resource.counters.values().panics, now);
        if limits.max_panics.is_some_and(|max| panics > max.get() as u64)
            && changes.try_send(Change::Panicking(path.clone())).is_ok()
        {
            lane.panics = SlidingWindow::new(resource.counters.values().panics);
        }
    }
}

/// Closes the connections whose deferred messages were not completed within `limit`.
fn expire_tickets(hub: &Hub, limit: Duration, late: Duration) {
    for resource in hub.resources.load().values() {
        if late > Duration::ZERO {
            resource.tickets.exclude(late);
        }
        for (ticket, id) in resource.tickets.take_expired(limit) {
            let Some(peer) = hub.registry.find(id) else { continue };
            let failed = Completion::Failed("the application did not answer in time");
            if peer.settle(ticket, failed).is_ok() {
                let (resource, peer) = (resource.path.as_str(), &*peer.client.address);
                warn!(resource, %id, peer, ?limit, "deferred message not completed; connection closed");
            }
        }
    }
}

/// Returns true once the supervisor knows that the lane is stuck.
fn report(
    plugin: &str,
    resource: &Resource,
    health: &Arc<LaneHealth>,
    finding: StallFinding,
    changes: &Sender<Change>,
) -> bool {
    let (path, generation) = (resource.path.as_str(), health.generation());
    match finding {
        StallFinding::Slow(callback, lasted) => {
            resource.counters.add_slow_call();
            warn!(plugin, generation, resource = path, %callback, ?lasted, "slow callback still running");
        }
        StallFinding::Ended(callback, lasted) => {
            info!(plugin, generation, resource = path, %callback, ?lasted, "slow callback has returned");
        }
        StallFinding::Stuck(call, callback, lasted) => {
            let stuck = Change::Stuck { path: path.to_owned(), health: health.clone(), call };
            if changes.try_send(stuck).is_ok() {
                warn!(plugin, generation, resource = path, %callback, ?lasted, "callback stuck");
                return true;
            }
        }
    }
    false
}

/// Increase of a counter within the last minute.
#[derive(Debug)]
struct SlidingWindow {
    /// The count before each increase.
    increases: VecDeque<(Instant, u64)>,
    count: u64,
}

impl SlidingWindow {
    fn new(count: u64) -> Self {
        Self { increases: VecDeque::new(), count }
    }

    fn within_a_minute(&mut self, count: u64, now: Instant) -> u64 {
        if count < self.count {
            // A new resource under the same path.
            *self = Self::new(0);
        }
        if count != self.count {
            self.increases.push_back((now, self.count));
            self.count = count;
        }
        while self.increases.front().is_some_and(|(at, _)| now - *at > Self::MINUTE) {
            self.increases.pop_front();
        }
        self.increases.front().map_or(0, |(_, before)| count - before)
    }

    const MINUTE: Duration = Duration::from_secs(60);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_minute_counts() {
        let start = Instant::now();
        let mut window = SlidingWindow::new(10);
        for (second, count, expected) in [
            (0, 10, 0),
            (1, 12, 2),
            (30, 15, 5),
            (61, 15, 5),
            (62, 15, 3),
            (80, 16, 4),
            (200, 16, 0),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(window.within_a_minute(count, now), expected, "{second}");
        }
    }
}
