//! Who decides what runs: brings configuration and libraries into effect, at the start and while connections are open.
//!
//! The single owner of the plugins' state. Changes come in one queue and are dealt with one after the other, so a reload
//! during a reload waits. Whatever can fail (read, copy, check, open, start) is done before anything that serves is touched, and a
//! failure leaves everything as it was, with one line that says why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::config::{Config, LaneKind, Resource as ResourceConfig};
use crate::outbox::CloseReason;
use crate::plugin::lane::{self, Inbox, Item, Succession, Swap, SwapError};
use crate::plugin::loader::{self, DylibInstance, Generation, LoadError};
use crate::plugin::preflight::{self, PreflightError};
use crate::plugin::stage::{self, FileStamp, Hash, StageError, Staged};
use crate::plugin::{Instance, watch};
use crate::resource::{Resource, Resources, Service, ServiceState};
use crate::router::Router;
use crate::server::Hub;

/// Something that may have changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// A file is quiet again.
    File(PathBuf),
    /// The operator asks to read the configuration again.
    Configuration,
}

pub(crate) struct Supervisor {
    hub: Arc<Hub>,
    router: Arc<Router>,
    /// Where this process keeps its copies of the libraries.
    staging: PathBuf,
    plugins: BTreeMap<String, Plugin>,
}

/// A plugin by name.
#[derive(Default)]
struct Plugin {
    active: Option<Active>,
    /// The file that was last looked at, taken or refused: it is not tried again.
    seen: Option<FileStamp>,
    /// Counts every library staged, so that no path is ever used twice.
    last_number: u64,
}

struct Active {
    generation: Arc<Generation>,
    hash: Hash,
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

/// An instance that waits to take over a resource.
struct Candidate {
    path: String,
    instance: DylibInstance,
    lane: LaneKind,
}

impl Supervisor {
    pub(crate) fn new(hub: Arc<Hub>, router: Arc<Router>) -> Self {
        Self { hub, router, staging: PathBuf::new(), plugins: BTreeMap::new() }
    }

    /// Brings the configuration into effect for the first time. A plugin that fails leaves its resources unavailable until a
    /// better library comes; the others serve. Returns what failed.
    ///
    /// # Errors
    /// The staging folder cannot be used.
    pub(crate) async fn start(&mut self) -> std::io::Result<Vec<String>> {
        let config = self.hub.config.load_full();
        self.staging = stage::prepare(&config.server.staging_dir)?;
        let mut failures = Vec::new();
        let names: BTreeSet<&str> = config.resources.values().map(|r| &*r.plugin).collect();
        for name in names {
            if let Err(refusal) = self.load_new(name).await {
                failures.push(self.report(name, &refusal));
            }
        }
        let mut resources = Resources::new();
        for (path, settings) in &config.resources {
            let state = ServiceState::Unavailable(unavailable(&settings.plugin));
            let resource = Arc::new(Resource::new(path.clone(), service(settings, state)));
            resources.insert(path.clone(), resource.clone());
            let Some(generation) = self.active(&settings.plugin) else { continue };
            match self.start_instance(&generation, &resource, settings).await {
                Ok(candidate) => self.serve_first(&resource, settings, candidate),
                Err(refusal) => failures.push(self.report(&settings.plugin, &refusal)),
            }
        }
        self.hub.resources.store(Arc::new(resources));
        for path in watch::libraries(&config.server.plugin_dir) {
            self.report_if_available(&path, &config);
        }
        Ok(failures)
    }

    /// Deals with changes until nobody sends any more.
    pub(crate) async fn run(mut self, mut changes: mpsc::Receiver<Change>) -> Self {
        while let Some(change) = changes.recv().await {
            match change {
                Change::Configuration => self.configuration_changed().await,
                Change::File(path) if path == self.hub.config.load().path => {
                    self.configuration_changed().await;
                }
                Change::File(path) => self.library_changed(&path).await,
            }
        }
        self
    }

    /// Ends all lanes, each after what is in its inbox.
    pub(crate) async fn stop(self) {
        let resources = self.hub.resources.load_full();
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
            drop(end.await);
        }
        drop(std::fs::remove_dir_all(self.staging));
    }

