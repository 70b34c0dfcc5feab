//! Loads a library file as a generation: copy, check, rehearse, open. Changes nothing that serves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{error, info, warn};

use super::Supervisor;
use super::deploy::is_served;
use super::preflight::Library;
use crate::config::Config;
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::fs::stamp::FileStamp;
use crate::hub::counters::RefusalReason;
use crate::hub::status::{Active, PluginStatus};
use crate::plugin::dylib::{Generation, LoadError, on_loader};
use crate::plugin::preflight::PreflightError;
use crate::plugin::staging::{self, StageError, Staged, StagingChecks};
use crate::plugin::watch;

/// Which library contents to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Only contents that differ from the active generation.
    Other,
    Any,
}

/// What a library is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// None serves yet. A resource whose instance fails is left out.
    First,
    /// To take over the state of the running generation.
    Update,
    /// To start without a state.
    Fresh,
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
    #[error("{resource}: it does not accept its changed configuration: {text}")]
    Configuration { resource: String, text: String },
    #[error("{resource}: it did not start within {limit:?}")]
    StartHung { resource: String, limit: Duration },
    #[error("an internal task failed")]
    Host(#[source] std::io::Error),
}

impl Refusal {
    /// Returns as what it counts.
    fn kind(&self) -> RefusalReason {
        match self {
            Self::Missing(_) => RefusalReason::Missing,
            Self::RolledBack => RefusalReason::RolledBack,
            Self::Stage(_) => RefusalReason::File,
            Self::Preflight(_) => RefusalReason::Preflight,
            Self::Load(_) => RefusalReason::Load,
            Self::Start { .. } => RefusalReason::Start,
            Self::Configuration { .. } => RefusalReason::Configuration,
            Self::StartHung { .. } => RefusalReason::StartHung,
            Self::Host(_) => RefusalReason::Host,
        }
    }

    /// Returns the reason; if an application has refused to start, with the place of its settings.
    pub(super) fn with_place(&self, config: &Config) -> String {
        let resource = match self {
            Self::Start { resource, .. } | Self::Configuration { resource, .. } => {
                Some(resource.as_str())
            }
            Self::Preflight(error) => error.refusing(),
            _ => None,
        };
        let settings = resource.and_then(|path| Some((path, config.resources.get(path)?)));
        let place = settings.map_or_else(String::new, |(path, settings)| {
            let (file, line) = (config.path.display(), settings.config.line);
            format!("; its settings: {file}:{line}: resources.{path:?}.config")
        });
        chain(self) + &place
    }
}

/// Copies a library, with the checks that `config` requires.
pub(super) async fn stage(
    name: &str,
    library: PathBuf,
    config: &Config,
) -> Result<Staged, Refusal> {
    let sha256 = config.plugins.get(name).map_or_else(Vec::new, |it| it.sha256.clone());
    let checks = StagingChecks { check_owner: config.server.reload.check_owner, sha256 };
    let (origin, name) = (config.server.folders.plugin_dir.clone(), name.to_owned());
    let stage = move || staging::stage(&library, &origin, &name, &checks);
    Ok(run_blocking(stage).await.map_err(Refusal::Host)??)
}

