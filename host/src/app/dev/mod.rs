//! `plugsocket dev`: serves the plugin of the current folder, and each change of its sources.
//!
//! The host runs in this process, so that one signal ends both, and loads what it would load
//! elsewhere: a library in `plugin_dir`. A build is put there by rename, and the control socket
//! reports what became of it.

mod build;
mod sources;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use self::build::{BuildError, Project};
use self::sources::Sources;
use super::cli::print_line;
use super::{AppError, run};
use crate::config::{Config, ConfigError, Overrides};
use crate::error::{chain, counted};
use crate::fs::blocking::run_blocking;
use crate::fs::owner_only;
use crate::ops::control::client::{HostAddress, ask};
use crate::ops::control::protocol::{AnswerLine, ControlAnswer, ControlRequest, ResourceReport};
use crate::ops::systemd::Inherited;
use crate::plugin::watch;

/// The arguments of `dev`.
#[derive(Clone, Debug, Args)]
pub(super) struct DevArguments {
    /// Arguments for `cargo build`, such as --release, or for `make`.
    #[arg(last = true, value_name = "ARGUMENTS")]
    build: Vec<OsString>,
}

/// Why `dev` does not start, or ends by itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevError {
    #[error(
        "{} does not exist; change to the folder of a plugin, as `plugsocket plugin new NAME` creates it, or name its configuration with --config",
        .0.display()
    )]
    NoConfig(PathBuf),
    #[error(
        "{} has no Cargo.toml and no Makefile; change to the folder of a plugin, as `plugsocket plugin new NAME` creates it",
        .0.display()
    )]
    NoProject(PathBuf),
    #[error("cannot read the current folder")]
    Folder(#[source] io::Error),
    #[error("cannot install signal handlers")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Config(ConfigError),
    #[error(transparent)]
    App(#[from] AppError),
}

/// What `dev` works with.
pub(super) struct Dev {
    /// The configuration file.
    pub(super) file: PathBuf,
    pub(super) overrides: Overrides,
    pub(super) host: HostAddress,
    pub(super) arguments: DevArguments,
}

impl Dev {
    /// Builds, serves, and replaces the library after each change, until a signal ends the host.
    ///
    /// # Errors
    /// The folder is not that of a plugin, or the host cannot start.
    pub(super) async fn run(self, inherited: Inherited) -> Result<(), DevError> {
        let config = Config::load(&self.file).map_err(|error| match error {
            ConfigError::Missing { path } => DevError::NoConfig(path),
            error => DevError::Config(error),
        })?;
        let folder = std::env::current_dir().map_err(DevError::Folder)?;
        let project = Project::at(&folder).ok_or(DevError::NoProject(folder))?;
        let mut sources = Sources::watch(&project);
        let plugin_dir = config.server.folders.plugin_dir;
        let session = Session { project, plugin_dir, file: self.file.clone(), host: self.host };
        let arguments = self.arguments.build;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(DevError::Signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(DevError::Signals)?;
        tokio::select! {
            () = session.first_build(&mut sources, &arguments) => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
        tokio::select! {
            served = run(&self.file, self.overrides, inherited) => served.map_err(Into::into),
            never = session.serve_changes(&mut sources, &arguments) => match never {},
        }
    }
}

/// The plugin that is being developed, and where its libraries go.
struct Session {
    project: Project,
    plugin_dir: PathBuf,
    file: PathBuf,
    host: HostAddress,
}

/// The libraries that a build made and the configuration maps, and how long it took.
struct Built {
    libraries: Vec<Library>,
    took: Duration,
}

struct Library {
    plugin: String,
    path: PathBuf,
}

impl Session {
    /// Builds until a library is in the plugin folder.
    async fn first_build(&self, sources: &mut Sources, arguments: &[OsString]) {
        loop {
            let built = self.build(sources, arguments).await;
            let libraries = built.iter().flat_map(|built| &built.libraries);
            let mut is_there = false;
            for library in libraries {
                is_there |= self.install(library).await.is_some();
            }
            if is_there {
                return;
            }
            print_line("dev: waiting for a change of the sources");
            sources.changed().await;
        }
    }

    async fn serve_changes(&self, sources: &mut Sources, arguments: &[OsString]) -> Infallible {
        while self.ask(ControlRequest::Status { metrics: false }).await.is_none() {
            sleep(START_CHECK).await;
        }
        let folder = self.project.folder.display();
        print_line(&format!("dev: serves each change of the sources in {folder}; Ctrl-C ends"));
        loop {
            sources.changed().await;
            let Some(Built { libraries, took }) = self.build(sources, arguments).await else {
                print_line("dev: not built; the running generation keeps serving");
                continue;
            };
            let built = Instant::now();
            for library in &libraries {
                match self.install(library).await {
                    Some(Installed::Changed) => {
                        let served = self.reload(&library.plugin).await;
                        let [after, took] = [built.elapsed(), took].map(|time| time.as_secs_f64());
                        let times = format!("{after:.2} s after a build of {took:.2} s");
                        print_line(&format!("dev: {served}; {times}"));
                    }
                    Some(Installed::Unchanged) => {
                        print_line("dev: the build made the same library as before");
                    }
                    None => {}
                }
            }
        }
    }

    /// Builds; `None` if that failed, which is printed.
    async fn build(&self, sources: &mut Sources, arguments: &[OsString]) -> Option<Built> {
        sources.mark_built();
        let begun = Instant::now();
        let libraries = match self.project.build(arguments).await {
            Ok(libraries) => libraries,
            // The compiler has printed why.
            Err(BuildError::Failed) => return None,
            Err(error) => {
                print_line(&format!("dev: {}", chain(&error)));
                return None;
            }
        };
        let took = begun.elapsed();
        let mapped = self.mapped(libraries);
        (!mapped.is_empty()).then_some(Built { libraries: mapped, took })
    }

    /// Returns those libraries that serve a resource; says so if there are none.
    fn mapped(&self, libraries: Vec<PathBuf>) -> Vec<Library> {
        let config = match Config::load(&self.file) {
            Ok(config) => config,
            Err(error) => {
                print_line(&format!("dev: {error}"));
                return Vec::new();
            }
        };
        let plugin = |path: PathBuf| {
            let plugin = watch::plugin_name(&path)?.to_owned();
            Some(Library { plugin, path })
        };
        let (mapped, others): (Vec<_>, Vec<_>) =
            libraries.into_iter().filter_map(plugin).partition(|it| config.maps(&it.plugin));
        if mapped.is_empty() {
            let file = self.file.display();
            print_line(&match others.first() {
                Some(Library { plugin, .. }) => format!(
                    "dev: {file} maps no resource to the plugin {plugin}; add [resources.\"/{plugin}\"] and plugin = \"{plugin}\""
                ),
                None => "dev: the build made no library libNAME.so; a crate needs crate-type = [\"cdylib\"]".to_owned(),
            });
        }
        mapped
    }

    /// Puts a library into the plugin folder by rename; `None` if that failed, which is printed.
    async fn install(&self, library: &Library) -> Option<Installed> {
        let (from, folder) = (library.path.clone(), self.plugin_dir.clone());
        let to = watch::library(&folder, &library.plugin);
        let shown = to.display().to_string();
        match run_blocking(move || install(&from, &folder, &to)).await.flatten() {
            Ok(installed) => Some(installed),
            Err(error) => {
                print_line(&format!("dev: cannot copy the library to {shown}: {error}"));
                None
            }
        }
    }

    /// Makes the host load the library now, and returns what became of it.
    async fn reload(&self, plugin: &str) -> String {
        // Changed: the host may have found the file already.
        let request = ControlRequest::PluginReload { plugin: plugin.to_owned(), changed: true };
        let answer = self.ask(request).await;
        let done = match answer {
            Some(ControlAnswer::Done(text)) => text,
            Some(ControlAnswer::Refused(text)) => return text,
            _ => return "the host did not answer on its control socket; see the log".to_owned(),
        };
        match self.ask(ControlRequest::Status { metrics: false }).await {
            Some(ControlAnswer::Status(status)) => {
                let of_plugin = |resource: &&ResourceReport| resource.plugin == plugin;
                let handovers = status.resources.iter().filter(of_plugin).map(handover);
                format!("{done}: {}", handovers.collect::<Vec<_>>().join("; "))
            }
            _ => done,
        }
    }

    async fn ask(&self, request: ControlRequest) -> Option<ControlAnswer> {
        let host = self.host.clone();
        let answer = run_blocking(move || ask(&host, &request)).await.ok()?.ok();
        answer.map(|AnswerLine { answer, .. }| answer)
    }
}

/// How often to look whether the host has started.
const START_CHECK: Duration = Duration::from_millis(20);

fn handover(resource: &ResourceReport) -> String {
    let bytes = counted(usize::try_from(resource.last_state_bytes).unwrap_or(usize::MAX), "byte");
    format!("pause {} µs, {bytes} of state", resource.last_pause_micros)
}

/// What [`install`] did.
enum Installed {
    Changed,
    Unchanged,
}

fn install(from: &Path, folder: &Path, to: &Path) -> io::Result<Installed> {
    owner_only::folder(folder)?;
    // A build folder may itself be the plugin folder.
    if to.canonicalize().ok() == Some(from.canonicalize()?) {
        return Ok(Installed::Changed);
    }
    let content = std::fs::read(from)?;
    if std::fs::read(to).is_ok_and(|present| present == content) {
        return Ok(Installed::Unchanged);
    }
    // Not synced to disk: a build can be made again.
    let temporary = to.with_extension("next");
    owner_only::file(&temporary)?.write_all(&content)?;
    std::fs::rename(&temporary, to).map(|()| Installed::Changed)
}
