//! Loads a library file as a generation: copy, check, open. Changes nothing that serves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{debug, error, info, warn};

use super::Supervisor;
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::fs::stamp::FileStamp;
use crate::hub::status::{Active, PluginStatus};
use crate::plugin::dylib::{Generation, LoadError};
use crate::plugin::preflight::{self, PreflightError};
use crate::plugin::staging::{self, StageError, Staged, StagingChecks};
use crate::plugin::watch;

/// Which library contents to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Only contents that differ from the active generation.
    Other,
    Any,
}

/// Reasons for which a library or resource cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{} does not exist; put the library into that folder", .0.display())]
    Missing(PathBuf),
    #[error("this content was rolled back; `plugsocket plugin reload` loads it anyway")]
    RolledBack,
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{resource}: it did not start: {text}")]
    Start { resource: String, text: String },
    #[error("{resource}: it did not start within {limit:?}")]
    StartHung { resource: String, limit: Duration },
    #[error("an internal task failed")]
    Host(#[source] std::io::Error),
}

impl Supervisor {
    /// Loads the library of a plugin that does not run yet.
    pub(super) async fn load_new(&mut self, name: &str) -> Result<(), Refusal> {
        let loaded = match self.load(name, Content::Other).await {
            Err(Refusal::RolledBack) => {
                let archived = self.newest_good(name).ok_or(Refusal::RolledBack)?;
                warn!(
                    plugin = name,
                    kept = archived.number,
                    "the library file was rolled back; the kept generation serves"
                );
                Some(self.load_archived(name, &archived).await?)
            }
            loaded => loaded?,
        };
        if let Some(loaded) = loaded {
            self.activate(name, loaded).await;
        }
        Ok(())
    }

    /// Loads the library of a plugin as a new generation; `None` if `wanted` excludes it.
    pub(super) async fn load(
        &mut self,
        name: &str,
        wanted: Content,
    ) -> Result<Option<Active>, Refusal> {
        let file = watch::library(&self.hub.config.load().server.folders.plugin_dir, name);
        self.know_archive(name).await;
        let plugin = self.plugin(name);
        plugin.seen = FileStamp::of(&file);
        if plugin.seen.is_none() {
            return Err(Refusal::Missing(file));
        }
        let present = plugin.status.active.as_ref().map(|active| active.hash);
        let staged = self.stage(name, file).await?;
        if wanted == Content::Other {
            if present == Some(staged.hash) {
                remove_copy(&staged.path);
                self.plugin(name).status.refused = None;
                return Ok(None);
            }
            if self.archive(name).rolled_back() == Some(staging::hex(&staged.hash)) {
                remove_copy(&staged.path);
                return Err(Refusal::RolledBack);
            }
        }
        self.open(name, staged).await.map(Some)
    }

    /// Copies a library under a new generation number, with the checks that plugins.toml requires.
    pub(super) async fn stage(&mut self, name: &str, library: PathBuf) -> Result<Staged, Refusal> {
        let number = self.next_number(name).await;
        let config = self.hub.config.load_full();
        let sha256 = config.plugins.get(name).map_or_else(Vec::new, |it| it.sha256.clone());
        let checks = StagingChecks { check_owner: config.server.reload.check_owner, sha256 };
        let (folder, name) = (self.staging.clone(), name.to_owned());
        let stage = move || staging::stage(&library, &folder, &name, number, &checks);
        Ok(run_blocking(stage).await.map_err(Refusal::Host)??)
    }

    /// Opens a copy as a generation; removes the copy if that fails.
    pub(super) async fn open(&self, name: &str, staged: Staged) -> Result<Active, Refusal> {
        let limit = self.hub.config.load().server.reload.handover.preflight;
        let Staged { path, generation: number, hash } = staged;
        let opened = async {
            preflight::run(&path, &[], limit).await?;
            let (name, path) = (name.to_owned(), path.clone());
            let open = move || Generation::open(&name, number, &path);
            Ok(run_blocking(open).await.map_err(Refusal::Host)??)
        };
        let opened: Result<_, Refusal> = opened.await;
        let generation = Arc::new(opened.inspect_err(|_| remove_copy(&path))?);
        Ok(Active { generation, hash, since: SystemTime::now() })
    }

    /// Makes a generation active; returns the previous one.
    pub(super) async fn activate(&mut self, name: &str, loaded: Active) -> Option<Active> {
        let (generation, hash) = (loaded.generation.clone(), loaded.hash);
        let PluginStatus { active, refused, retired, .. } = &mut self.plugin(name).status;
        *refused = None;
        let previous = active.replace(loaded);
        *retired += u64::from(previous.is_some());
        self.keep(name, generation.clone(), hash).await;
        self.publish();
        let Generation { number, facts, path, .. } = &*generation;
        info!(
            plugin = name, generation = number, package = facts.package, version = facts.version, build = facts.build,
            file = %path.display(), hash = staging::hex(&hash[..6]), "plugin loaded"
        );
        previous
    }

    pub(super) fn active(&self, name: &str) -> Option<Arc<Generation>> {
        self.plugins.get(name)?.status.active.as_ref().map(|active| active.generation.clone())
    }

    pub(super) fn describe(&self, name: &str, refusal: &Refusal) -> String {
        let active = self.active(name);
        let after = active.map(|it| format!("; generation {} keeps serving", it.number));
        format!("plugin {name} refused: {}{}", chain(refusal), after.unwrap_or_default())
    }

    /// Logs a refusal; returns the line.
    pub(super) fn report(&mut self, name: &str, refusal: &Refusal) -> String {
        let line = self.describe(name, refusal);
        self.plugin(name).status.refused = Some(chain(refusal));
        error!("{line}");
        line
    }
}

/// Logs that libraries are in the folder and not mapped: a few one by one, many in one line.
pub(super) fn log_available(paths: &BTreeSet<PathBuf>) {
    const FEW: usize = 5;
    let named = paths.iter().filter_map(|path| Some((path, watch::plugin_name(path)?)));
    if paths.len() > FEW {
        let first = named.map(|(_, name)| name).take(FEW).collect::<Vec<_>>().join(", ");
        info!(
            count = paths.len(),
            first, "libraries that no resource uses; plugsocket plugin list shows them"
        );
        return;
    }
    for (path, name) in named {
        info!(
            plugin = name, file = %path.display(),
            "available; to serve it, add two lines to plugins.toml: [resources.\"/{name}\"] and plugin = \"{name}\""
        );
    }
}

/// Removes a staged copy that is not loaded.
pub(super) fn remove_copy(staged: &Path) {
    if let Err(error) = std::fs::remove_file(staged) {
        debug!(file = %staged.display(), %error, "cannot remove a refused copy");
    }
}
