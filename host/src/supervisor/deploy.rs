//! Starts instances of a generation and swaps them into the lanes of its resources.

use std::sync::Arc;

use plugsocket_plugin::{CloseCode, RetireReason};
use tokio::sync::oneshot;
use tracing::{error, info};

use super::Supervisor;
use super::commands::CommandResult;
use super::load::Refusal;
use super::restart::InitialState;
use crate::config::{Config, LaneKind, ResourceSettings};
use crate::error::chain;
use crate::hub::counters::RefusalReason;
use crate::hub::status::Active;
use crate::plugin::dylib::Generation;
use crate::plugin::lane::handover::{Handover, Succession, Swap, SwapError, discard};
use crate::plugin::lane::inbox::Inbox;
use crate::plugin::lane::{self, Executor, Item};
use crate::plugin::{Instance, Retirement};
use crate::protocol::close::CloseReason;
use crate::protocol::time_limit::timeout;
use crate::routing::peer::Peer;
use crate::routing::resource::{Outage, Resource, Service, ServiceState};

/// A started instance that is ready to take over a resource.
pub(super) struct Candidate {
    pub(super) instance: Box<dyn Instance>,
    pub(super) generation: Arc<Generation>,
    pub(super) resource: Arc<Resource>,
    pub(super) lane: LaneKind,
    /// With [`Succession::Restored`]: the sessions that the state refers to.
    pub(super) known: Vec<Arc<Peer>>,
    /// Why it takes over, for its predecessor.
    pub(super) replaces: RetireReason,
}

impl Supervisor {
    /// Swaps a new generation into every resource of its plugin.
    pub(super) async fn replace(
        &mut self,
        name: &str,
        loaded: Active,
        config: &Config,
        succession: Succession,
    ) -> CommandResult {
        let resources = self.hub.resources.load_full();
        let mut candidates = Vec::new();
        for (path, settings) in config.mapped_to(name) {
            let Some(resource) = resources.get(path) else { continue };
            let started = match succession == Succession::Update && !is_served(resource) {
                true => self.start_with_state(&loaded.generation, resource, settings).await,
                false => self.start_instance(&loaded.generation, resource, settings).await,
            };
            match started {
                Ok(candidate) => candidates.push((resource, settings, candidate)),
                Err(refusal) => return Err(self.report(name, &refusal)),
            }
        }
        let (mut taken, mut refused, mut handovers) = (Vec::new(), Vec::new(), Vec::new());
        for (resource, settings, candidate) in candidates {
            let path = resource.path.as_str();
            match self.take_over(resource, settings, candidate, succession).await {
                Ok(handed) => {
                    taken.push(path);
                    self.reset_failures(path);
                    handovers.extend(handed.map(|handed| (path.to_owned(), handed)));
                }
                Err(error) => {
                    let error = chain(&error);
                    error!(
                        plugin = name,
                        resource = path,
                        error,
                        "reload refused; the running generation keeps serving"
                    );
                    refused.push(format!("{path}: {error}"));
                }
            }
        }
        let number = loaded.generation.number;
        if !taken.is_empty() {
            let previous = self.activate(name, loaded).await;
            if succession == Succession::Update {
                self.put_on_probation(name, previous, handovers);
            }
        }
        if refused.is_empty() {
            return Ok(format!("generation {number} of {name} serves {}", taken.join(", ")));
        }
        let reason = refused.join("; ");
        let status = &mut self.plugin(name).status;
        status.refused = Some(reason.clone());
        status.refusals[RefusalReason::Swap as usize] += 1;
        Err(format!("generation {number} of {name} was refused: {reason}"))
    }

    /// Applies settings and lane to a resource whose instance stays.
    ///
    /// # Errors
    /// The lane's thread cannot be started; everything else is applied.
    pub(super) fn reshape(
        &self,
        resource: &Arc<Resource>,
        settings: &ResourceSettings,
        lane: LaneKind,
    ) -> std::io::Result<()> {
        let moved = self.move_lane(resource, lane);
        let now = resource.service();
        let state = now.state.clone();
        resource.set_service(Service { lane: now.lane, ..service(settings, state) });
        moved
    }

