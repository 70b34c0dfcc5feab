//! What everybody may know of the plugins: published by the supervisor after each change, so that looking never waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::Supervisor;
use crate::plugin::archive::Kept;
use crate::plugin::stage;

/// All plugins that the supervisor has dealt with, by name.
pub(crate) type Roster = BTreeMap<String, Standing>;

/// How a plugin stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) generation: Option<Running>,
    /// Why its newest library was not taken.
    pub(crate) refused: Option<String>,
    /// Generations that were replaced.
    pub(crate) retired: u64,
    pub(crate) is_disabled: bool,
    pub(crate) is_on_probation: bool,
    pub(crate) failed_probations: u64,
    /// Generations that can be rolled back to, the newest first.
    pub(crate) kept: Vec<Kept>,
}

/// The generation that is loaded.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) number: u64,
    pub(crate) hash: String,
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) build: String,
    pub(crate) since: SystemTime,
}

impl Supervisor {
    pub(super) fn publish(&self) {
        let config = self.hub.config.load();
        // One that runs nothing and is to run nothing is nobody's concern.
        let known = self.plugins.iter();
        let known =
            known.filter(|(name, plugin)| plugin.active.is_some() || config.maps(name.as_str()));
        let standings = known.map(|(name, plugin)| {
            let generation = plugin.active.as_ref().map(|active| Running {
                number: active.generation.number,
                hash: stage::hex(&active.hash),
                package: active.generation.facts.package.clone(),
                version: active.generation.facts.version.clone(),
                build: active.generation.facts.build.clone(),
                since: active.since,
            });
            let standing = Standing {
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
        self.hub.roster.store(Arc::new(standings.collect()));
    }
}