    async fn library_changed(&mut self, path: &Path) {
        let config = self.hub.config.load_full();
        let Some(name) = watch::plugin_name(path).map(ToOwned::to_owned) else { return };
        let is_mapped = config.resources.values().any(|r| r.plugin == name);
        let stamp = FileStamp::of(path);
        let plugin = self.plugins.entry(name.clone()).or_default();
        if plugin.seen == stamp {
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
        if !is_mapped {
            plugin.seen = stamp;
            self.report_if_available(path, &config);
            return;
        }
        match self.load(&name).await {
            Ok(Some(loaded)) => self.replace(&name, loaded, &config).await,
            Ok(None) => debug!(plugin = name, "library touched, content unchanged"),
            Err(refusal) => drop(self.report(&name, &refusal)),
        }
    }

    /// Lets a new generation take over every resource that its plugin serves.
    async fn replace(&mut self, name: &str, loaded: Active, config: &Config) {
        let served = config.resources.iter().filter(|(_, settings)| settings.plugin == name);
        let resources = self.hub.resources.load_full();
        let mut candidates = Vec::new();
        for (path, settings) in served {
            let Some(resource) = resources.get(path) else { continue };
            match self.start_instance(&loaded.generation, resource, settings).await {
                Ok(candidate) => candidates.push(candidate),
                Err(refusal) => return drop(self.report(name, &refusal)),
            }
        }
        let mut taken = 0;
        for candidate in candidates {
            let path = candidate.path.clone();
            let (Some(resource), Some(settings)) =
                (resources.get(&path), config.resources.get(&path))
            else {
                continue;
            };
            match self.take_over(resource, settings, candidate, Succession::Heir).await {
                Ok(()) => taken += 1,
                Err(error) => error!(
                    plugin = name,
                    resource = path,
                    error = chain(&error),
                    "reload refused; the running generation goes on"
                ),
            }
        }
        if taken > 0 {
            self.activate(name, loaded);
        }
    }

    async fn configuration_changed(&mut self) {
        let old = self.hub.config.load_full();
        let mut new = match spawn_blocking({
            let path = old.path.clone();
            move || Config::load(path)
        })
        .await
        {
            Ok(Ok(new)) => new,
            Ok(Err(error)) => {
                for line in error.to_string().lines() {
                    error!("{line}");
                }
                return error!("configuration not applied; the running one goes on");
            }
            Err(error) => return error!(%error, "configuration not read"),
        };
        let diff = old.diff(&new);
        if !diff.restart.is_empty() {
            warn!(
                keys = diff.restart.join(", "),
                "these keys of [server] need a restart; the rest is applied"
            );
            old.keep_until_restart(&mut new);
        }
        if diff.is_empty() {
            return debug!("configuration unchanged");
        }
        match self.prepare(&old, &new).await {
            Ok(candidates) => self.apply(&old, new, candidates).await,
            Err(line) => {
                error!(reason = line, "configuration not applied; the running one goes on")
            }
        }
    }

    /// Loads and starts all that a configuration needs and that does not run yet.
    async fn prepare(
        &mut self,
        old: &Config,
        new: &Config,
    ) -> Result<BTreeMap<String, Candidate>, String> {
        let diff = old.diff(new);
        let changed = diff.added.iter().chain(&diff.remapped).chain(&diff.reconfigured);
        let running = self.hub.resources.load_full();
        let mut candidates = BTreeMap::new();
        for path in changed {
            let settings = &new.resources[path];
            if self.active(&settings.plugin).is_none() {
                self.load_new(&settings.plugin)
                    .await
                    .map_err(|r| self.describe(&settings.plugin, &r))?;
            }
            let Some(generation) = self.active(&settings.plugin) else { continue };
            let resource = running.get(path).cloned().unwrap_or_else(|| {
                let state = ServiceState::Unavailable(unavailable(&settings.plugin));
                Arc::new(Resource::new(path.clone(), service(settings, state)))
            });
            let candidate = self.start_instance(&generation, &resource, settings).await;
            candidates
                .insert(path.clone(), candidate.map_err(|r| self.describe(&settings.plugin, &r))?);
        }
        Ok(candidates)
    }

    async fn apply(
        &self,
        old: &Config,
        mut new: Config,
        mut candidates: BTreeMap<String, Candidate>,
    ) {
        let diff = old.diff(&new);
        let running = self.hub.resources.load_full();
        let mut resources = Resources::new();
        for (path, settings) in &mut new.resources {
            let candidate = candidates.remove(path);
            let resource = match (running.get(path), candidate) {
                (Some(resource), None) => {
                    self.reshape(resource, settings).await;
                    resource.clone()
                }
                (Some(resource), Some(candidate)) => {
                    let former = &old.resources[path];
                    let succession = if former.plugin == settings.plugin {
                        Succession::Heir
                    } else {
                        Succession::Stranger
                    };
                    if let Err(error) =
                        self.take_over(resource, settings, candidate, succession).await
                    {
                        error!(
                            resource = path,
                            error = chain(&error),
                            "resource keeps its former configuration"
                        );
                        *settings = former.clone();
                    }
                    resource.clone()
                }
                (None, candidate) => {
                    let state = ServiceState::Unavailable(unavailable(&settings.plugin));
                    let resource = candidate.as_ref().map_or_else(
                        || Arc::new(Resource::new(path.clone(), service(settings, state))),
                        |candidate| candidate.instance.resource(),
                    );
                    if let Some(candidate) = candidate {
                        self.serve_first(&resource, settings, candidate);
                    }
                    resource
                }
            };
            resources.insert(path.clone(), resource);
        }
        self.hub.resources.store(Arc::new(resources));
        self.hub.config.store(Arc::new(new));
        for path in &diff.removed {
            if let Some(resource) = running.get(path) {
                remove(resource).await;
            }
        }
        info!(
            added = ?diff.added, removed = ?diff.removed, remapped = ?diff.remapped,
            reconfigured = ?diff.reconfigured, reshaped = ?diff.reshaped, server = ?diff.server,
            "configuration applied"
        );
    }

    /// For a resource whose application stays: dialog, subprotocols, lane.
    async fn reshape(&self, resource: &Arc<Resource>, settings: &ResourceConfig) {
        let now = resource.service();
        let ServiceState::Serving(inbox) = &now.state else {
            return resource.set_service(service(settings, now.state.clone()));
        };
        let never_blocks = self.active(&settings.plugin).is_some_and(|g| g.facts.never_blocks);
        let kind = lane_kind(settings, never_blocks);
        if kind == now.lane {
            return resource
                .set_service(Service { lane: kind, ..service(settings, now.state.clone()) });
        }
        // What is in the old inbox is done first; what comes waits in the new one.
        let (next, standstill) = lane::open(self.hub.config.load().server.limits.inbox_messages);
        let state = ServiceState::Serving(next);
        resource.set_service(Service { lane: kind, ..service(settings, state) });
        let (heir, instance) = oneshot::channel();
        let resource = resource.clone();
        let inbox = inbox.clone();
        tokio::runtime::Handle::current().spawn(async move {
            drop(inbox.send(Item::Yield(heir)).await);
            if let Ok(instance) = instance.await
                && let Err(error) = standstill.start(resource, kind, instance)
            {
                error!(%error, "no thread for a lane");
            }
        });
    }

    /// The first instance of a resource.
    fn serve_first(
        &self,
        resource: &Arc<Resource>,
        settings: &ResourceConfig,
        candidate: Candidate,
    ) {
        let Candidate { mut instance, lane: kind, .. } = candidate;
        let (inbox, standstill) = lane::open(self.hub.config.load().server.limits.inbox_messages);
        // There is nothing to restore: this only lets it speak.
        drop(instance.restore(None));
        let (plugin, generation) = (settings.plugin.as_str(), instance.generation());
        match standstill.start(resource.clone(), kind, Box::new(instance)) {
            Ok(()) => {
                info!(resource = resource.path, plugin, generation, lane = ?kind, "resource is served");
                let state = ServiceState::Serving(inbox);
                resource.set_service(Service { lane: kind, ..service(settings, state) });
            }
            Err(error) => error!(resource = resource.path, %error, "no thread for a lane"),
        }
    }

    /// Puts a candidate in the place of the running instance, between two events.
    async fn take_over(
        &self,
        resource: &Arc<Resource>,
        settings: &ResourceConfig,
        candidate: Candidate,
        succession: Succession,
    ) -> Result<(), SwapError> {
        let now = resource.service();
        let ServiceState::Serving(inbox) = &now.state else {
            self.serve_first(resource, settings, candidate);
            return Ok(());
        };
        let generation = candidate.instance.generation();
        let (done, outcome) = oneshot::channel();
        let swap = Swap { next: Box::new(candidate.instance), succession, done };
        let handed = swap_in(inbox, swap, outcome).await?;
        info!(
            resource = resource.path, plugin = settings.plugin, generation, pause = ?handed.pause,
            snapshot_bytes = handed.snapshot_bytes, "resource is served by a new instance"
        );
        self.reshape(resource, settings).await;
        Ok(())
    }

    async fn start_instance(
        &self,
        generation: &Arc<Generation>,
        resource: &Arc<Resource>,
        settings: &ResourceConfig,
    ) -> Result<Candidate, Refusal> {
        let (started, instance) = oneshot::channel();
        let limit = self.hub.config.load().server.reload.start;
        let (path, router) = (resource.path.clone(), self.router.clone());
        let (generation, resource, config) =
            (generation.clone(), resource.clone(), settings.config.clone());
        let lane = lane_kind(settings, generation.facts.never_blocks);
        // A thread of its own, to be left behind if it never comes back. What it makes too late is dropped there.
        std::thread::Builder::new()
            .name(format!("start:{path}"))
            .spawn(move || drop(started.send(generation.start(resource, router, &config))))
            .map_err(Refusal::Host)?;
        match timeout(limit, instance).await {
            Ok(Ok(Ok(instance))) => Ok(Candidate { path, instance, lane }),
            Ok(Ok(Err(failure))) => {
                Err(Refusal::Start { resource: path, text: failure.into_text() })
            }
            Ok(Err(_)) => {
                Err(Refusal::Start { resource: path, text: "its thread ended".to_owned() })
            }
            Err(_) => Err(Refusal::StartHung { resource: path, limit }),
        }
    }

    /// Loads the library of a plugin that does not run yet.
    async fn load_new(&mut self, name: &str) -> Result<(), Refusal> {
        if let Some(loaded) = self.load(name).await? {
            self.activate(name, loaded);
        }
        Ok(())
    }

    /// The library of a plugin as a new generation; None if its content is that of the active one.
    async fn load(&mut self, name: &str) -> Result<Option<Active>, Refusal> {
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

    async fn open(
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

    fn activate(&mut self, name: &str, loaded: Active) {
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

    fn active(&self, name: &str) -> Option<Arc<Generation>> {
        self.plugins.get(name)?.active.as_ref().map(|active| active.generation.clone())
    }

    fn describe(&self, name: &str, refusal: &Refusal) -> String {
        let after = match self.active(name) {
            Some(generation) => format!("; generation {} goes on", generation.number),
            None => String::new(),
        };
        format!("plugin {name} refused: {}{after}", chain(refusal))
    }

    /// One line in the log, and the same as text.
    fn report(&self, name: &str, refusal: &Refusal) -> String {
        let line = self.describe(name, refusal);
        error!("{line}");
        line
    }

    fn report_if_available(&self, path: &Path, config: &Config) {
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

/// Queues a swap and waits for it. A lane that is stuck in a callback does it when that returns.
async fn swap_in(
    inbox: &Inbox,
    swap: Swap,
    outcome: oneshot::Receiver<Result<lane::Handover, SwapError>>,
) -> Result<lane::Handover, SwapError> {
    if inbox.send(Item::Swap(swap)).await.is_err() {
        return Err(SwapError::NoLane);
    }
    outcome.await.unwrap_or(Err(SwapError::NoLane))
}

/// Ends a resource: its connections are told, its lane and instance end.
async fn remove(resource: &Arc<Resource>) {
    let now = resource.service();
    let reason = "this resource was removed";
    let state = ServiceState::Unavailable(reason.to_owned());
    resource.set_service(Service { state, ..(*now).clone() });
    for peer in resource.members() {
        // One that is closing already is as good.
        peer.outbox.close(CloseReason::host(CloseCode::AWAY, reason)).ok();
    }
    if let ServiceState::Serving(inbox) = &now.state {
        let (done, _) = oneshot::channel();
        drop(inbox.send(Item::Stop(done)).await);
    }
}

fn service(settings: &ResourceConfig, state: ServiceState) -> Service {
    Service {
        dialog: settings.dialog,
        subprotocols: settings.subprotocols.clone(),
        lane: lane_kind(settings, false),
        state,
    }
}

fn lane_kind(settings: &ResourceConfig, never_blocks: bool) -> LaneKind {
    settings.lane.unwrap_or(if never_blocks { LaneKind::Shared } else { LaneKind::Thread })
}

/// What a peer reads; the operator's log says more.
fn unavailable(plugin: &str) -> String {
    format!("the application {plugin} is not available now")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn forget(staged: &Path) {
    if let Err(error) = std::fs::remove_file(staged) {
        debug!(file = %staged.display(), %error, "a refused copy stays");
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