    /// Moves the running instance to a lane of this kind.
    fn move_lane(&self, resource: &Arc<Resource>, kind: LaneKind) -> std::io::Result<()> {
        let now = resource.service();
        let ServiceState::Serving(inbox) = &now.state else { return Ok(()) };
        if kind == now.lane {
            return Ok(());
        }
        // First, because an instance that has left its lane needs a new one.
        let executor = Executor::reserve(&resource.path, kind)?;
        // The old inbox is emptied first; new items wait in the new one.
        let capacity = self.hub.config.load().server.limits.flow.inbox_messages;
        let (next, pending_lane) = lane::open(capacity, inbox.health().clone());
        let state = ServiceState::Serving(next);
        resource.set_service(Service { lane: kind, state, ..(*now).clone() });
        let (successor, instance) = oneshot::channel();
        let resource = resource.clone();
        let inbox = inbox.clone();
        tokio::runtime::Handle::current().spawn(async move {
            drop(inbox.send(Item::Yield(successor)).await);
            let instance = tokio::select! {
                instance = instance => instance.ok(),
                () = inbox.health().given_up() => None,
            };
            if let Some(instance) = instance {
                pending_lane.start(resource, executor, instance);
            }
        });
        Ok(())
    }

    /// Serves a resource with its first instance.
    ///
    /// # Errors
    /// The lane's thread cannot be started; the resource stays closed.
    pub(super) fn serve_first(
        &mut self,
        resource: &Arc<Resource>,
        settings: &ResourceSettings,
        candidate: Candidate,
    ) -> Result<(), SwapError> {
        let Candidate { mut instance, lane: kind, .. } = candidate;
        let executor = match Executor::reserve(&resource.path, kind) {
            Ok(executor) => executor,
            Err(error) => {
                drop(discard(instance));
                return Err(SwapError::Thread(error));
            }
        };
        let capacity = self.hub.config.load().server.limits.flow.inbox_messages;
        let (inbox, pending_lane) = lane::open(capacity, Arc::default());
        // Nothing to restore; this only activates the instance.
        drop(instance.restore(None));
        let (plugin, generation) = (settings.plugin.as_str(), instance.generation());
        pending_lane.start(resource.clone(), executor, instance);
        let state = ServiceState::Serving(inbox);
        resource.set_service(Service { lane: kind, ..service(settings, state) });
        let (resource, lane) = (resource.path.as_str(), kind.as_str());
        match self.is_check {
            true => info!(resource, plugin, lane, "resource can be served"),
            false => info!(resource, plugin, generation, lane, "resource is served"),
        }
        self.restarted(resource);
        Ok(())
    }

    /// Swaps a candidate for the running instance, between two events.
    pub(super) async fn take_over(
        &mut self,
        resource: &Arc<Resource>,
        settings: &ResourceSettings,
        candidate: Candidate,
        succession: Succession,
    ) -> Result<Option<Handover>, SwapError> {
        let lane = candidate.lane;
        if lane == LaneKind::Thread {
            // Before the swap: an application that may block must not run on a shared lane.
            self.move_lane(resource, lane).map_err(SwapError::Thread)?;
        }
        let now = resource.service();
        let ServiceState::Serving(inbox) = &now.state else {
            let served = self.serve_first(resource, settings, candidate);
            return served
                .map(|()| None)
                .inspect_err(|_| self.schedule_restart(&resource.path, InitialState::Written));
        };
        let number = candidate.instance.generation();
        let Candidate { instance: next, generation, known, replaces, .. } = candidate;
        let (done, outcome) = oneshot::channel();
        let config = self.hub.config.load_full();
        let limits = config.server.reload.handover.clone();
        let limit = config.server.watchdog.callback_limit;
        let retirement = Retirement { reason: replaces, limit };
        let swap = Box::new(Swap { next, succession, known, limits, retirement, done });
        let swap = async {
            inbox.send(Item::Swap(swap)).await.ok()?;
            outcome.await.ok()
        };
        let outage = Outage::of_stuck(config.server.watchdog.restart_pause);
        let swapped = match self.until_stuck(resource, inbox, &outage, swap).await {
            Some(swapped) => swapped.unwrap_or(Err(SwapError::NoLane)),
            None => Err(SwapError::Stuck),
        };
        let handed = match swapped {
            // Another instance of the new generation serves on a fresh lane.
            Err(SwapError::Stuck) => {
                let served = match self.start_with_state(&generation, resource, settings).await {
                    Ok(candidate) => self.serve_first(resource, settings, candidate),
                    Err(refusal) => Err(SwapError::Restart(chain(&refusal))),
                };
                // Nothing serves otherwise: the active generation served until it got stuck.
                return served
                    .map(|()| None)
                    .inspect_err(|_| self.schedule_restart(&resource.path, InitialState::Written));
            }
            handed => handed?,
        };
        info!(
            resource = resource.path, plugin = settings.plugin, generation = number, pause = ?handed.pause,
            snapshot_bytes = handed.snapshot.as_ref().map_or(0, |s| s.bytes.len()), "resource is served by a new instance"
        );
        if let Err(error) = self.reshape(resource, settings, lane) {
            error!(resource = resource.path, %error, "lane not changed");
        }
        Ok(Some(handed))
    }

