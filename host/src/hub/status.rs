//! What everybody may know of the plugins: published by the supervisor after each change, so that looking never waits for it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::plugin::archive::Kept;

/// All plugins that the supervisor has dealt with, by name.
pub(crate) type PluginStatuses = BTreeMap<String, PluginStatus>;

/// How a plugin stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct PluginStatus {
    pub(crate) generation: Option<RunningGeneration>,
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
pub(crate) struct RunningGeneration {
    pub(crate) number: u64,
    pub(crate) hash: String,
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) build: String,
    pub(crate) since: SystemTime,
}
