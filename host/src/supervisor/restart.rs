//! Restarts applications that are stuck or panic repeatedly, with exponential backoff.
//!
//! A failure is an abandoned lane, or more panics in a minute than `max_panics`. The first failure
//! by panics swaps in a new instance under the connections. Any other failure closes the resource
//! for a pause, which doubles each time, and then starts a new instance on a new lane. A new
//! generation or ten minutes without failure reset the count.

use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::RetireReason;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Supervisor;
use super::preflight::Library;
use crate::error::chain;
use crate::plugin::Retirement;
use crate::plugin::lane::Item;
use crate::plugin::lane::handover::{Succession, SwapError};
use crate::plugin::lane::health::LaneHealth;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::close::CloseReason;
use crate::routing::resource::{Outage, Resource, Service, ServiceState};

/// Failures of one resource.
#[derive(Debug, Default)]
pub(super) struct RestartState {
    failures: u32,
    latest: Option<Instant>,
    /// When to start a new instance, and with which state; `None` while one serves.
    restart_at: Option<(Instant, InitialState)>,
}

/// Initial state of an instance without a predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InitialState {
    /// The last state on disk, if any.
    Written,
    Nothing,
}

impl RestartState {
    const RESET_AFTER: Duration = Duration::from_secs(600);
    const LONGEST_PAUSE: Duration = Duration::from_secs(600);

    /// Records a failure; returns the number of recent failures.
    fn failure(&mut self, now: Instant) -> u32 {
        if self.latest.is_some_and(|latest| now - latest > Self::RESET_AFTER) {
            self.failures = 0;
        }
        self.failures += 1;
        self.latest = Some(now);
        self.failures
    }

    /// Returns the pause after the n-th failure, which doubles each time.
    fn pause(n: u32, first: Duration) -> Duration {
        let doubled = first.saturating_mul(1 << n.saturating_sub(1).min(20));
        doubled.min(Self::LONGEST_PAUSE.max(first))
    }
}

impl Supervisor {
    /// Handles a stuck lane that the watchdog reported.
    pub(super) async fn stuck(&mut self, path: &str, health: &Arc<LaneHealth>, call: u64) {
        let Some(resource) = self.resource(path) else { return };
        let service = resource.service();
        let ServiceState::Serving(inbox) = &service.state else { return };
        // The lane may have been replaced or have recovered.
        if !Arc::ptr_eq(inbox.health(), health) || health.call().is_none_or(|(now, _)| now != call)
        {
            return;
        }
        let pause = self.next_pause(path);
        if self.give_up(&resource, inbox, call, &Outage::of_stuck(pause)) {
            self.restart_after(path, pause, InitialState::Written);
            error!(resource = path, ?pause, "lane abandoned; new instance after the pause");
            self.fail_if_on_probation(path).await;
        }
    }

    /// Handles repeated panics that the watchdog reported.
    pub(super) async fn panicking(&mut self, path: &str) {
        let Some(resource) = self.resource(path) else { return };
        let first = self.hub.config.load().server.watchdog.restart_pause;
        let failures = self.count_failure(path);
        if failures == 1 {
            warn!(resource = path, "repeated panics; starting a new instance");
            return self.start_afresh(&resource, InitialState::Nothing).await;
        }
        let pause = RestartState::pause(failures - 1, first);
        error!(resource = path, ?pause, "repeated panics; resource closed for a pause");
        let text = "the application failed too often and is being restarted".to_owned();
        let outage = Outage { text, retry_after: pause };
        let reason = outage.close_reason();
        self.close(&resource, outage, reason, RetireReason::Replaced).await;
        self.restart_after(path, pause, InitialState::Nothing);
    }

    /// Returns when the next restart is due.
    pub(super) fn next_restart(&self) -> Option<Instant> {
        self.restarts.values().filter_map(|state| state.restart_at).map(|(at, _)| at).min()
    }

    /// Performs due restarts.
    pub(super) async fn restart_due(&mut self) {
        let now = Instant::now();
        let due = self.restarts.iter().filter_map(|(path, state)| {
            let (_, initial) = state.restart_at.filter(|(at, _)| *at <= now)?;
            Some((path.clone(), initial))
        });
        for (path, initial) in due.collect::<Vec<_>>() {
            self.restarted(&path);
            let Some(resource) = self.resource(&path) else { continue };
            info!(resource = path, "starting a new instance after the pause");
            self.start_afresh(&resource, initial).await;
        }
    }

    /// Records that a resource is served again.
    pub(super) fn restarted(&mut self, path: &str) {
        if let Some(state) = self.restarts.get_mut(path) {
            state.restart_at = None;
        }
    }

    /// Resets the failures of a resource for a new generation or application.
    pub(super) fn reset_failures(&mut self, path: &str) {
        self.restarts.remove(path);
    }

    /// Abandons a stuck lane and closes the resource; returns false if it is no longer stuck.
    pub(super) fn give_up(
        &self,
        resource: &Arc<Resource>,
        inbox: &Inbox,
        call: u64,
        outage: &Outage,
    ) -> bool {
        // First, so that a connection whose event is refused finds the reason.
        let former = make_unavailable(resource, outage);
        if !inbox.health().give_up(call) {
            resource.set_service((*former).clone());
            return false;
        }
        self.close_connections(resource, &outage.close_reason());
        for peer in resource.members() {
            resource.dismiss(&peer);
        }
        true
    }

