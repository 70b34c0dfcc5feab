//! Who decides what runs: brings configuration and libraries into effect, at the start and while connections are open.
//!
//! The single owner of the plugins' state. Changes come in one queue and are dealt with one after the other, so a reload
//! during a reload waits. Whatever can fail (read, copy, check, open, start) is done before anything that serves is touched, and a
//! failure leaves everything as it was, with one line that says why.

mod apply_config;
mod commands;
mod deploy;
mod load;
mod probation;
mod publish;
mod restart;
mod rollback;
pub(crate) mod snapshots;
pub(crate) mod watchdog;

use crate::error::chain;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch as watch_channel};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use self::commands::CommandResult;
pub(crate) use self::commands::OperatorCommand;
use self::deploy::unserved;
use self::load::{Active, Content};
use self::probation::Probation;
use self::restart::{InitialState, RestartState};
use crate::config::Config;
use crate::fs::stamp::FileStamp;
use crate::hub::Hub;
use crate::plugin::archive::Kept;
use crate::plugin::lane::Item;
use crate::plugin::lane::handover::Succession;
use crate::plugin::lane::health::LaneHealth;
use crate::plugin::{staging, watch};
use crate::routing::resource::{Resources, ServiceState};
use crate::routing::router::Router;

/// Something that may have changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// A file is quiet again.
    File(PathBuf),
    /// The operator asks to read the configuration again.
    Configuration,
    /// The lane of a resource has been in this call past `callback_limit`.
    Stuck { path: String, health: Arc<LaneHealth>, call: u64 },
    /// An application panicked more than `max_panics` times in a minute.
    Panicking(String),
    /// Somebody asks whether the supervisor still answers.
    Inquiry(oneshot::Sender<()>),
    /// An operator orders something, and waits for the answer.
    Order(OperatorCommand, oneshot::Sender<CommandResult>),
}

/// What the service manager is told of a configuration that is read again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReloadPhase<'a> {
    Begun,
    /// With the status line of the outcome.
    Finished(&'a str),
}

pub(crate) struct Supervisor {
    hub: Arc<Hub>,
    on_reload: fn(ReloadPhase<'_>),
    router: Arc<Router>,
    /// Where this process keeps its copies of the libraries.
    staging: PathBuf,
    plugins: BTreeMap<String, PluginState>,
    /// Resources whose applications failed of late.
    troubles: BTreeMap<String, RestartState>,
    /// Plugins whose generation has just begun to serve.
    probations: BTreeMap<String, Probation>,
    /// Libraries that lie in the folder and serve nothing, as they were when that was said.
    available: BTreeMap<PathBuf, FileStamp>,
}

/// A plugin by name.
#[derive(Default)]
struct PluginState {
    active: Option<Active>,
    /// The file that was last looked at, taken or refused: it is not tried again.
    seen: Option<FileStamp>,
    /// Counts every library staged, so that no path is ever used twice.
    last_number: u64,
    /// Why the newest library was not taken.
    refused: Option<String>,
    /// Generations that were replaced.
    retired: u64,
    /// The operator has switched it off.
    is_disabled: bool,
    failed_probations: u64,
    /// What is in its archive, the newest first; None before anybody looked.
    kept: Option<Vec<Kept>>,
}

impl Supervisor {
    pub(crate) fn new(hub: Arc<Hub>, router: Arc<Router>, on_reload: fn(ReloadPhase<'_>)) -> Self {
        Self {
            hub,
            on_reload,
            router,
            staging: PathBuf::new(),
            plugins: BTreeMap::new(),
            troubles: BTreeMap::new(),
            probations: BTreeMap::new(),
            available: BTreeMap::new(),
        }
    }

    /// Brings the configuration into effect for the first time. A plugin that fails leaves its resources unavailable until a
    /// better library comes; the others serve. Returns what failed.
    ///
    /// # Errors
    /// The staging folder cannot be used.
    pub(crate) async fn start(&mut self) -> std::io::Result<Vec<String>> {
        let config = self.hub.config.load_full();
        self.staging = staging::prepare(&config.server.staging_dir)?;
        let mut failures = Vec::new();
        let names: BTreeSet<&str> = config.resources.values().map(|r| &*r.plugin).collect();
        for name in names {
            if let Err(refusal) = self.load_new(name).await {
                failures.push(self.report(name, &refusal));
            }
        }
        let resources: Resources =
            config.resources.iter().map(|(path, s)| (path.clone(), unserved(path, s))).collect();
        // Before the first of them is served, so that those are known that must end if this is not waited for.
        self.hub.resources.store(Arc::new(resources.clone()));
        for (path, settings) in &config.resources {
            let resource = resources[path].clone();
            let Some(generation) = self.active(&settings.plugin) else { continue };
            match self.start_with_state(&generation, &resource, settings).await {
                Ok(candidate) => {
                    if let Err(error) = self.serve_first(&resource, settings, candidate) {
                        self.not_served(path, &error, InitialState::Written);
                        failures.push(chain(&error));
                    }
                }
                Err(refusal) => failures.push(self.report(&settings.plugin, &refusal)),
            }
        }
        for path in watch::libraries(&config.server.plugin_dir) {
            if !self.concerns(&path) {
                self.note_available(path);
            }
        }
        self.publish();
        Ok(failures)
    }

    /// Deals with changes until the host stops. One that is under way then is dropped: it need not be waited for, as what it
    /// would bring would serve nobody.
    pub(crate) async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        mut stop: watch_channel::Receiver<()>,
    ) {
        tokio::select! {
            () = self.deal(&mut changes) => {}
            _ = stop.changed() => {}
        }
    }

