//! What the host would do with the libraries in the plugin folder: each one that it would load is
//! staged and rehearsed, and none is opened here.

use std::io::ErrorKind;
use std::path::Path;

use super::load::{Refusal, stage};
use super::preflight::snapshot_of;
use crate::config::{Config, Diff, Preflight, ResourceSettings};
use crate::fs::blocking::run_blocking;
use crate::hub::Hub;
use crate::hub::status::PluginStatus;
use crate::plugin::archive::Archive;
use crate::plugin::preflight::{self, Candidate};
use crate::plugin::staging;
use crate::plugin::{Snapshot, watch};
use crate::protocol::time_limit::timeout;
use crate::routing::resource::ServiceState;

/// The fate of libraries, by name of the plugin.
#[derive(Debug, Default)]
pub(crate) struct Prediction {
    /// Those that would replace the running generation.
    pub(crate) swapped: Vec<String>,
    /// Those that would be refused, and why.
    pub(crate) refused: Vec<String>,
    /// Those that are not there; the running generation would continue.
    pub(crate) deleted: Vec<String>,
}

/// Predicts what applying `new` and the plugin folder would do.
pub(crate) async fn predict(hub: &Hub, new: &Config, diff: &Diff) -> Prediction {
    let statuses = hub.plugin_statuses.load_full();
    let mut prediction = Prediction::default();
    let mut names: Vec<&String> = new.resources.values().map(|it| &it.plugin).collect();
    names.sort();
    names.dedup();
    for name in names {
        let status = statuses.get(name).cloned().unwrap_or_default();
        if status.is_disabled {
            continue;
        }
        match fate(hub, new, diff, name, &status).await {
            Ok(Fate::Unchanged) => {}
            Ok(Fate::Swapped) => prediction.swapped.push(name.clone()),
            Ok(Fate::Deleted) => prediction.deleted.push(name.clone()),
            Err(refusal) => prediction.refused.push(format!("{name}: {}", refusal.with_place(new))),
        }
    }
    prediction
}

enum Fate {
    Unchanged,
    Swapped,
    Deleted,
}

async fn fate(
    hub: &Hub,
    new: &Config,
    diff: &Diff,
    name: &str,
    status: &PluginStatus,
) -> Result<Fate, Refusal> {
    let file = watch::library(&new.server.folders.plugin_dir, name);
    let active = status.active.as_ref();
    let library = file.clone();
    let hash = run_blocking(move || staging::hash_of(&library)).await.map_err(Refusal::Host)?;
    let changed = |path: &String| {
        [&diff.added, &diff.remapped, &diff.reconfigured].into_iter().any(|it| it.contains(path))
    };
    let mapped: Vec<_> = new.mapped_to(name).collect();
    let is_deleted = hash.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    match active {
        // It continues, also with new settings.
        Some(active) if is_deleted || hash.is_ok_and(|hash| hash == active.hash) => {
            let changed: Vec<_> = mapped.into_iter().filter(|(path, _)| changed(path)).collect();
            if !changed.is_empty() {
                rehearse(hub, new, name, &active.generation.path, &changed).await?;
            }
            return Ok(if is_deleted { Fate::Deleted } else { Fate::Unchanged });
        }
        None if is_deleted => return Err(Refusal::Missing(file)),
        _ => {}
    }
    let staged = stage(name, file, new).await?;
    let archive = Archive::new(&new.server.folders.state_dir, name);
    let passed = match archive.rolled_back() == Some(staging::hex(&staged.hash)) {
        true => Err(Refusal::RolledBack),
        false => rehearse(hub, new, name, &staged.path, &mapped).await,
    };
    staged.remove();
    passed.map(|()| if active.is_some() { Fate::Swapped } else { Fate::Unchanged })
}

async fn rehearse(
    hub: &Hub,
    config: &Config,
    name: &str,
    library: &Path,
    resources: &[(&String, &ResourceSettings)],
) -> Result<(), Refusal> {
    let mut candidates = Vec::new();
    let kind = config.plugins.get(name).map_or(Preflight::Full, |plugin| plugin.preflight);
    for &(path, settings) in resources.iter().filter(|_| kind == Preflight::Full) {
        let is_same = hub.config.load().resources.get(path).is_some_and(|it| it.plugin == name);
        let state = if is_same { state_of(hub, path, config).await } else { None };
        let (resource, settings) = (path.clone(), settings.config.json.clone());
        candidates.push(Candidate { resource, settings, state });
    }
    Ok(preflight::run(library, &config.server.reload.handover, candidates).await?)
}

/// Takes a snapshot of a running instance, if it answers.
async fn state_of(hub: &Hub, path: &str, config: &Config) -> Option<Snapshot> {
    let resource = hub.resources.load().get(path).cloned()?;
    let service = resource.service();
    let ServiceState::Serving(inbox) = &service.state else { return None };
    let limits = &config.server.reload.handover;
    timeout(limits.restore, snapshot_of(inbox, limits)).await.ok()?
}
