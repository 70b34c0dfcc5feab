//! `plugsocket plugin check`: checks without a host whether a library would serve.
//!
//! The library is staged and rehearsed as the host would do it, under the limits of the
//! configuration. Whatever it does affects child processes only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use super::preflight::{self, Candidate, PreflightError};
use super::snapshot_file::{SnapshotFile, SnapshotFileError};
use super::staging::{self, StageError, StagingChecks};
use super::watch;
use crate::config::{Config, ConfigError};

/// The arguments of `plugin check`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Trial {
    /// Path of the library.
    pub(crate) library: PathBuf,
    /// Restore this snapshot, a file of `state_dir/snapshots`.
    #[arg(long, value_name = "FILE")]
    pub(crate) with_state: Option<PathBuf>,
    /// Configuration for `start`, as JSON.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) settings: String,
    /// Time limit of each step in seconds, instead of those under [server.reload].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
}

/// The configuration, and a folder for copies of libraries, which are removed when this is dropped.
pub(super) struct Workplace {
    config: Config,
    folder: PathBuf,
    has_file: bool,
}

impl Workplace {
    /// Reads the configuration of the host; without a file, uses the defaults.
    ///
    /// # Errors
    /// The file has mistakes.
    pub(super) fn new(config: &Path) -> Result<Self, ConfigError> {
        let (config, has_file) = match Config::load(config) {
            Err(ConfigError::Missing { path }) => (Config::parse("", path)?, false),
            loaded => (loaded?, true),
        };
        let folder = match has_file {
            true => config.server.folders.staging_dir.clone(),
            false => std::env::temp_dir().join(format!("plugsocket-check-{}", Uuid::new_v4())),
        };
        Ok(Self { config, folder, has_file })
    }

    /// Creates the folder.
    ///
    /// # Errors
    /// It cannot be created.
    pub(super) fn prepare(&self) -> Result<(), TrialError> {
        let unusable = |source| TrialError::Staging { path: self.folder.clone(), source };
        staging::prepare(&self.folder).map_err(unusable)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        staging::clear();
        if !self.has_file {
            // It may not have been created.
            drop(std::fs::remove_dir(&self.folder));
        }
    }
}

/// Why a library would not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot use {} for a copy of the library", path.display())]
    Staging {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    State(#[from] SnapshotFileError),
    #[error("{} does not exist", .0.display())]
    NoState(PathBuf),
}

impl Trial {
    /// Checks the library and returns the result as one sentence.
    ///
    /// # Errors
    /// The library would not serve.
    pub(crate) async fn run(self, config: &Path) -> Result<String, TrialError> {
        self.check(&Workplace::new(config)?).await
    }

    async fn check(&self, workplace: &Workplace) -> Result<String, TrialError> {
        let config = &workplace.config;
        let unread = |source| TrialError::Read { path: self.library.clone(), source };
        let library = self.library.canonicalize().map_err(unread)?;
        let state = match &self.with_state {
            Some(path) => {
                let state = SnapshotFile::read(path)?;
                Some(state.ok_or_else(|| TrialError::NoState(path.clone()))?.snapshot)
            }
            None => None,
        };
        workplace.prepare()?;
        let name = watch::plugin_name(&library).unwrap_or("library");
        let installed = watch::library(&config.server.folders.plugin_dir, name);
        // Who may write it, and its content, matter where the host loads it.
        let is_installed = installed.canonicalize().is_ok_and(|installed| installed == library);
        let pinned = config.plugins.get(name).filter(|_| is_installed);
        let checks = StagingChecks {
            check_owner: is_installed && config.server.reload.check_owner,
            sha256: pinned.map_or_else(Vec::new, |plugin| plugin.sha256.clone()),
        };
        let origin = self.library.parent().unwrap_or(Path::new("/"));
        let staged = staging::stage(&library, origin, name, &checks)?;
        let mut limits = config.server.reload.handover.clone();
        if let Some(limit) = self.timeout.map(Duration::from_secs) {
            (limits.preflight, limits.start, limits.restore) = (limit, limit, limit);
        }
        let (settings, with_state) = (self.settings.clone(), state.is_some());
        let candidate = Candidate { resource: String::new(), settings, state };
        preflight::run(&staged.path, &limits, vec![candidate]).await?;
        let state = if with_state { " and takes over that state" } else { "" };
        Ok(format!("{}: fine: it starts{state}", library.display()))
    }
}
