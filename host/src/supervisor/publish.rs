//! Publishes the status of all plugins after each change, so that a reader never waits for the supervisor.

use std::sync::Arc;

use super::Supervisor;
use crate::hub::status::{PluginStatus, RunningGeneration};
use crate::plugin::staging;

impl Supervisor {
    pub(super) fn publish(&self) {
        let config = self.hub.config.load();
        // Plugins that neither run nor are mapped are left out.
        let known = self.plugins.iter();
        let known =
            known.filter(|(name, plugin)| plugin.active.is_some() || config.maps(name.as_str()));
        let standings = known.map(|(name, plugin)| {
            let generation = plugin.active.as_ref().map(|active| RunningGeneration {
                number: active.generation.number,
                hash: staging::hex(&active.hash),
                package: active.generation.facts.package.clone(),
                version: active.generation.facts.version.clone(),
                build: active.generation.facts.build.clone(),
                since: active.since,
            });
            let standing = PluginStatus {
                generation,
                refused: plugin.refused.clone(),
                retired: plugin.retired,
                is_disabled: plugin.is_disabled,
                is_on_probation: self.probations.contains_key(name),
                failed_probations: plugin.failed_probations,
                kept: plugin.kept.clone().unwrap_or_default(),
            };
            (name.clone(), standing)
        });
        self.hub.plugin_statuses.store(Arc::new(standings.collect()));
    }
}