    /// Closes connections by the registry: some are still in the inbox and not yet members.
    fn close_connections(&self, resource: &Arc<Resource>, reason: &CloseReason) {
        self.hub.registry.for_each(|peer| {
            if Arc::ptr_eq(&peer.resource, resource) {
                // Fails only if already closing.
                peer.outbox.close(reason.clone()).ok();
            }
        });
    }

    /// Closes a resource and its connections, which the application sees. Abandons a stuck lane.
    pub(super) async fn close(
        &self,
        resource: &Arc<Resource>,
        outage: Outage,
        reason: CloseReason,
        retires: RetireReason,
    ) {
        let limit = self.hub.config.load().server.watchdog.callback_limit;
        let retirement = Retirement { reason: retires, limit };
        let former = make_unavailable(resource, &outage);
        self.close_connections(resource, &reason);
        let ServiceState::Serving(inbox) = &former.state else { return };
        // Until the lane has ended: items behind a callback that never returns would wait for ever.
        let end = async {
            let (done, ended) = oneshot::channel();
            if inbox.send(Item::Stop(retirement, done)).await.is_ok() {
                // Fails only for a lane that has ended.
                drop(ended.await);
            }
        };
        if self.until_stuck(resource, inbox, &outage, end).await.is_none() {
            error!(resource = resource.path, "lane was stuck while closing");
        }
        // No instance inherits them.
        resource.timers.clear();
    }

    /// Schedules the next start of a resource without its instance, unless one is scheduled.
    pub(super) fn schedule_restart(&mut self, path: &str, initial: InitialState) {
        if self.restarts.get(path).is_some_and(|state| state.restart_at.is_some()) {
            return;
        }
        let pause = self.next_pause(path);
        self.restart_after(path, pause, initial);
    }

    /// Schedules a restart and logs the error.
    pub(super) fn not_served(&mut self, path: &str, error: &SwapError, initial: InitialState) {
        error!(resource = path, error = chain(error), "resource not served; retrying");
        self.schedule_restart(path, initial);
    }

    /// Records a failure that needs a new lane; returns the pause.
    fn next_pause(&mut self, path: &str) -> Duration {
        let first = self.hub.config.load().server.watchdog.restart_pause;
        RestartState::pause(self.count_failure(path), first)
    }

    fn count_failure(&mut self, path: &str) -> u32 {
        self.restarts.entry(path.to_owned()).or_default().failure(Instant::now())
    }

    fn restart_after(&mut self, path: &str, pause: Duration, initial: InitialState) {
        if let Some(resource) = self.resource(path) {
            resource.counters.add_quarantine();
        }
        let state = self.restarts.entry(path.to_owned()).or_default();
        state.restart_at = Some((Instant::now() + pause, initial));
    }

    /// Starts a new instance of the active generation on a resource, served or not.
    pub(super) async fn start_afresh(&mut self, resource: &Arc<Resource>, initial: InitialState) {
        let config = self.hub.config.load_full();
        let Some(settings) = config.resources.get(&resource.path) else { return };
        let Some(generation) = self.active(&settings.plugin) else { return };
        resource.counters.add_restart();
        let (with_state, resources) =
            (initial == InitialState::Written, [(&resource.path, settings)]);
        let library = Library { plugin: &settings.plugin, path: &generation.path };
        let passed = self.preflight(library, &resources, &config, with_state).await;
        let started = match (passed, initial) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), InitialState::Written) => {
                self.start_with_state(&generation, resource, settings).await
            }
            (Ok(()), InitialState::Nothing) => {
                self.start_instance(&generation, resource, settings).await
            }
        };
        let candidate = match started {
            Ok(candidate) => candidate,
            Err(refusal) => {
                drop(self.report(&settings.plugin, &refusal));
                return self.schedule_restart(&resource.path, initial);
            }
        };
        if let Err(error) =
            self.take_over(resource, settings, candidate, Succession::Replacement).await
        {
            error!(resource = resource.path, error = chain(&error), "restart failed");
            if matches!(resource.service().state, ServiceState::Unavailable(_)) {
                self.schedule_restart(&resource.path, initial);
            }
        }
    }

    pub(super) fn resource(&self, path: &str) -> Option<Arc<Resource>> {
        self.hub.resources.load().get(path).cloned()
    }
}

/// Takes the application from a resource; returns the former service.
fn make_unavailable(resource: &Resource, outage: &Outage) -> Arc<Service> {
    let former = resource.service();
    let state = ServiceState::Unavailable(outage.clone());
    resource.set_service(Service { state, ..(*former).clone() });
    former
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_reset() {
        let first = Duration::from_secs(5);
        for (n, seconds) in [(1, 5), (2, 10), (3, 20), (7, 320), (8, 600), (99, 600)] {
            assert_eq!(RestartState::pause(n, first).as_secs(), seconds, "{n}");
        }
        let (mut state, now) = (RestartState::default(), Instant::now());
        assert_eq!((state.failure(now), state.failure(now)), (1, 2));
        assert_eq!(state.failure(now + Duration::from_secs(599)), 3);
        assert_eq!(state.failure(now + Duration::from_secs(1300)), 1);
    }
}
