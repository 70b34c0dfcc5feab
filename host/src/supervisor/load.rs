//! From a library file to a generation: copy, check, open. Nothing that serves is touched here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tracing::{debug, error, info};

use super::{Supervisor, chain};
use crate::config::Config;
use crate::plugin::loader::{self, Generation, LoadError};
use crate::plugin::preflight::{self, PreflightError};
use crate::plugin::stage::{self, FileStamp, Hash, StageError, Staged};
use crate::plugin::watch;

/// The generation that a plugin runs, and the content that it was made of.
pub(super) struct Active {
    pub(super) generation: Arc<Generation>,
    pub(super) hash: Hash,
}

/// Why a library or a resource cannot serve. One sentence for the operator, with its causes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{} is not there; put the library into that folder", .0.display())]
    Missing(PathBuf),
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
    #[error("the host could not do it")]
    Host(#[source] std::io::Error),
}

impl Supervisor {
    /// Loads the library of a plugin that does not run yet.
    pub(super) async fn load_new(&mut self, name: &str) -> Result<(), Refusal> {
        if let Some(loaded) = self.load(name).await? {
            self.activate(name, loaded);
        }
        Ok(())
    }

    /// The library of a plugin as a new generation; None if its content is that of the active one.
    pub(super) async fn load(&mut self, name: &str) -> Result<Option<Active>, Refusal> {
        let config = self.hub.config.load_full();
        let file = watch::library(&config.server.plugin_dir, name);
        let plugin = self.plugins.entry(name.to_owned()).or_default();
        plugin.seen = FileStamp::of(&file);
        if plugin.seen.is_none() {
            return Err(Refusal::Missing(file));
        }
        plugin.last_number += 1;
        let number = plugin.last_number;
        let present = plugin.active.as_ref().map(|active| active.hash);
        let (folder, plugin) = (self.staging.clone(), name.to_owned());
        let staged = blocking(move || stage::stage(&file, &folder, &plugin, number)).await?;
        if present == Some(staged.hash) {
            forget(&staged.path);
            return Ok(None);
        }
        let opened = self.open(name, number, &staged, config.server.reload.preflight).await;
        match opened {
            Ok(generation) => {
                Ok(Some(Active { generation: Arc::new(generation), hash: staged.hash }))
            }
            Err(refusal) => {
                forget(&staged.path);
                Err(refusal)
            }
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
        Ok(blocking(move || Generation::open(&name, number, &path)).await?)
    }

    pub(super) fn activate(&mut self, name: &str, loaded: Active) {
        let Generation { number, facts, path, .. } = &*loaded.generation;
        info!(
            plugin = name, generation = number, package = facts.package, version = facts.version, build = facts.build,
            file = %path.display(), hash = hex(&loaded.hash[..6]), "plugin loaded"
        );
        let plugin = self.plugins.entry(name.to_owned()).or_default();
        if let Some(retired) = plugin.active.replace(loaded) {
            drop(spawn_blocking(move || loader::page_out(&retired.generation.path)));
        }
    }

    pub(super) fn active(&self, name: &str) -> Option<Arc<Generation>> {
        self.plugins.get(name)?.active.as_ref().map(|active| active.generation.clone())
    }

    pub(super) fn describe(&self, name: &str, refusal: &Refusal) -> String {
        let after = match self.active(name) {
            Some(generation) => format!("; generation {} goes on", generation.number),
            None => String::new(),
        };
        format!("plugin {name} refused: {}{after}", chain(refusal))
    }

    /// One line in the log, and the same as text.
    pub(super) fn report(&self, name: &str, refusal: &Refusal) -> String {
        let line = self.describe(name, refusal);
        error!("{line}");
        line
    }

    pub(super) fn report_if_available(&self, path: &Path, config: &Config) {
        if let Some(name) = watch::plugin_name(path)
            && !config.resources.values().any(|settings| settings.plugin == name)
        {
            info!(
                plugin = name, file = %path.display(),
                "available; to serve it, add to plugins.toml: [resources.\"/{name}\"] plugin = \"{name}\""
            );
        }
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub(super) fn forget(staged: &Path) {
    if let Err(error) = std::fs::remove_file(staged) {
        debug!(file = %staged.display(), %error, "a refused copy stays");
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
