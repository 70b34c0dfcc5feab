//! Snapshots on disk for resources with `snapshot_every`: written periodically and at shutdown,
//! restored when an instance starts without a predecessor.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use plugsocket_plugin::SnapshotReason;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info};

use super::Supervisor;
use super::deploy::Candidate;
use super::load::Refusal;
use crate::config::{Config, ResourceSettings};
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::hub::Hub;
use crate::plugin::dylib::Generation;
use crate::plugin::lane::Item;
use crate::plugin::lane::handover::{self, SwapError};
use crate::plugin::snapshot_file::{self, SnapshotFile};
use crate::routing::resource::{Resource, ServiceState};

/// Writes snapshots, one at a time per resource, so that an older one never replaces a newer one.
#[derive(Debug, Default)]
pub(crate) struct SnapshotWriter {
    /// One lock per resource, held by the writing thread even if the waiting task is dropped.
    writing: Mutex<BTreeMap<String, Arc<AsyncMutex<()>>>>,
}

/// Takes due snapshots of all resources.
pub(crate) async fn write_periodically(hub: Arc<Hub>, snapshot_writer: Arc<SnapshotWriter>) {
    /// Time within which a changed interval takes effect.
    const CHECK_INTERVAL: Duration = Duration::from_millis(100);
    let mut last: BTreeMap<String, Instant> = BTreeMap::new();
    let mut writing = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = writing.join_next() => {}
            () = sleep(CHECK_INTERVAL) => {
                let config = hub.config.load_full();
                for (path, settings) in &config.resources {
                    let Some(every) = settings.snapshot_every else { continue };
                    let now = Instant::now();
                    let due = *last.entry(path.clone()).or_insert(now) + every <= now;
                    if due && let Ok(turn) = snapshot_writer.turn(path).try_lock_owned() {
                        last.insert(path.clone(), now);
                        let of = (path.clone(), SnapshotReason::Stored);
                        writing.spawn(write(hub.clone(), config.clone(), of, turn));
                    }
                }
            }
        }
    }
}

/// Writes the last snapshots before the lanes stop, each after a pending one. A stuck lane delays
/// only its own.
pub(crate) async fn write_last(hub: &Arc<Hub>, snapshot_writer: &SnapshotWriter) {
    let config = hub.config.load_full();
    let mut writing = JoinSet::new();
    for (path, settings) in &config.resources {
        if settings.snapshot_every.is_some() {
            let (turn, hub) = (snapshot_writer.turn(path).lock_owned(), hub.clone());
            let (config, of) = (config.clone(), (path.clone(), SnapshotReason::Stopping));
            writing.spawn(async move { write(hub, config, of, turn.await).await });
        }
    }
    while writing.join_next().await.is_some() {}
}

impl SnapshotWriter {
    fn turn(&self, path: &str) -> Arc<AsyncMutex<()>> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.entry(path.to_owned()).or_default().clone()
    }
}

/// Requests a snapshot from the lane of a resource and writes it.
async fn write(
    hub: Arc<Hub>,
    config: Arc<Config>,
    (path, reason): (String, SnapshotReason),
    turn: OwnedMutexGuard<()>,
) {
    let Some(resource) = hub.resources.load().get(&path).cloned() else { return };
    let service = resource.service();
    let ServiceState::Serving(inbox) = &service.state else { return };
    let (done, taken) = oneshot::channel();
    if inbox.send(Item::Snapshot(reason, done)).await.is_err() {
        return;
    }
    let taken = tokio::select! {
        taken = taken => taken,
        () = inbox.health().given_up() => return,
    };
    let (resource, limit) = (resource.path.as_str(), config.server.reload.handover.snapshot_limit);
    let state = match taken {
        Ok(Ok(Some(state))) => state,
        Ok(Ok(None)) => return debug!(resource, "application has no state"),
        Ok(Err(failure)) => {
            return failed(&hub, resource, &format!("the application: {}", failure.into_text()));
        }
        // The lane has ended.
        Err(_) => return,
    };
    let bytes = state.snapshot.bytes.len();
    if bytes > limit {
        let text = format!("{bytes} bytes are more than reload.snapshot_limit ({limit})");
        return failed(&hub, resource, &text);
    }
    let file = snapshot_file::file(&config.server.folders.state_dir, resource);
    let write = move || {
        let _turn = turn;
        state.write(&file)
    };
    match run_blocking(write).await.flatten() {
        Ok(()) => {
            debug!(resource, bytes, "snapshot written");
            if let Some(after) = hub.snapshots.written(resource, SystemTime::now(), bytes) {
                info!(resource, bytes, ?after, "snapshots are written again");
            }
        }
        Err(error) => failed(&hub, resource, &error.to_string()),
    }
}

/// Publishes a failure, and logs the first of a series.
fn failed(hub: &Hub, resource: &str, error: &str) {
    if hub.snapshots.failed(resource, error) {
        error!(resource, error, "cannot write the snapshot; the previous one stays");
    } else {
        debug!(resource, error, "cannot write the snapshot again");
    }
}

impl Supervisor {
    /// Starts an instance with the last state on disk, or with none if it refuses that.
    pub(super) async fn start_with_state(
        &self,
        generation: &Arc<Generation>,
        resource: &Arc<Resource>,
        settings: &ResourceSettings,
    ) -> Result<Candidate, Refusal> {
        let candidate = self.start_instance(generation, resource, settings).await?;
        if settings.snapshot_every.is_none() {
            return Ok(candidate);
        }
        let (config, path) = (self.hub.config.load_full(), &resource.path);
        let file = snapshot_file::file(&config.server.folders.state_dir, path);
        let written = file.clone();
        let read = run_blocking(move || {
            let at = std::fs::metadata(&written).and_then(|meta| meta.modified());
            (SnapshotFile::read(&written), at)
        });
        let (read, at) = read.await.map_err(Refusal::Host)?;
        let state = match read {
            Ok(Some(state)) if state.plugin == settings.plugin => state,
            Ok(Some(state)) => {
                let of = state.plugin;
                info!(resource = path, of, "the snapshot on disk belongs to another application");
                return Ok(candidate);
            }
            Ok(None) => return Ok(candidate),
            Err(error) => {
                set_aside(&file, path, &chain(&error));
                return Ok(candidate);
            }
        };
        let bytes = state.snapshot.bytes.len();
        if let Ok(at) = at {
            self.hub.snapshots.written(path, at, bytes);
        }
        let limit = config.server.reload.handover.restore;
        match handover::restore(candidate.instance, state.snapshot, limit).await {
            Ok((instance, _)) => {
                info!(resource = path, bytes, "state restored from disk");
                Ok(Candidate { instance, ..candidate })
            }
            // Not a fault of the state.
            Err(SwapError::Thread(error)) => Err(Refusal::Host(error)),
            Err(error) => {
                set_aside(&file, path, &chain(&error));
                self.start_instance(generation, resource, settings).await
            }
        }
    }
}

/// Renames a refused state, so that the next snapshot does not overwrite it; returns whether that
/// succeeded.
pub(super) fn set_aside(file: &Path, resource: &str, reason: &str) -> bool {
    let to = file.with_extension("refused");
    let moved = std::fs::rename(file, &to).is_ok();
    let file = to.display();
    error!(
        resource, reason, moved, %file,
        "the state on disk is not restored; the application starts without it"
    );
    moved
}
