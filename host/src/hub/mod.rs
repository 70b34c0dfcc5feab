//! The state that all parts of a running host share.
//!
//! Owns what connections, supervisor and operator commands look up. Decides nothing.

pub(crate) mod counters;
pub(crate) mod health;
pub(crate) mod status;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use self::counters::HostCounters;
use self::status::{FileState, PluginStatuses, SnapshotStates};
use crate::auth::Guards;
use crate::config::Config;
use crate::net::accept::Accepting;
use crate::net::connection_limits::ConnectionLimits;
use crate::net::tls::CurrentTls;
use crate::protocol::identity::IdentityIssuer;
use crate::routing::registry::Registry;
use crate::routing::resources::Resources;

/// Shared by connections, supervisor and operator commands.
pub(crate) struct Hub {
    /// The configuration in effect; a connection reads it once, when it opens.
    pub(crate) config: ArcSwap<Config>,
    /// State of the file of the configuration.
    pub(crate) config_file: ArcSwap<FileState>,
    pub(crate) snapshots: SnapshotStates,
    pub(crate) resources: Arc<ArcSwap<Resources>>,
    /// Authentication of the resources that require it.
    pub(crate) guards: ArcSwap<Guards>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) identity_issuer: IdentityIssuer,
    pub(crate) connection_limits: Arc<ConnectionLimits>,
    pub(crate) tls: CurrentTls,
    pub(crate) counters: HostCounters,
    /// Published by the supervisor after each change.
    pub(crate) plugin_statuses: ArcSwap<PluginStatuses>,
    /// Whether the host accepts connections; the accept loops follow it.
    pub(crate) accepting: watch::Sender<Accepting>,
    /// Whether readiness was reported: a resource has been served.
    pub(crate) is_ready: AtomicBool,
    pub(crate) started: Instant,
}

impl Hub {
    /// Returns whether the host accepts no new connections, because it drains or stops.
    pub(crate) fn is_draining(&self) -> bool {
        *self.accepting.borrow() != Accepting::Open
    }
}
