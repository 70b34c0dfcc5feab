//! Writes the log lines of plugins into the host's log.

use tracing::{debug, error, info, trace, warn};

/// Logs a line of a plugin at its level: 1 error, 2 warn, 3 info, 4 debug, other trace.
///
/// `place` is the resource of the instance, or the Rust module that logged.
pub(super) fn plugin_line(level: u32, plugin: &str, generation: u64, place: &str, text: &str) {
    match level {
        1 => error!(target: "plugin", plugin, generation, place, "{text}"),
        2 => warn!(target: "plugin", plugin, generation, place, "{text}"),
        3 => info!(target: "plugin", plugin, generation, place, "{text}"),
        4 => debug!(target: "plugin", plugin, generation, place, "{text}"),
        _ => trace!(target: "plugin", plugin, generation, place, "{text}"),
    }
}
