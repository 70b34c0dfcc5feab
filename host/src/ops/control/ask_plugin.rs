//! Commands about one plugin.

use clap::Subcommand;

use super::client::OutputFormat;
use super::protocol::ControlRequest;
use crate::plugin::scaffold::NewPlugin;
use crate::plugin::trial::Trial;
use crate::plugin::validate::Validation;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AskPlugin {
    /// List all plugins: in the folder and running.
    List(OutputFormat),
    /// Load the library again, even if unchanged, and hand the state over.
    Reload {
        /// Name of the plugin, as in plugins.toml.
        name: String,
    },
    /// Replace the library by one that served before, with the state. `plugin list` shows those
    /// kept.
    Rollback {
        /// Name of the plugin, as in plugins.toml.
        name: String,
        /// Generation number; default: the newest that differs from the active generation and was
        /// not itself rolled back. Equal and rolled-back generations are skipped.
        generation: Option<u64>,
        /// Discard the state; connections stay open and the application sees them open again.
        #[arg(long)]
        fresh: bool,
    },
    /// Close the resources of a plugin until it is enabled or the host restarts.
    Disable {
        /// Name of the plugin, as in plugins.toml.
        name: String,
    },
    /// Serve the resources of a disabled plugin again.
    Enable {
        /// Name of the plugin, as in plugins.toml.
        name: String,
    },
    /// Try a library in a child process: open it, start it, restore a state. Needs no running host.
    Check(Trial),
    /// Look for mistakes in a library: named checks, each in a child process. Needs no running host.
    Validate(Validation),
    /// Create the folder of a new plugin, which builds and serves as it is.
    New(NewPlugin),
}

impl AskPlugin {
    /// Returns the request to a running host, for a command that changes one.
    pub(super) fn into_request(self) -> ControlRequest {
        match self {
            Self::List(_) => ControlRequest::Plugins {},
            Self::Reload { name: plugin } => {
                ControlRequest::PluginReload { plugin, changed: false }
            }
            Self::Rollback { name: plugin, generation, fresh } => {
                ControlRequest::PluginRollback { plugin, generation, fresh }
            }
            Self::Disable { name: plugin } => ControlRequest::PluginDisable { plugin },
            Self::Enable { name: plugin } => ControlRequest::PluginEnable { plugin },
            Self::Check(_) | Self::New(_) | Self::Validate(_) => {
                unreachable!("needs no running host")
            }
        }
    }
}
