//! Probation: observes a new generation and rolls it back if it fails.
//!
//! **State.** Messages that the new generation handled were acknowledged, so their effect must
//! stay: its snapshot is handed to an instance of the previous generation. If that fails, the state
//! of the moment of the swap is restored; sessions that opened since are opened for it, those that
//! closed are closed. No message is lost: each is handled by one of the two.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Supervisor;
use super::preflight::Library;
use crate::config::{ProbationSettings, ResourceSettings};
use crate::error::{chain, counted};
use crate::hub::status::Active;
use crate::plugin::dylib::Generation;
use crate::plugin::lane::handover::{self, Handover, Succession};
use crate::plugin::staging;
use crate::routing::counters::CounterValues;
use crate::routing::resource::{Resource, ServiceState};

/// A generation on probation.
pub(super) struct Probation {
    /// The generation to roll back to.
    previous: Active,
    until: Instant,
    /// How each resource was at its swap.
    resources: BTreeMap<String, Handover>,
}

/// Interval between two checks.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Minimum number of messages for judging a share of them.
const FEWEST_MESSAGES: u64 = 20;
const FEWEST_SLOW_CALLS: u64 = 3;

/// Returns why a generation fails its probation, from the counts of one resource since the swap.
fn fault(before: &CounterValues, now: &CounterValues, share_percent: usize) -> Option<String> {
    let messages = now.messages.saturating_sub(before.messages);
    let refused = now.refused.saturating_sub(before.refused);
    let slow = now.slow_calls.saturating_sub(before.slow_calls);
    let is_over = |part: u64| part * 100 > share_percent as u64 * messages.max(1);
    if now.panics > before.panics {
        return Some("it panicked".to_owned());
    }
    if messages >= FEWEST_MESSAGES && is_over(refused) {
        return Some(format!("it refused {refused} of {}", counted(messages as usize, "message")));
    }
    if slow >= FEWEST_SLOW_CALLS && is_over(slow) {
        return Some(format!(
            "{} with {}",
            counted(slow as usize, "slow call"),
            counted(messages as usize, "message")
        ));
    }
    None
}

impl Supervisor {
    /// Starts the probation of the active generation. If the previous one is still on probation,
    /// the last good generation stays the target of a rollback.
    pub(super) fn put_on_probation(
        &mut self,
        name: &str,
        previous: Option<Active>,
        handovers: Vec<(String, Handover)>,
    ) {
        let time = self.hub.config.load().server.reload.probation.time;
        let earlier = self.probations.remove(name).map(|probation| probation.previous);
        let Some(previous) = earlier.or(previous) else { return };
        let active = self.plugins.get(name).and_then(|plugin| plugin.status.active.as_ref());
        let is_same = active.is_none_or(|active| active.hash == previous.hash);
        if is_same || time.is_zero() || handovers.is_empty() {
            return;
        }
        let resources = handovers.into_iter().collect();
        let probation = Probation { previous, until: Instant::now() + time, resources };
        self.probations.insert(name.to_owned(), probation);
    }

    /// Checks all generations on probation.
    pub(super) async fn check_probations(&mut self) {
        let rules = self.hub.config.load().server.reload.probation.clone();
        let ended = self.probations.iter().filter_map(|(name, probation)| {
            self.result_of(probation, &rules).map(|result| (name.clone(), result))
        });
        for (name, result) in ended.collect::<Vec<_>>() {
            if let Err(reason) = result {
                self.fail(&name, &reason).await;
            } else {
                self.probations.remove(&name);
                info!(plugin = name, "probation passed");
                self.publish();
            }
        }
    }

    /// Returns the result of a probation; `None` while undecided.
    fn result_of(
        &self,
        probation: &Probation,
        rules: &ProbationSettings,
    ) -> Option<Result<(), String>> {
        let mut messages = 0;
        for (path, before) in &probation.resources {
            let Some(resource) = self.resource(path) else { continue };
            let now = resource.counters.values();
            messages += now.messages.saturating_sub(before.values.messages);
            if let Some(fault) = fault(&before.values, &now, rules.share) {
                return Some(Err(format!("{path}: {fault}")));
            }
        }
        let is_over = messages >= rules.messages as u64 || Instant::now() >= probation.until;
        is_over.then_some(Ok(()))
    }

