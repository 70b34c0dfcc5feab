//! What becomes of a resource whose application is stuck or panics again and again.
//!
//! A *strike* is a lane that had to be given up, or more panics in a minute than allowed. The first strike for panics puts a fresh
//! instance under the connections. Every other one closes the resource for a pause, which doubles from strike to strike, and
//! then starts a fresh instance on a fresh lane. A new generation, or ten quiet minutes, wipes the slate.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Supervisor;
use crate::error::chain;
use crate::plugin::lane::Item;
use crate::plugin::lane::handover::{Succession, SwapError};
use crate::plugin::lane::health::LaneHealth;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::close::CloseReason;
use crate::routing::resource::{Outage, Resource, Service, ServiceState};

/// The slate of one resource.
#[derive(Debug, Default)]
pub(super) struct RestartState {
    strikes: u32,
    latest: Option<Instant>,
    /// When a fresh instance is due, and what it may know; None while one serves.
    restart_at: Option<(Instant, InitialState)>,
}

/// What an instance without a predecessor knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InitialState {
    /// The state that was last written to disk, if any.
    Written,
    Nothing,
}

impl RestartState {
    const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
    const LONGEST_PAUSE: Duration = Duration::from_secs(600);

    /// Notes a strike, and returns how many there were of late.
    fn failure(&mut self, now: Instant) -> u32 {
        if self.latest.is_some_and(|latest| now - latest > Self::FORGIVEN_AFTER) {
            self.strikes = 0;
        }
        self.strikes += 1;
        self.latest = Some(now);
        self.strikes
    }

    /// The n-th pause, which doubles from the first one on.
    fn pause(n: u32, first: Duration) -> Duration {
        let doubled = first.saturating_mul(1 << n.saturating_sub(1).min(20));
        doubled.min(Self::LONGEST_PAUSE.max(first))
    }
}

impl Supervisor {
    /// A lane has been in one callback for too long, says the watchdog.
    pub(super) async fn stuck(&mut self, path: &str, health: &Arc<LaneHealth>, call: u64) {
        let Some(resource) = self.resource(path) else { return };
        let service = resource.service();
        let ServiceState::Serving(inbox) = &service.state else { return };
        // It may have got another lane since, or come back.
        if !Arc::ptr_eq(inbox.health(), health) || health.call().is_none_or(|(now, _)| now != call)
        {
            return;
        }
        let pause = self.next_pause(path);
        if self.give_up(&resource, inbox, call, &Outage::of_stuck(pause)) {
            self.restart_after(path, pause, InitialState::Written);
            error!(resource = path, ?pause, "lane given up; a fresh instance follows");
            self.fail_if_on_probation(path).await;
        }
    }

    /// An application has panicked too often, says the watchdog.
    pub(super) async fn panicking(&mut self, path: &str) {
        let Some(resource) = self.resource(path) else { return };
        let first = self.hub.config.load().server.watchdog.restart_pause;
        let strikes = self.troubles.entry(path.to_owned()).or_default().failure(Instant::now());
        if strikes == 1 {
            warn!(resource = path, "panics again and again; a fresh instance takes its place");
            return self.start_afresh(&resource, InitialState::Nothing).await;
        }
        let pause = RestartState::pause(strikes - 1, first);
        error!(resource = path, ?pause, "panics again and again; closed for a pause");
        let text = "the application failed too often; it is being started again".to_owned();
        let outage = Outage { text, retry_after: pause };
        let reason = outage.close_reason();
        self.close(&resource, outage, reason).await;
        self.restart_after(path, pause, InitialState::Nothing);
    }

    /// When the next restart is due.
    pub(super) fn next_restart(&self) -> Option<Instant> {
        self.troubles.values().filter_map(|trouble| trouble.restart_at).map(|(at, _)| at).min()
    }

    /// Starts what is due.
    pub(super) async fn restart_due(&mut self) {
        let now = Instant::now();
        let due = self.troubles.iter().filter_map(|(path, trouble)| match trouble.restart_at {
            Some((at, memory)) if at <= now => Some((path.clone(), memory)),
            _ => None,
        });
        let due: Vec<(String, InitialState)> = due.collect();
        for (path, memory) in due {
            self.settled(&path);
            let Some(resource) = self.resource(&path) else { continue };
            info!(resource = path, "starting a fresh instance after the pause");
            self.start_afresh(&resource, memory).await;
        }
    }

    /// A resource is served again: nothing is due any more.
    pub(super) fn settled(&mut self, path: &str) {
        if let Some(trouble) = self.troubles.get_mut(path) {
            trouble.restart_at = None;
        }
    }

    /// Another build or another application: what its predecessor did is not counted against it.
    pub(super) fn forgive(&mut self, path: &str) {
        self.troubles.remove(path);
    }

