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
use crate::outbox::CloseReason;
use crate::plugin::handover::Succession;
use crate::plugin::inbox::Inbox;
use crate::plugin::lane::Item;
use crate::plugin::pulse::Pulse;
use crate::resource::{Outage, Resource, Service, ServiceState};

/// The slate of one resource.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    strikes: u32,
    latest: Option<Instant>,
    /// When a fresh instance is due, and what it may know; None while one serves.
    restart_at: Option<(Instant, Memory)>,
}

/// What an instance without a predecessor knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// The state that was last written to disk, if any.
    Written,
    Nothing,
}

impl Trouble {
    const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
    const LONGEST_PAUSE: Duration = Duration::from_secs(600);

    /// Notes a strike, and returns how many there were of late.
    fn strike(&mut self, now: Instant) -> u32 {
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
    pub(super) async fn stuck(&mut self, path: &str, pulse: &Arc<Pulse>, call: u64) {
        let Some(resource) = self.resource(path) else { return };
        let service = resource.service();
        let ServiceState::Serving(inbox) = &service.state else { return };
        // It may have got another lane since, or come back.
        if !Arc::ptr_eq(inbox.pulse(), pulse) || pulse.call().is_none_or(|(now, _)| now != call) {
            return;
        }
        let pause = self.next_pause(path);
        if self.give_up(&resource, inbox, call, pause) {
            self.restart_after(path, pause, Memory::Written);
            error!(resource = path, ?pause, "lane given up; a fresh instance follows");
            self.fail_if_on_probation(path).await;
        }
    }

    /// An application has panicked too often, says the watchdog.
    pub(super) async fn panicking(&mut self, path: &str) {
        let Some(resource) = self.resource(path) else { return };
        let first = self.hub.config.load().server.watchdog.restart_pause;
        let strikes = self.troubles.entry(path.to_owned()).or_default().strike(Instant::now());
        if strikes == 1 {
            warn!(resource = path, "panics again and again; a fresh instance takes its place");
            return self.start_afresh(&resource, Memory::Nothing).await;
        }
        let pause = Trouble::pause(strikes - 1, first);
        error!(resource = path, ?pause, "panics again and again; closed for a pause");
        let text = "the application failed too often; it is being started again".to_owned();
        let outage = Outage { text, retry_after: pause };
        let reason = outage.close_reason();
        self.close(&resource, outage, reason).await;
        self.restart_after(path, pause, Memory::Nothing);
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
        let due: Vec<(String, Memory)> = due.collect();
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
        pause: Duration,
    ) -> bool {
        let now = resource.service();
        let text = "the application does not answer; it is being started again".to_owned();
        let outage = Outage { text, retry_after: pause };
        let state = ServiceState::Unavailable(outage.clone());
        // First, so that a connection whose event is refused finds the reason.
        resource.set_service(Service { state, ..(*now).clone() });
        if !inbox.pulse().give_up(call) {
            resource.set_service((*now).clone());
            return false;
        }
        // By the registry: some are in the inbox and no members yet.
        self.hub.registry.for_each(|peer| {
            if Arc::ptr_eq(&peer.resource, resource) {
                // One that is closing already is as good.
                peer.outbox.close(outage.close_reason()).ok();
            }
        });
        for peer in resource.members() {
            resource.dismiss(&peer);
        }
        true
    }

    /// Closes a resource whose lane works, with all its connections. The application sees them close, and ends.
    pub(super) async fn close(
        &self,
        resource: &Arc<Resource>,
        outage: Outage,
        reason: CloseReason,
    ) {
        let now = resource.service();
        resource
            .set_service(Service { state: ServiceState::Unavailable(outage), ..(*now).clone() });
        for peer in resource.members() {
            // One that is closing already is as good.
            peer.outbox.close(reason.clone()).ok();
        }
        if let ServiceState::Serving(inbox) = &now.state {
            let (done, _) = oneshot::channel();
            // Its end need not be awaited, only that it is told.
            drop(self.until_stuck(resource, inbox, inbox.send(Item::Stop(done))).await);
        }
    }

    /// The pause that a strike costs from which only a fresh lane helps.
    fn next_pause(&mut self, path: &str) -> Duration {
        let first = self.hub.config.load().server.watchdog.restart_pause;
        let strikes = self.troubles.entry(path.to_owned()).or_default().strike(Instant::now());
        Trouble::pause(strikes, first)
    }

    fn restart_after(&mut self, path: &str, pause: Duration, memory: Memory) {
        let trouble = self.troubles.entry(path.to_owned()).or_default();
        trouble.restart_at = Some((Instant::now() + pause, memory));
    }

    /// Puts a fresh instance of the active generation on a resource, whether or not it is served now.
    pub(super) async fn start_afresh(&mut self, resource: &Arc<Resource>, memory: Memory) {
        let config = self.hub.config.load_full();
        let Some(settings) = config.resources.get(&resource.path) else { return };
        let Some(generation) = self.active(&settings.plugin) else { return };
        let started = match memory {
            Memory::Written => self.start_with_state(&generation, resource, settings).await,
            Memory::Nothing => self.start_instance(&generation, resource, settings).await,
        };
        match started {
            Ok(candidate) => {
                let taken =
                    self.take_over(resource, settings, candidate, Succession::Stranger).await;
                if let Err(error) = taken {
                    error!(resource = resource.path, %error, "not restarted");
                }
            }
            Err(refusal) => {
                drop(self.report(&settings.plugin, &refusal));
                let pause = self.next_pause(&resource.path);
                self.restart_after(&resource.path, pause, memory);
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
            assert_eq!(Trouble::pause(n, first).as_secs(), seconds, "{n}");
        }
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert_eq!((trouble.strike(now), trouble.strike(now)), (1, 2));
        assert_eq!(trouble.strike(now + Duration::from_secs(599)), 3);
        assert_eq!(trouble.strike(now + Duration::from_secs(1300)), 1);
    }
}
