//! Applies a changed `plugins.toml`: completely or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{debug, error, info, warn};

use super::commands::CommandResult;
use super::deploy::{Candidate, unserved};
use super::restart::InitialState;
use super::{ReloadPhase, Supervisor};
use crate::auth::{self, Guards};
use crate::config::Config;
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::net::tls::ServedCertificates;
use crate::plugin::lane::handover::Succession;
use crate::routing::resource::{Resources, ServiceState};

impl Supervisor {
    pub(super) async fn configuration_changed(&mut self) -> CommandResult {
        (self.on_reload)(ReloadPhase::Begun);
        let outcome = self.read_configuration().await;
        (self.on_reload)(ReloadPhase::Finished(match &outcome {
            Ok(done) => done,
            Err(_) => "serving; the configuration was not applied, see the log",
        }));
        outcome
    }

    async fn read_configuration(&mut self) -> CommandResult {
        let old = self.hub.config.load_full();
        let path = old.path.clone();
        let mut new = read(move || Config::load(path)).await?;
        old.must_not_end(&new).inspect_err(|text| not_applied(text))?;
        let diff = old.diff(&new);
        if !diff.restart.is_empty() {
            warn!(
                keys = diff.restart.join(", "),
                "changed keys of [server] need a restart; other changes are applied"
            );
            old.keep_until_restart(&mut new);
        }
        let certificates = self.certificates(&new).await?;
        if diff.is_empty() {
            debug!("configuration unchanged");
            return Ok("configuration unchanged".to_owned());
        }
        let guards = self.new_guards(&new).await?;
        match self.prepare(&old, &new).await {
            Ok(candidates) => {
                self.hub.guards.store(Arc::new(guards));
                self.apply(&old, new, candidates).await;
                if diff.server.iter().any(|key| key.starts_with("tls.")) {
                    certificates.iter().for_each(ServedCertificates::log_status);
                    self.hub.tls.store(certificates.map(Arc::new));
                }
            }
            Err(line) => {
                error!(
                    reason = line,
                    "configuration not applied; the running configuration stays in effect"
                );
                return Err(line);
            }
        }
        for name in &diff.plugins {
            self.check_library_again(name).await;
        }
        Ok(match diff.restart.as_slice() {
            [] => "configuration applied".to_owned(),
            keys => {
                format!("configuration applied; these keys need a restart: {}", keys.join(", "))
            }
        })
    }

    /// Loads the certificates of a new configuration.
    async fn certificates(&self, new: &Config) -> Result<Option<ServedCertificates>, String> {
        let (config, former) = (new.clone(), self.hub.tls.load_full());
        read(move || ServedCertificates::load(&config, former.as_deref())).await
    }

    /// Builds the guards of a new configuration and reads their key files. Guards of resources that no
    /// longer have one are kept until the rest is applied, so that no resource is open too early.
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
        let guards = run_blocking(move || auth::load_guards(&config, &present)).await;
        // Only if a resource kept its former settings and their key files are gone: the new guard stays.
        let keeps = |error: &dyn std::error::Error| {
            error!(reason = chain(error), "resource keeps its new authentication keys");
        };
        match guards {
            Ok(Ok(guards)) => self.hub.guards.store(Arc::new(guards)),
            Ok(Err(error)) => keeps(&error),
            Err(error) => keeps(&error),
        }
    }

    /// Loads and starts everything that the configuration needs and that does not run yet.
    pub(super) async fn prepare(
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
            if self.is_disabled(&settings.plugin) {
                continue;
            }
            if self.active(&settings.plugin).is_none() {
                self.load_new(&settings.plugin)
                    .await
                    .map_err(|r| self.describe(&settings.plugin, &r))?;
            }
            let Some(generation) = self.active(&settings.plugin) else { continue };
            let resource = running.get(path).cloned().unwrap_or_else(|| unserved(path, settings));
            let candidate = self.start_instance(&generation, &resource, settings).await;
            candidates
                .insert(path.clone(), candidate.map_err(|r| self.describe(&settings.plugin, &r))?);
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
        let mut resources = Resources::new();
        for (path, settings) in &mut new.resources {
            let candidate = candidates.remove(path);
            let resource = match (running.get(path), candidate) {
                (Some(resource), None) => {
                    if let Err(error) = self.reshape(resource, settings) {
                        error!(resource = path, %error, "resource keeps its lane");
                        // Keeps the former settings, so that the next reload tries again.
                        settings.lane = old.resources[path].lane;
                    }
                    resource.clone()
                }
                (Some(resource), Some(candidate)) => {
                    let former = &old.resources[path];
                    let succession = if former.plugin == settings.plugin {
                        Succession::Update
                    } else {
                        Succession::Replacement
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
        self.hub.resources.store(Arc::new(resources));
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
        for settings in config.resources.values() {
            if !self.is_disabled(&settings.plugin) {
                continue;
            }
            for resource in self.resources_of(&settings.plugin, config) {
                if matches!(resource.service().state, ServiceState::Serving(_)) {
                    self.switch_off(&resource, &settings.plugin).await;
                }
            }
        }
    }
}

/// Reads files off the runtime; logs one line per mistake.
async fn read<T: Send + 'static, E: std::error::Error + Send + 'static>(
    read: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let read = match run_blocking(read).await {
        Ok(read) => read.map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    read.inspect_err(|text| not_applied(text))
}

fn not_applied(text: &str) {
    text.lines().for_each(|line| error!("{line}"));
    error!("configuration not applied; the running configuration stays in effect");
}
