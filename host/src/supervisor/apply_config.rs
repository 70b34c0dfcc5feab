//! Applies a changed `plugins.toml`: completely or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use plugsocket_plugin::RetireReason;
use tracing::{debug, error, info, warn};

use super::commands::CommandResult;
use super::deploy::{Candidate, is_served, lane_kind, unserved};
use super::load::Refusal;
use super::preflight::Library;
use super::restart::InitialState;
use super::{ReloadPhase, Supervisor};
use crate::auth::{self, Guards};
use crate::config::{Config, ResourceSettings};
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::fs::stamp::FileStamp;
use crate::hub::status::FileState;
use crate::net::tls::ServedCertificates;
use crate::plugin::lane::handover::Succession;
use crate::protocol::buffered;
use crate::routing::resource::{Resource, ServiceState};
use crate::routing::resources::Resources;

impl Supervisor {
    pub(super) async fn configuration_changed(&mut self) -> CommandResult {
        (self.on_reload)(&self.hub, ReloadPhase::Begun);
        let stamp = FileStamp::of(&self.hub.config.load().path);
        let outcome = self.read_configuration().await;
        let refused = outcome.as_ref().err().map(|text| (stamp, text.clone()));
        match &refused {
            Some(_) if self.refused_configuration == refused => {
                info!("configuration not applied, for the same reason as before");
            }
            Some((_, text)) => not_applied(text),
            None => {}
        }
        self.refused_configuration = refused;
        self.publish_file_state(&outcome);
        let outcome = outcome.map(|needs_restart| applied(needs_restart.as_deref()));
        let status = match &outcome {
            Ok(done) => done,
            Err(_) => "serving; the configuration was not applied, see the log",
        };
        (self.on_reload)(&self.hub, ReloadPhase::Finished(status));
        outcome
    }

    /// Publishes whether the file on disk is in effect, and logs that it is again.
    fn publish_file_state(&self, outcome: &Result<Option<Vec<&'static str>>, String>) {
        let before = self.hub.config_file.load_full();
        let state = match outcome {
            Ok(needs_restart) => {
                if before.refused.is_some() {
                    let refused_for = before.since.elapsed().unwrap_or_default();
                    info!(?refused_for, "configuration file corrected; it is in effect");
                }
                FileState::applied(needs_restart.clone().unwrap_or_default())
            }
            Err(reason) => {
                let since = before.refused.as_ref().map_or_else(SystemTime::now, |_| before.since);
                let needs_restart = before.needs_restart.clone();
                FileState { since, refused: Some(reason.clone()), needs_restart }
            }
        };
        self.hub.config_file.store(Arc::new(state));
    }

