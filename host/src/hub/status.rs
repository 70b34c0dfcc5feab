//! The published status of all plugins, which is read without waiting for the supervisor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::plugin::archive::ArchivedGeneration;
use crate::plugin::dylib::Generation;
use crate::plugin::staging::Hash;

/// State of the configuration file on disk.
#[derive(Clone)]
pub(crate) struct FileState {
    /// When its present state began: applied, or refused.
    pub(crate) since: SystemTime,
    /// Why it is not in effect; one mistake per line.
    pub(crate) refused: Option<String>,
    /// Changed keys that take effect at the next start.
    pub(crate) needs_restart: Vec<&'static str>,
}

impl FileState {
    /// Returns the state of a file that has just been applied.
    pub(crate) fn applied(needs_restart: Vec<&'static str>) -> Self {
        Self { since: SystemTime::now(), refused: None, needs_restart }
    }
}

/// Status of each plugin that the supervisor knows, by name.
pub(crate) type PluginStatuses = BTreeMap<String, PluginStatus>;

/// Status of one plugin.
#[derive(Clone, Default)]
pub(crate) struct PluginStatus {
    pub(crate) active: Option<Active>,
    /// Why the newest library was refused.
    pub(crate) refused: Option<String>,
    /// Number of replaced generations.
    pub(crate) retired: u64,
    /// Whether an operator has disabled the plugin.
    pub(crate) is_disabled: bool,
    pub(crate) is_on_probation: bool,
    pub(crate) failed_probations: u64,
    /// Generations available for rollback, newest first.
    pub(crate) archived: Vec<ArchivedGeneration>,
}

/// The active generation of a plugin, and the hash of its library.
#[derive(Clone)]
pub(crate) struct Active {
    pub(crate) generation: Arc<Generation>,
    pub(crate) hash: Hash,
    pub(crate) since: SystemTime,
}