impl Supervisor {
    /// Loads the library of a plugin that does not run yet.
    pub(super) async fn load_new(&mut self, name: &str, config: &Config) -> Result<(), Refusal> {
        let loaded = match self.load(name, Content::Other, Purpose::First, config).await {
            Err(Refusal::RolledBack) => {
                let archived = self.newest_good(name).ok_or(Refusal::RolledBack)?;
                warn!(
                    plugin = name,
                    kept = archived.number,
                    "the library file was rolled back; the kept generation serves"
                );
                Some(self.load_archived(name, &archived, Purpose::First, config).await?)
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
        purpose: Purpose,
        config: &Config,
    ) -> Result<Option<Active>, Refusal> {
        let file = watch::library(&config.server.folders.plugin_dir, name);
        self.know_archive(name).await;
        let plugin = self.plugin(name);
        plugin.seen = FileStamp::of(&file);
        if plugin.seen.is_none() {
            return Err(Refusal::Missing(file));
        }
        let present = plugin.status.active.as_ref().map(|active| active.hash);
        let staged = stage(name, file, config).await?;
        if wanted == Content::Other {
            if present == Some(staged.hash) {
                staged.remove();
                self.plugin(name).status.refused = None;
                return Ok(None);
            }
            if self.archive(name).rolled_back() == Some(staging::hex(&staged.hash)) {
                staged.remove();
                return Err(Refusal::RolledBack);
            }
        }
        self.open(name, staged, purpose, config).await.map(Some)
    }

    /// Opens a copy as a generation, after a preflight for all resources of its plugin; removes the
    /// copy if that fails.
    pub(super) async fn open(
        &mut self,
        name: &str,
        staged: Staged,
        purpose: Purpose,
        config: &Config,
    ) -> Result<Active, Refusal> {
        match self.open_checked(name, &staged, purpose, config).await {
            Ok(generation) => {
                staging::record_opened(&staged.siblings);
                let (generation, hash) = (Arc::new(generation), staged.hash);
                Ok(Active { generation, hash, since: SystemTime::now() })
            }
            Err(refusal) => {
                staged.remove();
                Err(refusal)
            }
        }
    }

    async fn open_checked(
        &mut self,
        name: &str,
        staged: &Staged,
        purpose: Purpose,
        config: &Config,
    ) -> Result<Generation, Refusal> {
        let mut mapped: Vec<_> = config.mapped_to(name).collect();
        let (mut unfit, with_state) = (BTreeMap::new(), purpose != Purpose::Fresh);
        let library = Library { plugin: name, path: &staged.path };
        loop {
            let passed = self.preflight(library, &mapped, config, with_state).await;
            let may_serve_others = purpose == Purpose::First && mapped.len() > 1;
            let refused = match &passed {
                Err(Refusal::Preflight(error)) if may_serve_others => error.resource(),
                _ => None,
            };
            match (refused.map(ToOwned::to_owned), passed) {
                (Some(path), Err(refusal)) => {
                    mapped.retain(|(mapped, _)| **mapped != path);
                    unfit.insert(path, refusal);
                }
                (_, passed) => break passed?,
            }
        }
        self.plugin(name).unfit = unfit;
        let number = self.number_of(name, &staged.hash).await;
        let (name, path) = (name.to_owned(), staged.path.clone());
        let open = move || Generation::open(&name, number, &path);
        Ok(on_loader(open).await.map_err(Refusal::Host)??)
    }

    /// Makes a generation active; returns the previous one.
    pub(super) async fn activate(&mut self, name: &str, loaded: Active) -> Option<Active> {
        let (generation, hash) = (loaded.generation.clone(), loaded.hash);
        let plugin = self.plugin(name);
        plugin.last_number = plugin.last_number.max(generation.number);
        let PluginStatus { active, refused, retired, loads, .. } = &mut plugin.status;
        *refused = None;
        *loads += 1;
        let previous = active.replace(loaded);
        *retired += u64::from(previous.is_some());
        self.keep(name, generation.clone(), hash).await;
        self.publish();
        let Generation { number, facts, path, .. } = &*generation;
        if self.is_check {
            return previous;
        }
        info!(
            plugin = name, generation = number, package = facts.package, version = facts.version, build = facts.build,
            file = %path.display(), hash = staging::hex(&hash[..6]), "plugin loaded"
        );
        previous
    }

    pub(super) fn active(&self, name: &str) -> Option<Arc<Generation>> {
        self.plugins.get(name)?.status.active.as_ref().map(|active| active.generation.clone())
    }

    fn describe(&self, name: &str, refusal: &Refusal) -> String {
        let config = self.hub.config.load();
        let is_served =
            |(path, _): (&String, _)| self.resource(path).is_some_and(|it| is_served(&it));
        let active = self.active(name).filter(|_| config.mapped_to(name).any(is_served));
        let after = active.map(|it| format!("; generation {} keeps serving", it.number));
        let after = after.unwrap_or_default();
        format!("plugin {name} refused: {}{after}", refusal.with_place(&config))
    }

    /// Logs a refusal; returns the line.
    pub(super) fn report(&mut self, name: &str, refusal: &Refusal) -> String {
        let line = self.describe(name, refusal);
        let reason = refusal.with_place(&self.hub.config.load());
        let status = &mut self.plugin(name).status;
        status.refused = Some(reason);
        status.refusals[refusal.kind() as usize] += 1;
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
