//! Commands of an operator from the control socket; each is answered with one sentence.

use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::RetireReason;
use tracing::info;

use super::Supervisor;
use super::load::{Content, Purpose, Refusal};
use super::restart::InitialState;
use crate::config::Config;
use crate::fs::stamp::FileStamp;
use crate::plugin::lane::handover::Succession;
use crate::plugin::watch;
use crate::routing::resource::{Outage, Resource};

/// A command of an operator.
#[derive(Debug)]
pub(crate) enum OperatorCommand {
    /// Reads `plugins.toml` again.
    Configuration,
    /// Loads the library of a plugin again, even if unchanged; with `changed` only if it is not the
    /// running one.
    Reload {
        plugin: String,
        changed: bool,
    },
    Disable(String),
    Enable(String),
    /// Replaces the library by a kept generation: `generation`, or the previous one.
    RollBack {
        plugin: String,
        generation: Option<u64>,
        succession: Succession,
    },
}

/// What was done, or why the command failed.
pub(crate) type CommandResult = Result<String, String>;

impl Supervisor {
    pub(super) async fn execute(&mut self, command: OperatorCommand) -> CommandResult {
        match command {
            OperatorCommand::Configuration => self.configuration_changed().await,
            OperatorCommand::Reload { plugin, changed } => {
                let wanted = if changed { Content::Other } else { Content::Any };
                self.reload(&plugin, wanted).await
            }
            OperatorCommand::Disable(name) => self.disable(&name).await,
            OperatorCommand::Enable(name) => self.enable(&name).await,
            OperatorCommand::RollBack { plugin, generation, succession } => {
                self.roll_back(&plugin, generation, succession).await
            }
        }
    }

    async fn reload(&mut self, name: &str, wanted: Content) -> CommandResult {
        let config = self.config_of_enabled(name)?;
        let loaded = match self.load(name, wanted, Purpose::Update, &config).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => {
                let number = self.active(name).map_or(0, |active| active.number);
                let resources = paths(&self.resources_of(name, &config));
                return Ok(format!("generation {number} of {name} serves {resources}"));
            }
            Err(refusal) => return Err(self.report(name, &refusal)),
        };
        let done = self.replace(name, loaded, &config, Succession::Update).await?;
        self.record_rollback(name, None);
        Ok(done)
    }

    async fn disable(&mut self, name: &str) -> CommandResult {
        let config = self.config_of(name)?;
        if std::mem::replace(&mut self.plugin(name).status.is_disabled, true) {
            return Err(format!("{name} is already disabled"));
        }
        self.probations.remove(name);
        let resources = self.resources_of(name, &config);
        for resource in &resources {
            self.switch_off(resource, name).await;
        }
        info!(plugin = name, "plugin disabled");
        Ok(format!("{name} is disabled; {} closed", paths(&resources)))
    }

    /// Closes a resource of a disabled plugin.
    pub(super) async fn switch_off(&mut self, resource: &Arc<Resource>, plugin: &str) {
        let text = format!("the application {plugin} is disabled");
        let outage = Outage { text, retry_after: DISABLED_RETRY };
        let reason = outage.close_reason();
        self.close(resource, outage, reason, RetireReason::Disabled).await;
        self.reset_failures(&resource.path);
    }

    async fn enable(&mut self, name: &str) -> CommandResult {
        let config = self.config_of(name)?;
        if !self.is_disabled(name) {
            return Err(format!("{name} is not disabled"));
        }
        let file = watch::library(&config.server.folders.plugin_dir, name);
        let plugin = self.plugin(name);
        // The library may have changed meanwhile.
        if (plugin.status.active.is_none() || plugin.seen != FileStamp::of(&file))
            && let Err(refusal) = self.load_new(name, &config).await
        {
            let line = self.report(name, &refusal);
            if self.active(name).is_none() || !matches!(refusal, Refusal::Missing(_)) {
                return Err(line);
            }
        }
        self.plugin(name).status.is_disabled = false;
        let resources = self.resources_of(name, &config);
        for resource in &resources {
            self.start_afresh(resource, InitialState::Written).await;
        }
        info!(plugin = name, "plugin enabled");
        Ok(format!("{name} is enabled; {} served", paths(&resources)))
    }

    pub(super) fn is_disabled(&self, name: &str) -> bool {
        self.plugins.get(name).is_some_and(|plugin| plugin.status.is_disabled)
    }

    pub(super) fn resources_of(&self, name: &str, config: &Config) -> Vec<Arc<Resource>> {
        let served = self.hub.resources.load();
        let mapped = config.mapped_to(name);
        mapped.filter_map(|(path, _)| served.get(path).cloned()).collect()
    }

    /// Returns the configuration, which maps the plugin to a resource.
    fn config_of(&self, name: &str) -> Result<Arc<Config>, String> {
        let config = self.hub.config.load_full();
        match config.maps(name) {
            true => Ok(config),
            false => Err(format!("no resource of plugins.toml names the plugin {name}")),
        }
    }

    /// Returns the configuration, which maps the plugin to a resource and lets it serve.
    pub(super) fn config_of_enabled(&self, name: &str) -> Result<Arc<Config>, String> {
        let config = self.config_of(name)?;
        match self.is_disabled(name) {
            true => Err(format!("{name} is disabled; enable it")),
            false => Ok(config),
        }
    }
}

/// `retry_after` for clients of a disabled plugin.
const DISABLED_RETRY: Duration = Duration::from_secs(30);

fn paths(resources: &[Arc<Resource>]) -> String {
    let paths: Vec<&str> = resources.iter().map(|resource| resource.path.as_str()).collect();
    paths.join(", ")
}