    /// Rolls back to the previous generation.
    pub(super) async fn fail(&mut self, name: &str, reason: &str) {
        let Some(probation) = self.probations.remove(name) else { return };
        let config = self.hub.config.load_full();
        let mut states = Vec::new();
        for (path, before) in probation.resources {
            let settings = config.resources.get(&path).filter(|settings| settings.plugin == name);
            let (Some(resource), Some(settings)) = (self.resource(&path), settings) else {
                continue;
            };
            match self.go_back(&probation.previous.generation, &resource, settings, before).await {
                Ok(state) => states.push(state),
                Err(error) => error!(
                    resource = path,
                    error = chain(&*error),
                    "rollback failed; the new generation keeps serving"
                ),
            }
        }
        if states.is_empty() {
            return;
        }
        let again = probation.previous.generation.number;
        let previous = Active { since: SystemTime::now(), ..probation.previous };
        let failed = self.activate(name, previous).await;
        let generation = failed.as_ref().map_or(0, |failed| failed.generation.number);
        if let Some(failed) = failed {
            self.record_rollback(name, Some(&staging::hex(&failed.hash)));
        }
        let status = &mut self.plugin(name).status;
        status.failed_probations += 1;
        status.refused = Some(format!("generation {generation} failed its probation: {reason}"));
        self.publish();
        let state = states.join(", ");
        warn!(
            plugin = name,
            generation,
            reason,
            state,
            again,
            "probation failed; the generation before serves again"
        );
    }

    /// Rolls one resource back; returns which state was kept.
    async fn go_back(
        &mut self,
        generation: &Arc<Generation>,
        resource: &Arc<Resource>,
        settings: &ResourceSettings,
        before: Handover,
    ) -> Result<&'static str, Box<dyn Error + Send + Sync>> {
        let is_served = matches!(resource.service().state, ServiceState::Serving(_));
        let (config, resources) = (self.hub.config.load_full(), [(&resource.path, settings)]);
        let library = Library { plugin: &settings.plugin, path: &generation.path };
        if !is_served {
            // The state of the swap is restored below.
        } else if let Err(refusal) = self.preflight(library, &resources, &config, true).await {
            info!(resource = resource.path, error = chain(&refusal), "cannot carry the state back");
        } else {
            let candidate = self.start_instance(generation, resource, settings).await?;
            match self.take_over(resource, settings, candidate, Succession::Update).await {
                Ok(Some(_)) => return Ok("carried back"),
                // The lane was stuck, and the previous generation already serves.
                Ok(None) => return Ok("none"),
                Err(error) => {
                    info!(resource = resource.path, %error, "cannot carry the state back");
                }
            }
        }
        let mut candidate = self.start_instance(generation, resource, settings).await?;
        let limit = self.hub.config.load().server.reload.handover.restore;
        if let Some(state) = before.snapshot {
            candidate.instance = handover::restore(candidate.instance, state, limit).await?.0;
        }
        candidate.known = before.sessions;
        self.take_over(resource, settings, candidate, Succession::Restored).await?;
        Ok("as before the swap")
    }

    /// Fails the probation of a plugin whose lane got stuck.
    pub(super) async fn fail_if_on_probation(&mut self, path: &str) {
        let config = self.hub.config.load_full();
        let Some(settings) = config.resources.get(path) else { return };
        let probation = self.probations.get(&settings.plugin);
        if probation.is_some_and(|probation| probation.resources.contains_key(path)) {
            self.fail(&settings.plugin, &format!("{path}: it got stuck")).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_refusals_and_slow_calls_fail_a_probation() {
        let before =
            CounterValues { messages: 100, refused: 50, panics: 7, ..CounterValues::default() };
        for (messages, refused, panics, slow, expected) in [
            (0, 0, 0, 0, None),
            (1, 0, 1, 0, Some("it panicked")),
            (19, 19, 0, 0, None),
            (20, 4, 0, 0, None),
            (20, 5, 0, 0, Some("it refused 5 of 20 messages")),
            (2, 0, 0, 2, None),
            (3, 0, 0, 3, Some("3 slow calls with 3 messages")),
            (1000, 0, 0, 3, None),
        ] {
            let now = CounterValues {
                messages: before.messages + messages,
                refused: before.refused + refused,
                panics: before.panics + panics,
                slow_calls: slow,
                ..before
            };
            assert_eq!(fault(&before, &now, 20).as_deref(), expected, "{messages} {refused}");
        }
    }
}
