//! Decides which configuration and which libraries are in effect. Owns the state of all plugins.
//! Does not know sockets or how a connection is served.
//!
//! Changes arrive in one queue and are applied one after the other. Everything that can fail (read,
//! copy, check, open, start) is done before anything that serves is changed; a failure changes
//! nothing and logs one line.

mod apply_config;
mod change_config;
mod commands;
mod deploy;
mod load;
pub(crate) mod prediction;
mod preflight;
mod probation;
mod restart;
mod rollback;
pub(crate) mod snapshots;
pub(crate) mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plugsocket_plugin::RetireReason;
use tokio::sync::{mpsc, oneshot, watch as watch_channel};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use self::commands::CommandResult;
pub(crate) use self::commands::OperatorCommand;
use self::deploy::unserved;
use self::load::{Content, Purpose, Refusal, log_available};
use self::probation::Probation;
use self::restart::{InitialState, RestartState};
use crate::config::Config;
use crate::error::chain;
use crate::fs::stamp::FileStamp;
use crate::hub::Hub;
use crate::hub::status::PluginStatus;
use crate::plugin::lane::Item;
use crate::plugin::lane::handover::Succession;
use crate::plugin::lane::health::LaneHealth;
use crate::plugin::{Retirement, staging, watch};
use crate::routing::resource::ServiceState;
use crate::routing::resources::Resources;
use crate::routing::router::Router;

/// A possible change.
#[derive(Debug)]
pub(crate) enum Change {
    /// A watched file has changed and is quiet.
    File(PathBuf),
    /// A reload of the configuration is requested.
    Configuration,
    /// The lane of a resource exceeds `callback_limit` in this call.
    Stuck { path: String, health: Arc<LaneHealth>, call: u64 },
    /// An application exceeded `max_panics` in a minute.
    Panicking(String),
    /// A liveness probe.
    Inquiry(oneshot::Sender<()>),
    /// A command of an operator, who waits for the answer.
    Command(OperatorCommand, oneshot::Sender<CommandResult>),
}

/// Progress of a reload of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReloadPhase<'a> {
    Begun,
    /// With a status line.
    Finished(&'a str),
}

