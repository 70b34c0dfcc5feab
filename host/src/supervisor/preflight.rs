//! The preflight of a library for the resources that it is going to serve: with their settings, and
//! with the state that the host is going to restore.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use plugsocket_plugin::SnapshotReason;
use tokio::sync::oneshot;
use tracing::debug;

use super::Supervisor;
use super::load::Refusal;
use super::restart::InitialState;
use super::snapshots::set_aside;
use crate::config::{Config, HandoverSettings, Preflight, ResourceSettings};
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::plugin::Snapshot;
use crate::plugin::lane::Item;
use crate::plugin::lane::inbox::Inbox;
use crate::plugin::preflight::{self, Candidate};
use crate::plugin::snapshot_file::{self, SnapshotFile};
use crate::routing::resource::{Outage, Resource, ServiceState};

/// A staged copy of the library of a plugin.
#[derive(Clone, Copy)]
pub(super) struct Library<'l> {
    pub(super) plugin: &'l str,
    pub(super) path: &'l Path,
}

impl Supervisor {
    /// Rehearses in a child process what the host is going to do with the staged copy of a plugin: open
    /// it, and start an instance for each of these resources. `with_state`: restore the present
    /// state, which is that of the running instance or, without one, the last state on disk.
    ///
    /// A state on disk that ends the child is set aside, as one that is refused.
    pub(super) async fn preflight(
        &mut self,
        Library { plugin: name, path: library }: Library<'_>,
        resources: &[(&String, &ResourceSettings)],
        config: &Config,
        with_state: bool,
    ) -> Result<(), Refusal> {
        let is_active = self.active(name).is_some_and(|active| active.path == library);
        let kind = config.plugins.get(name).map_or(Preflight::Full, |plugin| plugin.preflight);
        if is_active && (kind == Preflight::Open || !library.exists()) {
            debug!(plugin = name, "no preflight of the active generation");
            return Ok(());
        }
        let limits = config.server.reload.handover.clone();
        loop {
            let (mut candidates, mut on_disk) = (Vec::new(), BTreeSet::new());
            for &(path, settings) in resources.iter().filter(|_| kind == Preflight::Full) {
                let present = self.hub.config.load();
                // The state of another application is not handed over.
                let is_same = present.resources.get(path).is_some_and(|it| it.plugin == name);
                drop(present);
                let served = self.resource(path);
                let served = served.as_ref().map(|it| (it, it.service()));
                let state = match served.as_ref().map(|(it, service)| (it, &service.state)) {
                    _ if !with_state || !is_same => None,
                    Some((resource, ServiceState::Serving(inbox))) => {
                        self.state_of(resource, inbox, config).await
                    }
                    _ => {
                        let state = written(path, settings, config).await;
                        on_disk.extend(state.is_some().then(|| path.clone()));
                        state
                    }
                };
                let (resource, settings) = (path.clone(), settings.config.json.clone());
                candidates.push(Candidate { resource, settings, state });
            }
            let Err(error) = preflight::run(library, &limits, candidates).await else {
                return Ok(());
            };
            let Some(path) = error.restoring().filter(|path| on_disk.contains(*path)) else {
                return Err(error.into());
            };
            let file = snapshot_file::file(&config.server.folders.state_dir, path);
            if !set_aside(&file, path, &chain(&error)) {
                return Err(error.into());
            }
        }
    }

    /// Takes a snapshot of a running instance; `None` where the swap will find out what is wrong.
    async fn state_of(
        &mut self,
        resource: &Arc<Resource>,
        inbox: &Inbox,
        config: &Config,
    ) -> Option<Snapshot> {
        let take = snapshot_of(inbox, &config.server.reload.handover);
        let outage = Outage::of_stuck(config.server.watchdog.restart_pause);
        let Some(snapshot) = self.until_stuck(resource, inbox, &outage, take).await else {
            // In case that the library is refused.
            self.schedule_restart(&resource.path, InitialState::Written);
            return None;
        };
        snapshot
    }
}

/// Takes a snapshot of a running instance; `None` if it has none within the limits.
pub(super) async fn snapshot_of(inbox: &Inbox, limits: &HandoverSettings) -> Option<Snapshot> {
    let (done, taken) = oneshot::channel();
    inbox.send(Item::Snapshot(SnapshotReason::Checked, done)).await.ok()?;
    let snapshot = taken.await.ok()?.ok()??.snapshot;
    (snapshot.bytes.len() <= limits.snapshot_limit).then_some(snapshot)
}

/// Reads the state on disk that an instance is going to restore.
async fn written(path: &str, settings: &ResourceSettings, config: &Config) -> Option<Snapshot> {
    settings.snapshot_every?;
    let file = snapshot_file::file(&config.server.folders.state_dir, path);
    let read = run_blocking(move || SnapshotFile::read(&file)).await;
    let state = read.ok()?.ok()??;
    (state.plugin == settings.plugin).then_some(state.snapshot)
}
