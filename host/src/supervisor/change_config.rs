//! Changes the configuration of a running instance, where the application can apply it.

use std::sync::Arc;

use plugsocket_plugin::ConfigChange;
use tokio::sync::oneshot;
use tracing::{error, info};

use super::Supervisor;
use super::load::Refusal;
use super::restart::InitialState;
use crate::config::ResourceSettings;
use crate::plugin::lane::{Configure, Item};
use crate::routing::resource::{Outage, Resource, ServiceState};

impl Supervisor {
    /// Offers a configuration to the running instance; returns whether it applied it. Otherwise the
    /// change needs a new instance.
    ///
    /// # Errors
    /// The application refused the configuration.
    pub(super) async fn change_config(
        &mut self,
        resource: &Arc<Resource>,
        settings: &ResourceSettings,
    ) -> Result<bool, Refusal> {
        let service = resource.service();
        let ServiceState::Serving(inbox) = &service.state else { return Ok(false) };
        let (done, changed) = oneshot::channel();
        let config = settings.config.json.clone();
        let offer = async {
            inbox.send(Item::Configure(Box::new(Configure { config, done }))).await.ok()?;
            changed.await.ok()
        };
        let pause = self.hub.config.load().server.watchdog.restart_pause;
        let outage = Outage::of_stuck(pause);
        match self.until_stuck(resource, inbox, &outage, offer).await {
            Some(Some(Ok(ConfigChange::Applied))) => {
                let (resource, plugin) = (resource.path.as_str(), settings.plugin.as_str());
                info!(resource, plugin, "running instance applied its changed configuration");
                Ok(true)
            }
            Some(Some(Ok(ConfigChange::Restart)) | None) => Ok(false),
            Some(Some(Err(failure))) => {
                let text = failure.into_text();
                Err(Refusal::Configuration { resource: resource.path.clone(), text })
            }
            None => {
                // In case that the rest of the configuration is refused.
                self.schedule_restart(&resource.path, InitialState::Written);
                Ok(false)
            }
        }
    }

    /// Returns an instance to the configuration that stays in effect.
    pub(super) async fn revert_config(
        &mut self,
        resource: &Arc<Resource>,
        former: &ResourceSettings,
    ) {
        if !matches!(self.change_config(resource, former).await, Ok(true)) {
            let (resource, plugin) = (resource.path.as_str(), former.plugin.as_str());
            error!(
                resource,
                plugin,
                "the running instance keeps a configuration that is not in effect; reload the plugin"
            );
        }
    }
}
