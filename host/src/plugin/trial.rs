//! `plugsocket plugin check`: checks in a child process, without a host, whether a library would
//! serve.
//!
//! The child opens the library as the host would, starts an instance with a configuration, restores
//! a snapshot if one is given, and ends. Whatever the library does affects the child only.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::dylib::{Generation, LoadError};
use super::preflight::{self, PreflightError};
use super::snapshot_file::{SnapshotFile, SnapshotFileError};
use super::staging::{self, ElfProblem};
use super::{Failure, Instance};
use crate::config::LaneKind;
use crate::fs::read;
use crate::routing::resource::{Outage, Resource, Service, ServiceState};
use crate::routing::router::Router;

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
    /// Time limit in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
}

/// Why a library would not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Elf(#[from] ElfProblem),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    State(#[from] SnapshotFileError),
    #[error("{} does not exist", .0.display())]
    NoState(PathBuf),
    #[error("it did not start: {0}")]
    Start(String),
    #[error("it does not take over the state of {bytes} bytes, version {version}: {text}")]
    Restore { bytes: usize, version: u32, text: String },
}

impl Trial {
    /// Runs the child and returns its result as one sentence.
    ///
    /// # Errors
    /// The library would not serve.
    pub(crate) async fn run(mut self) -> Result<String, TrialError> {
        let path = self.library.clone();
        // The linker searches other folders for a name without a slash.
        let unread = |source| TrialError::Read { path: path.clone(), source };
        self.library = path.canonicalize().map_err(unread)?;
        let bytes = read::read(&self.library, u64::MAX).map_err(unread)?;
        staging::check_elf(&bytes)?;
        let mut arguments = vec!["--settings".into(), self.settings.clone().into()];
        if let Some(state) = &self.with_state {
            arguments.extend(["--with-state".into(), state.clone().into_os_string()]);
        }
        preflight::run(&self.library, &arguments, Duration::from_secs(self.timeout)).await?;
        let state = if self.with_state.is_some() { " and takes over that state" } else { "" };
        Ok(format!("{}: fine: it starts{state}", self.library.display()))
    }

    /// Checks the library; called in the child.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn check(&self) -> Result<(), TrialError> {
        let read = |path: &PathBuf| {
            SnapshotFile::read(path)?.ok_or_else(|| TrialError::NoState(path.clone()))
        };
        let state = self.with_state.as_ref().map(read).transpose()?;
        let generation = Arc::new(Generation::open("trial", 0, &self.library)?);
        let service = Service {
            dialog: true,
            subprotocols: Vec::new(),
            lane: LaneKind::Thread,
            state: ServiceState::Unavailable(Outage::of_plugin("trial")),
        };
        let resource = Arc::new(Resource::new("/trial".to_owned(), service));
        let router = Arc::new(Router::new(Arc::default(), Arc::default()));
        let started = generation.start(resource, router, &self.settings);
        let mut instance = started.map_err(|failure| TrialError::Start(failure.into_text()))?;
        let Some(SnapshotFile { snapshot, .. }) = state else { return Ok(()) };
        let (bytes, version) = (snapshot.bytes.len(), snapshot.version);
        let refused =
            |failure: Failure| TrialError::Restore { bytes, version, text: failure.into_text() };
        instance.restore(Some(&snapshot)).map_err(refused)
    }
}