    /// Leaves a stuck lane to itself: closes the resource with all its connections. False if it is not stuck any more.
    pub(super) fn give_up(
        &self,
        resource: &Arc<Resource>,
        inbox: &Inbox,
        call: u64,
        outage: &Outage,
    ) -> bool {
        let now = resource.service();
        let state = ServiceState::Unavailable(outage.clone());
        // First, so that a connection whose event is refused finds the reason.
        resource.set_service(Service { state, ..(*now).clone() });
        if !inbox.health().give_up(call) {
            resource.set_service((*now).clone());
            return false;
        }
        self.close_connections(resource, &outage.close_reason());
        for peer in resource.members() {
            resource.dismiss(&peer);
        }
        true
    }

    /// By the registry: some are in the inbox and no members yet.
    fn close_connections(&self, resource: &Arc<Resource>, reason: &CloseReason) {
        self.hub.registry.for_each(|peer| {
            if Arc::ptr_eq(&peer.resource, resource) {
                // One that is closing already is as good.
                peer.outbox.close(reason.clone()).ok();
            }
        });
    }

    /// Closes a resource with all its connections. The application sees them close, and ends; where it is stuck, its lane is given up.
    pub(super) async fn close(
        &self,
        resource: &Arc<Resource>,
        outage: Outage,
        reason: CloseReason,
    ) {
        let now = resource.service();
        let state = ServiceState::Unavailable(outage.clone());
        resource.set_service(Service { state, ..(*now).clone() });
        self.close_connections(resource, &reason);
        let ServiceState::Serving(inbox) = &now.state else { return };
        // To the end of the lane: what waits behind a callback that never returns would wait for ever.
        let end = async {
            let (done, ended) = oneshot::channel();
            if inbox.send(Item::Stop(done)).await.is_ok() {
                // One that is gone already has ended. When the instance is gone is nobody's concern.
                drop(ended.await);
            }
        };
        if self.until_stuck(resource, inbox, &outage, end).await.is_none() {
            error!(resource = resource.path, "it was stuck while it was closed");
        }
    }

    /// A resource that nothing serves, or that has the wrong instance, has to wait for its next start, if none is due already.
    pub(super) fn try_again_later(&mut self, path: &str, memory: InitialState) {
        if self.troubles.get(path).is_some_and(|trouble| trouble.restart_at.is_some()) {
            return;
        }
        let pause = self.next_pause(path);
        self.restart_after(path, pause, memory);
    }

    /// The same, with a line in the log.
    pub(super) fn not_served(&mut self, path: &str, error: &SwapError, memory: InitialState) {
        error!(resource = path, error = chain(error), "not served; it is tried again");
        self.try_again_later(path, memory);
    }

    /// The pause that a strike costs from which only a fresh lane helps.
    fn next_pause(&mut self, path: &str) -> Duration {
        let first = self.hub.config.load().server.watchdog.restart_pause;
        let strikes = self.troubles.entry(path.to_owned()).or_default().failure(Instant::now());
        RestartState::pause(strikes, first)
    }

    fn restart_after(&mut self, path: &str, pause: Duration, memory: InitialState) {
        let trouble = self.troubles.entry(path.to_owned()).or_default();
        trouble.restart_at = Some((Instant::now() + pause, memory));
    }

    /// Puts a fresh instance of the active generation on a resource, whether or not it is served now.
    pub(super) async fn start_afresh(&mut self, resource: &Arc<Resource>, memory: InitialState) {
        let config = self.hub.config.load_full();
        let Some(settings) = config.resources.get(&resource.path) else { return };
        let Some(generation) = self.active(&settings.plugin) else { return };
        let started = match memory {
            InitialState::Written => self.start_with_state(&generation, resource, settings).await,
            InitialState::Nothing => self.start_instance(&generation, resource, settings).await,
        };
        match started {
            Ok(candidate) => {
                let taken =
                    self.take_over(resource, settings, candidate, Succession::Replacement).await;
                if let Err(error) = taken {
                    error!(resource = resource.path, error = chain(&error), "not restarted");
                    if matches!(resource.service().state, ServiceState::Unavailable(_)) {
                        self.try_again_later(&resource.path, memory);
                    }
                }
            }
            Err(refusal) => {
                drop(self.report(&settings.plugin, &refusal));
                self.try_again_later(&resource.path, memory);
            }
        }
    }

    pub(super) fn resource(&self, path: &str) -> Option<Arc<Resource>> {
        self.hub.resources.load().get(path).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_forgiven() {
        let first = Duration::from_secs(5);
        for (n, seconds) in [(1, 5), (2, 10), (3, 20), (7, 320), (8, 600), (99, 600)] {
            assert_eq!(RestartState::pause(n, first).as_secs(), seconds, "{n}");
        }
        let (mut trouble, now) = (RestartState::default(), Instant::now());
        assert_eq!((trouble.failure(now), trouble.failure(now)), (1, 2));
        assert_eq!(trouble.failure(now + Duration::from_secs(599)), 3);
        assert_eq!(trouble.failure(now + Duration::from_secs(1300)), 1);
    }
}