    /// Reads and applies the file; returns the changed keys that need a restart, or `None` if nothing
    /// has changed.
    async fn read_configuration(&mut self) -> Result<Option<Vec<&'static str>>, String> {
        let old = self.hub.config.load_full();
        let running = old.clone();
        let mut new = read(move || running.read_again()).await?;
        old.must_not_end(&new)?;
        let diff = old.diff(&new);
        if !diff.restart.is_empty() {
            warn!(
                keys = diff.restart.join(", "),
                "changed keys of [server] need a restart; other changes are applied"
            );
            old.keep_until_restart(&mut new);
        }
        let certificates = {
            let (config, former) = (new.clone(), self.hub.tls.load_full());
            read(move || ServedCertificates::load(&config, former.as_deref())).await?
        };
        if diff.is_empty() {
            debug!("configuration unchanged");
            return Ok(None);
        }
        let guards = self.new_guards(&new).await?;
        let candidates = self.prepare(&old, &new).await?;
        self.hub.guards.store(Arc::new(guards));
        self.apply(&old, new, candidates).await;
        if diff.server.iter().any(|key| key.starts_with("tls.")) {
            certificates.iter().for_each(ServedCertificates::log_status);
            self.hub.tls.store(certificates.map(Arc::new));
        }
        let config = self.hub.config.load_full();
        // The present library may pass the changed checks.
        for name in diff.plugins.iter().filter(|name| config.maps(name)) {
            if !self.is_disabled(name) {
                self.update(name, &config).await;
            }
        }
        Ok(Some(diff.restart))
    }

    /// Loads the guards of a new configuration. Former guards that it does not contain are kept
    /// until the rest is applied, so that no resource is open too early.
    async fn new_guards(&self, new: &Config) -> Result<Guards, String> {
        let present = self.hub.guards.load_full();
        let (new, known) = (new.clone(), present.clone());
        let mut guards = read(move || auth::load_guards(&new, &known)).await?;
        for (path, guard) in present.iter() {
            guards.entry(path.clone()).or_insert_with(|| guard.clone());
        }
        Ok(guards)
    }

    /// Removes guards that the applied configuration does not contain.
    async fn drop_guards(&self) {
        let (config, present) = (self.hub.config.load_full(), self.hub.guards.load_full());
        if config.resources.values().all(|settings| settings.auth.is_none()) && present.is_empty() {
            return;
        }
        match read(move || auth::load_guards(&config, &present)).await {
            Ok(guards) => self.hub.guards.store(Arc::new(guards)),
            // A resource kept its former settings, and their key files are gone.
            Err(reason) => error!(reason, "resource keeps its new authentication keys"),
        }
    }

    /// Loads and starts everything that the configuration needs and that does not run yet. Running
    /// instances apply a change that needs no new instance; they revert it if something else fails.
    pub(super) async fn prepare(
        &mut self,
        old: &Config,
        new: &Config,
    ) -> Result<BTreeMap<String, Candidate>, String> {
        let mut changed = Vec::new();
        let prepared = self.prepare_all(old, new, &mut changed).await;
        if prepared.is_err() {
            for resource in changed {
                self.revert_config(&resource, &old.resources[&resource.path]).await;
            }
        }
        prepared
    }

    async fn prepare_all(
        &mut self,
        old: &Config,
        new: &Config,
        adapted: &mut Vec<Arc<Resource>>,
    ) -> Result<BTreeMap<String, Candidate>, String> {
        let diff = old.diff(new);
        let changed = diff.added.iter().chain(&diff.remapped).chain(&diff.reconfigured);
        let running = self.hub.resources.load_full();
        let mut candidates = BTreeMap::new();
        for path in changed {
            let settings = &new.resources[path];
            if self.is_disabled(&settings.plugin) {
                continue;
            }
            let plugin = &settings.plugin;
            let refused = |refusal: Refusal| {
                let reason = refusal.with_place(new);
                let reason = reason.strip_prefix(&format!("{path}: ")).unwrap_or(&reason);
                let former = running.get(path).is_some_and(|resource| is_served(resource));
                let after = if former { "; the running instance keeps serving" } else { "" };
                format!("{path} cannot be served by plugin {plugin}: {reason}{after}")
            };
            let is_update = diff.reconfigured.contains(path);
            if self.active(plugin).is_none() {
                let loaded = self.load_new(plugin, new).await;
                loaded.map_err(refused)?;
                if let Some(refusal) = self.plugin(plugin).unfit.remove(path) {
                    return Err(refused(refusal));
                }
            } else if let Some(generation) = self.active(plugin) {
                let resources = [(path, settings)];
                let library = Library { plugin, path: &generation.path };
                let passed = self.preflight(library, &resources, new, is_update).await;
                passed.map_err(refused)?;
            }
            let Some(generation) = self.active(plugin) else { continue };
            let resource = running.get(path).cloned().unwrap_or_else(|| unserved(path, settings));
            if is_update && self.change_config(&resource, settings).await.map_err(refused)? {
                adapted.push(resource);
                continue;
            }
            let started = match is_update && !is_served(&resource) {
                true => self.start_with_state(&generation, &resource, settings).await,
                false => self.start_instance(&generation, &resource, settings).await,
            };
            let mut candidate = started.map_err(refused)?;
            if is_update {
                candidate.replaces = RetireReason::Reconfigured;
            }
            candidates.insert(path.clone(), candidate);
        }
        Ok(candidates)
    }

    pub(super) async fn apply(
        &mut self,
        old: &Config,
        mut new: Config,
        mut candidates: BTreeMap<String, Candidate>,
    ) {
        let diff = old.diff(&new);
        let running = self.hub.resources.load_full();
        let mut resources = BTreeMap::new();
        for (path, settings) in &mut new.resources {
            let candidate = candidates.remove(path);
            let resource = match (running.get(path), candidate) {
                (Some(resource), None) => {
                    let active = self.active(&settings.plugin);
                    let never_blocks = active.is_some_and(|active| active.facts.never_blocks);
                    let lane = lane_kind(settings, never_blocks);
                    if let Err(error) = self.reshape(resource, settings, lane) {
                        error!(resource = path, %error, "resource keeps its lane");
                        // Keeps the former settings, so that the next reload tries again.
                        settings.lane = old.resources[path].lane;
                    }
                    resource.clone()
                }
                (Some(resource), Some(candidate)) => {
                    let former = &old.resources[path];
                    let succession = match former.plugin == settings.plugin {
                        true => Succession::Update,
                        false => Succession::Replacement,
                    };
                    let taken = self.take_over(resource, settings, candidate, succession).await;
                    if let Err(error) = taken {
                        let error = chain(&error);
                        error!(resource = path, error, "resource keeps its former configuration");
                        *settings = former.clone();
                    }
                    resource.clone()
                }
                (None, None) => unserved(path, settings),
                (None, Some(candidate)) => {
                    let resource = candidate.resource.clone();
                    if let Err(error) = self.serve_first(&resource, settings, candidate) {
                        self.not_served(path, &error, InitialState::Written);
                    }
                    resource
                }
            };
            resources.insert(path.clone(), resource);
        }
        // In this order, so that every resource that can be found has settings.
        let new = Arc::new(new);
        self.hub.config.store(new.clone());
        buffered::set_limit(new.server.limits.flow.max_buffered_bytes);
        self.hub.resources.store(Arc::new(Resources::from(resources)));
        self.drop_guards().await;
        self.keep_disabled(&new).await;
        for path in &diff.removed {
            if let Some(resource) = running.get(path) {
                self.remove(resource).await;
            }
        }
        info!(
            added = ?diff.added, removed = ?diff.removed, remapped = ?diff.remapped,
            reconfigured = ?diff.reconfigured, guarded = ?diff.guarded, plugins = ?diff.plugins, reshaped = ?diff.reshaped, server = ?diff.server,
            "configuration applied"
        );
    }

    /// Closes resources that are mapped to a disabled plugin.
    async fn keep_disabled(&mut self, config: &Config) {
        for (path, ResourceSettings { plugin, .. }) in &config.resources {
            let Some(resource) = self.resource(path) else { continue };
            let is_served = matches!(resource.service().state, ServiceState::Serving(_));
            if is_served && self.is_disabled(plugin) {
                self.switch_off(&resource, plugin).await;
            }
        }
    }
}

/// Returns the line for the operator; `None`: nothing has changed.
fn applied(needs_restart: Option<&[&str]>) -> String {
    match needs_restart {
        None => "configuration unchanged".to_owned(),
        Some([]) => "configuration applied".to_owned(),
        Some(keys) => {
            format!("configuration applied; these keys need a restart: {}", keys.join(", "))
        }
    }
}

/// Reads files off the runtime.
async fn read<T: Send + 'static, E: std::error::Error + Send + 'static>(
    read: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let read = run_blocking(read).await.map_err(|error| chain(&error))?;
    read.map_err(|error| chain(&error))
}

/// Logs one line per mistake.
fn not_applied(text: &str) {
    text.lines().for_each(|line| error!("{line}"));
    error!("{NOT_APPLIED}");
}

const NOT_APPLIED: &str = "configuration not applied; the running configuration stays in effect";
