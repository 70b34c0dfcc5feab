//! The published status of all plugins, which is read without waiting for the supervisor.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::plugin::archive::Kept;

/// Status of each plugin that the supervisor knows, by name.
pub(crate) type PluginStatuses = BTreeMap<String, PluginStatus>;

/// Status of one plugin.
#[derive(Clone, Debug, Default)]
pub(crate) struct PluginStatus {
    pub(crate) generation: Option<RunningGeneration>,
    /// Why the newest library was refused.
    pub(crate) refused: Option<String>,
    /// Number of replaced generations.
    pub(crate) retired: u64,
    pub(crate) is_disabled: bool,
    pub(crate) is_on_probation: bool,
    pub(crate) failed_probations: u64,
    /// Generations available for rollback, newest first.
    pub(crate) kept: Vec<Kept>,
}

/// The loaded generation.
#[derive(Clone, Debug)]
pub(crate) struct RunningGeneration {
    pub(crate) number: u64,
    pub(crate) hash: String,
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) build: String,
    pub(crate) since: SystemTime,
}