    async fn deal(&mut self, changes: &mut mpsc::Receiver<Change>) {
        // Stays while changes come: however many they are, what is due is looked at between two of them.
        let mut look = Instant::now() + probation::LOOK;
        loop {
            let look_due = (!self.probations.is_empty()).then_some(look);
            let due = [self.next_restart(), look_due].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.restart_due().await;
                    self.judge().await;
                    look = Instant::now() + probation::LOOK;
                }
                change = changes.recv() => match change {
                    Some(change) => self.deal_with(change).await,
                    None => return,
                },
            }
        }
    }

    async fn deal_with(&mut self, change: Change) {
        match change {
            Change::Configuration => drop(self.configuration_changed().await),
            Change::File(path) if path == self.hub.config.load().path => {
                drop(self.configuration_changed().await);
            }
            Change::File(path) if !self.concerns(&path) => {
                // Of these there may be thousands at once, and nobody is told anything new.
                return self.note_available(path);
            }
            Change::File(path) => self.library_changed(&path).await,
            Change::Stuck { path, health, call } => self.stuck(&path, &health, call).await,
            Change::Panicking(path) => self.panicking(&path).await,
            // Who asked may have gone. Nothing has changed.
            Change::Inquiry(answer) => return answer.send(()).unwrap_or_default(),
            Change::Order(order, done) => {
                let outcome = self.obey(order).await;
                self.publish();
                // Who asked may have gone.
                drop(done.send(outcome));
            }
        }
        self.publish();
    }

    /// Whether this is the library of a plugin that is mapped, or that runs.
    fn concerns(&self, path: &Path) -> bool {
        watch::plugin_name(path)
            .is_some_and(|name| self.active(name).is_some() || self.hub.config.load().maps(name))
    }

    fn note_available(&mut self, path: PathBuf) {
        let Some(stamp) = FileStamp::of(&path) else {
            self.available.remove(&path);
            return;
        };
        if self.available.get(&path) != Some(&stamp) {
            self.report_if_available(&path, &self.hub.config.load());
            self.available.insert(path, stamp);
        }
    }

    async fn library_changed(&mut self, path: &Path) {
        let config = self.hub.config.load_full();
        let Some(name) = watch::plugin_name(path).map(ToOwned::to_owned) else { return };
        let stamp = FileStamp::of(path);
        let plugin = self.plugins.entry(name.clone()).or_default();
        // One that is disabled is looked at when it is enabled.
        if plugin.seen == stamp || plugin.is_disabled {
            return;
        }
        if stamp.is_none() {
            plugin.seen = None;
            if let Some(active) = &plugin.active {
                let generation = active.generation.number;
                warn!(
                    plugin = name,
                    generation, "library deleted; the generation that is loaded goes on"
                );
            }
            return;
        }
        if config.maps(&name) {
            self.take(&name, &config).await;
        } else {
            plugin.seen = stamp;
            self.report_if_available(path, &config);
        }
    }

    /// What `[plugins.NAME]` says has changed, and so may what it says of the library that lies there.
    async fn try_again(&mut self, name: &str) {
        let config = self.hub.config.load_full();
        if config.maps(name) && !self.is_disabled(name) {
            self.take(name, &config).await;
        }
    }

    async fn take(&mut self, name: &str, config: &Config) {
        match self.load(name, Content::Other).await {
            Ok(Some(loaded)) => {
                drop(self.replace(name, loaded, config, Succession::Update).await);
            }
            Ok(None) => debug!(plugin = name, "library touched, content unchanged"),
            Err(refusal) => drop(self.report(name, &refusal)),
        }
    }
}

/// Ends all lanes, each after what is in its inbox. Not the supervisor's: they end also where that has gone.
pub(crate) async fn stop_lanes(hub: &Hub) {
    let resources = hub.resources.load_full();
    let mut ended = Vec::new();
    for resource in resources.values() {
        if let ServiceState::Serving(inbox) = &resource.service().state {
            let (done, end) = oneshot::channel();
            if inbox.send(Item::Stop(done)).await.is_ok() {
                ended.push(end);
            }
        }
    }
    for end in ended {
        // A lane that is gone already has ended.
        if let Ok(gone) = end.await {
            drop(gone.await);
        }
    }
}
