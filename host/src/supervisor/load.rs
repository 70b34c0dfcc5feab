//! Loads a library file as a generation: copy, check, open. Changes nothing that serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{debug, error, info, warn};

use super::Supervisor;
use crate::config::Config;
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::fs::stamp::FileStamp;
use crate::plugin::dylib::{Generation, LoadError};
use crate::plugin::preflight::{self, PreflightError};
use crate::plugin::staging::{self, Hash, StageError, Staged, StagingChecks};
use crate::plugin::watch;

/// The active generation of a plugin, and the hash of its library.
#[derive(Clone)]
pub(super) struct Active {
    pub(super) generation: Arc<Generation>,
    pub(super) hash: Hash,
    pub(super) since: SystemTime,
}

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
            Err(Refusal::RolledBack) => match self.newest_good(name) {
                Some(kept) => {
                    warn!(
                        plugin = name,
                        kept = kept.number,
                        "the library file was rolled back; the kept generation serves"
                    );
                    Some(self.load_kept(name, &kept).await?)
                }
                None => return Err(Refusal::RolledBack),
            },
            loaded => loaded?,
        };
        if let Some(loaded) = loaded {
            self.activate(name, loaded).await;
        }
        Ok(())
    }

    /// Loads the library of a plugin as a new generation; `None` if `content` excludes it.
    pub(super) async fn load(
        &mut self,
        name: &str,
        wanted: Content,
    ) -> Result<Option<Active>, Refusal> {
        let config = self.hub.config.load_full();
        let file = watch::library(&config.server.folders.plugin_dir, name);
        self.know_archive(name).await;
        let plugin = self.plugins.entry(name.to_owned()).or_default();
        plugin.seen = FileStamp::of(&file);
        if plugin.seen.is_none() {
            return Err(Refusal::Missing(file));
        }
        let present = plugin.active.as_ref().map(|active| active.hash);
        let number = self.next_number(name).await;
        let (folder, plugin) = (self.staging.clone(), name.to_owned());
        let demands = self.demands(name);
        let copied = move || staging::stage(&file, &folder, &plugin, number, &demands);
        let staged = run_blocking(copied).await.map_err(Refusal::Host)??;
        if wanted == Content::Other && present == Some(staged.hash) {
            forget(&staged.path);
            if let Some(plugin) = self.plugins.get_mut(name) {
                plugin.refused = None;
            }
            return Ok(None);
        }
        let rolled_back = self.archive(name).rolled_back();
        if wanted == Content::Other && rolled_back == Some(staging::hex(&staged.hash)) {
            forget(&staged.path);
            return Err(Refusal::RolledBack);
        }
        let opened =
            self.open(name, number, &staged, config.server.reload.handover.preflight).await;
        match opened {
            Ok(generation) => {
                let generation = Arc::new(generation);
                Ok(Some(Active { generation, hash: staged.hash, since: SystemTime::now() }))
            }
            Err(refusal) => {
                forget(&staged.path);
                Err(refusal)
            }
        }
    }

    /// Returns the checks that plugins.toml requires for a library.
    pub(super) fn demands(&self, name: &str) -> StagingChecks {
        let config = self.hub.config.load();
        let sha256 = config.plugins.get(name).map(|plugin| plugin.sha256.clone());
        StagingChecks {
            check_owner: config.server.reload.check_owner,
            sha256: sha256.unwrap_or_default(),
        }
    }

    pub(super) async fn open(
        &self,
        name: &str,
        number: u64,
        staged: &Staged,
        limit: Duration,
    ) -> Result<Generation, Refusal> {
        preflight::check(&staged.path, limit).await?;
        let (name, path) = (name.to_owned(), staged.path.clone());
        let opened = run_blocking(move || Generation::open(&name, number, &path)).await;
        Ok(opened.map_err(Refusal::Host)??)
    }

    /// Makes a generation active; returns the previous one.
    pub(super) async fn activate(&mut self, name: &str, loaded: Active) -> Option<Active> {
        let (generation, hash) = (loaded.generation.clone(), loaded.hash);
        let plugin = self.plugins.entry(name.to_owned()).or_default();
        plugin.refused = None;
        let previous = plugin.active.replace(loaded);
        if previous.is_some() {
            plugin.retired += 1;
        }
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
        self.plugins.get(name)?.active.as_ref().map(|active| active.generation.clone())
    }

    pub(super) fn describe(&self, name: &str, refusal: &Refusal) -> String {
        let after = match self.active(name) {
            Some(generation) => format!("; generation {} keeps serving", generation.number),
            None => String::new(),
        };
        format!("plugin {name} refused: {}{after}", chain(refusal))
    }

    /// Logs a refusal; returns the line.
    pub(super) fn report(&mut self, name: &str, refusal: &Refusal) -> String {
        let line = self.describe(name, refusal);
        self.plugins.entry(name.to_owned()).or_default().refused = Some(chain(refusal));
        error!("{line}");
        line
    }

    pub(super) fn report_if_available(&self, path: &Path, config: &Config) {
        if let Some(name) = watch::plugin_name(path)
            && !config.maps(name)
        {
            info!(
                plugin = name, file = %path.display(),
                "available; to serve it, add two lines to plugins.toml: [resources.\"/{name}\"] and plugin = \"{name}\""
            );
        }
    }
}

pub(super) fn forget(staged: &Path) {
    if let Err(error) = std::fs::remove_file(staged) {
        debug!(file = %staged.display(), %error, "cannot remove a refused copy");
    }
}