/// The supervisor.
pub(crate) struct Supervisor {
    hub: Arc<Hub>,
    on_reload: fn(&Hub, ReloadPhase<'_>),
    router: Arc<Router>,
    plugins: BTreeMap<String, PluginState>,
    /// Whether nothing is going to be served.
    is_check: bool,
    /// The file that was last refused, and why.
    refused_configuration: Option<(Option<FileStamp>, String)>,
    /// Resources with recent failures.
    restarts: BTreeMap<String, RestartState>,
    /// Plugins whose active generation is on probation.
    probations: BTreeMap<String, Probation>,
    /// Unmapped libraries in the folder, as they were when last reported.
    available: BTreeMap<PathBuf, FileStamp>,
    /// Those of them that are not reported yet, and when they will be.
    unreported: (BTreeSet<PathBuf>, Option<Instant>),
}

/// State of one plugin.
#[derive(Default)]
struct PluginState {
    status: PluginStatus,
    /// The file that was last loaded or refused; it is not tried again.
    seen: Option<FileStamp>,
    /// The highest number of a generation that was active.
    last_number: u64,
    /// Resources whose instance failed in the preflight of the first library.
    unfit: BTreeMap<String, Refusal>,
    is_archive_read: bool,
}

impl Supervisor {
    pub(crate) fn new(
        hub: Arc<Hub>,
        router: Arc<Router>,
        on_reload: fn(&Hub, ReloadPhase<'_>),
    ) -> Self {
        Self {
            hub,
            on_reload,
            router,
            plugins: BTreeMap::new(),
            is_check: false,
            refused_configuration: None,
            restarts: BTreeMap::new(),
            probations: BTreeMap::new(),
            available: BTreeMap::new(),
            unreported: (BTreeSet::new(), None),
        }
    }

    /// Makes [`start`](Self::start) a check: it logs no line about serving.
    pub(crate) fn only_check(&mut self) {
        self.is_check = true;
    }

    /// Applies the configuration at start. A plugin that fails leaves its resources unavailable
    /// until its library changes. Returns the failures.
    ///
    /// # Errors
    /// The staging folder cannot be used.
    pub(crate) async fn start(&mut self) -> std::io::Result<Vec<String>> {
        let config = self.hub.config.load_full();
        staging::prepare(&config.server.folders.staging_dir)?;
        let mut failures = Vec::new();
        let names: BTreeSet<&str> = config.resources.values().map(|r| &*r.plugin).collect();
        for name in names {
            if let Err(refusal) = self.load_new(name, &config).await {
                failures.push(self.report(name, &refusal));
            }
        }
        let resources: Resources =
            config.resources.iter().map(|(path, s)| (path.clone(), unserved(path, s))).collect();
        // Before the first is served, so that a stop during start finds all lanes.
        self.hub.resources.store(Arc::new(resources.clone()));
        for (path, settings) in &config.resources {
            let resource = resources[path].clone();
            let Some(generation) = self.active(&settings.plugin) else { continue };
            let started = match self.plugin(&settings.plugin).unfit.remove(path) {
                Some(refusal) => Err(refusal),
                None => self.start_with_state(&generation, &resource, settings).await,
            };
            match started {
                Ok(candidate) => {
                    if let Err(error) = self.serve_first(&resource, settings, candidate) {
                        self.not_served(path, &error, InitialState::Written);
                        failures.push(chain(&error));
                    }
                }
                Err(refusal) => failures.push(self.report(&settings.plugin, &refusal)),
            }
        }
        for path in watch::libraries(&config.server.folders.plugin_dir) {
            if !self.concerns(&path) {
                self.note_available(path);
            }
        }
        self.report_available();
        self.publish();
        Ok(failures)
    }

    /// Applies changes until the host stops; an unfinished change is then dropped.
    pub(crate) async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        mut stop: watch_channel::Receiver<()>,
    ) {
        tokio::select! {
            () = self.apply_changes(&mut changes) => {}
            _ = stop.changed() => {}
        }
    }