    /// Closes a resource with its connections, lane and instance.
    pub(super) async fn remove(&mut self, resource: &Arc<Resource>) {
        let text = "this resource was removed".to_owned();
        let reason = CloseReason::host(CloseCode::AWAY, text.clone());
        let outage = Outage { text, retry_after: REMOVED_RETRY };
        self.close(resource, outage, reason, RetireReason::Removed).await;
        self.reset_failures(&resource.path);
    }

    /// Waits for an action of a lane. If the lane is stuck, abandons it, closes the resource with
    /// `outage` and returns `None`.
    pub(super) async fn until_stuck<T>(
        &self,
        resource: &Arc<Resource>,
        inbox: &Inbox,
        outage: &Outage,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let limits = self.hub.config.load().server.watchdog.clone();
            let call = tokio::select! {
                done = &mut work => return Some(done),
                call = inbox.health().stuck_for(&limits) => call,
            };
            if self.give_up(resource, inbox, call, outage) {
                error!(resource = resource.path, "lane stuck; abandoned");
                return None;
            }
        }
    }

    /// Starts an instance on a thread of its own, which is left behind if `start` never returns; it
    /// drops an instance that comes too late.
    pub(super) async fn start_instance(
        &self,
        generation: &Arc<Generation>,
        resource: &Arc<Resource>,
        settings: &ResourceSettings,
    ) -> Result<Candidate, Refusal> {
        let limit = self.hub.config.load().server.reload.handover.start;
        let (done, started) = oneshot::channel();
        let (generation, resource) = (generation.clone(), resource.clone());
        let start = {
            let (generation, resource) = (generation.clone(), resource.clone());
            let (router, config) = (self.router.clone(), settings.config.json.clone());
            move || drop(done.send(generation.start(resource, router, &config)))
        };
        let name = format!("start:{}", resource.path);
        std::thread::Builder::new().name(name).spawn(start).map_err(Refusal::Host)?;
        let path = resource.path.clone();
        let text = match timeout(limit, started).await {
            Ok(Ok(Ok(instance))) => {
                let lane = lane_kind(settings, generation.facts.never_blocks);
                let known = Vec::new();
                let replaces = RetireReason::Replaced;
                return Ok(Candidate { instance, generation, resource, lane, known, replaces });
            }
            Ok(Ok(Err(failure))) => failure.into_text(),
            Ok(Err(_)) => "its thread has ended".to_owned(),
            Err(_) => return Err(Refusal::StartHung { resource: path, limit }),
        };
        Err(Refusal::Start { resource: path, text })
    }
}

/// Creates a resource that no application serves yet.
pub(super) fn unserved(path: &str, settings: &ResourceSettings) -> Arc<Resource> {
    let state = ServiceState::Unavailable(Outage::of_plugin(&settings.plugin));
    Arc::new(Resource::new(path.to_owned(), service(settings, state)))
}

/// Returns whether an application serves a resource.
pub(super) fn is_served(resource: &Resource) -> bool {
    matches!(resource.service().state, ServiceState::Serving(_))
}

fn service(settings: &ResourceSettings, state: ServiceState) -> Service {
    Service {
        dialog: settings.dialog,
        subprotocols: settings.subprotocols.clone(),
        lane: lane_kind(settings, false),
        state,
    }
}

pub(super) fn lane_kind(settings: &ResourceSettings, never_blocks: bool) -> LaneKind {
    settings.lane.unwrap_or(if never_blocks { LaneKind::Shared } else { LaneKind::Thread })
}

/// The outage of a resource that is being removed.
const REMOVED_RETRY: std::time::Duration = std::time::Duration::from_secs(5);
