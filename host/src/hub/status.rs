//! The published status of all plugins, which is read without waiting for the supervisor.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::counters::RefusalReason;
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
    /// How many libraries were loaded, and how many were refused for which reason.
    pub(crate) loads: u64,
    pub(crate) refusals: [u64; RefusalReason::ALL.len()],
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

/// The last snapshots of all resources, by path.
#[derive(Default)]
pub(crate) struct SnapshotStates(Mutex<BTreeMap<String, SnapshotState>>);

/// The last snapshot of a resource.
#[derive(Clone, Default)]
pub(crate) struct SnapshotState {
    /// When a snapshot was last written, and its bytes.
    pub(crate) written: Option<(SystemTime, usize)>,
    /// Since when snapshots fail, and why the last one did.
    pub(crate) failing: Option<(SystemTime, String)>,
}

impl SnapshotStates {
    pub(crate) fn get(&self, resource: &str) -> Option<SnapshotState> {
        self.with(|states| states.get(resource).cloned())
    }

    /// Records a snapshot on disk; returns how long earlier ones had failed, if they had.
    pub(crate) fn written(&self, resource: &str, at: SystemTime, bytes: usize) -> Option<Duration> {
        let state = SnapshotState { written: Some((at, bytes)), failing: None };
        let former = self.with(|states| states.insert(resource.to_owned(), state));
        let (since, _) = former?.failing?;
        Some(since.elapsed().unwrap_or_default())
    }

    /// Records a failure; returns whether it is the first of a series.
    pub(crate) fn failed(&self, resource: &str, reason: &str) -> bool {
        self.with(|states| {
            let state = states.entry(resource.to_owned()).or_default();
            let since = state.failing.as_ref().map(|(since, _)| *since);
            let begin = since.unwrap_or_else(SystemTime::now);
            state.failing = Some((begin, reason.to_owned()));
            since.is_none()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, SnapshotState>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_of_failures_begins_and_ends_once() {
        let states = SnapshotStates::default();
        let now = SystemTime::now();
        assert!(states.written("/a", now, 7).is_none());
        assert_eq!([states.failed("/a", "full"), states.failed("/a", "full")], [true, false]);
        let state = states.get("/a").unwrap();
        assert_eq!((state.written, state.failing.unwrap().1), (Some((now, 7)), "full".to_owned()));
        assert!(states.written("/a", now, 8).is_some());
        assert!(states.written("/a", now, 9).is_none());
        assert!(states.get("/b").is_none());
    }
}