    async fn apply_changes(&mut self, changes: &mut mpsc::Receiver<Change>) {
        // Kept across changes, so that due work is not delayed by many changes.
        let mut next_check = Instant::now() + probation::CHECK_INTERVAL;
        loop {
            let check = (!self.probations.is_empty()).then_some(next_check);
            let due = self.next_restart().into_iter().chain(check).chain(self.unreported.1).min();
            tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.restart_due().await;
                    self.check_probations().await;
                    if self.unreported.1.is_some_and(|due| due <= Instant::now()) {
                        self.report_available();
                    }
                    next_check = Instant::now() + probation::CHECK_INTERVAL;
                }
                change = changes.recv() => match change {
                    Some(change) => self.apply_change(change).await,
                    None => return,
                },
            }
        }
    }

    async fn apply_change(&mut self, change: Change) {
        match change {
            Change::Configuration => drop(self.configuration_changed().await),
            Change::File(path) if path == self.hub.config.load().path => {
                drop(self.configuration_changed().await);
            }
            Change::File(path) if !self.concerns(&path) => {
                // There may be thousands of these, and they change no status.
                return self.note_available(path);
            }
            Change::File(path) => self.library_changed(&path).await,
            Change::Stuck { path, health, call } => self.stuck(&path, &health, call).await,
            Change::Panicking(path) => self.panicking(&path).await,
            // Fails only if the asking task has ended.
            Change::Inquiry(answer) => return answer.send(()).unwrap_or_default(),
            Change::Command(command, done) => {
                let outcome = self.execute(command).await;
                self.publish();
                // Fails only if the operator has left.
                drop(done.send(outcome));
            }
        }
        self.publish();
    }

    /// Returns whether a file is the library of a mapped or running plugin.
    fn concerns(&self, path: &Path) -> bool {
        watch::plugin_name(path)
            .is_some_and(|name| self.active(name).is_some() || self.hub.config.load().maps(name))
    }

    /// Notes an unmapped library, to report it together with those that arrive at the same time.
    fn note_available(&mut self, path: PathBuf) {
        let stamp = FileStamp::of(&path).filter(|_| staging::may_be_plugin(&path));
        let Some(stamp) = stamp else {
            self.available.remove(&path);
            self.unreported.0.remove(&path);
            return;
        };
        if self.available.insert(path.clone(), stamp) != Some(stamp) {
            self.unreported.0.insert(path);
            self.unreported.1.get_or_insert_with(|| Instant::now() + GATHER_AVAILABLE);
        }
    }

    fn report_available(&mut self) {
        let (paths, _) = std::mem::take(&mut self.unreported);
        log_available(&paths);
    }

    async fn library_changed(&mut self, path: &Path) {
        let config = self.hub.config.load_full();
        let Some(name) = watch::plugin_name(path) else { return };
        let stamp = FileStamp::of(path);
        let plugin = self.plugin(name);
        // A disabled plugin is loaded when it is enabled.
        if plugin.seen == stamp || plugin.status.is_disabled {
            return;
        }
        if stamp.is_some() && config.maps(name) {
            return self.update(name, &config).await;
        }
        plugin.seen = stamp;
        if stamp.is_some() {
            log_available(&BTreeSet::from([path.to_owned()]));
        } else if let Some(active) = &plugin.status.active {
            let generation = active.generation.number;
            warn!(
                plugin = name,
                generation, "library deleted; the loaded generation keeps serving"
            );
        }
    }

    /// Loads the present library, if its content has changed, into the resources of its plugin.
    async fn update(&mut self, name: &str, config: &Config) {
        match self.load(name, Content::Other, Purpose::Update, config).await {
            Ok(Some(loaded)) => {
                drop(self.replace(name, loaded, config, Succession::Update).await);
            }
            Ok(None) => debug!(plugin = name, "library touched; content unchanged"),
            Err(refusal) => drop(self.report(name, &refusal)),
        }
    }

    fn plugin(&mut self, name: &str) -> &mut PluginState {
        self.plugins.entry(name.to_owned()).or_default()
    }

    /// Publishes the status of all plugins that run or are mapped. Called after each change, so
    /// that a reader never waits for the supervisor.
    fn publish(&self) {
        let config = self.hub.config.load();
        let known = self.plugins.iter();
        let known = known.filter(|(name, it)| it.status.active.is_some() || config.maps(name));
        let statuses = known.map(|(name, plugin)| {
            let is_on_probation = self.probations.contains_key(name);
            (name.clone(), PluginStatus { is_on_probation, ..plugin.status.clone() })
        });
        self.hub.plugin_statuses.store(Arc::new(statuses.collect()));
    }
}

/// How long unmapped libraries are gathered before they are reported.
const GATHER_AVAILABLE: std::time::Duration = std::time::Duration::from_millis(300);

/// Stops all lanes, each after emptying its inbox; their instances have `limit` to finish. A free function, because it must work after the
/// supervisor has ended.
pub(crate) async fn stop_lanes(hub: &Hub, limit: std::time::Duration) {
    let retirement = Retirement { reason: RetireReason::Stopping, limit };
    let resources = hub.resources.load_full();
    let mut ended = Vec::new();
    for resource in resources.values() {
        if let ServiceState::Serving(inbox) = &resource.service().state {
            let (done, end) = oneshot::channel();
            if inbox.send(Item::Stop(retirement, done)).await.is_ok() {
                ended.push(end);
            }
        }
    }
    for end in ended {
        // Fails only for a lane that has ended.
        if let Ok(gone) = end.await {
            drop(gone.await);
        }
    }
}
